"""Theory and training side by side on one grid of plain arrays: what every figure and table of this room is made from."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain.curves import Comparison, LearningCurves
from foretrain.errors import InvalidInput

LOSSES = ("test_loss", "train_loss")
# A sweep of more learning rates than this is looked at over the rate, unless there are as many times.
_FEW_RATES = 4
# The first of these that varies gives the colour.
_COLOURS = ("width", "width_ratio", "richness")
# Without time, the first of these that varies becomes the horizontal axis.
_HORIZONTAL = ("time", "samples", "width", "ridge", "learning_rate")
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

# Losses below this share of the largest are decided by single draws: theory gives the typical value, not their mean.
SMALLEST_SHARE = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class Quantity:
    """One loss over the grid, last axis horizontal; NaN where a part has no value.

    Args:
        theory: Predicted.
        theory_error: Error estimate of the prediction's own computation.
        measured: Mean over seeds of the trained networks.
        stderr: Its standard error.
        error: theory / measured - 1.
        z: (theory - measured) in standard errors.
    """

    theory: Float[np.ndarray, "*axes horizontal"]
    theory_error: Float[np.ndarray, "*axes horizontal"]
    measured: Float[np.ndarray, "*axes horizontal"]
    stderr: Float[np.ndarray, "*axes horizontal"]
    error: Float[np.ndarray, "*axes horizontal"]
    z: Float[np.ndarray, "*axes horizontal"]

    @property
    def noise(self) -> Float[np.ndarray, "*axes horizontal"]:
        """Seed noise relative to the measured mean: one standard error."""
        with np.errstate(all="ignore"):
            return self.stderr / np.abs(self.measured)

    @property
    def excess(self) -> Float[np.ndarray, "*axes horizontal"]:
        """How far the error reaches beyond two standard errors of the measured mean; 0 inside them."""
        noise = np.where(np.isfinite(self.noise), self.noise, 0.0)
        return np.maximum(np.abs(self.error) - 2 * noise, 0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """Losses on a common grid.

    Args:
        axes: Names of the axes besides the horizontal one.
        horizontal: Name of the horizontal axis; `""` when a single point is all there is.
        coords: Sorted values of every axis.
        quantities: The losses by name.
    """

    axes: tuple[str, ...]
    horizontal: str
    coords: Mapping[str, np.ndarray]
    quantities: Mapping[str, Quantity]

    @property
    def x(self) -> np.ndarray:
        """Values of the horizontal axis."""
        return self.coords[self.horizontal]

    @property
    def main(self) -> str:
        """The quantity that headlines speak of."""
        return next(iter(self.quantities))

    def roles(self) -> tuple[str | None, str | None, tuple[str, ...]]:
        """The axes for colour, for panels, and the rest; axes with one entry come last."""
        varied = [a for a in self.axes if len(self.coords[a]) > 1]
        ranked = varied + [a for a in self.axes if a not in varied]
        preferred = [a for a in _COLOURS if a in varied]
        colour = (preferred or ranked or [None])[0]
        rest = [a for a in ranked if a != colour]
        panels = "samples" if "samples" in rest and "samples" in varied else (rest[0] if rest else None)
        return colour, panels, tuple(a for a in rest if a != panels)

    def label(self, index: tuple[int, ...]) -> str:
        """Words for one entry of the axes, such as `width 64, samples 128`."""
        return ", ".join(f"{words(a)} {show(self.coords[a][i])}" for a, i in zip(self.axes, index, strict=True))


def comparison_grid(comparison: Comparison) -> Grid:
    """The losses that theory and training share, on the union of their coordinates."""
    names = [n for n in _losses(comparison.theory) if n in comparison.training]
    if not names:
        raise InvalidInput("report: theory and training share no loss; compare results of the same problem.")
    return _grid(names, comparison.theory, comparison.training, comparison.error)


def curves_grid(curves: LearningCurves) -> Grid:
    """One result on its own: as points with error bars where it was sampled, else as lines."""
    names = _losses(curves)
    if not names:
        raise InvalidInput(f"report: no curve to draw among {', '.join(curves.variables) or 'no variables'}.")
    sampled = any(f"{n}_stderr" in curves for n in names)
    return _grid(names, None if sampled else curves, curves if sampled else None, None)


def exponents(curves: LearningCurves, grid: Grid) -> Float[np.ndarray, "two *axes horizontal"] | None:
    """Local exponents of the loss in time, and what they tend to, on the grid of a result; `None` where it has none.

    Args:
        curves: The result.
        grid: What `curves_grid` made of it.
    """
    if "local_exponent" not in curves or grid.horizontal != "time":
        return None
    dims = (*grid.axes, grid.horizontal)
    return np.stack([_on_grid(curves, n, grid.coords, dims) for n in ("local_exponent", "asymptotic_exponent")])


def _losses(curves: LearningCurves) -> list[str]:
    known = [n for n in LOSSES if n in curves]
    if known:
        return known
    parts = ("_stderr", "_error", "_z")
    return [
        n
        for n, (dims, values) in curves.variables.items()
        if values.dtype.kind == "f" and not n.endswith(parts) and not {"mode", "example", "seed"} & set(dims)
    ]


def _grid(
    names: list[str], theory: LearningCurves | None, training: LearningCurves | None, error: LearningCurves | None
) -> Grid:
    sources = [c for c in (theory, training) if c is not None]
    dims: dict[str, None] = {}
    for curves in sources:
        for name in names:
            dims |= dict.fromkeys(curves.dims[name])
    coords = {d: _union([c.coords[d] for c in sources if d in c.coords]) for d in dims}
    horizontal = _horizontal(coords)
    if not horizontal:
        coords[""] = np.zeros(1)
    axes = tuple(d for d in dims if d != horizontal)

    def take(curves: LearningCurves | None, name: str) -> np.ndarray:
        return _on_grid(curves, name, coords, (*axes, horizontal))

    quantities = {
        name: Quantity(
            take(theory, name),
            take(theory, f"{name}_error"),
            take(training, name),
            take(training, f"{name}_stderr"),
            _resolved(take(error, name), take(training, name)),
            take(error, f"{name}_z"),
        )
        for name in names
    }
    return Grid(axes, horizontal, coords, quantities)


def _resolved(
    error: Float[np.ndarray, "*axes horizontal"], measured: Float[np.ndarray, "*axes horizontal"]
) -> Float[np.ndarray, "*axes horizontal"]:
    """Errors where the measured loss is not on its way to zero, as in `foretrain.studies.summarize`; NaN elsewhere."""
    largest = np.max(measured[np.isfinite(measured)], initial=0.0)
    with np.errstate(invalid="ignore"):
        return np.where(measured >= SMALLEST_SHARE * largest, error, np.nan)


def _union(parts: list[np.ndarray]) -> np.ndarray:
    """Values of one axis: numbers sorted, words in the order in which they come."""
    if all(p.dtype.kind in "iufb" for p in parts):
        return np.unique(np.concatenate([p.astype(np.float64) for p in parts]))
    return np.array(list(dict.fromkeys(str(v) for p in parts for v in p.tolist())))


def _horizontal(coords: Mapping[str, np.ndarray]) -> str:
    if "time" in coords:
        rates = coords.get("learning_rate", np.zeros(0))
        return "learning_rate" if len(rates) > max(_FEW_RATES, len(coords["time"])) else "time"
    numeric = [d for d, v in coords.items() if v.dtype.kind == "f" and len(v) > 1]
    preferred = [d for d in _HORIZONTAL if d in numeric]
    return (preferred or numeric or [""])[0]


def _on_grid(
    curves: LearningCurves | None, name: str, coords: Mapping[str, np.ndarray], dims: tuple[str, ...]
) -> np.ndarray:
    """A variable on the common grid, NaN where it has no value, repeated along axes that it does not have."""
    full = np.full([len(coords[d]) for d in dims], np.nan)
    if curves is None or name not in curves:
        return full
    own, values = curves.variables[name]
    if not set(own) <= set(dims):
        return full
    order = [d for d in dims if d in own]
    values = np.transpose(values, [own.index(d) for d in order]).astype(np.float64)
    where = []
    for d in dims:
        if d not in own:
            where.append(np.arange(len(coords[d])))
            continue
        positions = {v: i for i, v in enumerate(coords[d].tolist())}
        text = coords[d].dtype.kind == "U"
        where.append(np.array([positions[str(v) if text else float(v)] for v in curves.coords[d].tolist()]))
    shape = [len(coords[d]) if d not in own else values.shape[order.index(d)] for d in dims]
    expanded = values.reshape([values.shape[order.index(d)] if d in own else 1 for d in dims])
    full[np.ix_(*where)] = np.broadcast_to(expanded, shape)
    return full


def words(name: str) -> str:
    """An axis or variable name as a reader says it."""
    return str(name).replace("_", " ")


def show(value: Any) -> str:
    """A short form of a coordinate: `64`, `∞`, `10⁶`, `1.5·10⁻³`, `relu`."""
    if isinstance(value, (str, np.str_)):
        return str(value)
    number = float(value)
    if not math.isfinite(number):
        return "–" if math.isnan(number) else ("∞" if number > 0 else "−∞")
    if number == 0 or (1e-3 <= abs(number) < 1e5):
        return f"{number:.4g}".replace("-", "−") if abs(number) < 1e4 else f"{number:.0f}"
    mantissa, exponent = f"{number:.3g}".split("e") if "e" in f"{number:.3g}" else f"{number:.2e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    power = "10" + str(int(exponent)).translate(_SUPERSCRIPTS)
    return power if mantissa == "1" else f"{mantissa}·{power}".replace("-", "−")


def percent(value: float, *, signed: bool = False) -> str:
    """A relative error in percent with two significant digits: `1.4 %`, `+0.031 %`."""
    if not math.isfinite(value):
        return show(value)
    number = 100 * value
    size = abs(number)
    digits = 0 if size >= 10 or size == 0 else 1 if size >= 0.995 else 2 if size >= 0.0995 else 3
    text = f"{number:+.{digits}f}" if signed else f"{number:.{digits}f}"
    return ("< 0.001" if 0 < size < 5e-4 else text).replace("-", "−") + " %"


def plus_minus(value: float, stderr: float) -> str:
    """A mean with its standard error, both to the second digit of the error: `0.3113 ± 0.0032`."""
    if not (math.isfinite(value) and math.isfinite(stderr) and stderr > 0):
        return show(value)
    digits = 1 - math.floor(math.log10(stderr))
    if not 0 <= digits <= 6:
        return f"{show(value)} ± {show(float(f'{stderr:.2g}'))}"
    return f"{value:.{digits}f} ± {stderr:.{digits}f}".replace("-", "−")
