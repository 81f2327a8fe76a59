r"""One-pass SGD on Gaussian inputs at infinite width, without the approximation of large batches.

The power $c_k=\langle v_k^2\rangle$ of what is left in each mode obeys a closed recursion (docs/theory/sgd.md, (SG.20))

$$c_k\leftarrow\Big[(1-\eta\lambda_k)^2+\tfrac{\eta^2\lambda_k^2}B\Big]c_k+\frac{\eta^2}B\lambda_k\Big(\sum_j\lambda_jc_j+\sigma^2\Big),$$

whose generating function is a sum over modes: any step costs the same.
"""

import jax
import jax.numpy as jnp
import numpy as np

from foretrain.limits.linear import _contour as contour
from foretrain.limits.linear._compile import compiled
from foretrain.limits.linear._embedding import MOST_STEPS, scheduled_noise
from foretrain.limits.linear._measure import SpectralMeasure

ROW_SIZES = (16, 128, 1024)


def gaussian_gain(measure: SpectralMeasure, learning_rate: float, batch_size: float) -> float:
    r"""The gain of one-pass SGD on Gaussian inputs, $\sum_k\frac{\eta\lambda_k}{B(2-\eta\lambda_k)-\eta\lambda_k}$; `inf` if a mode alone is unstable."""
    x = learning_rate * np.asarray(measure.eigenvalues, float)
    room = batch_size * (2.0 - x) - x
    live = np.asarray(measure.trace) != 0
    if np.any(room[live] <= 0.0):
        return np.inf
    return float(np.sum(learning_rate * np.asarray(measure.trace)[live] / room[live]))


def gaussian_thresholds(measure: SpectralMeasure, learning_rate: float, batch_size: float) -> dict[str, float]:
    """The gain, the largest stable rate for the batch and the smallest stable batch for the rate."""
    top = float(np.max(np.asarray(measure.eigenvalues)))

    def crossing(stable, low, high):
        """Where stability ends between a stable and an unstable value, by bisection."""
        for _ in range(100):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if stable(middle) else (low, middle)
        return 0.5 * (low + high)

    rate = crossing(lambda rate: gaussian_gain(measure, rate, batch_size) < 1.0, 0.0, 2.0 / top)
    batch = np.inf
    if learning_rate * top < 2.0:
        # The gain times the batch falls with the batch, so 1 / batch is bracketed by 0 and its value at the top mode alone.
        inverse = (2.0 - learning_rate * top) / (learning_rate * top)
        batch = 1.0 / crossing(lambda b: b == 0.0 or gaussian_gain(measure, learning_rate, 1.0 / b) < 1.0, 0.0, inverse)
    return {
        "max_stable_lr": rate,
        "critical_batch": batch,
        "sgd_gain": gaussian_gain(measure, learning_rate, batch_size),
    }


def gaussian_losses(measure: SpectralMeasure, padded: SpectralMeasure, times, rates, batch_size: float, noise: float):
    """Train and test losses, (2, time), with their error estimates.

    Args:
        measure: the spectrum.
        padded: the same, padded to a compiled size.
        times: steps, `inf` allowed.
        rates: learning rates, one a step; the last one goes on for ever and is stable.
        batch_size: $B$.
        noise: variance of the label noise.
    """
    rate = float(rates[-1])
    losses = np.full((2, times.size), np.nan)
    start, end = times == 0, np.isinf(times)
    losses[:, start] = np.array([[np.sum(measure.signal) + noise], [measure.initial_loss]])
    if np.any(end) and rate > 0.0:
        losses[:, end] = _final(measure, rate, batch_size, noise)[:, None]
    errors = np.zeros_like(losses)
    where = np.flatnonzero(~start & ~end)
    if where.size and np.any(rates != rate):
        if min(len(rates), times[where].max()) > MOST_STEPS:
            errors[:, where] = np.inf
        else:
            edge = float(np.max(measure.eigenvalues))
            sizes = (1.0 / batch_size, 0.0, 0.0, noise)
            losses[:, where], errors[:, where] = scheduled_noise(measure, times[where], rates, sizes, edge, True)
    elif where.size:
        fine, coarse = (
            _sum(padded, times[where], rate, batch_size, noise, *points)
            for points in (
                (contour.OPEN_POINTS, contour.GENERATING_POINTS),
                (contour.CHECK_POINTS, contour.GENERATING_CHECK),
            )
        )
        losses[:, where], errors[:, where] = fine, np.abs(fine - coarse)
    return losses, errors


def _sum(padded, times, rate, batch_size, noise, open_points: int, closed_points: int):
    shift, a = contour.step_points(np.maximum(times, contour.FIRST_OPEN_STEP), open_points)
    extra = ((0, 0), (0, contour.GENERATING_POINTS - open_points))
    shift, a = np.pad(shift, extra, mode="edge"), np.pad(a, extra)
    early = times < contour.FIRST_OPEN_STEP
    if np.any(early):
        closed, weight = contour.generating_ellipse(closed_points)
        extra = (0, contour.GENERATING_POINTS - closed_points)
        closed, weight = np.pad(closed, extra, mode="edge"), np.pad(weight, extra)
        shift[early], a[early] = closed, weight * (1.0 + closed) ** times[early][:, None]
    rows = next((size for size in ROW_SIZES if size >= times.size), times.size)
    shift, a = (np.pad(part, ((0, rows - times.size), (0, 0)), mode="edge") for part in (shift, a))
    with jax.enable_x64(True):
        return np.asarray(gaussian_program(padded, shift, a, rate, 1.0 / batch_size, noise)).T[:, : times.size]


def _final(measure: SpectralMeasure, rate: float, batch_size: float, noise: float):
    lam = np.asarray(measure.eigenvalues, float)
    seen = lam > 0
    x = rate * lam[seen]
    decay = x * (2.0 - x) - x * x / batch_size
    strength = rate * rate / batch_size
    train = noise / (1.0 - strength * np.sum(np.asarray(measure.trace)[seen] * lam[seen] / decay))
    if measure.shift is None:
        return np.array([train, train - noise])
    reached = strength * np.sum(np.asarray(measure.shift)[seen] * lam[seen] / decay)
    return np.array([train, reached * train + np.sum(np.asarray(measure.shift_signal)[~seen])])


def gaussian_transforms(measure: SpectralMeasure, shift, rate, inv_batch, noise):
    r"""$(x-1)$ times the transforms of the train and of the test loss of one-pass SGD on Gaussian inputs, infinite width."""
    lam = measure.eigenvalues
    decay = rate * lam * (2.0 - rate * lam) - inv_batch * (rate * lam) ** 2
    u = 1.0 / (shift[:, None] + decay[None])
    strength = rate * rate * inv_batch
    train = (shift * (u @ measure.signal) + noise) / (1.0 - strength * (u @ (measure.trace * lam)))
    if measure.shift is None:
        return jnp.stack([train, train - noise])
    test = shift * (u @ measure.shift_signal) + strength * (u @ (measure.shift * lam)) * train
    return jnp.stack([train, test])


@compiled
def gaussian_program(measure: SpectralMeasure, shift, a, rate, inv_batch, noise):
    """Train and test losses of one-pass SGD on Gaussian inputs; a row of points per step."""

    def row(carry):
        shift, a = carry
        return 2.0 * jnp.sum(a[None] * gaussian_transforms(measure, shift, rate, inv_batch, noise), -1).real

    return jax.lax.map(row, (shift, a))
