"""Test inputs of another distribution: identities, other roads, and simulated students."""

import jax
import numpy as np
import pytest

from foretrain.limits.linear import (
    Descent,
    Flow,
    HeavyBall,
    StochasticDescent,
    linear_curves,
    one_point,
    ridge_losses,
    spectral_edge,
    spectral_measure,
)
from foretrain.limits.linear._contour import ellipse

INF = np.inf
SHARES = ("both", "data", "features", "none")
MODES = np.arange(1.0, 41.0)
# Two directions that the training inputs do not show, and test inputs with a rougher spectrum.
LAM = np.where(np.isin(MODES, [18, 40]), 0.0, MODES**-1.2)
POWER = MODES**-0.4
Q = (1.0 + np.sin(MODES)) / (2.0 * np.sqrt(MODES))
PLAIN = spectral_measure(LAM, POWER, exact=40)
SHIFTED = spectral_measure(LAM, POWER, None, Q, exact=40)
SIZES = [(14.0, 22.0), (22.0, 14.0), (INF, 22.0), (14.0, INF), (INF, INF)]
TIMES = [0, 1, 3, 8, 12, 40, 160, INF]
PROTOCOLS = {
    "flow": Flow(),
    "descent": Descent(0.3),
    "overshooting descent": Descent(0.8),
    "momentum": HeavyBall(0.2, 0.6),
    "sgd": StochasticDescent(0.3, 2),
    "sgd without replacement": StochasticDescent(0.3, 4, False),
}
# 12 points of the hyperbola leave 1e-11 of the loss before training; the rest is rounding.
CONTOUR = 5e-11


def curves(measure, times, width, samples, dynamics, noise=0.16, shares=("both",)):
    result = linear_curves(measure, times, width, samples, noise, dynamics, shares)
    assert np.all(result.converged)
    assert not np.any(result.diverged)
    return result


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if "over" in name else name for name in PROTOCOLS]
)
def test_no_shift_changes_nothing(name):
    same = spectral_measure(LAM, POWER, None, LAM, exact=40)
    for width, samples in SIZES[:1] if "momentum" in name else SIZES[:2]:
        a, b = (curves(m, TIMES, width, samples, PROTOCOLS[name], shares=SHARES) for m in (PLAIN, same))
        np.testing.assert_allclose(b.test, a.test, rtol=CONTOUR)
        np.testing.assert_allclose(b.train, a.train, rtol=CONTOUR, atol=1e-13)
        np.testing.assert_allclose(b.test_noise, a.test_noise, rtol=CONTOUR, atol=1e-13)


@pytest.mark.parametrize(("width", "samples"), SIZES)
def test_no_shift_changes_nothing_with_ridge(width, samples):
    same = spectral_measure(LAM, POWER, None, LAM, exact=40)
    with jax.enable_x64(True):
        for ridge in (0.0, 1e-3, 0.5):
            a, b = (np.asarray(ridge_losses(m, ridge, width, samples, 0.16, SHARES)) for m in (PLAIN, same))
            np.testing.assert_allclose(b, a, rtol=1e-11)


@pytest.mark.parametrize("name", ["flow", "sgd"])
def test_train_losses_do_not_know_of_the_shift(name):
    for width, samples in SIZES[:2]:
        a, b = (curves(m, TIMES, width, samples, PROTOCOLS[name]) for m in (PLAIN, SHIFTED))
        np.testing.assert_allclose(b.train, a.train, rtol=CONTOUR, atol=1e-13)
        np.testing.assert_allclose(b.train_noise, a.train_noise, rtol=CONTOUR, atol=1e-13)


def test_linear_in_the_test_distribution():
    halves = [np.where(MODES <= 5, Q, 0.0), np.where(MODES > 5, Q, 0.0)]
    parts = [spectral_measure(LAM, POWER, None, q, exact=40) for q in halves]
    for name in ("flow", "sgd"):
        whole, *pieces = (curves(m, TIMES, 14.0, 22.0, PROTOCOLS[name], shares=SHARES) for m in (SHIFTED, *parts))
        np.testing.assert_allclose(sum(p.test for p in pieces), whole.test, rtol=CONTOUR)
        np.testing.assert_allclose(sum(p.test_noise for p in pieces), whole.test_noise, rtol=CONTOUR)


