"""Block Krylov spaces in place of eigendecompositions: against eigendecompositions, brute force, and known spectra."""

import numpy as np
import pytest
import scipy.linalg

from foretrain.errors import InvalidInput, TooLarge
from foretrain.kernels import NNGP, _top, jackknife_error, measure_spectrum
from foretrain.kernels._lanczos import block_lanczos
from foretrain.kernels._resolvent import Sample
from foretrain.kernels._top import Gram, TopLeftOut, TopSample, _weights
from foretrain.tasks import Spectrum

LINEAR = NNGP(depth=0)
FEATURES = 1500


def power_law_task(rows, seed, features=FEATURES, capacity=1.5, source=0.5, noise=0.1):
    """Gaussian features with eigenvalues k^-capacity as inputs of the linear kernel; total signal power 1."""
    generator = np.random.default_rng(seed)
    index = np.arange(1.0, features + 1.0)
    power = index ** -(capacity * source + 1.0)
    power /= power.sum()
    values = generator.normal(size=(rows, features))
    targets = values @ (np.sqrt(power) * generator.choice([-1, 1], features))
    targets += np.sqrt(noise) * generator.normal(size=rows)
    return values * np.sqrt(index**-capacity * features), targets, index**-capacity, power


def ridge_test_error(spectrum, noise, samples, ridge):
    """Kernel ridge regression's test error by (MS.13) and (MS.16), label noise included."""
    eigenvalues, multiplicity = spectrum.eigenvalues, spectrum.multiplicity
    low, high = np.log(ridge), np.log(ridge + 10 * spectrum.trace)
    for _ in range(80):
        kappa = np.exp(0.5 * (low + high))
        above = kappa - ridge - kappa / samples * np.sum(multiplicity * eigenvalues / (eigenvalues + kappa)) > 0
        low, high = (low, np.log(kappa)) if above else (np.log(kappa), high)
    power = spectrum.eigenvalues * spectrum.target_power * multiplicity
    variance = np.sum(multiplicity * (eigenvalues / (eigenvalues + kappa)) ** 2) / samples
    return (np.sum(power * (kappa / (eigenvalues + kappa)) ** 2) + noise) / (1 - variance)


def prediction_error(measured, samples, ridge):
    """Standard error of that prediction, from the replicates."""
    values = [ridge_test_error(spectrum, noise, samples, ridge) for spectrum, noise in measured.replicates]
    return jackknife_error(np.array(values))


@pytest.fixture(scope="module")
def decomposed():
    inputs, targets, _, _ = power_law_task(700, seed=3)
    gram = LINEAR(inputs)
    values, vectors = scipy.linalg.eigh(gram / 700)
    return inputs, targets[:, None], gram, values[::-1], vectors[:, ::-1]


def top_sample(gram, targets, modes, probes=47, seed=0, space=None, share=0.4):
    rows = len(gram)
    scaled = gram / rows
    return TopSample(
        lambda block: scaled @ block,
        targets,
        np.random.default_rng(seed).choice([-1.0, 1.0], size=(rows, probes)),
        traces=(float(np.trace(scaled)), float(np.sum(scaled**2))),
        modes=modes,
        share=share,
        rounding=1e-14,
        space=space or (2 * modes, 3072),
    )


# --- the Krylov space ----------------------------------------------------------------------------------------------------


