"""`Study`: a problem with its times, seeds and options, as one TOML file states it. Schema, version 1."""

import dataclasses
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foretrain._declaration import (
    Declaration,
    WrongKey,
    choice,
    custom,
    integer,
    number,
    show,
    text,
)
from foretrain.errors import InvalidInput, nearest
from foretrain.problems import MODELS, PROTOCOLS, AbstractProtocol, NetworkTraining, Problem, protocol_times
from foretrain.problems._protocols import protocol_named
from foretrain.problems._times import read_times
from foretrain.tasks import TASKS

SCHEMA = 1
_LARGEST_FILE = 64 * 2**20
_SECTIONS = ("task", "model", "training")
_TOP = ("schema", "title", *_SECTIONS, "solve", "transfer")
_STUDY_KEYS = ("times", "seeds", "seed", "minibatches", "outputs")


@dataclasses.dataclass(frozen=True, eq=False)
class TimeRange(Declaration):
    """Times from `start` to `stop`, as the table `times = {start, stop, points, spacing}` of a study file.

    Args:
        start: First time; above 0 for log spacing.
        stop: Last time.
        points: How many.
        spacing: `"log"` or `"linear"`.
    """

    kind = "time-range"

    start: float = number(low=0.0, axis=False)
    stop: float = number(low=0.0, axis=False)
    points: int = integer(low=1, axis=False)
    spacing: str = choice(("log", "linear"), axis=False, default="log")


@dataclasses.dataclass(frozen=True, eq=False)
class SolveOptions(Declaration):
    """The section `[solve]` of a study file.

    Args:
        method: Name of a limit to insist on; `auto` takes the first that covers the problem.
    """

    kind = "solve"

    method: str = text(default="auto")


@dataclasses.dataclass(frozen=True, eq=False)
class TransferOptions(Declaration):
    """The section `[transfer]` of a study file: what `transfer` looks at.

    Args:
        swept: The hyperparameter whose best value should not move; found when only one has several values.
        axis: The size; found when only one has several values.
        objective: `"train_loss"` or `"test_loss"` at the last of the times.
        tolerance: Largest |d ln(best value) / d ln(size)| that counts as transfer.
        proxy: Trained size whose best value is recommended; by default the largest whose optimum lies inside the grid.
        target: Size that it is recommended for; by default the largest trained one.
    """

    kind = "transfer"

    swept: str | None = text(default=None)
    axis: str | None = text(default=None)
    objective: str = choice(("train_loss", "test_loss"), axis=False, default="train_loss")
    tolerance: float = number(low=0.0, low_open=True, axis=False, default=0.1)
    proxy: int | None = integer(low=1, axis=False, default=None)
    target: int | None = integer(low=1, axis=False, default=None)


def _parse_problem(value: Any) -> Problem:
    if not isinstance(value, Problem):
        raise ValueError(f"expected a Problem, got {show(value)}")
    return value


def _parse_times(value: Any) -> Any:
    if value is None or isinstance(value, TimeRange):
        return value
    try:
        times = read_times(value, discrete=False)
        return TimeRange.from_table(value) if isinstance(value, Mapping) else tuple(times.tolist())
    except WrongKey as error:
        raise ValueError(error.message) from None


def _parse_outputs(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence) or any(not isinstance(v, str) or not v for v in value):
        raise ValueError(f"expected a list of names, got {show(value)}")
    if len(set(value)) != len(value):
        raise ValueError(f"expected distinct names, got {show(value)}")
    return tuple(value)


def _parse_options(value: Any) -> SolveOptions:
    if not isinstance(value, SolveOptions):
        raise ValueError(f"expected SolveOptions, got {show(value)}")
    return value


def _parse_transfer(value: Any) -> TransferOptions:
    if not isinstance(value, TransferOptions):
        raise ValueError(f"expected TransferOptions, got {show(value)}")
    return value


def _whole(low: int, high: int, default: int) -> Any:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"expected a whole number from {low} to {high}, got {show(value)}")
        return value

    return custom(parse, default=default)


