r"""Gradient descent of the two-layer linear model, step by step.

In the eigenbasis of a `Student` one step is $\omega\mathrel+=\eta Bg$ and $B\mathrel+=\eta\gamma\,\omega g^\top$, both with the old values, from
$\omega=0$, $B=1$. Over a population or samples $g_j=b_j-x_j\theta_j$ with $\theta=B^\top\omega$. On a fresh batch of the Gaussian population, features and
target are $\varphi=\sqrt xz$ and $y=\beta\cdot\varphi+\tau\xi$ with $\beta_j=b_j/x_j$; with $a=\sqrt x(\beta-\theta)$ and $\hat a=a/|a|$

$$g=\tfrac1{B'}\sqrt x\,\big[\hat a\,(z'\cdot q)+|q|\,(1-\hat a\hat a^\top)z\big],\qquad q=|a|z'+\tau\xi,$$

for a batch of $B'$ has exactly the distribution of its mean gradient, as in one pass over random features.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from foretrain._precision import require_x64
from foretrain.training._linear_student import _generator
from foretrain.training._two_layer_linear import Student

# The stream of fresh batches, and steps whose random numbers are drawn together: part of what a seed means.
_BATCHES, STEPS = 40, 128


def two_layer_steps(
    student: Student,
    richness: float,
    rates: Float[np.ndarray, " steps"],
    batch: int | None,
    seed: int,
    check: Callable[[], None] = lambda: None,
) -> Float[np.ndarray, "steps_and_one 3"]:
    r"""Test loss, train loss and readout norm before every step and after the last; NaN from where they have overflowed.

    Args:
        student: What is trained.
        richness: $\gamma$.
        rates: Learning rate of every step.
        batch: Fresh samples of a step; `None` is training on what the student has.
        seed: What fresh batches are drawn from; learning rates and noise levels share them.
        check: Called now and then; may raise to stop.
    """
    require_x64("two_layer_steps")
    steps, n = len(rates), len(student.values)
    found = np.full((steps + 1, 3), np.nan)
    generator = _generator(seed, _BATCHES)
    tested = student.tested
    test = None if tested is None else (tested.second, tested.cross, tested.power)
    deviation = np.sqrt(student.left + student.noise)
    fixed = student.values, student.drive, student.left, student.noise, deviation, test, richness
    state = jnp.zeros(n), jnp.eye(n)
    # The losses after the last step come from the first half of a step more, whose other half moves nothing.
    rates = np.append(rates, 0.0)
    for start in range(0, steps + 1, STEPS):
        check()
        count = min(STEPS, steps + 1 - start)
        own = np.zeros(STEPS)
        own[:count] = rates[start : start + count]
        fresh = None if batch is None else generator.standard_normal((STEPS, n + 2 * batch), dtype=np.float32)
        state, block = _steps(state, fixed, fresh, own, count)
        found[start : start + count] = np.asarray(block)[:count]
        if not np.all(np.isfinite(found[start + count - 1])):
            break
    return found


@jax.jit
def _steps(
    state: tuple[Array, Array], fixed: tuple, fresh: Array | None, rates: Array, count: int
) -> tuple[tuple[Array, Array], Array]:
    values, drive, left, noise, deviation, test, richness = fixed

    def step(s: Array, carried: tuple[tuple[Array, Array], Array]) -> tuple[tuple[Array, Array], Array]:
        (omega, frame), found = carried
        theta = omega @ frame
        gradient = drive - values * theta
        train = jnp.sum(gradient**2 / values) + left
        loss = train if test is None else theta @ test[0] @ theta - 2 * theta @ test[1] + test[2]
        found = found.at[s].set(jnp.stack([loss, train + noise, jnp.sum(omega**2)]))
        if fresh is not None:
            gradient = _of_batch(gradient, values, deviation, fresh[s])
        moved = omega + rates[s] * (frame @ gradient)
        turned = frame + (rates[s] * richness * omega)[:, None] * gradient[None]
        return (moved, turned), found

    return jax.lax.fori_loop(0, count, step, (state, jnp.zeros((len(rates), 3))))


def _of_batch(gradient: Array, values: Array, deviation: Array, fresh: Array) -> Array:
    """The mean gradient over a fresh batch, given the one over the population."""
    n = len(values)
    batch = (len(fresh) - n) // 2
    numbers = fresh.astype(gradient.dtype)
    z, x, noise = numbers[:n], numbers[n : n + batch], numbers[n + batch :]
    roots = jnp.sqrt(values)
    scaled = gradient / roots
    size = jnp.sqrt(jnp.sum(scaled**2))
    along = scaled / jnp.maximum(size, jnp.finfo(size.dtype).tiny)
    errors = size * x + deviation * noise
    across = jnp.sqrt(jnp.sum(errors**2)) * (z - along * jnp.sum(along * z))
    return roots / batch * (along * jnp.sum(x * errors) + across)
