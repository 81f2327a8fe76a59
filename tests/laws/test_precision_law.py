"""`PrecisionLaw`, plans in bits and the preset: published numbers, identities, closed forms against minimization, bad input."""

import dataclasses
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from foretrain.errors import ForetrainWarning, InvalidInput
from foretrain.laws import PRESETS, Fit, PrecisionLaw, fit, law_named, plan_precision
from foretrain.laws._precision_constants import Constants
from foretrain.laws._precision_plan import best_bits, best_params, product

sys.path.insert(0, str(Path(__file__).parent))
from precision_design import INF, PARTS, ROUNDING, TRAINING, rounded, trained

TABLE = PRESETS["precision-table2"]()
C = Constants.of(TABLE.law, TABLE.theta)


def plan(**given) -> dict[str, float]:
    """A plan by Table 2, its words of caution left aside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ForetrainWarning)
        return {name: e.value for name, e in plan_precision(TABLE, **given).items()}


def share(bits: float, table=TRAINING) -> float:
    """The factors of one common number of bits, in plain arithmetic."""
    return math.prod(1 - math.exp(-(bits - table[f"P0_{x}"]) / table[f"gamma_{x}"]) for x in ("w", "a", "kv"))


def trained_loss(n: float, d: float, bits: float = INF) -> float:
    t = TRAINING
    return t["A"] * (n * share(bits)) ** -t["alpha"] + t["B"] * d ** -t["alpha"] + t["E"]


def rounding_cost(n: float, d: float, bits: float) -> float:
    r = ROUNDING
    return r["C"] * d ** r["gamma_D"] * n ** -r["gamma_N"] * math.exp(-bits / r["gamma_post"])


def lowest(function, start) -> np.ndarray:
    """Minimum of a plain function by a search without derivatives, begun again where it stopped."""
    for _ in range(3):
        start = minimize(
            function, start, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-16, "maxiter": 8000}
        ).x
    return start


class TestPublishedNumbers:
    """Table 2 with its offsets gives the paper's conclusions; without them it does not."""

    @pytest.mark.parametrize(
        ("size", "tokens"),
        [(3e7, (5.325e9, 2.878e10, 1.556e11, 8.408e11)), (2.2e8, (1.054e10, 5.698e10))],
    )
    def test_critical_data(self, size, tokens):
        found = [C.critical_tokens(size, bits) for bits in (3, 4, 5, 6)]
        assert [f"{d:.3e}" for d in found[: len(tokens)]] == [f"{d:.3e}" for d in tokens]

    def test_critical_data_without_the_offset_is_three_times_larger(self):
        without = dataclasses.replace(C, C=0.0598)
        ratio = without.critical_tokens(3e7, 4) / C.critical_tokens(3e7, 4)
        assert ratio == pytest.approx(math.exp(1.1277 / (0.5068 + 0.4965)), rel=1e-12)
        assert 3.0 < ratio < 3.2

    def test_best_bits(self):
        assert best_bits(C) == pytest.approx(7.00211, abs=6e-6)

    def test_best_bits_without_offsets(self):
        gammas = [C.factors[p][0] for p in PARTS]
        without = dataclasses.replace(C, factors={p: (g, 0.0) for p, g in zip(PARTS, gammas, strict=True)})
        assert best_bits(without) == pytest.approx(3.47, abs=5e-3)
        mean = sum(gammas) / 3
        averaged = dataclasses.replace(C, factors=dict.fromkeys(PARTS, (mean, 0.0)))
        assert best_bits(averaged) == pytest.approx(1.90381 * mean, rel=3e-6)
        assert best_bits(averaged) == pytest.approx(3.71, abs=5e-3)

    @pytest.mark.parametrize(("bits", "price"), [(16, 1.703), (8, 1.022), (6, 1.038), (4, 2.215)])
    def test_price_of_the_wrong_precision(self, bits, price):
        best = best_bits(C)
        assert (share(best) / best) / (share(bits) / bits) == pytest.approx(price, abs=5e-4)

    def test_shares(self):
        law = PrecisionLaw.table2()
        assert law.factor(4).value == pytest.approx(0.1910, abs=5e-5)
        assert law.factor(16).value == pytest.approx(0.99366, abs=5e-6)

    @pytest.mark.parametrize(
        ("bits", "params", "tokens"), [(16, 3.052e9, 5.461e10), (8, 4.729e9, 7.049e10), (4, 1.392e10, 4.789e10)]
    )
    def test_plans_at_fixed_bits(self, bits, params, tokens):
        found = plan(compute=1e21, bits=bits)
        assert found["params"] == pytest.approx(params, rel=2e-4)
        assert found["tokens"] == pytest.approx(tokens, rel=2e-4)

    @pytest.mark.parametrize(("compute", "bits"), [(1e21, 6.30), (1e23, 11.26), (1e25, 17.15)])
    def test_fixed_size(self, compute, bits):
        assert plan(compute=compute, params=8e9)["bits"] == pytest.approx(bits, abs=5e-3)

    def test_fixed_size_grows_with_the_logarithm_of_compute(self):
        low, high = (plan(compute=c, params=8e9)["bits"] for c in (1e38, 1e38 * math.e))
        assert high - low == pytest.approx(1.349, abs=2e-3)
        assert high - low > 0.4965 * 2.6745  # its limit, from above

    @pytest.mark.parametrize(("cost", "bits"), [(1e9, 5.824), (1e10, 6.859), (1e11, 7.871)])
    def test_serving(self, cost, bits):
        found = plan(serving=cost)
        assert found["bits"] == pytest.approx(bits, abs=6e-4)
        assert found["params"] * found["bits"] == pytest.approx(cost, rel=1e-12)


