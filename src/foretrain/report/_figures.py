"""Figures of learning curves: theory as lines, trained networks as points with error bars, the error below.

Everything is drawn on a `matplotlib.figure.Figure` of its own: no display, no `pyplot`, no global settings are touched.
"""

import itertools
import os
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain.curves import Comparison, LearningCurves
from foretrain.errors import InvalidInput
from foretrain.report._extras import require
from foretrain.report._grid import Grid, Quantity, comparison_grid, curves_grid, exponents, show, words
from foretrain.report._palette import INK, distinct, ordered

FORMATS = (".png", ".svg", ".pdf")
_MOST_PANELS = 12
_DEEPEST = 1e-9
_QUIET = "#8791a0"


def plot_curves(curves: LearningCurves, path: str | os.PathLike | None = None) -> Any:
    """A figure of one result: predicted curves as lines, sampled ones as points with ± 1 standard error.

    Colour follows one axis (`width` first), panels another (`samples` first); both axes of each panel are logarithmic
    wherever the values span more than a decade and are positive. A sweep of more learning rates than times is drawn over the
    rate, with a diamond at the best rate of each curve. Where the result has local exponents, they stand below the curves, with
    dotted lines for what they tend to. Beyond twelve panels the first twelve are drawn, and the
    figure says so.

    Args:
        curves: What `solve` or `train` returned.
        path: Where to save it; the suffix `.png`, `.svg` or `.pdf` chooses the form. `None` does not save.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        InvalidInput: Unknown suffix, no such folder, or nothing to draw.
        MissingExtra: matplotlib is not installed.

    Example:
        >>> import numpy as np
        >>> from foretrain.curves import LearningCurves
        >>> from foretrain.report import plot_curves
        >>> times = np.geomspace(1, 100, 5)
        >>> curves = LearningCurves({"test_loss": (("time",), 1 / times)}, {"time": times}, {})
        >>> len(plot_curves(curves).axes)
        1
    """
    target = target_path(path, "plot_curves")
    grid = curves_grid(curves)
    return save(_draw(grid, "plot_curves", residual=False, slopes=exponents(curves, grid)), target)


def plot_comparison(comparison: Comparison, path: str | os.PathLike | None = None) -> Any:
    """A figure of theory (lines) and trained networks (points, ± 1 standard error) with the relative error below.

    The shaded bands around zero are two standard errors of the measured means in the colour of each curve: an error inside
    its own band is compatible with none. Points that diverged are arrows at the upper edge.

    Args:
        comparison: What `compare` returned.
        path: As for `plot_curves`.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        InvalidInput: Unknown suffix, no such folder, or nothing to draw.
        MissingExtra: matplotlib is not installed.
    """
    target = target_path(path, "plot_comparison")
    return save(_draw(comparison_grid(comparison), "plot_comparison", residual=True), target)


def new_figure(who: str, width: float, height: float) -> Any:
    """An empty figure that belongs to nobody else."""
    return require("matplotlib.figure", who).Figure(
        figsize=(width, height), dpi=150, layout="constrained", facecolor="w"
    )


def style(axes: Any) -> None:
    """The quiet frame that all figures share."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_QUIET)
        axes.spines[side].set_linewidth(0.6)
    axes.tick_params(which="both", color=_QUIET, labelcolor=INK["light"], labelsize=7, width=0.6)
    axes.tick_params(which="minor", length=1.5)
    axes.grid(True, which="major", color="#e6e9ee", linewidth=0.6)
    axes.set_axisbelow(True)


def literal(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign would begin a formula."""
    return text.replace("$", r"\$")


def is_log(values: np.ndarray, decades: float = 1.0) -> bool:
    """Whether an axis of these values should be logarithmic: positive (a leading zero aside) and wide enough."""
    values = values[np.isfinite(values) & (values != 0)]
    return bool(values.size > 1 and values.min() > 0 and np.log10(values.max() / values.min()) >= decades)


def positions(values: np.ndarray) -> tuple[np.ndarray, float | None]:
    """Where the values stand on a horizontal axis: `inf` a little beyond the last finite one, 0 nowhere if logarithmic."""
    if values.dtype.kind == "U":
        return np.arange(len(values), dtype=np.float64), None
    place = values.astype(np.float64).copy()
    finite = place[np.isfinite(place)]
    if is_log(finite):
        positive = finite[finite > 0]
        beyond = positive.max() * max(2.0, (positive.max() / positive.min()) ** 0.1)
        place[place <= 0] = np.nan
    else:
        beyond = finite.max() + max(0.1 * np.ptp(finite), 1.0) if finite.size else 1.0
    infinite = np.isposinf(place)
    place[infinite] = beyond
    return place, (beyond if infinite.any() else None)


