"""`Problem`: task + model + protocol, possibly a grid of them."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

from foretrain._declaration import Declaration, WrongKey, show
from foretrain.errors import TooLarge
from foretrain.problems._models import AbstractModel, DeepLinear
from foretrain.problems._protocols import AbstractProtocol
from foretrain.tasks import AbstractDataTask, AbstractSpectralTask, AbstractTask

# A result holds some ten variables of eight bytes a value: beyond these sizes it fits in no ordinary memory, and points
# are visited one by one by every check.
_MOST_VALUES, _MOST_POINTS = 10**8, 10**6


@dataclasses.dataclass(frozen=True, eq=False)
class Problem(Declaration):
    """What is learned, what learns it, how it is trained. Fields that hold several values span a grid of problems.

    Args:
        task: For example `PowerLaw(...)` or `Digits(...)`.
        model: For example `RandomFeatures(width=[64, 256])`.
        training: For example `GradientFlow(samples=[128, 1024])`.

    Raises:
        InvalidInput: The parts do not fit together.

    Example:
        >>> from foretrain import GradientFlow, PowerLaw, Problem, RandomFeatures
        >>> problem = Problem(PowerLaw(1.5, 0.6), RandomFeatures(width=[64, 256]), GradientFlow(samples=[100, 1000, 10000]))
        >>> problem.shape
        (2, 3)
    """

    kind = "problem"

    task: AbstractTask
    model: AbstractModel
    training: AbstractProtocol

    def _check(self) -> None:
        for name, base in (("task", AbstractTask), ("model", AbstractModel), ("training", AbstractProtocol)):
            if not isinstance(getattr(self, name), base):
                raise self._wrong(name, f"expected a {name} declaration, got {show(getattr(self, name))}")
        self._check_ratios()
        if isinstance(self.task, AbstractSpectralTask):
            for key in self.model.only_on_data:
                if getattr(self.model, key, None) is not None:
                    raise WrongKey(
                        type(self.model).__name__,
                        key,
                        f"means nothing on a {self.task.kind!r} task, whose spectrum is declared; leave it out or use a data task",
                    )
        if isinstance(self.task, AbstractDataTask) and hasattr(self.training, "samples"):
            samples = self.training.samples
            for value in samples if isinstance(samples, tuple) else (samples,):
                if value is not None and value != float("inf") and (value < 1 or value != int(value)):
                    raise WrongKey(
                        type(self.training).__name__,
                        "samples",
                        f"expected a whole number of rows of the data, got {value:g}",
                    )

    def _check_ratios(self) -> None:
        """Deep linear networks count samples and batches by ratios to the dimension, the others by numbers."""
        counts, ratios = ("samples", "batch_size"), ("sample_ratio", "batch_ratio")
        by_ratio = isinstance(self.model, DeepLinear)
        for count, ratio in zip(counts, ratios, strict=True):
            wrong, right = (count, ratio) if by_ratio else (ratio, count)
            if getattr(self.training, wrong, None) is None:
                continue
            instead = f"use {right!r}" if hasattr(self.training, right) else "leave it out"
            raise WrongKey(
                type(self.training).__name__, wrong, f"means nothing for the model {self.model.kind!r}; {instead}"
            )

    def parts(self) -> tuple[Declaration, Declaration, Declaration]:
        """Task, model, training, in the order of the dimensions."""
        return self.task, self.model, self.training

    def axes(self) -> dict[str, tuple]:
        """Name and values of every axis, in the order task, model, training: the dimensions of the result.

        Raises:
            InvalidInput: Two parts have an axis of the same name.
        """
        found: dict[str, tuple] = {}
        for part in self.parts():
            for name, values in part.axes().items():
                if name in found:
                    raise WrongKey(
                        type(part).__name__,
                        name,
                        "is an axis of two parts of the problem; make one of them a single value",
                    )
                found[name] = values
        return found

    def facts(self) -> dict[str, Any]:
        """What a result says about the problem that made it: digest, kinds, and every plain value that is not an axis."""
        found: dict[str, Any] = {"problem": self.digest()}
        for name, part in zip(("task", "model", "training"), self.parts(), strict=True):
            found[name] = part.kind
            found |= {k: v for k, v in part.to_table().items() if isinstance(v, (bool, int, float, str))}
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis."""
        return tuple(len(values) for values in self.axes().values())

    def check_size(self, times: int, who: str) -> None:
        """Refuse a grid whose result would not fit in memory.

        Args:
            times: Number of times.
            who: Who is named in the error.

        Raises:
            TooLarge: More points or values than can be held; the message carries the estimate.
        """
        points = math.prod(self.shape)
        if points > _MOST_POINTS or points * times > _MOST_VALUES:
            sizes = " x ".join(f"{len(values)} {name}" for name, values in self.axes().items())
            raise TooLarge(
                f"{who}: a grid of {sizes or '1 point'} x {times} times has {points} points and {points * times:.3g} values, about "
                f"{points * times * 80 / 1e9:.3g} GB with all variables; expected at most {_MOST_POINTS} points and "
                f"{_MOST_VALUES:.0e} values: split it."
            )

    def points(self) -> Iterator[tuple[tuple[int, ...], "Problem"]]:
        """Index and single problem for every point of the grid, last axis fastest."""
        axes = self.axes()
        for index in itertools.product(*(range(len(v)) for v in axes.values())):
            yield index, self.select({name: values[i] for (name, values), i in zip(axes.items(), index, strict=True)})

    def select(self, values: dict[str, Any]) -> "Problem":
        """The problem with the named axes set to single values."""
        parts = []
        for part in self.parts():
            own = {name: value for name, value in values.items() if name in part.axes()}
            parts.append(part.replace(**own) if own else part)
        return Problem(*parts)
