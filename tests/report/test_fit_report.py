"""Figures and the page of a fitted law."""

import json
import re

import numpy as np
import pytest

from foretrain.errors import InvalidInput
from foretrain.laws import Fit, Runs, fit
from foretrain.report import plot_fit, write_fit_report
from foretrain.report._fit_figure import plot_intervals, plot_valleys
from foretrain.report._fit_numbers import frontier, points_of, slices_of
from foretrain.report._fit_page import headline, rows_csv, with_numbers

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

LAW = {"A": 400.0, "B": 2000.0, "E": 1.8, "alpha": 0.34, "beta": 0.36}


def isoflop(noise=0.003):
    """Seven sizes at each of five budgets."""
    budgets = np.repeat(10.0 ** np.arange(17, 22), 7)
    params = np.sqrt(budgets / 6 / 20) * np.tile(np.geomspace(0.2, 5, 7), 5)
    tokens = budgets / 6 / params
    loss = 1.8 + 400.0 / params**0.34 + 2000.0 / tokens**0.36
    loss *= np.exp(noise * np.random.default_rng(0).standard_normal(35))
    return Runs({"params": params, "tokens": tokens, "loss": loss}, "<table>.csv", notes=("loss is <b>L</b>",))


@pytest.fixture(scope="module")
def runs():
    return isoflop()


@pytest.fixture(scope="module")
def found(runs):
    return fit(runs, bootstrap=60)


def test_frontier_is_the_closed_form(found, runs):
    budgets = np.array([1e19, 1e22])
    best, lowest, sizes, losses = frontier(found, budgets)
    p = {name: e.value for name, e in found.parameters.items()}
    total = p["alpha"] + p["beta"]
    balance = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / total)
    exact = balance * (budgets / 6) ** (p["beta"] / total)
    # Drawn from a grid of 0.025 decades with a parabola: off by the cubic term of the valley, far below a line's width.
    assert best == pytest.approx(exact, rel=2e-3)
    assert lowest == pytest.approx(found.law.predict(p, {"params": exact, "tokens": budgets / 6 / exact}), rel=1e-5)
    assert np.all((sizes[0] < best) & (best < sizes[1]))
    assert np.all((losses[0] < lowest) & (lowest < losses[1]))


def test_slices_of_discrete_budgets(found, runs):
    slices = slices_of(found, points_of(found, runs))
    assert [round(np.log10(s.budget), 6) for s in slices] == [17, 18, 19, 20, 21]
    for one in slices:
        assert len(one.params) == 7
        assert one.lowest == pytest.approx(one.curve.min(), rel=1e-5)


def test_slices_of_scattered_budgets_are_moved_along_the_law():
    rng = np.random.default_rng(1)
    params, tokens = np.exp(rng.uniform(*np.log([1e7, 1e9]), 60)), np.exp(rng.uniform(*np.log([1e8, 1e11]), 60))
    exact = Runs({"params": params, "tokens": tokens, "loss": 1.8 + 400 / params**0.34 + 2000 / tokens**0.36})
    found = fit(exact, bootstrap=0)
    slices = slices_of(found, points_of(found, exact))
    assert len(slices) >= 3
    for one in slices:
        tokens_there = one.budget / 6 / one.params
        # Without noise every moved run lies on the curve of its slice.
        assert one.loss == pytest.approx(1.8 + 400 / one.params**0.34 + 2000 / tokens_there**0.36, rel=1e-6)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_figures(found, runs, tmp_path, mode):
    figure = plot_fit(found, runs, tmp_path / "fit.png", mode=mode)
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels.count("compute 6 N D, FLOP") == 2
    assert {"parameters", "tokens"} <= set(labels)
    assert (tmp_path / "fit.png").stat().st_size > 20_000
    plot_valleys(found, runs, tmp_path / "valleys.png", mode=mode)
    plot_intervals(found, tmp_path / "intervals.png", mode=mode)


