"""What `measure` hands over: the same numbers as the measurement itself, kept in the store."""

import numpy as np
import pytest

from foretrain import Arrays, GradientFlow, Kernel, PowerLaw, Problem, RandomFeatures, Study
from foretrain.curves import LearningCurves
from foretrain.errors import InvalidInput
from foretrain.limits.linear import measure
from foretrain.studies import Store, measure_study, measured_curves, spectrum_for_plot

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 4))
TASK = Arrays(inputs=X, targets=np.sign(X[:, 0]))


def study(model):
    return Study(Problem(TASK, model, GradientFlow(samples=[10, 20])))


def test_measure_as_the_theory_does(tmp_path):
    store = Store(tmp_path)
    curves = measure_study(study(RandomFeatures(width=[4, 8], depth=[2])), store=store)
    problem = Problem(TASK, RandomFeatures(width=4, depth=2), GradientFlow())
    measured = measure(problem)
    np.testing.assert_array_equal(curves.values("eigenvalues"), measured.eigenvalues)
    assert curves.attrs["noise"] == list(measured.noise)
    assert curves.dims["target_power"] == ("node",)
    kept = list(tmp_path.glob("*.nc"))
    assert len(kept) == 1
    again = measure_study(study(RandomFeatures(width=64, depth=2)), store=store)  # the width makes no difference
    np.testing.assert_array_equal(again.values("eigenvalues"), curves.values("eigenvalues"))
    assert list(tmp_path.glob("*.nc")) == kept


def test_a_measurement_survives_netcdf_and_can_be_drawn(tmp_path):
    curves = measured_curves(measure(Problem(TASK, RandomFeatures(width=4), GradientFlow())))
    curves.save(tmp_path / "a.nc")
    loaded = LearningCurves.load(tmp_path / "a.nc")
    ours, theirs = spectrum_for_plot(curves), spectrum_for_plot(loaded)
    assert set(ours) == set(theirs)
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])
    pytest.importorskip("matplotlib")
    from foretrain.report import plot_spectrum

    plot_spectrum(theirs, tmp_path / "a.svg")
    assert (tmp_path / "a.svg").stat().st_size > 1000


def test_only_data_can_be_measured():
    declared = Problem(PowerLaw(1.5, 0.6), RandomFeatures(width=8), GradientFlow())
    with pytest.raises(InvalidInput, match="declares its spectrum, so there is nothing to measure"):
        measure_study(Study(declared))


def test_one_network_at_a_time():
    with pytest.raises(InvalidInput, match="kernel: expected one value, as one network is measured, got 2"):
        measure_study(study(Kernel(kernel=["nngp", "ntk"])))
