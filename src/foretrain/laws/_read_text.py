"""Read tables from text: separated values, JSON and JSON lines. Every cell is data; nothing in a file is ever evaluated."""

import codecs
import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from foretrain.errors import InvalidInput, TooLarge
from foretrain.laws._columns import is_missing
from foretrain.laws._tidy import Table, as_column, join

_CHUNK = 65536  # rows that are text at one time
_BLOCK = 1 << 20
_LONGEST_CELL = 1 << 26
_MOST_COLUMNS = 10_000
_MOST_JSON = 1 << 30  # bytes of one JSON document, which is in memory as a whole; JSON lines have no such limit
_BINARY = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
_MAGIC = {
    b"PK\x03\x04": "an Excel workbook or a zip archive; export the sheet as CSV",
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"BZh": "compressed by bzip2; unpack it first",
    b"\xfd7zXZ": "compressed by xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it first",
    b"\x93NUMPY": "an array of NumPy; write it as CSV with names of columns",
    b"SQLite format 3": "a database; export the table as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; export the sheet as CSV",
    b"%PDF": "a PDF document",
    b"\x89PNG": "a picture",
}


def encoding_of(path: Path) -> tuple[str, str]:
    """How a text file is encoded, with a note when it is not UTF-8.

    Raises:
        InvalidInput: It is not text.
    """
    with path.open("rb") as file:
        head = file.read(4096)
        for magic, what in _MAGIC.items():
            if head.startswith(magic):
                raise InvalidInput(f"read_runs: {path.name} is {what}. Expected a table as text, Parquet or NetCDF.")
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16", "read as UTF-16"
        if b"\x00" in head:
            raise InvalidInput(
                f"read_runs: {path.name} holds NUL bytes: not a text file, or UTF-16 without a mark. Save it as UTF-8."
            )
        file.seek(0)
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            while block := file.read(_BLOCK):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252", "not UTF-8; read as Latin-1 (Windows-1252), so names with accents may be wrong"
    return "utf-8-sig", ""


def open_text(path: Path, newline: str | None = None) -> tuple[TextIO, str]:
    """An open text file and a note on its encoding. Text in UTF-8 was checked; elsewhere what has no meaning becomes U+FFFD.

    Raises:
        InvalidInput: It is not text.
    """
    encoding, note = encoding_of(path)
    return path.open(encoding=encoding, errors="replace", newline=newline), note


def read_delimited(path: Path) -> Table:
    """A file of separated values: comma, tab, semicolon, bar or spaces, found by its first lines.

    Raises:
        InvalidInput: Empty, no header, two columns of one name, rows of other lengths, or not text.
    """
    file, note = open_text(path, newline="")
    with file:
        header, rows, notes = _split(file, path)
        names = _names(header, path, notes)
        notes += [note] if note else []
        parts: list[list[np.ndarray]] = [[] for _ in names]
        chunk: list[list[str]] = []
        count = 0
        for row in _checked(rows, len(names), path):
            chunk.append(row)
            count += 1
            if len(chunk) == _CHUNK:
                _flush(chunk, parts)
        if not count:
            raise InvalidInput(f"read_runs: {path.name} has a header ({', '.join(names[:8])}) but no rows.")
        _flush(chunk, parts)
    columns = {}
    for name in reversed(names):  # the last reference to the pieces of a column goes when it is joined
        columns[name] = join(parts.pop())
    return Table({name: columns[name] for name in names}, notes)


def _flush(chunk: list[list[str]], parts: list[list[np.ndarray]]) -> None:
    for part, cells in zip(parts, zip(*chunk, strict=True), strict=True) if chunk else ():
        part.append(as_column(cells, text=True))
    chunk.clear()


def _split(file: TextIO, path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]], list[str]]:
    """The header, the rows with their line numbers, and notes on lines that were skipped."""
    start, line, skipped, comment = 0, file.readline(_LONGEST_CELL), 0, ""
    while line and (not line.strip() or line.lstrip().startswith("#")):
        comment, skipped = (line, skipped + 1) if line.strip() else (comment, skipped)
        start += 1
        line = file.readline(_LONGEST_CELL)
    if not line:
        raise InvalidInput(f"read_runs: {path.name} is empty. Expected a header line and rows.")
    if found := _BINARY.search(line.replace("\t", " ")):
        raise InvalidInput(
            f"read_runs: {path.name} holds control characters ({found[0]!r}) in its first line: not a text table."
        )
    second = file.readline(_LONGEST_CELL)
    separator = _separator(line, second, path)
    if separator is None:
        reader: Iterator[list[str]] = (text.split() for text in _chained(line, second, file))
    else:
        reader = csv.reader(_chained(line, second, file), delimiter=separator, skipinitialspace=True, strict=True)
    rows = _numbered(reader, start, path)
    header = next(rows, (0, []))[1]
    if not header:
        raise InvalidInput(f"read_runs: {path.name} has no header: its first line holds separators only.")
    notes = []
    if all(_is_number(cell) for cell in header):
        words = comment.lstrip("# \t").strip()
        names = words.split(separator) if separator else words.split()
        if len(names) != len(header) or any(_is_number(n) for n in names):
            raise InvalidInput(
                f"read_runs: {path.name}: the first line holds numbers only ({', '.join(header[:4])}). Expected a header with the names of "
                "the columns, for example params,tokens,loss."
            )
        rows, header, skipped = _with_first(header, start + 1, rows), names, skipped - 1
    if skipped:
        notes.append(f"{skipped} comment {'line' if skipped == 1 else 'lines'} above the header skipped")
    return header, rows, notes


