r"""The end of training and ridge regression: losses without a contour."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from foretrain._precision import require_x64
from foretrain.limits._compile import compiled
from foretrain.limits.linear._kappa import inverse_size, ridge_kappa
from foretrain.limits.linear._measure import SpectralMeasure
from foretrain.limits.linear._pairs import ShiftSums, correlation, shifted_correlation


def ridge_losses(measure: SpectralMeasure, ridge, width, samples, noise: Any = 0.0, shares=("both",)):
    r"""Test and train loss of the minimizer of $\frac1P|y-f|^2+\text{ridge}\,|W|^2$; differentiable.

    With $\kappa$ at $z=\mu$ (the ridge), $\mathcal L=\mu^2C_0(\mu,\mu)$ and
    $\hat{\mathcal L}=R_1(\mu)^2(\mathcal L+\sigma^2)$, the generalized cross-validation identity (docs/theory/random-features.md,
    static limit). Zero ridge is the end of gradient flow from $W=0$, the minimum-norm solution; there
    $\mathrm{df}_1(\kappa)=\min(N,P)$, or $\kappa=0$ if there are no more modes than that, and $N=P$ gives `inf`.

    Args:
        measure: the spectrum.
        ridge: $\mu\ge0$, per sample.
        width: $N$, `inf` allowed.
        samples: $P$, `inf` allowed.
        noise: variance of the label noise.
        shares: pairs of predictors, see `two_point`.

    Returns:
        Array (2, share): test losses, then train losses.

    Example:
        >>> import jax
        >>> import numpy as np
        >>> from foretrain.limits.linear import ridge_losses, spectral_measure
        >>> measure = spectral_measure([1.0], [1.0], [100.0])  # 100 isotropic modes
        >>> with jax.enable_x64(True):
        ...     test, train = ridge_losses(measure, 0.0, np.inf, 200.0, noise=1.0)[:, 0]
        >>> float(np.round(test, 12)), float(np.round(train, 12))  # M / (P - M) and 1 - M / P
        (1.0, 0.5)
    """
    require_x64("ridge_losses")
    sizes = (inverse_size(jnp.asarray(size, float)) for size in (width, samples))
    measure = jax.tree.map(jnp.asarray, measure)
    return _ridge_losses(measure, jnp.asarray(ridge, float), *sizes, jnp.asarray(noise, float), tuple(shares))


@partial(jax.jit, static_argnames="shares")
def _ridge_losses(measure, ridge, inv_n, inv_p, noise, shares):
    # Beyond 1e100 nothing is learned in double precision, and squares would overflow.
    ridge = jnp.minimum(ridge, 1e100)
    kappa = ridge_kappa(measure, ridge, inv_n, inv_p)
    total = measure.eigenvalues + kappa
    # Directions that training inputs do not show have a zero total at kappa = 0, and no weight in these sums.
    u = jnp.where(total > 0.0, 1.0 / jnp.where(total > 0.0, total, 1.0), 0.0)
    df1, a1 = jnp.sum(measure.trace * u), jnp.sum(measure.signal * u)
    s, a = jnp.sum(measure.trace * u * u), jnp.sum(measure.signal * u * u)
    peak = (ridge == 0.0) & (inv_n == inv_p) & (kappa > 0.0)
    r1, r3 = 1.0 - inv_p * df1, 1.0 - inv_n * df1
    safe = jnp.where(kappa * r3 > 0.0, kappa * r3, 1.0)
    r1 = jnp.where((inv_p > inv_n) & (kappa > 0.0), ridge / safe, r1)
    sums = None if measure.shift is None else _shift_sums(measure, kappa, u)
    test, train = [], []
    for share in shares:
        loss = correlation(share, kappa, kappa, df1, s, a, a1, inv_n, inv_p, noise)
        # Exactly as many modes as samples, or as features: the noise-free loss is zero and noise diverges.
        critical = (kappa == 0.0) & (jnp.maximum(inv_p, inv_n) * df1 > 1.0 - 1e-12)
        hit = critical & (inv_p >= inv_n)
        loss = jnp.where(hit, jnp.where((noise > 0.0) & (share in ("both", "data")), jnp.inf, 0.0), loss)
        loss = jnp.where(critical & ~hit, inv_p * df1 * noise / (1.0 - inv_p * df1) * (share in ("both", "data")), loss)
        if share == "both":
            loss = jnp.where(peak, jnp.inf, loss)
        if sums is None:
            test.append(loss)
        else:
            common = (df1, kappa, s, a, a1, inv_n, inv_p, noise)
            moved = shifted_correlation(share, jnp.where(jnp.isinf(loss), 0.0, loss), sums, *common)
            test.append(jnp.where(jnp.isinf(loss), jnp.inf, moved))
        seen = r1 * r1 * (loss + noise)
        train.append(jnp.where(jnp.isinf(loss), jnp.where(hit | (inv_p >= inv_n), 0.0, jnp.inf), seen))
    return jnp.stack([jnp.stack(test), jnp.stack(train)])


def _shift_sums(measure: SpectralMeasure, kappa, u) -> ShiftSums:
    # What is left of a direction that training inputs do not show is all of it.
    left = jnp.where(measure.eigenvalues > 0.0, kappa * u, 1.0)
    q, signal = jnp.asarray(measure.shift), jnp.asarray(measure.shift_signal)
    return ShiftSums(jnp.sum(signal * left * left), jnp.sum(q * left * left), jnp.sum(q * measure.eigenvalues * u * u))


@partial(compiled, static=("shares",))
def ridge_program(measure, ridge, inv_n, inv_p, noise, shares) -> jax.Array:
    """`ridge_losses` for a batch of ridges, sizes and noises: shape (problem, 2, share)."""
    one = partial(_ridge_losses, shares=shares)
    return jax.vmap(one, (None, 0, 0, 0, 0))(measure, ridge, inv_n, inv_p, noise)


def initial_losses(measure: SpectralMeasure, noise, shares=("both",)) -> jax.Array:
    """Losses before training, exact: the power of the target on test inputs, and on training inputs plus the noise."""
    start = (measure.initial_loss, jnp.sum(measure.signal) + noise)
    return jnp.stack([jnp.full(len(shares), loss) for loss in start])
