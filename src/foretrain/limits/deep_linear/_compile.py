"""How the march is compiled on CPU."""

import functools
from collections.abc import Callable
from typing import Any

import jax

# Region analysis sees that rows are written where they are read last; without it XLA copies most matrices at every step,
# which triples the time. The older loop emitters compile the straight programs in two thirds of the time, and copy the
# slices of loops over layers more slowly (measured with jax 0.10).
_REGIONS, _EMITTERS = "xla_cpu_copy_insertion_use_region_analysis", "xla_cpu_use_fusion_emitters"


def compiled(function: Callable[..., Any], static: str) -> Callable[..., Any]:
    """`jax.jit` for programs that are called from outside of any other transformation.

    Args:
        function: Pure function.
        static: Name of the static argument, the last one; its attribute `residual` chooses the options.
    """
    plain = jax.jit(function, static_argnames=static)
    tuned = {
        loops: jax.jit(function, static_argnames=static, compiler_options={_REGIONS: True, _EMITTERS: loops})
        for loops in (False, True)
    }
    known = True

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        nonlocal known
        if known and jax.default_backend() == "cpu":
            try:
                return tuned[args[-1].residual](*args)
            except jax.errors.JaxRuntimeError as error:
                if _REGIONS not in str(error) and _EMITTERS not in str(error):
                    raise
                known = False
        return plain(*args)

    return call
