"""Study files, commands, equations, links and public names in the documentation are real."""

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from _blocks import PAGES, ROOT, blocks, name

_PAGES = [page for page in PAGES if page.exists()]
_ROOMS = (
    "claims",
    "curves",
    "diagnostics",
    "errors",
    "kernels",
    "laws",
    "limits",
    "limits.deep_linear",
    "limits.linear",
    "networks",
    "parameterization",
    "problems",
    "report",
    "studies",
    "tasks",
    "training",
)


def _having(language: str) -> list:
    return [pytest.param(page, id=name(page)) for page in _PAGES if blocks(page, language)]


@pytest.mark.parametrize("page", _having("toml"))
def test_toml_blocks_are_studies(page: Path, tmp_path: Path) -> None:
    from foretrain.studies import parse_study, read_study

    for block in blocks(page, "toml"):
        study = parse_study(block.text, f"{name(page)}:{block.line}", tmp_path)
        if shown := re.match(r'title="(studies/\S+)"', block.options):  # a page that shows a file shows what is in it
            assert study == read_study(ROOT / shown[1]), f"{name(page)}:{block.line}: differs from {shown[1]}"


@pytest.mark.parametrize("page", _having("console"))
def test_commands_exist(page: Path) -> None:
    import typer.main

    from foretrain.cli._app import app

    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    root = {"--version", "--help", "-h"}
    make = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for block in blocks(page, "console"):
        for line in block.text.splitlines():
            if not line.startswith("$ "):
                continue
            words = shlex.split(line[2:], comments=True)
            if words[0] == "make":
                assert words[1] in make, f"{name(page)}:{block.line}: no target {words[1]!r} in the Makefile"
            if words[0] != "foretrain":
                continue
            if words[1].startswith("-"):
                assert words[1] in root, line
                continue
            assert words[1] in verbs, f"{name(page)}:{block.line}: no verb {words[1]!r}"
            known = {option for p in verbs[words[1]].params for option in (*p.opts, *p.secondary_opts)} | {
                "--help",
                "-h",
            }
            for word in words[2:]:
                if word.startswith("-") and word != "-":
                    assert word.split("=")[0] in known, f"{name(page)}:{block.line}: {words[1]} has no option {word!r}"
            for word in words[2:]:
                if word.startswith("studies/"):
                    assert (ROOT / word).is_file(), f"{name(page)}:{block.line}: no file {word}"


def test_cited_equations_exist() -> None:
    labels = [
        label
        for page in (ROOT / "docs").rglob("*.md")
        for label in re.findall(r"\\tag\{([A-Z]+\.\d+)\}", page.read_text(encoding="utf-8"))
    ]
    assert len(labels) == len(set(labels))
    missing = {}
    for folder in ("src", "tests", "benchmarks", "docs"):
        for path in (ROOT / folder).rglob("*.py" if folder != "docs" else "*.md"):
            for label in re.findall(r"\(((?:RF|MS|SG|SL|PL|PR|K|PA|DL)\.\d+)\)", path.read_text(encoding="utf-8")):
                if label not in labels:
                    missing.setdefault(label, str(path.relative_to(ROOT)))
    assert not missing, f"cited equations that no theory page has: {missing}"


def test_documented_files_exist() -> None:
    """Prose and docstrings name pages as `docs/...md` and study files as `studies/...toml`."""
    missing = {}
    for path in [*_PAGES, *(ROOT / "src").rglob("*.py")]:
        for found in re.findall(r"\b((?:docs|studies)/[\w/-]+\.(?:md|toml))", path.read_text(encoding="utf-8")):
            if not (ROOT / found).is_file():
                missing.setdefault(found, str(path.relative_to(ROOT)))
    assert not missing


def _public(room: str) -> list[str]:
    module = importlib.import_module(f"foretrain.{room}")
    if not hasattr(module, "__path__"):  # a module, not a room with an `__init__`: what it defines is what it offers
        return [
            n
            for n, v in vars(module).items()
            if not n.startswith("_") and getattr(v, "__module__", None) == module.__name__
        ]
    return re.findall(r"^from \S+ import (\w+) as \1$", Path(str(module.__file__)).read_text(), re.MULTILINE)


@pytest.mark.parametrize("room", _ROOMS)
def test_every_public_name_is_documented(room: str) -> None:
    documented = set()
    for page in (ROOT / "docs" / "api").glob("*.md"):
        current = ""
        for line in page.read_text(encoding="utf-8").splitlines():
            if found := re.match(r"::: (foretrain[\w.]*)", line):
                current = found[1]
                documented.add(current)
            elif found := re.match(r"\s+- (\w+)$", line):
                documented.add(f"{current}.{found[1]}")
    missing = [n for n in _public(room) if f"foretrain.{room}.{n}" not in documented]
    assert not missing, f"add these to docs/api/: {', '.join(f'foretrain.{room}.{n}' for n in missing)}"


def test_top_level_names_are_documented() -> None:
    import foretrain

    documented = set(
        re.findall(r"::: (foretrain[\w.]*)", "\n".join(p.read_text() for p in (ROOT / "docs/api").glob("*.md")))
    )
    last = {found.rsplit(".", 1)[-1] for found in documented}
    missing = [n for n in dir(foretrain) if n != "__version__" and n not in last]
    assert not missing, f"add these to docs/api/: {', '.join(missing)}"


def test_study_file_reference_names_every_key() -> None:
    """Each key of each declaration stands in the reference, in the table of its kind."""
    import dataclasses

    from foretrain.problems import MODELS, PROTOCOLS
    from foretrain.tasks import TASKS

    text = (ROOT / "docs/reference/study-file.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^### `([\w-]+)`\n(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE))
    for kinds in (TASKS, MODELS, PROTOCOLS):
        for kind, part in kinds.items():
            assert kind in sections, f"docs/reference/study-file.md: no section for {kind!r}"
            for field in dataclasses.fields(part):
                assert f"| `{field.name}` " in sections[kind], (
                    f"docs/reference/study-file.md: {kind}: no row for `{field.name}`"
                )
