"""Empirical tangent kernels: explicit Jacobians, the two roads, the infinite-width limit, budgets and bad input."""

import functools
import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foretrain.errors import InvalidInput, TooLarge
from foretrain.kernels import NTK, empirical_ntk, tangent_kernel
from foretrain.kernels import _empirical as door
from foretrain.kernels._tangent import read_network

GENERATOR = np.random.default_rng(3)
X = GENERATOR.normal(size=(7, 6))
Y = GENERATOR.normal(size=(4, 6))
TOKENS = GENERATOR.integers(0, 5, size=(7, 4))


def normal(*shape):
    return GENERATOR.normal(size=shape)


def layers(*sizes):
    return [{"W": normal(a, b), "b": normal(b)} for a, b in itertools.pairwise(sizes)]


def mlp(params, x, act=jax.nn.relu):
    """Weights scaled after the product, biases, any number of outputs."""
    for i, layer in enumerate(params):
        x = (act(x) if i else x) @ layer["W"] / math.sqrt(layer["W"].shape[0]) + layer["b"][None]
    return x


def tanh_mlp(params, x):
    return mlp(params, x, jnp.tanh)


def scalar(params, x):
    return mlp(params, x)[:, 0]


@jax.jit
def scaled_weights(params, x):
    """Weights scaled, negated, transposed and reshaped before the product; a trained scale; an inner `jit`."""
    x = jnp.tanh(x @ (-params["first"] * jnp.exp(params["scale"])))
    x = jnp.tanh(x @ (params["second"].T / jnp.sqrt(5.0)))
    return jax.jit(jnp.dot)(x, (0.3 * params["third"]).reshape(5, 2))


def weight_first(params, x):
    """One example at a time, as in Equinox."""
    return jax.vmap(lambda row: params["a"] @ jnp.tanh(params["W"] @ row + params["b"]))(x)


def tied(params, x):
    """A weight that is used twice, and one that is a product of two."""
    h = jnp.tanh(x @ params["W"]) @ params["W"]
    return h @ (params["U"] @ params["V"])


def looped(params, x):
    """Layers in a scan, the first behind a checkpoint."""
    h = jax.checkpoint(lambda w, z: jnp.tanh(z @ w))(params["in"], x)
    h, _ = jax.lax.scan(lambda z, w: (jnp.tanh(z @ w), None), h, params["deep"])
    return h @ params["out"]


def convolution(params, x):
    h = jax.lax.conv_general_dilated(x[:, None, :], params["kernel"], (1,), "SAME")
    return jnp.tanh(h).mean(axis=-1) @ params["out"]


def attention(params, x):
    """Embedded tokens, one head, positions summed over: products with four positions."""
    h = params["embedding"][x]
    scores = jnp.einsum("rsd,rtd->rst", h @ params["query"], h @ params["key"])
    h = jax.nn.softmax(scores, axis=-1) @ (h @ params["value"])
    h = jnp.tanh(jnp.einsum("rsd,df->rsf", h, params["up"]))
    return h.mean(axis=1) @ params["out"]


def part_frozen(params, x):
    return jnp.tanh(x @ jax.lax.stop_gradient(params["W"])) @ params["a"] * params["count"]


SHARED = {"a": normal(3, 9), "W": normal(9, 6), "b": normal(9)}
NETWORKS = {
    "mlp": (mlp, layers(6, 9, 8, 1), X, 2),
    "mlp-outputs": (tanh_mlp, layers(6, 9, 8, 3), X, 3),
    "scalar": (scalar, layers(6, 9, 8, 1), X, 2),
    "scaled-weights": (
        scaled_weights,
        {"first": normal(6, 8), "scale": np.array(0.3), "second": normal(5, 8), "third": normal(10)},
        X,
        3,
    ),
    "weight-first": (weight_first, SHARED, X, 2),
    "tied": (tied, {"W": normal(6, 6), "U": normal(6, 4), "V": normal(4, 2)}, X, 0),
    "looped": (looped, {"in": normal(6, 5), "deep": 0.5 * normal(3, 5, 5), "out": normal(5, 2)}, X, 1),
    "convolution": (convolution, {"kernel": normal(4, 1, 3), "out": normal(4, 2)}, X, 1),
    "attention": (
        attention,
        {
            "embedding": normal(5, 30),
            "query": 0.2 * normal(30, 20),
            "key": 0.2 * normal(30, 20),
            "value": normal(30, 30),
            "up": normal(30, 40),
            "out": normal(40, 2),
        },
        TOKENS,
        5,
    ),
    "part-frozen": (part_frozen, {"W": normal(6, 5), "a": normal(5, 2), "count": np.array(2)}, X, 1),
}


