"""Intervals of what follows from a fit, and words for what lies far from its runs."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from foretrain.laws._fit import Estimate, Fit
from foretrain.laws._words import count

FAR = 10.0  # times beyond the runs, from which a forecast or a plan carries a warning
_LONG = 1e3  # tokens per parameter of the longest runs behind the presets
RARE = 0.01  # share of the bootstrap fits below which those without an answer need no word


def estimate(value: float, samples: Float[np.ndarray, " fits"], level: float) -> Estimate:
    """A value with the interval that its values at the bootstrap fits span; fits without an answer count as 0 or as infinite.

    Args:
        value: At the estimate.
        samples: At each of the bootstrap fits.
        level: Probability that the interval is meant to cover.
    """
    kept = np.sort(samples[~np.isnan(samples)])
    if len(kept) == 0:
        return Estimate(value, math.nan, math.nan)
    if np.isfinite(kept).all():
        low, high = np.quantile(kept, [0.5 - level / 2, 0.5 + level / 2])
    else:  # between a number and infinity there is nothing to interpolate
        low = np.quantile(kept, 0.5 - level / 2, method="lower")
        high = np.quantile(kept, 0.5 + level / 2, method="higher")
    return Estimate(value, float(min(low, value)), float(max(high, value)))


def far_away(fit: Fit, points: Sequence[Mapping[str, float]]) -> list[str]:
    """A word for every variable that leaves the range of the runs by a factor of ten.

    Args:
        fit: The fit.
        points: Where it is asked.
    """
    said = []
    far = 1.0 if fit.settings.get("preset") else FAR  # nobody here has seen the runs of a paper
    for point in points:
        for name, value in point.items():
            low, high = fit.data.get("ranges", {}).get(name, (value, value))
            if name.endswith("_bits"):
                if value < low:
                    said.append(f"{name} = {value:g}: no run had fewer than {low:g}, and losses rise steeply below.")
                elif far == 1.0 and high < value < math.inf:
                    said.append(f"{name} = {value:g}: no run had more than {high:g}, but in full precision.")
                continue
            times = max(value / high, low / value)
            if times > far:
                side = "above the largest" if value > high else "below the smallest"
                said.append(
                    f"{name} = {count(value)} is {times:.3g} times {side} of the runs ({count(low)} to {count(high)}); "
                    "intervals know the fit, not what changes on the way."
                )
        ratio = point.get("tokens", 0.0) / point.get("params", math.inf)
        if far == 1.0 and ratio > _LONG:
            said.append(f"{ratio:.4g} tokens per parameter are more than the {_LONG:g} of the longest runs.")
    return said
