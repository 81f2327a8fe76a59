r"""The largest stable learning rate where it is known: networks whose tangent kernel does not move."""

import math

import numpy as np

from foretrain.limits.deep_linear._points import Point
from foretrain.limits.linear import SpectralMeasure, max_stable_lr
from foretrain.problems import Momentum, OnePassSGD, Problem


def lazy_edge(problem: Problem, point: Point) -> float:
    r"""The edge of a lazy network, or NaN where the tangent kernel moves.

    With $\gamma_0=0$ the network is linear regression with the rate $\eta$ times the tangent kernel (DL.17): the edge is that
    of linear regression, divided by it. A rich network has no edge of its own; `lr_sweep` measures it.

    Args:
        problem: A problem without axes.
        point: The same in numbers.
    """
    if point.sizes.richness > 0.0:
        return math.nan
    sizes = point.sizes
    measure = SpectralMeasure(point.groups.eigenvalues, point.groups.trace, point.groups.signal)
    ratio = 1.0 / sizes.samples if sizes.samples > 0.0 else math.inf
    protocol = problem.training
    if isinstance(protocol, OnePassSGD):
        edge = max_stable_lr(measure, math.inf, math.inf, batch_size=ratio) if math.isfinite(ratio) else None
        edge = max_stable_lr(measure, math.inf, math.inf) if edge is None else edge
    else:
        momentum = float(protocol.momentum) if isinstance(protocol, Momentum) else 0.0  # type: ignore[arg-type]
        edge = max_stable_lr(measure, math.inf, ratio, momentum)
    schedule = getattr(protocol, "schedule", None)
    largest = 1.0 if schedule is None else float(np.max(schedule.factors(max(schedule.last, 1) + 1)))
    return float(edge) / point.tangent / largest
