"""`measure_spectrum` on tasks whose spectrum is known, on data whose kernel regressions can be run, and on bad input."""

import pickle
import warnings

import numpy as np
import pytest
import scipy.stats

from foretrain.errors import ForetrainWarning, InvalidInput, TooLarge
from foretrain.kernels import NNGP, Kernel, jackknife_error, measure_spectrum
from foretrain.kernels._resolvent import Residuals, Sample

MODES = 1500
INDEX = np.arange(1.0, MODES + 1.0)
LINEAR = NNGP(depth=0)


def power_law_task(rows, seed, capacity=1.5, source=0.5, noise=0.1):
    """Gaussian features with the eigenvalues k^-capacity, as inputs of the linear kernel; total signal power 1."""
    generator = np.random.default_rng(seed)
    eigenvalues = INDEX**-capacity
    power = INDEX ** -(capacity * source + 1.0)
    power /= power.sum()
    features = generator.normal(size=(rows, MODES))
    targets = features @ (np.sqrt(power) * generator.choice([-1, 1], MODES))
    targets += np.sqrt(noise) * generator.normal(size=rows)
    return features * np.sqrt(eigenvalues * MODES), targets, eigenvalues, power


def ridge_test_error(eigenvalues, multiplicity, power, noise, samples, ridge):
    """Kernel ridge regression's test error, label noise included, of a spectrum with power c_k^2: (RF) static limit."""
    low, high = np.log(ridge), np.log(ridge + 10 * np.sum(eigenvalues * multiplicity))
    for _ in range(80):
        kappa = np.exp(0.5 * (low + high))
        above = kappa * (1 - np.sum(multiplicity * eigenvalues / (eigenvalues + kappa)) / samples) > ridge
        low, high = (low, np.log(kappa)) if above else (np.log(kappa), high)
    variance = np.sum(multiplicity * (eigenvalues / (eigenvalues + kappa)) ** 2) / samples
    return (np.sum(multiplicity * power * (kappa / (eigenvalues + kappa)) ** 2) + noise) / (1 - variance)


def predicted(spectrum, noise, samples, ridge):
    power = spectrum.eigenvalues * spectrum.target_power
    return ridge_test_error(spectrum.eigenvalues, spectrum.multiplicity, power, noise, samples, ridge)


@pytest.fixture(scope="module")
def task():
    return power_law_task(400, seed=1)


@pytest.fixture(scope="module")
def measured(task):
    return measure_spectrum(LINEAR, task[0], task[1])


def test_exact_sums(task, measured):
    """Trace and total power are those of the data to the weight that the fit gives them (1e-6)."""
    spectrum = measured.spectrum
    assert spectrum.trace == pytest.approx(np.mean(LINEAR.diagonal(task[0])), rel=1e-4)
    assert spectrum.total_power + measured.noise.value == pytest.approx(np.mean(task[1] ** 2), rel=1e-4)
    assert measured.trace == pytest.approx(np.mean(LINEAR.diagonal(task[0])), rel=1e-12)
    assert np.all(np.diff(spectrum.eigenvalues) <= 0)


def test_recovers_a_known_task(measured, task):
    """One draw: 95 % intervals of four numbers, widened by half so that a single draw misses with probability 1 %."""
    _, _, eigenvalues, power = task
    below = power[eigenvalues < eigenvalues[measured.resolved - 1]].sum()
    for name, truth in (("capacity", 1.5), ("source", 0.5), ("noise", 0.1), ("unresolved", 0.1 + below)):
        estimate = getattr(measured, name)
        assert estimate.low <= estimate.value <= estimate.high
        assert abs(estimate.value - truth) < 1.5 * max(estimate.high - estimate.value, estimate.value - estimate.low), (
            name
        )
    # Squares of Gaussians scatter by sqrt(2/M) = 7 %: four standard deviations for each of the first modes.
    assert np.all(np.abs(measured.eigenvalues[:4] / eigenvalues[:4] - 1) < 4 * np.sqrt(2 / 400))


