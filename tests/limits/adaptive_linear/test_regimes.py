"""Predicted exponents, and compute-optimal plans that come to them."""

import numpy as np
import pytest

from foretrain.errors import InvalidInput
from foretrain.limits.adaptive_linear import compute_optimal_frontier, regime
from foretrain.tasks import PowerLaw

A = 1.5


@pytest.mark.parametrize(
    ("source", "richness", "sgd", "label", "loss", "width"),
    [
        (0.5, 0, False, "hard", A * 0.5 / (A + 1), 1 / (1 + A)),
        (0.5, 1, False, "hard", 2 * A * 0.5 / (A * 1.5 + 2), 2 / (2 + A * 1.5)),
        (1.15, 0, False, "easy", A * 1.15 / (A * 1.15 + 1), (A * 0.15 + 1) / (A * 1.15 + 1)),
        (1.15, 1, True, "easy", A * 1.15 / (A * 1.15 + 1), (A * 0.15 + 1) / (A * 1.15 + 1)),
        (2.0, 1, False, "super-easy", 0.75, 0.625),
        (2.0, 1, True, "super-easy", 1 - 1 / (2 * A), 0.5),
    ],
)
def test_table_of_compute_exponents(source, richness, sgd, label, loss, width):
    found = regime(A, source, richness, sgd=sgd)
    assert found.label == label
    assert (-found.compute_loss, found.compute_width) == pytest.approx((loss, width))


def test_exponents_of_time_and_sizes():
    rich, lazy = regime(A, 0.5), regime(A, 0.5, 0.0)
    assert (rich.flow, lazy.flow) == pytest.approx((-2 / 3, -0.5))
    assert rich.norm == pytest.approx(0.5 / 1.5)
    assert lazy.norm == pytest.approx(0.5)
    assert regime(A, 1.5).width == pytest.approx(-A)
    assert regime(A, 3.0).samples == pytest.approx(-2 * A)
    # At beta = 1 nothing jumps.
    below, above = regime(A, 1 - 1e-9), regime(A, 1 + 1e-9)
    assert (below.flow, below.compute_loss) == pytest.approx((above.flow, above.compute_loss))


@pytest.mark.parametrize("arguments", [(1.0, 0.5), (1.5, 0.0), (1.5, float("nan")), (1.5, 0.5, -1.0)])
def test_what_is_no_task(arguments):
    with pytest.raises(InvalidInput, match="regime"):
        regime(*arguments)


@pytest.mark.parametrize(("richness", "tolerance"), [(0.0, 0.005), (1.0, 0.005)])
def test_frontier_of_a_hard_task(richness, tolerance):
    frontier = compute_optimal_frontier(PowerLaw(A, 0.5).spectrum(), [1e6, 1e7], richness, widths=(16, 2**16))
    stated = regime(A, 0.5, richness)
    assert np.all(frontier.interior)
    np.testing.assert_allclose(frontier.width * frontier.time, [1e6, 1e7])
    assert frontier.loss_exponent[1] == pytest.approx(stated.compute_loss, abs=tolerance)
    assert frontier.width_exponent[1] == pytest.approx(stated.compute_width, abs=tolerance)
    slope = np.log(frontier.test_loss[1] / frontier.test_loss[0]) / np.log(10)
    assert frontier.loss_exponent[0] > slope > frontier.loss_exponent[1]


def test_frontier_at_the_edge_says_so():
    frontier = compute_optimal_frontier(PowerLaw(A, 0.5).spectrum(), [1e6], widths=(1e4, 1e5))
    assert not frontier.interior[0]
    assert frontier.width[0] == pytest.approx(1e4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"compute": [0.0]}, "compute"),
        ({"compute": [1e4], "richness": -1.0}, "richness"),
        ({"compute": [1e4], "widths": (8, 4)}, "widths"),
        ({"compute": [1e4], "batch_size": 0}, "batch_size"),
    ],
)
def test_frontier_refuses(arguments, words):
    with pytest.raises(InvalidInput, match=rf"compute_optimal_frontier\(.*{words}"):
        compute_optimal_frontier(PowerLaw(A, 0.5).spectrum(), **arguments)
