"""Finds the limit that covers a problem, and solves it.

A limit is a package that offers two functions:

- `covers(problem) -> str | None`: `None` when the limit solves this problem (a grid of problems counts as one), else the
  reason why not, in words that a user can act on. Cheap, and free of arrays.
- `solve(problem, times, *, outputs=(), progress=None) -> LearningCurves`: the curves over the product of the problem's
  axes. `times` is a float64 array (integers for discrete protocols, `inf` is the end point) or `None` for a protocol
  without time. Dimensions are `problem.axes()` in order, then `time`. It never raises for a single bad point: the
  variable `status` says `ok`, `diverged` (values inf), `not converged` or `failed` (values NaN), and the text attribute
  `messages` what to try next.

A new limit is one folder and one row of `LIMITS`.
"""

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from foretrain.curves import LearningCurves
from foretrain.errors import ComputationFailed, InvalidInput, UnsupportedProblem, nearest
from foretrain.problems import Problem, protocol_times

Progress = Callable[[int, int, str], None]
"""`progress(done, total, label)` is called as work advances."""


@dataclasses.dataclass(frozen=True)
class Limit:
    """A row of the registry: the name users may pass as `method`, and where the solver lives."""

    name: str
    path: str

    def load(self) -> ModuleType:
        """The solver's package, imported on first use."""
        return importlib.import_module(self.path)


LIMITS: tuple[Limit, ...] = (
    Limit("linear", "foretrain.limits.linear"),
    Limit("adaptive-linear", "foretrain.limits.adaptive_linear"),
    Limit("deep-linear", "foretrain.limits.deep_linear"),
)


def find_limit(problem: Problem, method: str = "auto") -> Limit:
    """The first limit that covers `problem`.

    Args:
        problem: What is to be solved.
        method: Name of a limit to insist on.

    Raises:
        UnsupportedProblem: No limit covers the problem; the message lists every limit's reason and names `train`.
        InvalidInput: No limit of that name.
    """
    names = [limit.name for limit in LIMITS]
    if method != "auto" and method not in names:
        raise InvalidInput(
            f"solve(method={method!r}): expected 'auto' or one of {', '.join(names)}{nearest(method, names)}."
        )
    reasons = []
    for limit in LIMITS:
        if method in ("auto", limit.name):
            reason = limit.load().covers(problem)
            if reason is None:
                return limit
            reasons.append(f"{limit.name}: {reason}")
    raise UnsupportedProblem(
        f"solve: no limit covers this problem ({'; '.join(reasons)}). `train` runs finite models of it."
    )


def solve(
    problem: Problem,
    times: Any = None,
    *,
    outputs: Sequence[str] = (),
    method: str = "auto",
    throw: bool = True,
    progress: Progress | None = None,
) -> LearningCurves:
    """The learning curves that theory predicts.

    Args:
        problem: A problem or a grid of problems.
        times: Times (flows) or steps (discrete protocols), as a list, an array or `{"start", "stop", "points", "spacing"}`;
            `inf` is the end point. `None` only for protocols without time.
        outputs: Names of further variables, for example `("bias",)`; see the limit's page.
        method: Name of a limit, when several could serve.
        throw: Raise when every point failed; otherwise failures are values and `status` says which.
        progress: Called as work advances.

    Returns:
        Curves with `test_loss`, `train_loss`, their `_error` estimates and `status`. Losses are means of squared errors
        without a factor one half; `test_loss` leaves the label noise out, `train_loss` contains it.

    Raises:
        UnsupportedProblem: No limit covers the problem.
        InvalidInput: Wrong times, outputs or method.
        TooLarge: The result would not fit in memory.
        ComputationFailed: Every point failed and `throw` is set.

    Example:
        >>> from foretrain import GradientFlow, PowerLaw, Problem, RandomFeatures, solve
        >>> problem = Problem(PowerLaw(1.5, 0.6, modes=1000), RandomFeatures(width=[64, 256]), GradientFlow(samples=128))
        >>> solve(problem, [1.0, 10.0]).dims["test_loss"]
        ('width', 'time')
    """
    grid = protocol_times(problem.training, times, "solve")
    problem.check_size(1 if grid is None else len(grid), "solve")
    limit = find_limit(problem, method)
    curves = limit.load().solve(problem, grid, outputs=tuple(outputs), progress=progress)
    if throw and curves.status == "failed":
        raise ComputationFailed(f"solve: every point failed: {'; '.join(curves.messages) or 'no reason was given'}")
    return curves
