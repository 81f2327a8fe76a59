"""The minimizer: it reaches optima, knows when it has, and agrees with SciPy where SciPy is carried to the end."""

import itertools

import numpy as np
import pytest
from scipy.optimize import least_squares

from foretrain.laws import Objective, law_named
from foretrain.laws import _problem as problems
from foretrain.laws import _solver as solver
from foretrain.laws._problem import Problem, grid_of_starts

TRUTH = {"A": 478.0, "B": 2143.0, "E": 1.82, "alpha": 0.347, "beta": 0.367}


def chinchilla(rows=240, noise=0.006, seed=0, delta=1e-3, loss="huber", on="log", outliers=0):
    """A problem of `rows` runs whose sizes and budgets are spread as in published tables."""
    rng = np.random.default_rng(seed)
    law = law_named("chinchilla")
    params = np.exp(rng.uniform(np.log(5e7), np.log(1.6e10), rows))
    tokens = params * np.exp(rng.uniform(0.0, 6.0, rows))
    at = {"params": params, "tokens": tokens}
    y = law.predict(TRUTH, at) * np.exp(noise * rng.standard_normal(rows))
    y[:outliers] *= 1.3
    return Problem(law, law.columns(at), y, Objective(loss=loss, delta=delta, on=on))


def starts_of(problem, count, seed=0):
    return grid_of_starts(problem.law, count, np.random.default_rng(seed))


def test_huber():
    r = np.array([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])
    np.testing.assert_allclose(solver.huber(r, 1.0), [2.5, 0.5, 0.125, 0.0, 0.125, 0.5, 2.5])
    np.testing.assert_allclose(solver.huber(r, np.inf), 0.5 * r**2)
    # It and its slope are continuous where a residual crosses the width, and it lies below its parabola (SL.21).
    for side in (-1.0, 1.0):
        inner, outer = solver.huber(side * np.array([1.0 - 1e-7, 1.0 + 1e-7]), 1.0)
        assert outer - inner == pytest.approx(2e-7, rel=1e-5)
    for at in (0.3, 2.0):
        w = min(1.0, 1.0 / at)
        assert np.all(
            solver.huber(r, 1.0) <= 0.5 * w * r**2 + solver.huber(np.array(at), 1.0) - 0.5 * w * at**2 + 1e-15
        )


