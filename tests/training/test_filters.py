"""Closed-form filters against literal recursions and matrix exponentials."""

import numpy as np
import pytest
from scipy.linalg import expm

from foretrain.problems import GradientDescent, GradientFlow, Momentum, MomentumFlow, Ridge, Schedule
from foretrain.training import diverged, max_stable_learning_rate, spectral_filters

U = np.array([1e-12, 1e-6, 1e-3, 0.1, 0.5, 1.0, 1.9, 2.5, 3.5])
STEPS = np.array([0.0, 1.0, 2.0, 3.0, 17.0, 100.0, 1000.0])


def run_heavy_ball(rates, beta, u, steps):
    """The literal recursion on the residual and on the readout, one scalar problem per eigenvalue."""
    residual, solution = [], []
    weight = previous = np.zeros_like(u)
    for s in range(int(max(steps)) + 1):
        residual.append(1 - u * weight)
        solution.append(weight)
        rate = rates[s] if np.ndim(rates) else rates
        weight, previous = weight + rate * (1 - u * weight) + beta * (weight - previous), weight
    index = np.asarray(steps, dtype=int)
    return np.array(residual)[index], np.array(solution)[index]


def assert_filters_match(protocol, u, steps, rates, beta):
    f, g = spectral_filters(protocol, u, steps)
    f_loop, g_loop = run_heavy_ball(rates, beta, u, steps)
    # The loop itself rounds once per step; 1e-12 is a thousand roundings.
    np.testing.assert_allclose(f, f_loop, atol=1e-12, rtol=0)
    np.testing.assert_allclose(g, g_loop, rtol=2e-12, atol=1e-13)


def test_gradient_descent_is_its_recursion():
    u = U[:-1] / 1.3
    assert_filters_match(GradientDescent(learning_rate=1.0), u, STEPS, 1.0, 0.0)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.9, 0.99])
def test_heavy_ball_is_its_recursion(beta):
    u = U[2 * (1 + beta) > U]
    assert_filters_match(Momentum(learning_rate=1.0, momentum=beta), u, STEPS, 1.0, beta)


@pytest.mark.parametrize("beta", [0.04, 0.25, 0.81])
@pytest.mark.parametrize("offset", [0.0, 1e-14, -1e-12, 1e-8, -1e-6, 1e-4, -1e-3])
def test_heavy_ball_at_double_roots(beta, offset):
    u = np.array([(1 - beta**0.5) ** 2, (1 + beta**0.5) ** 2]) * (1 + offset)
    f, _ = spectral_filters(Momentum(learning_rate=1.0, momentum=beta), u, STEPS)
    f_loop, _ = run_heavy_ball(1.0, beta, u, STEPS)
    # Near a double root the recursion amplifies its own rounding by up to n = 1/(1 - sqrt(beta)) steps.
    np.testing.assert_allclose(f, f_loop, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule("cosine", steps=60, warmup=5),
        Schedule("linear", steps=40, final=0.1),
        Schedule("wsd", steps=80, warmup=10, decay=20),
        Schedule("constant", warmup=7),
    ],
)
def test_schedule_is_its_recursion(schedule):
    steps = np.array([100.0, 0.0, 3.0, 1.0, 40.0, 60.0, 61.0, 2.0])
    rates = 1.5 * schedule.factors(101)
    assert_filters_match(GradientDescent(learning_rate=1.5, schedule=schedule), U[:6], steps, rates, 0.0)


def test_schedule_far_beyond_its_end_is_a_power():
    schedule = Schedule("linear", steps=10, final=0.5)
    f, _ = spectral_filters(
        GradientDescent(learning_rate=0.5, schedule=schedule), np.array([1e-6]), np.array([10.0, 1e8])
    )
    # exp(-25) after 1e8 steps; log1p keeps the exponent to 1e-16 relative, times 25.
    np.testing.assert_allclose(f[1] / f[0], np.exp((1e8 - 10) * np.log1p(-0.25e-6)), rtol=1e-12)


