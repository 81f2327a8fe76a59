"""Puts the figure and the numbers of the two sweeps in few bits into the page on low precision.

    foretrain train studies/precision-ptq.toml -o precision-ptq.nc
    foretrain train studies/precision-weights.toml -o precision-weights.nc
    .venv/bin/python docs/_hooks/precision_figures.py precision-ptq.nc precision-weights.nc

Numbers stand between `<!-- numbers: NAME -->` and `<!-- end -->` and are replaced; the figure is `docs/assets/precision.png`.
"""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from figures import fill

from foretrain.claims._precision_networks import FEWEST, Described, prices, rounding_law, table, training_law, turns
from foretrain.curves import LearningCurves
from foretrain.laws import Objective, fit
from foretrain.laws._precision_constants import Constants
from foretrain.laws._precision_forms import DELTA_NOISE, precision_additive, precision_data, precision_unified
from foretrain.report._figures import new_figure, save, style
from foretrain.report._palette import INK, ordered

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "low-precision.md"
FIGURE = ROOT / "docs" / "assets" / "precision.png"
SHOWN = 16
"""Width whose degradations are drawn for all numbers of bits."""


def main(rounded_path: str, coarse_path: str) -> None:
    """Write the figure and the numbers of the page."""
    rounded, coarse = LearningCurves.load(rounded_path), LearningCurves.load(coarse_path)
    after, during = rounding_law(rounded), training_law(coarse)
    draw(rounded, coarse, after, during)
    parts = {
        "rounding": rounding(after),
        "turns": turned(rounded),
        "training": training(during, coarse),
        "prices": priced(rounded, coarse),
    }
    fill(PAGE, parts)


def rounding(law: Described) -> str:
    """The exponents of what rounding after training costs."""
    rows = ["| | here | arXiv 2411.04330 |", "| --- | --- | --- |"]
    for name, symbol, source in (
        ("gamma_D", r"$\gamma_D$, exponent of $D$", 0.5068),
        ("gamma_N", r"$\gamma_N$, exponent of $1/N$", 0.3439),
        ("gamma_post", r"$\gamma_{\rm post}$, bits", 0.5907),
    ):
        value, error = law.value(name)
        rows.append(f"| {symbol} | {value:.3f} ± {error:.3f} | {source} |")
    rows.append(f"| share of the variance of $\\ln\\delta$ | {law.explained:.3f} | 0.97 |")
    return "\n".join(rows)


