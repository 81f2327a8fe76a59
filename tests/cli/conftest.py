"""Runs the command line inside this process, and pretends a limit where the theory itself is not the matter."""

import json
import os

import numpy as np
import pytest

from foretrain.cli import main
from foretrain.curves import LearningCurves
from foretrain.problems import protocol_times

LAW = """
[task]
kind = "power-law"
capacity = 1.5
source = 0.6
modes = 60
[model]
kind = "random-features"
width = [4, 8]
[training]
protocol = "gradient-flow"
samples = [6, 12]
times = [1.0, 10.0]
seeds = 2
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Every test has its own current folder, store and cache; the process keeps its environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.delenv("FORETRAIN_STORE", raising=False)
    monkeypatch.delenv("FORETRAIN_DEBUG", raising=False)
    return tmp_path


@pytest.fixture
def run(capsys):
    """`run("solve", "study.toml", ...)` gives (exit code, standard output, standard error)."""

    def run_(*arguments):
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_


@pytest.fixture
def said(run):
    """What a command prints as strict JSON."""

    def said_(*arguments):
        code, out, err = run(*arguments, "--json")
        assert code == 0, err
        assert "Traceback" not in err
        return json.loads(out, parse_constant=pytest.fail)

    return said_


@pytest.fixture
def refused(run):
    """A command that must be refused: its message, one line."""

    def refused_(*arguments):
        code, out, err = run(*arguments)
        errors = [line for line in err.splitlines() if not line.startswith(("note: ", "warning: "))]
        assert (code, out) == (2, "")
        assert len(errors) == 1
        assert errors[0].startswith("error: ")
        return errors[0].removeprefix("error: ")

    return refused_


@pytest.fixture
def study(tmp_path):
    """Writes a study file, LAW by default, and gives its name."""

    def write(text=LAW, name="study.toml"):
        (tmp_path / name).write_text(text)
        return name

    return write


def pretended_solve(problem, times=None, *, outputs=(), method="auto", throw=True, progress=None):
    grid = protocol_times(problem.training, times, "solve")
    axes = problem.axes()
    shape = tuple(len(v) for v in axes.values())
    values = np.ones(shape) if grid is None else np.broadcast_to(np.exp(-np.minimum(grid, 1.0)), (*shape, len(grid)))
    dims = tuple(axes) if grid is None else (*axes, "time")
    coords = {name: np.asarray(v) for name, v in axes.items()} | ({} if grid is None else {"time": grid})
    variables = {
        "test_loss": (dims, values),
        "train_loss": (dims, values),
        "status": (tuple(axes), np.full(shape, "ok")),
    }
    return LearningCurves(variables, coords, {"solver": "pretended", "messages": []})


@pytest.fixture
def pretended(monkeypatch):
    """`solve` answers exp(-min(t, 1)) to everything."""
    import foretrain.limits

    monkeypatch.setattr(foretrain.limits, "solve", pretended_solve)


@pytest.fixture
def table(tmp_path):
    """Writes columns as a CSV file and gives its name."""

    def write(columns, name="runs.csv"):
        rows = zip(*columns.values(), strict=True)
        lines = [
            ",".join(columns),
            *(",".join(v if isinstance(v, str) else repr(float(v)) for v in row) for row in rows),
        ]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return name

    return write
