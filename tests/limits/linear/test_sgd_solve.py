"""The door with minibatches: axes, outputs, facts, statuses and messages."""

import re

import numpy as np
import pytest

from foretrain import (
    SGD,
    Digits,
    GradientDescent,
    GradientFlow,
    Kernel,
    OnePassSGD,
    PowerLaw,
    Problem,
    RandomFeatures,
    Schedule,
    SpectrumTask,
    solve,
)
from foretrain.errors import ForetrainError, ForetrainWarning, InvalidInput
from foretrain.limits.linear import (
    StochasticDescent,
    critical_batch,
    linear_curves,
    max_stable_lr,
    sgd_gain,
    spectral_measure,
)

INF = float("inf")
MODES = np.arange(1.0, 41.0)
LAM, POWER = MODES**-1.2, MODES**-0.4
Q = (1.0 + np.sin(MODES)) / (2.0 * np.sqrt(MODES))
BASE = spectral_measure(LAM, POWER, exact=40)
SHIFTED = spectral_measure(LAM, POWER, None, Q, exact=40)
TASK = SpectrumTask(LAM, POWER, noise=0.16)
TIMES = [0, 1, 12, 40, 160]
NOISES = ("test_forcing", "train_forcing", "test_sgd_noise", "train_sgd_noise")
# The door may compress and pad differently: what compression leaves.
COMPRESSION = 1e-10


