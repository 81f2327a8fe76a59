r"""Slopes of log size against log axis, with the standard error that the seeds give."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from foretrain.errors import InvalidInput


@dataclasses.dataclass(frozen=True)
class Slope:
    r"""An exponent: size $\propto$ axis$^{\text{slope}}$.

    Args:
        slope: Mean over seeds of each seed's least-squares slope; NaN where a size is zero or not finite.
        stderr: Its standard error, from the spread of the seeds' slopes.
    """

    slope: float
    stderr: float


def log_slope(axis: Float[np.ndarray, " sizes"], measured: Float[np.ndarray, "seeds sizes"]) -> Slope:
    r"""The exponent of `measured` against `axis`.

    Each seed has its own network at every size, so that the seeds' least-squares slopes are independent draws; their
    mean is the slope and their standard deviation over $\sqrt{\text{seeds}}$ its standard error. The error contains the scatter
    of the seeds only, not a curvature of the power law, which no number of seeds takes away.

    Args:
        axis: Distinct positive sizes, at least two.
        measured: Sizes of a quantity, one row for each of at least two seeds.

    Raises:
        InvalidInput: Too few sizes or seeds, or shapes that do not fit.

    Example:
        >>> import numpy as np
        >>> from foretrain.diagnostics import log_slope
        >>> widths = np.array([64.0, 128.0, 256.0])
        >>> found = log_slope(widths, np.stack([widths**0.5, 3 * widths**0.5]))
        >>> round(found.slope, 6), round(found.stderr, 6)
        (0.5, 0.0)
    """
    axis, measured = np.asarray(axis, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    if axis.ndim != 1 or len(axis) < 2 or len(set(axis)) != len(axis) or not np.all(axis > 0):
        raise InvalidInput(f"log_slope(axis): expected at least two distinct positive sizes, got {axis.tolist()}.")
    if measured.ndim != 2 or measured.shape[1] != len(axis) or len(measured) < 2:
        raise InvalidInput(
            f"log_slope(measured): expected (seeds, sizes) with at least 2 seeds and {len(axis)} sizes, got shape "
            f"{measured.shape}."
        )
    if not np.all(np.isfinite(measured)) or not np.all(measured > 0):
        return Slope(math.nan, math.nan)
    x = np.log(axis) - np.mean(np.log(axis))
    slopes = np.log(measured) @ x / np.sum(x**2)
    return Slope(float(np.mean(slopes)), float(np.std(slopes, ddof=1) / math.sqrt(len(slopes))))
