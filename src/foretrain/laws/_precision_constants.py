r"""The numbers in a law of precision, and what follows from them at a point: factors, losses, degradations, critical data.

Plain floats and `math`: a plan asks for one point after another, and is made anew for every bootstrap fit.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from foretrain.errors import InvalidInput
from foretrain.laws._law import Law
from foretrain.laws._precision_forms import PARTS, useless

Bits = float | Mapping[str, float]
"""One number of bits for all parts of a law, or bits by part: `weights`, `activations`, `kv`, or the names of the columns."""

_SHORT = {"weights": "weight_bits", "activations": "activation_bits", "kv": "kv_bits"}


@dataclasses.dataclass(frozen=True)
class Constants:
    r"""The constants of a law of precision (PR.1) to (PR.6); NaN for those that it has not.

    Args:
        A: Of $A N_{\rm eff}^{-\alpha}$.
        B: Of $B D^{-\beta}$.
        E: Loss of infinite size and data.
        alpha: Exponent of parameters.
        beta: Exponent of tokens.
        factors: $(\gamma_x,P_{0,x})$ by part.
        C: $C_Te^b$ of the degradation.
        gamma_D: Its exponent of tokens.
        gamma_N: Its exponent of parameters.
        gamma_post: Bits in which it falls by $e$.
        rates: $C_x$ by part.
    """

    A: float = math.nan
    B: float = math.nan
    E: float = math.nan
    alpha: float = math.nan
    beta: float = math.nan
    factors: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    C: float = math.nan
    gamma_D: float = math.nan  # noqa: N815 - the names of the law's parameters
    gamma_N: float = math.nan  # noqa: N815
    gamma_post: float = math.nan
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, law: Law, theta: np.ndarray) -> "Constants":
        """The constants of a law at coordinates.

        Args:
            law: One of the laws of `_precision_forms`, or `chinchilla`.
            theta: Its coordinates.
        """
        values = {name: float(v) for name, v in law.values(theta).items()}
        plain = {f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values}
        if "alpha" in plain:
            plain.setdefault("beta", plain["alpha"])
        factors = {p: (values[f"gamma_{i}"], values[f"P0_{i}"]) for p, i in PARTS.items() if f"gamma_{i}" in values}
        rates = {p: values[f"C_{i}"] for p, i in PARTS.items() if f"C_{i}" in values}
        return cls(**plain, factors=factors, rates=rates)

    def by_part(self, bits: Bits) -> dict[str, float]:
        """Bits of every part that the law knows; parts that are not named are in full precision.

        Args:
            bits: One number, or numbers by part.

        Raises:
            InvalidInput: A part that the law does not know in few bits, or bits that are not positive.
        """
        if isinstance(bits, Mapping):
            named = {_SHORT.get(str(name), str(name)): float(value) for name, value in bits.items()}
            for name, value in named.items():
                if name not in PARTS:
                    raise InvalidInput(f"bits: expected {', '.join(_SHORT)} (or {', '.join(PARTS)}), got {name!r}.")
                if name not in self.factors and value < math.inf:
                    raise InvalidInput(
                        f"bits: this law was fitted without {name} and cannot say what {value:g} bits cost; it knows "
                        f"{', '.join(self.factors) or 'none'}."
                    )
            found = {part: named.get(part, math.inf) for part in self.factors}
        else:
            found = dict.fromkeys(self.factors, float(bits))
        for part, value in found.items():
            if not value > 0:
                raise InvalidInput(f"bits: expected {part} > 0, got {value:g}.")
        return found

    def log_factor(self, bits: Bits) -> float:
        r"""$\ln\prod_xf_x(P_x)$ (PR.2); NaN where a part has fewer bits than it needs to be of any use."""
        total = 0.0
        for part, value in self.by_part(bits).items():
            gamma, bits_0 = self.factors[part]
            if value <= bits_0:
                return math.nan
            total += math.log(-math.expm1(-(value - bits_0) / gamma))
        return total

    def refuse_useless(self, who: str, bits: Bits) -> None:
        """Raise where a part has no more bits than make it useless.

        Args:
            who: Who is named in the error.
            bits: One number, or numbers by part.

        Raises:
            InvalidInput: A part is at or below its $P_0$.
        """
        for part, value in self.by_part(bits).items():
            if value <= self.factors[part][1]:
                raise InvalidInput(f"{who}: {useless(part, value, self.factors[part][1])}")

    def loss(self, params: float, tokens: float, bits: Bits = math.inf) -> float:
        """Loss after training (PR.1)."""
        effective = math.log(params) + self.log_factor(bits)
        return (
            self.E
            + _exp(math.log(self.A) - self.alpha * effective)
            + _exp(math.log(self.B) - self.beta * math.log(tokens))
        )

    def delta(self, params: float, tokens: float, post_bits: float, bits: Bits = math.inf) -> float:
        """What rounding to `post_bits` after training in `bits` adds (PR.4), (PR.6)."""
        log = (
            math.log(self.C)
            + self.gamma_D * math.log(tokens)
            - self.gamma_N * (math.log(params) + self.log_factor(bits))
            - post_bits / self.gamma_post
        )
        return _exp(log) * self.robustness(post_bits, bits)

    def robustness(self, post_bits: float, bits: Bits = math.inf) -> float:
        r"""$\prod_x[1-e^{-C_x(P_x-P_{\rm post})}]$ (PR.6): 1 after training in full precision, 0 where nothing is rounded away."""
        found = 1.0
        for part, value in self.by_part(bits).items():
            if value == math.inf or post_bits == math.inf:
                continue
            found *= (
                -math.expm1(-self.rates.get(part, math.inf) * max(value - post_bits, 0.0)) if value > post_bits else 0.0
            )
        return found

    def critical_tokens(self, params: float, post_bits: float, bits: Bits = math.inf) -> float:
        r"""$D_{\rm crit}$ (PR.7), beyond which more data make the deployed loss worse; infinite where nothing is rounded away."""
        share = self.robustness(post_bits, bits)
        if share == 0.0:
            return math.inf
        log = (
            math.log(self.beta * self.B / (self.gamma_D * self.C * share))
            + self.gamma_N * (math.log(params) + self.log_factor(bits))
            + post_bits / self.gamma_post
        )
        return _exp(log / (self.gamma_D + self.beta))

    @property
    def fewest(self) -> float:
        """The largest $P_0$, and not less than 0: below it the law says nothing of one common number of bits."""
        return max([0.0, *(bits_0 for _, bits_0 in self.factors.values())])

    def gain(self, bits: float) -> float:
        r"""$d\ln F/d\ln P=P\sum_x\frac1{\gamma_x}\frac{1-f_x}{f_x}$ at one common number of bits; 1 at the joint optimum (PR.11)."""
        return bits * sum(1.0 / (gamma * _expm1((bits - zero) / gamma)) for gamma, zero in self.factors.values())


def _exp(log: float) -> float:
    return math.exp(log) if log < 700.0 else math.inf


def _expm1(u: float) -> float:
    return math.expm1(u) if u < 700.0 else math.inf
