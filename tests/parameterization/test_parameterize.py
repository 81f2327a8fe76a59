"""`parameterize`: roles, growth, special tensors, words, files."""

import fnmatch
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.errors import ForetrainWarning, InvalidInput
from foretrain.parameterization import (
    OPTIMIZERS,
    SCHEMES,
    Parameterization,
    Recipe,
    Size,
    Tensor,
    describe,
    from_tensors,
    parameterize,
    role_table,
)

ROLES = {
    "embed": "embedding",
    "layers.*.query": "hidden_qk",
    "layers.*.up": "hidden_inner",
    "layers.*.down": "hidden",
    "layers.*.norm": "branch_vector_inner",
    "layers.*.bias": "branch_vector",
    "norm": "final_vector",
    "head": "output",
    "head_bias": "output_bias",
}


def shapes(width, depth, vocabulary=11):
    found = {"embed": (vocabulary, width)}
    for i in range(depth):
        layer = {"query": (width, width), "up": (4 * width, width), "down": (width, 4 * width)}
        layer |= {"norm": (width,), "bias": (width,)}
        found |= {f"layers.{i}.{name}": shape for name, shape in layer.items()}
    return found | {"norm": (width,), "head": (vocabulary, width), "head_bias": (vocabulary,)}


def made(width=256, depth=8, base=(64, 2), *, scheme="completep", optimizer="adamw", **more):
    given = {"width": (base[0], width), "depth": (base[1], depth)}
    return parameterize(
        shapes(width, depth),
        **{"base": shapes(*base), "growing": given, "roles": ROLES, "scheme": scheme, "optimizer": optimizer, **more},
    )


class TestAgainstTheTableByRole:
    @pytest.mark.parametrize("readout", ["forward", "init"])
    @given(
        scheme=st.sampled_from(["sp", "mup", "mup-depth", "completep"]),
        optimizer=st.sampled_from(OPTIMIZERS),
        width=st.integers(2, 300),
        base_width=st.integers(2, 300),
        depth=st.integers(1, 5),
        base_depth=st.integers(1, 5),
    )
    @settings(max_examples=30, deadline=None)
    @pytest.mark.filterwarnings("ignore:parameterize. base = target")
    def test_relative(self, readout, scheme, optimizer, width, base_width, depth, base_depth):
        p = made(width, depth, (base_width, base_depth), scheme=scheme, optimizer=optimizer, readout=readout)
        table = role_table(
            Recipe(scheme, optimizer),
            Size(depth, None, width),
            base=Size(base_depth, None, base_width),
            readout=readout,
        )
        for rule in p.tensors.values():
            expected = table.roles[rule.tensor.table_role]
            for field in ("multiplier", "init_std", "lr", "eps", "weight_decay"):
                ours, theirs = getattr(rule.entry, field), getattr(expected, field)
                assert (ours is None) == (theirs is None)
                assert ours is None or np.isclose(ours, theirs, rtol=1e-13, atol=0)

    def test_canonical(self):
        p = parameterize(
            shapes(64, 3),
            roles=ROLES,
            scheme="completep",
            optimizer="sgd",
            form="canonical",
            growing={"depth": 3, "head_dim": 16, "width": 64},
            richness=0.5,
            branch_scale=2,
        )
        table = role_table(Recipe("completep", "sgd"), Size(3, 16, 64), richness=0.5, branch_scale=2)
        assert p.lr["layers.1.up"] == p.lr["layers.1.down"] == table.roles["hidden"].lr
        assert p.multipliers["layers.1.down"] == table.roles["hidden"].multiplier / 2  # fan-in 4 N
        assert p.branch_multiplier == table.branch_multiplier
        assert p.attention_scale == table.attention_multiplier == 1 / 16
        assert p.init_std["embed"] == p.absolute_std("layers.1.down") == 1.0