def test_infinite_everything_is_one_decay_per_mode():
    result = curves(SHIFTED, [0.0, 1.0, 10.0, 100.0, INF], INF, INF, Flow())
    exact = np.exp(-2.0 * np.outer([0.0, 1.0, 10.0, 100.0], LAM)) @ (Q * POWER)
    np.testing.assert_allclose(result.test[0, 0, :4], exact, rtol=CONTOUR)
    # What the training inputs do not show is never learned.
    assert result.test[0, 0, 4] == pytest.approx(np.sum((Q * POWER)[LAM == 0]), rel=1e-12)


@pytest.mark.parametrize(("width", "samples"), [(14.0, 22.0), (INF, 22.0), (14.0, INF)])
def test_unseen_directions_alone(width, samples):
    # On test inputs that show only what training inputs do not: their own power, and what random features leak into them.
    unseen = np.where(LAM == 0, 1.0, 0.0)
    measure = spectral_measure(LAM, POWER, None, unseen, exact=40)
    result = curves(measure, [0.0, 3.0, 50.0], width, samples, Flow(), shares=SHARES)
    kept = np.sum(POWER[LAM == 0])
    np.testing.assert_allclose(result.test[0, :, 0], kept, rtol=1e-15)
    np.testing.assert_allclose(result.test[0, 3], kept, rtol=CONTOUR)
    np.testing.assert_allclose(result.test[0, 1], kept, rtol=CONTOUR)
    if width == INF:
        np.testing.assert_allclose(result.test[0, 0], kept, rtol=CONTOUR)
    else:
        assert np.all(result.test[0, [0, 2], 1:] > 1.01 * kept)


@pytest.mark.parametrize(("width", "samples"), SIZES)
@pytest.mark.parametrize("reach", [0.6, 1.8])
def test_explicit_sum(volterra, width, samples, reach):
    other = volterra(LAM, POWER, width, samples, 0.16, Q)
    rate, batch = reach / other.edge, 16 if reach > 1.0 else 3
    steps = [t for t in TIMES if np.isfinite(t)]
    forcing = other.forcing(np.full(160, rate))[0]
    test = other.losses(np.full(160, rate), batch)[0]
    found = curves(SHIFTED, steps, width, samples, StochasticDescent(rate, batch))
    np.testing.assert_allclose(found.test[0, 0], test[steps], rtol=CONTOUR)
    np.testing.assert_allclose(found.test_noise[0], (test - forcing)[steps], rtol=CONTOUR, atol=CONTOUR)
    plain = curves(SHIFTED, steps, width, samples, Descent(rate))
    np.testing.assert_allclose(plain.test[0, 0], forcing[steps], rtol=CONTOUR)


@pytest.mark.parametrize(
    ("width", "samples", "rate", "batch", "test", "plain", "train"),
    [
        (
            22.0,
            14.0,
            0.3,
            4,
            [2.2323672111692, 1.9726123728301, 2.0648038440704, 2.6061269639311],
            [2.0931433679871, 1.885342681797, 2.0189327691072, 2.5916378806366],
            [0.97618370323984, 0.43041576709429, 0.20025996223606, 0.059747163342301],
        ),
        (
            14.0,
            22.0,
            0.8,
            16,
            [2.1939732537904, 2.2598967949661, 2.6735000345916, 3.6472011643508],
            [2.0200633087661, 2.1602559761406, 2.6004769409836, 3.5890636162163],
            [0.78584574477772, 0.4562087065295, 0.33295806622676, 0.26471138282179],
        ),
    ],
)
def test_numbers_of_extended_precision(width, samples, rate, batch, test, plain, train):
    # Computed once in 80-bit arithmetic: all modes, closed contours, explicit Volterra sums; steps 3, 13, 40, 160.
    found = curves(SHIFTED, [3, 13, 40, 160], width, samples, StochasticDescent(rate, batch))
    np.testing.assert_allclose(found.test[0, 0], test, rtol=CONTOUR)
    np.testing.assert_allclose(found.test[0, 0] - found.test_noise[0], plain, rtol=CONTOUR)
    np.testing.assert_allclose(found.train[0, 0], train, rtol=CONTOUR)


@pytest.mark.parametrize(("width", "samples"), SIZES)
def test_the_end_of_training(width, samples):
    for name in ("flow", "descent", "sgd"):
        found = curves(SHIFTED, [3e7, INF], width, samples, PROTOCOLS[name], shares=SHARES)
        np.testing.assert_allclose(found.test[0, :, 1], found.test[0, :, 0], rtol=CONTOUR)
    with jax.enable_x64(True):
        end = np.asarray(ridge_losses(SHIFTED, 0.0, width, samples, 0.16, SHARES))[0]
    flow = curves(SHIFTED, [INF], width, samples, Flow(), shares=SHARES)
    np.testing.assert_allclose(flow.test[0, :, 0], end, rtol=1e-12)


