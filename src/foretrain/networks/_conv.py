"""Convolutional residual networks on square images."""

import dataclasses
import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from foretrain.errors import InvalidInput
from foretrain.networks._base import AbstractNetwork, Features, maybe
from foretrain.networks._layers import Linear, Norm, activation_named, draw, linear, norm, norm_tensors
from foretrain.networks._stack import run_layers
from foretrain.parameterization import Parameterization, Recipe, Size, Tensor, from_tensors

KERNEL = 3


def image_shape(inputs: int, network: str) -> tuple[int, int]:
    """Side and channels of a square image with 1 or 3 channels and that many numbers; they are unique.

    Args:
        inputs: Numbers in one image.
        network: Who asks, for the message.

    Raises:
        InvalidInput: There is no such image.
    """
    for channels in (1, 3):
        side = math.isqrt(max(inputs, 0) // channels)
        if inputs > 0 and side * side * channels == inputs:
            return side, channels
    raise InvalidInput(
        f"{network}(inputs): expected the size of a square image with 1 or 3 channels, such as 784 or 3072, got {inputs}; "
        "use an MLP or ResNet for other data."
    )


class Convolution(eqx.Module):
    """A 3 × 3 convolution that keeps the size of the image (times 1 / stride), as one matrix product over neighbourhoods.

    Pixels outside the image are 0, one on each side.

    Args:
        kernel: Its weight is (out, 3, 3, in).
        stride: Distance of neighbouring outputs.
    """

    kernel: Linear
    stride: int = eqx.field(static=True, default=1)

    def __call__(self, x: Float[Array, "side side channels"]) -> Float[Array, "small small out"]:
        """The convolved image."""
        side = x.shape[0]
        padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
        shifts = [
            padded[i : i + side : self.stride, j : j + side : self.stride] for i in range(KERNEL) for j in range(KERNEL)
        ]
        weight = self.kernel.weight
        flat = dataclasses.replace(self.kernel, weight=weight.reshape(weight.shape[0], -1))
        return flat(jnp.concatenate(shifts, axis=-1))


class ConvolutionBranch(eqx.Module):
    """What one branch adds: norm over channels, nonlinearity, convolution."""

    norm: Norm
    convolution: Convolution


class ConvResNet(AbstractNetwork):
    r"""Pre-activation convolutional residual network: stem, one-convolution branches, mean over pixels, readout.

    $h^0=\text{stem}(x)$, $h^{\ell+1}=h^\ell+s\,W^\ell*\phi(\text{norm}(h^\ell))$,
    $f=a_{out}W_{out}\langle\phi(\text{norm}(h^L))\rangle_{\text{pixels}}$, with $s$ in the multiplier of $W^\ell$, (PA.8).
    An image is a flat vector, row by row, channels last. The fan-in of a convolution is 9 × channels.

    Args:
        inputs: Numbers in one image: side² × channels with 1 or 3 channels.
        outputs: Number of outputs.
        width: Channels of the stream.
        depth: Number of branches.
        activation: $\phi$.
        norm: Normalization over channels, pixel by pixel, at the start of every branch and before the readout.
        stride: Stride of the stem.
        bias: Whether maps have biases, which start at 0, and norms gains, which start at 1.
        parameterization: What `ConvResNet.tensors` with the same sizes was parameterized to; standard by default.
        key: Random key of the initial weights.
        dtype: Of the weights.

    Raises:
        InvalidInput: Not the size of a square image.

    Example:
        >>> import jax
        >>> from foretrain.networks import ConvResNet
        >>> network = ConvResNet(64, 10, width=4, depth=2, stride=2, key=jax.random.key(0))
        >>> outputs, features = network.observe(jax.numpy.ones(64))
        >>> outputs.shape, features["stream"].shape
        ((10,), (3, 4, 4, 4))
    """

    first: Convolution
    branches: ConvolutionBranch
    final: Norm
    last: Linear
    activation: str = eqx.field(static=True)
    depth: int = eqx.field(static=True)
    image: tuple[int, int] = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int,
        depth: int = 4,
        activation: str = "relu",
        norm: str = "none",
        stride: int = 1,
        bias: bool = False,
        parameterization: Parameterization | None = None,
        key: PRNGKeyArray,
        dtype: jnp.dtype = jnp.float32,
    ):
        tensors = self.tensors(inputs, outputs, width=width, depth=depth, norm=norm, bias=bias)
        p = parameterization or from_tensors(tensors, Recipe("sp"), size=Size(depth, None, width))
        params = draw(tensors, p, key, dtype)
        activation_named(activation)
        self.first = Convolution(linear(params, p, "first.kernel"), stride)
        self.branches = ConvolutionBranch(
            _norm(params, p, "branches.norm", norm), Convolution(linear(params, p, "branches.convolution.kernel"))
        )
        self.final = _norm(params, p, "final", norm)
        self.last = linear(params, p, "last")
        self.activation, self.depth, self.image = activation, depth, image_shape(inputs, "ConvResNet")

    @staticmethod
    def tensors(
        inputs: int, outputs: int, *, width: int, depth: int = 4, norm: str = "none", bias: bool = False
    ) -> dict[str, Tensor]:
        """Path to tensor for these sizes.

        Args:
            inputs: Numbers in one image.
            outputs: Number of outputs.
            width: Channels of the stream.
            depth: Number of branches.
            norm: Kind of norm.
            bias: Whether maps have biases and norms gains.
        """
        channels = image_shape(inputs, "ConvResNet")[1]
        hidden = (depth, width, KERNEL, KERNEL, width)
        found = {
            "first.kernel.weight": Tensor((width, KERNEL, KERNEL, channels), "input", (1, 2, 3), (0,)),
            "branches.convolution.kernel.weight": Tensor(hidden, "hidden", (2, 3, 4), (1,)),
            "last.weight": Tensor((outputs, width), "output", (1,), (0,)),
        }
        if bias:
            found["first.kernel.bias"] = Tensor((width,), "final_vector", (), (0,))
            found["branches.convolution.kernel.bias"] = Tensor((depth, width), "branch_vector", (), (1,))
            found["last.bias"] = Tensor((outputs,), "output_bias", (), (0,))
            found |= norm_tensors("branches.norm", norm, width, depth) | norm_tensors("final", norm, width)
        return found

    def observe(self, x: Float[Array, " inputs"], *, record: bool = True) -> tuple[Float[Array, " outputs"], Features]:
        """Outputs for one image; features keep the two axes of the image before that of the channels."""
        phi = activation_named(self.activation)

        def layer(h: Array, one: ConvolutionBranch) -> tuple[Array, Features | None]:
            inside = one.norm(h)
            added = one.convolution(phi(inside))
            h = h + added
            return h, maybe(record, {"stream": h, "inside": inside, "branch": added})

        side, channels = self.image
        start = self.first(x.reshape(side, side, channels))
        h, seen = run_layers(layer, start, self.branches, self.depth)
        y = self.last(jnp.mean(phi(self.final(h)), axis=(0, 1)))
        if seen is None:
            return y, {}
        return y, {**seen, "stream": jnp.concatenate([start[None], seen["stream"]]), "output": y}


_norm = norm
