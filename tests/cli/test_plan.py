"""`foretrain plan`, and `foretrain fit --approach`."""

import csv
import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from made_runs import chinchilla_runs


@pytest.fixture(scope="module")
def text():
    """A law as `fit -o` writes it, made once for all tests."""
    from foretrain.laws import fit
    from foretrain.laws._saved import file_text

    return file_text(fit(chinchilla_runs(), bootstrap=200, validate=False))


@pytest.fixture
def law(text, tmp_path):
    (tmp_path / "law.json").write_text(text)
    return "law.json"


class TestPlan:
    def test_json(self, said, law):
        found = said("plan", law, "--compute", "1e21")
        assert list(found)[:5] == ["params", "tokens", "loss", "compute", "tokens_per_param"]
        assert set(found) >= {"law", "level", "given", "forms", "warnings"}
        for name in ("params", "tokens", "loss", "tokens_per_param"):
            assert found[name]["low"] < found[name]["value"] < found[name]["high"]
        assert 6 * found["params"]["value"] * found["tokens"]["value"] == pytest.approx(1e21, rel=1e-12)
        assert found["compute"] == {"value": 1e21, "low": 1e21, "high": 1e21}
        ratio = (0.34 * 400 / (0.36 * 2000)) ** (1 / 0.7)  # of the law behind the runs
        assert found["params"]["low"] < ratio * (1e21 / 6) ** (0.36 / 0.7) < found["params"]["high"]
        assert (found["law"], found["level"]) == ("chinchilla", 0.95)

    def test_for_people(self, run, law):
        code, out, err = run("plan", law, "--compute", "1e21")
        assert code == 0
        assert out.startswith("chinchilla: loss = E + A / params^alpha + B / tokens^beta\ngiven: compute, FLOP 1e+21\n")
        for word in ("95 % interval", "params", "tokens per parameter", "given"):
            assert word in out
        assert err == ""

    def test_is_what_python_says(self, said, law):
        from foretrain.laws import Fit

        found = Fit.load(law).plan(compute=1e21, level=0.5)
        assert said("plan", law, "--compute", "1e21", "--level", "0.5") == found.to_json()

    def test_numbers_with_suffixes(self, said, law):
        one = said("plan", law, "--compute", "1e21", "--params", "1.5B")
        assert one == said("plan", law, "--params", "1.5e9", "--compute", "1000e18")
        assert one["tokens"]["value"] == pytest.approx(1e21 / 6 / 1.5e9)
        assert said("plan", law, "--tokens", "0.2T", "--params", "1B")["compute"]["value"] == pytest.approx(1.2e21)

    def test_loss(self, said, run, law):
        found = said("plan", law, "--loss", "2.2")
        again = said("plan", law, "--compute", repr(found["compute"]["value"]))
        assert again["loss"]["value"] == pytest.approx(2.2, rel=1e-6)
        assert found["compute"]["low"] < found["compute"]["value"] < found["compute"]["high"]
        smaller = said("plan", law, "--loss", "2.2", "--params", repr(found["params"]["value"] / 3))
        assert smaller["compute"]["value"] > found["compute"]["value"]

    def test_far_from_the_runs(self, run, said, law):
        _, _, err = run("plan", law, "--compute", "1e25")
        assert err.splitlines()[0].startswith("warning: params = ")
        assert "above the largest of the runs" in err
        assert len(said("plan", law, "--compute", "1e25")["warnings"]) == 2

    def test_other_forms_are_shown(self, run, said, law):
        from foretrain.laws import Fit, law_named

        tied = law_named("chinchilla-tied")
        other = tied.coordinates({"A": 400.0, "B": 1400.0, "E": 1.8, "alpha": 0.34})
        dataclasses.replace(Fit.load(law), forms=((tied, other),)).save("forms.json")
        (form,) = said("plan", "forms.json", "--compute", "1e21")["forms"]
        assert form["law"] == "chinchilla-tied"
        assert 6 * form["params"] * form["tokens"] == pytest.approx(1e21, rel=1e-9)
        assert "other forms, fitted to the same runs:\n" in run("plan", "forms.json", "--compute", "1e21")[1]

    def test_no_bootstrap(self, said, table, run):
        run("fit", table(chinchilla_runs()), "-o", "bare.json", "--bootstrap", "0")
        found = said("plan", "bare.json", "--compute", "1e21")
        assert found["params"]["low"] is None
        assert found["loss"]["high"] is None

    def test_one_variable(self, said, run, table):
        x = np.geomspace(1e5, 1e9, 12)
        name = table({"examples": x, "loss": 0.9 + 30.0 / x**0.3}, "curve.csv")
        assert run("fit", name, "--x", "examples", "--bootstrap", "20", "-o", "curve.json")[0] == 0
        found = said("plan", "curve.json", "--loss", "1.0")
        assert found["examples"]["value"] == pytest.approx((30 / 0.1) ** (1 / 0.3), rel=1e-4)
        code, _, err = run("plan", "curve.json", "--compute", "1e20")
        assert code == 2
        assert "power is a law of examples and has no sizes to choose" in err

    def test_repeated_data(self, said, run, tmp_path):
        from foretrain.laws import Fit, law_named

        law = law_named("muennighoff")
        theta = law.coordinates({"A": 521.0, "B": 1488.0, "E": 1.87, "alpha": 0.35, "R_D": 15.4, "R_N": 5.3})
        samples = theta + 0.01 * np.random.default_rng(0).standard_normal((50, 6))
        ranges = dict.fromkeys(law.variables, (10000000.0, 100000000000.0))
        made = Fit(law, theta, 0.0, samples, 0.9, np.zeros(5), 9, 9, 9, 9, 9.0, 0.0, data={"ranges": ranges})
        made.save("repeated.json")
        found = said("plan", "repeated.json", "--compute", "1e22", "--unique-tokens", "10B")
        assert found["epochs"]["value"] == pytest.approx(found["tokens"]["value"] / 1e10)
        assert [row["epochs"] for row in found["by_epochs"]][:3] == [1, 2, 4]
        _, out, _ = run("plan", "repeated.json", "--compute", "1e22", "--unique-tokens", "10B")
        assert "seeing the data more or less often" in out


