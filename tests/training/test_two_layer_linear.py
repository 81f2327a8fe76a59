"""Finite two-layer linear networks: the declared updates of all weights, identities of the flow, refusals, the command line."""

import json

import jax
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from foretrain import (
    Digits,
    GradientDescent,
    GradientFlow,
    Isotropic,
    Momentum,
    OnePassSGD,
    PowerLaw,
    Problem,
    RandomFeatures,
    Schedule,
    SpectrumTask,
    TwoLayerLinear,
    compare,
    train,
)
from foretrain.cli import main
from foretrain.errors import ForetrainWarning, InvalidInput, TooLarge, UnsupportedProblem
from foretrain.training import TrainingInterrupted, linear_draws, untrainable
from foretrain.training._batches import step_sizes
from foretrain.training._linear_student import _DATA, _FEATURES, _NOISE, _gaussians, _generator, explicit_modes
from foretrain.training._two_layer_flow import two_layer_flow
from foretrain.training._two_layer_linear import students_of
from foretrain.training._two_layer_steps import _BATCHES, STEPS, two_layer_steps

INF = float("inf")
MODES = 14
TASK = PowerLaw(1.3, 0.6, modes=MODES, noise=0.3)
# Test inputs of another distribution, so that no two of the losses are one.
SHIFTED = TASK.replace(test_eigenvalues=np.linspace(1.0, 0.2, MODES))
SEED = 5
SIZES = {
    "population": (6, INF),
    "samples": (6, 10),
    "few samples": (6, 4),
    "wide": (20, 9),
    "wide, population": (20, INF),
}


def drawn(task, width, samples):
    """Eigenvalues, target, first features and data of a seed, from the streams that random features draw them from."""
    lam, target, tested = explicit_modes(task.spectrum())
    features = _gaussians(SEED, (_FEATURES, 0, 0), width, MODES)
    if np.isinf(samples):
        return lam, target, lam if tested is None else tested, features, None, None
    data = _gaussians(SEED, (_DATA, 0), samples, MODES) * np.sqrt(lam)
    labels = data @ target + np.sqrt(task.noise) * _generator(SEED, _NOISE).standard_normal(samples)
    return lam, target, lam if tested is None else tested, features, data, labels


class Whole:
    """All of the N + N M weights, as the model is declared."""

    def __init__(self, task, width, samples, richness):
        self.lam, self.target, self.tested, self.first, self.data, self.labels = drawn(task, width, samples)
        self.noise, self.richness, self.width = task.noise, richness, width
        self.projection = self.first.T @ self.first / width

    def velocities(self, w, a):
        left = self.target - a.T @ w / self.width
        if self.data is None:
            pull = self.lam * left
        else:
            pull = self.data.T @ (self.labels - self.data @ (a.T @ w) / self.width) / len(self.data)
        return a @ pull, self.richness * np.outer(w, self.projection @ pull)

    def observe(self, w, a):
        predicted = a.T @ w / self.width
        left = self.target - predicted
        if self.data is None:
            train_loss = np.sum(self.lam * left**2) + self.noise
        else:
            train_loss = np.mean((self.labels - self.data @ predicted) ** 2)
        return np.sum(self.tested * left**2), train_loss, np.sum(w**2) / self.width


