"""Paths and shapes of a model's parameters, whatever holds them."""

from collections.abc import Mapping
from typing import Any

from foretrain.errors import InvalidInput
from foretrain.parameterization._tensors import Shape


def read_shapes(params: Any) -> tuple[dict[str, Shape], Any]:
    """Path to shape, and the pytree structure when `params` is one.

    Args:
        params: A pytree whose leaves have shapes (paths are joined by dots), a PyTorch module, or path to shape.

    Raises:
        InvalidInput: A leaf has no shape.
    """
    if isinstance(params, Mapping) and all(
        isinstance(v, (tuple, list)) and all(isinstance(n, int) for n in v) for v in params.values()
    ):
        return {str(path): tuple(shape) for path, shape in params.items()}, None
    if hasattr(params, "named_parameters"):
        from foretrain.parameterization._torch import named_tensors

        return {path: tuple(value.shape) for path, value in named_tensors(params).items()}, None
    import jax

    boxed = type(params).__module__.partition(".")[0] == "flax"  # its leaves sit in variables, at `.value`
    leaves, structure = jax.tree.flatten_with_path(params)
    shapes = {}
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        name = name.removesuffix(".value") if boxed else name
        if not hasattr(leaf, "shape"):
            raise InvalidInput(
                f"parameterize(params): {name!r} is a {type(leaf).__name__} without a shape; pass the trained arrays only "
                "(for Equinox: `eqx.filter(model, eqx.is_inexact_array)`)."
            )
        shapes[name] = tuple(leaf.shape)
    return shapes, structure
