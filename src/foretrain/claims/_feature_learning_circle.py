r"""The claims of "How feature learning can improve neural scaling laws" (arXiv 2409.17858) about ReLU networks on the circle.

There every exponent of the kernel regime is known. Losses are compared with what the network's own initial tangent kernel gives exactly,
mode by mode and step by step, not with a fitted slope: pre-asymptotic spectra bend both alike. Time is learning rate times steps.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from foretrain.claims._claim import Claim
from foretrain.kernels import empirical_ntk
from foretrain.problems import MLP, GradientFlow, NetworkTraining, Problem, TwoLayerLinear
from foretrain.tasks import Circle, SpectrumTask
from foretrain.training import InitialKernel, run_network

PAPER = "06"
NAN = math.nan
HARD, EASY = 1.0, 2.0
"""Exponents of the target: for ReLU the tangent kernel has capacity 2, so the sources are ½ and 3/2."""

_LAZY = 1e-4  # richness at which outputs stay linear in the weights
_ERRORS = 4.0  # standard errors that decide
_LAZY_TOLERANCE = (
    0.02  # largest deviation of a lazy network from its kernel: what richness 1e-4 leaves at the lowest losses
)


@dataclasses.dataclass(frozen=True)
class Rich:
    """Training of networks at a richness.

    Args:
        richness: Of the networks.
        rate: Learning rate at which their growing kernel stays stable.
        start: Time from which the exponent is fitted.
        stop: Time at the end.
    """

    richness: float
    rate: float
    start: float
    stop: float


@dataclasses.dataclass(frozen=True)
class Size:
    """How large the networks on the circle are, and how long they train.

    Args:
        points: Training points.
        width: Hidden units.
        seeds: Networks on the hard target, each with phases of its own.
        easy_seeds: Networks on the easy target, whose exponents scatter more, as their losses hang on few modes.
        hard: Trainings on the hard target, at smaller and larger richness.
        easy: The same on the easy target.
    """

    points: int
    width: int
    seeds: int
    easy_seeds: int
    hard: tuple[Rich, Rich]
    easy: tuple[Rich, Rich]


FAST = Size(
    512,
    512,
    3,
    4,
    hard=(Rich(0.1, 0.2, 40.0, 400.0), Rich(1.0, 0.05, 10.0, 100.0)),
    easy=(Rich(0.1, 0.2, 20.0, 200.0), Rich(1.0, 0.05, 10.0, 100.0)),
)
FULL = Size(
    1024,
    1024,
    3,
    6,
    hard=(Rich(0.1, 0.2, 40.0, 4000.0), Rich(1.0, 0.05, 10.0, 300.0)),
    easy=(Rich(0.1, 0.2, 20.0, 1000.0), Rich(1.0, 0.05, 10.0, 300.0)),
)


def circle_claims(size: Size) -> list[Claim]:
    """What networks on the circle do, beside what the paper says.

    Args:
        size: How large they are, and how long they train.
    """
    moved = moved_kernel(HARD, size.points, size.width, richness=1.0)
    return [
        _follows(size),
        *(_hard(circle_curves(HARD, size, rich)) for rich in size.hard),
        *(_easy(circle_curves(EASY, size, rich)) for rich in size.easy),
        *_mechanism(moved),
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class CircleCurves:
    """Losses on the circle, one row a seed.

    Args:
        exponent: Of the target.
        rich: What was trained.
        times: Learning rate times steps.
        kernel: Exact losses of gradient descent with the initial kernel of each network.
        model: Losses of the two-layer linear model at the same richness on the spectrum of that kernel.
        losses: Losses of the networks.
    """

    exponent: float
    rich: Rich
    times: Float[np.ndarray, " time"]
    kernel: Float[np.ndarray, "seeds time"]
    model: Float[np.ndarray, "seeds time"]
    losses: Float[np.ndarray, "seeds time"]

    def slopes(self, name: str) -> Float[np.ndarray, " seeds"]:
        """Exponents of decay from `start` to `stop`, by least squares on logarithms.

        Args:
            name: `"kernel"`, `"model"` or `"losses"`.
        """
        kept = self.times >= self.rich.start
        return -np.polyfit(np.log(self.times[kept]), np.log(getattr(self, name)[:, kept].T), 1)[0]

    @property
    def source(self) -> float:
        """Of the target in the tangent kernel of a ReLU network, whose capacity is 2."""
        return (2 * self.exponent - 1) / 2

    @property
    def promised(self) -> float:
        """The exponent that feature learning should give in the end."""
        return self.source * max(1.0, 2 / (1 + self.source))


def circle_problem(exponent: float, points: int, width: int, richness: float, rate: float, seed: int) -> Problem:
    """A two-layer ReLU network with biases on the circle, trained by full-batch gradient descent.

    Args:
        exponent: Of the target.
        points: Training points.
        width: Hidden units.
        richness: Of the network.
        rate: Learning rate.
        seed: Of the target's phases.
    """
    return Problem(
        Circle(exponent=exponent, points=points, seed=seed),
        MLP(width=width, depth=1, activation="relu", richness=richness, bias=True),
        # In single precision, small steps of a lazy network would be lost.
        NetworkTraining(learning_rate=rate, centre=True, dtype="float64"),
    )


def circle_curves(exponent: float, size: Size, rich: Rich) -> CircleCurves:
    """Networks of some richness, and what their initial kernels give.

    Args:
        exponent: Of the target.
        size: Of the networks.
        rich: Their training.
    """
    steps = np.unique(np.round(np.geomspace(1, rich.stop / rich.rate, 40)))
    kernel, model, losses = [], [], []
    for seed in range(size.seeds if exponent == HARD else size.easy_seeds):
        problem = circle_problem(exponent, size.points, size.width, rich.richness, rich.rate, seed)
        eigenvalues, power = initial_spectrum(problem, seed)
        kernel.append(kernel_losses(eigenvalues, power, rich.rate, steps))
        model.append(model_losses(eigenvalues, power, rich.richness, steps * rich.rate))
        losses.append(run_network(problem, steps, seeds=[seed]).train_loss[0, 0])
    return CircleCurves(exponent, rich, steps * rich.rate, *(np.array(a) for a in (kernel, model, losses)))


def initial_spectrum(problem: Problem, seed: int) -> tuple[Float[np.ndarray, " modes"], Float[np.ndarray, " modes"]]:
    r"""Eigenvalues $\lambda_k$ of the initial kernel over the training points, and the target's power $(u_k\cdot y)^2/P$ in each mode.

    Args:
        problem: A network with one output on rows of data, full batches.
        seed: Of the network.
    """
    data = problem.task.load()  # type: ignore[attr-defined]
    eigenvalues, vectors = np.linalg.eigh(InitialKernel(problem, seed=seed)(data.inputs) / len(data))
    return eigenvalues, (vectors.T @ data.targets[:, 0]) ** 2 / len(data)


def kernel_losses(
    eigenvalues: Float[np.ndarray, " modes"],
    power: Float[np.ndarray, " modes"],
    rate: float,
    steps: Float[np.ndarray, " time"],
) -> Float[np.ndarray, " time"]:
    r"""Losses of gradient descent that stays with the initial kernel, $\sum_kp_k(1-\eta\lambda_k)^{2n}$.

    Args:
        eigenvalues: $\lambda_k$.
        power: $p_k$.
        rate: $\eta$.
        steps: $n$.
    """
    return np.array([np.sum(power * np.abs(1 - rate * eigenvalues) ** (2 * n)) for n in steps])


def model_losses(
    eigenvalues: Float[np.ndarray, " modes"],
    power: Float[np.ndarray, " modes"],
    richness: float,
    times: Float[np.ndarray, " time"],
) -> Float[np.ndarray, " time"]:
    r"""Losses of the infinitely wide two-layer linear model on a spectrum; its $\gamma$ is the square of the network's richness.

    Args:
        eigenvalues: As for `kernel_losses`.
        power: As for `kernel_losses`.
        richness: Of the network.
        times: Learning rate times steps.
    """
    from foretrain.limits import solve

    learned = eigenvalues > 1e-10 * eigenvalues.max()  # others are rounding
    task = SpectrumTask(eigenvalues[learned], power[learned] / eigenvalues[learned])
    model = TwoLayerLinear(width=math.inf, richness=richness**2)
    return solve(Problem(task, model, GradientFlow()), times).values("test_loss") + power[~learned].sum()


@dataclasses.dataclass(frozen=True)
class Moved:
    r"""The tangent kernel of a network that has learned for a while, against that of its start.

    Args:
        time: Learning rate times steps.
        gains: $\langle e_k,Ke_k\rangle$ over its start, for Fourier modes $e_k$ from 1 to a sixteenth of the points.
        speed: Rate at which the kernel reduces the loss, $r^\top Kr/|r|^2$ with the residual $r$, over what the kernel of the start
            would do to the same residual.
        filled: Effective share of the circle where the kinks of the units are: 1 for even ones, $1/128$ for all in one place.
        filled_before: The same at the start.
    """

    time: float
    gains: Float[np.ndarray, " modes"]
    speed: float
    filled: float
    filled_before: float


def moved_kernel(
    exponent: float, points: int, width: int, *, richness: float, rate: float = 0.05, time: float = 100.0, seed: int = 0
) -> Moved:
    """Train one network by full-batch gradient descent, and look at its tangent kernel and its kinks.

    Args:
        exponent: Of the target.
        points: Training points.
        width: Hidden units.
        richness: Of the network.
        rate: Learning rate.
        time: Learning rate times steps.
        seed: Of network and target.
    """
    problem = circle_problem(exponent, points, width, richness, rate, seed)
    data = problem.task.load()  # type: ignore[attr-defined]
    start = InitialKernel(problem, seed=seed)
    with jax.enable_x64(True):
        params, residual = _descended(start, data.inputs, data.targets, rate, round(time / rate))
    later = empirical_ntk(start.apply, params, data.inputs, learning_rates=start.rates)
    kernels = start(data.inputs), np.asarray(later, np.float64)
    angles = 2 * math.pi * np.arange(points) / points
    modes = np.exp(1j * np.outer(np.arange(1, points // 16 + 1), angles))
    first, last = (np.real(np.sum(modes.conj() @ k * modes, axis=1)) for k in kernels)
    slow, fast = (residual @ k @ residual for k in kernels)
    return Moved(time, last / first, float(fast / slow), _filled(params), _filled(start.params))


def _descended(
    start: InitialKernel, inputs: np.ndarray, targets: np.ndarray, rate: float, steps: int
) -> tuple[Any, Any]:
    """Parameters after so many steps on all rows, and what is left of the targets."""
    x, y = jnp.asarray(inputs), jnp.asarray(targets)
    wanted = y + start.apply(start.params, x)

    def step(_: Any, params: Any) -> Any:
        gradients = jax.grad(lambda p: 0.5 * jnp.mean((wanted - start.apply(p, x)) ** 2))(params)
        return jax.tree.map(lambda w, g, c: w - rate * c * g, params, gradients, start.rates)

    params = jax.jit(lambda p: jax.lax.fori_loop(0, steps, step, p))(start.params)
    return params, np.asarray(wanted - start.apply(params, x))[:, 0]


def _filled(params: Any, bins: int = 128) -> float:
    r"""$(\sum_bm_b)^2/(B\sum_bm_b^2)$ for the masses $m_b$ of kinks (jumps of the slope) in bins of the circle."""
    weight, bias, readout = (
        np.asarray(a, np.float64) for a in (params.first.weight, params.first.bias, params.last.weight[0])
    )
    size = np.linalg.norm(weight, axis=1)  # the input's root 2 and the multiplier's 1 / root 2 cancel
    there = np.abs(bias) < size
    middle, half = np.arctan2(weight[:, 1], weight[:, 0])[there], np.arccos(-bias[there] / size[there])
    mass = (np.abs(readout) * size)[there] * np.sin(half)
    places = np.mod(np.concatenate([middle + half, middle - half]), 2 * math.pi)
    masses = np.histogram(places, bins, (0, 2 * math.pi), weights=np.concatenate([mass, mass]))[0]
    return float(masses.sum() ** 2 / (bins * np.sum(masses**2)))


def _mean(values: Float[np.ndarray, " seeds"]) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def _follows(size: Size) -> Claim:
    found = [
        circle_curves(exponent, size, Rich(_LAZY, 0.5, last.start, min(last.stop, 400.0)))
        for exponent, (last, _) in ((HARD, size.hard), (EASY, size.easy))
    ]
    worst = max(float(np.max(np.abs(one.losses / one.kernel - 1))) for one in found)
    lowest = min(float(one.kernel.min()) for one in found)
    return Claim(
        PAPER,
        "on the circle, lazy networks have the loss that their initial kernel gives: largest relative deviation",
        0.0,
        NAN,
        worst,
        NAN,
        _verdict(worst < _LAZY_TOLERANCE),
        f"{size.seeds + size.easy_seeds} networks of width {size.width} at richness {_LAZY:g}, {size.points} points, a hard and an easy target, losses of "
        f"1 to {lowest:.1e}; below {_LAZY_TOLERANCE:g} counts",
    )


def _compared(curves: CircleCurves) -> tuple[float, float, str]:
    """Exponent of the networks minus that of their kernels, its error, and both in words."""
    gap, error = _mean(curves.slopes("losses") - curves.slopes("kernel"))
    ratio = _mean(curves.losses[:, -1] / curves.kernel[:, -1])[0]
    rich, promised = curves.rich, _mean(curves.slopes("model") - curves.slopes("kernel"))[0]
    words = (
        f"{len(curves.losses)} networks at richness {rich.richness:g}, t from {rich.start:g} to {rich.stop:g}: exponent minus that of the exact "
        f"curve of the initial kernel {gap:+.3f} ± {error:.3f}, where the two-layer linear model on that kernel's spectrum has {promised:+.3f}; "
        f"loss over that of the kernel at the end {ratio:.3f}"
    )
    return gap, error, words


def _hard(curves: CircleCurves) -> Claim:
    gap, gap_error, words = _compared(curves)
    kernel, model = (_mean(curves.slopes(name))[0] for name in ("kernel", "model"))
    measured, error = _mean(curves.slopes("losses"))
    # Faster than its own kernel, and nearer to what feature learning gives in the model than to what the kernel gives.
    yes = gap > _ERRORS * gap_error and abs(measured - model) < abs(measured - kernel)
    claim = f"on the circle, a hard target (source {curves.source:g}), richness {curves.rich.richness:g}: the exponent becomes 2 beta / (1 + beta)"
    return Claim(PAPER, claim, curves.promised, model, measured, error, _verdict(yes), words)


def _easy(curves: CircleCurves) -> Claim:
    gap, gap_error, words = _compared(curves)
    kernel, (measured, error) = _mean(curves.slopes("kernel"))[0], _mean(curves.slopes("losses"))
    source = (2 * HARD - 1) / 2
    change = 2 * source / (1 + source) - source  # what the hard target should show, and this one must not
    yes = abs(gap) < max(_ERRORS * gap_error, 0.25 * change) and _ERRORS * gap_error < change
    claim = f"on the circle, an easy target (source {curves.source:g}), richness {curves.rich.richness:g}: the exponent stays that of the kernel"
    words += f"; {_ERRORS:g} standard errors must be below {change:.3f}, the change promised to the hard target"
    return Claim(PAPER, claim, curves.promised, kernel, measured, error, _verdict(yes), words)


def _mechanism(moved: Moved) -> list[Claim]:
    """What the solvable model says that makes it faster, and whether it does."""
    gain = float(np.exp(np.mean(np.log(moved.gains))))
    setting = f"one network at richness 1 on the hard target, t = {moved.time:g}"
    return [
        Claim(
            PAPER,
            "on the circle, feature learning multiplies the kernel of all modes by one gain: largest gain over smallest",
            1.0,
            NAN,
            float(moved.gains.max() / moved.gains.min()),
            NAN,
            _verdict(moved.gains.max() < 2 * moved.gains.min() and moved.gains.min() > 1),
            f"{setting}: the tangent kernel in the first {len(moved.gains)} Fourier modes grew by {moved.gains.min():.2f} to "
            f"{moved.gains.max():.2f}, mean {gain:.2f}; within a factor of 2 counts",
        ),
        Claim(
            PAPER,
            "on the circle, that gain speeds learning up: speed of the loss over what the initial kernel would do to the same residual",
            "> 1",
            gain,
            moved.speed,
            NAN,
            _verdict(moved.speed > 1),
            f"{setting}: the kernel is small away from the kinks of the units, whose effective share of the circle is {moved.filled:.2f}; "
            f"at the start it is {moved.filled_before:.2f}",
        ),
    ]


def _verdict(yes: bool) -> str:
    return "reproduced" if yes else "not reproduced"