@pytest.mark.parametrize("sizes", SIZES)
def test_steps_are_the_declared_updates(sizes):
    width, samples = SIZES[sizes]
    times, training = (
        np.arange(9.0),
        GradientDescent(0.3, samples=samples, schedule=Schedule("linear", steps=8, warmup=2)),
    )
    curves = train(Problem(SHIFTED, TwoLayerLinear(width=width, richness=1.7), training), times, seeds=1, seed=SEED)
    whole, found = Whole(SHIFTED, width, samples, 1.7), []
    w, a = np.zeros(width), whole.first
    for rate in [*step_sizes(training, times), 0.0]:
        found.append(whole.observe(w, a))
        dw, da = whole.velocities(w, a)
        w, a = w + rate * dw, a + rate * da
    expected = np.array(found).T
    for name, values in zip(("test_loss", "train_loss", "readout_norm"), expected, strict=True):
        np.testing.assert_allclose(curves.values(name), values, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("richness", [0.0, 1.7, 40.0])
def test_the_flow_is_the_flow_of_all_weights(sizes, richness):
    width, samples = SIZES[sizes]
    times = [0.3, 0.0, 40.0, 3.0]
    problem = Problem(SHIFTED, TwoLayerLinear(width=width, richness=richness), GradientFlow(samples=samples))
    curves = train(problem, times, seeds=1, seed=SEED)
    whole = Whole(SHIFTED, width, samples, richness)

    def velocities(_, state):
        dw, da = whole.velocities(state[:width], state[width:].reshape(width, -1))
        return np.concatenate([dw, da.ravel()])

    start = np.concatenate([np.zeros(width), whole.first.ravel()])
    path = solve_ivp(velocities, (0, 40), start, t_eval=sorted(times), rtol=1e-11, atol=1e-12, method="DOP853").y.T
    states = [(state[:width], state[width:].reshape(width, -1)) for state in path]
    expected = dict(zip(sorted(times), (whole.observe(*state) for state in states), strict=True))
    for i, name in enumerate(("test_loss", "train_loss", "readout_norm")):
        np.testing.assert_allclose(curves.values(name), [expected[t][i] for t in times], rtol=2e-9, atol=1e-12)
    # A = B A_0 with B B^T - gamma w w^T / N = 1.
    w, a = states[-1]
    frame = a @ np.linalg.pinv(whole.first)
    if width <= MODES:
        np.testing.assert_allclose(frame @ frame.T - richness * np.outer(w, w) / width, np.eye(width), atol=1e-8)


def test_steps_become_the_flow():
    width = TwoLayerLinear(width=6, richness=3.0)
    flow = train(Problem(TASK, width, GradientFlow(samples=10)), [4.0], seeds=1).values("test_loss")[0]
    gaps = []
    for steps in (200, 400):
        problem = Problem(TASK, width, GradientDescent(4.0 / steps, samples=10))
        gaps.append(train(problem, [steps], seeds=1).values("test_loss")[0] - flow)
    assert abs(gaps[0]) < 0.01 * flow
    np.testing.assert_allclose(gaps[0] / gaps[1], 2.0, rtol=0.03)


def test_fresh_batches_are_steps_on_whole_batches():
    """The step of n + 2 B numbers is that of a batch of B x (n + 1) which those numbers determine."""
    lam, target, _ = explicit_modes(TASK.spectrum())
    ((_, _, draw),) = linear_draws(lam, target, [6], [INF], SEED)
    (student,) = students_of(draw, [0.3])
    richness, rates, batch, n = 1.7, np.full(5, 0.2), 3, 6
    with jax.enable_x64(True):
        found = two_layer_steps(student, richness, rates, batch, SEED)
    numbers = _generator(SEED, _BATCHES).standard_normal((STEPS, n + 2 * batch), dtype=np.float32).astype(np.float64)
    best, deviation = student.end, np.sqrt(student.left + 0.3)
    omega, frame = np.zeros(n), np.eye(n)
    for step in range(6):
        theta = frame.T @ omega
        population = np.sum(student.values * (best - theta) ** 2) + student.left
        expected = population, population + 0.3, omega @ omega
        np.testing.assert_allclose(found[step], expected, rtol=1e-12, atol=1e-14)
        z, x, noise = np.split(numbers[step], [n, n + batch])
        scaled = np.sqrt(student.values) * (best - theta)
        size = np.linalg.norm(scaled)
        errors, along = size * x + deviation * noise, scaled / size
        white = np.outer(x, along) + np.outer(errors / np.linalg.norm(errors), z - along * (along @ z))
        features = white * np.sqrt(student.values)
        labels = features @ best + deviation * noise
        gradient = features.T @ (labels - features @ theta) / batch
        omega, frame = omega + 0.2 * frame @ gradient, frame + 0.2 * richness * np.outer(omega, gradient)


def test_fresh_batches_are_gaussian():
    """Means over seeds are those of all weights trained on batches of inputs."""
    training = OnePassSGD(0.05, batch_size=3)
    curves = train(Problem(TASK, TwoLayerLinear(width=6, richness=2.0), training), [12], seeds=500)
    lam, target, _ = explicit_modes(TASK.spectrum())
    rng, found = np.random.default_rng(0), []
    for _ in range(500):
        first = rng.standard_normal((6, MODES))
        w, a, projection = np.zeros(6), first, first.T @ first / 6
        for _ in range(12):
            data = rng.standard_normal((3, MODES)) * np.sqrt(lam)
            labels = data @ target + np.sqrt(TASK.noise) * rng.standard_normal(3)
            pull = data.T @ (labels - data @ a.T @ w / 6) / 3
            w, a = w + 0.05 * a @ pull, a + 0.05 * 2.0 * np.outer(w, projection @ pull)
        found.append(np.sum(lam * (target - a.T @ w / 6) ** 2))
    spread = np.std(found, ddof=1) / np.sqrt(500)
    stderr = np.hypot(spread, curves.values("test_loss_stderr")[0])
    assert abs(curves.values("test_loss")[0] - np.mean(found)) < 4 * stderr
    assert stderr < 0.03 * np.mean(found)


@pytest.mark.parametrize("training", [GradientFlow(samples=[8, INF]), GradientDescent(0.2, samples=[8, INF])])
def test_without_richness_it_is_random_features(training):
    lazy = train(Problem(TASK, TwoLayerLinear(width=[6, 20], richness=0.0), training), [0, 3, 40], seeds=2)
    fixed = train(Problem(TASK, RandomFeatures(width=[6, 20]), training), [0, 3, 40], seeds=2)
    for name in ("test_loss", "train_loss"):
        np.testing.assert_allclose(lazy.values(name), fixed.values(name), rtol=1e-9)


def test_without_richness_one_pass_is_random_features():
    training = OnePassSGD(0.1, batch_size=2)
    both = [
        train(Problem(TASK, model, training), [10], seeds=300)
        for model in (TwoLayerLinear(width=6, richness=0.0), RandomFeatures(width=6))
    ]
    means, errors = ([curves.values(name)[0] for curves in both] for name in ("test_loss", "test_loss_stderr"))
    assert abs(means[0] - means[1]) < 4 * np.hypot(*errors)


def test_identities_of_the_flow():
    values, drive = np.array([1.0, 0.3, 1e-3, 1e-6]), np.array([0.5, -0.7, 0.02, 1e-4])
    times = np.array([1e7, 0.1, 30.0, INF, 2e3])
    theta, norm = two_layer_flow(values, drive, 2.0, times)
    np.testing.assert_allclose(np.sum(theta**2, axis=1), norm * (1 + 2 * norm), rtol=1e-13)
    np.testing.assert_allclose(theta[3], drive / values, rtol=1e-15)
    # w -> 3 w with gamma -> gamma / 9, and x -> 3 x with t -> t / 3 (then b = x w grows as well).
    larger, norms = two_layer_flow(values, 3 * drive, 2.0 / 9, times)
    np.testing.assert_allclose(larger, 3 * theta, rtol=1e-9)
    np.testing.assert_allclose(norms, 9 * norm, rtol=1e-9)
    np.testing.assert_allclose(two_layer_flow(3 * values, 3 * drive, 2.0, times / 3)[0], theta, rtol=1e-9)

    # Another integrator, over seven decades of a stiff equation.
    def velocity(_, theta):
        gradient = drive - values * theta
        gain = (1 + np.sqrt(1 + 8 * theta @ theta)) / 2
        return gain * gradient + 2.0 / gain * theta * (theta @ gradient)

    other = solve_ivp(
        velocity, (0, 1e7), np.zeros(4), t_eval=[0.1, 30, 2e3, 1e7], rtol=1e-10, atol=1e-14, method="Radau"
    )
    np.testing.assert_allclose(theta[[1, 2, 4, 0]], other.y.T, rtol=1e-7)


def test_a_target_of_zero_stays():
    theta, norm = two_layer_flow(np.array([1.0, 0.5]), np.zeros(2), 1.0, np.array([0.0, 5.0, INF]))
    assert not theta.any()
    assert not norm.any()


def test_the_end_does_not_depend_on_richness():
    for samples in (INF, 10, 4):
        ends = [
            train(Problem(SHIFTED, TwoLayerLinear(width=6, richness=g), GradientFlow(samples=samples)), [INF], seeds=2)
            for g in (0.0, 1.0, 10.0)
        ]
        for name in ("test_loss", "train_loss"):
            np.testing.assert_allclose(ends[1].values(name), ends[0].values(name), rtol=1e-12, atol=1e-25)
            np.testing.assert_allclose(ends[2].values(name), ends[0].values(name), rtol=1e-12, atol=1e-25)
        assert ends[2].values("readout_norm")[0] < ends[0].values("readout_norm")[0]


def test_every_point_is_what_it_is_alone():
    problem = Problem(
        PowerLaw(1.3, [0.6, 0.9], modes=20, noise=[0.0, 0.2]),
        TwoLayerLinear(width=[4, 8], richness=[0.0, 2.0]),
        GradientDescent(learning_rate=[0.1, 0.3], samples=[6, 12, INF]),
    )
    curves = train(problem, [0, 4, 2], seeds=2)
    for name in ("test_loss", "train_loss", "readout_norm", "readout_norm_stderr"):
        assert curves.dims[name] == (*problem.axes(), "time")
    assert curves.dims["status"] == tuple(problem.axes())
    assert curves.status == "ok"
    assert "max_stable_lr" not in curves
    for index, point in list(problem.points())[::23]:
        alone = train(point, [0, 4, 2], seeds=2)
        for name in ("test_loss", "train_loss", "readout_norm", "test_loss_stderr"):
            np.testing.assert_allclose(curves.values(name)[index], alone.values(name), rtol=1e-9, atol=1e-14)


def test_more_steps_than_a_block():
    problem = Problem(TASK, TwoLayerLinear(width=4), OnePassSGD(0.02, batch_size=2))
    times = [STEPS - 1, STEPS, STEPS + 1, 2 * STEPS + 3]
    whole = train(problem, times, seeds=1).values("test_loss")
    parts = [train(problem, [t], seeds=1).values("test_loss")[0] for t in times]
    np.testing.assert_array_equal(whole, parts)
    assert len(set(parts)) == 4


def test_divergence_is_a_value():
    problem = Problem(TASK, TwoLayerLinear(width=6), GradientDescent([0.1, 50.0], samples=8))
    with pytest.warns(ForetrainWarning, match="1 of 2 points diverged for some seed"):
        curves = train(problem, [0, 50], seeds=2)
    assert curves.values("status").tolist() == ["ok", "diverged"]
    for name in ("test_loss", "train_loss", "readout_norm"):
        assert np.isinf(curves.values(name)[1, 1])
        assert np.isfinite(curves.values(name)[:, 0]).all()


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (Problem(TASK, TwoLayerLinear(), GradientFlow()), "width = inf is no network"),
        (Problem(TASK, TwoLayerLinear(width=2.5), GradientFlow()), "width = 2.5 is not a whole number"),
        (Problem(PowerLaw(1.5, 0.6), TwoLayerLinear(width=4), GradientFlow()), "modes = inf cannot be drawn"),
        (Problem(TASK, TwoLayerLinear(width=4), GradientFlow(samples=3.5)), "samples = 3.5 is not a whole number"),
        (
            Problem(SpectrumTask([1.0], [1.0], [2.5]), TwoLayerLinear(width=4), GradientFlow()),
            "multiplicity holds fractions of modes",
        ),
        (
            Problem(TASK, TwoLayerLinear(width=4), Momentum(0.1, 0.5)),
            "trained by 'gradient-flow', 'gradient-descent', 'one-",
        ),
        (Problem(Digits(), TwoLayerLinear(width=4), GradientFlow()), "needs a task that is declared by its spectrum"),
    ],
)
def test_what_cannot_be_trained(problem, reason):
    assert reason in untrainable(problem)
    with pytest.raises(UnsupportedProblem, match="train: "):
        train(problem, [1], seeds=1)


