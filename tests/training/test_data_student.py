"""Random networks and kernels on data: against plain optimization, the kernel limit, and the literal test error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foretrain import (
    NNGP,
    NTK,
    Arrays,
    Digits,
    GradientDescent,
    GradientFlow,
    Kernel,
    Problem,
    RandomFeatures,
    Ridge,
    train,
)
from foretrain.problems import ACTIVATIONS
from foretrain.training import _data_student as students
from foretrain.training import evolve, network_features
from foretrain.training._linear_student import _generator

RNG = np.random.default_rng(7)
INPUTS = RNG.standard_normal((60, 12))
TARGETS = np.stack([np.sign(INPUTS[:, 0]), INPUTS[:, 1] * INPUTS[:, 2]], axis=1)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("depth", [1, 3])
def test_features_tend_to_the_kernel(activation, depth):
    """The mean over networks of the product of features is the NNGP kernel; exactly at depth 1, to O(1/N) beyond."""
    x = INPUTS[:6]
    width, draws = 512, 60
    grams = []
    for i in range(draws):
        phi = network_features(x, width, np.random.default_rng(i), depth=depth, activation=activation)
        grams.append(phi.astype(np.float64) @ phi.T.astype(np.float64))
    mean, stderr = np.mean(grams, axis=0), np.std(grams, axis=0, ddof=1) / np.sqrt(draws)
    kernel = NNGP(depth=depth, activation=activation)(x)
    bias = (depth - 1) * 3.0 / width * np.sqrt(np.outer(np.diag(kernel), np.diag(kernel)))
    # 21 different entries: |z| < 4.5 keeps the chance of a false alarm below 2e-4 a case.
    assert np.all(np.abs(mean - kernel) < 4.5 * stderr + bias)


def rows_of(seed, data, most):
    order = _generator(seed, students._ORDER).permutation(len(data.inputs))
    return order[:most], order[most:]


def test_descent_on_a_network_is_the_literal_loop():
    """Gradient descent on the readout parameters, two outputs, loss read off from predictions."""
    task = Arrays(inputs=INPUTS, targets=TARGETS)
    problem = Problem(
        task, RandomFeatures(width=16, depth=2, activation="gelu"), GradientDescent(learning_rate=0.5, samples=25)
    )
    got = train(problem, [0, 1, 10, 150], seeds=1, seed=5)
    chosen, rest = rows_of(5, task, 25)
    phi = network_features(INPUTS, 16, _generator(5, students._WEIGHTS, 2, 0), depth=2, activation="gelu").astype(
        np.float64
    )
    with jax.enable_x64(True):
        inputs, answers = jnp.asarray(phi[chosen]), jnp.asarray(TARGETS[chosen])

        def objective(weights):
            return jnp.sum((answers - inputs @ weights) ** 2) / (2 * 25)

        def step(weights, _):
            new = weights - 0.5 * jax.grad(objective)(weights)
            return new, new

        start = jnp.zeros((16, 2))
        _, path = jax.lax.scan(step, start, length=150)
        path = np.concatenate([np.zeros((1, 16, 2)), np.asarray(path)])
    for position, steps in enumerate((0, 1, 10, 150)):
        test = np.mean(np.sum((TARGETS[rest] - phi[rest] @ path[steps]) ** 2, axis=1))
        learned = np.mean(np.sum((TARGETS[chosen] - phi[chosen] @ path[steps]) ** 2, axis=1))
        # Features pass through float32 products of different shapes: 1e-7 each, amplified by training.
        np.testing.assert_allclose(got.values("test_loss")[position], test, rtol=1e-5)
        np.testing.assert_allclose(got.values("train_loss")[position], learned, rtol=1e-5)


@pytest.mark.parametrize(("name", "kernel"), [("nngp", NNGP(depth=2)), ("ntk", NTK(depth=2))])
def test_infinite_width_is_kernel_ridge_regression(name, kernel):
    task = Arrays(inputs=INPUTS, targets=TARGETS, test_inputs=INPUTS[:9] + 0.1, test_targets=TARGETS[:9])
    problem = Problem(task, Kernel(kernel=name, depth=2), Ridge(ridge=0.03, samples=25))
    got = train(problem, seeds=1, seed=5)
    chosen, _ = rows_of(5, task, 25)
    gram = kernel(INPUTS[chosen])
    weights = np.linalg.solve(gram + 25 * 0.03 * np.eye(25), TARGETS[chosen])
    predictions = kernel(INPUTS[:9] + 0.1, INPUTS[chosen]) @ weights
    np.testing.assert_allclose(
        got.values("test_loss"), np.mean(np.sum((TARGETS[:9] - predictions) ** 2, axis=1)), rtol=1e-10
    )
    np.testing.assert_allclose(
        got.values("train_loss"), np.mean(np.sum((TARGETS[chosen] - gram @ weights) ** 2, axis=1)), rtol=1e-10
    )


def test_wide_networks_approach_their_kernel():
    """At equal training rows the gap to the kernel falls like 1/N: between N and 4N by about 4."""
    problem = Problem(
        Arrays(inputs=INPUTS, targets=TARGETS),
        RandomFeatures(width=[64, 256, float("inf")], activation="relu"),
        GradientFlow(samples=25),
    )
    loss = train(problem, [3.0], seeds=400).values("test_loss")[:, 0]
    assert 2.5 < (loss[0] - loss[2]) / (loss[1] - loss[2]) < 6.5


def test_draws_do_not_depend_on_the_sweep():
    data = Arrays(inputs=INPUTS, targets=TARGETS).load()
    kernel = NNGP()
    swept = {
        (i, j): evolve(d.students, d.moments, GradientFlow(), np.array([4.0])).test_loss
        for i, j, d in students.data_draws(data, [8, np.inf, 30], [20, 9], 2, kernel=kernel, students=2)
    }
    for (i, j), value in swept.items():
        width, size = (8, np.inf, 30)[i], (20, 9)[j]
        ((_, _, draw),) = students.data_draws(data, [width], [size], 2, kernel=kernel)
        alone = evolve(draw.students, draw.moments, GradientFlow(), np.array([4.0])).test_loss
        np.testing.assert_allclose(alone, value, rtol=1e-5)  # float32 features


@pytest.mark.parametrize("width", [8, np.inf])
@pytest.mark.parametrize("most", [4, 15, 100])
def test_test_rows_are_never_trained_on(monkeypatch, width, most):
    """With targets that are pure labels of the row, the test moments must not see a training row."""
    monkeypatch.setattr(students, "MOST_TEST_ROWS", most)
    targets = np.eye(60)
    data = Arrays(inputs=INPUTS, targets=targets).load()
    for _, j, draw in students.data_draws(data, [width], [20, 35, 50], 2, kernel=NNGP()):
        size = (20, 35, 50)[j]
        trained = draw.students[0].targets[:, :, 0].sum(axis=0) > 0
        tested = np.abs(draw.moments.cross).sum(axis=0) > 0
        assert trained.sum() == size
        assert tested.sum() == min(most, 60 - size)
        assert not np.any(trained & tested)


def test_digits_learn():
    problem = Problem(Digits(), RandomFeatures(width=[32, 256], activation="relu"), GradientFlow(samples=[64, 512]))
    curves = train(problem, [0.0, 1e2, 1e4], seeds=2)
    loss = curves.values("test_loss")
    np.testing.assert_allclose(loss[..., 0], 1.0, rtol=1e-12)  # one-hot targets: one unit of power per row
    assert np.all(loss[1, 1, 2] < 0.35)
    assert np.all(loss[1, 1] <= loss[0, 0])
