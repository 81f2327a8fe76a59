r"""Stochastic gradient descent averaged exactly over its minibatches, given the data (`docs/theory/sgd.md`, (SG.2), (SG.19)).

The mean over minibatches of the readout is full-batch gradient descent, for every batch size. What minibatches add to a loss is the
trace of the readout's covariance $V$ with the second moment of the features. $V$ obeys a closed recursion: with $S$ the diagonal matrix
of how often each of the $P$ samples is in the batch, and $r$ the residuals, a step adds $\frac\eta B\Phi^\top Sr$ to the readout, and for
batches drawn with replacement

$$\frac1{B^2}\langle Srr^\top S\rangle-\frac1{P^2}\langle rr^\top\rangle=\frac1{BP}\Big(\mathrm{diag}\langle rr^\top\rangle-\frac1P\langle rr^\top\rangle\Big).$$

Without replacement the right side is smaller by the factor $\frac{P-B}{P-1}$: then $\langle S_\mu S_\nu\rangle=\frac{B(B-1)}{P(P-1)}$ for different samples. Only the diagonal
of the residuals' second moment couples the eigendirections $u_i$ of the tangent matrix; the rest multiplies entries of $V$:

$$V'_{ij}=(1-\eta u_i)(1-\eta u_j)V_{ij}+\frac{\eta^2}B\Big[\frac1P\sum_\mu Y_{\mu i}c_\mu Y_{\mu j}-g_ig_j-u_iu_jV_{ij}\Big],\qquad c_\mu=\bar r_\mu^2+(ZVZ^\top)_{\mu\mu}$$

with $g=\frac1PY^\top\bar r$. In feature space $Y=Z$ are the features in the eigenbasis; in sample space, where the coefficients $a$ of
$W=\Phi^\top a$ are followed, $Y$ holds the eigenvectors and $Z=Y\,\mathrm{diag}(Pu)$.

One pass over fresh Gaussian data has, in the eigenbasis of the population's second moment with eigenvalues $u$, error $\delta$ of the mean readout and
$D=V+\delta\delta^\top$,

$$V'_{ij}=(1-\eta u_i)(1-\eta u_j)V_{ij}+\frac{\eta^2}B\Big[u_iu_jD_{ij}+\delta_{ij}u_i\Big(\sum_ku_kD_{kk}+\tau^2\Big)\Big].$$
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from foretrain.problems import SGD, OnePassSGD
from foretrain.training._batches import Times, step_sizes
from foretrain.training._draw import Draw, Samples, at_noise_levels
from foretrain.training._evolution import Decomposition, Evolution, Moments, _apply
from foretrain.training._losses import Readout, evolution
from foretrain.training._one_pass import best_readout

# Steps between two looks at the clock: at most so many, and at most so many multiplications.
_STEPS, _PRODUCTS = 1024, 1e10

# Step sizes, their squares times variance factors, first and last step.
Stretch = tuple[Float[np.ndarray, " steps"], Float[np.ndarray, " steps"], int, int]


class Run(NamedTuple):
    """The mean readout of a student, and the test and train losses that minibatches add to it."""

    mean: Readout
    test: Float[np.ndarray, "noise time"]
    train: Float[np.ndarray, "noise time"]


def average_descent(
    draw: Draw,
    protocol: SGD | OnePassSGD,
    times: Times,
    *,
    noise: Sequence[float] = (0.0,),
    ensemble: Sequence[int] = (1,),
    check: Callable[[], None] = lambda: None,
) -> Evolution:
    """Test and train losses of a draw of students, averaged exactly over all minibatches.

    Nothing is neglected: besides the data and features there is no randomness left. Not what a single run does where the losses of
    runs have heavy tails: the average counts rare runs that no simulation of reasonable length meets.

    Args:
        draw: Students on the same data; for one pass, on a population.
        protocol: A protocol without axes.
        times: Numbers of steps, in any order.
        noise: Label-noise variances.
        ensemble: Numbers of students whose predictions are averaged; each student has its own batches.
        check: Called now and then; may raise to stop.

    Returns:
        As `evolve`. A run counts as diverged from where a loss is a million times what it was before training.

    Example:
        >>> import numpy as np
        >>> from foretrain.problems import OnePassSGD
        >>> from foretrain.training import average_descent, linear_draws
        >>> ((_, _, draw),) = linear_draws(np.array([1.0]), np.array([1.0]), [np.inf], [np.inf], seed=0)
        >>> float(average_descent(draw, OnePassSGD(learning_rate=1.0, batch_size=4), np.array([1.0])).test_loss[0, 0, 0])
        0.5
    """
    rates = step_sizes(protocol, times)
    runs: list[Run] = []
    residuals = []
    with jax.enable_x64(True):
        for student, source in enumerate(draw.sources[: max(ensemble)]):
            test = _own_second(draw, student)
            if isinstance(source, Samples):
                factor = _variance_factor(protocol, len(source.targets))
                levels, squares = at_noise_levels(source, noise), factor * rates**2
                runs.append(_multi_pass(draw.students[student], levels, test, rates, squares, times, check))
                residuals.append(levels.targets[:, None] - _apply(source.matrix, runs[-1].mean))
            else:
                squares = rates**2 / protocol.batch_size  # type: ignore[operator]
                runs.append(_one_pass(source, test, rates, squares, times, noise, check))
    if len(draw.sources) == 1:  # infinitely wide students are all the same
        runs, residuals = runs * max(ensemble), residuals * max(ensemble)

    def added(size: int) -> tuple[np.ndarray, np.ndarray]:
        """To the mean prediction of students with independent batches."""
        kept = runs[:size]
        return np.sum([run.test for run in kept], axis=0) / size**2, np.sum(
            [run.train for run in kept], axis=0
        ) / size**2

    return evolution(draw, [run.mean for run in runs], residuals, times, noise, ensemble, added)


def _variance_factor(protocol: SGD | OnePassSGD, samples: int) -> float:
    batch: int = protocol.batch_size  # type: ignore[assignment]
    if isinstance(protocol, SGD) and not protocol.replacement:
        return (samples - batch) / (batch * max(1, samples - 1))
    return 1.0 / batch


def _own_second(draw: Draw, student: int) -> np.ndarray:
    second = draw.moments.second
    width = len(second) // len(draw.sources)
    own = slice(student * width, (student + 1) * width)
    return second[own] if second.ndim == 1 else second[own, own]


def _rotated(second: np.ndarray, basis: np.ndarray | None) -> np.ndarray:
    """A second moment in another basis; one axis is a diagonal."""
    if basis is None:
        return second
    return basis.T @ (second[:, None] * basis if second.ndim == 1 else second @ basis)


def _stretches(rates: np.ndarray, squares: np.ndarray, times: Times, size: int) -> Iterator[tuple[int, list[Stretch]]]:
    """For every time, in order of time, its position and the stretches of steps that lead to it from the one before."""
    padded = [np.concatenate([values, np.zeros(size)]) for values in (rates, squares)]
    done = 0
    for position in np.argsort(times, kind="stable"):
        found = []
        while done < times[position]:
            start = done - done % size
            last = int(min(times[position], start + size))
            own = (values[start : start + size] for values in padded)
            found.append((*own, done - start, last - start))
            done = last
        yield int(position), found


def _multi_pass(
    student: Decomposition,
    samples: Samples,
    test: np.ndarray,
    rates: np.ndarray,
    squares: np.ndarray,
    times: Times,
    check: Callable[[], None],
) -> Run:
    values, basis, count = student.eigenvalues, student.basis, len(samples.targets)
    if basis is None:
        raise ValueError("average_descent: samples always have a basis")
    if student.features is not None:
        out = back = student.features @ basis
        lifted = basis
    else:
        back, out = basis, basis * (count * values)
        lifted = basis if samples.is_gram else samples.matrix.T @ basis
    form = _rotated(test, lifted)
    size = int(max(1, min(_STEPS, _PRODUCTS / (count * len(values) ** 2))))
    levels = samples.targets.shape[-1]
    found = np.full((2, levels, len(times)), np.nan)
    means = np.full((len(values), len(times), samples.targets.shape[1], levels), np.nan)
    tables = tuple(jnp.asarray(a) for a in (out, back, values))
    for level in range(levels):
        targets = samples.targets[:, :, level]
        fixed = (*tables, jnp.asarray(targets), jnp.asarray(back.T @ targets / count))
        state = jnp.zeros((len(values), targets.shape[1])), jnp.zeros((len(values),) * 2)
        for position, stretches in _stretches(rates, squares, times, size):
            for stretch in stretches:
                check()
                state = _multi_pass_steps(*fixed, *state, *stretch)
            covariance = np.asarray(state[1])
            if not np.all(np.isfinite(covariance)):
                break
            means[:, position, :, level] = np.asarray(state[0])
            found[0, level, position] = np.sum(form * covariance)
            found[1, level, position] = np.sum((out @ covariance) * out) / count
    return Run(_apply(lifted, means), *found)


@jax.jit
def _multi_pass_steps(
    out: Array,
    back: Array,
    values: Array,
    targets: Array,
    pull: Array,
    mean: Array,
    covariance: Array,
    rates: Array,
    squares: Array,
    first: int,
    last: int,
) -> tuple[Array, Array]:
    count = targets.shape[0]
    products = values[:, None] * values[None]

    def step(s: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        mean, covariance = state
        residual = targets - out @ mean
        gradient = pull - values[:, None] * mean
        diagonal = jnp.sum(residual**2, axis=1) + jnp.sum((out @ covariance) * out, axis=1)
        stays = 1 - rates[s] * values
        fresh = back.T @ (diagonal[:, None] * back) / count - gradient @ gradient.T
        kept = stays[:, None] * stays[None] - squares[s] * products
        return mean + rates[s] * gradient, kept * covariance + squares[s] * fresh

    return jax.lax.fori_loop(first, last, step, (mean, covariance))


def _one_pass(
    moments: Moments,
    test: np.ndarray,
    rates: np.ndarray,
    squares: np.ndarray,
    times: Times,
    noise: Sequence[float],
    check: Callable[[], None],
) -> Run:
    values, basis, best, left = best_readout(moments)
    # Without a shift the test's second moment is the population's own, diagonal here; then variances are enough.
    form = values if test is moments.second or np.array_equal(test, moments.second) else _rotated(test, basis)
    program = _one_pass_steps if form.ndim == 1 else _one_pass_matrix_steps
    found = np.full((2, len(noise), len(times)), np.nan)
    means = np.full((len(values), len(times), 1, len(noise)), np.nan)
    for level, variance in enumerate(noise):
        state = jnp.asarray(-best), jnp.zeros((len(values),) * form.ndim)
        for position, stretches in _stretches(rates, squares, times, _STEPS):
            for stretch in stretches:
                check()
                state = program(jnp.asarray(values), left + variance, *state, *stretch)
            covariance = np.asarray(state[1])
            if not np.all(np.isfinite(covariance)):
                break
            means[:, position, 0, level] = best + np.asarray(state[0])
            variances = covariance if covariance.ndim == 1 else np.diag(covariance)
            found[:, level, position] = np.sum(form * covariance), np.sum(values * variances)
    return Run(_apply(basis, means), *found)


@jax.jit
def _one_pass_steps(
    values: Array, left: float, error: Array, variances: Array, rates: Array, squares: Array, first: int, last: int
) -> tuple[Array, Array]:
    def step(s: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        error, variances = state
        moments = values * (variances + error**2)
        stays = 1 - rates[s] * values
        fresh = values * (moments + jnp.sum(moments) + left)
        return stays * error, stays**2 * variances + squares[s] * fresh

    return jax.lax.fori_loop(first, last, step, (error, variances))


@jax.jit
def _one_pass_matrix_steps(
    values: Array, left: float, error: Array, covariance: Array, rates: Array, squares: Array, first: int, last: int
) -> tuple[Array, Array]:
    products = values[:, None] * values[None]

    def step(s: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        error, covariance = state
        second = covariance + error[:, None] * error[None]
        stays = 1 - rates[s] * values
        total = jnp.sum(values * jnp.diag(second)) + left
        fresh = products * second + jnp.diag(values * total)
        return stays * error, stays[:, None] * stays[None] * covariance + squares[s] * fresh

    return jax.lax.fori_loop(first, last, step, (error, covariance))
