"""Dual activations against quadrature, against each other and against their own derivatives."""

import itertools
from math import factorial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.polynomial.hermite_e import hermegauss
from numpy.polynomial.legendre import leggauss
from scipy.special import erf, ndtr

from foretrain.kernels import normalizing_variance
from foretrain.kernels._duals import ACTIVATIONS, _hermite_sums, _mixture_parts, _tanh_hermite, dual, tanh_mixture

SLOPE = 0.1
DENSITY = 1.0 / np.sqrt(2.0 * np.pi)


def gelu_slope(u):
    return ndtr(u) + u * DENSITY * np.exp(-0.5 * u * u)


FUNCTIONS = {
    "relu": (lambda u: np.maximum(u, 0.0), lambda u: (u > 0) * 1.0),
    "leaky-relu": (lambda u: np.where(u > 0, u, SLOPE * u), lambda u: np.where(u > 0, 1.0, SLOPE)),
    "linear": (lambda u: u, np.ones_like),
    "relu-2": (lambda u: np.maximum(u, 0.0) ** 2, lambda u: 2 * np.maximum(u, 0.0)),
    "relu-3": (lambda u: np.maximum(u, 0.0) ** 3, lambda u: 3 * np.maximum(u, 0.0) ** 2),
    "erf": (erf, lambda u: 2.0 / np.sqrt(np.pi) * np.exp(-u * u)),
    "gelu": (lambda u: u * ndtr(u), gelu_slope),
    "tanh": (np.tanh, lambda u: 1.0 / np.cosh(u) ** 2),
}
CASES = [(1.0, 1.0, 0.3), (0.4, 1.7, -0.8), (2.5, 0.1, 0.95), (1.3, 1.3, 0.0)]


def quadrature(function, q_x, q_y, rho):
    """Gaussian average of a product, in polar coordinates cut at the kinks of a piecewise linear function."""
    if any(function in FUNCTIONS[name] for name in ("relu", "relu-2", "relu-3", "leaky-relu", "linear")):
        # f(r u) = r^p f(u) with the same p in both factors: the radial integral is exact, the angle is smooth by pieces.
        degree = round(float(np.log2(function(np.array(2.0)) / function(np.array(1.0)))))
        radial = 2.0**degree * factorial(degree)
        tilt = np.arcsin(rho)
        edges = np.unique(np.mod([np.pi / 2, 3 * np.pi / 2, -tilt, np.pi - tilt, 0.0], 2 * np.pi))
        edges = np.append(edges, edges[0] + 2 * np.pi)
        nodes, weights = leggauss(40)
        total = 0.0
        for low, high in itertools.pairwise(edges):
            angle = 0.5 * (high - low) * nodes + 0.5 * (high + low)
            u = np.sqrt(q_x) * np.cos(angle)
            v = np.sqrt(q_y) * (rho * np.cos(angle) + np.sqrt(1 - rho**2) * np.sin(angle))
            total += 0.5 * (high - low) * np.sum(weights * function(u) * function(v))
        return radial * total / (2 * np.pi)
    nodes, weights = hermegauss(160)
    weights = weights / weights.sum()
    u = np.sqrt(q_x) * nodes[:, None]
    v = np.sqrt(q_y) * (rho * nodes[:, None] + np.sqrt(1 - rho**2) * nodes[None, :])
    return float(weights @ (function(u) * function(v)) @ weights)


