"""The door: declared problems, axes, outputs, statuses and messages."""

import subprocess
import sys

import numpy as np
import pytest

from foretrain import (
    GradientDescent,
    GradientFlow,
    Isotropic,
    OnePassSGD,
    PowerLaw,
    Problem,
    RandomFeatures,
    Schedule,
    SpectrumTask,
    TwoLayerLinear,
    solve,
)
from foretrain.errors import ForetrainWarning, InvalidInput, UnsupportedProblem
from foretrain.limits.adaptive_linear import OUTPUTS, _discrete, covers
from foretrain.problems import Momentum
from foretrain.tasks import Digits

INF = float("inf")
TASK = PowerLaw(1.5, 0.5, modes=60, noise=0.1)


def test_labels_and_axes():
    problem = Problem(TASK, TwoLayerLinear(width=[20, INF], richness=[0, 2]), GradientFlow(samples=[30, INF]))
    times = [0.0, 1.0, 30.0, INF]
    curves = solve(problem, times)
    assert curves.dims["test_loss"] == ("width", "richness", "samples", "time")
    assert curves.status == "ok"
    assert curves.attrs["solver"] == "adaptive-linear"
    for index, point in problem.points():
        alone = solve(point, times)
        for name in ("test_loss", "train_loss", "readout_norm", "gain"):
            np.testing.assert_allclose(curves.values(name)[index], alone.values(name), rtol=1e-6, atol=1e-9)
    fresh = curves.values("train_loss")[..., 1, :] - curves.values("test_loss")[..., 1, :]
    np.testing.assert_allclose(fresh, 0.1)
    np.testing.assert_allclose(curves.values("train_loss")[..., 0], np.sum(np.arange(1, 61.0) ** -1.75) + 0.1)


def test_lazy_is_random_features():
    training = GradientFlow(samples=[30, INF])
    mine = solve(Problem(TASK, TwoLayerLinear(width=20, richness=0), training), [1.0, 30.0, INF])
    theirs = solve(Problem(TASK, RandomFeatures(width=20), training), [1.0, 30.0, INF])
    for name in ("test_loss", "train_loss"):
        np.testing.assert_allclose(mine.values(name), theirs.values(name), rtol=1e-6)


def test_parts_sum_to_the_loss():
    for training, times in (
        (GradientFlow(samples=[30, INF]), [0.5, 50.0, INF]),
        (OnePassSGD(0.1, batch_size=10), [3, 12]),
    ):
        curves = solve(Problem(TASK, TwoLayerLinear(width=20), training), times, outputs=OUTPUTS)
        total = sum(curves.values(name) for name in OUTPUTS if name.endswith(("term", "transient")))
        np.testing.assert_allclose(total, curves.values("test_loss"), rtol=1e-9, atol=1e-12)
        assert np.all(curves.values("flow_term")[..., 1] < curves.values("flow_term")[..., 0])


def test_local_exponents_stand_beside_their_asymptotes():
    problem = Problem(PowerLaw(1.5, [0.25, 1.5]), TwoLayerLinear(richness=[0, 1]), GradientFlow())
    curves = solve(problem, [0.0, 1e5], outputs=("local_exponent",))
    assert curves.dims["asymptotic_exponent"] == ("source", "richness")
    np.testing.assert_allclose(curves.values("asymptotic_exponent"), [[-0.25, -0.4], [-1.5, -1.5]])
    assert np.all(np.isnan(curves.values("local_exponent")[..., 0]))
    np.testing.assert_allclose(curves.values("local_exponent")[..., 1], curves.values("asymptotic_exponent"), atol=0.01)


