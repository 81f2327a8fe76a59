"""Activations of a neuron, with their slopes and with their averages over a Gaussian part of the preactivation."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf, ndtr
from jaxtyping import Array, Float

from foretrain.errors import InvalidInput, nearest

# Nodes of the Gauss-Hermite rule for averages without a closed form.
_HERMITE_NODES = 40


class Activation(NamedTuple):
    r"""$\varphi$, $\varphi'$, and $\langle\varphi(m+\sqrt v\,z)\rangle_{z\sim\mathcal N(0,1)}$ as `smoothed(m, v)`.

    `slopes` are the limits of $\varphi(h)/h$ at $h\to-\infty$ and $h\to\infty$; both are 0 for bounded activations.
    `kinked` says that the slope jumps at 0, and `homogeneous` that $\varphi(ah)=a\varphi(h)$ for $a>0$.
    """

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    smoothed: Callable[[Array, Array], Array]
    slopes: tuple[float, float]
    kinked: bool
    homogeneous: bool


def _density(z: Float[Array, "*points"]) -> Float[Array, "*points"]:
    return jnp.exp(-0.5 * z * z) / jnp.sqrt(2 * jnp.pi)


def _rectified(mean: Float[Array, "*points"], variance: Float[Array, "*points"]) -> Float[Array, "*points"]:
    """Mean of max(h, 0)."""
    root = jnp.sqrt(variance)
    z = mean / jnp.where(root > 0, root, 1.0)
    return jnp.where(root > 0, mean * ndtr(z) + root * _density(z), jnp.maximum(mean, 0.0))


def _piecewise_linear(negative: float) -> Activation:
    def slope(h: Array) -> Array:
        return jnp.where(h > 0, 1.0, negative)

    def smoothed(mean: Array, variance: Array) -> Array:
        return negative * mean + (1 - negative) * _rectified(mean, variance)

    return Activation(lambda h: slope(h) * h, slope, smoothed, (negative, 1.0), negative != 1.0, True)


def _gelu_smoothed(mean: Float[Array, "*points"], variance: Float[Array, "*points"]) -> Float[Array, "*points"]:
    root = jnp.sqrt(1 + variance)
    return mean * ndtr(mean / root) + variance / root * _density(mean / root)


def _by_quadrature(value: Callable[[Array], Array]) -> Callable[[Array, Array], Array]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(_HERMITE_NODES)
    weights = weights / weights.sum()

    def smoothed(mean: Array, variance: Array) -> Array:
        root = jnp.sqrt(variance)

        def add(total: Array, node: tuple[Array, Array]) -> tuple[Array, None]:
            return total + node[1] * value(mean + root * node[0]), None

        start = jnp.zeros(jnp.broadcast_shapes(mean.shape, variance.shape))
        table = (jnp.asarray(nodes), jnp.asarray(weights))
        return jax.lax.scan(add, start, table)[0]

    return smoothed


_SMOOTH = {
    "tanh": Activation(jnp.tanh, lambda h: 1 - jnp.tanh(h) ** 2, _by_quadrature(jnp.tanh), (0.0, 0.0), False, False),
    "erf": Activation(
        erf,
        lambda h: 2 / jnp.sqrt(jnp.pi) * jnp.exp(-h * h),
        lambda m, v: erf(m / jnp.sqrt(1 + 2 * v)),
        (0.0, 0.0),
        False,
        False,
    ),
    "gelu": Activation(
        lambda h: h * ndtr(h), lambda h: ndtr(h) + h * _density(h), _gelu_smoothed, (0.0, 1.0), False, False
    ),
}
_KINKED = {"relu": 0.0, "leaky-relu": 0.01, "linear": 1.0}
ACTIVATIONS = (*_KINKED, *_SMOOTH)


def activation_named(name: str, who: str) -> Activation:
    """The activation of that name.

    Args:
        name: One of `ACTIVATIONS`.
        who: Who is named in the error.

    Raises:
        InvalidInput: No such activation, or one that grows too fast for a posterior to exist.
    """
    if name in _SMOOTH:
        return _SMOOTH[name]
    if name in _KINKED:
        return _piecewise_linear(_KINKED[name])
    raise InvalidInput(
        f"{who}(activation={name!r}): expected one of {', '.join(map(repr, ACTIVATIONS))}{nearest(name, ACTIVATIONS)}; "
        "activations that grow faster than linearly have no posterior of this kind."
    )
