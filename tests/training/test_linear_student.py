"""Exact evolution against step-by-step optimization, and identities of the draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foretrain.errors import InvalidInput
from foretrain.problems import GradientDescent, GradientFlow, Momentum, MomentumFlow, Ridge, Schedule
from foretrain.tasks import PowerLawSpectrum, Spectrum
from foretrain.training import _linear_student as linear
from foretrain.training import evolve, linear_draws, refine

MODES = 30
EIGENVALUES = np.arange(1, MODES + 1) ** -1.3
COEFFICIENTS = np.arange(1, MODES + 1) ** -0.2
STEPS = np.array([0.0, 1.0, 7.0, 300.0])


def only(width, samples, seed=3, **options):
    ((_, _, draw),) = linear_draws(EIGENVALUES, COEFFICIENTS, [width], [samples], seed, **options)
    return draw


def raw(width, samples, seed=3, student=0):
    """The random numbers of a draw, put together without any of the code that decomposes them."""
    data = linear._data(EIGENVALUES, (0, slice(0, MODES)), samples, seed)
    projections = linear._gaussians(seed, (linear._FEATURES, student, 0), width, MODES)
    noise = linear._generator(seed, linear._NOISE).standard_normal(samples)
    return data, projections, noise


def step_by_step(width, samples, noise_variance, rates, beta, steps, seed=3):
    """Literal heavy-ball descent on the parameters, gradients by automatic differentiation."""
    data, projections, noise = raw(width, samples, seed)
    with jax.enable_x64(True):
        features = jnp.asarray(data @ projections.T / np.sqrt(width))
        answers = jnp.asarray(data @ COEFFICIENTS + np.sqrt(noise_variance) * noise)

        def objective(weights):
            return jnp.sum((answers - features @ weights) ** 2) / (2 * samples)

        def step(carry, rate):
            weights, previous = carry
            new = weights - rate * jax.grad(objective)(weights) + beta * (weights - previous)
            return (new, weights), new

        start = jnp.zeros(width)
        _, path = jax.lax.scan(step, (start, start), jnp.asarray(rates))
        path = np.concatenate([np.zeros((1, width)), np.asarray(path)])[np.asarray(steps, dtype=int)]
        train = [2 * float(objective(jnp.asarray(w))) for w in path]
    error = COEFFICIENTS - path @ projections / np.sqrt(width)
    return np.sum(EIGENVALUES * error**2, axis=1), np.array(train)


@pytest.mark.parametrize(("width", "samples"), [(8, 20), (20, 8), (50, 12), (12, 12), (50, 60)])
def test_descent_is_the_literal_loop(width, samples):
    schedule = Schedule("cosine", steps=200, warmup=20)
    for protocol, rates, beta in (
        (GradientDescent(learning_rate=0.4), np.full(300, 0.4), 0.0),
        (GradientDescent(learning_rate=0.6, schedule=schedule), 0.6 * schedule.factors(300), 0.0),
        (Momentum(learning_rate=0.3, momentum=0.8), np.full(300, 0.3), 0.8),
    ):
        draw = only(width, samples)
        got = evolve(draw.students, draw.moments, protocol, STEPS, noise=[0.0, 0.25])
        test, train = step_by_step(width, samples, 0.25, rates, beta, STEPS)
        # Two roads that round differently over 300 steps; losses of order one.
        np.testing.assert_allclose(got.test_loss[1, 0], test, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(got.train_loss[1, 0], train, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("width", "samples"), [(8, 20), (20, 8), (np.inf, 20), (np.inf, 60)])
def test_ridge_is_the_normal_equations(width, samples):
    draw = only(width, samples)
    got = evolve(draw.students, draw.moments, Ridge(ridge=0.05), None, noise=[0.25])
    if np.isinf(width):
        data, _, noise = raw(1, samples)
        features, back = data, np.eye(MODES)
    else:
        data, projections, noise = raw(width, samples)
        features, back = data @ projections.T / np.sqrt(width), projections / np.sqrt(width)
    answers = data @ COEFFICIENTS + 0.5 * noise
    size = features.shape[1]
    weights = np.linalg.solve(features.T @ features / samples + 0.05 * np.eye(size), features.T @ answers / samples)
    test = np.sum(EIGENVALUES * (COEFFICIENTS - weights @ back) ** 2)
    np.testing.assert_allclose(got.test_loss[0, 0, 0], test, rtol=1e-11)
    np.testing.assert_allclose(got.train_loss[0, 0, 0], np.mean((answers - features @ weights) ** 2), rtol=1e-11)


def test_infinite_sizes_are_single_exponentials():
    times = np.array([0.0, 3.0, 50.0, np.inf])
    draw = only(np.inf, np.inf)
    got = evolve(draw.students, draw.moments, GradientFlow(), times, noise=[0.3])
    decay = np.exp(-2 * np.outer([0.0, 3.0, 50.0, 1e300], EIGENVALUES))
    expected = decay @ (EIGENVALUES * COEFFICIENTS**2)
    np.testing.assert_allclose(got.test_loss[0, 0], expected, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(got.train_loss[0, 0], expected + 0.3, rtol=1e-12)


def test_population_training_of_a_finite_width():
    """P = inf is the ODE of the population loss, here integrated in the basis of the raw projections."""
    from scipy.linalg import expm

    _, projections, _ = raw(9, 1)
    tangent = projections.T @ projections / 9 * EIGENVALUES
    draw = only(9, np.inf)
    got = evolve(draw.students, draw.moments, GradientFlow(), np.array([0.5, 20.0]))
    expected = [np.sum(EIGENVALUES * (expm(-tangent * t) @ COEFFICIENTS) ** 2) for t in (0.5, 20.0)]
    np.testing.assert_allclose(got.test_loss[0, 0], expected, rtol=1e-12)


def test_ensemble_is_the_mean_prediction():
    width, samples = 9, 25
    draw = only(width, samples, students=3)
    got = evolve(draw.students, draw.moments, Ridge(ridge=0.01), None, noise=[0.25], ensemble=[1, 2, 3])
    errors, residuals = [], []
    for e in range(3):
        data, projections, noise = raw(width, samples, student=e)
        features = data @ projections.T / np.sqrt(width)
        answers = data @ COEFFICIENTS + 0.5 * noise
        weights = np.linalg.solve(features.T @ features + 0.01 * samples * np.eye(width), features.T @ answers)
        errors.append(COEFFICIENTS - weights @ projections / np.sqrt(width))
        residuals.append(answers - features @ weights)
        mean = np.mean(errors, axis=0)
        np.testing.assert_allclose(got.test_loss[0, e, 0], np.sum(EIGENVALUES * mean**2), rtol=1e-10)
        np.testing.assert_allclose(got.train_loss[0, e, 0], np.mean(np.mean(residuals, axis=0) ** 2), rtol=1e-10)


def test_a_size_gets_the_same_draw_in_every_sweep(monkeypatch):
    times = np.array([2.0, 1e3])
    swept = {
        (width, size): evolve(draw.students, draw.moments, GradientFlow(), times, noise=[0.1]).test_loss
        for i, j, draw in linear_draws(EIGENVALUES, COEFFICIENTS, [5, 50, np.inf, 12], [40, 7, np.inf], 11)
        for width, size in [((5, 50, np.inf, 12)[i], (40, 7, np.inf)[j])]
    }
    for (width, size), value in swept.items():
        draw = only(width, size, seed=11)
        alone = evolve(draw.students, draw.moments, GradientFlow(), times, noise=[0.1]).test_loss
        np.testing.assert_allclose(alone, value, rtol=1e-9)  # order of summation, through 1e3 units of time


def test_blocks_of_modes_only_split_the_sum(monkeypatch):
    monkeypatch.setattr(linear, "MODE_BLOCK", 7)
    for width, size in ((9, 20), (60, 20), (np.inf, 20), (np.inf, 50)):
        ((_, _, draw),) = linear_draws(EIGENVALUES, COEFFICIENTS, [width], [size], 5)
        data = np.concatenate([linear._data(EIGENVALUES, b, size, 5) for b in linear._blocks(MODES)], axis=1)
        noise = linear._generator(5, linear._NOISE).standard_normal(size)
        if np.isinf(width):
            features, back = data, np.eye(MODES)
        else:
            a = [
                linear._gaussians(5, (linear._FEATURES, 0, i), width, len(EIGENVALUES[s]))
                for i, s in linear._blocks(MODES)
            ]
            back = np.concatenate(a, axis=1) / np.sqrt(width)
            features = data @ back.T
        answers = data @ COEFFICIENTS + noise
        system = features.T @ features / size + 0.1 * np.eye(features.shape[1])
        weights = np.linalg.solve(system, features.T @ answers / size)
        expected = np.sum(EIGENVALUES * (COEFFICIENTS - weights @ back) ** 2)
        got = evolve(draw.students, draw.moments, Ridge(ridge=0.1), None, noise=[1.0]).test_loss[0, 0, 0]
        np.testing.assert_allclose(got, expected, rtol=1e-11)


def test_momentum_flow_tends_to_flow():
    draw = only(9, 25)
    flow = evolve(draw.students, draw.moments, GradientFlow(), np.array([5.0])).test_loss
    gaps = [
        evolve(draw.students, draw.moments, MomentumFlow(momentum=b), np.array([5.0])).test_loss - flow
        for b in (1e-3, 1e-4)
    ]
    assert gaps[0][0, 0, 0] / gaps[1][0, 0, 0] == pytest.approx(10, rel=0.02)  # first order in beta, next term 1e-3


def test_divergence_is_infinite_after_time_zero():
    draw = only(9, 25)
    got = evolve(draw.students, draw.moments, GradientDescent(learning_rate=50.0), np.array([0.0, 1.0, 1e6]))
    assert np.isfinite(got.test_loss[0, 0, 0])
    assert np.all(np.isinf(got.test_loss[0, 0, 1:]))


def test_only_the_students_of_an_ensemble_count_for_its_stability():
    """A rate between the edges of two students: the one that is stable trains, their mean diverges."""
    for seed in range(20):
        draw = only(9, 25, seed=seed, students=2)
        first, second = (student.eigenvalues.max() for student in draw.students)
        if second > 1.1 * first:
            break
    protocol = GradientDescent(learning_rate=2 / (0.5 * (first + second)))
    got = evolve(draw.students, draw.moments, protocol, STEPS, ensemble=[1, 2])
    assert np.isfinite(got.test_loss[0, 0]).all()
    assert np.isinf(got.test_loss[0, 1, 1:]).all()
    assert got.largest_eigenvalue == first


def test_many_times_are_the_single_times():
    draw = only(9, 25)
    times = np.geomspace(0.1, 1e4, 70)
    got = evolve(draw.students, draw.moments, GradientFlow(), times, noise=[0.1])
    for position in (0, 31, 32, 69):
        alone = evolve(draw.students, draw.moments, GradientFlow(), times[[position]], noise=[0.1])
        np.testing.assert_allclose(got.test_loss[..., position], alone.test_loss[..., 0], rtol=1e-12)
        np.testing.assert_allclose(got.train_loss[..., position], alone.train_loss[..., 0], rtol=1e-12)


def test_refine_keeps_the_problem():
    spectrum = Spectrum([1.0, 0.5], [1.0, 3.0], [2.0, 1.0])
    refined, width, samples = refine(spectrum, 4, np.inf, 3)
    assert refined.total_power == spectrum.total_power
    assert refined.modes == 9
    assert (width, samples) == (12, np.inf)
    with pytest.raises(InvalidInput, match="replicas"):
        refine(spectrum, 4, 4, 0)


def test_modes_that_cannot_be_simulated():
    with pytest.raises(InvalidInput, match="modes = inf"):
        linear.explicit_modes(PowerLawSpectrum(1.5, 0.6))
    with pytest.raises(InvalidInput, match="whole multiplicities"):
        linear.explicit_modes(Spectrum([1.0], [1.0], [2.5]))
    values, _, _ = linear.explicit_modes(Spectrum([0.0, 0.5, 1.0], [1.0, 1.0, 1.0], [1.0, 2.0, 1.0]))
    assert values.tolist() == [1.0, 0.5, 0.5]