def test_pure_noise():
    """Labels without a signal: the Gram matrix explains its share of them, points left out explain nothing."""
    generator = np.random.default_rng(4)
    measured = measure_spectrum(NNGP(), generator.normal(size=(400, 8)), generator.normal(size=400))
    assert measured.noise.high >= 0.99 * measured.total_power
    # Head and tail: nothing beyond the chance of 400 points in the few modes that can show it.
    assert measured.spectrum.total_power < 4 * measured.total_power / np.sqrt(400)
    # Each squared projection of noise is total / M times a chi-square of one degree of freedom.
    modes = len(measured.naive_power)
    share = measured.naive_power.sum() / (measured.total_power * modes / 400)
    assert abs(share - 1.0) < 4 * np.sqrt(2 / modes)
    # Each cross product is a product of two means of noise, one over the fit and one over the left-out points.
    assert abs(measured.cross_power.sum()) < 4 * measured.total_power * np.sqrt(modes) / 400


def test_deep_modes_are_not_resolved(measured):
    assert measured.resolved_norm[0] == pytest.approx(1.0, abs=4 * np.sqrt(2 / 400))  # mean of 400 squared Gaussians
    assert measured.resolved_norm[40:100].mean() < 0.9


def test_predicts_kernel_ridge_regression(measured, task):
    """Within three jackknife errors of what the true spectrum gives, for sizes within the resolved range."""
    _, _, eigenvalues, power = task
    for samples, ridge in ((50, 1e-1), (150, 1e-2), (300, 3e-2)):
        truth = ridge_test_error(eigenvalues, 1.0, power, 0.1, samples, ridge)
        value = predicted(measured.spectrum, measured.noise.value, samples, ridge)
        error = jackknife_error(np.array([predicted(*r, samples, ridge) for r in measured.replicates]))
        assert abs(value - truth) < 3 * error
        assert error < 0.2 * truth


def test_doubling_the_points_stays_within_the_errors(measured):
    inputs, targets, _, _ = power_law_task(800, seed=1)
    twice = measure_spectrum(LINEAR, inputs, targets)
    for samples, ridge in ((50, 1e-1), (150, 1e-2)):
        values = [predicted(m.spectrum, m.noise.value, samples, ridge) for m in (measured, twice)]
        errors = [
            jackknife_error(np.array([predicted(*r, samples, ridge) for r in m.replicates])) for m in (measured, twice)
        ]
        assert abs(values[1] - values[0]) < 3 * np.hypot(*errors)


def test_no_noise_and_a_kernel_of_low_rank():
    """A linear target under the linear kernel: all power in the eight modes, and no noise."""
    generator = np.random.default_rng(3)
    inputs = generator.normal(size=(300, 8)) * np.arange(1, 9)
    measured = measure_spectrum(LINEAR, inputs, inputs @ generator.normal(size=8))
    assert measured.noise.value < 1e-3 * measured.total_power
    assert np.sum(measured.multiplicity[measured.eigenvalues > 1e-3 * measured.eigenvalues[0]]) == pytest.approx(
        8, abs=0.5
    )


def test_rotation_and_repetition(measured, task):
    """Kernels see inner products only; nothing else is random."""
    inputs, targets, _, _ = task
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(MODES, MODES)))[0]
    rotated = measure_spectrum(LINEAR, inputs @ rotation, targets)
    # Eigenvalues agree to rounding; the least-squares fit is conditioned by its 1e-6 weights.
    assert np.allclose(rotated.eigenvalues[:5], measured.eigenvalues[:5], rtol=1e-9)
    assert rotated.noise.value == pytest.approx(measured.noise.value, rel=1e-4, abs=1e-6)
    again = measure_spectrum(LINEAR, inputs, targets)
    assert np.array_equal(again.eigenvalues, measured.eigenvalues)
    assert again.noise == measured.noise


def test_order_of_rows_changes_only_the_splits(measured, task):
    inputs, targets, _, _ = task
    order = np.random.default_rng(5).permutation(400)
    shuffled = measure_spectrum(LINEAR, inputs[order], targets[order])
    assert np.allclose(shuffled.eigenvalues[:5], measured.eigenvalues[:5], rtol=1e-9)
    assert measured.noise.low <= shuffled.noise.value <= measured.noise.high


def test_several_outputs_add_up(task):
    inputs, targets, _, _ = task
    both = measure_spectrum(LINEAR, inputs, np.column_stack([targets, 2.0 * targets]))
    one = measure_spectrum(LINEAR, inputs, targets)
    assert both.total_power == pytest.approx(5 * one.total_power, rel=1e-12)
    assert np.allclose(both.cross_power, 5 * one.cross_power, rtol=1e-9)
    assert both.noise.value == pytest.approx(5 * one.noise.value, rel=1e-3)
    # Scaling targets scales powers by the square, nothing else.
    assert both.capacity.value == pytest.approx(one.capacity.value, rel=1e-4)


