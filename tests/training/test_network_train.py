"""`train` on grids of networks: dimensions, labels, status, seeds, interruption, study files and the command line."""

import json

import numpy as np
import pytest

from foretrain import Study, train
from foretrain.cli import main
from foretrain.curves import LearningCurves
from foretrain.errors import ForetrainWarning, InvalidInput, UnsupportedProblem
from foretrain.problems import MLP, NetworkTraining, Problem, Schedule
from foretrain.studies import Store, train_study
from foretrain.tasks import Arrays
from foretrain.training import TrainingInterrupted

RNG = np.random.default_rng(0)
INPUTS, LABELS = RNG.standard_normal((40, 5)), RNG.integers(0, 3, 40)
TASK = Arrays(inputs=INPUTS, targets=np.eye(3)[LABELS])
TRAINING = NetworkTraining(learning_rate=0.1, optimizer="momentum", batch_size=7, samples=30)
TIMES = [0, 6, 3]


def test_dimensions_follow_the_axes():
    schedules = [Schedule("constant", warmup=2), Schedule("cosine", steps=6)]
    training = TRAINING.replace(learning_rate=[0.05, 0.1], schedule=schedules, momentum=[0.5, 0.9])
    problem = Problem(TASK, MLP(width=[4, 8]), training)
    curves = train(problem, TIMES, seeds=2)
    axes = ("width", "learning_rate", "schedule", "momentum")
    assert tuple(problem.axes()) == axes
    assert curves.dims["test_loss"] == (*axes, "time")
    assert curves.dims["accuracy_stderr"] == (*axes, "time")
    assert curves.dims["status"] == axes
    assert curves.coords["schedule"].tolist() == ["constant, warmup 2", "cosine, 6 steps"]
    assert curves.status == "ok"
    for index, point in list(problem.points())[6::5]:
        alone = train(point, TIMES, seeds=2)
        for name in ("test_loss", "train_loss", "accuracy"):
            # float32 over six steps; batched products may round otherwise.
            np.testing.assert_allclose(curves.values(name)[index], alone.values(name), rtol=1e-5)
    networks = curves.attrs["networks"]
    assert [n["width"] for n in networks] == [4] * 2 + [8] * 2
    assert networks[0]["parameters"] == 4 * (5 + 4 + 3)
    assert networks[0]["flops_per_step"] == 6 * 7 * networks[0]["parameters"]
    assert networks[0]["steps_per_second"] > 0


def test_seeds_average_and_pool(tmp_path):
    problem = Problem(TASK, MLP(width=8), TRAINING.replace(learning_rate=[0.05, 0.1]))
    curves = train(problem, TIMES, seeds=3, seed=2)
    singles = [train(problem, TIMES, seeds=1, seed=s).values("test_loss") for s in (2, 3, 4)]
    np.testing.assert_allclose(curves.values("test_loss"), np.mean(singles, axis=0), rtol=1e-6)
    spread = np.std(singles, axis=0, ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(curves.values("test_loss_stderr"), spread, rtol=1e-3)
    study = Study(problem, times=TIMES, seeds=3, seed=2)
    stored = train_study(study, store=Store(tmp_path))
    for name in ("test_loss", "test_loss_stderr", "accuracy", "accuracy_stderr"):
        np.testing.assert_allclose(stored.values(name), curves.values(name), rtol=1e-3, atol=1e-7)
    again = train_study(study, store=Store(tmp_path))
    np.testing.assert_array_equal(again.values("test_loss"), stored.values("test_loss"))
    path = tmp_path / "curves.nc"
    stored.save(path)
    assert LearningCurves.load(path).attrs["networks"] == stored.attrs["networks"]


def test_divergence_is_a_value(tmp_path):
    problem = Problem(TASK, MLP(width=8, activation="linear"), TRAINING.replace(learning_rate=[0.05, 1e4]))
    with pytest.warns(ForetrainWarning, match="1 of 2 points diverged"):
        curves = train(problem, TIMES, seeds=2)
    assert curves.values("status").tolist() == ["ok", "diverged"]
    assert np.isinf(curves.values("test_loss")[1, 1])
    assert np.isnan(curves.values("test_loss_stderr")[1, 1])
    assert np.isfinite(curves.values("test_loss")[0]).all()
    with pytest.warns(ForetrainWarning, match="1 of 2 points diverged"):
        pooled = train_study(Study(problem, times=TIMES, seeds=3))
    assert len(pooled.messages) == 1


def test_targets_without_classes_have_no_accuracy():
    curves = train(Problem(Arrays(inputs=INPUTS, targets=INPUTS[:, 0]), MLP(width=8), TRAINING), TIMES, seeds=1)
    assert "accuracy" not in curves


def test_refusals():
    problem = Problem(TASK, MLP(width=8), TRAINING)
    with pytest.raises(InvalidInput, match="finite numbers of steps for 'network'"):
        train(problem, [np.inf])
    with pytest.raises(InvalidInput, match="whole numbers of steps"):
        train(problem, [0.5])
    with pytest.raises(UnsupportedProblem, match="train: infinitely large networks cannot be trained"):
        train(Problem(TASK, MLP(width=[8, np.inf]), TRAINING), TIMES)


def test_an_interrupt_keeps_finished_seeds(monkeypatch):
    problem = Problem(TASK, MLP(width=8), TRAINING)
    monkeypatch.setattr("foretrain.training._network_plan._SMALL_STEP", 0.0)
    monkeypatch.setattr("foretrain.training._network_plan.cores", lambda: 1)
    monkeypatch.setattr("foretrain.training._network_plan._MOST_TOGETHER", 1)

    def stop(done, total, label):
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(TrainingInterrupted) as caught:
        train(problem, TIMES, seeds=4, progress=stop)
    assert caught.value.curves.attrs["seeds"] == 2


def test_a_study_file_on_the_command_line(tmp_path, capsys):
    np.savez(tmp_path / "data.npz", inputs=INPUTS, targets=np.eye(3)[LABELS])
    (tmp_path / "study.toml").write_text(
        """
        task = {kind = "arrays", path = "data.npz"}
        model = {kind = "mlp", width = 8}
        [training]
        optimizer = "adam"
        learning_rate = [0.01, 0.1]
        batch_size = 7
        samples = 30
        loss = "cross-entropy"
        schedule = {shape = "cosine", steps = 6}
        times = [0, 6]
        seeds = 2
        """
    )
    study, output, plot = (str(tmp_path / name) for name in ("study.toml", "curves.nc", "curves.png"))
    assert main(["train", study, "--no-store", "--json", "-o", output, f"--plot={plot}"]) in (0, None)
    table = json.loads(capsys.readouterr().out)
    assert table["dims"]["accuracy"] == ["learning_rate", "time"]
    assert (tmp_path / "curves.png").stat().st_size > 0
    assert LearningCurves.load(output).attrs["loss"] == "cross-entropy"
    assert main(["train", study, "--no-store"]) in (0, None)
    assert "cross-entropies" in capsys.readouterr().out
    assert main(["solve", study, "--no-store"]) == 2
    assert "`train` runs finite models" in capsys.readouterr().err
