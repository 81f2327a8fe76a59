"""The compiled programs behind learning curves: open contours along time, and tiles of closed contours.

Buffers come in a few fixed sizes and the loops run to a count that is data, so that curves of any length, spectra of any
size and sweeps reuse the same few programs.
"""

from functools import partial

import jax
import jax.numpy as jnp

from foretrain.limits._compile import compiled
from foretrain.limits.linear._kappa import advance, begin, follow_rays, implicit_kappa
from foretrain.limits.linear._measure import SpectralMeasure
from foretrain.limits.linear._pairs import points, quadratic_losses


def _open_row(measure, kappa, z, a, inv_width, inv_samples, noise, shares):
    here = points(measure, kappa, z, inv_width, inv_samples)
    return quadratic_losses(measure, here, here, a[None], a[None], inv_width, inv_samples, noise, shares)[..., 0]


@partial(compiled, static=("shares",))
def open_program(measure: SpectralMeasure, z, a, inv_width, inv_samples, noise, count, shares):
    """Losses on open contours for a batch of problems.

    Args:
        measure: one spectrum for all.
        z: points, shape (problem, time, point); rows follow one another along rays.
        a: weights, same shape.
        inv_width: one per problem.
        inv_samples: one per problem.
        noise: one per problem.
        count: number of rows that are used, a traced integer.
        shares: see `quadratic_losses`.

    Returns:
        Losses (problem, 2, share, time) and flags (problem, time); rows beyond `count` are zero and False.
    """

    def one(z, a, inv_width, inv_samples, noise):
        rows = z.shape[0]
        kappas = jnp.zeros_like(z)
        good = jnp.zeros(rows, bool)

        def follow(i, state):
            track, kappas, good = state
            track, kappa, fine = advance(measure, track, z[i], inv_width, inv_samples)
            return track, kappas.at[i].set(kappa), good.at[i].set(fine)

        state = (begin(measure, z[0], inv_width, inv_samples), kappas, good)
        _, kappas, good = jax.lax.fori_loop(0, count, follow, state)

        def evaluate(i, losses):
            row = _open_row(measure, kappas[i], z[i], a[i], inv_width, inv_samples, noise, shares)
            return losses.at[..., i].set(row)

        losses = jnp.zeros((2, len(shares), rows), inv_width.dtype)
        return jax.lax.fori_loop(0, count, evaluate, losses), good

    return jax.vmap(one)(z, a, inv_width, inv_samples, noise)


@compiled
def closed_kappa(measure: SpectralMeasure, path, inv_width, inv_samples):
    """Roots at the last row of `path`, shape (row, point), and whether they can be trusted."""
    kappa, good = follow_rays(measure, path, inv_width, inv_samples)
    return kappa[-1], good[-1]


@partial(compiled, static=("shares",))
def closed_tile(measure, kappa, z, a, kappa_, z_, a_, inv_width, inv_samples, noise, shares):
    """The part of the quadratic forms of a closed contour that a pair of tiles of points contributes.

    Args:
        measure: the spectrum.
        kappa: roots of the first tile.
        z: its points.
        a: its weights, shape (time, point).
        kappa_: roots of the second tile.
        z_: its points.
        a_: its weights.
        inv_width: 1/N.
        inv_samples: 1/P.
        noise: variance of the label noise.
        shares: see `quadratic_losses`.
    """
    left = points(measure, kappa, z, inv_width, inv_samples)
    right = points(measure, kappa_, z_, inv_width, inv_samples)
    return quadratic_losses(measure, left, right, a, a_, inv_width, inv_samples, noise, shares)


@partial(jax.jit, static_argnames="shares")
def open_losses(measure, z, a, inv_width, inv_samples, noise, shares):
    """Differentiable losses of one problem on open contours: shape (2, share, time)."""
    kappas, good = follow_rays(measure, z, inv_width, inv_samples)

    # Recomputed in the backward pass: storing every pair of points for every time would take the memory.
    @jax.checkpoint
    def evaluate(row):
        kappa, z, a = row
        kappa = implicit_kappa(kappa, z, measure, inv_width, inv_samples)
        return _open_row(measure, kappa, z, a, inv_width, inv_samples, noise, shares)

    losses = jnp.moveaxis(jax.lax.map(evaluate, (kappas, jax.lax.stop_gradient(z), a)), 0, -1)
    return jnp.where(good[None, None], losses, jnp.nan)


@partial(jax.jit, static_argnames="shares")
def closed_losses(measure, path, a, inv_width, inv_samples, noise, shares):
    """Differentiable losses of one problem on one closed contour: shape (2, share, time)."""
    kappas, good = follow_rays(measure, path, inv_width, inv_samples)
    z = jax.lax.stop_gradient(path[-1])
    here = points(measure, implicit_kappa(kappas[-1], z, measure, inv_width, inv_samples), z, inv_width, inv_samples)
    losses = quadratic_losses(measure, here, here, a, a, inv_width, inv_samples, noise, shares)
    return jnp.where(good[-1], losses, jnp.nan)
