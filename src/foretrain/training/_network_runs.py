"""`run_network`: finite networks of one size, over seeds and over everything that only changes numbers."""

import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from foretrain.errors import InvalidInput, UnsupportedProblem
from foretrain.problems import Problem, protocol_times
from foretrain.training._network_checks import check_steps, wrong_images
from foretrain.training._network_data import network_data
from foretrain.training._network_loop import ChunkResult, Sweep, block_steps, run_chunk
from foretrain.training._network_plan import Cost, Plan, cost_of, in_turn, make_plan
from foretrain.training._network_program import NUMERIC, Program
from foretrain.training._network_state import Checkpoint

Progress = Callable[[int, int, str], None]


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkRuns:
    """What `run_network` returns.

    Losses are means over examples (and tokens): squared errors summed over outputs without a factor one half, or cross-entropies.

    Args:
        train_loss: On at most 2048 of the training rows (64 windows of tokens).
        test_loss: On at most 2048 of the held-out rows (256 windows).
        accuracy: Share of right answers on the latter; NaN where there are no classes.
        diverged: Whether the run blew up; from then on losses are `inf` and the accuracy NaN.
        points: The values of the axes at every point, in order, last axis fastest.
        seeds: The seeds.
        times: Numbers of steps.
        steps_per_second: Of all runs together, without compilation and evaluation; NaN when no step was taken.
        flops_per_step: Multiplications and additions of matrix products in one step of one run: three times a forward pass.
        parameters: Trained numbers of one network.
        strategy: How the runs were spread over the machine.
        has_classes: Whether there are classes, so that an accuracy means something.
        horizon: Steps of a whole run, for times that are `inf`.
        params_no_embed: `parameters` without tables of tokens and positions and, on tokens, without the readout.
        tokens_per_step: Examples of a step, times the tokens of a window.
        post: Bits that weights were rounded to after training.
        train_loss_post: `train_loss` with rounded weights.
        test_loss_post: `test_loss` with rounded weights.
    """

    train_loss: Float[np.ndarray, "points seeds time"]
    test_loss: Float[np.ndarray, "points seeds time"]
    accuracy: Float[np.ndarray, "points seeds time"]
    diverged: Bool[np.ndarray, "points seeds"]
    points: tuple[dict[str, Any], ...]
    seeds: tuple[int, ...]
    times: Float[np.ndarray, " time"]
    steps_per_second: float
    flops_per_step: float
    parameters: int
    strategy: str
    has_classes: bool
    horizon: int | None = None
    params_no_embed: int = 0
    tokens_per_step: int = 0
    post: tuple[int, ...] = ()
    train_loss_post: Float[np.ndarray, "points seeds time post"] | None = None
    test_loss_post: Float[np.ndarray, "points seeds time post"] | None = None

    @property
    def steps(self) -> Float[np.ndarray, " time"]:
        """Numbers of steps at the times, also at `inf`, the end of a run."""
        return steps_at(self.times, self.horizon)


class RunsInterrupted(KeyboardInterrupt):
    """Ctrl-C during `run_network` after at least one seed was finished at every point; `runs` holds those seeds."""

    def __init__(self, runs: NetworkRuns):
        self.runs = runs
        super().__init__(f"run_network: interrupted after {len(runs.seeds)} seeds")


