import subprocess
import sys

import numpy as np
import pytest
from synthetic import INF, broken, comparison, spectrum, with_values

from foretrain.curves import Comparison, LearningCurves
from foretrain.errors import InvalidInput, MissingExtra
from foretrain.report import heatmap, plot_comparison, plot_curves, plot_spectrum
from foretrain.report._spectrum import log_bins, read_spectrum, spectrum_panels
from foretrain.studies import pair

TIMES = np.geomspace(1, 1e4, 6)


def lines(axes, marker="None"):
    return [line for line in axes.get_lines() if line.get_marker() == marker and len(line.get_xdata()) > 2]


def static(sizes: dict[str, list]) -> Comparison:
    """A comparison without time: the last time of a timed one."""
    whole = comparison(sizes, TIMES)

    def last(curves: LearningCurves) -> LearningCurves:
        variables = {
            n: (d[:-1], v[..., -1]) if d[-1:] == ("time",) else (d, v) for n, (d, v) in curves.variables.items()
        }
        return LearningCurves(variables, {k: v for k, v in curves.coords.items() if k != "time"}, curves.attrs)

    return pair(last(whole.theory), last(whole.training))


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf", ".PNG"])
def test_files_are_of_the_kind_that_the_suffix_says(tmp_path, suffix):
    path = tmp_path / f"curves{suffix}"
    plot_comparison(comparison({"width": [8, 16]}, TIMES), path)
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix.lower()]
    assert path.read_bytes().startswith(start)


@pytest.mark.parametrize("draw", [plot_comparison, heatmap])
def test_wrong_paths_are_refused_before_drawing(tmp_path, draw):
    with pytest.raises(InvalidInput, match=r"expected a name that ends in \.png, \.svg, \.pdf"):
        draw(comparison(), tmp_path / "curves.gif")
    with pytest.raises(InvalidInput, match="no folder"):
        draw(comparison(), tmp_path / "missing" / "curves.png")


def test_lines_are_the_theory_and_points_the_training():
    whole = comparison({"width": [8, 16], "samples": [4, 32]}, TIMES)
    figure = plot_comparison(whole)
    assert len(figure.axes) == 4
    upper = [a for a in figure.axes if a.get_ylabel() == "test loss" or a.get_title(loc="left")]
    assert [a.get_title(loc="left") for a in upper] == ["samples 4", "samples 32"]
    theory, measured = whole.theory.values("test_loss"), whole.training.values("test_loss")
    for j, axes in enumerate(upper):
        for i, line in enumerate(lines(axes)):
            np.testing.assert_array_equal(line.get_ydata(), theory[i, j])
        for i, line in enumerate(lines(axes, "o")):
            np.testing.assert_array_equal(line.get_ydata(), measured[i, j])
        assert axes.get_xscale() == axes.get_yscale() == "log"


def test_residual_panels_hold_the_error_in_percent_and_twice_the_noise():
    whole = comparison({"width": [8, 16]}, TIMES)
    lower = plot_comparison(whole).axes[1]
    drawn = [line.get_ydata() for line in lines(lower, "o")]
    np.testing.assert_allclose(drawn, 100 * whole.error.values("test_loss"), rtol=1e-12)  # rounding
    band = lower.collections[0].get_paths()[0].vertices[:, 1]
    noise = 200 * whole.training.values("test_loss_stderr")[0] / whole.training.values("test_loss")[0]
    assert band.max() == pytest.approx(noise.max(), rel=1e-12)  # rounding


def test_axes_are_matched_by_value_not_by_order():
    whole = comparison({"width": [8, 16], "samples": [4, 32]}, TIMES)
    dims, values = whole.training.variables["test_loss"]
    turned = LearningCurves(
        {"test_loss": (dims[::-1], values.T[::-1]), "test_loss_stderr": (dims[::-1], values.T[::-1] / 100)},
        {**whole.training.coords, "time": whole.training.coords["time"][::-1]},
        {},
    )
    given = Comparison(whole.theory, turned, LearningCurves({}, {}, {}))
    drawn = [line.get_ydata() for axes in plot_comparison(given).axes[::2] for line in lines(axes, "o")]
    np.testing.assert_array_equal(drawn, values.transpose(1, 0, 2).reshape(4, -1))


def test_a_width_of_infinity_is_drawn_dashed_from_theory_alone():
    figure = plot_comparison(comparison({"width": [8, 16]}, TIMES, theory_only={"width": [INF]}))
    assert [line.get_linestyle() for line in lines(figure.axes[0])] == ["-", "-", "--"]
    assert "width ∞" in [t.get_text() for t in figure.legends[0].get_texts()]


@pytest.mark.parametrize(
    "given",
    [
        broken(),
        comparison({}, TIMES),
        comparison({}, [10.0]),
        comparison({"width": [8]}, [0.0]),
        comparison({"width": [8, 16]}, [0.0, 1.0, 10.0, INF]),
        comparison({"width": [8, 16]}, [INF]),
        comparison({"width": [8], "samples": [4]}, [0.0, 1.0, 2.0]),
        comparison({"activation": ["relu", "$x^", "_hidden"], "width": [8, 16]}, TIMES),
        comparison({"samples": [4, 8, 16, 32, 64]}, TIMES),
        comparison({f"axis_{i}": [0.1, 0.2] if i < 3 else [0.3] for i in range(10)}, TIMES[:3]),
        static({"width": [8, 16], "samples": [4, 32, 128]}),
        static({"width": [8, 16], "activation": ["relu", "erf"]}),
        static({"width": [8]}),
        static({}),
    ],
    ids=lambda c: repr(c.theory)[:60],
)
def test_every_shape_can_be_drawn(given):
    plot_comparison(given).draw_without_rendering()
    plot_curves(given.training)
    heatmap(given)


