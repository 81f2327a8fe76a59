"""The table by role: what a reference model of given sizes gets, without any shapes."""

import dataclasses
from collections.abc import Mapping

from foretrain.errors import InvalidInput
from foretrain.parameterization._monomial import Monomial, monomial
from foretrain.parameterization._numbers import Entry, Size, evaluate, model_quantities
from foretrain.parameterization._rules import FORMS, ROLES, Recipe, canonical_rule, relative_rule
from foretrain.parameterization._words import COLUMNS, aligned, number, powers


@dataclasses.dataclass(frozen=True)
class RoleTable:
    r"""The numbers of every role.

    Args:
        recipe: Scheme and optimizer.
        form: `"canonical"` (absolute) or `"relative"` (factors on the values at the base).
        size: Sizes of the model.
        base: Those of the base, or `None`.
        roles: Role to numbers.
        formulas: Role to the same as products of powers, in words.
        branch_multiplier: What multiplies the output of a residual branch; part of the multiplier of `hidden`.
        attention_multiplier: What multiplies $q\cdot k$ (a factor on the base's in the relative form); `None` where the
            head size is not known.
    """

    recipe: Recipe
    form: str
    size: Size
    base: Size | None
    roles: Mapping[str, Entry]
    formulas: Mapping[str, Mapping[str, str]]
    branch_multiplier: float
    attention_multiplier: float | None

    def __str__(self) -> str:
        rows = [[role, *(number(getattr(entry, name)) for name in COLUMNS)] for role, entry in self.roles.items()]
        return "\n".join(aligned(["role", *COLUMNS], rows))


def role_table(
    recipe: Recipe,
    size: Size,
    *,
    base: Size | None = None,
    input_dim: float = 1.0,
    readout: str = "forward",
    richness: float = 1.0,
    branch_scale: float = 1.0,
    lr: float = 1.0,
    eps: float = 1.0,
    weight_decay: float = 1.0,
) -> RoleTable:
    r"""What every role gets in a model whose hidden maps are $N\times N$: (PA.3) without a base, (PA.4) with one.

    Args:
        recipe: Scheme and optimizer.
        size: Width, depth and head size.
        base: Those of the base: the result is then made of factors on the values at the base.
        input_dim: $D$, number of inputs that the first layer sums; 1 for a table that is looked up.
        readout: With a base: where the readout's scaling sits, `"forward"` or `"init"`.
        richness: $\gamma_0$.
        branch_scale: $\beta_0$.
        lr: $\eta_0$.
        eps: Adam's epsilon that is tuned.
        weight_decay: The weight decay that is tuned.

    Raises:
        InvalidInput: A size that the rules need is missing, a number is not above 0, or an option belongs to the other form
            or is undefined for the scheme.

    Example:
        >>> from foretrain.parameterization import Recipe, Size, role_table
        >>> table = role_table(Recipe("completep", "sgd"), Size(16, 64, 256), branch_scale=2, richness=0.5, lr=0.1)
        >>> table.roles["hidden"].multiplier, table.roles["hidden"].lr
        (0.0078125, 102.4)
    """
    numbers = {
        "input_dim": input_dim,
        "richness": richness,
        "branch_scale": branch_scale,
        "lr": lr,
        "eps": eps,
        "weight_decay": weight_decay,
    }
    for name, value in numbers.items():
        if not 0 < value < float("inf"):
            raise InvalidInput(f"role_table({name}): expected a number > 0, got {value!r}.")
    _check_form(recipe, size, base, readout, numbers)
    if base is None:
        width = float(size.width or 1.0)
        own = {"fan_in": width, "width": width}
    else:
        ratio = float(size.width or 1.0) / float(base.width or 1.0)
        own = {"fan_in": ratio, "width": ratio}
    form = FORMS[0] if base is None else FORMS[1]
    quantities = {**model_quantities(size, base, richness, branch_scale), **own, **numbers}
    rules = {
        role: canonical_rule(role, recipe) if base is None else relative_rule(role, recipe, readout=readout)
        for role in ROLES
    }
    known = size.head_dim is not None or base is not None
    return RoleTable(
        recipe,
        form,
        size,
        base,
        {role: evaluate(rule, quantities, form) for role, rule in rules.items()},
        {
            role: {part: "-" if power is None else _formula(power, form) for part, power in rule.parts().items()}
            for role, rule in rules.items()
        },
        recipe.branch_factor.value(quantities),
        recipe.attention_factor.value(quantities) if known else None,
    )


def _formula(power: Monomial, form: str) -> str:
    """In the letters of the theory: fan-in is the width here, and what a base has too drops out of a ratio."""
    width = sum(exponent for name, exponent in power.exponents if name == "fan_in")
    merged = power.without("fan_in") * monomial(width=width)
    return powers(merged.without("input_dim", "richness", "branch_scale") if form == "relative" else merged)


def _check_form(recipe: Recipe, size: Size, base: Size | None, readout: str, numbers: Mapping[str, float]) -> None:
    for name, pair in (("size", size), ("base", base)):
        if pair is not None and pair.width is None:
            raise InvalidInput(f"role_table({name}): expected a width.")
    if base is None and readout != "forward":
        raise InvalidInput("role_table(readout): the canonical form keeps unit variance everywhere; use 'forward'.")
    for name in ("richness", "branch_scale"):
        undefined = recipe.scheme == "ntk" or (recipe.scheme == "sp" and name == "richness")
        if undefined and numbers[name] != 1:
            raise InvalidInput(f"role_table({name}): the scheme {recipe.scheme!r} has none; leave it out.")
    changed = [name for name, value in numbers.items() if value != 1]
    if base is not None and changed:
        raise InvalidInput(
            f"role_table({changed[0]}): absolute values belong to the canonical form; with a base every entry is a factor, and mixing "
            "the forms is forbidden, since it changes constants by the base's sizes. Leave out either it or the base."
        )
    if base is not None and (size.head_dim is None) != (base.head_dim is None):
        raise InvalidInput(
            "role_table(base): give the head size of both model and base, or of neither (then it is fixed)."
        )
    if base is None and recipe.feature_learning and recipe.attention_exponent != 1 and size.head_dim is None:
        raise InvalidInput(
            f"role_table(size): at attention_exponent = {recipe.attention_exponent:g} the rates of queries and keys follow the head "
            "size; give head_dim."
        )
