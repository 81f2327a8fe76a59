"""Where the tables of real training runs are."""

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def scaling_data() -> Path:
    """The folder of the tables of real runs: `$FORETRAIN_DATA/scaling`, or `shared/data/scaling` beside the repository."""
    given = os.environ.get("FORETRAIN_DATA")
    places = [Path(given) / "scaling", Path(given)] if given else [_ROOT.parent / "shared" / "data" / "scaling"]
    for place in places:
        if (place / "chinchilla_epoch_245.csv").is_file():
            return place
    pytest.skip(f"the tables of real runs are not in {places[0]}; set FORETRAIN_DATA to the folder that holds scaling/")
