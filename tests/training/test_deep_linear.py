"""Finite deep linear networks: the gradient of the declared loss, identities, conventions of tasks, refusals, the command line."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foretrain import (
    DeepLinear,
    GradientDescent,
    GradientFlow,
    Isotropic,
    Momentum,
    OnePassSGD,
    PowerLaw,
    Problem,
    Schedule,
    SpectrumTask,
    compare,
    train,
)
from foretrain.cli import main
from foretrain.errors import ForetrainWarning, InvalidInput, TooLarge, UnsupportedProblem
from foretrain.training import TrainingInterrupted, untrainable
from foretrain.training._batches import step_sizes
from foretrain.training._deep_linear import _BATCHES, STEPS, Samples, deep_linear_losses, draw_samples, draw_weights
from foretrain.training._deep_linear_train import deep_linear_inputs, setting_of, sizes_of
from foretrain.training._linear_student import _generator

INF = float("inf")
# Two eigenvalues, 12 dimensions; nothing is 1 or equal that a wrong power could hide behind.
TASK = SpectrumTask([1.6, 0.4], [0.7, 1.9], [5, 7])
NOISE = 0.3
# Two blocks of steps and a part of a third.
TIMES = np.arange(2.0 * STEPS + 4)


def fresh_batches(setting, sizes, seed):
    """Gaussian batches with the numbers that `deep_linear_losses` draws; each needs the residual of its step."""
    generator = _generator(seed, _BATCHES)
    d, batch = sizes.inputs, sizes.batch
    blocks = [generator.standard_normal((STEPS, d + 2 * batch), dtype=np.float32) for _ in range(3)]
    numbers = np.concatenate(blocks).astype(np.float64)

    def batch_of(step, residual):
        z, x, noise = np.split(numbers[step], [d, d + batch])
        scaled = np.sqrt(setting.eigenvalues / d) * residual
        size = np.linalg.norm(scaled)
        along = scaled / size
        errors = size * x + setting.deviation * noise
        white = np.outer(x, along) + np.outer(errors / np.linalg.norm(errors), z - along * (along @ z))
        return Samples(white * np.sqrt(setting.eigenvalues), noise)

    return batch_of


def by_autodiff(weights, setting, sizes, rates, samples, batch_of, residual):
    """The losses by the gradient of the mean squared error of the network as it is defined."""
    d, n, depth = sizes.inputs, sizes.width, sizes.depth
    target, lam = setting.coefficients, setting.eigenvalues

    def effective(parameters):
        first, hidden, readout = parameters
        product = first / jnp.sqrt(d)
        for matrix in hidden:
            move = setting.branch * matrix @ product / jnp.sqrt(n)
            product = product + move if residual else move
        return jnp.sqrt(d) * (jnp.sqrt(d) / (setting.richness * n) * readout @ product)

    def loss(parameters, data):
        left = target - effective(parameters)
        if data is None:
            return jnp.sum(lam * left**2) / d / 2
        errors = data.inputs @ left / jnp.sqrt(d) + setting.deviation * data.noise
        return jnp.mean(errors**2) / 2

    parameters, velocity, found = tuple(weights), None, []
    gradient, loss, effective = jax.jit(jax.grad(loss)), jax.jit(loss), jax.jit(effective)
    for step in range(len(rates) + 1):
        left = np.asarray(target - effective(parameters))
        data = samples if batch_of is None else batch_of(step, left)
        population = np.sum(lam * left**2) / d + setting.deviation**2
        train_loss = population if samples is None else 2 * loss(parameters, samples)
        found.append([np.sum(setting.tested * left**2) / d, train_loss])
        if step == len(rates):
            break
        slope = gradient(parameters, data)
        change = jax.tree.map(lambda g, rate=rates[step]: -rate * setting.richness**2 * n * g, slope)
        if velocity is not None:
            change = jax.tree.map(lambda new, old: new + setting.momentum * old, change, velocity)
        velocity = change
        parameters = jax.tree.map(jnp.add, parameters, change)
    assert depth == len(weights.hidden) + 1
    return np.array(found)


CASES = {
    "one hidden layer, population": (DeepLinear(depth=1, width_ratio=0.5, richness=0.7), GradientDescent(0.1)),
    "samples": (DeepLinear(depth=3, width_ratio=0.5, richness=0.7), GradientDescent(0.03, sample_ratio=1.5)),
    "few samples, wide, ntk": (
        DeepLinear(depth=2, width_ratio=2.0, parameterization="ntk", richness=0.7),
        GradientDescent(0.03, sample_ratio=0.5),
    ),
    "residual, constant branch": (
        DeepLinear(depth=4, width_ratio=1.5, richness=1.3, residual=True, branch_scale=0.4, depth_exponent=0.0),
        GradientDescent(0.05, sample_ratio=1.5, schedule=Schedule("cosine", steps=80, warmup=2)),
    ),
    "residual, one over root depth": (DeepLinear(depth=3, width_ratio=1.0, residual=True), GradientDescent(0.05)),
    "momentum": (
        DeepLinear(depth=3, width_ratio=0.5, richness=0.7, residual=True),
        Momentum(learning_rate=0.02, momentum=0.8, sample_ratio=1.5),
    ),
    "fresh batches": (DeepLinear(depth=2, width_ratio=1.5, richness=0.7), OnePassSGD(0.05, batch_ratio=0.75)),
}


@pytest.mark.parametrize("name", CASES)
def test_steps_follow_the_gradient_of_the_declared_loss(name):
    model, training = CASES[name]
    # The test inputs have another distribution, so that the three losses are three.
    task = TASK.replace(test_eigenvalues=[0.3, 1.1])
    inputs, sizes = deep_linear_inputs(task), sizes_of(task, model, training)
    setting, rates = setting_of(inputs, model, training, NOISE), step_sizes(training, TIMES)
    with jax.enable_x64(True):
        weights = draw_weights(sizes, 3)
        samples = draw_samples(inputs.eigenvalues, sizes.samples, 3) if sizes.samples else None
        batch_of = fresh_batches(setting, sizes, 3) if sizes.batch else None
        found = deep_linear_losses(weights, setting, sizes, rates, samples, 3)
        expected = by_autodiff(weights, setting, sizes, rates, samples, batch_of, model.residual)
        np.testing.assert_allclose(found, expected, rtol=1e-11)
        assert found[-1, 0] != found[0, 0]
        # The door gives the same numbers.
        curves = train(Problem(task.replace(noise=NOISE), model, training), TIMES, seeds=1, seed=3)
    np.testing.assert_allclose(curves.values("test_loss"), found[:, 0], rtol=1e-13)
    np.testing.assert_allclose(curves.values("train_loss"), found[:, 1], rtol=1e-13)


def test_fresh_batches_are_gaussian():
    """Means over seeds of steps with the numbers of a step are those of steps with whole batches."""
    model, training = DeepLinear(depth=1, width_ratio=1.0, richness=0.7), OnePassSGD(0.04, batch_ratio=0.25)
    inputs, sizes = deep_linear_inputs(TASK), sizes_of(TASK, model, training)
    setting, rates = setting_of(inputs, model, training, NOISE), np.full(4, 0.04)
    found, expected = [], []
    with jax.enable_x64(True):
        for seed in range(400):
            weights = draw_weights(sizes, seed)
            found.append(deep_linear_losses(weights, setting, sizes, rates, None, seed)[-1, 0])
            expected.append(_with_whole_batches(weights, setting, sizes, rates, np.random.default_rng(seed)))
    difference = np.array(found) - np.array(expected)
    z = difference.mean() / (difference.std(ddof=1) / 20)
    assert abs(z) < 4
    # Half the label noise would be seen.
    assert difference.std(ddof=1) / 20 < 0.05 * np.mean(expected)


def _with_whole_batches(weights, setting, sizes, rates, rng):
    d, n = sizes.inputs, sizes.width
    first, readout = np.array(weights.inputs), np.array(weights.readout)
    for rate in rates:
        residual = setting.coefficients - np.sqrt(d) / (setting.richness * n) * first.T @ readout
        x = rng.standard_normal((sizes.batch, d)) * np.sqrt(setting.eigenvalues)
        errors = x @ residual / np.sqrt(d) + setting.deviation * rng.standard_normal(sizes.batch)
        u = np.sqrt(d) / sizes.batch * x.T @ errors
        scale = rate * setting.richness
        first, readout = first + scale / np.sqrt(d) * np.outer(readout, u), readout + scale * first @ u / np.sqrt(d)
    residual = setting.coefficients - np.sqrt(d) / (setting.richness * n) * first.T @ readout
    return np.sum(setting.eigenvalues * residual**2) / d


def test_the_loss_before_training():
    """1 + (1 + b^2)^(L - 1) / (gamma_0^2 nu) in the mean."""
    for model, extra in (
        (DeepLinear(depth=2, width_ratio=0.5, richness=0.8), 1 / (0.64 * 0.5)),
        (DeepLinear(depth=2, width_ratio=0.5, richness=0.8, parameterization="ntk"), 1 / 0.64),
        (DeepLinear(depth=3, width_ratio=0.5, richness=0.8, residual=True), (1 + 1 / 3) ** 2 / (0.64 * 0.5)),
    ):
        curves = train(Problem(Isotropic(modes=40, noise=0.25), model, GradientDescent(0.1)), [0], seeds=200)
        z = (curves.values("test_loss") - 1 - extra) / curves.values("test_loss_stderr")
        assert abs(z[0]) < 4
        assert curves.values("test_loss_stderr")[0] < 0.05 * extra
        np.testing.assert_allclose(curves.values("train_loss"), curves.values("test_loss") + 0.25)


def test_signs_and_scales():
    model, training = DeepLinear(depth=2, width_ratio=1.0, richness=0.7), GradientDescent(0.1, sample_ratio=1.5)
    inputs, sizes = deep_linear_inputs(TASK), sizes_of(TASK, model, training)
    setting, rates = setting_of(inputs, model, training, NOISE), np.full(6, 0.1)
    with jax.enable_x64(True):
        weights, samples = draw_weights(sizes, 0), draw_samples(inputs.eigenvalues, 18, 0)
        plain = deep_linear_losses(weights, setting, sizes, rates, samples, 0)
        # Every sign of the target, the readout and the noise.
        other = setting._replace(coefficients=-setting.coefficients, deviation=-setting.deviation)
        flipped = deep_linear_losses(weights._replace(readout=-weights.readout), other, sizes, rates, samples, 0)
        np.testing.assert_allclose(flipped, plain, rtol=1e-12)
        other = setting._replace(
            coefficients=3 * setting.coefficients, deviation=3 * setting.deviation, richness=setting.richness / 3
        )
        np.testing.assert_allclose(deep_linear_losses(weights, other, sizes, rates, samples, 0), 9 * plain, rtol=1e-12)


def test_least_squares_is_the_end():
    """With more samples than dimensions every network ends at the least-squares solution of its samples."""
    samples = draw_samples(np.ones(10), 20, 0)
    fit = np.linalg.lstsq(samples.inputs, np.sqrt(NOISE) * samples.noise)[0]
    for model in (DeepLinear(depth=1, width_ratio=0.4), DeepLinear(depth=3, width_ratio=1.0, residual=True)):
        problem = Problem(Isotropic(modes=10, noise=NOISE), model, GradientDescent(0.1, sample_ratio=2.0))
        np.testing.assert_allclose(train(problem, [3000], seeds=1).values("test_loss")[0], fit @ fit, rtol=1e-9)


def test_conventions_of_tasks():
    model, training = DeepLinear(depth=2, width_ratio=0.5), GradientDescent(0.1, sample_ratio=1.5)

    def losses(task):
        return train(Problem(task, model, training), [0, 5], seeds=1).values("test_loss")

    np.testing.assert_allclose(losses(Isotropic(modes=12)), losses(SpectrumTask([1.0], [1.0], [12])), rtol=1e-13)
    k = np.arange(1.0, 13.0)
    lam, power = k**-1.5, k**-1.9 / k**-1.5
    np.testing.assert_allclose(losses(PowerLaw(1.5, 0.6, modes=12)), losses(SpectrumTask(lam, 12 * power)), rtol=1e-13)
    mean = losses(PowerLaw(1.5, 0.6, modes=12, normalize=True))
    np.testing.assert_allclose(mean, losses(SpectrumTask(lam, power)), rtol=1e-13)


def test_every_point_is_what_it_is_alone():
    problem = Problem(
        Isotropic(modes=12, noise=[0.0, 0.2]),
        DeepLinear(depth=[1, 2], width_ratio=[0.5, 1.0], richness=[0.5, 1.0]),
        GradientDescent(learning_rate=[0.05, 0.1], sample_ratio=[0.5, 1.5, INF]),
    )
    curves = train(problem, [0, 4, 2], seeds=2)
    assert curves.dims["test_loss"] == (*problem.axes(), "time")
    assert curves.dims["status"] == tuple(problem.axes())
    assert curves.status == "ok"
    assert "max_stable_lr" not in curves
    for index, point in list(problem.points())[::19]:
        alone = train(point, [0, 4, 2], seeds=2)
        for name in ("test_loss", "train_loss", "test_loss_stderr"):
            np.testing.assert_allclose(curves.values(name)[index], alone.values(name), rtol=1e-11)


def test_sizes_share_their_draws():
    with jax.enable_x64(True):
        narrow = draw_weights(
            sizes_of(Isotropic(modes=8), DeepLinear(depth=2, width_ratio=0.5), GradientDescent(0.1)), 1
        )
        wide = draw_weights(sizes_of(Isotropic(modes=8), DeepLinear(depth=3, width_ratio=2.0), GradientDescent(0.1)), 1)
    np.testing.assert_array_equal(narrow.inputs, wide.inputs[:4])
    np.testing.assert_array_equal(narrow.readout, wide.readout[:4])
    np.testing.assert_array_equal(draw_samples(np.ones(8), 3, 1).inputs, draw_samples(np.ones(8), 9, 1).inputs[:3])


def test_more_steps_than_a_block():
    problem = Problem(Isotropic(modes=6), DeepLinear(depth=2, width_ratio=0.5), OnePassSGD(0.02, batch_ratio=0.5))
    whole = train(problem, [STEPS - 1, STEPS, STEPS + 1, 2 * STEPS + 3], seeds=1).values("test_loss")
    parts = [train(problem, [t], seeds=1).values("test_loss")[0] for t in (STEPS - 1, STEPS, STEPS + 1, 2 * STEPS + 3)]
    np.testing.assert_array_equal(whole, parts)
    assert len(set(parts)) == 4


def test_divergence_is_a_value():
    problem = Problem(Isotropic(modes=12), DeepLinear(depth=2, width_ratio=1.0), GradientDescent([0.05, 5.0]))
    with pytest.warns(ForetrainWarning, match="1 of 2 points diverged for some seed"):
        curves = train(problem, [0, 50], seeds=2)
    assert curves.values("status").tolist() == ["ok", "diverged"]
    assert np.isinf(curves.values("test_loss")[1, 1])
    assert np.isinf(curves.values("train_loss")[1, 1])
    assert np.isfinite(curves.values("test_loss")[:, 0]).all()


@pytest.mark.parametrize(
    ("task", "model", "training", "reason"),
    [
        (Isotropic(modes=8), {"width_ratio": INF}, {}, "width_ratio = inf is no network"),
        (Isotropic(modes=8), {"depth": INF, "residual": True}, {}, "depth = inf is no network"),
        (Isotropic(), {}, {}, "the inputs have one dimension; give modes = D"),
        (SpectrumTask([1.0], [1.0]), {}, {}, "the inputs have one dimension; give multiplicity = D"),
        (PowerLaw(1.5, 0.6), {}, {}, "modes = inf is no dimension of inputs"),
        (SpectrumTask([1.0, 2.0], [1.0, 1.0], [0.5, 0.5]), {}, {}, "multiplicity holds fractions"),
        (
            Isotropic(modes=7),
            {"width_ratio": 0.5},
            {},
            r"width_ratio = 0.5 of 7 dimensions is 3.5, not a whole number; the nearest that works is 0.5714285714",
        ),
        (Isotropic(modes=7), {"width_ratio": 1e-9}, {}, r"the nearest that works is 0.1428571429"),
        (Isotropic(modes=7), {}, {"sample_ratio": 1.5}, r"sample_ratio = 1.5 of 7 dimensions is 10.5"),
    ],
)
def test_what_cannot_be_trained(task, model, training, reason):
    problem = Problem(
        task,
        DeepLinear(**{"depth": 2, "width_ratio": 1.0} | model),
        GradientDescent(**{"learning_rate": 0.1} | training),
    )
    assert reason in untrainable(problem)
    with pytest.raises(UnsupportedProblem, match="train: "):
        train(problem, [1], seeds=1)


def test_a_batch_must_be_whole():
    problem = Problem(Isotropic(modes=7), DeepLinear(depth=1, width_ratio=1.0), OnePassSGD(0.1, batch_ratio=0.5))
    assert "batch_ratio = 0.5 of 7 dimensions is 3.5" in untrainable(problem)


def test_the_nearest_that_works_works():
    problem = Problem(Isotropic(modes=7), DeepLinear(depth=1, width_ratio=0.5714285714), GradientDescent(0.1))
    assert untrainable(problem) is None


def test_a_flow_is_not_trained():
    problem = Problem(Isotropic(modes=8), DeepLinear(depth=1, width_ratio=1.0), GradientFlow())
    assert "trained by 'gradient-descent', 'momentum', 'one-pass-sgd', got 'gradient-flow'" in untrainable(problem)


def test_there_is_no_end_point():
    problem = Problem(Isotropic(modes=8), DeepLinear(depth=1, width_ratio=1.0), GradientDescent(0.1))
    with pytest.raises(InvalidInput, match="finite numbers of steps for 'gradient-descent'"):
        train(problem, [1, INF])


def test_there_is_no_average_over_minibatches():
    problem = Problem(Isotropic(modes=8), DeepLinear(depth=1, width_ratio=1.0), OnePassSGD(0.1, batch_ratio=0.5))
    with pytest.raises(InvalidInput, match="'deep-linear' is not linear in its weights"):
        train(problem, [1], minibatches="averaged")


def test_too_large_is_said_before_it_is_tried():
    wide = Problem(Isotropic(modes=100_000), DeepLinear(depth=9, width_ratio=2.0), GradientDescent(0.1))
    with pytest.raises(TooLarge, match="GB"):
        train(wide, [1], seeds=1)
    long = Problem(Isotropic(modes=1000), DeepLinear(depth=3, width_ratio=1.0), GradientDescent(0.1))
    with pytest.raises(TooLarge, match="hours of computation"):
        train(long, [10**9], seeds=1)


def test_an_interrupt_keeps_finished_seeds(monkeypatch):
    monkeypatch.setattr("foretrain.training._budget.cores", lambda: 1)
    problem = Problem(Isotropic(modes=8), DeepLinear(depth=1, width_ratio=1.0), GradientDescent(0.1))

    def stop(done, total, label):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(TrainingInterrupted) as caught:
        train(problem, [3], seeds=4, progress=stop)
    assert caught.value.curves.attrs["seeds"] == 2


STUDY = """\
[task]
kind = "isotropic"
modes = 40
noise = 0.09

