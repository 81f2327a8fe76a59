"""The claims of "How feature learning can improve neural scaling laws" (arXiv 2409.17858) about nonlinear networks."""

from foretrain.claims._claim import Claim
from foretrain.claims._feature_learning_circle import FAST, FULL, circle_claims
from foretrain.claims._feature_learning_images import image_claims


def network_claims(fast: bool = True) -> list[Claim]:
    """What nonlinear networks do, beside what the paper says.

    Args:
        fast: Three minutes of one core; otherwise half an hour of it, the numbers of `docs/how-to/rich-or-lazy.md`.
    """
    return [*circle_claims(FAST if fast else FULL), *image_claims(fast)]
