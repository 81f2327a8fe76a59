"""The examples in docstrings run, and every public function or class of a room has a docstring."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "foretrain"


def _modules() -> list[str]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        if ">>> " in path.read_text(encoding="utf-8"):
            parts = path.relative_to(SOURCE).with_suffix("").parts
            found.append(".".join(["foretrain", *(p for p in parts if p != "__init__")]))
    return found


@pytest.mark.parametrize("module", _modules())
def test_examples_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    report = doctest.testmod(
        importlib.import_module(module),
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
        raise_on_error=False,
    )
    assert report.attempted, f"{module}: no example was found"
    assert not report.failed, f"{module}: {report.failed} of {report.attempted} examples failed"
