"""What a group of cases shares: one spectrum's eigenvalues, one contour, the roots on it, and the filters' weights."""

import dataclasses
import math

import numpy as np
from jaxtyping import Complex, Float

from foretrain.limits.adaptive_linear._contour import Contour, contour
from foretrain.limits.adaptive_linear._flow import Filters
from foretrain.limits.adaptive_linear._stochastic import Batches
from foretrain.limits.adaptive_linear._transforms import Roots, roots
from foretrain.limits.linear import SpectralMeasure, measure_of, spectral_edge
from foretrain.limits.linear._measure import node_size
from foretrain.tasks import PowerLawSpectrum, Spectrum

# Chebyshev nodes of a bin in lambda: functions with poles at 45 degrees need more of them than ridges do.
PER_BIN = 48
# Where a slope at the inner end is compared with the one there, in units of the distance to zero.
FAR = 1000.0


@dataclasses.dataclass(frozen=True)
class Case:
    r"""One problem.

    Attributes:
        spectrum: what is learned.
        width: $N$.
        samples: $P$.
        noise: variance of the label noise.
        richness: $\gamma$.
        rate: learning rate of discrete protocols.
        batch: samples of a step of one-pass SGD.
    """

    spectrum: Spectrum | PowerLawSpectrum
    width: float
    samples: float
    noise: float
    richness: float
    rate: float = math.nan
    batch: float = math.inf

    @property
    def clock(self) -> float:
        """Time of the flow that a unit of the protocol's time stands for."""
        return 1.0 if math.isnan(self.rate) else self.rate

    @property
    def sizes(self) -> tuple[float, float]:
        """$(N,P)$."""
        return self.width, self.samples

    @property
    def eigenvalues(self):
        """What tells spectra with different eigenvalues apart; targets may differ."""
        law = self.spectrum
        return (law.capacity, law.modes) if isinstance(law, PowerLawSpectrum) else law


class Scene:
    """Contour, roots and weights for cases with the same eigenvalues.

    Args:
        cases: the problems.
        last: longest clock that filters must serve.
        spacing: of the contour's points.
        least: smallest number of points.
    """

    def __init__(self, cases: list[Case], last: float, spacing: float, least: int = 0):
        self.cases = cases
        sizes = np.array([case.sizes for case in cases])
        edge = float(np.max(spectral_edge(measure_of(cases[0].spectrum, 1e-15), *sizes.T)))
        # Sweeps whose spectra end at nearly the same place share weights.
        largest = 2.0 ** (math.ceil(8.0 * math.log2(edge)) / 8.0)
        self.contour: Contour = contour(largest, 0.5 / last, spacing, least)
        self._smallest = 10.0 ** math.floor(math.log10(self.contour.inner))
        first = self.measure(cases[0].spectrum)
        distinct = sorted(set(map(tuple, sizes)))
        padded = first.pad(node_size(first.nodes))
        found = roots(padded, self.contour, *(np.array(column) for column in zip(*distinct, strict=True)))
        self._roots = dict(zip(distinct, found, strict=True))
        self._signals: dict = {}

    @property
    def x(self) -> Complex[np.ndarray, " point"]:
        """Points of the contour."""
        return self.contour.x

    def measure(self, spectrum: Spectrum | PowerLawSpectrum) -> SpectralMeasure:
        """The compressed spectrum, resolved down to the innermost points."""
        return measure_of(spectrum, self._smallest, PER_BIN)

    def roots(self, case: Case) -> Roots:
        """The roots for the sizes of a case."""
        return self._roots[case.sizes]

    def good(self, case: Case) -> bool:
        """Whether every root was found."""
        return self.roots(case).good

    def signal(self, case: Case) -> Complex[np.ndarray, " point"]:
        """$F$ on the contour."""
        key = (case.spectrum, *case.sizes, case.noise)
        if key not in self._signals:
            self._signals[key] = self.roots(case).signal(self.measure(case.spectrum), case.noise)
        return self._signals[key]

    def loss_weight(self, case: Case) -> Complex[np.ndarray, " point"]:
        r"""$\omega(F/x-C)$; where $F$ has a slope $C$ at the inner end, easy tasks would have to cancel it at late times."""
        signal, x = self.signal(case), self.x
        distance = np.abs(x + self.contour.inner) / self.contour.inner
        near, far = (int(np.argmin(np.abs(np.log(distance[:-1] / reach)))) for reach in (1.0, FAR))
        slope, wide = (((signal[at] - signal[-1]) / (x[at] - x[-1])).real for at in (near, far))
        # The slope of hard tasks diverges, and nothing is gained.
        constant = slope if abs(slope) < 2.0 * abs(wide) else 0.0
        return self.contour.weight * (signal / x - constant)

    def norm_weight(self, case: Case) -> Complex[np.ndarray, " point"]:
        r"""$\omega(F-F_a)$; constants integrate to zero, and take with them what would cancel at late times."""
        signal = self.signal(case)
        return self.contour.weight * (signal - signal[-1].real)

    def trace_weight(self, case: Case) -> Complex[np.ndarray, " point"]:
        r"""$-\omega(\mathrm{df}_1-\mathrm{df}_{1,a})$: with $g(x)$ it gives $\mathrm{Tr}\,Kg(K)$."""
        df1 = self.roots(case).df1
        return self.contour.weight * (df1[-1].real - df1)

    def pair_weight(self, case: Case) -> Complex[np.ndarray, "2 point point"]:
        """Weights of the test loss on reused data."""
        half = self.contour.weight / self.x
        form = self.roots(case).pairs(self.measure(case.spectrum), case.noise)
        return 0.5 * half[:, None] * np.stack([half, np.conj(half)])[:, None, :] * form

    def filters(self, cases: list[Case], modes: Float[np.ndarray, " mode"] | None = None) -> Filters:
        """The weights of cases that are solved together; all of them reuse data, or none does."""
        reused = math.isfinite(cases[0].samples)
        return Filters(
            np.stack([self.loss_weight(case) for case in cases]),
            np.stack([self.norm_weight(case) for case in cases]),
            np.array([case.richness for case in cases]),
            np.stack([self.pair_weight(case) for case in cases]) if reused else None,
            None
            if modes is None
            else np.stack([self.roots(c).mean_residual(modes) * (self.contour.weight / self.x) for c in cases]),
        )

    def batches(self, cases: list[Case]) -> Batches:
        """The noise of one-pass SGD."""
        trace = float(np.sum(np.asarray(self.measure(cases[0].spectrum).trace)))
        return Batches(
            np.stack([self.trace_weight(case) for case in cases]),
            np.full(len(cases), trace),
            np.array([case.rate / case.batch for case in cases]),
            np.array([case.noise for case in cases]),
        )
