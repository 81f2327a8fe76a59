"""Sizes of features and of their changes over a few steps of training."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from foretrain.diagnostics._model import CheckedModel, Feature, Layered, Swap, kind_of
from foretrain.errors import InvalidInput
from foretrain.parameterization import Parameterization, make_optimizer

MOST_LAYERS = 5
"""Layers of each feature that are looked at: that many, at equal distances."""

Sizes = dict[tuple[str, str], Float[np.ndarray, "seeds layers"]]
"""(feature, measure) to sizes, with measure `start`, `change` or `own change`."""

# These programs run a few times each: most of the time would go into optimizing them.
_QUICKLY = {"xla_backend_optimization_level": 0}
_OWN = ("inside", "branch", "logits")


def measure_sizes(model: CheckedModel, steps: int, deepens: bool) -> Sizes:
    """Root mean squares over all entries of every feature and of its change after `steps` steps on the same batch.

    Args:
        model: Its parameters have one more axis, the first: seeds.
        steps: Steps of the optimizer.
        deepens: Whether the number of layers is what varies, as for `shown_layers`.

    Raises:
        InvalidInput: A feature is of unknown kind, or the optimizer is none.
    """
    optimizer = model.optimizer
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise InvalidInput(
            f"coordinate_check(optimizer): expected an Optax optimizer or a Parameterization, got {type(optimizer).__name__}."
        )

    def train(start: Any) -> Any:
        def step(_: int, carried: tuple[Any, Any]) -> tuple[Any, Any]:
            params, state = carried
            gradients = jax.grad(model.loss)(params, model.batch)
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, steps, step, (start, optimizer.init(start)))[0]

    counts: dict[str, int] = {}

    def read(params: Any) -> dict[str, list[Array]]:
        found = {}
        for name, value in model.features(params, model.batch).items():
            counts[name] = _count(value)
            found[name] = [_layer(value, i) for i in shown_layers(counts[name], deepens)]
        return found

    # Two programs, each compiled once: the second also reads networks in which one layer's weights alone have moved.
    reader = jax.jit(jax.vmap(read), compiler_options=_QUICKLY)
    start = jax.device_get(model.params)
    end = jax.device_get(jax.jit(jax.vmap(train), compiler_options=_QUICKLY)(model.params))
    before, after = jax.device_get(reader(start)), jax.device_get(reader(end))
    kinds = {name: kind_of(name) for name in counts}
    found: Sizes = {}
    for name in counts:
        found[name, "start"] = np.stack([_rms(a) for a in before[name]], axis=1)
        found[name, "change"] = np.stack([_rms(b - a) for a, b in zip(before[name], after[name], strict=True)], axis=1)
    if model.swap is not None:
        for name in [name for name, kind in kinds.items() if kind in _OWN]:
            sizes = []
            for i, layer in enumerate(shown_layers(counts[name], deepens)):
                moved = reader(_swapped(model.swap, start, end, layer, name))[name][i]
                sizes.append(_rms(np.asarray(moved) - before[name][i]))
            found[name, "own change"] = np.stack(sizes, axis=1)
    return found


def shown_layers(count: int, deepens: bool) -> list[int]:
    """The layers that are looked at, of `count`.

    Args:
        count: Number of layers.
        deepens: Whether models of other sizes have other numbers of layers: then always the first, the last and those at
            quarters, repeated where there are few; else all of a few.
    """
    if count == 1 or (count <= MOST_LAYERS and not deepens):
        return list(range(count))
    return [round(i * (count - 1) / (MOST_LAYERS - 1)) for i in range(MOST_LAYERS)]


def optimizer_of(optimizer: Any, params: Any, learning_rate: float | None) -> Any:
    """An Optax optimizer, made from a parameterization where that is given.

    Args:
        optimizer: Either.
        params: Parameters.
        learning_rate: For a parameterization.

    Raises:
        InvalidInput: A parameterization without a learning rate.
    """
    if not isinstance(optimizer, Parameterization):
        return optimizer
    if learning_rate is None:
        raise InvalidInput(
            "coordinate_check(learning_rate): missing; a Parameterization has factors on a rate, so give the rate, near the "
            "largest that is stable at the smallest size."
        )
    return make_optimizer(optimizer.like(params), learning_rate)


def _swapped(swap: Swap, start: Any, end: Any, layer: int, name: str) -> Any:
    """`swap` for every seed."""
    seeds = len(jax.tree.leaves(start)[0])
    one = [jax.tree.map(lambda leaf, s=seed: leaf[s], (start, end)) for seed in range(seeds)]
    found = [swap(before, after, layer, name) for before, after in one]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *found)


def _count(feature: Feature) -> int:
    if isinstance(feature, Layered):
        return feature.array.shape[0]
    return len(feature) if isinstance(feature, (list, tuple)) else 1


def _layer(feature: Feature, index: int) -> Array:
    if isinstance(feature, Layered):
        return feature.array[index]
    return feature[index] if isinstance(feature, (list, tuple)) else jnp.asarray(feature)


def _rms(values: np.ndarray) -> Float[np.ndarray, " seeds"]:
    """Root mean square over everything but the seeds, in float64: squares of small changes would underflow in float32."""
    flat = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    return np.sqrt(np.mean(flat**2, axis=1))
