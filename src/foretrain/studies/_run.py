"""Runs `solve` and `train` on a study, piece by piece through the store."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import foretrain
from foretrain.curves import LearningCurves, combine_messages
from foretrain.errors import ForetrainError
from foretrain.limits import solve
from foretrain.problems import Problem
from foretrain.studies._store import Store
from foretrain.studies._study import Study

Progress = Callable[[int, int, str], None]

# `train` runs all widths and seeds of one sample size as one batch; a piece of the grid is what one batch makes.
_TRAINED_TOGETHER = ("width",)


def solve_study(study: Study, *, store: Store | None = None, progress: Progress | None = None) -> LearningCurves:
    """What theory predicts for a study; failed points are values, never an exception.

    Args:
        study: What is to be solved.
        store: Where results are kept and looked for; `None` computes afresh and keeps nothing.
        progress: Called as work advances.
    """

    def compute() -> LearningCurves:
        return solve(
            study.problem,
            study.raw_times,
            outputs=study.outputs,
            method=study.solve.method,
            throw=False,
            progress=progress,
        )

    return _through(store, ("solve", study.problem, study.times, study.outputs, study.solve), compute)


def train_study(study: Study, *, store: Store | None = None, progress: Progress | None = None) -> LearningCurves:
    """What finite networks do on a study, averaged over seeds.

    The grid is trained in pieces, and each finished piece goes to the store: a run that was killed goes on where it was.

    Args:
        study: What is to be trained.
        store: Where results are kept and looked for; `None` computes afresh and keeps nothing.
        progress: Called as work advances.
    """
    problem = study.problem
    looped = {name: values for name, values in problem.axes().items() if name not in _TRAINED_TOGETHER}
    shape = tuple(len(values) for values in looped.values())
    pieces: dict[tuple[int, ...], LearningCurves] = {}
    total = int(np.prod(shape))
    for index in itertools.product(*map(range, shape)):
        chosen = {name: values[i] for (name, values), i in zip(looped.items(), index, strict=True)}
        label = ", ".join(
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in chosen.items()
        )
        if progress is not None:
            progress(len(pieces), total, f"train {label}".strip())
        pieces[index] = _train_piece(study, problem.select(chosen), store)
    if progress is not None:
        progress(total, total, "train")
    curves = assemble(problem, list(looped), pieces)
    return curves


def _train_piece(study: Study, piece: Problem, store: Store | None) -> LearningCurves:
    def compute() -> LearningCurves:
        return foretrain.train(piece, study.raw_times, seeds=study.seeds, seed=study.seed, throw=False)

    return _through(store, ("train", piece, study.times, study.seeds, study.seed), compute)


def _through(store: Store | None, parts: Sequence[Any], compute: Callable[[], LearningCurves]) -> LearningCurves:
    """The stored result, else a computed one, which is stored."""
    if store is None:
        return compute()
    key = store.key(*parts)
    found = store.load(key)
    if found is None:
        found = compute()
        store.save(key, found)
    return found


def assemble(
    problem: Problem, looped: Sequence[str], pieces: Mapping[tuple[int, ...], LearningCurves]
) -> LearningCurves:
    """The curves of a grid from the curves of its pieces.

    Args:
        problem: The whole grid.
        looped: The axes that the pieces are single points of, in order.
        pieces: One result for every index of the looped axes.

    Raises:
        ForetrainError: Pieces differ in their variables.
    """
    axes = problem.axes()
    first = next(iter(pieces.values()))
    shape = tuple(len(axes[name]) for name in looped)
    variables = {}
    for name, (dims, values) in first.variables.items():
        stacked = np.empty(shape + values.shape, dtype=object if values.dtype.kind == "U" else values.dtype)
        for index, piece in pieces.items():
            if piece.dims.get(name) != dims:
                raise ForetrainError(f"train: the pieces of the grid disagree on {name!r}; please report this.")
            stacked[index] = piece.values(name)
        own = [*looped, *dims]
        ordered = [n for n in axes if n in own] + [n for n in own if n not in axes]
        array = np.transpose(stacked, [own.index(n) for n in ordered])
        variables[name] = (tuple(ordered), array.astype(str) if array.dtype == object else array)
    coords = {name: np.asarray(values) for name, values in axes.items()}
    coords |= {name: values for name, values in first.coords.items() if name not in coords}
    attrs = dict(first.attrs)
    for name in looped:
        attrs.pop(name, None)
    attrs["messages"] = combine_messages([m for piece in pieces.values() for m in piece.messages])
    return LearningCurves(variables, coords, attrs)
