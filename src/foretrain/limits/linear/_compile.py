"""How the solver's programs are compiled on CPU."""

import functools
from collections.abc import Callable
from typing import Any

import jax

# XLA's older loop emitters build these programs of many small complex kernels in half the time, and they run a fifth
# faster (measured with jax 0.10). An XLA that no longer knows the option compiles as it likes.
_CPU_OPTIONS = {"xla_cpu_use_fusion_emitters": False}


def compiled(function: Callable[..., Any], static: tuple[str, ...] = ()) -> Callable[..., Any]:
    """`jax.jit` for programs that are called from outside of any other transformation.

    Args:
        function: pure function.
        static: names of static arguments.
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
                if next(iter(_CPU_OPTIONS)) not in str(error):
                    raise
                known = False
        return plain(*args)

    return call
