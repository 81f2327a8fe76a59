r"""Eigenvalue groups of a task, in the convention of deep linear networks, where sums over modes are means over $D$.

Long spectra are compressed for the march. What it asks of a mode is a smooth function of $\lambda$ that falls where
$\lambda\tau>1$, with $\tau$ the training time. So the largest eigenvalues are kept, those above $1/\tau$ become
Chebyshev nodes in $\log\lambda$, and those below, which are hardly learned, a few nodes in $\lambda$.
"""

import functools

import numpy as np

from foretrain.limits.deep_linear._rows import Groups
from foretrain.limits.linear import measure_of
from foretrain.limits.linear._measure import chebyshev_nodes, interpolation_weights
from foretrain.tasks import AbstractSpectralTask, SpectrumTask

# So many groups stay as they are, and more in short marches: as long as their matrices have fewer numbers than this.
EXACT_GROUPS, EXACT_NUMBERS = 40, 4e6
_LARGEST, _TAIL_NODES, _TAIL = 12, 6, 0.1
_NODES_PER_UNIT, _MORE_NODES = 4.0, 6


def groups_of(task: AbstractSpectralTask, time: float, rows: int) -> tuple[Groups, float]:
    r"""The groups of a task without axes, and the error of their compression relative to the loss before training.

    Args:
        task: What is learned.
        time: Training time $\tau$ that is resolved, in units of inverse eigenvalues.
        rows: Rows of the matrices of every group, 0 if there are none; long spectra with many rows are compressed.
    """
    most = max(EXACT_GROUPS, int(EXACT_NUMBERS / max(rows, 1) ** 2)) if rows else 10**9
    # The noise plays no part in the spectrum.
    return _groups_of(task.replace(noise=0.0), _rounded(time), most)


def _rounded(time: float) -> float:
    """A power of two not below, so that sweeps over rates share their groups."""
    return float(2.0 ** np.ceil(np.log2(max(time, 1.0))))


@functools.lru_cache(maxsize=64)
def _groups_of(task: AbstractSpectralTask, time: float, most: int) -> tuple[Groups, float]:
    spectrum = task.spectrum()
    measure = measure_of(spectrum)
    dimension = float(spectrum.modes)
    # A declared spectrum is a mean over its modes in both respects; other tasks keep their total signal.
    scale = 1.0 / dimension if isinstance(task, SpectrumTask) else 1.0
    trace, signal = (np.asarray(part, float) for part in (measure.trace, measure.signal))
    q, q_signal = (
        (trace, signal)
        if measure.shift is None or measure.shift_signal is None
        else (np.asarray(measure.shift), np.asarray(measure.shift_signal))
    )
    whole = Groups(
        np.asarray(measure.eigenvalues, float), trace / dimension, scale * signal, q / dimension, scale * q_signal
    )
    if len(whole.eigenvalues) <= most:
        return whole, 0.0
    small = compressed(whole, time)
    return small, compression_error(whole, small, time)


def compressed(groups: Groups, time: float) -> Groups:
    r"""Fewer groups that stand for the same spectrum as far as training for a time can tell.

    Args:
        groups: The spectrum.
        time: $\tau$.
    """
    order = np.argsort(-groups.eigenvalues)
    lam, *weights = (part[order] for part in groups)
    cut = max(_TAIL / time, lam[-1])
    kept = min(_LARGEST, int(np.sum(lam > cut)))
    middle = slice(kept, int(np.sum(lam > cut)))
    pieces: list[tuple] = [(lam[:kept], *(part[:kept] for part in weights))]
    if middle.stop > middle.start:
        x = np.log(lam[middle])
        nodes = int(np.ceil(_NODES_PER_UNIT * (x[0] - x[-1]))) + _MORE_NODES
        pieces.append(_interpolated(x, [part[middle] for part in weights], nodes, np.exp))
    tail = slice(middle.stop, None)
    pieces.append(_interpolated(lam[tail], [part[tail] for part in weights], _TAIL_NODES, np.asarray))
    return Groups(*(np.concatenate(column) for column in zip(*pieces, strict=True)))


def _interpolated(x, weights, nodes: int, back) -> tuple[np.ndarray, ...]:
    """Chebyshev nodes between the outermost points, with the weights of interpolation; few points stay as they are."""
    if len(x) <= nodes:
        return back(x), *weights
    centre, half = 0.5 * (x[0] + x[-1]), 0.5 * (x[0] - x[-1])
    found = interpolation_weights((x - centre) / half, nodes, *weights)
    return back(centre + half * chebyshev_nodes(nodes)), *found


def compression_error(groups: Groups, small: Groups, time: float) -> float:
    r"""The largest error of the sums of $e^{-2\lambda\tau'}$ up to the time, which decay as lazy residuals do.

    Args:
        groups: The spectrum.
        small: Its compression.
        time: The longest $\tau'$.
    """
    times = np.concatenate([[0.0], np.geomspace(time / 1e4, time, 120)])
    worst = 0.0
    for name in ("trace", "signal", "test_trace", "test_signal"):
        sums = [np.exp(-2.0 * times[:, None] * part.eigenvalues) @ getattr(part, name) for part in (groups, small)]
        worst = max(worst, float(np.max(np.abs(sums[0] - sums[1]))) / max(float(sums[0][0]), 1e-300))
    return worst