class TestBase:
    def test_all_factors_are_one_and_it_says_so(self):
        for scheme in SCHEMES[2:]:
            with pytest.warns(ForetrainWarning, match="base = target: all factors are 1"):
                p = made(64, 2, scheme=scheme)
            for part in (p.multipliers, p.init_std, p.lr, p.eps, p.weight_decay):
                assert set(part.values()) <= {1.0, None}
            assert p.branch_multiplier == 1.0

    def test_missing(self):
        with pytest.raises(InvalidInput, match=r"parameterize\(base\): missing\. .* falls back to standard"):
            parameterize(shapes(8, 1), roles=ROLES, scheme="mup", optimizer="sgd")

    def test_forms_do_not_mix(self):
        with pytest.raises(InvalidInput, match=r"parameterize\(base\): the canonical form is absolute.*mixing"):
            made(form="canonical", growing={"depth": 8})

    def test_standard_deviations_are_those_of_a_standard_base(self):
        p = made()
        assert p.absolute_std("embed") == 1.0
        assert np.isclose(p.absolute_std("layers.0.up"), 64**-0.5 * 4**-0.5)
        assert np.isclose(p.absolute_std("layers.0.down"), 256**-0.5 * 4**-0.5)
        assert np.isclose(p.absolute_std("head"), 64**-0.5)
        assert p.absolute_std("layers.0.norm") == 1.0

    def test_attention_keeps_the_usual_scale_at_the_base(self):
        p = made(growing={"width": (64, 256), "depth": (2, 8), "head_dim": (16, 64)})
        assert np.isclose(p.attention_scale, 16**0.5 / 64)
        p = made(growing={"width": (64, 256), "depth": (2, 8), "head_dim": (16, 16)})
        assert p.attention_scale == 0.25
        assert made().attention_scale is None


class TestGrowth:
    def test_a_tensor_without_a_role_is_an_error(self):
        roles = {key: value for key, value in ROLES.items() if key != "layers.*.up"}
        with pytest.raises(InvalidInput) as caught:
            made(roles=roles)
        message = str(caught.value)
        assert "no role for 'layers.0.up', shape (1024, 256), growing axes: 0 (256 -> 1024), 1 (64 -> 256)" in message

    def test_no_roles_at_all(self):
        with pytest.raises(InvalidInput, match=r"parameterize\(roles\): missing.*nothing is guessed"):
            made(roles=None)

    def test_undeclared(self):
        with pytest.raises(
            InvalidInput, match=r"axis 1 of 'embed' grows from 64 to 256 \(x4\), but .* is depth 2 -> 8"
        ):
            made(growing={"depth": (2, 8)})

    def test_declared_and_found_nowhere(self):
        with pytest.raises(InvalidInput, match="experts is declared to grow from 2 to 6, but no tensor grows by x3"):
            made(growing={"width": (64, 256), "depth": (2, 8), "experts": (2, 6)})

    def test_several_axes_may_grow_together(self):
        target, base = {"w": (12, 35), "v": (12, 12)}, {"w": (4, 5), "v": (4, 4)}
        p = parameterize(
            target,
            base=base,
            roles={"*": "hidden"},
            growing={"width": (4, 12), "other": (5, 35)},
            scheme="mup",
            optimizer="adam",
        )
        assert np.isclose(p.lr["w"], 1 / 7)
        assert np.isclose(p.lr["v"], 1 / 3)

    @pytest.mark.parametrize("growing", [None, {"width": (64, 256)}])
    def test_forgotten_depth(self, growing):
        with pytest.raises(
            InvalidInput, match=r"base has 2 and the target 8 copies of 'layers\.#\.\w+', but depth was not"
        ):
            made(growing=growing)

    def test_wrong_depth(self):
        with pytest.raises(InvalidInput, match=r"2 and the target 8 copies.*but depth 2 -> 4 was declared"):
            made(growing={"width": (64, 256), "depth": (2, 4)})
        with pytest.raises(InvalidInput, match=r"2 and the target 2 copies.*but depth 2 -> 4 was declared"):
            made(depth=2, growing={"width": (64, 256), "depth": (2, 4)})

    def test_stacked_layers_count_as_depth(self):
        target, base = {"w": (8, 64, 64)}, {"w": (2, 32, 32)}
        more = {"roles": {"*": "hidden"}, "axes": {"w": ("stack", "out", "in")}, "scheme": "completep"}
        p = parameterize(target, base=base, growing={"width": (32, 64), "depth": (2, 8)}, optimizer="adam", **more)
        assert (p.multipliers["w"], p.lr["w"]) == (0.25, 0.5)
        with pytest.raises(InvalidInput, match="depth was not declared"):
            parameterize(target, base=base, growing={"width": (32, 64)}, optimizer="adam", **more)

    def test_a_role_that_contradicts_the_shapes(self):
        for path, role, words in [
            ("embed", "hidden", "fan-in and fan-out should grow"),
            ("head", "input", "fan-out alone should grow"),
            ("layers.0.up", "output", "fan-in alone should grow"),
            ("norm", "output_bias", "no axis should grow"),
        ]:
            with pytest.raises(InvalidInput, match=f"'{path}'.*has the role '{role}'.*{words}"):
                made(roles={path: role} | {k: v for k, v in ROLES.items() if k != path})

    def test_another_kind_of_tensor(self):
        with pytest.raises(InvalidInput, match="expected the same kind of tensor"):
            parameterize(
                {"n": Tensor((4,), "final_vector", (), (0,))},
                base={"n": Tensor((2, 1), "final_vector", (1,), (0,))},
                scheme="mup",
                optimizer="sgd",
            )

    def test_the_base_lacks_a_kind_of_layer(self):
        base = {path: shape for path, shape in shapes(64, 2).items() if not path.endswith("bias")}
        with pytest.raises(InvalidInput, match=r"parameterize\(base\): the base has no tensor 'layers.0.bias'"):
            parameterize(shapes(256, 2), base=base, roles=ROLES, scheme="mup", optimizer="sgd")

    @pytest.mark.parametrize(
        "growing", [{"width": 64}, {"width": (64,)}, {"width": (0, 4)}, {"width": ("a", 4)}, [64], {"width": (True, 2)}]
    )
    def test_growing_of_the_wrong_kind(self, growing):
        with pytest.raises(InvalidInput, match=r"parameterize\(growing\):.*expected.*pair \(base, target\)"):
            made(growing=growing)

    def test_sizes_that_the_canonical_form_needs(self):
        common = {"roles": ROLES, "optimizer": "sgd", "form": "canonical"}
        with pytest.raises(InvalidInput, match=r"missing depth: the scheme 'completep'"):
            parameterize(shapes(8, 2), scheme="completep", **common)
        with pytest.raises(InvalidInput, match=r"missing head_dim: at attention_exponent = 0\.5"):
            parameterize(shapes(8, 2), scheme="mup", attention_exponent=0.5, **common)
        with pytest.raises(InvalidInput, match=r"depth: expected a number > 0 in this form, got \(2, 8\)"):
            parameterize(shapes(8, 2), scheme="completep", growing={"depth": (2, 8)}, **common)


