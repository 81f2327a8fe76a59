"""Fully connected networks."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from foretrain.networks._base import AbstractNetwork, Features, maybe
from foretrain.networks._layers import Linear, activation_named, draw, linear
from foretrain.networks._stack import run_layers
from foretrain.parameterization import Parameterization, Recipe, Tensor, from_tensors


class MLP(AbstractNetwork):
    r"""Fully connected network $f=a_{out}W_{out}\phi(h^L)$, $h^{\ell+1}=aW\phi(h^\ell)$, $h^1=a_{in}W_{in}x$.

    The `depth - 1` hidden maps are stacked along a leading axis.

    Args:
        inputs: Dimension of the input.
        outputs: Number of outputs.
        width: Units of every hidden layer.
        depth: Hidden layers.
        activation: Nonlinearity.
        bias: Whether layers have biases.
        parameterization: What `MLP.tensors` with the same sizes was parameterized to; standard by default.
        key: Random key of the initial weights.
        dtype: Of the weights.

    Example:
        >>> import jax
        >>> from foretrain.networks import MLP
        >>> network = MLP(3, 2, width=8, depth=2, key=jax.random.key(0))
        >>> network(jax.numpy.ones(3)).shape
        (2,)
    """

    first: Linear
    middle: Linear | None
    last: Linear
    activation: str = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int,
        depth: int = 2,
        activation: str = "relu",
        bias: bool = False,
        parameterization: Parameterization | None = None,
        key: PRNGKeyArray,
        dtype: jnp.dtype = jnp.float32,
    ):
        tensors = self.tensors(inputs, outputs, width=width, depth=depth, bias=bias)
        p = parameterization or from_tensors(tensors, Recipe("sp"))
        params = draw(tensors, p, key, dtype)
        activation_named(activation)
        self.first = linear(params, p, "first")
        self.middle = linear(params, p, "middle") if depth > 1 else None
        self.last = linear(params, p, "last")
        self.activation = activation

    @staticmethod
    def tensors(inputs: int, outputs: int, *, width: int, depth: int = 2, bias: bool = False) -> dict[str, Tensor]:
        """Path to tensor for these sizes.

        Args:
            inputs: Dimension of the input.
            outputs: Number of outputs.
            width: Units of every hidden layer.
            depth: Hidden layers.
            bias: Whether layers have biases.
        """
        found = {"first.weight": Tensor((width, inputs), "input", (1,), (0,))}
        if depth > 1:
            found["middle.weight"] = Tensor((depth - 1, width, width), "hidden_inner", (2,), (1,), branch=False)
        found["last.weight"] = Tensor((outputs, width), "output", (1,), (0,))
        if bias:
            found["first.bias"] = Tensor((width,), "final_vector", (), (0,))
            if depth > 1:
                found["middle.bias"] = Tensor((depth - 1, width), "final_vector", (), (1,))
            found["last.bias"] = Tensor((outputs,), "output_bias", (), (0,))
        return found

    def observe(self, x: Float[Array, " inputs"], *, record: bool = True) -> tuple[Float[Array, " outputs"], Features]:
        """Outputs for one input and, in `stream`, the pre-activations of every hidden layer."""
        phi = activation_named(self.activation)
        h = self.first(x)
        streams = maybe(record, [h[None]])
        if self.middle is not None:

            def layer(h: Array, one: Linear) -> tuple[Array, Array | None]:
                h = one(phi(h))
                return h, maybe(record, h)

            h, seen = run_layers(layer, h, self.middle, self.middle.weight.shape[-3])
            if streams is not None:
                streams.append(seen)
        y = self.last(phi(h))
        return y, {} if streams is None else {"stream": jnp.concatenate(streams), "output": y}
