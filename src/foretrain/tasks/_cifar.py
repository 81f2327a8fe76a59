"""CIFAR-10 from a local copy, in either of the two forms in which it is handed out, without running pickled code."""

import dataclasses
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int, UInt8

from foretrain._declaration import choice, text
from foretrain.errors import InvalidInput, MissingData
from foretrain.tasks._data import DataSet
from foretrain.tasks._images import LabelledImages

_SIDE, _CHANNELS = 32, 3
_PIXELS = _SIDE * _SIDE * _CHANNELS
_BATCHES = {"train": tuple(f"data_batch_{k}" for k in range(1, 6)), "test": ("test_batch",)}
# Folders that the two archives unpack to.
_INSIDE = (".", "cifar-10-batches-bin", "cifar-10-batches-py")

Images = UInt8[np.ndarray, "rows pixels"]
Labels = Int[np.ndarray, " rows"]


@dataclasses.dataclass(frozen=True, eq=False)
class CIFAR10(LabelledImages):
    """CIFAR-10 from a local copy: 50 000 + 10 000 images of 32 x 32 pixels in three colours. Nothing is ever downloaded.

    Reads the archive's binary version (`data_batch_1.bin` ...) and its Python version (`data_batch_1` ...). The latter are
    pickle files, which can run code when they are opened as such; here only dictionaries, lists, strings, numbers and
    arrays of bytes are read, and anything else is refused. Looked for in `path`, else in the folder that the environment
    variable `FORETRAIN_CIFAR10` names. A row of the inputs is one image, row-major (32, 32, 3).

    All ten classes in float64 are 1.2 GB, and several times that while they are standardized; take fewer `classes` on a
    small machine.

    Args:
        classes: As for `Digits`; labels 0..9 are airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck.
        targets: As for `Digits`.
        center: As for `Digits`.
        scale: As for `Digits`.
        test_samples: Number of test rows.
        seed: Order of the rows.
        path: Folder that holds the batches, or the unpacked archive's folder.
        population: As for `FashionMNIST`.
    """

    kind = "cifar-10"

    path: str | None = text(default=None)
    population: str = choice(("train", "test"), axis=False, default="train")

    def load(self) -> DataSet:
        """The standardized images."""
        folder, form = self._folder()
        train = _read(folder, form, "train")
        test = _read(folder, form, "test") if self.population == "test" else None
        source = f"CIFAR-10, training batches{', tested on its test batch' if test else ''}"
        return self._finish("cifar-10", source, *train, test, white=255.0)

    def _folder(self) -> tuple[Path, str]:
        """The folder of the batches and the ending of their names."""
        named = self.path or os.environ.get("FORETRAIN_CIFAR10")
        first = _BATCHES["train"][0]
        for inside in _INSIDE if named else ():
            place = Path(named).expanduser() / inside  # type: ignore[arg-type]
            for form in (".bin", ""):
                if (place / f"{first}{form}").is_file():
                    return place, form
        looked = f"no {first}.bin or {first} in {named}" if named else "nowhere to look"
        raise MissingData(
            f"cifar-10: {looked}. Get cifar-10-binary.tar.gz or cifar-10-python.tar.gz from "
            "https://www.cs.toronto.edu/~kriz/cifar.html, unpack it, and give `path` (or FORETRAIN_CIFAR10) that folder."
        )


def _read(folder: Path, form: str, part: str) -> tuple[Images, Labels]:
    """All rows of a part, pixels row-major (side, side, channels)."""
    read: Callable[[Path, bytes], tuple[Images, Labels]] = _read_binary if form else _read_pickle
    images, labels = [], []
    for name in _BATCHES[part]:
        path = folder / f"{name}{form}"
        if not path.is_file():
            raise MissingData(f"cifar-10: no file {path}; the folder must hold all five batches and test_batch.")
        found, classes = read(path, path.read_bytes())
        if len(classes) != len(found) or np.any((classes < 0) | (classes > 9)):
            raise InvalidInput(
                f"cifar-10: {path}: expected as many labels 0..9 as its {len(found)} images, got {len(classes)} labels"
                f"{f' up to {classes.max()}' if len(classes) else ''}."
            )
        images.append(found.reshape(-1, _CHANNELS, _SIDE, _SIDE).transpose(0, 2, 3, 1).reshape(-1, _PIXELS))
        labels.append(classes)
    return np.concatenate(images), np.concatenate(labels)


def _read_binary(path: Path, content: bytes) -> tuple[Images, Labels]:
    """Records of one byte of label and 3072 bytes of pixels, channel by channel."""
    if not content or len(content) % (_PIXELS + 1):
        raise InvalidInput(
            f"cifar-10: {path}: expected records of {_PIXELS + 1} bytes, got a file of {len(content)} bytes."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, _PIXELS + 1)
    return records[:, 1:], records[:, 0].astype(np.int64)


def _read_pickle(path: Path, content: bytes) -> tuple[Images, Labels]:
    """A dictionary with `data`, an array of bytes, and `labels`, a list."""
    try:
        batch = _PlainUnpickler(io.BytesIO(content), encoding="bytes").load()
        entries = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
        images, labels = entries["data"].array(), np.array(entries["labels"], dtype=np.int64)
        if images.ndim != 2 or images.shape[1] != _PIXELS or labels.ndim != 1:
            raise ValueError(f"arrays of shape {images.shape} and {labels.shape}")
        return images, labels
    except Exception as error:  # a damaged pickle can fail in any way
        reason = str(error) or type(error).__name__
        raise InvalidInput(
            f"cifar-10: {path}: expected a pickled dictionary with 'data', bytes of shape (rows, {_PIXELS}), and 'labels', "
            f"got: {reason}."
        ) from None


class _Array:
    """What a pickled array says of itself; it becomes an array only after it was checked."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        _version, shape, dtype, fortran, raw = self.state
        if not isinstance(dtype, _Type) or dtype.name not in ("u1", "|u1") or not isinstance(raw, bytes):
            raise ValueError("an array that does not hold unsigned bytes")
        return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


class _Type:
    """A pickled dtype: only its name counts."""

    def __init__(self, name: Any, *_: Any):
        self.name = name.decode() if isinstance(name, bytes) else name

    def __setstate__(self, state: Any) -> None:
        pass


def _encode(characters: str, _encoding: str) -> bytes:
    """How Python 3 writes bytes into old pickles."""
    return characters.encode("latin-1")


def _reconstruct(*_: Any) -> _Array:
    return _Array()


class _PlainUnpickler(pickle.Unpickler):
    """Reads plain values; the few names that pickled arrays need stand for inert objects of this module."""

    _KNOWN: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Type,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in self._KNOWN:
            raise pickle.UnpicklingError(f"the name {module_name}.{global_name}, which plain data do not need")
        return self._KNOWN[module_name, global_name]
