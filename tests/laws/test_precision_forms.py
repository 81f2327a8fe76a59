"""Laws of loss in few bits: formulas by a second road, limits, recovery of known constants, tables with gaps, bad input."""

import csv
import dataclasses
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from foretrain.cli import main
from foretrain.errors import InvalidInput
from foretrain.laws import CATALOGUE, Fit, Objective, Runs, design_warnings, fit, law_for, law_named, read_runs
from foretrain.laws._problem import Problem, grid_of_starts

sys.path.insert(0, str(Path(__file__).parent))
from precision_design import INF, PARTS, ROUNDING, TRAINING, rounded, trained

INDEX = dict(zip(PARTS, ("w", "a", "kv"), strict=True))
SIZES = {"params": 1e8, "tokens": 6e9}


def factor(p, v):
    """Share of the parameters that counts, in plain arithmetic."""
    found = 1.0
    for part, i in INDEX.items():
        if v[part] < INF:
            found *= 1 - math.exp(-(v[part] - p[f"P0_{i}"]) / p[f"gamma_{i}"])
    return found


def loss(p, v, beta="alpha", params=1.0, tokens=1.0):
    return p["E"] + p["A"] / (params * v["params"]) ** p["alpha"] + p["B"] / (tokens * v["tokens"]) ** p[beta]


def delta(p, v, params):
    found = p["C"] * v["tokens"] ** p["gamma_D"] / params ** p["gamma_N"] * math.exp(-v["post_bits"] / p["gamma_post"])
    for part, i in INDEX.items():
        if v.get(part, INF) < INF:
            found *= 1 - math.exp(-p[f"C_{i}"] * (v[part] - v["post_bits"]))
    return found


def additive(p, v):
    return loss(p, v) + sum(p[f"G_{i}"] / v[part] ** p[f"kappa_{i}"] for part, i in INDEX.items() if v[part] < INF)


WRITTEN = {
    "precision": lambda p, v: loss(p, v, params=factor(p, v)),
    "precision-untied": lambda p, v: loss(p, v, "beta", params=factor(p, v)),
    "precision-data": lambda p, v: loss(p, v, tokens=factor(p, v)),
    "precision-additive": additive,
    "precision-unified": lambda p, v: (
        loss(p, v, params=factor(p, v)) + (delta(p, v, factor(p, v) * v["params"]) if v["post_bits"] < INF else 0.0)
    ),
    "ptq": lambda p, v: delta(p, v, v["params"]),
    "ptq-power": lambda p, v: (
        p["k"] * v["tokens"] ** p["gamma_D"] / v["params"] ** p["gamma_N"] / v["post_bits"] ** p["kappa"]
    ),
    "qat": lambda p, v: (
        p["k"] * v["tokens"] ** p["gamma_D"] / v["params"] ** p["gamma_N"] * math.log2(v["group_size"]) ** p["gamma_G"]
    ),
}
TRUTH = {
    "precision": TRAINING,
    "precision-untied": TRAINING | {"alpha": 0.41, "beta": 0.45},
    "precision-unified": TRAINING | ROUNDING | {"C_w": 0.9, "C_a": 0.5, "C_kv": 1.3},
    "precision-data": TRAINING,
    "precision-additive": {name: TRAINING[name] for name in ("A", "B", "E", "alpha")}
    | {"G_w": 6.0, "kappa_w": 3.0, "G_a": 40.0, "kappa_a": 4.0, "G_kv": 10.0, "kappa_kv": 3.5},
    "ptq": ROUNDING,
    "ptq-power": {"k": 0.017, "gamma_D": 0.5251, "gamma_N": 0.2261, "kappa": 5.4967},
    "qat": {"k": 0.1582, "gamma_D": 0.0745, "gamma_N": 0.2186, "gamma_G": 0.7779},
}


