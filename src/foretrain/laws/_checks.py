r"""What a table of runs, or the design of a fit, cannot bear: units, duplicates, singular designs. Pure functions.

Two sums of powers $AN^{-\alpha}+BD^{-\beta}$ with $D=rN$ throughout and $\alpha=\beta$ are one power of $N$: their Jacobian is exactly singular,
whatever the residual. No number of rows helps; only another design does.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from foretrain.errors import InvalidInput

if TYPE_CHECKING:
    from foretrain.laws._runs import Runs

_LISTED = 6
_BITS = ("weight_bits", "activation_bits", "kv_bits", "post_bits")  # may be infinite, and no law is a power of them
_COUNTED = ("params", "params_no_embed", "tokens", "tokens_per_epoch", "flops")
_FACTORS = {3: "thousands", 6: "millions", 9: "billions", 12: "trillions"}
_EXACT = 0.01  # ln D given ln N varies by less than this: one per cent of tokens per parameter
_CLOSE = 0.1
# Variables that enter a law by a ratio, so that another one may vary in their place.
_MAY_BE_ONE = {("muennighoff", "tokens_per_epoch")}
_EPOCHS_OFF = 1.5  # tokens against epochs times tokens per epoch: a last epoch that is cut short is less
_NARROW = 3.0  # a span below this factor hardly bends a power law
_OFF = 3.0  # FLOP against 6 N D: counting conventions differ by less


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


@np.errstate(all="ignore")  # of numbers whose ratios overflow nothing is concluded
def unit_findings(
    numbers: Mapping[str, Float[np.ndarray, " rows"]], rows: np.ndarray, stated: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Signs of wrong units in the columns of a file, before anything is derived from them.

    Args:
        numbers: Columns by canonical name, NaN where missing.
        rows: Row numbers for the messages.
        stated: Columns whose unit the user stated; they are not doubted.

    Returns:
        Refusals (different units inside one column) and warnings (a whole column in an unlikely unit, FLOP that are not 6 N D,
        losses that are no nats).
    """
    refused, warned = [], []
    usable = {name: np.where(np.isfinite(v) & (v > 0), v, np.nan) for name, v in numbers.items()}
    n, d, c = (usable.get(name) for name in ("params", "tokens", "flops"))
    if n is not None and d is not None and c is not None:
        more, less = _against_flops(n, d, c, rows, stated)
        refused += more
        warned += less
    if not refused:
        for name in _COUNTED:
            if name in usable and name not in stated:
                other = usable.get("tokens" if name.startswith("params") else "params")
                more, less = _two_groups(name, usable[name], other, rows)
                refused += more
                warned += less
    if not refused:
        for name in _COUNTED:
            doubted = name in usable and name not in stated and (name != "flops" or n is None or d is None)
            if doubted and (words := _unlikely(name, usable[name], usable)):
                warned.append(words)
    if not refused and {"tokens", "tokens_per_epoch", "epochs"} <= usable.keys():
        warned += _against_epochs(usable["tokens"], usable["tokens_per_epoch"], usable["epochs"], rows)
    if "loss" in numbers:
        warned += _loss_units(numbers["loss"], rows)
    return refused, warned


def _against_epochs(d: np.ndarray, unique: np.ndarray, epochs: np.ndarray, rows: np.ndarray) -> list[str]:
    """Three columns that say two things: tokens are epochs times tokens per epoch, or fewer within the first epoch."""
    expected = np.where(epochs > 1.0, unique * epochs, np.minimum(unique, d))
    wrong = np.abs(np.log(d / expected)) > math.log(_EPOCHS_OFF)
    if not wrong.any():
        return []
    return [
        f"tokens are not tokens_per_epoch × epochs in {told_rows(rows, wrong)}: laws of repeated data use tokens_per_epoch. If epochs are right, "
        "give that column another name, columns other=tokens_per_epoch, and it is derived."
    ]


