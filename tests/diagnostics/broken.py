"""Networks in which one thing is wrong, as `make` functions of the coordinate check."""

import dataclasses
from collections.abc import Callable, Sequence

import jax

from foretrain import NetworkTraining
from foretrain.diagnostics import CheckedModel, network_model
from foretrain.diagnostics._declared import random_data
from foretrain.networks import NETWORKS
from foretrain.parameterization import Parameterization, Recipe, Size, from_tensors


def with_parts_of(p: Parameterization, other: Parameterization, paths: Sequence[str], parts: Sequence[str]):
    """`p`, in which some tensors have the named numbers of another scheme."""
    tensors = dict(p.tensors)
    for path in paths:
        taken = {part: getattr(other.tensors[path].entry, part) for part in parts}
        tensors[path] = dataclasses.replace(tensors[path], entry=dataclasses.replace(tensors[path].entry, **taken))
    return dataclasses.replace(p, tensors=tensors)


def broken(
    kind: str,
    right: Recipe,
    wrong: Recipe,
    paths: Sequence[str],
    parts: Sequence[str],
    training: NetworkTraining,
    *,
    axis: str = "width",
    width: int = 64,
    depth: int = 3,
) -> Callable[[int, int], CheckedModel]:
    """A network of the scheme `right` in which the tensors `paths` have the `parts` of the scheme `wrong`."""
    data = random_data(kind, training.loss)

    def make(size: int, seed: int) -> CheckedModel:
        w, d = (size, depth) if axis == "width" else (width, size)
        network = NETWORKS[kind]
        tensors = network.tensors(data.inputs, data.outputs, width=w, depth=d)
        schemes = [from_tensors(tensors, recipe, size=Size(d, None, w)) for recipe in (right, wrong)]
        p = with_parts_of(*schemes, paths, parts)
        key = jax.random.key(seed)
        made = network(data.inputs, data.outputs, width=w, depth=d, activation="tanh", parameterization=p, key=key)
        return network_model(made, p, training, data.batch)

    return make


def wrong_attention(training: NetworkTraining, heads: int = 4) -> Callable[[int, int], CheckedModel]:
    """A transformer whose logits are divided by the square root of the head size, trained with the rates for the head size."""
    data = random_data("transformer", training.loss)

    def make(size: int, seed: int) -> CheckedModel:
        network, width = NETWORKS["transformer"], heads * size
        sizes = {"width": width, "depth": 1, **data.facts}
        tensors = network.tensors(data.inputs, data.outputs, **sizes)
        right = from_tensors(tensors, Recipe("mup", training.optimizer), size=Size(1, size, width))
        root = from_tensors(
            tensors, Recipe("mup", training.optimizer, attention_exponent=0.5), size=Size(1, size, width)
        )
        key = jax.random.key(seed)
        made = network(data.inputs, data.outputs, heads=heads, parameterization=root, key=key, **sizes)
        return network_model(made, right, training, data.batch)

    return make
