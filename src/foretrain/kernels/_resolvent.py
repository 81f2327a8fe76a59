r"""What a sample says about the population: resolvent moments of a Gram matrix, and residuals on points left out.

For $M$ points with Gram matrix $\hat G=K/M$, kernel ridge regression at ridge $z$ behaves, for large $M$, as if the
population's eigenvalues were cut softly at $\kappa$ (`docs/theory/measuring-spectra.md`, (MS.13) to (MS.16)):

$$\frac1{\kappa(z)}=\frac1M\mathrm{tr}(\hat G+z)^{-1},\qquad
D(\kappa)\equiv\sum_k\frac{\lambda_k}{\lambda_k+\kappa}=\mathrm{tr}\,\hat G(\hat G+z)^{-1},$$
$$T(\kappa)\equiv\sum_k\frac{\kappa c_k^2}{\lambda_k+\kappa}+\sigma^2=\langle y\,r\rangle,\qquad
F(\kappa)\equiv\sum_k\frac{\kappa^2c_k^2}{(\lambda_k+\kappa)^2}+\sigma^2=\frac{dz}{d\kappa}\langle r^2\rangle$$

where $r=y-f_z$ is the residual of a prediction on points that it was not fitted to. $T$ is a cross product of the target
on new points with the explanation that other points gave; $F$ is a test error without its variance part.
"""

from typing import NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Float

from foretrain.errors import InvalidInput


class Moments(NamedTuple):
    """The three population functions at the cut-offs `kappa`, measured on one sample."""

    modes: Float[np.ndarray, " cutoffs"]  # D
    cross: Float[np.ndarray, " cutoffs"]  # T
    error: Float[np.ndarray, " cutoffs"]  # F


class Sample:
    """An eigendecomposed Gram matrix with its targets, and other rows to test on.

    Args:
        gram: K(x_i, x_j), not divided by M; overwritten.
        targets: One column an output.
    """

    # Eigenvalues below this part of the largest are a null space.
    rounding = 1e-12

    def __init__(self, gram: Float[np.ndarray, "rows rows"], targets: Float[np.ndarray, "rows outputs"]):
        self.rows = len(gram)
        self.weights: Float[np.ndarray, " modes"] = np.ones(self.rows)  # modes that each eigenvalue stands for
        gram /= self.rows
        values, vectors = scipy.linalg.eigh(gram, overwrite_a=True, check_finite=False, driver="evd")
        self.eigenvalues: Float[np.ndarray, " modes"] = values[::-1].copy()
        self.vectors: Float[np.ndarray, "rows modes"] = vectors[:, ::-1]
        self.targets = targets
        self.coefficients = self.vectors.T @ targets
        largest, smallest = self.eigenvalues[0], self.eigenvalues[-1]
        if not largest > 0.0 or smallest < -1e-8 * largest:
            raise InvalidInput(
                "measure_spectrum(kernel): expected a positive semi-definite kernel, got a Gram matrix with eigenvalues from "
                f"{smallest:.3g} to {largest:.3g} (divided by the number of points); a kernel must not have negative ones."
            )
        # Rounding leaves the null space at +-1e-16; zero is what it stands for.
        self.eigenvalues[self.eigenvalues < 1e-14 * largest] = 0.0

    def ridge_of(self, kappa: Float[np.ndarray, " cutoffs"]) -> Float[np.ndarray, " cutoffs"]:
        r"""The ridge z at which the effective cut-off is kappa, by bisection on the monotone $\kappa(z)$; 0 below its range."""
        low, high = np.zeros_like(kappa), kappa.copy()  # 0 <= z <= kappa(z)
        for _ in range(100):
            middle = 0.5 * (low + high)
            above = self._kappa(middle) > kappa
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        return 0.5 * (low + high)

    def _kappa(self, ridge: Float[np.ndarray, " cutoffs"]) -> Float[np.ndarray, " cutoffs"]:
        shifted = self.eigenvalues + np.maximum(ridge, 1e-300)[:, None]
        return self.rows / np.sum(self.weights / shifted, axis=1)

    def cutoff_at(self, modes: float) -> float:
        """The cut-off at which D reaches `modes`."""
        return float(self._kappa(np.exp(np.array([self.log_ridge_at(modes)])))[0])

    def log_ridge_at(self, modes: float) -> float:
        """The logarithm of the ridge at which D reaches `modes`, by bisection."""
        low, high = np.log(1e-14 * self.eigenvalues[0]), np.log(1e3 * self.eigenvalues[0])
        for _ in range(60):
            middle = 0.5 * (low + high)
            ridge = np.exp(middle)
            fitted = np.sum(self.weights * self.eigenvalues / (self.eigenvalues + ridge))
            low, high = (middle, high) if fitted > modes else (low, middle)
        return 0.5 * (low + high)

    def eigenfunction_map(self, count: int) -> Float[np.ndarray, "rows modes"]:
        """K(others, rows) times this are the first Nyström eigenfunctions on other rows; zero for null modes."""
        values = self.eigenvalues[:count]
        return self.vectors[:, :count] / (np.sqrt(self.rows) * np.where(values > 0.0, values, np.inf))

    def population_eigenvalues(self, count: int) -> Float[np.ndarray, " modes"]:
        r"""The first eigenvalues without the upward push that a finite sample gives them.

        $\hat\lambda_k\approx\lambda_k\big(1+\frac1M\sum_{j\ne k}\frac{\lambda_j}{\lambda_k-\lambda_j}\big)$; terms of near neighbours,
        whose differences are noise, are damped.
        """
        values = self.eigenvalues
        head = values[:count, None]
        difference = head - values[None, :]
        damping = 0.25 * head
        push = np.sum(self.weights * values * difference / (difference**2 + damping**2), axis=1) / self.rows
        return values[:count] / (1.0 + push)

    def inverse_diagonal(self, inverse: Float[np.ndarray, "cutoffs modes"]) -> Float[np.ndarray, "rows cutoffs"]:
        """The diagonal of (G + z)^-1, from 1 / (eigenvalue + z): leave-one-out divides by it."""
        return (self.vectors**2) @ inverse.T


