r"""The two-layer linear model on one draw of features, in the coordinates where its gradient is diagonal.

With $A=BA_0$ and $\omega=w/\sqrt N$ the model $f=\frac1Nw^\top A\psi$ is $f=\theta\cdot\varphi$, $\theta=B^\top\omega$, on the features
$\varphi=\frac1{\sqrt N}A_0\psi$ of a random-feature student, and its training (`docs/theory/adaptive-linear.md`, (AL.1)) reads

$$\dot\omega=Bg,\qquad\dot B=\gamma\,\omega g^\top,\qquad\omega(0)=0,\ B(0)=1,\qquad g=b-K\theta,$$

with $K=\langle\varphi\varphi^\top\rangle$ and $b=\langle\varphi y\rangle$ over the population or the samples. Nothing leaves the span of $K$, and a rotation of
features changes nothing: all of it happens in the eigenbasis of $K$, where $g_j=b_j-x_j\theta_j$. The readout norm is
$c=\frac1N|w|^2=|\omega|^2$.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from foretrain.training._draw import Draw, Samples, noise_levels
from foretrain.training._evolution import Moments, _eigh

Theta = Float[np.ndarray, "time eigenvalues"]


@dataclasses.dataclass(frozen=True, eq=False)
class Tested:
    """Moments of test inputs in the coordinates of a student, where training has others.

    Args:
        second: Second moment.
        cross: Correlation with the target.
        power: Of the target.
    """

    second: Float[np.ndarray, "eigenvalues eigenvalues"]
    cross: Float[np.ndarray, " eigenvalues"]
    power: float


@dataclasses.dataclass(frozen=True, eq=False)
class Student:
    r"""One student at one noise level.

    Args:
        values: $x_j>0$.
        drive: $b_j$.
        left: Train loss that no $\theta$ can take away.
        tested: What the test loss is made of; `None` where it is the train loss without `noise`.
        noise: Variance of the label noise in the train loss of a population, 0 for samples, whose noise is in `drive` and `left`.
    """

    values: Float[np.ndarray, " eigenvalues"]
    drive: Float[np.ndarray, " eigenvalues"]
    left: float
    tested: Tested | None
    noise: float = 0.0

    def losses(self, theta: Theta) -> Float[np.ndarray, "2 time"]:
        """Test and train loss."""
        # Without the difference of large numbers that the expanded square would be.
        train = np.sum((self.drive - self.values * theta) ** 2 / self.values, axis=1) + self.left
        if self.tested is None:
            return np.stack([train, train + self.noise])
        form = np.einsum("tj,jk,tk->t", theta, self.tested.second, theta, optimize=True)
        test = form - 2 * theta @ self.tested.cross + self.tested.power
        return np.stack([np.maximum(test, 0.0), train + self.noise])

    @property
    def end(self) -> Float[np.ndarray, " eigenvalues"]:
        r"""$\theta$ at the end of training."""
        return self.drive / self.values


def students_of(draw: Draw, noise: Sequence[float]) -> list[Student]:
    """The first student of a draw at every noise level.

    Args:
        draw: Features of spectral tasks.
        noise: Label-noise variances.
    """
    source = draw.sources[0]
    if isinstance(source, Moments):
        return _on_population(source, draw, noise)
    values, basis, drives, rest = _on_samples(source)
    tested = _tested(draw.moments, basis)
    levels = noise_levels(source, noise)
    return [Student(values, drives @ level, float(np.mean((rest @ level) ** 2)), tested) for level in levels.T]


def _on_samples(samples: Samples) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvalues, eigenvectors in feature space, drives of all parts of the targets, and what the features cannot fit."""
    features, targets = samples.matrix, samples.targets[:, 0]
    count = len(features)
    if count < features.shape[1]:
        values, inner = _eigh(features @ features.T / count)
        kept = values > 0
        values, inner = values[kept], inner[:, kept]
        basis = features.T @ inner / np.sqrt(count * values)
        projected = inner.T @ targets
        return values, basis, np.sqrt(values / count)[:, None] * projected, targets - inner @ projected
    values, basis = _eigh(features.T @ features / count)
    kept = values > 0
    values, basis = values[kept], basis[:, kept]
    drives = basis.T @ (features.T @ targets) / count
    return values, basis, drives, targets - features @ (basis @ (drives / values[:, None]))


def _on_population(source: Moments, draw: Draw, noise: Sequence[float]) -> list[Student]:
    values, basis = (source.second, np.eye(len(source.second))) if source.second.ndim == 1 else _eigh(source.second)
    kept = values > 0
    values, basis = values[kept], basis[:, kept]
    drive = basis.T @ source.cross[:, 0]
    left = max(source.power - float(np.sum(drive**2 / values)), 0.0)
    tested = None if draw.population is None else _tested(draw.moments, basis)
    return [Student(values, drive, left, tested, variance) for variance in noise]


def _tested(moments: Moments, basis: Float[np.ndarray, "features eigenvalues"]) -> Tested:
    second = moments.second @ basis if moments.second.ndim == 2 else moments.second[:, None] * basis
    return Tested(basis.T @ second, basis.T @ moments.cross[:, 0], moments.power)
