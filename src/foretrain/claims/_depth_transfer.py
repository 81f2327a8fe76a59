r"""The claims of "Depthwise hyperparameter transfer in residual networks" (arXiv 2309.16620), run and judged on finite networks.

With them the claims about width and about attention networks that the same table of rules answers (arXiv 2203.03466,
2505.01618). Residual network: `docs/theory/parameterizations.md`, (PA.8); drift: (PA.7); exponents: (PA.5), (PA.6).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain.claims._claim import Claim, judge
from foretrain.problems import MLP, NetworkTraining, Problem, ResNet, Schedule
from foretrain.studies import Transfer, transfer
from foretrain.tasks import Digits

PAPER = "10"
NAN = math.nan
# f(1), ..., f(6) of the infinitely wide linear network with L = 8 branches of scale 1/sqrt(L), one sample, eta_0 = 0.05, gamma_0 = 1.5.
LINEAR_8 = (0.37061, 0.64147, 0.83765, 0.94377, 0.98400, 0.99583)
RATE, RICHNESS = 0.05, 1.5


def claims(*, fast: bool = True) -> list[Claim]:
    """Every claim of the paper that networks on this machine can answer.

    Args:
        fast: Digits and few seeds; otherwise more seeds and larger sizes.
    """
    return [
        *_limits(fast),
        *_start(fast),
        *_inside(fast),
        *_learning_rate_over_depth(fast),
        *_learning_rate_over_width(fast),
        *_other_hyperparameters(fast),
        *_not_run(),
    ]


def trajectories(
    model: ResNet,
    training: NetworkTraining,
    inputs: Float[np.ndarray, "samples features"],
    targets: Float[np.ndarray, "samples outputs"],
    steps: int,
    seeds: int,
) -> Float[np.ndarray, "seeds steps samples outputs"]:
    """Outputs after each full-batch step, less those at the start, of networks with independent initial weights.

    Args:
        model: A residual network without axes.
        training: Its training, without axes.
        inputs: All samples.
        targets: Their targets.
        steps: How many steps.
        seeds: How many networks.
    """
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    from foretrain.parameterization import make_optimizer
    from foretrain.training._network import build_network, parameterize_network

    x, y = jnp.asarray(inputs, jnp.float32), jnp.asarray(targets, jnp.float32)
    sizes = (x.shape[1], y.shape[1])
    parameterization = parameterize_network(model, training, *sizes)

    def one(key):
        network, _ = build_network(model, training, *sizes, key=key)
        params, static = eqx.partition(network, eqx.is_inexact_array)
        optimizer = make_optimizer(parameterization.like(params), training.learning_rate)  # type: ignore[arg-type]
        start = jax.vmap(network)(x)

        def outputs(weights):
            return jax.vmap(eqx.combine(weights, static))(x) - start

        def objective(weights):
            return jnp.mean(jnp.sum((outputs(weights) - y) ** 2, axis=1)) / 2

        def step(carry, _):
            weights, state = carry
            updates, state = optimizer.update(jax.grad(objective)(weights), state, weights)
            weights = eqx.apply_updates(weights, updates)
            return (weights, state), outputs(weights)

        return jax.lax.scan(step, (params, optimizer.init(params)), None, length=steps)[1]

    keys = jax.random.split(jax.random.key(0), seeds)
    return np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys))(keys), dtype=np.float64)


def _mean(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def _tangent_kernel(depth: int, exponent: float) -> float:
    r"""$K$ of the infinitely wide linear network at its start, one sample of unit norm, branch scale 1: (PA.8)."""
    growth = 1 + depth ** (-2 * exponent)
    return 2 * growth**depth + growth ** (depth - 1)


def _linear(scheme: str, depth: int, width: int, steps: int, seeds: int) -> Float[np.ndarray, "seeds steps"]:
    model = ResNet(width=width, depth=depth, activation="linear", parameterization=scheme, richness=RICHNESS)
    one = np.ones((1, 1))
    return trajectories(model, NetworkTraining(learning_rate=RATE), one, one, steps, seeds)[:, :, 0, 0]


def _limits(fast: bool) -> list[Claim]:
    """Trajectories converge, first in width, then in depth, and features are learned in the limit."""
    seeds, width = (16, 512) if fast else (64, 1024)
    found = []
    runs = _linear("mup-depth", 8, width, 6, seeds)
    for step in (1, 4, 6):
        mean, error = _mean(runs[:, step - 1])
        source = LINEAR_8[step - 1]
        theory = RATE * _tangent_kernel(8, 0.5) if step == 1 else NAN
        z = (mean - source) / error
        found.append(
            Claim(
                PAPER,
                f"the trajectory has an infinite-width limit: linear network, 8 branches, f({step})",
                source,
                theory,
                mean,
                error,
                "reproduced" if abs(z) <= 4 else "not reproduced",
                f"{seeds} networks of width {width}: {z:+.1f} standard errors from the solved limit",
            )
        )
    depths = (1, 2, 4, 8, 16)
    limit = 3 * math.e
    gaps = [limit - _tangent_kernel(depth, 0.5) for depth in depths]
    slope = math.log2(gaps[-2] / gaps[-1])
    shallow, deep = (_mean(_linear("mup-depth", depth, width, 1, seeds)[:, 0] / RATE) for depth in (2, 16))
    measured = math.log((limit - shallow[0]) / (limit - deep[0]), 8)
    error = math.hypot(shallow[1] / (limit - shallow[0]), deep[1] / (limit - deep[0])) / math.log(8)
    expected = math.log(gaps[1] / gaps[-1], 8)
    found.append(
        Claim(
            PAPER,
            "the error of a finite depth is O(1/L): local slope of the initial tangent kernel, going to 1",
            1.0,
            slope,
            measured,
            error,
            "reproduced" if abs(slope - 1) < 0.1 and abs(measured - expected) <= 4 * error else "not reproduced",
            f"theory: slope {slope:.3f} from L = 8 to 16 (0.55 from 1 to 2); networks of width {width}, L = 2 to 16: {measured:.2f} "
            f"against {expected:.2f} for these depths",
        )
    )
    return found


def _start(fast: bool) -> list[Claim]:
    """A Brownian term in the stream for branches of scale 1/sqrt(L), none for 1/L."""
    seeds, width = (8, 256) if fast else (32, 512)
    found = []
    for scheme, exponent, source, words in (
        ("mup-depth", 0.5, math.exp(0.5), "keeps layerwise randomness: the stream's variance grows by exp(1/2)"),
        ("completep", 1.0, 1.0, "has none: the stream's variance does not move"),
    ):
        depth = 64
        theory = (1 + 0.5 * depth ** (-2 * exponent)) ** depth
        mean, error = _mean(_stream_growth(scheme, depth, width, seeds))
        found.append(
            judge(
                PAPER,
                f"at the start, a ReLU network with branches of scale L^-{exponent:g} {words}",
                source,
                theory,
                tolerance=0.02,
                why=f"{depth} branches stand for infinitely many, an error of O(1/L)",
                measured=mean,
                error=error,
            )
        )
    return found


def _stream_growth(scheme: str, depth: int, width: int, seeds: int) -> Float[np.ndarray, " seeds"]:
    """Mean square of the stream after the last branch over that before the first."""
    import jax
    import jax.numpy as jnp

    from foretrain.training._network import build_network

    model = ResNet(width=width, depth=depth, activation="relu", parameterization=scheme)

    def one(key):
        network, _ = build_network(model, NetworkTraining(learning_rate=1.0), 8, 1, key=key)
        _, features = network.observe(jnp.ones(8))
        squares = jnp.mean(features["stream"] ** 2, axis=1)
        return squares[-1] / squares[0]

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), seeds)), dtype=np.float64)


def _inside(fast: bool) -> list[Claim]:
    """What the stream, the output and the inside of a branch do as depth grows, after a few steps."""
    from foretrain.diagnostics import coordinate_check

    found = []
    seeds = 4 if fast else 12
    training = NetworkTraining(learning_rate=0.5, optimizer="sgd")
    for scheme, own in (("mup-depth", -0.5), ("completep", -1.0)):
        model = ResNet(width=128, depth=4, activation="tanh", parameterization=scheme)
        check = coordinate_check(
            model, axis="depth", values=[4, 8, 16, 32, 64], training=training, seeds=seeds, steps=3
        )
        for feature, measure, source in (
            ("stream", "change", 0.0),
            ("output", "change", 0.0),
            ("branch", "change", own),
        ):
            rows = [r for r in check.rows if r.feature == feature and r.quantity.measure == measure]
            row = max(rows, key=lambda r: abs(r.slope - source))
            found.append(
                Claim(
                    PAPER,
                    f"{scheme}: {row.words()} scales as L^{source:g}",
                    source,
                    NAN,
                    row.slope,
                    row.stderr,
                    "reproduced" if abs(row.slope - source) <= 0.1 + 4 * row.stderr else "not reproduced",
                    f"coordinate check over depths 4 to 64, width 128, {seeds} seeds; allowed 0.1 for finite depth and width",
                )
            )
    return found


def _task() -> Digits:
    return Digits(test_samples=297)


def _rates(low: int, high: int, spacing: float = 1.0) -> tuple[float, ...]:
    return tuple(float(2.0**k) for k in np.arange(low, high + spacing / 2, spacing))


def _training(optimizer: str, rates: tuple[float, ...] | float, steps: int) -> NetworkTraining:
    return NetworkTraining(
        learning_rate=rates,
        optimizer=optimizer,
        batch_size=64,
        loss="mse",
        schedule=Schedule("linear", steps=steps),
    )


def _drifts(found: Transfer, flat: Sequence[str], words: str) -> list[Claim]:
    """One claim for each scheme: that the best rate of those in `flat` does not move, that those of the others do."""
    return [
        drift_claim(
            f"the best learning rate {'does not move' if scheme in flat else 'moves'} with {words} under {scheme}",
            verdict,
            drift,
            moves=scheme not in flat,
            setting=f"{found.axis} {_range(found)}",
        )
        for verdict, drift in zip(found.verdicts, found.drift, strict=True)
        for scheme in (drift["parameterization"],)
    ]


def drift_claim(
    claim: str, verdict: Mapping[str, Any], drift: Mapping[str, Any], *, moves: bool, setting: str
) -> Claim:
    """The claim that something best moves with size, or that it does not, by the verdict that `transfer` gives.

    A sweep that is too coarse for a verdict shows neither, so it does not reproduce the claim, and the reason begins with *undecided*.
    Without two optima inside the grid there is no exponent, and the claim counts as not run.

    Args:
        claim: In words.
        verdict: A row of `Transfer.verdicts`.
        drift: The row of `Transfer.drift` that belongs to it.
        moves: Whether the claim is that it moves.
        setting: What was varied.
    """
    shown = verdict["verdict"] == ("drifts" if moves else "transfers")
    unknown = math.isnan(drift["exponent"]) and verdict["verdict"] == "undecided"
    advice = "".join(f"; to decide: {text}" for text in verdict["advice"]) if verdict["verdict"] == "undecided" else ""
    return Claim(
        PAPER,
        claim,
        "drifts" if moves else "flat",
        NAN if moves else 0.0,
        drift["exponent"],
        drift["stderr"],
        "reproduced" if shown else "not run" if unknown else "not reproduced",
        f"{verdict['sentence']} ({setting}){advice}",
    )


def _range(found: Transfer) -> str:
    sizes = sorted({row["size"] for row in found.optima})
    return f"{sizes[0]:g} to {sizes[-1]:g}"


def _learning_rate_over_depth(fast: bool) -> list[Claim]:
    """Flat over depth with branches of scale L^-1/2 or L^-1, with and without norms; not for muP without a depth rule."""
    steps, seeds, width = (100, 3, 32) if fast else (300, 8, 64)
    found = []
    for norm in ("none", "layernorm"):
        schemes = ("mup", "mup-depth", "completep")
        model = ResNet(
            width=width,
            depth=(2, 6, 18) if fast else (2, 4, 8, 16, 32),
            parameterization=schemes,
            norm=norm,
            base_width=width,
            base_depth=2,
        )
        swept = transfer(
            Problem(_task(), model, _training("adam", _rates(-11, -3, 0.5 if not fast else 1.0), steps)),
            [steps],
            seeds=seeds,
        )
        words = f"depth, {'without norms' if norm == 'none' else 'with LayerNorm'}, Adam,"
        found += _drifts(swept, ("mup-depth", "completep"), words)
    return found


def _learning_rate_over_width(fast: bool) -> list[Claim]:
    """Flat over width under muP and drifting under standard parameterization; and wider is better."""
    steps, seeds = (100, 3) if fast else (300, 8)
    widths = (32, 128, 512) if fast else (64, 128, 256, 512, 1024)
    model = MLP(width=widths, depth=3, parameterization=("mup", "sp"), base_width=widths[0])
    swept = transfer(Problem(_task(), model, _training("adam", _rates(-12, -2), steps)), [steps], seeds=seeds)
    found = _drifts(swept, ("mup",), "width, Adam,")
    losses, errors = (swept.curves.values(f"train_loss{end}")[0, ..., -1] for end in ("", "_stderr"))
    best = int(np.argmin(losses[0]))
    gaps = np.diff(losses[:, best]) / np.hypot(errors[:-1, best], errors[1:, best])
    found.append(
        Claim(
            PAPER,
            "wider is better: at one learning rate the training loss under muP falls with width",
            "falls",
            NAN,
            float(losses[-1, best] / losses[0, best]),
            NAN,
            "reproduced" if losses[-1, best] < losses[0, best] and np.all(gaps <= 2) else "not reproduced",
            f"loss at the best rate of width {widths[0]}, over that at width {widths[-1]}; no step upwards by more than two standard "
            f"errors (largest {gaps.max():+.1f})",
        )
    )
    return found


def _other_hyperparameters(fast: bool) -> list[Claim]:
    """Momentum, the strength of feature learning and schedules."""
    steps, seeds = (100, 3) if fast else (300, 8)
    depths = (2, 6, 18) if fast else (2, 4, 8, 16, 32)
    base = {"width": 64, "depth": depths, "parameterization": "mup-depth"}
    rate = 1.0
    momentum = _training("momentum", rate, steps).replace(momentum=[0.0, 0.5, 0.75, 0.875, 0.9375, 0.96875])
    richness = tuple(float(g) for g in 2.0 ** np.arange(-3, 3))
    sweeps = {
        "momentum": Problem(_task(), ResNet(**base), momentum),
        "richness": Problem(_task(), ResNet(**base, richness=richness), _training("momentum", rate, steps)),
    }
    found = []
    for name, problem in sweeps.items():
        swept = transfer(problem, [steps], seeds=seeds)
        edges = sum(optimum["status"] == "edge of stability" for optimum in swept.optima)
        setting = f"SGD with momentum at learning rate {rate}, depth {_range(swept)}"
        if edges:
            setting += f"; at {edges} of {len(depths)} depths the best is the last value before divergence"
        claim = f"the best {name} does not move with depth under mup-depth"
        found.append(drift_claim(claim, swept.verdicts[0], swept.drift[0], moves=False, setting=setting))
    return found


def _not_run() -> list[Claim]:
    return [
        Claim(
            PAPER,
            "the best learning rate of ResNets and ViTs on CIFAR-10 and ImageNet, 20 epochs, is flat in depth and width",
            "flat",
            NAN,
            NAN,
            NAN,
            "not run",
            "needs these data and GPUs; on digits, Fashion-MNIST and text see the studies transfer-*.toml and the page on transfer",
        ),
        Claim(
            PAPER,
            "CompleteP saves 12 to 34 % of the compute of deep language models (arXiv 2505.01618)",
            "0.12-0.34",
            NAN,
            NAN,
            NAN,
            "not run",
            "needs language models of a size that two cores do not train",
        ),
    ]
