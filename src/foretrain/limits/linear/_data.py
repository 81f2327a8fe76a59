"""What a data set looks like to a declared model: the spectrum that the theory takes."""

import functools
from typing import TYPE_CHECKING

import numpy as np

from foretrain._declaration import WrongKey
from foretrain.problems import GradientFlow, Kernel, Problem
from foretrain.tasks import AbstractDataTask

# Tasks with a declared spectrum are solved without the kernels, and need not wait for their import.
if TYPE_CHECKING:
    from foretrain.kernels import NNGP, NTK, MeasuredSpectrum


def kernel_of(problem: Problem) -> "NNGP | NTK":
    """The infinite-width kernel of the problem's model.

    Args:
        problem: A problem without axes in `activation`, `depth` and `kernel`, on a data task.
    """
    from foretrain.kernels import NNGP, NTK

    model = problem.model
    family = NTK if isinstance(model, Kernel) and model.kernel == "ntk" else NNGP
    return family(depth=model.depth or 1, activation=model.activation or "relu")  # type: ignore[attr-defined]


def measure(problem: Problem, *, max_points: int = 3000, seed: int = 0) -> "MeasuredSpectrum":
    """The spectrum and target power of the problem's data set under the kernel of its model.

    Training rows and held-out rows of the pool are all used: the measurement is of the population that rows are drawn
    from. Test rows that the task sets aside are not touched.

    Args:
        problem: A problem on a data task, without axes in the model's kernel.
        max_points: Most rows in the Gram matrix; see `foretrain.kernels.measure_spectrum`.
        seed: Of the choice of rows.

    Raises:
        InvalidInput: The task is not a data task.
        MissingData: The data are not on this machine.

    Example:
        >>> from foretrain import Digits, GradientFlow, Problem, RandomFeatures
        >>> from foretrain.limits.linear import measure
        >>> problem = Problem(Digits(classes=[0, 1]), RandomFeatures(width=64), GradientFlow())
        >>> measure(problem).rows
        360
    """
    if not isinstance(problem.task, AbstractDataTask):
        raise WrongKey(
            "measure",
            "task",
            f"expected a data task, got {problem.task.kind!r}, whose spectrum is declared and needs no measuring",
        )
    return _measured(
        problem.replace(model=problem.model.replace(width=np.inf), training=GradientFlow()), max_points, seed
    )


@functools.lru_cache(maxsize=8)
def _measured(problem: Problem, max_points: int, seed: int) -> "MeasuredSpectrum":
    """Kept, as the report of a comparison shows the spectrum that its theory has just measured."""
    from foretrain.kernels import measure_spectrum

    data = problem.task.load()  # type: ignore[attr-defined]
    return measure_spectrum(kernel_of(problem), data.inputs, data.targets, max_points=max_points, seed=seed)
