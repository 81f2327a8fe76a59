"""Pooling of seeds, interruption, and what a study's results carry."""

import numpy as np
import pytest

from foretrain import GradientDescent, GradientFlow, PowerLaw, Problem, RandomFeatures, Study, train
from foretrain.errors import ForetrainWarning
from foretrain.studies import parse_study, solve_study, train_study
from foretrain.studies._run import pool
from foretrain.training import TrainingInterrupted

LAW = PowerLaw(1.5, 0.6, modes=60, noise=[0.0, 0.1])
FLOW = Problem(LAW, RandomFeatures(width=[4, 8]), GradientFlow(samples=[6, 12]))


@pytest.mark.parametrize("sizes", [(3, 4), (1, 6), (1, 1, 5), (2, 2, 2, 1)])
def test_pooled_pieces_are_one_training(sizes):
    whole = train(FLOW, [1.0, 10.0], seeds=7, seed=3)
    starts = 3 + np.cumsum((0, *sizes[:-1]))
    pieces = [train(FLOW, [1.0, 10.0], seeds=n, seed=int(s)) for n, s in zip(sizes, starts, strict=True)]
    pooled = pool(pieces)
    assert pooled.attrs["seeds"] == 7
    assert pooled.attrs["first_seed"] == 3
    assert pooled.dims == whole.dims
    for name in whole.variables:
        if name == "status":
            np.testing.assert_array_equal(pooled.values(name), whole.values(name))
        else:  # sums in another order: rounding of the largest terms only
            scale = np.max(np.abs(whole.values(name)))
            np.testing.assert_allclose(pooled.values(name), whole.values(name), rtol=1e-12, atol=1e-14 * scale)


def test_one_seed_has_no_standard_error():
    assert np.all(np.isnan(train_study(Study(FLOW, times=[1.0], seeds=1)).values("test_loss_stderr")))


def test_a_diverged_seed_makes_the_point_diverged(monkeypatch):
    problem = Problem(LAW, RandomFeatures(width=[4, 8]), GradientDescent([0.1, 1e3], samples=12))
    monkeypatch.setattr("foretrain.training._sampling.cores", lambda: 2)
    with pytest.warns(ForetrainWarning, match="max_stable_lr") as heard:
        pooled = train_study(Study(problem, times=[0, 500], seeds=4))
    assert len(heard) == 1  # once for both pieces
    status = pooled.values("status")
    assert pooled.dims["status"] == ("noise", "width", "learning_rate")
    assert np.all(status[..., 0] == "ok")
    assert np.all(status[..., 1] == "diverged")
    assert np.all(np.isinf(pooled.values("test_loss")[..., 1, 1]))
    assert len(pooled.messages) == 1
    assert "max_stable_lr" in pooled.messages[0]


def test_results_carry_the_study_that_made_them(pretended_limit):
    study = Study(FLOW, times=[1.0, 10.0], seeds=2, title="mine")
    for curves in (solve_study(study), train_study(study)):
        assert parse_study(curves.attrs["study"]) == study


def test_interruption_keeps_the_finished_seeds(monkeypatch):
    import foretrain.training as training

    real = training.train

    def interrupted(problem, times, **options):
        if options["seed"] >= 4:
            raise KeyboardInterrupt
        return real(problem, times, **options)

    monkeypatch.setattr(training, "train", interrupted)
    monkeypatch.setattr("foretrain.training._sampling.cores", lambda: 2)
    with pytest.raises(TrainingInterrupted) as caught:
        train_study(Study(FLOW, times=[1.0], seeds=10))
    monkeypatch.undo()
    four = train(FLOW, [1.0], seeds=4)
    assert caught.value.curves.attrs["seeds"] == 4
    np.testing.assert_allclose(caught.value.curves.values("test_loss"), four.values("test_loss"), rtol=1e-14)


def test_interruption_before_anything_is_plain(monkeypatch):
    import foretrain.training as training

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        train_study(Study(FLOW, times=[1.0], seeds=2))
    assert not isinstance(caught.value, TrainingInterrupted)


def test_progress_counts_seeds(monkeypatch):
    monkeypatch.setattr("foretrain.training._sampling.cores", lambda: 2)
    seen = []
    train_study(Study(FLOW, times=[1.0], seeds=5), progress=lambda done, total, label: seen.append((done, total)))
    assert all(total == 5 for _, total in seen)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (5, 5)
