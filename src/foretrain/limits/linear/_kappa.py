r"""The renormalized ridge $\kappa(z)$, from which every average of the theory follows.

With $\mathrm{df}_1(\kappa)=\sum_k\lambda_k/(\lambda_k+\kappa)$, $\kappa$ solves (docs/theory/random-features.md, one-point
functions; arXiv:2402.01092)

$$z=\kappa\,R_1R_3,\qquad R_1=1-\mathrm{df}_1(\kappa)/P,\qquad R_3=1-\mathrm{df}_1(\kappa)/N .$$

Complex $z$ are reached along rays from $|z|\to\infty$, where $\kappa\simeq z+\mathrm{tr}\Lambda(1/N+1/P)$: nothing else
tells the physical branch from the others. The roots enter derivatives through the implicit function theorem, forward
and backward. The code works with $1/N$ and $1/P$, so infinite sizes are zeros and need no case of their own.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from foretrain.limits.linear._measure import SpectralMeasure

# A ray starts where |z| exceeds every scale of the problem by this factor.
FAR = 30.0
# Longest step of continuation in log z, and the relative Newton step that ends an iteration: convergence is quadratic,
# so a last step of 1e-7 leaves an error of order 1e-14.
LONGEST = 0.7
LAST_STEP = 1e-7
MAX_NEWTON = 12
SHORTEST = 1e-5


def _log(x):
    """Complex logarithm in real arithmetic: compiles several times faster than the library's."""
    return jax.lax.complex(0.5 * jnp.log(x.real * x.real + x.imag * x.imag), jnp.arctan2(x.imag, x.real))


def _exp(x):
    size = jnp.exp(x.real)
    return jax.lax.complex(size * jnp.cos(x.imag), size * jnp.sin(x.imag))


def _abs2(x):
    return x.real * x.real + x.imag * x.imag


def _reciprocal(x):
    """1 / x without the scaling that guards against overflow."""
    return jnp.conj(x) / _abs2(x)


def trace_sums(measure: SpectralMeasure, kappa):
    r"""$\mathrm{df}_1(\kappa)$ and its derivative for a vector of real or complex $\kappa$."""
    lam, trace = measure.eigenvalues, measure.trace
    if not jnp.iscomplexobj(kappa):
        u = 1.0 / (lam[None, :] + kappa[:, None])
        return u @ trace, -(u * u) @ trace
    # Real arithmetic: one real reciprocal per entry instead of a complex division.
    shifted = lam[None, :] + kappa.real[:, None]
    imag = kappa.imag[:, None]
    inverse = 1.0 / (shifted * shifted + imag * imag)
    re, im = shifted * inverse, -imag * inverse
    df1 = jax.lax.complex(re @ trace, im @ trace)
    slope = jax.lax.complex((re * re - im * im) @ trace, (2.0 * re * im) @ trace)
    return df1, -slope


def residual(measure: SpectralMeasure, kappa, z, inv_width, inv_samples):
    r"""$\kappa R_1R_3-z$ and its derivative in $\kappa$."""
    df1, slope = trace_sums(measure, kappa)
    r1, r3 = 1.0 - inv_samples * df1, 1.0 - inv_width * df1
    return kappa * r1 * r3 - z, r1 * r3 - kappa * slope * (inv_samples * r3 + inv_width * r1)


@jax.custom_jvp
def implicit_kappa(root, z, measure: SpectralMeasure, inv_width, inv_samples):
    """The root itself, with the derivatives that the implicit function theorem gives it."""
    return root


@implicit_kappa.defjvp
def _implicit_kappa_jvp(primals, tangents):
    root = implicit_kappa(*primals)
    _, change = jax.jvp(
        lambda z, measure, width, samples: residual(measure, root, z, width, samples)[0], primals[1:], tangents[1:]
    )
    slope = residual(primals[2], root, primals[1], *primals[3:])[1]
    return root, -change / slope


class Track(NamedTuple):
    """Where the continuation stands: the points on their rays, the roots, and how they move."""

    log_z: jax.Array
    log_kappa: jax.Array
    slope: jax.Array
    curvature: jax.Array


