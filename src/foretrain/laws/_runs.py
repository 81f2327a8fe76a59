"""`Runs`: a tidy table of training runs, the one thing that every fit of this room takes.

A row is a run (or a checkpoint of one), a column is an array of floats, where NaN is a missing value, or of strings, where an
empty string is. Rows keep the number that they had in their file, so that every message can name them.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from jaxtyping import Float, Int

from foretrain._declaration import show
from foretrain.errors import InvalidInput, nearest
from foretrain.laws._columns import MEANINGS, losses_among, parse_number

if TYPE_CHECKING:
    from foretrain.curves import LearningCurves

_CONDITION = re.compile(r"\s*(==|!=|<=|>=|=|<|>)\s*")
_LISTED = 8  # rows or values that a message names before it says how many more there are

# Analysis to the columns that it needs, in the words of `describe`; a tuple inside is a choice.
_ANALYSES: dict[str, tuple[str | tuple[str, ...], ...]] = {
    "loss in size and data": ("params", "tokens", "loss"),
    "IsoFLOP valleys": ("params", "flops", "loss"),
    "repeated data": ("params", "tokens", ("tokens_per_epoch", "epochs"), "loss"),
    "width and depth": ("width", "depth", "tokens", "loss"),
    "precision of training": ("params", "tokens", ("weight_bits", "activation_bits", "kv_bits"), "loss"),
    "quantization after training": ("params", "tokens", "post_bits", ("delta", "loss_post")),
    "learning rate and batch": ("params", "tokens", "lr", ("batch", "batch_tokens", "batch_seqs"), "loss"),
    "intervals that resample runs": ("run",),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Runs:
    """A tidy table of runs: equal-length columns of floats (NaN = missing) or strings, read-only.

    Losses are in nats per token, `params` and `tokens` are counts, `flops` are floating-point operations; see `describe` for what
    was done to get there. A column answers to its name here and to the name that it had in the file.

    Args:
        columns: Name to values. Numbers and booleans become float64, anything else strings.
        source: Where the table came from.
        notes: What was renamed, converted, derived or dropped.
        rows: Number of each row in its file, counted from 1 without the header.
        renamed: Name in the file to name in this table.
        stated: Columns whose unit was stated by the user, so that checks do not doubt it.

    Raises:
        InvalidInput: No columns, columns of different lengths, or columns that are not one-dimensional.

    Example:
        >>> from foretrain.laws import Runs
        >>> runs = Runs({"params": [1e6, 1e7, 1e7], "loss": [4.0, 3.5, 3.4], "data": ["c4", "c4", "web"]})
        >>> len(runs.where("data=c4", "params>=5M"))
        1
    """

    columns: Mapping[str, np.ndarray]
    source: str = ""
    notes: tuple[str, ...] = ()
    rows: Int[np.ndarray, " rows"] | None = None
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stated: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        columns = {str(name): _column(str(name), values) for name, values in self.columns.items()}
        if not columns:
            raise InvalidInput("Runs(columns): expected at least one column, got none.")
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name}: {n}" for name, n in list(lengths.items())[:_LISTED])
            raise InvalidInput(f"Runs(columns): expected columns of one length, got {told}.")
        length = next(iter(lengths.values()))
        rows = np.arange(1, length + 1) if self.rows is None else np.array(self.rows, dtype=np.int64)
        if rows.shape != (length,):
            raise InvalidInput(f"Runs(rows): expected one number for each of {length} rows, got shape {rows.shape}.")
        rows.flags.writeable = False
        object.__setattr__(self, "columns", MappingProxyType(columns))
        object.__setattr__(self, "notes", tuple(self.notes))
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "renamed", MappingProxyType(dict(self.renamed)))

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any], source: str = "") -> Self:
        """The table of these columns, with their names as they are."""
        return cls(columns, source)

    @classmethod
    def from_curves(cls, curves: "LearningCurves", source: str = "") -> Self:
        """The table of learning curves: every point of every curve is a row.

        The loss is `test_loss`, or `train_loss` where there is none; the other columns are the dimensions and every variable over
        the same dimensions or fewer. Points that diverged or failed are left out and counted in the notes.

        Raises:
            InvalidInput: No loss among the variables, or no point that is usable.
        """
        from foretrain.laws._read_stored import table_of_curves
        from foretrain.laws._tidy import tidy

        table = table_of_curves(curves)
        tidied = tidy(table)
        return cls(tidied.columns, source, tuple(tidied.notes), table.rows, tidied.renamed)

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (dict(self.columns), self.source, self.notes, self.rows, dict(self.renamed), self.stated)
        return type(self), fields

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def _rows(self) -> Int[np.ndarray, " rows"]:
        assert self.rows is not None  # set on construction
        return self.rows

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self.columns)

    def __contains__(self, name: object) -> bool:
        return name in self.columns or name in self.renamed

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[self.resolve(name)]

    def resolve(self, name: str) -> str:
        """The name in this table of a column that is called by it or by its name in the file.

        Raises:
            InvalidInput: No such column; names the nearest and those present.
        """
        if name in self.columns:
            return name
        if name in self.renamed:
            return self.renamed[name]
        where = f" of {self.source}" if self.source else ""
        words = (
            f"no column {name!r}{where}{nearest(name, [*self.columns, *self.renamed])}; it has {_listed(self.names)}"
        )
        if name == "loss" and (found := losses_among(self.names)):
            words += f". Say which one is the loss: loss={found[0]}"
        elif name in MEANINGS:
            words += f". {name} is {MEANINGS[name]}; say which column it is with columns {name}=…"
        raise InvalidInput(f"runs: {words}.")

    def is_number(self, name: str) -> bool:
        """Whether a column holds numbers."""
        return self[name].dtype.kind == "f"

    def numbers(self, *names: str, positive: bool = True) -> Float[np.ndarray, "rows variables"]:
        """These columns side by side, after a check that every value can be used in a logarithm.

        Args:
            names: Columns.
            positive: Refuse values that are zero or negative.

        Raises:
            InvalidInput: A column is unknown or holds text, or values are missing, infinite or not positive; names the rows.
        """
        for name in names:
            if not self.is_number(name):
                bad = [i for i, text in enumerate(self[name]) if parse_number(str(text)) is None]
                rows = self._told(np.array(bad or range(len(self)), dtype=np.int64), self[name])
                raise InvalidInput(f"runs: column {name!r}: expected numbers, got text: {rows}.")
        for name in names:
            values = self[name]
            checks = [("missing", np.isnan(values)), ("infinite", np.isinf(values))]
            if positive:
                checks.append(("zero or negative", values <= 0))
            for what, wrong in checks:
                if wrong.any():
                    keep = {"missing": "!=nan", "infinite": "<inf", "zero or negative": ">0"}[what]
                    raise InvalidInput(
                        f"runs: column {name!r}: expected {'positive' if positive else 'finite'} numbers, got {what} values: "
                        f"{self._told(np.flatnonzero(wrong), values)}. Correct them, or leave these rows out with where "
                        f'"{name}{keep}".'
                    )
        return np.column_stack([self[name] for name in names]) if names else np.empty((len(self), 0))

    def where(self, *conditions: str) -> Self:
        """The rows that meet every condition, such as `"dataset=rw"`, `"loss<3"`, `"params>=1e6"`, `"model!='6 Enc, 6 Dec'"`.

        Numbers may have a suffix (`70M`, `1.4B`) and are equal when they agree to nine digits. A missing value meets no condition
        but `=nan`.

        Raises:
            InvalidInput: A condition is not of this form, names an unknown column, or orders text; or no row is left.
        """
        keep = np.ones(len(self), dtype=bool)
        for condition in conditions:
            name, operator, value = self._parsed(condition)
            met = self._met(name, operator, value, condition)
            if not met.any():
                raise InvalidInput(f"where {condition!r}: no row meets it; {name} has {self._present(name)}.")
            if not (keep & met).any():
                raise InvalidInput(
                    f"where {', '.join(map(repr, conditions))}: no row meets all of them; {condition!r} leaves none of the "
                    f"{int(keep.sum())} rows that meet those before it, whose {name} is {self.take(keep)._present(name)}."
                )
            keep &= met
        return self.take(keep)

    def take(self, index: Any) -> Self:
        """The rows of a mask or of positions (counted from 0), in that order."""
        picked = np.asarray(index)
        return dataclasses.replace(
            self, columns={name: values[picked] for name, values in self.columns.items()}, rows=self._rows[picked]
        )

    def drop_largest_loss(self, count: int) -> Self:
        """Without the rows of the `count` largest losses; of equal losses the later row goes first.

        Raises:
            InvalidInput: Not a whole number from 0 to the number of rows less one, or losses that are not numbers.
        """
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or not 0 <= count < len(self):
            raise InvalidInput(
                f"drop_largest_loss: expected a whole number from 0 to {len(self) - 1} (there are {len(self)} rows), got {show(count)}."
            )
        if count == 0:
            return self
        loss = self.numbers("loss", positive=False)[:, 0]
        keep = np.sort(np.argsort(loss, kind="stable")[: len(self) - count])
        return self.take(keep)

    def last(self, by: str = "run", along: str = "") -> Self:
        """The last row of each run: that of the largest `along`, by default `steps` or `tokens` where present, else the last listed.

        Raises:
            InvalidInput: An unknown column.
        """
        groups = self[by]
        along = along or next((n for n in ("steps", "tokens") if n in self and self.is_number(n)), "")
        order = np.arange(len(self))
        if along:
            order = np.argsort(np.nan_to_num(self.numbers_or_nan(along), nan=-np.inf), kind="stable")
        latest: dict[Any, int] = {}
        for i in order:
            latest[groups[i]] = int(i)
        return self.take(np.sort(np.array(list(latest.values()), dtype=np.int64)))

    def numbers_or_nan(self, name: str) -> Float[np.ndarray, " rows"]:
        """A column as numbers; text is NaN."""
        values = self[name]
        return values if values.dtype.kind == "f" else np.full(len(values), np.nan)

    def sorted(self, *names: str) -> Self:
        """In the order of these columns, the first one first; rows that agree stay in order."""
        return self.take(np.lexsort([_ranks(self[name]) for name in reversed(names)]) if names else slice(None))

    def with_column(self, name: str, values: Any, note: str = "") -> Self:
        """With one more column, or another one in its place."""
        notes = (*self.notes, note) if note else self.notes
        renamed = {old: new for old, new in self.renamed.items() if old != name}
        return dataclasses.replace(self, columns={**self.columns, name: values}, notes=notes, renamed=renamed)

    def with_notes(self, *notes: str) -> Self:
        """With more notes, each once."""
        return dataclasses.replace(self, notes=tuple(dict.fromkeys((*self.notes, *notes))))

    def warnings(self) -> tuple[str, ...]:
        """What is suspicious about the table itself: units, duplicated rows, missing values, failed runs."""
        from foretrain.laws._checks import table_warnings

        return tuple(table_warnings(self))

    def describe(self) -> str:
        """Rows, columns with ranges, what each analysis still lacks, the notes and the warnings, for people."""
        lines = [f"{self.source or 'runs'}: {len(self)} rows, {len(self.columns)} columns"]
        width = max(len(name) for name in self.names)
        for name in self.names:
            was = [old for old, new in self.renamed.items() if new == name and old != name]
            lines.append(f"  {name:<{width}}  {self._present(name)}" + (f"  (in the file: {was[0]})" if was else ""))
        ready, lacking = [], []
        for analysis, needed in _ANALYSES.items():
            missing = [n for n in needed if not any(self._usable(c) for c in ((n,) if isinstance(n, str) else n))]
            words = " and ".join(n if isinstance(n, str) else " or ".join(n) for n in missing)
            (lacking if missing else ready).append(f"{analysis} (needs {words})" if missing else analysis)
        lines.append("enough for: " + (", ".join(ready) or "a law in one variable, if there is a loss"))
        if lacking:
            lines.append("not for: " + "; ".join(lacking))
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"warning: {warning}" for warning in self.warnings()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Runs({len(self)} rows: {_listed(self.names)}" + (f"; from {self.source})" if self.source else ")")

    def _usable(self, name: str) -> bool:
        if name not in self.columns:
            return False
        values = self.columns[name]
        return bool(np.isfinite(values).any() if values.dtype.kind == "f" else (values != "").any())

    def _parsed(self, condition: str) -> tuple[str, str, str]:
        text = str(condition)
        known = [n for n in (*self.columns, *self.renamed) if text.strip().startswith(n)]
        for name in sorted(known, key=len, reverse=True):  # a name may itself hold an operator
            rest = text.strip()[len(name) :]
            if found := _CONDITION.match(rest):
                return self.resolve(name), found[1].replace("==", "="), _unquoted(rest[found.end() :])
        found = _CONDITION.search(text)
        if not found or not text[: found.start()].strip():
            raise InvalidInput(
                f"where {text!r}: expected column=value, or !=, <, <=, >, >= in its place, for example 'dataset=c4' or 'loss<3'."
            )
        return (
            self.resolve(_unquoted(text[: found.start()])),
            found[1].replace("==", "="),
            _unquoted(text[found.end() :]),
        )

    def _met(self, name: str, operator: str, value: str, condition: str) -> np.ndarray:
        values = self[name]
        if values.dtype.kind != "f":
            if operator not in ("=", "!="):
                raise InvalidInput(f"where {condition!r}: {name} is text and has no order; use = or !=.")
            wanted = "" if value.lower() == "nan" else value
            same = np.array([v == wanted for v in values], dtype=bool)
            if not same.any() and wanted:
                same = np.array([v.lower() == wanted.lower() for v in values], dtype=bool)
            if operator == "=":
                return same
            return ~same & np.array([v != "" for v in values], dtype=bool)
        number = parse_number(value)
        if number is None:
            raise InvalidInput(f"where {condition!r}: {name} holds numbers; expected one, got {value!r}.")
        if np.isnan(number):
            if operator not in ("=", "!="):
                raise InvalidInput(f"where {condition!r}: nothing is above or below nan; use = or !=.")
            return np.isnan(values) if operator == "=" else ~np.isnan(values)
        same = np.isclose(values, number, rtol=1e-9, atol=0.0)  # as printed with ten digits
        present = ~np.isnan(values)
        with np.errstate(invalid="ignore"):
            return {
                "=": same,
                "!=": present & ~same,
                "<": (values < number) & ~same,
                ">": (values > number) & ~same,
                "<=": (values < number) | same,
                ">=": (values > number) | same,
            }[operator]

    def _present(self, name: str) -> str:
        """The values of a column in few words."""
        values = self[name]
        if values.dtype.kind != "f":
            found = sorted({str(v) for v in values if v != ""})
            words = _listed([_short(v) for v in found], _LISTED) or "no values"
            gone = int(np.sum(values == ""))
        else:
            found = np.unique(values[~np.isnan(values)])
            words = _listed([f"{v:.10g}" for v in found], _LISTED) if len(found) <= _LISTED else ""
            words = words or (f"{found[0]:.6g} to {found[-1]:.6g} ({len(found)} values)" if len(found) else "no values")
            gone = int(np.isnan(values).sum())
        return words + (f", {gone} missing" if gone else "")

    def _told(self, positions: np.ndarray, values: np.ndarray) -> str:
        some = positions[:_LISTED]
        shown = [
            f"row {self._rows[i]} ({_short(str(values[i])) if values.dtype.kind != 'f' else format(values[i], '.6g')})"
            for i in some
        ]
        more = len(positions) - len(some)
        return ", ".join(shown) + (f" and {more} more" if more else "")


def _column(name: str, values: Any) -> np.ndarray:
    """A read-only array of float64 or of Python strings; a copy, so that the caller's array stays the caller's."""
    try:
        array = np.array(values)
    except ValueError:
        raise InvalidInput(f"Runs({name!r}): expected a list of numbers or of strings, got {show(values)}.") from None
    if array.ndim != 1:
        raise InvalidInput(f"Runs({name!r}): expected one dimension, got shape {array.shape}.")
    if array.dtype.kind in "fiub":
        array = array.astype(np.float64)
    elif array.dtype.kind == "O" and all(v is None or isinstance(v, (int, float, np.number)) for v in array):
        array = np.array([np.nan if v is None else float(v) for v in array], dtype=np.float64)
    else:
        texts = np.empty(len(array), dtype=object)  # fixed-width strings would cost the longest one in every row
        texts[:] = ["" if v is None else str(v) for v in array]
        array = texts
    array.flags.writeable = False
    return array


def _ranks(values: np.ndarray) -> np.ndarray:
    return values if values.dtype.kind == "f" else np.unique(values, return_inverse=True)[1]


def _unquoted(text: str) -> str:
    stripped = text.strip()
    if len(stripped) >= 2 and stripped[0] == stripped[-1] and stripped[0] in "'\"":
        return stripped[1:-1]
    return stripped


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _listed(words: Sequence[str], most: int = 2 * _LISTED) -> str:
    more = len(words) - most
    return ", ".join(words[:most]) + (f" and {more} more" if more > 0 else "")
