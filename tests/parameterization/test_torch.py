"""PyTorch: groups, initialization, wrappers, checkpoints; the same training as the JAX path."""

import copy
import io
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from foretrain.errors import ForetrainWarning, InvalidInput, MissingExtra
from foretrain.networks import MLP
from foretrain.parameterization import (
    Parameterization,
    Recipe,
    describe_torch,
    from_tensors,
    init_,
    make_optimizer,
    param_groups,
    parameterize,
)

torch = pytest.importorskip("torch", reason="PyTorch is not installed; pip install 'foretrain[torch]'")
nn = torch.nn

ROLES = {
    "embed.weight": "input",
    "*.norm.weight": "branch_vector_inner",
    "*.up.weight": "hidden_inner",
    "*.up.bias": "branch_vector_inner",
    "*.down.weight": "hidden",
    "norm.weight": "final_vector",
    "head.weight": "output",
    "head.bias": "output_bias",
}
COMMON = {"roles": ROLES, "scheme": "completep", "optimizer": "adamw"}


class Block(nn.Module):
    def __init__(self, width, branch):
        super().__init__()
        self.norm, self.branch = nn.RMSNorm(width), branch
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width, bias=False)

    def forward(self, h):
        return h + self.branch * self.down(torch.relu(self.up(self.norm(h))))


class Model(nn.Module):
    def __init__(self, width=64, depth=4, branch=1.0):
        super().__init__()
        self.embed = nn.Embedding(11, width)
        self.blocks = nn.ModuleList([Block(width, branch) for _ in range(depth)])
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, 11)

    def forward(self, tokens):
        h = self.embed(tokens)
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


GROWING = {"width": (16, 64), "depth": (2, 4)}


def made(model=None, **more):
    return parameterize(model or Model(), **{"base": Model(16, 2), "growing": GROWING, **COMMON, **more})


class TestDescribe:
    def test_layer_types(self):
        tensors = describe_torch(Model(), ROLES)
        assert tensors["embed.weight"].role == "embedding"
        assert tensors["embed.weight"].input_dim == 1
        assert (tensors["blocks.0.up.weight"].size_in, tensors["blocks.0.up.weight"].size_out) == (64, 128)

    def test_on_the_meta_device(self):
        with torch.device("meta"):
            big, small = Model(4096, 4), Model(16, 2)
        p = parameterize(big, base=small, growing={"width": (16, 4096), "depth": (2, 4)}, **COMMON)
        assert p.lr["blocks.3.down.weight"] == 1 / 256

    def test_convolutions(self):
        model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ConvTranspose2d(16, 8, 3))
        tensors = describe_torch(model, {"*.weight": "hidden", "*.bias": "final_vector"})
        assert [(tensors[f"{i}.weight"].size_in, tensors[f"{i}.weight"].size_out) for i in (0, 1)] == [
            (72, 16),
            (144, 8),
        ]

    def test_frozen_parameters_are_left_out(self):
        model = Model()
        model.embed.weight.requires_grad_(False)
        assert "embed.weight" not in describe_torch(model, ROLES)

    def test_roles(self):
        with pytest.raises(
            InvalidInput, match=r"no role for 'head.weight', shape \(11, 64\), growing axes: 1 \(16 -> 64\)"
        ):
            made(roles={k: v for k, v in ROLES.items() if k != "head.weight"})
        by_function = made(roles=lambda path, shape: ROLES["*." + path.split(".", 2)[2] if "blocks" in path else path])
        assert by_function.lr == made().lr

    def test_tied_table(self):
        def tied(width):
            model = Model(width, 1)
            model.head.weight = model.embed.weight
            return model

        more = {"base": tied(16), "growing": None}
        with pytest.raises(
            InvalidInput, match=r"'embed.weight' is shared by embed.weight, head.weight; declare it 'tied'"
        ):
            made(tied(64), **more)
        p = made(tied(64), **more, roles={**ROLES, "embed.weight": "tied"})
        assert "head.weight" not in p.tensors
        assert (p.readout_multiplier, p.lr["embed.weight"]) == (0.25, 1.0)


