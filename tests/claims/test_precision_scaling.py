"""The claims of arXiv 2411.04330 that follow from its constants; those of networks have tests of their own."""

import dataclasses
import math

import pytest

from foretrain.claims import VERDICTS, find_paper
from foretrain.claims import _precision_networks as networks
from foretrain.claims import _precision_scaling as precision


@pytest.fixture(scope="module")
def rows():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "measured", lambda *, fast: [])
        return precision.claims(fast=True)


def row(rows, start):
    (found,) = [r for r in rows if r.claim.startswith(start)]
    return found


def test_registered():
    assert find_paper("2411.04330").module == precision.__name__


def test_verdicts(rows):
    verdicts = [r.verdict for r in rows]
    assert {r.paper for r in rows} == {"04"}
    assert set(verdicts) <= set(VERDICTS)
    assert "not reproduced" not in verdicts
    assert verdicts.count("corrected") == 5
    assert len({r.claim for r in rows}) == len(rows)


def test_what_is_not_run_says_why(rows):
    left = [r for r in rows if r.verdict == "not run"]
    assert len(left) == 4
    assert all("not public" in r.why and math.isnan(r.theory) for r in left)


@pytest.mark.parametrize(
    ("start", "theory", "digits"),
    [
        ("networks that are rounded after training have a critical", 5.325e9, 4),
        ("the best precision of training is 7 to 8 bits", 7.002, 4),
        ("the factors are 1 - exp(-P / gamma), as the text", 3.47, 3),
        ("eqs. 7 and 28", 1.90381, 6),
        ("training in 16 bits is more", 1.703, 4),
        ("training in less than 4 bits", 5.236, 4),
        ("for a fixed size", 1.349, 4),
        ("where serving costs", 6.859, 4),
    ],
)
def test_numbers(rows, start, theory, digits):
    assert f"{row(rows, start).theory:.{digits}g}" == f"{theory:.{digits}g}"


def test_errata_say_what_is_printed_and_what_is_right(rows):
    critical = row(rows, "critical number of tokens as eq. 12")
    assert critical.source_value / critical.theory == pytest.approx(0.4965 ** (-1 / (0.5068 + 0.4965)), rel=1e-12)
    data = row(rows, "compute-optimal data in P bits")
    assert data.source_value - data.theory == pytest.approx(
        0.5, rel=1e-12
    )  # the missing 1/P, to the power alpha / (alpha + beta)
    assert "both grow" in row(rows, "in fewer bits").why


def test_quadratic_loss_by_measurement(rows):
    found = row(rows, "what rounding after training costs")
    assert abs(found.measured - found.theory) <= 4 * found.error
    assert 0 < found.error < 0.01


def test_another_table_is_not_reproduced():
    """Constants without offsets do not give the paper's conclusions, and the rows say so."""
    c = precision._table()
    free = dataclasses.replace(c, factors={p: (g, 0.0) for p, (g, _) in c.factors.items()})
    first, _, text, _ = precision._best_bits(free)
    assert first.verdict == "not reproduced"
    assert text.verdict == "not reproduced"
    assert precision._shares(free)[1].verdict == "not reproduced"


@pytest.mark.long
def test_with_networks(claims_of):
    found = claims_of("04")
    assert {r.verdict for r in found} <= set(VERDICTS)
    assert sum(not math.isnan(r.measured) for r in found) >= 6
