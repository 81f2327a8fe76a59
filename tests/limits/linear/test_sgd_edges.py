"""Stability of SGD: thresholds against one another, known numbers, and runs on both sides; roots near the spectrum."""

import numpy as np
import pytest

from foretrain.errors import InvalidInput
from foretrain.limits.linear import (
    StochasticDescent,
    critical_batch,
    linear_curves,
    max_stable_lr,
    one_point,
    sgd_gain,
    spectral_edge,
    spectral_measure,
)

INF = np.inf
MODES = np.arange(1.0, 41.0)
LAM, POWER = MODES**-1.2, MODES**-0.4
BASE = spectral_measure(LAM, POWER, exact=40)
SIZES = [(14.0, 22.0), (22.0, 14.0), (14.0, 14.0), (INF, 22.0), (14.0, INF), (INF, INF)]
# Bisections in logarithms end at rounding; the gain at the threshold is off by that times its slope.
ROUNDING = 1e-10

# width, samples, batch, largest stable rate, gain at half of it: computed once in 80-bit arithmetic by bisections in kappa.
ROWS = [
    (14.0, 22.0, 1, 0.48380161642759073, 0.4325924201301084),
    (22.0, 14.0, 2, 0.748172510033786, 0.35984977925342154),
    (14.0, 22.0, 4, 0.9100969226250109, 0.23048339721638128),
    (14.0, 22.0, 8, 0.9118675237895099, 0.11553543594745025),
    (INF, 22.0, 4, 1.1701246148035853, 0.29115723731794635),
    (INF, 22.0, 64, 1.2566131181565738, 0.019971858443446976),
    (14.0, INF, 2, 0.8161881927641302, 0.38403579347825073),
    (INF, INF, 1, 0.5419206417776584, 0.4629348562197589),
    (INF, INF, 64, 1.9678886717147, 0.033793486866073766),
    (14.0, 14.0, 2, 0.7141646686686139, 0.3472611420990151),
    (14.0, 14.0, 4, 0.8366869437532527, 0.2124308471106136),
]


@pytest.mark.parametrize(("width", "samples", "batch", "rate", "gain"), ROWS)
def test_reference_thresholds(width, samples, batch, rate, gain):
    assert float(max_stable_lr(BASE, width, samples, batch_size=batch)) == pytest.approx(rate, rel=1e-12)
    assert float(sgd_gain(BASE, width, samples, 0.5 * rate, batch)) == pytest.approx(gain, rel=1e-12)
    assert float(critical_batch(BASE, width, samples, 0.5 * rate)) == pytest.approx(gain * batch, rel=1e-12)


def test_reference_gains():
    # The same, at the rate 0.3 of the reference curves.
    assert float(sgd_gain(BASE, 22.0, 14.0, 0.3, 4)) == pytest.approx(0.13829606583997245, rel=1e-12)
    assert float(sgd_gain(BASE, INF, 22.0, 0.3, 2)) == pytest.approx(0.264929147533228, rel=1e-12)
    assert float(sgd_gain(BASE, 14.0, 22.0, 0.3, 4, False)) == pytest.approx(0.11853948500569068, rel=1e-12)
    k = np.arange(1.0, 301.0)
    power_law = spectral_measure(k**-1.25, k**-0.25)
    assert float(sgd_gain(power_law, 64.0, 128.0, 0.5, 8)) == pytest.approx(0.13042834676419243, rel=1e-10)
    isotropic = spectral_measure(np.ones(40), np.ones(40))
    assert float(max_stable_lr(isotropic, INF, 60.0, batch_size=8)) == pytest.approx(0.29411764705882354, rel=1e-12)


@pytest.mark.parametrize(("width", "samples"), SIZES)
@pytest.mark.parametrize("replacement", [True, False])
def test_thresholds_say_the_same(width, samples, replacement):
    edge = float(spectral_edge(BASE, width, samples))
    batches = np.array([1.0, 1.7, 3.0, 8.0, 13.0])
    rates = max_stable_lr(BASE, width, samples, batch_size=batches, replacement=replacement)
    gains = sgd_gain(BASE, width, samples, rates * (1.0 - 1e-12), batches, replacement)
    inside = rates < 2.0 / edge * (1.0 - 1e-9)
    assert inside[0]
    np.testing.assert_allclose(gains[inside], 1.0, rtol=ROUNDING)
    # Where the gain is below 1 up to the edge of gradient descent, that edge is the limit.
    assert np.all(gains[~inside] < 1.0)
    np.testing.assert_allclose(rates[~inside], 2.0 / edge, rtol=1e-12)
    np.testing.assert_allclose(
        critical_batch(BASE, width, samples, rates[inside] * (1.0 - 1e-12), replacement), batches[inside], rtol=ROUNDING
    )


