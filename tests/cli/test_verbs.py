"""The verbs: what goes to standard output and error, the JSON forms, files, exit codes."""

import json
import warnings

import numpy as np
import pytest

import foretrain
from foretrain.curves import Comparison, LearningCurves
from foretrain.errors import ForetrainWarning, TooLarge, UnsupportedProblem


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not strict JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("verb", ["solve", "train"])
def test_json_of_curves_has_the_stated_form(run, study, pretended, verb):
    code, out, err = run(verb, study(), "--json")
    assert (code, err) == (0, "")
    table = strict(out)
    assert list(table) == ["status", "coords", "dims", "data", "attrs"]
    assert table["status"] == "ok"
    assert table["coords"] == {"width": [4.0, 8.0], "samples": [6.0, 12.0], "time": [1.0, 10.0]}
    assert table["dims"]["test_loss"] == ["width", "samples", "time"]
    assert np.array(table["data"]["test_loss"]).shape == (2, 2, 2)


def test_json_of_a_comparison_has_the_stated_form(run, study, pretended):
    code, out, _ = run("compare", study(), "--json")
    assert code == 0
    table = strict(out)
    assert list(table) == ["theory", "training", "error"]
    for part in table.values():
        assert list(part) == ["status", "coords", "dims", "data", "attrs"]
    measured, theory = (np.array(table[p]["data"]["test_loss"]) for p in ("training", "theory"))
    np.testing.assert_allclose(np.array(table["error"]["data"]["test_loss"]), theory / measured - 1)


def test_infinite_sizes_are_strings_in_json(run, study, pretended):
    text = """
[task]
kind = "isotropic"
[model]
kind = "random-features"
width = [4, inf]
[training]
protocol = "gradient-flow"
times = [1.0, inf]
"""
    _, out, _ = run("solve", study(text), "--json")
    assert strict(out)["coords"]["time"] == [1.0, "inf"]
    assert strict(out)["coords"]["width"] == [4.0, "inf"]


@pytest.mark.parametrize("verb", ["solve", "train", "compare"])
def test_table_for_people(run, study, pretended, verb):
    code, out, err = run(verb, study())
    assert (code, err) == (0, "")
    for word in ("study.toml", "width", "samples", "test_loss", "without a factor 1/2", "learning rate x steps"):
        assert word in out
    if verb == "compare":
        for word in ("predicted", "measured ± s.e.", "error", "median", "worst", "2 seeds"):
            assert word in out


def test_protocol_without_time(run, study, pretended):
    text = LAW_RIDGE
    for verb in ("solve", "train", "compare"):
        code, out, err = run(verb, study(text))
        assert (code, err) == (0, "")
        assert "trained end point" in out
        assert "time" not in out.replace("no time", "")


LAW_RIDGE = """
[task]
kind = "isotropic"
modes = 20
[model]
kind = "random-features"
width = 4
[training]
protocol = "ridge"
ridge = [0.1, 1.0]
samples = 6
"""


def test_output_is_netcdf(run, study, pretended, tmp_path):
    code, out, _ = run("solve", study(), "-o", "curves.nc")
    assert code == 0
    assert "wrote curves.nc" in out
    assert LearningCurves.load(tmp_path / "curves.nc").dims["test_loss"] == ("width", "samples", "time")
    code, out, err = run("compare", study(), "--output", "both.nc", "--json")
    assert code == 0
    assert "wrote both.nc" in err
    strict(out)
    assert Comparison.load(tmp_path / "both.nc").training.attrs["seeds"] == 2


def test_seeds_override_the_study(run, study, pretended):
    _, out, _ = run("train", study(), "--seeds", "3", "--json")
    assert strict(out)["attrs"]["seeds"] == 3
    code, _, err = run("train", study(), "--seeds", "0")
    assert (code, err) == (2, "error: --seeds: seeds: expected a whole number from 1 to 1000000, got 0\n")


def test_the_store_is_used_unless_told_otherwise(run, study, pretended, tmp_path):
    run("train", study(), "--no-store")
    assert not (tmp_path / ".foretrain").exists()
    run("train", study())
    assert len(list((tmp_path / ".foretrain").glob("*.nc"))) >= 1
    run("train", study(), "--store", "mine")
    assert len(list((tmp_path / "mine").glob("*.nc"))) >= 1


