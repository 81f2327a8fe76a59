"""Products of two resolvents with any matrix between them: identities, the losses made of them, and random matrices."""

import numpy as np
import pytest

from foretrain.errors import InvalidInput
from foretrain.limits.linear import one_point, resolvent_two_point, spectral_measure, two_point

INF = np.inf
MODES = np.arange(1.0, 41.0)
LAM, POWER = MODES**-1.2, MODES**-0.4
BASE = spectral_measure(LAM, POWER, exact=40)
SIZES = [(14.0, 22.0), (22.0, 14.0), (INF, 22.0), (14.0, INF), (INF, INF)]


@pytest.mark.parametrize(("width", "samples"), SIZES)
def test_identity_is_the_derivative_of_one_resolvent(width, samples):
    # G G^T sums to G^2 for N = infinity, where G is symmetric; there G^2 = -dG/dz, mode by mode.
    z, step = 0.3, 1e-5
    product = resolvent_two_point(LAM, z, z, width, samples)
    if width == INF:
        up, down = (one_point(BASE, z + d, width, samples).resolvent(LAM) for d in (step, -step))
        np.testing.assert_allclose(product.plain, -(up - down) / (2 * step), rtol=1e-8)
    # G S^ = (1 - z G) at any width, contracted from one side: mixed is a one-point function of the other.
    one = resolvent_two_point(LAM, z, 1e9, width, samples)
    np.testing.assert_allclose(one.plain * 1e9, one_point(BASE, z, width, samples).resolvent(LAM), rtol=1e-6)


@pytest.mark.parametrize(("width", "samples"), SIZES)
def test_the_target_between_gives_the_two_point_functions(width, samples):
    pairs = [(0.02, 0.5), (0.3 + 0.2j, 0.1), (0.5, 0.5)]
    for z, z2 in pairs:
        product = resolvent_two_point(LAM, z, z2, width, samples, np.diag(POWER))
        diagonal = resolvent_two_point(LAM, z, z2, width, samples, POWER)
        expected = two_point(BASE, z, z2, width, samples)
        np.testing.assert_allclose(np.trace(np.diag(LAM) @ product.plain), expected.C0, rtol=1e-12)
        np.testing.assert_allclose(np.trace(product.seen), expected.C2, rtol=1e-12)
        for name in ("plain", "mixed", "seen"):
            np.testing.assert_allclose(np.diagonal(getattr(product, name)), getattr(diagonal, name), rtol=1e-12)


def test_exchange_of_the_points_transposes():
    matrix = np.random.default_rng(0).standard_normal((40, 40))
    one = resolvent_two_point(LAM, 0.02, 0.5, 14.0, 22.0, matrix)
    other = resolvent_two_point(LAM, 0.5, 0.02, 14.0, 22.0, matrix.T)
    np.testing.assert_allclose(one.plain, other.plain.T, rtol=1e-12)
    np.testing.assert_allclose(one.seen, other.seen.T, rtol=1e-12)


def test_features_without_end_are_linear_regression():
    wide = resolvent_two_point(LAM, 0.02, 0.5, 1e13, 22.0, POWER)
    none = resolvent_two_point(LAM, 0.02, 0.5, INF, 22.0, POWER)
    for name in ("plain", "mixed", "seen"):
        np.testing.assert_allclose(getattr(wide, name), getattr(none, name), rtol=1e-9)


@pytest.mark.parametrize(("width", "samples"), [(14, 22), (22, 14), (INF, 22), (14, INF)])
def test_random_matrices(width, samples):
    # Every mode four times, sizes four times: 4 % at most of finite size at N = 14 is beyond the errors asked for here.
    replicas, draws, z, z2 = 4, 30, 0.1, 0.5
    rng = np.random.default_rng(3)
    lam = np.repeat(LAM, replicas)
    size = lam.size
    matrix, probe = (b @ b.T / size for b in rng.standard_normal((2, size, size)))
    product = resolvent_two_point(lam, z, z2, width * replicas, samples * replicas, matrix)
    found = []
    for _ in range(draws):
        seen, features = np.diag(lam), np.eye(size)
        if samples < INF:
            data = rng.standard_normal((samples * replicas, size)) * np.sqrt(lam)
            seen = data.T @ data / len(data)
        if width < INF:
            projection = rng.standard_normal((width * replicas, size))
            features = projection.T @ projection / len(projection)
        left, right = (np.linalg.inv(point * np.eye(size) + features @ seen) for point in (z, z2))
        plain = left @ matrix @ right.T
        found.append([np.sum(probe * m) for m in (plain, plain @ seen, seen @ plain @ seen)])
    found = np.array(found)
    expected = np.array([np.sum(probe * m).real for m in (product.plain, product.mixed, product.seen)])
    error = found.std(0, ddof=1) / np.sqrt(draws)
    assert np.all(np.abs(found.mean(0) - expected) < 4 * error + 0.005 * np.abs(expected))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.array([1.0, 0.0]), 0.1, 0.1), r"eigenvalues\): expected a vector of finite numbers > 0"),
        ((LAM, 0.0, 0.1), "expected nonzero points, got 0"),
        ((LAM, 0.1, 0.1, INF, 22.0, np.ones(3)), r"matrix\): expected finite entries of shape \(40,\) or \(40, 40\)"),
        ((LAM, -0.5, 0.1, 14.0, 22.0), "expected points off the spectrum"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        resolvent_two_point(*arguments)
