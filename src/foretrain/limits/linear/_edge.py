r"""The edge of the spectrum of the finite kernel, and the largest stable learning rates.

The largest eigenvalue of $F\hat\Sigma$ (equally, of the features' Gram matrix) decides when discrete training diverges.
On the real axis left of the spectrum $z(\kappa)=\kappa(1-\mathrm{df}_1/P)(1-\mathrm{df}_1/N)$ has an extremum, and
$u_{\max}=\min_{\kappa<-\lambda_1}|z(\kappa)|$ (docs/theory/random-features.md, stability; arXiv:2402.01092).
"""

import numpy as np
from jaxtyping import Float

from foretrain.errors import InvalidInput
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


def _sizes(*sizes) -> tuple[tuple[int, ...], list[np.ndarray]]:
    """The common shape of sizes, and their inverses as columns."""
    broad = np.broadcast_arrays(*(1.0 / np.asarray(size, float) for size in sizes))
    return broad[0].shape, [part.reshape(-1, 1) for part in broad]


def _support(measure: SpectralMeasure) -> tuple[np.ndarray, np.ndarray]:
    lam, trace = (np.asarray(part, float) for part in (measure.eigenvalues, measure.trace))
    return lam[trace != 0], trace[trace != 0]


def _edge_levels(lam, trace, inv_width, inv_samples) -> np.ndarray:
    """The y at which |z| is smallest, one per pair of sizes; minus infinity (x = lambda_1) where both are infinite."""
    result = np.full(inv_width.size, -np.inf)
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
        result[i] = high
    return result


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
    lam, trace = _support(measure)
    shape, (inv_width, inv_samples) = _sizes(width, samples)
    if lam.size == 0:
        return np.zeros(shape)
    result = np.full(inv_width.size, lam.max())
    y = _edge_levels(lam, trace, inv_width, inv_samples)
    for i in np.flatnonzero(np.isfinite(y)):
        result[i] = np.exp(_levels(lam, trace, y[i : i + 1], inv_width[i], inv_samples[i])[1][0])
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
    lam, trace = _support(measure)
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


def max_stable_lr(
    measure: SpectralMeasure, width, samples, momentum=0.0, batch_size=None, replacement: bool = True
) -> Float[np.ndarray, "*problem"]:
    r"""Largest stable learning rate, `inf` for a zero spectrum.

    Full batch: $2(1+\beta)/u_{\max}$. SGD with batches of $B$ is stable below that rate only as long as the noise that it feeds
    back is less than what it forgets, $\sum_k\frac{\lambda_k}{|\kappa|-\lambda_k}<B$ at $\kappa=\kappa(-2/\eta)$ (docs/theory/sgd.md, (SG.16) and (SG.18); for
    $N=P=\infty$ this is the known $\sum_k\frac{\eta\lambda_k}{2-\eta\lambda_k}<B$).

    Args:
        measure: the spectrum.
        width: $N$, `inf` allowed; all sizes broadcast.
        samples: $P$, `inf` allowed.
        momentum: $\beta$ of the heavy ball; 0 is gradient descent. Full batch only.
        batch_size: $B$, or `None` for full batch.
        replacement: whether a batch may hold a sample twice.

    Example:
        >>> import numpy as np
        >>> from foretrain.limits.linear import max_stable_lr, spectral_measure
        >>> measure = spectral_measure([1.0], [1.0], [100.0])  # eta < 2 B / (M + B)
        >>> float(np.round(max_stable_lr(measure, np.inf, np.inf, batch_size=25), 12))
        0.4
    """
    if batch_size is None:
        edge = spectral_edge(measure, width, samples)
        with np.errstate(divide="ignore"):
            return 2.0 * (1.0 + np.asarray(momentum, float)) / edge
    lam, trace = _support(measure)
    shape, (inv_width, inv_samples, inv_batch) = _sizes(width, samples, batch_size)
    if lam.size == 0:
        return np.full(shape, np.inf)
    with np.errstate(divide="ignore"):
        batch = (1.0 / (inv_batch * _noise_factor(inv_batch, inv_samples, replacement))).ravel()
    # The gain falls with y, from its value at the edge (or infinity) to zero.
    low = np.maximum(_edge_levels(lam, trace, inv_width, inv_samples), -46.0)
    edge = low.copy()
    high = np.full(low.shape, 700.0)
    for _ in range(100):
        middle = 0.5 * (low + high)
        above = _gain_sum(lam, trace, middle) > batch
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    # Where even the edge is stable, nothing was above.
    y = np.where(_gain_sum(lam, trace, edge) <= batch, edge, high)
    return (2.0 * np.exp(-_levels_at(lam, trace, y, inv_width, inv_samples))).reshape(shape)


