r"""Averages over the density of one neuron by quadrature, where the training inputs span one or two dimensions.

Activations that grow linearly are integrated in polar coordinates, $w=R\,(\cos\theta,\sin\theta)$: between the angles where a
preactivation changes sign everything is smooth, and $R$ is measured in units of $k_\theta^{-1/2}$,
$k_\theta=1-\gamma^2\sum_k(a_k\cdot\varphi_\theta)^2$, in which the tail of the tilted density is that of a Gaussian (AK.6). Bounded
ones are integrated by the trapezoid rule, which converges faster than any power.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from foretrain.limits.bayesian._activations import Activation

LARGEST_RANK = 2
_FAR = 12.0  # Gaussian density beyond this many standard deviations is below 1e-31
_RADIAL_PANELS = (0.0, 1.5, 3.0, 5.0, 8.0, _FAR)
# Where a smooth activation turns from one slope to the other, far out: panels of these sizes around that angle.
_GRADING = (0.01, 0.03, 0.1, 0.3)
_ANGLES = 720  # on which the distance to the border of the domain is looked at


class Rule(NamedTuple):
    """Nodes, and logarithms of the measure that each stands for under the prior."""

    w: Float[np.ndarray, "nodes rank"]
    log_measure: Float[np.ndarray, " nodes"]


class Moments(NamedTuple):
    r"""Averages over the tilted density.

    Attributes:
        log_partition: $\ln Z$.
        kernel: $\Phi=\langle\varphi\varphi^\top\rangle$.
        spread: covariance of $\varphi_\mu s_k$ with $\varphi_\nu s_l$, where $s_k=a_k\cdot\varphi$.
        features: $\varphi$ at the nodes.
        weights: of the nodes, summing to one.
    """

    log_partition: float
    kernel: Float[np.ndarray, "samples samples"]
    spread: Float[np.ndarray, "samples_outputs samples_outputs"]
    features: Float[np.ndarray, "nodes samples"]
    weights: Float[np.ndarray, " nodes"]


def asymptotic_slopes(
    u: Float[np.ndarray, "samples rank"], direction: Float[np.ndarray, "angles rank"], activation: Activation
) -> Float[np.ndarray, "angles samples"]:
    r"""$\varphi(Rh)/R$ for $R\to\infty$ along unit vectors.

    Args:
        u: Square root of the Gram matrix.
        direction: Unit vectors.
        activation: $\varphi$.
    """
    h = direction @ u.T
    below, above = activation.slopes
    return np.where(h > 0, above, below) * h


def margin(
    u: Float[np.ndarray, "samples rank"], a: Float[np.ndarray, "samples outputs"], tilt: float, activation: Activation
) -> float:
    r"""Smallest $k_\theta$ on a grid of directions: positive inside the domain of (AK.5), where the density can be normalized.

    Args:
        u: Square root of the Gram matrix, of rank one or two.
        a: Dual coefficients.
        tilt: $\gamma^2$.
        activation: $\varphi$.
    """
    s = asymptotic_slopes(u, _directions(u), activation) @ a
    return float(1.0 - tilt * np.max(np.sum(s**2, axis=1)))


def _directions(u: Float[np.ndarray, "samples rank"]) -> Float[np.ndarray, "angles rank"]:
    if u.shape[1] == 1:
        return np.array([[1.0], [-1.0]])
    angles = np.concatenate([2 * np.pi * np.arange(_ANGLES) / _ANGLES, _kinks(u)])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _kinks(u: Float[np.ndarray, "samples two"]) -> Float[np.ndarray, " kinks"]:
    """Angles at which a preactivation changes sign."""
    across = np.arctan2(u[:, 1], u[:, 0]) + np.pi / 2
    return np.sort(np.concatenate([across, across + np.pi]) % (2 * np.pi))


def make_rule(
    u: Float[np.ndarray, "samples rank"],
    a: Float[np.ndarray, "samples outputs"],
    tilt: float,
    activation: Activation,
    *,
    borders: Float[np.ndarray, "borders rank"] | None = None,
    order: int = 16,
) -> Rule:
    """Nodes for averages over the density at `a`.

    Args:
        u: Square root of the Gram matrix, of rank one or two.
        a: Dual coefficients inside the domain.
        tilt: $\\gamma^2$.
        activation: $\\varphi$.
        borders: Further inputs whose preactivations may change sign, as rows like those of `u`.
        order: Nodes per panel; for smooth activations per unit of the largest preactivation.
    """
    if max(map(abs, activation.slopes)) > 0:
        return _polar(u, a, tilt, activation, u if borders is None else np.concatenate([u, borders]), order)
    steepest = float(np.sqrt(np.max(np.sum(u * u, axis=1))))
    spacing = min(2.4 / order, 8.0 / (order * max(steepest, 1e-3)))
    # What the activation can add to the exponent, at most.
    lift = 0.5 * tilt * float(np.sum(np.sum(np.abs(a), axis=0) ** 2))
    reach = np.sqrt(_FAR**2 + 2 * lift)
    line = spacing * np.arange(-np.ceil(reach / spacing), np.ceil(reach / spacing) + 1)
    w = np.stack([m.ravel() for m in np.meshgrid(*[line] * u.shape[1], indexing="ij")], axis=1)
    rank = u.shape[1]
    return Rule(w, rank * np.log(spacing / np.sqrt(2 * np.pi)) - 0.5 * np.sum(w * w, axis=1))


def _polar(u, a, tilt, activation, inputs, order) -> Rule:
    nodes, weights = np.polynomial.legendre.leggauss(order)

    def panels(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        half = 0.5 * np.diff(edges)
        return (edges[:-1, None] + half[:, None] * (nodes + 1)).ravel(), (half[:, None] * weights).ravel()

    radius, d_radius = panels(np.array(_RADIAL_PANELS))
    if u.shape[1] == 1:
        direction, log_angle = np.array([[1.0], [-1.0]]), np.zeros(2)
        log_radius = np.log(d_radius / np.sqrt(2 * np.pi))
        power = 0.5
    else:
        kinks = _kinks(inputs)
        grading = [0.0] if activation.kinked else [0.0, *(s * g for g in _GRADING for s in (-1, 1))]
        around = (kinks[:, None] + np.array(grading)).ravel() % (2 * np.pi)
        first = around.min()
        edges = np.unique(np.concatenate([around, [first + 2 * np.pi], first + np.arange(8) * np.pi / 4]))
        angle, d_angle = panels(edges[np.concatenate([[True], np.diff(edges) > 1e-14])])
        direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        log_angle = np.log(d_angle / (2 * np.pi))
        log_radius = np.log(radius * d_radius)
        power = 1.0
    s = asymptotic_slopes(u, direction, activation) @ a
    k = 1.0 - tilt * np.sum(s**2, axis=1)
    if np.any(k <= 0):
        raise FloatingPointError("outside the domain")
    scaled = radius[None, :] / np.sqrt(k)[:, None]
    log_measure = log_angle[:, None] - power * np.log(k)[:, None] + log_radius[None, :] - 0.5 * scaled**2
    return Rule((scaled[:, :, None] * direction[:, None, :]).reshape(-1, u.shape[1]), log_measure.ravel())


def moments(
    rule: Rule,
    u: Float[np.ndarray, "samples rank"],
    a: Float[np.ndarray, "samples outputs"],
    tilt: float,
    activation: Activation,
) -> Moments:
    """Averages over the tilted density at `a`.

    Args:
        rule: Nodes for this `a`.
        u: Square root of the Gram matrix.
        a: Dual coefficients.
        tilt: $\\gamma^2$.
        activation: $\\varphi$.
    """
    phi = np.asarray(activation.value(jnp.asarray(rule.w @ u.T)))
    s = phi @ a
    log = rule.log_measure + 0.5 * tilt * np.sum(s * s, axis=1)
    top = float(log.max())
    weight = np.exp(log - top)
    total = float(weight.sum())
    weight = weight / total
    joint = (phi[:, :, None] * s[:, None, :]).reshape(len(phi), -1)
    mean = weight @ joint
    spread = joint.T @ (weight[:, None] * joint) - np.outer(mean, mean)
    return Moments(top + np.log(total), phi.T @ (weight[:, None] * phi), spread, phi, weight)
