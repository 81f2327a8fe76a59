"""`measure_spectrum`: from a kernel and data to the spectrum that the theory takes."""

import math
import warnings

import numpy as np
import scipy.stats
from jaxtyping import Float

from foretrain.errors import ForetrainWarning, InvalidInput
from foretrain.kernels._deconvolution import Fit, deconvolve
from foretrain.kernels._geometry import check_inputs
from foretrain.kernels._gram import Kernel, check_memory, free_memory
from foretrain.kernels._measured import Estimate, MeasuredSpectrum, jackknife_error
from foretrain.kernels._resolvent import Moments, Sample
from foretrain.tasks import Spectrum

_LEAST_POINTS = 50
_CUTOFFS = 48
# Fresh rows per row of the Gram matrix: beyond this the Gram matrix itself limits the accuracy.
_FRESH_FACTOR = 4
# Share of the points that counts as resolved modes; beyond it F is a small difference of large numbers.
_RESOLVED_SHARE = 0.5


def measure_spectrum(
    kernel: Kernel,
    inputs: Float[np.ndarray, "rows features"],
    targets: Float[np.ndarray, "rows outputs"] | Float[np.ndarray, " rows"],
    *,
    seed: int = 0,
    head: int | None = None,
    max_points: int = 3000,
    groups: int = 6,
    memory: float | None = None,
) -> MeasuredSpectrum:
    r"""The eigenvalues of a kernel over the population of the inputs, and the target's power in its modes.

    The population is the one that the rows are drawn from, for *fresh* points: not these rows again, and not a test file
    with another distribution. Rows should be independent; standardize inputs first (centred inputs agree best with finite
    networks, because uncentred features are far from Gaussian).

    How (`docs/theory/measuring-spectra.md`, (MS.9) to (MS.20)): one Gram matrix of up to `max_points` rows gives the counts of
    modes, by inverting the deterministic equivalent of its resolvent; residuals on points left out (every row of the Gram
    matrix in turn, and the rows beyond it) give the power and the noise. So neither has the bias of the Gram matrix's own
    coefficients, which explain any target completely. The first modes are single, the tail is in bins, extended below the
    resolved modes by the fitted power laws with the exact trace and total power. No network is trained and no learning
    curve of one enters.

    Args:
        kernel: `NNGP`, `NTK` or any object with `kernel(x, y)` and `kernel.diagonal(x)`.
        inputs: One row a point, at least 50.
        targets: One row a point; several columns are several outputs, whose powers add up. Not centred here: a constant
            part is power in the kernel's constant mode.
        seed: Of the choice of rows and of the groups of the jackknife.
        head: Number of single modes; by default as many as the held-out points show clearly, at most a twentieth of the points.
        max_points: Most rows in the Gram matrix; cost grows as its cube (3000: about half a minute on two cores).
            Rows beyond, up to four times as many, sharpen the power and the noise.
        groups: Number of groups of rows that are left out in turn for the intervals, at least 3.
        memory: Budget in bytes; half of the free memory by default.

    Returns:
        A `MeasuredSpectrum`; every interval is a 95 % interval (jackknife over groups of rows; the head's cut-off is varied by
        a factor of two each way).

    Raises:
        InvalidInput: NaN or infinite values, mismatched or too few rows, constant targets, a kernel that is not positive
            semi-definite.
        TooLarge: The Gram matrix exceeds the budget.

    Warns:
        ForetrainWarning: Duplicate rows (they are tested on their own copies, which hides noise).

    Example:
        >>> import numpy as np
        >>> from foretrain.kernels import NNGP, measure_spectrum
        >>> x = np.random.default_rng(0).normal(size=(300, 5))
        >>> measured = measure_spectrum(NNGP(), x, np.sign(x[:, 0]))
        >>> measured.noise.value < 0.5 * measured.total_power
        True
    """
    who = "measure_spectrum"
    x = check_inputs(inputs, who, "inputs")
    y = _check_targets(targets, len(x))
    _check_options(seed, head, max_points, groups)
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(x))
    points = min(len(x), max_points)
    chosen, rest = order[:points], order[points : points + _FRESH_FACTOR * points]
    _warn_of_duplicates(x[np.concatenate([chosen, rest])])
    budget = 0.5 * free_memory() if memory is None else float(memory)
    check_memory(4 * points + len(rest), points, budget, who=who)

    gram = _symmetric(kernel(x[chosen]), points)
    fresh_gram = kernel(x[rest], x[chosen]) if len(rest) else None
    diagonal = np.concatenate([np.diagonal(gram), kernel.diagonal(x[rest]) if len(rest) else np.zeros(0)])
    pool = _Pool(
        gram, fresh_gram, diagonal, y[chosen], y[rest], np.arange(points) % groups, np.arange(len(rest)) % groups
    )
    return _estimate(pool, groups, head, len(x), seed)


