"""Runs `solve` and `train` on a study, piece by piece through the store."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain.curves import LearningCurves, combine_messages
from foretrain.errors import ForetrainWarning
from foretrain.problems import protocol_times
from foretrain.studies._store import Store
from foretrain.studies._study import Study

Progress = Callable[[int, int, str], None]

# Seeds are trained and stored in pieces: as many at once as there are cores, but never so few that files abound.
_MOST_PIECES = 32
# Longer declarations (arrays written out in the study file) are not repeated in every result.
_LONGEST_STUDY = 20_000


def solve_study(study: Study, *, store: Store | None = None, progress: Progress | None = None) -> LearningCurves:
    """What theory predicts for a study; failed points are values, never an exception.

    Args:
        study: What is to be solved.
        store: Where results are kept and looked for; `None` computes afresh and keeps nothing.
        progress: Called as work advances.
    """

    def compute() -> LearningCurves:
        from foretrain.limits import solve

        options: dict[str, Any] = {"outputs": study.outputs, "method": study.solve.method}
        return solve(study.problem, study.raw_times, **options, throw=False, progress=progress)

    parts = ("solve", study.problem, study.times, study.outputs, study.solve)
    return _signed(through(store, parts, compute), study)


def train_study(study: Study, *, store: Store | None = None, progress: Progress | None = None) -> LearningCurves:
    """What finite networks do on a study, averaged over seeds.

    Seeds are trained a few at a time, and each finished piece goes to the store: a run that was killed goes on where it
    was, and a run with more seeds takes over those that are there.

    Args:
        study: What is to be trained.
        store: Where results are kept and looked for; `None` computes afresh and keeps nothing.
        progress: Called as work advances.

    Raises:
        TooLarge: The result would not fit in memory.
        TrainingInterrupted: Ctrl-C after at least one seed; holds the averages over the finished ones.
    """
    from foretrain.training import TrainingInterrupted, train
    from foretrain.training._network_plan import remember_strategies

    times = protocol_times(study.problem.training, study.raw_times, "train")
    study.problem.check_size(1 if times is None else len(times), "train")
    pieces: list[LearningCurves] = []
    finished = 0

    def advance(done: int, total: int, label: str) -> None:
        if progress is not None:
            progress(finished + count * done // max(1, total), study.seeds, label)

    def compute() -> LearningCurves:
        options: dict[str, Any] = {"seeds": count, "seed": study.seed + finished, "minibatches": study.minibatches}
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            curves = train(study.problem, study.raw_times, **options, throw=False, progress=advance)
        for warning in heard:
            if str(warning.message) not in curves.messages:  # those are said once, for all pieces
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        return curves

    try:
        for count in _pieces(study.seeds):
            advance(0, 1, "train")
            parts = ("train", study.problem, study.times, study.seed + finished, count, study.minibatches)
            pieces.append(through(store, parts, compute))
            # What the first piece timed holds for all, also when it comes from the store.
            remember_strategies(pieces[-1].attrs.get("strategies", {}))
            finished += count
    except TrainingInterrupted as interruption:
        raise TrainingInterrupted(_signed(pool([*pieces, interruption.curves]), study)) from None
    except KeyboardInterrupt:
        if not pieces:
            raise
        raise TrainingInterrupted(_signed(pool(pieces), study)) from None
    curves = _signed(pool(pieces), study)
    for message in curves.messages:
        warnings.warn(message, ForetrainWarning, stacklevel=2)
    return curves


def _pieces(seeds: int) -> list[int]:
    from foretrain.training._sampling import cores

    size = max(cores(), math.ceil(seeds / _MOST_PIECES))
    return [min(size, seeds - start) for start in range(0, seeds, size)]


def pool(pieces: Sequence[LearningCurves]) -> LearningCurves:
    r"""The averages over all seeds of several trainings of the same grid.

    With $n_i$ seeds, means $m_i$ and standard errors $s_i$, the pooled mean is $m=\sum n_im_i/n$, and the squared standard
    error $\sum_i[(n_i-1)n_is_i^2+n_i(m_i-m)^2]/(n(n-1))$: exactly what one training with all seeds gives.

    Args:
        pieces: What `train` returned for different seeds.
    """
    first = pieces[0]
    if len(pieces) == 1:
        return first
    counts = np.array([piece.attrs["seeds"] for piece in pieces], dtype=np.float64)
    variables = dict(first.variables)
    for name, (dims, _) in first.variables.items():
        if f"{name}_stderr" in first:
            stacks = [np.stack([piece.values(n) for piece in pieces]) for n in (name, f"{name}_stderr")]
            mean, stderr = _pooled(counts, *stacks)
            variables[name], variables[f"{name}_stderr"] = (dims, mean), (dims, stderr)
        elif name == "status":
            statuses = np.stack([piece.values(name) for piece in pieces])
            worst = statuses[0]
            for others in statuses[1:]:
                worst = np.where(worst == "ok", others, worst)
            variables[name] = (dims, worst.astype(str))
    gone = np.sum(variables["status"][1] == "diverged")
    messages = combine_messages([m for piece in pieces for m in piece.messages])
    if gone and "max_stable_lr" in variables:  # the pieces say the same, each in its own numbers
        from foretrain.training._collect import divergence_message

        status, edges = variables["status"][1], variables["max_stable_lr"][1]
        messages = [divergence_message(int(gone), status.size, edges, first.attrs["training"])]
    elif gone:
        from foretrain.training._network_train import divergence_message as of_networks

        messages = [of_networks(int(gone), variables["status"][1].size)]
    attrs = {**first.attrs, "seeds": int(counts.sum()), "messages": messages}
    return LearningCurves(variables, first.coords, attrs)


def _pooled(
    counts: Float[np.ndarray, " pieces"],
    means: Float[np.ndarray, "pieces *grid"],
    errors: Float[np.ndarray, "pieces *grid"],
) -> tuple[Float[np.ndarray, "*grid"], Float[np.ndarray, "*grid"]]:
    n = counts.reshape(-1, *([1] * (means.ndim - 1)))
    total = counts.sum()
    with np.errstate(invalid="ignore", over="ignore"):
        mean = (n * means).sum(axis=0) / total
        within = np.where(n > 1, (n - 1) * n * errors**2, 0.0)
        squares = (within + n * (means - mean) ** 2).sum(axis=0)
        return mean, np.where(np.isfinite(mean), np.sqrt(squares / (total * (total - 1))), np.nan)


def through(store: Store | None, parts: Sequence[Any], compute: Callable[[], LearningCurves]) -> LearningCurves:
    """The stored result, else a computed one, which is stored.

    Args:
        store: `None` always computes.
        parts: The verb and all that determines its result.
        compute: Makes the result.
    """
    if store is None:
        return compute()
    key = store.key(*parts)
    found = store.load(key)
    if found is None:
        found = compute()
        store.save(key, found)
    return found


def _signed(curves: LearningCurves, study: Study) -> LearningCurves:
    """The result with the declaration that made it."""
    declaration = study.to_toml()
    if len(declaration) > _LONGEST_STUDY:
        return curves
    return dataclasses.replace(curves, attrs={**curves.attrs, "study": declaration})
