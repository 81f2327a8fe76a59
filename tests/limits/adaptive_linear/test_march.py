"""Discrete training: published numbers, the linear limits, the flow, and simulations with every weight."""

import numpy as np
import pytest

from foretrain.limits.adaptive_linear._curves import flow_curves
from foretrain.limits.adaptive_linear._descent import descent
from foretrain.limits.adaptive_linear._march import march, march_measure
from foretrain.limits.adaptive_linear._scene import Case, Scene
from foretrain.limits.linear import Descent, StochasticDescent, linear_curves, spectral_measure
from foretrain.tasks import PowerLawSpectrum

INF = float("inf")
LAW = PowerLawSpectrum(1.2, 0.6, 120)


def run(case: Case, steps: int):
    return march(march_measure(case.spectrum, case.rate * steps), case, steps)


@pytest.mark.parametrize(
    ("samples", "batch", "published"),
    [
        (INF, INF, (1.0935, 0.4178, 0.2003)),
        (INF, 20.0, (1.0964, 0.4246, 0.2065)),
        (60.0, INF, (1.1062, 0.4673, 0.2842)),
    ],
)
def test_reference_numbers(samples, batch, published):
    found = run(Case(LAW, 60.0, samples, 0.0, 1.0, 0.1, batch), 80)
    np.testing.assert_allclose(found.test[[5, 20, 80]], published, atol=6e-5)


@pytest.mark.parametrize("sizes", [(INF, INF), (14.0, INF), (14.0, 22.0), (22.0, 14.0)])
def test_lazy_descent_is_the_linear_limit(sizes):
    case = Case(PowerLawSpectrum(1.2, 0.6, 40), *sizes, 0.2, 0.0, 0.3)
    steps = np.arange(13)
    found = run(case, 12)
    spectrum = case.spectrum.to_spectrum()
    full = spectral_measure(spectrum.eigenvalues, spectrum.target_power, exact=40)
    exact = linear_curves(full, steps, *sizes, 0.2, Descent(0.3))
    np.testing.assert_allclose(found.test, exact.test[0, 0], rtol=1e-8)
    np.testing.assert_allclose(found.train, exact.train[0, 0], rtol=1e-8)


@pytest.mark.parametrize("width", [INF, 14.0])
def test_lazy_sgd_is_the_linear_limit(width):
    case = Case(PowerLawSpectrum(1.2, 0.6, 40), width, INF, 0.2, 0.0, 0.3, 8.0)
    exact = linear_curves(
        march_measure(case.spectrum, 4.0), np.arange(13), width, INF, 0.2, StochasticDescent(0.3, 8.0)
    )
    np.testing.assert_allclose(run(case, 12).test, exact.test[0, 0], rtol=1e-8)


def test_large_data_and_batches_are_the_population():
    limit = run(Case(LAW, 60.0, INF, 0.1, 2.0, 0.1), 12)
    for samples, batch in ((1e9, INF), (INF, 1e9)):
        found = run(Case(LAW, 60.0, samples, 0.1, 2.0, 0.1, batch), 12)
        np.testing.assert_allclose(found.test, limit.test, rtol=1e-7)
        np.testing.assert_allclose(found.norm, limit.norm, rtol=1e-7)


@pytest.mark.parametrize(("samples", "richness", "heat"), [(INF, 3.0, 0.0), (40.0, 3.0, 0.0), (INF, 0.0, 0.01)])
def test_small_steps_are_the_flow(samples, richness, heat):
    """Two roads: contours in continuous time, causal matrices in discrete time; their gap is of first order in the rate."""
    gaps = []
    for rate in (0.1, 0.05):
        case = Case(LAW, 30.0, samples, 0.1, richness, rate, rate / heat if heat else INF)
        steps = round(1.5 / rate)
        flow = flow_curves([case], np.array([float(steps)]))
        found = run(case, steps)
        gaps.append([found.test[-1] / flow.test[0, 0] - 1.0, found.norm[-1] / flow.norm[0, 0] - 1.0])
    np.testing.assert_allclose(np.divide(*gaps), 2.0, atol=0.35)


