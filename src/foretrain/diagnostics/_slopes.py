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


@dataclasses.dataclass(frozen=True)
class LimitSlope(Slope):
    r"""An exponent beside a correction of finite size: size $\propto$ axis$^{\text{slope}}\,e^{c\,n_0/n}$, with $n_0$ the smallest.

    Args:
        slope: Mean over seeds of each seed's least-squares slope; NaN where a size is zero or not finite.
        stderr: Its standard error, from the spread of the seeds' slopes.
        correction: $c$: by how much, in logarithms, the smallest size is above the power law.
        correction_stderr: Its standard error.
    """

    correction: float
    correction_stderr: float


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
    x, y = _logs(axis, measured, 2, "log_slope")
    if y is None:
        return Slope(math.nan, math.nan)
    x = x - np.mean(x)
    return Slope(*_mean(y @ x / np.sum(x**2)))


def limit_slope(axis: Float[np.ndarray, " sizes"], measured: Float[np.ndarray, "seeds sizes"]) -> LimitSlope:
    r"""The exponent of `measured` in large `axis`: least squares with a correction $\propto1/$axis beside the power law.

    Sums of many terms, such as overlaps of random vectors, come near their limit like $1/n$, so that a quantity with the exponent 0
    falls or rises at small sizes: `log_slope` has that in its slope, whatever the number of seeds. Here it stands apart. The price
    is an error that is about three times as large. Not for fewer than four sizes, nor for corrections that fall more slowly,
    like $1/\sqrt n$: they stay in the slope.

    Args:
        axis: Distinct positive sizes, at least four.
        measured: Sizes of a quantity, one row for each of at least two seeds.

    Raises:
        InvalidInput: Too few sizes or seeds, or shapes that do not fit.

    Example:
        >>> import numpy as np
        >>> from foretrain.diagnostics import limit_slope, log_slope
        >>> widths = np.array([64.0, 128.0, 256.0, 512.0, 1024.0])
        >>> sizes = np.exp(0.5 * 64 / widths) * np.array([[1.0], [3.0]])
        >>> round(log_slope(widths, sizes).slope, 2)
        -0.16
        >>> abs(limit_slope(widths, sizes).slope) < 1e-12
        True
    """
    x, y = _logs(axis, measured, 4, "limit_slope")
    if y is None:
        return LimitSlope(math.nan, math.nan, math.nan, math.nan)
    small = np.exp(np.min(x) - x)
    fits = y @ np.linalg.pinv(np.stack([np.ones_like(x), x, small], axis=1)).T
    return LimitSlope(*_mean(fits[:, 1]), *_mean(fits[:, 2]))


def _logs(axis: np.ndarray, measured: np.ndarray, least: int, who: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Logarithms of both; `None` for sizes that have none."""
    axis, measured = np.asarray(axis, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    if axis.ndim != 1 or len(axis) < least or len(set(axis)) != len(axis) or not np.all(axis > 0):
        words = {2: "two", 4: "four"}[least]
        raise InvalidInput(f"{who}(axis): expected at least {words} distinct positive sizes, got {axis.tolist()}.")
    if measured.ndim != 2 or measured.shape[1] != len(axis) or len(measured) < 2:
        raise InvalidInput(
            f"{who}(measured): expected (seeds, sizes) with at least 2 seeds and {len(axis)} sizes, got shape "
            f"{measured.shape}."
        )
    if not np.all(np.isfinite(measured)) or not np.all(measured > 0):
        return np.log(axis), None
    return np.log(axis), np.log(measured)


def _mean(values: Float[np.ndarray, " seeds"]) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))
