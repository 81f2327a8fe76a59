"""Puts the figures and the numbers of a finished run into the digits tutorial.

    make demo
    .venv/bin/python docs/_hooks/figures.py demo/curves.nc

Numbers stand between `<!-- numbers: NAME -->` and `<!-- end -->` and are replaced; figures go to `docs/assets`.
"""

import re
import sys
from pathlib import Path

import numpy as np

from foretrain import read_study
from foretrain.curves import Comparison
from foretrain.limits.linear import measure
from foretrain.report import heatmap, plot_comparison, plot_spectrum
from foretrain.studies import summarize

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tutorials" / "digits.md"
ASSETS = ROOT / "docs" / "assets"
SHOWN = ((64, 64), (128, 1024), (256, 256), (512, 1024), (1024, 256), (1024, 1024))


def main(curves: str) -> None:
    """Write `docs/assets/digits*.png` and the numbers of the page."""
    comparison = Comparison.load(curves)
    plot_comparison(comparison, ASSETS / "digits.png")
    heatmap(comparison, ASSETS / "digits-errors.png")
    study = read_study(ROOT / "studies" / "digits.toml")
    width, samples = (study.problem.axes()[name][0] for name in ("width", "samples"))
    measured = measure(study.problem.select({"width": width, "samples": samples}))
    plot_spectrum(measured.for_plot(), ASSETS / "digits-spectrum.png")
    parts = {
        "measured": f"```text\n{measured!r}\n```",
        "points": points(comparison),
        "summary": summary(comparison),
    }
    fill(PAGE, parts)


def fill(page: Path, parts: dict[str, str]) -> None:
    """Put numbers between the marks of a page that name them."""
    text = page.read_text(encoding="utf-8")
    for name, new in parts.items():
        pattern = rf"(<!-- numbers: {name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(pattern, lambda m, new=new: f"{m[1]}\n{new}\n\n{m[2]}", text, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"{page}: no place for the numbers {name!r}")
    page.write_text(text, encoding="utf-8")


def points(comparison: Comparison) -> str:
    """A table of a few sizes at the end of training."""
    rows = ["| width | samples | predicted | measured ± s.e. | error |", "| ---: | ---: | ---: | ---: | ---: |"]
    for width, samples in SHOWN:
        at = {"width": width, "samples": samples}
        pick = [
            float(curves[name].sel(**at).isel(time=-1))
            for curves, name in (
                (comparison.theory, "test_loss"),
                (comparison.training, "test_loss"),
                (comparison.training, "test_loss_stderr"),
                (comparison.error, "test_loss"),
            )
        ]
        rows.append(f"| {width} | {samples} | {pick[0]:.4f} | {pick[1]:.4f} ± {pick[2]:.4f} | {100 * pick[3]:+.1f} % |")
    return "\n".join(rows)


def summary(comparison: Comparison) -> str:
    """One sentence on all test losses, and one on the noise of the measurement."""
    row = next(r for r in summarize(comparison) if r.name == "test_loss")
    where = ", ".join(f"{name} {value:.4g}" for name, value in row.where.items())
    early = comparison.training.values("train_loss") > 1e-3
    error = np.abs(comparison.error.values("train_loss"))
    return (
        f"Over {row.points} test losses, |predicted / measured − 1| has the median **{100 * row.median:.1f} %** and the "
        f"largest value **{100 * row.worst:.1f} %** ({where}). The standard error of the measured means is "
        f"{100 * row.noise:.1f} % in the median, so part of this is noise of the measurement: beyond two standard errors, the "
        f"largest deviation is {100 * row.beyond_noise:.1f} %, and {100 * row.within:.0f} % of the points are within three. "
        f"For train losses above 0.001 the median is {100 * np.median(error[early]):.1f} %."
    )


if __name__ == "__main__":
    main(sys.argv[1])
