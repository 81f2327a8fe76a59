"""`foretrain parameterize`."""

import json
import subprocess
import sys

import pytest

MUP = ("--scheme", "mup", "--optimizer", "sgd")
COMPLETEP = ("--scheme", "completep", "--optimizer", "adamw")
ISSUE = (*COMPLETEP, "--width", 1024, "--depth", 32, "--base-width", 128, "--base-depth", 2)
WORKED = [
    "--width",
    "256",
    "--depth",
    "16",
    "--input-dim",
    "10",
    "--head-dim",
    "64",
    "--attention-exponent",
    "1",
    "--richness",
    "0.5",
    "--branch-scale",
    "2",
]
ROLES = {
    "input",
    "hidden",
    "hidden_inner",
    "hidden_qk",
    "branch_vector",
    "branch_vector_inner",
    "final_vector",
    "output",
    "output_bias",
}
MODEL = {
    "base": {"embed": [11, 64], "l.0.up": [64, 64], "l.0.down": [64, 64], "l.0.b": [64], "head": [11, 64]},
    "target": {
        "embed": [11, 256],
        **{f"l.{i}.{k}": [256, 256] for i in range(4) for k in ("up", "down")},
        **{f"l.{i}.b": [256] for i in range(4)},
        "head": [11, 256],
    },
    "growing": {"width": [64, 256], "depth": [1, 4]},
    "roles": {
        "embed": "embedding",
        "*.up": "hidden_inner",
        "*.down": "hidden",
        "*.b": "branch_vector",
        "head": "output",
    },
}


@pytest.fixture
def table(run):
    """Runs `parameterize ... --json` that must succeed, and gives the table and standard error."""

    def table_(*arguments):
        code, out, err = run("parameterize", *arguments, "--json")
        assert code == 0, err
        return json.loads(out), err

    return table_


@pytest.fixture
def refused(run):
    """Runs a command that must be refused, and gives the message."""

    def refused_(*arguments):
        code, out, err = run("parameterize", *arguments)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err.removeprefix("error: ").rstrip("\n")

    return refused_


@pytest.fixture
def model(tmp_path):
    """Writes a file of shapes, MODEL with changes, and gives its name; a key set to None is left out."""

    def write(**changes):
        table = {key: value for key, value in {**MODEL, **changes}.items() if value is not None}
        (tmp_path / "model.json").write_text(json.dumps(table))
        return "model.json"

    return write


class TestRelative:
    def test_the_numbers(self, table):
        found, err = table(*ISSUE)
        assert err == ""
        assert set(found["roles"]) == ROLES
        assert found["roles"]["hidden"] == {
            "multiplier": 1 / 16,
            "init_std": pytest.approx(8**-0.5, rel=1e-15),
            "lr": 1 / 8,
            "eps": 1 / 128,
            "weight_decay": 8.0,
        }
        assert found["roles"]["output"] == {
            "multiplier": 1 / 8,
            "init_std": 1.0,
            "lr": 1.0,
            "eps": 1 / 8,
            "weight_decay": 1.0,
        }
        assert found["roles"]["final_vector"]["weight_decay"] is None
        assert found["size"] == {"width": 1024, "depth": 32, "head_dim": None}
        assert found["base"] == {"width": 128, "depth": 2, "head_dim": None}
        assert found["branch"] == {"multiplier": 1 / 16}
        assert found["attention_logits"] == {"multiplier": 1.0}
        assert found["warnings"] == []
        assert [found[k] for k in ("scheme", "optimizer", "decay", "form")] == [
            "completep",
            "adamw",
            "lr-multiplied",
            "relative",
        ]

    def test_readout_in_its_init(self, table):
        found, _ = table(*ISSUE, "--readout", "init")
        output = found["roles"]["output"]
        assert (output["multiplier"], output["init_std"], output["lr"]) == (1.0, 1 / 8, 1 / 8)
        assert (output["weight_decay"], output["eps"]) == (8.0, 1.0)

    def test_head_size_is_fixed_unless_it_grows(self, table):
        fixed, _ = table(*ISSUE, "--head-dim", 64, "--attention-exponent", 0.5)
        grown, _ = table(*ISSUE, "--head-dim", 64, "--base-head-dim", 16, "--attention-exponent", 0.5)
        assert fixed["roles"]["hidden_qk"] == fixed["roles"]["hidden_inner"]
        assert fixed["attention_logits"]["multiplier"] == 1.0
        assert grown["roles"]["hidden_qk"]["lr"] == grown["roles"]["hidden_inner"]["lr"] / 2
        assert grown["attention_logits"]["multiplier"] == 0.5

    def test_published_decay(self, table):
        words = ("--scheme", "mup-depth", *ISSUE[2:])
        assert table(*words)[0]["roles"]["hidden"]["weight_decay"] == 32.0
        assert table(*words, "--decay-rule", "published")[0]["roles"]["hidden"]["weight_decay"] == 8.0
        independent = table(*words, "--decay", "independent")[0]
        assert independent["roles"]["hidden"]["weight_decay"] == 1.0

    def test_base_is_target(self, table):
        found, err = table(*COMPLETEP, "--width", 64, "--depth", 2, "--base-width", 64, "--base-depth", 2)
        assert {v for entry in found["roles"].values() for v in entry.values()} == {1.0, None}
        assert found["warnings"] == ["base = target: all factors are 1."]
        assert err == "warning: base = target: all factors are 1.\n"

    def test_depth_without_a_rule(self, table):
        found, err = table(*MUP, "--width", 128, "--depth", 8, "--base-width", 64, "--base-depth", 2)
        assert "'mup' has no depth rule" in found["warnings"][0]
        assert err.startswith("warning: ")

    def test_standard_says_that_it_does_not_transfer(self, table):
        found, _ = table("--scheme", "sp", "--optimizer", "adam", "--width", 128, "--base-width", 32)
        assert "drifts with width" in found["warnings"][0]
        assert found["roles"]["hidden"]["init_std"] == 0.5


