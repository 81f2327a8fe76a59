"""SGD with schedules, and the exact recursion for Gaussian inputs: each against another road."""

import numpy as np
import pytest

from foretrain.limits.linear import Descent, StochasticDescent, linear_curves, spectral_measure
from foretrain.limits.linear._embedding import embed, scheduled_noise
from foretrain.problems import Schedule

INF = np.inf
MODES = np.arange(1.0, 41.0)
LAM, POWER = MODES**-1.2, MODES**-0.4
Q = (1.0 + np.sin(MODES)) / (2.0 * np.sqrt(MODES))
BASE = spectral_measure(LAM, POWER, exact=40)
SIZES = [(14.0, 22.0), (22.0, 14.0), (INF, 22.0), (14.0, INF), (INF, INF)]
# Every run has a few of them, the long run all.
FEW = [pytest.param(*sizes, marks=[] if sizes in ((14.0, 22.0), (14.0, INF)) else pytest.mark.long) for sizes in SIZES]
STEPS = [0, 1, 2, 5, 12, 20, 40, 80, 120, 160, 199, 200]
COSINE = 0.5 * Schedule("cosine", steps=200, warmup=19).factors(201)
WSD = 0.4 * Schedule("wsd", steps=200, warmup=9, decay=50).factors(201)
# 24 Chebyshev nodes per factor 16 of the spectrum, and contours: 1e-10 of the loss before training.
EMBEDDING = 1e-9


def losses(times, width, samples, rates, batch, noise=0.16, measure=BASE, **options):
    result = linear_curves(measure, times, width, samples, noise, StochasticDescent(rates, batch, **options))
    assert np.all(result.converged)
    assert not np.any(result.diverged)
    # The two embeddings, of 24 and 18 nodes a panel, differ by that little.
    assert np.all(result.test_error < 1e-9 * (2.0 + result.test))
    return result


