"""What a transfer study sweeps: one size, one hyperparameter, and schemes or other words beside them."""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain._declaration import WrongKey, show
from foretrain.errors import InvalidInput, UnsupportedProblem, nearest
from foretrain.problems import AbstractNetwork, NetworkTraining, Problem
from foretrain.studies._study import TransferOptions

SIZES = ("width", "depth", "heads", "head_dim")
# Name to the end of the logarithmic axis at which training diverges.
NUMBERS = {
    "learning_rate": 1,
    "momentum": -1,
    "weight_decay": 1,
    "batch_size": -1,
    "richness": 1,
    "epsilon": 1,
    "branch_scale": 1,
}
WORDS = ("schedule",)
# Numbers that may distinguish variants, beside everything that is a word.
_VARIANTS = ("attention_exponent",)
LEAST_VALUES = 4


@dataclasses.dataclass(frozen=True)
class Scale:
    """The logarithmic axis of a swept number: ln(value), for momentum ln(1 - value).

    Args:
        name: The hyperparameter.
    """

    name: str

    @property
    def wild(self) -> int:
        """1 if training diverges at the upper end of the axis, -1 at the lower."""
        return NUMBERS[self.name]

    @property
    def symbol(self) -> str:
        """What the exponent is an exponent of."""
        return f"1 - {self.name}" if self.name == "momentum" else self.name

    def place(self, values: Any) -> Float[np.ndarray, " swept"]:
        """Places of values on the axis; -inf for a weight decay of 0."""
        numbers = np.asarray(values, dtype=np.float64)
        with np.errstate(divide="ignore"):
            return np.log(1 - numbers if self.name == "momentum" else numbers)

    def value(self, place: float) -> float:
        """The value at a place; the inverse of `place`."""
        if self.name == "momentum":
            return 1 - math.exp(place) if place < 700 else -math.inf
        return math.exp(place) if place < 700 else math.inf


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """The axes of a transfer study by what they are for.

    Args:
        axis: The size.
        sizes: Its values, ascending.
        swept: The hyperparameter.
        values: Its values, ascending where they are numbers.
        variants: Every other axis: one verdict for each combination.
    """

    axis: str
    sizes: tuple[float, ...]
    swept: str
    values: tuple[Any, ...]
    variants: dict[str, tuple]

    @property
    def words(self) -> bool:
        """Whether the swept values are words."""
        return self.swept in WORDS

    @property
    def labels(self) -> list[Any]:
        """The swept values as coordinates of a result."""
        return [label(v) for v in self.values] if self.words else list(self.values)


def label(value: Any) -> Any:
    """A value as a coordinate: declarations become words.

    Args:
        value: A scalar or a schedule.
    """
    if isinstance(value, (str, int, float)):
        return value
    table = value.to_table()
    return f"{table.pop('shape', value.kind)}({', '.join(f'{k}={show(v)}' for k, v in table.items())})"


