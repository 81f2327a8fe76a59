"""`train`: learning curves of finite models, averaged over seeds."""

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain._declaration import WrongKey
from foretrain.curves import LearningCurves
from foretrain.errors import ForetrainWarning, InvalidInput, UnsupportedProblem, nearest
from foretrain.kernels import NNGP, NTK
from foretrain.problems import (
    SGD,
    AbstractNetwork,
    AbstractProtocol,
    DeepLinear,
    Kernel,
    NetworkTraining,
    OnePassSGD,
    Problem,
    RandomFeatures,
    TwoLayerLinear,
    protocol_times,
)
from foretrain.tasks import AbstractDataTask, AbstractSpectralTask, DataSet
from foretrain.training._average import average_descent
from foretrain.training._budget import data_cost, linear_cost, plan_workers, stepping_cost
from foretrain.training._collect import SIZES, SeedResult, collect, is_rate, values_of
from foretrain.training._data_student import data_draws
from foretrain.training._deep_linear_train import deep_linear_work, untrainable_deep_linear
from foretrain.training._descend import descend
from foretrain.training._draw import Draw
from foretrain.training._evolution import evolve
from foretrain.training._filters import max_stable_learning_rate
from foretrain.training._linear_student import explicit_modes, linear_draws
from foretrain.training._network_checks import check_steps, untrainable_network
from foretrain.training._network_train import has_network, train_networks
from foretrain.training._sampling import Progress, run_seeds
from foretrain.training._two_layer_train import two_layer_work, untrainable_two_layer

