r"""Plans in bits: how large, how much data, how many bits (PR.8) to (PR.14).

Training in $P$ bits costs $C=\frac6{16}NDP$, so that 16 bits cost $6ND$. Every optimum of training is a closed form or the root of one equation in a
bracket; the least loss of rounded weights for a budget is a minimum in one variable inside another. Bootstrap fits are planned one by one; their spread is the interval.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.optimize import brentq, minimize_scalar

from foretrain.errors import ForetrainWarning, InvalidInput
from foretrain.laws._estimates import estimate
from foretrain.laws._fit import Estimate, Fit
from foretrain.laws._precision_constants import Constants

FULL_COST = 6.0  # of a parameter and token at 16 bits
ENOUGH = 16.0  # bits beyond which an optimum is flat
PLANNED = ("precision", "precision-untied", "precision-unified")

_TRAINED = (3.0, 16.0)  # bits for which integers were tried
_SAMPLES = 200  # bootstrap fits that are planned
_LARGEST_BITS = 4096.0
_POINTS = 64  # where the sign of a condition is looked at before Brent's method takes over
_REACH = math.log(1e12)  # of sizes, about the optimum of training, in which the best deployed loss is looked for


def plan_precision(
    fit: Fit,
    *,
    compute: float | None = None,
    params: float | None = None,
    tokens: float | None = None,
    bits: float | None = None,
    post_bits: float | None = None,
    serving: float | None = None,
) -> dict[str, Estimate]:
    r"""What a law of precision advises, with intervals from the fit.

    * `compute`: the best $N$, $D$ and $P$ together (PR.11); with `bits` the best $N$ and $D$ (PR.9); with `params` the best $P$ and $D$ (PR.12);
      with `tokens` the best $N$ and $P$. With `post_bits` the loss that is made small is that of the weights as rounded after training.
    * `params` and `post_bits` without `compute`: the data beyond which more training makes the rounded weights worse (PR.7).
    * `serving`, $NP$: the best $N$, $D$ and bits after training in full precision, data being free (PR.14).
    * `params` and `tokens`: the loss, at `bits` or in full precision.

    Args:
        fit: A fit of `precision`, `precision-untied` or `precision-unified`, or a preset.
        compute: $C=\frac6{16}NDP$.
        params: $N$.
        tokens: $D$.
        bits: $P$ of all parts of the law in training; infinite is full precision where nothing costs by bits.
        post_bits: Bits to which weights are rounded after training.
        serving: $NP$ in parameters times bits.

    Returns:
        `params`, `tokens`, `bits`, `compute` (where it is finite), `loss` (as deployed where weights are rounded), and with `post_bits` or `serving`
        `post_bits`, `delta` and `critical_tokens`.

    Raises:
        InvalidInput: The law has no such plan, too little or too much is given, or a part has too few bits for the law.

    Example:
        >>> from foretrain.laws import PRESETS, plan_precision
        >>> found = plan_precision(PRESETS["precision-table2"](), compute=1e21, bits=8)
        >>> round(found["params"].value / 1e9, 3), round(found["tokens"].value / 1e10, 3)
        (4.729, 7.049)
    """
    if fit.law.name not in PLANNED:
        raise InvalidInput(
            f"plan: {fit.law.name} does not say what training in few bits costs; fit {', '.join(PLANNED)}, or take the preset precision-table2."
        )
    if fit.settings.get("preset") and post_bits is not None and (compute or math.inf > (bits or math.inf)):
        warnings.warn(fit.warnings[-1], ForetrainWarning, stacklevel=2)
    constants = [Constants.of(fit.law, theta) for theta in (fit.theta, *fit.samples[:_SAMPLES])]
    given = {
        "compute": compute,
        "params": params,
        "tokens": tokens,
        "bits": bits,
        "post_bits": post_bits,
        "serving": serving,
    }
    return plan_constants(constants, fit.level, {name: float(v) for name, v in given.items() if v is not None})


def plan_constants(constants: Sequence[Constants], level: float, given: dict[str, float]) -> dict[str, Estimate]:
    """The plan of the first constants, with the interval that the plans of the others span.

    Args:
        constants: Those of the estimate, then those of bootstrap fits.
        level: Probability that intervals are meant to cover.
        given: What was asked.
    """
    method = _method(constants[0], given)
    best = method(constants[0], given)
    if best is None:
        raise InvalidInput(
            f"plan: this law has no best number of bits for {_told(given)}: it says that fewer are better down to nothing. "
            "Give bits, or fit runs in fewer bits."
        )
    others: list[dict[str, float]] = []
    for other in constants[1:]:
        try:
            found = method(other, given)
        except InvalidInput:  # a bootstrap fit in which these bits are useless
            continue
        if found is not None:
            others.append(found)
    _caution(constants[0], best)
    return {
        name: Estimate(value, value, value)
        if name in given
        else estimate(value, np.array([o.get(name, math.nan) for o in others]), level)
        for name, value in best.items()
    }


_Method = Callable[[Constants, dict[str, float]], dict[str, float] | None]


def _method(c: Constants, given: dict[str, float]) -> _Method:
    """How these questions are answered."""
    for name, value in given.items():
        if not value > 0 or (value == math.inf and name not in ("bits", "post_bits")):
            raise InvalidInput(f"plan({name}): expected a number > 0, got {value:g}.")
    asked = set(given)
    if asked & {"post_bits", "serving"} and math.isnan(c.C):
        raise InvalidInput(
            f"plan({'serving' if 'serving' in asked else 'post_bits'}): this law knows nothing of rounding after training; fit precision-unified to "
            "losses with a column post_bits, or join it with a fit of ptq in PrecisionLaw."
        )
    if "serving" in asked:
        if asked != {"serving"}:
            raise InvalidInput(
                f"plan(serving): N times P alone fixes the plan, data being free; leave out {', '.join(sorted(asked - {'serving'}))}."
            )
        return _serving
    if "bits" in asked:
        c.refuse_useless("plan(bits)", given["bits"])
    if "compute" not in asked:
        if {"params", "tokens"} <= asked:
            return _evaluate
        if {"params", "post_bits"} <= asked:
            return _critical
        raise InvalidInput(
            "plan: give compute (with bits, params or tokens fixed if you like), params and tokens, params and post_bits, or serving; "
            f"got {_told(given)}."
        )
    if given.get("bits") == math.inf:
        raise InvalidInput(
            "plan(bits): infinitely many bits cost infinite compute; full precision costs as 16 bits do, give bits 16."
        )
    fixed = asked & {"params", "tokens", "bits"}
    if len(fixed) == 3:
        raise InvalidInput("plan: params, tokens and bits fix the compute; leave one of the four out.")
    if len(fixed) == 2:
        return _two_fixed
    if "post_bits" in asked:
        return _deployed
    if "bits" in fixed:
        return _fixed_bits
    return _fixed_params if "params" in fixed else _fixed_tokens if "tokens" in fixed else _joint


def _told(given: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.6g}" for name, value in given.items()) or "nothing"


def product(compute: float, bits: float) -> float:
    """$K=ND=16C/6P$ (PR.8)."""
    return ENOUGH * compute / (FULL_COST * bits)


def best_params(c: Constants, compute: float, bits: float) -> float:
    r"""$N^*=[\alpha AF^{-\alpha}K^\beta/\beta B]^{1/(\alpha+\beta)}$ (PR.9)."""
    log = (
        math.log(c.alpha * c.A / (c.beta * c.B))
        - c.alpha * c.log_factor(bits)
        + c.beta * math.log(product(compute, bits))
    )
    return math.exp(log / (c.alpha + c.beta))


def best_bits(c: Constants) -> float:
    r"""$P^*=\arg\max F(P)/P$ (PR.11), whatever the budget; NaN where fewer bits are always better."""
    return root_in_bits(c, lambda bits: c.gain(bits) - 1.0)


def root_in_bits(c: Constants, condition: Callable[[float], float]) -> float:
    """The largest number of bits at which a condition falls through zero; NaN where it never does.

    Args:
        c: The constants, which say from which number of bits on the law holds.
        condition: Positive where more bits are better.
    """
    start = max(c.fewest, 1e-6)
    grid = start + np.geomspace(1e-9 * start, _LARGEST_BITS, _POINTS)
    signs = np.array([condition(float(bits)) > 0 for bits in grid])
    last = np.flatnonzero(signs)
    if len(last) == 0 or last[-1] == len(grid) - 1:
        return math.nan
    return float(brentq(condition, grid[last[-1]], grid[last[-1] + 1], xtol=1e-13, rtol=8.9e-16))  # pyright: ignore[reportArgumentType]


def _filled(
    c: Constants, params: float, tokens: float, bits: float, given: dict[str, float]
) -> dict[str, float] | None:
    """A plan from its numbers."""
    if math.isnan(bits):
        return None
    loss = c.loss(params, tokens, bits)
    found = {"params": params, "tokens": tokens, "bits": bits}
    if bits < math.inf:
        found["compute"] = FULL_COST / ENOUGH * params * tokens * bits
    if "post_bits" in given:
        delta = c.delta(params, tokens, given["post_bits"], bits)
        found |= {"post_bits": given["post_bits"], "delta": delta}
        found["critical_tokens"] = c.critical_tokens(params, given["post_bits"], bits)
        loss += delta
    return found | {"loss": loss} | {name: given[name] for name in given}


def _joint(c: Constants, given: dict[str, float]) -> dict[str, float] | None:
    bits = best_bits(c)
    return None if math.isnan(bits) else _fixed_bits(c, given | {"bits": bits}, given)


def _fixed_bits(c: Constants, given: dict[str, float], said: dict[str, float] | None = None) -> dict[str, float] | None:
    bits = given["bits"]
    c.refuse_useless("plan(bits)", bits)
    params = best_params(c, given["compute"], bits)
    return _filled(c, params, product(given["compute"], bits) / params, bits, given if said is None else said)


def _fixed_params(c: Constants, given: dict[str, float]) -> dict[str, float] | None:
    """Bits against data for a size that is fixed (PR.12)."""
    params, compute = given["params"], given["compute"]

    def condition(bits: float) -> float:
        """Sign of what one more bit gains in size less what it loses in data; a difference of logarithms, which cannot overflow."""
        gain = c.gain(bits)
        if gain <= 0.0:
            return -1.0
        return (
            math.log(c.alpha * c.A * gain)
            - c.alpha * (math.log(params) + c.log_factor(bits))
            - math.log(c.beta * c.B)
            + c.beta * math.log(product(compute, bits) / params)
        )

    bits = root_in_bits(c, condition)
    return None if math.isnan(bits) else _filled(c, params, product(compute, bits) / params, bits, given)


def _fixed_tokens(c: Constants, given: dict[str, float]) -> dict[str, float] | None:
    bits, tokens = best_bits(c), given["tokens"]
    return None if math.isnan(bits) else _filled(c, product(given["compute"], bits) / tokens, tokens, bits, given)


def _two_fixed(c: Constants, given: dict[str, float]) -> dict[str, float] | None:
    compute = given["compute"]
    if "bits" not in given:
        bits = ENOUGH * compute / (FULL_COST * given["params"] * given["tokens"])
        c.refuse_useless("plan(compute)", bits)
        return _filled(c, given["params"], given["tokens"], bits, given)
    pairs = product(compute, given["bits"])
    params = given["params"] if "params" in given else pairs / given["tokens"]
    return _filled(c, params, pairs / params, given["bits"], given)


def _evaluate(c: Constants, given: dict[str, float]) -> dict[str, float] | None:
    bits = given.get("bits", math.inf)
    c.refuse_useless("plan(bits)", bits)
    return _filled(c, given["params"], given["tokens"], bits, given)


def _critical(c: Constants, given: dict[str, float]) -> dict[str, float] | None:
    """The least deployed loss of a network of that size, over its data (PR.7)."""
    bits = given.get("bits", math.inf)
    c.refuse_useless("plan(bits)", bits)
    critical = c.critical_tokens(given["params"], given["post_bits"], bits)
    if critical == math.inf:
        raise InvalidInput(
            f"plan(post_bits): {given['post_bits']:g} bits after training in {bits:g} round nothing away, so more data are always better."
        )
    return _filled(c, given["params"], critical, bits, given)


def _serving(c: Constants, given: dict[str, float]) -> dict[str, float] | None:
    """Size against bits where their product is what serving costs, each with its critical data (PR.14)."""
    cost = given["serving"]

    def condition(bits: float) -> float:
        params = cost / bits
        # At the critical data the degradation is the loss of finite data times beta / gamma_D.
        delta = c.beta / c.gamma_D * c.B * c.critical_tokens(params, bits) ** -c.beta
        return delta * (bits / c.gamma_post - c.gamma_N) - c.alpha * c.A * params**-c.alpha

    bits = root_in_bits(Constants(), condition)
    if math.isnan(bits):
        return None
    params = cost / bits
    tokens = c.critical_tokens(params, bits)
    delta = c.delta(params, tokens, bits)
    found = {"params": params, "tokens": tokens, "bits": bits, "post_bits": bits, "serving": cost, "delta": delta}
    return found | {"critical_tokens": tokens, "loss": c.loss(params, tokens) + delta}


def _deployed(c: Constants, given: dict[str, float]) -> dict[str, float] | None:
    """The least loss of rounded weights for a budget: over sizes, and over bits where these are free (PR.13)."""
    compute, post = given["compute"], given["post_bits"]

    def over_params(bits: float) -> tuple[float, float]:
        def loss(log_params: float) -> float:
            params = math.exp(log_params)
            tokens = product(compute, bits) / params
            return c.loss(params, tokens, bits) + c.delta(params, tokens, post, bits)

        if "params" in given:
            return loss(math.log(given["params"])), given["params"]
        if "tokens" in given:
            log = math.log(product(compute, bits) / given["tokens"])
            return loss(log), math.exp(log)
        middle = math.log(
            best_params(c, compute, bits)
        )  # less data hurt rounded weights less: the best size is not below this
        best = _lowest(loss, middle - 1e-9, middle + _REACH, 1e-12)
        return loss(best), math.exp(best)

    if "bits" in given:
        bits = given["bits"]
        c.refuse_useless("plan(bits)", bits)
    else:
        start = max(c.fewest, 1e-6)
        grid = start + np.geomspace(1e-3, 60.0, _POINTS)
        losses = [over_params(float(b))[0] for b in grid]
        lowest = int(np.argmin(losses))
        if lowest in (0, len(grid) - 1):
            return None
        bits = _lowest(lambda b: over_params(b)[0], float(grid[lowest - 1]), float(grid[lowest + 1]), 1e-9)
    params = over_params(bits)[1]
    return _filled(c, params, product(compute, bits) / params, bits, given)


def _lowest(function: Callable[[float], float], low: float, high: float, within: float) -> float:
    """Where a function of one variable is smallest in a bracket that holds one valley."""
    found: Any = minimize_scalar(function, bounds=(low, high), method="bounded", options={"xatol": within})
    return float(found.x)


def _caution(c: Constants, plan: dict[str, float]) -> None:
    """Words of caution on the bits of a plan."""
    bits = plan["bits"]
    if bits == math.inf:
        return
    if bits > ENOUGH:
        words = f"plan: {bits:.4g} bits are beyond {ENOUGH:g}, where the optimum is flat: {ENOUGH:g} are enough"
        if "compute" in plan and "serving" not in plan:
            tokens = product(plan["compute"], ENOUGH) / plan["params"]
            at = {k: plan[k] for k in ("post_bits",) if k in plan}
            there = c.loss(plan["params"], tokens, ENOUGH) + (
                c.delta(plan["params"], tokens, at["post_bits"], ENOUGH) if at else 0.0
            )
            words += f" (the loss is {there - plan['loss']:.2g} higher there)"
        warnings.warn(words + ".", ForetrainWarning, stacklevel=4)
    elif bits < _TRAINED[0]:
        warnings.warn(
            f"plan: {bits:.4g} bits are fewer than the {_TRAINED[0]:g} with which such laws were measured.",
            ForetrainWarning,
            stacklevel=4,
        )