def plan(problem: Problem, options: TransferOptions) -> Plan:
    """Sort the axes of a problem into size, hyperparameter and variants.

    Args:
        problem: A network with one size axis and one swept hyperparameter.
        options: The section `[transfer]`.

    Raises:
        UnsupportedProblem: Not a trained network.
        InvalidInput: None or several sizes or hyperparameters, too few values, or an axis that is neither.
    """
    model, training = problem.model, problem.training
    if not isinstance(model, AbstractNetwork) or not isinstance(training, NetworkTraining):
        raise UnsupportedProblem(
            f"transfer: expected a network that is trained by an optimizer, got a {model.kind!r} model with protocol "
            f"{training.kind!r}; give [model] a kind such as 'mlp' or 'transformer' and [training] the key optimizer."
        )
    axes = problem.axes()
    many = {name: values for name, values in axes.items() if len(values) > 1}
    axis = _size(model, many, options)
    swept = _hyperparameter(training, many, options)
    variants = {name: values for name, values in axes.items() if name not in (axis, swept)}
    for name, values in variants.items():
        if len(values) > 1 and name not in (*WORDS, *_VARIANTS) and not isinstance(values[0], str):
            owner = next(part for part in problem.parts() if name in part.axes())
            raise WrongKey(
                type(owner).__name__, name, f"transfer sweeps {axis} and {swept}; expected one value, got {len(values)}"
            )
    sizes = axes[axis]
    if any(not math.isfinite(size) for size in sizes):
        raise WrongKey(type(model).__name__, axis, "expected finite sizes, as networks are trained, got inf")
    values = axes[swept]
    if swept in WORDS:
        return Plan(axis, tuple(sorted(sizes)), swept, tuple(values), variants)
    scale = Scale(swept)
    places = scale.place(values)
    values = tuple(value for _, value in sorted(zip(places.tolist(), values, strict=True)))
    if np.isfinite(places).sum() < LEAST_VALUES:
        owner = training if swept in type(training).__dataclass_fields__ else model
        raise WrongKey(
            type(owner).__name__,
            swept,
            f"expected at least {LEAST_VALUES} values > 0 for a parabola, got {int(np.isfinite(places).sum())}; a factor of 2 or "
            "sqrt(2) between neighbours is a good grid",
        )
    return Plan(axis, tuple(sorted(sizes)), swept, values, variants)


def _size(model: AbstractNetwork, many: dict[str, tuple], options: TransferOptions) -> str:
    found = [name for name in SIZES if name in many]
    if len(found) > 1:
        raise WrongKey(
            type(model).__name__,
            found[1],
            f"{' and '.join(found)} have several values; expected one size at a time with the others at their base: write one "
            "study for each",
        )
    if options.axis is not None and options.axis not in found:
        got = f"only {found[0]} has" if found else "none has"
        raise WrongKey(
            "TransferOptions", "axis", f"expected a size with several values, got {options.axis!r}, but {got} several"
        )
    if not found:
        there = [name for name in SIZES if name in type(model).__dataclass_fields__]
        raise WrongKey(
            type(model).__name__,
            there[0],
            f"transfer needs a size with at least two values: make one of {', '.join(there)} a list",
        )
    return found[0]


def _hyperparameter(training: NetworkTraining, many: dict[str, tuple], options: TransferOptions) -> str:
    numbers = [name for name in NUMBERS if name in many]
    words = [name for name in WORDS if name in many]
    if options.swept is not None and options.swept not in (*NUMBERS, *WORDS):
        valid = (*NUMBERS, *WORDS)
        raise WrongKey(
            "TransferOptions",
            "swept",
            f"expected one of {', '.join(map(repr, valid))}, got {options.swept!r}{nearest(options.swept, valid)}",
        )
    if options.swept is not None and options.swept not in numbers + words:
        raise WrongKey(
            "TransferOptions", "swept", f"{options.swept!r} has one value; make it a list of values to be swept"
        )
    if len(numbers) > 1:
        raise WrongKey(
            type(training).__name__,
            numbers[1],
            f"{' and '.join(numbers)} have several values; expected one hyperparameter at a time: give the others one value",
        )
    found = [options.swept] if options.swept else numbers or words
    if options.swept in words and numbers:
        raise WrongKey(
            "TransferOptions", "swept", f"{numbers[0]} has several values too; give it one to compare {options.swept}s"
        )
    if not found:
        raise WrongKey(
            type(training).__name__,
            "learning_rate",
            "transfer needs a swept hyperparameter: make learning_rate a list, or one of "
            + ", ".join([*list(NUMBERS)[1:], *WORDS]),
        )
    return found[0]


def check_size(plan_: Plan, key: str, size: float | None) -> None:
    """Refuse a proxy that was not trained.

    Args:
        plan_: The study's axes.
        key: Who asked.
        size: The size.

    Raises:
        InvalidInput: Not one of the sizes.
    """
    if size is not None and size not in plan_.sizes:
        raise InvalidInput(
            f"transfer({key}): expected one of the trained sizes {', '.join(f'{s:g}' for s in plan_.sizes)}, got {size:g}."
        )
