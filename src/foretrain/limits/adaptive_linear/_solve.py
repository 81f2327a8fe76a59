"""The door of the adaptive linear limits: from a declared problem to labelled learning curves."""

import dataclasses
import math
import warnings
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from foretrain._declaration import WrongKey
from foretrain.curves import LearningCurves, combine_messages
from foretrain.errors import ForetrainWarning, nearest
from foretrain.limits.adaptive_linear._curves import Curves, flow_curves
from foretrain.limits.adaptive_linear._discrete import discrete_curves
from foretrain.limits.adaptive_linear._end import end_of_training
from foretrain.limits.adaptive_linear._regimes import regime
from foretrain.limits.adaptive_linear._scene import Case
from foretrain.problems import GradientDescent, GradientFlow, OnePassSGD, Problem, TwoLayerLinear
from foretrain.tasks import AbstractDataTask, AbstractSpectralTask, PowerLawSpectrum, Spectrum

TERMS = ("flow_term", "width_term", "width_transient", "data_term", "sgd_term")
OUTPUTS = ("mode_residual", "local_exponent", *TERMS)
# Times or steps by which the local exponent looks ahead and back, relative.
NUDGE = 0.02
# Modes of a power law whose residuals are returned, when there are more than can be listed.
MOST_MODES = 64
LAST_MODE = 1e6


def covers(problem: Problem) -> str | None:
    """Why the adaptive linear limits do not solve a problem, or `None`."""
    if not isinstance(problem.model, TwoLayerLinear):
        return f"the model {problem.model.kind!r} is not 'two-layer-linear'"
    if isinstance(problem.task, AbstractDataTask):
        return (
            "the model 'two-layer-linear' is defined by a spectrum; measure the data's with foretrain.limits.linear.measure "
            "(model 'kernel') and pass it as the task 'spectrum'"
        )
    if not isinstance(problem.task, AbstractSpectralTask):
        return f"the task {problem.task.kind!r} has no spectrum"
    if getattr(problem.task, "test_eigenvalues", None) is not None:
        return "test_eigenvalues are known for models that are linear in what they learn only"
    training = problem.training
    if not isinstance(training, (GradientFlow, GradientDescent, OnePassSGD)):
        return (
            f"no theory of the protocol {training.kind!r} for this model; expected 'gradient-flow', 'gradient-descent' or "
            "'one-pass-sgd'"
        )
    if getattr(training, "schedule", None) is not None:
        return "learning rates that change are not known for this model"
    if getattr(training, "exact_gaussian", False):
        return "exact_gaussian is known for models that are linear in what they learn only"
    return None


def solve(
    problem: Problem,
    times: Float[np.ndarray, " time"] | None,
    *,
    outputs: tuple[str, ...] = (),
    progress: Callable[[int, int, str], None] | None = None,
) -> LearningCurves:
    r"""Learning curves of the two-layer linear model that learns features (`docs/theory/adaptive-linear.md`).

    Args:
        problem: A grid of problems that `covers` accepts.
        times: Times or steps, `inf` allowed.
        outputs: `mode_residual`, the mean of $v_k/w_k^\star$ for each mode (for power laws of many modes a selection);
            `local_exponent`, $d\log\mathcal L/d\log t$ of the test loss, with `asymptotic_exponent` beside it on power laws; the
            parts of the test loss (AL.35), which sum to it: `flow_term` (infinite width, on the population), `width_term` (the
            end of training at this width), `width_transient`, `data_term` (what reused data add) and `sgd_term`.
        progress: Called as work advances.

    Returns:
        `test_loss`, `train_loss`, their `_error`, `readout_norm` ($c$), `gain` ($1+\gamma c$), the outputs and `status`. For
        protocols that count steps also `stability_ratio`, for SGD `sgd_gain` (AL.31): at 1 the guarantee of stability ends.

    Raises:
        InvalidInput: Unknown outputs, or the end of training by SGD, which is not an end.
    """
    for name in outputs:
        if name not in OUTPUTS:
            raise WrongKey(
                "solve", "outputs", f"unknown output {name!r}{nearest(name, OUTPUTS)}; valid: {', '.join(OUTPUTS)}"
            )
    if times is None:
        raise WrongKey("solve", "times", "missing; expected times or steps")
    if isinstance(problem.training, OnePassSGD) and not np.all(np.isfinite(times)):
        raise WrongKey("solve", "times", "expected finite steps for one-pass-sgd, whose noise does not end, got inf")
    return _Grid(problem, times, tuple(dict.fromkeys(outputs)), progress).curves()


