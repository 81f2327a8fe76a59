"""The page of a fitted law: one HTML file that carries everything it shows and loads nothing."""

import csv
import datetime
import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foretrain.errors import InvalidInput
from foretrain.laws import Estimate, Fit, Runs
from foretrain.laws._saved import file_text
from foretrain.laws._words import count, of_column
from foretrain.report._extras import require
from foretrain.report._fit_figure import plot_fit, plot_intervals, plot_valleys
from foretrain.report._fit_numbers import Points, frontier, other_forms, points_of
from foretrain.report._grid import percent, show
from foretrain.report._html import _columns, _picture, _resource, environment_versions, write_page
from foretrain.report._payload import data_uri

_MOST_ROWS = 20_000  # of the table that the page gives away


def write_fit_report(fit: Fit, runs: Runs, path: str | os.PathLike, *, title: str, notes: Sequence[str] = ()) -> None:
    """Write a fit as one self-contained page.

    It opens with how well the largest budget is predicted without it, then shows the law with the runs, residuals, IsoFLOP valleys, the
    frontier, intervals, what other forms say, and the checklist of what others need to repeat the fit. It needs no network and no scripts,
    and follows the reader's light or dark setting. The file appears complete or not at all.

    Args:
        fit: The fit.
        runs: The rows that it was made from.
        path: The HTML file.
        title: Heading of the page. All texts are shown as they are, markup in them is not interpreted.
        notes: Sentences for the checklist: tokenizer, schedule, how learning rates were tuned, and what else a table cannot say.

    Raises:
        InvalidInput: No such folder, or rows that the law cannot use.
        MissingExtra: matplotlib or jinja2 is not installed.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise InvalidInput(f"write_fit_report(path={str(target)!r}): no folder {target.parent}; create it first.")
    write_page(target, render_fit(fit, runs, title=title, notes=notes))


def render_fit(fit: Fit, runs: Runs, *, title: str, notes: Sequence[str] = ()) -> str:
    """The page as text; arguments as for `write_fit_report`."""
    jinja2 = require("jinja2", "write_fit_report")
    require("matplotlib", "write_fit_report")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    points = points_of(fit, runs)
    draw = {
        "fit": (plot_fit, (fit, runs)),
        "valleys": (plot_valleys, (fit, runs)),
        "intervals": (plot_intervals, (fit,)),
    }
    figures = {}
    for name, (plot, arguments) in draw.items():
        light, dark = (plot(*arguments, mode=mode) for mode in ("light", "dark"))
        if light is not None:
            width = round(6.5 * light.get_size_inches()[0] + 2)
            figures[name] = {"light": _picture(light), "dark": _picture(dark), "width": width}
    return environment.from_string(_resource("_fit.html.j2")).render(
        title=str(title),
        style=_resource("_page.css"),
        headline=headline(fit),
        scope=_scope(fit),
        formula=with_numbers(fit),
        response=fit.law.response,
        parameters=_columns(_parameter_rows(fit)),
        level=f"{100 * fit.level:g} %",
        warnings=list(fit.warnings),
        figures=figures,
        frontier=_columns(_frontier_rows(fit, points)),
        forms=_columns(_form_rows(fit, points)),
        tests=_columns(_test_rows(fit)),
        chosen=str(fit.settings.get("chosen", "")),
        tried=_columns(_tried_rows(fit)),
        checklist=checklist(fit, runs) + [("said beside it", str(n)) for n in notes],
        notes=list(runs.notes),
        versions=environment_versions(),
        csv=data_uri(rows_csv(points), "text/csv") if len(points.loss) <= _MOST_ROWS else "",
        json=data_uri(file_text(fit), "application/json"),
        written=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def headline(fit: Fit) -> str:
    """One sentence: how well the largest budget is predicted, or how near the law comes where none can be left out.

    Args:
        fit: The fit.
    """
    if fit.validation is None:
        typical = float(np.median(np.abs(np.expm1(fit.residuals))))
        return f"{_capital(fit.law.name)} describes {fit.rows} rows with a typical error of {percent(typical)}."
    rows = int(fit.validation["rows"])
    return (
        f"Fitted without the largest budget, {fit.law.name} predicts its {rows} run{'s' if rows != 1 else ''} with an error of "
        f"{percent(float(fit.validation['mean_abs_error']))}."
    )


def with_numbers(fit: Fit) -> str:
    """The formula with its parameters in six digits: fewer would change what it predicts.

    Args:
        fit: The fit.
    """
    values = {name: f"{estimate.value:.6g}" for name, estimate in fit.parameters.items()}
    names = "|".join(sorted(map(re.escape, values), key=len, reverse=True))
    return re.sub(rf"(?<![\w.])({names})(?!\w)", lambda found: values[found[1]], fit.law.formula)


def checklist(fit: Fit, runs: Runs) -> list[tuple[str, str]]:
    """What others need to know to repeat the fit (after arXiv 2502.18969), from the fit and its table.

    Args:
        fit: The fit.
        runs: The rows that it was made from.
    """
    settings = fit.settings
    renamed = {new: old for old, new in runs.renamed.items() if new != old}
    spans = ", ".join(
        f"{v} {of_column(v, low)} to {of_column(v, high)}" for v, (low, high) in fit.data.get("ranges", {}).items()
    )
    kept = [f"where {c}" for c in settings.get("where", ())]
    if dropped := settings.get("drop_largest_loss"):
        kept.append(f"without the {dropped} largest losses")
    loss = "half the squared" if settings.get("loss") == "squares" else f"Huber's (δ = {settings.get('delta', 1e-3):g})"
    of = f"ln {fit.law.response}" if settings.get("on", "log") == "log" else fit.law.response
    resampled = settings.get("resampled", "rows")
    again = (
        f"{len(fit.samples)} fits to resampled {'rows' if resampled == 'rows' else f'groups of equal {resampled}'}"
        if len(fit.samples)
        else "none"
    )
    said = [
        (
            "form",
            f"{fit.law.name}: {fit.law.response} = {fit.law.formula}"
            + (f" ({fit.law.source})" if fit.law.source else ""),
        ),
        (
            "parameters N",
            _counted("params", renamed, runs, "whether embeddings and the last layer count is not in the table"),
        ),
        ("tokens D", _counted("tokens", renamed, runs, "")),
        ("compute C", _computed(runs)),
        (
            "data",
            f"{fit.data.get('source') or 'columns'}: {fit.rows} rows in {fit.groups} groups{''.join(f', {k}' for k in kept)}; {spans}",
        ),
        ("loss", f"column {renamed.get(fit.law.response, fit.law.response)}, taken as nats per token"),
        ("minimized", f"sum of {loss} errors of {of}: {fit.objective:.9g}"),
        (
            "optimizer",
            f"damped Newton steps with exact derivatives, in 64 bits; cosine of residuals and slopes at the end {fit.gradient:.1e}",
        ),
        ("starts", f"{fit.starts} from a grid, {fit.starts_agreeing} end at the best; seed {settings.get('seed', 0)}"),
        ("condition number", f"{fit.condition_number:.3g}, of the Jacobian with columns of length one"),
        ("uncertainty", f"{again}; {100 * fit.level:g} % intervals"),
        ("tested on", _validation(fit) or "nothing was left out"),
    ]
    return [(name, text) for name, text in said if text]


def _counted(name: str, renamed: Mapping[str, str], runs: Runs, doubt: str) -> str:
    if name not in runs:
        return ""
    derived = [note for note in runs.notes if note.startswith(f"{name} derived")]
    where = derived[0] if derived else f"column {renamed.get(name, name)}"
    return f"{where}; {doubt}" if doubt else where


def _computed(runs: Runs) -> str:
    if "params" not in runs or "tokens" not in runs:
        return ""
    own = "flops" in runs and not any(note.startswith("flops derived") for note in runs.notes)
    return "6 N D" + ("; the flops of the table are not used by the law" if own else "")


def _scope(fit: Fit) -> str:
    agree = f"{fit.starts_agreeing} of {fit.starts} starts end at the same optimum"
    return f"{fit.rows} rows of {fit.data.get('source') or 'runs'} in {fit.groups} groups; {agree}; condition number {fit.condition_number:.3g}"


def _validation(fit: Fit) -> str:
    found = fit.validation
    if found is None:
        return ""
    name = "C" if found["by"] == "flops" else found["by"]
    return (
        f"the largest budget ({name} = {show(float(found['budget']))}, {found['rows']} rows) left out: mean error "
        f"{percent(float(found['mean_abs_error']))}, worst {percent(float(found['worst_error']), signed=True)}"
    )


def _test_rows(fit: Fit) -> list[dict[str, Any]]:
    """Budgets from the dearest down, each predicted from what is cheaper."""
    if fit.validation is None:
        return []
    by = "6 N D, FLOP" if fit.validation["by"] == "flops" else str(fit.validation["by"]).replace("_", " ")
    return [
        {
            by: show(float(f"{float(one['budget']):.3g}")),
            "rows left out": one["rows"],
            "mean error": percent(float(one["mean_abs_error"])),
            "worst error": percent(float(one["worst_error"]), signed=True),
            "mean signed error": percent(float(one["bias"]), signed=True),
        }
        for one in (fit.validation, *fit.validation.get("rehearsals", ()))
    ]


def _tried_rows(fit: Fit) -> list[dict[str, Any]]:
    """Candidates of `auto`, the best first."""

    def share(value: Any) -> str:
        return percent(value) if isinstance(value, float) and math.isfinite(value) else "–"

    return [
        {
            "law": c["law"],
            "rows kept": c["window"],
            "rows": str(c["rows"]),
            "error of the largest budget": share(c["error"]),
            "score": share(c["score"]),
        }
        for c in fit.settings.get("candidates", ())
    ]


def _parameter_rows(fit: Fit) -> list[dict[str, Any]]:
    meanings = {p.name: p.meaning for p in fit.law.parameters} | dict.fromkeys(fit.derived, "follows from the others")
    return [
        {
            "parameter": f"{name} ({meanings[name]})" if meanings[name] else name,
            "value": f"{e.value:.6g}",
            f"{100 * fit.level:g} % from": _end(e.low),
            "to": _end(e.high),
        }
        for name, e in [*fit.parameters.items(), *fit.derived.items()]
    ]


def _frontier_rows(fit: Fit, points: Points) -> list[dict[str, Any]]:
    """The best size at the largest budget of the runs and beyond it."""
    compute = points.compute
    if compute is None or not points.sized:
        return []
    budgets = float(compute.max()) * np.array([1.0, 10.0, 100.0])
    best, lowest, sizes, losses = frontier(fit, budgets)
    rows = []
    for i, budget in enumerate(budgets):
        tokens = budget / 6.0 / best[i]
        rows.append(
            {
                "6 N D, FLOP": show(float(f"{budget:.3g}")),
                "parameters": _span(Estimate(best[i], *sizes[:, i])),
                "tokens": _span(Estimate(tokens, *(budget / 6.0 / sizes[::-1, i]))),
                "tokens per parameter": _span(Estimate(tokens / best[i], *(budget / 6.0 / sizes[::-1, i] ** 2))),
                fit.law.response: f"{lowest[i]:.4g}"
                + (f" ({losses[0, i]:.4g} to {losses[1, i]:.4g})" if np.isfinite(losses[:, i]).all() else ""),
            }
        )
    return rows


def _form_rows(fit: Fit, points: Points) -> list[dict[str, Any]]:
    if not fit.forms:
        return []
    return [
        {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()}
        for row in other_forms(fit, points)
    ]


def _span(estimate: Estimate) -> str:
    value, low, high = (
        count(float(f"{v:.3g}")) if math.isfinite(v) else "" for v in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} ({low} to {high})" if low and high else value


def _end(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def rows_csv(points: Points) -> str:
    """Every row with what the law says there.

    Args:
        points: Rows of a fit.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    response = points.law.response
    writer.writerow([*points.law.variables, response, f"{response}_by_law", "error"])
    for row in zip(*points.x, points.loss, points.predicted, points.errors, strict=True):
        writer.writerow([f"{v:.10g}" for v in row])
    return out.getvalue()
