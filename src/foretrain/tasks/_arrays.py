"""A task from the user's own arrays."""

import dataclasses
import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain._declaration import choice, flag, text, vector
from foretrain.errors import InvalidInput, MissingData, nearest
from foretrain.tasks._base import AbstractDataTask
from foretrain.tasks._data import DataSet, Standardization

_NAMES = ("inputs", "targets", "test_inputs", "test_targets", "teacher")


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays(AbstractDataTask):
    """Inputs and targets from memory or from an `.npz` file.

    Args:
        path: An `.npz` file with `inputs`, `targets` and optionally `test_inputs`, `test_targets`; relative to the study
            file. Pickled objects are refused.
        inputs: The same arrays given directly.
        targets: One row per input; one column per output, or a plain list for one output.
        test_inputs: Held-out rows; without them the test rows are those not drawn for training.
        test_targets: Their targets.
        center: Subtract the mean input.
        scale: `"none"` (default), `"sphere"` or `"variance"`, as for `Digits`.
    """

    kind = "arrays"

    path: str | None = text(default=None)
    inputs: Float[np.ndarray, "rows features"] | None = vector(ndim=2, default=None)
    targets: Float[np.ndarray, "rows outputs"] | None = vector(ndim=(1, 2), default=None)
    test_inputs: Float[np.ndarray, "test_rows features"] | None = vector(ndim=2, default=None)
    test_targets: Float[np.ndarray, "test_rows outputs"] | None = vector(ndim=(1, 2), default=None)
    center: bool = flag(default=False)
    scale: str = choice(("none", "sphere", "variance"), axis=False, default="none")

    def _check(self) -> None:
        if (self.path is None) == (self.inputs is None):
            raise self._wrong("path", "expected either a path to an .npz file or inputs and targets")
        if self.path is None and self.targets is None:
            raise self._wrong("targets", "missing; inputs need targets")

    def digest(self) -> str:
        """SHA-256 of the content; a file counts by what it holds, not by its name."""
        if self.path is None:
            return super().digest()
        content = hashlib.sha256(_existing(self.path).read_bytes()).hexdigest()
        return hashlib.sha256(f"{self.kind} {content} {self.center} {self.scale}".encode()).hexdigest()

    def load(self) -> DataSet:
        """The standardized arrays.

        Raises:
            MissingData: No such file.
            InvalidInput: Not an `.npz` file, missing arrays, NaN, or rows that do not match.
        """
        given: dict[str, Any] = {name: getattr(self, name, None) for name in _NAMES}
        if self.path is not None:
            given |= _read(_existing(self.path))
        raw = DataSet("arrays", given["inputs"], given["targets"], given["test_inputs"], given["test_targets"])
        standardization = Standardization.fit(raw.inputs, center=self.center, scale=self.scale)
        return DataSet(
            Path(self.path).stem if self.path else "arrays",
            standardization.apply(raw.inputs),
            raw.targets,
            None if raw.test_inputs is None else standardization.apply(raw.test_inputs),
            raw.test_targets,
            standardization,
            f"{len(raw)} rows of {self.path or 'arrays in memory'}",
        )


def _existing(path: str) -> Path:
    place = Path(path).expanduser()
    if not place.is_file():
        raise MissingData(f"arrays: no file {place}; give `path` relative to the study file, or absolute.")
    return place


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        opened = np.load(path, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise InvalidInput(f"arrays: {path}: expected an .npz archive, got a single array; save it with np.savez.")
        with opened as archive:
            names = list(archive.files)
            for name in ("inputs", "targets"):
                if name not in names:
                    raise InvalidInput(
                        f"arrays: {path}: expected an array named {name!r}, got {', '.join(names) or 'none'}{nearest(name, names)}."
                    )
            return {name: archive[name] for name in _NAMES if name in names}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"arrays: {path}: expected an .npz file of plain numeric arrays, got: {error}.") from None
