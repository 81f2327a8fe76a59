r"""Stochastic gradient descent of a linear readout on a fixed set of samples, step by step (`docs/theory/sgd.md`, (SG.1)).

A step moves the readout by the mean gradient of its batch, $W\leftarrow W+\frac{\eta_s}B\sum_{\mu\in b_s}x_\mu r_\mu$ with the
residuals $r_\mu=y_\mu-x_\mu\cdot W$ of that moment. For a given sequence of batches it is linear in the targets: clean targets and
label noise are columns of one run, and every noise level is a combination of them.

With fewer samples than features the coefficients $a$ of $W=\sum_\mu a_\mu x_\mu$ are stepped instead, $a_\mu\leftarrow a_\mu+\frac{\eta_s}Br_\mu$
for $\mu$ in the batch with $r=y-Ka$, $K_{\mu\nu}=x_\mu\cdot x_\nu$: the same trajectory with half of the products. A kernel
knows no other way.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from foretrain._precision import require_x64
from foretrain.training._batches import Batches
from foretrain.training._draw import Samples

State = Float[np.ndarray, "columns coordinates"]


def stepped_readouts(
    samples: Samples,
    batches: Iterator[Batches],
    rates: Float[np.ndarray, " steps"],
    steps: Float[np.ndarray, " time"],
    check: Callable[[], None] = lambda: None,
) -> Float[np.ndarray, "features time outputs parts"]:
    """The readout after the given numbers of steps; NaN from where it has overflowed.

    Args:
        samples: What is trained on.
        batches: Blocks of batches, as `drawn_batches` yields them.
        rates: Learning rate of every step, as many as the latest time has steps.
        steps: Times in any order.
        check: Called now and then; may raise to stop.
    """
    require_x64("stepped_readouts")
    count, outputs, parts = samples.targets.shape
    dual = samples.is_gram or count < samples.matrix.shape[1]
    matrix = samples.matrix @ samples.matrix.T if dual and not samples.is_gram else samples.matrix
    table = jnp.asarray(matrix)
    columns = samples.targets.reshape(count, outputs * parts)
    vector = columns.shape[1] == 1
    targets = jnp.asarray(columns[:, 0] if vector else columns)
    program = _dual_steps if dual else _vector_steps if vector else _primal_steps
    state = jnp.zeros((matrix.shape[1],) if vector else (columns.shape[1], matrix.shape[1]))
    found = np.full((len(steps), columns.shape[1], matrix.shape[1]), np.nan)
    done, start, block, scaled = 0, 0, None, None
    for position in np.argsort(steps, kind="stable"):
        stop = int(steps[position])
        while done < stop:
            check()
            if block is None or done == start + len(block):
                start, block = done, next(batches)
                own = np.zeros(len(block))
                own[: len(rates) - start] = rates[start : start + len(block)] / block.shape[1]
                block, scaled = jnp.asarray(block), jnp.asarray(own)
            last = min(stop, start + len(block))
            state = program(table, targets, state, block, scaled, done - start, last - start)
            done = last
        found[position] = np.asarray(state)
        if not np.all(np.isfinite(found[position])):
            found[position] = np.nan
            break
    readout = np.moveaxis(found, -1, 0)
    if dual and not samples.is_gram:
        readout = samples.matrix.T @ readout.reshape(count, -1)
    return readout.reshape(-1, len(steps), outputs, parts)


def _rows(table: Array, batch: Int32[Array, " batch"]) -> Array:
    return table.at[batch].get(mode="promise_in_bounds")


# The three forms of a step were chosen by measuring: a vector of coordinates and a matrix of them want different products, and
# the state of several columns lies with one column a row so that both products run along the rows of the batch.


@jax.jit
def _vector_steps(
    table: Array, targets: Array, state: Array, block: Array, rates: Array, first: int, last: int
) -> Array:
    def step(s: Array, readout: Array) -> Array:
        batch = _rows(table, block[s])
        residual = _rows(targets, block[s]) - batch @ readout
        return readout + (rates[s] * residual) @ batch

    return jax.lax.fori_loop(first, last, step, state)


@jax.jit
def _primal_steps(
    table: Array, targets: Array, state: Array, block: Array, rates: Array, first: int, last: int
) -> Array:
    def step(s: Array, readout: Array) -> Array:
        batch = _rows(table, block[s])
        residual = _rows(targets, block[s]).T - readout @ batch.T
        return readout + (rates[s] * residual) @ batch

    return jax.lax.fori_loop(first, last, step, state)


@jax.jit
def _dual_steps(table: Array, targets: Array, state: Array, block: Array, rates: Array, first: int, last: int) -> Array:
    def step(s: Array, coefficients: Array) -> Array:
        batch = block[s]
        if coefficients.ndim == 1:
            residual = _rows(targets, batch) - _rows(table, batch) @ coefficients
            return coefficients.at[batch].add(rates[s] * residual, mode="promise_in_bounds")
        residual = _rows(targets, batch).T - coefficients @ _rows(table, batch).T
        return coefficients.at[:, batch].add(rates[s] * residual, mode="promise_in_bounds")

    return jax.lax.fori_loop(first, last, step, state)
