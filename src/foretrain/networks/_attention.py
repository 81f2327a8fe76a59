"""Pre-norm layers of attention and MLP branches, as vision transformers and language models share them."""

from collections.abc import Callable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from foretrain.errors import InvalidInput
from foretrain.networks._base import Features, maybe
from foretrain.networks._layers import Linear, Norm, activation_named, linear, norm, norm_tensors
from foretrain.networks._stack import run_layers
from foretrain.parameterization import Parameterization, Tensor

Rotation = tuple[Float[Array, "tokens half"], Float[Array, "tokens half"]]
SWIGLU = "swiglu"


class Layers(eqx.Module):
    r"""Stacked layers, each $h\leftarrow h+s\,\text{attention}(\text{norm}(h))$, $h\leftarrow h+s\,\text{MLP}(\text{norm}(h))$.

    The branch factor $s$ is part of the multipliers of `out` and `down`. Logits are $q\cdot k$ times `scale`, (PA.9).

    Args:
        attention_norm: At the start of the attention branch.
        query: Queries of all heads.
        key: Keys of all heads.
        value: Values of all heads.
        out: Last map of the attention branch.
        mlp_norm: At the start of the MLP branch.
        up: First map of the MLP branch.
        gate: With SwiGLU, the map whose SiLU multiplies `up`'s.
        down: Last map of the MLP branch.
        activation: Nonlinearity of the MLP branch, or `"swiglu"`.
        heads: Number of heads.
        depth: Number of layers.
        causal: Whether tokens see only themselves and earlier ones.
        scale: What multiplies $q\cdot k$.
        kv: What keys (after rotation) and values go through, for example a rounding to few bits.
    """

    attention_norm: Norm
    query: Linear
    key: Linear
    value: Linear
    out: Linear
    mlp_norm: Norm
    up: Linear
    gate: Linear | None
    down: Linear
    activation: str = eqx.field(static=True)
    heads: int = eqx.field(static=True)
    depth: int = eqx.field(static=True)
    causal: bool = eqx.field(static=True)
    scale: float = eqx.field(static=True)
    kv: Callable[[Array], Array] | None = eqx.field(static=True, default=None)

    def __call__(
        self, h: Float[Array, "tokens width"], *, rotation: Rotation | None = None, record: bool
    ) -> tuple[Float[Array, "tokens width"], Features | None]:
        """The stream after all layers and, when recording, what each layer did.

        Args:
            h: The embedded tokens.
            rotation: Cosines and sines of rotary positions.
            record: Whether to collect features: `stream` (depth + 1, tokens, width), `inside` (depth, tokens, hidden),
                `branch` (depth, 2, tokens, width; attention, MLP), `logits` (depth, heads, tokens, tokens).
        """

        def layer(h: Array, one: Layers) -> tuple[Array, Features | None]:
            attended, logits = one.attend(one.attention_norm(h), rotation)
            h = h + attended
            inside, added = one.mlp(one.mlp_norm(h))
            h = h + added
            seen = {"stream": h, "inside": inside, "branch": jnp.stack([attended, added]), "logits": logits}
            return h, maybe(record, seen)

        end, seen = run_layers(layer, h, self, self.depth)
        return end, None if seen is None else {**seen, "stream": jnp.concatenate([h[None], seen["stream"]])}

    def attend(
        self, x: Float[Array, "tokens width"], rotation: Rotation | None
    ) -> tuple[Float[Array, "tokens width"], Float[Array, "heads tokens tokens"]]:
        """What one layer's attention branch adds, and its logits before the mask."""
        tokens = x.shape[0]
        query, key, value = (
            one(x).reshape(tokens, self.heads, -1).swapaxes(0, 1) for one in (self.query, self.key, self.value)
        )
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        if self.kv is not None:
            key, value = self.kv(key), self.kv(value)
        logits = self.scale * (query @ key.swapaxes(1, 2))
        mixed = softmax(logits, self.causal) @ value
        return self.out(mixed.swapaxes(0, 1).reshape(tokens, -1)), logits

    def mlp(
        self, x: Float[Array, "tokens width"]
    ) -> tuple[Float[Array, "tokens hidden"], Float[Array, "tokens width"]]:
        """Pre-activations (with SwiGLU, of the gate) and what one layer's MLP branch adds."""
        if self.gate is None:
            inside = self.up(x)
            return inside, self.down(activation_named(self.activation)(inside))
        inside = self.gate(x)
        return inside, self.down(jax.nn.silu(inside) * self.up(x))


