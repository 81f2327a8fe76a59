"""The tuned compilation falls back where XLA does not know the option."""

import jax
import numpy as np
import pytest

from foretrain.limits._compile import compiled


def test_unknown_option_compiles_plainly():
    twice = compiled(lambda x, n: x * n, static=("n",), options={"xla_cpu_no_such_option": False})
    for _ in range(2):
        assert float(twice(np.float32(3.0), 2)) == 6.0


def test_real_failures_are_not_swallowed():
    def fails(x):
        return jax.pure_callback(lambda y: 1 / 0, jax.ShapeDtypeStruct((), x.dtype), x)

    with pytest.raises(jax.errors.JaxRuntimeError, match="ZeroDivisionError"):
        compiled(fails)(np.float32(1.0)).block_until_ready()
