"""`measure`: what a study's data look like to its network."""

from typing import TYPE_CHECKING, Any

import numpy as np

from foretrain._declaration import WrongKey
from foretrain.curves import LearningCurves
from foretrain.errors import InvalidInput
from foretrain.studies._run import Progress, through
from foretrain.studies._store import Store
from foretrain.studies._study import Study
from foretrain.tasks import AbstractDataTask

if TYPE_CHECKING:
    from foretrain.kernels import MeasuredSpectrum

_NETWORK = ("activation", "depth", "kernel")
_PER_MODE = ("naive_power", "cross_power", "resolved_norm")
_PER_NODE = ("eigenvalues", "target_power", "multiplicity")


def measure_study(study: Study, *, store: Store | None = None, progress: Progress | None = None) -> LearningCurves:
    """The spectrum of the network's kernel on the study's data, as `solve` uses it.

    Args:
        study: Its task must be a data set, and its model one network; widths and samples do not matter.
        store: Where results are kept and looked for.
        progress: Called as work advances.

    Returns:
        `eigenvalues`, `target_power`, `multiplicity` over `node`, diagnostics over `mode`, and in `attrs` the exponents and
        the noise as (value, low, high), as `foretrain.kernels.MeasuredSpectrum` describes them.

    Raises:
        InvalidInput: The task declares its spectrum, or the model is several networks.
    """
    problem = study.problem
    if not isinstance(problem.task, AbstractDataTask):
        raise InvalidInput(
            f"measure: a {problem.task.kind!r} task declares its spectrum, so there is nothing to measure; give a data task "
            "(digits, fashion-mnist, arrays)."
        )
    for name, values in problem.model.axes().items():
        if name in _NETWORK and len(values) > 1:
            raise WrongKey(
                type(problem.model).__name__, name, f"expected one value, as one network is measured, got {len(values)}"
            )
    point = problem.select({name: values[0] for name, values in problem.axes().items()})

    def compute() -> LearningCurves:
        from foretrain.limits.linear import measure

        return measured_curves(measure(point))

    if progress is not None:
        progress(0, 1, "measure")
    network = {name: getattr(point.model, name, None) for name in _NETWORK}
    return through(store, ("measure", point.task, network), compute)


def measured_curves(measured: "MeasuredSpectrum") -> LearningCurves:
    """A measured spectrum in the form of every other result.

    Args:
        measured: What `foretrain.measure_spectrum` returned.
    """
    spectrum = measured.to_spectrum()
    variables = {name: (("node",), getattr(spectrum, name)) for name in _PER_NODE}
    variables |= {name: (("mode",), np.asarray(getattr(measured, name))) for name in _PER_MODE}
    coords = {
        "node": np.arange(1, len(spectrum.eigenvalues) + 1),
        "mode": np.arange(1, len(measured.naive_power) + 1),
    }
    facts = {name: list(value) if isinstance(value, tuple) else value for name, value in measured.facts().items()}
    return LearningCurves(variables, coords, {"verb": "measure", **facts})


def spectrum_for_plot(curves: LearningCurves) -> dict[str, Any]:
    """The table that `foretrain.report.plot_spectrum` draws.

    Args:
        curves: What `measure_study` returned.
    """
    table: dict[str, Any] = {name: curves.values(name) for name in _PER_NODE}
    table |= {"naive": curves.values("naive_power"), "cross": curves.values("cross_power")}
    return table | {name: curves.attrs[name] for name in ("head", "fit_range", "capacity", "source", "noise")}
