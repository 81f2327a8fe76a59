r"""One point of a sweep: from a declared problem to the numbers that the march takes, what it needs, and its curves."""

import dataclasses
import math

import jax
import numpy as np
from jaxtyping import Float

from foretrain.errors import TooLarge
from foretrain.kernels._gram import free_memory
from foretrain.limits.deep_linear._flow import SWEEPS, Clock
from foretrain.limits.deep_linear._march import Layout, march, room_for, stages
from foretrain.limits.deep_linear._rows import Groups, Sizes
from foretrain.limits.deep_linear._spectrum import groups_of
from foretrain.limits.deep_linear._weights import weights_of
from foretrain.problems import AbstractProtocol, DeepLinear, OnePassSGD, Problem

# A network of infinite depth is extrapolated from these.
DEPTHS = (2, 3, 4, 6, 8, 12, 16, 24)
# Share of the free memory that a march may take.
_FRACTION = 0.7
# Rounding, relative to the loss before training.
FLOOR = 1e-13
# The kernel of the weights grows with training; times up to this many lazy ones are resolved.
_GROWTH = 10.0


@dataclasses.dataclass(frozen=True)
class Point:
    r"""A single problem.

    Attributes:
        sizes: The numbers of the equations.
        groups: The spectrum.
        protocol: How it is trained.
        grid: Times of the rows, for gradient flow.
        rows: Steps plus one.
        layout: What the program is compiled for.
        branch_scale: $\beta_0$.
        compression: Error of compressing the spectrum, relative to the loss before training.
    """

    sizes: Sizes
    groups: Groups
    protocol: AbstractProtocol
    grid: Clock | None
    rows: int
    layout: Layout
    branch_scale: float
    compression: float

    @property
    def weights(self) -> Float[np.ndarray, "time time"]:
        r"""$E/\eta$."""
        return weights_of(self.protocol, self.rows) if self.grid is None else self.grid.weights()  # type: ignore[arg-type]

    @property
    def depths(self) -> tuple[int, ...]:
        """Depths that are marched."""
        return DEPTHS if math.isinf(self.sizes.depth) else (int(self.sizes.depth),)

    def at_depth(self, depth: int) -> "Point":
        """The same network at a finite depth, with branches of $\\beta_0/\\sqrt L$."""
        sizes = self.sizes._replace(branch=self.branch_scale / math.sqrt(depth), depth=depth)
        return dataclasses.replace(self, sizes=sizes)

    @property
    def tangent(self) -> float:
        """The tangent kernel before training, of wide networks (DL.17)."""
        depth = self.sizes.depth
        return tangent_factor(depth, self.sizes.branch, self.branch_scale) if self.layout.residual else depth + 1.0


def march_bytes(layout: Layout, rows: int) -> float:
    """Memory of a march, with the smaller frame that it grows out of.

    Args:
        layout: What is marched.
        rows: Steps plus one.
    """
    sizes = stages(rows)
    return 8.0 * (sum(layout.numbers(size) for size in sizes[-2:]) + 3 * sizes[-1] ** 2)


def point_of(problem: Problem, rows: int, grid: Clock | None = None) -> Point:
    """The point of a problem without axes, marched over so many rows.

    Args:
        problem: A problem that `covers` accepts.
        rows: Steps plus one.
        grid: Times of the rows, for gradient flow.
    """
    model, protocol = problem.model, problem.training
    assert isinstance(model, DeepLinear)
    ratio, rich = float(model.width_ratio), float(model.richness)  # type: ignore[arg-type]
    inverse = getattr(protocol, "sample_ratio", None)
    inverse = getattr(protocol, "batch_ratio", None) if isinstance(protocol, OnePassSGD) else inverse
    inverse = 0.0 if inverse is None else 1.0 / float(inverse)
    if model.parameterization == "ntk":
        squared, width = rich**2 / ratio, 1.0 / rich**2
    else:
        squared, width = rich**2, 0.0 if math.isinf(ratio) else 1.0 / (rich**2 * ratio)
    depth, exponent = float(model.depth), model.depth_exponent  # type: ignore[arg-type]
    exponent = 0.5 if exponent is None else float(exponent)  # type: ignore[arg-type]
    scale = 1.0 if model.branch_scale is None else float(model.branch_scale)  # type: ignore[arg-type]
    residual = model.residual
    if math.isinf(depth) and exponent > 0.5:
        depth = 1.0  # branches that shrink faster than 1/sqrt(L) vanish together
    # One hidden layer has no branches.
    residual = residual and depth > 1
    branch = scale * depth**-exponent if math.isfinite(depth) else math.nan
    data = "fresh" if isinstance(protocol, OnePassSGD) else "reused"
    if inverse == 0.0:
        data = "wide" if width == 0.0 else "population"
    rate = float(getattr(protocol, "learning_rate", 1.0))
    layers = depth + 1.0 if not residual else tangent_factor(depth, branch, scale)
    time = float(grid.times[-1]) if grid is not None else rate * rows / (1.0 - getattr(protocol, "momentum", 0.0))
    time = time * layers * _GROWTH
    groups, error = groups_of(problem.task, time, 0 if data == "wide" else rows)  # type: ignore[arg-type]
    sizes = Sizes(rate, squared, width, inverse, float(problem.task.noise), branch, depth)  # type: ignore[attr-defined]
    deepest = int(depth) if math.isfinite(depth) else max(DEPTHS)
    layout = Layout(room_for(deepest) if residual else deepest, residual, data, len(groups.eigenvalues))
    if grid is not None:
        layout = layout._replace(sweeps=SWEEPS)
    return Point(sizes, groups, protocol, grid, rows, layout, scale, error)


