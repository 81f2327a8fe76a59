"""The tangent kernel of a finite network with given parameters, in blocks of rows that fit a memory budget."""

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from foretrain._declaration import show
from foretrain.errors import InvalidInput, TooLarge, nearest
from foretrain.kernels._gram import free_memory
from foretrain.kernels._tangent import (
    Apply,
    Factors,
    Network,
    check_output,
    contract,
    differentiable,
    differentiate,
    list_rates,
    read_network,
)

_WHO = "empirical_ntk"
# Share of the free memory that the kernel may take unless told otherwise.
_DEFAULT_FRACTION = 0.5
# Rows of a block: above it nothing is gained, and the products of one pair of blocks leave the cache.
_LARGEST_BLOCK = 2048
# Rows on which the network is run together and one by one, to see whether rows mix.
_TRIAL_ROWS = 4


class _Compiled(NamedTuple):
    """What is made once for a network and the shapes of its parameters and rows."""

    differentiate: Callable[..., Factors]
    contract: Callable[..., jax.Array]
    compare: Callable[..., tuple[jax.Array, jax.Array]]
    outputs: int
    row_bytes: float  # derivatives of one row
    work_bytes: float  # what one row needs besides while they are computed
    pair_bytes: float  # what one pair of rows needs while they are multiplied
    largest: str  # the parameter with the largest Jacobian that is formed


def empirical_ntk(
    apply: Apply,
    params: Any,
    x: Shaped[np.ndarray, "rows *shape"],
    y: Shaped[np.ndarray, "columns *shape"] | None = None,
    *,
    outputs: str = "trace",
    learning_rates: Any = None,
    method: str = "auto",
    dtype: str | None = None,
    memory: float | None = None,
) -> Float[np.ndarray, "rows columns"] | Float[np.ndarray, "rows outputs columns outputs"]:
    r"""Tangent kernel of a finite network at given parameters.

    $$\Theta_{ij}=\sum_o\sum_pr_p\frac{\partial f_o(x_i)}{\partial\theta_p}\frac{\partial f_o(x_j)}{\partial\theta_p}$$

    Sums, not means, over outputs $o$ and parameters $p$: gradient flow $\dot\theta_p=-r_p\,\partial_p\sum_j\ell(f(x_j))$ moves
    one output as $\dot f(x_i)=-\sum_j\Theta_{ij}\,\ell'(f(x_j))$, and a network in the NTK parameterization tends to
    `NTK` as its layers get wide. Without `y` the matrix is exactly symmetric.

    The network may be any function that JAX can differentiate. Weights that enter through one matrix product (layers of
    fully connected networks, alone, scaled or transposed) are found by themselves and cost two small Gram matrices
    instead of one over all their entries. That takes milliseconds where the Jacobian takes seconds.

    Each row is passed through the network alone, so a network that mixes rows (batch normalization with the statistics
    of the batch) has no such kernel; it is refused when four rows together and one by one give different outputs. Random
    numbers (dropout) must be fixed inside `apply`.

    Not for infinitely wide networks, which need no parameters (`NTK`), nor for the curvature of a loss.

    Args:
        apply: A pure function `apply(params, x)` that returns an array of shape (rows,) or (rows, outputs). Compiled once
            for a function object and shapes: pass the same function again, not a new lambda.
        params: Parameters, any tree of arrays. Integer arrays in it are constants.
        x: One input a row, of any further shape; numbers or integers (tokens).
        y: Other inputs; `x` itself when left out.
        outputs: `"trace"`, the sum over outputs; or `"full"`, one kernel for each pair of outputs, also for a
            single one: entry [i, o, j, q] is $\sum_pr_p\,\partial_pf_o(x_i)\,\partial_pf_q(x_j)$.
        learning_rates: Multipliers $r_p\ge0$: a number, or a tree like `params` that may stop short of its leaves, of
            numbers or of arrays that broadcast to the parameter; 0 freezes a parameter. One for all when left out. An
            array (rather than a number) makes that parameter go through its Jacobian.
        method: `"auto"`, or `"jacobian"` to form the Jacobian of every parameter.
        dtype: `"float32"` or `"float64"`, to which parameters and inputs are converted; by default float64 if any of the
            parameters is, else float32.
        memory: Budget in bytes for everything that is allocated; half of the free memory by default.

    Returns:
        The matrix, a NumPy array.

    Raises:
        TooLarge: The estimate exceeds the budget even row by row; nothing has been allocated.
        InvalidInput: Parameters or inputs that are not finite, outputs of another shape, rows that mix, multipliers that do
            not fit the parameters.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from foretrain.kernels import empirical_ntk
        >>> params = {"W": jax.random.normal(jax.random.key(0), (3, 50)), "a": jnp.ones(50)}
        >>> def apply(params, x):
        ...     return jnp.tanh(x @ params["W"]) @ params["a"] / 50**0.5
        >>> x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
        >>> empirical_ntk(apply, params, x).shape
        (20, 20)
        >>> readout = empirical_ntk(apply, params, x, learning_rates={"W": 0.0, "a": 1.0})
        >>> int(np.linalg.matrix_rank(readout))
        20
    """
    if not callable(apply):
        raise InvalidInput(f"{_WHO}(apply): expected a function apply(params, x), got {show(apply)}.")
    _check_choice("outputs", outputs, ("trace", "full"))
    _check_choice("method", method, ("auto", "jacobian"))
    precision = _check_precision(dtype, params)
    with jax.enable_x64(True) if precision == "float64" else contextlib.nullcontext():
        leaves, structure, names = _check_parameters(params, precision)
        rows = _check_rows(x, "x", precision)
        columns = None if y is None else _check_rows(y, "y", precision, rows)
        rates = _check_rates(learning_rates, params, leaves, names, precision)
        shapes = tuple((leaf.shape, leaf.dtype.name) for leaf in leaves)
        ranks = tuple(None if rate is None else np.ndim(rate) for rate in rates)
        prepare = _prepare if _hashable(apply) else _prepare.__wrapped__
        compiled = prepare(
            apply, structure, shapes, (rows.shape[1:], rows.dtype.name), ranks, tuple(names), outputs, method
        )
        arrays = [leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf) for leaf in leaves]
        if len(rows) > 1:
            _check_rows_do_not_mix(compiled, arrays, rows)
        budget = _DEFAULT_FRACTION * free_memory() if memory is None else float(memory)
        return _in_blocks(compiled, arrays, rows, columns, rates, outputs, precision, budget)


