r"""Fit a law to a table of runs: the estimate, what it rests on, and how sure it is.

The estimate minimizes $\sum_iH_\delta(\ln\hat L_i-\ln L_i)$ (SL.20) from many starts. Intervals come from fits to resampled *runs*: rows of
one run are not independent, and resampling rows would make intervals too narrow.
"""

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from foretrain.errors import InvalidInput
from foretrain.laws._auto import candidates, chosen_words, other_forms_of
from foretrain.laws._designs import design_refusals, design_warnings
from foretrain.laws._forms import law_for
from foretrain.laws._law import Law
from foretrain.laws._misfit import misfit
from foretrain.laws._problem import Objective as Objective
from foretrain.laws._problem import Problem, ranges_of, rows_of
from foretrain.laws._runs import Runs
from foretrain.laws._validation import (
    budgets_of,
    coordinates_of,
    distance_beyond,
    growth_of,
    leave_out_largest,
    other_forms,
)

if TYPE_CHECKING:
    from foretrain.laws._planner import Plan

STARTS, BOOTSTRAP, LEVEL = 64, 1000, 0.95

_SINGULAR = 1e6  # condition number of the scaled Jacobian; 300 to 500 in published tables
_RESIDUALS_KEPT = 101
_ENOUGH_ROWS = 4000  # to see how well laws forecast; larger tables are sampled for it


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with an interval.

    Args:
        value: The estimate.
        low: Lower end of the interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """`{"value", "low", "high"}`."""
        return {"value": self.value, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        return f"{self.value:.5g} [{self.low:.4g}, {self.high:.4g}]"


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """A law with estimated parameters: what `fit` returns.

    Args:
        law: The law.
        theta: Coordinates of the estimate.
        objective: The minimized sum, over all rows and without a factor.
        samples: Coordinates of the bootstrap fits; none when the bootstrap was left out.
        level: Probability that intervals are meant to cover.
        residuals: Quantiles of the residuals of the log of the response, equally spaced.
        rows: Number of rows.
        groups: Number of groups (runs) that were resampled.
        starts: Number of starts.
        starts_agreeing: How many of them end within 1e-6 of the best objective.
        condition_number: Of the weighted Jacobian with columns of length one: 1e8 and more means that rows do not tell the parameters apart.
        gradient: Largest cosine between residuals and columns of the Jacobian at the estimate: zero at an optimum.
        warnings: What to think of before using it.
        settings: What was minimized and how.
        data: Where rows came from, and their ranges.
        validation: The largest budget left out, fitted without it and predicted; `None` where rows do not allow it.
        forms: Other laws fitted to the same rows, by their coordinates; their spread enters intervals of predictions.
    """

    law: Law
    theta: Float[np.ndarray, " parameters"]
    objective: float
    samples: Float[np.ndarray, "fits parameters"]
    level: float
    residuals: Float[np.ndarray, " quantiles"]
    rows: int
    groups: int
    starts: int
    starts_agreeing: int
    condition_number: float
    gradient: float
    warnings: tuple[str, ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    validation: Mapping[str, Any] | None = None
    forms: tuple[tuple[Law, np.ndarray], ...] = ()

    @property
    def parameters(self) -> dict[str, Estimate]:
        """Every parameter with its interval."""
        values, samples = self.law.values(self.theta), self.law.values(self.samples)
        return {name: self.interval(float(values[name]), samples[name]) for name in self.law.names}

    @property
    def derived(self) -> dict[str, Estimate]:
        """What follows from the parameters alone, such as the exponent of the compute-optimal size."""
        values, samples = self.law.values(self.theta), self.law.values(self.samples)
        return {name: self.interval(float(f(values)), f(samples)) for name, f in self.law.derived.items()}

    def interval(self, value: float, samples: np.ndarray) -> Estimate:
        """The value of a quantity with the interval that its values at the bootstrap fits span.

        Args:
            value: At the estimate.
            samples: At each of `self.samples`.
        """
        samples = np.asarray(samples, float)
        samples = samples[np.isfinite(samples)]
        if len(samples) == 0:
            return Estimate(value, math.nan, math.nan)
        low, high = np.quantile(samples, [0.5 - self.level / 2, 0.5 + self.level / 2])
        return Estimate(value, float(low), float(high))

    def predict(
        self, at: Mapping[str, Any], *, level: float | None = None, noise: bool = True
    ) -> dict[str, np.ndarray]:
        r"""The response at given columns, with an interval.

        The interval contains the sampling error (bootstrap), the error of the form, and with `noise` the scatter of single runs. The error of the
        form is the larger of two (SL.34): the spread over laws of other form that predict about as well, and an error that grows with the
        distance from the rows as it did when the largest budgets were left out.

        Args:
            at: Numbers or arrays for every variable of the law.
            level: Probability that the interval is meant to cover; the fit's by default.
            noise: Of a new run; without it, of the law.

        Returns:
            `value`, `low` and `high`, of the shape of the input.
        """
        shape = np.broadcast_shapes(*(np.shape(at[v]) for v in self.law.variables if v in at))
        x = self.law.columns(at)
        self.law.refuse_outside(self.theta, x)
        centre = self.law.logs(self.theta[None], x, slopes=False)[0][0]
        spread = self._spread(at, centre)
        rng = np.random.default_rng(0)
        draws = self.law.logs(self.samples, x, slopes=False)[0] if len(self.samples) else centre[None].repeat(1000, 0)
        # Two measures of one thing, that the law is not the truth: the larger counts.
        draws = draws + np.maximum(spread, self._beyond(at)) * rng.standard_normal((len(draws), 1))
        if self.law.noise:
            draws, centre = self.law.smoothed(np.exp(draws)), self.law.smoothed(np.exp(centre))
        if noise and len(self.residuals):
            draws = draws + rng.choice(self.residuals, draws.shape)
        level = self.level if level is None else level
        known = len(self.samples) or len(self.residuals) or self.forms  # constants of a paper have no intervals
        low, high = _ends(draws, level) if known else np.full((2, *centre.shape), np.nan)
        # An interval that misses its own value has lost a skewed bootstrap; it is widened to it, never shifted.
        low, high = np.minimum(low, centre), np.maximum(high, centre)
        return {
            name: self.law.unsmoothed(scaled).reshape(shape)
            for name, scaled in {"value": centre, "low": low, "high": high}.items()
        }

    def plan(self, **asked: Any) -> "Plan":
        """What this law advises to train, as from `plan`.

        Args:
            asked: `compute`, `params`, `tokens`, `loss`, `level` and more: the arguments of `plan`.

        Raises:
            InvalidInput: As for `plan`.
        """
        from foretrain.laws._plan import plan

        return plan(self, **asked)

    def to_json(self) -> dict[str, Any]:
        """What `foretrain fit --json` prints, as plain JSON types."""
        from foretrain.laws._saved import fit_to_json

        return fit_to_json(self)

    def save(self, path: str | os.PathLike) -> None:
        """Write the fit as strict JSON, whole or not at all; `load` gives it back to the last bit.

        Args:
            path: The file.

        Raises:
            InvalidInput: The file cannot be written.
        """
        from foretrain.laws._saved import save

        save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike, *, law: Law | None = None) -> "Fit":
        """The fit that a file holds.

        Args:
            path: A file from `save`, or from `foretrain fit -o`.
            law: The law, when it is one of your own; laws of `foretrain laws` are found by name.

        Raises:
            InvalidInput: Not such a file, one of another version, or one of a law that is not known.
        """
        from foretrain.laws._saved import load

        return load(path, law=law)

    def _beyond(self, at: Mapping[str, Any]) -> np.ndarray:
        span = self.data.get("span")
        growth, _ = growth_of(self.validation)
        if span is None or not growth:
            return np.zeros(1)
        return growth * distance_beyond(coordinates_of(at, self.law), span["low"], span["high"])

    def _spread(self, at: Mapping[str, Any], centre: np.ndarray) -> np.ndarray:
        # A form that needs a column which is not given cannot say anything.
        others = [
            law.logs(theta[None], law.columns(at), slopes=False)[0][0]
            for law, theta in self.forms
            if all(v in at for v in law.required)
        ]
        if not others:
            return np.zeros_like(centre)
        # Nor can one that has no value there: bits that are too few for it.
        apart = np.nan_to_num(np.array(others) - centre, nan=0.0)
        return np.sqrt(np.mean(apart**2, axis=0))


def _ends(draws: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the middle part of draws; where a law of a draw has no value, its response is beyond all bounds."""
    draws = np.where(np.isnan(draws), np.inf, draws)
    methods = ("linear", "linear") if np.isfinite(draws).all() else ("lower", "higher")
    low, high = (
        np.quantile(draws, 0.5 + side * level, axis=0, method=method)
        for side, method in zip((-0.5, 0.5), methods, strict=True)
    )
    return low, high


def fit(
    runs: Runs | Mapping[str, Any],
    law: Law | str = "chinchilla",
    *,
    x: str | None = None,
    group: str | None = None,
    objective: Objective | None = None,
    starts: int = STARTS,
    bootstrap: int = BOOTSTRAP,
    level: float = LEVEL,
    validate: bool = True,
    seed: int = 0,
) -> Fit:
    r"""The law that is nearest to the runs (SL.20).

    Args:
        runs: A table from `read_runs`, or columns by name.
        law: A law, its name, or `"auto"`: the form and the window of rows that predict the largest budgets best when these are left out
            (SL.30); `settings["chosen"]` says which and why.
        x: The variable, for laws of one variable.
        group: Column whose equal values are one run, resampled together; `"run"` by default where there is such a column.
        objective: What is minimized: Huber's loss with $\delta=10^{-3}$ on the log by default.
        starts: Points of the law's grid of starts to begin from.
        bootstrap: Fits to resampled runs; 0 leaves intervals out.
        level: Probability that intervals are meant to cover.
        validate: Leave the largest budget out, too, and say how well it is predicted; intervals of forecasts need it. `auto` always does.
        seed: Of starts and resampling.

    Raises:
        InvalidInput: Columns are missing or cannot be used, or the rows cannot tell the law's parameters apart.
        ComputationFailed: No start gives a finite loss.

    Example:
        >>> import numpy as np
        >>> from foretrain.laws import fit
        >>> params = np.repeat([1e7, 3e7, 1e8, 3e8, 1e9], 4)
        >>> tokens = params * np.tile([5.0, 20.0, 80.0, 320.0], 5)
        >>> loss = 1.8 + 400.0 / params**0.34 + 2000.0 / tokens**0.36
        >>> found = fit({"params": params, "tokens": tokens, "loss": loss}, "chinchilla", bootstrap=0)
        >>> round(found.parameters["alpha"].value, 6), round(found.parameters["E"].value, 6)
        (0.34, 1.8)
    """
    runs = runs if isinstance(runs, Runs) else Runs.from_columns(runs)
    objective = objective or Objective()
    options = _Options(group, objective, starts, bootstrap, level, seed)
    if law == "auto":
        return _fit_best(runs, x, options)
    law = law_for(law, runs, x=x) if isinstance(law, str) else law
    found = _estimate(runs, law, options)
    return _validated(found, runs, options) if validate else found


@dataclasses.dataclass(frozen=True)
class _Options:
    group: str | None
    objective: Objective
    starts: int
    bootstrap: int
    level: float
    seed: int


def _estimate(runs: Runs, law: Law, options: _Options) -> Fit:
    data = rows_of(runs, law, options.group)
    if refusals := design_refusals(data.x.T, law.variables, len(law.parameters), law.name):
        raise InvalidInput("fit: " + " ".join(refusals))
    problem = Problem(law, data.x, data.y, options.objective)
    rng = np.random.default_rng(options.seed)
    solved, tried, agreeing = problem.solve(options.starts, rng)
    theta = solved.theta[solved.best()]
    condition = problem.condition(theta)
    warnings = [*runs.warnings(), *design_warnings(data.x.T, law.variables, law.name)]
    warnings += _doubts(law, theta, tried, agreeing, condition)
    where = coordinates_of(runs.columns, law)
    return Fit(
        law,
        theta,
        float(solved.objective[solved.best()]),
        problem.bootstrap(theta, data.groups, options.bootstrap, rng),
        options.level,
        np.quantile(problem.log_residuals(theta), np.linspace(0.0, 1.0, _RESIDUALS_KEPT)),
        len(data.y),
        int(data.groups.max()) + 1,
        tried,
        agreeing,
        condition,
        float(solved.gradient[solved.best()]),
        tuple(warnings),
        settings={
            **dataclasses.asdict(options.objective),
            "seed": options.seed,
            "bootstrap": options.bootstrap,
            "resampled": data.resampled,
        },
        data={
            "source": runs.source,
            "ranges": ranges_of(law, data.x),
            "span": {"low": where.min(axis=1).tolist(), "high": where.max(axis=1).tolist()},
        },
    )


def _validated(found: Fit, runs: Runs, options: _Options) -> Fit:
    """With the largest budget left out, other forms, and a word where the law misfits."""
    few = _some(runs, options)
    more: dict[str, Any] = {"theta": found.theta, "group": options.group, "seed": options.seed}
    doubt = misfit(few, found, group=options.group, seed=options.seed).text
    return dataclasses.replace(
        found,
        validation=leave_out_largest(few, found.law, options.objective, **more),
        forms=other_forms(few, found.law, options.objective, **more),
        warnings=(*found.warnings, doubt) if doubt else found.warnings,
    )


def _fit_best(runs: Runs, x: str | None, options: _Options) -> Fit:
    few = _some(runs, options)
    tried = candidates(few, x=x, objective=options.objective, group=options.group, seed=options.seed)
    best = tried[0]
    budgets = budgets_of(runs, best.law)
    response = rows_of(runs, best.law, options.group).y
    kept = runs.take(best.window.keep(budgets.log, response, np.ones(len(runs), bool)))
    found = _estimate(kept, best.law, options)
    doubt = misfit(_some(kept, options), found, group=options.group, seed=options.seed).text
    return dataclasses.replace(
        found,
        validation=best.validation,
        forms=other_forms_of(tried),
        warnings=(*found.warnings, doubt) if doubt else found.warnings,
        settings={**found.settings, "chosen": chosen_words(tried), "candidates": [c.to_json() for c in tried]},
    )


def _some(runs: Runs, options: _Options) -> Runs:
    """All rows, or as many as say how well laws forecast."""
    if len(runs) <= _ENOUGH_ROWS:
        return runs
    return runs.take(np.sort(np.random.default_rng(options.seed).choice(len(runs), _ENOUGH_ROWS, replace=False)))


def _doubts(law: Law, theta: np.ndarray, tried: int, agreeing: int, condition: float) -> list[str]:
    found = []
    if 2 * agreeing < tried:
        found.append(
            f"{law.name}: only {agreeing} of {tried} starts end at the best optimum; it may not be the best there is. Try more starts."
        )
    low, high = law.bounds
    for parameter, t, bottom, top in zip(law.parameters, theta, low, high, strict=True):
        if t <= bottom or t >= top:
            end, value = ("smallest", bottom) if t <= bottom else ("largest", top)
            found.append(
                f"{law.name}: {parameter.name} ends at its {end} value, {parameter.value(value):.3g}: these rows do not show it. "
                "Take a law without it, or add runs."
            )
    if condition > _SINGULAR:
        found.append(
            f"{law.name}: condition number {condition:.1e}: the rows hardly tell the parameters apart, and their values mean little one by one."
        )
    return found
