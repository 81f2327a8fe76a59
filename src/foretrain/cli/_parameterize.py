"""`foretrain parameterize`: the resolved table of a reference model by role, or of a model's own shapes by tensor."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from foretrain.cli._console import Voice
from foretrain.errors import InvalidInput, nearest
from foretrain.parameterization import (
    ROLE_WORDS,
    Parameterization,
    Recipe,
    RoleTable,
    Size,
    parameterize,
    role_table,
)

_CANONICAL_ONLY = ("input_dim", "richness", "branch_scale", "lr", "eps", "weight_decay")
_RELATIVE_ONLY = ("base_width", "base_depth", "base_head_dim")
_SIZES = ("width", "depth", "head_dim", *_CANONICAL_ONLY, *_RELATIVE_ONLY)
_RECIPE = ("scheme", "optimizer", "decay", "attention_exponent", "decay_rule")
_FILE_KEYS = (
    *("target", "base", "growing", "roles", "layout", "axes", "outside"),
    *(*_RECIPE, "form", "readout", "richness", "branch_scale", "absorb", "clip_norm"),
)
_LARGEST_FILE = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class Options:
    """What was given on the command line; `None` is what was not."""

    scheme: str | None = None
    optimizer: str | None = None
    decay: str | None = None
    decay_rule: str | None = None
    form: str | None = None
    readout: str | None = None
    attention_exponent: float | None = None
    width: float | None = None
    depth: float | None = None
    head_dim: float | None = None
    input_dim: float | None = None
    richness: float | None = None
    branch_scale: float | None = None
    lr: float | None = None
    eps: float | None = None
    weight_decay: float | None = None
    base_width: float | None = None
    base_depth: float | None = None
    base_head_dim: float | None = None

    def given(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Those of the named options that were given."""
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def run_parameterize(voice: Voice, model: Path | None, options: Options) -> None:
    """Print the table by role, or by tensor when a file of shapes is given."""
    for name, value in options.given(_SIZES).items():
        if not 0 < value < math.inf:
            raise InvalidInput(f"{_flag(name)}: expected a number > 0, got {value:g}.")
    if model is not None:
        with voice.hearing():
            made = _from_file(model, options)
        voice.json(made.to_json()) if voice.as_json else voice.show(made.table())
        return
    table = resolve(options)
    cautions = _cautions(table, options)
    for caution in cautions:
        voice.say("warning", caution)
    if voice.as_json:
        voice.json(_to_json(table, options, cautions))
    else:
        voice.show(_heading(table), _rich(table), *_legend(table))


def resolve(options: Options) -> RoleTable:
    """The table by role.

    Raises:
        InvalidInput: An option is missing, or belongs to the other form or to no form of this scheme.
    """
    recipe, form = _recipe(options), options.form or "relative"
    if form not in ("canonical", "relative"):
        raise InvalidInput(f"--form: expected 'canonical' or 'relative', got {form!r}.")
    _refuse(recipe, form, options)
    if options.width is None:
        raise InvalidInput("--width: missing; the width of the model's residual stream, for example --width 1024.")
    wants_depth = recipe.depth_exponent is not None
    if wants_depth and options.depth is None:
        raise InvalidInput(f"--depth: missing; the scheme {recipe.scheme!r} scales residual branches with depth.")
    size = Size(options.depth or 1.0, options.head_dim, options.width)
    if form == "canonical":
        if recipe.feature_learning and recipe.attention_exponent != 1 and options.head_dim is None:
            raise InvalidInput(
                f"--head-dim: missing; at --attention-exponent {recipe.attention_exponent:g} the rates of queries and keys follow the "
                "head size."
            )
        return role_table(recipe, size, **options.given(_CANONICAL_ONLY))
    if options.base_width is None:
        raise InvalidInput(
            "--base-width: missing; the relative form scales against a base, and without one every factor would silently be 1. "
            "Give the width where you tuned, or use --form canonical."
        )
    if wants_depth and options.base_depth is None:
        raise InvalidInput(
            f"--base-depth: missing; the scheme {recipe.scheme!r} scales with depth; give the depth where you tuned."
        )
    for ours, theirs in (("depth", "base_depth"), ("head_dim", "base_head_dim")):
        if getattr(options, theirs) is not None and getattr(options, ours) is None:
            raise InvalidInput(f"{_flag(ours)}: missing beside {_flag(theirs)}.")
    base_head = options.base_head_dim if options.base_head_dim is not None else options.head_dim
    base = Size(options.base_depth or size.depth, base_head, options.base_width)
    return role_table(recipe, size, base=base, readout=options.readout or "forward")


