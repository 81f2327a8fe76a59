"""Models of other JAX libraries: parameters in pytrees, multiplied on their way into the model."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from foretrain.errors import InvalidInput
from foretrain.parameterization import apply_multipliers, initialize, make_optimizer, parameterize

ROLES = {
    "*first.kernel": "input",
    "*first.bias": "final_vector",
    "*middle.kernel": "hidden_inner",
    "*middle.bias": "final_vector",
    "*norm.*": "final_vector",
    "*last.kernel": "output",
    "*last.bias": "output_bias",
}
COMMON = {"roles": ROLES, "scheme": "mup", "optimizer": "adamw", "layout": "in-out"}


def params(width, seed=0):
    """As Linen keeps them."""
    rng = np.random.default_rng(seed)
    numbers = {
        "first": {"kernel": rng.standard_normal((5, width)), "bias": np.zeros(width)},
        "middle": {"kernel": rng.standard_normal((width, width)), "bias": np.zeros(width)},
        "norm": {"scale": np.ones(width)},
        "last": {"kernel": rng.standard_normal((width, 2)), "bias": np.zeros(2)},
    }
    return jax.tree.map(lambda values: jnp.asarray(values, dtype=jnp.float32), numbers)


class TestPytrees:
    def test_trees_look_like_the_parameters(self):
        p = parameterize(params(256), base=params(64), **COMMON)
        assert p.lr["middle"]["kernel"] == 0.25
        assert p.multipliers["last"]["kernel"] == 0.25
        assert p.init_std["first"]["kernel"] == 1.0
        assert jax.tree.structure(p.lr) == jax.tree.structure(params(256))

    def test_initialize(self):
        given = params(256)
        p = parameterize(given, base=params(64), **COMMON)
        started = initialize(given, p, jax.random.key(1))
        for path, std in (("first", 5**-0.5), ("middle", 256**-0.5), ("last", 64**-0.5)):
            kernel = np.asarray(started[path]["kernel"])
            # The standard error of a standard deviation of n Gaussians is std / sqrt(2 n).
            assert abs(kernel.std() - std) < 4 * std / np.sqrt(2 * kernel.size)
        assert np.array_equal(started["norm"]["scale"], given["norm"]["scale"])
        again = initialize(given, p, jax.random.key(1))
        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), started, again)))

    def test_absorbed_gains_start_at_their_factor(self):
        roles = {**ROLES, "*norm.*": "branch_vector"}
        p = parameterize(
            params(8),
            roles=roles,
            scheme="completep",
            optimizer="adamw",
            layout="in-out",
            form="canonical",
            growing={"depth": 4},
            absorb=True,
        )
        started = initialize(params(8), p, jax.random.key(0))
        assert np.array_equal(started["norm"]["scale"], np.full(8, 0.25, np.float32))

    def test_multipliers_on_the_way_in(self):
        given = params(256)
        p = parameterize(given, base=params(64), **COMMON)
        seen = apply_multipliers(given, p)
        assert np.array_equal(seen["last"]["kernel"], 0.25 * given["last"]["kernel"])
        assert seen["middle"]["kernel"] is given["middle"]["kernel"]

    def test_another_model(self):
        p = parameterize(params(256), base=params(64), **COMMON)
        for function in (lambda q: initialize(q, p, jax.random.key(0)), lambda q: apply_multipliers(q, p)):
            with pytest.raises(InvalidInput, match="was made for"):
                function(params(128))

    def test_absorbed_training_is_the_same_training(self):
        """Multipliers in the forward pass, or moved into init, rate, epsilon and decay: the same outputs."""
        x, y = np.random.default_rng(0).normal(size=(8, 5)), np.random.default_rng(1).normal(size=(8, 2))

        def outputs(p, start):
            def f(q):
                t = apply_multipliers(q, p)
                h = jnp.tanh(x @ t["first"]["kernel"] + t["first"]["bias"][None])
                h = jnp.tanh(h @ t["middle"]["kernel"] + t["middle"]["bias"][None]) * t["norm"]["scale"][None]
                return h @ t["last"]["kernel"] + t["last"]["bias"][None]

            p = p.like(start)
            optimizer = make_optimizer(p, 0.02, eps=1e-2, weight_decay=0.1)

            @jax.jit
            def step(q, state):
                updates, state = optimizer.update(jax.grad(lambda q: jnp.mean((f(q) - y) ** 2))(q), state, q)
                return optax.apply_updates(q, updates), state

            state = optimizer.init(start)
            for _ in range(20):
                start, state = step(start, state)
            return np.asarray(f(start))

        with jax.enable_x64(True):
            start = jax.tree.map(lambda w: w.astype(jnp.float64), params(48))
            plain = parameterize(start, base=params(16), **COMMON)
            moved = parameterize(start, base=params(16), absorb=True, **COMMON)
            scaled = apply_multipliers(start, plain)
            assert np.abs(outputs(plain, start) - outputs(moved, scaled)).max() < 1e-12
            assert np.abs(outputs(plain, start) - outputs(plain, scaled)).max() > 0.01


class TestFlax:
    """Flax is no dependency: its trees are pytrees."""

    def test_nnx(self):
        nnx = pytest.importorskip("flax.nnx", reason="flax is not installed")

        class Model(nnx.Module):
            def __init__(self, width):
                rngs = nnx.Rngs(0)
                self.first = nnx.Linear(5, width, rngs=rngs)
                self.middle = nnx.Linear(width, width, rngs=rngs)
                self.norm = nnx.LayerNorm(width, use_bias=False, rngs=rngs)
                self.last = nnx.Linear(width, 2, rngs=rngs)

            def __call__(self, x):
                return self.last(self.norm(nnx.tanh(self.middle(nnx.tanh(self.first(x))))))

        model = Model(64)
        graph, state = nnx.split(model, nnx.Param)
        p = parameterize(state, base=nnx.state(Model(16), nnx.Param), **COMMON)
        assert set(p.tensors) == {
            *(f"{layer}.{leaf}" for layer in ("first", "middle", "last") for leaf in ("kernel", "bias")),
            "norm.scale",
        }
        assert p.tensors["middle.kernel"].entry.lr == 0.25
        state = initialize(state, p, jax.random.key(0))
        optimizer = make_optimizer(p.like(state), 0.01)
        x, y = jnp.ones((3, 5)), jnp.ones((3, 2))

        @jax.jit
        def step(state, memory):
            def loss(state):
                return jnp.mean((nnx.merge(graph, apply_multipliers(state, p))(x) - y) ** 2)

            value, gradient = jax.value_and_grad(loss)(state)
            updates, memory = optimizer.update(gradient, memory, state)
            return optax.apply_updates(state, updates), memory, value

        memory, losses = optimizer.init(state), []
        for _ in range(10):
            state, memory, loss = step(state, memory)
            losses.append(float(loss))
        assert losses[-1] < 0.5 * losses[0]
        nnx.update(model, state)

    def test_linen(self):
        nn = pytest.importorskip("flax.linen", reason="flax is not installed")

        class Model(nn.Module):
            width: int

            @nn.compact
            def __call__(self, tokens):
                h = nn.Embed(7, self.width, name="table")(tokens)
                h = nn.Conv(self.width, (3,), name="middle")(h)
                return nn.Dense(7, name="last")(h)

        def variables(width):
            return jax.jit(Model(width).init)(jax.random.key(0), jnp.zeros((1, 4), int))["params"]

        roles = {"table.*": "input", **ROLES}
        p = parameterize(variables(64), base=variables(16), **{**COMMON, "roles": roles})
        assert p.tensors["table.embedding"].tensor.role == "embedding"
        assert p.tensors["middle.kernel"].tensor.size_in == 3 * 64
        assert (
            p.init_std["table"]["embedding"] == p.lr["table"]["embedding"] == p.absolute_std("table.embedding") == 1.0
        )
        assert p.lr["middle"]["kernel"] == p.multipliers["last"]["kernel"] == 0.25
        started = initialize(variables(64), p, jax.random.key(0))
        assert Model(64).apply({"params": apply_multipliers(started, p)}, jnp.zeros((1, 4), int)).shape == (1, 4, 7)