def turned(curves: LearningCurves) -> str:
    """Where the deployed loss turns, size by size, and where a law fitted to all deployed losses says so."""
    runs = table(curves)
    runs = runs.with_column("loss", runs["loss_post"])
    deployed = fit(runs, precision_unified(("post_bits",)), objective=Objective("squares"), bootstrap=0, validate=False)
    constants = Constants.of(deployed.law, deployed.theta)
    rows = [
        "| $N$ | $D$ of the smallest loss | $D_{\\rm crit}$ (PR.7) | fall before it | rise after it | s.e. |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for t in turns(curves):
        critical = constants.critical_tokens(t.params, FEWEST)
        rows.append(
            f"| {t.params:,.0f} | {t.tokens / 1e6:.2f} M | {critical / 1e6:.2f} M | {t.fall:.3f} | {t.rise:.3f} | {t.error:.3f} |"
        )
    return "\n".join(rows)


def training(law: Described, curves: LearningCurves) -> str:
    """What the law of low-precision training is here, and what it leaves open."""
    (gamma, gamma_error), (bits, bits_error) = law.value("gamma_w"), law.value("P0_w")
    floor, exponent = law.fit.parameters["E"], law.fit.parameters["alpha"]
    others = [training_law(curves, form).rms for form in (precision_data, precision_additive)]
    return (
        f"Over {law.fit.rows} losses, $L=E+A\\,N_{{\\rm eff}}^{{-\\alpha}}+B\\,D^{{-\\alpha}}$ (PR.1) explains **{100 * law.explained:.1f} %** of "
        f"the variance, with a root mean square of **{law.rms:.3f} nats**; $\\gamma_w={gamma:.2f}\\pm{gamma_error:.2f}$ and "
        f"$P_0={bits:.2f}\\pm{bits_error:.2f}$ bits. Fewer effective tokens in the place of parameters leave {others[0]:.3f}, a loss added by few "
        f"bits {others[1]:.3f}. $E$ lies anywhere from {floor.low:.2f} to {floor.high:.2f} nats and $\\alpha$ from {exponent.low:.2f} to "
        f"{exponent.high:.2f}: these are not identified."
    )


def priced(rounded: LearningCurves, coarse: LearningCurves) -> str:
    """Both prices of few bits."""
    found = prices(rounded, coarse)
    rows = [f"| $N$ | rounded to {FEWEST} bits afterwards | trained in {FEWEST} bits |", "| ---: | ---: | ---: |"]
    for i, n in enumerate(found["params"]):
        rows.append(
            f"| {n:,.0f} | {found['after'][i]:.3f} ± {found['after_error'][i]:.3f} | "
            f"{found['during'][i]:.3f} ± {found['during_error'][i]:.3f} |"
        )
    return "\n".join(rows)


def draw(rounded: LearningCurves, coarse: LearningCurves, after: Described, during: Described) -> None:
    """Degradations over tokens, deployed losses with their minima, and losses over effective parameters."""
    figure = new_figure("precision_figures", 9.6, 3.3)
    axes = figure.subplots(1, 3)
    for one, title in zip(
        axes,
        (
            f"Rounding after training costs more\nthe longer the training (width {SHOWN})",
            f"Rounded to {FEWEST} bits, the loss\nturns and grows with data",
            "Trained in few bits: one curve\nin effective parameters",
        ),
        strict=True,
    ):
        style(one)
        one.set_title(title, fontsize=8, color=INK["light"], loc="left")
        one.set_xscale("log")
    _degradations(axes[0], rounded, after)
    _deployed(axes[1], rounded)
    _effective(axes[2], coarse, during)
    save(figure, FIGURE)


def _degradations(axes: Any, curves: LearningCurves, law: Described) -> None:
    runs = table(curves).where(f"width={SHOWN}")
    bits = np.unique(runs["post_bits"])
    values = law.fit.law.values(law.fit.theta)
    tokens = np.geomspace(runs["tokens"].min(), runs["tokens"].max(), 50)
    for post, colour in zip(bits, ordered(len(bits)), strict=True):
        some = runs.where(f"post_bits={post:g}").sorted("tokens")
        seen = some["delta"] > 0
        axes.plot(some["tokens"][seen], some["delta"][seen], "o", ms=3.5, color=colour)
        at = {"params": some["params"][0], "tokens": tokens, "post_bits": post}
        line = law.fit.law.predict(values, at)
        axes.plot(tokens, line, color=colour, lw=1.0)
        axes.annotate(
            f"{post:g} bits",
            (tokens[-1], line[-1]),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            color=colour,
        )
    axes.set_yscale("log")
    axes.set_ylim(bottom=DELTA_NOISE / 2)  # what is left out is noise
    _tokens(axes, np.unique(runs["tokens"]))
    axes.set_xlim(right=tokens[-1] * 2.6)
    _labels(axes, "tokens $D$", "loss after minus before rounding, nats")


def _deployed(axes: Any, curves: LearningCurves) -> None:
    ends = curves.dataset.isel(time=-1)
    widths = ends["width"].to_numpy()
    for width, colour, turn in zip(widths, ordered(len(widths)), turns(curves), strict=True):
        one = ends.sel(width=width)
        tokens, few = one["tokens"].to_numpy(), one.sel(post_bits=FEWEST)
        loss, error = few["test_loss_post"].to_numpy(), few["test_loss_post_stderr"].to_numpy()
        axes.plot(tokens, one["test_loss"].to_numpy(), color=colour, lw=0.8, ls=(0, (2, 2)))
        axes.errorbar(tokens, loss, error, color=colour, lw=1.2, elinewidth=0.8, marker="o", ms=2.5)
        place = int(np.argmin(loss))
        axes.plot(tokens[place], loss[place], "o", ms=7, mfc="none", mec=colour, mew=1.2)
        axes.annotate(
            f"{turn.params / 1e3:.2g} k",
            (tokens[-1], loss[-1]),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            color=colour,
        )
    axes.set_xlim(right=tokens[-1] * 2.2)
    axes.text(
        0.02, 0.02, "dashed: not rounded\ncircles: smallest", transform=axes.transAxes, fontsize=6.5, color=INK["light"]
    )
    _tokens(axes, tokens)
    _labels(axes, "tokens $D$", "test loss, nats per byte")


def _effective(axes: Any, curves: LearningCurves, law: Described) -> None:
    runs = table(curves)
    values = {name: float(v) for name, v in law.fit.law.values(law.fit.theta).items()}
    bits = np.unique(runs["weight_bits"])
    factor = -np.expm1(-(runs["weight_bits"] - values["P0_w"]) / values["gamma_w"])
    size = runs["params"] * factor
    colours = [*ordered(int(np.isfinite(bits).sum())), INK["light"]]
    markers = {500: "o", 1000: "s", 2000: "^"}
    line = np.geomspace(size.min(), size.max(), 60)
    for horizon, marker in markers.items():
        here = runs["horizon"] == horizon
        for b, colour in zip(bits, colours, strict=True):
            mine = here & (runs["weight_bits"] == b)
            label = None if horizon != 500 else ("full" if math.isinf(b) else f"{b:g} bits")
            axes.plot(size[mine], runs["loss"][mine], marker, ms=3, color=colour, label=label, mew=0)
        at = {"params": line, "tokens": runs["tokens"][here][0], "weight_bits": math.inf}
        axes.plot(line, law.fit.law.predict(values, at), color="#8792a2", lw=0.8, zorder=1)
        axes.annotate(
            f"{runs['tokens'][here][0] / 1e6:.2g} M",
            (line[-1], law.fit.law.predict(values, at)[-1]),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            color="#555f6e",
        )
    axes.legend(fontsize=6.5, frameon=False, handletextpad=0.1, borderpad=0.2, labelspacing=0.25)
    axes.set_xlim(right=line[-1] * 3)
    _labels(axes, "effective parameters $N f(P)$", "test loss, nats per byte")


def _tokens(axes: Any, tokens: np.ndarray) -> None:
    """A label at every second number of tokens."""
    shown = tokens[::2]
    axes.set_xticks(shown, [f"{t / 1e6:.2g} M" for t in shown])
    axes.minorticks_off()


def _labels(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=7.5, color=INK["light"])
    axes.set_ylabel(y, fontsize=7.5, color=INK["light"])


if __name__ == "__main__":
    main(*sys.argv[1:])