def _against_flops(
    n: np.ndarray, d: np.ndarray, c: np.ndarray, rows: np.ndarray, stated: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Rows whose FLOP differ from 6 N D by powers of a thousand, and tables that differ throughout."""
    offset = np.log10(6 * n * d) - np.log10(c)
    known = np.isfinite(offset)
    if not known.any():
        return [], []
    middle = float(np.median(offset[known]))
    away = offset - middle
    thousands = np.where(known, 3 * np.round(np.nan_to_num(away) / 3), 0)
    odd = known & (thousands != 0) & (np.abs(away - thousands) < 0.5)
    columns = [name for name in ("params", "tokens", "flops") if name not in stated]
    if odd.any() and not odd.all() and columns:
        power = int(abs(thousands[odd][0]))
        culprit = _culprit({"params": n, "tokens": d, "flops": c}, odd, columns)
        return [
            f"column {culprit!r}: {told_rows(rows, odd)} {'is' if odd.sum() == 1 else 'are'} in another unit than the others: "
            f"6 × params × tokens / flops differs by 1e{power} there. Write the whole column in one unit (a plain count)."
        ], []
    factor = float(np.power(10.0, middle))
    if 1 / _OFF <= factor <= _OFF:
        wrong = known & (np.abs(offset) > math.log10(_OFF))
        if wrong.any():
            worst = np.flatnonzero(wrong)[np.argmax(np.abs(offset[wrong]))]
            return [], [
                f"flops differ from 6 × params × tokens by more than a factor of {_OFF:g} in {told_rows(rows, wrong)} (at most "
                f"{10.0 ** abs(offset[worst]):.3g} times). Is embedding or attention counted otherwise there?"
            ]
        return [], []
    unit = next((words for power, words in _FACTORS.items() if abs(abs(middle) - power) < 0.5), "")
    if unit and factor < 1:
        return [], [
            f"6 × params × tokens is {factor:.3g} times flops throughout: params or tokens seem to be in {unit}. State the unit with "
            f"columns params=params*1e{round(-middle)} (or tokens=tokens*1e{round(-middle)})."
        ]
    return [], [
        f"6 × params × tokens is {factor:.3g} times flops throughout. Check the units, and what is counted: embeddings, attention, "
        "forward passes only; plans use 6 × params × tokens."
    ]


def _culprit(columns: Mapping[str, np.ndarray], odd: Bool[np.ndarray, " rows"], names: Sequence[str]) -> str:
    """The column whose odd rows stand furthest from the others."""
    shift = {
        name: abs(float(np.nanmedian(np.log10(columns[name][odd])) - np.nanmedian(np.log10(columns[name][~odd]))))
        for name in names
    }
    return max(names, key=lambda name: shift[name])


def _two_groups(
    name: str, values: np.ndarray, other: np.ndarray | None, rows: np.ndarray
) -> tuple[list[str], list[str]]:
    """A gap of a thousand or more inside one column that a change of unit would close."""
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < 3:
        return [], []
    order = known[np.argsort(values[known], kind="stable")]
    ratios = values[order[1:]] / values[order[:-1]]
    cut = int(np.argmax(ratios))
    if ratios[cut] < 1e3:
        return [], []
    small, large = order[: cut + 1], order[cut + 1 :]
    closes = [p for p in _FACTORS if _overlap(values[small] * 10.0**p, values[large])]
    if not closes or values[small].max() > 1e5:
        return [], []
    mask = np.zeros(len(values), dtype=bool)
    mask[small if len(small) <= len(large) else large] = True
    words = (
        f"column {name!r}: {told_rows(rows, mask)} {'seems' if mask.sum() == 1 else 'seem'} to be in another unit than the others: values from {values[small].min():.4g} to "
        f"{values[small].max():.4g} stand beside {values[large].min():.4g} to {values[large].max():.4g}, and fit among them in "
        f"{_FACTORS[closes[0]]}. Write the whole column in one unit (a plain count)"
    )
    if other is not None:
        with np.errstate(invalid="ignore"):
            ratio = np.log10(other) - np.log10(values)
        both = np.isfinite(ratio[small]).any() and np.isfinite(ratio[large]).any()
        if both and abs(float(np.nanmedian(ratio[small]) - np.nanmedian(ratio[large]))) > 2.5:
            return [words + "."], []
    return [], [words + f", or say that it is right with columns {name}={name}*1."]


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two groups of sizes could belong to one series: neighbours of a series are less than a decade apart, mostly."""
    return bool(a.max() >= b.min() / 10 and a.min() <= b.max() * 10)


def _unlikely(name: str, values: np.ndarray, numbers: Mapping[str, np.ndarray]) -> str:
    """A whole column that looks like millions or billions."""
    known = values[np.isfinite(values)]
    if not len(known):
        return ""
    below = known.min() < 1
    tokens, params = numbers.get("tokens"), numbers.get("params")
    ratio = math.nan
    if tokens is not None and params is not None and np.isfinite(tokens / params).any():
        ratio = float(np.nanmedian(tokens / params))
    lost = name == "params" and known.max() < 1e5 and ratio > 1e5
    lost = lost or (name == "tokens" and known.max() < 1e6 and ratio < 1e-3)
    if name == "tokens" and params is not None and known.max() < 1e6:
        below = below or bool((params < 1).any())  # both in billions: their ratio tells nothing
    if not (below or lost):
        return ""
    if lost and 0 < ratio < math.inf:  # the unit that comes nearest to twenty tokens per parameter
        sign = -1 if name.startswith("params") else 1
        power = min((3, 6, 9), key=lambda p: abs(math.log10(ratio) + sign * p - math.log10(20)))
    else:
        power = 9 if known.max() < 1000 else 6
    unit, factor = _FACTORS[power], f"1e{power}"
    why = (
        "below 1 is no count"
        if known.min() < 1
        else "params below 1 are no counts"
        if below
        else f"{ratio:.3g} tokens per parameter"
    )
    return (
        f"column {name!r} holds {known.min():.4g} to {known.max():.4g} ({why}): is it in {unit}? Fits would be right in these units, plans "
        f"would not. State the unit with columns {name}={name}*{factor}, or that it is a count with {name}={name}*1."
    )


def _loss_units(loss: np.ndarray, rows: np.ndarray) -> list[str]:
    known = loss[np.isfinite(loss)]
    if not len(known):
        return []
    if float(np.median(known)) > 20:
        return [
            f"column 'loss' has a median of {np.median(known):.4g}: is it a perplexity? Laws here are for nats per token; name a column "
            "of perplexities perplexity, and its logarithm is taken."
        ]
    high = np.isfinite(loss) & (loss > 20)
    if high.any():
        return [
            f"losses above 20 in {told_rows(rows, high)}: diverged runs, or perplexities? Leave them out with where 'loss<20'."
        ]
    return []


def table_warnings(runs: "Runs") -> list[str]:
    """What is suspicious about a table itself, in words; see `Runs.warnings`."""
    numbers = {name: v for name, v in runs.columns.items() if v.dtype.kind == "f"}
    rows = np.asarray(runs.rows)
    refused, found = unit_findings(numbers, rows, runs.stated)
    found = refused + found
    keys = [name for name in ("params", "params_no_embed", "tokens", "flops", "loss", "steps", "lr") if name in numbers]
    if "loss" in keys and len(runs) > 1:
        same = _duplicated(runs)
        if same.any():
            found.append(
                f"{int(same.sum())} {'row repeats' if same.sum() == 1 else 'rows repeat'} an earlier row in every column ({told_rows(rows, same)}): "
                "that changes no estimate and makes intervals too narrow. Remove them, or resample by a column that they share."
            )
    for name in ("params", "tokens", "flops", "loss"):
        if name in numbers:
            gone = int(np.isnan(numbers[name]).sum())
            if gone:
                found.append(
                    f"column {name!r}: {gone} of {len(runs)} values are missing; leave them out with where '{name}!=nan'."
                )
            bad = np.isfinite(numbers[name]) & (numbers[name] <= 0)
            if bad.any():
                found.append(
                    f"column {name!r}: zero or negative in {told_rows(rows, bad)}; no law can be fitted to these rows."
                )
    if "run" in runs.columns and "loss" in numbers:
        count = len(set(runs["run"].tolist()))
        if 1 < count < len(runs):
            found.append(
                f"{len(runs)} rows of {count} runs: checkpoints of one run are correlated; resample by run, and do not take losses from "
                "the middle of a decaying learning rate for final ones."
            )
    return found


def _duplicated(runs: "Runs") -> Bool[np.ndarray, " rows"]:
    """Rows that equal an earlier one in every column."""
    codes = [np.unique(v, return_inverse=True)[1].reshape(-1) for v in runs.columns.values()]
    order = np.lexsort(codes)  # stable: of equal rows the earliest comes first
    sorted_codes = np.stack(codes)[:, order]
    again = np.zeros(len(runs), dtype=bool)
    again[order[1:]] = (sorted_codes[:, 1:] == sorted_codes[:, :-1]).all(axis=0)
    return again


def told_rows(rows: np.ndarray, mask: Bool[np.ndarray, " rows"]) -> str:
    """`row 3`, or `rows 3, 5, 9 and 12 more`."""
    found = rows[mask]
    more = len(found) - _LISTED
    words = ", ".join(str(int(r)) for r in found[:_LISTED]) + (f" and {more} more" if more > 0 else "")
    return f"row {words}" if len(found) == 1 else f"rows {words}"


def refuse(messages: Sequence[str], source: str) -> None:
    """Raise the first refusal.

    Raises:
        InvalidInput: There is one.
    """
    if messages:
        raise InvalidInput(f"{source}: {messages[0]}")