def test_diffusion_leaves_out_little():
    """With features that learn, the diffusion is an approximation even for small steps: per cents of what noise adds."""
    case = Case(LAW, 30.0, INF, 0.1, 3.0, 0.0125, 1.25)
    flow, noiseless = (flow_curves([one], np.array([120.0])) for one in (case, Case(LAW, 30.0, INF, 0.1, 3.0, 0.0125)))
    found = run(case, 120)
    added = flow.test[0, 0] - noiseless.test[0, 0]
    assert 0.0 < found.test[-1] - flow.test[0, 0] < 0.05 * added
    assert abs(found.norm[-1] / flow.norm[0, 0] - 1.0) < 0.03


@pytest.mark.parametrize(("width", "samples"), [(60.0, INF), (60.0, 60.0), (INF, 40.0), (INF, INF)])
def test_descent_in_one_time_is_the_march(width, samples):
    """Two roads for full batches: a metric on contours, causal matrices in two times."""
    case = Case(LAW, width, samples, 0.1, 2.5, 0.1)
    scene = Scene([case], 500.0, 0.18)
    path, found = descent(scene.x, scene.filters([case]), 0.1, 60), run(case, 60)
    np.testing.assert_allclose(path.test, found.test, rtol=1e-8)
    np.testing.assert_allclose(path.train + (0.1 if samples == INF else 0.0), found.train, rtol=1e-8)
    np.testing.assert_allclose(path.norm, found.norm, rtol=1e-8, atol=1e-12)


def test_compression():
    case = Case(LAW, 60.0, 60.0, 0.2, 1.0, 0.1)
    spectrum = LAW.to_spectrum()
    full = spectral_measure(spectrum.eigenvalues, spectrum.target_power, exact=120)
    np.testing.assert_allclose(run(case, 31).test, march(full, case, 31).test, rtol=1e-8)


def simulated(network, case: Case, steps: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error of the test loss and the readout norm at the last step."""
    spectrum = case.spectrum.to_spectrum()
    found = []
    for seed in range(draws):
        net = network(spectrum.eigenvalues, np.sqrt(spectrum.target_power), int(case.width), case.richness, seed)
        if np.isfinite(case.samples):
            psi, noise = net.data(int(case.samples), case.noise)
        for _ in range(steps):
            if np.isfinite(case.batch):
                psi, noise = net.data(int(case.batch), case.noise)
            reused = np.isfinite(case.samples) or np.isfinite(case.batch)
            net.push(net.empirical(psi, noise, net.residual) if reused else net.population(), case.rate)
        found.append((net.loss, net.norm))
    return np.mean(found, 0), np.std(found, 0, ddof=1) / np.sqrt(draws)


CASES = [
    Case(PowerLawSpectrum(1.1, 0.7, 160), 80.0, INF, 0.0, 2.5, 0.1),
    Case(PowerLawSpectrum(1.1, 0.7, 160), 80.0, INF, 0.3, 2.5, 0.1, 40.0),
    Case(PowerLawSpectrum(1.1, 0.7, 160), 80.0, 60.0, 0.3, 2.5, 0.1),
]


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_theory_against_every_weight(network, case):
    theory = run(case, 30)
    mean, error = simulated(network, case, 30, 150)
    z = (mean - np.array([theory.test[-1], theory.norm[-1]])) / error
    assert np.all(np.abs(z) < 4.0), z


@pytest.mark.long
def test_a_wrong_power_of_the_richness_or_width_is_seen(network):
    """What the tests above would say of gamma^2, of sqrt(gamma), or of twice the width."""
    mean, error = simulated(network, CASES[0], 30, 150)
    for richness, width in ((2.5**2, 80.0), (2.5**0.5, 80.0), (2.5, 160.0)):
        theory = run(Case(CASES[0].spectrum, width, INF, 0.0, richness, 0.1), 30)
        z = (mean - np.array([theory.test[-1], theory.norm[-1]])) / error
        assert np.max(np.abs(z)) > 8.0, z
