"""Networks against the same networks written out as explicit loops in NumPy, float64."""

import math

import equinox as eqx
import jax
import numpy as np
import pytest
import scipy.special

from foretrain import problems
from foretrain.training._network import build_network

# Rounding of float64 over a few hundred operations.
CLOSE = {"rtol": 1e-9, "atol": 1e-10}
TRAINING = problems.NetworkTraining(optimizer="sgd", learning_rate=0.1, batch_size=4)


def randomized(model, inputs, outputs, **facts):
    """A network whose biases and gains are random too, its effective tensors by path, and one random example's generator."""
    network, p = build_network(model, TRAINING, inputs, outputs, key=jax.random.key(0), dtype=np.float64, **facts)
    rng = np.random.default_rng(0)
    params, static = eqx.partition(network, eqx.is_inexact_array)
    params = jax.tree.map(lambda a: a + 0.3 * rng.normal(size=a.shape), params)
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    tensors = {}
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        tensors[name] = p.tensors[name].entry.multiplier * np.asarray(leaf)
    return eqx.combine(params, static), tensors, p, rng


def normed(x, kind, t, name, layer=...):
    if kind == "none":
        return x
    if kind == "layernorm":
        x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    gain, bias = t.get(f"{name}.gain"), t.get(f"{name}.bias")
    x = x if gain is None else x * gain[layer]
    return x if bias is None else x + bias[layer]


@pytest.mark.parametrize("kind", ["none", "layernorm", "rmsnorm"])
def test_resnet(kind):
    with jax.enable_x64(True):
        model = problems.ResNet(
            width=8, depth=3, norm=kind, bias=True, activation="tanh", readout_activation="relu", branch_scale=2.0
        )
        network, t, p, rng = randomized(model, 5, 2)
        x = rng.normal(size=5)
        h = t["first.weight"] @ x + t["first.bias"]
        for layer in range(3):
            inside = np.tanh(normed(h, kind, t, "branches.norm", layer))
            h = h + t["branches.weight.weight"][layer] @ inside + t["branches.weight.bias"][layer]
        f = t["last.weight"] @ np.maximum(normed(h, kind, t, "final"), 0) + t["last.bias"]
        np.testing.assert_allclose(eqx.filter_jit(network)(x), f, **CLOSE)
    # the branch factor is in the multiplier of the branch's map and of its bias
    assert p.tensors["branches.weight.weight"].entry.multiplier == pytest.approx(2 / math.sqrt(3) / math.sqrt(8))
    assert p.tensors["branches.weight.bias"].entry.multiplier == pytest.approx(2 / math.sqrt(3))


