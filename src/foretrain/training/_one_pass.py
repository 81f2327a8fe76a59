r"""One pass over fresh Gaussian data, step by step (`docs/theory/sgd.md`, (SG.20)).

Given a student's features, $\varphi$ and the target are jointly Gaussian: $y=\beta\cdot\varphi+\tau\xi$ with $\beta=S^+c$ the best readout, $S$ and
$c$ the population's second moment and correlation, and $\tau^2$ the power that the features cannot express plus the label noise. In the
eigenbasis of $S$, $\varphi=\sqrt\Lambda z$ with white $z$, and the error $\delta=W-\beta$ makes the step

$$\delta\leftarrow\delta-\frac{\eta_s}B\sqrt\Lambda\,Z^\top q,\qquad q=Z\sqrt\Lambda\,\delta-\tau\xi,$$

with a $B\times n$ matrix $Z$ of fresh Gaussians. Only $B$ of its directions meet $\delta$: with $a=\sqrt\Lambda\delta$, $s=|a|$ and the unit vector $\hat a$,
$h=Za=s\,x$ has $B$ independent entries, and what is left of $Z$ is independent of it. So

$$Z^\top q=\hat a\,(x\cdot q)+|q|\,(1-\hat a\hat a^\top)g,\qquad q=s\,x-\tau\xi$$

with Gaussian vectors $x,\xi\in\mathbb R^B$ and $g\in\mathbb R^n$ has exactly the distribution of the step, for $n+2B$ random numbers instead of $(n+1)B$.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from foretrain._precision import require_x64
from foretrain.training._evolution import Moments, _apply, _eigh

# Steps whose random numbers are drawn together: at most so many, and at most so many numbers. Part of what a seed means.
_STEPS, _NUMBERS = 1024, 2**21


def best_readout(
    moments: Moments,
) -> tuple[Float[np.ndarray, " eigenvalues"], np.ndarray | None, Float[np.ndarray, " eigenvalues"], float]:
    """Eigenvalues and eigenvectors of the second moment, the best readout in that basis, and the power it leaves."""
    values, basis = (moments.second, None) if moments.second.ndim == 1 else _eigh(moments.second)
    inner = moments.cross[:, 0] if basis is None else basis.T @ moments.cross[:, 0]
    learnable = values > 0
    best = np.where(learnable, inner, 0.0) / np.where(learnable, values, 1.0)
    return values, basis, best, max(moments.power - float(best @ (values * best)), 0.0)


def gaussian_readouts(
    moments: Moments,
    batch_size: int,
    rates: Float[np.ndarray, " steps"],
    steps: Float[np.ndarray, " time"],
    generator: np.random.Generator,
    noise: Sequence[float] = (0.0,),
    check: Callable[[], None] = lambda: None,
) -> Float[np.ndarray, "features time outputs noise"]:
    """The readout after the given numbers of steps on fresh Gaussian data; NaN from where it has overflowed.

    Args:
        moments: Of the distribution that the data come from; one output.
        batch_size: Samples per step.
        rates: Learning rate of every step.
        steps: Times in any order.
        generator: Source of randomness.
        noise: Label-noise variances; all levels see the same random numbers.
        check: Called now and then; may raise to stop.
    """
    require_x64("gaussian_readouts")
    values, basis, best, left = best_readout(moments)
    roots = jnp.asarray(np.sqrt(values))
    deviations = jnp.asarray(np.sqrt(left + np.asarray(noise)))
    state = jnp.asarray(np.tile(-best, (len(noise), 1)))
    count = len(values) + 2 * batch_size
    size = max(1, min(_STEPS, _NUMBERS // count))
    found = np.full((len(steps), len(noise), len(values)), np.nan)
    done, start, block, scaled = 0, 0, None, None
    for position in np.argsort(steps, kind="stable"):
        stop = int(steps[position])
        while done < stop:
            check()
            if block is None or done == start + size:
                start = done
                block = jnp.asarray(generator.standard_normal((size, count), dtype=np.float32))
                own = np.zeros(size)
                own[: len(rates) - start] = rates[start : start + size] / batch_size
                scaled = jnp.asarray(own)
            last = min(stop, start + size)
            state = _gaussian_steps(roots, deviations, state, block, scaled, done - start, last - start)
            done = last
        error = np.asarray(state)
        if not np.all(np.isfinite(error)):
            break
        found[position] = best + error
    return _apply(basis, np.moveaxis(found, -1, 0))[:, :, None, :]


@jax.jit
def _gaussian_steps(
    roots: Array, deviations: Array, state: Array, block: Array, rates: Array, first: int, last: int
) -> Array:
    modes = roots.shape[0]
    batch = (block.shape[1] - modes) // 2

    def step(s: Array, error: Array) -> Array:
        numbers = block[s].astype(error.dtype)
        g, x, xi = numbers[:modes], numbers[modes : modes + batch], numbers[modes + batch :]
        scaled = error * roots[None]
        size = jnp.sqrt(jnp.sum(scaled**2, axis=1, keepdims=True))
        direction = scaled / jnp.maximum(size, jnp.finfo(error.dtype).tiny)
        q = size * x[None] - deviations[:, None] * xi[None]
        along = jnp.sum(x[None] * q, axis=1, keepdims=True)
        across = jnp.sqrt(jnp.sum(q**2, axis=1, keepdims=True))
        sideways = g[None] - direction * jnp.sum(direction * g[None], axis=1, keepdims=True)
        return error - rates[s] * roots[None] * (direction * along + across * sideways)

    return jax.lax.fori_loop(first, last, step, state)
