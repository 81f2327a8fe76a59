"""Finite models against theory by replica refinement: what is left at infinite replicas must be sampling noise.

Each mode is repeated r times with its power shared and width and samples grow by r; theory stays put and the simulation's
distance from it falls like 1/r. A weighted fit of a + b/r + c/r^2 to the measured means then gives a with its own standard
error, and theory is judged by |z| < 4 for a.
"""

import numpy as np
import pytest

from foretrain import (
    GradientDescent,
    GradientFlow,
    Momentum,
    MomentumFlow,
    Problem,
    RandomFeatures,
    Ridge,
    Schedule,
    Spectrum,
    SpectrumTask,
    solve,
    train,
)
from foretrain.training import evolve, linear_draws, refine
from foretrain.training._linear_student import explicit_modes
from foretrain.training._sampling import cores, mean_and_error, run_seeds

EIGENVALUES = np.arange(1.0, 41.0) ** -1.2
BASE = Spectrum(EIGENVALUES, np.arange(1.0, 41.0) ** -1.6 / EIGENVALUES)
NOISE = 0.16
REPLICAS = (2, 4, 8, 16)
SEEDS = (1000, 700, 400, 250)
INF = float("inf")

PROTOCOLS = (
    (GradientFlow(), [0.5, 2.0, 8.0, 40.0, 300.0]),
    (GradientDescent(learning_rate=0.4), [1, 3, 20, 200]),
    (GradientDescent(learning_rate=0.4, schedule=Schedule("cosine", steps=60, warmup=5)), [3, 30, 60]),
    (Momentum(learning_rate=0.2, momentum=0.6), [1, 3, 20, 60, 200]),
    (MomentumFlow(momentum=2.0), [1.0, 5.0, 30.0, 100.0]),
    (Ridge(ridge=0.02), None),
    (Ridge(ridge=0.5), None),
)


def simulate(replicas, seeds, width, samples, students):
    """Means and standard errors over seeds of (protocol, loss, time), all from one decomposition per seed."""
    spectrum, width, samples = refine(BASE, width, samples, replicas)
    modes = explicit_modes(spectrum)

    def one(seed, check):
        ((_, _, draw),) = linear_draws(*modes[:2], [width], [samples], seed, students=students)
        found = []
        for protocol, times in PROTOCOLS:
            grid = None if times is None else np.asarray(times, dtype=float)
            result = evolve(draw.students, draw.moments, protocol, grid, noise=[NOISE], ensemble=[students])
            found += [result.test_loss.ravel(), result.train_loss.ravel()]
        return np.concatenate(found)

    # Different seeds at every size: shared draws would correlate what the fit takes as independent.
    numbers = list(range(100_000 * replicas, 100_000 * replicas + seeds))
    return mean_and_error(np.array([values for _, values in run_seeds(one, numbers, workers=cores())]))


def predict(width, samples, students):
    found = []
    for protocol, times in PROTOCOLS:
        task = SpectrumTask(BASE.eigenvalues, BASE.target_power, noise=NOISE)
        model = RandomFeatures(width=width, ensemble=students)
        curves = solve(Problem(task, model, protocol.replace(samples=samples)), times)
        found += [curves.values("test_loss").ravel(), curves.values("train_loss").ravel()]
    return np.concatenate(found)


@pytest.mark.long
@pytest.mark.parametrize(
    ("width", "samples", "students"),
    [(14, 22, 1), (22, 14, 1), (INF, 22, 1), (14, INF, 1), (14, 22, 2)],
    ids=["underparameterized", "overparameterized", "infinite width", "infinite samples", "ensemble of 2"],
)
def test_theory_is_the_limit_of_simulation(width, samples, students):
    runs = [simulate(r, seeds, width, samples, students) for r, seeds in zip(REPLICAS, SEEDS, strict=True)]
    theory = predict(width, samples, students)
    design = np.vander(1 / np.array(REPLICAS, dtype=float), 3, increasing=True)
    for position, expected in enumerate(theory):
        means, errors = (np.array([run[i][position] for run in runs]) for i in (0, 1))
        weighted = design / errors[:, None]
        covariance = np.linalg.inv(weighted.T @ weighted)
        value, deviation = (covariance @ weighted.T @ (means / errors))[0], np.sqrt(covariance[0, 0])
        # Forty correlated numbers a case: 4 standard errors keep a false alarm below 3e-3.
        assert abs(value - expected) < 4 * deviation, f"number {position}: {value} +- {deviation}, theory {expected}"
        # Without this the test could pass by being blind: a wrong factor of 4/3 must be four deviations away.
        assert deviation < expected / 12, f"number {position}: {deviation / expected:.3f}"


@pytest.mark.long
def test_the_distance_falls_like_one_over_replicas():
    """At the end of training a small student is 12 % off; four times the size leaves a quarter of that."""
    late = np.array([1e5])
    problem = Problem(
        SpectrumTask(BASE.eigenvalues, BASE.target_power, noise=NOISE), RandomFeatures(width=14), GradientFlow(22)
    )
    expected = solve(problem, late).values("test_loss")[0]
    gaps, errors = [], []
    for replicas, seeds in ((1, 4000), (4, 1500)):
        spectrum, width, samples = refine(BASE, 14, 22, replicas)
        task = SpectrumTask(spectrum.eigenvalues, spectrum.target_power, spectrum.multiplicity, noise=NOISE)
        curves = train(
            Problem(task, RandomFeatures(width=width), GradientFlow(samples)), late, seeds=seeds, seed=10_000 * replicas
        )
        gaps.append(curves.values("test_loss")[0] / expected - 1)
        errors.append(curves.values("test_loss_stderr")[0] / expected)
    assert gaps[0] > 5 * errors[0]
    # The second order, c/r^2, is allowed a third of the first.
    assert abs(gaps[0] - 4 * gaps[1]) < 4 * np.hypot(errors[0], 4 * errors[1]) + gaps[0] / 3
