"""SGD in linear models: published numbers, two roads to each number, and exact identities."""

import itertools

import numpy as np
import pytest
import scipy.integrate

from foretrain.errors import InvalidInput
from foretrain.limits import solve
from foretrain.limits.linear import (
    Descent,
    Flow,
    StochasticDescent,
    linear_curves,
    one_point,
    sgd_gain,
    spectral_edge,
    spectral_measure,
)
from foretrain.limits.linear._contour import ellipse, flow_points
from foretrain.problems import OnePassSGD, Problem, RandomFeatures
from foretrain.tasks import Spectrum, SpectrumTask
from foretrain.training import refine, train

INF = np.inf
MODES = np.arange(1.0, 41.0)
LAM, POWER = MODES**-1.2, MODES**-0.4
BASE = spectral_measure(LAM, POWER, exact=40)
TIMES = [0, 1, 2, 3, 5, 8, 11, 12, 13, 20, 40, 80, 160]
SIZES = [(14.0, 22.0), (22.0, 14.0), (INF, 22.0), (14.0, INF), (INF, INF)]
# 12 points of the hyperbola leave 1e-11 of the loss before training; the rest is rounding.
CONTOUR = 5e-11


def curve(times, width, samples, rate, batch, noise=0.16, measure=BASE, **options):
    replacement = options.pop("replacement", True)
    dynamics = StochasticDescent(rate, batch, replacement)
    result = linear_curves(measure, times, width, samples, noise, dynamics, **options)
    assert np.all(result.converged)
    assert not np.any(result.diverged)
    return result


def losses(*problem, **options):
    result = curve(*problem, **options)
    return result.test[0, 0], result.train[0, 0]


def descent(times, width, samples, rate, noise=0.16, measure=BASE):
    result = linear_curves(measure, times, width, samples, noise, Descent(rate))
    return result.test[0, 0], result.train[0, 0]


@pytest.mark.parametrize(
    ("width", "samples", "batch", "train", "test"),
    [
        (22.0, 14.0, 4, [1.1856, 1.1849, 1.1802, 1.1748, 1.1706], [1.0696, 1.0540, 1.0337, 1.0181, 1.0083]),
        (14.0, 22.0, 2, [1.3964, 1.4001, 1.3959, 1.3898, 1.3856], [1.2458, 1.2205, 1.1787, 1.1390, 1.1070]),
        (INF, 22.0, 2, [1.4250, 1.4551, 1.4694, 1.4567, 1.4329], [1.2014, 1.1738, 1.1197, 1.0656, 1.0279]),
    ],
)
def test_ratios_to_gradient_descent(width, samples, batch, train, test):
    # Printed to four decimals by the derivation, and checked there against runs averaged over their batches.
    times = [12, 20, 40, 80, 160]
    noisy, plain = losses(times, width, samples, 0.3, batch), descent(times, width, samples, 0.3)
    np.testing.assert_allclose(noisy[0] / plain[0], test, atol=6e-5)
    np.testing.assert_allclose(noisy[1] / plain[1], train, atol=6e-5)


def small_steps(time, ratio, noise=0.16, width=14.0, samples=22.0):
    """The limit of small rates at fixed rate / batch, by a Laplace transform in rate times steps."""
    p, a = flow_points(np.array([time]), 16)
    point = one_point(BASE, 0.5 * p[0], width, samples)
    z, h = point.z, point.resolvent(LAM)
    phi = point.R1 * (h @ (LAM * POWER)) + noise * point.R1 / z
    kernel, test_kernel = (0.5 * ratio * (np.sum(LAM) - z * point.df1 / r) for r in (1.0, point.R1))
    train = 0.5 * phi / (1.0 - kernel)
    inverse = [2.0 * np.sum(a[0] * p[0] * part).real for part in (test_kernel * train, train)]
    flow = linear_curves(BASE, [time], width, samples, noise, Flow()).test[0, 0, 0]
    return np.array([flow + inverse[0], inverse[1]])


def test_small_steps():
    found = {rate: np.ravel(losses([30.0 / rate], 14.0, 22.0, rate, rate / 0.15)) for rate in (1e-2, 1e-3, 1e-4)}
    np.testing.assert_allclose(found[1e-2], [0.96330, 0.39333], atol=6e-6)
    np.testing.assert_allclose(found[1e-3], [0.96288, 0.39288], atol=6e-6)
    limit = small_steps(30.0, 0.15)
    np.testing.assert_allclose(limit, [0.96283, 0.39283], atol=6e-6)
    # Linear in the rate: what two rates extrapolate to misses the limit by the product of the rates, 1e-7 times O(1).
    np.testing.assert_allclose((10.0 * found[1e-4] - found[1e-3]) / 9.0, limit, rtol=1e-7)


