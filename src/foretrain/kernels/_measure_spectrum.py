"""`measure_spectrum`: from a kernel and data to the spectrum that the theory takes."""

import itertools
import math

import numpy as np
import scipy.special
from jaxtyping import Float, Int

from foretrain.kernels._deconvolution import Fit, deconvolve
from foretrain.kernels._geometry import check_inputs
from foretrain.kernels._gram import Kernel, check_memory, free_memory
from foretrain.kernels._left_out import LeftOut
from foretrain.kernels._measure_checks import check_options, check_targets, symmetric, warn_of_duplicates
from foretrain.kernels._measured import Estimate, MeasuredSpectrum, jackknife_error
from foretrain.kernels._resolvent import Moments, Sample
from foretrain.kernels._top import LARGEST_SPACE, Gram, TopLeftOut, precision, probe_signs
from foretrain.tasks import Spectrum

_CUTOFFS = 40
# Default of fresh rows per row of the Gram matrix.
_FRESH_FACTOR = 8
_TOP_FRESH_FACTOR = 1
_FRESH_BLOCK = 1000
# More rows than this are measured on a Krylov space.
_FULL_UP_TO = 6000
_TOP_MODES = 500
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
    max_fresh: int | None = None,
    groups: int = 6,
    memory: float | None = None,
    method: str = "auto",
    modes: int | None = None,
) -> MeasuredSpectrum:
    r"""The eigenvalues of a kernel over the population of the inputs, and the target's power in its modes.

    The population is the one that the rows are drawn from, for *fresh* points: not these rows again, and not a test file
    with another distribution. Rows should be independent; standardize inputs first (centred inputs agree best with finite
    networks, because uncentred features are far from Gaussian).

    How (`docs/theory/measuring-spectra.md`, (MS.8) to (MS.20)): one Gram matrix of up to `max_points` rows gives the counts of
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
        max_points: Most rows in the Gram matrix. The cost of `"full"` grows as its cube (3000: about half a minute on two
            cores), of `"top"` as its square.
        max_fresh: Most rows beyond those, which only test and so sharpen the power and the noise; by default eight times
            `max_points` (`"full"`) or as many as `max_points` (`"top"`). Their cost grows linearly.
        groups: Number of groups of rows that are left out in turn for the intervals, at least 3.
        memory: Budget in bytes; half of the free memory by default.
        method: `"full"` decomposes the Gram matrix and every replicate. `"top"` builds one block Krylov space for each,
            (MS.21) to (MS.23): the same estimates for the same rows, but that own rows are left out group by group and that
            the counts of modes carry a sampling error of about 1e-3, which the intervals contain. `"auto"` is `"full"` up
            to 6000 points. Above 10 000 points `"top"` keeps the matrix in float32, so that eigenvalues below 1e-8 of the
            largest count as zero.
        modes: Number of eigenpairs with vectors, which give `cross_power` and bound the head; by default 500 (`"top"`) or
            0.3 times the points (`"full"`).

    Returns:
        A `MeasuredSpectrum`; every interval is a 95 % interval (jackknife over groups of rows; the head's cut-off is varied by
        a factor of two each way).

    Raises:
        InvalidInput: NaN or infinite values, mismatched or too few rows, constant targets, a kernel that is not positive
            semi-definite.
        TooLarge: The Gram matrix exceeds the budget.

    Warns:
        ForetrainWarning: Duplicate rows (they are tested on their own copies, which hides noise); a Krylov space that is not
            large enough for the `modes`.

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
    y = check_targets(targets, len(x))
    check_options(seed, head, max_points, max_fresh, groups, modes, method)
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(x))
    points = min(len(x), max_points)
    top = method == "top" or (method == "auto" and points > _FULL_UP_TO)
    most_fresh = (_TOP_FRESH_FACTOR if top else _FRESH_FACTOR) * max_points if max_fresh is None else max_fresh
    chosen, rest = order[:points], order[points : points + most_fresh]
    warn_of_duplicates(x[np.concatenate([chosen, rest])])
    budget = 0.5 * free_memory() if memory is None else float(memory)
    most = max(points // 20, 8)
    group_of = np.arange(points) % groups
    if top:
        by_group = np.argsort(group_of, kind="stable")
        chosen, group_of = chosen[by_group], group_of[by_group]
        modes = min(_TOP_MODES if modes is None else modes, points)
        modes = min(max(modes, 2 * (head or 0)), points)
        most = min(most, max(modes // 2, 1))
        _check_top_memory(points, y.shape[1], modes, groups, budget)
        kappa, naive, views, diagonal = _top_views(kernel, x[chosen], y[chosen], group_of, modes, generator)
    else:
        check_memory(
            6 * points + _FRESH_BLOCK, points, budget, who=who
        )  # the Gram matrix, its vectors and a copy of each
        count = min(points, max(6 * most, 2 * (head or 0)) if modes is None else modes)
        kappa, naive, views, diagonal = _full_views(kernel, x[chosen], y[chosen], group_of, count)
    full, others = views[0], views[1:]
    for start in range(0, len(rest), _FRESH_BLOCK):
        rows = rest[start : start + _FRESH_BLOCK]
        block, group = kernel(x[rows], x[chosen]), np.arange(start, start + len(rows)) % groups
        if top:
            block = np.asarray(block, precision(points))
        for view in views:
            view.test(block, y[rows], group)
    square = np.sum(y**2, axis=1)
    for view in views:
        view.total = float(
            square[np.concatenate([chosen[view.kept], rest[view.keeps(np.arange(len(rest)) % groups)]])].mean()
        )
        view.trace = float(diagonal[view.kept].mean())
    return _estimate(
        full,
        others,
        kappa,
        naive,
        head=head,
        most=most,
        sizes=(points, len(rest), len(x)),
        seed=seed,
        method="top" if top else "full",
    )


def _full_views(
    kernel: Kernel,
    x: Float[np.ndarray, "rows features"],
    y: Float[np.ndarray, "rows outputs"],
    group_of: Int[np.ndarray, " rows"],
    count: int,
) -> tuple[Float[np.ndarray, " cutoffs"], Float[np.ndarray, " modes"], list[LeftOut], Float[np.ndarray, " rows"]]:
    """Cut-offs, naive powers, the sample with its jackknife replicates and the diagonal, by eigendecompositions."""
    groups = int(group_of.max()) + 1
    gram = symmetric(kernel(x), len(x))
    views = [LeftOut(gram, y, group_of, None)]
    kappa = _cutoffs(views[0].sample, groups)
    naive = np.sum(views[0].sample.coefficients[:count] ** 2, axis=1) / len(x)
    views[0].prepare(kappa, count, gram)
    for group in range(groups):
        views.append(LeftOut(gram, y, group_of, group))
        views[-1].prepare(kappa, count, gram)  # one at a time: this lets go of its eigenvectors
    return kappa, naive, views, np.diagonal(gram).copy()


def _top_views(
    kernel: Kernel,
    x: Float[np.ndarray, "rows features"],
    y: Float[np.ndarray, "rows outputs"],
    group_of: Int[np.ndarray, " rows"],
    count: int,
    generator: np.random.Generator,
) -> tuple[Float[np.ndarray, " cutoffs"], Float[np.ndarray, " modes"], list[LeftOut], Float[np.ndarray, " rows"]]:
    """The same from Krylov spaces; rows are ordered by group."""
    groups = int(group_of.max()) + 1
    gram = Gram(kernel, x, group_of)
    probes = probe_signs(len(x), y.shape[1], generator)
    share = _RESOLVED_SHARE * (1.0 - 1.0 / groups)
    full = TopLeftOut(gram, y, probes, None, modes=count, share=share, least=2 * count)
    full.warn_if_unfinished()
    kappa = _cutoffs(full.sample, groups)
    count = min(count, len(full.sample.eigenvalues))
    naive = np.sum(full.sample.coefficients[:count] ** 2, axis=1) / len(x)
    full.prepare(kappa, count, gram)
    others = []
    for group in range(groups):
        others.append(TopLeftOut(gram, y, probes, group, modes=count, share=share, least=full.sample.space))
        others[-1].prepare(kappa, count, gram)
    for view in (full, *others):
        view.correct(full, others)
    return kappa, naive, [full, *others], gram.diagonal


def _check_top_memory(points: int, outputs: int, modes: int, groups: int, budget: float) -> None:
    """Refuse what the Krylov method would need: matrix, basis and Ritz vectors, predictors of all replicates, fresh rows."""
    item = np.dtype(precision(points)).itemsize
    columns = 2 * min(LARGEST_SPACE, points) * 8 + (groups + 1) * (_CUTOFFS * outputs + modes) * item
    columns += 3 * _FRESH_BLOCK * 8 + 4 * _CUTOFFS * outputs * 8
    check_memory(
        points + columns // item, points, budget, dtype=np.dtype(precision(points)).name, who="measure_spectrum"
    )


def _estimate(
    full: LeftOut,
    others: list[LeftOut],
    kappa: Float[np.ndarray, " cutoffs"],
    naive: Float[np.ndarray, " modes"],
    *,
    head: int | None,
    most: int,
    sizes: tuple[int, int, int],
    seed: int,
    method: str,
) -> MeasuredSpectrum:
    """Fits to everything and to every jackknife replicate, and the numbers with their intervals."""
    groups, points = len(others), sizes[0]
    moments = {id(view): view.residuals.moments() for view in (full, *others)}
    resolved = max(int(np.sum(full.sample.weights[full.sample.eigenvalues > kappa[-1]])), 2)
    shares, norms = (np.array(a) for a in zip(*(view.held_out() for view in others), strict=True))
    cross, error = shares.mean(axis=0), shares.std(axis=0, ddof=1) / math.sqrt(groups)
    clear = _clear_modes(cross, error, min(resolved, len(cross)))
    head = int(min(min(clear, most) if head is None else head, resolved))
    # The first modes follow the data, not a law: leave them out where enough others are left.
    first = max(min(max(10, resolved // 30), resolved // 4), 1)

    def span(last: int) -> tuple[tuple[int, int], tuple[int, int]]:
        return (first, resolved), (max(min(first, last // 6), 1), last)

    def fit(view: LeftOut, cut: int, power: np.ndarray) -> Fit:
        # One mode's squared coefficient is known no better than chance allows, nor than its eigenvector is resolved.
        chance = np.sqrt(np.abs(power[:cut]) * view.total * 2.0 / view.sample.rows) + view.total / view.sample.rows
        blur = np.abs(power[:cut]) * 2.0 * np.arange(1, cut + 1) / view.sample.rows
        eigenvalues = np.sort(view.sample.population_eigenvalues(cut))[::-1]
        return deconvolve(
            kappa,
            moments[id(view)],
            eigenvalues,
            power[:cut],
            np.hypot(chance, blur),
            view.trace,
            view.total,
            ranges,
            steady=method == "top",
        )

    def fit_all() -> tuple[Fit, list[Fit]]:
        pairs = zip(others, shares, strict=True)
        return fit(full, head, cross), [fit(view, head, (groups * cross - s) / (groups - 1)) for view, s in pairs]

    ranges = span(clear)
    if method == "top" and len(cross) == clear < resolved:
        # All modes with vectors are clear; fits of the power of all resolved modes say how far it goes on being so.
        ranges = span(resolved)
        ranges = span(_clear_power(*fit_all(), clear, resolved))
    best, replicates = fit_all()
    fit_range, power_range = ranges
    cuts = {max(head // 2, 1), min(2 * head, len(cross), resolved)} - {head}
    moved = [fit(full, cut, cross) for cut in cuts]

    def estimate(name: str, low: float = -np.inf, high: float = np.inf) -> Estimate:
        value, varied = _number(best, name, kappa), [_number(other, name, kappa) for other in moved]
        sampling = float(jackknife_error(np.array([_number(r, name, kappa) for r in replicates])))
        cut = max((abs(v - value) for v in varied), default=0.0)
        reach = math.hypot(float(scipy.special.stdtrit(groups - 1, 0.975)) * sampling, cut)
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
        power_range=power_range,
        resolved=resolved,
        points=points,
        fresh_points=sizes[1],
        rows=sizes[2],
        seed=seed,
        universality=_universality(kappa, moments[id(full)]),
        naive_power=naive,
        cross_power=cross,
        resolved_norm=norms.mean(axis=0),
        replicates=tuple((_spectrum(r), r.noise) for r in replicates),
        method=method,
    )


def _cutoffs(sample: Sample, groups: int) -> Float[np.ndarray, " cutoffs"]:
    """Cut-offs from well above the largest eigenvalue down to where half of the smallest replicate's modes are fitted."""
    largest = 10.0 * sample.eigenvalues[0]
    present = sample.eigenvalues > sample.rounding * sample.eigenvalues[0]
    rank = float(np.sum(sample.weights[present]))
    smallest = sample.cutoff_at(min(_RESOLVED_SHARE * sample.rows * (1.0 - 1.0 / groups), 0.999 * rank))
    smallest = max(smallest, 0.03 * sample.eigenvalues[present][-1])
    return np.geomspace(largest, smallest, _CUTOFFS)