def softmax(logits: Float[Array, "heads tokens tokens"], causal: bool) -> Float[Array, "heads tokens tokens"]:
    """Attention weights, computed in at least float32 with the largest logit subtracted.

    Args:
        logits: Queries, then keys.
        causal: Whether a query sees no later keys.
    """
    z = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if causal:
        rows = jax.lax.broadcasted_iota(jnp.int32, z.shape, 1)
        columns = jax.lax.broadcasted_iota(jnp.int32, z.shape, 2)
        z = jnp.where(columns <= rows, z, -jnp.inf)
    return jax.nn.softmax(z, axis=-1).astype(logits.dtype)


def rotations(tokens: int, head_dim: int, dtype: jnp.dtype) -> Rotation:
    r"""Cosines and sines of rotary positions: pair $i$ of token $t$ turns by $t\cdot10000^{-2i/d_h}$.

    Args:
        tokens: Number of tokens.
        head_dim: Size of one head; an odd last coordinate stays as it is.
        dtype: Of the result.
    """
    pairs = head_dim // 2
    speeds = 10000.0 ** (-2.0 * np.arange(pairs) / head_dim)
    angles = np.arange(tokens)[:, None] * speeds[None, :]  # in double precision: they are constants of the program
    return jnp.asarray(np.cos(angles), dtype), jnp.asarray(np.sin(angles), dtype)


def rotate(x: Float[Array, "heads tokens size"], rotation: Rotation) -> Float[Array, "heads tokens size"]:
    """Queries or keys turned by their positions: coordinate i with coordinate i + half of the head.

    Args:
        x: Of all heads.
        rotation: What `rotations` returned.
    """
    cos, sin = (part[None, : x.shape[1]] for part in rotation)
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos, rest], axis=-1)


def layers(
    params: Mapping[str, Array],
    parameterization: Parameterization,
    name: str,
    *,
    depth: int,
    width: int,
    heads: int,
    activation: str,
    kind: str,
    causal: bool,
) -> Layers:
    """The layers whose parameters are at `name.query.weight` and so on.

    Args:
        params: Path to array.
        parameterization: Where multipliers and the scale of logits come from.
        name: Path of the layers.
        depth: Number of layers.
        width: Width of the stream.
        heads: Number of heads.
        activation: Nonlinearity of the MLP branches.
        kind: Kind of norm.
        causal: Whether the attention is causal.

    Raises:
        InvalidInput: Heads do not divide the width, or the parameterization has another head size, or none.
    """
    p = parameterization
    if width % heads:
        raise InvalidInput(f"network(heads): expected a divisor of the width {width}, got {heads}.")
    if p.attention_scale is None or p.size.head_dim != width // heads:
        raise InvalidInput(
            f"network(parameterization): its head size is {p.size.head_dim}, but {heads} heads of a stream of width {width} have "
            f"{width // heads}; give `size=Size(depth, head_dim={width // heads})` when you make it."
        )
    if activation != SWIGLU:
        activation_named(activation)
    maps = ("query", "key", "value", "out", "up", "down")
    return Layers(
        attention_norm=norm(params, p, f"{name}.attention_norm", kind),
        mlp_norm=norm(params, p, f"{name}.mlp_norm", kind),
        gate=linear(params, p, f"{name}.gate") if activation == SWIGLU else None,
        activation=activation,
        heads=heads,
        depth=depth,
        causal=causal,
        scale=p.attention_scale,
        **{part: linear(params, p, f"{name}.{part}") for part in maps},
    )


def layer_tensors(
    name: str, *, depth: int, width: int, mlp_ratio: int, norm: str, bias: bool, gated: bool = False
) -> dict[str, Tensor]:
    """Path to tensor of stacked layers.

    Args:
        name: Path of the layers.
        depth: Number of layers.
        width: Width of the stream.
        mlp_ratio: Hidden units of the MLP branch over width.
        norm: Kind of norm.
        bias: Whether maps have biases and norms gains.
        gated: Whether the MLP branch has a gate (SwiGLU).
    """
    hidden = mlp_ratio * width
    maps = {
        "query": (width, width, "hidden_qk"),
        "key": (width, width, "hidden_qk"),
        "value": (width, width, "hidden_inner"),
        "out": (width, width, "hidden"),
        "up": (hidden, width, "hidden_inner"),
        **({"gate": (hidden, width, "hidden_inner")} if gated else {}),
        "down": (width, hidden, "hidden"),
    }
    found = {}
    for part, (out, into, role) in maps.items():
        found[f"{name}.{part}.weight"] = Tensor((depth, out, into), role, (2,), (1,))
        if bias:
            vector = "branch_vector" if role == "hidden" else "branch_vector_inner"
            found[f"{name}.{part}.bias"] = Tensor((depth, out), vector, (), (1,))
    if bias:
        found |= norm_tensors(f"{name}.attention_norm", norm, width, depth)
        found |= norm_tensors(f"{name}.mlp_norm", norm, width, depth)
    return found
