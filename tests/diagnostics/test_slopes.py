"""Slopes: exact on power laws, unbiased with the right error on noisy ones, and what is refused."""

import math

import numpy as np
import pytest

from foretrain.diagnostics import limit_slope, log_slope
from foretrain.diagnostics._result import approaches, judge
from foretrain.errors import InvalidInput

WIDTHS = np.array([64.0, 128.0, 256.0, 512.0, 1024.0])


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 0.5, 1.5])
def test_power_laws_are_exact(exponent):
    found = log_slope(WIDTHS, np.array([[1e-6], [3.0], [1e5]]) * WIDTHS[None, :] ** exponent)
    # Rounding of logarithms up to 20, five of them.
    assert abs(found.slope - exponent) < 1e-13
    assert found.stderr < 1e-13


def test_noisy_power_laws_have_standard_normal_scores():
    """Slope minus truth over its error is Student's t with seeds - 1 degrees of freedom, here 15: variance 15 / 13."""
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(2000):
        noise = np.exp(0.3 * rng.standard_normal((16, len(WIDTHS))))
        found = log_slope(WIDTHS, WIDTHS[None, :] ** 0.5 * noise)
        scores.append((found.slope - 0.5) / found.stderr)
    # Means of 2000 scores: standard errors 0.024 of the mean, and about 0.037 of the variance of Student's t; four of each.
    assert abs(np.mean(scores)) < 4 * math.sqrt(15 / 13 / 2000)
    assert abs(np.var(scores) - 15 / 13) < 4 * (15 / 13) * math.sqrt(2.6 / 2000)


def test_the_error_is_the_one_of_least_squares():
    """With independent noise sigma at every point the error is sigma / (sqrt(seeds) |x - mean|)."""
    rng = np.random.default_rng(1)
    noise = 0.2 * rng.standard_normal((4000, len(WIDTHS)))
    x = np.log(WIDTHS) - np.mean(np.log(WIDTHS))
    expected = 0.2 / math.sqrt(4000) / np.linalg.norm(x)
    # The deviation of 4000 draws has a relative error of 1 / sqrt(8000).
    assert abs(log_slope(WIDTHS, np.exp(noise)).stderr / expected - 1) < 4 / math.sqrt(8000)


def test_against_polyfit():
    rng = np.random.default_rng(2)
    measured = np.exp(rng.standard_normal((6, len(WIDTHS))))
    slopes = [np.polyfit(np.log(WIDTHS), np.log(row), 1)[0] for row in measured]
    found = log_slope(WIDTHS, measured)
    np.testing.assert_allclose([found.slope, found.stderr], [np.mean(slopes), np.std(slopes, ddof=1) / math.sqrt(6)])


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_sizes_without_a_logarithm_have_no_slope(bad):
    measured = np.ones((3, len(WIDTHS)))
    measured[1, 2] = bad
    assert math.isnan(log_slope(WIDTHS, measured).slope)


@pytest.mark.parametrize("axis", [[64.0], [64.0, 64.0], [0.0, 1.0], [-1.0, 1.0]])
def test_axes_that_are_none(axis):
    with pytest.raises(InvalidInput, match=r"log_slope\(axis\): expected at least two distinct positive sizes"):
        log_slope(np.array(axis), np.ones((2, len(axis))))


@pytest.mark.parametrize("shape", [(1, 5), (3, 4), (5,)])
def test_sizes_of_another_shape(shape):
    with pytest.raises(InvalidInput, match=r"log_slope\(measured\): expected \(seeds, sizes\)"):
        log_slope(WIDTHS, np.ones(shape))


# Beside a correction of finite size.


@pytest.mark.parametrize(("exponent", "correction"), [(-0.5, 0.4), (0.0, -0.7), (1.0, 0.0)])
def test_power_laws_with_a_correction_are_exact(exponent, correction):
    found = limit_slope(
        WIDTHS, np.array([[1.0], [30.0]]) * (WIDTHS**exponent * np.exp(correction * 64 / WIDTHS))[None, :]
    )
    # Rounding of logarithms up to 10, times the condition of three columns.
    assert abs(found.slope - exponent) < 1e-12
    assert abs(found.correction - correction) < 1e-12
    assert max(found.stderr, found.correction_stderr) < 1e-12


