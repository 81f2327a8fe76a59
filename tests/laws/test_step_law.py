"""The best learning rate and batch from grids of runs."""

from pathlib import Path

import numpy as np
import pytest

from foretrain.errors import InvalidInput
from foretrain.laws import best_hyperparameters, read_runs

RATE = {"constant": np.log(20.0), "params": -0.6, "tokens": 0.15}
BATCH = {"constant": np.log(2.0), "tokens": 0.5}
CURVATURE = np.array([[0.02, -0.006], [-0.006, 0.016]])


def grids(noise=0.0, seed=0, rates=(1e-4, 2e-2), batches=(1e4, 4e6), cubic=0.0, **more):
    """A grid of 10 rates and 10 batches at each of nine (params, tokens), with the minimum that RATE and BATCH say."""
    axes = [1e8, 3e8, 1e9], [2e9, 1e10, 5e10], np.geomspace(*rates, 10), np.geomspace(*batches, 10)
    n, d, lr, b = (v.ravel() for v in np.meshgrid(*axes))
    best_rate = np.exp(RATE["constant"]) * n ** RATE["params"] * d ** RATE["tokens"]
    off = np.log([lr / best_rate, b / (np.exp(BATCH["constant"]) * d ** BATCH["tokens"])])
    excess = 0.5 * np.einsum("ir,ij,jr->r", off, CURVATURE, off) * (1 + cubic * np.tanh(off[0]))
    loss = (1.8 + 400 / n**0.34) * np.exp(excess + noise * np.random.default_rng(seed).standard_normal(len(n)))
    return {"params": n, "tokens": d, "lr": lr, "batch_tokens": b, "loss": loss} | more


def test_no_noise_gives_the_law_back():
    law = best_hyperparameters(grids(), bootstrap=0)
    assert {k: e.value for k, e in law.rate_of.items()} == pytest.approx(RATE, rel=1e-6)
    assert {k: e.value for k, e in law.batch_of.items()} == pytest.approx(BATCH, rel=1e-6)
    assert max(law.scatter) < 1e-6
    for optimum in law.optima:
        np.testing.assert_allclose(optimum.curvature, CURVATURE, rtol=1e-6)
        assert optimum.loss == pytest.approx(1.8 + 400 / optimum.at["params"] ** 0.34, rel=1e-8)
    assert law.excess(2.0) == pytest.approx(0.5 * 0.02 * np.log(2.0) ** 2, rel=1e-6)


@pytest.mark.long
def test_intervals_cover_and_shrink():
    """Most of 36 intervals of 90 % cover the truth; half the noise gives about half the width."""
    covered, widths = [], {0.002: [], 0.001: []}
    for seed in range(6):
        for noise, found in widths.items():
            law = best_hyperparameters(grids(noise, seed), bootstrap=100, level=0.9)
            for truth, of in ((RATE, law.rate_of), (BATCH, law.batch_of)):
                for name in truth:
                    if name != "constant":
                        covered.append(of[name].low <= truth[name] <= of[name].high)
            found.append(law.rate_of["params"].high - law.rate_of["params"].low)
    # 36 intervals of a bootstrap over nine grids, which is narrow by about sqrt(8 / 9) and more for so few: at least 75 %.
    assert np.mean(covered) >= 0.75
    assert np.mean(widths[0.002]) / np.mean(widths[0.001]) == pytest.approx(2.0, rel=0.35)


def test_units_move_the_constant_only():
    plain = best_hyperparameters(grids(0.001), bootstrap=20)
    runs = grids(0.001)
    runs["batch_seqs"] = runs.pop("batch_tokens") / 2048
    other = best_hyperparameters(runs, bootstrap=20)
    assert other.batch == "batch_seqs"
    assert other.batch_of["tokens"].value == pytest.approx(plain.batch_of["tokens"].value, rel=1e-6)
    assert other.batch_of["constant"].value == pytest.approx(plain.batch_of["constant"].value - np.log(2048), rel=1e-6)
    assert other.rate_of["params"].value == pytest.approx(plain.rate_of["params"].value, rel=1e-6)


def test_diverged_runs_do_not_move_the_vertex():
    runs = grids()
    wild = np.random.default_rng(1).random(len(runs["loss"])) < 0.05
    runs["loss"] = np.where(wild & (runs["lr"] > 5e-3), runs["loss"] + 5.0, runs["loss"])
    assert best_hyperparameters(runs, bootstrap=0).rate_of["params"].value == pytest.approx(-0.6, abs=1e-6)


