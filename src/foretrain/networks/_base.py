"""What all networks share."""

import abc
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

Features = dict[str, Float[Array, "*layers_and_units"]]
"""What `observe` saw: names to arrays, whose leading axis is the layer where there are several.

- `stream`: the residual stream (hidden layers of an MLP) after the first layer and after every layer;
- `inside`: what a layer's last map reads, before its nonlinearity (pre-activations in the branch);
- `branch`: what every branch adds to the stream;
- `logits`: attention logits, where there is attention;
- `output`: the outputs.
"""


class AbstractNetwork(eqx.Module):
    """A finite network: a function of one example, with parameters as leaves and multipliers as constants."""

    @abc.abstractmethod
    def observe(self, x: Array, *, record: bool = True) -> tuple[Array, Features]:
        """Outputs for one example, and what happens inside.

        Args:
            x: One example: a vector, an image as a vector, or tokens.
            record: Whether to collect the features; without, the dictionary is empty.
        """

    def __call__(self, x: Array) -> Array:
        """Outputs for one example."""
        return self.observe(x, record=False)[0]


def maybe(record: bool, value: Any) -> Any:
    """The value when recording, else nothing, so that unrecorded features cost nothing."""
    return value if record else None
