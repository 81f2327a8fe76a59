"""A coordinate check: sizes inside networks against width, depth or heads."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foretrain.errors import InvalidInput
from foretrain.report._figures import literal, new_figure, save, style, target_path
from foretrain.report._palette import INK, ordered

_MEASURES = ("start", "change", "own change")
_TITLES = {"start": "{}, at the start", "change": "change of {}", "own change": "own change of {}"}
_KINDS = ("stream", "inside", "logits", "branch", "output")
_SIGNS = {
    "ok": "✓",
    "approaches": "✓",
    "too large": "✗",
    "too small": "✗",
    "diverged": "✗",
    "zero": "?",
    "unclear": "?",
    "not judged": "",
}
_COLUMNS = 4


def plot_coordinates(table: Mapping[str, Any], path: str | os.PathLike | None = None) -> Any:
    """A figure of a coordinate check: one panel for each quantity, one line for each layer, dashes for what is expected.

    Points are geometric means over seeds with a bar over all seeds. A dashed line has the expected slope; a wedge shows a range of
    them. The sign in the title says whether all layers of the panel scale as declared.

    Args:
        table: What `CoordinateCheck.to_json` returned: `axis`, `values` and `rows`, each with `feature`, `measure`, `layer`,
            `slope`, `stderr`, `expected`, `verdict` and `sizes` (seeds, values).
        path: Where to save it; the suffix `.png`, `.svg` or `.pdf` chooses the form. `None` does not save.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        InvalidInput: Nothing to draw, unknown suffix or no such folder.
        MissingExtra: matplotlib is not installed.

    Example:
        >>> from foretrain.report import plot_coordinates
        >>> row = {"feature": "stream", "measure": "change", "layer": "0", "slope": 0.0, "stderr": 0.01, "expected": (0.0, 0.0)}
        >>> row |= {"verdict": "ok", "sizes": [[1.0, 1.1, 1.0], [1.1, 1.0, 1.1]]}
        >>> len(plot_coordinates({"axis": "width", "values": (64, 128, 256), "rows": [row]}).axes)
        1
    """
    target = target_path(path, "plot_coordinates")
    panels = _panels(table.get("rows") or [])
    if not panels:
        raise InvalidInput(
            "plot_coordinates: expected a table with rows, got one without; pass `CoordinateCheck.to_json()`."
        )
    values = np.asarray(table["values"], dtype=np.float64)
    columns = min(len(panels), _COLUMNS)
    lines = -(-len(panels) // columns)
    figure = new_figure("plot_coordinates", 2.5 * columns + 0.4, 2.15 * lines + 0.5)
    grid = figure.subplots(lines, columns, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number < len(panels):
            last = number + columns >= len(panels)
            _draw_panel(axes, panels[number], values, str(table["axis"]).replace("_", " ") if last else "")
        else:
            axes.set_axis_off()
    words = [str(table[key]) for key in ("scheme", "optimizer") if key in table]
    if "passed" in table:
        words.append("scales as declared" if table["passed"] else "does not scale as declared")
    figure.suptitle(literal(" · ".join(words)), fontsize=8.5, color=INK["light"], fontweight="bold")
    return save(figure, target)


def _panels(rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Rows of the same quantity together, changes of the stream first."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["feature"], row["measure"]), []).append(row)

    def order(key: tuple[str, str]) -> tuple[int, int, str]:
        feature, measure = key
        kind = next((k for k, word in enumerate(_KINDS) if feature.endswith(word)), len(_KINDS))
        return _MEASURES.index(measure) if measure in _MEASURES else len(_MEASURES), kind, feature

    return [found[key] for key in sorted(found, key=order)]


def _draw_panel(axes: Any, rows: Sequence[Mapping[str, Any]], values: np.ndarray, label: str) -> None:
    style(axes)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    drawn = []
    for colour, row in zip(ordered(len(rows)), rows, strict=True):
        sizes = np.array([[float(v) for v in seed] for seed in row["sizes"]])
        kept = np.all(np.isfinite(sizes) & (sizes > 0), axis=0)
        if not kept.any():
            continue
        logs = np.log(sizes[:, kept])
        mean, x = np.exp(np.mean(logs, axis=0)), values[kept]
        bars = np.stack([mean - np.exp(logs.min(axis=0)), np.exp(logs.max(axis=0)) - mean])
        name = f"layer {row['layer']}: " if row["layer"] else ""
        axes.errorbar(
            x,
            mean,
            yerr=np.maximum(bars, 0.0),
            fmt="o-",
            ms=2.6,
            lw=1.1,
            elinewidth=0.7,
            color=colour,
            label=f"{name}{float(row['slope']):.2f} ± {float(row['stderr']):.2f}",
            zorder=3,
        )
        drawn.append((x, mean, row))
    if drawn:
        x, mean, row = drawn[-1]
        _draw_expected(axes, x, mean, row["expected"])
        low = min(m.min() for _, m, _ in drawn)
        high = max(m.max() for _, m, _ in drawn)
        # At least a decade and a half, so that flat looks flat; room for the legend below.
        middle, reach = math.sqrt(low * high), max(math.sqrt(high / low) * 1.3, 10**0.75)
        axes.set_ylim(middle / reach / 10 ** (0.17 * len(drawn) + 0.1), middle * reach)
        axes.legend(
            fontsize=5.5, frameon=False, labelcolor=INK["light"], loc="lower left", handlelength=1.2, labelspacing=0.25
        )
    else:
        axes.text(0.5, 0.5, "not finite", transform=axes.transAxes, ha="center", fontsize=8, color=INK["light"])
    axes.set_xlim(values.min() / 1.15, values.max() * 1.15)
    axes.set_xticks(values, [f"{v:g}" for v in values])
    axes.minorticks_off()
    signs = [_SIGNS.get(str(row["verdict"]), "") for row in rows]
    sign = next((s for s in ("✗", "?", "✓") if s in signs), "")
    feature, measure = rows[0]["feature"], rows[0]["measure"]
    title = _TITLES.get(measure, "{} " + str(measure)).format(feature)
    colour = {"✗": "#d55e00", "✓": "#009e73"}.get(sign, INK["light"])
    axes.set_title(literal(f"{title} {sign}"), fontsize=7.5, color=colour, loc="left", fontweight="bold")
    if label:
        axes.set_xlabel(label, fontsize=7.5, color=INK["light"])


def _draw_expected(axes: Any, x: np.ndarray, mean: np.ndarray, expected: Any) -> None:
    """The expected slope through the middle of a line, or a wedge of slopes."""
    if expected is None:
        return
    low, high = (float(v) for v in expected)
    centre = math.exp(np.mean(np.log(x)))
    level = math.exp(np.mean(np.log(mean)))
    grid = np.array([x.min() / 1.1, centre, x.max() * 1.1])
    low, high = (high if math.isinf(low) else low), (low if math.isinf(high) else high)
    if low == high:
        axes.plot(grid, level * (grid / centre) ** low, ls="--", lw=0.9, color="#8791a0", zorder=2)
    else:
        axes.fill_between(
            grid,
            level * (grid / centre) ** low,
            level * (grid / centre) ** high,
            color="#8791a0",
            alpha=0.25,
            lw=0,
            zorder=1,
        )
