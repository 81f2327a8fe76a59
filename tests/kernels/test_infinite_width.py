"""NNGP and NTK: identities, extended precision for near-duplicates, and random finite networks."""

import decimal
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, ndtr

from foretrain.errors import InvalidInput, PrecisionError, TooLarge
from foretrain.kernels import NNGP, NTK, gram, gram_bytes, normalizing_variance
from foretrain.kernels._duals import ACTIVATIONS
from foretrain.kernels._geometry import angles, directions

GENERATOR = np.random.default_rng(7)
X = GENERATOR.normal(size=(9, 5)) * GENERATOR.uniform(0.3, 1.5, (9, 1))
Y = GENERATOR.normal(size=(4, 5))
KERNELS = [
    kind(depth, activation, bias_variance=bias, readout_bias=bias > 0)
    for kind in (NNGP, NTK)
    for activation in ACTIVATIONS
    for depth, bias in ((1, 0.0), (3, 0.2))
]


def name(kernel):
    return f"{kernel.kind}-{kernel.activation}-{kernel.depth}"


@pytest.mark.parametrize("kernel", KERNELS, ids=name)
def test_gram_is_symmetric_positive_definite_and_consistent(kernel):
    full = kernel(X)
    assert np.array_equal(full, full.T)
    assert np.linalg.eigvalsh(full)[0] > -1e-14 * np.linalg.eigvalsh(full)[-1]
    assert np.allclose(np.diagonal(full), kernel.diagonal(X), rtol=1e-14, atol=0)
    both = kernel(np.concatenate([X, Y]))
    assert np.allclose(kernel(X, Y), both[:9, 9:], rtol=1e-13, atol=1e-15)
    assert np.allclose(kernel(Y, X), kernel(X, Y).T, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_defaults_keep_a_unit_variance(activation):
    unit = X / np.linalg.norm(X, axis=1, keepdims=True) * np.sqrt(5)
    for depth in (0, 1, 4):
        # Four layers each divide rounding of the mean square by its own size.
        assert np.allclose(NNGP(depth, activation).diagonal(unit), 1.0, atol=1e-13)


@pytest.mark.parametrize("activation", ["relu", "leaky-relu", "linear"])
def test_homogeneous_diagonals(activation):
    square = np.sum(X**2, axis=1) / 5
    assert np.allclose(NNGP(3, activation).diagonal(X), square, rtol=1e-14)
    assert np.allclose(NTK(3, activation).diagonal(X), 4 * square, rtol=1e-13)


def test_depth_zero_is_the_linear_kernel():
    linear = X @ Y.T / 5
    for kind in (NNGP, NTK):
        assert np.allclose(kind(0)(X, Y), linear, atol=1e-15)
        assert np.allclose(kind(0, bias_variance=0.3)(X, Y), linear, atol=1e-15)
        assert np.allclose(
            kind(0, bias_variance=0.3, readout_bias=True, input_variance=2.0)(X, Y), 2 * linear + 0.3, atol=1e-15
        )


def test_linear_networks_of_any_depth():
    assert np.allclose(NNGP(4, "linear")(X, Y), X @ Y.T / 5, atol=1e-15)
    assert np.allclose(NTK(4, "linear")(X, Y), X @ Y.T, atol=1e-14)
    with_bias = X @ Y.T / 5 + 5 * 0.1
    assert np.allclose(NNGP(4, "linear", bias_variance=0.1, readout_bias=True)(X, Y), with_bias, atol=1e-14)


def test_relu_recursion_in_the_usual_form():
    """The textbook recursion in covariances (weight variance 2, bias variance 0.1 in every layer), away from duplicates."""
    covariance = 2 * X @ X.T / 5 + 0.1
    tangent = covariance.copy()
    for _ in range(3):
        deviation = np.sqrt(np.diagonal(covariance))
        scale = np.outer(deviation, deviation)
        angle = np.arccos(np.clip(covariance / scale, -1, 1))
        slope = 2 * (np.pi - angle) / (2 * np.pi)
        covariance = 2 * scale * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi) + 0.1
        tangent = covariance + slope * tangent
    options = {"weight_variance": 2.0, "bias_variance": 0.1, "input_variance": 2.0, "readout_bias": True}
    # arccos of the diagonal is off by 1e-8 in the reference: compare off the diagonal.
    off = ~np.eye(9, dtype=bool)
    assert np.allclose(NNGP(3, **options)(X)[off], covariance[off], rtol=1e-12)
    assert np.allclose(NTK(3, **options)(X)[off], tangent[off], rtol=1e-12)


