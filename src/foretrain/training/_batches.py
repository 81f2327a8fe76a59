"""Which samples each step of stochastic gradient descent takes."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int32

from foretrain.problems import AbstractProtocol

# Steps whose batches are drawn together: at most so many steps, so many indices, and so many entries of permutations. Part of
# what a seed means: changing them changes every trajectory.
_STEPS, _INDICES, _ENTRIES = 1024, 2**20, 2**22

Batches = Int32[np.ndarray, "steps batch"]
Times = Float[np.ndarray, " time"]


def drawn_batches(
    samples: int, batch_size: int, replacement: bool, generator: np.random.Generator
) -> Iterator[Batches]:
    """Blocks of independent batches, without end.

    Args:
        samples: How many samples there are.
        batch_size: How many a step takes.
        replacement: Whether a step may take a sample twice.
        generator: Source of randomness.

    Yields:
        Positions of samples, one row a step. Do not change them: without replacement they are a part of what the next block is
        made from.
    """
    steps = max(1, min(_STEPS, _INDICES // batch_size))
    if replacement:
        while True:
            yield generator.integers(0, samples, (steps, batch_size), dtype=np.int32)
    # The first entries of a shuffle of any permutation are a fair draw, so each step goes on from an old permutation and
    # shuffles only as far as its batch.
    steps = max(1, min(steps, _ENTRIES // samples))
    order = np.tile(np.arange(samples, dtype=np.int32), (steps, 1))
    rows = np.arange(steps)
    while True:
        for position in range(batch_size):
            other = generator.integers(position, samples, steps)
            order[rows, position], order[rows, other] = order[rows, other], order[rows, position]
        yield order[:, :batch_size].copy()


def consecutive_batches(batch_size: int) -> Iterator[Batches]:
    """Blocks of batches that take the samples in order, each once."""
    steps = max(1, min(_STEPS, _INDICES // batch_size))
    block = np.arange(steps * batch_size, dtype=np.int32).reshape(steps, batch_size)
    while True:
        yield block
        block = block + np.int32(steps * batch_size)


def step_sizes(protocol: AbstractProtocol, times: Times) -> Float[np.ndarray, " steps"]:
    """The learning rate of every step up to the latest time."""
    steps, schedule = int(np.max(times)), getattr(protocol, "schedule", None)
    factors = np.ones(steps) if schedule is None else schedule.factors(steps)
    return protocol.learning_rate * factors  # type: ignore[attr-defined]
