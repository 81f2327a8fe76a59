"""`parameterize`: from a model's shapes and roles to its `Parameterization`."""

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from foretrain.errors import ForetrainWarning, InvalidInput
from foretrain.parameterization._numbers import Size, TensorRule, evaluate, shift_entry, tensor_quantities
from foretrain.parameterization._parameterization import Parameterization
from foretrain.parameterization._rules import (
    BRANCH_VECTORS,
    FORMS,
    HIDDEN,
    READOUTS,
    Recipe,
    canonical_rule,
    relative_rule,
    shift,
)
from foretrain.parameterization._shapes import read_shapes
from foretrain.parameterization._tensors import (
    FUSED,
    TIED,
    Roles,
    Tensor,
    check_depth,
    check_growth,
    copy_ratios,
    describe,
    path_kind,
)
from foretrain.parameterization._words import CLIPPING


def parameterize(
    params: Any,
    *,
    scheme: str,
    optimizer: str,
    roles: Roles | None = None,
    base: Any = None,
    growing: Mapping[str, tuple[float, float] | float] | None = None,
    form: str = "relative",
    decay: str = "lr-multiplied",
    attention_exponent: float = 1.0,
    decay_rule: str = "invariant",
    readout: str = "forward",
    richness: float = 1.0,
    branch_scale: float = 1.0,
    layout: str = "out-in",
    axes: Mapping[str, Sequence[str]] | None = None,
    outside: Sequence[str] = (),
    absorb: bool = False,
    clip_norm: float | None = None,
) -> Parameterization:
    r"""What every tensor of a model gets at its size, (PA.3) and (PA.4).

    In the relative form, `base` is the same model at the size where hyperparameters were tuned: at the base, every factor
    is exactly 1. Layers that only the larger model has follow their own declared roles with the sizes of a base tensor of
    the same role and kind.

    Args:
        params: Parameters (a pytree of arrays or of anything with a shape, for example `nnx.state(model, nnx.Param)` or Linen's
            `variables["params"]`), a PyTorch module, path to shape, or path to `Tensor`.
        scheme: `"sp"`, `"ntk"`, `"mean-field"`, `"mup"`, `"mup-depth"` or `"completep"`.
        optimizer: `"sgd"`, `"momentum"`, `"nesterov"`, `"adam"`, `"adamw"` or `"lion"`.
        roles: Path pattern to role, or a function of path and shape; needed unless `params` are `Tensor`s. Paths are joined by
            dots, for example `layers.0.kernel`.
        base: The same at the base size; for the relative form.
        growing: What grows, by name, as (base, target): `width`, `depth`, `head_dim`, `heads` and names of your own. It is
            checked against the shapes. Head size is no size of a tensor: state it here when it grows. In the canonical form,
            numbers: `{"depth": 8, "head_dim": 64}`, and `width` where rates should follow the stream and not each tensor.
        form: `"relative"` or `"canonical"` (absolute, unit variance; needs no base).
        decay: Form of the weight decay, `"lr-multiplied"` or `"independent"`.
        attention_exponent: $\alpha_A$.
        decay_rule: As for `Recipe`.
        readout: `"forward"` or `"init"`: where the readout's scaling sits.
        richness: $\gamma_0$: the output is divided by it, SGD's rates multiplied by its square.
        branch_scale: $\beta_0$.
        layout: As for `describe`.
        axes: As for `describe`.
        outside: As for `describe`.
        absorb: Move every multiplier into init and rates, so that a model's forward pass need not change. Not for tied
            tables; the scale of attention logits stays to be set.
        clip_norm: Norm at which gradients are clipped globally, if they are; warns, since it breaks the equivalence of forms.

    Raises:
        InvalidInput: A tensor without a role, shapes that contradict the roles or what is declared to grow, a missing base, or
            a tensor for which the scheme defines no rate.

    Warns:
        ForetrainWarning: Global clipping; a base that equals the target, where all factors are 1.

    Example:
        >>> from foretrain.parameterization import parameterize
        >>> shapes = {"first": (1024, 10), "middle": (1024, 1024), "last": (1, 1024)}
        >>> base = {"first": (128, 10), "middle": (128, 128), "last": (1, 128)}
        >>> roles = {"first": "input", "middle": "hidden", "last": "output"}
        >>> p = parameterize(shapes, base=base, roles=roles, scheme="mup", optimizer="adam")
        >>> p.lr, p.multipliers["last"]
        ({'first': 1.0, 'middle': 0.125, 'last': 1.0}, 0.125)
    """
    recipe = Recipe(scheme, optimizer, decay, attention_exponent, decay_rule)
    tensors, structure = _read_tensors(params, roles, layout, axes, outside, base)
    if form == "canonical" and base is not None:
        raise InvalidInput(
            "parameterize(base): the canonical form is absolute and has no base; mixing 1/N with ratios to a base changes constants "
            "by the base width. Leave the base out, or use form='relative'."
        )
    pairs = _read_growing(growing, absolute=form == "canonical")
    before, after = ({name: pair[i] for name, pair in pairs.items() if name in _SIZES} for i in (0, 1))
    bases = None if base is None else _read_tensors(base, roles, layout, axes, outside, None)[0]
    if bases is not None:
        bases = _checked_base(tensors, bases, recipe, pairs if growing else None)
    elif form == "canonical":
        _check_sizes(tensors, recipe, after)
    if clip_norm is not None:
        warnings.warn(f"parameterize(clip_norm): {CLIPPING}", ForetrainWarning, stacklevel=2)
    made = from_tensors(
        tensors,
        recipe,
        form=form,
        base=bases,
        size=Size(**after),
        base_size=None if bases is None else Size(**before),
        readout=readout,
        richness=richness,
        branch_scale=branch_scale,
    )
    made = dataclasses.replace(made, structure=structure)
    return absorbed(made) if absorb else made