class TestOptimum:
    def test_no_noise_from_a_grid_of_starts(self):
        """All five parameters to 1e-6, and all but a few of the starts are there; the others have lost a term below rounding."""
        problem = chinchilla(noise=0.0)
        solved, tried, agreeing = problem.solve(400, np.random.default_rng(0))
        got = {name: float(v[0]) for name, v in problem.law.values(solved.theta).items()}
        assert got == pytest.approx(TRUTH, rel=1e-6)
        assert agreeing > 0.93 * tried

    @pytest.mark.parametrize("delta", [1e-2, 1e-3, 1e-4])
    @pytest.mark.parametrize("seed", [0, 1])
    def test_starts_agree_and_the_gradient_says_so(self, delta, seed):
        problem = chinchilla(seed=seed, delta=delta, outliers=6)
        solved, tried, agreeing = problem.solve(64, np.random.default_rng(seed))
        assert tried == 64
        assert agreeing > 0.9 * tried
        assert solved.gradient[0] < 1e-8

    @pytest.mark.parametrize("delta", [1e-3, 1e-4])
    def test_scipy_finds_nothing_better(self, delta):
        """Its Huber loss is the same sum; from our optimum it gains nothing, and from elsewhere it does not pass it."""
        problem = chinchilla(delta=delta)
        solved, _, _ = problem.solve(64, np.random.default_rng(0))
        ours = float(solved.objective[0])
        rng = np.random.default_rng(1)
        for start in (solved.theta[0], solved.theta[0] + 0.05 * rng.standard_normal(5)):
            theirs = least_squares(
                lambda t: problem.residuals(t[None], slopes=False)[0][0],
                start,
                jac=lambda t: problem.residuals(t[None])[1][0].T,
                loss="huber",
                f_scale=delta,
                x_scale="jac",
                xtol=1e-15,
                ftol=1e-15,
                gtol=1e-15,
                max_nfev=3000,
            )
            assert theirs.cost >= ours * (1 - 1e-10)
        assert theirs.cost == pytest.approx(ours, rel=1e-3)

    def test_least_squares_is_that_of_scipy(self):
        problem = chinchilla(loss="squares")
        solved, _, _ = problem.solve(64, np.random.default_rng(0))
        theirs = least_squares(
            lambda t: problem.residuals(t[None], slopes=False)[0][0], solved.theta[0] + 0.01, x_scale="jac", xtol=1e-14
        )
        assert float(solved.objective[0]) == pytest.approx(theirs.cost, rel=1e-9)
        np.testing.assert_allclose(solved.theta[0], theirs.x, rtol=1e-4)

    def test_errors_of_the_loss_itself(self):
        problem = chinchilla(on="linear", delta=1e-3)
        solved, _, agreeing = problem.solve(32, np.random.default_rng(0))
        assert agreeing > 16
        assert solved.gradient[0] < 1e-8
        residuals = problem.residuals(solved.theta, slopes=False)[0][0]
        np.testing.assert_allclose(residuals, np.exp(problem.law.logs(solved.theta, problem.x)[0][0]) - problem.y)

    @pytest.mark.parametrize("delta", [1e-2, 1e-4, np.inf])
    def test_the_certificate(self, delta):
        """The gradient that is reported is the largest cosine between residuals and columns, from differences of the objective."""
        problem = chinchilla(rows=60, delta=delta if np.isfinite(delta) else 1.0)
        theta = problem.law.coordinates(TRUTH)[None] + 0.01
        found = problem.minimize(theta, delta=delta, iterations=0)
        assert found.iterations[0] == 0
        slope, weighted = [], []
        r, jacobian = problem.residuals(theta)
        w = np.minimum(1.0, delta / np.abs(r[0]))
        for i in range(5):
            ends = [
                solver.huber(problem.residuals(theta + s * 1e-6 * np.eye(5)[i], slopes=False)[0], delta).sum()
                for s in (1, -1)
            ]
            slope.append((ends[0] - ends[1]) / 2e-6)
            weighted.append(np.sqrt(np.sum(w * jacobian[0, i] ** 2) * np.sum(w * r[0] ** 2)))
        assert found.gradient[0] == pytest.approx(np.max(np.abs(slope) / weighted), rel=1e-4)


