"""The posterior of one hidden layer: limits, identities, two roads, and finite networks that are sampled."""

import math

import numpy as np
import pytest

from foretrain.errors import InvalidInput
from foretrain.kernels import NNGP
from foretrain.limits.bayesian import deep_linear_posterior, hidden_layer_posterior

X = np.array([[1.0, 0.4], [-0.7, 1.1], [0.3, -1.3]])
Y = np.array([[1.0], [-1.0], [0.5]])
X_TEST = np.array([[0.9, -0.2], [-1.0, -1.0]])


def solved(x=X, y=Y, x_test=X_TEST, *, activation="tanh", richness=1.0, beta=10.0, **options):
    return hidden_layer_posterior(
        x, y, x_test, activation=activation, richness=richness, inverse_temperature=beta, **options
    )


@pytest.mark.parametrize(
    ("activation", "tolerance"), [("relu", 1e-9), ("tanh", 1e-12), ("erf", 1e-12), ("gelu", 1e-5), ("linear", 1e-10)]
)
def test_without_richness_it_is_the_kernel_of_the_prior(activation, tolerance):
    kernel = NNGP(depth=1, activation=activation, weight_variance=1.0)
    # Test inputs that leave the plane of the training inputs, which adds a part that no training input sees.
    x = np.column_stack([X, np.zeros(3)])
    x_test = np.column_stack([X_TEST, [0.8, 0.0]])
    found = solved(x, Y, x_test, activation=activation, richness=0.0)
    a = np.linalg.solve(kernel(x) + 0.1 * np.eye(3), Y)
    np.testing.assert_allclose(found.kernel, kernel(x), atol=tolerance)
    np.testing.assert_allclose(found.f_test, kernel(x_test, x) @ a, atol=tolerance * 20)


@pytest.mark.parametrize("activation", ["relu", "leaky-relu", "tanh", "erf"])
def test_residuals_are_the_dual_coefficients(activation):
    found = solved(activation=activation, richness=1.5)
    assert found.converged
    np.testing.assert_allclose(found.f_train, found.kernel @ found.coefficients, atol=1e-12)
    np.testing.assert_allclose(Y - found.f_train, found.coefficients / 10.0, atol=1e-10)


@pytest.mark.parametrize("richness", [0.5, 3.0])
def test_a_linear_hidden_layer_has_a_closed_form(richness):
    found = solved(activation="linear", richness=richness)
    exact = deep_linear_posterior(X @ X.T / 2, Y[:, 0], depth=1, richness=richness, inverse_temperature=10.0)
    np.testing.assert_allclose(found.kernel, exact.kernels[0], rtol=1e-9)
    np.testing.assert_allclose(found.f_test[:, 0], exact.gain * (X_TEST @ X.T / 2) @ exact.coefficients, rtol=1e-9)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_larger_targets_at_smaller_richness(activation):
    """y -> c y, gamma -> gamma / c: f -> c f, the same kernel."""
    one, other = solved(activation=activation), solved(y=3 * Y, activation=activation, richness=1 / 3)
    np.testing.assert_allclose(other.f_test, 3 * one.f_test, rtol=1e-9)
    np.testing.assert_allclose(other.kernel, one.kernel, atol=1e-10)


def test_outputs_share_the_kernel_and_may_be_rotated():
    y = np.hstack([Y, [[0.2], [0.7], [-0.4]]])
    turn = np.array([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]])
    one, other = solved(y=y), solved(y=y @ turn)
    np.testing.assert_allclose(other.f_test, one.f_test @ turn, atol=1e-10)
    np.testing.assert_allclose(other.kernel, one.kernel, atol=1e-11)
    silent = solved(y=np.hstack([Y, np.zeros_like(Y)]))
    np.testing.assert_allclose(silent.f_test[:, :1], solved().f_test, atol=1e-10)
    np.testing.assert_allclose(silent.f_test[:, 1], 0.0, atol=1e-12)


def test_a_cold_posterior_interpolates():
    found = solved(beta=math.inf, activation="erf")
    np.testing.assert_allclose(found.f_train, Y, atol=1e-9)