class TestBits:
    """The published law of precision; its numbers have tests of their own."""

    def test_joint_optimum(self, said):
        found = said("plan", "precision-table2", "--compute", "1e21")
        assert found["bits"]["value"] == pytest.approx(7.002, abs=1e-3)
        assert found["bits"]["low"] is None  # constants of a paper
        assert found["warnings"]
        assert said("plan", "precision-table2", "--compute", "1e25")["bits"] == found["bits"]

    def test_bits_held(self, said):
        found = said("plan", "precision-table2", "--compute", "1e21", "--bits", "16")
        assert found["params"]["value"] == pytest.approx(3.052e9, rel=1e-3)
        assert found["tokens"]["value"] == pytest.approx(5.461e10, rel=1e-3)
        assert found["bits"] == {"value": 16.0, "low": 16.0, "high": 16.0}

    def test_critical_data(self, said):
        found = said("plan", "precision-table2", "--params", "30M", "--post-bits", "3")
        assert found["tokens"]["value"] == pytest.approx(5.325e9, rel=1e-3)

    def test_serving(self, said):
        assert said("plan", "precision-table2", "--serving", "1e10")["bits"]["value"] == pytest.approx(6.859, abs=1e-3)

    def test_a_file_of_that_name_comes_first(self, said, text, tmp_path):
        (tmp_path / "precision-table2").write_text(text)
        assert said("plan", "precision-table2", "--compute", "1e21")["law"] == "chinchilla"

    def test_forecast(self, said):
        found = said("forecast", "precision-table2", "--at", "params=1e9,tokens=2e10")
        assert found["loss"]["value"] == pytest.approx(2.7648 + (4.299e3 / 1e9**0.4965) + 1.806e4 / 2e10**0.4965)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("--loss", "3"), "plan(loss): laws of precision are planned by compute"),
            (("--compute", "1e21", "--unique-tokens", "1B"), "plan(unique_tokens)"),
            (("--compute", "1e21", "--bits", "2"), "bits"),
            (("--compute", "1e21", "--bits", "many"), "--bits: expected a number > 0, such as 8, got 'many'"),
            ((), "plan: give compute"),
        ],
    )
    def test_mistakes(self, refused, arguments, words):
        assert words in refused("plan", "precision-table2", *arguments)