def explicit(apply, params, x, rates=None):
    """The kernel of all pairs of outputs from the whole Jacobian, in float64, contracted in NumPy."""
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, params)
        real = {i: leaf for i, leaf in enumerate(jax.tree.leaves(params)) if jnp.issubdtype(leaf.dtype, jnp.floating)}

        def function(real, x):
            leaves = jax.tree.leaves(params)
            for i, leaf in real.items():
                leaves[i] = leaf
            out = apply(jax.tree.unflatten(jax.tree.structure(params), leaves), x)
            return out if out.ndim == 2 else out[:, None]

        jacobian = jax.jit(jax.jacobian(function))(real, jnp.asarray(x))
    total = 0.0
    for i in real:
        j = np.asarray(jacobian[i])
        j = j.reshape(*j.shape[:2], -1)
        rate = 1.0 if rates is None else np.broadcast_to(jax.tree.leaves(rates)[i], real[i].shape).ravel()
        total = total + np.einsum("iop,jqp->iojq", j * rate, j)
    return total


@pytest.mark.parametrize("case", NETWORKS)
def test_explicit_jacobian(case):
    """Trace and full, square and rectangular, through factors and through Jacobians; rounding of float64."""
    apply, params, x, _ = NETWORKS[case]
    y = x[3::-1]
    square = explicit(apply, params, x)
    expected = square[:, :, 3::-1]
    for method in ("auto", "jacobian"):
        full = empirical_ntk(apply, params, x, y, outputs="full", method=method)
        assert full.dtype == np.float64
        assert full.shape == expected.shape
        np.testing.assert_allclose(full, expected, rtol=1e-12, atol=1e-13 * np.max(expected))
        trace = empirical_ntk(apply, params, x, method=method)
        np.testing.assert_allclose(trace, np.einsum("iojo->ij", square), rtol=1e-12, atol=1e-13 * np.max(square))
        assert np.array_equal(trace, trace.T)


@pytest.mark.parametrize("case", NETWORKS)
def test_weights_are_found_where_it_pays(case):
    apply, params, x, count = NETWORKS[case]
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, params))
    with jax.enable_x64(True):
        network = read_network(apply, structure, leaves, x[0], [None] * len(leaves), outputs="trace", method="auto")
    assert len(network.products) == count, network.products


def test_full_kernel_is_symmetric_and_positive():
    apply, params, x, _ = NETWORKS["mlp-outputs"]
    full = empirical_ntk(apply, params, x, outputs="full")
    square = full.reshape(21, 21)
    assert np.array_equal(square, square.T)
    values = np.linalg.eigvalsh(square)
    assert values[0] > -1e-14 * values[-1]
    assert empirical_ntk(scalar, layers(6, 4, 1), X, outputs="full").shape == (7, 1, 7, 1)


def test_one_layer_by_hand():
    """f = a.tanh(Wx): the sum of phi.phi and of (a phi')^2 x.x."""
    a, W = normal(9), normal(9, 6)
    h = X @ W.T
    slope = a * (1 - np.tanh(h) ** 2)
    expected = np.tanh(h) @ np.tanh(h).T + (slope @ slope.T) * (X @ X.T)
    found = empirical_ntk(lambda p, x: jnp.tanh(x @ p[1].T) @ p[0], (a, W), X)
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)


