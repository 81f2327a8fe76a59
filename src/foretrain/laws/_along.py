r"""A law along a line: its lowest point at one budget, and where it crosses a loss, for many fits at once.

`Law.logs` evaluates all coordinates at all rows. Bootstrap fits have their optima at different places, so here every fit gets rows of its own, in
small blocks whose off-diagonal part is thrown away: cheaper than a call for each.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Float

from foretrain.laws._law import Law

_BLOCK = 8
_COARSE = 129  # points over the whole range, before brackets are narrowed
_FINE = 17
_NARROW = 1e-7  # of a bracket: below it a minimum in double precision is flat
_STENCIL = 5e-3  # truncation of the five-point slope, h^4 / 30 of a fifth derivative, is then below 1e-10
_CROSSED = 1e-12

Logs = Float[np.ndarray, "fits points"]
Line = Callable[[Logs], Mapping[str, np.ndarray]]  # a coordinate, ln of a size, to columns of the law


def each(law: Law, thetas: Float[np.ndarray, "fits parameters"], at: Mapping[str, np.ndarray]) -> Logs:
    """Logarithm of the law, every fit at its own points.

    Args:
        law: The law.
        thetas: Coordinates of the fits.
        at: Columns of shape (fits, points), or that broadcast to it.
    """
    columns = np.stack(np.broadcast_arrays(*(np.asarray(at[v], float) for v in law.variables)))
    fits, points = len(thetas), columns.shape[2]
    columns = np.broadcast_to(columns, (len(columns), fits, points))
    found = np.empty((fits, points))
    with np.errstate(all="ignore"):
        for first in range(0, fits, _BLOCK):
            some = slice(first, min(first + _BLOCK, fits))
            size = some.stop - some.start
            logs = law.logs(thetas[some], columns[:, some].reshape(len(columns), -1), slopes=False)[0]
            found[some] = logs.reshape(size, size, points)[np.arange(size), np.arange(size)]
    return np.where(np.isnan(found), np.inf, found)


def lowest(
    law: Law,
    thetas: Float[np.ndarray, "fits parameters"],
    line: Line,
    low: float | np.ndarray,
    high: float | np.ndarray,
) -> tuple[Float[np.ndarray, " fits"], Float[np.ndarray, " fits"], Bool[np.ndarray, " fits"]]:
    """Where every fit is smallest on a line, its logarithm there, and whether that is inside the line's ends.

    The lowest of a coarse grid is bracketed by its neighbours; brackets are narrowed by finer grids, which cannot lose the minimum of a
    function with one valley in the bracket, and the end is a step to the zero of the slope.

    Args:
        law: The law.
        thetas: Coordinates of the fits.
        line: A coordinate to columns.
        low: Lower end of the coordinate, of all fits or of each.
        high: Upper end.
    """
    fits = len(thetas)
    bottom, top = (np.broadcast_to(np.asarray(end, float), (fits,)) for end in (low, high))
    left, right = bottom.copy(), top.copy()
    rows, count = np.arange(fits), _COARSE
    inside = np.ones(fits, bool)
    while True:
        grid = left[:, None] + (right - left)[:, None] * np.linspace(0.0, 1.0, count)
        values = each(law, thetas, line(grid))
        best = np.argmin(values, axis=1)
        if count == _COARSE:
            inside = (best > 0) & (best < count - 1)
        left, right = grid[rows, np.maximum(best - 1, 0)], grid[rows, np.minimum(best + 1, count - 1)]
        count = _FINE
        if np.max(right - left) <= _NARROW:
            break
    at, value = _polished(law, thetas, line, grid[rows, best], values[rows, best])
    return at, value, inside & np.isfinite(value)


def _polished(
    law: Law, thetas: np.ndarray, line: Line, at: np.ndarray, value: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A Newton step on the slope, kept where the function does not rise: a valley with a jump in its curvature keeps the grid's answer."""
    steps = np.arange(-2.0, 3.0) * _STENCIL
    for _ in range(3):
        f = each(law, thetas, line(at[:, None] + steps))
        slope = f @ np.array([1.0, -8.0, 0.0, 8.0, -1.0]) / (12.0 * _STENCIL)
        bend = f @ np.array([-1.0, 16.0, -30.0, 16.0, -1.0]) / (12.0 * _STENCIL**2)
        usable = (bend > 0) & np.isfinite(slope) & np.isfinite(bend)
        step = np.where(usable, -slope / np.where(usable, bend, 1.0), 0.0)
        new = at + np.clip(step, -_STENCIL, _STENCIL)
        there = each(law, thetas, line(new[:, None]))[:, 0]
        better = there <= value + 4 * np.finfo(float).eps * np.maximum(1.0, np.abs(value))
        at, value = np.where(better, new, at), np.where(better, there, value)
    return at, value


def crossing(
    law: Law, thetas: Float[np.ndarray, "fits parameters"], line: Line, target: float, low: float, high: float
) -> Float[np.ndarray, " fits"]:
    """Where every fit falls to a value along a line on which it falls; `-inf` where it begins below it, `inf` where it never gets there.

    Args:
        law: The law.
        thetas: Coordinates of the fits.
        line: A coordinate to columns.
        target: Logarithm of the value.
        low: Lower end of the coordinate.
        high: Upper end.
    """
    fits = len(thetas)
    left, right = np.full(fits, float(low)), np.full(fits, float(high))
    rows = np.arange(fits)
    ends = each(law, thetas, line(np.stack([left, right], axis=1)))
    begun, never = ends[:, 0] <= target, ends[:, 1] > target
    while np.max(right - left) > _CROSSED * max(1.0, abs(high)):
        grid = left[:, None] + (right - left)[:, None] * np.linspace(0.0, 1.0, _FINE)
        values = each(law, thetas, line(grid))
        after = np.clip(np.argmax(values <= target, axis=1), 1, _FINE - 1)
        left, right = grid[rows, after - 1], grid[rows, after]
    found = 0.5 * (left + right)
    return np.where(begun, -np.inf, np.where(never, np.inf, found))
