"""The door of deep linear networks: from a declared problem to labelled learning curves."""

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
from jaxtyping import Float

from foretrain._declaration import WrongKey
from foretrain.curves import LearningCurves, combine_messages
from foretrain.errors import ForetrainWarning, TooLarge, nearest
from foretrain.limits.deep_linear._edge import lazy_edge
from foretrain.limits.deep_linear._flow import Clock, clock
from foretrain.limits.deep_linear._input import LOSSES
from foretrain.limits.deep_linear._outputs import LAYERED, TWO_TIME, layered, two_time
from foretrain.limits.deep_linear._points import Curves, check_memory, curves_of, flow_curves_of, point_of
from foretrain.problems import DeepLinear, GradientDescent, GradientFlow, Momentum, OnePassSGD, Problem
from foretrain.tasks import AbstractSpectralTask, PowerLaw

PARTS = ("bias", "variance_width", "variance_data", "variance_sgd", "tangent_kernel")
OUTPUTS = (*PARTS, *LAYERED, *TWO_TIME)
# Of a variable that depends on two times.
MOST_VALUES = 1e8
# Beyond this multiple of the loss before training a run counts as diverged, unless its train loss has fallen.
DIVERGED = 1e3
# A flow whose error exceeds a tenth of the loss, and this share of the loss before training, is none.
ACCEPTED = 1e-5


def covers(problem: Problem) -> str | None:
    """Why the theory of deep linear networks does not solve a problem, or `None`."""
    model, task, protocol = problem.model, problem.task, problem.training
    if not isinstance(model, DeepLinear):
        return f"expected the model 'deep-linear', got {model.kind!r}"
    if not isinstance(protocol, (GradientFlow, GradientDescent, Momentum, OnePassSGD)):
        return f"expected 'gradient-flow', 'gradient-descent', 'momentum' or 'one-pass-sgd', got {protocol.kind!r}"
    if not isinstance(task, AbstractSpectralTask):
        return f"expected a task with a declared spectrum, got {task.kind!r}"
    if getattr(protocol, "exact_gaussian", False):
        return "exact_gaussian is a correction for small batches; expected batches that grow with the dimension"
    if isinstance(task, PowerLaw) and np.any(np.isinf(task.modes)):
        ratio = getattr(protocol, "batch_ratio" if isinstance(protocol, OnePassSGD) else "sample_ratio", None)
        finite = np.any(np.isfinite(model.width_ratio)) or "ntk" in np.atleast_1d(model.parameterization)
        if finite or (ratio is not None and np.any(np.isfinite(ratio))):
            return (
                "modes = inf has no ratios to the dimension; expected width_ratio = inf with parameterization = 'mup' and no "
                "finite sample_ratio or batch_ratio, or a finite number of modes"
            )
    return None


def solve(
    problem: Problem,
    times: Float[np.ndarray, " time"] | None,
    *,
    outputs: tuple[str, ...] = (),
    progress: Callable[[int, int, str], None] | None = None,
) -> LearningCurves:
    r"""Learning curves of deep linear networks from random initialization (`docs/theory/deep-linear.md`, (DL.2) to (DL.11)).

    Every point is marched to the latest step, whichever steps are returned.

    Args:
        problem: A grid of problems that `covers` accepts.
        times: Steps; times for gradient flow.
        outputs: Any of `bias`, `variance_width`, `variance_data` (reused samples) or `variance_sgd` (fresh ones), which sum to the
            test loss; `tangent_kernel`; `forward_kernel` and `backward_kernel`, the mean squares of the fields by `layer`;
            `forward_covariance`, `backward_covariance`, `forward_response` and `backward_response` between `time` and
            `other_time`.
        progress: Called after every point.

    Returns:
        `test_loss`, `train_loss`, their `_error`, the outputs, `status`, and `max_stable_lr` where it is known: lazy networks
        (DL.17), else NaN.

    Raises:
        InvalidInput: Unknown outputs, or an infinite time.
        TooLarge: The march does not fit in memory.
    """
    _check(problem, times, outputs)
    assert times is not None
    outputs = tuple(dict.fromkeys(outputs))
    points = list(problem.points())
    grid = _Grid(problem, times, outputs)
    discrete = problem.training.discrete
    rows = int(np.max(times)) + 1 if discrete else 2 * len(clock(times, 1.0).times)

    def at_start(one):
        return point_of(one, 2, Clock(np.array([0.0, 1.0]), np.array([0])))

    shapes = (point_of(one, rows) if discrete else at_start(one) for one in _shapes(problem))
    largest = max(shapes, key=lambda point: point.layout.numbers(64))
    threads = min(check_memory(len(points), largest.layout, rows), os.cpu_count() or 1)
    keep = bool(set(outputs) & set(TWO_TIME))

    def run(index, one):
        if discrete:
            point = point_of(one, rows)
            grid.fill(index, one, curves_of(point, keep), times.astype(int), lazy_edge(one, point))
            return
        start = at_start(one)
        fast = clock(times, float(np.max(start.groups.eigenvalues)) * start.tangent)
        grid.fill(index, one, flow_curves_of(one, fast), fast.finer().places, np.nan)

    for done, _ in enumerate(_pieces(points, threads, run), 1):
        if progress is not None:
            progress(done, len(points), "solve")
    return grid.curves()


