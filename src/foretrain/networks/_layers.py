"""Pieces of networks: linear maps with a multiplier, norms, activations, and how parameters are drawn."""

from collections.abc import Callable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from foretrain.errors import InvalidInput, nearest
from foretrain.parameterization import Parameterization, Tensor

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "leaky-relu": jax.nn.leaky_relu,
    "tanh": jnp.tanh,
    "erf": jax.scipy.special.erf,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "linear": lambda x: x,
}


def activation_named(name: str) -> Callable[[Array], Array]:
    """The function of that name.

    Raises:
        InvalidInput: No such activation.
    """
    if name not in ACTIVATIONS:
        raise InvalidInput(
            f"network(activation): expected one of {', '.join(ACTIVATIONS)}, got {name!r}{nearest(name, ACTIVATIONS)}."
        )
    return ACTIVATIONS[name]


class Linear(eqx.Module):
    """A linear map that enters the forward pass times its multiplier. Leading axes of the weight are stacked copies.

    Args:
        weight: Outputs first.
        bias: Or `None`.
        multiplier: Of the weight.
        bias_multiplier: Of the bias.
    """

    weight: Float[Array, "*stack out in"]
    bias: Float[Array, "*stack out"] | None
    multiplier: float = eqx.field(static=True)
    bias_multiplier: float = eqx.field(static=True)

    def __call__(self, x: Float[Array, "*tokens in"]) -> Float[Array, "*tokens out"]:
        """The map of one layer (not of a stack), over the last axis."""
        y = x @ self.weight.T
        y = y if self.multiplier == 1 else self.multiplier * y
        return y if self.bias is None else y + self.bias_multiplier * self.bias


class Norm(eqx.Module):
    """Normalization over the last axis, with a gain when there is one.

    Args:
        gain: Starts at 1; `None` for a norm without parameters.
        kind: `"none"`, `"layernorm"` or `"rmsnorm"`.
        multiplier: Of the gain.
    """

    gain: Float[Array, "*stack width"] | None
    kind: str = eqx.field(static=True)
    multiplier: float = eqx.field(static=True, default=1.0)

    def __call__(self, x: Float[Array, "*tokens width"]) -> Float[Array, "*tokens width"]:
        """The normalized stream."""
        if self.kind == "none":
            return x
        if self.kind == "layernorm":
            x = x - jnp.mean(x, axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)
        return x if self.gain is None else x * (self.multiplier * self.gain)


def draw(
    tensors: Mapping[str, Tensor], parameterization: Parameterization, key: PRNGKeyArray, dtype: jnp.dtype = jnp.float32
) -> dict[str, Array]:
    """Parameters at the start: Gaussian matrices, biases 0, gains (paths that end in `gain`) 1.

    Every tensor has random numbers of its own, which do not depend on the other tensors.

    Args:
        tensors: What to draw.
        parameterization: Where standard deviations come from.
        key: Random key.
        dtype: Of the arrays.
    """
    parameterization.check({path: tensor.shape for path, tensor in tensors.items()})
    found = {}
    for number, (path, tensor) in enumerate(tensors.items()):
        if not tensor.fan_in:
            found[path] = jnp.full(tensor.shape, 1.0 if path.endswith("gain") else 0.0, dtype)
        else:
            noise = jax.random.normal(jax.random.fold_in(key, number), tensor.shape, dtype)
            found[path] = noise * jnp.asarray(parameterization.absolute_std(path), dtype)
    return found


def linear(params: Mapping[str, Array], parameterization: Parameterization, name: str) -> Linear:
    """The linear map whose weight and bias are at `name.weight` and `name.bias`.

    Args:
        params: Path to array.
        parameterization: Where multipliers come from.
        name: Path of the layer.
    """
    entries = parameterization.tensors
    bias = params.get(f"{name}.bias")
    return Linear(
        params[f"{name}.weight"],
        bias,
        entries[f"{name}.weight"].entry.multiplier,
        1.0 if bias is None else entries[f"{name}.bias"].entry.multiplier,
    )


def norm(params: Mapping[str, Array], parameterization: Parameterization, name: str, kind: str) -> Norm:
    """The norm whose gain, if any, is at `name.gain`.

    Args:
        params: Path to array.
        parameterization: Where multipliers come from.
        name: Path of the norm.
        kind: Kind of norm.
    """
    gain = params.get(f"{name}.gain")
    return Norm(gain, kind, 1.0 if gain is None else parameterization.tensors[f"{name}.gain"].entry.multiplier)
