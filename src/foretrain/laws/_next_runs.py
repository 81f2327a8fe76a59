r"""What would the next run teach: how far the interval of a target shrinks when a run is added, before it is trained.

To first order a fit is a linear estimate: a new run at $x$ sees $y=\ln\hat L(x)$ with a variance $\tau^2$ (PL.8), and of a target $t$

$$\mathrm{Var}(t\mid y)=\mathrm{Var}(t)-\frac{\mathrm{Cov}(t,y)^2}{\mathrm{Var}(y)+\tau^2}$$

remains (PL.10). Adding $gg^{\mathsf T}/\tau^2$ to the information $\Sigma^{-1}$, $g=\partial_\theta y$, gives the same number. $\Sigma$ is the covariance of the
bootstrap fits, which a saved fit has, or that of the weighted Jacobian, which needs the rows.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain.errors import InvalidInput
from foretrain.laws._fit import Estimate, Fit
from foretrain.laws._planner import FLOPS_PER_TOKEN
from foretrain.laws._problem import rows_of
from foretrain.laws._quantity import Quantity, scale_of, values_of
from foretrain.laws._robust import first_order, objective_of, row_variance
from foretrain.laws._runs import Runs

_FEWEST = 50  # bootstrap fits from which a covariance is taken
_STEP = 1e-5  # of a coordinate, for the slope of a target


@dataclasses.dataclass(frozen=True)
class NextRun:
    """A run that could be added, and what it would do to the target.

    Args:
        at: Where.
        flops: What it costs, $6ND$; NaN where the law does not know.
        now: Standard deviation of the target now, of its logarithm where it is positive.
        after: The same with this run added.
        expected: The target with the interval that is to be expected then, where the estimate stays.
        shrinkage: Share of the interval that goes away, $1-$ after / now.
        per_flop: Share of the variance that goes away, for each FLOP.
    """

    at: Mapping[str, float]
    flops: float
    now: float
    after: float
    expected: Estimate
    shrinkage: float
    per_flop: float

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        from foretrain.curves import json_ready
        from foretrain.laws._saved import estimate_to_json

        table = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return json_ready({**table, "at": dict(self.at), "expected": None}) | {
            "expected": estimate_to_json(self.expected)
        }


def next_runs(
    fit: Fit,
    candidates: Sequence[Mapping[str, float]],
    *,
    target: Quantity,
    runs: Runs | Mapping[str, Any] | None = None,
    group: str | None = None,
    level: float | None = None,
) -> list[NextRun]:
    r"""Candidates for the next run, that which shrinks the target's interval most first (PL.10).

    Args:
        fit: A fit.
        candidates: Values of all variables of the law, one mapping for each run.
        target: What is to be known: as for `profile`, such as `"params@6e23"` or `"loss@params=7B,tokens=2T"`.
        runs: The rows of the fit; with them the covariance is that of the weighted Jacobian, without it that of the bootstrap fits.
        group: Column of the runs whose rows are not independent.
        level: Probability that expected intervals are meant to cover; the fit's by default.

    Raises:
        InvalidInput: No bootstrap fits and no rows, a candidate that the law cannot be asked for, or a target that it does not determine.

    Example:
        >>> import numpy as np
        >>> from foretrain.laws import fit, next_runs
        >>> rng = np.random.default_rng(0)
        >>> params = np.repeat([1e7, 3e7, 1e8, 3e8], 5)
        >>> tokens = params * np.tile([5.0, 10.0, 20.0, 40.0, 80.0], 4)
        >>> loss = (1.8 + 400 / params**0.34 + 2000 / tokens**0.36) * np.exp(0.003 * rng.standard_normal(20))
        >>> found = fit({"params": params, "tokens": tokens, "loss": loss}, bootstrap=200, validate=False)
        >>> sizes = [{"params": 3e8, "tokens": 6e9}, {"params": 3e9, "tokens": 6e10}]
        >>> best, other = next_runs(found, sizes, target="loss@params=3e10,tokens=6e11")
        >>> float(best.at["params"]), best.after < other.after < best.now
        (3000000000.0, True)
    """
    if not candidates:
        raise InvalidInput('next_runs(candidates): expected at least one run, such as {"params": 1e9, "tokens": 2e10}.')
    for one in candidates:
        if unknown := [n for n in one if n not in fit.law.variables]:
            raise InvalidInput(
                f"next_runs(candidates): law {fit.law.name!r} has no variable {unknown[0]!r}; it needs {', '.join(fit.law.variables)}."
            )
    columns = np.concatenate([fit.law.columns(one) for one in candidates], axis=1)
    if runs is None:
        value, spread, told, tau2, scale = _of_samples(fit, columns, target)
    else:
        table = runs if isinstance(runs, Runs) else Runs.from_columns(runs)
        value, spread, told, tau2, scale = _of_rows(fit, table, columns, target, group)
    # `spread` is the variance of the target, `told` the covariance and variance of what every candidate sees.
    together, seen = told
    left = np.maximum(spread - together**2 / (seen + tau2), 0.0)
    now, level = math.sqrt(spread), fit.level if level is None else level
    width = _normal_quantile(0.5 + level / 2)
    found = []
    for i, one in enumerate(candidates):
        after = math.sqrt(float(left[i]))
        flops = (
            FLOPS_PER_TOKEN * float(one["params"]) * float(one["tokens"])
            if {"params", "tokens"} <= set(one)
            else math.nan
        )
        ends = (float(scale[1](scale[0](value) + s * width * after)) for s in (-1.0, 1.0))
        gone = 1.0 - float(left[i]) / spread if spread > 0 else 0.0
        shrinkage = 1.0 - after / now if now > 0 else 0.0
        found.append(
            NextRun(
                {n: float(v) for n, v in one.items()},
                flops,
                now,
                after,
                Estimate(value, *ends),
                shrinkage,
                gone / flops,
            )
        )
    return sorted(found, key=lambda run: run.after)


def _of_samples(fit: Fit, columns: np.ndarray, target: Quantity) -> tuple[Any, ...]:
    """Covariances of the target with what candidates see, over the bootstrap fits."""
    if len(fit.samples) < _FEWEST:
        raise InvalidInput(
            f"next_runs: the fit has {len(fit.samples)} bootstrap fits; {_FEWEST} or more are needed. Fit again with bootstrap, or give runs."
        )
    values = values_of(fit.law, target)
    value, drawn = float(values(fit.theta[None])[0]), values(fit.samples)
    _known(value, drawn)
    kept = np.isfinite(drawn)
    scale = scale_of(np.append(drawn[kept], value))
    t = scale[0](drawn[kept])
    y = fit.law.logs(fit.samples[kept], columns, slopes=False)[0]
    dt, dy = t - t.mean(), y - y.mean(axis=0)
    together, seen = dt @ dy / (len(t) - 1), np.sum(dy**2, axis=0) / (len(t) - 1)
    tau2 = row_variance(fit.residuals, objective_of(fit.settings), fit.rows, len(fit.theta))
    return value, float(np.sum(dt**2) / (len(t) - 1)), (together, seen), tau2, scale


def _of_rows(fit: Fit, runs: Runs, columns: np.ndarray, target: Quantity, group: str | None) -> tuple[Any, ...]:
    """The same from the weighted Jacobian of the rows."""
    linear = first_order(fit.law, rows_of(runs, fit.law, group), objective_of(fit.settings), fit.theta)
    value, gradient, scale = slope_of(fit.theta, values_of(fit.law, target))
    slopes = fit.law.logs(fit.theta[None], columns)[1][0]  # type: ignore[index]
    along = linear.covariance @ slopes
    spread = float(gradient @ linear.covariance @ gradient)
    return value, spread, (gradient @ along, np.sum(slopes * along, axis=0)), linear.row, scale


def slope_of(theta: np.ndarray, values: Any) -> tuple[float, Float[np.ndarray, " parameters"], tuple[Any, Any]]:
    """A quantity at the estimate, its slope in the coordinates, and its scale: a logarithm where it is positive.

    Args:
        theta: Coordinates of the estimate.
        values: From coordinates to the quantity.
    """
    value = float(values(theta[None])[0])
    _known(value, np.array([value]))
    steps = _STEP * np.maximum(1.0, np.abs(theta))
    sides = np.concatenate([theta + np.diag(steps), theta - np.diag(steps)])
    drawn = values(sides)
    scale = scale_of(np.append(drawn, value))
    scaled = scale[0](drawn)
    half = len(theta)
    return value, (scaled[:half] - scaled[half:]) / (2 * steps), scale


def _known(value: float, drawn: np.ndarray) -> None:
    if not math.isfinite(value) or np.mean(np.isfinite(drawn)) < 0.5:
        raise InvalidInput(
            "target: the fit does not determine it: there is no best size inside the range. Choose another target."
        )


def _normal_quantile(p: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(p))