def test_one_variable(tmp_path):
    x = np.geomspace(1e5, 1e9, 20)
    runs = Runs({"steps": x, "loss": 0.9 + 30 / x**0.3 * np.exp(0.01 * np.sin(np.arange(20)))})
    found = fit(runs, "power", x="steps", bootstrap=20)
    assert plot_valleys(found, runs) is None
    write_fit_report(found, runs, tmp_path / "page.html", title="steps")
    page = (tmp_path / "page.html").read_text()
    assert "IsoFLOP" not in page
    assert "The frontier" not in page


def test_page_holds_everything_and_loads_nothing(found, runs, tmp_path):
    path = tmp_path / "page.html"
    write_fit_report(found, runs, path, title="A & <i>B</i>", notes=["tokenizer: <u>own</u>"])
    page = path.read_text()
    for words in (
        "A &amp; &lt;i&gt;B",
        "&lt;table&gt;.csv",
        "loss is &lt;b&gt;L",
        "tokenizer: &lt;u&gt;own",
        "IsoFLOP valleys",
        "The frontier",
    ):
        assert words in page, words
    assert "<script" not in page
    assert not re.findall(r"(?:src|srcset)=[\"'](?!data:)", page)
    assert "prefers-color-scheme: dark" in page
    for name in (
        "form",
        "parameters N",
        "compute C",
        "data",
        "loss",
        "minimized",
        "optimizer",
        "starts",
        "uncertainty",
    ):
        assert f"<dt>{name}</dt>" in page, name


def test_page_gives_the_law_away(found, runs, tmp_path):
    import base64
    import urllib.parse

    write_fit_report(found, runs, tmp_path / "page.html", title="t")
    href = re.search(r'download="law.json" href="(data:[^"]+)"', (tmp_path / "page.html").read_text())[1]
    head, _, body = href.partition(",")
    text = base64.b64decode(body).decode() if head.endswith("base64") else urllib.parse.unquote(body)
    (tmp_path / "law.json").write_text(text)
    assert np.array_equal(Fit.load(tmp_path / "law.json").theta, found.theta)
    assert json.loads(text)["law"] == "chinchilla"


def test_rows_are_those_of_the_fit(found, runs):
    lines = rows_csv(points_of(found, runs)).splitlines()
    assert lines[0] == "params,tokens,loss,loss_by_law,error"
    assert len(lines) == 36
    _, _, loss, by_law, error = (float(v) for v in lines[1].split(","))
    assert error == pytest.approx(loss / by_law - 1, abs=1e-8)


def test_words(found):
    text = with_numbers(found)
    assert re.fullmatch(r"[\d.]+ \+ [\d.]+ / params\^0\.\d+ \+ [\d.]+ / tokens\^0\.\d+", text)
    if found.validation is None:
        assert headline(found).startswith("Chinchilla describes 35 rows with a typical error of 0.")
    else:
        assert headline(found).startswith("Fitted without the largest budget, chinchilla predicts its 7 runs")


def test_refusals(found, runs, tmp_path):
    with pytest.raises(InvalidInput, match="no folder"):
        write_fit_report(found, runs, tmp_path / "none" / "page.html", title="")
    with pytest.raises(InvalidInput, match="no column 'tokens'"):
        plot_fit(found, Runs({"params": [1.0], "loss": [1.0]}))


def test_the_page_says_what_was_tried(runs, tmp_path):
    chosen = fit(runs, "auto", bootstrap=20)
    page = tmp_path / "page.html"
    write_fit_report(chosen, runs, page, title="tried")
    text = page.read_text()
    section = text[text.index('id="tried"') : text.index('id="parameters"')]
    assert len(re.findall("<tr>", section)) == 1 + len(chosen.settings["candidates"])
    assert chosen.settings["chosen"] in section
    assert section.index(chosen.law.name) < section.index("kaplan")
    plain = tmp_path / "plain.html"
    write_fit_report(fit(runs, bootstrap=20), runs, plain, title="plain")
    assert 'id="tried"' not in plain.read_text()
