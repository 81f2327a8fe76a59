r"""Samples too large for eigendecompositions: everything that `_resolvent` and `_left_out` need from one Krylov space.

The block that starts the space holds the targets and a few dozen random sign vectors. Its Ritz pairs stand in for the
eigenpairs: the top ones *are* eigenpairs; the others carry weights, so that $\mathrm{tr} f(\hat G)\approx\sum_jn_jf(\theta_j)$.
Below the converged pairs the weight of a pair is its mean square overlap with the sign vectors (Hutchinson's estimate by
Gauss quadrature), corrected so that the number of modes, $\mathrm{tr}\,\hat G$ and $\mathrm{tr}\,\hat G^2$, which are known
exactly, come out right (`docs/theory/measuring-spectra.md`, (MS.21) to (MS.23)).
"""

import itertools
import warnings
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from foretrain.errors import ForetrainWarning, InvalidInput
from foretrain.kernels._gram import Kernel
from foretrain.kernels._lanczos import Ritz, block_lanczos
from foretrain.kernels._left_out import LeftOut
from foretrain.kernels._resolvent import Residuals, Sample

LARGEST_SPACE = 3072
_BLOCK = 48
_LEAST_PROBES = 24
# Relative residual of a pair that counts as an eigenpair: its eigenvector is then known better than M points know it.
_CONVERGED = 1e-2
# Relative residual of the ridge solutions at the smallest cut-off.
_SOLVED = 3e-3
# Below this many rows float64 costs little; above, the products' rounding (1e-8 of the largest eigenvalue) resolves enough.
_SINGLE_FROM = 10_000
_TILE = 2048
# Corrections of the weights beyond these factors mean that the quadrature has missed something.
_LEAST_FACTOR, _LARGEST_FACTOR = 0.5, 2.0


class TopSample(Sample):
    """A Gram matrix known by its products, with Ritz pairs in place of eigenpairs.

    Args:
        product: The Gram matrix, divided by its number of rows, times a block.
        targets: One column an output.
        probes: Independent random signs, one row a point.
        traces: Trace of the Gram matrix and of its square.
        modes: Number of top eigenpairs that must have converged.
        share: Part of the rows that the smallest cut-off counts as modes.
        rounding: Relative size of what a product leaves of an exact zero.
        space: Fewest and most Krylov vectors.
    """

    converged: int  # leading pairs that are eigenpairs
    missing: int  # how many of them are wanting
    unsolved: float  # relative residual of the ridge solutions at the smallest cut-off

    def __init__(
        self,
        product: Callable[[Float[np.ndarray, "rows block"]], Float[np.ndarray, "rows block"]],
        targets: Float[np.ndarray, "rows outputs"],
        probes: Float[np.ndarray, "rows probes"],
        *,
        traces: tuple[float, float],
        modes: int,
        share: float,
        rounding: float,
        space: tuple[int, int],
    ):
        self.rows, self.targets, self.rounding = len(targets), targets, rounding

        def enough(ritz: Ritz) -> bool:
            self._take(ritz, probes, traces)
            present = self.eigenvalues[self.eigenvalues > 0.0]
            # The cut-offs of a kernel of low rank end just below its smallest eigenvalue.
            ridge = max(np.exp(self.log_ridge_at(share * self.rows)), 0.01 * present[-1])
            solved = ritz.rotation.T @ (ritz.basis.T @ targets) / (self.eigenvalues + ridge)[:, None]
            left = np.linalg.norm(ritz.boundary @ solved, axis=0)
            self.missing = max(min(modes, len(present)) - self.converged, 0)
            self.unsolved = float(np.max(left / (ridge * np.linalg.norm(solved, axis=0))))
            return self.missing == 0 and self.unsolved <= _SOLVED

        start = np.hstack([targets, probes])
        ritz = block_lanczos(product, start, enough, least=space[0], largest=space[1], rounding=rounding)
        self.done = enough(ritz)
        self.space = len(ritz.values)
        self.vectors = ritz.basis @ ritz.rotation
        self.coefficients = self.vectors.T @ targets

    def inverse_diagonal(self, inverse: Float[np.ndarray, "cutoffs modes"]) -> Float[np.ndarray, "1 cutoffs"]:
        """The mean of the diagonal of (G + z)^-1, for every row: generalized cross-validation. `TopLeftOut` corrects it."""
        return np.sum(self.weights * inverse, axis=1)[None, :] / self.rows

    def _take(self, ritz: Ritz, probes: np.ndarray, traces: tuple[float, float]) -> None:
        values = ritz.values.copy()
        largest, smallest = values[0], values[-1]
        if not largest > 0.0 or smallest < -max(1e-8, 100.0 * self.rounding) * largest:
            raise InvalidInput(
                "measure_spectrum(kernel): expected a positive semi-definite kernel, got a Gram matrix with eigenvalues from "
                f"{smallest:.3g} to {largest:.3g} (divided by the number of points); a kernel must not have negative ones."
            )
        values[values < self.rounding * largest] = 0.0
        unfinished = (ritz.residuals > _CONVERGED * values) | (values == 0.0)
        self.converged = int(np.argmax(unfinished)) if unfinished.any() else len(values)
        overlap = np.mean((ritz.rotation.T @ (ritz.basis.T @ probes)) ** 2, axis=1)
        self.eigenvalues = values
        self.weights = _weights(values, overlap, self.converged, (float(self.rows), *traces))