# --- near-duplicates, against 60 digits --------------------------------------------------------------------------

PI = decimal.Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628621")


def sine_cosine(angle):
    """Taylor series in decimal arithmetic."""
    sine = cosine = decimal.Decimal(0)
    term, n = decimal.Decimal(1), 0
    while abs(term) > decimal.Decimal(10) ** -75:
        if n % 2:
            sine += term * (-1) ** (n // 2)
        else:
            cosine += term * (-1) ** (n // 2)
        n += 1
        term = term * angle / n
    return sine, cosine


def exact_relu(angle, depth):
    """NNGP and NTK of unit inputs at an angle, defaults, by the usual recursion in 70 digits."""
    tangent = sine_cosine(angle)[1]
    for _ in range(depth):
        sine, cosine = sine_cosine(angle)
        value = (sine + (PI - angle) * cosine) / PI
        tangent = value + (PI - angle) / PI * tangent
        guess = angle
        for _ in range(200):  # Newton for cos(angle) = value, from above
            sine, cosine = sine_cosine(guess)
            step = (value - cosine) / -sine
            guess += step
            if abs(step) < decimal.Decimal(10) ** -60 * abs(guess):
                break
        angle = guess
    return float(value), float(tangent)


@pytest.mark.parametrize("distance", [1e-12, 1e-9, 1e-7, 1e-5, 1e-3, 0.05, 0.3])
def test_near_duplicates_at_depth_ten(distance):
    x = np.zeros((2, 4))
    x[:, 0] = 2.0
    x[1, 1] = 2.0 * distance
    x[1] *= 2.0 / np.linalg.norm(x[1])
    with decimal.localcontext() as context:
        context.prec = 80
        a, b = (decimal.Decimal(float(v)) for v in x[1, :2])
        # tan(angle) = b / a, by its series: angles here are below 0.3.
        t = b / a
        angle = sum(((-1) ** n * t ** (2 * n + 1) / (2 * n + 1) for n in range(80)), decimal.Decimal(0))
        value, tangent = exact_relu(angle, 10)
    # Rounding of ten layers; the usual recursion is off by up to 1e-8 here.
    assert abs(NNGP(10)(x)[0, 1] - value) < 2e-15
    assert abs(NTK(10)(x)[0, 1] / 11 - tangent / 11) < 2e-15


def test_gap_survives_where_the_correlation_is_one():
    """1 - K/sqrt(KK) of inputs 1e-10 apart is 5e-21: only the kernel at distance-squared resolution tells."""
    with jax.enable_x64(True):
        one = jnp.asarray(1.0)
        assert float(NTK(1).of_angle(one, one, jnp.asarray(1e-10))) == pytest.approx(2 - 1e-10 / np.pi, abs=4e-16)


def test_angles_of_parallel_opposite_and_zero_rows():
    x = np.array([[3.0, 4.0], [6.0, 8.0], [-3.0, -4.0], [0.0, 0.0], [-4.0, 3.0]])
    unit, square = directions(x)
    assert np.allclose(square, [12.5, 50, 12.5, 0, 12.5])
    assert np.allclose(angles(unit, unit)[0], [0, 0, np.pi, np.pi / 2, np.pi / 2], atol=1e-15)
    assert np.all(np.isfinite(NTK(3)(x)))
    assert np.all(np.isfinite(NTK(3, "gelu", bias_variance=0.1)(x)))
    tiny = directions(np.array([[1e-200, 1e-200], [1e150, -1e150]]))[0]
    assert np.allclose(np.linalg.norm(tiny, axis=1), 1.0)


# --- finite networks ---------------------------------------------------------------------------------------------

ACT = {
    "relu": lambda h: np.maximum(h, 0),
    "leaky-relu": lambda h: np.where(h > 0, h, 0.01 * h),
    "linear": lambda h: h,
    "relu-2": lambda h: np.maximum(h, 0) ** 2,
    "relu-3": lambda h: np.maximum(h, 0) ** 3,
    "erf": erf,
    "gelu": lambda h: h * ndtr(h),
    "tanh": np.tanh,
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_layer_of_random_features(activation):
    """Units are independent and unbiased, so z-scores are exact at any width: |z| < 4.5 over 45 pairs."""
    units, v_b = 40_000, 0.3
    generator = np.random.default_rng(11)
    h = X / np.sqrt(5) @ generator.standard_normal((5, units)) + np.sqrt(v_b) * generator.standard_normal(units)
    features = np.sqrt(normalizing_variance(activation)) * ACT[activation](h)
    products = features[:, None, :] * features[None, :, :]
    stderr = products.std(axis=-1, ddof=1) / np.sqrt(units)
    assert np.max(np.abs(products.mean(axis=-1) - NNGP(1, activation, bias_variance=v_b)(X)) / stderr) < 4.5


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_deep_random_features(activation):
    """Mean over 60 networks of width 400, three hidden layers; the 1/width bias is a tenth of the standard error."""
    width, networks, v_b = 400, 40, 0.1
    generator = np.random.default_rng(5)
    gain = np.sqrt(normalizing_variance(activation))
    found = []
    for _ in range(networks):
        signal = X / np.sqrt(5)
        for _ in range(3):
            weights = generator.standard_normal((signal.shape[1], width))
            h = signal @ weights + np.sqrt(v_b) * generator.standard_normal(width)
            signal = gain * ACT[activation](h) / np.sqrt(width)
        found.append(signal @ signal.T)
    stderr = np.std(found, axis=0, ddof=1) / np.sqrt(networks)
    z = (np.mean(found, axis=0) - NNGP(3, activation, bias_variance=v_b)(X)) / stderr
    assert np.max(np.abs(z)) < 4.5


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_empirical_tangent_kernel(activation):
    """Sum over all parameters of products of derivatives, mean over 30 networks of width 160, two hidden layers."""
    width, networks, v_b = 160, 30, 0.2
    v_w = normalizing_variance(activation)
    act = {"relu": jax.nn.relu, "gelu": lambda h: jax.nn.gelu(h, approximate=False)}[activation]
    with jax.enable_x64(True):
        x = jnp.asarray(X[:4])

        def network(parameters, inputs):
            (w1, b1), (w2, b2), (w3, b3) = parameters
            h = inputs @ w1 / math.sqrt(5) + math.sqrt(v_b) * b1[None]
            h = math.sqrt(v_w / width) * act(h) @ w2 + math.sqrt(v_b) * b2[None]
            return (math.sqrt(v_w / width) * act(h) @ w3 + math.sqrt(v_b) * b3[None])[:, 0]

        def tangent_kernel(key):
            keys = iter(jax.random.split(key, 6))
            sizes = ((5, width), (width, width), (width, 1))
            parameters = [(jax.random.normal(next(keys), s), jax.random.normal(next(keys), s[1:])) for s in sizes]
            derivative = jax.tree.leaves(jax.jacrev(network)(parameters, x))
            return sum(d.reshape(4, -1) @ d.reshape(4, -1).T for d in derivative)

        found = np.asarray(jax.lax.map(tangent_kernel, jax.random.split(jax.random.key(3), networks)))
    stderr = found.std(axis=0, ddof=1) / np.sqrt(networks)
    kernel = NTK(2, activation, bias_variance=v_b, readout_bias=True)
    assert np.max(np.abs(found.mean(axis=0) - kernel(X[:4])) / stderr) < 4.5


# --- gram, declarations, errors ----------------------------------------------------------------------------------


def test_blocks_do_not_change_the_matrix(monkeypatch):
    x = GENERATOR.normal(size=(150, 6))
    kernels = NTK(2), NTK(2, bias_variance=0.1)  # by the profile, and by the recursion on every pair
    whole = [kernel(x) for kernel in kernels]
    cross = [kernel(x, x[:70]) for kernel in kernels]
    monkeypatch.setattr("foretrain.kernels._gram._LARGEST_BLOCK", 64)
    monkeypatch.setattr("foretrain.kernels._tiles._SIZES", ((0, 64, 2),))
    for kernel, square, rectangle in zip(kernels, whole, cross, strict=True):
        assert np.allclose(kernel(x), square, rtol=1e-13, atol=1e-15)
        assert np.allclose(kernel(x, x[:70]), rectangle, rtol=1e-13, atol=1e-15)


def test_float32_on_request():
    small = gram(NNGP(2), X, dtype="float32")
    assert small.dtype == np.float32
    assert NNGP(2)(X).dtype == np.float64
    root = np.sqrt(NNGP(2).diagonal(X))
    # Computed in float32: an error of some 1e-7 of the norms.
    assert np.max(np.abs(small - NNGP(2)(X)) / root[:, None] / root[None, :]) < 1e-6
    # Without a profile (unequal norms, biases) computed in float64 and stored in float32.
    biased = NNGP(2, bias_variance=0.1)
    assert np.array_equal(gram(biased, X, dtype="float32"), biased(X).astype(np.float32))
    with pytest.raises(InvalidInput, match=r"gram\(dtype\): expected 'float64' or 'float32'"):
        gram(NNGP(), X, dtype="float16")


def test_too_large_is_said_before_allocation():
    with pytest.raises(TooLarge, match=r"9 x 9 kernel matrix in float64 needs .* GB, the budget is 1e-06 GB"):
        gram(NNGP(), X, memory=1000.0)
    assert gram_bytes(10_000, 10_000) > 8e8


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones(3), None, r"gram\(x\): expected a non-empty matrix .* x\[None, :\]"),
        (np.ones((0, 3)), None, r"gram\(x\): expected a non-empty matrix"),
        (np.array([[1.0, np.nan]]), None, r"gram\(x\): expected finite numbers, got NaN or infinity in 1 of 1 rows"),
        (np.ones((2, 3)), np.ones((2, 4)), r"gram\(y\): expected 3 features like the first argument, got 4"),
        ("text", None, r"gram\(x\): expected a matrix of numbers"),
    ],
)
def test_bad_inputs(x, y, message):
    with pytest.raises(InvalidInput, match=message):
        gram(NNGP(), x, y)


