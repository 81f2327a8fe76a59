"""What the coordinate check found: slopes, verdicts, the worst layer and the likely cause."""

import dataclasses
import math
import os
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain.curves import json_ready
from foretrain.diagnostics._causes import likely_cause
from foretrain.diagnostics._expected import Quantity, Range
from foretrain.diagnostics._slopes import LimitSlope, Slope
from foretrain.parameterization import Recipe

TOLERANCE = 0.1
"""Allowed distance of a slope from the expected one besides two standard errors: corrections of finite size."""
CLEAR = 0.1
"""Largest standard error with which a slope near an end of the allowed range counts as right."""
REAL = 3.0
"""Standard errors by which a correction of finite size is above nothing, for it to explain a slope."""
NEGLIGIBLE = 1e-5
"""Relative change below which float32 shows rounding errors."""

_LETTER = {"width": "N", "heads": "H", "head_dim": "d_h", "depth": "L"}
_RIGHT = ("ok", "approaches")
_WORDS = {"start": "size at the start", "change": "change", "own change": "change by own weights"}


@dataclasses.dataclass(frozen=True, eq=False)
class CoordinateRow:
    """One quantity of one layer.

    Args:
        feature: Name of the feature.
        quantity: What is measured of it.
        layer: Which layer: a number, or how far up when the depth varies; empty where there is one only.
        slope: Exponent in the axis.
        stderr: Its standard error.
        expected: Least and greatest exponent that the scheme allows, or `None` where it promises nothing.
        verdict: `"ok"`, `"approaches"` (as declared in large sizes, with a correction of finite size), `"too large"`,
            `"too small"`, `"unclear"` (more seeds are needed, or a larger learning rate), `"diverged"`, `"zero"` (at some sizes
            only), or `"not judged"`.
        sizes: Root mean squares.
        largest: Exponent of the larger half of the sizes; `None` for fewer than four.
        limit: Exponent beside a correction 1 / size; `None` for fewer than four.
    """

    feature: str
    quantity: Quantity
    layer: str
    slope: float
    stderr: float
    expected: Range | None
    verdict: str
    sizes: Float[np.ndarray, "seeds sizes"]
    largest: Slope | None = None
    limit: LimitSlope | None = None

    @property
    def flat(self) -> bool:
        """Whether the quantity is independent of size, within the tolerance."""
        return bool(abs(self.slope) <= TOLERANCE + 2 * self.stderr)

    @property
    def excess(self) -> float:
        """How far the slope (the one in the limit, if it is approached) is from what is allowed, in tolerances.

        0 where nothing is promised.
        """
        if self.expected is None:
            return 0.0
        if self.verdict == "approaches" and self.limit is not None:
            return _outside(self.limit.slope, self.expected) / TOLERANCE
        if not math.isfinite(self.slope):
            return math.inf
        return _outside(self.slope, self.expected) / (TOLERANCE + 2 * self.stderr)

    def words(self) -> str:
        """What it is, for tables: `change of stream, layer 2`."""
        layer = f", layer {self.layer}" if self.layer else ""
        return f"{_WORDS[self.quantity.measure]} of {self.feature}{layer}"


