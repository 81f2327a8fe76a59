r"""Statistics of a sweep over sizes: resampled seeds, the slope of the optimum, the loss that a small optimum costs."""

import dataclasses
import itertools
import math

import numpy as np
from jaxtyping import Float

from foretrain.studies._transfer_optimum import LOCATED, Edge, Vertex, common_skew, find_edge, find_vertex
from foretrain.studies._transfer_shape import Shift, common_shift

# Up to this many seeds the bootstrap is summed exactly over all multisets; beyond, so many are drawn.
_EXACT_SEEDS, _DRAWS = 4, 100
_TINY = 1e-30


@dataclasses.dataclass(frozen=True, eq=False)
class Resampled:
    """Ways to draw the seeds again, with replacement.

    Args:
        weights: Share of every seed in every draw.
        chance: Probability of every draw.
        inflation: $n/(n-1)$, which makes the bootstrap's variance unbiased; 0 for one seed, which says nothing.
    """

    weights: Float[np.ndarray, "draws seeds"]
    chance: Float[np.ndarray, " draws"]
    inflation: float

    def covariance(self, values: Float[np.ndarray, "draws *quantities"]) -> Float[np.ndarray, "..."]:
        """Covariance matrix that the seeds give to some quantities, from their value in every draw."""
        flat = values.reshape(len(values), -1)
        mean = self.chance @ flat
        apart = flat - mean[None, :]
        return self.inflation * (apart * self.chance[:, None]).T @ apart


def resample(seeds: int) -> Resampled:
    """Draws of `seeds` seeds: all of them, weighted, for up to four seeds, else 100 at random, the same in every run.

    Args:
        seeds: How many there are.
    """
    if seeds == 1:
        return Resampled(np.ones((1, 1)), np.ones(1), 0.0)
    if seeds <= _EXACT_SEEDS:
        drawn = list(itertools.combinations_with_replacement(range(seeds), seeds))
        counts = np.array([np.bincount(d, minlength=seeds) for d in drawn], dtype=np.float64)
        ways = math.factorial(seeds) / np.prod(np.vectorize(math.factorial)(counts.astype(int)), axis=1)
        return Resampled(counts / seeds, ways / float(seeds) ** seeds, seeds / (seeds - 1))
    rows = np.random.default_rng(0).integers(seeds, size=(_DRAWS, seeds))
    counts = np.array([np.bincount(row, minlength=seeds) for row in rows], dtype=np.float64)
    return Resampled(counts / seeds, np.full(_DRAWS, 1 / _DRAWS), seeds / (seeds - 1))


def log_means(
    losses: Float[np.ndarray, "sizes swept seeds"], weights: Float[np.ndarray, "draws seeds"]
) -> Float[np.ndarray, "draws sizes swept"]:
    """Logarithm of the mean loss over seeds, in every draw; `inf` where a seed of the draw diverged.

    Args:
        losses: Losses; not finite where a run diverged.
        weights: Share of every seed.
    """
    finite = np.isfinite(losses)
    means = np.einsum("ds,aks->dak", weights, np.where(finite, losses, 0.0))
    lost = np.einsum("ds,aks->dak", weights, (~finite).astype(np.float64)) > 0
    return np.where(lost, np.inf, np.log(np.maximum(means, _TINY)))


@dataclasses.dataclass(frozen=True, eq=False)
class Sweep:
    """The optima of one sweep at all sizes.

    Args:
        sizes: The sizes, ascending.
        x: Logarithms of the swept values, ascending.
        y: Logarithms of mean losses.
        vertices: The optimum at every size.
        edges: The edge of stability at every size, where the grid reaches it.
        places: Logarithm of the optimum in every draw of the seeds.
        curves: Logarithms of mean losses in every draw.
        resampled: The draws.
        fitted: Variance of every place from the fit itself.
        shift: By how much all places were moved alike, for what the parabola misses; its error does not touch the drift.
        freedom: Degrees of freedom behind `fitted`.
        by_seed: Logarithm of the optimum of every single seed; NaN where it has no bounds on both sides.
    """

    sizes: Float[np.ndarray, " sizes"]
    x: Float[np.ndarray, " swept"]
    y: Float[np.ndarray, "sizes swept"]
    vertices: tuple[Vertex, ...]
    edges: tuple[Edge | None, ...]
    places: Float[np.ndarray, "draws sizes"]
    curves: Float[np.ndarray, "draws sizes swept"]
    resampled: Resampled
    fitted: Float[np.ndarray, " sizes"]
    shift: Shift | None
    freedom: float
    by_seed: Float[np.ndarray, "sizes seeds"]

    @property
    def located(self) -> np.ndarray:
        """Which sizes have an optimum with bounds on both sides."""
        return np.array([v.status in LOCATED for v in self.vertices])

    @property
    def seed_variance(self) -> Float[np.ndarray, " sizes"]:
        """Variance of every place from the choice of seeds."""
        return np.diag(self.resampled.covariance(np.nan_to_num(self.places)))

    def variance_parts(self, at: int) -> list[tuple[float, float]]:
        """What the error of one place is made of, variances with degrees of freedom: seeds, fit, common shift."""
        parts = [(float(self.seed_variance[at]), self.by_seed.shape[1] - 1.0), (float(self.fitted[at]), self.freedom)]
        return parts if self.shift is None else [*parts, (self.shift.variance, self.shift.freedom)]

    def interval(self, at: int) -> tuple[float, float]:
        """95 % interval of one place: Student's t with the degrees of freedom of both parts of the error."""
        vertex = self.vertices[at]
        if not vertex.located:
            return vertex.low, vertex.high
        parts = self.variance_parts(at)
        reach = student(parts) * math.sqrt(sum(variance for variance, _ in parts))
        return max(vertex.place - reach, vertex.low), min(vertex.place + reach, vertex.high)