class TestIdentities:
    def test_at_the_critical_data_the_deployed_loss_is_flat(self):
        for size, post, bits in ((3e7, 3.0, INF), (1e9, 4.0, 8.0), (1e10, 5.0, 6.0)):
            d = C.critical_tokens(size, post, bits)
            h = 1e-4

            def deployed(ln, size=size, post=post, bits=bits):
                return C.loss(size, math.exp(ln), bits) + C.delta(size, math.exp(ln), post, bits)

            middle = deployed(math.log(d))
            ends = [deployed(math.log(d) + s * h) for s in (-1, 1)]
            assert abs(ends[1] - ends[0]) / (2 * h) < 1e-8 * middle
            assert sum(ends) > 2 * middle

    def test_best_bits_whatever_the_budget_and_the_exponents(self):
        """Brute force over size and bits, for two budgets and two pairs of exponents: always 7.00211."""
        for compute in (1e20, 1e24):
            for alpha, beta in ((0.4965, 0.4965), (0.34, 0.28)):

                def loss(u, compute=compute, alpha=alpha, beta=beta):
                    n, bits = math.exp(u[0]), u[1]
                    if bits <= 3.2:
                        return 1e9
                    d = 16 * compute / (6 * bits * n)
                    return math.log(4299 * (n * share(bits)) ** -alpha + 18060 * d**-beta)

                assert lowest(loss, [21.0, 9.0])[1] == pytest.approx(7.00211, abs=2e-5)

    def test_data_are_most_at_the_best_bits(self):
        best = best_bits(C)
        tokens = [product(1e21, p) / best_params(C, 1e21, p) for p in best + np.array([-1e-3, 0.0, 1e-3])]
        assert tokens[1] > max(tokens[0], tokens[2])

    def test_size_and_data_follow_powers_of_share_and_bits(self):
        untied = dataclasses.replace(C, alpha=0.34, beta=0.28)
        n = [best_params(untied, 1e21, p) for p in (5.0, 9.0)]
        a, b = 0.34 / 0.62, 0.28 / 0.62
        assert n[1] / n[0] == pytest.approx((share(9) / share(5)) ** -a * (9 / 5) ** -b, rel=1e-12)
        d = [product(1e21, p) / m for p, m in zip((5.0, 9.0), n, strict=True)]
        assert d[1] / d[0] == pytest.approx((share(9) / share(5)) ** a * (9 / 5) ** -a, rel=1e-12)

    def test_a_pair_of_runs_gives_the_share(self):
        law = PrecisionLaw.table2()
        for bits in ({"weights": 4}, {"weights": 4, "kv": 6}, 5):
            few, full = (law.loss(1e8, 6e9, b).value for b in (bits, INF))
            assert law.measured_factor(1e8, few, full).value == pytest.approx(law.factor(bits).value, rel=1e-10)

    def test_rounding_trained_bits_costs_nothing(self):
        law = PrecisionLaw.table2()
        assert law.ptq(1e8, 6e9, bits=4, trained_bits=4).value == 0.0
        assert law.critical_tokens(1e8, bits=4, trained_bits={"weights": 4}).value == INF

    def test_one_bit_more(self):
        law = PrecisionLaw.table2()
        assert law.ptq(1e8, 6e9, bits=5).value / law.ptq(1e8, 6e9, bits=4).value == pytest.approx(0.183984, abs=6e-7)

    def test_constants_and_law_agree(self):
        at = {"params": 1e9, "tokens": 2e10, "weight_bits": 6.0, "kv_bits": 8.0, "post_bits": 4.0}
        bits = {"weights": 6.0, "kv": 8.0}
        found = C.loss(1e9, 2e10, bits) + C.delta(1e9, 2e10, 4.0, bits)
        assert found == pytest.approx(float(TABLE.predict(at)["value"]), rel=1e-13)


