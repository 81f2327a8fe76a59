"""The profile of a kernel against the recursion, against long doubles, and in both precisions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foretrain.kernels import NNGP, NTK, gram
from foretrain.kernels._geometry import angles, directions
from foretrain.kernels._gram import _method, _RecursionGram
from foretrain.kernels._profile import common_square, profile
from foretrain.kernels._tiles import ProfileGram

GENERATOR = np.random.default_rng(3)
FEATURES = 12
# 90 rows: above one small tile; pairs from random to 1e-10 apart, opposite, parallel, identical and zero.
ROWS = GENERATOR.normal(size=(90, FEATURES)) * GENERATOR.uniform(0.3, 3.0, (90, 1))
ROWS[1] = ROWS[0] + 1e-7 * GENERATOR.normal(size=FEATURES)
ROWS[2] = ROWS[0] + 1e-10 * GENERATOR.normal(size=FEATURES)
ROWS[3] = -ROWS[0]
ROWS[4] = -ROWS[0] + 1e-7 * GENERATOR.normal(size=FEATURES)
ROWS[5] = ROWS[0]
ROWS[6] = 3.0 * ROWS[0]
ROWS[7] = 0.0
ROWS[10:30] = ROWS[30:50] + np.geomspace(1e-5, 1.0, 20)[:, None] * GENERATOR.normal(size=(20, FEATURES))
SPHERE = ROWS / np.maximum(np.linalg.norm(ROWS, axis=1, keepdims=True), 1e-300) * np.sqrt(FEATURES)
SPHERE[7] = SPHERE[8]

HOMOGENEOUS = [
    kind(depth, activation, negative_slope=-0.3)
    for kind in (NNGP, NTK)
    for activation in ("relu", "leaky-relu", "linear")
    for depth in (0, 1, 3, 10)
]
SPHERICAL = [
    kind(3, activation, bias_variance=bias, readout_bias=bias > 0)
    for kind in (NNGP, NTK)
    for activation, bias in (("relu", 0.1), ("erf", 0.2), ("gelu", 0.1), ("tanh", 0.1), ("erf", 0.0))
]


def name(kernel):
    return f"{kernel.kind}-{kernel.activation}-{kernel.depth}-{kernel.bias_variance}"


def by_recursion(kernel, x, y=None):
    """Layer by layer for every pair, from angles by differences and sums."""
    (unit_x, square_x), (unit_y, square_y) = directions(x), directions(x if y is None else y)
    angle = angles(unit_x, unit_y)
    if y is None:
        np.fill_diagonal(angle, 0.0)
    with jax.enable_x64(True):
        shape = (jnp.asarray(np.broadcast_to(q, angle.shape)) for q in (square_x[:, None], square_y[None, :]))
        return np.asarray(kernel.of_angle(*shape, jnp.asarray(angle)))


def scale_of(kernel, x, y=None):
    """sqrt(K(x,x) K(y,y)), with a floor for zero rows."""
    left, right = (np.sqrt(np.maximum(kernel.diagonal(z), 1e-3)) for z in (x, x if y is None else y))
    return left[:, None] * right[None, :]


@pytest.mark.parametrize("kernel", HOMOGENEOUS, ids=name)
def test_homogeneous_kernels_agree_with_the_recursion(kernel):
    """1e-13 of the norms: the recursion's own rounding (ten layers) and the fit are some 1e-15."""
    assert isinstance(_method(kernel, ROWS, None, "float64"), ProfileGram)
    fast = gram(kernel, ROWS)
    assert np.array_equal(fast, fast.T)
    assert np.max(np.abs(fast - by_recursion(kernel, ROWS)) / scale_of(kernel, ROWS)) < 1e-13
    # Identical rows have the value of the diagonal; scaled ones its multiple; zero rows vanish.
    assert fast[0, 5] == fast[0, 0]
    assert fast[0, 6] == pytest.approx(3.0 * fast[0, 0], rel=1e-14)
    assert np.all(fast[7] == 0.0)
    assert np.allclose(np.diagonal(fast), kernel.diagonal(ROWS), rtol=1e-14, atol=0.0)
    cross = gram(kernel, ROWS[:40], ROWS[20:])
    assert np.max(np.abs(cross - fast[:40, 20:]) / scale_of(kernel, ROWS[:40], ROWS[20:])) < 1e-14


