"""Compression of spectra: sums over nodes against sums over modes."""

import numpy as np
import pytest
import scipy.special

from foretrain.errors import InvalidInput
from foretrain.limits.linear import index_nodes, linear_curves, power_law_measure, spectral_measure

# Resolvent points like those of the contours: real, oblique, and close to the negative axis.
POINTS = np.array([1e-7, 1e-4, 1e-2 + 1e-2j, 0.3j, 2.0])


@pytest.fixture(autouse=True)
def _x64():
    import jax

    with jax.enable_x64(True):
        yield


def sums(eigenvalues, weights):
    return np.array([np.sum(np.asarray(weights) / (np.asarray(eigenvalues) + z)) for z in POINTS])


@pytest.mark.parametrize("modes", [1, 5, 33, 100, 20_000])
def test_explicit_spectrum_keeps_resolvents(modes):
    rng = np.random.default_rng(modes)
    lam = np.arange(1.0, modes + 1) ** -1.3 * np.exp(0.3 * rng.standard_normal(modes))
    power, count = rng.exponential(size=modes), rng.uniform(0.5, 3.0, modes)
    measure = spectral_measure(lam, power, count)
    assert measure.nodes <= min(modes, 250)
    # 24 nodes per factor 16 leave 1e-11 for these points (their distance to the spectrum in log(lambda) is >= pi/4).
    np.testing.assert_allclose(sums(measure.eigenvalues, measure.trace), sums(lam, count * lam), rtol=1e-10)
    np.testing.assert_allclose(sums(measure.eigenvalues, measure.signal), sums(lam, count * lam * power), rtol=1e-10)


@pytest.mark.parametrize(
    ("modes", "capacity"), [(1, 1.5), (7, 2.0), (60, 0.4), (3000, 1.05), (300_000, 0.3), (300_000, 3.0)]
)
def test_power_law_in_index_equals_explicit_sum(modes, capacity):
    k = np.arange(1.0, modes + 1)
    measure = power_law_measure(index_nodes(modes, capacity), capacity, 0.6)
    decay = 0.6 * capacity + 1.0
    np.testing.assert_allclose(sums(measure.eigenvalues, measure.trace), sums(k**-capacity, k**-capacity), rtol=1e-10)
    np.testing.assert_allclose(sums(measure.eigenvalues, measure.signal), sums(k**-capacity, k**-decay), rtol=1e-10)


def test_nodes_do_not_depend_on_the_exponents():
    # Nodes made for 1.5 serve 1.45: what makes the measure differentiable in the exponents.
    k = np.arange(1.0, 200_001)
    measure = power_law_measure(index_nodes(200_000, 1.5), 1.45, 0.7)
    np.testing.assert_allclose(sums(measure.eigenvalues, measure.trace), sums(k**-1.45, k**-1.45), rtol=1e-10)


@pytest.mark.parametrize(("capacity", "source"), [(1.05, 0.3), (1.5, 0.6), (4.0, 0.2)])
def test_infinite_power_law_has_the_zeta_functions_as_moments(capacity, source):
    measure = power_law_measure(index_nodes(np.inf, capacity, smallest=1e-6), capacity, source)
    np.testing.assert_allclose(np.sum(measure.trace), scipy.special.zeta(capacity), rtol=1e-13)
    np.testing.assert_allclose(np.sum(measure.signal), scipy.special.zeta(capacity * source + 1.0), rtol=1e-13)


def test_analytic_tail_equals_the_modes_it_replaces():
    # Finite cut-off: the nodes with a tail against the nodes without one, above the resolution that was asked for.
    full = power_law_measure(index_nodes(10**9, 1.5, smallest=1e-30), 1.5, 0.6)
    cut = power_law_measure(index_nodes(10**9, 1.5, smallest=1e-4), 1.5, 0.6)
    assert cut.nodes < full.nodes
    points = POINTS[1:]
    for weights in ("trace", "signal"):
        a, b = (np.array([np.sum(getattr(m, weights) / (m.eigenvalues + z)) for z in points]) for m in (full, cut))
        np.testing.assert_allclose(b, a, rtol=1e-10)


def test_infinite_power_law_is_the_limit_of_many_modes():
    # The tail beyond M modes carries M^-(capacity-1)/(capacity-1) of trace: the curves approach each other like that.
    times = [1.0, 30.0, 1000.0]
    curves = [
        linear_curves(power_law_measure(index_nodes(m, 2.0, smallest=1e-6), 2.0, 0.75), times, 50, 80, 0.1).test[0, 0]
        for m in (10**6, 10**8, np.inf)
    ]
    first, second = np.abs(curves[0] / curves[2] - 1).max(), np.abs(curves[1] / curves[2] - 1).max()
    assert first < 1e-4
    assert second < first / 50


def test_merges_and_drops():
    merged = spectral_measure([1.0, 0.5, 0.5, 0.0], [1.0, 2.0, 4.0, 9.0], [1.0, 1.0, 2.0, 5.0])
    np.testing.assert_allclose(merged.eigenvalues, [1.0, 0.5])
    np.testing.assert_allclose(merged.trace, [1.0, 1.5])
    np.testing.assert_allclose(merged.signal, [1.0, 5.0])
    assert np.sum(spectral_measure([0.0], [1.0]).signal) == 0.0


def test_padding_has_no_weight():
    measure = spectral_measure([1.0, 0.5], [1.0, 2.0])
    padded = measure.pad(7)
    assert padded.nodes == 7
    np.testing.assert_allclose(sums(padded.eigenvalues, padded.signal), sums(measure.eigenvalues, measure.signal))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([-1.0], [1.0]), r"spectral_measure\(eigenvalues\).*>= 0.*-1.0"),
        (([1.0], [np.nan]), r"spectral_measure\(target_power\).*finite"),
        (([1.0, 2.0], [1.0]), r"spectral_measure\(target_power\).*length 2.*\(1,\)"),
        (([1.0], [1.0], [np.inf]), r"spectral_measure\(multiplicity\)"),
    ],
)
def test_says_what_is_wrong(arguments, words):
    with pytest.raises(InvalidInput, match=words):
        spectral_measure(*arguments)
