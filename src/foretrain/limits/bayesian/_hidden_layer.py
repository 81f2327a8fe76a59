r"""One hidden layer: the posterior as a convex problem in the dual coefficients $a$ (AK.5), solved by Newton's method."""

import concurrent.futures
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from foretrain.errors import InvalidInput
from foretrain.limits.bayesian import _particles as cloud
from foretrain.limits.bayesian import _quadrature as quadrature
from foretrain.limits.bayesian._activations import Activation, activation_named

METHODS = ("auto", "quadrature", "particles")
_NEWTON_STEPS = 200
_GRADIENT = 1e-11
# Full Newton steps before the particles count as having arrived, and the most sweeps on the way.
_ARRIVED, _MOST_SWEEPS = 3, 400
_FIRST_SIZE = 0.3
# The step of the averaging sweeps falls as this power of their number.
_FADING = 0.6
_RANK = 1e-10


class Posterior(NamedTuple):
    r"""What `hidden_layer_posterior` returns.

    Attributes:
        f_train: Mean outputs at the training inputs.
        f_test: The same at the test inputs.
        coefficients: $a=\beta(y-f)$.
        kernel: $\Phi$ at the training inputs.
        test_kernel: $\Phi$ between test and training inputs.
        seed_error: Root mean square error of `f_test` (of `f_train` without test inputs): half the difference of two independent
            runs by particles, the change under refinement by quadrature.
        gradient_norm: Norm of the gradient of (AK.5) at the solution, zero but for the noise of the particles.
        effective_share: Smallest share of the effective sample size in the averaging sweeps; 1 by quadrature.
        acceptance: Share of accepted moves; 1 by quadrature.
        sweeps: Newton steps, or sweeps over the particles.
        method: `"quadrature"` or `"particles"`.
        converged: Whether the solution was reached.
    """

    f_train: Float[np.ndarray, "samples outputs"]
    f_test: Float[np.ndarray, "test_samples outputs"]
    coefficients: Float[np.ndarray, "samples outputs"]
    kernel: Float[np.ndarray, "samples samples"]
    test_kernel: Float[np.ndarray, "test_samples samples"]
    seed_error: float
    gradient_norm: float
    effective_share: float
    acceptance: float
    sweeps: int
    method: str
    converged: bool


class _Inputs(NamedTuple):
    u: np.ndarray  # samples x rank, u u^T = C
    test: np.ndarray  # test samples in the same coordinates
    rest: np.ndarray  # variance of a test preactivation outside of them


def hidden_layer_posterior(
    inputs: Float[np.ndarray, "samples features"],
    targets: Float[np.ndarray, "samples outputs"],
    test_inputs: Float[np.ndarray, "test_samples features"] | None = None,
    *,
    activation: str = "relu",
    richness: float,
    inverse_temperature: float,
    method: str = "auto",
    particles: int = 4000,
    sweeps: int = 40,
    seed: int = 0,
) -> Posterior:
    r"""Mean predictions of a Bayesian network with one hidden layer of infinite width that learns features (AK.5).

    The posterior is that of unit Gaussian weights under $\frac{\beta N\gamma^2}2\sum_\mu|f(x_\mu)-y_\mu|^2$,
    $f(x)=\frac1{\gamma N}\sum_iz_i\varphi(w_i\cdot x/\sqrt D)$. Its predictor is kernel regression, $f(x)=\Phi(x,X)\,a$,
    with a kernel that depends on the targets.

    Args:
        inputs: $X$.
        targets: $y$, one column an output; all outputs share the kernel.
        test_inputs: Where to predict besides.
        activation: `relu`, `leaky-relu`, `linear`, `tanh`, `erf` or `gelu`.
        richness: $\gamma\ge0$; 0 is the lazy kernel, that of the prior.
        inverse_temperature: $\beta$; `inf` interpolates.
        method: `"quadrature"` for inputs of rank one or two, else `"particles"`; `"auto"` chooses.
        particles: Neurons that are followed; their number is that of a finite network of equal noise, but averaged over sweeps.
        sweeps: Averaging sweeps.
        seed: Of the particles.

    Raises:
        InvalidInput: Wrong arguments, or quadrature for inputs of higher rank.

    Example:
        >>> import numpy as np
        >>> from foretrain.limits.bayesian import hidden_layer_posterior
        >>> x, y = np.array([[1.0, 0.5], [-1.0, 1.0]]), np.array([[1.0], [-1.0]])
        >>> found = hidden_layer_posterior(x, y, activation="tanh", richness=1.0, inverse_temperature=10.0)
        >>> found.method, found.converged
        ('quadrature', True)
    """
    who = "hidden_layer_posterior"
    x, y = (np.asarray(v, float) for v in (inputs, targets))
    x_test = np.zeros((0, x.shape[1])) if test_inputs is None else np.asarray(test_inputs, float)
    if method not in METHODS:
        raise InvalidInput(f"{who}(method={method!r}): expected one of {', '.join(map(repr, METHODS))}.")
    with jax.enable_x64(True):
        nonlinear = activation_named(activation, who)
        data = _coordinates(x, x_test)
        low_rank = data.u.shape[1] <= quadrature.LARGEST_RANK
        if method == "quadrature" and not low_rank:
            raise InvalidInput(
                f"{who}(method='quadrature'): expected inputs of rank at most {quadrature.LARGEST_RANK}, got rank "
                f"{data.u.shape[1]}; use 'particles'."
            )
        if low_rank and method != "particles":
            return _by_quadrature(data, y, richness, 1 / inverse_temperature, nonlinear)
        return _by_particles(data, y, richness, 1 / inverse_temperature, activation, particles, sweeps, seed)


