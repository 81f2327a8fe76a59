"""Figures of scaling theory: compute-optimal frontiers, and exponents over the plane of capacity and source."""

import os
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from foretrain.errors import InvalidInput
from foretrain.report._figures import literal, new_figure, save, style, target_path
from foretrain.report._palette import INK, distinct

_QUIET = "#8791a0"


class Frontier(Protocol):
    """The best use of a compute budget, as `compute_optimal_frontier` of a limit returns it."""

    compute: Float[np.ndarray, " budget"]
    width: Float[np.ndarray, " budget"]
    test_loss: Float[np.ndarray, " budget"]


def plot_frontier(
    frontiers: Mapping[str, Frontier],
    path: str | os.PathLike | None = None,
    *,
    predicted: Mapping[str, tuple[float, float]] | None = None,
) -> Any:
    """A figure of compute-optimal frontiers: the best test loss and the best width over compute, both axes logarithmic.

    Args:
        frontiers: Frontiers by the name that the legend shows, for example `{"lazy": ..., "rich": ...}`.
        path: Where to save it; the suffix `.png`, `.svg` or `.pdf` chooses the form. `None` does not save.
        predicted: By the same names, asymptotic exponents of the loss (negative) and of the width, drawn as dashed lines through
            the last point of each frontier.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        InvalidInput: No frontier, a prediction for none of them, unknown suffix, or no such folder.
        MissingExtra: matplotlib is not installed.

    Example:
        >>> import numpy as np
        >>> from foretrain import PowerLaw
        >>> from foretrain.limits.linear import compute_optimal_frontier, measure_of
        >>> from foretrain.report import plot_frontier
        >>> lazy = compute_optimal_frontier(measure_of(PowerLaw(1.5, 0.6).spectrum()), np.logspace(3, 5, 5))
        >>> len(plot_frontier({"lazy": lazy}).axes)
        2
    """
    target = target_path(path, "plot_frontier")
    if not frontiers:
        raise InvalidInput("plot_frontier(frontiers): expected at least one frontier, got none.")
    unknown = [name for name in predicted or {} if name not in frontiers]
    if unknown:
        raise InvalidInput(
            f"plot_frontier(predicted): no frontier is called {unknown[0]!r}; there are {', '.join(map(repr, frontiers))}."
        )
    figure = new_figure("plot_frontier", 7.2, 3.1)
    panels = figure.subplots(1, 2)
    for place, (axes, quantity, words) in enumerate(
        zip(panels, ("test_loss", "width"), ("best test loss", "best width N"), strict=True)
    ):
        style(axes)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("compute C = N t", fontsize=8, color=INK["light"])
        axes.set_ylabel(words, fontsize=8, color=INK["light"])
        for (name, frontier), tint in zip(frontiers.items(), distinct(len(frontiers)), strict=True):
            compute, values = np.asarray(frontier.compute, float), np.asarray(getattr(frontier, quantity), float)
            known = np.isfinite(values) & (values > 0)
            exponent = (predicted or {}).get(name, (np.nan, np.nan))[place]
            label = name if np.isnan(exponent) else f"{name}; dashed: slope {exponent:.3g}".replace("-", "−")
            axes.plot(compute[known], values[known], color=tint, lw=1.5, label=literal(label), zorder=3)
            if np.isfinite(exponent) and known.any():
                last = np.flatnonzero(known)[-1]
                guide = values[last] * (compute[known] / compute[last]) ** exponent
                axes.plot(compute[known], guide, color=tint, lw=0.9, ls="--", zorder=2)
        axes.legend(fontsize=7, frameon=False, labelcolor=INK["light"], handlelength=1.6)
    return save(figure, target)


def plot_phase_plane(
    capacity: Float[np.ndarray, " capacity"],
    source: Float[np.ndarray, " source"],
    exponents: Mapping[str, Float[np.ndarray, "capacity source"]],
    path: str | os.PathLike | None = None,
    *,
    words: str = "exponent of the loss in time",
) -> Any:
    r"""A figure of exponents over the plane of capacity $\alpha$ and source $\beta$, one panel for each name.

    Lines separate hard ($\beta<1$), easy and super-easy ($\beta>2-1/\alpha$) tasks.

    Args:
        capacity: Values of the horizontal axis, rising.
        source: Values of the vertical axis, rising.
        exponents: Exponents by the title of their panel, for example `{"lazy": ..., "rich": ...}`; one scale of colour for all.
        path: As for `plot_frontier`.
        words: What the colour means.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        InvalidInput: No panel, an array of another shape, unknown suffix, or no such folder.
        MissingExtra: matplotlib is not installed.

    Example:
        >>> import numpy as np
        >>> from foretrain.report import plot_phase_plane
        >>> alpha, beta = np.linspace(1.1, 3, 20), np.linspace(0.1, 2.5, 20)
        >>> figure = plot_phase_plane(alpha, beta, {"lazy": np.tile(beta, (20, 1))})
    """
    target = target_path(path, "plot_phase_plane")
    capacity, source = np.asarray(capacity, float), np.asarray(source, float)
    if not exponents:
        raise InvalidInput("plot_phase_plane(exponents): expected at least one panel, got none.")
    tables = {name: np.asarray(table, float) for name, table in exponents.items()}
    for name, table in tables.items():
        if table.shape != (len(capacity), len(source)):
            raise InvalidInput(
                f"plot_phase_plane(exponents[{name!r}]): expected shape {(len(capacity), len(source))}, capacity by source, "
                f"got {table.shape}."
            )
    finite = np.concatenate([t[np.isfinite(t)] for t in tables.values()])
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    figure = new_figure("plot_phase_plane", 3.1 * len(tables) + 0.9, 3.2)
    panels = figure.subplots(1, len(tables), squeeze=False, sharey=True)[0]
    mesh = None
    for axes, (name, table) in zip(panels, tables.items(), strict=True):
        mesh = axes.pcolormesh(
            capacity, source, table.T, cmap="YlGnBu", vmin=low, vmax=high, shading="nearest", rasterized=True
        )
        axes.axhline(1.0, color=INK["light"], lw=0.9)
        axes.plot(capacity, 2 - 1 / capacity, color=INK["light"], lw=0.9, ls="--")
        axes.set_xlim(capacity[0], capacity[-1])
        axes.set_ylim(source[0], source[-1])
        axes.set_title(literal(name), fontsize=8, fontweight="bold", loc="left", color=INK["light"])
        axes.set_xlabel("capacity α", fontsize=8, color=INK["light"])
        axes.tick_params(labelsize=7, color=_QUIET, labelcolor=INK["light"])
        edge = capacity[-1] - 0.02 * np.ptp(capacity)
        for height, text, below in ((1.0, "hard", True), (1.0, "easy", False), (2 - 1 / edge, "super-easy", False)):
            if source[0] < height < source[-1]:
                axes.annotate(
                    text, (edge, height), xytext=(-2, -4 if below else 4), textcoords="offset points", ha="right",
                    va="top" if below else "bottom", fontsize=7, color=INK["light"],
                    bbox={"facecolor": "w", "alpha": 0.6, "lw": 0, "pad": 1},
                )  # fmt: skip
    panels[0].set_ylabel("source β", fontsize=8, color=INK["light"])
    bar = figure.colorbar(mesh, ax=list(panels), pad=0.02)
    bar.ax.tick_params(labelsize=7, color=_QUIET, labelcolor=INK["light"])
    bar.set_label(literal(words), fontsize=8, color=INK["light"])
    return save(figure, target)