def from_tensors(
    tensors: Mapping[str, Tensor],
    recipe: Recipe,
    *,
    form: str = "canonical",
    base: Mapping[str, Tensor] | None = None,
    size: Size | None = None,
    base_size: Size | None = None,
    readout: str = "forward",
    richness: float = 1.0,
    branch_scale: float = 1.0,
) -> Parameterization:
    """The parameterization of described tensors; `parameterize` is the door for models.

    Args:
        tensors: Path to tensor.
        recipe: Scheme and optimizer.
        form: As for `parameterize`.
        base: The same tensors at the base size, for the relative form.
        size: Depth and head size.
        base_size: Those of the base.
        readout: As for `parameterize`.
        richness: As for `parameterize`.
        branch_scale: As for `parameterize`.

    Raises:
        InvalidInput: As for `parameterize`.
    """
    size = size or Size()
    if not tensors:
        raise InvalidInput("parameterize(params): expected at least one trained tensor, got none.")
    for name, value, valid in (("form", form, FORMS), ("readout", readout, READOUTS)):
        if value not in valid:
            raise InvalidInput(f"parameterize({name}): expected one of {', '.join(valid)}, got {value!r}.")
    for name, value in (("richness", richness), ("branch_scale", branch_scale)):
        if isinstance(value, bool) or not (isinstance(value, (int, float)) and 0 < value < math.inf):
            raise InvalidInput(f"parameterize({name}): expected a number > 0, got {value!r}.")
        if value != 1 and (recipe.scheme == "ntk" or (recipe.scheme == "sp" and name == "richness")):
            raise InvalidInput(f"parameterize({name}): the scheme {recipe.scheme!r} has none; leave it out.")
    if form == "relative" and base is None:
        raise InvalidInput(
            "parameterize(base): missing. The relative form scales against a base shape; without one every tool that guesses falls "
            "back to standard parameterization. Give the base, or form='canonical'."
        )
    if form == "canonical":
        base, base_size = None, None
        if readout != "forward":
            raise InvalidInput(
                "parameterize(readout): the canonical form keeps unit variance everywhere; use 'forward'."
            )
    else:
        base_size = base_size or Size()
    rules = {}
    for path, tensor in tensors.items():
        shape = None if base is None else base[path].shape
        _check_special(path, tensor, recipe, readout, size, base_size)
        role = tensor.table_role
        if form == "canonical":
            rule = canonical_rule(role, recipe, branch=tensor.branch)
        else:
            rule = relative_rule(role, recipe, branch=tensor.branch, readout=readout)
        if rule.lr is None:
            raise InvalidInput(
                f"parameterize: {path!r} ({tensor.role}) has no rate under scheme {recipe.scheme!r} with {recipe.optimizer!r}: none is "
                "known. Use a scheme of the muP family, or freeze the tensor."
            )
        quantities = tensor_quantities(tensor, shape, size, base_size, richness, branch_scale)
        rules[path] = TensorRule(tensor, shape, rule, evaluate(rule, quantities, form))
    return Parameterization(recipe, form, rules, size, base_size, readout, float(richness), float(branch_scale))


def absorbed(parameterization: Parameterization) -> Parameterization:
    """The same training with every multiplier 1, by (PA.2): a model's forward pass need not change.

    Args:
        parameterization: Any, without tied tables.

    Raises:
        InvalidInput: A table is tied: its two uses need different multipliers.
    """
    rules = {}
    for path, rule in parameterization.tensors.items():
        if rule.tensor.role == TIED:
            raise InvalidInput(
                f"parameterize(absorb): {path!r} is tied; the readout's multiplier cannot move into the init of a table that also "
                "embeds. Multiply the logits by `readout_multiplier` in the forward pass."
            )
        theta = 1 / rule.entry.multiplier
        moved = shift(rule.rule, rule.rule.multiplier**-1, parameterization.recipe)
        rules[path] = dataclasses.replace(
            rule, rule=moved, entry=shift_entry(rule.entry, theta, parameterization.recipe)
        )
    return dataclasses.replace(parameterization, tensors=rules, absorbed=True)


