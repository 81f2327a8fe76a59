r"""Features of finite random fully connected networks with frozen layers.

With the scalings of `foretrain.kernels.NNGP` and its `weight_variance` $v_w$ (unit Gaussian weights, no biases):

$$h^1=\frac{W^1x}{\sqrt D},\qquad h^{l+1}=\sqrt{v_w}\,\frac{W^{l+1}\varphi(h^l)}{\sqrt N},\qquad
\varphi_i(x)=\sqrt{\frac{v_w}N}\,\varphi(h_i^L(x)),\qquad f(x)=\sum_iW_i\varphi_i(x),$$

so that $\sum_i\varphi_i(x)\varphi_i(x')$ tends to the NNGP kernel of the same depth and activation as $N\to\infty$. The readout
$W$ starts at zero and is the only thing that is trained.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float32
from scipy.special import erf, ndtr

from foretrain.kernels import NNGP

Rows = Float32[np.ndarray, "rows units"]

_SLOPE = NNGP(activation="leaky-relu").negative_slope

_ACTIVATIONS: dict[str, Callable[[Rows], Rows]] = {
    "relu": lambda h: np.maximum(h, 0),
    "leaky-relu": lambda h: np.where(h > 0, h, np.float32(_SLOPE) * h),
    "erf": lambda h: erf(h),
    "gelu": lambda h: h * ndtr(h),
    "tanh": lambda h: np.tanh(h),
    "linear": lambda h: h,
}


def network_features(
    inputs: Float[np.ndarray, "rows features"],
    width: int,
    generator: np.random.Generator,
    *,
    depth: int = 1,
    activation: str = "relu",
) -> Float32[np.ndarray, "rows width"]:
    r"""The trained readout's features $\varphi_i(x)$ of one random network, scaled so that their products sum to the kernel.

    Computed in float32: rounding of a feature is far below what its randomness at width $N$ does.

    Args:
        inputs: One row per example, $|x|^2/D$ of order one.
        width: $N$ of every hidden layer.
        generator: Source of the weights. At depth 1, fewer units are the first of more.
        depth: Number of hidden layers, at least 1.
        activation: `relu`, `leaky-relu`, `erf`, `gelu`, `tanh` or `linear`.

    Example:
        >>> import numpy as np
        >>> phi = network_features(np.ones((2, 4)), 4096, np.random.default_rng(0))
        >>> bool(abs((phi @ phi.T)[0, 1] - 1.0) < 0.1)
        True
    """
    act = _ACTIVATIONS[activation]
    gain = np.float32(np.sqrt(NNGP(depth=depth, activation=activation).hidden_variance))
    signal = inputs.astype(np.float32) / np.float32(np.sqrt(inputs.shape[1]))
    for _ in range(depth):
        weights = generator.standard_normal((width, signal.shape[1]), dtype=np.float32)
        signal = act(signal @ weights.T) * (gain / np.float32(np.sqrt(width)))
    return signal