def points(name: str, rows: int = 40, seed: int = 0) -> dict[str, np.ndarray]:
    """Points of the law, some of them in full precision."""
    rng = np.random.default_rng(seed)
    some = {"params": np.exp(rng.uniform(17, 21, rows)), "tokens": np.exp(rng.uniform(20, 25, rows))}
    some |= {part: rng.choice([7.0, 8.0, 12.5, INF], rows) for part in PARTS}
    some |= {"post_bits": rng.choice([3.0, 4.0, 5.5, INF], rows), "group_size": rng.choice([32.0, 64.0, 256.0], rows)}
    law = law_named(name)
    if "post_bits" in law.required:
        some["post_bits"] = rng.choice([3.0, 4.0, 5.5], rows)
    return {v: some[v] for v in law.variables}


@pytest.mark.parametrize("name", WRITTEN)
class TestEveryLaw:
    def test_is_what_is_written(self, name):
        law, at = law_named(name), points(name)
        rows = [{v: float(c[i]) for v, c in at.items()} for i in range(len(at["params"]))]
        expected = [WRITTEN[name](TRUTH[name], row) for row in rows]
        np.testing.assert_allclose(law.predict(TRUTH[name], at), expected, rtol=1e-12)

    def test_derivatives_also_in_full_precision(self, name):
        law, at = law_named(name), points(name)
        x, rng = law.columns(at), np.random.default_rng(1)
        theta = law.coordinates(TRUTH[name]) + 0.05 * rng.standard_normal((20, len(law.parameters)))
        _, slopes = law.logs(theta, x)
        for i in range(theta.shape[1]):
            step = 1e-5 * np.eye(theta.shape[1])[i]
            ends = [law.logs(theta + side * step, x, slopes=False)[0] for side in (1, -1)]
            np.testing.assert_allclose(slopes[:, i], (ends[0] - ends[1]) / 2e-5, atol=1e-8, rtol=1e-6)

    def test_no_value_and_inf_are_full_precision(self, name):
        law, at = law_named(name), points(name)
        gaps = {v: np.where(np.isinf(c), np.nan, c) for v, c in at.items()}
        np.testing.assert_array_equal(law.predict(TRUTH[name], at), law.predict(TRUTH[name], gaps))

    def test_in_the_catalogue(self, name):
        assert CATALOGUE[name].make().formula == law_named(name).formula


