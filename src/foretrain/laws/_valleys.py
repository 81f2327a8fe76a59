r"""IsoFLOP valleys: the best size of every budget from a parabola, and the power of compute by which it grows.

The second approach of arXiv 2203.15556. At each budget $\ln L$ over $\ln N$ is a valley; the parabola through the points nearest its lowest has its
vertex at $N_{\mathrm{opt}}$ (PL.12), and $\ln N_{\mathrm{opt}}$ over $\ln C$ is a line (PL.13). No law is assumed.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain.errors import InvalidInput
from foretrain.laws._allocation import Allocation, Budget, allocation, weights_of
from foretrain.laws._planner import FLOPS_PER_TOKEN
from foretrain.laws._runs import Runs

POINTS = 5

_SAME_BUDGET = 0.05  # in ln C; tables round, and batches make whole steps
_PARABOLA = 3
_LISTED = 4
_GIVEN = "the table's own optimum"


def valleys(
    runs: Runs | Mapping[str, Any],
    *,
    points: int = POINTS,
    group: str | None = None,
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Allocation:
    r"""How the best size and data grow with compute, from IsoFLOP runs (PL.12), (PL.13).

    A budget counts where its lowest loss and the vertex lie inside its sizes. Intervals come from runs drawn with replacement, with the points
    nearest the lowest chosen anew. A table with one row for each budget is taken as one of optima.

    Args:
        runs: A table with `flops`, `params` and `loss`; $D=C/6N$ where it has no `tokens`.
        points: How many points nearest the lowest make the parabola.
        group: Column whose equal values are one run, drawn together; `"run"` by default where there is such a column.
        bootstrap: Resamples; 0 leaves intervals out.
        level: Probability that intervals are meant to cover.
        seed: Of the resamples.

    Raises:
        InvalidInput: Columns are missing or cannot be used, or fewer than two budgets have a best size.

    Example:
        >>> import numpy as np
        >>> from foretrain.laws import valleys
        >>> flops = np.repeat([6e17, 6e18, 6e19], 7)
        >>> params = np.sqrt(flops / 6) * np.tile(np.geomspace(0.2, 5.0, 7), 3)
        >>> loss = 1.8 + 400 / params**0.34 + 400 / (flops / 6 / params) ** 0.34
        >>> found = valleys({"flops": flops, "params": params, "loss": loss})
        >>> round(found.exponents["params"].value, 6)
        0.5
    """
    table = runs if isinstance(runs, Runs) else Runs.from_columns(runs)
    if not isinstance(points, int) or points < _PARABOLA:
        raise InvalidInput(f"valleys(points): expected a whole number >= 3, got {points!r}.")
    flops, params = table.numbers("flops", "params").T
    tokens = table.numbers("tokens")[:, 0] if "tokens" in table else flops / FLOPS_PER_TOKEN / params
    strata = budgets_of(flops)
    count = int(strata.max()) + 1
    name = group or ("run" if "run" in table.columns else None)
    groups = np.unique(table[name], return_inverse=True)[1] if name else np.arange(len(flops))
    log_flops = np.array([np.log(flops[strata == i]).mean() for i in range(count)])
    rng = np.random.default_rng(seed)
    warnings = list(table.warnings())
    if count == len(flops) > 2:
        return _of_optima(flops, params, tokens, bootstrap, level, rng)
    loss = table.numbers("loss")[:, 0]
    weights = weights_of(groups, strata, name is not None, bootstrap, rng)
    best = np.full((len(weights), 2, count), np.nan)
    budgets = []
    for i in range(count):
        rows = np.flatnonzero(strata == i)
        rows = rows[np.argsort(params[rows], kind="stable")]
        x, y = np.log(params[rows]), np.log(loss[rows])
        at, low, status = _vertices(x, y, weights[:, rows], points)
        best[:, 0, i], best[:, 1, i] = at, _along(x, np.log(tokens[rows]), at)
        of_params, of_tokens, depth = (float(np.exp(v)) for v in (at[0], best[0, 1, i], low[0]))
        budgets.append(Budget(float(np.exp(log_flops[i])), of_params, of_tokens, depth, len(rows), status))
    lost = [b for b in budgets if b.status != "ok"]
    for reason, those in itertools.groupby(sorted(lost, key=lambda b: b.status), key=lambda b: b.status):
        costs = [f"{b.flops:.3g}" for b in those]
        more = f" and {len(costs) - _LISTED} more" if len(costs) > _LISTED else ""
        warnings.append(
            f"isoflop: {len(costs)} of {count} budgets left out, {reason}: C = {', '.join(costs[:_LISTED])}{more}."
        )
    return allocation("isoflop", budgets, log_flops, best, level, warnings)


def budgets_of(flops: Float[np.ndarray, " rows"]) -> np.ndarray:
    """The budget of every row, 0 the cheapest; costs within 5 % of the next one are one.

    Args:
        flops: Cost of every row.
    """
    order = np.argsort(flops, kind="stable")
    level = np.empty(len(flops), dtype=np.int64)
    level[order] = np.concatenate([[0], np.cumsum(np.diff(np.log(flops[order])) > _SAME_BUDGET)])
    return level


def _vertices(
    x: Float[np.ndarray, " rows"], y: Float[np.ndarray, " rows"], weights: Float[np.ndarray, "fits rows"], points: int
) -> tuple[Float[np.ndarray, " fits"], Float[np.ndarray, " fits"], str]:
    """Vertices of the parabolas through the points nearest the lowest, their depth, and what is wrong with the first; NaN where there is none."""
    sizes = len(np.unique(x))
    nothing = np.full(len(weights), np.nan)
    if sizes < _PARABOLA:
        return nothing, nothing, f"{sizes} size{'s' if sizes > 1 else ''} only"
    drawn = weights > 0
    lowest = np.argmin(np.where(drawn, y, np.inf), axis=1)
    centre = x[lowest]
    inside = (np.where(drawn, x, np.inf).min(axis=1) < centre) & (np.where(drawn, x, -np.inf).max(axis=1) > centre)
    distance = np.where(drawn, np.abs(x - centre[:, None]), np.inf)
    chosen = np.argsort(distance, axis=1, kind="stable")[:, :points]
    used = np.take_along_axis(np.where(drawn, weights, 0.0), chosen, axis=1)
    dx, dy = x[chosen] - centre[:, None], y[chosen] - y[lowest][:, None]
    powers = np.stack([np.ones_like(dx), dx, dx**2], axis=-1)
    normal = np.einsum("fki,fk,fkj->fij", powers, used, powers)
    right = np.einsum("fki,fk,fk->fi", powers, used, dy)
    told = inside & (np.linalg.matrix_rank(normal, hermitian=True) == _PARABOLA)
    normal[~told] = np.eye(_PARABOLA)
    level, slope, bend = np.linalg.solve(normal, right[..., None])[..., 0].T
    with np.errstate(all="ignore"):
        shift = -slope / (2.0 * bend)
        depth = level - slope**2 / (4.0 * bend)
    within = (shift > np.where(used > 0, dx, np.inf).min(axis=1)) & (
        shift < np.where(used > 0, dx, -np.inf).max(axis=1)
    )
    told &= (bend > 0) & within
    status = "ok"
    if not inside[0]:
        status = f"lowest loss at its {'smallest' if centre[0] == x.min() else 'largest'} size"
    elif not told[0]:
        status = "no valley about its lowest loss"
    return np.where(told, centre + shift, np.nan), np.where(told, y[lowest] + depth, np.nan), status


def _along(x: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Values at other places, on straight lines between those known; of equal places the mean."""
    places, index = np.unique(x, return_inverse=True)
    means = np.bincount(index, values) / np.bincount(index)
    return np.where(np.isfinite(at), np.interp(np.nan_to_num(at), places, means), np.nan)


def _of_optima(
    flops: np.ndarray, params: np.ndarray, tokens: np.ndarray, bootstrap: int, level: float, rng: np.random.Generator
) -> Allocation:
    """The line through optima that a table gives, budgets drawn with replacement."""
    order = np.argsort(flops, kind="stable")
    x = np.log(flops[order])
    y = np.log(np.stack([params[order], tokens[order]]))
    budgets = [
        Budget(float(c), float(n), float(d), float("nan"), 1)
        for c, n, d in zip(flops[order], params[order], tokens[order], strict=True)
    ]
    count = len(x)
    drawn = rng.multinomial(count, np.full(count, 1.0 / count), size=bootstrap)
    weights = np.vstack([np.ones((1, count)), drawn])
    best = np.repeat(y[None], bootstrap + 1, axis=0)
    words = f"isoflop: every budget has one row; each is taken as {_GIVEN}, and intervals know only how far these are from a line."
    return allocation("isoflop", budgets, x, best, level, (words,), weights)
