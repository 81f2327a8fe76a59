"""From the readouts of a stepped run to its losses; when it has blown up, and where full-batch descent would."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, eigsh

from foretrain.training._batches import Times
from foretrain.training._draw import Draw, Samples, at_noise_levels
from foretrain.training._evolution import Evolution, Moments, _apply

# Up to this side all eigenvalues are found at once, beyond it the largest alone.
_SMALL = 100
# A loss that has grown by this factor over what it was before training counts as diverged.
_BLOWN_UP = 1e6

Losses = Float[np.ndarray, "noise ensemble time"]
Readout = Float[np.ndarray, "features time outputs noise"]
Residual = Float[np.ndarray, "samples time outputs noise"]


def evolution(
    draw: Draw,
    readouts: Sequence[Readout],
    residuals: Sequence[Residual],
    times: Times,
    noise: Sequence[float],
    ensemble: Sequence[int],
    added: Callable[[int], tuple[np.ndarray, np.ndarray]] | None = None,
) -> Evolution:
    """Losses of a run.

    Args:
        draw: What was trained.
        readouts: Of every student. If the draw has one student, others are equally wide copies of it with the same features.
        residuals: Of every student on its samples; empty if the train loss is that on fresh samples.
        times: In the order of the readouts.
        noise: Label-noise variances, in the order of the readouts.
        ensemble: Numbers of students whose predictions are averaged.
        added: For a number of students, what else their test and their train loss hold, by noise and time.
    """
    join = _mean if len(draw.sources) == 1 else _side_by_side
    with np.errstate(over="ignore", invalid="ignore"):
        joined = [join(readouts[:size]) for size in ensemble]
        test = _over_population(joined, draw.moments)
        if residuals:
            means = [_mean(residuals[:size]) for size in ensemble]
            train = np.stack([np.einsum("mtcs,mtcs->st", mean, mean) / len(mean) for mean in means], axis=1)
        else:
            train = test if draw.population is None else _over_population(joined, draw.population)
            train = train + np.asarray(noise)[:, None, None]
        if added is not None:
            more = [added(size) for size in ensemble]
            test, train = (loss + np.stack([m[i] for m in more], axis=1) for i, loss in enumerate((test, train)))
    gone = _blown_up(test, train, _before_training(draw, noise), times)
    # A loss that is zero in exact arithmetic comes out as rounding of either sign.
    test, train = (np.where(gone, np.inf, np.maximum(loss, 0.0)) for loss in (test, train))
    return Evolution(test, train, np.any(gone, axis=0), largest_eigenvalue(draw.sources[0]))  # type: ignore[arg-type]


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
    targets = at_noise_levels(source, noise).targets
    return np.maximum(draw.moments.power, np.mean(np.sum(targets**2, axis=1), axis=0))


def _blown_up(test: Losses, train: Losses, before: Float[np.ndarray, " noise"], times: Times) -> np.ndarray:
    """Where a run is beyond recovery, and all of its later times."""
    limit = _BLOWN_UP * before[:, None, None]
    with np.errstate(invalid="ignore"):
        gone = ~((test <= limit) & (train <= limit))
    order = np.argsort(times, kind="stable")
    gone[..., order] = np.logical_or.accumulate(gone[..., order], axis=-1)
    return gone
