"""Claims about nonlinear networks: on curves that are made, which they must tell apart, and on small networks."""

import dataclasses
import math

import numpy as np
import pytest

from foretrain.claims import _feature_learning_circle as circle
from foretrain.claims import _feature_learning_images as images
from foretrain.training import InitialKernel

RICH = circle.Rich(0.5, 0.1, 10.0, 1000.0)
TIMES = np.geomspace(1, 1000, 31)


def curves(exponent, kernel, rich, spread=0.01, model=None):
    """Three seeds with exact power laws whose exponents scatter by `spread`; the model has what is promised, unless given."""
    scatter = spread * np.array([-1.0, 0.0, 1.0])[:, None]
    made = (
        TIMES ** -(e + s) for e, s in ((kernel, 0 * scatter), (model or kernel + 1 / 6, 0 * scatter), (rich, scatter))
    )
    return circle.CircleCurves(exponent, RICH, TIMES, *made)


def test_slopes_and_promises():
    made = curves(circle.HARD, 0.5, 0.6)
    np.testing.assert_allclose(made.slopes("losses"), [0.59, 0.6, 0.61], rtol=1e-12)
    np.testing.assert_allclose(made.slopes("kernel"), 0.5, rtol=1e-12)
    assert (made.source, made.promised) == (0.5, pytest.approx(2 / 3))
    assert (curves(circle.EASY, 1, 1).source, curves(circle.EASY, 1, 1).promised) == (1.5, 1.5)


def test_slopes_leave_the_start_out():
    bent = curves(circle.HARD, 0.5, 0.6)
    early = np.where(TIMES < 10, 7.0, 1.0)
    bent = dataclasses.replace(bent, losses=bent.losses * early)
    np.testing.assert_allclose(bent.slopes("losses"), [0.59, 0.6, 0.61], rtol=1e-12)


@pytest.mark.parametrize(
    ("rich", "spread", "verdict"),
    [
        (0.667, 0.01, "reproduced"),
        (0.62, 0.01, "reproduced"),
        (0.55, 0.01, "not reproduced"),  # faster, but nearer to the kernel
        (0.5, 0.01, "not reproduced"),
        (0.3, 0.01, "not reproduced"),
        (0.667, 0.2, "not reproduced"),  # undecided
    ],
)
def test_a_hard_target(rich, spread, verdict):
    claim = circle._hard(curves(circle.HARD, 0.5, rich, spread))
    assert claim.verdict == verdict
    assert claim.measured == pytest.approx(rich)
    assert claim.theory == pytest.approx(2 / 3)
    assert claim.source_value == pytest.approx(2 / 3)
    assert claim.error == pytest.approx(spread / math.sqrt(3))


@pytest.mark.parametrize(
    ("rich", "spread", "verdict"),
    [
        (1.5, 0.01, "reproduced"),
        (1.53, 0.01, "reproduced"),
        (1.6, 0.01, "not reproduced"),
        (1.4, 0.01, "not reproduced"),
        (1.5, 0.2, "not reproduced"),  # too coarse to see a change
    ],
)
def test_an_easy_target(rich, spread, verdict):
    assert circle._easy(curves(circle.EASY, 1.5, rich, spread)).verdict == verdict


def test_kernel_losses_by_repeated_products():
    problem = circle.circle_problem(1.0, 40, 30, 0.1, 0.5, 0)
    data = problem.task.load()
    step = np.eye(40) - 0.5 * InitialKernel(problem, seed=2)(data.inputs) / 40
    residual, expected = data.targets[:, 0], []
    for _ in range(7):
        residual = step @ residual
        expected.append(np.mean(residual**2))
    spectrum = circle.initial_spectrum(problem, 2)
    np.testing.assert_allclose(circle.kernel_losses(*spectrum, 0.5, np.arange(1.0, 8.0)), expected, rtol=1e-9)


def test_the_model_without_richness_is_the_kernel():
    spectrum = circle.initial_spectrum(circle.circle_problem(1.0, 40, 30, 0.1, 0.5, 0), 2)
    times = np.array([0.3, 3.0, 30.0])
    lazy = circle.model_losses(*spectrum, 1e-6, times)
    # Descent at a small rate is flow: (1 - 1e-4 x)^(t / 1e-4).
    np.testing.assert_allclose(lazy, circle.kernel_losses(*spectrum, 1e-4, times / 1e-4), rtol=1e-3)
    assert np.all(circle.model_losses(*spectrum, 1.0, times) < lazy)


def test_a_lazy_kernel_stays_and_a_rich_one_moves():
    still = circle.moved_kernel(1.0, 64, 128, richness=1e-5, time=20.0)
    np.testing.assert_allclose(still.gains, 1.0, atol=1e-3)
    assert still.speed == pytest.approx(1.0, abs=1e-3)
    assert still.filled == pytest.approx(still.filled_before, abs=1e-3)
    moved = circle.moved_kernel(1.0, 64, 128, richness=1.0, time=20.0)
    assert np.all(moved.gains > 1.5)
    assert moved.filled < 0.6 * moved.filled_before


class _Layer:
    def __init__(self, weight, bias=None):
        self.weight, self.bias = weight, bias


class _Params:
    def __init__(self, angles, bias):
        self.first = _Layer(np.stack([np.cos(angles), np.sin(angles)], axis=1), bias)
        self.last = _Layer(np.ones((1, len(angles))))


def test_places_of_kinks():
    """A unit with angle a and no bias bends at a +- pi / 2; evenly spread units fill the circle, equal ones two bins."""
    spread = (np.arange(1280) + 0.5) * 2 * math.pi / 1280
    assert circle._filled(_Params(spread, np.zeros(1280))) == pytest.approx(1.0)
    assert circle._filled(_Params(np.full(50, 0.3), np.zeros(50))) == pytest.approx(2 / 128)
    # With bias -1 the two kinks meet at the angle itself; beyond, there are none.
    assert circle._filled(_Params(np.full(50, 0.3), np.full(50, -0.99999))) == pytest.approx(1 / 128)
    outside = np.where(np.arange(50) < 25, 0.0, 2.0)
    assert circle._filled(_Params(np.arange(50.0), outside)) == pytest.approx(
        circle._filled(_Params(np.arange(25.0), np.zeros(25)))
    )


def test_without_images_nothing_is_claimed(monkeypatch, tmp_path):
    monkeypatch.setenv("FORETRAIN_FASHION_MNIST", str(tmp_path))
    claims = images.image_claims(fast=True)
    assert [claim.verdict for claim in claims] == ["not run", "not run"]
    assert "train-images-idx3-ubyte.gz" in claims[0].why


@pytest.mark.long
def test_what_networks_do():
    """Small networks on the circle: lazy ones follow their kernel, rich ones fall behind it on a hard target."""
    small = dataclasses.replace(circle.FAST, points=256, width=256, seeds=2)
    assert circle._follows(small).verdict == "reproduced"
    claim = circle._hard(circle.circle_curves(circle.HARD, small, small.hard[0]))
    assert claim.verdict == "not reproduced"
    assert claim.measured < claim.theory
