"""What the errors say: the headline, a scoreboard, and where theory misses, in sentences that carry their evidence."""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool

from foretrain.curves import Comparison
from foretrain.report._grid import Grid, Quantity, percent, plus_minus, show, words

_EARLY = (
    "Early the loss is still close to the total power of the targets, whatever the spectrum. An error of one sign there "
    "says that the networks are tested on a population other than the one the spectrum was measured on: a finite pool of "
    "examples, another share of the classes, a test file that is harder than the training file."
)
_LATE = (
    "Late losses hang on the small eigenvalues, where the spectrum is extended rather than measured, and on the power that "
    "was counted as label noise; corrections for finite sizes grow with time, too. Theory {side} the measurement can come "
    "from any of them: errors that stay when sizes grow are the spectrum's."
)
_SIZE = (
    "The prediction is the leading order for large sizes; what is left over falls like one over the size. An error that "
    "shrinks as sizes grow is that correction."
)
_GAIN = (
    "Theory leaves out terms of relative order one over the batch, which a large gain magnifies, and single runs scatter more "
    "the closer it comes to 1. Errors of the smallest batches that fall with the learning rate are that."
)
_LARGE_GAIN = 0.2
_PEAK = (
    "Where width and samples meet, single networks differ most from each other and means over few seeds are slow to settle; "
    "finite-size corrections are largest there as well."
)


@dataclasses.dataclass(frozen=True)
class Score:
    """How far theory is from the measurement for one loss.

    Args:
        name: The loss.
        points: Points that could be compared: both finite, measured above zero.
        left_out: Points that were trained but could not be compared.
        median: Median of |theory / measured - 1|.
        worst: Its maximum.
        beyond: Maximum of the same less two standard errors of the measured mean (0 inside them).
        noise: Median of that standard error relative to the mean; NaN without seeds.
        within: Share of the points with |z| <= 2; NaN without seeds.
        where: The point of the worst error, in words.
    """

    name: str
    points: int
    left_out: int
    median: float
    worst: float
    beyond: float
    noise: float
    within: float
    where: str


@dataclasses.dataclass(frozen=True)
class Finding:
    """One observation: what is seen, the numbers, and what such a pattern usually means (may be empty)."""

    what: str
    evidence: str
    meaning: str = ""


def score(grid: Grid, name: str) -> Score:
    """The numbers of one loss; NaN where nothing could be compared."""
    quantity = grid.quantities[name]
    usable = _usable(quantity)
    trained = ~np.isnan(quantity.measured) | np.isfinite(quantity.stderr)
    count = int(usable.sum())
    left_out = int(trained.sum()) - int((trained & usable).sum())
    if not count:
        return Score(name, 0, left_out, math.nan, math.nan, math.nan, math.nan, math.nan, "")
    size = np.where(usable, np.abs(quantity.error), -1.0)
    index = tuple(int(i) for i in np.unravel_index(np.argmax(size), size.shape))
    sampled = usable & np.isfinite(quantity.noise)
    judged = usable & np.isfinite(quantity.z)
    return Score(
        name,
        count,
        left_out,
        float(np.median(size[usable])),
        float(size.max()),
        float(quantity.excess[usable].max()),
        float(np.median(quantity.noise[sampled])) if sampled.any() else math.nan,
        float(np.mean(np.abs(quantity.z[judged]) <= 2)) if judged.any() else math.nan,
        place(grid, index),
    )


def place(grid: Grid, index: tuple[int, ...]) -> str:
    """One point of the grid in words, horizontal axis last."""
    last = f"{words(grid.horizontal)} {show(grid.x[index[-1]])}" if grid.horizontal else ""
    return ", ".join(part for part in (grid.label(index[:-1]), last) if part)


