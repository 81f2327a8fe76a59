r"""The hidden sites of a network with branches: all layers are one site, since each passes its input on.

A field of one layer depends on the sources of all layers. The march keeps these dependences as two arrays a layer over
(time, source, layer of the source, time), in the units of (DL.12), and works through the layers in a loop. A program is not
compiled for every depth: there is room for more layers than there are.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from foretrain.limits.deep_linear._rows import Rows, Sizes, State, Step


def residual_shapes(room: int) -> dict[str, str]:
    """Names of the matrices of these sites and their dimensions: `l` for layers, `p` for the two kinds of sources.

    Args:
        room: Layers that there is room for.
    """
    fields = {f"{name}{layer}": "tplt" for layer in range(1, room + 1) for name in ("G", "H")}
    return fields | {"allCg": "lss", "allCh": "lss"}


def residual_backward_rows(step: Step, state: State, sizes: Sizes, room: int) -> tuple[Rows, Float[Array, " time"]]:
    r"""The rows of $g^L,\dots,g^1$ and of $\mathcal K$ (DL.11).

    Args:
        step: Where the march is.
        state: All matrices before the step.
        sizes: Numbers of the problem, among them the depth.
        room: Layers that the matrices have room for.
    """
    rich, size, depth = sizes.richness, step.here.shape[0], sizes.depth.astype(int)
    scale = jnp.stack([1.0, rich])[:, None, None]
    below, above = _below(state), _above(state, depth)

    def layer_rows(i, carry):
        field, q, fields, covariances, sources = carry
        layer = depth - 1 - i
        field = field + scale * _moved(q, state, "H", layer)
        field = _add_source(field, 1, layer, jnp.where(layer == depth - 1, 1.0, sizes.branch) * step.here)
        # The forward sources of this step are of no avail to the backward fields of this step.
        left = [
            rich * _weighed(step, field[0], below, jnp.zeros((room, size))),
            _weighed(step, field[1], above, sources),
        ]
        row = _meets(step, jnp.stack(left), state, "G", layer, field)
        fields, covariances = _put(fields, layer, field), _put(covariances, layer, row)
        sources = jnp.where(layer > 0, _put(sources, jnp.maximum(layer - 1, 0), row), sources)
        b = jnp.where(layer == 0, 1.0, sizes.branch)
        q = b * (_at(field[0], layer) + b * step.weights * row)
        return field, q, fields, covariances, sources

    readout = jnp.broadcast_to(jnp.where(jnp.arange(room) == depth - 1, 1.0, 0.0)[:, None], (room, size))
    start = (jnp.zeros((2, room, size)), step.weights, *_empty(room, size), readout)
    _, kernel, fields, covariances, _ = lax.fori_loop(0, depth, layer_rows, start)
    return _named("G", fields) | {"allCg": covariances}, kernel


def residual_forward_rows(
    step: Step, ruv: Float[Array, " time"], rows: Rows, state: State, sizes: Sizes, room: int
) -> Rows:
    r"""The rows of $h^1,\dots,h^L$.

    Args:
        step: Where the march is.
        ruv: Row of $R_{uv}$.
        rows: The new rows of $g$ and of $C_u$.
        state: All matrices before the step.
        sizes: Numbers of the problem, among them the depth.
        room: Layers that the matrices have room for.
    """
    rich, size, branch, depth = sizes.richness, step.here.shape[0], sizes.branch, sizes.depth.astype(int)
    scale = jnp.stack([rich, 1.0])[:, None, None]
    below, above = _below(state), _above(state, depth)
    backward_fields = jnp.stack([rows[f"G{layer}"] for layer in range(1, room + 1)])
    readout = jnp.arange(room)[:, None] == depth - 1
    backward = jnp.where(readout, 1.0, jnp.concatenate([rows["allCg"][1:], jnp.zeros((1, size))]))

    def layer_rows(layer, carry):
        field, p, fields, covariances, sources = carry
        now = step.now(p) * _at(backward_fields, layer)
        field = field + scale * (_moved(step.before(p), state, "G", layer) + now)
        field = _add_source(field, 0, layer, jnp.where(layer == 0, 1.0, branch) * step.here)
        left = [_weighed(step, field[0], below, sources), rich * _weighed(step, field[1], above, backward)]
        row = _meets(step, jnp.stack(left), state, "H", layer, field)
        fields, covariances = _put(fields, layer, field), _put(covariances, layer, row)
        sources = jnp.where(layer < depth - 1, _put(sources, jnp.minimum(layer + 1, depth - 1), row), sources)
        p = branch * (_at(field[1], layer) + branch * step.weights * row)
        return field, p, fields, covariances, sources

    p = step.weights * rows["Cu"] - sizes.width * ruv
    first = jnp.zeros((room, size)).at[0].set(rows["Cu"])
    start = (jnp.zeros((2, room, size)), p, *_empty(room, size), first)
    _, _, fields, covariances, _ = lax.fori_loop(0, depth, layer_rows, start)
    return rows | _named("H", fields) | {"allCh": covariances}


def _at(stack: Any, layer: Any) -> Any:
    return lax.dynamic_index_in_dim(stack, layer, 0, keepdims=False)


def _put(stack: Any, layer: Any, row: Any) -> Any:
    return lax.dynamic_update_index_in_dim(stack, row, layer, 0)


def _empty(room: int, size: int) -> tuple[Any, Any]:
    """Where the rows of all layers go: fields, and their covariances."""
    return jnp.zeros((room, 2, room, size)), jnp.zeros((room, size))


def _named(name: str, stack: Any) -> Rows:
    return {f"{name}{layer + 1}": row for layer, row in enumerate(stack)}


def _chosen(layer: Any, state: State, name: str, product: Any, operand: Any) -> Any:
    """A product with the matrix of a layer, as one branch for each: slices of one large array would be copied first."""
    room = state["allCg"].shape[0]
    flat = [state[f"{name}{place}"].reshape(operand[1], -1) for place in range(1, room + 1)]
    return lax.switch(layer, [lambda vector, matrix=matrix: product(vector, matrix) for matrix in flat], operand[0])


def _moved(row: Any, state: State, name: str, layer: Any) -> Any:
    """A row times the dependences of a layer's fields on all sources."""
    size, room = row.shape[0], state["allCg"].shape[0]
    return _chosen(layer, state, name, lambda vector, matrix: vector @ matrix, (row, size)).reshape(2, room, size)


