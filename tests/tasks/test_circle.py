"""The task on the circle: its spectrum by Fourier transform, its points, and the kernels that see it."""

import numpy as np
import pytest

from foretrain.errors import InvalidInput
from foretrain.kernels import NNGP, NTK, measure_spectrum
from foretrain.tasks import TASKS, Circle


def coefficients(values):
    """Power of a function on an even grid by frequency, both signs together."""
    found = 2 * np.abs(np.fft.rfft(values) / len(values)) ** 2
    found[0] /= 2
    return found


@pytest.mark.parametrize("exponent", [0.75, 1.0, 2.5])
def test_coefficients_are_the_power_law(exponent):
    data = Circle(exponent=exponent, points=400, modes=150, seed=3).load()
    power = coefficients(data.targets[:, 0])
    k = np.arange(1.0, 151.0)
    expected = k ** (-2 * exponent)
    np.testing.assert_allclose(power[1:151], expected / expected.sum(), rtol=1e-9)
    assert power[0] < 1e-28
    assert np.max(power[151:]) < 1e-28
    assert np.sum(Circle(exponent=exponent, points=400, modes=150).power()[1]) == pytest.approx(1.0, rel=1e-14)


def test_modes_default_to_what_the_points_resolve():
    for points, highest in ((64, 31), (65, 32), (3, 1)):
        assert Circle(exponent=1.0, points=points).power()[0][-1] == highest


@pytest.mark.parametrize(("frequencies", "kept"), [("even", 0), ("odd", 1)])
def test_parity(frequencies, kept):
    data = Circle(exponent=1.0, points=64, frequencies=frequencies).load()
    power = coefficients(data.targets[:, 0])
    assert np.all(power[2 if kept == 0 else 1 : 31 : 2] > 1e-6)
    assert np.max(power[1 - kept :: 2]) < 1e-28
    sign = 1 if kept == 0 else -1
    np.testing.assert_allclose(data.targets[32:], sign * data.targets[:32], atol=1e-12)


def test_test_points_are_the_same_function_between_the_points():
    data = Circle(exponent=1.0, points=64, modes=20, test_points=128, seed=1).load()
    assert data.test_inputs is not None
    angles = np.sort(np.mod(np.arctan2(data.test_inputs[:, 1], data.test_inputs[:, 0]), 2 * np.pi))
    np.testing.assert_allclose(angles, 2 * np.pi * (np.arange(128) + 0.5) / 128, atol=1e-12)
    order = np.argsort(np.mod(np.arctan2(data.test_inputs[:, 1], data.test_inputs[:, 0]), 2 * np.pi))
    assert not np.array_equal(order, np.arange(128))
    # The series with the coefficients of the training points, summed at the test points: another road to the same values.
    spectrum = np.fft.rfft(data.targets[:, 0]) / 64
    series = np.real(spectrum[0] + 2 * sum(spectrum[k] * np.exp(1j * k * angles) for k in range(1, 32)))
    np.testing.assert_allclose(data.test_targets[order, 0], series, atol=1e-12)


def test_phases_belong_to_the_seed():
    one, same, other = (Circle(exponent=1.0, points=32, seed=s).load().targets for s in (0, 0, 1))
    assert np.array_equal(one, same)
    assert np.max(np.abs(one - other)) > 0.1


def test_inputs_have_unit_mean_square_with_and_without_the_constant():
    for constant, columns in ((False, 2), (True, 3)):
        inputs = Circle(exponent=1.0, points=32, constant=constant).load().inputs
        assert inputs.shape == (32, columns)
        np.testing.assert_allclose(np.mean(inputs**2, axis=1), 1.0, rtol=1e-14)


@pytest.mark.parametrize(("activation", "power"), [("relu", 1), ("relu-2", 2)])
def test_tangent_kernels_decay_as_stated(activation, power):
    """Eigenvalues of a circulant Gram matrix are its Fourier coefficients: slope -2p, all frequencies alive."""
    inputs = Circle(exponent=1.0, points=2048, constant=True).load().inputs
    row = NTK(1, activation)(inputs[:1], inputs)[0]
    eigenvalues = np.real(np.fft.fft(row))[: 1024 // 4] / 2048
    assert np.all(eigenvalues > 0)
    k = np.arange(16, 128)
    slope = np.polyfit(np.log(k), np.log(eigenvalues[k]), 1)[0]
    # Even and odd frequencies have different corrections of relative order 1 / k.
    assert slope == pytest.approx(-2 * power, abs=0.06)


def test_relu_without_bias_does_not_see_odd_frequencies():
    inputs = Circle(exponent=1.0, points=512).load().inputs
    for kernel in (NTK(1, "relu"), NNGP(1, "relu")):
        eigenvalues = np.real(np.fft.fft(kernel(inputs[:1], inputs)[0])) / 512
        assert np.max(np.abs(eigenvalues[3:64:2])) < 1e-3 * np.min(eigenvalues[2:64:2])


def test_capacity_and_source_as_measured():
    """What a user would measure, blind to where the data come from: capacity 2, source (2 q - 1) / 2, no noise."""
    data = Circle(exponent=1.0, points=600, constant=True).load()
    measured = measure_spectrum(NTK(1, "relu"), data.inputs, data.targets)
    assert measured.capacity.low < 2 < measured.capacity.high
    assert measured.source.low < 0.5 < measured.source.high
    assert measured.source.high < 1  # hard, without doubt
    assert measured.noise.value < 0.01


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"exponent": 0.5}, "exponent: expected a number > 0.5, got 0.5"),
        ({"exponent": [1.0, 2.0]}, "exponent"),
        ({"points": 2}, "points: expected a whole number >= 3, got 2"),
        ({"points": 64, "modes": 32}, "modes: expected at most 31, as many as 64 points resolve, got 32"),
        ({"modes": 1, "frequencies": "even"}, "frequencies: no frequency up to 1 is even"),
        ({"frequencies": "evn"}, "did you mean 'even'"),
    ],
)
def test_bad_declarations(changes, words):
    with pytest.raises(InvalidInput, match=words):
        Circle(**{"exponent": 1.0} | changes)


def test_registered():
    assert TASKS["circle"] is Circle