class Residuals:
    """Sums over test points of cross products and squares of residuals, at a set of cut-offs.

    Starts with every row of the sample, each left out of its own prediction; `add` takes other rows.

    Args:
        sample: The fitted rows.
        kappa: Cut-offs.
    """

    def __init__(self, sample: Sample, kappa: Float[np.ndarray, " cutoffs"]):
        inverse = 1.0 / (sample.eigenvalues + np.maximum(sample.ridge_of(kappa), 1e-300)[:, None])
        self._modes = np.sum(sample.weights * sample.eigenvalues * inverse, axis=1)
        # dz/dkappa, from 1/kappa = tr(G + z)^-1 / M.
        self._slope = sample.rows / (kappa**2 * np.sum(sample.weights * inverse**2, axis=1))
        weighted = (inverse.T[:, :, None] * sample.coefficients[:, None, :]).reshape(len(sample.coefficients), -1)
        self.dual = sample.vectors @ weighted / sample.rows
        # Leave-one-out residuals: [(G+z)^-1 y]_i / [(G+z)^-1]_ii.
        solved = sample.rows * self.dual.reshape(sample.rows, len(kappa), -1)
        residual = solved / sample.inverse_diagonal(inverse)[:, :, None]
        self._count, self._cross, self._square = 0, np.zeros(len(kappa)), np.zeros(len(kappa))
        self._take(sample.targets, residual)

    def add(self, block: Float[np.ndarray, "others rows"], targets: Float[np.ndarray, "others outputs"]) -> None:
        """Test on other rows, given K(others, rows)."""
        if len(targets):
            predicted = (block @ self.dual).reshape(len(targets), len(self._cross), -1)
            self._take(targets, targets[:, None, :] - predicted)

    def tested(
        self, block: Float[np.ndarray, "others rows"], targets: Float[np.ndarray, "others outputs"]
    ) -> tuple[Float[np.ndarray, " cutoffs"], Float[np.ndarray, " cutoffs"]]:
        """Sums that other rows, given K(others, rows), contribute to T and to F; they are not taken."""
        predicted = (block @ self.dual).reshape(len(targets), len(self._cross), -1)
        return self._sums(targets, targets[:, None, :] - predicted)

    def replace(
        self,
        old: tuple[Float[np.ndarray, " cutoffs"], Float[np.ndarray, " cutoffs"]],
        new: tuple[Float[np.ndarray, " cutoffs"], Float[np.ndarray, " cutoffs"]],
    ) -> None:
        """Exchange contributions to T and to F of rows that were taken."""
        self._cross += new[0] - old[0]
        self._square += (new[1] - old[1]) / self._slope

    def _sums(self, targets: np.ndarray, residual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (
            np.einsum("io,ico->c", targets, residual),
            self._slope * np.einsum("ico,ico->c", residual, residual),
        )

    def _take(self, targets: np.ndarray, residual: np.ndarray) -> None:
        self._cross += np.einsum("io,ico->c", targets, residual)
        self._square += np.einsum("ico,ico->c", residual, residual)
        self._count += len(targets)

    def moments(self) -> Moments:
        """D, T and F from everything that was taken so far."""
        return Moments(self._modes, self._cross / self._count, self._slope * self._square / self._count)
