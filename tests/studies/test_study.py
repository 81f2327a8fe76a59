"""The study file: what it states, what it refuses and in which words, and the round trip."""

import os

import numpy as np
import pytest

from foretrain import Digits, GradientFlow, PowerLaw, Problem, RandomFeatures, Ridge, Study, read_study
from foretrain.errors import InvalidInput, MissingData
from foretrain.studies import TimeRange, parse_study

LAW = """
schema = 1
title = "a law"
[task]
kind = "power-law"
capacity = 1.5
source = 0.6
modes = 1000
[model]
kind = "random-features"
width = [64, 256, inf]
[training]
protocol = "gradient-flow"
samples = [128, inf]
times = {start = 1.0, stop = 1e6, points = 60, spacing = "log"}
seeds = 8
seed = 5
outputs = ["bias"]
[solve]
method = "linear"
"""


def test_a_whole_study():
    study = parse_study(LAW)
    task, model = PowerLaw(1.5, 0.6, modes=1000), RandomFeatures(width=[64, 256, np.inf])
    assert study.problem == Problem(task, model, GradientFlow(samples=[128, np.inf]))
    assert study.times == TimeRange(1.0, 1e6, 60)
    assert (study.seeds, study.seed, study.outputs, study.title) == (8, 5, ("bias",), "a law")
    assert study.solve.method == "linear"


def test_defaults():
    study = parse_study('[task]\nkind="digits"\n[model]\nkind="kernel"\n[training]\nprotocol="ridge"\nridge=0.1')
    assert (study.seeds, study.seed, study.outputs, study.title, study.times) == (10, 0, (), None, None)
    assert study.problem.training == Ridge(0.1)  # no samples: all rows


@pytest.mark.parametrize(
    "study",
    [
        parse_study(LAW),
        Study(Problem(PowerLaw([1.5, 2.0], 0.6), RandomFeatures(width=8), Ridge([0.1, 1.0]))),
        Study(Problem(PowerLaw(1.5, 0.6), RandomFeatures(width=8), GradientFlow()), times=[0, 1.5, np.inf], seeds=3),
        Study(
            Problem(Digits(classes=[[0, 1], [2]]), RandomFeatures(width=8, activation="erf"), Ridge(0.1)), title="ü\n"
        ),
    ],
)
def test_round_trip_through_toml(study):
    again = parse_study(study.to_toml())
    assert again == study
    assert hash(again) == hash(study)


def test_paths_are_relative_to_the_study_file(tmp_path, monkeypatch):
    text = '[task]\nkind="arrays"\npath="mine.npz"\n[model]\nkind="kernel"\n[training]\nprotocol="ridge"\nridge=0.1'
    (tmp_path / "study.toml").write_text(text)
    monkeypatch.chdir("/")
    task = read_study(tmp_path / "study.toml").problem.task
    assert os.path.samefile(os.path.dirname(task.path), tmp_path)
    with pytest.raises(MissingData, match="arrays: no file"):
        task.load()
    np.savez(tmp_path / "mine.npz", inputs=np.eye(3), targets=np.ones(3))
    assert len(task.load()) == 3


def test_byte_order_mark_is_taken(tmp_path):
    (tmp_path / "study.toml").write_text(LAW, encoding="utf-8-sig")
    assert read_study(tmp_path / "study.toml") == parse_study(LAW)


