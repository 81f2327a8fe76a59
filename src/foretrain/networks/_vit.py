"""Vision transformers."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from foretrain.errors import InvalidInput
from foretrain.networks._attention import Layers, layer_tensors, layers
from foretrain.networks._base import AbstractNetwork, Features
from foretrain.networks._conv import image_shape
from foretrain.networks._layers import Linear, Norm, draw, linear, norm, norm_tensors
from foretrain.parameterization import Parameterization, Recipe, Size, Tensor, from_tensors


class ViT(AbstractNetwork):
    r"""Vision transformer: patches, learned positions, pre-norm layers, mean over tokens, readout.

    $f=a_{out}W_{out}\langle\text{norm}(h^L)\rangle_{\text{tokens}}$. An image is a flat vector, row by row, channels last. Depth counts
    layers of two branches each.

    Args:
        inputs: Numbers in one image: side² × channels with 1 or 3 channels.
        outputs: Number of outputs.
        width: Width of the stream.
        depth: Number of layers.
        heads: Number of heads; they divide the width.
        patch: Side of a patch in pixels; it divides the side of the image.
        activation: Nonlinearity of the MLP branches.
        norm: `"none"`, `"layernorm"` or `"rmsnorm"`, at the start of every branch and before the readout.
        mlp_ratio: Hidden units of the MLP branch over width.
        bias: Whether maps have biases, which start at 0, and norms gains, which start at 1.
        parameterization: What `ViT.tensors` with the same sizes was parameterized to, with the head size in `size`; standard
            by default.
        key: Random key of the initial weights.
        dtype: Of the weights.

    Raises:
        InvalidInput: Not the size of a square image, or a size that does not divide another.

    Example:
        >>> import jax
        >>> from foretrain.networks import ViT
        >>> network = ViT(64, 10, width=8, depth=2, heads=2, key=jax.random.key(0))
        >>> outputs, features = network.observe(jax.numpy.ones(64))
        >>> outputs.shape, features["stream"].shape, features["logits"].shape
        ((10,), (3, 16, 8), (2, 2, 16, 16))
    """

    first: Linear
    positions: Float[Array, "tokens width"]
    layers: Layers
    final: Norm
    last: Linear
    positions_multiplier: float = eqx.field(static=True)
    image: tuple[int, int] = eqx.field(static=True)
    patch: int = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int,
        depth: int = 2,
        heads: int,
        patch: int = 2,
        activation: str = "gelu",
        norm: str = "layernorm",
        mlp_ratio: int = 4,
        bias: bool = False,
        parameterization: Parameterization | None = None,
        key: PRNGKeyArray,
        dtype: jnp.dtype = jnp.float32,
    ):
        tensors = self.tensors(
            inputs, outputs, width=width, depth=depth, patch=patch, norm=norm, mlp_ratio=mlp_ratio, bias=bias
        )
        p = parameterization or from_tensors(tensors, Recipe("sp"), size=Size(depth, width / heads, width))
        params = draw(tensors, p, key, dtype)
        self.first = linear(params, p, "first")
        self.positions = params["positions"]
        self.layers = layers(
            params,
            p,
            "layers",
            depth=depth,
            width=width,
            heads=heads,
            activation=activation,
            kind=norm,
            causal=False,
        )
        self.final = _norm(params, p, "final", norm)
        self.last = linear(params, p, "last")
        self.positions_multiplier = p.tensors["positions"].entry.multiplier
        self.image, self.patch = image_shape(inputs, "ViT"), patch

    @staticmethod
    def tensors(
        inputs: int,
        outputs: int,
        *,
        width: int,
        depth: int = 2,
        patch: int = 2,
        norm: str = "layernorm",
        mlp_ratio: int = 4,
        bias: bool = False,
    ) -> dict[str, Tensor]:
        """Path to tensor for these sizes.

        Args:
            inputs: Numbers in one image.
            outputs: Number of outputs.
            width: Width of the stream.
            depth: Number of layers.
            patch: Side of a patch in pixels.
            norm: Kind of norm.
            mlp_ratio: Hidden units of the MLP branch over width.
            bias: Whether maps have biases and norms gains.
        """
        side, channels = image_shape(inputs, "ViT")
        if side % patch:
            raise InvalidInput(f"ViT(patch): expected a divisor of the image's side {side}, got {patch}.")
        found = {
            "first.weight": Tensor((width, patch * patch * channels), "input", (1,), (0,)),
            "positions": Tensor(((side // patch) ** 2, width), "embedding", (0,), (1,)),
            **layer_tensors("layers", depth=depth, width=width, mlp_ratio=mlp_ratio, norm=norm, bias=bias),
            "last.weight": Tensor((outputs, width), "output", (1,), (0,)),
        }
        if bias:
            found["first.bias"] = Tensor((width,), "final_vector", (), (0,))
            found["last.bias"] = Tensor((outputs,), "output_bias", (), (0,))
            found |= norm_tensors("final", norm, width)
        return found

    def observe(self, x: Float[Array, " inputs"], *, record: bool = True) -> tuple[Float[Array, " outputs"], Features]:
        """Outputs for one image; `stream` is (depth + 1, tokens, width), `branch` (depth, 2, tokens, width)."""
        (side, channels), patch = self.image, self.patch
        blocks = x.reshape(side // patch, patch, side // patch, patch, channels).swapaxes(1, 2)
        h = self.first(blocks.reshape(-1, patch * patch * channels)) + self.positions_multiplier * self.positions
        h, seen = self.layers(h, record=record)
        y = self.last(jnp.mean(self.final(h), axis=0))
        return y, {} if seen is None else {**seen, "output": y}


_norm = norm