def test_power_law_random_features():
    # alpha = 1, beta = 0.7, 500 features of 5000 inputs, one pass with single samples.
    j = np.arange(1.0, 5001.0)
    test, train = losses([1e2, 1e3, 1e4, 1e5], 500.0, INF, 0.3, 1, 0.0, spectral_measure(j**-2.0, j**-1.4))
    assert [f"{loss:.4e}" for loss in test] == ["5.9611e-03", "5.8663e-04", "1.2324e-04", "5.0140e-05"]
    np.testing.assert_allclose(train, test, rtol=1e-9)


def test_ten_thousand_modes_in_one_pass():
    k = np.arange(1.0, 10_001.0)
    measure = spectral_measure(k**-1.25, k**-0.25)
    # Both numbers from 19 999 steps of the recursions for each mode, without and with a mode's own fluctuations; compressed
    # spectra lose 1e-10 of the loss before training.
    found = losses([19_999], INF, INF, 0.2, 16, 0.01, measure)[0][0]
    assert f"{found:.6f}" == "0.030262"
    assert found == pytest.approx(0.0302619919266, abs=1e-10 * np.sum(k**-1.5))
    exact = StochasticDescent(0.2, 16, exact_gaussian=True)
    result = linear_curves(measure, [19_999], INF, INF, 0.01, exact)
    assert result.test[0, 0, 0] == pytest.approx(0.0302646133926, abs=1e-10 * np.sum(k**-1.5))


@pytest.mark.parametrize(("width", "samples"), [*SIZES, (14.0, 14.0)])
@pytest.mark.parametrize("reach", [0.6, 1.8])
def test_generating_functions_are_the_explicit_sum(volterra, width, samples, reach):
    # Below and above rate * edge = 1, where modes overshoot; 16 samples a step stay stable at both.
    other = volterra(LAM, POWER, width, samples, 0.16)
    rate, batch = reach / other.edge, 16 if reach > 1.0 else 3
    test, train = other.losses(np.full(160, rate), batch)
    found = curve(TIMES, width, samples, rate, batch)
    np.testing.assert_allclose(found.test[0, 0], test[TIMES], rtol=CONTOUR)
    np.testing.assert_allclose(found.train[0, 0], train[TIMES], rtol=CONTOUR)
    # The parts: gradient descent and what the batches add.
    forcing = other.forcing(np.full(160, rate))
    np.testing.assert_allclose(found.test_noise[0], (test - forcing[0])[TIMES], atol=CONTOUR)
    np.testing.assert_allclose(found.train_noise[0], (train - forcing[1])[TIMES], atol=CONTOUR)
    scale = np.sum(LAM * POWER)
    assert np.all(np.abs(found.test[0, 0] - test[TIMES]) <= found.test_error[0, 0] + 1e-13 * scale)
    assert np.all(np.abs(found.train[0, 0] - train[TIMES]) <= found.train_error[0, 0] + 1e-13 * scale)


# Computed once in 80-bit arithmetic: all modes, closed contours of 878 points, explicit Volterra sums; steps 3, 13, 40, 160.
EXTENDED = {
    "as many features as samples": (
        (14.0, 14.0, 0.3, 4, True),
        [1.2645417471533, 0.98974323861676, 0.99428625199296, 1.2696575396951],
        [1.0478447754778, 0.52999475378825, 0.30373318292444, 0.15200385134376],
    ),
    "overshooting": (
        (14.0, 22.0, 0.8206807714105588, 16, True),
        [1.0026458936063, 0.85956845982798, 0.93134390140186, 1.1907848374443],
        [0.80732959150682, 0.46850680296458, 0.34462144322885, 0.27756111949049],
    ),
    "overshooting at infinite width": (
        (INF, 22.0, 1.0681211504330876, 16, True),
        [0.63511818387378, 0.37603066441183, 0.33652883374012, 0.3901204164772],
        [0.485491384291, 0.12961640079787, 0.0359586069995, 0.0032579800261842],
    ),
    "one pass": (
        (14.0, INF, 0.3, 2, True),
        [1.3173859298128, 0.91268912819517, 0.75055166979037, 0.68004093325764],
        [1.4773859298128, 1.0726891281952, 0.91055166979037, 0.84004093325764],
    ),
    "without replacement": (
        (14.0, 22.0, 0.3, 4, False),
        [1.2088684481441, 0.89348869649943, 0.84433601354224, 0.97529985258699],
        [1.1175240548277, 0.63772657192973, 0.43350954234203, 0.30562886001715],
    ),
    "large gain": (
        (14.0, 22.0, 0.35, 1, True),
        [1.8963177174471, 1.6767194774545, 1.5002616013114, 1.4738301708634],
        [1.9273566504355, 1.500466386173, 1.1106149158212, 0.78657998248008],
    ),
}


