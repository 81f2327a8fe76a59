r"""The profile of a kernel: a deep recursion as one function of the angle, fitted once and then evaluated by a polynomial.

Without biases and with an activation that is homogeneous ($\varphi(au)=a\varphi(u)$ for $a>0$: `relu`, `leaky-relu`,
`linear`), the NNGP and the NTK of any depth are

$$K(x,y)=\sqrt{q_xq_y}\;p(\rho),\qquad q_x=|x|^2/D,\quad \rho=\cos\theta=\frac{x\cdot y}{|x||y|},$$

and with any activation and any biases $K(x,y)=p_q(\rho)$ between inputs of one common mean square $q$. The function
$p$ has square-root singularities at $\rho=\pm1$, but is smooth in $s=\sqrt{(1-|\rho|)/2}\in[0,1/\sqrt2]$ on each side of
$\rho=0$: $s=\sin(\theta/2)$ for $\rho>0$ and $\cos(\theta/2)$ for $\rho<0$. Two Chebyshev series in
$t=2\sqrt2\,s-1$, one a side, reach rounding with about 25 terms up to depth ten; the coefficients come from the recursion
at Chebyshev nodes, and their number from where they sink into its rounding.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from foretrain.kernels._infinite_width import InfiniteWidthKernel, evaluate

_LARGEST_S = math.sqrt(0.5)
# Nodes a side: more are tried until the last quarter of the coefficients is rounding.
_NODES = (64, 128, 256)
# What counts as rounding there, relative to K(x, x).
_RESOLVED = 1e-14
# Relative tail of the series that float32 leaves away.
_SINGLE_TAIL = 2e-8
# Sum of the absolute coefficients, over K(x, x), up to which powers of t round as well as Chebyshev polynomials do.
_WELL_CONDITIONED = 4.0
# Bits of a common mean square that tell profiles apart: 2e-15 relative, so that subsets of one data set share theirs.
_BITS = {"float64": 48, "float32": 26}


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """The two polynomials in t for the compiled program: row 0 for rho > 0, row 1 for the rest; the last term is first."""

    coefficients: Float[Array, "sides terms"]
    chebyshev: bool  # of Chebyshev polynomials, else of powers


@dataclasses.dataclass(frozen=True, eq=False)
class Profile:
    """A kernel as a function of the angle.

    `chebyshev` holds the coefficients of the two sides, first term first; `at_zero` is the value at angle 0.
    """

    chebyshev: tuple[Float[np.ndarray, " terms"], Float[np.ndarray, " terms"]]
    at_zero: float

    def at(self, s: Float[np.ndarray, " pairs"], positive: Bool[np.ndarray, " pairs"]) -> Float[np.ndarray, " pairs"]:
        """Values in float64 from s, with the sign of the correlation; exact at angle 0."""
        t = np.minimum(s / _LARGEST_S, 1.0) * 2.0 - 1.0
        plus, minus = (np.polynomial.chebyshev.chebval(t, c) for c in self.chebyshev)
        return np.where(positive, np.where(s == 0.0, self.at_zero, plus), minus)

    @functools.cached_property
    def _series(self) -> dict[str, Series]:
        return {}

    def series(self, dtype: str) -> Series:
        """The coefficients for the compiled program in this precision."""
        if dtype not in self._series:
            self._series[dtype] = _series_of(self, dtype)
        return self._series[dtype]


def common_square(squares: Float[np.ndarray, " rows"], dtype: str) -> float | None:
    """The mean square that all inputs share to rounding of `dtype`, or None."""
    low, high = float(squares.min()), float(squares.max())
    tolerance = 16.0 * np.finfo(np.float64).eps if dtype == "float64" else 4.0 * np.finfo(np.float32).eps
    if low <= 0.0 or high - low > tolerance * low:
        return None
    mantissa, exponent = math.frexp(0.5 * (low + high))
    scale = 2.0 ** _BITS[dtype]
    return math.ldexp(round(mantissa * scale) / scale, exponent)


@functools.lru_cache(maxsize=64)
def profile(kernel: InfiniteWidthKernel, mean_square: float | None = None) -> Profile | None:
    r"""The profile of a kernel, or None where 256 nodes do not resolve it (very deep or strongly saturated networks).

    Args:
        kernel: `NNGP` or `NTK`.
        mean_square: The common $|x|^2/D$ of all inputs; None for a homogeneous kernel, whose profile is K at unit mean squares.
    """
    square = 1.0 if mean_square is None else mean_square
    for nodes in _NODES:
        t = np.cos(np.pi * (np.arange(nodes) + 0.5) / nodes)
        half_angle = np.arcsin(0.5 * _LARGEST_S * (t + 1.0))
        angle = np.concatenate([[0.0], 2.0 * half_angle, np.pi - 2.0 * half_angle])
        with jax.enable_x64(True):
            q = jnp.asarray(np.full(angle.shape, square))
            values = np.asarray(evaluate(kernel, q, q, jnp.asarray(angle)))
        at_zero = float(values[0])
        plus, minus = (_trimmed(_chebyshev(side), abs(at_zero)) for side in values[1:].reshape(2, nodes))
        if plus is not None and minus is not None:
            return Profile((plus, minus), at_zero)
    return None


def _chebyshev(values: Float[np.ndarray, " nodes"]) -> Float[np.ndarray, " terms"]:
    """Coefficients of the interpolant through the Chebyshev nodes."""
    k = np.arange(len(values))
    turns = np.outer(k, 2 * k + 1) % (4 * len(values))  # whole turns off exactly: large arguments of cos are not
    series = 2.0 / len(values) * np.cos(np.pi * turns / (2 * len(values))) @ values
    series[0] *= 0.5
    return series


def _trimmed(series: Float[np.ndarray, " terms"], scale: float) -> Float[np.ndarray, " terms"] | None:
    """The terms that stand out of the rounding of the last quarter, or None when that is no rounding."""
    rounding = float(np.median(np.abs(series[-(len(series) // 4) :])))
    if not rounding <= _RESOLVED * scale:
        return None
    above = np.flatnonzero(np.abs(series) > max(2e-16 * scale, 8.0 * rounding))
    return series[: above[-1] + 1] if len(above) else series[:1]


def _series_of(fitted: Profile, dtype: str) -> Series:
    sides = fitted.chebyshev
    if dtype == "float32":
        sides = tuple(_shortened(side, _SINGLE_TAIL * abs(fitted.at_zero)) for side in sides)
    terms = -(-max(len(side) for side in sides) // 4) * 4  # few lengths to compile
    powers = [np.polynomial.chebyshev.cheb2poly(side) for side in sides]
    chebyshev = any(np.sum(np.abs(p)) > _WELL_CONDITIONED * abs(fitted.at_zero) for p in powers)
    rows = [np.pad(row, (0, terms - len(row)))[::-1] for row in (sides if chebyshev else powers)]
    with jax.enable_x64(True):
        return Series(jnp.asarray(np.array(rows, dtype=dtype)), chebyshev)


def _shortened(series: Float[np.ndarray, " terms"], tail: float) -> Float[np.ndarray, " terms"]:
    rest = np.cumsum(np.abs(series[::-1]))[::-1]
    return series[: max(int(np.sum(rest > tail)), 1)]


@functools.partial(jax.jit, static_argnames="chebyshev")
def apply(
    product: Float[Array, "tiles rows columns"],
    inverse: tuple[Float[Array, "tiles rows"], Float[Array, "tiles columns"]],
    root: tuple[Float[Array, "tiles rows"], Float[Array, "tiles columns"]],
    coefficients: Float[Array, "sides terms"],
    chebyshev: bool,
) -> Float[Array, "tiles rows columns"]:
    """Kernel values from inner products: one pass over the elements.

    Products of the two sides' factors come first, so that a symmetric tile stays exactly symmetric.

    Args:
        product: Inner products of rows.
        inverse: One over their norms.
        root: Square roots of their mean squares, or ones.
        coefficients: Of a `Series`.
        chebyshev: Of that series.
    """
    correlation = product * (inverse[0][:, :, None] * inverse[1][:, None, :])
    s = jnp.sqrt(jnp.maximum(0.5 - 0.5 * jnp.abs(correlation), 0.0))
    t = (2.0 / _LARGEST_S) * s - 1.0
    positive = correlation > 0.0
    value, before = jnp.zeros_like(t), jnp.zeros_like(t)
    terms = coefficients.shape[1]
    for k in range(terms):
        coefficient = jnp.where(positive, coefficients[0, k], coefficients[1, k])
        if not chebyshev:
            value = value * t + coefficient
        elif k < terms - 1:  # Clenshaw
            value, before = 2.0 * t * value - before + coefficient, value
        else:
            value = t * value - before + coefficient
    return value * (root[0][:, :, None] * root[1][:, None, :])
