"""How the solvers' programs are compiled on CPU."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

# XLA's older loop emitters build these programs of many small kernels in half to two thirds of the time, and those of complex
# numbers run a fifth faster (measured with jax 0.10). An XLA that no longer knows an option compiles as it likes.
OLD_EMITTERS = {"xla_cpu_use_fusion_emitters": False}


def compiled(
    function: Callable[..., Any], static: str | tuple[str, ...] = (), options: Mapping[str, bool] = OLD_EMITTERS
) -> Callable[..., Any]:
    """`jax.jit` for programs that are called from outside of any other transformation.

    Args:
        function: Pure function.
        static: Names of static arguments.
        options: Options of the compiler on CPU.
    """
    plain = jax.jit(function, static_argnames=static)
    tuned = jax.jit(function, static_argnames=static, compiler_options=dict(options))
    known = True

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        nonlocal known
        if known and jax.default_backend() == "cpu":
            try:
                return tuned(*args)
            except jax.errors.JaxRuntimeError as error:
                if not any(option in str(error) for option in options):
                    raise
                known = False
        return plain(*args)

    return call
