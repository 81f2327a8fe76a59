"""The exact symmetry (PA.2) on whole networks: factors moved from init to multiplier, rates to match, same function."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from foretrain.networks import ResNet, Transformer
from foretrain.parameterization import Recipe, Size, from_tensors, make_optimizer

# What is tuned: large enough that learning, epsilon and decay all matter within the twenty steps.
TUNED = {
    "sgd": {"learning_rate": 0.03, "weight_decay": 0.05},
    "momentum": {"learning_rate": 0.005, "weight_decay": 0.05},
    "nesterov": {"learning_rate": 0.005, "weight_decay": 0.05},
    "adam": {"learning_rate": 0.02, "eps": 0.1},
    "adamw": {"learning_rate": 0.02, "eps": 0.1, "weight_decay": 1.0},
    "adamw-independent": {"learning_rate": 0.02, "eps": 0.1, "weight_decay": 0.02},
    "lion": {"learning_rate": 0.004, "weight_decay": 1.0},
}
SIZES = {
    "resnet": {"width": 24, "depth": 3, "norm": "rmsnorm", "bias": True},
    "transformer": {"width": 16, "depth": 2, "context": 5, "norm": "rmsnorm", "bias": True},
}
# SGD rates carry theta^-2, those of sign-like optimizers theta^-1; the wrong one is the other.
SQUARED = ("sgd", "momentum", "nesterov")


def trained(kind, p, theta, params, tuned, data, wrong):
    """Outputs after twenty steps of the network whose tensors are divided by theta, with the numbers shifted by it."""
    entries = {}
    for path, rule in p.tensors.items():
        entry = p.shifted(path, theta[path])
        entries[path] = dataclasses.replace(rule, entry=dataclasses.replace(entry, lr=entry.lr * theta[path] ** wrong))
    q = dataclasses.replace(p, tensors=entries)
    made = functools.partial(ResNet, 6, 2) if kind == "resnet" else functools.partial(Transformer, 7, 7, heads=2)
    key = jax.random.key(0)
    # every leaf of a network is trained, so that a network is its own pytree of parameters
    start = jax.eval_shape(lambda: made(**SIZES[kind], parameterization=q, key=key, dtype=jnp.float64))
    leaves, structure = jax.tree_util.tree_flatten_with_path(start)
    paths = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    start = jax.tree.unflatten(structure, [params[path] / theta[path] for path in paths])
    optimizer = make_optimizer(q.like(start), **tuned)
    xs, ys = data

    def outputs(weights):
        return jax.vmap(weights)(xs)

    @jax.jit
    def run(weights):
        before = outputs(weights)

        def step(carry, _):
            weights, state = carry
            gradients = jax.grad(lambda w: jnp.mean(jnp.sum((outputs(w) - ys) ** 2, axis=-1)))(weights)
            updates, state = optimizer.update(gradients, state, weights)
            return (optax.apply_updates(weights, updates), state), None

        (weights, _), _ = jax.lax.scan(step, (weights, optimizer.init(weights)), length=20)
        return outputs(weights), before

    return [np.asarray(part) for part in run(start)]


@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [
        pytest.param(kind, name, marks=[] if (kind, name) == ("resnet", "sgd") else pytest.mark.long)
        for kind in ("resnet", "transformer")
        for name in TUNED
    ],
)
def test_training_does_not_depend_on_the_bookkeeping(kind, optimizer):
    name, _, independent = optimizer.partition("-")
    recipe = Recipe("completep", name, "independent" if independent else "lr-multiplied")
    with jax.enable_x64(True):
        rng = np.random.default_rng(3)
        if kind == "resnet":
            tensors, size = ResNet.tensors(6, 2, **SIZES[kind]), Size(3)
            data = jnp.asarray(rng.normal(size=(8, 6))), jnp.asarray(rng.normal(size=(8, 2)))
        else:
            tensors, size = Transformer.tensors(7, 7, **SIZES[kind]), Size(2, 8)
            data = jnp.asarray(rng.integers(0, 7, (4, 5))), jnp.asarray(rng.normal(size=(4, 5, 7)))
        p = from_tensors(tensors, recipe, size=size)
        params = {
            path: jnp.asarray(rng.normal(size=t.shape) * (1 if t.fan_in else 0.3) + path.endswith("gain"))
            for path, t in tensors.items()
        }
        ones = dict.fromkeys(tensors, 1.0)
        theta = {path: float(rng.uniform(0.5, 2)) for path in tensors}
        run = (params, TUNED[optimizer], data)
        (plain, before), (moved, _) = trained(kind, p, ones, *run, wrong=0), trained(kind, p, theta, *run, wrong=0)
        wrong, _ = trained(kind, p, theta, *run, wrong=1 if name in SQUARED else -1)
    assert np.isfinite(plain).all()
    assert np.abs(plain - before).max() > 0.1  # it learns
    assert np.abs(plain - moved).max() < 1e-9  # rounding of float64, grown over twenty steps
    assert np.abs(plain - wrong).max() > 0.01
