r"""The compressed spectral measure: everything the theory needs to know about a spectrum, in a few hundred nodes.

All formulas of the random-feature theory are sums over modes of two kinds, with $\mu_k$ the multiplicity of a mode:

$$\sum_k\mu_k\lambda_k\,g(\lambda_k)\quad(\text{trace measure}),\qquad
  \sum_k\mu_k\lambda_kw_k^{\star2}\,g(\lambda_k)\quad(\text{signal measure}).$$

A `SpectralMeasure` holds nodes and one weight per node for each. The largest modes stay exact; the rest are cut in
wide bins in $\lambda$, and in each bin both measures are replaced by Chebyshev nodes in $\log\lambda$ with
the weights $\sum_k\mu_k\ell_j(\log\lambda_k)$ of polynomial interpolation (docs/theory/random-features.md).
Power laws are cut in the *index* $k$ instead, so that nodes and counting weights do not depend on the exponents: the
measure stays differentiable in them and costs the same for $10^3$, $10^9$ or infinitely many modes.

When test inputs come from another distribution, with mean square $q_k$ of feature $k$, two more measures say so:
$\sum_k\mu_kq_k\,g(\lambda_k)$ and $\sum_k\mu_kq_kw_k^{\star2}\,g(\lambda_k)$.
"""

import itertools
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from foretrain.errors import InvalidInput

# Few wide bins need fewer nodes than many narrow ones: 24 per factor 16 are as exact as 48 in four factors of 2.
EXACT_MODES = 32
NODES_PER_BIN = 24
BIN_RATIO = 16.0
TAIL_NODES = 6
# Bins of a power law that begin below this index are summed mode by mode; beyond, Euler-Maclaurin is exact to 1e-13.
DIRECT_SUM = 2000


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["eigenvalues", "trace", "signal", "shift", "shift_signal"],
    meta_fields=[],
)
@dataclass(frozen=True)
class SpectralMeasure:
    r"""Nodes and weights that stand for a spectrum and a target.

    Attributes:
        eigenvalues: $\lambda_j$, positive nodes (padding nodes carry zero weights).
        trace: weights of $\sum_k\mu_k\lambda_kg(\lambda_k)$; they sum to the trace of the kernel operator.
        signal: weights of $\sum_k\mu_k\lambda_kw^{\star2}_kg(\lambda_k)$; they sum to the loss before training.
        shift: weights of $\sum_k\mu_kq_kg(\lambda_k)$ if the test inputs have mean squares $q_k$ of their own, else `None`. A
            node at 0 then stands for the directions that the training inputs do not show.
        shift_signal: weights of $\sum_k\mu_kq_kw^{\star2}_kg(\lambda_k)$, or `None`.
    """

    eigenvalues: Float[Array, "node"] | np.ndarray
    trace: Float[Array, "node"] | np.ndarray
    signal: Float[Array, "node"] | np.ndarray
    shift: Float[Array, "node"] | np.ndarray | None = None
    shift_signal: Float[Array, "node"] | np.ndarray | None = None

    @property
    def nodes(self) -> int:
        """Number of nodes, padding included."""
        return self.eigenvalues.shape[-1]

    def pad(self, nodes: int) -> "SpectralMeasure":
        """The same measure with weightless nodes appended, so that compiled programs can be reused."""
        extra = nodes - self.nodes
        if extra <= 0:
            return self
        one = jnp.broadcast_to(self.eigenvalues[..., :1], (*self.eigenvalues.shape[:-1], extra))
        zero = jnp.zeros_like(one)
        trace, signal = (jnp.concatenate([part, zero], -1) for part in (self.trace, self.signal))
        shifts = (
            None if part is None else jnp.concatenate([part, zero], -1) for part in (self.shift, self.shift_signal)
        )
        return SpectralMeasure(jnp.concatenate([self.eigenvalues, one], -1), trace, signal, *shifts)

    @property
    def initial_loss(self):
        """The test loss before training."""
        return (self.signal if self.shift_signal is None else self.shift_signal).sum(-1)