@dataclasses.dataclass(frozen=True, eq=False)
class Study(Declaration):
    """A problem (or a grid of problems) with everything that the verbs need to run it.

    Args:
        problem: What is learned, what learns it, how it is trained.
        times: A list of times or steps, or a range; `None` for protocols without time.
        seeds: How many finite networks `train` averages over at every point.
        seed: Where their random numbers start; the same number gives the same networks.
        minibatches: `"sampled"`, or `"averaged"`: what `train` does about the randomness of SGD's minibatches.
        outputs: Further variables that `solve` returns, for example `("bias",)`.
        title: One line for tables and reports.
        solve: Options of `solve`.
        transfer: Options of `transfer`.

    Raises:
        InvalidInput: A value is wrong or the parts do not fit together.

    Example:
        >>> from foretrain import GradientFlow, PowerLaw, Problem, RandomFeatures, Study
        >>> problem = Problem(PowerLaw(1.5, 0.6), RandomFeatures(width=64), GradientFlow(samples=128))
        >>> Study(problem, times=[1.0, 10.0]).seeds
        10
    """

    kind = "study"

    problem: Problem = custom(_parse_problem)
    times: TimeRange | tuple[float, ...] | None = custom(_parse_times, default=None)
    seeds: int = _whole(1, 1_000_000, 10)
    seed: int = _whole(0, 2**32 - 1, 0)
    minibatches: str = choice(("sampled", "averaged"), axis=False, default="sampled")
    outputs: tuple[str, ...] = custom(_parse_outputs, default=())
    title: str | None = text(default=None)
    solve: SolveOptions = custom(_parse_options, default=SolveOptions())
    transfer: TransferOptions = custom(_parse_transfer, default=TransferOptions())

    def _check(self) -> None:
        if self.times is not None:
            protocol_times(self.problem.training, self.raw_times, type(self).__name__)

    @property
    def raw_times(self) -> Any:
        """The times in the form that `solve` and `train` take: a list, a table or `None`."""
        if isinstance(self.times, TimeRange):
            return dataclasses.asdict(self.times)
        return None if self.times is None else list(self.times)

    def to_toml(self) -> str:
        """The study file that states this study; `read_study` reads it back."""
        import tomli_w

        table: dict[str, Any] = {"schema": SCHEMA}
        if self.title is not None:
            table["title"] = self.title
        problem = self.problem
        table["task"] = {"kind": problem.task.kind, **problem.task.to_table()}
        table["model"] = {"kind": problem.model.kind, **problem.model.to_table()}
        table["training"] = {"protocol": problem.training.kind, **problem.training.to_table()}
        own = self.to_table()
        if isinstance(self.times, TimeRange):
            own["times"] = dataclasses.asdict(self.times)
        table["training"] |= {key: own[key] for key in _STUDY_KEYS if key in own}
        if self.solve != SolveOptions():
            table["solve"] = self.solve.to_table()
        if self.transfer != TransferOptions():
            table["transfer"] = self.transfer.to_table()
        return tomli_w.dumps(table)


def read_study(path: str | os.PathLike) -> Study:
    """The study that a TOML file states.

    Paths inside the file are relative to the file.

    Args:
        path: A file with the sections `[task]`, `[model]` and `[training]`.

    Raises:
        InvalidInput: The file cannot be read, or a key is wrong; one line names the file, the section, the key, what was
            expected and what came.
    """
    place = Path(path)
    try:
        return _study(_load(place), place)
    except RecursionError:
        raise InvalidInput(f"{place}: expected a study file, got lists or tables nested too deeply.") from None


def parse_study(content: str, name: str = "study.toml", folder: str | os.PathLike = ".") -> Study:
    """The study that TOML text states.

    Args:
        content: The text.
        name: What errors call it.
        folder: Where relative paths start.

    Raises:
        InvalidInput: As `read_study`.
    """
    place = Path(folder) / name
    try:
        return _study(_parse(content, name), place, name)
    except RecursionError:
        raise InvalidInput(f"{name}: expected a study file, got lists or tables nested too deeply.") from None


def named_by_file(error: WrongKey, file: str, problem: Problem | None = None) -> WrongKey:
    """An error about a part of a problem, told as an error about the section of a study file that states the part."""
    if error.owner.startswith(file):
        return error
    if error.owner == TransferOptions.__name__:
        return error.owned_by(f"{file}: [transfer]")
    section = "training" if error.key in _STUDY_KEYS else None
    for part, name in zip(problem.parts() if problem is not None else (), _SECTIONS, strict=False):
        if error.owner == type(part).__name__ or (section is None and error.key in _fields(type(part))):
            section = name
    return error.owned_by(f"{file}: [{section}]" if section else f"{file}: {error.owner}")


def _load(place: Path) -> dict[str, Any]:
    try:
        if place.is_dir():
            raise InvalidInput(f"{place}: expected a study file, got a folder.")
        with open(place, "rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        raise InvalidInput(f"{place}: no such file; `foretrain init` prints a study file to start from.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InvalidInput(f"{place}: cannot be read: {reason}.") from None
    if len(content) > _LARGEST_FILE:
        raise InvalidInput(
            f"{place}: larger than {_LARGEST_FILE >> 20} MiB; keep arrays in an .npz file and use `[task] kind = 'arrays'`."
        )
    try:
        return _parse(content.decode("utf-8-sig"), str(place))
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{place}: expected a TOML text file in UTF-8, got byte 0x{content[error.start]:02x} at position {error.start}."
        ) from None