@pytest.mark.parametrize(
    "arguments", [("--plot",), ("--plot", "picture.svg"), ("--plot=picture.pdf",), ("-o", "a.nc", "--plot")]
)
def test_plot_with_and_without_a_path(run, study, pretended, tmp_path, arguments):
    code, _, err = run("solve", study(), *arguments)
    assert (code, err) == (0, "")
    expected = {1: "study.png", 2: "picture.svg", 3: "a.png"}[len(arguments)]
    expected = "picture.pdf" if "=" in arguments[0] else expected
    assert (tmp_path / expected).stat().st_size > 1000


def test_plot_may_stand_before_the_study(run, study, pretended, tmp_path):
    assert run("solve", "--plot", study())[0] == 0
    assert (tmp_path / "study.png").exists()


def test_every_point_failed_is_exit_code_1(run, study, monkeypatch):
    import foretrain.limits

    def failing(problem, times=None, **_):
        axes = {"width": np.array([4.0, 8.0])}
        variables = {
            "test_loss": (("width",), np.array([np.nan, np.nan])),
            "status": (("width",), np.array(["failed", "not converged"])),
        }
        return LearningCurves(variables, axes, {"messages": ["raise the ridge"]})

    monkeypatch.setattr(foretrain.limits, "solve", failing)
    code, out, err = run("solve", study(), "--json")
    assert code == 1
    assert strict(out)["data"]["test_loss"] == ["nan", "nan"]  # what there is is handed over all the same
    assert "error: solve: every point failed: raise the ridge" in err


def test_diverged_is_an_answer(run, study, monkeypatch):
    import foretrain.limits

    def diverging(problem, times=None, **_):
        variables = {"test_loss": ((), np.array(np.inf)), "status": ((), np.array("diverged"))}
        return LearningCurves(variables, {}, {"messages": ["learning rate past the edge 0.5"]})

    monkeypatch.setattr(foretrain.limits, "solve", diverging)
    code, out, err = run("solve", study(), "--json")
    assert code == 0
    assert strict(out)["status"] == "diverged"
    assert err == "warning: learning rate past the edge 0.5\n"


def raising(error):
    def solve(*_, **__):
        raise error

    return solve


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UnsupportedProblem("solve: no limit covers this"), 2, "error: study.toml: solve: no limit covers this"),
        (TooLarge("solve: needs 3 TB"), 2, "error: study.toml: solve: needs 3 TB"),
        (foretrain.errors.ComputationFailed("solve: a\nb"), 1, "error: study.toml: solve: a b"),
        (
            ZeroDivisionError("x\ny"),
            1,
            "error: ZeroDivisionError: x y (this is a bug of foretrain; set FORETRAIN_DEBUG=1",
        ),
        (MemoryError(), 1, "error: out of memory"),
        (RecursionError("deep"), 1, "error: RecursionError: deep (this is a bug"),
    ],
)
def test_errors_are_one_line_and_a_code(run, study, monkeypatch, error, code, line):
    import foretrain.limits

    monkeypatch.setattr(foretrain.limits, "solve", raising(error))
    found, out, err = run("solve", study())
    assert (found, out) == (code, "")
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_debug_shows_the_traceback(run, study, monkeypatch):
    import foretrain.limits

    monkeypatch.setattr(foretrain.limits, "solve", raising(ZeroDivisionError("x")))
    monkeypatch.setenv("FORETRAIN_DEBUG", "1")
    code, _, err = run("solve", study())
    assert code == 1
    assert "Traceback" in err


def test_library_warnings_are_lines(run, study, pretended, monkeypatch):
    import foretrain.limits

    solve = foretrain.limits.solve

    def warning(problem, times=None, **options):
        for _ in range(2):
            warnings.warn("mind\nthis", ForetrainWarning, stacklevel=2)
        warnings.warn("old", DeprecationWarning, stacklevel=2)
        warnings.warn("overflow", RuntimeWarning, stacklevel=2)
        return solve(problem, times, **options)

    monkeypatch.setattr(foretrain.limits, "solve", warning)
    code, out, err = run("solve", study(), "--json")
    assert (code, err) == (0, "warning: mind this\n")
    strict(out)