class TestIdentities:
    def test_without_bits_it_is_chinchilla(self):
        plain = law_named("chinchilla-tied").predict({n: TRAINING[n] for n in ("A", "B", "E", "alpha")}, SIZES)
        assert law_named("precision").predict(TRAINING, SIZES) == pytest.approx(plain, rel=1e-15)

    def test_factors_multiply(self):
        law, full = law_named("precision"), float(law_named("precision").predict(TRAINING, SIZES))

        def share(**bits):
            """The law inverted for the effective parameters (PR.19)."""
            excess = (float(law.predict(TRAINING, SIZES | bits)) - full) / TRAINING["A"]
            return (excess + SIZES["params"] ** -0.4965) ** (-1 / 0.4965) / SIZES["params"]

        bits = dict(zip(PARTS, (4.0, 5.0, 6.0), strict=True))
        assert share(**bits) == pytest.approx(math.prod(share(**{p: b}) for p, b in bits.items()), rel=1e-10)
        assert share(**bits) == pytest.approx(factor(TRAINING, bits), rel=1e-10)

    def test_more_bits_are_never_worse(self):
        bits = np.linspace(3.2, 40.0, 200)
        losses = law_named("precision").predict(TRAINING, SIZES | dict.fromkeys(PARTS, bits))
        assert np.all(np.diff(losses) <= 0)

    def test_next_to_full_precision_and_next_to_useless(self):
        law = law_named("precision", having=["weight_bits"])
        values = {n: TRAINING[n] for n in law.names}
        for bits in (TRAINING["P0_w"] + 1e-12, 400.0):
            x = law.columns(SIZES | {"weight_bits": bits})
            log, slopes = law.logs(law.coordinates(values)[None], x)
            assert np.all(np.isfinite(log))
            assert np.all(np.isfinite(slopes))
        gap = law.predict(values, SIZES | {"weight_bits": 60.0}) / law.predict(values, SIZES) - 1
        share = TRAINING["A"] * SIZES["params"] ** -0.4965 / law.predict(values, SIZES)
        assert gap == pytest.approx(share * 0.4965 * math.exp(-(60.0 - TRAINING["P0_w"]) / 2.6745), rel=1e-4)

    def test_rounding_grows_with_data_and_falls_with_size_and_bits(self):
        law, at = law_named("ptq"), SIZES | {"post_bits": 4.0}
        base = law.predict(ROUNDING, at)
        for change, ratio in (
            ({"tokens": 1.2e10}, 1.42090),
            ({"params": 2e8}, 0.787909),
            ({"post_bits": 5.0}, 0.183984),
        ):
            assert float(law.predict(ROUNDING, at | change) / base) == pytest.approx(ratio, abs=6e-6)

    @pytest.mark.parametrize("post", [4.0, 5.0, INF])
    def test_rounding_to_the_bits_of_training_or_more_costs_nothing(self, post):
        law, values = law_named("precision-unified"), TRUTH["precision-unified"]
        at = SIZES | {"weight_bits": 4.0}
        assert law.predict(values, at | {"post_bits": post}) == law.predict(values, at)

    def test_training_in_more_bits_prepares_less(self):
        law, values = law_named("precision-unified"), TRUTH["precision-unified"]
        at = SIZES | {"weight_bits": np.array([4.0, 5.0, 6.0, 8.0, 12.0, INF])}
        cost = law.predict(values, at | {"post_bits": 3.0}) - law.predict(values, at)
        assert np.all(np.diff(cost * factor_power(values, at)) > 0)


def factor_power(values, at):
    """What turns the effective size in the degradation back into the size."""
    return (
        np.array([factor(values, SIZES | dict.fromkeys(PARTS, INF) | {"weight_bits": b}) for b in at["weight_bits"]])
        ** (values["gamma_N"])
    )


