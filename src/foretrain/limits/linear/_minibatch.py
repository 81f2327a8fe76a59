"""The noise of minibatches at the level of arrays: plans the contours of SGD, pads, runs the programs, estimates errors."""

import jax
import numpy as np

from foretrain.limits.linear import _contour as contour
from foretrain.limits.linear._edge import level_roots, spectral_edge
from foretrain.limits.linear._embedding import MOST_STEPS, scheduled_noise
from foretrain.limits.linear._measure import SpectralMeasure
from foretrain.limits.linear._points import one_point
from foretrain.limits.linear._static import ridge_program
from foretrain.limits.linear._stochastic import (
    StochasticDescent,
    closed_noise_program,
    closed_path,
    closed_steps,
    mirrored_points,
    open_noise_program,
    open_steps,
)

TIME_SIZES = (16, 128, 1024)
# Problems per compiled call: small enough for the working set to stay in the cache.
BATCH = 4


def minibatch_noise(
    measure: SpectralMeasure, padded: SpectralMeasure, times, dynamics: StochasticDescent, sizes, spread
):
    """Train losses of SGD and what minibatches add to its test losses, for a batch of stable problems.

    Args:
        measure: the spectrum.
        padded: the same, padded to a compiled size.
        times: steps, `inf` allowed.
        dynamics: SGD.
        sizes: vectors over problems of the strength of the minibatch noise, 1/N, 1/P, and the variance of the label noise.
        spread: `spread(function, jobs)`, an ordered map.

    Returns:
        Train losses and noise parts of the test losses (the whole test losses with `exact_gaussian`), (2, problem, time), their
        error estimates, and flags (problem, time).
    """
    run = _Noise(measure, padded, times, dynamics, sizes, spread)
    if dynamics.constant:
        run.open()
        run.closed()
    else:
        run.scheduled()
    run.end()
    if dynamics.exact_gaussian:
        run.whole_test_losses()
    return run.losses, run.errors, run.good