def test_the_correction_against_polynomials():
    """Two widths more than unknowns, by the normal equations; the error by its formula for independent noise."""
    noise = 0.1 * np.random.default_rng(4).standard_normal((4000, len(WIDTHS)))
    design = np.stack([np.ones(len(WIDTHS)), np.log(WIDTHS), 64 / WIDTHS], axis=1)
    inverse = np.linalg.inv(design.T @ design)
    slopes = noise @ design @ inverse[:, 1]
    found = limit_slope(WIDTHS, np.exp(noise))
    np.testing.assert_allclose(found.slope, np.mean(slopes), atol=1e-12)
    # The deviation of 4000 draws has a relative error of 1 / sqrt(8000).
    assert abs(found.stderr / (0.1 * math.sqrt(inverse[1, 1] / 4000)) - 1) < 4 / math.sqrt(8000)


def test_corrections_need_four_sizes():
    with pytest.raises(InvalidInput, match=r"limit_slope\(axis\): expected at least four distinct positive sizes"):
        limit_slope(WIDTHS[:3], np.ones((2, 3)))
    assert math.isnan(limit_slope(WIDTHS, np.zeros((2, 5))).slope)


def verdict(curve, noise=0.0, seed=0, expected=(0.0, 0.0)):
    sizes = curve[None, :] * np.exp(noise * np.random.default_rng(seed).standard_normal((4, len(WIDTHS))))
    upper = log_slope(WIDTHS[2:], sizes[:, 2:])
    return judge(log_slope(WIDTHS, sizes), expected, sizes, False, upper, limit_slope(WIDTHS, sizes))


def test_overlaps_of_random_vectors_approach():
    """A sum of squares 1 + B / N, as random overlaps make it, whose slope is out of the range: told from a wrong exponent."""
    overlaps = np.sqrt(1 + 100 / WIDTHS)
    assert log_slope(WIDTHS, np.stack([overlaps] * 2)).slope < -0.14
    assert verdict(overlaps, 0.01) == "approaches"
    assert verdict(overlaps * WIDTHS**-0.5, 0.01, expected=(-0.5, -0.5)) == "approaches"
    # Larger than what 64 to 1024 can tell from an exponent: wider networks are needed.
    assert verdict(np.sqrt(1 + 1000 / WIDTHS)) == "too small"


@pytest.mark.parametrize(
    "curve",
    [
        WIDTHS**0.2,
        WIDTHS**-0.2,
        1 + 0.3 * np.sqrt(WIDTHS / 64),  # a wrong term that has not yet won
        np.tanh(0.3 * np.sqrt(WIDTHS / 64)),  # a wrong one that saturates
        np.tanh(0.5 * WIDTHS / 64),
        1 + 2 * (64 / WIDTHS) ** 0.25,  # a limit that is too far to be seen
    ],
)
def test_wrong_exponents_do_not_approach(curve):
    assert verdict(curve).startswith("too ")


@pytest.mark.parametrize("noise", [0.02, 0.05, 0.1, 0.2])
def test_noise_does_not_make_a_wrong_exponent_approach(noise):
    """An exponent of 0.3, four seeds: taken for a correction in at most 3 of 1000 checks, whatever the noise (here draws are fixed)."""
    found = [verdict(WIDTHS**0.3, noise, seed) for seed in range(1000)]
    assert found.count("approaches") <= 3


def test_a_correction_that_is_not_there_explains_nothing():
    flat = limit_slope(WIDTHS, np.exp(0.1 * np.random.default_rng(5).standard_normal((4, 5))))
    assert abs(flat.correction) < 3 * flat.correction_stderr
    assert not approaches(log_slope(WIDTHS, np.stack([WIDTHS**0.0] * 2)), flat, (0.0, 0.0))
