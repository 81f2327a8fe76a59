"""Pairing of theory and training, and the summary of the errors between them."""

import numpy as np
import pytest

from foretrain import Digits, GradientFlow, PowerLaw, Problem, RandomFeatures, Ridge, Study, compare
from foretrain.curves import LearningCurves
from foretrain.errors import InvalidInput, UnsupportedProblem
from foretrain.studies import pair, summarize
from foretrain.studies._compare import trainable_part

LAW = PowerLaw(1.5, 0.6, modes=60)
INF = np.inf


def made(values, stderr=None, **coords):
    dims = tuple(coords)
    variables = {"test_loss": (dims, np.array(values, dtype=float))}
    if stderr is not None:
        variables["test_loss_stderr"] = (dims, np.array(stderr, dtype=float))
    return LearningCurves(variables, {d: np.array(v) for d, v in coords.items()}, {})


def test_error_is_theory_over_measured_less_one():
    pairing = pair(made([2.2, 0.9], time=[1.0, 2.0]), made([2.0, 1.0], [0.1, 0.05], time=[1.0, 2.0]))
    np.testing.assert_allclose(pairing.error.values("test_loss"), [0.1, -0.1])
    np.testing.assert_allclose(pairing.error.values("test_loss_z"), [2.0, -2.0])
    # d(theory / measured) = theory / measured^2 d(measured)
    np.testing.assert_allclose(pairing.error.values("test_loss_stderr"), [2.2 / 4 * 0.1, 0.9 * 0.05])


def test_each_trained_size_meets_theory_at_that_size():
    theory = made([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], width=[4.0, 8.0, INF], time=[1.0, 2.0])
    training = made([[4.0, 3.0]], [[0.1, 0.1]], width=[8.0], time=[2.0, 1.0])
    np.testing.assert_allclose(pair(theory, training).error.values("test_loss"), [[0.0, 0.0]])


def test_results_of_different_grids_are_refused():
    theory = made([1.0], time=[1.0])
    with pytest.raises(InvalidInput, match=r"compare\(test_loss\): training has time = 2\.0, which theory has not"):
        pair(theory, made([1.0], time=[2.0]))
    with pytest.raises(InvalidInput, match="theory has the dimensions"):
        pair(theory, made([1.0], width=[1.0]))
    with pytest.raises(InvalidInput, match="share no loss"):
        pair(theory, LearningCurves({}, {}, {}))


def test_points_that_cannot_be_compared_are_left_out_and_counted():
    theory = made([INF, 1.0, 0.0, 1.02], time=[1.0, 2.0, 3.0, 4.0])
    training = made([INF, np.nan, 0.0, 1.0], [np.nan, np.nan, 0.0, 0.005], time=[1.0, 2.0, 3.0, 4.0])
    (row,) = summarize(pair(theory, training))
    assert (row.points, row.left_out) == (1, 3)
    assert row.worst == pytest.approx(0.02)
    assert row.where == {"time": 4.0}
    assert row.beyond_noise == pytest.approx(0.02 - 2 * 0.005)
    assert row.noise == pytest.approx(0.005)
    assert row.within == 0.0  # z = 4


def test_rounding_is_not_compared():
    pairing = pair(made([1.0, 3e-20, 3e-12], time=[1.0, 2.0, 3.0]), made([1.0, 1e-20, 3e-12], time=[1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(pairing.error.values("test_loss"), [0.0, np.nan, 0.0])
    assert summarize(pairing, floor=0.0)[0].left_out == 1


def test_losses_on_their_way_to_zero_are_left_out_of_the_summary():
    pairing = pair(made([1.0, 2e-4, 2e-2], time=[1.0, 2.0, 3.0]), made([1.0, 1e-4, 1e-2], time=[1.0, 2.0, 3.0]))
    (row,) = summarize(pairing)
    assert (row.points, row.left_out, row.where) == (2, 1, {"time": 3.0})
    np.testing.assert_allclose(pairing.error.values("test_loss"), [0.0, 1.0, 1.0])  # the error itself is all there


def test_nothing_comparable_is_said():
    (row,) = summarize(pair(made([INF], time=[1.0]), made([INF], time=[1.0])))
    assert (row.points, row.left_out) == (0, 1)


def test_one_seed_gives_errors_without_noise():
    (row,) = summarize(pair(made([1.1], time=[1.0]), made([1.0], [np.nan], time=[1.0])))
    assert row.median == pytest.approx(0.1)
    assert np.isnan(row.noise)
    assert np.isnan(row.within)


class TestTrainablePart:
    def test_everything_trainable_keeps_the_problem(self):
        problem = Problem(LAW, RandomFeatures(width=[4, 8]), GradientFlow(samples=[6, INF]))
        assert trainable_part(problem) == problem

    def test_infinite_samples_of_data_are_left_out_and_stay_an_axis(self):
        problem = Problem(Digits(), RandomFeatures(width=[4, 8]), GradientFlow(samples=[6, INF]))
        assert trainable_part(problem).axes() == {"width": (4.0, 8.0), "samples": (6.0,)}

    def test_nothing_trainable_names_solve(self):
        problem = Problem(Digits(), RandomFeatures(width=4), GradientFlow(samples=INF))
        with pytest.raises(UnsupportedProblem, match=r"no size of this problem can be trained .*`solve`"):
            trainable_part(problem)

    def test_infinite_modes_are_told(self):
        problem = Problem(PowerLaw(1.5, 0.6), RandomFeatures(width=4), GradientFlow(samples=8))
        with pytest.raises(UnsupportedProblem, match="modes = inf cannot be drawn"):
            trainable_part(problem)


def test_compare_with_everything_pretended(pretended_limit):
    problem = Problem(LAW, RandomFeatures(width=[4.5, 8]), GradientFlow(samples=[6, 12]))
    found = compare(problem, [0.0, 1.0], seeds=3)
    assert found.theory.coords["width"].tolist() == [4.5, 8.0]
    assert found.training.coords["width"].tolist() == [8.0]  # 4.5 features are for theory only
    assert found.error.dims["test_loss"] == ("width", "samples", "time")
    assert found.training.attrs["seeds"] == 3


def test_a_study_brings_its_own_times_and_seeds(pretended_limit):
    study = Study(Problem(LAW, RandomFeatures(width=8), GradientFlow(samples=6)), times=[1.0], seeds=2)
    assert compare(study).training.attrs["seeds"] == 2
    assert compare(study, seeds=4).training.attrs["seeds"] == 4
    with pytest.raises(InvalidInput, match=r"compare\(times\): a study has its own times"):
        compare(study, [1.0])


def test_protocol_without_time(pretended_limit):
    found = compare(Problem(LAW, RandomFeatures(width=[4, 8]), Ridge(0.1, samples=6)), seeds=2)
    assert found.error.dims["test_loss"] == ("width",)