def _clear_modes(cross: Float[np.ndarray, " modes"], error: Float[np.ndarray, " modes"], most: int) -> int:
    """The mode up to which log bins of the cross products stand out of their errors twice over, but for single ones."""
    edges = np.unique(np.round(np.geomspace(min(4, most), most, 10)).astype(int))
    clear, faint = edges[0], 0
    for low, high in itertools.pairwise(edges):
        if cross[low:high].sum() >= 2.0 * np.sqrt(np.sum(error[low:high] ** 2)):
            clear, faint = high, 0
        else:
            faint += 1
        if faint == 2:
            break
    return int(clear)


def _clear_power(best: Fit, replicates: list[Fit], clear: int, most: int) -> int:
    """The mode up to which log bins of the fitted power, from `clear` on, stand out of their jackknife errors twice over."""
    edges = np.unique(np.round(np.geomspace(clear, most, 7)).astype(int))

    def bins(fit: Fit) -> Float[np.ndarray, " bins"]:
        index = np.cumsum(fit.multiplicity) - 0.5 * fit.multiplicity + 0.5
        return np.histogram(index, edges, weights=fit.power)[0]

    faint = bins(best) < 2.0 * jackknife_error(np.array([bins(fit) for fit in replicates]))
    return int(edges[np.argmax(faint)] if faint.any() else edges[-1])


