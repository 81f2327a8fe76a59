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
SMALL = 5.0
_START = 30


@dataclasses.dataclass(frozen=True, eq=False)
class Clock:
    r"""A grid of the clock with what its steps need.

    Attributes:
        tau: grid points, from 0.
        widths: $\Delta$ of each step.
        lagrange: coefficients in $(\sigma/\Delta)^k$ of the polynomials $\ell_i$, newest first.
        time_weights: $w_i$ at $x=0$: integrals over a step.
    """

    tau: Float[np.ndarray, " grid"]
    widths: Float[np.ndarray, " step"]
    lagrange: Float[np.ndarray, "step stencil power"]
    time_weights: Float[np.ndarray, "step stencil"]


def clock_grid(first: float, last: float, step: float) -> Float[np.ndarray, " grid"]:
    r"""Grid points $\text{first}\,(e^{i\,\text{step}}-1)$ up to at least `last`: even at first, then even in $\log\tau$."""
    count = int(np.ceil(np.log1p(last / first) / step))
    return first * np.expm1(step * np.arange(count + 1))


def clock(tau: Float[np.ndarray, " grid"]) -> Clock:
    """The steps of a grid."""
    widths = np.diff(tau)
    # The interpolated functions are nearly even in tau at the start.
    extended = np.concatenate([-tau[STENCIL - 2 : 0 : -1], tau])
    index = STENCIL - 1 + np.arange(len(widths))[:, None] - np.arange(STENCIL)
    places = (extended[index] - tau[:-1, None]) / widths[:, None]
    lagrange = np.swapaxes(np.linalg.inv(places[:, :, None] ** np.arange(STENCIL)), 1, 2)
    at_zero = widths[:, None] / np.arange(1.0, STENCIL + 1.0)
    return Clock(tau, widths, lagrange, np.einsum("nik,nk->ni", lagrange, at_zero))


def step_weights(ticks: Clock, x) -> tuple[np.ndarray, np.ndarray]:
    r"""$e^{-x\Delta}$, shape (step, point), and $w_i(x)$, shape (step, stencil, point), for filters at fixed points."""
    y = np.multiply.outer(ticks.widths, np.asarray(x))
    result = np.empty((STENCIL, *y.shape), y.dtype)
    small = np.abs(y) < SMALL
    result[:, small] = near_moments(y[small])
    result[:, ~small] = far_moments(y[~small], np)
    moments = np.moveaxis(result, 0, 1) * ticks.widths[:, None, None]
    return np.exp(-y), ticks.lagrange @ moments


def near_moments(y) -> list:
    r"""$\int_0^1e^{-y(1-s)}s^kds$ for $k=0..$ `STENCIL` - 1 and $|y|<$ `SMALL`, by the downward recursion, which is stable there."""
    found, value = [], 0.0 * y
    for k in range(_START, 0, -1):
        value = (1.0 - y * value) / k
        if k <= STENCIL:
            found.append(value)
    return found[::-1]


def far_moments(y, xp) -> list:
    """The same for larger `y`, by the upward recursion; `xp` is the array module."""
    found = [-xp.expm1(-y) / y]
    for k in range(1, STENCIL):
        found.append((1.0 - k * found[-1]) / y)
    return found