@pytest.mark.parametrize(
    ("protocol", "dynamics", "width", "samples"),
    [
        (SGD(0.3, 2, samples=22), StochasticDescent(0.3, 2), 14, 22),
        (SGD(0.3, 4, samples=22, replacement=False), StochasticDescent(0.3, 4, False), INF, 22),
        (SGD(0.3, 4), StochasticDescent(0.3, 4), 14, INF),
        (OnePassSGD(0.3, 2), StochasticDescent(0.3, 2), 14, INF),
        (OnePassSGD(0.3, 2, exact_gaussian=True), StochasticDescent(0.3, 2, exact_gaussian=True), INF, INF),
        (
            SGD(0.5, 4, samples=22, schedule=Schedule("cosine", steps=100, warmup=9, final=0.1)),
            StochasticDescent(0.5 * Schedule("cosine", steps=100, warmup=9, final=0.1).factors(161), 4),
            14,
            22,
        ),
        (
            OnePassSGD(0.5, 4, schedule=Schedule("wsd", steps=150)),
            StochasticDescent(0.5 * Schedule("wsd", steps=150).factors(161), 4),
            14,
            INF,
        ),
    ],
)
def test_protocols_reach_the_array_level(protocol, dynamics, width, samples):
    curves = solve(Problem(TASK, RandomFeatures(width=width), protocol), TIMES, outputs=NOISES)
    exact = linear_curves(BASE, TIMES, width, samples, 0.16, dynamics)
    np.testing.assert_allclose(curves.values("test_loss"), exact.test[0, 0], rtol=COMPRESSION)
    np.testing.assert_allclose(curves.values("train_loss"), exact.train[0, 0], rtol=COMPRESSION)
    np.testing.assert_allclose(curves.values("test_sgd_noise"), exact.test_noise[0], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(curves.values("train_sgd_noise"), exact.train_noise[0], rtol=1e-9, atol=1e-11)
    for name in ("test", "train"):
        total = curves.values(f"{name}_forcing") + curves.values(f"{name}_sgd_noise")
        np.testing.assert_allclose(total, curves.values(f"{name}_loss"), rtol=1e-13)
    assert curves.status == "ok"
    assert np.all(curves.values("test_loss_error") < 1e-8)
    assert curves.attrs["solver"] == "linear"


def test_axes_are_single_problems_side_by_side():
    problem = Problem(TASK, RandomFeatures(width=[14, INF]), SGD([0.1, 0.3], [2, 4], samples=[22, 50]))
    curves = solve(problem, TIMES)
    sweep = ("width", "learning_rate", "batch_size", "samples")
    assert curves.dims["test_loss"] == (*sweep, "time")
    assert curves.dims["sgd_gain"] == sweep
    assert curves.dims["critical_batch"] == ("width", "learning_rate", "samples")
    assert curves.dims["max_stable_lr"] == ("width", "batch_size", "samples")
    assert curves.dims["spectral_edge"] == ("width", "samples")
    assert curves.coords["batch_size"].tolist() == [2, 4]
    for (w, rate, batch, p), point in problem.points():
        alone = solve(point, TIMES)
        for name in ("test_loss", "train_loss"):
            np.testing.assert_allclose(curves.values(name)[w, rate, batch, p], alone.values(name), rtol=1e-10)
        width, samples, eta, size = (14, INF)[w], (22, 50)[p], (0.1, 0.3)[rate], (2, 4)[batch]
        assert curves.values("sgd_gain")[w, rate, batch, p] == pytest.approx(
            float(sgd_gain(BASE, width, samples, eta, size)), rel=1e-11
        )
        assert curves.values("critical_batch")[w, rate, p] == pytest.approx(
            float(critical_batch(BASE, width, samples, eta)), rel=1e-11
        )
        assert curves.values("max_stable_lr")[w, batch, p] == pytest.approx(
            float(max_stable_lr(BASE, width, samples, batch_size=size)), rel=1e-11
        )


def test_shares_and_noise_sum_to_the_loss_of_one_model():
    parts = ("bias", "variance_data", "variance_features", "variance_interaction")
    problem = Problem(TASK, RandomFeatures(width=14), SGD(0.3, [2, 8], samples=22))
    curves = solve(problem, TIMES, outputs=(*parts, *NOISES))
    total = sum(curves.values(part) for part in (*parts, "test_sgd_noise"))
    np.testing.assert_allclose(total, curves.values("test_loss"), rtol=1e-10)
    np.testing.assert_allclose(curves.values("bias")[0], curves.values("bias")[1], rtol=1e-12)


def test_ensembles_divide_the_noise_of_their_batches():
    # Models on the same data draw their batches independently.
    problem = Problem(TASK, RandomFeatures(width=14, ensemble=[1, 4]), SGD(0.3, 2, samples=22))
    curves = solve(problem, TIMES, outputs=NOISES)
    plain = solve(problem.replace(training=GradientDescent(0.3, samples=22)), TIMES)
    for name in ("test", "train"):
        noise = curves.values(f"{name}_sgd_noise")
        np.testing.assert_allclose(noise[1], noise[0] / 4.0, rtol=1e-13)
        np.testing.assert_allclose(curves.values(f"{name}_forcing"), plain.values(f"{name}_loss"), rtol=1e-10)


def test_shifted_tasks():
    task = SpectrumTask(LAM, POWER, noise=0.16, test_eigenvalues=Q)
    for protocol, dynamics in ((SGD(0.3, 2, samples=22), StochasticDescent(0.3, 2)), (GradientFlow(samples=22), None)):
        curves = solve(Problem(task, RandomFeatures(width=14), protocol), TIMES)
        exact = linear_curves(SHIFTED, TIMES, 14, 22, 0.16, dynamics)
        np.testing.assert_allclose(curves.values("test_loss"), exact.test[0, 0], rtol=COMPRESSION)
        np.testing.assert_allclose(curves.values("train_loss"), exact.train[0, 0], rtol=COMPRESSION)
    law = PowerLaw(1.2, 0.5, modes=40, noise=0.16, test_eigenvalues=Q)
    curves = solve(Problem(law, RandomFeatures(width=14), SGD(0.3, 2, samples=22)), TIMES)
    exact = linear_curves(SHIFTED, TIMES, 14, 22, 0.16, StochasticDescent(0.3, 2))
    np.testing.assert_allclose(curves.values("test_loss"), exact.test[0, 0], rtol=COMPRESSION)
    with pytest.raises(InvalidInput, match="test_eigenvalues: expected 40 entries, one a mode, got 2"):
        PowerLaw(1.2, 0.5, modes=40, test_eigenvalues=[1.0, 2.0])
    with pytest.raises(InvalidInput, match="test_eigenvalues"):
        SpectrumTask(LAM, POWER, test_eigenvalues=[1.0, 2.0])
    with pytest.raises(InvalidInput, match="test_eigenvalues"):
        SpectrumTask([1.0, 0.5], [1.0, 1.0], test_eigenvalues=[1.0, -2.0])


def test_no_shift_changes_nothing():
    task = SpectrumTask(LAM, POWER, noise=0.16, test_eigenvalues=LAM)
    for protocol in (SGD(0.3, 2, samples=22), OnePassSGD(0.3, 2), GradientDescent(0.3, samples=22)):
        a, b = (solve(Problem(t, RandomFeatures(width=14), protocol), [*TIMES, INF]) for t in (TASK, task))
        np.testing.assert_allclose(b.values("test_loss"), a.values("test_loss"), rtol=COMPRESSION)


def test_large_gains_are_told():
    problem = Problem(TASK, RandomFeatures(width=14), SGD(0.35, 1, samples=22))
    with pytest.warns(ForetrainWarning, match=r"sgd_gain is up to 0\.664 .*above 0\.5 single runs scatter widely"):
        curves = solve(problem, TIMES)
    assert curves.status == "ok"
    assert curves.values("sgd_gain") == pytest.approx(0.6638295128116841, rel=1e-11)


def test_past_the_gain_names_both_thresholds():
    rate = float(max_stable_lr(BASE, 14, 22, batch_size=1))
    batch = float(critical_batch(BASE, 14, 22, 0.6))
    problem = Problem(TASK, RandomFeatures(width=14), SGD([0.2, 0.6], [1, 2], samples=22))
    words = rf"learning_rate = 0\.6, batch_size = 1 .*max_stable_lr = {rate:.6g}.*critical_batch = {batch:.6g}"
    with pytest.warns(ForetrainWarning) as told:
        curves = solve(problem, [*TIMES, INF])
    assert any(re.search(words, str(w.message)) for w in told)
    # The gain at the rate 0.6 with two samples a step is 0.68: served, with the other warning.
    assert any("sgd_gain is up to 0.68" in str(w.message) for w in told)
    assert curves.values("status").tolist() == [["ok", "ok"], ["diverged", "ok"]]
    np.testing.assert_array_equal(np.isinf(curves.values("test_loss"))[1, 0], [False, *[True] * 5])
    np.testing.assert_array_equal(np.isinf(curves.values("train_loss"))[1, 0], [False, *[True] * 5])
    assert np.all(np.isfinite(curves.values("test_loss")[0]))
    assert curves.values("sgd_gain")[1, 0] > 1.0
    assert curves.status == "partial"


def test_past_the_edge_of_descent_no_batch_is_enough():
    problem = Problem(TASK, RandomFeatures(width=14), SGD(1.2, 22, samples=22, replacement=False))
    with pytest.warns(
        ForetrainWarning, match=r"SGD diverges at learning_rate = 1\.2, batch_size = 22 .*no batch is stable here"
    ):
        curves = solve(problem, TIMES)
    assert curves.status == "diverged"
    assert curves.values("sgd_gain") == INF
    assert curves.values("critical_batch") == INF
    assert curves.values("max_stable_lr") == pytest.approx(float(max_stable_lr(BASE, 14, 22)), rel=1e-11)


def test_exact_gaussian():
    protocol = OnePassSGD(0.3, 2, exact_gaussian=True)
    shifted = TASK.replace(test_eigenvalues=LAM)
    with pytest.raises(ForetrainError, match=r"exact_gaussian with test_eigenvalues is known at infinite width only"):
        solve(Problem(shifted, RandomFeatures(width=[14, INF]), protocol), TIMES)
    gain = np.sum(0.3 * LAM / (2.0 * (2.0 - 0.3 * LAM) - 0.3 * LAM))
    for task in (TASK, shifted):
        facts = solve(Problem(task, Kernel(), protocol), TIMES)
        assert facts.values("sgd_gain") == pytest.approx(gain, rel=1e-11)
    with pytest.warns(ForetrainWarning, match="above 0.5 single runs"):
        wide = solve(Problem(TASK, RandomFeatures(width=[22, INF]), OnePassSGD(0.5, 2, exact_gaussian=True)), TIMES)
    assert wide.dims["test_loss"] == ("width", "time")


@pytest.mark.parametrize("batch", [0, -3, 1.5, INF, "many"])
def test_batches_that_are_none(batch):
    for protocol in (SGD, OnePassSGD):
        with pytest.raises(InvalidInput, match="batch_size: expected a whole number >= 1"):
            protocol(0.3, batch)


def test_batches_larger_than_the_data():
    with pytest.raises(InvalidInput, match="batch_size: expected at most samples = 22, got 23"):
        SGD(0.3, [2, 23], samples=[22, 50])
    problem = Problem(Digits(classes=[0, 1]), RandomFeatures(width=8), SGD(0.3, 5000))
    with pytest.raises(InvalidInput, match="batch_size: expected at most samples = 360, all rows of digits, got 5000"):
        solve(problem, TIMES)
    # At the level of arrays, where replacement leaves any size possible.
    with pytest.raises(InvalidInput, match="batch_size: expected at most samples where batches are drawn without"):
        linear_curves(BASE, TIMES, 14, 22, 0.16, StochasticDescent(0.3, 23, False))
    with pytest.raises(InvalidInput, match="batch_size: expected at most samples"):
        max_stable_lr(BASE, 14, 22, batch_size=[2, 23], replacement=False)
    with pytest.raises(InvalidInput, match="expected batch_size > 0, got 0"):
        linear_curves(BASE, TIMES, 14, 22, 0.16, StochasticDescent(0.3, 0))


def test_outputs_of_minibatches_need_minibatches():
    problem = Problem(TASK, RandomFeatures(width=14), GradientFlow(samples=22))
    for name in NOISES:
        with pytest.raises(InvalidInput, match=f"expected a protocol with minibatches for '{name}'"):
            solve(problem, [1.0], outputs=(name,))
    noisy = problem.replace(training=SGD(0.3, 2, samples=22))
    with pytest.raises(InvalidInput, match="unknown output 'test_sgd_nois'; did you mean 'test_sgd_noise'"):
        solve(noisy, [1], outputs=("test_sgd_nois",))


def test_steps_are_whole():
    problem = Problem(TASK, RandomFeatures(width=14), SGD(0.3, 2, samples=22))
    with pytest.raises(InvalidInput, match=r"times: expected whole numbers of steps, got 12\.5"):
        solve(problem, [1, 12.5])
    with pytest.raises(InvalidInput, match="times: expected times >= 0, got -1"):
        solve(problem, [-1])


def test_real_data():
    # The measured spectrum with the label noise that the data do not explain; the rest is the array level.
    from foretrain.limits.linear import measure

    problem = Problem(Digits(classes=[0, 1]), RandomFeatures(width=40), SGD(1.0, [4, 16], samples=100))
    curves = solve(problem, TIMES)
    measured = measure(problem.select({"batch_size": 4}))
    spectrum, noise = measured.spectrum, float(measured.noise.value)
    own = spectral_measure(spectrum.eigenvalues, spectrum.target_power, spectrum.multiplicity)
    for i, batch in enumerate((4, 16)):
        exact = linear_curves(own, TIMES, 40, 100, noise, StochasticDescent(1.0, batch))
        np.testing.assert_allclose(curves.values("test_loss")[i], exact.test[0, 0] + noise, rtol=1e-11)
        np.testing.assert_allclose(curves.values("train_loss")[i], exact.train[0, 0], rtol=1e-11)
    assert np.all(curves.values("train_loss")[0, 1:] > curves.values("train_loss")[1, 1:])
    np.testing.assert_allclose(curves.values("noise_floor"), noise, rtol=1e-14)
