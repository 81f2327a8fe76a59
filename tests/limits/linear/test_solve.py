"""The door: declared problems against the array level, axes, parts, statuses and messages."""

import subprocess
import sys

import numpy as np
import pytest

from foretrain import (
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
    solve,
)
from foretrain.errors import ForetrainWarning, InvalidInput
from foretrain.limits.linear import (
    Descent,
    HeavyBall,
    InertialFlow,
    ensemble_loss,
    linear_curves,
    max_stable_lr,
    measure_of,
    spectral_measure,
)

INF = float("inf")
LAM = np.arange(1.0, 41.0) ** -1.2
POWER = np.arange(1.0, 41.0) ** -0.4
BASE = spectral_measure(LAM, POWER, exact=40)
TASK = SpectrumTask(LAM, POWER, noise=0.16)
# The door may compress and pad differently: what compression leaves.
COMPRESSION = 1e-10


def test_reference_numbers_and_labels():
    curves = solve(Problem(TASK, RandomFeatures(width=14), GradientFlow(samples=22)), [0.5, 2, 8, 40, 300, 1e5])
    np.testing.assert_allclose(
        curves.values("test_loss"), [1.37329, 0.92291, 0.78793, 0.90942, 1.34493, 1.51599], atol=6e-6
    )
    assert curves.dims["test_loss"] == ("time",)
    assert curves.status == "ok"
    assert np.all(curves.values("test_loss_error") < 1e-8)
    assert curves.attrs["solver"] == "linear"


def test_axes_are_single_problems_side_by_side():
    task = SpectrumTask(LAM, POWER, noise=[0.0, 0.3])
    problem = Problem(task, RandomFeatures(width=[14, INF], ensemble=[1, 3]), GradientFlow(samples=[22, 50, INF]))
    curves = solve(problem, [0.0, 3.0, 100.0, INF])
    assert curves.dims["test_loss"] == ("noise", "width", "ensemble", "samples", "time")
    for index, point in problem.points():
        alone = solve(point, [0.0, 3.0, 100.0, INF])
        for name in ("test_loss", "train_loss"):
            np.testing.assert_allclose(curves.values(name)[index], alone.values(name), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("protocol", "dynamics"),
    [
        (GradientDescent(0.3, samples=22), Descent(0.3)),
        (Momentum(0.2, 0.6, samples=22), HeavyBall(0.2, 0.6)),
        (
            GradientDescent(0.5, samples=22, schedule=Schedule("cosine", steps=30, final=0.1)),
            Descent(0.5 * Schedule("cosine", steps=30, final=0.1).factors(200)),
        ),
        (GradientDescent(0.5, samples=22, schedule=Schedule("linear", steps=30)), Descent(np.linspace(0.5, 0.0, 31))),
    ],
)
def test_protocols_reach_the_array_level(protocol, dynamics):
    times = [0, 5, 60, 150]
    curves = solve(Problem(TASK, RandomFeatures(width=14), protocol), times)
    exact = linear_curves(BASE, times, 14, 22, 0.16, dynamics)
    np.testing.assert_allclose(curves.values("test_loss"), exact.test[0, 0], rtol=COMPRESSION)
    np.testing.assert_allclose(curves.values("train_loss"), exact.train[0, 0], rtol=COMPRESSION)
    beta = getattr(protocol, "momentum", 0.0)
    np.testing.assert_allclose(curves.values("max_stable_lr"), max_stable_lr(BASE, 14, 22, beta), rtol=1e-9)


def test_momentum_flow_and_protocol_axes():
    curves = solve(Problem(TASK, RandomFeatures(width=14), MomentumFlow([0.5, 2.0], samples=22)), [1.0, 50.0])
    for i, beta in enumerate((0.5, 2.0)):
        exact = linear_curves(BASE, [1.0, 50.0], 14, 22, 0.16, InertialFlow(beta))
        np.testing.assert_allclose(curves.values("test_loss")[i], exact.test[0, 0], rtol=COMPRESSION)


def test_parts_sum_to_the_loss_of_one_model():
    parts = ("bias", "variance_data", "variance_features", "variance_interaction")
    problem = Problem(TASK, RandomFeatures(width=[14, 40]), GradientFlow(samples=[22, 90]))
    curves = solve(problem, [0.0, 3.0, 100.0], outputs=parts)
    total = sum(curves.values(part) for part in parts)
    np.testing.assert_allclose(total, curves.values("test_loss"), rtol=1e-10)
    assert np.all(curves.values("bias")[..., 1:] > 0)
    shares = linear_curves(BASE, [3.0], 14, 22, 0.16, shares=("both", "data", "features", "none")).test[0, :, 0]
    assert curves.values("variance_data")[0, 0, 1] == pytest.approx(shares[1] - shares[3], rel=1e-9)


