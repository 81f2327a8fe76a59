r"""The clock $\tau$, in which the rich dynamics is the lazy one: its grid, and exact exponentials between grid points.

Between $\tau_n$ and $\tau_{n+1}$ the filter obeys $\chi'=m(\tau)-x\chi$ with one unknown function $m$ of time only. $m$ is replaced by
the polynomial through five neighbouring grid points; with it the step is exact for every $x$ (docs/theory/adaptive-linear.md, (AL.16)):

$$\chi_{n+1}=e^{-x\Delta}\chi_n+\sum_{i=0}^4w_i(x)\,m_{n+1-i},\qquad w_i=\int_0^\Delta e^{-x(\Delta-\sigma)}\ell_i(\sigma)\,d\sigma .$$

The weights depend on the grids of $\tau$ and $x$ alone, so that every problem of a sweep shares them.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

# Points of the interpolating polynomial: the new one and four before it.
STENCIL = 5
# Below this |x Delta| moments come from the downward recursion, above from the upward one.
_SMALL = 5.0
_START = 30


@dataclasses.dataclass(frozen=True, eq=False)
class Clock:
    r"""A grid of the clock with its step weights.

    Attributes:
        tau: grid points, from 0.
        decay: $e^{-x\Delta}$, shape (step, point).
        weights: $w_i(x)$, shape (step, stencil, point), newest first.
        time_weights: the same at $x=0$: integrals over a step.
    """

    tau: Float[np.ndarray, " grid"]
    decay: np.ndarray
    weights: np.ndarray
    time_weights: Float[np.ndarray, "step stencil"]


def clock_grid(first: float, last: float, step: float) -> Float[np.ndarray, " grid"]:
    r"""Grid points $\text{first}\,(e^{i\,\text{step}}-1)$ up to at least `last`: even at first, then even in $\log\tau$."""
    count = int(np.ceil(np.log1p(last / first) / step))
    return first * np.expm1(step * np.arange(count + 1))


def clock(x, tau) -> Clock:
    """The step weights of a grid `tau` for filters at the points `x`."""
    x = np.asarray(x)
    widths = np.diff(tau)
    # The interpolated functions are even in tau at the start, where they begin with tau^2.
    extended = np.concatenate([-tau[STENCIL - 2 : 0 : -1], tau])
    offset = STENCIL - 2
    steps = np.arange(len(widths))
    index = offset + 1 + steps[:, None] - np.arange(STENCIL)
    places = (extended[index] - tau[:-1, None]) / widths[:, None]
    # Rows: coefficients in (sigma / Delta)^k of each Lagrange polynomial.
    lagrange = np.swapaxes(np.linalg.inv(places[:, :, None] ** np.arange(STENCIL)), 1, 2)
    moments = _moments(np.multiply.outer(widths, x)) * widths[:, None]
    at_zero = widths[:, None] / np.arange(1.0, STENCIL + 1.0)
    return Clock(
        tau,
        np.exp(-np.multiply.outer(widths, x)),
        np.einsum("nik,knj->nij", lagrange, moments),
        np.einsum("nik,nk->ni", lagrange, at_zero),
    )


def _moments(y):
    r"""$\int_0^1e^{-y(1-s)}s^kds$ for $k=0..$ `STENCIL` - 1, shape (k, *y)."""
    result = np.empty((STENCIL, *y.shape), y.dtype)
    small = np.abs(y) < _SMALL
    near = y[small]
    value = np.zeros_like(near)
    for k in range(_START, 0, -1):
        value = (1.0 - near * value) / k
        if k <= STENCIL:
            result[k - 1, small] = value
    far = y[~small]
    value = -np.expm1(-far) / far
    for k in range(STENCIL):
        value = value if k == 0 else (1.0 - k * value) / far
        result[k, ~small] = value
    return result