class TestPlansAgainstMinimization:
    """Each closed form or root beside a search over plain arithmetic that knows no derivative."""

    def test_fixed_bits(self):
        found = plan(compute=1e21, bits=5)
        best = lowest(lambda u: trained_loss(math.exp(u[0]), 16e21 / (6 * 5 * math.exp(u[0])), 5), [22.0])
        assert found["params"] == pytest.approx(math.exp(best[0]), rel=1e-6)
        assert found["loss"] == pytest.approx(trained_loss(found["params"], found["tokens"], 5), rel=1e-13)
        assert 6 / 16 * found["params"] * found["tokens"] * 5 == pytest.approx(1e21, rel=1e-12)

    def test_joint(self):
        found = plan(compute=1e21)

        def loss(u):
            return trained_loss(math.exp(u[0]), 16e21 / (6 * u[1] * math.exp(u[0])), u[1]) if u[1] > 3.2 else 9.0

        best = lowest(loss, [22.0, 8.0])
        assert [math.log(found["params"]), found["bits"]] == pytest.approx(list(best), abs=1e-5)

    @pytest.mark.parametrize(("fixed", "value"), [("params", 8e9), ("tokens", 5e10)])
    def test_fixed_size_or_data(self, fixed, value):
        found = plan(compute=1e21, **{fixed: value})

        def loss(u):
            other = 16e21 / (6 * u[0] * value)
            n, d = (value, other) if fixed == "params" else (other, value)
            return trained_loss(n, d, u[0]) if u[0] > 3.2 else 9.0

        assert found["bits"] == pytest.approx(lowest(loss, [8.0])[0], abs=1e-5)

    def test_serving(self):
        found = plan(serving=1e10)

        def loss(u):
            n, d = 1e10 / u[1], math.exp(u[0])
            return trained_loss(n, d) + rounding_cost(n, d, u[1])

        best = lowest(loss, [25.0, 6.0])
        assert [math.log(found["tokens"]), found["bits"]] == pytest.approx(list(best), abs=1e-5)
        assert found["loss"] == pytest.approx(loss(best), rel=1e-12)

    def test_rounded_afterwards(self):
        """Budget and bits of training fixed, weights rounded afterwards: larger, and trained on less, than without."""
        found, without = plan(compute=1e21, bits=8, post_bits=3), plan(compute=1e21, bits=8)

        def loss(u):
            n = math.exp(u[0])
            d = 16e21 / (6 * 8 * n)
            ready = math.prod([1 - math.exp(-1.0 * (8 - 3))] * 3)
            return trained_loss(n, d, 8) + ready * rounding_cost(n * share(8), d, 3)

        assert found["params"] == pytest.approx(math.exp(lowest(loss, [22.0])[0]), rel=1e-5)
        assert found["params"] > without["params"]
        assert found["tokens"] < without["tokens"]
        assert found["loss"] == pytest.approx(loss([math.log(found["params"])]), rel=1e-12)
        assert found["tokens"] < found["critical_tokens"]

    def test_rounded_afterwards_bits_free(self):
        found = plan(compute=1e21, post_bits=4)
        for bits in (found["bits"] - 0.02, found["bits"] + 0.02):
            assert plan(compute=1e21, post_bits=4, bits=bits)["loss"] > found["loss"]

    def test_critical(self):
        found = plan(params=3e7, post_bits=4)
        best = lowest(lambda u: trained_loss(3e7, math.exp(u[0])) + rounding_cost(3e7, math.exp(u[0]), 4), [24.0])
        assert found["critical_tokens"] == found["tokens"] == pytest.approx(math.exp(best[0]), rel=1e-5)
        assert found["bits"] == INF

    def test_size_and_data_given(self):
        assert plan(params=1e8, tokens=6e9, bits=6)["loss"] == pytest.approx(trained_loss(1e8, 6e9, 6), rel=1e-13)
        found = plan(params=1e9, tokens=2e10, compute=6e19)
        assert found["bits"] == pytest.approx(8.0, rel=1e-12)

    def test_methods_and_function_agree(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ForetrainWarning)
            found = PrecisionLaw.table2().plan(1e21, fixed={"params": 8e9})
        assert {n: e.value for n, e in found.items()} == plan(compute=1e21, params=8e9)


