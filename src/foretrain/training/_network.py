"""From declarations to a network with its parameterization."""

import inspect
from typing import Any

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from foretrain.networks import NETWORKS, AbstractNetwork
from foretrain.parameterization import Parameterization, Recipe, Size, from_tensors
from foretrain.problems import AbstractNetwork as NetworkModel
from foretrain.problems import NetworkTraining, resolve_heads


def parameterize_network(
    model: NetworkModel, training: NetworkTraining, inputs: int, outputs: int, **facts: Any
) -> Parameterization:
    """The parameterization of a declared network: canonical without a base, else relative to it.

    Args:
        model: A network without axes.
        training: Its training, without axes.
        inputs: Dimension of the input, or size of the vocabulary.
        outputs: Number of outputs.
        facts: What else the network needs to know of the data, for example `context`.
    """
    network, sizes = NETWORKS[model.kind], _sizes(model, facts)
    recipe = Recipe(
        model.parameterization,  # type: ignore[attr-defined]
        training.optimizer,  # type: ignore[arg-type]
        training.decay,
        getattr(model, "attention_exponent", 1.0),
    )
    size = Size(float(sizes["depth"]), sizes.get("head_dim"), float(sizes["width"]))
    scales: dict[str, Any] = {name: getattr(model, name, 1.0) for name in ("richness", "branch_scale")}
    tensors = network.tensors(inputs, outputs, **_accepted(network.tensors, sizes))  # type: ignore[attr-defined]
    if model.base_width is None:  # type: ignore[attr-defined]
        return from_tensors(tensors, recipe, size=size, **scales)
    small = base_sizes(model, sizes)
    base = network.tensors(inputs, outputs, **_accepted(network.tensors, small))  # type: ignore[attr-defined]
    base_size = Size(float(small["depth"]), small.get("head_dim"), float(small["width"]))
    return from_tensors(
        tensors, recipe, form="relative", base=_stacked_like(tensors, base), size=size, base_size=base_size, **scales
    )


def build_network(
    model: NetworkModel,
    training: NetworkTraining,
    inputs: int,
    outputs: int,
    *,
    key: PRNGKeyArray,
    dtype: Any = jnp.float32,
    **facts: Any,
) -> tuple[AbstractNetwork, Parameterization]:
    """A declared network at its random start, and its parameterization.

    Args:
        model: A network without axes.
        training: Its training, without axes.
        inputs: As for `parameterize_network`.
        outputs: As for `parameterize_network`.
        key: Random key of the weights.
        dtype: Of the weights.
        facts: As for `parameterize_network`.
    """
    parameterization = parameterize_network(model, training, inputs, outputs, **facts)
    network: Any = NETWORKS[model.kind]
    made = network(
        inputs,
        outputs,
        **_accepted(network.__init__, _sizes(model, facts)),
        parameterization=parameterization,
        key=key,
        dtype=dtype,
    )
    return made, parameterization


def _sizes(model: NetworkModel, facts: dict[str, Any]) -> dict[str, Any]:
    """Every field of the declaration by name, with heads resolved, and facts about the data."""
    found = {name: getattr(model, name) for name in model.__dataclass_fields__ if name != "parameterization"}
    if "heads" in found:
        found["width"], found["heads"], found["head_dim"] = resolve_heads(
            found["width"], found["heads"], found["head_dim"]
        )
    return {**found, **facts}


def base_sizes(model: NetworkModel, sizes: dict[str, Any]) -> dict[str, Any]:
    """The sizes of the base: head size stays and heads grow with width, unless `base_head_dim` says otherwise.

    Args:
        model: A network without axes.
        sizes: Its sizes.
    """
    small = {**sizes, "width": sizes["base_width"]}
    if sizes.get("base_depth") is not None:
        small["depth"] = sizes["base_depth"]
    if "heads" in sizes:
        head_dim = sizes.get("base_head_dim") or sizes["head_dim"]
        small["width"], small["heads"], small["head_dim"] = resolve_heads(sizes["base_width"], None, head_dim)
    return small


def _stacked_like(tensors: Any, base: Any) -> Any:
    """The base's tensors with as many stacked copies as the target's: depth is no size of a tensor."""
    import dataclasses

    found = {}
    for path, tensor in tensors.items():
        other = base.get(path, tensor)
        fans = {*tensor.fan_in, *tensor.fan_out}
        shape = tuple(
            o if axis in fans else t for axis, (t, o) in enumerate(zip(tensor.shape, other.shape, strict=True))
        )
        found[path] = dataclasses.replace(other, shape=shape)
    return found


def _accepted(function: Any, values: dict[str, Any]) -> dict[str, Any]:
    names = inspect.signature(function).parameters
    return {name: value for name, value in values.items() if name in names}
