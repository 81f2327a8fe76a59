r"""Robust nonlinear least squares from many starts at once.

Minimizes $\sum_in_iH_\delta(r_i)$, $r_i=\ln\hat L_i(\theta)-\ln L_i$, with Huber's $H_\delta$ and weights $n_i$, for all starts together.
$H_\delta$ lies below the weighted square with $w_i=\min(1,\delta/|r_i|)$ that touches it, which makes reweighted Levenberg-Marquardt
descend from almost everywhere but crawl at the end; with small $\delta$ most residuals sit on the linear arms, whose curvature is zero. Near
the optimum the step therefore comes from the curvature that Huber's function has (residuals inside $\delta$), with the
majorizer as the damping.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

# Of one Jacobian of all starts of a chunk: two megabytes, which stay in the cache of one core.
_MOST_NUMBERS = 250_000
_LONGEST_STEP = 2.0
_RIDGE = 1e-12


@dataclasses.dataclass(frozen=True, eq=False)
class Solved:
    """Where every start ended.

    Args:
        theta: Coordinates.
        objective: The sum that was minimized.
        gradient: Largest cosine between residuals and a column of the Jacobian, over coordinates that are free to move.
        iterations: Steps that were tried.
    """

    theta: Float[np.ndarray, "starts parameters"]
    objective: Float[np.ndarray, " starts"]
    gradient: Float[np.ndarray, " starts"]
    iterations: Int[np.ndarray, " starts"]

    def best(self) -> int:
        """The start with the smallest objective."""
        return int(np.argmin(np.where(np.isfinite(self.objective), self.objective, np.inf)))


def huber(residuals: np.ndarray, delta: float) -> np.ndarray:
    r"""$\frac12r^2$ inside $\delta$, $\delta(|r|-\frac12\delta)$ outside."""
    size = np.abs(residuals)
    return (
        np.where(size <= delta, 0.5 * residuals**2, delta * (size - 0.5 * delta))
        if np.isfinite(delta)
        else 0.5 * residuals**2
    )


Residuals = Callable[..., tuple[np.ndarray, Any]]


def minimize(
    residuals: Residuals,
    starts: Float[np.ndarray, "starts parameters"],
    *,
    rows: int,
    delta: float,
    weights: Float[np.ndarray, "starts rows"] | None = None,
    low: Float[np.ndarray, " parameters"],
    high: Float[np.ndarray, " parameters"],
    iterations: int = 150,
    tolerance: float = 1e-9,
) -> Solved:
    """Go down from every start.

    Args:
        residuals: Of many coordinates: (starts, rows), and the derivatives (starts, parameters, rows) or `None` with `slopes=False`.
        starts: Coordinates.
        rows: Number of residuals.
        delta: Huber's width; `inf` is least squares.
        weights: How often every row counts, for each start.
        low: Smallest coordinates.
        high: Largest coordinates.
        iterations: Most steps.
        tolerance: A start stops when its gradient is below, in scaled coordinates.
    """
    chunk = max(1, _MOST_NUMBERS // max(1, rows * starts.shape[1]))
    parts = [
        _descend(
            residuals,
            starts[i : i + chunk],
            delta,
            None if weights is None else weights[i : i + chunk],
            low,
            high,
            iterations,
            tolerance,
        )
        for i in range(0, len(starts), chunk)
    ]
    return Solved(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(Solved)))


def _descend(residuals, starts, delta, weights, low, high, iterations, tolerance) -> Solved:
    theta = np.clip(starts, low, high)
    count = len(theta)
    objective = np.full(count, np.inf)
    gradient = np.full(count, np.inf)
    taken = np.zeros(count, int)
    active = np.arange(count)
    damping = np.ones(count)
    r, slopes = residuals(theta)
    weight = np.ones((1, 1)) if weights is None else weights

    def cost(r: np.ndarray, rows: np.ndarray) -> np.ndarray:
        n = weight if weights is None else weight[rows]
        found = np.sum(n * huber(r, delta), axis=1)
        return np.where(np.isfinite(found), found, np.inf)

    objective[:] = cost(r, active)
    alive = np.isfinite(objective)
    active, r, slopes = active[alive], r[alive], slopes[alive]
    fresh = np.ones(len(active), bool)
    normal: Any = None
    curvature: Any = None
    pull: Any = None
    for step in range(iterations + 1):
        if len(active) == 0:
            break
        n = np.ones((1, 1)) if weights is None else weights[active]
        if normal is None or fresh.any():
            size = np.abs(r)
            inside = size <= delta
            w = n * np.where(inside, 1.0, delta / np.maximum(size, 1e-300))
            normal = np.matmul(slopes * w[:, None], slopes.swapaxes(1, 2))
            curvature = np.matmul(slopes * (n * inside)[:, None], slopes.swapaxes(1, 2))
            pull = np.matmul(slopes, (w * r)[:, :, None])[:, :, 0]
            diagonal = np.einsum("spp->sp", normal)
            at = theta[active]
            held = ((at <= low) & (pull > 0)) | ((at >= high) & (pull < 0))
            scale = np.sqrt(np.maximum(diagonal * np.sum(w * r**2, axis=1)[:, None], 1e-300))
            gradient[active] = np.max(np.where(held, 0.0, np.abs(pull) / scale), axis=1)
        done = gradient[active] <= tolerance
        if step == iterations or done.all():
            break
        if done.any():
            keep = ~done
            active, r, slopes, n = active[keep], r[keep], slopes[keep], (n if weights is None else n[keep])
            normal, curvature, pull, held, diagonal = (v[keep] for v in (normal, curvature, pull, held, diagonal))
        trial = np.clip(theta[active] + _step(normal, curvature, pull, held, diagonal, damping[active]), low, high)
        new_r, new_slopes = residuals(trial)
        found = cost(new_r, active)
        better = found < objective[active]
        taken[active] += 1
        theta[active[better]], objective[active[better]] = trial[better], found[better]
        r, slopes = np.where(better[:, None], new_r, r), np.where(better[:, None, None], new_slopes, slopes)
        damping[active] = np.where(better, np.maximum(damping[active] / 3.0, 1e-9), damping[active] * 4.0)
        # Past this damping a step changes nothing in double precision.
        stuck = damping[active] > 1e14
        if stuck.any():
            keep = ~stuck
            active, r, slopes = active[keep], r[keep], slopes[keep]
            normal, curvature, pull, held, diagonal = (v[keep] for v in (normal, curvature, pull, held, diagonal))
            better = better[keep]
        fresh = better
    return Solved(theta, objective, gradient, taken)


def _step(normal, curvature, pull, held, diagonal, damping) -> np.ndarray:
    size = np.sqrt(np.maximum(diagonal, 1e-300))
    scaled = size[:, :, None] * size[:, None, :]
    matrix = (curvature + damping[:, None, None] * normal) / scaled
    count = matrix.shape[1]
    matrix[:, range(count), range(count)] += _RIDGE + damping[:, None]
    right = np.where(held, 0.0, -pull / size)
    matrix = np.where(held[:, :, None] | held[:, None, :], np.eye(count), matrix)
    # Terms that are still negligible have columns near zero and ask for huge steps whatever the damping: the reach must fall with it.
    longest = _LONGEST_STEP / np.sqrt(np.maximum(damping, 1.0))[:, None]
    return np.clip(np.linalg.solve(matrix, right[:, :, None])[:, :, 0] / size, -longest, longest)
