"""Every ```python block of the documentation runs, page by page, in one namespace for each page.

A page whose blocks need more than a few seconds carries the line `<!-- blocks: long -->`. Blocks fenced as ```py are for
PyTorch, which is an extra: they run, in a namespace of their own, where it is installed.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from _blocks import PAGES, ROOT, blocks, name

_LONG = "<!-- blocks: long -->"


def _parameters(language: str) -> list:
    pages = [page for page in PAGES if page.exists() and blocks(page, language)]
    return [
        pytest.param(page, id=name(page), marks=[pytest.mark.long] if _LONG in page.read_text() else [])
        for page in pages
    ]


@pytest.mark.parametrize("page", _parameters("python"))
def test_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(page, "python", tmp_path, monkeypatch)


@pytest.mark.parametrize("page", _parameters("py"))
def test_page_runs_in_pytorch(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="needs the extra: pip install 'foretrain[torch]'")
    _run(page, "py", tmp_path, monkeypatch)


def _run(page: Path, language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Blocks name files as a reader at the root of the repository would, and write only to a scratch folder.
    for folder in ("studies", "docs"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("FORETRAIN_STORE", str(tmp_path / "store"))
    namespace: dict = {"__name__": "__docs__"}
    for block in blocks(page, language):
        # Padding makes the line numbers of a traceback those of the page.
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
        exec(code, namespace)