def test_equinox_module():
    """A module with functions among its leaves: its arrays are the parameters."""
    model = eqx.nn.MLP(6, 2, 8, 2, key=jax.random.key(0))
    params, rest = eqx.partition(model, eqx.is_inexact_array)
    apply = lambda p, x: jax.vmap(eqx.combine(p, rest))(x)  # noqa: E731
    found = empirical_ntk(apply, params, X.astype(np.float32))
    assert found.dtype == np.float32
    expected = explicit(apply, jax.tree.map(lambda v: np.asarray(v, np.float64), params), X)
    np.testing.assert_allclose(found, np.einsum("iojo->ij", expected), rtol=1e-4, atol=1e-6 * np.max(expected))
    with pytest.raises(
        InvalidInput, match=r"params\.activation\): expected an array, got a custom_jvp; .*equinox\.partition"
    ):
        empirical_ntk(apply, model, X)


@pytest.mark.parametrize("case", ["mlp-outputs", "convolution"])
def test_precision_follows_the_parameters(case):
    apply, params, x, _ = NETWORKS[case]
    single = jax.tree.map(lambda v: v.astype(np.float32), params)
    double = jax.tree.map(lambda v: v.astype(np.float64), single)
    exact = empirical_ntk(apply, double, x.astype(np.float32))
    found = empirical_ntk(apply, single, x)
    assert (found.dtype, exact.dtype) == (np.float32, np.float64)
    # A few roundings of numbers of order one in each of four layers.
    np.testing.assert_allclose(found, exact, atol=2e-6 * np.max(exact))
    assert np.array_equal(empirical_ntk(apply, single, x.astype(np.float32), dtype="float64"), exact)
    half = jax.tree.map(lambda v: jnp.asarray(v, jnp.bfloat16), params)
    assert empirical_ntk(apply, half, x).dtype == np.float32
    assert not jax.config.read("jax_enable_x64")


# --- multipliers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["mlp-outputs", "scaled-weights", "attention"])
def test_multipliers(case):
    """Numbers and whole arrays of multipliers, against the explicit sum."""
    apply, params, x, _ = NETWORKS[case]
    generator = np.random.default_rng(0)
    numbers = jax.tree.map(lambda v: generator.uniform(0.1, 3), params)
    arrays = jax.tree.map(lambda v: generator.uniform(0.1, 3, v.shape), params)
    for rates in (numbers, arrays):
        expected = explicit(apply, params, x, rates)
        found = empirical_ntk(apply, params, x, outputs="full", learning_rates=rates)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13 * np.max(expected))


def test_multipliers_may_stop_short_and_add_up():
    apply, params, x, _ = NETWORKS["mlp"]
    whole = empirical_ntk(apply, params, x)
    assert np.allclose(empirical_ntk(apply, params, x, learning_rates=2.0), 2 * whole, rtol=1e-14)
    parts = [empirical_ntk(apply, params, x, learning_rates=[float(i == k) for i in range(3)]) for k in range(3)]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-13, atol=1e-14)
    rows = [{"W": np.ones((a["W"].shape[0], 1)), "b": 1.0} for a in params]
    np.testing.assert_allclose(empirical_ntk(apply, params, x, learning_rates=rows), whole, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ([1.0, 2.0], r"learning_rates\): expected a tree like `params`"),
        ({"W": 1.0}, r"learning_rates\): expected a tree like `params`"),
        (-1.0, r"for params\[0\]\['W'\]: expected finite multipliers >= 0, got -1\.0"),
        ([1.0, math.nan, 1.0], r"for params\[1\]\['W'\]: expected finite multipliers"),
        (np.ones(5), r"for params\[0\]\['W'\]: expected a number or an array that broadcasts to shape \(6, 9\)"),
        ("fast", r"for params\[0\]\['W'\]: expected a number or an array, got 'fast'"),
    ],
)
def test_bad_multipliers(rates, message):
    apply, params, x, _ = NETWORKS["mlp"]
    with pytest.raises(InvalidInput, match=message):
        empirical_ntk(apply, params, x, learning_rates=rates)