def test_ensembles():
    problem = Problem(TASK, RandomFeatures(width=14, ensemble=[1, 4]), GradientFlow(samples=22))
    curves = solve(problem, [5.0])
    test = linear_curves(BASE, [5.0], 14, 22, 0.16, shares=("both", "data")).test[0, :, 0]
    np.testing.assert_allclose(curves.values("test_loss")[1, 0], ensemble_loss(*test, models=4), rtol=COMPRESSION)


def test_power_law_resolution_suits_the_problem():
    # Few nodes for moderate sizes and times, and the same curve as with all of them.
    problem = Problem(PowerLaw(1.5, 0.6), RandomFeatures(width=[64, INF]), GradientFlow(samples=[100, INF]))
    times = [1.0, 1e3, 1e6]
    fine = measure_of(PowerLaw(1.5, 0.6).spectrum(), 1e-15)
    width, samples = (v.ravel() for v in np.meshgrid([64, INF], [100, INF], indexing="ij"))
    exact = linear_curves(fine, times, width, samples).test[:, 0].reshape(2, 2, 3)
    np.testing.assert_allclose(solve(problem, times).values("test_loss"), exact, rtol=1e-10)


def test_oscillations_get_the_nodes_they_need():
    k = np.arange(1.0, 2001.0)
    exact = linear_curves(
        spectral_measure(k**-1.25, k**-0.25, exact=2000), [100, 300], 3000, 2500, 0.0, HeavyBall(0.5, 0.97)
    )
    problem = Problem(PowerLaw(1.25, 0.4, modes=2000), RandomFeatures(width=3000), Momentum(0.5, 0.97, samples=2500))
    np.testing.assert_allclose(solve(problem, [100, 300]).values("test_loss"), exact.test[0, 0], rtol=1e-9)


def test_normalized_power_laws_divide_by_the_modes():
    a, b = (
        solve(Problem(PowerLaw(1.5, 0.6, modes=50, normalize=n), Kernel(), GradientFlow(samples=20)), [3.0])
        for n in (False, True)
    )
    np.testing.assert_allclose(a.values("test_loss"), 50 * b.values("test_loss"), rtol=1e-12)


def test_ridge_and_the_interpolation_peak():
    problem = Problem(Isotropic(50, 0.1), RandomFeatures(width=[20, 30]), Ridge([0.0, 0.1], samples=[30, INF]))
    with pytest.warns(ForetrainWarning, match="width = 30, samples = 30"):
        curves = solve(problem)
    assert curves.dims["test_loss"] == ("width", "ridge", "samples")
    assert np.isposinf(curves.values("test_loss")[1, 0, 0])
    assert curves.values("status")[1, 0, 0] == "diverged"
    assert np.sum(curves.values("status") == "ok") == 7
    assert np.all(np.isfinite(curves.values("test_loss")[0]))


def test_past_stability_names_the_edge():
    edge = float(max_stable_lr(BASE, 14, 22))
    problem = Problem(TASK, RandomFeatures(width=14), GradientDescent([0.5 * edge, 1.5 * edge], samples=22))
    with pytest.warns(ForetrainWarning, match=f"max_stable_lr = {edge:.6g}"):
        curves = solve(problem, [0, 10, INF])
    assert curves.values("status").tolist() == ["ok", "diverged"]
    np.testing.assert_array_equal(np.isinf(curves.values("test_loss")), [[False] * 3, [False, True, True]])
    assert curves.status == "partial"


def test_unknown_output():
    problem = Problem(TASK, RandomFeatures(width=14), GradientFlow(samples=22))
    with pytest.raises(InvalidInput, match="unknown output 'biass'; did you mean 'bias'"):
        solve(problem, [1.0], outputs=("biass",))


def test_progress_is_told():
    seen = []
    problem = Problem(TASK, RandomFeatures(width=14), GradientDescent([0.1, 0.2, 0.3], samples=22))
    solve(problem, [1], progress=lambda done, total, label: seen.append((done, total)))
    assert seen[0] == (0, 3)
    assert seen[-1] == (3, 3)


def test_a_process_that_never_turned_64_bits_on():
    code = (
        "import jax, numpy as np\n"
        "from foretrain import PowerLaw, Problem, RandomFeatures, GradientFlow, solve\n"
        "c = solve(Problem(PowerLaw(1.5, 0.6, modes=100), RandomFeatures(width=14), GradientFlow(samples=22)), [1.0])\n"
        "assert c.values('test_loss').dtype == np.float64\n"
        "assert jax.numpy.ones(1).dtype == np.float32\n"
        "print(repr(float(c.values('test_loss')[0])))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = solve(Problem(PowerLaw(1.5, 0.6, modes=100), RandomFeatures(width=14), GradientFlow(samples=22)), [1.0])
    assert float(out) == pytest.approx(float(here.values("test_loss")[0]), rel=1e-13)
