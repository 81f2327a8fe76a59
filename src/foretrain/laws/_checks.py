"""What a table of runs cannot bear: mixed units, columns that contradict each other, rows that repeat. Pure functions."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from foretrain.errors import InvalidInput

if TYPE_CHECKING:
    from foretrain.laws._runs import Runs

_LISTED = 6
_COUNTED = ("params", "params_no_embed", "tokens", "tokens_per_epoch", "flops")
_FACTORS = {3: "thousands", 6: "millions", 9: "billions", 12: "trillions"}
_EPOCHS_OFF = 1.5  # tokens against epochs times tokens per epoch: a last epoch that is cut short is less
_OFF = 3.0  # FLOP against 6 N D: counting conventions differ by less


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
        if 1 < count < len(runs) and _have_checkpoints(runs, count):
            found.append(
                f"{len(runs)} rows of {count} runs: checkpoints of one run are correlated; resample by run, and do not take losses from "
                "the middle of a decaying learning rate for final ones."
            )
    return found


def _have_checkpoints(runs: "Runs", count: int) -> bool:
    """Whether runs have rows at several places of training; rows that differ in the rounding afterwards are at one."""
    along = [n for n in ("tokens", "steps", "flops") if n in runs.columns]
    places = set(zip(runs["run"].tolist(), *(runs[n].tolist() for n in along), strict=True))
    return not along or len(places) > count


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
