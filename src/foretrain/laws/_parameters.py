"""Kinds of parameters that many laws have, with the starts and ranges that published laws suggest."""

import math

from foretrain.laws._law import Parameter

# A floor, or the amplitude of a term, below this is none: bounds keep fits that want a zero from walking to minus infinity.
TINY = 1e-9
_EXPONENTS = (0.1, 0.35, 0.7, 1.2)


def amplitude(name: str, meaning: str = "", start: tuple[float, ...] = ()) -> Parameter:
    """A positive factor of a power; starts over the range that published laws have."""
    return Parameter(name, start or tuple(math.exp(v) for v in (0.0, 5.0, 10.0, 15.0, 20.0)), True, TINY, 1e30, meaning)


def exponent(name: str, meaning: str = "", start: tuple[float, ...] = _EXPONENTS) -> Parameter:
    """A power of a size, from 0 to 10."""
    return Parameter(name, start, False, 0.0, 10.0, meaning)


def floor(name: str = "E", meaning: str = "loss of infinite size and data") -> Parameter:
    """What is left at infinite size."""
    return Parameter(name, tuple(math.exp(v) for v in (-1.0, -0.3, 0.3, 0.9)), True, TINY, 1e30, meaning)