# (what to replace in LAW, with what, words of the message)
WRONG = [
    ("schema = 1", "schema = 2", "study.toml: schema: expected 1, the only schema this release reads, got 2"),
    ("schema = 1", 'schema = "1"', "study.toml: schema: expected 1"),
    ("schema = 1", "schemas = 1", "study.toml: schemas: unknown key or section; did you mean 'schema'"),
    ("[task]", "[tasks]", "study.toml: tasks: unknown key or section; did you mean 'task'"),
    ("[task]\n", "", "study.toml: kind: unknown key or section"),
    ('title = "a law"', "title = 3", "study.toml: title: expected a non-empty string, got 3"),
    ('kind = "power-law"', 'kind = "powerlaw"', "[task]: kind: expected one of"),
    ('kind = "power-law"', 'kind = "powerlaw"', "did you mean 'power-law'?"),
    ('kind = "power-law"', "kind = 3", "[task]: kind: expected one of"),
    ('kind = "power-law"', "", "[task]: kind: missing; expected one of 'power-law'"),
    ("capacity = 1.5", "capacty = 1.5", "[task]: capacty: unknown key for 'power-law'; did you mean 'capacity'?"),
    ("capacity = 1.5", "", "[task]: capacity: missing; 'power-law' needs it"),
    ("capacity = 1.5", 'capacity = "1.5"', "[task]: capacity: expected a number > 0, got '1.5'"),
    ("capacity = 1.5", "capacity = true", "[task]: capacity: expected a number > 0, got True"),
    ("capacity = 1.5", "capacity = nan", "[task]: capacity: expected a number > 0, got NaN"),
    ("capacity = 1.5", "capacity = -1.5", "[task]: capacity: expected a number > 0, got -1.5"),
    ("capacity = 1.5", "capacity = [1.5, [2]]", "[task]: capacity: expected a number > 0, got [2]"),
    ("capacity = 1.5", "capacity = {a = 1}", "[task]: capacity: expected a number > 0, got {'a': 1}"),
    ("capacity = 1.5", "capacity = 1979-05-27", "[task]: capacity: expected a number > 0, got datetime.date"),
    (
        "capacity = 1.5",
        "capacity = 1.5\nwidth = 3",
        "width: unknown key for 'power-law'; it is a [model] key of random-features",
    ),
    ("modes = 1000", "modes = inf\nnormalize = true", "[task]: normalize: expected false when modes = inf"),
    ("width = [64, 256, inf]", "width = [64, -256]", "[model]: width: expected a number > 0 or inf, got -256"),
    ("width = [64, 256, inf]", "width = 0", "[model]: width: expected a number > 0 or inf, got 0"),
    ("width = [64, 256, inf]", "width = [64, 64]", "[model]: width: expected distinct values"),
    ("width = [64, 256, inf]", "width = []", "[model]: width: expected at least one value"),
    (
        "width = [64, 256, inf]",
        "width = 8\nactivation = 'relu'",
        "[model]: activation: means nothing on a 'power-law' task",
    ),
    (
        "width = [64, 256, inf]",
        "width = 8\nsamples = 8",
        "[model]: samples: unknown key for 'random-features'; it is a [training] key",
    ),
    ('protocol = "gradient-flow"', "", "[training]: protocol: missing; expected one of 'gradient-flow'"),
    ('protocol = "gradient-flow"', 'protocol = "flow"', "[training]: protocol: expected one of"),
    ('protocol = "gradient-flow"', 'protocol = ["ridge"]', "[training]: protocol: expected one of"),
    ('protocol = "gradient-flow"', 'protocol = "gradient-descent"', "[training]: learning_rate: missing"),
    (
        'protocol = "gradient-flow"',
        'protocol = "gradient-flow"\nlearning_rate = 1',
        "learning_rate: unknown key for 'gradient-flow'",
    ),
    ('protocol = "gradient-flow"', 'protocol = "ridge"\nridge = 0.1', "[training]: times: 'ridge' has no time"),
    ("samples = [128, inf]", "samples = -3", "[training]: samples: expected a number > 0 or inf, got -3"),
    ("seeds = 8", "seeds = 0", "[training]: seeds: expected a whole number from 1 to 1000000, got 0"),
    ("seeds = 8", "seeds = 2.5", "[training]: seeds: expected a whole number from 1"),
    ("seeds = 8", "seeds = [1, 2]", "[training]: seeds: expected a whole number from 1"),
    ("seeds = 8", "seeds = true", "[training]: seeds: expected a whole number from 1"),
    ("seed = 5", "seed = -5", "[training]: seed: expected a whole number from 0 to 4294967295, got -5"),
    ('outputs = ["bias"]', 'outputs = "bias"', "[training]: outputs: expected a list of names, got 'bias'"),
    ('outputs = ["bias"]', 'outputs = ["bias", "bias"]', "[training]: outputs: expected distinct names"),
    ('outputs = ["bias"]', "outputs = [3]", "[training]: outputs: expected a list of names"),
    ("points = 60", "points = -1", "[training]: times: expected between 1 and 1000000 points, got -1"),
    ("points = 60", "point = 60", "[training]: times: unknown key 'point'; did you mean 'points'?"),
    ("start = 1.0", "start = 0.0", "[training]: times: expected start > 0 for log spacing"),
    ("start = 1.0", "start = -1.0", "[training]: times: expected 0 <= start < stop"),
    (
        'times = {start = 1.0, stop = 1e6, points = 60, spacing = "log"}',
        "times = [1.0, nan]",
        "[training]: times: expected times >= 0, got nan",
    ),
    (
        'times = {start = 1.0, stop = 1e6, points = 60, spacing = "log"}',
        "times = []",
        "[training]: times: expected a non-empty list",
    ),
    (
        'times = {start = 1.0, stop = 1e6, points = 60, spacing = "log"}',
        "times = 'now'",
        "[training]: times: expected a list of numbers",
    ),
    ('method = "linear"', "method = 3", "[solve]: method: expected a non-empty string, got 3"),
    ('method = "linear"', "methd = 3", "[solve]: methd: unknown key; did you mean 'method'"),
    ("[solve]", "[solv]", "study.toml: solv: unknown key or section; did you mean 'solve'"),
]


