"""Stochastic gradient descent: against gradient descent, the literal loop, enumeration of all batches, and averages."""

import itertools

import numpy as np
import pytest

from foretrain import (
    SGD,
    Arrays,
    Digits,
    GradientDescent,
    GradientFlow,
    Kernel,
    OnePassSGD,
    PowerLaw,
    Problem,
    RandomFeatures,
    Schedule,
    Spectrum,
    SpectrumTask,
    train,
)
from foretrain.errors import ForetrainWarning, InvalidInput, TooLarge, UnsupportedProblem
from foretrain.training import average_descent, descend, evolve, linear_draws, refine
from foretrain.training._average import _own_second
from foretrain.training._batches import consecutive_batches, drawn_batches
from foretrain.training._linear_student import explicit_modes
from foretrain.training._losses import largest_eigenvalue

MODES = 6
EIGENVALUES = np.arange(1, MODES + 1) ** -1.3
COEFFICIENTS = np.arange(1, MODES + 1) ** -0.2
SHIFTED = np.array([0.2, 1.0, 0.0, 0.7, 0.1, 0.4])
TASK = PowerLaw(1.5, 0.6, modes=12, noise=[0.0, 0.1])
INF = float("inf")


def only(width, samples, seed=3, **options):
    ((_, _, draw),) = linear_draws(EIGENVALUES, COEFFICIENTS, [width], [samples], seed, **options)
    return draw


def every_batch(samples, batch, replacement):
    """All batches, equally likely."""
    pick = itertools.product if replacement else itertools.permutations
    return list(pick(range(samples), **{"repeat" if replacement else "r": batch}))


