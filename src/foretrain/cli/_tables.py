"""Tables that a person can read."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from foretrain.claims import VERDICTS, Claim
from foretrain.curves import Comparison, LearningCurves
from foretrain.problems import AbstractProtocol, NetworkTraining
from foretrain.studies import Study, Summary

_MOST_ROWS = 48
_SHOWN_TIMES = 3


def conventions(protocol: AbstractProtocol) -> list[str]:
    """The units, in words."""
    if isinstance(protocol, NetworkTraining) and protocol.loss == "cross-entropy":
        return [
            "losses: mean cross-entropies (negative log-likelihood of a target, or of a token)",
            "time: counts steps, for the same objective",
        ]
    lines = [
        "losses: mean squared errors without a factor 1/2; test_loss leaves the label noise out, train_loss contains it"
    ]
    if protocol.timed:
        unit = "counts steps" if protocol.discrete else "is learning rate x steps"
        lines.append(f"time: {unit}, for the objective sum |y - f|^2 / (2 samples)")
    else:
        lines.append("no time: the trained end point of sum |y - f|^2 / samples + ridge |W|^2")
    return lines


def number(value: Any) -> str:
    """A value as a table shows it: four digits."""
    if isinstance(value, str):
        return value
    value = float(value)
    if value == int(value) if np.isfinite(value) else False:
        return f"{int(value)}" if abs(value) < 1e6 else f"{value:.4g}"
    return f"{value:.4g}"


def _plus_minus(stderr: float) -> str:
    return f" ± {float(stderr):.1g}" if np.isfinite(stderr) else ""


def percent(value: float) -> str:
    """A relative error."""
    return f"{100 * value:+.2f} %" if np.isfinite(value) else number(value)


def curves_table(curves: LearningCurves) -> Table:
    """A few times of every sweep point of one result."""
    axes, times = _axes(curves), curves.coords.get("time")
    shown: list[tuple[str, int | None]] = []
    for name, count in (("test_loss", _SHOWN_TIMES), ("train_loss", 1)):
        if name in curves:
            shown += [(name, t) for t in (_spread(len(times), count) if times is not None else [None])]
    table = _table(axes)
    for name, t in shown:
        title = name if t is None or times is None else f"{name}\nt = {number(times[t])}"
        table.add_column(title, justify="right", no_wrap=True)
    if "status" in curves:
        table.add_column("status", no_wrap=True)
    points = list(itertools.product(*(range(len(curves.coords[a])) for a in axes)))
    for index in points[:_MOST_ROWS]:
        at = dict(zip(axes, index, strict=True))
        row = [number(curves.coords[a][i]) for a, i in at.items()]
        for name, t in shown:
            here = at if t is None else {**at, "time": t}
            text = number(_pick(curves, name, here))
            if f"{name}_stderr" in curves:
                text += _plus_minus(_pick(curves, f"{name}_stderr", here))
            row.append(text)
        if "status" in curves:
            row.append(str(_pick(curves, "status", at)))
        table.add_row(*row)
    _say_left_out(table, len(points))
    return table


def spectrum_lines(curves: LearningCurves) -> list[str]:
    """What was measured of a spectrum, in words."""
    facts = curves.attrs
    first, last = facts["fit_range"]
    fresh = f"tested on {facts['fresh_points']} more" if facts["fresh_points"] else "each tested on the others"

    def estimate(name: str) -> str:
        value, low, high = (f"{v:.4g}" for v in facts[name])
        return f"{value} (95 % interval {low} to {high})"

    return [
        f"{facts['points']} of {facts['rows']} rows, {fresh} (seed {facts['seed']})",
        f"capacity      {estimate('capacity')}: eigenvalues fall like k^-capacity, fitted over modes {first} to {last}",
        f"source        {estimate('source')}: target power falls like k^-(capacity x source + 1) there",
        f"noise         {estimate('noise')}: power that looks like label noise, of a total of {facts['total_power']:.4g}",
        f"unresolved    {estimate('unresolved')}: power below mode {last}, noise included",
        f"head          {facts['head']} single modes; largest eigenvalue {curves.values('eigenvalues')[0]:.4g} of a trace of "
        f"{facts['trace']:.4g}",
        f"universality  {facts['universality']:.3f}: 1 for Gaussian features",
    ]


def comparison_table(comparison: Comparison) -> Table:
    """Predicted, measured and the error between them, at a few times of every sweep point."""
    training, error = comparison.training, comparison.error
    axes, times = _axes(training), training.coords.get("time")
    points = list(itertools.product(*(range(len(training.coords[a])) for a in axes)))
    names = [n for n in ("test_loss", "train_loss") if n in error]
    per_point = max(1, min(3, _MOST_ROWS // max(1, len(points))))
    shown = _spread(len(times), per_point) if times is not None else [None]
    table = _table([*axes, *(["time"] if times is not None else [])])
    for name in names:
        for title in (f"{name}\npredicted", "\nmeasured ± s.e.", "\nerror"):
            table.add_column(title, justify="right", no_wrap=True)
    for index in points[:_MOST_ROWS]:
        for t in shown:
            at = dict(zip(axes, index, strict=True)) | ({} if t is None else {"time": t})
            row = [number(training.coords[a][i]) for a, i in at.items()]
            for name in names:
                where = {d: training.coords[d][i] for d, i in at.items()}
                measured = number(_pick(training, name, at)) + _plus_minus(_pick(training, f"{name}_stderr", at))
                row += [number(_pick_value(comparison.theory, name, where)), measured]
                row.append(percent(float(_pick(error, name, at))))
            table.add_row(*row)
    _say_left_out(table, len(points))
    return table


def summary_lines(rows: Sequence[Summary], study: Study) -> list[str]:
    """How far theory is from measurement, one line for every loss."""
    lines = []
    for row in rows:
        if not row.points:
            lines.append(f"{row.name}: no point could be compared")
            continue
        where = ", ".join(f"{name} {number(value)}" for name, value in row.where.items())
        lines.append(
            f"{row.name}: |theory / measured - 1| median {100 * row.median:.2f} %, worst {100 * row.worst:.2f} %"
            f"{f' ({where})' if where else ''}, worst beyond two standard errors {100 * row.beyond_noise:.2f} %; "
            f"{row.points} points, {study.seeds} seeds, seed noise {100 * row.noise:.2g} %"
            f"{f'; {row.left_out} points left out (not finite, or below a thousandth of the largest)' if row.left_out else ''}"
        )
    return lines


def _table(axes: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in axes:
        table.add_column(name, justify="right", no_wrap=True, vertical="bottom")
    return table


def _axes(curves: LearningCurves) -> list[str]:
    name = "test_loss" if "test_loss" in curves else next(iter(curves.variables))
    return [d for d in curves.dims[name] if d != "time"]


def _spread(length: int, count: int) -> list[int]:
    """At most `count` positions from first to last; only the last when one is asked for."""
    if count == 1:
        return [length - 1]
    return sorted({round(i) for i in np.linspace(0, length - 1, min(count, length))})


def _pick(curves: LearningCurves, name: str, at: dict[str, int]) -> Any:
    if name not in curves:
        return np.nan
    dims, values = curves.variables[name]
    return values[tuple(at[d] for d in dims)]


def _pick_value(curves: LearningCurves, name: str, where: dict[str, Any]) -> Any:
    at = {d: curves.coords[d].tolist().index(v.item() if hasattr(v, "item") else v) for d, v in where.items()}
    return _pick(curves, name, at)


def _say_left_out(table: Table, points: int) -> None:
    if points > _MOST_ROWS:
        table.caption = f"{points - _MOST_ROWS} more sweep points: see -o curves.nc or --json"


def claims_table(claims: Sequence[Claim]) -> Table:
    """One row for every claim."""
    table = _table(())
    for name in ("paper", "claim"):
        table.add_column(name, vertical="top")
    for name in ("source", "theory", "measured ± s.e."):
        table.add_column(name, justify="right", vertical="top")
    table.add_column("verdict", no_wrap=True, vertical="top")
    for claim in claims:
        measured = f"{number(claim.measured)} ± {claim.error:.1g}" if np.isfinite(claim.measured) else ""
        theory = number(claim.theory) if np.isfinite(claim.theory) else ""
        table.add_row(claim.paper, claim.claim, number(claim.source_value), theory, measured, claim.verdict)
    return table


def claims_lines(claims: Sequence[Claim]) -> list[str]:
    """How many claims got which verdict, and why those that were not reproduced were not."""
    counts = {verdict: sum(c.verdict == verdict for c in claims) for verdict in VERDICTS}
    lines = [", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)]
    return lines + [f"{c.paper}: {c.claim}: {c.why}" for c in claims if c.verdict in ("corrected", "not reproduced")]
