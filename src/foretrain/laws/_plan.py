r"""Plans from a fitted law: the size and the data that a budget is best spent on, or the budget that a loss takes.

Training costs $C=6ND$ (PL.1). Four numbers, $N$, $D$, $C$ and the loss, obey two equations, that one and the law. Two of them given fix the rest; one
of $C$ and the loss given leaves a choice, and a plan is the best one (PL.2), (PL.5). Every bootstrap fit makes a plan of its own; their spread is the
interval.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foretrain.errors import InvalidInput, nearest
from foretrain.laws._along import crossing
from foretrain.laws._estimates import RARE, estimate, far_away
from foretrain.laws._fit import Estimate, Fit
from foretrain.laws._law import Law
from foretrain.laws._planner import LARGEST, MOST, Plan, Planner

PRECISION = ("precision", "precision-untied", "precision-unified", "ptq")


def plan(
    fit: Fit,
    *,
    compute: float | None = None,
    params: float | None = None,
    tokens: float | None = None,
    loss: float | None = None,
    unique_tokens: float | None = None,
    at: Mapping[str, float] | None = None,
    bits: float | None = None,
    post_bits: float | None = None,
    serving: float | None = None,
    level: float | None = None,
) -> Plan:
    r"""The plan that a law gives for a budget or for a loss (PL.1) to (PL.6).

    With `compute` alone the best $N$ and $D$; with `loss` alone the cheapest compute that reaches it, and its $N$ and $D$. With one of them and
    `params` or `tokens`, or with both of these, what is left. A law of one variable takes `loss` and gives the variable.

    The interval of the loss is that of a new run, as from `Fit.predict`; all others span the plans of the bootstrap fits, where ends may be
    0 or infinite when some of them have no answer.

    Args:
        fit: A fitted law.
        compute: $C=6ND$, in FLOP.
        params: $N$.
        tokens: $D$.
        loss: What is to be reached.
        unique_tokens: Different tokens that there are, for laws of repeated data; without it there are always enough.
        at: Other variables of the law, such as width and depth.
        bits: Bits of training, for laws of precision; the best ones by default.
        post_bits: Bits to which weights are rounded after training, for laws of precision.
        serving: Cost of serving $NP$, for laws of precision.
        level: Probability that intervals are meant to cover; the fit's by default.

    Raises:
        InvalidInput: Too little, too much or something impossible was asked, or the law has no best size for this budget.

    Example:
        >>> import numpy as np
        >>> from foretrain.laws import fit, plan
        >>> params = np.repeat([1e7, 3e7, 1e8, 3e8, 1e9], 4)
        >>> tokens = params * np.tile([5.0, 20.0, 80.0, 320.0], 5)
        >>> loss = 1.8 + 400.0 / params**0.34 + 400.0 / tokens**0.34
        >>> found = plan(fit({"params": params, "tokens": tokens, "loss": loss}, bootstrap=0), compute=6e18)
        >>> float(f"{found['params'].value:.4g}"), float(f"{found['tokens_per_param'].value:.4g}")
        (1000000000.0, 1.0)
    """
    asked = {"compute": compute, "params": params, "tokens": tokens, "loss": loss, "unique_tokens": unique_tokens}
    asked |= {"bits": bits, "post_bits": post_bits, "serving": serving}
    given = {name: _positive(name, value) for name, value in asked.items() if value is not None}
    level = fit.level if level is None else level
    if not 0 < level < 1:
        raise InvalidInput(f"plan(level): expected a number between 0 and 1, such as 0.95, got {level:g}.")
    if fit.law.name in PRECISION:
        return _of_precision(fit, given, at, level)
    _refuse_precision(fit.law, given)
    if "params" in fit.law.variables and "tokens" in fit.law.variables:
        return Planner(fit, level, given, _others(fit.law, given, at)).plan()
    return _of_one_variable(fit, given, at, level)


def _positive(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise InvalidInput(f"plan({name}): expected a finite number > 0, got {value!r}.")
    return number


def _others(law: Law, given: Mapping[str, float], at: Mapping[str, float] | None) -> dict[str, float]:
    """Variables beside parameters and tokens, held at what was given."""
    if "unique_tokens" in given and "tokens_per_epoch" not in law.variables:
        raise InvalidInput(
            f"plan(unique_tokens): {law.name} does not know repeated data; leave it out, or fit muennighoff to runs of several epochs."
        )
    free = [v for v in law.variables if v not in ("params", "tokens", "tokens_per_epoch")]
    found = _held(law, at, free)
    found = {name: value for name, value in law.defaults.items() if name in free} | found
    if missing := [v for v in free if v not in found]:
        raise InvalidInput(f"plan: {law.name} needs {', '.join(missing)} as well, held fixed; give at {missing[0]}=...")
    if "unique_tokens" in given:
        found["tokens_per_epoch"] = given["unique_tokens"]
    return found


def _held(law: Law, at: Mapping[str, float] | None, free: Sequence[str]) -> dict[str, float]:
    for name in at or {}:
        if name not in free:
            held = f"it can hold {', '.join(free)}" if free else "it has no other variables"
            raise InvalidInput(f"plan(at): {law.name} cannot hold {name!r}{nearest(name, free)}; {held}.")
    return {name: _positive(name, value) for name, value in (at or {}).items()}


def _refuse_precision(law: Law, given: Mapping[str, float]) -> None:
    for name in ("bits", "post_bits", "serving"):
        if name in given:
            raise InvalidInput(
                f"plan({name}): {law.name} has no plan in bits; this belongs to the laws {', '.join(PRECISION)} and to the preset precision-table2."
            )


def _of_one_variable(fit: Fit, given: Mapping[str, float], at: Mapping[str, float] | None, level: float) -> Plan:
    """Where a law of one free variable reaches a loss."""
    law = fit.law
    for name in given:
        if name != "loss":
            raise InvalidInput(
                f"plan({name}): {law.name} is a law of {', '.join(law.variables)} and has no sizes to choose; give loss for where it is reached, "
                f"or ask forecast what it is at {law.variables[0]}."
            )
    held = _held(law, at, law.variables)
    free = [v for v in law.variables if v not in held]
    if len(free) != 1:
        raise InvalidInput(
            f"plan: {law.name} is a law of {', '.join(law.variables)}; give at values of all but one of them, and loss."
        )
    if "loss" not in given:
        raise InvalidInput(f"plan: give the loss to reach; {law.name} then says at which {free[0]}.")
    thetas = np.concatenate([fit.theta[None], fit.samples[:MOST]])
    low, high = fit.data.get("ranges", {}).get(free[0], (1.0, 1.0))
    ends = math.log(low) - 0.5 * LARGEST, math.log(high) + LARGEST
    found = crossing(
        law,
        thetas,
        lambda u: {free[0]: np.exp(u)} | {n: np.asarray(v) for n, v in held.items()},
        math.log(given["loss"]),
        *ends,
    )
    if not np.isfinite(found[0]):
        floor = law.values(fit.theta).get("E")
        words = "never reaches" if found[0] > 0 else "is below"
        told = "" if floor is None or found[0] < 0 else f", its floor is {float(floor):.6g}"
        raise InvalidInput(
            f"plan: {law.name} as fitted {words} {law.response} {given['loss']:.6g}, whatever {free[0]}{told}."
        )
    with np.errstate(over="ignore"):
        where = np.exp(found)
    value = estimate(float(where[0]), where[1:], level)
    never = float(np.mean(~np.isfinite(found[1:]))) if len(found) > 1 else 0.0
    notes = (
        [f"{100 * never:.2g} % of the bootstrap fits never reach it; add runs that bound it."] if never > RARE else []
    )
    notes += far_away(fit, [{free[0]: value.value} | held])
    told = {free[0]: value, law.response: Estimate(*(given["loss"],) * 3)}
    return Plan(law.name, level, told, dict(given) | held, warnings=tuple(notes))


def _of_precision(fit: Fit, given: Mapping[str, float], at: Mapping[str, float] | None, level: float) -> Plan:
    from foretrain.laws._precision_plan import plan_precision

    for name in ("loss", "unique_tokens"):
        if name in given:
            raise InvalidInput(
                f"plan({name}): laws of precision are planned by compute, params, tokens, bits, post_bits and serving; leave it out."
            )
    _held(fit.law, at, ())
    found = plan_precision(dataclasses.replace(fit, level=level), **given)
    point = {v: found[v].value for v in fit.law.variables if v in found and math.isfinite(found[v].value)}
    words = [*(fit.warnings if fit.settings.get("preset") else ()), *far_away(fit, [point])]
    return Plan(fit.law.name, level, found, dict(given), warnings=tuple(words))
