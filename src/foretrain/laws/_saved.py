"""Fits as JSON: what `fit --json` prints, and files from which a fit comes back to the last bit.

A file holds the estimate, the bootstrap fits and the quantiles of the residuals, so that everything that follows from a fit (intervals of
parameters, predictions, plans) can be asked of the file alone. The law itself is kept by name and made anew; nothing in a file is evaluated.
"""

import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import foretrain
from foretrain.curves import json_ready
from foretrain.errors import InvalidInput
from foretrain.laws._fit import Estimate, Fit
from foretrain.laws._forms import CATALOGUE, law_named
from foretrain.laws._law import Law
from foretrain.laws._validation import coordinates_of

SCHEMA = 1

_LARGEST_FILE = 64 * 2**20
_KIND = "fitted law"
_NUMBERS = ("objective", "level", "condition_number", "gradient")
_COUNTS = ("n", "groups", "starts", "starts_agreeing")


def fit_to_json(fit: Fit) -> dict[str, Any]:
    """What people and programs want to know of a fit, as plain JSON types.

    Ends of intervals are `None` where no bootstrap was made; other numbers that are not finite are the strings `"inf"` and `"nan"`.

    Args:
        fit: The fit.
    """
    return {
        "law": fit.law.name,
        "formula": fit.law.formula,
        "variables": list(fit.law.variables),
        "response": fit.law.response,
        "parameters": {name: estimate_to_json(e) for name, e in fit.parameters.items()},
        "objective": json_ready(fit.objective),
        "n": fit.rows,
        "groups": fit.groups,
        "starts": fit.starts,
        "starts_agreeing": fit.starts_agreeing,
        "condition_number": json_ready(fit.condition_number),
        "gradient": json_ready(fit.gradient),
        "level": fit.level,
        "warnings": list(fit.warnings),
        "derived": {name: estimate_to_json(e) for name, e in fit.derived.items()},
        "validation": json_ready(fit.validation),
        "settings": json_ready(fit.settings),
        "data": json_ready(fit.data),
    }


def estimate_to_json(estimate: Estimate) -> dict[str, Any]:
    """`{"value", "low", "high"}`, with `None` for what is not known.

    Args:
        estimate: A number with an interval.
    """
    return {
        name: None if math.isnan(number) else json_ready(float(number)) for name, number in estimate.to_json().items()
    }


def file_text(fit: Fit) -> str:
    """The text of a file that `load` reads.

    Args:
        fit: The fit.
    """
    table = {"schema": SCHEMA, "kind": _KIND, "foretrain": foretrain.__version__} | fit_to_json(fit)
    # The coordinates are what counts; parameters and intervals above are for readers.
    table |= {
        "theta": json_ready(fit.theta),
        "residuals": json_ready(fit.residuals),
        "samples": json_ready(fit.samples),
        "forms": [{**_law_to_json(law), "theta": json_ready(theta)} for law, theta in fit.forms],
    }
    return json.dumps(table, allow_nan=False, ensure_ascii=False)