def _meets(step: Step, left: Any, state: State, name: str, layer: Any, new: Any) -> Any:
    """As the method of a step, with the matrix of a layer."""
    size = step.here.shape[0]
    past = _chosen(layer, state, name, lambda vector, matrix: matrix @ vector, (left.reshape(-1), size))
    return step.joined(past, jnp.sum(left * new))


def _add_source(field: Any, kind: int, layer: Any, row: Any) -> Any:
    """The field with its own source."""
    start, shape = (kind, layer, 0), (1, 1, row.shape[0])
    return lax.dynamic_update_slice(field, lax.dynamic_slice(field, start, shape) + row.reshape(shape), start)


def _below(state: State) -> Any:
    """Covariances of the forward sources."""
    return jnp.concatenate([state["Cu"][None], state["allCh"][:-1]])


def _above(state: State, depth: Any) -> Any:
    """Covariances of the backward sources; the readout before training is the same at all times."""
    shifted = jnp.concatenate([state["allCg"][1:], jnp.zeros((1, *state["Cu"].shape))])
    return jnp.where(jnp.arange(len(shifted))[:, None, None] == depth - 1, 1.0, shifted)


def _weighed(step: Step, rows: Any, covariances: Any, new: Any) -> Any:
    """The dependence on the sources of all layers times their covariances; rows that are not known yet meet zeros."""
    past = jnp.einsum("lt,lts->ls", step.before(rows), covariances) + step.now(rows)[:, None] * new
    return step.joined(past, jnp.sum(rows * new, -1))
