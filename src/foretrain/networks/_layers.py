"""Pieces of networks: linear maps with a multiplier, norms, activations, and how parameters are drawn."""

import math
from collections.abc import Callable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray

from foretrain._random import draw_normal
from foretrain.errors import InvalidInput, nearest
from foretrain.parameterization import Parameterization, Tensor


@jax.custom_jvp
def _tanh(x: Array) -> Array:
    """Tanh whose derivative is computed from its value, which spares the backward pass a second tanh."""
    return jnp.tanh(x)


@_tanh.defjvp
def _tanh_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    y = _tanh(primals[0])
    return y, tangents[0] * (1 - y * y)


# Written so that XLA's CPU compiler vectorizes them, forward and backward: the error function instead of its complement
# (4 times faster), no selections.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "relu-2": lambda x: jnp.square(jax.nn.relu(x)),
    "relu-3": lambda x: jnp.square(jax.nn.relu(x)) * jax.nn.relu(x),
    "leaky-relu": lambda x: jax.nn.relu(x) - 0.01 * jax.nn.relu(-x),
    "tanh": _tanh,
    "erf": jax.scipy.special.erf,
    "gelu": lambda x: 0.5 * x * (1 + jax.scipy.special.erf(x * math.sqrt(0.5))),
    "silu": jax.nn.silu,
    "linear": lambda x: x,
}
NORMS = ("none", "layernorm", "rmsnorm")


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
        # The multiplier acts on the input: on the output, its backward pass would be fused into a slow transposition of the
        # gradient (a transformer's step took 1.4 times as long).
        y = (x if self.multiplier == 1 else self.multiplier * x) @ self.weight.T
        return y if self.bias is None else y + _over_tokens(self.bias_multiplier, self.bias, y)


class Norm(eqx.Module):
    """Normalization over the last axis, with a gain and (layer norm) a bias when there are some.

    Args:
        gain: Starts at 1; `None` for a norm without parameters.
        bias: Starts at 0; or `None`.
        kind: `"none"`, `"layernorm"` or `"rmsnorm"`.
        multiplier: Of the gain.
        bias_multiplier: Of the bias.
    """

    gain: Float[Array, "*stack width"] | None
    bias: Float[Array, "*stack width"] | None
    kind: str = eqx.field(static=True)
    multiplier: float = eqx.field(static=True, default=1.0)
    bias_multiplier: float = eqx.field(static=True, default=1.0)

    def __call__(self, x: Float[Array, "*tokens width"]) -> Float[Array, "*tokens width"]:
        """The normalized stream."""
        if self.kind == "none":
            return x
        if self.kind == "layernorm":
            x = x - jnp.mean(x, axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)
        x = x if self.gain is None else x * _over_tokens(self.multiplier, self.gain, x)
        return x if self.bias is None else x + _over_tokens(self.bias_multiplier, self.bias, x)


def _over_tokens(multiplier: float, vector: Array, x: Array) -> Array:
    """A vector times its multiplier, shaped to act on every token."""
    scaled = vector if multiplier == 1 else multiplier * vector
    return scaled.reshape((1,) * (x.ndim - 1) + (-1,))


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
        own = jax.random.fold_in(key, number)
        if tensor.fan_in:
            found[path] = draw_normal(own, tensor.shape, dtype, parameterization.absolute_std(path))
        else:
            # Where nothing is traced, an operation is compiled for every shape.
            full = jnp.full if isinstance(own, Tracer) else np.full
            found[path] = jnp.asarray(full(tensor.shape, 1.0 if path.endswith("gain") else 0.0, dtype))
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
    """The norm whose gain and bias, if any, are at `name.gain` and `name.bias`.

    Args:
        params: Path to array.
        parameterization: Where multipliers come from.
        name: Path of the norm.
        kind: Kind of norm.

    Raises:
        InvalidInput: No such norm.
    """
    if kind not in NORMS:
        raise InvalidInput(f"network(norm): expected one of {', '.join(NORMS)}, got {kind!r}{nearest(kind, NORMS)}.")

    def multiplier(path: str) -> float:
        return parameterization.tensors[path].entry.multiplier if path in params else 1.0

    gain, bias = f"{name}.gain", f"{name}.bias"
    return Norm(params.get(gain), params.get(bias), kind, multiplier(gain), multiplier(bias))


def norm_tensors(name: str, kind: str, width: int, depth: int | None = None) -> dict[str, Tensor]:
    """Gain and bias of a norm: in the branches of `depth` layers, or of the final stream.

    Args:
        name: Path of the norm.
        kind: Kind of norm; an RMS norm has no bias.
        width: Width of the stream.
        depth: Number of stacked layers; `None` for the norm before the readout.
    """
    if depth is None:
        vector = Tensor((width,), "final_vector", (), (0,))
    else:
        vector = Tensor((depth, width), "branch_vector_inner", (), (1,))
    parts = {"layernorm": ("gain", "bias"), "rmsnorm": ("gain",)}.get(kind, ())
    return {f"{name}.{part}": vector for part in parts}
