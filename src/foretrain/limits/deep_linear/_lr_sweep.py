"""The transfer plot: the best learning rate and the edge of stability over width, depth and everything else."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain._declaration import WrongKey
from foretrain.curves import LearningCurves
from foretrain.errors import ForetrainWarning, UnsupportedProblem
from foretrain.limits.deep_linear._solve import covers, solve
from foretrain.problems import Problem


@dataclasses.dataclass(frozen=True, eq=False)
class LearningRateSweep:
    """Test losses over learning rates, and what follows from them; arrays over the axes of the problem but the rate.

    Attributes:
        curves: Test and train loss before training and after the last step, with the dimension `learning_rate`.
        dims: Names of the dimensions of the arrays.
        best_lr: Learning rate of the lowest test loss; between two rates of the grid, from the parabola in the logarithms
            through the three lowest points. NaN where every rate diverges.
        best_loss: Test loss there, by the same parabola.
        edge: The stability edge of this many steps, the rate from which the train loss ends above that before training;
            between two rates of the grid linear in the logarithms. `inf` beyond the grid, NaN below it.
        at_end: Whether the best rate is the first or the last stable one of the grid, so that the grid may be too narrow.
    """

    curves: LearningCurves
    dims: tuple[str, ...]
    best_lr: Float[np.ndarray, "*point"]
    best_loss: Float[np.ndarray, "*point"]
    edge: Float[np.ndarray, "*point"]
    at_end: np.ndarray

    @property
    def learning_rates(self) -> Float[np.ndarray, " rate"]:
        """The grid of rates."""
        return self.curves.coords["learning_rate"]

    def drift(self, axis: str) -> Float[np.ndarray, "*other"]:
        """How far the best rate moves along an axis: the largest over the smallest.

        Args:
            axis: Name of a dimension, for example `width_ratio`.
        """
        place = self.dims.index(axis)
        return np.max(self.best_lr, axis=place) / np.min(self.best_lr, axis=place)


def lr_sweep(
    problem: Problem,
    steps: int,
    learning_rates: Sequence[float] | None = None,
    *,
    progress: Callable[[int, int, str], None] | None = None,
) -> LearningRateSweep:
    r"""The optimum and the stability edge of the learning rate of deep linear networks.

    The edge of a rich network has no closed form: sharpness changes along training. So it is read off the sweep, for the
    number of steps that matters.

    Args:
        problem: A problem that the theory of deep linear networks covers; its own learning rate is replaced.
        steps: Steps of training.
        learning_rates: Increasing grid; 24 rates by default, spaced by a factor of 1.2 and ending at 1.5.
        progress: Called after every point.

    Returns:
        The sweep.

    Raises:
        UnsupportedProblem: Another model, task or protocol.
        InvalidInput: Fewer than three rates, or rates that do not increase.

    Example:
        >>> from foretrain import DeepLinear, GradientDescent, Isotropic, Problem
        >>> from foretrain.limits.deep_linear import lr_sweep
        >>> lazy = Problem(Isotropic(), DeepLinear(depth=[1, 2], richness=0), GradientDescent(0.1))
        >>> lr_sweep(lazy, 10, [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.05]).edge.round(2)  # about 2 / (L + 1)
        array([1.  , 0.67])
    """
    reason = covers(problem)
    if reason is not None:
        raise UnsupportedProblem(f"lr_sweep: {reason}")
    grid = 1.5 * 1.2 ** np.arange(-23.0, 1.0) if learning_rates is None else np.asarray(learning_rates, float)
    if grid.ndim != 1 or len(grid) < 3 or np.any(np.diff(grid) <= 0) or grid[0] <= 0:
        raise WrongKey("lr_sweep", "learning_rates", "expected at least three increasing rates > 0")
    training: Any = problem.training.replace(learning_rate=tuple(grid))
    swept = Problem(problem.task, problem.model, training)
    with warnings.catch_warnings():
        # Rates past the edge are what a sweep looks for.
        warnings.simplefilter("ignore", ForetrainWarning)
        curves = solve(swept, np.array([0.0, float(steps)]), progress=progress)
    names = curves.dims["test_loss"][:-1]
    place = names.index("learning_rate")
    test, train = (np.moveaxis(curves.values(name), place, -2) for name in ("test_loss", "train_loss"))
    losses = test[..., 1]
    with np.errstate(divide="ignore"):
        growth = np.log(train[..., 1] / train[..., 0])
    shape = losses.shape[:-1]
    best, lowest, edge, end = (np.empty(shape, kind) for kind in (float, float, float, bool))
    for index in np.ndindex(*shape):
        best[index], lowest[index], end[index] = _optimum(grid, losses[index])
        edge[index] = _edge(grid, growth[index])
    return LearningRateSweep(curves, tuple(n for n in names if n != "learning_rate"), best, lowest, edge, end)


def _optimum(grid: np.ndarray, losses: np.ndarray) -> tuple[float, float, bool]:
    """The lowest point of the parabola through the three lowest neighbours, in the logarithms."""
    if not np.any(np.isfinite(losses)):
        return np.nan, np.nan, True
    i = int(np.argmin(np.where(np.isfinite(losses), losses, np.inf)))
    inside = 0 < i < len(grid) - 1 and np.all(np.isfinite(losses[i - 1 : i + 2])) and np.all(losses[i - 1 : i + 2] > 0)
    if not inside:
        return float(grid[i]), float(losses[i]), i in (0, len(grid) - 1) or not np.isfinite(losses[i + 1])
    x, y = np.log(grid[i - 1 : i + 2]), np.log(losses[i - 1 : i + 2])
    a, b, _ = np.polyfit(x - x[1], y, 2)
    move = -b / (2.0 * a) if a > 0 else 0.0
    return float(np.exp(x[1] + move)), float(np.exp(y[1] - b * b / (4.0 * a))) if a > 0 else float(losses[i]), False


def _edge(grid: np.ndarray, growth: np.ndarray) -> float:
    """Where the logarithm of the growth of the train loss first crosses zero."""
    unstable = ~(growth < 0)
    if not np.any(unstable):
        return np.inf
    first = int(np.argmax(unstable))
    if first == 0:
        return np.nan
    low, high = growth[first - 1], growth[first]
    share = low / (low - high) if np.isfinite(high) and np.isfinite(low) else 0.5
    return float(grid[first - 1] * (grid[first] / grid[first - 1]) ** share)
