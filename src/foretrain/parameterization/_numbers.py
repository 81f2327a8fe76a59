"""From rules to numbers: sizes of a model, the numbers of one tensor, and what stands for the letters of the rules."""

import dataclasses
import math
from collections.abc import Mapping

from foretrain.errors import InvalidInput
from foretrain.parameterization._monomial import monomial
from foretrain.parameterization._rules import Recipe, Rule, shift
from foretrain.parameterization._tensors import FUSED, Shape, Tensor


@dataclasses.dataclass(frozen=True)
class Size:
    """The sizes of a model that are not sizes of its tensors.

    Args:
        depth: Number of residual blocks.
        head_dim: Size of one attention head; `None` without attention.
        width: Width $N$ of the stream, which the rates of the canonical form follow; `None` takes every tensor's own
            fan-out. Against a base only ratios of shapes count.
    """

    depth: float = 1.0
    head_dim: float | None = None
    width: float | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None and field.name != "depth":
                continue
            if isinstance(value, bool) or not (isinstance(value, (int, float)) and 0 < value < math.inf):
                raise InvalidInput(f"Size({field.name}): expected a number > 0, got {value!r}.")


@dataclasses.dataclass(frozen=True)
class Entry:
    """The numbers of one tensor; `None` where the scheme defines nothing.

    Args:
        multiplier: What multiplies the tensor in the forward pass.
        init_std: Standard deviation at the start.
        lr: Learning rate.
        eps: Adam's epsilon.
        weight_decay: Weight decay.
    """

    multiplier: float
    init_std: float
    lr: float | None
    eps: float | None
    weight_decay: float | None


@dataclasses.dataclass(frozen=True)
class TensorRule:
    """One tensor with the rule that it follows.

    Args:
        tensor: Shape and role.
        base: Its shape at the base size, or `None` in the canonical form.
        rule: Powers of sizes.
        entry: The numbers.
    """

    tensor: Tensor
    base: Shape | None
    rule: Rule
    entry: Entry


def shift_entry(entry: Entry, theta: float, recipe: Recipe) -> Entry:
    r"""The same training with multiplier $a\theta$, (PA.2).

    Args:
        entry: The numbers.
        theta: $\theta>0$.
        recipe: The optimizer and the form of its decay.
    """
    powers = shift(
        Rule(monomial(), monomial(), monomial(), monomial(), monomial()), monomial(theta=1.0), recipe
    ).parts()
    values = {}
    for name, power in powers.items():
        value = getattr(entry, name)
        values[name] = None if value is None or power is None else value * power.value({"theta": theta})
    return Entry(**values)


def model_quantities(size: Size, base: Size | None, richness: float, branch_scale: float) -> dict[str, float]:
    """What stands for the letters of a model: absolute without a base, else ratios to it."""
    head = size.head_dim or 1.0
    if base is None:
        sizes = {"depth": float(size.depth), "head_dim": float(head)}
    else:
        sizes = {"depth": size.depth / base.depth, "head_dim": head / (base.head_dim or head)}
    return {**sizes, "richness": richness, "branch_scale": branch_scale}


def tensor_quantities(
    tensor: Tensor, base: Shape | None, size: Size, base_size: Size | None, richness: float, branch_scale: float
) -> dict[str, float]:
    """What stands for the letters of a tensor's rule: absolute without a base, else ratios to it."""
    own = _sizes(tensor)
    if base is not None:
        against = _sizes(dataclasses.replace(tensor, shape=base))
        own = {name: own[name] / against[name] for name in own}
    elif size.width is not None:
        own["width"] = float(size.width)
    tuned = {"lr": 1.0, "eps": 1.0, "weight_decay": 1.0}
    return {**own, **model_quantities(size, base_size, richness, branch_scale), **tuned}


def _sizes(tensor: Tensor) -> dict[str, float]:
    # Queries, keys and values in one tensor are three maps of the stream to itself.
    width = tensor.size_in if tensor.role == FUSED else tensor.size_out
    return {"fan_in": float(tensor.size_in), "width": float(width), "input_dim": float(tensor.input_dim)}


def evaluate(rule: Rule, quantities: Mapping[str, float], form: str) -> Entry:
    """The numbers of a rule."""
    # Against a base, richness and branch scale are the base's own: its epsilon was chosen with them.
    own = {**quantities, "richness": 1.0, "branch_scale": 1.0} if form == "relative" else quantities
    values = {}
    for name, power in rule.parts().items():
        values[name] = None if power is None else power.value(own if name in ("eps", "weight_decay") else quantities)
    return Entry(**values)