def tangent_factor(depth: float, branch: float, scale: float) -> float:
    r"""The lazy tangent kernel of a residual network in units of that of one layer (DL.17)."""
    if math.isinf(depth):
        return (2.0 + scale**2) * math.exp(scale**2)
    squared = branch**2
    return (2.0 + (depth - 1.0) * squared / (1.0 + squared)) * (1.0 + squared) ** (depth - 1.0)


@dataclasses.dataclass(frozen=True)
class Curves:
    """What a march says of every step.

    Attributes:
        losses: The `LOSSES`, shape (rows, loss).
        errors: Estimated errors of the losses.
        forward: Mean squares of $u,h^1,\\dots,h^L$, shape (rows, layer); empty at infinite depth.
        backward: Mean squares of $g^1,\\dots,g^L$ and of the source of the last.
        tangent: The tangent kernel along the direction of the error.
        state: All matrices, where they were asked for.
    """

    losses: Float[np.ndarray, "time loss"]
    errors: Float[np.ndarray, "time loss"]
    forward: Float[np.ndarray, "time layer"]
    backward: Float[np.ndarray, "time layer"]
    tangent: Float[np.ndarray, " time"]
    state: dict[str, np.ndarray] | None = None


def check_memory(points: int, layout: Layout, rows: int) -> int:
    """How many marches may run at once.

    Args:
        points: Number of points.
        layout: The largest of them.
        rows: Steps plus one.

    Raises:
        TooLarge: Not even one fits in memory.
    """
    free, needed = _FRACTION * free_memory(), march_bytes(layout, rows)
    if needed > free:
        raise TooLarge(
            f"solve: marching over {rows - 1} steps needs about {needed / 1e9:.3g} GB (depth {layout.depth}, {layout.groups} "
            f"eigenvalue groups), {free / 1e9:.3g} GB are free; memory grows as the square of the steps: choose fewer steps, "
            "a smaller depth, or fewer distinct eigenvalues."
        )
    return int(max(1, min(points, free // needed)))


def curves_of(point: Point, keep: bool = False) -> Curves:
    """The curves of a point.

    Args:
        point: A problem.
        keep: Whether all matrices are returned.
    """
    if math.isfinite(point.sizes.depth):
        return _march(point, keep)
    found = [_march(point.at_depth(depth), False) for depth in point.depths]
    losses, errors = _extrapolated(np.stack([one.losses for one in found]))
    tangent, _ = _extrapolated(np.stack([one.tangent for one in found]))
    nothing = np.zeros((point.rows, 0))
    return Curves(losses, errors + found[-1].errors, nothing, nothing, tangent)


def _march(point: Point, keep: bool) -> Curves:
    with jax.enable_x64(True), np.errstate(over="ignore", invalid="ignore"):
        state = march(point.sizes, point.groups, point.weights, point.rows, point.layout)
        losses, forward, backward = (
            np.asarray(state[name])[: point.rows] for name in ("records", "forward", "backward")
        )
        depth = int(point.sizes.depth)
        forward = forward[:, : depth + 1]
        backward = np.concatenate([backward[:, :depth], np.ones((point.rows, 1))], 1)
        scales = np.ones(depth + 1)
        if point.layout.residual:
            scales[1:-1] = point.sizes.branch**2
        tangent = np.divide(
            (forward * backward) @ scales, forward[:, 0], where=forward[:, 0] > 0, out=np.full(len(forward), np.nan)
        )
        kept = {name: np.asarray(matrix) for name, matrix in state.items()} if keep else None
    errors = np.full(losses.shape, (FLOOR + point.compression) * np.max(losses[0, :2], initial=0.0))
    return Curves(losses, errors, forward, backward, tangent, kept)


def _extrapolated(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The polynomial in 1/L through all depths at L = inf, and how much its highest order adds."""

    def limit(depths: tuple[int, ...], values: np.ndarray) -> np.ndarray:
        x = 1.0 / np.array(depths)
        weights = [np.prod([-b / (a - b) for b in x if b != a]) for a in x]
        return np.tensordot(weights, values, 1)

    with np.errstate(over="ignore", invalid="ignore"):
        best = limit(DEPTHS, values)
        return best, np.abs(best - limit(DEPTHS[1:], values[1:]))


def flow_curves_of(problem: Problem, grid: Clock) -> Curves:
    """The curves of gradient flow on the finer of two grids, with errors from the coarser one.

    Args:
        problem: A problem without axes.
        grid: The coarser grid.
    """
    finer = grid.finer()
    coarse, fine = (curves_of(point_of(problem, len(one.times), one), keep=one is finer) for one in (grid, finer))
    errors = np.array(fine.errors)
    # The rule is of second order; in between, the error is that of the neighbours.
    with np.errstate(invalid="ignore"):
        off = np.abs(fine.losses[::2] - coarse.losses) / 3.0
    errors[::2] += off
    errors[1::2] += np.maximum(off[1:], off[:-1])
    return dataclasses.replace(fine, errors=errors)
