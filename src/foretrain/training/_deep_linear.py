r"""Deep linear networks, trained step by step from random initialization (`docs/theory/deep-linear.md`, (DL.1)).

Inputs $x\in\mathbb R^D$ are Gaussian with variances $\lambda_k$, targets $y=\frac1{\sqrt D}w_\star\cdot x+\sigma\epsilon$, and all entries of $W^0$ ($N\times D$),
$W^1,\dots,W^{L-1}$ ($N\times N$) and $w$ start as $\mathcal N(0,1)$. With the residual $v=w_\star-\hat\beta$ and the direction $u$ that the data give
it, one step computes

$$g^L=w,\quad g^\ell=\tfrac1{\sqrt N}W^{\ell\top}g^{\ell+1},\qquad v=w_\star-\tfrac{\sqrt D}{\gamma_0N}W^{0\top}g^1,\qquad
h^1=\tfrac1{\sqrt D}W^0u,\quad h^{\ell+1}=\tfrac1{\sqrt N}W^\ell h^\ell$$

and moves all weights at once, $W^0\mathrel+=\frac{\eta\gamma_0}{\sqrt D}g^1u^\top$, $W^\ell\mathrel+=\frac{\eta\gamma_0}{\sqrt N}g^{\ell+1}h^{\ell\top}$, $w\mathrel+=\eta\gamma_0h^L$.
A residual network has $h^{\ell+1}=h^\ell+\frac b{\sqrt N}W^\ell h^\ell$ instead, and the factor $b$ in the update of $W^\ell$.

| data | direction $u$ |
| --- | --- |
| population | $\Lambda v$ |
| $P$ samples | $\frac{\sqrt D}P\sum_\mu x_\mu\Delta_\mu$, $\Delta_\mu=\frac1{\sqrt D}x_\mu\cdot v+\sigma\epsilon_\mu$ |
| $B$ fresh ones a step | the same with $B$ for $P$, drawn as below |

Of a fresh batch $X=Z\sqrt\Lambda$ only its products with $a=\sqrt{\Lambda/D}\,v$ and $\Delta$ matter. With $\hat a=a/|a|$, $Za=|a|\,x$ has independent
entries, and what is left of $Z$ is independent of it: $Z^\top\Delta=\hat a(x\cdot\Delta)+|\Delta|(1-\hat a\hat a^\top)z$ with Gaussian $x\in\mathbb R^B$,
$z\in\mathbb R^D$ has the distribution of the step, for $D+2B$ numbers instead of $(D+1)B$.

Within a block of steps the matrices stay as they are, and the outer products of the block are kept as vectors: a step then reads
every matrix twice and writes none. After the block they are added at once. This takes half to a third of the time of
outer products added one by one, and gives the same numbers.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from foretrain._precision import require_x64
from foretrain.training._linear_student import _gaussians, _generator

# Streams of random numbers, none of which another model uses, and steps whose numbers are drawn together: part of what a seed
# means.
_INPUTS, _HIDDEN, _READOUT, _SAMPLES, _NOISE, _BATCHES = range(30, 36)
STEPS = 32


class Weights(NamedTuple):
    """All weights of a network, or as many numbers that move with them.

    Args:
        inputs: $W^0$.
        hidden: $W^1,\\dots,W^{L-1}$.
        readout: $w$.
    """

    inputs: Float[Array, "width inputs"]
    hidden: Float[Array, "branches width width"]
    readout: Float[Array, " width"]


class Setting(NamedTuple):
    r"""The numbers of a run, none of which changes the program.

    Args:
        eigenvalues: $\lambda_k$ of the training inputs.
        tested: Variances of the test inputs.
        coefficients: $w_\star$.
        richness: $\gamma_0$.
        skip: 1 for residual networks, else 0.
        branch: $b$; 1 without branches.
        deviation: $\sigma$.
        momentum: $\beta$ of heavy ball.
    """

    eigenvalues: Float[Array, " inputs"]
    tested: Float[Array, " inputs"]
    coefficients: Float[Array, " inputs"]
    richness: float
    skip: float
    branch: float
    deviation: float
    momentum: float


class Samples(NamedTuple):
    """Samples that are used again in every step: inputs, one row each, and unit label noise."""

    inputs: Float[np.ndarray, "samples inputs"]
    noise: Float[np.ndarray, " samples"]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Whole sizes of a network and its data; at most one of `samples` and `batch` is there, neither is the population."""

    inputs: int
    width: int
    depth: int
    samples: int | None = None
    batch: int | None = None


