"""Gradient flow: identities, the reduction against every weight, direct integration, and the published exponents."""

import dataclasses

import numpy as np
import pytest
import scipy.integrate

from foretrain.limits.adaptive_linear._clock import STENCIL, clock, clock_grid, step_weights
from foretrain.limits.adaptive_linear._contour import contour
from foretrain.limits.adaptive_linear._curves import COARSE, FINE, _paths, flow_curves, longest_clock
from foretrain.limits.adaptive_linear._sample import sample
from foretrain.limits.adaptive_linear._scene import Case
from foretrain.limits.linear import linear_curves, measure_of, ridge_losses
from foretrain.tasks import PowerLawSpectrum, Spectrum

INF = float("inf")
LAM = np.arange(1.0, 41.0) ** -1.2
POWER = np.arange(1.0, 41.0) ** -0.4
LIST = Spectrum(LAM, POWER)
TIMES = np.array([0.0, 0.1, 1.0, 10.0, 100.0])
# The clock's steps of 5 % and polynomials of degree 4: measured by halving in test_halving.
STEP = 1e-6


def law(capacity=1.5, source=0.5, modes=INF):
    return PowerLawSpectrum(capacity, source, modes)


def case(spectrum=LIST, width=INF, samples=INF, noise=0.0, richness=1.0):
    return Case(spectrum, width, samples, noise, richness)


@pytest.mark.parametrize("inner", [1e-2, 0.5e-6, 1e-12])
def test_contour_integrates_filters_of_any_length(inner):
    around = contour(1.0, inner)
    poles = np.geomspace(inner, 1.0, 13)
    for tau in (0.0, 1.0, 0.03 / inner, 0.5 / inner):
        values = np.exp(-around.x * tau) / (around.x - poles[:, None])
        np.testing.assert_allclose(around.integrate(values), np.exp(-poles * tau), rtol=1e-9, atol=1e-10)


def test_steps_are_exact_for_polynomials():
    ticks = clock(clock_grid(0.3, 100.0, 0.1))
    x = np.array([1e-3, 0.3 + 0.3j, 40.0 - 40.0j])
    decay, weights = step_weights(ticks, x)
    for power in range(STENCIL):
        n = 40
        tau = ticks.tau[n + 1 - np.arange(STENCIL)]
        known, weight = np.polynomial.legendre.leggauss(60)
        s = ticks.tau[n] + 0.5 * ticks.widths[n] * (1.0 + known)
        exact = [0.5 * ticks.widths[n] * np.sum(weight * np.exp(-y * (ticks.tau[n + 1] - s)) * s**power) for y in x]
        np.testing.assert_allclose(weights[n].T @ tau**power, exact, rtol=1e-10)
    np.testing.assert_allclose(decay[3], np.exp(-x * ticks.widths[3]))


