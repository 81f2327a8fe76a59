r"""Kernels of infinitely wide fully connected networks: NNGP and NTK, by the recursion in the angle form.

The network has `depth` = L hidden layers, in the NTK parameterization with unit Gaussian weights $W$ and biases $b$:

$$h^1=\sqrt{v_{in}}\,\frac{W^1x}{\sqrt D}+\sqrt{v_b}\,b^1,\qquad
h^{l+1}=\sqrt{v_w}\,\frac{W^{l+1}\varphi(h^l)}{\sqrt{N_l}}+\sqrt{v_b}\,b^{l+1},\qquad
f(x)=h^{L+1}$$

with $v_{in}$ `input_variance`, $v_w$ `weight_variance`, $v_b$ `bias_variance`; the readout layer has a bias only if
`readout_bias`. The recursion, for $N_l\to\infty$ (`docs/theory/measuring-spectra.md`, (MS.1) to (MS.4)):

$$K^0=v_{in}\frac{x\cdot y}D+v_b,\quad K^l=v_w\langle\varphi(u)\varphi(v)\rangle_{K^{l-1}}+v_b,\quad
\Theta^0=K^0,\quad \Theta^l=K^l+v_w\langle\varphi'(u)\varphi'(v)\rangle_{K^{l-1}}\,\Theta^{l-1}.$$

It carries the variances of both inputs and the gap $c=1-\rho$ of every pair, never $\rho$ itself.
"""

import dataclasses
import functools
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from foretrain._declaration import Declaration, choice, flag, integer, number
from foretrain._precision import require_x64
from foretrain.kernels._duals import ACTIVATIONS, PIECEWISE_LINEAR, dual
from foretrain.kernels._geometry import check_inputs, directions


@functools.cache
def normalizing_variance(activation: str, negative_slope: float = 0.01) -> float:
    r"""$1/\langle\varphi(z)^2\rangle$ for $z\sim\mathcal N(0,1)$: the weight variance that keeps a unit variance at one.

    Args:
        activation: One of `relu`, `relu-2`, `relu-3`, `leaky-relu`, `linear`, `erf`, `gelu`, `tanh`.
        negative_slope: Slope for negative arguments; read by `leaky-relu` only.

    Example:
        >>> from foretrain.kernels import normalizing_variance
        >>> normalizing_variance("relu")
        2.0
    """
    # Also inside a trace: the variance is a constant of the kernel, not of its inputs.
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        return float(1.0 / dual(activation, negative_slope).mean_square(jnp.asarray(1.0)))


@dataclasses.dataclass(frozen=True, eq=False)
class InfiniteWidthKernel(Declaration):
    """What the NNGP and the NTK of a fully connected network share: the declaration of the network."""

    depth: int = integer(low=0, axis=False, default=1)
    activation: str = choice(ACTIVATIONS, axis=False, default="relu")
    weight_variance: float | None = number(low=0.0, low_open=True, axis=False, default=None)
    bias_variance: float = number(low=0.0, axis=False, default=0.0)
    input_variance: float = number(low=0.0, low_open=True, axis=False, default=1.0)
    readout_bias: bool = flag(default=False)
    negative_slope: float = number(axis=False, default=0.01)

    tangent: ClassVar[bool]

    @property
    def hidden_variance(self) -> float:
        """The weight variance in use: `weight_variance`, or the normalizing one of the activation."""
        if self.weight_variance is not None:
            return self.weight_variance
        return normalizing_variance(self.activation, self.negative_slope)

    @property
    def homogeneous(self) -> bool:
        r"""Whether K of scaled inputs is scaled: $K(ax,by)=ab\,K(x,y)$ for positive a and b."""
        if self.depth == 0:
            return self.bias_variance == 0.0 or not self.readout_bias
        return self.bias_variance == 0.0 and self.activation in PIECEWISE_LINEAR

    def __call__(
        self,
        x: Float[np.ndarray, "rows features"],
        y: Float[np.ndarray, "columns features"] | None = None,
        *,
        memory: float | None = None,
        dtype: str = "float64",
        out: str | Path | None = None,
    ) -> Float[np.ndarray, "rows columns"]:
        """The kernel between the rows of `x` and the rows of `y` (of `x` itself when left out); see `gram`."""
        from foretrain.kernels._gram import gram

        return gram(self, x, y, memory=memory, dtype=dtype, out=out)

    def diagonal(self, x: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, " rows"]:
        """K(x, x) of every row, without the matrix."""
        _, mean_square = directions(check_inputs(x, f"{type(self).__name__}.diagonal", "x"))
        with jax.enable_x64(True):
            q = jnp.asarray(mean_square)
            return np.asarray(evaluate_jit(self, q, q, jnp.zeros_like(q)))

    def of_angle(
        self,
        mean_square_x: Float[Array, "*pairs"],
        mean_square_y: Float[Array, "*pairs"],
        angle: Float[Array, "*pairs"],
    ) -> Float[Array, "*pairs"]:
        r"""The kernel as a pure function of $|x|^2/D$, $|y|^2/D$ and the angle between x and y (any one broadcast shape).

        Raises:
            PrecisionError: JAX runs in 32 bits; call it inside `with jax.enable_x64(True):`.
        """
        require_x64(f"{type(self).__name__}.of_angle")
        return evaluate(self, mean_square_x, mean_square_y, angle)


