"""Losses of networks whose weights were rounded after training."""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int32

from foretrain._formats import top_level
from foretrain.networks import Linear
from foretrain.networks._gptq import gptq_from_gram
from foretrain.networks._low_precision import is_map, map_maps

if TYPE_CHECKING:
    from foretrain.training._network_loop import Run

# Examples whose second moments are taken at once: each holds a square matrix for every linear map.
_CALIBRATED_AT_ONCE = 16

PostLosses = Float[np.ndarray, "seeds points post"]


def deployed_losses(run: "Run") -> tuple[PostLosses, PostLosses]:
    """Mean train and test losses for every number of bits of the sweep, with weights rounded by the declared method.

    What is rounded are the weights as the network computes with them: those of a run in low precision are rounded twice.

    Args:
        run: Runs at the moment.
    """
    sweep, params = run.sweep, run.state[0]
    moments: Any = None
    if sweep.training.precision.post_method == "gptq":
        params = run.program.round_weights(params, run.hyper, None)
        moments = run.program.grams(params, run.data, jnp.asarray(np.stack([_calibration(run, s) for s in run.seeds])))
        moments = [np.asarray(part, np.float64) for part in moments]
    found = []
    for bits in sweep.post:
        if moments is None:
            rounded = run.program.round_weights(params, run.hyper, np.asarray(top_level(bits), sweep.training.dtype))
        else:
            rounded = _by_gptq(params, moments, bits)
        found.append([part[..., 0] for part in run.losses_of(rounded, deployed=True)])
    train, test = (np.stack(part, axis=-1) for part in zip(*found, strict=True))
    return train, test


def _calibration(run: "Run", seed: int) -> Int32[np.ndarray, "blocks size"]:
    """The examples that the train loss is evaluated on, in blocks; what does not fill a block is left out."""
    examples, _ = run.sweep.data.evaluated(seed)
    size = min(_CALIBRATED_AT_ONCE, len(examples))
    return examples[: len(examples) // size * size].reshape(-1, size)


def _by_gptq(params: Any, moments: list[np.ndarray], bits: int) -> Any:
    """The weights of every run and every layer of a stack, rounded one matrix at a time."""
    waiting = iter(moments)

    def rounded(one: Linear) -> Linear:
        gram = next(waiting)
        weights = np.asarray(one.weight, np.float64)
        lead = gram.shape[:-2]  # seeds, points and perhaps a stack of layers
        result = np.full_like(weights, np.nan)
        for place in np.ndindex(*lead):
            matrix = weights[place].reshape(weights.shape[len(lead)], -1)
            if np.all(np.isfinite(matrix)) and np.all(np.isfinite(gram[place])):
                result[place] = gptq_from_gram(matrix, gram[place], bits).reshape(weights[place].shape)
        return dataclasses.replace(one, weight=jnp.asarray(result, one.weight.dtype))

    assert len(moments) == sum(map(is_map, jax.tree.leaves(params, is_leaf=is_map)))
    return map_maps(rounded, params)