def findings(grid: Grid, comparison: Comparison) -> list[Finding]:
    """Where and how theory misses the measurement of the first loss."""
    quantity = grid.quantities[grid.main]
    usable = _usable(quantity)
    found = [f for f in (_mishaps(comparison, "theory"), _mishaps(comparison, "training")) if f]
    if not usable.any():
        return found
    found += [f for f in (_calibration(quantity, usable), _sides(quantity, usable)) if f]
    found += _ends(grid, quantity, usable)
    found += [f for f in (_sizes(grid, quantity, usable), _peak(grid, quantity, usable), _gain(comparison)) if f]
    return found


def _gain(comparison: Comparison) -> Finding | None:
    """How close minibatches are to instability, and what that does to the theory."""
    if "sgd_gain" not in comparison.theory:
        return None
    dims = comparison.theory.dims["sgd_gain"]
    gain = np.asarray(comparison.theory.values("sgd_gain"))
    largest = tuple(int(i) for i in np.unravel_index(np.argmax(gain), gain.shape))
    where = ", ".join(f"{words(d)} {show(comparison.theory.coords[d][i])}" for d, i in zip(dims, largest, strict=True))
    spread = show(float(gain.max())) if gain.size == 1 else f"{show(float(gain.min()))} to {show(float(gain.max()))}"
    return Finding(
        "How much of its noise SGD feeds back into itself",
        f"The gain is {spread}{f' (largest at {where})' if where else ''}; at 1 training diverges.",
        _GAIN if gain.max() > _LARGE_GAIN else "",
    )


def worst_curves(grid: Grid, count: int = 6) -> list[dict[str, str]]:
    """The worst point of each of the curves with the largest errors beyond seed noise, as rows of text."""
    quantity = grid.quantities[grid.main]
    usable = _usable(quantity)
    rank = np.where(usable, quantity.excess + 1e-6 * np.abs(quantity.error), -1.0)
    flat = rank.reshape(-1, rank.shape[-1])
    rows = []
    for curve in np.argsort(-flat.max(axis=1), kind="stable")[:count]:
        if flat[curve].max() < 0:
            break
        at = (*np.unravel_index(curve, rank.shape[:-1]), np.argmax(flat[curve]))
        axes = {words(a): show(grid.coords[a][i]) for a, i in zip(grid.axes, at, strict=False)}
        x = {words(grid.horizontal): show(grid.x[at[-1]])} if grid.horizontal else {}
        rows.append(
            axes
            | x
            | {
                "predicted": show(quantity.theory[at]),
                "trained ± s.e.": plus_minus(quantity.measured[at], quantity.stderr[at]),
                "error": percent(quantity.error[at], signed=True),
                "beyond noise": percent(quantity.excess[at]),
                "z": f"{quantity.z[at]:+.1f}".replace("-", "−") if np.isfinite(quantity.z[at]) else "–",
            }
        )
    return rows


def _usable(quantity: Quantity) -> Bool[np.ndarray, "*grid"]:
    with np.errstate(invalid="ignore"):
        return np.isfinite(quantity.error) & (quantity.measured > 0)


def _mishaps(comparison: Comparison, part: str) -> Finding | None:
    curves = comparison.groups()[part]
    status = curves.values("status") if "status" in curves else np.array("ok")
    names, counts = np.unique(status[status != "ok"], return_counts=True)
    said = "; ".join(curves.messages)
    if not names.size:
        return Finding(f"A word of caution from the {part}", said) if said else None
    counted = ", ".join(f"{n} {name}" for n, name in zip(counts.tolist(), names.tolist(), strict=True))
    return Finding(f"Not every point of the {part} has a value", f"Of {status.size} curves: {counted}.", said)


def _calibration(quantity: Quantity, usable: np.ndarray) -> Finding | None:
    z = np.abs(quantity.z[usable & np.isfinite(quantity.z)])
    if not z.size:
        return None
    share = np.mean(z <= 2)
    rms = float(np.sqrt(np.mean(z**2)))
    return Finding(
        "Seed noise explains most of the errors" if share >= 0.9 else "Errors are larger than seed noise alone",
        f"{100 * share:.0f} % of the points lie within two standard errors (95 % if theory were exact and seeds many); "
        f"the root mean square of z is {rms:.1f}. Points along one curve share their seeds, so they miss together.",
    )


