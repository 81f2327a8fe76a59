"""Derivatives by the implicit function theorem against finite differences, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foretrain import gradient
from foretrain.errors import InvalidInput, PrecisionError
from foretrain.limits.linear import (
    Descent,
    HeavyBall,
    index_nodes,
    linear_curves,
    losses,
    power_law_measure,
    ridge_losses,
    spectral_measure,
)

NODES = index_nodes(np.inf, 1.5, smallest=1e-4)
POINT = {"capacity": 1.5, "source": 0.6, "width": 100.0, "samples": 150.0, "noise": 0.1}


def difference(function, point, name, step=2e-4):
    """Fourth-order central difference."""
    h = step * point[name]

    def at(x):
        with jax.enable_x64(True):
            return float(function(**{**point, name: x}))

    x = point[name]
    return (8 * (at(x + h) - at(x - h)) - (at(x + 2 * h) - at(x - 2 * h))) / (12 * h)


def flow(capacity, source, width, samples, noise, time):
    test, train = losses(
        power_law_measure(NODES, capacity, source), jnp.stack([time, 3.0 * time]), width, samples, noise
    )
    return test[0, 0] + 0.3 * train[0, 1]


def descent(capacity, source, width, samples, noise, rate):
    test, train = losses(power_law_measure(NODES, capacity, source), [3, 40], width, samples, noise, Descent(rate))
    return jnp.sum(test) + 0.3 * jnp.sum(train)


def ridge(capacity, source, width, samples, noise, mu):
    return jnp.sum(ridge_losses(power_law_measure(NODES, capacity, source), mu, width, samples, noise))


CASES = [
    pytest.param(flow, {**POINT, "time": 30.0}, id="flow"),
    pytest.param(descent, {**POINT, "rate": 0.7}, id="descent, closed and open contour", marks=pytest.mark.long),
    pytest.param(ridge, {**POINT, "mu": 0.01}, id="ridge"),
    pytest.param(lambda **k: ridge(mu=0.0, **k), POINT, id="zero ridge"),
]


@pytest.mark.parametrize(("function", "point"), CASES)
def test_gradient_equals_finite_differences(function, point):
    value, slopes = (
        gradient(function, list(point))(**point)
        if function.__name__ != "<lambda>"
        else gradient(
            lambda capacity, source, width, samples, noise: ridge(capacity, source, width, samples, noise, 0.0),
            list(point),
        )(**point)
    )
    assert np.isfinite(value)
    scale = abs(value)
    for name in point:
        # Rounding of the losses (1e-12) over the step (2e-4) limits the difference quotient to 1e-8 of the value.
        assert slopes[name] * point[name] == pytest.approx(
            difference(function, point, name) * point[name], rel=1e-7, abs=3e-8 * scale
        ), name


@pytest.mark.long  # to compile
def test_forward_equals_backward_and_second_derivatives():
    def function(width):
        return flow(width=width, time=30.0, **{k: v for k, v in POINT.items() if k != "width"})

    with jax.enable_x64(True):
        backward, forward = jax.grad(function)(100.0), jax.jacfwd(function)(100.0)
        assert float(forward) == pytest.approx(float(backward), rel=1e-12)
        second = float(jax.jacfwd(jax.grad(function))(100.0))
        slopes = [float(jax.grad(function)(100.0 + h)) for h in (-0.01, 0.01)]
    assert second == pytest.approx((slopes[1] - slopes[0]) / 0.02, rel=1e-6)


def test_explicit_spectrum():
    lam, power = np.array([1.0, 0.6, 0.25, 0.1]), np.array([1.0, 0.5, 2.0, 1.0])

    def function(lam, power):
        from foretrain.limits.linear import SpectralMeasure

        return losses(SpectralMeasure(lam, lam, lam * power), [4.0], 3.0, 5.0, 0.1)[0][0, 0]

    _, slopes = gradient(function, ("lam", "power"))(lam=lam, power=power)
    assert slopes["lam"].shape == (4,)
    for i in range(4):
        step = np.zeros(4)
        step[i] = 1e-4
        with jax.enable_x64(True):
            for name, point in (("lam", lam), ("power", power)):
                up, down, up2, down2 = (
                    float(function(**{"lam": lam, "power": power, name: point + k * step})) for k in (1, -1, 2, -2)
                )
                assert slopes[name][i] == pytest.approx((8 * (up - down) - (up2 - down2)) / 12e-4, rel=1e-6, abs=1e-8)


def test_infinite_sizes_have_finite_gradients():
    _, slopes = gradient(flow, ("width", "samples", "noise"))(**{**POINT, "width": np.inf, "time": 3.0})
    assert slopes["width"] == 0.0
    assert all(np.isfinite(list(slopes.values())))


def test_pure_core_equals_the_fast_road():
    with jax.enable_x64(True):
        measure = jax.tree.map(np.asarray, power_law_measure(NODES, 1.5, 0.6))
        times = np.array([300.0, 0.0, 2.0, np.inf])
        shares = ("both", "data", "features", "none")
        test, train = losses(measure, times, 100.0, 150.0, 0.1, shares=shares)
        jitted = jax.jit(lambda t: losses(measure, t, 100.0, 150.0, 0.1)[0][0])(times[[2, 0]])
        heavy = losses(measure, [1, 4, 300], 100.0, 150.0, 0.1, HeavyBall(0.2, 0.5))[0][0]
    fast = linear_curves(measure, times, 100.0, 150.0, 0.1, shares=shares)
    np.testing.assert_allclose(test, fast.test[0], rtol=1e-11)
    np.testing.assert_allclose(train[:2], fast.train[0, :2], rtol=1e-11)
    np.testing.assert_allclose(jitted, fast.test[0, 0, [2, 0]], rtol=1e-11)
    exact = linear_curves(measure, [1, 4, 300], 100.0, 150.0, 0.1, HeavyBall(0.2, 0.5)).test[0, 0]
    np.testing.assert_allclose(heavy, exact, rtol=1e-10)


def test_says_what_is_wrong():
    measure = spectral_measure([1.0], [1.0])
    with jax.enable_x64(False), pytest.raises(PrecisionError, match="losses: needs 64-bit"):
        losses(measure, [1.0], 2.0, 3.0)
    with jax.enable_x64(True):
        with pytest.raises(InvalidInput, match=r"losses\(times\): expected times >= 0, got -1"):
            losses(measure, [-1.0], 2.0, 3.0)
        with pytest.raises(InvalidInput, match=r"losses\(times\): expected concrete steps for Descent"):
            jax.jit(lambda t: losses(measure, t, 2.0, 3.0, dynamics=Descent(0.1)))(jnp.ones(1))
        with pytest.raises(InvalidInput, match="differentiate outside of jit"):
            jax.jit(lambda n: losses(measure, [4], n, 3.0, dynamics=Descent(0.1)))(2.0)
