"""Declarations: what they accept, value equality, hashing across processes, sweeps, tables."""

import dataclasses
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain import (
    Arrays,
    DeepLinear,
    Digits,
    FashionMNIST,
    GradientDescent,
    GradientFlow,
    Isotropic,
    Kernel,
    Momentum,
    MomentumFlow,
    OnePassSGD,
    PowerLaw,
    Problem,
    RandomFeatures,
    Ridge,
    Schedule,
    Spectrum,
    SpectrumTask,
    TwoLayerLinear,
)
from foretrain._declaration import Declaration, WrongKey, number, show
from foretrain.errors import InvalidInput

# One row for every kind of declaration: the battery below runs on each.
DECLARATIONS = [
    PowerLaw(1.5, 0.6, modes=1000, noise=[0.0, 0.1]),
    SpectrumTask([1.0, 0.5], [1.0, 2.0], [1, 3], noise=0.1),
    Isotropic(modes=7),
    Spectrum([1.0, 0.5], [1.0, 2.0]),
    Digits(classes=[[0, 1], [2, 3]], test_samples=100, seed=3),
    FashionMNIST(classes=[0, 1, 2], targets="one-hot"),
    Arrays(inputs=[[1.0, 2.0], [3.0, 4.0]], targets=[1.0, -1.0]),
    RandomFeatures(width=[64, np.inf], activation="erf", depth=2),
    Kernel(kernel="ntk"),
    TwoLayerLinear(width=[64, np.inf], richness=0),
    DeepLinear(depth=[2, np.inf], width_ratio=0.5, residual=True, branch_scale=2.0),
    GradientFlow(samples=[10, 20]),
    MomentumFlow(momentum=2.0),
    GradientDescent(0.1, samples=10, schedule=Schedule("cosine", steps=100)),
    Momentum([0.1, 0.2], 0.9),
    OnePassSGD(0.1, batch_ratio=[0.5, np.inf]),
    Ridge(1e-3),
    Schedule("wsd", steps=100, warmup=5),
]
KINDS = [type(d).__name__ for d in DECLARATIONS]


@pytest.mark.parametrize("declaration", DECLARATIONS, ids=KINDS)
class TestEveryDeclaration:
    def test_table_round_trip(self, declaration):
        assert type(declaration).from_table(declaration.to_table()) == declaration

    def test_pickle_round_trip(self, declaration):
        assert pickle.loads(pickle.dumps(declaration)) == declaration

    def test_equal_declarations_hash_alike(self, declaration):
        twin = type(declaration).from_table(declaration.to_table())
        assert hash(twin) == hash(declaration)
        assert len({twin, declaration}) == 1

    def test_frozen(self, declaration):
        name = dataclasses.fields(declaration)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(declaration, name, None)

    def test_arrays_are_read_only(self, declaration):
        for field in dataclasses.fields(declaration):
            value = getattr(declaration, field.name)
            if isinstance(value, np.ndarray):
                with pytest.raises(ValueError, match="read-only"):
                    value[0] = 1.0

    def test_prints(self, declaration):
        assert repr(declaration).startswith(type(declaration).__name__)

    def test_unknown_key_is_refused_with_the_nearest(self, declaration):
        first = dataclasses.fields(declaration)[0].name
        with pytest.raises(WrongKey, match=f"{first}x: unknown key; did you mean '{first}'"):
            type(declaration).from_table({f"{first}x": 1})

    def test_replace_refuses_unknown_fields(self, declaration):
        with pytest.raises(WrongKey, match="no such field"):
            declaration.replace(qqq=1)


def test_digest_is_the_same_in_another_process():
    code = "from foretrain.problems import *; from foretrain.tasks import PowerLaw; print(Problem(PowerLaw(1.5, 0.6), RandomFeatures(width=[64, 1e9]), GradientFlow(samples=3)).digest())"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert there == Problem(PowerLaw(1.5, 0.6), RandomFeatures(width=[64, 1e9]), GradientFlow(samples=3)).digest()


