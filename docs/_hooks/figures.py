"""Draws the figures of the digits tutorial from a finished run, and prints the numbers that the page quotes.

make demo
.venv/bin/python docs/_hooks/figures.py demo/curves.nc
"""

import sys
from pathlib import Path

from foretrain import NNGP, Digits, measure_spectrum
from foretrain.curves import Comparison
from foretrain.report import heatmap, plot_comparison, plot_spectrum
from foretrain.studies import summarize

ASSETS = Path(__file__).resolve().parents[1] / "assets"


def main(curves: str) -> None:
    """Write `docs/assets/digits*.png`."""
    comparison = Comparison.load(curves)
    plot_comparison(comparison, ASSETS / "digits.png")
    heatmap(comparison, ASSETS / "digits-errors.png")
    for row in summarize(comparison):
        print(row)
    data = Digits(classes=[[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]).load()
    measured = measure_spectrum(NNGP(depth=1, activation="relu"), data.inputs, data.targets)
    print(measured)
    plot_spectrum(measured.for_plot(), ASSETS / "digits-spectrum.png")


if __name__ == "__main__":
    main(sys.argv[1])
