"""Pytrees of parameters, of whatever library: start them, and apply multipliers without a change to the model."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from foretrain._random import draw_normal
from foretrain.parameterization._parameterization import Parameterization


def initialize(params: Any, parameterization: Parameterization, key: PRNGKeyArray) -> Any:
    """New parameters at the start that the parameterization says: Gaussian matrices; vectors keep their values.

    Matrices get `Parameterization.absolute_std`. Biases and gains stay what the model's own initialization made them,
    usually 0 and 1, times their factor. Every tensor has random numbers of its own.

    Args:
        params: A pytree of arrays: Equinox, `nnx.state(model, nnx.Param)`, Linen's `variables["params"]`.
        parameterization: Made for it.
        key: Random key.

    Returns:
        A pytree like `params`.

    Raises:
        InvalidInput: The parameterization was made for another model.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from foretrain.parameterization import initialize, parameterize
        >>> params = {"first": {"kernel": jnp.zeros((3, 64))}, "last": {"kernel": jnp.zeros((64, 1))}}
        >>> roles = {"first.*": "input", "last.*": "output"}
        >>> p = parameterize(params, roles=roles, scheme="mup", optimizer="adam", form="canonical", layout="in-out")
        >>> params = initialize(params, p, jax.random.key(0))
        >>> float(apply_multipliers(params, p)["last"]["kernel"].std()) < 0.05
        True
    """
    parameterization.check(params)
    leaves, structure = jax.tree.flatten(params)
    paths = list(parameterization.like(params).tensors)
    made = []
    for number, (path, leaf) in enumerate(zip(paths, leaves, strict=True)):
        rule = parameterization.tensors[path]
        if rule.tensor.fan_in:
            std = parameterization.absolute_std(path)
            made.append(draw_normal(jax.random.fold_in(key, number), leaf.shape, leaf.dtype, std))
        else:
            made.append(leaf if rule.entry.init_std == 1 else leaf * jnp.asarray(rule.entry.init_std, leaf.dtype))
    return jax.tree.unflatten(structure, made)


def apply_multipliers(params: Any, parameterization: Parameterization) -> Any:
    r"""What enters the forward pass, $aw$ for every tensor: hand it to a model that knows nothing of multipliers.

    `loss = lambda params: model(apply_multipliers(params, p))`; gradients and updates are those of `params`. A tied table
    is multiplied as an embedding; where it reads out, multiply the logits by `Parameterization.readout_multiplier`.

    Args:
        params: A pytree of arrays, as for `initialize`.
        parameterization: Made for it.

    Returns:
        A pytree like `params`.

    Raises:
        InvalidInput: The parameterization was made for another model.
    """
    factors = [rule.entry.multiplier for rule in parameterization.like(params).tensors.values()]
    leaves, structure = jax.tree.flatten(params)
    # A factor of 1 leaves the array alone, bit for bit.
    return jax.tree.unflatten(structure, [w if a == 1 else a * w for a, w in zip(factors, leaves, strict=True)])
