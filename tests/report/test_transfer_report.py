"""The figure and the page of a transfer sweep."""

import re

import numpy as np
import pytest

from foretrain.curves import LearningCurves
from foretrain.errors import InvalidInput
from foretrain.report import plot_transfer, write_transfer_report

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


def sweep(status="bracketed"):
    rates, sizes = np.array([0.05, 0.1, 0.2, 0.4]), np.array([64.0, 256.0])
    losses = np.stack([[[0.3, 0.2, 0.25, np.inf], [0.25, 0.15, 0.2, np.inf]]] * 2)
    dims = ("parameterization", "width", "learning_rate")
    variants = [
        {
            "where": {"parameterization": scheme},
            "verdict": verdict,
            "sentence": f"{verdict}: <b>not markup</b>",
            "advice": [],
            "drift": {
                "exponent": 0.01,
                "stderr": 0.02,
                "sizes": 2,
                "log_value": -2.0,
                "log_value_stderr": 0.1,
                "log_size": 4.8,
            },
            "drift_without_smallest": None,
            "edge_drift": None,
            "cost": {"value": "inf", "low": 0.1, "high": "inf", "from": 64.0, "at": 256.0},
            "wider": None,
            "optima": [
                {"size": s, "value": 0.12, "low": 0.1, "high": "inf", "loss": 0.2, "status": status}
                for s in (64.0, 256.0)
            ],
            "edge": [{"size": s, "stable": 0.2, "diverged": 0.4, "value": 0.28} for s in (64.0, 256.0)],
        }
        for scheme, verdict in (("sp", "drifts"), ("mup", "transfers"))
    ]
    analysis = {
        "axis": "width",
        "swept": "learning_rate",
        "objective": "train_loss",
        "tolerance": 0.1,
        "steps": 50,
        "seeds": 2,
        "variants": variants,
    }
    by_seed = np.broadcast_to(losses[..., None, None], (*losses.shape, 2, 1))
    variables = {
        "train_loss": ((*dims, "time"), losses[..., None]),
        "train_loss_stderr": ((*dims, "time"), np.full((*losses.shape, 1), 0.01)),
        "train_loss_by_seed": ((*dims, "seed", "time"), by_seed),
        "test_loss_by_seed": ((*dims, "seed", "time"), by_seed),
    }
    coords = {
        "parameterization": np.array(["sp", "mup"]),
        "width": sizes,
        "learning_rate": rates,
        "seed": np.arange(2),
        "time": np.array([50.0]),
    }
    return LearningCurves(variables, coords, {"transfer": analysis, "study": "schema = 1"})


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("status", ["bracketed", "upper end of the grid", "diverged everywhere"])
def test_figure(mode, status, tmp_path):
    figure = plot_transfer(sweep(status), tmp_path / "sweep.png", mode=mode)
    assert len(figure.axes) == 4  # loss and optimum for each of two variants
    assert (tmp_path / "sweep.png").stat().st_size > 10_000
    assert next(axes.get_title(loc="left") for axes in figure.axes) == "sp: drifts"


def test_page_holds_everything_and_loads_nothing(tmp_path):
    path = tmp_path / "page.html"
    tables = [("every tensor", [{"path": "first.weight", "shape": [4, 2], "lr": 0.1}])]
    write_transfer_report(sweep(), path, title="A & B", tables=tables, notes=["set 0.1"])
    page = path.read_text()
    assert "A &amp; B" in page
    assert "&lt;b&gt;not markup" in page
    assert "moves for sp, holds for mup" in page
    assert "first.weight" in page
    assert "4 × 2" in page
    assert "set 0.1" in page
    assert "<script" not in page
    assert not re.findall(r"(?:src|srcset)=[\"'](?!data:)", page)
    assert "prefers-color-scheme: dark" in page


def test_other_results_are_refused(tmp_path):
    other = LearningCurves({"test_loss": (("time",), np.ones(1))}, {"time": np.ones(1)}, {})
    with pytest.raises(InvalidInput, match=r"expected what `foretrain\.transfer` returned"):
        plot_transfer(other)
    with pytest.raises(InvalidInput, match="no folder"):
        write_transfer_report(sweep(), tmp_path / "none" / "page.html", title="")
