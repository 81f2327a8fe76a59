r"""Does the best value carry over? One variant of a sweep in numbers, with a verdict in words.

A verdict compares the drift exponent of (PA.7) with a tolerance: `transfers` if |drift| + 2 s.e. is below it, `drifts` if |drift| - 2 s.e. is
above, else `undecided`, with advice on what would decide.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain.studies import _transfer_statistics as statistics
from foretrain.studies._transfer_optimum import LOST, LOWER, UPPER
from foretrain.studies._transfer_plan import Plan, Scale

TRANSFERS, DRIFTS, UNDECIDED = "transfers", "drifts", "undecided"
# Schemes whose wider networks are never worse at a fixed rate: a violation there is an error of implementation.
_MONOTONE = ("mup", "mup-depth", "completep", "mean-field")
_BEYOND = 4.0  # how far to extend a grid, as a factor
_SURE = 4.0  # standard errors, since a whole grid of pairs is compared


def judge(
    plan: Plan,
    where: dict[str, Any],
    losses: Float[np.ndarray, "sizes swept seeds"],
    train: Float[np.ndarray, "sizes swept seeds"],
    tolerance: float,
    scheme: str,
) -> dict[str, Any]:
    """One variant of a study as a plain table: optima, edges, drift, cost, verdict.

    Args:
        plan: The study's axes.
        where: Names and values of the variant.
        losses: The objective at the end; not finite where a run diverged.
        train: The training loss there.
        tolerance: Largest |drift| that counts as transfer.
        scheme: The variant's parameterization.
    """
    table: dict[str, Any] = {"where": where}
    if plan.words:
        from foretrain.studies._transfer_words import judge_words

        return table | judge_words(plan, losses, tolerance)
    scale = Scale(plan.swept)
    places = scale.place(plan.values)
    kept = np.flatnonzero(np.isfinite(places))
    kept = kept[np.argsort(places[kept])]
    sizes = np.array(plan.sizes, dtype=np.float64)
    sweep = statistics.analyse(sizes, places[kept], losses[:, kept])
    drift, without = statistics.drift(sweep), statistics.drift(sweep, leave_out=1)
    located = np.flatnonzero(sweep.located)
    first, last = (located[0], located[-1]) if len(located) else (0, 0)
    cost = statistics.loss_cost(sweep, first, last) if last > first else None
    verdict, advice = _verdict(plan, scale, sweep, drift, tolerance)
    table |= {
        "verdict": verdict,
        "sentence": _sentence(plan, scale, verdict, drift, tolerance, sizes),
        "advice": advice,
        "drift": _drift_table(drift),
        "drift_without_smallest": _drift_table(without) if without is not None and without.sizes >= 2 else None,
        "edge_drift": _drift_table(statistics.edge_drift(sweep)),
        "cost": None
        if cost is None
        else {"value": cost.value, "low": cost.low, "high": cost.high, "from": sizes[first], "at": sizes[last]},
        "optima": [_optimum(scale, sweep, i) for i in range(len(sizes))],
        "edge": [_edge(scale, sweep, i) for i in range(len(sizes))],
        "wider": _wider(plan, scheme, sweep, train[:, kept]) if plan.axis in ("width", "heads") else None,
    }
    return table


def _optimum(scale: Scale, sweep: statistics.Sweep, at: int) -> dict[str, Any]:
    vertex = sweep.vertices[at]
    low, high = sorted(_value(scale, end) for end in sweep.interval(at))
    error = math.sqrt(sum(v for v, _ in sweep.variance_parts(at))) if vertex.located else math.nan
    return {
        "size": float(sweep.sizes[at]),
        "value": _value(scale, vertex.place),
        "low": low,
        "high": high,
        "stderr_log": error,
        "loss": math.exp(vertex.height) if math.isfinite(vertex.height) else math.inf,
        "curvature": vertex.curvature,
        "status": vertex.status,
        "by_seed": [_value(scale, place) for place in sweep.by_seed[at]],
    }


def _edge(scale: Scale, sweep: statistics.Sweep, at: int) -> dict[str, Any]:
    edge = sweep.edges[at]
    names = {"stable": math.nan, "diverged": math.nan, "value": math.nan}
    if edge is not None:
        names = {"stable": edge.stable, "diverged": edge.diverged, "value": edge.place}
    return {"size": float(sweep.sizes[at])} | {name: _value(scale, place) for name, place in names.items()}


def _value(scale: Scale, place: float) -> float:
    return math.nan if math.isnan(place) else scale.value(place)


def _drift_table(drift: statistics.Drift | None) -> dict[str, Any] | None:
    if drift is None:
        return None
    return {
        "exponent": drift.exponent,
        "stderr": drift.stderr,
        "sizes": drift.sizes,
        "log_value": drift.intercept,
        "log_value_stderr": drift.stderr_intercept,
        "log_size": drift.centre,
    }


def _verdict(
    plan: Plan, scale: Scale, sweep: statistics.Sweep, drift: statistics.Drift | None, tolerance: float
) -> tuple[str, list[str]]:
    advice = _extensions(plan, scale, sweep)
    bounded = _at_least(scale, sweep, tolerance)
    if advice and bounded is not None:
        return DRIFTS, [
            *advice,
            f"with the ends of the grid in place of the optima beyond it, |drift| is at least {bounded:.2g}",
        ]
    if drift is None:
        return UNDECIDED, advice or [f"too few sizes have an optimum inside the grid of {plan.swept}"]
    size, error = abs(drift.exponent), drift.stderr
    if not advice and size + 2 * error <= tolerance:
        return TRANSFERS, []
    if size - 2 * error > tolerance and not advice:
        return DRIFTS, []
    if advice:
        return UNDECIDED, advice
    seeds, fits = float(sweep.seed_variance[sweep.located].mean()), float(sweep.fitted[sweep.located].mean())
    more = "more seeds" if seeds >= fits else f"a finer grid of {plan.swept}"
    if sweep.by_seed.shape[1] == 1:
        more = "several seeds (one says nothing about chance)"
    return UNDECIDED, [f"{more}, or sizes that are further apart"]


def _extensions(plan: Plan, scale: Scale, sweep: statistics.Sweep) -> list[str]:
    """For every size whose optimum is not bounded on both sides: how far to extend the grid."""
    found: dict[int, list[float]] = {}
    for size, vertex in zip(sweep.sizes, sweep.vertices, strict=True):
        direction = {LOWER: -1, UPPER: 1, LOST: -scale.wild}.get(vertex.status)
        if direction is not None:
            found.setdefault(direction, []).append(float(size))
    advice = []
    for direction, sizes in found.items():
        end = float(sweep.x[0 if direction < 0 else -1])
        beyond = scale.value(end + direction * math.log(_BEYOND))
        side = "down" if beyond < scale.value(end) else "up"
        named = ", ".join(f"{s:g}" for s in sizes)
        advice.append(
            f"extend the grid of {plan.swept} {side} from {scale.value(end):.3g} to {beyond:.3g}: at {plan.axis} {named} the best "
            "value lies at its end"
        )
    flat = [f"{s:g}" for s, v in zip(sweep.sizes, sweep.vertices, strict=True) if v.status == "flat"]
    if flat:
        advice.append(
            f"at {plan.axis} {', '.join(flat)} the loss has no minimum over {plan.swept}: train longer or on a wider grid"
        )
    return advice


def _at_least(scale: Scale, sweep: statistics.Sweep, tolerance: float) -> float | None:
    """A lower bound of |drift| beyond the tolerance, if every optimum beyond the grid could only enlarge the drift."""
    directions = np.array([{LOWER: -1, UPPER: 1, LOST: -scale.wild}.get(v.status, 0) for v in sweep.vertices])
    usable = np.flatnonzero(sweep.located | (directions != 0))
    if len(usable) < 2 or not (directions != 0).any():
        return None
    ends = {-1: sweep.x[0], 1: sweep.x[-1]}
    places = np.array([ends.get(int(d), v.place) for d, v in zip(directions, sweep.vertices, strict=True)])[usable]
    log_sizes = np.log(sweep.sizes[usable])
    spacing = float(np.diff(sweep.x).mean()) ** 2 / 12
    fitted = np.where(directions[usable] != 0, spacing, sweep.fitted[usable])
    # With other seeds an optimum may come back from the end of the grid, so the ends vary with the draws as well.
    draws = np.where(np.isfinite(sweep.places[:, usable]), sweep.places[:, usable], places[None, :])
    found = statistics.slope(log_sizes, places, sweep.resampled.covariance(draws), fitted)
    beyond = directions[usable] != 0
    outward = directions[usable][beyond] * np.sign(log_sizes - log_sizes.mean())[beyond]
    if not np.all(outward == np.sign(found.exponent)):
        return None
    return abs(found.exponent) if abs(found.exponent) - 2 * found.stderr > tolerance else None


def _sentence(
    plan: Plan, scale: Scale, verdict: str, drift: statistics.Drift | None, tolerance: float, sizes: np.ndarray
) -> str:
    if drift is None:
        return f"{verdict}: no drift exponent of {scale.symbol} over {plan.axis}"
    said = f"{drift.exponent:+.3f} ± {drift.stderr:.3f}".replace("-", "−")
    ratio = sizes[-1] / sizes[0]
    factor = math.exp(drift.exponent * math.log(ratio))
    moved = f"{ratio:g} times the {plan.axis} moves it by a factor of {factor:.2g}"
    compared = {
        TRANSFERS: f"|drift| + 2 s.e. is within {tolerance:g}",
        DRIFTS: f"beyond {tolerance:g}",
        UNDECIDED: f"not decided at a tolerance of {tolerance:g}",
    }[verdict]
    return f"{verdict}: best {scale.symbol} ~ {plan.axis}^({said}), {compared}; {moved}"


def _wider(
    plan: Plan, scheme: str, sweep: statistics.Sweep, train: Float[np.ndarray, "sizes swept seeds"]
) -> dict[str, Any] | None:
    """Whether the training loss at fixed values falls with size up to noise, wherever every size trains stably."""
    seeds = train.shape[2]
    stable = np.isfinite(train).all(axis=(0, 2))
    best = [v.place for v in sweep.vertices if v.located]
    if best:  # beyond the best value a wider network may be closer to its edge of stability
        stable &= sweep.x <= min(best) + 1e-9 if Scale(plan.swept).wild > 0 else sweep.x >= max(best) - 1e-9
    if not stable.any():
        return None
    ratios = np.log(np.maximum(train[1:, stable], 1e-30) / np.maximum(train[:-1, stable], 1e-30))
    rise = ratios.mean(axis=2)
    if seeds > 1:
        # One spread for all pairs: that of a single pair, from a few seeds, is too noisy.
        error = math.sqrt(float(ratios.var(axis=2, ddof=1).mean()) / seeds)
        z = rise / error if error > 0 else np.where(rise > 0, np.inf, 0.0)
    else:
        z = np.full_like(rise, np.nan)
    at = np.unravel_index(np.argmax(rise), rise.shape)
    value = Scale(plan.swept).value(float(sweep.x[stable][at[1]]))
    worst, sure = float(rise[at]), float(z[at])
    monotone = bool(np.all((rise < 0.01) | ~(z > _SURE))) if seeds > 1 else bool(np.all(rise < 0.01))
    text = f"training loss falls with {plan.axis} at every {plan.swept} on the safe side of all optima, up to noise"
    if not monotone:
        pair = f"{sweep.sizes[at[0]]:g} to {sweep.sizes[at[0] + 1]:g}"
        text = f"training loss rises by {100 * math.expm1(worst):.2g} % from {plan.axis} {pair} at {plan.swept} {value:.3g} (z = {sure:.1f})"
        if scheme in _MONOTONE:
            text += (
                "; in this parameterization that signals an error of implementation, or sizes too small for the limit"
            )
    return {
        "monotone": monotone,
        "comparisons": int(rise.size),
        "largest_rise": math.expm1(worst),
        "z": sure,
        "value": value,
        "from": float(sweep.sizes[at[0]]),
        "to": float(sweep.sizes[at[0] + 1]),
        "sentence": text,
    }
