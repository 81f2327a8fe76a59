r"""One contour for all times: integrals over the spectrum of the finite kernel as sums over a few hundred points.

Everything the theory needs is $\int h(x)\,d\mu(x)$ with a measure known through its Stieltjes transform and a function $h$ that is entire
(docs/theory/adaptive-linear.md, (AL.12)). The contour

$$x(p)=\frac{X}{1-\sin(-\frac\pi4-ip)}-a$$

winds around $[0,x_{\max}]$ at 45 degrees on a logarithmic scale, so that points are evenly spread over all times at once. Its family covers the strip
between the spectrum and the circle on $[-a,X-a]$, on which filters $e^{-x\tau}$ and $(1-\eta sx)^n$ stay bounded: the trapezoidal rule converges
exponentially in the number of points for each decade.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Complex, Float

# The trapezoidal rule leaves exp(-2 pi (pi / 4) / SPACING) = 1e-12 relative to the integral of the modulus.
SPACING = 0.18
ANGLE = -0.25 * np.pi
# Behind TURN, where |x + a| is about a / 4, the points run into the end double exponentially; ENDING later nothing is left.
TURN = 1.5
ENDING = 3.6
# Points come in multiples of this, so that few programs are compiled.
MULTIPLE = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Contour:
    r"""Points below the real axis, so that $z=-x$ lies above it, and weights.

    Attributes:
        x: the points, from the large end to the small one.
        weight: $\omega_j$ with $\frac1{2\pi i}\oint h\,dx=\mathrm{Re}\sum_j\omega_jh(x_j)$ for functions real on the real axis.
        inner: $a$, how far left of zero the contour closes.
    """

    x: Complex[np.ndarray, " point"]
    weight: Complex[np.ndarray, " point"]
    inner: float

    def integrate(self, values) -> Float[np.ndarray, "*batch"]:
        """The integral of functions given at the points (last axis)."""
        return np.real(np.asarray(values) @ self.weight)


@functools.lru_cache(maxsize=32)
def contour(largest: float, inner: float, spacing: float = SPACING, least: int = 0) -> Contour:
    r"""The contour around $[0,\text{largest}]$.

    Args:
        largest: $x_{\max}$, the upper end of the spectrum, or a little more.
        inner: the largest $a$ allowed; filters of length $\tau$ need $a\tau\lesssim1$.
        spacing: of the points in $\log x$.
        least: smallest number of points; more than are needed reach further in.
    """
    reach = 2.0 * largest
    needed = (np.log(2.0 * reach / inner) + TURN + ENDING) / spacing
    count = max(MULTIPLE * int(np.ceil(needed / MULTIPLE)), least)
    turn = count * spacing - ENDING
    inner = 2.0 * reach * np.exp(TURN - turn)
    q = (np.arange(count) + 0.5) * spacing
    # Odd in q, so that both halves join smoothly.
    start = 2.0 * np.exp(-turn)
    p, speed = q + start * np.sinh(q), 1.0 + start * np.cosh(q)
    below = 1.0 - np.sin(ANGLE - 1j * p)
    slope = -1j * reach * np.cos(ANGLE - 1j * p) / below**2 * speed
    return Contour(reach / below - inner, 1j * spacing / np.pi * slope, float(inner))