def sgd_gain(
    measure: SpectralMeasure, width, samples, learning_rate, batch_size, replacement: bool = True
) -> Float[np.ndarray, "*problem"]:
    r"""How much noise SGD feeds back into itself: the sum over steps of the noise kernel of the train loss.

    $-\frac1B\mathrm{df}_1\big(\kappa(-2/\eta)\big)$ (docs/theory/sgd.md, (SG.15); arXiv:2502.05074). The late train loss is that of gradient descent
    over one minus the gain; at 1 SGD diverges. Above one half, single runs scatter widely and unlucky draws diverge.

    Args:
        measure: the spectrum.
        width: $N$, `inf` allowed; all arguments broadcast.
        samples: $P$, `inf` allowed.
        learning_rate: $\eta>0$; `inf` is returned beyond the edge of gradient descent.
        batch_size: $B$.
        replacement: whether a batch may hold a sample twice.

    Example:
        >>> import numpy as np
        >>> from foretrain.limits.linear import sgd_gain, spectral_measure
        >>> measure = spectral_measure([1.0], [1.0], [100.0])  # M eta / (B (2 - eta))
        >>> float(np.round(sgd_gain(measure, np.inf, np.inf, 0.4, 100), 12))
        0.25
    """
    lam, trace = _support(measure)
    shape, (inv_width, inv_samples, rate, inv_batch) = _sizes(
        width, samples, 1.0 / np.asarray(learning_rate, float), batch_size
    )
    if lam.size == 0:
        return np.zeros(shape)
    total = _gain_sum(lam, trace, level_roots(measure, 2.0 / rate.ravel(), inv_width, inv_samples))
    factor = inv_batch * _noise_factor(inv_batch, inv_samples, replacement)
    with np.errstate(invalid="ignore"):
        return np.where(np.isnan(total), np.inf, factor.ravel() * total).reshape(shape)


def critical_batch(
    measure: SpectralMeasure, width, samples, learning_rate, replacement: bool = True
) -> Float[np.ndarray, "*problem"]:
    r"""The batch size below which SGD at this learning rate diverges; `inf` beyond the edge of gradient descent.

    Args:
        measure: the spectrum.
        width: $N$, `inf` allowed; all arguments broadcast.
        samples: $P$, `inf` allowed.
        learning_rate: $\eta>0$.
        replacement: whether a batch may hold a sample twice.

    Example:
        >>> import numpy as np
        >>> from foretrain.limits.linear import critical_batch, spectral_measure
        >>> measure = spectral_measure([1.0], [1.0], [100.0])
        >>> float(np.round(critical_batch(measure, np.inf, np.inf, 0.4), 12))
        25.0
    """
    batch = sgd_gain(measure, width, samples, learning_rate, 1.0)
    if replacement:
        return batch
    # B (P - 1) / (P - B) is the batch with replacement that is as noisy.
    inv_samples = 1.0 / np.asarray(samples, float)
    with np.errstate(invalid="ignore"):
        without = batch / (1.0 - inv_samples + batch * inv_samples)
    return np.where(np.isinf(batch), np.inf, without)


def noise_factor(batch_size, samples, replacement: bool):
    """How much less noise a batch without repetitions has, $(P-B)/(P-1)$."""
    return _noise_factor(1.0 / np.asarray(batch_size, float), 1.0 / np.asarray(samples, float), replacement)


def _noise_factor(inv_batch, inv_samples, replacement: bool):
    if replacement:
        return np.ones(np.broadcast_shapes(np.shape(inv_batch), np.shape(inv_samples)))
    ratio = np.max(inv_samples / inv_batch, initial=0.0)
    if ratio > 1.0 + 1e-12:
        raise InvalidInput(
            f"batch_size: expected at most samples where batches are drawn without replacement, got {ratio:g} times as many."
        )
    alone = np.asarray(inv_samples) == 1.0
    return np.where(alone, 0.0, (1.0 - inv_samples / inv_batch) / np.where(alone, 1.0, 1.0 - inv_samples))


def level_roots(measure: SpectralMeasure, levels, inv_width, inv_samples) -> Float[np.ndarray, " problem"]:
    r"""$y$ with $z(\kappa)=-$ level at $\kappa=-\lambda_1(1+e^y)$, outside of the spectrum; NaN for levels inside.

    Args:
        measure: a spectrum that is not zero.
        levels: $-z$, one per problem.
        inv_width: $1/N$, shape (problem, 1).
        inv_samples: $1/P$, same shape.
    """
    lam, trace = _support(measure)
    edge = np.maximum(_edge_levels(lam, trace, inv_width, inv_samples), -46.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        # |z| exceeds |kappa|.
        high = np.log(np.maximum(levels / lam.max() - 1.0, 0.0))
    bottom = _levels_at(lam, trace, edge, inv_width, inv_samples)
    outside = (np.log(levels) > bottom) & (high > edge)
    low, high = edge, np.where(outside, high, edge + 1.0)
    for _ in range(100):
        middle = 0.5 * (low + high)
        above = _levels_at(lam, trace, middle, inv_width, inv_samples) > np.log(levels)
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.where(outside, 0.5 * (low + high), np.nan)


def _levels_at(lam, trace, y, inv_width, inv_samples):
    """log|z|, one y per problem."""
    d = _gain_sum(lam, trace, y)
    top = np.log(lam.max()) + np.logaddexp(0.0, y)
    return top + np.log1p(inv_samples.ravel() * d) + np.log1p(inv_width.ravel() * d)


def _gain_sum(lam, trace, y):
    r"""$\sum_k\lambda_k/(|\kappa|-\lambda_k)$ at $|\kappa|=\lambda_1(1+e^y)$."""
    top = lam.max()
    return (1.0 / (top * np.exp(y)[:, None] + (top - lam))) @ trace
