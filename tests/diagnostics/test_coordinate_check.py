"""Both doors of the coordinate check at small sizes, its result, and everything that it refuses."""

import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from broken import broken

from foretrain import MLP, Digits, GradientFlow, NetworkTraining, Problem, RandomFeatures, ResNet, Transformer
from foretrain.diagnostics import CheckedModel, Quantity, coordinate_check, swap_by_path
from foretrain.diagnostics._measure import measure_sizes, shown_layers
from foretrain.errors import ForetrainWarning, InvalidInput
from foretrain.parameterization import Recipe, parameterize
from foretrain.report import plot_coordinates

WIDTHS = [64, 128, 256]
SGD = NetworkTraining(0.5)
SMALL = MLP(width=64, depth=2, activation="tanh")


@pytest.fixture(scope="module")
def flat():
    return coordinate_check(SMALL, values=WIDTHS, training=SGD, steps=2)


def row(check, feature, measure, layer=""):
    return next(r for r in check.rows if (r.feature, r.quantity.measure, r.layer) == (feature, measure, layer))


def test_mup_is_flat(flat):
    assert flat.passed
    assert flat.flat
    assert flat.cause is None
    assert flat.worst.excess <= 1
    assert "everything scales as declared" in flat.explain()
    assert "move by the same amount at every size" in flat.explain()


def test_standard_parameterization_is_as_declared_but_not_flat():
    """After one step: 1/2 for the hidden change, 1 for the outputs, from below; 0.2 below at these widths."""
    model = SMALL.replace(parameterization="sp")
    found = coordinate_check(model, values=WIDTHS, training=NetworkTraining(0.01), steps=1, seeds=8)
    assert not found.flat
    assert "hyperparameters will not carry over in width" in found.explain()
    last, output = row(found, "stream", "change", "1"), row(found, "output", "change")
    assert -0.2 - 2 * last.stderr <= last.slope - 0.5 <= 2 * last.stderr
    assert -0.2 - 2 * output.stderr <= output.slope - 1.0 <= 2 * output.stderr


def test_a_readout_left_standard_is_named():
    wrong = broken(
        "mlp",
        Recipe("mup", "sgd"),
        Recipe("sp", "sgd"),
        ["last.weight"],
        ["multiplier", "init_std", "lr"],
        NetworkTraining(0.02),
        depth=2,
    )
    found = coordinate_check(wrong, values=WIDTHS, recipe=Recipe("mup", "sgd"), steps=1, seeds=8)
    assert not found.passed
    assert "readout" in found.cause
    assert "standard parameterization" in found.cause
    assert "hidden" not in found.cause
    assert found.worst.verdict == "too large"
    assert "Likely cause" in found.explain()


def test_rows_and_sizes_agree(flat):
    """The slope of a row is the one of its sizes, and the change of outputs is what a step does to them."""
    one = row(flat, "output", "change")
    slopes = np.polyfit(np.log(WIDTHS), np.log(one.sizes).T, 1)[0]
    np.testing.assert_allclose(one.slope, np.mean(slopes))
    assert one.sizes.shape == (4, 3)
    assert not one.sizes.flags.writeable


def test_json_is_strict_and_complete(flat):
    table = json.loads(json.dumps(flat.to_json(), allow_nan=False))
    assert table["passed"] is True
    assert table["values"] == WIDTHS
    assert {r["feature"] for r in table["rows"]} == {"stream", "output"}
    assert np.shape(table["rows"][0]["sizes"]) == (4, 3)


def test_table_has_a_line_for_each_row(flat):
    assert len(flat.table().splitlines()) == 2 + len(flat.rows)
    assert "not judged" in flat.table()  # f(0)


def test_plot(flat, tmp_path):
    figure = flat.plot(tmp_path / "check.png")
    assert (tmp_path / "check.png").read_bytes().startswith(b"\x89PNG")
    assert len([a for a in figure.axes if a.get_title(loc="left")]) == 4
    with pytest.raises(InvalidInput, match=r"expected a name that ends in \.png"):
        flat.plot(tmp_path / "check.gif")
    with pytest.raises(InvalidInput, match="plot_coordinates: expected a table with rows"):
        plot_coordinates({"axis": "width", "values": WIDTHS, "rows": []})


