r"""Choose a form and a window: the ones that predict the dearest rows best when these are left out.

Every law that the table has columns for is fitted on every window (SL.31), (SL.32) of what is cheaper than the largest budget, and of what is
cheaper than the second largest, and predicts all rows of that budget. The smallest sum of errors wins (SL.30). The largest budget of the
table takes part in this choice as what is predicted, so its error is quoted as that of a choice among many; budgets beyond the table never do.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from foretrain.errors import InvalidInput
from foretrain.laws._law import Law
from foretrain.laws._problem import Objective, rows_of
from foretrain.laws._runs import Runs
from foretrain.laws._validation import budgets_of, leave_out_largest, refit, usable_laws
from foretrain.laws._windows import WINDOWS, WINDOWS_OF_ONE, Window

_SECOND = 0.5  # weight of the second largest budget
_STARTS = 12
_EQUAL = 1.1  # scores nearer than this are ties, which noise decides: all rows win, then fewer parameters
_EXACT = 1e-6  # errors below this are rounding, as of rows without noise
_COMPARABLE = 1.5  # times the best score, up to which a candidate counts as another form


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """A law on a window, with what it is worth.

    Args:
        law: The law.
        window: The rows that it is fitted to.
        kept: These rows.
        theta: Coordinates of the fit to them.
        validation: The largest budgets left out one by one, as `leave_out_largest` returns.
        score: Mean relative error of the largest budget, and half of that of the second (SL.30); infinite where rows are too few.
    """

    law: Law
    window: Window
    kept: Bool[np.ndarray, " rows"]
    theta: Float[np.ndarray, " parameters"]
    validation: Mapping[str, Any] | None
    score: float

    @property
    def words(self) -> str:
        """Law and window, for people."""
        return f"{self.law.name} on {self.window.words}"

    def to_json(self) -> dict[str, Any]:
        """What is kept of a candidate that was not chosen."""
        error = None if self.validation is None else self.validation["mean_abs_error"]
        rows = int(self.kept.sum())
        return {"law": self.law.name, "window": self.window.words, "rows": rows, "error": error, "score": self.score}


def candidates(
    runs: Runs, *, x: str | None = None, objective: Objective | None = None, group: str | None = None, seed: int = 0
) -> list[Candidate]:
    """Every law on every window, the best first.

    Args:
        runs: The table.
        x: The variable, to choose among laws of one.
        objective: What is minimized; Huber's loss on the log by default.
        group: Column of the runs.
        seed: Of starts.

    Raises:
        InvalidInput: No law fits the columns, or the rows determine none of those that do.

    Example:
        >>> import numpy as np
        >>> from foretrain.laws import Runs, candidates
        >>> tokens = np.geomspace(1e6, 1e9, 16)
        >>> best = candidates(Runs({"tokens": tokens, "loss": 2.0 + 300.0 / tokens**0.4}), x="tokens")[0]
        >>> best.words
        'power on all rows'
    """
    objective = objective or Objective()
    laws = usable_laws(runs, x=x)
    if not laws:
        raise InvalidInput(
            f"fit: law auto: no law is made of the columns {', '.join(runs.names)}. Name params and tokens with columns, or one "
            "variable with x."
            if x is None
            else f"fit: law auto: column {x!r} is not one of positive numbers."
        )
    found = [
        candidate
        for law in laws
        for window in (WINDOWS if x is None else WINDOWS_OF_ONE)
        if (candidate := _candidate(runs, law, window, objective, group, seed)) is not None
    ]
    if not found:
        names = ", ".join(law.name for law in laws)
        raise InvalidInput(
            f"fit: law auto: {len(runs)} rows determine none of {names}. Name a law to see what it lacks."
        )
    best = min(c.score for c in found)
    if not math.isfinite(best):
        # Too few rows to leave any out: the form with the fewest parameters that describes all rows.
        return sorted(found, key=lambda c: (not c.window.everything, len(c.law.parameters)))
    return sorted(found, key=lambda c: _rank(c, best))


def other_forms_of(found: Sequence[Candidate]) -> tuple[tuple[Law, np.ndarray], ...]:
    """Laws besides the chosen one that predict about as well, each on its best window: their spread enters intervals of predictions.

    Args:
        found: Candidates, the best first.
    """
    limit = max(_COMPARABLE * found[0].score, _EXACT)
    best = {c.law.name: c for c in sorted(found, key=lambda c: -c.score) if c.score <= limit}
    return tuple(
        (c.law, c.theta) for c in sorted(best.values(), key=lambda c: c.score) if c.law.name != found[0].law.name
    )


def chosen_words(found: Sequence[Candidate]) -> str:
    """Why the first candidate is the first, for people.

    Args:
        found: Candidates, the best first.
    """
    best = found[0]
    rows = (
        f"{best.words} ({int(best.kept.sum())} of {len(best.kept)} rows)" if not best.window.everything else best.words
    )
    if best.validation is None:
        return f"{rows}: too few rows to leave any out, so the law with the fewest parameters"
    words = f"{rows}: misses the largest budget by {_percent(best)} on average when it is left out"
    plain = next((c for c in found if c.window.everything and c.law.name in ("chinchilla", "power")), None)
    if plain is None or plain is best or plain.validation is None:
        return words
    return f"{words}; {plain.words} by {_percent(plain)}"


def _candidate(
    runs: Runs, law: Law, window: Window, objective: Objective, group: str | None, seed: int
) -> Candidate | None:
    data = rows_of(runs, law, group)
    budgets = budgets_of(runs, law)
    seen = np.ones(len(data.y), bool)
    kept = window.keep(budgets.log, data.y, seen)
    if not window.everything and kept.all():
        return None
    theta = refit(law, data, objective, kept, None, seed, _STARTS)
    if theta is None:
        return None
    validation = leave_out_largest(runs, law, objective, theta=theta, group=group, window=window, seed=seed)
    return Candidate(law, window, kept, theta, validation, _score(validation))


def _score(validation: Mapping[str, Any] | None) -> float:
    if validation is None:
        return math.inf
    first = validation["mean_abs_error"]
    below = validation["rehearsals"]
    return first + _SECOND * (below[0]["mean_abs_error"] if below else first)


def _rank(candidate: Candidate, best: float) -> tuple[float, bool, int]:
    tied = candidate.score <= max(best * _EQUAL, _EXACT)
    return (best if tied else candidate.score, not candidate.window.everything, len(candidate.law.parameters))


def _percent(candidate: Candidate) -> str:
    assert candidate.validation is not None
    return f"{100 * candidate.validation['mean_abs_error']:.2g} %"
