r"""IsoFLOP valleys: the best size of every budget from a parabola, and the power of compute by which it grows.

The second approach of arXiv 2203.15556. At each budget $\ln L$ over $\ln N$ is a valley; the parabola through the points nearest its lowest has its
vertex at $N_{\mathrm{opt}}$ (PL.12), and $\ln N_{\mathrm{opt}}$ over $\ln C$ is a line (PL.13). No law is assumed.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain.errors import InvalidInput
from foretrain.laws._allocation import Allocation, Budget, allocation, line_of
from foretrain.laws._planner import FLOPS_PER_TOKEN
from foretrain.laws._runs import Runs

POINTS = 5

_SAME_BUDGET = 0.05  # in ln C; tables round, and batches make whole steps
_PARABOLA = 3
_LISTED = 4
_FREE = 0.05
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

    A budget counts where its lowest loss and the vertex lie inside its sizes. Intervals come from errors of runs about their parabolas, drawn
    anew, with the sizes nearest the lowest chosen anew. A table with one row for each budget is taken as one of optima.

    Args:
        runs: A table with `flops`, `params` and `loss`; $D=C/6N$ where it has no `tokens`.
        points: How many sizes nearest the lowest make the parabola; runs of one size are averaged.
        group: Column whose equal values are one run, whose errors change together; `"run"` by default where there is such a column.
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
    loss = np.log(table.numbers("loss")[:, 0])
    parts = [_Valley(np.log(params[strata == i]), loss[strata == i], points) for i in range(count)]
    noise = _noise(parts, strata, groups, bootstrap, rng)
    best = np.full((bootstrap + 1, 2, count), np.nan)
    budgets = []
    for i, part in enumerate(parts):
        at, depth = part.vertices(noise[:, strata == i])
        best[:, 0, i], best[:, 1, i] = at, _along(part.x, np.log(tokens[strata == i]), at)
        of_params, of_tokens, lowest = (float(np.exp(v)) for v in (at[0], best[0, 1, i], depth[0]))
        budgets.append(Budget(float(np.exp(log_flops[i])), of_params, of_tokens, lowest, len(part.x), part.status))
    lost = [b for b in budgets if b.status != "ok"]
    for reason, those in itertools.groupby(sorted(lost, key=lambda b: b.status), key=lambda b: b.status):
        costs = [f"{b.flops:.3g}" for b in those]
        more = f" and {len(costs) - _LISTED} more" if len(costs) > _LISTED else ""
        warnings.append(
            f"isoflop: {len(costs)} of {count} budgets left out, {reason}: C = {', '.join(costs[:_LISTED])}{more}."
        )
    best[1:] += _scatter(log_flops, best[:, 0], rng)[:, None] * np.array([1.0, -1.0])[:, None]
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


class _Valley:
    """Runs of one budget, and the parabola through the sizes nearest their lowest.

    Args:
        x: ln N of every run.
        y: ln L.
        points: How many sizes make the parabola; runs of one size are averaged.
    """

    def __init__(self, x: Float[np.ndarray, " rows"], y: Float[np.ndarray, " rows"], points: int):
        self.x, self.y, self.points = x, y, points
        self.sizes, index = np.unique(x, return_inverse=True)
        self.member = np.equal.outer(index, np.arange(len(self.sizes))).astype(float)
        self.counts = self.member.sum(axis=0)
        self.fitted, self.errors, self.status = y.copy(), np.full(len(y), np.nan), "ok"
        if len(self.sizes) < _PARABOLA:
            self.status = f"{len(self.sizes)} size{'s' if len(self.sizes) > 1 else ''} only"
            return
        means, chosen, centre, terms, leverage = self._parabola(y[None])
        lowest = int(np.argmin(means[0]))
        if lowest in (0, len(self.sizes) - 1):
            self.status = f"lowest loss at its {'smallest' if lowest == 0 else 'largest'} size"
        elif math.isnan(self._vertex(terms, chosen, centre)[0]):
            self.status = "no valley about its lowest loss"
        else:
            rows = np.flatnonzero(np.isin(index, chosen[0]))
            place = np.argsort(chosen[0])[np.searchsorted(np.sort(chosen[0]), index[rows])]
            dx = x[rows] - centre[0]
            self.fitted[rows] = means[0].min() + terms[0] @ np.stack([np.ones_like(dx), dx, dx**2])
            # A parabola through few points comes near them: errors are smaller than those of runs by the root of what it leaves free.
            self.errors[rows] = (y[rows] - self.fitted[rows]) / np.sqrt(np.maximum(1.0 - leverage[0][place], _FREE))

    def vertices(self, noise: Float[np.ndarray, "fits rows"]) -> tuple[np.ndarray, np.ndarray]:
        """Vertices and their depth: of the runs, and then of the parabola with each noise about it; NaN where there is none."""
        if self.status != "ok":
            return np.full(len(noise), np.nan), np.full(len(noise), np.nan)
        y = self.fitted + np.where(np.isnan(self.errors), 0.0, noise)
        y[0] = self.y
        means, chosen, centre, terms, _ = self._parabola(y)
        at = self._vertex(terms, chosen, centre)
        with np.errstate(all="ignore"):
            return at, means.min(axis=1) + terms[:, 0] - terms[:, 1] ** 2 / (4.0 * terms[:, 2])

    def _parabola(self, y: Float[np.ndarray, "fits rows"]) -> tuple[np.ndarray, ...]:
        """Means of sizes, the sizes chosen, the lowest one, coefficients about it, and the leverage of a run of each."""
        means = y @ self.member / self.counts
        centre, level = self.sizes[np.argmin(means, axis=1)], means.min(axis=1)
        chosen = np.argsort(np.abs(self.sizes - centre[:, None]), axis=1, kind="stable")[:, : self.points]
        dx, dy = self.sizes[chosen] - centre[:, None], np.take_along_axis(means, chosen, axis=1) - level[:, None]
        powers = np.stack([np.ones_like(dx), dx, dx**2], axis=-1)
        inverse = np.linalg.inv(np.einsum("fki,fk,fkj->fij", powers, self.counts[chosen], powers))
        terms = np.einsum("fij,fkj,fk,fk->fi", inverse, powers, self.counts[chosen], dy)
        return means, chosen, centre, terms, np.einsum("fki,fij,fkj->fk", powers, inverse, powers)

    def _vertex(self, terms: np.ndarray, chosen: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """Where a parabola is lowest, between the sizes that made it and not at the ends of the table."""
        around = self.sizes[chosen]
        with np.errstate(all="ignore"):
            at = centre - terms[:, 1] / (2.0 * terms[:, 2])
            told = (terms[:, 2] > 0) & (at > around.min(axis=1)) & (at < around.max(axis=1))
        return np.where(told & (centre > self.sizes[0]) & (centre < self.sizes[-1]), at, np.nan)


def _noise(
    parts: list[_Valley], strata: np.ndarray, groups: np.ndarray, count: int, rng: np.random.Generator
) -> Float[np.ndarray, "fits rows"]:
    """Noise of every resample: errors of all budgets, drawn anew for each run with a random sign.

    Runs with several rows keep their own errors and change their signs together, for rows of one run share their luck.
    """
    errors = np.full(len(strata), np.nan)
    for i, part in enumerate(parts):
        errors[strata == i] = part.errors
    known = errors[~np.isnan(errors)]
    noise = np.zeros((count + 1, len(strata)))
    if not len(known):
        return noise
    runs = int(groups.max()) + 1
    signs = rng.choice([-1.0, 1.0], (count, runs))[:, groups]
    drawn = rng.choice(known, (count, len(strata))) if runs == len(groups) else np.nan_to_num(errors)
    noise[1:] = signs * drawn
    return noise


def _scatter(
    x: Float[np.ndarray, " budgets"], best: Float[np.ndarray, "fits budgets"], rng: np.random.Generator
) -> Float[np.ndarray, "resamples budgets"]:
    """What the best sizes of budgets scatter about their line beyond the noise of runs: as much as is seen of it, drawn for each resample.

    Rates that were tuned at some budgets, sizes that are far apart: nothing within a budget shows them.
    """
    known = int(np.isfinite(best[0]).sum())
    if len(best) < 3 or known < 3:
        return np.zeros_like(best[1:])
    intercept, slope = line_of(x, best[0])
    seen = float(np.nansum((best[0] - intercept - slope * x) ** 2)) / (known - 2)
    within = np.isfinite(best[1:])
    count = np.maximum(within.sum(axis=0), 1)
    mean = np.where(within, best[1:], 0.0).sum(axis=0) / count
    of_runs = np.where(within, best[1:] - mean, 0.0) ** 2
    left = seen - float(np.mean((of_runs.sum(axis=0) / count)[np.isfinite(best[0])]))
    return math.sqrt(max(left, 0.0)) * rng.standard_normal(best[1:].shape)


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
