r"""From population functions back to a spectrum: non-negative least squares on a head of modes and a tail of bins.

Unknowns are the number of modes in each bin of the tail, the power of each mode of the head and each bin of the tail,
and the noise. The data are $D$, $T$ and $F$ of `_resolvent` at cut-offs that the sample resolves, the trace and the total
power (both exact), and the head's cross products. Where the data say nothing (far below the smallest cut-off) the tail
continues the fitted power laws: the penalty acts on differences of the *ratio* to a power law, not on its size.
"""

from typing import NamedTuple

import numpy as np
import scipy.optimize
from jaxtyping import Float

from foretrain.kernels._resolvent import Moments

# Relative accuracy that the fit asks of the moments: below sampling errors, above what bins of this ratio can represent.
_COUNT_TOLERANCE = 1e-3
_POWER_TOLERANCE = 3e-3
_EXACT = 1e-6
# Change of the ratio to the power law, from one bin to the next, that costs as much as one tolerance: eigenvalues are smooth,
# targets need not be.
_ROUGHNESS = 0.05
_POWER_ROUGHNESS = 0.3
_BIN_RATIO = 1.2
_LARGEST_INDEX = 1e6
_FIT_BINS = 8


class Fit(NamedTuple):
    """A spectrum as nodes in descending order: the head's modes, then the tail's bins."""

    eigenvalues: Float[np.ndarray, " nodes"]
    multiplicity: Float[np.ndarray, " nodes"]
    power: Float[np.ndarray, " nodes"]  # sum of c_k^2 over the modes of a node
    noise: float
    capacity: float
    source: float
    signal_exponent: float


def deconvolve(
    kappa: Float[np.ndarray, " cutoffs"],
    moments: Moments,
    head: Float[np.ndarray, " head"],
    head_power: Float[np.ndarray, " head"],
    head_error: Float[np.ndarray, " head"],
    trace: float,
    total: float,
    ranges: tuple[tuple[int, int], tuple[int, int]],
    steady: bool = False,
) -> Fit:
    """The spectrum whose population functions are the measured ones.

    Args:
        kappa: Cut-offs, descending.
        moments: D, T, F at the cut-offs.
        head: Eigenvalues of the head.
        head_power: Their cross-product powers, of either sign.
        head_error: Standard errors of those.
        trace: Mean of K(x, x).
        total: Mean of y^2, summed over outputs.
        ranges: First and last mode of the fit of the eigenvalues' exponent, and of the power's.
        steady: Keep the law of the power at the slope of the moments themselves, kappa dT/dkappa against kappa, in place of
            the fit's. Over a long range of bins a fit under a wrong law confirms it; the slope of the moments cannot.
    """
    capacity = max(_slope(np.log(kappa), -np.log(moments.modes)), 1e-3) ** -1.0
    derivative = np.maximum(moments.cross - moments.error, 1e-12 * total)  # kappa dT/dkappa
    source = _slope(np.log(kappa), np.log(derivative))
    signal, slope = capacity * source + 1.0, source
    for _ in range(3):  # the tail's law is the law of the resolved modes, which the tail itself affects a little
        tail, law = _tail_grid(head, capacity, trace)
        multiplicity = _counts(kappa, moments.modes, head, tail, law, trace)
        nodes = np.concatenate([head, tail])
        counts = np.concatenate([np.ones(len(head)), multiplicity])
        power, noise = _powers(kappa, moments, nodes, head_power, head_error, _law(slope if steady else source), total)
        capacity, signal = exponents(nodes, counts, power, ranges, capacity, signal)
        source = (signal - 1.0) / capacity
    return Fit(nodes, counts, power, noise, capacity, source, signal)


def _law(source: float) -> float:
    """The source exponent of the tail's law: the fitted one, or a fast decay where no decay of power was found.

    Power that does not decay is noise as far as the points can tell; a law that follows it would call it signal.
    """
    return min(source, 3.0) if source > 0.05 else 1.0


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    """Slope over the deeper half of the cut-offs."""
    half = len(x) // 2
    return float(np.polyfit(x[half:], y[half:], 1)[0])


def _tail_grid(
    head: Float[np.ndarray, " head"], capacity: float, trace: float
) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]:
    """Centres of the tail's bins, and how many modes a power law through the end of the head has in each."""
    start, count = head[-1], float(len(head))
    bins = int(np.clip(capacity * np.log(_LARGEST_INDEX / count) / np.log(_BIN_RATIO), 8, 160))
    edges = start * _BIN_RATIO ** -np.arange(bins + 1.0)
    law = count * np.diff((edges / start) ** (-1.0 / capacity))
    return np.sqrt(edges[1:] * edges[:-1]), law


