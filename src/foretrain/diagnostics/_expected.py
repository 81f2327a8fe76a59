r"""Exponents that a scheme promises, (PA.5) and (PA.6): how sizes and changes scale with width, depth and head size."""

import dataclasses
import math

from foretrain.parameterization import Recipe

SGD_FAMILY = ("sgd", "momentum", "nesterov")
SETTLED_STEPS = 20
"""Steps after which attention logits have left the weak force of their random start."""

Range = tuple[float, float]
_ANY_GROWTH = (0.3, math.inf)

# (PA.5), after one step: change of the first layer, of everything after it, of the outputs.
_WIDTH: dict[tuple[str, str], tuple[float, float, float]] = {
    ("sp", "sgd"): (-0.5, 0.5, 1.0),
    ("sp", "adam"): (0.0, 1.0, 1.5),
    ("ntk", "sgd"): (-0.5, -0.5, 0.0),
    ("ntk", "adam"): (-0.5, -0.5, 0.0),
    ("mup", "sgd"): (0.0, 0.0, 0.0),
    ("mup", "adam"): (0.0, 0.0, 0.0),
}
# (PA.6): change of a branch's preactivations and logits by its own weights; stream and outputs keep their size, what a
# branch adds and its change have the size of the branch factor, and its own weights always change it like 1 / L.
_OWN_INSIDE = {"mup-depth": -0.5, "completep": 0.0}


@dataclasses.dataclass(frozen=True)
class Quantity:
    """What is measured in one layer.

    Args:
        kind: `"stream"`, `"inside"`, `"branch"`, `"logits"` or `"output"`.
        measure: `"start"`, `"change"` or `"own change"`.
        first: Whether it is the stream before all hidden maps, or the branch that reads it.
    """

    kind: str
    measure: str
    first: bool = False


def family(recipe: Recipe) -> tuple[str, str]:
    """`"sp"`, `"ntk"` or `"mup"`, and `"sgd"` or `"adam"`: what decides about exponents in width.

    Args:
        recipe: Scheme and optimizer.
    """
    scheme = "mup" if recipe.feature_learning else recipe.scheme
    return scheme, "sgd" if recipe.optimizer in SGD_FAMILY else "adam"


def expected_exponent(quantity: Quantity, recipe: Recipe, axis: str, steps: int = 1) -> Range | None:
    r"""The least and the greatest exponent that the scheme allows, or `None` where nothing is promised.

    The output at the start is never judged: $f(0)\propto N^{-1/2}$ and a readout that starts at zero are both right.

    Args:
        quantity: What is measured.
        recipe: The scheme that the model declares.
        axis: `"width"` (also for more heads of one size), `"depth"` or `"head_dim"`.
        steps: Steps of the optimizer. Standard parameterization has exponents for the first only; later ones can only be larger.

    Example:
        >>> from foretrain.diagnostics import Quantity, expected_exponent
        >>> from foretrain.parameterization import Recipe
        >>> expected_exponent(Quantity("stream", "change"), Recipe("ntk", "sgd"), "width")
        (-0.5, -0.5)
        >>> expected_exponent(Quantity("branch", "change"), Recipe("completep", "adam"), "depth")
        (-1.0, -1.0)
    """
    if quantity.kind == "output" and quantity.measure == "start":
        return None
    if axis == "depth":
        return _in_depth(quantity, recipe)
    if axis == "head_dim" and quantity.kind == "logits":
        return _in_head_size(quantity, recipe, steps)
    if quantity.measure == "start":
        return 0.0, 0.0
    first, later, output = _WIDTH[family(recipe)]
    before_maps = quantity.first and quantity.kind != "branch"
    value = output if quantity.kind == "output" else first if before_maps else later
    if recipe.scheme == "sp" and not before_maps:
        # Reached from below as the width grows; a second step starts from features that have already grown.
        return value - 0.1, value if steps == 1 else math.inf
    return value, value


def _in_depth(quantity: Quantity, recipe: Recipe) -> Range | None:
    alpha = recipe.depth_exponent
    if alpha is None:
        # No limit: the stream grows like the square root of depth with normalization in the branches, exponentially without.
        grows = quantity.kind == "stream" and not quantity.first
        return _ANY_GROWTH if grows else None
    if quantity.kind == "branch":
        if quantity.first and quantity.measure == "change":
            # What it reads moves only by the first map's training: its own weights, -1, still count at ordinary depths.
            return -1.0, -alpha
        value = -1.0 if quantity.measure == "own change" else -alpha
    elif quantity.measure == "own change":
        value = _OWN_INSIDE[recipe.scheme]
    else:
        value = 0.0
    return value, value


def _in_head_size(quantity: Quantity, recipe: Recipe, steps: int) -> Range | None:
    if not recipe.feature_learning:
        return (0.0, 0.0) if quantity.measure == "start" else None
    alpha = recipe.attention_exponent
    if quantity.measure == "start":
        # Independent queries and keys; those that start at zero have no size here, correlated ones start at order one.
        return 0.5 - alpha, 0.5 - alpha
    # The force on logits starts at d^-1/2 and becomes of order one once values and outputs have moved: until then only
    # growth is wrong.
    return (-math.inf, 0.0) if steps < SETTLED_STEPS else (-0.5, 0.0)
