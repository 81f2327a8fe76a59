"""A matrix in a memory-mapped file, written block by block, with a record beside it of the blocks that are done.

The record names the problem by a digest and holds a checksum of every finished block. It is replaced in one step, and only
after the blocks it lists have been written to the file, so a process that is killed leaves a file that can be continued.
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float

from foretrain.errors import InvalidInput, TooLarge

_FORMAT = 1
# Seconds of work that a killed process may lose.
_CHECKPOINT_SECONDS = 5.0


class StoredMatrix:
    """The file and its record; made by the first call, continued by every later one of the same problem.

    Args:
        path: File name ending in `.npy`.
        shape: Of the matrix.
        dtype: Of the matrix.
        blocks: Number of blocks.
        read: `read(matrix, block)` returns the block's part of the matrix and the part that must equal it (its mirror image,
            or itself).
        digest: Names the problem: kernel, inputs, precision, blocks.
        who: The function and argument that messages name.
    """

    def __init__(
        self,
        path: str | Path,
        shape: tuple[int, int],
        dtype: str,
        *,
        blocks: int,
        read: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]],
        digest: str,
        who: str,
    ):
        self.path, self.who, self._read, self._blocks = Path(path), who, read, blocks
        self.record = self.path.with_name(self.path.name + ".blocks.json")
        if self.path.suffix != ".npy":
            raise InvalidInput(f"{who}: expected the name of a file ending in .npy, got {str(path)!r}.")
        if not self.path.parent.is_dir():
            raise InvalidInput(f"{who}: the folder {str(self.path.parent)!r} does not exist; create it first.")
        self._head = {"format": _FORMAT, "digest": digest, "shape": list(shape), "dtype": dtype, "blocks": blocks}
        self._done = self._old_blocks()
        self._matrix = self._open(shape, dtype)
        self._verify()
        self._saved = time.monotonic()

    def missing(self) -> list[int]:
        """The blocks that are not done."""
        return [block for block in range(self._blocks) if block not in self._done]

    @property
    def matrix(self) -> Float[np.ndarray, "rows columns"]:
        """The memory map, to be written."""
        return self._matrix

    def mark(self, block: int) -> None:
        """Note that this block has been written; the record follows every few seconds."""
        self._done[block] = checksum(self._read(self._matrix, block)[0])
        if time.monotonic() - self._saved >= _CHECKPOINT_SECONDS:
            self.save()

    def save(self) -> None:
        """Write the blocks to the file, then the record."""
        self._matrix.flush()
        self._write_record()
        self._saved = time.monotonic()

    def finished(self) -> Float[np.ndarray, "rows columns"]:
        """The matrix as a read-only memory map."""
        self.save()
        return np.load(self.path, mmap_mode="r")

    def _old_blocks(self) -> dict[int, int]:
        if not self.record.exists():
            if self.path.exists():
                raise InvalidInput(
                    f"{self.who}: {str(self.path)!r} exists, but has no record {self.record.name!r} beside it, so it is not known "
                    "what it holds; choose another name, or delete it."
                )
            return {}
        try:
            found = json.loads(self.record.read_text())
            done = {int(block): int(value) for block, value in found.pop("done").items()}
        except (ValueError, KeyError, AttributeError, TypeError):
            raise self._wrong(f"the record {self.record.name!r} cannot be read") from None
        if found != self._head:
            names = [key for key in self._head if found.get(key) != self._head[key]]
            if names == ["digest"]:
                raise InvalidInput(
                    f"{self.who}: {str(self.path)!r} belongs to another kernel, other inputs or another version; choose another "
                    f"name, or delete it and {self.record.name!r}."
                )
            told = ", ".join(
                f"{key} {found.get(key)!r} instead of {self._head[key]!r}" for key in names if key != "digest"
            )
            raise InvalidInput(
                f"{self.who}: {str(self.path)!r} belongs to another matrix ({told}); choose another name, or delete it and "
                f"{self.record.name!r}."
            )
        return done

    def _open(self, shape: tuple[int, int], dtype: str) -> np.memmap:
        if not self._done:  # nothing to lose: also after a kill between the first record and the file
            need, free = float(np.prod(shape)) * np.dtype(dtype).itemsize, shutil.disk_usage(self.path.parent).free
            if need > free:
                raise TooLarge(
                    f"{self.who}: a {shape[0]} x {shape[1]} matrix in {dtype} needs {need / 1e9:.3g} GB on disk, "
                    f"{str(self.path.parent)!r} has {free / 1e9:.3g} GB free; choose another folder or dtype='float32'."
                )
            self._write_record()
            return np.lib.format.open_memmap(self.path, mode="w+", dtype=dtype, shape=shape)
        if not self.path.exists():
            raise self._wrong("the file is gone, but its record is not")
        try:
            matrix = np.load(
                self.path, mmap_mode="r"
            )  # opened for writing, a truncated file would be filled up with zeros
        except (ValueError, OSError, EOFError):
            raise self._wrong("the file is truncated or is no .npy file") from None
        if not isinstance(matrix, np.memmap) or matrix.shape != shape or matrix.dtype != np.dtype(dtype):
            raise self._wrong(f"the file holds {matrix.dtype} of shape {matrix.shape}, the record says otherwise")
        return np.load(self.path, mmap_mode="r+")

    def _verify(self) -> None:
        """Every block that the record lists must still be what was written."""
        for block, value in self._done.items():
            known = 0 <= block < self._blocks
            part, mirrored = self._read(self._matrix, block if known else 0)
            if not known or checksum(part) != value or not np.array_equal(part, mirrored):
                raise self._wrong(f"block {block} of the file is not what was written")

    def _wrong(self, what: str) -> InvalidInput:
        return InvalidInput(
            f"{self.who}: {what}: {str(self.path)!r} cannot be continued; delete it and {self.record.name!r} to start again, "
            "or restore both."
        )

    def _write_record(self) -> None:
        text = json.dumps({**self._head, "done": {str(block): value for block, value in self._done.items()}})
        new = self.record.with_name(self.record.name + ".new")
        with new.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.record)


def checksum(part: Float[np.ndarray, "rows columns"]) -> int:
    """A sum of the bits that changes with every change of one number and of the order of rows."""
    bits = part.view(np.uint64 if part.dtype == np.float64 else np.uint32)
    rows = np.sum(bits, axis=1, dtype=np.uint64)
    odd = 2 * np.arange(part.shape[0], dtype=np.uint64) + 1
    return int(np.sum(rows * odd, dtype=np.uint64))