def colours(values: np.ndarray, mode: str = "light") -> list[str]:
    """One colour for each value of an axis; `inf` is drawn in ink."""
    if values.dtype.kind == "U":
        return distinct(len(values), mode)
    finite = np.isfinite(values)
    ramp = iter(ordered(int(finite.sum()), mode))
    return [next(ramp) if f else INK[mode] for f in finite]


def target_path(path: str | os.PathLike | None, who: str) -> Path | None:
    """The file to write, once it is known that it can be.

    Raises:
        InvalidInput: Unknown suffix, or no such folder.
    """
    if path is None:
        return None
    target = Path(path)
    if target.suffix.lower() not in FORMATS:
        raise InvalidInput(f"{who}(path={str(target)!r}): expected a name that ends in {', '.join(FORMATS)}.")
    if not target.parent.is_dir():
        raise InvalidInput(f"{who}(path={str(target)!r}): no folder {target.parent}; create it first.")
    return target


def save(figure: Any, target: Path | None) -> Any:
    """The figure, written to `target` unless that is `None`."""
    if target is not None:
        figure.savefig(target, format=target.suffix.lower()[1:])
    return figure


def _draw(
    grid: Grid, who: str, *, residual: bool, slopes: Float[np.ndarray, "two *axes horizontal"] | None = None
) -> Any:
    quantity = grid.quantities[grid.main]
    colour, panel, rest = grid.roles()
    others = [a for a in (panel, *rest) if a is not None]
    indices = list(itertools.product(*(range(len(grid.coords[a])) for a in others)))
    shown = indices[:_MOST_PANELS]
    columns = min(len(shown), 4 if len(shown) != 5 and len(shown) != 6 else 3)
    rows = -(-len(shown) // columns)
    below = residual or slopes is not None
    figure = new_figure(who, max(4.2, 2.75 * columns + 0.6), (3.6 if below else 2.7) * rows + 0.7)
    ratios = ([2.6, 1.0] if residual else [1.5, 1.0]) * rows if below else [1.0] * rows
    cells = figure.add_gridspec(len(ratios), columns, height_ratios=ratios)
    tints = colours(grid.coords[colour]) if colour else [ordered(1)[0]]
    limits = _vertical(quantity, over_rates=grid.horizontal == "learning_rate")
    reach = _residual_reach(quantity)
    for number, index in enumerate(shown):
        row, column = divmod(number, columns)
        where = dict(zip(others, index, strict=True))
        upper = figure.add_subplot(cells[(2 * row if below else row), column])
        _curves_panel(upper, grid, quantity, where, colour, tints, limits)
        varied = [a for a in others if len(grid.coords[a]) > 1]
        title = ", ".join(f"{words(a)} {show(grid.coords[a][where[a]])}" for a in varied)
        upper.set_title(
            literal(textwrap.fill(title, 36)), fontsize=8, color=INK["light"], loc="left", fontweight="bold"
        )
        lower = upper
        if below:
            upper.tick_params(labelbottom=False)
            lower = figure.add_subplot(cells[2 * row + 1, column], sharex=upper)
            if slopes is None:
                _residual_panel(lower, grid, quantity, where, colour, tints, reach)
            else:
                _exponent_panel(lower, grid, slopes, where, colour, tints)
        if column == 0:
            upper.set_ylabel(words(grid.main), fontsize=8, color=INK["light"])
            if below:
                lower.set_ylabel("error (%)" if slopes is None else "local exponent", fontsize=8, color=INK["light"])
        if number + columns >= len(shown):
            lower.set_xlabel(words(grid.horizontal), fontsize=8, color=INK["light"])
    _legend(figure, grid, quantity, colour, tints)
    fixed = [f"{words(a)} {show(grid.coords[a][0])}" for a in others if len(grid.coords[a]) == 1]
    if len(indices) > len(shown):
        fixed.append(f"the first {len(shown)} of {len(indices)} panels")
    if fixed:
        figure.supxlabel(literal(textwrap.fill(" · ".join(fixed), 30 * columns)), fontsize=7, color=_QUIET)
    return figure


def _pick(values: np.ndarray, grid: Grid, where: dict[str, int], colour: str | None, entry: int) -> np.ndarray:
    return values[tuple(entry if a == colour else where[a] for a in grid.axes)]


def _vertical(quantity: Quantity, *, over_rates: bool) -> tuple[float, float, bool]:
    """Lower and upper end, and whether logarithmic; curves over rates leave the panel at the edge of stability."""
    parts = [v for v in (quantity.theory, quantity.measured) if np.isfinite(v).any()]
    values = np.concatenate([v[np.isfinite(v)] for v in parts]) if parts else np.zeros(0)
    if over_rates and values.size:
        slowest = np.concatenate([v[..., 0][np.isfinite(v[..., 0])] for v in parts])
        values = values[values <= 1.5 * np.max(slowest, initial=values.min())]
        # A rate that happens to cancel everything would squeeze the other curves.
        values = np.maximum(values, _DEEPEST * values.max())
    if not values.size:
        return 0.0, 1.0, False
    if np.all(values > 0):
        low, high = float(values.min()), float(values.max())
        room = max((high / low) ** 0.06, 1.05)
        return low / room, high * room, True
    room = 0.06 * (float(np.ptp(values)) or 1.0)
    return float(values.min()) - room, float(values.max()) + room, False


def _residual_reach(quantity: Quantity) -> float:
    """Half height of the residual panels in percent: all errors, unless a few are far beyond the rest."""
    sizes = 100 * np.abs(quantity.error[np.isfinite(quantity.error)])
    if not sizes.size:
        return 1.0
    usual = float(np.quantile(sizes, 0.98))
    return 1.2 * max(min(float(sizes.max()), 3 * usual), 0.1)


def _curves_panel(
    axes: Any,
    grid: Grid,
    quantity: Quantity,
    where: dict[str, int],
    colour: str | None,
    tints: list[str],
    limits: tuple[float, float, bool],
) -> None:
    style(axes)
    place, beyond = positions(grid.x)
    low, high, log = limits
    for entry, tint in enumerate(tints):
        theory, measured, stderr = (
            _pick(v, grid, where, colour, entry) for v in (quantity.theory, quantity.measured, quantity.stderr)
        )
        body = np.isfinite(theory) & (place != beyond)
        limit = colour is not None and grid.coords[colour].dtype.kind == "f" and np.isinf(grid.coords[colour][entry])
        axes.plot(place, np.where(body, theory, np.nan), color=tint, lw=1.3, ls="--" if limit else "-", zorder=3)
        if body.sum() == 1 or beyond is not None:
            lone = np.isfinite(theory) if body.sum() == 1 else place == beyond
            axes.plot(place[lone], theory[lone], color=tint, marker="_", ms=9, mew=1.3, ls="", zorder=3)
        bars = np.where(np.isfinite(stderr), stderr, 0.0)
        axes.errorbar(place, np.where(np.isfinite(measured), measured, np.nan), yerr=bars, fmt="o", ms=2.6, mew=0.6,
                      mfc="white", color=tint, elinewidth=0.8, capsize=0, zorder=4)  # fmt: skip
        if grid.horizontal == "learning_rate":
            shown = measured if np.isfinite(measured).any() else theory
            if np.isfinite(shown).any():
                best = np.nanargmin(np.where(np.isfinite(shown), shown, np.nan))
                axes.plot(place[best], max(shown[best], low), "D", ms=4.5, mfc=tint, mec="white", mew=0.7, zorder=5)
        lost = np.isposinf(theory) | np.isposinf(measured)
        _arrows(axes, place[lost], high, "^", tint)
    if log:
        axes.set_yscale("log")
    axes.set_ylim(low, high)
    _horizontal_axis(axes, grid.x, place, beyond)
    if log and high / low < 12:
        _plain_ticks(axes.yaxis, high / low)


def _residual_panel(
    axes: Any,
    grid: Grid,
    quantity: Quantity,
    where: dict[str, int],
    colour: str | None,
    tints: list[str],
    reach: float,
) -> None:
    style(axes)
    place, beyond = positions(grid.x)
    axes.axhline(0, color=INK["light"], lw=0.7, zorder=2)
    for entry, tint in enumerate(tints):
        error, noise = (100 * _pick(v, grid, where, colour, entry) for v in (quantity.error, quantity.noise))
        known = np.isfinite(error)
        if not known.any():
            continue
        band = 2 * np.where(np.isfinite(noise), noise, 0.0)
        axes.fill_between(place, -band, band, where=known & np.isfinite(place), color=tint, alpha=0.10, lw=0, zorder=1)
        axes.plot(
            place, np.where(known, np.clip(error, -reach, reach), np.nan), "o-", color=tint, ms=2, lw=0.7, zorder=3
        )
        for sign, marker in ((1, "^"), (-1, "v")):
            out = known & (sign * error > reach)
            _arrows(axes, place[out], sign * reach, marker, tint)
    axes.set_ylim(-reach, reach)
    _horizontal_axis(axes, grid.x, place, beyond)


def _exponent_panel(
    axes: Any,
    grid: Grid,
    slopes: Float[np.ndarray, "two *axes horizontal"],
    where: dict[str, int],
    colour: str | None,
    tints: list[str],
) -> None:
    style(axes)
    place, beyond = positions(grid.x)
    for entry, tint in enumerate(tints):
        local, limit = (_pick(values, grid, where, colour, entry) for values in slopes)
        axes.plot(place, local, color=tint, lw=1.3, zorder=3)
        axes.plot(place, limit, color=tint, lw=0.9, ls=":", zorder=2)
    known = slopes[np.isfinite(slopes)]
    if known.size:
        # One scale for all panels; a curve that ends at a floor goes to zero, so that zero is in view.
        low, high = float(known.min()), max(float(known.max()), 0.0)
        axes.set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))
    _horizontal_axis(axes, grid.x, place, beyond)