def test_depth_without_a_promise():
    found = coordinate_check(SMALL, axis="depth", values=[2, 3, 4], training=SGD, seeds=2, steps=1)
    assert found.judged == ()
    assert not found.passed
    assert "nothing is promised for depth" in found.explain()


def test_data_of_a_task():
    problem = Problem(Digits(), SMALL.replace(width=(32, 64, 128)), NetworkTraining(0.05, batch_size=8))
    found = coordinate_check(problem, seeds=2, steps=1)
    assert found.values == (32, 64, 128)
    assert found.worst is not None


# A linear residual network with one matrix in each branch, written without the library.


def chain(width, seed, depth=2, rate=0.1, swap=None):
    rng = np.random.default_rng([width, seed])
    shapes = {"first": (3, width), "last": (width, 1), **{f"block{layer}": (width, width) for layer in range(depth)}}
    params = {name: jnp.asarray(rng.standard_normal(shape), dtype=jnp.float32) for name, shape in shapes.items()}

    def features(params, batch):
        h = batch[0] @ params["first"]
        stream, branch = [h], []
        for layer in range(depth):
            branch.append(h @ params[f"block{layer}"] / (depth * width**0.5))
            h = h + branch[-1]
            stream.append(h)
        return {"net/stream": stream, "net/branch": branch, "output": h @ params["last"] / width}

    def loss(params, batch):
        return jnp.mean((features(params, batch)["output"] - batch[1]) ** 2) / 2

    rates = {**dict.fromkeys(params, float(width)), **{f"block{i}": float(width * depth) for i in range(depth)}}
    scale = optax.stateless(lambda updates, _: jax.tree.map(lambda u, r: -rate * r * u, updates, rates))
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    return CheckedModel(params, loss, features, scale, (jnp.asarray(x), jnp.asarray(np.sign(x[:, :1]))), swap)


def test_a_model_of_ones_own():
    own = swap_by_path(lambda path, layer, feature: path == f"block{layer}")
    found = coordinate_check(
        lambda width, seed: chain(width, seed, swap=own), values=WIDTHS, recipe=Recipe("completep", "sgd"), seeds=24
    )
    assert found.passed, found.explain()
    assert {r.quantity.measure for r in found.rows if r.feature == "net/branch"} == {"start", "change", "own change"}