class TestRecovery:
    """Known constants come back from the runs that the paper made."""

    def test_without_noise_from_all_starts(self):
        runs = trained()
        loss = law_named("precision").predict(TRAINING, runs)
        found = fit(runs | {"loss": loss}, "precision", bootstrap=0, starts=24, validate=False)
        assert found.rows == 460
        assert found.starts_agreeing == found.starts
        assert found.warnings == ()
        for name, value in TRAINING.items():
            # Sums of 460 squares of rounding errors, times a condition number of 400.
            assert found.parameters[name].value == pytest.approx(value, rel=1e-11), name

    def test_with_noise_within_its_errors(self):
        """With half a per cent of noise the estimate is as far off as the curvature at the truth says it may be."""
        runs, law = trained(), law_named("precision")
        exact, truth = law.predict(TRAINING, runs), law.coordinates(TRAINING)
        squares = Objective(loss="squares")
        _, slopes = Problem(law, law.columns(runs), exact, squares).residuals(truth[None])
        curvature = slopes[0] @ slopes[0].T / 0.005**2
        distances = []
        for seed in range(8):
            noisy = exact * np.exp(0.005 * np.random.default_rng(seed).standard_normal(len(exact)))
            off = (
                Problem(law, law.columns(runs), noisy, squares).minimize(truth[None], tolerance=1e-10).theta[0] - truth
            )
            distances.append(off @ curvature @ off)
        # Each is chi-square with ten degrees of freedom, but for the curvature of the law.
        low, high = stats.chi2(10 * len(distances)).ppf([1e-4, 1 - 1e-4])
        assert low < sum(distances) < 1.3 * high

    def test_intervals_hold_the_truth(self):
        runs, law = trained(), law_named("precision")
        noisy = law.predict(TRAINING, runs) * np.exp(0.005 * np.random.default_rng(2).standard_normal(460))
        found = fit(runs | {"loss": noisy}, "precision", bootstrap=100, level=0.99, starts=4, validate=False)
        outside = [n for n, e in found.parameters.items() if not e.low <= TRAINING[n] <= e.high]
        assert len(outside) <= 1
        assert found.parameters["gamma_w"].high - found.parameters["gamma_w"].low < 1.5

    @pytest.mark.long
    @pytest.mark.parametrize("name", ["precision-untied", "precision-data", "precision-additive"])
    def test_other_forms(self, name):
        runs = trained()
        found = fit(
            runs | {"loss": law_named(name).predict(TRUTH[name], runs)}, name, bootstrap=0, starts=12, validate=False
        )
        for parameter, value in TRUTH[name].items():
            assert found.parameters[parameter].value == pytest.approx(value, rel=1e-8), parameter

    @pytest.mark.parametrize("name", ["ptq", "ptq-power", "qat"])
    def test_degradations(self, name):
        runs = rounded()
        runs["group_size"] = np.resize([32.0, 128.0, 64.0], len(runs["params"]))
        found = fit(
            runs | {"delta": law_named(name).predict(TRUTH[name], runs)}, name, bootstrap=0, starts=24, validate=False
        )
        assert found.starts_agreeing == found.starts
        for parameter, value in TRUTH[name].items():
            assert found.parameters[parameter].value == pytest.approx(value, rel=1e-9), parameter

    def test_weights_alone(self):
        """Parts that no run holds in few bits have no parameters, and the others come back."""
        runs = {
            n: c[np.isinf(trained()["activation_bits"]) & np.isinf(trained()["kv_bits"])] for n, c in trained().items()
        }
        found = fit(
            runs | {"loss": law_named("precision").predict(TRAINING, runs)}, "precision", bootstrap=0, starts=24
        )
        assert found.law.names == ("A", "B", "E", "alpha", "gamma_w", "P0_w")
        assert found.parameters["P0_w"].value == pytest.approx(TRAINING["P0_w"], rel=1e-9)

    @pytest.mark.long
    def test_both_together(self):
        law, values = law_named("precision-unified"), TRUTH["precision-unified"]
        bits = [(INF, INF, INF), (5, INF, INF), (8, INF, INF), (INF, 6, INF), (INF, INF, 5), (6, 6, 6), (8, 8, 8)]
        rows = [(n, d, *b, q) for n in (3e7, 1e8, 3e8) for d in (2e9, 8e9, 3e10) for b in bits for q in (INF, 3, 4, 5)]
        runs = dict(zip(("params", "tokens", *PARTS, "post_bits"), np.array(rows).T, strict=True))
        found = fit(runs | {"loss": law.predict(values, runs)}, "precision-unified", bootstrap=0)
        for name, value in values.items():
            assert found.parameters[name].value == pytest.approx(value, rel=1e-8), name

    def test_starts_with_the_best_amplitudes(self):
        """Amplitudes solve their linear least squares given the rest, so all starts begin near and none is lost."""
        runs, law = trained(), law_named("precision")
        y = law.predict(TRAINING, runs)
        problem = Problem(law, law.columns(runs), y, Objective(loss="squares"))
        drawn = grid_of_starts(law, 40, np.random.default_rng(0))
        begun = law.balance(drawn, problem.x, y)
        np.testing.assert_array_equal(drawn[:, 3:], begun[:, 3:])  # exponents, gammas and P0 as drawn

        def relative(theta):
            return np.expm1(law.logs(theta, problem.x, slopes=False)[0] - np.log(y))

        best = np.sum(relative(begun) ** 2, axis=1)
        assert np.median(best) < 1e-3 * np.median(np.sum(np.abs(relative(drawn)), axis=1))
        for i in range(3):
            for side in (0.99, 1.01):
                moved = begun.copy()
                moved[:, i] += math.log(side)
                # A thousandth of the response, which a start keeps where the best amplitude is zero, is what it may miss.
                assert np.all(np.sum(relative(moved) ** 2, axis=1) > best - 1e-5 * len(y))
        ended = problem.minimize(begun, iterations=200, tolerance=1e-12)
        assert np.all(ended.objective < 1e-20)
        lost = problem.minimize(drawn, iterations=200, tolerance=1e-12).objective > 1e-20
        assert lost.any()