def enumerated(draw, rates, batch, replacement, noise, steps):
    """Mean test and train losses over every sequence of batches, by visiting all of them."""
    source = draw.sources[0]
    targets = source.targets[:, 0] @ np.array([1.0, np.sqrt(noise)])[: source.targets.shape[-1]]
    count, width = source.matrix.shape
    readouts = [np.zeros(width)]
    for rate in rates[:steps]:
        moved = []
        for readout in readouts:
            residual = targets - source.matrix @ readout
            for chosen in every_batch(count, batch, replacement):
                step = np.zeros(width)
                for row in chosen:
                    step += np.eye(count)[row] * residual[row] if source.is_gram else source.matrix[row] * residual[row]
                moved.append(readout + rate / batch * step)
        readouts = moved
    readouts = np.array(readouts)
    moments = draw.moments
    second = np.diag(moments.second) if moments.second.ndim == 1 else moments.second
    test = np.einsum("rf,fg,rg->r", readouts, second, readouts) - 2 * readouts @ moments.cross[:, 0] + moments.power
    return test.mean(), np.mean((targets - readouts @ source.matrix.T) ** 2)


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("width", [2, 3, 5, 9, INF])
@pytest.mark.parametrize("tested", [None, SHIFTED])
def test_average_is_the_mean_over_every_sequence_of_batches(width, replacement, tested):
    """P = 3, B = 2, two steps: 81 (or 36) sequences, in feature and sample space, with noise and shifted test inputs."""
    draw = only(width, 3, test_eigenvalues=tested)
    schedule = Schedule("linear", steps=4)
    protocol = SGD(learning_rate=0.7, batch_size=2, replacement=replacement, schedule=schedule)
    got = average_descent(draw, protocol, np.array([2.0, 0.0, 1.0]), noise=[0.0, 0.3])
    for level, noise in enumerate((0.0, 0.3)):
        for position, steps in enumerate((2, 0, 1)):
            test, train_ = enumerated(draw, 0.7 * schedule.factors(2), 2, replacement, noise, steps)
            # Rounding of losses of order one.
            np.testing.assert_allclose(got.test_loss[level, 0, position], test, rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(got.train_loss[level, 0, position], train_, rtol=1e-12, atol=1e-14)


def test_average_of_an_ensemble_is_the_mean_over_pairs_of_sequences():
    """Two students, one step, B = 1: nine pairs of batches."""
    draw = only(2, 3, students=2, noisy=False)
    got = average_descent(draw, SGD(learning_rate=0.7, batch_size=1), np.array([1.0]), ensemble=[1, 2])
    tests, trains = [], []
    for chosen in itertools.product(range(3), repeat=2):
        readout = [0.7 * s.matrix[row] * s.targets[row, 0, 0] for s, row in zip(draw.sources, chosen, strict=True)]
        mean = np.concatenate(readout) / 2
        tests.append(mean @ draw.moments.second @ mean - 2 * mean @ draw.moments.cross[:, 0] + draw.moments.power)
        matrix = np.concatenate([s.matrix for s in draw.sources], axis=1)
        trains.append(np.mean((draw.sources[0].targets[:, 0, 0] - matrix @ mean) ** 2))
    np.testing.assert_allclose(got.test_loss[0, 1, 0], np.mean(tests), rtol=1e-12)
    np.testing.assert_allclose(got.train_loss[0, 1, 0], np.mean(trains), rtol=1e-12)


@pytest.mark.parametrize("minibatches", ["sampled", "averaged"])
def test_a_batch_of_all_samples_is_gradient_descent(minibatches):
    model = RandomFeatures(width=[4, 9, 30, INF], ensemble=[1, 2])
    for samples in (8, 20):
        full = train(Problem(TASK, model, GradientDescent(learning_rate=0.4, samples=samples)), [50, 0, 3], seeds=2)
        protocol = SGD(learning_rate=0.4, samples=samples, batch_size=samples, replacement=False)
        got = train(Problem(TASK, model, protocol), [50, 0, 3], seeds=2, minibatches=minibatches)
        for name in ("test_loss", "train_loss", "max_stable_lr"):
            # Rounding over 50 steps; train losses of overparametrized students go to zero.
            np.testing.assert_allclose(got.values(name), full.values(name), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("width", "samples"), [(4, 10), (30, 10), (INF, 30), (INF, 7)])
def test_a_run_is_the_literal_loop(width, samples):
    """The same batches, stepped in NumPy on one noise level at a time."""
    draw = only(width, samples)
    schedule = Schedule("cosine", steps=40, warmup=3)
    protocol = SGD(learning_rate=0.5, batch_size=3, schedule=schedule)
    got = descend(draw, protocol, np.array([50.0, 7.0]), 5, noise=[0.0, 0.25, 1.0])
    from foretrain.training._descend import _BATCHES
    from foretrain.training._linear_student import _generator

    block = next(drawn_batches(samples, 3, True, _generator(5, _BATCHES, 0)))
    source, moments = draw.sources[0], draw.moments
    second = np.diag(moments.second) if moments.second.ndim == 1 else moments.second
    for level, noise in enumerate((0.0, 0.25, 1.0)):
        targets = source.targets[:, 0] @ np.array([1.0, np.sqrt(noise)])
        readout = np.zeros(source.matrix.shape[1])
        for step, rate in enumerate(0.5 * schedule.factors(50)):
            if step == 7:
                early = readout.copy()
            rows = block[step]
            residual = targets[rows] - source.matrix[rows] @ readout
            if source.is_gram:
                np.add.at(readout, rows, rate / 3 * residual)
            else:
                readout = readout + rate / 3 * source.matrix[rows].T @ residual
        for position, w in enumerate((readout, early)):
            test = w @ second @ w - 2 * w @ moments.cross[:, 0] + moments.power
            np.testing.assert_allclose(got.test_loss[level, 0, position], test, rtol=1e-10, atol=1e-13)
            train_ = np.mean((targets - source.matrix @ w) ** 2)
            np.testing.assert_allclose(got.train_loss[level, 0, position], train_, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize(("width", "samples"), [(4, 10), (30, 10), (INF, 10)])
def test_sampled_batches_have_the_mean_that_is_averaged(width, samples, replacement):
    """One fixed draw of data and features, many draws of batches.

    The learning rate is small, because steps that multiply by random factors give losses with power-law tails: at 0.3, where
    the average is finite, it is still carried by one run in a million, and no number of runs finds it.
    """
    draw = only(width, samples, students=2)
    times = np.array([1.0, 5.0, 40.0])
    protocol = SGD(learning_rate=0.1, batch_size=3, replacement=replacement)
    options = {"noise": [0.0, 0.2], "ensemble": [1, 2]}
    expected = average_descent(draw, protocol, times, **options)
    runs = [descend(draw, protocol, times, seed, **options) for seed in range(400)]
    for name in ("test_loss", "train_loss"):
        values = np.array([getattr(run, name) for run in runs])
        error = values.std(axis=0, ddof=1) / np.sqrt(len(runs))
        # 24 correlated numbers a case: |z| < 4.5 leaves a false alarm below 2e-4. Losses are skewed: 400 runs are normal enough.
        z = (values.mean(axis=0) - getattr(expected, name)) / error
        assert np.max(np.abs(z)) < 4.5, z


def test_one_pass_at_infinite_width_is_the_recursion_per_mode():
    steps, rate, batch, noise = 60, 0.5, 4, 0.3
    error, found = COEFFICIENTS**2, []
    for _ in range(steps):
        found.append(EIGENVALUES @ error)
        gained = EIGENVALUES**2 * error + EIGENVALUES * (EIGENVALUES @ error + noise)
        error = (1 - rate * EIGENVALUES) ** 2 * error + rate**2 / batch * gained
    found.append(EIGENVALUES @ error)
    times = np.arange(steps + 1.0)
    for protocol in (OnePassSGD(learning_rate=rate, batch_size=batch), SGD(learning_rate=rate, batch_size=batch)):
        got = average_descent(only(INF, INF), protocol, times, noise=[noise])
        np.testing.assert_allclose(got.test_loss[0, 0], found, rtol=1e-12)
        np.testing.assert_allclose(got.train_loss[0, 0], np.array(found) + noise, rtol=1e-12)


@pytest.mark.parametrize("tested", [None, SHIFTED])
@pytest.mark.parametrize("width", [3, 9, INF])
def test_fresh_data_of_one_pass_are_literal_gaussians(width, tested):
    """The short cut through n + 2B random numbers and the average, against steps on B x M Gaussian inputs."""
    draw = only(width, INF, test_eigenvalues=tested)
    from foretrain.training import _linear_student as linear

    back = np.eye(MODES)
    if np.isfinite(width):
        back = linear._gaussians(3, (linear._FEATURES, 0, 0), width, MODES) / np.sqrt(width)
    weights = EIGENVALUES if tested is None else tested
    rate, batch, noise, steps, runs = 0.4, 3, 0.2, 12, 4000
    rng = np.random.default_rng(8)
    readout = np.zeros((runs, len(back)))
    for _ in range(steps):
        inputs = rng.standard_normal((runs, batch, MODES)) * np.sqrt(EIGENVALUES)
        labels = inputs @ COEFFICIENTS + np.sqrt(noise) * rng.standard_normal((runs, batch))
        features = inputs @ back.T
        residual = labels - np.einsum("rbf,rf->rb", features, readout)
        readout = readout + rate / batch * np.einsum("rbf,rb->rf", features, residual)
    errors = COEFFICIENTS - readout @ back
    protocol = OnePassSGD(learning_rate=rate, batch_size=batch)
    times = np.array([float(steps)])
    exact = average_descent(draw, protocol, times, noise=[noise])
    runs_ = [descend(draw, protocol, times, seed, noise=[noise]) for seed in range(1000)]
    for name, mean_squares, extra in (("test_loss", weights, 0.0), ("train_loss", EIGENVALUES, noise)):
        literal = errors**2 @ mean_squares + extra
        sampled = np.array([getattr(run, name)[0, 0, 0] for run in runs_])
        expected = getattr(exact, name)[0, 0, 0]
        for values in (literal, sampled):
            # Four comparisons a case, 24 in all: |z| < 4 leaves a false alarm at 1.5e-3.
            z = (values.mean() - expected) / (values.std(ddof=1) / np.sqrt(len(values)))
            assert abs(z) < 4, (name, z)
        # The whole distribution, not the mean alone: its width within 5 of the standard errors that kurtosis gives.
        spread = [np.log(v.std(ddof=1)) for v in (literal, sampled)]
        doubt = np.hypot(*(_error_of_log_deviation(v) for v in (literal, sampled)))
        assert abs(spread[0] - spread[1]) < 5 * doubt


def _error_of_log_deviation(values):
    centred = values - values.mean()
    kurtosis = np.mean(centred**4) / np.mean(centred**2) ** 2
    return np.sqrt((kurtosis - 1) / len(values)) / 2


def test_shifted_test_inputs_of_full_batch_protocols():
    """The test loss is sum q v^2 with the v of the literal readout; equal q change nothing; training never sees q."""
    times = np.array([0.0, 2.0, 30.0])
    for width, samples in ((3, 8), (9, 8), (INF, 4), (INF, 8), (3, INF), (INF, INF)):
        plain = only(width, samples, noisy=False)
        same = only(width, samples, noisy=False, test_eigenvalues=EIGENVALUES)
        moved = only(width, samples, noisy=False, test_eigenvalues=SHIFTED)
        a, b, c = (
            evolve(d.students, d.moments, GradientFlow(), times, population=d.population) for d in (plain, same, moved)
        )
        np.testing.assert_array_equal(a.test_loss, b.test_loss)
        np.testing.assert_allclose(a.train_loss, b.train_loss, rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(a.train_loss, c.train_loss, rtol=1e-12, atol=1e-14)
        # One mode tested at a time; the losses are linear in q.
        parts = []
        for mode in range(MODES):
            single = only(width, samples, noisy=False, test_eigenvalues=np.eye(MODES)[mode])
            found = evolve(single.students, single.moments, GradientFlow(), times, population=single.population)
            parts.append(found.test_loss)
        np.testing.assert_allclose(c.test_loss, np.tensordot(SHIFTED, parts, axes=1), rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(a.test_loss, np.tensordot(EIGENVALUES, parts, axes=1), rtol=1e-10, atol=1e-14)


def test_modes_that_only_the_test_has():
    """A mode with eigenvalue 0 is never learned, but tested."""
    task = SpectrumTask([1.0, 0.0, 0.5], [1.0, 2.0, 3.0], test_eigenvalues=[1.0, 0.25, 0.5])
    for protocol in (GradientFlow(samples=INF), GradientFlow(samples=40), GradientFlow(samples=2)):
        curves = train(Problem(task, RandomFeatures(width=INF), protocol), [0.0, 1e6], seeds=2)
        assert curves.values("test_loss")[0] == pytest.approx(1 + 0.5 + 1.5, rel=1e-14)
        if protocol.samples != 2:  # both learnable modes are learned
            assert curves.values("test_loss")[1] == pytest.approx(0.5, rel=1e-9)
    curves = train(Problem(task, RandomFeatures(width=2), GradientFlow()), [0.0], seeds=2)
    assert curves.values("test_loss")[0] == pytest.approx(3.0, rel=1e-14)


def test_schedules():
    model = RandomFeatures(width=5)
    base = {"learning_rate": 0.3, "batch_size": 2, "samples": 9}
    for how in ("sampled", "averaged"):
        plain = train(Problem(TASK, model, SGD(**base)), [30], seeds=2, minibatches=how)
        constant = train(Problem(TASK, model, SGD(**base, schedule="constant")), [30], seeds=2, minibatches=how)
        np.testing.assert_array_equal(plain.values("test_loss"), constant.values("test_loss"))
        ended = SGD(**base, schedule=Schedule("linear", steps=20))
        curves = train(Problem(TASK, model, ended), [20, 25, 1500], seeds=2, minibatches=how)
        for name in ("test_loss", "train_loss"):
            values = curves.values(name)
            np.testing.assert_array_equal(values[:, 1:], values[:, :1] * np.ones(2))


@pytest.mark.parametrize("minibatches", ["sampled", "averaged"])
def test_points_of_a_sweep_are_single_runs(minibatches):
    for protocol in (
        SGD(learning_rate=[0.1, 0.3], batch_size=[1, 4], samples=[6, 20, INF]),
        OnePassSGD(learning_rate=[0.1, 0.3], batch_size=[1, 4]),
    ):
        problem = Problem(TASK, RandomFeatures(width=[5, 20, INF], ensemble=[1, 2]), protocol)
        curves = train(problem, [0, 40, 7], seeds=2, minibatches=minibatches)
        assert curves.dims["test_loss"] == (*problem.axes(), "time")
        assert curves.attrs["minibatches"] == minibatches
        again = train(problem, [0, 40, 7], seeds=2, minibatches=minibatches)
        np.testing.assert_array_equal(curves.values("test_loss"), again.values("test_loss"))
        for index, point in list(problem.points())[::17]:
            alone = train(point, [40], seeds=2, minibatches=minibatches)
            for name in ("test_loss", "train_loss"):
                found = alone.values(name)[0]
                np.testing.assert_allclose(curves.values(name)[index][1], found, rtol=1e-9, atol=1e-12)


def test_late_times_cross_blocks_of_batches():
    """Beyond 1024 steps; stopping on the way changes nothing."""
    problem = Problem(TASK, RandomFeatures(width=5), SGD(learning_rate=0.3, batch_size=2, samples=9))
    for how in ("sampled", "averaged"):
        many = train(problem, [1023, 1024, 1025, 2600], seeds=1, minibatches=how).values("train_loss")
        few = train(problem, [2600], seeds=1, minibatches=how).values("train_loss")
        np.testing.assert_array_equal(many[:, -1], few[:, 0])


def test_batches():
    rng = np.random.default_rng(0)
    stream = drawn_batches(7, 3, False, rng)
    blocks = np.concatenate([next(stream) for _ in range(4)])
    assert all(len(set(row)) == 3 for row in blocks)
    counts = np.bincount(blocks.ravel(), minlength=7)
    # Each sample is in a batch with probability 3/7; counts of independent steps are binomial.
    z = (counts - len(blocks) * 3 / 7) / np.sqrt(len(blocks) * 3 / 7 * 4 / 7)
    assert np.max(np.abs(z)) < 4
    pairs = sum((blocks == i).any(axis=1) & (blocks == j).any(axis=1) for i, j in [(0, 6)])
    assert abs(pairs.sum() - len(blocks) / 7) < 4 * np.sqrt(len(blocks) * 6 / 49)
    order = consecutive_batches(3)
    first, second = next(order), next(order)
    np.testing.assert_array_equal(np.concatenate([first, second]).ravel(), np.arange(first.size + second.size))


@pytest.mark.parametrize("width", [4, 300, INF])
def test_the_edge_is_that_of_gradient_descent(width):
    rng = np.random.default_rng(0)
    eigenvalues = np.sort(rng.uniform(0.1, 1, 250))[::-1]
    for samples in (130, 280, INF):
        ((_, _, draw),) = linear_draws(eigenvalues, np.ones(250), [width], [samples], 0)
        expected = draw.students[0].eigenvalues.max()
        assert largest_eigenvalue(draw.sources[0]) == pytest.approx(expected, rel=1e-9)


def test_divergence_speaks_of_batches():
    problem = Problem(TASK, RandomFeatures(width=5), SGD(learning_rate=[0.1, 8.0], batch_size=1, samples=20))
    for how in ("sampled", "averaged"):
        with pytest.warns(ForetrainWarning, match="raise batch_size"):
            curves = train(problem, [0, 400, 10], seeds=3, minibatches=how)
        assert curves.values("status")[0].tolist() == ["ok", "diverged"]
        losses = curves.values("test_loss")[0]
        assert np.isfinite(losses[0]).all()
        assert np.isfinite(losses[1, 0])
        assert np.isinf(losses[1, 1])
        assert np.isinf(curves.values("train_loss")[0, 1, 1])


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(4)
    inputs, targets = rng.standard_normal((30, 5)), rng.standard_normal((30, 2))
    return Arrays(inputs=inputs, targets=targets)


def test_data_sets(arrays):
    """Full batches are gradient descent; one pass is many passes whose batches are the rows in order."""
    for model in (RandomFeatures(width=[6, 40, INF], ensemble=[1, 2]), Kernel(kernel="ntk")):
        full = train(Problem(arrays, model, GradientDescent(learning_rate=0.2, samples=12)), [9], seeds=2)
        protocol = SGD(learning_rate=0.2, batch_size=12, samples=12, replacement=False)
        for how in ("sampled", "averaged"):
            got = train(Problem(arrays, model, protocol), [9], seeds=2, minibatches=how)
            for name in ("test_loss", "train_loss"):
                np.testing.assert_allclose(got.values(name), full.values(name), rtol=1e-10)
        # One step of one pass over B rows is full-batch descent on those rows.
        one = train(Problem(arrays, model, OnePassSGD(learning_rate=0.2, batch_size=[12, 6])), [1], seeds=2)
        once = train(Problem(arrays, model, GradientDescent(learning_rate=0.2, samples=12)), [1], seeds=2)
        first = one["test_loss"].isel(batch_size=0).values
        np.testing.assert_allclose(first, once.values("test_loss"), rtol=1e-10)
        np.testing.assert_array_equal(one.values("test_loss"), one.values("train_loss"))


def test_one_pass_over_data_is_the_literal_loop(arrays):
    from foretrain import NNGP
    from foretrain.training._data_student import _ORDER
    from foretrain.training._linear_student import _generator

    curves = train(Problem(arrays, Kernel(), OnePassSGD(learning_rate=0.2, batch_size=3)), [8, 5], seeds=1, seed=2)
    order = _generator(2, _ORDER).permutation(30)
    inputs, targets = arrays.load().inputs[order], arrays.load().targets[order]
    gram = NNGP(depth=1, activation="relu")(inputs, inputs)
    held, coefficients = slice(24, None), np.zeros((30, 2))
    for step in range(8):
        rows = slice(3 * step, 3 * step + 3)
        coefficients[rows] += 0.2 / 3 * (targets[rows] - gram[rows] @ coefficients)
        if step == 4:
            early = np.mean(np.sum((targets[held] - gram[held] @ coefficients) ** 2, axis=1))
    late = np.mean(np.sum((targets[held] - gram[held] @ coefficients) ** 2, axis=1))
    np.testing.assert_allclose(curves.values("test_loss"), [late, early], rtol=1e-10)


def test_digits():
    """A step of SGD learns from batches what descent learns from all rows, and its noise adds a little."""
    model, samples = RandomFeatures(width=32), 128
    sgd = SGD(learning_rate=0.2, batch_size=16, samples=samples)
    noisy = train(Problem(Digits(), model, sgd), [0, 300], seeds=4)
    exact = train(Problem(Digits(), model, sgd), [0, 300], seeds=4, minibatches="averaged")
    full = train(Problem(Digits(), model, GradientDescent(learning_rate=0.2, samples=samples)), [0, 300], seeds=4)
    np.testing.assert_array_equal(noisy.values("train_loss")[0], full.values("train_loss")[0])
    gain = exact.values("train_loss")[1] - full.values("train_loss")[1]
    assert 0 < gain < 0.2 * full.values("train_loss")[1]
    assert abs(noisy.values("train_loss")[1] - exact.values("train_loss")[1]) < gain


def test_wrong_requests(arrays):
    model = RandomFeatures(width=6)

    def refused(task, protocol, times, message, kind=InvalidInput, **options):
        with pytest.raises(kind, match=message):
            train(Problem(task, model, protocol), times, seeds=2, **options)

    held = Arrays(inputs=np.ones((30, 5)), targets=np.ones(30), test_inputs=np.ones((3, 5)), test_targets=np.ones(3))
    one_pass = OnePassSGD(learning_rate=0.1, batch_size=[2, 7])
    refused(arrays, one_pass, [5], "at most 4 steps.*batches of 7 over the 30 rows.*left to test on; got 5")
    refused(held, one_pass.replace(batch_size=7), [5], "at most 4 steps.*30 rows of arrays; got 5")
    refused(held, SGD(learning_rate=0.1, batch_size=31), [5], "batch_size.*at most the 30 rows of arrays, got 31")
    refused(arrays, SGD(learning_rate=0.1, batch_size=3, samples=INF), [5], "only as many rows", UnsupportedProblem)
    plain = SGD(learning_rate=0.1, batch_size=3, samples=9)
    refused(TASK, plain, [5, INF], "finite numbers of steps for 'sgd'")
    refused(TASK, plain, [0.5], "whole numbers of steps")
    refused(TASK, plain, [5], "did you mean 'averaged'", minibatches="average")
    refused(TASK, GradientFlow(samples=9), [5], "no minibatches to average over", minibatches="averaged")
    refused(arrays, one_pass, [2], "draws no minibatches", minibatches="averaged")
    refused(PowerLaw(1.5, 0.6, modes=500), plain, [10**12], "hours|GB", TooLarge)
    large = SGD(learning_rate=0.1, batch_size=3, samples=4000)
    with pytest.raises(TooLarge, match="hours"):
        train(
            Problem(PowerLaw(1.5, 0.6, modes=5000), RandomFeatures(width=4000), large), [10**6], minibatches="averaged"
        )


RATIOS = {
    # (width, samples, batch): what minibatches multiply the train and the test loss of gradient descent by in the limit of large
    # sizes, after 12, 20, 40, 80 and 160 steps; 40 modes, noise 0.16, learning rate 0.3. Five printed digits.
    (22, 14, 4): ([1.1856, 1.1849, 1.1802, 1.1748, 1.1706], [1.0696, 1.0540, 1.0337, 1.0181, 1.0083]),
    (14, 22, 2): ([1.3964, 1.4001, 1.3959, 1.3898, 1.3856], [1.2458, 1.2205, 1.1787, 1.1390, 1.1070]),
    (INF, 22, 2): ([1.4250, 1.4551, 1.4694, 1.4567, 1.4329], [1.2014, 1.1738, 1.1197, 1.0656, 1.0279]),
}


@pytest.mark.long
@pytest.mark.parametrize("case", RATIOS)
def test_the_ratio_to_gradient_descent_has_its_known_limit(case):
    """Modes, width, samples and batch times r: means over draws, extrapolated in 1/r, against the theory's numbers."""
    width, samples, batch = case
    index = np.arange(1.0, 41.0)
    base = Spectrum(index**-1.2, index**-0.4)
    times = np.array([12.0, 20.0, 40.0, 80.0, 160.0])
    replicas, draws = (3, 6, 12), (120, 60, 40)
    ratios, errors = [], []
    for r, count in zip(replicas, draws, strict=True):
        spectrum, n, p = refine(base, width, samples, r)
        eigenvalues, coefficients, _ = explicit_modes(spectrum)
        protocols = SGD(learning_rate=0.3, batch_size=batch * r), GradientDescent(learning_rate=0.3)
        losses = []
        for seed in range(1000 * r, 1000 * r + count):
            ((_, _, draw),) = linear_draws(eigenvalues, coefficients, [n], [p], seed)
            noisy = average_descent(draw, protocols[0], times, noise=[0.16])
            full = evolve(draw.students, draw.moments, protocols[1], times, noise=[0.16])
            losses.append([[f.train_loss[0, 0], f.test_loss[0, 0]] for f in (noisy, full)])
        sums = np.sum(losses, axis=0)
        left_out = sums - np.array(losses)
        jackknife = left_out[:, 0] / left_out[:, 1]
        ratios.append(sums[0] / sums[1])
        errors.append(np.sqrt((count - 1) * jackknife.var(axis=0)))
    ratios, errors = np.array(ratios), np.array(errors)
    design = np.vander(1 / np.array(replicas, dtype=float), 2, increasing=True)
    for which, time in np.ndindex(2, len(times)):
        weighted = design / errors[:, which, time, None]
        covariance = np.linalg.inv(weighted.T @ weighted)
        limit = (covariance @ weighted.T @ (ratios[:, which, time] / errors[:, which, time]))[0]
        deviation, expected = np.sqrt(covariance[0, 0]), RATIOS[case][which][time]
        # Ten strongly correlated numbers a case; the last printed digit besides.
        assert abs(limit - expected) < 4 * deviation + 5e-5, (which, time, limit, deviation, expected)
        # Without this the test could pass by being blind: dropping the noise altogether must be seen at most times.
        assert deviation < 0.01


def test_sizes_of_second_moments():
    """Every student of an average is tested with its own block."""
    draw = only(2, 4, students=3)
    blocks = [_own_second(draw, e) for e in range(3)]
    for e in range(3):
        np.testing.assert_array_equal(blocks[e], draw.moments.second[2 * e : 2 * e + 2, 2 * e : 2 * e + 2])