class TestGroups:
    def test_numbers(self):
        model, p = Model(), made()
        groups = param_groups(model, p, lr=0.01, weight_decay=0.1, eps=1e-6)
        found = {path: group for group in groups for path in group["paths"]}
        assert sorted(found) == sorted(p.tensors)
        assert len(groups) < len(found)
        down = found["blocks.0.down.weight"]
        assert down["lr"] == pytest.approx(0.01 / 4)
        assert down["weight_decay"] == pytest.approx(0.1 * 4)
        assert down["eps"] == pytest.approx(1e-6 / 8)
        assert found["norm.weight"]["weight_decay"] == 0.0
        named = dict(model.named_parameters())
        for group in groups:
            assert all(named[path] is value for path, value in zip(group["paths"], group["params"], strict=True))

    def test_independent_decay(self):
        """w <- w (1 - decay), although PyTorch multiplies by the rate."""
        model, p = Model(), made(decay="independent")
        before = {path: value.detach().clone() for path, value in model.named_parameters()}
        optimizer = torch.optim.AdamW(param_groups(model, p, lr=1e-12, weight_decay=0.3))
        for value in model.parameters():
            value.grad = torch.zeros_like(value)
        optimizer.step()
        for path, value in model.named_parameters():
            kept = 1.0 if p.weight_decay[path] is None else 0.7
            torch.testing.assert_close(value.detach(), kept * before[path], rtol=1e-6, atol=0)

    def test_base_is_plain_pytorch_to_the_bit(self):
        with pytest.warns(ForetrainWarning, match="base = target"):
            p = parameterize(Model(16, 2), base=Model(16, 2), **COMMON)
        torch.manual_seed(0)
        ours = Model(16, 2)
        theirs = copy.deepcopy(ours)
        plain = [value for path, value in theirs.named_parameters() if p.weight_decay[path] is not None]
        rest = [value for path, value in theirs.named_parameters() if p.weight_decay[path] is None]
        pairs = [
            (ours, torch.optim.AdamW(param_groups(ours, p, lr=0.01, weight_decay=0.1))),
            (
                theirs,
                torch.optim.AdamW([{"params": plain}, {"params": rest, "weight_decay": 0.0}], 0.01, weight_decay=0.1),
            ),
        ]
        for model, optimizer in pairs:
            for _ in range(3):
                optimizer.zero_grad()
                model(torch.arange(11)).square().mean().backward()
                optimizer.step()
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)

    def test_schedulers_keep_the_ratios(self):
        optimizer = torch.optim.AdamW(param_groups(Model(), made(), lr=0.01))
        rates = [group["lr"] for group in optimizer.param_groups]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
        optimizer.step()
        scheduler.step()
        assert [group["lr"] for group in optimizer.param_groups] == [rate / 2 for rate in rates]

    def test_wrappers(self):
        p = made()
        plain = {path: group["lr"] for group in param_groups(Model(), p, lr=1.0) for path in group["paths"]}
        wrapped = [
            nn.DataParallel(Model()),
            torch.compile(Model(), backend="eager"),
            nn.DataParallel(torch.compile(Model(), backend="eager")),
        ]
        for model in wrapped:
            groups = param_groups(model, p, lr=1.0)
            assert {path: group["lr"] for group in groups for path in group["paths"]} == plain
            assert parameterize(model, base=nn.DataParallel(Model(16, 2)), growing=GROWING, **COMMON).lr == p.lr
            init_(model, p)

    def test_checkpoints(self, tmp_path):
        """Model and optimizer saved and loaded, the parameterization in its own file: the next step is the same."""
        tokens = torch.arange(11)

        def step(model, optimizer):
            optimizer.zero_grad()
            model(tokens).square().mean().backward()
            optimizer.step()

        model, p = Model(), made()
        init_(model, p)
        optimizer = torch.optim.AdamW(param_groups(model, p, lr=0.01, weight_decay=0.1))
        step(model, optimizer)
        p.save(tmp_path / "p.json")
        saved = io.BytesIO()
        torch.save((model.state_dict(), optimizer.state_dict()), saved)
        saved.seek(0)
        weights, memory = torch.load(saved)

        again, p = Model(), Parameterization.load(tmp_path / "p.json")
        again.load_state_dict(weights)
        resumed = torch.optim.AdamW(param_groups(again, p, lr=0.01, weight_decay=0.1))
        resumed.load_state_dict(memory)
        assert [g["paths"] for g in resumed.param_groups] == [g["paths"] for g in optimizer.param_groups]
        for one in ((model, optimizer), (again, resumed)):
            step(*one)
        for a, b in zip(model.parameters(), again.parameters(), strict=True):
            assert torch.equal(a, b)

    def test_parameters_frozen_later_are_left_out(self):
        model, p = Model(), made()
        model.embed.weight.requires_grad_(False)
        assert "embed.weight" not in {path for group in param_groups(model, p, lr=1.0) for path in group["paths"]}

    def test_mistakes(self):
        model, p = Model(), made()
        with pytest.raises(InvalidInput, match=r"param_groups\(lr\): expected a number >= 0, got -1"):
            param_groups(model, p, lr=-1)
        with pytest.raises(
            InvalidInput, match=r"'embed.weight' has shape \(11, 32\), but the parameterization was made for"
        ):
            param_groups(Model(32), p, lr=1)
        with pytest.raises(InvalidInput, match=r"the model has no tensor 'blocks\.3"):
            param_groups(Model(depth=3), p, lr=1)
        with pytest.raises(InvalidInput, match="no rule that transfers; parameterize for 'adamw'"):
            param_groups(model, made(optimizer="adam"), lr=1, weight_decay=0.1)
        with pytest.raises(InvalidInput, match=r"param_groups\(eps\): 'sgd' has no epsilon"):
            param_groups(model, made(optimizer="sgd"), lr=1, eps=1e-8)
        with pytest.raises(InvalidInput, match="independent decay needs a rate > 0"):
            param_groups(model, made(decay="independent"), lr=0, weight_decay=0.1)

    def test_two_parameters_of_one_name(self):
        model = nn.Module()
        model.module = nn.Linear(2, 2, bias=False)
        model.weight = nn.Parameter(torch.zeros(2))
        with pytest.raises(InvalidInput, match="two parameters of the model are called 'weight' without wrappers"):
            describe_torch(model, ROLES)

    def test_without_pytorch(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", None)
        with pytest.raises(MissingExtra, match=r"pip install 'foretrain\[torch\]'"):
            init_(Model, made)


class TestInit:
    def test_standard_deviations(self):
        model, p = Model(512), made(Model(512), growing={"width": (16, 512), "depth": (2, 4)})
        assert init_(model, p, generator=torch.Generator().manual_seed(0)) is model
        expected = {
            "embed.weight": 1.0,
            "blocks.1.up.weight": 512**-0.5,
            "blocks.1.down.weight": 1024**-0.5,
            "head.weight": 16**-0.5,
        }
        for path, std in expected.items():
            value = model.get_parameter(path).detach()
            # The standard error of a standard deviation of n Gaussians is std / sqrt(2 n).
            assert abs(float(value.std()) - std) < 4 * std / np.sqrt(2 * value.numel()), path
        assert not model.get_parameter("blocks.0.up.bias").detach().any()
        assert torch.equal(model.norm.weight.detach(), torch.ones(512))

    def test_repeats_with_the_same_generator(self):
        one, two = (init_(Model(), made(), generator=torch.Generator().manual_seed(5)) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))

    def test_absorbed_gains(self):
        model, roles = Model(), {**ROLES, "*.norm.weight": "branch_vector"}
        init_(model, made(roles=roles, absorb=True))
        assert torch.equal(model.blocks[0].norm.weight.detach(), torch.full((64,), 0.5))