def test_mode_residuals_make_the_loss_of_infinite_width():
    task = SpectrumTask([1.0, 0.5, 0.1], [1.0, 2.0, 3.0])
    for training, times in ((GradientFlow(), [0.0, 2.0, 20.0]), (GradientDescent(0.2), [0, 4, 20])):
        curves = solve(Problem(task, TwoLayerLinear(richness=3), training), times, outputs=("mode_residual",))
        assert curves.dims["mode_residual"] == ("mode", "time")
        loss = np.array([1.0, 1.0, 0.3]) @ curves.values("mode_residual") ** 2
        np.testing.assert_allclose(loss, curves.values("test_loss"), rtol=1e-5, atol=1e-9)


def test_modes_of_a_power_law_are_a_selection():
    curves = solve(Problem(PowerLaw(1.5, 0.5), TwoLayerLinear(), GradientFlow()), [10.0], outputs=("mode_residual",))
    modes = curves.coords["mode"]
    assert modes[0] == 1
    assert modes[-1] == 1_000_000
    residuals = curves.values("mode_residual")[:, 0]
    # Learned modes overshoot a little, pulled along by the others.
    assert -0.05 < residuals[0] < 0.0
    assert residuals[-1] == pytest.approx(1.0, abs=1e-6)


def test_late_steps_state_the_error_of_the_flow(monkeypatch):
    """The flow behind the exact steps misses by no more than it says."""
    for training, most, yardstick, last in (
        (GradientDescent(0.1), "MOST_STEPS", "YARDSTICK", 600),
        (OnePassSGD(0.1, batch_size=50), "MOST_MARCHED", "YARDSTICK_MARCHED", 200),
    ):
        problem = Problem(PowerLaw(1.5, 0.5), TwoLayerLinear(width=64), training)
        exact = solve(problem, [20, last])
        with monkeypatch.context() as patch:
            patch.setattr(_discrete, most, 100)
            patch.setattr(_discrete, yardstick, 60)
            flow = solve(problem, [20, last])
        np.testing.assert_allclose(flow.values("test_loss")[0], exact.values("test_loss")[0], rtol=1e-7)
        gap = np.abs(flow.values("test_loss")[1] - exact.values("test_loss")[1])
        assert 1e-6 < gap <= flow.values("test_loss_error")[1]


def test_steps_close_to_instability_are_marched_and_then_given_up():
    problem = Problem(PowerLaw(1.5, 0.25), TwoLayerLinear(), GradientDescent(0.5))
    with (
        pytest.warns(ForetrainWarning, match="too close to the edge of stability"),
        pytest.warns(ForetrainWarning, match="guarantee of stability"),
    ):
        curves = solve(problem, [80, 400])
    assert curves.status == "not converged"
    np.testing.assert_array_equal(np.isnan(curves.values("test_loss")), [False, True])


def test_lazy_steps_are_exact_at_any_number():
    model, steps = TwoLayerLinear(width=64, richness=0), [10, 1000, 10**6]
    for training in (GradientDescent(0.3), OnePassSGD(0.3, batch_size=8)):
        mine = solve(Problem(PowerLaw(1.5, 0.5), model, training), steps)
        theirs = solve(Problem(PowerLaw(1.5, 0.5), RandomFeatures(width=64), training), steps)
        np.testing.assert_allclose(mine.values("test_loss"), theirs.values("test_loss"), rtol=1e-7)


def test_passed_thresholds_are_named():
    problem = Problem(PowerLaw(1.5, 0.25), TwoLayerLinear(richness=1), GradientDescent([0.001, 0.05]))
    with pytest.warns(ForetrainWarning, match=r"learning_rate = 0\.05, richness = 1 passes the guarantee"):
        curves = solve(problem, [10, 30000])
    assert curves.values("status").tolist() == ["ok", "diverged"]
    np.testing.assert_array_equal(np.isinf(curves.values("test_loss")), [[False, False], [False, True]])
    ratio = 0.5 * 0.001 * (1.0 + 2.0 * curves.values("readout_norm")[0])
    np.testing.assert_allclose(curves.values("stability_ratio")[0], ratio, rtol=1e-6)


