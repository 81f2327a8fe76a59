r"""The resolvent engine: one-point and two-point functions of random-feature regression at single points.

With $F=\frac1NA^\top A$ and $\hat\Sigma=\frac1P\Psi^\top\Psi$, averages over features and data of products of resolvents
$(z+F\hat\Sigma)^{-1}$ become deterministic functions of a spectrum (docs/theory/random-features.md; arXiv:2402.01092,
arXiv:2502.05074). Everything else in this package is a contour integral of these.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex

from foretrain.errors import InvalidInput
from foretrain.limits._compile import compiled
from foretrain.limits.linear._edge import level_roots, spectral_edge
from foretrain.limits.linear._kappa import follow_rays, ridge_kappa
from foretrain.limits.linear._measure import SpectralMeasure, node_size
from foretrain.limits.linear._pairs import SHARES, correlation


@dataclasses.dataclass(frozen=True, eq=False)
class OnePoint:
    r"""One-point functions at $z$.

    Attributes:
        z: the points.
        kappa: $\kappa(z)$.
        df1: degrees of freedom $\sum_k\lambda_k/(\lambda_k+\kappa)$.
        R1: $1-\mathrm{df}_1/P$, response of the residuals; $\frac1P\mathrm{tr}(z+\frac1P\Psi F\Psi^\top)^{-1}=R_1/z$.
        R3: $1-\mathrm{df}_1/N$, response of the features.
        residual: $|\kappa R_1R_3-z|/\max(|z|,|\kappa|)$, what the solver left.
    """

    z: Complex[np.ndarray, "*point"]
    kappa: Complex[np.ndarray, "*point"]
    df1: Complex[np.ndarray, "*point"]
    R1: Complex[np.ndarray, "*point"]
    R3: Complex[np.ndarray, "*point"]
    residual: np.ndarray

    def resolvent(self, eigenvalues) -> Complex[np.ndarray, "*point mode"]:
        r"""$H_k(z)=\frac1{z+\lambda_kR_1R_3}$, the mean resolvent in each eigendirection."""
        rate = (self.R1 * self.R3)[..., None]
        return 1.0 / (self.z[..., None] + np.asarray(eigenvalues) * rate)


@dataclasses.dataclass(frozen=True, eq=False)
class TwoPoint:
    r"""Two-point functions at $(z,z')$: double Laplace transforms of correlations of the remaining error $v$.

    Attributes:
        C0: of $\sum_k\lambda_k\langle v_k(t)v_k(t')\rangle$: inverts to the test loss.
        C1: of the residuals on the training set, $R_1R_1'(C_0+\sigma^2/zz')$: inverts to the train loss.
        C2: of $\langle\hat\Sigma v\cdot\hat\Sigma v'\rangle$, label noise included.
        shares: $C_0$ of pairs of predictors that share only some randomness: `both` ($=C_0$), `data`, `features`, `none`.
    """

    C0: np.ndarray
    C1: np.ndarray
    C2: np.ndarray
    shares: dict[str, np.ndarray]


def one_point(measure: SpectralMeasure, z, width, samples) -> OnePoint:
    r"""$\kappa$, $\mathrm{df}_1$, $R_1$, $R_3$ at points $z$ off the spectrum.

    $z=\kappa R_1R_3$. Complex points lie anywhere off the real axis; real points are either $\ge0$ (a ridge; 0 is the end
    of training) or left of the spectrum, $z<-u_{\max}$.

    Args:
        measure: the spectrum.
        z: a point or an array of points.
        width: $N$, `inf` allowed.
        samples: $P$, `inf` allowed.

    Returns:
        The functions at these points, NumPy arrays of the shape of `z`.

    Raises:
        InvalidInput: a real point on the spectrum, where the functions have a cut.

    Example:
        >>> import numpy as np
        >>> from foretrain.limits.linear import one_point, spectral_measure
        >>> point = one_point(spectral_measure([1.0], [1.0]), 0.5, np.inf, 1.0)
        >>> float(np.round(point.kappa.real * (1 - 1 / (1 + point.kappa.real)), 12))
        0.5
    """
    points: Any = np.asarray(z, complex)
    flat = points.ravel()
    kappa = np.empty_like(flat)
    inv_n, inv_p = 1.0 / float(width), 1.0 / float(samples)
    real, right = flat.imag == 0, (flat.imag == 0) & (flat.real >= 0)
    left = real & ~right
    with jax.enable_x64(True):
        nodes = jax.tree.map(np.asarray, measure.pad(node_size(measure.nodes)))
        if np.any(right):
            kappa[right] = _padded(_on_ridge, nodes, flat[right].real, inv_n, inv_p)[0]
        if np.any(~real):
            upper = flat[~real].real + 1j * np.abs(flat[~real].imag)
            found = kappa_above_spectrum(nodes, upper, inv_n, inv_p)
            kappa[~real] = np.where(flat[~real].imag > 0, found, np.conj(found))
    if np.any(left):
        kappa[left] = _left_of_spectrum(measure, flat[left].real, inv_n, inv_p)
    # Directions that training inputs do not show would divide by zero at kappa = 0.
    live = np.asarray(measure.trace) != 0
    lam, trace = np.asarray(measure.eigenvalues)[live], np.asarray(measure.trace)[live]
    df1 = (1.0 / (lam + kappa[:, None])) @ trace
    r1, r3 = 1.0 - inv_p * df1, 1.0 - inv_n * df1
    with np.errstate(divide="ignore", invalid="ignore"):
        left_over = np.abs(kappa * r1 * r3 - flat) / np.maximum(np.abs(flat), np.abs(kappa))
        residual = np.where(kappa == 0, 0.0, left_over)
        # The smaller factor from the product: it keeps its digits where it vanishes.
        if inv_p > inv_n:
            r1 = np.where(kappa == 0, r1, flat / (kappa * r3))
        else:
            r3 = np.where(kappa == 0, r3, flat / (kappa * r1))
    parts = (part.reshape(points.shape) for part in (flat, kappa, df1, r1, r3, residual))
    return OnePoint(*parts)


@compiled
def _on_ridge(measure, ridges, inv_n, inv_p):
    return (jax.vmap(lambda ridge: ridge_kappa(measure, ridge, inv_n, inv_p))(ridges),)


@compiled
def _on_paths(measure, path, inv_n, inv_p):
    """Every point on a path of its own."""
    kappa, good = jax.vmap(lambda rows: follow_rays(measure, rows[:, None], inv_n, inv_p), 1)(path)
    return kappa[:, -1, 0], jnp.all(good, 1)


def kappa_above_spectrum(
    measure: SpectralMeasure, z: Complex[np.ndarray, " point"], inv_width: float, inv_samples: float
) -> Complex[np.ndarray, " point"]:
    r"""$\kappa$ at any points of the upper half plane, NaN where it could not be followed; inside 64-bit mode.

    A ray close to the negative axis passes the ends of the spectrum's bands, where branches meet. So points above the spectrum
    are reached from above.

    Args:
        measure: the spectrum, padded.
        z: the points.
        inv_width: $1/N$.
        inv_samples: $1/P$.
    """
    across, above = np.real(z), np.imag(z)
    height = np.maximum(above, np.where(across < 0, -across, 0.0))
    descents = int(np.ceil(np.log2(np.max(height / above))))
    # Paths come in few lengths, so that few programs are compiled.
    rows = next((count for count in (1, 16, 64) if count > descents), descents + 1)
    path = across + 1j * np.maximum(above, height * 0.5 ** np.arange(rows)[:, None])
    path[-1] = z
    kappa, good = _padded(_on_paths, measure, path, inv_width, inv_samples)
    return np.where(good, kappa, np.nan)


def _padded(program, measure, points, inv_n, inv_p):
    """Runs a program on a power of two of points (the last axis), so that few sizes are ever compiled."""
    count = points.shape[-1]
    extra = max(16, 1 << (count - 1).bit_length()) - count
    results = program(measure, np.pad(points, [(0, 0)] * (points.ndim - 1) + [(0, extra)], mode="edge"), inv_n, inv_p)
    return [np.asarray(part)[:count] for part in results]


def _left_of_spectrum(measure, z, inv_n, inv_p):
    """Real kappa < -lambda_1 for z below minus the edge."""
    column = np.ones((z.size, 1))
    y = level_roots(measure, -z, inv_n * column, inv_p * column)
    if np.any(np.isnan(y)):
        with np.errstate(divide="ignore"):
            edge = float(spectral_edge(measure, np.divide(1.0, inv_n), np.divide(1.0, inv_p)))
        raise InvalidInput(
            f"one_point(z): expected points off the spectrum [-{edge:.6g}, 0), got {z[np.isnan(y)][0]:g}; "
            "add an imaginary part, or go left of the edge."
        )
    return -float(np.max(np.asarray(measure.eigenvalues))) * (1.0 + np.exp(y))


def two_point(measure: SpectralMeasure, z, z2, width, samples, noise=0.0) -> TwoPoint:
    r"""$C_0$, $C_1$, $C_2$ and the shares of $C_0$ at pairs of points.

    The deterministic equivalents of products of two resolvents, contracted with the target; label noise included. Ridge
    regression at ridge $\mu$ has the test loss $\mu^2C_0(\mu,\mu)$.

    Args:
        measure: the spectrum and target.
        z: first points, see `one_point`; nonzero.
        z2: second points; broadcasts against `z`.
        width: $N$, `inf` allowed.
        samples: $P$, `inf` allowed.
        noise: variance of the label noise.

    Returns:
        The functions, complex NumPy arrays of the broadcast shape.

    Example:
        >>> import numpy as np
        >>> from foretrain.limits.linear import spectral_measure, two_point
        >>> pair = two_point(spectral_measure([1.0, 0.5], [1.0, 1.0]), 0.1, 0.1, np.inf, np.inf)
        >>> bool(np.isclose(pair.C0.real, 1 / 1.1**2 + 0.5 / 0.6**2))
        True
    """
    z, z2 = np.asarray(z, complex), np.asarray(z2, complex)
    if np.any(z == 0) or np.any(z2 == 0):
        raise InvalidInput("two_point(z): expected nonzero points, got 0; for the end of training use ridge_losses.")
    left, right = one_point(measure, z, width, samples), one_point(measure, z2, width, samples)
    inv_n, inv_p = 1.0 / float(width), 1.0 / float(samples)
    a1 = (1.0 / (np.asarray(measure.eigenvalues) + left.kappa[..., None])) @ np.asarray(measure.signal)
    s, a = _pair_sums(measure, left.kappa, right.kappa)
    s2, e = left.df1 - right.kappa * s, a1 - right.kappa * a
    shares = {
        share: correlation(share, left.kappa, right.kappa, left.df1, s, a, a1, inv_n, inv_p, noise) / (z * z2)
        for share in SHARES
    }
    c0 = shares["both"]
    c1 = left.R1 * right.R1 * (c0 + noise / (z * z2))
    # Second line of the 2x2 system, with H = kappa u / z.
    hh = left.kappa * right.kappa / (z * z2)
    source = left.R1 * right.R1 * hh * (e + inv_p * noise * s)
    c2 = (source + inv_p * z * z2 * left.R1 * right.R1 * hh * s * c0) / (1.0 - inv_n * s2)
    return TwoPoint(c0, c1, c2, shares)


def _pair_sums(measure, kappa, kappa_):
    """Sums of the trace and of the signal measure over 1 / ((lambda + kappa)(lambda + kappa'))."""
    lam = np.asarray(measure.eigenvalues)
    u, u_ = 1.0 / (lam + kappa[..., None]), 1.0 / (lam + kappa_[..., None])
    # Contracted pair by pair: the array of all pairs and nodes never exists.
    return tuple(np.einsum("...j,...j->...", u * np.asarray(w), u_) for w in (measure.trace, measure.signal))
