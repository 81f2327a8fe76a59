r"""Plans with minibatches: how to split a compute budget between width, batch, steps and learning rate."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Float

from foretrain.errors import InvalidInput
from foretrain.limits.linear import _contour as contour
from foretrain.limits.linear._edge import max_stable_lr, spectral_edge
from foretrain.limits.linear._measure import SpectralMeasure, node_size
from foretrain.limits.linear._programs import open_program
from foretrain.limits.linear._stochastic import mirrored_points, open_noise_program, open_steps

POINTS_PER_CALL = 32
# First grid over widths and over rates (as shares of the largest one), and how often it is narrowed around its best point.
WIDTHS, RATES, LOWEST_SHARE = 25, 13, 1e-3
ZOOMS, ZOOM_POINTS, ZOOM = 4, 7, 0.3
# Stay clear of the threshold, where single runs no longer follow the mean.
LARGEST_GAIN_SHARE = 0.98


@dataclasses.dataclass(frozen=True, eq=False)
class SGDFrontier:
    r"""The best use of a compute budget $C=NBt$ (width times samples processed), for each batch size.

    Attributes:
        compute: $C$.
        batch_size: $B$.
        width: the best $N$.
        steps: the best $t=C/(NB)$.
        learning_rate: the best constant rate, or the one that was given.
        test_loss: the loss reached.
        sgd_noise: the part of it that the noise of the batches is responsible for.
        interior: whether the best width lies inside the range that was searched.
    """

    compute: Float[np.ndarray, " budget"]
    batch_size: Float[np.ndarray, " batch"]
    width: Float[np.ndarray, "budget batch"]
    steps: Float[np.ndarray, "budget batch"]
    learning_rate: Float[np.ndarray, "budget batch"]
    test_loss: Float[np.ndarray, "budget batch"]
    sgd_noise: Float[np.ndarray, "budget batch"]
    interior: np.ndarray


def sgd_frontier(
    measure: SpectralMeasure,
    compute,
    batch_size=(1.0,),
    samples=np.inf,
    noise: float = 0.0,
    learning_rate: float | None = None,
    widths: tuple[float, float] | None = None,
) -> SGDFrontier:
    r"""Width, steps and learning rate of SGD that minimize the test loss at fixed compute $C=NBt$, for each batch size.

    One pass over fresh data for `samples = inf`, many passes over $P$ samples otherwise. In one pass a smaller batch never costs
    compute (its rate shrinks with it), so what the frontier over batches shows is how large a batch, and how few steps, the
    budget affords. Rates are searched up to the stable range, $1/u_{\max}$ at most; runs have at least 12 steps.

    Args:
        measure: spectrum and target.
        compute: budgets $C$, width times samples processed.
        batch_size: batch sizes $B$.
        samples: $P$, `inf` is one pass.
        noise: variance of the label noise.
        learning_rate: a rate to keep, instead of the best one.
        widths: smallest and largest width considered; by default from 1 to what leaves 12 steps.

    Returns:
        The frontier; losses good to about 1e-6, widths and rates to about one per cent (the optimum is flat).

    Raises:
        InvalidInput: budgets or batches that are not positive, or a budget without room for 12 steps.

    Example:
        >>> import numpy as np
        >>> from foretrain.limits.linear import sgd_frontier, spectral_measure
        >>> k = np.arange(1, 1001)
        >>> plan = sgd_frontier(spectral_measure(k**-1.5, k**-0.5), [1e5], batch_size=[1, 1000])
        >>> bool(plan.test_loss[0, 0] < plan.test_loss[0, 1])  # a batch of a thousand leaves too few steps
        True
    """
    compute, batch = (np.atleast_1d(np.asarray(value, float)) for value in (compute, batch_size))
    for name, values in (("compute", compute), ("batch_size", batch)):
        if not np.all(np.isfinite(values) & (values > 0)):
            raise InvalidInput(f"sgd_frontier({name}): expected finite numbers > 0, got {values.min():g}.")
    if learning_rate is not None and not learning_rate > 0:
        raise InvalidInput(f"sgd_frontier(learning_rate): expected a number > 0, got {learning_rate:g}.")
    lowest = 1.0 if widths is None else float(widths[0])
    found = np.empty((5, compute.size, batch.size))
    inside = np.empty((compute.size, batch.size), bool)
    for i, budget in enumerate(compute):
        for j, size in enumerate(batch):
            most = budget / (size * contour.FIRST_OPEN_STEP)
            highest = most if widths is None else min(float(widths[1]), most)
            if highest <= lowest:
                raise InvalidInput(
                    f"sgd_frontier(compute): expected at least {lowest * size * contour.FIRST_OPEN_STEP:g} for width {lowest:g}, "
                    f"batches of {size:g} and {contour.FIRST_OPEN_STEP} steps, got {budget:g}."
                )
            search = _Search(measure, budget, size, samples, noise, learning_rate)
            found[:, i, j], inside[i, j] = search.best(np.log(lowest), np.log(highest))
    return SGDFrontier(compute, batch, *found, interior=inside)


class _Search:
    """Minimizes over log width and log rate by a grid that is narrowed around its best point."""

    def __init__(self, measure, budget, batch, samples, noise, rate):
        self.measure, self.budget, self.batch, self.samples = measure, budget, batch, samples
        self.noise, self.rate = noise, rate

    def best(self, low: float, high: float):
        x = np.linspace(low, high, WIDTHS)
        s = np.array([0.0]) if self.rate is not None else np.linspace(np.log(LOWEST_SHARE), 0.0, RATES)
        width_step, share_step = x[1] - x[0], (s[1] - s[0] if s.size > 1 else 0.0)
        losses = self._losses(x, s)
        at = np.unravel_index(np.nanargmin(losses), losses.shape)
        inside = 0 < at[0] < WIDTHS - 1
        centre = np.array([x[at[0]], s[at[1]]])
        offsets = np.linspace(-1.0, 1.0, ZOOM_POINTS)
        for _ in range(ZOOMS):
            x = np.clip(centre[0] + width_step * offsets, low, high)
            s = (
                np.clip(centre[1] + share_step * offsets, np.log(LOWEST_SHARE), 0.0)
                if self.rate is None
                else np.zeros(1)
            )
            losses = self._losses(x, s)
            at = np.unravel_index(np.nanargmin(losses), losses.shape)
            centre = np.array([x[at[0]], s[at[1]]])
            width_step, share_step = ZOOM * width_step, ZOOM * share_step
        width = np.exp(centre[0])
        rate = float(self._rates(centre[:1], centre[1:])[0, 0])
        steps = self.budget / (width * self.batch)
        loss, part = sgd_losses_at(self.measure, steps, width, self.samples, rate, self.batch, self.noise)
        return np.array([width, steps, rate, loss[0], part[0]]), inside

    def _rates(self, x, s):
        """Rates over (width, share)."""
        width = np.exp(x)
        stable = LARGEST_GAIN_SHARE * max_stable_lr(self.measure, width, self.samples, batch_size=self.batch)
        most = np.minimum(stable, 1.0 / spectral_edge(self.measure, width, self.samples))
        if self.rate is not None:
            return np.where(self.rate <= most, self.rate, np.nan)[:, None]
        return most[:, None] * np.exp(s)[None, :]

    def _losses(self, x, s):
        rates = self._rates(x, s)
        width = np.broadcast_to(np.exp(x)[:, None], rates.shape)
        fine = np.isfinite(rates)
        losses = np.full(rates.shape, np.inf)
        if np.any(fine):
            steps = self.budget / (width[fine] * self.batch)
            losses[fine] = sgd_losses_at(
                self.measure, steps, width[fine], self.samples, rates[fine], self.batch, self.noise
            )[0]
        return losses


def sgd_losses_at(measure: SpectralMeasure, steps, width, samples, learning_rate, batch_size, noise=0.0):
    r"""Test losses of SGD, and their noise parts, at points that each have their own settings (all broadcast).

    Args:
        measure: the spectrum.
        steps: numbers of steps, real and >= 12.
        width: $N$.
        samples: $P$.
        learning_rate: $\eta$, stable, at most $1/u_{\max}$.
        batch_size: $B$.
        noise: variance of the label noise.
    """
    values = (steps, width, samples, learning_rate, batch_size, noise)
    steps, width, samples, rate, batch, noise = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(v, float)) for v in values)
    )
    half, a = open_steps(steps, contour.OPEN_POINTS)
    shift = contour.step_points(steps, contour.OPEN_POINTS)[0]
    z, mirrored = shift / rate[:, None], mirrored_points(half, rate[:, None])
    result = np.empty((2, steps.size))
    with jax.enable_x64(True):
        nodes = jax.device_put(jax.tree.map(np.asarray, measure.pad(node_size(measure.nodes))))
        for begin in range(0, steps.size, POINTS_PER_CALL):
            index = np.minimum(np.arange(begin, begin + POINTS_PER_CALL), steps.size - 1)
            sizes = (1.0 / width[index], 1.0 / samples[index], noise[index])
            descent, good = open_program(nodes, z[index, None], a[index, None], *sizes, 1, ("both",))
            points = (part[index, None] for part in (mirrored, half, a))
            noises, fine = open_noise_program(nodes, *points, rate[index], 1.0 / batch[index], *sizes, 1)
            piece = slice(begin, begin + POINTS_PER_CALL)
            good = (np.asarray(good) & np.asarray(fine))[:, 0]
            parts = np.stack([np.asarray(descent)[:, 0, 0, 0], np.asarray(noises)[:, 1, 0]])
            result[:, piece] = np.where(good, parts, np.nan)[:, : steps[piece].size]
    return result.sum(0), result[1]
