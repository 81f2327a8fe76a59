"""Gram matrices, block by block within a budget of memory that is checked before anything is allocated."""

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


def gram_bytes(rows: int, columns: int, *, dtype: str = "float64") -> float:
    """Bytes that `gram` needs for a matrix of this shape: the result and the blocks in work."""
    block = _block_size(max(rows, columns))
    return rows * columns * np.dtype(dtype).itemsize + _LIVE_BLOCKS * block**2 * 8.0


def gram(
    kernel: "InfiniteWidthKernel",
    x: Float[np.ndarray, "rows features"],
    y: Float[np.ndarray, "columns features"] | None = None,
    *,
    memory: float | None = None,
    dtype: str = "float64",
) -> Float[np.ndarray, "rows columns"]:
    """The kernel matrix K(x_i, y_j), in blocks.

    Errors are a few 1e-16 of sqrt(K(x,x) K(y,y)), also between near-duplicates and at any depth (1e-15 at depth 10).
    Without `y` the matrix is exactly symmetric and only half of it is computed.

    Args:
        kernel: `NNGP` or `NTK`.
        x: One input a row.
        y: Other inputs; `x` itself when left out.
        memory: Budget in bytes; half of the free memory by default.
        dtype: `"float64"`, or `"float32"` to store the (always float64) results in half the memory.

    Returns:
        The matrix, a NumPy array.

    Raises:
        TooLarge: The estimate exceeds the budget; nothing has been allocated.
        InvalidInput: Inputs that are no finite matrix, or of different numbers of features.

    Example:
        >>> import numpy as np
        >>> from foretrain.kernels import NNGP, gram
        >>> x = np.random.default_rng(0).normal(size=(300, 10))
        >>> gram(NNGP(depth=2), x, dtype="float32").shape
        (300, 300)
    """
    x = check_inputs(x, "gram", "x")
    other = x if y is None else check_inputs(y, "gram", "y", x.shape[1])
    if dtype not in ("float64", "float32"):
        raise InvalidInput(f"gram(dtype): expected 'float64' or 'float32', got {dtype!r}.")
    budget = _DEFAULT_FRACTION * free_memory() if memory is None else float(memory)
    check_memory(len(x), len(other), budget, dtype=dtype)

    from foretrain.kernels._infinite_width import _evaluate_jit

    unit_x, square_x = directions(x)
    unit_y, square_y = (unit_x, square_x) if y is None else directions(other)
    result = np.empty((len(x), len(other)), dtype=dtype)
    size = _block_size(max(result.shape))
    for top in range(0, len(x), size):
        rows = slice(top, min(top + size, len(x)))
        for left in range(top if y is None else 0, len(other), size):
            columns = slice(left, min(left + size, len(other)))
            angle = angles(unit_x[rows], unit_y[columns])
            if y is None and top == left:
                np.fill_diagonal(angle, 0.0)
            # One shape for all blocks, so that the recursion is compiled once.
            padded = np.zeros((size, size))
            padded[: angle.shape[0], : angle.shape[1]] = angle
            with jax.enable_x64(True):
                block = _evaluate_jit(
                    kernel,
                    jnp.asarray(_pad(square_x[rows], size)[:, None]),
                    jnp.asarray(_pad(square_y[columns], size)[None, :]),
                    jnp.asarray(padded),
                )
            block = np.asarray(block)[: angle.shape[0], : angle.shape[1]]
            if y is None and top == left:
                block = np.triu(block) + np.triu(block, 1).T
            result[rows, columns] = block
            if y is None and top != left:
                result[columns, rows] = block.T
    return result


def check_memory(rows: int, columns: int, budget: float, *, dtype: str = "float64", who: str = "gram") -> None:
    """Raise `TooLarge` with the estimate when a Gram matrix of this shape exceeds the budget in bytes."""
    need = gram_bytes(rows, columns, dtype=dtype)
    if need > budget:
        raise TooLarge(
            f"{who}: a {rows} x {columns} kernel matrix in {dtype} needs {need / 1e9:.3g} GB, the budget is {budget / 1e9:.3g} GB; "
            "use fewer rows, dtype='float32', or pass a larger `memory` (bytes)."
        )


def _pad(values: Float[np.ndarray, " rows"], size: int) -> Float[np.ndarray, " block"]:
    return np.concatenate([values, np.ones(size - len(values))])


def _block_size(longest: int) -> int:
    """A power of two from 64 to 1024: few shapes to compile, little padding for small sets."""
    size = 64
    while size < min(longest, _LARGEST_BLOCK):
        size *= 2
    return size
