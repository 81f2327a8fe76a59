"""The differentiable core: test and train losses as a pure function."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from foretrain._precision import require_x64
from foretrain.errors import InvalidInput
from foretrain.limits.linear import _contour as contour
from foretrain.limits.linear._dynamics import Dynamics, Flow
from foretrain.limits.linear._edge import spectral_edge
from foretrain.limits.linear._kappa import FAR, inverse_size
from foretrain.limits.linear._measure import SpectralMeasure
from foretrain.limits.linear._programs import closed_losses, open_losses
from foretrain.limits.linear._static import initial_losses, ridge_losses
from foretrain.limits.linear._stochastic import (
    StochasticDescent,
    closed_noise,
    closed_path,
    closed_steps,
    mirrored_points,
    open_noise,
    open_steps,
)

MAX_CLOSED_POINTS = 512


def losses(
    measure: SpectralMeasure,
    times,
    width,
    samples,
    noise: Any = 0.0,
    dynamics: Dynamics | None = None,
    shares: tuple[str, ...] = ("both",),
) -> tuple[Float[Array, "share time"], Float[Array, "share time"]]:
    r"""Test and train losses along training, differentiable in the spectrum, the sizes, the noise and the time.

    The implicit function theorem carries derivatives through $\kappa(z)$, forward and backward, to any order; exponents
    enter through `power_law_measure`. For curves without derivatives `linear_curves` is several times faster and comes
    with error estimates.

    Args:
        measure: spectrum and target.
        times: times, > 0 ascending for `Flow` (traced values allowed, differentiable); concrete steps for discrete
            dynamics. 0 and `inf` are served where they are concrete.
        width: $N$ (`inf` allowed).
        samples: $P$ (`inf` allowed).
        noise: variance of the label noise.
        dynamics: `Flow` (default) or any other. Derivatives with respect to the protocol itself are offered for a
            constant `learning_rate` of `Descent` and `StochasticDescent`, and for the `batch_size`.
        shares: pairs of predictors, as in `linear_curves`.

    Returns:
        Test losses and train losses; NaN where $\kappa$ could not be followed.

    Raises:
        PrecisionError: JAX runs in 32 bits.
        InvalidInput: dynamics that this function does not differentiate.

    Example:
        >>> import jax
        >>> from foretrain.limits.linear import losses, spectral_measure
        >>> measure = spectral_measure([1.0], [1.0], [100.0])
        >>> with jax.enable_x64(True):
        ...     slope = jax.grad(lambda n: losses(measure, [10.0], n, 300.0)[0][0, 0])(200.0)
        >>> float(slope) < 0  # wider is better
        True
    """
    require_x64("losses")
    dynamics = Flow() if dynamics is None else dynamics
    measure = jax.tree.map(jnp.asarray, measure)
    inv_n, inv_p = inverse_size(jnp.asarray(width, float)), inverse_size(jnp.asarray(samples, float))
    noise, moving = jnp.asarray(noise, float), jnp.atleast_1d(jnp.asarray(times, float))
    fixed = _concrete(times)
    fixed = None if fixed is None else np.atleast_1d(fixed)
    if fixed is None:
        if not isinstance(dynamics, Flow):
            raise InvalidInput(
                f"losses(times): expected concrete steps for {type(dynamics).__name__}, got traced values."
            )
        result = _flow(measure, moving, inv_n, inv_p, noise, shares)
        return result[0], result[1]
    still = dynamics.still()
    fixed = fixed if still is None else still.clock(fixed)
    if np.any(np.isnan(fixed) | (fixed < 0)):
        raise InvalidInput(f"losses(times): expected times >= 0, got {fixed[np.isnan(fixed) | (fixed < 0)][0]}.")
    result = jnp.zeros((2, len(shares), fixed.size))
    start, end = fixed == 0, np.isinf(fixed)
    if isinstance(dynamics, StochasticDescent):
        _refuse(dynamics, still, end)
    result = result.at[..., start].set(initial_losses(measure, noise, shares)[..., None])
    if np.any(end):
        final = ridge_losses(measure, 0.0, 1.0 / inv_n, 1.0 / inv_p, noise, shares)
        result = result.at[..., end].set(final[..., None])
    middle = np.flatnonzero(~start & ~end)
    if middle.size and isinstance(dynamics, Flow):
        result = result.at[..., middle].set(_flow(measure, moving[middle], inv_n, inv_p, noise, shares))
    elif middle.size:
        result = result.at[..., middle].set(_steps(measure, fixed[middle], inv_n, inv_p, noise, dynamics, shares))
    if isinstance(dynamics, StochasticDescent) and "both" in shares:
        finite = np.flatnonzero(~end)
        part = _minibatches(measure, fixed[finite], inv_n, inv_p, noise, dynamics)
        share = shares.index("both")
        result = result.at[0, share, finite].add(part[1]).at[1, share, finite].set(part[0])
    return result[0], result[1]


def _concrete(value) -> np.ndarray | None:
    """The value as a NumPy vector or array, or `None` inside a compiled function."""
    # Plain numbers first: inside a compiled function even stop_gradient would trace them.
    for convert in (lambda x: x, jax.lax.stop_gradient):
        try:
            return np.asarray(convert(value), float)
        except jax.errors.TracerArrayConversionError:
            continue
    return None


def _flow(measure, times, inv_n, inv_p, noise, shares):
    """Losses of the flow; the points of the contour do not move, only the exponential does."""
    order = jnp.argsort(jax.lax.stop_gradient(times))
    ascending = times[order]
    still = jax.lax.stop_gradient(ascending)
    zeta, a = contour.hyperbola(contour.OPEN_POINTS)
    z = zeta[None, :] / still[:, None]
    a = a[None, :] * jnp.exp(z * (ascending - still)[:, None])
    return open_losses(measure, z, a, inv_n, inv_p, noise, shares)[..., jnp.argsort(order)]


def _steps(measure, times, inv_n, inv_p, noise, dynamics: Dynamics, shares):
    """Losses of discrete or inertial dynamics at concrete times."""
    still = dynamics.still()
    fixed: list[Any] = [_concrete(part) for part in (measure.eigenvalues, measure.trace, measure.signal, inv_n, inv_p)]
    if still is None or any(part is None for part in fixed):
        raise InvalidInput(
            f"losses(dynamics={type(dynamics).__name__}): the contour needs concrete values; "
            "differentiate outside of jit, or use Flow."
        )
    nodes = SpectralMeasure(*fixed[:3])
    with np.errstate(divide="ignore"):
        edge = float(spectral_edge(nodes, np.divide(1.0, fixed[3]), np.divide(1.0, fixed[4])))
    if still.stability_ratio(edge) >= 1.0:
        return jnp.full((2, len(shares), times.size), jnp.inf)

    def moving(z, a, times):
        log_f = dynamics.log_derivative(z, times)
        return a if log_f is None else a * jnp.exp(log_f - jax.lax.stop_gradient(log_f))

    result = jnp.zeros((2, len(shares), times.size))
    opened = still.is_open(times, edge)
    for chosen in (np.flatnonzero(opened), np.flatnonzero(~opened)):
        if chosen.size == 0:
            continue
        chosen = chosen[np.argsort(times[chosen])]
        t = times[chosen]
        if opened[chosen[0]]:
            z, a = still.open_points(t, contour.OPEN_POINTS, edge)
            part = open_losses(measure, jnp.asarray(z), moving(z, a, t), inv_n, inv_p, noise, shares)
        else:
            radius, m = contour.fit_ellipse(still.values, t.max(), edge)
            if m > MAX_CLOSED_POINTS:
                raise InvalidInput(
                    f"losses(times): {t.max():g} is too long for a closed contour ({m} points); linear_curves goes further."
                )
            z, a = contour.ellipse(edge, radius, m)
            largest = float(np.max(nodes.eigenvalues))
            far = FAR * max(largest, float(np.sum(nodes.trace) * (fixed[3] + fixed[4])))
            path = contour.ellipse_path(edge, radius, m, far)
            a = moving(z[None], a * still.values(z, t), t)
            part = closed_losses(measure, jnp.asarray(path), a, inv_n, inv_p, noise, shares)
        result = result.at[..., chosen].set(part)
    return result


def _refuse(dynamics: StochasticDescent, still: Dynamics | None, end: np.ndarray) -> None:
    """Minibatches are differentiated at concrete, constant, finite settings."""
    who = "losses(dynamics=StochasticDescent)"
    if still is None:
        raise InvalidInput(f"{who}: the contour needs concrete values; differentiate outside of jit.")
    if dynamics.exact_gaussian or not still.constant:  # type: ignore[attr-defined]
        raise InvalidInput(f"{who}: expected a constant rate without exact_gaussian; linear_curves has the others.")
    if np.any(end):
        raise InvalidInput(f"{who}: expected finite steps, got inf; linear_curves has the end of training.")


def _minibatches(measure, times, inv_n, inv_p, noise, dynamics: StochasticDescent):
    """Train losses and noise parts of the test losses at concrete steps: shape (2, time)."""
    still: Any = dynamics.still()
    fixed: list[Any] = [_concrete(part) for part in (measure.eigenvalues, measure.trace, measure.signal, inv_n, inv_p)]
    nodes, sizes = SpectralMeasure(*fixed[:3]), fixed[3:]
    with np.errstate(divide="ignore"):
        gain = float(still.gain(nodes, *(np.divide(1.0, size) for size in sizes)))
    if gain >= 1.0:
        return jnp.where(times == 0, jnp.stack([jnp.sum(measure.signal) + noise, 0.0])[:, None], jnp.inf)
    rate = jnp.asarray(dynamics.learning_rate, float)
    rate = rate if rate.ndim == 0 else rate[0]
    inv_batch = 1.0 / jnp.asarray(dynamics.batch_size, float)
    if not dynamics.replacement:
        inv_batch = (inv_batch - inv_p) / (1.0 - inv_p)
    rest = (rate, inv_batch, inv_n, inv_p, noise)
    result = jnp.zeros((2, times.size)).at[0].set(jnp.sum(measure.signal) + noise)
    late = np.flatnonzero(times >= contour.FIRST_OPEN_STEP)
    if late.size:
        late = late[np.argsort(times[late])]
        half, a = open_steps(times[late], contour.OPEN_POINTS)
        part = open_noise(measure, mirrored_points(half, rate), half, a, *rest)
        result = result.at[:, late].set(part)
    early = np.flatnonzero((times < contour.FIRST_OPEN_STEP) & (times > 0))
    if early.size:
        half, a = closed_steps(times[early], contour.GENERATING_POINTS)
        halves = closed_path(nodes, float(still.rates[-1]), contour.GENERATING_POINTS, *map(float, sizes))
        part = closed_noise(measure, mirrored_points(halves, rate), half, a, *rest)
        result = result.at[:, early].set(part)
    return result