class TestNextRuns:
    def test_json(self, said, law):
        runs = ("--next", "params=3B,tokens=60B", "--next", "tokens=20B,params=1B")
        found = said("plan", law, "--compute", "1e22", *runs)
        assert found["target"] == "params@1e+22"
        assert [set(r) for r in found["next"]] == [
            {"at", "flops", "now", "after", "expected", "shrinkage", "per_flop"}
        ] * 2
        assert found["next"][0]["after"] <= found["next"][1]["after"]
        assert found["next"][0]["expected"]["value"] == pytest.approx(found["params"]["value"], rel=1e-9)

    def test_targets(self, said, law):
        def target(*more):
            return said("plan", law, *more, "--next", "params=3B,tokens=60B")["target"]

        assert target("--compute", "1e22", "--target", "tokens_per_param") == "tokens_per_param@1e+22"
        assert target("--compute", "1e22", "--target", "alpha") == "alpha"
        assert target("--compute", "1e22", "--target", "loss").startswith("loss@params=")
        assert target("--params", "1B", "--tokens", "20B") == "loss@params=1000000000,tokens=20000000000"
        assert target("--compute", "1e22", "--target", "loss@params=7B,tokens=2T") == "loss@params=7B,tokens=2T"

    def test_for_people(self, run, law):
        _, out, _ = run("plan", law, "--compute", "1e22", "--next", "params=3B,tokens=60B", "--target", "loss")
        assert "one more run, for loss@params=" in out
        assert "interval shrinks by" in out
        assert "per 1e21 FLOP" in out

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("--next", "params=3B"), "--next 'params=3B': tokens missing; a run needs params, tokens"),
            (("--next", "params=3B,toks=1"), "--next: this law has no variable 'toks'; did you mean 'tokens'?"),
            (("--next", "3B"), "--next: expected column=value pairs"),
            (("--next", "params=3B,params=3B"), "--next: params is given twice"),
            (("--next", "params=-3B,tokens=1"), "--next params: expected a number > 0"),
            (("--target", "loss"), "--target: belongs to --next"),
            (("--next", "params=3B,tokens=60B", "--target", "los"), "--target: expected one of params, tokens"),
            (("--next", "params=3B,tokens=60B", "--target", "los"), "did you mean 'loss'?"),
            (("--next", "params=3B,tokens=60B", "--target", "loss@here"), "quantity 'loss@here'"),
        ],
    )
    def test_mistakes(self, refused, law, arguments, words):
        assert words in refused("plan", law, "--compute", "1e22", *arguments)

    def test_no_bootstrap(self, refused, run, table):
        run("fit", table(chinchilla_runs()), "-o", "bare.json", "--bootstrap", "0")
        words = refused("plan", "bare.json", "--compute", "1e22", "--next", "params=3B,tokens=60B")
        assert "bare.json: next_runs: the fit has 0 bootstrap fits" in words


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ((), "law.json: plan: nothing to plan for; give compute"),
            (("--params", "7B"), "params alone leaves the rest open"),
            (("--compute", "-1e21"), "--compute: expected a number > 0, such as 7e9 or 7B, got '-1e21'"),
            (("--compute", "0"), "--compute: expected a number > 0"),
            (("--compute", "nan"), "--compute: expected a number > 0"),
            (("--compute", "1e400"), "--compute: expected a number > 0"),
            (("--compute", "a lot"), "--compute: expected a number > 0"),
            (("--compute", "3"), "expected more than 6 FLOP"),
            (("--compute", "1e21", "--loss", "2"), "more than a plan can obey"),
            (("--compute", "1e21", "--bits", "8"), "chinchilla has no plan in bits"),
            (("--compute", "1e21", "--unique-tokens", "1B"), "chinchilla does not know repeated data"),
            (("--compute", "1e21", "--at", "width=64"), "--at: this law has no variable 'width'"),
            (("--compute", "1e21", "--at", "params=64"), "cannot hold 'params'"),
            (("--compute", "1e21", "--level", "95"), "--level: expected a number between 0 and 1"),
            (("--loss", "1.0"), "never reaches loss 1"),
            (("--loss", "-1"), "--loss: expected a number > 0, such as 2.5, got '-1'"),
        ],
    )
    def test_refused(self, refused, law, arguments, words):
        assert words in refused("plan", law, *arguments)

    def test_other_files(self, refused, tmp_path, table):
        assert "law.jsn: expected a law written by `foretrain fit -o`, found no such file" in refused(
            "plan", "law.jsn", "--compute", "1e21"
        )
        assert "Presets: precision-table2; did you mean 'precision-table2'?" in refused(
            "plan", "precision-table", "--compute", "1e21"
        )
        assert "in JSON" in refused("plan", table(chinchilla_runs()), "--compute", "1e21")
        (tmp_path / "list.json").write_text("[1, 2]")
        assert "got a list" in refused("plan", "list.json", "--compute", "1e21")
        (tmp_path / "folder").mkdir()
        assert "folder" in refused("plan", "folder", "--compute", "1e21")