def test_lazy_limit_is_exponential():
    found = flow_curves([case(richness=0.0)], TIMES, LAM[[0, 5, 30]])
    np.testing.assert_allclose(found.test[0], (POWER * LAM) @ np.exp(-2.0 * np.outer(LAM, TIMES)), rtol=STEP)
    np.testing.assert_allclose(found.modes[0], np.exp(-np.outer(LAM[[0, 5, 30]], TIMES)), rtol=STEP, atol=STEP)
    np.testing.assert_allclose(found.norm[0], POWER @ (1.0 - np.exp(-np.outer(LAM, TIMES))) ** 2, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(("width", "samples"), [(14.0, INF), (14.0, 22.0), (22.0, 14.0), (INF, 22.0)])
def test_lazy_limit_is_the_linear_limit(width, samples):
    found = flow_curves([case(width=width, samples=samples, noise=0.2, richness=0.0)], TIMES)
    exact = linear_curves(measure_of(LIST), TIMES, width, samples, 0.2 if samples < INF else 0.0)
    np.testing.assert_allclose(found.test, exact.test[0], rtol=STEP)
    np.testing.assert_allclose(found.train, exact.train[0], rtol=STEP, atol=1e-8)


def test_infinite_width_against_direct_integration(reduced):
    theta = reduced(np.eye(40), lambda beta: LAM * (np.sqrt(POWER) - beta), 3.0, TIMES[1:], 0.02)
    found = flow_curves([case(richness=3.0)], TIMES[1:])
    np.testing.assert_allclose(found.test[0], ((np.sqrt(POWER) - theta) ** 2) @ LAM, rtol=STEP, atol=1e-12)
    # |beta|^2 = c (1 + gamma c).
    c = found.norm[0]
    np.testing.assert_allclose(c * (1.0 + 3.0 * c), np.sum(theta**2, 1), rtol=STEP)
    np.testing.assert_allclose(found.gain[0], 1.0 + 3.0 * c)


def test_reduction_is_the_model_with_every_weight(network, reduced):
    lam, target = np.arange(1.0, 61.0) ** -1.2, np.arange(1.0, 61.0) ** -0.3
    errors = []
    for rate in (0.01, 0.005):
        net = network(lam, target, 12, 2.0, 0)
        for _ in range(round(3.0 / rate)):
            net.push(net.population(), rate)
        start = net.a0 / np.sqrt(12)
        theta = reduced(start, lambda beta, net=net: net.lam * (net.target - beta), 2.0, [3.0], 0.01)[0]
        loss = lam @ (target - start.T @ theta) ** 2
        grown = np.linalg.lstsq(net.a0.T, net.a.T, rcond=None)[0].T
        conserved = grown @ grown.T - 2.0 / 12 * np.outer(net.w, net.w) - np.eye(12)
        errors.append([abs(net.loss / loss - 1.0), np.abs(conserved).max()])
        squared = theta @ theta
        assert net.norm * (1.0 + 2.0 * net.norm) == pytest.approx(squared, rel=20 * rate)
    # Explicit steps violate both at first order.
    np.testing.assert_allclose(np.divide(*errors), 2.0, rtol=0.1)
    assert max(errors[1]) < 0.02


def test_units_of_target_and_of_eigenvalues():
    small, grown = case(width=20.0, richness=2.0), case(Spectrum(LAM, 9.0 * POWER), width=20.0, richness=2.0 / 9.0)
    first, second = flow_curves([small], TIMES), flow_curves([grown], TIMES)
    np.testing.assert_allclose(second.test, 9.0 * first.test, rtol=STEP)
    np.testing.assert_allclose(second.norm, 9.0 * first.norm, rtol=STEP, atol=1e-12)
    fast = flow_curves([case(Spectrum(4.0 * LAM, POWER), width=20.0, richness=2.0)], TIMES / 4.0)
    np.testing.assert_allclose(fast.test, 4.0 * first.test, rtol=STEP)


@pytest.mark.parametrize("width", [10.0, INF])
@pytest.mark.parametrize("richness", [0.0, 5.0])
def test_first_slope_knows_neither_width_nor_richness(width, richness):
    h = 1e-4
    loss = flow_curves([case(width=width, richness=richness)], np.array([0.0, h, 2.0 * h])).test[0]
    slope = (4.0 * loss[1] - loss[2] - 3.0 * loss[0]) / (2.0 * h)
    assert slope == pytest.approx(-2.0 * np.sum(LAM**2 * POWER), rel=1e-3)


@pytest.mark.parametrize(("width", "samples"), [(10.0, INF), (30.0, 15.0), (15.0, 30.0)])
def test_end_of_training_is_the_same_for_every_richness(width, samples):
    import jax

    late = np.array([1e7, INF])
    found = flow_curves([case(width=width, samples=samples, noise=0.1, richness=r) for r in (0.0, 1.0, 10.0)], late)
    with jax.enable_x64(True):
        noise = 0.1 if samples < INF else 0.0
        exact = np.asarray(ridge_losses(measure_of(LIST), 0.0, width, samples, noise))[:, 0]
    np.testing.assert_allclose(found.test, exact[0], rtol=1e-6)
    np.testing.assert_allclose(found.train, exact[1], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.norm[:, 0], found.norm[:, 1], rtol=1e-5)


def test_large_sizes_reach_their_limits():
    near = flow_curves([case(width=1e7), case(samples=1e7), case(width=1e7, samples=1e7)], TIMES)
    limit = flow_curves([case()], TIMES)
    np.testing.assert_allclose(near.test, np.repeat(limit.test, 3, 0), rtol=1e-5, atol=1e-6)


def test_floor_of_the_width():
    spectrum = law(1.5, 1.5)
    loss = flow_curves([case(spectrum, width=n) for n in (1e5, 2e5)], np.array([INF])).test[:, 0]
    # alpha min(1, beta), not alpha min(2, beta).
    assert np.log(loss[1] / loss[0]) / np.log(2.0) == pytest.approx(-1.5, abs=0.02)


def test_published_exponents():
    sources = (0.25, 0.5, 0.75, 1.25, 1.6)
    cases = [case(law(1.5, source), richness=richness) for richness in (0.0, 1.0) for source in sources]
    loss = flow_curves(cases, np.array([1e4, 1e6])).test
    slopes = -np.log(loss[:, 1] / loss[:, 0]) / np.log(100.0)
    np.testing.assert_allclose(slopes[:5], sources, atol=1e-3)
    np.testing.assert_allclose(slopes[5:], [0.4, 2 / 3, 6 / 7, 1.25, 1.6], atol=0.01)


def test_infinite_tails_are_not_cut():
    full = flow_curves([case(law(1.5, 0.25))], np.array([1e6])).test[0, 0]
    cut = flow_curves([case(law(1.5, 0.25, 1e5))], np.array([1e6])).test[0, 0]
    assert cut < 0.5 * full


@pytest.mark.parametrize("width", [64.0, INF])
def test_halving(width):
    one = case(law(), width=width, richness=10.0)
    end = longest_clock([one], 1e6)
    times = np.geomspace(0.1, 1e6, 15)
    losses = []
    for step, spacing in (COARSE, FINE, (0.025, 0.15)):
        path = _paths([one], end, (step, spacing), None)[0][0]
        losses.append(sample(path.time, path.test, times))
    first, second = (np.max(np.abs(loss / losses[2] - 1.0)) for loss in losses[:2])
    assert second < 1e-6
    assert first > 8.0 * second
    stated = flow_curves([one], times)
    assert np.all(np.abs(stated.test[0] - losses[2]) <= stated.test_error[0])


def test_a_direct_solver_agrees_at_long_times():
    lam = np.arange(1.0, 301.0) ** -1.3
    target = np.arange(1.0, 301.0) ** -0.2

    def slope(_, beta):
        squared = beta @ beta
        gain = 0.5 + 0.5 * np.sqrt(1.0 + 8.0 * squared)
        g = lam * (target - beta)
        return gain * g + 2.0 / gain * beta * (beta @ g)

    times = np.array([1.0, 30.0, 300.0])
    run = scipy.integrate.solve_ivp(
        slope, (0, 300), np.zeros(300), t_eval=times, rtol=1e-10, atol=1e-12, method="DOP853"
    )
    found = flow_curves([case(Spectrum(lam, target**2), richness=2.0)], times)
    np.testing.assert_allclose(found.test[0], lam @ (target[:, None] - run.y) ** 2, rtol=STEP)


def test_cases_do_not_depend_on_their_company():
    cases = [case(law(1.5, b), width=n, richness=r) for b in (0.4, 1.3) for n in (32.0, INF) for r in (0.0, 4.0)]
    together = flow_curves(cases, TIMES)
    for i, one in enumerate(cases):
        np.testing.assert_allclose(flow_curves([dataclasses.replace(one)], TIMES).test[0], together.test[i], rtol=STEP)


@pytest.mark.long
def test_diffusion_against_the_eigenvectors_of_one_large_draw():
    """(AL.20) and (AL.6) with the eigenpairs of one matrix, every mode eightfold so that it averages itself."""
    fold, heat, richness = 8, 0.005, 1.0
    k = np.arange(1.0, 121.0)
    lam = np.repeat(k**-1.2, fold)
    target = np.repeat(k**-0.26, fold) / np.sqrt(fold)
    matrix = np.random.default_rng(0).standard_normal((60 * fold, len(lam))) / np.sqrt(60 * fold)
    x, vectors = np.linalg.eigh((matrix * lam) @ matrix.T)
    b = vectors.T @ (matrix @ (lam * target))

    def losses(heat):
        def slope(state):
            theta, variance = state
            squared = theta @ theta + variance.sum()
            gain = 0.5 + 0.5 * np.sqrt(1.0 + 4.0 * richness * squared)
            g = b - x * theta
            push = richness / gain * (theta @ g - x @ variance)
            loss = lam @ target**2 - 2.0 * b @ theta + x @ (theta**2 + variance)
            moved = 2.0 * (push - gain * x) * variance + heat * gain**2 * loss * x
            return np.array([gain * g + push * theta, moved]), loss

        state, step, found = np.zeros((2, len(x))), 0.02, []
        for i in range(401):
            k1, loss = slope(state)
            if i in (100, 400):
                found.append(loss)
            k2 = slope(state + 0.5 * step * k1)[0]
            k3 = slope(state + 0.5 * step * k2)[0]
            state = state + step / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + slope(state + step * k3)[0])
        return np.array(found)

    still = losses(0.0)
    added = losses(heat / fold) / still - 1.0
    spectrum = PowerLawSpectrum(1.2, 0.6, 120)
    cases = [Case(spectrum, 60.0, INF, 0.0, richness, 0.1, batch) for batch in (20.0, INF)]
    noisy, smooth = flow_curves(cases, np.array([20.0, 80.0])).test
    # The noise is a share of the loss, which takes most of the scatter with it: 3 % are left between draws.
    np.testing.assert_allclose(noisy / smooth - 1.0, added, rtol=0.05)
