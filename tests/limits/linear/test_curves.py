"""Learning curves of gradient flow: reference numbers, exact identities, limits, and two roads to each number."""

import jax
import numpy as np
import pytest
import scipy.integrate

from foretrain.errors import InvalidInput
from foretrain.limits.linear import (
    Flow,
    index_nodes,
    linear_curves,
    one_point,
    power_law_measure,
    ridge_losses,
    spectral_measure,
    two_point,
)

MODES = np.arange(1.0, 41.0)
LAM, POWER = MODES**-1.2, MODES**-0.4
BASE = spectral_measure(LAM, POWER, exact=40)
TIMES = np.array([0.5, 2.0, 8.0, 40.0, 300.0, 1e5])
SIZES = [(14.0, 22.0), (22.0, 14.0), (np.inf, 22.0), (14.0, np.inf), (200.0, 90.0), (60.0, 60.0)]
# 12 points of the hyperbola leave 1e-11; the rest is rounding.
CONTOUR = 5e-11


def curve(measure, times, width, samples, noise=0.0, **options):
    result = linear_curves(measure, times, width, samples, noise, **options)
    assert np.all(result.converged)
    return result


def test_reference_numbers():
    # Printed to five decimals by the derivation that this module implements, checked there by simulation.
    result = curve(BASE, TIMES, 14, 22, 0.16)
    np.testing.assert_allclose(result.test[0, 0], [1.37329, 0.92291, 0.78793, 0.90942, 1.34493, 1.51599], atol=6e-6)
    np.testing.assert_allclose(result.train[0, 0], [1.33988, 0.73918, 0.43572, 0.27914, 0.22406, 0.22162], atol=6e-6)
    assert np.max(result.test_error / result.test) < 1e-9


def test_reference_overlaps():
    result = curve(BASE, [10.0], 14, 22, 0.16, shares=("both", "data", "features", "none"))
    np.testing.assert_allclose(result.test[0, :, 0], [0.78882, 0.46672, 0.55969, 0.37458], atol=6e-6)
    assert np.all(np.isfinite(result.train[0, :2]))
    assert np.all(np.isnan(result.train[0, 2:]))


def test_infinite_everything_is_exponential_decay():
    times = np.array([0.01, 1.0, 10.0, 100.0])
    exact = np.exp(-2.0 * np.outer(times, LAM)) @ (LAM * POWER)
    result = curve(BASE, times, np.inf, np.inf, 0.3)
    np.testing.assert_allclose(result.test[0, 0], exact, rtol=CONTOUR)
    np.testing.assert_allclose(result.train[0, 0], exact + 0.3, rtol=CONTOUR)


def test_time_zero_is_exact_and_order_is_kept():
    result = curve(BASE, [8.0, 0.0, np.inf, 0.5], 14, 22, 0.16)
    assert result.test[0, 0, 1] == pytest.approx(np.sum(LAM * POWER), rel=1e-15)
    assert result.train[0, 0, 1] == pytest.approx(np.sum(LAM * POWER) + 0.16, rel=1e-15)
    np.testing.assert_allclose(result.test[0, 0, [3, 0]], [1.37329342, 0.78792775], atol=2e-8)


@pytest.mark.parametrize(("width", "samples"), SIZES)
def test_train_loss_is_a_one_point_function_at_twice_the_time(width, samples):
    # Another road: one resolvent instead of two, on a contour of its own (a parabola, trapezoidal rule).
    noise = 0.16
    for time in (0.7, 30.0):
        u = (np.arange(-40, 41) + 0.0) * 0.12
        mu = 6.0 / (2.0 * time)
        z = mu * (1j * u + 1.0) ** 2
        w = 0.12 * mu * 2.0 * (1j * u + 1.0) * 1j / (2j * np.pi) * np.exp(2.0 * time * z)
        point = one_point(BASE, z, width, samples)
        g = point.R1 * (point.resolvent(LAM) @ (LAM * POWER)) + noise * point.R1 / z
        result = curve(BASE, [time], width, samples, noise)
        assert result.train[0, 0, 0] == pytest.approx(float(np.sum(w * g).real), rel=1e-9)


