r"""The hidden sites of a network with branches: all layers are one site, since each passes its input on.

A field of one layer depends on the sources of all layers. The march keeps these dependences as two arrays a layer, over
(time, source, layer of the source, time), in the units of (DL.12).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from foretrain.limits.deep_linear._rows import Rows, Sizes, State, Step


def residual_shapes(depth: int) -> dict[str, str]:
    """Names of the matrices of these sites and their dimensions: `l` for layers of sources, `p` for the two kinds."""
    shapes = {}
    for layer in range(1, depth + 1):
        shapes |= {f"G{layer}": "tplt", f"H{layer}": "tplt", f"Cg{layer}": "ss"}
    return shapes | {f"Ch{layer}": "ss" for layer in range(1, depth)}


def _factor(branch, plain: bool):
    return 1.0 if plain else branch


def residual_backward_rows(step: Step, state: State, sizes: Sizes, depth: int) -> tuple[Rows, Float[Array, " time"]]:
    r"""The rows of $g^L,\dots,g^1$ and of $\mathcal K$ (DL.11).

    Args:
        step: Where the march is.
        state: All matrices before the step.
        sizes: Numbers of the problem.
        depth: Hidden layers.
    """
    branch, rich, q, rows = sizes.branch, sizes.richness, step.weights, {}
    size = step.here.shape[0]
    field = jnp.zeros((2, depth, size))
    scale = jnp.stack([1.0, rich])[:, None, None]
    sources = _Sources(step, state, depth)
    for layer in range(depth, 0, -1):
        moved = (q @ state[f"H{layer}"].reshape(size, -1)).reshape(field.shape)
        field = field + scale * moved
        field = field.at[1, layer - 1].add(_factor(branch, layer == depth) * step.here)
        rows[f"G{layer}"] = field
        left = jnp.stack([rich * sources.below(field[0], None), sources.above(field[1], rows)])
        cg = rows[f"Cg{layer}"] = step.meets(left, state[f"G{layer}"], field)
        b = _factor(branch, layer == 1)
        q = b * (field[0, layer - 1] + b * step.weights * cg)
    return rows, q


def residual_forward_rows(
    step: Step, ruv: Float[Array, " time"], rows: Rows, state: State, sizes: Sizes, depth: int
) -> Rows:
    r"""The rows of $h^1,\dots,h^L$.

    Args:
        step: Where the march is.
        ruv: Row of $R_{uv}$.
        rows: The new rows of $g$ and of $C_u$.
        state: All matrices before the step.
        sizes: Numbers of the problem.
        depth: Hidden layers.
    """
    branch, rich, found = sizes.branch, sizes.richness, dict(rows)
    size = step.here.shape[0]
    field = jnp.zeros((2, depth, size))
    scale = jnp.stack([rich, 1.0])[:, None, None]
    sources = _Sources(step, state, depth)
    p = step.weights * rows["Cu"] - sizes.width * ruv
    for layer in range(1, depth + 1):
        moved = step.times(p, state[f"G{layer}"], found[f"G{layer}"])
        field = field + scale * moved
        field = field.at[0, layer - 1].add(_factor(branch, layer == 1) * step.here)
        found[f"H{layer}"] = field
        left = jnp.stack([sources.below(field[0], found), rich * sources.above(field[1], found)])
        if layer == depth:
            # No layer follows that would need the covariance with other times.
            return found | {"top": jnp.sum(left * field)}
        ch = found[f"Ch{layer}"] = step.meets(left, state[f"H{layer}"], field)
        p = branch * (field[1, layer - 1] + branch * step.weights * ch)
    return found


class _Sources:
    """The covariances of the sources of all layers, as they were before the step; rows of the step come on top."""

    def __init__(self, step: Step, state: State, depth: int):
        self.step, self.depth = step, depth
        self.names_below = ["Cu", *(f"Ch{layer}" for layer in range(1, depth))]
        self.names_above = [f"Cg{layer}" for layer in range(2, depth + 1)]
        self._below = jnp.stack([state[name] for name in self.names_below])
        self._above = jnp.stack([state[name] for name in self.names_above]) if depth > 1 else None

    def below(self, rows, found: Rows | None):
        """The dependence on the forward sources, times their covariances."""
        return self._times(rows, self._below, self.names_below, found or {})

    def above(self, rows, found: Rows):
        """The dependence on the backward sources, times their covariances; the readout's is one at all times."""
        last = jnp.broadcast_to(rows[-1].sum(), rows[-1].shape)[None]
        if self._above is None:
            return last
        return jnp.concatenate([self._times(rows[:-1], self._above, self.names_above, found), last])

    def _times(self, rows, covariances, names, found):
        """Rows that the step has not reached yet meet sources of earlier steps only, and lack nothing."""
        zero = jnp.zeros(rows.shape[-1])
        new = jnp.stack([found.get(name, zero) for name in names])
        past = jnp.einsum("lt,lts->ls", self.step.before(rows), covariances) + self.step.now(rows)[:, None] * new
        here = self.step.here
        return past * (1.0 - here) + jnp.sum(rows * new, -1)[:, None] * here
