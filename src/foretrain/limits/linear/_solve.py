"""The door of the linear limits: from a declared problem to labelled learning curves."""

import functools
import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from foretrain._declaration import WrongKey
from foretrain.curves import LearningCurves, combine_messages
from foretrain.errors import ForetrainWarning, nearest
from foretrain.limits.linear._curves import linear_curves, node_size
from foretrain.limits.linear._data import measure
from foretrain.limits.linear._dynamics import Descent, Dynamics, Flow, HeavyBall, InertialFlow
from foretrain.limits.linear._edge import max_stable_lr, outlier, spectral_edge
from foretrain.limits.linear._measure import (
    EXACT_MODES,
    NODES_PER_BIN,
    SpectralMeasure,
    index_nodes,
    power_law_measure,
    spectral_measure,
)
from foretrain.limits.linear._static import ridge_program
from foretrain.limits.linear._stochastic import StochasticDescent
from foretrain.problems import (
    SGD,
    AbstractProtocol,
    GradientDescent,
    GradientFlow,
    Kernel,
    Momentum,
    MomentumFlow,
    OnePassSGD,
    Problem,
    RandomFeatures,
    Ridge,
    Schedule,
)
from foretrain.tasks import AbstractDataTask, AbstractSpectralTask, PowerLawSpectrum, Spectrum

# Axes that one compiled program maps over; the others are looped.
MAPPED = ("noise", "width", "ensemble", "ridge", "samples")
PARTS = ("bias", "variance_data", "variance_features", "variance_interaction")
# With minibatches: gradient descent alone, and what the noise of the batches adds.
MINIBATCH_PARTS = ("test_forcing", "train_forcing", "test_sgd_noise", "train_sgd_noise")
SHARES = ("both", "data", "features", "none")
# Facts of a point, with the axes on which they do not depend.
RATE_FACTS = {
    "max_stable_lr": ("learning_rate",),
    "spectral_edge": ("learning_rate", "batch_size", "momentum"),
    "top_eigenvalue": ("learning_rate", "batch_size", "momentum"),
}
BATCH_FACTS = {"sgd_gain": (), "critical_batch": ("batch_size",)}
# Above this gain single runs scatter widely, and some draws diverge.
LARGE_GAIN = 0.5


def covers(problem: Problem) -> str | None:
    """Why the linear limits do not solve a problem, or `None`."""
    if not isinstance(problem.model, (RandomFeatures, Kernel)):
        return (
            f"the model {problem.model.kind!r} is not linear in what it learns; expected 'random-features' or 'kernel'"
        )
    if not isinstance(
        problem.training, (GradientFlow, MomentumFlow, GradientDescent, Momentum, SGD, OnePassSGD, Ridge)
    ):
        return f"no theory of the protocol {problem.training.kind!r}"
    if not isinstance(problem.task, (AbstractSpectralTask, AbstractDataTask)):
        return f"the task {problem.task.kind!r} has neither a spectrum nor data to measure one"
    shifted = getattr(problem.task, "test_eigenvalues", None) is not None
    if getattr(problem.training, "exact_gaussian", False) and shifted and np.any(np.isfinite(problem.model.width)):  # type: ignore[attr-defined]
        return (
            "exact_gaussian with test_eigenvalues is known at infinite width only; choose width = inf, or leave it out"
        )
    return None