def test_pairs_against_a_decomposition(decomposed):
    """Eigenvalues to rounding, stated residuals to the measured ones, an orthonormal basis, values within their residuals."""
    _, targets, gram, values, vectors = decomposed
    start = np.hstack([targets, np.random.default_rng(0).normal(size=(700, 19))])
    ritz = block_lanczos(lambda block: gram @ block / 700, start, lambda _: False, least=1, largest=300, rounding=1e-14)
    found = ritz.basis @ ritz.rotation
    # Rounding: two products of 700 terms, twice orthogonalized.
    assert np.allclose(found.T @ found, np.eye(300), atol=1e-12)
    measured = np.linalg.norm(gram @ found / 700 - found * ritz.values, axis=0)
    assert np.allclose(ritz.residuals, measured, atol=1e-13 * values[0])
    nearest = np.min(np.abs(ritz.values[:, None] - values[None, :]), axis=1)
    assert np.all(nearest <= ritz.residuals + 1e-13 * values[0])
    # Eigenvalues are off by no more than residual^2 / gap; the twenty largest have converged.
    assert np.all(ritz.residuals[:20] < 1e-8 * values[:20])
    assert np.allclose(ritz.values[:20], values[:20], rtol=1e-12)
    assert np.allclose(np.abs(np.sum(found[:, :20] * vectors[:, :20], axis=0)), 1.0, atol=1e-12)


def test_dependent_columns_and_invariant_spaces():
    """A start with copies and zeros, and a matrix of rank 5: the space ends where nothing new comes."""
    generator = np.random.default_rng(1)
    factor = generator.normal(size=(200, 5))
    matrix = factor @ factor.T
    start = generator.normal(size=(200, 6))
    start = np.column_stack([start, start[:, :2], np.zeros(200)])
    ritz = block_lanczos(lambda block: matrix @ block, start, lambda _: False, least=1, largest=100, rounding=1e-12)
    assert len(ritz.values) == 11  # six of the start, five of the range
    assert np.allclose(ritz.values[:5], scipy.linalg.eigvalsh(matrix)[::-1][:5], rtol=1e-12)
    assert np.all(np.abs(ritz.values[5:]) < 1e-12 * ritz.values[0])
    assert np.all(ritz.residuals < 1e-10 * ritz.values[0])