@pytest.mark.parametrize(("width", "samples"), SIZES)
def test_double_integral_with_public_functions(width, samples):
    # The same double integral with another contour and nothing of the engine's arithmetic but kappa.
    time, noise = 5.0, 0.16
    u = np.arange(-24, 25) * 0.2
    mu = 6.0 / (2.0 * time)
    z = mu * (1j * u + 1.0) ** 2
    w = 0.2 * mu * 2.0 * (1j * u + 1.0) / (2.0 * np.pi) * np.exp(time * z)
    pair = two_point(BASE, z[:, None], z[None, :], width, samples, noise)
    result = curve(BASE, [time], width, samples, noise)
    # The parabola's own error at this spacing is below 1e-7 (checked against half the spacing).
    assert result.test[0, 0, 0] == pytest.approx(float((w @ pair.C0 @ w).real), rel=1e-6)
    assert result.train[0, 0, 0] == pytest.approx(float((w @ pair.C1 @ w).real), rel=1e-6)


@pytest.mark.parametrize(("width", "samples"), [s for s in SIZES if s[0] != s[1]])
def test_late_times_reach_the_static_limit(width, samples):
    with jax.enable_x64(True):
        end = np.asarray(ridge_losses(BASE, 0.0, width, samples, 0.16))[:, 0]
        nearly = np.asarray(ridge_losses(BASE, 1e-12, width, samples, 0.16))[:, 0]
    result = curve(BASE, [1e15, np.inf], width, samples, 0.16)
    np.testing.assert_allclose(result.test[0, 0], end[0], rtol=1e-9)
    np.testing.assert_allclose(result.train[0, 0], end[1], rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(nearly, end, rtol=1e-8, atol=1e-11)


def test_early_width_correction():
    # N [L(t; N) - L(t; inf)] -> sum_k lambda_k^2 w_k^2 sum_j lambda_j I_kj(2t), a closed form.
    t, n = 3.0, 1e6
    s = 2.0 * t
    lk, lj = LAM[:, None], LAM[None, :]
    gap = np.where(lk == lj, 1.0, lj - lk)
    kernel = (np.exp(-lj * s) - np.exp(-lk * s) + gap * s * np.exp(-lk * s)) / gap**2
    kernel = np.where(lk == lj, 0.5 * s * s * np.exp(-lk * s), kernel)
    first = np.sum(LAM**2 * POWER * (kernel @ LAM))
    wide = curve(BASE, [t], [n, np.inf], np.inf).test[:, 0, 0]
    # The next order is relatively of order 1 / N, rounding of order 1e-11 N.
    assert n * (wide[0] - wide[1]) == pytest.approx(first, rel=5e-5)
    assert first == pytest.approx(3.95933, abs=5e-5)


def test_replica_refinement():
    # r copies of every mode with w^2 / r, r N features, r P samples: exactly the same curve.
    for r in (2.0, 7.5):
        copies = spectral_measure(LAM, POWER / r, np.full(40, r), exact=40)
        a, b = curve(BASE, TIMES, 14, 22, 0.16), curve(copies, TIMES, 14 * r, 22 * r, 0.16)
        np.testing.assert_allclose(b.test, a.test, rtol=CONTOUR)
        np.testing.assert_allclose(b.train, a.train, rtol=CONTOUR)


def test_symmetry_of_the_bias_and_scaling_of_time():
    both = ("both", "none")
    a, b = (curve(BASE, TIMES, *sizes, shares=both).test[0] for sizes in ((14, 22), (22, 14)))
    np.testing.assert_allclose(a[1], b[1], rtol=CONTOUR)
    assert np.max(np.abs(a[0] / b[0] - 1.0)) > 0.01
    scaled = spectral_measure(3.0 * LAM, POWER / 3.0, exact=40)
    np.testing.assert_allclose(
        curve(scaled, TIMES / 3.0, 14, 22, 0.16).test[0, 0], curve(BASE, TIMES, 14, 22, 0.16).test[0, 0], rtol=CONTOUR
    )


def test_linear_in_noise_and_in_power():
    noises = np.array([0.0, 0.4, 1.0])
    test = curve(BASE, TIMES, 14, 22, noises).test[:, 0]
    np.testing.assert_allclose(test[1], 0.6 * test[0] + 0.4 * test[2], rtol=CONTOUR)
    one = spectral_measure(LAM, np.where(MODES <= 3, POWER, 0.0), exact=40)
    two = spectral_measure(LAM, np.where(MODES > 3, POWER, 0.0), exact=40)
    parts = curve(one, TIMES, 14, 22).test + curve(two, TIMES, 14, 22).test
    np.testing.assert_allclose(parts, curve(BASE, TIMES, 14, 22).test, rtol=CONTOUR)


@pytest.mark.parametrize("aspect", [0.5, 2.0])
def test_isotropic_spectrum_is_marchenko_pastur(aspect):
    # N infinite, lambda = 1: the test loss integrates over the Marchenko-Pastur density of the sample covariance.
    modes = 100.0
    samples, noise = modes / aspect, 0.3
    measure = spectral_measure([1.0], [1.0 / modes], [modes])
    low, high = (1.0 - np.sqrt(aspect)) ** 2, (1.0 + np.sqrt(aspect)) ** 2

    def integral(f):
        # x = middle - half cos(theta) takes away the square roots at both edges.
        middle, half = 0.5 * (low + high), 0.5 * (high - low)

        def integrand(theta):
            x = middle - half * np.cos(theta)
            return f(x) * (half * np.sin(theta)) ** 2 / (2.0 * np.pi * aspect * x)

        return scipy.integrate.quad(integrand, 0.0, np.pi, epsabs=1e-13, epsrel=1e-13, limit=200)[0]

    for time in (0.3, 4.0, 50.0):
        null = max(0.0, 1.0 - 1.0 / aspect)
        signal = integral(lambda x, t=time: np.exp(-2.0 * x * t)) + null
        variance = aspect * integral(lambda x, t=time: np.expm1(-x * t) ** 2 / x)
        result = curve(measure, [time], np.inf, samples, noise)
        assert result.test[0, 0, 0] == pytest.approx(signal + noise * variance, rel=1e-10)


def test_early_gap_and_bias_are_ordered():
    result = curve(BASE, TIMES, 14, 22, 0.16, shares=("both", "data", "features", "none")).test[0]
    both, data, features, none = result
    assert np.all(both >= data - 1e-12)
    assert np.all(both >= features - 1e-12)
    assert np.all(data >= none - 1e-12)
    assert np.all(features >= none - 1e-12)
    gaps = [p * float((c := curve(BASE, [3.0], np.inf, p)).test[0, 0, 0] - c.train[0, 0, 0]) for p in (1000.0, 4000.0)]
    # The gap at early times falls like 1 / P up to relative corrections of order 1 / P.
    assert gaps[1] == pytest.approx(gaps[0], rel=0.05)
    assert gaps[0] > 0


def test_wider_is_better_and_beats_an_ensemble_with_infinite_data():
    measure = spectral_measure(np.arange(1.0, 20001) ** -1.25, np.arange(1.0, 20001) ** -0.25)
    times = [3.0, 30.0, 1e3]
    n50, n100 = curve(measure, times, [50.0, 100.0], np.inf, shares=("both", "data")).test
    pair = 0.5 * n50[0] + 0.5 * n50[1]
    assert np.all(n100[0] < n50[0])
    assert np.all(pair > n100[0])


def test_ensemble_numbers():
    # 20 000 modes, a = 1.5, b = 1.25: two models of one width against one of twice the width; printed to four digits.
    measure = spectral_measure(np.arange(1.0, 20001) ** -1.25, np.arange(1.0, 20001) ** -0.25)
    n50, n100 = curve(measure, [3.0, 30.0, 1e3], [50.0, 100.0], np.inf, shares=("both", "data")).test
    np.testing.assert_allclose(0.5 * n50[0] + 0.5 * n50[1], [0.9452, 0.5730, 0.5372], atol=6e-5)
    np.testing.assert_allclose(n100[0], [0.9228, 0.5202, 0.4666], atol=6e-5)
    n500, n1000 = curve(measure, [1e6], [500.0, 1000.0], np.inf, shares=("both", "data")).test[..., 0]
    np.testing.assert_allclose([0.5 * n500[0] + 0.5 * n500[1], n1000[0]], [0.1509, 0.1256], atol=6e-5)


@pytest.mark.parametrize("seed", range(4))
def test_error_estimate_is_honest(seed):
    # Random spectra and sizes; the truth is a double integral with twice the points per contour.
    rng = np.random.default_rng(seed)
    modes = int(rng.integers(3, 60))
    lam = np.sort(rng.lognormal(0.0, 2.0, modes))[::-1]
    measure = spectral_measure(lam, rng.exponential(size=modes), rng.uniform(0.5, 4.0, modes), exact=modes)
    width, samples, noise = *np.exp(rng.uniform(1.0, 6.0, 2)), float(rng.uniform(0.0, 1.0))
    times = np.geomspace(0.1, 1e3, 5) / lam[0]
    result = curve(measure, times, width, samples, noise)
    zeta_angle = 1j * (np.arange(16) + 0.5) * 1.08179214 / 16 - 1.17210423
    for i, time in enumerate(times):
        z = 4.49207528 * 16 / time * (1.0 + np.sin(zeta_angle))
        w = 4.49207528 * 1.08179214 / time / (2.0 * np.pi) * np.cos(zeta_angle) * np.exp(z * time)
        z, w = np.concatenate([z, np.conj(z)]), np.concatenate([w, np.conj(w)])
        pair = two_point(measure, z[:, None], z[None, :], width, samples, noise)
        for value, error, exact in (
            (result.test, result.test_error, (w @ pair.C0 @ w).real),
            (result.train, result.train_error, (w @ pair.C1 @ w).real),
        ):
            scale = np.sum(np.abs(w)) * np.sum(measure.signal) * 1e-13
            assert abs(value[0, 0, i] - exact) <= error[0, 0, i] + scale
            assert error[0, 0, i] <= 1e-8 * np.sum(measure.signal) + 1e-8 * noise


def test_late_train_loss_below_rounding_is_clipped_with_its_error():
    result = curve(BASE, np.geomspace(1.0, 1e7, 30), np.inf, 400.0)
    assert np.all(result.train >= 0)
    late = result.train[0, 0, -1]
    assert late <= 1e-12
    assert result.train_error[0, 0, -1] >= late


def test_cost_does_not_depend_on_modes_nor_horizon():
    # 1e9 modes and infinitely many give curves; with N finite they agree once the cut-off is far below kappa.
    with jax.enable_x64(True):
        many, infinite = (
            power_law_measure(index_nodes(m, 1.5, smallest=1e-8), 1.5, 2.0 / 3.0) for m in (10**9, np.inf)
        )
    times = np.geomspace(1.0, 1e6, 7)
    a, b = (curve(m, times, 100, 200, 0.1).test for m in (many, infinite))
    np.testing.assert_allclose(a, b, rtol=2e-4)


@pytest.mark.parametrize(
    ("width", "samples", "noise"), [(1.0, 1.0, 0.5), (0.7, 3.3, 0.0), (1e12, 1e12, 0.1), (40.0, 40.0, 0.2)]
)
def test_odd_sizes_work(width, samples, noise):
    result = curve(BASE, [0.1, 10.0, 1e4], width, samples, noise)
    assert np.all(np.isfinite(result.test))
    assert np.all(result.test_error < 1e-6)


def test_nothing_to_learn():
    silent = spectral_measure([1.0, 0.5], [0.0, 0.0])
    result = curve(silent, [0.0, 1.0, np.inf], 10, 20)
    np.testing.assert_array_equal(result.test, 0.0)
    noisy = curve(silent, [1.0], 10, 20, 0.5)
    assert 0 < noisy.test[0, 0, 0] < 0.5
    zero = curve(spectral_measure([0.0], [1.0]), [0.0, 1.0, np.inf], 10, 20)
    np.testing.assert_array_equal(zero.test, 0.0)


def test_batches_equal_single_problems():
    widths = np.array([5.0, 14.0, np.inf, 100.0, 33.0])
    together = curve(BASE, TIMES, widths, 22.0, 0.16)
    for i, width in enumerate(widths):
        alone = curve(BASE, TIMES, width, 22.0, 0.16, dynamics=Flow())
        np.testing.assert_allclose(together.test[i], alone.test[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([-1.0], 14, 22), r"linear_curves\(times\).*-1.0"),
        (([1.0], 0, 22), r"linear_curves\(width\).*> 0.*0.0"),
        (([1.0], 14, -3), r"linear_curves\(samples\).*-3.0"),
        (([1.0], 14, 22, -0.1), r"linear_curves\(noise\).*-0.1"),
    ],
)
def test_says_what_is_wrong(arguments, words):
    with pytest.raises(InvalidInput, match=words):
        linear_curves(BASE, *arguments)