def test_equality_sees_every_entry_of_an_array():
    assert Spectrum([1.0, 0.5], [1.0, 2.0]) != Spectrum([1.0, 0.5], [1.0, np.nextafter(2.0, 3.0)])


def test_equality_sees_the_class():
    assert Digits() != FashionMNIST()


def test_callers_array_is_copied():
    mine = np.array([1.0, 0.5])
    spectrum = Spectrum(mine, [1.0, 1.0])
    mine[0] = 7.0
    assert spectrum.eigenvalues[0] == 1.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PowerLaw("1.5", 0.6), r"PowerLaw: capacity: expected a number > 0, got '1.5'"),
        (lambda: PowerLaw(True, 0.6), r"expected a number > 0, got True"),
        (lambda: PowerLaw(float("nan"), 0.6), r"expected a number > 0, got NaN"),
        (lambda: PowerLaw(-1, 0.6), r"capacity: expected a number > 0, got -1"),
        (lambda: PowerLaw(float("inf"), 0.6), r"capacity: expected a number > 0, got inf"),
        (lambda: PowerLaw([], 0.6), r"expected at least one value, got an empty list"),
        (lambda: PowerLaw([1.5, 1.5], 0.6), r"expected distinct values"),
        (lambda: PowerLaw(1.5, 0.6, modes=2.5), r"modes: expected a whole number >= 1 or inf, got 2.5"),
        (lambda: PowerLaw(1.5, 0.6, modes=0), r"modes: expected a whole number >= 1 or inf, got 0"),
        (lambda: PowerLaw(1.5, 0.6, noise=-0.1), r"noise: expected a number >= 0, got -0.1"),
        (lambda: PowerLaw(1.0, 0.6), r"capacity: expected > 1 when modes = inf"),
        (lambda: PowerLaw(1.5, 0.6, normalize=True), r"normalize: expected false when modes = inf"),
        (lambda: PowerLaw(10**400, 0.6), r"expected a number below 1.8e308"),
        (lambda: PowerLaw(1 << 40000, 0.6), r"got a int that is too long to print"),
        (lambda: TwoLayerLinear(richness=-1), r"richness: expected a number >= 0, got -1"),
        (lambda: DeepLinear(np.inf), r"depth: expected finite depths without residual = true, got inf"),
        (
            lambda: DeepLinear(np.inf, residual=True, depth_exponent=0),
            r"expected finite depths where depth_exponent < 1/2",
        ),
        (lambda: DeepLinear(2, branch_scale=1), r"branch_scale: means nothing without branches"),
        (lambda: DeepLinear(2, width_ratio=0), r"width_ratio: expected a number > 0 or inf, got 0"),
        (lambda: DeepLinear(2, width_ratio=2, richness=0), r"richness: expected > 0 unless width_ratio = inf in 'mup'"),
        (lambda: DeepLinear(2, parameterization=["mup", "ntk"], richness=[0, 1]), r"richness: expected > 0 unless"),
        (lambda: DeepLinear(2, parameterization="sp"), r"parameterization: expected one of 'mup', 'ntk', got 'sp'"),
        (lambda: OnePassSGD(0.1), r"batch_size: missing; expected the number of samples per step"),
        (
            lambda: OnePassSGD(0.1, 4, batch_ratio=1),
            r"batch_ratio: expected one of batch_size and batch_ratio, got both",
        ),
        (lambda: SpectrumTask([1.0, -0.5], [1.0, 1.0]), r"eigenvalues: expected numbers >= 0, got -0.5 at index 1"),
        (lambda: SpectrumTask([1.0, float("nan")], [1.0, 1.0]), r"expected finite numbers, got nan at index 1"),
        (lambda: SpectrumTask([1.0, "x"], [1.0, 1.0]), r"expected a list of numbers"),
        (lambda: SpectrumTask(["1.0"], [1.0]), r"expected a list of numbers, got \['1.0'\]"),
        (lambda: SpectrumTask([True], [1.0]), r"expected a list of numbers, got \[True\]"),
        (lambda: SpectrumTask([1j], [1.0]), r"expected a list of numbers"),
        (lambda: SpectrumTask([[1.0], [2.0, 3.0]], [1.0, 1.0]), r"expected a list of numbers"),
        (lambda: SpectrumTask([1.0, 0.5], [1.0]), r"target_power: expected 2 entries like eigenvalues, got 1"),
        (lambda: SpectrumTask([0.0, 0.0], [1.0, 1.0]), r"expected at least one positive eigenvalue"),
        (lambda: SpectrumTask([1.0], [1.0], [0.0]), r"multiplicity: expected numbers > 0"),
        (lambda: RandomFeatures(width=0), r"width: expected a number > 0 or inf, got 0"),
        (lambda: RandomFeatures(width=-5), r"width: expected a number > 0 or inf, got -5"),
        (lambda: RandomFeatures(width=64, activation="rely"), r"did you mean 'relu'"),
        (lambda: RandomFeatures(width=64, depth=0), r"depth: expected a whole number >= 1"),
        (lambda: Momentum(0.1, 1.0), r"momentum: expected a number >= 0 and < 1, got 1.0"),
        (lambda: GradientDescent(0.0), r"learning_rate: expected a number > 0"),
        (lambda: GradientDescent(0.1, schedule=3), r"schedule: expected a schedule such as"),
        (lambda: Schedule("cosine"), r"steps: missing; a 'cosine' schedule needs its length"),
        (lambda: Schedule("linear", steps=5, warmup=6), r"warmup: expected warmup \+ decay <= steps = 5, got 6"),
        (lambda: Ridge(-1.0), r"ridge: expected a number >= 0, got -1.0"),
        (lambda: Digits(classes=[1]), r"classes: expected a list of at least two classes"),
        (lambda: Digits(classes=[1, 1]), r"classes: expected every label once"),
        (lambda: Digits(classes=[1, 11]), r"classes: expected labels 0..9, got 11"),
        (lambda: Digits(targets="signs"), r"targets: expected two classes for 'signs', got 10"),
        (lambda: Digits(test_samples=0), r"test_samples: expected a whole number >= 1"),
        (lambda: Digits(center="yes"), r"center: expected true or false, got 'yes'"),
        (lambda: Arrays(), r"path: expected either a path"),
        (lambda: Arrays(inputs=[[1.0]]), r"targets: missing"),
        (lambda: Arrays(path="a\0b"), r"without NUL"),
    ],
)
def test_wrong_values_have_their_own_message(make, words):
    with pytest.raises(InvalidInput, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_missing_key_is_named():
    with pytest.raises(WrongKey, match="source: missing; 'power-law' needs it"):
        PowerLaw.from_table({"capacity": 1.5})


def test_axes_are_the_lists_in_field_order():
    law = PowerLaw([1.5, 2.0], 0.6, noise=[0.1])
    assert law.axes() == {"capacity": (1.5, 2.0), "noise": (0.1,)}
    assert SpectrumTask([1.0, 0.5], [1.0, 2.0]).axes() == {}  # vectors by nature are not axes


def test_whole_floats_are_integers():
    assert PowerLaw(1.5, 0.6, modes=100.0).modes == 100
    assert isinstance(PowerLaw(1.5, 0.6, modes=100.0).modes, int)


@given(st.one_of(st.none(), st.booleans(), st.text(), st.integers(), st.floats(), st.lists(st.floats(), max_size=3)))
def test_any_value_is_taken_or_refused_in_words(value):
    @dataclasses.dataclass(frozen=True, eq=False)
    class Thing(Declaration):
        kind = "thing"
        size: float = number(low=0.0)

    message, size = "", ()
    try:
        size = Thing(value).size
    except InvalidInput as refusal:
        message = str(refusal)
    assert message.startswith("Thing: size: expected ") or (message == "" and size != ())
    assert all(isinstance(v, float) and 0 <= v < np.inf for v in (size if isinstance(size, tuple) else (size,)))


def test_show_is_short():
    assert len(show(list(range(1000)))) <= 60
    assert show(np.ones((2, 3))) == "an array of shape (2, 3), dtype float64"
