r"""Protocols that count steps: which road serves which step, and how far it can be trusted.

1. Full batches, up to `MOST_STEPS` steps: the closed discrete equations (`_descent`), exact for every learning rate.
2. One pass, up to `MOST_MARCHED` steps: the two-time equations (`_march`), exact too. They also take over from 1. close to the edge of stability,
   where the contour does not reach.
3. In the lazy limit, $\gamma=0$, the linear limits are exact for any number of steps.
4. Beyond, steps are a flow at $t=\eta\cdot$ step, for SGD with the diffusion of its batches. What that leaves out is of order $\eta$ and early. It is
   measured: the first steps (`YARDSTICK`, or `YARDSTICK_MARCHED` in one pass) are taken exactly too, and the relative difference at the last of
   them is the error of all later ones.
"""

import dataclasses
import math

import jax
import numpy as np
from jaxtyping import Float

from foretrain.limits.adaptive_linear._curves import FINE, Curves, flow_curves, grown, longest_clock
from foretrain.limits.adaptive_linear._descent import descent
from foretrain.limits.adaptive_linear._flow import Path
from foretrain.limits.adaptive_linear._march import march, march_measure
from foretrain.limits.adaptive_linear._scene import Case, Scene
from foretrain.limits.linear import Descent, StochasticDescent, linear_curves, measure_of, spectral_edge

MOST_STEPS, YARDSTICK = 8192, 1024
MOST_MARCHED, YARDSTICK_MARCHED = 256, 96
# What the compression of the spectrum, or the contour, leaves in exact steps.
COMPRESSION = 1e-8
# The contour crosses the axis at 1.17 of the upper edge or a little beyond; filters of steps larger than this would grow there.
WIDEST = 2.0 / 1.3
# A loss that has grown by this factor is on its way to infinity.
BLOWN_UP = 1e6


@dataclasses.dataclass(frozen=True, eq=False)
class Thresholds:
    r"""How close steps are to instability, shape (case, time).

    Attributes:
        stability_ratio: $\eta(1+2\gamma c)\lambda_1/2$: below 1 every step is stable.
        sgd_gain: $\frac\eta{2B}(1+\gamma c)\mathrm{Tr}\,\Lambda$: at 1 the noise of batches feeds itself.
        passed: where one of them is 1 or more and the step is not marched, from the first such time on.
    """

    stability_ratio: np.ndarray
    sgd_gain: np.ndarray
    passed: np.ndarray


def discrete_curves(
    cases: list[Case], steps: Float[np.ndarray, " time"], modes: Float[np.ndarray, " mode"] | None = None
) -> tuple[Curves, Thresholds]:
    """Curves of cases that share their eigenvalues, at steps.

    Args:
        cases: the problems, with rates.
        steps: whole numbers, or `inf`.
        modes: eigenvalues of the modes whose mean residuals are wanted.
    """
    finite = np.isfinite(steps)
    last = int(steps[finite].max(initial=0.0))
    most, yardstick = (MOST_MARCHED, YARDSTICK_MARCHED) if math.isfinite(cases[0].batch) else (MOST_STEPS, YARDSTICK)
    marched = last if last <= most else yardstick
    early = finite & (steps <= marched)
    late = ~early
    shape = (len(cases), len(steps))
    if np.any(late):
        whole = flow_curves(cases, np.append(np.where(early, 0.0, steps), float(marched)), modes)
        found = jax.tree.map(lambda part: part[..., :-1] if part.ndim > 1 else part, whole)
        yard = (whole.test[:, -1], whole.train[:, -1]) if last > marched else None
    else:
        residuals = None if modes is None else np.full((len(cases), len(modes), len(steps)), np.nan)
        blank = [np.full(shape, np.nan) for _ in range(6)]
        found = Curves(blank[0], blank[1], blank[2], blank[3], blank[4], blank[5], residuals, np.ones(len(cases), bool))
        yard = None
    for i, case in enumerate(cases):
        path = _exact(case, marched, modes)
        at = steps[early].astype(int)
        found.test[i, early], found.train[i, early], found.norm[i, early] = path.test[at], path.train[at], path.norm[at]
        found.test_error[i, early], found.train_error[i, early] = (
            COMPRESSION * path.test[at],
            COMPRESSION * path.train[at],
        )
        if modes is not None:
            found.modes[i][:, early] = path.modes[at].T  # type: ignore[index]
        found.good[i] &= not np.any(np.isnan(path.test))
        _blow_up(found, i, path.test[0] + case.noise)
        if yard is not None:
            beyond = finite & late
            if case.richness == 0.0:
                _lazy(found, i, case, steps, beyond)
            else:
                for values, errors, here, marched_loss in (
                    (found.test, found.test_error, yard[0][i], path.test[-1]),
                    (found.train, found.train_error, yard[1][i], path.train[-1]),
                ):
                    errors[i, beyond] += abs(here / marched_loss - 1.0) * values[i, beyond]
    richness = np.array([[case.richness] for case in cases])
    found.gain[:] = 1.0 + grown(richness, found.norm)
    return found, _thresholds(cases, found, steps, steps > marched)


