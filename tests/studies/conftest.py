"""A limit that costs nothing, for tests of what surrounds the limits."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest

from foretrain.curves import LearningCurves
from foretrain.limits import Limit, _registry

sys.path.insert(0, str(Path(__file__).parent))  # for `transfer_surfaces`


def _solve(problem, times, *, outputs=(), progress=None):
    axes = problem.axes()
    shape = tuple(len(v) for v in axes.values())
    grid = np.zeros(1) if times is None else times
    values = np.broadcast_to(np.exp(-np.minimum(grid, 1.0)), (*shape, len(grid)))
    dims = (*axes, "time")
    if times is None:
        values, dims = values[..., 0], tuple(axes)
    coords = {name: np.asarray(v) for name, v in axes.items()} | ({} if times is None else {"time": times})
    status = np.full(shape, "ok")
    variables = {"test_loss": (dims, values), "train_loss": (dims, values), "status": (tuple(axes), status)}
    return LearningCurves(variables, coords, {"solver": "pretended", "messages": []})


@pytest.fixture
def pretended_limit(monkeypatch):
    """The registry holds only a limit that covers everything and answers exp(-min(t, 1))."""
    module = types.ModuleType("pretended_limit")
    module.covers = lambda problem: None
    module.solve = _solve
    monkeypatch.setitem(sys.modules, "pretended_limit", module)
    monkeypatch.setattr(_registry, "LIMITS", (Limit("pretended", "pretended_limit"),))
    return module
