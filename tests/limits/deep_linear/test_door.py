"""The door: axes, statuses and messages, outputs, and what is refused in words."""

import warnings

import jax
import numpy as np
import pytest

from foretrain import (
    SGD,
    DeepLinear,
    GradientDescent,
    GradientFlow,
    Isotropic,
    OnePassSGD,
    PowerLaw,
    Problem,
    RandomFeatures,
    SpectrumTask,
    solve,
)
from foretrain.errors import ForetrainWarning, InvalidInput, TooLarge, UnsupportedProblem
from foretrain.limits import find_limit
from foretrain.limits.deep_linear import lr_sweep
from foretrain.limits.deep_linear._solve import diverged_at

INF = float("inf")
MODEL = DeepLinear(depth=2, width_ratio=2.0)


def test_the_door_scopes_precision():
    before = jax.config.read("jax_enable_x64")
    curves = solve(Problem(Isotropic(), MODEL, GradientDescent(0.05)), [0, 2])
    assert jax.config.read("jax_enable_x64") == before
    assert curves.values("test_loss").dtype == np.float64
    assert curves.attrs["solver"] == "deep-linear"


def test_axes_are_single_problems_side_by_side():
    problem = Problem(
        Isotropic(noise=[0.0, 0.3]),
        DeepLinear(depth=[1, 2], width_ratio=[0.5, INF], richness=1.2),
        GradientDescent([0.02, 0.05], sample_ratio=[1.5, INF]),
    )
    curves = solve(problem, [5, 0, 2])
    assert curves.dims["test_loss"] == ("noise", "depth", "width_ratio", "learning_rate", "sample_ratio", "time")
    assert curves.dims["max_stable_lr"] == ("noise", "depth", "width_ratio", "sample_ratio")
    for index, one in problem.points():
        alone = solve(one, [0, 2, 5])
        np.testing.assert_allclose(curves.values("test_loss")[index][[1, 2, 0]], alone.values("test_loss"), rtol=1e-12)
        np.testing.assert_allclose(
            curves.values("train_loss")[index][[1, 2, 0]], alone.values("train_loss"), rtol=1e-12
        )


def test_divergence_is_physical_and_named():
    problem = Problem(Isotropic(), DeepLinear(depth=2, richness=0), GradientDescent([0.1, 0.9]))
    with pytest.warns(ForetrainWarning, match=r"learning_rate = 0.9.*at step 7; max_stable_lr = 0.666667"):
        curves = solve(problem, [0, 3, 6, 7, 20])
    assert curves.values("status").tolist() == ["ok", "diverged"]
    assert curves.status == "partial"
    expected = 1.7 ** (2 * np.array([0.0, 3.0, 6.0]))
    np.testing.assert_allclose(curves.values("test_loss")[1, :3], expected, rtol=1e-10)
    assert expected[-1] < 1e3 < 1.7**14
    assert np.all(np.isinf(curves.values("test_loss")[1, 3:]))


def test_overfitting_is_not_divergence():
    losses = np.array([[1.0, 2.0], [2000.0, 1.0], [3000.0, 0.5]])
    assert diverged_at(losses) == 3
    losses[2, 1] = 2.5
    assert diverged_at(losses) == 2
    losses[1, 0] = np.nan
    assert diverged_at(losses) == 1


def test_layers_of_unequal_depths_are_padded():
    curves = solve(
        Problem(Isotropic(), DeepLinear(depth=[1, 3], width_ratio=2.0), GradientDescent(0.05)),
        [0, 4],
        outputs=("forward_kernel", "backward_kernel", "tangent_kernel"),
    )
    assert curves.dims["forward_kernel"] == ("depth", "layer", "time")
    missing = np.isnan(curves.values("forward_kernel")[:, :, 0])
    assert missing.tolist() == [[False, False, True, True, True], [False, False, False, False, True]]
    forward, backward = (np.nan_to_num(curves.values(name)) for name in ("forward_kernel", "backward_kernel"))
    tangent = np.sum(forward[:, :-1] * backward[:, 1:], 1) / forward[:, 0]
    np.testing.assert_allclose(curves.values("tangent_kernel"), tangent, rtol=1e-12)