def _recipe(options: Options) -> Recipe:
    for name in ("scheme", "optimizer"):
        if getattr(options, name) is None:
            example = "completep" if name == "scheme" else "adamw"
            raise InvalidInput(f"--{name}: missing; for example --{name} {example}.")
    return Recipe(**options.given(_RECIPE))


def _refuse(recipe: Recipe, form: str, options: Options) -> None:
    other = _RELATIVE_ONLY if form == "canonical" else _CANONICAL_ONLY
    for name in options.given(other):
        kind, its = ("relative", "scales against a base") if form == "canonical" else ("canonical", "is absolute")
        raise InvalidInput(
            f"{_flag(name)}: belongs to the {kind} form, which {its}; with --form {form} it is refused, since mixing absolute and "
            f"relative form is forbidden: constants would change by the base's sizes. Leave it out, or use --form {kind}."
        )
    if form == "canonical" and options.readout not in (None, "forward"):
        raise InvalidInput(
            f"--readout {options.readout}: the canonical form keeps unit variance everywhere; use --form relative."
        )
    for name in options.given(("richness", "branch_scale")):
        if recipe.scheme == "ntk" or (recipe.scheme == "sp" and name == "richness"):
            raise InvalidInput(f"{_flag(name)}: the scheme {recipe.scheme!r} has none; leave it out.")


def _cautions(table: RoleTable, options: Options) -> list[str]:
    recipe, found = table.recipe, []
    if table.base is not None:
        pairs = [(getattr(table.size, n), getattr(table.base, n)) for n in ("width", "depth", "head_dim")]
        if all(ours == theirs for ours, theirs in pairs):
            found.append("base = target: all factors are 1.")
        elif table.size.depth != table.base.depth and recipe.depth_exponent is None:
            found.append(
                f"the scheme {recipe.scheme!r} has no depth rule: depth changes nothing here, and the best learning rate is known to "
                "drift with it; use mup-depth or completep."
            )
    if recipe.scheme == "sp":
        found.append("standard parameterization keeps one rate for all tensors; its best value drifts with width.")
    if options.attention_exponent not in (None, 0.5) and not recipe.feature_learning:
        found.append(f"--attention-exponent: the scheme {recipe.scheme!r} keeps logits q·k / sqrt(d_h).")
    return found


def _to_json(table: RoleTable, options: Options, cautions: list[str]) -> dict[str, Any]:
    def sizes(width: float | None, depth: float | None, head_dim: float | None) -> dict[str, Any]:
        pairs = {"width": width, "depth": depth, "head_dim": head_dim}
        return {name: int(v) if v is not None and v == int(v) else v for name, v in pairs.items()}

    size = sizes(options.width, options.depth, options.head_dim)
    base = None
    if table.base is None:
        size["input_dim"] = 1.0 if options.input_dim is None else options.input_dim
    else:
        base = sizes(options.base_width, options.base_depth, options.base_head_dim)
        base["depth"] = options.depth if base["depth"] is None else base["depth"]
        base["head_dim"] = options.head_dim if base["head_dim"] is None else base["head_dim"]
    return {
        **dataclasses.asdict(table.recipe),
        "form": table.form,
        "readout": options.readout or "forward",
        "size": size,
        "base": base,
        "roles": {role: dataclasses.asdict(entry) for role, entry in table.roles.items()},
        "attention_logits": {"multiplier": table.attention_multiplier},
        "branch": {"multiplier": table.branch_multiplier},
        "warnings": cautions,
    }


def _heading(table: RoleTable) -> str:
    recipe = table.recipe
    decay = f" ({recipe.decay} decay)" if recipe.optimizer in ("adamw", "lion") else ""

    def words(size: Size) -> str:
        head = "" if size.head_dim is None else f", head size {size.head_dim:g}"
        return f"width {size.width:g}, depth {size.depth:g}{head}"

    against = "absolute (canonical form)" if table.base is None else f"relative to base {words(table.base)}"
    return f"{recipe.scheme}, {recipe.optimizer}{decay}: {words(table.size)}, {against}"


def _rich(table: RoleTable) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("role")
    parts = [field.name for field in dataclasses.fields(next(iter(table.roles.values())))]
    for part in parts:
        shown.add_column(part, justify="right")
    for role, entry in table.roles.items():
        cells = []
        for part in parts:
            value = getattr(entry, part)
            formula = table.formulas[role][part]
            cells.append("-" if value is None else f"{value:.6g}" + ("" if formula == "1" else f" [{formula}]"))
        shown.add_row(role, *cells)
    return shown


