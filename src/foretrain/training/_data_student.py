r"""Draws of students on a data set: random networks with frozen layers, and their infinite-width kernels.

A seed fixes an order of the rows and all weights. The first $P$ rows train; the test rows are the data set's own held-out
rows, or else those after the $P$-th, of which the last `MOST_TEST_ROWS` are taken. Several outputs are several readouts on
the same features; losses are summed over them.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float

from foretrain.tasks import DataSet
from foretrain.training._draw import Draw, Samples
from foretrain.training._evolution import Moments
from foretrain.training._linear_student import _generator
from foretrain.training._random_network import network_features

MOST_TEST_ROWS = 10_000
_ROW_BLOCK = 2048
_ORDER, _WEIGHTS = 10, 11

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]


def data_draws(
    data: DataSet,
    widths: Sequence[float],
    samples: Sequence[int],
    seed: int,
    *,
    kernel: Kernel | None = None,
    depth: int = 1,
    activation: str = "relu",
    students: int = 1,
) -> Iterator[tuple[int, int, Draw]]:
    """Draws for all sizes of one seed, one at a time.

    Args:
        data: Inputs and targets.
        widths: Widths of the random networks; `inf` is regression with `kernel`.
        samples: Numbers of training rows, at most the number of rows (fewer, where the test rows come from the same pool).
        seed: What all randomness is drawn from.
        kernel: The kernel of infinite width, `(rows, columns) -> matrix`.
        depth: Hidden layers of the random networks.
        activation: Their nonlinearity.
        students: Students with independent networks on the same rows.

    Yields:
        Position in `widths`, position in `samples`, draw.
    """
    order = _generator(seed, _ORDER).permutation(len(data))
    most = max(samples)
    if data.test_inputs is not None and data.test_targets is not None:
        inputs = np.concatenate([data.inputs[order[:most]], data.test_inputs])
        targets = np.concatenate([data.targets[order[:most]], data.test_targets])
        starts = [most] * len(samples)
    else:
        rows = order if len(order) <= most + MOST_TEST_ROWS else np.concatenate([order[:most], order[-MOST_TEST_ROWS:]])
        inputs, targets = data.inputs[rows], data.targets[rows]
        starts = [max(size, len(rows) - MOST_TEST_ROWS) for size in samples]
    answers = targets[:, :, None]
    for i, width in enumerate(widths):
        known: dict[int, Moments] = {}  # of the latest set of test rows, by where it starts
        if np.isinf(width):
            if kernel is None:
                raise ValueError("data_draws: width = inf needs a kernel")
            gram = kernel(inputs[:most], inputs[:most])
            for j, (size, start) in enumerate(zip(samples, starts, strict=True)):
                if start not in known:
                    largest = max(p for p, other in zip(samples, starts, strict=True) if other == start)
                    blocks = _kernel_blocks(kernel, inputs[start:], inputs[:largest])
                    known = {start: _moments(blocks, targets[start:], largest)}
                whole = known[start]
                own = Moments(whole.second[:size, :size], whole.cross[:size], whole.power)
                yield i, j, Draw([Samples(gram[:size, :size], answers[:size], is_gram=True)], own)
            continue
        features = [
            network_features(
                inputs, int(width), _generator(seed, _WEIGHTS, depth, e), depth=depth, activation=activation
            )
            for e in range(students)
        ]
        for j, (size, start) in enumerate(zip(samples, starts, strict=True)):
            trained = [Samples(phi[:size].astype(np.float64), answers[:size]) for phi in features]
            if start not in known:
                blocks = _feature_blocks([phi[start:] for phi in features])
                known = {start: _moments(blocks, targets[start:], students * int(width))}
            yield i, j, Draw(trained, known[start])


def _feature_blocks(features: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    for start in range(0, len(features[0]), _ROW_BLOCK):
        yield np.concatenate([phi[start : start + _ROW_BLOCK] for phi in features], axis=1).astype(np.float64)


def _kernel_blocks(kernel: Kernel, test: np.ndarray, train: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(test), _ROW_BLOCK):
        yield kernel(test[start : start + _ROW_BLOCK], train)


def _moments(blocks: Iterator[np.ndarray], targets: Float[np.ndarray, "rows outputs"], width: int) -> Moments:
    """Means over the test rows, block by block."""
    rows = len(targets)
    second, cross = np.zeros((width, width)), np.zeros((width, targets.shape[1]))
    start = 0
    for block in blocks:
        second += block.T @ block
        cross += block.T @ targets[start : start + len(block)]
        start += len(block)
    return Moments(second / rows, cross / rows, float(np.sum(targets**2)) / rows)
