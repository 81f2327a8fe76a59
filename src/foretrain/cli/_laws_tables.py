"""Fits and forecasts as a person reads them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from foretrain.laws import Estimate, Fit
from foretrain.laws._saved import estimate_to_json
from foretrain.laws._words import of_column


def plain(interval: Mapping[str, float]) -> dict[str, Any]:
    """An interval as strict JSON.

    Args:
        interval: `value`, `low` and `high`.
    """
    return estimate_to_json(Estimate(**interval))


def fit_lines(fit: Fit) -> list[Any]:
    """The law, its parameters with intervals, and what to think of them.

    Args:
        fit: The fit.
    """
    lines: list[Any] = [f"{fit.law.name}: {fit.law.response} = {fit.law.formula}", _rows(fit)]
    if chosen := fit.settings.get("chosen"):
        lines.append(f"chosen: {chosen}")
    table = _table()
    for name in ("", "value", f"{_percent(fit.level)} interval"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for part in (fit.parameters, fit.derived):
        for name, estimate in part.items():
            table.add_row(name, f"{estimate.value:.6g}", interval(estimate))
        table.add_section()
    lines += [table, _minimum(fit), validation_line(fit)]
    return lines


def _rows(fit: Fit) -> str:
    ranges = ", ".join(
        f"{name} {of_column(name, low)} to {of_column(name, high)}"
        for name, (low, high) in fit.data.get("ranges", {}).items()
    )
    said = [f"where {', '.join(fit.settings['where'])}"] if fit.settings.get("where") else []
    if dropped := fit.settings.get("drop_largest_loss"):
        said.append(f"without the {dropped} largest losses")
    resampled = fit.settings.get("resampled", "rows")
    groups = "" if fit.groups == fit.rows else f" of {fit.groups} values of {resampled}, resampled together"
    return f"{fit.data.get('source') or 'runs'}: {fit.rows} rows{groups}{''.join(f', {s}' for s in said)}; {ranges}"


def _minimum(fit: Fit) -> str:
    on = "the log of the " if fit.settings.get("on", "log") == "log" else "the "
    if fit.law.noise and fit.settings.get("on", "log") == "log":  # arsinh: not only positive numbers have it
        on = f"the log (of differences below {fit.law.noise:g}) of the "
    what = (
        "half the squares"
        if fit.settings.get("loss") == "squares"
        else f"Huber's loss, delta {fit.settings.get('delta', 1e-3):g},"
    )
    return (
        f"objective {fit.objective:.8e}: the sum of {what} of errors of {on}{fit.law.response}; {fit.starts_agreeing} of {fit.starts} starts end "
        f"there; condition number {fit.condition_number:.3g}"
    )


def validation_line(fit: Fit) -> str:
    """How well the largest budget is predicted without it.

    Args:
        fit: The fit.
    """
    found = fit.validation
    if found is None:
        return "left out the largest budget: these rows do not allow it"
    name = "C" if found["by"] == "flops" else found["by"]
    rows = f"{found['rows']} row{'s' if found['rows'] != 1 else ''}"
    return (
        f"left out the largest budget ({name} = {found['budget']:.3g}, {rows}): error {100 * float(found['mean_abs_error']):.2g} % on average, "
        f"worst {100 * float(found['worst_error']):+.2g} %"
    )


def interval(estimate: Estimate) -> str:
    """The interval of an estimate, or nothing where none is known.

    Args:
        estimate: A number with an interval.
    """
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return ""
    return f"{estimate.low:.4g} to {estimate.high:.4g}"


def forecast_lines(
    fit: Fit, points: Sequence[Mapping[str, float]], predicted: Sequence[Mapping[str, float]], level: float
) -> list[Any]:
    """Every point with its prediction.

    Args:
        fit: The fit.
        points: Where.
        predicted: `value`, `low` and `high`.
        level: Probability that intervals are meant to cover.
    """
    table = _table()
    shown = [v for v in fit.law.variables if any(v in point for point in points)]
    for name in (*shown, fit.law.response, f"{_percent(level)} interval of a new run"):
        table.add_column(name, justify="right", no_wrap=True)
    for point, values in zip(points, predicted, strict=True):
        cells = [of_column(name, point[name]) if name in point else "" for name in shown]
        table.add_row(*cells, f"{values['value']:.5g}", interval(Estimate(**values)))
    return [f"{fit.law.name}: {fit.law.response} = {fit.law.formula}", table]


def laws_lines(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The catalogue.

    Args:
        rows: What `foretrain laws --json` prints.
    """
    lines: list[Any] = []
    for row in rows:
        needs = (
            "one column, --x"
            if row["one_variable"]
            else ", ".join(v for v in row["variables"] if v not in row["optional"])
        )
        needs += f"; and those that vary of {', '.join(row['optional'])}" if row["optional"] else ""
        source = f"; {row['source']}" if row["source"] else ""
        lines += [
            f"{row['name']}: {row['summary']}",
            f"    {row['response']} = {row['formula']}",
            f"    needs {needs}{source}",
        ]
    return lines


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")


def _percent(level: float) -> str:
    return f"{100 * level:g} %"
