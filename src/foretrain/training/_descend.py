"""Stochastic gradient descent on one draw: simulated losses."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from foretrain.problems import SGD, OnePassSGD
from foretrain.training._batches import Times, consecutive_batches, drawn_batches, step_sizes
from foretrain.training._draw import Draw, at_noise_levels, noise_levels
from foretrain.training._evolution import Evolution, Moments, _apply
from foretrain.training._linear_student import _generator
from foretrain.training._losses import Readout, evolution
from foretrain.training._one_pass import gaussian_readouts
from foretrain.training._sgd import stepped_readouts

_BATCHES = 20


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

    Example:
        >>> import numpy as np
        >>> from foretrain.problems import SGD
        >>> from foretrain.training import descend, linear_draws
        >>> ((_, _, draw),) = linear_draws(np.array([1.0, 0.5]), np.array([1.0, 2.0]), [8], [16], seed=0)
        >>> descend(draw, SGD(learning_rate=0.3, batch_size=4), np.array([0.0, 100.0]), seed=0).test_loss[0, 0].round(6)
        array([3., 0.])
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
    # The train loss of one pass is the loss on fresh samples.
    return evolution(draw, readouts, [] if isinstance(protocol, OnePassSGD) else residuals, times, noise, ensemble)
