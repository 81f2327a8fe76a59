"""States of unfinished runs on disk, so that a run that was killed goes on to the same bits."""

import hashlib
import io
import json
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

import foretrain
from foretrain.errors import InvalidInput

# A state is written again only when that takes less than this share of the time since it was last written.
_SHARE = 0.1
_PLAN = "plan.json"


class Checkpoint:
    """A folder that holds the plan of a sweep and the state of each of its chunks.

    Every file appears whole or not at all: it is written beside its place, and renamed.

    Args:
        folder: Made when it is not there.
        made_from: All that the result depends on; a folder of anything else is refused.

    Raises:
        InvalidInput: The folder belongs to other runs, cannot be written or is damaged.
    """

    def __init__(self, folder: str | os.PathLike, made_from: tuple):
        self.folder = Path(folder)
        facts = [foretrain.__version__, jax.__version__, *made_from]
        self._key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(
                f"run_network(checkpoint): cannot make the folder {self.folder}: {error.strerror}; give another one."
            ) from None

    def plan(self, fresh: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """The plan that was begun; a given one is written when there is none.

        Args:
            fresh: The plan to begin with.

        Raises:
            InvalidInput: The folder belongs to other runs.
        """
        place = self.folder / _PLAN
        if not place.exists():
            if fresh is not None:
                self._write(place, json.dumps({"made_from": self._key, "plan": fresh}).encode())
            return fresh
        try:
            table = json.loads(place.read_text())
            same, found = table["made_from"] == self._key, dict(table["plan"])
        except (OSError, ValueError, KeyError, TypeError):
            raise InvalidInput(f"run_network(checkpoint): {place} is damaged; remove the folder.") from None
        if not same:
            raise InvalidInput(
                f"run_network(checkpoint): {self.folder} holds the states of other runs (another problem, times, seeds or release); "
                "give another folder or remove it."
            )
        return found

    def chunk(self, number: int) -> "ChunkState":
        """The place of the state of one chunk.

        Args:
            number: Of the chunk.
        """
        return ChunkState(self, self.folder / f"chunk-{number}.npz")

    def _write(self, place: Path, content: bytes) -> None:
        part = place.with_name(f".{place.name}.{os.getpid()}.part")
        try:
            with open(part, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, place)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise InvalidInput(
                f"run_network(checkpoint): cannot write {place}: {error.strerror}; give another folder."
            ) from None


class ChunkState:
    """The state of one chunk: numbers by name, and the leaves of weights and optimizer.

    Args:
        owner: The checkpoint.
        place: The file.
    """

    def __init__(self, owner: Checkpoint, place: Path):
        self._owner, self._place = owner, place
        self._took, self._when = 0.0, -np.inf

    def save(self, numbers: dict[str, np.ndarray], state: Any, *, last: bool) -> None:
        """Write the state, unless the last writing was too short a time ago.

        Args:
            numbers: Losses, and how far the runs are.
            state: Weights and memory of the optimizer.
            last: The runs are finished: always written, without weights.
        """
        began = time.perf_counter()
        if not last and self._took > _SHARE * (began - self._when):
            return
        leaves = [] if last else jax.tree.leaves(state)
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {f"leaf_{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
        np.savez(buffer, **numbers, **arrays)
        self._owner._write(self._place, buffer.getvalue())
        self._when = time.perf_counter()
        self._took = self._when - began

    def load(self, state: Any) -> tuple[dict[str, np.ndarray], Any] | None:
        """What was saved, or `None`.

        Args:
            state: A state of the same form.

        Raises:
            InvalidInput: The file is damaged.
        """
        if not self._place.exists():
            return None
        leaves, structure = jax.tree.flatten(state)
        try:
            with np.load(io.BytesIO(self._place.read_bytes()), allow_pickle=False) as archive:
                numbers = {name: archive[name] for name in archive.files if not name.startswith("leaf_")}
                if "leaf_0" in archive.files:
                    found = [archive[f"leaf_{i}"] for i in range(len(leaves))]
                    state = jax.tree.unflatten(structure, [jax.numpy.asarray(leaf) for leaf in found])
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            raise InvalidInput(f"run_network(checkpoint): {self._place} is damaged; remove it.") from None
        return numbers, state
