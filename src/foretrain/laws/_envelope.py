r"""The envelope of training curves: which size is lowest at every compute, and the power of compute by which it grows.

The first approach of arXiv 2203.15556. Every run is a curve of loss over $C=6ND$; at each $C$ the lowest curve gives $N_{\mathrm{opt}}$ and
$D_{\mathrm{opt}}$ (PL.14), which lie on lines (PL.13). Curves of a learning rate that decays with a horizon of its own are not comparable before
their end: runs of constant rate are, and others bend the exponent.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain.errors import InvalidInput
from foretrain.laws._allocation import Allocation, Budget, allocation
from foretrain.laws._planner import FLOPS_PER_TOKEN
from foretrain.laws._runs import Runs

_GRID = 256  # budgets, equally spaced in ln C
_SHOWN = 16  # of them that a result lists
_TOGETHER = 2_000_000  # numbers of one block of resamples


def envelope(
    runs: Runs | Mapping[str, Any],
    *,
    group: str | None = None,
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Allocation:
    r"""How the best size and data grow with compute, from the lower envelope of training curves (PL.14), (PL.13).

    Curves are interpolated in $\ln L$ over $\ln C$, never extended. A compute counts where the lowest curve is neither that of the
    smallest nor that of the largest size that reaches it. Intervals come from runs drawn with replacement.

    Args:
        runs: A table with `params`, `tokens` and `loss`, many rows for each run.
        group: Column that names the runs; `"run"` by default, else rows of one size are one run.
        bootstrap: Resamples; 0 leaves intervals out.
        level: Probability that intervals are meant to cover.
        seed: Of the resamples.

    Raises:
        InvalidInput: Columns are missing or cannot be used, fewer than three runs have a curve, or no compute has a best size.

    Example:
        >>> import numpy as np
        >>> from foretrain.laws import envelope
        >>> params = np.repeat(np.geomspace(1e6, 1e9, 25), 60)
        >>> tokens = np.tile(np.geomspace(1e6, 1e12, 60), 25)
        >>> loss = 1.8 + 400 / params**0.34 + 400 / tokens**0.34
        >>> found = envelope({"params": params, "tokens": tokens, "loss": loss}, bootstrap=0)
        >>> round(found.exponents["params"].value, 2)
        0.5
    """
    table = runs if isinstance(runs, Runs) else Runs.from_columns(runs)
    params, tokens, loss = table.numbers("params", "tokens", "loss").T
    name = group or ("run" if "run" in table.columns else "params")
    runs_of_rows = np.unique(table[name], return_inverse=True)[1]
    curves = [_curve(params, tokens, loss, np.flatnonzero(runs_of_rows == i)) for i in range(runs_of_rows.max() + 1)]
    curves = [c for c in curves if c is not None]
    if len(curves) < 3:
        raise InvalidInput(
            f"envelope: {len(curves)} run{'' if len(curves) == 1 else 's'} with two rows or more, by column {name}; three or more curves are needed. "
            "Say which column names the runs (group), or take isoflop for tables of final losses."
        )
    sizes = np.array([size for size, *_ in curves])
    starts, ends = (np.sort([c[2][end] for c in curves]) for end in (0, -1))
    grid = np.linspace(starts[1], ends[-2], _GRID)  # where two curves are there at least
    losses = np.stack([np.interp(grid, x, y, left=np.inf, right=np.inf) for _, _, x, y in curves])
    log_tokens = np.stack([np.interp(grid, x, d) for _, d, x, _ in curves])
    rng = np.random.default_rng(seed)
    present = np.ones((bootstrap + 1, len(curves)), bool)
    present[1:] = rng.multinomial(len(curves), np.full(len(curves), 1.0 / len(curves)), size=bootstrap) > 0
    best, lowest = _lowest(np.log(sizes), losses, log_tokens, present)
    budgets = _shown(grid, best[0], lowest, losses)
    warnings = list(table.warnings())
    lost = float(np.mean(~np.isfinite(best[0, 0])))
    if lost > 0:
        warnings.append(
            f"envelope: at {100 * lost:.2g} % of the computes from {np.exp(grid[0]):.3g} to {np.exp(grid[-1]):.3g} the lowest curve is that of the smallest or "
            "the largest size there; they are left out."
        )
    return allocation("envelope", budgets, grid, best, level, warnings)


def _curve(params: np.ndarray, tokens: np.ndarray, loss: np.ndarray, rows: np.ndarray) -> tuple[Any, ...] | None:
    """Size, and over ln C the logarithms of tokens and loss of one run, in the order of its training; rows of one place are averaged."""
    x = np.log(FLOPS_PER_TOKEN * params[rows] * tokens[rows])
    places, index = np.unique(x, return_inverse=True)
    if len(places) < 2:
        return None
    mean = [np.bincount(index, np.log(v[rows])) / np.bincount(index) for v in (tokens, loss)]
    return float(np.exp(np.mean(np.log(params[rows])))), mean[0], places, mean[1]


def _lowest(
    log_sizes: Float[np.ndarray, " curves"],
    losses: Float[np.ndarray, "curves grid"],
    log_tokens: Float[np.ndarray, "curves grid"],
    present: np.ndarray,
) -> tuple[Float[np.ndarray, "fits 2 grid"], Float[np.ndarray, " grid"]]:
    """Size and data of the lowest curve at every compute, for every choice of curves; NaN where it is the smallest or the largest."""
    columns = np.arange(losses.shape[1])
    best = np.empty((len(present), 2, len(columns)))
    there = np.isfinite(losses)
    step = max(1, _TOGETHER // losses.size)
    lowest = np.argmin(losses, axis=0)
    for first in range(0, len(present), step):
        some = present[first : first + step, :, None]
        winner = np.argmin(np.where(some, losses, np.inf), axis=1)
        reach = some & there
        size = log_sizes[winner]
        inside = size > np.where(reach, log_sizes[:, None], np.inf).min(axis=1)
        inside &= size < np.where(reach, log_sizes[:, None], -np.inf).max(axis=1)
        best[first : first + step, 0] = np.where(inside, size, np.nan)
        best[first : first + step, 1] = np.where(inside, log_tokens[winner, columns], np.nan)
    return best, losses[lowest, columns]


def _shown(grid: np.ndarray, best: np.ndarray, lowest: np.ndarray, losses: np.ndarray) -> list[Budget]:
    found = []
    for i in np.unique(np.linspace(0, len(grid) - 1, _SHOWN).round().astype(int)):
        known = np.isfinite(best[0, i])
        flops, params, tokens, loss = (float(np.exp(v)) for v in (grid[i], best[0, i], best[1, i], lowest[i]))
        reached = int(np.isfinite(losses[:, i]).sum())
        status = "ok" if known else "lowest curve of the smallest or largest size"
        found.append(Budget(flops, params, tokens, loss, reached, status))
    return found
