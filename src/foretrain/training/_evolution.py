r"""Exact training of a linear readout, and its losses, from one eigendecomposition.

A student with features $\varphi(x)\in\mathbb R^F$ predicts $f(x)=\varphi(x)\cdot W$ and starts at $W=0$. On $P$ samples with
feature matrix $\Phi$ and targets $Y$, every protocol gives $W_t=\tfrac1P\Phi^\top g_t(\tfrac1P\Phi\Phi^\top)Y$ with the filter
$g_t$ of `spectral_filters`, so one decomposition of the smaller of $\tfrac1P\Phi^\top\Phi$ and $\tfrac1P\Phi\Phi^\top$ serves
all protocols, rates and times. The test loss is a quadratic form in $W_t$ with the population's moments.

Targets have two trailing axes, `outputs` (losses are summed over them) and `parts`: part 0 is the clean target, part 1,
if there, unit label noise. A loss at noise variance $\sigma^2$ is $q_{00}+2\sigma q_{01}+\sigma^2q_{11}$.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from foretrain.problems import AbstractProtocol
from foretrain.training._filters import Times, diverged, spectral_filters

TIME_CHUNK = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    r"""What the test loss needs of the population: means over test points.

    Args:
        second: $\langle\varphi\varphi^\top\rangle$; its diagonal alone where it is diagonal.
        cross: $\langle\varphi\,y\rangle$ with the clean target.
        power: $\langle y^2\rangle$, summed over outputs.
    """

    second: Float[np.ndarray, "features features"] | Float[np.ndarray, " features"]
    cross: Float[np.ndarray, "features outputs"]
    power: float


@dataclasses.dataclass(frozen=True, eq=False)
class Decomposition:
    r"""Eigendecomposition of a student's tangent matrix $\tfrac1P\Phi\Phi^\top$ (or of its smaller twin).

    Args:
        eigenvalues: $u$; those below rounding, `n * eps * max(u)`, are set to 0 and take no part in training.
        basis: Eigenvectors, columns; `None` where they are the unit vectors.
        projections: $V^\top\Phi^\top Y/P$ in feature space, $U^\top Y$ in sample space.
        lift: $\Phi^\top/P$ where the decomposition is in sample space and there are features; `None` in feature space,
            and for kernels, whose coefficients live in sample space.
        features: $\Phi$ where the decomposition is in feature space and the train loss is wanted.
        targets: $Y$, or `None` when training is on the population.
    """

    eigenvalues: Float[np.ndarray, " eigenvalues"]
    basis: Float[np.ndarray, "eigenvalues eigenvalues"] | None
    projections: Float[np.ndarray, "eigenvalues outputs parts"]
    lift: Float[np.ndarray, "features samples"] | None = None
    features: Float[np.ndarray, "samples features"] | None = None
    targets: Float[np.ndarray, "samples outputs parts"] | None = None

    @classmethod
    def of_features(
        cls, features: Float[np.ndarray, "samples features"], targets: Float[np.ndarray, "samples outputs parts"]
    ) -> "Decomposition":
        """The decomposition for a feature matrix, in the smaller of feature space and sample space."""
        samples, width = features.shape
        if samples < width:
            values, basis = _eigh(features @ features.T / samples)
            return cls(values, basis, _apply(basis.T, targets), lift=features.T / samples, targets=targets)
        values, basis = _eigh(features.T @ features / samples)
        projections = _apply(basis.T, _apply(features.T / samples, targets))
        return cls(values, basis, projections, features=features, targets=targets)

    @classmethod
    def of_gram(
        cls, gram: Float[np.ndarray, "samples samples"], targets: Float[np.ndarray, "samples outputs parts"]
    ) -> "Decomposition":
        r"""The decomposition for a kernel matrix; coefficients $a$ of $f(x)=\sum_\mu a_\mu K(x_\mu,x)$ take the place of $W$."""
        values, basis = _eigh(gram / len(gram))
        return cls(values, basis, _apply(basis.T, targets), targets=targets)

    @classmethod
    def of_moments(cls, moments: Moments) -> "Decomposition":
        """The decomposition for training on the population itself."""
        cross = moments.cross[:, :, None]
        if moments.second.ndim == 1:
            return cls(moments.second, None, cross)
        values, basis = _eigh(moments.second)
        return cls(values, basis, _apply(basis.T, cross))

    def coefficients(
        self, solution: Float[np.ndarray, "time eigenvalues"]
    ) -> Float[np.ndarray, "features time outputs parts"]:
        """The readout at the times whose filter g is given."""
        inner = _apply(self.basis, solution.T[:, :, None, None] * self.projections[:, None])
        if self.lift is not None:
            return _apply(self.lift, inner)
        if self.targets is not None and self.features is None:
            return inner / len(self.targets)
        return inner

    def residuals(
        self, residual: Float[np.ndarray, "time eigenvalues"], readout: Float[np.ndarray, "features time outputs parts"]
    ) -> Float[np.ndarray, "samples time outputs parts"]:
        """What is left of the training targets at the times whose filter f is given, with the readout of the same times."""
        if self.targets is None:
            raise ValueError("Decomposition.residuals: training on the population has no training samples")
        if self.features is not None:
            return self.targets[:, None] - _apply(self.features, readout)
        return _apply(self.basis, residual.T[:, :, None, None] * self.projections[:, None])


@dataclasses.dataclass(frozen=True, eq=False)
class Evolution:
    """Losses of one draw under one protocol; see `evolve`. `largest_eigenvalue` is that of the first student."""

    test_loss: Float[np.ndarray, "noise ensemble time"]
    train_loss: Float[np.ndarray, "noise ensemble time"]
    diverged: Bool[np.ndarray, "ensemble time"]
    largest_eigenvalue: float


def evolve(
    students: Sequence[Decomposition],
    moments: Moments,
    protocol: AbstractProtocol,
    times: Times | None,
    *,
    noise: Sequence[float] = (0.0,),
    ensemble: Sequence[int] = (1,),
    population: Moments | None = None,
) -> Evolution:
    """Exact test and train losses of a draw of students under a protocol.

    Args:
        students: Students trained on the same data with independent features.
        moments: Test moments of all students' features, one after the other.
        protocol: A protocol without axes.
        times: Times in any order, `None` for ridge (which then counts as one time).
        noise: Label-noise variances.
        ensemble: Numbers of students whose predictions are averaged, each at most `len(students)`.
        population: Moments of the distribution that students without samples are trained on, if it is not the test's: their
            train loss is the loss on fresh noisy samples of it.

    Returns:
        Losses with axes (noise, ensemble, time), means of squared errors without a factor one half: `test_loss` against
        clean targets, `train_loss` against noisy ones; `inf` from where training has diverged.
    """
    count = 1 if times is None else len(times)
    parts = students[0].projections.shape[-1]
    test = np.empty((len(ensemble), count, parts, parts))
    train = np.empty_like(test)
    for start in range(0, count, TIME_CHUNK):
        chunk = slice(start, start + TIME_CHUNK)
        now = None if times is None else times[chunk]
        for position, size in enumerate(ensemble):
            test[position, chunk], train[position, chunk] = _quadratic_forms(
                students[:size], moments, protocol, now, population or moments
            )
    edges = [float(student.eigenvalues.max()) for student in students]
    gone = np.array([diverged(protocol, max(edges[:size]), times) for size in ensemble])
    levels = np.array([[1.0, np.sqrt(variance)][:parts] for variance in noise])
    test_loss, train_loss = (np.einsum("sa,etab,sb->set", levels, form, levels) for form in (test, train))
    if students[0].targets is None:
        train_loss = train_loss + np.asarray(noise)[:, None, None]
    # A loss that is zero in exact arithmetic comes out as rounding of either sign.
    test_loss, train_loss = np.maximum(test_loss, 0.0), np.maximum(train_loss, 0.0)
    return Evolution(np.where(gone, np.inf, test_loss), np.where(gone, np.inf, train_loss), gone, edges[0])


def _quadratic_forms(
    students: Sequence[Decomposition],
    moments: Moments,
    protocol: AbstractProtocol,
    times: Times | None,
    population: Moments,
) -> tuple[Float[np.ndarray, "time parts parts"], Float[np.ndarray, "time parts parts"]]:
    """Test and train forms q_ab of the mean prediction of `students`; trained on the population, without label noise."""
    readouts, residual = [], 0.0
    for student in students:
        f, g = spectral_filters(protocol, student.eigenvalues, times)
        if not np.all(np.isfinite(g)):  # overflow of a diverged run, which `evolve` reports as such
            f, g = np.nan_to_num(f, posinf=0.0, neginf=0.0), np.nan_to_num(g, posinf=0.0, neginf=0.0)
        readout = student.coefficients(g)
        readouts.append(readout / len(students))
        if student.targets is not None:
            residual = residual + student.residuals(f, readout) / len(students)
    readout = np.concatenate(readouts)
    test = _population_form(moments, readout)
    if students[0].targets is None:
        return test, test if population is moments else _population_form(population, readout)
    train = np.einsum("mtca,mtcb->tab", residual, residual, optimize=True) / len(students[0].targets)
    return test, train


def _population_form(
    moments: Moments, readout: Float[np.ndarray, "features time outputs parts"]
) -> Float[np.ndarray, "time parts parts"]:
    """The form of the mean squared error over a population."""
    width = len(readout)
    second = moments.second[(slice(width),) * moments.second.ndim]
    form = np.einsum("ftca,ftcb->tab", readout, _apply(second, readout), optimize=True)
    overlap = np.einsum("fc,ftca->ta", moments.cross[:width], readout)
    form[:, 0, :] -= overlap
    form[:, :, 0] -= overlap
    form[:, 0, 0] += moments.power
    return form


def _eigh(matrix: Float[np.ndarray, "n n"]) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n n"]]:
    values, basis = np.linalg.eigh(matrix)
    floor = len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return np.where(values > floor, values, 0.0), basis


def _apply(matrix: np.ndarray | None, array: np.ndarray) -> np.ndarray:
    """Matrix times an array along its first axis; one axis is a diagonal, `None` the identity."""
    if matrix is None:
        return array
    if matrix.ndim == 1:
        return matrix.reshape(-1, *[1] * (array.ndim - 1)) * array
    return (matrix @ array.reshape(len(array), -1)).reshape(len(matrix), *array.shape[1:])