def _counts(
    kappa: Float[np.ndarray, " cutoffs"],
    modes: Float[np.ndarray, " cutoffs"],
    head: Float[np.ndarray, " head"],
    tail: Float[np.ndarray, " bins"],
    law: Float[np.ndarray, " bins"],
    trace: float,
) -> Float[np.ndarray, " bins"]:
    left = modes - np.sum(head / (head + kappa[:, None]), axis=1)
    rows = [
        tail * law / (tail + kappa[:, None]) / (_COUNT_TOLERANCE * modes[:, None]),
        (tail * law / (_EXACT * trace))[None, :],
        _differences(len(tail)) / _ROUGHNESS,
    ]
    wanted = np.concatenate(
        [left / (_COUNT_TOLERANCE * modes), [(trace - head.sum()) / (_EXACT * trace)], np.zeros(len(tail) - 1)]
    )
    ratio = _non_negative(np.vstack(rows), wanted)
    return ratio * law


def _powers(
    kappa: Float[np.ndarray, " cutoffs"],
    moments: Moments,
    nodes: Float[np.ndarray, " nodes"],
    head_power: Float[np.ndarray, " head"],
    head_error: Float[np.ndarray, " head"],
    source: float,
    total: float,
) -> tuple[Float[np.ndarray, " nodes"], float]:
    count, bins = len(head_power), len(nodes) - len(head_power)
    scale = np.concatenate([np.full(count, total), total * (nodes[count:] / nodes[0]) ** source, [total]])
    filtered = np.hstack([kappa[:, None] / (nodes + kappa[:, None]), np.ones((len(kappa), 1))])
    smooth = np.zeros((bins - 1, len(scale)))
    smooth[:, count:-1] = _differences(bins) / _POWER_ROUGHNESS
    level = max(float(np.mean(np.abs(head_power[-max(count // 2, 1) :]))), 1e-12 * total)
    smooth *= scale[count] / level  # so that ratios are measured against the power at the junction
    rows = [
        filtered * scale / (_POWER_TOLERANCE * moments.cross[:, None]),
        filtered**2 * scale / (_POWER_TOLERANCE * moments.error[:, None]),
        (scale / (_EXACT * total))[None, :],
        np.eye(count, len(scale)) * scale / head_error[:, None],
        smooth,
    ]
    wanted = np.concatenate(
        [
            np.full(2 * len(kappa), 1.0 / _POWER_TOLERANCE),
            [1.0 / _EXACT],
            head_power / head_error,
            np.zeros(bins - 1),
        ]
    )
    solution = _non_negative(np.vstack(rows), wanted) * scale
    return solution[:-1], float(solution[-1])


def _differences(size: int) -> Float[np.ndarray, "pairs bins"]:
    return np.diff(np.eye(size), axis=0)


def _non_negative(matrix: Float[np.ndarray, "rows unknowns"], wanted: Float[np.ndarray, " rows"]) -> np.ndarray:
    norms = np.linalg.norm(matrix, axis=0)
    norms[norms == 0.0] = 1.0
    return scipy.optimize.nnls(matrix / norms, wanted, maxiter=50 * matrix.shape[1])[0] / norms


def exponents(
    eigenvalues: Float[np.ndarray, " nodes"],
    multiplicity: Float[np.ndarray, " nodes"],
    power: Float[np.ndarray, " nodes"],
    ranges: tuple[tuple[int, int], tuple[int, int]],
    capacity: float,
    signal: float,
) -> tuple[float, float]:
    """Decay exponents of eigenvalues and of power per mode, each over its range of modes.

    `capacity` and `signal` are returned where the range holds fewer than three bins with modes (with power).
    """
    place, value, _ = _log_bins(eigenvalues, multiplicity, power, ranges[0])
    if len(place) >= 3:
        capacity = max(float(-np.polyfit(place, value, 1)[0]), 0.05)
    place, _, strength = _log_bins(eigenvalues, multiplicity, power, ranges[1])
    lit = strength > 0.0
    if lit.sum() >= 3:
        # A bin's own power measures how well its logarithm is known: an almost empty one must not turn the line.
        weight = np.sqrt(strength[lit] * np.exp(place[lit]))
        signal = float(-np.polyfit(place[lit], np.log(strength[lit]), 1, w=weight / weight.max())[0])
    return capacity, signal


def _log_bins(
    eigenvalues: Float[np.ndarray, " nodes"],
    multiplicity: Float[np.ndarray, " nodes"],
    power: Float[np.ndarray, " nodes"],
    span: tuple[int, int],
) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]:
    """Mean log index, mean log eigenvalue and mean power per mode in bins of equal width in log index."""
    upper = np.cumsum(multiplicity)
    index = np.maximum(upper - 0.5 * multiplicity + 0.5, 1.0)
    edges = np.geomspace(span[0] - 0.5, span[1] + 0.5, _FIT_BINS + 1)
    owner = np.digitize(index, edges) - 1
    inside = (owner >= 0) & (owner < _FIT_BINS) & (multiplicity > 0.0)
    owner, weight = owner[inside], multiplicity[inside]
    count = np.bincount(owner, weight, _FIT_BINS)
    sums = (weight * np.log(index[inside]), weight * np.log(eigenvalues[inside]), power[inside])
    held = count > 0.0
    place, value, strength = (np.bincount(owner, part, _FIT_BINS)[held] / count[held] for part in sums)
    return place, value, strength
