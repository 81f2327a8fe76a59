"""Gram matrices in blocks: the same bits whatever the threads, files that are continued, budgets that are kept."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from foretrain.errors import InvalidInput, TooLarge
from foretrain.kernels import NNGP, NTK, gram, gram_bytes
from foretrain.kernels._stored import checksum
from foretrain.kernels._tiles import cuts

GENERATOR = np.random.default_rng(5)
X = GENERATOR.normal(size=(700, 9))
X[5] = X[0] + 1e-8 * X[1]
X[650] = -X[3]


def blas_threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_pieces_are_nearly_equal():
    assert cuts(1000, 256) == [0, 250, 500, 750, 1000]
    assert cuts(256, 256) == [0, 256]
    assert cuts(1, 64) == [0, 1]
    assert max(np.diff(cuts(20_001, 256))) <= 256


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("rows", [1, 2, 63, 64, 65, 129, 257, 513, 700])
def test_symmetric_at_every_number_of_tiles(rows, dtype):
    found = gram(NTK(2), X[:rows], dtype=dtype)
    assert found.dtype == dtype
    assert found.flags.writeable
    assert np.array_equal(found, found.T)
    assert np.allclose(np.diagonal(found), NTK(2).diagonal(X[:rows]), rtol=1e-6 if dtype == "float32" else 1e-14)


def test_threads_do_not_change_a_bit():
    before = blas_threads()
    found = gram(NTK(3), X)
    with threadpool_limits(1, user_api="blas"):
        assert np.array_equal(gram(NTK(3), X), found)
    with threadpool_limits(3, user_api="blas"):
        assert np.array_equal(gram(NTK(3), X), found)
    assert blas_threads() == before
    # The tile of a pair has other rows beside it here: only rounding differs.
    cross = gram(NTK(3), X[:100], X[50:])
    assert np.allclose(cross, found[:100, 50:], rtol=1e-13, atol=1e-13)


def test_an_error_in_a_thread_reaches_the_caller(monkeypatch):
    def broken(*_):
        raise FloatingPointError("broken on purpose")

    before = blas_threads()
    monkeypatch.setattr("foretrain.kernels._tiles.apply", broken)
    with threadpool_limits(2, user_api="blas"), pytest.raises(FloatingPointError, match="on purpose"):
        gram(NTK(3), X)
    assert blas_threads() == before


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of one tile, and a record after every one of them."""
    monkeypatch.setattr("foretrain.kernels._gram._STORED_ROWS", 1)
    monkeypatch.setattr("foretrain.kernels._stored._CHECKPOINT_SECONDS", 0.0)


BIASED = NNGP(1, bias_variance=0.1)  # no profile at unequal norms


@pytest.mark.parametrize("kernel", [NTK(3), BIASED], ids=["profile", "recursion"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.usefixtures("small_blocks")
def test_a_stored_matrix_has_the_same_bits(tmp_path, kernel, dtype):
    stored = gram(kernel, X, dtype=dtype, out=tmp_path / "gram.npy")
    assert isinstance(stored, np.memmap)
    assert not stored.flags.writeable
    assert np.array_equal(stored, gram(kernel, X, dtype=dtype))
    assert np.array_equal(np.load(tmp_path / "gram.npy"), stored)
    cross = kernel(X[:300], X[300:], dtype=dtype, out=str(tmp_path / "cross.npy"))
    assert np.array_equal(cross, gram(kernel, X[:300], X[300:], dtype=dtype))


class Interrupt(Exception):
    """In place of Ctrl-C."""


@pytest.mark.usefixtures("small_blocks")
def test_an_interrupted_matrix_is_continued(tmp_path, monkeypatch):
    from foretrain.kernels._tiles import ProfileGram

    path, fill, calls = tmp_path / "gram.npy", ProfileGram.fill, []

    def stopping(self, result, tiles):
        if len(calls) == 3:
            raise Interrupt
        calls.append(tiles)
        fill(self, result, tiles)

    monkeypatch.setattr("foretrain.kernels._stored._CHECKPOINT_SECONDS", 1e9)
    monkeypatch.setattr(ProfileGram, "fill", stopping)
    with pytest.raises(Interrupt):
        gram(NTK(3), X, out=path)
    record = json.loads((tmp_path / "gram.npy.blocks.json").read_text())
    assert len(record["done"]) == 3  # what was finished is noted on the way out
    assert record["blocks"] == 6
    monkeypatch.setattr(
        ProfileGram, "fill", lambda self, result, tiles: (calls.append(tiles), fill(self, result, tiles))
    )
    assert np.array_equal(gram(NTK(3), X, out=path), gram(NTK(3), X))
    stored = calls[:6]
    assert len({tile for tiles in stored for tile in tiles}) == 6  # none was computed twice
    calls.clear()
    gram(NTK(3), X, out=path)
    assert calls == []


SLOW = """
    import sys, time
    import numpy as np
    from foretrain.kernels import NTK, gram
    from foretrain.kernels import _gram, _stored
    from foretrain.kernels._tiles import ProfileGram

    _gram._STORED_ROWS, _stored._CHECKPOINT_SECONDS = 1, 0.0
    fill = ProfileGram.fill
    def slowly(self, result, tiles):
        fill(self, result, tiles)
        time.sleep(0.3)
    ProfileGram.fill = slowly
    gram(NTK(3), np.load(sys.argv[1]), out=sys.argv[2])
"""


@pytest.mark.usefixtures("small_blocks")
def test_a_killed_process_is_continued_to_the_same_bits(tmp_path):
    """Signal 9 after the first noted block; the second process computes the rest."""
    inputs, path, record = tmp_path / "x.npy", tmp_path / "gram.npy", tmp_path / "gram.npy.blocks.json"
    np.save(inputs, X)
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(SLOW), str(inputs), str(path)])
    try:
        deadline = time.monotonic() + 120
        while not (record.exists() and json.loads(record.read_text())["done"]):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = json.loads(record.read_text())["done"]
    assert 1 <= len(done) < 6
    assert np.array_equal(gram(NTK(3), X, out=path), gram(NTK(3), X))


