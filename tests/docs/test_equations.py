"""The hook that renders mathematics: formulas become MathML, citations links, mistakes warnings."""

import importlib.util
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("latex2mathml", reason="needs the extra: pip install 'foretrain[docs]'")
HOOK = Path(__file__).resolve().parents[2] / "docs" / "_hooks" / "equations.py"


@pytest.fixture(scope="module")
def hook() -> Any:
    spec = importlib.util.spec_from_file_location("equations", HOOK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _render(hook: Any, content: str) -> str:
    here = SimpleNamespace(
        src_uri="theory/random-features.md", url_relative_to=lambda other: "../theory/random-features.html"
    )
    page = SimpleNamespace(file=SimpleNamespace(src_uri="faq.md"))
    files = SimpleNamespace(get_file_from_path=lambda path: here)
    return hook.on_page_content(content, page, {"equation_labels": {"RF.3": here.src_uri}}, files)


def test_formula_becomes_mathml_with_its_number(hook: Any) -> None:
    html = _render(hook, '<div class="arithmatex">\\[\\mathcal L=x \\tag{RF.3}\\]</div>')
    assert '<div class="equation" id="eq-RF.3">' in html
    assert "<mi>ℒ</mi>" in html
    assert "tag" not in html


def test_citation_becomes_a_link_but_not_in_code(hook: Any) -> None:
    html = _render(hook, "<p>See (RF.3) and <code>(RF.3)</code>.</p>")
    assert html.count("random-features.html#eq-RF.3") == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("<p>(RF." + "99)</p>", "does not exist"),
        ('<span class="arithmatex">\\(\\nosuchcommand x\\)</span>', "nosuchcommand"),
    ],
)
def test_mistake_is_a_warning_which_fails_a_strict_build(
    hook: Any, content: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="mkdocs"):
        _render(hook, content)
    assert words in caplog.text