def test_flow_and_ridge():
    times = np.array([3.0, 0.0, 1e8, np.inf])
    f, g = spectral_filters(GradientFlow(), U, times)
    np.testing.assert_allclose(f, np.exp(-U * np.array([3.0, 0.0, 1e8, 1e300])[:, None]), rtol=1e-14)
    np.testing.assert_allclose(g[0, 0], 3.0, rtol=1e-11)  # ut -> 0 leaves g = t
    np.testing.assert_allclose(g[3], 1 / U, rtol=1e-14)
    f, g = spectral_filters(Ridge(ridge=0.1), U, None)
    np.testing.assert_allclose(f[0], 0.1 / (0.1 + U), rtol=1e-14)
    np.testing.assert_allclose(g[0], 1 / (0.1 + U), rtol=1e-14)


@pytest.mark.parametrize("beta", [0.01, 0.25, 3.0])
@pytest.mark.parametrize("offset", [0.0, 1e-13, -1e-9, 1e-5, -1e-3])
def test_momentum_flow_is_a_matrix_exponential(beta, offset):
    u = np.append(U[2:], (1 + offset) / (4 * beta))
    times = np.array([0.0, 1e-3, 0.1, 1.0, 10.0, 60.0])
    f, g = spectral_filters(MomentumFlow(momentum=beta), u, times)
    for j, value in enumerate(u):
        generator = np.array([[0.0, 1.0], [-value / beta, -1 / beta]])
        exact = [expm(generator * t)[0, 0] for t in times]
        np.testing.assert_allclose(f[:, j], exact, atol=2e-13, rtol=0)  # expm itself: 1e-13 at norm 1e4
        np.testing.assert_allclose(g[:, j], (1 - np.array(exact)) / value, atol=2e-13 / value)


def test_small_eigenvalues_keep_their_digits():
    """g -> t for flow and descent, and the effective rate 1/(1-beta) for momentum, where 1 - f would round to nothing."""
    u, t = np.array([1e-20]), np.array([1e6])
    for protocol, expected in (
        (GradientFlow(), 1e6),
        (GradientDescent(learning_rate=0.5), 5e5),
        (MomentumFlow(momentum=2.0), 1e6 - 2.0),
        (Momentum(learning_rate=0.5, momentum=0.9), 0.5 * (1e6 / 0.1 - 0.9 / 0.1**2)),
    ):
        _, g = spectral_filters(protocol, u, t)
        np.testing.assert_allclose(g, expected, rtol=1e-12)


def test_eigenvalue_zero_takes_no_part():
    for protocol in (GradientFlow(), GradientDescent(learning_rate=1.0), Momentum(learning_rate=1.0, momentum=0.5)):
        f, g = spectral_filters(protocol, np.array([0.0]), np.array([5.0, np.inf]))
        np.testing.assert_array_equal(f, 1)
        np.testing.assert_array_equal(g, 0)


def test_divergence():
    times = np.array([0.0, 1.0, 10.0])
    protocol = GradientDescent(learning_rate=1.0)
    assert max_stable_learning_rate(protocol, 4.0) == 0.5
    assert diverged(protocol, 2.001, times).tolist() == [False, True, True]
    assert not diverged(protocol, 2.0, times).any()
    assert not diverged(GradientFlow(), 1e9, times).any()
    ball = Momentum(learning_rate=1.0, momentum=0.5)
    assert max_stable_learning_rate(ball, 3.0) == 1.0
    assert diverged(ball, 3.01, times).tolist() == [False, True, True]
    # A warm-up from far below the edge to just above it: diverged once the top component exceeds its start.
    warm = GradientDescent(learning_rate=1.0, schedule=Schedule("constant", warmup=5))
    assert diverged(warm, 2.2, np.array([3.0, 8.0, 1000.0])).tolist() == [False, False, True]


def test_schedule_that_ends_leaves_its_product_at_infinity():
    protocol = GradientDescent(learning_rate=0.5, schedule=Schedule("linear", steps=4))
    f, _ = spectral_filters(protocol, np.array([1.0]), np.array([4.0, np.inf]))
    np.testing.assert_allclose(f[0], f[1], rtol=1e-15)
    f, _ = spectral_filters(GradientDescent(learning_rate=0.5), np.array([1.0]), np.array([np.inf]))
    assert f[0, 0] == 0
