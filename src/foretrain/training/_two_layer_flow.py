r"""Gradient flow of the two-layer linear model, exact for every draw.

Along the flow $BB^\top-\gamma\,\omega\omega^\top=1$, so that $|\theta|^2=c(1+\gamma c)$ and $\theta$ obeys an equation of its own,
$\dot\theta=s\,g+\frac\gamma s\theta(\theta\cdot g)$ with the gain $s=1+\gamma c$. As $\dot s=2\gamma\,\theta\cdot g$, the push along $\theta$ is $\frac{\dot s}{2s}\theta$: in
$\phi=\theta/\sqrt s$ and with the clock $d\tau=s\,dt$ it disappears,

$$\frac{d\phi_j}{d\tau}=a\,b_j-x_j\phi_j,\qquad a=\frac1{\sqrt{1+\gamma|\phi|^2}}=\frac1{\sqrt s},\qquad\frac{dt}{d\tau}=a^2,\qquad c=|\phi|^2.$$

Only the scalar $a(\tau)$ is unknown. Over a step it is a polynomial through Gauss nodes, $\phi$ then is known in closed form at any
eigenvalue, however stiff, and Newton's method makes the two agree at the nodes. Steps are chosen so that the last
coefficients of the polynomial are negligible; times are read off it.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float

from foretrain.errors import ComputationFailed

# Nodes of a step, and what its last Legendre coefficients may be, relative to the first.
_NODES, _TOLERANCE = 8, 1e-10
_MOST_NEWTON, _MOST_STEPS = 12, 100_000
# Exponents below are integrated by quadrature with so many points, the others by recursion.
_SMALL, _POINTS = 16.0, 20


def two_layer_flow(
    values: Float[np.ndarray, " eigenvalues"],
    drive: Float[np.ndarray, " eigenvalues"],
    richness: float,
    times: Float[np.ndarray, " time"],
) -> tuple[Float[np.ndarray, "time eigenvalues"], Float[np.ndarray, " time"]]:
    r"""$\theta$ and the readout norm $c$ at times in any order, from $\theta(0)=0$.

    Args:
        values: $x_j>0$.
        drive: $b_j$.
        richness: $\gamma\ge0$.
        times: Of the flow; `inf` is the end point.

    Example:
        >>> import numpy as np
        >>> theta, c = two_layer_flow(np.array([0.5]), np.array([1.0]), 3.0, np.array([1.0, np.inf]))
        >>> np.allclose(theta[:, 0] ** 2, c * (1 + 3 * c)), float(theta[1, 0])
        (True, 2.0)
    """
    theta, norm = np.zeros((len(times), len(values))), np.zeros(len(times))
    end = np.isinf(times)
    theta[end] = drive / values
    norm[end] = readout_norm(theta[end], richness)
    order = [i for i in np.argsort(times, kind="stable") if not end[i] and times[i] > 0]
    state, t = np.zeros(len(values)), 0.0
    h = 0.1 / max(float(np.max(values)), np.sqrt(richness) * float(np.linalg.norm(drive)))
    for _ in range(_MOST_STEPS):
        if not order:
            return theta, norm
        step = _step(values, drive, richness, state, h)
        error = np.inf if step is None else step.error
        if step is None or error > _TOLERANCE:
            h *= 0.5 if step is None else max(0.2, 0.8 * (_TOLERANCE / error) ** (1 / (_NODES - 1)))
            continue
        while order and times[order[0]] <= t + step.time:
            position = order.pop(0)
            phi = step.at(step.fraction(float(times[position]) - t))
            norm[position] = phi @ phi
            theta[position] = np.sqrt(1 + richness * norm[position]) * phi
        state, t = step.end, t + step.time
        h *= min(4.0, 0.8 * (_TOLERANCE / max(error, 1e-30)) ** (1 / (_NODES - 1)))
    raise ComputationFailed(
        f"two_layer_flow: time {times[order[0]]:g} was not reached in {_MOST_STEPS} steps, only {t:g}; a smaller richness is easier."
    )


def readout_norm(theta: Float[np.ndarray, "time eigenvalues"], richness: float) -> Float[np.ndarray, " time"]:
    r"""$c\ge0$ of $c(1+\gamma c)=|\theta|^2$."""
    square = np.sum(theta**2, axis=1)
    return 2 * square / (1 + np.sqrt(1 + 4 * richness * square))


@dataclasses.dataclass(frozen=True, eq=False)
class _Step:
    """A step that has been taken, as polynomials of the fraction of it that is over."""

    values: np.ndarray
    drive: np.ndarray
    start: np.ndarray
    end: np.ndarray
    length: float
    time: float
    coefficients: np.ndarray  # of a, in Legendre polynomials

    @property
    def error(self) -> float:
        return float(np.max(np.abs(self.coefficients[-2:])) / np.abs(self.coefficients[0]))

    def fraction(self, time: float) -> float:
        """Where a time since the start lies in the step."""
        gain = np.polynomial.Legendre(self.coefficients, domain=[0.0, 1.0])
        slope = self.length * gain * gain
        clock, found = slope.integ(lbnd=0.0), time / self.time
        for _ in range(_MOST_NEWTON):
            change = float((clock(found) - time) / slope(found))
            found = min(max(found - change, 0.0), 1.0)
            if abs(change) < 1e-15:
                break
        return found

    def at(self, fraction: float) -> np.ndarray:
        decay, weights = _responses(self.values * self.length, np.array([fraction]))
        return decay[0] * self.start + self.length * self.drive * (self.coefficients @ weights[:, 0])


def _step(values: np.ndarray, drive: np.ndarray, richness: float, start: np.ndarray, h: float) -> _Step | None:
    """A step, or `None` where Newton's method does not converge."""
    nodes, quadrature, to_legendre = _nodes()
    decay, weights = _responses(values * h, np.append(nodes, 1.0))
    # phi at node i, the last of which is the end, is free_i + sum_k response_ki a_k.
    free = decay * start
    response = (to_legendre.T @ weights.reshape(_NODES, -1)).reshape(weights.shape) * (h * drive)
    inner = np.full(_NODES, 1 / np.sqrt(1 + richness * (start @ start)))
    for _ in range(_MOST_NEWTON):
        phi = free + np.tensordot(inner, response, 1)
        wanted = 1 / np.sqrt(1 + richness * np.sum(phi[:-1] ** 2, axis=1))
        slope = np.eye(_NODES) + richness * wanted[:, None] ** 3 * np.sum((phi * response)[:, :-1], axis=2).T
        change = np.linalg.solve(slope, wanted - inner)
        inner = inner + change
        if not np.all(np.isfinite(inner)):
            return None
        if np.max(np.abs(change)) < 1e-13 * np.max(np.abs(inner)):
            end = free[-1] + inner @ response[:, -1]
            return _Step(values, drive, start, end, h, h * float(quadrature @ inner**2), to_legendre @ inner)
    return None