def draw_weights(sizes: Sizes, seed: int) -> Weights:
    """The network of a seed before training; a narrower one has the first rows of $W^0$ and entries of $w$.

    Args:
        sizes: Of the network.
        seed: What everything is drawn from.
    """
    n = sizes.width
    hidden = [_gaussians(seed, (_HIDDEN, layer), n, n) for layer in range(1, sizes.depth)]
    return Weights(
        jnp.asarray(_gaussians(seed, (_INPUTS,), n, sizes.inputs)),
        jnp.asarray(np.stack(hidden) if hidden else np.zeros((0, n, n))),
        jnp.asarray(_gaussians(seed, (_READOUT,), n, 1)[:, 0]),
    )


def draw_samples(eigenvalues: Float[np.ndarray, " inputs"], samples: int, seed: int) -> Samples:
    """The samples of a seed; fewer are the first of more.

    Args:
        eigenvalues: Variances of the inputs.
        samples: How many.
        seed: What everything is drawn from.
    """
    inputs = _gaussians(seed, (_SAMPLES,), samples, len(eigenvalues)) * np.sqrt(eigenvalues)
    return Samples(inputs, _gaussians(seed, (_NOISE,), samples, 1)[:, 0])


def deep_linear_losses(
    weights: Weights,
    setting: Setting,
    sizes: Sizes,
    rates: Float[np.ndarray, " steps"],
    samples: Samples | None,
    seed: int,
    check: Callable[[], None] = lambda: None,
) -> Float[np.ndarray, "steps_and_one 2"]:
    """Test and train loss before every step and after the last; NaN from where they have overflowed.

    Args:
        weights: Before training.
        setting: The numbers of the run.
        sizes: Whether it is trained on samples, fresh batches or the population.
        rates: Learning rate of every step.
        samples: The samples, where they are reused.
        seed: What fresh batches are drawn from; learning rates and noise levels share them.
        check: Called now and then; may raise to stop.
    """
    require_x64("deep_linear_losses")
    steps = len(rates)
    found = np.full((steps + 1, 2), np.nan)
    generator = _generator(seed, _BATCHES)
    velocity = jax.tree.map(jnp.zeros_like, weights) if setting.momentum else None
    for start in range(0, steps + 1, STEPS):
        check()
        # The losses after the last step come from the first half of a step more, whose other half is not used.
        count = min(STEPS, steps + 1 - start)
        fresh = None
        if sizes.batch is not None:
            fresh = generator.standard_normal((STEPS, sizes.inputs + 2 * sizes.batch), dtype=np.float32)
        moves = _moves(rates[start : start + STEPS], setting.momentum)
        moved, losses = _steps(weights, velocity, setting, samples, fresh, moves, count)
        found[start : start + count] = np.asarray(losses)[:count]
        if start + STEPS > steps or not np.all(np.isfinite(found[start + count - 1])):
            break
        weights, velocity = _folded(weights, velocity, moved, moves)
    return found


class Moves(NamedTuple):
    r"""What the steps of a block do: after $s$ of them a matrix is $W+\sum_r\text{of\_steps}_{sr}\,l_rr_r^\top+\text{of\_velocity}_sV$.

    Args:
        of_steps: Factors of the outer products of earlier steps.
        of_velocity: Factors of the velocity before the block.
        last: The factors of the outer products in the velocity after the block.
        kept: That of the velocity before it.
    """

    of_steps: Float[Array, "steps_and_one steps"]
    of_velocity: Float[Array, " steps_and_one"]
    last: Float[Array, " steps"]
    kept: float


class Outer(NamedTuple):
    """The vectors whose outer products the steps of a block add to $W^0$ and the hidden matrices, and what they add to $w$."""

    bottom: Float[Array, "steps width"]
    direction: Float[Array, "steps inputs"]
    above: Float[Array, "branches steps width"]
    below: Float[Array, "branches steps width"]
    top: Float[Array, "steps width"]


def _moves(rates: Float[np.ndarray, " steps"], momentum: float) -> Moves:
    own = np.append(rates, np.zeros(STEPS - len(rates)))
    lag = np.subtract.outer(np.arange(STEPS + 1), np.arange(STEPS))
    powers = momentum ** np.maximum(lag, 0)
    of_steps = np.where(lag > 0, own * (1 - powers) / (1 - momentum), 0.0)
    of_velocity = momentum * (1 - momentum ** np.arange(STEPS + 1)) / (1 - momentum)
    last = own * momentum ** np.arange(STEPS)[::-1]
    return Moves(of_steps, of_velocity, last, momentum**STEPS)  # type: ignore[arg-type]


