"""Curves of gradient flow at given times, with error estimates: every case on a fine and on a coarse grid."""

import functools
import math
import operator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from foretrain.limits.adaptive_linear._clock import Clock, clock, clock_grid, step_weights
from foretrain.limits.adaptive_linear._contour import Contour
from foretrain.limits.adaptive_linear._end import end_of_training, gain
from foretrain.limits.adaptive_linear._flow import CHUNK, Path, Steps, flow
from foretrain.limits.adaptive_linear._sample import sample
from foretrain.limits.adaptive_linear._scene import Case, Scene
from foretrain.limits.adaptive_linear._stochastic import diffusion
from foretrain.limits.linear import measure_of, spectral_edge

# (step of the clock in log tau, spacing of the contour in log x): the result, and what it is compared with.
FINE, COARSE = (0.05, 0.18), (0.1, 0.24)
# First grid point of the clock, in units of the fastest time scale of the problem.
FIRST = 0.3
# Cases of one compiled call; their filters stay in the cache.
BATCH = 16
ATTEMPTS = 6
# Relative error that a single point of the contour sums may have.
ROUNDING = 1e-12


class Curves(NamedTuple):
    """Curves of a list of cases; every array has the shape (case, time), `modes` (case, mode, time), `good` (case,)."""

    test: np.ndarray
    train: np.ndarray
    test_error: np.ndarray
    train_error: np.ndarray
    norm: np.ndarray
    gain: np.ndarray
    modes: np.ndarray | None
    good: np.ndarray


def flow_curves(
    cases: list[Case],
    times: Float[np.ndarray, "*case time"],
    modes: Float[np.ndarray, " mode"] | None = None,
) -> Curves:
    """Gradient flow, or SGD as a diffusion, of cases that share their eigenvalues.

    Train losses contain the label noise where data are reused, and are the test losses on the population.

    Args:
        cases: the problems.
        times: times or steps, `inf` allowed; common to all cases, or a row for each.
        modes: eigenvalues of the modes whose mean residuals are wanted.
    """
    times = np.asarray(times, float)
    times = np.broadcast_to(times, (len(cases), times.shape[-1]))
    values, errors = np.full((3, *times.shape), np.nan), np.full((2, *times.shape), np.nan)
    residuals = None if modes is None else np.zeros((len(cases), len(modes), times.shape[1]))
    good = np.ones(len(cases), bool)
    finite = np.isfinite(times)
    for i, case in enumerate(cases):
        if not np.all(finite[i]):
            values[:, i, ~finite[i]] = np.array(end_of_training(case))[:, None]
            errors[:, i, ~finite[i]] = ROUNDING * values[:2, i, ~finite[i]]
    groups: dict = {}
    for i, case in enumerate(cases):
        if np.any(finite[i]):
            groups.setdefault((math.isfinite(case.samples), math.isfinite(case.batch)), []).append(i)
    for group in groups.values():
        chosen = [cases[i] for i in group]
        last = max(cases[i].clock * float(times[i][finite[i]].max()) for i in group)
        fine, coarse, fit = _both(chosen, last, modes)
        for j, i in enumerate(group):
            here = finite[i]
            good[i] = fit[j]
            at = cases[i].clock * times[i][here]
            values[:, i, here] = _sampled(fine[j], at)
            error = np.abs(values[:2, i, here] - _sampled(coarse[j], at)[:2])
            errors[:, i, here] = error + ROUNDING * np.abs(values[:2, i, here])
            if residuals is not None:
                residuals[i][:, here] = sample(fine[j].time, fine[j].modes, at).T  # type: ignore[arg-type]
    # What is left of a train loss after cancellation may be negative by rounding; a mean of squares is not.
    negative = values[:2] < 0.0
    errors[negative] = np.maximum(errors, -values[:2])[negative]
    values[:2][negative] = 0.0
    richness = np.array([[case.richness] for case in cases])
    norm = values[2]
    return Curves(values[0], values[1], errors[0], errors[1], norm, 1.0 + grown(richness, norm), residuals, good)


def grown(richness, norm):
    r"""$\gamma c$, 0 in the lazy limit whatever $c$."""
    lazy = np.broadcast_to(np.asarray(richness) == 0.0, np.shape(norm))
    return np.where(lazy, 0.0, richness * np.where(lazy, 0.0, norm))