TIED = {**ROLES, "embed": "tied"}


class TestSpecialTensors:
    @staticmethod
    def tied(width):
        return {path: shape for path, shape in shapes(width, 1).items() if path not in ("head", "layers.0.query")}

    def test_tied_table(self):
        for optimizer, rate in (("sgd", 4.0), ("adamw", 1.0)):
            p = parameterize(self.tied(256), base=self.tied(64), roles=TIED, scheme="mup", optimizer=optimizer)
            assert (p.multipliers["embed"], p.init_std["embed"], p.lr["embed"]) == (1.0, 1.0, rate)
            assert p.readout_multiplier == 0.25
        assert made().readout_multiplier == 1.0

    def test_tied_table_reads_out_forward_only(self):
        common = {"base": self.tied(64), "roles": TIED, "scheme": "mup", "optimizer": "sgd"}
        with pytest.raises(InvalidInput, match=r"readout\): 'embed' is tied.*use readout='forward'"):
            parameterize(self.tied(256), readout="init", **common)
        with pytest.raises(InvalidInput, match=r"absorb\): 'embed' is tied"):
            parameterize(self.tied(256), absorb=True, **common)

    def test_transposed_storage(self):
        ours = parameterize(
            {"w": (8, 24), "o": (24, 2)},
            base={"w": (8, 6), "o": (6, 2)},
            roles={"w": "input", "o": "output"},
            layout="in-out",
            scheme="mup",
            optimizer="adam",
            readout="init",
        )
        assert ours.init_std == {"w": 1.0, "o": 0.25}
        with pytest.raises(InvalidInput, match=r"growing axes are 1 \(6 -> 24\).*mend the layout"):
            parameterize(
                {"w": (8, 24)},
                base={"w": (8, 6)},
                roles={"w": "input"},
                scheme="mup",
                optimizer="adam",
                layout="out-in",
            )

    def test_convolutions_in_both_layouts(self):
        out_in = describe({"k": (32, 16, 3, 5)}, {"*": "hidden"})["k"]
        in_out = describe({"k": (3, 5, 16, 32)}, {"*": "hidden"}, layout="in-out")["k"]
        for tensor in (out_in, in_out):
            assert (tensor.size_in, tensor.size_out) == (16 * 15, 32)

    def test_declared_axes(self):
        tensor = describe({"q": (64, 4, 16)}, {"*": "hidden_qk"}, axes={"q": ("in", "out", "out")})["q"]
        assert (tensor.size_in, tensor.size_out) == (64, 64)
        with pytest.raises(InvalidInput, match=r"parameterization\(axes\): 'q' of shape \(64, 4, 16\)"):
            describe({"q": (64, 4, 16)}, {"*": "hidden_qk"}, axes={"q": ("in", "up")})

    def test_parts_that_never_grow_are_not_width(self):
        """Experts and groups of heads that do not grow leave every factor alone."""
        labels = {"e": ("stack", "out", "in")}
        p = parameterize(
            {"e": (4, 64, 64)},
            base={"e": (4, 16, 16)},
            roles={"e": "hidden"},
            axes=labels,
            scheme="mup",
            optimizer="adam",
        )
        assert p.lr["e"] == 0.25

    def test_experts_may_be_declared(self):
        def expert_shapes(count, width):
            return {f"layers.0.experts.{i}.w": (width, width) for i in range(count)}

        more = {"roles": {"*": "hidden"}, "scheme": "completep", "optimizer": "adam", "base": expert_shapes(4, 16)}
        p = parameterize(expert_shapes(8, 64), growing={"width": (16, 64), "experts": (4, 8)}, **more)
        assert p.lr["layers.0.experts.7.w"] == 0.25
        with pytest.raises(InvalidInput, match="depth was not declared"):
            parameterize(expert_shapes(8, 64), growing={"width": (16, 64)}, **more)

    def test_outside_branches_nothing_depends_on_depth(self):
        p = made(outside=["layers.0.*"])
        assert p.multipliers["layers.0.down"] == p.multipliers["layers.0.bias"] == 1.0
        assert p.multipliers["layers.1.down"] == 0.25

    def test_shapes_and_words_that_do_not_fit(self):
        with pytest.raises(InvalidInput, match=r"'w' of shape \(2, 3\) has the role 'branch_vector' of a vector"):
            describe({"w": (2, 3)}, {"*": "branch_vector"})
        with pytest.raises(InvalidInput, match=r"'w' of shape \(2,\) has the role 'hidden' of a matrix"):
            describe({"w": (2,)}, {"*": "hidden"})
        with pytest.raises(InvalidInput, match=r"parameterization\(layout\)"):
            describe({"w": (2, 2)}, {"*": "hidden"}, layout="sideways")
        with pytest.raises(InvalidInput, match=r"parameterization\(role\): .* got 'hiden'; did you mean 'hidden'"):
            describe({"w": (2, 2)}, {"*": "hiden"})
        with pytest.raises(InvalidInput, match="expected distinct axes of the shape"):
            Tensor((2, 2), "hidden", (0,), (0,))
        with pytest.raises(InvalidInput, match="expected at least one trained tensor"):
            parameterize({}, roles=ROLES, scheme="mup", optimizer="sgd", form="canonical")
        with pytest.raises(InvalidInput, match=r"'a.b' is a str without a shape; pass the trained arrays only"):
            parameterize({"a": {"b": "text"}}, roles=ROLES, scheme="mup", optimizer="sgd", form="canonical")

    def test_roles_by_function(self):
        p = made(roles=lambda path, shape: next(v for k, v in ROLES.items() if fnmatch.fnmatchcase(path, k)))
        assert p.lr == made().lr


