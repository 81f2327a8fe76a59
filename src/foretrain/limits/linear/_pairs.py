r"""Two-point functions on pairs of contour points, from which losses are quadratic forms.

For two points with roots $\kappa,\kappa'$ put $S=\sum_k\frac{\lambda_k}{(\lambda_k+\kappa)(\lambda_k+\kappa')}$,
$A=\sum_k\frac{\lambda_kw_k^{\star2}}{(\lambda_k+\kappa)(\lambda_k+\kappa')}$, $E$ the same with $\lambda_k^2w_k^{\star2}$,
$\gamma_P=\frac1P\sum_k\frac{\lambda_k^2}{(\lambda_k+\kappa)(\lambda_k+\kappa')}$ and $\gamma_N=\frac PN\gamma_P$. Solving the
2x2 system of the two-point functions (docs/theory/random-features.md; arXiv:2402.01092) gives

$$zz'C_0=\frac{(1-\gamma_N)(\kappa\kappa'A+\gamma_P\sigma^2)+\frac{\kappa\kappa'S}N\big(E+\frac{\sigma^2S}P\big)}
  {(1-\gamma_P)(1-\gamma_N)-\frac{\kappa\kappa'S^2}{NP}},\qquad zz'C_1=R_1R_1'\big(zz'C_0+\sigma^2\big).$$

No $z$ appears on the right, so the end of training is not a special case. The sums with one more power of $\lambda$ are
$\sum\lambda^2uu'=\mathrm{df}_1-\kappa'S$: that costs digits only where $\kappa\gg\lambda_1$, and there they multiply small
couplings. (The divided difference $S=-(\mathrm{df}_1-\mathrm{df}_1')/(\kappa-\kappa')$ would lose every digit at late times.)

For test inputs with mean squares $q_k$ of their own (covariate shift; docs/theory/sgd.md, (SG.7); arXiv:2502.05074)

$$zz'C_0^q=\kappa\kappa'\sum_kq_kw_k^{\star2}u_ku_k'+\frac{zz'C_0+\sigma^2}P\sum_kq_k\lambda_ku_ku_k'
  +\frac{E+S\,(zz'C_0+\sigma^2)/P}{N(1-\gamma_N)}\,\kappa\kappa'\sum_kq_ku_ku_k',\qquad u_k=\frac1{\lambda_k+\kappa}.$$
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from foretrain.limits.linear._measure import SpectralMeasure

SHARES = ("both", "data", "features", "none")
r"""What two predictors share: with `both` the pair is one model; `data` are two models on one data set; `features` one
random projection trained on two data sets; `none` two independent models."""


def correlation(share, kappa, kappa_, df1, s, a, a1, inv_width, inv_samples, noise):
    """$zz'C_0$ for one kind of pair; all arguments broadcast.

    Args:
        share: one of `SHARES`; couplings through what is not shared drop out.
        kappa: first root.
        kappa_: second root.
        df1: degrees of freedom at the first root.
        s: pair sum of the trace measure.
        a: pair sum of the signal measure.
        a1: single sum of the signal measure at the first root.
        inv_width: 1/N.
        inv_samples: 1/P.
        noise: variance of the label noise.
    """
    product = kappa * kappa_
    bias = product * a
    if share == "none":
        return bias
    s2 = df1 - kappa_ * s
    if share == "data":
        gamma = inv_samples * s2
        return (bias + gamma * noise) / (1.0 - gamma)
    coupling = inv_width * product * s
    rest = 1.0 - inv_width * s2
    e = a1 - kappa_ * a
    if share == "features":
        return bias + coupling * e / rest
    gamma = inv_samples * s2
    numerator = rest * (bias + gamma * noise) + coupling * (e + inv_samples * noise * s)
    return numerator / ((1.0 - gamma) * rest - inv_samples * coupling * s)


class ShiftSums(NamedTuple):
    r"""Pair sums of the test inputs' own measure: $\kappa\kappa'\sum qw^{\star2}uu'$, $\kappa\kappa'\sum quu'$, $\sum q\lambda uu'$."""

    signal: jax.Array
    trace: jax.Array
    seen: jax.Array


def shifted_correlation(share, correlation, sums: ShiftSums, df1, kappa_, s, a, a1, inv_width, inv_samples, noise):
    r"""$zz'C_0^q$, what `correlation` becomes on test inputs with mean squares of their own.

    Args:
        share: one of `SHARES`.
        correlation: $zz'C_0$ of the same share.
        sums: pair sums of the test inputs.
        df1: as for `correlation`, like the other arguments.
        kappa_: second root.
        s: pair sum of the trace measure.
        a: pair sum of the signal measure.
        a1: single sum of the signal measure at the first root.
        inv_width: 1/N.
        inv_samples: 1/P.
        noise: variance of the label noise.
    """
    result = sums.signal
    reused = inv_samples * (correlation + noise)
    if share in ("both", "data"):
        result = result + reused * sums.seen
    if share in ("both", "features"):
        source = a1 - kappa_ * a + (reused * s if share == "both" else 0.0)
        # As many features as modes leave no rest at the end of training, but nothing to couple to either.
        rest = jnp.where(sums.trace == 0.0, 1.0, 1.0 - inv_width * (df1 - kappa_ * s))
        result = result + inv_width * sums.trace * source / rest
    return result


class Points(NamedTuple):
    """Contour points with everything that depends on one of them only."""

    kappa: jax.Array
    real: jax.Array  # real part of 1 / (lambda + kappa), shape (point, node)
    imag: jax.Array
    df1: jax.Array
    a1: jax.Array
    r1: jax.Array


def points(measure: SpectralMeasure, kappa, z, inv_width, inv_samples) -> Points:
    """The single-point quantities at roots `kappa` of `z`, upper half plane."""
    shifted = measure.eigenvalues[None, :] + kappa.real[:, None]
    imag = kappa.imag[:, None]
    inverse = 1.0 / (shifted * shifted + imag * imag)
    re, im = shifted * inverse, -imag * inverse
    both = jnp.stack([measure.trace, measure.signal], 1)
    x, y = re @ both, im @ both
    df1, a1 = jax.lax.complex(x[:, 0], y[:, 0]), jax.lax.complex(x[:, 1], y[:, 1])
    r1, r3 = 1.0 - inv_samples * df1, 1.0 - inv_width * df1
    # The smaller factor comes from the product, which keeps its digits when it vanishes at late times.
    r1 = jnp.where(inv_samples > inv_width, z / (kappa * r3), r1)
    return Points(kappa, re, im, df1, a1, r1)


def pair_sums(weights, left: Points, right: Points):
    """Sums over nodes of `weights` / ((lambda + kappa)(lambda + kappa')), for kappa' and for its conjugate.

    One real matrix product; the result has shape (conjugate, left point, right point).
    """
    n, m = left.kappa.shape[0], right.kappa.shape[0]
    rows = jnp.concatenate([left.real, left.imag], 0) * weights[None, :]
    g = rows @ jnp.concatenate([right.real, right.imag], 0).T
    rr, ri, ir, ii = g[:n, :m], g[:n, m:], g[n:, :m], g[n:, m:]
    return jax.lax.complex(jnp.stack([rr - ii, rr + ii]), jnp.stack([ri + ir, ir - ri]))


def with_conjugate(x):
    """`x` and its conjugate along a new first axis."""
    return jnp.stack([x, jnp.conj(x)])


def quadratic_losses(measure, left: Points, right: Points, a, a_, inv_width, inv_samples, noise, shares=("both",)):
    r"""Losses $\sum_{ij}a_ia_j\,zz'C_0(z_i,z_j)$ and the same with $C_1$ over the points and their conjugates.

    Args:
        measure: the spectrum.
        left: points of the rows (the whole upper half of the contour, or a block of it).
        right: all points of the upper half.
        a: weights $w_i/z_i$ of the rows, shape (curve, row).
        a_: the same for all points, shape (curve, point).
        inv_width: 1/N.
        inv_samples: 1/P.
        noise: variance of the label noise.
        shares: which correlations; `train` comes with those that share the data.

    Returns:
        Real array (2, share, curve): test losses, then train losses.
    """
    s, signal = (pair_sums(w, left, right) for w in (measure.trace, measure.signal))
    kappa_ = with_conjugate(right.kappa)[:, None, :]
    sums = None if measure.shift is None else _shift_sums(measure, left, right, left.kappa[None, :, None] * kappa_)
    # Weights of the test and of the train form: (loss, curve, point).
    w, w_ = jnp.stack([a, a * left.r1[None]]), with_conjugate(jnp.stack([a_, a_ * right.r1[None]]))
    seen = noise * jnp.sum(w[1], -1) * jnp.sum(jnp.sum(w_[:, 1], -1), 0)
    forms = []
    for share in shares:
        common = (s, signal, left.a1[None, :, None], inv_width, inv_samples, noise)
        df1 = left.df1[None, :, None]
        d = correlation(share, left.kappa[None, :, None], kappa_, df1, *common)
        if sums is None:
            form = 2.0 * jnp.sum(w * jnp.einsum("cnm,clkm->lkn", d, w_), -1).real
        else:
            both = jnp.stack([shifted_correlation(share, d, sums, df1, kappa_, *common), d])
            form = 2.0 * jnp.sum(w * jnp.einsum("lcnm,clkm->lkn", both, w_), -1).real
        forms.append(form.at[1].add(2.0 * seen.real))
    return jnp.stack(forms, 1)


def _shift_sums(measure: SpectralMeasure, left: Points, right: Points, product) -> ShiftSums:
    q = jnp.asarray(measure.shift)
    weights = (measure.shift_signal, q, q * measure.eigenvalues)
    signal, trace, seen = (pair_sums(weight, left, right) for weight in weights)
    return ShiftSums(product * signal, product * trace, seen)
