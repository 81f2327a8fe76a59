"""Stochastic gradient descent on one draw: simulated losses."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, eigsh

from foretrain.problems import SGD, OnePassSGD
from foretrain.training._batches import consecutive_batches, drawn_batches
from foretrain.training._draw import Draw, Samples
from foretrain.training._evolution import Evolution, Moments, _apply
from foretrain.training._linear_student import _generator
from foretrain.training._one_pass import gaussian_readouts
from foretrain.training._sgd import stepped_readouts

_BATCHES = 20
# A loss that has grown by this factor over what it was before training counts as diverged.
_BLOWN_UP = 1e6
# Up to this side all eigenvalues are found at once, beyond it the largest alone.
_SMALL = 100

Times = Float[np.ndarray, " time"]
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
            readout, targets = _at_noise_levels(
                source, noise, lambda s, b=batches: stepped_readouts(s, b, rates, times, check)
            )
            readouts.append(readout)
            residuals.append(targets[:, None] - _apply(source.matrix, readout))
        join = _mean if len(draw.sources) == 1 else _side_by_side
        joined = [join(readouts[:size]) for size in ensemble]
        test = _over_population(joined, draw.moments)
        if isinstance(protocol, SGD) and residuals:
            means = [_mean(residuals[:size]) for size in ensemble]
            train = np.stack([np.einsum("mtcs,mtcs->st", mean, mean) / len(mean) for mean in means], axis=1)
        else:
            train = test if draw.population is None else _over_population(joined, draw.population)
            train = train + np.asarray(noise)[:, None, None]
    gone = _blown_up(test, train, _before_training(draw, noise), times)
    edge = largest_eigenvalue(draw.sources[0])
    # A loss that is zero in exact arithmetic comes out as rounding of either sign.
    test, train = (np.where(gone, np.inf, np.maximum(loss, 0.0)) for loss in (test, train))
    return Evolution(test, train, np.any(gone, axis=0), edge)  # type: ignore[arg-type]


def step_sizes(protocol: SGD | OnePassSGD, times: Times) -> Float[np.ndarray, " steps"]:
    """The learning rate of every step up to the latest time."""
    steps = int(np.max(times))
    factors = np.ones(steps) if protocol.schedule is None else protocol.schedule.factors(steps)
    return protocol.learning_rate * factors  # type: ignore[return-value, operator]


def largest_eigenvalue(source: Samples | Moments) -> float:
    """Of the tangent matrix that full-batch descent on a source would have."""
    if isinstance(source, Moments):
        matrix = source.second
        if matrix.ndim == 1:
            return float(matrix.max())
        product, side = (lambda v: matrix @ v), len(matrix)
    else:
        matrix, count = source.matrix, len(source.targets)
        side = min(matrix.shape)
        if source.is_gram:
            product = lambda v: matrix @ v / count  # noqa: E731
        elif side == count:
            product = lambda v: matrix @ (matrix.T @ v) / count  # noqa: E731
        else:
            product = lambda v: matrix.T @ (matrix @ v) / count  # noqa: E731
    if side <= _SMALL:
        return float(np.linalg.eigvalsh(product(np.eye(side)))[-1])
    operator = LinearOperator((side, side), matvec=product, dtype=np.float64)  # type: ignore[call-arg]
    start = np.random.default_rng(0).standard_normal(side)
    return float(eigsh(operator, k=1, which="LA", v0=start, return_eigenvectors=False)[0])


def _at_noise_levels(
    source: Samples, noise: Sequence[float], run: Callable[[Samples], np.ndarray]
) -> tuple[Readout, Float[np.ndarray, "samples outputs noise"]]:
    """Readouts and targets at every noise level: steps are linear in the targets, so never more columns than parts are run."""
    parts = source.targets.shape[-1]
    levels = np.array([[1.0, np.sqrt(variance)][:parts] for variance in noise]).T
    targets = source.targets @ levels
    if len(noise) <= parts:
        return run(Samples(source.matrix, targets, source.is_gram)), targets
    return run(source) @ levels, targets


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


def _before_training(draw: Draw, noise: Sequence[float]) -> Float[np.ndarray, " noise"]:
    source = draw.sources[0]
    if isinstance(source, Moments):
        return np.array([max(draw.moments.power, source.power + variance) for variance in noise])
    _, targets = _at_noise_levels(source, noise, lambda s: s.targets)
    return np.maximum(draw.moments.power, np.mean(np.sum(targets**2, axis=1), axis=0))


def _blown_up(test: Losses, train: Losses, before: Float[np.ndarray, " noise"], times: Times) -> np.ndarray:
    """Where a run is beyond recovery, and all of its later times."""
    limit = _BLOWN_UP * before[:, None, None]
    with np.errstate(invalid="ignore"):
        gone = ~((test <= limit) & (train <= limit))
    order = np.argsort(times, kind="stable")
    gone[..., order] = np.logical_or.accumulate(gone[..., order], axis=-1)
    return gone