class TestDegradationsNearZero:
    """A degradation may be negative within noise: residuals are differences there and logarithms above."""

    def test_scale(self):
        law = law_named("ptq")
        y = np.array([-3e-3, -1e-9, 0.0, 1e-5, 0.2, 30.0])
        np.testing.assert_allclose(law.unsmoothed(law.smoothed(y)), y, rtol=1e-10, atol=1e-18)
        assert law.smoothed(np.array(5.0)) == pytest.approx(math.log(5.0), abs=2 * (law.noise / 5.0) ** 2)
        slope = (law.smoothed(np.array(1e-8)) - law.smoothed(np.array(-1e-8))) / 2e-8
        assert slope == pytest.approx(1 / (2 * law.noise), rel=1e-8)

    def test_derivatives_of_residuals(self):
        law, runs = law_named("ptq"), rounded()
        y = law.predict(ROUNDING, runs) - 1e-3
        problem, theta = Problem(law, law.columns(runs), y, Objective()), law.coordinates(ROUNDING)[None]
        _, slopes = problem.residuals(theta)
        for i in range(4):
            step = 1e-6 * np.eye(4)[i]
            ends = [problem.residuals(theta + side * step, slopes=False)[0] for side in (1, -1)]
            np.testing.assert_allclose(slopes[0, i], (ends[0] - ends[1])[0] / 2e-6, atol=1e-7)

    def test_negative_ones_are_fitted(self):
        runs, rng = rounded(), np.random.default_rng(0)
        exact = law_named("ptq").predict(ROUNDING, runs)
        noisy = exact * np.exp(0.05 * rng.standard_normal(len(exact))) + 1e-3 * rng.standard_normal(len(exact))
        assert np.sum(noisy < 0) > 5
        found = fit(runs | {"delta": noisy}, "ptq", bootstrap=300, level=0.999, starts=8, validate=False)
        for name, value in ROUNDING.items():
            assert found.parameters[name].low <= value <= found.parameters[name].high, name
        low = found.predict({"params": 1e8, "tokens": 1e10, "post_bits": 8.0})["low"]
        assert -0.01 < float(low) < 0.0  # a new pair of evaluations may well find less than nothing

    def test_from_losses_before_and_after(self):
        runs = rounded()
        exact = law_named("ptq").predict(ROUNDING, runs)
        found = fit(
            runs | {"loss": np.full(len(exact), 3.0), "loss_post": 3.0 + exact},
            "ptq",
            bootstrap=0,
            starts=8,
            validate=False,
        )
        for name, value in ROUNDING.items():
            assert found.parameters[name].value == pytest.approx(value, rel=1e-9)

    def test_losses_still_have_to_be_positive(self):
        runs = trained() | {"loss": np.full(460, 3.0)}
        runs["loss"][7] = -1.0
        with pytest.raises(InvalidInput, match=r"'loss'.*negative.*row 8"):
            fit(runs, "precision")