def test_declarations():
    kernel = NTK(depth=2, activation="erf")
    assert kernel == NTK(2, "erf")
    assert kernel != NNGP(2, "erf")
    assert hash(kernel) == hash(NTK(2, "erf"))
    assert pickle.loads(pickle.dumps(kernel)) == kernel
    assert "erf" in repr(kernel)
    assert kernel.replace(depth=5).depth == 5
    assert NTK.from_table(kernel.to_table()) == kernel
    with pytest.raises(InvalidInput, match="did you mean 'relu'"):
        NNGP(activation="rellu")
    with pytest.raises(InvalidInput, match="depth"):
        NNGP(depth=-1)
    with pytest.raises(InvalidInput, match="weight_variance"):
        NNGP(weight_variance=0.0)


def test_core_needs_64_bits_and_differentiates():
    with pytest.raises(PrecisionError, match=r"NTK\.of_angle"):
        NTK().of_angle(jnp.ones(()), jnp.ones(()), jnp.ones(()))
    with jax.enable_x64(True):
        one = jnp.asarray(1.0)
        slope = jax.grad(lambda angle: NNGP(3).of_angle(one, one, angle))(jnp.asarray(0.7))
        values = [float(NNGP(3).of_angle(one, one, jnp.asarray(0.7 + s))) for s in (-1e-5, 1e-5)]
    assert float(slope) == pytest.approx((values[1] - values[0]) / 2e-5, rel=1e-8)  # central difference, step 1e-5