@pytest.mark.parametrize("samples", [8.0, 60.0])
def test_generalized_cross_validation(samples):
    # Train loss = R1^2 (unshifted test loss + noise); the shift plays no part in it. kappa by bisection.
    from scipy.optimize import brentq

    ridge, width = 0.05, 30.0

    def excess(x):
        df1 = np.sum(LAM / (LAM + x))
        return x * (1.0 - df1 / samples) * (1.0 - df1 / width) - ridge

    smallest = (
        max(brentq(lambda x: np.sum(LAM / (LAM + x)) - 0.999999 * samples, 1e-9, 1e3), 1e-9) if samples < 38 else 1e-9
    )
    kappa = brentq(excess, smallest, 1e3, xtol=1e-15)
    r1 = 1.0 - np.sum(LAM / (LAM + kappa)) / samples
    with jax.enable_x64(True):
        plain, shifted = (np.asarray(ridge_losses(m, ridge, width, samples, 0.16))[:, 0] for m in (PLAIN, SHIFTED))
    assert plain[1] == pytest.approx(r1**2 * (plain[0] + 0.16), rel=1e-11)
    assert shifted[1] == pytest.approx(plain[1], rel=1e-12)
    assert shifted[0] > 1.5 * plain[0]


@pytest.mark.parametrize(("width", "samples"), SIZES[:4])
def test_ridge_is_the_shifted_trace(volterra, width, samples):
    # mu^2 times the two-point function at (mu, mu), written out mode by mode.
    other = volterra(LAM, POWER, width, samples, 0.16, Q)
    ridge = 0.05
    point = one_point(SHIFTED, np.array([ridge]), width, samples)
    other.z, other.r1, other.r3 = point.z, point.R1, point.R3
    other.h = point.resolvent(LAM)
    with jax.enable_x64(True):
        found = float(np.asarray(ridge_losses(SHIFTED, ridge, width, samples, 0.16))[0, 0])
    assert found == pytest.approx(float(ridge**2 * other.two_point()[0, 0].real), rel=1e-11)


def test_replica_refinement():
    copies = spectral_measure(LAM, POWER / 3.0, np.full(40, 3.0), Q, exact=40)
    for name in ("flow", "sgd"):
        dynamics = PROTOCOLS[name] if name == "flow" else StochasticDescent(0.3, 6)
        a = curves(SHIFTED, TIMES, 14.0, 22.0, PROTOCOLS[name], shares=SHARES)
        b = curves(copies, TIMES, 42.0, 66.0, dynamics, shares=SHARES)
        np.testing.assert_allclose(b.test, a.test, rtol=CONTOUR)


def test_multiplicity_counts_copies():
    # Three copies of each mode, listed one by one.
    listed = spectral_measure(*(np.repeat(part, 3) for part in (LAM, POWER)), None, np.repeat(Q, 3), exact=120)
    counted = spectral_measure(LAM, POWER, np.full(40, 3.0), Q, exact=40)
    a, b = (curves(m, TIMES, 42.0, 66.0, StochasticDescent(0.3, 6)) for m in (listed, counted))
    np.testing.assert_allclose(b.test, a.test, rtol=1e-13)


def test_compression_of_a_long_spectrum(volterra):
    # 150 modes with a rough ratio q / lambda, mode by mode and compressed: 1e-10 of the loss before training.
    k = np.arange(1.0, 151.0)
    lam, power, q = k**-1.25, k**-0.25, (1.5 + np.sin(k)) * k**-1.1
    small = spectral_measure(lam, power, None, q)
    assert small.nodes <= 64
    test = volterra(lam, power, 60.0, 120.0, 0.16, q).losses(np.full(100, 0.3), 8)[0]
    found = curves(small, [5, 20, 100], 60.0, 120.0, StochasticDescent(0.3, 8))
    np.testing.assert_allclose(found.test[0, 0], test[[5, 20, 100]], atol=1e-10 * np.sum(q * power))


