"""Figures of a fitted law: the runs and the law, residuals, IsoFLOP valleys, intervals."""

import os
from typing import Any

import numpy as np

from foretrain.laws import Fit, Runs
from foretrain.report._figures import _arrows, literal, new_figure, save, target_path
from foretrain.report._fit_numbers import Points, frontier, points_of, slices_of, typical
from foretrain.report._grid import show, words
from foretrain.report._palette import INK, ordered

_QUIET = {"light": "#8791a0", "dark": "#7b8698"}
_GRID = {"light": "#e6e9ee", "dark": "#262d39"}
_PAPER = {"light": "#ffffff", "dark": "#161b24"}
_ACCENT = {"light": "#067a9b", "dark": "#5cc3e0"}
_WARM = {"light": "#c95a00", "dark": "#f08a4b"}
_BEYOND = 10.0  # how far a law of one variable is drawn past its runs
_MOST_INTERVALS = 12
_MOST_PLACES = 4
_LINEAR = 0.01  # of the largest response: below it an axis that has negative ones is linear
_TITLES = {"flops": "compute 6 N D, FLOP", "params": "parameters", "tokens": "tokens"}


def plot_fit(fit: Fit, runs: Runs, path: str | os.PathLike | None = None, *, mode: str = "light") -> Any:
    """The runs and the law that was fitted to them, and the residuals against every variable.

    A law of one variable is drawn over it, ten times past the runs, with the interval of a new run. For a law of parameters and tokens the
    losses stand over compute, coloured by parameters, with the frontier: the smallest loss that the law has at each budget. Any other law
    is drawn as measured over predicted.

    Args:
        fit: The fit.
        runs: The rows that it was made from.
        path: Where to save it; the suffix `.png`, `.svg` or `.pdf` chooses the form. `None` does not save.
        mode: `"light"` or `"dark"`.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        InvalidInput: Unknown suffix, no such folder, or rows that the law cannot use.
        MissingExtra: matplotlib is not installed.
    """
    target = target_path(path, "plot_fit")
    points = points_of(fit, runs)
    places = residual_places(points)
    columns = max(2, len(places))
    figure = new_figure("plot_fit", max(7.2, 2.5 * columns), 5.6)
    figure.set_facecolor(_PAPER[mode])
    upper, lower = figure.subfigures(2, 1, height_ratios=(2.0, 1.0))
    for part in (upper, lower):
        part.set_facecolor(_PAPER[mode])
    main, parity = upper.subplots(1, 2, width_ratios=(1.9, 1.0))
    if len(fit.law.variables) == 1:
        _one_variable(main, fit, points, mode)
    else:
        _over_compute(main, upper, fit, points, mode)
    _parity(parity, points, mode)
    below = lower.subplots(1, len(places), squeeze=False)[0]
    for axes, (name, place) in zip(below, places, strict=True):
        _residuals(axes, points, name, place, mode)
    below[0].set_ylabel("measured / law − 1, %", fontsize=8, color=INK[mode])
    return save(figure, target)


