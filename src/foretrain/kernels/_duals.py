r"""Dual activations: Gaussian averages of a pair of activations, in the angle form.

For $(u,v)$ jointly Gaussian with variances $q_x,q_y$ and correlation $\rho$, and an activation $\varphi$,

$$\hat\varphi(q_x,q_y,\rho)=\langle\varphi(u)\varphi(v)\rangle,\qquad \hat{\varphi'}(q_x,q_y,\rho)=\langle\varphi'(u)\varphi'(v)\rangle .$$

Letters: $c=1-\rho$ is the *gap*; $k=\rho\sqrt{q_xq_y}$ the covariance; $\theta=\arccos\rho$ the angle. Every dual here takes
the gap and returns the gap $c'=1-\hat\varphi(x,y)/\sqrt{\hat\varphi(x,x)\hat\varphi(y,y)}$ of its output. Near-duplicate
inputs have gaps far below the spacing of numbers near one, so a recursion in $\rho$ rounds them away and, through
$\theta\sim\sqrt{2c}$, loses half of all digits; the gap keeps them.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Functions of the variances (q_x, q_y) and the gap c of every pair, all of one broadcast shape.
PairFunction = Callable[..., tuple[Array, Array]]


class Dual(NamedTuple):
    """The Gaussian averages of one activation.

    `mean_square(q)` and `slope_square(q)` are the averages of $\\varphi^2$ and $\\varphi'^2$ at variance q;
    `pair(q_x, q_y, gap)` returns the gap of the output and the average of the product of slopes. That of the piecewise
    linear ones also takes the angle, where it is known better than from the gap (near opposite inputs).
    """

    mean_square: Callable[[Array], Array]
    slope_square: Callable[[Array], Array]
    pair: PairFunction


def dual(activation: str, negative_slope: float = 0.0) -> Dual:
    """The dual of an activation by name; `negative_slope` is read by `leaky-relu` only."""
    if activation == "relu":
        return _piecewise_linear(0.0)
    if activation == "leaky-relu":
        return _piecewise_linear(negative_slope)
    if activation == "linear":
        return _piecewise_linear(1.0)
    if activation in _POWERS:
        return _power_of_relu(_POWERS[activation])
    if activation == "gelu":
        return Dual(_gelu_mean_square, _gelu_slope_square, _gelu_pair)
    return _error_functions(activation)


PIECEWISE_LINEAR = ("relu", "leaky-relu", "linear")
_POWERS = {"relu-2": 2, "relu-3": 3}
ACTIVATIONS = (*PIECEWISE_LINEAR, *_POWERS, "erf", "gelu", "tanh")


def _piecewise_linear(a: float) -> Dual:
    r"""max(u, 0) + a min(u, 0): arc-cosine kernels of degree one and zero (arXiv 0911.0601, sections 2.2 and 2.3).

    $c'=c-b\,(\sin\theta-\theta\cos\theta)/\pi$ with $b=(1-a)^2/(1+a^2)$; slopes $\tfrac12(1+a^2)-\tfrac{\theta}{2\pi}(1-a)^2$.
    """
    half = 0.5 * (1.0 + a * a)
    b = (1.0 - a) ** 2 / (1.0 + a * a)

    def pair(q_x: Array, q_y: Array, gap: Array, angle: Array | None = None) -> tuple[Array, Array]:
        angle = angle_of_gap(gap) if angle is None else angle
        return gap - b * _segment(angle) / jnp.pi, half * (1.0 - b * angle / jnp.pi) + 0.0 * (q_x + q_y)

    return Dual(lambda q: half * q, lambda q: half + 0.0 * q, pair)


def _power_of_relu(n: int) -> Dual:
    r"""max(u, 0)^n: arc-cosine kernels of degree n and n - 1 (arXiv 0911.0601, equations 3 to 8).

    $\langle\varphi\varphi\rangle=(q_xq_y)^{n/2}J_n(\theta)/2\pi$ with $J_n(0)=\pi(2n-1)!!$, and $\varphi'$ is $n$ times the power
    $n-1$.
    """
    odd = {1: 1.0, 2: 3.0, 3: 15.0}  # (2n - 1)!!

    def pair(q_x: Array, q_y: Array, gap: Array) -> tuple[Array, Array]:
        angle = angle_of_gap(gap)
        slope = 0.5 * n * n * (q_x * q_y) ** (0.5 * (n - 1)) * _arc_cosine(n - 1, angle) / jnp.pi
        return 1.0 - _arc_cosine(n, angle) / (odd[n] * jnp.pi), slope

    return Dual(lambda q: 0.5 * odd[n] * q**n, lambda q: 0.5 * n * n * odd[n - 1] * q ** (n - 1), pair)


def _arc_cosine(n: int, angle: Array) -> Array:
    """$J_n$ of arXiv 0911.0601 for n = 1, 2, 3."""
    sine, cosine, rest = jnp.sin(angle), jnp.cos(angle), jnp.pi - angle
    if n == 1:
        return sine + rest * cosine
    if n == 2:
        return 3.0 * sine * cosine + rest * (1.0 + 2.0 * cosine**2)
    return sine * (4.0 + 11.0 * cosine**2) + rest * cosine * (9.0 + 6.0 * cosine**2)


def angle_of_gap(gap: Float[Array, "*pairs"]) -> Float[Array, "*pairs"]:
    r"""$\theta=2\arcsin\sqrt{c/2}$, in full relative precision for small gaps."""
    half = jnp.clip(0.5 * gap, 0.0, 1.0)
    return 2.0 * jnp.arctan2(jnp.sqrt(half), jnp.sqrt(1.0 - half))


def _segment(angle: Array) -> Array:
    r"""$\sin\theta-\theta\cos\theta$ without cancellation at small angles (it is $\theta^3/3$ there)."""
    square = angle * angle
    series = jnp.zeros_like(angle)
    # theta^(2j+1) coefficients: (-1)^(j+1) 2j / (2j+1)!; eleven of them reach 1e-17 relative at theta = 1.
    for j in range(11, 0, -1):
        coefficient = (-1) ** (j + 1) * 2.0 * j / float(np.prod(np.arange(1.0, 2 * j + 2)))
        series = coefficient + square * series
    return jnp.where(angle < 1.0, angle * square * series, jnp.sin(angle) - angle * jnp.cos(angle))


# --- x Phi(x) -----------------------------------------------------------------------------------------------------


def _gelu_parts(q_x: Array, q_y: Array, gap: Array) -> tuple[Array, Array]:
    r"""Averages of $\varphi\varphi$ and $\varphi'\varphi'$ for $\varphi(u)=u\Phi(u)$, by Stein's identity.

    With $\Delta=(1+q_x)(1+q_y)-k^2$ and $A=\tfrac14+\tfrac1{2\pi}\arcsin\frac{k}{\sqrt{(1+q_x)(1+q_y)}}$:
    $\langle\varphi\varphi\rangle=kA+\frac1{2\pi\sqrt\Delta}\big[q_xq_y-k^2+\frac{k^2}{1+q_x}+\frac{k^2}{1+q_y}\big]$ and
    $\langle\varphi'\varphi'\rangle=A+\frac{k}{2\pi\sqrt\Delta}\big[\frac1{1+q_x}+\frac1{1+q_y}+\frac1\Delta\big]$.
    """
    k = jnp.sqrt(q_x * q_y) * (1.0 - gap)
    open_area = q_x * q_y * gap * (2.0 - gap)  # q_x q_y - k^2
    determinant = 1.0 + q_x + q_y + open_area
    root = jnp.sqrt(determinant)
    both = 0.25 + jnp.arctan2(k, root) / (2.0 * jnp.pi)
    shrink = 1.0 / (1.0 + q_x) + 1.0 / (1.0 + q_y)
    value = k * both + (open_area + k * k * shrink) / (2.0 * jnp.pi * root)
    slope = both + k * (shrink + 1.0 / determinant) / (2.0 * jnp.pi * root)
    return value, slope


def _gelu_mean_square(q: Array) -> Array:
    return _gelu_parts(q, q, jnp.zeros_like(q))[0]


def _gelu_slope_square(q: Array) -> Array:
    return _gelu_parts(q, q, jnp.zeros_like(q))[1]


def _gelu_pair(q_x: Array, q_y: Array, gap: Array) -> tuple[Array, Array]:
    value, slope = _gelu_parts(q_x, q_y, gap)
    return _normalized_gap(value, _gelu_mean_square(q_x), _gelu_mean_square(q_y)), slope


def _normalized_gap(value: Array, square_x: Array, square_y: Array) -> Array:
    """1 - value / sqrt(product of squares); an input with no variance counts as orthogonal to everything.

    Plain subtraction is right for smooth activations: their duals are smooth at gap 0, so a rounding error of the gap
    stays a rounding error of the kernel (no square root ever acts on it).
    """
    scale = jnp.sqrt(square_x * square_y)
    return jnp.clip(1.0 - value / jnp.where(scale > 0.0, scale, 1.0), 0.0, 2.0)


# --- sigmoids: erf, and tanh as a mixture of erfs -------------------------------------------------------------------


def _error_functions(activation: str) -> Dual:
    r"""Duals of $\varphi(u)=\sum_iw_i\,\mathrm{erf}(u/\sqrt{2s_i})$, a mixture of error functions.

    With $\Delta_{ij}=(s_i+q_x)(s_j+q_y)-k^2$:
    $\langle\varphi\varphi\rangle=\frac2\pi\sum_{ij}w_iw_j\arctan\frac{k}{\sqrt{\Delta_{ij}}}$ (for one term: Williams, Neural
    Computation 10, 1998) and $\langle\varphi'\varphi'\rangle=\frac2\pi\sum_{ij}w_iw_j\Delta_{ij}^{-1/2}$. erf is the single
    term $s=\frac12$. The double sum of tanh holds at every variance but is slow; the Hermite series takes its place where
    it has converged.
    """
    widths, weights = (np.array([0.5]), np.array([1.0])) if activation == "erf" else tanh_mixture()
    parts = functools.partial(_mixture_parts, widths, weights)
    pair_parts = parts if activation == "erf" else functools.partial(_tanh_parts, parts)

    def mean_square(q: Array) -> Array:
        return parts(q, q, jnp.zeros_like(q))[0]

    def slope_square(q: Array) -> Array:
        return parts(q, q, jnp.zeros_like(q))[1]

    def pair(q_x: Array, q_y: Array, gap: Array) -> tuple[Array, Array]:
        value, slope = pair_parts(q_x, q_y, gap)
        return _normalized_gap(value, mean_square(q_x), mean_square(q_y)), slope

    return Dual(mean_square, slope_square, pair)


def _mixture_parts(
    widths: Float[np.ndarray, " terms"], weights: Float[np.ndarray, " terms"], q_x: Array, q_y: Array, gap: Array
) -> tuple[Array, Array]:
    """Averages of the product of the activation and of its slope, from the double sum over terms."""
    k = jnp.sqrt(q_x * q_y) * (1.0 - gap)
    open_area = q_x * q_y * gap * (2.0 - gap)  # q_x q_y - k^2

    def add(total: tuple[Array, Array], term: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], None]:
        s, r, w = term
        root = jnp.sqrt(s * r + s * q_y + r * q_x + open_area)
        return (total[0] + w * jnp.arctan2(k, root), total[1] + w / root), None

    s, r = (jnp.asarray(m.ravel()) for m in np.meshgrid(widths, widths, indexing="ij"))
    weight = jnp.asarray(np.outer(weights, weights).ravel())
    (value, slope), _ = jax.lax.scan(add, (jnp.zeros_like(k), jnp.zeros_like(k)), (s, r, weight))
    return 2.0 / jnp.pi * value, 2.0 / jnp.pi * slope


def _tanh_parts(
    mixture: Callable[[Array, Array, Array], tuple[Array, Array]], q_x: Array, q_y: Array, gap: Array
) -> tuple[Array, Array]:
    r"""Tanh by its Hermite series $\sum_na_n(q_x)a_n(q_y)\rho^n$, or by the mixture where the series is too long.

    256 terms reach rounding up to q of about 3, above the variances of a network with normalized inputs.
    """
    series_x, series_y = _tanh_hermite(q_x), _tanh_hermite(q_y)
    last = jnp.max(jnp.stack([jnp.max(jnp.abs(a[..., -4:])) for a in (*series_x, *series_y)]))
    return jax.lax.cond(
        last < 3e-9,  # products of two such terms, and the few hundred beyond them, are below rounding
        lambda: _hermite_sums(series_x, series_y, 1.0 - gap),
        lambda: mixture(q_x, q_y, gap),
    )


def _tanh_hermite(q: Array) -> tuple[Float[Array, "*inputs terms"], Float[Array, "*inputs terms"]]:
    """Coefficients of tanh(sqrt(q) z) in odd and of its slope in even normalized Hermite polynomials of z."""
    nodes, odd, even = _hermite_table()
    value = jnp.tanh(jnp.sqrt(q)[..., None] * nodes.reshape((1,) * q.ndim + (-1,)))
    return value @ odd, (1.0 - value * value) @ even


@functools.cache
def _hermite_table(terms: int = 256, step: float = 0.03) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Midpoint-rule nodes z > 0 and, for each node, weight times Gaussian density times the polynomials."""
    z = (np.arange(int(12.8 / step)) + 0.5) * step
    root_density = np.exp(-0.25 * z * z) / (2.0 * np.pi) ** 0.25
    rows = [root_density, z * root_density]  # the Hermite functions, so that no polynomial overflows
    for n in range(1, 2 * terms - 1):
        rows.append((z * rows[-1] - np.sqrt(n) * rows[-2]) / np.sqrt(n + 1))
    table = 2.0 * step * root_density * np.array(rows)
    return z, table[1::2].T.copy(), table[0::2].T.copy()


