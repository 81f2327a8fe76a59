"""Problems, protocols, schedules and times."""

import numpy as np
import pytest

from foretrain import (
    DeepLinear,
    Digits,
    GradientDescent,
    GradientFlow,
    Isotropic,
    Kernel,
    OnePassSGD,
    PowerLaw,
    Problem,
    RandomFeatures,
    Ridge,
    Schedule,
    TwoLayerLinear,
)
from foretrain._declaration import WrongKey
from foretrain.errors import InvalidInput, TooLarge
from foretrain.problems import MODELS, PROTOCOLS, protocol_named, protocol_times, read_times

LAW = PowerLaw(1.5, 0.6, noise=[0.0, 0.1])


def test_axes_come_in_the_order_task_model_training():
    problem = Problem(LAW, RandomFeatures(width=[8, 16, 32]), GradientFlow(samples=[4, 5]))
    assert list(problem.axes()) == ["noise", "width", "samples"]
    assert problem.shape == (2, 3, 2)


def test_one_entry_is_still_an_axis():
    assert Problem(PowerLaw(1.5, 0.6), RandomFeatures(width=[8]), GradientFlow()).shape == (1,)


def test_points_run_with_the_last_axis_fastest():
    problem = Problem(LAW, RandomFeatures(width=8), GradientFlow(samples=[4, 5]))
    points = list(problem.points())
    assert [index for index, _ in points] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [(p.task.noise, p.training.samples) for _, p in points] == [(0.0, 4), (0.0, 5), (0.1, 4), (0.1, 5)]
    assert all(p.axes() == {} for _, p in points)


def test_select_some_axes():
    problem = Problem(LAW, RandomFeatures(width=[8, 16]), GradientFlow(samples=[4, 5]))
    assert problem.select({"noise": 0.1}).axes() == {"width": (8.0, 16.0), "samples": (4.0, 5.0)}


def test_grids_that_fit_nowhere_say_their_size():
    sizes = list(range(1, 3001))
    problem = Problem(PowerLaw(1.5, 0.6), RandomFeatures(width=sizes), GradientFlow(samples=sizes))
    with pytest.raises(TooLarge, match=r"3000 width x 3000 samples x 10 times has 9000000 points and 9e[+]07 values"):
        problem.check_size(10, "solve")
    single = Problem(PowerLaw(1.5, 0.6), RandomFeatures(width=8), GradientFlow(samples=4))
    single.check_size(10**6, "solve")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Problem("x", RandomFeatures(width=8), Ridge(0.1)), "task: expected a task declaration, got 'x'"),
        (
            lambda: Problem(LAW, RandomFeatures(width=8, activation="relu"), Ridge(0.1)),
            "RandomFeatures: activation: means nothing on a 'power-law' task",
        ),
        (lambda: Problem(LAW, Kernel(kernel="ntk"), Ridge(0.1)), "Kernel: kernel: means nothing"),
        (
            lambda: Problem(Digits(), RandomFeatures(width=8), Ridge(0.1, samples=2.5)),
            "samples: expected a whole number of rows of the data, got 2.5",
        ),
        (
            lambda: Problem(Isotropic(), DeepLinear(2), GradientDescent(0.1, samples=5)),
            "GradientDescent: samples: means nothing for the model 'deep-linear'; use 'sample_ratio'",
        ),
        (
            lambda: Problem(Isotropic(), DeepLinear(2), GradientFlow(samples=5)),
            "GradientFlow: samples: means nothing for the model 'deep-linear'; leave it out",
        ),
        (
            lambda: Problem(Isotropic(), DeepLinear(2), OnePassSGD(0.1, 5)),
            "OnePassSGD: batch_size: means nothing for the model 'deep-linear'; use 'batch_ratio'",
        ),
        (
            lambda: Problem(LAW, TwoLayerLinear(8), GradientDescent(0.1, sample_ratio=2)),
            "GradientDescent: sample_ratio: means nothing for the model 'two-layer-linear'; use 'samples'",
        ),
        (
            lambda: Problem(LAW, RandomFeatures(8), OnePassSGD(0.1, batch_ratio=2)),
            "OnePassSGD: batch_ratio: means nothing for the model 'random-features'; use 'batch_size'",
        ),
    ],
)
def test_parts_that_do_not_fit(make, words):
    with pytest.raises(InvalidInput, match=words):
        make()


def test_depth_is_a_key_of_deep_linear_networks_on_spectra():
    problem = Problem(
        Isotropic(), DeepLinear([1, 2], width_ratio=[0.5, np.inf]), GradientDescent(0.1, sample_ratio=[2])
    )
    assert list(problem.axes()) == ["depth", "width_ratio", "sample_ratio"]


def test_registries_name_every_kind():
    assert all(cls.kind == kind for table in (MODELS, PROTOCOLS) for kind, cls in table.items())
    assert protocol_named("ridge") is Ridge
    with pytest.raises(ValueError, match="did you mean 'gradient-flow'"):
        protocol_named("gradient-flo")


