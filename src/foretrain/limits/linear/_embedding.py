r"""SGD with a schedule: the noise kernels as sums over a few hundred decaying modes, stepped one rate after the other.

A schedule destroys the convolutions of SGD, but not what stands under them (docs/theory/sgd.md, (SG.22) and (SG.23)): the forcing of the train loss and
both kernels are integrals over the spectrum of the finite kernel,

$$\hat{\mathcal L}^{GD}_t=\int\varphi(u)\prod_{s<t}(1-\eta_su)^2du,\qquad
  \hat k_{t,s}=\frac{\eta_s^2}B\int\rho(u)\prod_{s<r<t}(1-\eta_ru)^2du .$$

With nodes $u_j$ and weights for each of the densities, the train loss is the sum of $c_j$ that obey
$c_j\leftarrow(1-\eta_su_j)^2c_j+\frac{\eta_s^2}B\rho_j\sum_ic_i$, and the noise part of the test loss likewise. The densities need never be
known: what a panel of the spectrum weighs with a polynomial is an integral of the one-point functions over an arc above it, which
is smooth even where the spectrum has gaps, edges and single lines.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from foretrain.limits._compile import compiled
from foretrain.limits.linear import _contour as contour
from foretrain.limits.linear._measure import SpectralMeasure, chebyshev_nodes, lagrange_coefficients, node_size
from foretrain.limits.linear._points import kappa_above_spectrum

# Panels of a factor 16, as for the compression of spectra; the first one holds what has not begun to decay.
RATIO = 16.0
UNTOUCHED = 0.1
NODES, COARSE_NODES = 24, 18
FIRST_NODES = 8
ARC_POINTS, COARSE_ARC_POINTS = 160, 128
ARC_HEIGHT = 0.25
# Towards the largest rate's 2 / eta, decay slows down again: panels there shrink by this factor.
TOP_RATIO = 4.0
CHUNK = 4096
# Longest schedule that is stepped through, and rate changes after it are left to constant steps.
MOST_STEPS = 4_000_000


class Embedding(NamedTuple):
    """Nodes with the weights of the forcing of the train loss, of its kernel, and of the kernel of the test loss."""

    nodes: Float[np.ndarray, " node"]
    forcing: Float[np.ndarray, " node"]
    kernel: Float[np.ndarray, " node"]
    test_kernel: Float[np.ndarray, " node"]


def embed(
    measure: SpectralMeasure,
    inv_width: float,
    inv_samples: float,
    noise: float,
    edge: float,
    rates,
    steps: float,
    fine: bool,
) -> Embedding:
    """The embedding of a problem, for a number of steps.

    Args:
        measure: the spectrum.
        inv_width: 1/N.
        inv_samples: 1/P.
        noise: variance of the label noise.
        edge: the largest eigenvalue of the finite kernel.
        rates: learning rates, the last one for ever.
        steps: how many steps the embedding must serve.
        fine: the full number of nodes, or the smaller one for the error estimate.
    """
    if inv_width == 0.0 and inv_samples == 0.0:
        # The spectrum is its own embedding; label noise never decays.
        lam, trace = np.asarray(measure.eigenvalues), np.asarray(measure.trace)
        q = trace if measure.shift is None else np.asarray(measure.shift)
        return Embedding(
            np.append(lam, 0.0),
            *(
                np.append(part, end)
                for part, end in ((np.asarray(measure.signal), noise), (trace * lam, 0.0), (q * lam, 0.0))
            ),
        )
    panels = _panels(edge, rates, steps)
    count, points = (NODES, ARC_POINTS) if fine else (COARSE_NODES, COARSE_ARC_POINTS)
    arcs = [panel.arc(points) for panel in panels]
    z = np.concatenate([arc for arc, _ in arcs])
    densities = _densities(measure, z, inv_width, inv_samples, noise)
    nodes, weights = [], []
    for i, (panel, (_, steps_on_arc)) in enumerate(zip(panels, arcs, strict=True)):
        piece = slice(i * points, (i + 1) * points)
        size = FIRST_NODES if panel.first else count
        basis = _complex_basis(panel.coordinate(-z[piece]), size)
        nodes.append(panel.nodes(size))
        weights.append(np.stack([((g[piece] * steps_on_arc) @ basis).imag / np.pi for g in densities]))
    return Embedding(np.concatenate(nodes), *np.concatenate(weights, 1))


class _Panel(NamedTuple):
    """A piece [low, high] of the spectrum; `log` says on which scale its nodes lie."""

    low: float
    high: float
    log: bool
    first: bool = False

    def _ends(self):
        return (np.log(self.low), np.log(self.high)) if self.log else (self.low, self.high)

    def coordinate(self, u):
        low, high = self._ends()
        return ((np.log(u) if self.log else u) - 0.5 * (high + low)) / (0.5 * (high - low))

    def nodes(self, count: int):
        low, high = self._ends()
        v = 0.5 * (high + low) + 0.5 * (high - low) * chebyshev_nodes(count)
        return np.exp(v) if self.log else v

    def arc(self, points: int):
        """Points above the panel from its lower end to its upper one, with the steps dz: clustered at the ends.

        The first panel's arc begins right of 0, so that what never decays is under it.
        """
        reach = np.linspace(-2.9, 2.9, points)
        q = 0.5 * np.pi * np.sinh(reach)
        bump = 1.0 / np.cosh(q) ** 2
        x, dx = np.tanh(q), (reach[1] - reach[0]) * 0.5 * np.pi * np.cosh(reach) * bump
        low, high = self._ends()
        low = low - 0.7 * (high - low) if self.first else low
        centre, half = 0.5 * (high + low), 0.5 * (high - low)
        v = centre + half * (x - 1j * ARC_HEIGHT * bump)
        dv = half * (1.0 + 2j * ARC_HEIGHT * x) * dx
        return (-np.exp(v), -np.exp(v) * dv) if self.log else (-v, -dv)


def _panels(edge: float, rates, steps: float) -> list[_Panel]:
    total = float(np.sum(rates[: int(min(steps, len(rates)))])) + max(steps - len(rates), 0.0) * float(rates[-1])
    largest = float(np.max(rates))
    # The last arc comes down outside of the spectrum, but before 2 / eta.
    top = min(1.05 * edge, 0.5 * (edge + 2.0 / largest)) if largest * edge < 2.0 else 1.05 * edge
    bend = min(top, 1.0 / largest)
    start = min(UNTOUCHED / max(total, 1e-300), 0.1 * bend)
    pieces = max(int(np.ceil(np.log(bend / start) / np.log(RATIO))), 1)
    cuts = np.geomspace(start, bend, pieces + 1)
    panels = [_Panel(0.0, start, False, True)]
    panels += [_Panel(low, high, True) for low, high in itertools.pairwise(cuts)]
    if top > bend:
        width = top - bend
        levels = int(np.clip(np.ceil(np.log(max(largest * width * steps / UNTOUCHED, 1.0)) / np.log(TOP_RATIO)), 0, 40))
        ends = np.concatenate([top - width * TOP_RATIO ** -np.arange(levels + 1.0), [top]])
        panels += [_Panel(low, high, False) for low, high in itertools.pairwise(ends)]
    return panels


def _complex_basis(x, count: int):
    """Lagrange polynomials of the Chebyshev nodes at complex points, shape (point, node)."""
    columns = [np.ones_like(x), x]
    for _ in range(count - 2):
        columns.append(2.0 * x * columns[-1] - columns[-2])
    return np.stack(columns, -1) @ lagrange_coefficients(count)


def _densities(measure: SpectralMeasure, z, inv_width: float, inv_samples: float, noise: float):
    """The three one-point functions whose jumps across the axis are the densities."""
    with jax.enable_x64(True):
        nodes = jax.tree.map(np.asarray, measure.pad(node_size(measure.nodes)))
        kappa = kappa_above_spectrum(nodes, z, inv_width, inv_samples)
    lam = np.asarray(measure.eigenvalues)
    u = 1.0 / (lam + kappa[:, None])
    df1, a1 = u @ np.asarray(measure.trace), u @ np.asarray(measure.signal)
    r1, r3 = 1.0 - inv_samples * df1, 1.0 - inv_width * df1
    if inv_samples > inv_width:
        r1 = z / (kappa * r3)
    else:
        r3 = z / (kappa * r1)
    seen = df1 if measure.shift is None else u @ np.asarray(measure.shift)
    return r1 * (kappa * a1 + noise) / z, -z * df1, -kappa * r3 * seen


@compiled
def step_program(nodes, train, test, kernel, test_kernel, rates, inv_batch, self_noise):
    """Steps through rates; returns the states and the two sums before every step. Rate 0 is no step.

    `self_noise` is what a mode's own fluctuations add to its decay: 1/B for exactly Gaussian inputs, else 0.
    """

    def step(state, rate):
        train, test = state
        loss = jnp.sum(train, -1, keepdims=True)
        pull = rate * nodes
        keep, kick = (1.0 - pull) ** 2 + self_noise * pull**2, rate * rate * inv_batch * loss
        sums = jnp.stack([loss[:, 0], jnp.sum(test, -1)])
        return (keep * train + kick * kernel, keep * test + kick * test_kernel), sums

    return jax.lax.scan(step, (train, test), rates)


def scheduled_noise(measure: SpectralMeasure, times, rates, sizes, edge: float, exact_gaussian: bool = False):
    """Train losses and noise parts of the test losses along a schedule, (2, time), with error estimates.

    Args:
        measure: the spectrum.
        times: steps, finite.
        rates: learning rates, one a step; the last one goes on for ever.
        sizes: strength of the minibatch noise, 1/N, 1/P and variance of the label noise.
        edge: the largest eigenvalue of the finite kernel.
        exact_gaussian: fresh Gaussian inputs, whose modes add to their own decay; with test inputs of their own (infinite
            width) the whole test losses are returned in place of their noise parts.
    """
    inv_batch, inv_n, inv_p, noise = (float(size) for size in sizes)
    last = float(np.max(times, initial=0.0))
    levels = [embed(measure, inv_n, inv_p, noise, edge, rates, last, fine) for fine in (True, False)]
    size = -(-max(level.nodes.size for level in levels) // 128) * 128
    nodes, train, kernel, test_kernel = (
        np.stack([np.pad(part, (0, size - part.size)) for part in parts]) for parts in zip(*levels, strict=True)
    )
    test, self_noise = np.zeros_like(train), 0.0
    if exact_gaussian:
        self_noise = inv_batch
        if measure.shift_signal is not None:
            test[:, : measure.nodes] = np.asarray(measure.shift_signal)
    state = (train, test)
    results = np.empty((2, 2, times.size))

    def walk(state, rates, offset):
        for begin in range(0, len(rates), CHUNK):
            piece = np.pad(rates[begin : begin + CHUNK], (0, max(begin + CHUNK - len(rates), 0)))
            with jax.enable_x64(True):
                state, sums = step_program(nodes, *state, kernel, test_kernel, piece, inv_batch, self_noise)
            here = (times >= offset + begin) & (times < offset + min(begin + CHUNK, len(rates)))
            at = (times[here] - offset - begin).astype(np.int64)
            results[..., here] = np.moveaxis(np.asarray(sums), 0, -1)[..., at]
        return state

    state = walk(state, rates, 0.0)
    walk(state, np.full(contour.FIRST_OPEN_STEP, rates[-1]), len(rates))
    late = times >= len(rates) + contour.FIRST_OPEN_STEP
    if np.any(late):
        train, test = (np.asarray(part) for part in state)
        for i in range(len(levels)):
            weights = (train[i], test[i], kernel[i], test_kernel[i])
            steps = times[late] - len(rates)
            results[:, i, late] = _constant_end(nodes[i], *weights, float(rates[-1]), inv_batch, self_noise, steps)
    return results[:, 0], np.abs(results[:, 0] - results[:, 1])


def _constant_end(nodes, train, test, kernel, test_kernel, rate: float, inv_batch: float, self_noise: float, steps):
    """Train loss and noise part after many more steps at one rate, by generating functions."""
    shift, a = contour.step_points(steps, contour.OPEN_POINTS)
    pull = rate * nodes
    u = 1.0 / (shift[..., None] + pull * (2.0 - pull) - self_noise * pull**2)
    strength = rate * rate * inv_batch
    loss = (shift * (u @ train)) / (1.0 - strength * (u @ kernel))
    return 2.0 * np.sum(a * np.stack([loss, shift * (u @ test) + strength * (u @ test_kernel) * loss]), -1).real
