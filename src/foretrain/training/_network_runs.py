"""`run_network`: finite networks of one size, over seeds and over everything that only changes numbers."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from foretrain.errors import InvalidInput, UnsupportedProblem
from foretrain.problems import Problem, protocol_times
from foretrain.training._network_data import network_data
from foretrain.training._network_loop import ChunkResult, Sweep, block_steps, run_chunk
from foretrain.training._network_program import NUMERIC

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
        steps_per_second: Of all runs together, without compilation and evaluation.
        flops_per_step: Multiplications and additions of matrix products in one step of one run: three times a forward pass.
        parameters: Trained numbers of one network.
        strategy: How the runs were spread over the machine.
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


def run_network(problem: Problem, times: Any, *, seeds: Sequence[int], progress: Progress | None = None) -> NetworkRuns:
    r"""Losses of finite networks of one size over training, for every seed and every point of the numeric axes.

    One compiled program holds the loop over steps and takes its batches from data on the device. Initial weights, training rows
    and the order of batches depend on the seed only: runs at different rates differ in nothing else.

    Args:
        problem: A network on data or tokens. Its only axes may be `learning_rate`, `weight_decay`, `momentum` and `epsilon`.
        times: Numbers of steps, as for `train`; 0 is before training.
        seeds: The seeds.
        progress: `progress(done, total, label)`, called now and then with steps over all runs.

    Raises:
        UnsupportedProblem: Not a network that can be trained.
        InvalidInput: Other axes, or wrong times or seeds.

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
    data = sweep.placed()
    runs = len(numbers) * len(sweep.points)
    total = runs * max(sweep.times)
    done = 0

    def check(steps: int) -> None:
        nonlocal done
        done += steps
        if progress is not None:
            progress(done, total, "train")

    if progress is not None:
        progress(0, total, "train")
    flops = 0.0
    block = block_steps(sweep, runs, len(numbers), flops)
    found = run_chunk(sweep, program, numbers, range(len(sweep.points)), data=data, block=block, check=check)
    return _gathered(sweep, grid, numbers, found, flops, program.parameters, "vmap")


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
    if grid is None or np.any(np.isinf(grid)):
        raise InvalidInput("run_network(times): expected finite numbers of steps, got inf.")
    numbers = {name: getattr(problem.training, name) for name in NUMERIC}
    filled = tuple({**{n: v for n, v in numbers.items() if n not in axes}, **point} for point in points)
    steps = tuple(sorted({int(t) for t in grid}))
    return Sweep(problem, network_data(problem), filled, steps), grid


def _checked(seeds: Sequence[int]) -> tuple[int, ...]:
    found = tuple(int(seed) for seed in seeds)
    if not found or len(set(found)) != len(found) or min(found) < 0 or max(found) >= 2**32:
        raise InvalidInput(
            f"run_network(seeds): expected distinct whole numbers from 0 to 2^32 - 1, got {list(seeds)!r}."
        )
    return found


def _gathered(
    sweep: Sweep,
    grid: Float[np.ndarray, " time"],
    seeds: tuple[int, ...],
    found: ChunkResult,
    flops: float,
    parameters: int,
    strategy: str,
) -> NetworkRuns:
    places = [sweep.times.index(int(t)) for t in grid]
    losses = (np.swapaxes(a, 0, 1)[..., places] for a in (found.train_loss, found.test_loss, found.accuracy))
    axes = sweep.problem.axes()
    return NetworkRuns(
        *losses,
        diverged=found.diverged.T,
        points=tuple({name: point[name] for name in axes} for point in sweep.points),
        seeds=seeds,
        times=grid,
        steps_per_second=found.steps / found.seconds if found.seconds > 0 else float("nan"),
        flops_per_step=flops,
        parameters=parameters,
        strategy=strategy,
    )