class TestSchedule:
    def test_constant(self):
        np.testing.assert_array_equal(Schedule("constant").factors(3), [1, 1, 1])

    def test_warmup_rises_linearly_and_never_starts_at_zero(self):
        np.testing.assert_allclose(Schedule("constant", warmup=3).factors(5), [0.25, 0.5, 0.75, 1, 1], rtol=1e-15)

    @pytest.mark.parametrize("shape", ["linear", "cosine", "wsd"])
    def test_ends_at_final_and_stays(self, shape):
        factors = Schedule(shape, steps=10, final=0.25).factors(13)
        np.testing.assert_allclose(factors[10:], 0.25, rtol=1e-15)
        assert np.all(np.diff(factors) <= 1e-15)
        assert factors[0] == 1

    def test_cosine_is_half_way_in_the_middle(self):
        assert Schedule("cosine", steps=10).factors(11)[5] == pytest.approx(0.5, abs=1e-15)

    def test_wsd_is_stable_before_its_decay(self):
        factors = Schedule("wsd", steps=10, decay=4).factors(11)
        np.testing.assert_allclose(factors, [1] * 7 + [0.75, 0.5, 0.25, 0], atol=1e-15)

    def test_name_or_table_make_a_schedule(self):
        assert GradientDescent(0.1, schedule="constant").schedule == Schedule("constant")
        assert GradientDescent(0.1, schedule={"shape": "linear", "steps": 5}).schedule == Schedule("linear", 5)
        with pytest.raises(InvalidInput, match=r"schedule: .*stepz"):
            GradientDescent(0.1, schedule={"shape": "linear", "stepz": 5})


class TestTimes:
    def test_log_and_linear_ranges(self):
        np.testing.assert_allclose(
            read_times({"start": 1, "stop": 100, "points": 3}, discrete=False), [1, 10, 100], rtol=1e-14
        )
        linear = {"start": 0, "stop": 1, "points": 3, "spacing": "linear"}
        np.testing.assert_allclose(read_times(linear, discrete=False), [0, 0.5, 1])

    def test_ranges_of_steps_are_rounded_and_unique(self):
        times = read_times({"start": 1, "stop": 10, "points": 50}, discrete=True)
        np.testing.assert_array_equal(times, np.arange(1, 11))

    def test_lists_keep_their_order_and_may_end_at_infinity(self):
        np.testing.assert_array_equal(read_times([5, 0, np.inf], discrete=True), [5, 0, np.inf])

    @pytest.mark.parametrize(
        ("value", "discrete", "words"),
        [
            ([1.5], True, "expected whole numbers of steps, got 1.5"),
            ([-1.0], False, "expected times >= 0, got -1"),
            ([float("nan")], False, "expected times >= 0, got nan"),
            ([], False, "expected a non-empty list"),
            ([1, 1], False, "expected distinct times"),
            ([[1], [2]], False, "expected a non-empty list"),
            ([True], False, "expected a list of numbers"),
            (["1"], False, "expected a list of numbers"),
            ("5", False, "expected a list of numbers"),
            ({"start": [1], "stop": 2, "points": 2}, False, "expected a finite number for 'start'"),
            ("soon", False, "expected a list of numbers"),
            ([1, "x"], False, "expected a list of numbers"),
            ([1e17], True, r"expected steps below 2\^53"),
            ({"start": 1, "stop": 2}, False, "a range needs 'points'"),
            ({"start": 1, "stop": 2, "point": 3}, False, "unknown key 'point'; did you mean 'points'"),
            ({"start": 1, "stop": 2, "points": 2, "spacing": "lin"}, False, "spacing 'log' or 'linear'"),
            ({"start": 1, "stop": 2, "points": 2, "spacing": 3}, False, "spacing 'log' or 'linear'"),
            ({"start": 1, "stop": 2, "points": 2, "spacing": ["log"]}, False, "spacing 'log' or 'linear'"),
            ({"start": 0, "stop": 2, "points": 2}, False, "expected start > 0 for log spacing"),
            ({"start": 3, "stop": 2, "points": 2}, False, "expected 0 <= start < stop"),
            ({"start": -3, "stop": 2, "points": 2, "spacing": "linear"}, False, "expected 0 <= start < stop"),
            ({"start": 1, "stop": float("inf"), "points": 2}, False, "expected a finite number for 'stop'"),
            ({"start": "1", "stop": 2, "points": 2}, False, "expected a finite number for 'start'"),
            ({"start": 1, "stop": 10**400, "points": 2}, False, "expected a finite number for 'stop'"),
            ({"start": 1, "stop": 2, "points": 0}, False, "expected between 1 and 1000000 points"),
            ({"start": 1, "stop": 2, "points": 2.5}, False, "expected between 1 and 1000000 points"),
        ],
    )
    def test_wrong_times(self, value, discrete, words):
        with pytest.raises(WrongKey, match=words):
            read_times(value, discrete=discrete)

    def test_ridge_has_no_time(self):
        assert protocol_times(Ridge(0.1), None, "solve") is None
        with pytest.raises(WrongKey, match="'ridge' has no time"):
            protocol_times(Ridge(0.1), [1.0], "solve")

    def test_flows_need_times(self):
        with pytest.raises(WrongKey, match="times: missing; 'gradient-flow' needs"):
            protocol_times(GradientFlow(), None, "solve")
