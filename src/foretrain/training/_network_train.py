"""`train` for networks: the grid of a problem, size by size, averaged over seeds."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain.curves import LearningCurves
from foretrain.problems import AbstractNetwork, NetworkTraining, Problem, Schedule
from foretrain.training._network_plan import chosen_strategies
from foretrain.training._network_program import NUMERIC
from foretrain.training._network_runs import NetworkRuns, RunsInterrupted, run_network
from foretrain.training._sampling import Progress, mean_and_error

_LOSSES = ("test_loss", "train_loss", "accuracy")


def has_network(problem: Problem) -> bool:
    """Whether a problem is about a network, or the training of one.

    Args:
        problem: Any problem.
    """
    return isinstance(problem.model, AbstractNetwork) or isinstance(problem.training, NetworkTraining)


def train_networks(
    problem: Problem, times: Float[np.ndarray, " time"], seeds: Sequence[int], progress: Progress | None
) -> tuple[LearningCurves, bool]:
    """Curves over the product of the problem's axes, and whether Ctrl-C ended the work early.

    Args:
        problem: Networks that can be trained.
        times: Numbers of steps.
        seeds: The seeds.
        progress: Called as work advances.

    Raises:
        KeyboardInterrupt: Before any seed was finished at every point.
    """
    axes = problem.axes()
    looped = {name: values for name, values in axes.items() if name not in NUMERIC}
    places = list(itertools.product(*looped.values()))
    found: list[NetworkRuns] = []
    interrupted = False

    def advance(done: int, total: int, label: str) -> None:
        if progress is not None:
            progress(len(found) * total + done, len(places) * total, label)

    try:
        for place in places:
            piece = problem.select(dict(zip(looped, place, strict=True)))
            found.append(run_network(piece, times, seeds=seeds, progress=advance))
    except RunsInterrupted as interruption:
        if len(found) + 1 < len(places):
            raise KeyboardInterrupt from None
        found.append(interruption.runs)
        interrupted = True
    kept = [seed for seed in seeds if all(seed in runs.seeds for runs in found)]
    return _collected(problem, times, looped, places, found, kept), interrupted


def _collected(
    problem: Problem,
    times: Float[np.ndarray, " time"],
    looped: dict[str, tuple],
    places: Sequence[tuple],
    found: Sequence[NetworkRuns],
    seeds: Sequence[int],
) -> LearningCurves:
    axes = problem.axes()
    inner = {name: values for name, values in axes.items() if name not in looped}
    names = ["seed", *looped, *inner]
    shape = [len(seeds), *map(len, looped.values()), *map(len, inner.values())]

    def gathered(name: str) -> np.ndarray:
        """One array over seeds, the axes of the problem and perhaps time."""
        kept = [np.moveaxis(getattr(runs, name), 1, 0)[[runs.seeds.index(s) for s in seeds]] for runs in found]
        array = np.stack(kept, axis=1)
        array = array.reshape(*shape, *array.shape[3:])
        order = [0, *(names.index(axis) for axis in axes), *range(len(names), array.ndim)]
        return np.transpose(array, order)

    variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    for name in _LOSSES:
        if name == "accuracy" and not found[0].has_classes:
            continue
        for suffix, values in zip(("", "_stderr"), mean_and_error(gathered(name)), strict=True):
            variables[name + suffix] = ((*axes, "time"), values)
    if found[0].post:
        for name in ("test_loss", "train_loss"):
            for suffix, values in zip(("", "_stderr"), mean_and_error(gathered(f"{name}_post")), strict=True):
                variables[f"{name}_post{suffix}"] = ((*axes, "post_bits", "time"), np.moveaxis(values, -1, -2))

    def sized(of: Callable[[NetworkRuns], Any]) -> np.ndarray:
        """What every network has, over the axes of the problem and perhaps time."""
        array = np.stack([np.asarray(of(runs), np.float64) for runs in found])
        array = array.reshape((*map(len, looped.values()), *[1] * len(inner), *array.shape[1:]))
        array = np.transpose(array, [*(names[1:].index(axis) for axis in axes), *range(len(axes), array.ndim)])
        return np.broadcast_to(array, (*map(len, axes.values()), *array.shape[len(axes) :]))

    variables["params"] = (tuple(axes), sized(lambda runs: runs.parameters))
    variables["params_no_embed"] = (tuple(axes), sized(lambda runs: runs.params_no_embed))
    variables["tokens"] = ((*axes, "time"), sized(lambda runs: runs.tokens_per_step * runs.steps))
    variables["flops"] = ((*axes, "time"), sized(lambda runs: runs.flops_per_step * runs.steps))
    gone = gathered("diverged").any(axis=0)
    variables["status"] = (tuple(axes), np.where(gone, "diverged", "ok"))
    coords = {name: np.asarray([label(value) for value in values]) for name, values in axes.items()}
    coords["time"] = times
    if found[0].post:
        coords["post_bits"] = np.asarray(found[0].post)
    attrs: dict[str, Any] = {**problem.facts(), "verb": "train", "seeds": len(seeds), "first_seed": int(seeds[0])}
    bits = problem.training.bits()  # type: ignore[attr-defined]
    attrs |= {name: value for name, value in bits.items() if not isinstance(value, tuple) and value != math.inf}
    attrs["networks"] = [
        {
            **{name: label(value) for name, value in zip(looped, place, strict=True)},
            "parameters": runs.parameters,
            "flops_per_step": runs.flops_per_step,
            "steps_per_second": runs.steps_per_second,
            "strategy": runs.strategy,
        }
        for place, runs in zip(places, found, strict=True)
    ]
    attrs["strategies"] = chosen_strategies()
    messages = [divergence_message(int(gone.sum()), gone.size)] if gone.any() else []
    return LearningCurves(variables, coords, attrs | {"messages": messages})


def divergence_message(gone: int, points: int) -> str:
    """What is said when networks diverged.

    Args:
        gone: At how many points.
        points: Of how many.
    """
    return (
        f"train: {gone} of {points} points diverged for some seed: a loss that is not finite, or more than a thousand times what it was "
        "at the start. Lower the learning rate, or warm it up with a schedule."
    )


def label(value: Any) -> Any:
    """The coordinate of a value: a schedule in a few words, anything else as it is.

    Args:
        value: One value of an axis.
    """
    if not isinstance(value, Schedule):
        return value
    parts = [value.shape]
    if value.steps is not None:
        parts.append("the whole run" if value.stretches else f"{value.steps} steps")
    parts += [] if value.warmup == 0 else [f"warmup {value.warmup}"]
    parts += [] if value.decay is None else [f"decay {value.decay}"]
    parts += [] if math.isclose(value.final, 0.0) else [f"final {value.final:g}"]
    return ", ".join(parts)
