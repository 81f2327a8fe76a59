"""What figures and tables of a fit are drawn from: points, residuals, slices of one budget, the frontier, other forms."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from foretrain.laws import Fit, Law, Runs
from foretrain.laws._problem import rows_of

FLOPS_PER_TOKEN = 6.0  # and parameter: the counting behind C = 6 N D

_SAMPLES = 200  # bootstrap fits behind a drawn band
_SIZES = 241  # of a budget's curve
_REACH = 3.0  # decades of size to both sides of the square root of the budget
_MOST_SLICES = 8
_SAME = 0.02  # budgets that differ by less, relatively, are one
_FEWEST = 4  # points of a slice


@dataclasses.dataclass(frozen=True, eq=False)
class Points:
    """Rows of a fit: columns in the order of the law's variables, the response, and what the law says there.

    Args:
        law: The law.
        x: Columns.
        loss: Measured.
        predicted: By the law.
    """

    law: Law
    x: Float[np.ndarray, "variables rows"]
    loss: Float[np.ndarray, " rows"]
    predicted: Float[np.ndarray, " rows"]

    @property
    def errors(self) -> Float[np.ndarray, " rows"]:
        """Measured over predicted, less one; of degradations on the scale of their residuals, on which small ones differ by little."""
        if self.law.noise:
            return np.expm1(self.law.smoothed(self.loss) - self.law.smoothed(self.predicted))
        return self.loss / self.predicted - 1.0

    @property
    def sized(self) -> bool:
        """Whether the law is one of parameters and tokens alone, so that a budget has a best size."""
        return set(self.law.variables) == {"params", "tokens"}

    @property
    def compute(self) -> Float[np.ndarray, " rows"] | None:
        """$6ND$, where the law knows both."""
        names = self.law.variables
        if "params" not in names or "tokens" not in names:
            return None
        return FLOPS_PER_TOKEN * self.column("params") * self.column("tokens")

    def column(self, name: str) -> Float[np.ndarray, " rows"]:
        """One variable."""
        return self.x[self.law.variables.index(name)]


def points_of(fit: Fit, runs: Runs) -> Points:
    """The rows that were fitted.

    Args:
        fit: The fit.
        runs: The rows that it was made from.
    """
    rows = rows_of(runs, fit.law, None)
    return Points(fit.law, rows.x, rows.y, np.exp(_logs(fit, rows.x)[0]))


@dataclasses.dataclass(frozen=True, eq=False)
class Slice:
    """Runs of nearly one budget, moved along the law to exactly that budget, with the law's curve.

    Args:
        budget: $C=6ND$.
        params: Of the runs.
        loss: Of the runs.
        sizes: Of the curve.
        curve: The law there.
        best: Size at which the law is smallest.
        lowest: The law there.
    """

    budget: float
    params: Float[np.ndarray, " runs"]
    loss: Float[np.ndarray, " runs"]
    sizes: Float[np.ndarray, " sizes"]
    curve: Float[np.ndarray, " sizes"]
    best: float
    lowest: float


def slices_of(fit: Fit, points: Points) -> list[Slice]:
    """IsoFLOP slices, from the cheapest budget to the dearest; none where the law has no best size.

    Args:
        fit: The fit.
        points: Its rows.
    """
    compute = points.compute
    if not points.sized or compute is None:
        return []
    groups = _budgets(compute)
    counts = {int(g): int(np.sum(groups == g)) for g in np.unique(groups)}
    kept = [g for g, n in counts.items() if n >= _FEWEST]
    if len(kept) > _MOST_SLICES:
        kept = [kept[round(i)] for i in np.linspace(0, len(kept) - 1, _MOST_SLICES)]
    found = []
    for group in kept:
        rows = groups == group
        budget = float(np.exp(np.mean(np.log(compute[rows]))))
        params = points.column("params")[rows]
        moved = points.loss[rows] / points.predicted[rows] * _at_budget(fit, budget, params)
        best, lowest = frontier(fit, np.array([budget]))[:2]
        reach = np.log([params.min() / 2.0, params.max() * 2.0, best[0] / 3.0, best[0] * 3.0])
        sizes = np.exp(np.linspace(reach.min(), reach.max(), _SIZES))
        curve = _at_budget(fit, budget, sizes)
        found.append(Slice(budget, params, moved, sizes, curve, float(best[0]), float(lowest[0])))
    return found


def _budgets(compute: Float[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
    """A number for each run: of its budget where budgets are discrete, else of a slice of a decade or less."""
    order = np.argsort(compute)
    logs = np.log(compute[order])
    discrete = np.concatenate([[0], np.cumsum(np.diff(logs) > _SAME)])
    counts = np.bincount(discrete)
    groups = np.empty(len(compute), dtype=np.int64)
    if counts[counts >= _FEWEST].sum() >= 0.8 * len(compute):
        groups[order] = discrete
        return groups
    decades = (logs[-1] - logs[0]) / np.log(10.0)
    bins = min(int(np.ceil(2 * decades)), len(compute) // (2 * _FEWEST), 2 * _MOST_SLICES)
    bins = max(1, int(np.ceil(decades)), bins)  # wider ones would be no valley any more
    edges = np.linspace(logs[0], logs[-1], bins + 1)[1:-1]
    groups[order] = np.searchsorted(edges, logs)
    return groups


def frontier(
    fit: Fit, budgets: Float[np.ndarray, " budgets"]
) -> tuple[
    Float[np.ndarray, " budgets"],
    Float[np.ndarray, " budgets"],
    Float[np.ndarray, "2 budgets"],
    Float[np.ndarray, "2 budgets"],
]:
    r"""The size that is best at each budget $C=6ND$, its loss, and the intervals of both.

    Args:
        fit: A fit of a law of parameters and tokens.
        budgets: $C$.
    """
    thetas = np.concatenate([fit.theta[None], fit.samples[:_SAMPLES]])
    best, lowest = np.empty((len(thetas), len(budgets))), np.empty((len(thetas), len(budgets)))
    away = np.linspace(-_REACH, _REACH, _SIZES) * np.log(10.0)
    for i, budget in enumerate(budgets):
        sizes = np.exp(0.5 * np.log(budget / FLOPS_PER_TOKEN) + away)
        logs = fit.law.logs(thetas, _columns(fit.law, sizes, budget / FLOPS_PER_TOKEN / sizes), slopes=False)[0]
        at = np.clip(np.argmin(logs, axis=1), 1, _SIZES - 2)
        left, middle, right = (logs[np.arange(len(at)), at + k] for k in (-1, 0, 1))
        bend = left - 2.0 * middle + right
        # The vertex of the parabola through three neighbours; none where the best size lies beyond the curve.
        shift = np.clip(np.where(bend > 0, 0.5 * (left - right) / np.where(bend > 0, bend, 1.0), 0.0), -1.0, 1.0)
        best[:, i] = np.exp(np.log(sizes[at]) + shift * (away[1] - away[0]))
        lowest[:, i] = np.exp(middle - 0.25 * (left - right) * shift)
    ends = (0.5 - fit.level / 2, 0.5 + fit.level / 2)
    unknown = np.full((2, len(budgets)), np.nan)
    known = len(thetas) > 1
    spans = [np.quantile(values[1:], ends, axis=0) if known else unknown for values in (best, lowest)]
    return best[0], lowest[0], spans[0], spans[1]


def typical(place: Float[np.ndarray, " rows"], values: Float[np.ndarray, " rows"]) -> tuple[np.ndarray, np.ndarray]:
    """A running median over at most twelve equally filled groups along `place`.

    Args:
        place: Along the axis.
        values: At each place.
    """
    order = np.argsort(place, kind="stable")
    groups = [g for g in np.array_split(order, min(12, max(1, len(order) // 5))) if len(g)]
    return np.array([np.exp(np.mean(np.log(place[g]))) for g in groups]), np.array(
        [np.median(values[g]) for g in groups]
    )


def other_forms(fit: Fit, points: Points) -> list[dict[str, object]]:
    """What laws of other form, fitted to the same rows, say at the largest run and ten and a hundred times beyond it.

    Args:
        fit: The fit.
        points: Its rows.
    """
    compute = points.compute
    last = int(np.argmax(points.x[0] if compute is None else compute))
    at = {name: float(points.column(name)[last]) for name in fit.law.variables}
    rows = []
    for law, theta in [(fit.law, fit.theta), *fit.forms]:
        row: dict[str, object] = {"law": law.name}
        for times in (1.0, 10.0, 100.0):
            scale = np.sqrt(times) if compute is not None else times
            there = {
                name: value * (scale if name in _GROWING or compute is None else 1.0) for name, value in at.items()
            }
            row["at the largest run" if times == 1 else f"× {times:g}"] = float(
                np.exp(law.logs(theta[None], law.columns(there), slopes=False)[0][0, 0])
            )
        rows.append(row)
    return rows


_GROWING = ("params", "tokens", "tokens_per_epoch")


def _at_budget(fit: Fit, budget: float, params: np.ndarray) -> np.ndarray:
    return np.exp(_logs(fit, _columns(fit.law, params, budget / FLOPS_PER_TOKEN / params))[0])


def _columns(law: Law, params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    return np.stack([params if name == "params" else tokens for name in law.variables])


def _logs(fit: Fit, x: np.ndarray) -> np.ndarray:
    return fit.law.logs(fit.theta[None], x, slopes=False)[0]