def _arrows(axes: Any, places: np.ndarray, height: float, marker: str, tint: str) -> None:
    """Marks at the edge for values beyond it; an empty set would give the layout engine an endless box."""
    places = places[np.isfinite(places)]
    if places.size:
        axes.plot(places, np.full(places.shape, height), marker, color=tint, ms=4, clip_on=False, zorder=5)


def _horizontal_axis(axes: Any, values: np.ndarray, place: np.ndarray, beyond: float | None) -> None:
    if values.dtype.kind == "U":
        axes.set_xticks(place, [literal(str(v)) for v in values])
        return
    known = place[np.isfinite(place)]
    if is_log(values[np.isfinite(values)]):
        # Set, not found from the data: a panel without a single finite loss has none.
        axes.set_xlim(known.min() / 1.3, known.max() * 1.3)
        axes.set_xscale("log")
        if known.max() / known.min() < 100:
            _plain_ticks(axes.xaxis, known.max() / known.min())
    if beyond is not None:
        axes.axvline(beyond, color=_QUIET, lw=0.6, ls=":", zorder=1)
        axes.annotate(
            "∞", (beyond, 1.0), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8, color=_QUIET
        )


def _plain_ticks(axis: Any, ratio: float) -> None:
    """Within a decade or two, plain numbers at a few places instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    subs = (1.0, 2.0, 3.0, 5.0) if ratio < 12 else (1.0, 3.0)
    axis.set_major_locator(MaxNLocator(5) if ratio < 2.5 else LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda v, _: show(v)))
    axis.set_minor_formatter(NullFormatter())


def _legend(figure: Any, grid: Grid, quantity: Quantity, colour: str | None, tints: list[str]) -> None:
    from matplotlib.lines import Line2D

    handles = []
    if colour is not None:
        values = grid.coords[colour]
        for value, tint in zip(values, tints, strict=True):
            limit = values.dtype.kind == "f" and np.isinf(value)
            handles.append(
                Line2D(
                    [], [], color=tint, lw=2, ls="--" if limit else "-", label=literal(f"{words(colour)} {show(value)}")
                )
            )
    if np.isfinite(quantity.theory).any():
        handles.append(Line2D([], [], color=_QUIET, lw=1.3, label="theory"))
    if np.isfinite(quantity.measured).any():
        handles.append(Line2D([], [], color=_QUIET, marker="o", ms=3, mfc="white", ls="", label="trained, ± 1 s.e."))
    if grid.horizontal == "learning_rate":
        handles.append(Line2D([], [], color=_QUIET, marker="D", ms=4, ls="", label="best rate of the grid"))
    longest = max(len(handle.get_label()) for handle in handles)
    columns = max(1, int(72 * figure.get_figwidth() / (4.1 * longest + 38)))
    figure.legend(handles=handles, loc="outside upper left", ncols=min(len(handles), columns), fontsize=7, frameon=False,
                  labelcolor=INK["light"], handlelength=1.6, columnspacing=1.4)  # fmt: skip
