"""The door `train`: grids, labels, seeds, refusals, divergence, interruption."""

import numpy as np
import pytest

from foretrain import (
    Arrays,
    Digits,
    GradientDescent,
    GradientFlow,
    Isotropic,
    Kernel,
    Momentum,
    MomentumFlow,
    PowerLaw,
    Problem,
    RandomFeatures,
    Ridge,
    Schedule,
    SpectrumTask,
    train,
)
from foretrain.curves import LearningCurves
from foretrain.errors import ForetrainWarning, InvalidInput, TooLarge, UnsupportedProblem
from foretrain.training import TrainingInterrupted, untrainable

TASK = PowerLaw(1.5, 0.6, modes=60, noise=0.1)
INF = float("inf")


def test_dimensions_follow_the_axes():
    problem = Problem(
        PowerLaw(1.5, [0.6, 0.8], modes=40, noise=[0.0, 0.2]),
        RandomFeatures(width=[6, INF], ensemble=[1, 2]),
        Momentum(learning_rate=[0.1, 0.2, 0.3], momentum=[0.0, 0.5], samples=[10, 20, INF, 9]),
    )
    curves = train(problem, [0, 4, 2], seeds=3)
    assert curves.dims["test_loss"] == (*problem.axes(), "time")
    assert curves.values("test_loss").shape == (*problem.shape, 3)
    assert curves.dims["status"] == tuple(problem.axes())
    assert curves.dims["max_stable_lr"] == ("source", "width", "momentum", "samples")
    assert curves.status == "ok"
    # Every point of the grid is what the same point alone gives.
    for index, point in list(problem.points())[::23]:
        alone = train(point, [0, 4, 2], seeds=3)
        for name in ("test_loss", "train_loss", "test_loss_stderr"):
            np.testing.assert_allclose(curves.values(name)[index], alone.values(name), rtol=1e-9, atol=1e-12)
        edge = curves["max_stable_lr"].isel(source=index[0], width=index[2], momentum=index[5], samples=index[6])
        np.testing.assert_allclose(edge, alone.values("max_stable_lr"), rtol=1e-9)


def test_single_values_go_to_attributes():
    curves = train(Problem(TASK, RandomFeatures(width=8), Ridge(ridge=0.1, samples=12)), seeds=2)
    assert curves.dims["test_loss"] == ()
    assert curves.attrs["width"] == 8.0
    assert curves.attrs["ridge"] == 0.1
    assert curves.attrs["training"] == "ridge"
    assert "max_stable_lr" not in curves


def test_seeds_repeat_and_average():
    problem = Problem(TASK, RandomFeatures(width=8), GradientFlow(samples=12))
    both = train(problem, [5.0], seeds=2, seed=4)
    singles = [train(problem, [5.0], seeds=1, seed=s).values("test_loss")[0] for s in (4, 5)]
    np.testing.assert_allclose(both.values("test_loss")[0], np.mean(singles), rtol=1e-12)
    np.testing.assert_allclose(both.values("test_loss_stderr")[0], abs(singles[0] - singles[1]) / 2, rtol=1e-9)
    assert np.isnan(train(problem, [5.0], seeds=1).values("test_loss_stderr")[0])


def test_initial_losses():
    """At time 0 the test loss is the target's power, exactly; the train loss adds the noise, on average."""
    task = PowerLaw(1.5, 0.6, modes=60, noise=0.5)
    curves = train(Problem(task, RandomFeatures(width=8), GradientFlow(samples=50)), [0.0], seeds=200)
    power = task.spectrum().to_spectrum().total_power
    np.testing.assert_allclose(curves.values("test_loss")[0], power, rtol=1e-14)
    z = (curves.values("train_loss")[0] - power - 0.5) / curves.values("train_loss_stderr")[0]
    assert abs(z) < 4


def test_divergence_is_a_value_that_names_the_edge():
    problem = Problem(TASK, RandomFeatures(width=8), GradientDescent(learning_rate=[0.5, 40.0], samples=12))
    with pytest.warns(ForetrainWarning, match="edge of stability"):
        curves = train(problem, [0, 10], seeds=3)
    assert curves.values("status").tolist() == ["ok", "diverged"]
    assert np.isinf(curves.values("test_loss")[1, 1])
    assert np.isfinite(curves.values("test_loss")[0]).all()
    assert np.isnan(curves.values("test_loss_stderr")[1, 1])
    assert f"{curves.values('max_stable_lr').item():.4g}" in curves.messages[0]
    assert curves.status == "partial"