@pytest.mark.parametrize(("width", "samples"), SIZES)
def test_monotone(width, samples):
    rates = np.linspace(0.02, 0.99, 30) * 2.0 / float(spectral_edge(BASE, width, samples))
    gains, batches = sgd_gain(BASE, width, samples, rates, 3), critical_batch(BASE, width, samples, rates)
    assert np.all(np.diff(gains) > 0)
    np.testing.assert_allclose(batches, 3.0 * gains, rtol=1e-13)
    assert np.all(np.diff(max_stable_lr(BASE, width, samples, batch_size=np.geomspace(0.1, 100.0, 30))) >= 0)
    # Small rates: the gain is rate / batch times half the trace.
    assert float(sgd_gain(BASE, width, samples, 1e-7, 1)) == pytest.approx(0.5e-7 * np.sum(LAM), rel=1e-6)


def test_finite_sizes_are_less_stable_and_enter_alike():
    sizes = np.array([10.0, 14.0, 30.0, 100.0, 1e4, INF])
    for gains in (sgd_gain(BASE, sizes, 22.0, 0.3, 2), sgd_gain(BASE, 22.0, sizes, 0.3, 2)):
        assert np.all(np.diff(gains) < 0)
    np.testing.assert_allclose(sgd_gain(BASE, sizes, 22.0, 0.3, 2), sgd_gain(BASE, 22.0, sizes, 0.3, 2), rtol=1e-13)
    np.testing.assert_allclose(
        max_stable_lr(BASE, sizes, 22.0, batch_size=2), max_stable_lr(BASE, 22.0, sizes, batch_size=2), rtol=1e-12
    )


def test_infinite_sizes_are_the_known_sum():
    for rate in (0.01, 0.3, 1.0, 1.9, 1.999):
        exact = np.sum(rate * LAM / (2.0 - rate * LAM))
        assert float(critical_batch(BASE, INF, INF, rate)) == pytest.approx(exact, rel=1e-11)
        assert float(sgd_gain(BASE, INF, INF, rate, 5)) == pytest.approx(exact / 5.0, rel=1e-11)


def test_without_replacement():
    # (P - B) / (P - 1): one sample a step is the same, all samples are gradient descent.
    batches = np.array([1.0, 4.0, 13.0, 22.0])
    factor = (22.0 - batches) / 21.0
    np.testing.assert_allclose(
        sgd_gain(BASE, 14.0, 22.0, 0.3, batches, False), factor * sgd_gain(BASE, 14.0, 22.0, 0.3, batches), rtol=1e-13
    )
    full = float(max_stable_lr(BASE, 14.0, 22.0, batch_size=22, replacement=False))
    assert full == pytest.approx(float(max_stable_lr(BASE, 14.0, 22.0)), rel=1e-12)
    assert float(sgd_gain(BASE, 14.0, 1.0, 0.1, 1, False)) == 0.0
    assert float(critical_batch(BASE, 14.0, 22.0, 5.0, False)) == INF


def test_beyond_the_edge_and_nothing_to_learn():
    beyond = 2.0 / float(spectral_edge(BASE, 14.0, 22.0)) * (1.0 + 1e-9)
    assert float(sgd_gain(BASE, 14.0, 22.0, beyond, 1000)) == INF
    assert float(critical_batch(BASE, 14.0, 22.0, beyond)) == INF
    zero = spectral_measure([0.0], [1.0])
    assert float(sgd_gain(zero, 3.0, 4.0, 0.3, 1)) == 0.0
    assert float(max_stable_lr(zero, 3.0, 4.0, batch_size=1)) == INF


def test_unseen_directions_do_not_matter():
    lam = np.where(np.isin(MODES, [18, 40]), 0.0, LAM)
    plain = spectral_measure(lam[lam > 0], POWER[lam > 0], exact=40)
    shifted = spectral_measure(lam, POWER, None, np.ones(40), exact=40)
    for call in (
        lambda m: sgd_gain(m, 14.0, 22.0, 0.3, 2),
        lambda m: critical_batch(m, 14.0, 22.0, 0.3),
        lambda m: max_stable_lr(m, 14.0, 22.0, batch_size=2),
        lambda m: spectral_edge(m, 14.0, 22.0),
    ):
        assert float(call(shifted)) == pytest.approx(float(call(plain)), rel=1e-14)