@pytest.mark.parametrize("name", EXTENDED)
def test_numbers_of_extended_precision(name):
    (width, samples, rate, batch, replacement), test, train = EXTENDED[name]
    found = losses([3, 13, 40, 160], width, samples, rate, batch, replacement=replacement)
    np.testing.assert_allclose(found[0], test, rtol=CONTOUR)
    np.testing.assert_allclose(found[1], train, rtol=CONTOUR)


def test_numbers_of_extended_precision_of_a_long_spectrum():
    # 300 modes, of which the library keeps 32 and compresses the rest: 1e-10 of the loss before training.
    j = np.arange(1.0, 301.0)
    found = losses([3, 13, 40, 160], 64.0, 128.0, 0.5, 8, 0.04, spectral_measure(j**-1.25, j**-0.25))
    start = np.sum(j**-1.5)
    test = [1.1746491585342, 0.76158479654046, 0.59931842695046, 0.54448796439561]
    train = [1.1383713178682, 0.6684347812911, 0.4478136517663, 0.2979329050767]
    np.testing.assert_allclose(found, [test, train], atol=1e-10 * start)


@pytest.mark.parametrize(("width", "samples"), SIZES)
def test_infinite_batches_are_gradient_descent(width, samples):
    for rate in (0.3, 0.8):
        found = losses(TIMES, width, samples, rate, 1e15)
        np.testing.assert_allclose(found, descent(TIMES, width, samples, rate), rtol=CONTOUR)


@pytest.mark.parametrize(("width", "samples"), [(14.0, 22.0), (22.0, 14.0), (INF, 22.0)])
def test_all_samples_without_replacement_are_gradient_descent(width, samples):
    times = [*TIMES, 1e5, INF]
    found = curve(times, width, samples, 0.7, samples, replacement=False)
    np.testing.assert_array_equal(found.test_noise, 0.0)
    np.testing.assert_allclose(found.test[0, 0], descent(times, width, samples, 0.7)[0], rtol=CONTOUR)
    # The train losses are one- and two-point functions here and there.
    np.testing.assert_allclose(found.train[0, 0], descent(times, width, samples, 0.7)[1], rtol=CONTOUR, atol=1e-12)


def test_fewer_repetitions_are_a_larger_batch():
    # (P - B) / (P - 1) / B is the strength of a batch with replacement of B (P - 1) / (P - B).
    a = losses(TIMES, 14.0, 22.0, 0.3, 4, replacement=False)
    b = losses(TIMES, 14.0, 22.0, 0.3, 4 * 21.0 / 18.0)
    np.testing.assert_allclose(a, b, rtol=1e-14)
    one = losses(TIMES, 14.0, 22.0, 0.2, 1, replacement=False)
    np.testing.assert_allclose(one, losses(TIMES, 14.0, 22.0, 0.2, 1), rtol=1e-14)


@pytest.mark.parametrize("width", [14.0, INF])
def test_fresh_samples_see_the_test_loss_and_the_noise(width):
    times = [*TIMES, 1e4, 1e7, INF]
    for rate in (0.3, 0.9):
        test, train = losses(times, width, INF, rate, 4, 0.3)
        np.testing.assert_allclose(train, test + 0.3, rtol=CONTOUR)


@pytest.mark.parametrize(("width", "samples"), SIZES)
def test_small_rates_are_the_flow(width, samples):
    flow = linear_curves(BASE, [6.0], width, samples, 0.16, Flow())
    flow = np.array([flow.test[0, 0, 0], flow.train[0, 0, 0]])
    rates = np.array([4e-4, 2e-4, 1e-4])
    gaps = np.array([np.ravel(losses([6.0 / rate], width, samples, rate, 2)) - flow for rate in rates])
    assert np.all(np.abs(gaps[-1]) < 1e-3)
    # First order in the rate; the second order is of the relative size of the rate times O(1).
    np.testing.assert_allclose(gaps[:2] / gaps[1:], 2.0, rtol=2e-3)


