"""Rounding to few bits: formats code by code, integers against PyTorch, GPTQ against least squares and brute force, and networks by hand."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from foretrain.errors import InvalidInput
from foretrain.networks import (
    FLOAT_FORMATS,
    MLP,
    ConvResNet,
    Transformer,
    fake_quantize,
    gptq,
    low_precision,
    round_to_format,
    round_to_nearest,
)
from foretrain.networks._gptq import gptq_from_gram
from foretrain.networks._low_precision import HookedLinear, input_grams, is_map
from foretrain.networks._quantize import _to_format

SHARED = [name for name in FLOAT_FORMATS if hasattr(ml_dtypes, name)]
RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


def _codes(name: str) -> np.ndarray:
    """All finite numbers of a type of `ml_dtypes`, ascending."""
    kind = getattr(ml_dtypes, name)
    width = np.dtype(kind).itemsize * 8
    bits = min(width, FLOAT_FORMATS[name].bits)
    with np.errstate(invalid="ignore"):  # codes for NaN
        every = np.arange(2**bits, dtype=np.uint8 if width == 8 else np.uint16).view(kind).astype(np.float64)
    return np.unique(every[np.isfinite(every)])


@pytest.mark.parametrize("name", SHARED)
def test_every_number_and_every_tie_as_in_ml_dtypes(name):
    codes = _codes(name)
    if name == "bfloat16":  # float32's own subnormals are flushed by compiled programs
        codes = codes[(np.abs(codes) > 1e-30) & (np.abs(codes) < 1e30)]
    assert FLOAT_FORMATS[name].largest == float(ml_dtypes.finfo(getattr(ml_dtypes, name)).max)
    ties = (codes[1:] + codes[:-1]) / 2
    beside = np.concatenate([np.nextafter(ties.astype(np.float32), s * np.float32(np.inf)) for s in (-1, 1)])
    x = np.concatenate([codes, ties, beside]).astype(np.float32)
    expected = x.astype(getattr(ml_dtypes, name)).astype(np.float32)
    np.testing.assert_array_equal(round_to_format(x, name), expected)
    np.testing.assert_array_equal(np.asarray(_to_format(jnp.asarray(x), FLOAT_FORMATS[name], jnp)), expected)


def test_splits_have_a_number_for_every_code():
    x = np.sort(np.concatenate([-np.geomspace(1e-7, 2e5, 40_000), [0.0], np.geomspace(1e-7, 2e5, 40_000)]))
    for name in ("e2m0", "e3m0", "e4m1", "e3m2", "e4m2", "e5m2"):
        found = np.unique(round_to_format(x, name))
        assert len(found) == 2 ** FLOAT_FORMATS[name].bits - 1, name  # both zeros are one number
    np.testing.assert_array_equal(round_to_format(x, "e3m2"), round_to_format(x, "float6_e3m2fn"))
    assert np.unique(round_to_format(x, "e2m0")).tolist() == [-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0]
    # Where both have numbers, more codes for the exponent change nothing.
    small = x[np.abs(x) < 57344]
    np.testing.assert_array_equal(round_to_format(small, "e5m2"), round_to_format(small, "float8_e5m2"))


def test_bits_of_the_paper():
    assert [FLOAT_FORMATS[n].bits for n in ("e2m0", "e3m0", "e4m1", "e3m2", "e4m2", "e5m2", "e5m6")] == [
        3,
        4,
        6,
        6,
        7,
        8,
        12,
    ]


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 16])
def test_integers_and_their_gradient_as_in_torch(bits):
    torch = pytest.importorskip("torch")
    x = RNG.standard_normal((5, 40)).astype(np.float32)
    top = 2 ** (bits - 1) - 1
    scale = torch.tensor(np.abs(x).max(axis=1) / top)
    given = torch.tensor(x, requires_grad=True)
    theirs = torch.fake_quantize_per_channel_affine(given, scale, torch.zeros(5, dtype=torch.int32), 0, -top - 1, top)
    weights = RNG.standard_normal(x.shape).astype(np.float32)
    (theirs * torch.tensor(weights)).sum().backward()
    ours = fake_quantize(jnp.asarray(x), bits, axes=(1,))
    # 16 bits: products near a half may round to the other side, one step apart.
    wrong = np.abs(np.asarray(ours) - theirs.detach().numpy())
    step = np.abs(x).max(axis=1, keepdims=True) / top
    assert np.mean(wrong > 1e-6 * np.abs(x).max()) <= (0.02 if bits == 16 else 0.0)
    assert np.all(wrong <= step * (1 + 1e-5))
    gradient = jax.grad(lambda v: jnp.sum(fake_quantize(v, bits, axes=(1,)) * weights))(jnp.asarray(x))
    np.testing.assert_array_equal(gradient, weights)
    if bits < 16:
        np.testing.assert_array_equal(given.grad.numpy(), weights)


@pytest.mark.parametrize("precision", [2, 3, 5, 8, "e2m0", "e4m2", "float8_e4m3fn"])
def test_identities(precision):
    w = RNG.standard_normal((6, 30))
    found = round_to_nearest(w, precision)
    # Rounding in the scale, which is not a power of two, is all that a second time changes.
    np.testing.assert_allclose(round_to_nearest(found, precision), found, rtol=1e-14)
    np.testing.assert_array_equal(round_to_nearest(-w, precision), -found)
    np.testing.assert_array_equal(round_to_nearest(8 * w, precision), 8 * found)
    largest = np.abs(w).max(axis=1)
    np.testing.assert_allclose(np.abs(found).max(axis=1), largest, rtol=1e-15)
    for row in range(6):
        np.testing.assert_array_equal(round_to_nearest(w[row : row + 1], precision)[0], found[row])
    if isinstance(precision, int):
        top = 2 ** (precision - 1) - 1
        assert np.all(np.abs(found - w) <= largest[:, None] / (2 * top) * (1 + 1e-12))
        levels = found / largest[:, None] * top
        np.testing.assert_allclose(levels, np.round(levels), atol=1e-11)
    with jax.enable_x64(True):
        jaxed = fake_quantize(jnp.asarray(w), precision, axes=(1,))
        # A compiler may divide by multiplying with the reciprocal: two roundings instead of one.
        np.testing.assert_allclose(np.asarray(jaxed), found, rtol=4.5e-16)
    np.testing.assert_array_equal(round_to_nearest(w, None), w)


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
def test_rounding_a_quadratic_loss_costs_a_24th_of_the_step_squared(bits):
    """Errors are uniform over a step and independent, but for the largest entry of a row, which is met: E[cost] = step^2 tr(H) / 24."""
    rng = np.random.default_rng(bits)
    rows, inputs = 400, 200
    root = rng.standard_normal((inputs, inputs))
    hessian = root @ root.T
    weights = rng.standard_normal((rows, inputs))
    missed = round_to_nearest(weights, bits) - weights
    cost = np.einsum("ri,ij,rj->r", missed, hessian, missed) / 2
    step = np.abs(weights).max(axis=1) / (2 ** (bits - 1) - 1)
    ratio = cost / (step**2 / 24 * np.trace(hessian))
    error = ratio.std(ddof=1) / np.sqrt(rows)
    assert error < 0.02
    assert abs(ratio.mean() - (1 - 1 / inputs)) < 4 * error


@pytest.mark.parametrize("precision", [3, "e4m2", "bfloat16"])
def test_degenerate_tensors(precision):
    zeros = jnp.zeros((2, 3))
    np.testing.assert_array_equal(fake_quantize(zeros, precision), zeros)
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(fake_quantize(x, precision)))(zeros), np.ones((2, 3)))
    constant = fake_quantize(jnp.full(4, 0.37), precision)
    # bfloat16 is not scaled: eight bits, half a step of which is 2^-8. The others keep the largest entry up to two roundings.
    np.testing.assert_allclose(constant, 0.37, rtol=2**-8 if precision == "bfloat16" else 2.5e-7)
    for bad in (np.nan, np.inf, -np.inf):
        rows = np.array([[1.0, bad, 0.5], [1.0, 0.5, 0.25]], np.float32)
        found = np.asarray(fake_quantize(jnp.asarray(rows), precision, axes=(1,)))
        if precision == "bfloat16" and np.isinf(bad):
            continue
        assert not np.all(np.isfinite(found[0]))
        assert np.all(np.isfinite(found[1]))
        if precision != "bfloat16":
            assert np.all(np.isnan(found[0]))
    with jax.enable_x64(True):
        tiny = np.asarray(fake_quantize(jnp.array([1e-310, 0.0]), precision))
    assert np.all(np.abs(tiny) < 1e-300)  # zeros, or as they were
    assert np.all(round_to_nearest(np.zeros((2, 3)), precision) == 0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: fake_quantize(jnp.ones(2), 1),
            r"fake_quantize\(precision\): expected a whole number of bits from 2 to 16",
        ),
        (lambda: fake_quantize(jnp.ones(2), 17), "got 17"),
        (lambda: fake_quantize(jnp.ones(2), 3.5), "got 3.5"),
        (lambda: fake_quantize(jnp.ones(2), True), "got True"),
        (lambda: round_to_nearest(np.ones((2, 2)), "e4m4"), "got 'e4m4'; did you mean 'e4m2'"),
        (
            lambda: round_to_nearest(np.ones(2), 4),
            r"round_to_nearest\(weights\): expected a matrix, outputs first, got shape \(2,\)",
        ),
        (lambda: round_to_nearest(np.array([[1.0, np.nan]]), 4), "expected finite numbers, got 1 others"),
        (lambda: round_to_format(np.ones(2), "float8_e4m3f"), r"round_to_format\(name\).*did you mean 'float8_e4m3"),
        (
            lambda: gptq(np.ones((2, 3)), np.ones((4, 2)), 3),
            r"gptq\(inputs\): expected rows of 3 numbers.*got shape \(4, 2\)",
        ),
        (
            lambda: gptq(np.ones((2, 2)), np.full((4, 2), np.inf), 3),
            r"gptq\(inputs\): expected finite numbers, got 8 others",
        ),
        (lambda: gptq(np.ones((2, 2, 2)), np.ones((4, 2)), 3), r"gptq\(weights\): expected a matrix"),
        (
            lambda: gptq(np.ones((2, 2)), np.ones((4, 2)), 3, damping=-1.0),
            r"gptq\(damping\): expected a number >= 0, got -1",
        ),
        (
            lambda: gptq(np.ones((2, 2)), np.ones((4, 2)), 3, damping=0.0),
            r"gptq\(damping\): the inputs leave directions",
        ),
        (lambda: low_precision(MLP(3, 2, width=4, key=KEY), weights=33), r"low_precision\(weights\): .* got 33"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(InvalidInput, match=words):
        make()


def _error(weights, rounded, inputs):
    return np.sum((inputs @ (rounded - weights).T) ** 2)


def _correlated(samples, columns, seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((samples, columns)) @ rng.standard_normal((columns, columns))


def _by_least_squares(weights, inputs, bits, damping):
    """Column after column; those not yet rounded are fitted anew so that the outputs stay, in the most ordinary way."""
    top = 2 ** (bits - 1) - 1
    columns = weights.shape[1]
    extra = np.sqrt(damping * np.mean(np.sum(inputs**2, axis=0))) * np.eye(columns)
    x = np.concatenate([inputs, extra])
    result = np.empty_like(weights)
    for row, w in enumerate(weights):
        scale = top / np.abs(w).max()
        current = w.copy()
        for i in range(columns):
            current[i] = np.clip(np.round(scale * current[i]), -top - 1, top) / scale
            missing = x @ w - x[:, : i + 1] @ current[: i + 1]
            current[i + 1 :] = np.linalg.lstsq(x[:, i + 1 :], missing, rcond=None)[0]
        result[row] = current
    return result


def test_gptq_is_least_squares_column_by_column():
    inputs, weights = _correlated(60, 9, 1), RNG.standard_normal((5, 9))
    for bits in (2, 3, 4):
        expected = _by_least_squares(weights, inputs, bits, 0.01)
        np.testing.assert_allclose(gptq(weights, inputs, bits), expected, rtol=0, atol=1e-12)


def test_gptq_with_uncorrelated_inputs_is_nearest():
    weights = RNG.standard_normal((4, 7))
    orthogonal = np.linalg.qr(RNG.standard_normal((30, 7)))[0] * np.arange(1, 8)
    diagonal = np.diag(np.arange(1.0, 8.0))
    for precision in (2, 3, 5, "e3m2"):
        nearest = round_to_nearest(weights, precision)
        np.testing.assert_array_equal(gptq_from_gram(weights, diagonal, precision), nearest)
        # The inputs are orthogonal up to rounding, which moves no column across a half.
        np.testing.assert_array_equal(gptq(weights, orthogonal, precision), nearest)
        np.testing.assert_array_equal(gptq(weights, np.zeros((3, 7)), precision), nearest)
    np.testing.assert_array_equal(gptq(weights, orthogonal, None), weights)


@pytest.mark.parametrize("bits", [2, 3])
def test_gptq_against_nearest_and_all_roundings(bits):
    top = 2 ** (bits - 1) - 1
    gains = []
    for seed in range(20):
        inputs, weights = _correlated(40, 4, seed), np.random.default_rng(seed).standard_normal((1, 4))
        scale = top / np.abs(weights).max()
        grid = np.array(list(itertools.product(np.arange(-top - 1, top + 1), repeat=4))) / scale
        best = np.min(np.sum((inputs @ (grid - weights).T) ** 2, axis=0))
        found, nearest = (
            _error(weights, f, inputs) for f in (gptq(weights, inputs, bits), round_to_nearest(weights, bits))
        )
        assert best <= found * (1 + 1e-12)
        gains.append([best, found, nearest])
    best, found, nearest = np.mean(gains, axis=0)
    assert best <= found < nearest


def test_gptq_keeps_outputs_better_than_nearest_within_its_bound():
    inputs, weights = _correlated(300, 24, 5), RNG.standard_normal((8, 24))
    for bits in (3, 4, 6):
        found = gptq(weights, inputs, bits, damping=0.0)
        assert _error(weights, found, inputs) < _error(weights, round_to_nearest(weights, bits), inputs)
        # Every column adds at most (step / 2)^2 / U_ii^2 (Babai's nearest plane), where nothing was cut off at the ends.
        upper = np.linalg.cholesky(np.linalg.inv(inputs.T @ inputs), upper=True).diagonal()
        step = np.abs(weights).max(axis=1) / (2 ** (bits - 1) - 1)
        inside = np.abs(found).max(axis=1) < np.abs(weights).max(axis=1) * (1 - 1e-9)
        errors = np.sum((inputs @ (found - weights).T) ** 2, axis=0)
        bound = step**2 / 4 * np.sum(1 / upper**2)
        assert np.all(errors[inside] <= bound[inside])


def test_networks_by_hand():
    x = RNG.standard_normal((5, 3)).astype(np.float32)
    network = MLP(3, 2, width=8, depth=3, activation="tanh", bias=True, key=KEY)
    network = jax.tree.map(lambda leaf: leaf + 0.1, network)
    found = low_precision(network, weights=4, activations="e4m2")

    def layer(part, weight, bias, h):
        return part.multiplier * fake_quantize(h, "e4m2") @ fake_quantize(weight, 4, axes=(1,)).T + bias

    first, middle, last = network.first, network.middle, network.last
    h = layer(first, first.weight, first.bias, x[0])
    for weight, bias in zip(middle.weight, middle.bias, strict=True):
        h = layer(middle, weight, bias, jnp.tanh(h))
    # The network may fuse its sums: rounding in single precision, which a rounding to a grid could only amplify at a tie.
    np.testing.assert_allclose(found(x[0]), layer(last, last.weight, last.bias, jnp.tanh(h)), rtol=2e-5)
    assert np.any(np.abs(found(x[0]) - network(x[0])) > 1e-3)
    assert low_precision(network)(x[0]).tolist() == network(x[0]).tolist()


def test_gradients_are_those_at_the_rounded_weights():
    x = jnp.asarray(RNG.standard_normal(3), jnp.float32)
    network = MLP(3, 2, width=8, depth=3, activation="tanh", key=KEY)
    through = jax.grad(lambda one: jnp.sum(low_precision(one, weights=3)(x) ** 2))(network)
    at = jax.grad(lambda one: jnp.sum(one(x) ** 2))(low_precision(network, weights=3))
    for a, b in zip(jax.tree.leaves(through), jax.tree.leaves(at), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)  # the same products, in another order perhaps


def test_a_batch_shares_its_scales_where_asked():
    x = jnp.asarray(RNG.standard_normal((4, 3)) * np.array([1.0, 10.0, 100.0, 1000.0])[:, None], jnp.float32)
    network = MLP(3, 2, width=8, depth=1, activation="linear", key=KEY)
    own = jax.vmap(low_precision(network, activations=3))(x)
    shared = jax.vmap(low_precision(network, activations=3, over="batch"), axis_name="batch")(x)
    assert np.all(np.any(own != 0, axis=1))
    assert np.all(shared[0] == 0)  # one thousandth of the largest rounds to 0 on three bits
    first = network.first.multiplier * fake_quantize(x, 3) @ network.first.weight.T
    last = network.last.multiplier * fake_quantize(first, 3) @ network.last.weight.T
    np.testing.assert_allclose(shared, last, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_keys_and_values_are_rounded_after_rotation(positions):
    network = Transformer(11, 11, width=8, depth=1, heads=2, context=5, positions=positions, key=KEY)
    layers = dataclasses.replace(low_precision(network, kv=3).layers, depth=1)
    one = jax.tree.map(lambda leaf: leaf[0], layers)
    plain = jax.tree.map(lambda leaf: leaf[0], network.layers)
    x = jnp.asarray(RNG.standard_normal((5, 8)), jnp.float32)
    from foretrain.networks._attention import rotate, rotations, softmax

    rotation = rotations(5, 4, x.dtype) if positions == "rotary" else None
    query, key, value = (part(x).reshape(5, 2, 4).swapaxes(0, 1) for part in (plain.query, plain.key, plain.value))
    if rotation is not None:
        query, key = rotate(query, rotation), rotate(key, rotation)
    mixed = softmax(plain.scale * query @ fake_quantize(key, 3).swapaxes(1, 2), True) @ fake_quantize(value, 3)
    expected = plain.out(mixed.swapaxes(0, 1).reshape(5, 8))
    np.testing.assert_allclose(one.attend(x, rotation)[0], expected, rtol=1e-5, atol=1e-6)
    assert np.any(np.abs(expected - plain.attend(x, rotation)[0]) > 1e-3)


def test_tables_gains_and_biases_stay():
    network = Transformer(11, 11, width=8, depth=2, heads=2, context=5, bias=True, key=KEY)
    network = jax.tree.map(lambda leaf: leaf + 0.1, network)
    found = low_precision(network, weights=2)
    changed = [
        jax.tree_util.keystr(path)
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(network), jax.tree.leaves(found), strict=True)
        if np.any(a != b)
    ]
    maps = ("query", "key", "value", "out", "up", "down")
    assert sorted(changed) == sorted([*(f".layers.{name}.weight" for name in maps), ".last.weight"])
    # Three levels for every output channel of every layer.
    weight = np.asarray(found.layers.up.weight)
    assert all(len(np.unique(row)) <= 3 for row in weight.reshape(-1, 8))
    conv = low_precision(ConvResNet(64, 10, width=4, depth=2, key=KEY), weights=2)
    for kernel in (conv.first.kernel.weight[None], conv.branches.convolution.kernel.weight):
        assert all(len(np.unique(np.asarray(row))) <= 3 for row in np.asarray(kernel).reshape(-1, *kernel.shape[2:]))


def test_second_moments_of_all_inputs():
    examples = jnp.asarray(RNG.integers(0, 11, (3, 5)))
    network = Transformer(11, 11, width=8, depth=2, heads=2, context=5, norm="rmsnorm", key=KEY)
    grams = input_grams(lambda one, x: jax.vmap(one)(x), network, examples)
    _, features = jax.vmap(network.observe)(examples)
    maps = [node for node in jax.tree.leaves(network, is_leaf=is_map) if is_map(node)]
    place = {id(one): grams[i] for i, one in enumerate(maps)}

    def norm(x):
        return x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + 1e-6)

    def moments(x):
        rows = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
        return rows.T @ rows

    for layer in range(2):
        stream = np.asarray(features["stream"])[:, layer]
        inside = jax.nn.gelu(features["inside"][:, layer], approximate=False)
        np.testing.assert_allclose(place[id(network.layers.query)][layer], moments(norm(stream)), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(place[id(network.layers.down)][layer], moments(inside), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        place[id(network.last)], moments(norm(np.asarray(features["stream"])[:, 2])), rtol=1e-4, atol=1e-4
    )


def test_hooks_leave_the_map():
    network = ConvResNet(64, 10, width=4, depth=2, key=KEY)
    found = low_precision(network, activations=16)
    assert isinstance(found.first.kernel, HookedLinear)
    x = jnp.asarray(RNG.standard_normal(64), jnp.float32)
    np.testing.assert_allclose(
        found(x), network(x), rtol=1e-3, atol=1e-4
    )  # sixteen bits: 3e-5 of the largest, a few times
    grams = input_grams(lambda one, e: jax.vmap(one)(e), network, x[None])
    assert [gram.shape for gram in grams] == [(9, 9), (2, 36, 36), (4, 4)]