@pytest.mark.parametrize(
    ("width", "samples", "batch"),
    [
        (14.0, 22.0, 1),
        (INF, 22.0, 2),
        pytest.param(22.0, 14.0, 2, marks=pytest.mark.long),
        pytest.param(14.0, INF, 1, marks=pytest.mark.long),
        pytest.param(INF, INF, 2, marks=pytest.mark.long),
    ],
)
def test_runs_on_both_sides_of_the_threshold(volterra, width, samples, batch):
    other = volterra(LAM, POWER, width, samples, 0.16, radius=0.04, points=450)
    limit, steps = float(max_stable_lr(BASE, width, samples, batch_size=batch)), 4000
    for factor in (0.97, 1.03):
        rate = factor * limit
        kernel = other.kernels(rate, batch, np.arange(steps))[0][::-1].copy()
        powers = (1.0 + rate * other.z) ** (2 * np.arange(steps + 1)[:, None])
        plain = 2.0 * (powers @ (other.w * other.phi)).real
        train = plain.copy()
        for t in range(1, steps + 1):
            train[t] += kernel[steps - t :] @ train[:t]
        if factor > 1.0:
            # Exponential growth, which goes on.
            assert train[2000] > 1e4 * train[500]
            assert train[4000] > 1e4 * train[2000]
            assert float(sgd_gain(BASE, width, samples, rate, batch)) > 1.0
        else:
            gain = float(sgd_gain(BASE, width, samples, rate, batch))
            assert 0.9 < gain < 1.0
            # What is fed back is at most the gain times the largest loss so far.
            assert np.max(train) <= np.max(plain) / (1.0 - gain)
            assert abs(train[4000] - train[3900]) < 1e-3 * np.max(train)
            found = linear_curves(BASE, [500, 4000], width, samples, 0.16, StochasticDescent(rate, batch))
            assert not np.any(found.diverged)
            np.testing.assert_allclose(found.train[0, 0], train[[500, 4000]], rtol=1e-8, atol=1e-11)


def test_close_to_the_threshold(volterra):
    # A pole of the generating function at x slightly below 1 stays inside of the contour.
    rate = 0.999 * float(max_stable_lr(BASE, 14.0, 22.0, batch_size=1))
    test, train = volterra(LAM, POWER, 14.0, 22.0, 0.16).losses(np.full(160, rate), 1)
    steps = [1, 5, 12, 40, 160]
    found = linear_curves(BASE, steps, 14.0, 22.0, 0.16, StochasticDescent(rate, 1))
    np.testing.assert_allclose(found.test[0, 0], test[steps], rtol=1e-10)
    np.testing.assert_allclose(found.train[0, 0], train[steps], rtol=1e-10)


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_exact_gaussian_thresholds(batch):
    # The recursion for all modes is a matrix: its largest eigenvalue passes 1 at the threshold.
    def growth(rate, size):
        step = np.diag((1.0 - rate * LAM) ** 2 + rate**2 / size * LAM**2) + rate**2 / size * np.outer(LAM, LAM)
        return np.max(np.abs(np.linalg.eigvals(step)))

    facts = StochasticDescent(0.3, batch, exact_gaussian=True).thresholds(BASE, INF, INF)
    limit, smallest = (float(np.squeeze(facts[name])) for name in ("max_stable_lr", "critical_batch"))
    assert growth(limit, batch) == pytest.approx(1.0, abs=1e-10)
    assert growth(0.99 * limit, batch) < 1.0 < growth(1.01 * limit, batch)
    assert growth(0.3, smallest) == pytest.approx(1.0, abs=1e-10)
    gain = np.sum(0.3 * LAM / (batch * (2.0 - 0.3 * LAM) - 0.3 * LAM))
    assert float(np.squeeze(facts["sgd_gain"])) == pytest.approx(gain, rel=1e-12)
    # A mode's own fluctuations make SGD less stable than the limit of large batches.
    assert limit < float(max_stable_lr(BASE, INF, INF, batch_size=batch))


