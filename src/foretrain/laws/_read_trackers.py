"""Read what experiment trackers keep: histories exported from W&B, file stores of MLflow, folders of TensorBoard.

A store gives one row for each run, with the last value of every metric, because the loss in the middle of a decaying learning rate is not
that of a shorter run; on request, a row for each step.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from foretrain.errors import InvalidInput
from foretrain.laws._read_events import read_scalars
from foretrain.laws._tidy import MAX_TEXT, Table, add_settings, as_column

_BOUNDS = ("__MIN", "__MAX")
_MOST_FILE = 1 << 16  # bytes of a file that holds one setting
_DEPTH = 6

Series = dict[str, dict[int, float]]  # metric to step to value
"""Metric to step to value."""


def is_wandb_history(names: Iterable[str]) -> bool:
    """Whether the columns of a file are an x axis and `run - metric`, as the W&B page exports a chart."""
    first, *rest = [*names] or [""]
    return bool(rest) and " - " not in first and all(" - " in name for name in rest)


def melt_wandb_history(table: Table) -> Table:
    """One row for each run and step from a chart exported by W&B, without the columns of smallest and largest values.

    Raises:
        InvalidInput: No value in any row.
    """
    axis, *rest = table.columns
    kept = [name for name in rest if not name.endswith(_BOUNDS)]
    split = {name: tuple(name.rsplit(" - ", 1)) for name in kept}
    own_step = simplified_axis(axis) in ("step", "_step")
    metrics = list(dict.fromkeys(metric for _, metric in split.values() if not (own_step and metric == "_step")))
    runs = list(dict.fromkeys(run for run, _ in split.values()))
    source = {(run, metric): name for name, (run, metric) in split.items()}
    length = len(table.columns[axis])
    numbers = np.arange(1, length + 1) if table.rows is None else table.rows
    parts: dict[str, list[np.ndarray]] = {"run": [], axis: [], **{m: [] for m in metrics}}
    rows = []
    for run in runs:
        columns = {
            m: _as_numbers(table.columns[source[run, m]]) if (run, m) in source else np.full(length, np.nan)
            for m in metrics
        }
        present = np.zeros(length, dtype=bool)
        for metric, values in columns.items():
            if metric != "_step" or metrics == ["_step"]:
                present |= ~np.isnan(values)
        names = np.empty(int(present.sum()), dtype=object)
        names[:] = run[:MAX_TEXT]
        parts["run"].append(names)
        parts[axis].append(table.columns[axis][present])
        for metric, values in columns.items():
            parts[metric].append(values[present])
        rows.append(numbers[present])
    joined = {name: np.concatenate(p) for name, p in parts.items()}
    if not len(joined["run"]):
        raise InvalidInput("read_runs: the exported chart holds no value of any run.")
    notes = [f"a W&B chart of {len(runs)} {'run' if len(runs) == 1 else 'runs'}: one row for each run and step"]
    if len(kept) < len(rest):
        notes.append(f"{len(rest) - len(kept)} columns of smallest and largest values left out")
    melted = Table(joined, [*table.notes, *notes], np.concatenate(rows))
    add_settings(melted)
    return melted


def simplified_axis(name: str) -> str:
    """The name of an x axis in lower case, without spaces around it."""
    return name.strip().lower()


def _as_numbers(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "f":
        return values
    cells = [as_column([v]) for v in values]
    return np.array([c[0] if c.dtype.kind == "f" else np.nan for c in cells])


def mlflow_runs(folder: Path) -> list[Path]:
    """The run folders of an MLflow file store, an experiment in it, or a single run."""
    found = [folder] if _is_mlflow_run(folder) else []
    for level in ("*", "*/*", "*/*/*"):
        found += [p for p in sorted(folder.glob(level)) if _is_mlflow_run(p)]
        if found:
            break
    return found


def _is_mlflow_run(folder: Path) -> bool:
    return (folder / "meta.yaml").is_file() and ((folder / "metrics").is_dir() or (folder / "params").is_dir())


def read_mlflow(folders: list[Path], history: bool) -> Table:
    """The runs of an MLflow file store: their parameters as settings, and their metrics.

    Raises:
        InvalidInput: A metric file is not `time value step` lines, or nothing was logged.
    """
    records: list[dict[str, Any]] = []
    deleted = 0
    for folder in folders:
        meta = dict(re.findall(r"^(\w+):\s*['\"]?(.*?)['\"]?\s*$", _short_text(folder / "meta.yaml"), re.MULTILINE))
        if meta.get("lifecycle_stage") == "deleted":
            deleted += 1
            continue
        settings: dict[str, Any] = {name: _short_text(path).strip() for name, path in _named_files(folder / "params")}
        tags = dict(_named_files(folder / "tags"))
        name = _short_text(tags["mlflow.runName"]).strip() if "mlflow.runName" in tags else ""
        series: Series = {metric: _mlflow_series(path) for metric, path in _named_files(folder / "metrics")}
        record = {"run": name or meta.get("run_name") or folder.name, "run_uuid": folder.name}
        state = {"1": "running", "3": "finished", "4": "failed", "5": "killed"}.get(
            meta.get("status", ""), meta.get("status", "")
        )
        settings = {
            (f"params.{key}" if key in series or key in record else key): value for key, value in settings.items()
        }
        records += _rows({**record, "state": state, **settings}, series, history)
    names = {r["run"] for r in records}
    if len(names) < len({r["run_uuid"] for r in records}):  # names need not be unique; identifiers are
        for record in records:
            record["run"] = record["run_uuid"]
    for record in records:
        del record["run_uuid"]
    if not records:
        raise InvalidInput(
            f"read_runs: the MLflow store holds no run with metrics ({deleted} deleted). Log metrics, or name another folder."
        )
    notes = [_told(len(folders) - deleted, "MLflow", history)]
    notes += [f"deleted runs left out: {deleted}"] if deleted else []
    unfinished = sorted({str(r["run"]) for r in records if r["state"] in ("failed", "killed", "running")})
    if unfinished:
        notes.append(
            f"runs that did not finish: {len(unfinished)} ({', '.join(unfinished[:4])}); leave them out with where state=finished"
        )
    return _table(records, notes)


def _named_files(folder: Path) -> list[tuple[str, Path]]:
    if not folder.is_dir():
        return []
    return [
        (p.relative_to(folder).as_posix(), p)
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.name.startswith(".")
    ]


def _short_text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_MOST_FILE).decode("utf-8", errors="replace")


def _mlflow_series(path: Path) -> dict[int, float]:
    """Step to the value that was logged last for it."""
    found: dict[int, float] = {}
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            words = line.split()
            if not words:
                continue
            try:
                value, step = float(words[1]), int(words[2]) if len(words) > 2 else 0
            except (IndexError, ValueError):
                raise InvalidInput(
                    f"read_runs: {path}: line {number}: expected time, value and step of a metric, got {line.strip()[:60]!r}."
                ) from None
            found[step] = value
    return found


def event_files(folder: Path) -> list[Path]:
    """The event files of TensorBoard below a folder."""
    return sorted(p for p in folder.rglob("*tfevents*") if p.is_file() and len(p.relative_to(folder).parts) <= _DEPTH)


def read_tensorboard(files: list[Path], root: Path, history: bool) -> Table:
    """The scalars of event files; a folder is a run, and settings are read from names such as `params=1e7,lr=0.1`.

    Raises:
        InvalidInput: A file is damaged, or none holds a scalar.
    """
    by_run: dict[str, Series] = {}
    cut = []
    for path in files:
        name = path.parent.relative_to(root).as_posix()
        series = by_run.setdefault(root.name if name == "." else name, {})
        scalars, unfinished = read_scalars(path)
        cut += [path.parent.name] if unfinished else []
        for tag, step, value in scalars:
            series.setdefault(tag, {})[step] = value
    records = [row for run, series in by_run.items() for row in _rows({"run": run}, series, history)]
    if not records:
        raise InvalidInput(
            f"read_runs: {root} holds {len(files)} event files without a scalar. Log the loss with add_scalar."
        )
    notes = [_told(len(by_run), "TensorBoard", history)]
    if cut:
        notes.append(
            f"the last record is cut off in {', '.join(sorted(set(cut))[:4])}: a run that goes on, or was killed"
        )
    return _table(records, notes)


def _rows(settings: dict[str, Any], series: Series, history: bool) -> list[dict[str, Any]]:
    """A row with the last value of each metric, or one for each step."""
    series = {name: values for name, values in series.items() if values}
    if not series:
        return []
    steps = sorted({step for values in series.values() for step in values})
    own = {} if "steps" in settings or "steps" in series else {"steps": None}
    if history:
        return [{**settings, **{n: v.get(t) for n, v in series.items()}, **dict.fromkeys(own, float(t))} for t in steps]
    return [{**settings, **{n: v[max(v)] for n, v in series.items()}, **dict.fromkeys(own, float(steps[-1]))}]


def _told(runs: int, tracker: str, history: bool) -> str:
    what = (
        "a row for each step"
        if history
        else "one row for each, with the last value of every metric (history=True gives every step)"
    )
    return f"{runs} {tracker} {'run' if runs == 1 else 'runs'}: {what}"


def _table(records: list[dict[str, Any]], notes: list[str]) -> Table:
    names = dict.fromkeys(key for record in records for key in record)
    table = Table({name: as_column([record.get(name) for record in records]) for name in names}, notes)
    table.columns["run"] = np.array([str(r["run"]) for r in records], dtype=object)
    add_settings(table)
    return table
