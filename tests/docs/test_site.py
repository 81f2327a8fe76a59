"""The site builds strictly, and needs nothing from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.long
def test_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra: pip install 'foretrain[docs]'")
    site = tmp_path / "site"
    # Not `--quiet`: it drops the warnings that `--strict` counts.
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(https?:)?//", text)
        loaded += re.findall(r"<link\b[^>]*\brel=[\"']?(?:stylesheet|preconnect|preload)[^>]*https?://", text)
        assert not loaded, f"{page.relative_to(site)} loads from elsewhere"
        assert "arithmatex" not in text, f"{page.relative_to(site)}: a formula was not rendered"
