"""Which regime a power-law task is in, and the exponents that theory predicts for it."""

import dataclasses
import math

from foretrain.errors import InvalidInput


@dataclasses.dataclass(frozen=True)
class Regime:
    r"""The regime of a task and its predicted exponents; losses fall like a power with this (negative) exponent.

    Attributes:
        label: `"hard"` ($\beta<1$), `"easy"` or `"super-easy"` ($\beta>2-1/\alpha$).
        speedup: $\chi$, by which features that are learned multiply exponents in time.
        flow: of time, at infinite width on the population: $-\beta\chi$.
        width: of width, at the end of training: $-\alpha\min(1,\beta)$.
        samples: of the number of samples, at the end of training: $-\alpha\min(2,\beta)$.
        width_transient: of time, of the part that falls like $1/N$: $-(1-\frac1\alpha)\chi$.
        sgd_transient: of time, of the noise of early batches: $-(2-\frac1\alpha)\chi$; for hard tasks with features that
            are learned later noise dominates, see the page.
        norm: of time, of the readout norm $c$.
        compute_loss: of compute $C=Nt$, of the loss on the best plan.
        compute_width: of compute, of the best width; that of time is one minus it.
    """

    label: str
    speedup: float
    flow: float
    width: float
    samples: float
    width_transient: float
    sgd_transient: float
    norm: float
    compute_loss: float
    compute_width: float


def regime(capacity: float, source: float, richness: float = 1.0, *, sgd: bool = False) -> Regime:
    r"""The regime of a power-law task (`docs/theory/adaptive-linear.md`, (AL.32) to (AL.34); arXiv 2409.17858).

    The exponents are asymptotic. Corrections are slow close to the boundaries $\beta=1$ and $\beta=2-1/\alpha$; for explicit
    spectra and finite sizes solve the problem and look at `local_exponent`.

    Args:
        capacity: $\alpha>1$.
        source: $\beta>0$.
        richness: $\gamma\ge0$; only whether it is 0 matters.
        sgd: Whether the noise of batches enters the compute-optimal plan of super-easy tasks.

    Raises:
        InvalidInput: Exponents outside of these ranges.

    Example:
        >>> from foretrain.limits.adaptive_linear import regime
        >>> round(regime(1.5, 0.5).flow, 3), regime(1.5, 0.5, richness=0).flow
        (-0.667, -0.5)
    """
    for name, value, least in (("capacity", capacity, 1.0), ("source", source, 0.0)):
        if not (math.isfinite(value) and value > least):
            raise InvalidInput(f"regime({name}): expected a finite number > {least:g}, got {value:g}.")
    if not richness >= 0:
        raise InvalidInput(f"regime(richness): expected a number >= 0, got {richness:g}.")
    hard, rich = source < 1.0, richness > 0
    label = "hard" if hard else "easy" if source <= 2.0 - 1.0 / capacity else "super-easy"
    chi = 2.0 / (1.0 + source) if hard and rich else 1.0
    flow, width = -source * chi, -capacity * min(1.0, source)
    if hard:
        # t^flow against N^width.
        share = flow / (flow + width)
        compute = (width * share, share)
        norm = (1.0 - source) * (0.5 * chi if rich else 1.0)
    else:
        # t^-beta against the transient t^-(1 - 1/alpha) / N; with SGD not faster than its own transient.
        falls = min(source, 2.0 - 1.0 / capacity) if sgd else source
        rise = falls - (1.0 - 1.0 / capacity)
        compute, norm = (-falls / (1.0 + rise), rise / (1.0 + rise)), 0.0
    return Regime(
        label,
        chi,
        flow,
        width,
        -capacity * min(2.0, source),
        -(1.0 - 1.0 / capacity) * chi,
        -(2.0 - 1.0 / capacity) * chi,
        norm,
        *compute,
    )
