"""`run_network` against plain loops written here, in float64 where bits are compared; strategies, chunks, divergence, refusals."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from foretrain import solve
from foretrain.errors import InvalidInput, TooLarge, UnsupportedProblem
from foretrain.networks import flops_per_example
from foretrain.problems import (
    MLP,
    SGD,
    ConvResNet,
    GradientFlow,
    Kernel,
    NetworkTraining,
    Problem,
    RandomFeatures,
    ResNet,
    Schedule,
    Transformer,
    ViT,
)
from foretrain.tasks import Arrays, PowerLaw, Text
from foretrain.training import NetworkRuns, RunsInterrupted, run_network, untrainable
from foretrain.training._network import build_network
from foretrain.training._network_data import NetworkData, network_data
from foretrain.training._network_plan import Plan, chosen_strategies, cost_of, make_plan, remember_strategies, timed
from foretrain.training._network_runs import network_sweep

RNG = np.random.default_rng(0)
INPUTS, LABELS = RNG.standard_normal((40, 5)), RNG.integers(0, 3, 40)
ONE_HOT = np.eye(3)[LABELS]
TASK = Arrays(inputs=INPUTS, targets=ONE_HOT)
# At its base every factor is 1: the network is a standard one, and the optimizer the plain one of Optax.
MODEL = MLP(width=8, base_width=8, activation="tanh")
TRAINING = NetworkTraining(learning_rate=0.1, optimizer="momentum", batch_size=7, samples=30, dtype="float64")
TIMES = [0, 1, 5, 12]
PLAIN = {
    "sgd": optax.sgd(0.05),
    "momentum": optax.sgd(0.05, momentum=0.8),
    "nesterov": optax.sgd(0.05, momentum=0.8, nesterov=True),
    "adam": optax.adam(0.05, b1=0.8, b2=0.95, eps=1e-5),
    "adamw": optax.adamw(0.05, b1=0.8, b2=0.95, eps=1e-5, weight_decay=0.1),
    "lion": optax.lion(0.05, b1=0.8, b2=0.95, weight_decay=0.1),
}


def _start(problem: Problem, data: NetworkData, seed: int) -> list[jax.Array]:
    network, _ = build_network(
        problem.model, problem.training, data.inputs_size, data.outputs, key=jax.random.key(seed), dtype=jnp.float64
    )
    return [network.first.weight, network.middle.weight[0], network.last.weight]


def _forward(weights: list, x: jax.Array) -> jax.Array:
    first, middle, last = weights
    return jnp.tanh(jnp.tanh(x @ first.T) @ middle.T) @ last.T


def _plain_loop(
    problem: Problem, optimizer: optax.GradientTransformation, seed: int, centre: bool = False
) -> np.ndarray:
    """Train and test losses in the most ordinary way: one step after another in Python."""
    training = problem.training
    with jax.enable_x64(True):
        data = network_data(problem)
        weights = start = _start(problem, data, seed)
        state = optimizer.init(weights)
        x, y = jnp.asarray(INPUTS), jnp.asarray(ONE_HOT)

        def outputs(w, rows):
            return _forward(w, x[rows]) - (_forward(start, x[rows]) if centre else 0.0)

        def objective(w, rows):
            if training.loss == "mse":
                return jnp.sum((y[rows] - outputs(w, rows)) ** 2) / (2 * len(rows))
            return -jnp.sum(y[rows] * jax.nn.log_softmax(outputs(w, rows))) / len(rows)

        gradient = jax.jit(jax.grad(objective))
        found = []
        for step in range(TIMES[-1] + 1):
            if step in TIMES:
                parts = data.evaluated(seed)
                factor = 2.0 if training.loss == "mse" else 1.0
                found.append([factor * float(objective(weights, rows)) for rows in parts])
            (rows,) = data.batches(seed, training.batch_size, training.fresh, step, step + 1)
            updates, state = optimizer.update(gradient(weights, rows), state, weights)
            weights = optax.apply_updates(weights, updates)
    return np.array(found).T


@pytest.mark.parametrize("optimizer", PLAIN)
def test_the_curve_of_a_plain_loop(optimizer):
    decay = 0.1 if optimizer in ("adamw", "lion") else 0.0
    training = TRAINING.replace(
        optimizer=optimizer, learning_rate=0.05, momentum=0.8, second_momentum=0.95, epsilon=1e-5, weight_decay=decay
    )
    problem = Problem(TASK, MODEL, training)
    runs = run_network(problem, TIMES, seeds=[3])
    expected = _plain_loop(problem, PLAIN[optimizer], 3)
    # Lion takes signs, which amplify nothing here: twelve steps of rounding in float64.
    np.testing.assert_allclose(runs.train_loss[0, 0], expected[0], rtol=1e-10)
    np.testing.assert_allclose(runs.test_loss[0, 0], expected[1], rtol=1e-10)


@pytest.mark.parametrize(
    "changes", [{"loss": "cross-entropy"}, {"centre": True}, {"fresh": True}, {"batch_size": None}]
)
def test_other_objectives_and_batches(changes):
    problem = Problem(TASK, MODEL, TRAINING.replace(**changes))
    runs = run_network(problem, TIMES, seeds=[1])
    plain = optax.sgd(0.1, momentum=0.9)
    expected = _plain_loop(problem, plain, 1, centre=problem.training.centre)
    np.testing.assert_allclose(runs.train_loss[0, 0], expected[0], rtol=1e-10)
    np.testing.assert_allclose(runs.test_loss[0, 0], expected[1], rtol=1e-10)
    if problem.training.centre:  # the output starts at 0
        assert runs.train_loss[0, 0, 0] == 1.0


def test_a_schedule_multiplies_every_step():
    schedule = Schedule("wsd", steps=10, warmup=3, decay=4, final=0.1)
    problem = Problem(TASK, MODEL, TRAINING.replace(schedule=schedule))
    factors = schedule.factors(TIMES[-1] + 1)
    plain = optax.sgd(lambda step: 0.1 * jnp.asarray(factors)[step], momentum=0.9)
    expected = _plain_loop(problem, plain, 2)
    found = run_network(problem, TIMES, seeds=[2])
    # Momentum comes before the schedule in both.
    np.testing.assert_allclose(found.train_loss[0, 0], expected[0], rtol=1e-10)


def test_losses_and_accuracy_by_hand():
    for targets, loss in ((ONE_HOT, "mse"), (ONE_HOT, "cross-entropy"), (2.0 * (LABELS > 1) - 1, "cross-entropy")):
        problem = Problem(Arrays(inputs=INPUTS, targets=targets), MODEL, TRAINING.replace(loss=loss))
        runs = run_network(problem, [0], seeds=[0])
        data = network_data(problem)
        with jax.enable_x64(True):
            weights = [np.asarray(w) for w in _start(problem, data, 0)]
        _, rows = data.evaluated(0)
        outputs = np.tanh(np.tanh(INPUTS[rows] @ weights[0].T) @ weights[1].T) @ weights[2].T
        y = np.reshape(targets, (40, -1))[rows]
        if loss == "mse":
            expected = np.sum((y - outputs) ** 2) / len(rows)
        elif y.shape[1] == 1:
            expected = np.mean(np.log1p(np.exp(-y * outputs)))
        else:
            expected = np.mean(np.log(np.exp(outputs).sum(axis=1)) - outputs[y == 1])
        right = np.sign(outputs) == y if y.shape[1] == 1 else outputs.argmax(axis=1) == y.argmax(axis=1)
        np.testing.assert_allclose(runs.test_loss[0, 0, 0], expected, rtol=1e-12)
        np.testing.assert_allclose(runs.accuracy[0, 0, 0], right.mean(), rtol=1e-12)


SWEEP = Problem(TASK, MODEL, TRAINING.replace(learning_rate=[0.02, 0.1, 0.3], momentum=[0.0, 0.9]))


def _same(one: NetworkRuns, other: NetworkRuns, rtol: float) -> None:
    for name in ("train_loss", "test_loss", "accuracy"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=rtol)


def test_a_sweep_is_its_runs_one_by_one():
    runs = run_network(SWEEP, TIMES, seeds=[5, 2], strategy="vmap")
    assert runs.points[1] == {"learning_rate": 0.02, "momentum": 0.9}
    assert runs.train_loss.shape == (6, 2, 4)
    for i, (_, point) in enumerate(SWEEP.points()):
        for j, seed in enumerate((5, 2)):
            alone = run_network(point, TIMES, seeds=[seed])
            np.testing.assert_allclose(runs.train_loss[i, j], alone.train_loss[0, 0], rtol=1e-12)
            np.testing.assert_allclose(runs.test_loss[i, j], alone.test_loss[0, 0], rtol=1e-12)


def test_strategies_and_chunks_do_not_change_numbers():
    whole = run_network(SWEEP, TIMES, seeds=[0, 1, 2], strategy="vmap")
    sweep, _ = network_sweep(SWEEP, TIMES)
    one = cost_of(sweep, sweep.program()).bytes
    for strategy, memory in (("single", None), ("per-core", None), ("both", None), ("vmap", 4.5 * one), ("vmap", 1.0)):
        other = run_network(SWEEP, TIMES, seeds=[0, 1, 2], strategy=strategy, memory=memory)
        assert other.strategy == strategy
        _same(whole, other, 1e-12)


def test_chunks_stay_within_the_memory_and_cover_every_run():
    sweep, _ = network_sweep(SWEEP, TIMES)
    cost = cost_of(sweep, sweep.program())
    for strategy in ("single", "vmap", "per-core", "both"):
        for fit in (0.5, 1.0, 2.5, 4.0, 7.0, 100.0):
            plan = make_plan(sweep, range(5), cost, strategy, fit * cost.bytes)
            runs = plan.seeds * plan.points
            assert plan.workers * runs <= max(1.0, fit)
            covered = {(s, p) for own, points in plan.chunks(5, 6) for s in own for p in points}
            assert covered == {(s, p) for s in range(5) for p in range(6)}
            assert {(len(own), len(points)) for own, points in plan.chunks(5, 6)} == {(plan.seeds, plan.points)}


def test_the_probe_chooses_and_remembers(monkeypatch):
    from foretrain.training import _network_plan

    sweep, _ = network_sweep(SWEEP, TIMES)
    cost = cost_of(sweep, sweep.program())
    monkeypatch.setattr(_network_plan, "_CHOSEN", {})
    monkeypatch.setattr(_network_plan, "cores", lambda: 2)
    # Short work goes by its arithmetic, without a clock.
    assert make_plan(sweep, [0], cost, "auto", None).strategy == "vmap"
    assert chosen_strategies() == {}
    monkeypatch.setattr(_network_plan, "_WORTH_TIMING", 0.0)
    seconds = {"single": 3.0, "vmap": 1.0, "per-core": 2.0, "both": 2.5}
    monkeypatch.setattr(_network_plan, "timed", lambda sweep, seeds, plan, cost: seconds[plan.strategy])
    assert make_plan(sweep, [0], cost, "auto", None).strategy == "vmap"
    chosen = chosen_strategies()
    assert list(chosen.values()) == ["vmap"]
    seconds["single"] = 0.1
    assert make_plan(sweep, [0], cost, "auto", None).strategy == "vmap"
    monkeypatch.setattr(_network_plan, "_CHOSEN", {})
    remember_strategies(dict.fromkeys(chosen, "both"))
    assert make_plan(sweep, [0], cost, "auto", None).strategy == "both"
    # Within the noise of the clock nothing is gained by leaving the order in which the runs were asked for.
    monkeypatch.setattr(_network_plan, "_CHOSEN", {})
    seconds.update({"single": 1.0, "vmap": 1.2, "per-core": 0.98, "both": 1.1})
    assert make_plan(sweep, [0], cost, "auto", None).strategy == "single"
    # A single run has no choice.
    alone, _ = network_sweep(SWEEP.select({"learning_rate": 0.1, "momentum": 0.0}), TIMES)
    assert make_plan(alone, [0], cost, "auto", None).strategy == "single"


IMAGES = Arrays(inputs=RNG.standard_normal((8, 75)), targets=RNG.standard_normal((8, 2)))


@pytest.mark.parametrize(
    ("task", "model"),
    [
        (TASK, MLP(width=8, depth=3)),
        (TASK, ResNet(width=8, depth=3)),
        (IMAGES, ConvResNet(width=8, depth=2, stride=2)),
        (
            Arrays(inputs=RNG.standard_normal((8, 48)), targets=RNG.standard_normal((8, 2))),
            ViT(width=8, heads=2, depth=2),
        ),
        (Text(context=6), Transformer(width=8, heads=2, depth=2, norm="layernorm")),
    ],
    ids=lambda value: value.kind,
)
def test_two_counts_of_operations(task, model):
    """By the shapes of the maps, and in the traced program."""
    loss = "cross-entropy" if task.kind == "text" else "mse"
    training = NetworkTraining(
        learning_rate=0.1, batch_size=4, samples=None if loss == "cross-entropy" else 6, loss=loss
    )
    problem = Problem(task, model, training)
    sweep, _ = network_sweep(problem, [1])
    data = network_data(problem)
    facts = {"context": task.context} if task.kind == "text" else {}
    sizes = data.inputs_size, data.outputs
    network = eqx.filter_eval_shape(lambda: build_network(model, training, *sizes, key=jax.random.key(0), **facts)[0])
    assert cost_of(sweep, sweep.program()).flops == pytest.approx(4 * flops_per_example(network), rel=1e-12)


def test_the_clock_of_the_probe():
    sweep, _ = network_sweep(SWEEP, TIMES)
    cost = cost_of(sweep, sweep.program())
    assert 0 < timed(sweep, [0, 1], Plan("both", 1, 6, 2), cost, seconds=0.01) < 1


def test_a_seed_fixes_everything():
    problem = Problem(TASK, MODEL, TRAINING)
    both = run_network(problem, TIMES, seeds=[7, 4])
    again = run_network(problem, TIMES[::-1], seeds=[4, 7])
    np.testing.assert_array_equal(both.train_loss[:, ::-1, ::-1], again.train_loss)
    assert not np.any(both.train_loss[:, 0] == both.train_loss[:, 1])


def test_batches_go_through_shuffled_epochs():
    data = network_data(Problem(TASK, MODEL, TRAINING))
    whole = data.batches(1, 7, False, 0, 60)
    assert whole.shape == (60, 7)
    for epoch in range(14):  # every row once in every 30 examples
        assert sorted(whole.ravel()[30 * epoch : 30 * epoch + 30]) == sorted(data.order(1)[:30])
    parts = [data.batches(1, 7, False, a, b) for a, b in ((0, 1), (1, 13), (13, 60))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    wide = network_data(Problem(TASK, MODEL.replace(width=16), TRAINING.replace(learning_rate=3.0)))
    np.testing.assert_array_equal(wide.batches(1, 7, False, 0, 60), whole)


def test_fresh_batches_are_drawn_with_replacement():
    data = network_data(Problem(TASK, MODEL, TRAINING))
    whole = data.batches(1, 7, True, 0, 600)
    parts = [data.batches(1, 7, True, a, b) for a, b in ((0, 255), (255, 257), (257, 600))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    rows = data.order(1)[:30]
    counts = np.array([np.sum(whole == row) for row in rows])
    assert counts.sum() == 4200
    # 4200 throws at 30 rows: chi-squared with 29 degrees of freedom, beyond 66 once in ten thousand seeds.
    assert 8 < np.sum((counts - 140) ** 2 / 140) < 66


def test_rows_are_those_of_the_other_students():
    from foretrain.training import data_draws

    problem = Problem(TASK, MODEL, TRAINING)
    data = network_data(problem)
    ((_, _, draw),) = data_draws(TASK.load(), [4], [30], 6)
    train, test = data.evaluated(6)
    np.testing.assert_array_equal(draw.sources[0].targets[:, :, 0], ONE_HOT[train])
    assert sorted([*train, *test]) == list(range(40))


def test_divergence_is_a_result():
    problem = Problem(
        TASK, MODEL.replace(activation="linear"), TRAINING.replace(learning_rate=[0.05, 1e3], dtype="float32")
    )
    runs = run_network(problem, TIMES, seeds=[0, 1])
    assert runs.diverged.tolist() == [[False, False], [True, True]]
    assert np.isfinite(runs.train_loss[0]).all()
    assert np.isfinite(runs.test_loss[1, :, 0]).all()
    assert np.isinf(runs.test_loss[1, :, 2:]).all()
    assert np.isinf(runs.train_loss[1, :, 2:]).all()
    assert np.isnan(runs.accuracy[1, :, 2:]).all()


def test_what_is_counted():
    problem = Problem(TASK, MODEL.replace(depth=3), TRAINING)
    runs = run_network(problem, TIMES, seeds=[0])
    assert runs.parameters == 8 * 5 + 2 * 64 + 24
    assert runs.flops_per_step == 3 * 2 * 7 * runs.parameters
    assert runs.steps_per_second > 0
    assert np.isnan(run_network(problem, [0], seeds=[0]).steps_per_second)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A small text of 16 symbols, in which each is likely to come again."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join("abcdefghijklmnop"[i] * 3 for i in np.random.default_rng(1).integers(0, 16, 2000)))
    return Text(path=path, tokenizer="char", context=8)


def test_arithmetic_of_a_transformer_and_of_convolutions(text):
    training = NetworkTraining(learning_rate=0.1, batch_size=2, loss="cross-entropy")
    tokens = Problem(text, Transformer(width=16, depth=3), training)
    sweep, _ = network_sweep(tokens, [1])
    maps = 3 * (4 + 8) * 16 * 16 + 16 * sweep.data.outputs  # queries, keys, values, out, two of the MLP; readout
    attention = 3 * 2 * 8 * 16
    assert cost_of(sweep, sweep.program()).flops == 3 * 2 * (2 * 8) * (maps + attention)
    images = Arrays(inputs=RNG.standard_normal((9, 16)), targets=np.eye(3)[np.arange(9) % 3])
    network = Problem(images, ConvResNet(width=4, depth=2), NetworkTraining(learning_rate=0.1, batch_size=5, samples=6))
    sweep, _ = network_sweep(network, [1])
    assert cost_of(sweep, sweep.program()).flops == 3 * 2 * 5 * (16 * 9 * (4 + 2 * 16) + 4 * 3)


def test_windows_of_tokens(text):
    """Against a plain loop over windows that are cut here."""
    training = NetworkTraining(
        learning_rate=0.01, optimizer="adam", batch_size=4, loss="cross-entropy", dtype="float64", epsilon=1e-4
    )
    problem = Problem(text, Transformer(width=16, depth=1, base_width=16, base_depth=1), training)
    runs = run_network(problem, [0, 30], seeds=[0])
    data, tokens = network_data(problem), problem.task.load()
    whole = np.concatenate([tokens.train, tokens.test])

    def windows(starts):
        return [np.stack([whole[s + k : s + k + 8] for s in starts]) for k in (0, 1)]

    def loss(network, inputs, targets):
        chances = jax.nn.log_softmax(jax.vmap(network)(inputs))
        return -jnp.mean(jnp.take_along_axis(chances, targets[..., None], axis=-1))

    with jax.enable_x64(True):
        network, _ = build_network(problem.model, training, 17, 17, key=jax.random.key(0), dtype=jnp.float64, context=8)
        optimizer = optax.adam(0.01, eps=1e-4)
        params, static = eqx.partition(network, eqx.is_inexact_array)
        state = optimizer.init(params)
        value = jax.jit(lambda p, pairs: loss(eqx.combine(p, static), *pairs))

        @jax.jit
        def step(params, state, pairs):
            gradients = jax.grad(lambda p: loss(eqx.combine(p, static), *pairs))(params)
            updates, state = optimizer.update(gradients, state)
            return optax.apply_updates(params, updates), state

        test = windows(data.evaluated(0)[1])
        expected = [float(value(params, test))]
        for starts in data.batches(0, 4, False, 0, 30):
            params, state = step(params, state, windows(starts))
        expected.append(float(value(params, test)))
    np.testing.assert_allclose(runs.test_loss[0, 0], expected, rtol=1e-9)  # thirty steps of float64
    assert expected[1] < expected[0] - 0.1
    train, test = data.evaluated(0)
    assert len(train) == 64
    assert len(test) == 256
    assert train.max() + 8 < len(tokens.train)
    assert test.min() >= len(tokens.train)
    assert test.max() + 8 < len(data.inputs)
    drawn = data.batches(0, 4, False, 0, 300)
    assert drawn.max() + 8 < len(tokens.train)
    np.testing.assert_array_equal(data.inputs[: len(tokens.train)], tokens.train)


def test_progress_counts_steps():
    for strategy in ("vmap", "per-core"):
        calls: list[tuple] = []
        run_network(SWEEP, TIMES, seeds=[0], progress=lambda *call, to=calls: to.append(call), strategy=strategy)
        assert calls[0] == (0, 72, "train")
        assert calls[-1] == (72, 72, "train")
        assert [c[0] for c in calls] == sorted(c[0] for c in calls)


@pytest.mark.parametrize("strategy", ["single", "per-core"])
def test_an_interrupt_keeps_finished_seeds(strategy):
    total = 6 * 3 * 12

    def stop(done, count, label):
        assert count == total
        if done >= total // 2:
            raise KeyboardInterrupt

    with pytest.raises(RunsInterrupted) as caught:
        run_network(SWEEP, TIMES, seeds=[0, 1, 2], progress=stop, strategy=strategy)
    kept = caught.value.runs
    assert kept.seeds[0] == 0
    assert len(kept.seeds) < 3
    whole = run_network(SWEEP, TIMES, seeds=kept.seeds, strategy=strategy)
    _same(kept, whole, 1e-12)

    def stop_at_once(done, count, label):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        run_network(SWEEP, TIMES, seeds=[0], progress=stop_at_once, strategy=strategy)
    assert not isinstance(caught.value, RunsInterrupted)


CE = NetworkTraining(learning_rate=0.1, batch_size=4, loss="cross-entropy")


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (Problem(TASK, MLP(width=8), GradientFlow(samples=5)), "needs an optimizer"),
        (Problem(TASK, MLP(width=8), SGD(learning_rate=0.1, batch_size=2)), "'sgd' does not train networks"),
        (Problem(TASK, RandomFeatures(width=8), TRAINING), "'random-features' is not trained by an optimizer"),
        (Problem(TASK, Kernel(), TRAINING), "'kernel' is not trained by an optimizer"),
        (Problem(PowerLaw(1.5, 0.6, modes=50), MLP(width=8), TRAINING), "needs rows of data or tokens"),
        (Problem(TASK, MLP(width=np.inf), TRAINING), "infinitely large"),
        (Problem(TASK, ResNet(width=8, depth=np.inf), TRAINING), "infinitely large"),
        (Problem(TASK, Transformer(width=8), TRAINING), "does not take rows of data"),
        (Problem(Text(), MLP(width=8), CE), "does not take tokens"),
        (Problem(Text(), Transformer(width=8), CE.replace(loss="mse")), "loss = 'cross-entropy' is needed"),
        (Problem(Text(), Transformer(width=8), CE.replace(samples=100)), "samples means nothing on tokens"),
        (Problem(TASK, MLP(width=8), TRAINING.replace(samples=np.inf)), "only as many rows"),
    ],
)
def test_what_cannot_be_trained(problem, reason):
    assert reason in untrainable(problem)
    with pytest.raises(UnsupportedProblem, match="run_network"):
        run_network(problem, [1], seeds=[0])
    with pytest.raises(UnsupportedProblem, match="`train`"):
        solve(problem, [1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 40}, "at most 39 of the 40 rows"),
        ({"samples": None}, "none be left to test on"),
        ({"batch_size": 31}, "at most the 30 training rows, got 31"),
        ({"batch_size": (2, 3)}, "expected no axes but learning_rate, weight_decay, momentum, epsilon, got batch_size"),
    ],
)
def test_wrong_sizes(changes, message):
    with pytest.raises(InvalidInput, match=message):
        run_network(Problem(TASK, MODEL, TRAINING.replace(**changes)), TIMES, seeds=[0])


def test_wrong_images_and_classes():
    for model, message in ((ConvResNet(width=4), "length 5 are none"), (ViT(width=16), "length 5 are none")):
        with pytest.raises(UnsupportedProblem, match=message):
            run_network(Problem(TASK, model, TRAINING), TIMES, seeds=[0])
    images = Arrays(inputs=RNG.standard_normal((40, 25)), targets=ONE_HOT)
    with pytest.raises(UnsupportedProblem, match="5 x 5 pixels cannot be cut into patches of 2 x 2"):
        run_network(Problem(images, ViT(width=16), TRAINING), TIMES, seeds=[0])
    regression = Arrays(inputs=INPUTS, targets=INPUTS[:, 0])
    with pytest.raises(InvalidInput, match="'cross-entropy' needs classes"):
        run_network(Problem(regression, MODEL, TRAINING.replace(loss="cross-entropy")), TIMES, seeds=[0])
    runs = run_network(Problem(regression, MODEL, TRAINING), TIMES, seeds=[0])
    assert not runs.has_classes
    assert np.isnan(runs.accuracy).all()
    with pytest.raises(InvalidInput, match="batch_size: missing; on tokens"):
        run_network(Problem(Text(), Transformer(width=8), CE.replace(batch_size=None)), TIMES, seeds=[0])


def test_wrong_arguments(monkeypatch):
    problem = Problem(TASK, MODEL, TRAINING)
    for seeds in ([], [0, 0], [-1], [2**32]):
        with pytest.raises(InvalidInput, match=r"run_network\(seeds\)"):
            run_network(problem, TIMES, seeds=seeds)
    with pytest.raises(InvalidInput, match="did you mean 'vmap'"):
        run_network(problem, TIMES, seeds=[0], strategy="vmpa")
    with pytest.raises(InvalidInput, match=r"run_network\(memory\): expected a number of bytes > 0"):
        run_network(problem, TIMES, seeds=[0], memory=0)
    with pytest.raises(InvalidInput, match="finite numbers of steps"):
        run_network(problem, [np.inf], seeds=[0])
    monkeypatch.setattr("foretrain.training._network_plan.free_memory", lambda: 100.0)
    with pytest.raises(TooLarge, match="GB"):
        run_network(problem, TIMES, seeds=[0])
