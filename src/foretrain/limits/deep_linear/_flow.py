r"""Gradient flow on a grid of times: the weights of the trapezoidal rule in place of those of steps (DL.13).

The spacing grows with time, so that long horizons take a few hundred rows. The same on every second time says how wrong it is.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# Spacing relative to the time, of the coarser grid; where it starts to grow, in units of the fastest lazy decay.
_SPACING, _START = 0.1, 0.3
# A row depends on itself through half a spacing; each sweep shrinks what is left of that by the spacing.
SWEEPS = 6


class Clock(NamedTuple):
    """A grid of times.

    Attributes:
        times: Increasing, from 0.
        places: Where the wanted times stand.
    """

    times: Float[np.ndarray, " row"]
    places: np.ndarray

    def finer(self) -> "Clock":
        """The grid with a time between each two."""
        finer = np.empty(2 * len(self.times) - 1)
        finer[::2], finer[1::2] = self.times, 0.5 * (self.times[1:] + self.times[:-1])
        return Clock(finer, 2 * self.places)

    def weights(self) -> Float[np.ndarray, "row row"]:
        r"""$E_{ts}$: the integral to $t$ of the hat function of $s$."""
        gaps, size = np.diff(self.times), len(self.times)
        left, right = np.append(0.5 * gaps, 0.0), np.append(0.0, 0.5 * gaps)
        return np.tril(np.broadcast_to(left, (size, size)), -1) + np.tril(np.broadcast_to(right, (size, size)))


def clock(times: Float[np.ndarray, " time"], rate: float) -> Clock:
    """A grid that holds the wanted times.

    Args:
        times: In any order.
        rate: The fastest decay at the start.
    """
    start = _START / rate
    count = int(np.ceil(np.log1p(times.max() / start) / _SPACING)) + 1
    grid = start * np.expm1(np.linspace(0.0, np.log1p(times.max() / start), count))
    # Times of the grid next to a wanted one make way for it.
    wanted = np.unique(np.append(times, 0.0))
    distance = np.abs(grid[:, None] - wanted[None, :]).min(1)
    kept = grid[distance > 0.3 * _SPACING * (grid + start)]
    whole = np.union1d(kept, wanted)
    return Clock(whole, np.searchsorted(whole, times))