def _newton(measure, kappa, z, inv_width, inv_samples):
    """Damped Newton iterations that stay in the upper half plane; returns the root and d log kappa / d log z."""

    def unfinished(state):
        _, _, step, count = state
        return (step > LAST_STEP**2) & (count < MAX_NEWTON)

    def improve(state):
        kappa, _, _, count = state
        value, slope = residual(measure, kappa, z, inv_width, inv_samples)
        step = -value * _reciprocal(slope)
        size = jnp.max(_abs2(step) / _abs2(kappa))
        # A step that would leave the half plane is cut to half the distance to the axis; its full size counts.
        room = jnp.where(kappa.imag + step.imag <= 0.0, -0.5 * kappa.imag / jnp.minimum(step.imag, -1e-300), 1.0)
        kappa = kappa + step * room
        return kappa, z * _reciprocal(kappa * slope), size, count + 1

    start = (kappa, jnp.zeros_like(kappa), jnp.asarray(jnp.inf, kappa.real.dtype), 0)
    kappa, slope, step, _ = jax.lax.while_loop(unfinished, improve, start)
    return kappa, slope, step


def begin(measure: SpectralMeasure, z, inv_width, inv_samples) -> Track:
    """A track at the far end of the rays through `z` (upper half plane)."""
    total = jnp.sum(measure.trace) * (inv_width + inv_samples)
    scale = FAR * jnp.maximum(jnp.max(jnp.where(measure.trace != 0, measure.eigenvalues, 0.0)), total)
    far = z * jnp.maximum(1.0, scale / jnp.min(jnp.abs(z)))
    # kappa = z + total + O(1 / z): good to (1 / FAR)^2, which the first Newton iterations of the track repair.
    kappa = far + total
    return Track(_log(far), _log(kappa), far * _reciprocal(kappa), jnp.zeros_like(kappa))


def advance(measure: SpectralMeasure, track: Track, z, inv_width, inv_samples):
    """Follows the roots to new points `z`, in as many steps as it takes.

    Returns the new track, the roots, and whether every one of them converged on the physical branch.
    """
    target = _log(z)

    def unfinished(state):
        _, _, longest, _ = state
        return longest > 0.0

    def step(state):
        track, kappa, longest, error = state
        distance = target - track.log_z
        size = jnp.sqrt(jnp.max(_abs2(distance)))
        hopeless = longest < SHORTEST
        last = (size <= longest) | hopeless
        move = jnp.where(last, distance, distance * (longest / jnp.maximum(size, 1e-300)))
        guess = track.log_kappa + (track.slope + 0.5 * track.curvature * move) * move
        log_z = jnp.where(last, target, track.log_z + move)
        root, slope, newton = _newton(measure, _exp(guess), jnp.where(last, z, _exp(log_z)), inv_width, inv_samples)
        # On the physical branch Im kappa has the sign of Im z. A step that fails is tried again at a quarter of its
        # length; below SHORTEST the row is given up.
        fine = (newton <= LAST_STEP**2) & jnp.all(root.imag > 0.0)
        taken = fine | hopeless
        still = _abs2(move) < 1e-24
        curvature = jnp.where(still, track.curvature, (slope - track.slope) * _reciprocal(jnp.where(still, 1.0, move)))
        moved = Track(log_z, _log(root), slope, curvature)
        track = jax.tree.map(lambda new, old: jnp.where(taken, new, old), moved, track)
        longest = jnp.where(fine, jnp.minimum(2.0 * longest, LONGEST), 0.25 * longest)
        done = taken & last
        return track, jnp.where(taken, root, kappa), jnp.where(done, 0.0, longest), jnp.where(taken & ~fine, 1.0, error)

    real = z.real.dtype
    state = (track, _exp(track.log_kappa), jnp.asarray(LONGEST, real), jnp.asarray(0.0, real))
    track, kappa, _, error = jax.lax.while_loop(unfinished, step, state)
    return track, kappa, error == 0.0


def follow_rays(measure: SpectralMeasure, z, inv_width, inv_samples):
    r"""$\kappa$ on rows of points, each row reached from the row before.

    Args:
        measure: the spectrum.
        z: points in the open upper half plane, shape (row, point); neighbouring rows should be close.
        inv_width: $1/N$.
        inv_samples: $1/P$.

    Returns:
        The roots, shape (row, point), and one flag per row that says whether they can be trusted. No derivatives flow
        through here: see `implicit_kappa`.
    """
    measure, z, inv_width, inv_samples = jax.lax.stop_gradient((measure, z, inv_width, inv_samples))

    def row(track, z):
        track, kappa, good = advance(measure, track, z, inv_width, inv_samples)
        return track, (kappa, good)

    return jax.lax.scan(row, begin(measure, z[0], inv_width, inv_samples), z)[1]


