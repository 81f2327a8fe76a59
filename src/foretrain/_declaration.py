"""Frozen declarations: validated on construction, compared and hashed by value, written to and read from tables.

A declaration is a frozen dataclass whose fields are made by the functions of this module (`number`, `integer`,
`choice`, ...). Each field knows what it accepts and how to say so. A field that may be an *axis* also accepts a list,
which is stored as a tuple and swept over.
"""

import dataclasses
import hashlib
import json
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Self

import numpy as np

from foretrain.errors import InvalidInput, nearest

_SPEC = "foretrain"


class WrongKey(InvalidInput):
    """A key of a declaration is wrong; carries the parts so that a study file can name itself as the owner."""

    def __init__(self, owner: str, key: str, message: str):
        self.owner, self.key, self.message = owner, key, message
        super().__init__(f"{owner}: {key}: {message}")

    def owned_by(self, owner: str) -> "WrongKey":
        """The same error told about another owner, for example a section of a study file."""
        return WrongKey(owner, self.key, self.message)


def show(value: Any) -> str:
    """A short printable form of a value that a user passed, for error messages."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}, dtype {value.dtype}"
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print integers of more than 4300 digits
        return f"a {type(value).__name__} that is too long to print"
    return text if len(text) <= 60 else text[:57] + "..."


@dataclasses.dataclass(frozen=True)
class Field:
    """What one field of a declaration accepts."""

    parse: Callable[[Any], Any]  # returns the normalized value or raises ValueError(message)
    axis: bool = False
    optional: bool = False

    def read(self, value: Any) -> Any:
        """The normalized value; a list becomes a tuple of normalized values when the field may be an axis."""
        if value is None and self.optional:
            return None
        if self.axis and (isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim > 0)):
            if len(value) == 0:
                raise ValueError("expected at least one value, got an empty list")
            values = tuple(self.parse(v) for v in value)
            if len(set(values)) != len(values):
                raise ValueError(f"expected distinct values, got {show(list(value))}; remove the repeated ones")
            return values
        return self.parse(value)


def plain_number(value: Any, expected: str = "a number") -> float:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise ValueError(f"expected {expected}, got {show(value)}")
    try:
        result = float(value)
    except OverflowError:
        raise ValueError(f"expected a number below 1.8e308, got {show(value)}") from None
    if math.isnan(result):
        raise ValueError(f"expected {expected}, got NaN")
    return result


def float_array(value: Any) -> np.ndarray:
    """Numbers as a float64 array; strings that look like numbers, truth values and dates are refused.

    Raises:
        ValueError: Not numbers, or lists of unequal lengths.
    """
    try:
        array = np.asarray(value)
        if array.dtype.kind == "O" and all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in array.flat):
            array = array.astype(np.float64)  # whole numbers beyond 64 bits
        if array.dtype.kind in "iuf":
            return array.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"expected a list of numbers, got {show(value)}")


def _bounds(low: float | None, high: float | None, low_open: bool, high_open: bool) -> str:
    parts = []
    if low is not None:
        parts.append(f"{'>' if low_open else '>='} {low:g}")
    if high is not None:
        parts.append(f"{'<' if high_open else '<='} {high:g}")
    return " and ".join(parts)


def number(
    *,
    low: float | None = None,
    high: float | None = None,
    low_open: bool = False,
    high_open: bool = False,
    infinite: bool = False,
    axis: bool = True,
    default: Any = dataclasses.MISSING,
) -> Any:
    """A real number within bounds, `inf` only where `infinite`."""
    limits = _bounds(low, high, low_open, high_open)
    expected = f"a number{' ' + limits if limits else ''}{' or inf' if infinite else ''}"

    def parse(value: Any) -> float:
        result = plain_number(value, expected)
        if math.isinf(result):
            if infinite and result > 0:
                return result
            raise ValueError(f"expected {expected}, got {result}")
        too_low = low is not None and (result < low or (low_open and result == low))
        too_high = high is not None and (result > high or (high_open and result == high))
        if too_low or too_high:
            raise ValueError(f"expected {expected}, got {show(value)}")
        return result

    return _field(Field(parse, axis, default is None), default)


def integer(
    *, low: int | None = None, infinite: bool = False, axis: bool = True, default: Any = dataclasses.MISSING
) -> Any:
    """A whole number (floats with no fraction are taken), `inf` only where `infinite`."""
    expected = f"a whole number{f' >= {low}' if low is not None else ''}{' or inf' if infinite else ''}"

    def parse(value: Any) -> int | float:
        result = plain_number(value, expected)
        if math.isinf(result):
            if infinite and result > 0:
                return result
            raise ValueError(f"expected {expected}, got {result}")
        if result != int(result) or (low is not None and result < low):
            raise ValueError(f"expected {expected}, got {show(value)}")
        return int(value)

    return _field(Field(parse, axis, default is None), default)


def choice(names: Iterable[str], *, axis: bool = True, default: Any = dataclasses.MISSING) -> Any:
    """One of a few names."""
    valid = tuple(names)

    def parse(value: Any) -> str:
        if not isinstance(value, str) or value not in valid:
            raise ValueError(f"expected one of {', '.join(map(repr, valid))}, got {show(value)}{nearest(value, valid)}")
        return value

    return _field(Field(parse, axis, default is None), default)


def flag(*, default: Any = dataclasses.MISSING) -> Any:
    """True or false."""

    def parse(value: Any) -> bool:
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"expected true or false, got {show(value)}")
        return bool(value)

    return _field(Field(parse, False, default is None), default)


def text(*, default: Any = dataclasses.MISSING) -> Any:
    """A string, for example a path."""

    def parse(value: Any) -> str:
        if hasattr(value, "__fspath__"):
            value = value.__fspath__()
        if not isinstance(value, str) or not value:
            raise ValueError(f"expected a non-empty string, got {show(value)}")
        if "\0" in value:
            raise ValueError("expected a string without NUL characters")
        return value

    return _field(Field(parse, False, default is None), default)


def vector(
    *,
    low: float | None = None,
    low_open: bool = False,
    ndim: int | tuple[int, ...] = 1,
    default: Any = dataclasses.MISSING,
) -> Any:
    """A read-only float64 array by nature: never an axis; finite; entries bounded below when `low` is given."""
    dims = (ndim,) if isinstance(ndim, int) else ndim

    def parse(value: Any) -> np.ndarray:
        array = np.array(float_array(value), order="C")
        if array.ndim not in dims or array.size == 0:
            shape = " or ".join(f"{d}-dimensional" for d in dims)
            raise ValueError(f"expected a non-empty {shape} array, got shape {array.shape}")
        if not np.all(np.isfinite(array)):
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise ValueError(f"expected finite numbers, got {array[where]} at index {_index(where)}")
        if low is not None:
            bad = array <= low if low_open else array < low
            if np.any(bad):
                where = tuple(int(i) for i in np.argwhere(bad)[0])
                sign = ">" if low_open else ">="
                raise ValueError(f"expected numbers {sign} {low:g}, got {array[where]:g} at index {_index(where)}")
        array.flags.writeable = False
        return array

    return _field(Field(parse, False, default is None), default)


def custom(parse: Callable[[Any], Any], *, axis: bool = False, default: Any = dataclasses.MISSING) -> Any:
    """A field with its own parser, which raises `ValueError` with the words "expected ..., got ..."."""
    return _field(Field(parse, axis, default is None), default)


def _index(where: tuple[int, ...]) -> str:
    return str(where[0]) if len(where) == 1 else str(where)


def _field(spec: Field, default: Any) -> Any:
    return dataclasses.field(default=default, metadata={_SPEC: spec})


def _canonical(value: Any) -> Any:
    """A JSON-ready form that is equal exactly when the values are; arrays enter by dtype, shape and SHA-256."""
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {"array": [str(value.dtype), list(value.shape), digest]}
    if isinstance(value, Declaration):
        return {value.kind: value.digest()}
    if isinstance(value, (tuple, list)):
        return [_canonical(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _canonical(v) for k, v in value.items()}
    if isinstance(value, float):
        return repr(value)
    return value


@dataclasses.dataclass(frozen=True, eq=False)
class Declaration:
    """Base of all declarations: immutable data with value equality and a hash that is the same in every process."""

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            spec = field.metadata.get(_SPEC)
            if spec is None:
                continue
            try:
                object.__setattr__(self, field.name, spec.read(getattr(self, field.name)))
            except ValueError as error:
                raise WrongKey(type(self).__name__, field.name, str(error)) from None
        self._check()

    def _check(self) -> None:
        """Checks between fields; raise with `self._wrong(key, message)`."""

    def _wrong(self, key: str, message: str) -> WrongKey:
        return WrongKey(type(self).__name__, key, message)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.digest() == other.digest()  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return int(self.digest()[:15], 16)

    def digest(self) -> str:
        """SHA-256 of the content, the same in every process and on every machine."""
        content = {field.name: _canonical(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return hashlib.sha256(json.dumps({self.kind: content}, sort_keys=True).encode()).hexdigest()

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        known = [f.name for f in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise WrongKey(
                    type(self).__name__, name, f"no such field{nearest(name, known)}; it has {', '.join(known)}"
                )
        return dataclasses.replace(self, **changes)

    def axes(self) -> dict[str, tuple]:
        """The fields that hold several values, in field order: these are the dimensions of a sweep."""
        found = {}
        for field in dataclasses.fields(self):
            spec, value = field.metadata.get(_SPEC), getattr(self, field.name)
            if spec is not None and spec.axis and isinstance(value, tuple):
                found[field.name] = value
        return found

    def to_table(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as plain values for a study file or a result's attributes."""
        table: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                table[field.name] = value.tolist()
            elif value is None or (field.default is not dataclasses.MISSING and _same(value, field.default)):
                continue
            else:
                table[field.name] = _listed(value)
        return table

    @classmethod
    def from_table(cls, table: Mapping[str, Any], owner: str | None = None) -> Self:
        """The declaration that a table of a study file states.

        Args:
            table: Keys and values; every key must be a field.
            owner: Who is named in errors, for example `"study.toml: [task]"`.
        """
        owner = owner or cls.__name__
        known = {f.name: f for f in dataclasses.fields(cls) if f.init}
        for key in table:
            if key not in known:
                raise WrongKey(
                    owner, str(key), f"unknown key{nearest(key, known)}; valid keys: {', '.join(known) or 'none'}"
                )
        for key, field in known.items():
            if field.default is dataclasses.MISSING and key not in table:
                raise WrongKey(owner, key, f"missing; {cls.kind!r} needs it")
        try:
            return cls(**table)
        except WrongKey as error:
            raise error.owned_by(owner) from None


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and value == default


def _listed(value: Any) -> Any:
    if isinstance(value, Declaration):
        return {"kind": value.kind, **value.to_table()}
    return [_listed(v) for v in value] if isinstance(value, tuple) else value
