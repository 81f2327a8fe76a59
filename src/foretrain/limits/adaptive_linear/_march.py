r"""Discrete training, exactly: the two-time equations of (AL.24) to (AL.30), marched one row at a time.

Population, one pass and reused data, any width, any step below the edge of stability. Every matrix over pairs of steps is causal, so that
row $t$ follows from rows before it and nothing is iterated. Of the matrices that exist for each mode only
$M_k=H_k\mathcal K=(1+\lambda_k\mathcal KR_\Delta)^{-1}\mathcal K$ is kept; $H_k=1-\lambda_kM_kR_\Delta$.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from foretrain.limits._compile import compiled
from foretrain.limits.adaptive_linear._scene import Case
from foretrain.limits.linear import SpectralMeasure, index_nodes, power_law_measure, spectral_measure
from foretrain.tasks import PowerLawSpectrum, Spectrum

# Lengths of compiled programs.
SIZES = (16, 32, 64, 97, 129, 193, 257)
# Nodes of the compressed spectrum: the marched functions are polynomials in the eigenvalue, and smoother than resolvents.
EXACT_MODES = 8
PER_BIN = 12


class March(NamedTuple):
    """Losses, the readout norm and each node's mean residual at steps 0, 1, ...; the train loss contains the label noise."""

    test: np.ndarray
    train: np.ndarray
    norm: np.ndarray
    modes: np.ndarray


class _Rows(NamedTuple):
    """Matrices over pairs of steps, filled row by row (correlations also column by column)."""

    w: jax.Array  # response of the readout to its own preactivations, W
    u: jax.Array  # W + gamma D
    r22: jax.Array
    delta: jax.Array  # R_Delta, response of the residuals on the data
    modes: jax.Array  # M_k, shape (step, mode x step)
    learned: jax.Array  # sum over modes of lambda^2 M_k
    kept: jax.Array  # sum over modes of lambda H_k
    c0: jax.Array
    c2: jax.Array
    cw: jax.Array
    spread: jax.Array  # S
    source: jax.Array  # Xi
    second: jax.Array  # sum over modes of lambda^2 (H X H^T + lambda M Xi M^T)


def march_measure(spectrum: Spectrum | PowerLawSpectrum, clock: float, modes=None) -> SpectralMeasure:
    """The compressed spectrum for a march.

    Args:
        spectrum: what is learned.
        clock: rate times steps times the gain that may be reached: smaller eigenvalues stay linear.
        modes: further eigenvalues that are followed without weight, appended at the end.
    """
    if isinstance(spectrum, PowerLawSpectrum):
        smallest = 10.0 ** math.floor(math.log10(0.1 / max(clock, 1.0)))
        nodes = index_nodes(spectrum.modes, spectrum.capacity, smallest=smallest, exact=EXACT_MODES, per_bin=PER_BIN)
        with jax.enable_x64(True):
            host = jax.tree.map(np.asarray, power_law_measure(nodes, spectrum.capacity, spectrum.source))
        parts = [host.eigenvalues, host.trace, spectrum.power * host.signal]
    else:
        arrays = (spectrum.eigenvalues, spectrum.target_power, spectrum.multiplicity)
        host = spectral_measure(*arrays, exact=EXACT_MODES, per_bin=PER_BIN)
        parts = [host.eigenvalues, host.trace, host.signal]
    if modes is not None:
        parts = [
            np.concatenate([part, extra]) for part, extra in zip(parts, (modes, 0.0 * modes, 0.0 * modes), strict=True)
        ]
    return SpectralMeasure(*parts)


def march(measure: SpectralMeasure, case: Case, steps: int) -> March:
    """The first steps of a discrete protocol.

    Args:
        measure: spectrum and target of the case.
        case: rate, sizes, richness, noise.
        steps: how many steps are marched.
    """
    # Lengths come in a few sizes, so that few programs are compiled.
    size = next((length for length in SIZES if length > steps), steps + 1)
    with jax.enable_x64(True):
        numbers = (case.rate, case.richness, 1.0 / case.width, 1.0 / case.samples, 1.0 / case.batch, case.noise)
        arrays = (np.asarray(part) for part in (measure.eigenvalues, measure.trace, measure.signal))
        found = _march(*arrays, jnp.asarray(numbers), size, np.isfinite(case.samples), np.isfinite(case.batch))
    return March(*(np.asarray(part)[: steps + 1] for part in found))