@pytest.mark.parametrize(("width", "samples"), SIZES)
def test_kernels_sum_to_the_gain(volterra, width, samples):
    # Slow modes forget as (1 - rate u)^(2 lag): 8000 lags leave out less than rounding of the contour, 1e-16 times exp(4).
    other = volterra(LAM, POWER, width, samples, radius=0.04, points=450)
    kernel, _ = other.kernels(0.3, 2, np.arange(8000))
    assert np.all(kernel > -1e-13)
    assert np.sum(kernel) == pytest.approx(float(sgd_gain(BASE, width, samples, 0.3, 2)), rel=1e-9)


@pytest.mark.parametrize("samples", [60.0, 200.0])
def test_isotropic_gain_is_marchenko_pastur(samples):
    # 100 modes of eigenvalue 1: kappa^2 + (1 - M/P - z) kappa - z = 0, and integrals over the density of the spectrum.
    modes, rate, batch = 100.0, 0.2, 50.0
    aspect = modes / samples
    measure = spectral_measure([1.0], [0.01], [modes])
    z = np.array([0.4 + 0.3j, -1.0 + 0.2j, -2.0 / rate, -8.0])
    b = 1.0 - aspect - z
    roots = 0.5 * (-b[:, None] + np.array([1.0, -1.0]) * np.sqrt(b * b + 4.0 * z)[:, None])
    # The physical root grows like z: above the axis it is the one in the upper half plane, left of the cut the outer one.
    pick = np.where(z.imag > 0, np.argmax(roots.imag, 1), np.argmin(roots.real, 1))
    exact = roots[np.arange(4), pick]
    np.testing.assert_allclose(one_point(measure, z, INF, samples).kappa, exact, rtol=1e-12)
    found = float(sgd_gain(measure, INF, samples, rate, batch))
    assert found == pytest.approx(modes / batch / (-exact[2].real - 1.0), rel=1e-12)
    middle, half = 1.0 + aspect, 2.0 * np.sqrt(aspect)

    def integrand(theta):
        x = middle - half * np.cos(theta)
        return rate / (2.0 - rate * x) * (half * np.sin(theta)) ** 2 / (2.0 * np.pi * aspect)

    density = scipy.integrate.quad(integrand, 0.0, np.pi, epsabs=1e-13, epsrel=1e-13)[0]
    assert found == pytest.approx(modes / batch * density, rel=1e-11)


@pytest.mark.parametrize(("width", "samples"), [(14.0, 22.0), (INF, 22.0), (14.0, INF)])
@pytest.mark.parametrize("replicas", [2.0, 7.5])
def test_replica_refinement(width, samples, replicas):
    # Copies of every mode with the power shared among them, and so many more features, samples, and samples in a batch.
    copies = spectral_measure(LAM, POWER / replicas, np.full(40, replicas), exact=40)
    sizes = width * replicas, samples * replicas
    times = [*TIMES, 1e6, INF]
    a, b = (
        losses(times, width, samples, 0.3, 3),
        losses(times, *sizes, 0.3, 3 * replicas, measure=copies),
    )
    np.testing.assert_allclose(b, a, rtol=CONTOUR, atol=1e-12)


def test_linear_in_the_noise():
    noises = np.array([0.0, 0.4, 1.0])
    found = curve(TIMES, 14.0, 22.0, 0.3, 2, noises)
    for part in (found.test[:, 0], found.train[:, 0], found.test_noise, found.train_noise):
        np.testing.assert_allclose(part[1], 0.6 * part[0] + 0.4 * part[2], rtol=CONTOUR, atol=CONTOUR)


@pytest.mark.parametrize(("width", "samples"), SIZES)
def test_the_end_of_training(width, samples):
    test, train = losses([3e7, INF], width, samples, 0.3, 2)
    plain = descent([3e7, INF], width, samples, 0.3)
    np.testing.assert_allclose(test[1], test[0], rtol=CONTOUR)
    np.testing.assert_allclose(train[1], train[0], rtol=CONTOUR, atol=1e-13)
    gain = float(sgd_gain(BASE, width, samples, 0.3, 2))
    assert train[1] == pytest.approx(plain[1][1] / (1.0 - gain), rel=1e-12)


