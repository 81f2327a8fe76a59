"""What the next run teaches: against the algebra of information, and against runs that were really added."""

import math

import numpy as np
import pytest

from foretrain.errors import InvalidInput
from foretrain.laws import Objective, fit, law_named, next_runs
from foretrain.laws._next_runs import slope_of
from foretrain.laws._problem import rows_of
from foretrain.laws._quantity import values_of
from foretrain.laws._robust import first_order
from foretrain.laws._runs import Runs
from foretrain.laws._solver import minimize

TRUTH = {"A": 400.0, "B": 2000.0, "E": 1.8, "alpha": 0.34, "beta": 0.36}
SQUARES = Objective(loss="squares")
TARGET = "loss@params=1e10,tokens=2e11"
CANDIDATES = [
    {"params": 5e9, "tokens": 1e11},
    {"params": 1e9, "tokens": 1e12},
    {"params": 1e9, "tokens": 2e10},
    {"params": 1e7, "tokens": 1e8},
]


def grid(noise=0.004, seed=0):
    params = np.repeat(np.geomspace(1e7, 1e9, 5), 6)
    tokens = params * np.tile([3.0, 8.0, 20.0, 50.0, 120.0, 300.0], 5)
    clean = law_named("chinchilla").predict(TRUTH, {"params": params, "tokens": tokens})
    rng = np.random.default_rng(seed)
    return {"params": params, "tokens": tokens, "loss": clean * np.exp(noise * rng.standard_normal(30))}


def fits_of(law, x, logs, theta):
    """Least-squares fits to many tables of the same runs at once: the number of a table is a coordinate that nothing moves."""
    low, high = law.bounds

    def residuals(extended, *, slopes=True):
        log, jacobian = law.logs(extended[:, :-1], x, slopes=slopes)
        none = np.zeros((len(extended), 1, x.shape[1]))
        return log - logs[extended[:, -1].astype(int)], None if jacobian is None else np.hstack([jacobian, none])

    starts = np.column_stack([np.repeat(theta[None], len(logs), axis=0), np.arange(len(logs))])
    ends = {"low": np.append(low, -np.inf), "high": np.append(high, np.inf)}
    solved = minimize(residuals, starts, rows=x.shape[1], delta=math.inf, tolerance=1e-8, **ends)
    assert solved.gradient.max() < 1e-6
    return solved.theta[:, :-1]


@pytest.fixture(scope="module")
def found():
    return fit(grid(), objective=SQUARES, bootstrap=1000, validate=False)


def test_information(found):
    """Sherman and Morrison: the same as adding g g^T / tau^2 to the inverse of the covariance."""
    linear = first_order(found.law, rows_of(Runs(grid()), found.law, None), SQUARES, found.theta)
    _, slope, _ = slope_of(found.theta, values_of(found.law, TARGET))
    said = {tuple(r.at.values()): r for r in next_runs(found, CANDIDATES, target=TARGET, runs=grid())}
    for one in CANDIDATES:
        g = found.law.logs(found.theta[None], found.law.columns(one))[1][0, :, 0]
        more = np.linalg.inv(np.linalg.inv(linear.covariance) + np.outer(g, g) / linear.row)
        run = said[tuple(one.values())]
        assert run.now**2 == pytest.approx(slope @ linear.covariance @ slope, rel=1e-6)
        # Inverting a covariance of condition 1e5 twice.
        assert run.after**2 == pytest.approx(slope @ more @ slope, rel=1e-5)
        assert run.shrinkage == pytest.approx(1 - run.after / run.now, rel=1e-12)
        assert run.flops == 6 * one["params"] * one["tokens"]
        assert run.per_flop == pytest.approx((1 - (run.after / run.now) ** 2) / run.flops, rel=1e-9)


def test_file_and_rows_agree(found):
    """Covariances of 1000 bootstrap fits, and the Jacobian: two roads to one ranking."""
    of_file = next_runs(found, CANDIDATES, target=TARGET)
    of_rows = next_runs(found, CANDIDATES, target=TARGET, runs=grid())
    assert [r.at for r in of_file] == [r.at for r in of_rows]
    for one, other in zip(of_file, of_rows, strict=True):
        # 30 rows for 5 parameters: the bootstrap is wider by terms of second order.
        assert one.now == pytest.approx(other.now, rel=0.35)
        assert one.shrinkage == pytest.approx(other.shrinkage, abs=0.08)


def test_best_first_and_never_worse(found):
    said = next_runs(found, CANDIDATES, target=TARGET)
    assert [r.after for r in said] == sorted(r.after for r in said)
    assert all(0 <= r.shrinkage <= 1 for r in said)
    assert said[0].at == CANDIDATES[0]  # nearest to what is asked
    assert said[-1].at["params"] == 1e7
    for run in said:
        assert run.expected.low < run.expected.value < run.expected.high