@pytest.mark.parametrize("kernel", SPHERICAL, ids=name)
def test_kernels_on_the_sphere_agree_with_the_recursion(kernel):
    assert isinstance(_method(kernel, SPHERE, None, "float64"), ProfileGram)
    fast, slow = gram(kernel, SPHERE), by_recursion(kernel, SPHERE)
    assert np.array_equal(fast, fast.T)
    # Norms that are equal to 3.5e-15 and rounded to 2e-15 count as one; tanh itself is a mixture exact to 5e-15.
    assert np.max(np.abs(fast - slow)) < 1e-13 * kernel.diagonal(SPHERE).max()
    single = gram(kernel, SPHERE, dtype="float32")
    assert np.max(np.abs(single - slow)) < 1e-6 * kernel.diagonal(SPHERE).max()


def test_only_equal_norms_share_a_profile():
    kernel = NTK(2, "erf", bias_variance=0.1)
    square = np.full(100, 2.0)
    assert common_square(square, "float64") == 2.0
    assert common_square(square * (1 + 1e-16 * np.arange(100) % 3e-16), "float64") is not None
    for spread in (1e-3, 1e-6, 1e-12):
        square[17] = 2.0 * (1.0 + spread)
        assert common_square(square, "float64") is None
    assert common_square(np.array([2.0, 2.0 * (1 + 1e-7)]), "float32") is not None
    assert common_square(np.array([2.0, 2.0 * (1 + 1e-3)]), "float32") is None
    assert common_square(np.zeros(3), "float64") is None
    uneven = SPHERE.copy()
    uneven[17] *= 1.001
    assert isinstance(_method(kernel, uneven, None, "float64"), _RecursionGram)
    assert isinstance(_method(kernel, SPHERE, 1.001 * SPHERE, "float64"), _RecursionGram)
    assert isinstance(_method(kernel, SPHERE[:4], None, "float64"), _RecursionGram)  # not worth a fit
    assert np.allclose(gram(kernel, uneven), by_recursion(kernel, uneven), rtol=0, atol=1e-14)


def in_long_doubles(x, depth, tangent):
    """ReLU at the defaults, by the angle recursion in extended precision; angles from differences and sums of rows."""
    x = x.astype(np.longdouble)
    norm = np.sqrt(np.sum(x**2, axis=1, keepdims=True))
    unit = x / np.where(norm > 0, norm, 1)
    apart = np.sqrt(np.sum((unit[:, None] - unit[None]) ** 2, axis=-1))
    together = np.sqrt(np.sum((unit[:, None] + unit[None]) ** 2, axis=-1))
    angle, pi = 2 * np.arctan2(apart, together), 4 * np.arctan(np.longdouble(1))
    value = theta = np.cos(angle)
    for _ in range(depth):
        gap = 2 * np.sin(angle / 2) ** 2 - (np.sin(angle) - angle * np.cos(angle)) / pi
        theta, value = (1 - gap) + (1 - angle / pi) * theta, 1 - gap
        angle = 2 * np.arcsin(np.sqrt(np.maximum(gap, 0) / 2))
    return (theta if tangent else value), norm[:, 0] / np.sqrt(np.longdouble(x.shape[1]))


