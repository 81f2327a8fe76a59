"""Random damage to valid study files: never a traceback, only the stated exit codes, one line for every refusal."""

import copy
import json
import math

import pytest
import tomli_w
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from foretrain.cli import main

SETTINGS = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

VALID = [
    {
        "schema": 1,
        "title": "t",
        "task": {"kind": "power-law", "capacity": 1.5, "source": 0.6, "modes": 40, "noise": [0.0, 0.1]},
        "model": {"kind": "random-features", "width": [4, 8], "ensemble": 2},
        "training": {
            "protocol": "gradient-flow",
            "samples": [6, 12],
            "times": {"start": 1.0, "stop": 100.0, "points": 3, "spacing": "log"},
            "seeds": 2,
            "seed": 1,
            "outputs": [],
        },
        "solve": {"method": "auto"},
    },
    {
        "task": {"kind": "spectrum", "eigenvalues": [1.0, 0.5], "target_power": [1.0, 1.0], "multiplicity": [2, 3]},
        "model": {"kind": "kernel"},
        "training": {"protocol": "ridge", "ridge": [0.1, 1.0], "samples": 6},
    },
    {
        "task": {"kind": "isotropic", "modes": 8},
        "model": {"kind": "random-features", "width": 4},
        "training": {
            "protocol": "gradient-descent",
            "learning_rate": 0.1,
            "schedule": {"shape": "cosine", "steps": 10, "warmup": 2},
            "times": [0, 1, 5],
            "samples": math.inf,
        },
    },
    {
        "task": {"kind": "arrays", "inputs": [[1.0], [2.0], [4.0]], "targets": [1.0, -1.0, 1.0], "scale": "none"},
        "model": {"kind": "random-features", "width": 4, "activation": "relu", "depth": 1},
        "training": {"protocol": "momentum", "learning_rate": 0.1, "momentum": 0.5, "times": [1, 2], "samples": 2},
    },
    {
        "task": {"kind": "digits", "classes": [[0, 1], 2], "test_samples": 10, "seed": 1, "center": True},
        "model": {"kind": "kernel", "kernel": "ntk"},
        "training": {"protocol": "momentum-flow", "momentum": 0.5, "times": [1, 2], "samples": 2},
    },
]

scalars = st.one_of(
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 1, 2**31, 2**63, -(2**63), 10**30]),
    st.floats(),
    st.sampled_from([math.inf, -math.inf, math.nan, 0.0, -0.0, 1e-320, 1e308]),
    st.text(max_size=8),
    # "ENDLESS" is written as a number that Python refuses to spell in decimal digits.
    st.sampled_from(
        ["ENDLESS", "power-law", "ridge", "inf", "nan", "a\nb", "\x1b[31m", "~x/y", "../..", "/dev/null", "auto"]
    ),
    st.datetimes(),
    st.dates(),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)


def paths(table, prefix=()):
    for key, value in table.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from paths(value, (*prefix, key))


@st.composite
def damaged(draw):
    table = copy.deepcopy(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 3))):
        known = list(paths(table))
        if not known:
            break
        where = draw(st.sampled_from(known))
        parent = table
        for key in where[:-1]:
            parent = parent[key]
        what = draw(st.sampled_from(["replace", "remove", "rename", "add", "wrap"]))
        if what == "replace":
            parent[where[-1]] = draw(values)
        elif what == "remove":
            del parent[where[-1]]
        elif what == "rename":
            parent[where[-1] + draw(st.text(max_size=2))] = parent.pop(where[-1])
        elif what == "add":
            parent[draw(st.text(max_size=6))] = draw(values)
        else:
            parent[where[-1]] = [parent[where[-1]]]
    return table


def write(table, path):
    path.write_text(tomli_w.dumps(table).replace('"ENDLESS"', hex(16**5000)))


def check(code, out, err):
    assert code in (0, 1, 2)
    assert "Traceback" not in err
    assert "this is a bug" not in err
    lines = err.splitlines()
    if code == 2:
        assert out == ""
        assert [line.split(":")[0] for line in lines if not line.startswith("warning: ")] == ["error"]
    if code == 0 and out:
        json.loads(out, parse_constant=lambda c: pytest.fail(f"{c} in JSON"))


@pytest.fixture
def pretended_training(monkeypatch):
    """Everything is checked as in earnest, but nothing is trained."""
    import foretrain.training as training
    from foretrain.curves import LearningCurves

    def train(problem, times=None, *, seeds, seed, minibatches, throw, progress):
        import foretrain.limits

        curves = foretrain.limits.solve(problem, times)
        return LearningCurves(curves.variables, curves.coords, {**curves.attrs, "seeds": seeds, "first_seed": seed})

    monkeypatch.setattr(training, "train", train)


@settings(SETTINGS, max_examples=150)
@given(damaged(), st.sampled_from(["solve", "train", "compare"]))
def test_damaged_studies_are_refused_or_run(pretended, pretended_training, own_folder, capsys, table, verb):
    write(table, own_folder / "s.toml")
    capsys.readouterr()
    code = main([verb, "s.toml", "--json", "--no-store"])
    check(code, *capsys.readouterr())


@settings(SETTINGS, max_examples=150)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda t: t.encode("utf-8", "surrogatepass"))))
def test_any_bytes_for_a_study(own_folder, capsys, content):
    (own_folder / "s.toml").write_bytes(content)
    capsys.readouterr()
    code = main(["solve", "s.toml", "--json"])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("error: s.toml: ")
    assert err.count("\n") == 1


WORDS = [
    "solve",
    "train",
    "init",
    "claims",
    "doctor",
    "s.toml",
    "--json",
    "-o",
    "--plot",
    "--seeds",
    "3",
    "-q",
    "--",
    "--no-store",
    "",
]


@settings(SETTINGS, max_examples=100)
@given(st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=5)), min_size=1, max_size=5))
def test_any_arguments(own_folder, capsys, arguments):
    if arguments[0] in ("claims", "doctor"):  # these run for long, or start JAX
        arguments = arguments[1:]
    capsys.readouterr()
    code = main(arguments)
    _, err = capsys.readouterr()
    assert code in (0, 2)
    assert "Traceback" not in err
    assert "bug" not in err
    if code == 2:
        assert err.startswith("error: ")
        assert err.count("\n") == 1


@pytest.mark.long
@settings(SETTINGS, max_examples=60)
@given(table=damaged(), verb=st.sampled_from(["solve", "train"]))
def test_damaged_studies_in_earnest(own_folder, capsys, table, verb):
    task = table.get("task")
    assume(not (isinstance(task, dict) and task.get("kind") in ("arrays", "digits")))  # measured elsewhere, at length
    write(table, own_folder / "s.toml")
    capsys.readouterr()
    code = main([verb, "s.toml", "--json", "--no-store"])
    check(code, *capsys.readouterr())