# --- infinite width --------------------------------------------------------------------------------------------------

SEEDS = 48


def ntk_parameterization(params, x, v_w=2.0, v_b=0.1):
    """Unit Gaussian weights and biases, the network of `NTK`."""
    for i, (W, b) in enumerate(params):
        signal = x if i == 0 else math.sqrt(v_w) * jax.nn.relu(x)
        x = signal @ W / math.sqrt(W.shape[0]) + math.sqrt(v_b) * b[None]
    return x


@functools.cache
def random_networks(width):
    """Tangent kernels of networks with two hidden layers, one a seed."""
    sizes = (6, width, width, 1)

    def one(key):
        keys = jax.random.split(key, (3, 2))
        params = [
            (jax.random.normal(k[0], (a, b)), jax.random.normal(k[1], (b,)))
            for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
        ]
        return tangent_kernel(ntk_parameterization, params, jnp.asarray(X, jnp.float32))

    keys = jax.random.split(jax.random.key(width), SEEDS)
    return np.asarray(jax.jit(lambda k: jax.lax.map(one, k))(keys), np.float64)


def test_wide_networks_have_the_kernel_of_infinite_width():
    """Mean over seeds against `NTK`; the bias of order 1/width, one standard error at width 64, is a third of one here."""
    found = random_networks(512)
    stderr = found.std(axis=0, ddof=1) / math.sqrt(SEEDS)
    kernel = NTK(2, bias_variance=0.1, readout_bias=True)
    z = (found.mean(axis=0) - kernel(X)) / stderr
    assert np.max(np.abs(z)) < 4.5  # 28 correlated pairs


def test_fluctuations_fall_like_one_over_root_width():
    """Slope of log rms deviation against log width, with its standard error from the jackknife over seeds."""
    exact = NTK(2, bias_variance=0.1, readout_bias=True)(X)
    widths = (128, 256, 512)
    squares = [np.mean((random_networks(n) - exact) ** 2, axis=(1, 2)) for n in widths]
    log_width = np.log(widths) - np.mean(np.log(widths))
    weights = log_width / np.sum(log_width**2)
    slope = sum(w * 0.5 * np.log(s.mean()) for w, s in zip(weights, squares, strict=True))
    variance = 0.0
    for w, s in zip(weights, squares, strict=True):
        left_out = w * 0.5 * np.log((s.sum() - s) / (SEEDS - 1))
        variance += (SEEDS - 1) * left_out.var()
    stderr = math.sqrt(variance)
    assert stderr < 0.15  # the test can tell -1/2 from 0 and from -1
    # The next order of the variance, 1/width^2 against 1/width, bends the slope by about 2 / width.
    assert abs(slope + 0.5) < 4 * stderr + 2 / widths[0]


# --- the pure function -----------------------------------------------------------------------------------------------


def test_pure_function_inside_transformations():
    apply, params, x, _ = NETWORKS["mlp-outputs"]
    with jax.enable_x64(True):
        x, y = jnp.asarray(x), jnp.asarray(Y)
        params = jax.tree.map(jnp.asarray, params)
        plain = jax.jit(lambda p: tangent_kernel(apply, p, x, y))(params)
        np.testing.assert_allclose(plain, empirical_ntk(apply, params, x, y), rtol=1e-13, atol=1e-13)
        several = jax.tree.map(lambda v: v[None] * np.array([1.0, 0.5]).reshape((2,) + (1,) * v.ndim), params)
        ensemble = jax.jit(jax.vmap(lambda p: tangent_kernel(apply, p, x, y)))(several)
        np.testing.assert_allclose(ensemble[0], plain, rtol=1e-12, atol=1e-12)

        def length(t, method):
            rates = [{"W": 1 + t, "b": 1.0}, 1 - t]
            moved = jax.tree.map(lambda v: v * (1 + t), small)
            return jnp.sum(tangent_kernel(tanh_mlp, moved, x, learning_rates=rates, method=method) ** 2)

        small, step = layers(6, 5, 1), 1e-5
        both = jax.jit(lambda t: [jax.value_and_grad(length)(t, m) for m in ("auto", "jacobian")])
        (_, slope), (_, other) = both(0.0)
        difference = float(both(step)[0][0] - both(-step)[0][0]) / (2 * step)
    assert float(slope) == pytest.approx(float(other), rel=1e-11)
    assert float(slope) == pytest.approx(difference, rel=1e-7)  # central difference: step squared, rounding over step