def _legend(table: RoleTable) -> list[str]:
    if table.base is None:
        letters = "N width, L depth, d_h head size, D inputs of the first layer, γ₀ richness, β₀ branch scale"
        numbers = (
            "multiplier and init_std are absolute; lr, eps, weight_decay: those given (1 by default) times their powers"
        )
    else:
        letters = "N, L, d_h: ratios of width, depth, head size to the base"
        numbers = "every number is a factor on the value at the base; a bias that starts at zero stays zero"
    attention = "-" if table.attention_multiplier is None else f"{table.attention_multiplier:.6g}"
    return [
        f"branch multiplier: {table.branch_multiplier:.6g}, already in 'hidden' and 'branch_vector'",
        f"attention logits: {'q·k × ' if table.base is None else 'times '}{attention}",
        "",
        "A tensor enters the forward pass as multiplier × w, starts with standard deviation init_std and has its own lr, eps and",
        f"weight_decay. Here {numbers}. -: undefined. In brackets: {letters}.",
        "",
        *(f"{role:<20} {words}" for role, words in ROLE_WORDS.items()),
    ]


def _from_file(path: Path, options: Options) -> Parameterization:
    table = _read_file(path)
    sizes = options.given(_SIZES)
    if sizes:
        raise InvalidInput(
            f"{_flag(next(iter(sizes)))}: with a file of shapes, sizes come from the file; leave it out."
        )
    wishes = {key: value for key, value in table.items() if key not in ("base", "target", "roles")}
    wishes.update(options.given((*_RECIPE, "form", "readout")))
    for name in ("scheme", "optimizer"):
        if name not in wishes:
            raise InvalidInput(f"--{name}: missing, on the command line and in {path}.")
    shapes, roles = _shapes(path, table, "target"), table.get("roles")
    words = isinstance(roles, dict) and all(isinstance(v, str) for v in roles.values())
    if not words:
        raise InvalidInput(f"{path}: roles: expected path pattern to role for every tensor; nothing is guessed.")
    _check_layout(path, wishes)
    base = _shapes(path, table, "base") if "base" in table else None
    return parameterize(shapes, base=base, roles=roles, **wishes)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise InvalidInput(f"{path}: expected a file of shapes in JSON, found no such file.")
        if path.stat().st_size > _LARGEST_FILE:
            raise InvalidInput(f"{path}: larger than 64 MiB; expected a file of shapes in JSON.")
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{path}: expected a file of shapes in JSON: {error}.") from None
    if not isinstance(table, dict):
        raise InvalidInput(
            f"{path}: expected an object with the keys target, roles, ..., got a {type(table).__name__}."
        )
    for key in table:
        if key not in _FILE_KEYS:
            raise InvalidInput(
                f"{path}: unknown key {key!r}{nearest(key, _FILE_KEYS)}; expected some of {', '.join(_FILE_KEYS)}."
            )
    strings = ("scheme", "optimizer", "decay", "decay_rule", "form", "readout", "layout")
    for key in strings:
        if key in table and not isinstance(table[key], str):
            raise InvalidInput(f"{path}: {key}: expected a string, got {table[key]!r}.")
    return table


def _shapes(path: Path, table: Mapping[str, Any], key: str) -> dict[str, tuple[int, ...]]:
    value = table.get(key)
    if not isinstance(value, dict) or not value:
        raise InvalidInput(f"{path}: {key}: expected path to shape for every tensor, got {value!r}.")
    for name, shape in value.items():
        fine = isinstance(shape, list) and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape)
        if not fine:
            raise InvalidInput(f"{path}: {key}: {name!r}: expected a list of whole numbers > 0, got {shape!r}.")
    return {name: tuple(shape) for name, shape in value.items()}


def _check_layout(path: Path, table: Mapping[str, Any]) -> None:
    outside, axes = table.get("outside", []), table.get("axes", {})
    if not isinstance(table.get("absorb", False), bool):
        raise InvalidInput(f"{path}: absorb: expected true or false, got {table['absorb']!r}.")
    if not isinstance(outside, list) or not all(isinstance(v, str) for v in outside):
        raise InvalidInput(f"{path}: outside: expected a list of path patterns, got {outside!r}.")
    if not isinstance(axes, dict) or not all(isinstance(v, list) for v in axes.values()):
        raise InvalidInput(f"{path}: axes: expected path pattern to a list of 'in', 'out', 'stack', got {axes!r}.")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
