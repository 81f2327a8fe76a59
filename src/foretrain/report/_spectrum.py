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
        multiplicity: Number of modes that each value stands for; need not be whole.
        eigenvalues: Of the kernel operator.
        power: Target power of each mode, eigenvalue times `target_power`.
        naive: Power by the Gram matrix's own eigenvectors.
        cross: Power by two disjoint halves of the data; unbiased, so single values may be negative.
        head: Number of modes that were measured one by one.
        fit_range: First and last mode of the fit; measured in bins up to the last, extended beyond it.
        facts: Exponents and noise as (name, value, low, high); low and high may be NaN.
    """

    k: Float[np.ndarray, " mode"]
    multiplicity: Float[np.ndarray, " mode"]
    eigenvalues: Float[np.ndarray, " mode"]
    power: Float[np.ndarray, " mode"] | None
    naive: Float[np.ndarray, " head"] | None
    cross: Float[np.ndarray, " head"] | None
    head: int | None
    fit_range: tuple[float, float] | None
    facts: tuple[tuple[str, float, float, float], ...]

    @property
    def resolved(self) -> float:
        """The last mode that was measured; all of them where nothing is said."""
        ends = [v for v in (self.head, self.fit_range[1] if self.fit_range else None) if v is not None]
        return float(max(ends, default=self.k[-1]))


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """One line or set of points of a panel: `kind` is `line`, `dash` or `points`, `colour` `blue`, `orange` or `grey`."""

    label: str
    kind: str
    colour: str
    x: np.ndarray
    y: np.ndarray


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
    drawn = spectrum_panels(table)
    panels = figure.subplots(1, len(drawn), squeeze=False)[0]
    for axes, (title, series) in zip(panels, drawn, strict=True):
        _panel(axes, table, title, series)
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
    multiplicity = _array(known["multiplicity"]) if "multiplicity" in known else np.ones_like(eigenvalues)
    # A value that stands for several modes is drawn at the middle of their places.
    k = _array(known["k"]) if "k" in known else np.cumsum(multiplicity) - (multiplicity - 1) / 2
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
        multiplicity,
        eigenvalues,
        power,
        None if naive is None else _array(naive),
        None if cross is None else _array(cross),
        None if head is None else int(head),
        None if fit is None else (float(fit[0]), float(fit[1])),
        tuple(facts),
    )


def spectrum_panels(table: SpectrumTable) -> list[tuple[str, list[Series]]]:
    """Title and series of every panel, lines first; without target power there is one panel."""
    panels = [("Eigenvalues of the kernel", _split(table, table.k, table.eigenvalues, "measured", "blue"))]
    if table.power is None:
        return panels
    place, mean = log_bins(table.k, table.power, table.multiplicity)
    series = _split(table, place, mean, "used by the theory", "orange")
    for values, label, colour in (
        (table.naive, "same points (biased)", "grey"),
        (table.cross, "fresh points", "orange"),
    ):
        if values is not None:
            # One value for each single mode, also where the table's tail is in bins.
            modes = np.arange(1.0, len(values) + 1.0)
            series.append(Series(label, "points", colour, *log_bins(modes, values, np.ones_like(modes))))
    return [*panels, ("Target power per mode", series)]


def log_bins(
    k: Float[np.ndarray, " mode"], values: Float[np.ndarray, " mode"], weights: Float[np.ndarray, " mode"]
) -> tuple[Float[np.ndarray, " bin"], Float[np.ndarray, " bin"]]:
    """Weighted means over bins of equal width in log k, at the bins' mean places; single modes where they are sparse.

    Bins whose mean is not positive are left out.
    """
    edges = np.floor(_BINS_PER_DECADE * np.log10(np.maximum(k, 1.0)))
    places, means = [], []
    for edge in np.unique(edges):
        inside = (edges == edge) & np.isfinite(values) & (weights > 0)
        if inside.any():
            mean = np.average(values[inside], weights=weights[inside])
            if mean > 0:
                places.append(np.exp(np.average(np.log(k[inside]), weights=weights[inside])))
                means.append(mean)
    return np.array(places), np.array(means)


def _split(table: SpectrumTable, x: np.ndarray, y: np.ndarray, label: str, colour: str) -> list[Series]:
    """The measured part as a line and what is beyond as a dashed one that begins where the line ends."""
    kept = np.isfinite(y) & (y > 0)
    x, y = x[kept], y[kept]
    measured = int(np.sum(x <= table.resolved))
    parts = [Series(label, "line", colour, x[:measured], y[:measured])]
    if measured < x.size:
        start = max(measured - 1, 0)
        parts.append(Series("extended", "dash", colour, x[start:], y[start:]))
    return parts


def fact_words(fact: tuple[str, float, float, float]) -> str:
    """An exponent with its interval: `capacity 1.21 (1.18 to 1.24)`."""
    name, *numbers = fact
    value, low, high = (show(float(f"{v:.3g}")) for v in numbers)
    return f"{name} {value} ({low} to {high})" if np.isfinite(fact[2]) and np.isfinite(fact[3]) else f"{name} {value}"


def _array(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)


def _first(table: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((table[n] for n in names if n in table), None)


def _panel(axes: Any, table: SpectrumTable, title: str, series: list[Series]) -> None:
    style(axes)
    blue, orange = distinct(2)
    for s in series:
        colour = {"blue": blue, "orange": orange, "grey": "#8791a0"}[s.colour]
        if s.kind == "points":
            axes.plot(s.x, s.y, "o", ms=2.6, color=colour, mfc="white", mew=0.8, label=s.label, zorder=2)
        else:
            axes.plot(s.x, s.y, color=colour, lw=1.2, ls="--" if s.kind == "dash" else "-", label=s.label, zorder=3)
    if table.head is not None and table.head < table.k[-1]:
        axes.axvline(table.head, color="#8791a0", lw=0.7, ls=":", label=f"head, {table.head} modes")
    if table.fit_range is not None:
        axes.axvspan(*table.fit_range, color=blue, alpha=0.08, lw=0, label="fit range", zorder=0)
    axes.set_xscale("log")
    if any(s.x.size for s in series):
        axes.set_yscale("log")
    axes.set_xlabel("mode k", fontsize=8, color=INK["light"])
    axes.set_title(title, fontsize=8, fontweight="bold", loc="left", color=INK["light"])
    axes.legend(fontsize=6.5, frameon=False, labelcolor=INK["light"], loc="lower left")