def value_and_slope(activation, q_x, q_y, gap):
    d = dual(activation, SLOPE)
    out, slope = d.pair(q_x, q_y, gap)
    return jnp.sqrt(d.mean_square(q_x) * d.mean_square(q_y)) * (1.0 - out), slope


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("q_x", "q_y", "rho"), CASES)
def test_duals_match_quadrature(activation, q_x, q_y, rho):
    with jax.enable_x64(True):
        value, slope = value_and_slope(activation, *(jnp.asarray(v) for v in (q_x, q_y, 1.0 - rho)))
    # 160 Gauss-Hermite nodes integrate tanh and its slope to about 1e-10 (poles near the axis), all others to rounding.
    tolerance = 1e-9 if activation == "tanh" else 1e-12
    assert abs(float(value) - quadrature(FUNCTIONS[activation][0], q_x, q_y, rho)) < tolerance
    assert abs(float(slope) - quadrature(FUNCTIONS[activation][1], q_x, q_y, rho)) < tolerance


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_slope_dual_is_the_derivative_in_the_covariance(activation):
    """Price's theorem: d<f(u) f(v)>/dk at fixed variances is <f'(u) f'(v)>."""
    q_x, q_y, rho = 0.7, 1.6, 0.45
    with jax.enable_x64(True):

        def of_covariance(k):
            return value_and_slope(activation, jnp.asarray(q_x), jnp.asarray(q_y), 1.0 - k / np.sqrt(q_x * q_y))[0]

        k = rho * np.sqrt(q_x * q_y)
        step = 1e-4
        values = [float(of_covariance(jnp.asarray(k + j * step))) for j in (-2, -1, 1, 2)]
        slope = float(value_and_slope(activation, jnp.asarray(q_x), jnp.asarray(q_y), jnp.asarray(1.0 - rho))[1])
    # Five-point difference: truncation of order step^4, rounding 1e-16 / step of the value.
    difference = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
    assert abs(difference - slope) < 1e-11 * max(1.0, values[0])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_diagonal_is_the_pair_of_an_input_with_itself(activation):
    q = np.array([0.05, 0.5, 1.0, 2.9])
    with jax.enable_x64(True):
        d = dual(activation, SLOPE)
        value, slope = value_and_slope(activation, jnp.asarray(q), jnp.asarray(q), jnp.zeros(4))
        assert np.allclose(value, d.mean_square(jnp.asarray(q)), rtol=1e-14, atol=0)
        assert np.allclose(slope, d.slope_square(jnp.asarray(q)), rtol=1e-14, atol=0)


def test_tanh_by_series_and_by_mixture():
    """Two independent roads: the Hermite series and the mixture of error functions."""
    generator = np.random.default_rng(0)
    q_x, q_y, gap = generator.uniform(0.0, 2.8, (3, 40)) * np.array([[1.0], [1.0], [2.0 / 2.8]])
    with jax.enable_x64(True):
        q_x, q_y, gap = (jnp.asarray(v) for v in (q_x, q_y, gap))
        mixture = _mixture_parts(*tanh_mixture(), q_x, q_y, gap)
        series = _hermite_sums(_tanh_hermite(q_x), _tanh_hermite(q_y), 1.0 - gap)
    for one, other in zip(mixture, series, strict=True):
        assert np.max(np.abs(np.asarray(one) - np.asarray(other))) < 2e-14  # the mixture's stated 5e-15, and rounding


def test_tanh_is_its_mixture():
    u = np.concatenate([np.linspace(0.0, 3.0, 100), np.linspace(3.0, 40.0, 50)])
    squares, weights = tanh_mixture()
    assert np.max(np.abs(erf(u[:, None] / np.sqrt(2.0 * squares)) @ weights - np.tanh(u))) < 1e-14


def test_tanh_at_large_variance_becomes_the_sign():
    """There the series has not converged and the mixture takes over: <sign sign> = 2 arcsin(rho) / pi."""
    with jax.enable_x64(True):
        value, _ = value_and_slope("tanh", jnp.asarray(1e8), jnp.asarray(1e8), jnp.asarray(0.4))
    assert abs(float(value) - 2.0 / np.pi * np.arcsin(0.6)) < 1e-3  # deviation of order 1/sqrt(q) = 1e-4


def test_normalizing_variances():
    assert normalizing_variance("relu") == 2.0
    assert normalizing_variance("linear") == 1.0
    assert normalizing_variance("leaky-relu", 0.5) == pytest.approx(1.6, rel=1e-15)
    assert normalizing_variance("erf") == pytest.approx(np.pi / 2 / np.arcsin(2 / 3), rel=1e-14)
    nodes, weights = hermegauss(100)
    for activation in ("gelu", "tanh"):
        square = weights @ FUNCTIONS[activation][0](nodes) ** 2 / weights.sum()
        assert normalizing_variance(activation) == pytest.approx(1.0 / square, rel=1e-9)  # quadrature of tanh