class TestManyAtOnce:
    def test_chunks_do_not_matter(self, monkeypatch):
        problem = chinchilla(rows=60)
        whole = problem.minimize(starts_of(problem, 40), iterations=30)
        monkeypatch.setattr(solver, "_MOST_NUMBERS", 60 * 5 * 3)
        parts = problem.minimize(starts_of(problem, 40), iterations=30)
        np.testing.assert_allclose(parts.objective, whole.objective, rtol=1e-6)
        assert len(parts.theta) == 40

    def test_weights_are_repetitions(self):
        problem = chinchilla(rows=40)
        counts = np.random.default_rng(0).integers(0, 3, 40)
        rows = np.repeat(np.arange(40), counts)
        repeated = Problem(problem.law, problem.x[:, rows], problem.y[rows], problem.objective)
        start = problem.law.coordinates(TRUTH)[None]
        ours = problem.minimize(start, weights=counts[None].astype(float), iterations=400)
        theirs = repeated.minimize(start, iterations=400)
        assert ours.objective[0] == pytest.approx(theirs.objective[0], rel=1e-9)
        np.testing.assert_allclose(ours.theta, theirs.theta, rtol=1e-6)

    def test_starts_without_a_number(self):
        """A start whose loss is not finite is given up; the others do not notice."""

        def residuals(theta, *, slopes=True):
            r = np.where(theta[:, :1] > 5, np.nan, theta[:, :1] - np.array([[1.0, 2.0, 3.0]]))
            return r, np.ones((len(theta), 1, 3)) if slopes else None

        bounds = {"low": np.array([-10.0]), "high": np.array([10.0])}
        found = solver.minimize(residuals, np.array([[0.0], [9.0], [4.0]]), rows=3, delta=np.inf, **bounds)
        assert np.isinf(found.objective[1])
        np.testing.assert_allclose(found.theta[[0, 2], 0], 2.0)
        assert found.best() in (0, 2)

    def test_bounds_hold(self):
        """The optimum is outside: the start ends at the bound, and that counts as an end."""
        problem = chinchilla(rows=60, noise=0.0)
        law = problem.law
        low, high = law.bounds
        problem.high = np.where(np.array(law.names) == "alpha", 0.3, high)
        found = problem.minimize(starts_of(problem, 30), iterations=300)
        best = found.best()
        assert found.theta[best, law.names.index("alpha")] == 0.3
        assert found.gradient[best] < 1e-6
        assert np.all((found.theta >= low) & (found.theta <= problem.high))

    def test_the_objective_never_rises(self):
        problem = chinchilla(rows=60, delta=1e-4)
        starts = starts_of(problem, 20)
        ends = [problem.minimize(starts, iterations=n).objective for n in (0, 1, 5, 20, 80)]
        for before, after in itertools.pairwise(ends):
            assert np.all(after <= before * (1 + 1e-12))


class TestResampling:
    def test_the_same_draws_from_runs_one_by_one(self):
        rng = np.random.default_rng(0)
        for draw in (problems._draws, problems._many_draws):
            counts = draw(rng, 50, 4000)
            assert np.all(counts.sum(axis=1) == 50)
            # A count is binomial with mean 1 and variance 49/50; standard errors of 4000 draws of 50, nearly independent.
            assert counts.mean() == pytest.approx(1.0)
            assert counts.var() == pytest.approx(0.98, abs=4 * np.sqrt(3.0 / 200_000))
            assert np.mean(counts == 0) == pytest.approx((1 - 1 / 50) ** 50, abs=4 * np.sqrt(0.24 / 200_000))

    def test_one_newton_step_is_the_fit_where_rows_are_many(self, monkeypatch):
        problem = chinchilla(rows=3000, loss="squares")
        theta = problem.solve(16, np.random.default_rng(0))[0].theta[0]
        groups = np.arange(3000)
        fitted = problem.bootstrap(theta, groups, 60, np.random.default_rng(1))
        monkeypatch.setattr(problems, "_MANY_ROWS", 1000)
        stepped = problem.bootstrap(theta, groups, 600, np.random.default_rng(2))
        # A standard deviation from 60 fits has a relative error of 9 %.
        np.testing.assert_allclose(stepped.std(axis=0), fitted.std(axis=0), rtol=0.3)
        assert np.all(np.abs(stepped.mean(axis=0) - theta) < 0.3 * fitted.std(axis=0))

    def test_groups_are_kept_together(self):
        """Runs written twice give the intervals of runs written once; rows taken singly are narrower by the root of two."""
        once = chinchilla(rows=60, loss="squares")
        twice = Problem(once.law, np.repeat(once.x, 2, axis=1), np.repeat(once.y, 2), once.objective)
        theta = once.solve(16, np.random.default_rng(0))[0].theta[0]
        spread = {
            name: p.bootstrap(theta, groups, 400, np.random.default_rng(3)).std(axis=0)
            for name, p, groups in (
                ("once", once, np.arange(60)),
                ("grouped", twice, np.repeat(np.arange(60), 2)),
                ("singly", twice, np.arange(120)),
            )
        }
        np.testing.assert_allclose(spread["grouped"], spread["once"], rtol=1e-3)
        # Standard deviations of 400 fits are known to 3.5 %.
        np.testing.assert_allclose(spread["singly"] * np.sqrt(2), spread["once"], rtol=0.2)