def students(rng, replicas, width, samples, noise):
    """Shifted test losses of one draw: two data sets and two sets of features, for a flow, descent, and ridge.

    Returns an array (share, protocol), shares in the order of `SHARES`.
    """
    lam, q = np.repeat(LAM, replicas), np.repeat(Q, replicas)
    modes, n, p = lam.size, round(width * replicas), round(samples * replicas)
    target = np.sqrt(np.repeat(POWER, replicas) / replicas) * rng.choice([-1.0, 1.0], modes)
    features = [rng.standard_normal((n, modes)) / np.sqrt(n) for _ in range(2)]
    rest = {}
    for d in range(2):
        inputs = rng.standard_normal((p, modes)) * np.sqrt(lam)
        labels = inputs @ target + np.sqrt(noise) * rng.standard_normal(p)
        for f, a in enumerate(features):
            u, s, v = np.linalg.svd(inputs @ a.T / np.sqrt(p), full_matrices=False)
            x = s * s
            y = u.T @ labels / np.sqrt(p)
            # W = V phi(s^2) / s U^T y: the flow at 4 and 40, descent with rate 0.5 after 6 and 60 steps, ridge 0.05.
            learned = [
                -np.expm1(-4.0 * x),
                -np.expm1(-40.0 * x),
                1.0 - (1.0 - 0.5 * x) ** 6,
                1.0 - (1.0 - 0.5 * x) ** 60,
            ]
            learned = np.stack([*learned, x / (x + 0.05)])
            rest[f, d] = target - (learned / s * y) @ v @ a
    pairs = {"both": ((0, 0), (0, 0)), "data": ((0, 0), (1, 0)), "features": ((0, 0), (0, 1)), "none": ((0, 0), (1, 1))}
    found = np.empty((4, 5))
    for i, share in enumerate(SHARES):
        (f, d), (f2, d2) = pairs[share]
        # All pairs of this kind of the same draw.
        same = [(rest[f ^ a, d ^ b] * rest[f2 ^ a, d2 ^ b]) @ q for a in range(2) for b in range(2)]
        found[i] = np.mean(same, 0)
    return found


def predictions(width, samples, noise):
    flow = curves(SHIFTED, [4.0, 40.0], width, samples, Flow(), noise, SHARES).test[0]
    steps = curves(SHIFTED, [6, 60], width, samples, Descent(0.5), noise, SHARES).test[0]
    with jax.enable_x64(True):
        ridge = np.asarray(ridge_losses(SHIFTED, 0.05, width, samples, noise, SHARES))[0]
    return np.concatenate([flow, steps, ridge[:, None]], 1)


@pytest.mark.parametrize(
    ("width", "samples", "replicas", "draws"),
    [
        (14, 22, 4, 12),
        pytest.param(14, 22, 8, 60, marks=pytest.mark.long),
        pytest.param(22, 14, 8, 60, marks=pytest.mark.long),
        pytest.param(30, 10, 8, 60, marks=pytest.mark.long),
    ],
)
def test_simulated_students(width, samples, replicas, draws):
    rng = np.random.default_rng(int(1000 * width + samples + replicas))
    found = np.stack([students(rng, replicas, width, samples, 0.16) for _ in range(draws)])
    error = found.std(0, ddof=1) / np.sqrt(draws)
    z = (found.mean(0) - predictions(float(width), float(samples), 0.16)) / error
    assert np.all(np.abs(z) < 4.0), f"z-scores {np.round(z, 1).tolist()}"
    # The standard errors resolve a tenth of the losses, and a few per cent in the long runs: a wrong term is seen.
    assert np.all(error < 0.3 / np.sqrt(draws) * found.mean(0))


@pytest.mark.long
def test_deviations_of_finite_systems_fall_with_the_replicas():
    rng = np.random.default_rng(7)
    theory = predictions(14.0, 22.0, 0.16)[0]
    gaps, errors = [], []
    for replicas, draws in ((1, 800), (2, 400), (8, 60)):
        found = np.stack([students(rng, replicas, 14, 22, 0.16)[0] for _ in range(draws)])
        gaps.append(found.mean(0) / theory - 1.0)
        errors.append(found.std(0, ddof=1) / np.sqrt(draws) / theory)
    # Deviations are of order 1 / replicas: those of one replica, divided by 8, are below the errors of 8 replicas.
    assert np.all(np.abs(gaps[2] - gaps[0] / 8.0) < 4.0 * np.hypot(errors[2], errors[0] / 8.0))
    assert np.all(np.abs(gaps[1] - gaps[0] / 2.0) < 4.0 * np.hypot(errors[1], errors[0] / 2.0) + np.abs(gaps[0]) / 4.0)