def plot_valleys(fit: Fit, runs: Runs, path: str | os.PathLike | None = None, *, mode: str = "light") -> Any | None:
    """Loss over size at fixed budgets, with the law and its best sizes, and these sizes over the budget; `None` where there is no such slice.

    Args:
        fit: The fit.
        runs: The rows that it was made from.
        path: As for `plot_fit`.
        mode: `"light"` or `"dark"`.
    """
    target = target_path(path, "plot_valleys")
    points = points_of(fit, runs)
    slices = slices_of(fit, points)
    if not slices:
        return None
    figure = new_figure("plot_valleys", 8.2, 3.7)
    figure.set_facecolor(_PAPER[mode])
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1.0))
    for axes in (left, right):
        _style(axes, mode)
        axes.set_xscale("log")
    tints = ordered(len(slices), mode)
    for one, tint in zip(slices, tints, strict=True):
        left.plot(one.sizes, one.curve, "-", lw=1.2, color=tint, zorder=3)
        left.plot(one.params, one.loss, "o", ms=3.2, mfc=_PAPER[mode], mec=tint, mew=0.9, zorder=4)
        left.plot(one.best, one.lowest, "D", ms=4.6, mfc=tint, mec=INK[mode], mew=0.7, zorder=5)
    seen = np.concatenate([one.loss for one in slices])
    low, high = min(float(seen.min()), min(one.lowest for one in slices)), float(seen.max())
    left.set_yscale("log")
    left.set_ylim(low / (high / low) ** 0.06, high * (high / low) ** 0.06)
    _plain_ticks(left.yaxis, high / low)
    left.set_xlabel("parameters", fontsize=8, color=INK[mode])
    left.set_ylabel(words(fit.law.response), fontsize=8, color=INK[mode])
    handles = [left.plot([], [], "-", color=t, lw=2)[0] for t in tints]
    legend = left.legend(
        handles,
        [show(float(f"{s.budget:.2g}")) for s in slices],
        title="6 N D, FLOP",
        fontsize=6.5,
        title_fontsize=7,
        frameon=False,
        ncols=2,
    )
    for text in [*legend.get_texts(), legend.get_title()]:
        text.set_color(INK[mode])
    budgets = np.geomspace(slices[0].budget / 3, slices[-1].budget * 30, 40)
    best, _, span, _ = frontier(fit, budgets)
    if np.isfinite(span).all():
        right.fill_between(budgets, *span, color=_ACCENT[mode], alpha=0.16, lw=0, zorder=1)
    right.plot(budgets, best, "-", lw=1.3, color=_ACCENT[mode], zorder=2)
    for one, tint in zip(slices, tints, strict=True):
        lowest = int(np.argmin(one.loss))
        right.plot(one.budget, one.params[lowest], "o", ms=3.6, mfc=_PAPER[mode], mec=tint, mew=1.0, zorder=4)
    right.set_yscale("log")
    right.set_xlabel("compute 6 N D, FLOP", fontsize=8, color=INK[mode])
    right.set_title("best size: by the law, and the lowest run", fontsize=8, loc="left", color=INK[mode])
    return save(figure, target)


