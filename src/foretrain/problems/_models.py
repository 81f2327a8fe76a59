"""What learns: declarations of models."""

import dataclasses
from typing import ClassVar

import numpy as np

from foretrain._declaration import Declaration, choice, flag, integer, number

ACTIVATIONS = ("relu", "leaky-relu", "erf", "gelu", "tanh", "linear")


class AbstractModel(Declaration):
    """What learns the task.

    `only_on_data` names the keys that a declared spectrum leaves no room for.
    """

    only_on_data: ClassVar[tuple[str, ...]] = ()


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
    only_on_data = ("activation", "depth")

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
    only_on_data = ("activation", "depth", "kernel")

    width: float | tuple[float, ...] = number(low=0.0, low_open=True, infinite=True, default=np.inf)
    kernel: str | tuple[str, ...] | None = choice(("nngp", "ntk"), default=None)
    activation: str | tuple[str, ...] | None = choice(ACTIVATIONS, default=None)
    depth: int | tuple[int, ...] | None = integer(low=1, default=None)
    ensemble: int | tuple[int, ...] = integer(low=1, default=1)


@dataclasses.dataclass(frozen=True, eq=False)
class TwoLayerLinear(AbstractModel):
    r"""The two-layer linear model that learns features, $f(x)=\frac1Nw^\top A\psi(x)$, $w(0)=0$, $A(0)$ Gaussian.

    The readout follows the gradient, the features follow it at the relative rate $\gamma$, projected on the span of
    their first rows (`docs/theory/adaptive-linear.md`, (AL.1)). At `richness = 0` it is `RandomFeatures`.

    Args:
        width: $N$; real numbers are accepted by theory, `inf` (default) is the limit without a bottleneck (axis).
        richness: $\gamma\ge0$, the strength of feature learning; 0 is lazy (axis).

    Example:
        >>> from foretrain.problems import TwoLayerLinear
        >>> TwoLayerLinear(richness=[0, 1]).axes()
        {'richness': (0.0, 1.0)}
    """

    kind = "two-layer-linear"

    width: float | tuple[float, ...] = number(low=0.0, low_open=True, infinite=True, default=np.inf)
    richness: float | tuple[float, ...] = number(low=0.0, default=1.0)


@dataclasses.dataclass(frozen=True, eq=False)
class DeepLinear(AbstractModel):
    r"""A deep linear network from random initialization, all layers trained (`docs/theory/deep-linear.md`, (DL.1)).

    Sizes are ratios to the dimension $D$ of the inputs. Training takes the ratios `sample_ratio` and `batch_ratio` in place of
    `samples` and `batch_size`.

    Args:
        depth: $L$, hidden layers; `inf` for residual networks with `depth_exponent` 1/2 (axis).
        width_ratio: $\nu=N/D$; `inf` is the limit of wide layers (axis).
        parameterization: `"mup"` keeps $\gamma_0$ at `richness` for every width, `"ntk"` is $\gamma_0=$ richness$/\sqrt\nu$, lazy at
            `width_ratio = inf` (axis).
        richness: $\gamma_0$ in `mup`, $\bar\gamma$ in `ntk`; 0, the lazy limit, where `width_ratio = inf` in `mup` (axis).
        residual: Whether hidden layers are branches, $h^{\ell+1}=h^\ell+\frac b{\sqrt N}W^\ell h^\ell$.
        branch_scale: $\beta_0$ of $b=\beta_0L^{-\text{depth exponent}}$; residual networks only (axis).
        depth_exponent: 1/2 (default) has a limit of infinite depth, 0 is a constant branch; residual networks only (axis).

    Example:
        >>> from foretrain.problems import DeepLinear
        >>> DeepLinear(depth=[1, 2], width_ratio=[0.5, float("inf")]).axes()
        {'depth': (1, 2), 'width_ratio': (0.5, inf)}
    """

    kind = "deep-linear"

    depth: float | tuple[float, ...] = integer(low=1, infinite=True)
    width_ratio: float | tuple[float, ...] = number(low=0.0, low_open=True, infinite=True, default=np.inf)
    parameterization: str | tuple[str, ...] = choice(("mup", "ntk"), default="mup")
    richness: float | tuple[float, ...] = number(low=0.0, default=1.0)
    residual: bool = flag(default=False)
    branch_scale: float | tuple[float, ...] | None = number(low=0.0, default=None)
    depth_exponent: float | tuple[float, ...] | None = number(low=0.0, default=None)

    def _check(self) -> None:
        if not self.residual:
            for key in ("branch_scale", "depth_exponent"):
                if getattr(self, key) is not None:
                    raise self._wrong(key, "means nothing without branches; leave it out or set residual = true")
        if np.any(np.isinf(self.depth)):
            if not self.residual:
                raise self._wrong("depth", "expected finite depths without residual = true, got inf")
            if np.any(np.asarray(0.5 if self.depth_exponent is None else self.depth_exponent) < 0.5):
                raise self._wrong(
                    "depth", "expected finite depths where depth_exponent < 1/2, got inf: the network has no such limit"
                )
        if np.any(np.asarray(self.richness) == 0) and (
            np.any(np.isfinite(self.width_ratio)) or "ntk" in np.atleast_1d(self.parameterization)
        ):
            raise self._wrong(
                "richness",
                "expected > 0 unless width_ratio = inf in 'mup', got 0: the outputs before training grow as 1/richness",
            )
