r"""Rounding to few bits, (1) to integers and (2) to float formats, with the gradient of the identity.

With $Q_p=2^{b-1}-1$, $Q_n=-2^{b-1}$ and the largest absolute value of a channel (weights) or of a whole tensor (activations),
$$s=Q_p/\max|x|,\qquad x_q=\mathrm{clip}(\mathrm{round}(sx),Q_n,Q_p)/s,\tag{1}$$
as in arXiv 2411.04330; ties go to even. For a float format $s=\text{largest}/\max|x|$ and
$$x_q=2^{e-M}\,\mathrm{round}(2^{M-e}sx)/s,\qquad e=\max(\lfloor\log_2|sx|\rfloor,\ 1-\text{bias}).\tag{2}$$

A channel of zeros stays as it is; one whose largest entry is so small that $s$ overflows becomes zeros; one with NaN or infinities becomes
NaN, so that a run that has blown up is seen.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from foretrain._formats import FLOAT_FORMATS, FloatFormat, read_precision, top_level
from foretrain.errors import InvalidInput, nearest

Precision = int | float | str
AnyArray = Any  # of NumPy or JAX; the arithmetic below is the same


def round_to_format(x: Float[np.ndarray, "*shape"], name: str) -> Float[np.ndarray, "*shape"]:
    """The nearest numbers of a float format, not scaled; beyond its largest number that one.

    Ties go to even significands, and up in formats without mantissa. NaN stays NaN.

    Args:
        x: Numbers.
        name: One of `FLOAT_FORMATS`.

    Raises:
        InvalidInput: No such format.

    Example:
        >>> import numpy as np
        >>> from foretrain.networks import round_to_format
        >>> round_to_format(np.array([0.3, 1.2, 5.0, 100.0]), "float4_e2m1fn").tolist()
        [0.5, 1.0, 4.0, 6.0]
    """
    if name not in FLOAT_FORMATS:
        raise InvalidInput(
            f"round_to_format(name): expected one of {', '.join(FLOAT_FORMATS)}, got {name!r}{nearest(name, FLOAT_FORMATS)}."
        )
    return _to_format(np.asarray(x, np.float64), FLOAT_FORMATS[name], np)


def _to_format(x: AnyArray, form: FloatFormat, xp: Any) -> AnyArray:
    _, exponent = xp.frexp(x)
    exponent = xp.maximum(exponent - 1, form.smallest_exponent)
    # Powers of two: both products are exact.
    near = xp.ldexp(xp.round(xp.ldexp(x, form.mantissa_bits - exponent)), exponent - form.mantissa_bits)
    return xp.clip(near, -form.largest, form.largest)


def scales(largest: AnyArray, top: Any, xp: Any) -> AnyArray:
    """$s$ for the largest absolute values; 1 where there is nothing to scale.

    Args:
        largest: Of every channel.
        top: What the largest value becomes.
        xp: `numpy` or `jax.numpy`.
    """
    usable = xp.where(largest == 0, xp.ones_like(largest), largest)
    found = top / usable
    return xp.where((largest == 0) | xp.isinf(found), xp.ones_like(found), found)


def on_grid(x: AnyArray, scale: AnyArray, precision: Precision, xp: Any, *, top: Any = None) -> AnyArray:
    """The nearest numbers that a precision has when it is scaled, (1) and (2).

    Args:
        x: Numbers.
        scale: $s$, of a shape that fits.
        precision: Bits or the name of a format.
        xp: `numpy` or `jax.numpy`.
        top: $Q_p$, when it is traced.
    """
    if isinstance(precision, str):
        return _to_format(x * scale, FLOAT_FORMATS[precision], xp) / scale
    top = top_level(int(precision)) if top is None else top
    return xp.clip(xp.round(x * scale), -top - 1, top) / scale


def top_of(precision: Precision) -> float:
    """What the largest entry is scaled to.

    Args:
        precision: Bits or the name of a format.
    """
    if isinstance(precision, str):
        return FLOAT_FORMATS[precision].largest
    return float(top_level(int(precision)))


def is_scaled(precision: Precision) -> bool:
    """Whether a precision needs a scale.

    Args:
        precision: Bits or the name of a format.
    """
    return not isinstance(precision, str) or FLOAT_FORMATS[precision].scaled


@jax.custom_jvp
def _straight_through(x: Array, rounded: Array) -> Array:
    """`rounded`, with the derivative of `x`."""
    return rounded


@_straight_through.defjvp
def _straight_through_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return _straight_through(*primals), tangents[0]


def rounded_straight_through(
    x: Float[Array, "*shape"],
    precision: Precision,
    axes: Sequence[int] | None = None,
    *,
    over: str | None = None,
    top: Any = None,
) -> Float[Array, "*shape"]:
    """`fake_quantize` for a precision that was checked.

    Args:
        x: Numbers.
        precision: Bits or the name of a format.
        axes: Axes that share a scale; all by default.
        over: Name of a mapped axis that shares it too.
        top: $Q_p$, when it is traced.
    """
    fixed = jax.lax.stop_gradient(x)
    if not is_scaled(precision):
        return _straight_through(x, on_grid(fixed, jnp.ones_like(fixed), precision, jnp))
    largest = jnp.max(jnp.abs(fixed), axis=None if axes is None else tuple(axes), keepdims=True)
    largest = largest if over is None else jax.lax.pmax(largest, over)
    scale = scales(largest, top_of(precision) if top is None else top, jnp)
    return _straight_through(x, on_grid(fixed, scale, precision, jnp, top=top))


def fake_quantize(
    x: Float[Array, "*shape"], precision: Precision | None, *, axes: Sequence[int] | None = None
) -> Float[Array, "*shape"]:
    r"""Numbers rounded to a precision but kept in their own type, with the gradient of the identity (straight-through).

    $s=Q_p/\max|x|$, $x_q=\mathrm{clip}(\mathrm{round}(sx),Q_n,Q_p)/s$ for integers; for float formats the largest entry becomes the
    format's largest number. The range is that of the numbers themselves, so that nothing is cut off.

    Args:
        x: Numbers.
        precision: 2 to 16 bits of an integer, the name of a float format, or `None` (also `inf`) for full precision.
        axes: Axes that share a scale; all by default, which is one scale for the tensor.

    Raises:
        InvalidInput: No such precision.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from foretrain.networks import fake_quantize
        >>> [round(float(w), 2) for w in fake_quantize(jnp.array([0.1, -0.4, 0.9]), 3)]
        [0.0, -0.3, 0.9]
        >>> jax.grad(lambda x: jnp.sum(fake_quantize(x, 3)))(jnp.ones(2)).tolist()
        [1.0, 1.0]
    """
    found = checked(precision, "fake_quantize(precision)")
    return x if found == math.inf else rounded_straight_through(x, found, axes)


def round_to_nearest(
    weights: Float[np.ndarray, "out *inputs"], precision: Precision | None
) -> Float[np.ndarray, "out *inputs"]:
    """Weights rounded to a precision, every output channel with a scale of its own: quantization after training at its simplest.

    Args:
        weights: Outputs first.
        precision: As for `fake_quantize`.

    Raises:
        InvalidInput: No such precision, or weights that are not finite.

    Example:
        >>> import numpy as np
        >>> from foretrain.networks import round_to_nearest
        >>> round_to_nearest(np.array([[0.1, -0.4, 0.9], [1.0, 2.0, 3.0]]), 3).round(6).tolist()
        [[0.0, -0.3, 0.9], [1.0, 2.0, 3.0]]
    """
    found = checked(precision, "round_to_nearest(precision)")
    w = finite_weights(weights, "round_to_nearest")
    if found == math.inf:
        return w
    return on_grid(w, channel_scales(w, found), found, np)


def channel_scales(weights: Float[np.ndarray, "out *inputs"], precision: Precision) -> Float[np.ndarray, "out *ones"]:
    """Scale of every output channel.

    Args:
        weights: Outputs first.
        precision: Bits or the name of a format.
    """
    largest = np.max(np.abs(weights), axis=tuple(range(1, weights.ndim)), keepdims=True, initial=0.0)
    if not is_scaled(precision):
        return np.ones_like(largest)
    with np.errstate(over="ignore"):
        return scales(largest, top_of(precision), np)


def checked(precision: Any, who: str) -> Precision:
    """A precision in its one form.

    Args:
        precision: What a user gave.
        who: Named in the error.

    Raises:
        InvalidInput: No such precision.
    """
    try:
        return read_precision(precision)
    except ValueError as error:
        raise InvalidInput(f"{who}: {error}.") from None


def finite_weights(weights: Any, who: str) -> np.ndarray:
    """Weights as a float64 array.

    Args:
        weights: What a user gave.
        who: Named in the error.

    Raises:
        InvalidInput: Not an array of finite numbers with an axis of outputs and one of inputs.
    """
    found = np.array(weights, np.float64)
    if found.ndim < 2:
        raise InvalidInput(f"{who}(weights): expected a matrix, outputs first, got shape {found.shape}.")
    if not np.all(np.isfinite(found)):
        raise InvalidInput(f"{who}(weights): expected finite numbers, got {int(np.sum(~np.isfinite(found)))} others.")
    return found


@dataclasses.dataclass(frozen=True)
class TensorQuantizer:
    """`fake_quantize` of activations: one scale for a tensor.

    Args:
        precision: Bits or the name of a format.
        over: Name of the mapped axis of examples, which share the scale; `None` for a scale of every example.
    """

    precision: Precision
    over: str | None = None

    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The rounded tensor."""
        return rounded_straight_through(x, self.precision, over=self.over)
