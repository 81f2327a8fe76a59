"""Starts are the numbers of `jax.random.normal`, however they are compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foretrain._random import draw_normal
from foretrain.networks import MLP

KEY = jax.random.key(7)


@pytest.mark.parametrize("shape", [(7,), (5, 6), (2, 3, 4), (2, 2200, 1024)])
def test_the_numbers_do_not_depend_on_the_road(shape):
    np.testing.assert_array_equal(draw_normal(KEY, shape, jnp.float32, 0.25), 0.25 * jax.random.normal(KEY, shape))


def test_the_numbers_are_the_same_in_a_compiled_function():
    shape = (5, 6)

    def plain(key):
        return jax.random.normal(key, shape) * jnp.float32(0.3)

    ours = jax.jit(lambda key: draw_normal(key, shape, jnp.float32, 0.3))
    np.testing.assert_array_equal(ours(KEY), jax.jit(plain)(KEY))


def test_in_double_precision():
    with jax.enable_x64(True):
        plain = np.asarray(jax.random.normal(KEY, (3, 5), jnp.float64)) * 0.3
        np.testing.assert_array_equal(draw_normal(KEY, (3, 5), jnp.float64, 0.3), plain)


def test_a_network_by_every_road():
    """Outside of compiled functions, with the key as an argument, and with a key from outside."""

    def made(key):
        return MLP(4, 2, width=64, depth=2, bias=True, key=key)

    found = made(KEY)
    for other in (jax.jit(made)(KEY), jax.jit(lambda: made(KEY))()):
        jax.tree.map(np.testing.assert_array_equal, found, other)
    own = jax.random.normal(jax.random.fold_in(KEY, 0), (64, 4))
    np.testing.assert_array_equal(found.first.weight, own)
