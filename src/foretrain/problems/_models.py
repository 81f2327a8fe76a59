"""What learns: declarations of models."""

import dataclasses

import numpy as np

from foretrain._declaration import Declaration, choice, integer, number

ACTIVATIONS = ("relu", "leaky-relu", "erf", "gelu", "tanh", "linear")


class AbstractModel(Declaration):
    """What learns the task."""


@dataclasses.dataclass(frozen=True, eq=False)
class RandomFeatures(AbstractModel):
    r"""Trained readout on frozen random features, $f(x)=\frac1{\sqrt N}W\cdot\varphi(x)$, $W(0)=0$.

    On spectral tasks the features are $A\psi(x)$ with a Gaussian $A$ (`docs/theory/random-features.md`, (RF.1)); on data they
    are the last hidden layer of a random fully connected network.

    Args:
        width: $N$, number of features; real numbers are accepted by theory, `inf` is the kernel limit (axis).
        ensemble: Number of independent students trained on the same data whose predictions are averaged (axis).
        activation: Nonlinearity of the random network; data tasks only, `relu` by default (axis).
        depth: Hidden layers of the random network; data tasks only, 1 by default (axis).

    Example:
        >>> from foretrain.problems import RandomFeatures
        >>> RandomFeatures(width=[64, float("inf")]).axes()
        {'width': (64.0, inf)}
    """

    kind = "random-features"

    width: float | tuple[float, ...] = number(low=0.0, low_open=True, infinite=True)
    ensemble: int | tuple[int, ...] = integer(low=1, default=1)
    activation: str | tuple[str, ...] | None = choice(ACTIVATIONS, default=None)
    depth: int | tuple[int, ...] | None = integer(low=1, default=None)


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel(AbstractModel):
    """Regression in the kernel's own feature space: `RandomFeatures` whose width is `inf` unless said otherwise.

    Args:
        width: Number of Gaussian random projections of the kernel's features; `inf` (default) is kernel regression (axis).
        kernel: `"nngp"` (default: only the readout learns) or `"ntk"` (all layers, linearized); data tasks only (axis).
        activation: Nonlinearity of the network that defines the kernel; data tasks only, `relu` by default (axis).
        depth: Its hidden layers; data tasks only, 1 by default (axis).
        ensemble: As for `RandomFeatures` (axis).
    """

    kind = "kernel"

    width: float | tuple[float, ...] = number(low=0.0, low_open=True, infinite=True, default=np.inf)
    kernel: str | tuple[str, ...] | None = choice(("nngp", "ntk"), default=None)
    activation: str | tuple[str, ...] | None = choice(ACTIVATIONS, default=None)
    depth: int | tuple[int, ...] | None = integer(low=1, default=None)
    ensemble: int | tuple[int, ...] = integer(low=1, default=1)