@dataclasses.dataclass(frozen=True, eq=False)
class NNGP(InfiniteWidthKernel):
    r"""Covariance of the outputs of an infinitely wide network at initialization, $K^L$: the random-feature kernel.

    It is the limit of $\frac1N\sum_i\phi_i(x)\phi_i(y)$ for the features $\phi_i(x)=\sqrt{v_w}\,\varphi(h^L_i(x))$ of a
    network whose hidden layers are frozen (plus $v_b$ with `readout_bias`); depth 1 is one layer of random features.
    With the defaults a unit mean square $|x|^2/D=1$ stays one through all layers; for `relu`, `leaky-relu` and `linear`
    without biases $K(x,x)=|x|^2/D$ for every input.

    Args:
        depth: Number of hidden layers; 0 is the linear kernel $v_{in}x\cdot y/D$.
        activation: `relu`, its powers `relu-2` and `relu-3`, `leaky-relu`, `linear`, `erf`, `gelu` (exact, $u\Phi(u)$) or
            `tanh`.
        weight_variance: $v_w$ of every layer but the first, the readout included; by default the one that normalizes the
            activation, $1/\langle\varphi(z)^2\rangle$ at unit variance (2 for `relu`).
        bias_variance: $v_b$ of the hidden layers, and of the readout if `readout_bias`.
        input_variance: $v_{in}$ of the first layer. `NNGP(input_variance=s, weight_variance=s, readout_bias=True)` is
            the usual form of arXiv 1711.00165 with $\sigma_w^2=s$.
        readout_bias: Whether the readout has a bias; off by default, as random-feature students have none.
        negative_slope: Slope for negative arguments, `leaky-relu` only.

    Example:
        >>> import numpy as np
        >>> from foretrain.kernels import NNGP
        >>> NNGP(depth=3)(np.eye(2) * 2**0.5).round(3)
        array([[1.   , 0.605],
               [0.605, 1.   ]])
    """

    kind = "nngp"
    tangent: ClassVar[bool] = False


@dataclasses.dataclass(frozen=True, eq=False)
class NTK(InfiniteWidthKernel):
    r"""Tangent kernel $\Theta^L$ of an infinitely wide network at initialization (arXiv 1806.07572).

    The sum over all parameters of products of derivatives of $f$, in the NTK parameterization stated in the module's
    formulas, so that gradient flow at rate one moves functions at rate one. Without biases, `relu` at the defaults has
    $\Theta(x,x)=(L+1)|x|^2/D$. Not the kernel of a network in the maximal-update or standard parameterization.

    Args:
        depth: Number of hidden layers; 0 is the linear kernel.
        activation: As for `NNGP`.
        weight_variance: As for `NNGP`.
        bias_variance: As for `NNGP`; trained biases add $v_b$ per layer.
        input_variance: As for `NNGP`.
        readout_bias: As for `NNGP`; a network with trained biases everywhere needs `True`.
        negative_slope: As for `NNGP`.

    Example:
        >>> import numpy as np
        >>> from foretrain.kernels import NTK
        >>> NTK(depth=1)(np.eye(2) * 2**0.5).round(3)
        array([[2.   , 0.318],
               [0.318, 2.   ]])
    """

    kind = "ntk"
    tangent: ClassVar[bool] = True