def _parse(content: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(content)
    except ValueError as error:
        raise InvalidInput(f"{name}: not valid TOML: {error}.") from None


def _study(table: dict[str, Any], place: Path, file: str | None = None) -> Study:
    file = file or str(place)
    for key in table:
        if key not in _TOP:
            raise WrongKey(file, key, f"unknown key or section{_hint(key, _TOP)}; valid ones: {', '.join(_TOP)}")
    schema = table.get("schema", SCHEMA)
    if isinstance(schema, bool) or schema != SCHEMA:
        raise WrongKey(file, "schema", f"expected {SCHEMA}, the only schema this release reads, got {show(schema)}")
    sections = {name: _section(table, name, file) for name in _SECTIONS}
    task = _part(sections["task"], TASKS, f"{file}: [task]", place)
    model = _part(sections["model"], MODELS, f"{file}: [model]", place)
    training, own = _training(sections["training"], f"{file}: [training]")
    try:
        problem = Problem(task, model, training)
        problem.axes()
    except WrongKey as error:
        raise named_by_file(error, file, _Parts(task, model, training)) from None  # type: ignore[arg-type]
    chosen = {name: table.get(name, {}) for name in ("solve", "transfer")}
    for name, value in chosen.items():
        if not isinstance(value, Mapping):
            raise WrongKey(file, name, f"expected a section [{name}], got {show(value)}")
    if "times" in own:
        # A malformed range is told with the section's name, so it is read before `Study` checks it again.
        protocol_times(training, own["times"], f"{file}: [training]")
    try:
        solve = SolveOptions.from_table(chosen["solve"], f"{file}: [solve]")
        transfer = TransferOptions.from_table(chosen["transfer"], f"{file}: [transfer]")
        return Study(problem, title=table.get("title"), solve=solve, transfer=transfer, **own)
    except WrongKey as error:
        if error.key == "title" and error.owner == "Study":
            raise error.owned_by(file) from None
        raise named_by_file(error, file, problem) from None


@dataclasses.dataclass(frozen=True)
class _Parts:
    task: Any
    model: Any
    training: Any

    def parts(self) -> tuple[Any, Any, Any]:
        return self.task, self.model, self.training


def _section(table: dict[str, Any], name: str, file: str) -> dict[str, Any]:
    if name not in table:
        raise WrongKey(file, f"[{name}]", "missing section; a study needs [task], [model] and [training]")
    section = table[name]
    if not isinstance(section, dict):
        raise WrongKey(file, name, f"expected a section [{name}], got {show(section)}")
    return dict(section)


def _hint(key: str, valid: Sequence[str]) -> str:
    """Where a misplaced key belongs, else the nearest valid one."""
    for section, kinds in (("task", TASKS), ("model", MODELS), ("training", PROTOCOLS)):
        owners = [kind for kind, part in kinds.items() if key in _fields(part)]
        if owners and key not in valid:
            return f"; it is a [{section}] key of {', '.join(owners)}{nearest(key, valid)}"
    if key in _STUDY_KEYS or key == "protocol":
        return "; it is a [training] key"
    return nearest(key, valid)


def _fields(part: type[Declaration]) -> list[str]:
    return [f.name for f in dataclasses.fields(part) if f.init]


def _check_keys(table: Mapping[str, Any], part: type[Declaration], extra: Sequence[str], owner: str) -> None:
    valid = [*extra, *_fields(part)]
    for key in table:
        if key not in valid:
            raise WrongKey(
                owner, key, f"unknown key for {part.kind!r}{_hint(key, valid)}; valid keys: {', '.join(valid)}"
            )


def _part(table: dict[str, Any], kinds: Mapping[str, type[Any]], owner: str, place: Path) -> Any:
    names = ", ".join(map(repr, kinds))
    if "kind" not in table:
        raise WrongKey(owner, "kind", f"missing; expected one of {names}")
    kind = table.pop("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise WrongKey(owner, "kind", f"expected one of {names}, got {show(kind)}{nearest(kind, kinds)}")
    part = kinds[kind]
    _check_keys(table, part, ("kind",), owner)
    if isinstance(table.get("path"), str) and table["path"] and "path" in _fields(part):
        table["path"] = str(_relative(table["path"], place, owner))
    return part.from_table(table, owner)


def _relative(path: str, place: Path, owner: str) -> Path:
    try:
        expanded = Path(path).expanduser()
    except RuntimeError:
        raise WrongKey(owner, "path", f"expected a path, got {show(path)}, whose home folder is unknown") from None
    return expanded if expanded.is_absolute() else place.parent / expanded


def _training(table: dict[str, Any], owner: str) -> tuple[AbstractProtocol, dict[str, Any]]:
    if "protocol" not in table and "optimizer" in table:
        table["protocol"] = NetworkTraining.kind
    if "protocol" not in table:
        raise WrongKey(owner, "protocol", f"missing; expected one of {', '.join(map(repr, PROTOCOLS))}")
    try:
        protocol = protocol_named(table.pop("protocol"))
    except ValueError as error:
        raise WrongKey(owner, "protocol", str(error)) from None
    _check_keys(table, protocol, ("protocol", *_STUDY_KEYS), owner)
    own = {key: table.pop(key) for key in _STUDY_KEYS if key in table}
    return protocol.from_table(table, owner), own
