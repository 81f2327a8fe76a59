"""Models that are stepped from start to end: what is kept of a run, and when it counts as diverged."""

import numpy as np
from jaxtyping import Float

from foretrain.training._batches import Times

# A run whose test loss has grown by this factor over what a loss was before training is beyond recovery.
_BLOWN_UP = 1e3


def at_times(found: Float[np.ndarray, "steps_and_one values"], times: Times) -> Float[np.ndarray, "values time"]:
    """The rows of a run at some steps, infinite from where it has diverged.

    Args:
        found: Test loss, train loss and whatever else, before every step and after the last.
        times: Numbers of steps, in any order.
    """
    limit = _BLOWN_UP * np.max(found[0, :2])
    with np.errstate(invalid="ignore"):
        gone = np.logical_or.accumulate(~(found[:, 0] <= limit))
    return np.where(gone[:, None], np.inf, found)[times.astype(np.int64)].T