def _sides(quantity: Quantity, usable: np.ndarray) -> Finding:
    error = quantity.error[usable]
    above = np.mean(error > 0)
    side = "above" if above > 0.65 else "below" if above < 0.35 else "on both sides of"
    return Finding(
        f"Theory lies {side} the measurement",
        f"It is above at {100 * above:.0f} % of the points; the median of the signed error is {percent(float(np.median(error)), signed=True)}.",
    )


def _ends(grid: Grid, quantity: Quantity, usable: np.ndarray) -> list[Finding]:
    """Biases of one sign in the first and in the last third of the horizontal axis, where seed noise does not hide them."""
    if grid.horizontal != "time" or len(grid.x) < 6:
        return []
    thirds = np.array_split(np.arange(len(grid.x)), 3)
    found = []
    for name, part, meaning in (("early", thirds[0], _EARLY), ("late", thirds[2], _LATE)):
        inside = np.zeros_like(usable)
        inside[..., part] = usable[..., part]
        error = quantity.error[inside]
        if not error.size:
            continue
        above = float(np.mean(error > 0))
        middle = float(np.median(error))
        noise = quantity.noise[inside]
        usual = float(np.nanmedian(noise)) if np.isfinite(noise).any() else 0.0
        if max(above, 1 - above) >= 0.8 and abs(middle) > max(usual, 1e-3):
            side = "above" if middle > 0 else "below"
            found.append(
                Finding(
                    f"A bias {name}: theory is {side} the measurement",
                    f"From time {show(grid.x[part[0]])} to {show(grid.x[part[-1]])} it is {side} at "
                    f"{100 * max(above, 1 - above):.0f} % of the points, by {percent(abs(middle))} in the median.",
                    meaning.format(side=side),
                )
            )
    return found


def _sizes(grid: Grid, quantity: Quantity, usable: np.ndarray) -> Finding | None:
    found = []
    for axis in ("width", "samples"):
        if axis not in grid.axes:
            continue
        along = grid.axes.index(axis)
        size = np.moveaxis(np.where(usable, np.abs(quantity.error), np.nan), along, 0)
        known = [i for i in range(size.shape[0]) if np.isfinite(size[i]).any() and np.isfinite(grid.coords[axis][i])]
        if len(known) >= 2:
            low, high = known[0], known[-1]
            found.append((axis, low, high, float(np.nanmedian(size[low])), float(np.nanmedian(size[high]))))
    shrinking = [f for f in found if f[3] > 1.5 * f[4] and f[3] > 2e-3]
    if not shrinking:
        return None
    evidence = "; ".join(
        f"the median is {percent(a)} at {axis} {show(grid.coords[axis][low])} and {percent(b)} at {show(grid.coords[axis][high])}"
        for axis, low, high, a, b in shrinking
    )
    return Finding("Errors shrink as sizes grow", f"{evidence[0].upper()}{evidence[1:]}.", _SIZE)


def _peak(grid: Grid, quantity: Quantity, usable: np.ndarray) -> Finding | None:
    if not {"width", "samples"} <= set(grid.axes):
        return None

    def along(axis: str) -> np.ndarray:
        shape = [1] * usable.ndim
        shape[grid.axes.index(axis)] = -1
        return grid.coords[axis].astype(np.float64).reshape(shape)

    with np.errstate(all="ignore"):
        ratio = along("width") / along("samples")
    near = np.broadcast_to((ratio >= 0.5) & (ratio <= 2.0), usable.shape)
    close, far = np.abs(quantity.error[usable & near]), np.abs(quantity.error[usable & ~near])
    if not close.size or not far.size or np.median(close) <= 1.3 * np.median(far):
        return None
    return Finding(
        "Errors are largest where width and samples meet",
        f"The median is {percent(float(np.median(close)))} where they are within a factor of two of each other and "
        f"{percent(float(np.median(far)))} elsewhere.",
        _PEAK,
    )