# --- blocks -------------------------------------------------------------------------------------------------------------


def _in_blocks(
    compiled: _Compiled,
    leaves: list[jax.Array],
    x: np.ndarray,
    y: np.ndarray | None,
    rates: list[Any],
    outputs: str,
    precision: str,
    budget: float,
) -> np.ndarray:
    """The kernel, block by block; derivatives of all columns are kept if they fit, else computed again."""
    other = x if y is None else y
    each = compiled.outputs if outputs == "full" else 1
    size, kept = _block_size(compiled, len(x), len(other), each, np.dtype(precision).itemsize, budget, y is None)

    def derivatives(rows: np.ndarray, top: int) -> Factors:
        block = rows[top : top + size]
        missing = min(size, max(len(x), len(other))) - len(block)
        # One shape for all blocks, so that they are compiled once.
        padded = np.concatenate([block, np.repeat(block[-1:], missing, axis=0)]) if missing > 0 else block
        return compiled.differentiate(leaves, padded)

    of_columns = functools.partial(derivatives, other)
    if kept:
        of_columns = functools.cache(of_columns)
    of_rows = of_columns if y is None else functools.partial(derivatives, x)
    result = np.empty((len(x), each, len(other), each), dtype=precision)
    for top in range(0, len(x), size):
        left = of_rows(top)
        for start in range(top if y is None else 0, len(other), size):
            right = left if y is None and start == top else of_columns(start)
            block = np.asarray(compiled.contract(left, right, rates))
            height, width = min(size, len(x) - top), min(size, len(other) - start)
            block = block.reshape(len(block), each, -1, each)[:height, :, :width]
            if y is None and start == top:
                square = block.reshape(height * each, -1)
                block = (0.5 * (square + square.T)).reshape(block.shape)  # rounding of the product is not symmetric
            result[top : top + height, :, start : start + width] = block
            if y is None and start != top:
                result[start : start + width, :, top : top + height] = block.transpose(2, 3, 0, 1)
    return result if outputs == "full" else result[:, 0, :, 0]


def _block_size(
    compiled: _Compiled, rows: int, columns: int, each: int, itemsize: int, budget: float, symmetric: bool
) -> tuple[int, bool]:
    """Rows of a block, and whether the derivatives of all columns are kept."""
    result = float(rows) * columns * each * each * itemsize
    longest = max(rows, columns)

    def need(size: int, kept: bool) -> float:
        held = columns + (0 if symmetric else size) if kept else 2 * size
        if symmetric and size >= longest:
            held = size
        return result + held * compiled.row_bytes + size * compiled.work_bytes + size * size * compiled.pair_bytes

    size = min(longest, _LARGEST_BLOCK)
    while size > 1 and need(size, False) > budget:
        size = (size + 1) // 2
    if need(size, False) > budget:
        largest = f"; the largest Jacobian is that of {compiled.largest}" if compiled.largest else ""
        raise TooLarge(
            f"{_WHO}: a {rows} x {columns} kernel of {compiled.outputs} output{'s' if compiled.outputs > 1 else ''} needs "
            f"{need(1, False) / 1e9:.3g} GB even row by row, the budget is {budget / 1e9:.3g} GB{largest}; use fewer rows or "
            "outputs, dtype='float32', or pass a larger `memory` (bytes)."
        )
    size = math.ceil(longest / math.ceil(longest / size))  # blocks of about equal size
    return size, need(size, True) <= budget


