"""`foretrain transfer` on the command line."""

import json
import sys
from pathlib import Path

import pytest

import foretrain.training

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "studies"))
from transfer_surfaces import pretended_runs

STUDY = """
title = "A sweep"
[task]
kind = "digits"
[model]
kind = "mlp"
width = [64, 128, 256]
base_width = 64
parameterization = ["sp", "mup"]
[training]
optimizer = "sgd"
learning_rate = [0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8]
batch_size = 16
samples = 200
times = [0, 50]
seeds = 3
[transfer]
target = 1024
"""


@pytest.fixture(autouse=True)
def pretended(monkeypatch):
    monkeypatch.setattr(foretrain.training, "run_network", pretended_runs({"sp": -0.6, "mup": 0.0}))


def test_table_and_recommendation(run, study):
    code, out, err = run("transfer", study(STUDY), "--recommend")
    assert code == 0
    assert "drifts: best learning_rate ~ width^" in out
    assert "transfers: best learning_rate" in out
    assert "width 1024: set learning_rate" in out
    assert "first.weight" in out
    assert "DOES NOT TRANSFER" in err


def test_json_is_strict_and_alone(run, study):
    code, out, _ = run("transfer", study(STUDY), "--json", "--recommend", "512")
    table = json.loads(out, parse_constant=pytest.fail)
    assert code == 0
    assert [v["verdict"] for v in table["variants"]] == ["drifts", "transfers"]
    assert [r["target"] for r in table["recommendation"]] == [512, 512]
    assert table["curves"]["dims"]["train_loss"] == ["parameterization", "width", "learning_rate", "time"]


def test_files(run, study, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    code, _, _ = run("transfer", study(STUDY), "-o", "sweep.nc", "--plot", "--report", "page.html", "--seeds", "2")
    assert code == 0
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("sweep.nc", "sweep.png", "page.html"))


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        (("[transfer]\n", '[transfer]\nswept = "momentun"\n'), (), "[transfer]: swept: expected one of"),
        (("[transfer]\n", "[transfer]\nproxy = 100\n"), (), "transfer(proxy): expected one of the trained sizes"),
        (("width = [64, 128, 256]", "width = 64"), (), "[model]: width: transfer needs a size"),
        (
            ("width = [64, 128, 256]", "width = [64, 128]\ndepth = [2, 3]"),
            (),
            "[model]: depth: width and depth have several",
        ),
        (("times = [0, 50]", ""), (), "times: missing"),
        (("target = 1024", "target = -3"), (), "[transfer]: target: expected a whole number >= 1"),
        (("target", "tarket"), (), "did you mean 'target'"),
        ((" ", " "), ("--recommend", "1.5"), "--recommend: expected a size"),
        ((" ", " "), ("--seeds", "0"), "--seeds: seeds: expected a whole number"),
        ((" ", " "), ("--report", "none/page.html"), "--report: no folder"),
    ],
)
def test_mistakes(run, study, change, arguments, words):
    code, out, err = run("transfer", study(STUDY.replace(*change)), *arguments)
    assert code == 2
    assert words in err
    assert "Traceback" not in err
    assert out == ""


def test_template_is_a_study(run, study):
    code, out, _ = run("init", "transfer")
    assert code == 0
    code, table, _ = run("transfer", study(out), "-q")
    assert code == 0
    assert "mup" in table