@partial(compiled, static=("size", "reused", "fresh"))
def _march(lam, trace, signal, numbers, size, reused, fresh):
    rate, richness, inv_width, inv_samples, inv_batch, noise = numbers
    column = lam[:, None]
    index = jnp.arange(size)

    def put(matrix, t, row):
        """A symmetric matrix with row and column `t` set."""
        return matrix.at[t].set(row).at[:, t].set(row)

    def row(t, rows: _Rows):
        e, now, past = (index == t).astype(lam.dtype), index <= t, index < t
        before = jnp.maximum(t - 1, 0)
        # The readout's response: w_t = w_{t-1} + eta (v2_{t-1} + eta gamma sum_s C2(t-1, s) w_s).
        feedback = jnp.where(index < before, rows.c2[before], 0.0) @ rows.w
        moved = rows.w[before] + rate * ((index == before) + rate * richness * feedback)
        w_row = jnp.where(t > 0, moved, 0.0)
        w = rows.w.at[t].set(w_row)
        cw_row = (w_row @ rows.c2) @ w.T
        cw = put(rows.cw, t, jnp.where(now, cw_row, 0.0))
        u_row = w_row + richness * rate * jnp.where(past, cw_row, 0.0)
        u = rows.u.at[t].set(u_row)
        # Responses of the residuals in every mode.
        k_row = u_row @ rows.r22
        m_row = k_row[None] - column * ((k_row @ rows.delta) @ rows.modes).reshape(len(lam), size)
        modes = rows.modes.at[t].set(m_row.ravel())
        delta_row = e - inv_samples * ((trace @ m_row) @ rows.delta) if reused else e
        delta = rows.delta.at[t].set(delta_row)
        h_row = e[None] - column * (m_row @ rows.delta)
        kept = rows.kept.at[t].set(trace @ h_row)
        learned = rows.learned.at[t].set((trace * lam) @ m_row)
        r14_row = -inv_width * (delta_row @ kept)
        r22_row = e + (r14_row @ u) @ rows.r22
        r22 = rows.r22.at[t].set(r22_row)
        # Correlations: X_k = w_k^2 1 1^T + S.
        s_row = inv_width * ((u_row @ rows.c2) @ u.T)
        spread = put(rows.spread, t, jnp.where(now, s_row, 0.0))
        power = signal / jnp.where(trace == 0.0, 1.0, trace) * jnp.sum(h_row, 1)
        hx = jnp.where(now[None], power[:, None] + h_row @ spread, 0.0)
        weighed = column * (hx @ delta.T - m_row @ rows.source) * trace[:, None]
        both = jnp.stack([weighed.ravel(), (column * weighed).ravel()]) @ modes.T
        c0_row = jnp.where(now, trace @ hx - both[0], 0.0)
        c0 = put(rows.c0, t, c0_row)
        second = put(rows.second, t, jnp.where(now, (trace * lam) @ hx - both[1], 0.0))
        if reused:
            source_row = inv_samples * ((delta_row @ jnp.where(now[:, None] & now[None], c0 + noise, 0.0)) @ delta.T)
        else:
            source_row = e * inv_batch * (c0[t, t] + noise) if fresh else jnp.zeros_like(e)
        source = put(rows.source, t, jnp.where(now, source_row, 0.0))
        c1_row = (delta_row @ second) @ delta.T
        if reused or fresh:
            lost = (delta_row @ learned) @ source + (source[t] @ learned.T) @ delta.T
            c1_row = c1_row + jnp.sum(trace) * source[t] - lost
        c1_row = jnp.where(now, c1_row, 0.0)
        rows = _Rows(w, u, r22, delta, modes, learned, kept, c0, rows.c2, cw, spread, source, second)
        return rows, c1_row, r22_row, jnp.sum(h_row, 1)

    def step(t, state):
        rows, c1, residuals = state
        rows, c1_row, r22_row, residual = row(t, rows)
        c1 = put(c1, t, c1_row)
        c2 = put(rows.c2, t, jnp.where(index <= t, (r22_row @ c1) @ rows.r22.T, 0.0))
        return rows._replace(c2=c2), c1, residuals.at[t].set(residual)

    square = jnp.zeros((size, size), lam.dtype)
    start = _Rows(
        *(jnp.zeros((size, len(lam) * size), lam.dtype) if name == "modes" else square for name in _Rows._fields)
    )
    residuals = jnp.zeros((size, len(lam)), lam.dtype)
    rows, _, residuals = jax.lax.fori_loop(0, size, step, (start, square, residuals))
    test = jnp.diagonal(rows.c0)
    train = jnp.diagonal(rows.source) / inv_samples if reused else test + noise
    return test, train, jnp.diagonal(rows.cw), residuals
