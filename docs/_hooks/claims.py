"""Puts the verdicts of a finished `foretrain claims --json` into the claims page.

.venv/bin/foretrain claims 08 --json --full > claims.json
.venv/bin/python docs/_hooks/claims.py claims.json
"""

import datetime
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "claims.md"


def show(value: object) -> str:
    """A number with four digits, nothing for what was not measured."""
    if isinstance(value, int | float):
        return f"{value:.4g}"
    return "" if value in ("nan", None) else str(value)


def main(path: str) -> None:
    """Replace the table of every paper in the file, between its markers."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    note = f"Made at commit {commit.stdout.strip()} on {datetime.date.today().isoformat()}."
    claims = json.loads(Path(path).read_text(encoding="utf-8"))
    for paper in dict.fromkeys(claim["paper"] for claim in claims):
        rows = ["| claim | source | theory | measured | verdict |", "| --- | ---: | ---: | ---: | --- |"]
        rows += [row(claim) for claim in claims if claim["paper"] == paper]
        pattern = rf"(<!-- claims {paper} -->\n).*?(<!-- end -->)"
        table = f"\n{note}\n\n" + "\n".join(rows) + "\n\n"
        text = PAGE.read_text(encoding="utf-8")
        new, count = re.subn(pattern, lambda m, table=table: m[1] + table + m[2], text, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"{PAGE}: no place for the table of paper {paper}")
        PAGE.write_text(new, encoding="utf-8")


def row(claim: dict) -> str:
    """One line of a table."""
    measured = show(claim["measured"])
    if measured and show(claim["error"]):
        measured += f" ± {claim['error']:.1g}"
    words = claim["claim"].replace("|", "\\|").replace("*", "\\*")
    return f"| {words} | {show(claim['source_value'])} | {show(claim['theory'])} | {measured} | {claim['verdict']} |"


if __name__ == "__main__":
    main(sys.argv[1])