def test_gain_of_sgd():
    problem = Problem(PowerLaw(1.5, 0.5, modes=50), TwoLayerLinear(richness=1), OnePassSGD(0.05, batch_size=4))
    curves = solve(problem, [10])
    trace = np.sum(np.arange(1, 51.0) ** -1.5)
    expected = 0.05 / 8 * (1.0 + curves.values("readout_norm")) * trace
    np.testing.assert_allclose(curves.values("sgd_gain"), expected, rtol=1e-6)


def test_the_published_loss_under_noise():
    # eta / B = 0.01, t = 1e5.
    problem = Problem(PowerLaw(1.5, 0.5), TwoLayerLinear(richness=1), OnePassSGD(0.01, batch_size=1))
    assert solve(problem, [10**7]).values("test_loss")[0] == pytest.approx(1.35e-3, abs=5e-6)


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (Problem(TASK, RandomFeatures(10), GradientFlow()), "not 'two-layer-linear'"),
        (Problem(Digits(), TwoLayerLinear(), GradientFlow()), "measure"),
        (Problem(TASK, TwoLayerLinear(), Momentum(0.1, 0.5)), "no theory of the protocol 'momentum'"),
        (Problem(TASK, TwoLayerLinear(), GradientDescent(0.1, schedule=Schedule("cosine", steps=9))), "change"),
        (Problem(TASK, TwoLayerLinear(), OnePassSGD(0.1, 4, exact_gaussian=True)), "exact_gaussian"),
        (Problem(SpectrumTask([1.0], [1.0], test_eigenvalues=[2.0]), TwoLayerLinear(), GradientFlow()), "test_eigen"),
    ],
)
def test_what_is_not_covered(problem, words):
    assert words in covers(problem)


def test_isotropic_task_is_covered():
    assert covers(Problem(Isotropic(modes=30), TwoLayerLinear(), GradientFlow())) is None


def test_refusals():
    problem = Problem(TASK, TwoLayerLinear(), GradientFlow())
    with pytest.raises(InvalidInput, match="unknown output 'flow'; did you mean 'flow_term'"):
        solve(problem, [1.0], outputs=("flow",))
    with pytest.raises(InvalidInput, match="whose noise does not end"):
        solve(Problem(TASK, TwoLayerLinear(), OnePassSGD(0.1, 4)), [10, INF])
    with pytest.raises(UnsupportedProblem, match="adaptive-linear: no theory of the protocol 'momentum'"):
        solve(Problem(TASK, TwoLayerLinear(), Momentum(0.1, 0.5)), [10])


def test_progress_is_told():
    seen = []
    solve(
        Problem(PowerLaw([1.3, 1.5], 0.5), TwoLayerLinear(richness=[0, 1]), GradientFlow()),
        [1.0],
        progress=lambda done, total, label: seen.append((done, total)),
    )
    assert seen == [(0, 4), (2, 4), (4, 4)]


def test_a_process_that_never_turned_64_bits_on():
    code = (
        "import jax, numpy as np\n"
        "from foretrain import PowerLaw, Problem, TwoLayerLinear, GradientFlow, OnePassSGD, solve\n"
        "t, m = PowerLaw(1.5, 0.5, modes=60), TwoLayerLinear(width=14)\n"
        "a = solve(Problem(t, m, GradientFlow(samples=22)), [1.0]).values('test_loss')\n"
        "b = solve(Problem(t, m, OnePassSGD(0.1, 4)), [9]).values('test_loss')\n"
        "assert a.dtype == b.dtype == np.float64\n"
        "assert jax.numpy.ones(1).dtype == np.float32\n"
        "print(repr(float(a[0])), repr(float(b[0])))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    task, model = PowerLaw(1.5, 0.5, modes=60), TwoLayerLinear(width=14)
    here = [
        solve(Problem(task, model, GradientFlow(samples=22)), [1.0]).values("test_loss")[0],
        solve(Problem(task, model, OnePassSGD(0.1, 4)), [9]).values("test_loss")[0],
    ]
    np.testing.assert_allclose([float(value) for value in out.split()], here, rtol=1e-12)