def _sampled(path: Path, times) -> np.ndarray:
    """Test loss, train loss and readout norm at the times."""
    test, train = (sample(path.time, part, times) for part in (path.test, path.train))
    # The norm begins with t^2, which its logarithm does not like.
    early = (path.time / (1.0 + path.time / path.time[1])) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = path.norm / early
    ratio[0] = 3.0 * ratio[1] - 3.0 * ratio[2] + ratio[3]
    norm = sample(path.time, ratio, times) * (times / (1.0 + times / path.time[1])) ** 2
    return np.stack([test, train, norm])


def _both(cases: list[Case], last: float, modes) -> tuple[list[Path], list[Path], np.ndarray]:
    """Paths on the fine and on the coarse grid that reach the last time."""
    end = longest_clock(cases, last)
    for _ in range(ATTEMPTS):
        fine, good, points = _paths(cases, end, FINE, modes)
        reached = min(float(path.time[-1]) for path in fine)
        if reached >= last:
            break
        end *= max(10.0, 3.0 * last / max(reached, 1e-300))
    # As many points, so that the same program serves.
    coarse, good_coarse, _ = _paths(cases, end, COARSE, modes, points)
    reach = np.array([min(one.time[-1], two.time[-1]) for one, two in zip(fine, coarse, strict=True)])
    return fine, coarse, good & good_coarse & (reach >= last)


def _paths(
    cases: list[Case], end: float, level: tuple[float, float], modes, least: int = 0
) -> tuple[list[Path], np.ndarray, int]:
    """Paths, whether their roots were found, and the number of points that served."""
    step, spacing = level
    ticks = _clock(cases, end, step)
    scene = Scene(cases, float(ticks.tau[-1]), spacing, least)
    paths = []
    size = 1 if math.isfinite(cases[0].samples) else min(BATCH, len(cases))
    for begin in range(0, len(cases), size):
        piece = cases[begin : begin + size]
        # A short last batch repeats its last case.
        full = piece + piece[-1:] * (size - len(piece))
        if math.isfinite(cases[0].batch):
            path = diffusion(scene.x, ticks, scene.filters(full, modes), scene.batches(full))
        else:
            path = flow(scene.x, _steps(scene.contour, ticks), scene.filters(full, modes))
        paths += [jax.tree.map(operator.itemgetter(j), path) for j in range(len(piece))]
    return paths, np.array([scene.good(case) for case in cases]), len(scene.x)


def _clock(cases: list[Case], end: float, step: float) -> Clock:
    """The clock of cases: its first step resolves the largest eigenvalue and the richest growth."""
    first = 2.0 ** math.floor(math.log2(FIRST / max(map(fastest, cases))))
    rows = CHUNK * math.ceil(math.log1p(end / first) / step / CHUNK)
    return _ticks(first, rows, step)


@functools.lru_cache(maxsize=16)
def _ticks(first: float, rows: int, step: float) -> Clock:
    return clock(clock_grid(first, first * math.expm1((rows - 0.5) * step), step))


@functools.lru_cache(maxsize=4)
def _steps(around: Contour, ticks: Clock) -> Steps:
    return Steps(*step_weights(ticks, around.x), ticks.time_weights)


@functools.lru_cache(maxsize=1024)
def fastest(case: Case) -> float:
    r"""The largest eigenvalue, or the rate $\sqrt\gamma\,|\hat b|$ at which the gain begins to grow where that is larger."""
    measure = measure_of(case.spectrum, 1e-15)
    power = np.sum(np.asarray(measure.signal) * np.asarray(measure.eigenvalues))
    if math.isfinite(case.samples):
        # |b|^2 on P samples: the signal meets the whole trace once more.
        power += (np.sum(measure.signal) + case.noise) * np.sum(measure.trace) / case.samples
    return max(float(spectral_edge(measure, *case.sizes)), math.sqrt(case.richness * max(float(power), 0.0)))


def longest_clock(cases: list[Case], last: float) -> float:
    r"""A clock $\tau$ that most probably reaches the time `last`, a power of ten: $\tau/s(\tau)=$ `last` with the gain of infinite width."""
    longest = last
    for case in cases:
        measure = measure_of(case.spectrum, 1e-30)
        lam, signal = np.asarray(measure.eigenvalues), np.asarray(measure.signal)
        tau = last
        for _ in range(60):
            learned = tau / (1.0 + lam * tau)
            squared = float(np.sum(signal * lam * learned**2))
            if math.isfinite(case.samples):
                squared += min(case.noise * tau, 1e6 * case.noise)
            tau, before = 1.5 * last * float(gain(squared, case.richness)), tau
            if abs(tau - before) < 0.01 * tau:
                break
        longest = max(longest, tau)
    return 10.0 ** math.ceil(math.log10(max(longest, 1.0)) - 1e-9)
