"""Fully connected residual networks."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from foretrain.networks._base import AbstractNetwork, Features, maybe
from foretrain.networks._layers import Linear, Norm, activation_named, draw, linear, norm, norm_tensors
from foretrain.networks._stack import run_layers
from foretrain.parameterization import Parameterization, Recipe, Size, Tensor, from_tensors


class ResidualBranch(eqx.Module):
    r"""What one branch adds, $sW\phi(\text{norm}(h))$; $s$ is part of the multiplier of $W$."""

    norm: Norm
    weight: Linear


class ResNet(AbstractNetwork):
    r"""Residual network with one-layer branches, (PA.8).

    $h^0=a_{in}W_{in}x$, $h^{\ell+1}=h^\ell+sW^\ell\phi(\text{norm}(h^\ell))$, $f=a_{out}W_{out}\phi_{out}(\text{norm}(h^L))$,
    where the branch factor $s=\beta_0L^{-\alpha_L}$ is part of the multiplier of $W^\ell$.

    Args:
        inputs: Dimension of the input.
        outputs: Number of outputs.
        width: Width of the stream.
        depth: Number of branches $L$.
        activation: $\phi$.
        readout_activation: $\phi_{out}$.
        norm: `"none"`, `"layernorm"` or `"rmsnorm"`, at the start of every branch and before the readout.
        bias: Whether maps have biases, which start at 0, and norms gains, which start at 1.
        parameterization: What `ResNet.tensors` with the same sizes was parameterized to; standard by default.
        key: Random key of the initial weights.
        dtype: Of the weights.

    Example:
        >>> import jax
        >>> from foretrain.networks import ResNet
        >>> network = ResNet(3, 2, width=8, depth=6, norm="rmsnorm", key=jax.random.key(0))
        >>> outputs, features = network.observe(jax.numpy.ones(3))
        >>> outputs.shape, features["stream"].shape, features["branch"].shape
        ((2,), (7, 8), (6, 8))
    """

    first: Linear
    branches: ResidualBranch
    final: Norm
    last: Linear
    activation: str = eqx.field(static=True)
    readout_activation: str = eqx.field(static=True)
    depth: int = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int,
        depth: int = 4,
        activation: str = "relu",
        readout_activation: str = "linear",
        norm: str = "none",
        bias: bool = False,
        parameterization: Parameterization | None = None,
        key: PRNGKeyArray,
        dtype: jnp.dtype = jnp.float32,
    ):
        tensors = self.tensors(inputs, outputs, width=width, depth=depth, norm=norm, bias=bias)
        p = parameterization or from_tensors(tensors, Recipe("sp"), size=Size(depth, None, width))
        params = draw(tensors, p, key, dtype)
        for name in (activation, readout_activation):
            activation_named(name)
        self.first = linear(params, p, "first")
        self.branches = ResidualBranch(_norm(params, p, "branches.norm", norm), linear(params, p, "branches.weight"))
        self.final = _norm(params, p, "final", norm)
        self.last = linear(params, p, "last")
        self.activation, self.readout_activation, self.depth = activation, readout_activation, depth

    @staticmethod
    def tensors(
        inputs: int, outputs: int, *, width: int, depth: int = 4, norm: str = "none", bias: bool = False
    ) -> dict[str, Tensor]:
        """Path to tensor for these sizes.

        Args:
            inputs: Dimension of the input.
            outputs: Number of outputs.
            width: Width of the stream.
            depth: Number of branches.
            norm: Kind of norm.
            bias: Whether maps have biases and norms gains.
        """
        found = {
            "first.weight": Tensor((width, inputs), "input", (1,), (0,)),
            "branches.weight.weight": Tensor((depth, width, width), "hidden", (2,), (1,)),
            "last.weight": Tensor((outputs, width), "output", (1,), (0,)),
        }
        if bias:
            found["first.bias"] = Tensor((width,), "final_vector", (), (0,))
            found["branches.weight.bias"] = Tensor((depth, width), "branch_vector", (), (1,))
            found["last.bias"] = Tensor((outputs,), "output_bias", (), (0,))
            found |= norm_tensors("branches.norm", norm, width, depth) | norm_tensors("final", norm, width)
        return found

    def observe(self, x: Float[Array, " inputs"], *, record: bool = True) -> tuple[Float[Array, " outputs"], Features]:
        """Outputs for one input and, per branch, what its map reads before the nonlinearity and what it adds.

        `stream` and `branch` have the shape (depth + 1 or depth, width), `inside` (depth, width).
        """
        phi, phi_out = activation_named(self.activation), activation_named(self.readout_activation)

        def layer(h: Array, one: ResidualBranch) -> tuple[Array, Features | None]:
            inside = one.norm(h)
            added = one.weight(phi(inside))
            h = h + added
            return h, maybe(record, {"stream": h, "inside": inside, "branch": added})

        start = self.first(x)
        h, seen = run_layers(layer, start, self.branches, self.depth)
        y = self.last(phi_out(self.final(h)))
        if seen is None:
            return y, {}
        return y, {**seen, "stream": jnp.concatenate([start[None], seen["stream"]]), "output": y}


_norm = norm
