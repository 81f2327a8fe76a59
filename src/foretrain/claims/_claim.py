"""`Claim`: one statement of a source paper, and what this library finds."""

import dataclasses
import math
from typing import Any

from foretrain.curves import json_ready

VERDICTS = ("reproduced", "corrected", "not reproduced", "not run")


@dataclasses.dataclass(frozen=True)
class Claim:
    """One statement of a source paper beside the library's theory and, where one was made, a measurement.

    Args:
        paper: Number of the paper in this library, for example `"08"`.
        claim: The statement in words.
        source_value: What the paper states.
        theory: What the library's theory gives.
        measured: What simulated finite models give; NaN when the claim is about theory alone.
        error: Uncertainty of `measured` when there is one (standard error), else of `theory`.
        verdict: `"reproduced"`, `"corrected"` (the paper's value is wrong and ours is shown to be right),
            `"not reproduced"` or `"not run"`.
        why: How the verdict was reached, with the number that decided it.
    """

    paper: str
    claim: str
    source_value: float | str
    theory: float
    measured: float
    error: float
    verdict: str
    why: str

    def to_json(self) -> dict[str, Any]:
        """Plain values for strict JSON."""
        return json_ready(dataclasses.asdict(self))


def judge(
    paper: str,
    claim: str,
    source_value: float,
    theory: float,
    tolerance: float,
    *,
    why: str,
    measured: float = math.nan,
    error: float = math.nan,
) -> Claim:
    """The claim that a number is `source_value`, judged by theory and, where there is one, by a measurement.

    Reproduced when theory is within `tolerance` of the stated value and the measurement, if any, within four standard
    errors of theory.

    Args:
        paper: Number of the paper.
        claim: The statement in words.
        source_value: The paper's number.
        theory: The library's number.
        tolerance: How far the two may be apart, a property of the setting (for exponents: the known correction at finite
            size) that is stated in `why`.
        why: Where the tolerance comes from.
        measured: Mean over simulations.
        error: Its standard error.
    """
    agrees = abs(theory - source_value) <= tolerance
    simulated = math.isnan(measured) or abs(measured - theory) <= 4 * error
    words = f"theory {theory:.4g} against {source_value:.4g}, allowed {tolerance:.2g}: {why}"
    if not math.isnan(measured):
        words += f"; simulated {measured:.4g} ± {error:.2g}, {(measured - theory) / error:+.1f} s.e. from theory"
    verdict = "reproduced" if agrees and simulated else "not reproduced"
    return Claim(paper, claim, source_value, theory, measured, error, verdict, words)
