r"""What a network is trained on: rows of a data set or windows of tokens, and the batches of every step.

A seed fixes which rows train and the order of the batches; neither depends on the network, the optimizer or its rates, so that runs of a
sweep differ in nothing else. Rows are drawn as for the other students of `train`.
"""

import dataclasses
import functools
from typing import Any

import numpy as np
from jaxtyping import Int32

from foretrain._declaration import WrongKey
from foretrain.errors import InvalidInput, UnsupportedProblem
from foretrain.problems import NetworkTraining, Problem
from foretrain.tasks import AbstractDataTask, AbstractTokenTask, DataSet, Tokens
from foretrain.training._data_student import _ORDER
from foretrain.training._linear_student import _generator

# Losses are evaluated on at most so many rows, and windows of tokens.
MOST_ROWS = 2048
MOST_TRAIN_WINDOWS, MOST_TEST_WINDOWS = 64, 256
_BATCHES = 12
# Steps whose batches share a generator when they are drawn with replacement. Part of what a seed means.
_DRAWN_TOGETHER = 256

Rows = Int32[np.ndarray, " rows"]


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkData:
    """Examples in memory, and which of them train and test.

    Args:
        inputs: Rows of inputs, or one sequence of tokens.
        targets: Rows of targets, or labels; unused for tokens.
        loss: `"mse"`, `"labels"` (softmax), `"signs"` (logistic, targets ±1) or `"tokens"`.
        classes: `"labels"`, `"signs"`, `"tokens"` or `None`: what an accuracy counts.
        inputs_size: Dimension of an input, or size of the vocabulary.
        outputs: Number of outputs.
        context: Length of a window; `None` for rows.
        pool: Examples (rows, or starts of windows) that may train.
        samples: How many of them do.
        fixed_test: Examples that test, or `None` when those of the pool that do not train test.
        fixed_train: Examples that the train loss is evaluated on, or `None` for the first of the training rows.
    """

    inputs: np.ndarray
    targets: np.ndarray
    loss: str
    classes: str | None
    inputs_size: int
    outputs: int
    context: int | None
    pool: int
    samples: int
    fixed_test: Rows | None
    fixed_train: Rows | None

    @property
    def target_scale(self) -> float:
        """The loss of the answer 0: the mean square of the targets, or the entropy of a uniform guess."""
        if self.loss == "mse":
            return float(np.mean(np.sum(self.targets**2, axis=1)))
        return float(np.log(max(2, self.outputs)))

    @property
    def facts(self) -> dict[str, int]:
        """What a network needs to know of the data besides inputs and outputs."""
        return {} if self.context is None else {"context": self.context}

    def order(self, seed: int) -> Rows:
        """The rows in the order of a seed: the first `samples` train."""
        return _generator(seed, _ORDER).permutation(self.pool).astype(np.int32)

    def evaluated(self, seed: int) -> tuple[Rows, Rows]:
        """Examples that the train and test losses of a seed are evaluated on."""
        if self.fixed_train is not None and self.fixed_test is not None:
            return self.fixed_train, self.fixed_test
        order = self.order(seed)
        test = order[self.samples :][-MOST_ROWS:] if self.fixed_test is None else self.fixed_test
        return order[: self.samples][:MOST_ROWS], test

    def batches(
        self, seed: int, batch_size: int | None, fresh: bool, first: int, last: int
    ) -> Int32[np.ndarray, "steps batch"]:
        """Examples of the steps `first` to `last`, one row a step; for full batches, one row for all steps.

        Shuffled epochs follow one another without a gap: a batch at the border takes the end of one and the start of the next.

        Args:
            seed: What the order depends on.
            batch_size: Examples of a step, `None` for all.
            fresh: Draw with replacement instead. Windows of tokens always are.
            first: First step.
            last: Step after the last.
        """
        rows = np.arange(self.pool, dtype=np.int32) if self.context is not None else self.order(seed)[: self.samples]
        if batch_size is None:
            return rows[None]
        if fresh or self.context is not None:
            blocks = range(first // _DRAWN_TOGETHER, -(-last // _DRAWN_TOGETHER))
            shape = (_DRAWN_TOGETHER, batch_size)
            drawn = [_generator(seed, _BATCHES, 1, b).integers(0, len(rows), shape) for b in blocks]
            found = np.concatenate(drawn)[first - blocks.start * _DRAWN_TOGETHER :][: last - first]
            return rows[found]
        epochs = range(first * batch_size // len(rows), -(-last * batch_size // len(rows)))
        shuffled = [_generator(seed, _BATCHES, 0, e).permutation(len(rows)) for e in epochs]
        start = first * batch_size - epochs.start * len(rows)
        return rows[np.concatenate(shuffled)[start:][: (last - first) * batch_size].reshape(-1, batch_size)]


@functools.lru_cache(maxsize=2)
def _load(task: AbstractDataTask | AbstractTokenTask) -> DataSet | Tokens:
    """The last sets are kept: sweeps come back to the same one for every size."""
    return task.load()


def network_data(problem: Problem) -> NetworkData:
    """The data of a problem whose task, samples and batch size are no axes, checked against its training.

    Args:
        problem: A network and its training, on data or tokens.

    Raises:
        UnsupportedProblem: The task has no examples.
        InvalidInput: More rows than there are, a batch that is too large, or targets that are no classes where the loss needs them.
    """
    task, training = problem.task, problem.training
    if isinstance(task, AbstractTokenTask):
        return _of_tokens(_load(task), training)  # type: ignore[arg-type]
    if isinstance(task, AbstractDataTask):
        return _of_rows(_load(task), training)  # type: ignore[arg-type]
    raise UnsupportedProblem(
        f"train: a network needs rows of data or tokens; the task {task.kind!r} has a spectrum only."
    )


def _of_tokens(tokens: Tokens, training: NetworkTraining) -> NetworkData:
    train, test = (len(part) - tokens.context for part in (tokens.train, tokens.test))
    if training.batch_size is None:
        raise WrongKey("train", "batch_size", "missing; on tokens every step draws windows, say how many")
    return NetworkData(
        inputs=np.concatenate([tokens.train, tokens.test]),
        targets=np.zeros((1,), np.int32),
        loss="tokens",
        classes="tokens",
        inputs_size=tokens.vocabulary,
        outputs=tokens.vocabulary,
        context=tokens.context,
        pool=train,
        samples=train,
        fixed_test=_spread(test, MOST_TEST_WINDOWS) + np.int32(len(tokens.train)),
        fixed_train=_spread(train, MOST_TRAIN_WINDOWS),
    )


def _spread(count: int, most: int) -> Rows:
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int32))


