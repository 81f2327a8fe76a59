r"""How well a law forecasts: the largest budget left out, predicted, and compared; and what laws of other form say.

A law that describes all its rows may still be wrong beyond them. The only evidence within a table is to hide its dearest part, fit the
rest and look: at the largest budget first, which is the headline, and at the ones below it, each predicted from what is cheaper still.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from foretrain.errors import ComputationFailed, InvalidInput
from foretrain.laws._designs import design_refusals
from foretrain.laws._forms import CATALOGUE, law_for
from foretrain.laws._law import Law
from foretrain.laws._problem import Objective, Problem, Rows, rows_of
from foretrain.laws._runs import Runs
from foretrain.laws._windows import ALL, Window

_STARTS, _STARTS_NEAR = 12, 3  # the second where the fit to all rows is one of the starts
_REHEARSALS = 4
_SAME_BUDGET = 0.05  # budgets nearer than this are one: some tables round, some were read off a figure
_PART = 0.1
_FEWEST = 3
# A form enters the spread when its typical residual is at most this much of the law's: a bad fit says nothing about good ones.
_COMPARABLE = 1.5


@dataclasses.dataclass(frozen=True, eq=False)
class Budgets:
    """What every row cost, and the levels that a fit leaves out one by one.

    Args:
        by: What counts as cost: `flops`, or the variable of a law of one variable.
        log: Logarithm of the cost of every row.
        level: Level of every row, 0 the cheapest.
    """

    by: str
    log: Float[np.ndarray, " rows"]
    level: Int[np.ndarray, " rows"]

    @property
    def count(self) -> int:
        """Number of levels."""
        return int(self.level.max()) + 1


def budgets_of(runs: Runs, law: Law) -> Budgets:
    """The cost of every row: the variable of a law that has one, else 6 params tokens, else the last variable of the law.

    Distinct costs are levels where most of them, and the largest, have three rows or more; else a level is a tenth of the rows, at least
    three. A level that is too small is one with the next below.

    Args:
        runs: The table.
        law: The law that is fitted.
    """
    by, cost = cost_of(runs.columns, law)
    log = np.log(np.where(cost > 0, cost, np.nan))
    order = np.argsort(log, kind="stable")
    sizes = np.bincount(np.concatenate([[0], np.cumsum(np.diff(log[order]) > _SAME_BUDGET)]))
    discrete = sizes[-1] >= _FEWEST and np.median(sizes) >= _FEWEST
    size, apart = (_FEWEST, _SAME_BUDGET) if discrete else (max(_FEWEST, round(_PART * len(log))), 0.0)
    level, current, filled = np.zeros(len(log), dtype=np.int64), 0, 0
    for place in range(len(log) - 1, -1, -1):  # from the top down, so that the largest level is full
        above = log[order[min(place + 1, len(log) - 1)]]
        if filled >= size and above - log[order[place]] > apart:
            current, filled = current + 1, 0
        level[order[place]], filled = current, filled + 1
    return Budgets(by, log, level.max() - level)


def cost_of(columns: Mapping[str, Any], law: Law) -> tuple[str, np.ndarray]:
    """What counts as the cost of a run for this law, by name, and its values.

    Args:
        columns: By name, numbers or arrays.
        law: The law.
    """
    if len(law.variables) == 1:
        return law.variables[0], np.asarray(columns[law.variables[0]], float)
    if "params" in law.variables and "tokens" in law.variables:
        # Some tables count FLOP otherwise than 6 N D; forecasts know N and D only.
        return "flops", 6.0 * np.asarray(columns["params"], float) * np.asarray(columns["tokens"], float)
    return law.variables[-1], np.asarray(columns[law.variables[-1]], float)


def coordinates_of(columns: Mapping[str, Any], law: Law) -> Float[np.ndarray, "coordinates rows"]:
    """Logarithms of the law's variables, of the cost and of tokens per parameter: where a run lies, to say how far it is from others.

    Args:
        columns: By name.
        law: The law.
    """
    at = law.columns(columns)
    # Bits are left out: full precision lies at infinity.
    logs = np.log(at[[v not in law.defaults for v in law.variables]])
    if len(law.variables) == 1:
        return logs
    more = [cost_of(columns, law)[1]]
    if "params" in law.variables and "tokens" in law.variables:
        more.append(np.asarray(columns["tokens"], float) / np.asarray(columns["params"], float))
    return np.vstack([logs, *(np.log(np.broadcast_to(values, logs.shape[1:]).reshape(1, -1)) for values in more)])


def distance_beyond(
    at: Float[np.ndarray, "coordinates points"], low: Sequence[float], high: Sequence[float]
) -> Float[np.ndarray, " points"]:
    """How far points lie outside ranges, in units of ln: the largest over the coordinates, 0 inside.

    Args:
        at: Coordinates of the points.
        low: Lower end of the range of every coordinate.
        high: Upper end.
    """
    under = np.asarray(low, float)[:, None] - at
    over = at - np.asarray(high, float)[:, None]
    return np.maximum(np.max(np.maximum(under, over), axis=0), 0.0)


def leave_out_largest(
    runs: Runs,
    law: Law,
    objective: Objective | None = None,
    *,
    theta: np.ndarray | None = None,
    group: str | None = None,
    window: Window = ALL,
    seed: int = 0,
) -> dict[str, Any] | None:
    r"""How well the largest budget is predicted by a fit without it.

    Args:
        runs: The table.
        law: The law.
        objective: What is minimized; Huber's loss on the log by default.
        theta: Coordinates of the fit to all rows, one of the starts.
        group: Column of the runs.
        window: Which of the other rows are fitted; the rows left out are all predicted.
        seed: Of the other starts.

    Returns:
        `by` (what the budget is measured in), `budget`, `rows` left out, `mean_abs_error`, `worst_error`, `bias` (relative; positive when the
        prediction is too high), `distance` (how far the rows left out lie beyond the others, mean of ln), `growth` (of the error with that
        distance, (SL.33)), and under `rehearsals` the same for the budgets below it, each predicted from what is cheaper. `None` where too few
        rows are left.

    Example:
        >>> import numpy as np
        >>> from foretrain.laws import Runs, law_named, leave_out_largest
        >>> tokens = np.geomspace(1e6, 1e9, 12)
        >>> found = leave_out_largest(Runs({"tokens": tokens, "loss": 2.0 + 300.0 / tokens**0.4}), law_named("power", x="tokens"))
        >>> found["rows"], bool(found["mean_abs_error"] < 1e-6)
        (3, True)
    """
    objective = objective or Objective()
    data, budgets = rows_of(runs, law, group), budgets_of(runs, law)
    found = []
    for top in range(budgets.count - 1, max(0, budgets.count - 1 - _REHEARSALS), -1):
        seen = window.keep(budgets.log, data.y, budgets.level < top)
        rehearsal = _rehearse(runs, law, data, objective, budgets, budgets.level == top, seen, theta, seed)
        if rehearsal is None:
            break
        found.append(rehearsal)
    return {**found[0], "rehearsals": found[1:]} if found else None


def growth_of(validation: Mapping[str, Any] | None) -> tuple[float, int]:
    """How fast the error of forecasts grows beyond the rows, per unit of ln, and from how many rehearsals that is known (SL.33).

    Args:
        validation: What `leave_out_largest` returns.
    """
    if validation is None:
        return 0.0, 0
    grown = [v["growth"] for v in (validation, *validation.get("rehearsals", ()))]
    return float(np.median(grown)), len(grown)


def _rehearse(
    runs: Runs,
    law: Law,
    data: Rows,
    objective: Objective,
    budgets: Budgets,
    hidden: Bool[np.ndarray, " rows"],
    seen: Bool[np.ndarray, " rows"],
    theta: np.ndarray | None,
    seed: int,
) -> dict[str, Any] | None:
    """Fit the rows seen, predict those hidden; `None` when the rows seen do not determine the law."""
    solved = refit(law, data, objective, seen, theta, seed, _STARTS if theta is None else _STARTS_NEAR)
    if solved is None:
        return None
    off = Problem(law, data.x[:, hidden], data.y[hidden], objective).log_residuals(solved)
    scatter = Problem(law, data.x[:, seen], data.y[seen], objective).log_residuals(solved)
    error = np.expm1(-off)
    where = coordinates_of(runs.columns, law)
    far = distance_beyond(where[:, hidden], where[:, seen].min(axis=1), where[:, seen].max(axis=1))
    return {
        "by": budgets.by,
        "budget": float(np.exp(np.median(budgets.log[hidden]))),
        "rows": int(hidden.sum()),
        "mean_abs_error": float(np.mean(np.abs(error))),
        "worst_error": float(error[np.argmax(np.abs(error))]),
        "bias": float(np.mean(error)),
        "distance": float(np.mean(far)),
        "growth": math.sqrt(max(float(np.mean(off**2) - np.mean(scatter**2)), 0.0))
        / max(float(np.sqrt(np.mean(far**2))), _SAME_BUDGET),
    }


def refit(
    law: Law,
    data: Rows,
    objective: Objective,
    seen: Bool[np.ndarray, " rows"],
    theta: np.ndarray | None = None,
    seed: int = 0,
    starts: int = _STARTS,
) -> Float[np.ndarray, " parameters"] | None:
    """Coordinates of a fit to some of the rows; `None` when they do not determine the law.

    Args:
        law: The law.
        data: The rows.
        objective: What is minimized.
        seen: Which rows are fitted.
        theta: One of the starts.
        seed: Of the other starts.
        starts: How many others.
    """
    x = np.ascontiguousarray(data.x[:, seen])
    if x.shape[1] == 0 or design_refusals(x.T, law.variables, len(law.parameters), law.name):
        return None
    try:
        solved, _, _ = Problem(law, x, data.y[seen], objective).solve(starts, np.random.default_rng(seed), theta)
    except ComputationFailed:
        return None
    return solved.theta[0]


def usable_laws(runs: Runs, *, x: str | None = None, response: str = "loss") -> list[Law]:
    """Laws of the catalogue that predict a response from columns that this table has, one for every form.

    Args:
        runs: The table.
        x: The variable, for laws of one; laws of several by default.
        response: What they predict.
    """
    found = []
    for name, entry in CATALOGUE.items():
        # gadre is chinchilla-tied, and laws of theory are chinchilla, in other letters.
        if name == "gadre" or name.startswith("theory-") or entry.one_variable != (x is not None):
            continue
        try:
            law = law_for(name, runs, x=x)
        except InvalidInput:  # a law of precision, and a table in which none varies
            continue
        usable = all(v in runs.columns and runs.is_number(v) and np.all(runs[v] > 0) for v in law.required)
        if law.response == response and usable:
            found.append(law)
    return found


def other_forms(
    runs: Runs,
    law: Law,
    objective: Objective | None = None,
    *,
    theta: np.ndarray,
    group: str | None = None,
    seed: int = 0,
) -> tuple[tuple[Law, np.ndarray], ...]:
    """Laws of other form that describe the same rows about as well, by their coordinates.

    Where rows cannot tell forms apart, forecasts must not pretend that one is known: `Fit.predict` widens its intervals by their spread.

    Args:
        runs: The table.
        law: The law that was fitted.
        objective: What is minimized.
        theta: Its coordinates.
        group: Column of the runs.
        seed: Of starts.

    Example:
        >>> import numpy as np
        >>> from foretrain.laws import Runs, law_named, other_forms
        >>> tokens = np.geomspace(1e6, 1e9, 12)
        >>> runs, law = Runs({"tokens": tokens, "loss": 2.0 + 300.0 / tokens**0.4}), law_named("power", x="tokens")
        >>> forms = other_forms(runs, law, theta=law.coordinates({"A": 300.0, "E": 2.0, "alpha": 0.4}))
        >>> "shifted" in [other.name for other, _ in forms]
        True
    """
    objective = objective or Objective()
    typical = _typical(law, rows_of(runs, law, group), theta)
    found = []
    for other in usable_laws(runs, x=law.variables[0] if len(law.variables) == 1 else None, response=law.response):
        if other.name == law.name:
            continue
        data = rows_of(runs, other, group)
        if len(data.y) < 2 * len(other.parameters):  # such a fit describes any rows and says nothing beyond them
            continue
        solved = refit(other, data, objective, np.ones(len(data.y), bool), None, seed)
        if solved is not None and _typical(other, data, solved) <= _COMPARABLE * typical:
            found.append((other, solved))
    return tuple(found)


def _typical(law: Law, data: Rows, theta: np.ndarray) -> float:
    """Median size of a residual, with a degree of freedom taken off for every parameter."""
    left = len(data.y) - len(law.parameters)
    if left <= 0:
        return math.inf
    residuals = Problem(law, data.x, data.y, Objective()).log_residuals(theta)
    return float(np.median(np.abs(residuals))) * math.sqrt(len(data.y) / left)
