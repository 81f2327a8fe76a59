r"""The hidden sites of a network without branches: one step backward through the layers, one step forward.

Every field is a linear function of the Gaussian sources of its own site. In the units of (DL.12), where responses are
divided by $\gamma_0$, a site stores $g=\gamma_0G_1\xi+G_2\zeta$ and $h=H_1\xi+\gamma_0H_2\zeta$, so that $G_1$ and $H_2$ are the
responses that the neighbours need.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from foretrain.limits.deep_linear._rows import Rows, Sizes, State, Step


def layer_shapes(depth: int) -> dict[str, str]:
    """Names of the matrices of these sites and their dimensions: `t` for time, `ss` for symmetric ones, `p` for sources."""
    shapes = {}
    for layer in range(1, depth + 1):
        shapes |= {f"G{layer}": "tpt", f"H{layer}": "tpt", f"Cg{layer}": "ss"}
    return shapes | {f"Ch{layer}": "ss" for layer in range(1, depth)}


def backward_rows(step: Step, state: State, sizes: Sizes, depth: int) -> tuple[Rows, Float[Array, " time"]]:
    r"""The rows of $g^L,\dots,g^1$ and of $\mathcal K$.

    Args:
        step: Where the march is.
        state: All matrices before the step.
        sizes: Numbers of the problem.
        depth: Hidden layers.
    """
    rich, q, rows = sizes.richness, step.weights, {}
    for layer in range(depth, 0, -1):
        response, own = (q @ _flat(state[f"H{layer}"])).reshape(2, -1)
        own = step.here + rich * own
        field = rows[f"G{layer}"] = jnp.stack([response, own])
        left = rich * (response @ state["Cu" if layer == 1 else f"Ch{layer - 1}"])
        if layer == depth:
            # The source is the readout before training, the same at all times.
            right = jnp.broadcast_to(own.sum(), own.shape)
        else:
            right = step.times_symmetric(own, state[f"Cg{layer + 1}"], rows[f"Cg{layer + 1}"])
        cg = rows[f"Cg{layer}"] = step.meets(jnp.stack([left, right]), state[f"G{layer}"], field)
        q = response + step.weights * cg
    return rows, q


def forward_rows(step: Step, ruv: Float[Array, " time"], rows: Rows, state: State, sizes: Sizes, depth: int) -> Rows:
    r"""The rows of $h^1,\dots,h^L$.

    Args:
        step: Where the march is.
        ruv: Row of $R_{uv}$.
        rows: The new rows of $g$ and of $C_u$.
        state: All matrices before the step.
        sizes: Numbers of the problem.
        depth: Hidden layers.
    """
    rich, found = sizes.richness, dict(rows)
    p = step.weights * rows["Cu"] - sizes.width * ruv
    for layer in range(1, depth + 1):
        own, response = step.times(p, state[f"G{layer}"], found[f"G{layer}"])
        own = step.here + rich * own
        field = found[f"H{layer}"] = jnp.stack([own, response])
        below = "Cu" if layer == 1 else f"Ch{layer - 1}"
        left = step.times_symmetric(own, state[below], found[below])
        if layer == depth:
            # No layer follows that would need the covariance with other times.
            return found | {"top": left @ own + rich * response.sum() ** 2}
        right = rich * step.times_symmetric(response, state[f"Cg{layer + 1}"], found[f"Cg{layer + 1}"])
        ch = found[f"Ch{layer}"] = step.meets(jnp.stack([left, right]), state[f"H{layer}"], field)
        p = response + step.weights * ch
    return found


def _flat(matrix: Any) -> Any:
    return matrix.reshape(matrix.shape[0], -1)