def test_no_value_at_all_can_be_drawn():
    whole = comparison({"width": [8, 16]}, TIMES)
    nothing = [with_values(c, test_loss=(..., np.nan)) for c in (whole.theory, whole.training)]
    plot_comparison(pair(*nothing)).draw_without_rendering()
    heatmap(pair(*nothing)).draw_without_rendering()


def test_negative_values_are_drawn_on_a_linear_axis():
    curves = LearningCurves({"bias": (("time",), np.array([-1.0, 2.0, 3.0]))}, {"time": TIMES[:3]}, {})
    assert plot_curves(curves).axes[0].get_yscale() == "linear"


def test_many_panels_are_cut_at_twelve_and_the_figure_says_so():
    figure = plot_curves(comparison({"samples": list(range(1, 16)), "width": [8, 16]}, TIMES).theory)
    assert len(figure.axes) == 12
    assert "the first 12 of 15 panels" in figure.get_supxlabel()


def test_results_without_curves_are_refused():
    status = LearningCurves({"status": ((), np.array("ok"))}, {}, {})
    with pytest.raises(InvalidInput, match="no curve to draw"):
        plot_curves(status)
    other = LearningCurves({"train_loss": ((), np.array(1.0))}, {}, {})
    with pytest.raises(InvalidInput, match="share no loss"):
        plot_comparison(Comparison(comparison({}, TIMES).theory, status, other))


def test_figures_leave_matplotlib_as_it_was(tmp_path):
    code = """
import sys, numpy as np
import foretrain.report
assert not [m for m in ("matplotlib", "jinja2", "pandas", "jax", "xarray") if m in sys.modules], "import must be lazy"
import matplotlib
settings = lambda: {k: matplotlib.rcParams[k] for k in matplotlib.rcParams if k != "backend"}
before = settings()
from foretrain.curves import LearningCurves
curves = LearningCurves({"test_loss": (("time",), np.array([1.0, 0.5]))}, {"time": np.array([1.0, 2.0])}, {})
foretrain.report.plot_curves(curves, sys.argv[1])
assert settings() == before
assert "matplotlib.pyplot" not in sys.modules
"""
    arguments = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "a.png")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("draw", [lambda: plot_comparison(comparison()), lambda: plot_spectrum(spectrum())])
def test_a_missing_matplotlib_is_named_with_the_way_to_get_it(monkeypatch, draw):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"matplotlib is not installed; run: pip install 'foretrain\[report\]'"):
        draw()


def test_spectrum_needs_only_eigenvalues():
    table = spectrum()
    optional = [k for k in table if k != "eigenvalues"]
    for left_out in [*((name,) for name in optional), optional]:
        plot_spectrum({k: v for k, v in table.items() if k not in left_out})
    plot_spectrum(table).draw_without_rendering()
    with pytest.raises(InvalidInput, match="expected a table with 'eigenvalues'"):
        plot_spectrum({"eigenvalue": [1.0]})
    with pytest.raises(InvalidInput, match="expected 2 values, one for each mode, got 3"):
        plot_spectrum({"eigenvalues": [1.0, 0.5], "k": [1, 2, 3]})


def test_spectrum_power_is_eigenvalue_times_target_power_and_bins_stand_at_their_middle():
    table = read_spectrum(
        {"eigenvalues": [2.0, 1.0], "target_power": [3.0, 5.0], "multiplicity": [1.0, 4.0], "noise": 0.1}
    )
    np.testing.assert_array_equal(table.power, [6.0, 5.0])
    np.testing.assert_array_equal(table.k, [1.0, 3.5])
    name, value, *interval = table.facts[0]
    assert (name, value) == ("noise", 0.1)
    assert np.isnan(interval).all()


def test_log_bins_keep_means_and_drop_bins_without_power():
    k = np.arange(1.0, 1001.0)
    place, mean = log_bins(k, k**-1.5, np.ones_like(k))
    # A bin spans a factor 10^(1/8): within it the arithmetic mean of k^-1.5 exceeds its value at the geometric middle by
    # at most (1.5 ln 10 / 8)^2 / 24 = 0.8 %; a mode more or less at the edge of a small bin is not an error of the mean.
    np.testing.assert_allclose(mean, place**-1.5, rtol=0.02)
    assert log_bins(k, -(k**-1.5), np.ones_like(k))[0].size == 0
    single, _ = log_bins(np.array([1.0, 2.0]), np.array([1.0, 1.0]), np.ones(2))
    np.testing.assert_allclose(single, [1.0, 2.0], rtol=1e-15)  # rounding of exp(log k)


def test_bins_weigh_values_by_the_modes_that_they_stand_for():
    # A sliver of a mode with an outsized value must not show: what counts is power per mode.
    place, mean = log_bins(np.array([100.0, 100.1]), np.array([1.0, 1e3]), np.array([10.0, 1e-6]))
    np.testing.assert_allclose(mean, (10.0 + 1e-3) / (10.0 + 1e-6), rtol=1e-12)  # rounding
    assert place.size == 1


def test_the_extension_is_dashed_from_the_last_resolved_mode_on():
    title, series = spectrum_panels(read_spectrum(spectrum()))[1]
    line, dashed = series[:2]
    assert title == "Target power per mode"
    assert (line.kind, dashed.kind) == ("line", "dash")
    assert line.x[-1] == dashed.x[0] <= 200 < dashed.x[1]  # the end of the fit range
    everything = spectrum_panels(read_spectrum({"eigenvalues": [1.0, 0.5, 0.25]}))
    assert [(s.kind, s.x.size) for s in everything[0][1]] == [("line", 3)]
