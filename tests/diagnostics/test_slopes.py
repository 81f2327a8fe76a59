"""Slopes: exact on power laws, unbiased with the right error on noisy ones, and what is refused."""

import math

import numpy as np
import pytest

from foretrain.diagnostics import log_slope
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
