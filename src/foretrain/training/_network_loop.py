"""One chunk of runs from start to end: steps, recorded losses, divergence, and states to go on from."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int32

from foretrain._formats import top_level
from foretrain.problems import Problem
from foretrain.training._network_data import NetworkData
from foretrain.training._network_post import deployed_losses
from foretrain.training._network_program import NUMERIC, TOP, Program, Shape, compiled_precision, program_of
from foretrain.training._network_state import ChunkState

# Examples (rows, windows of tokens) that are evaluated at once.
_ROWS_AT_ONCE, _WINDOWS_AT_ONCE = 256, 16
# Steps of one call of the compiled program: at most so many, so much arithmetic, and so many entries of its table of batches.
_STEPS, _OPERATIONS, _ENTRIES = 512, 3e10, 2**22
# A loss this many times the loss at the start plus that of the answer 0 counts as diverged.
_DIVERGED = 1e3

Losses = Float[np.ndarray, "seeds points time"]


@dataclasses.dataclass(frozen=True, eq=False)
class Sweep:
    """Runs that share one compiled program.

    Args:
        problem: A network problem whose only axes are numbers of the training.
        data: Its examples.
        points: The values of those axes, one table a point, last axis fastest.
        times: Numbers of steps at which losses are recorded, ascending.
    """

    problem: Problem
    data: NetworkData
    points: tuple[dict[str, float], ...]
    times: tuple[int, ...]

    @property
    def training(self) -> Any:
        """The protocol."""
        return self.problem.training

    @property
    def post(self) -> tuple[int, ...]:
        """Bits that weights are rounded to after training."""
        return () if self.training.precision is None else self.training.precision.post

    def program(self, *, single_threaded: bool = False) -> Program:
        """The compiled program of all runs.

        Args:
            single_threaded: Whether it may use one thread only.
        """
        traced = tuple(name for name in NUMERIC if name == "learning_rate" or name in self.training.axes())
        # What does not enter the program must not tell two programs apart.
        same: dict[str, Any] = dict.fromkeys(traced, 0.5) | {"schedule": None, "batch_size": None, "samples": None}
        same |= {"horizon": None, "precision": compiled_precision(self.training)}
        data = self.data
        return program_of(
            Shape(
                self.problem.model,  # type: ignore[arg-type]
                self.training.replace(**same, fresh=False),
                traced,
                self.training.schedule is not None,
                data.loss,
                data.classes,
                data.inputs_size,
                data.outputs,
                data.context,
                single_threaded,
            )
        )

    def placed(self) -> dict[str, jax.Array]:
        """The examples on the device, in the precision of the training."""
        targets = self.data.targets
        if targets.dtype.kind == "f":
            targets = targets.astype(self.training.dtype)
        inputs = self.data.inputs
        if inputs.dtype.kind == "f":
            inputs = inputs.astype(self.training.dtype)
        with jax.enable_x64(self.training.dtype == "float64"):
            return {"inputs": jnp.asarray(inputs), "targets": jnp.asarray(targets)}


@dataclasses.dataclass(frozen=True, eq=False)
class ChunkResult:
    """Losses of a chunk; `inf` (accuracy: NaN) from the time at which a run had diverged.

    Args:
        train_loss: On the evaluated training examples.
        test_loss: On the test examples.
        accuracy: On the test examples; NaN without classes.
        diverged: Whether the run blew up.
        seconds: Spent on steps.
        steps: Steps taken, over all runs.
        train_loss_post: As `train_loss`, with weights that were rounded after training.
        test_loss_post: The same for `test_loss`.
    """

    train_loss: Losses
    test_loss: Losses
    accuracy: Losses
    diverged: Bool[np.ndarray, "seeds points"]
    seconds: float
    steps: int
    train_loss_post: Float[np.ndarray, "seeds points time post"]
    test_loss_post: Float[np.ndarray, "seeds points time post"]


def block_steps(sweep: Sweep, runs: int, seeds: int, flops: float) -> int:
    """Steps of one call of the compiled program: short enough to be interrupted, long enough that calling costs nothing.

    Args:
        sweep: What is run.
        runs: In the chunk.
        seeds: In the chunk.
        flops: Of one step of one run.
    """
    batch = sweep.training.batch_size
    gap = int(max(np.diff(sweep.times, prepend=0), default=1))
    if sweep.training.horizon is not None:  # runs of many lengths then share few programs
        gap = 2 ** (gap - 1).bit_length()
    most = _STEPS if batch is None else min(_STEPS, _ENTRIES // (seeds * batch))
    return int(max(2, min(most, gap, _OPERATIONS / max(1.0, flops * runs))))


def run_chunk(
    sweep: Sweep,
    program: Program,
    seeds: Sequence[int],
    points: Sequence[int],
    *,
    data: Mapping[str, jax.Array],
    block: int,
    check: Callable[[int], None] = lambda steps: None,
    kept: ChunkState | None = None,
) -> ChunkResult:
    """Train the runs of some seeds at some points together.

    Args:
        sweep: What is run.
        program: Its compiled program.
        seeds: The seeds.
        points: Positions of the points.
        data: What `sweep.placed` returned.
        block: Steps of one call.
        check: Called with the number of steps (times runs) after every call; may raise to stop.
        kept: Where the state is kept at recorded times, and taken from.
    """
    runs = len(seeds) * len(points)
    with jax.enable_x64(sweep.training.dtype == "float64"):
        with program.lock:  # another thread then finds everything compiled
            run = Run(sweep, program, seeds, points, data, block)
            run.compile()
            record = _Record(len(seeds), len(points), len(sweep.times), sweep.data.target_scale, len(sweep.post))
            record.start(run.losses())
        position = done = 0
        found = None if kept is None else kept.load(run.state)
        if found is not None:
            numbers, run.state = found
            position, done = int(numbers.pop("position")), int(numbers.pop("done"))
            vars(record).update(numbers)
            check(done * runs)
        seconds, taken = 0.0, 0
        while position < len(sweep.times):
            stop = sweep.times[position]
            while done < stop:
                last = min(stop, done + block)
                began = time.perf_counter()
                run.advance(done, last)
                seconds += time.perf_counter() - began
                taken += last - done
                check((last - done) * runs)
                done = last
            record.add(position, run.losses())
            if sweep.post and not record.diverged.all():
                record.add_post(position, *deployed_losses(run))
            position = len(sweep.times) if record.diverged.all() else position + 1
            if kept is not None:
                now = {"position": np.asarray(position), "done": np.asarray(done), **vars(record)}
                kept.save(now, run.state, last=position == len(sweep.times))
    return ChunkResult(
        record.train,
        record.test,
        record.accuracy,
        record.diverged,
        seconds,
        taken * runs,
        record.train_post,
        record.test_post,
    )


class Run:
    """The arrays of a chunk on the device. Make it and call it in the scope of its precision.

    Args:
        sweep: What is run.
        program: Its compiled program.
        seeds: The seeds.
        points: Positions of the points.
        data: What `sweep.placed` returned.
        block: Steps of one call.
    """

    def __init__(
        self,
        sweep: Sweep,
        program: Program,
        seeds: Sequence[int],
        points: Sequence[int],
        data: Mapping[str, jax.Array],
        block: int,
    ):
        training, dtype = sweep.training, sweep.training.dtype
        self.sweep, self.program, self.seeds, self.data, self.block = sweep, program, seeds, data, block
        names = program.shape.traced
        self.hyper = {n: jnp.asarray([sweep.points[p][n] for p in points], dtype) for n in names}
        precision = training.precision
        if precision is not None and isinstance(precision.weights, int):
            self.hyper[TOP] = jnp.full(len(points), top_level(precision.weights), dtype)
        starts = [program.start(jax.random.key(seed)) for seed in seeds]
        starts = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *starts)
        self.state = program.prepare(starts, self.hyper)
        self.starts = starts if training.centre else None
        steps = max(1, sweep.times[-1])
        schedule = None if training.schedule is None else training.schedule.over(training.horizon)
        # In blocks of one size, so that runs of any length share a compiled program.
        self.factors = None if schedule is None else np.pad(schedule.factors(steps).astype(dtype), (0, block))
        found = [_blocks(sweep, seed) for seed in seeds]
        self.rows = jnp.asarray(np.stack([rows for rows, _ in found]))
        self.kept = found[0][1]

    def compile(self) -> None:
        """No steps, so that the first ones take no longer than the others."""
        self.advance(0, 0)

    def advance(self, first: int, last: int) -> None:
        """The steps `first` to `last`."""
        training = self.sweep.training
        parts = [
            self.sweep.data.batches(seed, training.batch_size, training.fresh, first, max(last, first + 1))
            for seed in self.seeds
        ]
        table = np.stack(parts)
        if training.batch_size is not None:
            table = np.pad(table, ((0, 0), (0, self.block - table.shape[1]), (0, 0)))
        factors = None if self.factors is None else jnp.asarray(self.factors[first : first + self.block])
        ends = np.int32(first), np.int32(0), np.int32(last - first)
        arguments = (self.starts, self.hyper, factors, self.data, jnp.asarray(table), *ends)
        self.state = jax.block_until_ready(self.program.advance(self.state, *arguments))

    def losses(self) -> tuple[Float[np.ndarray, "seeds points 2"], Float[np.ndarray, "seeds points 2"]]:
        """Means of loss and accuracy over training and test examples."""
        return self.losses_of(self.state[0])

    def losses_of(
        self, params: Any, *, deployed: bool = False
    ) -> tuple[Float[np.ndarray, "seeds points 2"], Float[np.ndarray, "seeds points 2"]]:
        """The same for given weights, which are taken as they are when they are `deployed`."""
        arguments = (params, self.starts, self.hyper, self.data, self.rows)
        found = np.asarray(self.program.evaluate(*arguments, deployed=deployed), np.float64)
        found = np.moveaxis(found, 3, 2).reshape(*found.shape[:2], 2, -1)
        (a, b), (c, d) = self.kept
        with np.errstate(over="ignore", invalid="ignore"):
            return found[..., a:b].mean(axis=-1), found[..., c:d].mean(axis=-1)


def _blocks(sweep: Sweep, seed: int) -> tuple[Int32[np.ndarray, "blocks size"], tuple[tuple[int, int], ...]]:
    """Evaluated examples in blocks of one size, and where those of training and of testing are once they are in a row."""
    parts = sweep.data.evaluated(seed)
    most = _ROWS_AT_ONCE if sweep.data.context is None else _WINDOWS_AT_ONCE
    size = min(most, max(map(len, parts)))
    padded = [np.pad(part, (0, -len(part) % size), mode="edge") for part in parts]
    start = len(padded[0])
    return np.concatenate(padded).reshape(-1, size), ((0, len(parts[0])), (start, start + len(parts[1])))


class _Record:
    """Losses of a chunk over time."""

    def __init__(self, seeds: int, points: int, times: int, scale: float, post: int):
        shape = (seeds, points, times)
        self.train, self.test = np.full(shape, np.inf), np.full(shape, np.inf)
        self.train_post, self.test_post = np.full((*shape, post), np.inf), np.full((*shape, post), np.inf)
        self.accuracy = np.full(shape, np.nan)
        self.diverged = np.zeros((seeds, points), bool)
        self.scale = np.asarray(scale)
        self.most = np.zeros((seeds, points))

    def start(self, losses: tuple[np.ndarray, np.ndarray]) -> None:
        """What a loss is compared with."""
        with np.errstate(invalid="ignore", over="ignore"):
            self.most = _DIVERGED * (losses[0][..., 0] + self.scale)

    def add(self, position: int, losses: tuple[np.ndarray, np.ndarray]) -> None:
        """Losses at a time; runs that have diverged keep `inf`."""
        (train, _), (test, right) = (np.moveaxis(part, -1, 0) for part in losses)
        with np.errstate(invalid="ignore"):
            self.diverged |= ~(np.isfinite(train) & np.isfinite(test) & (train <= self.most))
        fine = ~self.diverged
        for array, values in ((self.train, train), (self.test, test), (self.accuracy, right)):
            array[..., position][fine] = values[fine]

    def add_post(
        self, position: int, train: Float[np.ndarray, "seeds points post"], test: Float[np.ndarray, "seeds points post"]
    ) -> None:
        """Losses with rounded weights at a time."""
        fine = ~self.diverged
        for array, values in ((self.train_post, train), (self.test_post, test)):
            array[..., position, :][fine] = np.where(np.isfinite(values[fine]), values[fine], np.inf)
