"""`compare`: theory and finite networks on one grid, with the error between them."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain.curves import Comparison, LearningCurves, combine_messages
from foretrain.errors import InvalidInput, UnsupportedProblem
from foretrain.problems import Problem, protocol_times
from foretrain.studies._run import Progress, solve_study, train_study
from foretrain.studies._store import Store
from foretrain.studies._study import Study
from foretrain.tasks import AbstractDataTask

LOSSES = ("test_loss", "train_loss")
# Measured losses below this share of the largest are rounding of float64: an error relative to them means nothing.
_FLOOR = 1e-13


def compare(
    problem: Problem | Study,
    times: Any = None,
    *,
    seeds: int | None = None,
    seed: int | None = None,
    store: Store | None = None,
    progress: Progress | None = None,
) -> Comparison:
    r"""Theory and training of the same problem, and the error between them.

    Finite sizes are trained and each is paired with theory at that very size. Sizes that cannot be trained (`samples = inf`
    on real data, `width = inf` of a random network) appear in the theory group only.

    Args:
        problem: A problem, a grid of problems, or a study.
        times: As for `solve`; a study has its own.
        seeds: Finite networks at every point, 10 by default; overrides a study's.
        seed: Where their random numbers start; overrides a study's.
        store: Where finished parts are kept and looked for.
        progress: Called as work advances.

    Returns:
        Groups `theory`, `training` and `error`. The last holds, for `test_loss` and `train_loss`: theory / measured - 1;
        `_stderr`, the standard error that seeds give it; `_z`, (theory - measured) / standard error of the measurement. They
        are NaN where the measured loss is zero to the rounding of float64.

    Raises:
        UnsupportedProblem: No limit covers the problem, or no size of it can be trained.
        InvalidInput: Wrong times or seeds.

    Example:
        >>> from foretrain import GradientFlow, PowerLaw, Problem, RandomFeatures, compare
        >>> problem = Problem(PowerLaw(1.5, 0.6, modes=200), RandomFeatures(width=[8, 16]), GradientFlow(samples=32))
        >>> sorted(compare(problem, [1.0, 10.0], seeds=4).groups())
        ['error', 'theory', 'training']
    """
    if isinstance(problem, Study):
        if times is not None:
            raise InvalidInput("compare(times): a study has its own times; use study.replace(times=...).")
        study = problem
    else:
        study = Study(problem, times=times)
    changes = {name: value for name, value in (("seeds", seeds), ("seed", seed)) if value is not None}
    study = study.replace(**changes) if changes else study
    trained = study.replace(problem=trainable_part(study.problem))
    _check_rows(trained)
    theory = solve_study(study, store=store, progress=progress)
    training = train_study(trained, store=store, progress=progress)
    return pair(theory, training)


def trainable_part(problem: Problem) -> Problem:
    """The grid without the sizes that cannot be trained.

    Raises:
        UnsupportedProblem: Nothing of the grid can be trained.
    """
    from foretrain.training import untrainable

    problem.check_size(1, "compare")
    axes = problem.axes()
    reasons: dict[tuple[int, ...], str | None] = {i: untrainable(p) for i, p in problem.points()}
    kept: dict[str, tuple] = {}
    for position, (name, values) in enumerate(axes.items()):
        kept[name] = tuple(
            value for k, value in enumerate(values) if any(r is None for i, r in reasons.items() if i[position] == k)
        )
    why = "; ".join(combine_messages([r for r in reasons.values() if r is not None]))
    if any(not values for values in kept.values()) or all(r is not None for r in reasons.values()):
        raise UnsupportedProblem(
            f"compare: no size of this problem can be trained ({why}). `solve` gives the theory alone."
        )
    for index, reason in reasons.items():
        point = [values[i] for values, i in zip(axes.values(), index, strict=True)]
        if reason is not None and all(v in kept[name] for name, v in zip(axes, point, strict=True)):
            raise UnsupportedProblem(
                f"compare: the sizes that can be trained do not form a grid ({reason}); split the study in two."
            )
    changed = {name: values for name, values in kept.items() if values != axes[name]}
    parts = []
    for part in problem.parts():
        own = {name: values for name, values in changed.items() if name in part.axes()}
        parts.append(part.replace(**own) if own else part)
    return Problem(*parts)  # type: ignore[arg-type]


def _check_rows(study: Study) -> None:
    """Refuse more samples than the data have rows, before the spectrum is measured for the theory."""
    problem = study.problem
    if not isinstance(problem.task, AbstractDataTask):
        return
    from foretrain.training._train import check_rows

    check_rows(problem.training, problem.task.load(), protocol_times(problem.training, study.raw_times, "compare"))


def pair(theory: LearningCurves, training: LearningCurves) -> Comparison:
    """The comparison of two results; every point of `training` must be one of `theory`.

    Args:
        theory: What `solve` returned.
        training: What `train` returned, on the same grid or a part of it.

    Raises:
        InvalidInput: They are not results of the same grid.
    """
    variables: dict[str, Any] = {}
    coords: dict[str, np.ndarray] = {}
    for name in LOSSES:
        if name not in theory or name not in training:
            continue
        dims, measured = training.variables[name]
        predicted = _at(theory, name, training)
        stderr = (
            training.values(f"{name}_stderr") if f"{name}_stderr" in training else np.full(measured.shape, math.nan)
        )
        finite = measured[np.isfinite(measured)]
        measured = np.where(measured > _FLOOR * finite.max(initial=0.0), measured, math.nan)
        with np.errstate(all="ignore"):
            variables[name] = (dims, predicted / measured - 1)
            variables[f"{name}_stderr"] = (dims, np.abs(predicted / measured**2) * stderr)
            variables[f"{name}_z"] = (dims, (predicted - measured) / stderr)
        coords |= {dim: training.coords[dim] for dim in dims}
    if not variables:
        raise InvalidInput("compare: theory and training share no loss.")
    attrs = {"error": "theory / measured - 1", "z": "(theory - measured) / standard error of the measured mean"}
    return Comparison(theory, training, LearningCurves(variables, coords, attrs))


def _at(theory: LearningCurves, name: str, training: LearningCurves) -> Float[np.ndarray, "*grid"]:
    """A variable of the theory at the points of the training, in the order of the training's dimensions."""
    dims, _ = training.variables[name]
    own, values = theory.variables[name]
    if set(own) != set(dims):
        raise InvalidInput(f"compare({name}): theory has the dimensions {own}, training {dims}.")
    values = np.transpose(values, [own.index(d) for d in dims])
    chosen = []
    for dim in dims:
        known = {v: i for i, v in enumerate(theory.coords[dim].tolist())}
        wanted = training.coords[dim].tolist()
        lost = [v for v in wanted if v not in known]
        if lost:
            raise InvalidInput(f"compare({name}): training has {dim} = {lost[0]!r}, which theory has not.")
        chosen.append([known[v] for v in wanted])
    return values[np.ix_(*chosen)] if dims else values


