r"""Where a sweep is best: a parabola through log loss over log rate near the minimum, (PA.7), with what it is worth.

The rule, written down once. Points are $x=\ln\eta$ and $y=\ln$ of the loss's mean over seeds; a run that diverged has none.

1. Take the lowest point and the unbroken run of finite points around it. At an end of the grid the optimum has a bound on
   one side only.
2. Heights above the lowest point are compressed, $z=s\,\mathrm{arsinh}((y-y_{\min})/s)$ with $s=\ln 2$: the minimum stays where it is, but the
   wall before divergence does not bend the parabola.
3. Fit $z=c_0+c_1(x-x_0)+c_2(x-x_0)^2$ by weighted least squares. Weights fall smoothly (tricube) to 0 at a factor of 6 in $\eta$ from
   $x_0$, further if fewer than four points would count.
4. Move $x_0$ to the vertex and fit again until it stays. A window that moves with the optimum makes the same error at every size,
   which cancels in the drift; what it does to the optima themselves is measured with all sizes together (`_transfer_shape`). Curves
   are steeper on the side of large rates: one cubic coefficient, shared by all sizes, is taken off first, if the residuals of all
   sizes together show it by more than two standard errors.
5. Without positive curvature the window is doubled, at last to the whole run; without curvature even then the curve is flat.
6. If the lowest point is the last before divergence, the vertex may not pass it, since nothing beyond was seen, and the width of
   the gap enters the error as that of a uniform distribution.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

REACH = math.log(6.0)
_SOFT = math.log(2.0)
_LEAST = 4
_ITERATIONS, _SETTLED = 60, 1e-6

BRACKETED, LOWER, UPPER = "bracketed", "lower end of the grid", "upper end of the grid"
CLIFF, FLAT, LOST = "edge of stability", "flat", "diverged everywhere"
LOCATED = (BRACKETED, CLIFF)
"""Statuses of an optimum that has bounds on both sides."""


@dataclasses.dataclass(frozen=True)
class Vertex:
    """The optimum of one curve.

    Args:
        place: Logarithm of the best value; NaN if every run diverged.
        height: Log loss there.
        curvature: Second derivative of log loss in log rate.
        status: One of this module's words.
        low: Smallest logarithm that the grid itself allows; -inf for one-sided bounds.
        high: Largest one; inf for one-sided bounds.
        geometry: Variance of `place` for residuals of variance 1.
        residual: Weighted mean square of the residuals, corrected for the three coefficients; NaN with three points.
        freedom: Degrees of freedom of `residual`.
        gap: Variance that comes from a gap in the grid, where the curve ends before it turns.
    """

    place: float
    height: float
    curvature: float
    status: str
    low: float
    high: float
    geometry: float = 0.0
    residual: float = math.nan
    freedom: float = 0.0
    gap: float = 0.0

    @property
    def located(self) -> bool:
        """Whether the optimum has bounds on both sides."""
        return self.status in LOCATED


def find_vertex(
    x: Float[np.ndarray, " swept"],
    y: Float[np.ndarray, " swept"],
    *,
    skew: float = 0.0,
    shift: float = 0.0,
    reach: float = REACH,
) -> Vertex:
    r"""The optimum of log loss over log rate, (PA.7), by the rule at the top of this module.

    Not for words (schedules, schemes): they have no distance.

    Args:
        x: Logarithms of the swept values, ascending.
        y: Logarithms of losses; `inf` or NaN where the run diverged.
        skew: Coefficient of $(x-x_0)^3$ that is taken off the points first.
        shift: How far the minimum lies from the vertex.
        reach: Distance at which weights reach 0.
    """
    if not np.isfinite(y).any():
        return Vertex(math.nan, math.inf, math.nan, LOST, -math.inf, math.inf)
    first, best, last = run_of(y)
    if best in (0, len(x) - 1):
        return _at_end(x, y, best)
    cliff = best in (first, last)
    run = slice(first, last + 1)
    found = _settle(x[run], compressed(y[run]), x[best], reach, skew) if last - first >= 2 else None
    lowest, left, right = float(y[best]), float(x[best - 1]), float(x[best + 1])
    if cliff:
        gap = ((x[best + 1] - x[best]) if best == last else (x[best] - x[best - 1])) ** 2 / 12
        bounds = ((left + x[best]) / 2 if best == first else left, (right + x[best]) / 2 if best == last else right)
        place, curvature, geometry, residual, freedom = float(x[best]), math.nan, 0.0, math.nan, 0.0
        inner = (left, float(x[best])) if best == last else (float(x[best]), right)
        if found is not None:
            place = min(max(found[0] + shift, inner[0]), inner[1])
            _, _, curvature, geometry, residual, freedom = found
            geometry = geometry if place == found[0] + shift else 0.0
        return Vertex(
            place, lowest, curvature, CLIFF, float(bounds[0]), float(bounds[1]), geometry, residual, freedom, float(gap)
        )
    if found is None:
        return Vertex(float(x[best]), lowest, math.nan, FLAT, float(x[first]), float(x[last]))
    place, above, curvature, geometry, residual, freedom = found
    if not x[first] < place < x[last]:
        # The smooth curve falls on towards an end of the run although a single point lies lower.
        edge = last if place >= x[last] else first
        if edge in (0, len(x) - 1):
            return _at_end(x, y, edge)
        place = float(x[edge])
    else:
        place = min(max(place + shift, float(x[first])), float(x[last]))
    height = lowest + _SOFT * math.sinh(above / _SOFT)
    return Vertex(place, height, curvature, BRACKETED, float(x[first]), float(x[last]), geometry, residual, freedom)


def run_of(y: Float[np.ndarray, " swept"]) -> tuple[int, int, int]:
    """First, lowest and last point of the unbroken run of finite points around the lowest."""
    finite = np.isfinite(y)
    best = int(np.argmin(np.where(finite, y, np.inf)))
    first = last = best
    while first > 0 and finite[first - 1]:
        first -= 1
    while last < len(y) - 1 and finite[last + 1]:
        last += 1
    return first, best, last


def _at_end(x: Float[np.ndarray, " swept"], y: Float[np.ndarray, " swept"], at: int) -> Vertex:
    """The best point is the last one there is: the optimum is there or beyond."""
    bound = float(x[at])
    if at == 0:
        return Vertex(bound, float(y[at]), math.nan, LOWER, -math.inf, float(x[min(1, len(x) - 1)]))
    return Vertex(bound, float(y[at]), math.nan, UPPER, float(x[at - 1]), math.inf)


def _settle(
    x: Float[np.ndarray, " run"], y: Float[np.ndarray, " run"], start: float, reach: float, skew: float
) -> tuple[float, float, float, float, float, float] | None:
    """The vertex around which the weights are centred at the vertex itself; `None` without positive curvature."""
    span = float(x[-1] - x[0])
    width = reach
    while True:
        centre = float(start)
        fit = None
        for _ in range(_ITERATIONS):
            fit = _parabola(x, y, centre, width, skew)
            if fit is None:
                break
            # Half a window per step: a parabola far from its own points says little.
            moved = min(max(fit[0], centre - width / 2), centre + width / 2)
            moved = min(max(moved, float(x[0])), float(x[-1]))
            if abs(moved - centre) < _SETTLED:
                break
            centre = moved
        if fit is not None:
            return fit
        if width > 2 * span:
            return None
        width *= 2


def _parabola(
    x: Float[np.ndarray, " run"], y: Float[np.ndarray, " run"], centre: float, width: float, skew: float
) -> tuple[float, float, float, float, float, float] | None:
    """Vertex, height, curvature, variance of the vertex per residual variance, residual variance, degrees of freedom."""
    weights = weights_of(x, centre, width)
    used = weights > 0
    d, w = x[used] - centre, weights[used]
    h = y[used] - skew * d**3
    design = np.stack([np.ones_like(d), d, d**2])
    normal = (design * w) @ design.T
    try:
        inverse = np.linalg.inv(normal)
    except np.linalg.LinAlgError:
        return None
    c0, c1, c2 = inverse @ (design * w) @ h
    if not c2 > 0:
        return None
    shift = -c1 / (2 * c2)
    # Delta method: d vertex / d (c0, c1, c2), for independent residuals of equal variance.
    slope = np.array([0.0, -1 / (2 * c2), -shift / c2])
    spread = inverse @ (design * w**2) @ design.T @ inverse
    residuals = h - design.T @ np.array([c0, c1, c2])
    freedom = float(w.sum() ** 2 / (w**2).sum()) - 3
    residual = math.nan
    if len(d) > 3 and freedom > 0.1:
        residual = float((w * residuals**2).sum() / w.sum()) * (freedom + 3) / freedom
    return (
        float(centre + shift),
        float(c0 + c1 * shift / 2),
        float(2 * c2),
        float(slope @ spread @ slope),
        residual,
        max(freedom, 0.0) if math.isfinite(residual) else 0.0,
    )


def weights_of(x: Float[np.ndarray, " run"], centre: float, width: float) -> Float[np.ndarray, " run"]:
    distance = np.abs(x - centre)
    least = np.sort(distance)[min(_LEAST, len(x)) - 1]
    near = np.minimum(distance / max(width, 1.25 * float(least)), 1.0)
    return (1 - near**3) ** 3


def compressed(y: Float[np.ndarray, " run"]) -> Float[np.ndarray, " run"]:
    return _SOFT * np.arcsinh((y - y.min()) / _SOFT)


def common_skew(
    x: Float[np.ndarray, " swept"], curves: Float[np.ndarray, "sizes swept"], *, reach: float = REACH
) -> tuple[float, float]:
    r"""The cubic coefficient that all sizes share, 0 unless it is known to within half of itself, and its standard error.

    Args:
        x: Logarithms of the swept values, ascending.
        curves: Logarithms of losses; not finite where the run diverged.
        reach: As for `find_vertex`.
    """
    skew, error = 0.0, math.inf
    for _ in range(8):
        top, bottom, squares, freedom = 0.0, 0.0, 0.0, -1.0
        for y in curves:
            vertex = find_vertex(x, y, skew=skew, reach=reach)
            if vertex.status != BRACKETED or vertex.freedom <= 0:
                continue
            first, _, last = run_of(y)
            kept = slice(first, last + 1)
            weights = weights_of(x[kept], vertex.place, reach)
            d, w = x[kept] - vertex.place, np.sqrt(weights)
            design = np.stack([np.ones_like(d), d, d**2], axis=1) * w[:, None]
            both = np.stack([(compressed(y[kept]) - skew * d**3) * w, d**3 * w], axis=1)
            rest = both - design @ np.linalg.lstsq(design, both, rcond=None)[0]
            top += float(rest[:, 0] @ rest[:, 1])
            bottom += float(rest[:, 1] @ rest[:, 1])
            squares += float(rest[:, 0] @ rest[:, 0])
            freedom += float(weights.sum() ** 2 / (weights**2).sum()) - 3
        if freedom <= 0 or bottom <= 0:
            return 0.0, 0.0
        step = top / bottom
        skew += step
        error = math.sqrt(max(squares - top * step, 0.0) / freedom / bottom)
        if abs(step) < 1e-3 * abs(skew):
            break
    return (skew if abs(skew) > 2 * error else 0.0), error


@dataclasses.dataclass(frozen=True)
class Edge:
    """Where training stops being stable.

    Args:
        stable: Logarithm of the last value at which every seed stayed finite, before the first that did not.
        diverged: Logarithm of that first one.
    """

    stable: float
    diverged: float

    @property
    def place(self) -> float:
        """The middle of the two logarithms."""
        return (self.stable + self.diverged) / 2

    @property
    def variance(self) -> float:
        """Of a uniform distribution between the two."""
        return (self.diverged - self.stable) ** 2 / 12


def find_edge(x: Float[np.ndarray, " swept"], finite: np.ndarray, best: float) -> Edge | None:
    """The first divergence beyond the optimum, on the side where there is one; `None` if the grid does not reach it.

    Args:
        x: Logarithms of the swept values, ascending.
        finite: Whether every seed stayed finite there.
        best: Logarithm of the best value; NaN if there is none.
    """
    if not math.isfinite(best):
        return None
    start = int(np.argmin(np.where(finite, np.abs(x - best), np.inf)))
    for step in (1, -1):
        at = start
        while 0 <= at + step < len(x):
            if not finite[at + step]:
                return Edge(float(x[at]), float(x[at + step]))
            at += step
    return None