def analyse(
    sizes: Float[np.ndarray, " sizes"],
    x: Float[np.ndarray, " swept"],
    losses: Float[np.ndarray, "sizes swept seeds"],
) -> Sweep:
    """Optima, edges and their errors for one sweep.

    Args:
        sizes: The sizes, ascending.
        x: Logarithms of the swept values, ascending.
        losses: Losses; not finite where a run diverged.
    """
    seeds = losses.shape[2]
    resampled = resample(seeds)
    y = log_means(losses, np.full((1, seeds), 1 / seeds))[0]
    curves = log_means(losses, resampled.weights)
    skew, _ = common_skew(x, y)
    plain = [find_vertex(x, row, skew=skew) for row in y]
    shift = common_shift(x, y, np.array([v.place for v in plain]), [v.status for v in plain])
    moved = shift.value if shift is not None else 0.0

    def vertex(row: Float[np.ndarray, " swept"]) -> Vertex:
        return find_vertex(x, row, skew=skew, shift=moved)

    vertices = tuple(vertex(row) for row in y)
    places = np.array([[vertex(row).place for row in draw] for draw in curves])
    found = [[vertex(row) for row in draw] for draw in log_means(losses, np.eye(seeds))]
    by_seed = np.array([[v.place if v.located else math.nan for v in row] for row in found]).T
    # A draw of seeds that all diverged at a size that others survive: nothing is known of its place there.
    places = np.where(np.isfinite(places), places, np.array([v.place for v in vertices])[None, :])
    # All sizes have the same shape of curve to be fitted: the scatter about the parabola is pooled.
    known = [(v.residual, v.freedom) for v in vertices if v.freedom > 0]
    freedom = sum(f for _, f in known) - (1.0 if skew else 0.0)
    pooled = sum(r * f for r, f in known) / freedom if freedom > 0 else 0.0
    fitted = np.array([pooled * v.geometry + v.gap + _flat(v, x) for v in vertices])
    edges = tuple(find_edge(x, np.isfinite(row), v.place) for row, v in zip(y, vertices, strict=True))
    return Sweep(sizes, x, y, vertices, edges, places, curves, resampled, fitted, shift, freedom, by_seed)


def _flat(vertex: Vertex, x: Float[np.ndarray, " swept"]) -> float:
    return 0.0 if vertex.located else float(x[-1] - x[0]) ** 2 / 12


def student(parts: list[tuple[float, float]]) -> float:
    """The 97.5 % point of Student's t for a variance that is a sum of parts, by Welch and Satterthwaite.

    Args:
        parts: Variance and degrees of freedom of every part.
    """
    from scipy.stats import t

    total = sum(v for v, _ in parts)
    below = sum(v**2 / max(f, 1.0) for v, f in parts if v > 0)
    return 1.96 if below == 0 else float(t.ppf(0.975, total**2 / below))


@dataclasses.dataclass(frozen=True)
class Drift:
    """Slope of the logarithm of something best against the logarithm of size, (PA.7).

    Args:
        exponent: The slope.
        stderr: Its standard error.
        intercept: Logarithm of the value at the geometric mean size.
        centre: Logarithm of that size.
        stderr_intercept: Standard error of `intercept`.
        sizes: How many sizes it rests on.
    """

    exponent: float
    stderr: float
    intercept: float
    centre: float
    stderr_intercept: float
    sizes: int


def slope(
    log_sizes: Float[np.ndarray, " sizes"],
    places: Float[np.ndarray, " sizes"],
    seed_covariance: Float[np.ndarray, "sizes sizes"],
    fitted: Float[np.ndarray, " sizes"],
) -> Drift:
    """Weighted least squares of places against log sizes, with an error that knows that sizes share their seeds.

    Weights are half pooled, 1 / (own variance + mean variance): variances from a few seeds are too noisy to be trusted alone.
    The squared standard error is that of the seeds (the covariance over sizes included) plus that of the fits, or what the
    scatter about the line says, whichever is larger.

    Args:
        log_sizes: Logarithms of sizes.
        places: Logarithms of optima.
        seed_covariance: What the seeds give, between sizes too.
        fitted: What each fit gives, independently.
    """
    variance = np.diag(seed_covariance) + fitted
    weights = 1 / (variance + max(float(variance.mean()), 1e-18))
    weights = weights / weights.sum()
    centre = float(weights @ log_sizes)
    apart = log_sizes - centre
    spread = float(weights @ apart**2)
    along = weights * apart / spread
    exponent, intercept = float(along @ places), float(weights @ places)
    squared = [float(a @ seed_covariance @ a + (a**2 * fitted).sum()) for a in (along, weights)]
    if len(places) > 2:
        scatter = float(weights @ (places - intercept - exponent * apart) ** 2) / (len(places) - 2)
        squared = [max(squared[0], scatter / spread), max(squared[1], scatter)]
    return Drift(exponent, math.sqrt(squared[0]), intercept, centre, math.sqrt(squared[1]), len(places))


