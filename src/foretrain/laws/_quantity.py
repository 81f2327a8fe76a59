"""Quantities that follow from a law's parameters, by name or as a function, for many fits at once."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain.errors import InvalidInput, nearest
from foretrain.laws._along import lowest
from foretrain.laws._columns import parse_number
from foretrain.laws._law import Law
from foretrain.laws._planner import FLOPS_PER_TOKEN

Quantity = str | Callable[[Mapping[str, float]], float]
Values = Callable[[Float[np.ndarray, "fits parameters"]], Float[np.ndarray, " fits"]]

_AT_BUDGET = ("params", "tokens", "tokens_per_param")
_EXAMPLE = "params@6e23, loss@6e23 or loss@params=7B,tokens=2T"


def values_of(law: Law, quantity: Quantity) -> Values:
    """A function from coordinates of fits to the values of a quantity.

    Args:
        law: The law.
        quantity: A function of the parameters by name; or the name of a parameter or of a derived one; or `params@C`, `tokens@C`,
            `tokens_per_param@C` and `loss@C` of the best size for compute C; or `loss@params=...,tokens=...`.

    Raises:
        InvalidInput: A string of another form, or one that this law cannot answer.
    """
    if callable(quantity):
        function = quantity

        def called(thetas: np.ndarray) -> np.ndarray:
            rows = ({n: float(v) for n, v in law.values(theta).items()} for theta in thetas)
            return np.array([float(function(row)) for row in rows])

        return called
    name, sign, place = (word.strip() for word in str(quantity).partition("@"))
    if not sign:
        if name not in law.names and name not in law.derived:
            known = [*law.names, *law.derived]
            raise InvalidInput(
                f"quantity {quantity!r}: law {law.name!r} has no such parameter{nearest(name, known)}; "
                f"expected one of {', '.join(known)}, or for example {_EXAMPLE}."
            )
        if name in law.names:
            return lambda thetas: np.asarray(law.values(thetas)[name], float)
        return lambda thetas: np.asarray(law.derived[name](law.values(thetas)), float)
    if "=" in place and name == law.response:
        point = law.columns(_point(law, str(quantity), place))
        return lambda thetas: np.exp(law.logs(thetas, point, slopes=False)[0][:, 0])
    budget = parse_number(place)
    if name not in (*_AT_BUDGET, law.response) or budget is None or not FLOPS_PER_TOKEN < budget < math.inf:
        raise InvalidInput(
            f"quantity {quantity!r}: expected {', '.join((*_AT_BUDGET, law.response))} at a compute in FLOP, or {law.response} at values of "
            f"{', '.join(law.variables)}; for example {_EXAMPLE}."
        )
    if not {"params", "tokens"} <= set(law.variables) <= {"params", "tokens", "tokens_per_epoch"}:
        raise InvalidInput(
            f"quantity {quantity!r}: law {law.name!r} is a law of {', '.join(law.variables)} and has no best size; "
            f"ask for {law.response}@{law.variables[0]}=... ."
        )
    return lambda thetas: _best(law, thetas, float(budget), name)


def _best(law: Law, thetas: np.ndarray, budget: float, name: str) -> np.ndarray:
    lnK = math.log(budget / FLOPS_PER_TOKEN)

    def line(u: np.ndarray) -> dict[str, np.ndarray]:
        tokens = np.exp(lnK - u)
        return {"params": np.exp(u), "tokens": tokens, "tokens_per_epoch": tokens}

    at, value, inside = lowest(law, thetas, line, 0.0, lnK)
    found = {"params": at, "tokens": lnK - at, "tokens_per_param": lnK - 2 * at}.get(name, value)
    return np.where(inside, np.exp(found), np.nan)


def _point(law: Law, quantity: str, place: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in re.split(r",(?=[^,=]+=)", place):
        name, _, text = (word.strip() for word in part.partition("="))
        number = parse_number(text)
        if name not in law.variables or number is None or not 0 < number < math.inf:
            raise InvalidInput(
                f"quantity {quantity!r}: expected values > 0 of {', '.join(law.variables)}, got {part!r}{nearest(name, law.variables)}."
            )
        found[name] = number
    return found


def scale_of(values: Float[np.ndarray, " fits"]) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """The logarithm and its inverse for a quantity that is positive everywhere, else the quantity as it is.

    Args:
        values: At the estimate and at fits near it.
    """
    known = values[np.isfinite(values)]
    if len(known) and np.all(known > 0):
        return np.log, np.exp
    return (lambda v: v), (lambda v: v)