def test_steps_have_no_end_point():
    problem = Problem(TASK, TwoLayerLinear(width=4), GradientDescent(0.1))
    with pytest.raises(InvalidInput, match="finite numbers of steps for 'gradient-descent'"):
        train(problem, [1, INF])


def test_there_is_no_average_over_minibatches():
    problem = Problem(TASK, TwoLayerLinear(width=4), OnePassSGD(0.1, batch_size=2))
    with pytest.raises(InvalidInput, match="'two-layer-linear' is not linear in its weights"):
        train(problem, [1], minibatches="averaged")


def test_too_large_is_said_before_it_is_tried():
    with pytest.raises(TooLarge, match="GB"):
        train(Problem(PowerLaw(1.5, 0.6, modes=10**6), TwoLayerLinear(width=2 * 10**5), GradientFlow()), [1.0], seeds=1)
    long = Problem(Isotropic(modes=1000), TwoLayerLinear(width=1000), GradientDescent(0.1))
    with pytest.raises(TooLarge, match="hours of computation"):
        train(long, [10**9], seeds=1)


def test_an_interrupt_keeps_finished_seeds(monkeypatch):
    monkeypatch.setattr("foretrain.training._budget.cores", lambda: 1)
    problem = Problem(TASK, TwoLayerLinear(width=4), GradientFlow())

    def stop(done, total, label):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(TrainingInterrupted) as caught:
        train(problem, [3.0], seeds=4, progress=stop)
    assert caught.value.curves.attrs["seeds"] == 2
    assert "readout_norm" in caught.value.curves