def save(fit: Fit, path: str | os.PathLike) -> None:
    """Write a fit as strict JSON; the file appears complete or not at all.

    Args:
        fit: The fit.
        path: The file.

    Raises:
        InvalidInput: The file cannot be written.

    Example:
        >>> import numpy as np
        >>> from foretrain.laws import Fit, fit
        >>> found = fit({"tokens": [1e6, 4e6, 2e7, 1e8, 1e9], "loss": [5.0, 4.0, 3.2, 2.8, 2.5]}, "power", x="tokens", bootstrap=20)
        >>> found.save("law.json")
        >>> bool(np.all(Fit.load("law.json").samples == found.samples))
        True
    """
    target, text = Path(path), file_text(fit)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:100]}.", suffix=".part", dir=target.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text + "\n")
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(name, 0o666 & ~umask)
            os.replace(name, target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except (OSError, ValueError) as error:
        raise InvalidInput(f"save: {target} cannot be written: {getattr(error, 'strerror', None) or error}.") from None


def load(path: str | os.PathLike, *, law: Law | None = None) -> Fit:
    """The fit that a file holds.

    Args:
        path: A file that `save` or `foretrain fit -o` wrote.
        law: The law, when it is one of your own; laws of `foretrain laws` are found by name.

    Raises:
        InvalidInput: Not such a file, one of another version, or one of a law that is not known.
    """
    table = _read(Path(path))
    where = f"{path}"
    if table.get("kind") != _KIND:
        raise InvalidInput(f"{where}: expected a law written by `foretrain fit -o`; 'kind' is not {_KIND!r}.")
    if table.get("schema") != SCHEMA or isinstance(table.get("schema"), bool):
        raise InvalidInput(
            f"{where}: schema: expected {SCHEMA}, got {_short(table.get('schema'))}; written by another version of foretrain."
        )
    made = _law_of(table, where, law)
    numbers = {name: _number(table, name, where) for name in _NUMBERS}
    counts = {name: _count(table, name, where) for name in _COUNTS}
    if not 0 < numbers["level"] < 1:
        raise InvalidInput(f"{where}: level: expected a number between 0 and 1, got {numbers['level']:g}.")
    forms = []
    for i, entry in enumerate(_typed(table, "forms", list, where)):
        if not isinstance(entry, dict):
            raise InvalidInput(f"{where}: forms[{i}]: expected an object, got {_short(entry)}.")
        other = _law_of(entry, f"{where}: forms[{i}]", None)
        forms.append((other, _coordinates(entry, "theta", other, f"{where}: forms[{i}]")))
    warnings = _typed(table, "warnings", list, where)
    validation = _validation(table, where)
    if not all(isinstance(w, str) for w in warnings):
        raise InvalidInput(f"{where}: warnings: expected strings.")
    return Fit(
        made,
        _coordinates(table, "theta", made, where),
        numbers["objective"],
        _coordinates(table, "samples", made, where),
        numbers["level"],
        _array(table, "residuals", (None,), where),
        counts["n"],
        counts["groups"],
        counts["starts"],
        counts["starts_agreeing"],
        numbers["condition_number"],
        numbers["gradient"],
        tuple(warnings),
        settings=_typed(table, "settings", dict, where),
        data=_data(table, made, where),
        validation=validation,
        forms=tuple(forms),
    )


def _law_to_json(law: Law) -> dict[str, Any]:
    return {"law": law.name, "formula": law.formula, "variables": list(law.variables), "response": law.response}


def _law_of(table: Mapping[str, Any], where: str, law: Law | None) -> Law:
    name, variables = table.get("law"), table.get("variables")
    if not isinstance(name, str) or not isinstance(variables, list) or not all(isinstance(v, str) for v in variables):
        raise InvalidInput(f"{where}: law, variables: expected the name of a law and a list of columns.")
    if law is None:
        if name not in CATALOGUE:
            raise InvalidInput(
                f"{where}: law: {_short(name)} is not one of {', '.join(CATALOGUE)}; give your own one as load(path, law=...)."
            )
        entry = CATALOGUE[name]
        x = variables[0] if entry.one_variable and len(variables) == 1 else None
        law = law_named(name, x=x, having=[v for v in entry.optional if v in variables])
    if law.name != name or list(law.variables) != variables or law.formula != table.get("formula"):
        raise InvalidInput(
            f"{where}: law: the file's {_short(name)} is {_short(table.get('formula'))} of {_short(', '.join(variables))}, which is another law than "
            f"{law.formula!r}."
        )
    return law


def _read(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not strict JSON")

    try:
        if not path.is_file():
            raise InvalidInput(f"{path}: expected a law written by `foretrain fit -o`, found no such file.")
        if path.stat().st_size > _LARGEST_FILE:
            raise InvalidInput(f"{path}: larger than 64 MiB; expected a law written by `foretrain fit -o`.")
        table = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, InvalidInput):
            raise
        told = getattr(error, "strerror", None) or error
        raise InvalidInput(f"{path}: expected a law written by `foretrain fit -o`, in JSON: {told}.") from None
    if not isinstance(table, dict):
        raise InvalidInput(f"{path}: expected a law written by `foretrain fit -o`, got a {type(table).__name__}.")
    return table


def _typed(table: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    value = table.get(name)
    if not isinstance(value, kind):
        words = {list: "a list", dict: "an object"}[kind]
        raise InvalidInput(f"{where}: {name}: expected {words}, got {_short(value)}.")
    return value


def _number(table: Mapping[str, Any], name: str, where: str) -> float:
    value = table.get(name)
    if value in ("inf", "nan"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e308:
        raise InvalidInput(f"{where}: {name}: expected a number, got {_short(value)}.")
    return float(value)


def _count(table: Mapping[str, Any], name: str, where: str) -> int:
    value = table.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise InvalidInput(f"{where}: {name}: expected a count, got {_short(value)}.")
    return value


def _array(table: Mapping[str, Any], name: str, shape: tuple[int | None, ...], where: str) -> np.ndarray:
    value = _typed(table, name, list, where)
    expected = " x ".join("any" if n is None else str(n) for n in shape)
    if not value and shape[0] is None:
        return np.zeros(tuple(n or 0 for n in shape))
    try:
        array = np.array(value)
    except (ValueError, OverflowError):
        array = np.array(None)
    fits = array.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
    if not fits or array.dtype.kind not in "fi" or not np.all(np.isfinite(array)):
        raise InvalidInput(f"{where}: {name}: expected {expected} finite numbers, got {_short(value)}.")
    return array.astype(np.float64)


def _data(table: Mapping[str, Any], law: Law, where: str) -> dict[str, Any]:
    """What is known of the rows; ranges are used by forecasts, and have to be pairs of positive numbers."""
    data = _typed(table, "data", dict, where)
    ranges = _typed(data, "ranges", dict, f"{where}: data")
    found = {}
    for name in law.variables:
        if name in law.defaults and name not in ranges:
            continue
        low, high = _array(ranges, name, (2,), f"{where}: data: ranges")
        if not 0 < low <= high:
            raise InvalidInput(f"{where}: data: ranges: {name}: expected 0 < low <= high, got {_short(ranges[name])}.")
        found[name] = (float(low), float(high))
    span = {"span": _span(data, law, found, where)} if "span" in data else {}
    return {**data, "ranges": found, **span}


def _validation(table: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    """The budgets left out; intervals of forecasts need their numbers."""
    if table.get("validation") is None:
        return None
    validation = table["validation"]
    if not isinstance(validation, dict):
        raise InvalidInput(f"{where}: validation: expected an object or null, got {_short(validation)}.")
    below = _typed({"rehearsals": [], **validation}, "rehearsals", list, f"{where}: validation")
    rehearsals = [_rehearsal(entry, f"{where}: validation: rehearsals[{i}]") for i, entry in enumerate(below)]
    return _rehearsal(validation, f"{where}: validation") | {"rehearsals": rehearsals}


def _rehearsal(entry: Any, where: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise InvalidInput(f"{where}: expected an object, got {_short(entry)}.")
    if not isinstance(entry.get("by"), str):
        raise InvalidInput(f"{where}: by: expected what the budget is measured in, got {_short(entry.get('by'))}.")
    numbers = ("budget", "mean_abs_error", "worst_error", "bias", "distance", "growth")
    return entry | {"rows": _count(entry, "rows", where)} | {name: _number(entry, name, where) for name in numbers}


def _span(data: Mapping[str, Any], law: Law, ranges: Mapping[str, tuple[float, float]], where: str) -> dict[str, Any]:
    """How far the rows reach, in every coordinate that distances are counted in."""
    span = _typed(data, "span", dict, f"{where}: data")
    size = len(coordinates_of({name: low for name, (low, _) in ranges.items()}, law))
    low, high = (_array(span, end, (size,), f"{where}: data: span") for end in ("low", "high"))
    if not np.all(low <= high):
        raise InvalidInput(f"{where}: data: span: expected low <= high, got {_short(span)}.")
    return {"low": low.tolist(), "high": high.tolist()}


def _coordinates(table: Mapping[str, Any], name: str, law: Law, where: str) -> np.ndarray:
    size = len(law.parameters)
    theta = _array(table, name, (size,) if name == "theta" else (None, size), where)
    low, high = law.bounds
    if not np.all((theta >= low) & (theta <= high)):
        raise InvalidInput(f"{where}: {name}: a coordinate is out of the range that law {law.name!r} has for it.")
    return theta


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
