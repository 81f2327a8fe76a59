"""Writes docs/reference/parameterization-table.md from the rules in the code; a test holds the page against them.

.venv/bin/python docs/_hooks/parameterization_table.py
"""

import dataclasses
from fractions import Fraction
from pathlib import Path

from foretrain.parameterization import ROLE_WORDS, ROLES, SCHEMES, Recipe, Rule, canonical_rule, relative_rule

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "parameterization-table.md"

_LETTERS = {
    "lr": r"\eta_0",
    "eps": r"\epsilon_0",
    "weight_decay": r"\lambda_0",
    "richness": r"\gamma_0",
    "branch_scale": r"\beta_0",
    "input_dim": "D",
    "fan_in": "n",
    "width": "N",
    "depth": "L",
    "head_dim": "d_h",
}
_RATIOS = {"fan_in": "m_n", "width": "m_N", "depth": "m_L", "head_dim": "m_d"}
_TUNED = ("lr", "eps", "weight_decay")
_SETTINGS = ("richness", "branch_scale")
# Column → optimizers that share it, form of the decay, part of the rule.
_COLUMNS = {
    "multiplier": (("sgd", "momentum", "nesterov", "adam", "adamw", "lion"), "lr-multiplied", "multiplier"),
    "init std": (("sgd", "momentum", "nesterov", "adam", "adamw", "lion"), "lr-multiplied", "init_std"),
    "rate, SGD": (("sgd", "momentum", "nesterov"), "lr-multiplied", "lr"),
    "rate, Adam": (("adam", "adamw", "lion"), "lr-multiplied", "lr"),
    r"$\epsilon$": (("adam", "adamw"), "lr-multiplied", "eps"),
    "decay, SGD": (("sgd", "momentum", "nesterov"), "lr-multiplied", "weight_decay"),
    r"decay, $\times$ rate": (("adamw", "lion"), "lr-multiplied", "weight_decay"),
    "decay, independent": (("adamw", "lion"), "independent", "weight_decay"),
}
_SAME = {"mean-field": "mup"}
_INSIDE = tuple(role for role in ROLES if role.startswith(("hidden", "branch")))

_HEAD = r"""# The table of parameterizations

<!-- Made by docs/_hooks/parameterization_table.py from the rules in the code. Do not edit. -->

What every tensor gets, for every scheme and optimizer. This page is made from the rules that the program uses, and a test holds it against them. [Parameterizations](../theory/parameterizations.md) derives them, and `foretrain parameterize` evaluates them for a model.

## How to read it

A tensor enters the forward pass as multiplier × tensor, starts with the standard deviation *init std* and is trained at *rate*.

* **Canonical** form: absolute numbers with unit variance. $n$ is the fan-in of the tensor (a kernel's area counts), $N$ the width of the stream, $L$ depth, $d_h$ the head size, $D$ the dimension of the input. $\eta_0$, $\epsilon_0$ and $\lambda_0$ are what one tunes, $\gamma_0$ is the richness and $\beta_0$ the scale of branches.
* **Relative** form: factors on what the same tensor has at the base. $m_n,m_N,m_L,m_d$ are the sizes divided by those of the base. $\gamma_0$ and $\beta_0$ are no ratios: they change a standard network, and are 1 unless asked for. Variances are $1/$fan-in at the base for maps that start at random; biases start at 0, gains at 1.
* *Rate, SGD* and *decay, SGD* hold for SGD, momentum and Nesterov, with decay in the gradient. *Rate, Adam* holds for Adam, AdamW and Lion. $\epsilon$ is Adam's and AdamW's. Decay *× rate* is $w\leftarrow w(1-c\lambda)$ and *independent* is $w\leftarrow w(1-\lambda)$, both of AdamW and Lion; for Adam with decay in the gradient no rule is known. A dash says that the scheme defines nothing there.
* Outside residual branches a tensor of a role marked • has the entries without $L$, and $\beta_0$.
* `output` (init) is the readout with `readout="init"`, whose scaling sits in initialization and rate.
* `decay_rule="published"` leaves $L$ out of the decay of AdamW and Lion.

| role | what it is |
| --- | --- |
"""


