"""Decoder-only transformers over tokens."""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from foretrain.errors import InvalidInput, nearest
from foretrain.networks._attention import SWIGLU, Layers, layer_tensors, layers, rotations
from foretrain.networks._base import AbstractNetwork, Features
from foretrain.networks._layers import Linear, Norm, draw, linear, norm, norm_tensors
from foretrain.parameterization import Parameterization, Recipe, Size, Tensor, from_tensors

POSITIONS = ("learned", "rotary")


class Transformer(AbstractNetwork):
    r"""Decoder-only transformer: token table, causal pre-norm layers, norm, one prediction at every position.

    The outputs at position $t$ are logits for token $t+1$ and depend on tokens up to $t$ only. Depth counts layers of two branches
    each. A tied readout multiplies the token table, whose entries have variance 1, by the parameterization's
    `readout_multiplier` (relative to a base: over the square root of the base's width, so that the base starts with outputs of
    size 1).

    Args:
        inputs: Size of the vocabulary.
        outputs: Number of outputs at every position: the vocabulary again.
        width: Width of the stream.
        depth: Number of layers.
        heads: Number of heads; they divide the width.
        context: Most tokens that it reads.
        activation: Nonlinearity of the MLP branches, or `"swiglu"` (three matrices of `mlp_ratio` × width hidden units).
        norm: `"none"`, `"layernorm"` or `"rmsnorm"`, at the start of every branch and before the readout.
        positions: `"learned"` (a table that is added) or `"rotary"`.
        tied: Whether the token table also reads out.
        mlp_ratio: Hidden units of the MLP branch over width.
        bias: Whether maps have biases, which start at 0, and norms gains, which start at 1.
        parameterization: What `Transformer.tensors` with the same sizes was parameterized to, with the head size in `size`;
            standard by default.
        key: Random key of the initial weights.
        dtype: Of the weights.

    Raises:
        InvalidInput: Heads that do not divide the width, tied tables with unequal vocabularies, or an unknown word.

    Example:
        >>> import jax
        >>> from foretrain.networks import Transformer
        >>> network = Transformer(11, 11, width=8, depth=2, heads=2, context=5, key=jax.random.key(0))
        >>> outputs, features = network.observe(jax.numpy.arange(5))
        >>> outputs.shape, features["stream"].shape, features["logits"].shape
        ((5, 11), (3, 5, 8), (2, 2, 5, 5))
    """

    tokens: Float[Array, "vocabulary width"]
    positions: Float[Array, "context width"] | None
    layers: Layers
    final: Norm
    last: Linear | None
    tokens_multiplier: float = eqx.field(static=True)
    positions_multiplier: float = eqx.field(static=True)
    readout_multiplier: float = eqx.field(static=True)
    context: int = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int,
        depth: int = 2,
        heads: int,
        context: int,
        activation: str = "gelu",
        norm: str = "layernorm",
        positions: str = "learned",
        tied: bool = False,
        mlp_ratio: int = 4,
        bias: bool = False,
        parameterization: Parameterization | None = None,
        key: PRNGKeyArray,
        dtype: jnp.dtype = jnp.float32,
    ):
        tensors = self.tensors(
            inputs,
            outputs,
            width=width,
            depth=depth,
            context=context,
            activation=activation,
            norm=norm,
            positions=positions,
            tied=tied,
            mlp_ratio=mlp_ratio,
            bias=bias,
        )
        p = parameterization or from_tensors(tensors, Recipe("sp"), size=Size(depth, width / heads, width))
        params = draw(tensors, p, key, dtype)
        self.tokens, self.positions = params["tokens"], params.get("positions")
        self.layers = layers(
            params,
            p,
            "layers",
            depth=depth,
            width=width,
            heads=heads,
            activation=activation,
            kind=norm,
            causal=True,
        )
        self.final = _norm(params, p, "final", norm)
        self.last = None if tied else linear(params, p, "last")
        self.tokens_multiplier = p.tensors["tokens"].entry.multiplier
        self.positions_multiplier = 1.0 if self.positions is None else p.tensors["positions"].entry.multiplier
        base = p.tensors["tokens"].base
        self.readout_multiplier = p.readout_multiplier * (1.0 if base is None else 1 / math.sqrt(base[1]))
        self.context = context

    @staticmethod
    def tensors(
        inputs: int,
        outputs: int,
        *,
        width: int,
        depth: int = 2,
        context: int,
        activation: str = "gelu",
        norm: str = "layernorm",
        positions: str = "learned",
        tied: bool = False,
        mlp_ratio: int = 4,
        bias: bool = False,
    ) -> dict[str, Tensor]:
        """Path to tensor for these sizes.

        Args:
            inputs: Size of the vocabulary.
            outputs: Number of outputs at every position.
            width: Width of the stream.
            depth: Number of layers.
            context: Most tokens that it reads.
            activation: Nonlinearity of the MLP branches.
            norm: Kind of norm.
            positions: Kind of positions.
            tied: Whether the token table also reads out; there is then no bias of the outputs.
            mlp_ratio: Hidden units of the MLP branch over width.
            bias: Whether maps have biases and norms gains.
        """
        if positions not in POSITIONS:
            raise InvalidInput(
                f"Transformer(positions): expected one of {', '.join(POSITIONS)}, got {positions!r}{nearest(positions, POSITIONS)}."
            )
        if tied and inputs != outputs:
            raise InvalidInput(
                f"Transformer(tied): expected as many outputs as tokens in the vocabulary, got {outputs} and {inputs}."
            )
        found = {"tokens": Tensor((inputs, width), "tied" if tied else "embedding", (0,), (1,))}
        if positions == "learned":
            found["positions"] = Tensor((context, width), "embedding", (0,), (1,))
        found |= layer_tensors(
            "layers",
            depth=depth,
            width=width,
            mlp_ratio=mlp_ratio,
            norm=norm,
            bias=bias,
            gated=activation == SWIGLU,
        )
        if bias:
            found |= norm_tensors("final", norm, width)
        if not tied:
            found["last.weight"] = Tensor((outputs, width), "output", (1,), (0,))
            if bias:
                found["last.bias"] = Tensor((outputs,), "output_bias", (), (0,))
        return found

    def observe(
        self, x: Int[Array, " tokens"], *, record: bool = True
    ) -> tuple[Float[Array, "tokens vocabulary"], Features]:
        """Logits of the next token at every position; `stream` is (depth + 1, tokens, width), `branch` (depth, 2, tokens, width)."""
        count = x.shape[0]
        if count > self.context:
            raise InvalidInput(f"Transformer(x): expected at most {self.context} tokens (its context), got {count}.")
        h, rotation = self.tokens_multiplier * self.tokens[x], None
        if self.positions is not None:
            h = h + self.positions_multiplier * self.positions[:count]
        else:
            rotation = rotations(count, self.layers.query.weight.shape[-2] // self.layers.heads, h.dtype)
        h, seen = self.layers(h, rotation=rotation, record=record)
        h = self.final(h)
        y = self.readout_multiplier * (h @ self.tokens.T) if self.last is None else self.last(h)
        return y, {} if seen is None else {**seen, "output": y}


_norm = norm
