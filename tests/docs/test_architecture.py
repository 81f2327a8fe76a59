"""The rooms import each other as the table on the architecture page says."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "foretrain"


def _allowed() -> dict[str, set[str]]:
    """Room to the rooms that it may import, from the page."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.split("| room (")[1].split("\n\n")[0]
    rules: dict[str, set[str]] = {}
    for room, words in re.findall(r"^\| `(\w+)(?:/|\.py)` \|[^|]*\| ([^|]*) \|$", table, re.MULTILINE):
        named = set(re.findall(r"`(\w+)`", words))
        rules[room] = set(rules) if "above" in words or words == "all" else named
    return rules


def _imported(path: Path) -> set[str]:
    """The rooms that a module imports, also inside functions; private modules and errors belong to everybody."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "foretrain" and len(parts) > 1 and not parts[1].startswith("_"):
                found.add(parts[1])
    return found - {"errors"}


def test_imports_go_downward_only() -> None:
    allowed = _allowed()
    rooms = {p.stem for p in SOURCE.iterdir() if not p.name.startswith("_") and p.suffix in ("", ".py")} - {
        "py",
        "errors",
    }
    assert rooms == set(allowed), "the table of docs/architecture.md and the folders of src/foretrain differ"
    wrong = {}
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if room in allowed and (extra := _imported(path) - allowed[room] - {room}):
            wrong[str(path.relative_to(ROOT))] = sorted(extra)
    assert not wrong, f"imports against the table of docs/architecture.md: {wrong}"
