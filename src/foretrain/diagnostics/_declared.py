"""From declarations to `CheckedModel`: our own networks, with random data or those of a task."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from foretrain.diagnostics._model import CheckedModel, Feature, Layered
from foretrain.errors import InvalidInput
from foretrain.networks import AbstractNetwork
from foretrain.parameterization import Parameterization, make_optimizer
from foretrain.problems import AbstractNetwork as NetworkModel
from foretrain.problems import NetworkTraining
from foretrain.tasks import Tokens
from foretrain.training._network import build_network

Batch = tuple[np.ndarray, np.ndarray]
EXAMPLES = 16
_ATTENTION_PARTS = ("attention_norm", "query", "key", "value", "out")
_MLP_PARTS = ("mlp_norm", "up", "gate", "down")
_IMAGE, _VECTOR, _OUTPUTS, _VOCABULARY, _CONTEXT = 64, 4, 4, 32, 8


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """A batch and the sizes that it asks of a network.

    Args:
        batch: Inputs and targets.
        inputs: Dimension of the inputs, or size of the vocabulary.
        outputs: Number of outputs.
        facts: What else the network is told.
    """

    batch: Batch
    inputs: int
    outputs: int
    facts: dict[str, Any]


def random_data(kind: str, loss: str) -> Data:
    """Gaussian inputs with targets that have nothing to do with them, or random tokens; always the same.

    Args:
        kind: Of the model.
        loss: Of the training.
    """
    rng = np.random.default_rng(0)
    if kind == "transformer":
        windows = rng.integers(_VOCABULARY, size=(EXAMPLES, _CONTEXT + 1))
        return _windows(windows.astype(np.int32), _VOCABULARY)
    inputs = _IMAGE if kind in ("vit", "conv-resnet") else _VECTOR
    x = rng.standard_normal((EXAMPLES, inputs)).astype(np.float32)
    if loss == "cross-entropy":
        y = rng.integers(_OUTPUTS, size=EXAMPLES).astype(np.int32)
    else:
        y = rng.standard_normal((EXAMPLES, _OUTPUTS)).astype(np.float32)
    return Data((x, y), inputs, _OUTPUTS, {})


def task_data(task: Any, training: NetworkTraining) -> Data:
    """The first batch of a task's data, in an order that is always the same.

    Args:
        task: A task with data.
        training: Its batch size and loss.

    Raises:
        InvalidInput: The task has no data.
    """
    if not hasattr(task, "load"):
        raise InvalidInput(
            f"coordinate_check: the task {task.kind!r} has no data to train a network on; pass the model alone for random data."
        )
    found, rng = task.load(), np.random.default_rng(0)
    count = int(training.batch_size or EXAMPLES)  # type: ignore[arg-type]
    if isinstance(found, Tokens):
        starts = rng.integers(len(found.train) - found.context, size=count)
        return _windows(found.train[starts[:, None] + np.arange(found.context + 1)[None, :]], found.vocabulary)
    rows = rng.permutation(len(found))[:count]
    y = found.targets[rows]
    x = found.inputs[rows].astype(np.float32)
    outputs = y.shape[1]
    if training.loss == "cross-entropy":
        return Data((x, np.argmax(y, axis=1).astype(np.int32)), x.shape[1], outputs, {})
    return Data((x, y.astype(np.float32)), x.shape[1], outputs, {})


def _windows(windows: np.ndarray, vocabulary: int) -> Data:
    context = windows.shape[1] - 1
    return Data((windows[:, :-1], windows[:, 1:]), vocabulary, vocabulary, {"context": context})


def declared_model(model: NetworkModel, training: NetworkTraining, data: Data, seeds: int) -> CheckedModel:
    """One size of a declared network; the parameters of all seeds are stacked.

    Args:
        model: Without axes.
        training: Without axes.
        data: What it is checked on.
        seeds: Number of seeds.
    """
    # One draw after the other: compiling the draws of all seeds into one program takes longer than making them.
    made = [
        build_network(model, training, data.inputs, data.outputs, key=jax.random.key(seed), **data.facts)
        for seed in range(seeds)
    ]
    params = [eqx.filter(network, eqx.is_inexact_array) for network, _ in made]
    one = network_model(*made[0], training, data.batch)
    return dataclasses.replace(one, params=jax.tree.map(lambda *leaves: np.stack(leaves), *params))


def network_model(
    network: AbstractNetwork, parameterization: Parameterization, training: NetworkTraining, batch: Batch
) -> CheckedModel:
    """A network of `foretrain.networks` as the coordinate check wants it; for `make` functions that change something in it.

    The schedule is left out and the outputs at the start are not subtracted: a few steps at the full rate are meant.

    Args:
        network: At its start.
        parameterization: What the optimizer is made from.
        training: Its loss and the optimizer's numbers, without axes.
        batch: Inputs and targets, one example a row.
    """
    params, static = eqx.partition(network, eqx.is_inexact_array)
    tensors = {path: rule.tensor for path, rule in parameterization.like(params).tensors.items()}
    stacked = {path: 0 not in (*tensor.fan_in, *tensor.fan_out) for path, tensor in tensors.items()}

    def loss(params: Any, batch: Any) -> Array:
        x, y = batch
        outputs = jax.vmap(eqx.combine(params, static))(x)
        if training.loss == "mse" and not jnp.issubdtype(y.dtype, jnp.integer):
            return jnp.sum((outputs - y) ** 2) / (2 * len(x))
        logs = jax.nn.log_softmax(outputs, axis=-1)
        return -jnp.mean(jnp.take_along_axis(logs, y[..., None], axis=-1))

    def features(params: Any, batch: Any) -> dict[str, Feature]:
        network = eqx.combine(params, static)
        seen = jax.vmap(lambda x: network.observe(x)[1], out_axes=1)(batch[0])
        found: dict[str, Feature] = {"stream": Layered(seen["stream"]), "output": seen["output"]}
        for name in ("inside", "logits"):
            if name in seen:
                found[name] = Layered(seen[name])
        if "branch" in seen and "logits" in seen:
            found["attention branch"] = Layered(seen["branch"][:, :, 0])
            found["mlp branch"] = Layered(seen["branch"][:, :, 1])
        elif "branch" in seen:
            found["branch"] = Layered(seen["branch"])
        return found

    def swap(start: Any, end: Any, layer: int, feature: str) -> Any:
        # A layer of a transformer has two branches; a network of another kind has one.
        other = _MLP_PARTS if feature in ("logits", "attention branch") else _ATTENTION_PARTS
        leaves, structure = jax.tree.flatten(start)
        moved = [stacked[path] and not any(f".{part}." in path for part in other) for path in stacked]
        picked = [
            _one_layer(a, b, layer) if own else a for a, b, own in zip(leaves, jax.tree.leaves(end), moved, strict=True)
        ]
        return jax.tree.unflatten(structure, picked)

    optimizer = make_optimizer(
        parameterization.like(params),
        training.learning_rate,  # type: ignore[arg-type]
        momentum=training.momentum,  # type: ignore[arg-type]
        second_momentum=training.second_momentum,
        eps=training.epsilon,  # type: ignore[arg-type]
        weight_decay=training.weight_decay,  # type: ignore[arg-type]
        clip_norm=training.clip_norm,
    )
    return CheckedModel(params, loss, features, optimizer, tuple(map(jnp.asarray, batch)), swap)


def _one_layer(start: Array, end: Array, layer: int) -> np.ndarray:
    moved = np.array(start)
    moved[layer] = np.asarray(end)[layer]
    return moved


def growth(model: NetworkModel, axis: str) -> str:
    """What an axis of a declaration means for exponents: `"width"`, `"depth"` or `"head_dim"`.

    With `heads` declared, a wider network has larger heads; otherwise it has more of them.

    Args:
        model: The declaration.
        axis: One of its fields.

    Raises:
        InvalidInput: The model has no such axis.
    """
    known = [name for name in ("width", "depth", "heads", "head_dim") if hasattr(model, name)]
    if axis not in known:
        raise InvalidInput(
            f"coordinate_check(axis): expected one of {', '.join(known)} for a {model.kind!r}, got {axis!r}."
        )
    if axis == "depth":
        return "depth"
    if axis == "head_dim" or (axis == "width" and getattr(model, "heads", None) is not None):
        return "head_dim"
    return "width"


def with_size(model: NetworkModel, axis: str, value: float) -> NetworkModel:
    """The declaration at one size, without axes.

    Args:
        model: The declaration.
        axis: What varies.
        value: Its value.

    Raises:
        InvalidInput: Another field has several values.
    """
    one = model.replace(**{axis: value})
    for name, values in one.axes().items():
        raise InvalidInput(f"coordinate_check: one axis at a time; {name} has {len(values)} values: give it one.")
    return one


def single(training: Any) -> NetworkTraining:
    """The training, once it is sure that it is one of a network and has no axes.

    Raises:
        InvalidInput: It is not.
    """
    if not isinstance(training, NetworkTraining):
        raise InvalidInput(
            "coordinate_check(training): expected a NetworkTraining, for example NetworkTraining(0.5, optimizer='sgd'), got "
            f"{type(training).__name__}."
        )
    for name, values in training.axes().items():
        raise InvalidInput(f"coordinate_check(training): {name} has {len(values)} values: give it one.")
    return training


def only(values: Sequence[Any] | None, model: NetworkModel, axis: str) -> tuple[Any, ...]:
    """The values of the axis: those given, else those that the declaration has.

    Raises:
        InvalidInput: Neither.
    """
    found = values if values is not None else getattr(model, axis, None)
    if not isinstance(found, (tuple, list)) and not isinstance(found, np.ndarray):
        raise InvalidInput(f"coordinate_check(values): missing; give at least 4 values of {axis}.")
    return tuple(found)
