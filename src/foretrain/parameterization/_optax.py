"""Optax: the optimizer with every tensor's own rate, epsilon and decay."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import optax
from jaxtyping import Array, Float

from foretrain.errors import ForetrainWarning, InvalidInput
from foretrain.parameterization._parameterization import Parameterization
from foretrain.parameterization._words import CLIPPING

Rate = float | Float[Array, ""]
Schedule = Callable[[Any], Any]


def scale_by_role(parameterization: Parameterization) -> optax.GradientTransformation:
    """Multiplies every tensor's update by its factor on the learning rate.

    It stands after the preconditioner of an optimizer and before its learning rate and schedule, which stay relative:
    `optax.chain(optax.scale_by_adam(), scale_by_role(p), optax.scale_by_learning_rate(0.01))`.

    Args:
        parameterization: Made from the parameters' pytree (or brought to it with `like`).

    Raises:
        InvalidInput: It carries no pytree structure.
    """
    return _scale_leaves(_tree(parameterization, "lr"))


def divide_gradients_by_eps(parameterization: Parameterization) -> optax.GradientTransformation:
    r"""Gives every tensor its own Adam epsilon, as $\hat m/(\sqrt{\hat v}+\kappa\epsilon)=(\hat m/\kappa)/(\sqrt{\hat v}/\kappa+\epsilon)$.

    It stands before `optax.scale_by_adam`.

    Args:
        parameterization: As for `scale_by_role`.
    """
    return _scale_leaves(jax.tree.map(lambda kappa: 1.0 / kappa, _tree(parameterization, "eps")))


def decay_by_role(parameterization: Parameterization, weight_decay: Rate) -> optax.GradientTransformation:
    """Adds every tensor's own decay to its update; tensors without one are left alone.

    Args:
        parameterization: As for `scale_by_role`.
        weight_decay: The decay that is tuned.
    """
    factors = [rule.entry.weight_decay for rule in parameterization.tensors.values()]

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise InvalidInput("decay_by_role: pass the parameters, `optimizer.update(gradients, state, params)`.")
        leaves, structure = jax.tree.flatten(updates)
        weights = jax.tree.leaves(params)
        added = [
            u if factor is None else u + (weight_decay * factor) * w
            for u, w, factor in zip(leaves, weights, factors, strict=True)
        ]
        return jax.tree.unflatten(structure, added), state

    _tree(parameterization, "lr")  # the structure must be there
    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def make_optimizer(
    parameterization: Parameterization,
    learning_rate: Rate,
    *,
    momentum: Rate = 0.9,
    second_momentum: float | None = None,
    eps: Rate = 1e-8,
    weight_decay: Rate = 0.0,
    schedule: Schedule | None = None,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    r"""The optimizer that a parameterization was made for, with every tensor's rate, epsilon and decay.

    Step: $w\leftarrow w-\eta\,\text{schedule}_t\,c\,u$, with $u$ what the optimizer makes of the gradient and $c$ the tensor's factor.
    Independent decay follows the schedule too, $w\leftarrow w(1-\text{schedule}_t\,\lambda)$. At the base shape it is, bit for bit,
    the Optax optimizer of that name.

    Args:
        parameterization: Made from the parameters' pytree (or brought to it with `like`).
        learning_rate: $\eta$, the rate that is tuned.
        momentum: Of `momentum` and `nesterov`; first coefficient of Adam and Lion.
        second_momentum: Second coefficient of Adam (0.999) and Lion (0.99).
        eps: Adam's epsilon.
        weight_decay: In the gradient for SGD; decoupled, in the parameterization's form, for AdamW and Lion; none for Adam.
        schedule: Step to a factor on the learning rate, for example `lambda step: 1.0`.
        clip_norm: Clip the whole gradient to this norm first. No rule of the table covers that; it warns.

    Raises:
        InvalidInput: The parameterization carries no pytree structure, or a weight decay for Adam.

    Warns:
        ForetrainWarning: Global clipping, which breaks the equivalence of forms.

    Example:
        >>> import equinox as eqx, jax
        >>> from foretrain.networks import MLP
        >>> from foretrain.parameterization import Recipe, from_tensors, make_optimizer
        >>> p = from_tensors(MLP.tensors(3, 1, width=64), Recipe("mup", "adamw"))
        >>> params = eqx.filter(MLP(3, 1, width=64, parameterization=p, key=jax.random.key(0)), eqx.is_inexact_array)
        >>> state = make_optimizer(p.like(params), 0.01).init(params)
    """
    recipe = parameterization.recipe
    traced = isinstance(weight_decay, jax.Array)
    if recipe.optimizer == "adam" and (traced or weight_decay != 0):
        raise InvalidInput(
            "make_optimizer(weight_decay): Adam's decay inside the gradient has no rule that transfers; parameterize for 'adamw'."
        )
    if clip_norm is not None:
        warnings.warn(f"make_optimizer(clip_norm): {CLIPPING}", ForetrainWarning, stacklevel=2)
    rate = optax.identity() if schedule is None else optax.scale_by_schedule(schedule)
    step = optax.scale_by_learning_rate(learning_rate)
    clip = optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm)
    roles = scale_by_role(parameterization)
    decay = decay_by_role(parameterization, weight_decay) if traced or weight_decay != 0 else optax.identity()
    if recipe.optimizer in ("sgd", "momentum", "nesterov"):
        heavy = (
            optax.identity()
            if recipe.optimizer == "sgd"
            else optax.trace(momentum, nesterov=recipe.optimizer == "nesterov")  # type: ignore[arg-type]
        )
        return optax.chain(clip, decay, heavy, roles, rate, step)
    if recipe.optimizer == "lion":
        core = optax.scale_by_lion(b1=momentum, b2=0.99 if second_momentum is None else second_momentum)  # type: ignore[arg-type]
    else:
        b2 = 0.999 if second_momentum is None else second_momentum
        core = optax.chain(
            divide_gradients_by_eps(parameterization),
            optax.scale_by_adam(b1=momentum, b2=b2, eps=eps),  # type: ignore[arg-type]
        )
    if recipe.decay == "independent":
        return optax.chain(clip, core, roles, optax.scale(learning_rate), decay, rate, optax.scale(-1.0))  # type: ignore[arg-type]
    return optax.chain(clip, core, decay, roles, rate, step)


def _tree(parameterization: Parameterization, part: str) -> Any:
    if parameterization.structure is None:
        raise InvalidInput(
            "make_optimizer(parameterization): it is keyed by path and has no pytree; pass `parameterization.like(params)`."
        )
    return getattr(parameterization, part)


def _scale_leaves(factors: Any) -> optax.GradientTransformation:
    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        # A factor of 1 leaves the update alone, bit for bit.
        return jax.tree.map(lambda factor, u: u if factor == 1 else factor * u, factors, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
