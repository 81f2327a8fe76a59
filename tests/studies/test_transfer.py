"""`transfer`: verdicts, recommendation, mistakes, resumption; with a trainer that answers from known surfaces, and in earnest."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from transfer_surfaces import SIZES, pretended_runs, problem

import foretrain.training
from foretrain import MLP, Digits, NetworkTraining, PowerLaw, Problem, RandomFeatures, ResNet, Schedule, transfer
from foretrain.curves import LearningCurves
from foretrain.errors import InvalidInput, UnsupportedProblem
from foretrain.problems import GradientFlow
from foretrain.studies import Store, Study, TransferOptions, parse_study
from foretrain.studies._transfer_plan import plan
from foretrain.studies._transfer_verdict import judge

EXPONENTS = {"sp": -0.6, "mup": 0.0, "ntk": 0.0}


@pytest.fixture
def calls(monkeypatch):
    """The trainer is pretended; what it was asked is remembered."""
    asked = []
    monkeypatch.setattr(foretrain.training, "run_network", pretended_runs(EXPONENTS, asked))
    return asked


def test_verdicts(calls):
    found = transfer(problem(), [0, 100], seeds=4)
    verdicts = {row["parameterization"]: row for row in found.verdicts}
    assert verdicts["mup"]["verdict"] == "transfers"
    assert verdicts["sp"]["verdict"] == "drifts"
    drifts = {row["parameterization"]: row for row in found.drift}
    for scheme in ("sp", "mup"):
        assert abs(drifts[scheme]["exponent"] - EXPONENTS[scheme]) < 3 * drifts[scheme]["stderr"]
        assert drifts[scheme]["without_smallest"]["sizes"] == 4
    assert f"{len(SIZES)}" == str(len({row["size"] for row in found.optima}))
    assert "transfers" in repr(found)


def test_result_is_labelled_and_travels(calls, tmp_path):
    found = transfer(problem(), [0, 50, 100], seeds=3)
    curves = found.curves
    assert curves.dims["train_loss"] == ("parameterization", "width", "learning_rate", "time")
    assert curves.dims["train_loss_by_seed"] == ("parameterization", "width", "learning_rate", "seed", "time")
    by_seed = curves.values("train_loss_by_seed")
    assert np.array_equal(curves.values("train_loss"), by_seed.mean(axis=-2))
    text = json.dumps(found.to_json(), allow_nan=False)
    table = json.loads(text)
    assert (table["axis"], table["swept"], table["status"]) == ("width", "learning_rate", "partial")
    assert {"verdict", "sentence", "drift", "edge", "cost", "optima"} <= set(table["variants"][0])
    found.save(tmp_path / "sweep.nc")
    loaded = LearningCurves.load(tmp_path / "sweep.nc")
    assert loaded.attrs["transfer"]["variants"][0]["sentence"] == found.analysis["variants"][0]["sentence"]
    assert parse_study(loaded.attrs["study"]).problem == found.problem


def test_cost_and_wider(calls):
    sp, mup = transfer(problem(), [0, 100], seeds=4).analysis["variants"]
    assert sp["cost"]["value"] == np.inf  # 16^0.6 = 5.3 times the best rate is beyond the cliff at 5
    assert abs(mup["cost"]["value"]) < 0.05
    assert mup["wider"]["monotone"]


def test_wider_is_worse_is_said(monkeypatch):
    plain = pretended_runs(EXPONENTS)

    def worse(part, times, *, seeds, progress=None):
        runs = plain(part, times, seeds=seeds)
        runs.train_loss[...] *= part.model.width**0.3
        return runs

    monkeypatch.setattr(foretrain.training, "run_network", worse)
    (variant,) = transfer(problem(schemes=("mup",)), [0, 100], seeds=4).analysis["variants"]
    assert not variant["wider"]["monotone"]
    assert "error of implementation" in variant["wider"]["sentence"]


def test_recommendation_where_it_transfers(calls):
    found = transfer(problem(schemes=("mup",)), [0, 100], seeds=4)
    (here,) = found.recommend(4096, proxy=64)
    row = found.optima[0]
    assert here.value == pytest.approx(row["value"]) == pytest.approx(here.proxy_value)
    assert here.low < row["low"]
    assert here.high > row["high"]
    assert here.warning == ""
    lr = {row["role"]: row["lr"] for row in here.tensors}
    assert lr["hidden_inner"] == pytest.approx(here.value)  # SGD: hidden rates as at the base, (PA.4)
    assert lr["input"] == pytest.approx(64 * here.value)  # m_N = 4096 / 64
    assert json.dumps(here.to_json(), allow_nan=False)
    near = found.recommend(1024)[0]
    assert near.proxy == 1024
    assert near.high / near.low < here.high / here.low


def test_recommendation_where_it_does_not(calls):
    (here,) = transfer(problem(schemes=("sp",)), [0, 100], seeds=4).recommend(4096)
    assert here.warning.startswith("DOES NOT TRANSFER")
    assert here.value == pytest.approx(here.proxy_value * 4**-0.6, rel=0.15)
    assert here.low < here.value < here.high
    assert all(row["lr"] == pytest.approx(here.value) for row in here.tensors)


def test_grid_that_ends_too_early(calls):
    rates = (0.1 * 2.0 ** np.arange(-6, -1)).tolist()
    found = transfer(problem(schemes=("mup",), rates=rates), [0, 100], seeds=3)
    (verdict,) = found.verdicts
    assert verdict["verdict"] == "undecided"
    assert "extend the grid of learning_rate up from 0.025 to 0.1" in verdict["advice"][0]
    assert all(row["status"] == "upper end of the grid" and row["high"] == np.inf for row in found.optima)
    with pytest.raises(InvalidInput, match="does not bracket the optimum"):
        found.recommend(2048)


def test_large_sizes_that_diverge_everywhere_still_count(calls):
    # In sp, 1024 has its optimum 5 times lower than 64; a grid that begins above it only bounds the drift.
    rates = (0.06 * 2.0 ** np.arange(0, 5)).tolist()
    (verdict,) = transfer(problem(schemes=("sp",), rates=rates), [0, 100], seeds=3).verdicts
    assert verdict["verdict"] in ("drifts", "undecided")
    assert "extend the grid of learning_rate down" in verdict["advice"][0]


@pytest.mark.parametrize(
    ("smallest", "verdict"), [((3.0, 3.0, 3.0, 3.0), "drifts"), ((5.0, -0.8, -0.8, -0.8), "undecided")]
)
def test_an_optimum_at_the_end_of_the_grid_by_chance_is_no_drift(smallest, verdict):
    """Four seeds whose best rates at the smallest size all lie beyond the grid show a drift; one of four does not."""
    x = np.linspace(-1.0, 1.0, 7)
    best = np.array([smallest, *(place + np.array([-0.05, 0.0, 0.0, 0.05]) for place in (0.7, 0.4, 0.1))])
    losses = np.exp(0.25 * (x[None, :, None] - best[:, None, :]) ** 2 - 1)
    found = plan(problem((64, 128, 256, 512), ("mup",), rates=np.exp(x).tolist()), TransferOptions())
    table = judge(found, {}, losses, losses, 0.1, "mup")
    assert table["optima"][0]["status"] == "upper end of the grid"
    assert table["verdict"] == verdict


def test_everything_diverges(monkeypatch):
    monkeypatch.setattr(foretrain.training, "run_network", pretended_runs(EXPONENTS, cliff=-9))
    found = transfer(problem(schemes=("mup",)), [0, 100], seeds=2)
    assert {row["status"] for row in found.optima} == {"diverged everywhere"}
    assert found.verdicts[0]["verdict"] == "undecided"
    assert np.isnan(found.drift[0]["exponent"])
    assert json.dumps(found.to_json(), allow_nan=False)


def test_one_seed(calls):
    found = transfer(problem(schemes=("mup",)), [0, 100], seeds=1)
    assert np.isfinite(found.drift[0]["stderr"])
    assert np.isnan(found.curves.values("train_loss_stderr")).all()


def test_words_are_compared_by_rank(monkeypatch):
    shapes = [Schedule("constant"), Schedule("cosine", steps=100), Schedule("linear", steps=100)]
    cost = {"constant": 1.3, "cosine": 1.0, "linear": 1.15}
    plain = pretended_runs(EXPONENTS)

    def scheduled(part, times, *, seeds, progress=None):
        runs = plain(part, times, seeds=seeds)
        runs.train_loss[...] *= cost[part.training.schedule.shape]
        return runs

    monkeypatch.setattr(foretrain.training, "run_network", scheduled)
    found = transfer(problem(schemes=("mup",), rates=0.1, schedule=shapes), [0, 100], seeds=3)
    assert found.swept == "schedule"
    assert found.verdicts[0]["verdict"] == "transfers"
    assert {row["value"] for row in found.optima} == {"cosine(steps=100)"}
    assert found.analysis["variants"][0]["agreement"] == pytest.approx(1)
    with pytest.raises(InvalidInput, match="choice among words"):
        found.recommend(2048)


def test_pieces_go_through_the_store(calls, tmp_path):
    store = Store(tmp_path / "store")
    first = transfer(problem(), [0, 100], seeds=3, store=store)
    asked = len(calls)
    assert asked > 10
    again = transfer(problem(), [0, 100], seeds=3, store=store)
    assert len(calls) == asked
    assert again.to_json() == first.to_json()
    narrow = problem((64, 128))
    calls.clear()
    transfer(narrow, [0, 100], seeds=4, store=store)
    transfer(narrow, [0, 100], seeds=8, store=store)  # takes over the block of the first four
    assert sum(seeds == (0, 1, 2, 3) for _, seeds in calls) == sum(seeds == (4, 5, 6, 7) for _, seeds in calls)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": MLP(width=64), "rates": None}, "transfer needs a size with at least two values"),
        ({"model": ResNet(width=[8, 16], depth=[2, 4]), "rates": None}, "one size at a time"),
        ({"model": MLP(width=[8, 16]), "rates": 0.1}, "transfer needs a swept hyperparameter"),
        ({"model": MLP(width=[8, 16]), "rates": [0.1, 0.2, 0.4]}, "at least 4 values"),
        ({"model": MLP(width=[8, 16], richness=[0.5, 1.0]), "rates": None}, "one hyperparameter at a time"),
        ({"model": MLP(width=[8, float("inf")]), "rates": None}, "expected finite sizes"),
    ],
)
def test_mistakes_in_axes(change, message):
    rates = [0.1, 0.2, 0.4, 0.8] if change["rates"] is None else change["rates"]
    wrong = Problem(Digits(), change["model"], NetworkTraining(learning_rate=rates, samples=100))
    with pytest.raises(InvalidInput, match=message):
        transfer(wrong, [10], seeds=1)


def test_other_mistakes():
    with pytest.raises(UnsupportedProblem, match="trained by an optimizer"):
        transfer(Problem(PowerLaw(1.5, 0.6), RandomFeatures(width=[8, 16]), GradientFlow(samples=8)), [1.0])
    with pytest.raises(InvalidInput, match="expected a Problem or a Study"):
        transfer("mlp")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="did you mean 'momentum'"):
        transfer(problem(), [10], swept="momentun")
    with pytest.raises(InvalidInput, match="'momentum' has one value"):
        transfer(problem(), [10], swept="momentum")
    with pytest.raises(InvalidInput, match="only width has several"):
        transfer(problem(), [10], axis="depth")
    with pytest.raises(InvalidInput, match="one of the trained sizes 64, 128"):
        transfer(Study(problem(), times=[10], transfer=TransferOptions(proxy=100)))
    with pytest.raises(InvalidInput, match="a study has its own times"):
        transfer(Study(problem(), times=[10]), [10])
    many = problem(samples=[100, 200])
    with pytest.raises(InvalidInput, match="samples: transfer sweeps width and learning_rate"):
        transfer(many, [10])


def test_recommend_refuses_wrong_sizes(calls):
    found = transfer(problem(schemes=("mup",)), [0, 100], seeds=2)
    with pytest.raises(InvalidInput, match="whole number >= 1"):
        found.recommend(0.5)
    with pytest.raises(InvalidInput, match="one of the trained sizes"):
        found.recommend(2048, proxy=100)


SECTION = """
[task]
kind = "digits"
[model]
kind = "mlp"
width = [8, 16]
base_width = 8
[training]
optimizer = "sgd"
learning_rate = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6]
batch_size = 16
samples = 200
times = [0, 5]
seeds = 2
[transfer]
objective = "test_loss"
tolerance = 0.2
target = 64
"""


def test_section_reads_and_round_trips():
    study = parse_study(SECTION)
    assert study.transfer == TransferOptions(objective="test_loss", tolerance=0.2, target=64)
    assert parse_study(study.to_toml()) == study
    with pytest.raises(InvalidInput, match=r"\[transfer\]: objectiv: unknown key"):
        parse_study(SECTION.replace("objective", "objectiv"))
    with pytest.raises(InvalidInput, match=r"expected a section \[transfer\]"):
        parse_study("transfer = 3\n" + SECTION.split("[transfer]")[0])


@pytest.mark.long
def test_real_digits_are_deterministic(tmp_path):
    study = parse_study(SECTION)
    store = Store(tmp_path)
    first, again = transfer(study, store=store), transfer(study, store=store)
    assert first.to_json() == again.to_json()
    assert first.curves.status in ("ok", "partial")
    losses = first.curves.values("test_loss")
    assert np.all(losses[..., 1] < losses[..., 0])  # five steps help at every one of these rates


KILLED = """
import sys
from foretrain.studies import Store, read_study, transfer
found = transfer(read_study(sys.argv[1]), store=Store(sys.argv[2]))
found.save(sys.argv[3])
"""


@pytest.mark.long
def test_a_killed_sweep_goes_on_and_agrees(tmp_path):
    """Kill -9 after the first finished piece; the rerun keeps that file as it is and gives the numbers of an undisturbed run."""
    (tmp_path / "study.toml").write_text(SECTION.replace("[8, 16]", "[8, 16, 32, 64]"))
    store = tmp_path / "store"

    def command(folder, output):
        return [sys.executable, "-c", KILLED, str(tmp_path / "study.toml"), str(folder), str(tmp_path / output)]

    process = subprocess.Popen(command(store, "killed.nc"), env=os.environ.copy())
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(store.glob("*.nc")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in store.glob("*.nc")}
    assert kept
    assert not (tmp_path / "killed.nc").exists()
    subprocess.run(command(store, "resumed.nc"), check=True, env=os.environ.copy())
    subprocess.run(command(tmp_path / "other", "whole.nc"), check=True, env=os.environ.copy())
    after = {path.name: path.stat().st_mtime_ns for path in store.glob("*.nc")}
    assert kept.items() <= after.items()
    assert len(after) > len(kept)
    resumed, whole = (LearningCurves.load(tmp_path / name) for name in ("resumed.nc", "whole.nc"))
    for name in whole.variables:
        assert np.array_equal(resumed.values(name), whole.values(name), equal_nan=whole.values(name).dtype.kind == "f")
    assert resumed.attrs == whole.attrs
