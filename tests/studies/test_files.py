"""The study files of this repository: every one reads and round trips, and runs at reduced sizes."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from foretrain import read_study
from foretrain.cli._templates import TEMPLATES
from foretrain.errors import MissingData
from foretrain.studies import compare, measure_study, parse_study, solve_study, summarize, train_study
from foretrain.studies._transfer_plan import plan
from foretrain.tasks import AbstractDataTask, AbstractTokenTask
from foretrain.training._network import parameterize_network

FILES = sorted((Path(__file__).resolve().parents[2] / "studies").glob("*.toml"))
NAMES = [path.stem for path in FILES]
SWEEPS = [path for path in FILES if path.stem.startswith(("transfer-", "tune-"))]  # run by the tests of `transfer`
DECLARED = [path for path in FILES if path.stem in ("power-law", "momentum", "ridge")]
LEARNING = [path for path in FILES if path.stem in ("deep-linear", "two-layer-linear")]  # features that are learned
SOLVED = [path for path in FILES if path.stem in ("deep-linear-width", "deep-linear-depth", "rich-or-lazy")]


def test_they_are_all_here():
    assert {"digits", "digits-ten-classes", "fashion-mnist", "power-law", "momentum", "ridge"} <= set(NAMES)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_reads_and_round_trips(path):
    study = read_study(path)
    assert study.title
    assert path.read_text().startswith("#")  # says what it is for
    assert parse_study(study.to_toml()) == study


def reduced(study):
    """The same study with one or two values on every axis, few times and few seeds."""
    problem = study.problem
    parts = [
        part.replace(**{name: values[: 2 if name == "samples" else 1] for name, values in part.axes().items()})
        for part in problem.parts()
    ]
    times = study.times
    if times is not None:
        times = dataclasses.replace(times, points=4) if dataclasses.is_dataclass(times) else times[:2]
    return study.replace(problem=type(problem)(*parts), times=times, seeds=3)


@pytest.mark.parametrize("path", [*DECLARED, *LEARNING], ids=[p.stem for p in [*DECLARED, *LEARNING]])
def test_runs_reduced(path):
    found = compare(reduced(read_study(path)))
    assert found.theory.status == "ok"
    assert found.training.status == "ok"
    assert all(np.all(np.isfinite(found.error.values(name))) for name in ("test_loss", "train_loss"))


@pytest.mark.parametrize("path", SOLVED, ids=[p.stem for p in SOLVED])
def test_is_solved_reduced(path):
    assert solve_study(reduced(read_study(path))).status == "ok"


@pytest.mark.long
@pytest.mark.parametrize("path", DECLARED, ids=[p.stem for p in DECLARED])
def test_theory_is_within_seed_noise_of_training(path):
    # Widths and samples of these files are a few dozen and more, where the theory's own finite-size error (a few per
    # cent at 16) stays below two standard errors plus ten per cent; `tests/limits` measures that error itself.
    (test, _) = summarize(compare(read_study(path)))
    assert test.median < 0.06
    assert test.beyond_noise < 0.10


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if p not in [*DECLARED, *LEARNING, *SOLVED, *SWEEPS]],
    ids=[p.stem for p in FILES if p not in [*DECLARED, *LEARNING, *SOLVED, *SWEEPS]],
)
def test_data_studies_train_reduced(path):
    study = reduced(read_study(path))
    assert isinstance(study.problem.task, AbstractDataTask | AbstractTokenTask)
    if study.problem.task.kind == "fashion-mnist":
        pytest.skip("60 000 images take a while: see the long test")
    curves = train_study(study)
    assert curves.status == "ok"
    assert np.all(curves.values("test_loss") > 0)


@pytest.mark.parametrize("path", SWEEPS, ids=[p.stem for p in SWEEPS])
def test_sweeps_have_one_size_and_one_hyperparameter(path):
    study = read_study(path)
    found = plan(study.problem, study.transfer)
    assert len(found.sizes) >= 4
    assert found.swept == "learning_rate"


@pytest.mark.parametrize("path", SWEEPS, ids=[p.stem for p in SWEEPS])
def test_sweeps_have_a_base_at_every_size(path):
    models = {p.model: p.training for _, p in read_study(path).problem.points()}
    for model, training in models.items():
        parameterize_network(model, training, 64, 10, context=32)  # raises if heads do not fit the base, for example


@pytest.mark.long
def test_fashion_mnist_trains_reduced():
    study = reduced(read_study(FILES[NAMES.index("fashion-mnist")]))
    try:
        study.problem.task.load()
    except MissingData as error:
        pytest.skip(str(error))
    assert train_study(study).status == "ok"


@pytest.mark.parametrize("verb", ["solve", "train"])
def test_templates_run(verb):
    run = {"solve": solve_study, "train": train_study}[verb]
    assert run(parse_study(TEMPLATES[verb]).replace(seeds=2)).status == "ok"


@pytest.mark.long
def test_templates_on_data_run():
    assert measure_study(parse_study(TEMPLATES["measure"])).attrs["rows"] == 1797
    assert compare(parse_study(TEMPLATES["compare"])).theory.status == "ok"
