"""`Circle`: functions on the circle with a power-law Fourier spectrum, for nonlinear networks whose kernels are known there."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from foretrain._declaration import choice, flag, integer, number
from foretrain.tasks._base import AbstractDataTask
from foretrain.tasks._data import DataSet


@dataclasses.dataclass(frozen=True, eq=False)
class Circle(AbstractDataTask):
    r"""A target on the circle whose Fourier coefficients fall as $k^{-\text{exponent}}$, with random phases.

    $$y(\theta)\propto\sum_kk^{-q}\cos(k\theta+\varphi_k),\qquad x=\sqrt2\,(\cos\theta,\sin\theta),$$

    scaled so that the mean of $y^2$ is 1. The eigenfunctions of every kernel that depends on the angle alone are the
    Fourier modes. The tangent kernel of a network with $\varphi(h)=\max(h,0)^p$ has eigenvalues $\sim k^{-2p}$, so the task
    has capacity $2p$ and source $(2q-1)/2p$ there: hard, in the sense of arXiv 2409.17858, for $q<p+\frac12$.

    Training points are evenly spaced, so that full batches are gradient descent on the population for networks that do
    not resolve the spacing. Test points are evenly spaced too, half a step off, in random order.

    Args:
        exponent: $q>\frac12$, decay of the Fourier coefficients.
        points: Training points $P$.
        modes: Highest frequency of the target; by default the highest that the points resolve, $(P-1)/2$ rounded down.
        frequencies: `"all"`, `"even"` or `"odd"` ones. The kernel of a ReLU network without biases and without `constant` has no
            odd modes from 3 on, so that all or odd ones leave a floor.
        constant: Append the coordinate 1 to every input, which does what biases do.
        test_points: Number of test points; as many as training points by default.
        seed: Of the phases.

    Raises:
        InvalidInput: More modes than the points resolve, or no frequency of that parity among them.

    Example:
        >>> from foretrain.tasks import Circle
        >>> data = Circle(exponent=1.0, points=256).load()
        >>> data.inputs.shape, round(float((data.targets**2).mean()), 12)
        ((256, 2), 1.0)
    """

    kind = "circle"

    exponent: float = number(low=0.5, low_open=True, axis=False)
    points: int = integer(low=3, axis=False, default=1024)
    modes: int | None = integer(low=1, axis=False, default=None)
    frequencies: str = choice(("all", "even", "odd"), axis=False, default="all")
    constant: bool = flag(default=False)
    test_points: int | None = integer(low=1, axis=False, default=None)
    seed: int = integer(low=0, axis=False, default=0)

    def _check(self) -> None:
        resolved = (self.points - 1) // 2
        if self.modes is not None and self.modes > resolved:
            raise self._wrong(
                "modes", f"expected at most {resolved}, as many as {self.points} points resolve, got {self.modes}"
            )
        if not len(self._frequencies()):
            raise self._wrong("frequencies", f"no frequency up to {self.modes or resolved} is even; give more modes")

    def _frequencies(self) -> Float[np.ndarray, " modes"]:
        first = 2 if self.frequencies == "even" else 1
        highest = (self.points - 1) // 2 if self.modes is None else self.modes
        return np.arange(first, highest + 1, 1 if self.frequencies == "all" else 2, dtype=np.float64)

    def power(self) -> tuple[Float[np.ndarray, " modes"], Float[np.ndarray, " modes"]]:
        """Frequencies of the target and its power in each, which sums to 1."""
        k = self._frequencies()
        power = k ** (-2 * self.exponent)
        return k, power / power.sum()

    def load(self) -> DataSet:
        """Points and values of the target."""
        k, power = self.power()
        spectrum = np.sqrt(0.5 * power) * np.exp(2j * math.pi * np.random.default_rng(self.seed).random(len(k)))
        test = self.test_points or self.points
        order = np.random.default_rng([self.seed, 1]).permutation(test)
        angles = 2 * math.pi * np.arange(self.points) / self.points
        test_angles = 2 * math.pi * (np.arange(test)[order] + 0.5) / test
        return DataSet(
            "circle",
            self._inputs(angles),
            _series(angles, k, spectrum),
            self._inputs(test_angles),
            _series(test_angles, k, spectrum),
            source=f"{self.points} points of the circle, Fourier coefficients k^-{self.exponent:g} up to frequency {k[-1]:g}",
        )

    def _inputs(self, angles: Float[np.ndarray, " rows"]) -> Float[np.ndarray, "rows features"]:
        columns = [math.sqrt(2) * np.cos(angles), math.sqrt(2) * np.sin(angles)]
        return np.stack([*columns, np.ones_like(angles)] if self.constant else columns, axis=1)


def _series(
    angles: Float[np.ndarray, " rows"], k: Float[np.ndarray, " modes"], spectrum: np.ndarray
) -> Float[np.ndarray, " rows"]:
    """The real function with these coefficients at positive frequencies, a few rows at a time."""
    found = np.empty_like(angles)
    block = max(1, 2**22 // len(k))
    for start in range(0, len(angles), block):
        some = slice(start, start + block)
        found[some] = 2 * np.real(np.exp(1j * np.outer(angles[some], k)) @ spectrum)
    return found
