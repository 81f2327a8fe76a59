"""Every law of the catalogue: what it says, its derivatives, its identities, and that a fit gives its own parameters back."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq

from foretrain.errors import InvalidInput
from foretrain.laws import CATALOGUE, Law, Parameter, fit, law_named, law_of, sum_of_powers

# The formulas of docs/theory/scaling-laws.md for one row, in plain arithmetic.
WRITTEN = {
    "chinchilla": lambda p, v: p["E"] + p["A"] / v["params"] ** p["alpha"] + p["B"] / v["tokens"] ** p["beta"],
    "chinchilla-tied": lambda p, v: p["E"] + p["A"] / v["params"] ** p["alpha"] + p["B"] / v["tokens"] ** p["alpha"],
    "kaplan": lambda p, v: (
        p["E"] + ((p["N_c"] / v["params"]) ** (p["alpha_N"] / p["alpha_D"]) + p["D_c"] / v["tokens"]) ** p["alpha_D"]
    ),
    "gadre": lambda p, v: (
        p["E"]
        + (p["a"] * (v["tokens"] / v["params"]) ** p["eta"] + p["b"] * (v["tokens"] / v["params"]) ** -p["eta"])
        * (6 * v["params"] * v["tokens"]) ** -p["eta"]
    ),
    "gemstones": lambda p, v: (
        p["E"]
        + p["A"] / v["width"] ** p["alpha"]
        + p["B"] / v["depth"] ** p["beta"]
        + p["C"] / v["params"] ** p["gamma"]
        + p["F"] / v["tokens"] ** p["zeta"]
    ),
    "power": lambda p, v: p["E"] + p["A"] * v["x"] ** -p["alpha"],
    "shifted": lambda p, v: p["E"] + p["A"] * (v["x"] + p["s"]) ** -p["alpha"],
    "broken": lambda p, v: (
        p["E"] + p["A"] * v["x"] ** -p["c_0"] * (1 + (v["x"] / p["d"]) ** (1 / p["f"])) ** (-p["c_1"] * p["f"])
    ),
    "theory-random-features": lambda p, v: (
        p["E"] + p["A"] / v["params"] ** (p["capacity"] * min(p["source"], 1)) + p["B"] / v["tokens"] ** p["source"]
    ),
    "theory-feature-learning": lambda p, v: (
        p["E"]
        + p["A"] / v["params"] ** (p["capacity"] * min(p["source"], 1))
        + p["B"] / v["tokens"] ** (p["source"] * max(1, 2 / (1 + p["source"])))
    ),
    "theory-reused-data": lambda p, v: (
        p["E"]
        + p["A"] / v["params"] ** (p["capacity"] * min(p["source"], 1))
        + p["B"] / v["tokens"] ** p["source"]
        + p["F"] / v["tokens_per_epoch"] ** (p["capacity"] * min(p["source"], 2))
    ),
}


def _muennighoff(p, v):
    unique = min(v["tokens_per_epoch"], v["tokens"])
    best = min(unique * (p["A"] / p["B"]) ** (1 / p["alpha"]), v["params"])
    data = unique * (1 + p["R_D"] * (1 - math.exp(-(v["tokens"] / unique - 1) / p["R_D"])))
    size = best * (1 + p["R_N"] * (1 - math.exp(-(v["params"] / best - 1) / p["R_N"])))
    return p["E"] + p["A"] / size ** p["alpha"] + p["B"] / data ** p["alpha"]


def _m4(p, v):
    """The implicit equation (L - E) = A x^-alpha (I - L)^a by bisection on the loss."""
    top, right = p["E"] + p["span"], p["A"] * v["x"] ** -p["alpha"]
    return brentq(lambda u: (u - p["E"]) - right * (top - u) ** p["a"], p["E"], top, xtol=1e-14)


WRITTEN |= {"muennighoff": _muennighoff, "m4": _m4}

# Parameters that a design can show, for recovery without noise.
TRUTH = {
    "chinchilla": {"A": 478.0, "B": 2143.0, "E": 1.82, "alpha": 0.347, "beta": 0.367},
    "chinchilla-tied": {"A": 560.0, "B": 1730.0, "E": 1.81, "alpha": 0.357},
    "kaplan": {"N_c": 8.8e13, "D_c": 5.4e13, "alpha_N": 0.3, "alpha_D": 0.25, "E": 1.5},
    "gadre": {"a": 400.0, "b": 1600.0, "E": 1.7, "eta": 0.17},
    "muennighoff": {"A": 521.0, "B": 1488.0, "E": 1.87, "alpha": 0.353, "R_D": 15.4, "R_N": 5.3},
    "gemstones": {
        "A": 3.0,
        "B": 1.5,
        "C": 200.0,
        "F": 900.0,
        "E": 1.5,
        "alpha": 0.4,
        "beta": 1.0,
        "gamma": 0.35,
        "zeta": 0.33,
    },
    "power": {"A": 300.0, "E": 1.2, "alpha": 0.33},
    "shifted": {"A": 300.0, "E": 1.2, "alpha": 0.33, "s": 3e6},
    "broken": {"A": 30.0, "E": 0.8, "c_0": 0.15, "c_1": 0.25, "d": 1e8, "f": 0.6},
    "m4": {"A": 2e3, "E": 1.2, "alpha": 0.5, "span": 6.0, "a": 0.7},
    "theory-random-features": {"A": 3000.0, "B": 500.0, "E": 1.5, "capacity": 1.4, "source": 0.3},
    "theory-feature-learning": {"A": 3000.0, "B": 5000.0, "E": 1.5, "capacity": 1.4, "source": 0.25},
    "theory-reused-data": {"A": 3000.0, "B": 500.0, "F": 2000.0, "E": 1.5, "capacity": 1.4, "source": 0.3},
}


def made(name: str) -> Law:
    return law_named(name, x="x" if CATALOGUE[name].one_variable else None)


def design(law: Law, rows: int = 160, seed: int = 0) -> dict[str, np.ndarray]:
    """Values of every variable of a law over the ranges that tables have."""
    rng = np.random.default_rng(seed)
    ranges = {"params": (1e7, 1e10), "tokens": (1e9, 1e12), "tokens_per_epoch": (1e8, 1e11), "width": (256, 4096)}
    ranges |= {"depth": (3, 80), "x": (1e5, 1e11)}
    bits = {v for v in law.variables if v.endswith("bits")}
    at = {
        v: np.exp(rng.uniform(*np.log(ranges.get(v, (2, 60))), rows)) if v not in bits else rng.uniform(3, 12, rows)
        for v in law.variables
    }
    return at


def thetas(law: Law, count: int = 40, seed: int = 0) -> np.ndarray:
    """Coordinates around the starts of a law, inside its bounds."""
    rng = np.random.default_rng(seed)
    grid = [[p.coordinate(s) for s in p.start] for p in law.parameters]
    drawn = np.array([[rng.choice(g) for g in grid] for _ in range(count)]) + 0.05 * rng.standard_normal(
        (count, len(grid))
    )
    low, high = law.bounds
    return np.clip(drawn, low + 1e-3, high - 1e-3)


@pytest.mark.parametrize("name", CATALOGUE)
class TestEveryLaw:
    def test_derivatives(self, name):
        law = made(name)
        x, theta = law.columns(design(law, 24)), thetas(law)
        log, slopes = law.logs(theta, x)
        assert np.all(np.isfinite(log))
        for i in range(theta.shape[1]):
            step = 1e-5 * np.eye(theta.shape[1])[i]
            ends = [law.logs(theta + side * step, x, slopes=False)[0] for side in (1, -1)]
            # Central differences: 1e-10 of curvature and 1e-11 of rounding, times how much a term bends.
            np.testing.assert_allclose(slopes[:, i], (ends[0] - ends[1]) / 2e-5, atol=2e-6, rtol=1e-5)

    def test_without_slopes_the_same(self, name):
        law = made(name)
        x, theta = law.columns(design(law, 24)), thetas(law)
        np.testing.assert_array_equal(law.logs(theta, x)[0], law.logs(theta, x, slopes=False)[0])
        assert law.logs(theta, x, slopes=False)[1] is None

    def test_rows_and_starts_are_independent(self, name):
        law = made(name)
        x, theta = law.columns(design(law, 24)), thetas(law)
        whole, slopes = law.logs(theta, x)
        part, part_slopes = law.logs(theta[3:5], np.ascontiguousarray(x[:, 7:11]))
        np.testing.assert_allclose(part, whole[3:5, 7:11], rtol=1e-13)
        np.testing.assert_allclose(part_slopes, slopes[3:5, :, 7:11], rtol=1e-12, atol=1e-15)

    def test_declared_well(self, name):
        law, entry = made(name), CATALOGUE[name]
        assert law.name == name
        assert entry.summary
        assert len(set(law.names)) == len(law.names)
        for word in (*law.variables, *law.names):
            assert word in law.formula, f"{word} is not in the formula"
        low, high = law.bounds
        for parameter, bottom, top in zip(law.parameters, low, high, strict=True):
            assert all(bottom <= parameter.coordinate(s) <= top for s in parameter.start)
        for quantity in law.derived.values():
            assert np.all(np.isfinite(quantity(law.values(thetas(law)))))


@pytest.mark.parametrize("name", WRITTEN)
def test_says_its_formula(name):
    law = made(name)
    at, theta = design(law, 30), thetas(law, 12)
    logs = law.logs(theta, law.columns(at), slopes=False)[0]
    for values, row in zip(theta, logs, strict=True):
        parameters = {n: float(v) for n, v in law.values(values).items()}
        for i in range(30):
            expected = WRITTEN[name](parameters, {v: float(c[i]) for v, c in at.items()})
            assert math.exp(row[i]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", TRUTH)
def test_no_noise_gives_the_parameters_back(name):
    law = made(name)
    at = design(law)
    if "tokens_per_epoch" in at:
        at["tokens_per_epoch"] = at["tokens"] / np.exp(np.random.default_rng(1).uniform(0, 4.5, len(at["tokens"])))
    found = fit({**at, "loss": law.predict(TRUTH[name], at)}, law, bootstrap=0, validate=False)
    # What is left is rounding, 1e-16 of the loss, magnified by how hard the parameters are to tell apart.
    assert found.condition_number < 1e6
    assert {n: e.value for n, e in found.parameters.items()} == pytest.approx(
        TRUTH[name], rel=1e-11 * found.condition_number + 1e-7
    )
    assert found.objective < 1e-18
    # With a tenth of all starts that lead there, 64 miss it in one case of a thousand.
    assert 10 * found.starts_agreeing > found.starts


class TestIdentities:
    def at(self, *names):
        full = design(law_named("muennighoff"), 40) | design(law_named("gemstones"), 40)
        return {n: full[n] for n in names}

    def test_gadre_is_the_tied_law(self):
        at, eta = self.at("params", "tokens"), 0.17
        gadre = law_named("gadre").predict({"a": 400.0, "b": 1600.0, "E": 1.7, "eta": eta}, at)
        tied = {"A": 6**-eta * 400.0, "B": 6**-eta * 1600.0, "E": 1.7, "alpha": 2 * eta}
        np.testing.assert_allclose(gadre, law_named("chinchilla-tied").predict(tied, at), rtol=1e-13)

    def test_tied_is_chinchilla_with_equal_exponents(self):
        at, tied = self.at("params", "tokens"), TRUTH["chinchilla-tied"]
        free = law_named("chinchilla").predict({**tied, "beta": tied["alpha"]}, at)
        np.testing.assert_allclose(law_named("chinchilla-tied").predict(tied, at), free, rtol=1e-13)

    def test_fresh_data_repeat_nothing(self):
        at = self.at("params", "tokens")
        at["tokens_per_epoch"] = at["tokens"]
        p = {**TRUTH["muennighoff"], "B": 1e-6}  # hardly any data are needed: no parameter is in excess
        tied = {n: p[n] for n in ("A", "B", "E", "alpha")}
        law = law_named("muennighoff")
        np.testing.assert_allclose(law.predict(p, at), law_named("chinchilla-tied").predict(tied, at), rtol=1e-13)

    def test_repetition_ends_at_its_bound(self):
        """However often, U tokens are worth (1 + R_D) U at most, and 1 + R of them while R is small."""
        p = {
            **TRUTH["muennighoff"],
            "A": 1e6,
            "B": 1e6,
            "E": 1e-9,
        }  # equal amplitudes: N_U = U, no parameter is in excess
        law, unique, params = law_named("muennighoff"), 1e9, 1e8
        for repeats, worth, accuracy in ((1e6, 1 + p["R_D"], 1e-9), (0.01, 1.01, 1e-5)):
            at = {"params": params, "tokens": (1 + repeats) * unique, "tokens_per_epoch": unique}
            of_data = float(law.predict(p, at)) - p["A"] / params ** p["alpha"] - p["E"]
            assert of_data == pytest.approx(p["B"] / (worth * unique) ** p["alpha"], rel=accuracy)

    def test_kaplan_at_one_infinite_size(self):
        p = {**TRUTH["kaplan"], "E": 1e-9}
        of_size = law_named("kaplan").predict(p, {"params": 1e9, "tokens": 1e40})
        assert float(of_size) == pytest.approx((p["N_c"] / 1e9) ** p["alpha_N"], rel=1e-6)
        of_data = law_named("kaplan").predict(p, {"params": 1e40, "tokens": 1e9})
        assert float(of_data) == pytest.approx((p["D_c"] / 1e9) ** p["alpha_D"], rel=1e-6)

    @pytest.mark.parametrize(
        ("name", "more"),
        [
            ("shifted", {"s": 1e-9}),
            ("broken", {"c_1": 0.0, "d": 1e8, "f": 1.0}),
            ("m4", {"a": 1e-3, "span": 1e6}),
        ],
    )
    def test_a_power_in_the_limit(self, name, more):
        p, at = {"A": 300.0, "E": 1.2, "alpha": 0.33}, {"x": np.geomspace(1e5, 1e11, 9)}
        if name == "broken":
            p["c_0"] = p.pop("alpha")
        if name == "m4":
            p["A"] *= 1e6 ** -more["a"]  # (I - L)^a is nearly span^a
        plain = law_named("power", x="x").predict({"A": 300.0, "E": 1.2, "alpha": 0.33}, at)
        np.testing.assert_allclose(law_named(name, x="x").predict({**p, **more}, at), plain, rtol=1e-5)

    def test_broken_has_two_slopes(self):
        p = TRUTH["broken"]
        loss = law_named("broken", x="x").predict({**p, "E": 1e-9}, {"x": np.array([1e-8, 1e-7, 1e18, 1e19])}) - 1e-9
        slopes = np.log10(loss[1::2] / loss[::2])
        assert slopes == pytest.approx([-p["c_0"], -p["c_0"] - p["c_1"]], rel=1e-6)

    @pytest.mark.parametrize("name", ["chinchilla", "gemstones", "theory-random-features", "power"])
    def test_units_change_an_amplitude_only(self, name):
        """N in other units, N -> u N, changes only A -> A u^alpha: exponents, floor and objective stay."""
        law = made(name)
        variable = "x" if name == "power" else "params"
        at = design(law)
        loss = law.predict(TRUTH[name], at) * np.exp(0.01 * np.random.default_rng(3).standard_normal(160))
        here = fit({**at, "loss": loss}, law, bootstrap=0, validate=False)
        there = fit({**at, variable: 1e-6 * at[variable], "loss": loss}, law, bootstrap=0, validate=False)
        assert there.objective == pytest.approx(here.objective, rel=1e-9)
        letter = "C" if name == "gemstones" else "A"
        power = {"gemstones": "gamma"}.get(name, "alpha")
        old, new = ({n: e.value for n, e in f.parameters.items()} for f in (here, there))
        u_power = here.derived["A_exponent"].value if "theory" in name else old[power]
        old[letter] *= 1e-6**u_power
        assert new == pytest.approx(old, rel=1e-4)


class TestMaking:
    def test_a_sum_of_powers_is_the_function(self):
        """The same law by two roads: linear exponents with softmax derivatives, and complex steps of a plain function."""
        named = law_named("chinchilla")
        plain = law_of(
            "plain",
            named.formula,
            lambda params, tokens, A, B, E, alpha, beta: E + A / params**alpha + B / tokens**beta,
            named.variables,
            named.parameters,
        )
        x, theta = named.columns(design(named, 30)), thetas(named)
        for ours, theirs in zip(named.logs(theta, x), plain.logs(theta, x), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-14)

    def test_constants_and_products(self):
        law = sum_of_powers(
            "product",
            "A x^p y^-p / 2 + E",
            ["x", "y"],
            [
                Parameter("A", (1.0,), positive=True),
                Parameter("E", (1.0,), positive=True),
                Parameter("p", (0.5,), low=0.0, high=3.0),
            ],
            [{"A": 1.0, "p": {"x": 1.0, "y": -1.0, "": -math.log(2.0)}}, {"E": 1.0}],
        )
        got = law.predict({"A": 3.0, "E": 1.0, "p": 1.0}, {"x": 8.0, "y": [2.0, 4.0]})
        np.testing.assert_allclose(got, [3.0 * 4.0 / 2 + 1.0, 3.0 * 2.0 / 2 + 1.0])

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda: Parameter("a", ()), "at least one start"),
            (lambda: Parameter("a", (0.0,), positive=True), "starts from 0 to inf, got 0"),
            (lambda: Parameter("a", (5.0,), high=2.0), "got 5"),
            (lambda: law_named("chincilla"), "did you mean 'chinchilla'?"),
            (lambda: law_named("power"), "name its column"),
            (lambda: law_named("kaplan", x="tokens"), "leave x out"),
            (
                lambda: law_named("power", x="x").predict({"A": 1.0, "E": 1.0}, {"x": 1.0}),
                "parameter 'alpha' is missing",
            ),
            (lambda: law_named("power", x="x").coordinates({"a": 1.0}), "no parameter 'a'"),
            (lambda: law_named("power", x="x").columns({"y": 1.0}), "'x' is missing"),
            (lambda: law_named("power", x="x").columns({"x": [1.0, -2.0]}), "expected x > 0, got -2"),
        ],
    )
    def test_refusals(self, make, words):
        with pytest.raises(InvalidInput) as refused:
            make()
        assert words in str(refused.value)
