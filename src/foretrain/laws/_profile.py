r"""Profile likelihood: the interval of any quantity from fits that are held to a value of it.

With $S(\theta)=\sum_iH_\delta(r_i)$ and $S_q$ its minimum where the quantity is $q$, the ratio $2(S_q-S_{\min})/\sigma$ is that of a likelihood:
chi-squared with one degree of freedom where

$$\sigma=\frac{h^{\mathsf T}A^{-1}BA^{-1}h}{h^{\mathsf T}A^{-1}h}$$

with the slope $h$ of the quantity and the curvature $A$ and pulls $B$ of (PL.7). For least squares with independent errors $\sigma$ is their variance; for a
robust loss, scatter that varies, and runs of many rows it is what makes the interval cover (PL.9).
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain.errors import InvalidInput
from foretrain.laws._estimates import estimate
from foretrain.laws._fit import Estimate, Fit, fit
from foretrain.laws._law import Law
from foretrain.laws._next_runs import slope_of
from foretrain.laws._problem import Problem, Rows, rows_of
from foretrain.laws._quantity import Quantity, Values, values_of
from foretrain.laws._robust import first_order, objective_of
from foretrain.laws._runs import Runs
from foretrain.laws._solver import huber, minimize

_PLACES = np.array([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0])  # in standard errors, at first
_FURTHEST = 32.0
_SECANTS = 4
_STIFF = 1e5  # weight of the constraint, in units of the rise by one standard error: the quantity then misses its place by 1e-5 of one
_STEP = 1e-5
_STEPS = 100


def profile(
    runs: Runs | Mapping[str, Any],
    law: Fit | Law | str,
    quantity: Quantity,
    *,
    level: float | None = None,
    group: str | None = None,
    x: str | None = None,
) -> Estimate:
    r"""A quantity with the interval in which fits held to it are hardly worse than the best (PL.9).

    Unlike a bootstrap it asks the rows about this quantity alone, needs no resampling, and follows a bend of the objective wherever it goes; an
    end is infinite, or 0 for a positive quantity, where no value is bad enough.

    Args:
        runs: The rows.
        law: A fit of them, or a law that is fitted first.
        quantity: A function of the parameters by name, such as `lambda p: p["alpha"] - p["beta"]`; or `"params@6e23"`, `"tokens@6e23"`,
            `"tokens_per_param@6e23"`, `"loss@6e23"` of the best size for a compute; `"loss@params=7B,tokens=2T"`; or the name of a parameter.
        level: Probability that the interval is meant to cover; the fit's by default.
        group: Column whose equal values are one run; `"run"` by default where there is such a column.
        x: The variable, for named laws of one variable.

    Raises:
        InvalidInput: The rows do not determine the law or the quantity, or the quantity is not one that it has.

    Example:
        >>> import numpy as np
        >>> from foretrain.laws import profile
        >>> rng = np.random.default_rng(0)
        >>> tokens = np.geomspace(1e6, 1e10, 30)
        >>> loss = (2.0 + 300.0 / tokens**0.4) * np.exp(0.003 * rng.standard_normal(30))
        >>> said = profile({"tokens": tokens, "loss": loss}, "power", "loss@tokens=1e12", x="tokens")
        >>> said.low < 2.0 + 300.0 / 1e12**0.4 < said.high
        True
    """
    table = runs if isinstance(runs, Runs) else Runs.from_columns(runs)
    found = law if isinstance(law, Fit) else fit(table, law, x=x, group=group, bootstrap=0, validate=False)
    level = found.level if level is None else level
    if not 0 < level < 1:
        raise InvalidInput(f"profile(level): expected a number between 0 and 1, such as 0.95, got {level!r}.")
    return _Profile(found, rows_of(table, found.law, group), values_of(found.law, quantity)).interval(level)


class _Profile:
    """The objective along a quantity."""

    def __init__(self, found: Fit, data: Rows, values: Values):
        self.law, self.theta, self.values = found.law, found.theta, values
        objective = objective_of(found.settings)
        self.problem = Problem(found.law, data.x, data.y, objective)
        self.width, self.rows = objective.width, len(data.y)
        linear = first_order(found.law, data, objective, found.theta)
        self.value, slope, (self.forward, self.backward) = slope_of(found.theta, values)
        variance = float(slope @ linear.covariance @ slope)
        self.scale = variance / float(slope @ np.linalg.solve(linear.curvature, slope))
        self.error = math.sqrt(variance)
        self.slope = linear.covariance @ slope / variance  # along which the quantity moves at the least cost
        self.lowest = self._objective(found.theta[None])[0]
        self.centre = float(self.forward(self.value))
        self.free = max(int(data.groups.max()) + 1 - len(found.theta), 1)

    def interval(self, level: float) -> Estimate:
        """The ends at which the signed root of the ratio passes the quantile."""
        from scipy.stats import t

        bound = float(t.ppf(0.5 + level / 2, self.free))
        places, found = _PLACES, self.roots(_PLACES)
        while places[-1] < _FURTHEST and not (found[0] < -bound and found[-1] > bound):
            wider = places[-1] * 2 * np.array([-1.0, 1.0])
            more = self.roots(wider)
            places, found = np.concatenate([wider[:1], places, wider[1:]]), np.concatenate([more[:1], found, more[1:]])
        ends = [self._end(places, found, side, bound) for side in (-1.0, 1.0)]
        low, high = (
            float(self.backward(self.centre + e * self.error)) if math.isfinite(e) else self._open(e) for e in ends
        )
        return estimate(self.value, np.array([low, high]), 1.0)

    def roots(self, places: Float[np.ndarray, " places"]) -> Float[np.ndarray, " places"]:
        r"""$\pm\sqrt{2(S_q-S_{\min})/\sigma}$ at quantities that many standard errors from the estimate."""
        rise = np.maximum(self._held(places) - self.lowest, 0.0)
        return np.sign(places) * np.sqrt(2.0 * rise / self.scale)

    def _end(self, places: np.ndarray, found: np.ndarray, side: float, bound: float) -> float:
        """Where the root passes the bound on one side: bracketed, then by secants that stay inside."""
        along, across = np.abs(places[places * side > 0]), np.abs(found[places * side > 0])
        order = np.argsort(along)
        along, across = np.append(0.0, along[order]), np.append(0.0, across[order])
        past = np.flatnonzero(across >= bound)
        if len(past) == 0:
            return side * math.inf
        low, high = along[past[0] - 1], along[past[0]]
        at_low, at_high = across[past[0] - 1], across[past[0]]
        at = high
        for _ in range(_SECANTS):
            at = low + (high - low) * (bound - at_low) / max(at_high - at_low, 1e-12)
            at = min(max(at, low + 0.05 * (high - low)), high - 0.05 * (high - low))
            here = abs(float(self.roots(np.array([side * at]))[0]))
            low, at_low, high, at_high = (at, here, high, at_high) if here < bound else (low, at_low, at, here)
            if high - low < 1e-3:
                break
        return float(side * (low + (high - low) * (bound - at_low) / max(at_high - at_low, 1e-12)))

    def _open(self, end: float) -> float:
        positive = self.forward is np.log
        return math.inf if end > 0 else (0.0 if positive else -math.inf)

    def _objective(self, thetas: np.ndarray) -> np.ndarray:
        return huber(self.problem.residuals(thetas, slopes=False)[0], self.width).sum(axis=1)

    def _held(self, places: np.ndarray) -> np.ndarray:
        """The least objective with the quantity held, for all places at once.

        The place is one more coordinate, on which nothing but the constraint depends and which therefore stays where it starts.
        """
        unit = self.width if math.isfinite(self.width) else 1.0
        weight = _STIFF * self.scale / unit**2
        starts = np.column_stack([self.theta + places[:, None] * self.error * self.slope, places])

        def residuals(extended: np.ndarray, *, slopes: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
            theta, place = extended[:, :-1], extended[:, -1]
            r, jacobian = self.problem.residuals(theta, slopes=slopes)
            with np.errstate(all="ignore"):
                off = unit * ((self.forward(self.values(theta)) - self.centre) / self.error - place)
            r = np.column_stack([r, off])
            if jacobian is None:
                return r, None
            full = np.zeros((len(theta), extended.shape[1], r.shape[1]))
            full[:, :-1, :-1] = jacobian
            full[:, :-1, -1] = unit * self._slopes(theta) / self.error
            return r, full

        low, high = self.law.bounds
        counts = np.ones((len(places), self.rows + 1))
        counts[:, -1] = weight
        solved = minimize(
            residuals,
            starts,
            rows=self.rows + 1,
            delta=self.width,
            weights=counts,
            low=np.append(low, -np.inf),
            high=np.append(high, np.inf),
            iterations=_STEPS,
            tolerance=1e-6,
        )
        return self._objective(solved.theta[:, :-1])

    def _slopes(self, thetas: np.ndarray) -> np.ndarray:
        count, size = thetas.shape
        steps = _STEP * np.maximum(1.0, np.abs(thetas))
        up = thetas[:, None] + steps[:, :, None] * np.eye(size)
        down = thetas[:, None] - steps[:, :, None] * np.eye(size)
        with np.errstate(all="ignore"):
            both = self.forward(self.values(np.concatenate([up, down]).reshape(-1, size))).reshape(2, count, size)
        return (both[0] - both[1]) / (2 * steps)
