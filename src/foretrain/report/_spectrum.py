"""A measured spectrum: the points that were measured, the power laws fitted to them and the tail that they extend to."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain.errors import InvalidInput
from foretrain.report._figures import new_figure, save, style, target_path
from foretrain.report._grid import show
from foretrain.report._palette import INK, distinct

_BINS_PER_DECADE = 8
_NAIVE = ("naive", "naive_coefficients", "naive_power")
_CROSS = ("cross", "cross_coefficients", "cross_power", "coefficients")
_HEAD = ("head", "head_size", "head_modes")


@dataclasses.dataclass(frozen=True, eq=False)
class SpectrumTable:
    """A spectrum with what is known of how it was measured; absent parts are `None`.

    Args:
        k: Place of each mode in the order of decreasing eigenvalue, from 1.
        eigenvalues: Of the kernel operator.
        power: Target power of each mode, eigenvalue times `target_power`.
        naive: Power by the Gram matrix's own eigenvectors.
        cross: Power by two disjoint halves of the data; unbiased, so single values may be negative.
        head: Number of modes taken as measured; beyond them the fit is extended.
        fit_range: First and last mode of the fit.
        facts: Exponents and noise as (name, value, low, high); low and high may be NaN.
    """

    k: Float[np.ndarray, " mode"]
    eigenvalues: Float[np.ndarray, " mode"]
    power: Float[np.ndarray, " mode"] | None
    naive: Float[np.ndarray, " head"] | None
    cross: Float[np.ndarray, " head"] | None
    head: int | None
    fit_range: tuple[float, float] | None
    facts: tuple[tuple[str, float, float, float], ...]


def plot_spectrum(spectrum: Mapping[str, Any], path: str | os.PathLike | None = None) -> Any:
    """A figure of eigenvalues (left) and target power per mode (right) with head, fit range and extended tail.

    Coefficients are averaged in log bins, as single modes are noise; bins whose mean is not positive are left out.

    Args:
        spectrum: Named arrays: `eigenvalues`, and any of `target_power` (not multiplied by the eigenvalue), `k`,
            `multiplicity`, `naive`, `cross`, `head`, `fit_range`, `capacity`, `source`, `noise`. The last three are numbers
            or `(value, low, high)`.
        path: Where to save it; the suffix `.png`, `.svg` or `.pdf` chooses the form. `None` does not save.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        InvalidInput: No eigenvalues, unknown suffix or no such folder.
        MissingExtra: matplotlib is not installed.

    Example:
        >>> import numpy as np
        >>> from foretrain.report import plot_spectrum
        >>> k = np.arange(1, 101)
        >>> len(plot_spectrum({"eigenvalues": k**-1.5, "target_power": k**-0.5, "head": 30}).axes)
        2
    """
    target = target_path(path, "plot_spectrum")
    table = read_spectrum(spectrum)
    figure = new_figure("plot_spectrum", 7.2 if table.power is not None else 4.2, 3.2)
    panels = figure.subplots(1, 2 if table.power is not None else 1, squeeze=False)[0]
    blue, orange = distinct(2)
    _panel(panels[0], table, table.eigenvalues, blue, "eigenvalue", 1.4)
    if table.power is not None:
        for values, colour, label in ((table.naive, "#8791a0", "same points"), (table.cross, orange, "fresh points")):
            if values is not None:
                # One value for each single mode, also where the table's tail is in bins.
                place, mean = log_bins(np.arange(1.0, len(values) + 1), values)
                panels[1].plot(place, mean, "o", ms=2.6, color=colour, mfc="white", mew=0.8, label=label, zorder=2)
        _panel(panels[1], table, table.power, orange, "target power per mode", 0.5)
    figure.suptitle(" · ".join(fact_words(f) for f in table.facts), fontsize=8, color=INK["light"])
    return save(figure, target)


def read_spectrum(spectrum: Mapping[str, Any]) -> SpectrumTable:
    """The table in one form, whichever parts of it are given.

    Raises:
        InvalidInput: No eigenvalues, or lengths that do not match.
    """
    known = {str(k): v for k, v in spectrum.items() if v is not None}
    if "eigenvalues" not in known:
        raise InvalidInput(
            f"plot_spectrum: expected a table with 'eigenvalues', got {', '.join(map(repr, known)) or 'an empty one'}."
        )
    eigenvalues = _array(known["eigenvalues"])
    if "k" in known:
        k = _array(known["k"])
    elif "multiplicity" in known:
        multiplicity = _array(known["multiplicity"])
        k = np.cumsum(multiplicity) - (multiplicity - 1) / 2
    else:
        k = np.arange(1, eigenvalues.size + 1, dtype=np.float64)
    power = eigenvalues * _array(known["target_power"]) if "target_power" in known else None
    if k.shape != eigenvalues.shape:
        raise InvalidInput(f"plot_spectrum(k): expected {eigenvalues.size} values, one for each mode, got {k.size}.")
    facts = []
    for name in ("capacity", "source", "noise", "unresolved", "universality"):
        if name in known:
            values = np.atleast_1d(_array(known[name]))
            low, high = (float(values[1]), float(values[2])) if values.size >= 3 else (np.nan, np.nan)
            facts.append((name, float(values[0]), low, high))
    head, fit = _first(known, _HEAD), known.get("fit_range")
    naive, cross = (_first(known, names) for names in (_NAIVE, _CROSS))
    return SpectrumTable(
        k,
        eigenvalues,
        power,
        None if naive is None else _array(naive),
        None if cross is None else _array(cross),
        None if head is None else int(head),
        None if fit is None else (float(fit[0]), float(fit[1])),
        tuple(facts),
    )


def log_bins(
    k: Float[np.ndarray, " mode"], values: Float[np.ndarray, " mode"]
) -> tuple[Float[np.ndarray, " bin"], Float[np.ndarray, " bin"]]:
    """Means over bins of equal width in log k, at the bins' mean places; single modes where they are sparse."""
    edges = np.floor(_BINS_PER_DECADE * np.log10(np.maximum(k, 1.0)))
    places, means = [], []
    for edge in np.unique(edges):
        inside = (edges == edge) & np.isfinite(values)
        if inside.any() and values[inside].mean() > 0:
            places.append(np.exp(np.log(k[inside]).mean()))
            means.append(values[inside].mean())
    return np.array(places), np.array(means)