def _coordinates(x: np.ndarray, x_test: np.ndarray) -> _Inputs:
    """Rotates the inputs to the span of the training inputs."""
    dimension = x.shape[1]
    left, values, right = np.linalg.svd(x / math.sqrt(dimension), full_matrices=False)
    kept = values > math.sqrt(_RANK) * values[0]
    test = x_test @ right[kept].T / math.sqrt(dimension)
    rest = np.maximum(np.sum(x_test**2, axis=1) / dimension - np.sum(test**2, axis=1), 0.0)
    # What is left of an input inside the span is rounding.
    rest[rest < 1e-14 * np.sum(x_test**2, axis=1) / dimension] = 0.0
    return _Inputs(left[:, kept] * values[kept], test, rest)


def _by_quadrature(data: _Inputs, y: np.ndarray, richness: float, ridge: float, activation: Activation) -> Posterior:
    results = [_newton(data, y, richness**2, ridge, activation, order) for order in (16, 24)]
    (coarse, *_), (fine, kernel, test_kernel, norm, steps) = results
    f_train, f_test = kernel @ fine, test_kernel @ fine
    other = results[0][2] @ coarse if len(f_test) else results[0][1] @ coarse
    error = float(np.sqrt(np.mean(((f_test if len(f_test) else f_train) - other) ** 2)))
    converged = norm <= _GRADIENT * max(1.0, float(np.linalg.norm(y)))
    return Posterior(f_train, f_test, fine, kernel, test_kernel, error, norm, 1.0, 1.0, steps, "quadrature", converged)


def _newton(
    data: _Inputs, y: np.ndarray, tilt: float, ridge: float, activation: Activation, order: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, int]:
    """The minimum of (AK.5) by damped Newton steps: `a`, both kernels, the norm of the gradient, the number of steps."""
    a = np.zeros_like(y)
    samples, outputs = y.shape
    borders = data.test if activation.kinked else None

    def at(a: np.ndarray) -> tuple[float, quadrature.Moments, quadrature.Rule]:
        rule = quadrature.make_rule(data.u, a, tilt, activation, borders=borders, order=order)
        found = quadrature.moments(rule, data.u, a, tilt, activation)
        value = 0.5 * np.sum(a * (found.kernel @ a)) if tilt == 0 else found.log_partition / tilt
        return float(value + 0.5 * ridge * np.sum(a * a) - np.sum(a * y)), found, rule

    value, found, rule = at(a)
    norm, steps = math.inf, 0
    for _ in range(_NEWTON_STEPS):
        gradient = found.kernel @ a + ridge * a - y
        norm = float(np.linalg.norm(gradient))
        if norm <= _GRADIENT * max(1.0, float(np.linalg.norm(y))):
            break
        steps += 1
        hessian = np.kron(found.kernel + ridge * np.eye(samples), np.eye(outputs)) + tilt * found.spread
        direction = -np.linalg.lstsq(hessian, gradient.ravel(), rcond=1e-15)[0].reshape(y.shape)
        slope, length = float(np.sum(gradient * direction)), 1.0
        while True:
            trial = a + length * direction
            if quadrature.margin(data.u, trial, tilt, activation) > 0:
                new_value, new, new_rule = at(trial)
                # Near the minimum the value no longer resolves the decrease; the gradient does.
                flat = abs(slope) < 1e-10 * max(1.0, abs(value))
                if flat or new_value <= value + 1e-4 * length * slope:
                    break
            length *= 0.5
            if length < 1e-12:
                break
        a, value, found, rule = trial, new_value, new, new_rule
    smoothed = np.asarray(activation.smoothed(jnp.asarray(rule.w @ data.test.T), jnp.asarray(data.rest)[None, :]))
    test_kernel = smoothed.T @ (found.weights[:, None] * found.features)
    return a, found.kernel, test_kernel, norm, steps