class TestRefused:
    def test_global_clipping_warns(self):
        with pytest.warns(ForetrainWarning, match="clipping by the global norm couples all tensors"):
            made(clip_norm=1.0)

    def test_a_tensor_without_a_rate(self):
        with pytest.raises(InvalidInput, match=r"'\S+' \(\w+_vector\w*\) has no rate under scheme 'ntk' with 'adam'"):
            made(scheme="ntk", optimizer="adam")

    def test_numbers(self):
        canonical = {"roles": ROLES, "scheme": "mup", "optimizer": "sgd", "form": "canonical"}
        for name in ("richness", "branch_scale"):
            for value in (0, -1, float("nan"), float("inf"), "x", True):
                with pytest.raises(InvalidInput, match=rf"parameterize\({name}\): expected a number > 0"):
                    parameterize(shapes(8, 1), **{**canonical, name: value})
            with pytest.raises(InvalidInput, match=rf"parameterize\({name}\): the scheme 'ntk' has none"):
                parameterize(shapes(8, 1), **{**canonical, "scheme": "ntk", name: 2})
        with pytest.raises(InvalidInput, match=r"parameterize\(form\): expected one of canonical, relative"):
            parameterize(shapes(8, 1), **{**canonical, "form": "absolute"})
        with pytest.raises(InvalidInput, match=r"parameterize\(readout\): the canonical form"):
            parameterize(shapes(8, 1), **canonical, readout="init")
        with pytest.raises(InvalidInput, match=r"parameterize\(readout\): expected one of forward, init"):
            made(readout="both")


