"""The command line over the real theory and the real trainer, at small sizes."""

import json

import numpy as np
import pytest

from foretrain.curves import Comparison

LAW = """
[task]
kind = "power-law"
capacity = 1.5
source = 0.6
modes = 200
noise = 0.01
[model]
kind = "random-features"
width = WIDTH
[training]
"""
FLOW = 'protocol = "gradient-flow"\nsamples = [16, 64]\ntimes = [1.0, 100.0, inf]\nseeds = 20\n'


def law(width, training):
    return LAW.replace("WIDTH", width) + training


def test_compare_of_a_power_law(run, study, tmp_path):
    code, out, err = run("compare", study(law("[32, 128]", FLOW)), "-o", "a.nc", "--plot", "--report", "a.html")
    assert (code, err) == (0, "")
    assert "predicted" in out
    found = Comparison.load(tmp_path / "a.nc")
    assert found.error.dims["test_loss"] == ("width", "samples", "time")
    # Twenty seeds whose noise is a few per cent, correlated over the grid, and the theory's own finite-size error.
    assert np.median(np.abs(found.error.values("test_loss_z"))) < 4
    page = (tmp_path / "a.html").read_text()
    assert "capacity = 1.5" in page  # the study file is on the page
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_an_infinite_size_of_theory_only(run, study):
    code, out, _ = run("compare", study(law("[32.5, 128]", FLOW)), "--json", "--seeds", "2")
    assert code == 0
    table = json.loads(out)
    assert table["theory"]["coords"]["width"] == [32.5, 128.0]
    assert table["training"]["coords"]["width"] == [128.0]
    assert table["error"]["coords"]["width"] == [128.0]


@pytest.mark.parametrize("verb", ["solve", "train"])
def test_past_the_edge_of_stability(run, study, verb):
    text = law(
        "[16, 32]",
        'protocol = "gradient-descent"\nlearning_rate = [0.1, 20.0]\nsamples = 24\ntimes = [0, 500]\nseeds = 4\n',
    )
    code, out, err = run(verb, study(text), "--json")
    assert code == 0
    table = json.loads(out)
    assert table["status"] == "partial"
    assert table["data"]["status"] == [["ok", "diverged"]] * 2
    assert table["data"]["test_loss"][0][1][1] == "inf"
    assert err.startswith("warning: ")
    assert "max_stable_lr" in err
    assert err.count("\n") == 1


def test_interpolation_without_ridge_is_infinite_not_a_crash(run, study):
    text = law("16", 'protocol = "ridge"\nridge = 0.0\nsamples = [15, 16, 17]\n')
    code, out, _ = run("solve", study(text), "--json")
    assert code == 0
    loss = json.loads(out)["data"]["test_loss"]
    assert loss[1] == "inf"
    assert all(isinstance(loss[i], float) for i in (0, 2))


def test_unknown_outputs_name_the_valid_ones(run, study):
    code, out, err = run("solve", study(law("16", FLOW + 'outputs = ["bais"]\n')))
    assert (code, out) == (2, "")
    assert err.startswith("error: study.toml: [training]: outputs: ")
    assert "did you mean 'bias'" in err
    assert err.count("\n") == 1


def test_unknown_method_names_the_valid_ones(run, study):
    code, _, err = run("solve", study(law("16", FLOW) + '[solve]\nmethod = "liner"\n'))
    assert code == 2
    assert "did you mean 'linear'" in err
    assert err.count("\n") == 1


def test_outputs_are_variables(run, study):
    code, out, _ = run("solve", study(law("[16, 32]", FLOW + 'outputs = ["bias"]\n')), "--json")
    assert code == 0
    assert json.loads(out)["dims"]["bias"] == ["width", "samples", "time"]


def arrays(tmp_path, rows=200):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(rows, 4))
    np.savez(tmp_path / "mine.npz", inputs=inputs, targets=np.sign(inputs[:, 0]))
    return """
[task]
kind = "arrays"
path = "mine.npz"
[model]
kind = "random-features"
width = 8
[training]
protocol = "gradient-flow"
samples = 50
times = [1.0, 10.0]
seeds = 3
"""


def test_own_data_from_measure_to_report(run, study, tmp_path):
    name = study(arrays(tmp_path))
    code, out, _ = run("measure", name)
    assert code == 0
    for word in ("capacity", "source", "noise", "200 of 200 rows"):
        assert word in out
    code, out, _ = run("measure", name, "--json")
    assert set(json.loads(out)) == {"status", "coords", "dims", "data", "attrs"}
    code, out, _ = run("compare", name, "--report", "a.html")
    assert code == 0
    assert "predicted" in out
    assert "eigenvalue" in (tmp_path / "a.html").read_text()


def test_too_few_rows_to_measure(run, study, tmp_path):
    code, out, err = run("solve", study(arrays(tmp_path, rows=6).replace("samples = 50", "samples = 3")))
    assert (code, out) == (2, "")
    assert err.startswith("error: study.toml: ")
    assert err.count("\n") == 1


def test_more_samples_than_rows_is_told_before_the_theory(run, study, tmp_path, monkeypatch):
    import foretrain.limits

    def computed(*_, **__):
        raise AssertionError("computed")

    monkeypatch.setattr(foretrain.limits, "solve", computed)
    code, _, err = run("compare", study(arrays(tmp_path).replace("samples = 50", "samples = 200")))
    assert code == 2
    assert err.startswith("error: study.toml: [training]: samples: expected at most 199 of the 200 rows of mine")


def test_too_large_says_the_estimate(run, study):
    text = law("1000000", 'protocol = "ridge"\nridge = 0.1\nsamples = 1000000\n')
    text = text.replace("modes = 200", "modes = 1000000")
    code, out, err = run("train", study(text))
    assert (code, out) == (2, "")
    assert "GB" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("verb", ["solve", "train", "compare"])
def test_grids_that_fit_nowhere(run, study, verb):
    sizes = str(list(range(1, 3001)))
    text = law(sizes, f'protocol = "gradient-flow"\nsamples = {sizes}\ntimes = [1.0]\n')
    code, out, err = run(verb, study(text))
    assert (code, out) == (2, "")
    assert err.startswith(f"error: study.toml: {verb}: a grid of 3000 width x 3000 samples")
    assert "GB" in err
    assert err.count("\n") == 1
