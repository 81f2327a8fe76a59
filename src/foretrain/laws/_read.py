"""`read_runs`: a table of runs from whatever it is kept in."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from foretrain.errors import InvalidInput, nearest
from foretrain.laws._checks import refuse, unit_findings
from foretrain.laws._columns import name_columns
from foretrain.laws._read_stored import read_curves, read_parquet
from foretrain.laws._read_text import is_json_lines, read_delimited, read_json
from foretrain.laws._read_trackers import (
    event_files,
    is_wandb_history,
    melt_wandb_history,
    mlflow_runs,
    read_mlflow,
    read_tensorboard,
)
from foretrain.laws._runs import Runs
from foretrain.laws._tidy import Table, as_column, join, tidy

_TABLES = (".csv", ".tsv", ".tab", ".json", ".jsonl", ".ndjson", ".parquet")
_SEPARATED = (".csv", ".tsv", ".tab")


def read_runs(
    path: str | os.PathLike,
    *,
    columns: Mapping[str, str] | None = None,
    where: Sequence[str] = (),
    loss: str | None = None,
    history: bool = False,
) -> Runs:
    """A tidy table of the runs that a file or a folder holds.

    Read are: separated values (comma, tab, semicolon, bar or spaces), JSON, JSON lines, Parquet (extra `tables`), charts, tables and
    histories exported from W&B, file stores of MLflow, folders of TensorBoard, the NetCDF files of this package, and a folder of tables,
    one for each run. The kind is found by content and name. Files are data: nothing in them is evaluated.

    Columns get their names of this package (`params`, `tokens`, `flops`, `loss`, `run`, …) where that is unambiguous, numbers may have
    suffixes (`70M`), and what is missing is derived ($C=6ND$). `notes` of the result say all of that.

    Args:
        path: File or folder.
        columns: Name here to name in the file, `{"params": "N", "tokens": "toks*1e9"}`. A factor states the unit.
        where: Conditions that rows must meet, as for `Runs.where`.
        loss: The column of the loss, where a file has several.
        history: From stores of MLflow and TensorBoard, a row for each step and not for each run.

    Raises:
        InvalidInput: No such file, an unknown kind, a damaged table, an unknown column, or different units inside one column.
        MissingExtra: The kind needs a package that is not installed.
        TooLarge: One JSON document or Parquet table that is too large for memory.

    Example:
        >>> from pathlib import Path
        >>> from foretrain.laws import read_runs
        >>> _ = Path("runs.csv").write_text("model,N,n_tokens,final_loss\\na,70M,1.4e9,3.9\\nb,160M,3.2e9,3.5\\n")
        >>> runs = read_runs("runs.csv")
        >>> runs["params"].tolist(), runs.notes[-1]
        ([70000000.0, 160000000.0], 'flops derived: 6 params tokens')
    """
    place = Path(path)
    if "\x00" in str(path):
        raise InvalidInput("read_runs(path): expected the path of a file or folder, got text with NUL bytes.")
    try:
        table = _read_folder(place, history) if place.is_dir() else _read_file(place, history)
    except OSError as error:
        raise InvalidInput(f"read_runs: {place} cannot be read: {error.strerror or error}.") from None
    return runs_of_table(table, place.name, columns=columns, where=where, loss=loss)


def runs_of_table(
    table: Table,
    source: str,
    *,
    columns: Mapping[str, str] | None = None,
    where: Sequence[str] = (),
    loss: str | None = None,
) -> Runs:
    """The tidy table of what a reader found; units are checked on the rows that are asked for."""
    tidied = tidy(table, columns, loss)
    runs = Runs(tidied.columns, source, tuple(tidied.notes), table.rows, tidied.renamed, tidied.stated)
    if isinstance(where, str):
        where = (where,)
    if where:
        runs = runs.where(*where).with_notes(f"rows where {', '.join(where)}")
    measured = {n: v for n, v in runs.columns.items() if v.dtype.kind == "f" and n not in tidied.derived}
    refused, _ = unit_findings(measured, np.asarray(runs.rows), tidied.stated)
    refuse(refused, source)
    return runs


def _read_folder(folder: Path, history: bool) -> Table:
    if runs := mlflow_runs(folder):
        return read_mlflow(runs, history)
    if files := event_files(folder):
        return read_tensorboard(files, folder, history)
    files = [
        p
        for p in sorted(folder.iterdir())
        if p.is_file() and p.suffix.lower() in _TABLES and not p.name.startswith(".")
    ]
    if not files:
        hint = ""
        if any(folder.rglob("run-*.wandb")):
            hint = " These are the local files of W&B; export the runs on its page as CSV."
        raise InvalidInput(
            f"read_runs: the folder {folder} holds no runs of MLflow or TensorBoard and no table ({', '.join(_TABLES)}).{hint}"
        )
    tables = [_read_file(p, history) for p in files]
    if len(files) == 1:
        return tables[0]
    for table in tables:
        own = next((n.file for n in name_columns(tuple(table.columns))[0] if n.name == "run"), None)
        if own is not None:
            table.columns["run"] = table.columns.pop(own)
    notes = [f"{len(files)} files, one after another, with rows counted through"]
    parts: dict[str, list[np.ndarray]] = {"run": []}
    names = dict.fromkeys(name for table in tables for name in table.columns if name != "run")
    parts |= {name: [] for name in names}
    for path, table in zip(files, tables, strict=True):
        length = len(next(iter(table.columns.values())))
        notes += [f"{path.name}: {note}" for note in table.notes]
        own = table.columns.get("run")
        parts["run"].append(as_column([path.stem] * length) if own is None else own)
        for name in names:
            parts[name].append(table.columns.get(name, np.full(length, np.nan)))
    return Table({name: join(pieces) for name, pieces in parts.items()}, notes)


def _read_file(path: Path, history: bool) -> Table:
    if not path.exists():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InvalidInput(f"read_runs: no file or folder {path}{nearest(path.name, beside)}.")
    if not path.is_file():
        raise InvalidInput(f"read_runs: {path} is neither a file nor a folder.")
    with path.open("rb") as file:
        head = file.read(4096)
    if not head.strip():
        raise InvalidInput(f"read_runs: {path.name} is empty. Expected a table of runs.")
    if "tfevents" in path.name:
        return read_tensorboard([path], path.parent, history)
    if head.startswith(b"PAR1") or path.suffix.lower() == ".parquet":
        return read_parquet(path)
    if head.startswith((b"\x89HDF\r\n\x1a\n", b"CDF\x01", b"CDF\x02")) or path.suffix.lower() in (
        ".nc",
        ".netcdf",
        ".h5",
    ):
        return read_curves(path)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if path.suffix.lower() not in _SEPARATED and (
        text[:1] in (b"{", b"[") or path.suffix.lower() in (".json", ".jsonl", ".ndjson")
    ):
        return read_json(path, lines=is_json_lines(path))
    table = read_delimited(path)
    return melt_wandb_history(table) if is_wandb_history(table.columns) else table
