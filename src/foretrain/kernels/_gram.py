"""Gram matrices, block by block within a budget of memory that is checked before anything is allocated."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from foretrain.errors import InvalidInput, TooLarge
from foretrain.kernels._geometry import angles, check_inputs, directions

if TYPE_CHECKING:
    from foretrain.kernels._infinite_width import InfiniteWidthKernel

# Arrays of the size of one block that are alive at once: product, angle, and what the compiled recursion holds.
_LIVE_BLOCKS = 8
_LARGEST_BLOCK = 1024
# Fraction of the free memory that a Gram matrix may take when no budget is given.
_DEFAULT_FRACTION = 0.5
# Bytes that are not worth asking the machine for what is free.
_SMALL = 1e8
# Least number of entries for which a profile is fitted to the norm of these inputs.
_WORTH_A_FIT = 4096
# Rows of a block of a stored matrix, about.
_STORED_ROWS = 2048


@runtime_checkable
class Kernel(Protocol):
    """Anything that can be measured: callable on two sets of rows, with its diagonal.

    `kernel(x, y)` returns the matrix of K(x_i, y_j) in float64, `kernel(x)` the Gram matrix of `x`, and
    `kernel.diagonal(x)` the vector of K(x_i, x_i).
    """

    def __call__(
        self, x: Float[np.ndarray, "rows features"], y: Float[np.ndarray, "columns features"] | None = None
    ) -> Float[np.ndarray, "rows columns"]: ...

    def diagonal(self, x: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, " rows"]:
        """K(x_i, x_i) of every row."""
        ...


def free_memory() -> float:
    """Bytes of memory that this process may still take: what the machine has free, within its control group's limit."""
    free = np.inf
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = float(line.split()[1]) * 1024.0
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        free = min(free, max(float(text) - float(used.read_text()), 0.0))
    return free if np.isfinite(free) else 4e9


def gram_bytes(rows: int, columns: int, *, dtype: str = "float64", stored: bool = False) -> float:
    """Bytes of memory that `gram` needs for a matrix of this shape: the result and the blocks in work.

    Args:
        rows: Number of rows.
        columns: Number of columns.
        dtype: `"float64"` or `"float32"`.
        stored: Whether the result goes to a file (`out`): only the blocks in work count.
    """
    block = _block_size(max(rows, columns))
    result = 0.0 if stored else float(rows) * columns * np.dtype(dtype).itemsize
    return result + _LIVE_BLOCKS * block**2 * 8.0


def gram(
    kernel: "InfiniteWidthKernel",
    x: Float[np.ndarray, "rows features"],
    y: Float[np.ndarray, "columns features"] | None = None,
    *,
    memory: float | None = None,
    dtype: str = "float64",
    out: str | Path | None = None,
) -> Float[np.ndarray, "rows columns"]:
    r"""The kernel matrix K(x_i, y_j), in blocks.

    Without biases (`relu`, `leaky-relu`, `linear`), or when all inputs have the same norm to rounding (any activation and
    biases), the whole recursion is one function of the angle: it is fitted once (a fraction of a second, mostly compilation)
    and kept, and the matrix costs one product and one pass over its elements at any depth. Else the recursion runs on
    every pair. Without `y` the matrix is exactly symmetric and only half of it is computed.

    In float64, errors are a few 1e-15 of sqrt(K(x,x) K(y,y)) at most, also between near-duplicates and opposite inputs and at
    depth 10. In float32 the product and the pass run in float32: errors were 4e-7 at most for 20 features and 8e-7 for 784
    (uncentred rows are the worst), and grow with the number of features as those of the product. Close and opposite pairs
    are computed from differences of the inputs in float64 there too, so near-duplicates are no worse. Where there is no profile, float32 only stores float64 results.

    Args:
        kernel: `NNGP` or `NTK`.
        x: One input a row.
        y: Other inputs; `x` itself when left out.
        memory: Budget in bytes; half of the free memory by default.
        dtype: `"float64"`, or `"float32"` for half the memory and half the time.
        out: Name of a `.npy` file for a matrix that is larger than memory. Blocks are written to it as they are finished,
            and noted in a record beside it (`NAME.npy.blocks.json`). The same call after an interruption checks the blocks
            that are there and computes the others, to the same bits; after the end it only opens the file.

    Returns:
        The matrix, a NumPy array; with `out`, a read-only memory map of the file.

    Raises:
        TooLarge: The estimate exceeds the budget, or the file the disk; nothing has been allocated.
        InvalidInput: Inputs that are no finite matrix, or of different numbers of features; a file or record in `out` that
            belongs to something else or is damaged.

    Example:
        >>> import numpy as np
        >>> from foretrain.kernels import NNGP, gram
        >>> x = np.random.default_rng(0).normal(size=(300, 10))
        >>> gram(NNGP(depth=2), x, dtype="float32").shape
        (300, 300)
    """
    if dtype not in ("float64", "float32"):
        raise InvalidInput(f"gram(dtype): expected 'float64' or 'float32', got {dtype!r}.")
    keep = dtype == "float32"
    x = check_inputs(x, "gram", "x", keep_float32=keep)
    other = None if y is None else check_inputs(y, "gram", "y", x.shape[1], keep_float32=keep)
    shape = (len(x), len(x) if other is None else len(other))
    if memory is not None or gram_bytes(*shape, dtype=dtype, stored=out is not None) > _SMALL:
        budget = _DEFAULT_FRACTION * free_memory() if memory is None else float(memory)
        check_memory(*shape, budget, dtype=dtype, stored=out is not None)
    method = _method(kernel, x, other, dtype)
    if out is not None:
        return _stored(kernel, x, other, dtype, method, out)
    result = np.empty(shape, dtype=dtype)
    rows, columns = method.grid
    method.fill(result, [(i, j) for i in range(rows) for j in range(i if y is None else 0, columns)])
    return result


