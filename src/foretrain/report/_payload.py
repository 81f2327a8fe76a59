"""What the page's script draws, and the files that a reader can take away, as plain values."""

import base64
import csv
import io
import json
import math
from typing import Any

import numpy as np

from foretrain.curves import Comparison, json_ready
from foretrain.report._figures import colours, is_log, positions
from foretrain.report._grid import Grid, show, words
from foretrain.report._spectrum import Series, SpectrumTable, spectrum_panels

_MOST_PLACES = 240
_MOST_VERTICES = 800
_PARTS = ("theory", "measured", "stderr", "error", "z")


def chart_data(grid: Grid) -> dict[str, Any]:
    """The grid for the interactive chart: flat arrays in the order of `axes`, then the horizontal axis.

    Numbers keep five significant digits; absent ones are null, infinite ones `"inf"`. A horizontal axis with more than 240
    places is thinned evenly.
    """
    chosen = np.unique(np.linspace(0, len(grid.x) - 1, min(len(grid.x), _MOST_PLACES)).round().astype(int))
    x = grid.x[chosen]
    place, beyond = positions(x)
    colour, panel, rest = grid.roles()
    return {
        "axes": [
            {
                "name": a,
                "label": words(a),
                "values": [show(v) for v in grid.coords[a].tolist()],
                "limit": [_infinite(v) for v in grid.coords[a].tolist()],
                "light": colours(grid.coords[a]),
                "dark": colours(grid.coords[a], "dark"),
            }
            for a in grid.axes
        ],
        "roles": {"colour": colour, "panel": panel, "rest": list(rest)},
        "x": {
            "label": words(grid.horizontal),
            "place": _numbers(place),
            "beyond": _numbers(np.array([np.nan if beyond is None else beyond]))[0],
            "text": [show(v) for v in x.tolist()],
            "words": x.dtype.kind == "U",
            "log": x.dtype.kind == "f" and is_log(x[np.isfinite(x)]),
        },
        "quantities": [
            {"name": name, "label": words(name)} | {part: _numbers(getattr(q, part)[..., chosen]) for part in _PARTS}
            for name, q in grid.quantities.items()
        ],
    }


def spectrum_data(table: SpectrumTable) -> dict[str, Any]:
    """The spectrum for the page's script; a line with more vertices than a screen can show is thinned."""

    def thin(series: Series) -> dict[str, Any]:
        chosen = np.arange(series.x.size)
        if series.x.size > _MOST_VERTICES:
            chosen = np.unique(np.geomspace(1, series.x.size, _MOST_VERTICES).round().astype(int)) - 1
        described = {"label": series.label, "kind": series.kind, "colour": series.colour}
        return described | {"x": _numbers(series.x[chosen]), "y": _numbers(series.y[chosen])}

    return {
        "panels": [{"title": title, "series": [thin(s) for s in series]} for title, series in spectrum_panels(table)],
        "head": table.head if table.head is not None and table.head < table.k[-1] else None,
        "fit": None if table.fit_range is None else list(table.fit_range),
    }


def csv_text(grid: Grid) -> str:
    """Every point of the grid as a row: axes, then for each loss what is known of it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [a for a in (*grid.axes, grid.horizontal) if a]
    parts = (*_PARTS[:1], "theory_error", *_PARTS[1:])
    writer.writerow(names + [f"{name}_{part}" for name in grid.quantities for part in parts])
    columns = [getattr(q, part) for q in grid.quantities.values() for part in parts]
    for index in np.ndindex(columns[0].shape):
        where = [grid.coords[a][i] for a, i in zip((*grid.axes, grid.horizontal), index, strict=True) if a]
        writer.writerow([_cell(v) for v in where] + [_cell(c[index]) for c in columns])
    return out.getvalue()


def spectrum_csv(table: SpectrumTable) -> str:
    """The spectrum that the theory used, one mode or bin of modes a row."""
    columns = {"k": table.k, "multiplicity": table.multiplicity, "eigenvalue": table.eigenvalues}
    if table.power is not None:
        columns["power_per_mode"] = table.power
    rows = zip(*(c.tolist() for c in columns.values()), strict=True)
    return "\n".join([",".join(columns), *(",".join(_cell(v) for v in row) for row in rows)]) + "\n"


def json_text(comparison: Comparison) -> str:
    """The whole comparison as strict JSON."""
    return json.dumps(comparison.to_json(), allow_nan=False)


def data_uri(text: str, kind: str) -> str:
    """A link target that carries its own content."""
    return f"data:{kind};charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"


def _cell(value: Any) -> str:
    return str(value) if isinstance(value, (str, np.str_)) else f"{float(value):.10g}"


def _infinite(value: Any) -> bool:
    return isinstance(value, float) and math.isinf(value)


def _numbers(values: np.ndarray) -> list[Any]:
    rounded = [float(f"{v:.5g}") for v in np.asarray(values, dtype=np.float64).ravel().tolist()]
    return [None if v != v else json_ready(v) for v in rounded]