class _Grid:
    """The arrays of a sweep, filled one spectrum at a time."""

    def __init__(self, problem: Problem, times: np.ndarray, outputs: tuple[str, ...], progress) -> None:
        self.problem, self.times, self.outputs = problem, np.asarray(times, float), outputs
        self.asymptotes: np.ndarray | None = None
        self.points = [(index, case_of(point)) for index, point in problem.points()]
        self.messages: list[str] = []
        shape = (*problem.shape, len(self.times))
        names = ("test_loss", "train_loss", "test_loss_error", "train_loss_error", "readout_norm", "gain")
        self.arrays = {name: np.full(shape, np.nan) for name in names}
        self.discrete = problem.training.discrete
        if self.discrete:
            self.arrays["stability_ratio"] = np.full(shape, np.nan)
        if isinstance(problem.training, OnePassSGD):
            self.arrays["sgd_gain"] = np.full(shape, np.nan)
        self.status = np.full(problem.shape, "ok", dtype="<U13")
        smallest = min((case.spectrum for _, case in self.points), key=lambda spectrum: spectrum.modes)
        self.modes = chosen_modes(smallest) if "mode_residual" in outputs else None
        for name in (*TERMS, "local_exponent"):
            if name in outputs:
                self.arrays[name] = np.full(shape, np.nan)
        if "local_exponent" in outputs and all(isinstance(case.spectrum, PowerLawSpectrum) for _, case in self.points):
            self.asymptotes = np.full(problem.shape, np.nan)
        if self.modes is not None:
            self.arrays["mode_residual"] = np.full((*problem.shape, len(self.modes), len(self.times)), np.nan)
        groups: dict = {}
        for index, case in self.points:
            groups.setdefault(case.eigenvalues, []).append((index, case))
        done = 0
        for group in groups.values():
            if progress is not None:
                progress(done, len(self.points), "solve")
            self._fill(group)
            done += len(group)
        if progress is not None:
            progress(done, len(self.points), "solve")

    def _fill(self, group: list[tuple[tuple[int, ...], Case]]) -> None:
        cases = [case for _, case in group]
        modes = None if self.modes is None else mode_eigenvalues(cases[0].spectrum, self.modes)
        times = self.times
        if "local_exponent" in self.outputs:
            times = np.concatenate([times, *_around(times, self.discrete)])
        if self.discrete:
            found, thresholds = discrete_curves(cases, times, modes)
            for j, (index, case) in enumerate(group):
                self.arrays["stability_ratio"][index] = thresholds.stability_ratio[j, : len(self.times)]
                if "sgd_gain" in self.arrays:
                    self.arrays["sgd_gain"][index] = thresholds.sgd_gain[j, : len(self.times)]
                self._warn(case, index)
        else:
            found = flow_curves(cases, times, modes)
        for j, (index, case) in enumerate(group):
            self._place(index, case, found, j)
        self._decompose(group, found)

    def _decompose(self, group: list[tuple[tuple[int, ...], Case]], found: Curves) -> None:
        """The parts of the test loss, each the difference that one size makes."""
        if not any(name in self.outputs for name in TERMS):
            return
        curves = (
            (lambda cases: discrete_curves(cases, self.times)[0])
            if self.discrete
            else (lambda cases: flow_curves(cases, self.times))
        )
        cases = [case for _, case in group]
        wide, smooth = (
            {"width": math.inf, "samples": math.inf, "batch": math.inf},
            {"samples": math.inf, "batch": math.inf},
        )
        bare = [dataclasses.replace(case, noise=0.0) for case in cases]
        flow = _shared(curves, [dataclasses.replace(case, **wide) for case in bare])
        narrow = _shared(curves, [dataclasses.replace(case, **smooth) for case in bare])
        for j, (index, case) in enumerate(group):
            floor = end_of_training(dataclasses.replace(bare[j], **smooth))[0]
            added = found.test[j, : len(self.times)] - narrow[j]
            zero = np.zeros(len(self.times))
            parts = {
                "flow_term": flow[j],
                "width_term": np.full(len(self.times), floor),
                "width_transient": narrow[j] - flow[j] - floor,
                "data_term": added if math.isfinite(case.samples) else zero,
                "sgd_term": added if math.isfinite(case.batch) else zero,
            }
            for name in TERMS:
                if name in self.outputs:
                    self.arrays[name][index] = parts[name]

    def _warn(self, case: Case, index: tuple[int, ...]) -> None:
        """Words for thresholds that are passed."""
        rate = f"learning_rate = {case.rate:g}, richness = {case.richness:g}"
        ratio = self.arrays["stability_ratio"][index]
        gain = self.arrays["sgd_gain"][index] if "sgd_gain" in self.arrays else np.zeros(len(self.times))
        if np.any(gain >= 1.0):
            self.messages.append(
                f"solve: SGD feeds on its own noise at {rate}, batch_size = {case.batch:g} from step "
                f"{self.times[gain >= 1.0].min():g} on (sgd_gain >= 1); choose a smaller rate or a larger batch."
            )
        if np.any(ratio >= 1.0):
            self.messages.append(
                f"solve: {rate} passes the guarantee of stability from step {self.times[ratio >= 1.0].min():g} on "
                "(stability_ratio >= 1); choose a smaller rate."
            )

    def _place(self, index: tuple[int, ...], case: Case, found: Curves, j: int) -> None:
        # On fresh data the train loss is the test loss with the noise of its labels.
        extra = case.noise if math.isinf(case.samples) else 0.0
        count = len(self.times)
        for name, values in (
            ("test_loss", found.test[j]),
            ("train_loss", found.train[j] + extra),
            ("test_loss_error", found.test_error[j]),
            ("train_loss_error", found.train_error[j]),
            ("readout_norm", found.norm[j]),
            ("gain", found.gain[j]),
        ):
            self.arrays[name][index] = values[:count]
        if self.modes is not None and found.modes is not None:
            self.arrays["mode_residual"][index] = found.modes[j][:, :count]
        if "local_exponent" in self.outputs:
            times, losses = np.split(_around(self.times, self.discrete).ravel(), 2), np.split(found.test[j, count:], 2)
            with np.errstate(divide="ignore", invalid="ignore"):
                slope = np.log(losses[1] / losses[0]) / np.log(times[1] / times[0])
            self.arrays["local_exponent"][index] = np.where(np.isfinite(slope), slope, np.nan)
        if self.asymptotes is not None:
            law = case.spectrum
            self.asymptotes[index] = regime(law.capacity, law.source, case.richness).flow  # type: ignore[union-attr]
        if not found.good[j]:
            self.status[index] = "not converged"
            if self.discrete:
                self.messages.append(
                    f"solve: learning_rate = {case.rate:g}, richness = {case.richness:g} comes too close to the edge of stability for "
                    "more than a few hundred exact steps; choose a smaller rate or fewer steps."
                )
        elif self.discrete and np.any(np.isinf(found.test[j])):
            self.status[index] = "diverged"

    def curves(self) -> LearningCurves:
        """The labelled result."""
        axes = self.problem.axes()
        dims = tuple(axes)
        variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
            name: ((*dims, "mode", "time") if name == "mode_residual" else (*dims, "time"), array)
            for name, array in self.arrays.items()
        }
        variables["status"] = (dims, self.status)
        if self.asymptotes is not None:
            variables["asymptotic_exponent"] = (dims, self.asymptotes)
        messages = combine_messages(self.messages)
        for message in messages:
            warnings.warn(message, ForetrainWarning, stacklevel=4)
        coords = {name: np.asarray(values) for name, values in axes.items()} | {"time": self.times}
        if self.modes is not None:
            coords["mode"] = self.modes
        attrs = {**self.problem.facts(), "verb": "solve", "solver": "adaptive-linear", "messages": messages}
        return LearningCurves(variables, coords, attrs)


