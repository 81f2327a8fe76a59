"""Rows of causal matrices: how a step makes new rows from old matrices, and how they are written.

A step reads the matrices as they were before it. What it needs of its own rows comes from the rows themselves: XLA then
writes all of them in place, where a matrix that is read after it was written would be copied at every step.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

State = dict[str, Any]
"""The matrices of one problem by name. Entries beyond the current step are zero, so that no product needs a mask."""

Rows = dict[str, Any]
"""The new rows of some of them."""


class Sizes(NamedTuple):
    r"""The numbers of one problem, in the combinations that enter the equations.

    Attributes:
        rate: $\eta$.
        richness: $\gamma_0^2$.
        width: $\frac1{\gamma_0^2\nu}$.
        samples: $\frac1\alpha$ or $\frac1{\alpha_B}$.
        noise: $\sigma^2$.
        branch: $b$; no part of a network without branches.
        depth: $L$ of a network with branches, whose matrices may have room for more layers.
    """

    rate: Any
    richness: Any
    width: Any
    samples: Any
    noise: Any
    branch: Any
    depth: Any


class Groups(NamedTuple):
    r"""Modes that share an eigenvalue.

    Attributes:
        eigenvalues: $\lambda_g$.
        trace: $\frac1D\sum\lambda_k$ over the group.
        signal: $\frac1D\sum\lambda_kw_{\star k}^2$ over the group.
        test_trace: $\frac1D\sum q_k$, with the second moments of the test inputs.
        test_signal: $\frac1D\sum q_kw_{\star k}^2$.
    """

    eigenvalues: Any
    trace: Any
    signal: Any
    test_trace: Any
    test_signal: Any


class Step(NamedTuple):
    """Where the march is.

    Attributes:
        here: The row of the unit matrix.
        weights: How much of the gradient of every step the weights of this step contain, $E_n$.
    """

    here: Any
    weights: Any

    def now(self, row: Float[Array, "... time"]) -> Float[Array, "..."]:
        """The entry of this step."""
        return row @ self.here

    def before(self, row: Float[Array, "... time"]) -> Float[Array, "... time"]:
        """The row, or rows, without the entry of this step."""
        return row * ranked(1.0 - self.here, row)

    def times(self, row, matrix, new):
        """The row times a matrix whose row of this step is `new`; further dimensions of the matrix are kept."""
        return self.times_past(row, matrix) + self.now(row) * new

    def times_past(self, row, matrix):
        """The row, without its entry of this step, times a matrix; further dimensions of the matrix are kept."""
        return (self.before(row) @ matrix.reshape(matrix.shape[0], -1)).reshape(matrix.shape[1:])

    def times_symmetric(self, row, matrix, new):
        """The row, or rows, times a symmetric matrix whose row and column of this step are `new`."""
        past = self.before(row) @ matrix + self.now(row)[..., None] * ranked(new, row)
        return self.joined(past, row @ new)

    def meets(self, left, matrix, new):
        """The rows of a matrix times the vector `left`, the row of this step being `new`; dimensions after time are summed."""
        return self.joined(matrix.reshape(matrix.shape[0], -1) @ left.reshape(-1), jnp.sum(left * new))

    def joined(self, past, now):
        """Rows with the entry of this step put in."""
        return self.before(past) + now[..., None] * ranked(self.here, past)


def ranked(vector: Any, like: Any) -> Any:
    """The vector with leading dimensions of length one, so that it multiplies the rows of `like`."""
    return vector.reshape((1,) * (like.ndim - vector.ndim) + vector.shape)


def write(state: State, rows: Rows, n: Any, shapes: dict[str, str]) -> State:
    """The matrices with row `n` written, and column `n` of symmetric ones; layers may come first."""
    written = dict(state)
    for name, row in rows.items():
        axis = int(shapes[name].startswith("l"))
        matrix = lax.dynamic_update_slice_in_dim(state[name], jnp.expand_dims(row, axis), n, axis)
        if shapes[name].endswith("ss"):
            matrix = lax.dynamic_update_slice_in_dim(matrix, jnp.expand_dims(row, axis + 1), n, axis + 1)
        written[name] = matrix
    return written
