"""The report: one HTML file that carries everything it shows and loads nothing."""

import base64
import datetime
import importlib.metadata
import importlib.resources
import io
import json
import os
import platform
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foretrain.curves import Comparison, LearningCurves, json_ready
from foretrain.errors import InvalidInput
from foretrain.report._extras import require
from foretrain.report._figures import plot_comparison
from foretrain.report._findings import findings, score, worst_curves
from foretrain.report._grid import Grid, comparison_grid, percent, plus_minus, show, words
from foretrain.report._heatmap import error_table, shade
from foretrain.report._payload import chart_data, csv_text, data_uri, json_text, spectrum_csv, spectrum_data
from foretrain.report._spectrum import fact_words, plot_spectrum, read_spectrum

Tables = Mapping[str, Sequence[Mapping[str, Any]]] | Iterable[tuple[str, Sequence[Mapping[str, Any]]]]

_VERSIONS = ("foretrain", "jax", "numpy", "scipy", "scikit-learn")
_MANY = {"width": "widths", "samples": "sample sizes", "time": "times", "depth": "depths", "activation": "activations"}
# Attributes that have a place of their own on the page, or none.
_SHOWN_ELSEWHERE = ("messages", "versions", "schema_version", "study")


def write_report(
    comparison: Comparison,
    path: str | os.PathLike,
    *,
    title: str,
    tables: Tables = (),
    spectrum: Mapping[str, Any] | None = None,
    study_text: str | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write a comparison as one self-contained page.

    The page opens with the median and the worst error and what of it is beyond seed noise (|theory / trained - 1| less two
    standard errors of the trained mean), then shows the curves, the errors over two axes, where theory misses, the measured
    spectrum, conventions, versions, the study file and the data to take away. It needs no network, follows the reader's light
    or dark setting, can be read on a phone and by keyboard, and forbids itself by its own policy to load anything. Without
    scripts it shows the figures as pictures. The file appears complete or not at all.

    Args:
        comparison: What `compare` returned.
        path: The HTML file.
        title: Heading of the page. All texts are shown as they are, markup in them is not interpreted.
        tables: Further tables: name to rows, each row a table of column to value.
        spectrum: As for `plot_spectrum`.
        study_text: The study file that made the comparison; without it the one that the theory's attributes hold.
        notes: Sentences for the section on where theory misses, for example on the population that was measured.

    Raises:
        InvalidInput: No such folder, or theory and training share no loss.
        MissingExtra: matplotlib or jinja2 is not installed.

    Example:
        >>> import numpy as np
        >>> from foretrain.curves import LearningCurves
        >>> from foretrain.report import write_report
        >>> from foretrain.studies import pair
        >>> time = {"time": np.array([1.0, 10.0])}
        >>> theory = LearningCurves({"test_loss": (("time",), np.array([1.02, 0.5]))}, time, {})
        >>> trained = {"test_loss": (("time",), np.array([1.0, 0.5])), "test_loss_stderr": (("time",), np.array([0.01, 0.01]))}
        >>> comparison = pair(theory, LearningCurves(trained, time, {}))
        >>> write_report(comparison, "report.html", title="Two points")  # doctest: +SKIP
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise InvalidInput(f"write_report(path={str(target)!r}): no folder {target.parent}; create it first.")
    page = render(comparison, title=title, tables=tables, spectrum=spectrum, study_text=study_text, notes=notes)
    write_page(target, page)


def write_page(target: Path, page: str) -> None:
    """Write a page so that it appears complete or not at all.

    Args:
        target: The file.
        page: Its text.
    """
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(page)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def render(
    comparison: Comparison,
    *,
    title: str,
    tables: Tables = (),
    spectrum: Mapping[str, Any] | None = None,
    study_text: str | None = None,
    notes: Sequence[str] = (),
) -> str:
    """The page as text; arguments as for `write_report`."""
    jinja2 = require("jinja2", "write_report")
    require("matplotlib", "write_report")
    grid = comparison_grid(comparison)
    scores = [score(grid, name) for name in grid.quantities]
    measured = None if spectrum is None else read_spectrum(spectrum)
    named = tables.items() if isinstance(tables, Mapping) else tables
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "percent": percent,
        "signed": lambda v: percent(v, signed=True),
        "words": words,
        "show": show,
    }
    return environment.from_string(_resource("_template.html.j2")).render(
        title=str(title),
        style=_resource("_page.css"),
        script=_resource("_page.js"),
        scores=scores,
        main=scores[0],
        scope=_scope(grid, comparison),
        chart=chart_data(grid),
        picture=_picture(plot_comparison(comparison)),
        heats=[_heat(grid, name) for name in grid.quantities],
        findings=findings(grid, comparison),
        worst=_columns(worst_curves(grid)),
        notes=[str(n) for n in notes],
        points=_point_rows(grid),
        facts=[] if measured is None else [fact_words(f) for f in measured.facts],
        spectrum=None if measured is None else spectrum_data(measured),
        spectrum_picture=None if spectrum is None else _picture(plot_spectrum(spectrum)),
        tables=[(str(name), *_columns(rows)) for name, rows in named],
        study_text=comparison.theory.attrs.get("study") if study_text is None else study_text,
        versions=environment_versions(comparison.training, comparison.theory),
        attributes=_attributes(comparison),
        csv=data_uri(csv_text(grid), "text/csv"),
        spectrum_csv=None if measured is None else data_uri(spectrum_csv(measured), "text/csv"),
        json=data_uri(json_text(comparison), "application/json"),
        written=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        noisy=any(np.isfinite(s.noise) for s in scores),
    )


