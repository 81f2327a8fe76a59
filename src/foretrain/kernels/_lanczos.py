r"""Block Lanczos with full reorthogonalization: Rayleigh-Ritz pairs on a block Krylov space.

For a symmetric matrix $G$ and a starting block $B$ the space spanned by $B, GB, G^2B,\dots$ holds at once what a measurement
of a large Gram matrix needs: its top eigenpairs, ridge solutions $(G+z)^{-1}b$ of every column $b$ of the start at *every*
ridge (those of block conjugate gradients), and block Gauss quadrature of $b^\top f(G)b$. `docs/theory/measuring-spectra.md`,
(MS.21) to (MS.23).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Float

# Blocks between two looks at whether the space is large enough: a look costs the cube of its size.
_LOOK_EVERY = 4


class Ritz(NamedTuple):
    """Rayleigh-Ritz pairs, descending: `basis @ rotation` are the vectors, orthonormal to rounding."""

    values: Float[np.ndarray, " space"]
    rotation: Float[np.ndarray, "space space"]
    basis: Float[np.ndarray, "rows space"]
    boundary: Float[np.ndarray, "block space"]  # G v - value v of each pair, in the next block's orthonormal basis

    @property
    def residuals(self) -> Float[np.ndarray, " space"]:
        """Norms of G v - value v; an eigenvalue lies within this distance of each value."""
        return np.linalg.norm(self.boundary, axis=0)


def block_lanczos(
    product: Callable[[Float[np.ndarray, "rows block"]], Float[np.ndarray, "rows block"]],
    start: Float[np.ndarray, "rows block"],
    enough: Callable[[Ritz], bool],
    *,
    least: int,
    largest: int,
    rounding: float,
) -> Ritz:
    """Ritz pairs of the smallest block Krylov space that is `enough`, invariant, or `largest`.

    Args:
        product: The symmetric matrix times a block.
        start: The first block; dependent columns are dropped.
        enough: Asked once there are `least` vectors, and after every fourth block from then on.
        least: Fewest vectors, unless the space is invariant before.
        largest: Most vectors; the space ends at the last block within it.
        rounding: Relative size, against the largest eigenvalue, of what a product leaves of an exact zero.
    """
    rows = len(start)
    largest = max(min(largest, rows), 1)
    basis = np.empty((rows, largest), order="F")  # memory is taken only as columns are written
    matrix = np.zeros((largest, largest))
    norms = np.linalg.norm(start, axis=0)
    block = _orthonormal(start / np.where(norms > 0.0, norms, 1.0), 1e-10)[0][:, :largest]
    size, since = 0, _LOOK_EVERY - 1
    while True:
        width = block.shape[1]
        held = basis[:, : size + width]
        held[:, size:] = block
        image = product(block)
        coupling = held.T @ image
        matrix[: size + width, size : size + width] = coupling
        matrix[size : size + width, : size + width] = coupling.T
        corner = slice(size, size + width)
        matrix[corner, corner] = 0.5 * (coupling[size:] + coupling[size:].T)
        image -= held @ coupling
        image -= held @ (held.T @ image)
        size += width
        scale = float(np.max(np.abs(np.diagonal(matrix)[:size])))
        block, factor = _orthonormal(image, rounding * scale)
        if block.shape[1]:  # short ones have lost their orthogonality to the basis
            block, turned = _orthonormal(block - held @ (held.T @ block), 0.5)
            factor = turned @ factor
        last = block.shape[1] == 0 or size + block.shape[1] > largest
        since += size >= least
        if last or since == _LOOK_EVERY:
            since = 0
            ritz = _pairs(matrix[:size, :size], held, width, factor)
            if last or enough(ritz):
                return ritz


def _pairs(matrix: np.ndarray, basis: np.ndarray, width: int, factor: np.ndarray) -> Ritz:
    values, rotation = scipy.linalg.eigh(matrix, check_finite=False, driver="evd")
    values, rotation = values[::-1].copy(), rotation[:, ::-1]
    return Ritz(values, rotation, basis, factor @ rotation[-width:])


def _orthonormal(
    block: Float[np.ndarray, "rows columns"], smallest: float
) -> tuple[Float[np.ndarray, "rows kept"], Float[np.ndarray, "kept columns"]]:
    """An orthonormal basis of the block's columns without directions shorter than `smallest`, and the block in it.

    By the eigenvectors of the columns' inner products, which is all matrix products (a pivoted QR is not). Directions
    shorter than 1e-7 of the longest are beyond it and dropped; a second call takes the first one's rounding away.
    """
    squares, turn = scipy.linalg.eigh(block.T @ block, check_finite=False)
    lengths = np.sqrt(np.maximum(squares, 0.0))
    kept = lengths > max(smallest, 1e-7 * lengths[-1])
    return block @ (turn[:, kept] / lengths[kept]), lengths[kept, None] * turn[:, kept].T