def test_the_target_itself(found):
    """A run at the point that is asked leaves 1 / (1 / now^2 + 1 / tau^2)."""
    (run,) = next_runs(found, [{"params": 1e10, "tokens": 2e11}], target=TARGET, runs=grid())
    row = first_order(found.law, rows_of(Runs(grid()), found.law, None), SQUARES, found.theta).row
    assert run.after**2 == pytest.approx(1 / (1 / run.now**2 + 1 / row), rel=1e-6)


def test_level(found):
    wide, narrow = (next_runs(found, CANDIDATES[:1], target=TARGET, level=p)[0].expected for p in (0.95, 0.5))
    ratio = math.log(wide.high / wide.low) / math.log(narrow.high / narrow.low)
    assert ratio == pytest.approx(1.959964 / 0.67449, rel=1e-4)


def test_targets(found):
    for target in ("params@1e21", "alpha", lambda p: p["alpha"] - p["beta"]):
        said = next_runs(found, CANDIDATES, target=target)
        assert said[0].after < said[0].now
    difference = next_runs(found, CANDIDATES, target=lambda p: p["alpha"] - p["beta"])[0]
    assert difference.expected.low < difference.expected.value < difference.expected.high


def test_json(found):
    table = next_runs(found, CANDIDATES[:1], target=TARGET)[0].to_json()
    assert set(table) == {"at", "flops", "now", "after", "expected", "shrinkage", "per_flop"}
    assert set(table["expected"]) == {"value", "low", "high"}


@pytest.mark.parametrize("candidate", [0, 1], ids=["near", "aside"])
def test_runs_really_added(candidate):
    """Many tables from one law, fitted with the run and without: standard deviations of the target as they were said to be."""
    law, place = law_named("chinchilla"), CANDIDATES[candidate]
    table = grid(noise=0.0)
    x = np.concatenate([np.stack([table["params"], table["tokens"]]), law.columns(place)], axis=1)
    theta, rng, count = law.coordinates(TRUTH), np.random.default_rng(candidate), 300
    clean = law.logs(theta[None], x, slopes=False)[0][0]
    values = values_of(law, TARGET)
    logs = clean + 0.002 * rng.standard_normal((count, 31))
    targets = np.stack([np.log(values(fits_of(law, x[:, :rows], logs[:, :rows], theta))) for rows in (30, 31)], axis=1)
    now, after = targets.std(axis=0, ddof=1)
    # What is said, from the truth: the Jacobian there, with the variance that was put in.
    slopes = law.logs(theta[None], x)[1][0]
    covariance = np.linalg.inv(slopes[:, :30] @ slopes[:, :30].T) * 0.002**2
    _, h, _ = slope_of(theta, values)
    g = slopes[:, 30]
    said_now = math.sqrt(h @ covariance @ h)
    said_after = math.sqrt(said_now**2 - (h @ covariance @ g) ** 2 / (g @ covariance @ g + 0.002**2))
    # The standard error of a standard deviation of 300 is 4 %.
    assert now == pytest.approx(said_now, rel=3 * 0.041)
    assert after == pytest.approx(said_after, rel=3 * 0.041)
    # Both come from the same tables, so their ratio is surer: 300 pairs with correlation r have (1 - r^2)^(1/2) of that.
    r = np.corrcoef(targets.T)[0, 1]
    assert after / now == pytest.approx(said_after / said_now, rel=3 * 0.041 * math.sqrt(2 * (1 - r**2)))
    # And next_runs says it of a single table, from its own estimate and residuals.
    noisy = grid(noise=0.002, seed=7)
    one = fit(noisy, objective=SQUARES, bootstrap=0, validate=False)
    (run,) = next_runs(one, [place], target=TARGET, runs=noisy)
    assert run.after / run.now == pytest.approx(said_after / said_now, abs=0.12)


class TestMistakes:
    def test_nothing(self, found):
        with pytest.raises(InvalidInput, match=r"next_runs\(candidates\): expected at least one run"):
            next_runs(found, [], target=TARGET)

    def test_unknown_variable(self, found):
        with pytest.raises(InvalidInput, match="has no variable 'toks'; it needs params, tokens"):
            next_runs(found, [{"params": 1e9, "toks": 1e9}], target=TARGET)

    def test_missing_variable(self, found):
        with pytest.raises(InvalidInput, match="'tokens' is missing"):
            next_runs(found, [{"params": 1e9}], target=TARGET)

    def test_no_bootstrap(self):
        bare = fit(grid(), bootstrap=0, validate=False)
        with pytest.raises(InvalidInput, match="has 0 bootstrap fits; 50 or more are needed"):
            next_runs(bare, CANDIDATES, target=TARGET)
        assert next_runs(bare, CANDIDATES, target=TARGET, runs=grid())

    def test_unknown_target(self, found):
        with pytest.raises(InvalidInput, match="no such parameter"):
            next_runs(found, CANDIDATES, target="gamma")
