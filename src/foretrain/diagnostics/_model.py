"""`CheckedModel`: what the coordinate check needs to know of a model of one size and seed."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jaxtyping import Array

from foretrain.errors import InvalidInput, nearest

KINDS = ("stream", "inside", "branch", "logits", "output")
"""What a feature is: the last word of its name, see `CheckedModel`."""


class Layered(NamedTuple):
    """A feature of every layer in one array, layers first."""

    array: Array


Feature = Array | Sequence[Array] | Layered
Features = Callable[[Any, Any], Mapping[str, Feature]]
Loss = Callable[[Any, Any], Array]
Swap = Callable[[Any, Any, int, str], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class CheckedModel:
    """A model of one size and seed, in the form in which any framework can hand it over.

    `loss` and `features` are pure functions that JAX can trace. They may depend on the size but not on the seed: all
    that is random stands in `params`.

    Names of features end in a word that says what they are (before it, after a space, dot or slash, anything may stand):

    - `stream`: the residual stream, or the hidden layers of a network without one;
    - `inside`: pre-activations inside a branch;
    - `branch`: what a branch adds to the stream;
    - `logits`: attention logits;
    - `output`: the outputs.

    A list has one array for each layer; the shapes of arrays do not matter, as sizes are means over all entries.

    Args:
        params: Trained parameters, a pytree of arrays.
        loss: Of parameters and batch.
        features: Of parameters and batch: name to an array, or to a list with one array for each layer.
        optimizer: An Optax optimizer, or a `Parameterization` of these parameters, which makes one.
        batch: What `loss` and `features` get; the same for all sizes.
        swap: Of (start, end, layer, feature name): the starting parameters with the weights of the branch that the feature belongs
            to taken from the end, in one layer. With it, changes that are due to a branch's own weights are measured.
            `swap_by_path` makes one.
    """

    params: Any
    loss: Loss
    features: Features
    optimizer: Any
    batch: Any
    swap: Swap | None = None


def swap_by_path(belongs: Callable[[str, int, str], bool]) -> Swap:
    """A `swap` for parameters that have a path of their own in each layer.

    Args:
        belongs: Of (path of a parameter, its parts separated by dots; layer; feature name): whether the parameter belongs to
            the branch in which that feature of that layer is.

    Example:
        >>> from foretrain.diagnostics import swap_by_path
        >>> swap = swap_by_path(lambda path, layer, feature: path == f"block{layer}")
        >>> swap({"block0": 1, "block1": 1}, {"block0": 2, "block1": 2}, 1, "inside")
        {'block0': 1, 'block1': 2}
    """

    def swap(start: Any, end: Any, layer: int, feature: str) -> Any:
        def pick(path: Any, before: Any, after: Any) -> Any:
            return after if belongs(jax.tree_util.keystr(path, simple=True, separator="."), layer, feature) else before

        return jax.tree.map_with_path(pick, start, end)

    return swap


def kind_of(name: str) -> str:
    """What a feature is, from the last word of its name.

    Raises:
        InvalidInput: No such kind.
    """
    word = re.split(r"[\s./]", name)[-1]
    if word not in KINDS:
        raise InvalidInput(
            f"coordinate_check(features): expected names that end in one of {', '.join(KINDS)}, got {name!r}"
            f"{nearest(word, KINDS)}; for example 'block_3/logits'."
        )
    return word
