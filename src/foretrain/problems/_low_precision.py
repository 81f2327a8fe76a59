"""Low precision of a network's training and of its weights afterwards: declarations."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from foretrain._declaration import Declaration, WrongKey, choice, custom, show
from foretrain._formats import read_bits, read_precision

POST_METHODS = ("nearest", "gptq")
BITS = {"weight_bits": "weights", "activation_bits": "activations", "kv_bits": "kv"}
"""Names of the axes of a result, to the fields that hold them."""


def _part() -> Any:
    return custom(read_precision, axis=True, default=math.inf)


def _parse_post(value: Any) -> tuple[int, ...]:
    listed = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    found = tuple(read_bits(one) for one in listed)
    if len(set(found)) != len(found):
        raise ValueError(f"expected distinct bits, got {show(value)}; remove the repeated ones")
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Precision(Declaration):
    r"""Bits that a network trains with, and bits that its weights are rounded to afterwards.

    Only the forward pass is rounded; gradients pass straight through, and the weights that are trained keep full precision. An integer of
    $b$ bits is $x_q=\mathrm{clip}(\mathrm{round}(sx),-2^{b-1},2^{b-1}-1)/s$ with $s=(2^{b-1}-1)/\max|x|$; a float format is scaled so that the
    largest entry becomes its largest number. Bits of an integer and of a float format are not the same axis: do not mix
    the two in one fit.

    Args:
        weights: Weights of all linear maps, one scale for an output channel; tables of tokens and positions, gains and biases stay as
            they are. 2 to 16 bits, the name of a float format such as `"e4m2"` or `"float8_e4m3fn"`, or `inf` (axis `weight_bits`).
        activations: What enters each linear map, one scale for a batch; the same (axis `activation_bits`).
        kv: Attention's keys and values, one scale each for a batch; the same (axis `kv_bits`).
        post: Bits that the weights are rounded to after training, for `test_loss_post` at every recorded time. Not an axis
            of runs: all are done on the same weights (dimension `post_bits`).
        post_method: `"nearest"`, or `"gptq"` on the examples that the train loss is evaluated on.

    Raises:
        InvalidInput: Bits outside 2 to 16, or no such format.

    Example:
        >>> from foretrain.problems import Precision
        >>> Precision(weights=[3, 4, float("inf")], post=[3, 4]).axes()
        {'weights': (3, 4, inf)}
    """

    kind = "precision"

    weights: int | float | str | tuple[int | float | str, ...] | None = _part()
    activations: int | float | str | tuple[int | float | str, ...] | None = _part()
    kv: int | float | str | tuple[int | float | str, ...] | None = _part()
    post: int | tuple[int, ...] = custom(_parse_post, default=())
    post_method: str = choice(POST_METHODS, axis=False, default="nearest")

    def _check(self) -> None:
        if self.post_method != "nearest" and not self.post:
            raise self._wrong(
                "post", "missing; post_method needs the bits that weights are rounded to, for example [3, 4]"
            )

    @property
    def is_full(self) -> bool:
        """Whether training has full precision (whatever happens to the weights afterwards)."""
        return all(getattr(self, name) == math.inf for name in BITS.values())


def parse_precision(value: Any) -> Precision | None:
    """A precision from a table of a study file.

    Args:
        value: What a user gave.

    Raises:
        ValueError: Not a table.
    """
    if value is None or isinstance(value, Precision):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a precision such as {{weights = 4, post = [3, 4]}}, got {show(value)}")
    try:
        return Precision.from_table({k: v for k, v in value.items() if k != "kind"})
    except WrongKey as error:
        raise ValueError(f"{error.key}: {error.message}") from None
