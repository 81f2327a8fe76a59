r"""The best learning rate and batch size of a recipe, from grids of runs, and how they move with size and data.

The best run of a grid is a bad estimate of the best setting: it lies on the grid, and noise picks it. Near its minimum the log of the loss is a
paraboloid in the logarithms of rate and batch (SL.26); its vertex uses all runs around it, and the vertices of several grids
follow powers of size and data (SL.27).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain.errors import InvalidInput
from foretrain.laws._fit import BOOTSTRAP, LEVEL, Estimate
from foretrain.laws._runs import Runs

WINDOW = 0.01

_ROUNDS = 100  # of fitting a paraboloid and choosing the rows near its vertex
_FEWEST = 8  # rows that count; a paraboloid has six coefficients
_REACH = 2.0  # a vertex moves by at most this in one round
_OUTLIER = 1.5  # robust standard deviations, beyond which a row pulls with constant force only
_DIVERGED = 8.0  # beyond which it does not count


@dataclasses.dataclass(frozen=True, eq=False)
class Optimum:
    """The best rate and batch at one size and number of tokens.

    Args:
        at: Where: the columns that are constant in this grid, by name.
        rate: Best learning rate.
        batch: Best batch size, in the unit of its column.
        loss: Loss there.
        curvature: Second derivatives of ln(loss) with respect to (ln rate, ln batch).
        rows: How many rows of the grid count.
        trouble: Why it is not used; empty when it is.
    """

    at: Mapping[str, float]
    rate: Estimate
    batch: Estimate
    loss: float
    curvature: Float[np.ndarray, "2 2"]
    rows: int
    trouble: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class StepLaw:
    r"""How the best rate and batch move: $\ln\eta^\star$ and $\ln B^\star$ are linear in logarithms of the columns (SL.27).

    Args:
        rate: Name of the column of learning rates.
        batch: Name of the column of batch sizes.
        rate_of: Exponents of the rate by column, and `"constant"`, the logarithm of the factor.
        batch_of: The same of the batch.
        optima: The grids, in the order of their columns.
        scatter: Root mean square of what is left, of ln rate and of ln batch.
        level: Probability that intervals are meant to cover.
        samples: Coefficients of resampled tables, of rate and of batch.
        warnings: Grids that were left out, and why.
    """

    rate: str
    batch: str
    rate_of: Mapping[str, Estimate]
    batch_of: Mapping[str, Estimate]
    optima: tuple[Optimum, ...]
    scatter: tuple[float, float]
    level: float
    samples: tuple[np.ndarray, np.ndarray]
    warnings: tuple[str, ...] = ()

    def predict(self, at: Mapping[str, float]) -> dict[str, Estimate]:
        """The best rate and batch, by the names of their columns, with intervals of the law.

        Args:
            at: A number for every column that the law has.

        Raises:
            InvalidInput: A number is missing or not positive.
        """
        found = {}
        for name, terms, draws in zip(
            (self.rate, self.batch), (self.rate_of, self.batch_of), self.samples, strict=True
        ):
            columns = [c for c in terms if c != "constant"]
            for c in columns:
                if not (c in at and 0 < at[c] < math.inf):
                    raise InvalidInput(f"StepLaw.predict(at): expected {c} > 0, got {at.get(c, 'nothing')}.")
            x = np.array([1.0, *(math.log(at[c]) for c in columns)])
            value = x @ [terms["constant"].value, *(terms[c].value for c in columns)]
            found[name] = _estimate(math.exp(value), np.exp(draws @ x), self.level)
        return found

    def to_json(self) -> dict[str, Any]:
        """Exponents with intervals, and every grid with its optimum, as plain JSON types; ends of intervals are `None` where none are known."""
        from foretrain.laws._saved import estimate_to_json

        def plain(terms: Mapping[str, Estimate]) -> dict[str, Any]:
            return {name: estimate_to_json(e) for name, e in terms.items()}

        grids = [
            {
                **o.at,
                **plain({self.rate: o.rate, self.batch: o.batch}),
                "loss": o.loss,
                "rows": o.rows,
                "status": o.trouble or "ok",
            }
            for o in self.optima
        ]
        return {
            self.rate: plain(self.rate_of),
            self.batch: plain(self.batch_of),
            "scatter": dict(zip((self.rate, self.batch), self.scatter, strict=True)),
            "grids": grids,
            "level": self.level,
            "warnings": list(self.warnings),
        }

    def excess(self, rate_factor: float = 1.0, batch_factor: float = 1.0) -> float:
        """How much larger the loss is when rate and batch are off by these factors, relative, by the median curvature of the grids.

        Args:
            rate_factor: Rate, divided by the best one.
            batch_factor: Batch, divided by the best one.
        """
        off = np.log([rate_factor, batch_factor])
        middle = np.median([o.curvature for o in self.optima if not o.trouble], axis=0)
        return float(0.5 * off @ middle @ off)


def best_hyperparameters(
    runs: Runs | Mapping[str, Any],
    *,
    rate: str = "lr",
    batch: str | None = None,
    rate_of: Sequence[str] = ("params", "tokens"),
    batch_of: Sequence[str] = ("tokens",),
    window: float = WINDOW,
    bootstrap: int = BOOTSTRAP,
    level: float = LEVEL,
    seed: int = 0,
) -> StepLaw:
    r"""How the best learning rate and batch size move with size and data (SL.27), [arXiv 2503.04715](https://arxiv.org/abs/2503.04715).

    Rows that agree in the columns of `rate_of` and `batch_of` are one grid. Each gives the vertex of a paraboloid (SL.26); grids whose vertex
    lies outside what was tried are left out, with a warning. Intervals resample grids, and runs within them.

    Args:
        runs: A table, or columns by name.
        rate: Column of (peak) learning rates.
        batch: Column of batch sizes; the first of `batch_tokens`, `batch_seqs` and `batch` that is there by default.
        rate_of: Columns on which the best rate depends.
        batch_of: Columns on which the best batch depends.
        window: Excess of the loss, relative, up to which a paraboloid is trusted.
        bootstrap: Resampled tables.
        level: Probability that intervals are meant to cover.
        seed: Of resampling.

    Raises:
        InvalidInput: Columns are missing, or too few grids have a minimum.

    Example:
        >>> import numpy as np
        >>> from foretrain.laws import best_hyperparameters
        >>> n, d, lr, b = (v.ravel() for v in np.meshgrid([1e8, 4e8], [1e9, 9e9], np.geomspace(1e-4, 1e-2, 7), np.geomspace(1e4, 1e6, 7)))
        >>> off = np.log(lr / (20 * n**-0.6 * d**0.1)), np.log(b / (2.0 * d**0.5))
        >>> loss = 2.5 * np.exp(0.01 * off[0] ** 2 + 0.008 * off[1] ** 2)
        >>> law = best_hyperparameters({"params": n, "tokens": d, "lr": lr, "batch_tokens": b, "loss": loss}, bootstrap=0)
        >>> round(law.rate_of["params"].value, 4), round(law.batch_of["tokens"].value, 4)
        (-0.6, 0.5)
    """
    runs = runs if isinstance(runs, Runs) else Runs.from_columns(runs)
    batch = batch or next((c for c in ("batch_tokens", "batch_seqs", "batch") if c in runs), "batch_tokens")
    for name, value in (("window", window), ("level", level)):
        if not 0 < value < 1:
            raise InvalidInput(f"best_hyperparameters({name}): expected a number between 0 and 1, got {value:g}.")
    columns = list(dict.fromkeys([*rate_of, *batch_of]))
    where = runs.numbers(*columns)
    table = np.log(runs.numbers(rate, batch, "loss"))
    cells, cell = np.unique(where, axis=0, return_inverse=True)
    rng = np.random.default_rng(seed)
    optima, vertices = [], []
    for i, place in enumerate(cells):
        optimum, drawn = _optimum(
            dict(zip(columns, map(float, place), strict=True)), table[cell.ravel() == i], window, bootstrap, level, rng
        )
        optima.append(optimum)
        if not optimum.trouble:
            vertices.append(drawn)
    warnings = [f"{_told(o.at)}: {o.trouble}; left out." for o in optima if o.trouble]
    used = [o for o in optima if not o.trouble]
    needed = 1 + max(len(rate_of), len(batch_of))
    laws = []
    for names, end in ((rate_of, 0), (batch_of, 1)):
        x = np.array([[1.0, *(math.log(o.at[c]) for c in names)] for o in used]).reshape(len(used), 1 + len(names))
        if len(used) < needed or np.linalg.matrix_rank(x) < x.shape[1]:
            raise InvalidInput(
                f"best_hyperparameters: {len(used)} of {len(optima)} grids have a minimum, too few or too alike to tell how the best "
                f"{(rate, batch)[end]} depends on {', '.join(names)}. {' '.join(warnings[:3])} Add grids, or take fewer columns with "
                f"{('rate_of', 'batch_of')[end]}."
            )
        y = np.log([(o.rate, o.batch)[end].value for o in used])
        laws.append(_line(names, x, y, np.array([v[:, end] for v in vertices]), level, rng))
    (of_rate, left_rate, draws_rate), (of_batch, left_batch, draws_batch) = laws
    return StepLaw(
        rate,
        batch,
        of_rate,
        of_batch,
        tuple(optima),
        (left_rate, left_batch),
        level,
        (draws_rate, draws_batch),
        tuple(warnings),
    )


def _optimum(
    at: Mapping[str, float],
    table: Float[np.ndarray, "rows 3"],
    window: float,
    bootstrap: int,
    level: float,
    rng: np.random.Generator,
) -> tuple[Optimum, np.ndarray]:
    """The vertex of the paraboloid around the smallest loss, and those of resampled rows."""
    x, y = table[:, :2], table[:, 2]
    vertex, height, curvature, weights, robust = _paraboloid(x, y, window)
    counted = int(np.sum(weights > 0.1))
    inside = np.all((vertex >= x.min(axis=0)) & (vertex <= x.max(axis=0)))
    trouble = ""
    if np.linalg.eigvalsh(curvature)[0] <= 0:
        trouble = "the loss has no minimum in rate and batch"
    elif not inside:
        trouble = "the minimum lies outside the rates and batches that were tried"
    elif counted < _FEWEST or min(len(np.unique(x[weights > 0.1, i])) for i in (0, 1)) < 3:
        trouble = f"{counted} runs near the minimum; at least {_FEWEST} are needed, at three rates and three batches"
    drawn = np.repeat(vertex[None], bootstrap, axis=0)
    if not trouble and bootstrap:
        counts = rng.multinomial(len(y), np.full(len(y), 1 / len(y)), size=bootstrap)
        drawn = _vertices(x - vertex, y, counts * robust) + vertex
    ends = [_estimate(math.exp(vertex[i]), np.exp(drawn[:, i]), level) for i in (0, 1)]
    return Optimum(at, ends[0], ends[1], math.exp(height), curvature, counted, trouble), drawn


def _features(x: Float[np.ndarray, "rows 2"]) -> Float[np.ndarray, "rows 6"]:
    u, v = x.T
    return np.stack([np.ones_like(u), u, v, 0.5 * u * u, u * v, 0.5 * v * v], axis=1)


def _paraboloid(
    x: Float[np.ndarray, "rows 2"], y: Float[np.ndarray, " rows"], window: float
) -> tuple[np.ndarray, float, np.ndarray, np.ndarray, np.ndarray]:
    """Vertex, height, curvature and weights: rows count by how little they exceed the paraboloid's own minimum, not by their losses.

    The last are the weights with those of outliers lowered.
    """
    vertex = x[np.argmin(y)]
    # A first window of rows with losses near the smallest; the paraboloid then chooses its own.
    weights = np.exp(-(((y - y.min()) / (2 * window)) ** 2))
    curvature, height, robust = np.eye(2), float(y.min()), weights
    for turn in range(_ROUNDS):
        features = _features(x - vertex)
        robust = weights
        for kept in (math.inf, math.inf, math.inf, _DIVERGED, _DIVERGED):
            root = np.sqrt(robust)[:, None]
            solved = np.linalg.lstsq(features * root, y * root[:, 0], rcond=None)[0]
            size = np.abs(y - features @ solved)
            spread = 1.4826 * np.median(size[weights > 0.1]) if np.any(weights > 0.1) else 0.0
            if spread > 0:
                robust = weights * np.minimum(1.0, _OUTLIER * spread / np.maximum(size, 1e-300))
                robust = np.where(size > kept * spread, 0.0, robust)
        curvature, height = np.array([[solved[3], solved[4]], [solved[4], solved[5]]]), float(solved[0])
        if np.linalg.eigvalsh(curvature)[0] <= 0:
            break
        step = np.clip(-np.linalg.solve(curvature, solved[1:3]), -_REACH, _REACH)
        vertex = vertex + step
        away = x - vertex
        excess = 0.5 * np.einsum("ri,ij,rj->r", away, curvature, away)
        new = np.exp(-((excess / window) ** 2))
        if turn and np.max(np.abs(step)) < 1e-9 and np.max(np.abs(new - weights)) < 1e-9:
            break
        weights = 0.5 * (weights + new)
    return vertex, height, curvature, weights, robust


def _vertices(
    x: Float[np.ndarray, "rows 2"], y: Float[np.ndarray, " rows"], weights: Float[np.ndarray, "draws rows"]
) -> Float[np.ndarray, "draws 2"]:
    """Vertices of the paraboloids of many weightings; those without a minimum are NaN."""
    features = _features(x)
    normal = np.einsum("dr,ri,rj->dij", weights, features, features, optimize=True)
    right = np.einsum("dr,ri->di", weights * y, features)
    scale = np.sqrt(np.maximum(np.einsum("dii->di", normal), 1e-300))
    normal /= scale[:, :, None] * scale[:, None, :]
    normal[:, range(6), range(6)] += 1e-12  # a draw with too few different rows is found below
    solved = np.linalg.solve(normal, (right / scale)[:, :, None])[:, :, 0] / scale
    a, b, c = solved[:, 3], solved[:, 4], solved[:, 5]
    determinant = a * c - b * b
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = -np.stack([c * solved[:, 1] - b * solved[:, 2], a * solved[:, 2] - b * solved[:, 1]], axis=1)
        vertex /= determinant[:, None]
    vertex[(a <= 0) | (determinant <= 0) | (np.max(np.abs(vertex), axis=1) > _REACH)] = np.nan
    return vertex


def _line(
    names: Sequence[str],
    x: Float[np.ndarray, "grids terms"],
    y: Float[np.ndarray, " grids"],
    drawn: Float[np.ndarray, "grids draws"],
    level: float,
    rng: np.random.Generator,
) -> tuple[dict[str, Estimate], float, np.ndarray]:
    """Coefficients of a regression with intervals from resampled grids, each with a resampled vertex."""
    centre = x.mean(axis=0) * (np.arange(x.shape[1]) > 0)
    x = x - centre  # well scaled; the constant is moved back below
    solved = np.linalg.lstsq(x, y, rcond=None)[0]
    left = y - x @ solved
    samples = []
    for draw in drawn.T:
        grids = rng.integers(len(y), size=len(y))
        grids = grids[np.isfinite(draw[grids])]
        if len(grids) >= x.shape[1] and np.linalg.matrix_rank(x[grids]) == x.shape[1]:
            samples.append(np.linalg.lstsq(x[grids], draw[grids], rcond=None)[0])
    draws = np.array(samples).reshape(-1, x.shape[1])
    solved[0] -= centre @ solved
    draws[:, 0] -= draws @ centre
    found = {
        n: _estimate(float(v), draws[:, i], level)
        for i, (n, v) in enumerate(zip(["constant", *names], solved, strict=True))
    }
    spare = max(1, len(y) - x.shape[1])
    return found, float(np.sqrt(left @ left / spare)), draws


def _estimate(value: float, samples: np.ndarray, level: float) -> Estimate:
    samples = samples[np.isfinite(samples)]
    if len(samples) == 0:
        return Estimate(value, math.nan, math.nan)
    low, high = np.quantile(samples, [0.5 - level / 2, 0.5 + level / 2])
    return Estimate(value, float(min(low, value)), float(max(high, value)))


def _told(at: Mapping[str, float]) -> str:
    return ", ".join(f"{name} = {value:.4g}" for name, value in at.items())
