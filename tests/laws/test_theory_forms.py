"""Laws of theory: their exponents are those of the theory, and fits to curves of the theory give capacity and source back."""

import numpy as np
import pytest

import foretrain
from foretrain.laws import Objective, feature_learning, fit, law_named, random_features, reused_data
from foretrain.laws import _theory_forms as theory

SQUARES = Objective(loss="squares")
TASKS = [(1.5, 0.6), (2.0, 0.5), (1.25, 1.6), (3.0, 2.5), (1.2, 0.1)]


@pytest.mark.parametrize(("capacity", "source"), TASKS)
class TestExponents:
    def test_fixed_features(self, capacity, source):
        """The three exponents of the page on random features, whose letters are b = capacity and a = capacity source + 1 (RF.19)."""
        b, a = capacity, capacity * source + 1
        assert theory._lazy_time(capacity, source)[0] == pytest.approx((a - 1) / b)
        assert theory._data(capacity, source)[0] == pytest.approx(min(a - 1, 2 * b))
        assert theory._width(capacity, source)[0] == pytest.approx(min(a - 1, b))

    def test_plan_of_hard_tasks(self, capacity, source):
        """N* ~ C^(1 / (b + 1)) for a - 1 < b (RF.20), and C^(2 / (2 + b (1 + s))) with features that learn."""
        if source < 1:
            lazy, rich = law_named("theory-random-features"), feature_learning()
            for law, expected in ((lazy, 1 / (1 + capacity)), (rich, 2 / (2 + capacity * (1 + source)))):
                p = {"capacity": capacity, "source": source}
                assert law.derived["params_exponent"](p) == pytest.approx(expected)

    def test_plan_of_easy_tasks(self, capacity, source):
        """The transient and the time law balance at N* ~ C^((a - b) / a) (RF.20)."""
        b, a = capacity, capacity * source + 1
        if source > 1:
            # 1 / N t^-(1 - 1/b) = t^-s along C = N t: t^(s - 1 + 1/b) = N, so N = C^(k / (1 + k)) with k = s - 1 + 1/b.
            k = theory._lazy_time(capacity, source)[0] - theory._transient(capacity, source)[0]
            assert k / (1 + k) == pytest.approx((a - b) / a)

    @pytest.mark.parametrize(
        "exponent", [theory._width, theory._data, theory._lazy_time, theory._rich_time, theory._transient]
    )
    def test_derivatives(self, capacity, source, exponent):
        value, by_capacity, by_source = exponent(capacity, source)
        assert by_capacity == pytest.approx((exponent(capacity + 1e-6, source)[0] - value) / 1e-6, abs=1e-5)
        assert by_source == pytest.approx((exponent(capacity, source + 1e-6)[0] - value) / 1e-6, abs=1e-5)


def test_learned_features_speed_hard_tasks_up_and_meet_at_the_kink():
    for source, expected in ((0.25, 0.4), (0.5, 2 / 3), (0.75, 0.857142857), (1.0, 1.0), (1.6, 1.6)):
        assert theory._rich_time(1.5, source)[0] == pytest.approx(expected)
    for exponent in (theory._width, theory._data, theory._rich_time):
        for kink in (1.0, 2.0):
            assert exponent(1.7, kink * (1 - 1e-9))[0] == pytest.approx(exponent(1.7, kink)[0], rel=1e-8)


