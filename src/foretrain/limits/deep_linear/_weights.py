r"""How the weights of step $n$ are made of earlier gradients: $W_n=W_0+\sum_sE_{ns}\,G_s$, and $E/\eta$ for every protocol."""

import numpy as np
from jaxtyping import Float

from foretrain.problems import GradientDescent, Momentum, OnePassSGD


def weights_of(protocol: GradientDescent | Momentum | OnePassSGD, rows: int) -> Float[np.ndarray, "time time"]:
    r"""$E_{ns}/\eta$ for steps $n,s<$ `rows` (DL.13).

    Args:
        protocol: A protocol without axes.
        rows: Steps plus one.

    Example:
        >>> from foretrain.limits.deep_linear import weights_of
        >>> from foretrain.problems import Momentum
        >>> weights_of(Momentum(learning_rate=0.1, momentum=0.5), 4)
        array([[0.  , 0.  , 0.  , 0.  ],
               [1.  , 0.  , 0.  , 0.  ],
               [1.5 , 1.  , 0.  , 0.  ],
               [1.75, 1.5 , 1.  , 0.  ]])
    """
    if isinstance(protocol, Momentum):
        lag = np.subtract.outer(np.arange(rows), np.arange(rows))
        beta = float(protocol.momentum)  # type: ignore[arg-type]
        return np.where(lag > 0, (1.0 - beta ** np.maximum(lag, 0)) / (1.0 - beta), 0.0)
    factors = np.ones(rows) if protocol.schedule is None else protocol.schedule.factors(rows)
    return np.tril(np.broadcast_to(factors, (rows, rows)), -1)
