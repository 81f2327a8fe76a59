"""Spectra: the power law's definition, its explicit arrays, and the identities of each task."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain import Isotropic, PowerLaw, Spectrum, SpectrumTask
from foretrain.errors import InvalidInput
from foretrain.tasks import TASKS, PowerLawSpectrum


@given(st.floats(0.2, 4.0), st.floats(0.05, 4.0), st.integers(1, 200))
def test_power_law_is_what_it_says(capacity, source, modes):
    spectrum = PowerLaw(capacity, source, modes=modes).spectrum().to_spectrum()
    k = np.arange(1, modes + 1, dtype=float)
    np.testing.assert_allclose(spectrum.eigenvalues, k**-capacity, rtol=1e-13)
    np.testing.assert_allclose(spectrum.eigenvalues * spectrum.target_power, k ** -(capacity * source + 1), rtol=1e-12)
    assert spectrum.modes == modes
    assert spectrum.total_power == pytest.approx(np.sum(k ** -(capacity * source + 1)), rel=1e-12)
    assert spectrum.trace == pytest.approx(np.sum(k**-capacity), rel=1e-12)


def test_normalized_power_is_a_mean_over_modes():
    plain, mean = (PowerLaw(1.5, 0.6, modes=50, normalize=n).spectrum().to_spectrum() for n in (False, True))
    np.testing.assert_allclose(mean.target_power, plain.target_power / 50, rtol=1e-15)


def test_writing_out_too_many_modes_is_refused():
    with pytest.raises(InvalidInput, match="1e\\+09 modes exceed limit = 20000000"):
        PowerLaw(1.5, 0.6, modes=10**9).spectrum().to_spectrum()
    with pytest.raises(InvalidInput, match="inf modes exceed"):
        PowerLawSpectrum(1.5, 0.6).to_spectrum()


def test_multiplicity_counts_modes():
    grouped = Spectrum([1.0, 0.5], [2.0, 3.0], [1, 4])
    single = Spectrum([1.0, 0.5, 0.5, 0.5, 0.5], [2.0, 3.0, 3.0, 3.0, 3.0])
    for name in ("modes", "trace", "total_power"):
        assert getattr(grouped, name) == pytest.approx(getattr(single, name), rel=1e-15)


def test_isotropic_has_unit_eigenvalue_and_unit_power():
    spectrum = Isotropic(modes=30).spectrum()
    assert spectrum.eigenvalues.tolist() == [1.0]
    assert spectrum.total_power == pytest.approx(1.0, rel=1e-15)
    assert spectrum.trace == 30


def test_explicit_spectrum_is_handed_on():
    task = SpectrumTask([1.0, 0.5], [2.0, 3.0], [1, 4], noise=0.1)
    assert task.spectrum() == Spectrum([1.0, 0.5], [2.0, 3.0], [1, 4])


def test_registry_names_every_kind():
    data = {"digits", "fashion-mnist", "cifar-10", "circle", "arrays", "text"}
    assert set(TASKS) == {"power-law", "spectrum", "isotropic"} | data
    assert all(task.kind == kind for kind, task in TASKS.items())
