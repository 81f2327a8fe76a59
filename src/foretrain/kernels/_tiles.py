"""Gram matrices of kernels that have a profile: tiles of the product, then one elementwise pass, on all threads of the BLAS.

Each thread multiplies the tiles of a small group with a single-threaded BLAS into one stack, applies the profile to the
stack in one compiled call, and copies the tiles (and their mirror images) to their places. Close and opposite pairs,
whose angle the product does not resolve, are computed from differences and sums of unit vectors in float64.
"""

import contextlib
import functools
import itertools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jaxtyping import Float
from threadpoolctl import ThreadpoolController

from foretrain.kernels._geometry import close_pairs, directions
from foretrain.kernels._profile import Profile, apply

# Rows of a tile, by the rows of the longest side from which it is used, and tiles a compiled call: few enough for the
# cache, enough to be worth the call, and small enough to occupy all threads.
_SIZES = ((2048, 512, 2), (129, 256, 5), (65, 128, 1), (0, 64, 1))
# Distance of |rho| from one up to which pairs are computed from differences.
_CLOSE = {"float64": 0.02, "float32": 0.05}
# Squared norms between which neither products nor their inverses overflow or lose digits.
_SAFE = {"float64": (1e-280, 1e280), "float32": (1e-28, 1e28)}

# Tile (i, j): the i-th piece of the rows, the j-th piece of the columns.
Tile = tuple[int, int]