def run_network(
    problem: Problem,
    times: Any,
    *,
    seeds: Sequence[int],
    progress: Progress | None = None,
    strategy: str = "auto",
    memory: float | None = None,
    checkpoint: str | os.PathLike | None = None,
) -> NetworkRuns:
    r"""Losses of finite networks of one size over training, for every seed and every point of the numeric axes.

    One compiled program holds the loop over steps and takes its batches from data on the device. Initial weights, training rows
    and the order of batches depend on the seed only: runs at different rates differ in nothing else. A run whose loss is not
    finite, or above a thousand times its start plus the loss of the answer 0, has diverged: its losses are `inf` from then on.

    Numbers repeat to the bit with the same strategy, memory and machine; strategies differ by rounding.

    Args:
        problem: A network on data or tokens. Its only axes may be `learning_rate`, `weight_decay`, `momentum` and `epsilon`.
        times: Numbers of steps, as for `train`; 0 is before training, and `inf` the end of a run with a `horizon`.
        seeds: The seeds.
        progress: `progress(done, total, label)`, called now and then with steps over all runs.
        strategy: How runs are spread over the machine: `"single"` (one after another on all cores), `"vmap"` (batches of them),
            `"per-core"` (one on every core) or `"both"`. `"auto"` is `"vmap"` on an accelerator; on a CPU it goes by the
            arithmetic of a step for short work and times each way for a moment for long work.
        memory: Bytes that all runs under way may take together by the estimate; 1 GiB or half of what is free by default. More
            runs are done in chunks.
        checkpoint: A folder where the state is kept at recorded times. The same call after a kill goes on from there and gives
            the same bits.

    Raises:
        UnsupportedProblem: Not a network that can be trained.
        InvalidInput: Other axes, wrong times or seeds, or a folder of other runs.
        TooLarge: One network does not fit in memory.
        RunsInterrupted: Ctrl-C after at least one seed was finished.

    Example:
        >>> from foretrain.problems import MLP, NetworkTraining, Problem
        >>> from foretrain.tasks import Digits
        >>> from foretrain.training import run_network
        >>> problem = Problem(Digits(), MLP(width=16), NetworkTraining(learning_rate=[0.1, 0.5], batch_size=32, samples=1000))
        >>> run_network(problem, [0, 10], seeds=[0, 1, 2]).test_loss.shape
        (2, 3, 2)
    """
    sweep, grid = network_sweep(problem, times)
    numbers = _checked(seeds)
    program = sweep.program()
    cost = cost_of(sweep, program)
    kept = None
    if checkpoint is not None:
        kept = Checkpoint(checkpoint, ("run_network", problem.digest(), list(sweep.times), list(numbers)))
    begun = None if kept is None else kept.plan()
    plan = make_plan(sweep, numbers, cost, strategy, memory) if begun is None else Plan(**begun)
    if kept is not None and begun is None:
        kept.plan(dataclasses.asdict(plan))
    program = sweep.program(single_threaded=plan.single_threaded)
    data = sweep.placed()
    chunks = plan.chunks(len(numbers), len(sweep.points))
    block = block_steps(sweep, plan.seeds * plan.points, plan.seeds, cost.flops)

    def work(number: int, check: Callable[[int], None]) -> ChunkResult:
        own, points = chunks[number]
        state = None if kept is None else kept.chunk(number)
        chosen = [numbers[s] for s in own]
        return run_chunk(sweep, program, chosen, points, data=data, block=block, check=check, kept=state)

    total = len(chunks) * plan.seeds * plan.points * max(sweep.times)
    found: dict[int, ChunkResult] = {}
    interrupted = False
    try:
        for number, result in in_turn(work, len(chunks), plan.workers, total, progress):
            found[number] = result
    except KeyboardInterrupt:
        interrupted = True
    whole = _joined(sweep, numbers, chunks, found)
    finished = [i for i in range(len(numbers)) if whole.complete[i]]
    if interrupted and not finished:
        raise KeyboardInterrupt
    runs = _runs(sweep, grid, numbers, finished, whole, found, plan, cost, program)
    if interrupted:
        raise RunsInterrupted(runs)
    return runs


def network_sweep(problem: Problem, times: Any) -> tuple[Sweep, Float[np.ndarray, " time"]]:
    """The runs that `run_network` makes, and the times in the order in which they were given.

    Args:
        problem: As for `run_network`.
        times: As for `run_network`.
    """
    from foretrain.training._train import untrainable

    axes = problem.axes()
    others = [name for name in axes if name not in NUMERIC]
    if others:
        raise InvalidInput(
            f"run_network(problem): expected no axes but {', '.join(NUMERIC)}, got {', '.join(others)}; `train` loops over them."
        )
    points = tuple(dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))
    for point in points:
        reason = untrainable(problem.select(point))
        if reason is not None:
            raise UnsupportedProblem(f"run_network: {reason}.")
    grid = protocol_times(problem.training, times, "run_network")
    assert grid is not None  # networks have times
    check_steps(problem.training, grid, "run_network")  # type: ignore[arg-type]
    numbers = {name: getattr(problem.training, name) for name in NUMERIC}
    filled = tuple({**{n: v for n, v in numbers.items() if n not in axes}, **point} for point in points)
    horizon: int | None = problem.training.horizon  # type: ignore[attr-defined]
    steps = tuple(sorted({int(t) for t in steps_at(grid, horizon)}))
    data = network_data(problem)
    reason = wrong_images(problem.model, data.inputs_size)  # type: ignore[arg-type]
    if reason is not None:
        raise UnsupportedProblem(f"run_network: {reason}.")
    return Sweep(problem, data, filled, steps), grid