def test_richness_moves_the_kernel_towards_the_targets():
    alignment = [
        float((Y.T @ f.kernel @ Y).item() / np.linalg.norm(f.kernel))
        for f in (solved(richness=g, activation="relu") for g in (0.0, 0.5, 2.0))
    ]
    assert alignment[0] < alignment[1] < alignment[2]


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_particles_agree_with_quadrature(activation):
    exact = solved(activation=activation)
    found = solved(activation=activation, method="particles", particles=2000, sweeps=30, seed=3)
    assert found.converged
    # Half the difference of two clouds is the error of their mean, from one degree of freedom a point: a wide margin.
    error = np.sqrt(np.mean((found.f_test - exact.f_test) ** 2))
    assert error < 5 * max(found.seed_error, 0.003)
    assert error > 0
    np.testing.assert_allclose(found.kernel, exact.kernel, atol=0.03)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: solved(activation="relu-2"), "grow faster than linearly have no posterior"),
        (lambda: solved(activation="tan"), "expected one of 'relu', .*did you mean 'tanh'"),
        (lambda: solved(method="exact"), "expected one of 'auto', 'quadrature', 'particles'"),
        (
            lambda: solved(np.eye(3), Y, np.eye(3), method="quadrature"),
            "expected inputs of rank at most 2, got rank 3; use 'particles'",
        ),
    ],
)
def test_wrong_arguments(make, words):
    with pytest.raises(InvalidInput, match=words):
        make()


def _sampled_outputs(width: int, richness: float, beta: float, samples: int, chains: int) -> np.ndarray:
    """Mean outputs at the training inputs of independent Hamiltonian Monte Carlo chains of a finite tanh network."""
    rng = np.random.default_rng(width)
    w, z = rng.normal(size=(chains, width, 2)), rng.normal(size=(chains, width))
    inputs = X / math.sqrt(2)

    def energy(w, z):
        phi = np.tanh(w @ inputs.T)
        f = np.einsum("ci,cim->cm", z, phi) / (richness * width)
        miss = f - Y[:, 0]
        squares = np.sum(w * w, axis=(1, 2)) + np.sum(z * z, axis=1)
        value = 0.5 * squares + 0.5 * beta * width * richness**2 * np.sum(miss * miss, axis=1)
        pull = beta * richness * miss[:, None, :]
        return value, w + ((1 - phi * phi) * pull * z[:, :, None]) @ inputs, z + np.sum(phi * pull, axis=2), f

    step, total = 0.15, 0.0
    value, gw, gz, f = energy(w, z)
    for number in range(samples):
        p, q = rng.normal(size=w.shape), rng.normal(size=z.shape)
        start = value + 0.5 * np.sum(p * p, axis=(1, 2)) + 0.5 * np.sum(q * q, axis=1)
        new = (w, z, value, gw, gz, f)
        for _ in range(12):
            p, q = p - 0.5 * step * new[3], q - 0.5 * step * new[4]
            moved = (new[0] + step * p, new[1] + step * q)
            value_, a, b, f_ = energy(*moved)
            new = (*moved, value_, a, b, f_)
            p, q = p - 0.5 * step * a, q - 0.5 * step * b
        end = new[2] + 0.5 * np.sum(p * p, axis=(1, 2)) + 0.5 * np.sum(q * q, axis=1)
        kept = np.log(rng.random(chains)) < start - end
        w, z, value, gw, gz, f = (
            np.where(kept.reshape(-1, *[1] * (old.ndim - 1)), fresh, old)
            for fresh, old in zip(new, (w, z, value, gw, gz, f), strict=True)
        )
        if number >= samples // 5:
            total = total + f
    return total / (samples - samples // 5)


@pytest.mark.long
def test_finite_networks_sampled_from_the_posterior_approach_it():
    """Means over chains at two widths, extrapolated in 1/N, within four standard errors."""
    exact = solved(richness=1.0).f_train[:, 0]
    chains = 16
    runs = [_sampled_outputs(width, 1.0, 10.0, 2000, chains) for width in (60, 120)]
    means, errors = (
        [f(run) for run in runs] for f in (lambda r: r.mean(0), lambda r: r.std(0, ddof=1) / math.sqrt(chains))
    )
    extrapolated = 2 * means[1] - means[0]
    error = np.sqrt(4 * errors[1] ** 2 + errors[0] ** 2)
    assert np.all(error < 0.002)
    assert np.all(np.abs(extrapolated - exact) < 4 * error)
