"""Every ```python block of the documentation runs, page by page, in one namespace for each page.

A page whose blocks need more than a few seconds carries the line `<!-- blocks: long -->`.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from _blocks import PAGES, ROOT, blocks, name

_LONG = "<!-- blocks: long -->"


def _parameters() -> list:
    pages = [page for page in PAGES if page.exists() and blocks(page, "python")]
    return [
        pytest.param(page, id=name(page), marks=[pytest.mark.long] if _LONG in page.read_text() else [])
        for page in pages
    ]


@pytest.mark.parametrize("page", _parameters())
def test_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Blocks name files as a reader at the root of the repository would, and write only to a scratch folder.
    for folder in ("studies", "docs"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("FORETRAIN_STORE", str(tmp_path / "store"))
    namespace: dict = {"__name__": "__docs__"}
    for block in blocks(page, "python"):
        # Padding makes the line numbers of a traceback those of the page.
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
        exec(code, namespace)
