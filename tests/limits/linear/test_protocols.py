"""Gradient descent, schedules, heavy ball, inertia: each against another road, at early and late steps."""

import numpy as np
import pytest

from foretrain.limits.linear import (
    Descent,
    Flow,
    HeavyBall,
    InertialFlow,
    linear_curves,
    max_stable_lr,
    spectral_edge,
    spectral_measure,
    two_point,
)
from foretrain.limits.linear._contour import ellipse

MODES = np.arange(1.0, 41.0)
BASE = spectral_measure(MODES**-1.2, MODES**-0.4, exact=40)
EDGE = float(spectral_edge(BASE, 14.0, 22.0))
CONTOUR = 1e-10


def losses(times, dynamics, width=14.0, samples=22.0, noise=0.16, measure=BASE):
    result = linear_curves(measure, times, width, samples, noise, dynamics)
    assert np.all(result.converged)
    assert not np.any(result.diverged)
    return result.test[0, 0], result.train[0, 0]


def brute_force(values, noise=0.16, width=14.0, samples=22.0, edge=EDGE, radius=0.05, count=360):
    """Losses on one dense ellipse by the public two-point functions; `values` are f on its points."""
    z, a = ellipse(edge, radius, count)
    z, w = np.concatenate([z, np.conj(z)]), np.concatenate([a * z, np.conj(a * z)])
    pair = two_point(BASE, z[:, None], z[None, :], width, samples, noise)
    w = w * values(z)
    return float((w @ pair.C0 @ w).real), float((w @ pair.C1 @ w).real)


def test_reference_numbers():
    # Printed to five decimals with the heavy ball's derivation.
    test, _ = losses([20, 60, 200, 1000], HeavyBall(0.2, 0.6))
    np.testing.assert_allclose(test, [0.79472, 0.87184, 1.08892, 1.43857], atol=6e-6)


@pytest.mark.parametrize("share_of_edge", [0.2, 0.6, 0.98])
def test_descent_on_both_sides_of_the_switch_of_contours(share_of_edge):
    # Steps 11 (closed) and 12, 13, 40 (open, with the mirrored half above one half of the edge; it alternates in sign).
    rate = share_of_edge * 2.0 / EDGE
    steps = np.array([3.0, 11.0, 12.0, 13.0, 40.0])
    test, train = losses(steps, Descent(rate))
    for i, step in enumerate(steps):
        exact = brute_force(lambda z, t=step: (1.0 + rate * z) ** t)
        # The dense ellipse loses what f grows by on it, at most 1e5 here.
        np.testing.assert_allclose([test[i], train[i]], exact, rtol=1e-8)


def test_small_steps_are_a_flow():
    flow_test, flow_train = losses([8.0, 300.0], Flow())
    gaps = []
    for rate in (1e-3, 1e-4):
        test, train = losses(np.array([8.0, 300.0]) / rate, Descent(rate))
        gaps.append(np.max(np.abs(np.concatenate([test / flow_test, train / flow_train]) - 1.0)))
    # First order in the step.
    assert gaps[0] < 2e-3
    assert gaps[1] == pytest.approx(gaps[0] / 10.0, rel=0.05)


def test_late_steps_keep_their_digits():
    # 1e8 steps at rate 1e-4 against the flow at 1e4: equal to first order in rate^2 t u^2 at the slow modes.
    test, train = losses([1e8, 1e13], Descent(1e-4))
    flow_test, flow_train = losses([1e4, 1e9], Flow())
    np.testing.assert_allclose(test, flow_test, rtol=1e-4)
    np.testing.assert_allclose(train, flow_train, rtol=1e-4)


@pytest.mark.parametrize("share_of_edge", [0.3, 0.95])
def test_schedule_of_equal_rates_is_descent(share_of_edge):
    # Equal up to a last digit that keeps the code from recognizing it: the closed and the open roads of schedules.
    rate = share_of_edge * 2.0 / EDGE
    steps = np.array([1, 7, 30, 200, 5000])
    rates = rate * (1.0 - 1e-13 * (np.arange(6000) % 2))
    np.testing.assert_allclose(losses(steps, Descent(rates)), losses(steps, Descent(rate)), rtol=1e-9)