@pytest.mark.parametrize(("stride", "channels"), [(1, 1), (2, 3)])
def test_conv_resnet(stride, channels):
    def convolved(image, kernel, bias, stride):
        side = image.shape[0]
        out = np.zeros((-(-side // stride), -(-side // stride), kernel.shape[0]))
        for a in range(out.shape[0]):
            for b in range(out.shape[1]):
                for i in range(3):
                    for j in range(3):
                        row, column = a * stride + i - 1, b * stride + j - 1
                        if 0 <= row < side and 0 <= column < side:
                            out[a, b] += kernel[:, i, j] @ image[row, column]
        return out + bias

    with jax.enable_x64(True):
        model = problems.ConvResNet(width=4, depth=2, norm="rmsnorm", bias=True, stride=stride)
        network, t, _, rng = randomized(model, 25 * channels, 2)
        x = rng.normal(size=25 * channels)
        h = convolved(x.reshape(5, 5, channels), t["first.kernel.weight"], t["first.kernel.bias"], stride)
        for layer in range(2):
            inside = np.maximum(normed(h, "rmsnorm", t, "branches.norm", layer), 0)
            kernel = "branches.convolution.kernel"
            h = h + convolved(inside, t[f"{kernel}.weight"][layer], t[f"{kernel}.bias"][layer], 1)
        pooled = np.maximum(normed(h, "rmsnorm", t, "final"), 0).mean((0, 1))
        np.testing.assert_allclose(eqx.filter_jit(network)(x), t["last.weight"] @ pooled + t["last.bias"], **CLOSE)


def layers(h, t, p, *, heads, kind, causal, gated=False, rotary=False):
    """Attention token by token and head by head."""
    tokens, width = h.shape
    size = width // heads
    depth = t["layers.query.weight"].shape[0]

    def mapped(name, x, layer):
        bias = t.get(f"layers.{name}.bias")
        return x @ t[f"layers.{name}.weight"][layer].T + (0 if bias is None else bias[layer])

    def turned(v, at):
        pairs = (v[: size // 2] + 1j * v[size // 2 :]) * np.exp(1j * at * 1e4 ** (-2 * np.arange(size // 2) / size))
        return np.concatenate([pairs.real, pairs.imag])

    for layer in range(depth):
        x = normed(h, kind, t, "layers.attention_norm", layer)
        q, k, v = (mapped(name, x, layer) for name in ("query", "key", "value"))
        mixed = np.zeros_like(h)
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            for s in range(tokens):
                seen = range(s + 1) if causal else range(tokens)
                ours = turned(q[s, part], s) if rotary else q[s, part]
                theirs = [turned(k[r, part], r) if rotary else k[r, part] for r in seen]
                weights = scipy.special.softmax([p.attention_scale * ours @ other for other in theirs])
                mixed[s, part] = sum(w * v[r, part] for w, r in zip(weights, seen, strict=True))
        h = h + mapped("out", mixed, layer)
        x = normed(h, kind, t, "layers.mlp_norm", layer)
        if gated:
            gate = mapped("gate", x, layer)
            inside = gate * scipy.special.expit(gate) * mapped("up", x, layer)
        else:
            up = mapped("up", x, layer)
            inside = up * scipy.special.ndtr(up)
        h = h + mapped("down", inside, layer)
    return h


@pytest.mark.parametrize("kind", ["layernorm", "none"])
def test_vit(kind):
    with jax.enable_x64(True):
        model = problems.ViT(width=8, heads=2, depth=2, norm=kind, bias=True, mlp_ratio=2, branch_scale=0.5)
        network, t, p, rng = randomized(model, 48, 3)
        x = rng.normal(size=48)
        image = x.reshape(4, 4, 3)
        patches = [image[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].ravel() for i in range(2) for j in range(2)]
        h = np.stack(patches) @ t["first.weight"].T + t["first.bias"] + t["positions"]
        h = normed(layers(h, t, p, heads=2, kind=kind, causal=False), kind, t, "final")
        np.testing.assert_allclose(eqx.filter_jit(network)(x), t["last.weight"] @ h.mean(0) + t["last.bias"], **CLOSE)


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "layernorm", "bias": True},
        {"norm": "rmsnorm", "bias": True, "activation": "swiglu", "positions": "rotary"},
        {"norm": "none", "tied": True, "attention_exponent": 0.5},
        {"norm": "layernorm", "tied": True, "base_width": 4, "base_depth": 1, "base_head_dim": 2},
    ],
)
def test_transformer(options):
    with jax.enable_x64(True):
        model = problems.Transformer(width=8, heads=2, depth=2, mlp_ratio=2, **options)
        network, t, p, rng = randomized(model, 7, 7, context=5)
        x = rng.integers(0, 7, 5)
        h = t["tokens"][x]
        rotary = options.get("positions") == "rotary"
        h = h if rotary else h + t["positions"]
        gated = options.get("activation") == "swiglu"
        h = layers(h, t, p, heads=2, kind=options["norm"], causal=True, gated=gated, rotary=rotary)
        h = normed(h, options["norm"], t, "final")
        if options.get("tied"):
            # absolute: 1 / N; at a base of width 4, a standard readout has 1 / sqrt(4), and then the ratio of widths counts
            f = h @ t["tokens"].T * (1 / 8 if "base_width" not in options else 4**-0.5 * (4 / 8))
        else:
            f = h @ t["last.weight"].T + t.get("last.bias", 0)
        np.testing.assert_allclose(eqx.filter_jit(network)(x), f, **CLOSE)