@pytest.mark.parametrize(("width", "samples"), SIZES)
def test_parts_sum_to_the_losses(width, samples):
    for rate in (0.3, 0.8):
        found, plain = curve(TIMES, width, samples, rate, 16), descent(TIMES, width, samples, rate)
        np.testing.assert_allclose(found.test[0, 0] - found.test_noise[0], plain[0], rtol=CONTOUR)
        np.testing.assert_allclose(found.train[0, 0] - found.train_noise[0], plain[1], rtol=CONTOUR)
        assert np.all(found.test_noise[0, 1:] > 0)
        assert np.all(found.train_noise[0, 1:] > -CONTOUR)


def test_scaling_of_eigenvalues_is_scaling_of_the_rate():
    scaled = spectral_measure(3.0 * LAM, POWER / 3.0, exact=40)
    times = [*TIMES, INF]
    found = losses(times, 14.0, 22.0, 0.1, 2, measure=scaled)
    np.testing.assert_allclose(found, losses(times, 14.0, 22.0, 0.3, 2), rtol=CONTOUR)


def test_smaller_batches_are_noisier():
    curves = [curve(TIMES, 14.0, 22.0, 0.3, batch) for batch in (1, 2, 4, 16, 256)]
    for noisy, quiet in itertools.pairwise(curves):
        assert np.all(noisy.test[0, 0, 1:] > quiet.test[0, 0, 1:])
        assert np.all(noisy.train[0, 0, 2:] > quiet.train[0, 0, 2:])
    # One batch has been seen after one step: the train loss knows of it already, its noise does not depend on the batch yet.
    first = np.array([c.train_noise[0, 1] * b for c, b in zip(curves, (1, 2, 4, 16, 256), strict=True)])
    np.testing.assert_allclose(first, first[0], rtol=1e-8)


def test_batches_of_different_models_are_independent():
    names = ("both", "data", "features", "none")
    noisy = curve([5, 40], 14.0, 22.0, 0.3, 2, shares=names)
    plain = linear_curves(BASE, [5, 40], 14.0, 22.0, 0.16, Descent(0.3), names)
    np.testing.assert_array_equal(noisy.test[:, 1:], plain.test[:, 1:])
    np.testing.assert_array_equal(noisy.train[:, 1:], plain.train[:, 1:])
    np.testing.assert_allclose(noisy.test[0, 0] - noisy.test_noise[0], plain.test[0, 0], rtol=1e-12)


def test_problems_side_by_side_equal_single_problems():
    widths, samples = np.array([5.0, 14.0, INF, 100.0, 33.0]), np.array([22.0, 22.0, 22.0, INF, 9.0])
    times = [*TIMES, INF]
    together = curve(times, widths, samples, 0.3, 2)
    for i in range(5):
        alone = curve(times, widths[i], samples[i], 0.3, 2)
        np.testing.assert_allclose(together.test[i], alone.test[0], rtol=1e-12)
        np.testing.assert_allclose(together.train[i], alone.train[0], rtol=1e-11, atol=1e-13)


def test_order_of_the_steps_is_kept():
    mixed = losses([160, 0, INF, 3, 12], 14.0, 22.0, 0.3, 2)
    ordered = losses([0, 3, 12, 160, INF], 14.0, 22.0, 0.3, 2)
    np.testing.assert_allclose(np.array(mixed)[:, [1, 3, 4, 0, 2]], ordered, rtol=1e-13)
    assert mixed[0][1] == pytest.approx(np.sum(LAM * POWER), rel=1e-15)
    assert mixed[1][1] == pytest.approx(np.sum(LAM * POWER) + 0.16, rel=1e-15)


def test_nothing_to_learn():
    silent = spectral_measure([1.0, 0.5], [0.0, 0.0])
    test, train = losses([0, 5, 50, INF], 10.0, 20.0, 0.3, 4, 0.0, silent)
    np.testing.assert_array_equal(test, 0.0)
    np.testing.assert_array_equal(train, 0.0)
    zero = spectral_measure([0.0], [1.0])
    np.testing.assert_array_equal(losses([0, 5, INF], 10.0, 20.0, 0.3, 4, 0.0, zero)[0], 0.0)


