import base64
import csv
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from synthetic import INF, broken, comparison, spectrum, with_values

from foretrain.curves import LearningCurves
from foretrain.errors import InvalidInput, MissingExtra
from foretrain.report import write_report
from foretrain.report._grid import percent
from foretrain.report._html import render
from foretrain.studies import pair

TIMES = np.geomspace(1, 1e4, 6)
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'`{{ 7*7 }}{% raw %}&lt; ]]> \u2028 \x00"
CITATION = "https://arxiv.org/abs/2402.01092"


class Page(HTMLParser):
    """Tags with attributes, and the texts of scripts and of the body."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data):
        if self._open[-1:] == ["script"]:
            self.scripts[-1] += data
        elif self._open[-1:] != ["style"]:
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def data(self, ident):
        places = [a.get("id") for a in self.all("script")]
        return json.loads(self.scripts[places.index(ident)], parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))

    def download(self, name):
        (link,) = [a["href"] for a in self.all("a") if a.get("download") == name]
        return base64.b64decode(link.split(";base64,")[1]).decode()


def page(given, **options) -> Page:
    return Page(render(given, **({"title": "A title"} | options)))


@pytest.fixture(scope="module")
def whole():
    return comparison({"width": [8, 16], "samples": [4, 32]}, TIMES, theory_only={"width": [INF]})


@pytest.fixture(scope="module")
def usual(whole):
    tables = {"Exponents": [{"name": "capacity", "value": 1.5}, {"name": "source", "low": INF}]}
    notes = ["The test file is harder."]
    return page(whole, spectrum=spectrum(), study_text="schema = 1\n", tables=tables, notes=notes)


def test_nothing_is_loaded_from_anywhere(usual):
    for tag, attributes in usual.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster", "background", "xlink:href"):
            target = attributes.get(name, "#")
            assert target.startswith(("#", "data:image/png;base64,", "data:text/csv", "data:application/json")) or (
                tag == "a" and target == CITATION
            ), (tag, name, target[:80])
    assert not {tag for tag, _ in usual.tags} & {"link", "iframe", "object", "embed", "base", "form"}
    (policy,) = [a["content"] for a in usual.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert not re.search(r"https?:|//", policy)
    code = usual.scripts[-1]
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|WebSocket|sendBeacon|innerHTML|document\.write|eval\(", code)
    assert set(re.findall(r"https?://[^\s\"']+", code)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\(", render(comparison({}, TIMES), title="").split("</style>")[0])


def test_the_page_says_the_numbers_first(whole, usual):
    error = np.abs(whole.error.values("test_loss"))
    noise = whole.training.values("test_loss_stderr") / whole.training.values("test_loss")
    headline = " ".join(usual.text.split())
    beyond = np.maximum(error - 2 * noise, 0).max()
    assert f"median error of {percent(np.median(error))}." in headline
    assert f"The worst of 24 points is off by {percent(error.max())}; beyond seed noise no" in headline
    assert f"no point is off by more than {percent(beyond)}." in headline
    assert "2 widths, 2 sample sizes, 6 times; 8 networks at every point" in headline


def test_it_holds_what_it_was_given(usual):
    said = " ".join(usual.text.split())
    for text in (
        "A title",
        "The test file is harder.",
        "schema = 1",
        "Exponents",
        "capacity",
        "1.5",
        "∞",
        "2402.01092",
    ):
        assert text in said
    assert "capacity 1.21 (1.17 to 1.25)" in said
    assert [a["id"] for a in usual.all("section")] == [
        "curves",
        "errors",
        "misses",
        "spectrum",
        "tables",
        "made",
        "data",
    ]
    anchors = {a["href"][1:] for a in usual.all("a") if a.get("href", "").startswith("#")}
    assert anchors <= {a.get("id") for _, a in usual.tags}


def test_the_chart_holds_the_curves_and_the_downloads_hold_everything(whole, usual):
    chart = usual.data("chart-data")
    assert [(a["name"], a["values"]) for a in chart["axes"]] == [("width", ["8", "16", "∞"]), ("samples", ["4", "32"])]
    test_loss = chart["quantities"][0]
    theory = np.array(test_loss["theory"]).reshape(3, 2, 6)
    np.testing.assert_allclose(theory, whole.theory.values("test_loss"), rtol=5e-5)  # five significant digits
    assert np.array(test_loss["measured"]).reshape(3, 2, 6)[2].tolist() == [[None] * 6] * 2
    rows = list(csv.DictReader(io.StringIO(usual.download("comparison.csv"))))
    assert len(rows) == 36
    assert rows[-1]["width"] == "inf"
    assert rows[-1]["test_loss_measured"] == "nan"
    written = [float(r["test_loss_measured"]) for r in rows[:24]]
    np.testing.assert_allclose(written, whole.training.values("test_loss").ravel(), rtol=1e-9)  # ten digits
    assert json.loads(usual.download("comparison.json")) == whole.to_json()
    taken = list(csv.DictReader(io.StringIO(usual.download("spectrum.csv"))))
    np.testing.assert_allclose(
        [float(r["eigenvalue"]) for r in taken], spectrum()["eigenvalues"], rtol=1e-9
    )  # ten digits


def test_hostile_texts_stay_texts(whole, usual):
    axes = {"activation": [HOSTILE[:40], "</script>", "<!--"], "width": [8, 16]}
    given = comparison(axes, TIMES[:3])
    theory = LearningCurves(given.theory.variables, given.theory.coords, {HOSTILE: HOSTILE, "messages": [HOSTILE]})
    training = LearningCurves(given.training.variables, given.training.coords, {"versions": {HOSTILE: HOSTILE}})
    hostile = page(
        pair(theory, training),
        title=HOSTILE,
        study_text=HOSTILE,
        notes=[HOSTILE],
        tables=[(HOSTILE, [{HOSTILE: HOSTILE}])],
        spectrum=spectrum(),
    )
    assert len(hostile.scripts) == len(usual.scripts) == 3
    assert not [a for _, a in hostile.tags for name in a if name.startswith("on")]
    assert "{{ 7*7 }}" in hostile.text
    assert next(a["values"] for a in hostile.data("chart-data")["axes"]) == axes["activation"]
    assert len(hostile.all("img")) == 2


def test_points_without_values_are_said_and_shown():
    given = broken()
    shown = page(given)
    said = " ".join(shown.text.split())
    assert "Not every point of the theory has a value" in said
    assert "1 diverged, 1 failed" in said
    measured = shown.data("chart-data")["quantities"][0]["measured"]
    assert {"inf", None} <= set(measured)
    usable = np.isfinite(given.error.values("test_loss"))
    assert f"The worst of {usable.sum()} points" in said
    assert "NaN" not in said


def test_nothing_to_compare_is_said():
    given = comparison({"width": [8]}, TIMES)
    nothing = pair(given.theory, with_values(given.training, test_loss=(..., np.nan), train_loss=(..., np.nan)))
    assert "No point of the test loss could be compared" in " ".join(page(nothing).text.split())


def test_measurements_without_errors_claim_no_noise():
    given = comparison({"width": [8]}, TIMES)
    lone = with_values(given.training, test_loss_stderr=(..., np.nan), train_loss_stderr=(..., np.nan))
    said = page(pair(given.theory, lone)).text
    assert "seed noise" not in said.split("Learning curves")[0]


@pytest.mark.parametrize(
    "given",
    [comparison({}, [3.0]), comparison({"width": [8]}, [0.0, 1.0, INF]), comparison({"ridge": [0.1, 1.0]}, TIMES)],
)
def test_small_shapes_have_a_page(given):
    assert page(given).data("chart-data")["quantities"][0]["name"] == "test_loss"


def test_every_control_and_region_has_a_name(usual):
    assert usual.all("html")[0]["lang"] == "en"
    assert all(a.get("alt") for a in usual.all("img"))
    assert all(a.get("aria-label") for _, a in usual.tags if a.get("role") == "region")
    assert all(a.get("aria-labelledby") or a.get("aria-label") for a in usual.all("section") + usual.all("nav"))
    assert [a["content"] for a in usual.all("meta") if a.get("name") == "viewport"] == [
        "width=device-width, initial-scale=1"
    ]
    levels = [int(tag[1]) for tag, _ in usual.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_the_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    given = comparison({}, TIMES[:2])
    target = tmp_path / "report.html"
    write_report(given, target, title="First")
    first = target.read_text("utf-8")
    assert oct(target.stat().st_mode)[-3:] == oct(0o666 & ~_umask())[-3:]

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(given, target, title="Second")
    assert target.read_text("utf-8") == first
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_wrong_folders_and_missing_extras_are_named(tmp_path, monkeypatch):
    with pytest.raises(InvalidInput, match=r"write_report\(path=.*no folder"):
        write_report(comparison({}, TIMES[:2]), tmp_path / "missing" / "report.html", title="")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtra, match=r"jinja2 is not installed; run: pip install 'foretrain\[report\]'"):
        write_report(comparison({}, TIMES[:2]), tmp_path / "report.html", title="")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the chromium browser")
@pytest.mark.long
def test_a_browser_draws_every_panel_and_complains_of_nothing(tmp_path, whole):
    write_report(whole, tmp_path / "report.html", title="Drawn", spectrum=spectrum())
    arguments = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr",
    ]
    done = subprocess.run(
        ["chromium", *arguments, "--virtual-time-budget=3000", "--dump-dom", (tmp_path / "report.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    drawn = Page(done.stdout)
    assert len(drawn.all("svg")) == 4  # two panels of samples, two of the spectrum
    assert len([a for a in drawn.all("g") if a.get("data-entry")]) == 6  # three widths in each
    circles = len([a for a in drawn.all("circle") if a.get("class") == "full"])
    assert circles == np.isfinite(whole.error.values("test_loss")).sum()
    assert not re.search(r"NaN|undefined", re.sub(r"data:[^\"]*", "", done.stdout.split("<script")[0]))
