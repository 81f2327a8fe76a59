"""Errors over two axes, as a figure."""

import os
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain.curves import Comparison
from foretrain.report._figures import literal, new_figure, save, target_path
from foretrain.report._grid import Grid, Quantity, comparison_grid, percent, show, words
from foretrain.report._palette import INK


def heatmap(comparison: Comparison, path: str | os.PathLike | None = None) -> Any:
    """A figure of the median error (large) and the worst error (small) of the loss over two axes, such as width and samples.

    The median and the maximum of |theory / trained - 1| run over time and over all further axes.

    Args:
        comparison: What `compare` returned.
        path: Where to save it; the suffix `.png`, `.svg` or `.pdf` chooses the form. `None` does not save.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        InvalidInput: Unknown suffix, no such folder, or no loss in common.
        MissingExtra: matplotlib is not installed.
    """
    target = target_path(path, "heatmap")
    grid = comparison_grid(comparison)
    rows, columns, median, worst, _ = error_table(grid, grid.quantities[grid.main])
    figure = new_figure("heatmap", 1.3 + 0.95 * max(len(columns), 1), 0.9 + 0.5 * max(len(rows), 1))
    axes = figure.add_subplot()
    axes.set_title(f"{words(grid.main)}: median and worst error", fontsize=8, fontweight="bold", loc="left")
    if not median.size:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "nothing could be compared", ha="center", fontsize=8, color=INK["light"])
        return save(figure, target)
    shades = shade(median)
    axes.imshow(shades, cmap="YlOrBr", vmin=0, vmax=1.1, aspect="auto")
    for i in range(len(rows)):
        for j in range(len(columns)):
            if np.isfinite(median[i, j]):
                style = {"ha": "center", "color": INK["light"] if shades[i, j] < 0.7 else "#ffffff"}
                axes.text(j, i, percent(median[i, j]), va="bottom", fontsize=9, fontweight="bold", **style)
                axes.text(j, i + 0.08, f"worst {percent(worst[i, j])}", va="top", fontsize=6.5, **style)
    colour, panel, _ = grid.roles()
    axes.set_yticks(range(len(rows)), [literal(r) for r in rows], fontsize=8)
    axes.set_xticks(range(len(columns)), [literal(c) for c in columns], fontsize=8)
    axes.set_ylabel(words(colour or ""), fontsize=8)
    axes.set_xlabel(words(panel or ""), fontsize=8)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return save(figure, target)


def error_table(
    grid: Grid, quantity: Quantity
) -> tuple[
    list[str],
    list[str],
    Float[np.ndarray, "row column"],
    Float[np.ndarray, "row column"],
    Float[np.ndarray, "row column"],
]:
    """Row and column names, median, worst and worst error beyond seed noise; NaN where nothing could be compared.

    Rows and columns in which nothing at all could be compared are left out.
    """
    colour, panel, _ = grid.roles()
    names = [[show(v) for v in grid.coords[a].tolist()] if a else ["all"] for a in (colour, panel)]
    tables = np.full((3, len(names[0]), len(names[1])), np.nan)
    for i in range(len(names[0])):
        for j in range(len(names[1])):
            where = tuple(i if a == colour else j if a == panel else slice(None) for a in grid.axes)
            known = np.isfinite(quantity.error[where])
            if known.any():
                size = np.abs(quantity.error[where][known])
                tables[:, i, j] = np.median(size), size.max(), quantity.excess[where][known].max()
    known = np.isfinite(tables[0])
    rows, columns = known.any(axis=1), known.any(axis=0)
    median, worst, beyond = tables[:, rows][:, :, columns]
    row_names = [n for n, kept in zip(names[0], rows, strict=True) if kept]
    return row_names, [n for n, kept in zip(names[1], columns, strict=True) if kept], median, worst, beyond


def shade(error: Float[np.ndarray, "*cells"]) -> Float[np.ndarray, "*cells"]:
    """Strength of a cell's colour from 0 to 1, the same in all reports: 1 % is a third of the way, 10 % and more the end."""
    return np.sqrt(np.clip(error / 0.10, 0.0, 1.0))
