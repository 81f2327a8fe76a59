"""The errors that `foretrain` raises on purpose.

Every message names *who* (function or key), *what was expected*, *what came* and *what to do*. The command line turns
each of them into one line on standard error and an exit code, so none of them ever reaches a user as a traceback.
"""

import difflib
from collections.abc import Iterable


class ForetrainError(Exception):
    """Base class of all errors raised on purpose by this package."""

    exit_code = 2


class InvalidInput(ForetrainError, ValueError):
    """An argument or key has a wrong name, type, sign, size or content."""


class UnsupportedProblem(ForetrainError):
    """A valid problem that no solvable limit (or trainer) covers; the message lists every reason."""


class TooLarge(ForetrainError, MemoryError):
    """A request whose estimated memory or time exceeds the budget; the message carries the estimate."""


class MissingExtra(ForetrainError, ImportError):
    """An optional dependency is not installed; the message names the extra to install."""


class MissingData(ForetrainError, FileNotFoundError):
    """A data set is not on this machine; the message says where it was looked for and how to get it."""


class ComputationFailed(ForetrainError):
    """A computation began and every point of it failed; the message says why and what to try next."""

    exit_code = 1


class PrecisionError(ForetrainError):
    """A float64 core was called while JAX runs in 32 bits."""


class ForetrainWarning(UserWarning):
    """A result that is right but needs a word of caution; the word is in the message."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the valid name closest to `name`, or an empty string when none is close."""
    matches = difflib.get_close_matches(str(name), [str(v) for v in valid], n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""
