"""Text as a sequence of tokens: any UTF-8 file, or the standard library's own sources."""

import dataclasses
import functools
import hashlib
import sysconfig
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from foretrain._declaration import choice, integer, number, text
from foretrain.errors import InvalidInput, MissingData, TooLarge
from foretrain.tasks._base import AbstractTokenTask
from foretrain.tasks._tokens import Tokens

STANDARD_LIBRARY_BYTES = 4_000_000
_LARGEST_FILE = 2**30


@dataclasses.dataclass(frozen=True, eq=False)
class Text(AbstractTokenTask):
    """Next-token prediction on text. Nothing is ever downloaded.

    Without a `path` the text is the standard library of the running Python: its top-level modules, in an order drawn by
    `seed`, cut after 4 000 000 bytes. It is on every machine, but it differs between releases of Python, and with it the
    losses: give a `path` where numbers are to be compared between machines. The held-out part is the last
    `test_fraction` of the text, in one piece.

    Args:
        path: A text file in UTF-8; relative to the study file.
        tokenizer: `"byte"`: the 256 values of a byte. `"char"`: the characters of the training part, in the order of their
            code points, and one more token for all others.
        context: Tokens that a prediction may look at; a training example is a window of one token more.
        test_fraction: Fraction of the tokens that is held out.
        seed: Order of the modules; only without a `path`.

    Raises:
        InvalidInput: A `seed` together with a `path`, or a fraction outside (0, 1).

    Example:
        >>> from foretrain.tasks import Text
        >>> tokens = Text(context=32).load()
        >>> tokens.vocabulary, len(tokens.train), len(tokens.test)
        (256, 3600000, 400000)
    """

    kind = "text"

    path: str | None = text(default=None)
    tokenizer: str = choice(("byte", "char"), axis=False, default="byte")
    context: int = integer(low=1, axis=False, default=64)
    test_fraction: float = number(low=0.0, low_open=True, high=1.0, high_open=True, axis=False, default=0.1)
    seed: int = integer(low=0, axis=False, default=0)

    def _check(self) -> None:
        if self.path is not None and self.seed:
            raise self._wrong("seed", "orders the standard library's modules and does nothing to a file; leave it out")

    def digest(self) -> str:
        """SHA-256 of the content; a file counts by what it holds, not by its name."""
        content = hashlib.sha256(self._content()).hexdigest()
        facts = f"{self.kind} {content} {self.tokenizer} {self.context} {self.test_fraction!r}"
        return hashlib.sha256(facts.encode()).hexdigest()

    def load(self) -> Tokens:
        """The text as tokens.

        Raises:
            MissingData: No such file, or a Python without sources.
            InvalidInput: An empty file, one that is not UTF-8, or one too short for the context.
        """
        content = self._content()
        where = f"text: {self.path or 'the standard library'}"
        if not content:
            raise InvalidInput(f"{where}: expected text, got an empty file.")
        try:
            decoded = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"{where}: expected text in UTF-8, got byte 0x{content[error.start]:02x} at position {error.start}; "
                "convert it first, for example with iconv."
            ) from None
        symbols = np.frombuffer(content, np.uint8) if self.tokenizer == "byte" else _code_points(decoded)
        held_out = max(1, round(self.test_fraction * len(symbols)))
        train, test = symbols[: len(symbols) - held_out], symbols[len(symbols) - held_out :]
        for part, tokens in (("training", train), ("held-out", test)):
            if len(tokens) <= self.context:
                raise InvalidInput(
                    f"{where}: the {part} part has {len(tokens)} of the text's {len(symbols)} tokens; expected at least context + 1 = "
                    f"{self.context + 1}: use a longer text, a smaller context or another test_fraction."
                )
        if self.tokenizer == "byte":
            vocabulary = 256
        else:
            known = np.unique(train)
            vocabulary = len(known) + 1
            train, test = _numbered(train, known), _numbered(test, known)
        name = Path(self.path).stem if self.path else "standard-library"
        source = f"{self.path or _python()}, {len(symbols)} {self.tokenizer}s, the last {len(test)} held out"
        return Tokens(name, train, test, vocabulary, self.context, source)

    def _content(self) -> bytes:
        return _read(Path(self.path).expanduser()) if self.path is not None else standard_library(self.seed)


def _code_points(decoded: str) -> Int32[np.ndarray, " tokens"]:
    return np.frombuffer(decoded.encode("utf-32-le"), "<i4")


def _numbered(
    symbols: Int32[np.ndarray, " tokens"], known: Int32[np.ndarray, " vocabulary"]
) -> Int32[np.ndarray, " tokens"]:
    """Positions in the sorted `known`; symbols that are not there get the position after the last."""
    positions = np.minimum(np.searchsorted(known, symbols), len(known) - 1)
    return np.where(known[positions] == symbols, positions, len(known)).astype(np.int32)


def _read(path: Path) -> bytes:
    """The file, without a byte order mark."""
    if not path.is_file():
        raise MissingData(f"text: no file {path}; give `path` relative to the study file, or absolute.")
    if path.stat().st_size > _LARGEST_FILE:
        raise TooLarge(
            f"text: {path}: {path.stat().st_size / 2**30:.3g} GiB; expected at most 1 GiB, as it is held in memory: cut it."
        )
    try:
        return path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise InvalidInput(f"text: {path}: cannot be read: {error.strerror or error}.") from None


@functools.lru_cache(maxsize=4)
def standard_library(seed: int) -> bytes:
    """The sources of the running Python's top-level modules, cut at `STANDARD_LIBRARY_BYTES`.

    Args:
        seed: Order of the modules.

    Raises:
        MissingData: This Python carries no sources.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(folder.glob("*.py"), key=lambda file: file.name)
    if not files:
        raise MissingData(f"text: no sources of the standard library in {folder}; give `path` a text file.")
    order = np.random.default_rng(seed).permutation(len(files))
    content = b"".join(files[position].read_bytes() for position in order)[:STANDARD_LIBRARY_BYTES]
    # A cut may fall inside a character.
    return content.decode("utf-8", errors="ignore").encode() if len(content) == STANDARD_LIBRARY_BYTES else content


def _python() -> str:
    import platform

    return f"top-level modules of Python {platform.python_version()}'s standard library"