def render() -> str:
    """The whole page."""
    parts = [_HEAD.rstrip("\n"), *(f"| `{role}`{_mark(role)} | {ROLE_WORDS[role]} |" for role in ROLES)]
    for scheme in SCHEMES:
        if scheme in _SAME:
            continue
        names = [scheme, *(other for other, first in _SAME.items() if first == scheme)]
        recipe = Recipe(scheme)
        constant, slope = _attention(recipe)
        parts += ["", f"## {' and '.join(f'`{name}`' for name in names)}", ""]
        parts += [
            f"Branches are multiplied by {_formula(_product(dict(recipe.branch_factor.exponents), {}, _LETTERS))}, products of queries "
            f"and keys by {_formula(_product(constant, slope, _LETTERS))}."
        ]
        for form in ("canonical", "relative"):
            parts += ["", f"### {scheme}, {form}", "", *_table(scheme, form)]
    return "\n".join(parts) + "\n"


def _table(scheme: str, form: str) -> list[str]:
    """Two tables, since eight columns are wider than a page."""
    lines = []
    for names in (list(_COLUMNS)[:4], list(_COLUMNS)[4:]):
        lines += [f"| role | {' | '.join(names)} |", "| --- " * (len(names) + 1) + "|"]
        lines += [_row(f"`{role}`{_mark(role)}", names, scheme, form, role) for role in ROLES]
        if form == "relative" and scheme != "sp":
            lines.append(_row("`output` (init)", names, scheme, form, "output", readout="init"))
        lines.append("")
    return lines[:-1]


def _row(title: str, names: list[str], scheme: str, form: str, role: str, readout: str = "forward") -> str:
    cells = []
    for optimizers, decay, part in (_COLUMNS[name] for name in names):
        found = {_cell(scheme, form, role, readout, optimizer, decay, part) for optimizer in optimizers}
        if len(found) != 1:  # a column stands for all of its optimizers
            raise ValueError(f"{scheme}, {form}, {role}, {part}: {optimizers} differ: {found}")
        cells.append(found.pop())
    return f"| {title} | {' | '.join(cells)} |"


def _cell(scheme: str, form: str, role: str, readout: str, optimizer: str, decay: str, part: str) -> str:
    def rule(exponent: float) -> Rule:
        recipe = Recipe(scheme, optimizer, decay, attention_exponent=exponent)
        return canonical_rule(role, recipe) if form == "canonical" else relative_rule(role, recipe, readout=readout)

    value = getattr(rule(1.0), part)
    if value is None:
        return "–"
    ends = [dict(getattr(rule(exponent), part).exponents) for exponent in (1.0, 0.5)]
    constant, slope = _line(*ends)
    if form == "canonical":
        return _formula(_product(constant, slope, _LETTERS))
    dropped = {*_TUNED, "input_dim", *(_SETTINGS if part in ("eps", "weight_decay") else ())}
    constant = {name: power for name, power in constant.items() if name not in dropped}
    return _formula(_product(constant, slope, _LETTERS | _RATIOS))


def _attention(recipe: Recipe) -> tuple[dict[str, float], dict[str, float]]:
    """Exponents of the factor on products of queries and keys, as (constant, slope) in the attention exponent."""
    ends = [
        dict(dataclasses.replace(recipe, attention_exponent=exponent).attention_factor.exponents)
        for exponent in (1.0, 0.5)
    ]
    return _line(*ends)


def _line(one: dict[str, float], half: dict[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Exponents as constant + slope x attention exponent, from their values at 1 and at a half."""
    names = [*one, *(name for name in half if name not in one)]
    slope = {name: 2 * (one.get(name, 0.0) - half.get(name, 0.0)) for name in names}
    return {name: one.get(name, 0.0) - slope[name] for name in names}, slope


def _product(constant: dict[str, float], slope: dict[str, float], letters: dict[str, str]) -> str:
    names = {*constant, *slope}
    shown = [_power(letters[name], constant.get(name, 0.0), slope.get(name, 0.0)) for name in _LETTERS if name in names]
    return r"\,".join(part for part in shown if part)


def _formula(product: str) -> str:
    return f"${product}$" if product else "1"


def _power(letter: str, constant: float, slope: float) -> str:
    if slope == 0 and constant == 0:
        return ""
    if slope == 0 and constant == 1:
        return letter
    if slope == 0:
        return f"{letter}^{{{_fraction(constant)}}}"
    factor = {1.0: "", -1.0: "-"}.get(slope, _fraction(slope)) + r"\alpha_A"
    if constant == 0:
        return f"{letter}^{{{factor}}}"
    if constant > 0 > slope:
        return f"{letter}^{{{_fraction(constant)}{factor}}}"
    return f"{letter}^{{{factor}{'+' if constant > 0 else ''}{_fraction(constant)}}}"


def _fraction(value: float) -> str:
    return str(Fraction(value).limit_denominator(8))


def _mark(role: str) -> str:
    return " •" if role in _INSIDE else ""


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
