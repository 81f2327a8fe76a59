"""`foretrain fit`, `forecast` and `laws`: what happens between parsing and printing."""

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from foretrain.cli import _laws_tables as tables
from foretrain.cli._approaches import check_approach, run_approach
from foretrain.cli._console import Told, Voice, check_files
from foretrain.curves import json_ready
from foretrain.errors import ForetrainError, InvalidInput, nearest
from foretrain.laws import CATALOGUE, Fit, Law, Objective, Runs, fit
from foretrain.laws._columns import parse_number
from foretrain.laws._estimates import far_away
from foretrain.laws._read import read_runs

_MOST_STARTS = _MOST_FITS = 100_000


@dataclasses.dataclass
class FitWishes:
    """What the user asked of `fit`; `None` is what was not said."""

    runs: Path
    law: str | None = None
    x: str | None = None
    columns: Sequence[str] = ()
    group: str | None = None
    where: Sequence[str] = ()
    drop_largest_loss: int = 0
    loss: str = "huber"
    huber_delta: float | None = None
    starts: int | None = None
    bootstrap: int | None = None
    level: float = 0.95
    seed: int = 0
    output: Path | None = None
    plot: str | None = None
    report: Path | None = None
    approach: str = "parametric"

    @property
    def plot_path(self) -> Path | None:
        """Where the picture goes: beside the law, else in the current folder under the name of the table."""
        if self.plot is None:
            return None
        if self.plot:
            return Path(self.plot)
        return self.output.with_suffix(".png") if self.output else Path(f"{self.runs.stem or 'fit'}.png")

    @property
    def law_name(self) -> str:
        """The law: Chinchilla's, or a power of the one variable that was named."""
        return self.law or ("chinchilla" if self.x is None else "power")

    def check(self) -> None:
        """Refuse options that cannot be, before anything is read."""
        check_approach(self)
        check_files(self.output, self.plot_path, self.report)
        check_level(self.level)
        for option, value, low, high in (
            ("--starts", self.starts, 1, _MOST_STARTS),
            ("--bootstrap", self.bootstrap, 0, _MOST_FITS),
            ("--seed", self.seed, 0, 2**63 - 1),
            ("--drop-largest-loss", self.drop_largest_loss, 0, 2**63 - 1),
        ):
            if value is not None and not low <= value <= high:
                raise InvalidInput(f"{option}: expected a whole number from {low} to {high}, got {value}.")
        if self.loss not in ("huber", "squares"):
            raise InvalidInput(
                f"--loss: expected huber or squares, got {self.loss!r}{nearest(self.loss, ('huber', 'squares'))}."
            )
        if self.huber_delta is not None and self.loss != "huber":
            raise InvalidInput(f"--huber-delta: belongs to --loss huber, not to {self.loss}; leave it out.")
        if self.huber_delta is not None and not 0 < self.huber_delta < math.inf:
            raise InvalidInput(f"--huber-delta: expected a number > 0, got {self.huber_delta:g}.")
        if self.law_name != "auto" and self.law_name not in CATALOGUE:
            raise InvalidInput(
                f"--law: expected auto or one of {', '.join(CATALOGUE)}; got {self.law_name!r}{nearest(self.law_name, ['auto', *CATALOGUE])}."
            )

    def objective(self) -> Objective:
        """What is minimized."""
        return Objective(loss=self.loss) if self.huber_delta is None else Objective(delta=self.huber_delta)

    def said(self) -> dict[str, Any]:
        """What was done to the table, for the record of the fit."""
        found: dict[str, Any] = {"columns": list(self.columns), "where": list(self.where)}
        found["drop_largest_loss"] = self.drop_largest_loss
        return {name: value for name, value in found.items() if value}


def run_fit(voice: Voice, wishes: FitWishes) -> None:
    """Read, fit and hand over."""
    wishes.check()
    with voice.hearing(), about(wishes.runs):
        runs = read_runs(wishes.runs, columns=read_columns(wishes.columns), where=tuple(wishes.where))
        runs = runs.drop_largest_loss(wishes.drop_largest_loss)
        if wishes.approach != "parametric":
            return run_approach(voice, wishes, runs)
        found = _fit(runs, wishes)
    found = dataclasses.replace(
        found, settings={**found.settings, **wishes.said()}, data={**found.data, "notes": list(runs.notes)}
    )
    if wishes.output is not None:
        found.save(wishes.output)
    if wishes.plot_path is not None:
        from foretrain.report import plot_fit

        plot_fit(found, runs, wishes.plot_path)
    if wishes.report is not None:
        from foretrain.report import write_fit_report

        write_fit_report(found, runs, wishes.report, title=wishes.runs.name)
    if voice.as_json:
        voice.json(found.to_json())
    else:
        voice.show(*tables.fit_lines(found))
    for path in (wishes.output, wishes.plot_path, wishes.report):
        if path is not None:
            voice.note(f"wrote {path}")
    if not voice.quiet:
        for note in runs.notes:
            voice.say("note", note)
    for warning in found.warnings:
        voice.say("warning", warning)


def _fit(runs: Runs, wishes: FitWishes) -> Fit:
    options: dict[str, Any] = {"x": wishes.x, "group": wishes.group, "objective": wishes.objective()}
    options |= {"level": wishes.level, "seed": wishes.seed}
    options |= {n: getattr(wishes, n) for n in ("starts", "bootstrap") if getattr(wishes, n) is not None}
    return fit(runs, wishes.law_name, **options)


