"""Profile likelihood: exact where the fit is linear, invariant, beside the bootstrap, and covering."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import t as student

from foretrain.errors import InvalidInput
from foretrain.laws import Objective, Parameter, fit, law_named, law_of, profile, read_runs
from foretrain.laws._problem import rows_of
from foretrain.laws._quantity import values_of
from foretrain.laws._robust import first_order, row_variance
from foretrain.laws._runs import Runs

SQUARES = Objective(loss="squares")


def straight():
    """ln L = ln A - alpha ln x: linear in its coordinates."""
    parameters = [Parameter("A", (1.0, 10.0), True), Parameter("alpha", (0.1, 0.5), low=-10.0, high=10.0)]
    return law_of("straight", "A / x^alpha", lambda x, A, alpha: A * np.exp(-alpha * np.log(x)), ["x"], parameters)


def line(rows=25, noise=0.02, seed=0):
    x = np.geomspace(1.0, 1e4, rows)
    rng = np.random.default_rng(seed)
    return {"x": x, "loss": 5.0 * x**-0.2 * np.exp(noise * rng.standard_normal(rows))}


def grid(noise=0.004, seed=0, law="chinchilla"):
    params = np.repeat(np.geomspace(1e7, 1e9, 5), 6)
    tokens = params * np.tile([3.0, 8.0, 20.0, 50.0, 120.0, 300.0], 5)
    rng = np.random.default_rng(seed)
    loss = 1.8 + 400 / params**0.34 + 2000 / tokens**0.36
    return {"params": params, "tokens": tokens, "loss": loss * np.exp(noise * rng.standard_normal(30))}


class TestLinear:
    """For a straight line and least squares everything has a closed form."""

    @pytest.fixture
    def table(self):
        return line()

    def sandwich(self, table):
        """Estimate and covariance by the textbook, with one degree of freedom for each parameter."""
        X = np.stack([np.ones(25), -np.log(table["x"])], axis=1)
        inverse = np.linalg.inv(X.T @ X)
        beta = inverse @ X.T @ np.log(table["loss"])
        r = np.log(table["loss"]) - X @ beta
        free = 25 / 24 * 24 / 23
        return beta, free * inverse @ (X.T * r**2) @ X @ inverse

    def test_interval_is_students(self, table):
        found = fit(table, straight(), objective=SQUARES, bootstrap=0, validate=False)
        said = profile(table, found, "alpha", level=0.9)
        beta, covariance = self.sandwich(table)
        reach = student.ppf(0.95, 23) * math.sqrt(covariance[1, 1])
        assert said.value == pytest.approx(beta[1], rel=1e-9)
        # Ends are found to a thousandth of a standard error, and quantities held to a hundred-thousandth.
        assert (said.low, said.high) == pytest.approx((beta[1] - reach, beta[1] + reach), abs=2e-3 * reach)

    def test_prediction(self, table):
        found = fit(table, straight(), objective=SQUARES, bootstrap=0, validate=False)
        said = profile(table, found, "loss@x=1e6")
        beta, covariance = self.sandwich(table)
        h = np.array([1.0, -math.log(1e6)])
        centre, reach = h @ beta, student.ppf(0.975, 23) * math.sqrt(h @ covariance @ h)
        assert math.log(said.low) == pytest.approx(centre - reach, abs=2e-3 * reach)
        assert math.log(said.high) == pytest.approx(centre + reach, abs=2e-3 * reach)

    def test_first_order(self, table):
        found = fit(table, straight(), objective=SQUARES, bootstrap=0, validate=False)
        linear = first_order(found.law, rows_of(Runs(table), found.law, None), SQUARES, found.theta)
        # In coordinates (ln A, alpha) the columns are 1 and -ln x.
        assert linear.covariance == pytest.approx(self.sandwich(table)[1], rel=1e-6)
        r = np.log(table["loss"] / found.predict(table)["value"])
        assert linear.row == pytest.approx(np.sum(r**2) / 23, rel=1e-9)


def test_other_letters_other_ends():
    """The interval of a function of a quantity is that function of the interval."""
    table = grid()
    found = fit(table, bootstrap=0, validate=False)
    one = profile(table, found, "alpha")
    other = profile(table, found, lambda p: math.exp(5 * p["alpha"]))
    negative = profile(table, found, lambda p: -p["alpha"])
    assert (math.log(other.low) / 5, math.log(other.high) / 5) == pytest.approx((one.low, one.high), rel=2e-3)
    assert (-negative.high, -negative.low) == pytest.approx((one.low, one.high), rel=2e-3)


def test_levels_nest():
    table = grid()
    found = fit(table, bootstrap=0, validate=False)
    ends = [profile(table, found, "params_exponent", level=level) for level in (0.5, 0.9, 0.99)]
    for inner, outer in itertools.pairwise(ends):
        assert outer.low < inner.low < inner.value < inner.high < outer.high


def test_held_fits_are_the_constrained_optimum():
    """With alpha held, the objective is that of a law in which alpha is a number, fitted from its own starts."""
    from foretrain.laws._profile import _Profile

    table = grid()
    found = fit(table, objective=SQUARES, bootstrap=0, validate=False)
    held = _Profile(found, rows_of(Runs(table), found.law, None), values_of(found.law, "alpha"))
    for place in (-2.0, 1.0):
        alpha = math.exp(held.centre + place * held.error)
        law = law_of(
            "held", "", lambda params, tokens, A, B, E, beta, alpha=alpha: E + A / params**alpha + B / tokens**beta,
            ["params", "tokens"],
            [p for p in law_named("chinchilla").parameters if p.name != "alpha"],
        )  # fmt: skip
        alone = fit(table, law, objective=SQUARES, bootstrap=0, validate=False)
        rise = held.roots(np.array([place]))[0] ** 2 * held.scale / 2
        # The quantity misses its place by 1e-5 of a standard error, the root by as much of one.
        assert rise == pytest.approx(alone.objective - found.objective, rel=1e-3)


def test_runs_written_twice():
    """With names, no new evidence: the interval stays but for the degree of freedom that rows, not runs, pay."""
    table = grid()
    named = {**{n: np.repeat(v, 2) for n, v in table.items()}, "run": np.repeat([f"r{i:02}" for i in range(30)], 2)}
    one, two = (profile(t, fit(t, bootstrap=0, validate=False), "beta") for t in (table, named))
    free = math.sqrt((59 / 55) / (29 / 25))
    assert two.value == pytest.approx(one.value, rel=1e-5)
    assert math.log(two.high / two.low) == pytest.approx(free * math.log(one.high / one.low), rel=0.02)


def test_open_end():
    """Losses far above the floor do not bound it from below."""
    x = np.geomspace(10.0, 1e3, 12)
    loss = (0.05 + 8.0 / x**0.3) * np.exp(0.02 * np.random.default_rng(3).standard_normal(12))
    table = {"x": x, "loss": loss}
    said = profile(table, "power", "E", x="x")
    assert said.low == 0.0 or said.low < 1e-3
    assert said.high > 0.05


def test_beside_the_bootstrap():
    table = grid()
    found = fit(table, bootstrap=500, validate=False, objective=SQUARES)
    for quantity in ("alpha", "E", "loss@params=1e10,tokens=2e11"):
        said = profile(table, found, quantity)
        drawn = values_of(found.law, quantity)(found.samples)
        low, high = np.quantile(drawn, [0.025, 0.975])
        assert math.log(said.high / said.low) == pytest.approx(math.log(high / low), rel=0.3)


@pytest.mark.long
@pytest.mark.parametrize("objective", [SQUARES, Objective()], ids=["squares", "huber"])
def test_intervals_cover(objective):
    inside, scores = [], []
    truth = 1.8 + 400 / 1e10**0.34 + 2000 / 2e11**0.36
    for seed in range(40):
        table = grid(seed=seed)
        found = fit(table, objective=objective, bootstrap=0, validate=False, starts=8)
        said = profile(table, found, "loss@params=1e10,tokens=2e11", level=0.8)
        inside.append(said.low <= truth <= said.high)
        scores.append((said.value - truth) / (said.high - said.low))
    # 3 standard errors of a share of 40 with probability 0.8: 0.19.
    assert abs(np.mean(inside) - 0.8) <= 0.19
    assert abs(np.mean(scores)) < 3 * np.std(scores) / math.sqrt(40)


def test_what_a_row_tells():
    """tau^2 is the variance for least squares, and pi/2 of it for the median, which a small delta is."""
    r = np.random.default_rng(0).standard_normal(200_000)
    assert row_variance(r, SQUARES, 200_000, 5) == pytest.approx(1.0, abs=0.02)
    # The window of half the median size takes the density at zero for 1.9 % less than it is.
    assert row_variance(r, Objective(delta=1e-3), 200_000, 5) == pytest.approx(math.pi / 2 * 1.038, rel=0.02)


class TestQuantities:
    def test_names(self):
        law = law_named("chinchilla")
        theta = law.coordinates({"A": 480.0, "B": 2000.0, "E": 1.8, "alpha": 0.35, "beta": 0.36})[None]
        found = {q: float(values_of(law, q)(theta)[0]) for q in ("A", "params_exponent", "params@6e21", "tokens@6e21")}
        assert found["A"] == pytest.approx(480.0)
        assert found["params_exponent"] == pytest.approx(0.36 / 0.71)
        assert found["params@6e21"] * found["tokens@6e21"] == pytest.approx(1e21, rel=1e-12)
        ratio = float(values_of(law, "tokens_per_param@6e21")(theta)[0])
        assert ratio == pytest.approx(found["tokens@6e21"] / found["params@6e21"], rel=1e-12)
        best = values_of(law, f"loss@params={found['params@6e21']!r},tokens={found['tokens@6e21']!r}")(theta)
        assert values_of(law, "loss@6e21")(theta) == pytest.approx(best, rel=1e-12)
        suffixed = values_of(law, "loss@params=7B,tokens=2T")(theta)
        assert suffixed == pytest.approx(values_of(law, "loss@params=7e9,tokens=2e12")(theta), rel=1e-12)

    @pytest.mark.parametrize(
        ("quantity", "words"),
        [
            ("alfa", "no such parameter; did you mean 'alpha'"),
            ("params@many", "expected params, tokens, tokens_per_param, loss at a compute in FLOP"),
            ("width@1e20", "expected params, tokens"),
            ("params@1", "expected params, tokens"),
            ("loss@params=7B,token=2T", "expected values > 0 of params, tokens, got 'token=2T'; did you mean 'tokens'"),
            ("loss@params=-7B,tokens=2T", "expected values > 0"),
            ("loss@params=7B", "needs params, tokens; 'tokens' is missing"),
        ],
    )
    def test_mistakes(self, quantity, words):
        with pytest.raises(InvalidInput, match=words):
            values_of(law_named("chinchilla"), quantity)

    def test_no_best_size_in_one_variable(self):
        with pytest.raises(InvalidInput, match="is a law of steps and has no best size"):
            values_of(law_named("power", x="steps"), "params@1e20")


@pytest.mark.parametrize(("level", "words"), [(95, r"profile\(level\)"), (0.0, r"profile\(level\)")])
def test_levels(level, words):
    with pytest.raises(InvalidInput, match=words):
        profile(line(), straight(), "alpha", level=level)


class TestPublished:
    @pytest.mark.parametrize(
        ("quantity", "low", "high"),
        [("alpha", 0.317, 0.373), ("beta", 0.331, 0.415), ("E", 1.769, 1.871)],
    )
    def test_beside_the_published_bootstrap(self, scaling_data, quantity, low, high):
        """Besiroglu et al. (arXiv 2404.10102), 1000 resamples; a profile is another interval of the same width."""
        runs = read_runs(scaling_data / "chinchilla_epoch_245.csv").drop_largest_loss(5)
        said = profile(runs, fit(runs, bootstrap=0, validate=False), quantity)
        assert said.high - said.low == pytest.approx(high - low, rel=0.3)
        assert abs(said.low - low) < 0.2 * (high - low)
        assert abs(said.high - high) < 0.25 * (high - low)