def test_asks_for_enough_pairs(decomposed):
    _, targets, gram, values, _ = decomposed
    for modes in (5, 60):
        sample = top_sample(gram, targets, modes)
        assert sample.converged >= modes
        assert sample.space < 700
        # An eigenvalue differs from a Ritz value by at most the residual, 1 % of it.
        assert np.allclose(sample.eigenvalues[:modes], values[:modes], rtol=1e-2)
        assert np.allclose(sample.eigenvalues[: modes // 2], values[: modes // 2], rtol=1e-6)


# --- sums over all modes -------------------------------------------------------------------------------------------------


def test_sums_over_modes(decomposed):
    """Number, trace and trace of the square exactly; D within four standard errors of random signs."""
    _, targets, gram, values, _ = decomposed
    sample = top_sample(gram, targets, 40)
    weights, found = sample.weights, sample.eigenvalues
    for power in range(3):  # the correction's least-squares problem is solved to 1e-10
        assert np.sum(weights * found**power) == pytest.approx(np.sum(values**power), rel=1e-8)
    kappas = []
    for share in (0.05, 0.2, 0.4):
        ridge = np.exp(Sample(gram.copy(), targets).log_ridge_at(share * 700))
        fitted = values / (values + ridge)
        # Hutchinson's variance is at most 2 sum f^2 / probes over what has not converged; the correction only lowers it.
        error = np.sqrt(2.0 * np.sum(fitted[sample.converged :] ** 2) / 47)
        assert abs(np.sum(weights * found / (found + ridge)) - fitted.sum()) < 4 * error
        kappas.append(ridge)
    # kappa(z) inherits it.
    exact = Sample(gram.copy(), targets)
    assert np.allclose(sample._kappa(np.array(kappas)), exact._kappa(np.array(kappas)), rtol=1e-2)


def test_ridge_solutions(decomposed):
    """(G + z)^-1 y from the space, to the relative residual of 3e-3 that it is built for at the smallest ridge."""
    _, targets, gram, _, _ = decomposed
    sample = top_sample(gram, targets, 40)
    smallest = np.exp(sample.log_ridge_at(0.4 * 700))
    for ridge in (smallest, 10 * smallest, 1000 * smallest):
        exact = np.linalg.solve(gram / 700 + ridge * np.eye(700), targets)
        found = sample.vectors @ (sample.coefficients / (sample.eigenvalues + ridge)[:, None])
        residual = gram @ found / 700 + ridge * found - targets
        assert np.linalg.norm(residual) < 3e-3 * ridge * np.linalg.norm(found)
        assert np.linalg.norm(found - exact) < 3e-3 * np.linalg.norm(exact) / (1 - 3e-3)


def test_more_copies_of_an_eigenvalue_than_columns(decomposed):
    """A multiple of the identity: one eigenvalue, which the weights must count 700 times."""
    _, targets, _, _, _ = decomposed
    sample = top_sample(700 * np.eye(700), targets, 10)
    assert np.sum(sample.weights) == pytest.approx(700, rel=1e-9)
    assert np.allclose(sample.eigenvalues, 1.0, rtol=1e-12)


def test_rank_deficient_sample():
    """Thirty modes counted once each, and all others in the null space, to rounding."""
    generator = np.random.default_rng(4)
    inputs = generator.normal(size=(600, 30))
    gram = inputs @ inputs.T
    sample = top_sample(gram, inputs[:, :1] - inputs[:, 1:2], 60)
    assert sample.converged == 30
    assert np.all(sample.weights[:30] == 1.0)
    assert np.all(sample.eigenvalues[30:] == 0.0)
    assert np.sum(sample.weights) == pytest.approx(600, rel=1e-9)


def test_weights_of_a_null_space():
    """Nothing but zeros below the converged pairs: they share the modes that are left."""
    weights = _weights(np.array([2.0, 1.0, 0.0, 0.0]), np.array([1.2, 0.9, 30.0, 50.0]), 2, (100.0, 3.0, 5.0))
    assert np.allclose(weights, [1.0, 1.0, 98.0 * 30 / 80, 98.0 * 50 / 80], rtol=1e-12)


# --- the Gram matrix and the replicates ----------------------------------------------------------------------------------


@pytest.fixture(params=["float64", "float32"])
def stored(request, monkeypatch, decomposed):
    inputs, targets, gram, _, _ = decomposed
    monkeypatch.setattr(_top, "_TILE", 64)
    if request.param == "float32":
        monkeypatch.setattr(_top, "_SINGLE_FROM", 100)
    groups = np.sort(np.arange(700) % 3)
    return Gram(LINEAR, inputs, groups), gram, targets, groups, 1e-14 if request.param == "float64" else 1e-7


def test_products_leave_groups_out(stored):
    """Against copies of the matrix; in single precision to its rounding, 6e-8 of each term."""
    found, gram, _, groups, rounding = stored
    block = np.random.default_rng(0).normal(size=(700, 4))
    for group in (None, 0, 1, 2):
        kept = groups != group
        part = gram[np.ix_(kept, kept)] / kept.sum()
        size = np.linalg.norm(part) * np.linalg.norm(block)
        assert np.linalg.norm(found.product(group)(block[kept]) - part @ block[kept]) < rounding * size
        assert found.traces(group)[0] == pytest.approx(np.trace(part), rel=1e-12)
        assert found.traces(group)[1] == pytest.approx(np.sum(part**2), rel=1e-12)
    assert np.allclose(found.diagonal, np.diagonal(gram), rtol=1e-14)


def test_moments_are_those_of_groups_left_out(stored):
    """T and F of the sample and of each replicate, against solving again for every group; fresh rows too.

    Own rows enter the sample through fits without their group, and the replicate without group h through the same fits of
    the other groups, moved by what leaving out h does to generalized cross-validation.
    """
    found, gram, targets, groups, _ = stored
    probes = np.random.default_rng(5).choice([-1.0, 1.0], size=(700, 47))
    make = {"modes": 40, "share": 0.3, "least": 100}
    views = [TopLeftOut(found, targets, probes, group, **make) for group in (None, 0, 1, 2)]
    kappa = np.geomspace(2.0 * views[0].sample.eigenvalues[0], views[0].sample.cutoff_at(0.3 * 700), 6)
    samples = [Sample(gram[np.ix_(groups != g, groups != g)].copy(), targets[groups != g]) for g in (None, 0, 1, 2)]

    def validated(sample):  # generalized cross-validation row by row, exactly
        ridges = sample.ridge_of(kappa)
        inverse = 1 / (sample.eigenvalues + ridges[:, None])
        slope = sample.rows / (kappa**2 * np.sum(inverse**2, axis=1))
        residual = sample.vectors @ (inverse.T * sample.coefficients) * kappa
        return ridges, slope, sample.targets * residual, slope * residual**2

    exact = [validated(sample) for sample in samples]
    left = []
    for group in range(3):
        sample, (ridges, slope, _, _) = samples[1 + group], exact[1 + group]
        out = groups == group
        dual = sample.vectors @ (1 / (sample.eigenvalues[:, None] + ridges) * sample.coefficients) / sample.rows
        residual = targets[out] - gram[np.ix_(out, ~out)] @ dual
        left.append((np.sum(targets[out] * residual, axis=0), slope * np.sum(residual**2, axis=0)))
    for view in views:
        view.prepare(kappa, 40, found)
    for view in views:
        view.correct(views[0], views[1:])
    for place, (view, (_, _, cross, error)) in enumerate(zip(views, exact, strict=True)):
        want = [cross.sum(axis=0), error.sum(axis=0)]
        for group in range(3):
            if group != place - 1:
                inside = groups == group
                want[0] = want[0] + left[group][0] - exact[0][2][inside].sum(axis=0)
                want[1] = want[1] + left[group][1] - exact[0][3][inside].sum(axis=0)
        moments, rows = view.residuals.moments(), np.sum(groups != place - 1)
        # Ridges belong to the weights' kappa, good to 1e-3 (see test_sums_over_modes); solutions to 3e-3.
        assert np.allclose(moments.cross, want[0] / rows, rtol=1e-2)
        assert np.allclose(moments.error, want[1] / rows, rtol=2e-2)


# --- the whole measurement -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def task():
    return power_law_task(1400, seed=1)


@pytest.fixture(scope="module")
def both(task):
    options = {"max_points": 1000, "max_fresh": 400, "groups": 4}
    return [
        measure_spectrum(LINEAR, task[0], task[1], method="full", **options),
        measure_spectrum(LINEAR, task[0], task[1], method="top", modes=150, **options),
    ]


def test_the_same_rows_both_ways(both):
    """Eigenpairs coincide to their convergence; sums and fits to the sampling error of the counts, 1e-3."""
    full, top = both
    assert (full.method, top.method) == ("full", "top")
    assert (top.points, top.fresh_points, top.rows) == (1000, 400, 1400)
    assert "top 150 modes by block Lanczos" in repr(top)
    assert len(top.cross_power) == 150
    # Pairs with a relative residual below 1e-2; the first hundred have far smaller ones.
    assert np.allclose(top.cross_power[:100], full.cross_power[:100], atol=1e-5 * full.total_power)
    assert np.allclose(top.naive_power[:100], full.naive_power[:100], atol=1e-5 * full.total_power)
    assert np.allclose(top.resolved_norm[:100], full.resolved_norm[:100], rtol=1e-3)
    head = min(full.head, top.head)
    assert np.allclose(top.eigenvalues[:head], full.eigenvalues[:head], rtol=1e-3)
    assert top.trace == pytest.approx(full.trace, rel=1e-12)
    assert top.total_power == pytest.approx(full.total_power, rel=1e-12)
    assert top.resolved == pytest.approx(full.resolved, rel=0.02)
    for name in ("noise", "unresolved", "capacity"):
        one, other = getattr(full, name), getattr(top, name)
        assert one.low <= other.value <= one.high, name
        assert other.low <= one.value <= other.high, name


def test_predictions_both_ways(both, task):
    """Kernel regressions predicted from either: their difference within three errors of either, and of the truth."""
    _, _, eigenvalues, power = task
    for samples, ridge in ((50, 1e-1), (150, 1e-2), (400, 1e-2)):
        values, errors = [], []
        for measured in both:
            values.append(ridge_test_error(measured.spectrum, measured.noise.value, samples, ridge))
            errors.append(prediction_error(measured, samples, ridge))
        truth = ridge_test_error(Spectrum(eigenvalues, power / eigenvalues), 0.1, samples, ridge)
        assert abs(values[1] - truth) < 3 * errors[1] < 0.6 * truth
        assert abs(values[1] - values[0]) < 3 * max(errors)


def test_repetition_and_choice_of_method(both, task):
    again = measure_spectrum(
        LINEAR, task[0], task[1], method="top", modes=150, max_points=1000, max_fresh=400, groups=4
    )
    assert np.array_equal(again.eigenvalues, both[1].eigenvalues)
    assert again.facts()["method"] == "top"
    assert measure_spectrum(LINEAR, task[0][:100], task[1][:100]).method == "full"


def test_low_rank_and_more_modes_than_rank():
    """A linear target of eight features: all power in eight modes, and no noise, with 50 modes asked for."""
    generator = np.random.default_rng(3)
    inputs = generator.normal(size=(400, 8)) * np.arange(1, 9)
    measured = measure_spectrum(LINEAR, inputs, inputs @ generator.normal(size=8), method="top", modes=50)
    assert measured.noise.value < 1e-3 * measured.total_power
    large = measured.eigenvalues > 1e-3 * measured.eigenvalues[0]
    assert np.sum(measured.multiplicity[large]) == pytest.approx(8, abs=0.5)
    assert np.all(measured.cross_power[8:] == 0.0)


def test_low_rank_in_single_precision(monkeypatch):
    """Rounding of the products must not pass for modes: 30 features, 600 points, a target without noise."""
    monkeypatch.setattr(_top, "_SINGLE_FROM", 100)
    generator = np.random.default_rng(4)
    inputs = generator.normal(size=(600, 30))
    measured = measure_spectrum(LINEAR, inputs, inputs @ generator.normal(size=30), method="top", modes=60, groups=3)
    assert measured.noise.value < 1e-3 * measured.total_power
    large = measured.eigenvalues > 1e-3 * measured.eigenvalues[0]
    assert np.sum(measured.multiplicity[large]) == pytest.approx(30, abs=0.5)
    assert measured.resolved <= 30


def test_small_and_duplicated_samples():
    """The space is then the whole of it: counts are exact, and duplicates are a null space."""
    inputs, targets, _, _ = power_law_task(60, seed=7, features=100)
    full = measure_spectrum(LINEAR, inputs, targets, method="full")
    top = measure_spectrum(LINEAR, inputs, targets, method="top", modes=20)
    assert np.allclose(top.eigenvalues[:3], full.eigenvalues[:3], rtol=1e-6)
    inputs, targets = np.concatenate([inputs, inputs[:20]]), np.concatenate([targets, targets[:20]])
    with pytest.warns(UserWarning, match="20 of 80 rows are exact copies"):
        doubled = measure_spectrum(LINEAR, inputs, targets, method="top", modes=20)
    assert np.all(np.isfinite(doubled.eigenvalues))


def test_says_when_the_space_is_too_small(task, monkeypatch):
    monkeypatch.setattr(_top, "LARGEST_SPACE", 48)
    monkeypatch.setattr(_top, "_BLOCK", 16)
    monkeypatch.setattr(_top, "_LEAST_PROBES", 3)
    with pytest.warns(
        UserWarning, match=r"measure_spectrum\(modes\): the largest Krylov space, 384 vectors, leaves .* of the modes"
    ):
        measure_spectrum(LINEAR, task[0][:600], task[1][:600], method="top", modes=250, groups=3)


def test_several_outputs(task):
    inputs, targets = task[0][:400], task[1][:400]
    options = {"method": "top", "modes": 40, "groups": 3}
    one = measure_spectrum(LINEAR, inputs, targets, **options)
    two = measure_spectrum(LINEAR, inputs, np.column_stack([targets, 2.0 * targets]), **options)
    assert two.total_power == pytest.approx(5 * one.total_power, rel=1e-12)
    assert np.allclose(two.cross_power[:20], 5 * one.cross_power[:20], atol=1e-5 * two.total_power)
    assert two.noise.low <= 5 * one.noise.value <= two.noise.high


@pytest.mark.long
def test_a_large_sample_resolves_more():
    """6500 points of a known task, in single precision too: `auto` takes the Krylov space, and the truth is in the errors."""
    inputs, targets, eigenvalues, power = power_law_task(6500, seed=2, features=4000)
    measured = measure_spectrum(LINEAR, inputs, targets, max_points=6200, groups=3, modes=250)
    assert measured.method == "top"
    assert measured.resolved > 1200
    # Squares of Gaussians scatter by sqrt(2/M): four standard deviations for each of twenty modes.
    assert np.all(np.abs(measured.eigenvalues[:20] / eigenvalues[:20] - 1) < 4 * np.sqrt(2 / 6200))
    for samples, ridge in ((300, 1e-2), (1500, 1e-3), (4000, 1e-3)):
        truth = ridge_test_error(Spectrum(eigenvalues, power / eigenvalues), 0.1, samples, ridge)
        value = ridge_test_error(measured.spectrum, measured.noise.value, samples, ridge)
        error = prediction_error(measured, samples, ridge)
        # Three replicates leave two degrees of freedom: 9.9 is their 99 % quantile.
        assert abs(value - truth) < 9.9 * error
        assert error < 0.05 * truth


# --- bad input -----------------------------------------------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(60, 3))
SIGNS = np.sign(X[:, 0])


class Distance:
    """Symmetric, with negative eigenvalues."""

    def __call__(self, x, y=None):
        y = x if y is None else y
        return np.sum((x[:, None] - y[None, :]) ** 2, axis=-1)

    def diagonal(self, x):
        return np.zeros(len(x))


class Skewed(Distance):
    def __call__(self, x, y=None):
        y = x if y is None else y
        return x[:, :1] - y[None, :, 0] + 10.0 * (x @ y.T)


class Broken(Distance):
    def __call__(self, x, y=None):
        return np.full((len(x), len(x if y is None else y)), np.nan)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (Distance(), "expected a positive semi-definite kernel"),
        (Skewed(), "expected a symmetric kernel"),
        (Broken(), "expected finite values of shape .* with NaN or infinity"),
    ],
)
def test_bad_kernels(kernel, message):
    with pytest.raises(InvalidInput, match=rf"measure_spectrum\(kernel\): {message}"):
        measure_spectrum(kernel, X, SIGNS, method="top")


def test_bad_options():
    with pytest.raises(
        InvalidInput, match=r"measure_spectrum\(method\): expected 'auto', 'full' or 'top', got 'topp'; did"
    ):
        measure_spectrum(NNGP(), X, SIGNS, method="topp")
    with pytest.raises(InvalidInput, match=r"measure_spectrum\(modes\): expected a whole number >= 1, got 0"):
        measure_spectrum(NNGP(), X, SIGNS, method="top", modes=0)


def test_too_large_says_how_large():
    x = np.random.default_rng(0).normal(size=(20_000, 2))
    with pytest.raises(
        TooLarge, match=r"measure_spectrum: a .* x 20000 kernel matrix in float32 needs .* GB, the budget is"
    ):
        measure_spectrum(NNGP(), x, x[:, 0], max_points=20_000, memory=1e9)
