"""`LearningCurves`: the labelled result of `solve` and `train`, and `Comparison`, which pairs the two.

Schema, version 1. Dimensions have fixed names: the axes of the problem in the order task, model, training, then `mode`
where a variable is resolved by mode, then `time`. Variables: `test_loss`, `train_loss`, each with `_stderr` where it was
sampled and `_error` where it was computed with an error estimate; `status` without `time`; further variables by name.
Losses are means of squared errors, without a factor one half; `test_loss` leaves the label noise out.
"""

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foretrain.errors import InvalidInput, nearest

if TYPE_CHECKING:
    import xarray

SCHEMA_VERSION = 1
STATUSES = ("ok", "diverged", "not converged", "failed")

Variable = tuple[tuple[str, ...], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class LearningCurves:
    """Labelled learning curves: variables over named dimensions, with coordinates and attributes.

    Args:
        variables: Name to (dimension names, array).
        coords: Values of every dimension.
        attrs: What made the result: declaration, solver, versions, messages. Plain values, lists and tables only.

    Raises:
        InvalidInput: Shapes and coordinates do not match.

    Example:
        >>> import numpy as np
        >>> from foretrain.curves import LearningCurves
        >>> curves = LearningCurves({"test_loss": (("time",), np.array([1.0, 0.5]))}, {"time": np.array([0.0, 1.0])}, {})
        >>> curves["test_loss"].sel(time=1.0).item()
        0.5
    """

    variables: Mapping[str, Variable]
    coords: Mapping[str, np.ndarray]
    attrs: Mapping[str, Any]

    def __post_init__(self) -> None:
        coords = {name: _frozen(values) for name, values in self.coords.items()}
        variables = {}
        for name, (dims, values) in self.variables.items():
            array = _frozen(values)
            missing = [d for d in dims if d not in coords]
            if missing:
                raise InvalidInput(f"LearningCurves({name}): dimension {missing[0]!r} has no coordinate.")
            expected = tuple(len(coords[d]) for d in dims)
            if array.shape != expected:
                raise InvalidInput(
                    f"LearningCurves({name}): expected shape {expected} for {tuple(dims)}, got {array.shape}."
                )
            variables[name] = (tuple(dims), array)
        object.__setattr__(self, "variables", variables)
        object.__setattr__(self, "coords", coords)
        object.__setattr__(self, "attrs", {"schema_version": SCHEMA_VERSION, **self.attrs})

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Dimension names of every variable."""
        return {name: dims for name, (dims, _) in self.variables.items()}

    def values(self, name: str) -> np.ndarray:
        """The plain array of a variable.

        Raises:
            InvalidInput: No such variable.
        """
        if name not in self.variables:
            raise InvalidInput(
                f"LearningCurves: no variable {name!r}{nearest(name, self.variables)}; it has {', '.join(self.variables)}."
            )
        return self.variables[name][1]

    def __getitem__(self, name: str) -> "xarray.DataArray":
        self.values(name)
        return self.dataset[name]

    def __contains__(self, name: str) -> bool:
        return name in self.variables

    @property
    def status(self) -> str:
        """One word for the whole: the status that all points share, else `partial`."""
        if "status" not in self.variables:
            return "ok"
        found = set(np.unique(self.values("status")).tolist())
        return found.pop() if len(found) == 1 else "partial"

    @property
    def messages(self) -> list[str]:
        """What the solver had to say, for example why points failed and what to try next."""
        return list(self.attrs.get("messages", []))

    @cached_property
    def dataset(self) -> "xarray.Dataset":
        """The same as an `xarray.Dataset`."""
        import xarray

        return xarray.Dataset(
            {name: (dims, values) for name, (dims, values) in self.variables.items()},
            coords=dict(self.coords),
            attrs=dict(self.attrs),
        )

    @classmethod
    def from_dataset(cls, dataset: "xarray.Dataset") -> "LearningCurves":
        """The curves that an `xarray.Dataset` holds."""
        return cls(
            {str(name): (tuple(map(str, v.dims)), _plain(v.values)) for name, v in dataset.data_vars.items()},
            {str(name): _plain(v.values) for name, v in dataset.coords.items()},
            {str(k): v for k, v in dataset.attrs.items()},
        )

    def save(self, path: str | os.PathLike) -> None:
        """Write a NetCDF file, atomically: a reader never sees half of it."""
        _write({"": self}, path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "LearningCurves":
        """Read what `save` wrote.

        Raises:
            InvalidInput: Not such a file.
        """
        groups = _read(path)
        if "" not in groups:
            raise InvalidInput(
                f"LearningCurves.load: {path} holds the groups {', '.join(groups)}; read it with Comparison.load."
            )
        return groups[""]

    def to_json(self) -> dict[str, Any]:
        """A table of plain values for strict JSON: non-finite numbers are the strings `"inf"`, `"-inf"`, `"nan"`."""
        return {
            "status": self.status,
            "coords": {name: json_ready(values) for name, values in self.coords.items()},
            "dims": {name: list(dims) for name, dims in self.dims.items()},
            "data": {name: json_ready(values) for name, (_, values) in self.variables.items()},
            "attrs": json_ready(dict(self.attrs)),
        }

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}: {len(values)}" for name, values in self.coords.items())
        return f"LearningCurves({', '.join(self.variables)}; {sizes or 'no dimensions'}; status: {self.status})"


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Theory and training of the same problem on the same grid, with the error between them.

    Args:
        theory: What `solve` returned.
        training: What `train` returned.
        error: `test_loss`, `train_loss`: theory / training - 1; `_z`: the difference in standard errors.
    """

    theory: LearningCurves
    training: LearningCurves
    error: LearningCurves

    def groups(self) -> dict[str, LearningCurves]:
        """The three parts by name."""
        return {"theory": self.theory, "training": self.training, "error": self.error}

    @cached_property
    def datatree(self) -> "xarray.DataTree":
        """The same as an `xarray.DataTree` with groups `theory`, `training`, `error`."""
        import xarray

        return xarray.DataTree.from_dict({name: curves.dataset for name, curves in self.groups().items()})

    def save(self, path: str | os.PathLike) -> None:
        """Write a NetCDF file with one group for each part, atomically."""
        _write(self.groups(), path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Comparison":
        """Read what `save` wrote.

        Raises:
            InvalidInput: Not such a file.
        """
        groups = _read(path)
        try:
            return cls(groups["theory"], groups["training"], groups["error"])
        except KeyError as error:
            raise InvalidInput(f"Comparison.load: {path} has no group {error}; was it written by `compare`?") from None

    def to_json(self) -> dict[str, Any]:
        """The three parts in the form of `LearningCurves.to_json`."""
        return {name: curves.to_json() for name, curves in self.groups().items()}

    def __repr__(self) -> str:
        return f"Comparison(theory={self.theory!r}, training={self.training!r})"


def json_ready(value: Any) -> Any:
    """`value` as plain JSON types; non-finite numbers become the strings `"inf"`, `"-inf"`, `"nan"`."""
    if isinstance(value, np.ndarray):
        return json_ready(value.tolist())
    if isinstance(value, np.generic):
        return json_ready(value.item())
    if isinstance(value, Mapping):
        return {str(k): json_ready(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def _frozen(values: Any) -> np.ndarray:
    array = np.array(values)
    array.flags.writeable = False
    return array


def _plain(values: np.ndarray) -> np.ndarray:
    return values.astype(str) if values.dtype.kind in "OT" else values


def _encode(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """NetCDF attributes cannot nest: lists and tables are stored as JSON text under a marked name."""
    plain: dict[str, Any] = {}
    for name, value in attrs.items():
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            plain[name] = value
        else:
            plain[f"{name}:json"] = json.dumps(json_ready(value))
    return plain


def _decode(attrs: Mapping[str, Any]) -> dict[str, Any]:
    decoded: dict[str, Any] = {}
    for name, value in attrs.items():
        if name.endswith(":json"):
            decoded[name.removesuffix(":json")] = json.loads(value)
        else:
            decoded[name] = value.item() if isinstance(value, np.generic) else value
    return decoded


def _write(groups: Mapping[str, LearningCurves], path: str | os.PathLike) -> None:
    import h5netcdf

    target = Path(path)
    if not target.parent.is_dir():
        raise InvalidInput(f"save: no folder {target.parent}; create it first.")
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    os.close(handle)
    try:
        with h5netcdf.File(name, "w") as file:
            for group, curves in groups.items():
                _write_group(file.create_group(group) if group else file, curves)
        with open(name, "rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _write_group(group: Any, curves: LearningCurves) -> None:
    group.dimensions = {name: len(values) for name, values in curves.coords.items()}
    entries = {name: ((name,), values) for name, values in curves.coords.items()} | dict(curves.variables)
    for name, (dims, values) in entries.items():
        if values.dtype.kind == "U":
            import h5py

            variable = group.create_variable(name, dims, h5py.string_dtype())
            variable[...] = values.astype(object)
        elif values.dtype.kind == "b":
            variable = group.create_variable(name, dims, np.int8)
            variable[...] = values.astype(np.int8)
            variable.attrs["dtype"] = "bool"
        else:
            variable = group.create_variable(name, dims, values.dtype)
            variable[...] = values
    for name, value in _encode(curves.attrs).items():
        group.attrs[name] = value


def _read(path: str | os.PathLike) -> dict[str, LearningCurves]:
    import h5netcdf

    if not Path(path).is_file():
        raise InvalidInput(f"load: no file {path}.")
    try:
        with h5netcdf.File(path, "r") as file:
            named = {str(name): _read_group(group) for name, group in file.groups.items()}
            return named or {"": _read_group(file)}
    except InvalidInput:
        raise
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise InvalidInput(f"load: {path}: expected a NetCDF file written by foretrain, got: {error}.") from None


def _read_group(group: Any) -> LearningCurves:
    coords: dict[str, np.ndarray] = {}
    variables: dict[str, Variable] = {}
    for name, variable in group.variables.items():
        values = np.asarray(variable[...])
        if values.dtype.kind in "OS":
            values = np.vectorize(lambda v: v.decode() if isinstance(v, bytes) else str(v), otypes=[str])(values)
        if dict(variable.attrs).get("dtype") == "bool":
            values = values.astype(bool)
        if name in group.dimensions:
            coords[str(name)] = values
        else:
            variables[str(name)] = (tuple(variable.dimensions), values)
    attrs = _decode(dict(group.attrs))
    if attrs.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise InvalidInput(
            f"load: schema version {attrs['schema_version']} was written by another release; this one reads version {SCHEMA_VERSION}."
        )
    return LearningCurves(variables, coords, attrs)


def combine_messages(messages: Sequence[str]) -> list[str]:
    """Each message once, in order."""
    return list(dict.fromkeys(messages))