_LARGEST_SEED = 2**32
MINIBATCHES = ("sampled", "averaged")


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C during `train`; `curves` holds the averages over the seeds that were finished."""

    def __init__(self, curves: LearningCurves):
        self.curves = curves
        super().__init__(f"train: interrupted after {curves.attrs['seeds']} seeds")


def untrainable(problem: Problem) -> str | None:
    """Why a single problem has no finite model that can be trained, or `None`. Cheap: no data are read.

    Args:
        problem: A problem without axes.
    """
    task, model, training = problem.parts()
    if isinstance(model, AbstractNetwork) or isinstance(training, NetworkTraining):
        return untrainable_network(task, model, training)
    if isinstance(model, DeepLinear):
        return untrainable_deep_linear(task, model, training)  # type: ignore[arg-type]
    if isinstance(model, TwoLayerLinear):
        reason = untrainable_two_layer(task, model, training)  # type: ignore[arg-type]
        if reason is not None:
            return reason
    elif not isinstance(model, (RandomFeatures, Kernel)):
        return f"no trainer for the model {model.kind!r}"
    width, samples = float(model.width), training.samples  # type: ignore[arg-type, attr-defined]
    if math.isfinite(width) and (width != int(width) or width < 1):
        return f"width = {width:g} is not a whole number of features"
    if isinstance(task, AbstractDataTask):
        if samples is not None and math.isinf(samples):
            return "samples = inf on data: there are only as many rows as the set holds"
        if isinstance(model, Kernel) and math.isfinite(width):
            return f"width = {width:g} of a kernel on data has no network behind it; use the model 'random-features'"
        return None
    if not isinstance(task, AbstractSpectralTask):
        return f"no trainer for the task {task.kind!r}"
    if samples is not None and math.isfinite(samples) and (samples != int(samples) or samples < 1):
        return f"samples = {samples:g} is not a whole number"
    if math.isinf(getattr(task, "modes", 0.0)):
        return "modes = inf cannot be drawn; give a finite number of modes"
    counts = getattr(task, "multiplicity", None)
    if counts is not None and np.any(np.abs(counts - np.round(counts)) > 1e-9):
        return "multiplicity holds fractions of modes, which cannot be drawn"
    return None


def train(
    problem: Problem,
    times: Any = None,
    *,
    seeds: int = 10,
    seed: int = 0,
    minibatches: str = "sampled",
    throw: bool = True,
    progress: Progress | None = None,
) -> LearningCurves:
    r"""The learning curves that finite models have, averaged over seeds.

    Spectral tasks are drawn with Gaussian data and projections; data tasks draw training rows and the frozen weights of
    random networks, and `width = inf` on them is regression with the infinite-width kernel. Only the readout is trained,
    by an exact eigendecomposition: no full-batch protocol is stepped, and times, rates, ridges and noise levels of a size cost
    almost nothing. Stochastic gradient descent is stepped, once for every learning rate and batch size.

    `samples` on data counts rows drawn without replacement; the others test (at most 10 000 of them), unless the task has its
    own test rows. One pass over data takes its rows in order, each once (students of an ensemble see the same rows); one pass
    over a spectral task draws fresh Gaussian ones.

    `two-layer-linear` has the features of `random-features` and learns them: its flow is integrated exactly, its discrete protocols
    are stepped. `deep-linear` is stepped with the raw rate `learning_rate` $\times\gamma_0^2N$ on all of its weights; the ratios of its
    sizes must give whole numbers of the task's dimensions.

    Networks are trained whole, as `NetworkTraining` says, by `run_network`: all seeds and rates of a size share one compiled program,
    and other axes are looped over. A seed fixes initial weights, training rows and the order of the batches, at most 2048 rows (256
    windows of tokens) test. Losses of cross-entropy are means of negative log-likelihoods; `accuracy` is there where there are
    classes. `attrs["networks"]` holds parameters, arithmetic of a step and throughput of every size.

    For the other models, time and learning rate belong to $\frac1{2P}\sum_\mu|y_\mu-f(x_\mu)|^2$, `ridge` to $\frac1P|y-f|^2+\text{ridge}|W|^2$.

    Args:
        problem: A problem or a grid of problems: `random-features`, `kernel`, `two-layer-linear`, `deep-linear`, or networks with
            their training.
        times: As for `solve`.
        seeds: How many independent draws are averaged.
        seed: The draws are numbered `seed`, ..., `seed + seeds - 1`; the same numbers give the same draws in any sweep.
            Sizes share their randomness: a smaller width takes the first features of a larger one.
        minibatches: `"sampled"` simulates stochastic gradient descent. `"averaged"` computes its losses averaged exactly over
            all choices of minibatches, given the data and features of a seed, at the price of matrix products instead of
            vector products a step. It needs `sgd` or, on spectral tasks, `one-pass-sgd`. An average counts the rare runs that
            blow up: it diverges at learning rates where most sampled runs are fine.
        throw: Kept for symmetry with `solve`; a diverged point is a value, and nothing else can fail at a single point.
        progress: `progress(done, total, label)`, called after every finished seed.

    Returns:
        `test_loss` and `train_loss`, means of squared errors without a factor one half and summed over outputs, each with
        `_stderr`, the standard error of the mean over seeds (NaN for one seed); `test_loss` leaves the label noise out.
        `status` without time; `diverged` where any seed's learning rate was past its own edge, with losses `inf`;
        for stochastic gradient descent, where the losses of any seed grew to a million times what they were; for `two-layer-linear`,
        `deep-linear` and networks, to a thousand times.
        `readout_norm` and `_stderr` for `two-layer-linear`.
        `max_stable_lr` and `_stderr` for `random-features` and `kernel` under protocols with a learning rate: the edge of
        full-batch descent on the same draw, also for stochastic gradient descent, which small batches make unstable below it.
        Divergence also warns, and names the edge.

    Raises:
        UnsupportedProblem: A size of the grid cannot be trained; says which and names `solve`.
        InvalidInput: Wrong times, seeds or sizes.
        TooLarge: More memory than there is, or days of work; the message carries the estimate.
        TrainingInterrupted: Ctrl-C after at least one seed; holds their curves.

    Example:
        >>> from foretrain import GradientFlow, PowerLaw, Problem, RandomFeatures, train
        >>> problem = Problem(PowerLaw(1.5, 0.6, modes=200), RandomFeatures(width=[16, 64]), GradientFlow(samples=32))
        >>> train(problem, [1.0, 10.0], seeds=4).dims["test_loss"]
        ('width', 'time')
    """
    grid = protocol_times(problem.training, times, "train")
    if isinstance(problem.training, NetworkTraining) and grid is not None:
        check_steps(problem.training, grid, "train")
    elif _is_stepped(problem) and grid is not None and np.any(np.isinf(grid)):
        raise WrongKey("train", "times", f"expected finite numbers of steps for {problem.training.kind!r}, got inf")
    numbers = _seeds(seeds, seed)
    averaged = _averaged(problem, minibatches)
    for _, point in problem.points():
        reason = untrainable(point)
        if reason is not None and has_network(point):
            raise UnsupportedProblem(f"train: {reason}.")
        if reason is not None:
            raise UnsupportedProblem(f"train: {reason}. `solve` has the theory of infinite sizes.")
    if has_network(problem) and grid is not None:
        return _finished(*train_networks(problem, grid, numbers, progress))
    axes = problem.axes()
    looped = {name: values for name, values in axes.items() if name not in SIZES and not is_rate(problem, name)}
    shape = tuple(len(values) for values in looped.values())
    total = math.prod(shape) * len(numbers)
    pieces: dict[tuple[int, ...], dict[int, SeedResult]] = {}
    done = 0
    if progress is not None:
        progress(0, total, "train")
    interrupted = False
    try:
        for index in itertools.product(*map(range, shape)):
            piece = problem.select({name: values[i] for (name, values), i in zip(looped.items(), index, strict=True)})
            work, workers = _worker(piece, grid, len(numbers), averaged)
            finished = pieces.setdefault(index, {})
            for number, result in run_seeds(work, numbers, workers=workers):
                finished[number] = result
                done += 1
                if progress is not None:
                    progress(done, total, "train")
    except KeyboardInterrupt:
        common = set.intersection(*(set(f) for f in pieces.values())) if len(pieces) == math.prod(shape) else set()
        if not common:
            raise
        interrupted, numbers = True, sorted(common)
    facts = {"minibatches": minibatches} if isinstance(problem.training, (SGD, OnePassSGD)) else {}
    return _finished(collect(problem, grid, looped, pieces, numbers, facts), interrupted)


def _is_stepped(problem: Problem) -> bool:
    """Whether training goes step by step, so that it has no end point."""
    stochastic = isinstance(problem.training, (SGD, OnePassSGD))
    return stochastic or (problem.training.discrete and isinstance(problem.model, (DeepLinear, TwoLayerLinear)))


def _finished(curves: LearningCurves, interrupted: bool) -> LearningCurves:
    """The curves, after saying what there is to say."""
    for message in curves.messages:
        warnings.warn(message, ForetrainWarning, stacklevel=3)
    if interrupted:
        raise TrainingInterrupted(curves)
    return curves


def _seeds(seeds: int, seed: int) -> list[int]:
    for name, value, low in (("seeds", seeds, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
            raise InvalidInput(f"train({name}): expected a whole number >= {low}, got {value!r}.")
    if seed + seeds > _LARGEST_SEED:
        raise InvalidInput(f"train(seed): expected seed + seeds <= 2^32, got {seed + seeds}.")
    return list(range(int(seed), int(seed) + int(seeds)))


def _averaged(problem: Problem, minibatches: str) -> bool:
    if minibatches not in MINIBATCHES:
        names = " or ".join(map(repr, MINIBATCHES))
        raise InvalidInput(
            f"train(minibatches): expected {names}, got {minibatches!r}{nearest(minibatches, MINIBATCHES)}."
        )
    if minibatches == "sampled":
        return False
    if isinstance(problem.model, (DeepLinear, TwoLayerLinear)):
        raise InvalidInput(
            f"train(minibatches): the model {problem.model.kind!r} is not linear in its weights, so that no average over minibatches "
            "is known; leave it out."
        )
    if not isinstance(problem.training, (SGD, OnePassSGD)):
        raise InvalidInput(
            f"train(minibatches): {problem.training.kind!r} has no minibatches to average over; leave it out."
        )
    if isinstance(problem.training, OnePassSGD) and isinstance(problem.task, AbstractDataTask):
        raise InvalidInput(
            "train(minibatches): one pass over data takes its rows in order and draws no minibatches; only seeds average it. "
            "Leave it out, or use the protocol 'sgd'."
        )
    return True


def _protocols(training: AbstractProtocol) -> list[AbstractProtocol]:
    """One protocol without axes for every point of the axes other than samples, last axis fastest."""
    axes = {name: values for name, values in training.axes().items() if name != "samples"}
    single = training if isinstance(training, OnePassSGD) else training.replace(samples=None)
    return [single.replace(**dict(zip(axes, point, strict=True))) for point in itertools.product(*axes.values())]


@functools.lru_cache(maxsize=1)
def _load(task: AbstractDataTask) -> DataSet:
    """The last data set is kept: studies train a few seeds at a time."""
    return task.load()


def _worker(
    piece: Problem, times: Float[np.ndarray, " time"] | None, seeds: int, averaged: bool
) -> tuple[Callable[[int, Callable[[], None]], SeedResult], int]:
    """A function that trains all sizes of one seed, and how many may run at once."""
    task, model, training = piece.parts()
    noises, ensembles = values_of(task, "noise", 0.0), values_of(model, "ensemble")
    widths, samples = values_of(model, "width"), values_of(training, "samples")
    protocols = _protocols(training)  # type: ignore[arg-type]
    if isinstance(model, DeepLinear):
        stepped, cost = deep_linear_work(task, model, protocols, noises, times)  # type: ignore[arg-type]
        return stepped, plan_workers(cost, seeds)
    if isinstance(model, TwoLayerLinear):
        stepped, cost = two_layer_work(task, model, training, protocols, times, seeds)  # type: ignore[arg-type]
        return stepped, plan_workers(cost, seeds)
    students = max(ensembles)
    count = 1 if times is None else len(times)
    draws: Callable[[int], Iterator[tuple[int, int, Draw]]]
    # The protocols that a draw is trained with: all of them, but for one pass over data, where each takes its own rows.
    used: list[Sequence[int]] = [range(len(protocols))] * len(samples)
    if isinstance(task, AbstractDataTask):
        data = _load(task)
        if isinstance(training, OnePassSGD):
            rows = check_rows(training, data, times)  # type: ignore[arg-type]
            used = [[k] for k in range(len(protocols))]
        else:
            rows = check_rows(training, data, times)  # type: ignore[arg-type]
        depth, activation = model.depth or 1, model.activation or "relu"  # type: ignore[attr-defined]
        network = NTK if getattr(model, "kernel", None) == "ntk" else NNGP
        kernel = network(depth=depth, activation=activation)
        shared = {"kernel": kernel, "depth": depth, "activation": activation, "students": students}
        draws = functools.partial(data_draws, data, widths, rows, **shared)
        cost = data_cost(data, widths, rows, students, count)
        features, sizes, outputs = widths, [float(row) for row in rows], data.targets.shape[1]
    else:
        spectrum = task.spectrum()  # type: ignore[attr-defined]
        sizes = [math.inf if size is None else size for size in samples]
        cost = linear_cost(int(spectrum.modes), widths, sizes, students, count)
        plan_workers(cost, seeds)  # refuses what is too large before the modes are written out
        eigenvalues, coefficients, tested = explicit_modes(spectrum)
        noisy = any(noise > 0 for noise in noises)
        shared = {"students": students, "noisy": noisy, "test_eigenvalues": tested}
        draws = functools.partial(linear_draws, eigenvalues, coefficients, widths, sizes, **shared)
        features, outputs = [min(width, len(eigenvalues)) for width in widths], 1
    if isinstance(training, (SGD, OnePassSGD)) and times is not None:
        pairs = [(n, p) for n in features for p in sizes]
        batches = [protocol.batch_size for protocol in protocols]  # type: ignore[attr-defined]
        columns = outputs * len(noises)
        cost += stepping_cost(int(times.max()), batches, pairs, columns, students, count, averaged)

    def work(seed: int, check: Callable[[], None]) -> SeedResult:
        result = SeedResult.empty(len(noises), len(widths), len(ensembles), len(protocols), len(samples), count)
        for i, j, draw in draws(seed):
            for k in used[j]:
                check()
                protocol, own = protocols[k], 0 if len(samples) == 1 else j
                options: dict[str, Any] = {"noise": noises, "ensemble": ensembles}
                if isinstance(protocol, (SGD, OnePassSGD)):
                    options["check"] = check
                    if averaged:
                        found = average_descent(draw, protocol, times, **options)  # type: ignore[arg-type]
                    else:
                        found = descend(draw, protocol, times, seed, **options)  # type: ignore[arg-type]
                else:
                    options["population"] = draw.population
                    found = evolve(draw.students, draw.moments, protocol, times, **options)
                result.test_loss[:, i, :, k, own] = found.test_loss
                result.train_loss[:, i, :, k, own] = found.train_loss
                edge = max_stable_learning_rate(protocol, found.largest_eigenvalue)
                result.edge[i, k, own] = math.nan if edge is None else edge
        return result

    return work, plan_workers(cost, seeds)


def check_rows(training: AbstractProtocol, data: DataSet, times: Float[np.ndarray, " time"] | None) -> list[int]:
    """Numbers of training rows: one per sample size, or for one pass one per protocol without axes.

    Raises:
        WrongKey: More rows, or a larger batch, than the data have.
    """
    if isinstance(training, OnePassSGD):
        return [_rows_in_one_pass(data, protocol.batch_size, times) for protocol in _protocols(training)]  # type: ignore[attr-defined]
    rows = [check_size(data, size) for size in values_of(training, "samples")]
    _check_batch(training, data)
    return rows


def check_size(data: DataSet, samples: float | None) -> int:
    """Number of training rows, checked against the data set.

    Raises:
        WrongKey: More rows than there are, or none left to test on.
    """
    rows = len(data)
    most = rows if data.test_inputs is not None else rows - 1
    size = rows if samples is None else int(samples)
    if size <= most:
        return size
    if samples is None:
        raise WrongKey(
            "train", "samples", f"missing; all {rows} rows of {data.name} would train and none be left to test on"
        )
    reason = "" if data.test_inputs is not None else ", as the rest is tested on"
    raise WrongKey("train", "samples", f"expected at most {most} of the {rows} rows of {data.name}{reason}, got {size}")


def _rows_in_one_pass(data: DataSet, batch_size: int, times: Float[np.ndarray, " time"] | None) -> int:
    """Number of rows that one pass takes, checked against the data set."""
    steps = 0 if times is None else int(times.max())
    rows = len(data)
    most = rows if data.test_inputs is not None else rows - 1
    if steps * batch_size <= most:
        return max(1, steps * batch_size)
    reason = "" if data.test_inputs is not None else ", one of which must be left to test on"
    raise WrongKey(
        "train",
        "times",
        f"expected at most {most // batch_size} steps: one pass with batches of {batch_size} over the {rows} rows of "
        f"{data.name}{reason}; got {steps}",
    )


def _check_batch(training: AbstractProtocol, data: DataSet) -> None:
    """A declaration cannot know how many samples there are when it leaves them out."""
    if isinstance(training, SGD) and training.samples is None and np.max(training.batch_size) > len(data):
        raise WrongKey(
            "train",
            "batch_size",
            f"expected at most the {len(data)} rows of {data.name}, got {np.max(training.batch_size)}",
        )