class TestCanonical:
    def test_worked_line(self, table):
        def hidden(scheme, optimizer):
            words = ("--scheme", scheme, "--optimizer", optimizer, "--form", "canonical", *WORKED, "--lr", 0.1)
            found, err = table(*words)
            assert err == ""
            assert found["base"] is None
            assert found["size"] == {"width": 256, "depth": 16, "head_dim": 64, "input_dim": 10.0}
            return found["roles"]["hidden"]["multiplier"], found["roles"]["hidden"]["lr"]

        assert hidden("completep", "sgd") == (0.0078125, 102.4)
        assert hidden("mup-depth", "sgd") == (0.03125, 6.4)
        assert hidden("completep", "adam") == (0.0078125, 0.00625)
        assert hidden("mup-depth", "adam") == (0.03125, 0.0015625)

    def test_undefined_entries_are_null(self, table):
        found, _ = table("--scheme", "ntk", "--optimizer", "adam", "--form", "canonical", "--width", 64)
        assert found["roles"]["branch_vector"]["lr"] is None
        assert found["roles"]["output_bias"]["lr"] == 1.0
        assert found["attention_logits"] == {"multiplier": None}

    def test_epsilon_and_decay(self, table):
        one, _ = table(*COMPLETEP, "--form", "canonical", "--width", 64, "--depth", 4)
        two, _ = table(
            *COMPLETEP, "--form", "canonical", "--width", 64, "--depth", 4, "--eps", 1e-8, "--weight-decay", 0.1
        )
        for role in ROLES:
            for part, base in (("eps", 1e-8), ("weight_decay", 0.1)):
                a, b = one["roles"][role][part], two["roles"][role][part]
                assert (a is None) == (b is None)
                assert a is None or b == pytest.approx(a * base, rel=1e-14)

    def test_attention_exponent_of_lazy_schemes(self, table):
        found, _ = table(
            *("--scheme", "ntk", "--optimizer", "sgd", "--form", "canonical", "--width", 64, "--head-dim", 16),
            *("--attention-exponent", 1),
        )
        assert found["attention_logits"] == {"multiplier": 0.25}
        assert "keeps logits q·k / sqrt(d_h)" in found["warnings"][0]


