"""The tangent kernel of a network at its start: by hand, against the infinite width, and as what training does."""

import jax
import numpy as np
import pytest

from foretrain.errors import InvalidInput, UnsupportedProblem
from foretrain.kernels import NTK
from foretrain.problems import MLP, ConvResNet, NetworkTraining, Problem
from foretrain.tasks import Circle, Digits, PowerLaw
from foretrain.training import InitialKernel, run_network

TASK = Circle(exponent=1.0, points=48, modes=12)
X = TASK.load().inputs


def problem(model, *, task=TASK, **training):
    return Problem(task, model, NetworkTraining(**{"learning_rate": 0.5, "centre": True} | training))


@pytest.mark.parametrize(("activation", "power"), [("relu", 1), ("relu-2", 2)])
@pytest.mark.parametrize("richness", [1.0, 0.01])
def test_two_layers_by_hand(activation, power, richness):
    """Sum over units of readout, weights and biases; the richness cancels between the outputs and the rates."""
    kernel = InitialKernel(problem(MLP(96, 1, activation, richness=richness, bias=True)), seed=3)
    first, last = kernel.params.first.weight, kernel.params.last.weight[0]
    h = X @ np.asarray(first, np.float64).T / np.sqrt(2)
    value, slope = np.maximum(h, 0) ** power, power * np.maximum(h, 0) ** (power - 1) * (h > 0)
    carried = slope * np.asarray(last, np.float64)
    # The bias of the readout is trained at the plain rate.
    expected = (value @ value.T + carried @ carried.T * (X @ X.T / 2 + 1)) / 96 + 1
    np.testing.assert_allclose(kernel(X), expected, rtol=2e-5, atol=2e-5)  # float32
    np.testing.assert_allclose(kernel.diagonal(X), np.diagonal(expected), rtol=2e-5)
    np.testing.assert_allclose(kernel(X[:5], X[7:]), expected[:5, 7:], rtol=2e-5, atol=2e-5)


def test_wide_networks_tend_to_the_infinite_width():
    kernel = InitialKernel(problem(MLP(20000, 1, "relu")), seed=0)
    limit = NTK(1, "relu", weight_variance=1.0)(X)
    assert np.linalg.norm(kernel(X) - limit) < 0.03 * np.linalg.norm(limit)  # 1 / sqrt(width) = 0.007


def test_training_at_small_richness_follows_the_kernel():
    """Fifty steps of gradient descent are fifty products with 1 - eta K / P."""
    lazy = problem(MLP(512, 1, "relu", richness=1e-3, bias=True), dtype="float64")
    runs = run_network(lazy, [0, 1, 50], seeds=[5])
    kernel = InitialKernel(lazy, seed=5)(X) / len(X)
    values, vectors = np.linalg.eigh(kernel)
    power = (vectors.T @ TASK.load().targets[:, 0]) ** 2 / len(X)
    expected = [np.sum(power * (1 - 0.5 * values) ** (2 * n)) for n in (0, 1, 50)]
    np.testing.assert_allclose(runs.train_loss[0, 0], expected, rtol=1e-3)


def test_precision_is_that_of_the_training():
    kernel = InitialKernel(problem(MLP(16, 1), dtype="float64"))
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(kernel.params))
    low = InitialKernel(problem(MLP(16, 1)))
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(low.params))


def test_convolutional_networks_and_seeds():
    task = Digits(classes=[0, 1])
    inputs = task.load().inputs[:6]
    conv = problem(ConvResNet(8, 2, stride=2), task=task, samples=200)
    one, same, other = (InitialKernel(conv, seed=s)(inputs) for s in (0, 0, 1))
    assert np.array_equal(one, same)
    assert np.linalg.norm(one - other) > 0.01 * np.linalg.norm(one)
    assert np.linalg.eigvalsh(one)[0] > 0


def test_optimizers_that_no_kernel_describes():
    with pytest.raises(InvalidInput, match=r"InitialKernel: optimizer: expected 'sgd', .* got 'adam'"):
        InitialKernel(problem(MLP(16, 1), optimizer="adam"))


def test_tasks_without_rows():
    with pytest.raises(UnsupportedProblem, match="has a spectrum only"):
        InitialKernel(problem(MLP(16, 1), task=PowerLaw(1.5, 0.5)))