@functools.lru_cache(maxsize=64)
def _prepare(
    apply: Apply,
    structure: Any,
    shapes: tuple[tuple[tuple[int, ...], str], ...],
    row: tuple[tuple[int, ...], str],
    ranks: tuple[int | None, ...],
    names: tuple[str, ...],
    outputs: str,
    method: str,
) -> _Compiled:
    """Read the network once, and compile its parts when they are first used."""
    leaves = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    one = jax.ShapeDtypeStruct(*row)
    # Only the rank of a multiplier matters for how its parameter is differentiated.
    rates = [None if rank is None else np.ones((1,) * rank) for rank in ranks]

    def read() -> Network:
        return read_network(apply, structure, leaves, one, rates, outputs=outputs, method=method)

    def together(values: list[Any], x: Any) -> Any:
        return apply(jax.tree.unflatten(structure, values), x)

    def compare(values: list[Any], x: Any) -> tuple[jax.Array, jax.Array]:
        alone = jax.vmap(lambda single: together(values, single[None])[0])(x)
        return together(values, x), alone

    network = read()
    for rows in (2, 3):
        check_output(jax.eval_shape(together, leaves, jax.ShapeDtypeStruct((rows, *one.shape), one.dtype)), rows)
    derivatives = jax.eval_shape(
        lambda values, x: differentiate(network, values, x), leaves, jax.ShapeDtypeStruct((1, *one.shape), one.dtype)
    )
    row_bytes = sum(math.prod(v.shape) * v.dtype.itemsize for v in jax.tree.leaves(derivatives))
    itemsize = max(leaf.dtype.itemsize for leaf, name in zip(leaves, names, strict=True) if name)
    jacobians = sum(math.prod(v.shape) * v.dtype.itemsize for v in derivatives.jacobians)
    each = network.outputs if outputs == "full" else 1
    positions = max([1, *(p.positions for p in network.products)])
    largest = max(network.direct, key=lambda i: math.prod(leaves[i].shape), default=None)
    return _Compiled(
        jax.jit(lambda values, x: differentiate(read(), values, x)),
        jax.jit(lambda left, right, values: contract(read(), left, right, values, outputs=outputs)),
        jax.jit(compare),
        network.outputs,
        float(row_bytes),
        # Values on the way forth and slopes on the way back; Jacobians once more where they are scaled or reordered.
        float(network.row_numbers * (1 + network.outputs) * itemsize + jacobians),
        # The sum so far, the part of one parameter, its two factors for every pair of positions; two copies on the way out.
        float(itemsize * (4 * each**2 + positions**2 * (1 + each**2))),
        f"{names[largest]} ({math.prod(leaves[largest].shape):.3g} entries)" if largest is not None else "",
    )


# --- checks -------------------------------------------------------------------------------------------------------------


def _check_choice(key: str, value: Any, valid: tuple[str, ...]) -> None:
    if value not in valid:
        listed = " or ".join(repr(v) for v in valid)
        raise InvalidInput(f"{_WHO}({key}): expected {listed}, got {show(value)}{nearest(str(value), valid)}.")


def _check_precision(dtype: str | None, params: Any) -> str:
    """The precision of the computation: the one asked for, or that of the most precise parameter."""
    if dtype is None:
        double = any(str(getattr(leaf, "dtype", "")) == "float64" for leaf in jax.tree.leaves(params))
        return "float64" if double else "float32"
    _check_choice("dtype", dtype, ("float32", "float64"))
    return dtype


def _check_parameters(params: Any, precision: str) -> tuple[list[np.ndarray | jax.Array], Any, list[str]]:
    """The parameter arrays in one precision, the structure of their tree, and what they are called in it."""
    found, structure = jax.tree.flatten_with_path(params)
    leaves, names = [], []
    for path, leaf in found:
        name = "params" + jax.tree_util.keystr(path)
        if not isinstance(leaf, (np.ndarray, np.generic, jax.Array, float, int)):
            raise InvalidInput(
                f"{_WHO}({name}): expected an array, got a {type(leaf).__name__}; keep everything but arrays out of `params` "
                "(for example `equinox.partition(model, equinox.is_array)`, and combine inside `apply`)."
            )
        array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
        if jnp.issubdtype(array.dtype, jnp.complexfloating):
            raise InvalidInput(f"{_WHO}({name}): expected real parameters, got {array.dtype}.")
        if differentiable(array):
            array = array if array.dtype == precision else array.astype(precision)
            if not np.all(np.isfinite(np.asarray(array))):
                raise InvalidInput(
                    f"{_WHO}({name}): expected finite parameters, got NaN or infinity in "
                    f"{int(np.sum(~np.isfinite(np.asarray(array))))} of {array.size} entries; did the training diverge?"
                )
            names.append(name)
        else:
            names.append("")
        leaves.append(array)
    if not any(names):
        raise InvalidInput(f"{_WHO}(params): expected at least one array of real parameters, got {show(params)}.")
    return leaves, structure, names