def _number(fit: Fit, name: str, kappa: Float[np.ndarray, " cutoffs"]) -> float:
    if name == "unresolved":
        return float(np.sum(fit.power[fit.eigenvalues < kappa[-1]])) + fit.noise
    return float(getattr(fit, name))


def _universality(kappa: Float[np.ndarray, " cutoffs"], moments: Moments) -> float:
    """F over T - kappa dT/dkappa near the smallest cut-off; the derivative from a parabola in log kappa."""
    log_kappa = np.log(kappa[-10:])
    curve = np.polyfit(log_kappa - log_kappa[-3], moments.cross[-10:], 2)
    return float(moments.error[-3] / (curve[2] - curve[1]))


def _spectrum(fit: Fit) -> Spectrum:
    """The nodes that hold modes; power in a bin without modes goes to its neighbour above."""
    eigenvalues, multiplicity, power = fit.eigenvalues, fit.multiplicity, fit.power
    filled = np.flatnonzero(multiplicity > 0.0)
    owner = np.searchsorted(filled, np.arange(len(power)), side="right") - 1
    moved = np.bincount(np.maximum(owner, 0), power, len(filled))
    return Spectrum(eigenvalues[filled], moved / (multiplicity[filled] * eigenvalues[filled]), multiplicity[filled])