def plot_intervals(fit: Fit, path: str | os.PathLike | None = None, *, mode: str = "light") -> Any | None:
    """The bootstrap fits of every parameter and of what follows from them, with the interval; `None` without a bootstrap.

    Args:
        fit: The fit.
        path: As for `plot_fit`.
        mode: `"light"` or `"dark"`.
    """
    target = target_path(path, "plot_intervals")
    if len(fit.samples) < 2:
        return None
    values = fit.law.values(fit.samples)
    shown = [(name, values[name], e) for name, e in fit.parameters.items()]
    shown += [(name, np.asarray(fit.law.derived[name](values)), e) for name, e in fit.derived.items()]
    shown = shown[:_MOST_INTERVALS]
    columns = min(len(shown), 6)
    rows = -(-len(shown) // columns)
    figure = new_figure("plot_intervals", 1.55 * columns + 0.4, 1.75 * rows + 0.2)
    figure.set_facecolor(_PAPER[mode])
    for axes, (name, samples, estimate) in zip(figure.subplots(rows, columns, squeeze=False).flat, shown, strict=False):
        _style(axes, mode)
        samples = samples[np.isfinite(samples)]
        log = bool(samples.size and samples.min() > 0 and np.quantile(samples, 0.99) > 8 * np.quantile(samples, 0.01))
        low, high = np.quantile(samples, [0.005, 0.995])
        room = max(0.05 * (high - low), 1e-9 * max(1.0, abs(high)))
        edges = np.geomspace(low, high * (1 + 1e-9), 31) if log else np.linspace(low - room, high + room, 31)
        axes.hist(samples, edges, color=_QUIET[mode], alpha=0.45, lw=0)
        axes.axvspan(estimate.low, estimate.high, color=_ACCENT[mode], alpha=0.16, lw=0, zorder=0)
        axes.axvline(estimate.value, color=_ACCENT[mode], lw=1.3)
        axes.set_xscale("log" if log else "linear")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(False)
        axes.set_title(literal(words(name)), fontsize=8, loc="left", color=INK[mode])
        if log:
            _plain_ticks(axes.xaxis, high / low)
        else:
            axes.locator_params(axis="x", nbins=3)
    for axes in figure.axes[len(shown) :]:
        axes.set_visible(False)
    return save(figure, target)


def residual_places(points: Points) -> list[tuple[str, np.ndarray]]:
    """The axes over which residuals are shown: compute, every variable, and nothing twice.

    Args:
        points: Rows of a fit.
    """
    compute = points.compute
    found = [("flops", compute)] if compute is not None else []
    return [*found, *((name, points.column(name)) for name in points.law.variables)][:_MOST_PLACES]


def _one_variable(axes: Any, fit: Fit, points: Points, mode: str) -> None:
    _style(axes, mode)
    name = fit.law.variables[0]
    x = points.x[0]
    line = np.geomspace(x.min() / 1.3, x.max() * _BEYOND, 200)
    said = fit.predict({name: line})
    axes.fill_between(line, said["low"], said["high"], color=_ACCENT[mode], alpha=0.16, lw=0, zorder=1)
    axes.plot(line, said["value"], "-", lw=1.4, color=_ACCENT[mode], zorder=3)
    axes.plot(x, points.loss, "o", ms=3.2, mfc=_PAPER[mode], mec=INK[mode], mew=0.8, alpha=0.8, zorder=2)
    axes.axvspan(x.max(), line[-1], color=_QUIET[mode], alpha=0.07, lw=0)
    axes.set_xscale("log")
    axes.set_xlim(line[0], line[-1])
    _loss_axis(axes, np.concatenate([points.loss, said["value"]]))
    axes.set_xlabel(literal(_title(name)), fontsize=8, color=INK[mode])
    axes.set_ylabel(words(fit.law.response), fontsize=8, color=INK[mode])
    axes.set_title(
        f"runs, law and {100 * fit.level:g} % interval of a new run", fontsize=8, loc="left", color=INK[mode]
    )


def _over_compute(axes: Any, figure: Any, fit: Fit, points: Points, mode: str) -> None:
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    _style(axes, mode)
    compute = points.compute
    place = points.x[0] if compute is None else compute
    name = fit.law.variables[0] if compute is None else "flops"
    colour = "params" if compute is not None else fit.law.variables[1]
    values = points.column(colour)
    ramp = LinearSegmentedColormap.from_list("ramp", ordered(32, mode))
    high = values.max() if values.max() > values.min() else values.min() * 1.001
    dots = axes.scatter(
        place, points.loss, c=values, cmap=ramp, norm=LogNorm(values.min(), high), s=9, lw=0, alpha=0.85, zorder=2
    )
    bar = figure.colorbar(dots, ax=axes, pad=0.01, aspect=30)
    bar.set_label(literal(_title(colour)), fontsize=7, color=INK[mode])
    bar.ax.tick_params(labelsize=6.5, color=_QUIET[mode], labelcolor=INK[mode])
    bar.outline.set_visible(False)
    shown = points.loss
    title = "runs"
    if points.sized:
        budgets = np.geomspace(place.min() / 1.5, place.max() * _BEYOND, 40)
        _, lowest, _, span = frontier(fit, budgets)
        if np.isfinite(span).all():
            axes.fill_between(budgets, *span, color=_ACCENT[mode], alpha=0.18, lw=0, zorder=1)
        axes.plot(budgets, lowest, "-", lw=1.5, color=_ACCENT[mode], zorder=3)
        axes.axvspan(place.max(), budgets[-1], color=_QUIET[mode], alpha=0.07, lw=0)
        axes.set_xlim(budgets[0], budgets[-1])
        shown = np.concatenate([shown, lowest])
        title = "runs, and the smallest loss at each budget by the law"
        if np.isfinite(span).all():
            title += f" ({100 * fit.level:g} %)"
    axes.set_xscale("log")
    _loss_axis(axes, shown)
    axes.set_xlabel(literal(_title(name)), fontsize=8, color=INK[mode])
    axes.set_ylabel(words(fit.law.response), fontsize=8, color=INK[mode])
    axes.set_title(title, fontsize=8, loc="left", color=INK[mode])


def _parity(axes: Any, points: Points, mode: str) -> None:
    _style(axes, mode)
    both = np.concatenate([points.loss, points.predicted])
    low, high = float(both.min()), float(both.max())
    signed = low <= 0  # degradations within noise
    room = 1.2 if signed else max((high / low) ** 0.05, 1.002)
    ends = [room * low, room * high] if signed else [low / room, high * room]
    axes.plot(ends, ends, "-", lw=0.8, color=_QUIET[mode], zorder=1)
    axes.plot(points.predicted, points.loss, "o", ms=2.4, mew=0, color=_ACCENT[mode], alpha=0.55, zorder=3)
    for set_scale, axis, limit in (
        (axes.set_xscale, axes.xaxis, axes.set_xlim),
        (axes.set_yscale, axes.yaxis, axes.set_ylim),
    ):
        if signed:
            set_scale("symlog", linthresh=_LINEAR * high)
            limit(*ends)
            continue
        set_scale("log")
        limit(*ends)
        _plain_ticks(axis, high / low)
    axes.set_xlabel(f"{words(points.law.response)} by the law", fontsize=8, color=INK[mode])
    axes.set_title("measured over predicted", fontsize=8, loc="left", color=INK[mode])


def _residuals(axes: Any, points: Points, name: str, place: np.ndarray, mode: str) -> None:
    _style(axes, mode)
    errors = 100.0 * points.errors
    reach = 1.15 * float(np.quantile(np.abs(errors), 0.99 if len(errors) > 50 else 1.0)) or 1.0
    axes.axhline(0.0, lw=0.8, color=INK[mode], zorder=1)
    axes.plot(place, np.clip(errors, -reach, reach), "o", ms=2.0, mew=0, color=_QUIET[mode], alpha=0.7, zorder=2)
    for side, marker in ((1.0, "^"), (-1.0, "v")):
        _arrows(axes, place[side * errors > reach], side * reach, marker, _WARM[mode])
    if len(errors) >= 15:
        axes.plot(*typical(place, errors), "-", lw=1.5, color=_WARM[mode], zorder=3)
    axes.set_ylim(-reach, reach)
    if place.max() > 3 * place.min():
        axes.set_xscale("log")
        if place.max() < 1e5:  # widths, depths: plain numbers, and few of them
            _plain_ticks(axes.xaxis, float(place.max() / place.min()))
    axes.set_xlabel(literal(_title(name)), fontsize=8, color=INK[mode])


def _loss_axis(axes: Any, values: np.ndarray) -> None:
    low, high = float(values.min()), float(values.max())
    if low <= 0:  # degradations within noise
        axes.set_yscale("symlog", linthresh=_LINEAR * high)
        return
    room = max((high / low) ** 0.05, 1.005)
    axes.set_yscale("log")
    axes.set_ylim(low / room, high * room)
    _plain_ticks(axes.yaxis, high / low)


def _plain_ticks(axis: Any, ratio: float) -> None:
    """Within two decades, plain numbers at a few places instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    if ratio < 100:
        axis.set_major_locator(MaxNLocator(4) if ratio < 2.5 else LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda v, _: show(float(f"{v:.4g}"))))
    axis.set_minor_formatter(NullFormatter())


def _style(axes: Any, mode: str) -> None:
    axes.set_facecolor(_PAPER[mode])
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_QUIET[mode])
        axes.spines[side].set_linewidth(0.6)
    axes.tick_params(which="both", color=_QUIET[mode], labelcolor=INK[mode], labelsize=7, width=0.6)
    axes.tick_params(which="minor", length=1.5)
    axes.grid(True, which="major", color=_GRID[mode], linewidth=0.6)
    axes.set_axisbelow(True)


def _title(name: str) -> str:
    return _TITLES.get(name, words(name))