def _of_rows(data: DataSet, training: NetworkTraining) -> NetworkData:
    from foretrain.training._train import check_size

    samples = check_size(data, training.samples)  # type: ignore[arg-type]
    batch: Any = training.batch_size
    if batch is not None and batch > samples:
        raise WrongKey("train", "batch_size", f"expected at most the {samples} training rows, got {batch}")
    inputs, targets, fixed = data.inputs, data.targets, None
    if data.test_inputs is not None and data.test_targets is not None:
        inputs, targets = np.concatenate([inputs, data.test_inputs]), np.concatenate([targets, data.test_targets])
        fixed = np.arange(len(data), len(inputs), dtype=np.int32)[:MOST_ROWS]
    classes = _classes(targets)
    loss = "mse"
    if training.loss == "cross-entropy":
        if classes is None:
            raise InvalidInput(
                f"train(loss): 'cross-entropy' needs classes: targets with one column ±1, or one column for each class with a single 1 "
                f"in every row; {data.name} has other numbers. Use 'mse'."
            )
        loss = classes
    return NetworkData(
        inputs=inputs,
        targets=np.argmax(targets, axis=1).astype(np.int32) if loss == "labels" else targets,
        loss=loss,
        classes=classes,
        inputs_size=inputs.shape[1],
        outputs=targets.shape[1],
        context=None,
        pool=len(data),
        samples=samples,
        fixed_test=fixed,
        fixed_train=None,
    )


def _classes(targets: np.ndarray) -> str | None:
    """Whether targets are one-hot columns or signs."""
    if targets.shape[1] == 1:
        return "signs" if np.all(np.abs(targets) == 1) else None
    one_hot = np.all((targets == 0) | (targets == 1)) and np.all(targets.sum(axis=1) == 1)
    return "labels" if one_hot else None