class TestTablesWithGaps:
    def table(self, **more):
        runs = trained()
        return runs | {"loss": law_named("precision").predict(TRAINING, runs)} | more

    def test_law_for_the_table(self):
        runs = self.table(activation_bits=np.full(460, np.nan), kv_bits=np.full(460, 8.0))
        law = law_for("precision", Runs(runs))
        assert law.variables == ("params", "tokens", "weight_bits")
        assert law.required == ("params", "tokens")

    def test_nothing_varies(self):
        runs = self.table(**dict.fromkeys(PARTS, np.full(460, 4.0)))
        with pytest.raises(InvalidInput, match=r"'precision': needs bits of training that vary.*take chinchilla"):
            fit(runs, "precision")
        with pytest.raises(InvalidInput, match=r"precision-unified.*needs post_bits"):
            fit(self.table(), "precision-unified")

    def test_words_among_the_bits(self):
        runs = self.table(weight_bits=np.array(["4", "bf16"] * 230, dtype=object))
        with pytest.raises(InvalidInput, match=r"'weight_bits': expected numbers, got text: .*bf16"):
            fit(runs, "precision")

    def test_negative_bits(self):
        runs = self.table()
        runs["weight_bits"] = np.where(runs["weight_bits"] == 4.0, -4.0, runs["weight_bits"])
        with pytest.raises(InvalidInput, match=r"'weight_bits'.*negative"):
            fit(runs, "precision")

    def test_bits_are_no_sizes(self):
        """Bits from 3 to 8 span a factor of less than three, and no exponent hangs on them."""
        values = np.column_stack([np.geomspace(1e6, 1e9, 6), [3.0, 4.0, INF, 3.0, 5.0, 8.0]])
        assert design_warnings(values, ("params", "weight_bits")) == []
        assert fit(self.table(), "precision", bootstrap=0, starts=4, validate=False).data["ranges"]["weight_bits"] == (
            3.0,
            12.0,
        )

    def test_comes_back_from_a_file(self, tmp_path):
        runs = self.table(kv_bits=np.full(460, np.nan))
        found = fit(runs, "precision", bootstrap=20, starts=4, validate=False)
        found.save(tmp_path / "law.json")
        again = Fit.load(tmp_path / "law.json")
        assert again.law.variables == ("params", "tokens", "weight_bits", "activation_bits")
        at = SIZES | {"weight_bits": 4.0}
        for end, value in found.predict(at).items():
            assert again.predict(at)[end] == value

    def test_figures_know_gaps(self):
        from foretrain.report._fit_numbers import points_of

        runs = Runs({n: np.where(np.isinf(c), np.nan, c) for n, c in self.table().items()})
        found = fit(runs, "precision", bootstrap=0, starts=4, validate=False)
        points = points_of(found, runs)
        np.testing.assert_allclose(points.predicted, runs["loss"], rtol=1e-9)
        assert np.isinf(points.column("weight_bits")).sum() == np.isnan(runs["weight_bits"]).sum()

    def test_other_variables_stay_required(self):
        with pytest.raises(InvalidInput, match="'tokens' is missing"):
            law_named("precision").predict(TRAINING, {"params": 1e8})
        with pytest.raises(InvalidInput, match="'post_bits' is missing"):
            law_named("ptq").predict(ROUNDING, SIZES)

    def test_too_few_bits_for_the_law(self):
        with pytest.raises(InvalidInput, match=r"activations of 3 bits are outside the law: it holds above 3\.11"):
            law_named("precision").predict(TRAINING, SIZES | {"activation_bits": np.array([8.0, 3.0])})

    def test_a_fit_in_which_some_draws_are_outside(self):
        """Bootstrap fits for which these bits are useless leave the upper end open; they do not vanish."""
        found = fit(self.table(), "precision", bootstrap=0, starts=4, validate=False)
        i = found.law.names.index("P0_a")
        samples = np.repeat(found.theta[None], 100, axis=0)
        samples[:10, i] = 4.5
        wide = dataclasses.replace(found, samples=samples)
        ends = wide.predict(SIZES | {"activation_bits": 4.0}, noise=False)
        assert ends["high"] == INF
        assert ends["low"] == pytest.approx(ends["value"])

    def test_another_form_without_a_value_there(self):
        """A form for which these bits are too few says nothing, and takes nothing away."""
        found = fit(self.table(), "precision", bootstrap=20, starts=4, validate=False)
        other = law_named("precision-untied")
        values = TRAINING | {"beta": TRAINING["alpha"], "P0_a": 4.5}
        wide = dataclasses.replace(found, forms=((other, other.coordinates(values)),))
        at = SIZES | {"activation_bits": 4.0}
        for end, value in found.predict(at).items():
            assert wide.predict(at)[end] == value


