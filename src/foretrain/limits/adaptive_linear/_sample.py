"""Values at any times from values on the clock's grid: local polynomials in the logarithm of time."""

import numpy as np
from jaxtyping import Float

POINTS = 6


def sample(
    grid: Float[np.ndarray, " grid"], values: Float[np.ndarray, "grid *rest"], times: Float[np.ndarray, " time"]
) -> Float[np.ndarray, "time *rest"]:
    r"""Interpolates smooth values on an increasing grid that starts at 0, in $\log(1+t/t_1)$.

    Positive values are interpolated in their logarithm, so that their relative error is that of the interpolation.

    Args:
        grid: times of the values; even at first, then even in the logarithm.
        values: what is interpolated along the first axis.
        times: finite times inside of the grid.
    """
    scale = grid[min(10, len(grid) - 1)]
    x, at = np.log1p(grid / scale), np.log1p(np.asarray(times, float) / scale)
    first = np.clip(np.searchsorted(x, at) - POINTS // 2, 0, len(x) - POINTS)
    near = x[first[:, None] + np.arange(POINTS)]
    gaps = near[:, :, None] - near[:, None, :] + np.eye(POINTS)
    distance = at[:, None, None] - near[:, None, :]
    basis = np.prod(np.where(np.eye(POINTS, dtype=bool), 1.0, distance / gaps), axis=-1)
    around = values[first[:, None] + np.arange(POINTS)]
    positive = np.all(around > 0.0, axis=1, keepdims=True)
    logs = np.log(np.where(positive, around, 1.0))
    plain, relative = (np.einsum("tp,tp...->t...", basis, part) for part in (around, logs))
    return np.where(positive[:, 0], np.exp(relative), plain)
