r"""From slopes that are not as declared to the likely cause.

Exponents of a model follow from those of its tensors: the size of the effective weight $ab$ and of the effective rate
($a^2c$ for SGD, $ac$ for Adam). One step of the backward and forward pass, sum by sum (random sums count $\frac12$, aligned
ones 1), gives what every quantity does, for right and for wrong tensors alike. The library of faults is made from the one
table of the parameterization: in turn, every role gets the init, the rate or both of another scheme. The fault whose
exponents are nearest to the measured ones is named, if it is near at all.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping

from foretrain.diagnostics._expected import SGD_FAMILY, Quantity, Range
from foretrain.parameterization import Recipe, canonical_rule

NEAR = 0.3
"""Distance of exponents, root mean square, up to which a fault explains what was measured."""
_TIE = 0.06
_WRONG_START = 0.25
"""Sizes at the start follow their exponent at every size: a fault that has one wrong by so much is out."""
# Changes are sums, whose largest term wins at large sizes only; by its own weights alone a branch changes in one way.
_WEIGHTS = {"start": 1.0, "change": 1.0, "own change": 4.0}
_ROLES = ("input", "hidden", "output")
_WORDS = {"input": "input (first layer, embedding)", "hidden": "hidden", "output": "readout (output)"}

Exponents = dict[Quantity, Range]


@dataclasses.dataclass(frozen=True)
class Tensors:
    """Exponents in width of effective weights and effective rates, role by role."""

    weight: Mapping[str, float]
    rate: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Fault:
    """Something that may be wrong, in words, and the exponents that it leads to."""

    words: str
    exponents: Exponents


def likely_cause(measured: Mapping[Quantity, float], recipe: Recipe, axis: str) -> str | None:
    """What may be wrong, in words, or `None` when no known fault has exponents near to those measured.

    Faults that these quantities cannot tell apart are all named.

    Args:
        measured: Quantity to slope, one for each kind.
        recipe: The scheme that the model declares.
        axis: As for `expected_exponent`.
    """
    scored = sorted(
        ((_distance(measured, fault.exponents), fault) for fault in faults(recipe, axis)), key=lambda pair: pair[0]
    )
    right = _distance(measured, _as_declared(recipe, axis))
    if not scored or scored[0][0] > min(NEAR, right - _TIE):
        return None
    best = [fault for score, fault in scored if score <= scored[0][0] + _TIE]
    return "; or ".join(dict.fromkeys(fault.words for fault in best))


def _as_declared(recipe: Recipe, axis: str) -> Exponents:
    if axis == "depth":
        alpha = recipe.depth_exponent
        rate = 0.0 if alpha is None else (2 * alpha - 1 if recipe.optimizer in SGD_FAMILY else alpha - 1)
        return exponents_in_depth(-(alpha or 0.0), rate, recipe)
    found = exponents_in_width(tensors_of(recipe), recipe)
    if axis == "head_dim" and recipe.feature_learning:
        found |= {q: (-0.5, 0.0) for q in found if q.kind == "logits"}
        start = 0.5 - recipe.attention_exponent
        found[Quantity("logits", "start")] = (start, start)
    return found


def faults(recipe: Recipe, axis: str) -> Iterator[Fault]:
    """The library of faults of a declared scheme.

    Args:
        recipe: Scheme and optimizer.
        axis: As for `expected_exponent`.
    """
    if axis == "depth":
        yield from _faults_in_depth(recipe)
        return
    if axis == "head_dim" and recipe.feature_learning and recipe.attention_exponent == 1:
        yield Fault(
            "attention logits are q k / sqrt(head size) while the rates of queries and keys are those of q k / head size: "
            "divide logits by the head size (times the square root of the base's), or declare attention_exponent = 0.5 (if queries and "
            "keys start correlated on purpose, the size at the start is right and their change alone counts)",
            _wrong_attention(recipe),
        )
    yield from _faults_in_width(recipe)


def exponents_in_width(tensors: Tensors, recipe: Recipe) -> Exponents:
    """What one step does, from the exponents of a model's tensors.

    Args:
        tensors: Of effective weights and rates.
        recipe: Its optimizer decides how gradients become steps.
    """
    sgd = recipe.optimizer in SGD_FAMILY
    weight, rate = tensors.weight, tensors.rate
    start = weight["input"]
    per_map = weight["hidden"] + 0.5
    h = start + max(per_map, 0.0)
    f = h + weight["output"] + 0.5
    error = max(f, 0.0)
    g = weight["output"] + max(per_map, 0.0)
    first = rate["input"] + (error + g if sgd else 0.0)
    moved = rate["hidden"] + h + 1 + (error + g + h if sgd else 0.0)
    later = max(first, moved)
    readout = rate["output"] + h + 1 + (error + h if sgd else 0.0)
    output = max(readout, weight["output"] + later + 1)
    found = {
        Quantity("stream", "start", True): start,
        Quantity("stream", "change", True): first,
        Quantity("stream", "start"): h,
        Quantity("output", "start"): f,
        Quantity("output", "change"): output,
    }
    for kind in ("stream", "inside", "branch", "logits"):
        found[Quantity(kind, "change")] = later
        if kind != "stream":
            found[Quantity(kind, "own change")] = moved
    # A map that grows does so in every layer: what stands here is the first of them.
    unbounded = per_map > 0
    return {q: (v, math.inf if unbounded and not q.first else v) for q, v in found.items()}


def exponents_in_depth(factor: float, rate: float, recipe: Recipe) -> Exponents:
    r"""What one step does in a residual network, from the exponents in depth of branch factor and branch rate.

    Args:
        factor: Of $s$.
        rate: Of the branches' learning rate $c$.
        recipe: Its optimizer decides how gradients become steps.
    """
    if factor > -0.5:
        # The stream grows like the square root of depth with normalization in the branches, and exponentially without.
        return {
            Quantity("stream", "start"): (0.3, math.inf),
            Quantity("stream", "change"): (0.3, math.inf),
            Quantity("branch", "start"): (factor, factor + 0.6),
            Quantity("branch", "change"): (factor, math.inf),
        }
    sgd = recipe.optimizer in SGD_FAMILY
    own_inside = rate + (factor if sgd else 0.0)
    own_branch = rate + (2 * factor if sgd else factor)
    stream = max(0.0, own_branch + 1)  # every branch adds its change coherently
    found = {
        Quantity("stream", "start"): 0.0,
        Quantity("stream", "change"): stream,
        Quantity("branch", "start"): factor,
        Quantity("branch", "change"): max(own_branch, factor + stream),
        Quantity("branch", "own change"): own_branch,
        Quantity("output", "change"): stream,
    }
    for kind in ("inside", "logits"):
        found[Quantity(kind, "change")] = max(own_inside, stream)
        found[Quantity(kind, "own change")] = own_inside
    return {q: (v, v) for q, v in found.items()}


def tensors_of(recipe: Recipe) -> Tensors:
    """Exponents in width of a scheme's tensors, from its table.

    Args:
        recipe: Scheme and optimizer.
    """
    power = 2 if recipe.optimizer in SGD_FAMILY else 1
    weight, rate = {}, {}
    for role in _ROLES:
        rule = canonical_rule(role, recipe)
        weight[role] = _in_width(rule.multiplier * rule.init_std)
        rate[role] = _in_width(rule.multiplier**power * rule.lr) if rule.lr is not None else 0.0
    return Tensors(weight, rate)


def _in_width(power: object) -> float:
    return sum(e for name, e in power.exponents if name in ("fan_in", "fan_out", "width"))  # type: ignore[attr-defined]


def _faults_in_width(recipe: Recipe) -> Iterator[Fault]:
    right = tensors_of(recipe)
    for scheme, name in (("sp", "standard parameterization"), ("ntk", "the NTK parameterization")):
        if scheme == recipe.scheme:
            continue
        other = tensors_of(dataclasses.replace(recipe, scheme=scheme, attention_exponent=1.0))
        lazy = ": features do not move as the width grows" if scheme == "ntk" else ""
        yield Fault(f"the whole model scales as in {name}{lazy}", exponents_in_width(other, recipe))
        if scheme == "ntk":
            continue
        for role in _ROLES:
            for parts, words in ((("weight",), "init"), (("rate",), "learning rate"), (("weight", "rate"), "")):
                yield from _replaced(right, other, role, parts, words, name, recipe)
    constant = Tensors({**right.weight, "hidden": 0.0}, right.rate)
    yield Fault(
        "the init of hidden tensors is not scaled with width: its standard deviation should fall like N^-0.5",
        exponents_in_width(constant, recipe),
    )


def _replaced(
    right: Tensors, other: Tensors, role: str, parts: tuple[str, ...], words: str, name: str, recipe: Recipe
) -> Iterator[Fault]:
    changed = {part: getattr(other, part)[role] for part in parts}
    if any(value == getattr(right, part)[role] for part, value in changed.items()):
        return
    made = {part: {**getattr(right, part)} for part in ("weight", "rate")}
    for part, value in changed.items():
        made[part][role] = value
    powers = ", ".join(
        f"effective {'size' if part == 'weight' else 'rate'} N^{value:g} instead of N^{getattr(right, part)[role]:g}"
        for part, value in changed.items()
    )
    what = (
        f"the {words} of {_WORDS[role]} tensors scales"
        if words
        else f"init and learning rate of {_WORDS[role]} tensors scale"
    )
    yield Fault(f"{what} as in {name} ({powers})", exponents_in_width(Tensors(**made), recipe))


def _faults_in_depth(recipe: Recipe) -> Iterator[Fault]:
    sgd = recipe.optimizer in SGD_FAMILY
    alpha = recipe.depth_exponent or 0.0

    def rate(a: float) -> float:
        return 2 * a - 1 if sgd else a - 1

    names = {0.0: "no factor of depth", 0.5: "1 / sqrt(L)", 1.0: "1 / L"}
    right = rate(alpha) if recipe.depth_exponent is not None else 0.0
    for other, name in names.items():
        if other != alpha:
            missing = (
                "the branch multiplier has no factor of depth (whether or not the rates have theirs)"
                if other == 0
                else f"the branch multiplier is {name}"
            )
            yield Fault(f"{missing}, where the scheme needs {names[alpha]}", exponents_in_depth(-other, right, recipe))
    if recipe.depth_exponent is None:
        return
    for wrong, name in (
        (0.0, "has no factor of depth"),
        (rate(0.5), "is that of 1 / sqrt(L)"),
        (rate(1.0), "is that of 1 / L"),
    ):
        if wrong != right:
            yield Fault(
                f"the learning rate of branch tensors {name} (L^{wrong:g} instead of L^{right:g})",
                exponents_in_depth(-alpha, wrong, recipe),
            )


def _wrong_attention(recipe: Recipe) -> Exponents:
    """Logits are larger by the square root of the head size, and so are, for SGD, the forces on queries and keys."""
    healthy = {q: (0.0, 0.0) for q in exponents_in_width(tensors_of(recipe), recipe) if q.kind != "logits"}
    healthy[Quantity("output", "start")] = (-0.5, -0.5)
    # By how much more than the right ones, which are at -1/2 while the force on them is weak and at 0 afterwards.
    growth = (0.5, 1.2) if recipe.optimizer in SGD_FAMILY else (0.0, 0.7)
    return {
        **healthy,
        Quantity("logits", "start"): (0.0, 0.0),
        Quantity("logits", "change"): growth,
        Quantity("logits", "own change"): growth,
    }


def _distance(measured: Mapping[Quantity, float], predicted: Exponents) -> float:
    """Weighted root mean square of how far slopes are from predicted ranges; each counts at most 1."""
    total = weights = 0.0
    for quantity, slope in measured.items():
        if quantity not in predicted or not math.isfinite(slope):
            continue
        low, high = predicted[quantity]
        distance = max(low - slope, slope - high, 0.0)
        judged = quantity.measure == "start" and quantity.kind != "output"
        if judged and distance > _WRONG_START:
            return math.inf
        total += _WEIGHTS[quantity.measure] * min(1.0, distance) ** 2
        weights += _WEIGHTS[quantity.measure]
    return math.sqrt(total / weights) if weights else math.inf
