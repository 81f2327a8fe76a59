"""The end of training, ridge, and the edge of the spectrum."""

import jax
import numpy as np
import pytest

from foretrain.errors import PrecisionError
from foretrain.limits.linear import max_stable_lr, outlier, ridge_losses, spectral_edge, spectral_measure

MODES = np.arange(1.0, 41.0)
LAM, POWER = MODES**-1.2, MODES**-0.4
BASE = spectral_measure(LAM, POWER, exact=40)


def end(measure, width, samples, noise=0.0, ridge=0.0, shares=("both",)):
    with jax.enable_x64(True):
        return np.asarray(ridge_losses(measure, ridge, width, samples, noise, shares))


@pytest.mark.parametrize(("modes", "samples"), [(100.0, 200.0), (50.0, 400.0)])
def test_isotropic_least_squares(modes, samples):
    # Textbook: excess risk of ordinary least squares in the limit of many dimensions, noise M / (P - M).
    measure = spectral_measure([1.0], [1.0], [modes])
    test, train = end(measure, np.inf, samples, 2.0)[:, 0]
    assert test == pytest.approx(2.0 * modes / (samples - modes), rel=1e-12)
    assert train == pytest.approx(2.0 * (1.0 - modes / samples), rel=1e-12)


def test_isotropic_interpolation():
    # Fewer samples than dimensions: bias 1 - P/M of the power, variance P / (M - P).
    measure = spectral_measure([1.0], [0.01], [100.0])
    test, train = end(measure, np.inf, 60.0, 2.0)[:, 0]
    assert test == pytest.approx(0.4 + 2.0 * 60.0 / 40.0, rel=1e-12)
    assert train == 0.0


def test_projection_residual_at_infinite_samples():
    # P = t = infinity: the residual of projecting on N random directions, sum lambda w^2 kappa / (lambda + kappa).
    from scipy.optimize import brentq

    kappa = brentq(lambda x: np.sum(LAM / (LAM + x)) - 14.0, 1e-6, 1e3, xtol=1e-15)
    exact = np.sum(LAM * POWER * kappa / (LAM + kappa))
    test, train = end(BASE, 14.0, np.inf, 0.7)[:, 0]
    assert test == pytest.approx(exact, rel=1e-11)
    assert train == pytest.approx(exact + 0.7, rel=1e-11)


def test_interpolation_peak_is_infinite():
    test, train = end(BASE, 20.0, 20.0, 0.1)[:, 0]
    assert np.isposinf(test)
    assert train == 0.0
    near = [end(BASE, 20.0 * (1 + gap), 20.0)[0, 0] for gap in (0.1, 0.01, 0.001)]
    assert near[0] < near[1] < near[2]
    assert np.isfinite(end(BASE, 20.0, 20.0, 0.1, ridge=1e-3)[0, 0])
    # The correlation of different models stays finite at the peak.
    assert np.all(np.isfinite(end(BASE, 20.0, 20.0, 0.1, shares=("data", "features", "none"))[0]))


def test_as_many_modes_as_samples():
    assert end(BASE, 100.0, 40.0)[0, 0] == 0.0
    assert np.isposinf(end(BASE, 100.0, 40.0, 0.1)[0, 0])
    # As many modes as features, more samples: ordinary least squares again.
    assert end(BASE, 40.0, 100.0, 0.3)[0, 0] == pytest.approx(0.3 * 40.0 / 60.0, rel=1e-12)


def test_static_formula_in_closed_form():
    # The closed 2x2 solution written out, with kappa by bisection.
    from scipy.optimize import brentq

    n, p, noise, mu = 14.0, 22.0, 0.16, 0.05

    def df(x, power=1):
        return np.sum((LAM / (LAM + x)) ** power)

    kappa = brentq(lambda x: x * (1 - df(x) / p) * (1 - df(x) / n) - mu, 1e-3, 1e3, xtol=1e-15)
    s, a0 = np.sum(LAM / (LAM + kappa) ** 2), np.sum(kappa**2 * LAM * POWER / (LAM + kappa) ** 2)
    e0 = np.sum(LAM**2 * POWER / (LAM + kappa) ** 2)
    gp, gn = df(kappa, 2) / p, df(kappa, 2) / n
    g = gp + kappa**2 * s**2 / (n * p * (1 - gn))
    exact = (a0 + noise * g + kappa**2 * s * e0 / (n * (1 - gn))) / (1 - g)
    assert end(BASE, n, p, noise, ridge=mu)[0, 0] == pytest.approx(exact, rel=1e-11)


