"""The optimum of a sweep, its drift and their errors, on surfaces of which both are known."""

import math

import numpy as np
import pytest
from transfer_surfaces import surface

from foretrain.studies import _transfer_optimum as optimum
from foretrain.studies import _transfer_shape as shape
from foretrain.studies import _transfer_statistics as statistics


def grid(points=11, step=2.0):
    return np.log(0.1) + np.log(step) * (np.arange(points) - points // 2)


@pytest.mark.parametrize("place", [-0.9, -0.31, 0.0, 0.22, 1.1])
def test_vertex_of_a_parabola_is_exact(place):
    # Compression keeps the minimum of a symmetric curve only as the window closes: a shallow parabola is not compressed.
    x = grid()
    found = optimum.find_vertex(x, -1 + 1e-4 * (x - np.log(0.1) - place) ** 2)
    assert found.status == optimum.BRACKETED
    # 1e-6: where the moving window stops; the compression of heights of 1e-3 is relative 1e-6 of them.
    assert found.place - np.log(0.1) == pytest.approx(place, abs=1e-5)
    assert found.height == pytest.approx(-1, abs=1e-7)
    assert found.curvature == pytest.approx(2e-4, rel=1e-4)


def test_moving_the_curve_moves_the_vertex():
    # By a whole number of grid steps nothing but the place changes, whatever the shape.
    x = grid(15)
    curve = lambda d: 0.25 * d**2 + 0.1 * d**3 * (d > 0)  # noqa: E731
    places = [optimum.find_vertex(x, curve(x - np.log(0.1) - k * np.log(2.0))).place for k in (-2, -1, 0, 1, 2)]
    assert np.diff(places) == pytest.approx(np.log(2.0), abs=1e-5)


def test_cubic_is_recovered_and_taken_off():
    x = grid(15, 2**0.5)
    curves = np.array([1e-4 * ((x - v) ** 2 + 0.3 * (x - v) ** 3) for v in (-2.4, -2.3, -2.2)])
    skew, error = optimum.common_skew(x, curves)
    assert skew == pytest.approx(3e-5, rel=1e-3)
    assert error < 1e-3 * skew
    found = [optimum.find_vertex(x, y, skew=skew).place for y in curves]
    assert found == pytest.approx([-2.4, -2.3, -2.2], abs=1e-4)


def test_ends_of_the_grid_bound_one_side():
    x = grid()
    upper, lower = optimum.find_vertex(x, -x), optimum.find_vertex(x, x)
    assert (upper.status, upper.place, upper.high) == (optimum.UPPER, x[-1], math.inf)
    assert (lower.status, lower.place, lower.low) == (optimum.LOWER, x[0], -math.inf)
    assert not upper.located
    assert not lower.located


def test_everything_diverged():
    x = grid()
    found = optimum.find_vertex(x, np.full(len(x), np.inf))
    assert found.status == optimum.LOST
    assert math.isnan(found.place)
    assert not found.located


def test_no_minimum():
    # One dent at the top of a hill: no window has positive curvature once it reaches beyond the dent.
    x = grid()
    y = np.full(len(x), 0.0)
    y[5] = -1e-9
    y[[0, -1]] = -5e-10
    found = optimum.find_vertex(x, y)
    assert found.status in (optimum.FLAT, optimum.BRACKETED)
    assert x[0] <= found.place <= x[-1]


def test_best_point_before_divergence():
    x = grid()
    y = np.where(x > x[6] + 0.1, np.inf, -x)
    found = optimum.find_vertex(x, y)
    assert found.status == optimum.CLIFF
    assert found.located
    assert found.place == x[6]  # nothing beyond was seen
    assert found.high == pytest.approx((x[6] + x[7]) / 2)
    assert found.gap == pytest.approx(np.log(2) ** 2 / 12)


def test_edge_of_stability():
    x = grid()
    finite = x < x[8] - 0.1
    edge = optimum.find_edge(x, finite, x[5])
    assert edge is not None
    assert (edge.stable, edge.diverged) == (x[7], x[8])
    assert optimum.find_edge(x, np.ones(len(x), dtype=bool), x[5]) is None
    assert optimum.find_edge(x, finite, math.nan) is None
    below = optimum.find_edge(x, x > x[1] + 0.1, x[5])  # momentum and batch size diverge on the other side
    assert below is not None
    assert (below.stable, below.diverged) == (x[2], x[1])


def test_bootstrap_over_few_seeds_is_exact():
    # The mean's variance by the exact bootstrap, inflated by n/(n-1), is the textbook s^2/n.
    values = np.random.default_rng(0).normal(size=4)
    draws = statistics.resample(4)
    assert draws.chance.sum() == pytest.approx(1)
    variance = draws.covariance((draws.weights @ values)[:, None])[0, 0]
    assert variance == pytest.approx(values.var(ddof=1) / 4, rel=1e-12)


def test_bootstrap_over_many_seeds():
    values = np.random.default_rng(0).normal(size=12)
    draws = statistics.resample(12)
    assert len(draws.chance) == 100
    variance = draws.covariance((draws.weights @ values)[:, None])[0, 0]
    assert variance == pytest.approx(values.var(ddof=1) / 12, rel=0.6)  # 4 sigma of a variance from 100 draws


def test_one_seed_has_no_variance():
    draws = statistics.resample(1)
    assert draws.covariance(np.array([[3.0]]))[0, 0] == 0


def test_slope_of_a_line_is_exact_and_knows_shared_noise():
    x = np.log([64, 128, 256, 512, 1024])
    y = 1.0 - 0.37 * x
    everywhere = np.full((5, 5), 0.04)  # noise that moves all sizes together does not tilt the line
    found = statistics.slope(x, y, everywhere, np.zeros(5))
    assert found.exponent == pytest.approx(-0.37, abs=1e-12)
    assert found.stderr == pytest.approx(0, abs=1e-9)
    assert found.stderr_intercept == pytest.approx(0.2)
    alone = statistics.slope(x, y, np.diag(np.full(5, 0.04)), np.zeros(5))
    assert alone.stderr == pytest.approx(0.2 / np.sqrt(((x - x.mean()) ** 2).sum()))


@pytest.mark.parametrize(
    ("kind", "step", "seeds"),
    [
        ("skewed", 2.0, 3),
        pytest.param("parabola", 2.0, 4, marks=pytest.mark.long),
        pytest.param("skewed", 2**0.5, 3, marks=pytest.mark.long),
        pytest.param("kinked", 2**0.5, 3, marks=pytest.mark.long),
    ],
)
def test_drift_is_unbiased_and_its_error_honest(kind, step, seeds):
    """z-scores over draws: mean 0 within 3 standard errors of 25 draws, and at least 85 % inside ±2 (95 % less sampling)."""
    random = np.random.default_rng(5)
    draws = 25
    points = 11 if step == 2.0 else 21
    z = []
    for _ in range(draws):
        sizes, x, losses, _ = surface(
            random,
            drift=0.15,
            seeds=seeds,
            step=step,
            kind=kind,
            offset=random.uniform(-0.35, 0.35),
            grid_points=points,
        )
        found = statistics.drift(statistics.analyse(sizes, x, losses))
        assert found is not None
        z.append((found.exponent - 0.15) / found.stderr)
    assert abs(np.mean(z)) < 3 / math.sqrt(draws)
    assert np.mean(np.abs(z) < 2) >= 0.85
    assert np.std(z) > 0.25  # an error that is far too large would be as wrong


@pytest.mark.parametrize(
    ("kind", "step", "draws"),
    [
        ("kinked", 2**0.5, 5),
        pytest.param("parabola", 2.0, 25, marks=pytest.mark.long),
        pytest.param("parabola", 2**0.5, 25, marks=pytest.mark.long),
        pytest.param("skewed", 2.0, 25, marks=pytest.mark.long),
        pytest.param("skewed", 2**0.5, 25, marks=pytest.mark.long),
        pytest.param("kinked", 2.0, 25, marks=pytest.mark.long),
        pytest.param("vee", 2**0.5, 25, marks=pytest.mark.long),
    ],
)
def test_interval_of_the_optimum_covers(kind, step, draws):
    """Nominal 95 %; intervals of one draw share their seeds and their shape, so a quarter of them is what counts."""
    random = np.random.default_rng(6)
    inside, widths = [], []
    for _ in range(draws):
        sizes, x, losses, best = surface(
            random,
            drift=0.1,
            seeds=4,
            step=step,
            kind=kind,
            offset=random.uniform(-0.35, 0.35),
            grid_points=11 if step == 2.0 else 21,
        )
        sweep = statistics.analyse(sizes, x, losses)
        ends = [sweep.interval(i) for i in range(len(sizes))]
        inside += [low <= b <= high for (low, high), b in zip(ends, best, strict=True)]
        widths += [high - low for low, high in ends]
    assert np.mean(inside) > 0.85
    assert np.median(widths) < 1.1 * math.log(step)  # an interval that covers because it says nothing would be as wrong


@pytest.mark.parametrize("wall", [1.5, 4.0])
def test_a_kink_is_seen_closely(wall):
    # Two power laws that meet: the parabola lies beside the kink, alike at all sizes; the points of all sizes together show it.
    sizes, x = np.array([64.0, 128.0, 256.0, 512.0, 1024.0]), grid(21, 2**0.5)
    best = np.log(0.1) + np.array([-0.2, -0.08, 0.03, 0.15, 0.3])
    curves = np.array([np.where(x < b, 0.6 * (b - x), wall * (x - b)) for b in best])
    skew, _ = optimum.common_skew(x, curves)
    plain = np.array([optimum.find_vertex(x, y, skew=skew).place for y in curves])
    sweep = statistics.analyse(sizes, x, np.exp(curves)[..., None])
    moved = np.array([vertex.place for vertex in sweep.vertices])
    assert np.diff(moved) == pytest.approx(np.diff(plain), abs=1e-12)  # the drift stays
    assert np.abs(moved - best).max() < 0.4 * np.abs(plain - best).max()
    assert all(low < b < high for (low, high), b in zip(map(sweep.interval, range(5)), best, strict=True))


def test_a_parabola_is_not_moved():
    x = grid(21, 2**0.5)
    curves = np.array([1e-4 * (x - v) ** 2 for v in (-2.4, -2.3, -2.2)])
    places = np.array([optimum.find_vertex(x, y).place for y in curves])
    found = shape.common_shift(x, curves, places, [optimum.BRACKETED] * 3)
    assert found is not None
    assert found.value == pytest.approx(0, abs=1e-4)
    assert found.variance < 1e-8


def test_no_common_shape_without_points():
    x = grid(4)
    y = (x - x[1]) ** 2
    assert shape.common_shift(x, y[None], x[[1]], [optimum.BRACKETED]) is None  # four points, four coefficients
    assert shape.common_shift(x, y[None], x[[1]], [optimum.UPPER]) is None


@pytest.mark.long
def test_wrong_rule_is_caught():
    """The grid's argmin in place of the vertex: its drift is off by more than the honest error allows."""
    random = np.random.default_rng(7)
    z = []
    for _ in range(20):
        sizes, x, losses, _ = surface(random, drift=0.15, seeds=4, offset=random.uniform(-0.35, 0.35))
        sweep = statistics.analyse(sizes, x, losses)
        snapped = np.array([x[np.argmin(row)] for row in sweep.y])
        honest = statistics.drift(sweep)
        assert honest is not None
        z.append((np.polyfit(np.log(sizes), snapped, 1)[0] - 0.15) / honest.stderr)
    assert np.mean(np.abs(z) < 2) < 0.85


def test_cost_of_the_wrong_size():
    # log loss = d^2/4 at the large size, whose optimum is 0.5 lower: costs exp(0.0625) - 1.
    random = np.random.default_rng(8)
    sizes, x, losses, best = surface(
        random,
        drift=-0.5 / np.log(16),
        kind="parabola",
        step=2**0.5,
        grid_points=21,
        common=0.01,
        single=0.002,
        moving=0.01,
    )
    cost = statistics.loss_cost(statistics.analyse(sizes, x, losses), 0, 4)
    assert cost is not None
    truth = math.expm1(0.25 * (best[0] - best[4]) ** 2)
    assert cost.low < truth < cost.high
    assert cost.value == pytest.approx(truth, abs=0.02)


def test_cost_where_the_large_network_diverges():
    random = np.random.default_rng(9)
    sizes, x, losses, _ = surface(random, drift=-0.8)
    cost = statistics.loss_cost(statistics.analyse(sizes, x, losses), 0, 4)
    assert cost is not None
    assert math.isinf(cost.value)


def test_scale_of_momentum():
    from foretrain.studies._transfer_plan import Scale

    scale = Scale("momentum")
    assert scale.place([0.9])[0] == pytest.approx(math.log(0.1))
    assert scale.value(math.log(0.1)) == pytest.approx(0.9)
    assert Scale("weight_decay").place([0.0])[0] == -math.inf
