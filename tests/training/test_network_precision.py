"""Networks in few bits: training against a plain loop, rounding afterwards by hand, horizons against runs of their own, refusals."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foretrain import Study, train
from foretrain.errors import InvalidInput, UnsupportedProblem
from foretrain.networks import gptq, low_precision, round_to_nearest
from foretrain.problems import (
    MLP,
    ConvResNet,
    GradientDescent,
    NetworkTraining,
    Precision,
    Problem,
    ResNet,
    Schedule,
    Transformer,
    ViT,
)
from foretrain.studies import parse_study, train_study
from foretrain.tasks import Arrays, Text
from foretrain.training import run_network
from foretrain.training._network import build_network
from foretrain.training._network_data import network_data
from foretrain.training._network_runs import network_sweep

RNG = np.random.default_rng(0)
INPUTS, LABELS = RNG.standard_normal((40, 5)), RNG.integers(0, 3, 40)
ONE_HOT = np.eye(3)[LABELS]
TASK = Arrays(inputs=INPUTS, targets=ONE_HOT)
# At its base every factor is 1.
MODEL = MLP(width=8, base_width=8, activation="tanh")
TRAINING = NetworkTraining(learning_rate=0.1, batch_size=7, samples=30, dtype="float64")
FULL = float("inf")


def _in_bits(x, bits, axis, through=True):
    """Rounding in the most ordinary way: the difference is no part of what is differentiated."""
    top = 2 ** (bits - 1) - 1
    step = jnp.max(jnp.abs(x), axis=axis, keepdims=axis is not None) / top
    rounded = jnp.round(x / step) * step
    return x + jax.lax.stop_gradient(rounded - x) if through else rounded


def _start(problem, seed):
    data = network_data(problem)
    network, _ = build_network(
        problem.model, problem.training, data.inputs_size, data.outputs, key=jax.random.key(seed), dtype=jnp.float64
    )
    return data, [network.first.weight, network.middle.weight[0], network.last.weight]


def _outputs(weights, x, bits, activations):
    for i, weight in enumerate(weights):
        x = jnp.tanh(x) if i else x
        x = x if activations is None else _in_bits(x, activations, None)
        x = x @ (weight if bits is None else _in_bits(weight, bits, 1)).T
    return x


@pytest.mark.parametrize(("bits", "activations"), [(3, None), (None, 5), (4, 6)])
def test_the_curve_of_a_plain_loop(bits, activations):
    times = [0, 1, 5, 12]
    precision = Precision(weights=bits, activations=activations)
    problem = Problem(TASK, MODEL, TRAINING.replace(precision=precision))
    with jax.enable_x64(True):
        data, weights = _start(problem, 3)
        x, y = jnp.asarray(INPUTS), jnp.asarray(ONE_HOT)

        def objective(w, rows):
            return jnp.sum((y[rows] - _outputs(w, x[rows], bits, activations)) ** 2) / (2 * len(rows))

        objective = jax.jit(objective)
        gradient, expected = jax.jit(jax.grad(objective)), []
        for step in range(times[-1] + 1):
            if step in times:
                expected.append([2 * float(objective(weights, rows)) for rows in data.evaluated(3)])
            (rows,) = data.batches(3, 7, False, step, step + 1)
            weights = [w - 0.1 * g for w, g in zip(weights, gradient(weights, rows), strict=True)]
    runs = run_network(problem, times, seeds=[3])
    # Rounding in float64; a number that lies so near to a half that it goes to the other side is not among these.
    np.testing.assert_allclose(np.stack([runs.train_loss, runs.test_loss])[:, 0, 0].T, expected, rtol=1e-9)


def test_full_precision_is_what_it_was():
    plain = run_network(Problem(TASK, MODEL, TRAINING), [0, 3, 9], seeds=[0, 1])
    for precision in (Precision(), Precision(post=[3, 4]), Precision(post=[3], post_method="gptq")):
        found = run_network(Problem(TASK, MODEL, TRAINING.replace(precision=precision)), [0, 3, 9], seeds=[0, 1])
        for name in ("train_loss", "test_loss", "accuracy"):
            np.testing.assert_array_equal(getattr(found, name), getattr(plain, name))
    # The same program: nothing in it is rounded.
    training = TRAINING.replace(precision=Precision(post=[3]))
    programs = [network_sweep(Problem(TASK, MODEL, t), [1])[0].program() for t in (TRAINING, training)]
    assert programs[0] is programs[1]
    assert "round" not in str(programs[0].forward(4))


def test_widths_of_integers_share_a_program():
    def program(**kept):
        return network_sweep(Problem(TASK, MODEL, TRAINING.replace(**kept)), [1])[0].program()

    assert program(precision=Precision(weights=3)) is program(precision=Precision(weights=7, post=[3]), horizon=9)
    assert program(precision=Precision(weights=3)) is not program(precision=Precision(weights="e3m2"))
    assert program(precision=Precision(activations=3)) is not program(precision=Precision(activations=4))


def _trained(problem, seed, steps):
    """The weights of a run in full precision, by plain descent."""
    with jax.enable_x64(True):
        data, weights = _start(problem, seed)
        x, y = jnp.asarray(INPUTS), jnp.asarray(ONE_HOT)
        gradient = jax.grad(lambda w, r: jnp.sum((y[r] - _outputs(w, x[r], None, None)) ** 2) / (2 * len(r)))
        for step in range(steps):
            (rows,) = data.batches(seed, 7, False, step, step + 1)
            weights = [w - 0.1 * g for w, g in zip(weights, gradient(weights, rows), strict=True)]
    return data, [np.asarray(w) for w in weights]


def _loss(weights, rows):
    x = INPUTS[rows]
    for i, weight in enumerate(weights):
        x = (np.tanh(x) if i else x) @ weight.T
    return np.mean(np.sum((ONE_HOT[rows] - x) ** 2, axis=1))


@pytest.mark.parametrize("method", ["nearest", "gptq"])
def test_losses_after_rounding_by_hand(method):
    problem = Problem(TASK, MODEL, TRAINING.replace(precision=Precision(post=[4, 2], post_method=method)))
    runs = run_network(problem, [0, 10], seeds=[5, 2], strategy="vmap")
    assert runs.post == (4, 2)
    data, weights = _trained(problem, 2, 10)
    train_rows, test_rows = data.evaluated(2)
    calibrated = train_rows[: len(train_rows) // 16 * 16]  # whole blocks of sixteen
    for i, bits in enumerate((4, 2)):
        if method == "nearest":
            rounded = [round_to_nearest(w, bits) for w in weights]
        else:
            x, rounded = INPUTS[calibrated], []
            for j, w in enumerate(weights):  # the inputs are those of the network before rounding
                x = np.tanh(x) if j else x
                rounded.append(gptq(w, x, bits))
                x = x @ w.T
        np.testing.assert_allclose(runs.train_loss_post[0, 1, 1, i], _loss(rounded, train_rows), rtol=1e-9)
        np.testing.assert_allclose(runs.test_loss_post[0, 1, 1, i], _loss(rounded, test_rows), rtol=1e-9)
        assert runs.test_loss_post[0, 1, 1, i] != runs.test_loss[0, 1, 1]


def test_rounding_to_the_bits_of_training_costs_nothing():
    precision = Precision(weights=[2, 3, 4], post=[2, 3, 4, 16])
    curves = train(Problem(TASK, MODEL, TRAINING.replace(precision=precision)), [20], seeds=2)
    assert curves.dims["test_loss_post"] == ("weight_bits", "post_bits", "time")
    delta = curves.values("test_loss_post")[..., 0] - curves.values("test_loss")
    # A second rounding to the same levels moves a weight by rounding in double precision.
    np.testing.assert_allclose(np.diagonal(delta[:, :3]), 0.0, atol=1e-13)
    assert np.all(np.abs(delta[[1, 2, 2], [0, 0, 1]]) > 1e-6)  # fewer bits than in training
    assert np.all(np.abs(delta[:, 3]) < 1e-3)  # sixteen are as good as all


CASES = {
    "mlp": (MLP(width=8, bias=True), Precision(weights=4, activations=6, post=[3])),
    "resnet": (
        ResNet(width=8, depth=1, norm="layernorm", bias=True),
        Precision(weights="e4m2", activations="e5m2", post=[3]),
    ),
    "conv-resnet": (ConvResNet(width=4, depth=1, norm="rmsnorm"), Precision(weights=4, activations=6, post=[3])),
    "vit": (ViT(width=8, depth=1), Precision(weights=4, activations=6, kv=5, post=[3])),
    "transformer": (
        Transformer(width=8, depth=2, activation="swiglu", positions="rotary"),
        Precision(weights=4, activations="float8_e4m3fn", kv=5, post=[3]),
    ),
}


# Kernels and stacks of layers are quick, the others add compilations and nothing new.
QUICK = (("conv-resnet", "nearest"), ("transformer", "nearest"), ("transformer", "gptq"))


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        pytest.param(kind, method, id=f"{kind}-{method}", marks=[] if (kind, method) in QUICK else [pytest.mark.long])
        for kind in CASES
        for method in ("nearest", "gptq")
    ],
)
def test_every_network(kind, method):
    """Losses before training are those of the public function; after some steps they are finite and have come down."""
    model, precision = CASES[kind]
    precision = precision.replace(post_method=method)
    rows = RNG.standard_normal((40, 16))
    images = Arrays(inputs=rows, targets=np.eye(3)[np.argmax(rows[:, :3], axis=1)])
    training = NetworkTraining(learning_rate=0.01, optimizer="adam", batch_size=8, precision=precision)
    if kind == "transformer":
        problem = Problem(Text(context=8), model, training.replace(loss="cross-entropy"))
    else:
        problem = Problem(images, model, training.replace(samples=30))
    runs = run_network(problem, [0, 40], seeds=[0])
    assert np.all(np.isfinite(runs.test_loss_post))
    assert runs.train_loss[0, 0, 1] < runs.train_loss[0, 0, 0]
    if method == "gptq":
        return
    data = network_data(problem)
    network, _ = build_network(
        model, problem.training, data.inputs_size, data.outputs, key=jax.random.key(0), **data.facts
    )
    parts = {name: getattr(precision, name) for name in ("weights", "activations", "kv")}
    rounded = low_precision(network, **parts, over="batch")
    (block,) = np.split(data.evaluated(0)[1][:10], 1)  # the ten test rows are one block
    if kind == "transformer":
        return  # its test windows are several blocks
    outputs = jax.vmap(rounded, axis_name="batch")(jnp.asarray(data.inputs[_padded(data)], jnp.float32))[: len(block)]
    expected = np.mean(np.sum((data.targets[block] - outputs) ** 2, axis=1))
    # Single precision, and programs that sum in another order: a number near a half of five bits may go to the other side.
    np.testing.assert_allclose(runs.test_loss[0, 0, 0], expected, rtol=1e-3)


def _padded(data):
    """The test rows of seed 0, repeated at the end to the size of a block."""
    train_rows, test_rows = data.evaluated(0)
    return np.pad(test_rows, (0, len(train_rows) - len(test_rows)), mode="edge")


def test_diverged_runs_stay_diverged():
    training = TRAINING.replace(learning_rate=1e5, precision=Precision(weights=4, post=[3], post_method="gptq"))
    runs = run_network(Problem(TASK, MODEL, training), [0, 60], seeds=[0])
    assert np.isfinite(runs.test_loss_post[0, 0, 0, 0])
    assert np.isinf(runs.test_loss_post[0, 0, 1, 0])


def test_a_horizon_is_a_run_of_its_own():
    schedule = {"shape": "cosine", "warmup": 0.2}
    training = TRAINING.replace(horizon=[10, 20], learning_rate=[0.1, 0.3], schedule=schedule)
    problem = Problem(TASK, MODEL, training)
    curves = train(problem, seeds=2)
    assert curves.dims["test_loss"] == ("learning_rate", "horizon", "time")
    assert curves.coords["time"].tolist() == [FULL]
    for i, horizon in enumerate((10, 20)):
        own = training.replace(horizon=None, schedule=Schedule("cosine", steps=horizon, warmup=horizon // 5))
        alone = train(Problem(TASK, MODEL, own), [horizon], seeds=2)
        np.testing.assert_array_equal(curves.values("test_loss")[:, i], alone.values("test_loss"))
    finite = run_network(problem.select({"horizon": 20}), [0, 5, FULL], seeds=[0, 1])
    assert finite.steps.tolist() == [0, 5, 20]
    np.testing.assert_array_equal(finite.test_loss.mean(axis=1)[:, -1], curves.values("test_loss")[:, 1, 0])


def test_blocks_of_steps_do_not_move_a_schedule(monkeypatch):
    training = TRAINING.replace(schedule=Schedule("linear", steps=25), optimizer="adam")
    whole = run_network(Problem(TASK, MODEL, training), [25], seeds=[0])
    monkeypatch.setattr("foretrain.training._network_loop._STEPS", 4)
    np.testing.assert_array_equal(
        run_network(Problem(TASK, MODEL, training), [25], seeds=[0]).test_loss, whole.test_loss
    )


def test_a_table_of_runs():
    width = 8
    model = Transformer(width=width, depth=1, bias=True)
    training = NetworkTraining(
        learning_rate=[0.01, 0.02], optimizer="adam", batch_size=4, loss="cross-entropy", horizon=[3, 4],
        precision={"weights": [3, 4], "activations": 8, "post": 4},
    )  # fmt: skip
    curves = train(Problem(Text(context=8), model, training), [0, FULL], seeds=2)
    axes = ("learning_rate", "horizon", "weight_bits")
    assert curves.dims["test_loss"] == (*axes, "time")
    assert curves.dims["test_loss_post_stderr"] == (*axes, "post_bits", "time")
    assert curves.dims["params"] == axes
    assert curves.coords["weight_bits"].tolist() == [3, 4]
    assert curves.coords["post_bits"].tolist() == [4]
    assert curves.attrs["activation_bits"] == 8
    assert "kv_bits" not in curves.attrs
    dataset = curves.dataset
    # Attention 4 N^2 and MLP 8 N^2 a layer; biases of maps 9 N and norms 4 N a layer; the last norm.
    layers = 12 * width**2 + 13 * width + 2 * width
    tables = 256 * width + 8 * width + 256 * width + 256
    assert np.all(dataset["params_no_embed"] == layers)
    assert np.all(dataset["params"] == layers + tables)
    np.testing.assert_array_equal(dataset["tokens"].sel(horizon=4, time=FULL), 4 * 8 * 4)
    forward = 2 * 8 * (12 * width**2 + 256 * width) + 2 * 2 * 8 * 8 * width
    np.testing.assert_array_equal(dataset["flops"].sel(horizon=3, time=FULL), 3 * 4 * 3 * forward)
    assert np.all(dataset["tokens"].sel(time=0) == 0)
    rows = train(Problem(TASK, MODEL, TRAINING.replace(batch_size=None)), [4], seeds=1)
    assert rows.values("tokens").item() == 4 * 30
    assert rows.values("params").item() == rows.values("params_no_embed").item() == 5 * 8 + 8 * 8 + 8 * 3


def test_names_of_formats_are_coordinates():
    training = TRAINING.replace(precision=Precision(weights=["e4m2", 4, FULL]))
    curves = train(Problem(TASK, MODEL, training), [2], seeds=1)
    assert curves.coords["weight_bits"].tolist() == ["e4m2", "4", "inf"]
    assert len(set(curves.values("test_loss").ravel())) == 3


def test_checkpoints_hold_the_losses_after_rounding(tmp_path):
    problem = Problem(TASK, MODEL, TRAINING.replace(precision=Precision(weights=5, post=[3, 4]), horizon=9))
    first = run_network(problem, [4, FULL], seeds=[0, 1], checkpoint=tmp_path / "kept")
    again = run_network(problem, [4, FULL], seeds=[0, 1], checkpoint=tmp_path / "kept")
    np.testing.assert_array_equal(first.test_loss_post, again.test_loss_post)
    assert first.test_loss_post.shape == (1, 2, 2, 2)


STUDY = """
schema = 1
[task]
kind = "text"
context = 8
[model]
kind = "transformer"
width = 8
depth = 1
[training]
optimizer = "adam"
learning_rate = 0.01
batch_size = 4
loss = "cross-entropy"
horizon = [3, 4]
schedule = {shape = "cosine", warmup = 0.5}
seeds = 3
[training.precision]
weights = [4, inf]
kv = "full"
post = [3, 4]
"""


def test_the_study_file():
    study = parse_study(STUDY)
    training = study.problem.training
    assert training.precision == Precision(weights=[4, FULL], post=[3, 4])
    assert training.schedule == Schedule("cosine", steps="horizon", warmup=0.5)
    assert list(study.problem.axes()) == ["horizon", "weight_bits"]
    assert parse_study(study.to_toml()) == study
    assert isinstance(study, Study)
    study = parse_study(STUDY.replace("[4, inf]", "[4, 5]"))  # two widths of integers share a program
    curves = train_study(study)
    assert curves.dims["test_loss_post"] == ("horizon", "weight_bits", "post_bits", "time")
    alone = train(study.problem, seeds=3)
    for name in ("test_loss_post", "test_loss_post_stderr", "tokens", "params"):
        np.testing.assert_allclose(curves.values(name), alone.values(name), rtol=1e-5)  # pieces of seeds, pooled


def _replaced(old, new):
    return lambda: parse_study(STUDY.replace(old, new))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_replaced("[4, inf]", "1"), r"study.toml: \[training\]: precision: weights: expected a whole number of bits from 2 to 16.*got 1"),
        (_replaced("[4, inf]", "17"), "precision: weights: .*got 17"),
        (_replaced("[4, inf]", "3.5"), "precision: weights: .*got 3.5"),
        (_replaced("[4, inf]", "true"), "precision: weights: .*got True"),
        (_replaced("[4, inf]", "[4, 4]"), "precision: weights: expected distinct values"),
        (_replaced("[4, inf]", "[]"), "precision: weights: expected at least one value"),
        (_replaced("[4, inf]", '"float8_e4m3f"'), r"precision: weights: .*got 'float8_e4m3f'; did you mean 'float8_e4m3"),
        (_replaced("post = [3, 4]", "post = [3, 1]"), r"precision: post: expected a whole number of bits from 2 to 16, got 1"),
        (_replaced("post = [3, 4]", 'post = ["e4m2"]'), "precision: post: expected a whole number of bits from 2 to 16, got 'e4m2'"),
        (_replaced("post = [3, 4]", "post = [3, 3]"), "precision: post: expected distinct bits"),
        (_replaced("post =", 'post_method = "gptqq"\npost ='), "post_method: expected one of 'nearest', 'gptq'.*did you mean 'gptq'"),
        (_replaced("post = [3, 4]", 'post_method = "gptq"'), "precision: post: missing; post_method needs the bits"),
        (_replaced("weights =", "weight ="), "precision: weight: unknown key; did you mean 'weights'"),
        (_replaced("[training.precision]", "precision = 4\n[solve]"), "precision: expected a precision such as"),
        (_replaced("horizon = [3, 4]", "times = [3]"), "schedule: steps missing; a schedule needs its length, or the training a horizon"),
        (_replaced("horizon = [3, 4]", "horizon = 0"), "horizon: expected a whole number >= 1, got 0"),
        (_replaced("warmup = 0.5", "warmup = 4"), "schedule: over horizon = 3: warmup: expected warmup"),
        (_replaced("warmup = 0.5", "warmup = 1.5"), "warmup: expected a whole number of steps >= 0, or a fraction"),
        (_replaced("seeds = 3", "centre = true"), "centre: expected false with precision.post"),
        (lambda: Schedule("constant", warmup=0.5), "warmup: expected a whole number of steps, got 0.5; a fraction needs `steps`"),
        (lambda: Schedule("wsd", steps="horizon", warmup=0.6, decay=0.6), r"expected warmup \+ decay <= 1, got 1.2"),
        (lambda: Schedule("cosine", steps="horizon").factors(3), "the length of the run is not known here"),
        (lambda: Schedule("wsd", steps=4, decay=0.01), "decay: expected at least one step, got 0"),
        (lambda: GradientDescent(0.1, schedule={"shape": "cosine", "steps": "horizon"}), "only networks have a horizon"),
        (
            lambda: train(Problem(TASK, MODEL, TRAINING.replace(horizon=[4, 9])), [5], seeds=1),
            "train: times: expected at most the horizon, 4 steps, got 5; inf is the end of every run",
        ),
        (
            lambda: run_network(Problem(TASK, MODEL, TRAINING), [FULL], seeds=[0]),
            "expected finite numbers of steps for 'network', got inf, which is the end of a run that has a horizon",
        ),
    ],
)  # fmt: skip
def test_refusals(make, words):
    with pytest.raises(InvalidInput, match=words):
        make()


def test_keys_and_values_need_attention():
    problem = Problem(TASK, MODEL, TRAINING.replace(precision=Precision(kv=4)))
    with pytest.raises(UnsupportedProblem, match="'mlp' has no attention, so no keys and values to round"):
        train(problem, [1])


def test_declarations_of_precision():
    precision = Precision(weights=[3, "E4M2", None], kv="full", post=4)
    assert precision.weights == (3, "e4m2", FULL)
    assert precision.post == (4,)
    assert precision.is_full is False
    assert Precision(post=[3]).is_full
    training = TRAINING.replace(precision=precision)
    assert training.axes() == {"weight_bits": (3, "e4m2", FULL)}
    assert training.replace(weight_bits=3, kv_bits=5).precision == Precision(weights=3, kv=5, post=4)
    assert NetworkTraining.from_table(training.to_table()) == training
    assert dataclasses.replace(training, precision=None).bits() == dict.fromkeys(
        ("weight_bits", "activation_bits", "kv_bits"), FULL
    )


@pytest.mark.long
def test_longer_training_is_harder_to_round():
    """A decoder on Python's sources: what three bits cost grows with tokens, by more than the noise of the seeds."""
    training = NetworkTraining(
        learning_rate=0.01, optimizer="adam", batch_size=16, loss="cross-entropy", horizon=[500, 4000],
        schedule={"shape": "cosine", "warmup": 0.1}, precision={"post": [3, 4]},
    )  # fmt: skip
    problem = Problem(Text(context=16), Transformer(width=8, depth=2, base_width=32, base_depth=2), training)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curves = train(problem, seeds=4)
    delta = curves.values("test_loss_post")[..., 0] - curves.values("test_loss")  # horizon, post
    error = curves.values("test_loss_post_stderr")[..., 0]
    assert np.all(delta > 0)
    assert delta[1, 0] - delta[0, 0] > 2 * np.hypot(error[0, 0], error[1, 0])
    assert np.all(delta[:, 0] > delta[:, 1])
