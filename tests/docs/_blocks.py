"""Code blocks of the documentation, in the order in which a reader meets them."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^( *)```(\w+)([^\n]*)\n(.*?)^\1```\s*$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """One fenced block: its page, first line, language, words after the language, and text."""

    page: Path
    line: int
    language: str
    options: str
    text: str


def blocks(page: Path, language: str) -> list[Block]:
    """The fenced blocks of a language on a page."""
    content = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(content):
        indent, kind, options, text = match.groups()
        if kind == language:
            line = content.count("\n", 0, match.start(4)) + 1
            text = "\n".join(row.removeprefix(indent) for row in text.split("\n"))
            found.append(Block(page, line, kind, options.strip(), text))
    return found


def name(page: Path) -> str:
    """How a page is called in test names."""
    return str(page.relative_to(ROOT))