class TestApproaches:
    def valleys(self, noise=0.002):
        flops = np.repeat(np.geomspace(6e17, 6e20, 5), 7)
        params = np.sqrt(flops / 6) * np.tile(np.geomspace(0.1, 4.0, 7), 5)
        loss = 1.8 + 400 / params**0.34 + 400 / (flops / 6 / params) ** 0.34
        loss *= np.exp(noise * np.random.default_rng(0).standard_normal(35))
        return {"flops": flops, "params": params, "loss": loss}

    def test_isoflop(self, said, run, table):
        name = table(self.valleys())
        found = said("fit", name, "--approach", "isoflop")
        assert set(found) == {"approach", "exponents", "coefficient", "budgets", "level", "warnings"}
        assert found["exponents"]["params"]["low"] < 0.5 < found["exponents"]["params"]["high"]
        assert found["exponents"]["tokens"]["value"] == pytest.approx(1 - found["exponents"]["params"]["value"])
        assert len(found["budgets"]) == 5
        code, out, _ = run("fit", name, "--approach", "isoflop")
        assert code == 0
        assert "exponent of C" in out

    def test_options_of_tables(self, said, table):
        runs = self.valleys()
        columns = {"size": runs["params"], "flops": runs["flops"], "val": runs["loss"]}
        columns["kind"] = np.where(runs["flops"] > 1e20, "dear", "cheap").astype(object)
        name = table(columns)
        options = ("--columns", "params=size,loss=val", "--where", "kind=cheap", "--bootstrap", "0", "--level", "0.5")
        found = said("fit", name, "--approach", "isoflop", *options)
        assert len(found["budgets"]) == 3
        assert found["level"] == 0.5
        assert found["exponents"]["params"]["low"] is None

    def test_envelope(self, said, table):
        params = np.repeat(np.geomspace(1e6, 1e9, 21), 40)
        tokens = np.tile(np.geomspace(1e6, 1e13, 40), 21)
        curves = {"params": params, "tokens": tokens, "loss": 1.8 + 400 / params**0.34 + 400 / tokens**0.34}
        name = table({**curves, "model": np.repeat([f"m{i:02}" for i in range(21)], 40)})
        found = said("fit", name, "--approach", "envelope", "--group", "model", "--bootstrap", "50")
        # Sizes are 0.35 apart in ln N on a line that rises by 6.9.
        assert found["exponents"]["params"]["value"] == pytest.approx(0.5, abs=4 * 0.17 / 6.9)
        assert found["approach"] == "envelope"

    def test_step_law(self, said, run, table):
        axes = ([1e8, 4e8], [1e9, 9e9], np.geomspace(1e-4, 1e-2, 7), np.geomspace(1e4, 1e6, 7))
        n, d, lr, batch = (v.ravel() for v in np.meshgrid(*axes))
        off = np.log(lr / (20 * n**-0.6 * d**0.1)), np.log(batch / (2.0 * d**0.5))
        loss = 2.5 * np.exp(0.01 * off[0] ** 2 + 0.008 * off[1] ** 2)
        name = table({"params": n, "tokens": d, "lr": lr, "batch_tokens": batch, "loss": loss})
        found = said("fit", name, "--approach", "step-law", "--bootstrap", "20")
        assert found["approach"] == "step-law"
        assert found["lr"]["params"]["value"] == pytest.approx(-0.6, abs=1e-3)
        assert found["lr"]["constant"]["value"] == pytest.approx(np.log(20), abs=0.02)
        assert found["batch_tokens"]["tokens"]["value"] == pytest.approx(0.5, abs=1e-3)
        assert [g["status"] for g in found["grids"]] == ["ok"] * 4
        code, out, _ = run("fit", name, "--approach", "step-law", "--bootstrap", "0")
        assert code == 0
        assert "off by a factor of two costs 0.48 %" in out  # 0.01 (ln 2)^2

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("step-law",), "no column 'lr' of runs.csv"),
            (("step-law", "--group", "params"), "--group: --approach step-law resamples grids"),
            (
                ("isoflops",),
                "--approach: expected one of parametric, isoflop, envelope, step-law; got 'isoflops'; did you mean",
            ),
            (("isoflop", "--law", "kaplan"), "--law: --approach isoflop fits no law; leave it out"),
            (("isoflop", "--x", "params"), "--x: "),
            (("isoflop", "--loss", "squares"), "--loss: "),
            (("isoflop", "--huber-delta", "0.1"), "--huber-delta: "),
            (("envelope", "--starts", "4"), "--starts: "),
            (("isoflop", "-o", "law.json"), "--output: --approach isoflop gives no law to write or draw"),
            (("isoflop", "--report", "page.html"), "--report: "),
            (("envelope",), "runs.csv: envelope: "),
        ],
    )
    def test_mistakes(self, refused, table, arguments, words):
        runs = self.valleys()
        runs["params"] = runs["params"] * np.geomspace(1.0, 1.5, 35)  # no size twice: no curves
        assert words in refused("fit", table(runs), "--approach", *arguments)