class TestAbsorbed:
    def test_multipliers_are_one_and_invariants_stay(self):
        plain, moved = made(), made(absorb=True)
        assert set(moved.multipliers.values()) == {1.0}
        for path in plain.tensors:
            a, b = plain.tensors[path].entry, moved.tensors[path].entry
            assert np.isclose(a.multiplier * a.init_std, b.init_std)
            assert np.isclose(a.multiplier * a.lr, b.lr)
            assert np.isclose(a.eps / a.multiplier, b.eps)
            if a.weight_decay is not None:
                assert np.isclose(a.lr * a.weight_decay, b.lr * b.weight_decay)

    def test_is_the_init_form_of_the_readout(self):
        moved, init = made(absorb=True), made(readout="init")
        for part in ("init_std", "lr", "eps", "weight_decay"):
            assert np.isclose(getattr(moved, part)["head"], getattr(init, part)["head"])


class TestWords:
    def test_explain(self):
        text = made().explain("layers.3.down")
        assert "layers.3.down: shape (256, 1024), role hidden" in text
        assert "grows: fan-in (axis 1: 256 -> 1024), fan-out (axis 0: 64 -> 256)" in text
        assert "width N = 256 (base 64), depth L = 8 (base 2)" in text
        assert "init_std = fan-in^-1/2 = 0.5" in text
        assert "lr = fan-in^-1 = 0.25" in text
        assert "L^-1" in text

    def test_explain_every_kind(self):
        for path in made().tensors:
            for scheme in ("sp", "mup", "mup-depth"):
                for optimizer in ("sgd", "adamw"):
                    assert "why:" in made(scheme=scheme, optimizer=optimizer).explain(path)
        tied = parameterize(
            TestSpecialTensors.tied(256),
            base=TestSpecialTensors.tied(64),
            roles=TIED,
            scheme="mup",
            optimizer="adam",
        )
        assert "where it reads out = 0.25" in tied.explain("embed")
        assert "tied table where it reads out: × 0.25" in tied.table()

    def test_explain_unknown_path(self):
        with pytest.raises(InvalidInput, match=r"no tensor 'heat'; did you mean 'head'"):
            made().explain("heat")

    def test_table_groups_layers(self):
        p = made(growing={"width": (64, 256), "depth": (2, 8), "head_dim": (16, 16)})
        table = p.table()
        assert table.count("layers.#.down (8 tensors)") == 1
        assert "256×1024" in table
        assert "attention logits: q·k × 0.25" in table
        assert "factors on the values at the base" in table
        canonical = parameterize(shapes(64, 2), roles=ROLES, scheme="mup", optimizer="sgd", form="canonical").table()
        assert "multiplier and init_std absolute" in canonical

    def test_shown(self):
        assert repr(made()) == "Parameterization(completep, adamw, relative, base depth 2; 44 tensors)"


