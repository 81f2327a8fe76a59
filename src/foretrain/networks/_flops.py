"""How many floating-point operations a network's training costs."""

import jax

from foretrain.networks._attention import Layers
from foretrain.networks._base import AbstractNetwork
from foretrain.networks._conv import ConvResNet
from foretrain.networks._layers import Linear
from foretrain.networks._transformer import Transformer
from foretrain.networks._vit import ViT


def flops_per_example(network: AbstractNetwork) -> int:
    r"""Floating-point operations of one forward and one backward pass over one example: matrix products only.

    Every map of $m$ weights costs $6m$ for every token (or pixel) that it is applied to, a product and a sum in the forward
    pass and twice as many in the backward pass; attention costs $12\,T^2N$ a layer over $T$ tokens of width $N$, masked
    entries included, as they are computed. Tables that are looked up cost nothing, unless they also read out.

    Norms, nonlinearities, the softmax, the optimizer and the embedding are left out, and the gradient for the first
    layer's input, which is not needed, is counted: not a measure of speed at small width.

    Args:
        network: One network, not a stack of them; a transformer is taken at its full context.

    Example:
        >>> import jax
        >>> from foretrain.networks import MLP, flops_per_example
        >>> flops_per_example(MLP(3, 2, width=8, depth=2, key=jax.random.key(0))) == 6 * (3 * 8 + 8 * 8 + 8 * 2)
        True
    """
    tokens, pooled = 1, False
    if isinstance(network, Transformer):
        tokens = network.context
    elif isinstance(network, ViT):
        tokens, pooled = network.positions.shape[0], True
    elif isinstance(network, ConvResNet):
        tokens, pooled = (-(-network.image[0] // network.first.stride)) ** 2, True
    maps = [m for m in jax.tree.leaves(network, is_leaf=_is_map) if _is_map(m)]
    total = sum(6 * m.weight.size * tokens for m in maps)
    if pooled:
        total -= 6 * network.last.weight.size * (tokens - 1)  # type: ignore[attr-defined]
    layers = getattr(network, "layers", None)
    if isinstance(layers, Layers):
        total += 12 * layers.depth * tokens**2 * layers.query.weight.shape[-2]
    if isinstance(network, Transformer) and network.last is None:
        total += 6 * network.tokens.size * tokens
    return total


def _is_map(node: object) -> bool:
    return isinstance(node, Linear)