def _with_first(row: list[str], line: int, rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    yield line, row
    yield from rows


def _chained(first: str, second: str, file: TextIO) -> Iterator[str]:
    yield first
    if second:
        yield second
    yield from file


def _numbered(reader: Iterator[list[str]], start: int, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, each with the line on which it ends."""
    limit = csv.field_size_limit(_LONGEST_CELL)
    line = start
    try:
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                line = start + int(getattr(reader, "line_num", 0))
                raise InvalidInput(f"read_runs: {path.name}: line {line}: {error}. Is there a stray quote?") from None
            line = start + reader.line_num if hasattr(reader, "line_num") else line + 1  # type: ignore[attr-defined]
            if row and any(cell.strip() for cell in row):
                yield line, row
    finally:
        csv.field_size_limit(limit)


def _separator(first: str, second: str, path: Path) -> str | None:
    """The separator that the header holds most often, tabs first in a .tsv file; None for spaces."""
    bare = re.sub(r'"[^"]*"', "", first)
    if path.suffix.lower() in (".tsv", ".tab") and "\t" in bare:
        return "\t"
    counts = {mark: bare.count(mark) for mark in (",", "\t", ";", "|")}
    best = max(counts, key=lambda mark: counts[mark])
    if counts[best]:
        return best
    words = first.split()
    return None if len(words) > 1 and len(words) == len(second.split()) and '"' not in first else ","


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return not is_missing(cell)


def _names(header: list[str], path: Path, notes: list[str]) -> list[str]:
    if len(header) > _MOST_COLUMNS:
        raise InvalidInput(
            f"read_runs: {path.name} has {len(header)} columns; expected at most {_MOST_COLUMNS}, one row per run."
        )
    names = [cell.strip() for cell in header]
    for i, name in enumerate(names):
        if not name:
            names[i] = f"column_{i + 1}"
            notes.append(f"column {i + 1} has no name in the header; it is called column_{i + 1}")
        elif len(name) > 1000:
            raise InvalidInput(
                f"read_runs: {path.name}: the name of column {i + 1} has {len(name)} characters. Is this a table?"
            )
        elif any(
            not c.isprintable() or c == "\ufffd" for c in name.replace("\n", " ").replace("\r", " ").replace("\t", " ")
        ):
            raise InvalidInput(
                f"read_runs: {path.name}: the name of column {i + 1}, {name[:40]!r}, holds no readable text. Is this a text table?"
            )
    for i, name in enumerate(names):
        if name in names[:i]:
            raise InvalidInput(
                f"read_runs: {path.name}: two columns are called {name!r} (numbers {names.index(name) + 1} and {i + 1}). Rename one of them."
            )
    return names


def _checked(rows: Iterator[tuple[int, list[str]]], length: int, path: Path) -> Iterator[list[str]]:
    for number, (line, row) in enumerate(rows, start=1):
        if len(row) == length + 1 and not row[-1].strip():
            row = row[:-1]  # a separator at the end of every line
        if len(row) != length:
            why = (
                "a missing separator or an unclosed quote"
                if len(row) < length
                else "an unquoted separator inside a cell"
            )
            raise InvalidInput(
                f"read_runs: {path.name}: row {number} (line {line}) has {len(row)} cells, the header {length}. Is there {why}?"
            )
        if any("\x00" in cell for cell in row):
            raise InvalidInput(
                f"read_runs: {path.name}: row {number} (line {line}) holds NUL bytes; the file is damaged or not text."
            )
        yield row


def read_json(path: Path, lines: bool) -> Table:
    """JSON: a list of objects, an object of lists, or an object for each line.

    Raises:
        InvalidInput: Not JSON of one of these forms.
        TooLarge: One document of more than a gibibyte.
    """
    file, note = open_text(path)
    notes = [note] if note else []
    with file:
        if lines:
            return _from_records(_json_lines(file, path), path, notes)
        if path.stat().st_size > _MOST_JSON:
            raise TooLarge(
                f"read_runs: {path.name} is one JSON document of {path.stat().st_size / 2**30:.1f} GiB. Write JSON lines instead."
            )
        document = _parsed(file.read(), path, "")
    if isinstance(document, dict):
        inner = [v for v in document.values() if isinstance(v, list) and v and all(isinstance(r, dict) for r in v)]
        if len(inner) == 1:
            document = inner[0]
        elif document and all(isinstance(v, list) for v in document.values()):
            return _from_lists(document, path, notes)
        elif document and all(isinstance(v, dict) for v in document.values()):
            document = _from_indexed(document)
        else:
            document = [document]
    if not isinstance(document, list):
        raise InvalidInput(
            f"read_runs: {path.name}: expected a list of objects or an object of lists, got {type(document).__name__}."
        )
    return _from_records(iter(document), path, notes)


def is_json_lines(path: Path) -> bool:
    """Whether a file that begins with a brace holds one object per line."""
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return True
    file, _ = open_text(path)
    with file:
        first = file.readline(_LONGEST_CELL)
        while first and not first.strip():
            first = file.readline(_LONGEST_CELL)
        second = file.readline(_LONGEST_CELL)
        while second and not second.strip():
            second = file.readline(_LONGEST_CELL)
    try:
        return isinstance(json.loads(first), dict) and second.lstrip().startswith("{")
    except (ValueError, RecursionError):
        return False


def _parsed(text: str, path: Path, where: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise InvalidInput(f"read_runs: {path.name}{where}: the JSON is nested too deeply for a table.") from None
    except ValueError as error:
        raise InvalidInput(f"read_runs: {path.name}{where}: not JSON: {error}.") from None


def _json_lines(file: TextIO, path: Path) -> Iterator[Any]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            yield _parsed(line, path, f": line {number}")


def _from_lists(document: dict[str, list], path: Path, notes: list[str]) -> Table:
    lengths = {name: len(values) for name, values in document.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{n}: {k}" for n, k in list(lengths.items())[:8])
        raise InvalidInput(f"read_runs: {path.name}: the columns have different lengths: {told}.")
    if not next(iter(lengths.values())):
        raise InvalidInput(f"read_runs: {path.name}: the columns are empty.")
    columns = {
        str(n): as_column([c if not isinstance(c, (list, dict)) else json.dumps(c)[:300] for c in v])
        for n, v in document.items()
    }
    return Table(columns, notes)


def _from_indexed(document: dict[str, dict]) -> list[dict]:
    """The rows of `{"loss": {"0": 3.1, "1": 3.0}, …}`, column by column as pandas writes it."""
    keys = [tuple(v) for v in document.values()]
    if len(set(keys)) == 1 and keys[0] and not any(isinstance(c, dict) for v in document.values() for c in v.values()):
        return [{name: cells[key] for name, cells in document.items()} for key in keys[0]]
    return [{"run": name, **cells} for name, cells in document.items()]


def _from_records(records: Iterator[Any], path: Path, notes: list[str]) -> Table:
    """A table of objects; keys of nested objects are joined by dots, and a key that some rows lack is missing there."""
    parts: dict[str, list[np.ndarray]] = {}
    chunk: list[dict[str, Any]] = []
    done = 0

    def flush() -> None:
        nonlocal done
        for name in dict.fromkeys([*parts, *(key for row in chunk for key in row)]):
            if name not in parts:
                parts[name] = [np.full(done, np.nan)] if done else []
            parts[name].append(as_column([row.get(name) for row in chunk]))
        if len(parts) > _MOST_COLUMNS:
            raise InvalidInput(
                f"read_runs: {path.name} has more than {_MOST_COLUMNS} columns; expected one object per run with the same keys."
            )
        done += len(chunk)
        chunk.clear()

    keys = 0
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise InvalidInput(
                f'read_runs: {path.name}: row {number}: expected an object such as {{"loss": 3.1}}, got {type(record).__name__}.'
            )
        chunk.append(dict(_flat(record)))
        keys += len(record)
        if len(chunk) == _CHUNK or keys > 50 * _CHUNK:
            flush()
            keys = 0
    if chunk:
        flush()
    if not done or not parts:
        raise InvalidInput(f"read_runs: {path.name} holds no rows.")
    return Table({name: join(p) for name, p in parts.items()}, notes)


def _flat(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        name = f"{prefix}{key}" or "column"
        if isinstance(value, dict):
            if set(value) == {"value"} or set(value) == {"desc", "value"}:  # how W&B writes a setting
                yield (
                    name,
                    value["value"]
                    if not isinstance(value["value"], (dict, list))
                    else json.dumps(value["value"])[:300],
                )
            else:
                yield from _flat(value, f"{name}.")
        elif isinstance(value, list):
            yield name, json.dumps(value)[:300]
        else:
            yield name, value
