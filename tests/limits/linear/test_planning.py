"""Optimal stopping, compute-optimal frontiers, ensembles, and the exponents of power laws."""

import jax
import numpy as np
import pytest

from foretrain.errors import InvalidInput
from foretrain.limits.linear import (
    Descent,
    HeavyBall,
    compute_optimal_frontier,
    ensemble_loss,
    flow_losses_at,
    index_nodes,
    linear_curves,
    optimal_stopping,
    power_law_measure,
    ridge_losses,
    spectral_measure,
)

MODES = np.arange(1.0, 41.0)
BASE = spectral_measure(MODES**-1.2, MODES**-0.4, exact=40)


def power_law(a, b, modes=np.inf, smallest=1e-9):
    """In the letters of arXiv 2402.01092: lambda = k^-b, lambda w^2 = k^-a."""
    with jax.enable_x64(True):
        measure = power_law_measure(index_nodes(modes, b, smallest=smallest), b, (a - 1.0) / b)
        return jax.tree.map(np.asarray, measure)


@pytest.mark.parametrize("arguments", [(14.0, 22.0, 0.16), (np.inf, 22.0, 0.5), (14.0, 22.0, 0.0)])
def test_stopping_time_is_stationary(arguments):
    best = optimal_stopping(BASE, *arguments)
    x = np.log(best.time) + np.array([-1e-3, 0.0, 1e-3])
    around = linear_curves(BASE, np.exp(x), *arguments).test[0, 0]
    assert around[1] == pytest.approx(best.test_loss, rel=1e-10)
    # A parabola through the three points has its vertex within 1e-5 of the middle one.
    vertex = 0.5e-3 * (around[0] - around[2]) / (around[0] - 2 * around[1] + around[2])
    assert abs(vertex) < 1e-5
    coarse = linear_curves(BASE, np.geomspace(1e-3, 1e6, 400), *arguments).test[0, 0]
    assert best.test_loss <= coarse.min() * (1 + 1e-10)
    assert best.test_loss < best.final_loss


def test_stopping_in_steps_is_the_best_integer():
    for dynamics in (Descent(0.2), Descent(0.8), HeavyBall(0.2, 0.6)):
        best = optimal_stopping(BASE, 14.0, 22.0, 0.16, dynamics, last=1e6)
        every = linear_curves(BASE, np.arange(0, 200), 14.0, 22.0, 0.16, dynamics).test[0, 0]
        assert best.time == np.argmin(every)
        assert best.test_loss == pytest.approx(every.min(), rel=1e-12)


def test_training_to_the_end_and_not_at_all():
    assert optimal_stopping(BASE, 14.0, np.inf).at_end
    assert optimal_stopping(BASE, np.inf, np.inf, 0.3).at_end
    silent = spectral_measure([1.0, 0.5], [0.0, 0.0])
    assert optimal_stopping(silent, 10.0, 20.0, 1.0).time == 0.0


def test_optimal_stopping_restores_wider_is_better():
    losses = [optimal_stopping(BASE, n, 22.0, 0.5).test_loss for n in (7.0, 14.0, 28.0, 56.0, np.inf)]
    assert np.all(np.diff(losses) < 0)


@pytest.mark.parametrize(
    ("a", "b", "budgets", "loss", "width"),
    [
        # Slopes over the range, from the derivation's own search; they drift around -0.4, 0.4 and -0.222, 0.444.
        (2.0, 1.5, [1e5, 1e9], [-0.394, -0.406], [0.407, 0.392]),
    ],
)
def test_compute_optimal_exponents(a, b, budgets, loss, width):
    frontier = compute_optimal_frontier(power_law(a, b, 3e5), budgets)
    np.testing.assert_allclose(frontier.loss_exponent, loss, atol=3e-3)
    np.testing.assert_allclose(frontier.width_exponent, width, atol=3e-3)
    np.testing.assert_allclose(frontier.width * frontier.time, budgets, rtol=1e-12)
    assert np.all(frontier.interior)
    # Better than its neighbours, and what linear_curves says at that point.
    for i in range(len(budgets)):
        n, t = frontier.width[i], frontier.time[i]
        near = flow_losses_at(
            power_law(a, b, 3e5), t / np.array([0.99, 1.0, 1.01]), n * np.array([0.99, 1.0, 1.01]), np.inf
        )
        assert near[1] <= near.min() * (1 + 1e-12)
        assert frontier.test_loss[i] == pytest.approx(near[1], rel=1e-9)