class TestShown:
    def test_explains_itself(self, run):
        code, out, err = run("parameterize", *ISSUE)
        assert (code, err) == (0, "")
        assert out.startswith(
            "completep, adamw (lr-multiplied decay): width 1024, depth 32, relative to base width 128"
        )
        for words in (
            "0.0625 [L^-1]",
            "0.353553 [N^-1/2]",
            "8 [N]",
            "factor on the value at the base",
            "query and key",
        ):
            assert words in out

    def test_canonical(self, run):
        code, out, _ = run("parameterize", *MUP, "--form", "canonical", *WORKED)
        assert code == 0
        assert "absolute (canonical form)" in out
        assert "[γ₀^-1 · N^-1]" in out

    def test_no_jax(self):
        program = (
            "import sys; from foretrain.cli import main; "
            "code = main(['parameterize', '--scheme', 'mup', '--optimizer', 'sgd', '--width', '64', '--base-width', '32']); "
            "assert code == 0; assert not {'jax', 'pandas', 'matplotlib', 'equinox'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


class TestRefused:
    @pytest.mark.parametrize(
        "option", ["--input-dim", "--richness", "--branch-scale", "--lr", "--eps", "--weight-decay"]
    )
    def test_absolute_options_in_the_relative_form(self, refused, option):
        message = refused(*ISSUE, option, 1)
        assert message.startswith(f"{option}: belongs to the canonical form, which is absolute; with --form relative")
        assert "mixing absolute and relative form is forbidden" in message

    @pytest.mark.parametrize("option", ["--base-width", "--base-depth", "--base-head-dim"])
    def test_bases_in_the_canonical_form(self, refused, option):
        message = refused(*COMPLETEP, "--form", "canonical", "--width", 64, "--depth", 4, option, 2)
        assert message.startswith(f"{option}: belongs to the relative form, which scales against a base")

    @pytest.mark.parametrize("option", ["--richness", "--branch-scale"])
    def test_what_ntk_has_not(self, refused, option):
        words = ("--scheme", "ntk", "--optimizer", "sgd", "--form", "canonical", "--width", 64)
        assert refused(*words, option, 1) == f"{option}: the scheme 'ntk' has none; leave it out."

    def test_richness_of_standard(self, refused):
        words = ("--scheme", "sp", "--optimizer", "sgd", "--form", "canonical", "--width", 64)
        assert refused(*words, "--richness", 2) == "--richness: the scheme 'sp' has none; leave it out."

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--optimizer", "sgd"), "--scheme: missing; for example --scheme completep."),
            (("--scheme", "mup"), "--optimizer: missing; for example --optimizer adamw."),
            (("--scheme", "mupp", "--optimizer", "sgd"), "parameterization(scheme): expected one of sp, ntk"),
            (
                ("--scheme", "mup", "--optimizer", "muon"),
                "parameterization(optimizer): 'muon' uses statistics of whole",
            ),
            ((*MUP, "--decay", "none"), "parameterization(decay): expected one of lr-multiplied, independent"),
            ((*MUP, "--form", "both"), "--form: expected 'canonical' or 'relative', got 'both'."),
            (MUP, "--width: missing"),
            ((*MUP, "--width", 64), "--base-width: missing; the relative form scales against a base"),
            ((*MUP, "--width", 64, "--base-width", 32, "--base-depth", 2), "--depth: missing beside --base-depth."),
            (
                (*MUP, "--width", 64, "--base-width", 32, "--base-head-dim", 2),
                "--head-dim: missing beside --base-head-dim.",
            ),
            ((*COMPLETEP, "--width", 64, "--base-width", 32), "--depth: missing; the scheme 'completep' scales"),
            ((*COMPLETEP, "--width", 64, "--depth", 4, "--base-width", 32), "--base-depth: missing"),
            ((*MUP, "--width", 0, "--base-width", 32), "--width: expected a number > 0, got 0."),
            ((*MUP, "--width", "nan", "--base-width", 32), "--width: expected a number > 0, got nan."),
            ((*MUP, "--width", "inf", "--base-width", 32), "--width: expected a number > 0, got inf."),
            ((*MUP, "--width", "wide"), "Invalid value for '--width'"),
            ((*MUP, "--width", 64, "--base-width", 32, "--readout", "x"), "parameterization(readout): expected one of"),
            (
                (*MUP, "--width", 64, "--form", "canonical", "--readout", "init"),
                "--readout init: the canonical form keeps",
            ),
            (
                (*MUP, "--width", 64, "--base-width", 32, "--attention-exponent", 2),
                "parameterization(attention_exponent): expected a number from 0.5 to 1",
            ),
            (
                (*MUP, "--width", 64, "--form", "canonical", "--attention-exponent", 0.5),
                "--head-dim: missing; at --attention-exponent 0.5",
            ),
        ],
    )
    def test_message(self, refused, words, message):
        assert refused(*words).startswith(message)


