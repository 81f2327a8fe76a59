r"""A law, rows and an objective: the minimization problem, solved from many starts and again for resampled runs (SL.20, SL.23)."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from foretrain.errors import ComputationFailed, InvalidInput
from foretrain.laws._law import Columns, Law
from foretrain.laws._runs import Runs
from foretrain.laws._solver import Solved, minimize

_AGREE = 1e-6  # relative, of the objective
_NOTHING = 1e-20  # of the objective, for a row: residuals of 1e-10 are rounding, and starts that leave less agree
_EXACT = 1e-8  # typical residual below which starts have found the same law in data without noise
_TRIES, _POLISH = 200, 1000
_ROUGH = 1e-3  # tolerance of the gradient before the last stage
# Above this many rows starts are tried on a part of the table, and the bootstrap takes one Newton step from the optimum.
_MANY_ROWS = 4000
_TOGETHER = 25  # resamples whose counts are in memory at once


@dataclasses.dataclass(frozen=True)
class Objective:
    r"""What a fit minimizes.

    Args:
        loss: `"huber"`, $H_\delta$, or `"squares"`, $\frac12r^2$.
        on: `"log"`, residuals of $\ln L$, or `"linear"`, of $L$.
        delta: Huber's width, in units of the residual. $10^{-3}$ is nearly the absolute error.

    Raises:
        InvalidInput: Unknown words, or a width that is not positive.
    """

    loss: str = "huber"
    on: str = "log"
    delta: float = 1e-3

    def __post_init__(self) -> None:
        for name, valid in (("loss", ("huber", "squares")), ("on", ("log", "linear"))):
            if getattr(self, name) not in valid:
                raise InvalidInput(
                    f"Objective({name}): expected {' or '.join(map(repr, valid))}, got {getattr(self, name)!r}."
                )
        if not self.delta > 0:
            raise InvalidInput(f"Objective(delta): expected a number > 0, got {self.delta}.")

    @property
    def width(self) -> float:
        """Huber's width; infinite for least squares."""
        return self.delta if self.loss == "huber" else math.inf


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """What a fit uses of a table: the law's variables, the response, and which rows are resampled together."""

    x: Columns
    y: Float[np.ndarray, " rows"]
    groups: Int[np.ndarray, " rows"]
    resampled: str


def rows_of(runs: Runs, law: Law, group: str | None) -> Rows:
    """The rows of a table as a law needs them.

    Raises:
        InvalidInput: Columns are missing, hold values that have no logarithm, or the response has one value.
    """
    at = dict(zip(law.required, runs.numbers(*law.required).T, strict=True))
    for optional in law.defaults:
        if optional in runs:
            values = runs.numbers_or_nan(optional) if runs.is_number(optional) else np.zeros(len(runs))
            runs.take(~np.isnan(values) & (values != np.inf)).numbers(
                optional
            )  # the rest says nothing, or full precision
            at[optional] = values
    y = _response(runs, law)
    if len(y) > 1 and np.all(y == y[0]):
        raise InvalidInput(
            f"fit: {law.response} has one value, {y[0]:.6g}, in all rows: there is nothing to fit. Is it the right column?"
        )
    name = group or ("run" if "run" in runs.columns else None)
    groups = np.arange(len(y)) if name is None else np.unique(runs[name], return_inverse=True)[1]
    return Rows(law.columns(at), y, groups, name or "rows")