_SIZES = ("depth", "head_dim", "width")


def _read_growing(growing: Any, *, absolute: bool) -> dict[str, tuple[float, float]]:
    """Name to (base, target); in the canonical form both are the size."""
    expected = "a number > 0" if absolute else "a pair (base, target) of numbers > 0"
    if growing is not None and not isinstance(growing, Mapping):
        raise InvalidInput(f"parameterize(growing): expected name to {expected}, got {growing!r}.")
    found = {}
    for name, value in (growing or {}).items():
        pair = (value, value) if absolute and not isinstance(value, (tuple, list)) else value
        numbers = isinstance(pair, (tuple, list)) and all(
            isinstance(v, (int, float)) and not isinstance(v, bool) and 0 < v < math.inf for v in pair
        )
        if not numbers or len(pair) != 2 or (absolute and pair is value):
            raise InvalidInput(f"parameterize(growing): {name}: expected {expected} in this form, got {value!r}.")
        found[str(name)] = (float(pair[0]), float(pair[1]))
    return found


def _checked_base(
    tensors: Mapping[str, Tensor],
    base: Mapping[str, Tensor],
    recipe: Recipe,
    growing: Mapping[str, tuple[float, float]] | None,
) -> dict[str, Tensor]:
    completed = _completed(tensors, base)
    check_growth(tensors, completed, growing, copy_ratios(tensors, base))
    check_depth(tensors, base, growing, needed=recipe.depth_exponent is not None)
    same = all(t.shape == completed[path].shape for path, t in tensors.items())
    if same and all(small == large for small, large in (growing or {}).values()):
        warnings.warn("parameterize: base = target: all factors are 1.", ForetrainWarning, stacklevel=3)
    return completed


def _check_sizes(tensors: Mapping[str, Tensor], recipe: Recipe, sizes: Mapping[str, float]) -> None:
    """The canonical form needs every size that its rules name."""
    inside = any(t.branch and t.table_role in (*HIDDEN, *BRANCH_VECTORS) for t in tensors.values())
    if recipe.depth_exponent is not None and inside and "depth" not in sizes:
        raise InvalidInput(
            f"parameterize(growing): missing depth: the scheme {recipe.scheme!r} scales residual branches with it; for example "
            "growing={'depth': 8}."
        )
    qk = any(t.table_role == "hidden_qk" for t in tensors.values())
    if qk and recipe.feature_learning and recipe.attention_exponent != 1 and "head_dim" not in sizes:
        raise InvalidInput(
            f"parameterize(growing): missing head_dim: at attention_exponent = {recipe.attention_exponent:g} the rates of queries and "
            "keys follow it; for example growing={'head_dim': 64}."
        )


def _read_tensors(
    params: Any,
    roles: Roles | None,
    layout: str,
    axes: Mapping[str, Sequence[str]] | None,
    outside: Sequence[str],
    base: Any,
) -> tuple[dict[str, Tensor], Any]:
    if isinstance(params, Mapping) and params and all(isinstance(v, Tensor) for v in params.values()):
        return dict(params), None
    if roles is None:
        raise InvalidInput(
            "parameterize(roles): missing. Declare the role of every tensor by path patterns or a function; nothing is guessed."
        )
    if hasattr(params, "named_parameters"):
        from foretrain.parameterization._torch import describe_torch

        return describe_torch(params, roles, axes=axes, outside=outside, base=base), None
    shapes, structure = read_shapes(params)
    others = read_shapes(base)[0] if base is not None else None
    return describe(shapes, roles, layout=layout, axes=axes, outside=outside, base=others), structure


def _completed(tensors: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Base tensors for layers that the base lacks: of a path that differs in numbers only, with the same role."""
    kinds = {(path_kind(path), t.role): t for path, t in base.items()}
    found = {}
    for path, tensor in tensors.items():
        other = base.get(path) or kinds.get((path_kind(path), tensor.role))
        if other is None:
            raise InvalidInput(
                f"parameterize(base): the base has no tensor {path!r} (shape {tensor.shape}, role {tensor.role!r}), nor one whose path "
                "differs in layer numbers only."
            )
        found[path] = other
    return found


def _check_special(path: str, tensor: Tensor, recipe: Recipe, readout: str, size: Size, base_size: Size | None) -> None:
    if tensor.role == TIED and readout != "forward":
        raise InvalidInput(
            f"parameterize(readout): {path!r} is tied; its variance serves the embedding, so that the readout can only be scaled in "
            "the forward pass: use readout='forward'."
        )
    if tensor.role == FUSED and recipe.feature_learning and recipe.attention_exponent != 1:
        grows = base_size is None or size.head_dim != base_size.head_dim
        if grows:
            raise InvalidInput(
                f"parameterize: {path!r} holds queries, keys and values, whose rates differ at attention_exponent = "
                f"{recipe.attention_exponent:g}; split it into two tensors of roles 'hidden_qk' and 'hidden_inner'."
            )
