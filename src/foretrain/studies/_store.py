"""A small content-addressed store of results, so that nothing is computed twice and a killed run goes on.

A result lives in `<folder>/<key>.<checksum>.nc`. The key is a hash of everything that determines the result: the
declaration, the options of the verb, the schema, and a fingerprint of this package's own source. The checksum is of the
file's content. Writing is one atomic rename, so a kill leaves either the whole file or none of it.
"""

import hashlib
import json
import os
import warnings
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import foretrain
from foretrain._declaration import _canonical
from foretrain.curves import SCHEMA_VERSION, LearningCurves
from foretrain.errors import ForetrainError, ForetrainWarning, InvalidInput

Result = TypeVar("Result")

DEFAULT_FOLDER = ".foretrain"


@cache
def fingerprint() -> str:
    """Version of the package and a hash of its source: results of other code are never taken for this code's."""
    root = Path(foretrain.__file__).parent
    digest = hashlib.sha256(foretrain.__version__.encode())
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


class Store:
    """A folder of results, found by what they were made from.

    Args:
        folder: Where results live; created on first use. By default the environment variable `FORETRAIN_STORE`, else
            `.foretrain` in the current folder.

    Raises:
        InvalidInput: The folder was asked for by name and cannot be written.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from foretrain.curves import LearningCurves
        >>> from foretrain.studies import Store
        >>> store = Store(tempfile.mkdtemp())
        >>> key = store.key("solve", {"width": 64})
        >>> store.save(key, LearningCurves({}, {"time": np.array([1.0])}, {}))
        >>> store.load(key).coords["time"].item()
        1.0
    """

    def __init__(self, folder: str | os.PathLike | None = None):
        named = folder if folder is not None else os.environ.get("FORETRAIN_STORE") or None
        self.folder = Path(named if named is not None else DEFAULT_FOLDER)
        self.writable = True
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK | os.X_OK):
                raise PermissionError(13, "no permission to write")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            if named is not None:
                raise InvalidInput(
                    f"store: cannot keep results in {self.folder}: {reason}; give another folder with --store, or --no-store."
                ) from None
            self._give_up(reason)

    def key(self, verb: str, *parts: Any) -> str:
        """The name of the result that `verb` makes from `parts` (declarations, arrays and plain values)."""
        content = [verb, SCHEMA_VERSION, fingerprint(), *[_canonical(p) for p in parts]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:40]

    def load(self, key: str) -> LearningCurves | None:
        """The result of that name, or `None`: absent, damaged or half-written ones do not count, and are removed."""
        for path in sorted(self.folder.glob(f"{key}.*.nc")):
            try:
                if path.name.split(".")[1] == _checksum(path):
                    return LearningCurves.load(path)
            except (OSError, ForetrainError):
                pass
            warnings.warn(f"store: {path} is damaged; it is computed again.", ForetrainWarning, stacklevel=2)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                self._give_up(error.strerror or str(error))
        return None

    def save(self, key: str, curves: LearningCurves) -> None:
        """Keep a result; a full disk or a folder without permission is a warning, not an error."""
        if not self.writable:
            return
        part = self.folder / f".{key}.{os.getpid()}.part"
        try:
            curves.save(part)
            os.replace(part, self.folder / f"{key}.{_checksum(part)}.nc")
        except OSError as error:
            part.unlink(missing_ok=True)
            self._give_up(error.strerror or str(error))

    def _give_up(self, reason: str) -> None:
        self.writable = False
        warnings.warn(
            f"store: cannot keep results in {self.folder}: {reason}; going on without.", ForetrainWarning, stacklevel=3
        )


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