def solve(
    problem: Problem,
    times: Float[np.ndarray, " time"] | None,
    *,
    outputs: tuple[str, ...] = (),
    progress: Callable[[int, int, str], None] | None = None,
) -> LearningCurves:
    r"""Learning curves of random features, kernel and linear regression (`docs/theory/random-features.md`, (RF.3) to (RF.18)).

    On data tasks the spectrum is measured first (`measure`); the power that the data do not show to be learnable acts as
    label noise, and is contained in `test_loss`, as it is in the loss on real test rows.

    Args:
        problem: A grid of problems that `covers` accepts.
        times: Times or steps, `inf` allowed; `None` for ridge.
        outputs: Any of `bias`, `variance_data`, `variance_features`, `variance_interaction` (RF.13); they sum to the test
            loss of a single model (without noise floor, and without what minibatches add). With minibatches also
            `test_forcing` and `train_forcing`, the losses of gradient descent, and `test_sgd_noise` and `train_sgd_noise`,
            what the noise of the batches adds to them.
        progress: Called after each compiled call.

    Returns:
        `test_loss`, `train_loss`, their `_error`, the outputs, `status`; for protocols with a learning rate `max_stable_lr`
        (RF.18), `spectral_edge` (RF.16) and `top_eigenvalue` (RF.17); with minibatches `sgd_gain` and `critical_batch`; on data
        tasks `noise_floor`.

    Raises:
        InvalidInput: Unknown outputs, or batches larger than the data.
    """
    minibatches = isinstance(problem.training, (SGD, OnePassSGD))
    valid = (*PARTS, *MINIBATCH_PARTS) if minibatches else PARTS
    for name in outputs:
        if name not in valid:
            reason = f"expected a protocol with minibatches for {name!r}" if name in MINIBATCH_PARTS else None
            reason = reason or f"unknown output {name!r}{nearest(name, valid)}; valid: {', '.join(valid)}"
            raise WrongKey("solve", "outputs", reason)
    grid = _Grid(problem, times, tuple(dict.fromkeys(outputs)))
    grid.check_batches()
    looped = list(itertools.product(*(range(len(grid.axes[name])) for name in grid.looped)))
    for done, index in enumerate(looped):
        if progress is not None:
            progress(done, len(looped), "solve")
        grid.fill(index)
    if progress is not None:
        progress(len(looped), len(looped), "solve")
    return grid.curves()


