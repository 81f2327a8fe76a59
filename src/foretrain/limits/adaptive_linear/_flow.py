r"""Gradient flow of the two-layer linear model: one scan over the clock, for a batch of problems.

With $\varphi=\sqrt s\,\chi$ the rich dynamics is $\chi'=s^{-1/2}-x\chi$ in the clock $d\tau=s\,dt$, and the gain follows from the filter itself,
$s=1+\gamma c$, $c=\int x\chi^2\,d\nu$ (docs/theory/adaptive-linear.md, (AL.13) to (AL.16)). A step is explicit but for one number, $m=s^{-1/2}$ at
its end, the root of a polynomial.
"""

import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from foretrain.limits._compile import compiled
from foretrain.limits.adaptive_linear._clock import STENCIL

NEWTON = 6
# Rows of the clock that one call of a program makes.
CHUNK = 64


class Filters(NamedTuple):
    r"""What a batch of problems integrates its filters against.

    Attributes:
        loss: $\omega F/x$ less a constant: with $\psi^2$ the train loss, which on the population is the test loss; shape (problem, point).
        norm: $\omega(F-F_a)$: with $\chi^2$ the readout norm.
        richness: $\gamma$, one per problem.
        pairs: $\frac12\frac{\omega\omega'}{xx'}D$ for the test loss on reused data, shape (problem, 2, point, point), or `None`.
        modes: $\frac\omega x\frac\kappa{\lambda+\kappa}$: with $\psi$ the mean residuals, shape (problem, mode, point), or `None`.
    """

    loss: jax.Array | np.ndarray
    norm: jax.Array | np.ndarray
    richness: jax.Array | np.ndarray
    pairs: jax.Array | np.ndarray | None = None
    modes: jax.Array | np.ndarray | None = None


class Steps(NamedTuple):
    """Step weights of a clock at the points of a contour, see `step_weights`."""

    decay: jax.Array | np.ndarray
    weights: jax.Array | np.ndarray
    time_weights: jax.Array | np.ndarray


class Path(NamedTuple):
    """The dynamics on the grid of the clock; every array has the shape (problem, grid)."""

    time: Any
    norm: Any
    train: Any
    test: Any
    modes: Any


def flow(x, steps: Steps, filters: Filters) -> Path:
    """The dynamics of a batch of problems on a common contour and clock."""
    problems = len(filters.richness)
    state = (
        np.zeros((problems, len(x)), complex),
        np.ones((problems, STENCIL - 1)),
        np.zeros(problems),
    )
    return in_chunks(_flow, x, steps, filters, state)


def in_chunks(program, x, steps, inputs, state) -> Path:
    """Runs a compiled program over the rows of a clock, a chunk at a time: one program serves clocks of any length.

    Args:
        program: maps (x, rows, inputs, state) to the new state and the paths of the rows.
        x: points of the contour.
        steps: a tuple of arrays with one row for each step, a multiple of `CHUNK`.
        inputs: what the problems are, the filters first.
        state: where they start.
    """
    filters = inputs if isinstance(inputs, Filters) else inputs[0]
    with jax.enable_x64(True):
        inputs, x = jax.device_put((inputs, x))
        paths = [_start(filters)]
        for begin in range(0, len(steps[0]), CHUNK):
            rows = jax.tree.map(operator.itemgetter(slice(begin, begin + CHUNK)), steps)
            state, path = program(x, rows, inputs, state)
            paths.append(jax.tree.map(np.asarray, path))
    return jax.tree.map(lambda *parts: np.concatenate(parts, 1), *paths)


def _start(filters: Filters) -> Path:
    """The first grid point, before training."""
    zero = np.zeros((len(filters.richness), 1))
    train = np.real(np.sum(filters.loss, -1))[:, None]
    test = train if filters.pairs is None else np.real(np.sum(filters.pairs, (1, 2, 3)))[:, None]
    modes = None if filters.modes is None else np.real(np.sum(filters.modes, -1))[:, None]
    return Path(zero, zero, train, test, modes)


@compiled
def _flow(x, steps, filters, state):
    def one(filters, state):
        def step(state, row):
            chi, history, time = state
            decay, weights, time_weights = row
            known = decay * chi + history.astype(chi.dtype) @ weights[1:]
            new = weights[0]
            a, b, c = (
                (filters.norm @ (left * right)).real for left, right in ((known, known), (known, new), (new, new))
            )
            m = solve_gain(history[0], filters.richness, a, b, c)
            norm = a + (2.0 * b + c * m) * m
            chi = known + new * m
            recent = jnp.concatenate([m[None], history])
            time = time + time_weights @ recent**2
            psi = 1.0 - x * chi * jnp.sqrt(1.0 + filters.richness * norm)
            train = (filters.loss @ (psi * psi)).real
            test = train
            if filters.pairs is not None:
                test = (psi @ (filters.pairs[0] @ psi + filters.pairs[1] @ jnp.conj(psi))).real
            modes = None if filters.modes is None else (filters.modes @ psi).real
            return (chi, recent[:-1], time), Path(time, norm, train, test, modes)

        return jax.lax.scan(step, state, steps)

    return jax.vmap(one)(filters, state)


def solve_gain(guess, richness, a, b, c):
    r"""The $m>0$ with $m^2\big(1+\gamma(a+2bm+cm^2)\big)=1$."""

    def newton(_, m):
        gain = 1.0 + richness * (a + (2.0 * b + c * m) * m)
        slope = 2.0 * m * (gain + m * richness * (b + c * m))
        return m - (m * m * gain - 1.0) / slope

    return jax.lax.fori_loop(0, NEWTON, newton, guess, unroll=True)
