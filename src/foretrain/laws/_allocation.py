r"""Allocations without a law: $N_{\mathrm{opt}}=aC^{p}$ and $D_{\mathrm{opt}}=bC^{q}$ from the best runs of every budget (PL.13)."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain.errors import InvalidInput
from foretrain.laws._estimates import estimate
from foretrain.laws._fit import Estimate

_FEW = 4  # budgets, below which a straight line is hardly tested


@dataclasses.dataclass(frozen=True)
class Budget:
    """The best size of one budget.

    Args:
        flops: $C$.
        params: Best size; NaN where the runs do not show one.
        tokens: Its data.
        loss: Lowest loss.
        runs: Number of runs.
        status: `"ok"`, or why there is no best size.
    """

    flops: float
    params: float
    tokens: float
    loss: float
    runs: int
    status: str = "ok"


@dataclasses.dataclass(frozen=True, eq=False)
class Allocation:
    r"""How the best size and the best data grow with compute: what `valleys` and `envelope` return.

    Args:
        approach: `"isoflop"` or `"envelope"`.
        exponents: Of `params` and `tokens`.
        coefficients: $a$ and $b$, at $C=1$: they vary against the exponents, so use `at`.
        budgets: The best size of every budget.
        level: Probability that intervals are meant to cover.
        lines: Intercept and slope of $\ln N$ and of $\ln D$ on $\ln C$: the estimate first, then one for every resample.
        warnings: What to think of before using it.
    """

    approach: str
    exponents: Mapping[str, Estimate]
    coefficients: Mapping[str, Estimate]
    budgets: tuple[Budget, ...]
    level: float
    lines: Float[np.ndarray, "fits 2 2"]
    warnings: tuple[str, ...] = ()

    def at(self, compute: float) -> dict[str, Estimate]:
        """`params` and `tokens` at a compute, with intervals.

        Args:
            compute: In FLOP, counted as in the table.

        Raises:
            InvalidInput: Not a positive number.
        """
        if not 0 < compute < math.inf:
            raise InvalidInput(f"Allocation.at(compute): expected a finite number > 0, got {compute!r}.")
        logs = self.lines[:, :, 0] + self.lines[:, :, 1] * math.log(compute)
        with np.errstate(over="ignore"):
            values = np.exp(logs)
        return {n: estimate(float(values[0, i]), values[1:, i], self.level) for i, n in enumerate(("params", "tokens"))}

    def to_json(self) -> dict[str, Any]:
        """What `foretrain fit --approach ... --json` prints, as plain JSON types."""
        from foretrain.curves import json_ready
        from foretrain.laws._saved import estimate_to_json

        return {
            "approach": self.approach,
            "exponents": {name: estimate_to_json(e) for name, e in self.exponents.items()},
            "coefficient": {name: estimate_to_json(e) for name, e in self.coefficients.items()},
            "budgets": [
                {n: None if isinstance(v, float) and math.isnan(v) else json_ready(v) for n, v in vars(b).items()}
                for b in self.budgets
            ],
            "level": self.level,
            "warnings": list(self.warnings),
        }


def allocation(
    approach: str,
    budgets: Sequence[Budget],
    log_flops: Float[np.ndarray, " budgets"],
    log_best: Float[np.ndarray, "fits 2 budgets"],
    level: float,
    warnings: Sequence[str],
    weights: Float[np.ndarray, "fits budgets"] | None = None,
) -> Allocation:
    """The lines through best sizes and data, for the estimate and every resample.

    Args:
        approach: Its name.
        budgets: What is shown.
        log_flops: Logarithm of every budget.
        log_best: Logarithms of the best size and its data; NaN where there is none.
        level: Probability that intervals are meant to cover.
        warnings: What is known so far.
        weights: How often every budget counts in each of them; once by default.

    Raises:
        InvalidInput: Fewer than two budgets have a best size.
    """
    found = int(np.isfinite(log_best[0, 0]).sum())
    if found < 2:
        reasons = dict.fromkeys(b.status for b in budgets if b.status != "ok")
        raise InvalidInput(
            f"{approach}: {found} of {len(budgets)} budgets have a best size, and a line needs two; {'; '.join(reasons) or 'there are no others'}. "
            "Add sizes on both sides of the best ones, at several budgets."
        )
    lines = line_of(log_flops, log_best, None if weights is None else weights[:, None])
    said = list(warnings)
    if found < _FEW:
        said.append(
            f"{approach}: {found} budgets only; whether the best size is a power of compute cannot be seen from so few."
        )
    unknown = float(np.mean(~np.isfinite(lines[1:, 0, 1]))) if len(lines) > 1 else 0.0
    if unknown > 0.01:
        said.append(
            f"{approach}: {100 * unknown:.2g} % of the resamples have no line; intervals are those of the others."
        )
    with np.errstate(over="ignore"):
        pairs = {"params": lines[:, 0], "tokens": lines[:, 1]}
        exponents = {n: estimate(float(v[0, 1]), v[1:, 1], level) for n, v in pairs.items()}
        coefficients = {n: estimate(float(np.exp(v[0, 0])), np.exp(v[1:, 0]), level) for n, v in pairs.items()}
    return Allocation(approach, exponents, coefficients, tuple(budgets), level, lines, tuple(dict.fromkeys(said)))


def line_of(
    x: Float[np.ndarray, " points"],
    y: Float[np.ndarray, "... points"],
    weights: Float[np.ndarray, "... points"] | None = None,
) -> Float[np.ndarray, "... 2"]:
    """Intercept and slope of the least-squares line through the points that are known; NaN where fewer than two are.

    Args:
        x: Abscissae.
        y: Ordinates; NaN is unknown.
        weights: How often every point counts; once by default.
    """
    known = np.isfinite(y)
    w = np.where(known, 1.0 if weights is None else weights, 0.0)
    count = np.sum(w, axis=-1)
    filled = np.where(known, y, 0.0)
    with np.errstate(all="ignore"):
        mean_x, mean_y = np.sum(w * x, axis=-1) / count, np.sum(w * filled, axis=-1) / count
        dx, dy = x - mean_x[..., None], filled - mean_y[..., None]
        across = np.sum(w * dx**2, axis=-1)
        slope = np.where(across > 1e-12 * count, np.sum(w * dx * dy, axis=-1) / across, np.nan)
    return np.stack([mean_y - slope * mean_x, slope], axis=-1)
