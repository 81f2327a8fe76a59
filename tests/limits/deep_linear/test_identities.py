"""What must hold whatever the numbers: starts, ends, symmetries and limits; and the numbers that the theory is known to give."""

import itertools

import numpy as np
import pytest

from foretrain import (
    DeepLinear,
    GradientDescent,
    GradientFlow,
    Isotropic,
    Momentum,
    OnePassSGD,
    PowerLaw,
    Problem,
    RandomFeatures,
    SpectrumTask,
    solve,
)
from foretrain.limits.deep_linear import lr_sweep
from foretrain.problems import Schedule

INF = float("inf")


def losses(task, model, training, times, *names):
    curves = solve(Problem(task, model, training), times, outputs=names)
    found = [curves.values(name) for name in ("test_loss", "train_loss", *names)]
    return found if names else found[:2]


def test(task, model, training, times):
    return losses(task, model, training, times)[0]


test.__test__ = False

# Printed values of a simulation-checked table: exact to their digits.
REFERENCES = [
    (1, 1.0, 1.0, 0.05, {}, 0.0, 0, [2.000, 1.5463, 0.7189, 0.1014, 0.0080]),
    (2, 1.0, 1.0, 0.05, {}, 0.0, 0, [2.000, 1.2734, 0.5452, 0.0746, 0.0044]),
    (2, 2.0, 1.0, 0.05, {"sample_ratio": 2.0}, 0.25, 1, [1.750, 1.1112, 0.4623, 0.1753, 0.1369]),
    (3, 0.5, 0.7, 0.03, {"sample_ratio": 1.0}, 0.09, 0, [5.082, 2.431, 1.406, 0.9808, 0.8605]),
    (2, 0.5, 4.0, 0.02, {}, 0.0, 0, [1.125, 0.9792, 0.6836, 0.0505, 0.0004]),
]


@pytest.mark.parametrize(("depth", "ratio", "richness", "rate", "data", "noise", "which", "expected"), REFERENCES)
def test_reference_numbers(depth, ratio, richness, rate, data, noise, which, expected):
    model = DeepLinear(depth=depth, width_ratio=ratio, richness=richness)
    found = losses(Isotropic(noise=noise), model, GradientDescent(rate, **data), [0, 1, 5, 20, 40])[which]
    digits = [3 if value >= 1 and len(f"{value}") <= 5 else 4 for value in expected]
    for value, wanted, places in zip(found, expected, digits, strict=True):
        assert abs(value - wanted) <= 0.51 * 10.0**-places


@pytest.mark.long
def test_residual_reference_numbers():
    model = DeepLinear(depth=[1, 2, 4, 8, 16], width_ratio=2.0, residual=True)
    found = test(Isotropic(), model, GradientDescent(0.05), [10])[:, 0]
    np.testing.assert_allclose(found, [0.2268, 0.0969, 0.0524, 0.0366, 0.0303], atol=5.1e-5)


@pytest.mark.parametrize("branch", [None, 0.6])
def test_start(branch):
    task = SpectrumTask([1.5, 0.5], [0.7, 1.2], noise=0.3)
    more = {} if branch is None else {"residual": True, "branch_scale": branch, "depth_exponent": 0.0}
    model = DeepLinear(depth=3, width_ratio=0.4, richness=1.7, **more)
    curves = solve(
        Problem(task, model, GradientDescent(0.02, sample_ratio=2.0)),
        [0],
        outputs=("backward_kernel", "forward_kernel"),
    )
    grown = 1.0 if branch is None else (1 + branch**2) ** 2
    start = 0.5 * (1.5 * 0.7 + 0.5 * 1.2) + grown * 1.0 / (1.7**2 * 0.4)
    assert curves.values("test_loss")[0] == pytest.approx(start, rel=1e-12)
    assert curves.values("train_loss")[0] == pytest.approx(start + 0.3, rel=1e-12)
    if branch is None:
        np.testing.assert_allclose(curves.values("backward_kernel")[1:, 0], 1.0, rtol=1e-12)
        cu, first = curves.values("forward_kernel")[:2, 0]
        # R_uv(0, 0) is the mean eigenvalue: u starts correlated with the first layer through the random output.
        assert first == pytest.approx(cu + 1.0 / (1.7 * 0.4) ** 2, rel=1e-12)