def test_sizes_by_hand():
    """One step of the chain in NumPy: starts, changes, and the change of a branch when its own matrix alone moves."""
    model = chain(16, 0, swap=swap_by_path(lambda path, layer, feature: path == f"block{layer}"))
    seeds = [chain(16, seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(one.params for one in seeds))
    sizes = measure_sizes(CheckedModel(stacked, *(getattr(model, n) for n in _REST)), 1, False)
    start = {k: np.asarray(v, dtype=np.float64) for k, v in seeds[0].params.items()}
    x, y = (np.asarray(part, dtype=np.float64) for part in model.batch)
    c, n = 1 / (2 * 4.0), 16
    h0 = x @ start["first"]
    h1 = h0 + c * h0 @ start["block0"]
    h2 = h1 + c * h1 @ start["block1"]
    f = h2 @ start["last"] / n
    g2 = (f - y) / len(x) @ start["last"].T / n  # of the loss, by the stream
    g1 = g2 + c * g2 @ start["block1"].T
    g0 = g1 + c * g1 @ start["block0"].T
    end = {
        "last": start["last"] - 0.1 * n * h2.T @ (f - y) / len(x) / n,
        "block1": start["block1"] - 0.1 * 2 * n * c * h1.T @ g2,
        "block0": start["block0"] - 0.1 * 2 * n * c * h0.T @ g1,
        "first": start["first"] - 0.1 * n * x.T @ g0,
    }

    def rms(values):
        return np.sqrt(np.mean(values**2))

    k0 = x @ end["first"]
    k1 = k0 + c * k0 @ end["block0"]
    expected = {
        ("net/stream", "start", 2): rms(h2),
        ("net/stream", "change", 0): rms(k0 - h0),
        ("net/stream", "change", 1): rms(k1 - h1),
        ("net/branch", "own change", 1): rms(c * h1 @ (end["block1"] - start["block1"])),
        ("output", "start", 0): rms(f),
    }
    for (name, measure, layer), value in expected.items():
        # float32 through five matrix products.
        np.testing.assert_allclose(sizes[name, measure][0, layer], value, rtol=2e-4)


_REST = ("loss", "features", "optimizer", "batch", "swap")


def test_a_parameterization_makes_the_optimizer():
    def make(width, seed):
        one = chain(width, seed)
        base = {
            k: jax.ShapeDtypeStruct(tuple(64 if n == width else n for n in v.shape), v.dtype)
            for k, v in one.params.items()
        }
        roles = {"first": "input", "block*": "hidden", "last": "output"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ForetrainWarning)  # base = target, at the first width
            p = parameterize(one.params, base=base, roles=roles, scheme="mup", optimizer="sgd", layout="in-out")
        return CheckedModel(one.params, one.loss, one.features, p, one.batch)

    found = coordinate_check(make, values=[64, 128, 256], learning_rate=1.0, seeds=2, steps=1)
    assert found.recipe == Recipe("mup", "sgd")
    with pytest.raises(InvalidInput, match=r"coordinate_check\(learning_rate\): missing"):
        coordinate_check(make, values=[64, 128, 256])


def test_flax_parameters():
    linen = pytest.importorskip("flax.linen")

    def make(width, seed):
        class Net(linen.Module):
            @linen.compact
            def __call__(self, x):
                h = linen.Dense(width, use_bias=False)(x)
                return {"stream": [h], "output": linen.Dense(1, use_bias=False)(jnp.tanh(h))}

        x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)), dtype=jnp.float32)
        params = jax.jit(Net().init)(jax.random.key(seed), x)

        def loss(params, x):
            return jnp.mean((Net().apply(params, x)["output"] - x[:, :1]) ** 2)

        return CheckedModel(params, loss, lambda params, x: Net().apply(params, x), optax.sgd(0.01), x)

    found = coordinate_check(make, values=[32, 64, 128], recipe=Recipe("sp", "sgd"), seeds=2, steps=1)
    assert {r.feature for r in found.rows} == {"stream", "output"}


def test_features_that_stay_zero_are_left_out():
    def make(width, seed):
        one = chain(width, seed)
        params = {**one.params, "last": jnp.zeros_like(one.params["last"])}
        return CheckedModel(params, one.loss, one.features, one.optimizer, one.batch)

    found = coordinate_check(make, values=[8, 16, 32], recipe=Recipe("mup", "sgd"), seeds=2, steps=1)
    assert Quantity("output", "start") not in {r.quantity for r in found.rows}
    assert Quantity("output", "change") in {r.quantity for r in found.rows}


def test_divergence_is_a_verdict():
    found = coordinate_check(
        lambda width, seed: chain(width, seed, rate=1e30), values=[8, 16, 32], recipe=Recipe("mup"), seeds=2, steps=4
    )
    assert row(found, "output", "change").verdict == "diverged"
    assert not found.passed
    assert "is not finite: the learning rate is too large" in found.explain()
    json.dumps(found.to_json(), allow_nan=False)
    assert found.plot() is not None


def test_changes_of_the_size_of_rounding_errors_warn():
    with pytest.warns(ForetrainWarning, match="as small as rounding errors"):
        found = coordinate_check(
            lambda width, seed: chain(width, seed, rate=1e-7),
            values=[8, 16, 32],
            recipe=Recipe("mup"),
            seeds=2,
            steps=1,
        )
    assert row(found, "output", "change").verdict == "unclear"
    assert "more seeds or a larger learning rate" in found.explain()


def test_few_noisy_seeds_are_unclear_not_right():
    rng = np.random.default_rng(3)
    noise = {}

    def make(width, seed):
        one = chain(width, seed)
        size = noise.setdefault((width, seed), float(np.exp(2 * rng.standard_normal())))
        params = {**one.params, "last": one.params["last"] * size}
        return CheckedModel(params, one.loss, one.features, one.optimizer, one.batch)

    found = coordinate_check(make, values=[8, 16, 32], recipe=Recipe("mup"), seeds=3, steps=1)
    assert row(found, "output", "change").verdict == "unclear"
    assert not found.passed


