"""The claims of a paper, run once: CI runs them all in a step of its own, and names the file that holds them."""

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from foretrain.claims import Claim, run_claims


@pytest.fixture(scope="session")
def claims_of() -> Callable[[str], list[Claim]]:
    """Claims by the number of their paper: from the file of `foretrain claims --json` that FORETRAIN_CLAIMS names, else run now."""
    path = os.environ.get("FORETRAIN_CLAIMS")
    rows = json.loads(Path(path).read_text(encoding="utf-8")) if path else None

    @functools.cache
    def find(paper: str) -> list[Claim]:
        if rows is None:
            return run_claims([paper])
        numbers = ("theory", "measured", "error")
        return [Claim(**(row | {n: float(row[n]) for n in numbers})) for row in rows if row["paper"] == paper]

    return find
