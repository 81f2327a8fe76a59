"""The store: same content same key, damage is noticed, a kill in the middle costs only what was not finished."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from foretrain import GradientFlow, PowerLaw, Problem, RandomFeatures, Study
from foretrain.curves import LearningCurves
from foretrain.errors import ForetrainWarning, InvalidInput
from foretrain.studies import Store, train_study
from foretrain.studies import _run as run_module

CURVES = LearningCurves({"test_loss": (("time",), np.array([1.0, 0.5]))}, {"time": np.array([0.0, 1.0])}, {"a": [1]})
PROBLEM = Problem(PowerLaw(1.5, 0.6, modes=100), RandomFeatures(width=[4, 8]), GradientFlow(samples=[6, 12]))


def files(store):
    return sorted(p.name for p in store.folder.iterdir())


def test_what_is_kept_comes_back(tmp_path):
    store = Store(tmp_path / "deep" / "store")
    key = store.key("solve", PROBLEM)
    assert store.load(key) is None
    store.save(key, CURVES)
    found = store.load(key)
    np.testing.assert_array_equal(found.values("test_loss"), CURVES.values("test_loss"))
    assert dict(found.attrs) == dict(CURVES.attrs)


def test_keys_tell_apart_what_differs(tmp_path):
    store = Store(tmp_path)
    keys = [
        store.key("solve", PROBLEM),
        store.key("train", PROBLEM),
        store.key("solve", PROBLEM, 1),
        store.key("solve", PROBLEM, 1.0),
        store.key("solve", PROBLEM, np.array([1.0])),
        store.key("solve", PROBLEM.select({"width": 4.0})),
    ]
    assert len(set(keys)) == len(keys)
    twin = Problem(PowerLaw(1.5, 0.6, modes=100), RandomFeatures(width=[4, 8]), GradientFlow(samples=[6, 12]))
    assert store.key("solve", twin) == keys[0]


def test_keys_change_with_the_code(tmp_path, monkeypatch):
    from foretrain.studies import _store

    before = Store(tmp_path).key("solve", PROBLEM)
    monkeypatch.setattr(_store, "fingerprint", lambda: "other code")
    assert Store(tmp_path).key("solve", PROBLEM) != before


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b[:50] + b"x" + b[51:], lambda b: b""])
def test_damaged_results_are_computed_again(tmp_path, damage):
    store = Store(tmp_path)
    store.save("k" * 40, CURVES)
    path = next(tmp_path.glob("*.nc"))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(ForetrainWarning, match="is damaged; it is computed again"):
        assert store.load("k" * 40) is None
    assert files(store) == []


def test_folder_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("FORETRAIN_STORE", str(tmp_path / "there"))
    assert Store().folder == tmp_path / "there"
    monkeypatch.delenv("FORETRAIN_STORE")
    monkeypatch.chdir(tmp_path)
    assert Store().folder.resolve() == tmp_path / ".foretrain"


def test_a_named_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match=r"store: cannot keep results in .*; give another folder with --store"):
        Store(tmp_path / "file" / "store")
    with pytest.raises(InvalidInput, match="cannot keep results"):
        Store("a\0b")


def test_an_unnamed_folder_that_cannot_be_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORETRAIN_STORE", raising=False)
    (tmp_path / ".foretrain").write_text("")
    with pytest.warns(ForetrainWarning, match="going on without"):
        store = Store()
    store.save("k" * 40, CURVES)
    assert store.load("k" * 40) is None


def test_a_full_disk_is_a_warning(tmp_path, monkeypatch):
    store = Store(tmp_path)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.warns(ForetrainWarning, match="No space left on device; going on without"):
        store.save("k" * 40, CURVES)
    store.save("j" * 40, CURVES)  # said once
    assert [n for n in files(store) if n.endswith(".nc")] == []


def counted(monkeypatch):
    import foretrain.training as training

    calls = []
    real = training.train

    def train(problem, times, **options):
        calls.append((options["seed"], options["seeds"]))
        return real(problem, times, **options)

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr("foretrain.training._sampling.cores", lambda: 2)
    return calls


def test_training_goes_to_the_store_in_pieces_and_more_seeds_reuse_them(tmp_path, monkeypatch):
    calls = counted(monkeypatch)
    study = Study(PROBLEM, times=[1.0, 10.0], seeds=5, seed=7)
    store = Store(tmp_path)
    first = train_study(study, store=store)
    assert calls == [(7, 2), (9, 2), (11, 1)]
    again = train_study(study, store=store)
    assert len(calls) == 3
    for name in first.variables:
        np.testing.assert_array_equal(first.values(name), again.values(name))
    train_study(study.replace(seeds=6), store=store)
    assert calls[3:] == [(11, 2)]  # the first four are there
    train_study(study.replace(title="other words"), store=store)
    assert len(calls) == 4  # the title makes no difference


def test_without_a_store_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_study(Study(PROBLEM, times=[1.0], seeds=2))
    assert list(tmp_path.iterdir()) == []


def test_many_seeds_make_few_pieces(monkeypatch):
    monkeypatch.setattr("foretrain.training._sampling.cores", lambda: 2)
    pieces = run_module._pieces(1001)
    assert sum(pieces) == 1001
    assert len(pieces) <= 32


KILLED = """
import sys, time
import foretrain.training as training
from foretrain import GradientFlow, PowerLaw, Problem, RandomFeatures, Study
from foretrain.studies import Store, train_study
import foretrain.training._sampling as sampling
sampling.cores = lambda: 2
real = training.train
def slow(problem, times, **options):
    if options["seed"] >= 4:
        print("started", flush=True)
        time.sleep(60)
    return real(problem, times, **options)
training.train = slow
problem = Problem(PowerLaw(1.5, 0.6, modes=100), RandomFeatures(width=[4, 8]), GradientFlow(samples=[6, 12]))
train_study(Study(problem, times=[1.0, 10.0], seeds=6), store=Store(sys.argv[1]))
"""


def test_a_killed_run_goes_on_where_it_was(tmp_path, monkeypatch):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"started\n"  # two pieces are finished, the third has begun
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(list(tmp_path.glob("*.nc"))) == 2
    calls = counted(monkeypatch)
    study = Study(PROBLEM, times=[1.0, 10.0], seeds=6)
    resumed = train_study(study, store=Store(tmp_path))
    assert calls == [(4, 2)]
    fresh = train_study(study)
    for name in fresh.variables:
        np.testing.assert_array_equal(resumed.values(name), fresh.values(name))


@pytest.mark.long
def test_killed_at_any_moment_the_store_is_whole(tmp_path):
    code = KILLED.replace('options["seed"] >= 4', "False").replace("seeds=6", "seeds=60")
    for delay in np.linspace(1.0, 2.5, 6):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.DEVNULL)
        time.sleep(delay)
        process.kill()
        process.wait()
        store = Store(tmp_path)
        for path in tmp_path.glob("*.nc"):
            assert store.load(path.name.split(".")[0]) is not None