def _exact(case: Case, steps: int, modes) -> Path:
    """Steps 0, 1, ... without approximation; NaN where neither road reaches. Train losses on fresh data without their noise."""
    clock = longest_clock([case], case.rate * max(steps, 1))
    if math.isinf(case.batch):
        scene = Scene([case], clock, FINE[1])
        path = descent(scene.x, scene.filters([case], modes), case.rate, steps)
        gain = 1.0 + grown(case.richness, path.norm)
        edge = float(np.max(spectral_edge(scene.measure(case.spectrum), *case.sizes)))
        if np.all(np.isfinite(path.norm)) and case.rate * np.max(gain) * edge < WIDEST:
            return path
    count = min(steps, MOST_MARCHED)
    nodes = march_measure(case.spectrum, clock, modes)
    found = march(nodes, case, count)
    extra = case.noise if math.isinf(case.samples) else 0.0
    own = None if modes is None else found.modes[:, len(nodes.eigenvalues) - len(modes) :]
    path = Path(np.arange(count + 1.0), found.norm, found.train - extra, found.test, own)
    fill = steps - count
    return jax.tree.map(
        lambda part: np.pad(part, [(0, fill)] + [(0, 0)] * (part.ndim - 1), constant_values=np.nan), path
    )


def _thresholds(cases: list[Case], found: Curves, steps, beyond) -> Thresholds:
    """The thresholds, and infinite losses where they are passed by steps that are treated as a flow."""
    rate, batch, lazy = (
        np.array([[part] for part in column])
        for column in zip(*((case.rate, case.batch, case.richness == 0.0) for case in cases), strict=True)
    )
    measure = measure_of(cases[0].spectrum, 1e-15)
    sizes = np.array([case.sizes for case in cases])
    edge = np.broadcast_to(spectral_edge(measure, sizes[:, 0], sizes[:, 1]), len(cases))[:, None]
    stability = 0.5 * rate * (2.0 * found.gain - 1.0) * edge
    heat = np.where(np.isfinite(batch), rate / batch, 0.0)
    gain = np.where(heat > 0.0, heat * np.where(heat > 0.0, found.gain, 0.0), 0.0)
    gain = 0.5 * gain * float(np.sum(np.asarray(measure.trace)))
    above = (~(stability < 1.0) | ~(gain < 1.0)) & beyond & ~lazy & ~np.isnan(found.gain)
    order = np.argsort(steps)
    passed = np.empty_like(above)
    passed[:, order] = np.maximum.accumulate(above[:, order], axis=1)
    for values in (found.test, found.train, found.test_error, found.train_error):
        values[passed] = np.inf
    return Thresholds(stability, gain, passed)


def _blow_up(found: Curves, i: int, start: float) -> None:
    """Losses that grew out of bounds are infinite from there on."""
    with np.errstate(invalid="ignore"):
        gone = np.abs(found.test[i]) >= BLOWN_UP * start
    for values in (found.test, found.train, found.test_error, found.train_error, found.norm):
        values[i, gone] = np.inf


def _lazy(found: Curves, i: int, case: Case, steps, beyond) -> None:
    """Losses of the lazy limit from the linear limits; the readout norm stays that of the flow."""
    stochastic = math.isfinite(case.batch)
    dynamics = StochasticDescent(case.rate, case.batch) if stochastic else Descent(case.rate)
    curves = linear_curves(
        measure_of(case.spectrum, 1e-15), steps[beyond], case.width, case.samples, case.noise, dynamics
    )
    extra = case.noise if math.isinf(case.samples) else 0.0
    found.test[i, beyond], found.test_error[i, beyond] = curves.test[0, 0], curves.test_error[0, 0]
    found.train[i, beyond], found.train_error[i, beyond] = curves.train[0, 0] - extra, curves.train_error[0, 0]
    found.good[i] &= bool(np.all(curves.converged))
