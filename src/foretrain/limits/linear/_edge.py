r"""The edge of the spectrum of the finite kernel, and the largest stable learning rates.

The largest eigenvalue of $F\hat\Sigma$ (equally, of the features' Gram matrix) decides when discrete training diverges.
On the real axis left of the spectrum $z(\kappa)=\kappa(1-\mathrm{df}_1/P)(1-\mathrm{df}_1/N)$ has an extremum, and
$u_{\max}=\min_{\kappa<-\lambda_1}|z(\kappa)|$ (docs/theory/random-features.md, stability; arXiv:2402.01092).
"""

import numpy as np
from jaxtyping import Float

from foretrain.limits.linear._measure import SpectralMeasure


def _levels(lam, trace, y, inv_width, inv_samples):
    r"""D log|z| / d log x and log|z| at kappa = -x, x = lambda_1 (1 + e^y)."""
    top = lam.max()
    x = top * (1.0 + np.exp(y))
    # Distances are built from e^y, which x has forgotten close to the top eigenvalue.
    gap = 1.0 / (top * np.exp(y)[..., None] + (top - lam))
    d, d2 = gap @ trace, (gap * gap) @ trace
    slope = 1.0 - x * d2 * (inv_samples / (1.0 + inv_samples * d) + inv_width / (1.0 + inv_width * d))
    return slope, np.log(x) + np.log1p(inv_samples * d) + np.log1p(inv_width * d)


def spectral_edge(measure: SpectralMeasure, width, samples) -> Float[np.ndarray, "*problem"]:
    r"""Largest eigenvalue $u_{\max}$ of the finite kernel, in the deterministic limit.

    Gradient descent on the objective $\frac1{2P}\sum(y-f)^2$ is stable if and only if its learning rate is below
    $2/u_{\max}$. This is the edge for a dense top of the spectrum. A power law has one isolated top eigenvalue, whose
    typical position at finite size is `outlier`; the edge covers all but a few per cent of the draws, and the theory's
    losses diverge at the edge.

    Args:
        measure: the spectrum.
        width: $N$, `inf` allowed; broadcasts against `samples`.
        samples: $P$, `inf` allowed.

    Example:
        >>> import numpy as np
        >>> from foretrain.limits.linear import spectral_edge, spectral_measure
        >>> measure = spectral_measure([1.0], [1.0], [100.0])
        >>> float(np.round(spectral_edge(measure, np.inf, 400.0), 12))  # (1 + sqrt(100 / 400))^2
        2.25
    """
    lam, trace = (np.asarray(part, float) for part in (measure.eigenvalues, measure.trace))
    lam, trace = lam[trace != 0], trace[trace != 0]
    inv_width, inv_samples = np.broadcast_arrays(1.0 / np.asarray(width, float), 1.0 / np.asarray(samples, float))
    shape = inv_width.shape
    inv_width, inv_samples = inv_width.reshape(-1, 1), inv_samples.reshape(-1, 1)
    if lam.size == 0:
        return np.zeros(shape)
    top = lam.max()
    result = np.full(inv_width.size, top)
    finite = (inv_width + inv_samples).ravel() > 0.0
    # Coarse grid from far outside inwards: the edge is the first zero of the slope that is met.
    y = np.linspace(46.0, -46.0, 185)
    for i in np.flatnonzero(finite):
        sizes = (inv_width[i], inv_samples[i])
        slope, _ = _levels(lam, trace, y, *sizes)
        inside = np.flatnonzero(slope <= 0.0)
        high, low = (y[inside[0] - 1], y[inside[0]]) if inside.size and inside[0] > 0 else (y[-1], y[-1])
        for _ in range(60):
            middle = 0.5 * (high + low)
            steep = _levels(lam, trace, np.atleast_1d(middle), *sizes)[0][0]
            high, low = (middle, low) if steep > 0.0 else (high, middle)
        result[i] = np.exp(_levels(lam, trace, np.atleast_1d(high), *sizes)[1][0])
    return result.reshape(shape)


def outlier(measure: SpectralMeasure, width, samples) -> Float[np.ndarray, "*problem"]:
    r"""Typical position of an isolated top eigenvalue at finite size, to first order in the couplings to the others.

    $u_1=\lambda_1\big(1+\frac1P\sum_{j\ne1}\frac{\lambda_j}{\lambda_1-\lambda_j}\big)
    \big(1+\frac1N\sum_{j\ne1}\frac{\lambda_j}{\lambda_1-\lambda_j}\big)$; single draws scatter around it with relative
    standard deviation of order $\sqrt{2/P+2/N}$. Never above `spectral_edge` by construction of the theory only when the
    top eigenvalue is well separated: where the two lines cross (a degenerate or dense top), the edge is returned.

    Args:
        measure: the spectrum.
        width: $N$, `inf` allowed; broadcasts against `samples`.
        samples: $P$, `inf` allowed.
    """
    lam, trace = (np.asarray(part, float) for part in (measure.eigenvalues, measure.trace))
    lam, trace = lam[trace != 0], trace[trace != 0]
    edge = spectral_edge(measure, width, samples)
    if lam.size == 0:
        return edge
    first = int(np.argmax(lam))
    rest = np.arange(lam.size) != first
    if trace[first] > 1.5 * lam[first]:  # more than one mode at the top: not isolated
        return edge
    pull = np.sum(trace[rest] / (lam[first] - lam[rest]))
    estimate = lam[first] * (1.0 + pull / np.asarray(samples, float)) * (1.0 + pull / np.asarray(width, float))
    return np.minimum(estimate, edge)


def max_stable_lr(measure: SpectralMeasure, width, samples, momentum=0.0) -> Float[np.ndarray, "*problem"]:
    r"""Largest learning rate at which full-batch training is stable: $2(1+\beta)/u_{\max}$, `inf` for a zero spectrum.

    Args:
        measure: the spectrum.
        width: $N$, `inf` allowed.
        samples: $P$, `inf` allowed.
        momentum: $\beta$ of the heavy ball; 0 is gradient descent.
    """
    edge = spectral_edge(measure, width, samples)
    with np.errstate(divide="ignore"):
        return 2.0 * (1.0 + np.asarray(momentum, float)) / edge
