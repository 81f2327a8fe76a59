"""The check at the sizes of the documentation: right networks pass, broken ones are diagnosed with the right cause."""

import pytest
from broken import broken, wrong_attention

from foretrain import MLP, ConvResNet, NetworkTraining, ResNet, Transformer, ViT
from foretrain.diagnostics import coordinate_check
from foretrain.parameterization import Recipe

pytestmark = pytest.mark.long

WIDTHS, DEPTHS = [64, 128, 256, 512], [4, 8, 16, 32]
ALL = ["multiplier", "init_std", "lr"]


@pytest.mark.parametrize(
    ("model", "axis", "values", "training"),
    [
        (MLP(width=64, depth=3, activation="tanh"), "width", [*WIDTHS, 1024], NetworkTraining(0.5)),
        (MLP(width=64, depth=3, activation="tanh"), "width", [*WIDTHS, 1024], NetworkTraining(0.1, optimizer="adam")),
        (ResNet(width=128, activation="tanh"), "depth", [*DEPTHS, 64], NetworkTraining(0.5)),
        (
            ResNet(width=128, activation="tanh", parameterization="completep"),
            "depth",
            [*DEPTHS, 64],
            NetworkTraining(0.1, optimizer="adam"),
        ),
        (ViT(width=64, depth=2), "width", WIDTHS, NetworkTraining(0.1, optimizer="adam")),
        (ConvResNet(width=64, norm="layernorm"), "width", [16, 32, 64, 128], NetworkTraining(0.1, optimizer="adam")),
    ],
    ids=["mlp-sgd", "mlp-adam", "resnet-mup-depth", "resnet-completep", "vit", "conv-resnet"],
)
def test_right_networks_pass(model, axis, values, training):
    """Every slope within 0.1 + 2 standard errors: 0.1 is the contribution of finite size, measured in the documentation."""
    found = coordinate_check(model, axis=axis, values=values, training=training)
    assert found.passed, found.explain()
    assert found.flat


def test_a_correction_of_finite_size_is_told_from_a_wrong_exponent():
    """Overlaps of random embeddings make logits of 64 units change more: a slope of -0.15, which is one of a right transformer."""
    training = NetworkTraining(0.1, optimizer="adam", loss="cross-entropy")
    model = Transformer(width=64, depth=2, parameterization="mup")
    found = coordinate_check(model, values=WIDTHS, training=training)
    assert found.passed, found.explain()
    assert {row.words() for row in found.rows if row.verdict == "approaches"} == {
        "change by own weights of logits, layer 1"
    }
    assert "Approached only: change by own weights of logits, layer 1 goes like N^-0.15" in found.explain()


def test_right_attention_passes():
    training = NetworkTraining(0.1, optimizer="adam", loss="cross-entropy")
    found = coordinate_check(
        Transformer(heads=4, head_dim=16, depth=1), axis="head_dim", values=[16, 32, 64, 128], training=training
    )
    assert found.passed, found.explain()


@pytest.mark.parametrize(
    ("optimizer", "scheme", "paths", "parts", "rate", "says", "says_not"),
    [
        ("sgd", "sp", ["last.weight"], ALL, 0.02, "readout", "hidden"),
        ("adam", "sp", ["last.weight"], ALL, 0.003, "readout", "hidden"),
        ("adam", "sp", ["middle.weight"], ALL, 0.002, "learning rate of hidden", "readout"),
        ("sgd", "sp", ["first.weight"], ALL, 0.3, "learning rate of input", "readout"),
        ("sgd", "ntk", ["first.weight", "middle.weight", "last.weight"], ALL, 0.3, "NTK", "readout"),
        ("sgd", "sp", ["first.weight", "middle.weight", "last.weight"], ALL, 0.01, "the whole model", "NTK"),
    ],
)
def test_causes_in_width(optimizer, scheme, paths, parts, rate, says, says_not):
    right, wrong = Recipe("mup", optimizer), Recipe(scheme, optimizer)
    make = broken("mlp", right, wrong, paths, parts, NetworkTraining(rate, optimizer=optimizer))
    found = coordinate_check(make, values=WIDTHS, recipe=right, steps=1)
    assert not found.passed
    assert found.cause is not None
    assert says in found.cause
    assert says_not not in found.cause


@pytest.mark.parametrize(
    ("optimizer", "other", "part", "says"),
    [
        ("sgd", "mup", "multiplier", "the branch multiplier has no factor of depth"),
        ("sgd", "mup-depth", "multiplier", "the branch multiplier is 1 / sqrt(L), where the scheme needs 1 / L"),
        ("sgd", "mup", "lr", "the learning rate of branch tensors has no factor of depth (L^0 instead of L^1)"),
        ("adam", "mup-depth", "lr", "the learning rate of branch tensors is that of 1 / sqrt(L)"),
    ],
)
def test_causes_in_depth(optimizer, other, part, says):
    right, rate = Recipe("completep", optimizer), 0.3 if optimizer == "sgd" else 0.05
    training = NetworkTraining(rate, optimizer=optimizer)
    wrong = Recipe(other, optimizer)
    make = broken("resnet", right, wrong, ["branches.weight.weight"], [part], training, axis="depth")
    found = coordinate_check(make, axis="depth", values=DEPTHS, recipe=right, steps=1)
    assert not found.passed
    assert found.cause is not None
    assert says in found.cause


def test_the_cause_of_square_root_attention():
    training = NetworkTraining(0.1, optimizer="adam", loss="cross-entropy")
    found = coordinate_check(
        wrong_attention(training), axis="head_dim", values=[16, 32, 64, 128], recipe=Recipe("mup", "adam")
    )
    assert not found.passed
    assert found.cause is not None
    assert found.cause.startswith("attention logits are q k / sqrt(head size)")
    assert "readout" not in found.cause