# --- blocks and memory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("outputs", ["trace", "full"])
def test_blocks_do_not_change_the_matrix(monkeypatch, outputs, kept):
    apply, params, _, _ = NETWORKS["mlp-outputs"]
    x, y = np.random.default_rng(1).normal(size=(2, 23, 6))
    whole = empirical_ntk(apply, params, x, outputs=outputs)
    cross = empirical_ntk(apply, params, x, y[:9], outputs=outputs)
    size = door._block_size
    monkeypatch.setattr(door, "_LARGEST_BLOCK", 6)
    monkeypatch.setattr(door, "_block_size", lambda *a: (size(*a)[0], kept))
    # Only the order of sums within products differs.
    tolerance = {"rtol": 1e-12, "atol": 1e-13 * np.max(whole)}
    np.testing.assert_allclose(empirical_ntk(apply, params, x, outputs=outputs), whole, **tolerance)
    np.testing.assert_allclose(empirical_ntk(apply, params, x, y[:9], outputs=outputs), cross, **tolerance)
    np.testing.assert_allclose(
        empirical_ntk(apply, params, y[:9], x, outputs=outputs),
        cross.T if outputs == "trace" else cross.transpose(2, 3, 0, 1),
        **tolerance,
    )


def test_budget_sets_the_blocks():
    """A Jacobian of 400 rows is 13 MB; with 4 MB it is computed in blocks, with too little it is refused."""
    params = layers(6, 60, 60, 1)
    x = np.random.default_rng(2).normal(size=(400, 6))
    whole = empirical_ntk(mlp, params, x, method="jacobian")
    tight = empirical_ntk(mlp, params, x, method="jacobian", memory=4e6)
    np.testing.assert_allclose(tight, whole, rtol=1e-12, atol=1e-13 * np.max(whole))
    with pytest.raises(
        TooLarge,
        match=r"a 400 x 400 kernel of 1 output needs 0\.00\d+ GB even row by row, the budget is 0\.0013 GB; the largest "
        r"Jacobian is that of params\[1\]\['W'\] \(3\.6e\+03 entries\); use fewer rows",
    ):
        empirical_ntk(mlp, params, x, method="jacobian", memory=1.3e6)


@pytest.mark.parametrize("method", ["auto", "jacobian"])
@pytest.mark.parametrize("case", ["mlp-outputs", "attention", "convolution", "looped"])
def test_estimate_of_memory_covers_what_the_compiler_takes(case, method):
    apply, params, x, _ = NETWORKS[case]
    rows = np.concatenate([x] * 8)
    leaves, structure = jax.tree.flatten(params)
    names = tuple("p" for _ in leaves)
    shapes = tuple((v.shape, v.dtype.name) for v in leaves)
    with jax.enable_x64(True):
        compiled = door._prepare.__wrapped__(
            apply, structure, shapes, (rows.shape[1:], rows.dtype.name), (None,) * len(leaves), names, "trace", method
        )
        taken = compiled.differentiate.lower(leaves, rows).compile().memory_analysis()
        factors = compiled.differentiate(leaves, rows)
        multiplied = compiled.contract.lower(factors, factors, [None] * len(leaves)).compile().memory_analysis()
    assert taken.output_size_in_bytes <= 1.05 * len(rows) * compiled.row_bytes  # the compiler aligns and adds tables
    parameters = sum(v.nbytes for v in leaves)
    # Work in proportion to the rows, besides copies of the parameters in another order.
    assert taken.temp_size_in_bytes <= len(rows) * compiled.work_bytes + 2 * parameters + 1e4
    chunk = 2 * len(rows) * 4096 * 8 if method == "jacobian" else 0
    assert (
        multiplied.temp_size_in_bytes
        <= len(rows) ** 2 * compiled.pair_bytes + 2 * len(rows) * compiled.row_bytes + chunk
    )