def fact_words(fact: tuple[str, float, float, float]) -> str:
    """An exponent with its interval: `capacity 1.21 (1.18 to 1.24)`."""
    name, value, low, high = fact
    interval = f" ({show(low)} to {show(high)})" if np.isfinite(low) and np.isfinite(high) else ""
    return f"{name} {show(value)}{interval}"


def _array(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)


def _first(table: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((table[n] for n in names if n in table), None)


def _panel(axes: Any, table: SpectrumTable, values: np.ndarray, colour: str, title: str, weight: float) -> None:
    style(axes)
    head = table.head if table.head is not None else int(table.k[-1])
    inside = table.k <= head
    positive = np.where(values > 0, values, np.nan)
    axes.plot(table.k[inside], positive[inside], color=colour, lw=weight, label="measured", zorder=3)
    if not inside.all():
        axes.plot(table.k[~inside], positive[~inside], color=colour, lw=1.2, ls="--", label="extended", zorder=3)
        axes.axvline(head, color="#8791a0", lw=0.7, ls=":")
    if table.fit_range is not None:
        axes.axvspan(*table.fit_range, color=colour, alpha=0.08, lw=0, label="fit range", zorder=0)
    axes.set_xscale("log")
    if np.isfinite(positive).any():
        axes.set_yscale("log")
    axes.set_xlabel("mode k", fontsize=8, color=INK["light"])
    axes.set_title(title, fontsize=8, fontweight="bold", loc="left", color=INK["light"])
    axes.legend(fontsize=6.5, frameon=False, labelcolor=INK["light"], loc="lower left")