@dataclasses.dataclass(frozen=True, eq=False)
class CoordinateCheck:
    """What `coordinate_check` found.

    Args:
        axis: What varied.
        values: Its values.
        growth: Which exponents apply: `"width"`, `"depth"`, `"head_dim"`, or `"none"`.
        recipe: Scheme and optimizer that the model declares.
        steps: Steps of the optimizer.
        seeds: Seeds at every size.
        rows: One for each quantity and layer.
    """

    axis: str
    values: tuple[int, ...]
    growth: str
    recipe: Recipe
    steps: int
    seeds: int
    rows: tuple[CoordinateRow, ...]

    @property
    def judged(self) -> tuple[CoordinateRow, ...]:
        """Rows about which the scheme promises something."""
        return tuple(row for row in self.rows if row.expected is not None)

    @property
    def passed(self) -> bool:
        """Whether everything scales as the declared scheme promises; unclear rows do not pass, nor does a check of nothing."""
        return bool(self.judged) and all(row.verdict in _RIGHT for row in self.judged)

    @property
    def flat(self) -> bool:
        """Whether stream and outputs move by the same amount at every size, as they do in the muP family."""
        moved = [r for r in self.rows if r.quantity.measure == "change" and r.quantity.kind in ("stream", "output")]
        return bool(moved) and all(row.flat for row in moved)

    @property
    def worst(self) -> CoordinateRow | None:
        """The judged row that is farthest from what is allowed, in tolerances; `None` when nothing is judged."""
        return max(self.judged, key=lambda row: row.excess, default=None)

    @property
    def cause(self) -> str | None:
        """What is likely wrong, in words; `None` when nothing is, or when no known fault has such exponents."""
        if not any(row.verdict in ("too large", "too small") for row in self.judged):
            return None
        if self.growth == "none":
            return None
        return likely_cause(self._typical(), self.recipe, self.growth)

    def _typical(self) -> dict[Quantity, float]:
        """The median slope of every kind of quantity over its layers."""
        found: dict[Quantity, list[float]] = {}
        for row in self.rows:
            if math.isfinite(row.slope) and row.stderr <= 2 * CLEAR:
                found.setdefault(row.quantity, []).append(row.slope)
        return {quantity: float(np.median(slopes)) for quantity, slopes in found.items()}

    def explain(self) -> str:
        """A few lines: verdict, worst layer, likely cause, and whether features learn at every size."""
        letter = _LETTER[self.axis]
        sizes = f"{self.axis} {self.values[0]} to {self.values[-1]}"
        head = (
            f"Coordinate check over {sizes}: {self.recipe.scheme}, {self.recipe.optimizer}, {self.steps} step"
            f"{'s' if self.steps > 1 else ''}, {self.seeds} seeds: "
        )
        if not self.judged:
            return head + f"nothing is promised for {self.axis}; see the table for what was measured."
        lines = [head + ("everything scales as declared." if self.passed else "not as declared.")]
        worst = self.worst
        if not self.passed and worst is not None:
            lines.append(f"Worst: {_sentence(worst, letter)}")
            unclear = [row for row in self.judged if row.verdict == "unclear"]
            wrong = [row for row in self.judged if row.verdict in ("too large", "too small")]
            if wrong:
                cause = self.cause
                lines.append(
                    f"Likely cause: {cause}."
                    if cause
                    else "Likely cause: none of the known faults has these exponents; begin with the tensor that makes the worst "
                    "quantity, and compare its row of `Parameterization.table()`."
                )
            if unclear:
                lines.append(
                    f"Unclear: {len(unclear)} of {len(self.judged)} quantities; more seeds or a larger learning rate would tell."
                )
        lines += [_approach(row, letter) for row in self.judged if row.verdict == "approaches"]
        if self.growth == "depth" and self.recipe.depth_exponent is None:
            lines.append(
                f"{self.recipe.scheme} has no rule for depth, so that deeper networks need other hyperparameters; mup-depth and "
                "completep have one."
            )
        else:
            lines.append(
                "Stream and outputs move by the same amount at every size."
                if self.flat
                else f"Stream or outputs do not move by the same amount at every size: hyperparameters will not carry over in {self.axis}."
            )
        return "\n".join(lines)

    def table(self) -> str:
        """All rows as a table in Markdown.

        *Largest sizes*: slope of the larger half of them; *limit*: slope beside a correction 1 / size.
        """
        lines = [
            f"| quantity | layer | slope in {self.axis} | ± | largest sizes | limit | expected | verdict |",
            "| --- | --- | ---: | ---: | ---: | ---: | --- | --- |",
        ]
        for row in self.rows:
            what = f"{row.feature}, {_WORDS[row.quantity.measure]}"
            lines.append(
                f"| {what} | {row.layer} | {row.slope:.2f} | {row.stderr:.2f} | {_number(row.largest)} | {_number(row.limit)} | "
                f"{range_words(row.expected)} | {row.verdict} |"
            )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain values for strict JSON; non-finite numbers are the strings `"inf"`, `"-inf"`, `"nan"`."""
        return json_ready(
            {
                "axis": self.axis,
                "values": self.values,
                **dataclasses.asdict(self.recipe),
                "steps": self.steps,
                "seeds": self.seeds,
                "passed": self.passed,
                "flat": self.flat,
                "cause": self.cause,
                "rows": [
                    {
                        "feature": row.feature,
                        "measure": row.quantity.measure,
                        "layer": row.layer,
                        "slope": row.slope,
                        "stderr": row.stderr,
                        "largest": row.largest and dataclasses.asdict(row.largest),
                        "limit": row.limit and dataclasses.asdict(row.limit),
                        "expected": row.expected,
                        "verdict": row.verdict,
                        "sizes": row.sizes,
                    }
                    for row in self.rows
                ],
            }
        )

    def plot(self, path: str | os.PathLike | None = None) -> Any:
        """A figure: sizes against the axis, one panel for each quantity, coloured by layer.

        Args:
            path: Where to save it, `.png`, `.svg` or `.pdf`; `None` does not save.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            InvalidInput: Unknown suffix or no such folder.
            MissingExtra: matplotlib is not installed.
        """
        from foretrain.report import plot_coordinates

        return plot_coordinates(self.to_json(), path)


def judge(
    slope: Slope,
    expected: Range | None,
    measured: Float[np.ndarray, "seeds sizes"],
    small: bool,
    largest: Slope | None = None,
    limit: LimitSlope | None = None,
) -> str:
    """The verdict on one slope.

    Args:
        slope: Measured.
        expected: Allowed.
        measured: The sizes.
        small: Whether changes are as small as rounding errors.
        largest: Of the larger half of the sizes.
        limit: Beside a correction 1 / size.
    """
    if not np.all(np.isfinite(measured)):
        return "diverged"
    if expected is None:
        return "not judged"
    if not np.all(measured > 0):
        return "zero"
    low, high = expected
    tolerance = TOLERANCE + 2 * slope.stderr
    if small:
        return "unclear"
    if _outside(slope.slope, expected) > tolerance:
        if largest is not None and limit is not None and approaches(largest, limit, expected):
            return "approaches"
        return "too large" if slope.slope > high else "too small"
    well_inside = low + 2 * slope.stderr < slope.slope < high - 2 * slope.stderr
    return "ok" if slope.stderr <= CLEAR or well_inside else "unclear"


def approaches(largest: Slope, limit: LimitSlope, expected: Range) -> bool:
    """Whether a slope outside the allowed range is a correction of finite size: measured in two ways, and nothing for errors.

    The larger half of the sizes must have an allowed exponent, and so must the whole beside a correction 1 / size that is clearly
    there; both within the tolerance alone, without standard errors. A wrong exponent has neither.

    Args:
        largest: Of the larger half of the sizes.
        limit: Beside a correction 1 / size.
        expected: Allowed.
    """
    within = all(one.stderr <= CLEAR and _outside(one.slope, expected) <= TOLERANCE for one in (largest, limit))
    return within and abs(limit.correction) > REAL * limit.correction_stderr


def _outside(slope: float, expected: Range) -> float:
    """How far a slope is from an allowed range."""
    return max(expected[0] - slope, slope - expected[1], 0.0)


def _number(slope: Slope | None) -> str:
    return "" if slope is None else f"{slope.slope:.2f} ± {slope.stderr:.2f}"


def range_words(expected: Range | None) -> str:
    """Allowed exponents in words.

    Args:
        expected: Least and greatest.
    """
    if expected is None:
        return "–"
    low, high = expected
    if low == high:
        return f"{low:g}"
    if math.isinf(low):
        return f"≤ {high:g}"
    return f"≥ {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"


def _sentence(row: CoordinateRow, letter: str) -> str:
    if row.verdict == "diverged":
        return f"{row.words()} is not finite: the learning rate is too large for some of the sizes."
    if row.verdict == "zero":
        return f"{row.words()} is exactly zero at some of the sizes."
    return (
        f"{row.words()} goes like {letter}^{row.slope:.2f} ± {row.stderr:.2f}, expected exponent {range_words(row.expected)}; "
        f"the tolerance is {TOLERANCE} + 2 standard errors."
    )


def _approach(row: CoordinateRow, letter: str) -> str:
    return (
        f"Approached only: {row.words()} goes like {letter}^{row.slope:.2f} ± {row.stderr:.2f} over all sizes, {_number(row.largest)} "
        f"over the largest, {_number(row.limit)} beside a correction 1 / {letter}; expected exponent {range_words(row.expected)}."
    )