def _check_rows(x: Any, name: str, precision: str, like: np.ndarray | None = None) -> np.ndarray:
    """The inputs as an array with rows, in the precision of the computation unless they are integers."""
    try:
        array = np.asarray(x)
        if array.dtype.kind not in "biuf":
            array = array.astype(precision)
    except (TypeError, ValueError):
        raise InvalidInput(f"{_WHO}({name}): expected an array of inputs, got {type(x).__name__}.") from None
    if array.ndim == 0 or 0 in array.shape:
        raise InvalidInput(f"{_WHO}({name}): expected a non-empty array, one input a row, got shape {array.shape}.")
    if like is not None and array.shape[1:] != like.shape[1:]:
        raise InvalidInput(
            f"{_WHO}({name}): expected rows of shape {like.shape[1:]} like the first argument, got {array.shape[1:]}."
        )
    if array.dtype.kind == "f":
        array = array.astype(precision)
        if not np.all(np.isfinite(array)):
            bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
            raise InvalidInput(
                f"{_WHO}({name}): expected finite numbers, got NaN or infinity in {int(bad.sum())} of {len(array)} rows "
                f"(first: row {int(np.argmax(bad))}); remove or impute them."
            )
    return array


def _check_rates(
    learning_rates: Any, params: Any, leaves: list[Any], names: list[str], precision: str
) -> list[np.ndarray | None]:
    """One multiplier a parameter array."""
    try:
        rates = list_rates(learning_rates, params)
    except ValueError:
        raise InvalidInput(
            f"{_WHO}(learning_rates): expected a tree like `params` (it may stop short of the leaves), got "
            f"{jax.tree.structure(learning_rates)} for {jax.tree.structure(params)}."
        ) from None
    checked: list[np.ndarray | None] = []
    for rate, leaf, name in zip(rates, leaves, names, strict=True):
        if rate is None or not name:
            checked.append(None)
            continue
        where = f"{_WHO}(learning_rates), for {name}"
        try:
            array = np.asarray(rate).astype(precision)
        except (TypeError, ValueError):
            raise InvalidInput(f"{where}: expected a number or an array, got {show(rate)}.") from None
        if not np.all(np.isfinite(array)) or np.any(array < 0):
            raise InvalidInput(f"{where}: expected finite multipliers >= 0, got {show(rate)}.")
        try:
            fits = np.broadcast_shapes(array.shape, leaf.shape) == leaf.shape
        except ValueError:
            fits = False
        if not fits:
            raise InvalidInput(
                f"{where}: expected a number or an array that broadcasts to shape {leaf.shape}, got shape {array.shape}."
            )
        checked.append(array)
    return checked


def _check_rows_do_not_mix(compiled: _Compiled, leaves: list[jax.Array], x: np.ndarray) -> None:
    """Raise if a few rows give other outputs together than one by one."""
    trial = np.concatenate([x[:_TRIAL_ROWS], np.repeat(x[-1:], max(0, _TRIAL_ROWS - len(x)), axis=0)])
    together, alone = (np.asarray(v) for v in compiled.compare(leaves, trial))
    if not np.all(np.isfinite(together)):
        raise InvalidInput(f"{_WHO}(apply): expected finite outputs, got NaN or infinity for the first rows of x.")
    # Rounding of matrix products may depend on the number of rows, statistics of the batch change outputs altogether.
    apart = float(np.max(np.abs(together - alone)))
    scale = float(np.max(np.abs(alone)))
    if apart > float(np.finfo(together.dtype).eps) ** (1 / 3) * scale:
        raise InvalidInput(
            f"{_WHO}(apply): expected outputs of a row that do not depend on the other rows, got a difference of {apart:.3g} "
            f"(outputs up to {scale:.3g}) between {_TRIAL_ROWS} rows together and one by one; use fixed statistics in "
            "normalization layers and fixed random numbers."
        )


def _hashable(apply: Any) -> bool:
    try:
        hash(apply)
    except TypeError:
        return False
    return True