@pytest.mark.parametrize(("old", "new", "words"), WRONG)
def test_every_mistake_is_told_in_one_line(old, new, words):
    assert old in LAW
    with pytest.raises(InvalidInput) as caught:
        parse_study(LAW.replace(old, new, 1), "study.toml")
    message = str(caught.value)
    assert words in message
    assert message.startswith("study.toml")
    assert "\n" not in message


@pytest.mark.parametrize("section", ["task", "model", "training"])
def test_missing_sections_and_values_in_their_place(section):
    import tomllib

    import tomli_w

    table = tomllib.loads(LAW)
    del table[section]
    with pytest.raises(InvalidInput, match=rf"\[{section}\]: missing section"):
        parse_study(tomli_w.dumps(table))
    table = {"schema": 1, section: 3} | {k: v for k, v in tomllib.loads(LAW).items() if k != section}
    with pytest.raises(InvalidInput, match=rf"{section}: expected a section \[{section}\], got 3"):
        parse_study(tomli_w.dumps(table))


def test_discrete_protocols_take_whole_steps():
    text = LAW.replace('"gradient-flow"', '"gradient-descent"\nlearning_rate = 0.1')
    assert parse_study(text).times == TimeRange(1.0, 1e6, 60)  # a range is rounded when it is used
    range_ = text[text.index("times = ") : text.index("\nseeds")]
    with pytest.raises(
        InvalidInput, match=r"times: expected whole numbers of steps, got 1\.5; only a range is rounded"
    ):
        parse_study(text.replace(range_, "times = [0, 1.5]"))
    assert parse_study(text.replace(range_, "times = [0, 1, inf]")).times == (0.0, 1.0, np.inf)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe\x00", "expected a TOML text file in UTF-8, got byte 0xff at position 0"),
        (b"", r"\[task\]: missing section"),
        (b"a = ", "not valid TOML"),
        (b"a = " + b"[" * 20000, "nested too deeply"),
        (b"a = " + b"9" * 5000, "not valid TOML"),
        (b"a = 1\na = 2", "not valid TOML"),
        (b"\0", "not valid TOML"),
    ],
)
def test_files_that_are_no_study(tmp_path, content, words):
    (tmp_path / "s.toml").write_bytes(content)
    with pytest.raises(InvalidInput, match=words) as caught:
        read_study(tmp_path / "s.toml")
    assert "\n" not in str(caught.value)


def test_paths_that_are_no_file(tmp_path):
    with pytest.raises(InvalidInput, match="expected a study file, got a folder"):
        read_study(tmp_path)
    with pytest.raises(InvalidInput, match="no such file; `foretrain init`"):
        read_study(tmp_path / "nix.toml")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_study(tmp_path / ("x" * 300))
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_study("a\0b")


def test_replace_checks_again():
    with pytest.raises(InvalidInput, match="seeds: expected a whole number"):
        parse_study(LAW).replace(seeds=0)
    with pytest.raises(InvalidInput, match="times: 'ridge' has no time"):
        parse_study(LAW).replace(problem=Problem(PowerLaw(1.5, 0.6), RandomFeatures(width=8), Ridge(0.1)))
