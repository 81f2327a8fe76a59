r"""How the runs of a sweep are spread over the machine: which share a compiled call, and how many calls are under way.

On a CPU one single-threaded run on every core is mostly the fastest, as products of small networks are too small to share; a batch of runs
in one program wins for very small networks, and on accelerators. Calls run in threads of one process: compiled programs release the
interpreter, and a program compiled for one thread leaves the other cores alone. That measures no slower than processes, and
costs neither their start nor a second compilation.
"""

import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import jax
import numpy as np

from foretrain.errors import InvalidInput, TooLarge, nearest
from foretrain.kernels._gram import free_memory
from foretrain.training._network_loop import Run, Sweep, block_steps
from foretrain.training._network_program import Program
from foretrain.training._sampling import Stopped, cores

STRATEGIES = ("auto", "single", "vmap", "per-core", "both")
# Runs in one batched program on a CPU: more of them no longer fit its caches.
_MOST_TOGETHER = 8
# Memory that the runs under way may take together, unless told otherwise: this, or half of what is free.
_BUDGET, _SHARE = 2**30, 0.5
# Below so many seconds of estimated work nothing is timed: the choice falls by the arithmetic of a step, and is the same
# everywhere. Arithmetic per second and seconds of a step are those of one core; only the order of magnitude matters.
_WORTH_TIMING, _SPEED, _STEP = 20.0, 3e10, 5e-5
_SMALL_STEP = 2e7
# Seconds that each way is timed for, and how much better than another it must be to be preferred.
_TIMED, _BETTER = 0.3, 0.97

# Seconds between two reports of progress.
_LOOK = 0.2

T = TypeVar("T")