def _weights(
    values: Float[np.ndarray, " pairs"],
    overlap: Float[np.ndarray, " pairs"],
    converged: int,
    sums: tuple[float, float, float],
) -> Float[np.ndarray, " pairs"]:
    """How many modes each pair stands for: one if converged, its overlap with the probes times a smooth correction if not.

    Where nothing unconverged is left to correct (an eigenvalue with more copies than a block has columns), all overlaps count.
    """
    for single in (converged, 0):
        weights = overlap.copy()
        weights[:single] = 1.0
        rest = slice(single, None)
        if not len(values[rest]):
            if sums[0] == single:
                return weights
            continue
        scale = values[single] if values[single] > 0.0 else 1.0  # a null space has a number only
        powers = (values[rest] / scale) ** np.arange(3)[:, None]
        head = np.sum(values[:single] ** np.arange(3)[:, None], axis=1)
        left = (np.array(sums) - head) / scale ** np.arange(3)
        for order in (3, 2, 1) if values[single] > 0.0 else (1,):
            basis = powers[:order]
            change = np.linalg.lstsq(
                (basis * weights[rest]) @ basis.T, left[:order] - basis @ weights[rest], rcond=1e-10
            )[0]
            factor = 1.0 + change @ basis
            if np.all((factor > _LEAST_FACTOR) & (factor < _LARGEST_FACTOR)):
                weights[rest] *= factor
                return weights
    return overlap * sums[0] / overlap.sum()