def _around(times: np.ndarray, discrete: bool) -> np.ndarray:
    """Times a little before and after, shape (2, time); steps by at least one."""
    if not discrete:
        return times * np.exp(np.array([[-NUDGE], [NUDGE]]))
    move = np.where(
        np.isfinite(times), np.maximum(np.round(NUDGE * np.where(np.isfinite(times), times, 0.0)), 1.0), 0.0
    )
    return np.maximum(times + move * np.array([[-1.0], [1.0]]), 0.0)


def _shared(curves: Callable[[list[Case]], Curves], cases: list[Case]) -> np.ndarray:
    """Test losses of cases, each distinct one solved once."""
    distinct = list(dict.fromkeys(cases))
    losses = dict(zip(distinct, curves(distinct).test, strict=True))
    return np.stack([losses[case] for case in cases])


def case_of(point: Problem) -> Case:
    """The numbers of a problem without axes."""
    samples = point.training.samples
    return Case(
        point.task.spectrum(),  # type: ignore[attr-defined]
        float(point.model.width),  # type: ignore[attr-defined]
        math.inf if samples is None else float(samples),
        float(point.task.noise),  # type: ignore[attr-defined]
        float(point.model.richness),  # type: ignore[attr-defined]
        float(point.training.learning_rate) if point.training.discrete else math.nan,  # type: ignore[attr-defined]
        float(getattr(point.training, "batch_size", None) or math.inf),
    )


def chosen_modes(spectrum: Spectrum | PowerLawSpectrum) -> np.ndarray:
    """Numbers of the modes whose residuals are returned, counted from 1."""
    if isinstance(spectrum, Spectrum):
        return np.arange(1, len(spectrum.eigenvalues) + 1)
    last = min(spectrum.modes, LAST_MODE)
    if last <= MOST_MODES:
        return np.arange(1, int(last) + 1)
    return np.unique(np.round(np.geomspace(1.0, last, MOST_MODES)).astype(int))


def mode_eigenvalues(spectrum: Spectrum | PowerLawSpectrum, modes: np.ndarray) -> np.ndarray:
    """Eigenvalues of the modes with these numbers."""
    if isinstance(spectrum, Spectrum):
        return np.asarray(spectrum.eigenvalues)[modes - 1]
    return modes.astype(float) ** -spectrum.capacity