def evaluate(kernel: InfiniteWidthKernel, mean_square_x: Array, mean_square_y: Array, angle: Array) -> Array:
    """K^L or Theta^L from the norms and the angle of every pair; shapes broadcast."""
    v_w, v_b = kernel.hidden_variance, kernel.bias_variance
    first_bias = v_b if kernel.depth > 0 or kernel.readout_bias else 0.0
    q_x, q_y, gap, value = _first(kernel.input_variance, first_bias, mean_square_x, mean_square_y, angle)
    tangent = value
    # The gap of opposite inputs does not resolve their angle; only the first layer of a homogeneous network meets them.
    known = angle if kernel.homogeneous else None
    for layer in range(1, kernel.depth + 1):
        bias = v_b if layer < kernel.depth or kernel.readout_bias else 0.0
        q_x, q_y, gap, value, tangent = _layer(
            kernel.activation, kernel.negative_slope, v_w, bias, q_x, q_y, gap, tangent, known
        )
        known = None
    return tangent if kernel.tangent else value


# The two steps are compiled by themselves: outside a larger program, networks of any depth run the same two.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _first(
    v_in: float, bias: float, mean_square_x: Array, mean_square_y: Array, angle: Array
) -> tuple[Array, Array, Array, Array]:
    """Variances, gap and K^0 of the first preactivations."""
    half = jnp.sin(0.5 * angle)
    q_x, q_y, gap = _add_bias(v_in * mean_square_x, v_in * mean_square_y, 2.0 * half * half, bias)
    return q_x, q_y, gap, jnp.sqrt(q_x * q_y) * (1.0 - gap)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _layer(
    activation: str,
    negative_slope: float,
    v_w: float,
    bias: float,
    q_x: Array,
    q_y: Array,
    gap: Array,
    tangent: Array,
    angle: Array | None,
) -> tuple[Array, Array, Array, Array, Array]:
    """One step of the recursion: variances, gap, K^l and Theta^l of the next layer; `angle` if known better than by the gap."""
    average = dual(activation, negative_slope)
    gap, slope = average.pair(q_x, q_y, gap) if angle is None else average.pair(q_x, q_y, gap, angle)
    q_x, q_y, gap = _add_bias(v_w * average.mean_square(q_x), v_w * average.mean_square(q_y), gap, bias)
    value = jnp.sqrt(q_x * q_y) * (1.0 - gap)
    return q_x, q_y, gap, value, value + v_w * slope * tangent


evaluate_jit = jax.jit(evaluate, static_argnums=0)


def _add_bias(q_x: Array, q_y: Array, gap: Array, v_b: float) -> tuple[Array, Array, Array]:
    r"""Variances and gap after adding $v_b$ to the whole covariance, without cancellation.

    $c\to\dfrac{v_b(\sqrt{q_x}-\sqrt{q_y})^2/(r+\sqrt{q_xq_y}+v_b)+\sqrt{q_xq_y}\,c}{r}$, $r=\sqrt{(q_x+v_b)(q_y+v_b)}$.
    """
    if v_b == 0.0:
        return q_x, q_y, gap
    root_x, root_y = jnp.sqrt(q_x), jnp.sqrt(q_y)
    total = jnp.sqrt((q_x + v_b) * (q_y + v_b))
    unequal = v_b * (root_x - root_y) ** 2 / (total + root_x * root_y + v_b)
    return q_x + v_b, q_y + v_b, (unequal + root_x * root_y * gap) / total
