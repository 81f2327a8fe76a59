r"""What the design of a fit cannot bear: too few rows, a variable that does not vary, variables that vary together. Pure functions.

Two sums of powers $AN^{-\alpha}+BD^{-\beta}$ with $D=rN$ throughout and $\alpha=\beta$ are one power of $N$: their Jacobian is exactly singular,
whatever the residual. No number of rows helps; only another design does.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

_BITS = ("weight_bits", "activation_bits", "kv_bits", "post_bits")  # may be infinite, and no law is a power of them
# Variables that enter a law by a ratio, so that another one may vary in their place.
_MAY_BE_ONE = {("muennighoff", "tokens_per_epoch")}
_EXACT = 0.01  # ln D given ln N varies by less than this: one per cent of tokens per parameter
_CLOSE = 0.1
_NARROW = 3.0  # a span below this factor hardly bends a power law


def distinct_rows(values: Float[np.ndarray, "rows variables"]) -> int:
    """How many different rows a table of numbers has.

    Example:
        >>> import numpy as np
        >>> from foretrain.laws import distinct_rows
        >>> distinct_rows(np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 3.0]]))
        2
    """
    return len(np.unique(np.asarray(values, dtype=np.float64), axis=0)) if len(values) else 0


@np.errstate(all="ignore")
def design_refusals(
    values: Float[np.ndarray, "rows variables"], names: Sequence[str], parameters: int, law: str = "this law"
) -> list[str]:
    """Why no fit of a law to this design can mean anything; empty when one can.

    Args:
        values: The variables of the law, positive, one column each.
        names: Their names.
        parameters: How many parameters the law has.
        law: Its name, for the message.

    Returns:
        Messages about: fewer different rows than parameters and one more, a variable with a single value, two variables in one
        ratio (or one power of each other) to one per cent.

    Example:
        >>> import numpy as np
        >>> from foretrain.laws import design_refusals
        >>> params = np.geomspace(1e6, 1e9, 12)
        >>> design_refusals(np.column_stack([params, 20 * params]), ("params", "tokens"), 5, "chinchilla")[0][:52]
        'chinchilla: tokens is 20 times params in every row, '
    """
    found = []
    distinct = distinct_rows(values)
    if distinct < parameters + 1:
        found.append(
            f"{law}: {distinct} different {'row' if distinct == 1 else 'rows'} for {parameters} parameters; at least {parameters + 1} are "
            "needed, and three times as many for an interval worth reading. Add runs, or take a law with fewer parameters."
        )
    constant = [len(np.unique(column)) == 1 for column in np.transpose(values)] if len(values) else []
    for name, same, column in zip(names, constant, np.transpose(values), strict=False):
        if same and (law, name) not in _MAY_BE_ONE:
            found.append(
                f"{law}: {name} has one value, {column[0]:.6g}, in all rows, so nothing can be learned of how the loss depends on it. "
                f"Add runs at other values (a factor of ten apart or more), or fit a law without {name}."
            )
    if distinct >= 3:
        found += [f"{law}: {words}" for words in _collinear(values, names, constant, 0.0, _EXACT)]
    return found


@np.errstate(all="ignore")
def design_warnings(
    values: Float[np.ndarray, "rows variables"], names: Sequence[str], law: str = "this law"
) -> list[str]:
    """What makes a fit of a law to this design uncertain: nearly tied variables, narrow spans, a single budget.

    Args:
        values: The variables of the law, positive, one column each.
        names: Their names.
        law: Its name, for the message.

    Example:
        >>> import numpy as np
        >>> from foretrain.laws import design_warnings
        >>> design_warnings(np.array([[1e6], [2e6], [2.5e6]]), ("params",), "power")
        ['power: params spans a factor of 2.5 only; below 3 an exponent is hardly determined. Add smaller or larger runs.']
    """
    if len(values) < 2:
        return []
    found = []
    constant = [len(np.unique(column)) == 1 for column in np.transpose(values)]
    for name, same, column in zip(names, constant, np.transpose(values), strict=True):
        span = float(column.max() / column.min())
        if not same and span < _NARROW and name not in _BITS:
            found.append(
                f"{law}: {name} spans a factor of {span:.3g} only; below {_NARROW:g} an exponent is hardly determined. "
                "Add smaller or larger runs."
            )
    if distinct_rows(values) >= 3:
        found += [f"{law}: {words}" for words in _collinear(values, names, constant, _EXACT, _CLOSE)]
        found += [f"{law}: {words}" for words in _single_budget(values, names, constant)]
    return found


def _collinear(
    values: Float[np.ndarray, "rows variables"], names: Sequence[str], constant: Sequence[bool], low: float, high: float
) -> list[str]:
    """Pairs of variables that rise together, with a spread about the common power from `low` to `high`."""
    logs, found = np.log(values), []
    for i in range(len(names)):
        for j in range(i + 1, len(names)):
            if constant[i] or constant[j] or names[i] in _BITS or names[j] in _BITS:
                continue
            slope, spread = _line(logs[:, i], logs[:, j])
            if slope <= 0 or not low <= spread < high:
                continue
            ratio = float(np.exp(np.mean(logs[:, j] - logs[:, i])))
            proportional = np.ptp(logs[:, j] - logs[:, i]) < max(4 * high, 0.05)
            about = "" if low == 0.0 else f" to {100 * spread:.2g} %"
            how = (
                f"{names[j]} is {ratio:.4g} times {names[i]} in every row{about}"
                if proportional
                else f"{names[j]} follows {names[i]}^{slope:.3g} in every row{about}"
            )
            correlation = float(np.corrcoef(logs[:, i], logs[:, j])[0, 1])
            found.append(
                f"{how}, so their effects cannot be told apart (correlation of the logarithms {correlation:.5f}). Add runs with another "
                f"{names[j]}/{names[i]}, three times less and more for some sizes, or fit a law in one of the two."
            )
    return found


def _single_budget(
    values: Float[np.ndarray, "rows variables"], names: Sequence[str], constant: Sequence[bool]
) -> list[str]:
    logs, found = np.log(values), []
    for i in range(len(names)):
        for j in range(i + 1, len(names)):
            if not (constant[i] or constant[j] or names[i] in _BITS or names[j] in _BITS):
                slope, spread = _line(logs[:, i], logs[:, j])
                if slope < 0 and spread < _CLOSE:
                    found.append(
                        f"{names[j]} falls as {names[i]}^{slope:.3g} in every row, as at a single budget: one valley does not say how it moves. "
                        "Add runs at a second and third budget."
                    )
    return found


def _line(x: Float[np.ndarray, " rows"], y: Float[np.ndarray, " rows"]) -> tuple[float, float]:
    """Slope of a line of y on x and the standard deviation about it."""
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    return slope, float(np.std(y - y.mean() - slope * centred))
