"""A training that is killed goes on to the same bits."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from foretrain.errors import InvalidInput
from foretrain.problems import MLP, NetworkTraining, Problem
from foretrain.tasks import Arrays
from foretrain.training import run_network

RNG = np.random.default_rng(0)
TASK = Arrays(inputs=RNG.standard_normal((40, 5)), targets=np.eye(3)[RNG.integers(0, 3, 40)])
PROBLEM = Problem(
    TASK, MLP(width=8), NetworkTraining(learning_rate=[0.02, 0.1], optimizer="adam", batch_size=7, samples=30)
)
TIMES = [0, 4, 9, 20]

# The child writes at every recorded time, and stops for good on its way, as if it took long; the test kills it there.
CHILD = """
import sys, time
import numpy as np
sys.path.insert(0, sys.argv[1])
from test_network_checkpoint import PROBLEM, TIMES
import foretrain.training._network_state as state
from foretrain.training import run_network
state._SHARE = float("inf")
def hang(done, total, label):
    if done >= total * float(sys.argv[3]):
        print("there", flush=True)
        time.sleep(600)
run_network(PROBLEM, TIMES, seeds=[0, 1], checkpoint=sys.argv[2], progress=hang, strategy=sys.argv[4])
"""


@pytest.mark.parametrize(
    ("strategy", "share", "steps"),
    [("vmap", 0.7, [0, 36, 80]), ("single", 0.6, [0, 20, 40, 44, 49])],
)
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, strategy, share, steps):
    """Two rates and two seeds: four batched runs that were recorded at step 9, or two runs and four steps of the third."""
    folder = tmp_path / "states"
    arguments = [os.path.dirname(__file__), str(folder), str(share), strategy]
    with subprocess.Popen([sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "there\n"
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert any(path.name.startswith("chunk-") for path in folder.iterdir())
    taken = []
    went_on = run_network(PROBLEM, TIMES, seeds=[0, 1], checkpoint=folder, progress=lambda *call: taken.append(call))
    whole = run_network(PROBLEM, TIMES, seeds=[0, 1], strategy=strategy)
    assert went_on.strategy == strategy  # the plan that was begun
    assert [done for done, _, _ in taken][: len(steps)] == steps  # what was kept is not done again
    for name in ("train_loss", "test_loss", "accuracy", "diverged"):
        np.testing.assert_array_equal(getattr(went_on, name), getattr(whole, name))


def test_a_finished_training_is_read(tmp_path):
    first = run_network(PROBLEM, TIMES, seeds=[0, 1], checkpoint=tmp_path, strategy="vmap")
    again = run_network(PROBLEM, TIMES, seeds=[0, 1], checkpoint=tmp_path)
    np.testing.assert_array_equal(first.test_loss, again.test_loss)
    assert np.isnan(again.steps_per_second)  # no step was taken
    assert not list(tmp_path.glob("*.part"))


def test_states_are_written_rarely_when_writing_takes_long(tmp_path, monkeypatch):
    from foretrain.training._network_state import Checkpoint

    state = Checkpoint(tmp_path, ("test",)).chunk(0)
    clock = iter([0.0, 1.0, 5.0, 12.0, 13.0, 14.0, 15.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    leaves = {"w": np.arange(3.0)}
    state.save({"done": np.asarray(1)}, leaves, last=False)  # takes 1 second, until 1
    state.save({"done": np.asarray(2)}, leaves, last=False)  # at 5: too early
    assert state.load(leaves)[0]["done"] == 1
    state.save({"done": np.asarray(3)}, leaves, last=False)  # at 12
    assert state.load(leaves)[0]["done"] == 3
    state.save({"done": np.asarray(4)}, leaves, last=True)  # always
    assert state.load(leaves)[0]["done"] == 4


def test_folders_that_cannot_be_used(tmp_path):
    run_network(PROBLEM, TIMES, seeds=[0], checkpoint=tmp_path)
    with pytest.raises(InvalidInput, match="holds the states of other runs"):
        run_network(PROBLEM, TIMES, seeds=[1], checkpoint=tmp_path)
    chunk = next(tmp_path.glob("chunk-*.npz"))
    chunk.write_bytes(chunk.read_bytes()[:-40])
    with pytest.raises(InvalidInput, match="is damaged; remove it"):
        run_network(PROBLEM, TIMES, seeds=[0], checkpoint=tmp_path)
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(InvalidInput, match="damaged; remove the folder"):
        run_network(PROBLEM, TIMES, seeds=[0], checkpoint=tmp_path)
    with pytest.raises(InvalidInput, match="cannot make the folder"):
        run_network(PROBLEM, TIMES, seeds=[0], checkpoint=chunk / "inside")