def test_fresh_rows(task):
    inputs, targets, _, _ = power_law_task(900, seed=2)
    measured = measure_spectrum(LINEAR, inputs, targets, max_points=300, max_fresh=500)
    assert (measured.points, measured.fresh_points, measured.rows) == (300, 500, 900)
    assert measured.noise.low <= 0.1 <= measured.noise.high
    assert "300 of 900 rows, tested on 500 more" in repr(measured)


def test_leave_one_out_is_leaving_one_out(task):
    """The closed form of left-out residuals, and the fresh rows' predictions, against solving again."""
    inputs, targets = task[0][:60], task[1][:60, None]
    gram = LINEAR(inputs)
    kappa = np.array([1.0, 0.1])
    sample = Sample(gram[:50, :50].copy(), targets[:50])
    residuals = Residuals(sample, kappa)
    residuals.add(gram[50:, :50], targets[50:])
    found = residuals.moments()
    for c, ridge in enumerate(sample.ridge_of(kappa)):
        eigenvalues = np.linalg.eigvalsh(gram[:50, :50] / 50)
        assert 50 / np.sum(1 / (eigenvalues + ridge)) == pytest.approx(kappa[c], rel=1e-9)
        left = []
        for i in range(50):
            kept = np.arange(50) != i
            dual = np.linalg.solve(gram[np.ix_(kept, kept)] + 50 * ridge * np.eye(49), targets[:50][kept])
            left.append(targets[i, 0] - float((gram[i, :50][kept] @ dual).item()))
        dual = np.linalg.solve(gram[:50, :50] + 50 * ridge * np.eye(50), targets[:50])
        left = np.concatenate([left, (targets[50:] - gram[50:, :50] @ dual)[:, 0]])
        assert found.cross[c] == pytest.approx(np.mean(targets[:, 0] * left), rel=1e-9)
        slope = 1 - np.sum((eigenvalues / (eigenvalues + ridge)) ** 2) / 50
        step = 1e-5 * ridge
        kappas = [50 / np.sum(1 / (eigenvalues + ridge + s)) for s in (-step, step)]
        derivative = 2 * step / (kappas[1] - kappas[0])
        assert found.error[c] == pytest.approx(derivative * np.mean(left**2), rel=1e-6)  # central difference
        assert 0 < slope < 1


@pytest.mark.long
def test_intervals_cover():
    """Over 24 draws the 95 % intervals must hold the truth at least 19 times (a fair 95 % fails that once in 700)."""
    held = {"capacity": 0, "source": 0, "noise": 0}
    for seed in range(24):
        inputs, targets, _, _ = power_law_task(400, seed=100 + seed)
        measured = measure_spectrum(LINEAR, inputs, targets, seed=seed)
        for name, truth in (("capacity", 1.5), ("source", 0.5), ("noise", 0.1)):
            estimate = getattr(measured, name)
            held[name] += estimate.low <= truth <= estimate.high
    least = int(scipy.stats.binom.ppf(1e-3, 24, 0.95))
    assert all(count >= least for count in held.values()), held