def test_compute_optimal_with_an_infinite_power_law_approaches_the_exponents():
    # (a - 1) / (b + 1) = 0.4 and 1 / (1 + b) = 0.4, without the drift of a cut-off.
    frontier = compute_optimal_frontier(power_law(2.0, 1.5), [1e9])
    assert frontier.loss_exponent[0] == pytest.approx(-0.4, abs=4e-3)
    assert frontier.width_exponent[0] == pytest.approx(0.4, abs=4e-3)


def test_frontier_says_what_is_wrong():
    with pytest.raises(InvalidInput, match=r"compute_optimal_frontier\(compute\): expected finite budgets > 0"):
        compute_optimal_frontier(BASE, [0.0])
    with pytest.raises(InvalidInput, match="give `widths`"):
        compute_optimal_frontier(BASE, [0.5])


@pytest.mark.parametrize(("a", "b", "exponent"), [(1.5, 1.25, -0.4), (2.0, 1.5, -2.0 / 3.0), (3.5, 1.25, -2.0)])
def test_time_bottleneck(a, b, exponent):
    # The correction to t^-((a-1)/b) is of relative order t^-1/b: 1e-4 here.
    loss = linear_curves(power_law(a, b, smallest=1e-12), [1e5, 2e5], np.inf, np.inf).test[0, 0]
    assert np.log2(loss[1] / loss[0]) == pytest.approx(exponent, abs=2e-3)


def test_data_and_model_bottlenecks():
    """Local slopes between 1000 and 3000; for the loss the model exponent is min(a - 1, b), not min(a - 1, 2 b)."""

    def slope(a, b, **sizes):
        with jax.enable_x64(True):
            loss = [
                float(ridge_losses(power_law(a, b), 0.0, *pair)[0, 0])
                for pair in zip(sizes["width"], sizes["samples"], strict=True)
            ]
        return np.log(loss[1] / loss[0]) / np.log(3.0)

    inf, sizes = [np.inf, np.inf], [1000.0, 3000.0]
    assert slope(1.5, 1.25, width=inf, samples=sizes) == pytest.approx(-0.5, abs=0.01)
    assert slope(2.0, 1.5, width=inf, samples=sizes) == pytest.approx(-1.0, abs=0.01)
    assert slope(4.5, 1.25, width=inf, samples=sizes) == pytest.approx(-2.5, abs=0.1)
    assert slope(1.5, 1.25, width=sizes, samples=inf) == pytest.approx(-0.5, abs=0.01)
    assert slope(2.0, 1.5, width=sizes, samples=inf) == pytest.approx(-1.0, abs=0.03)
    assert slope(3.5, 1.25, width=sizes, samples=inf) == pytest.approx(-1.25, abs=0.06)
    assert slope(4.5, 1.25, width=sizes, samples=inf) == pytest.approx(-1.25, abs=0.06)


def test_model_bottleneck_values():
    # a = 3.5, b = 1.25, 3000 modes: theory values that ten direct simulations agreed with.
    k = np.arange(1.0, 3001)
    measure = spectral_measure(k**-1.25, k**-2.25)
    with jax.enable_x64(True):
        found = [float(ridge_losses(measure, 0.0, n, np.inf)[0, 0]) for n in (20.0, 40.0, 80.0, 160.0)]
    np.testing.assert_allclose(found, [0.12886, 0.05692, 0.02335, 0.00903], atol=6e-6)


def test_ensemble_loss_interpolates_the_shares():
    both, data, features, none = 0.9, 0.6, 0.5, 0.3
    assert ensemble_loss(both, data) == both
    assert ensemble_loss(both, data, models=np.inf) == pytest.approx(data)
    assert ensemble_loss(both, data, features, none, models=np.inf, data_sets=np.inf) == pytest.approx(none)
    assert ensemble_loss(both, data, features, none, data_sets=np.inf) == pytest.approx(features)
    assert ensemble_loss(both, data, features, none, models=2, data_sets=3) == pytest.approx(
        (both + data + 2 * features + 2 * none) / 6
    )
    with pytest.raises(InvalidInput, match="needed when data_sets > 1"):
        ensemble_loss(both, data, data_sets=2)
    with pytest.raises(InvalidInput, match="expected numbers >= 1"):
        ensemble_loss(both, data, models=0)