def test_order_of_rates_does_not_matter_at_the_end():
    rng = np.random.default_rng(0)
    rates = 1.8 / EDGE * rng.uniform(0.0, 1.0, 300)
    first, second = (losses([300], Descent(r)) for r in (rates, np.sort(rates)[::-1]))
    np.testing.assert_allclose(first, second, rtol=1e-9)


@pytest.mark.parametrize("tail", [1e-2, 1e-6, 0.0])
def test_tiny_late_factors(tail):
    # 20 large steps, then many tiny ones: where an open contour in log(1 + rate z) would be truncated.
    rates = np.concatenate([np.full(20, 1.5 / EDGE), np.full(400, 1.5 / EDGE * tail)])
    test, train = losses([420], Descent(rates))
    exact = brute_force(lambda z: np.prod(1.0 + rates[:, None] * z, 0))
    np.testing.assert_allclose([test[0], train[0]], exact, rtol=1e-8)


def test_last_rate_goes_on():
    short = np.array([0.5, 0.3])
    np.testing.assert_allclose(
        losses([50], Descent(short)), losses([50], Descent(np.concatenate([short, np.full(60, 0.3)]))), rtol=1e-10
    )


def test_a_schedule_that_ends_at_rate_zero_ends():
    rates = np.concatenate([np.linspace(0.5, 0.0, 30), np.zeros(5)])
    test, train = losses([29, 35, 1e6, np.inf], Descent(rates))
    np.testing.assert_allclose(test, test[0], rtol=1e-12)
    np.testing.assert_allclose(train, train[0], rtol=1e-12)
    never = losses([0, 10, np.inf], Descent(np.zeros(3)))[0]
    np.testing.assert_array_equal(never, never[0])