def _resource(name: str) -> str:
    return importlib.resources.files("foretrain.report").joinpath(name).read_text(encoding="utf-8")


def _scope(grid: Grid, comparison: Comparison) -> str:
    """What was compared, in words: `4 widths × 3 samples × 25 times, 8 seeds each`."""
    counts = []
    for name in (*grid.axes, grid.horizontal):
        if name:
            count = len(comparison.training.coords.get(name, grid.coords[name]))
            many = _MANY.get(name, f"values of {words(name)}")
            value = f"{words(name)} {show(grid.coords[name][0])}" if count == 1 else f"{count} {many}"
            counts.append(value)
    seeds = comparison.training.attrs.get("seeds")
    said = ", ".join(counts).capitalize() or "A single point"
    return f"{said}; {seeds} networks at every point" if isinstance(seeds, int) else said


def _picture(figure: Any) -> str:
    """The figure for readers without scripts, as the source of an image."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _heat(grid: Grid, name: str) -> dict[str, Any]:
    """The errors of one loss by size, as rows of cells; `None` where nothing could be compared."""
    rows, columns, median, worst, beyond = error_table(grid, grid.quantities[name])
    colour, panel, rest = grid.roles()
    varied = [words(a) for a in (*rest, grid.horizontal) if a and len(grid.coords[a]) > 1]
    shades = shade(np.nan_to_num(median))
    return {
        "name": name,
        "row_axis": words(colour) if colour else "",
        "column_axis": words(panel) if panel else "",
        "columns": columns,
        "over": " and ".join(varied),
        "rows": [
            (
                row,
                [
                    {
                        "median": median[i, j],
                        "worst": worst[i, j],
                        "beyond": beyond[i, j],
                        "shade": f"{shades[i, j]:.3f}",
                    }
                    if np.isfinite(median[i, j])
                    else None
                    for j in range(len(columns))
                ],
            )
            for i, row in enumerate(rows)
        ],
    }


def _point_rows(grid: Grid, most: int = 600) -> tuple[list[str], list[list[str]], bool]:
    """Head and rows of the table of single points, at up to seven places of the horizontal axis; whether it is all."""
    quantity = grid.quantities[grid.main]
    chosen = np.unique(np.linspace(0, len(grid.x) - 1, min(len(grid.x), 7)).round().astype(int))
    names = [a for a in (*grid.axes, grid.horizontal) if a]
    head = [words(a) for a in names] + ["predicted", "trained ± s.e.", "error", "z"]
    rows: list[list[str]] = []
    whole = len(chosen) == len(grid.x)
    for index in np.ndindex(quantity.theory.shape):
        if index[-1] not in chosen or not np.isfinite(quantity.measured[index]):
            continue
        if len(rows) == most:
            return head, rows, False
        at = [show(grid.coords[a][i]) for a, i in zip((*grid.axes, grid.horizontal), index, strict=True) if a]
        theory, measured, stderr, error, z = (
            float(v[index]) for v in (quantity.theory, quantity.measured, quantity.stderr, quantity.error, quantity.z)
        )
        judged = f"{z:+.1f}".replace("-", "−") if np.isfinite(z) else "–"
        rows.append([*at, show(theory), plus_minus(measured, stderr), percent(error, signed=True), judged])
    return head, rows, whole


def _columns(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and cells of a plain table; columns in the order in which rows name them."""
    head = list(dict.fromkeys(str(column) for row in rows for column in row))
    cells = [{str(column): value for column, value in row.items()} for row in rows]
    return [words(h) for h in head], [[_cell(row.get(column)) for column in head] for row in cells]


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        return "" if value is None else str(value)
    return show(value)


def environment_versions(*parts: LearningCurves) -> dict[str, str]:
    """Versions of what made some results, and of what renders them.

    Args:
        parts: The results.
    """
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    for curves in parts:
        said = curves.attrs.get("versions")
        if isinstance(said, Mapping):
            found |= {str(k): str(v) for k, v in said.items()}
    return found | {"platform": f"{platform.system()} {platform.machine()}"}


def _attributes(comparison: Comparison) -> list[tuple[str, list[tuple[str, str]]]]:
    """What theory and training say of themselves: scalars as they are, tables as JSON text."""
    said = []
    for part in ("theory", "training"):
        attrs = comparison.groups()[part].attrs
        rows = [
            (words(k), v if isinstance(v, str) else json.dumps(json_ready(v), ensure_ascii=False))
            for k, v in attrs.items()
            if k not in _SHOWN_ELSEWHERE
        ]
        if rows:
            said.append((part, rows))
    return said
