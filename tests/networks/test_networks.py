"""Networks: shapes, paths and roles, symmetries of their functions, starts, and what they refuse."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import foretrain.networks._stack as stack
from foretrain import problems
from foretrain.errors import InvalidInput
from foretrain.networks import ACTIVATIONS, NETWORKS, ConvResNet, ResNet, Transformer, ViT, flops_per_example
from foretrain.networks._attention import rotate, rotations
from foretrain.parameterization import Recipe, Size, from_tensors, make_optimizer
from foretrain.training._network import build_network

KEY = jax.random.key(0)
DECLARED = {
    "mlp": (problems.MLP(width=16, depth=3, bias=True), 12, {}),
    "resnet": (problems.ResNet(width=16, depth=3, norm="layernorm", bias=True), 12, {}),
    "conv-resnet": (problems.ConvResNet(width=8, depth=3, norm="rmsnorm", bias=True, stride=2), 75, {}),
    "vit": (problems.ViT(width=16, head_dim=8, depth=3, bias=True, patch=2), 48, {}),
    "transformer": (problems.Transformer(width=16, head_dim=8, depth=3, bias=True), 11, {"context": 6}),
    "swiglu": (
        problems.Transformer(width=16, heads=2, depth=3, norm="rmsnorm", activation="swiglu", positions="rotary"),
        11,
        {"context": 6},
    ),
    "tied": (problems.Transformer(width=16, heads=4, depth=3, tied=True, norm="none"), 11, {"context": 6}),
}
# name -> shapes of stream, inside, branch, output
SHAPES = {
    "mlp": ((3, 16), None, None, (11,)),
    "resnet": ((4, 16), (3, 16), (3, 16), (11,)),
    "conv-resnet": ((4, 3, 3, 8), (3, 3, 3, 8), (3, 3, 3, 8), (11,)),
    "vit": ((4, 4, 16), (3, 4, 64), (3, 2, 4, 16), (11,)),
    **dict.fromkeys(("transformer", "swiglu", "tied"), ((4, 6, 16), (3, 6, 64), (3, 2, 6, 16), (6, 11))),
}
TRAINING = problems.NetworkTraining(optimizer="adam", learning_rate=0.01, batch_size=4)


@functools.cache
def made(name):
    model, inputs, facts = DECLARED[name]
    return build_network(model, TRAINING, inputs, 11, key=KEY, **facts)


def example(name, dtype=jnp.float32):
    _, inputs, facts = DECLARED[name]
    if facts:
        return jax.random.randint(jax.random.key(1), (6,), 0, inputs)
    return jax.random.normal(jax.random.key(1), (inputs,), dtype)


@eqx.filter_jit
def observe(network, x, record=True):
    return network.observe(x, record=record)


@pytest.mark.parametrize("name", DECLARED)
def test_leaves_are_the_described_tensors_and_features_have_their_shapes(name):
    network, p = made(name)
    params = eqx.filter(network, eqx.is_inexact_array)
    p.check(params)
    assert len(jax.tree.leaves(params)) == len(p.tensors)
    outputs, features = observe(network, example(name))
    stream, inside, branch, output = SHAPES[name]
    assert outputs.shape == output == features["output"].shape
    assert features["stream"].shape == stream
    if inside is not None:
        assert (features["inside"].shape, features["branch"].shape) == (inside, branch)
        # the stream is its start plus what every branch added
        added = features["branch"]
        added = added.sum(1) if branch[1] == 2 and len(branch) == 4 and name != "conv-resnet" else added
        np.testing.assert_allclose(features["stream"][1:] - features["stream"][:-1], added, atol=2e-6)
    bare, nothing = observe(network, example(name), record=False)
    assert nothing == {}
    np.testing.assert_allclose(bare, outputs, rtol=1e-5, atol=1e-6)


def test_every_declared_kind_has_a_network():
    assert set(NETWORKS) == set(SHAPES) - {"swiglu", "tied"}


@pytest.mark.parametrize("name", ["mlp", "resnet", "transformer"])
def test_a_scan_and_a_written_out_loop_are_the_same_function(name, monkeypatch):
    network, x = made(name)[0], example(name)
    found = []
    for unrolled in (0, 100):
        monkeypatch.setattr(stack, "UNROLLED", unrolled)
        outputs, features = eqx.filter_jit(lambda n, x: n.observe(x))(network, x)
        found.append((outputs, features["stream"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *found)


def test_a_transformer_does_not_see_later_tokens():
    network, x = made("transformer")[0], example("transformer")
    changed = x.at[4].set((x[4] + 1) % 11)
    before, after = (observe(network, tokens)[0] for tokens in (x, changed))
    np.testing.assert_array_equal(before[:4], after[:4])
    assert (np.abs(np.asarray(before[4:] - after[4:])).max(axis=-1) > 1e-3).all()
    np.testing.assert_allclose(
        observe(network, x[:3])[0], before[:3], rtol=1e-5, atol=1e-6
    )  # fewer tokens than the context


def test_a_vit_without_positions_is_equivariant_under_permutations_of_patches():
    network = made("vit")[0]
    network = eqx.tree_at(lambda n: n.positions, network, jnp.zeros_like(network.positions))
    image = np.asarray(example("vit")).reshape(4, 4, 3)
    blocks = image.reshape(2, 2, 2, 2, 3).swapaxes(1, 2).reshape(4, 2, 2, 3)
    order = [2, 0, 3, 1]
    moved = blocks[order].reshape(2, 2, 2, 2, 3).swapaxes(1, 2).reshape(-1)
    (y, seen), (z, other) = (observe(network, jnp.asarray(one)) for one in (image.reshape(-1), moved))
    np.testing.assert_allclose(y, z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(seen["stream"][:, order], other["stream"], rtol=1e-4, atol=1e-5)
    assert np.abs(np.asarray(seen["stream"] - other["stream"])).max() > 0.1


def test_rotary_logits_depend_on_relative_positions_only():
    cos, sin = rotations(9, 6, jnp.float32)
    q, k = jax.random.normal(KEY, (2, 1, 1, 6))

    def logit(i, j):
        turned = [rotate(v, (cos[at : at + 1], sin[at : at + 1]))[0, 0] for v, at in ((q, i), (k, j))]
        return float(turned[0] @ turned[1])

    assert logit(2, 1) == pytest.approx(logit(8, 7), abs=1e-5)
    assert logit(0, 0) == pytest.approx(float(q[0, 0] @ k[0, 0]), abs=1e-5)
    assert abs(logit(2, 1) - logit(5, 1)) > 1e-2


@pytest.mark.parametrize("name", ["gelu", "leaky-relu", "tanh", "silu", "erf", "relu-2", "relu-3"])
def test_activations_and_their_derivatives_are_the_usual_ones(name):
    usual = {
        "gelu": lambda x: jax.nn.gelu(x, approximate=False),
        "leaky-relu": jax.nn.leaky_relu,
        "tanh": jnp.tanh,
        "silu": jax.nn.silu,
        "erf": jax.scipy.special.erf,
        "relu-2": lambda x: jnp.maximum(x, 0) ** 2,
        "relu-3": lambda x: jnp.maximum(x, 0) ** 3,
    }[name]
    x = jnp.linspace(-6, 6, 998)
    for derivative in (lambda f: f, lambda f: jax.vmap(jax.grad(f)), lambda f: jax.vmap(jax.grad(jax.grad(f)))):
        np.testing.assert_allclose(derivative(ACTIVATIONS[name])(x), derivative(usual)(x), atol=2e-6)  # float32


@pytest.mark.parametrize("name", DECLARED)
def test_double_precision_in_its_scope(name):
    model, inputs, facts = DECLARED[name]

    def both(key, x):
        network, _ = build_network(model, TRAINING, inputs, 11, key=key, dtype=jnp.float64, **facts)
        return eqx.filter(network, eqx.is_inexact_array), network.observe(x)

    with jax.enable_x64(True):
        shapes = jax.eval_shape(both, KEY, example(name, jnp.float64))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float64")}


def test_at_the_base_a_relative_network_is_the_standard_one_bit_for_bit():
    """Multipliers of 1, variance 1 / fan-in, and an optimizer that is the plain one, over ten steps."""
    model = problems.ResNet(width=16, depth=3, base_width=16, base_depth=3, parameterization="completep")
    network, p = build_network(model, TRAINING, 6, 2, key=KEY)
    assert {rule.entry.multiplier for rule in p.tensors.values()} == {1.0}
    xs = jax.random.normal(jax.random.key(2), (8, 6))

    def plain(net, x):
        h = x @ net.first.weight.T
        for weight in net.branches.weight.weight:
            h = h + jax.nn.relu(h) @ weight.T
        return h @ net.last.weight.T

    with jax.disable_jit():  # operation by operation, so that no compiler regroups one of the two
        np.testing.assert_array_equal(network(xs[0]), plain(network, xs[0]))
    params, static = eqx.partition(network, eqx.is_inexact_array)

    def run(optimizer):
        @jax.jit
        def step(params, state):
            gradients = jax.grad(lambda q: jnp.mean(jax.vmap(eqx.combine(q, static))(xs) ** 2))(params)
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        carry = params, optimizer.init(params)
        for _ in range(10):
            carry = step(*carry)
        return carry[0]

    ours, theirs = run(make_optimizer(p.like(params), 0.01)), run(optax.adam(0.01))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert np.abs(np.asarray(ours.last.weight - params.last.weight)).max() > 1e-2  # it learned


def test_fan_in_of_a_convolution_includes_its_kernel():
    rule = from_tensors(ConvResNet.tensors(48, 2, width=8), Recipe("mup")).tensors
    assert rule["branches.convolution.kernel.weight"].entry.multiplier == pytest.approx((9 * 8) ** -0.5)
    assert rule["first.kernel.weight"].entry.multiplier == pytest.approx((9 * 3) ** -0.5)


@pytest.mark.parametrize("width", [64, 256])
def test_the_stream_starts_with_the_size_that_the_theory_gives(width):
    """E |h^L|^2 / N = (1 + 1/L)^L for a linear residual network with |x|^2 = D and branches over the root of L."""
    depth, seeds = 8, 60
    p = from_tensors(ResNet.tensors(4, 1, width=width, depth=depth), Recipe("mup-depth"), size=Size(depth))
    x = jnp.asarray([1.0, -1.0, 1.0, 1.0])

    @jax.jit
    @jax.vmap
    def size(key):
        network = ResNet(4, 1, width=width, depth=depth, activation="linear", parameterization=p, key=key)
        return jnp.mean(network.observe(x)[1]["stream"] ** 2, axis=-1)

    sizes = np.asarray(size(jax.random.split(KEY, seeds)), dtype=float)
    expected = (1 + 1 / depth) ** np.arange(depth + 1)
    z = (sizes.mean(0) - expected) / (sizes.std(0, ddof=1) / seeds**0.5)
    assert np.abs(z).max() < 4, z


@pytest.mark.parametrize("width", [64, 256])
def test_attention_at_the_start_is_of_the_size_that_the_theory_gives(width):
    """Queries and keys of normed tokens are standard normal, so that logits over d_h have variance 1 / d_h."""
    seeds, heads = 40, 4
    sizes = {"width": width, "depth": 1, "context": 5}
    p = from_tensors(Transformer.tensors(7, 7, **sizes), Recipe("mup"), size=Size(1, width // heads))

    @jax.jit
    @jax.vmap
    def logits(key):
        network = Transformer(7, 7, heads=heads, **sizes, parameterization=p, key=key)
        return network.observe(jnp.asarray([0, 1, 2, 3, 4]))[1]["logits"][0]

    found = np.asarray(logits(jax.random.split(KEY, seeds)), dtype=float)
    powers = (found**2).mean(axis=(1, 2, 3)) * width / heads
    # over tokens, E of (x.x')^2 / N^2 adds nothing to the variance of one logit: E_W (q.k)^2 = d_h |x|^2 |x'|^2 / N^2
    z = (powers.mean() - 1) / (powers.std(ddof=1) / seeds**0.5)
    assert abs(z) < 4


def test_operations_of_a_step():
    def shaped(kind, *args, **kwargs):
        return eqx.filter_eval_shape(lambda: kind(*args, **kwargs, width=8, depth=2, key=jax.random.key(0)))

    conv = shaped(ConvResNet, 75, 3, stride=2)  # 5 x 5 pixels, 3 x 3 after the stem
    assert flops_per_example(conv) == 6 * (9 * (27 * 8 + 2 * 72 * 8) + 8 * 3)
    vit = shaped(ViT, 48, 3, heads=2)  # 4 patches of 12 numbers
    assert flops_per_example(vit) == 6 * (4 * (12 * 8 + 2 * 12 * 64) + 8 * 3) + 12 * 2 * 4 * 4 * 8
    tokens = shaped(Transformer, 7, 7, heads=2, context=5, tied=True)
    assert flops_per_example(tokens) == 6 * 5 * (2 * 12 * 64 + 7 * 8) + 12 * 2 * 25 * 8


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Transformer(5, 5, width=8, heads=3, context=4, key=KEY), "divisor of the width 8, got 3"),
        (lambda: Transformer(5, 6, width=8, heads=2, context=4, tied=True, key=KEY), "got 6 and 5"),
        (lambda: Transformer(5, 5, width=8, heads=2, context=4, positions="rotory", key=KEY), "'rotary'"),
        (lambda: Transformer(5, 5, width=8, heads=2, context=4, norm="batchnorm", key=KEY), "layernorm"),
        (lambda: Transformer(5, 5, width=8, heads=2, context=4, activation="swish", key=KEY), "silu"),
        (lambda: Transformer(5, 5, width=8, heads=2, context=4, key=KEY)(jnp.arange(5)), "at most 4 tokens"),
        (lambda: ViT(64, 2, width=8, heads=2, patch=3, key=KEY), "divisor of the image's side 8, got 3"),
        (lambda: ViT(65, 2, width=8, heads=2, key=KEY), "square image with 1 or 3 channels"),
        (lambda: ConvResNet(50, 2, width=8, key=KEY), "got 50"),
        (
            lambda: ViT(
                16,
                2,
                width=8,
                heads=2,
                parameterization=from_tensors(ViT.tensors(16, 2, width=8), Recipe("mup"), size=Size(2)),
                key=KEY,
            ),
            r"head_dim=4",
        ),
    ],
)
def test_refusals(build, message):
    with pytest.raises(InvalidInput, match=message):
        build()