@pytest.mark.parametrize(
    "protocol",
    [
        GradientFlow(samples=12),
        MomentumFlow(momentum=2.0, samples=12),
        GradientDescent(learning_rate=0.3, samples=12),
        GradientDescent(learning_rate=0.3, samples=12, schedule=Schedule("constant", warmup=3)),
        Momentum(learning_rate=0.3, momentum=0.5, samples=12),
    ],
)
def test_every_protocol_ends_at_least_squares(protocol):
    """Without a penalty all protocols share the minimum-norm end point."""
    end = train(Problem(TASK, RandomFeatures(width=8), protocol), [INF], seeds=2)
    least = train(Problem(TASK, RandomFeatures(width=8), Ridge(ridge=0.0, samples=12)), seeds=2)
    for name in ("test_loss", "train_loss"):
        np.testing.assert_allclose(end.values(name)[0], least.values(name), rtol=1e-12)


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (Problem(PowerLaw(1.5, 0.6), RandomFeatures(width=8), GradientFlow(samples=9)), "modes = inf"),
        (Problem(TASK, RandomFeatures(width=8.5), GradientFlow(samples=9)), "8.5 is not a whole number"),
        (Problem(TASK, RandomFeatures(width=8), GradientFlow(samples=9.5)), "9.5 is not a whole number"),
        (Problem(SpectrumTask([1.0], [1.0], [2.5]), RandomFeatures(width=8), GradientFlow()), "fractions of modes"),
        (Problem(Digits(), RandomFeatures(width=8), GradientFlow(samples=INF)), "only as many rows"),
        (Problem(Digits(), Kernel(width=8), GradientFlow(samples=9)), "random-features"),
    ],
)
def test_sizes_that_cannot_be_trained(problem, reason):
    assert reason in untrainable(problem)
    with pytest.raises(UnsupportedProblem, match="`solve`"):
        train(problem, [1.0])


def test_sizes_that_can_be_trained():
    for problem in (
        Problem(TASK, RandomFeatures(width=INF), GradientFlow()),
        Problem(Isotropic(modes=3), Kernel(), GradientFlow(samples=9)),
        Problem(Digits(), Kernel(), GradientFlow(samples=9)),
        Problem(Digits(), RandomFeatures(width=INF), GradientFlow(samples=9)),
    ):
        assert untrainable(problem) is None


def test_wrong_seeds_and_sizes():
    problem = Problem(TASK, RandomFeatures(width=8), GradientFlow(samples=9))
    for arguments in ({"seeds": 0}, {"seeds": 2.5}, {"seeds": True}, {"seed": -1}, {"seed": 2**32}):
        with pytest.raises(InvalidInput, match="train\\(seed"):
            train(problem, [1.0], **arguments)
    with pytest.raises(InvalidInput, match="whole numbers of steps"):
        train(Problem(TASK, RandomFeatures(width=8), GradientDescent(learning_rate=0.1)), [0.5])
    with pytest.raises(TooLarge, match="GB"):
        train(Problem(PowerLaw(1.5, 0.6, modes=10**6), RandomFeatures(width=10**6), GradientFlow(samples=9)), [1.0])
    with pytest.raises(TooLarge, match="hours"):
        train(Problem(PowerLaw(1.5, 0.6, modes=10**9), RandomFeatures(width=4000), GradientFlow(samples=9)), [1.0])


def _arrays(rows=40, test_rows=None):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((rows, 5)), rng.standard_normal((rows, 2))
    if test_rows is None:
        return Arrays(inputs=x, targets=y)
    return Arrays(
        inputs=x,
        targets=y,
        test_inputs=rng.standard_normal((test_rows, 5)),
        test_targets=rng.standard_normal((test_rows, 2)),
    )


def test_rows_of_data():
    model = RandomFeatures(width=8)
    with pytest.raises(InvalidInput, match="at most 39 of the 40 rows of arrays, as the rest is tested on, got 40"):
        train(Problem(_arrays(), model, GradientFlow(samples=40)), [1.0])
    with pytest.raises(InvalidInput, match="none be left to test on"):
        train(Problem(_arrays(), model, GradientFlow()), [1.0])
    with pytest.raises(InvalidInput, match="at most 40 of the 40 rows of arrays, got 41"):
        train(Problem(_arrays(test_rows=7), model, GradientFlow(samples=41)), [1.0])
    whole = train(Problem(_arrays(test_rows=7), model, GradientFlow()), [1.0], seeds=2)
    stated = train(Problem(_arrays(test_rows=7), model, GradientFlow(samples=40)), [1.0], seeds=2)
    np.testing.assert_array_equal(whole.values("test_loss"), stated.values("test_loss"))


def test_progress_and_interruption():
    problem = Problem(TASK, RandomFeatures(width=8), GradientFlow(samples=12))
    calls = []
    train(problem, [5.0], seeds=4, progress=lambda *call: calls.append(call))
    assert [c[:2] for c in calls] == [(i, 4) for i in range(5)]

    def stop(done, total, label):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(TrainingInterrupted) as caught:
        train(problem, [5.0], seeds=4, progress=stop)
    kept = caught.value.curves
    assert kept.attrs["seeds"] == 2
    assert np.isfinite(kept.values("test_loss_stderr")).all()

    def stop_at_once(done, total, label):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        train(problem, [5.0], seeds=4, progress=stop_at_once)
    assert not isinstance(caught.value, TrainingInterrupted)


def test_result_survives_a_file(tmp_path):
    curves = train(Problem(TASK, RandomFeatures(width=[4, 8]), GradientFlow(samples=12)), [1.0, 2.0], seeds=2)
    curves.save(tmp_path / "curves.nc")
    again = LearningCurves.load(tmp_path / "curves.nc")
    np.testing.assert_array_equal(curves.values("test_loss"), again.values("test_loss"))
    assert again.attrs["seeds"] == 2
