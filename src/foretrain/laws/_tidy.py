"""From the columns of a file to a table of runs: names, numbers from text, units, and what follows from what."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain.laws._columns import MEANINGS, Named, name_columns, parse_number, simplified

_FULL = frozenset(
    ("full", "bf16", "bfloat16", "fp16", "float16", "half", "tf32", "fp32", "float32", "float", "fp64", "float64")
)
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
_SETTING = re.compile(r"([A-Za-z][A-Za-z0-9.]*(?:_[A-Za-z0-9.]+)*)=([^=,/;\s]+?)(?=$|[,/;\s]|_[A-Za-z][\w.]*=)")


@dataclasses.dataclass
class Table:
    """What a reader found: columns by their names in the file, float64 or objects that are strings.

    Args:
        columns: Columns of one length.
        notes: What the reader had to say.
        rows: Row numbers in the file, where they are not 1, 2, 3, …
    """

    columns: dict[str, np.ndarray]
    notes: list[str] = dataclasses.field(default_factory=list)
    rows: np.ndarray | None = None


@dataclasses.dataclass
class Tidy:
    """A table with the names and units of this package, and what was done to get there."""

    columns: dict[str, np.ndarray]
    notes: list[str]
    renamed: dict[str, str]
    stated: tuple[str, ...]
    derived: tuple[str, ...]


def tidy(table: Table, columns: Mapping[str, str] | None = None, loss: str | None = None) -> Tidy:
    """The columns of a file with canonical names, in counts and nats, and with what can be derived from them.

    Raises:
        InvalidInput: `columns` or `loss` name a column that the file has not.
    """
    words = {name for name, values in table.columns.items() if values.dtype.kind != "f" and _is_words(values)}
    named, notes = name_columns(tuple(table.columns), columns, loss, words)
    result: dict[str, np.ndarray] = {}
    for entry in named:
        values = table.columns[entry.file]
        if values.dtype.kind != "f" and entry.name in MEANINGS and entry.name != "run":
            if entry.name.endswith("_bits"):
                values = _full_precision(values, entry.name, notes)
            values, words = _numbers_of_text(values)
            notes += [f"{entry.name}: {words}"] if words else []
        if values.dtype.kind == "f" and entry.factor != 1.0:
            values = values * entry.factor
        result[entry.name] = values
    derived = _derive(result, notes)
    stated = tuple(entry.name for entry in named if entry.stated)
    renamed = {entry.file: entry.name for entry in named if _moved(entry)}
    return Tidy(result, [*table.notes, *notes], renamed, stated, derived)


def _full_precision(values: np.ndarray, name: str, notes: list[str]) -> np.ndarray:
    """Bits as text, with the names of formats that count as full precision made infinite."""
    full = np.array([str(v).strip().lower() in _FULL for v in values], dtype=bool)
    if full.any():
        notes.append(f"{name}: {', '.join(sorted({str(v) for v in values[full]}))} is full precision")
    return np.where(full, "inf", values)


def _is_words(values: np.ndarray) -> bool:
    """Whether most of a column is no number in any spelling; a few damaged cells do not make a column of words."""
    some = sorted({str(v) for v in values[:1000]} - {""})
    numbers = sum(_with_thousands(t) is not None or _with_comma(t) is not None for t in some)
    return 2 * numbers < len(some)


def _moved(entry: Named) -> bool:
    return entry.file != entry.name and not entry.name.endswith("_in_file")


def _numbers_of_text(values: np.ndarray) -> tuple[np.ndarray, str]:
    """Numbers written with suffixes, separators of thousands or decimal commas; the text itself when one cell is none of these."""
    distinct = sorted({str(v) for v in values})
    for read, words in (
        (parse_number, "suffixes"),
        (_with_thousands, "thousands separators"),
        (_with_comma, "decimal commas"),
    ):
        parsed = {text: read(text) for text in distinct}
        if all(number is not None for number in parsed.values()):
            shown = next((t for t in distinct if t.strip() and _plain(t) is None), "")
            word = f"{words} read: {shown} is {parsed[shown]:.10g}" if shown else ""
            return np.array([parsed[str(v)] for v in values], dtype=np.float64), word
    return values, ""


def _plain(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _with_thousands(text: str) -> float | None:
    return parse_number(text.replace(",", "")) if _THOUSANDS.fullmatch(text.strip()) else parse_number(text)


def _with_comma(text: str) -> float | None:
    return parse_number(text.replace(",", ".")) if _DECIMAL_COMMA.fullmatch(text.strip()) else parse_number(text)


# What is derived, from which columns, how, in words. The first line whose columns are all there is used.
_RULES: tuple[tuple[str, tuple[str, ...], Callable[..., Float[np.ndarray, " rows"]], str], ...] = (
    ("batch_tokens", ("batch_seqs", "seq_len"), lambda b, s: b * s, "batch_seqs × seq_len"),
    ("tokens", ("steps", "batch_tokens"), lambda t, b: t * b, "steps × batch_tokens"),
    ("tokens", ("tokens_per_epoch", "epochs"), lambda u, e: u * e, "tokens_per_epoch × epochs"),
    ("tokens", ("flops", "params"), lambda c, n: c / (6 * n), "flops / (6 params)"),
    ("params", ("flops", "tokens"), lambda c, d: c / (6 * d), "flops / (6 tokens)"),
    ("flops", ("params", "tokens"), lambda n, d: 6 * n * d, "6 params tokens"),
    (
        "tokens_per_epoch",
        ("tokens", "epochs"),
        lambda d, e: d / np.maximum(e, 1),
        "tokens / epochs, or tokens below one epoch",
    ),
    ("epochs", ("tokens", "tokens_per_epoch"), lambda d, u: d / u, "tokens / tokens_per_epoch"),
)


def _derive(columns: dict[str, np.ndarray], notes: list[str]) -> tuple[str, ...]:
    found = []
    if "loss" not in columns:
        perplexities = [
            n
            for n, v in columns.items()
            if simplified(n).split("_")[-1] in ("perplexity", "ppl") and v.dtype.kind == "f"
        ]
        if len(perplexities) == 1:
            with np.errstate(invalid="ignore", divide="ignore"):
                columns["loss"] = np.log(columns[perplexities[0]])
            notes.append(f"loss derived: logarithm of {perplexities[0]}")
            found.append("loss")
    for name, needed, formula, words in _RULES:
        parts = [columns.get(n) for n in needed]
        if name in columns or any(p is None or p.dtype.kind != "f" for p in parts):
            continue
        with np.errstate(all="ignore"):
            columns[name] = formula(*parts)
        notes.append(f"{name} derived: {words}")
        found.append(name)
    return tuple(found)


def add_settings(table: Table, run: str = "run") -> None:
    """Columns for settings that the names of all runs spell out, such as `params=1e7,lr=0.1`."""
    names = sorted({str(v) for v in table.columns[run]})
    settings: dict[str, dict[str, str]] = {name: dict(_SETTING.findall(name)) for name in names}
    shared = set.intersection(*(set(s) for s in settings.values())) if settings else set()
    added = sorted(key for key in shared if key not in table.columns)
    for key in added:
        table.columns[key] = as_column([settings[str(v)][key] for v in table.columns[run]])
    if added:
        table.notes.append(f"from the names of the runs: {', '.join(added)}")


MAX_TEXT = 200
"""Characters of a cell that are kept; what is longer is no name and no setting."""


def as_column(cells: Sequence[Any], text: bool = False) -> np.ndarray:
    """Cells (text, numbers, None) as float64 when all are numbers or missing, else as strings; `text` says that all are text."""
    if text:
        try:
            return np.fromiter(map(float, cells), dtype=np.float64, count=len(cells))
        except ValueError:
            pass  # missing values, or words
    try:
        return np.array([_number(cell) for cell in cells], dtype=np.float64)
    except (ValueError, TypeError):
        texts = np.empty(len(cells), dtype=object)
        shared: dict[str, str] = {}  # names of groups repeat; one string for all their rows
        for i, cell in enumerate(cells):
            words = _text(cell)
            texts[i] = shared.setdefault(words, words)
        return texts


def join(parts: list[np.ndarray]) -> np.ndarray:
    """Pieces of one column end to end; text when one of them is text."""
    if all(part.dtype.kind == "f" for part in parts):
        return np.concatenate(parts) if parts else np.empty(0)
    texts = [p if p.dtype.kind != "f" else np.array([_text(v) for v in p.tolist()], dtype=object) for p in parts]
    return np.concatenate([t.astype(object) for t in texts])


def _number(cell: Any) -> float:
    if cell is None:
        return np.nan
    if isinstance(cell, bool):
        raise TypeError
    if isinstance(cell, int):
        try:
            return float(cell)
        except OverflowError:
            return np.inf if cell > 0 else -np.inf
    if isinstance(cell, str):
        try:
            return float(cell)
        except ValueError:
            number = parse_number(cell)
            if (
                number is None or number == number
            ):  # only missing values are numbers here: suffixes belong to known columns
                raise
            return np.nan
    return float(cell)


def _text(cell: Any) -> str:
    if cell is None or (isinstance(cell, float) and cell != cell):
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, int) and abs(cell) >= 2**63:  # Python refuses to print very long integers
        cell = _number(cell)
    text = f"{cell:.17g}" if isinstance(cell, float) else str(cell)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