@pytest.fixture(scope="module")
def law() -> PrecisionLaw:
    """Fitted to the runs of the paper's design, with noise of 2e-3 in losses and of 5 % in degradations."""
    runs, rng = trained(), np.random.default_rng(0)
    full = np.all([np.isinf(runs[p]) for p in PARTS], axis=0)
    loss = law_named("precision").predict(TRAINING, runs) * np.exp(2e-3 * rng.standard_normal(460))
    # One row for every trained network; those in full precision have one for each rounding.
    rows = [(i, post) for i in range(460) for post in ((3, 4, 5, 6) if full[i] else (math.nan,))]
    index, post = np.array([i for i, _ in rows]), np.array([p for _, p in rows], float)
    table = {name: column[index] for name, column in runs.items()} | {"post_bits": post, "loss": loss[index]}
    at = {"params": table["params"], "tokens": table["tokens"], "post_bits": np.where(np.isnan(post), 4.0, post)}
    cost = law_named("ptq").predict(ROUNDING, at) * np.exp(0.05 * rng.standard_normal(len(post)))
    table["delta"] = np.where(np.isnan(post), np.nan, cost)
    return PrecisionLaw.fit(table, bootstrap=100, starts=6, validate=False)


class TestFromRuns:
    def test_rows(self, law):
        assert law.training.rows == 460
        assert law.rounding.rows == 80
        assert law.training.law.name == "precision"

    def test_everything_has_an_interval(self, law):
        for found in (
            law.loss(1e8, 6e9, {"weights": 4}),
            law.ptq(1e8, 6e9, bits=4),
            law.critical_tokens(3e7, bits=3),
            law.optimal_precision(),
            law.factor(5),
            *(e for n, e in law.plan(1e18).items() if n != "compute"),
        ):
            assert found.low <= found.value <= found.high
            assert 0 < found.high - found.low < found.value

    def test_near_the_truth(self, law):
        """Four times the width of the interval is eight standard errors."""
        for found, truth in (
            (law.optimal_precision(), 7.00211),
            (law.critical_tokens(3e7, bits=3), 5.325e9),
            (law.loss(1e8, 6e9, 5), trained_loss(1e8, 6e9, 5)),
        ):
            assert abs(found.value - truth) < 2 * (found.high - found.low)

    def test_best_bits_follow_from_the_fit(self, law):
        found = law.training.derived["best_bits"]
        assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(law.optimal_precision()), rel=1e-9)

    def test_what_was_given_has_no_width(self, law):
        found = law.plan(1e18, fixed={"params": 1e8})
        assert found["params"].low == found["params"].high == 1e8

    def test_runs_in_full_precision(self):
        runs = {"params": np.repeat([3e7, 1e8, 3e8], 4), "tokens": np.tile([1e9, 4e9, 1.6e10, 6e10], 3)}
        plain = law_named("chinchilla-tied").predict({n: TRAINING[n] for n in ("A", "B", "E", "alpha")}, runs)
        law = PrecisionLaw.fit(runs | {"loss": plain}, bootstrap=0, starts=8, validate=False)
        assert law.training.law.name == "chinchilla-tied"
        assert law.loss(1e8, 6e9).value == pytest.approx(trained_loss(1e8, 6e9), rel=1e-8)
        with pytest.raises(InvalidInput, match="fitted without weight_bits"):
            law.loss(1e8, 6e9, {"weights": 4})
        with pytest.raises(InvalidInput, match="knows no bits"):
            law.optimal_precision()
        with pytest.raises(InvalidInput, match="knows nothing of rounding"):
            law.ptq(1e8, 6e9, bits=4)


