"""The design of the runs behind the laws of precision, and its constants, as the paper prints them."""

import math

import numpy as np

INF = math.inf
SIZES = (3e7, 6e7, 1.1e8, 2.2e8)
TOKENS = (1.5e9, 3e9, 6e9, 1.3e10, 2.6e10)
# Weights, activations, keys and values: one part at a time, all alike, and a few mixtures. 3 bits of activations and keys diverge.
BITS = (
    [(w, INF, INF) for w in (3, 4, 5, 6, 8, 12)]
    + [(INF, a, INF) for a in (4, 5, 6, 8, 12)]
    + [(INF, INF, k) for k in (4, 5, 6, 8)]
    + [(p, p, p) for p in (4, 5, 6, 8, 12)]
    + [(4, 8, INF), (8, 4, 6), (INF, INF, INF)]
)
PARTS = ("weight_bits", "activation_bits", "kv_bits")

# Table 2 of arXiv 2411.04330, with P0 = n gamma.
TRAINING = {"A": 4299.0, "B": 18060.0, "E": 2.7648, "alpha": 0.4965}
TRAINING |= {"gamma_w": 2.6745, "P0_w": 0.3037 * 2.6745, "gamma_a": 2.2102, "P0_a": 1.4072 * 2.2102}
TRAINING |= {"gamma_kv": 0.9578, "P0_kv": 2.4185 * 0.9578}
ROUNDING = {"C": 0.0598 * math.exp(1.1277), "gamma_D": 0.5068, "gamma_N": 0.3439, "gamma_post": 0.5907}


def trained() -> dict[str, np.ndarray]:
    """460 runs: four sizes, five lengths, 23 choices of bits."""
    rows = [(n, d, *bits) for n in SIZES for d in TOKENS for bits in BITS]
    return dict(zip(("params", "tokens", *PARTS), np.array(rows).T, strict=True))


def rounded(bits=(3, 4, 5, 6, 8)) -> dict[str, np.ndarray]:
    """Every size and length, rounded after training."""
    rows = [(n, d, p) for n in SIZES for d in TOKENS for p in bits]
    return dict(zip(("params", "tokens", "post_bits"), np.array(rows, float).T, strict=True))
