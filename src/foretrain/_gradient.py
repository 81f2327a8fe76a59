"""Gradients of predictions, for planning: `foretrain.gradient`."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from foretrain.errors import InvalidInput, nearest


def gradient(quantity: Callable[..., Any], wrt: str | Sequence[str]) -> Callable[..., tuple[Any, dict[str, Any]]]:
    r"""A function that returns the value of `quantity` and its gradient, computed in 64 bits.

    `quantity` is any pure function of keyword arguments built from JAX operations and from the differentiable cores of
    this package, for example the losses of `foretrain.limits.linear`. JAX's precision is switched for the duration of
    the call only.

    Args:
        quantity: Pure function that returns a real scalar.
        wrt: Name or names of the keyword arguments to differentiate with respect to.

    Returns:
        A function of the keyword arguments of `quantity` that returns `(value, {name: gradient})`; gradients have the shape
        of the arguments, as floats or NumPy arrays.

    Raises:
        InvalidInput: `wrt` names no argument of `quantity`; at the call, an argument in `wrt` is missing or not a number,
            or the value is not a real scalar.

    Example:
        >>> from foretrain import gradient
        >>> square = gradient(lambda width, samples: width**2 / samples, wrt="width")
        >>> square(width=3.0, samples=2.0)
        (4.5, {'width': 3.0})
    """
    names = (wrt,) if isinstance(wrt, str) else tuple(wrt)
    if not names:
        raise InvalidInput("gradient(wrt): expected at least one argument name, got none.")
    if len(set(names)) != len(names):
        raise InvalidInput(f"gradient(wrt): expected distinct names, got {', '.join(names)}.")
    known, open_ended = _arguments(quantity)
    for name in names:
        if name not in known and not open_ended:
            raise InvalidInput(
                f"gradient(wrt={name!r}): expected one of the arguments {', '.join(known) or '(none)'}{nearest(name, known)}."
            )

    def value_and_gradient(**arguments: Any) -> tuple[Any, dict[str, Any]]:
        import jax

        for name in names:
            if name not in arguments:
                raise InvalidInput(f"gradient: argument {name!r} is missing; the gradient is taken with respect to it.")
        with jax.enable_x64(True):
            moving = {name: _moving(name, arguments[name]) for name in names}
            fixed = {name: value for name, value in arguments.items() if name not in names}

            def scalar(moving):
                result = jax.numpy.asarray(quantity(**moving, **fixed))
                if result.shape != () or not jax.numpy.issubdtype(result.dtype, jax.numpy.floating):
                    raise InvalidInput(
                        f"gradient(quantity): expected a real scalar, got shape {result.shape}, dtype {result.dtype}; "
                        "select one entry or sum them."
                    )
                return result

            value, slopes = jax.value_and_grad(scalar)(moving)
            return _plain(value), jax.tree.map(_plain, slopes)

    return value_and_gradient


def _arguments(quantity: Callable[..., Any]) -> tuple[list[str], bool]:
    """Names that can be passed by keyword, and whether any name can."""
    try:
        parameters = inspect.signature(quantity).parameters.values()
    except (TypeError, ValueError):
        return [], True
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return named, any(p.kind == p.VAR_KEYWORD for p in parameters)


def _moving(name: str, value: Any) -> Any:
    """The argument in 64 bits: lists are vectors, other containers (a measure) keep their structure."""
    import jax

    if isinstance(value, (list, tuple)):
        return _real(name, value)
    return jax.tree.map(lambda leaf: _real(name, leaf), value)


def _real(name: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise InvalidInput(f"gradient({name}): expected real numbers, got {value!r}.")
    return array.astype(np.float64)


def _plain(value: Any) -> Any:
    array = np.asarray(value)
    return float(array) if array.shape == () else array
