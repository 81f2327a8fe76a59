"""Gaussian numbers for the start of a network, without a compilation for every shape."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PRNGKeyArray

# Between these, lengths are drawn by powers of two: compiling for another length takes as long as drawing some millions.
_SMALL, _LARGE = 1 << 12, 1 << 22


def draw_normal(key: PRNGKeyArray, shape: tuple[int, ...], dtype: jnp.dtype, std: float) -> Array:
    """Standard deviation times the numbers of `jax.random.normal(key, shape, dtype)`, the same bit for bit.

    They are drawn along one axis, for which a program compiles up to four times as fast as for three axes. Where nothing is
    traced, a program for a few lengths serves all arrays that are not large, as a number depends on the key and its place
    alone, and the rest is left to NumPy.

    Args:
        key: Random key of this array alone, made by an operation, so that it is traced wherever operations are.
        shape: Of the array.
        dtype: Of the array.
        std: Standard deviation.
    """
    size = math.prod(shape)
    if isinstance(key, Tracer):
        return jax.random.normal(key, (size,), dtype).reshape(shape) * jnp.asarray(std, dtype)
    length = size if size > _LARGE else max(_SMALL, 1 << (size - 1).bit_length())
    noise = np.asarray(jax.random.normal(key, (length,), dtype))[:size].reshape(shape)
    return jnp.asarray(noise * np.asarray(std, dtype))