def test_prediction():
    law = best_hyperparameters(grids(0.001), bootstrap=100)
    at = {"params": 1e10, "tokens": 2e11}
    said = law.predict(at)
    for name, truth in (("lr", 20 * 1e10**-0.6 * 2e11**0.15), ("batch_tokens", 2 * 2e11**0.5)):
        assert said[name].low < said[name].value < said[name].high
        assert said[name].value == pytest.approx(truth, rel=0.2)
    with pytest.raises(InvalidInput, match="expected tokens > 0, got nothing"):
        law.predict({"params": 1e10})


def test_grids_whose_minimum_is_outside_are_left_out():
    # Rates up to 7e-3 only: the smallest models want more.
    law = best_hyperparameters(grids(rates=(1e-4, 7e-3)), bootstrap=20)
    left_out = [o for o in law.optima if o.trouble]
    assert 0 < len(left_out) < 6
    assert all(o.at["params"] == 1e8 or o.trouble == "" for o in law.optima)
    assert "params = 1e+08" in law.warnings[0]
    assert "left out" in law.warnings[0]
    assert law.rate_of["params"].value == pytest.approx(-0.6, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({}, {"rate": "learning_rate"}, "no column 'learning_rate'"),
        ({}, {"window": 0.0}, "window"),
        ({}, {"level": 95}, "level"),
        ({"params": np.full(900, 1e8)}, {}, "too alike to tell how the best lr depends on params, tokens"),
        ({"loss": np.full(900, np.nan)}, {}, "missing values"),
        ({"lr": np.full(900, 1e-3)}, {}, "0 of 9 grids have a minimum"),
        ({"loss": np.full(900, 2.0)}, {}, "grids have a minimum"),
    ],
)
def test_refusals(change, options, words):
    with pytest.raises(InvalidInput) as refused:
        best_hyperparameters({**grids(), **change}, bootstrap=0, **options)
    assert words in str(refused.value)


@pytest.fixture(scope="module")
def runs(scaling_data: Path):
    columns = {"loss": "smooth_loss", "batch_tokens": "batch_seqs*2048"}
    return read_runs(scaling_data / "steplaw_dense_lr_bs.csv", columns=columns)


class TestPublished:
    """1911 runs of arXiv 2503.04715."""

    def test_best_run_of_every_grid(self, runs):
        """The regression on the best runs, which a paraboloid replaces: 3.40 - 0.823 ln N + 0.288 ln D, and 1.23 + 0.498 ln D."""
        n, d, lr, b, loss = runs.numbers("params", "tokens", "lr", "batch_tokens", "loss").T
        best = [np.flatnonzero((n == p) & (d == t)) for p, t in sorted(set(zip(n, d, strict=True)))]
        assert len(best) == 17
        best = [rows[np.argmin(loss[rows])] for rows in best]
        x = np.stack([np.ones(17), np.log(n[best]), np.log(d[best])], axis=1)
        rate = np.linalg.lstsq(x, np.log(lr[best]), rcond=None)[0]
        batch = np.linalg.lstsq(x[:, [0, 2]], np.log(b[best]), rcond=None)[0]
        assert rate == pytest.approx([3.40, -0.823, 0.288], abs=6e-3)
        assert batch == pytest.approx([1.23, 0.498], abs=6e-3)

    def test_paraboloids(self, runs):
        """1.79 N^-0.713 D^0.307 and 0.58 D^0.571 are published; the exponent of D of the rate is lower than theirs in all of ours."""
        law = best_hyperparameters(runs)
        assert len(law.optima) == 17
        assert law.warnings == ()
        assert law.rate_of["params"].low < -0.713 < law.rate_of["params"].high
        assert law.batch_of["tokens"].low < 0.571 < law.batch_of["tokens"].high
        assert law.rate_of["tokens"].high < 0.307
        # Vertices scatter less about their law than best runs do about theirs, which are multiples of the grid's steps.
        assert law.scatter[0] < 0.1
        assert law.scatter[1] < 0.2
        at = {"params": 1e9, "tokens": 1e11}
        said = law.predict(at)
        assert said["batch_tokens"].low < 0.58 * 1e11**0.571 < said["batch_tokens"].high
        # A rate that is off by a factor of two costs a third of a per cent here.
        assert 0.002 < law.excess(2.0) < 0.005