class TestPreset:
    def test_best_bits(self):
        assert TABLE.derived["best_bits"].value == pytest.approx(7.00211, abs=6e-6)

    def test_provenance(self):
        assert TABLE.data["source"].startswith("arXiv 2411.04330")
        assert any("not printed" in words for words in TABLE.warnings)
        assert len(TABLE.samples) == 0

    def test_no_interval(self):
        found = TABLE.predict({"params": 1e9, "tokens": 2e10})
        assert np.isnan(found["low"])
        assert np.isnan(found["high"])
        assert math.isnan(plan_precision(TABLE, compute=1e19)["bits"].low)

    def test_comes_back_from_a_file(self, tmp_path):
        TABLE.save(tmp_path / "table.json")
        again = Fit.load(tmp_path / "table.json")
        np.testing.assert_array_equal(again.theta, TABLE.theta)
        assert again.settings["preset"] == "precision-table2"

    def test_p0_is_offset_times_gamma(self):
        assert {p: round(C.factors[p][1], 3) for p in PARTS} == {
            "weight_bits": 0.812,
            "activation_bits": 3.110,
            "kv_bits": 2.316,
        }


class TestCautions:
    def test_beyond_sixteen_bits(self):
        with pytest.warns(ForetrainWarning, match=r"17\.15 bits are beyond 16.*16 are enough.*1\.3e-05 higher"):
            plan_precision(TABLE, compute=1e25, params=8e9)

    def test_constants_that_are_not_printed(self):
        with pytest.warns(ForetrainWarning, match="not printed"):
            plan_precision(TABLE, compute=1e21, bits=8, post_bits=4)

    @pytest.mark.parametrize(
        ("call", "words"),
        [
            (lambda law: law.loss(5e9, 2e10), "params = 5B is 2.94 times above"),
            (lambda law: law.loss(1e7, 2e9), "params = 10M is 3 times below"),
            (lambda law: law.loss(1e9, 2e10, {"weights": 2}), "weight_bits = 2: no run had fewer than 3"),
            (lambda law: law.loss(1e9, 2e10, {"weights": 20}), "weight_bits = 20: no run had more than 16"),
            (lambda law: law.ptq(1e9, 2e10, bits=2), "post_bits = 2: no run had fewer than 3"),
        ],
    )
    def test_far_from_the_runs(self, call, words):
        with pytest.warns(ForetrainWarning, match=words):
            call(PrecisionLaw.table2())

    def test_long_training(self):
        with pytest.warns(ForetrainWarning) as said:
            PrecisionLaw.table2().loss(3e7, 1e11)
        assert any("3333 tokens per parameter" in str(w.message) for w in said)

    def test_inside_there_is_nothing_to_say(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            PrecisionLaw.table2().loss(1e9, 2e10, {"weights": 4})


class TestRefusals:
    @pytest.mark.parametrize(
        ("call", "words"),
        [
            (
                lambda law: law.loss(1e9, 2e10, bits=3),
                r"activations of 3 bits are outside the law: it holds above 3\.11",
            ),
            (lambda law: law.ptq(1e9, 2e10, bits=3, trained_bits={"kv": 2}), "keys and values of 2 bits"),
            (lambda law: law.factor(0.5), "weights of 0.5 bits"),
            (lambda law: law.loss(1e9, 2e10, {"weigths": 4}), "expected weights, activations, kv.*got 'weigths'"),
            (lambda law: law.loss(1e9, 2e10, -4), "weight_bits > 0, got -4"),
            (lambda law: law.loss(0, 2e10), r"loss\(params\): expected a number > 0, got 0"),
            (lambda law: law.loss(1e9, math.nan), r"loss\(tokens\): expected a number > 0, got nan"),
            (lambda law: law.critical_tokens(INF, bits=4), r"critical_tokens\(params\)"),
            (lambda law: law.plan(1e21, fixed={"param": 1e9}), "got 'param'; did you mean 'params'"),
            (lambda law: law.measured_factor(1e9, 2.0, 3.0), "less than infinitely many parameters"),
        ],
    )
    def test_law(self, call, words):
        with pytest.raises(InvalidInput, match=words):
            call(PrecisionLaw.table2())

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({}, "give compute .*got nothing"),
            ({"params": 1e9}, "give compute"),
            ({"compute": -1.0}, r"plan\(compute\): expected a number > 0, got -1"),
            ({"compute": INF}, r"plan\(compute\): expected a number > 0, got inf"),
            ({"compute": 1e21, "bits": 3}, "activations of 3 bits are outside the law"),
            ({"compute": 1e21, "bits": INF}, "give bits 16"),
            ({"compute": 1e21, "bits": 8, "params": 1e9, "tokens": 1e10}, "leave one of the four out"),
            ({"compute": 1e18, "params": 1e9, "tokens": 1e12}, "weights of 0.00266667 bits are outside"),
            ({"serving": 1e10, "compute": 1e21}, "leave out compute"),
            ({"params": 1e9, "post_bits": 4, "bits": 4}, "round nothing away"),
        ],
    )
    def test_plan(self, given, words):
        with pytest.raises(InvalidInput, match=words):
            plan(**given)

    def test_a_law_without_bits(self):
        runs = {"params": np.repeat([3e7, 1e8, 3e8], 4), "tokens": np.tile([1e9, 4e9, 1.6e10, 6e10], 3)}
        plain = law_named("chinchilla-tied").predict({n: TRAINING[n] for n in ("A", "B", "E", "alpha")}, runs)
        found = fit(runs | {"loss": plain}, "chinchilla-tied", bootstrap=0, starts=4, validate=False)
        with pytest.raises(InvalidInput, match="chinchilla-tied does not say what training in few bits costs"):
            plan_precision(found, compute=1e21)

    def test_a_law_without_rounding(self):
        law = law_named("precision")
        found = dataclasses.replace(TABLE, law=law, theta=law.coordinates(TRAINING), samples=np.zeros((0, 10)))
        with pytest.raises(InvalidInput, match=r"plan\(post_bits\): this law knows nothing of rounding"):
            plan_precision(found, params=1e9, post_bits=4)

    def test_fewer_bits_always_better(self):
        """A factor that is still positive at no bits has no best number of them."""
        law = law_named("precision", having=["weight_bits"])
        values = {n: TRAINING[n] for n in law.names} | {"P0_w": -6.0}
        found = dataclasses.replace(TABLE, law=law, theta=law.coordinates(values), samples=np.zeros((0, 6)))
        with pytest.raises(InvalidInput, match="no best number of bits"):
            plan_precision(found, compute=1e21)

    def test_fits_of_other_laws(self):
        runs = rounded()
        found = fit(
            runs | {"delta": law_named("ptq").predict(ROUNDING, runs)}, "ptq", bootstrap=0, starts=4, validate=False
        )
        with pytest.raises(
            InvalidInput, match=r"PrecisionLaw\(training\): expected a fit of precision.*got one of ptq"
        ):
            PrecisionLaw(found)
        with pytest.raises(InvalidInput, match="leave rounding out"):
            PrecisionLaw(TABLE, found)
        with pytest.raises(InvalidInput, match=r"PrecisionLaw\(rounding\)"):
            PrecisionLaw(TABLE, TABLE)
        with pytest.raises(InvalidInput, match="did you mean 'precision'"):
            PrecisionLaw.fit(runs, "precison")