class _Pool:
    """The rows of one measurement: Gram matrix, fresh block, targets, and the group of every row."""

    def __init__(
        self,
        gram: Float[np.ndarray, "rows rows"],
        fresh: Float[np.ndarray, "fresh rows"] | None,
        diagonal: Float[np.ndarray, " all"],
        targets: Float[np.ndarray, "rows outputs"],
        fresh_targets: Float[np.ndarray, "fresh outputs"],
        group: np.ndarray,
        fresh_group: np.ndarray,
    ):
        self.gram, self.fresh, self.diagonal = gram, fresh, diagonal
        self.targets, self.fresh_targets = targets, fresh_targets
        self.group, self.fresh_group = group, fresh_group

    def decompose(self, left_out: int | None) -> tuple[Sample, np.ndarray | None, np.ndarray]:
        """The sample without a group, its projections of the kept fresh rows, and the kept fresh rows' mask."""
        kept = np.ones(len(self.group), bool) if left_out is None else self.group != left_out
        kept_fresh = np.ones(len(self.fresh_group), bool) if left_out is None else self.fresh_group != left_out
        sample = Sample(self.gram[np.ix_(kept, kept)], self.targets[kept])
        projected = None
        if self.fresh is not None:
            projected = self.fresh[np.ix_(kept_fresh, kept)] @ sample.vectors / sample.rows
        return sample, projected, kept_fresh

    def totals(self, left_out: int | None) -> tuple[float, float]:
        """Mean of K(x, x) and of y^2 without a group."""
        group = np.concatenate([self.group, self.fresh_group])
        kept = np.ones(len(group), bool) if left_out is None else group != left_out
        square = np.sum(np.concatenate([self.targets, self.fresh_targets]) ** 2, axis=1)
        return float(self.diagonal[kept].mean()), float(square[kept].mean())


class _View:
    """What one fit needs, for the whole pool or with a group left out."""

    def __init__(self, pool: _Pool, left_out: int | None, kappa: Float[np.ndarray, " cutoffs"] | None):
        self.sample, projected, kept = pool.decompose(left_out)
        self.trace, self.total = pool.totals(left_out)
        self.kappa = _cutoffs(self.sample, pool, 1.0) if kappa is None else kappa
        self.moments: Moments = self.sample.moments(self.kappa, projected, pool.fresh_targets[kept])
        self.projected, self.kept_fresh = projected, kept