_CHOSEN: dict[str, str] = {}


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one run takes.

    Args:
        flops: Multiplications and additions of matrix products of a step: of a forward pass, twice that for the way back,
            and of one more pass when the output at the start is subtracted.
        bytes: Weights, gradients, the optimizer's memory and activations.
    """

    flops: float
    bytes: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """Chunks of runs, all of one shape.

    Args:
        strategy: `"single"`: one run after another on all cores. `"vmap"`: batches of runs, one after another. `"per-core"`:
            a run on every core. `"both"`: a batch of runs on every core.
        seeds: Seeds in a chunk.
        points: Points in a chunk.
        workers: Chunks under way at once.
    """

    strategy: str
    seeds: int
    points: int
    workers: int

    @property
    def single_threaded(self) -> bool:
        """Whether a program may use one thread only."""
        return self.workers > 1

    def chunks(self, seeds: int, points: int) -> list[tuple[list[int], list[int]]]:
        """Positions of seeds and points of every chunk; the last ones repeat entries so that all have one shape."""
        return [(s, p) for s in _split(seeds, self.seeds) for p in _split(points, self.points)]


def _split(count: int, size: int) -> list[list[int]]:
    return [[min(i, count - 1) for i in range(start, start + size)] for start in range(0, count, size)]


def cost_of(sweep: Sweep, program: Program) -> Cost:
    """What one run of a sweep takes.

    Args:
        sweep: The runs.
        program: Their program.
    """
    batch = sweep.training.batch_size or sweep.data.samples
    forward, elements = _count(program.forward(batch))
    size = np.dtype(sweep.training.dtype).itemsize
    passes = 4 if sweep.training.centre else 3
    memory = {"sgd": 0, "momentum": 1, "nesterov": 1, "lion": 1}.get(sweep.training.optimizer, 2)
    return Cost(passes * forward, size * (program.parameters * (4 + memory + (passes == 4)) + 2 * elements))


def _count(jaxpr: Any) -> tuple[float, float]:
    """Arithmetic of matrix products, and numbers that all operations make, in a traced function."""
    flops = elements = 0.0
    for equation in jaxpr.eqns:
        name, made = equation.primitive.name, sum(math.prod(v.aval.shape) for v in equation.outvars)
        if name == "dot_general":
            left = equation.invars[0].aval.shape
            (summed, _), _ = equation.params["dimension_numbers"]
            flops += 2.0 * made * math.prod(left[axis] for axis in summed)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            flops += 2.0 * made * math.prod(kernel) / kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        inner = [_count(body) for body in _bodies(equation.params)]
        times = equation.params.get("length", 1) if name == "scan" else 1
        flops += times * sum(part for part, _ in inner)
        elements += times * sum(part for _, part in inner) if inner else made
    return flops, elements


def _bodies(params: dict[str, Any]) -> list[Any]:
    """Traced functions among the parameters of an operation."""
    values = [v for value in params.values() for v in (value if isinstance(value, (tuple, list)) else (value,))]
    found = [getattr(value, "jaxpr", value) for value in values]
    return [value for value in found if hasattr(value, "eqns")]


def memory_budget(memory: float | None) -> float:
    """Bytes that the runs under way may take together.

    Args:
        memory: What was asked for.

    Raises:
        InvalidInput: Not a positive number.
    """
    if memory is None:
        return min(_BUDGET, _SHARE * free_memory())
    if isinstance(memory, bool) or not isinstance(memory, (int, float)) or not memory > 0:
        raise InvalidInput(f"run_network(memory): expected a number of bytes > 0, got {memory!r}.")
    return float(memory)


def make_plan(sweep: Sweep, seeds: Sequence[int], cost: Cost, strategy: str, memory: float | None) -> Plan:
    """How the runs are spread over the machine.

    Args:
        sweep: The runs.
        seeds: The seeds.
        cost: Of one run.
        strategy: One of `STRATEGIES`; `"auto"` is `"vmap"` on an accelerator. On a CPU it goes by the arithmetic of a step for
            short work, and times each way for a moment for long work.
        memory: Bytes that the runs under way may take together.

    Raises:
        InvalidInput: No such strategy, or no such amount of memory.
        TooLarge: One run does not fit in memory.
    """
    if strategy not in STRATEGIES:
        raise InvalidInput(
            f"run_network(strategy): expected one of {', '.join(map(repr, STRATEGIES))}, got {strategy!r}{nearest(strategy, STRATEGIES)}."
        )
    budget, free = memory_budget(memory), free_memory()
    if cost.bytes > free:
        raise TooLarge(
            f"train: one network needs about {cost.bytes / 1e9:.1f} GB with its gradients and activations, {free / 1e9:.1f} GB are "
            "free; use a smaller batch or a smaller network."
        )
    runs = len(seeds) * len(sweep.points)

    def plan(name: str) -> Plan:
        return _plan(name, len(seeds), len(sweep.points), budget / cost.bytes)

    if strategy != "auto":
        return plan(strategy)
    if runs == 1:
        return plan("single")
    if jax.default_backend() != "cpu":
        return plan("vmap")
    key = _key(sweep, runs)
    if key in _CHOSEN:
        return plan(_CHOSEN[key])
    if sweep.times[-1] * runs * (_STEP + cost.flops / _SPEED) < _WORTH_TIMING:
        return plan("vmap" if cost.flops < _SMALL_STEP or cores() == 1 else "per-core")
    _CHOSEN[key] = _fastest(sweep, seeds, cost, plan)
    return plan(_CHOSEN[key])


def chosen_strategies() -> dict[str, str]:
    """What was timed in this process: key of a sweep to strategy. Results keep it, so that a rerun computes in the same way."""
    return dict(_CHOSEN)


def remember_strategies(chosen: dict[str, str]) -> None:
    """Take over what another process had timed.

    Args:
        chosen: What `chosen_strategies` returned there.
    """
    for key, name in chosen.items():
        if name in STRATEGIES:
            _CHOSEN.setdefault(key, name)


def _key(sweep: Sweep, runs: int) -> str:
    training = sweep.training
    return f"{sweep.problem.model.digest()[:16]} {sweep.data.inputs_size} {training.optimizer} {training.batch_size} {training.dtype} {min(runs, 64)} {cores()}"


def _plan(name: str, seeds: int, points: int, fit: float) -> Plan:
    """The plan of a strategy when so many runs fit in the memory."""
    workers = 1
    if name in ("per-core", "both"):
        workers = int(max(1, min(cores(), seeds * points, fit)))
    most = 1
    if name in ("vmap", "both"):
        most = int(max(1, min(fit // workers, -(-seeds * points // workers))))
        if jax.default_backend() == "cpu":
            most = min(most, _MOST_TOGETHER)
    # All points of a seed share its batches, so points are put together first; equal chunks waste the least.
    together = -(-points // -(-points // most)) if points > most else points
    own = max(1, most // together)
    return Plan(name, min(own, seeds), together, workers)


def _fastest(sweep: Sweep, seeds: Sequence[int], cost: Cost, plan: Callable[[str], Plan]) -> str:
    """The strategy with the least time for a step of a run."""
    plans = {name: plan(name) for name in ("per-core", "both", "vmap", "single")}
    found = dict.fromkeys(plans, math.inf)
    for _ in range(2):  # in turn, so that a moment when the machine is busy does not decide
        for name, one in plans.items():
            found[name] = min(found[name], timed(sweep, seeds, one, cost))
    best = "single"  # a tie goes to the runs one after another, which nothing can make slower than they are
    for name, seconds in found.items():
        best = name if seconds < _BETTER * found[best] else best
    return best


def timed(sweep: Sweep, seeds: Sequence[int], plan: Plan, cost: Cost, seconds: float = _TIMED) -> float:
    """Seconds that a step of a run takes, measured on steps that are thrown away.

    Args:
        sweep: The runs.
        seeds: The seeds.
        plan: How they are spread.
        cost: Of one run.
        seconds: How long to measure, at least.
    """
    program = sweep.program(single_threaded=plan.single_threaded)
    data = sweep.placed()
    block = block_steps(sweep, plan.seeds * plan.points, plan.seeds, cost.flops)
    chunks = plan.chunks(len(seeds), len(sweep.points))
    made = [chunks[i % len(chunks)] for i in range(plan.workers)]
    with jax.enable_x64(sweep.training.dtype == "float64"):
        runs = [Run(sweep, program, [seeds[s] for s in own], points, data, block) for own, points in made]
        for run in runs:
            run.compile()
    steps = 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        in_threads([lambda run=run: _step(sweep, run, block) for run in runs])
        steps += block
    return (time.perf_counter() - began) / (steps * len(runs) * plan.seeds * plan.points)


def _step(sweep: Sweep, run: Run, block: int) -> None:
    with jax.enable_x64(sweep.training.dtype == "float64"):
        run.advance(0, block)


def in_threads(tasks: Sequence[Callable[[], None]]) -> None:
    """Do all at once.

    Args:
        tasks: What to do.
    """
    if len(tasks) == 1:
        return tasks[0]()
    threads = [threading.Thread(target=task, daemon=True) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return None


def in_turn(
    work: Callable[[int, Callable[[int], None]], T],
    count: int,
    workers: int,
    total: int,
    progress: Callable[[int, int, str], None] | None,
) -> Iterator[tuple[int, T]]:
    """Results of chunks as they finish. When the consumer stops early (or Ctrl-C arrives), those under way are asked to stop.

    Args:
        work: `work(number, check)`; calls `check(steps)` now and then, which raises when work should stop.
        count: Number of chunks.
        workers: Chunks under way at once.
        total: Steps of all of them.
        progress: `progress(done, total, label)`; only called from the calling thread.

    Yields:
        Number of a chunk, and its result.
    """
    done = 0
    stop, lock = threading.Event(), threading.Lock()

    def report() -> None:
        if progress is not None:
            progress(min(done, total), total, "train")

    def check(steps: int) -> None:
        nonlocal done
        if stop.is_set():
            raise Stopped
        with lock:
            done += steps
        if workers == 1:
            report()

    report()
    if workers == 1:
        for number in range(count):
            yield number, work(number, check)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: dict[Future[T], int] = {pool.submit(work, number, check): number for number in range(count)}
        try:
            while waiting:
                ready, _ = wait(waiting, timeout=_LOOK, return_when=FIRST_COMPLETED)
                report()
                for future in ready:
                    yield waiting.pop(future), future.result()
        finally:
            stop.set()
            for future in waiting:
                future.cancel()