@pytest.mark.usefixtures("small_blocks")
def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "gram.npy"
    gram(NTK(3), X, out=path)
    with pytest.raises(InvalidInput, match=r"gram\(out\): .*belongs to another kernel, other inputs"):
        gram(NTK(4), X, out=path)
    other = X.copy()
    other[3, 2] = np.nextafter(other[3, 2], 9.0)
    with pytest.raises(InvalidInput, match=r"other inputs .*choose another name, or delete it"):
        gram(NTK(3), other, out=path)
    with pytest.raises(InvalidInput, match=r"another matrix \(dtype 'float64' instead of 'float32'\)"):
        gram(NTK(3), X, dtype="float32", out=path)
    with pytest.raises(InvalidInput, match=r"another matrix \(shape \[700, 700\] instead of \[600, 600\]"):
        gram(NTK(3), X[:600], out=path)


@pytest.mark.usefixtures("small_blocks")
def test_damaged_files_are_refused(tmp_path):
    path, record = tmp_path / "gram.npy", tmp_path / "gram.npy.blocks.json"
    gram(NTK(3), X, out=path)
    whole, noted = path.read_bytes(), record.read_text()

    path.write_bytes(whole[:-100])
    with pytest.raises(InvalidInput, match=r"truncated .* cannot be continued; delete it and"):
        gram(NTK(3), X, out=path)
    path.write_bytes(b"")
    with pytest.raises(InvalidInput, match="truncated"):
        gram(NTK(3), X, out=path)
    for place in (-8, 128 + 8 * 699):  # one number on the diagonal; one above it, whose mirror image is elsewhere
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(bytes(damaged))
        with pytest.raises(InvalidInput, match=r"block \d of the file is not what was written"):
            gram(NTK(3), X, out=path)
    path.unlink()
    with pytest.raises(InvalidInput, match="the file is gone, but its record is not"):
        gram(NTK(3), X, out=path)
    path.write_bytes(whole)
    for text in ("{", "[]", json.dumps({**json.loads(noted), "done": 3})):
        record.write_text(text)
        with pytest.raises(InvalidInput, match="cannot be read"):
            gram(NTK(3), X, out=path)
    record.unlink()
    with pytest.raises(InvalidInput, match=r"exists, but has no record"):
        gram(NTK(3), X, out=path)
    record.write_text(noted)
    assert np.array_equal(gram(NTK(3), X, out=path), gram(NTK(3), X))


def test_bad_names_and_full_disks(tmp_path, monkeypatch):
    with pytest.raises(InvalidInput, match=r"gram\(out\): expected the name of a file ending in \.npy, got 'gram'"):
        gram(NTK(), X, out="gram")
    with pytest.raises(InvalidInput, match=r"the folder .* does not exist"):
        gram(NTK(), X, out=tmp_path / "missing" / "gram.npy")
    monkeypatch.setattr("foretrain.kernels._stored.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(TooLarge, match=r"needs 0\.00392 GB on disk, .* has 1e-06 GB free"):
        gram(NTK(), X, out=tmp_path / "gram.npy")
    assert list(tmp_path.iterdir()) == []


def test_checksums_see_single_bits_and_order():
    part = GENERATOR.normal(size=(40, 30))
    value = checksum(part)
    changed = part.copy()
    changed[3, 4] = np.nextafter(changed[3, 4], 9.0)
    assert checksum(changed) != value
    assert checksum(part[::-1]) != value
    assert checksum(np.asfortranarray(part)[:, :]) == value
    assert checksum(part.astype(np.float32)) != value


# --- budgets -------------------------------------------------------------------------------------------------------


def test_too_large_names_the_ways_out(tmp_path):
    with pytest.raises(
        TooLarge, match=r"use fewer rows, dtype='float32', out='NAME\.npy' .* or pass a larger `memory`"
    ):
        gram(NTK(), X, memory=1e6)
    with pytest.raises(TooLarge, match=r"use fewer rows, out='NAME\.npy'"):
        gram(NTK(), X, memory=1e6, dtype="float32")
    # A stored matrix does not count; the blocks in work do.
    assert gram_bytes(100_000, 100_000, stored=True) < 1e8 < gram_bytes(100_000, 100_000)
    gram(NTK(), X, memory=7e7, out=tmp_path / "gram.npy")


MEASURE = """
    import resource, sys
    import numpy as np
    from foretrain.kernels import NTK, gram

    rows, dtype = int(sys.argv[1]), sys.argv[2]
    x = np.random.default_rng(0).normal(size=(rows, 20))
    gram(NTK(3), x[:600], dtype=dtype)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gram(NTK(3), x, dtype=dtype)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_peak_memory_is_within_the_estimate(dtype):
    """The result, and less than the blocks that the estimate allows for."""
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEASURE), "4000", dtype], capture_output=True, text=True, check=True
    )
    assert float(found.stdout) < gram_bytes(4000, 4000, dtype=dtype)
