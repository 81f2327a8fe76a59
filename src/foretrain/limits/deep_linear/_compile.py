"""How the march is compiled on CPU."""

import functools
from collections.abc import Callable
from typing import Any

import jax

# Region analysis sees that rows are written where they are read last; without it XLA copies most matrices at every step,
# which triples the time. The older loop emitters compile these programs in two thirds of the time (measured with jax 0.10).
_CPU_OPTIONS = {"xla_cpu_copy_insertion_use_region_analysis": True, "xla_cpu_use_fusion_emitters": False}


def compiled(function: Callable[..., Any], static: str) -> Callable[..., Any]:
    """`jax.jit` for programs that are called from outside of any other transformation.

    Args:
        function: Pure function.
        static: Name of the static argument.
    """
    plain = jax.jit(function, static_argnames=static)
    tuned = jax.jit(function, static_argnames=static, compiler_options=_CPU_OPTIONS)
    known = True

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        nonlocal known
        if known and jax.default_backend() == "cpu":
            try:
                return tuned(*args)
            except jax.errors.JaxRuntimeError as error:
                # An XLA that no longer knows an option compiles as it likes.
                if not any(option in str(error) for option in _CPU_OPTIONS):
                    raise
                known = False
        return plain(*args)

    return call