def time_slope(capacity: float, source: float, richness: float = 0.0) -> float:
    """The local time exponent of a two-layer linear model of infinite width, by integrating its mean-field equation.

    dv/dt = -s lambda v - (g / s) beta (beta . lambda v), with beta = w* - v, s = 1 + g c and c s = |beta|^2: the features are slaved to the
    readout. Modes are binned in the logarithm of their index, up to 1e14, so that no cut-off is felt.
    """
    edges = np.concatenate([np.arange(1.0, 41.0), np.geomspace(41.0, 1e14, 900)])
    middle = np.sqrt(edges[:-1] * edges[1:])
    middle[:40] = np.arange(1.0, 41.0)
    power = capacity * source
    mass = (edges[:-1] ** -power - edges[1:] ** -power) / power  # sum of lambda w^2 over a bin
    mass[:40] = middle[:40] ** (-power - 1)
    eigenvalues = middle**-capacity
    left = np.ones(len(middle))  # v / w*
    losses, times = [], np.geomspace(1e2, 1e6, 13)
    t, next_time = 0.0, 0
    while next_time < len(times):
        step = min(max(1e-3, 0.01 * t), times[next_time] - t)
        norm = np.sum(mass / eigenvalues * (1 - left) ** 2)
        gain = 0.5 * (1 + np.sqrt(1 + 4 * richness * norm))
        push = richness / gain * np.sum(mass * (1 - left) * left)
        # Exponential step with gain and push held: exact for the lazy model, second order small in the step otherwise.
        rate = gain * eigenvalues - push
        held = np.where(np.abs(rate * step) > 1e-9, -np.expm1(-rate * step) / np.where(rate == 0, 1.0, rate), step)
        left = left * np.exp(-rate * step) - push * held
        t += step
        if t >= times[next_time] * (1 - 1e-12):
            losses.append(np.sum(mass * left**2))
            next_time += 1
    late = times >= 1e4
    return -np.polyfit(np.log(times[late]), np.log(np.array(losses)[late]), 1)[0]


class TestFitsToTheory:
    """Losses of `solve` without noise, far from the corner where two bottlenecks meet: there a sum of powers is exact."""

    @staticmethod
    def curves(capacity, source):
        task = foretrain.PowerLaw(capacity=capacity, source=source, modes=np.inf)
        widths, times = np.geomspace(1e3, 1e6, 7), np.geomspace(1e2, 1e13, 34)
        model = foretrain.RandomFeatures(width=tuple(widths))
        problem = foretrain.Problem(task=task, model=model, training=foretrain.GradientFlow(samples=np.inf))
        loss = np.squeeze(np.asarray(foretrain.solve(problem, times=times)["test_loss"]))
        width, time = (v.ravel() for v in np.meshgrid(widths, times, indexing="ij"))
        return {"width": width, "time": time, "loss": loss.ravel()}

    @staticmethod
    def away(runs, capacity, factor):
        far = np.abs(np.log(runs["time"] / runs["width"] ** capacity)) >= np.log(factor)
        return {name: values[far] for name, values in runs.items()}

    def errors(self, runs, capacity, source, factor, law):
        found = fit(self.away(runs, capacity, factor), law, objective=SQUARES, bootstrap=0, validate=False).parameters
        return abs(found["capacity"].value / capacity - 1), abs(found["source"].value / source - 1)

    @pytest.mark.parametrize(("capacity", "source"), [(1.5, 0.6), (2.0, 0.5)])
    def test_hard_tasks(self, capacity, source):
        runs, law = self.curves(capacity, source), random_features("width", "time")
        near, far = (self.errors(runs, capacity, source, factor, law) for factor in (1.0, 1e5))
        # At 1e5 from the corner the smaller term is 1e5^-0.5 = 0.3 % of the larger; the exponents follow to as much, over decades.
        assert max(far) < 0.01
        assert far[0] < near[0]
        assert far[1] < near[1]

    def test_easy_tasks_need_the_transient(self):
        capacity, source = 1.5, 1.4
        runs = self.curves(capacity, source)
        without, with_it = (
            self.errors(runs, capacity, source, 1e3, random_features("width", "time", transient=t))
            for t in (False, True)
        )
        assert max(with_it) < 0.02
        assert without[1] > 5 * with_it[1]

    def test_reused_data(self):
        capacity, source = 1.5, 0.6
        task = foretrain.PowerLaw(capacity=capacity, source=source, modes=np.inf)
        sizes, times = (1e3, 1e4, 1e5, 1e9), np.geomspace(1e2, 1e14, 25)
        problem = foretrain.Problem(
            task=task, model=foretrain.RandomFeatures(width=sizes), training=foretrain.GradientFlow(samples=sizes)
        )
        loss = np.squeeze(np.asarray(foretrain.solve(problem, times=times)["test_loss"])).ravel()
        width, samples, time = (v.ravel() for v in np.meshgrid(sizes, sizes, times, indexing="ij"))
        # Which bottleneck is the narrowest, in units of the eigenvalue that it stops at, and by how much.
        stops = np.sort(np.log([width**capacity, samples**capacity, time]), axis=0)
        alone = (stops[1] - stops[0] >= np.log(1e3)) & (width != samples)
        runs = {"width": width, "samples": samples, "time": time, "loss": loss}
        law = random_features("width", "time", samples="samples")
        found = fit({n: v[alone] for n, v in runs.items()}, law, objective=SQUARES, bootstrap=0, validate=False)
        assert found.parameters["capacity"].value == pytest.approx(capacity, rel=0.015)
        assert found.parameters["source"].value == pytest.approx(source, rel=0.015)
        assert found.derived["F_exponent"].value == pytest.approx(capacity * source, rel=0.01)

    @pytest.mark.parametrize("source", [0.25, 0.5, 1.4])
    def test_time_exponents_of_a_simulated_model(self, source):
        """Lazy and rich, from the equations of the model and not from its exponents; local slopes over two decades."""
        assert time_slope(1.5, source) == pytest.approx(theory._lazy_time(1.5, source)[0], rel=0.01)
        assert time_slope(1.5, source, 1.0) == pytest.approx(theory._rich_time(1.5, source)[0], rel=0.01)