@pytest.mark.long
def test_digits_regressions_are_predicted():
    """Kernel ridge regressions on random splits of the digits, half the sizes, against the measured spectrum.

    Digits are no Gaussian features: 6 % of the loss is the known finite-size and universality error at these sizes; beyond
    it, three standard errors of prediction and simulation.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = bunch.data - bunch.data.mean(axis=0)
    x *= np.sqrt(64) / np.linalg.norm(x, axis=1, keepdims=True)
    y = np.where(bunch.target < 5, 1.0, -1.0)
    measured = measure_spectrum(NNGP(), x, y, max_points=1200, groups=4)
    gram = NNGP()(x)
    generator = np.random.default_rng(0)
    for samples, ridge in ((100, 1e-2), (400, 1e-3)):
        losses = []
        for _ in range(20):
            order = generator.permutation(len(x))
            train, test = order[:samples], order[samples:]
            dual = np.linalg.solve(gram[np.ix_(train, train)] + samples * ridge * np.eye(samples), y[train])
            losses.append(np.mean((y[test] - gram[np.ix_(test, train)] @ dual) ** 2))
        value = predicted(measured.spectrum, measured.noise.value, samples, ridge)
        error = jackknife_error(np.array([predicted(*r, samples, ridge) for r in measured.replicates]))
        stderr = np.std(losses, ddof=1) / np.sqrt(20)
        assert abs(value - np.mean(losses)) < 0.06 * np.mean(losses) + 3 * np.hypot(error, stderr)


# --- the result object ---------------------------------------------------------------------------------------------


def test_result_prints_saves_and_hands_over(measured):
    text = repr(measured)
    assert "capacity" in text
    assert f"modes {measured.fit_range[0]} to {measured.fit_range[1]}" in text
    dataset = measured.to_dataset()
    assert set(dataset.dims) == {"node", "mode"}
    assert dataset.attrs["noise"] == tuple(measured.noise)
    assert measured.to_spectrum() == measured.spectrum
    assert measured.for_plot()["head"] == measured.head
    assert pickle.loads(pickle.dumps(measured)).noise == measured.noise
    assert isinstance(NNGP(), Kernel)
    assert len(measured.replicates) == 6


def test_jackknife_error_of_a_mean():
    values = np.random.default_rng(0).normal(size=60)
    replicates = np.array([np.delete(values.reshape(6, 10), g, axis=0).mean() for g in range(6)])
    groups = values.reshape(6, 10).mean(axis=1)
    assert jackknife_error(replicates) == pytest.approx(groups.std(ddof=1) / np.sqrt(6), rel=1e-12)


# --- bad input -------------------------------------------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(60, 3))
SIGNS = np.sign(X[:, 0])


class NotPositive:
    """A symmetric function with negative eigenvalues."""

    def __call__(self, x, y=None):
        y = x if y is None else y
        return np.sum((x[:, None] - y[None, :]) ** 2, axis=-1)

    def diagonal(self, x):
        return np.zeros(len(x))


class Skewed(NotPositive):
    def __call__(self, x, y=None):
        y = x if y is None else y
        return x[:, :1] - y[None, :, 0] + 10.0 * (x @ y.T)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X, SIGNS[:-1]), r"measure_spectrum\(targets\): expected 60 rows like inputs, got 59"),
        ((X, np.ones(60)), r"measure_spectrum\(targets\): expected targets that vary, got 60 equal rows"),
        (
            (X, np.full(60, np.nan)),
            r"measure_spectrum\(targets\): expected finite numbers, got NaN or infinity \(first: row 0\)",
        ),
        ((np.full((60, 3), np.inf), SIGNS), r"measure_spectrum\(inputs\): expected finite numbers"),
        ((X[:20], SIGNS[:20]), r"measure_spectrum\(inputs\): expected at least 50 rows, got 20"),
        ((np.ones((0, 3)), np.ones(0)), r"measure_spectrum\(inputs\): expected a non-empty matrix"),
        ((X, np.ones((60, 0))), r"measure_spectrum\(targets\): expected shape \(rows,\) or \(rows, outputs\)"),
        ((X, ["a"] * 60), r"measure_spectrum\(targets\): expected numbers"),
    ],
)
def test_bad_data(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        measure_spectrum(NNGP(), *arguments)


def test_bad_kernels():
    with pytest.raises(InvalidInput, match=r"measure_spectrum\(kernel\): expected a positive semi-definite kernel"):
        measure_spectrum(NotPositive(), X, SIGNS)
    with pytest.raises(InvalidInput, match=r"measure_spectrum\(kernel\): expected a symmetric kernel"):
        measure_spectrum(Skewed(), X, SIGNS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 2}, r"measure_spectrum\(groups\): expected a whole number >= 3, got 2"),
        ({"max_points": 10}, r"measure_spectrum\(max_points\): expected a whole number >= 50, got 10"),
        ({"head": 0}, r"measure_spectrum\(head\)"),
        ({"seed": -1}, r"measure_spectrum\(seed\)"),
        ({"max_fresh": 1.5}, r"measure_spectrum\(max_fresh\)"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InvalidInput, match=message):
        measure_spectrum(NNGP(), X, SIGNS, **options)


def test_too_large():
    with pytest.raises(TooLarge, match=r"measure_spectrum: a .* kernel matrix"):
        measure_spectrum(NNGP(), X, SIGNS, memory=1e4)


def test_duplicates_warn():
    doubled = np.concatenate([X, X[:7]])
    with pytest.warns(ForetrainWarning, match="7 of 67 rows are exact copies of others"):
        measure_spectrum(NNGP(), doubled, np.concatenate([SIGNS, SIGNS[:7]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measure_spectrum(NNGP(), X, SIGNS)
