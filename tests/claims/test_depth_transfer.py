"""Claims on what does not move with size: judged as `transfer` judges, so that a wide error shows nothing."""

import math

import numpy as np
import pytest

import foretrain.training
from foretrain import Digits, NetworkTraining, Problem, ResNet, transfer
from foretrain.claims import VERDICTS
from foretrain.claims import _depth_transfer as module
from foretrain.problems import protocol_times
from foretrain.training import NetworkRuns

SCHEMES = {"mup": -0.6, "mup-depth": 0.0, "completep": 0.0}
RATES = tuple((0.1 * 2.0 ** np.arange(-5, 6)).tolist())


def _pretended(exponents, scatter, best=0.1):
    """A `run_network` whose best rate goes like depth^exponents[scheme], with `scatter` of its logarithm between seeds and depths."""

    def run_network(problem, times, *, seeds, progress=None):
        steps = protocol_times(problem.training, times, "pretended")
        rates = np.log(np.atleast_1d(problem.training.learning_rate) / best)
        move = exponents[problem.model.parameterization] * math.log(problem.model.depth / 4)
        apart = [scatter * np.random.default_rng([s, problem.model.depth]).normal() for s in seeds]
        end = np.exp(0.25 * (rates[:, None] - move - np.array(apart)) ** 2 - 2)
        losses = end[:, :, None] * (1 + 5 / (1 + np.asarray(steps)))
        return NetworkRuns(
            train_loss=losses,
            test_loss=losses,
            accuracy=np.full(losses.shape, np.nan),
            diverged=np.zeros(losses.shape[:-1], dtype=bool),
            points=tuple({"learning_rate": float(r)} for r in np.atleast_1d(problem.training.learning_rate)),
            seeds=tuple(seeds),
            times=steps,
            steps_per_second=1.0,
            flops_per_step=1.0,
            parameters=1,
            strategy="pretended",
            has_classes=False,
        )

    return run_network


def _claims(monkeypatch, exponents=SCHEMES, scatter=0.02, best=0.1):
    monkeypatch.setattr(foretrain.training, "run_network", _pretended(exponents, scatter, best))
    model = ResNet(width=32, depth=(2, 4, 8, 16), parameterization=tuple(exponents), base_width=32, base_depth=2)
    training = NetworkTraining(learning_rate=RATES, optimizer="adam", batch_size=64, samples=500)
    found = transfer(Problem(Digits(), model, training), [0, 100], seeds=3)
    claims = module._drifts(found, ("mup-depth", "completep"), "depth, Adam,")
    assert {claim.verdict for claim in claims} <= set(VERDICTS)
    return dict(zip(exponents, claims, strict=True))


def test_each_scheme_as_it_is(monkeypatch):
    claims = _claims(monkeypatch)
    assert {claim.verdict for claim in claims.values()} == {"reproduced"}
    assert claims["mup"].measured == pytest.approx(-0.6, abs=0.05)
    assert "moves with" in claims["mup"].claim
    assert claims["mup-depth"].claim.startswith("the best learning rate does not move")
    assert "depth 2 to 16" in claims["completep"].why


def test_what_moves_does_not_stay_and_what_stays_does_not_move(monkeypatch):
    claims = _claims(monkeypatch, {"mup": 0.0, "mup-depth": -0.6, "completep": 0.6})
    assert {claim.verdict for claim in claims.values()} == {"not reproduced"}
    assert not any(claim.why.startswith("undecided") for claim in claims.values())


@pytest.mark.parametrize("exponent", [-0.1, 0.0, 0.1])
def test_a_wide_error_reproduces_nothing(monkeypatch, exponent):
    """-0.13 +- 0.1 is compatible with no drift and shows none."""
    claims = _claims(monkeypatch, dict.fromkeys(SCHEMES, exponent), scatter=0.5)
    for claim in claims.values():
        assert claim.error > 0.05
        assert claim.verdict == "not reproduced"
        assert claim.why.startswith("undecided")
        assert "to decide:" in claim.why


def test_a_drift_near_the_tolerance_is_undecided_for_both_claims(monkeypatch):
    claims = _claims(monkeypatch, dict.fromkeys(SCHEMES, 0.1))
    assert {claim.verdict for claim in claims.values()} == {"not reproduced"}
    assert all(claim.why.startswith("undecided") for claim in claims.values())


def test_optima_beyond_the_grid_are_no_measurement(monkeypatch):
    claims = _claims(monkeypatch, dict.fromkeys(SCHEMES, 0.0), best=1e4)
    for claim in claims.values():
        assert math.isnan(claim.measured)
        assert claim.verdict == "not run"
        assert "extend the grid" in claim.why