class Gram:
    """The Gram matrix of all rows, in single precision for many of them, with rows in groups that can be left out.

    Args:
        kernel: See `measure_spectrum`.
        x: Rows, ordered by group.
        groups: The group of each.
    """

    def __init__(self, kernel: Kernel, x: Float[np.ndarray, "rows features"], groups: Int[np.ndarray, " rows"]):
        self.rows = len(x)
        self.dtype = precision(self.rows)
        # Entries rounded to 6e-8 add a random matrix, whose norm is 2/sqrt(rows) of that of all entries.
        self.rounding = 1e-6 / np.sqrt(self.rows) if self.dtype == np.float32 else 1e-14
        self.values = np.empty((self.rows, self.rows), self.dtype)
        self.diagonal = np.empty(self.rows)
        self.edges = np.searchsorted(groups, np.arange(groups[-1] + 2))
        self._squares = np.zeros((len(self.edges) - 1,) * 2)  # sum of K^2 over pairs of groups
        tiles = []
        for group, (start, stop) in enumerate(itertools.pairwise(self.edges.tolist())):
            tiles += [(group, slice(a, min(a + _TILE, stop))) for a in range(start, stop, _TILE)]
        for i, (group, rows) in enumerate(tiles):
            for other, columns in tiles[: i + 1]:
                block = _tile(kernel, x, rows, columns)
                self.values[rows, columns] = block
                self.values[columns, rows] = block.T
                square = float(np.vdot(block, block))
                self._squares[group, other] += square
                if rows == columns:
                    self.diagonal[rows] = np.diagonal(block)
                else:
                    self._squares[other, group] += square

    def kept(self, group: int | None) -> np.ndarray:
        """Mask of the rows that are not in a group."""
        mask = np.ones(self.rows, bool)
        if group is not None:
            mask[self.edges[group] : self.edges[group + 1]] = False
        return mask

    def traces(self, group: int | None) -> tuple[float, float]:
        """Trace, and trace of the square, of the Gram matrix without a group, divided by its number of rows."""
        mask = self.kept(group)
        within = np.arange(len(self._squares)) != (-1 if group is None else group)
        rows = int(mask.sum())
        return float(self.diagonal[mask].sum()) / rows, float(self._squares[np.ix_(within, within)].sum()) / rows**2

    def product(self, group: int | None) -> Callable[[np.ndarray], np.ndarray]:
        """The product with the Gram matrix without a group, divided by its number of rows; no copy of the matrix is made."""
        if group is None:
            return lambda block: np.asarray(self.values @ block.astype(self.dtype, order="C"), np.float64) / self.rows
        start, stop = self.edges[group], self.edges[group + 1]
        parts = (slice(0, start), slice(stop, self.rows))
        rows = self.rows - (stop - start)

        def multiply(block: np.ndarray) -> np.ndarray:
            block = block.astype(self.dtype, order="C")
            pieces = [
                self.values[part, parts[0]] @ block[:start] + self.values[part, parts[1]] @ block[start:]
                for part in parts
            ]
            return np.asarray(np.concatenate(pieces), np.float64) / rows

        return multiply


def precision(rows: int) -> type[np.floating]:
    """The type in which a Gram matrix of so many rows is kept."""
    return np.float32 if rows > _SINGLE_FROM else np.float64


def probe_signs(rows: int, outputs: int, generator: np.random.Generator) -> Float[np.ndarray, "rows probes"]:
    """Random signs that fill the starting block beside the targets."""
    return generator.choice([-1.0, 1.0], size=(rows, max(_BLOCK - outputs, _LEAST_PROBES)))


class TopResiduals(Residuals):
    """Residuals of which own rows' contributions are known group by group."""

    def own_sums(self, sample: Sample, kappa: Float[np.ndarray, " cutoffs"], edges: Int[np.ndarray, " edges"]) -> list:
        """What the sample's rows contributed to T and to F, one pair for each group."""
        residual = sample.rows * self.dual.reshape(sample.rows, len(kappa), -1) * kappa[:, None]
        return [self._sums(sample.targets[a:b], residual[a:b]) for a, b in itertools.pairwise(edges)]