def _pieces(points, threads, run):
    """Runs every point, the first one alone, since it compiles."""
    for index, one in points[:1]:
        yield run(index, one)
    if threads == 1 or len(points) < 3:
        for index, one in points[1:]:
            yield run(index, one)
        return
    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(run, index, one) for index, one in points[1:]]
        try:
            for job in as_completed(jobs):
                yield job.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _shapes(problem: Problem):
    """Problems that differ in the sizes of their matrices: the others are alike in memory."""
    axes = problem.axes()
    alike = {name: values[:1] for name, values in axes.items() if name not in ("depth", "modes", "capacity", "source")}
    if "width_ratio" in alike:
        alike["width_ratio"] = (min(axes["width_ratio"]),)
    for name in ("sample_ratio", "batch_ratio"):
        if name in alike:
            alike[name] = (min(axes[name]),)
    narrowed = problem.select({name: values[0] for name, values in alike.items()})
    return [one for _, one in narrowed.points()]


def _check(problem: Problem, times: np.ndarray | None, outputs: tuple[str, ...]) -> None:
    if times is not None and np.any(np.isinf(times)):
        raise WrongKey(
            "solve", "times", "expected finite times: these networks are marched from row to row, and have no end"
        )
    one_pass = isinstance(problem.training, OnePassSGD)
    for name in outputs:
        if name not in OUTPUTS:
            raise WrongKey(
                "solve", "outputs", f"unknown output {name!r}{nearest(name, OUTPUTS)}; valid: {', '.join(OUTPUTS)}"
            )
        if name == ("variance_data" if one_pass else "variance_sgd"):
            instead = "variance_sgd" if one_pass else "variance_data"
            raise WrongKey("solve", "outputs", f"{name!r} means nothing for {problem.training.kind!r}; use {instead!r}")
        if name in (*LAYERED, *TWO_TIME) and np.any(np.isinf(problem.model.depth)):  # type: ignore[attr-defined]
            raise WrongKey(
                "solve", "outputs", f"{name!r} has an entry for every layer; expected finite depths, got inf"
            )


