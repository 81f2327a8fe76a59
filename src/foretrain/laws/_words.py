"""Large numbers as people say them."""

import math

_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_COUNTS = ("params", "params_no_embed", "tokens", "tokens_per_epoch", "batch_tokens")


def count(value: float) -> str:
    """A number of parameters or tokens: `73.2B`, `1.31T`; others with four digits.

    Args:
        value: The number.
    """
    if not math.isfinite(value):
        return f"{value:g}"
    for size, letter in _SUFFIXES:
        if size <= abs(value) < 1e15:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def of_column(name: str, value: float) -> str:
    """A value as its column is read.

    Args:
        name: The column.
        value: The value.
    """
    return count(value) if name in _COUNTS else f"{value:.5g}"