class TestFiles:
    @pytest.mark.parametrize("absorb", [False, True])
    @pytest.mark.parametrize("decay_rule", ["invariant", "published"])
    def test_round_trip(self, tmp_path, absorb, decay_rule):
        p = made(absorb=absorb, scheme="mup-depth", decay_rule=decay_rule, attention_exponent=0.5)
        p.save(tmp_path / "p.json")
        again = Parameterization.load(tmp_path / "p.json")
        assert again.to_json() == p.to_json()
        assert {path: rule.entry for path, rule in again.tensors.items()} == {
            path: rule.entry for path, rule in p.tensors.items()
        }
        assert again.size == p.size
        assert again.recipe == p.recipe

    def test_round_trip_canonical(self):
        tensors = {"k": Tensor((3, 32, 16, 3, 3), "hidden", (2, 3, 4), (1,)), "t": Tensor((5, 32), "tied", (0,), (1,))}
        p = from_tensors(tensors, Recipe("completep", "adam"), size=Size(6, 8, 32), richness=0.3, branch_scale=1.5)
        again = Parameterization.from_json(json.loads(json.dumps(p.to_json())))
        assert again.to_json() == p.to_json()
        assert again.readout_multiplier == p.readout_multiplier == 1 / (0.3 * 32)

    def test_strict_json(self):
        json.dumps(made().to_json(), allow_nan=False)

    def test_a_changed_file_is_refused(self, tmp_path):
        table = made().to_json()
        table["tensors"]["head"]["lr"] = 3.0
        with pytest.raises(InvalidInput, match=r"lr of 'head' is 3\.0 in the file and 1\.0 by the rules"):
            Parameterization.from_json(table)
        with pytest.raises(InvalidInput, match="expected version 1, got 7"):
            Parameterization.from_json({**made().to_json(), "version": 7})
        with pytest.raises(InvalidInput, match="expected what `to_json` wrote"):
            Parameterization.from_json({"version": 1})
        with pytest.raises(InvalidInput, match="expected a file written by `save`"):
            Parameterization.load(tmp_path / "none.json")
        (tmp_path / "bad.json").write_text("{")
        with pytest.raises(InvalidInput, match="expected a file written by `save`"):
            Parameterization.load(tmp_path / "bad.json")

    def test_shapes_are_checked(self):
        p = made()
        p.check(shapes(256, 8))
        with pytest.raises(InvalidInput, match=r"'embed' has shape \(11, 128\), but the parameterization was made for"):
            p.check(shapes(128, 8))
        with pytest.raises(InvalidInput, match=r"the model has no tensor 'layers.7.query'"):
            p.check(shapes(256, 7))
        with pytest.raises(InvalidInput, match=r"the parameterization has no tensor 'layers.8.query'"):
            p.check(shapes(256, 9))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_agrees_with_the_rules_of_the_mup_package(optimizer):
    """Its source counts growing axes: two make a matrix, one a vector. (`benchmarks/peer_mup.py` runs the package itself.)"""
    target = {"embed": (11, 96), "up": (384, 96), "down": (96, 384), "square": (96, 96), "gain": (96,), "head": (7, 96)}
    base = {path: tuple(32 * n // 96 if n % 96 == 0 else n for n in shape) for path, shape in target.items()}
    roles = {"embed": "embedding", "gain": "branch_vector_inner", "head": "output", "*": "hidden"}
    p = parameterize(target, base=base, roles=roles, scheme="mup", optimizer=optimizer)
    for path, shape in target.items():
        ratios = [a / b for a, b in zip(shape, base[path], strict=True) if a != b]
        matrix = len(ratios) == 2
        if optimizer == "sgd":
            rate = ratios[0] / ratios[1] if matrix else ratios[0]
        else:
            rate = 1 / ratios[1] if matrix else 1.0
        entry = p.tensors[path].entry
        assert np.isclose(entry.lr, rate, rtol=1e-14)
        assert np.isclose(entry.weight_decay, 1 / rate, rtol=1e-14)
        assert np.isclose(entry.init_std, 3**-0.5 if matrix else 1.0, rtol=1e-14)
        assert np.isclose(entry.multiplier, 1 / 3 if path == "head" else 1.0, rtol=1e-14)
