r"""Full-batch gradient descent on the population or on reused data, exactly, for thousands of steps.

In the eigenbasis of $\hat K$ discrete training closes on $\theta$, $c$ and the metric $G=B^\top B$ (docs/theory/adaptive-linear.md, (AL.36) and (AL.37)):
a function of one eigenvalue, a number, and a function of two. All of them are polynomials in the eigenvalues, and live on the contour.
"""

import jax
import jax.numpy as jnp
import numpy as np

from foretrain.limits._compile import compiled
from foretrain.limits.adaptive_linear._flow import CHUNK, Filters, Path


def descent(x, filters: Filters, rate: float, steps: int) -> Path:
    """Losses and readout norm at the steps 0, 1, ... of one problem; `time` counts steps.

    Args:
        x: points of the contour.
        filters: the weights of a single problem.
        rate: learning rate.
        steps: how many steps are taken.
    """
    points = len(x)
    with jax.enable_x64(True):
        one = jax.device_put(jax.tree.map(lambda part: part[0], filters))
        metric = np.zeros((2, points, points), complex)
        state = (np.zeros(points, complex), np.zeros(()), metric)
        rows = []
        for _ in range(0, steps + 1, CHUNK):
            state, row = _descent(x, one, rate, state)
            rows.append(jax.tree.map(np.asarray, row))
    path = jax.tree.map(lambda *parts: np.concatenate(parts)[: steps + 1], *rows)
    return path._replace(time=np.arange(steps + 1.0))


@compiled
def _descent(x, filters, rate, state):
    gamma = filters.richness

    def step(state, _):
        phi, norm, metric = state
        psi = 1.0 - x * phi
        train = (filters.loss @ (psi * psi)).real
        test = train
        if filters.pairs is not None:
            test = (psi @ (filters.pairs[0] @ psi + filters.pairs[1] @ jnp.conj(psi))).real
        modes = None if filters.modes is None else (filters.modes @ psi).real
        seen = Path(norm, norm, train, test, modes)
        # G g, and the products with theta and with g itself.
        weighed = filters.norm * psi
        turned = psi + 0.5 * (metric[0] @ weighed + metric[1] @ jnp.conj(weighed))
        along, power = (weighed @ phi).real, (weighed @ turned).real
        left, own = rate * gamma * phi, (rate * gamma) ** 2 * norm * psi
        right = jnp.stack([psi, jnp.conj(psi)])[:, None, :]
        across = jnp.stack([left, jnp.conj(left)])[:, None, :]
        grown = metric + (left + own)[None, :, None] * right + psi[None, :, None] * across
        phi = phi + rate * (turned + gamma * (norm + rate * along) * psi)
        norm = norm + rate * (2.0 * along + rate * power)
        return (phi, norm, grown), seen

    return jax.lax.scan(step, state, None, length=CHUNK)
