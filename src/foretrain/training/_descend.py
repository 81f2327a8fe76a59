"""Stochastic gradient descent on one draw: simulated losses."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Float

from foretrain.problems import SGD, OnePassSGD
from foretrain.training._batches import Times, consecutive_batches, drawn_batches, step_sizes
from foretrain.training._draw import Draw, at_noise_levels, noise_levels
from foretrain.training._evolution import Evolution, Moments, _apply
from foretrain.training._linear_student import _generator
from foretrain.training._one_pass import gaussian_readouts
from foretrain.training._sgd import stepped_readouts
from foretrain.training._stability import before_training, blown_up, largest_eigenvalue

_BATCHES = 20

Readout = Float[np.ndarray, "features time outputs noise"]
Losses = Float[np.ndarray, "noise ensemble time"]


def descend(
    draw: Draw,
    protocol: SGD | OnePassSGD,
    times: Times,
    seed: int,
    *,
    noise: Sequence[float] = (0.0,),
    ensemble: Sequence[int] = (1,),
    check: Callable[[], None] = lambda: None,
) -> Evolution:
    """Simulated test and train losses of a draw of students under stochastic gradient descent.

    What a student's batches are drawn from follows from the seed and the student alone: learning rates, sizes and noise
    levels of a sweep share it.

    Args:
        draw: Students on the same data. One pass over samples takes them in order; one pass over a population draws fresh
            Gaussian ones.
        protocol: A protocol without axes.
        times: Numbers of steps, in any order.
        seed: What the batches are drawn from.
        noise: Label-noise variances.
        ensemble: Numbers of students whose predictions are averaged; each student has its own batches.
        check: Called now and then; may raise to stop.

    Returns:
        As `evolve`. A run counts as diverged from where a loss is a million times what it was before training.
    """
    rates = step_sizes(protocol, times)
    batch: int = protocol.batch_size  # type: ignore[assignment]
    readouts: list[Readout] = []
    residuals: list[np.ndarray] = []
    with jax.enable_x64(True), np.errstate(over="ignore", invalid="ignore"):
        # Infinitely wide students all have the same features; only their batches differ.
        sources = draw.sources * max(ensemble) if len(draw.sources) == 1 else draw.sources
        for student, source in enumerate(sources[: max(ensemble)]):
            generator = _generator(seed, _BATCHES, student)
            if isinstance(source, Moments):
                readouts.append(gaussian_readouts(source, batch, rates, times, generator, noise, check))
                continue
            if isinstance(protocol, OnePassSGD):
                batches = consecutive_batches(batch)
            else:
                batches = drawn_batches(len(source.targets), batch, protocol.replacement, generator)
            # Steps are linear in the targets: never are more columns run than the targets have parts.
            at_levels = at_noise_levels(source, noise)
            if len(noise) <= source.targets.shape[-1]:
                readout = stepped_readouts(at_levels, batches, rates, times, check)
            else:
                readout = stepped_readouts(source, batches, rates, times, check) @ noise_levels(source, noise)
            readouts.append(readout)
            residuals.append(at_levels.targets[:, None] - _apply(source.matrix, readout))
        join = _mean if len(draw.sources) == 1 else _side_by_side
        joined = [join(readouts[:size]) for size in ensemble]
        test = _over_population(joined, draw.moments)
        if isinstance(protocol, SGD) and residuals:
            means = [_mean(residuals[:size]) for size in ensemble]
            train = np.stack([np.einsum("mtcs,mtcs->st", mean, mean) / len(mean) for mean in means], axis=1)
        else:
            train = test if draw.population is None else _over_population(joined, draw.population)
            train = train + np.asarray(noise)[:, None, None]
    gone = blown_up(test, train, before_training(draw, noise), times)
    edge = largest_eigenvalue(draw.sources[0])
    # A loss that is zero in exact arithmetic comes out as rounding of either sign.
    test, train = (np.where(gone, np.inf, np.maximum(loss, 0.0)) for loss in (test, train))
    return Evolution(test, train, np.any(gone, axis=0), edge)  # type: ignore[arg-type]


def _mean(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return sum(arrays[1:], start=arrays[0]) / len(arrays)


def _side_by_side(readouts: Sequence[Readout]) -> Readout:
    """One readout of all students' features, one after the other, that predicts the mean of what the students predict."""
    return np.concatenate(readouts) / len(readouts)


def _over_population(readouts: Sequence[Readout], moments: Moments) -> Losses:
    """Mean squared errors over a population."""
    found = []
    for readout in readouts:
        width = len(readout)
        second = moments.second[(slice(width),) * moments.second.ndim]
        overlap = np.einsum("fc,ftcs->st", moments.cross[:width], readout)
        found.append(np.einsum("ftcs,ftcs->st", readout, _apply(second, readout)) - 2 * overlap + moments.power)
    return np.stack(found, axis=1)