def test_a_study_file_on_the_command_line(tmp_path, capsys):
    path = tmp_path / "study.toml"
    path.write_text(
        """
        task = {kind = "power-law", capacity = 1.5, source = 0.5, modes = 40, noise = 0.1}
        model = {kind = "two-layer-linear", width = [4, 8], richness = [0, 2]}
        [training]
        protocol = "gradient-flow"
        samples = [16, inf]
        times = [0, 2.5, inf]
        seeds = 3
        """
    )
    assert main(["train", str(path), "--no-store", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["dims"]["readout_norm"] == ["width", "richness", "samples", "time"]
    assert np.shape(found["data"]["readout_norm_stderr"]) == (2, 2, 2, 3)
    assert main(["train", str(path), "--no-store"]) == 0
    assert "two-layer-linear" in capsys.readouterr().out


THEORY = {
    "population": (PowerLaw(1.2, 0.6, modes=600, noise=0.1), GradientFlow()),
    "samples": (PowerLaw(1.2, 0.6, modes=600, noise=0.1), GradientFlow(samples=[100, 300])),
    "groups": (
        SpectrumTask([1.0, 0.3, 0.05], [1 / 300, 2 / 300, 4 / 300], [100, 200, 300], noise=0.1),
        GradientFlow(samples=[150, 300]),
    ),
    "steps": (PowerLaw(1.2, 0.6, modes=600, noise=0.1), GradientDescent(0.05, samples=[150, INF])),
    "fresh batches": (PowerLaw(1.2, 0.6, modes=600, noise=0.1), OnePassSGD(0.02, batch_size=32)),
}


@pytest.mark.long
@pytest.mark.parametrize("name", THEORY)
def test_theory(name):
    task, training = THEORY[name]
    problem = Problem(task, TwoLayerLinear(width=[200, INF], richness=[0, 1, 10]), training)
    times = [5, 20, 80] if training.discrete else [0.5, 2.0, 8.0, 50.0]
    compared = compare(problem, times, seeds=24, seed=100)
    assert compared.training.coords["width"].tolist() == [200]
    for loss in ("test_loss", "train_loss"):
        assert np.max(np.abs(compared.error.values(f"{loss}_z"))) < 4
        assert np.median(compared.error.values(f"{loss}_stderr")) < 0.04
    gap = compared.theory.values("readout_norm")[:1] - compared.training.values("readout_norm")
    assert np.max(np.abs(gap / compared.training.values("readout_norm_stderr"))) < 4


@pytest.mark.long
def test_theory_on_the_command_line(tmp_path, capsys):
    path = tmp_path / "study.toml"
    path.write_text(
        """
        task = {kind = "power-law", capacity = 1.2, source = 0.6, modes = 400, noise = 0.1}
        model = {kind = "two-layer-linear", width = [100, inf], richness = [0, 2]}
        [training]
        protocol = "gradient-flow"
        samples = [150, inf]
        times = [0.5, 5, 50]
        seeds = 24
        """
    )
    assert main(["compare", str(path), "--no-store", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["theory"]["coords"]["width"] == [100.0, "inf"]
    assert found["training"]["coords"]["width"] == [100.0]
    assert np.max(np.abs(found["error"]["data"]["test_loss_z"])) < 4
    assert np.max(np.abs(found["error"]["data"]["train_loss_z"])) < 4
