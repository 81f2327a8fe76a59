"""The door of the adaptive linear limits: from a declared problem to labelled learning curves."""

import math
import warnings
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from foretrain._declaration import WrongKey
from foretrain.curves import LearningCurves, combine_messages
from foretrain.errors import ForetrainWarning, nearest
from foretrain.limits.adaptive_linear._curves import Curves, flow_curves
from foretrain.limits.adaptive_linear._scene import Case
from foretrain.problems import GradientFlow, Problem, TwoLayerLinear
from foretrain.tasks import AbstractDataTask, AbstractSpectralTask, PowerLawSpectrum, Spectrum

OUTPUTS = ("mode_residual",)
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
    if not isinstance(problem.training, GradientFlow):
        return f"no theory of the protocol {problem.training.kind!r} for this model"
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
        outputs: `mode_residual`, the mean of $v_k/w_k^\star$ for each mode (for power laws of many modes a selection).
        progress: Called as work advances.

    Returns:
        `test_loss`, `train_loss`, their `_error`, `readout_norm` ($c$), `gain` ($1+\gamma c$), the outputs and `status`.

    Raises:
        InvalidInput: Unknown outputs.
    """
    for name in outputs:
        if name not in OUTPUTS:
            raise WrongKey(
                "solve", "outputs", f"unknown output {name!r}{nearest(name, OUTPUTS)}; valid: {', '.join(OUTPUTS)}"
            )
    assert times is not None
    return _Grid(problem, times, tuple(dict.fromkeys(outputs)), progress).curves()


class _Grid:
    """The arrays of a sweep, filled one spectrum at a time."""

    def __init__(self, problem: Problem, times: np.ndarray, outputs: tuple[str, ...], progress) -> None:
        self.problem, self.times, self.outputs = problem, np.asarray(times, float), outputs
        self.points = [(index, case_of(point)) for index, point in problem.points()]
        self.messages: list[str] = []
        shape = (*problem.shape, len(self.times))
        names = ("test_loss", "train_loss", "test_loss_error", "train_loss_error", "readout_norm", "gain")
        self.arrays = {name: np.full(shape, np.nan) for name in names}
        self.status = np.full(problem.shape, "ok", dtype="<U13")
        smallest = min((case.spectrum for _, case in self.points), key=lambda spectrum: spectrum.modes)
        self.modes = chosen_modes(smallest) if "mode_residual" in outputs else None
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
        found = flow_curves(cases, self.times, modes)
        for j, (index, case) in enumerate(group):
            self._place(index, case, found, j)

    def _place(self, index: tuple[int, ...], case: Case, found: Curves, j: int) -> None:
        # On fresh data the train loss is the test loss with the noise of its labels.
        extra = case.noise if math.isinf(case.samples) else 0.0
        self.arrays["test_loss"][index] = found.test[j]
        self.arrays["train_loss"][index] = found.train[j] + extra
        self.arrays["test_loss_error"][index] = found.test_error[j]
        self.arrays["train_loss_error"][index] = found.train_error[j]
        self.arrays["readout_norm"][index] = found.norm[j]
        self.arrays["gain"][index] = found.gain[j]
        if self.modes is not None and found.modes is not None:
            self.arrays["mode_residual"][index] = found.modes[j]
        if not found.good[j]:
            self.status[index] = "not converged"

    def curves(self) -> LearningCurves:
        """The labelled result."""
        axes = self.problem.axes()
        dims = tuple(axes)
        variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
            name: ((*dims, "mode", "time") if name == "mode_residual" else (*dims, "time"), array)
            for name, array in self.arrays.items()
        }
        variables["status"] = (dims, self.status)
        messages = combine_messages(self.messages)
        for message in messages:
            warnings.warn(message, ForetrainWarning, stacklevel=4)
        coords = {name: np.asarray(values) for name, values in axes.items()} | {"time": self.times}
        if self.modes is not None:
            coords["mode"] = self.modes
        attrs = {**self.problem.facts(), "verb": "solve", "solver": "adaptive-linear", "messages": messages}
        return LearningCurves(variables, coords, attrs)


def case_of(point: Problem) -> Case:
    """The numbers of a problem without axes."""
    samples = point.training.samples
    return Case(
        point.task.spectrum(),  # type: ignore[attr-defined]
        float(point.model.width),  # type: ignore[attr-defined]
        math.inf if samples is None else float(samples),
        float(point.task.noise),  # type: ignore[attr-defined]
        float(point.model.richness),  # type: ignore[attr-defined]
        float(getattr(point.training, "learning_rate", math.nan)),
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
