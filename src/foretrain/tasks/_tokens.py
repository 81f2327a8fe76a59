"""`Tokens`: a sequence to be predicted token by token, with a held-out part."""

import dataclasses

import numpy as np
from jaxtyping import Int32

from foretrain.errors import InvalidInput


@dataclasses.dataclass(frozen=True, eq=False)
class Tokens:
    """A training sequence and a held-out sequence of tokens.

    One example is a window of `context + 1` neighbouring tokens: the inputs are its first `context` tokens, the targets the
    same shifted by one. Windows never cross from one part into the other.

    Args:
        name: What the set is called in tables and figures.
        train: Tokens that windows for training are drawn from.
        test: Tokens that follow them and are held out.
        vocabulary: Number of different tokens; every token is in 0 .. vocabulary - 1.
        context: Tokens that a prediction may look at.
        source: One sentence on where the tokens come from and what was done to them.

    Raises:
        InvalidInput: Not sequences of whole numbers below `vocabulary`, or shorter than one window.

    Example:
        >>> import numpy as np
        >>> from foretrain.tasks import Tokens
        >>> Tokens("abc", np.arange(9) % 3, np.arange(4) % 3, vocabulary=3, context=2).train.dtype
        dtype('int32')
    """

    name: str
    train: Int32[np.ndarray, " tokens"]
    test: Int32[np.ndarray, " test_tokens"]
    vocabulary: int
    context: int
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("train", "test"):
            object.__setattr__(self, name, self._checked(name, getattr(self, name)))

    def _checked(self, name: str, given: np.ndarray) -> np.ndarray:
        tokens = np.asarray(given)
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise InvalidInput(
                f"Tokens({name}): expected a sequence of whole numbers, got shape {tokens.shape}, dtype {tokens.dtype}."
            )
        if len(tokens) <= self.context:
            raise InvalidInput(
                f"Tokens({name}): expected at least context + 1 = {self.context + 1} tokens, got {len(tokens)}."
            )
        wrong = tokens[(tokens < 0) | (tokens >= self.vocabulary)]
        if len(wrong):
            raise InvalidInput(f"Tokens({name}): expected tokens in 0..{self.vocabulary - 1}, got {wrong[0]}.")
        result = np.array(tokens, dtype=np.int32)
        result.flags.writeable = False
        return result