@functools.cache
def _nodes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gauss nodes on [0, 1], their weights, and the matrix from values there to Legendre coefficients."""
    y, weights = np.polynomial.legendre.leggauss(_NODES)
    basis = np.polynomial.legendre.legvander(y, _NODES - 1)
    return (y + 1) / 2, weights / 2, (basis * weights[:, None]).T * (np.arange(_NODES) + 0.5)[:, None]


@functools.cache
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(_POINTS)


def _responses(z: np.ndarray, fractions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""$e^{-zc}$ and $\int_0^ce^{-z(c-v)}P_n(2v-1)\,dv$, by degree, fraction $c$ and exponent $z$."""
    found = np.empty((_NODES, len(fractions), len(z)))
    small = z < _SMALL
    y, weights = _quadrature()
    v = (y + 1) / 2 * fractions[:, None]
    basis = np.polynomial.legendre.legvander(2 * v - 1, _NODES - 1)
    kernel = np.exp(-z[small] * (fractions[:, None] - v)[:, :, None])
    scaled = basis * (weights / 2 * fractions[:, None])[:, :, None]
    found[:, :, small] = np.einsum("cpn,cpz->ncz", scaled, kernel, optimize=True)
    large = z[~small]
    ends = np.polynomial.legendre.legvander(2 * fractions - 1, _NODES - 1)
    decay = np.exp(-large * fractions[:, None])
    # By parts, and with (2n + 1) P_n = P'_{n+1} - P'_{n-1}; `slopes` are the same integrals over 2 P'_n(2v - 1).
    slopes = [np.zeros_like(decay), None]
    for n in range(_NODES):
        slope = slopes[n % 2]
        before = np.zeros_like(decay) if slope is None else slope
        found[n][:, ~small] = (ends[:, n, None] - (-1.0) ** n * decay - before) / large
        other = slopes[(n + 1) % 2]
        slopes[(n + 1) % 2] = (0.0 if other is None else other) + 2 * (2 * n + 1) * found[n][:, ~small]
    return np.exp(-z * fractions[:, None]), found
