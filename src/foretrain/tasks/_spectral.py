"""Tasks declared by a spectrum: `power-law`, `spectrum`, `isotropic`."""

import dataclasses

import numpy as np
from jaxtyping import Float

from foretrain._declaration import flag, integer, number, vector
from foretrain.tasks._base import AbstractSpectralTask
from foretrain.tasks._spectrum import PowerLawSpectrum, Spectrum


@dataclasses.dataclass(frozen=True, eq=False)
class PowerLaw(AbstractSpectralTask):
    r"""A power-law task: $\lambda_k=k^{-\text{capacity}}$, $\lambda_kw_k^{\star2}=k^{-(\text{capacity}\cdot\text{source}+1)}$.

    Args:
        capacity: Decay exponent of the eigenvalues (axis).
        source: Ease of the target (axis).
        modes: Number of modes, or `inf` (axis).
        noise: Variance of the label noise (axis).
        normalize: Divide the target power by the number of modes, the convention of arXiv 2402.01092; losses then are means
            over modes. The default is the plain sum.
        test_eigenvalues: $q_k$, mean squares of the features on test inputs of another distribution, one for each of a finite
            number of modes; see `SpectrumTask`.

    Example:
        >>> from foretrain.tasks import PowerLaw
        >>> PowerLaw(capacity=1.5, source=0.6, modes=1000).spectrum().capacity
        1.5
    """

    kind = "power-law"

    capacity: float | tuple[float, ...] = number(low=0.0, low_open=True)
    source: float | tuple[float, ...] = number(low=0.0, low_open=True)
    modes: float | tuple[float, ...] = integer(low=1, infinite=True, default=np.inf)
    noise: float | tuple[float, ...] = number(low=0.0, default=0.0)
    normalize: bool = flag(default=False)
    test_eigenvalues: Float[np.ndarray, " modes"] | None = vector(low=0.0, default=None)

    def _check(self) -> None:
        infinite = np.any(np.isinf(self.modes))
        if infinite and np.min(self.capacity) <= 1:
            raise self._wrong(
                "capacity",
                f"expected > 1 when modes = inf (the kernel's trace diverges), got {np.min(self.capacity):g}; "
                "choose a finite number of modes",
            )
        if infinite and self.normalize:
            raise self._wrong("normalize", "expected false when modes = inf: a mean over infinitely many modes is 0")
        if self.test_eigenvalues is not None and np.any(np.atleast_1d(self.modes) != len(self.test_eigenvalues)):
            raise self._wrong(
                "test_eigenvalues",
                f"expected {np.max(self.modes):g} entries, one a mode, got {len(self.test_eigenvalues)}",
            )

    def spectrum(self) -> PowerLawSpectrum | Spectrum:
        """The spectrum of a task without axes; explicit arrays if the test inputs have their own."""
        power = 1.0 / self.modes if self.normalize else 1.0  # type: ignore[operator]
        law = PowerLawSpectrum(self.capacity, self.source, self.modes, power)  # type: ignore[arg-type]
        if self.test_eigenvalues is None:
            return law
        return law.to_spectrum().replace(test_eigenvalues=self.test_eigenvalues)


@dataclasses.dataclass(frozen=True, eq=False)
class SpectrumTask(AbstractSpectralTask):
    r"""A task given by explicit arrays.

    Args:
        eigenvalues: $\lambda_k\ge0$ of the kernel operator.
        target_power: $w_k^{\star2}\ge0$, not multiplied by $\lambda_k$.
        multiplicity: Modes per entry; ones by default.
        test_eigenvalues: $q_k\ge0$, mean squares of the features on test inputs that come from another distribution than the
            training inputs (covariate shift): the test loss is $\sum_kq_kv_k^2$ instead of $\sum_k\lambda_kv_k^2$.
        noise: Variance of the label noise (axis).
    """

    kind = "spectrum"

    eigenvalues: Float[np.ndarray, " modes"] = vector(low=0.0)
    target_power: Float[np.ndarray, " modes"] = vector(low=0.0)
    multiplicity: Float[np.ndarray, " modes"] | None = vector(low=0.0, low_open=True, default=None)
    test_eigenvalues: Float[np.ndarray, " modes"] | None = vector(low=0.0, default=None)
    noise: float | tuple[float, ...] = number(low=0.0, default=0.0)

    def _check(self) -> None:
        self.spectrum()

    def spectrum(self) -> Spectrum:
        """The spectrum that the arrays state."""
        return Spectrum(self.eigenvalues, self.target_power, self.multiplicity, self.test_eigenvalues)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True, eq=False)
class Isotropic(AbstractSpectralTask):
    r"""White inputs: one eigenvalue $\lambda=1$ shared by all modes, and total target power 1.

    Args:
        modes: Dimension of the inputs (axis).
        noise: Variance of the label noise (axis).
    """

    kind = "isotropic"

    modes: int | tuple[int, ...] = integer(low=1, default=1)
    noise: float | tuple[float, ...] = number(low=0.0, default=0.0)

    def spectrum(self) -> Spectrum:
        """One group of `modes` modes, each with target power `1 / modes`."""
        return Spectrum([1.0], [1.0 / self.modes], [self.modes])  # type: ignore[arg-type, operator]
