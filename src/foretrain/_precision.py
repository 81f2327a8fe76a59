"""The 64-bit contract: doors scope it, cores check it, nobody switches it globally."""

import jax

from foretrain.errors import PrecisionError


def require_x64(who: str) -> None:
    """Raise unless JAX currently computes in 64 bits.

    Args:
        who: Name of the calling function, for the message.

    Raises:
        PrecisionError: JAX runs in 32 bits.
    """
    if not jax.config.read("jax_enable_x64"):
        raise PrecisionError(
            f"{who}: needs 64-bit arithmetic, but JAX runs in 32 bits here. Call it inside `with jax.enable_x64(True):` "
            "or through `foretrain.gradient`, which does that for you."
        )
