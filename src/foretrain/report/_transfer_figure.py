"""Figure of a transfer sweep: loss over the swept value with one curve for each size, and the optimum over size below."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain.curves import LearningCurves
from foretrain.errors import InvalidInput
from foretrain.report._figures import literal, new_figure, save, target_path
from foretrain.report._grid import show, words
from foretrain.report._palette import INK, ordered

_QUIET = {"light": "#8791a0", "dark": "#7b8698"}
_GRID = {"light": "#e6e9ee", "dark": "#262d39"}
_PAPER = {"light": "#ffffff", "dark": "#161b24"}
_ACCENT = {"light": "#067a9b", "dark": "#5cc3e0"}
_BAD = {"light": "#c95a00", "dark": "#f08a4b"}
_MOST_VARIANTS = 8
_COLUMNS = 4
_LOCATED = ("bracketed", "edge of stability")


def transfer_analysis(curves: LearningCurves, who: str) -> Mapping[str, Any]:
    """The analysis among the attributes of a sweep, also after it went through a file.

    Args:
        curves: What `foretrain.transfer` returned as `curves`.
        who: Who is named in the error.

    Raises:
        InvalidInput: Not the result of `transfer`.
    """
    found = curves.attrs.get("transfer")
    if not isinstance(found, Mapping) or "variants" not in found:
        raise InvalidInput(
            f"{who}(curves): expected what `foretrain.transfer` returned as `curves`, got another result."
        )
    return found


def plain(value: Any) -> float:
    """A number of the analysis; `"nan"`, `"inf"` and `"-inf"` are what files hold.

    Args:
        value: A number or such a word.
    """
    return float("nan") if value is None else float(value)


def plot_transfer(curves: LearningCurves, path: str | os.PathLike | None = None, *, mode: str = "light") -> Any:
    """A figure of a transfer sweep, one column for each variant.

    Above, the loss that was judged over the swept value, one curve for each size from dark to light, with ± 1 standard error; a
    diamond with its 95 % interval at every optimum, open where the grid bounds it on one side only; a cross at the upper edge where
    runs diverged. Below, the optimum over size with the drift line and its band of two standard errors, and the edge of stability.

    Args:
        curves: `curves` of what `foretrain.transfer` returned.
        path: Where to save it; the suffix `.png`, `.svg` or `.pdf` chooses the form. `None` does not save.
        mode: `"light"` or `"dark"`.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        InvalidInput: Not a transfer sweep, unknown suffix, or no such folder.
        MissingExtra: matplotlib is not installed.
    """
    target = target_path(path, "plot_transfer")
    analysis = transfer_analysis(curves, "plot_transfer")
    variants = list(analysis["variants"])
    shown = variants[:_MOST_VARIANTS]
    columns = min(len(shown), _COLUMNS)
    blocks = -(-len(shown) // columns)
    numeric = curves.coords[analysis["swept"]].dtype.kind != "U"
    figure = new_figure("plot_transfer", max(5.4, 3.1 * columns + 0.7), (5.4 if numeric else 3.2) * blocks + 0.5)
    figure.set_facecolor(_PAPER[mode])
    ratios = ([2.1, 1.0] if numeric else [1.0]) * blocks
    cells = figure.add_gridspec(len(ratios), columns, height_ratios=ratios)
    sizes = curves.coords[analysis["axis"]]
    tints = ordered(len(sizes), mode)
    finals = _finals(curves, analysis)
    limits = _limits(finals[0])
    reach = _reach(analysis) if numeric else None
    for number, variant in enumerate(shown):
        block, column = divmod(number, columns)
        upper = figure.add_subplot(cells[block * len(ratios) // blocks, column])
        means, errors = (part[_index(curves, variant)] for part in finals)
        _losses(upper, curves, analysis, variant, means, errors, tints, limits, mode)
        name = ", ".join(f"{show(v)}" for v in variant["where"].values())
        upper.set_title(
            literal(f"{name}: {variant['verdict']}" if name else variant["verdict"]),
            fontsize=8.5,
            loc="left",
            fontweight="bold",
            color=_BAD[mode] if variant["verdict"] == "drifts" else INK[mode],
        )
        if column == 0:
            upper.set_ylabel(f"{words(analysis['objective'])}, step {analysis['steps']}", fontsize=8, color=INK[mode])
        if numeric:
            lower = figure.add_subplot(cells[2 * block + 1, column])
            _optima(lower, analysis, variant, tints, reach, mode)
            if column == 0:
                lower.set_ylabel(f"best {words(analysis['swept'])}", fontsize=8, color=INK[mode])
    _legends(figure, [show(s) for s in sizes], words(analysis["axis"]), tints, _marks(shown, finals[0], numeric), mode)
    if len(variants) > len(shown):
        figure.supxlabel(f"the first {len(shown)} of {len(variants)} variants", fontsize=7, color=_QUIET[mode])
    return save(figure, target)


def _marks(
    variants: list[Mapping[str, Any]], means: Float[np.ndarray, "*variants sizes swept"], numeric: bool
) -> list[str]:
    """Which marks the figure has beside curves and diamonds."""
    edges = [plain(edge["value"]) for variant in variants for edge in variant["edge"]]
    found = {
        "diverged": not np.all(np.isfinite(means)),
        "edge of\nstability": numeric and bool(np.any(np.isfinite(edges))),
    }
    return [name for name, there in found.items() if there]


def _legends(figure: Any, sizes: list[str], title: str, tints: list[str], marks: list[str], mode: str) -> None:
    """Sizes beside the curves above, marks beside the optima below."""
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=tint, lw=2) for tint in tints]
    drawn = {
        "diverged": Line2D([], [], marker="x", ls="", ms=4, mew=1.1, color=_QUIET[mode]),
        "edge of\nstability": Line2D([], [], marker="_", ls="", ms=11, mew=1.3, color=_BAD[mode]),
    }
    common: dict[str, Any] = {"fontsize": 7.5, "frameon": False, "labelcolor": INK[mode]}
    upper = figure.legend(lines, sizes, title=title, title_fontsize=8, loc="outside right upper", **common)
    upper.get_title().set_color(INK[mode])
    if marks:
        figure.legend([drawn[name] for name in marks], marks, loc="outside right lower", **common)


def exponent_words(drift: Mapping[str, Any]) -> str:
    """An exponent with its standard error: `−0.601 ± 0.128`.

    Args:
        drift: One drift of the analysis.
    """
    return f"{drift['exponent']:+.3f} ± {drift['stderr']:.3f}".replace("-", "−")


def _style(axes: Any, mode: str) -> None:
    axes.set_facecolor(_PAPER[mode])
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_QUIET[mode])
        axes.spines[side].set_linewidth(0.6)
    axes.tick_params(which="both", color=_QUIET[mode], labelcolor=INK[mode], labelsize=7, width=0.6)
    axes.tick_params(which="minor", length=1.5, labelsize=6.5)
    axes.grid(True, which="major", color=_GRID[mode], linewidth=0.6)
    axes.set_axisbelow(True)


def _finals(
    curves: LearningCurves, analysis: Mapping[str, Any]
) -> tuple[Float[np.ndarray, "*variants sizes swept"], Float[np.ndarray, "*variants sizes swept"]]:
    name = analysis["objective"]
    return curves.values(name)[..., -1], curves.values(f"{name}_stderr")[..., -1]


def _index(curves: LearningCurves, variant: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(curves.coords[name].tolist().index(value) for name, value in variant["where"].items())


def _limits(means: Float[np.ndarray, "*variants sizes swept"]) -> tuple[float, float]:
    """Vertical range: from below the best to the losses of the first step or so, without what is about to diverge."""
    finite = means[np.isfinite(means) & (means > 0)]
    if not finite.size:
        return 0.1, 1.0
    low = float(finite.min())
    high = float(min(finite.max(), max(4 * np.median(finite), 1.5 * low)))
    room = max((high / low) ** 0.07, 1.02)
    return low / room, high * room


def _losses(
    axes: Any,
    curves: LearningCurves,
    analysis: Mapping[str, Any],
    variant: Mapping[str, Any],
    means: Float[np.ndarray, "sizes swept"],
    errors: Float[np.ndarray, "sizes swept"],
    tints: list[str],
    limits: tuple[float, float],
    mode: str,
) -> None:
    _style(axes, mode)
    values = curves.coords[analysis["swept"]]
    numeric = values.dtype.kind != "U"
    place = values.astype(np.float64) if numeric else np.arange(len(values), dtype=np.float64)
    low, high = limits
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    if numeric:
        axes.set_xscale("log" if analysis["swept"] != "momentum" else "linear")
    else:
        axes.set_xticks(place, [literal(str(v)) for v in values], rotation=20, ha="right", fontsize=6.5)
    for at, tint in enumerate(tints):
        lost = ~np.isfinite(means[at])
        bars = np.where(np.isfinite(errors[at]) & ~lost, errors[at], 0.0)
        drawn = np.where(lost, np.nan, means[at])
        axes.errorbar(place, drawn, yerr=bars, fmt="-o", ms=2.2, lw=1.2, elinewidth=0.8, color=tint, zorder=3)
        if lost.any():
            # Sizes side by side, so that all of them can be seen.
            height = 1.0 - 0.028 * (len(tints) - 1 - at)
            axes.plot(
                place[lost],
                np.full(int(lost.sum()), height),
                "x",
                ms=3.6,
                mew=1.1,
                color=tint,
                transform=axes.get_xaxis_transform(),
                clip_on=False,
                zorder=4,
            )
        row = variant["optima"][at]
        if numeric and np.isfinite(plain(row["loss"])):
            _diamond(axes, row, tint, (plain(row["value"]), plain(row["loss"])), mode)
    axes.set_xlabel(words(analysis["swept"]), fontsize=8, color=INK[mode])
    _few_ticks(axes, high / low)


def _diamond(axes: Any, row: Mapping[str, Any], tint: str, at: tuple[float, float], mode: str) -> None:
    located = row["status"] in _LOCATED
    low, high = plain(row["low"]), plain(row["high"])
    if located and np.isfinite(low) and np.isfinite(high):
        axes.plot([low, high], [at[1]] * 2, "-", lw=2.2, alpha=0.45, color=tint, solid_capstyle="butt", zorder=4)
    axes.plot(*at, "D", ms=5.2, mfc=tint if located else _PAPER[mode], mec=INK[mode], mew=0.8, zorder=6)


def _few_ticks(axes: Any, ratio: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    if ratio < 300:
        subs = (1.0, 2.0, 3.0, 5.0) if ratio < 12 else (1.0, 3.0) if ratio > 50 else (1.0, 2.0, 5.0)
        axes.yaxis.set_major_locator(MaxNLocator(5) if ratio < 2.5 else LogLocator(subs=subs))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: show(v)))
        axes.yaxis.set_minor_formatter(NullFormatter())


def _reach(analysis: Mapping[str, Any]) -> tuple[float, float] | None:
    """The optima with their intervals and edges: the same vertical axis below for all variants."""
    rows = [row for variant in analysis["variants"] for row in variant["optima"]]
    found = [plain(row[name]) for row in rows for name in ("value", "low", "high")]
    found += [plain(edge["value"]) for variant in analysis["variants"] for edge in variant["edge"]]
    values = np.array([v for v in found if np.isfinite(v) and v > 0])
    if not values.size:
        return None
    low, high = float(values.min()), float(values.max())
    room = max(1.25, (4.0 / (high / low)) ** 0.5)
    return low / room, high * room


def _optima(
    axes: Any,
    analysis: Mapping[str, Any],
    variant: Mapping[str, Any],
    tints: list[str],
    reach: tuple[float, float] | None,
    mode: str,
) -> None:
    _style(axes, mode)
    axes.set_xscale("log", base=2)
    momentum = analysis["swept"] == "momentum"
    axes.set_yscale("linear" if momentum else "log")
    if reach is not None and not momentum:
        axes.set_ylim(*reach)
        _few_ticks(axes, reach[1] / reach[0])
    rows = variant["optima"]
    sizes = np.array([plain(row["size"]) for row in rows])
    drift = variant["drift"]
    if drift is not None:
        x = np.geomspace(sizes.min() / 1.15, sizes.max() * 1.15, 60)
        away = np.log(x) - drift["log_size"]
        line = drift["log_value"] + drift["exponent"] * away
        error = 2 * np.hypot(drift["log_value_stderr"], drift["stderr"] * away)
        back = (lambda v: 1 - np.exp(v)) if momentum else np.exp
        axes.fill_between(x, back(line - error), back(line + error), color=_ACCENT[mode], alpha=0.16, lw=0, zorder=1)
        axes.plot(x, back(line), "-", color=_ACCENT[mode], lw=1.2, zorder=2)
    stops = [plain(edge["value"]) for edge in variant["edge"]]
    axes.plot(sizes, stops, "_", ms=11, mew=1.3, color=_BAD[mode], zorder=3)
    for row, size, tint in zip(rows, sizes, tints, strict=True):
        value, low, high = (plain(row[name]) for name in ("value", "low", "high"))
        if not np.isfinite(value):
            axes.annotate(
                "diverged",
                (size, 0.03),
                xycoords=("data", "axes fraction"),
                fontsize=6.5,
                ha="center",
                color=_BAD[mode],
            )
            continue
        located = row["status"] in _LOCATED
        if located:
            axes.plot([size, size], [low, high], "-", lw=1.4, color=tint, zorder=4)
        axes.plot(size, value, "D", ms=4.6, mfc=tint if located else _PAPER[mode], mec=INK[mode], mew=0.8, zorder=5)
    if drift is not None:
        axes.set_title(f"drift exponent {exponent_words(drift)}", fontsize=7.5, loc="left", color=_ACCENT[mode])
    axes.set_xticks(sizes, [show(s) for s in sizes])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(words(analysis["axis"]), fontsize=8, color=INK[mode])