def _estimate(pool: _Pool, groups: int, head: int | None, rows: int, seed: int) -> MeasuredSpectrum:
    """Fits to everything and to every jackknife replicate, and the numbers with their intervals."""
    full = _View(pool, None, None)
    sample = full.sample
    points, most = sample.rows, max(sample.rows // 20, 8)
    resolved = int(min(_rank(sample), round(_RESOLVED_SHARE * points * (1.0 - 1.0 / groups))))
    count = min(points, max(4 * most, 2 * (head or 0)))
    shares, norms, views = [], [], []
    for group in range(groups):
        view = _View(pool, group, full.kappa)
        cross, norm = _held_out(pool, view, group, count)
        shares.append(cross)
        norms.append(norm)
        view.projected = None
        views.append(view)
    cross, norm = np.mean(shares, axis=0), np.mean(norms, axis=0)
    error = np.std(shares, axis=0, ddof=1) / math.sqrt(groups)
    if head is None:
        head = _clear_modes(cross, error, most)
    head = int(min(head, resolved))
    first = min(max(10, resolved // 30), max(resolved // 4, 1))
    fit_range = (first, max(resolved, first + 1))

    def fit(view: _View, cut: int, power: np.ndarray) -> Fit:
        # One mode's squared coefficient is known no better than chance allows, nor than its eigenvector is resolved.
        chance = np.sqrt(np.abs(power[:cut]) * view.total * 2.0 / view.sample.rows) + view.total / view.sample.rows
        blur = np.abs(power[:cut]) * 2.0 * np.arange(1, cut + 1) / view.sample.rows
        eigenvalues = np.sort(view.sample.population_eigenvalues(cut))[::-1]
        return deconvolve(
            view.kappa,
            view.moments,
            eigenvalues,
            power[:cut],
            np.hypot(chance, blur),
            view.trace,
            view.total,
            fit_range,
        )

    best = fit(full, head, cross)
    replicates = [
        fit(view, head, (groups * cross - share) / (groups - 1)) for view, share in zip(views, shares, strict=True)
    ]
    others = [fit(full, cut, cross) for cut in {max(head // 2, 1), min(2 * head, count, resolved)} - {head}]

    def estimate(name: str, low: float = -np.inf, high: float = np.inf) -> Estimate:
        value, varied = _number(best, name, full.kappa), [_number(other, name, full.kappa) for other in others]
        sampling = float(jackknife_error(np.array([_number(r, name, full.kappa) for r in replicates])))
        cut = max((abs(v - value) for v in varied), default=0.0)
        reach = math.hypot(float(scipy.stats.t.ppf(0.975, groups - 1)) * sampling, cut)
        return Estimate(value, max(value - reach, low), min(value + reach, high))

    return MeasuredSpectrum(
        spectrum=_spectrum(best),
        noise=estimate("noise", 0.0, full.total),
        unresolved=estimate("unresolved", 0.0, full.total),
        capacity=estimate("capacity", 0.0),
        source=estimate("source"),
        trace=full.trace,
        total_power=full.total,
        head=head,
        fit_range=fit_range,
        points=points,
        fresh_points=len(pool.fresh_group),
        rows=rows,
        seed=seed,
        universality=_universality(full),
        naive_power=np.sum(sample.coefficients[:count] ** 2, axis=1) / points,
        cross_power=cross,
        resolved_norm=norm,
        replicates=tuple((_spectrum(r), r.noise) for r in replicates),
    )


def _cutoffs(sample: Sample, pool: _Pool, share: float) -> Float[np.ndarray, " cutoffs"]:
    """Cut-offs from well above the largest eigenvalue down to where half of the (smallest replicate's) modes are fitted."""
    groups = int(pool.group.max()) + 1
    largest = 10.0 * sample.eigenvalues[0]
    rank = _rank(sample)
    smallest = sample.cutoff_at(min(_RESOLVED_SHARE * share * sample.rows * (1.0 - 1.0 / groups), 0.999 * rank))
    smallest = max(smallest, 0.03 * sample.eigenvalues[rank - 1])
    return np.geomspace(largest, smallest, _CUTOFFS)


def _rank(sample: Sample) -> int:
    return int(np.sum(sample.eigenvalues > 1e-12 * sample.eigenvalues[0]))


def _held_out(
    pool: _Pool, view: _View, group: int, count: int
) -> tuple[Float[np.ndarray, " modes"], Float[np.ndarray, " modes"]]:
    """Cross products of the first modes' coefficients with those on the group left out, and the modes' norms there."""
    kept = pool.group != group
    projected = pool.gram[np.ix_(~kept, kept)] @ view.sample.vectors / view.sample.rows
    targets = pool.targets[~kept]
    if pool.fresh is not None:
        block = pool.fresh[np.ix_(~view.kept_fresh, kept)] @ view.sample.vectors / view.sample.rows
        projected = np.concatenate([projected, block])
        targets = np.concatenate([targets, pool.fresh_targets[~view.kept_fresh]])
    functions = view.sample.eigenfunctions(projected, count)
    own = view.sample.coefficients[:count] / math.sqrt(view.sample.rows)
    return np.sum(own * (functions.T @ targets / len(targets)), axis=1), np.mean(functions**2, axis=0)


def _clear_modes(cross: Float[np.ndarray, " modes"], error: Float[np.ndarray, " modes"], most: int) -> int:
    """The number of modes up to which every log bin of the cross products stands out of its error twice over."""
    edges = np.unique(np.round(np.geomspace(4, most, 10)).astype(int))
    clear = edges[0]
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        if cross[low:high].sum() < 2.0 * np.sqrt(np.sum(error[low:high] ** 2)):
            break
        clear = high
    return int(clear)


def _number(fit: Fit, name: str, kappa: Float[np.ndarray, " cutoffs"]) -> float:
    if name == "unresolved":
        return float(np.sum(fit.power[fit.eigenvalues < kappa[-1]])) + fit.noise
    return float(getattr(fit, name))


def _universality(view: _View) -> float:
    """F over T - kappa dT/dkappa at the smallest cut-offs; the derivative from a parabola in log kappa."""
    last = slice(-10, None)
    log_kappa, cross = np.log(view.kappa[last]), view.moments.cross[last]
    centre = log_kappa[-3]
    curve = np.polyfit(log_kappa - centre, cross, 2)
    implied = curve[2] - curve[1]
    return float(view.moments.error[-3] / implied)


def _spectrum(fit: Fit) -> Spectrum:
    """The nodes that hold modes; power in a bin without modes goes to its neighbour above."""
    eigenvalues, multiplicity, power = fit.eigenvalues, fit.multiplicity, fit.power
    filled = np.flatnonzero(multiplicity > 0.0)
    owner = np.searchsorted(filled, np.arange(len(power)), side="right") - 1
    moved = np.bincount(np.maximum(owner, 0), power, len(filled))
    return Spectrum(eigenvalues[filled], moved / (multiplicity[filled] * eigenvalues[filled]), multiplicity[filled])


def _symmetric(gram: Float[np.ndarray, "rows rows"], points: int) -> Float[np.ndarray, "rows rows"]:
    gram = np.array(gram, dtype=np.float64)
    if gram.shape != (points, points) or not np.all(np.isfinite(gram)):
        raise InvalidInput(
            f"measure_spectrum(kernel): expected finite values of shape ({points}, {points}), got shape {gram.shape}"
            f"{'' if np.all(np.isfinite(gram)) else ' with NaN or infinity'}."
        )
    skew = float(np.max(np.abs(gram - gram.T)))
    if skew > 1e-8 * float(np.max(np.abs(gram))):
        raise InvalidInput(
            f"measure_spectrum(kernel): expected a symmetric kernel, got K(x, y) - K(y, x) up to {skew:.3g}."
        )
    return gram


def _check_targets(targets: object, rows: int) -> Float[np.ndarray, "rows outputs"]:
    who = "measure_spectrum(targets)"
    try:
        y = np.asarray(targets, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidInput(f"{who}: expected numbers, got {type(targets).__name__}.") from None
    if y.ndim == 1:
        y = y[:, None]
    if y.ndim != 2 or y.shape[1] == 0:
        raise InvalidInput(f"{who}: expected shape (rows,) or (rows, outputs), got {y.shape}.")
    if len(y) != rows:
        raise InvalidInput(f"{who}: expected {rows} rows like inputs, got {len(y)}.")
    if rows < _LEAST_POINTS:
        raise InvalidInput(
            f"measure_spectrum(inputs): expected at least {_LEAST_POINTS} rows, got {rows}; fewer cannot be split for a measurement."
        )
    if not np.all(np.isfinite(y)):
        row = int(np.argwhere(~np.isfinite(y))[0, 0])
        raise InvalidInput(f"{who}: expected finite numbers, got NaN or infinity (first: row {row}).")
    if np.all(y == y[0]):
        raise InvalidInput(f"{who}: expected targets that vary, got {rows} equal rows; there is nothing to learn.")
    return y


def _check_options(seed: int, head: int | None, max_points: int, groups: int) -> None:
    for name, value, least in (
        ("seed", seed, 0),
        ("head", head, 1),
        ("max_points", max_points, _LEAST_POINTS),
        ("groups", groups, 3),
    ):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise InvalidInput(f"measure_spectrum({name}): expected a whole number >= {least}, got {value!r}.")


def _warn_of_duplicates(x: Float[np.ndarray, "rows features"]) -> None:
    copies = len(x) - len(np.unique(x, axis=0))
    if copies:
        warnings.warn(
            f"measure_spectrum(inputs): {copies} of {len(x)} rows are exact copies of others. They are tested on their own "
            "copies, so noise is underestimated; remove them, or keep copies out of the measured rows.",
            ForetrainWarning,
            stacklevel=3,
        )
