"""`MeasuredSpectrum`: what a data set looks like to a kernel, with how sure that is."""

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from foretrain.tasks import Spectrum

if TYPE_CHECKING:
    import xarray as xr


class Estimate(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MeasuredSpectrum:
    r"""The spectrum of a kernel over a population, and a target's power in it, estimated from points.

    Nodes are in descending order of eigenvalue: first `head` single modes, then bins of the tail with their
    multiplicities. `spectrum` and `noise` are what the theory takes. See `measure_spectrum` for how they were made.

    Args:
        spectrum: $\lambda_k$, $w_k^{\star2}=c_k^2/\lambda_k$ and multiplicities.
        noise: Label-noise variance $\sigma^2$: power that these points do not show to be learnable, after the tail's law
            has been extended. Its interval is that of sampling; `unresolved` bounds it whatever the law of the tail.
        unresolved: Power below the last resolved mode, noise included. Unlike `noise` it depends on no extrapolation.
        capacity: Decay exponent of the eigenvalues over `fit_range`.
        source: (decay exponent of the power per mode − 1) / capacity, power over `power_range`.
        trace: Mean of K(x, x).
        total_power: Mean of $y^2$, summed over outputs.
        head: Number of single modes.
        fit_range: First and last mode of the fit of `capacity`.
        power_range: First and last mode of the fit of the power's exponent: as far as held-out points show power clearly.
        resolved: Last mode that these points resolve: the tail beyond it is extrapolated.
        points: Rows in the Gram matrix.
        fresh_points: Further rows, used for testing only.
        rows: Rows that were offered.
        seed: Of the choice and the grouping of rows.
        universality: Measured $F$ over the $F$ that $T$ implies, at the last resolved mode. 1 for Gaussian features; what
            it is away from 1 is how far the theory's main assumption is off on these data.
        naive_power: $\hat c_k^2$ of the Gram matrix's own eigenvectors, for comparison only: biased.
        cross_power: $\hat c_k\langle y\phi_k\rangle$ on points left out: unbiased, of either sign.
        resolved_norm: $\langle\phi_k^2\rangle$ on points left out; falls from 1 where modes stop being resolved.
        replicates: (spectrum, noise) with one group of rows left out in turn: run a prediction on each, and
            `jackknife_error` of the results is its standard error.
        method: `"full"` (eigendecompositions) or `"top"` (block Lanczos: top eigenpairs, the rest by quadrature).
    """

    spectrum: Spectrum
    noise: Estimate
    unresolved: Estimate
    capacity: Estimate
    source: Estimate
    trace: float
    total_power: float
    head: int
    fit_range: tuple[int, int]
    power_range: tuple[int, int]
    resolved: int
    points: int
    fresh_points: int
    rows: int
    seed: int
    universality: float
    naive_power: Float[np.ndarray, " modes"]
    cross_power: Float[np.ndarray, " modes"]
    resolved_norm: Float[np.ndarray, " modes"]
    replicates: tuple[tuple[Spectrum, float], ...]
    method: str = "full"

    @property
    def eigenvalues(self) -> Float[np.ndarray, " nodes"]:
        """Eigenvalues of the kernel operator, descending."""
        return self.spectrum.eigenvalues

    @property
    def target_power(self) -> Float[np.ndarray, " nodes"]:
        r"""$w_k^{\star2}$ per mode, not multiplied by the eigenvalue."""
        return self.spectrum.target_power

    @property
    def multiplicity(self) -> Float[np.ndarray, " nodes"]:
        """Number of modes of each node."""
        return self.spectrum.multiplicity

    def to_spectrum(self) -> Spectrum:
        """The plain spectrum, without noise and intervals."""
        return self.spectrum

    def to_dataset(self) -> "xr.Dataset":
        """Everything but the replicates as an `xarray.Dataset`: dimensions `node` (the spectrum) and `mode` (diagnostics)."""
        import xarray as xr

        variables: dict[str, Any] = {
            name: ("node", getattr(self.spectrum, name)) for name in ("eigenvalues", "target_power", "multiplicity")
        }
        for name in ("naive_power", "cross_power", "resolved_norm"):
            variables[name] = ("mode", getattr(self, name))
        modes = np.arange(1, len(self.naive_power) + 1)
        return xr.Dataset(variables, coords={"mode": modes}, attrs=self.facts())

    def facts(self) -> dict[str, Any]:
        """The plain numbers: exponents and powers as (value, low, high), sizes, ranges and the seed."""
        found: dict[str, Any] = {
            name: tuple(getattr(self, name)) for name in ("noise", "unresolved", "capacity", "source")
        }
        names = (
            "trace",
            "total_power",
            "head",
            "fit_range",
            "power_range",
            "resolved",
            "points",
            "fresh_points",
            "rows",
            "seed",
            "universality",
            "method",
        )
        return found | {name: getattr(self, name) for name in names}

    def for_plot(self) -> dict[str, Any]:
        """The table that `foretrain.report.plot_spectrum` draws."""
        return {
            "eigenvalues": self.eigenvalues,
            "target_power": self.target_power,
            "multiplicity": self.multiplicity,
            "naive": self.naive_power,
            "cross": self.cross_power,
            "head": self.head,
            "fit_range": self.fit_range,
            "capacity": self.capacity,
            "source": self.source,
            "noise": self.noise,
        }

    def __repr__(self) -> str:
        first, last = self.fit_range
        tested = f", tested on {self.fresh_points} more" if self.fresh_points else ", each tested on the others"
        how = f", top {len(self.cross_power)} modes by block Lanczos" if self.method == "top" else ""
        return "\n".join(
            (
                f"MeasuredSpectrum of {self.points} of {self.rows} rows{tested}{how} (seed {self.seed})",
                f"  capacity    {self.capacity}   modes {first} to {last}",
                f"  source      {self.source}   modes {self.power_range[0]} to {self.power_range[1]}",
                f"  noise       {self.noise}   of a total power of {self.total_power:.4g}",
                f"  unresolved  {self.unresolved}   power below mode {self.resolved}, noise included",
                f"  head        {self.head} single modes, largest eigenvalue {self.eigenvalues[0]:.4g} of a trace of "
                f"{self.trace:.4g}",
                f"  universality {self.universality:.3f}   (1 for Gaussian features)",
            )
        )


def jackknife_error(values: Float[np.ndarray, "replicates *results"]) -> Float[np.ndarray, "*results"]:
    """Standard error of a result from its values with one group of rows left out in turn."""
    values = np.asarray(values, dtype=np.float64)
    groups = len(values)
    return np.sqrt((groups - 1.0) / groups * np.sum((values - values.mean(axis=0)) ** 2, axis=0))
