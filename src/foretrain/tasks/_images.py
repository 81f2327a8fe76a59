"""Labelled images: scikit-learn's digits, Fashion-MNIST from a local copy, and how labels become targets."""

import dataclasses
import gzip
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Real, UInt8

from foretrain._declaration import choice, custom, flag, integer, show, text
from foretrain.errors import InvalidInput, MissingData
from foretrain.tasks._base import AbstractDataTask
from foretrain.tasks._data import DataSet, Standardization

Group = tuple[int, ...]


def _parse_classes(value: Any) -> tuple[Group, ...]:
    """Every entry is one class: a label, or a list of labels that are taken together."""
    expected = f"expected a list of at least two classes, each a label or a list of labels, got {show(value)}"
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) < 2:
        raise ValueError(expected)
    groups = []
    for entry in value:
        labels = entry if isinstance(entry, Sequence) and not isinstance(entry, str) else [entry]
        if not labels or any(isinstance(v, bool) or not isinstance(v, (int, np.integer)) for v in labels):
            raise ValueError(expected)
        groups.append(tuple(int(v) for v in labels))
    flat = [label for group in groups for label in group]
    if len(set(flat)) != len(flat):
        raise ValueError(f"expected every label once, got {show(value)}")
    return tuple(groups)


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledImages(AbstractDataTask):
    """Fields that labelled image sets share."""

    classes: tuple[Group, ...] = custom(
        _parse_classes, default=((0,), (1,), (2,), (3,), (4,), (5,), (6,), (7,), (8,), (9,))
    )
    targets: str = choice(("auto", "signs", "one-hot"), axis=False, default="auto")
    center: bool = flag(default=True)
    scale: str = choice(("sphere", "variance", "none"), axis=False, default="sphere")
    test_samples: int | None = integer(low=1, axis=False, default=None)
    seed: int = integer(low=0, axis=False, default=0)

    def _check(self) -> None:
        if self.targets == "signs" and len(self.classes) != 2:
            raise self._wrong("targets", f"expected two classes for 'signs', got {len(self.classes)}; use 'one-hot'")
        wrong = [label for group in self.classes for label in group if not 0 <= label <= 9]
        if wrong:
            raise self._wrong("classes", f"expected labels 0..9, got {wrong[0]}")

    def _select(
        self, images: Real[np.ndarray, "rows pixels"], labels: Int[np.ndarray, " rows"]
    ) -> tuple[Real[np.ndarray, "kept pixels"], Float[np.ndarray, "kept outputs"]]:
        """Rows of the chosen classes and their targets: ±1 for two classes (the first is +1), else one column a class."""
        index = np.full(10, -1)
        for position, group in enumerate(self.classes):
            index[list(group)] = position
        kept = index[labels] >= 0
        position = index[labels[kept]]
        signs = self.targets == "signs" or (self.targets == "auto" and len(self.classes) == 2)
        columns = 1.0 - 2.0 * position[:, None] if signs else np.eye(len(self.classes))[position]
        return images[kept], columns

    def _finish(
        self,
        name: str,
        source: str,
        images: Real[np.ndarray, "rows pixels"],
        labels: Int[np.ndarray, " rows"],
        test: tuple[np.ndarray, np.ndarray] | None = None,
        *,
        white: float = 1.0,
    ) -> DataSet:
        """The standardized set, of pixels divided by `white`; without a test file, `test_samples` rows are set aside."""
        inputs, targets = self._select(images, labels)
        test_inputs = test_targets = None
        order = np.random.default_rng(self.seed).permutation(len(inputs))
        inputs, targets = inputs[order] / white, targets[order]
        if test is not None:
            test_inputs, test_targets = self._select(*test)
            test_inputs = test_inputs / white
            if self.test_samples is not None:
                if self.test_samples > len(test_inputs):
                    raise self._wrong(
                        "test_samples",
                        f"expected at most {len(test_inputs)} rows of the test file, got {self.test_samples}",
                    )
                test_inputs, test_targets = test_inputs[: self.test_samples], test_targets[: self.test_samples]
        elif self.test_samples is not None:
            if self.test_samples >= len(inputs):
                raise self._wrong(
                    "test_samples", f"expected fewer than the {len(inputs)} rows of the set, got {self.test_samples}"
                )
            test_inputs, inputs = inputs[: self.test_samples], inputs[self.test_samples :]
            test_targets, targets = targets[: self.test_samples], targets[self.test_samples :]
        standardization = Standardization.fit(inputs, center=self.center, scale=self.scale)
        return DataSet(
            name,
            standardization.apply(inputs),
            targets,
            None if test_inputs is None else standardization.apply(test_inputs),
            test_targets,
            standardization,
            source,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Digits(LabelledImages):
    """The 1797 images of 8 x 8 handwritten digits that scikit-learn carries.

    Args:
        classes: The classes, each a label or a list of labels; all ten digits by default. Two classes become one output
            ±1 (the first is +1), more become one output per class.
        targets: `"signs"` or `"one-hot"` to override that choice.
        center: Subtract the mean image of the set.
        scale: `"sphere"` puts every image on the sphere of radius sqrt(pixels); `"variance"` divides all by one number.
        test_samples: Rows set aside for testing; without it, the test rows are those not drawn for training.
        seed: Order of the rows.

    Example:
        >>> from foretrain.tasks import Digits
        >>> Digits(classes=[[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]).load().targets.shape
        (1797, 1)
    """

    kind = "digits"

    def load(self) -> DataSet:
        """The standardized images."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        return self._finish("digits", "scikit-learn's 8 x 8 digits, 1797 images", bunch.data, bunch.target)  # type: ignore[attr-defined]


_FASHION_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_FASHION_PLACES = ("/usr/share/datasets/fashion-mnist", "/usr/share/dataset-fashion-mnist")


@dataclasses.dataclass(frozen=True, eq=False)
class FashionMNIST(LabelledImages):
    """Fashion-MNIST from a local copy: 60 000 + 10 000 images of 28 x 28 pixels. Nothing is ever downloaded.

    Looked for in `path`, then in the folder that the environment variable `FORETRAIN_FASHION_MNIST` names, then where
    Debian's package `dataset-fashion-mnist` puts it.

    Args:
        classes: As for `Digits`.
        targets: As for `Digits`.
        center: As for `Digits`.
        scale: As for `Digits`.
        test_samples: Number of test rows.
        seed: Order of the rows.
        path: Folder that holds the four `.gz` files.
        population: `"train"`: test rows come from the training file, the population that theory predicts. `"test"`: the
            test file, which is 1 to 4 % harder, a shift that belongs to the data.
    """

    kind = "fashion-mnist"

    path: str | None = text(default=None)
    population: str = choice(("train", "test"), axis=False, default="train")

    def load(self) -> DataSet:
        """The standardized images."""
        folder = self._folder()
        train = _read_fashion(folder, "train")
        test = _read_fashion(folder, "test") if self.population == "test" else None
        source = f"Fashion-MNIST, training file{', tested on its test file' if test else ''}"
        return self._finish("fashion-mnist", source, *train, test, white=255.0)

    def _folder(self) -> Path:
        named = self.path or os.environ.get("FORETRAIN_FASHION_MNIST")
        places = [Path(named).expanduser()] if named else [Path(p) for p in _FASHION_PLACES]
        for place in places:
            if (place / _FASHION_FILES["train"][0]).is_file():
                return place
        raise MissingData(
            f"fashion-mnist: no {_FASHION_FILES['train'][0]} in {' or '.join(map(str, places))}. Install Debian's package "
            "dataset-fashion-mnist, or give `path` (or FORETRAIN_FASHION_MNIST) the folder that holds the four .gz files."
        )


def _read_fashion(folder: Path, part: str) -> tuple[UInt8[np.ndarray, "rows pixels"], Int[np.ndarray, " rows"]]:
    images, labels = (_read_idx(folder / name) for name in _FASHION_FILES[part])
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or labels.max(initial=0) > 9:
        raise InvalidInput(
            f"fashion-mnist: {folder}: expected images (rows, 28, 28) and as many labels 0..9, got {images.shape} and {labels.shape}."
        )
    return images.reshape(len(images), -1), labels.astype(np.int64)


def _read_idx(path: Path) -> np.ndarray:
    """An array from a gzipped IDX file of unsigned bytes."""
    try:
        with gzip.open(path, "rb") as file:
            content = file.read()
        zero, kind, dims = struct.unpack(">HBB", content[:4])
        shape = struct.unpack(f">{dims}I", content[4 : 4 + 4 * dims])
        if zero != 0 or kind != 8:
            raise ValueError("not an IDX file of unsigned bytes")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(shape)
    except FileNotFoundError:
        raise MissingData(f"fashion-mnist: no file {path}; the folder must hold all four .gz files.") from None
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise InvalidInput(
            f"fashion-mnist: {path}: expected a gzipped IDX file of unsigned bytes, got: {error}."
        ) from None
