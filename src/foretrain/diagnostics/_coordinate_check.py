"""`coordinate_check`: whether sizes and changes scale as the parameterization promises."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from foretrain._declaration import show
from foretrain.diagnostics._declared import declared_model, growth, only, random_data, single, task_data, with_size
from foretrain.diagnostics._expected import Quantity, expected_exponent
from foretrain.diagnostics._measure import Sizes, measure_sizes, optimizer_of
from foretrain.diagnostics._model import CheckedModel, kind_of
from foretrain.diagnostics._result import NEGLIGIBLE, CoordinateCheck, CoordinateRow, judge
from foretrain.diagnostics._slopes import limit_slope, log_slope
from foretrain.errors import ForetrainWarning, InvalidInput, nearest
from foretrain.parameterization import Parameterization, Recipe
from foretrain.problems import AbstractNetwork as NetworkModel
from foretrain.problems import Problem

AXES = ("width", "depth", "heads", "head_dim")
Make = Callable[[Any, int], CheckedModel]


def coordinate_check(
    subject: Problem | NetworkModel | Make,
    *,
    axis: str = "width",
    values: Sequence[Any] | None = None,
    training: Any = None,
    recipe: Recipe | None = None,
    learning_rate: float | None = None,
    seeds: int = 4,
    steps: int = 3,
) -> CoordinateCheck:
    r"""How sizes inside a network, and their changes in a few steps, scale with an axis, and whether they should.

    At every size and for every seed a network takes `steps` steps on one batch. For the stream, the inside of branches, what
    branches add, attention logits and outputs the root mean square over all entries is taken at the start and of the change,
    and for branches also of the change when only that layer's weights move. The least-squares slope of its logarithm is held
    against the exponents (PA.5) and (PA.6) of the declared scheme. Where it is outside, a correction of finite size is told from
    a wrong exponent by measurement: the exponent of the larger half of the sizes, and the one beside a fitted correction 1 / size,
    see `limit_slope`, must both be as declared.

    Learning rate: large, near the largest that is stable; at a small one every model looks lazy and nonlinear terms are not
    seen. The exponents of `sp` are those of the first step: use `steps=1`. Logits start with a weak force when heads
    grow (`axis="head_dim"`): judge them after tens of steps. Not seen by this check: weight decay, epsilon in low precision,
    anything that builds up over training. Hyperparameters that carry over are shown by a sweep over sizes alone.

    Args:
        subject: A `Problem` with a network and `NetworkTraining`; a network declaration with `training`, for random data; or a
            function of (size, seed) that returns a `CheckedModel`, for a model of your own.
        axis: `"width"`, `"depth"`, `"heads"` or `"head_dim"`.
        values: At least three sizes; by default those of the declaration, if the axis has several there.
        training: `NetworkTraining`, with a network declaration.
        recipe: Scheme and optimizer that your own model declares; read from its `Parameterization` when it hands over one.
        learning_rate: For your own model with a `Parameterization`.
        seeds: At least two.
        steps: Steps of the optimizer.

    Raises:
        InvalidInput: An argument is missing or wrong; the message says which.

    Warns:
        ForetrainWarning: The changes are as small as rounding errors.

    Example:
        >>> from foretrain import MLP, NetworkTraining
        >>> from foretrain.diagnostics import coordinate_check
        >>> found = coordinate_check(
        ...     MLP(width=64, activation="tanh"), values=[64, 128, 256, 512], training=NetworkTraining(0.5), seeds=8
        ... )
        >>> found.passed, found.flat
        (True, True)
    """
    if axis not in AXES:
        raise InvalidInput(
            f"coordinate_check(axis): expected one of {', '.join(AXES)}, got {axis!r}{nearest(str(axis), AXES)}."
        )
    for name, number, least in (("seeds", seeds, 2), ("steps", steps, 1)):
        if not isinstance(number, int) or isinstance(number, bool) or number < least:
            raise InvalidInput(f"coordinate_check({name}): expected a whole number >= {least}, got {show(number)}.")
    if isinstance(subject, (Problem, NetworkModel)):
        if recipe is not None or learning_rate is not None:
            raise InvalidInput(
                "coordinate_check: recipe and learning_rate belong to models of your own; here the declaration has both."
            )
        return _of_declaration(subject, axis, values, training, seeds, steps)
    if not callable(subject):
        raise InvalidInput(
            "coordinate_check(subject): expected a Problem, a network declaration or a function of (size, seed), got "
            f"{show(subject)}."
        )
    if training is not None:
        raise InvalidInput(
            "coordinate_check(training): belongs to network declarations; a CheckedModel has its own loss and optimizer."
        )
    return _of_callable(subject, axis, values, recipe, learning_rate, seeds, steps)


def _of_declaration(
    subject: Problem | NetworkModel, axis: str, values: Sequence[Any] | None, training: Any, seeds: int, steps: int
) -> CoordinateCheck:
    model = subject.model if isinstance(subject, Problem) else subject
    if isinstance(subject, Problem):
        if training is not None:
            raise InvalidInput("coordinate_check(training): the problem has its own; leave it out.")
        training = subject.training
    training = single(training)
    if not isinstance(model, NetworkModel):
        raise InvalidInput(
            f"coordinate_check: expected a network (mlp, resnet, conv-resnet, vit, transformer), got {model.kind!r}."
        )
    kind, sizes = growth(model, axis), _checked(only(values, model, axis), axis)
    if model.kind == "transformer" and training.loss != "cross-entropy":
        raise InvalidInput("coordinate_check(training): a transformer over tokens needs loss='cross-entropy'.")
    if isinstance(subject, Problem):
        data = task_data(subject.task, training)
    else:
        data = random_data(model.kind, training.loss)
    one = with_size(model, axis, sizes[0])
    recipe = Recipe(
        one.parameterization,  # type: ignore[attr-defined]
        training.optimizer,  # type: ignore[arg-type]
        training.decay,
        getattr(one, "attention_exponent", 1.0),
    )
    found = [
        measure_sizes(declared_model(with_size(model, axis, size), training, data, seeds), steps, axis == "depth")
        for size in sizes
    ]
    residual = model.kind != "mlp"
    return _result(found, sizes, axis, kind if residual or kind != "depth" else "none", recipe, seeds, steps)


def _of_callable(
    make: Make,
    axis: str,
    values: Sequence[Any] | None,
    recipe: Recipe | None,
    learning_rate: float | None,
    seeds: int,
    steps: int,
) -> CoordinateCheck:
    if values is None:
        raise InvalidInput(f"coordinate_check(values): missing; give at least 4 values of {axis}.")
    sizes, found = _checked(values, axis), []
    for size in sizes:
        models = [make(size, seed) for seed in range(seeds)]
        first = models[0]
        if not isinstance(first, CheckedModel):
            raise InvalidInput(
                f"coordinate_check: make({size}, 0) should return a CheckedModel, got {type(first).__name__}."
            )
        if recipe is None:
            if not isinstance(first.optimizer, Parameterization):
                raise InvalidInput(
                    "coordinate_check(recipe): missing; say what the model declares, for example Recipe('mup', 'adam'), or hand "
                    "over a Parameterization as optimizer."
                )
            recipe = first.optimizer.recipe
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(model.params for model in models))
        optimizer = optimizer_of(first.optimizer, first.params, learning_rate)
        one = dataclasses.replace(first, params=stacked, optimizer=optimizer)
        found.append(measure_sizes(one, steps, axis == "depth"))
    if recipe is None:
        raise InvalidInput("coordinate_check(values): missing; give at least 4.")
    return _result(found, sizes, axis, {"heads": "width"}.get(axis, axis), recipe, seeds, steps)


def _checked(values: Sequence[Any], axis: str) -> tuple[Any, ...]:
    sizes = tuple(v.item() if isinstance(v, np.generic) else v for v in values)
    whole = all(isinstance(v, (int, float)) and not isinstance(v, bool) and v == int(v) and v > 0 for v in sizes if v)
    if len(set(sizes)) < 3 or len(set(sizes)) != len(sizes) or not whole or not all(sizes):
        raise InvalidInput(
            f"coordinate_check(values): expected at least 3 distinct whole numbers (better 4 or more) for {axis}, got "
            f"{show(list(sizes))}."
        )
    return tuple(sorted(int(v) for v in sizes))


def _result(
    found: Sequence[Sizes], sizes: tuple[int, ...], axis: str, kind: str, recipe: Recipe, seeds: int, steps: int
) -> CoordinateCheck:
    for other in found[1:]:
        if other.keys() != found[0].keys():
            names = sorted({name for name, _ in other.keys() ^ found[0].keys()})
            raise InvalidInput(
                f"coordinate_check: features differ between sizes: {', '.join(map(repr, names))}; name layers by a list under one "
                "name when their number varies."
            )
    rows = []
    negligible = False
    for (name, measure), first in found[0].items():
        counts = {one[name, measure].shape[1] for one in found}
        if len(counts) > 1:
            raise InvalidInput(
                f"coordinate_check: {name!r} has {' or '.join(map(str, sorted(counts)))} layers at different sizes of {axis!r}; use "
                "axis='depth' when the number of layers varies."
            )
        for place in range(first.shape[1]):
            measured = np.stack([one[name, measure][:, place] for one in found], axis=1)
            start = np.stack([one[name, "start"][:, place] for one in found], axis=1)
            if not np.any(measured):
                continue  # nothing there: a branch without weights of its own inside, or a readout that starts at zero
            small = measure != "start" and bool(np.any(measured < NEGLIGIBLE * start))
            quantity = Quantity(kind_of(name), measure, place == 0 and first.shape[1] > 1 and _begins(name, found))
            rows.append(_row(name, quantity, place, first.shape[1], axis, sizes, measured, small, kind, recipe, steps))
            negligible |= small and rows[-1].expected is not None
    if negligible:
        warnings.warn(
            f"coordinate_check: some changes are below {NEGLIGIBLE:g} of what changes, as small as rounding errors of float32; raise "
            "the learning rate.",
            ForetrainWarning,
            stacklevel=4,
        )
    return CoordinateCheck(axis, sizes, kind, recipe, steps, seeds, tuple(rows))


def _begins(name: str, found: Sequence[Sizes]) -> bool:
    """Whether a feature is the stream or a branch, or the inside of branches whose first map is their last: the stream."""
    own = [one.get((name, "own change")) for one in found]
    return kind_of(name) in ("stream", "branch") or (
        kind_of(name) == "inside" and all(sizes is not None and not np.any(sizes) for sizes in own)
    )


def _row(
    name: str,
    quantity: Quantity,
    place: int,
    places: int,
    axis: str,
    sizes: tuple[int, ...],
    measured: np.ndarray,
    small: bool,
    kind: str,
    recipe: Recipe,
    steps: int,
) -> CoordinateRow:
    values = np.asarray(sizes, dtype=np.float64)
    slope = log_slope(values, measured)
    upper = len(sizes) // 2  # the larger half, with the middle
    largest = limit = None
    if len(sizes) >= 4:
        largest, limit = log_slope(values[upper:], measured[:, upper:]), limit_slope(values, measured)
    expected = None if kind == "none" else expected_exponent(quantity, recipe, kind, steps)
    if places == 1:
        layer = ""
    elif axis == "depth":
        layer = f"{100 * place / (places - 1):g}%"
    else:
        layer = str(place)
    verdict = judge(slope, expected, measured, small, largest, limit)
    measured.flags.writeable = False
    return CoordinateRow(name, quantity, layer, slope.slope, slope.stderr, expected, verdict, measured, largest, limit)