def test_lazy_population_and_its_edge():
    curves = solve(
        Problem(Isotropic(), DeepLinear(depth=[1, 2, 5], richness=0), GradientDescent([0.05, 0.1])), [0, 3, 10]
    )
    for i, depth in enumerate((1, 2, 5)):
        for j, rate in enumerate((0.05, 0.1)):
            expected = (1 - (depth + 1) * rate) ** (2 * np.array([0, 3, 10]))
            np.testing.assert_allclose(curves.values("test_loss")[i, j], expected, rtol=1e-10, atol=1e-16)
    np.testing.assert_allclose(curves.values("max_stable_lr"), [1, 2 / 3, 1 / 3], rtol=1e-12)


def test_lazy_branches():
    model = DeepLinear(depth=4, richness=0, residual=True, branch_scale=0.7, depth_exponent=0.0)
    curves = solve(Problem(Isotropic(), model, GradientDescent(0.03)), [7])
    b2 = 0.49
    factor = (2 + 3 * b2 / (1 + b2)) * (1 + b2) ** 3
    assert curves.values("test_loss")[0] == pytest.approx((1 - 0.03 * factor) ** 14, rel=1e-10)
    assert curves.values("max_stable_lr") == pytest.approx(2 / factor)


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_lazy_with_data_is_linear_regression(momentum):
    """The same curves from another theory, by contour integrals, at the rate (L + 1) eta."""
    task = SpectrumTask([1.6, 0.4], [0.5, 2.0], noise=0.2)
    deep = DeepLinear(depth=2, richness=0)
    if momentum:
        pair = Momentum(0.02, momentum, sample_ratio=1.4), Momentum(0.06, momentum, samples=2 * 1.4)
    else:
        pair = GradientDescent(0.04, sample_ratio=1.4), GradientDescent(0.12, samples=2 * 1.4)
    times = [0, 1, 4, 15, 30]
    ours = losses(task, deep, pair[0], times)
    # There sums over modes are plain sums: two modes of half the power each.
    plain = SpectrumTask([1.6, 0.4], [0.25, 1.0], noise=0.2)
    theirs = losses(plain, RandomFeatures(width=INF), pair[1], times)
    np.testing.assert_allclose(ours, theirs, rtol=1e-8)


@pytest.mark.long
@pytest.mark.parametrize(
    ("depth", "ratio", "richness", "alpha"), [(2, 2.0, 1.0, 2.0), (1, 0.5, 1.0, 3.0), (2, 2.0, 3.0, 3.0)]
)
def test_every_network_ends_as_least_squares(depth, ratio, richness, alpha):
    model = DeepLinear(depth=depth, width_ratio=ratio, richness=richness)
    found = losses(Isotropic(noise=0.25), model, GradientDescent(0.05, sample_ratio=alpha), [500])
    np.testing.assert_allclose(np.ravel(found), [0.25 / (alpha - 1), 0.25 * (1 - 1 / alpha)], rtol=2e-3)


def test_parameterizations_meet_at_ratio_one_and_only_there():
    model = DeepLinear(depth=2, width_ratio=[1.0, 4.0], richness=1.5, parameterization=["mup", "ntk"])
    found = test(Isotropic(), model, GradientDescent(0.05), [1, 9])
    np.testing.assert_allclose(found[0, 0], found[0, 1], rtol=1e-13)
    assert np.all(np.abs(found[1, 0] / found[1, 1] - 1) > 0.05)