def steps_at(times: Float[np.ndarray, " time"], horizon: int | None) -> Float[np.ndarray, " time"]:
    """Numbers of steps at the times.

    Args:
        times: Numbers of steps; `inf` is the end of the run.
        horizon: Steps of a whole run.
    """
    return times if horizon is None else np.where(np.isinf(times), float(horizon), times)


def _checked(seeds: Sequence[int]) -> tuple[int, ...]:
    found = tuple(int(seed) for seed in seeds)
    if not found or len(set(found)) != len(found) or min(found) < 0 or max(found) >= 2**32:
        raise InvalidInput(
            f"run_network(seeds): expected distinct whole numbers from 0 to 2^32 - 1, got {list(seeds)!r}."
        )
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class _Whole:
    """All chunks in their places, and which seeds are finished at every point."""

    losses: Float[np.ndarray, "losses seeds points time"]
    post: Float[np.ndarray, "losses seeds points time post"]
    diverged: Bool[np.ndarray, "seeds points"]
    complete: Bool[np.ndarray, " seeds"]


def _joined(
    sweep: Sweep, seeds: Sequence[int], chunks: Sequence[tuple[list[int], list[int]]], found: dict[int, ChunkResult]
) -> _Whole:
    shape = (len(seeds), len(sweep.points))
    losses, diverged = np.full((3, *shape, len(sweep.times)), np.nan), np.zeros(shape, bool)
    post = np.full((2, *shape, len(sweep.times), len(sweep.post)), np.nan)
    there = np.zeros(shape, bool)
    for number, result in found.items():
        place = np.ix_(*chunks[number])
        there[place], diverged[place] = True, result.diverged
        for part, values in zip(losses, (result.train_loss, result.test_loss, result.accuracy), strict=True):
            part[place] = values
        for part, values in zip(post, (result.train_loss_post, result.test_loss_post), strict=True):
            part[place] = values
    return _Whole(losses, post, diverged, np.all(there, axis=1))


def _runs(
    sweep: Sweep,
    grid: Float[np.ndarray, " time"],
    seeds: tuple[int, ...],
    finished: Sequence[int],
    whole: _Whole,
    found: dict[int, ChunkResult],
    plan: Plan,
    cost: Cost,
    program: Program,
) -> NetworkRuns:
    horizon = sweep.training.horizon
    places = [sweep.times.index(int(t)) for t in steps_at(grid, horizon)]
    axes = sweep.problem.axes()
    seconds = sum(result.seconds for result in found.values()) / min(plan.workers, max(1, len(found)))
    losses = whole.losses[:, finished][..., places].swapaxes(1, 2)
    post = whole.post[:, finished][:, :, :, places].swapaxes(1, 2)
    batch = sweep.training.batch_size or sweep.data.samples
    if sweep.data.classes is None:
        losses[2] = np.nan
    return NetworkRuns(
        *losses,
        diverged=whole.diverged[finished].T,
        points=tuple({name: point[name] for name in axes} for point in sweep.points),
        seeds=tuple(seeds[i] for i in finished),
        times=grid,
        steps_per_second=sum(result.steps for result in found.values()) / seconds if seconds > 0 else math.nan,
        flops_per_step=cost.flops,
        parameters=program.parameters,
        strategy=plan.strategy,
        has_classes=sweep.data.classes is not None,
        horizon=horizon,
        params_no_embed=program.params_no_embed,
        tokens_per_step=batch * (sweep.data.context or 1),
        post=sweep.post,
        train_loss_post=post[0] if sweep.post else None,
        test_loss_post=post[1] if sweep.post else None,
    )