@dataclasses.dataclass(frozen=True)
class Summary:
    r"""How far theory is from the measurement, for one loss over a whole comparison.

    Args:
        name: The loss.
        points: Pairs that were compared: both finite, and measured above the floor.
        left_out: Pairs that were not.
        median: Median of |theory / measured - 1|.
        worst: Largest of them.
        where: The point of the worst, for example `{"width": 64.0, "time": 10.0}`.
        beyond_noise: Largest of |theory / measured - 1| less two standard errors of the measured mean (0 inside them).
        noise: Median of that standard error, relative to the measured mean.
        within: Share of points with |z| <= 2.
    """

    name: str
    points: int
    left_out: int
    median: float
    worst: float
    where: dict[str, Any]
    beyond_noise: float
    noise: float
    within: float


def summarize(comparison: Comparison, names: Sequence[str] = LOSSES, *, floor: float = 1e-3) -> list[Summary]:
    """One row of numbers for every loss of a comparison.

    A training loss on its way to zero is the mean of a few unlucky seeds, not what a typical network has, and no theory of
    typical networks gives it in relative terms; points below `floor` are counted as left out.

    Args:
        comparison: What `compare` returned.
        names: The losses.
        floor: Share of the largest measured loss below which points are left out.

    Example:
        >>> import numpy as np
        >>> from foretrain.curves import LearningCurves
        >>> from foretrain.studies import pair, summarize
        >>> time = {"time": np.array([1.0, 2.0])}
        >>> theory = LearningCurves({"test_loss": (("time",), np.array([1.02, 0.5]))}, time, {})
        >>> measured = {"test_loss": (("time",), np.array([1.0, 0.5])), "test_loss_stderr": (("time",), np.array([0.01, 0.01]))}
        >>> round(summarize(pair(theory, LearningCurves(measured, time, {})))[0].worst, 6)
        0.02
    """
    rows = []
    for name in names:
        if name not in comparison.error:
            continue
        dims, error = comparison.error.variables[name]
        relative = np.abs(error)
        with np.errstate(all="ignore"):
            noise = comparison.error.values(f"{name}_stderr") / np.maximum(np.abs(1 + error), 1e-300)
            z = np.abs(comparison.error.values(f"{name}_z"))
        measured = comparison.training.values(name)
        with np.errstate(invalid="ignore"):
            usable = np.isfinite(error) & (measured >= floor * np.max(measured[np.isfinite(measured)], initial=0.0))
        count = int(np.sum(usable))
        if not count:
            rows.append(Summary(name, 0, error.size, math.nan, math.nan, {}, math.nan, math.nan, math.nan))
            continue
        index = np.unravel_index(np.argmax(np.where(usable, relative, -1.0)), error.shape)
        where = {d: comparison.error.coords[d][i].item() for d, i in zip(dims, index, strict=True)}
        sampled = usable & np.isfinite(noise)
        beyond = np.maximum(relative - 2 * np.where(np.isfinite(noise), noise, 0.0), 0.0)
        judged = usable & np.isfinite(z)
        rows.append(
            Summary(
                name,
                count,
                error.size - count,
                float(np.median(relative[usable])),
                float(relative[index]),
                where,
                float(np.max(beyond[usable])),
                float(np.median(noise[sampled])) if np.any(sampled) else math.nan,
                float(np.mean(z[judged] <= 2)) if np.any(judged) else math.nan,
            )
        )
    return rows
