r"""Contours on which inverse transforms become sums of a few dozen terms.

A protocol turns the error $v$ into $f_t(F\hat\Sigma)v$; losses are $\oint\oint f_tf_t'\,C_0\frac{dz\,dz'}{(2\pi i)^2}$ around the
spectrum (on the negative axis of $z$) and zero. Two kinds of contours serve:

- *open*: the hyperbola of Weideman and Trefethen, for functions that decay to the left like $e^{zt}$. Its $n$ points per
  half plane give an error of $10.2^{-n}$ at any time;
- *closed*: a Joukowski ellipse around $[-u_{\max},0]$, for functions that are entire in $z$ but do not decay.

All functions return points `z` in the upper half plane and weights `a` $=w/z$, so that a loss is
$2\,\mathrm{Re}\sum_{ij}a_i(a_jD_{ij}+\bar a_jD_{i\bar\jmath})$ with $D=zz'C_0$.
"""

import numpy as np
from jaxtyping import Complex, Float

Points = tuple[Complex[np.ndarray, "time point"], Complex[np.ndarray, "time point"]]

OPEN_POINTS = 12
CHECK_POINTS = 10
# The discrete hyperbola lives on a strip |Im log x| < pi, which 12 points leave below this number of steps.
FIRST_OPEN_STEP = 12
# Generating functions of losses are singular on [0, 1] only: one ellipse serves the early steps of every problem.
GENERATING_RADIUS = 1.2
GENERATING_POINTS = 16
GENERATING_CHECK = 12
# |f| may grow to this on a closed contour: what it grows by is lost to cancellation.
GROWTH = 50.0


def hyperbola(n: int) -> tuple[Complex[np.ndarray, " point"], Complex[np.ndarray, " point"]]:
    r"""Points $\zeta=zt$ and weights $a$ for $f=e^{zt}$; both independent of time."""
    step = 1.08179214 / n
    angle = 1j * (np.arange(n) + 0.5) * step - 1.17210423
    zeta = 4.49207528 * n * (1.0 + np.sin(angle))
    return zeta, step / (2.0 * np.pi) * np.cos(angle) / (1.0 + np.sin(angle)) * np.exp(zeta)


def expm1(x):
    """exp(x) - 1 for complex x without cancellation."""
    half = np.sin(0.5 * x.imag)
    return np.expm1(x.real) * np.cos(x.imag) - 2.0 * half * half + 1j * np.exp(x.real) * np.sin(x.imag)


def log1p(x):
    """log(1 + x) for complex x without cancellation."""
    return 0.5 * np.log1p(x.real * (2.0 + x.real) + x.imag**2) + 1j * np.arctan2(x.imag, 1.0 + x.real)


def flow_points(times: Float[np.ndarray, " time"], n: int) -> Points:
    """Hyperbola for a function that behaves like exp(z t)."""
    zeta, a = hyperbola(n)
    z = zeta / times[:, None]
    return z, np.broadcast_to(a, z.shape)


def step_points(steps: Float[np.ndarray, " time"], n: int) -> Points:
    r"""Hyperbola in $s=\log x$ for $x^t$: returns $x-1$ and weights for $\oint x^t\frac{dx}{x-1}\cdot$."""
    zeta, a = hyperbola(n)
    s = zeta / steps[:, None]
    shift = expm1(s)
    return shift, a * s * (1.0 + shift) / shift


def mirrored_step_points(steps: Float[np.ndarray, " time"], n: int) -> Points:
    r"""The same around $x=-1$, for eigenvalues beyond $1/\eta$: returns $x+1$ times -1, so that $x-1=-(2+\cdot)$.

    The upper half plane of $z$ is the lower half of this contour, so that points and weights are conjugated.
    """
    zeta, a = hyperbola(n)
    s = np.conj(zeta) / steps[:, None]
    shift = expm1(s)
    sign = np.where(steps % 2 == 0, 1.0, -1.0)[:, None]
    return shift, sign * np.conj(a) * s * (1.0 + shift) / (2.0 + shift)


def ellipse(
    edge: float, log_radius: float, m: int
) -> tuple[Complex[np.ndarray, " point"], Complex[np.ndarray, " point"]]:
    r"""Points and weights (for $f=1$) of the Joukowski ellipse around $[-\text{edge},0]$, `m` of them above the axis.

    With $w=\rho e^{i\theta}$, $z=\frac{\text{edge}}4(\sqrt w-1/\sqrt w)^2$, which keeps its digits near $z=0$.
    """
    w = log_radius + 1j * (np.arange(m) + 0.5) * np.pi / m
    root = np.sinh(0.5 * w)
    # dz / d log(w) = edge/2 sinh(log w); the trapezoidal rule on the full circle has weight 1 / (2 m).
    return edge * root * root, (np.cosh(0.5 * w) / root) / (2.0 * m)


def generating_ellipse(m: int) -> tuple[Complex[np.ndarray, " point"], Complex[np.ndarray, " point"]]:
    r"""Points $x-1$ around $[-1,0]$ and weights of $\oint\frac{dx}{x-1}$, for generating functions of fewer than 12 steps."""
    return ellipse(1.0, GENERATING_RADIUS, m)


def fit_ellipse(values, last: float, edge: float) -> tuple[float, int]:
    """The widest ellipse on which |f| stays moderate up to time `last`, and how many points it takes."""
    time = np.array([last])

    def growth(log_radius):
        # Overflow on too wide an ellipse is an answer: narrower.
        with np.errstate(over="ignore", invalid="ignore"):
            result = values(ellipse(edge, log_radius, 65)[0], time)
        return np.max(np.abs(result)) if np.all(np.isfinite(result)) else np.inf

    limit = GROWTH * max(1.0, growth(1e-9))
    low, high = np.log(1e-9), np.log(1.2)
    if growth(1.2) <= limit:
        low = high
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if growth(np.exp(middle)) <= limit else (low, middle)
    radius = float(np.exp(low))
    # Aliasing falls like exp(-2 m radius): 18 / radius points leave e^-36.
    return radius, int(np.ceil(18.0 / radius))


def ellipse_path(
    edge: float, log_radius: float, m: int, far: float, rows: int = 40
) -> Complex[np.ndarray, "row point"]:
    """Ellipses that shrink from |z| > `far` to the one of `log_radius`: a path for continuation."""
    start = max(np.log(4.0 * far / edge) + 1.0, 2.0, 2.0 * log_radius) if edge > 0 else 2.0
    radii = np.geomspace(start, log_radius, rows)
    return np.stack([ellipse(edge, radius, m)[0] for radius in radii])
