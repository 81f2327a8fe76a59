"""`foretrain plan`: what happens between parsing and printing."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from foretrain.cli._console import Voice
from foretrain.cli._laws import about, check_level, read_model, read_number
from foretrain.cli._laws_tables import interval
from foretrain.errors import InvalidInput, nearest
from foretrain.laws import Estimate, Fit, Plan, plan
from foretrain.laws._columns import parse_number
from foretrain.laws._next_runs import NextRun, next_runs
from foretrain.laws._quantity import Quantity
from foretrain.laws._words import count, of_column

_TARGETS = ("params", "tokens", "tokens_per_param")
_WORDS = {"tokens_per_param": "tokens per parameter", "compute": "compute, FLOP", "unique_tokens": "unique tokens"}
_COUNTED = ("params", "tokens", "unique_tokens")


@dataclasses.dataclass
class PlanWishes:
    """What the user asked of `plan`."""

    model: str
    given: Mapping[str, str] = dataclasses.field(default_factory=dict)
    at: Sequence[str] = ()
    after: Sequence[str] = ()
    target: str | None = None
    level: float | None = None


def run_plan(voice: Voice, wishes: PlanWishes) -> None:
    """Read a law, plan and hand over."""
    if wishes.level is not None:
        check_level(wishes.level)
    given = {name: _number(name, text) for name, text in wishes.given.items()}
    if wishes.target is not None and not wishes.after:
        raise InvalidInput("--target: belongs to --next; give a run that could be added, or leave it out.")
    with voice.hearing():
        known = read_model(wishes.model)
        with about(Path(wishes.model)):
            held = _pairs("--at", wishes.at, known.law.variables)
            found = plan(known, **given, at=held or None, level=wishes.level)
            runs = _next(known, found, wishes) if wishes.after else []
    if voice.as_json:
        table = found.to_json()
        if runs:
            table |= {"target": _target_name(known, found, wishes.target), "next": [run.to_json() for run in runs]}
        voice.json(table)
    else:
        voice.show(*plan_lines(known, found))
        if runs:
            voice.show(*next_lines(known, runs, _target_name(known, found, wishes.target), found.level))
    for warning in found.warnings:
        voice.say("warning", warning)


def plan_lines(fit: Fit, found: Plan) -> list[Any]:
    """A plan as a person reads it.

    Args:
        fit: The law.
        found: The plan.
    """
    given = ", ".join(f"{_WORDS.get(n, n)} {_shown(n, v)}" for n, v in found.given.items())
    lines: list[Any] = [f"{fit.law.name}: {fit.law.response} = {fit.law.formula}", f"given: {given}"]
    table = _table()
    for name in ("", "value", f"{100 * found.level:g} % interval"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for name, estimate in found.estimates.items():
        said = "given" if name in found.given else _interval(name, estimate)
        table.add_row(_WORDS.get(name, name.replace("_", " ")), _shown(name, estimate.value), said)
    lines.append(table)
    if found.by_epochs:
        lines += ["the same compute, seeing the data more or less often:", _epochs(fit, found)]
    if found.forms:
        lines.append("other forms, fitted to the same runs:")
        for form in found.forms:
            response = f"{fit.law.response} {float(form[fit.law.response]):.4g}"
            lines.append(
                f"    {form['law']}: {count(form['params'])} parameters, {count(form['tokens'])} tokens, {response}"
            )
    return lines


def next_lines(fit: Fit, runs: Sequence[NextRun], target: str, level: float) -> list[Any]:
    """Candidates for the next run, the best one first.

    Args:
        fit: The law.
        runs: From `next_runs`.
        target: What is to be known.
        level: Probability that intervals are meant to cover.
    """
    table = _table()
    for name in (
        *fit.law.variables,
        "FLOP",
        "interval shrinks by",
        f"expected {100 * level:g} % interval",
        "per 1e21 FLOP",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    name = target.partition("@")[0]
    for run in runs:
        cells = [of_column(v, run.at[v]) if v in run.at else "" for v in fit.law.variables]
        cells += ["" if math.isnan(run.flops) else f"{run.flops:.3g}", f"{100 * run.shrinkage:.2g} %"]
        cells += [
            _interval(name, run.expected),
            "" if math.isnan(run.per_flop) else f"{100 * run.per_flop * 1e21:.2g} %",
        ]
        table.add_row(*cells)
    now = f"{100 * runs[0].now:.3g} %" if runs[0].expected.value > 0 else f"{runs[0].now:.3g}"
    return [f"one more run, for {target} (standard error now {now}):", table]


def _epochs(fit: Fit, found: Plan) -> Table:
    table = _table()
    response = fit.law.response
    for name in ("epochs", "params", "tokens", response, f"{100 * found.level:g} % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found.by_epochs:
        cells = [f"{row['epochs']:g}", count(row["params"]), count(row["tokens"])]
        table.add_row(*cells, _shown(response, row[response].value), _interval(response, row[response]))
    return table


def _next(known: Fit, found: Plan, wishes: PlanWishes) -> list[NextRun]:
    candidates = [_pairs("--next", [text], known.law.variables) for text in wishes.after]
    for one, text in zip(candidates, wishes.after, strict=True):
        missing = [v for v in known.law.variables if v not in one and v not in known.law.defaults]
        if missing:
            raise InvalidInput(
                f"--next {text!r}: {', '.join(missing)} missing; a run needs {', '.join(known.law.variables)}."
            )
    quantity: Quantity = _target_name(known, found, wishes.target)
    return next_runs(known, candidates, target=quantity, level=found.level)


def _target_name(known: Fit, found: Plan, target: str | None) -> str:
    """What the interval of is asked: a quantity of this plan, a parameter of the law, or what `profile` understands."""
    response = known.law.response
    chosen = set(found.given) & {"params", "tokens", "compute", "loss"} == {"compute"}
    target = target or ("params" if chosen else response)
    if "@" in target or target in known.law.names or target in known.law.derived:
        return target
    if target == response:
        return f"{response}@{','.join(f'{v}={_precise(found, v)}' for v in known.law.variables)}"
    if target in _TARGETS and chosen:
        return f"{target}@{found.given['compute']:.12g}"
    possible = [*(_TARGETS if chosen else ()), response, *known.law.names, *known.law.derived]
    raise InvalidInput(
        f"--target: expected one of {', '.join(possible)}, or for example loss@params=7B,tokens=2T; got {target!r}{nearest(target, possible)}."
    )


def _precise(found: Plan, variable: str) -> str:
    name = "unique_tokens" if variable == "tokens_per_epoch" and "unique_tokens" in found.given else variable
    if name in found.given:
        return f"{found.given[name]:.12g}"
    return f"{found['tokens' if name == 'tokens_per_epoch' else name].value:.12g}"


def _number(name: str, text: str) -> float:
    option = f"--{name.replace('_', '-')}"
    if name in ("loss", "bits", "post_bits"):
        number = parse_number(text)
        if number is None or not 0 < number < math.inf:
            example = "2.5" if name == "loss" else "8"
            raise InvalidInput(f"{option}: expected a number > 0, such as {example}, got {text!r}.")
        return number
    return read_number(option, text)


def _pairs(option: str, words: Sequence[str], variables: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in (p for text in words for p in re.split(r",(?=[^,=]+=)", text)):
        name, equals, number = (word.strip() for word in part.partition("="))
        if not equals or not name:
            raise InvalidInput(f"{option}: expected column=value pairs such as params=7B,tokens=2T, got {part!r}.")
        if name not in variables:
            raise InvalidInput(
                f"{option}: this law has no variable {name!r}{nearest(name, variables)}; it has {', '.join(variables)}."
            )
        if name in found:
            raise InvalidInput(f"{option}: {name} is given twice.")
        found[name] = read_number(f"{option} {name}", number)
    return found


def _shown(name: str, value: float) -> str:
    if name in _COUNTED and math.isfinite(value):
        return count(value)
    return f"{value:.4g}" if name in ("compute", "serving", "tokens_per_param", "epochs") else f"{value:.5g}"


def _interval(name: str, estimate: Estimate) -> str:
    if estimate.low == estimate.high:
        return ""
    if name in _COUNTED and not math.isnan(estimate.low):
        return f"{_shown(name, estimate.low)} to {_shown(name, estimate.high)}"
    return interval(estimate)


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