def averaged(rng, replicas, width, samples, noise, rate, batch, steps, replacement=True):
    """Train, test and shifted test losses of SGD averaged over its batches, over those of descent on the same draw."""
    lam, q = np.repeat(LAM, replicas), np.repeat(Q, replicas)
    n, p, b = width * replicas, samples * replicas, batch * replicas
    factor = 1.0 if replacement else (p - b) / (p - 1.0)
    target = np.sqrt(np.repeat(POWER, replicas) / replicas) * rng.choice([-1.0, 1.0], lam.size)
    a = rng.standard_normal((n, lam.size)) / np.sqrt(n)
    inputs = rng.standard_normal((p, lam.size)) * np.sqrt(lam)
    x, y = inputs @ a.T, inputs @ target + np.sqrt(noise) * rng.standard_normal(p)
    # The state (W, 1): residuals are rows of `seen` times it, what is left of the target rows of `left`.
    seen, left = np.c_[-x, y], np.c_[-a.T, target]
    inputs_ = np.c_[x, np.zeros(p)]
    drift = inputs_.T @ seen / p
    step = np.eye(n + 1) + rate * drift
    test = np.stack([left.T @ (weight[:, None] * left) for weight in (lam, q)])
    curves_ = []
    for noisy in (1.0, 0.0):
        second = np.zeros((n + 1, n + 1))
        second[-1, -1] = 1.0
        rows = []
        for t in range(steps[-1] + 1):
            squares = np.sum((seen @ second) * seen, 1)
            if t in steps:
                rows.append([squares.mean(), *np.sum(test * second, (1, 2))])
            mean = drift @ second @ drift.T
            spread = (inputs_.T * squares) @ inputs_ / p - mean
            second = step @ second @ step.T + noisy * rate**2 * factor / b * spread
        curves_.append(np.array(rows))
    return curves_[0] / curves_[1]


@pytest.mark.long
@pytest.mark.parametrize(
    ("width", "samples", "batch", "replacement"), [(14, 22, 2, True), (22, 14, 4, True), (22, 14, 7, False)]
)
def test_sgd_averaged_over_batches(width, samples, batch, replacement):
    # Ratios to descent on the same draw: the fluctuations that both share drop out.
    steps, replicas, draws = [5, 20, 60], 4, 30
    rng = np.random.default_rng(11)
    found = np.stack(
        [averaged(rng, replicas, width, samples, 0.16, 0.3, batch, steps, replacement) for _ in range(draws)]
    )
    # The factor of batches without replacement is that of the finite system; it differs from the limit by 1 / (P r).
    strength = batch
    if not replacement:
        p, b = samples * replicas, batch * replicas
        strength = batch * (p - 1.0) / (p - b)
    theory = []
    for measure in (PLAIN, SHIFTED):
        noisy = curves(measure, steps, width, samples, StochasticDescent(0.3, strength))
        plain = curves(measure, steps, width, samples, Descent(0.3))
        theory += [noisy.train[0, 0] / plain.train[0, 0], noisy.test[0, 0] / plain.test[0, 0]]
    theory = np.stack([theory[0], theory[1], theory[3]], 1)
    error = found.std(0, ddof=1) / np.sqrt(draws)
    # The terms that theory leaves out are of order 1 / (batch r), relative to what minibatches add.
    known = np.abs(theory - 1.0) / (batch * replicas)
    gap = np.abs(found.mean(0) - theory)
    assert np.all(gap < 4.0 * error + known), f"{np.round(gap / error, 1).tolist()}"
    assert np.all(error < 0.1 * np.max(theory - 1.0))


def test_edges_of_the_shift():
    # A single direction of the test inputs, and none.
    none = spectral_measure(LAM, POWER, None, np.zeros(40), exact=40)
    result = curves(none, [0, 5, 40, INF], 14.0, 22.0, StochasticDescent(0.3, 2), shares=SHARES)
    np.testing.assert_allclose(result.test, 0.0, atol=1e-13)
    assert np.all(result.train[0, 0] > 0.1)
    z, a = ellipse(float(spectral_edge(PLAIN, 14.0, 22.0)), 0.07, 256)
    point = one_point(PLAIN, z, 14.0, 22.0)
    # One point suffices where features are infinite in number: the mean remaining error, at the top direction.
    top = spectral_measure(LAM, POWER, None, np.where(MODES == 1, 1.0, 0.0), exact=40)
    mean = 2.0 * np.sum(a * z * (1.0 + 0.3 * z) ** 20 * point.resolvent(LAM)[:, 0]).real
    found = curves(top, [20], 14.0, 22.0, Descent(0.3), shares=("none",)).test[0, 0, 0]
    assert found == pytest.approx(mean**2 * POWER[0], rel=1e-9)
