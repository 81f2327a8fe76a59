"""The march against the same equations solved as dense linear algebra, and how it grows."""

import dataclasses

import deep_linear_dense as dense
import numpy as np
import pytest

from foretrain import GradientDescent, Isotropic, Momentum, OnePassSGD, Problem, SpectrumTask
from foretrain.limits.deep_linear import _points as points
from foretrain.limits.deep_linear import weights_of
from foretrain.limits.deep_linear._march import padded_size, stages
from foretrain.limits.deep_linear._outputs import TWO_TIME, two_time
from foretrain.limits.deep_linear._points import curves_of, march_bytes, point_of
from foretrain.problems import DeepLinear, Schedule

INF = float("inf")
STEPS = 13
ROUNDING = 1e-10
GROUPS = SpectrumTask([1.6, 0.7, 0.4], [0.8, 1.1, 1.4], [1.0, 2.0, 1.0], noise=0.09)

# Richness and width are both away from 1 wherever they matter: a wrong power of either shows.
CASES = {
    "population": Problem(Isotropic(), DeepLinear(depth=2, width_ratio=0.6, richness=1.7), GradientDescent(0.05)),
    "reused": Problem(
        Isotropic(noise=0.09),
        DeepLinear(depth=3, width_ratio=0.5, richness=0.7),
        GradientDescent(0.03, sample_ratio=1.3),
    ),
    "one layer": Problem(
        Isotropic(noise=0.2), DeepLinear(depth=1, width_ratio=2.0, richness=2.0), GradientDescent(0.1, sample_ratio=0.7)
    ),
    "fresh": Problem(
        Isotropic(noise=0.04), DeepLinear(depth=2, width_ratio=1.4, richness=0.8), OnePassSGD(0.05, batch_ratio=0.5)
    ),
    "groups": Problem(GROUPS, DeepLinear(depth=2, width_ratio=0.8, richness=1.5), GradientDescent(0.05)),
    "groups, reused": Problem(
        GROUPS, DeepLinear(depth=2, width_ratio=0.8, richness=1.5), GradientDescent(0.05, sample_ratio=1.5)
    ),
    "groups, fresh": Problem(
        GROUPS, DeepLinear(depth=1, width_ratio=0.8, richness=1.5), OnePassSGD(0.05, batch_ratio=0.8)
    ),
    "groups, wide": Problem(GROUPS, DeepLinear(depth=2, richness=1.5), GradientDescent(0.05)),
    "wide, reused": Problem(GROUPS, DeepLinear(depth=2, richness=1.5), GradientDescent(0.05, sample_ratio=1.5)),
    "ntk": Problem(
        Isotropic(),
        DeepLinear(depth=2, width_ratio=3.0, richness=1.5, parameterization="ntk"),
        GradientDescent(0.05, sample_ratio=2.0),
    ),
    "momentum": Problem(
        Isotropic(noise=0.1),
        DeepLinear(depth=2, width_ratio=2.0, richness=1.3),
        Momentum(0.02, momentum=0.6, sample_ratio=2.0),
    ),
    "schedule": Problem(
        Isotropic(),
        DeepLinear(depth=2, width_ratio=2.0, richness=1.3),
        GradientDescent(0.08, schedule=Schedule("cosine", steps=12, warmup=3)),
    ),
    "residual": Problem(
        Isotropic(), DeepLinear(depth=3, width_ratio=0.7, richness=1.4, residual=True), GradientDescent(0.04)
    ),
    "residual, reused": Problem(
        GROUPS,
        DeepLinear(depth=3, width_ratio=0.7, richness=0.6, residual=True, branch_scale=0.5, depth_exponent=0.0),
        GradientDescent(0.04, sample_ratio=1.5),
    ),
    "residual, fresh": Problem(
        Isotropic(noise=0.1),
        DeepLinear(depth=2, width_ratio=1.7, richness=1.6, residual=True, branch_scale=1.3),
        OnePassSGD(0.03, batch_ratio=0.9),
    ),
}


def second_road(problem: Problem) -> dict[str, np.ndarray]:
    model, protocol, task = problem.model, problem.training, problem.task
    spectrum = task.spectrum()
    share = spectrum.multiplicity / spectrum.modes
    power = spectrum.target_power * (1.0 if isinstance(task, SpectrumTask) else spectrum.modes)
    fresh = isinstance(protocol, OnePassSGD)
    samples = protocol.batch_ratio if fresh else protocol.sample_ratio
    exponent = 0.5 if model.depth_exponent is None else model.depth_exponent
    branch = (model.branch_scale or 1.0) * model.depth**-exponent if model.residual else None
    richness = model.richness / (np.sqrt(model.width_ratio) if model.parameterization == "ntk" else 1.0)
    return dense.solve(
        model.depth,
        STEPS,
        protocol.learning_rate,
        richness,
        model.width_ratio,
        INF if samples is None else samples,
        task.noise,
        spectrum.eigenvalues,
        share,
        power,
        fresh,
        weights_of(protocol, STEPS + 1),
        branch,
    )