def cuts(length: int, largest: int) -> list[int]:
    """Edges of the fewest nearly equal pieces of at most `largest`."""
    pieces = -(-length // largest)
    return [length * piece // pieces for piece in range(pieces + 1)]


class Side:
    """The rows on one side of a Gram matrix, and their norms.

    `original` are the rows as they came, for differences; `rows` may be rounded to float32, or scaled to unit length where
    squares would overflow.
    """

    mean_square: Float[np.ndarray, " rows"]
    norm: Float[np.ndarray, " rows"]

    def __init__(self, original: Float[np.ndarray, "rows features"], dtype: str):
        self.original = original
        square = _squares(original)
        zero, (low, high) = square == 0.0, _SAFE[dtype]
        if np.all(zero | ((square > low) & (square < high))) and not original[zero].any():
            rows, self.mean_square, self.norm = original, square / original.shape[1], np.sqrt(square)
        else:
            rows, self.mean_square = directions(original.astype(np.float64))
            self.norm = np.where(self.mean_square > 0.0, 1.0, 0.0)
        self.rows = np.ascontiguousarray(rows, dtype=dtype)


def _squares(rows: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, " rows"]:
    """Squared norms; infinite or zero where they leave the range of the numbers."""
    with np.errstate(all="ignore"):
        return np.asarray(np.vecdot(rows, rows), dtype=np.float64)


class _Tiled:
    """A side cut into tiles, with the factors of its rows padded to the size of a tile."""

    def __init__(self, side: Side, root: Float[np.ndarray, " rows"], size: int):
        self.side, self.root = side, root
        edges = cuts(len(root), size)
        self.slices = [slice(*pair) for pair in itertools.pairwise(edges)]
        positive = np.greater(side.norm, 0.0)
        inverse = np.zeros_like(root)
        np.divide(1.0, side.norm, out=inverse, where=positive)
        shape = (len(self.slices), size)
        self.inverses, self.roots = np.zeros(shape, side.rows.dtype), np.zeros(shape, side.rows.dtype)
        # The least norm in each tile bounds every correlation of it from its largest product.
        self.least = np.zeros(len(self.slices))
        for tile, where in enumerate(self.slices):
            count = where.stop - where.start
            self.inverses[tile, :count], self.roots[tile, :count] = inverse[where], root[where]
            self.least[tile] = np.min(np.where(positive, side.norm, np.inf)[where])


class ProfileGram:
    """A Gram matrix by the profile of its kernel, tile by tile.

    Args:
        profile: Of the kernel.
        x: The rows.
        y: The columns, or None for the symmetric matrix of `x`.
        homogeneous: Whether the profile is multiplied by the square roots of both mean squares.
        dtype: `"float64"` or `"float32"`: of the product, of the elementwise pass and of the result.
    """

    name = "profile"

    def __init__(self, profile: Profile, x: Side, y: Side | None, *, homogeneous: bool, dtype: str):
        self.profile, self.dtype, self.symmetric = profile, np.dtype(dtype), y is None
        longest = max(len(x.rows), len(y.rows) if y else 0)
        self.size, self._group = next((size, group) for least, size, group in _SIZES if longest >= least)

        def tiled(side: Side) -> _Tiled:
            root = np.sqrt(side.mean_square) if homogeneous else np.ones(len(side.rows))
            return _Tiled(side, root, self.size)

        self._x = tiled(x)
        self._y = self._x if y is None else tiled(y)
        self._close = _CLOSE[dtype]
        self._series = profile.series(dtype)

    @property
    def grid(self) -> tuple[int, int]:
        """Numbers of tiles along rows and columns."""
        return len(self._x.slices), len(self._y.slices)

    def region(self, tile: Tile) -> tuple[slice, slice]:
        """Rows and columns of a tile."""
        return self._x.slices[tile[0]], self._y.slices[tile[1]]

    def fill(self, result: Float[np.ndarray, "rows columns"], tiles: Sequence[Tile]) -> None:
        """Compute these tiles into their places, and mirror them in the symmetric case."""
        with _own_threads() as threads:
            groups = self._groups(tiles, threads)
            longest = len(groups[0])
            height = longest if longest < 3 else self._group  # few shapes to compile
            waiting, lock, stop = iter(groups), threading.Lock(), threading.Event()

            def work() -> None:
                stack = _aligned((height, self.size, self.size), self.dtype)
                try:
                    with jax.enable_x64(True):
                        while not stop.is_set():
                            with lock:
                                group = next(waiting, None)
                            if group is None:
                                return
                            self._compute(result, stack, group)
                finally:
                    stop.set()  # an error or an interrupt in one thread ends the others; so does the end of the work

            helpers = min(threads, len(groups)) - 1
            if helpers < 1:
                work()
                return
            with ThreadPoolExecutor(helpers) as pool:
                others = [pool.submit(work) for _ in range(helpers)]
                work()
                for other in others:
                    other.result()

    def _groups(self, tiles: Sequence[Tile], threads: int) -> list[list[Tile]]:
        """Groups of tiles of nearly equal work: whole tiles first, then the diagonal ones, which cost half."""
        whole = [tile for tile in tiles if not self.symmetric or tile[0] != tile[1]]
        ordered = whole + [tile for tile in tiles if self.symmetric and tile[0] == tile[1]]
        count = -(-len(ordered) // self._group)
        if len(ordered) > 1:
            count = -(-count // threads) * threads
        return [group for first in range(count) if (group := ordered[first::count])]

    def _compute(
        self, result: Float[np.ndarray, "rows columns"], stack: Float[np.ndarray, "tiles size size"], group: list[Tile]
    ) -> None:
        x, y = self._x, self._y
        exact = []
        for product, (i, j) in zip(stack, group, strict=False):
            rows, columns = self.region((i, j))
            part = product[: rows.stop - rows.start, : columns.stop - columns.start]
            np.matmul(x.side.rows[rows], y.side.rows[columns].T, out=part)
            if self.symmetric and i == j:
                np.fill_diagonal(part, 0.0)
            # Extremes of the whole contiguous tile, which holds nothing else or what was there before: quick, and at worst too large.
            largest = max(float(product.max()), -float(product.min()))
            close = largest > (1.0 - self._close) * x.least[i] * y.least[j]
            exact.append(self._exact(part, i, j) if close else None)
        # The compiled program has one shape: the rest of the stack is computed in vain.
        padded = group + [group[0]] * (len(stack) - len(group))
        first, second = [i for i, _ in padded], [j for _, j in padded]
        values = np.asarray(
            apply(
                stack,
                (x.inverses[first], y.inverses[second]),
                (x.roots[first], y.roots[second]),
                self._series.coefficients,
                self._series.chebyshev,
            )
        )
        for value, (i, j), pairs in zip(values, group, exact, strict=False):
            rows, columns = self.region((i, j))
            part, value = result[rows, columns], value[: rows.stop - rows.start, : columns.stop - columns.start]
            part[...] = value
            if pairs is not None:
                part[pairs[0], pairs[1]] = pairs[2]
            if not self.symmetric:
                continue
            if i == j:
                # NumPy multiplies a matrix by its own transpose symmetrically, and the pass treats both halves alike.
                np.fill_diagonal(part, self.profile.at_zero * x.root[rows] ** 2)
            else:
                result[columns, rows] = part.T

    def _exact(
        self, part: Float[np.ndarray, "rows columns"], i: int, j: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Rows, columns and values of the pairs of a tile that are close or opposite, from differences; None if there are none."""
        rows, columns = self.region((i, j))
        x, y = self._x, self._y
        inverse = x.inverses[i, : len(part), None] * y.inverses[j, None, : part.shape[1]]
        correlation = part * inverse
        first, second = np.nonzero(np.abs(correlation) > 1.0 - self._close)
        if len(first) == 0:
            return None
        apart, together = close_pairs(
            directions(x.side.original[rows].astype(np.float64))[0],
            directions(y.side.original[columns].astype(np.float64))[0],
            first,
            second,
        )
        positive = correlation[first, second] > 0.0
        value = self.profile.at(0.5 * np.where(positive, apart, together), positive)
        return first, second, value * (x.root[rows][first] * y.root[columns][second])


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros at an address that the compiled program takes without a copy."""
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.zeros(size + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


_LIMITING = threading.Lock()


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


@contextlib.contextmanager
def _own_threads() -> Iterator[int]:
    """How many threads the BLAS may use: ours take their place while it runs with one.

    A second call from another thread finds a single-threaded BLAS and takes one thread, so limits are never restored twice.
    """
    with _LIMITING:
        threads = max((library["num_threads"] for library in _blas().info()), default=1)
        limiter = _blas().limit(limits=1) if threads > 1 else None
    try:
        yield threads
    finally:
        if limiter is not None:
            with _LIMITING:
                limiter.restore_original_limits()
