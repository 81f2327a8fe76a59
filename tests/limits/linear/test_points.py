"""The resolvent engine against its defining equations and exact identities."""

import jax
import numpy as np
import pytest

from foretrain.errors import InvalidInput
from foretrain.limits.linear import one_point, ridge_losses, spectral_edge, spectral_measure, two_point
from foretrain.limits.linear._contour import ellipse

MODES = np.arange(1.0, 41.0)
LAM, POWER = MODES**-1.2, MODES**-0.4
MEASURE = spectral_measure(LAM, POWER, exact=40)
SIZES = [(14.0, 22.0), (22.0, 14.0), (np.inf, 22.0), (14.0, np.inf), (200.0, 90.0), (np.inf, np.inf)]
Z = np.array([0.02, 0.5, 3.0, 0.3 + 0.4j, -0.1 + 0.05j, -0.3 - 1e-3j, -40.0, 1e-9 + 1e-9j])
# Rounding of a Newton root, amplified where R1 or R3 is a small difference.
ROUNDING = 1e-12


@pytest.mark.parametrize(("width", "samples"), SIZES)
def test_self_consistent_pair(width, samples):
    point = one_point(MEASURE, Z, width, samples)
    h = point.resolvent(LAM)
    # R1 = 1 - (1/P) sum lambda R1 R3 H and the same with N: the two equations before elimination.
    df1 = np.sum(LAM * (point.R1 * point.R3)[:, None] * h, -1)
    np.testing.assert_allclose(point.R1, 1.0 - df1 / samples, rtol=ROUNDING, atol=ROUNDING)
    np.testing.assert_allclose(point.R3, 1.0 - df1 / width, rtol=ROUNDING, atol=ROUNDING)
    np.testing.assert_allclose(point.df1, df1, rtol=ROUNDING)
    assert np.all(point.residual < ROUNDING)
    complex_points = Z.imag != 0
    assert np.all((point.kappa.imag * Z.imag)[complex_points] > 0)


def test_symmetries():
    a, b = one_point(MEASURE, Z, 14.0, 22.0), one_point(MEASURE, Z, 22.0, 14.0)
    np.testing.assert_allclose(a.kappa, b.kappa, rtol=ROUNDING)
    np.testing.assert_allclose(one_point(MEASURE, np.conj(Z), 14.0, 22.0).kappa, np.conj(a.kappa), rtol=ROUNDING)


def test_physical_branch_close_to_the_cut():
    # sum_k lambda_k R1 H_k is the transform of a positive measure: its imaginary part has the sign of -Im z everywhere.
    edge = float(spectral_edge(MEASURE, 14.0, 22.0))
    z, _ = ellipse(edge, 1e-2, 400)
    point = one_point(MEASURE, z, 14.0, 22.0)
    assert np.all(np.isfinite(point.kappa))
    assert np.all(point.kappa.imag > 0)
    assert np.all((point.R1 / z).imag < 0)


@pytest.mark.parametrize(("width", "samples"), SIZES)
def test_two_by_two_system(width, samples):
    noise = 0.16
    z, z_ = Z[:-1, None], Z[None, :-1]
    pair = two_point(MEASURE, z, z_, width, samples, noise)
    left, right = one_point(MEASURE, z, width, samples), one_point(MEASURE, z_, width, samples)
    hh = left.resolvent(LAM) * right.resolvent(LAM)
    a, e = hh @ (LAM * POWER), hh @ (LAM**2 * POWER)
    s1, s2 = hh @ LAM, hh @ LAM**2
    rr1, rr3 = left.R1 * right.R1, left.R3 * right.R3
    gamma_p, gamma_n = rr1 * rr3 * s2 / samples, rr1 * rr3 * s2 / width
    first = (1 - gamma_p) * pair.C0 - rr3 * s1 * pair.C2 / width - a - gamma_p * noise / (z * z_)
    second = (1 - gamma_n) * pair.C2 - z * z_ * rr1 * s1 * pair.C0 / samples - rr1 * (e + noise / samples * s1)
    # Cancellation between the terms of a row: compare with the largest of them.
    assert np.max(np.abs(first) / (np.abs(pair.C0) + np.abs(a))) < 1e-8
    assert np.max(np.abs(second) / (np.abs(pair.C2) + np.abs(rr1 * e))) < 1e-8
    np.testing.assert_allclose(pair.C1, rr1 * (pair.C0 + noise / (z * z_)), rtol=ROUNDING)
    np.testing.assert_allclose(pair.C0, two_point(MEASURE, z_, z, width, samples, noise).C0, rtol=1e-9)


def test_infinite_samples_is_a_divided_difference():
    z, z_ = np.array([0.3, 0.2 + 0.1j]), np.array([0.05, -0.1 + 0.3j])

    def g(z):
        return one_point(MEASURE, z, 14.0, np.inf).resolvent(LAM) @ (LAM * POWER)

    np.testing.assert_allclose(two_point(MEASURE, z, z_, 14.0, np.inf, 0.7).C0, -(g(z) - g(z_)) / (z - z_), rtol=1e-11)


def test_squared_resolvent():
    # Without a projection G is symmetric and G^2 = -dG/dz: with equal target powers C0 is tr Lambda G G, whatever P.
    measure = spectral_measure(LAM, np.ones(40), exact=40)
    z, step = 0.1, 1e-4

    def trace(z):
        return np.sum(LAM * one_point(measure, z, np.inf, 22.0).resolvent(LAM))

    slope = (8 * (trace(z + step) - trace(z - step)) - (trace(z + 2 * step) - trace(z - 2 * step))) / (12 * step)
    np.testing.assert_allclose(two_point(measure, z, z, np.inf, 22.0).C0, -slope, rtol=1e-9)


@pytest.mark.parametrize(("width", "samples"), SIZES)
def test_ridge_is_the_diagonal(width, samples):
    ridge, noise = 0.02, 0.16
    pair = two_point(MEASURE, ridge, ridge, width, samples, noise)
    with jax.enable_x64(True):
        test, train = np.asarray(ridge_losses(MEASURE, ridge, width, samples, noise))[:, 0]
    np.testing.assert_allclose(test, ridge**2 * pair.C0.real, rtol=1e-10)
    np.testing.assert_allclose(train, ridge**2 * pair.C1.real, rtol=1e-10)
    r1 = one_point(MEASURE, ridge, width, samples).R1.real
    np.testing.assert_allclose(train, r1**2 * (test + noise), rtol=1e-10)


def test_refuses_points_on_the_spectrum():
    with pytest.raises(InvalidInput, match=r"one_point\(z\): expected points off the spectrum \[-2.19.*got -1"):
        one_point(MEASURE, -1.0, 14.0, 22.0)
    with pytest.raises(InvalidInput, match=r"two_point\(z\): expected nonzero"):
        two_point(MEASURE, 0.0, 1.0, 14.0, 22.0)