class TestWhatAFitTells:
    params, tokens = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e10, 8), np.geomspace(1e9, 1e12, 8)))

    def noisy(self, alpha, beta, seed=0):
        loss = 1.7 + 300 * (self.params / 1e4) ** -alpha + 300 * (self.tokens / 1e5) ** -beta
        noise = 0.002 * np.random.default_rng(seed).standard_normal(len(loss))
        return {"params": self.params, "tokens": self.tokens, "loss": loss * np.exp(noise)}

    @pytest.mark.parametrize("name", ["theory-random-features", "theory-feature-learning"])
    @pytest.mark.parametrize(("alpha", "beta"), [(0.45, 0.3), (0.6, 0.55)])
    def test_the_free_law_in_other_coordinates(self, name, alpha, beta):
        runs = self.noisy(alpha, beta)
        free, tied = fit(runs, "chinchilla", bootstrap=0, validate=False), fit(runs, name, bootstrap=0, validate=False)
        assert tied.objective == pytest.approx(free.objective, rel=1e-9)
        assert tied.derived["A_exponent"].value == pytest.approx(free.parameters["alpha"].value, rel=1e-5)
        assert tied.derived["B_exponent"].value == pytest.approx(free.parameters["beta"].value, rel=1e-5)
        assert tied.derived["params_exponent"].value == pytest.approx(free.derived["params_exponent"].value, rel=1e-5)

    def test_lazy_and_rich_read_the_same_exponent_differently(self):
        runs = self.noisy(0.6, 0.4)
        lazy, rich = (
            fit(runs, f"theory-{name}", bootstrap=0, validate=False).parameters["source"].value
            for name in ("random-features", "feature-learning")
        )
        assert 2 * rich / (1 + rich) == pytest.approx(lazy, rel=1e-5)

    def test_the_kink_does_no_harm(self):
        """An optimum exactly at source 1: found, with a gradient of zero from both sides."""
        law = random_features()
        truth = {"A": 1e9, "B": 1e10, "E": 1.7, "capacity": 1.4, "source": 1.0}
        runs = {"params": self.params, "tokens": self.tokens}
        runs["loss"] = law.predict(truth, runs)
        found = fit(runs, law, bootstrap=0, objective=SQUARES)
        assert {n: e.value for n, e in found.parameters.items()} == pytest.approx(truth, rel=1e-5)

    def test_the_bound_of_the_capacity_is_told(self):
        found = fit(self.noisy(0.3, 0.4), "theory-random-features", bootstrap=0, validate=False)
        assert found.parameters["capacity"].value == 1.0
        assert any("capacity ends at its smallest value" in w for w in found.warnings)

    def test_intervals(self):
        found = fit(self.noisy(0.45, 0.3), "theory-random-features", bootstrap=200, validate=False)
        for name, truth in (("capacity", 1.5), ("source", 0.3)):
            assert found.parameters[name].low < truth < found.parameters[name].high

    def test_columns_of_your_own(self):
        assert random_features("width", "steps").variables == ("width", "steps")
        assert feature_learning("width", "steps").variables == ("width", "steps")
        assert reused_data().variables == ("params", "tokens", "tokens_per_epoch")
        assert random_features(transient=True).names == ("A", "B", "G", "E", "capacity", "source")