def run_forecast(voice: Voice, model: str, at: Sequence[str], level: float | None) -> None:
    """Predict at every point and hand over."""
    if level is not None:
        check_level(level)
    if not at:
        raise InvalidInput("--at: missing; where to forecast, for example --at params=7B,tokens=2T.")
    with voice.hearing():
        known = read_model(model)
        with about(Path(model)):
            points = [_point(text, known.law) for text in at]
            predicted = [
                {end: float(values) for end, values in known.predict(point, level=level).items()} for point in points
            ]
    warnings = [*(known.warnings if known.settings.get("preset") else ()), *far_away(known, points)]
    response = known.law.response
    if voice.as_json:
        rows = [
            {response: tables.plain(interval), "at": json_ready(point)}
            for point, interval in zip(points, predicted, strict=True)
        ]
        table = rows[0] if len(rows) == 1 else {"forecasts": rows}
        voice.json(table | {"law": known.law.name, "level": level or known.level, "warnings": warnings})
    else:
        voice.show(*tables.forecast_lines(known, points, predicted, level or known.level))
    for warning in warnings:
        voice.say("warning", warning)


def run_laws(voice: Voice) -> None:
    """List the laws."""
    rows = [
        {"name": name, "formula": law.formula, "variables": ["x"] if entry.one_variable else list(law.variables)}
        | {"one_variable": entry.one_variable, "response": law.response, "parameters": list(law.names)}
        | {"optional": list(law.defaults)}
        | {"summary": entry.summary, "source": law.source}
        for name, entry in CATALOGUE.items()
        for law in [entry.make("x") if entry.one_variable else entry.make()]
    ]
    voice.json(rows) if voice.as_json else voice.show(*tables.laws_lines(rows))


def read_model(model: str) -> Fit:
    """The fit that a file holds, or a preset; a file of that name comes first.

    Args:
        model: A file from `foretrain fit -o`, or the name of a preset.

    Raises:
        InvalidInput: Neither of them.
    """
    if Path(model).exists():
        return Fit.load(model)
    from foretrain.laws._presets import PRESETS

    if model in PRESETS:
        return PRESETS[model]()
    try:
        return Fit.load(model)
    except InvalidInput as error:
        if Path(model).suffix:
            raise
        told = f"{error} Presets: {', '.join(PRESETS)}{nearest(model, PRESETS)}."
        raise InvalidInput(told) from None


def read_columns(words: Sequence[str]) -> dict[str, str] | None:
    """Names here to names in the file, from `params=N,tokens=D*1e9`, given once or several times.

    Args:
        words: What followed `--columns`.

    Raises:
        InvalidInput: Not of this form, or a name twice.
    """
    found: dict[str, str] = {}
    # A comma separates only where a name and an equals sign follow: names of columns may hold commas.
    for part in (p for text in words for p in re.split(r",(?=[^,=]+=)", text)):
        name, equals, source = part.partition("=")
        if not equals or not name.strip() or not source.strip():
            raise InvalidInput(f"--columns: expected name=column pairs such as params=N,tokens=D, got {part!r}.")
        if name.strip() in found:
            raise InvalidInput(f"--columns: {name.strip()} is named twice.")
        found[name.strip()] = source.strip()
    return found or None


def read_number(option: str, text: str) -> float:
    """A positive number that may have a suffix, `70M`, `7B`, `1.4T`.

    Args:
        option: Who is named in the error.
        text: The number.

    Raises:
        InvalidInput: Not a positive finite number.
    """
    number = parse_number(text)
    if number is None or not 0 < number < math.inf:
        raise InvalidInput(f"{option}: expected a number > 0, such as 7e9 or 7B, got {text!r}.")
    return number


def _point(text: str, law: Law) -> dict[str, float]:
    found: dict[str, float] = {}
    variables = law.variables
    for part in text.split(","):
        name, equals, number = (word.strip() for word in part.partition("="))
        if not equals or not name:
            raise InvalidInput(f"--at: expected column=value pairs such as {_example(law.required)}, got {part!r}.")
        parts = [v for v in law.defaults if v != "post_bits"]
        if name not in variables and not (name == "bits" and parts):
            raise InvalidInput(
                f"--at: this law has no variable {name!r}{nearest(name, variables)}; it needs {', '.join(variables)}."
            )
        full = name not in law.required and number.lower() in ("inf", "full")  # full precision
        value = math.inf if full else read_number(f"--at {name}", number)
        for column in [name] if name in variables else parts:  # bits: of all that is trained
            if column in found:
                raise InvalidInput(f"--at: {column} is given twice.")
            found[column] = value
    missing = [v for v in law.required if v not in found]
    if missing:
        raise InvalidInput(f"--at: {', '.join(missing)} missing; expected {_example(law.required)}.")
    return found


def _example(variables: Sequence[str]) -> str:
    return ",".join(f"{v}={'2T' if v.startswith('tokens') else '7B'}" for v in variables)


def check_level(level: float) -> None:
    """Refuse a level that is no probability.

    Args:
        level: What followed `--level`.

    Raises:
        InvalidInput: Not between 0 and 1.
    """
    if not 0 < level < 1:
        raise InvalidInput(f"--level: expected a number between 0 and 1, such as 0.95, got {level:g}.")


@contextlib.contextmanager
def about(file: Path) -> Iterator[None]:
    """Errors name the file.

    Args:
        file: The file.
    """
    try:
        yield
    except ForetrainError as error:
        message = str(error)
        if str(file) in message or file.name in message:
            raise
        raise Told(f"{file}: {message}", error.exit_code) from error
