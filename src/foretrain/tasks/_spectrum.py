"""`Spectrum`: what is learned, as a linear model sees it."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from foretrain._declaration import Declaration, number, vector
from foretrain.errors import InvalidInput


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum(Declaration):
    r"""Eigenvalues of a kernel operator and the target's power in each eigenmode.

    The target is $y(x)=\sum_k w^\star_k\sqrt{\lambda_k}\,\phi_k(x)$ with orthonormal $\phi_k$ (`docs/theory/random-features.md`,
    (RF.1)); the loss before training is $\sum_k m_k\lambda_k w_k^{\star2}$.

    Args:
        eigenvalues: $\lambda_k\ge0$ of the kernel *operator* (those of a Gram matrix on $M$ points divided by $M$). Any order.
        target_power: $w_k^{\star2}\ge0$ of each mode, *not* multiplied by $\lambda_k$.
        multiplicity: How many modes share the pair $(\lambda_k, w_k^{\star2})$; ones by default, any positive real number.
        test_eigenvalues: $q_k\ge0$, the mean square of feature $k$ on test inputs that come from another distribution than
            the training inputs; left out, they come from the same and $q_k=\lambda_k$. The test loss is $\sum_km_kq_kv_k^2$.

    Raises:
        InvalidInput: Negative or non-finite entries, or arrays of different lengths.

    Example:
        >>> from foretrain.tasks import Spectrum
        >>> Spectrum([1.0, 0.5], [1.0, 2.0]).total_power
        2.0
    """

    kind = "spectrum"

    eigenvalues: Float[np.ndarray, " modes"] = vector(low=0.0)
    target_power: Float[np.ndarray, " modes"] = vector(low=0.0)
    multiplicity: Float[np.ndarray, " modes"] = vector(low=0.0, low_open=True, default=None)
    test_eigenvalues: Float[np.ndarray, " modes"] | None = vector(low=0.0, default=None)

    def _check(self) -> None:
        modes = len(self.eigenvalues)
        if self.multiplicity is None:
            ones = np.ones(modes)
            ones.flags.writeable = False
            object.__setattr__(self, "multiplicity", ones)
        for name in ("target_power", "multiplicity", "test_eigenvalues"):
            values = getattr(self, name)
            if values is not None and len(values) != modes:
                raise self._wrong(name, f"expected {modes} entries like eigenvalues, got {len(values)}")
        if not np.any(self.eigenvalues > 0):
            raise self._wrong("eigenvalues", "expected at least one positive eigenvalue, got only zeros")

    @property
    def modes(self) -> float:
        """Number of modes, counted with multiplicity."""
        return float(np.sum(self.multiplicity))

    @property
    def trace(self) -> float:
        r"""$\sum_k m_k\lambda_k$, the mean of $K(x,x)$."""
        return float(np.sum(self.multiplicity * self.eigenvalues))

    @property
    def total_power(self) -> float:
        r"""$\sum_k m_k\lambda_kw_k^{\star2}$, the loss before training on inputs from the training distribution."""
        return float(np.sum(self.multiplicity * self.eigenvalues * self.target_power))


@dataclasses.dataclass(frozen=True, eq=False)
class PowerLawSpectrum(Declaration):
    r"""The exact power law $\lambda_k=k^{-\text{capacity}}$, $\lambda_kw_k^{\star2}=k^{-(\text{capacity}\cdot\text{source}+1)}$, $k=1..\text{modes}$.

    No normalization; `modes = inf` is the full sum. See `docs/theory/random-features.md`, (RF.2). In the letters of
    arXiv 2402.01092, $b$ is `capacity` and $a$ is `capacity * source + 1`.

    Args:
        capacity: Decay exponent of the eigenvalues, > 0 (> 1 for `modes = inf`, where the trace must be finite).
        source: How easy the target is; $\lambda_kw_k^{\star2}$ sums to a finite number for every `source` > 0.
        modes: Number of modes or `inf`.
        power: Factor on $w_k^{\star2}$; `1 / modes` gives the convention of losses divided by the number of modes.
    """

    kind = "power-law-spectrum"

    capacity: float = number(low=0.0, low_open=True, axis=False)
    source: float = number(low=0.0, low_open=True, axis=False)
    modes: float = number(low=1, infinite=True, axis=False, default=math.inf)
    power: float = number(low=0.0, axis=False, default=1.0)

    def _check(self) -> None:
        if math.isinf(self.modes) and self.capacity <= 1:
            raise self._wrong(
                "capacity", f"expected > 1 when modes = inf (the kernel's trace diverges), got {self.capacity:g}"
            )
        if not math.isinf(self.modes) and self.modes != int(self.modes):
            raise self._wrong("modes", f"expected a whole number or inf, got {self.modes:g}")

    def to_spectrum(self, *, limit: int = 20_000_000) -> Spectrum:
        """The explicit arrays, for a finite number of modes.

        Args:
            limit: Largest number of modes that is written out.

        Raises:
            InvalidInput: More modes than `limit`; use the power law itself, which every limit accepts.
        """
        if self.modes > limit:
            raise InvalidInput(
                f"PowerLawSpectrum.to_spectrum: {self.modes:g} modes exceed limit = {limit}; pass the power law itself to "
                "the solver, or choose a finite `modes`."
            )
        k = np.arange(1, int(self.modes) + 1, dtype=np.float64)
        eigenvalues = k**-self.capacity
        return Spectrum(eigenvalues, self.power * k ** -(self.capacity * self.source + 1) / eigenvalues)
