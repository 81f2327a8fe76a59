r"""GPTQ: rounding weights after training so that what a layer computes on given inputs changes least.

For every output channel $w$ with inputs $X$ the error is $(w-q)^\top H(w-q)/2$, $H=2X^\top X+\lambda$. Columns are rounded in order; after
column $i$ the rest moves to where the error of $i$ is best made up for, $w_j\leftarrow w_j-\frac{w_i-q_i}{U_{ii}}U_{ij}$, with $U$ the upper
Cholesky factor of $H^{-1}=U^\top U$ (Frantar et al., arXiv 2210.17323). Scales are those of the weights before.
"""

import math

import numpy as np
from jaxtyping import Float
from scipy.linalg import LinAlgError, cholesky, solve_triangular

from foretrain.errors import InvalidInput
from foretrain.networks._quantize import Precision, channel_scales, checked, finite_weights, on_grid

DAMPING = 0.01


def gptq(
    weights: Float[np.ndarray, "out in"],
    inputs: Float[np.ndarray, "samples in"],
    precision: Precision | None,
    *,
    damping: float = DAMPING,
) -> Float[np.ndarray, "out in"]:
    r"""A layer's weights rounded to a precision so that its outputs on the given inputs change little (GPTQ).

    The grid is that of `round_to_nearest`: one scale for an output channel, from the weights before rounding. With uncorrelated inputs the two
    agree. The order of columns is that of the matrix. Not for a network's later layers without care: their inputs change when
    earlier layers are rounded; `foretrain train` takes those of the unrounded network.

    Args:
        weights: Outputs first.
        inputs: What enters the layer, one row for a sample (and token).
        precision: As for `round_to_nearest`.
        damping: $\lambda$ over the mean of the diagonal of $2X^\top X$.

    Raises:
        InvalidInput: No such precision, sizes that do not fit, numbers that are not finite, or a singular matrix without damping.

    Example:
        >>> import numpy as np
        >>> from foretrain.networks import gptq, round_to_nearest
        >>> rng = np.random.default_rng(0)
        >>> inputs = rng.standard_normal((200, 8)) @ rng.standard_normal((8, 8))
        >>> weights = rng.standard_normal((4, 8))
        >>> def error(rounded):
        ...     return np.sum((inputs @ (rounded - weights).T) ** 2)
        >>> bool(error(gptq(weights, inputs, 3)) < error(round_to_nearest(weights, 3)))
        True
    """
    x = np.array(inputs, np.float64)
    columns = np.shape(weights)[-1] if np.ndim(weights) else 0
    if x.ndim != 2 or x.shape[1] != columns or len(x) == 0:
        raise InvalidInput(
            f"gptq(inputs): expected rows of {columns} numbers, as the weights have, got shape {x.shape}."
        )
    if not np.all(np.isfinite(x)):
        raise InvalidInput(f"gptq(inputs): expected finite numbers, got {int(np.sum(~np.isfinite(x)))} others.")
    return gptq_from_gram(weights, x.T @ x, precision, damping=damping)


def gptq_from_gram(
    weights: Float[np.ndarray, "out in"],
    gram: Float[np.ndarray, "in in"],
    precision: Precision | None,
    *,
    damping: float = DAMPING,
) -> Float[np.ndarray, "out in"]:
    """`gptq` from $X^\\top X$.

    Args:
        weights: Outputs first.
        gram: Sum over inputs of their outer products.
        precision: As for `gptq`.
        damping: As for `gptq`.
    """
    found = checked(precision, "gptq(precision)")
    w = finite_weights(weights, "gptq")
    if w.ndim != 2:
        raise InvalidInput(f"gptq(weights): expected a matrix, outputs first, got shape {w.shape}.")
    if isinstance(damping, bool) or not isinstance(damping, (int, float)) or not 0 <= damping < math.inf:
        raise InvalidInput(f"gptq(damping): expected a number >= 0, got {damping!r}.")
    if found == math.inf:
        return w
    scale = channel_scales(w, found)[:, 0]
    factor = _inverse_factor(2.0 * np.asarray(gram, np.float64), damping)
    rounded = np.empty_like(w)
    for i in range(w.shape[1]):
        rounded[:, i] = on_grid(w[:, i], scale, found, np)
        missed = (w[:, i] - rounded[:, i]) / factor[i, i]
        w[:, i + 1 :] -= missed[:, None] * factor[None, i, i + 1 :]
    return rounded


def _inverse_factor(hessian: Float[np.ndarray, "in in"], damping: float) -> Float[np.ndarray, "in in"]:
    """Upper $U$ with $H^{-1}=U^\\top U$: the inverse of the upper $R$ with $H=RR^\\top$, so that $H$ is never inverted."""
    mean = float(np.mean(np.diag(hessian)))
    if mean == 0:  # no input ever: every rounding is as good
        return np.eye(len(hessian))
    damped = hessian + damping * mean * np.eye(len(hessian))
    try:
        root = cholesky(damped[::-1, ::-1], lower=True)[::-1, ::-1]
    except LinAlgError:
        root = np.zeros_like(damped)
    resolution = len(damped) * np.finfo(np.float64).eps * np.max(np.diag(damped))
    if np.min(np.diag(root)) ** 2 <= resolution:
        raise InvalidInput(
            f"gptq(damping): the inputs leave directions that the matrix of second moments does not see, and damping = {damping:g} is "
            "too small to fill them; give more inputs, or damping = 0.01."
        )
    return solve_triangular(root, np.eye(len(root)))
