"""How to split compute between width and training time, with and without learned features."""

import math

import numpy as np
from jaxtyping import Float

from foretrain.errors import InvalidInput
from foretrain.limits.adaptive_linear._curves import flow_curves
from foretrain.limits.adaptive_linear._scene import Case
from foretrain.limits.linear import ComputeFrontier
from foretrain.tasks import PowerLawSpectrum, Spectrum

PER_OCTAVE = 3
# Interpolation points around the best width of the grid, and how far budgets are moved for the local exponents.
NEAR = 3
NUDGE = 0.1


def compute_optimal_frontier(
    spectrum: Spectrum | PowerLawSpectrum,
    compute,
    richness: float = 1.0,
    *,
    widths: tuple[float, float] | None = None,
    learning_rate: float = 1.0,
    batch_size: float = math.inf,
) -> ComputeFrontier:
    r"""Width and training time that minimize the test loss at fixed compute $C=Nt$, on the population.

    Curves are solved on a grid of three widths per octave and interpolated between them in $\log N$.

    Args:
        spectrum: what is learned, for example `PowerLaw(1.5, 0.5).spectrum()`.
        compute: budgets, width times time of the flow ($\eta$ times steps).
        richness: $\gamma$.
        widths: smallest and largest width considered; by default from 1 to a width that leaves ten units of the fastest time.
        learning_rate: $\eta$ of one-pass SGD, where `batch_size` is finite; its noise is that of a diffusion.
        batch_size: $B$; `inf` is gradient flow.

    Returns:
        The frontier with its local exponents; `interior` says where the best width lies inside of the grid.

    Raises:
        InvalidInput: Budgets, widths, richness or noise out of range.

    Example:
        >>> import numpy as np
        >>> from foretrain.limits.adaptive_linear import compute_optimal_frontier
        >>> from foretrain.tasks import PowerLaw
        >>> frontier = compute_optimal_frontier(PowerLaw(1.5, 0.5).spectrum(), [1e4], widths=(8, 512))
        >>> bool(frontier.interior[0]), bool(frontier.loss_exponent[0] < -0.3)
        (True, True)
    """
    budgets = np.atleast_1d(np.asarray(compute, float))
    if budgets.ndim != 1 or not np.all(np.isfinite(budgets) & (budgets > 0)):
        raise InvalidInput(
            f"compute_optimal_frontier(compute): expected a list of finite budgets > 0, got {compute!r}."
        )
    if not (math.isfinite(richness) and richness >= 0):
        raise InvalidInput(f"compute_optimal_frontier(richness): expected a finite number >= 0, got {richness!r}.")
    if not (learning_rate > 0 and batch_size > 0):
        raise InvalidInput(
            f"compute_optimal_frontier(learning_rate, batch_size): expected numbers > 0, got {learning_rate!r}, {batch_size!r}."
        )
    top = 1.0 if isinstance(spectrum, PowerLawSpectrum) else float(np.max(spectrum.eigenvalues))
    low, high = (1.0, float(budgets.max()) * top / 10.0) if widths is None else map(float, widths)
    if not 0 < low < high:
        raise InvalidInput(
            f"compute_optimal_frontier(widths): expected 0 < smallest < largest, got {low:g} and {high:g}; larger budgets "
            "leave more room."
        )
    octaves = math.ceil(PER_OCTAVE * math.log2(high / low))
    grid = np.linspace(math.log(low), math.log(high), max(octaves, 2 * NEAR) + 1)
    nudged = budgets[:, None] * np.exp(NUDGE * np.array([-1.0, 0.0, 1.0]))
    losses = _losses(spectrum, grid, nudged, richness, learning_rate, batch_size)
    found = np.array([[_minimum(grid, column) for column in rows] for rows in np.moveaxis(losses, 0, -1)])
    place, best, inside = found[..., 0], found[..., 1], found[..., 2] > 0
    width = np.exp(place[:, 1])
    return ComputeFrontier(
        budgets,
        width,
        budgets / width,
        np.exp(best[:, 1]),
        (best[:, 2] - best[:, 0]) / (2.0 * NUDGE),
        (place[:, 2] - place[:, 0]) / (2.0 * NUDGE),
        np.all(inside, axis=1),
    )


def _losses(spectrum, grid, budgets, richness, rate, batch) -> Float[np.ndarray, "width budget nudge"]:
    """Logarithms of the test losses of every width at its share of every budget."""
    widths = np.exp(grid)
    rate = rate if math.isfinite(batch) else math.nan
    cases = [Case(spectrum, float(width), math.inf, 0.0, richness, rate, batch) for width in widths]
    times = budgets.ravel() / widths[:, None] / cases[0].clock
    return np.log(flow_curves(cases, times).test).reshape(len(grid), *budgets.shape)


def _minimum(x, values) -> tuple[float, float, bool]:
    """Minimum of a smooth function on a grid, by a polynomial through the points around the smallest value."""
    best = int(np.argmin(values))
    first = min(max(best - NEAR, 0), len(x) - 2 * NEAR - 1)
    near = slice(first, first + 2 * NEAR + 1)
    if best in (0, len(x) - 1):
        return float(x[best]), float(values[best]), False
    curve = np.polynomial.Chebyshev.fit(x[near], values[near], 2 * NEAR)
    roots = curve.deriv().roots()
    real = np.real(roots[np.abs(np.imag(roots)) < 1e-9])
    inside = real[(real >= x[best - 1]) & (real <= x[best + 1])]
    at = inside[np.argmin(curve(inside))] if inside.size else x[best]
    return float(at), float(curve(at)), True
