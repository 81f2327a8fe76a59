"""Frontiers, the plane of exponents, and curves over learning rates."""

from types import SimpleNamespace

import numpy as np
import pytest

from foretrain.curves import LearningCurves
from foretrain.errors import InvalidInput
from foretrain.report import plot_curves, plot_frontier, plot_phase_plane

COMPUTE = np.logspace(2, 6, 5)
FRONTIER = SimpleNamespace(compute=COMPUTE, width=3 * COMPUTE**0.4, test_loss=2 * COMPUTE**-0.3)


def _rates(losses: np.ndarray, rates: np.ndarray, times=(10.0,)) -> LearningCurves:
    dims = ("width_ratio", "learning_rate", "time")
    coords = {"width_ratio": np.array([1.0, 2.0]), "learning_rate": rates, "time": np.array(times)}
    return LearningCurves({"test_loss": (dims, losses)}, coords, {})


def test_a_frontier_that_is_its_prediction_lies_on_the_dashed_line(tmp_path):
    figure = plot_frontier({"lazy": FRONTIER}, tmp_path / "f.png", predicted={"lazy": (-0.3, 0.4)})
    for axes, values in zip(figure.axes, (FRONTIER.test_loss, FRONTIER.width), strict=True):
        curve, guide = axes.get_lines()
        np.testing.assert_allclose(curve.get_ydata(), values)
        np.testing.assert_allclose(guide.get_ydata(), values, rtol=1e-12)
    assert (tmp_path / "f.png").stat().st_size > 10_000


def test_points_of_a_frontier_that_are_not_known_are_left_out():
    holes = SimpleNamespace(compute=COMPUTE, width=FRONTIER.width, test_loss=np.array([np.nan, 1.0, 0.5, 0.2, np.nan]))
    (curve,) = plot_frontier({"a": holes}).axes[0].get_lines()
    np.testing.assert_array_equal(curve.get_xdata(), COMPUTE[1:4])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: plot_frontier({}), "at least one frontier, got none"),
        (lambda: plot_frontier({"a": FRONTIER}, predicted={"b": (1, 1)}), "no frontier is called 'b'; there are 'a'"),
        (lambda: plot_frontier({"a": FRONTIER}, "x.bmp"), "expected a name that ends in .png"),
        (lambda: plot_phase_plane([1.5, 2.0], [0.5], {}), "at least one panel, got none"),
        (
            lambda: plot_phase_plane([1.5, 2.0], [0.5], {"lazy": np.zeros((1, 2))}),
            r"exponents\['lazy'\]\): expected shape \(2, 1\), capacity by source, got \(1, 2\)",
        ),
    ],
)
def test_wrong_arguments(make, words):
    with pytest.raises(InvalidInput, match=words):
        make()


def test_the_plane_has_source_upwards_and_the_border_of_super_easy_tasks():
    capacity, source = np.linspace(1.2, 3.0, 7), np.linspace(0.2, 2.4, 12)
    figure = plot_phase_plane(capacity, source, {"lazy": np.tile(source, (7, 1)), "rich": np.tile(source, (7, 1))})
    for axes in figure.axes[:2]:
        mesh = axes.collections[0].get_array()
        np.testing.assert_allclose(np.asarray(mesh)[:, 0], source)  # rows of the picture follow the source
        border = axes.get_lines()[1]
        np.testing.assert_allclose(border.get_ydata(), 2 - 1 / capacity)


def test_many_rates_are_drawn_over_the_rate_with_the_best_marked():
    rates = np.logspace(-2, 0, 7)
    losses = (np.log(rates / rates[[3, 4]][:, None]) ** 2 + 0.1)[..., None]
    losses[1, -1] = np.inf
    (axes,) = plot_curves(_rates(losses, rates)).axes
    assert axes.get_xlabel() == "learning rate"
    marks = [line.get_xdata()[0] for line in axes.get_lines() if line.get_marker() == "D"]
    np.testing.assert_allclose(marks, rates[[3, 4]])


def test_a_few_rates_and_many_times_are_drawn_over_time():
    curves = _rates(np.ones((2, 5, 6)), np.linspace(0.1, 0.5, 5), times=np.arange(6.0))
    axes = plot_curves(curves).axes[-1]
    assert axes.get_xlabel() == "time"


def test_curves_over_rates_are_not_flattened_by_the_edge_of_stability():
    rates = np.logspace(-2, 0, 6)
    losses = np.stack([np.array([1.0, 0.6, 0.3, 0.2, 50.0, 900.0])] * 2)[..., None]
    low, high = plot_curves(_rates(losses, rates)).axes[0].get_ylim()
    assert low < 0.2
    assert 1.0 < high < 2.0


def test_local_exponents_stand_below_the_curves_with_their_limits():
    times, richness = np.logspace(0, 4, 9), np.array([0.0, 1.0])
    losses = np.stack([times**-0.5, times**-0.7])
    slopes = np.stack([np.full(9, -0.5), np.full(9, -0.7)])
    curves = LearningCurves(
        {
            "test_loss": (("richness", "time"), losses),
            "local_exponent": (("richness", "time"), slopes),
            "asymptotic_exponent": (("richness",), np.array([-0.5, -2 / 3])),
        },
        {"richness": richness, "time": times},
        {},
    )
    loss, exponent = plot_curves(curves).axes
    assert (loss.get_ylabel(), exponent.get_ylabel()) == ("test loss", "local exponent")
    lines = [line for line in exponent.get_lines() if len(line.get_xdata()) == 9]
    np.testing.assert_allclose([line.get_ydata()[-1] for line in lines], [-0.5, -0.5, -0.7, -2 / 3])
    assert exponent.get_ylim()[1] > 0 > exponent.get_ylim()[0]
