"""`DataSet`: inputs and targets in memory, and the reversible standardization of inputs."""

import dataclasses

import numpy as np
from jaxtyping import Float

from foretrain.errors import InvalidInput


@dataclasses.dataclass(frozen=True, eq=False)
class Standardization:
    r"""What was done to the inputs, and how to undo it.

    `apply` computes $x\mapsto\sqrt D\,(x-m)/\|x-m\|$ for `scale = "sphere"`, $(x-m)/s$ for `"variance"` (one number $s$, so
    that the mean of $\|x\|^2/D$ over the fitted set is 1), and $x-m$ for `"none"`; $m$ is the mean of the fitted set when
    `center`, else 0.

    Args:
        mean: $m$.
        deviation: $s$ (1 unless `scale` is `"variance"`).
        scale: `"sphere"`, `"variance"` or `"none"`.
    """

    mean: Float[np.ndarray, " features"]
    deviation: float
    scale: str

    @classmethod
    def fit(cls, inputs: Float[np.ndarray, "rows features"], *, center: bool, scale: str) -> "Standardization":
        """The standardization that `inputs` ask for."""
        mean = inputs.mean(axis=0) if center else np.zeros(inputs.shape[1])
        deviation = float(np.sqrt(np.mean((inputs - mean) ** 2))) if scale == "variance" else 1.0
        if deviation == 0:
            raise InvalidInput("Standardization.fit(inputs): expected inputs that vary, got equal rows only.")
        return cls(mean, deviation, scale)

    def apply(self, inputs: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "rows features"]:
        """Standardized inputs.

        Raises:
            InvalidInput: `scale` is `"sphere"` and a row equals the mean, so that it has no direction.
        """
        centred = (inputs - self.mean) / self.deviation
        if self.scale != "sphere":
            return centred
        norms = self.norms(inputs)
        if np.any(norms == 0):
            raise InvalidInput(
                f"Standardization.apply(inputs): row {int(np.argmin(norms))} equals the mean and cannot be put on the "
                'sphere; remove it or use scale = "variance".'
            )
        return centred * (np.sqrt(inputs.shape[1]) / norms[:, None])

    def norms(self, inputs: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, " rows"]:
        """The norms of the centred rows, which `"sphere"` takes away and `invert` needs to put them back."""
        return np.linalg.norm((inputs - self.mean) / self.deviation, axis=1)

    def invert(
        self, standardized: Float[np.ndarray, "rows features"], norms: Float[np.ndarray, " rows"] | None = None
    ) -> Float[np.ndarray, "rows features"]:
        """The original inputs.

        Args:
            standardized: What `apply` returned.
            norms: What `norms` returned for the original inputs; needed for `scale = "sphere"` only.

        Raises:
            InvalidInput: `scale` is `"sphere"` and `norms` is missing.
        """
        centred = standardized
        if self.scale == "sphere":
            if norms is None:
                raise InvalidInput('Standardization.invert: scale = "sphere" needs the norms of the original rows.')
            centred = standardized * (norms[:, None] / np.sqrt(standardized.shape[1]))
        return centred * self.deviation + self.mean


@dataclasses.dataclass(frozen=True, eq=False)
class DataSet:
    """Standardized inputs and targets.

    Args:
        name: What the set is called in tables and figures.
        inputs: The pool that training rows are drawn from.
        targets: One column per output; losses are summed over outputs.
        test_inputs: Held-out rows, or `None` when the test rows are those of the pool that were not drawn for training.
        test_targets: Their targets.
        standardization: What was done to the inputs, or `None`.
        source: One sentence on where the rows come from and what was done to them.
    """

    name: str
    inputs: Float[np.ndarray, "rows features"]
    targets: Float[np.ndarray, "rows outputs"]
    test_inputs: Float[np.ndarray, "test_rows features"] | None = None
    test_targets: Float[np.ndarray, "test_rows outputs"] | None = None
    standardization: Standardization | None = None
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("inputs", "targets", "test_inputs", "test_targets"):
            array = getattr(self, name)
            if array is not None:
                object.__setattr__(self, name, _checked(name, array))
        if len(self.inputs) != len(self.targets):
            raise InvalidInput(
                f"DataSet(targets): expected {len(self.inputs)} rows like inputs, got {len(self.targets)}."
            )
        if (self.test_inputs is None) != (self.test_targets is None):
            raise InvalidInput("DataSet: expected test_inputs and test_targets together, got only one of them.")
        if self.test_inputs is not None and self.test_targets is not None:
            if len(self.test_inputs) != len(self.test_targets):
                raise InvalidInput(
                    f"DataSet(test_targets): expected {len(self.test_inputs)} rows like test_inputs, "
                    f"got {len(self.test_targets)}."
                )
            for name in ("inputs", "targets"):
                ours, theirs = getattr(self, name).shape[1], getattr(self, f"test_{name}").shape[1]
                if ours != theirs:
                    raise InvalidInput(f"DataSet(test_{name}): expected {ours} columns like {name}, got {theirs}.")

    def __len__(self) -> int:
        return len(self.inputs)


def _checked(name: str, array: np.ndarray) -> np.ndarray:
    try:
        result = np.array(array, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidInput(
            f"DataSet({name}): expected an array of numbers, got dtype {np.asarray(array).dtype}."
        ) from None
    if result.ndim == 1 and name.endswith("targets"):
        result = result[:, None]
    if result.ndim != 2 or result.size == 0:
        raise InvalidInput(f"DataSet({name}): expected a non-empty array of (rows, columns), got shape {result.shape}.")
    if not np.all(np.isfinite(result)):
        row = int(np.argwhere(~np.isfinite(result))[0, 0])
        raise InvalidInput(
            f"DataSet({name}): expected finite numbers, got {result[row][~np.isfinite(result[row])][0]} in row {row}."
        )
    result.flags.writeable = False
    return result