def _by_particles(
    data: _Inputs,
    y: np.ndarray,
    richness: float,
    ridge: float,
    activation: str,
    particles: int,
    sweeps: int,
    seed: int,
) -> Posterior:
    """Two independent clouds; their mean is the answer, their difference its error."""

    def one(number: int) -> "_Cloud":
        with jax.enable_x64(True):
            key = jax.random.fold_in(jax.random.key(seed), number)
            return _one_cloud(key, data, y, richness, ridge, activation, particles, sweeps)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(one, (0, 1)))
    kernel = np.mean([r.kernel for r in runs], axis=0)
    test_kernel = np.mean([r.test_kernel for r in runs], axis=0)
    each = [_predict(r.kernel, r.test_kernel, y, ridge) for r in runs]
    a, f_train, f_test = _predict(kernel, test_kernel, y, ridge)
    place = 2 if len(f_test) else 1
    error = 0.5 * float(np.sqrt(np.mean((each[0][place] - each[1][place]) ** 2)))
    return Posterior(
        f_train,
        f_test,
        a,
        kernel,
        test_kernel,
        error,
        float(np.mean([r.gradient_norm for r in runs])),
        min(r.share for r in runs),
        float(np.mean([r.acceptance for r in runs])),
        max(r.sweeps for r in runs),
        "particles",
        all(r.arrived for r in runs),
    )


class _Cloud(NamedTuple):
    kernel: np.ndarray
    test_kernel: np.ndarray
    gradient_norm: float
    share: float
    acceptance: float
    sweeps: int
    arrived: bool


def _one_cloud(
    key: jax.Array,
    data: _Inputs,
    y: np.ndarray,
    richness: float,
    ridge: float,
    activation: str,
    particles: int,
    sweeps: int,
) -> _Cloud:
    tilt, small = jnp.asarray(richness**2), jnp.asarray(ridge)
    u, targets, test, rest = (jnp.asarray(v) for v in (data.u, y, data.test, data.rest))
    key, start = jax.random.split(key)
    w = jax.random.normal(start, (particles, u.shape[1]))
    a, size = jnp.zeros_like(targets), jnp.asarray(_FIRST_SIZE)
    kernel = test_kernel = gradient = 0.0
    arrived = averaged = number = 0
    shares, rates = [1.0], [1.0]
    for number in range(1, _MOST_SWEEPS + sweeps + 1):
        step = cloud.newton_step(w, a, u, targets, tilt, small, activation=activation)
        length = step.length
        if arrived >= _ARRIVED:
            averaged += 1
            length = jnp.minimum(length, averaged**-_FADING)
            share_of_new = 1.0 / averaged
            kernel = kernel + share_of_new * (np.asarray(step.kernel) - kernel)
            across = cloud.test_kernel(w, step.features, test, rest, activation=activation)
            test_kernel = test_kernel + share_of_new * (np.asarray(across) - test_kernel)
            gradient = np.asarray(kernel @ np.asarray(a) + ridge * np.asarray(a) - y)
            if averaged == sweeps:
                break
        elif float(length) == 1.0:
            arrived += 1
        elif number >= _MOST_SWEEPS:
            arrived = _ARRIVED  # goes on averaging where it is; the result says that it has not converged
        key, move = jax.random.split(key)
        w, size, rate, share = cloud.follow(move, w, step, a, length, u, tilt, size, activation=activation)
        a = a + length * step.direction
        if averaged:
            shares.append(float(share))
            rates.append(float(rate))
    return _Cloud(
        np.asarray(kernel),
        np.asarray(test_kernel),
        float(np.linalg.norm(gradient)),
        min(shares),
        float(np.mean(rates)),
        number,
        number < _MOST_SWEEPS,
    )


def _predict(
    kernel: np.ndarray, test_kernel: np.ndarray, y: np.ndarray, ridge: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a = np.linalg.solve(kernel + ridge * np.eye(len(kernel)), y)
    return a, kernel @ a, test_kernel @ a
