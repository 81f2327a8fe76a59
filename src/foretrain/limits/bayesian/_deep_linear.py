r"""Deep linear networks: the posterior in closed form, for any data and depth (AK.8)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq

from foretrain.errors import InvalidInput

# Roots are looked for between sign changes on this many values of ln g.
_SCAN = 4000


class LinearPosterior(NamedTuple):
    r"""The saddle point of a deep linear network.

    Attributes:
        gain: $g$ of (AK.8): the predictor is kernel regression with $gC$. Of several, the one with the least action.
        coefficients: $a$.
        kernels: $\Phi^1,\dots,\Phi^L$.
        gains: All roots, ascending; several mean that a first-order transition is near.
        actions: Action of each root, (AK.9).
    """

    gain: float
    coefficients: Float[np.ndarray, " samples"]
    kernels: tuple[Float[np.ndarray, "samples samples"], ...]
    gains: Float[np.ndarray, " roots"]
    actions: Float[np.ndarray, " roots"]


def deep_linear_posterior(
    gram: Float[np.ndarray, "samples samples"],
    targets: Float[np.ndarray, " samples"],
    *,
    depth: int,
    richness: float,
    inverse_temperature: float,
) -> LinearPosterior:
    r"""The posterior of a deep linear network of infinite width (`docs/theory/adaptive-kernels.md`, (AK.8)).

    Feature learning acts as a smaller ridge: with the gain $g\ge1$ that solves $g^{1/L}=1+\gamma^2g\,a^\top Ca$,
    $a=(gC+I/\beta)^{-1}y$, the predictor is $f(x)=g\,C(x,X)\,a$.

    Args:
        gram: $C=XX^\top/D$.
        targets: $y$, one output.
        depth: $L$, hidden layers.
        richness: $\gamma\ge0$.
        inverse_temperature: $\beta$; `inf` interpolates, and needs a Gram matrix of full rank.

    Raises:
        InvalidInput: A singular Gram matrix at infinite inverse temperature.

    Example:
        >>> import numpy as np
        >>> from foretrain.limits.bayesian import deep_linear_posterior
        >>> found = deep_linear_posterior(np.eye(1), np.ones(1), depth=4, richness=30.0, inverse_temperature=0.01)
        >>> found.gains.round(1)
        array([  1.8,  12. , 110.8])
    """
    values, vectors = np.linalg.eigh(np.asarray(gram, float))
    values = np.maximum(values, 0.0)
    projected = vectors.T @ np.asarray(targets, float)
    ridge = 1.0 / inverse_temperature
    seen = values > len(values) * np.finfo(float).eps * values.max()
    if ridge == 0 and not seen.all():
        raise InvalidInput(
            f"deep_linear_posterior(inverse_temperature=inf): the inputs have rank {int(seen.sum())} of {len(values)}, and a linear "
            "network cannot interpolate them; use a finite inverse temperature."
        )

    def overlap(gain: float) -> float:
        """$a^\\top Ca$."""
        return float(np.sum(values * (projected / (gain * values + ridge)) ** 2))

    def mismatch(log_gain: float) -> float:
        gain = np.exp(log_gain)
        return log_gain / depth - np.log1p(richness**2 * gain * overlap(gain))

    # g a^T C a is a sum of x / (x + ridge)^2 at x = g c: at most 1 / 4 ridge, and at most 1 / x.
    most = float(
        np.sum(projected[seen] ** 2 * np.minimum(1 / values[seen], np.divide(0.25, ridge) if ridge else np.inf))
    )
    top = depth * np.log1p(richness**2 * most) + 1e-9
    grid = np.linspace(0.0, top, _SCAN)
    signs = np.array([mismatch(x) for x in grid])
    logs = [0.0] if richness == 0 else [
        brentq(mismatch, grid[i], grid[i + 1], xtol=1e-14)
        for i in np.flatnonzero((signs[:-1] < 0) != (signs[1:] < 0))
    ]  # fmt: skip
    gains = np.exp(np.array(logs))
    solutions = [vectors @ (projected / np.where(g * values + ridge > 0, g * values + ridge, 1.0)) for g in gains]
    actions = np.array(
        [
            0.5 * (depth * np.expm1(np.log(g) / depth) - np.log(g)) + 0.5 * richness**2 * float(np.dot(targets, a))
            for g, a in zip(gains, solutions, strict=True)
        ]
    )
    best = int(np.argmin(actions))
    gain, a = float(gains[best]), solutions[best]
    pulled = gram @ a
    scale = float(a @ pulled)
    kernels = tuple(
        gram + (gain ** (layer / depth) - 1) / scale * np.outer(pulled, pulled) if scale > 0 else np.array(gram)
        for layer in range(1, depth + 1)
    )
    return LinearPosterior(gain, a, kernels, gains, actions)