class TorchMLP(nn.Module):
    """`foretrain.networks.MLP` written in PyTorch, multipliers in the forward pass."""

    def __init__(self, network, multipliers):
        super().__init__()
        self.multipliers = multipliers

        def copied(x):
            return nn.Parameter(torch.tensor(np.asarray(x)))

        self.first, self.last = copied(network.first.weight), copied(network.last.weight)
        self.first_bias, self.last_bias = copied(network.first.bias), copied(network.last.bias)
        self.middle = nn.ParameterList([copied(w) for w in network.middle.weight])
        self.middle_bias = nn.ParameterList([copied(b) for b in network.middle.bias])

    def forward(self, x):
        a = self.multipliers
        h = a["first.weight"] * x @ self.first.T + a["first.bias"] * self.first_bias
        for w, b in zip(self.middle, self.middle_bias, strict=True):
            h = a["middle.weight"] * torch.tanh(h) @ w.T + a["middle.bias"] * b
        return a["last.weight"] * torch.tanh(h) @ self.last.T + a["last.bias"] * self.last_bias


MLP_ROLES = {
    "first": "input",
    "first_bias": "final_vector",
    "middle.*": "hidden_inner",
    "middle_bias.*": "final_vector",
    "last": "output",
    "last_bias": "output_bias",
}
STEPS = 60
SGD, ADAM = (0.02, 0.02), (0.005, 0.02)  # rate and decay
EPS = 1e-4  # large enough to matter
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, SGD, {}),
    "momentum": (torch.optim.SGD, SGD, {"momentum": 0.9}),
    "nesterov": (torch.optim.SGD, SGD, {"momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, (0.005, 0.0), {}),
    "adamw": (torch.optim.AdamW, ADAM, {}),
    "adamw-independent": (torch.optim.AdamW, (0.005, 1e-3), {}),
}


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    # The first tolerance is what is promised; Optax computes 1 - 0.999^t in float32, good to 6e-5 at t = 1. In double precision
    # only rounding is left, which training enlarges.
    [
        *((name, "float32", 1e-5) for name in OPTIMIZERS),
        ("nesterov", "float64", 1e-11),
        ("adamw-independent", "float64", 1e-11),
    ],
)
def test_trains_like_the_jax_path(name, dtype, tolerance):
    """The same MLP from the same weights gives the same loss curve."""
    torch_optimizer, (rate, decay), options = OPTIMIZERS[name]
    optimizer, _, independent = name.partition("-")
    recipe = Recipe("mup", optimizer, "independent" if independent else "lr-multiplied")
    x, y = (np.random.default_rng(0).normal(size=(32, n)).astype(dtype) for n in (6, 2))
    tensors, base = (MLP.tensors(6, 2, width=w, depth=3, bias=True) for w in (64, 32))
    p = from_tensors(tensors, recipe, form="relative", base=base)

    with jax.enable_x64(dtype == "float64"):
        more = {"depth": 3, "bias": True, "activation": "tanh", "key": jax.random.key(0), "dtype": jnp.dtype(dtype)}
        network, small = MLP(6, 2, width=64, parameterization=p, **more), MLP(6, 2, width=32, **more)
        pt, small_pt = TorchMLP(network, p.multipliers), TorchMLP(small, p.multipliers)
        words = {"scheme": "mup", "optimizer": optimizer, "decay": recipe.decay, "roles": MLP_ROLES, "outside": ["*"]}
        theirs = parameterize(pt, base=small_pt, **words)
        eps = {"eps": EPS} if optimizer.startswith("adam") else {}
        tuned = torch_optimizer(param_groups(pt, theirs, lr=rate, weight_decay=decay, **eps), lr=rate, **options)
        torch_losses = []
        for _ in range(STEPS):
            tuned.zero_grad()
            loss = (pt(torch.tensor(x)) - torch.tensor(y)).square().sum(1).mean()
            loss.backward()
            tuned.step()
            torch_losses.append(loss.item())

        params, static = eqx.partition(network, eqx.is_inexact_array)
        ours = make_optimizer(p.like(params), rate, weight_decay=decay, **eps)

        @jax.jit
        def step(params, state):
            def loss(params):
                f = jax.vmap(eqx.combine(params, static))(x)
                return jnp.mean(jnp.sum((f - y) ** 2, axis=1))

            value, gradient = jax.value_and_grad(loss)(params)
            updates, state = ours.update(gradient, state, params)
            return optax.apply_updates(params, updates), state, value

        state, jax_losses = ours.init(params), []
        for _ in range(STEPS):
            params, state, value = step(params, state)
            jax_losses.append(float(value))
    assert jax_losses[-1] < 0.7 * jax_losses[0]
    gap = np.abs(np.array(jax_losses) - torch_losses).max()
    assert gap < tolerance
