"""Plans with minibatches, and derivatives of their losses."""

import jax
import numpy as np
import pytest

from foretrain.errors import InvalidInput
from foretrain.limits.linear import (
    StochasticDescent,
    compute_optimal_frontier,
    linear_curves,
    losses,
    max_stable_lr,
    power_law_measure,
    sgd_frontier,
    spectral_measure,
)
from foretrain.limits.linear._measure import index_nodes
from foretrain.limits.linear._sgd_planning import sgd_losses_at

MODES = np.arange(1.0, 41.0)
BASE = spectral_measure(MODES**-1.2, MODES**-0.4, exact=40)
LAW = spectral_measure(np.arange(1.0, 20001.0) ** -1.5, np.arange(1.0, 20001.0) ** -0.5)


def test_points_with_settings_of_their_own_are_single_curves():
    settings = [(20, 14.0, 22.0, 0.3, 2, 0.16), (1000, 22.0, np.inf, 0.1, 4, 0.0), (13, np.inf, 22.0, 0.2, 8, 0.5)]
    test, part = sgd_losses_at(BASE, *np.array(settings).T)
    for i, (steps, width, samples, rate, batch, noise) in enumerate(settings):
        curve = linear_curves(BASE, [steps], width, samples, noise, StochasticDescent(rate, batch))
        assert test[i] == pytest.approx(curve.test[0, 0, 0], rel=1e-9)
        assert part[i] == pytest.approx(curve.test_noise[0, 0], rel=1e-9)


def test_frontier_is_a_minimum():
    plan = sgd_frontier(LAW, [1e6], batch_size=[4.0])
    width, rate, loss = plan.width[0, 0], plan.learning_rate[0, 0], plan.test_loss[0, 0]
    assert plan.interior[0, 0]
    assert plan.steps[0, 0] * width * 4 == pytest.approx(1e6)
    assert rate < float(max_stable_lr(LAW, width, np.inf, batch_size=4.0))
    for shift in (0.9, 1.1):
        moved = [
            sgd_losses_at(LAW, 1e6 / (4 * width * shift), width * shift, np.inf, rate, 4.0)[0][0],
            sgd_losses_at(LAW, 1e6 / (4 * width), width, np.inf, rate * shift, 4.0)[0][0],
        ]
        assert min(moved) > loss * (1 - 1e-6)


def test_smaller_batches_never_cost_compute_and_noise_is_what_they_pay():
    plan = sgd_frontier(LAW, [1e6], batch_size=[1, 16, 256])
    assert np.all(np.diff(plan.test_loss[0]) > 0)
    assert np.all(np.diff(plan.sgd_noise[0] / plan.test_loss[0]) < 0)
    # Gradient flow with a time of compute / width knows no noise and no largest rate.
    flow = compute_optimal_frontier(LAW, [1e6])
    assert flow.test_loss[0] < plan.test_loss[0, 0]


def test_a_rate_that_is_kept():
    kept = sgd_frontier(LAW, [1e6], batch_size=[4.0], learning_rate=0.1)
    free = sgd_frontier(LAW, [1e6], batch_size=[4.0])
    assert kept.learning_rate[0, 0] == 0.1
    assert kept.test_loss[0, 0] > free.test_loss[0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compute": [-1.0]}, r"sgd_frontier\(compute\): expected finite numbers > 0"),
        ({"compute": [1e6], "batch_size": [0.0]}, r"sgd_frontier\(batch_size\): expected finite numbers > 0"),
        ({"compute": [10.0]}, r"expected at least 12 for width 1, batches of 1 and 12 steps, got 10"),
        ({"compute": [1e6], "learning_rate": -1.0}, r"learning_rate\): expected a number > 0"),
    ],
)
def test_bad_plans(options, message):
    with pytest.raises(InvalidInput, match=message):
        sgd_frontier(LAW, **options)


@pytest.mark.long  # to compile, here and below
@pytest.mark.parametrize("replacement", [True, False])
def test_derivatives_equal_finite_differences(replacement):
    times = np.array([3, 11, 12, 40, 1000])

    def total(theta):
        width, samples, noise, rate, batch = theta
        test, train = losses(BASE, times, width, samples, noise, StochasticDescent(rate, batch, replacement))
        return test[0].sum() + 0.3 * train[0].sum()

    theta = [14.0, 22.0, 0.16, 0.3, 2.0]
    with jax.enable_x64(True):
        slopes = [float(slope) for slope in jax.grad(total)(theta)]
        for i, slope in enumerate(slopes):
            step = 1e-4 * theta[i]
            up, down = ([*theta[:i], theta[i] + d, *theta[i + 1 :]] for d in (step, -step))
            # Central differences: the third derivative leaves about 1e-8.
            assert slope == pytest.approx(float(total(up) - total(down)) / (2 * step), rel=1e-6)


@pytest.mark.long
def test_derivatives_in_the_exponents():
    nodes = index_nodes(10_000, 1.5)

    def loss(capacity):
        measure = power_law_measure(nodes, capacity, 0.6)
        return losses(measure, [50.0], 64.0, 128.0, 0.0, StochasticDescent(0.2, 4.0))[0][0, 0]

    with jax.enable_x64(True):
        slope = float(jax.grad(loss)(1.5))
        assert slope == pytest.approx(float(loss(1.5 + 1e-4) - loss(1.5 - 1e-4)) / 2e-4, rel=1e-6)


def test_the_pure_core_equals_the_fast_road():
    times = np.array([0, 1, 5, 12, 100, 10_000])
    with jax.enable_x64(True):
        test, train = losses(BASE, times, 22.0, 14.0, 0.16, StochasticDescent(0.3, 4.0))
    curves = linear_curves(BASE, times, 22.0, 14.0, 0.16, StochasticDescent(0.3, 4.0))
    np.testing.assert_allclose(test[0], curves.test[0, 0], rtol=1e-10)
    # Sums round relative to the loss before training.
    np.testing.assert_allclose(train[0], curves.train[0, 0], rtol=1e-10, atol=1e-14)
    with jax.enable_x64(True):
        beyond = losses(BASE, [0, 5], 22.0, 14.0, 0.16, StochasticDescent(0.5, 1.0))
    np.testing.assert_array_equal(np.isinf(beyond[0][0]), [False, True])


def test_what_is_not_differentiated_is_refused():
    with jax.enable_x64(True):
        for dynamics in (StochasticDescent(np.array([0.3, 0.2]), 2), StochasticDescent(0.3, 2, exact_gaussian=True)):
            with pytest.raises(InvalidInput, match="expected a constant rate without exact_gaussian"):
                losses(BASE, [5.0], 14.0, np.inf, 0.0, dynamics)
        with pytest.raises(InvalidInput, match="expected finite steps, got inf"):
            losses(BASE, [np.inf], 14.0, 22.0, 0.0, StochasticDescent(0.3, 2))
