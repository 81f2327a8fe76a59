r"""Averages over the density of one neuron by particles that follow the tilt.

A neuron sees the training inputs through coordinates $w\in\mathbb R^r$ ($r$ the rank of the inputs), $h=Uw$ with $UU^\top=C$.
Its density is $p(w)\propto\exp\big(-\frac12|w|^2+\frac{\gamma^2}2\sum_k(a_k\cdot\varphi(Uw))^2\big)$ (AK.4). When $a$ moves, the
particles are reweighted, resampled and moved by Hamiltonian Monte Carlo; a step of $a$ is no longer than leaves half of the
effective sample size. Drawing from the prior instead fails: its weights have no variance once the tilt doubles a variance.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from foretrain.limits.bayesian._activations import activation_named

MOVES, LEAPS = 6, 8
# Acceptance that the step of the moves is adapted to, the effective sample size that a step of `a` must leave.
ACCEPTANCE, SHARE = 0.8, 0.5
_BISECTIONS = 25
# How close to the border of the domain, where the density cannot be normalized, a step may come: gamma^2 s^2 of a far neuron.
_INSIDE = 0.995
_ROUNDING = 1e-13


class Step(NamedTuple):
    """A Newton step of (AK.5) and what it was made from.

    `length` is the longest part of it, at most 1, that leaves `SHARE` of the effective sample size and stays inside the domain as far
    as the particles see it.
    """

    direction: Float[Array, "samples outputs"]
    length: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    kernel: Float[Array, "samples samples"]
    features: Float[Array, "particles samples"]


@functools.partial(jax.jit, static_argnames=("activation",))
def newton_step(
    w: Float[Array, "particles rank"],
    a: Float[Array, "samples outputs"],
    u: Float[Array, "samples rank"],
    y: Float[Array, "samples outputs"],
    tilt: Float[Array, ""],
    ridge: Float[Array, ""],
    *,
    activation: str,
) -> Step:
    r"""Newton's direction for the convex function of $a$, from averages over the particles.

    Args:
        w: Particles.
        a: Dual coefficients.
        u: Square root of the Gram matrix of the inputs.
        y: Targets.
        tilt: $\gamma^2$.
        ridge: $1/\beta$.
        activation: Name of $\varphi$.
    """
    nonlinear = activation_named(activation, "newton_step")
    count = w.shape[0]
    h = w @ u.T
    phi = nonlinear.value(h)
    s = phi @ a
    kernel = phi.T @ phi / count
    first = phi.T @ s / count
    gradient = first + ridge * a - y

    def hessian(v: Array) -> Array:
        moved = phi @ v
        pull = jnp.sum(moved * s, axis=1)
        spread = phi.T @ (pull[:, None] * s) / count - first * jnp.sum(first * v)
        return phi.T @ moved / count + ridge * v + tilt * spread

    floor = ridge + _ROUNDING * jnp.trace(kernel)
    factor = jnp.linalg.cholesky(kernel + floor * jnp.eye(len(kernel)))
    direction, _ = jax.scipy.sparse.linalg.cg(
        hessian, -gradient, M=lambda r: jax.scipy.linalg.cho_solve((factor, True), r), maxiter=100, tol=1e-6
    )
    change = phi @ direction

    def share(length: Array) -> Array:
        weight = jnp.exp(_log_weights(s, change, length, tilt))
        return jnp.sum(weight) ** 2 / jnp.sum(weight**2) / count

    below, above = nonlinear.slopes
    far = jnp.where(h > 0, above, below) * h / jnp.linalg.norm(w, axis=1, keepdims=True)
    far_s, far_change = far @ a, far @ direction

    def allowed(length: Array) -> Array:
        reach = tilt * jnp.max(jnp.sum((far_s + length * far_change) ** 2, axis=1))
        return (share(length) >= SHARE) & (reach <= _INSIDE)

    def halve(bounds: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        middle = 0.5 * (bounds[0] + bounds[1])
        good = allowed(middle)
        return (jnp.where(good, middle, bounds[0]), jnp.where(good, bounds[1], middle)), None

    one = jnp.ones(())
    (low, _), _ = jax.lax.scan(halve, (jnp.zeros(()), one), None, length=_BISECTIONS)
    length = jnp.where(allowed(one), one, low)
    return Step(direction, length, jnp.linalg.norm(gradient), kernel, phi)


def _log_weights(
    s: Float[Array, "particles outputs"], change: Float[Array, "particles outputs"], length: Array, tilt: Array
) -> Float[Array, " particles"]:
    """Logarithms of the weights after a step of `a`, up to a constant; the largest is 0."""
    log = 0.5 * tilt * jnp.sum((s + length * change) ** 2 - s**2, axis=1)
    return log - jnp.max(log)


@functools.partial(jax.jit, static_argnames=("activation",))
def follow(
    key: PRNGKeyArray,
    w: Float[Array, "particles rank"],
    step: Step,
    a: Float[Array, "samples outputs"],
    length: Float[Array, ""],
    u: Float[Array, "samples rank"],
    tilt: Float[Array, ""],
    size: Float[Array, ""],
    *,
    activation: str,
) -> tuple[Array, Array, Array, Array]:
    """Particles of the density at `a + length * step.direction`.

    Args:
        key: Random key.
        w: Particles of the density at `a`.
        step: What `newton_step` returned for them.
        a: Dual coefficients before the step.
        length: How much of the step is taken.
        u: Square root of the Gram matrix.
        tilt: $\\gamma^2$.
        size: Step of the leapfrog integrator.
        activation: Name of the activation.

    Returns:
        The particles, the adapted size of the leapfrog step, the share of accepted moves, the share of the effective sample size.
    """
    nonlinear = activation_named(activation, "follow")
    count = w.shape[0]
    draw, move_key = jax.random.split(key)
    weight = jnp.exp(_log_weights(step.features @ a, step.features @ step.direction, length, tilt))
    total = jnp.sum(weight)
    share = total**2 / jnp.sum(weight**2) / count
    # Systematic resampling: one uniform number, equally spaced quantiles.
    quantiles = (jax.random.uniform(draw) + jnp.arange(count)) / count
    chosen = jnp.clip(jnp.searchsorted(jnp.cumsum(weight) / total, quantiles), 0, count - 1)
    target = a + length * step.direction

    def log_density(w: Array) -> tuple[Array, Array]:
        h = w @ u.T
        s = nonlinear.value(h) @ target
        slope = -w + tilt * ((s @ target.T) * nonlinear.slope(h)) @ u
        return -0.5 * jnp.sum(w * w, axis=1) + 0.5 * tilt * jnp.sum(s * s, axis=1), slope

    def leap(_: Any, state: tuple[Array, ...]) -> tuple[Array, ...]:
        w, p, _, slope, size = state
        p = p + 0.5 * size * slope
        w = w + size * p
        log, slope = log_density(w)
        return w, p + 0.5 * size * slope, log, slope, size

    def move(state: tuple[Array, ...], key: Array) -> tuple[tuple[Array, ...], Array]:
        w, log, slope, size = state
        push, coin = jax.random.split(key)
        p = jax.random.normal(push, w.shape)
        new, q, new_log, new_slope, _ = jax.lax.fori_loop(0, LEAPS, leap, (w, p, log, slope, size))
        ratio = new_log - log - 0.5 * jnp.sum(q * q, axis=1) + 0.5 * jnp.sum(p * p, axis=1)
        accepted = jnp.log(jax.random.uniform(coin, (count,))) < ratio
        rate = jnp.mean(accepted)
        keep = (jnp.where(accepted[:, None], new, w), jnp.where(accepted, new_log, log))
        slope = jnp.where(accepted[:, None], new_slope, slope)
        return (*keep, slope, size * jnp.exp(0.5 * (rate - ACCEPTANCE))), rate

    start = w[chosen]
    (moved, _, _, size), rates = jax.lax.scan(
        move, (start, *log_density(start), size), jax.random.split(move_key, MOVES)
    )
    return moved, size, jnp.mean(rates), share


@functools.partial(jax.jit, static_argnames=("activation",))
def test_kernel(
    w: Float[Array, "particles rank"],
    features: Float[Array, "particles samples"],
    coordinates: Float[Array, "test_samples rank"],
    rest: Float[Array, " test_samples"],
    *,
    activation: str,
) -> Float[Array, "test_samples samples"]:
    """Averages of the product of features at test and training inputs.

    Args:
        w: Particles.
        features: Theirs at the training inputs.
        coordinates: Test inputs in the coordinates of the particles.
        rest: Variance of the preactivation at each test input that lies outside the span of the training inputs.
        activation: Name of the activation.
    """
    smoothed = activation_named(activation, "test_kernel").smoothed
    return smoothed(w @ coordinates.T, rest[None, :]).T @ features / w.shape[0]