class _Grid:
    """The arrays of a sweep, filled point by point."""

    def __init__(self, problem: Problem, times: np.ndarray, outputs: tuple[str, ...]):
        self.problem, self.times, self.outputs = problem, times, outputs
        shape = problem.shape
        depth = np.max(problem.model.depth)  # type: ignore[attr-defined]
        self.layers = 0 if np.isinf(depth) else int(depth) + 2
        values = np.prod(shape, dtype=float) * self.layers * len(times) ** 2
        if set(outputs) & set(TWO_TIME) and values > MOST_VALUES:
            raise TooLarge(
                f"solve: outputs of two times would hold {values:.3g} values each, about {8 * values / 1e9:.3g} GB; expected at most "
                f"{MOST_VALUES:.0e}: ask for fewer times."
            )
        self.arrays = {
            name: np.full((*shape, len(times)), np.nan)
            for name in ("test_loss", "train_loss", "test_loss_error", "train_loss_error")
        }
        for name in outputs:
            more = (self.layers,) if name in LAYERED else (self.layers, len(times)) if name in TWO_TIME else ()
            self.arrays[name] = np.full((*shape, *more, len(times)), np.nan)
        self.status = np.full(shape, "ok", dtype="<U13")
        self.edge = np.full(shape, np.nan)
        self.messages: dict[tuple[int, ...], str] = {}

    def fill(self, index: tuple[int, ...], one: Problem, found: Curves, rows: np.ndarray, edge: float) -> None:
        """Writes one point, whose times stand in these rows."""
        gone = diverged_at(found.losses)
        picked = {name: found.losses[:, place] for place, name in enumerate(LOSSES)}
        picked["variance_data"] = picked["variance_sgd"] = picked.pop("variance_samples")
        picked |= {
            "tangent_kernel": found.tangent,
            "test_loss_error": found.errors[:, 0],
            "train_loss_error": found.errors[:, 1],
        }
        for name, array in self.arrays.items():
            if name in LAYERED:
                values = layered(name, found)
                values[:, gone:] = np.inf
                array[index][: len(values)] = values[:, rows]
            elif name in TWO_TIME:
                values = two_time(name, found, one, rows)
                values[:, rows >= gone], values[:, :, rows >= gone] = np.inf, np.inf
                array[index][: len(values)] = values
            else:
                values = np.array(picked[name])
                values[gone:] = np.inf
                array[index] = values[rows]
        self.edge[index] = edge
        if not self.problem.training.discrete:
            self._check_flow(index, found.losses[0, 0])
        elif gone <= rows.max():
            self.status[index] = "diverged"
            where = ", ".join(f"{name} = {value:g}" for name, value in self._here(index).items())
            self.messages[index] = (
                f"solve: training diverges{f' at {where}' if where else ''}: the test loss exceeds {DIVERGED:g} times that "
                f"before training at step {gone}"
                + (f"; max_stable_lr = {edge:.6g}." if np.isfinite(edge) else "; choose a smaller learning_rate.")
            )

    def _check_flow(self, index: tuple[int, ...], start: float) -> None:
        """A flow does not diverge: what its two grids disagree about is no answer."""
        loss, error = self.arrays["test_loss"][index], self.arrays["test_loss_error"][index]
        with np.errstate(invalid="ignore"):
            bad = ~(error <= np.maximum(0.1 * loss, ACCEPTED * start))
        if np.any(bad):
            for array in self.arrays.values():
                array[index][..., bad] = np.nan
            self.status[index] = "not converged"
            self.messages[index] = (
                f"solve: gradient flow is not resolved at {int(np.sum(bad))} of {len(bad)} times (the weights move faster than the "
                "grid of times, or longer than it can follow); use earlier times, a smaller richness or gradient-descent."
            )

    def _here(self, index: tuple[int, ...]) -> dict[str, float]:
        rate = {"learning_rate": getattr(self.problem.training, "learning_rate", None)}
        axes = self.problem.axes()
        named = {name: values[i] for (name, values), i in zip(axes.items(), index, strict=True)}
        return {name: value for name, value in (rate | named).items() if isinstance(value, (int, float))}

    def curves(self) -> LearningCurves:
        """The labelled result."""
        axes = self.problem.axes()
        dims = tuple(axes)
        coords = {name: np.asarray(values) for name, values in axes.items()}
        variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
        for name, array in self.arrays.items():
            more = ("layer",) if name in LAYERED else ("layer", "other_time") if name in TWO_TIME else ()
            variables[name] = ((*dims, *more, "time"), array)
            if more:
                coords["layer"] = np.arange(self.layers)
            if len(more) > 1:
                coords["other_time"] = self.times.astype(float)
        variables["status"] = (dims, self.status)
        kept = tuple(0 if name == "learning_rate" else slice(None) for name in dims)
        if self.problem.training.discrete:
            variables["max_stable_lr"] = (tuple(name for name in dims if name != "learning_rate"), self.edge[kept])
        messages = _shortened(combine_messages([self.messages[index] for index in sorted(self.messages)]))
        for message in messages:
            warnings.warn(message, ForetrainWarning, stacklevel=4)
        coords["time"] = self.times.astype(float)
        attrs = {**self.problem.facts(), "verb": "solve", "solver": "deep-linear", "messages": messages}
        return LearningCurves(variables, coords, attrs)


def diverged_at(losses: Float[np.ndarray, "time loss"]) -> int:
    """The first step at which training has diverged, or the number of steps plus one.

    A test loss that grows while the train loss falls is overfitting, however large.
    """
    test, train = losses[:, 0], losses[:, 1]
    with np.errstate(invalid="ignore"):
        bad = ~np.isfinite(losses[:, :2]).all(1) | ((test > DIVERGED * test[0]) & (train > train[0]))
    return int(np.argmax(bad)) if np.any(bad) else len(losses)


def _shortened(messages: list[str], most: int = 5) -> list[str]:
    if len(messages) <= most:
        return messages
    return [*messages[:most], f"solve: training diverges at {len(messages) - most} more points; see `status`."]
