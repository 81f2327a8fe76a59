"""Products of powers of named quantities: the form of every rule of a parameterization."""

import dataclasses
import math
from collections.abc import Mapping

from foretrain.errors import InvalidInput


@dataclasses.dataclass(frozen=True)
class Monomial:
    r"""$\prod_q q^{e_q}$ over named quantities $q$, for example `fan_in^-0.5 * depth^-1`.

    Args:
        exponents: Pairs of name and exponent, without zeros, in alphabetical order; make one with `monomial`.
    """

    exponents: tuple[tuple[str, float], ...] = ()

    def __mul__(self, other: "Monomial") -> "Monomial":
        return monomial(
            {
                name: dict(self.exponents).get(name, 0.0) + dict(other.exponents).get(name, 0.0)
                for name in {**dict(self.exponents), **dict(other.exponents)}
            }
        )

    def __truediv__(self, other: "Monomial") -> "Monomial":
        return self * other**-1

    def __pow__(self, power: float) -> "Monomial":
        return monomial({name: power * exponent for name, exponent in self.exponents})

    def without(self, *names: str) -> "Monomial":
        """The same without the named quantities."""
        return Monomial(tuple((name, exponent) for name, exponent in self.exponents if name not in names))

    def value(self, quantities: Mapping[str, float]) -> float:
        """The product; quantities of 1 give exactly 1.

        Raises:
            InvalidInput: It is too large or too small for a double.
        """
        try:
            found = math.prod((quantities[name] ** exponent for name, exponent in self.exponents), start=1.0)
        except OverflowError:
            found = math.inf
        if not 0 < found < math.inf:
            raise InvalidInput(
                f"parameterization: {self} = {found:g} is beyond double precision; expected sizes and numbers nearer to 1."
            )
        return found

    def __str__(self) -> str:
        parts = [name if exponent == 1 else f"{name}^{exponent:g}" for name, exponent in self.exponents]
        return " ".join(parts) or "1"


def monomial(exponents: Mapping[str, float] | None = None, **named: float) -> Monomial:
    """The product of the named quantities to the given powers.

    Args:
        exponents: Name to exponent.
        named: The same as keywords.

    Example:
        >>> rule = monomial(fan_in=-0.5) * monomial(depth=-1.0)
        >>> str(rule), rule.value({"fan_in": 256.0, "depth": 16.0})
        ('depth^-1 fan_in^-0.5', 0.00390625)
    """
    merged = {**(exponents or {}), **named}
    return Monomial(tuple(sorted((name, float(e)) for name, e in merged.items() if e != 0)))
