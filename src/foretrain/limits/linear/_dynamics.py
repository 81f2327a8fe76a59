r"""Training protocols as spectral functions $f_t(z)$, $z=-$ eigenvalue, with the contours that suit them.

| protocol | $f_t$ | contour at late times |
| --- | --- | --- |
| `Flow` | $e^{zt}$ | hyperbola, any $t$ |
| `Descent` | $\prod_s(1+\eta_sz)$ | hyperbola in $\log(1+\eta z)$, mirrored if eigenvalues exceed $1/\eta$ |
| `HeavyBall` | $v_{t+1}=v_t-\eta g_t+\beta(v_t-v_{t-1})$ | hyperbola in $\log x$, $z=\frac{(x-1)(x-\beta)}{\eta x}$ |
| `InertialFlow` | $\beta\ddot v+\dot v=-F\hat\Sigma v$ | hyperbola in $p$, $z=p+\beta p^2$ |

Wherever a hyperbola does not apply (few steps, oscillations that have not died out, schedules with tiny late factors),
$f_t$ is entire in $z$ and a closed ellipse serves.
"""

import abc
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float

from foretrain.limits.linear import _contour as contour
from foretrain.limits.linear._contour import Points

# Oscillations below this amplitude are left out by the open contours of momentum.
NEGLIGIBLE = 1e-13
# Below this many steps of the largest size, the hyperbola of a schedule is not yet that of a flow.
FLOW_LIKE_STEPS = 1500.0


@dataclasses.dataclass(frozen=True)
class Dynamics(abc.ABC):
    """A training protocol, seen by the spectral theory."""

    discrete = False

    def stability_ratio(self, edge):
        """Largest step over the largest stable one at spectral edge `edge`: >= 1 diverges."""
        return np.zeros_like(np.asarray(edge, float))

    @abc.abstractmethod
    def is_open(self, times: Float[np.ndarray, " time"], edge: float) -> np.ndarray:
        """Which times the open contour serves."""

    @abc.abstractmethod
    def open_points(self, times: Float[np.ndarray, " time"], n: int, edge: float) -> Points:
        """Open contours, a row per time."""

    @abc.abstractmethod
    def values(
        self, z: Complex[np.ndarray, " point"], times: Float[np.ndarray, " time"]
    ) -> Complex[np.ndarray, "time point"]:
        """$f_t(z)$."""

    def clock(self, times: Float[np.ndarray, " time"]) -> Float[np.ndarray, " time"]:
        """The times at which anything still happens: a schedule that ends at rate 0 stops the clock."""
        return times

    def swings(self, eigenvalue: float) -> float:
        """Radians through which a mode of this eigenvalue swings before it is damped; 0 without momentum."""
        del eigenvalue
        return 0.0

    def still(self) -> "Dynamics | None":
        """The same dynamics with plain numbers for traced parameters, or `None` inside a compiled function."""
        return self

    def log_derivative(self, z, times):
        r"""Traced $\log f_t(z)$ (up to a constant) if parameters may be differentiated, else `None`."""
        del z, times


@dataclasses.dataclass(frozen=True)
class Flow(Dynamics):
    """Gradient flow on $\\frac1{2P}\\sum(y-f)^2$; one unit of time is one step at learning rate 1."""

    def is_open(self, times, edge):
        """Every time."""
        return np.ones(len(times), bool)

    def open_points(self, times, n, edge):
        """The hyperbola, scaled by 1 / t."""
        return contour.flow_points(times, n)

    def values(self, z, times):
        """exp(z t)."""
        return np.exp(z * times[:, None])


