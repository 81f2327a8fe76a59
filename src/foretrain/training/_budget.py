"""What a training run will take, and whether this machine has it."""

import dataclasses
import math
from collections.abc import Sequence

from foretrain.errors import TooLarge
from foretrain.kernels._gram import free_memory
from foretrain.tasks import DataSet
from foretrain.training._data_student import MOST_TEST_ROWS
from foretrain.training._evolution import TIME_CHUNK
from foretrain.training._linear_student import MODE_BLOCK
from foretrain.training._sampling import cores

# Share of the free memory that training may take, and the longest run that is begun without being asked twice.
_FRACTION = 0.7
_LONGEST_HOURS = 72.0
# Operations per second of one core on matrix products of middling size; only the order of magnitude matters.
_SPEED = 2e10
# Seconds of one core for: a step that does nothing, a number that is read from memory, a Gaussian number.
_STEP, _READ, _DRAW = 1e-6, 2e-10, 8e-9


@dataclasses.dataclass(frozen=True)
class Cost:
    """Bytes that one seed needs at its peak, and arithmetic operations it takes."""

    bytes: float
    operations: float

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.bytes + other.bytes, self.operations + other.operations)


def linear_cost(modes: int, widths: Sequence[float], samples: Sequence[float], students: int, times: int) -> Cost:
    """The cost of one seed of the linear student over all its sizes."""
    p = max((s for s in samples if math.isfinite(s)), default=0)
    n = max((min(w, modes) for w in widths if math.isfinite(w)), default=0)
    widest = max((w for w in widths if math.isfinite(w)), default=0)
    block = min(modes, MODE_BLOCK)
    e = students
    memory = 2 * e * p * n + 3 * (e * n) ** 2 + 2 * block * (p + e * n)
    memory += 2 * modes * widest if widest > modes else 0
    operations = 2 * modes * (p * e * n + (e * n) ** 2)
    if any(math.isinf(w) for w in widths) and p:
        memory += 2 * p * modes + 3 * modes**2 if p >= modes else 3 * p * p
        operations += 2 * modes * p * min(p, modes)
    side = _largest_side([min(w, modes) for w in widths], [min(s, modes) if math.isinf(s) else s for s in samples])
    return _with_decompositions(memory, operations, side, len(widths) * len(samples), e * n, 2, times)


def data_cost(data: DataSet, widths: Sequence[float], samples: Sequence[float], students: int, times: int) -> Cost:
    """The cost of one seed of random networks or kernels over all their sizes."""
    p = max(samples)
    test = len(data.test_inputs) if data.test_inputs is not None else min(MOST_TEST_ROWS, len(data) - 1)
    n = max((w for w in widths if math.isfinite(w)), default=0)
    e, d = students, data.inputs.shape[1]
    memory = (p + test) * d + 1.5 * e * (p + test) * n + e * p * n + 3 * (e * n) ** 2
    operations = 2 * (p + test) * n * e * (d + n * e)
    if any(math.isinf(w) for w in widths):
        memory += 3 * p * p
        operations += 2 * test * p * (p + 50)
    side = _largest_side(widths, samples)
    return _with_decompositions(
        memory, operations, side, len(widths) * len(samples), e * n, data.targets.shape[1], times
    )


def stepping_cost(
    steps: int,
    batch_sizes: Sequence[int],
    sizes: Sequence[tuple[float, float]],
    columns: int,
    students: int,
    times: int,
    averaged: bool,
) -> Cost:
    """What stepping adds to the cost of one seed.

    Args:
        steps: Steps to the latest time.
        batch_sizes: Of every trajectory of a size.
        sizes: Features and samples of every size; infinitely many samples are fresh Gaussian ones.
        columns: Outputs times noise levels.
        students: Students in the largest ensemble.
        times: How many times are kept.
        averaged: Whether the covariance of the readout is stepped, instead of the readout.
    """
    most, seconds = 0.0, 0.0
    for features, samples in sizes:
        side = min(features, samples)
        for batch in batch_sizes:
            if averaged and math.isinf(samples):
                seconds += _STEP + columns * features**2 * _READ
                most = max(most, 4 * features**2)
            elif averaged:
                seconds += columns * (5 * _STEP + 4 * samples * side**2 / _SPEED)
                most = max(most, 4 * samples * side + 6 * side**2)
            elif math.isinf(samples):
                seconds += _STEP + (features + 2 * batch) * _DRAW + 5 * columns * features * _READ
                most = max(most, features**2)
            else:
                seconds += _STEP + batch * (samples if samples < features else 2 * features) * (1 + columns) * _READ
                most = max(most, samples * side if samples < features else samples * features)
        most = max(most, 3 * (samples if math.isfinite(samples) else features) * times * columns)
    return Cost(8 * (most + 2 * steps), students * steps * seconds * _SPEED)


def stepped_network_cost(
    weights: Sequence[int], data: int, fresh: int, steps: int, momentum: bool, per_block: int
) -> Cost:
    """What one seed of a network costs whose matrices move by an outer product in every step.

    Args:
        weights: Entries of every matrix.
        data: Entries of the samples that are used again in every step.
        fresh: Random numbers of a step on fresh samples.
        steps: Of all runs together.
        momentum: Whether every weight has a velocity.
        per_block: Steps whose random numbers are drawn together.
    """
    entries = sum(weights)
    numbers = (5 if momentum else 3) * entries + 2 * data + fresh * per_block
    # Two products and the move of a matrix take the time of some twelve reads an entry.
    seconds = 20 * _STEP + (12 * entries + 4 * data) * _READ + fresh * _DRAW
    return Cost(8 * numbers, steps * seconds * _SPEED)


def plan_workers(cost: Cost, seeds: int) -> int:
    """How many seeds may run at once.

    Raises:
        TooLarge: Not even one fits in memory, or the whole would take days.
    """
    budget = _FRACTION * free_memory()
    if cost.bytes > budget:
        raise TooLarge(
            f"train: one seed needs about {cost.bytes / 1e9:.1f} GB, {budget / 1e9:.1f} GB are free; "
            "use fewer samples, a smaller width, or fewer students in an ensemble."
        )
    workers = int(max(1, min(seeds, cores(), budget // cost.bytes)))
    hours = cost.operations * seeds / workers / _SPEED / 3600
    if hours > _LONGEST_HOURS:
        raise TooLarge(
            f"train: about {hours:.0f} hours of computation for {seeds} seeds; use fewer modes, steps or seeds, or smaller sizes."
        )
    return workers


def _largest_side(widths: Sequence[float], samples: Sequence[float]) -> float:
    """Side of the largest matrix that is decomposed."""
    sides = [min(w, s) for w in widths for s in samples]
    return max((s for s in sides if math.isfinite(s)), default=0)


def _with_decompositions(
    memory: float, operations: float, side: float, sizes: int, width: float, columns: int, times: int
) -> Cost:
    readouts = 4 * max(width, side) * min(times, TIME_CHUNK) * columns
    return Cost(
        8 * (memory + 5 * side**2 + readouts), operations + sizes * (12 * side**3 + 4 * side * side * times * columns)
    )
