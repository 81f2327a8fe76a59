"""The claims of deep linear networks."""

import pytest


@pytest.mark.long
def test_deep_linear(claims_of):
    claims = claims_of("03")
    verdicts = {claim.claim: claim.verdict for claim in claims}
    corrected = [claim for claim, verdict in verdicts.items() if verdict == "corrected"]
    assert len(corrected) == 1
    assert "all depths" in corrected[0]
    assert [claim for claim, verdict in verdicts.items() if verdict not in ("reproduced", "corrected")] == []
    assert sum("finite networks" in claim for claim in verdicts) == 7
