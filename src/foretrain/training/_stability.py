"""When descent is unstable: the edge of full-batch descent, and losses that have blown up."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, eigsh

from foretrain.training._batches import Times
from foretrain.training._draw import Draw, Samples, at_noise_levels
from foretrain.training._evolution import Moments

# Up to this side all eigenvalues are found at once, beyond it the largest alone.
_SMALL = 100
# A loss that has grown by this factor over what it was before training counts as diverged.
_BLOWN_UP = 1e6

Losses = Float[np.ndarray, "noise ensemble time"]


def largest_eigenvalue(source: Samples | Moments) -> float:
    """Of the tangent matrix that full-batch descent on a source would have."""
    if isinstance(source, Moments):
        matrix = source.second
        if matrix.ndim == 1:
            return float(matrix.max())
        product, side = (lambda v: matrix @ v), len(matrix)
    else:
        matrix, count = source.matrix, len(source.targets)
        side = min(matrix.shape)
        if source.is_gram:
            product = lambda v: matrix @ v / count  # noqa: E731
        elif side == count:
            product = lambda v: matrix @ (matrix.T @ v) / count  # noqa: E731
        else:
            product = lambda v: matrix.T @ (matrix @ v) / count  # noqa: E731
    if side <= _SMALL:
        return float(np.linalg.eigvalsh(product(np.eye(side)))[-1])
    operator = LinearOperator((side, side), matvec=product, dtype=np.float64)  # type: ignore[call-arg]
    start = np.random.default_rng(0).standard_normal(side)
    return float(eigsh(operator, k=1, which="LA", v0=start, return_eigenvectors=False)[0])


def before_training(draw: Draw, noise: Sequence[float]) -> Float[np.ndarray, " noise"]:
    source = draw.sources[0]
    if isinstance(source, Moments):
        return np.array([max(draw.moments.power, source.power + variance) for variance in noise])
    targets = at_noise_levels(source, noise).targets
    return np.maximum(draw.moments.power, np.mean(np.sum(targets**2, axis=1), axis=0))


def blown_up(test: Losses, train: Losses, before: Float[np.ndarray, " noise"], times: Times) -> np.ndarray:
    """Where a run is beyond recovery, and all of its later times."""
    limit = _BLOWN_UP * before[:, None, None]
    with np.errstate(invalid="ignore"):
        gone = ~((test <= limit) & (train <= limit))
    order = np.argsort(times, kind="stable")
    gone[..., order] = np.logical_or.accumulate(gone[..., order], axis=-1)
    return gone