class _Grid:
    """The arrays of a sweep, filled one point of the looped axes at a time."""

    def __init__(self, problem: Problem, times: np.ndarray | None, outputs: tuple[str, ...]):
        self.problem, self.times, self.outputs = problem, times, outputs
        self.axes = problem.axes()
        self.looped = [name for name in self.axes if name not in MAPPED]
        self.mapped = [name for name in self.axes if name in MAPPED]
        sweep = problem.shape
        curve = sweep if times is None else (*sweep, len(times))
        names = ("test_loss", "train_loss", "test_loss_error", "train_loss_error", *outputs)
        self.arrays = {name: np.full(curve, np.nan) for name in names}
        self.status = np.full(sweep, "ok", dtype="<U13")
        self.facts: dict[str, np.ndarray] = {}
        if hasattr(problem.training, "learning_rate"):
            self.facts |= {name: np.full(sweep, np.nan) for name in RATE_FACTS}
        self.minibatches = isinstance(problem.training, (SGD, OnePassSGD))
        if self.minibatches:
            self.facts |= {name: np.full(sweep, np.nan) for name in BATCH_FACTS}
        if isinstance(problem.task, AbstractDataTask):
            self.facts["noise_floor"] = np.full(sweep, np.nan)
        self.messages: list[str] = []
        self._measured = functools.cache(self._measure)

    def check_batches(self) -> None:
        """Batches no larger than the data, where `samples` is left out and stands for all rows."""
        protocol = self.problem.training
        if isinstance(protocol, SGD) and protocol.samples is None and isinstance(self.problem.task, AbstractDataTask):
            largest = int(np.max(protocol.batch_size))
            if largest > self._pool_rows:
                reason = (
                    f"expected at most samples = {self._pool_rows}, all rows of {self.problem.task.kind}, got {largest}"
                )
                raise WrongKey("SGD", "batch_size", reason)

    def fill(self, index: tuple[int, ...]) -> None:
        """Solves all mapped points at one point of the looped axes."""
        chosen = {name: self.axes[name][i] for name, i in zip(self.looped, index, strict=True)}
        point = self.problem.select(chosen)
        spectrum, noise_floor = self._spectrum(point)
        sizes = self._sizes(point, noise_floor)
        result = self._losses(point, spectrum, sizes)
        # Where this piece goes: fixed along the looped axes, everything along the mapped ones.
        place = tuple(index[self.looped.index(n)] if n in self.looped else slice(None) for n in self.axes)
        shape = tuple(len(self.axes[name]) for name in self.mapped)
        for name, array in self.arrays.items():
            array[place] = result[name].reshape(array[place].shape)
        if noise_floor is not None:
            for name in ("test_loss", "test_forcing"):
                if name in self.arrays:
                    self.arrays[name][place] += noise_floor
            self.facts["noise_floor"][place] = noise_floor
        if "max_stable_lr" in self.facts:
            self._last = self._facts(point, spectrum, sizes["width"], sizes["samples"])
            for name, values in self._last.items():
                self.facts[name][place] = values.reshape(shape)
        self.status[place] = self._judge(result, shape)
        self._explain(point, sizes, self.status[place].reshape(-1))

    def _facts(self, point: Problem, spectrum: SpectralMeasure, n: np.ndarray, p: np.ndarray) -> dict[str, np.ndarray]:
        """Edges and thresholds of the mapped points."""
        facts = {"spectral_edge": spectral_edge(spectrum, n, p), "top_eigenvalue": outlier(spectrum, n, p)}
        if not self.minibatches:
            return facts | {"max_stable_lr": max_stable_lr(spectrum, n, p, getattr(point.training, "momentum", 0.0))}
        dynamics = dynamics_of(point.training, self.times)  # type: ignore[arg-type]
        return facts | dynamics.thresholds(spectrum, n, p)  # type: ignore[attr-defined]

    def _measure(self, model: Any) -> tuple[SpectralMeasure, float]:
        problem = Problem(self.problem.task, model, self.problem.training)
        measured = measure(problem)
        s = measured.spectrum
        return spectral_measure(s.eigenvalues, s.target_power, s.multiplicity), float(measured.noise.value)

    def _spectrum(self, point: Problem) -> tuple[SpectralMeasure, float | None]:
        """The compressed spectrum, and the noise floor of a data task."""
        if isinstance(point.task, AbstractDataTask):
            # Widths and ensembles share the measurement.
            model = point.model.replace(width=math.inf, ensemble=1)
            return self._measured(model)
        # The noise plays no part in the spectrum, and may be an axis.
        spectrum = point.task.spectrum()  # type: ignore[attr-defined]
        dynamics = None if self.times is None else dynamics_of(point.training, self.times)
        sizes = self._sizes(point, None)
        smallest = _smallest_kappa(spectrum, point.training, self.times, sizes)
        return measure_of(spectrum, smallest, _nodes_per_bin(spectrum, dynamics)), None

    def _sizes(self, point: Problem, noise_floor: float | None) -> dict[str, np.ndarray]:
        """Width, samples, noise, ensemble and ridge of every mapped point, flattened in the order of the axes."""
        samples = getattr(point.training, "samples", None)
        if samples is None and not isinstance(point.training, OnePassSGD):
            samples = self._all_rows(point) if isinstance(point.task, AbstractDataTask) else math.inf
        samples = math.inf if samples is None else samples
        values = {
            "noise": getattr(point.task, "noise", noise_floor),
            "width": point.model.width,  # type: ignore[attr-defined]
            "ensemble": point.model.ensemble,  # type: ignore[attr-defined]
            "ridge": getattr(point.training, "ridge", 0.0),
            "samples": samples,
        }
        mesh = np.meshgrid(*(np.asarray(self.axes[name], float) for name in self.mapped), indexing="ij")
        grid = {name: part.ravel() for name, part in zip(self.mapped, mesh, strict=True)}
        count = math.prod(len(self.axes[name]) for name in self.mapped)
        return {
            name: grid.get(name, np.full(count, value if name not in grid else 0.0)) for name, value in values.items()
        }

    @functools.cached_property
    def _pool_rows(self) -> int:
        return len(self.problem.task.load())  # type: ignore[attr-defined]

    def _all_rows(self, point: Problem) -> float:
        return float(self._pool_rows)

    def _losses(self, point: Problem, measure: SpectralMeasure, sizes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Losses, errors and parts over (mapped point, time), with what converged and what diverged."""
        ensemble = sizes["ensemble"]
        wanted = any(name in PARTS for name in self.outputs)
        shares = SHARES if wanted else ("both", "data") if np.any(ensemble > 1) else ("both",)
        n, p, noise = sizes["width"], sizes["samples"], sizes["noise"]
        if self.times is None:
            with jax.enable_x64(True):
                nodes = measure.pad(node_size(measure.nodes))
                losses = np.asarray(ridge_program(nodes, sizes["ridge"], 1.0 / n, 1.0 / p, noise, shares))
            test, train = losses[:, 0], losses[:, 1]
            relative = 2e-12
            found = test, train, relative * np.abs(test), relative * np.abs(train)
            test, train, test_error, train_error = (np.where(np.isfinite(part), part, np.inf) for part in found)
            minibatch = []
            converged = np.ones(len(n), bool)[:, None]
            diverged = np.isinf(test[:, 0])[:, None]
        else:
            curves = linear_curves(measure, self.times, n, p, noise, dynamics_of(point.training, self.times), shares)
            test, train, test_error, train_error, converged, diverged, *minibatch = curves
            diverged = diverged | np.isinf(test[:, 0])
        share = (1.0 / ensemble).reshape(-1, *[1] * (test.ndim - 2))

        def pooled(values: np.ndarray) -> np.ndarray:
            """The mean prediction of an ensemble: pairs of the same model, and pairs that share only the data."""
            if len(shares) == 1:
                return values[:, 0]
            with np.errstate(invalid="ignore"):
                return np.where(share == 1.0, values[:, 0], share * values[:, 0] + (1.0 - share) * values[:, 1])

        result = {
            "test_loss": pooled(test),
            "train_loss": pooled(train),
            "test_loss_error": pooled(test_error),
            "train_loss_error": pooled(train_error),
            "converged": converged,
            "diverged": diverged,
        }
        parts: dict[str, np.ndarray] = {}
        if self.minibatches:
            with np.errstate(invalid="ignore"):
                noises = [share * part for part in minibatch]
                forcings = [result[name] - part for name, part in zip(("test_loss", "train_loss"), noises, strict=True)]
            parts |= dict(zip(MINIBATCH_PARTS, (*forcings, *noises), strict=True))
        if any(name in PARTS for name in self.outputs):
            both, data, features, none = (test[:, i] for i in range(4))
            with np.errstate(invalid="ignore"):
                both = both - minibatch[0] if self.minibatches else both
                parts |= {
                    "bias": none,
                    "variance_data": data - none,
                    "variance_features": features - none,
                    "variance_interaction": both - data - features + none,
                }
        return result | {name: parts[name] for name in self.outputs}

    def _judge(self, result: dict[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        """One word per sweep point: the worst over its times."""
        lost = ~np.all(result["converged"], axis=-1)
        gone = np.any(result["diverged"], axis=-1)
        return np.where(gone, "diverged", np.where(lost, "not converged", "ok")).reshape(shape)

    def _explain(self, point: Problem, sizes: dict[str, np.ndarray], status: np.ndarray) -> None:
        """Words for points that are not ok."""
        gone = np.flatnonzero(status == "diverged")
        rate = getattr(point.training, "learning_rate", None)
        if self.minibatches:
            self._explain_minibatches(point, status)
        elif gone.size and rate is not None:
            edges = self.facts["max_stable_lr"][self.status == "diverged"]
            self.messages.append(
                f"solve: learning_rate = {rate:g} is past the edge of stability, max_stable_lr = "
                f"{np.nanmin(edges):.6g}, at {gone.size} of {status.size} points; choose a smaller one."
            )
        elif gone.size:
            i = gone[0]
            self.messages.append(
                f"solve: the loss is infinite at zero ridge for width = {sizes['width'][i]:g}, samples = {sizes['samples'][i]:g} "
                "(the interpolation peak); stop at a finite time, or use a positive ridge."
            )
        if np.any(status == "not converged"):
            self.messages.append(
                f"solve: {int(np.sum(status == 'not converged'))} of {status.size} points did not converge: these times need a "
                "closed contour that is too long (oscillations or a schedule near the edge of stability); use fewer or many "
                "more steps, a smaller learning rate, or gradient-flow."
            )

    def _explain_minibatches(self, point: Problem, status: np.ndarray) -> None:
        """Words for points whose batches are too small."""
        rate, batch = point.training.learning_rate, point.training.batch_size  # type: ignore[attr-defined]
        gain, here = self._last["sgd_gain"], status == "diverged"
        if np.any(here):
            smallest = np.max(self._last["critical_batch"][here])
            cure = (
                f"or a batch above critical_batch = {smallest:.6g}"
                if np.isfinite(smallest)
                else "as no batch is stable here"
            )
            self.messages.append(
                f"solve: SGD diverges at learning_rate = {rate:g}, batch_size = {batch} at {int(np.sum(here))} of {status.size} "
                f"points: choose a rate below max_stable_lr = {np.min(self._last['max_stable_lr'][here]):.6g}, {cure}."
            )
        large = ~here & (gain > LARGE_GAIN)
        if np.any(large):
            self.messages.append(
                f"solve: sgd_gain is up to {np.max(gain[large]):.3g} at learning_rate = {rate:g}, batch_size = {batch}: above "
                f"{LARGE_GAIN:g} single runs scatter widely around this mean and some draws diverge (critical_batch = "
                f"{np.max(self._last['critical_batch'][large]):.6g})."
            )

    def curves(self) -> LearningCurves:
        """The labelled result."""
        dims = tuple(self.axes)
        curve = dims if self.times is None else (*dims, "time")
        variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {name: (curve, a) for name, a in self.arrays.items()}
        variables["status"] = (dims, self.status)
        for name, array in self.facts.items():
            constant = (RATE_FACTS | BATCH_FACTS).get(name, ("learning_rate",))
            kept = tuple(0 if d in constant else slice(None) for d in dims)
            variables[name] = (tuple(d for d in dims if d not in constant), array[kept])
        messages = combine_messages(self.messages)
        for message in messages:
            warnings.warn(message, ForetrainWarning, stacklevel=4)
        coords = {name: np.asarray(values) for name, values in self.axes.items()}
        if self.times is not None:
            coords["time"] = self.times
        attrs = {**self.problem.facts(), "verb": "solve", "solver": "linear", "messages": messages}
        return LearningCurves(variables, coords, attrs)


@functools.lru_cache(maxsize=32)
def measure_of(
    spectrum: Spectrum | PowerLawSpectrum, smallest: float = 1e-12, per_bin: int = NODES_PER_BIN
) -> SpectralMeasure:
    r"""The compressed measure of a declared spectrum; compressed once per spectrum.

    Args:
        spectrum: explicit arrays or a power law.
        smallest: smallest $|\kappa|$ that a power law must resolve; see `index_nodes`.
        per_bin: nodes per bin; more for dynamics that oscillate.
    """
    if isinstance(spectrum, Spectrum):
        return spectral_measure(
            spectrum.eigenvalues,
            spectrum.target_power,
            spectrum.multiplicity,
            spectrum.test_eigenvalues,
            per_bin=per_bin,
        )
    with jax.enable_x64(True):
        nodes = index_nodes(spectrum.modes, spectrum.capacity, smallest=smallest, per_bin=per_bin)
        measure = power_law_measure(nodes, spectrum.capacity, spectrum.source)
        host = jax.tree.map(np.asarray, measure)
    return SpectralMeasure(host.eigenvalues, host.trace, spectrum.power * host.signal)


def dynamics_of(protocol: AbstractProtocol, times: np.ndarray) -> Dynamics:
    """The spectral function of a protocol without axes."""
    if isinstance(protocol, GradientFlow):
        return Flow()
    if isinstance(protocol, MomentumFlow):
        return InertialFlow(protocol.momentum)  # type: ignore[arg-type]
    if isinstance(protocol, Momentum):
        return HeavyBall(protocol.learning_rate, protocol.momentum)  # type: ignore[arg-type]
    rate, schedule = protocol.learning_rate, protocol.schedule  # type: ignore[attr-defined]
    if schedule is not None:
        rate = rate * _factors(schedule, times)
    if isinstance(protocol, (SGD, OnePassSGD)):
        replacement = getattr(protocol, "replacement", True)
        return StochasticDescent(rate, protocol.batch_size, replacement, getattr(protocol, "exact_gaussian", False))  # type: ignore[arg-type]
    return Descent(rate)


def _factors(schedule: Schedule, times: np.ndarray) -> np.ndarray:
    """Factors on the rate, one per step; after the schedule's end they stay what they are."""
    steps = times[np.isfinite(times)].max(initial=1.0) if np.all(np.isfinite(times)) else np.inf
    length = int(min(max(steps, 1.0), schedule.last + 1))
    return schedule.factors(length)


def _smallest_kappa(spectrum, protocol: AbstractProtocol, times, sizes: dict[str, np.ndarray]) -> float:
    r"""A power of ten below every $|\kappa|$ that a power-law problem meets, relative to $\lambda_1=1$."""
    if isinstance(spectrum, Spectrum):
        return 1e-12
    if times is None:
        z = float(np.min(sizes["ridge"]))
    else:
        rate = np.min(getattr(protocol, "learning_rate", 1.0)) * (1.0 - np.max(getattr(protocol, "momentum", 0.0)))
        # The innermost point of the contours lies at 4 / time; inertia and momentum only slow the flow down.
        rate = 1.0 if isinstance(protocol, MomentumFlow) else rate
        z = 1.0 / max(rate * float(np.max(times)), 1.0) if np.all(np.isfinite(times)) and np.size(times) else 0.0
    # df_1 = min(N, P) of an infinite power law: kappa = (pi / (b sin(pi / b)) / min(N, P))^b.
    fewest = float(np.max(np.minimum(sizes["width"], sizes["samples"])))
    b = max(spectrum.capacity, 1.05)
    static = (np.pi / (b * np.sin(np.pi / b)) / fewest) ** b if spectrum.capacity > 1.0 else 0.0
    return float(10.0 ** np.clip(np.floor(np.log10(max(0.1 * max(z, static), 1e-15))), -15.0, -2.0))


def _nodes_per_bin(spectrum: Spectrum | PowerLawSpectrum, dynamics: Dynamics | None) -> int:
    """Enough nodes for the widest bin to resolve the oscillations of momentum."""
    if dynamics is None:
        return NODES_PER_BIN
    if isinstance(spectrum, PowerLawSpectrum):
        first = (EXACT_MODES + 1.0) ** -spectrum.capacity
    else:
        ordered = np.sort(spectrum.eigenvalues)[::-1]
        first = float(ordered[min(EXACT_MODES, ordered.size - 1)])
    # An even count keeps the number of compiled sizes small.
    return int(np.clip(2 * np.ceil(0.3 * dynamics.swings(first)) + 12, NODES_PER_BIN, 256))
