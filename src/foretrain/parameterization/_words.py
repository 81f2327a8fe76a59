"""A parameterization in plain words."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from foretrain.parameterization._monomial import Monomial
from foretrain.parameterization._numbers import TensorRule
from foretrain.parameterization._rules import BRANCH_VECTORS, HIDDEN, ROLE_WORDS
from foretrain.parameterization._tensors import EMBEDDING, FUSED, TIED, path_kind

if TYPE_CHECKING:
    from foretrain.parameterization._parameterization import Parameterization

CLIPPING = (
    "clipping by the global norm couples all tensors: bookkeeping forms are no longer equivalent, and under SGD rates depend on "
    "each other. Transfer is not guaranteed; set the threshold at the target anew, or check with `transfer`."
)
"""What those who clip are told."""
COLUMNS = ("multiplier", "init_std", "lr", "eps", "weight_decay")
_LETTERS = {
    "branch_scale": "β₀",
    "depth": "L",
    "fan_in": "fan-in",
    "head_dim": "d_h",
    "input_dim": "D",
    "richness": "γ₀",
    "width": "N",
}
_TUNED = ("lr", "eps", "weight_decay")
_SPECIAL_WORDS = {
    EMBEDDING: "a table that is looked up: one entry is read, so that its fan-in is 1; fan-out grows",
    TIED: "a table that is looked up and also reads out: variance of the embedding, readout scaled in the forward pass",
    FUSED: "queries, keys and values in one tensor, whose rules agree here",
}


def explain(parameterization: "Parameterization", path: str, rule: TensorRule) -> str:
    """Which axes of a tensor grow, which rule it follows, and why.

    Args:
        parameterization: Of the model.
        path: The tensor.
        rule: Its rule.
    """
    p, tensor = parameterization, rule.tensor
    letters = "powers of ratios to the base" if p.form == "relative" else "powers of sizes"
    lines = [
        f"{path}: shape {tensor.shape}, role {tensor.role}",
        f"  role: {_SPECIAL_WORDS.get(tensor.role) or ROLE_WORDS[tensor.table_role]}",
        f"  grows: {_growth(rule)}",
        f"  model: {_model_growth(p)}",
        f"  rule: {p.recipe.scheme}, {p.recipe.optimizer}, {p.form} form, {letters}"
        + (", multipliers moved into init and rates" if p.absorbed else ""),
    ]
    for name in COLUMNS:
        power, value = getattr(rule.rule, name), getattr(rule.entry, name)
        lines.append(f"    {name} = {'undefined' if power is None else f'{powers(power)} = {number(value)}'}")
    if tensor.role == TIED:
        lines.append(f"    where it reads out = {number(p.readout_multiplier)}")
    lines.extend(f"  why: {reason}" for reason in _reasons(p, rule))
    return "\n".join(lines)


def table(parameterization: "Parameterization") -> str:
    """All tensors in plain text; layers that share a rule share a row.

    Args:
        parameterization: Of the model.
    """
    p = parameterization
    groups: dict[tuple, list[str]] = {}
    for path, rule in p.tensors.items():
        tensor = rule.tensor
        key = (path_kind(path), tensor.shape, rule.base, tensor.role, tensor.branch, tuple(vars(rule.entry).values()))
        groups.setdefault(key, []).append(path)
    rows = []
    for key, paths in groups.items():
        rule = p.tensors[paths[0]]
        shown = paths[0] if len(paths) == 1 else f"{key[0]} ({len(paths)} tensors)"
        against = () if p.form == "canonical" else (shape_words(rule.base or ()),)
        numbers = [number(getattr(rule.entry, name)) for name in COLUMNS]
        rows.append([shown, shape_words(rule.tensor.shape), *against, rule.tensor.role, *numbers])
    header = ["tensor", "shape", *(() if p.form == "canonical" else ("base",)), "role", *COLUMNS]
    title = f"{p.recipe.scheme}, {p.recipe.optimizer}"
    if p.recipe.optimizer in ("adamw", "lion"):
        title += f" ({p.recipe.decay} decay)"
    lines = [f"{title}, {p.form} form. {_model_growth(p)}", *aligned(header, rows)]
    meaning = "factors on the values at the base" if p.form == "relative" else "factors on the tuned values"
    init = "" if p.form == "relative" else ", multiplier and init_std absolute"
    lines.append(f"lr, eps, weight_decay: {meaning}{init}; -: undefined.")
    lines.append(f"branch multiplier {number(p.branch_multiplier)} (part of the multiplier of 'hidden')")
    if p.attention_scale is not None:
        lines.append(f"attention logits: q·k × {number(p.attention_scale)}")
    if any(rule.tensor.role == TIED for rule in p.tensors.values()):
        lines.append(f"tied table where it reads out: × {number(p.readout_multiplier)}")
    return "\n".join(lines)


def powers(power: Monomial) -> str:
    """A product of powers in the letters of the theory, without what one tunes.

    Example:
        >>> from foretrain.parameterization._monomial import monomial
        >>> powers(monomial(depth=-1, fan_in=-0.5, lr=1))
        'L^-1 · fan-in^-1/2'
    """
    parts = []
    for name, exponent in power.exponents:
        if name not in _TUNED:
            shown = {0.5: "1/2", -0.5: "-1/2", 1.5: "3/2", -1.5: "-3/2"}.get(exponent, f"{exponent:g}")
            parts.append(_LETTERS.get(name, name) + ("" if exponent == 1 else f"^{shown}"))
    return " · ".join(parts) or "1"


def number(value: float | None) -> str:
    """A number as tables show it."""
    return "-" if value is None else f"{value:.6g}"


def shape_words(shape: Sequence[int]) -> str:
    """A shape as tables show it."""
    return "×".join(str(n) for n in shape) or "scalar"


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a plain-text table."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in [header, *rows]]


def _growth(rule: TensorRule) -> str:
    if rule.base is None:
        return "no base: all sizes count as they are"
    tensor, words = rule.tensor, []
    for name, axes in (("fan-in", tensor.fan_in), ("fan-out", tensor.fan_out)):
        for axis in axes:
            if tensor.shape[axis] != rule.base[axis]:
                words.append(f"{name} (axis {axis}: {rule.base[axis]} -> {tensor.shape[axis]})")
    return ", ".join(words) or "nothing"


def _model_growth(p: "Parameterization") -> str:
    words = []
    for name, letter in (("width", "N"), ("depth", "L"), ("head_dim", "d_h")):
        ours, base = getattr(p.size, name), None if p.base is None else getattr(p.base, name)
        if ours is not None:
            words.append(f"{name} {letter} = {ours:g}" + ("" if base is None else f" (base {base:g})"))
    return ", ".join(words)


def _reasons(p: "Parameterization", rule: TensorRule) -> list[str]:
    recipe, role = p.recipe, rule.tensor.table_role
    if recipe.scheme == "sp":
        return ["standard parameterization: variance 1 / fan-in and one rate for all; updates grow with width"]
    if recipe.scheme == "ntk":
        return ["every tensor moves the function alike and features move by N^-1/2: lazy at large width"]
    adaptive = recipe.optimizer in ("adam", "adamw", "lion")
    found = []
    if role in HIDDEN:
        found.append("the initial sum over fan-in is random, hence its square root in the init")
        found.append(
            "updates line up with what comes in: their sum grows like fan-in"
            + (", and Adam's entries do not shrink by themselves" if adaptive else ", while gradients shrink with N")
        )
    elif role == "output":
        found.append("weights learn to line up with the stream, so that the sum is divided by its length, not its root")
    elif role == "output_bias":
        found.append("nothing it touches grows")
    else:
        by_size = "does not depend on size with sign-like steps" if adaptive else "makes up for gradients of size 1/N"
        found.append(f"each unit of the stream has its own entry; its rate {by_size}")
    if recipe.depth_exponent is not None and rule.tensor.branch and role in (*HIDDEN, *BRANCH_VECTORS):
        found.append(f"L branches add up: each is multiplied by L^-{recipe.depth_exponent:g}")
    if role == "hidden_qk":
        found.append(f"logits are q·k / d_h^{recipe.attention_exponent:g}")
    return found