def ranges_of(law: Law, x: Columns) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of every variable; infinite ones, of full precision, are left out."""
    finite = {v: c[np.isfinite(c)] for v, c in zip(law.variables, x, strict=True)}
    return {v: (float(c.min()), float(c.max())) for v, c in finite.items() if len(c)}


def _response(runs: Runs, law: Law) -> Float[np.ndarray, " rows"]:
    """What a law predicts; a degradation is the difference of the losses after and before, where a table has these."""
    if law.response == "delta" and "delta" not in runs and "loss_post" in runs:
        after, before = runs.numbers("loss_post", "loss").T
        return after - before
    return runs.numbers(law.response, positive=law.noise == 0.0)[:, 0]


class Problem:
    """The minimization that belongs to a law, rows and an objective."""

    def __init__(self, law: Law, x: Columns, y: np.ndarray, objective: Objective):
        self.law, self.x, self.y, self.objective = law, x, y, objective
        self.low, self.high = law.bounds
        self.target = law.smoothed(y) if objective.on == "log" else y

    def residuals(self, theta: np.ndarray, *, slopes: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
        log, jacobian = self.law.logs(theta, self.x, slopes=slopes)
        if self.objective.on == "log":
            if self.law.noise == 0.0:
                return log - self.target, jacobian
            with np.errstate(over="ignore", invalid="ignore"):
                size = np.exp(log) / (2 * self.law.noise)
                slope = np.where(size < 1e150, size / np.sqrt(1 + np.minimum(size, 1e150) ** 2), 1.0)
                scaled = np.arcsinh(size) + math.log(self.law.noise) - self.target
            return scaled, None if jacobian is None else jacobian * slope[:, None]
        with np.errstate(over="ignore", invalid="ignore"):
            loss = np.exp(log)
            return loss - self.target, None if jacobian is None else jacobian * loss[:, None]

    def log_residuals(self, theta: np.ndarray) -> np.ndarray:
        """Measured less predicted, on the scale on which the law has its residuals."""
        predicted = self.law.logs(theta[None], self.x, slopes=False)[0][0]
        return self.law.smoothed(self.y) - (
            predicted if self.law.noise == 0.0 else self.law.smoothed(np.exp(predicted))
        )

    def minimize(self, starts: np.ndarray, *, delta: float | None = None, **options: Any) -> Solved:
        return minimize(
            self.residuals,
            starts,
            rows=len(self.y),
            delta=self.objective.width if delta is None else delta,
            low=self.low,
            high=self.high,
            **options,
        )

    def solve(self, starts: int, rng: np.random.Generator, near: np.ndarray | None = None) -> tuple[Solved, int, int]:
        """The best start, polished, alone; how many starts were tried, and how many end where it does.

        Args:
            starts: Points of the grid of starts.
            rng: What draws them.
            near: Coordinates to begin from besides.
        """
        begin = grid_of_starts(self.law, starts, rng)
        if near is not None:
            begin = np.concatenate([np.atleast_2d(near), begin])
        count, part, width = len(begin), self._part(rng), self.objective.width
        if self.law.balance is not None:
            begin = self.law.balance(begin, part.x, part.y)
        if self.objective.loss == "huber":
            # Least squares first and a wider Huber function next: with a narrow one from the beginning, many starts hang at kinks.
            begin = part.minimize(begin, delta=math.inf, iterations=_TRIES, tolerance=_ROUGH).theta
            begin = part.minimize(begin, delta=10 * width, iterations=_TRIES, tolerance=_ROUGH).theta
        found = part.minimize(begin, iterations=_TRIES)
        best = found.objective[found.best()]
        if not np.isfinite(best):
            raise ComputationFailed(
                f"fit: law {self.law.name!r} gives no finite {self.law.response} from any of {count} starts; "
                "check the units of the columns, or give other starts."
            )
        agreeing = int(np.sum(found.objective <= best * (1 + _AGREE) + 0.5 * len(part.y) * _EXACT**2))
        order = np.argsort(found.objective)[:4]
        return _only_best(self.minimize(found.theta[order], iterations=_POLISH, tolerance=1e-12)), count, agreeing

    def _part(self, rng: np.random.Generator) -> "Problem":
        if len(self.y) <= _MANY_ROWS:
            return self
        rows = rng.choice(len(self.y), _MANY_ROWS, replace=False)
        return Problem(self.law, np.ascontiguousarray(self.x[:, rows]), self.y[rows], self.objective)

    def bootstrap(self, theta: np.ndarray, groups: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """Coordinates of fits to runs drawn with replacement."""
        size = int(groups.max()) + 1
        if count == 0 or size < 2:
            return np.zeros((0, len(theta)))
        if len(self.y) > _MANY_ROWS:
            return self._one_step(theta, groups, size, count, rng)
        found = self.minimize(
            np.repeat(theta[None], count, axis=0),
            weights=_draws(rng, size, count)[:, groups],
            iterations=400,
            tolerance=1e-6,
        )
        return found.theta[np.isfinite(found.objective)]

    def _one_step(
        self, theta: np.ndarray, groups: np.ndarray, size: int, count: int, rng: np.random.Generator
    ) -> np.ndarray:
        """One Newton step from the estimate for each resample: as good where rows are many, and memory stays small."""
        r, jacobian = self.residuals(theta[None])
        slopes, width = jacobian[0], self.objective.width  # type: ignore[index]
        weight = np.minimum(1.0, width / np.maximum(np.abs(r[0]), 1e-300))
        inside = np.abs(r[0]) <= width
        pull = np.zeros((size, len(theta)))
        np.add.at(pull, groups, (slopes * (weight * r[0])).T)
        curvature = np.zeros((size, len(theta) ** 2))
        np.add.at(
            curvature,
            groups[inside],
            np.einsum("pn,qn->npq", slopes[:, inside], slopes[:, inside]).reshape(-1, len(theta) ** 2),
        )
        parts = []
        for first in range(0, count, _TOGETHER):
            drawn = _many_draws(rng, size, min(_TOGETHER, count - first))
            total = (drawn @ curvature).reshape(-1, len(theta), len(theta))
            parts.append(theta - np.linalg.solve(total, (drawn @ pull)[:, :, None])[:, :, 0])
        return np.clip(np.concatenate(parts), self.low, self.high)

    def condition(self, theta: np.ndarray) -> float:
        """Condition number of the Jacobian, rows weighted as at the optimum and columns scaled to length one."""
        r, jacobian = self.residuals(theta[None])
        weight = np.minimum(1.0, self.objective.width / np.maximum(np.abs(r[0]), 1e-300))
        scaled = (jacobian[0] * np.sqrt(weight)).T  # type: ignore[index]
        length = np.linalg.norm(scaled, axis=0)
        if not np.all(length > 0):
            return math.inf
        values = np.linalg.svd(scaled / length, compute_uv=False)
        return float(values[0] / values[-1]) if values[-1] > 0 else math.inf


def _draws(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    return rng.multinomial(size, np.full(size, 1.0 / size), size=count).astype(float)


def _many_draws(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """The same distribution from runs drawn one by one, which is faster where they are many."""
    return np.stack([np.bincount(rng.integers(size, size=size), minlength=size) for _ in range(count)]).astype(float)


def _only_best(solved: Solved) -> Solved:
    i = solved.best()
    return Solved(*(getattr(solved, f.name)[i : i + 1] for f in dataclasses.fields(Solved)))


def grid_of_starts(law: Law, count: int, rng: np.random.Generator) -> Float[np.ndarray, "starts parameters"]:
    """Points of the grid of all parameters' starts, drawn without replacement; all of them when there are fewer.

    Args:
        law: The law.
        count: How many.
        rng: What draws them.
    """
    axes: Sequence[np.ndarray] = [np.array([p.coordinate(s) for s in p.start]) for p in law.parameters]
    size = math.prod(len(a) for a in axes)
    chosen = np.arange(size) if size <= count else rng.choice(size, count, replace=False)
    return np.stack([a[i] for a, i in zip(axes, np.unravel_index(chosen, [len(a) for a in axes]), strict=True)], axis=1)
