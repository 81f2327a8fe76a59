"""`foretrain transfer`: what happens between parsing and printing."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from foretrain.cli import _tables
from foretrain.cli._console import Voice
from foretrain.cli._verbs import Wishes, _heading, _say_files, _say_messages, _session
from foretrain.errors import InvalidInput
from foretrain.report._transfer_page import found_sentences
from foretrain.studies import Recommendation, Transfer, transfer
from foretrain.studies._transfer_plan import plan


def read_target(text: str | None) -> int | None:
    """The size that `--recommend` names; `None` when it stands alone or is absent.

    Args:
        text: What follows the option.

    Raises:
        InvalidInput: Not a whole number.
    """
    if not text:
        return None
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not (math.isfinite(size) and size >= 1 and size == int(size)):
        raise InvalidInput(f"--recommend: expected a size, a whole number >= 1, got {text!r}")
    return int(size)


def run_transfer(voice: Voice, wishes: Wishes, recommend: str | None) -> None:
    """Sweep, judge and hand over."""
    target = read_target(recommend)
    found: list[Recommendation] = []
    refused = ""
    with _session(voice, wishes) as (study, store, progress):
        if recommend is not None and plan(study.problem, study.transfer).words:
            raise InvalidInput("--recommend: a choice among words has no value to translate; leave the option out")
        result = transfer(study, store=store, progress=progress)
        if recommend is not None:
            try:
                found = result.recommend(target)
            except InvalidInput as error:  # the sweep is worth its table even if it recommends nothing
                refused = str(error)
    if wishes.output is not None:
        result.save(wishes.output)
    if wishes.plot_path is not None:
        from foretrain.report import plot_transfer

        plot_transfer(result.curves, wishes.plot_path)
    if wishes.report is not None:
        from foretrain.report import write_transfer_report

        rows = [(_title(r), r.tensors) for r in found]
        write_transfer_report(
            result.curves,
            wishes.report,
            title=study.title or wishes.study_file.stem,
            study_text=wishes.study_file.read_text("utf-8-sig"),
            tables=rows,
            notes=[_said(r) for r in found],
        )
    if voice.as_json:
        table = result.to_json()
        voice.json(table | ({"recommendation": [r.to_json() for r in found]} if recommend is not None else {}))
    else:
        voice.show(*_heading(study, wishes)[:2], *result_lines(result), *recommendation_lines(found))
    _say_files(voice, wishes)
    _say_messages(voice, result.curves)
    for recommendation in found:
        if recommendation.warning:
            voice.say("warning", f"{_named(recommendation.where)}{recommendation.warning}")
    if refused:
        raise InvalidInput(f"{wishes.study_file}: {refused}")


def result_lines(result: Transfer) -> list[Any]:
    """Tables of optima and sentences, variant by variant.

    Args:
        result: What `transfer` returned.
    """
    analysis = result.analysis
    lines: list[Any] = [
        f"{analysis['swept']} over {analysis['axis']}: {analysis['objective']} after {analysis['steps']} steps, "
        f"{analysis['seeds']} seeds, tolerance {analysis['tolerance']:g}"
    ]
    for variant in analysis["variants"]:
        name = ", ".join(f"{k} {_tables.number(v)}" for k, v in variant["where"].items())
        lines += ["", name] if name else [""]
        lines += [_optima(analysis, variant), variant["sentence"]]
        lines += [f"  to decide: {text}" for text in variant["advice"]]
        lines += [f"  {text}" for text in found_sentences(analysis, variant)]
    return lines


def _optima(analysis: Mapping[str, Any], variant: Mapping[str, Any]) -> Table:
    words = bool(variant["optima"]) and isinstance(variant["optima"][0]["value"], str)
    table = _tables._table([analysis["axis"]])
    columns = ("best", "chance", "loss") if words else ("best", "95 %", "loss", "stable to", "diverges at")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    edges: Sequence[Mapping[str, Any]] = variant["edge"] or [{}] * len(variant["optima"])
    for row, edge in zip(variant["optima"], edges, strict=True):
        cells = [_tables.number(row["size"]), _number(row["value"])]
        if words:
            cells += [_number(row["chance"]), _number(row["loss"])]
        else:
            interval = f"{_number(row['low'])} to {_number(row['high'])}"
            cells += [interval, _number(row["loss"]), _number(edge["stable"]), _number(edge["diverged"])]
        table.add_row(*cells, row["status"])
    return table


def _number(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if math.isnan(value) else _tables.number(float(f"{value:.3g}"))


def recommendation_lines(found: Sequence[Recommendation]) -> list[Any]:
    """What to set, with a table of every tensor.

    Args:
        found: One recommendation for each variant.
    """
    lines: list[Any] = []
    for recommendation in found:
        lines += ["", _said(recommendation), _tensors(recommendation)]
    return lines


def _said(r: Recommendation) -> str:
    warning = f" {r.warning}." if r.warning else ""
    return (
        f"{_named(r.where)}{r.axis} {r.target}: set {r.swept} = {r.value:.4g} (95 %: {r.low:.4g} to {r.high:.4g}), from {r.proxy_value:.4g} at "
        f"{r.axis} {r.proxy:g}.{warning}"
    )


def _title(r: Recommendation) -> str:
    return f"{_named(r.where)}every tensor at {r.axis} {r.target}"


def _named(where: Mapping[str, Any]) -> str:
    return f"{', '.join(map(str, where.values()))}: " if where else ""


def _tensors(r: Recommendation) -> Table:
    names = [n for n in r.tensors[0] if n not in ("path", "role", "shape")]
    table = _tables._table(())
    table.add_column("tensor", no_wrap=True)
    table.add_column("role", no_wrap=True)
    table.add_column("shape", no_wrap=True, justify="right")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    for row in r.tensors:
        shape = " x ".join(map(str, row["shape"]))
        cells = ["" if row[n] is None else _tables.number(float(f"{row[n]:.4g}")) for n in names]
        table.add_row(row["path"], row["role"], shape, *cells)
    return table