class TestModelFile:
    def test_json_is_that_of_the_object(self, table, model, tmp_path):
        from foretrain.parameterization import Parameterization

        found, _ = table(model(), *COMPLETEP)
        (tmp_path / "p.json").write_text(json.dumps(found))
        p = Parameterization.load(tmp_path / "p.json")
        assert p.to_json() == found
        assert p.multipliers["l.3.down"] == 0.25
        assert p.lr["l.3.up"] == 0.25

    def test_shown(self, run, model):
        code, out, _ = run("parameterize", model(scheme="completep", optimizer="adamw"))
        assert code == 0
        assert "l.#.down (4 tensors)" in out

    def test_the_command_line_wins(self, table, model):
        assert table(model(scheme="completep", optimizer="adamw"), "--scheme", "mup")[0]["scheme"] == "mup"

    def test_canonical(self, table, model):
        found, _ = table(model(base=None, growing={"depth": 4}, form="canonical"), *COMPLETEP)
        assert found["tensors"]["l.0.down"]["multiplier"] == 1 / 64

    def test_warnings(self, run, model):
        code, _, err = run("parameterize", model(base=MODEL["target"], growing=None), *COMPLETEP)
        assert (code, err) == (0, "warning: parameterize: base = target: all factors are 1.\n")

    def test_clipping_warns(self, run, model):
        code, _, err = run("parameterize", model(clip_norm=1.0), *COMPLETEP)
        assert code == 0
        assert err.startswith("warning: parameterize(clip_norm): clipping by the global norm couples all tensors")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"roles": None}, "model.json: roles: expected path pattern to role for every tensor"),
            (
                {"roles": {"*.up": "hidden_inner"}},
                "parameterization(roles): no role for 'embed', shape (11, 256), growing axes: 1",
            ),
            ({"target": None}, "model.json: target: expected path to shape for every tensor, got None."),
            ({"base": {"embed": [11, "x"]}}, "model.json: base: 'embed': expected a list of whole numbers > 0"),
            ({"base": None}, "parameterize(base): missing"),
            ({"bases": {}}, "model.json: unknown key 'bases'; did you mean 'base'?"),
            ({"scheme": 3}, "model.json: scheme: expected a string, got 3."),
            ({"outside": "l.0"}, "model.json: outside: expected a list of path patterns"),
            ({"axes": {"embed": "in"}}, "model.json: axes: expected path pattern to a list"),
            ({"absorb": "yes"}, "model.json: absorb: expected true or false"),
            ({"growing": {"depth": [1, 4]}}, "parameterization(growing): axis 1 of 'embed' grows from 64 to 256"),
            ({"growing": {"width": [64, 256]}}, "parameterization(growing): the base has 1 and the target 4 copies"),
            ({"growing": [1]}, "parameterize(growing): expected name to a pair"),
            ({"richness": "much"}, "parameterize(richness): expected a number > 0, got 'much'."),
            ({"attention_exponent": "half"}, "parameterization(attention_exponent): expected a number from 0.5 to 1"),
        ],
    )
    def test_refused(self, refused, model, changes, message):
        assert refused(model(**changes), *COMPLETEP).startswith(message)

    def test_no_such_file(self, refused, tmp_path):
        assert refused("none.json", *MUP).startswith(
            "none.json: expected a file of shapes in JSON, found no such file."
        )
        assert refused(tmp_path, *MUP).endswith("found no such file.")
        (tmp_path / "bad.json").write_text("{")
        assert refused("bad.json", *MUP).startswith("bad.json: expected a file of shapes in JSON: Expecting")
        (tmp_path / "list.json").write_text("[]")
        assert refused("list.json", *MUP).startswith("list.json: expected an object with the keys target, roles")
        (tmp_path / "bytes.json").write_bytes(bytes(range(256)))
        assert refused("bytes.json", *MUP).startswith("bytes.json: expected a file of shapes in JSON")

    def test_no_scheme_and_sizes_beside_a_file(self, refused, model):
        assert refused(model()) == "--scheme: missing, on the command line and in model.json."
        assert refused(model(), *MUP, "--width", 3).startswith(
            "--width: with a file of shapes, sizes come from the file"
        )
