"""`measure`: what a study's data look like to its network."""

from typing import TYPE_CHECKING

import numpy as np

from foretrain._declaration import WrongKey
from foretrain.curves import LearningCurves
from foretrain.errors import InvalidInput
from foretrain.studies._study import Study
from foretrain.tasks import AbstractDataTask

if TYPE_CHECKING:
    from foretrain.kernels import MeasuredSpectrum

_NETWORK = ("activation", "depth", "kernel")


def measure_study(study: Study) -> "MeasuredSpectrum":
    """The spectrum of the network's kernel on the study's data, as `solve` uses it.

    Args:
        study: Its task must be a data set, and its model one network; widths and samples do not matter.

    Raises:
        InvalidInput: The task declares its spectrum, or the model is several networks.
    """
    task, model, _ = study.problem.parts()
    if not isinstance(task, AbstractDataTask):
        raise InvalidInput(
            f"measure: a {task.kind!r} task declares its spectrum, so there is nothing to measure; give a data task "
            "(digits, fashion-mnist, arrays)."
        )
    for name, values in model.axes().items():
        if name in _NETWORK and len(values) > 1:
            raise WrongKey(
                type(model).__name__, name, f"expected one value, as one network is measured, got {len(values)}"
            )
    from foretrain.limits.linear import measure

    return measure(task, model.replace(**{name: values[0] for name, values in model.axes().items()}))


def measured_curves(measured: "MeasuredSpectrum") -> LearningCurves:
    """A measured spectrum in the form of every other result: dimension `node` for the spectrum, `mode` for diagnostics.

    Args:
        measured: What `measure_study` or `measure_spectrum` returned.
    """
    spectrum = measured.to_spectrum()
    variables = {name: (("node",), getattr(spectrum, name)) for name in ("eigenvalues", "target_power", "multiplicity")}
    for name in ("naive_power", "cross_power", "resolved_norm"):
        variables[name] = (("mode",), np.asarray(getattr(measured, name)))
    coords = {
        "node": np.arange(1, len(spectrum.eigenvalues) + 1),
        "mode": np.arange(1, len(measured.naive_power) + 1),
    }
    return LearningCurves(variables, coords, {"verb": "measure", **measured.facts()})
