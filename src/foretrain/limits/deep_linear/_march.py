r"""The march: one pass over the steps that fills row after row of every matrix of the theory.

A network computes $g^L,\dots,g^1$ before a step is taken from them, and $v,u,h^1,\dots,h^L$ in this order; row $n$ of every
matrix follows from rows before it in the same order, so nothing is iterated (`docs/theory/deep-linear.md`, (DL.14)). Only
weights on the diagonal, which the quadrature of a flow has, make a row depend on itself; it is then repeated a few times.

Programs are compiled for a few sizes of the matrices. A long march runs through growing sizes, so that early rows are
not paid for at the size of the last one.
"""

from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from foretrain.limits._compile import OLD_EMITTERS, compiled
from foretrain.limits.deep_linear._input import LOSSES, input_row, input_shapes
from foretrain.limits.deep_linear._layers import backward_rows, forward_rows, layer_shapes
from foretrain.limits.deep_linear._residual import residual_backward_rows, residual_forward_rows, residual_shapes
from foretrain.limits.deep_linear._rows import Groups, Rows, Sizes, State, Step, write

# Region analysis sees that rows are written where they are read last; without it XLA copies most matrices at every step,
# which triples the time (measured with jax 0.10).
_IN_PLACE = {"xla_cpu_copy_insertion_use_region_analysis": True, **OLD_EMITTERS}


class Layout(NamedTuple):
    """What a compiled program is made for.

    Attributes:
        depth: Hidden layers, or room for them where they are branches.
        residual: Whether they are branches.
        data: One of `DATA`.
        groups: Number of eigenvalue groups.
        sweeps: How often a row is repeated; 1 where weights are strictly lower.
    """

    depth: int
    residual: bool
    data: str
    groups: int
    sweeps: int = 1

    def shapes(self) -> dict[str, str]:
        """Names of all matrices and their dimensions."""
        hidden = residual_shapes(self.depth) if self.residual else layer_shapes(self.depth)
        return input_shapes(self.data, self.groups) | hidden | {"records": "tr", "forward": "tk", "backward": "tl"}

    def shape(self, dims: str, size: int) -> tuple[int, ...]:
        """The shape of a matrix."""
        lengths = {"t": size, "s": size, "g": self.groups, "p": 2, "l": self.depth, "k": self.depth + 1}
        return tuple((lengths | {"r": len(LOSSES)})[letter] for letter in dims)

    def numbers(self, size: int) -> int:
        """Numbers that the state of one problem holds."""
        return sum(int(np.prod(self.shape(dims, size))) for dims in self.shapes().values())


def padded_size(rows: int) -> int:
    """The smallest size with a program of its own that holds so many rows."""
    step = 16 if rows <= 128 else 32 if rows <= 512 else 128
    return -(-rows // step) * step


def room_for(depth: int) -> int:
    """Layers of the program that serves a network with branches."""
    return next((room for room in (4, 8, 12, 16, 24, 32, 48, 64) if room >= depth), depth)


def stages(rows: int) -> list[int]:
    """Sizes of the march over so many rows, the last one holding all."""
    found = [padded_size(rows)]
    while found[0] > 48 and len(found) < 3:
        share = 0.5 if found[0] <= 128 else 0.6
        found.insert(0, padded_size(int(np.ceil(share * found[0]))))
    while found[0] > 512:
        found.insert(0, padded_size(-(-found[0] // 2)))
    return found


def march(sizes: Sizes, groups: Groups, weights: np.ndarray, rows: int, layout: Layout) -> State:
    r"""The matrices of one problem after so many rows.

    Args:
        sizes: Numbers of the problem.
        groups: The spectrum.
        weights: $E/\eta$ with at least `rows` rows and columns.
        rows: Steps plus one.
        layout: Kind of network and data.

    Returns:
        All matrices, with padded times.
    """
    start, state = 0, None
    numbers = Sizes(*(np.float64(part) for part in sizes))
    for size in stages(rows):
        stop = min(size, rows)
        part = np.zeros((size, size))
        part[:stop, :stop] = weights[:stop, :stop]
        state = _advance(state, numbers, groups, part, start, stop, layout)
        start = stop
    return state  # type: ignore[return-value]


def _frame(state: State | None, layout: Layout, size: int) -> State:
    """The matrices in a larger frame of zeros."""
    frame = {}
    for name, dims in layout.shapes().items():
        shape = layout.shape(dims, size)
        frame[name] = jnp.zeros(shape)
        if state is not None:
            frame[name] = lax.dynamic_update_slice(frame[name], state[name], [0] * len(shape))
    return frame


@partial(compiled, static="layout", options=_IN_PLACE)
def _advance(
    state: State | None, sizes: Sizes, groups: Groups, weights: Any, start: Any, stop: Any, layout: Layout
) -> State:
    shapes, size = layout.shapes(), weights.shape[0]

    def advance(n, state):
        here = jnp.where(jnp.arange(size) == n, 1.0, 0.0)
        row = sizes.rate * lax.dynamic_index_in_dim(weights, n, 0, keepdims=False)
        here = Step(here, row)

        def once(_, state):
            return write(state, _rows(here, state, sizes, groups, layout), n, shapes)

        return once(0, state) if layout.sweeps == 1 else lax.fori_loop(0, layout.sweeps, once, state)

    return lax.fori_loop(start, stop, advance, _frame(state, layout, size))


def _rows(step: Step, state: State, sizes: Sizes, groups: Groups, layout: Layout) -> Rows:
    """One row of everything, in the order in which the network computes."""
    depth = layout.depth
    backward, forward = (
        (residual_backward_rows, residual_forward_rows) if layout.residual else (backward_rows, forward_rows)
    )
    rows, kernel = backward(step, state, sizes, depth)
    first = (state["allCg"][0], rows["allCg"][0]) if layout.residual else (state["Cg1"], rows["Cg1"])
    new, ruv, losses = input_row(step, kernel, first, state, sizes, groups, layout.data)
    rows = forward(step, ruv, rows | new, state, sizes, depth)
    if layout.residual:
        up, down = step.now(rows["allCh"]), step.now(rows["allCg"])
    else:
        up = jnp.stack([*(step.now(rows[f"Ch{layer}"]) for layer in range(1, depth)), rows.pop("top")])
        down = jnp.stack([step.now(rows[f"Cg{layer}"]) for layer in range(1, depth + 1)])
    up = jnp.concatenate([step.now(rows["Cu"])[None], up])
    return rows | {"records": losses, "forward": up, "backward": down}