def test_shifted_test_inputs():
    shifted = SpectrumTask([1.5, 0.5], [0.7, 1.2], test_eigenvalues=[0.2, 2.0])
    plain = SpectrumTask([1.5, 0.5], [0.7, 1.2])
    ours, theirs = (solve(Problem(task, MODEL, GradientDescent(0.05)), [0, 6]) for task in (shifted, plain))
    np.testing.assert_allclose(ours.values("train_loss"), theirs.values("train_loss"), rtol=1e-12)
    start = 0.5 * (0.2 * 0.7 + 2.0 * 1.2) + 0.5 * 2.2 / 2.0
    assert ours.values("test_loss")[0] == pytest.approx(start, rel=1e-12)


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (Problem(PowerLaw(1.5, 0.5), MODEL, GradientDescent(0.05)), "modes = inf has no ratios"),
        (Problem(PowerLaw(1.5, 0.5), DeepLinear(depth=1), GradientDescent(0.05, sample_ratio=2.0)), "modes = inf"),
        (Problem(Isotropic(), MODEL, OnePassSGD(0.05, batch_ratio=1.0, exact_gaussian=True)), "exact_gaussian"),
    ],
)
def test_what_no_theory_covers_is_said(problem, words):
    with pytest.raises(UnsupportedProblem, match=words):
        solve(problem, [1])


def test_other_limits_keep_their_models():
    assert find_limit(Problem(Isotropic(), RandomFeatures(width=4), GradientFlow(samples=8))).name == "linear"
    assert find_limit(Problem(Isotropic(), MODEL, GradientFlow())).name == "deep-linear"
    with pytest.raises(InvalidInput, match="batch_size"):
        find_limit(Problem(Isotropic(), MODEL, SGD(0.1, 4)))


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (("biass",), "did you mean 'bias'"),
        (("variance_sgd",), "use 'variance_data'"),
        (("forward_kernel",), "finite depths"),
    ],
)
def test_wrong_outputs(outputs, words):
    model = DeepLinear(depth=INF, residual=True) if "kernel" in outputs[0] else MODEL
    with pytest.raises(InvalidInput, match=words):
        solve(Problem(Isotropic(), model, GradientDescent(0.05)), [1], outputs=outputs)


def test_infinite_time():
    with pytest.raises(InvalidInput, match="expected finite times"):
        solve(Problem(Isotropic(), MODEL, GradientDescent(0.05)), [1, INF])


def test_too_many_steps_are_refused_with_the_number():
    with pytest.raises(TooLarge, match=r"200000 steps needs about \d.*GB"):
        solve(Problem(Isotropic(), MODEL, GradientDescent(0.05)), [200_000])


def test_outputs_of_two_times_are_bounded():
    problem = Problem(Isotropic(noise=[0.1 * i for i in range(1, 21)]), MODEL, GradientDescent(0.01))
    with pytest.raises(TooLarge, match="outputs of two times"):
        solve(problem, list(range(1500)), outputs=("forward_covariance",))


def test_messages_are_in_the_order_of_the_points():
    problem = Problem(Isotropic(), DeepLinear(depth=1, richness=0), GradientDescent([5.0, 3.0, 4.0, 2.0]))
    with pytest.warns(ForetrainWarning):
        curves = solve(problem, [0, 20])
    assert [message.split("learning_rate = ")[1][0] for message in curves.messages] == ["5", "3", "4", "2"]


def test_sweeps_check_their_grid():
    problem = Problem(Isotropic(), MODEL, GradientDescent(0.05))
    with pytest.raises(InvalidInput, match="at least three increasing rates"):
        lr_sweep(problem, 3, [0.1, 0.05, 0.2])
    with pytest.raises(UnsupportedProblem, match="expected the model 'deep-linear'"):
        lr_sweep(Problem(Isotropic(), RandomFeatures(width=4), GradientDescent(0.05)), 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sweep = lr_sweep(problem, 3, [0.05, 0.1, 5.0, 6.0])
    assert 0.1 < sweep.edge < 5.0