def ridge_kappa(measure: SpectralMeasure, ridge, inv_width, inv_samples):
    r"""$\kappa$ for real $z=$ `ridge` $\ge0$; differentiable.

    At zero ridge it is the root of $\mathrm{df}_1(\kappa)=\min(N,P)$, or 0 if there are no more modes than that.
    """
    fixed, mu, inv_n, inv_p = jax.lax.stop_gradient((measure, jnp.asarray(ridge, float), inv_width, inv_samples))
    largest = jnp.maximum(inv_n, inv_p)
    weights = jnp.where(fixed.trace != 0, fixed.eigenvalues, jnp.inf)
    modes = jnp.sum(fixed.trace / weights)
    # At mu = 0 the smaller of the two factors vanishes; elsewhere kappa R1 R3 grows monotonically through mu.
    static = mu == 0.0

    def level(log_kappa):
        kappa = jnp.exp(log_kappa)[None]
        df1, slope = trace_sums(fixed, kappa)
        df1, slope = df1[0], slope[0]
        r1, r3, small = 1.0 - inv_p * df1, 1.0 - inv_n * df1, 1.0 - largest * df1
        inside = small > 0.0
        value = jnp.where(static, small, jnp.where(inside, kappa[0] * r1 * r3 - mu, -mu))
        full = r1 * r3 - kappa[0] * slope * (inv_p * r3 + inv_n * r1)
        return value, kappa[0] * jnp.where(static, -largest * slope, full)

    total = jnp.sum(fixed.trace) * (inv_n + inv_p)
    high = jnp.log(jnp.maximum(mu + total, 1e-290)) + 1e-9
    low = jnp.where(static, jnp.log(jnp.min(weights)) - 80.0, jnp.log(jnp.maximum(mu, 1e-290)) - 1e-9)
    low = jnp.minimum(low, high - 1.0)

    def unfinished(state):
        low, high, _, move, count = state
        return (jnp.abs(move) > 1e-15) & (high - low > 1e-15) & (count < 200)

    def improve(state):
        low, high, here, _, count = state
        value, slope = level(here)
        low, high = jnp.where(value < 0.0, here, low), jnp.where(value < 0.0, high, here)
        guess = here - value / slope
        safe = (guess > low) & (guess < high) & (slope > 0.0)
        # Newton in log kappa while it stays in the bracket, else bisection.
        there = jnp.where(safe, guess, 0.5 * (low + high))
        return low, high, there, jnp.where(safe & (count > 2), there - here, 1.0), count + 1

    start = (low, high, high, jnp.asarray(1.0, jnp.result_type(float)), 0)
    root = jnp.exp(jax.lax.while_loop(unfinished, improve, start)[2])
    full_rank = static & (modes * largest <= 1.0 + 1e-12)
    root = jnp.where(full_rank, 0.0, root)
    return jnp.where(full_rank, 0.0, _implicit_real(root, jnp.asarray(ridge, float), measure, inv_width, inv_samples))


@jax.custom_jvp
def _implicit_real(root, ridge, measure, inv_width, inv_samples):
    return root


@_implicit_real.defjvp
def _implicit_real_jvp(primals, tangents):
    root = _implicit_real(*primals)

    def value(kappa, ridge, measure, inv_n, inv_p):
        df1, slope = trace_sums(measure, kappa[None])
        df1, slope = df1[0], slope[0]
        r1, r3 = 1.0 - inv_p * df1, 1.0 - inv_n * df1
        largest = jnp.maximum(inv_n, inv_p)
        static = (1.0 - largest * df1, -largest * slope)
        full = (kappa * r1 * r3 - ridge, r1 * r3 - kappa * slope * (inv_p * r3 + inv_n * r1))
        return tuple(jnp.where(ridge == 0.0, a, b) for a, b in zip(static, full, strict=True))

    _, change = jax.jvp(lambda *theta: value(root, *theta)[0], primals[1:], tangents[1:])
    slope = value(root, *primals[1:])[1]
    return root, jnp.where(root > 0.0, -change / jnp.where(root > 0.0, slope, 1.0), 0.0)


def inverse_size(size) -> jax.Array | np.ndarray | float:
    """`1 / size`, with `inf` giving zero (and a zero derivative)."""
    return 1.0 / size