@pytest.mark.parametrize("protocol", [GradientDescent, OnePassSGD])
def test_many_samples_are_the_population(protocol):
    key = "sample_ratio" if protocol is GradientDescent else "batch_ratio"
    model = DeepLinear(depth=2, width_ratio=0.7, richness=1.3)
    problem = Problem(Isotropic(noise=0.1), model, protocol(0.05, **{key: [1e3, 1e6, INF]}))
    found = solve(problem, [1, 5, 20]).values("test_loss")
    near, nearer = np.abs(found[:2] / found[2] - 1).max(1)
    assert 500 < near / nearer < 2000
    assert nearer < 1e-4


def test_many_wide_layers_are_infinitely_wide():
    found = test(
        Isotropic(), DeepLinear(depth=2, width_ratio=[1e3, 1e6, INF], richness=1.3), GradientDescent(0.05), [1, 5]
    )
    near, nearer = np.abs(found[:2] / found[2] - 1).max(1)
    assert 500 < near / nearer < 2000


@pytest.mark.long
def test_equal_groups_are_one():
    model, training = DeepLinear(depth=2, width_ratio=0.7, richness=1.3), GradientDescent(0.05, sample_ratio=1.2)
    one = losses(SpectrumTask([0.8], [1.1], noise=0.1), model, training, [0, 3, 12])
    two = losses(SpectrumTask([0.8, 0.8 * (1 + 1e-14)], [1.1, 1.1], [3.0, 5.0], noise=0.1), model, training, [0, 3, 12])
    np.testing.assert_allclose(one, two, rtol=1e-11)
    white = losses(Isotropic(modes=7, noise=0.1), model, training, [0, 3, 12])
    np.testing.assert_allclose(
        white, losses(SpectrumTask([1.0], [1.0], noise=0.1), model, training, [0, 3, 12]), rtol=1e-13
    )


def test_scaling_of_target_noise_and_richness():
    model, training = DeepLinear(depth=2, width_ratio=0.7, richness=1.3), GradientDescent(0.05, sample_ratio=1.5)
    base = losses(SpectrumTask([1.0], [1.0], noise=0.2), model, training, [0, 2, 9])
    a = 1.7
    scaled = losses(
        SpectrumTask([1.0], [a * a], noise=0.2 * a * a), model.replace(richness=1.3 / a), training, [0, 2, 9]
    )
    np.testing.assert_allclose(scaled, a * a * np.array(base), rtol=1e-12)


@pytest.mark.parametrize(
    ("training", "name"),
    [(GradientDescent(0.05, sample_ratio=1.5), "variance_data"), (OnePassSGD(0.05, batch_ratio=0.7), "variance_sgd")],
)
def test_parts_sum_to_the_loss(training, name):
    task = SpectrumTask([1.5, 0.5], [0.7, 1.2], noise=0.3)
    loss, _, *parts = losses(
        task, DeepLinear(depth=2, width_ratio=0.7), training, [0, 1, 9], "bias", "variance_width", name
    )
    np.testing.assert_allclose(sum(parts), loss, rtol=1e-13)
    assert np.all(np.array(parts) >= 0)
    assert parts[2][0] == 0 < parts[2][1]


def test_covariances_are_positive_and_responses_causal():
    curves = solve(
        Problem(
            Isotropic(noise=0.1),
            DeepLinear(depth=2, width_ratio=0.7, richness=1.4),
            GradientDescent(0.05, sample_ratio=1.5),
        ),
        list(range(20)),
        outputs=("forward_covariance", "backward_covariance", "forward_response", "backward_response"),
    )
    for name in ("forward_covariance", "backward_covariance"):
        for matrix in curves.values(name):
            if np.all(np.isfinite(matrix)):
                np.testing.assert_allclose(matrix, matrix.T, rtol=1e-12)
                assert np.linalg.eigvalsh(matrix).min() > -1e-12 * np.trace(matrix)
    # Stored at [other_time, time]: the response of time to other_time.
    for layer in (1, 2):
        assert np.all(np.triu(curves.values("forward_response")[layer].T, 1) == 0)
        assert np.all(np.triu(curves.values("backward_response")[layer].T) == 0)


