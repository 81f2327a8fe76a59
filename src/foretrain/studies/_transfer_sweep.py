"""Trains the networks of a transfer study, piece by piece through the store."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from foretrain.curves import LearningCurves
from foretrain.problems import Problem, protocol_times
from foretrain.studies._run import Progress, through
from foretrain.studies._store import Store
from foretrain.studies._transfer_plan import Plan, label

# Values of these can share one compiled program; others change it, or the batches.
_TOGETHER = ("learning_rate", "momentum", "weight_decay", "epsilon")
# A piece is what a kill can lose: about so many runs, enough to keep a vectorized program busy.
_RUNS_OF_A_PIECE = 8
# Seeds come in blocks, so that a study with more seeds takes over the pieces of one with fewer.
_SEEDS_OF_A_PIECE = 4
_QUANTITIES = ("train_loss", "test_loss", "accuracy")


def run_sweep(
    problem: Problem,
    plan: Plan,
    times: Any,
    seeds: Sequence[int],
    *,
    store: Store | None = None,
    progress: Progress | None = None,
) -> LearningCurves:
    """Losses of every variant, size, swept value and seed.

    Args:
        problem: The grid of problems.
        plan: What its axes are for.
        times: Numbers of steps.
        seeds: Seeds of the networks and of the order of their data.
        store: Where finished pieces are kept and looked for.
        progress: Called as work advances.

    Returns:
        `train_loss`, `test_loss` (means over seeds, with `_stderr`), the same `_by_seed`, `accuracy`, and `status`; dimensions
        are the variants, the size, the swept hyperparameter, then `seed`, then `time`. `parameters` and `flops_per_step` over
        variants and sizes.
    """
    work = list(_pieces(problem, plan, seeds))
    shape = (*(len(v) for v in plan.variants.values()), len(plan.sizes))
    grid = np.asarray(protocol_times(problem.training, times, "transfer"), dtype=np.float64)
    full = (*shape, len(plan.values), len(seeds), len(grid))
    found = {name: np.full(full, np.nan) for name in _QUANTITIES}
    facts = {name: np.full(shape, np.nan) for name in ("parameters", "flops_per_step")}
    for number, (where, first, values, block_start, block) in enumerate(work):
        part = _named(problem, plan, where, values)

        def advance(done: int, total: int, text: str, number: int = number, where: tuple = where) -> None:
            if progress is not None:
                progress(
                    100 * number + 100 * done // max(1, total),
                    100 * len(work),
                    f"{plan.axis} {plan.sizes[where[-1]]:g}",
                )

        advance(0, 1, "")
        piece = through(
            store,
            ("transfer", part, grid, list(block)),
            lambda part=part, block=block, advance=advance: _train(part, plan, times, block, advance),
        )
        here = (*where, slice(first, first + len(values)), slice(block_start, block_start + len(block)))
        for name in _QUANTITIES:
            found[name][here] = piece.values(name)
        for name, array in facts.items():
            array[where] = piece.attrs[name]
    return _assembled(plan, seeds, grid, found, facts)


def _pieces(problem: Problem, plan: Plan, seeds: Sequence[int]) -> Iterator[tuple[tuple, int, tuple, int, tuple]]:
    """Index of variant and size, first swept value and values, first seed and seeds of every piece."""
    shape = [range(len(v)) for v in (*plan.variants.values(), plan.sizes)]
    blocks = [(i, tuple(seeds[i : i + _SEEDS_OF_A_PIECE])) for i in range(0, len(seeds), _SEEDS_OF_A_PIECE)]
    largest = math.ceil(_RUNS_OF_A_PIECE / min(len(seeds), _SEEDS_OF_A_PIECE)) if plan.swept in _TOGETHER else 1
    chunks = _chunks(len(plan.values), largest)
    bounds = [round(i * len(plan.values) / chunks) for i in range(chunks + 1)]
    for where in itertools.product(*shape):
        for start, block in blocks:
            for low, high in itertools.pairwise(bounds):
                yield where, low, plan.values[low:high], start, block


def _chunks(count: int, largest: int) -> int:
    """Into how many pieces of about `largest` to cut; of equal length where that is possible, since every length is compiled."""
    most = -(-count // largest)
    equal = [
        chunks for chunks in range(most, -(-count // (2 * largest)) - 1, -1) if largest > 1 and count % chunks == 0
    ]
    return equal[0] if equal else most


def _named(problem: Problem, plan: Plan, where: tuple[int, ...], values: tuple) -> Problem:
    """The problem of one piece: single values but for the swept hyperparameter, where that may have several."""
    chosen = {name: options[i] for (name, options), i in zip(plan.variants.items(), where[:-1], strict=True)}
    chosen[plan.axis] = plan.sizes[where[-1]]
    single = problem.select({**chosen, plan.swept: values[0]})
    if plan.swept not in _TOGETHER:
        return single
    return single.__class__(single.task, single.model, single.training.replace(**{plan.swept: values}))


def _train(problem: Problem, plan: Plan, times: Any, seeds: Sequence[int], progress: Progress) -> LearningCurves:
    from foretrain.training import run_network

    runs = run_network(problem, times, seeds=seeds, progress=progress)
    dims = (plan.swept, "seed", "time")
    values = problem.axes().get(plan.swept)
    coords = {
        plan.swept: np.array(values if values is not None else [label(_value(problem, plan.swept))]),
        "seed": np.array(seeds),
        "time": np.asarray(runs.times, dtype=np.float64),
    }
    quantities = {name: np.asarray(getattr(runs, name), dtype=np.float64) for name in _QUANTITIES}
    lost = np.asarray(runs.diverged)[..., None]
    for name in ("train_loss", "test_loss"):
        # From the step at which a run blew up on, its losses are not finite, so the last one tells.
        quantities[name][..., -1:] = np.where(lost, np.inf, quantities[name][..., -1:])
    return LearningCurves(
        {name: (dims, array) for name, array in quantities.items()},
        coords,
        {
            "parameters": int(runs.parameters),
            "flops_per_step": float(runs.flops_per_step),
            "steps_per_second": float(runs.steps_per_second),
            "strategy": str(runs.strategy),
        },
    )


def _value(problem: Problem, name: str) -> Any:
    return next(getattr(part, name) for part in (problem.model, problem.training) if hasattr(part, name))


def _assembled(
    plan: Plan, seeds: Sequence[int], grid: np.ndarray, found: dict[str, np.ndarray], facts: dict[str, np.ndarray]
) -> LearningCurves:
    outer = (*plan.variants, plan.axis)
    dims = (*outer, plan.swept)
    variables: dict[str, Any] = {}
    n = len(seeds)
    with np.errstate(all="ignore"):
        for name in ("train_loss", "test_loss"):
            losses = np.where(np.isnan(found[name]), np.inf, found[name])
            variables[name] = ((*dims, "time"), losses.mean(axis=-2))
            spread = losses.std(axis=-2, ddof=1) / math.sqrt(n) if n > 1 else np.full_like(losses[..., 0, :], np.nan)
            variables[f"{name}_stderr"] = ((*dims, "time"), spread)
            variables[f"{name}_by_seed"] = ((*dims, "seed", "time"), losses)
        if np.isfinite(found["accuracy"]).any():
            variables["accuracy"] = ((*dims, "time"), found["accuracy"].mean(axis=-2))
    ok = np.isfinite(variables["train_loss"][1]).all(axis=-1)
    variables["status"] = (dims, np.where(ok, "ok", "diverged"))
    variables |= {name: (outer, array) for name, array in facts.items()}
    coords = {name: np.array([label(v) for v in values]) for name, values in plan.variants.items()}
    coords |= {plan.axis: np.array(plan.sizes, dtype=np.float64), plan.swept: np.array(plan.labels)}
    coords |= {"seed": np.array(seeds), "time": np.asarray(grid, dtype=np.float64)}
    return LearningCurves(variables, coords, {"seeds": n})