def from_above(z, width, samples):
    """kappa by Newton's method along a vertical line from far above; nothing of the library."""
    inv_n, inv_p = 1.0 / width, 1.0 / samples
    height = 1e4
    kappa = z.real + 1j * height + np.sum(LAM) * (inv_n + inv_p)
    while True:
        target = z.real + 1j * max(height, z.imag)
        for _ in range(100):
            u = 1.0 / (LAM + kappa)
            df1, slope = np.sum(LAM * u), -np.sum(LAM * u * u)
            r1, r3 = 1.0 - df1 * inv_p, 1.0 - df1 * inv_n
            step = (kappa * r1 * r3 - target) / (r1 * r3 - kappa * slope * (inv_p * r3 + inv_n * r1))
            kappa -= step
            if abs(step) <= 1e-15 * abs(kappa):
                break
        if height <= z.imag:
            return kappa
        height *= 0.9


@pytest.mark.parametrize(("width", "samples"), [(14.0, 22.0), (22.0, 14.0), (INF, 22.0), (14.0, 14.0)])
def test_roots_close_to_the_spectrum_are_those_from_above(width, samples):
    # Along rays from afar, points next to the axis pass other bands of the spectrum and may end on another branch.
    across = np.array([-2.1, -1.5, -0.9, -0.5, -0.31, -0.2, -0.1, -0.03, -0.004])
    for height in (1e-3, 1e-6, 1e-9):
        found = one_point(BASE, across + 1j * height, width, samples)
        exact = np.array([from_above(z, width, samples) for z in across + 1j * height])
        # Where two branches are close to meeting, rounding grows by the root of the distance.
        np.testing.assert_allclose(found.kappa, exact, rtol=1e-7)
        assert np.all(found.kappa.imag > 0)
        assert np.all(found.residual < 1e-12)
        below = one_point(BASE, across - 1j * height, width, samples)
        np.testing.assert_array_equal(below.kappa, np.conj(found.kappa))


def test_roots_above_the_spectrum_weigh_it():
    # The density of -z df1 / pi, positive, and its mass: lambda^2 + trace^2 (1/N + 1/P), by Gauss points on the band.
    point = one_point(BASE, -np.array([0.05, 0.5, 1.0, 2.0]) + 1e-9j, 14.0, 22.0)
    density = (point.z * point.df1).imag / np.pi
    assert np.all(density > 0)
    edge = float(spectral_edge(BASE, 14.0, 22.0))
    x, weight = np.polynomial.legendre.leggauss(400)
    # u = edge s^4 (2 - s)^4-like ends: s = sin^2 takes away the square roots at both ends.
    angle = 0.25 * np.pi * (x + 1.0)
    u = edge * np.sin(angle) ** 4
    du = edge * 4.0 * np.sin(angle) ** 3 * np.cos(angle) * 0.25 * np.pi * weight
    point = one_point(BASE, -u + 1e-12j, 14.0, 22.0)
    mass = np.sum(du * (point.z * point.df1).imag / np.pi)
    # 400 Gauss points across gaps between the bands of single eigenvalues: a hundredth of a per cent.
    assert mass == pytest.approx(np.sum(LAM**2) + np.sum(LAM) ** 2 * (1.0 / 14.0 + 1.0 / 22.0), rel=1e-4)


def test_real_points_left_of_the_spectrum_and_on_it():
    edge = float(spectral_edge(BASE, 14.0, 22.0))
    left = one_point(BASE, np.array([-1.0001 * edge, -4.0, -100.0]), 14.0, 22.0)
    assert np.all(left.kappa.real < -1.0)
    np.testing.assert_array_equal(left.kappa.imag, 0.0)
    assert np.all(left.residual < 1e-12)
    near = one_point(BASE, np.array([-4.0 + 1e-9j, -100.0 + 1e-9j]), 14.0, 22.0)
    np.testing.assert_allclose(near.kappa, left.kappa[1:], rtol=1e-8)
    with pytest.raises(InvalidInput, match=r"one_point\(z\): expected points off the spectrum"):
        one_point(BASE, -0.5, 14.0, 22.0)


def test_the_end_of_training_with_unseen_directions():
    # kappa = 0 there; directions that training inputs do not show must not divide by it.
    measure = spectral_measure(np.append(LAM, 0.0), np.ones(41), None, np.ones(41), exact=41)
    point = one_point(measure, 0.0, INF, INF)
    assert point.kappa == 0.0
    assert point.df1 == pytest.approx(40.0, rel=1e-14)