[model]
kind = "deep-linear"
depth = 2
width_ratio = [0.5, {width}]

[training]
protocol = "gradient-descent"
learning_rate = 0.05
sample_ratio = [1.5, inf]
times = [0, 5, 20]
seeds = 6
"""


def test_a_study_file_on_the_command_line(tmp_path, capsys):
    path = tmp_path / "study.toml"
    path.write_text(STUDY.format(width=1.0))
    assert main(["train", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["coords"]["width_ratio"] == [0.5, 1.0]
    assert found["dims"]["test_loss"] == ["width_ratio", "sample_ratio", "time"]
    assert np.shape(found["data"]["test_loss"]) == (2, 2, 3)
    path.write_text(STUDY.format(width=0.51))
    assert main(["train", str(path), "--json"]) == 2
    error = capsys.readouterr()
    assert "width_ratio = 0.51 of 40 dimensions is 20.4" in error.err + error.out


THEORY = {
    "samples": (
        Isotropic(modes=240, noise=0.25),
        DeepLinear(depth=2, width_ratio=[0.5, 2.0], richness=0.7),
        GradientDescent(0.04, sample_ratio=[0.75, 2.0]),
    ),
    "ntk": (
        Isotropic(modes=240),
        DeepLinear(depth=1, width_ratio=[0.5, 2.0], parameterization="ntk", richness=1.5),
        GradientDescent([0.05, 0.15]),
    ),
    "residual": (
        Isotropic(modes=240, noise=0.1),
        DeepLinear(depth=[2, 4], width_ratio=1.25, richness=1.3, residual=True, branch_scale=0.8),
        GradientDescent(0.05, sample_ratio=1.5),
    ),
    "constant branch": (
        Isotropic(modes=240),
        DeepLinear(depth=3, width_ratio=0.75, richness=0.8, residual=True, branch_scale=0.5, depth_exponent=0.0),
        GradientDescent(0.04),
    ),
    "one pass": (
        Isotropic(modes=240, noise=0.1),
        DeepLinear(depth=2, width_ratio=0.75, richness=1.2),
        OnePassSGD(0.05, batch_ratio=[0.25, 1.0]),
    ),
    "momentum": (
        Isotropic(modes=240, noise=0.1),
        DeepLinear(depth=2, width_ratio=1.5, richness=0.8),
        Momentum(0.015, momentum=0.7, sample_ratio=1.5),
    ),
    "schedule": (
        Isotropic(modes=240, noise=0.1),
        DeepLinear(depth=2, width_ratio=1.5, richness=0.8),
        OnePassSGD(0.06, batch_ratio=0.5, schedule=Schedule("cosine", steps=25, warmup=5)),
    ),
    "groups": (
        SpectrumTask([1.6, 0.4], [0.5, 2.0], [80, 160], noise=0.09),
        DeepLinear(depth=2, width_ratio=0.75, richness=1.2),
        GradientDescent(0.05, sample_ratio=1.5),
    ),
    "power law": (
        PowerLaw(1.2, 0.7, modes=240, noise=0.05),
        DeepLinear(depth=2, width_ratio=1.5, richness=0.8),
        GradientDescent(0.03, sample_ratio=1.5),
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("name", THEORY)
def test_theory(name):
    """With 240 dimensions what is of order 1 / D lies well inside the noise of 24 seeds."""
    compared = compare(Problem(*THEORY[name]), [0, 1, 3, 8, 15, 25], seeds=24, seed=100).error
    for loss in ("test_loss", "train_loss"):
        assert np.max(np.abs(compared.values(f"{loss}_z"))) < 4
        assert np.median(compared.values(f"{loss}_stderr")) < 0.04


@pytest.mark.long
def test_theory_on_the_command_line(tmp_path, capsys):
    path = tmp_path / "study.toml"
    text = STUDY.format(width="1.0, inf").replace("modes = 40", "modes = 200").replace("seeds = 6", "seeds = 20")
    path.write_text(text)
    assert main(["compare", str(path), "--no-store", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["theory"]["coords"]["width_ratio"] == [0.5, 1.0, "inf"]
    assert found["training"]["coords"]["width_ratio"] == [0.5, 1.0]
    assert np.max(np.abs(found["error"]["data"]["test_loss_z"])) < 4
    assert np.max(np.abs(found["error"]["data"]["train_loss_z"])) < 4