@dataclasses.dataclass(frozen=True)
class InertialFlow(Dynamics):
    r"""Flow with inertia, $\beta\ddot v+\dot v=-F\hat\Sigma v$, $\dot v(0)=0$.

    Args:
        momentum: $\beta>0$, a time.
    """

    momentum: float

    def swings(self, eigenvalue):
        """Frequency sqrt(eigenvalue / momentum), damped after thirty times the momentum."""
        return 30.0 * np.sqrt(eigenvalue * self.momentum)

    def is_open(self, times, edge):
        """Times at which the oscillations, $e^{-t/2\\beta}$, have died out."""
        return times >= -2.0 * self.momentum * np.log(NEGLIGIBLE)

    def open_points(self, times, n, edge):
        """The hyperbola in p."""
        p, a = contour.flow_points(times, n)
        return p * (1.0 + self.momentum * p), a

    def values(self, z, times):
        """The solution of the scalar equation."""
        half = 0.5 / self.momentum
        s = np.sqrt(half * half + z / self.momentum)
        t = times[:, None]
        slow = np.exp(t * (z / self.momentum) / (s + half))
        return 0.5 * ((1.0 + half / s) * slow + (1.0 - half / s) * np.exp(-t * (s + half)))


@dataclasses.dataclass(frozen=True, eq=False)
class Descent(Dynamics):
    r"""Full-batch gradient descent.

    Args:
        learning_rate: $\eta$, or one rate per step; after the last one it stays what it is.
    """

    learning_rate: float | np.ndarray

    discrete = True

    def still(self):
        """With the rate as a plain number."""
        try:
            return Descent(np.asarray(jax.lax.stop_gradient(self.learning_rate)))
        except jax.errors.TracerArrayConversionError:
            return None

    def log_derivative(self, z, times):
        """Logarithm of the power of 1 + rate z, for a single rate."""
        if np.ndim(self.learning_rate) > 0:
            return None
        return jnp.asarray(times)[:, None] * log1p(self.learning_rate * jnp.asarray(z))

    @property
    def rates(self) -> np.ndarray:
        """The rates as a vector; its last entry goes on for ever."""
        return np.atleast_1d(np.asarray(self.learning_rate, float))

    @property
    def constant(self) -> bool:
        """Whether all rates are equal."""
        return bool(np.all(self.rates == self.rates[0]))

    def stability_ratio(self, edge):
        """Constant rate times edge over 2; a schedule is judged by its last rate, which goes on for ever."""
        return self.rates[-1] * np.asarray(edge, float) / 2.0

    def clock(self, times):
        """Steps at rate 0 after the last nonzero one are no steps."""
        moving = np.flatnonzero(self.rates)
        last = moving[-1] + 1.0 if moving.size else 0.0
        return times if last == self.rates.size else np.minimum(times, last)

    def total(self, times):
        """Sum of the rates of the first t steps: the time of the flow."""
        rates = self.rates
        sums = np.concatenate([[0.0], np.cumsum(rates)])
        inside = np.minimum(times, rates.size).astype(np.int64)
        return sums[inside] + np.maximum(times - rates.size, 0.0) * rates[-1]

    def is_open(self, times, edge):
        """From 12 steps on; for a schedule, where it acts like a flow on the whole spectrum."""
        if self.constant:
            return times >= contour.FIRST_OPEN_STEP
        total, largest = self.total(times), np.maximum.accumulate(self.rates)
        largest = largest[np.clip(times - 1, 0, self.rates.size - 1).astype(np.int64)]
        candidate = (total > FLOW_LIKE_STEPS * largest) & (times > 0)
        if not np.any(candidate):
            return candidate
        # The hyperbola ends where a flow has fallen to exp(-25): beyond, f must be no larger than that. All times share the
        # points, as a long schedule takes a logarithm for every rate and point.
        ends = np.minimum(25.0 / total[candidate], edge)
        u = np.geomspace(np.min(ends), edge, 200)
        size = np.abs(self.values(-u + 0j, times[candidate]))
        candidate[candidate] = np.max(np.where(u >= ends[:, None], size, 0.0), 1) < np.exp(-24.0)
        return candidate

    def open_points(self, times, n, edge):
        """The hyperbola in log x, with its mirror image if eigenvalues reach beyond 1 / rate."""
        if not self.constant:
            total = self.total(times)
            z, a = contour.flow_points(total, n)
            ratio = [self.log_values(row, time[None])[0] for row, time in zip(z, times, strict=True)]
            return z, a * np.exp(np.stack(ratio) - z * total[:, None])
        rate = self.rates[0]
        shift, a = contour.step_points(times, n)
        z = shift / rate
        if rate * edge <= 1.0:
            return z, a
        mirror, b = contour.mirrored_step_points(times, n)
        return np.concatenate([z, -(2.0 + mirror) / rate], 1), np.concatenate([a, b], 1)

    def log_values(self, z, times):
        """Log f, cumulative over steps; equal neighbouring rates are taken together."""
        rates = self.rates
        starts = np.concatenate([[0], np.flatnonzero(np.diff(rates)) + 1])
        stops = np.concatenate([starts[1:].astype(float), [np.inf]])
        begun = starts < np.max(times, initial=0.0)
        starts, stops = starts[begun], stops[begun]
        result = np.zeros((len(times), z.size), complex)
        for begin in range(0, starts.size, 4096):
            piece = slice(begin, begin + 4096)
            logs = contour.log1p(rates[starts[piece], None] * z)
            lengths = np.clip(times[:, None] - starts[piece], 0.0, stops[piece] - starts[piece])
            result += lengths @ logs
        return result

    def values(self, z, times):
        """The product of 1 + rate z over the steps."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.nan_to_num(np.exp(self.log_values(z, times)))


@dataclasses.dataclass(frozen=True)
class HeavyBall(Dynamics):
    r"""Heavy ball, $v_{t+1}=v_t-\eta g_t+\beta(v_t-v_{t-1})$, $v_{-1}=v_0$.

    Momentum above 0.95 lets modes swing so often that the default compression of a long spectrum no longer follows them
    (1e-6 at 0.97); `solve` raises `per_bin` of `spectral_measure` by itself, here it is the caller's choice.

    Args:
        learning_rate: $\eta$.
        momentum: $0\le\beta<1$.
    """

    learning_rate: float
    momentum: float

    discrete = True

    def stability_ratio(self, edge):
        """Rate over 2 (1 + momentum) / edge."""
        return self.learning_rate * np.asarray(edge, float) / (2.0 * (1.0 + self.momentum))

    def swings(self, eigenvalue):
        """Frequency sqrt(rate eigenvalue) per step, damped after 30 / |log momentum| steps."""
        return 0.0 if self.momentum == 0.0 else -30.0 * np.sqrt(self.learning_rate * eigenvalue) / np.log(self.momentum)

    def is_open(self, times, edge):
        """Steps at which the oscillations, $\\beta^{t/2}$, have died out."""
        damping = 2.0 * np.log(NEGLIGIBLE) / np.log(self.momentum) if self.momentum > 0 else 0.0
        return times >= max(contour.FIRST_OPEN_STEP, damping)

    def open_points(self, times, n, edge):
        """The hyperbola in log x, with its mirror image if eigenvalues make x negative."""
        eta, beta = self.learning_rate, self.momentum
        shift, a = contour.step_points(times, n)
        z = shift * (shift + 1.0 - beta) / (eta * (1.0 + shift))
        if eta * edge <= (1.0 + np.sqrt(beta)) ** 2:
            return z, a
        mirror, b = contour.mirrored_step_points(times, n)
        x = -(1.0 + mirror)
        return np.concatenate([z, -(2.0 + mirror) * (x - beta) / (eta * x)], 1), np.concatenate([a, b], 1)

    def values(self, z, times):
        r"""The scalar recursion, solved: $\frac{(x_+-\beta)x_+^t-(x_--\beta)x_-^t}{x_+-x_-}$ with $x^2-(1+\beta+\eta z)x+\beta=0$."""
        half = 0.5 * (1.0 + self.momentum + self.learning_rate * z)
        root = np.sqrt(half * half - self.momentum)
        large = np.where((half * np.conj(root)).real >= 0, half + root, half - root)
        small = self.momentum / large
        t = times[:, None]
        return ((large - self.momentum) * large**t - (small - self.momentum) * small**t) / (large - small)


def log1p(x):
    """log(1 + x) for traced complex x without cancellation."""
    return 0.5 * jnp.log1p(x.real * (2.0 + x.real) + x.imag**2) + 1j * jnp.arctan2(x.imag, 1.0 + x.real)
