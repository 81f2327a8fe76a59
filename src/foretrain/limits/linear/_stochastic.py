r"""Stochastic gradient descent: the noise of minibatches on top of gradient descent.

With the train loss $\hat{\mathcal L}$ and the loss $\mathcal L$ on test inputs (docs/theory/sgd.md, (SG.8) to (SG.13); arXiv:2502.05074),

$$\hat{\mathcal L}_t=\hat{\mathcal L}^{GD}_t+\sum_{s<t}\hat k_{t-1-s}\hat{\mathcal L}_s,\qquad
  \mathcal L_t=\mathcal L^{GD}_t+\sum_{s<t}k_{t-1-s}\hat{\mathcal L}_s .$$

Both kernels are one-point functions. The generating functions $\tilde g(x)=\sum_tx^{-t-1}g_t$ turn the sums into products, so
that any single step costs the same: a few points $x$, each with the two points $z=(\pm\sqrt x-1)/\eta$. Poles of
$1/(1-\tilde{\hat k})$ at $x>1$, which exist beyond the stable range, lie outside the contour and would be left out without a trace:
callers ask `sgd_gain` first.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from foretrain.limits._compile import compiled
from foretrain.limits.linear import _contour as contour
from foretrain.limits.linear._dynamics import Descent
from foretrain.limits.linear._edge import critical_batch, max_stable_lr, noise_factor, sgd_gain
from foretrain.limits.linear._kappa import FAR, advance, begin, follow_rays, implicit_kappa
from foretrain.limits.linear._measure import SpectralMeasure
from foretrain.limits.linear._pairs import points

# Where the mirrored point no longer moves: closer to the axis, rounding could put it on the wrong side.
STILL = 1e-12


@dataclasses.dataclass(frozen=True, eq=False)
class StochasticDescent(Descent):
    r"""SGD with a constant batch size: multi-pass on $P$ samples, one-pass for `samples = inf`.

    Args:
        learning_rate: $\eta$, or one rate per step; after the last one it stays what it is.
        batch_size: $B$, any real number > 0.
        replacement: whether a batch may hold a sample twice.
        exact_gaussian: keep the term of relative order $1/B$ that Gaussian inputs add to one-pass SGD.
    """

    batch_size: float
    replacement: bool = True
    exact_gaussian: bool = False

    def still(self):
        """With plain numbers for the rate and the batch."""
        full_batch = super().still()
        try:
            batch = float(jax.lax.stop_gradient(self.batch_size))
        except jax.errors.ConcretizationTypeError:
            return None
        if full_batch is None:
            return None
        return StochasticDescent(full_batch.learning_rate, batch, self.replacement, self.exact_gaussian)

    def inverse_batch(self, samples):
        """The strength of the noise relative to batches of one drawn with replacement."""
        return noise_factor(self.batch_size, samples, self.replacement) / self.batch_size

    @property
    def stretch(self) -> float:
        r"""$1+\frac1B$ with `exact_gaussian`, else 1: exact Gaussian inputs act like a rate and a batch that are larger by this."""
        return 1.0 + 1.0 / self.batch_size if self.exact_gaussian else 1.0

    def _gain(self, measure: SpectralMeasure, width, samples, rate: float, batch):
        stretch = 1.0 + 1.0 / batch if self.exact_gaussian else 1.0
        return sgd_gain(measure, width, samples, rate * stretch, batch * stretch, self.replacement)

    def gain(self, measure: SpectralMeasure, width, samples):
        """`sgd_gain` at the last rate, which goes on for ever."""
        rate = float(self.rates[-1])
        if rate == 0.0:
            return np.zeros(np.broadcast_shapes(np.shape(width), np.shape(samples)))
        return self._gain(measure, width, samples, rate, self.batch_size)

    def thresholds(self, measure: SpectralMeasure, width, samples) -> dict[str, np.ndarray]:
        """`max_stable_lr` for this batch, `critical_batch` for the largest rate, and `sgd_gain` there."""
        rate, stretch = float(self.rates.max()), self.stretch
        largest = max_stable_lr(
            measure, width, samples, batch_size=self.batch_size * stretch, replacement=self.replacement
        )
        return {
            "max_stable_lr": largest / stretch,
            "critical_batch": self._critical_batch(measure, width, samples, rate),
            "sgd_gain": self._gain(measure, width, samples, rate, self.batch_size),
        }

    def _critical_batch(self, measure: SpectralMeasure, width, samples, rate: float):
        if not self.exact_gaussian:
            return critical_batch(measure, width, samples, rate, self.replacement)
        # The rate that counts grows as the batch shrinks: no closed form, so bisection in log B.
        shape = np.broadcast_shapes(np.shape(width), np.shape(samples))
        low, high = np.full(shape, -30.0), np.full(shape, 700.0)
        for _ in range(100):
            middle = 0.5 * (low + high)
            above = self._gain(measure, width, samples, rate, np.exp(middle)) >= 1.0
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return np.where(high < 699.0, np.exp(high), np.inf)


def open_steps(steps, n: int, stretch: float = 1.0):
    r"""Hyperbolas in $\log x$, a row per step: $y-1$ and weights of $\oint x^t\frac{dx}{x-1}$.

    $y=\sqrt{1+c(x-1)}$ with the stretch $c$; $\sqrt x$ if it is 1.
    """
    shift, a = contour.step_points(steps, n)
    return root_minus_one(stretch * shift), a


def root_minus_one(x):
    """The square root of 1 + x, less 1, without cancellation."""
    return x / (1.0 + np.sqrt(1.0 + x))


def closed_steps(steps, m: int, stretch: float = 1.0):
    """The same on the closed contour, whose points serve all early steps."""
    shift, a = contour.generating_ellipse(m)
    return root_minus_one(stretch * shift), a * (1.0 + shift) ** steps[:, None]


def mirrored_points(half, rate):
    r"""$z=(y-1)/\eta$ and the conjugate of $(-y-1)/\eta$, both in the upper half plane, side by side.

    Args:
        half: $y-1$.
        rate: $\eta$, times the stretch.
    """
    size = np.abs(half)
    pushed = np.where(size < STILL, half * (STILL / np.maximum(size, 1e-300)), half)
    return np.concatenate([half, -np.conj(2.0 + pushed)], -1) / rate


def transforms(measure: SpectralMeasure, kappa, z, half, rate, inv_batch, inv_width, inv_samples, noise):
    r"""$(x-1)\tilde{\hat{\mathcal L}}(x)$ and $(x-1)$ times the transform of the noise part of the test loss.

    Args:
        measure: the spectrum.
        kappa: roots at `z`.
        z: from `mirrored_points`.
        half: $y-1$.
        rate: $\eta$.
        inv_batch: $1/B$, times the factor of batches without repetitions.
        inv_width: $1/N$.
        inv_samples: $1/P$.
        noise: variance of the label noise.
    """
    n = half.shape[-1]
    here = points(measure, kappa, z, inv_width, inv_samples)
    r3 = jnp.where(inv_samples > inv_width, 1.0 - inv_width * here.df1, z / (kappa * here.r1))
    if measure.shift is None:
        seen = here.df1
    else:
        seen = jax.lax.complex(here.real @ measure.shift, here.imag @ measure.shift)

    def both(values):
        return values[:n], jnp.conj(values[n:])

    # Phi z at the two points; the difference of Phi is multiplied by x - 1 = (y - 1)(y + 1) before it is taken.
    right, left = both(here.r1 * (kappa * here.a1 + noise))
    y = 1.0 + half
    forcing = ((2.0 + half) * right + half * left) / (2.0 * y)
    scale = rate * inv_batch / (2.0 * y)

    def kernel(values):
        right, left = both(values)
        return scale * (right - left)

    train = forcing / (1.0 - kernel(-z * here.df1))
    return jnp.stack([train, kernel(-kappa * r3 * seen) * train])


@compiled
def open_noise_program(measure: SpectralMeasure, z, half, a, rate, inv_batch, inv_width, inv_samples, noise, count):
    """Train losses and noise parts of the test losses on open contours, for a batch of problems.

    Args:
        measure: one spectrum for all.
        z: points of all rows, shape (problem, time, 2 point); rows follow one another.
        half: $y-1$, shape (problem, time, point).
        a: weights, same shape.
        rate: learning rates, one per problem.
        inv_batch: one per problem.
        inv_width: one per problem.
        inv_samples: one per problem.
        noise: one per problem.
        count: number of rows that are used, a traced integer.

    Returns:
        Losses (problem, 2, time) and flags (problem, time); rows beyond `count` are zero and False.
    """

    def one(z, half, a, rate, inv_batch, inv_width, inv_samples, noise):
        rows = z.shape[0]

        def follow(i, state):
            track, losses, good = state
            track, kappa, fine = advance(measure, track, z[i], inv_width, inv_samples)
            parts = transforms(measure, kappa, z[i], half[i], rate, inv_batch, inv_width, inv_samples, noise)
            return track, losses.at[:, i].set(2.0 * jnp.sum(a[i][None] * parts, -1).real), good.at[i].set(fine)

        start = (begin(measure, z[0], inv_width, inv_samples), jnp.zeros((2, rows)), jnp.zeros(rows, bool))
        _, losses, good = jax.lax.fori_loop(0, count, follow, start)
        return losses, good

    return jax.vmap(one)(z, half, a, rate, inv_batch, inv_width, inv_samples, noise)


@compiled
def closed_noise_program(measure: SpectralMeasure, path, half, a, rate, inv_batch, inv_width, inv_samples, noise):
    """The same for the early steps of one problem; `path` leads to the points, `a` has a row per step."""
    kappas, good = follow_rays(measure, path, inv_width, inv_samples)
    parts = transforms(measure, kappas[-1], path[-1], half, rate, inv_batch, inv_width, inv_samples, noise)
    return 2.0 * (parts @ a.T).real, good[-1]


@jax.jit
def open_noise(measure: SpectralMeasure, z, half, a, rate, inv_batch, inv_width, inv_samples, noise):
    """Differentiable train losses and noise parts of one problem on open contours, a row per step: shape (2, time)."""
    kappas, good = follow_rays(measure, z, inv_width, inv_samples)

    @jax.checkpoint
    def evaluate(row):
        kappa, z, half, a = row
        kappa = implicit_kappa(kappa, z, measure, inv_width, inv_samples)
        parts = transforms(measure, kappa, z, half, rate, inv_batch, inv_width, inv_samples, noise)
        return 2.0 * jnp.sum(a[None] * parts, -1).real

    return jnp.where(good, jax.lax.map(evaluate, (kappas, z, half, a)).T, jnp.nan)


@jax.jit
def closed_noise(measure: SpectralMeasure, path, half, a, rate, inv_batch, inv_width, inv_samples, noise):
    """The same for early steps on the closed contour at the end of `path`."""
    kappas, good = follow_rays(measure, path, inv_width, inv_samples)
    kappa = implicit_kappa(kappas[-1], path[-1], measure, inv_width, inv_samples)
    parts = transforms(measure, kappa, path[-1], half, rate, inv_batch, inv_width, inv_samples, noise)
    return jnp.where(good[-1], 2.0 * (parts @ a.T).real, jnp.nan)


def closed_path(
    measure: SpectralMeasure, rate: float, m: int, inv_width: float, inv_samples: float, stretch: float = 1.0
):
    r"""Rows of $y-1$ that lead from far away to the points of the closed contour."""
    total = float(np.sum(measure.trace)) * (inv_width + inv_samples)
    far = (1.0 + rate * stretch * FAR * max(float(np.max(measure.eigenvalues)), total)) ** 2
    shifts = contour.ellipse_path(1.0, contour.GENERATING_RADIUS, m, far)
    return root_minus_one(stretch * shifts)
