r"""What the parabola misses: where the curves that all sizes share have their minimum, seen closely.

A parabola over a factor of 6 lies beside the minimum of a curve that has a kink there, at the same distance at every size. That leaves the
drift alone, but not the optimum itself. The rule:

1. Points of all sizes are laid over one another, $d=x-x_{\rm parabola}$, which makes a finer grid than any size has. A cubic without
   constant, and one height for every size, are fitted by weighted least squares. Its minimum is the shift that all optima share.
2. Windows are the parabola's and fractions of it, each around the minimum that the one before gave. No shift at all stands if all windows agree with it within two standard errors, else the
   widest window that all narrower ones agree with is taken: a wide window is precise, a narrow one has less misfit.
3. Its error is that of the fit, and half the distance to the minimum of a parabola in the narrowest window: what the form that is fitted can do.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from foretrain.studies._transfer_optimum import BRACKETED, REACH, compressed, run_of, weights_of

_WINDOWS = (1.0, 0.7, 0.5, 0.35)
_FREEDOM = 1.0
_SURE = 2.0


@dataclasses.dataclass(frozen=True)
class Shift:
    """How far the minimum lies from the vertex of the parabola, at all sizes alike.

    Args:
        value: Logarithm of the factor.
        variance: Its variance.
        freedom: Degrees of freedom of `variance`.
    """

    value: float
    variance: float
    freedom: float


@dataclasses.dataclass(frozen=True)
class _Minimum:
    place: float
    variance: float
    freedom: float


def common_shift(
    x: Float[np.ndarray, " swept"],
    curves: Float[np.ndarray, "sizes swept"],
    places: Float[np.ndarray, " sizes"],
    statuses: list[str],
) -> Shift | None:
    """The shift that all sizes share; `None` where there are too few points to tell.

    Args:
        x: Logarithms of the swept values, ascending.
        curves: Logarithms of losses; not finite where the run diverged.
        places: Vertices of the parabolas.
        statuses: Their statuses; only bracketed ones count.
    """
    kept = [(y, place) for y, place, status in zip(curves, places, statuses, strict=True) if status == BRACKETED]
    if not kept:
        return None
    found, plain = _closer(x, kept, 3), _closer(x, kept, 2)
    if not found:
        return None
    candidates = [_Minimum(0.0, 0.0, found[0].freedom), *found]
    chosen = next(m for i, m in enumerate(candidates) if all(_agree(m, n) for n in candidates[i + 1 :]))
    form = (found[-1].place - plain[-1].place) / 2 if plain else 0.0
    return Shift(chosen.place, chosen.variance + form**2, chosen.freedom)


def _agree(wide: _Minimum, narrow: _Minimum) -> bool:
    return abs(wide.place - narrow.place) <= _SURE * math.sqrt(narrow.variance)


def _closer(x: Float[np.ndarray, " swept"], kept: list[tuple[np.ndarray, float]], degree: int) -> list[_Minimum]:
    """The minimum in every window that shows one, from the widest on, each window around the minimum before."""
    found: list[_Minimum] = []
    for share in _WINDOWS:
        centre = found[-1].place if found else 0.0
        around = [(y, place + centre) for y, place in kept]
        minimum = _minimum(x, around, share * REACH, degree)
        if minimum is not None:
            found.append(dataclasses.replace(minimum, place=minimum.place + centre))
    return found


def _minimum(
    x: Float[np.ndarray, " swept"], kept: list[tuple[np.ndarray, float]], width: float, degree: int
) -> _Minimum | None:
    """The minimum of one polynomial through the points of all sizes, each with a height of its own; `None` without one."""
    apart, heights, size, weights = [], [], [], []
    for number, (y, place) in enumerate(kept):
        first, _, last = run_of(y)
        points = x[first : last + 1]
        weight = weights_of(points, place, width)
        used = weight > 0
        apart.append(points[used] - place)
        heights.append(compressed(y[first : last + 1])[used])
        size.append(np.full(used.sum(), number))
        weights.append(weight[used])
    counted = sum(float(w.sum() ** 2 / (w**2).sum()) for w in weights)
    d, z, number, w = (np.concatenate(parts) for parts in (apart, heights, size, weights))
    design = np.concatenate([np.eye(len(kept))[number], np.stack([d**p for p in range(1, degree + 1)], axis=1)], axis=1)
    freedom = counted - design.shape[1]
    if freedom < _FREEDOM:
        return None
    try:
        inverse = np.linalg.inv((design * w[:, None]).T @ design)
    except np.linalg.LinAlgError:
        return None
    coefficients = inverse @ (design * w[:, None]).T @ z
    residuals = z - design @ coefficients
    scatter = float((w * residuals**2).sum() / w.sum()) * counted / freedom
    spread = scatter * inverse @ ((design * w[:, None] ** 2).T @ design) @ inverse
    slope = np.polynomial.Polynomial([0.0, *coefficients[len(kept) :]]).deriv()
    roots = [float(r.real) for r in slope.roots() if abs(r.imag) < 1e-9 and slope.deriv()(r.real) > 0]
    place = min(roots, key=abs, default=math.inf)
    if abs(place) > width / 2:  # a polynomial far from its own points says little
        return None
    along = np.array([p * place ** (p - 1) for p in range(1, degree + 1)]) / float(slope.deriv()(place))
    return _Minimum(place, float(along @ spread[len(kept) :, len(kept) :] @ along), freedom)