@jax.jit
def _folded(weights: Weights, velocity: Weights | None, moved: Outer, moves: Moves) -> tuple[Weights, Weights | None]:
    """Weights and velocity after a whole block."""

    def products(factors: Array) -> Weights:
        inputs = (moved.bottom.T * factors[None]) @ moved.direction
        hidden = jnp.swapaxes(moved.above, 1, 2) * factors[None, None] @ moved.below
        return Weights(inputs, hidden, factors @ moved.top)

    after = jax.tree.map(jnp.add, weights, products(moves.of_steps[-1]))
    if velocity is None:
        return after, None
    after = jax.tree.map(lambda matrix, old: matrix + moves.of_velocity[-1] * old, after, velocity)
    return after, jax.tree.map(lambda old, new: moves.kept * old + new, velocity, products(moves.last))


@jax.jit
def _steps(
    weights: Weights,
    velocity: Weights | None,
    setting: Setting,
    samples: Samples | None,
    fresh: Array | None,
    moves: Moves,
    count: int,
) -> tuple[Outer, Array]:
    """A block of steps: the outer products that they add to the weights, and the losses before each."""
    n, d = weights.inputs.shape
    branches = len(weights.hidden)
    skip, scale = setting.skip, setting.branch / jnp.sqrt(n)

    def step(s: Array, state: tuple[Outer, Array]) -> tuple[Outer, Array]:
        moved, losses = state
        factors, of_velocity = moves.of_steps[s], moves.of_velocity[s]
        # The layers of the network, each with its velocity where there is one.
        layers = (weights.hidden, None if velocity is None else velocity.hidden, moved.above, moved.below)

        def times(layer: tuple, field: Array) -> Array:
            matrix, old, left, right = layer
            product = matrix @ field + (factors * (right @ field)) @ left
            return product if old is None else product + of_velocity * (old @ field)

        def transposed(layer: tuple, field: Array) -> Array:
            matrix, old, left, right = layer
            product = field @ matrix + (factors * (left @ field)) @ right
            return product if old is None else product + of_velocity * (field @ old)

        def backward(field: Array, layer: tuple) -> tuple[Array, Array]:
            return skip * field + scale * transposed(layer, field), field

        def forward(field: Array, layer: tuple) -> tuple[Array, Array]:
            return skip * field + scale * times(layer, field), field

        readout = weights.readout + factors @ moved.top
        if velocity is not None:
            readout = readout + of_velocity * velocity.readout
        bottom, above = jax.lax.scan(backward, readout, layers, reverse=True)
        first = (weights.inputs, None if velocity is None else velocity.inputs, moved.bottom, moved.direction)
        residual = setting.coefficients - jnp.sqrt(d) / (setting.richness * n) * transposed(first, bottom)
        direction, train = _direction(residual, setting, samples, None if fresh is None else fresh[s])
        test = jnp.sum(setting.tested * residual**2) / d
        losses = losses.at[s].set(jnp.stack([test, train]))
        top, below = jax.lax.scan(forward, times(first, direction) / jnp.sqrt(d), layers)
        # What the rate multiplies; the factors of the moves hold the rates.
        moved = Outer(
            moved.bottom.at[s].set(setting.richness / jnp.sqrt(d) * bottom),
            moved.direction.at[s].set(direction),
            moved.above.at[:, s].set(setting.richness * scale * above),
            moved.below.at[:, s].set(below),
            moved.top.at[s].set(setting.richness * top),
        )
        return moved, losses

    start = Outer(
        jnp.zeros((STEPS, n)),
        jnp.zeros((STEPS, d)),
        jnp.zeros((branches, STEPS, n)),
        jnp.zeros((branches, STEPS, n)),
        jnp.zeros((STEPS, n)),
    )
    return jax.lax.fori_loop(0, count, step, (start, jnp.zeros((STEPS, 2))))


def _direction(residual: Array, setting: Setting, samples: Samples | None, fresh: Array | None) -> tuple[Array, Array]:
    """$u$ and the train loss."""
    d = len(residual)
    if samples is not None:
        errors = samples.inputs @ residual / jnp.sqrt(d) + setting.deviation * samples.noise
        return jnp.sqrt(d) / len(errors) * (errors @ samples.inputs), jnp.mean(errors**2)
    train = jnp.sum(setting.eigenvalues * residual**2) / d + setting.deviation**2
    if fresh is None:
        return setting.eigenvalues * residual, train
    batch = (len(fresh) - d) // 2
    numbers = fresh.astype(residual.dtype)
    z, x, noise = numbers[:d], numbers[d : d + batch], numbers[d + batch :]
    roots = jnp.sqrt(setting.eigenvalues)
    scaled = roots * residual / jnp.sqrt(d)
    size = jnp.sqrt(jnp.sum(scaled**2))
    along = scaled / jnp.maximum(size, jnp.finfo(size.dtype).tiny)
    errors = size * x + setting.deviation * noise
    across = jnp.sqrt(jnp.sum(errors**2)) * (z - along * jnp.sum(along * z))
    return jnp.sqrt(d) / batch * roots * (along * jnp.sum(x * errors) + across), train
