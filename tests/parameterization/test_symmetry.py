"""The exact symmetry (PA.2): another bookkeeping of the same training is the same training, step by step.

A residual network with input, hidden maps, biases, gains and output is trained in float64 by optimizers written out here,
once as it stands and once with a random factor moved from init to multiplier in every tensor.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from foretrain.parameterization import Entry, Recipe, Tensor, from_tensors, make_optimizer, shift_entry

N, D, P, DEPTH, STEPS = 48, 6, 10, 2, 20
SHAPES = {
    "first": (N, D),
    "first_bias": (N,),
    **{f"hidden{i}": (N, N) for i in range(DEPTH)},
    **{f"bias{i}": (N,) for i in range(DEPTH)},
    **{f"gain{i}": (N,) for i in range(DEPTH)},
    "final_gain": (N,),
    "last": (1, N),
    "last_bias": (1,),
}
# Optimizer -> the powers of theta in rate, epsilon and decay, as the theory prints them.
POWERS = {
    "sgd": (-2, 0, 2),
    "momentum": (-2, 0, 2),
    "nesterov": (-2, 0, 2),
    "adam": (-1, 1, 2),  # decay coupled: inside the gradient
    "adamw": (-1, 1, 1),
    "adamw-independent": (-1, 1, 0),
    "lion": (-1, 0, 1),
    "lion-independent": (-1, 0, 0),
}
# Tuned numbers, large enough that all of them matter within the twenty steps.
TUNED = dict.fromkeys(("sgd", "momentum", "nesterov"), (0.02, 0.0, 0.05)) | {
    "adam": (0.01, 0.03, 0.05),
    "adamw": (0.01, 0.03, 2.0),
    "adamw-independent": (0.01, 0.03, 0.02),
    "lion": (0.002, 0.0, 2.0),
    "lion-independent": (0.002, 0.0, 0.02),
}


def network(tensors, x):
    t = tensors
    h = x @ t["first"].T + t["first_bias"][None]
    for i in range(DEPTH):
        normed = h / jnp.sqrt(jnp.mean(h * h, axis=-1, keepdims=True) + 1e-3) * t[f"gain{i}"][None]
        h = h + jnp.tanh(normed @ t[f"hidden{i}"].T + t[f"bias{i}"][None]) / DEPTH
    return (h * t["final_gain"][None]) @ t["last"].T + t["last_bias"][None]


def recipe_of(name):
    optimizer, _, independent = name.partition("-")
    return Recipe("mup", optimizer, "independent" if independent else "lr-multiplied")


@functools.cache
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(P, D)), rng.normal(size=(P, 1))


def start(seed=1):
    rng = np.random.default_rng(seed)
    fan_in = {"first": D, "last": N}
    weights, entries = {}, {}
    for path, shape in SHAPES.items():
        ones = 1.0 if "gain" in path else 0.0
        weights[path] = rng.normal(size=shape) * (1.0 if len(shape) == 2 else 0.3) + ones
        entries[path] = fan_in.get(path, N) ** -0.5 if len(shape) == 2 else 1.0
    return weights, entries


@functools.cache
def _gradients():
    x, y = data()

    def loss(weights, multipliers):
        effective = {path: multipliers[path] * w for path, w in weights.items()}
        return jnp.mean((network(effective, x) - y) ** 2)

    return jax.jit(jax.grad(loss)), jax.jit(lambda w, a: network({p: a[p] * v for p, v in w.items()}, x))


def train(name, weights, multipliers, numbers):
    """Outputs after every step; `numbers`: path -> (rate, epsilon, decay). Optimizers as in their papers."""
    kind, _, independent = name.partition("-")
    w = {path: np.array(v) for path, v in weights.items()}
    m, v = ({path: np.zeros_like(x) for path, x in w.items()} for _ in range(2))
    outputs = []
    with jax.enable_x64(True):
        gradient, evaluate = _gradients()
        for step in range(1, STEPS + 1):
            g = {path: np.asarray(x) for path, x in gradient(w, multipliers).items()}
            for path in w:
                c, eps, decay = numbers[path]
                grad = g[path] + (decay * w[path] if kind in ("sgd", "momentum", "nesterov", "adam") else 0.0)
                if kind == "sgd":
                    update = grad
                elif kind in ("momentum", "nesterov"):
                    m[path] = 0.9 * m[path] + grad
                    update = m[path] if kind == "momentum" else grad + 0.9 * m[path]
                elif kind == "lion":
                    update = np.sign(0.9 * m[path] + 0.1 * grad)
                    m[path] = 0.99 * m[path] + 0.01 * grad
                else:
                    m[path] = 0.9 * m[path] + 0.1 * grad
                    v[path] = 0.999 * v[path] + 0.001 * grad**2
                    update = m[path] / (1 - 0.9**step) / (np.sqrt(v[path] / (1 - 0.999**step)) + eps)
                shrink = 0.0
                if kind in ("adamw", "lion"):
                    shrink = decay if independent else c * decay
                w[path] = w[path] - c * update - shrink * w[path]
            outputs.append(np.asarray(evaluate(w, multipliers)))
    return np.array(outputs)


def thetas(seed=2):
    return dict(zip(SHAPES, np.exp(np.random.default_rng(seed).uniform(-1, 1, len(SHAPES))), strict=True))


def moved(name, powers, theta):
    """The same start in other bookkeeping, with the given powers of theta."""
    weights, multipliers = start()
    tuned = TUNED[name]
    return (
        {path: w / theta[path] for path, w in weights.items()},
        {path: a * theta[path] for path, a in multipliers.items()},
        {path: tuple(t * theta[path] ** p for t, p in zip(tuned, powers, strict=True)) for path in SHAPES},
    )


@functools.cache
def plain(name):
    weights, multipliers = start()
    return train(name, weights, multipliers, dict.fromkeys(SHAPES, TUNED[name]))


@pytest.mark.parametrize("name", POWERS)
class TestSymmetry:
    def test_exact(self, name):
        """To rounding: measured below 1e-14 for outputs of order 1."""
        outputs = train(name, *moved(name, POWERS[name], thetas()))
        assert np.abs(outputs - plain(name)).max() < 1e-12

    def test_training_does_something(self, name):
        assert np.abs(plain(name)[-1] - plain(name)[0]).max() > 0.05

    def test_wrong_powers_are_seen(self, name):
        """Theta for theta squared in the rate and conversely; and the decay's and epsilon's power left out."""
        c, eps, decay = POWERS[name]
        wrong = [(-3 - c, eps, decay)]
        if name.startswith("adam"):
            wrong.append((c, 0, decay))
        wrong.append((c, eps, 1 if decay == 0 else 0))
        for powers in wrong:
            outputs = train(name, *moved(name, powers, thetas()))
            assert np.abs(outputs - plain(name)).max() > 0.01, powers

    def test_the_package_shifts_by_these_powers(self, name):
        rng = np.random.default_rng(3)
        values, theta = rng.uniform(0.1, 2, 5), 1.7
        moved_ = shift_entry(Entry(*values), theta, recipe_of(name))
        c, eps, decay = POWERS[name]
        powers = (1, -1, c, eps if name.startswith("adam") else 1, decay)
        expected = [v * theta**p for v, p in zip(values, powers, strict=True)]
        np.testing.assert_allclose([getattr(moved_, f) for f in Entry.__dataclass_fields__], expected, rtol=1e-14)


@pytest.mark.parametrize("name", list(POWERS))
def test_the_package_trains_like_the_optimizers_written_out(name):
    """Two roads: `make_optimizer` with a parameterization's own factors, and the loop above with the same numbers."""
    roles = {"first": "input", "last": "output", "last_bias": "output_bias", "final_gain": "final_vector"}
    roles |= {"first_bias": "final_vector"}
    tensors = {}
    for path, shape in SHAPES.items():
        role = roles.get(path) or ("hidden" if path.startswith("hidden") else "branch_vector_inner")
        tensors[path] = Tensor(shape, role, (1,) if len(shape) == 2 else (), (0,))
    recipe = recipe_of(name)
    p = from_tensors(tensors, recipe)
    rate, eps, decay = TUNED[name]
    rate = rate / N if recipe.optimizer in ("sgd", "momentum", "nesterov") else rate
    decay = 0.0 if name == "adam" else decay
    weights, _ = start()
    numbers = {}
    for path, rule in p.tensors.items():
        e = rule.entry
        numbers[path] = (rate * e.lr, eps * (e.eps or 0.0), decay * (e.weight_decay or 0.0))
    expected = train(name, weights, p.multipliers, numbers)

    with jax.enable_x64(True):
        params = {path: jnp.asarray(w) for path, w in weights.items()}
        p = p.like(params)
        optimizer = make_optimizer(p, rate, eps=eps or 1e-8, weight_decay=decay)
        gradient, evaluate = _gradients()

        state, outputs = optimizer.init(params), []
        for _ in range(STEPS):
            updates, state = optimizer.update(gradient(params, p.multipliers), state, params)
            params = optax.apply_updates(params, updates)
            outputs.append(np.asarray(evaluate(params, p.multipliers)))
    # Rounding, which Adam's and Lion's normalization enlarge where gradients are small.
    np.testing.assert_allclose(np.array(outputs), expected, atol=1e-9)
    assert np.abs(outputs[-1] - outputs[0]).max() > 0.01
