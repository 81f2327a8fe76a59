"""Learning curves at the level of arrays: plans contours, pads, runs the programs, and says how wrong they may be."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from foretrain.errors import InvalidInput
from foretrain.limits.linear import _contour as contour
from foretrain.limits.linear._dynamics import Dynamics, Flow
from foretrain.limits.linear._edge import spectral_edge
from foretrain.limits.linear._kappa import FAR
from foretrain.limits.linear._measure import SpectralMeasure, node_size
from foretrain.limits.linear._minibatch import minibatch_noise
from foretrain.limits.linear._programs import closed_kappa, closed_tile, open_program
from foretrain.limits.linear._static import ridge_program
from foretrain.limits.linear._stochastic import StochasticDescent

TILE = 64
TIME_SIZES = (16, 128, 1024)
# Problems per compiled call: small enough for the working set to stay in the cache.
BATCH = 4
# The largest closed contour, in points above the axis: beyond, a point is "not converged" rather than slow.
MAX_CLOSED = 4096
# Rounding, relative to the loss before training and to the loss itself (with the compression of the spectrum).
ABSOLUTE_FLOOR = 2e-14
RELATIVE_FLOOR = 2e-12
# An answer whose own error estimate exceeds this is not an answer.
ACCEPTED = 1e-4


class LinearCurves(NamedTuple):
    """Losses with error estimates, over (problem, share, time); the other fields over (problem, time).

    `test_noise` and `train_noise` are the parts of the losses of one model that the noise of minibatches adds to gradient
    descent; zero for full-batch dynamics.
    """

    test: np.ndarray
    train: np.ndarray
    test_error: np.ndarray
    train_error: np.ndarray
    converged: np.ndarray
    diverged: np.ndarray
    test_noise: np.ndarray
    train_noise: np.ndarray


def linear_curves(
    measure: SpectralMeasure,
    times,
    width,
    samples,
    noise: Any = 0.0,
    dynamics: Dynamics | None = None,
    shares: tuple[str, ...] = ("both",),
    threads: int | None = None,
) -> LinearCurves:
    r"""Test and train losses of random-feature students along training, in float64, for a batch of problems.

    Args:
        measure: the spectrum and target, from `spectral_measure` or `power_law_measure`.
        times: times (`Flow`: learning rate times steps) or steps, >= 0, in any order; `inf` is the end of training.
        width: $N$, `inf` allowed; `width`, `samples` and `noise` broadcast to a vector of problems.
        samples: $P$, `inf` allowed.
        noise: variance $\sigma^2$ of the label noise.
        dynamics: protocol; gradient flow by default.
        shares: pairs of predictors whose correlation is returned: `"both"` is the loss of one model; `"data"`,
            `"features"`, `"none"` are those of two models that share only that (train losses only with shared data,
            else NaN).
        threads: worker threads for sweeps; all cores by default.

    Returns:
        Losses and their estimated errors. Train losses below what rounding resolves are clipped at 0, with the error
        saying so. Points that diverge are `inf`; points that did not converge are NaN.

    Raises:
        InvalidInput: negative sizes, times or noise; `exact_gaussian` SGD with finite samples, or with a shift at finite width; batches larger than the samples
            that they are drawn from without replacement.
    """
    dynamics = Flow() if dynamics is None else dynamics
    times = np.atleast_1d(np.asarray(times, float))
    shape = np.broadcast_shapes(*(np.shape(np.atleast_1d(v)) for v in (width, samples, noise)))
    inv_n, inv_p, noise = (
        np.broadcast_to(np.atleast_1d(np.asarray(v, float)), shape).ravel()
        for v in (1.0 / _positive("width", width), 1.0 / _positive("samples", samples), noise)
    )
    if np.any(np.isnan(times) | (times < 0)):
        raise InvalidInput(f"linear_curves(times): expected times >= 0, got {times[np.isnan(times) | (times < 0)][0]}.")
    if not np.all(np.isfinite(noise) & (noise >= 0)):
        raise InvalidInput(f"linear_curves(noise): expected finite variances >= 0, got {noise.min()}.")
    if getattr(dynamics, "exact_gaussian", False):
        if np.any(inv_p > 0):
            raise InvalidInput(
                "linear_curves(dynamics): exact_gaussian is known for one pass only, samples = inf; got a finite number."
            )
        if measure.shift is not None and np.any(inv_n > 0):
            raise InvalidInput(
                "linear_curves(dynamics): exact_gaussian with test inputs of their own is known for width = inf only, got a "
                "finite width."
            )
    batch = getattr(dynamics, "batch_size", np.inf)
    if not batch > 0:
        raise InvalidInput(f"linear_curves(dynamics): expected batch_size > 0, got {batch}.")
    times = dynamics.clock(times)
    with jax.enable_x64(True):
        return _Run(measure, times, inv_n, inv_p, noise, dynamics, shares, threads).curves()


def _positive(name: str, value) -> np.ndarray:
    array = np.asarray(value, float)
    if not np.all(array > 0):
        raise InvalidInput(
            f"linear_curves({name}): expected sizes > 0 (inf allowed), got {array[~(array > 0)].flat[0]}."
        )
    return array


class _Run:
    """One call of `linear_curves`."""

    def __init__(self, measure, times, inv_n, inv_p, noise, dynamics, shares, threads):
        self.measure = jax.tree.map(np.asarray, measure)
        self.padded = jax.device_put(jax.tree.map(np.asarray, measure.pad(node_size(measure.nodes))))
        self.times, self.inv_n, self.inv_p, self.noise = times, inv_n, inv_p, noise
        self.dynamics, self.shares = dynamics, shares
        self.threads = threads or os.cpu_count() or 1
        self.initial = float(np.sum(self.measure.signal))
        self.initial_test = float(self.measure.initial_loss)
        with np.errstate(divide="ignore"):
            self.edge = (
                spectral_edge(self.measure, 1.0 / inv_n, 1.0 / inv_p) if self._needs_edge() else np.zeros(len(inv_n))
            )
        size = (len(inv_n), len(shares), len(times))
        self.losses = np.full((2, *size), np.nan)
        self.errors = np.zeros((2, *size))
        self.good = np.ones((size[0], size[2]), bool)
        self.noise_parts = np.zeros((2, size[0], size[2]))

    def _needs_edge(self) -> bool:
        return not isinstance(self.dynamics, Flow)

    def curves(self) -> LinearCurves:
        finite = np.isfinite(self.times) & (self.times > 0)
        self._exact_points()
        unstable = self.dynamics.stability_ratio(self.edge) >= 1.0
        stochastic = isinstance(self.dynamics, StochasticDescent)
        if stochastic:
            with np.errstate(divide="ignore"):
                gain = self.dynamics.gain(self.measure, 1.0 / self.inv_n, 1.0 / self.inv_p)
            unstable = unstable | (gain >= 1.0)
        diverged = unstable[:, None] & (self.times > 0)
        live = np.flatnonzero(~unstable) if np.any(finite) else np.arange(0)
        if np.any(finite) and self.initial + self.noise.max() > 0:
            for group in self._groups(live):
                edge = float(self.edge[group].max())
                opened = np.zeros(len(self.times), bool)
                opened[finite] = self.dynamics.is_open(self.times[finite], edge)
                self._open(group, np.flatnonzero(opened), edge)
                self._closed(group, np.flatnonzero(finite & ~opened), edge)
        elif np.any(finite):
            self.losses[..., finite] = 0.0
        if stochastic and self.initial + self.noise.max() > 0:
            self._add_minibatch_noise(np.flatnonzero(~unstable))
        return self._finish(diverged)

    def _add_minibatch_noise(self, live):
        """On top of gradient descent: independent between models, so that only the loss of one model has it."""
        with np.errstate(divide="ignore"):
            inv_batch = np.broadcast_to(self.dynamics.inverse_batch(1.0 / self.inv_p), self.inv_p.shape)
        if "both" not in self.shares:
            return
        share = self.shares.index("both")
        sizes = (size[live] for size in (inv_batch, self.inv_n, self.inv_p, self.noise))
        parts, errors, good = minibatch_noise(
            self.measure, self.padded, self.times, self.dynamics, tuple(sizes), self._map
        )
        if self.dynamics.exact_gaussian:
            parts[1] -= self.losses[0, live, share]
        self.noise_parts[0, live], self.noise_parts[1, live] = parts[1], parts[0] - self.losses[1, live, share]
        self.losses[0, live, share] += parts[1]
        self.losses[1, live, share] = parts[0]
        self.errors[0, live, share] += errors[1]
        self.errors[1, live, share] += errors[0]
        self.good[live] &= good

    def _groups(self, live):
        """Problems whose contours have the same shape: with and without the mirrored half."""
        if live.size == 0:
            return []
        probe = np.array([1e6])
        if not self.dynamics.discrete:
            return [live]
        points = {}
        for i in live:
            edge = float(self.edge[i])
            large = self.dynamics.open_points(probe, 2, edge)[0].shape[1]
            points.setdefault(large, []).append(i)
        return [np.array(group) for group in points.values()]

    def _exact_points(self):
        start = self.times == 0
        scale = self.initial + self.noise[:, None, None]
        self.losses[0][..., start], self.losses[1][..., start] = self.initial_test, scale
        if np.any(np.isinf(self.times)):
            zero = np.zeros(len(self.noise))
            end = ridge_program(self.padded, zero, self.inv_n, self.inv_p, self.noise, self.shares)
            end = np.moveaxis(np.asarray(end), 1, 0)
            self.losses[..., np.isinf(self.times)] = end[..., None]

    def _open(self, group, where, edge):
        if where.size == 0:
            return
        order = where[np.argsort(self.times[where])]
        z, a = self.dynamics.open_points(self.times[order], contour.OPEN_POINTS, edge)
        z_, a_ = self.dynamics.open_points(self.times[order], contour.CHECK_POINTS, edge)
        # The coarser contour runs through the same program: its missing points repeat one of its own, without weight.
        extra = z.shape[1] - z_.shape[1]
        z_ = np.concatenate([z_, np.repeat(z_[:, :1], extra, 1)], 1)
        a_ = np.concatenate([a_, np.zeros((len(order), extra))], 1)
        rows = next((size for size in TIME_SIZES if size >= len(order)), len(order))
        fill = ((0, 0), (0, rows - len(order)), (0, 0))
        both = [np.pad(np.stack(pair), fill, mode="edge") for pair in ((z, z_), (a, a_))]
        batch = 1 if len(group) == 1 else BATCH
        chunks = [group[i : i + batch] for i in range(0, len(group), batch)]

        def run(chunk):
            # Both contours of every problem; a short last chunk repeats its last problem.
            index = np.repeat(np.pad(chunk, (0, batch - len(chunk)), mode="edge"), 2)
            z, a = (np.tile(part, (batch, 1, 1)) for part in both)
            with jax.enable_x64(True):
                losses, good = open_program(
                    self.padded, z, a, self.inv_n[index], self.inv_p[index], self.noise[index], len(order), self.shares
                )
            losses = np.asarray(losses).reshape(batch, 2, 2, len(self.shares), rows)[: len(chunk), ..., : len(order)]
            return losses, np.asarray(good).reshape(batch, 2, rows)[: len(chunk), :, : len(order)].all(1)

        for chunk, (losses, good) in zip(chunks, self._map(run, chunks), strict=True):
            place = np.ix_([0, 1], chunk, list(range(len(self.shares))), order)
            self.losses[place] = np.moveaxis(losses[:, 0], 1, 0)
            self.errors[place] = np.moveaxis(np.abs(losses[:, 0] - losses[:, 1]), 1, 0)
            self.good[np.ix_(chunk, order)] = good

    def _map(self, run, chunks):
        """Compiles with the first chunk, then spreads the rest over threads (the programs release the interpreter)."""
        results = [run(chunks[0])]
        if len(chunks) > 1:
            with ThreadPoolExecutor(min(self.threads, len(chunks) - 1)) as pool:
                results += pool.map(run, chunks[1:])
        return results

    def _closed(self, group, where, edge):
        """Times that no open contour serves, in blocks of similar length that share one ellipse each."""
        if where.size == 0:
            return
        order = where[np.argsort(self.times[where])]
        block = np.floor(np.log2(np.maximum(self.times[order], 16.0)) / 2.0)
        for value in np.unique(block):
            chosen = order[block == value]
            log_radius, m = contour.fit_ellipse(self.dynamics.values, self.times[chosen].max(), edge)
            m = -(-m // TILE) * TILE
            if m > MAX_CLOSED:
                self.good[np.ix_(group, chosen)] = False
                continue
            jobs = [(i, chosen, log_radius, m) for i in group]
            for i, (losses, errors, good) in zip(
                group, self._map(lambda job: self._ellipse_losses(edge, *job), jobs), strict=True
            ):
                place = np.ix_([0, 1], [i], list(range(len(self.shares))), chosen)
                self.losses[place], self.errors[place] = losses[:, None], errors[:, None]
                self.good[np.ix_([i], chosen)] = good

    def _ellipse_losses(self, edge, i, where, log_radius, m):
        fine = self._ellipse_sum(edge, i, where, log_radius, m)
        coarse = self._ellipse_sum(edge, i, where, log_radius, (3 * m) // 4)
        return fine[0], np.abs(fine[0] - coarse[0]), fine[1] and coarse[1]

    def _ellipse_sum(self, edge, i, where, log_radius, m):
        """Sum over pairs of tiles of one ellipse; symmetric pairs are visited once."""
        z, a = contour.ellipse(edge, log_radius, m)
        a = a * self.dynamics.values(z, self.times[where])
        total = np.sum(self.measure.trace) * (self.inv_n[i] + self.inv_p[i])
        far = FAR * max(float(np.max(self.measure.eigenvalues)), total)
        path = contour.ellipse_path(edge, log_radius, m, far)
        rows = next((size for size in TIME_SIZES if size >= len(where)), len(where))
        a = np.pad(a, ((0, rows - len(where)), (0, 0)))
        sizes = (self.inv_n[i], self.inv_p[i])
        tiles, good = [], True
        with jax.enable_x64(True):
            for begin in range(0, m, TILE):
                # A short tile repeats its last point, without weight.
                fill = (0, max(begin + TILE - m, 0))
                steps = np.pad(path[:, begin : begin + TILE], ((0, 0), fill), mode="edge")
                kappa, fine = closed_kappa(self.padded, steps, *sizes)
                good = good and bool(fine)
                tiles.append((kappa, steps[-1], np.pad(a[:, begin : begin + TILE], ((0, 0), fill))))
            losses = np.zeros((2, len(self.shares), rows))
            for left in range(len(tiles)):
                for right in range(left, len(tiles)):
                    part = closed_tile(self.padded, *tiles[left], *tiles[right], *sizes, self.noise[i], self.shares)
                    losses += np.asarray(part) * (1.0 if left == right else 2.0)
        return losses[..., : len(where)], good

    def _finish(self, diverged) -> LinearCurves:
        finite = np.isfinite(self.times) & (self.times > 0)
        # Noise enters the test loss too, as variance.
        scale = np.reshape(max(self.initial, self.initial_test) + self.noise, (-1, 1, 1))
        exact = ABSOLUTE_FLOOR * scale + RELATIVE_FLOOR * np.abs(self.losses)
        errors = np.where(finite, self.errors + exact, RELATIVE_FLOOR * np.abs(self.losses))
        # What is left after cancellation may be negative by rounding; a mean of squares is not.
        losses = np.where(self.losses < 0.0, 0.0, self.losses)
        errors = np.where(self.losses < 0.0, np.maximum(errors, -self.losses), errors)
        good = self.good & np.all((errors <= ACCEPTED * scale) | ~np.isfinite(losses), (0, 2))
        for share, name in enumerate(self.shares):
            if name not in ("both", "data"):
                losses[1, :, share] = np.nan
        losses = np.where(good[:, None], losses, np.nan)
        errors = np.where(np.isfinite(losses), errors, np.nan)
        for part in (losses, errors):
            part[...] = np.where(diverged[:, None], np.inf, part)
        parts = np.where(good, self.noise_parts, np.nan)
        parts = np.where(diverged, np.inf, parts)
        return LinearCurves(losses[0], losses[1], errors[0], errors[1], good | diverged, diverged, parts[0], parts[1])
