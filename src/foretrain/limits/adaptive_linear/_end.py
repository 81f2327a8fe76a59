r"""The end of training, which feature learning does not change: losses of the minimum-norm solution, and its norm.

The filter ends at $\varphi=1/x$ for every richness (docs/theory/adaptive-linear.md, (AL.19)), so that losses are those of the linear limits at zero
ridge and $|\theta|^2=\hat b^\top\hat K^{-2}\hat b=F'(0)$.
"""

import math

import jax
import numpy as np

from foretrain.limits.adaptive_linear._scene import Case
from foretrain.limits.linear import SpectralMeasure, measure_of, one_point, ridge_losses
from foretrain.tasks import PowerLawSpectrum


def readout_norm(squared, richness):
    r"""$c$ from $|\theta|^2=c(1+\gamma c)$."""
    squared, richness = np.asarray(squared, float), np.asarray(richness, float)
    finite = np.where(np.isinf(squared), 0.0, squared)
    return np.where(np.isinf(squared), np.inf, 2.0 * finite / (1.0 + np.sqrt(1.0 + 4.0 * richness * finite)))


def gain(squared, richness):
    r"""$s=1+\gamma c$ from $|\theta|^2$."""
    squared, richness = np.asarray(squared, float), np.asarray(richness, float)
    grown = np.where(richness > 0.0, 4.0 * richness, 0.0) * np.where(richness > 0.0, squared, 0.0)
    return 0.5 + 0.5 * np.sqrt(1.0 + grown)


def end_of_training(case: Case) -> tuple[float, float, float]:
    """Test loss, train loss and readout norm at infinite time."""
    measure = measure_of(case.spectrum, 1e-15)
    noise = case.noise if math.isfinite(case.samples) else 0.0
    with jax.enable_x64(True):
        test, train = (float(part) for part in ridge_losses(measure, 0.0, case.width, case.samples, noise)[:, 0])
    if math.isinf(case.samples):
        train = test
    return test, train, float(readout_norm(final_norm(case, measure), case.richness))


def final_norm(case: Case, measure: SpectralMeasure) -> float:
    r"""$|\theta|^2$ at the end, $F'(0)$; `inf` where it diverges."""
    inv_n, inv_p = 1.0 / case.width, 1.0 / case.samples
    noise = case.noise if inv_p > 0 else 0.0
    kappa = float(np.real(one_point(measure, 0.0, case.width, case.samples).kappa))
    lam, trace, signal = (np.asarray(part) for part in (measure.eigenvalues, measure.trace, measure.signal))
    if kappa == 0.0:
        if inv_n == inv_p == 0.0:
            return _target_power(case)
        inverse = 1.0 / lam
        r1, r3 = 1.0 - inv_p * np.sum(trace * inverse), 1.0 - inv_n * np.sum(trace * inverse)
        if min(r1, r3) <= 1e-12:
            return math.inf
        return float((r1 * np.sum(signal * inverse) + noise * inv_p * np.sum(trace * inverse**2)) / (r1 * r3))
    u = 1.0 / (lam + kappa)
    df1, slope = np.sum(trace * u), -np.sum(trace * u * u)
    left = kappa * np.sum(signal * u) + noise
    if inv_n == inv_p:
        return math.inf
    if inv_p > inv_n:
        return float(left / (kappa * (1.0 - inv_n * df1)))
    r1, falls = 1.0 - inv_p * df1, np.sum(signal * lam * u * u)
    # z = kappa R1 R3 with R3 = 0 at the root.
    return float((-inv_p * slope * left + r1 * falls) / (-kappa * r1 * inv_n * slope))


def _target_power(case: Case) -> float:
    r"""$\sum_kw_k^{\star2}$, the norm of the whole target."""
    law = case.spectrum
    if not isinstance(law, PowerLawSpectrum):
        return float(np.sum(law.multiplicity * law.target_power))
    decay = 1.0 + law.capacity * (law.source - 1.0)
    if math.isinf(law.modes):
        if decay <= 1.0:
            return math.inf
        with jax.enable_x64(True):
            return law.power * float(jax.scipy.special.zeta(decay, 1.0))
    measure = measure_of(law, 1e-15)
    return float(np.sum(np.asarray(measure.signal) / np.asarray(measure.eigenvalues)))
