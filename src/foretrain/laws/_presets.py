"""Fits of papers that did not publish their runs: constants with their provenance, no intervals.

The main path is a fit to your own runs. Constants of a paper hold for its networks, data, tokenizer and quantizers.
"""

import math
from collections.abc import Callable

import numpy as np

from foretrain.laws._fit import LEVEL, Fit
from foretrain.laws._forms import law_named

TABLE_2: dict[str, float] = {
    "A": 4.299e3,
    "B": 1.806e4,
    "E": 2.7648,
    "alpha": 0.4965,
    "gamma_w": 2.6745,
    "n_w": 0.3037,
    "gamma_a": 2.2102,
    "n_a": 1.4072,
    "gamma_kv": 0.9578,
    "n_kv": 2.4185,
    "C_T": 0.0598,
    "gamma_D": 0.5068,
    "gamma_N": 0.3439,
    "gamma_post": 0.5907,
    "b": 1.1277,
}
"""Table 2 of arXiv 2411.04330 as printed, with the offsets n and b of its Appendix K (PR.3)."""

UNPRINTED_RATE = 1.0
"""What is taken for C_w, C_a and C_kv, which the paper does not print."""

_ROBUST = (
    "C_w, C_a and C_kv, which say how much training in few bits prepares for rounding afterwards, are not printed in the paper; "
    f"{UNPRINTED_RATE:g} is taken. What rounding costs after training in few bits is a guess between 0 and its value after training in full precision."
)


def precision_table2() -> Fit:
    """The law of arXiv 2411.04330 with the constants of its Table 2, offsets included: losses in nats per token on Dolma.

    Example:
        >>> from foretrain.laws import PRESETS
        >>> table = PRESETS["precision-table2"]()
        >>> at = {"params": 1e9, "tokens": 2e10, "weight_bits": 4}
        >>> round(float(table.predict(at)["value"]), 4)
        3.0785
    """
    t, law = TABLE_2, law_named("precision-unified")
    values = {name: t[name] for name in law.names if name in t}
    values |= {f"P0_{x}": t[f"n_{x}"] * t[f"gamma_{x}"] for x in ("w", "a", "kv")}
    values |= {"C": t["C_T"] * math.exp(t["b"]), **{f"C_{x}": UNPRINTED_RATE for x in ("w", "a", "kv")}}
    return Fit(
        law,
        law.coordinates(values),
        objective=math.nan,
        samples=np.zeros((0, len(law.parameters))),
        level=LEVEL,
        residuals=np.zeros(0),
        rows=465,
        groups=465,
        starts=0,
        starts_agreeing=0,
        condition_number=math.nan,
        gradient=math.nan,
        warnings=(
            "constants of a paper, without intervals: they hold for its networks, data, tokenizer and quantizers. Fit your own runs where you can.",
            _ROBUST,
        ),
        settings={"preset": "precision-table2"},
        data={
            "source": "arXiv 2411.04330, Table 2: 465 Transformer++ runs on Dolma 1.7, integer types, GPTQ after training",
            # Sizes to which the paper validated the law, bits that it trained with.
            "ranges": {
                "params": (3e7, 1.7e9),
                "tokens": (1.5e9, 2.6e10),
                "weight_bits": (3.0, 16.0),
                "activation_bits": (4.0, 16.0),
                "kv_bits": (4.0, 16.0),
                "post_bits": (3.0, 16.0),
            },
        },
    )


PRESETS: dict[str, Callable[[], Fit]] = {"precision-table2": precision_table2}
"""Fits of papers by name, for `foretrain forecast` and `foretrain plan` in the place of a file."""
