r"""One pass of SGD as a diffusion: the flow of means, and the variance that batches feed into each eigendirection.

In the clock $\tau$, with $V=s\,x\,\upsilon$ the variance of an eigendirection and $q$ the friction that the noise puts on the readout
(docs/theory/adaptive-linear.md, (AL.21) to (AL.23)):

$$\chi'=s^{-1/2}-(x+q)\chi,\qquad\upsilon'=\tfrac\eta B(\mathcal L+\sigma^2)-2(x+q)\upsilon,\qquad
  q=\frac{\gamma\eta}{B}\,\frac{\mathrm{Tr}\,K}{2(2s-1)}(\mathcal L+\sigma^2).$$

A step freezes $q$ at its extrapolated value, exactly; what $q$ deviates from that enters the polynomials in time.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from foretrain.limits._compile import compiled
from foretrain.limits.adaptive_linear._clock import SMALL, STENCIL, Clock, far_moments, near_moments
from foretrain.limits.adaptive_linear._flow import Filters, Path, in_chunks, solve_gain

# The loss at the end of a step and the gain there depend on each other weakly: the loss's own part is solved exactly.
PASSES = 3


class Batches(NamedTuple):
    r"""The noise of a batch of problems.

    Attributes:
        trace: $-\omega(\mathrm{df}_1-\mathrm{df}_{1,a})$, shape (problem, point).
        total: $\mathrm{Tr}\,K$.
        temperature: $\eta/B$.
        noise: variance of the label noise.
    """

    trace: jax.Array | np.ndarray
    total: jax.Array | np.ndarray
    temperature: jax.Array | np.ndarray
    noise: jax.Array | np.ndarray


class _State(NamedTuple):
    """The newest values first, along the first axis."""

    chi: Any
    spread: Any
    root: Any  # 1 / sqrt(s)
    kick: Any
    friction: Any
    time: Any
    loss: Any


def diffusion(x, ticks: Clock, filters: Filters, batches: Batches) -> Path:
    """The dynamics of a batch of problems on a common contour and clock; filters without pairs."""
    problems = len(filters.richness)
    start = np.real(np.sum(filters.loss, -1))
    kicked = np.repeat((batches.temperature * (start + batches.noise))[:, None], STENCIL - 1, 1)
    past = np.ones((problems, STENCIL - 1))
    zero = np.zeros((problems, STENCIL - 1, len(x)), complex)
    friction = 0.5 * (filters.richness * batches.total)[:, None] * kicked
    state = _State(zero, zero, past, kicked, friction, np.zeros(problems), start)
    return in_chunks(_diffusion, x, (ticks.widths, ticks.lagrange, ticks.time_weights), (filters, batches), state)


def _weights(y, width, lagrange):
    """Decay and step weights at complex `y` = rate times width."""
    small = jnp.abs(y) < SMALL
    near, far = near_moments(jnp.where(small, y, 1.0)), far_moments(jnp.where(small, SMALL, y), jnp)
    moments = jnp.stack([jnp.where(small, *both) for both in zip(near, far, strict=True)])
    return jnp.exp(-y), width * (lagrange.astype(y.dtype) @ moments)


@compiled
def _diffusion(x, steps, problem, state):
    def one(problem, state):
        filters, batches = problem
        heat, noise, richness = batches.temperature, batches.noise, filters.richness
        drift = 0.5 * richness * heat * batches.total

        def step(state: _State, row):
            width, lagrange, time_weights = row
            # Quadratic extrapolation on the nearly geometric grid.
            frozen = jnp.maximum(3.0 * (state.friction[0] - state.friction[1]) + state.friction[2], 0.0)
            decay, weights = _weights((x + frozen) * width, width, lagrange)
            decay2, weights2 = _weights(2.0 * (x + frozen) * width, width, lagrange)
            excess = (state.friction - frozen)[:, None]
            known = decay * state.chi[0] + jnp.sum(weights[1:] * (state.root[:, None] - excess * state.chi), 0)
            driven = state.kick[:, None] - 2.0 * excess * state.spread
            known2 = decay2 * state.spread[0] + jnp.sum(weights2[1:] * driven, 0)
            new, new2 = weights[0], weights2[0]
            norm1, loss1 = (batches.trace @ new2).real, (batches.trace @ (x * new2)).real
            root, loss, friction = state.root[0], state.loss, frozen
            chi, spread = state.chi[0], state.spread[0]
            for _ in range(PASSES):
                off = friction - frozen
                base, base2 = known - off * new * chi, known2 - 2.0 * off * new2 * spread
                a, b, c = (
                    (filters.norm @ (left * right)).real for left, right in ((base, base), (base, new), (new, new))
                )
                a = a + (batches.trace @ base2).real + norm1 * heat * (loss + noise)
                root = solve_gain(root, richness, a, b, c)
                norm = a + (2.0 * b + c * root) * root
                gain = 1.0 + richness * norm
                chi = base + new * root
                psi = 1.0 - x * chi * jnp.sqrt(gain)
                mean = (filters.loss @ (psi * psi)).real + gain * (batches.trace @ (x * base2)).real
                fed = gain * loss1 * heat
                loss = (mean + fed * noise) / (1.0 - fed)
                spread = base2 + new2 * heat * (loss + noise)
                friction = drift * (loss + noise) / (2.0 * gain - 1.0)
            time = state.time + time_weights @ jnp.concatenate([root[None], state.root]) ** 2
            fresh = (chi, spread, root, heat * (loss + noise), friction)
            pushed = [jnp.concatenate([value[None], past[:-1]]) for value, past in zip(fresh, state[:5], strict=True)]
            moved = _State(pushed[0], pushed[1], pushed[2], pushed[3], pushed[4], time, loss)
            modes = None if filters.modes is None else (filters.modes @ psi).real
            return moved, Path(time, norm, loss, loss, modes)

        return jax.lax.scan(step, state, steps)

    return jax.vmap(one)(problem, state)
