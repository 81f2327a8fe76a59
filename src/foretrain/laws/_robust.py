r"""How sure a robust fit is, to first order: the sandwich of its curvature and its pulls, and what one more row adds.

An estimate of least $\sum_i\rho(r_i)$, $\rho=H_\delta$, $\psi=\rho'$, has the covariance $A^{-1}BA^{-1}$ (PL.7) with the curvature
$A=\sum_i\psi'(r_i)\,g_ig_i^{\mathsf T}$, $g=\partial_\theta\ln\hat L$, and the pulls $B=\sum_gs_gs_g^{\mathsf T}$, $s_g=\sum_{i\in g}\psi(r_i)g_i$, of the runs $g$.
$\psi'$ is 1 inside $\delta$ and 0 outside: with $\delta$ far below the scatter few rows would make $A$. A wider window with the same
density of residuals counts more of them, where they are: scatter that varies over the table is seen.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain.errors import InvalidInput
from foretrain.laws._law import Law
from foretrain.laws._problem import Objective, Problem, Rows

_WINDOW = 1.0  # of the median size of a residual, for a matrix
_NARROW = 0.5  # the same for one number, where fewer rows are enough and the density is flatter
_SINGULAR = 1e14


@dataclasses.dataclass(frozen=True, eq=False)
class FirstOrder:
    r"""A fit to first order.

    Args:
        covariance: Of the coordinates.
        curvature: $A$.
        row: $\tau^2=\overline{\psi^2}/\overline{\psi'}^2$ (PL.8): one more row adds $gg^{\mathsf T}/\tau^2$ to the information.
    """

    covariance: Float[np.ndarray, "parameters parameters"]
    curvature: Float[np.ndarray, "parameters parameters"]
    row: float


def first_order(law: Law, data: Rows, objective: Objective, theta: Float[np.ndarray, " parameters"]) -> FirstOrder:
    """A fit to first order, from its rows.

    Args:
        law: The law.
        data: Its rows.
        objective: What was minimized.
        theta: Coordinates of the estimate.

    Raises:
        InvalidInput: The rows do not tell the parameters apart.
    """
    r, jacobian = Problem(law, data.x, data.y, objective).residuals(theta[None])
    residuals, slopes, width = r[0], jacobian[0], objective.width  # type: ignore[index]
    window = max(width, _WINDOW * float(np.median(np.abs(residuals))))
    kept = np.abs(residuals) <= window
    share = width / window if math.isfinite(width) else 1.0
    curvature = (slopes * kept) @ slopes.T * share
    lengths = np.sqrt(np.diag(curvature))
    scaled = curvature / np.where(lengths > 0, np.outer(lengths, lengths), 1.0)
    if not np.all(lengths > 0) or not np.linalg.cond(scaled) < _SINGULAR:
        raise InvalidInput(
            f"{law.name}: these rows do not tell its parameters apart; take a law with fewer of them, or add runs."
        )
    inverse = np.linalg.inv(scaled) / np.outer(lengths, lengths)
    groups, size = int(data.groups.max()) + 1, len(data.y)
    pulls = np.zeros((groups, len(theta)))
    np.add.at(pulls, data.groups, (slopes * np.clip(residuals, -width, width)).T)
    free = groups / max(groups - 1, 1) * (size - 1) / max(size - len(theta), 1)
    covariance = inverse @ (free * pulls.T @ pulls) @ inverse
    return FirstOrder(covariance, curvature, row_variance(residuals, objective, size, len(theta)))


def row_variance(residuals: Float[np.ndarray, " rows"], objective: Objective, rows: int, parameters: int) -> float:
    r"""$\tau^2$ (PL.8) of a typical row.

    Args:
        residuals: Of the fit, or equally spaced quantiles of them.
        objective: What was minimized.
        rows: Number of rows of the fit.
        parameters: Number of its parameters.
    """
    width, size = objective.width, np.abs(residuals)
    window = max(width, _NARROW * float(np.median(size)))
    kept = float(np.mean(size <= window)) * (width / window if math.isfinite(width) else 1.0)
    pull = float(np.mean(np.clip(residuals, -width, width) ** 2))
    return rows / max(rows - parameters, 1) * pull / max(kept, 1e-12) ** 2


def objective_of(settings: Mapping[str, Any]) -> Objective:
    """The objective of a saved fit.

    Args:
        settings: Its settings.
    """
    default = Objective()
    loss, on, delta = (settings.get(n, getattr(default, n)) for n in ("loss", "on", "delta"))
    return Objective(loss=str(loss), on=str(on), delta=float(delta))
