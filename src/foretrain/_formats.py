r"""Numbers of few bits: what an integer width or a float format stands for, and how a declaration names them.

An integer of $b$ bits has the levels $Q_n=-2^{b-1}$ to $Q_p=2^{b-1}-1$. A float format of $E$ exponent and $M$ mantissa bits has a sign
bit besides: $1+E+M$ bits. The names `e2m0` to `e5m6` are splits without codes for infinities and NaN, the convention of
arXiv 2411.04330's fits; the longer names are those of `ml_dtypes`, with the ranges of those types.
"""

import dataclasses
import math
import numbers
from typing import Any

from foretrain._declaration import show
from foretrain.errors import nearest

FEWEST_BITS, MOST_BITS = 2, 16


@dataclasses.dataclass(frozen=True)
class FloatFormat:
    r"""A float format: numbers $\pm2^{e-M}k$ with whole $0\le k<2^{M+1}$ and $e\ge1-\text{bias}$, up to `largest`.

    Args:
        name: As in study files.
        exponent_bits: $E$.
        mantissa_bits: $M$.
        bias: Of the exponent; $2-\text{bias}$ is the second smallest exponent.
        largest: Largest finite number.
        scaled: Whether a tensor is scaled so that its largest entry becomes `largest`; formats with float32's range need none.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    largest: float
    scaled: bool = True

    @property
    def bits(self) -> int:
        """Bits of one number, with its sign."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def smallest_exponent(self) -> int:
        """Exponent of the smallest normal numbers, and of the subnormal ones."""
        return 1 - self.bias


def _split(exponent: int, mantissa: int) -> FloatFormat:
    """A split in which every code is a number."""
    bias = 2 ** (exponent - 1) - 1
    largest = (2.0 - 2.0**-mantissa) * 2.0 ** (2**exponent - 1 - bias)
    return FloatFormat(f"e{exponent}m{mantissa}", exponent, mantissa, bias, largest)


_FORMATS = (
    *(_split(e, m) for e, m in ((2, 0), (3, 0), (4, 1), (3, 2), (4, 2), (5, 2), (5, 6))),
    FloatFormat("float4_e2m1fn", 2, 1, 1, 6.0),
    FloatFormat("float6_e2m3fn", 2, 3, 1, 7.5),
    FloatFormat("float6_e3m2fn", 3, 2, 3, 28.0),
    FloatFormat("float8_e3m4", 3, 4, 3, 15.5),
    FloatFormat("float8_e4m3", 4, 3, 7, 240.0),
    FloatFormat("float8_e4m3b11fnuz", 4, 3, 11, 30.0),
    FloatFormat("float8_e4m3fn", 4, 3, 7, 448.0),
    FloatFormat("float8_e4m3fnuz", 4, 3, 8, 240.0),
    FloatFormat("float8_e5m2", 5, 2, 15, 57344.0),
    FloatFormat("float8_e5m2fnuz", 5, 2, 16, 57344.0),
    FloatFormat("bfloat16", 8, 7, 127, (2.0 - 2.0**-7) * 2.0**127, scaled=False),
)
FLOAT_FORMATS: dict[str, FloatFormat] = {one.name: one for one in _FORMATS}
"""Name to float format."""


def read_precision(value: Any) -> int | float | str:
    """A precision in its one form: whole bits, the name of a float format, or `inf` for full precision.

    Args:
        value: What a user wrote: also `None` or `"full"` for full precision, and names in capitals.

    Raises:
        ValueError: Neither; the message says what is expected.
    """
    if value is None or value == "full":
        return math.inf
    if isinstance(value, str):
        if value.lower() in FLOAT_FORMATS:
            return value.lower()
        raise ValueError(
            f"expected bits, or a float format ({', '.join(FLOAT_FORMATS)}), got {show(value)}{nearest(value, FLOAT_FORMATS)}"
        )
    if _is_number(value) and value == math.inf:
        return math.inf
    if _is_whole_bits(value):
        return int(value)
    raise ValueError(
        f"expected a whole number of bits from {FEWEST_BITS} to {MOST_BITS}, the name of a float format such as 'e4m2', or inf "
        f"for full precision, got {show(value)}"
    )


def read_bits(value: Any) -> int:
    """A whole number of bits of an integer.

    Args:
        value: What a user wrote.

    Raises:
        ValueError: It is not.
    """
    if not _is_whole_bits(value):
        raise ValueError(f"expected a whole number of bits from {FEWEST_BITS} to {MOST_BITS}, got {show(value)}")
    return int(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_whole_bits(value: Any) -> bool:
    return _is_number(value) and FEWEST_BITS <= value <= MOST_BITS and value == int(value)


def top_level(bits: int) -> int:
    """$Q_p=2^{b-1}-1$, the largest level of an integer.

    Args:
        bits: $b$.
    """
    return 2 ** (bits - 1) - 1
