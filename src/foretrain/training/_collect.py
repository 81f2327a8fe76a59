"""From the results of single seeds to labelled averages."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain.curves import LearningCurves
from foretrain.problems import SGD, OnePassSGD, Problem
from foretrain.training._network_train import divergence_message as divergence_of_networks
from foretrain.training._sampling import mean_and_error

# Axes whose points share the random numbers of a draw. With the axes of the protocol, which share its decomposition too,
# they are trained together; every other axis is a loop.
SIZES = ("noise", "width", "ensemble", "samples")


@dataclasses.dataclass(frozen=True, eq=False)
class SeedResult:
    """All sizes of one seed.

    `edge` is the largest stable learning rate, NaN for protocols and models without one; `readout_norm` belongs to the two-layer
    linear model.
    """

    test_loss: Float[np.ndarray, "noise width ensemble protocol samples time"]
    train_loss: Float[np.ndarray, "noise width ensemble protocol samples time"]
    edge: Float[np.ndarray, "width protocol samples"]
    readout_norm: Float[np.ndarray, "noise width ensemble protocol samples time"] | None = None

    @classmethod
    def empty(
        cls,
        noises: int,
        widths: int,
        ensembles: int,
        protocols: int,
        samples: int,
        times: int,
        *,
        readout_norm: bool = False,
    ) -> "SeedResult":
        """Room for the results, all NaN."""
        shape = (noises, widths, ensembles, protocols, samples, times)
        return cls(
            np.full(shape, np.nan),
            np.full(shape, np.nan),
            np.full((widths, protocols, samples), np.nan),
            np.full(shape, np.nan) if readout_norm else None,
        )


def values_of(part: Any, name: str, default: Any = None) -> list:
    """The values of a field that may be an axis."""
    value = getattr(part, name, default)
    return list(value) if isinstance(value, tuple) else [value]


def is_rate(problem: Problem, name: str) -> bool:
    """Whether an axis only changes the filter of the protocol."""
    return name in problem.training.axes() and name != "samples"


def collect(
    problem: Problem,
    times: Float[np.ndarray, " time"] | None,
    looped: Mapping[str, tuple],
    pieces: Mapping[tuple[int, ...], Mapping[int, SeedResult]],
    seeds: Sequence[int],
    facts: Mapping[str, Any],
) -> LearningCurves:
    """Averages over seeds, with the problem's axes as dimensions.

    Args:
        problem: The whole grid.
        times: Times, or `None` for a protocol without.
        looped: Names and values of the looped axes.
        pieces: For every point of the looped axes, the result of every seed.
        seeds: The seeds that all pieces have.
        facts: Further attributes of the result.
    """
    axes = problem.axes()
    rates = [name for name in axes if is_rate(problem, name)]
    outer = [len(values) for values in looped.values()]

    def gathered(take: Callable[[SeedResult], Any], inner: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        """One array over (seed, looped axes, inner axes) with its names, the axis `protocol` split into its own axes."""
        array = np.array([[take(piece[seed]) for piece in pieces.values()] for seed in seeds])
        names, shape = [*looped], [len(seeds), *outer]
        for name, length in zip(inner, array.shape[2:], strict=True):
            names += rates if name == "protocol" else [name]
            shape += [len(axes[rate]) for rate in rates] if name == "protocol" else [length]
        return array.reshape(shape), names

    def averaged(name: str, array: np.ndarray, names: list[str], wanted: list[str]) -> None:
        for suffix, values in zip(("", "_stderr"), mean_and_error(array), strict=True):
            variables[name + suffix] = (tuple(wanted), _arrange(values, names, wanted))

    variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    wanted = [*axes, *([] if times is None else ["time"])]
    inner = ("noise", "width", "ensemble", "protocol", "samples", "time")
    averaged("test_loss", *gathered(lambda result: result.test_loss, inner), wanted)
    averaged("train_loss", *gathered(lambda result: result.train_loss, inner), wanted)
    first = next(iter(next(iter(pieces.values())).values()))
    if first.readout_norm is not None:
        averaged("readout_norm", *gathered(lambda result: result.readout_norm, inner), wanted)
    gone = np.isinf(variables["test_loss"][1])
    gone = gone if times is None else gone.any(axis=-1)
    variables["status"] = (tuple(axes), np.where(gone, "diverged", "ok"))
    messages = []
    if np.all(np.isnan(first.edge)):
        if np.any(gone):
            messages.append(divergence_of_networks(int(np.sum(gone)), gone.size))
    else:
        edges, names = gathered(lambda result: result.edge, ("width", "protocol", "samples"))
        kept = [name for name in axes if name in names and name != "learning_rate"]
        averaged("max_stable_lr", edges, names, kept)
        if np.any(gone):
            messages.append(
                divergence_message(int(np.sum(gone)), gone.size, variables["max_stable_lr"][1], problem.training.kind)
            )
    coords = {name: np.asarray(values) for name, values in axes.items()}
    if times is not None:
        coords["time"] = times
    attrs = {**problem.facts(), "verb": "train", "seeds": len(seeds), "first_seed": int(seeds[0]), **facts}
    return LearningCurves(variables, coords, attrs | {"messages": messages})


def divergence_message(gone: int, points: int, edges: Float[np.ndarray, "*grid"], protocol: str) -> str:
    """What is said when points diverged.

    Args:
        gone: How many.
        points: Of how many.
        edges: `max_stable_lr` over the grid.
        protocol: Kind of the protocol.
    """
    range_ = f"{np.min(edges):.4g} to {np.max(edges):.4g} in the mean over draws"
    if protocol in (SGD.kind, OnePassSGD.kind):
        return (
            f"train: {gone} of {points} points diverged in some draws. Full-batch descent is stable up to max_stable_lr, which is "
            f"{range_}; the noise of small batches makes stochastic gradient descent diverge below it. Lower the learning rate "
            "or raise batch_size."
        )
    return (
        f"train: {gone} of {points} points diverged: their learning rate is past the edge of stability of some draws. The edge "
        f"max_stable_lr is {range_}; choose a learning rate well below it."
    )


def _arrange(array: np.ndarray, names: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Only the wanted axes, in their order; the others have one value, or (a rate that does not matter) equal ones."""
    index = tuple(slice(None) if name in wanted else 0 for name in names)
    kept = [name for name in names if name in wanted]
    return np.transpose(array[index], [kept.index(name) for name in wanted])