def _hermite_sums(
    series_x: tuple[Array, Array], series_y: tuple[Array, Array], correlation: Array
) -> tuple[Array, Array]:
    """Sums of odd[n] rho^(2n+1) and even[n] rho^(2n) by Horner's rule, from the first term that counts."""
    terms = series_x[0].shape[-1]
    (odd_x, even_x), (odd_y, even_y) = series_x, series_y
    bound = jnp.stack([jnp.max(jnp.abs(a).reshape(-1, terms), axis=0) for a in (*series_x, *series_y)]).max(axis=0)
    first = jnp.max(jnp.where(bound > 1e-10, jnp.arange(terms), 0))
    square = correlation * correlation

    def horner(i: Array, total: tuple[Array, Array]) -> tuple[Array, Array]:
        n = first - i
        return (
            total[0] * square + odd_x[..., n] * odd_y[..., n],
            total[1] * square + even_x[..., n] * even_y[..., n],
        )

    zero = jnp.zeros_like(correlation)
    value, slope = jax.lax.fori_loop(0, first + 1, horner, (zero, zero))
    return value * correlation, slope


@functools.cache
def tanh_mixture(nodes: int = 24) -> tuple[np.ndarray, np.ndarray]:
    r"""Squared widths $s_i$ and weights $w_i$ with $\tanh u=\sum_iw_i\,\mathrm{erf}(u/\sqrt{2s_i})$ to 5e-15.

    The logistic distribution is a scale mixture of normals whose scale follows the Kolmogorov distribution (Andrews and
    Mallows 1974; Stefanski 1991), so $\tanh u=\int\mathrm{erf}\big(u/(\sqrt2\kappa)\big)\,p(\kappa)\,d\kappa$. The
    trapezoid rule in $\log\kappa$ is exact to rounding with many nodes; Lanczos on it gives the Gauss rule with few.
    """
    log_scale = np.linspace(np.log(0.12), np.log(6.0), 1001)
    scale = np.exp(log_scale)
    weight = _kolmogorov_density(scale) * scale
    weight /= weight.sum()
    basis = np.zeros((nodes + 1, scale.size))
    diagonal, off = np.zeros(nodes), np.zeros(nodes)
    basis[0] = np.sqrt(weight)
    for j in range(nodes):
        v = log_scale * basis[j]
        diagonal[j] = v @ basis[j]
        for _ in range(2):  # twice is enough to keep the basis orthogonal to rounding
            v = v - basis[: j + 1].T @ (basis[: j + 1] @ v)
        off[j] = np.linalg.norm(v)
        basis[j + 1] = v / off[j]
    roots, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off[:-1], 1) + np.diag(off[:-1], -1))
    return np.exp(2.0 * roots), vectors[0] ** 2


def _kolmogorov_density(x: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
    """Density of the Kolmogorov distribution: its theta series for large arguments, the inverted one for small."""
    k = np.arange(1.0, 40.0)[:, None]
    large = 8.0 * np.sum((-1.0) ** (k - 1) * k**2 * x * np.exp(-2.0 * (k * x) ** 2), axis=0)
    a = (2.0 * k - 1.0) ** 2 * np.pi**2 / 8.0
    small = np.sqrt(2.0 * np.pi) * np.sum((2.0 * a / x**4 - 1.0 / x**2) * np.exp(-a / x**2), axis=0)
    return np.where(x > 1.0, large, small)
