"""Norms of inputs and the angles between them, in full relative precision also for near-duplicates."""

import numpy as np
from jaxtyping import Float, Int

from foretrain.errors import InvalidInput

# Below this gap (and above two minus it) the matrix product has lost more than two digits of 1 -/+ rho; those few
# pairs are computed again from differences (sums) of the unit vectors.
_CLOSE = 0.02
# Floats of scratch space for that second computation.
_SCRATCH = 4_000_000


def check_inputs(
    x: object, who: str, name: str, features: int | None = None, *, keep_float32: bool = False
) -> Float[np.ndarray, "rows features"]:
    """The inputs as a float64 matrix of rows.

    Args:
        x: What the user passed.
        who: Name of the calling function, for messages.
        name: Name of the argument, for messages.
        features: Number of columns that is expected, if known.
        keep_float32: Leave inputs that come in float32 as they are.

    Raises:
        InvalidInput: Not a non-empty, finite matrix, or the wrong number of columns.
    """
    try:
        array = np.asarray(x)
        if not keep_float32 or array.dtype != np.float32:
            array = array.astype(np.float64, copy=False)
    except (TypeError, ValueError):
        raise InvalidInput(
            f"{who}({name}): expected a matrix of numbers, one row an input, got {type(x).__name__}."
        ) from None
    if array.ndim != 2 or 0 in array.shape:
        hint = "; give one vector as x[None, :]" if array.ndim == 1 and array.size else ""
        raise InvalidInput(
            f"{who}({name}): expected a non-empty matrix (rows, features), got shape {array.shape}{hint}."
        )
    if features is not None and array.shape[1] != features:
        raise InvalidInput(
            f"{who}({name}): expected {features} features like the first argument, got {array.shape[1]}."
        )
    with np.errstate(all="ignore"):
        finite = np.all(np.isfinite(np.vecdot(array, array)))  # one pass; squares of huge numbers overflow
    if not finite and not np.all(np.isfinite(array)):
        row = int(np.argwhere(~np.isfinite(array))[0, 0])
        count = int(np.sum(~np.isfinite(array).all(axis=1)))
        raise InvalidInput(
            f"{who}({name}): expected finite numbers, got NaN or infinity in {count} of {len(array)} rows (first: row {row}); "
            "remove or impute them."
        )
    return array


def directions(
    x: Float[np.ndarray, "rows features"],
) -> tuple[Float[np.ndarray, "rows features"], Float[np.ndarray, " rows"]]:
    """Unit vectors and mean squares |x|^2/D of the rows; a zero row keeps a zero vector."""
    largest = np.max(np.abs(x), axis=1, keepdims=True)
    scaled = x / np.where(largest > 0.0, largest, 1.0)  # so that squares neither overflow nor vanish
    norm = np.linalg.norm(scaled, axis=1, keepdims=True)
    unit = scaled / np.where(norm > 0.0, norm, 1.0)
    return unit, (largest * norm)[:, 0] ** 2 / x.shape[1]


def angles(
    unit_x: Float[np.ndarray, "rows features"], unit_y: Float[np.ndarray, "columns features"]
) -> Float[np.ndarray, "rows columns"]:
    r"""Angles between unit vectors, with an absolute error of a few 1e-16 everywhere and a relative one near 0.

    $\theta=2\,\mathrm{atan2}(|\hat x-\hat y|,|\hat x+\hat y|)$ (Kahan), from one matrix product where the vectors are well
    apart. A zero vector is at a right angle to everything.
    """
    product = unit_x @ unit_y.T
    result = np.arccos(np.clip(product, -1.0, 1.0))
    rows, columns = np.nonzero(np.abs(product) > 1.0 - _CLOSE)
    apart, together = close_pairs(unit_x, unit_y, rows, columns)
    result[rows, columns] = 2.0 * np.arctan2(apart, together)
    return result


def close_pairs(
    unit_x: Float[np.ndarray, "rows features"],
    unit_y: Float[np.ndarray, "columns features"],
    rows: Int[np.ndarray, " pairs"],
    columns: Int[np.ndarray, " pairs"],
) -> tuple[Float[np.ndarray, " pairs"], Float[np.ndarray, " pairs"]]:
    """Norms of the differences and of the sums of some pairs of unit vectors, in full relative precision."""
    apart, together = np.empty(len(rows)), np.empty(len(rows))
    step = max(1, _SCRATCH // unit_x.shape[1])
    for start in range(0, len(rows), step):
        some = slice(start, start + step)
        x, y = unit_x[rows[some]], unit_y[columns[some]]
        apart[some] = np.linalg.norm(x - y, axis=1)
        together[some] = np.linalg.norm(x + y, axis=1)
    return apart, together