def node_size(nodes: int) -> int:
    """The padded number of nodes: multiples of 32 up to 256, then of 128."""
    step = 32 if nodes <= 256 else 128
    return -(-nodes // step) * step


def chebyshev_nodes(count: int) -> np.ndarray:
    """Chebyshev points of the first kind on [-1, 1], descending."""
    return np.cos((np.arange(count) + 0.5) * np.pi / count)


def lagrange_basis(x: np.ndarray, count: int) -> np.ndarray:
    """Lagrange polynomials of the `count` Chebyshev nodes at the points `x` in [-1, 1]: shape x.shape + (count,).

    Uses the discrete orthogonality of Chebyshev polynomials, so no division by a vanishing distance occurs.
    """
    degree = np.arange(count)
    # arccos rounds badly at the ends, but only the cosine of a multiple is used: the error stays at degree * 1e-16.
    return np.cos(np.arccos(np.clip(x, -1.0, 1.0))[..., None] * degree) @ lagrange_coefficients(count)


def lagrange_coefficients(count: int) -> np.ndarray:
    """Chebyshev coefficients of the Lagrange polynomials of the Chebyshev nodes: shape (degree, node)."""
    coefficients = 2.0 / count * np.cos(np.outer(np.arange(count), np.arccos(chebyshev_nodes(count))))
    coefficients[0] *= 0.5
    return coefficients


def interpolation_weights(x: np.ndarray, count: int, *measures: np.ndarray) -> list[np.ndarray]:
    """Sums of the Lagrange polynomials over points weighted by each measure, in memory of a few vectors."""
    moments = np.empty((len(measures), count))
    before, now = x, np.ones_like(x)
    for degree in range(count):
        for row, weight in zip(moments, measures, strict=True):
            # Not BLAS: its threads cost more than these sums, above all where cores are shared.
            row[degree] = np.einsum("i,i->", weight, now)
        before, now = now, 2.0 * x * now - before
    return list(moments @ lagrange_coefficients(count))


def _checked(name: str, values, like: np.ndarray | None = None) -> np.ndarray:
    array = np.atleast_1d(np.asarray(values, dtype=np.float64))
    if array.ndim != 1 or (like is not None and array.shape != like.shape):
        expected = "a vector" if like is None else f"a vector of length {like.size}, one entry per eigenvalue"
        raise InvalidInput(f"spectral_measure({name}): expected {expected}, got shape {array.shape}.")
    if not np.all(np.isfinite(array)) or np.any(array < 0):
        bad = array[~(np.isfinite(array) & (array >= 0))][0]
        raise InvalidInput(f"spectral_measure({name}): expected finite numbers >= 0, got {bad!r}.")
    return array


def spectral_measure(
    eigenvalues,
    target_power,
    multiplicity=None,
    test_eigenvalues=None,
    *,
    exact: int = EXACT_MODES,
    per_bin: int = NODES_PER_BIN,
    ratio: float = BIN_RATIO,
) -> SpectralMeasure:
    r"""The compressed measure of an explicit spectrum.

    Equal eigenvalues are merged. Modes with $\lambda=0$ are dropped (no method of this family can learn them, and the
    losses weight them by zero), unless the test inputs show them. With the default resolution the losses of power laws
    change by less than 1e-10 relative to their value at time zero; `exact=len(eigenvalues)` switches compression off.

    Args:
        eigenvalues: $\lambda_k\ge0$ of the kernel *operator*, in any order.
        target_power: $(w^\star_k)^2$, not multiplied by $\lambda_k$.
        multiplicity: number of modes with this eigenvalue and power each; real numbers > 0, default 1.
        test_eigenvalues: $q_k\ge0$, mean squares of the features on test inputs, where they are not $\lambda_k$.
        exact: how many of the largest distinct eigenvalues stay as they are.
        per_bin: Chebyshev nodes per bin.
        ratio: width of a bin in $\lambda$.

    Returns:
        The measure; its size is that of the nodes, whatever the number of modes.

    Raises:
        InvalidInput: negative or non-finite values, or shapes that do not match.

    Example:
        >>> import numpy as np
        >>> from foretrain.limits.linear import spectral_measure
        >>> k = np.arange(1, 100_001)
        >>> spectral_measure(k**-1.25, k**-0.25).nodes
        128
    """
    lam = _checked("eigenvalues", eigenvalues)
    power = _checked("target_power", target_power, lam)
    count = np.ones_like(lam) if multiplicity is None else _checked("multiplicity", multiplicity, lam)
    weights = [count * lam, count * lam * power]
    if test_eigenvalues is not None:
        q = _checked("test_eigenvalues", test_eigenvalues, lam)
        weights += [count * q, count * q * power]
    used = (lam > 0) & (count > 0)
    unseen = [float(part[~used].sum()) for part in weights]
    if not np.any(used):
        parts = [(np.ones(1), *(np.zeros(1) for _ in weights))]
    else:
        parts = _compressed(lam[used], [part[used] for part in weights], exact, per_bin, ratio)
    if any(unseen):
        parts.append((np.zeros(1), *(np.full(1, part) for part in unseen)))
    return SpectralMeasure(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _compressed(lam, weights: list[np.ndarray], exact: int, per_bin: int, ratio: float) -> list[tuple]:
    """Nodes and weights, piece by piece; positive eigenvalues only."""
    distinct, place = np.unique(-lam, return_inverse=True)
    weights = [np.bincount(place, part) for part in weights]
    lam = -distinct
    if lam.size <= exact:
        return [(lam, *weights)]
    parts = [(lam[:exact], *(part[:exact] for part in weights))]
    lam, weights = lam[exact:], [part[exact:] for part in weights]
    bins = np.floor(np.log(lam[0] / lam) / np.log(ratio)).astype(np.int64)
    edges = np.concatenate([[0], np.flatnonzero(np.diff(bins)) + 1, [lam.size]])
    x = chebyshev_nodes(per_bin)
    for start, stop in itertools.pairwise(edges):
        piece = slice(start, stop)
        own = [part[piece] for part in weights]
        if stop - start <= per_bin:
            parts.append((lam[piece], *own))
            continue
        # Interpolating in log(lambda) is two digits better than in lambda for the resolvents 1 / (lambda + kappa).
        top, bottom = np.log(lam[start]), np.log(lam[stop - 1])
        centre, half = 0.5 * (top + bottom), 0.5 * (top - bottom)
        fitted = interpolation_weights((np.log(lam[piece]) - centre) / half, per_bin, *own)
        parts.append((np.exp(centre + half * x), *fitted))
    return parts


@partial(jax.tree_util.register_dataclass, data_fields=["index", "count"], meta_fields=["tail_start", "tail_stop"])
@dataclass(frozen=True)
class IndexNodes:
    r"""Nodes in the mode index: $\sum_kh(k)\approx\sum_jc_jh(k_j)+\text{tail}$ for $h$ smooth on a logarithmic scale.

    Attributes:
        index: $k_j\ge1$, not necessarily integers.
        count: $c_j$, how many modes node $j$ stands for.
        tail_start: modes above this half-integer index, if any, are summed analytically.
        tail_stop: the half-integer index above the last mode, or `inf`; equal to `tail_start` without a tail.
    """

    index: Float[Array, "node"] | np.ndarray
    count: Float[Array, "node"] | np.ndarray
    tail_start: float
    tail_stop: float


def index_nodes(
    modes: float,
    capacity: float,
    *,
    smallest: float = 1e-12,
    exact: int = EXACT_MODES,
    per_bin: int = NODES_PER_BIN,
    ratio: float = BIN_RATIO,
) -> IndexNodes:
    r"""Nodes that compress the modes of a power law with an exponent near `capacity`.

    Args:
        modes: number of modes, `inf` allowed.
        capacity: exponent that sets the bin width, so that a bin spans a factor `ratio` in $\lambda=k^{-\text{capacity}}$;
            the nodes serve any exponent close to it.
        smallest: the smallest $|\kappa|$ that must be resolved, relative to $\lambda_1=1$. The modes with
            $\lambda<\text{smallest}/50$, if there are any, form the analytic tail.
        exact: modes kept one by one.
        per_bin: Chebyshev nodes in $\log k$ per bin.
        ratio: width of a bin in $\lambda$.

    Returns:
        The nodes, a pure function of the arguments (no exponent is baked into the weights).
    """
    resolved = min(max((smallest / 50.0) ** (-1.0 / capacity), 2.0 * DIRECT_SUM), 1e300)
    # A tail shorter than one bin is not worth its nodes.
    width = np.log(ratio) / max(capacity, 1.0)
    last = np.floor(resolved) if modes > resolved * np.exp(width) else float(modes)
    # Bins narrower than the nodes they would hold are kept exactly.
    exact = int(min(max(exact, per_bin / np.expm1(width)), last))
    index, count = [np.arange(1.0, exact + 1)], [np.ones(exact)]
    if last > exact:
        pieces = max(int(np.ceil(np.log((last + 0.5) / (exact + 0.5)) / width)), 1)
        edges = np.exp(np.linspace(np.log(exact + 0.5), np.log(last + 0.5), pieces + 1))
        edges = np.where(edges < 2**50, np.floor(edges) + 0.5, edges)
        edges[0], edges[-1] = exact + 0.5, last + 0.5
        x = chebyshev_nodes(per_bin)
        gauss, gauss_weight = np.polynomial.legendre.leggauss(64)
        basis = lagrange_basis(gauss, per_bin)
        slope = _end_slopes(per_bin)
        for low, high in itertools.pairwise(edges):
            if high - low <= per_bin + 0.5:
                whole = np.arange(np.ceil(low), np.floor(high) + 1)
                index.append(whole)
                count.append(np.ones(whole.size))
                continue
            if low <= DIRECT_SUM:
                # Nodes inside the outermost modes, so that interpolation never extrapolates.
                whole = np.arange(np.ceil(low), np.floor(high) + 1)
                centre = 0.5 * np.log(whole[-1] * whole[0])
                half = 0.5 * np.log(whole[-1] / whole[0])
                weight = lagrange_basis((np.log(whole) - centre) / half, per_bin).sum(0)
            else:
                centre, half = 0.5 * np.log(high * low), 0.5 * np.log(high / low)
                weight = (gauss_weight * half * np.exp(centre + half * gauss)) @ basis
                # Midpoint Euler-Maclaurin: sum = integral - (h'(high) - h'(low)) / 24 + O(index^-3 h).
                weight = weight - (slope[1] / high - slope[0] / low) / (24.0 * half)
            index.append(np.exp(centre + half * x))
            count.append(weight)
    return IndexNodes(np.concatenate(index), np.concatenate(count), float(last + 0.5), float(modes + 0.5))


def _end_slopes(count: int) -> np.ndarray:
    """Derivatives of the Lagrange polynomials of the Chebyshev nodes at x = -1 and x = +1: shape (2, count)."""
    degree = np.arange(count)
    at_one = degree**2.0
    return np.stack([np.where(degree % 2 == 0, -at_one, at_one), at_one]) @ lagrange_coefficients(count)


def power_law_measure(nodes: IndexNodes, capacity, source) -> SpectralMeasure:
    r"""The measure of $\lambda_k=k^{-\text{capacity}}$, $\lambda_kw_k^{\star2}=k^{-(\text{capacity}\cdot\text{source}+1)}$.

    Pure and differentiable in both exponents; `nodes` come from `index_nodes`.

    Args:
        nodes: nodes in the mode index.
        capacity: exponent of the eigenvalues; > 1 for an infinite number of modes.
        source: smoothness of the target; > 0 for an infinite number of modes.

    Returns:
        The measure. An infinite tail is represented by a few nodes on $[0,\lambda_{\text{tail}}]$ that reproduce its
        moments exactly.
    """
    k, count = jnp.asarray(nodes.index), jnp.asarray(nodes.count)
    capacity, source = jnp.asarray(capacity, k.dtype), jnp.asarray(source, k.dtype)
    decay = capacity * source + 1.0
    eigenvalues = k**-capacity
    trace, signal = count * eigenvalues, count * k**-decay
    if nodes.tail_stop == nodes.tail_start:
        return SpectralMeasure(eigenvalues, trace, signal)
    x = 0.5 * (1.0 + chebyshev_nodes(TAIL_NODES))
    # Lagrange polynomials of the tail's nodes in powers of lambda / lambda_tail; six nodes are well conditioned.
    to_weight = jnp.asarray(np.linalg.inv(np.vander(x, increasing=True)).T)
    start = nodes.tail_start
    top = start**-capacity

    def moments(exponent):
        """Sum over the tail of k^-exponent (k^-capacity / top)^j."""
        total = exponent + capacity * jnp.arange(TAIL_NODES)
        whole = start**-exponent * (start / (total - 1.0) - total / (24.0 * start))
        if np.isinf(nodes.tail_stop):
            return whole
        # Beyond the last mode; the powers of the ratio underflow harmlessly.
        shrink = (nodes.tail_stop / start) ** -total
        return whole - start**-exponent * shrink * (nodes.tail_stop / (total - 1.0) - total / (24.0 * nodes.tail_stop))

    # Midpoint Euler-Maclaurin for h(k) = k^-total: sum_{k > K} h = integral_K h + h'(K) / 24.
    return SpectralMeasure(
        jnp.concatenate([eigenvalues, x * top]),
        jnp.concatenate([trace, to_weight @ moments(capacity)]),
        jnp.concatenate([signal, to_weight @ moments(decay)]),
    )