def drift(sweep: Sweep, *, leave_out: int = 0) -> Drift | None:
    """Drift of the optimum with size; `None` with fewer than two located optima.

    Args:
        sweep: The optima.
        leave_out: How many of the smallest sizes to leave out.
    """
    kept = np.flatnonzero(sweep.located)[leave_out:]
    if len(kept) < 2:
        return None
    covariance = sweep.resampled.covariance(sweep.places[:, kept])
    places = np.array([v.place for v in sweep.vertices])[kept]
    return slope(np.log(sweep.sizes[kept]), places, covariance, sweep.fitted[kept])


def edge_drift(sweep: Sweep) -> Drift | None:
    """Drift of the edge of stability with size; its error is the resolution of the grid."""
    kept = [i for i, edge in enumerate(sweep.edges) if edge is not None]
    if len(kept) < 2:
        return None
    edges = [edge for edge in sweep.edges if edge is not None]
    variance = np.array([edge.variance for edge in edges])
    places = np.array([edge.place for edge in edges])
    return slope(np.log(sweep.sizes[kept]), places, np.zeros((len(kept), len(kept))), variance)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What the optimum of one size costs at another, as a share of the loss.

    Args:
        value: Loss there over the loss at that size's own optimum, minus 1; `inf` if it diverges.
        low: Lower end of the 95 % interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float


def loss_cost(sweep: Sweep, from_size: int, at_size: int) -> Cost | None:
    """Loss that the optimum of one size loses at another, with its interval; `None` if either is not located.

    The loss between grid points is interpolated monotonically in log loss over log rate. The interval is that of the
    resampled seeds, with both optima moved by the errors of their fits.

    Args:
        sweep: The optima.
        from_size: Index of the size whose optimum is used.
        at_size: Index of the size at which it is used.
    """
    if not (sweep.located[from_size] and sweep.located[at_size]):
        return None
    places = np.array([v.place for v in sweep.vertices])
    value = _excess(sweep.x, sweep.y[at_size], places[[from_size]], places[[at_size]])[0]
    nudges = np.array([-1.5, -0.5, 0.5, 1.5])  # of a normal distribution, with these chances
    chances = np.array([0.157, 0.343, 0.343, 0.157])
    a, b = np.meshgrid(nudges, nudges)
    found, weights = [], []
    for draw, chance in enumerate(sweep.resampled.chance):
        moved = places + math.sqrt(max(sweep.resampled.inflation, 1.0)) * (sweep.places[draw] - places)
        own = moved[at_size] + a.ravel() * math.sqrt(sweep.fitted[at_size])
        other = moved[from_size] + b.ravel() * math.sqrt(sweep.fitted[from_size])
        found.append(_excess(sweep.x, sweep.curves[draw, at_size], other, own))
        weights.append(chance * np.outer(chances, chances).ravel())
    low, high = _quantiles(np.concatenate(found), np.concatenate(weights), (0.025, 0.975))
    return Cost(math.expm1(value), math.expm1(low), math.expm1(high))


def _excess(
    x: Float[np.ndarray, " swept"],
    y: Float[np.ndarray, " swept"],
    other: Float[np.ndarray, " points"],
    own: Float[np.ndarray, " points"],
) -> Float[np.ndarray, " points"]:
    """Log loss at `other` over that at `own`; `inf` where `other` is nearer to a diverged point than to a finite one."""
    from scipy.interpolate import PchipInterpolator

    finite = np.isfinite(y)
    if finite.sum() < 2:
        return np.full(other.shape, np.inf)
    between = PchipInterpolator(x[finite], y[finite])
    ends = x[finite][[0, -1]]
    nearest = np.argmin(np.abs(x[None, :] - other[:, None]), axis=1)
    excess = between(np.clip(other, *ends)) - between(np.clip(own, *ends))
    return np.where(finite[nearest], excess, np.inf)


def _quantiles(values: np.ndarray, weights: np.ndarray, at: tuple[float, ...]) -> list[float]:
    values = np.nan_to_num(values, nan=0.0, posinf=np.inf, neginf=-np.inf)
    order = np.argsort(values)
    total = np.cumsum(weights[order]) / weights.sum()
    return [float(values[order][min(int(np.searchsorted(total, q)), len(order) - 1)]) for q in at]