def check_memory(
    rows: int, columns: int, budget: float, *, dtype: str = "float64", who: str = "gram", stored: bool = False
) -> None:
    """Raise `TooLarge` with the estimate when a Gram matrix of this shape exceeds the budget in bytes."""
    need = gram_bytes(rows, columns, dtype=dtype, stored=stored)
    if need > budget:
        smaller = "" if dtype == "float32" or who != "gram" else "dtype='float32', "
        file = "" if stored or who != "gram" else "out='NAME.npy' (a file, written in blocks), "
        raise TooLarge(
            f"{who}: a {rows} x {columns} kernel matrix in {dtype} needs {need / 1e9:.3g} GB, the budget is {budget / 1e9:.3g} GB; "
            f"use fewer rows, {smaller}{file}or pass a larger `memory` (bytes)."
        )


class GramMethod(Protocol):
    """A way to compute tiles of a Gram matrix."""

    name: str
    symmetric: bool

    @property
    def grid(self) -> tuple[int, int]:
        """Numbers of tiles along rows and columns."""
        ...

    def region(self, tile: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns of a tile."""
        ...

    def fill(self, result: Float[np.ndarray, "rows columns"], tiles: Sequence[tuple[int, int]]) -> None:
        """Compute these tiles into their places, and mirror them in the symmetric case."""
        ...


def _method(
    kernel: "InfiniteWidthKernel",
    x: Float[np.ndarray, "rows features"],
    y: Float[np.ndarray, "columns features"] | None,
    dtype: str,
) -> GramMethod:
    """By the profile where there is one, else by the recursion on every pair."""
    from foretrain.kernels._profile import common_square, profile
    from foretrain.kernels._tiles import ProfileGram, Side

    side_x, side_y = Side(x, dtype), None if y is None else Side(y, dtype)
    if kernel.homogeneous:
        fitted = profile(kernel)
    else:
        squares = side_x.mean_square if side_y is None else np.concatenate([side_x.mean_square, side_y.mean_square])
        common = common_square(squares, dtype)
        worth = len(x) * (len(x) if y is None else len(y)) >= _WORTH_A_FIT
        fitted = profile(kernel, common) if common is not None and worth else None
    if fitted is None:
        return _RecursionGram(
            kernel, x.astype(np.float64, copy=False), None if y is None else y.astype(np.float64, copy=False)
        )
    return ProfileGram(fitted, side_x, side_y, homogeneous=kernel.homogeneous, dtype=dtype)


class _RecursionGram:
    """A Gram matrix by the recursion on every pair, in float64, one tile after another."""

    name = "recursion"

    def __init__(
        self,
        kernel: "InfiniteWidthKernel",
        x: Float[np.ndarray, "rows features"],
        y: Float[np.ndarray, "columns features"] | None,
    ):
        self._kernel, self.symmetric = kernel, y is None
        self._x = directions(x)
        self._y = self._x if y is None else directions(y)
        self._size = _block_size(max(len(unit) for unit, _ in (self._x, self._y)))

    @property
    def grid(self) -> tuple[int, int]:
        return -(-len(self._x[0]) // self._size), -(-len(self._y[0]) // self._size)

    def region(self, tile: tuple[int, int]) -> tuple[slice, slice]:
        (i, j), size = tile, self._size
        rows, columns = len(self._x[0]), len(self._y[0])
        return slice(i * size, min((i + 1) * size, rows)), slice(j * size, min((j + 1) * size, columns))

    def fill(self, result: Float[np.ndarray, "rows columns"], tiles: Sequence[tuple[int, int]]) -> None:
        from foretrain.kernels._infinite_width import evaluate_jit

        (unit_x, square_x), (unit_y, square_y), size = self._x, self._y, self._size
        for tile in tiles:
            rows, columns = self.region(tile)
            angle = angles(unit_x[rows], unit_y[columns])
            diagonal = self.symmetric and tile[0] == tile[1]
            if diagonal:
                np.fill_diagonal(angle, 0.0)
            # One shape for all blocks, so that the recursion is compiled once.
            padded = np.zeros((size, size))
            padded[: angle.shape[0], : angle.shape[1]] = angle
            with jax.enable_x64(True):
                block = evaluate_jit(
                    self._kernel,
                    jnp.asarray(_pad(square_x[rows], size)[:, None]),
                    jnp.asarray(_pad(square_y[columns], size)[None, :]),
                    jnp.asarray(padded),
                )
            block = np.asarray(block)[: angle.shape[0], : angle.shape[1]]
            if diagonal:
                block = np.triu(block) + np.triu(block, 1).T
            result[rows, columns] = block
            if self.symmetric and not diagonal:
                result[columns, rows] = block.T


def _stored(
    kernel: "InfiniteWidthKernel",
    x: Float[np.ndarray, "rows features"],
    y: Float[np.ndarray, "columns features"] | None,
    dtype: str,
    method: GramMethod,
    out: str | Path,
) -> Float[np.ndarray, "rows columns"]:
    """The matrix in a file: squares of tiles are computed, noted, and found again by the next call."""
    from foretrain.kernels._stored import StoredMatrix

    shape = (len(x), len(x) if y is None else len(y))
    first, _ = method.region((0, 0))
    step = max(1, _STORED_ROWS // first.stop)
    down, across = (range(0, tiles, step) for tiles in method.grid)
    corners = [(i, j) for i in down for j in across if not method.symmetric or i <= j]

    def tiles_of(block: int) -> list[tuple[int, int]]:
        i, j = corners[block]
        rows, columns = range(i, min(i + step, method.grid[0])), range(j, min(j + step, method.grid[1]))
        return [(a, b) for a in rows for b in columns if not method.symmetric or a <= b]

    def read(matrix: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
        tiles = tiles_of(block)
        rows = slice(method.region(tiles[0])[0].start, method.region(tiles[-1])[0].stop)
        columns = slice(method.region(tiles[0])[1].start, method.region(tiles[-1])[1].stop)
        part = matrix[rows, columns]
        return part, matrix[columns, rows].T if method.symmetric else part

    # The edges of the tiles enter: a block means the same rows in every call.
    named = [kernel.digest(), method.name, dtype, repr(step), repr(first.stop)]
    digest = hashlib.sha256(" ".join(named).encode())
    for rows in (x,) if y is None else (x, y):
        digest.update(f" {rows.dtype} {rows.shape} ".encode())
        digest.update(np.ascontiguousarray(rows).data)
    store = StoredMatrix(out, shape, dtype, blocks=len(corners), read=read, digest=digest.hexdigest(), who="gram(out)")
    try:
        for block in store.missing():
            method.fill(store.matrix, tiles_of(block))
            store.mark(block)
    finally:
        store.save()  # an interrupt keeps what is done
    return store.finished()


def _pad(values: Float[np.ndarray, " rows"], size: int) -> Float[np.ndarray, " block"]:
    return np.concatenate([values, np.ones(size - len(values))])


def _block_size(longest: int) -> int:
    """A power of two from 64 to 1024: few shapes to compile, little padding for small sets."""
    size = 64
    while size < min(longest, _LARGEST_BLOCK):
        size *= 2
    return size