def test_layers_that_are_looked_at():
    assert shown_layers(3, False) == [0, 1, 2]
    assert shown_layers(33, False) == [0, 8, 16, 24, 32]
    assert shown_layers(1, True) == [0]
    assert shown_layers(3, True) == [0, 0, 1, 2, 2]


# What is refused.


def refused(match, subject=SMALL, **arguments):
    with pytest.raises(InvalidInput, match=match):
        coordinate_check(subject, **{"values": WIDTHS, **arguments})


def test_wrong_arguments():
    refused(r"coordinate_check\(axis\): expected one of .*; did you mean 'depth'", axis="depht", training=SGD)
    refused(
        r"coordinate_check\(axis\): expected one of width, depth for a 'mlp', got 'heads'", axis="heads", training=SGD
    )
    refused(r"coordinate_check\(seeds\): expected a whole number >= 2, got 1", training=SGD, seeds=1)
    refused(r"coordinate_check\(steps\): expected a whole number >= 1, got 0", training=SGD, steps=0)
    refused(r"coordinate_check\(values\): expected at least 3 distinct whole numbers", training=SGD, values=[64, 128])
    refused(r"coordinate_check\(values\): expected at least 3 distinct whole numbers", training=SGD, values=[1, 2, 2.5])
    refused(r"coordinate_check\(values\): missing; give at least 4 values of width", training=SGD, values=None)
    refused(r"coordinate_check\(training\): expected a NetworkTraining", training=None)
    refused(r"coordinate_check\(training\): learning_rate has 2 values", training=NetworkTraining((0.1, 0.2)))
    refused(r"one axis at a time; depth has 2 values", SMALL.replace(depth=(2, 3)), training=SGD)
    refused(r"recipe and learning_rate belong to models of your own", training=SGD, learning_rate=0.1)
    refused(r"a transformer over tokens needs loss='cross-entropy'", Transformer(width=64), training=SGD)
    refused(r"coordinate_check\(subject\): expected a Problem", 3.0)


def test_wrong_problems():
    features = Problem(Digits(), RandomFeatures(64), GradientFlow())
    refused(r"expected a NetworkTraining", features)
    refused(r"the problem has its own; leave it out", Problem(Digits(), SMALL, SGD), training=SGD)


def test_wrong_functions():
    def make(width, seed, **changes):
        one = chain(width, seed)
        parts = {name: getattr(one, name) for name in ("params", *_REST)}
        return CheckedModel(**{**parts, **changes})

    own = {"values": [8, 16, 32], "recipe": Recipe("mup")}
    refused(r"should return a CheckedModel, got int", lambda width, seed: 3, **own)
    refused(r"coordinate_check\(recipe\): missing", make, values=[8, 16, 32])
    refused(r"coordinate_check\(values\): missing", make, values=None, recipe=Recipe("mup"))
    refused(r"coordinate_check\(training\): belongs to network declarations", make, training=SGD, **own)
    refused(
        r"coordinate_check\(optimizer\): expected an Optax optimizer", lambda w, s: make(w, s, optimizer=0.1), **own
    )
    refused(
        r"expected names that end in one of stream, .* got 'net/streem'; did you mean 'stream'",
        lambda w, s: make(w, s, features=lambda p, b: {"net/streem": b[0]}),
        **own,
    )
    refused(
        r"features differ between sizes: 'a/stream', 'b/stream'",
        lambda w, s: make(w, s, features=lambda p, b: {"a/stream" if w == 8 else "b/stream": b[0]}),
        **own,
    )
    refused(
        r"'stream' has 1 or 2 layers at different sizes",
        lambda w, s: make(w, s, features=lambda p, b: {"stream": [b[0]] * (1 if w == 8 else 2)}),
        **own,
    )


def test_a_residual_network_in_depth_without_a_rule_says_so():
    found = coordinate_check(
        ResNet(width=16, parameterization="mup"), axis="depth", values=[2, 3, 4], training=NetworkTraining(0.1), seeds=2
    )
    assert "mup has no rule for depth" in found.explain()
