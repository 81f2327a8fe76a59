"""The tables of expected exponents, and the calculus of faults as a second road to them."""

import math

import pytest

from foretrain.diagnostics import Quantity, expected_exponent, likely_cause
from foretrain.diagnostics._causes import (
    _as_declared,
    exponents_in_depth,
    exponents_in_width,
    faults,
    tensors_of,
)
from foretrain.parameterization import OPTIMIZERS, Recipe

# (PA.5): first layer, later layers, outputs.
WIDTH = {
    ("sp", "sgd"): (-0.5, 0.5, 1.0),
    ("sp", "adam"): (0.0, 1.0, 1.5),
    ("ntk", "sgd"): (-0.5, -0.5, 0.0),
    ("ntk", "adam"): (-0.5, -0.5, 0.0),
    **{(s, o): (0.0, 0.0, 0.0) for s in ("mean-field", "mup", "mup-depth", "completep") for o in ("sgd", "adam")},
}


@pytest.mark.parametrize(("scheme", "optimizer"), list(WIDTH))
def test_width_by_two_roads(scheme, optimizer):
    """The exponents of the tensors, summed through one step, are the table's."""
    recipe = Recipe(scheme, optimizer)
    summed = exponents_in_width(tensors_of(recipe), recipe)
    first, later, output = WIDTH[scheme, optimizer]
    for quantity, value in {
        Quantity("stream", "change", True): first,
        Quantity("stream", "change"): later,
        Quantity("inside", "own change"): later,
        Quantity("branch", "change"): later,
        Quantity("output", "change"): output,
        Quantity("stream", "start"): 0.0,
    }.items():
        assert summed[quantity] == (value, value)
        low, high = expected_exponent(quantity, recipe, "width")
        assert low <= value <= high
        assert high - low <= 0.1 + 1e-12
    # f(0): random readout of the width.
    assert summed[Quantity("output", "start")][0] == (0.0 if scheme in ("sp", "ntk") else -0.5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("scheme", "alpha"), [("mup-depth", 0.5), ("completep", 1.0)])
def test_depth_by_two_roads(scheme, alpha, optimizer):
    recipe = Recipe(scheme, optimizer)
    summed = _as_declared(recipe, "depth")
    for quantity, value in {
        Quantity("stream", "start"): 0.0,
        Quantity("stream", "change"): 0.0,
        Quantity("output", "change"): 0.0,
        Quantity("branch", "start"): -alpha,
        Quantity("branch", "change"): -alpha,
        Quantity("branch", "own change"): -1.0,
        Quantity("inside", "own change"): alpha - 1,
        Quantity("logits", "own change"): alpha - 1,
    }.items():
        assert summed[quantity] == (value, value)
        assert expected_exponent(quantity, recipe, "depth") == (value, value)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_belongs_to_a_family(optimizer):
    recipe = Recipe("sp", optimizer)
    _, high = expected_exponent(Quantity("output", "change"), recipe, "width")
    assert high == (1.0 if optimizer in ("sgd", "momentum", "nesterov") else 1.5)


@pytest.mark.parametrize("scheme", ["sp", "mup"])
@pytest.mark.parametrize("axis", ["width", "depth", "head_dim"])
def test_the_output_at_the_start_is_never_judged(scheme, axis):
    assert expected_exponent(Quantity("output", "start"), Recipe(scheme), axis) is None


def test_schemes_without_a_rule_for_depth_promise_growth():
    assert expected_exponent(Quantity("stream", "change"), Recipe("mup"), "depth") == (0.3, math.inf)
    assert expected_exponent(Quantity("output", "change"), Recipe("mup"), "depth") is None


def test_logits_in_the_head_size():
    start, change = Quantity("logits", "start"), Quantity("logits", "change")
    assert expected_exponent(start, Recipe("mup"), "head_dim") == (-0.5, -0.5)
    assert expected_exponent(start, Recipe("mup", attention_exponent=0.5), "head_dim") == (0.0, 0.0)
    assert expected_exponent(start, Recipe("sp"), "head_dim") == (0.0, 0.0)
    assert expected_exponent(change, Recipe("sp"), "head_dim") is None
    assert expected_exponent(change, Recipe("mup"), "head_dim", 3) == (-math.inf, 0.0)
    assert expected_exponent(change, Recipe("mup"), "head_dim", 30) == (-0.5, 0.0)


def test_later_steps_of_standard_parameterization_may_be_larger():
    assert expected_exponent(Quantity("stream", "change"), Recipe("sp", "adam"), "width", 3) == (0.9, math.inf)


def middle(exponents):
    """Slopes that a fault could show: the ends of its ranges, somewhat above where these are open."""
    return {q: low + (0.3 if math.isinf(high) else 0.0) for q, (low, high) in exponents.items()}


@pytest.mark.parametrize("axis", ["width", "depth", "head_dim"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("scheme", ["mup", "mup-depth", "completep"])
def test_every_fault_is_recognized_by_its_own_exponents(scheme, optimizer, axis):
    recipe = Recipe(scheme, optimizer)
    library = list(faults(recipe, axis))
    assert library
    for fault in library:
        found = likely_cause(middle(fault.exponents), recipe, axis)
        assert found is not None, fault.words
        assert fault.words in found


@pytest.mark.parametrize("axis", ["width", "depth"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_no_cause_without_a_fault(optimizer, axis):
    recipe = Recipe("completep", optimizer)
    right = {q: low for q, (low, _) in _as_declared(recipe, axis).items()}
    assert likely_cause(right, recipe, axis) is None
    one_off = {**right, Quantity("output", "change"): 0.3}
    assert likely_cause(one_off, recipe, axis) is None


def test_no_cause_for_exponents_that_no_fault_has():
    strange = {Quantity("stream", "change"): -3.0, Quantity("output", "change"): 4.0, Quantity("stream", "start"): 0.0}
    assert likely_cause(strange, Recipe("mup", "sgd"), "width") is None


def test_missing_rates_hide_from_the_stream():
    """Without the depth factor of completep's rates the embedding's training keeps stream and outputs flat."""
    found = exponents_in_depth(-1.0, 0.0, Recipe("completep", "sgd"))
    assert found[Quantity("stream", "change")] == (0.0, 0.0)
    assert found[Quantity("branch", "own change")] == (-2.0, -2.0)
