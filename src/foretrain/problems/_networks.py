"""Networks that are trained: declarations of architectures. What they compute is in `foretrain.networks`."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from foretrain._declaration import choice, flag, integer, number
from foretrain.parameterization import SCHEMES
from foretrain.problems._models import AbstractModel

NETWORK_ACTIVATIONS = ("relu", "relu-2", "relu-3", "leaky-relu", "tanh", "erf", "gelu", "silu", "linear")
NORMS = ("none", "layernorm", "rmsnorm")
POSITIONS = ("learned", "rotary")


def _scheme(default: str) -> Any:
    return choice(SCHEMES, default=default)


def _richness() -> Any:
    return number(low=0.0, low_open=True, default=1.0)


def _values(value: Any) -> tuple:
    return value if isinstance(value, tuple) else (value,)


@dataclasses.dataclass(frozen=True, eq=False)
class AbstractNetwork(AbstractModel):
    """A finite network.

    Without a base, multipliers, inits and rates are absolute (the canonical form, in which the learning rate is the
    theory's $\\eta_0$). With `base_width` they are factors on those of a standard network of that size.
    """

    def _check(self) -> None:
        depth_rule = any(s in ("mup-depth", "completep") for s in _values(self.parameterization))  # type: ignore[attr-defined]
        base_width, base_depth = getattr(self, "base_width", None), getattr(self, "base_depth", None)
        if base_width is None and base_depth is not None:
            raise self._wrong(
                "base_width", "missing; a base has a width and a depth, or there is none and everything is absolute"
            )
        if base_width is not None and hasattr(self, "base_depth") and base_depth is None and depth_rule:
            raise self._wrong("base_depth", "missing; 'mup-depth' and 'completep' scale with depth against the base's")
        for scheme in _values(self.parameterization):  # type: ignore[attr-defined]
            for key in ("richness", "branch_scale"):
                refused = scheme == "ntk" or (scheme == "sp" and key == "richness")
                if refused and _values(getattr(self, key, 1.0)) != (1.0,):
                    raise self._wrong(key, f"the parameterization {scheme!r} has none; leave it out")


@dataclasses.dataclass(frozen=True, eq=False)
class MLP(AbstractNetwork):
    """Fully connected network, `depth` hidden layers, no skip connections.

    Args:
        width: Units of every hidden layer; `inf` for limits (axis).
        depth: Hidden layers (axis).
        activation: Nonlinearity (axis).
        parameterization: Scheme; depth schemes equal `mup` here, as there are no residual branches (axis).
        base_width: Width of the base; without it everything is absolute.
        richness: $\\gamma_0$; not for `sp` and `ntk` (axis).
        bias: Whether layers have biases, which start at 0.
    """

    kind = "mlp"

    width: float | tuple[float, ...] = integer(low=1, infinite=True)
    depth: int | tuple[int, ...] = integer(low=1, default=2)
    activation: str | tuple[str, ...] = choice(NETWORK_ACTIVATIONS, default="relu")
    parameterization: str | tuple[str, ...] = _scheme("mup")
    base_width: int | None = integer(low=1, axis=False, default=None)
    richness: float | tuple[float, ...] = _richness()
    bias: bool = flag(default=False)


@dataclasses.dataclass(frozen=True, eq=False)
class ResNet(AbstractNetwork):
    r"""Fully connected residual network with one-layer branches, $h\leftarrow h+s\,W\phi(h)$.

    Args:
        width: Width of the stream (axis).
        depth: Number of branches $L$ (axis).
        activation: $\phi$ (axis).
        parameterization: Scheme; $s=\beta_0L^{-\alpha_L}$ with $\alpha_L$ = ½ for `mup-depth`, 1 for `completep`, 0 for others (axis).
        base_width: Width of the base; without a base everything is absolute.
        base_depth: Depth of the base.
        branch_scale: $\beta_0$ (axis).
        richness: $\gamma_0$ (axis).
        norm: Normalization at the start of every branch and before the readout (axis).
        readout_activation: Nonlinearity before the readout (axis).
        bias: Whether layers have biases, which start at 0.
    """

    kind = "resnet"

    width: float | tuple[float, ...] = integer(low=1, infinite=True)
    depth: float | tuple[float, ...] = integer(low=1, infinite=True, default=4)
    activation: str | tuple[str, ...] = choice(NETWORK_ACTIVATIONS, default="relu")
    parameterization: str | tuple[str, ...] = _scheme("mup-depth")
    base_width: int | None = integer(low=1, axis=False, default=None)
    base_depth: int | None = integer(low=1, axis=False, default=None)
    branch_scale: float | tuple[float, ...] = number(low=0.0, low_open=True, default=1.0)
    richness: float | tuple[float, ...] = _richness()
    norm: str | tuple[str, ...] = choice(NORMS, default="none")
    readout_activation: str | tuple[str, ...] = choice(NETWORK_ACTIVATIONS, default="linear")
    bias: bool = flag(default=False)


@dataclasses.dataclass(frozen=True, eq=False)
class ConvResNet(AbstractNetwork):
    """Pre-activation convolutional residual network on square images, 3 x 3 kernels, one convolution a branch.

    Args:
        width: Channels of the stream (axis).
        depth: Number of branches (axis).
        activation: Nonlinearity (axis).
        parameterization: As for `ResNet` (axis).
        base_width: As for `ResNet`.
        base_depth: As for `ResNet`.
        branch_scale: As for `ResNet` (axis).
        richness: As for `ResNet` (axis).
        norm: Normalization over channels at the start of every branch and before the readout (axis).
        stride: Stride of the first convolution.
        bias: Whether convolutions have biases, which start at 0.
    """

    kind = "conv-resnet"

    width: int | tuple[int, ...] = integer(low=1)
    depth: int | tuple[int, ...] = integer(low=1, default=4)
    activation: str | tuple[str, ...] = choice(NETWORK_ACTIVATIONS, default="relu")
    parameterization: str | tuple[str, ...] = _scheme("mup-depth")
    base_width: int | None = integer(low=1, axis=False, default=None)
    base_depth: int | None = integer(low=1, axis=False, default=None)
    branch_scale: float | tuple[float, ...] = number(low=0.0, low_open=True, default=1.0)
    richness: float | tuple[float, ...] = _richness()
    norm: str | tuple[str, ...] = choice(NORMS, default="none")
    stride: int = integer(low=1, axis=False, default=1)
    bias: bool = flag(default=False)


@dataclasses.dataclass(frozen=True, eq=False)
class _Attentive(AbstractNetwork):
    """What networks with attention share. Two of `width`, `heads` and `head_dim` give the third."""

    width: int | tuple[int, ...] | None = integer(low=1, default=None)
    depth: int | tuple[int, ...] = integer(low=1, default=2)
    heads: int | tuple[int, ...] | None = integer(low=1, default=None)
    head_dim: int | tuple[int, ...] | None = integer(low=1, default=None)
    parameterization: str | tuple[str, ...] = _scheme("completep")
    base_width: int | None = integer(low=1, axis=False, default=None)
    base_depth: int | None = integer(low=1, axis=False, default=None)
    base_head_dim: int | None = integer(low=1, axis=False, default=None)
    attention_exponent: float | tuple[float, ...] = number(low=0.5, high=1.0, default=1.0)
    branch_scale: float | tuple[float, ...] = number(low=0.0, low_open=True, default=1.0)
    richness: float | tuple[float, ...] = _richness()
    norm: str | tuple[str, ...] = choice(NORMS, default="layernorm")
    mlp_ratio: int = integer(low=1, axis=False, default=4)
    bias: bool = flag(default=False)

    def _check(self) -> None:
        super()._check()
        given = [name for name in ("width", "heads", "head_dim") if getattr(self, name) is not None]
        if len(given) == 3:
            raise self._wrong("heads", "expected two of width, heads and head_dim, got all three; the third follows")
        if not given or given == ["head_dim"]:
            raise self._wrong("width", "missing; give width, or heads and head_dim")
        for width in _values(self.width):
            for heads in _values(self.heads):
                for head_dim in _values(self.head_dim):
                    resolve_heads(width, heads, head_dim)


def resolve_heads(width: int | None, heads: int | None, head_dim: int | None) -> tuple[int, int, int]:
    """Width, heads and head size from two of them; a head size of 16 (or the width, if smaller) when only width is given.

    Args:
        width: Width of the stream, heads × head size.
        heads: Number of heads.
        head_dim: Size of one head.

    Raises:
        InvalidInput: The width is not a multiple.
    """
    from foretrain._declaration import WrongKey

    if width is None:
        return heads * head_dim, heads, head_dim  # type: ignore[operator, return-value]
    other = heads or head_dim or min(16, width)
    if width % other:
        name = "heads" if heads else "head_dim"
        raise WrongKey("network", "width", f"expected a multiple of {name} = {other}, got {width}")
    return (width, heads, width // heads) if heads else (width, width // other, other)


@dataclasses.dataclass(frozen=True, eq=False)
class ViT(_Attentive):
    """Vision transformer on square images: patches, learned positions, pre-norm layers, mean over tokens, readout.

    Args:
        width: Width of the stream (axis).
        depth: Layers, each an attention and an MLP branch (axis).
        heads: Attention heads (axis).
        head_dim: Size of one head (axis); 16 when only `width` is given.
        parameterization: As for `ResNet` (axis).
        base_width: As for `ResNet`.
        base_depth: As for `ResNet`.
        base_head_dim: Head size of the base; that of the model by default, as heads grow with width.
        attention_exponent: $\\alpha_A$ of the logits (axis).
        branch_scale: As for `ResNet` (axis).
        richness: As for `ResNet` (axis).
        norm: Normalization at the start of every branch and before the readout (axis).
        mlp_ratio: Hidden units of the MLP branch over width.
        bias: Whether linear maps have biases, which start at 0.
        activation: Nonlinearity of the MLP branches (axis).
        patch: Side of a patch in pixels.
    """

    kind = "vit"

    activation: str | tuple[str, ...] = choice(NETWORK_ACTIVATIONS, default="gelu")
    patch: int = integer(low=1, axis=False, default=2)


@dataclasses.dataclass(frozen=True, eq=False)
class Transformer(_Attentive):
    """Decoder-only transformer over tokens: causal attention, pre-norm layers, one prediction for every position.

    Args:
        width: Width of the stream (axis).
        depth: Layers, each an attention and an MLP branch (axis).
        heads: Attention heads (axis).
        head_dim: Size of one head (axis); 16 when only `width` is given.
        parameterization: As for `ResNet` (axis).
        base_width: As for `ResNet`.
        base_depth: As for `ResNet`.
        base_head_dim: As for `ViT`.
        attention_exponent: $\\alpha_A$ of the logits (axis).
        branch_scale: As for `ResNet` (axis).
        richness: As for `ResNet` (axis).
        norm: As for `ViT` (axis).
        mlp_ratio: As for `ViT`.
        bias: As for `ViT`.
        activation: Nonlinearity of the MLP branches, or `"swiglu"` (axis).
        positions: `"learned"` or `"rotary"` (axis).
        tied: Whether the token table also reads out.
    """

    kind = "transformer"

    activation: str | tuple[str, ...] = choice((*NETWORK_ACTIVATIONS, "swiglu"), default="gelu")
    positions: str | tuple[str, ...] = choice(POSITIONS, default="learned")
    tied: bool = flag(default=False)


NETWORKS: Sequence[type[AbstractNetwork]] = (MLP, ResNet, ConvResNet, ViT, Transformer)


def is_finite(model: AbstractNetwork) -> bool:
    """Whether a network without axes has finite sizes.

    Args:
        model: The declaration.
    """
    return all(math.isfinite(getattr(model, name) or 0) for name in ("width", "depth"))
