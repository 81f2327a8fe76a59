"""Claims about networks in few bits: on curves made from the laws, which must be found, on curves that contradict them, and measured."""

import math
from pathlib import Path

import numpy as np
import pytest

from foretrain import read_study
from foretrain.claims import _precision_networks as module
from foretrain.claims import _precision_scaling as scaling
from foretrain.curves import LearningCurves

ROOT = Path(__file__).resolve().parents[2]
WIDTHS, HORIZONS = (8, 16, 32, 64), (500, 2000, 8000, 16000)
POST, WEIGHTS = (3, 4, 5, 6), (3, 4, 6, math.inf)
PARAMS = np.array([24.0 * w**2 for w in WIDTHS])
TOKENS = np.array([256.0 * h for h in HORIZONS])


def _curves(axis, bits, loss, after=None, error=1e-3):
    """Curves over width, horizon and perhaps an axis of bits; `after` has one more of bits after training."""
    dims, coords = ("width", "horizon"), {"width": np.array(WIDTHS), "horizon": np.array(HORIZONS)}
    variables = {
        "params": (dims, np.repeat(5 * PARAMS[:, None], len(HORIZONS), axis=1)),
        "params_no_embed": (dims, np.repeat(PARAMS[:, None], len(HORIZONS), axis=1)),
    }
    over = dims if after is not None else (*dims, axis)
    variables["test_loss"] = ((*over, "time"), loss[..., None])
    variables["test_loss_stderr"] = ((*over, "time"), np.full_like(loss, error)[..., None])
    variables["tokens"] = (("horizon", "time"), TOKENS[:, None])
    if after is not None:
        variables["test_loss_post"] = ((*dims, axis, "time"), after[..., None])
        variables["test_loss_post_stderr"] = ((*dims, axis, "time"), np.full_like(after, error)[..., None])
    return LearningCurves(variables, {**coords, axis: np.array(bits), "time": np.array([np.inf])}, {})


def _plain(effective):
    return 1.0 + 5.0 / effective**0.3 + 20.0 / TOKENS[:, None] ** 0.3


def _rounded(gamma_D=0.6, amplitude=0.03):
    loss = np.stack([_plain(n)[:, 0] for n in PARAMS])
    delta = amplitude * TOKENS[None, :, None] ** gamma_D / PARAMS[:, None, None] ** 0.2 * np.exp(-np.array(POST) / 0.6)
    return _curves("post_bits", POST, loss, loss[..., None] + delta)


def _coarse():
    factor = -np.expm1(-(np.array(WEIGHTS) - 1.5) / 1.2)
    return _curves("weight_bits", WEIGHTS, np.stack([_plain(n * factor) for n in PARAMS]))


@pytest.fixture(scope="module")
def claims():
    rounded, coarse = _rounded(), _coarse()
    return [
        *module._degradation(rounded),
        module._turns(rounded),
        *module._effective(coarse),
        module._robust(rounded, coarse),
    ]


def test_the_laws_are_found(claims):
    assert [claim.verdict for claim in claims] == ["reproduced"] * 8
    explained, gamma_D, gamma_N, gamma_post, rise, effective, ratio, gain = (claim.measured for claim in claims)
    np.testing.assert_allclose([explained, gamma_D, gamma_N, gamma_post], [1.0, 0.6, 0.2, 0.6], rtol=1e-6)
    assert effective == pytest.approx(1.0, abs=1e-9)
    assert ratio < 1e-6
    assert "gamma_w = 1.20 ± 0.00, P0 = 1.50 ± 0.00" in claims[5].why
    after = _rounded().dataset["test_loss_post"].sel(post_bits=3).isel(time=-1)
    by_hand = (after.isel(horizon=-1) - after.min("horizon")).mean().item()
    assert rise == pytest.approx(by_hand, rel=1e-12)
    # At the same bits and 16000 steps: what rounding costs, less what training so costs.
    delta = 0.03 * TOKENS[-1] ** 0.6 / PARAMS**0.2 * math.exp(-3 / 0.6)
    during = 5.0 / (PARAMS * -math.expm1(-1.5 / 1.2)) ** 0.3 - 5.0 / PARAMS**0.3
    assert gain == pytest.approx(np.mean(delta - during), rel=1e-9)
    assert claims[7].error == pytest.approx(1e-3, rel=1e-9)  # four errors of 1e-3 for each of four sizes


def test_curves_that_fall_throughout_do_not_turn():
    claim = module._turns(_rounded(amplitude=1e-4))
    assert claim.verdict == "not reproduced"
    assert claim.measured == 0.0
    assert "0 of 4 sizes turn" in claim.why


def test_a_rise_within_its_error_is_none():
    curves = _rounded()
    noisy = {
        name: (dims, values * 1e3 if name.endswith("stderr") else values)
        for name, (dims, values) in curves.variables.items()
    }
    assert module._turns(LearningCurves(noisy, curves.coords, {})).verdict == "not reproduced"


def test_longer_training_that_costs_nothing_more_is_seen():
    by_name = {claim.claim: claim for claim in module._degradation(_rounded(gamma_D=0.0))}
    claim = next(claim for name, claim in by_name.items() if "grows with data" in name)
    assert claim.verdict == "not reproduced"


def test_two_sizes_show_no_exponent():
    curves = _rounded()
    few = curves.dataset.isel(width=slice(2))
    variables = {name: (dims, few[name].to_numpy()) for name, (dims, _) in curves.variables.items()}
    short = LearningCurves(variables, {**curves.coords, "width": np.array(WIDTHS[:2])}, {})
    assert [claim.verdict for claim in module._degradation(short)] == [
        "reproduced",
        "reproduced",
        "not run",
        "reproduced",
    ]


def test_the_long_sweeps_are_those_of_the_studies():
    after, during, seeds = module.sweeps(fast=False)
    for problem, name in ((after, "precision-ptq"), (during, "precision-weights")):
        study = read_study(ROOT / "studies" / f"{name}.toml")
        assert study.problem == problem
        assert study.seeds == seeds
    short, _, _ = module.sweeps(fast=True)
    assert math.prod(map(len, short.axes().values())) < math.prod(map(len, after.axes().values()))


@pytest.mark.long
def test_measured_on_text(claims_of):
    # Those of networks stand before the last ones, which need the paper's own runs.
    claims = claims_of("04")[: -len(scaling._not_run())][-8:]
    assert [claim.verdict for claim in claims] == ["reproduced"] * 2 + ["not run"] + ["reproduced"] * 5
