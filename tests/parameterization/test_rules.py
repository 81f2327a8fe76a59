"""The table against the published rules, written out here a second time: every cell, at sizes drawn by hypothesis."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.errors import InvalidInput
from foretrain.parameterization import (
    OPTIMIZERS,
    ROLES,
    SCHEMES,
    Recipe,
    Size,
    Tensor,
    canonical_rule,
    from_tensors,
    parameterize,
    relative_rule,
    role_table,
)

ALPHA = {"mup": 0.0, "mean-field": 0.0, "mup-depth": 0.5, "completep": 1.0}
FAMILY = tuple(ALPHA)
SGD, SIGN = ("sgd", "momentum", "nesterov"), ("adam", "adamw", "lion")
IN_BRANCH = ("hidden", "hidden_inner", "hidden_qk", "branch_vector", "branch_vector_inner")
# A few roundings of products and powers.
CLOSE = 1e-13


def same(value, expected):
    if expected is None:
        return value is None
    return value is not None and math.isclose(value, expected, rel_tol=CLOSE)


def canonical_cells(scheme, optimizer, *, n, depth, d, head, alpha_a, gamma, beta, eta):
    """Role -> (a, c), as printed: (PA.3) with b = 1."""
    sgd = optimizer in SGD
    if scheme == "ntk":
        root = n**-0.5
        none = eta if sgd else None
        return {
            "input": (d**-0.5, eta if sgd else eta * root),
            "hidden": (root, eta if sgd else eta / n),
            "hidden_inner": (root, eta if sgd else eta / n),
            "hidden_qk": (root, eta if sgd else eta / n),
            "branch_vector": (1.0, none),
            "branch_vector_inner": (1.0, none),
            "final_vector": (1.0, none),
            "output": (root, eta if sgd else eta * root),
            "output_bias": (1.0, eta),
        }
    if scheme == "sp":
        power = 2 if sgd else 1
        a = {"input": d**-0.5, "output": n**-0.5}
        cells = {}
        for role in ROLES:
            init = a.get(role, n**-0.5 if role.startswith("hidden") else 1.0)
            branch = beta if role in ("hidden", "branch_vector") else 1.0
            cells[role] = (init * branch, eta / init**power)
        return cells
    alpha = ALPHA[scheme]
    s = beta * depth**-alpha
    deep = scheme in ("mup-depth", "completep")
    if sgd:
        width = eta * gamma**2 * n
        hidden = width * (depth ** (2 * alpha - 1) if deep else 1.0)
        qk, vector, stream, bias = hidden * head ** (2 * alpha_a - 2), hidden, width, eta
    else:
        hidden = eta * n**-0.5 * (depth ** (alpha - 1) if deep else 1.0)
        qk, stream, bias = hidden * head ** (alpha_a - 1), eta, eta
        vector = eta * (depth ** (alpha - 1) if deep else 1.0)
    return {
        "input": (d**-0.5, stream),
        "hidden": (s * n**-0.5, hidden),
        "hidden_inner": (n**-0.5, hidden),
        "hidden_qk": (n**-0.5, qk),
        "branch_vector": (s, vector),
        "branch_vector_inner": (1.0, vector),
        "final_vector": (1.0, stream),
        "output": (1 / (gamma * n), stream),
        "output_bias": (1.0, bias),
    }


def relative_cells(scheme, optimizer, readout, *, n, depth, head, alpha_a):
    """Role -> (init variance, rate, decay x rate form, epsilon), as printed: (PA.4)."""
    alpha = ALPHA[scheme]
    deep = depth if scheme in ("mup-depth", "completep") else 1.0
    if optimizer in SGD:
        out = {
            "input": (1, n),
            "hidden": (1 / n, deep ** (2 * alpha - 1)),
            "hidden_qk": (1 / n, deep ** (2 * alpha - 1) * head ** (2 * alpha_a - 2)),
            "branch_vector": (1, n * deep ** (2 * alpha - 1)),
            "final_vector": (1, n),
            "output": (1, n) if readout == "forward" else (n**-2, 1 / n),
            "output_bias": (1, 1),
        }
        return {role: (*cell, None, None) for role, cell in out.items()}
    in_branch = 1 / n * deep**-alpha
    rate = deep ** (alpha - 1)
    return {
        "input": (1, 1, 1, 1 / n),
        "hidden": (1 / n, rate / n, n / rate, in_branch),
        "hidden_qk": (
            1 / n,
            rate / n * head ** (alpha_a - 1),
            n / rate * head ** (1 - alpha_a),
            in_branch * head ** (1 - alpha_a),
        ),
        "branch_vector": (1, rate, 1, in_branch),
        "final_vector": (1, 1, None, 1 / n),
        "output": (1, 1, 1, 1 / n) if readout == "forward" else (n**-2, 1 / n, n, 1),
        "output_bias": (1, 1, None, 1),
    }


widths = st.integers(2, 4096).map(float)
depths = st.integers(1, 256).map(float)
heads = st.integers(2, 256).map(float)
exponents = st.sampled_from([0.5, 0.75, 1.0])
positive = st.floats(0.01, 100)


class TestEveryCell:
    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    @pytest.mark.parametrize("scheme", SCHEMES)
    @given(n=widths, depth=depths, d=widths, head=heads, alpha_a=exponents, gamma=positive, beta=positive, eta=positive)
    @settings(max_examples=15, deadline=None)
    def test_canonical(self, scheme, optimizer, n, depth, d, head, alpha_a, gamma, beta, eta):
        gamma = 1.0 if scheme in ("sp", "ntk") else gamma
        beta = 1.0 if scheme == "ntk" else beta
        table = role_table(
            Recipe(scheme, optimizer, attention_exponent=alpha_a),
            Size(depth, head, n),
            input_dim=d,
            richness=gamma,
            branch_scale=beta,
            lr=eta,
        )
        cells = canonical_cells(
            scheme, optimizer, n=n, depth=depth, d=d, head=head, alpha_a=alpha_a, gamma=gamma, beta=beta, eta=eta
        )
        assert set(cells) == set(ROLES) == set(table.roles)
        for role, (a, c) in cells.items():
            entry = table.roles[role]
            assert entry.init_std == 1.0
            assert same(entry.multiplier, a), (role, entry.multiplier, a)
            assert same(entry.lr, c), (role, entry.lr, c)
        logits = head**-alpha_a if scheme in FAMILY else head**-0.5
        assert same(table.attention_multiplier, logits)
        assert same(table.branch_multiplier, 1.0 if scheme == "ntk" else beta * depth ** -ALPHA.get(scheme, 0.0))

    @pytest.mark.parametrize("readout", ["forward", "init"])
    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    @pytest.mark.parametrize("scheme", FAMILY)
    @given(sizes=st.tuples(widths, widths, depths, depths, heads, heads), alpha_a=exponents)
    @settings(max_examples=15, deadline=None)
    def test_relative(self, scheme, optimizer, readout, sizes, alpha_a):
        n, n0, depth, depth0, head, head0 = sizes
        recipe = Recipe(scheme, optimizer, attention_exponent=alpha_a)
        table = role_table(recipe, Size(depth, head, n), base=Size(depth0, head0, n0), readout=readout)
        ratios = {"n": n / n0, "depth": depth / depth0, "head": head / head0, "alpha_a": alpha_a}
        cells = relative_cells(scheme, optimizer, readout, **ratios)
        cells["hidden_inner"], cells["branch_vector_inner"] = cells["hidden"], cells["branch_vector"]
        assert set(cells) == set(ROLES)
        for role, (variance, rate, decay, eps) in cells.items():
            entry = table.roles[role]
            assert same(entry.init_std**2, variance), role
            assert same(entry.lr, rate), (role, entry.lr, rate)
            assert same(entry.eps, eps if optimizer in ("adam", "adamw") else None), role
            if optimizer in ("adamw", "lion"):
                assert same(entry.weight_decay, decay), role
        branch = (depth / depth0) ** -ALPHA[scheme]
        assert same(table.roles["hidden"].multiplier, branch)
        assert same(table.roles["branch_vector"].multiplier, branch)
        assert same(table.roles["output"].multiplier, n0 / n if readout == "forward" else 1.0)
        for role in ("input", "hidden_inner", "hidden_qk", "branch_vector_inner", "final_vector", "output_bias"):
            assert table.roles[role].multiplier == 1.0
        assert same(table.branch_multiplier, branch)
        assert same(table.attention_multiplier, (head / head0) ** -alpha_a)

    def test_worked_line(self):
        def hidden(scheme, optimizer):
            size = Size(depth=16, head_dim=64, width=256)
            table = role_table(Recipe(scheme, optimizer), size, input_dim=10, richness=0.5, branch_scale=2, lr=0.1)
            return table.roles["hidden"].multiplier, table.roles["hidden"].lr

        assert hidden("completep", "sgd") == (0.0078125, 102.4)
        assert hidden("mup-depth", "sgd") == (0.03125, 6.4)
        assert hidden("completep", "adam") == (0.0078125, 0.00625)
        assert hidden("mup-depth", "adam") == (0.03125, 0.0015625)

    def test_independent_decay_does_not_scale(self):
        for scheme in FAMILY:
            recipe = Recipe(scheme, "adamw", "independent")
            roles = role_table(recipe, Size(32, 64, 1024), base=Size(2, 64, 128)).roles
            assert {role: e.weight_decay for role, e in roles.items()} == {
                role: None if role in ("final_vector", "output_bias") else 1.0 for role in ROLES
            }

    def test_published_decay_leaves_depth_out(self):
        def decay(scheme, rule):
            recipe = Recipe(scheme, "adamw", decay_rule=rule)
            return role_table(recipe, Size(32, None, 1024), base=Size(2, None, 128)).roles["hidden"].weight_decay

        assert decay("mup-depth", "published") == 8.0
        assert same(decay("mup-depth", "invariant"), 8.0 * 16**0.5)
        assert decay("completep", "published") == decay("completep", "invariant") == 8.0

    def test_standard(self):
        """Variance 1 / fan-in and nothing else."""
        for optimizer in OPTIMIZERS:
            roles = role_table(Recipe("sp", optimizer), Size(32, 64, 1024), base=Size(2, 64, 256)).roles
            for role, entry in roles.items():
                grows = role in ("hidden", "hidden_inner", "hidden_qk", "output")
                assert entry.init_std == (0.5 if grows else 1.0)
                assert (entry.multiplier, entry.lr) == (1.0, 1.0)


class TestIdentities:
    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_at_the_base_every_factor_is_exactly_one(self, scheme, optimizer):
        for readout in ("forward", "init"):
            size = Size(7, 48, 331)
            table = role_table(Recipe(scheme, optimizer, attention_exponent=0.7), size, base=size, readout=readout)
            for role, entry in table.roles.items():
                values = set(dataclasses.astuple(entry)) - {None}
                assert values == {1.0}, (role, entry)
            assert table.branch_multiplier == table.attention_multiplier == 1.0

    @pytest.mark.parametrize("scheme", SCHEMES)
    @given(
        sizes=st.lists(st.tuples(st.integers(2, 999), st.integers(1, 99), st.integers(2, 99)), min_size=3, max_size=3),
        optimizer=st.sampled_from(OPTIMIZERS),
        decay=st.sampled_from(["lr-multiplied", "independent"]),
        readout=st.sampled_from(["forward", "init"]),
        alpha_a=exponents,
    )
    @settings(max_examples=25, deadline=None)
    def test_composition(self, scheme, sizes, optimizer, decay, readout, alpha_a):
        """Base -> A -> B is base -> B; up and down again is the identity."""
        recipe = Recipe(scheme, optimizer, decay, alpha_a)
        base, a, b = (Size(depth, head, width) for width, depth, head in sizes)

        def factors(small, large):
            roles = role_table(recipe, large, base=small, readout=readout).roles
            return [v for role in ROLES for v in dataclasses.astuple(roles[role])]

        for direct, one, two in zip(factors(base, b), factors(base, a), factors(a, b), strict=True):
            assert (direct is None) == (one is None) == (two is None)
            assert direct is None or math.isclose(direct, one * two, rel_tol=CLOSE)
        for up, down in zip(factors(base, a), factors(a, base), strict=True):
            assert up is None or math.isclose(up * down, 1.0, rel_tol=CLOSE)

    def test_ntk_is_mean_field_at_small_richness(self):
        for optimizer, rate in (*((o, 1.0) for o in SGD), ("adam", 331**-0.5)):
            mean_field = role_table(Recipe("mean-field", optimizer), Size(7, 64, 331), richness=331**-0.5, lr=rate)
            ntk = role_table(Recipe("ntk", optimizer), Size(7, 64, 331))
            for role in ("input", "hidden", "hidden_qk", "hidden_inner", "output", *(("output_bias",) * (rate == 1))):
                ours, theirs = ntk.roles[role], mean_field.roles[role]
                assert same(ours.multiplier, theirs.multiplier), role
                assert same(ours.lr, theirs.lr), role

    def test_mean_field_is_mup(self):
        one, two = (role_table(Recipe(s, "adamw"), Size(7, 64, 331), richness=0.3) for s in ("mean-field", "mup"))
        assert one.roles == two.roles

    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    @pytest.mark.parametrize("role", ROLES)
    @pytest.mark.parametrize("scheme", ["mup-depth", "completep"])
    def test_depth_counts_in_branches_only(self, scheme, role, optimizer):
        for rule in (canonical_rule, relative_rule):
            powers = [
                dict(p.exponents) for p in rule(role, Recipe(scheme, optimizer)).parts().values() if p is not None
            ]
            counts = any("depth" in p for p in powers)
            assert role in IN_BRANCH or not counts
            assert role not in ("hidden", "branch_vector") or counts
            outside = rule(role, Recipe(scheme, optimizer), branch=False)
            for power in outside.parts().values():
                assert power is None or not {"depth", "branch_scale"} & set(dict(power.exponents))

    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    def test_forms_agree(self, scheme, optimizer):
        """Invariants of (PA.2), computed in both forms, differ by constants of the base only."""
        recipe = Recipe(scheme, optimizer, attention_exponent=0.75)
        size, base = Size(32, 128, 1024), Size(2, 64, 256)
        absolute, small = role_table(recipe, size).roles, role_table(recipe, base).roles
        ratio = role_table(recipe, size, base=base).roles

        def invariants(entry):
            a, b, c, eps, decay = dataclasses.astuple(entry)
            rate = None if c is None else a**2 * c if optimizer in SGD else a * c
            return a * b, rate, None if eps is None else eps / a, None if decay is None or c is None else c * decay

        for role in ROLES:
            for r, x, y in zip(*(invariants(t[role]) for t in (ratio, absolute, small)), strict=True):
                assert (r is None) == (x is None)
                assert r is None or math.isclose(r, x / y, rel_tol=CLOSE), role


class TestTensors:
    """What the rules make of shapes rather than of a width."""

    def test_convolutions_count_their_kernel(self):
        tensors = {"k": Tensor((32, 16, 3, 3), "hidden", (1, 2, 3), (0,))}
        entry = from_tensors(tensors, Recipe("mup", "adam")).tensors["k"].entry
        assert same(entry.multiplier, (9 * 16) ** -0.5)
        assert same(entry.lr, (9 * 16) ** -0.5)

    def test_biases_have_fan_in_one(self):
        tensors = {"b": Tensor((64,), "branch_vector", (), (0,))}
        entry = from_tensors(tensors, Recipe("completep", "sgd"), size=Size(4)).tensors["b"].entry
        assert (entry.multiplier, entry.init_std, entry.lr) == (0.25, 1.0, 256.0)

    def test_rates_follow_the_stream_when_its_width_is_given(self):
        tensors = {"up": Tensor((256, 64), "hidden_inner", (1,), (0,))}
        rates = [from_tensors(tensors, Recipe("mup", "sgd"), size=s).lr["up"] for s in (Size(), Size(width=64))]
        assert rates == [256.0, 64.0]

    def test_fused_queries_keys_values_train_like_three_tensors(self):
        roles = {"qkv": "hidden_qkv", "[qk]": "hidden_qk", "v": "hidden_inner"}
        split = dict.fromkeys("qkv", (64, 64))
        for optimizer in ("sgd", "adamw"):
            p = parameterize(
                {"qkv": (192, 64), **split}, roles=roles, scheme="mup", optimizer=optimizer, form="canonical"
            )
            assert len({rule.entry for rule in p.tensors.values()}) == 1

    def test_fused_tensor_whose_parts_differ_is_refused(self):
        with pytest.raises(InvalidInput, match=r"'qkv' holds queries, keys and values.*split it"):
            parameterize(
                {"qkv": (192, 64)},
                roles={"*": "hidden_qkv"},
                scheme="mup",
                optimizer="adam",
                form="canonical",
                attention_exponent=0.5,
                growing={"head_dim": 16},
            )


class TestRefused:
    @pytest.mark.parametrize("name", ["muon", "Shampoo", "soap", "lamb", "adafactor"])
    def test_matrix_optimizers(self, name):
        with pytest.raises(InvalidInput, match="uses statistics of whole matrices or several tensors"):
            Recipe("mup", name)

    def test_unknown_words(self):
        with pytest.raises(
            InvalidInput, match=r"parameterization\(scheme\): expected one of .*did you mean 'completep'"
        ):
            Recipe("complete-p")
        with pytest.raises(
            InvalidInput, match=r"parameterization\(decay\): expected one of lr-multiplied, independent"
        ):
            Recipe("mup", "adamw", "sometimes")
        with pytest.raises(InvalidInput, match=r"parameterization\(decay_rule\)"):
            Recipe("mup", decay_rule="mine")
        with pytest.raises(InvalidInput, match=r"parameterization\(role\): .*did you mean 'hidden'"):
            canonical_rule("hiden", Recipe("mup"))
        with pytest.raises(InvalidInput, match=r"parameterization\(readout\)"):
            relative_rule("output", Recipe("mup"), readout="backward")

    @pytest.mark.parametrize("value", [0.4, 1.1, math.nan, "half"])
    def test_attention_exponent(self, value):
        with pytest.raises(InvalidInput, match=r"attention_exponent\): expected a number from 0.5 to 1"):
            Recipe("mup", attention_exponent=value)

    def test_role_table(self):
        big, small = Size(4, None, 64), Size(4, None, 32)
        with pytest.raises(InvalidInput, match=r"role_table\(size\): expected a width"):
            role_table(Recipe("mup"), Size(4))
        with pytest.raises(InvalidInput, match=r"role_table\(lr\): expected a number > 0, got -1"):
            role_table(Recipe("mup"), big, lr=-1)
        with pytest.raises(InvalidInput, match=r"role_table\(richness\): absolute values belong to the canonical form"):
            role_table(Recipe("mup"), big, base=small, richness=0.5)
        with pytest.raises(InvalidInput, match=r"role_table\(readout\): the canonical form"):
            role_table(Recipe("mup"), big, readout="init")
        with pytest.raises(InvalidInput, match=r"role_table\(branch_scale\): the scheme 'ntk' has none"):
            role_table(Recipe("ntk"), big, branch_scale=2)
        with pytest.raises(InvalidInput, match=r"role_table\(richness\): the scheme 'sp' has none"):
            role_table(Recipe("sp"), big, richness=2)
        with pytest.raises(InvalidInput, match=r"role_table\(base\): give the head size of both"):
            role_table(Recipe("mup"), Size(4, 64, 64), base=small)
        with pytest.raises(InvalidInput, match="give head_dim"):
            role_table(Recipe("mup", attention_exponent=0.5), big)

    @pytest.mark.parametrize(("width", "gamma"), [(1e300, 1e10), (1e-300, 1e-20), (1e308, 1e-300)])
    def test_beyond_double_precision(self, width, gamma):
        with pytest.raises(InvalidInput, match="is beyond double precision; expected sizes"):
            role_table(Recipe("mup", "sgd"), Size(1, None, width), richness=gamma)

    @pytest.mark.parametrize("field", ["depth", "head_dim", "width"])
    def test_size(self, field):
        with pytest.raises(InvalidInput, match=rf"Size\({field}\): expected a number > 0, got 0"):
            Size(**{field: 0})