@pytest.mark.parametrize("case", CASES)
def test_two_roads(case):
    problem = CASES[case]
    expected = second_road(problem)
    point = point_of(problem, STEPS + 1)
    found = curves_of(point, keep=True)
    np.testing.assert_allclose(found.losses[:, 0], np.diag(expected["Cv"]), rtol=ROUNDING)
    np.testing.assert_allclose(found.losses[:, 1], np.diag(expected["Cd"]), rtol=ROUNDING)
    np.testing.assert_allclose(found.losses[:, 2], np.diag(expected["bias"]), rtol=ROUNDING, atol=1e-13)
    depth, times = problem.model.depth, np.arange(STEPS + 1)
    matrices = {name: two_time(name, found, problem, times) for name in TWO_TIME}
    named = {
        "forward_covariance": "Ch",
        "backward_covariance": "Cg",
        "forward_response": "Rh",
        "backward_response": "Rg",
    }
    for name, short in named.items():
        for layer in range(1, depth + 1):
            wanted = expected[f"{short}{layer}"]
            np.testing.assert_allclose(
                matrices[name][layer].T, wanted, rtol=1e-9, atol=ROUNDING * np.max(np.abs(wanted)), err_msg=name
            )
    np.testing.assert_allclose(matrices["forward_covariance"][0], expected["Cu"], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("richness", lambda gamma, nu: gamma),
        ("richness", lambda gamma, nu: 1.0),
        ("width", lambda gamma, nu: 1 / (gamma * nu)),
        ("width", lambda gamma, nu: 1 / (gamma**2 * nu**0.5)),
    ],
)
def test_a_wrong_power_shows(name, change):
    point = point_of(CASES["reused"], STEPS + 1)
    right = curves_of(point).losses[:, 0]
    wrong = dataclasses.replace(point, sizes=point.sizes._replace(**{name: change(0.7, 0.5)}))
    assert np.max(np.abs(curves_of(wrong).losses[:, 0] / right - 1)) > 1e-2


def test_the_last_size_holds_all_rows_and_stages_grow():
    for rows in (1, 2, 16, 17, 48, 49, 101, 129, 401, 513, 900, 2000):
        found = stages(rows)
        assert found == sorted(set(found))
        assert found[-1] == padded_size(rows) >= rows
    assert {padded_size(rows) for rows in range(385, 417)} == {416}


def test_growing_changes_nothing(monkeypatch):
    problem = CASES["reused"]
    point = point_of(problem, 90)
    grown = curves_of(point).losses
    monkeypatch.setattr("foretrain.limits.deep_linear._march.stages", lambda rows: [96])
    np.testing.assert_allclose(curves_of(point).losses, grown, rtol=1e-12, atol=1e-15)


def test_room_for_more_layers_changes_nothing(monkeypatch):
    point = point_of(CASES["residual"], STEPS + 1)
    few = curves_of(point).losses
    more = dataclasses.replace(point, layout=point.layout._replace(depth=6))
    np.testing.assert_allclose(curves_of(more).losses, few, rtol=1e-12)


def test_memory_is_that_of_the_matrices():
    point = point_of(CASES["groups, reused"], 401)
    state = sum(matrix.nbytes for matrix in curves_of(point_of(CASES["groups, reused"], 40), keep=True).state.values())
    assert march_bytes(point.layout, 40) > state == 8 * point.layout.numbers(padded_size(40))


@pytest.mark.long
def test_infinite_depth_is_the_limit_of_deep_ones():
    def curves(depth):
        model = DeepLinear(depth=depth, width_ratio=2.0, residual=True, richness=1.2)
        return curves_of(point_of(Problem(Isotropic(), model, GradientDescent(0.05)), 6))

    limit = curves(INF)
    # Extrapolated from depths that the limit is not made of: the error left is of third order in 1/L.
    depths = (28, 32, 40, 48)
    weights = [np.prod([a / (a - b) for b in depths if b != a]) for a in depths]
    other = np.tensordot(weights, np.stack([curves(depth).losses[:, 0] for depth in depths]), 1)
    np.testing.assert_allclose(other, limit.losses[:, 0], rtol=2e-4)
    assert limit.losses[0, 0] == pytest.approx(1 + np.e / (1.2**2 * 2), abs=limit.errors[0, 0] + 1e-12)
    assert np.all(limit.errors[:, 0] < 1e-4)
    assert points.DEPTHS[-1] < 28
