"""`foretrain.gradient`: precision scoping and messages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foretrain import gradient
from foretrain.errors import InvalidInput


def test_computes_in_64_bits_and_leaves_no_trace():
    with jax.enable_x64(False):
        seen = []

        def quantity(x, scale=1.0):
            seen.append(jnp.asarray(x).dtype)
            return scale * jnp.sum(x**3)

        value, slopes = gradient(quantity, ["x"])(x=[1.0, 2.0], scale=2)
        assert seen[0] == np.float64
        assert value == 18.0
        np.testing.assert_array_equal(slopes["x"], [6.0, 24.0])
        assert isinstance(slopes["x"], np.ndarray)
        assert jnp.asarray(1.0).dtype == np.float32


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: gradient(lambda width: width, "widht"),
            "gradient.wrt='widht'.: expected one of the arguments width; did you mean 'width'",
        ),
        (lambda: gradient(lambda width: width, []), "expected at least one"),
        (lambda: gradient(lambda width: width, ["width", "width"]), "expected distinct"),
        (lambda: gradient(lambda width, b: width, "width")(b=1.0), "argument 'width' is missing"),
        (lambda: gradient(lambda width: width, "width")(width="a"), "gradient.width.: expected real numbers, got 'a'"),
        (
            lambda: gradient(lambda width: width * jnp.ones(2), "width")(width=1.0),
            "expected a real scalar, got shape .2,.",
        ),
    ],
)
def test_says_what_is_wrong(make, words):
    with pytest.raises(InvalidInput, match=words):
        make()
