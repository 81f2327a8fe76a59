"""The source papers, how users may name them, and where their claims live."""

import dataclasses
import importlib
from collections.abc import Callable, Sequence

from foretrain.claims._claim import Claim
from foretrain.errors import InvalidInput, nearest

Progress = Callable[[int, int, str], None]


@dataclasses.dataclass(frozen=True)
class Paper:
    """A source paper.

    Args:
        number: Its number in this library.
        arxiv: arXiv identifier.
        slug: Short name.
        title: What it is about.
        module: Where `claims(fast) -> list[Claim]` lives; empty while the paper's theory is not implemented.
    """

    number: str
    arxiv: str
    slug: str
    title: str
    module: str = ""


PAPERS: tuple[Paper, ...] = (
    Paper("01", "2502.07998", "adaptive-kernels", "Adaptive kernel predictors from feature-learning limits"),
    Paper(
        "02",
        "2502.05074",
        "two-point-equivalents",
        "Two-point deterministic equivalents and SGD",
        "foretrain.claims._two_point_equivalents",
    ),
    Paper(
        "03",
        "2502.02531",
        "deep-linear",
        "Deep linear networks from random initialization",
        "foretrain.claims._deep_linear",
    ),
    Paper(
        "04",
        "2411.04330",
        "precision-scaling",
        "Scaling laws for precision",
        "foretrain.claims._precision_scaling",
    ),
    Paper("05", "2411.03541", "hidden-progress", "Hidden progress during overtraining"),
    Paper(
        "06",
        "2409.17858",
        "feature-learning-scaling",
        "How feature learning can improve neural scaling laws",
        "foretrain.claims._feature_learning",
    ),
    Paper("07", "2405.15712", "transformer-limits", "Infinite limits of multi-head attention dynamics"),
    Paper(
        "08",
        "2402.01092",
        "dynamical-scaling",
        "A dynamical model of neural scaling laws",
        "foretrain.claims._dynamical_scaling",
    ),
    Paper("09", "2310.06110", "grokking", "Grokking as the transition from lazy to rich training"),
    Paper(
        "10",
        "2309.16620",
        "depth-transfer",
        "Depthwise hyperparameter transfer in residual networks",
        "foretrain.claims._depth_transfer",
    ),
)


def find_paper(name: str) -> Paper:
    """The paper of that number, arXiv identifier or slug.

    Raises:
        InvalidInput: No such paper.
    """
    wanted = name.strip().lower().removeprefix("arxiv:")
    for paper in PAPERS:
        if wanted in (paper.number, paper.number.lstrip("0"), paper.arxiv, paper.slug):
            return paper
    slugs = [paper.slug for paper in PAPERS]
    raise InvalidInput(
        f"claims: no paper {name!r}{nearest(wanted, slugs)}; name one by number 01..10, arXiv id or slug ({', '.join(slugs)})."
    )


def run_claims(papers: Sequence[str] = (), *, fast: bool = True, progress: Progress | None = None) -> list[Claim]:
    """Every claim of the named papers (of all papers when none is named), run and judged.

    Args:
        papers: Numbers, arXiv identifiers or slugs.
        fast: Small simulations that fit in minutes; `False` runs more seeds and larger sizes.
        progress: Called as work advances.

    Returns:
        The claims in the order of the papers. A paper whose theory is not implemented yet gives one row `not run`.

    Raises:
        InvalidInput: No such paper.
    """
    chosen = [find_paper(name) for name in papers] or list(PAPERS)
    found: list[Claim] = []
    for done, paper in enumerate(chosen):
        if progress:
            progress(done, len(chosen), paper.title)
        if paper.module:
            found += importlib.import_module(paper.module).claims(fast=fast)
        else:
            nan = float("nan")
            found.append(
                Claim(paper.number, paper.title, "", nan, nan, nan, "not run", "this theory is not implemented yet")
            )
    if progress:
        progress(len(chosen), len(chosen), "done")
    return found
