"""The registry of papers, how a claim is judged, and the claims of the implemented papers."""

import json
import math

import pytest

from foretrain.claims import PAPERS, VERDICTS, find_paper, run_claims
from foretrain.claims._claim import judge
from foretrain.errors import InvalidInput


@pytest.mark.parametrize(
    "name", ["08", "8", "2402.01092", "arXiv:2402.01092", "dynamical-scaling", " Dynamical-Scaling "]
)
def test_a_paper_has_three_names(name):
    assert find_paper(name).number == "08"


def test_papers_are_numbered_in_order_and_distinct():
    assert [paper.number for paper in PAPERS] == [f"{i:02d}" for i in range(1, 11)]
    assert len({paper.arxiv for paper in PAPERS}) == len({paper.slug for paper in PAPERS}) == 10


def test_an_unknown_paper_is_refused_with_the_nearest_name():
    with pytest.raises(InvalidInput, match="did you mean 'grokking'"):
        find_paper("groking")


def test_a_paper_without_theory_is_not_run():
    (claim,) = run_claims(["01"])
    assert claim.verdict == "not run"
    assert "not implemented" in claim.why


@pytest.mark.parametrize(
    ("theory", "measured", "error", "verdict"),
    [
        (1.05, math.nan, math.nan, "reproduced"),
        (1.2, math.nan, math.nan, "not reproduced"),
        (1.05, 1.0, 0.02, "reproduced"),
        (1.05, 1.0, 0.01, "not reproduced"),
    ],
)
def test_judge_can_say_both(theory, measured, error, verdict):
    claim = judge("08", "a number is 1", 1.0, theory, 0.1, why="a test", measured=measured, error=error)
    assert claim.verdict == verdict


def test_claims_are_strict_json():
    claim = judge("08", "a number is 1", 1.0, 1.0, 0.1, why="a test")
    assert json.loads(json.dumps(claim.to_json(), allow_nan=False))["measured"] == "nan"


@pytest.mark.long
def test_dynamical_scaling(claims_of):
    claims = claims_of("08")
    assert {claim.verdict for claim in claims} <= set(VERDICTS)
    by_verdict = {verdict: [c.claim for c in claims if c.verdict == verdict] for verdict in VERDICTS}
    assert by_verdict["not reproduced"] == []
    # The honest disagreement: the floor of easy tasks, and what it does to the best plan.
    assert len(by_verdict["corrected"]) == 2
    assert all("easy task" in claim for claim in by_verdict["corrected"])
    assert len(by_verdict["not run"]) == 1


@pytest.mark.long
def test_two_point_equivalents(claims_of):
    claims = claims_of("02")
    assert {claim.verdict for claim in claims} == {"reproduced"}
    assert len(claims) == 27