def test_past_the_gain_nothing_is_returned():
    # The pole of the unstable generating function lies outside of the contour: without asking first it would be left out.
    limit = linear_curves(BASE, [0, 5, 50, INF], 14.0, 22.0, 0.16, StochasticDescent(0.49, 1))
    assert np.all(limit.diverged == [[False, True, True, True]])
    np.testing.assert_array_equal(np.isinf(limit.test[0, 0]), [False, True, True, True])
    np.testing.assert_array_equal(np.isinf(limit.train_noise[0]), [False, True, True, True])
    below = linear_curves(BASE, [0, 5, 50, INF], 14.0, 22.0, 0.16, StochasticDescent(0.48, 1))
    assert not np.any(below.diverged)
    assert np.all(np.isfinite(below.test))


def test_exact_recursion_is_refused_where_it_is_not_known():
    exact = StochasticDescent(0.3, 2, exact_gaussian=True)
    with pytest.raises(InvalidInput, match=r"exact_gaussian is known for one pass only, samples = inf"):
        linear_curves(BASE, [5], INF, 22.0, 0.16, exact)
    shifted = spectral_measure(LAM, POWER, None, LAM[::-1])
    with pytest.raises(
        InvalidInput, match=r"exact_gaussian with test inputs of their own is known for width = inf only"
    ):
        linear_curves(shifted, [5], 14.0, INF, 0.16, exact)


@pytest.mark.parametrize(("width", "rate", "batch"), [(14.0, 0.3, 3), (22.0, 0.9, 16), (INF, 0.3, 2)])
def test_exact_recursion_at_any_width_is_a_volterra_sum(width, rate, batch):
    # In the eigenbasis of the features' kernel every mode decays by (1 - eta u)^2 + (eta u)^2 / B: the kernels of the sum are
    # contour integrals of that power.
    steps, noise = 40, 0.16
    edge = float(spectral_edge(BASE, width, INF))
    z, weights = ellipse(1.02 * edge, 0.4, 400)
    here = one_point(BASE, z, width, INF)
    decay = (1.0 + rate * z) ** 2 + (rate * z) ** 2 / batch
    powers = decay ** np.arange(steps)[:, None] * weights * z

    def integral(function):
        return 2.0 * np.real(powers @ function)

    kernel = rate**2 / batch * integral(-z * here.df1)
    modes = POWER * LAM / (LAM + here.kappa[:, None])
    train = integral(here.kappa / z * modes.sum(1)) + noise
    for t in range(1, steps):
        train[t] += kernel[:t][::-1] @ train[:t]
    found = linear_curves(
        BASE, np.arange(steps), width, INF, noise, StochasticDescent(rate, batch, exact_gaussian=True)
    )
    np.testing.assert_allclose(found.train[0, 0], train, rtol=1e-9)
    np.testing.assert_allclose(found.test[0, 0], train - noise, rtol=1e-9)


def test_exact_recursion_of_power_law_random_features():
    # d = 500, v = 5000, alpha = 1, beta = 0.7, eta = 0.3, B = 1; digits from a Volterra sum of another program.
    j = np.arange(1.0, 5001.0)
    measure = spectral_measure(j**-2.0, j**-1.4)
    found = linear_curves(measure, [1e2, 1e3, 1e4, 1e5], 500, INF, 0.0, StochasticDescent(0.3, 1, exact_gaussian=True))
    expected = [6.5083578764e-3, 6.2564632960e-4, 1.3061041654e-4, 5.3089285475e-5]
    np.testing.assert_allclose(found.test[0, 0], expected, rtol=1e-9)


@pytest.mark.long
def test_exact_recursion_against_simulation():
    # At batches of one it removes most of the deviation that the theory of large batches has; what is left is O(1 / N).
    spectrum, width, _ = refine(Spectrum(LAM, POWER), 14.0, INF, 12)
    task = SpectrumTask(spectrum.eigenvalues, spectrum.target_power, spectrum.multiplicity, noise=0.16)
    problem = Problem(task, RandomFeatures(width=width), OnePassSGD(0.02, 1))
    times = [3, 40, 400]
    runs = train(problem, times, seeds=60, minibatches="averaged")
    mean, error = runs.values("test_loss"), runs.values("test_loss_stderr")
    plain = solve(problem, times).values("test_loss")
    exact = solve(problem.replace(training=OnePassSGD(0.02, 1, exact_gaussian=True)), times).values("test_loss")
    assert np.all(np.abs(exact - mean) < 4 * error)
    assert np.all(np.abs(exact - mean) <= np.abs(plain - mean) + error)