# --- bad input -------------------------------------------------------------------------------------------------------


def batch_norm(params, x):
    h = x @ params
    return (h - h.mean(axis=0, keepdims=True)) / jnp.sqrt(h.var(axis=0, keepdims=True) + 1e-3)


W = normal(6, 2)


@pytest.mark.parametrize(
    ("apply", "params", "x", "options", "message"),
    [
        ("mlp", W, X, {}, r"empirical_ntk\(apply\): expected a function apply\(params, x\), got 'mlp'"),
        (lambda p, x: x @ p, W * np.nan, X, {}, r"params\): expected finite parameters, got NaN .* in 12 of 12"),
        (lambda p, x: x @ p["W"], {"W": np.where(W > 0, W, np.inf)}, X, {}, r"params\['W'\]\): expected finite"),
        (lambda p, x: x @ p, W + 1j, X, {}, r"params\): expected real parameters, got complex128"),
        (lambda p, x: x @ p, np.ones((6, 2), int), X, {}, r"expected at least one array of real parameters"),
        (lambda p, x: x @ p, W, X * np.nan, {}, r"\(x\): expected finite numbers, got NaN or infinity in 7 of 7 rows"),
        (lambda p, x: x @ p, W, X[:0], {}, r"\(x\): expected a non-empty array, one input a row"),
        (lambda p, x: x @ p, W, "text", {}, r"\(x\): expected an array of inputs, got str"),
        (lambda p, x: x @ p, W, X, {"y": X[:, :5]}, r"\(y\): expected rows of shape \(6,\) like the first argument"),
        (lambda p, x: x @ p, W, X, {"outputs": "traces"}, r"outputs\): expected 'trace' or 'full'.* mean 'trace'"),
        (lambda p, x: x @ p, W, X, {"method": "fast"}, r"method\): expected 'auto' or 'jacobian', got 'fast'"),
        (lambda p, x: x @ p, W, X, {"dtype": "float16"}, r"dtype\): expected 'float32' or 'float64', got 'float16'"),
        (
            lambda p, x: (x @ p)[:, :, None],
            W,
            X,
            {},
            r"apply\): expected outputs of shape .* got shape \(1, 2, 1\) for 1 row",
        ),
        (lambda p, x: (x @ p).T, W, X, {}, r"apply\): expected outputs of shape .* got shape \(2, 1\) for 1 row of x"),
        (lambda p, x: jnp.ravel(x @ p)[:1], W, X, {}, r"got shape \(1,\) for 2 rows of x"),
        (lambda p, x: {"logits": x @ p}, W, X, {}, r"expected outputs of shape .* got a dict"),
        (lambda p, x: jnp.argmax(x @ p, axis=1), W, X, {}, r"apply\): expected real outputs, got int"),
        (lambda p, x: jnp.log(-jnp.abs(x @ p)), W, X, {}, r"apply\): expected finite outputs, got NaN"),
        (batch_norm, W, X, {}, r"do not depend on the other rows, got a difference of .* fixed statistics"),
    ],
)
def test_bad_input(apply, params, x, options, message):
    with pytest.raises(InvalidInput, match=message):
        empirical_ntk(apply, params, x, **options)


def test_one_row_and_unhashable_functions():
    class Affine:
        __hash__ = None

        def __call__(self, params, x):
            return x @ params

    np.testing.assert_allclose(empirical_ntk(Affine(), W, X[:1]), 2 * X[:1] @ X[:1].T, rtol=1e-14)
    numbers = empirical_ntk(lambda p, x: p * x**2, np.array(2.0), np.array([1.0, 2.0]))
    np.testing.assert_allclose(numbers, [[1, 4], [4, 16]])