class TestRealRuns:
    """Published numbers through the command line; skipped where the tables are not there."""

    def test_chinchilla_budget(self, said, run, scaling_data):
        name = scaling_data / "chinchilla_epoch_245.csv"
        assert run("fit", name, "--drop-largest-loss", "5", "-o", "law.json", "-q")[0] == 0
        found = said("plan", "law.json", "--compute", "5.76e23")
        assert found["params"]["value"] == pytest.approx(73.2e9, rel=1e-3)
        assert found["params"]["low"] == pytest.approx(51e9, rel=0.08)
        assert found["params"]["high"] == pytest.approx(112e9, rel=0.08)
        assert found["tokens_per_param"]["value"] == pytest.approx(17.9, abs=0.05)
        assert found["loss"]["value"] == pytest.approx(1.974, abs=5e-4)

    def test_isoflop_slopes(self, said, scaling_data):
        recipe = {"dataset": "rw", "hparams": "tuned", "warmup": "short", "decay": "const", "param_count": "standard"}
        where = [word for n, v in recipe.items() for word in ("--where", f"{n}={v}")]
        points = said("fit", scaling_data / "porian_isoflop_points.csv", "--approach", "isoflop", *where)
        assert points["exponents"]["params"]["value"] == pytest.approx(0.501, abs=0.0025)
        columns = ("--columns", "params=params_opt,tokens=tokens_opt")
        optima = said("fit", scaling_data / "porian_isoflop_optima.csv", "--approach", "isoflop", *where, *columns)
        with (scaling_data / "porian_isoflop_optima.csv").open() as file:
            row = next(r for r in csv.DictReader(file) if all(r[n] == v for n, v in recipe.items()))
        published = float(row["published_fit_n_exponent"])
        assert optima["exponents"]["params"]["value"] == pytest.approx(published, abs=1e-6)
        coefficient = optima["coefficient"]["params"]["value"]
        assert math.log(coefficient) == pytest.approx(math.log(float(row["published_fit_n_coef"])), abs=1e-5)

    def test_step_law(self, said, scaling_data):
        """arXiv 2503.04715 publishes -0.713 and 0.307 for the rate and 0.571 for the batch in tokens."""
        options = (
            "--approach",
            "step-law",
            "--columns",
            "loss=smooth_loss,batch_tokens=batch_seqs*2048",
            "--bootstrap",
            "200",
        )
        found = said("fit", scaling_data / "steplaw_dense_lr_bs.csv", *options)
        for column, term, published in (("lr", "params", -0.713), ("batch_tokens", "tokens", 0.571)):
            low, high = (found[column][term][end] for end in ("low", "high"))
            assert low < published < high
            assert high - low < 0.4
        assert sum(g["status"] == "ok" for g in found["grids"]) >= 12