@pytest.mark.parametrize("ridge", [1e-300, 1e-12, 1e-3, 1.0, 1e6, 1e200])
def test_any_ridge(ridge):
    for width, samples in ((14.0, 22.0), (np.inf, 22.0), (100.0, 200.0), (1.0, 1e9), (np.inf, np.inf)):
        test, train = end(BASE, width, samples, 0.16, ridge=ridge)[:, 0]
        assert np.isfinite(test)
        assert np.isfinite(train)
        assert train <= test + 0.16 + 1e-12
    total = np.sum(LAM * POWER)
    assert end(BASE, 14.0, 22.0, 0.16, ridge=1e12)[0, 0] == pytest.approx(total, rel=1e-10)


def test_needs_64_bits():
    with jax.enable_x64(False), pytest.raises(PrecisionError, match="ridge_losses: needs 64-bit"):
        ridge_losses(BASE, 0.1, 14.0, 22.0)


def test_edge_of_marchenko_pastur_and_of_products():
    isotropic = spectral_measure([2.0], [1.0], [100.0])
    assert spectral_edge(isotropic, np.inf, 400.0) == pytest.approx(2.0 * (1.0 + 0.5) ** 2, rel=1e-12)
    # Symmetric in N and P; a product of two Wishart matrices with ratios 1 has the edge 27/4.
    assert spectral_edge(isotropic, 100.0, 100.0) == pytest.approx(2.0 * 27.0 / 4.0, rel=1e-12)
    assert spectral_edge(BASE, 14.0, 22.0) == pytest.approx(spectral_edge(BASE, 22.0, 14.0), rel=1e-12)
    assert spectral_edge(BASE, np.inf, np.inf) == 1.0
    assert spectral_edge(BASE, np.inf, 1e14) == pytest.approx(1.0, rel=1e-6)
    assert spectral_edge(spectral_measure([0.0], [1.0]), 3.0, 4.0) == 0.0


def test_edge_and_outlier_reference_numbers():
    np.testing.assert_allclose(spectral_edge(BASE, [14.0, np.inf], 22.0), [2.193, 1.592], atol=6e-4)
    np.testing.assert_allclose(outlier(BASE, [14.0, np.inf], 22.0), [1.349, 1.126], atol=6e-4)
    power = spectral_measure(np.arange(1.0, 401) ** -1.25, np.ones(400))
    assert spectral_edge(power, 100.0, 200.0) == pytest.approx(1.31, abs=6e-3)
    assert outlier(power, 100.0, 200.0) == pytest.approx(1.049, abs=6e-4)
    # Without an isolated top eigenvalue the outlier is the edge.
    isotropic = spectral_measure([1.0], [1.0], [100.0])
    assert outlier(isotropic, np.inf, 400.0) == spectral_edge(isotropic, np.inf, 400.0)


def test_edge_against_a_sample():
    # Largest eigenvalue of one large product of random matrices; it scatters by M^(-2/3), about 1 % here.
    rng = np.random.default_rng(3)
    modes, width, samples = 600, 900, 1200
    a = rng.standard_normal((width, modes)) / np.sqrt(width)
    x = rng.standard_normal((samples, modes)) / np.sqrt(samples)
    top = np.linalg.norm(x @ a.T, 2) ** 2
    assert top == pytest.approx(spectral_edge(spectral_measure([1.0], [1.0], [600.0]), 900.0, 1200.0), rel=0.03)


def test_largest_stable_rates():
    np.testing.assert_allclose(max_stable_lr(BASE, 14.0, 22.0), 2.0 / spectral_edge(BASE, 14.0, 22.0))
    np.testing.assert_allclose(max_stable_lr(BASE, 14.0, 22.0, 0.9), 3.8 / spectral_edge(BASE, 14.0, 22.0))
    assert np.isposinf(max_stable_lr(spectral_measure([0.0], [1.0]), 3.0, 4.0))