@pytest.mark.parametrize("kind", [NNGP, NTK])
@pytest.mark.parametrize("depth", [1, 3, 10])
@pytest.mark.parametrize(("features", "shift"), [(3, 0.0), (300, 0.0), (300, 1.0)])
def test_against_long_doubles(kind, depth, features, shift):
    """Float64 within 1e-14 of the norms, float32 within 1e-6, also for close, opposite and correlated rows."""
    generator = np.random.default_rng(features)
    x = generator.normal(size=(70, features)) + shift
    x[1] = x[0] + 1e-7 * generator.normal(size=features)
    x[2] = -x[0] + 1e-10 * generator.normal(size=features)
    x[3] = x[4]
    x[10:30] = x[30:50] + np.geomspace(1e-3, 1, 20)[:, None] * generator.normal(size=(20, features))
    shape, root = in_long_doubles(x, depth, kind.tangent)
    top = depth + 1 if kind.tangent else 1
    for dtype, tolerance in (("float64", 1e-14), ("float32", 1e-6)):
        found = gram(kind(depth), x, dtype=dtype)
        assert found.dtype == dtype
        error = np.abs(found / root[:, None] / root[None, :] - shape) / top
        assert float(error.max()) < tolerance


def test_float32_inputs_keep_their_differences():
    """Inputs that come in float32 are exact: close pairs are as accurate as those of the same numbers in float64."""
    x = ROWS.astype(np.float32)
    wide, narrow = gram(NTK(3), x.astype(np.float64)), gram(NTK(3), x, dtype="float32")
    assert np.max(np.abs(wide - narrow) / scale_of(NTK(3), x)) < 1e-6


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_inputs_whose_squares_overflow(dtype):
    x = np.array([[1.0, 2.0], [2.0, -1.0], [1.0, 1.0], [0.0, 0.0]])
    usual = gram(NNGP(2), x)
    for factor in (1e-17, 1e16) if dtype == "float32" else (1e-150, 1e150):
        assert np.allclose(gram(NNGP(2), factor * x, dtype=dtype) / factor / factor, usual, rtol=1e-6, atol=1e-30)


def test_fitted_once_and_resolved_or_refused():
    profile.cache_clear()
    first = profile(NTK(7))
    assert first is not None
    assert profile(NTK(7)) is first
    assert max(len(side) for side in first.chebyshev) <= 32  # about 25 terms a side up to depth ten
    assert first.series("float32").coefficients.shape[1] <= 16
    assert not first.series("float64").chebyshev
    # Deeper networks: a sharper peak needs more terms, and Chebyshev polynomials instead of powers.
    deep = profile(NTK(100))
    assert deep is not None
    assert deep.series("float64").chebyshev
    angle = np.linspace(0.0, np.pi, 500)
    with jax.enable_x64(True):
        one = jnp.ones(500)
        exact = np.asarray(NTK(100).of_angle(one, one, jnp.asarray(angle)))
    s = np.where(angle < np.pi / 2, np.sin(angle / 2), np.cos(angle / 2))
    assert np.max(np.abs(deep.at(s, angle < np.pi / 2) - exact)) < 1e-13 * 101
    # A chaotic network: the peak is narrower than 256 nodes resolve, and the recursion takes over.
    chaotic = NTK(10, "erf", weight_variance=9.0)
    assert profile(chaotic, 10.0) is None
    sphere = SPHERE * np.sqrt(10.0)
    assert isinstance(_method(chaotic, sphere, None, "float64"), _RecursionGram)


def test_deep_gram_by_chebyshev_polynomials():
    kernel = NTK(100)
    x = ROWS[8:]
    assert np.max(np.abs(gram(kernel, x) - by_recursion(kernel, x)) / scale_of(kernel, x)) < 1e-13


def test_opposite_inputs_resolve_their_angle():
    """The gap near 2 loses half of the digits of pi - angle; the first layer takes the angle itself."""
    with jax.enable_x64(True):
        one = jnp.asarray(1.0)
        near = float(NTK(1).of_angle(one, one, jnp.asarray(np.pi - 1e-9)))
    # Theta^1 = (sin a + (pi - a) cos a) / pi + (1 - a / pi) cos a, with pi - a = 1e-9: -1e-9 / pi to leading order.
    assert near == pytest.approx(-(np.pi - (np.pi - 1e-9)) / np.pi, abs=4e-16)
