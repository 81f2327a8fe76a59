r"""Networks whose linear maps compute in few bits, and the inputs of every map.

Quantized are the weights of all linear maps (the first, the readout and convolutions included), what enters each of them, and
attention's keys and values. Tables of tokens and positions (a tied readout among them), gains and biases stay as they are.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from foretrain.networks._attention import Layers
from foretrain.networks._base import AbstractNetwork
from foretrain.networks._layers import Linear
from foretrain.networks._quantize import Precision, TensorQuantizer, checked, rounded_straight_through

Network = TypeVar("Network")


@jax.custom_vjp
def _tap(x: Array, gram: Array) -> Array:
    """`x`; what is passed back to `gram` is the sum of the outer products of its rows, whatever the gradient."""
    return x


def _tap_forward(x: Array, gram: Array) -> tuple[Array, Array]:
    return x, x


def _tap_backward(x: Array, gradient: Array) -> tuple[Array, Array]:
    rows = x.reshape(-1, x.shape[-1])
    return gradient, rows.T @ rows


_tap.defvjp(_tap_forward, _tap_backward)


class HookedLinear(Linear):
    """A linear map that does something with its input first.

    Args:
        quantizer: Of the input.
        gram: Where the input's second moments are passed back to.
    """

    quantizer: TensorQuantizer | None = eqx.field(static=True, default=None)
    gram: Float[Array, "*stack in in"] | None = None

    def __call__(self, x: Float[Array, "*tokens in"]) -> Float[Array, "*tokens out"]:
        """The map, over the last axis."""
        if self.quantizer is not None:
            x = self.quantizer(x)
        return super().__call__(x if self.gram is None else _tap(x, self.gram))


def is_map(node: Any) -> bool:
    """Whether a part of a network is a linear map.

    Args:
        node: A part.
    """
    return isinstance(node, Linear)


def map_maps(function: Callable[[Any], Any], network: Network) -> Network:
    """A network with every linear map replaced.

    Args:
        function: From the old map to the new.
        network: A network, or the part of it that is trained.
    """
    return jax.tree.map(lambda node: function(node) if is_map(node) else node, network, is_leaf=is_map)


def channel_axes(ndim: int) -> tuple[int, ...]:
    """Axes of a weight over which an output channel runs: matrices (out, in), kernels (out, 3, 3, in), or stacks of either.

    Args:
        ndim: Number of axes.
    """
    return tuple(range(2 if ndim in (3, 5) else 1, ndim))


def quantize_weights(network: Network, precision: Precision, *, top: Any = None) -> Network:
    """A network whose maps' weights are rounded, straight-through, every output channel with its own scale.

    Args:
        network: A network, or the part of it that is trained.
        precision: Bits or the name of a format.
        top: $Q_p$, when it is traced.
    """

    def rounded(one: Linear) -> Linear:
        weight = rounded_straight_through(one.weight, precision, channel_axes(one.weight.ndim), top=top)
        return dataclasses.replace(one, weight=weight)

    return map_maps(rounded, network)


def quantize_activations(network: Network, activations: Precision, kv: Precision, over: str | None = None) -> Network:
    """A network that rounds what enters its maps, and attention's keys and values.

    Args:
        network: A network.
        activations: Precision of what enters linear maps; `inf` leaves it.
        kv: Precision of keys and values; `inf` leaves them.
        over: Name of the mapped axis of examples that share a scale.
    """
    if activations != math.inf:
        network = map_maps(lambda one: _hooked(one, quantizer=TensorQuantizer(activations, over)), network)
    if kv != math.inf:
        rounding = TensorQuantizer(kv, over)
        network = jax.tree.map(
            lambda node: dataclasses.replace(node, kv=rounding) if isinstance(node, Layers) else node,
            network,
            is_leaf=lambda node: isinstance(node, Layers),
        )
    return network


def _hooked(one: Linear, **hooks: Any) -> HookedLinear:
    kept = {field.name: getattr(one, field.name) for field in dataclasses.fields(one)}
    return HookedLinear(**{**kept, **hooks})


def low_precision(
    network: AbstractNetwork,
    *,
    weights: Precision | None = None,
    activations: Precision | None = None,
    kv: Precision | None = None,
    over: str | None = None,
) -> AbstractNetwork:
    """The network that computes with rounded weights, activations, keys and values; gradients pass straight through.

    Weights have a scale for every output channel, activations one for the tensor. Call it inside the function that is differentiated, so
    that the weights in full precision are what is trained. `kv` of a network without attention does nothing.

    Args:
        network: A network.
        weights: 2 to 16 bits, the name of a float format, or `None` for full precision: weights of linear maps.
        activations: The same for what enters each linear map.
        kv: The same for attention's keys (after rotation) and values.
        over: Name of the axis of `jax.vmap` over examples, which then share the scales of activations; by default every
            example has its own.

    Raises:
        InvalidInput: No such precision.

    Example:
        >>> import jax
        >>> from foretrain.networks import MLP, low_precision
        >>> network = MLP(3, 2, width=8, depth=2, key=jax.random.key(0))
        >>> low_precision(network, weights=4, activations="e4m2")(jax.numpy.ones(3)).shape
        (2,)
    """
    w, a, k = (
        checked(value, f"low_precision({name})")
        for name, value in (("weights", weights), ("activations", activations), ("kv", kv))
    )
    network = network if w == math.inf else quantize_weights(network, w)
    return quantize_activations(network, a, k, over)


def input_grams(apply: Callable[[Any, Any], Array], network: Any, examples: Any) -> list[Float[Array, "*stack in in"]]:
    """For every linear map, in the order of the network's parts, the sum over all its inputs of their outer products.

    One backward pass finds them all, through stacks of layers and maps over examples: each map passes back its input's second
    moments instead of a gradient.

    Args:
        apply: From a network and examples to outputs.
        network: A network.
        examples: What `apply` takes.
    """
    maps = [node for node in jax.tree.leaves(network, is_leaf=is_map) if is_map(node)]
    starts = [_empty_gram(one) for one in maps]

    def total(grams: list[Array]) -> Array:
        waiting = iter(grams)
        return jnp.sum(apply(map_maps(lambda one: _hooked(one, gram=next(waiting)), network), examples))

    return jax.grad(total)(starts)


def _empty_gram(one: Linear) -> Array:
    weight = one.weight
    stack = weight.shape[: 1 if weight.ndim in (3, 5) else 0]
    inputs = math.prod(weight.shape[len(stack) + 1 :])
    return jnp.zeros((*stack, inputs, inputs), weight.dtype)