class _Noise:
    def __init__(self, measure, padded, times, dynamics: StochasticDescent, sizes, spread):
        self.measure, self.padded, self.times, self.spread = measure, padded, times, spread
        self.dynamics, self.rate, self.stretch = dynamics, float(dynamics.rates[-1]), dynamics.stretch
        self.sizes, noise = sizes, sizes[-1]
        self.problems = np.arange(noise.size)
        self.losses = np.zeros((2, noise.size, times.size))
        self.losses[0] = np.sum(measure.signal) + noise[:, None]
        self.errors = np.zeros_like(self.losses)
        self.good = np.ones((noise.size, times.size), bool)

    def open(self):
        where = np.flatnonzero((self.times >= contour.FIRST_OPEN_STEP) & np.isfinite(self.times))
        if where.size == 0 or self.problems.size == 0:
            return
        order = where[np.argsort(self.times[where])]
        rows = next((size for size in TIME_SIZES if size >= len(order)), len(order))
        contours = [open_steps(self.times[order], n, self.stretch) for n in (contour.OPEN_POINTS, contour.CHECK_POINTS)]
        contours = [_filled(*parts, rows, contour.OPEN_POINTS) for parts in contours]
        half, a = (np.stack(pair) for pair in zip(*contours, strict=True))
        z = mirrored_points(half, self.rate * self.stretch)
        batch = 1 if self.problems.size == 1 else BATCH
        chunks = [self.problems[i : i + batch] for i in range(0, self.problems.size, batch)]

        def run(chunk):
            index = np.repeat(np.pad(chunk, (0, batch - len(chunk)), mode="edge"), 2)
            both = (np.tile(part, (batch, 1, 1)) for part in (z, half, a))
            sizes = (size[index] for size in self.sizes)
            with jax.enable_x64(True):
                losses, good = open_noise_program(
                    self.padded, *both, np.full(len(index), self.rate), *sizes, len(order)
                )
            losses = np.asarray(losses).reshape(batch, 2, 2, rows)[: len(chunk), ..., : len(order)]
            return losses, np.asarray(good).reshape(batch, 2, rows)[: len(chunk), :, : len(order)].all(1)

        for chunk, (losses, good) in zip(chunks, self.spread(run, chunks), strict=True):
            self._put(chunk, order, np.moveaxis(losses[:, 0], 1, 0), np.moveaxis(losses[:, 1], 1, 0), good)

    def closed(self):
        where = np.flatnonzero((self.times < contour.FIRST_OPEN_STEP) & (self.times > 0))
        if where.size == 0 or self.problems.size == 0:
            return
        # The same size of program for any choice of early steps.
        steps = np.pad(self.times[where], (0, contour.FIRST_OPEN_STEP - where.size))

        def run(i):
            fine, coarse = (
                self._closed_sum(i, steps, m) for m in (contour.GENERATING_POINTS, contour.GENERATING_CHECK)
            )
            return fine[0][:, : where.size], coarse[0][:, : where.size], fine[1] and coarse[1]

        for i, (fine, coarse, good) in zip(self.problems, self.spread(run, list(self.problems)), strict=True):
            self._put([i], where, fine[:, None], coarse[:, None], good)

    def _closed_sum(self, i, steps, m):
        half, a = closed_steps(steps, m, self.stretch)
        halves = closed_path(self.measure, self.rate, m, self.sizes[1][i], self.sizes[2][i], self.stretch)
        half, a = _filled(half[None], a, len(a), contour.GENERATING_POINTS)
        halves = np.pad(halves, ((0, 0), (0, contour.GENERATING_POINTS - m)), mode="edge")
        path = mirrored_points(halves, self.rate * self.stretch)
        with jax.enable_x64(True):
            losses, good = closed_noise_program(
                self.padded, path, half[0], a, self.rate, *(size[i] for size in self.sizes)
            )
        return np.asarray(losses), bool(good)

    def scheduled(self):
        """A schedule is stepped through, one problem after the other."""
        rates = self.dynamics.rates
        where = np.flatnonzero(np.isfinite(self.times) & (self.times > 0))
        if where.size == 0 or self.problems.size == 0:
            return
        steps = min(len(rates), int(self.times[where].max()))
        if steps > MOST_STEPS:
            self.good[:, where] = False
            return
        with np.errstate(divide="ignore"):
            edges = spectral_edge(self.measure, *(1.0 / size for size in self.sizes[1:3]))

        def run(i):
            sizes = [size[i] for size in self.sizes]
            return scheduled_noise(self.measure, self.times[where], rates, sizes, float(edges[i]), self.stretch > 1.0)

        for i, (losses, errors) in zip(self.problems, self.spread(run, list(self.problems)), strict=True):
            fine = np.all(np.isfinite(losses) & np.isfinite(errors), 0)
            self.losses[:, i, where], self.errors[:, i, where] = losses, errors
            self.good[i, where] = fine

    def end(self):
        """The end of training: the transforms at x = 1."""
        where = np.isinf(self.times)
        if not np.any(where) or self.problems.size == 0 or self.rate == 0.0:
            return
        inv_batch, inv_n, inv_p, noise = self.sizes
        levels = np.full(noise.size, 2.0 / (self.rate * self.stretch))
        y = level_roots(self.measure, levels, inv_n[:, None], inv_p[:, None])
        mirrored = -float(np.max(self.measure.eigenvalues)) * (1.0 + np.exp(y))
        with np.errstate(divide="ignore"):
            static = [
                np.real(one_point(self.measure, 0.0, *sizes).kappa)
                for sizes in zip(1.0 / inv_n, 1.0 / inv_p, strict=True)
            ]
        with jax.enable_x64(True):
            final = ridge_program(self.padded, np.zeros(noise.size), inv_n, inv_p, noise, ("both",))
        for i in self.problems:
            df1, left = _test_kernel(self.measure, float(mirrored[i]), inv_n[i])
            right = _test_kernel(self.measure, float(static[i]), inv_n[i])[1]
            train = float(np.asarray(final)[i, 1, 0]) / (1.0 + inv_batch[i] / self.stretch * df1)
            self.losses[:, i, where] = np.array([[train], [0.5 * self.rate * inv_batch[i] * (right - left) * train]])

    def whole_test_losses(self):
        """With exactly Gaussian inputs fresh samples are seen as the population, and modes fluctuate by themselves."""
        noise = self.sizes[-1][:, None]
        if self.measure.shift_signal is None:
            self.losses[1] = self.losses[0] - noise
            self.errors[1] = self.errors[0]
            return
        if self.dynamics.constant:
            # Infinite width: every mode decays on its own.
            pull = self.rate * np.asarray(self.measure.eigenvalues)
            decay = pull * (2.0 - pull) - (self.stretch - 1.0) * pull**2
            with np.errstate(invalid="ignore"):
                left = np.exp(np.where(decay == 0.0, 0.0, self.times[:, None] * np.log1p(-decay)))
            self.losses[1] += left @ np.asarray(self.measure.shift_signal)
        else:
            start, end = self.times == 0, np.isinf(self.times)
            self.losses[1][:, start] = self.measure.initial_loss
            unseen = np.asarray(self.measure.eigenvalues) == 0.0
            self.losses[1][:, end] += np.sum(np.asarray(self.measure.shift_signal)[unseen])

    def _put(self, chunk, where, fine, coarse, good):
        place = np.ix_([0, 1], chunk, where)
        self.losses[place], self.errors[place] = fine, np.abs(fine - coarse)
        self.good[np.ix_(chunk, where)] = good


def _filled(half, a, rows: int, points: int):
    """Contours padded to a compiled size: rows beyond the last are not used, points beyond the last have no weight."""
    fill, extra = rows - len(a), points - a.shape[1]
    return np.pad(half, ((0, fill), (0, extra)), mode="edge"), np.pad(a, ((0, fill), (0, extra)))


def _test_kernel(measure: SpectralMeasure, kappa: float, inv_width: float) -> tuple[float, float]:
    r"""$\mathrm{df}_1$ and $-\kappa R_3\sum_kq_k/(\lambda_k+\kappa)$ at a real root."""
    lam, trace = np.asarray(measure.eigenvalues), np.asarray(measure.trace)
    total = lam + kappa
    df1 = float(np.sum(trace / np.where(total == 0.0, 1.0, total)))
    q = trace if measure.shift is None else np.asarray(measure.shift)
    # kappa / (lambda + kappa) is 1 in directions that training inputs do not show, also at kappa = 0.
    left = np.where(lam == 0.0, 1.0, kappa / np.where(total == 0.0, 1.0, total))
    return df1, -(1.0 - inv_width * df1) * float(np.sum(q * left))