def test_control_c_says_what_is_kept(run, study, monkeypatch):
    import foretrain.limits

    monkeypatch.setattr(foretrain.limits, "solve", raising(KeyboardInterrupt()))
    code, out, err = run("solve", study())
    assert (code, out) == (130, "")
    assert err == "interrupted: finished parts are kept in .foretrain; the same command goes on from there\n"
    assert run("solve", study(), "--no-store")[2] == "interrupted: nothing is kept\n"


def test_control_c_while_training_hands_over_the_finished_seeds(run, study, monkeypatch, tmp_path):
    import foretrain.training as training

    real = training.train

    def interrupted(problem, times, **options):
        if options["seed"] >= 2:
            raise KeyboardInterrupt
        return real(problem, times, **options)

    monkeypatch.setattr(training, "train", interrupted)
    monkeypatch.setattr("foretrain.training._sampling.cores", lambda: 2)
    code, out, err = run("train", study(), "--seeds", "6", "--json", "-o", "part.nc")
    assert code == 130
    assert strict(out)["attrs"]["seeds"] == 2
    assert "interrupted: averages over 2 of 6 seeds" in err
    assert LearningCurves.load(tmp_path / "part.nc").attrs["seeds"] == 2


def test_titles_are_text_not_markup(run, study, pretended):
    text = 'title = "[bold]ü 1/2 :smile:"\n' + LAW_RIDGE
    assert "[bold]ü 1/2 :smile:" in run("solve", study(text))[1]


def test_help_and_version(run):
    code, out, err = run()
    assert (code, err) == (0, "")
    assert "measure" in out
    assert run("--help")[1] == out
    for verb in ("measure", "solve", "train", "compare", "claims", "init", "doctor"):
        code, out, err = run(verb, "--help")
        assert (code, err) == (0, "")
        assert out.startswith(f"Usage: foretrain {verb}")
    assert run("--version") == (0, f"foretrain {foretrain.__version__}\n", "")


@pytest.mark.parametrize("verb", ["measure", "solve", "train", "compare"])
def test_init_prints_a_study_that_reads(run, study, verb):
    code, out, _ = run("init", verb)
    assert code == 0
    assert "#" in out
    foretrain.read_study(study(out))


def test_init_of_something_else(run):
    code, _, err = run("init", "solv")
    assert (code, err) == (
        2,
        "error: init: expected one of measure, solve, train, compare, transfer, got 'solv'; did you mean 'solve'?\n",
    )


def test_doctor(run):
    code, out, _ = run("doctor")
    assert code == 0
    for word in (
        "foretrain",
        "jax",
        "devices",
        "precision: theory in float64",
        "extra [report]",
        "fashion-mnist",
        "store",
    ):
        assert word in out
    code, out, _ = run("doctor", "--json")
    found = strict(out)
    assert found["precision"]["theory"] == "float64"
    assert found["packages"]["jax"]


def test_doctor_names_what_is_missing_and_how_to_get_it(run, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "jinja2" else find(name, *a))
    assert "extra [report]: missing jinja2; install with: pip install 'foretrain[report]'" in run("doctor")[1]


def test_missing_extras_are_told_before_the_computation(run, study, monkeypatch):
    import importlib.util

    import foretrain.limits

    monkeypatch.setattr(foretrain.limits, "solve", raising(AssertionError("computed")))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else find(name, *a))
    code, _, err = run("solve", study(), "--plot")
    assert (code, err) == (2, "error: --plot: needs matplotlib; install it with: pip install 'foretrain[plot]'\n")


def test_claims_of_papers_that_are_not_done(run):
    code, out, _ = run("claims", "01", "grokking", "--json")
    assert code == 0
    rows = strict(out)
    assert [row["paper"] for row in rows] == ["01", "09"]
    for row in rows:
        assert set(row) == {"paper", "claim", "source_value", "theory", "measured", "error", "verdict", "why"}
        assert row["verdict"] == "not run"
    assert "2 not run" in run("claims", "2502.07998", "09")[1]
    code, _, err = run("claims", "11")
    assert code == 2
    assert err.startswith("error: claims: no paper '11'")
