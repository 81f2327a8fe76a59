"""Read tables from binary files: Parquet, and the learning curves that this package writes."""

from pathlib import Path
from typing import Any

import numpy as np

from foretrain.curves import Comparison, LearningCurves
from foretrain.errors import InvalidInput, MissingExtra, TooLarge
from foretrain.laws._tidy import Table, as_column, join

_LARGEST = 50_000_000  # values of one table


def read_parquet(path: Path) -> Table:
    """A Parquet file, batch by batch; columns that are neither numbers nor text become text.

    Raises:
        MissingExtra: pyarrow is not installed.
        InvalidInput: Not a Parquet file, no rows, or two columns of one name.
        TooLarge: More than fifty million values.
    """
    try:
        import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtra(
            f"read_runs: {path.name} is a Parquet file and pyarrow is not installed; run: pip install 'foretrain[tables]', or export CSV."
        ) from None
    parts: dict[str, list[np.ndarray]] = {}
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            rows = file.metadata.num_rows
            double = [name for name in names if names.count(name) > 1]
            if not double and rows * len(names) <= _LARGEST:
                for batch in file.iter_batches():
                    for name, column in zip(names, batch.columns, strict=True):
                        parts.setdefault(name, []).append(_of_arrow(column))
    except Exception as error:  # the reader of a damaged file may raise anything
        raise InvalidInput(f"read_runs: {path.name} cannot be read as Parquet: {str(error)[:200]}") from None
    if double:
        raise InvalidInput(f"read_runs: {path.name}: two columns are called {double[0]!r}. Rename one of them.")
    if rows * len(names) > _LARGEST:
        raise TooLarge(
            f"read_runs: {path.name} has {rows} rows of {len(names)} columns; at most {_LARGEST} values are read. Keep fewer columns."
        )
    if not rows or not parts:
        raise InvalidInput(f"read_runs: {path.name} has no rows.")
    return Table({name: join(pieces) for name, pieces in parts.items()})


def _of_arrow(column: Any) -> np.ndarray:
    import pyarrow  # pyright: ignore[reportMissingImports]

    kind = column.type
    if pyarrow.types.is_dictionary(kind):
        return _of_arrow(column.dictionary_decode())
    if pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind):
        return np.asarray(column.cast(pyarrow.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)
    cells = column.to_pylist()
    return as_column([c if c is None or isinstance(c, (bool, int, float, str)) else str(c) for c in cells])


def read_curves(path: Path) -> Table:
    """The points of stored learning curves; of a comparison, what was measured in training.

    Raises:
        InvalidInput: Not written by this package, or no loss in it.
    """
    notes = []
    try:
        try:
            curves = LearningCurves.load(path)
        except InvalidInput as error:
            if "Comparison.load" not in str(error):
                raise
            curves = Comparison.load(path).training
            notes.append("a comparison: the part that was measured in training")
    except InvalidInput:
        raise
    except Exception as error:  # the reader of a damaged file may raise anything
        raise InvalidInput(f"read_runs: {path.name} cannot be read as learning curves: {str(error)[:200]}") from None
    table = table_of_curves(curves)
    table.notes[:0] = notes
    return table


def table_of_curves(curves: LearningCurves) -> Table:
    """Every point of every curve as a row, with the dimensions and all variables over the same dimensions or fewer.

    Where weights were also rounded after training, every point has a row for each of `post_bits`: `loss` is that before rounding,
    `loss_post` that after, `delta` their difference, and `run` names the point, so that its rows are resampled together.

    Raises:
        InvalidInput: No loss among the variables, or no point that is usable.
    """
    loss = next((name for name in ("loss", "test_loss", "train_loss") if name in curves), None)
    if loss is None:
        raise InvalidInput(
            f"runs from learning curves: expected test_loss, train_loss or loss; it has {', '.join(curves.variables)}."
        )
    after = f"{loss}_post" if f"{loss}_post" in curves else None
    dims = curves.dims[loss] if after is None else curves.dims[after]
    shape = tuple(len(curves.coords[dim]) for dim in dims)

    def over(own: tuple[str, ...], array: np.ndarray) -> np.ndarray:
        """A variable over all dimensions."""
        order = sorted(range(len(own)), key=lambda i: dims.index(own[i]))
        spread = np.transpose(array, order).reshape(
            [length if d in own else 1 for d, length in zip(dims, shape, strict=True)]
        )
        return np.broadcast_to(spread, shape)

    values = {name: over(*curves.variables[name]).astype(np.float64) for name in (loss, after) if name is not None}
    keep = np.all([np.isfinite(array) for array in values.values()], axis=0).ravel()
    notes = [f"loss is {loss}, over {', '.join(curves.dims[loss]) or 'one point'}"] if loss != "loss" else []
    if not keep.all():
        notes.append(f"{int((~keep).sum())} of {keep.size} points diverged or failed and are left out")
    if not keep.any():
        raise InvalidInput("runs from learning curves: every point diverged or failed.")
    columns = {dim: _kept(over((dim,), curves.coords[dim]), keep) for dim in dims}
    columns["loss"] = _kept(values[loss], keep)
    if after is not None:
        columns["loss_post"] = _kept(values[after], keep)
        columns["delta"] = columns["loss_post"] - columns["loss"]
        points = over(curves.dims[loss], np.arange(curves.values(loss).size).reshape(curves.values(loss).shape))
        columns["run"] = as_column([f"point {i}" for i in points.ravel()[keep]])
        notes.append(
            f"a row for each of post_bits: delta is {after} - {loss}; a law of the loss before rounding wants one of them, such as "
            f"post_bits={curves.coords['post_bits'][0]:g}"
        )
    left = []
    for name, (own, array) in curves.variables.items():
        if name in values or name == "status":
            continue
        if not set(own) <= set(dims) or name in columns:
            left.append(name)
            continue
        columns[name] = _kept(over(own, array), keep)
    for name, value in curves.attrs.items():
        if (
            name not in columns
            and name != "schema_version"
            and isinstance(value, (int, float))
            and not isinstance(value, bool)
        ):
            columns[name] = np.full(int(keep.sum()), float(value))
    if left:
        notes.append(f"left out, being over other dimensions: {', '.join(left[:8])}")
    return Table(columns, notes, np.flatnonzero(keep) + 1)


def _kept(array: np.ndarray, keep: np.ndarray) -> np.ndarray:
    flat = array.ravel()[keep]
    return flat.astype(np.float64) if flat.dtype.kind in "fiub" else as_column([str(v) for v in flat])