class TestCommandLine:
    @pytest.fixture
    def run(self, capsys, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

        def run_(*arguments):
            capsys.readouterr()
            code = main([str(a) for a in arguments])
            said = capsys.readouterr()
            return code, said.out, said.err

        return run_

    def write(self, columns, name="runs.csv"):
        with open(name, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            for row in zip(*columns.values(), strict=True):
                writer.writerow(["" if v == INF else repr(float(v)) for v in row])
        return name

    def test_fit_and_forecast(self, run):
        runs = trained()
        name = self.write(runs | {"loss": law_named("precision").predict(TRAINING, runs)})
        code, out, err = run(
            "fit", name, "--law", "precision", "--bootstrap", "20", "--starts", "8", "-o", "law.json", "--json"
        )
        assert code == 0, err
        found = json.loads(out)
        for parameter, value in TRAINING.items():
            assert found["parameters"][parameter]["value"] == pytest.approx(value, rel=1e-10)
        code, out, err = run("forecast", "law.json", "--at", "params=1B,tokens=20B,bits=4", "--json")
        assert code == 0, err
        expected = law_named("precision").predict(TRAINING, {"params": 1e9, "tokens": 2e10} | dict.fromkeys(PARTS, 4.0))
        assert json.loads(out)["loss"]["value"] == pytest.approx(float(expected), rel=1e-10)
        code, _, err = run("forecast", "law.json", "--at", "params=1B,tokens=20B,kv_bits=2")
        assert code == 2
        assert "keys and values of 2 bits are outside the law" in err
        assert len(err.splitlines()) == 1

    def test_names_of_formats_are_full_precision(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        runs = trained()
        cells = np.where(np.isinf(runs["weight_bits"]), "bf16", runs["weight_bits"].astype(str))
        with open("runs.csv", "w") as file:
            file.write("params,tokens,bits_w,loss\n")
            for row in zip(runs["params"], runs["tokens"], cells, np.full(460, 3.0), strict=True):
                file.write(",".join(map(str, row)) + "\n")
        read = read_runs("runs.csv")
        np.testing.assert_array_equal(read["weight_bits"], runs["weight_bits"])
        assert "weight_bits: bf16 is full precision" in read.notes

    def test_degradations(self, run):
        runs = rounded()
        name = self.write(runs | {"delta": law_named("ptq").predict(ROUNDING, runs)}, "ptq.csv")
        code, out, err = run("fit", name, "--law", "ptq", "--bootstrap", "20", "--json")
        assert code == 0, err
        found = json.loads(out)
        assert found["response"] == "delta"
        for parameter, value in ROUNDING.items():
            assert found["parameters"][parameter]["value"] == pytest.approx(value, rel=1e-10)

    @pytest.mark.long
    def test_figure_of_negative_degradations(self, run):
        pytest.importorskip("matplotlib", reason="needs the extra: pip install 'foretrain[plot]'")
        runs = rounded()
        exact = law_named("ptq").predict(ROUNDING, runs)
        noisy = exact + 2e-3 * np.random.default_rng(0).standard_normal(len(exact))
        name = self.write(runs | {"delta": noisy}, "ptq.csv")
        code, _, err = run("fit", name, "--law", "ptq", "--bootstrap", "20", "--plot", "ptq.png")
        assert code == 0, err
        assert Path("ptq.png").stat().st_size > 10_000

    def test_full_precision_by_name(self, run):
        at = "params=1B,tokens=20B"
        code, out, err = run("forecast", "precision-table2", "--at", at, "--at", f"{at},bits=full", "--json")
        assert code == 0, err
        first, second = json.loads(out)["forecasts"]
        assert first["loss"] == second["loss"]
        assert first["loss"]["low"] is None

    def test_listed(self, run):
        code, out, _ = run("laws", "--json")
        assert code == 0
        assert set(WRITTEN) <= {row["name"] for row in json.loads(out)}