class TopLeftOut(LeftOut):
    """`LeftOut` on a Krylov space: a sample without one group of rows, tested on the rows of that group and on fresh ones.

    Own rows are first tested by generalized cross-validation, which is exact for Gaussian features only. `correct` then
    replaces it by what fits without each row's group say, so that nothing rests on that assumption.

    Args:
        gram: The Gram matrix, rows ordered by group.
        targets: Targets of its rows.
        probes: See `TopSample`; the same for all replicates, so that the jackknife sees their chance too.
        group: The one that is left out, or `None`.
        modes: Number of top eigenpairs.
        share: See `TopSample`.
        least: Fewest Krylov vectors.
    """

    def __init__(
        self,
        gram: Gram,
        targets: Float[np.ndarray, "rows outputs"],
        probes: Float[np.ndarray, "rows probes"],
        group: int | None,
        *,
        modes: int,
        share: float,
        least: int,
    ):
        self.group, self.targets, self.kept = group, targets, gram.kept(group)
        self.sample: TopSample = TopSample(
            gram.product(group),
            targets[self.kept],
            probes[self.kept],
            traces=gram.traces(group),
            modes=modes,
            share=share,
            rounding=gram.rounding,
            space=(least, max(LARGEST_SPACE, 24 * (targets.shape[1] + probes.shape[1]))),
        )
        self.trace = self.total = 0.0

    def warn_if_unfinished(self) -> None:
        """Say so when the largest space was not large enough."""
        sample = self.sample
        if not sample.done:
            warnings.warn(
                f"measure_spectrum(modes): the largest Krylov space, {sample.space} vectors, leaves {sample.missing} of the modes "
                f"unconverged (relative residual above {_CONVERGED:g}) and ridge solutions at the smallest cut-off with a "
                f"relative residual of {sample.unsolved:.2g} (wanted {_SOLVED:g}). Ask for fewer `modes`, or use method='full'.",
                ForetrainWarning,
                stacklevel=4,
            )

    def prepare(self, kappa: Float[np.ndarray, " cutoffs"], modes: int, gram: Gram) -> None:
        """Residuals and eigenfunctions; tests on the Gram rows that were left out; then the Ritz vectors are let go."""
        self.residuals = TopResiduals(self.sample, kappa)
        self._own = self.sample.coefficients[:modes] / np.sqrt(self.sample.rows)
        self._map = self._spread(self.sample.eigenfunction_map(modes), gram.dtype)
        self.sample.vectors = np.empty((0, 0))
        self._tested, self._product, self._square = 0, np.zeros_like(self._own), np.zeros(modes)
        if self.group is None:
            self.own_sums = self.residuals.own_sums(self.sample, kappa, gram.edges)
        self.residuals.dual = self._spread(self.residuals.dual, gram.dtype)
        if self.group is not None:
            rows = slice(int(gram.edges[self.group]), int(gram.edges[self.group + 1]))
            self.left_out_sums = self.residuals.tested(gram.values[rows], self.targets[rows])
            self._hold_out(gram.values[rows], self.targets[rows])

    def correct(self, full: "TopLeftOut", others: list["TopLeftOut"]) -> None:
        """Replace cross-validation of own rows by tests on groups that were left out, for every group of this sample."""
        for other, own_sums in zip(others, full.own_sums, strict=True):
            if other is not self:
                self.residuals.replace(own_sums, other.left_out_sums)

    def test(
        self,
        block: Float[np.ndarray, "fresh rows"],
        targets: Float[np.ndarray, "fresh outputs"],
        groups: Int[np.ndarray, " fresh"],
    ) -> None:
        """Take fresh rows, as `LeftOut.test` does; rows that were left out have zeros in the maps."""
        kept = self.keeps(groups)
        self.residuals.add(block[kept], targets[kept])
        self._hold_out(block[~kept], targets[~kept])

    def _spread(self, columns: Float[np.ndarray, "kept columns"], dtype: type[np.floating]) -> np.ndarray:
        full = np.zeros((len(self.kept), columns.shape[1]), dtype)
        full[self.kept] = columns
        return full


def _tile(kernel: Kernel, x: np.ndarray, rows: slice, columns: slice) -> Float[np.ndarray, "rows columns"]:
    """One block of the Gram matrix, checked."""
    same = rows == columns
    block = np.asarray(kernel(x[rows]) if same else kernel(x[rows], x[columns]), dtype=np.float64)
    expected = (rows.stop - rows.start, columns.stop - columns.start)
    if block.shape != expected or not np.all(np.isfinite(block)):
        raise InvalidInput(
            f"measure_spectrum(kernel): expected finite values of shape {expected}, got shape {block.shape}"
            f"{'' if np.all(np.isfinite(block)) else ' with NaN or infinity'}."
        )
    if same and (skew := float(np.max(np.abs(block - block.T)))) > 1e-8 * float(np.max(np.abs(block))):
        raise InvalidInput(
            f"measure_spectrum(kernel): expected a symmetric kernel, got K(x, y) - K(y, x) up to {skew:.3g}."
        )
    return block
