"""Deep linear networks: the saddle point equations, published numbers, several roots."""

import numpy as np
import pytest

from foretrain.errors import InvalidInput
from foretrain.limits.bayesian import deep_linear_posterior

RNG = np.random.default_rng(4)
INPUTS = RNG.normal(size=(6, 9))
GRAM, TARGETS = INPUTS @ INPUTS.T / 9, RNG.normal(size=6)


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("beta", [3.0, np.inf])
def test_saddle_point_equations(depth, beta):
    found = deep_linear_posterior(GRAM, TARGETS, depth=depth, richness=1.7, inverse_temperature=beta)
    kernels, a = [GRAM, *found.kernels], found.coefficients
    np.testing.assert_allclose(kernels[-1] @ a + a / beta, TARGETS, atol=1e-11)
    # The dual of the last kernel is -gamma^2 a a^T, and that of a Gaussian layer is the difference of the inverses.
    dual = np.linalg.inv(kernels[-1]) - np.linalg.inv(kernels[-2])
    np.testing.assert_allclose(dual, -(1.7**2) * np.outer(a, a), atol=1e-9)
    for before, here, after in zip(kernels, kernels[1:], kernels[2:], strict=False):
        np.testing.assert_allclose(after, here @ np.linalg.solve(before, here), atol=1e-9)


def test_white_data_of_a_deep_network():
    """Overlaps of the layers with the targets: sixteen layers, eight orthogonal inputs."""
    y = np.array([1, -1] * 4) / np.sqrt(8)
    found = deep_linear_posterior(np.eye(8), y, depth=16, richness=4.0, inverse_temperature=10.0)
    overlaps = [float(y @ k @ y) for k in found.kernels]
    assert [round(c, 3) for c in overlaps[:2]] == [1.286, 1.653]
    assert round(overlaps[-1], 2) == 55.79


def test_three_roots_and_the_least_action():
    found = deep_linear_posterior(np.eye(1), np.ones(1), depth=4, richness=30.0, inverse_temperature=0.01)
    np.testing.assert_allclose(found.gains, [1.775, 12.0, 110.8], rtol=2e-3)
    assert found.gain == found.gains[np.argmin(found.actions)]


def test_the_action_is_stationary_at_every_root():
    """(AK.9) as a function of the gain, with the dual coefficients that (AK.8) gives for any gain."""
    ridge, depth, richness = 100.0, 4, 30.0

    def action(g: float) -> float:
        return 0.5 * (depth * (g ** (1 / depth) - 1) - np.log(g)) + 0.5 * richness**2 / (g + ridge)

    found = deep_linear_posterior(np.eye(1), np.ones(1), depth=depth, richness=richness, inverse_temperature=0.01)
    for g, value in zip(found.gains, found.actions, strict=True):
        assert abs(action(g * 1.0001) - action(g * 0.9999)) < 1e-6
        assert value == pytest.approx(action(g), rel=1e-12)


def test_without_richness_nothing_is_learned():
    found = deep_linear_posterior(GRAM, TARGETS, depth=3, richness=0.0, inverse_temperature=2.0)
    assert found.gain == 1.0
    for kernel in found.kernels:
        np.testing.assert_array_equal(kernel, GRAM)


def test_more_samples_than_dimensions():
    inputs = RNG.normal(size=(6, 2))
    gram = inputs @ inputs.T / 2
    found = deep_linear_posterior(gram, TARGETS, depth=2, richness=1.0, inverse_temperature=5.0)
    np.testing.assert_allclose(found.kernels[-1] @ found.coefficients + found.coefficients / 5, TARGETS, atol=1e-11)
    with pytest.raises(InvalidInput, match="the inputs have rank 2 of 6"):
        deep_linear_posterior(gram, TARGETS, depth=2, richness=1.0, inverse_temperature=np.inf)
