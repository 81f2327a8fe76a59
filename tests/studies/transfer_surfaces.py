"""Loss surfaces with a known optimum, drift and noise, and a trainer that answers from them."""

import numpy as np

from foretrain import MLP, Digits, NetworkTraining, Problem
from foretrain.problems import protocol_times
from foretrain.training import NetworkRuns

SIZES = (64, 128, 256, 512, 1024)


def surface(
    random,
    *,
    drift,
    seeds=4,
    sizes=SIZES,
    step=2.0,
    kind="skewed",
    common=0.05,
    single=0.02,
    moving=0.05,
    offset=0.0,
    grid_points=11,
):
    """Sizes, log rates, losses (sizes, rates, seeds) and the true log optimum of every size.

    Every seed has noise that is the same at all rates of a size (`common`), noise of its own at every point (`single`), and an
    optimum of its own (`moving`).
    """
    x = np.log(0.1) + np.log(step) * (np.arange(grid_points) - grid_points // 2)
    sizes = np.array(sizes, dtype=np.float64)
    best = np.log(0.1) + offset + drift * np.log(sizes / 256)
    losses = np.empty((len(sizes), len(x), seeds))
    for i in range(len(sizes)):
        for k in range(seeds):
            d = x - best[i] - moving * random.normal()
            if kind == "skewed":
                y, cliff = -3 + 0.25 * d**2 + 0.04 * d**3, 1.7
            elif kind == "parabola":
                y, cliff = -3 + 0.25 * d**2, np.inf
            elif kind == "vee":  # two power laws that meet
                y, cliff = -2 + np.where(d < 0, -0.6 * d, 1.5 * d), 1.4
            else:  # "kinked": a power law that runs into a wall
                y, cliff = -2 - 0.6 * d + 0.15 * (np.exp(np.minimum(4 * d, 50)) - 1), 1.0
            y = y - 0.1 * np.log(sizes[i]) + common * random.normal() + single * random.normal(size=x.shape)
            losses[i, :, k] = np.where(d > cliff, np.inf, np.exp(np.minimum(y, 50)))
    return sizes, x, losses, best


def pretended_runs(exponents, calls=None, *, best=0.1, cliff=1.6):
    """A `run_network` whose optimum moves like size^exponents[scheme]; deterministic in the seed, size and rate."""

    def run_network(problem, times, *, seeds, progress=None):
        if calls is not None:
            calls.append((problem, tuple(seeds)))
        steps = protocol_times(problem.training, times, "pretended")
        rates = np.atleast_1d(problem.training.learning_rate)
        model = problem.model
        move = exponents[model.parameterization] * np.log(model.width / 64)
        losses = np.empty((len(rates), len(seeds), len(steps)))
        for k, seed in enumerate(seeds):
            random = np.random.default_rng([seed, int(model.width)])
            own, place = 0.05 * random.normal(), 0.04 * random.normal()
            for i, rate in enumerate(rates):
                d = np.log(rate / best) - move - place
                end = np.exp(-2.5 + 0.25 * d**2 + 0.03 * d**3 - 0.1 * np.log(model.width) + own)
                losses[i, k] = np.where((d > cliff) & (steps > 0), np.inf, end * (1 + 5 / (1 + steps)))
        if progress is not None:
            progress(1, 1, "train")
        return NetworkRuns(
            train_loss=losses,
            test_loss=1.1 * losses,
            accuracy=np.full(losses.shape, np.nan),
            diverged=~np.isfinite(losses[..., -1]),
            points=tuple({"learning_rate": float(r)} for r in rates),
            seeds=tuple(seeds),
            times=steps,
            steps_per_second=1.0,
            flops_per_step=1.0,
            parameters=int(model.width) ** 2,
            strategy="pretended",
            has_classes=False,
        )

    return run_network


def problem(widths=SIZES, schemes=("sp", "mup"), rates=None, **training):
    """Digits, an MLP of some widths and schemes, and rates around 0.1."""
    rates = (0.1 * 2.0 ** np.arange(-6, 5)).tolist() if rates is None else rates
    model = MLP(width=list(widths), base_width=64, parameterization=list(schemes) if len(schemes) > 1 else schemes[0])
    return Problem(
        Digits(), model, NetworkTraining(**{"learning_rate": rates, "batch_size": 32, "samples": 500, **training})
    )
