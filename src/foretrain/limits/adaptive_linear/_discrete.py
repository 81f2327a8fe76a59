r"""Protocols that count steps: which of three roads serves which step, and how far it can be trusted.

1. Up to `MOST_STEPS` steps the two-time equations are marched (`_march`): exact for every learning rate.
2. In the lazy limit, $\gamma=0$, the linear limits are exact for any number of steps.
3. Beyond, steps are a flow at $t=\eta\cdot$ step, for SGD with the diffusion of its batches. What that leaves out is of order $\eta$ and early. It is
   measured: `YARDSTICK` steps are marched too, and the relative difference at the last of them is the error of all later ones.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from foretrain.limits.adaptive_linear._curves import Curves, flow_curves, grown, longest_clock
from foretrain.limits.adaptive_linear._march import march, march_measure
from foretrain.limits.adaptive_linear._scene import Case
from foretrain.limits.linear import Descent, StochasticDescent, linear_curves, measure_of, spectral_edge

MOST_STEPS = 256
YARDSTICK = 96
# What compression of the spectrum leaves in a march.
COMPRESSION = 1e-8
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
    marched = last if last <= MOST_STEPS else YARDSTICK
    early = finite & (steps <= marched)
    late = ~early
    shape = (len(cases), len(steps))
    if np.any(late):
        found = flow_curves(cases, np.where(early, 0.0, steps), modes)
        yard = flow_curves(cases, np.array([float(marched)])) if last > marched else None
    else:
        residuals = None if modes is None else np.full((len(cases), len(modes), len(steps)), np.nan)
        blank = [np.full(shape, np.nan) for _ in range(6)]
        found = Curves(blank[0], blank[1], blank[2], blank[3], blank[4], blank[5], residuals, np.ones(len(cases), bool))
        yard = None
    for i, case in enumerate(cases):
        nodes = march_measure(case.spectrum, longest_clock([case], case.rate * marched), modes)
        path = march(nodes, case, marched)
        # The flow knows no label noise on fresh data; the march does.
        extra = case.noise if math.isinf(case.samples) else 0.0
        at = steps[early].astype(int)
        found.test[i, early], found.train[i, early], found.norm[i, early] = (
            path.test[at],
            path.train[at] - extra,
            path.norm[at],
        )
        found.test_error[i, early] = COMPRESSION * path.test[at]
        found.train_error[i, early] = COMPRESSION * path.train[at]
        if modes is not None:
            found.modes[i][:, early] = path.modes[at, len(nodes.eigenvalues) - len(modes) :].T  # type: ignore[index]
        _blow_up(found, i, path.test[0] + case.noise)
        if yard is not None:
            beyond = finite & late
            if case.richness == 0.0:
                _lazy(found, i, case, steps, beyond)
            else:
                for values, errors, here, marched_loss in (
                    (found.test, found.test_error, yard.test[i, 0], path.test[-1]),
                    (found.train, found.train_error, yard.train[i, 0], path.train[-1] - extra),
                ):
                    errors[i, beyond] += abs(here / marched_loss - 1.0) * values[i, beyond]
    richness = np.array([[case.richness] for case in cases])
    found.gain[:] = 1.0 + grown(richness, found.norm)
    return found, _thresholds(cases, found, steps, steps > marched)


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
        gone = ~(np.abs(found.test[i]) < BLOWN_UP * start)
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