@pytest.mark.long
def test_long_schedule_is_open_late():
    steps = 200_000
    rates = 0.9 / EDGE * 0.5 * (1.0 + np.cos(np.pi * np.arange(steps) / steps))
    test, train = losses([steps // 2, steps], Descent(rates))
    flow = losses([rates[: steps // 2].sum(), rates.sum()], Flow())
    # A flow up to the second order of the step, which only the slowest modes still feel.
    np.testing.assert_allclose([test, train], flow, rtol=1e-3)


@pytest.mark.parametrize("beta", [0.0, 0.6, 0.93])
@pytest.mark.parametrize("rate", [0.2, 0.95])
def test_heavy_ball_against_its_recursion(beta, rate):
    # 0.95 of the edge makes the fastest modes alternate in sign.
    eta = rate * float(max_stable_lr(BASE, 14.0, 22.0, beta)) if rate > 0.5 else rate
    steps = [0, 1, 2, 9, 40]

    def recursion(z, last):
        before, now = np.ones_like(z), np.ones_like(z)
        for _ in range(last):
            before, now = now, now + eta * z * now + beta * (now - before)
        return now

    test, train = losses(steps, HeavyBall(eta, beta))
    for i, step in enumerate(steps):
        exact = brute_force(lambda z, t=step: recursion(z, t))
        np.testing.assert_allclose([test[i], train[i]], exact, rtol=1e-8)


@pytest.mark.parametrize(("eta", "beta"), [(0.3, 0.5), (1.3, 0.5), (0.05, 0.8)])
def test_heavy_ball_closed_and_open_contours_agree(eta, beta):
    dynamics = HeavyBall(eta, beta)
    switch = int(np.ceil(2.0 * np.log(1e-13) / np.log(beta)))
    steps = np.array([switch - 1.0, switch, switch + 1.0])
    assert list(dynamics.is_open(steps, EDGE)) == [False, True, True]
    test, train = losses(steps, dynamics)
    # A smooth curve: the second difference across the switch is that of the curve, far below its first.
    for values in (test, train):
        first, second = values[2] - values[0], values[2] - 2.0 * values[1] + values[0]
        assert abs(second) < 0.05 * abs(first) + 1e-9


def test_heavy_ball_without_momentum_is_descent():
    steps = [1, 5, 11, 12, 300]
    np.testing.assert_allclose(losses(steps, HeavyBall(0.5, 0.0)), losses(steps, Descent(0.5)), rtol=CONTOUR)


def test_late_heavy_ball_is_descent_at_a_larger_rate():
    # Slow modes see the rate eta / (1 - beta), with a relative error of the order of the rate of change.
    heavy = losses([100_000], HeavyBall(0.02, 0.9))
    plain = losses([100_000], Descent(0.2))
    np.testing.assert_allclose(heavy, plain, rtol=2e-3)


@pytest.mark.parametrize("beta", [0.3, 2.0])
def test_momentum_flow_closed_and_open_contours_agree(beta):
    dynamics = InertialFlow(beta)
    switch = -2.0 * beta * np.log(1e-13)
    times = switch * np.array([0.999, 1.001])
    assert list(dynamics.is_open(times, EDGE)) == [False, True]
    test, train = losses(times, dynamics)
    flow_test, flow_train = losses(times, Flow())
    # The difference to the plain flow is smooth in time.
    np.testing.assert_allclose(test[1] - test[0], flow_test[1] - flow_test[0], rtol=0.2, atol=1e-9)
    np.testing.assert_allclose(train[1] - train[0], flow_train[1] - flow_train[0], rtol=0.2, atol=1e-9)


def test_small_inertia_is_a_flow():
    test, train = losses([5.0], InertialFlow(1e-4))
    np.testing.assert_allclose([test, train], losses([5.0], Flow()), rtol=1e-3)


def test_past_the_edge_diverges():
    edge = float(max_stable_lr(BASE, 14.0, 22.0))
    result = linear_curves(BASE, [0, 1, 100, np.inf], [14.0, np.inf], 22.0, 0.1, Descent(1.001 * edge))
    assert np.all(np.isinf(result.test[0, 0, 1:]))
    assert np.isfinite(result.test[0, 0, 0])
    assert np.all(np.isfinite(result.test[1]))
    np.testing.assert_array_equal(result.diverged, [[False, True, True, True], [False] * 4])
    heavy = linear_curves(BASE, [100], 14.0, 22.0, 0.0, HeavyBall(1.001 * 1.5 * edge, 0.5))
    assert np.all(heavy.diverged)
    assert not np.any(linear_curves(BASE, [100], 14.0, 22.0, 0.0, HeavyBall(0.999 * 1.5 * edge, 0.5)).diverged)


def test_too_long_for_a_closed_contour_is_said():
    # Momentum so close to 1 that oscillations live for a million steps.
    result = linear_curves(BASE, [0, 200_000], 14.0, 22.0, 0.1, HeavyBall(0.2, 0.99995))
    np.testing.assert_array_equal(result.converged, [[True, False]])
    assert np.isnan(result.test[0, 0, 1])


@pytest.mark.parametrize("seed", range(3))
def test_closed_error_estimate_is_honest(seed):
    rng = np.random.default_rng(seed)
    rates = 1.9 / EDGE * rng.uniform(0.0, 1.0, 60)
    result = linear_curves(BASE, [3, 60], 14.0, 22.0, 0.16, Descent(rates))
    for i, steps in enumerate((3, 60)):
        exact = brute_force(lambda z, n=steps: np.prod(1.0 + rates[:n, None] * z, 0))
        assert abs(result.test[0, 0, i] - exact[0]) <= result.test_error[0, 0, i] + 1e-10
        assert abs(result.train[0, 0, i] - exact[1]) <= result.train_error[0, 0, i] + 1e-10
    assert np.max(result.test_error) < 1e-8
