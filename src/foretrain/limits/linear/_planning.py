r"""Plans: when to stop, how to split a compute budget between size and time, what an ensemble buys."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Float

from foretrain.errors import InvalidInput
from foretrain.limits.linear import _contour as contour
from foretrain.limits.linear._curves import linear_curves
from foretrain.limits.linear._dynamics import Dynamics, Flow
from foretrain.limits.linear._measure import SpectralMeasure, node_size
from foretrain.limits.linear._programs import open_program

# Interpolation points of the last bracket, and how narrow it is in the logarithm: the minimum is then good to 1e-8.
REFINE_POINTS = 17
REFINE_WIDTH = 0.35
PROBLEMS_PER_CALL = 32


@dataclasses.dataclass(frozen=True)
class OptimalStopping:
    """The best moment to stop.

    Attributes:
        time: time or step that minimizes the test loss; `inf` if training to the end is best.
        test_loss: the loss there.
        final_loss: the loss at the end of training.
    """

    time: float
    test_loss: float
    final_loss: float

    @property
    def at_end(self) -> bool:
        """Whether training to the end is best."""
        return bool(np.isinf(self.time))


def optimal_stopping(
    measure: SpectralMeasure, width, samples, noise=0.0, dynamics: Dynamics | None = None, last: float | None = None
) -> OptimalStopping:
    r"""The time that minimizes the test loss, to about eight digits (flows) or the exact step (discrete dynamics).

    A coarse logarithmic grid finds the basin of the global minimum, interpolation in it the minimum itself. Oscillations
    narrower than the grid (heavy ball with momentum close to 1) may hide a slightly better step.

    Args:
        measure: spectrum and target.
        width: $N$, `inf` allowed.
        samples: $P$, `inf` allowed.
        noise: variance of the label noise.
        dynamics: gradient flow by default.
        last: longest time considered before the end point; by default $10^{12}$ times the fastest time scale.

    Example:
        >>> import numpy as np
        >>> from foretrain.limits.linear import optimal_stopping, spectral_measure
        >>> best = optimal_stopping(spectral_measure([1.0], [1.0], [100.0]), np.inf, 200.0, noise=1.0)
        >>> best.test_loss < best.final_loss
        True
    """
    dynamics = Flow() if dynamics is None else dynamics
    fastest = 1.0 / float(np.max(measure.eigenvalues))

    def loss(times):
        return linear_curves(measure, times, width, samples, noise, dynamics).test[0, 0]

    final = float(loss([np.inf])[0])
    if dynamics.discrete:
        end = 1e12 if last is None else float(last)
        grid = np.unique(np.round(np.concatenate([np.arange(65), np.geomspace(65, max(end, 66.0), 55)])))
        time, value = _best_step(loss, grid[grid <= end])
    else:
        end = 1e12 * fastest if last is None else float(last)
        time, value = _best_time(loss, np.geomspace(1e-3 * fastest, end, 60))
        start = float(loss([0.0])[0])
        if start <= value:
            time, value = 0.0, start
    # The approach to the end may be monotone and slow: what rounding cannot tell apart counts as the end.
    if not value < final * (1.0 - 1e-10) - 1e-13 * float(np.sum(measure.signal)):
        time, value = np.inf, final
    return OptimalStopping(float(time), float(value), final)


def _best_time(loss, grid):
    values = loss(grid)
    best = int(np.nanargmin(values))
    low, high = np.log(grid[max(best - 1, 0)]), np.log(grid[min(best + 1, grid.size - 1)])
    x, value = _minimize(lambda x: loss(np.exp(x)), low, high)
    return (np.exp(x), value) if value <= values[best] else (grid[best], values[best])


def _best_step(loss, grid):
    """Zooms into the bracket of the best step until every integer in it has been seen."""
    while True:
        values = loss(grid)
        best = int(np.nanargmin(values))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, grid.size - 1)]
        if high - low <= 2 or (best in (0, grid.size - 1) and high - low <= 1):
            return grid[best], values[best]
        grid = np.unique(np.round(np.linspace(low, high, 65)))


def _minimize(function, low, high):
    """Minimum of a smooth function of a vector on [low, high]: shrink, then interpolate and take the root of the slope."""
    for _ in range(30):
        if high - low <= REFINE_WIDTH:
            break
        x = np.linspace(low, high, REFINE_POINTS)
        best = int(np.nanargmin(function(x)))
        low, high = x[max(best - 1, 0)], x[min(best + 1, x.size - 1)]
    series = np.polynomial.Chebyshev.interpolate(function_on(function), REFINE_POINTS - 1, domain=[low, high])
    roots = series.deriv().roots()
    inside = np.real(roots[(np.abs(np.imag(roots)) < 1e-9) & (np.real(roots) >= low) & (np.real(roots) <= high)])
    candidates = np.concatenate([[low, high], inside])
    values = series(candidates)
    best = int(np.argmin(values))
    return float(candidates[best]), float(values[best])


def function_on(function):
    """Adapts a function of ascending points to the descending ones that interpolation asks for."""

    def evaluate(x):
        order = np.argsort(x)
        result = np.empty_like(x)
        result[order] = function(x[order])
        return result

    return evaluate


@dataclasses.dataclass(frozen=True, eq=False)
class ComputeFrontier:
    r"""The best use of a compute budget $C=Nt$.

    Attributes:
        compute: $C$.
        width: the best $N$.
        time: the best $t=C/N$.
        test_loss: the loss reached.
        loss_exponent: local $d\log\mathcal L^\star/d\log C$.
        width_exponent: local $d\log N^\star/d\log C$; that of the time is one minus it.
        interior: whether the minimum lies inside the widths that were searched.
    """

    compute: Float[np.ndarray, " budget"]
    width: Float[np.ndarray, " budget"]
    time: Float[np.ndarray, " budget"]
    test_loss: Float[np.ndarray, " budget"]
    loss_exponent: Float[np.ndarray, " budget"]
    width_exponent: Float[np.ndarray, " budget"]
    interior: np.ndarray


def compute_optimal_frontier(
    measure: SpectralMeasure, compute, samples=np.inf, noise=0.0, widths: tuple[float, float] | None = None
) -> ComputeFrontier:
    r"""Width and training time of gradient flow that minimize the test loss at fixed compute $C=Nt$.

    Args:
        measure: spectrum and target.
        compute: budgets $C$, width times time.
        samples: $P$, `inf` allowed.
        noise: variance of the label noise.
        widths: smallest and largest width considered; by default from 1 to the width that leaves one unit of the
            fastest time.

    Returns:
        The frontier with its local exponents.

    Raises:
        InvalidInput: budgets that are not positive, or no room between the smallest and the largest width.
    """
    compute = np.atleast_1d(np.asarray(compute, float))
    if not np.all(np.isfinite(compute) & (compute > 0)):
        raise InvalidInput(f"compute_optimal_frontier(compute): expected finite budgets > 0, got {compute.min():g}.")
    top = float(np.max(measure.eigenvalues))
    low = np.full(compute.shape, 1.0 if widths is None else widths[0])
    high = compute * top if widths is None else np.full(compute.shape, float(widths[1]))
    if np.any(high <= low) or np.any(low <= 0):
        raise InvalidInput(
            f"compute_optimal_frontier(compute): expected budgets that leave widths between {low[0]:g} and their largest "
            f"value, got {compute[high <= low].min(initial=compute.min()):g}; give `widths`."
        )

    def solve(budget, low, high):
        def loss(x):
            return flow_losses_at(measure, budget * np.exp(-x), np.exp(x), samples, noise)

        grid = np.linspace(np.log(low), np.log(high), 33)
        best = int(np.argmin(loss(grid)))
        x, value = _minimize(loss, grid[max(best - 1, 0)], grid[min(best + 1, 32)])
        return x, value, 0 < best < 32

    rows = []
    step = 0.1
    for budget, lowest, highest in zip(compute, low, high, strict=True):
        x, value, interior = solve(budget, lowest, highest)
        # Neighbouring budgets give the exponents; their optimum is close to this one.
        around = [solve(budget * np.exp(d), np.exp(x - 1.0), np.exp(x + 1.0)) for d in (-step, step)]
        slopes = [(around[1][0] - around[0][0]) / (2 * step), np.log(around[1][1] / around[0][1]) / (2 * step)]
        rows.append((np.exp(x), budget * np.exp(-x), value, slopes[1], slopes[0], interior))
    width, time, loss, loss_slope, width_slope, interior = (np.array(column) for column in zip(*rows, strict=True))
    return ComputeFrontier(compute, width, time, loss, loss_slope, width_slope, interior)


def flow_losses_at(measure: SpectralMeasure, times, width, samples, noise=0.0) -> Float[np.ndarray, " point"]:
    """Test losses of gradient flow at points that each have their own time and sizes (all broadcast)."""
    times, width, samples, noise = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(value, float)) for value in (times, width, samples, noise))
    )
    z, a = contour.flow_points(times, contour.OPEN_POINTS)
    result = np.empty(times.size)
    with jax.enable_x64(True):
        nodes = jax.device_put(jax.tree.map(np.asarray, measure.pad(node_size(measure.nodes))))
        for begin in range(0, times.size, PROBLEMS_PER_CALL):
            index = np.minimum(np.arange(begin, begin + PROBLEMS_PER_CALL), times.size - 1)
            losses, good = open_program(
                nodes,
                z[index, None],
                a[index, None],
                1.0 / width[index],
                1.0 / samples[index],
                noise[index],
                1,
                ("both",),
            )
            values = np.where(np.asarray(good)[:, 0], np.asarray(losses)[:, 0, 0, 0], np.nan)
            piece = slice(begin, begin + PROBLEMS_PER_CALL)
            result[piece] = values[: times[piece].size]
    return result


def ensemble_loss(both, data, features=None, none=None, *, models=1, data_sets=1):
    r"""Loss of averaged predictors: `models` projections times `data_sets` data sets, all pairs trained.

    $$\frac{\mathcal L_{AD}}{E_AE_D}+\frac{(E_A-1)\mathcal L_D}{E_AE_D}+\frac{(E_D-1)\mathcal L_A}{E_AE_D}
      +\frac{(E_A-1)(E_D-1)}{E_AE_D}\mathcal L_\varnothing$$

    (docs/theory/random-features.md, ensembles). With one data set this is $\frac1E\mathcal L_{AD}+(1-\frac1E)\mathcal L_D$,
    and serves for train losses too.

    Args:
        both: $\mathcal L_{AD}$, the loss of one model.
        data: $\mathcal L_D$, correlation of two models on one data set.
        features: $\mathcal L_A$, of one projection on two data sets; needed for several data sets.
        none: $\mathcal L_\varnothing$, of two independent models; needed for several data sets.
        models: $E_A$, number of projections; `inf` allowed.
        data_sets: $E_D$, number of data sets (bagging); `inf` allowed.

    Raises:
        InvalidInput: fewer than one model or data set, or missing correlations.

    Example:
        >>> from foretrain.limits.linear import ensemble_loss
        >>> ensemble_loss(1.0, 0.6, models=4)
        0.7
    """
    if np.any(np.asarray(models) < 1) or np.any(np.asarray(data_sets) < 1):
        raise InvalidInput(f"ensemble_loss(models, data_sets): expected numbers >= 1, got {models} and {data_sets}.")
    a, d = 1.0 / np.asarray(models, float), 1.0 / np.asarray(data_sets, float)
    total = d * (a * both + (1.0 - a) * data)
    if np.any(d < 1.0):
        if features is None or none is None:
            raise InvalidInput("ensemble_loss(features, none): needed when data_sets > 1; ask for all four shares.")
        total = total + (1.0 - d) * (a * features + (1.0 - a) * none)
    return float(total) if np.ndim(total) == 0 else total
