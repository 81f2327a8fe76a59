r"""Draws of students on a data set: random networks with frozen layers, and their infinite-width kernels.

A seed fixes an order of the rows and all weights. The first $P$ rows train; the test rows are the data set's own held-out
rows, or else the rows after the $P$-th, at most `MOST_TEST_ROWS` of them. Several outputs are several readouts on the same
features; losses are summed over them.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float

from foretrain.tasks import DataSet
from foretrain.training._evolution import Decomposition, Moments
from foretrain.training._linear_student import Draw, _generator
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
    held_out = data.test_inputs is not None
    pool = order[:most] if held_out else order[: most + MOST_TEST_ROWS]
    inputs, targets = data.inputs[pool], data.targets[pool]
    test_inputs = data.test_inputs if data.test_inputs is not None else inputs[:0]
    test_targets = data.test_targets if data.test_targets is not None else targets[:0]

    def test_rows(size: int) -> slice:
        """Of the rows that follow the training rows, in the array of all rows."""
        return slice(most, None) if held_out else slice(size, size + MOST_TEST_ROWS)

    everything = np.concatenate([inputs, test_inputs])
    answers = np.concatenate([targets, test_targets])
    for i, width in enumerate(widths):
        if np.isinf(width):
            if kernel is None:
                raise ValueError("data_draws: width = inf needs a kernel")
            gram = kernel(everything[:most], everything[:most])
            for j, size in enumerate(samples):
                rows = test_rows(size)
                student = Decomposition.of_gram(gram[:size, :size], targets[:size, :, None])
                blocks = _kernel_blocks(kernel, everything[rows], everything[:size])
                yield i, j, Draw([student], _moments(blocks, answers[rows], size))
            continue
        features = [
            network_features(
                everything, int(width), _generator(seed, _WEIGHTS, depth, e), depth=depth, activation=activation
            )
            for e in range(students)
        ]
        shared = None
        for j, size in enumerate(samples):
            own = [
                Decomposition.of_features(phi[:size].astype(np.float64), targets[:size, :, None]) for phi in features
            ]
            if shared is None or not held_out:
                rows = test_rows(size)
                shared = _moments(
                    _feature_blocks([phi[rows] for phi in features]), answers[rows], students * int(width)
                )
            yield i, j, Draw(own, shared)


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