def test_momentum_and_schedules_reduce_to_descent():
    model = DeepLinear(depth=2, width_ratio=0.7, richness=1.4)
    plain = test(Isotropic(), model, GradientDescent(0.05), [1, 10])
    np.testing.assert_allclose(test(Isotropic(), model, Momentum(0.05, 0.0), [1, 10]), plain, rtol=1e-13)
    constant = GradientDescent(0.05, schedule=Schedule("constant"))
    np.testing.assert_allclose(test(Isotropic(), model, constant, [1, 10]), plain, rtol=1e-13)


def test_flow_is_descent_at_small_rates():
    model = DeepLinear(depth=2, width_ratio=2.0, richness=1.5)
    flow = solve(Problem(Isotropic(), model, GradientFlow()), [0.25, 1.0])
    steps = [test(Isotropic(), model, GradientDescent(1.0 / n), [n // 4, n]) for n in (40, 80, 160)]
    # Richardson over three rates: descent differs from the flow by a series in the rate.
    twice = [2 * b - a for a, b in itertools.pairwise(steps)]
    limit = (4 * twice[1] - twice[0]) / 3
    np.testing.assert_allclose(flow.values("test_loss"), limit, rtol=3e-3)
    assert np.all(np.abs(flow.values("test_loss") - limit) < 4 * flow.values("test_loss_error") + 2e-3 * limit)


@pytest.mark.long
@pytest.mark.parametrize("training", [GradientDescent(0.1), GradientDescent(0.1, sample_ratio=0.8)])
def test_long_spectra_are_compressed_with_a_stated_error(training, monkeypatch):
    problem = Problem(
        PowerLaw(1.4, 0.6, modes=3000, noise=0.01), DeepLinear(depth=1, width_ratio=0.2, richness=1.5), training
    )
    whole = solve(problem, [1, 5, 20, 60])
    monkeypatch.setattr("foretrain.limits.deep_linear._spectrum.EXACT_NUMBERS", 0)
    short = solve(problem, [1, 5, 20, 60])
    np.testing.assert_allclose(short.values("test_loss"), whole.values("test_loss"), rtol=1e-8)
    np.testing.assert_allclose(short.values("train_loss"), whole.values("train_loss"), rtol=1e-8)
    assert 0 < short.values("test_loss_error").max() < 1e-7


def test_power_law_keeps_its_signal():
    task = PowerLaw(1.5, 0.5, modes=200)
    loss = test(task, DeepLinear(depth=1), GradientDescent(0.05), [0])[0]
    assert loss == pytest.approx(task.spectrum().to_spectrum().total_power, rel=1e-10)
    finite = test(task, DeepLinear(depth=1, width_ratio=0.5, richness=2.0), GradientDescent(0.05), [0])[0]
    assert finite == pytest.approx(loss + task.spectrum().to_spectrum().trace / 200 / (4.0 * 0.5), rel=1e-9)


def test_the_best_rate_stays_in_mup_and_moves_in_ntk():
    model = DeepLinear(depth=2, width_ratio=[0.5, 2.0, 8.0, 32.0], richness=3.0, parameterization=["mup", "ntk"])
    sweep = lr_sweep(Problem(Isotropic(), model, GradientDescent(0.1)), 10)
    assert sweep.dims == ("width_ratio", "parameterization")
    # Means of a 24-point grid, read off to about 8 per cent.
    np.testing.assert_allclose(sweep.best_lr[:, 0], [0.095, 0.108, 0.095, 0.095], rtol=0.13)
    np.testing.assert_allclose(sweep.best_lr[:, 1], [0.074, 0.155, 0.254, 0.325], rtol=0.26)
    assert sweep.drift("width_ratio")[0] < 1.25 < 3 < sweep.drift("width_ratio")[1]
    assert not np.any(sweep.at_end)
    assert np.all(sweep.edge > sweep.best_lr)