@pytest.mark.parametrize(("width", "samples"), [*FEW, (14.0, 14.0)])
@pytest.mark.parametrize("reach", [0.6, 1.8])
def test_constant_rates_through_the_embedding(width, samples, reach):
    # The last rate differs in its last bit, so that the road of schedules is taken: stepped to the end, and left early.
    edge = {(INF, INF): 1.0}.get((width, samples), 2.2)
    rate, batch = reach / edge, 16 if reach > 1.0 else 3
    times = [1, 5, 12, 100, 3000, 100_000]
    straight = losses(times, width, samples, rate, batch)
    for length in (3, 3200):
        bent = losses(times, width, samples, np.append(np.full(length, rate), rate * (1.0 + 4e-16)), batch)
        for a, b in ((bent.test, straight.test), (bent.train, straight.train)):
            np.testing.assert_allclose(a, b, rtol=EMBEDDING, atol=1e-12)
        np.testing.assert_allclose(bent.test_noise, straight.test_noise, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize(("width", "samples"), [(14.0, 22.0), (INF, 22.0)])
def test_a_hundred_thousand_steps_one_by_one(width, samples):
    # Noise parts only: the programs that step, without the full-batch part.
    times = np.array([10.0, 1e3, 1e5])
    straight = losses(times, width, samples, 0.3, 2)
    sizes = (0.5, 1.0 / width, 1.0 / samples, 0.16)
    found, error = scheduled_noise(BASE, times, np.full(100_000, 0.3), sizes, 2.2)
    np.testing.assert_allclose(found, [straight.train[0, 0], straight.test_noise[0]], rtol=EMBEDDING, atol=1e-12)
    assert np.all(error < 1e-8)


@pytest.mark.parametrize(("width", "samples"), FEW)
@pytest.mark.parametrize("name", ["cosine", "wsd"])
def test_schedules_are_the_explicit_sum(volterra, width, samples, name):
    rates = (COSINE if name == "cosine" else WSD)[:200]
    test, train = volterra(LAM, POWER, width, samples, 0.16).losses(rates, 3)
    found = losses(STEPS, width, samples, np.append(rates, 0.0), 3)
    np.testing.assert_allclose(found.test[0, 0], test[STEPS], rtol=EMBEDDING)
    np.testing.assert_allclose(found.train[0, 0], train[STEPS], rtol=EMBEDDING)


@pytest.mark.parametrize(("width", "samples"), FEW)
def test_shift_and_schedule(volterra, width, samples):
    lam = np.where(np.isin(MODES, [18, 40]), 0.0, LAM)
    test, train = volterra(lam, POWER, width, samples, 0.16, Q).losses(COSINE[:200], 3)
    measure = spectral_measure(lam, POWER, None, Q, exact=40)
    found = losses(STEPS, width, samples, np.append(COSINE[:200], 0.0), 3, measure=measure)
    np.testing.assert_allclose(found.test[0, 0], test[STEPS], rtol=EMBEDDING)
    np.testing.assert_allclose(found.train[0, 0], train[STEPS], rtol=EMBEDDING)


def test_numbers_of_extended_precision():
    # Computed once in 80-bit arithmetic: closed contours of 640 points, explicit double Volterra sums; steps 5, 40, 160, 200.
    s = np.arange(200)
    cosine = 0.5 * np.where(s < 20, (s + 1) / 20, 0.5 * (1 + np.cos(np.pi * (s - 20) / 180)))
    found = losses([5, 40, 160, 200], 14.0, 22.0, cosine, 2)
    np.testing.assert_allclose(
        found.test[0, 0], [1.521449658122, 1.1478130461011, 0.98571308256691, 0.97957571191436], rtol=EMBEDDING
    )
    np.testing.assert_allclose(
        found.train[0, 0], [1.5244131768208, 0.72620312691388, 0.29775408530835, 0.2871391738051], rtol=EMBEDDING
    )
    wsd = 0.4 * np.where(s < 10, (s + 1) / 10, np.where(s < 150, 1.0, 1 - (s - 149) / 51))
    found = losses([5, 40, 160, 200], 22.0, 14.0, wsd, 4, replacement=False)
    np.testing.assert_allclose(
        found.test[0, 0], [1.3012726879155, 0.8147501409312, 0.99521025275632, 1.0131605733783], rtol=EMBEDDING
    )
    np.testing.assert_allclose(
        found.train[0, 0], [1.135005543674, 0.17881669828355, 0.043462653481516, 0.035207345661264], rtol=EMBEDDING
    )


def test_after_a_schedule_that_ends_at_zero_nothing_moves():
    found = losses([200, 201, 10_000, INF], 14.0, 22.0, COSINE, 3)
    for part in (found.test[0, 0], found.train[0, 0], found.test_noise[0], found.train_noise[0]):
        np.testing.assert_allclose(part, part[0], rtol=1e-13)


def test_after_a_schedule_the_last_rate_goes_on(volterra):
    # 20 steps of warm-up, and 60 or 80 000 of one rate.
    rates = np.append(np.linspace(0.02, 0.4, 20), 0.3)
    test, train = volterra(LAM, POWER, 14.0, 22.0, 0.16).losses(np.append(rates, np.full(59, 0.3)), 3)
    found = losses([20, 50, 80, 80_000, 3e7, INF], 14.0, 22.0, rates, 3)
    np.testing.assert_allclose(found.test[0, 0, :3], test[[20, 50, 80]], rtol=EMBEDDING)
    np.testing.assert_allclose(found.train[0, 0, :3], train[[20, 50, 80]], rtol=EMBEDDING)
    np.testing.assert_allclose(found.test[0, 0, 5], found.test[0, 0, 4], rtol=EMBEDDING)
    # The end of training forgets the warm-up.
    end = losses([INF], 14.0, 22.0, 0.3, 3)
    np.testing.assert_allclose(found.test[0, 0, 5], end.test[0, 0, 0], rtol=1e-12)


def test_a_schedule_without_noise_of_batches_is_descent():
    times = [1, 5, 40, 200]
    quiet = losses(times, 14.0, 22.0, COSINE, 1e15)
    plain = linear_curves(BASE, times, 14.0, 22.0, 0.16, Descent(COSINE))
    np.testing.assert_allclose(quiet.test, plain.test, rtol=EMBEDDING)
    # One contour integral here, sums over nodes there.
    np.testing.assert_allclose(quiet.train, plain.train, rtol=EMBEDDING)


def test_steps_of_rate_zero_do_nothing():
    rates = np.array([0.3, 0.3, 0.3, 0.2, 0.1])
    paused = np.array([0.3, 0.0, 0.3, 0.3, 0.0, 0.0, 0.2, 0.1])
    a = losses([3, 5, 60], 14.0, 22.0, rates, 3)
    b = losses([4, 8, 63], 14.0, 22.0, paused, 3)
    np.testing.assert_allclose(b.test, a.test, rtol=EMBEDDING)
    np.testing.assert_allclose(b.train, a.train, rtol=EMBEDDING)


def test_a_rate_that_passes_the_edge_for_a_while(volterra):
    # Three steps at three times the largest stable rate: the slow top modes grow, and are damped afterwards.
    rates = np.concatenate([np.full(10, 0.2), np.full(3, 2.4), np.full(60, 0.2)])
    steps = [10, 12, 13, 20, 73]
    test, train = volterra(LAM, POWER, 14.0, 22.0, 0.16).losses(rates, 3)
    found = linear_curves(BASE, steps, 14.0, 22.0, 0.16, StochasticDescent(rates, 3))
    assert test[13] > 5.0 * test[10]
    np.testing.assert_allclose(found.test[0, 0], test[steps], rtol=1e-7)
    np.testing.assert_allclose(found.train[0, 0], train[steps], rtol=1e-7)


@pytest.mark.parametrize(("width", "samples"), SIZES)
def test_the_embedding_keeps_traces(width, samples):
    # Moments of the densities: the train loss before training, tr K^2 = sum lambda^2 + (sum lambda)^2 (1/N + 1/P + 1/NP) + ...
    parts = embed(BASE, 1.0 / width, 1.0 / samples, 0.16, 2.2, np.full(1, 0.3), 1e4, True)
    trace, square = np.sum(LAM), np.sum(LAM**2)
    assert np.sum(parts.forcing) == pytest.approx(np.sum(LAM * POWER) + 0.16, rel=1e-9)
    n, p = 1.0 / width, 1.0 / samples
    # -z df1 is the transform of tr K^2, free multiplication of two Wishart factors; -z df1 / R1 that of tr Sigma F Sigma_hat F.
    assert np.sum(parts.kernel) == pytest.approx(square + (n + p) * trace**2, rel=1e-9)
    assert np.sum(parts.test_kernel) == pytest.approx(square + n * trace**2, rel=1e-9)


def recursion(lam, power, rates, batch, noise, q=None, own=1.0):
    """Train and test losses of one-pass SGD, each mode stepped; `own` keeps the modes' own fluctuations."""
    c, q = power.copy(), lam if q is None else q
    train, test = [np.sum(lam * c) + noise], [np.sum(q * c)]
    for rate in rates:
        loss = np.sum(lam * c) + noise
        c = (1.0 - rate * lam) ** 2 * c + rate**2 / batch * lam * (own * lam * c + loss)
        train.append(np.sum(lam * c) + noise)
        test.append(np.sum(q * c))
    return np.array(train), np.array(test)


@pytest.mark.parametrize(("rate", "batch"), [(0.3, 2), (1.6, 16), (0.2, 1)])
def test_exact_recursion(rate, batch):
    times = [0, 1, 2, 5, 11, 12, 13, 40, 400]
    for noise in (0.0, 0.16):
        train, test = recursion(LAM, POWER, np.full(400, rate), batch, noise)
        found = losses(times, INF, INF, rate, batch, noise, exact_gaussian=True)
        # Rounding is relative to the loss before training, 2.
        np.testing.assert_allclose(found.train[0, 0], train[times], rtol=5e-11, atol=1e-12)
        np.testing.assert_allclose(found.test[0, 0], test[times], rtol=5e-11, atol=1e-12)


def test_exact_numbers_of_extended_precision():
    found = losses([3, 13, 40, 160], INF, INF, 0.3, 2, exact_gaussian=True)
    np.testing.assert_allclose(
        found.test[0, 0], [1.135449709044, 0.51831291542882, 0.24760393964601, 0.088859964994463], rtol=5e-11
    )


def test_exact_recursion_with_shift_and_unseen_modes():
    lam = np.where(np.isin(MODES, [18, 40]), 0.0, LAM)
    measure = spectral_measure(lam, POWER, None, Q, exact=40)
    times = [0, 1, 5, 12, 40, 400]
    train, test = recursion(lam, POWER, np.full(400, 0.3), 2, 0.16, Q)
    found = losses(times, INF, INF, 0.3, 2, measure=measure, exact_gaussian=True)
    np.testing.assert_allclose(found.train[0, 0], train[times], rtol=5e-11)
    np.testing.assert_allclose(found.test[0, 0], test[times], rtol=5e-11)


@pytest.mark.parametrize("shift", [False, True])
def test_exact_recursion_along_schedules(shift):
    q = Q if shift else None
    measure = spectral_measure(LAM, POWER, None, q, exact=40)
    for rates in (COSINE, WSD):
        train, test = recursion(LAM, POWER, rates[:200], 2, 0.16, q)
        found = losses(STEPS, INF, INF, rates, 2, measure=measure, exact_gaussian=True)
        np.testing.assert_allclose(found.train[0, 0], train[STEPS], rtol=1e-11)
        np.testing.assert_allclose(found.test[0, 0], test[STEPS], rtol=1e-11)


def test_exact_recursion_after_its_schedule():
    rates = np.append(np.linspace(0.02, 0.4, 20), 0.3)
    train, test = recursion(LAM, POWER, np.append(rates, np.full(5000, 0.3)), 2, 0.16)
    times = [10, 25, 40, 5000]
    found = losses([*times, INF], INF, INF, rates, 2, exact_gaussian=True)
    np.testing.assert_allclose(found.train[0, 0, :4], train[times], rtol=5e-11)
    np.testing.assert_allclose(found.test[0, 0, :4], test[times], rtol=5e-11)
    np.testing.assert_allclose(found.test[0, 0, 4], test[5000], rtol=1e-9)


def test_replicas_forget_the_modes_own_fluctuations():
    # Copies of all modes and as many more samples in a batch: what the limit leaves out is of relative order 1 / copies.
    times, gaps = [12, 40, 160], []
    for r in (1.0, 2.0, 4.0, 8.0):
        copies = spectral_measure(LAM, POWER / r, np.full(40, r), exact=40)
        exact = losses(times, INF, INF, 0.3, 2 * r, measure=copies, exact_gaussian=True).test[0, 0]
        limit = losses(times, INF, INF, 0.3, 2 * r, measure=copies).test[0, 0]
        gaps.append(exact / limit - 1.0)
    gaps = np.array(gaps)
    assert np.all(gaps > 0)
    # The next order is 1 / copies smaller, with a coefficient of order 1.
    np.testing.assert_allclose(gaps[1:3] / gaps[2:], 2.0, rtol=0.03)
    np.testing.assert_allclose(gaps[0] / gaps[3], 8.0, rtol=0.1)
