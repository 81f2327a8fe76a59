"""Optax: at the base it is Optax to the bit; away from it, what a first step does to the function."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from foretrain._random import draw_normal
from foretrain.errors import ForetrainWarning, InvalidInput
from foretrain.parameterization import Recipe, Tensor, from_tensors, make_optimizer, parameterize, scale_by_role

SHAPES = {"first": (32, 5), "bias": (32,), "middle": (32, 32), "last": (2, 32)}
ROLES = {"first": "input", "bias": "final_vector", "middle": "hidden_inner", "last": "output"}
DECAYED = {"first": True, "bias": False, "middle": True, "last": True}


def at_base(optimizer, decay="lr-multiplied", scheme="mup"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ForetrainWarning)  # it says that all factors are 1: that is the point here
        return parameterize(SHAPES, base=SHAPES, roles=ROLES, scheme=scheme, optimizer=optimizer, decay=decay)


@functools.cache
def draws():
    keys = iter(jax.random.split(jax.random.key(0), 99))

    def drawn():
        return {path: draw_normal(next(keys), shape, jnp.float32, 1.0) for path, shape in SHAPES.items()}

    return drawn(), [drawn() for _ in range(5)]


def run(optimizer):
    params, gradients = draws()

    @jax.jit
    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for gradient in gradients:
        params, state = step(params, state, gradient)
    return params


def decay_in_gradient(weight_decay):
    return optax.add_decayed_weights(weight_decay, mask=DECAYED)


def warm(step):
    return jnp.minimum(1.0, (step + 1) / 3)


CASES = {
    "sgd": ({}, optax.sgd(0.1)),
    "momentum": ({"momentum": 0.8}, optax.sgd(0.1, momentum=0.8)),
    "nesterov": ({"momentum": 0.8}, optax.sgd(0.1, momentum=0.8, nesterov=True)),
    "sgd-l2": ({"weight_decay": 0.3}, optax.chain(decay_in_gradient(0.3), optax.sgd(0.1))),
    "adam": ({"eps": 1e-3}, optax.adam(0.1, eps=1e-3)),
    "adamw": ({"weight_decay": 0.3}, optax.adamw(0.1, weight_decay=0.3, mask=DECAYED)),
    "lion": ({"weight_decay": 0.3}, optax.lion(0.1, b1=0.9, weight_decay=0.3, mask=DECAYED)),
    "adam-clipped": ({"clip_norm": 0.5}, optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1))),
    "adam-schedule": (
        {"schedule": warm},
        optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(warm), optax.scale(-0.1)),
    ),
}


class TestAtTheBase:
    @pytest.mark.parametrize("name", CASES)
    def test_bit_identical(self, name):
        options, plain = CASES[name]
        p = at_base(name.partition("-")[0]).like(draws()[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ForetrainWarning)  # one of them clips
            optimizer = make_optimizer(p, 0.1, **options)
        ours, theirs = run(optimizer), run(plain)
        for path in SHAPES:
            assert ours[path].tobytes() == theirs[path].tobytes(), path

    def test_independent_decay(self):
        """w <- w (1 - schedule x decay), whatever the rate."""
        p = at_base("adamw", "independent").like(draws()[0])
        ours = run(make_optimizer(p, 1e-30, weight_decay=0.3, schedule=warm))
        kept = np.prod([1 - 0.3 * min(1, (t + 1) / 3) for t in range(5)])
        for path, decayed in DECAYED.items():
            # float32, five products
            np.testing.assert_allclose(ours[path], draws()[0][path] * (kept if decayed else 1), rtol=1e-6)

    def test_a_traced_rate(self):
        params, gradients = draws()
        p = at_base("adamw").like(params)

        @jax.jit
        def one(rate, decay):
            optimizer = make_optimizer(p, rate, weight_decay=decay)
            updates, _ = optimizer.update(gradients[0], optimizer.init(params), params)
            return updates

        fixed = make_optimizer(p, 0.1, weight_decay=0.3)
        expected, _ = fixed.update(gradients[0], fixed.init(params), params)
        for path, update in one(0.1, 0.3).items():
            np.testing.assert_allclose(update, expected[path], rtol=1e-6)


class TestMistakes:
    def test_without_a_pytree(self):
        with pytest.raises(InvalidInput, match=r"has no pytree; pass `parameterization.like\(params\)`"):
            make_optimizer(at_base("sgd"), 0.1)
        with pytest.raises(InvalidInput, match="has no pytree"):
            scale_by_role(at_base("sgd"))

    def test_decay_for_adam(self):
        p = at_base("adam").like(draws()[0])
        for value in (0.1, jnp.asarray(0.1)):
            with pytest.raises(InvalidInput, match="no rule that transfers; parameterize for 'adamw'"):
                make_optimizer(p, 0.1, weight_decay=value)

    def test_global_clipping_warns(self):
        p = at_base("sgd").like(draws()[0])
        with pytest.warns(
            ForetrainWarning, match=r"make_optimizer\(clip_norm\): clipping by the global norm couples all"
        ):
            make_optimizer(p, 0.1, clip_norm=1.0)

    def test_decay_needs_the_parameters(self):
        p = at_base("adamw").like(draws()[0])
        optimizer = make_optimizer(p, 0.1, weight_decay=0.1)
        with pytest.raises(InvalidInput, match="pass the parameters"):
            optimizer.update(draws()[1][0], optimizer.init(draws()[0]))


# What a first step does: a residual network h <- h + branch, in float64.
P, D, LAYERS = 6, 5, 2


def tensors(width):
    found = {"first": Tensor((width, D), "input", (1,), (0,)), "last": Tensor((1, width), "output", (1,), (0,))}
    found |= {f"w{i}": Tensor((width, width), "hidden", (1,), (0,)) for i in range(LAYERS)}
    return found | {"bias": Tensor((1,), "output_bias", (), (0,))}


def features(params, multipliers, x):
    t = {path: multipliers[path] * w for path, w in params.items()}
    h = x @ t["first"].T
    for i in range(LAYERS):
        h = h + jnp.tanh(h) @ t[f"w{i}"].T
    return h, h @ t["last"].T + t["bias"][None]


def problem(width, seed, **options):
    rng = np.random.default_rng(seed)
    p = from_tensors(tensors(width), Recipe(options.pop("scheme"), options.pop("optimizer", "sgd")), **options)
    params = {path: jnp.asarray(rng.normal(size=t.shape)) for path, t in tensors(width).items()}
    params["bias"] = jnp.zeros(1)
    x, y = np.random.default_rng(0).normal(size=(P, D)), np.random.default_rng(1).normal(size=(P, 1))
    return p.like(params), params, jnp.asarray(x), jnp.asarray(y)


@functools.cache
def compiled():
    """Features, and gradients of centred outputs (whose errors are the targets), with multipliers as arguments."""

    def loss(params, a, x, y, start):
        return jnp.mean((features(params, a, x)[1] - start - y) ** 2) / 2

    return jax.jit(features), jax.jit(jax.grad(loss))


def first_step(width, rate, seed=0, **options):
    """RMS change of the last features and of the outputs."""
    p, params, x, y = problem(width, seed, **options)
    see, gradient = compiled()
    before, optimizer = see(params, p.multipliers, x), make_optimizer(p, rate)
    updates, _ = optimizer.update(gradient(params, p.multipliers, x, y, before[1]), optimizer.init(params), params)
    after = see(optax.apply_updates(params, updates), p.multipliers, x)
    return [float(jnp.sqrt(jnp.mean((v - u) ** 2))) for u, v in zip(before, after, strict=True)]


class TestFirstStep:
    @pytest.mark.parametrize("scheme", ["mup", "mup-depth", "completep"])
    def test_tangent_kernel_does_not_depend_on_richness(self, scheme):
        """Sum over tensors of rate x gradient kernel, exactly, at every width."""

        jacobian_of = jax.jit(jax.jacobian(lambda q, a, x: features(q, a, x)[1][:, 0]))

        def kernel(gamma):
            p, params, x, _ = problem(32, 0, scheme=scheme, richness=gamma)
            jacobian = jacobian_of(params, p.multipliers, x)
            rates = p.lr
            flat = {path: j.reshape(P, -1) for path, j in jacobian.items()}
            return sum(rates[path] * g @ g.T for path, g in flat.items())

        with jax.enable_x64(True):
            one, small = np.asarray(kernel(1.0)), np.asarray(kernel(1e-3))
        np.testing.assert_allclose(small, one, rtol=1e-12)

    @pytest.mark.parametrize("gamma", [0.3, 1e-3])
    def test_first_step_is_the_kernel_times_the_error(self, gamma):
        """f(1) - f(0) = (eta / P) K (y - f(0)) to first order in the rate, for every richness."""

        @jax.jit
        def gap(rate):
            p, params, x, y = problem(256, 3, scheme="mup", richness=gamma)
            a = p.multipliers

            def f(q):
                return features(q, a, x)[1][:, 0]

            jacobian = {path: j.reshape(P, -1) for path, j in jax.jacobian(f)(params).items()}
            kernel = sum(p.lr[path] * j @ j.T for path, j in jacobian.items())
            predicted = rate / P * kernel @ (y[:, 0] - f(params))
            optimizer = make_optimizer(p, rate)
            gradient = jax.grad(lambda q: jnp.mean((f(q) - y[:, 0]) ** 2) / 2)(params)
            updates, _ = optimizer.update(gradient, optimizer.init(params), params)
            change = f(optax.apply_updates(params, updates)) - f(params)
            return jnp.linalg.norm(change - predicted) / jnp.linalg.norm(predicted)

        with jax.enable_x64(True):
            small, double = float(gap(1e-3)), float(gap(2e-3))
        # The rest is of first order in rate x richness: it doubles with the rate, up to the next order.
        assert 1.9 < double / small < 2.1
        assert small < 0.1 * gamma

    @pytest.mark.parametrize(
        ("options", "rate", "slopes"),
        [
            ({"scheme": "sp"}, lambda n: 0.2 / n, (-0.5, 0.0)),
            ({"scheme": "ntk"}, lambda n: 0.2, (-0.5, 0.0)),
            ({"scheme": "mup"}, lambda n: 0.2, (0.0, 0.0)),
        ],
    )
    def test_standard_parameterization_at_rate_over_width_is_lazy(self, options, rate, slopes):
        """Slopes of changes of features and outputs against width; z-scores over seeds, finite-width bias up to 0.1."""
        widths, seeds = (64, 256, 1024), range(4)
        with jax.enable_x64(True):
            changes = np.array([[first_step(n, rate(n), seed, **options) for n in widths] for seed in seeds])
        each = np.array([np.polyfit(np.log(widths), np.log(one), 1)[0] for one in changes])  # seed, quantity
        error = each.std(axis=0, ddof=1) / np.sqrt(len(seeds))
        assert np.all(np.abs(each.mean(axis=0) - slopes) < 3 * error + 0.1)
        assert np.all(error < 0.1)  # small enough to tell 0 from 1/2
