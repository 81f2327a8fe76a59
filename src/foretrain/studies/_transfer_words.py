"""Transfer of a choice among words, such as schedules: ranks instead of a parabola, since words have no distance."""

import itertools
import math
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain.studies._transfer_plan import Plan
from foretrain.studies._transfer_statistics import log_means, resample


def judge_words(plan: Plan, losses: Float[np.ndarray, "sizes words seeds"], tolerance: float) -> dict[str, Any]:
    """Best word at every size, agreement of ranks, and what the smallest size's choice costs at the largest.

    A choice transfers if what it costs at the largest size stays, with its interval, within `tolerance` of the loss; it does not if
    the whole interval lies beyond.

    Args:
        plan: The study's axes.
        losses: The objective at the end; not finite where a run diverged.
        tolerance: Largest share of the loss that counts as nothing lost.
    """
    seeds = losses.shape[2]
    resampled = resample(seeds)
    y = log_means(losses, np.full((1, seeds), 1 / seeds))[0]
    curves = log_means(losses, resampled.weights)
    best = np.where(np.isfinite(y).any(axis=1), np.argmin(y, axis=1), -1)
    chance = np.einsum("d,da->a", resampled.chance, np.argmin(curves, axis=2) == best[None, :])
    rows = [
        {
            "size": float(size),
            "value": plan.labels[b] if b >= 0 else "none",
            "loss": math.exp(y[i, b]) if b >= 0 else math.inf,
            "chance": float(c) if seeds > 1 else math.nan,
            "status": "bracketed" if b >= 0 else "diverged everywhere",
        }
        for i, (size, b, c) in enumerate(zip(plan.sizes, best, chance, strict=True))
    ]
    agreement = _agreement(y)
    cost, verdict, advice = (
        None,
        "undecided",
        ["every run diverged at the smallest or the largest size: use a smaller rate"],
    )
    if best[0] >= 0 and best[-1] >= 0:
        excess = np.where(np.isfinite(curves[:, -1, best[0]]), curves[:, -1, best[0]] - curves[:, -1, best[-1]], np.inf)
        value = float(y[-1, best[0]] - y[-1, best[-1]])
        error = math.nan if seeds == 1 else _error(excess, resampled)
        cost = {
            "value": math.expm1(value),
            "low": math.expm1(value - 2 * error),
            "high": math.expm1(value + 2 * error),
            "from": float(plan.sizes[0]),
            "at": float(plan.sizes[-1]),
        }
        same = best[0] == best[-1]
        if same or cost["high"] <= tolerance:
            verdict, advice = "transfers", []
        elif cost["low"] > tolerance or math.isinf(value):
            verdict, advice = "drifts", []
        else:
            advice = ["more seeds: the choices differ by less than the seeds do"]
    names = ", ".join(f"{row['value']} at {row['size']:g}" for row in rows)
    sentence = f"{verdict}: the best {plan.swept} is {names}; ranks agree with correlation {agreement:.2g}"
    return {
        "verdict": verdict,
        "sentence": sentence,
        "advice": advice,
        "agreement": agreement,
        "drift": None,
        "drift_without_smallest": None,
        "edge_drift": None,
        "cost": cost,
        "optima": rows,
        "edge": [],
        "wider": None,
    }


def _error(excess: Float[np.ndarray, " draws"], resampled: Any) -> float:
    if not np.isfinite(excess).all():
        return math.inf
    return math.sqrt(float(resampled.covariance(excess[:, None])[0, 0]))


def _agreement(y: Float[np.ndarray, "sizes words"]) -> float:
    """Mean rank correlation over all pairs of sizes: 1 for the same order everywhere."""
    ranks = np.argsort(np.argsort(np.where(np.isfinite(y), y, np.inf), axis=1), axis=1).astype(np.float64)
    pairs = [float(np.corrcoef(a, b)[0, 1]) for a, b in itertools.combinations(ranks, 2)]
    return float(np.mean(pairs)) if pairs and y.shape[1] > 1 else math.nan
