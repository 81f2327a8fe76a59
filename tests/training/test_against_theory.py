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
    Kernel,
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
from foretrain.training import refine

EIGENVALUES = np.arange(1.0, 41.0) ** -1.2
BASE = Spectrum(EIGENVALUES, np.arange(1.0, 41.0) ** -1.6 / EIGENVALUES)
REPLICAS = (1, 2, 4, 8)
SEEDS = (4000, 2000, 1000, 500)
INF = float("inf")


def problem_at(replicas, model, protocol, width, samples, noise):
    spectrum, width, samples = refine(BASE, width, samples, replicas)
    task = SpectrumTask(spectrum.eigenvalues, spectrum.target_power, spectrum.multiplicity, noise=noise)
    return Problem(task, model.replace(width=width), protocol.replace(samples=samples))


def extrapolate(means, errors):
    """Value and standard error at 1/r = 0 of the weighted quadratic in 1/r."""
    design = np.vander(1 / np.array(REPLICAS, dtype=float), 3, increasing=True)
    values, deviations = [], []
    for mean, error in zip(np.array(means).T, np.array(errors).T, strict=True):
        weighted = design / error[:, None]
        covariance = np.linalg.inv(weighted.T @ weighted)
        values.append((covariance @ weighted.T @ (mean / error))[0])
        deviations.append(np.sqrt(covariance[0, 0]))
    return np.array(values), np.array(deviations)


@pytest.mark.long
@pytest.mark.parametrize(
    ("protocol", "times"),
    [
        (GradientFlow(), [0.5, 2.0, 8.0, 40.0, 300.0]),
        (GradientDescent(learning_rate=0.55), [1, 3, 20, 200]),
        (GradientDescent(learning_rate=0.5, schedule=Schedule("cosine", steps=60, warmup=5)), [3, 30, 60]),
        (Momentum(learning_rate=0.2, momentum=0.6), [1, 3, 20, 60, 200]),
        (MomentumFlow(momentum=2.0), [1.0, 5.0, 30.0, 100.0]),
        (Ridge(ridge=0.02), None),
        (Ridge(ridge=0.5), None),
    ],
    ids=lambda value: value.kind if hasattr(value, "kind") else "",
)
@pytest.mark.parametrize(
    ("model", "width", "samples"),
    [
        (RandomFeatures(width=1), 14, 22),
        (RandomFeatures(width=1), 22, 14),
        (Kernel(), INF, 22),
        (RandomFeatures(width=1), 14, INF),
        (RandomFeatures(width=1, ensemble=3), 14, 22),
    ],
    ids=["underparameterized", "overparameterized", "infinite width", "infinite samples", "ensemble of 3"],
)
def test_theory_is_the_limit_of_simulation(protocol, times, model, width, samples):
    noise = 0.16
    theory = solve(problem_at(1, model, protocol, width, samples, noise), times)
    runs = []
    for replicas, seeds in zip(REPLICAS, SEEDS, strict=True):
        problem = problem_at(replicas, model, protocol, width, samples, noise)
        # Different seeds at every size: shared draws would correlate what the fit takes as independent.
        runs.append(train(problem, times, seeds=seeds // 2, seed=100_000 * replicas))
    for name in ("test_loss", "train_loss"):
        if name not in theory or np.all(np.isnan(theory.values(name))):
            continue
        means = [np.atleast_1d(run.values(name)) for run in runs]
        errors = [np.atleast_1d(run.values(f"{name}_stderr")) for run in runs]
        value, deviation = extrapolate(means, errors)
        z = (value - np.atleast_1d(theory.values(name))) / deviation
        # At most ten correlated numbers a case: 4 standard errors keep a false alarm below 1e-3.
        assert np.all(np.abs(z) < 4), f"{name}: {z.round(2)}"
        # A test that could not see a wrong prefactor proves nothing.
        assert np.all(deviation < 0.02 * np.abs(value)), f"{name}: {(deviation / value).round(4)}"
