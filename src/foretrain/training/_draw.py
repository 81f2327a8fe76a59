"""A draw: what the students of one size are trained on and tested with."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from foretrain.training._evolution import Decomposition, Moments


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    r"""The training samples as one student sees them.

    Args:
        matrix: Features $\Phi$, one row a sample; or the kernel matrix $K(x_\mu,x_\nu)$ of the samples.
        targets: $Y$, with the axis `parts` of `Decomposition`: the clean target and, if there, unit label noise.
        is_gram: Whether `matrix` is a kernel matrix. The readout then is $a$ in $f(x)=\sum_\mu a_\mu K(x_\mu,x)$.
    """

    matrix: Float[np.ndarray, "samples features"]
    targets: Float[np.ndarray, "samples outputs parts"]
    is_gram: bool = False

    def decompose(self) -> Decomposition:
        """The eigendecomposition that full-batch protocols are evolved with."""
        make = Decomposition.of_gram if self.is_gram else Decomposition.of_features
        return make(self.matrix, self.targets)


@dataclasses.dataclass(frozen=True, eq=False)
class Draw:
    """One draw of a size: students on the same data, and what their test loss needs.

    Args:
        sources: What each student is trained on: its samples, or the moments of the population.
        moments: Test moments of all students' features, one after the other.
        population: The same of the training distribution, where that is another one and students are trained on it.
    """

    sources: "list[Samples] | list[Moments]"
    moments: Moments
    population: Moments | None = None

    @functools.cached_property
    def students(self) -> list[Decomposition]:
        """The decompositions of all students, made when they are first asked for."""
        return [s.decompose() if isinstance(s, Samples) else Decomposition.of_moments(s) for s in self.sources]


def noise_levels(samples: Samples, noise: Sequence[float]) -> Float[np.ndarray, "parts noise"]:
    """How the parts of the targets add up at noise variances."""
    parts = samples.targets.shape[-1]
    return np.array([[1.0, np.sqrt(variance)][:parts] for variance in noise]).T


def at_noise_levels(samples: Samples, noise: Sequence[float]) -> Samples:
    """The same samples with one part for every noise variance."""
    return dataclasses.replace(samples, targets=samples.targets @ noise_levels(samples, noise))
