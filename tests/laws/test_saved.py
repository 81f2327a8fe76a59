"""A fit survives its file, and nothing else passes for one."""

import json

import numpy as np
import pytest

from foretrain.errors import InvalidInput
from foretrain.laws import Fit, Parameter, fit, law_of
from foretrain.laws._saved import fit_to_json, load, save


@pytest.fixture(scope="module")
def found():
    rng = np.random.default_rng(3)
    params = np.repeat([1e7, 3e7, 1e8, 3e8, 1e9], 4)
    tokens = params * np.tile([5.0, 20.0, 80.0, 320.0], 5)
    loss = (1.8 + 400.0 / params**0.34 + 2000.0 / tokens**0.36) * np.exp(0.003 * rng.standard_normal(20))
    return fit({"params": params, "tokens": tokens, "loss": loss}, "chinchilla", bootstrap=50)


def test_comes_back_to_the_last_bit(found, tmp_path):
    found.save(tmp_path / "law.json")
    back = Fit.load(tmp_path / "law.json")
    for name in ("theta", "samples", "residuals"):
        assert np.array_equal(getattr(back, name), getattr(found, name)), name
    assert fit_to_json(back) == fit_to_json(found)
    assert [law.name for law, _ in back.forms] == [law.name for law, _ in found.forms]
    at = {"params": 7e9, "tokens": [2e10, 2e11]}
    for end, values in found.predict(at).items():
        assert np.array_equal(back.predict(at)[end], values), end
    assert sorted(p.name for p in tmp_path.iterdir()) == ["law.json"]  # nothing half-written stays behind


def test_file_is_strict_json_without_intervals_too(tmp_path):
    bare = fit(
        {"tokens": [1e6, 4e6, 2e7, 1e8, 1e9], "loss": [5.0, 4.0, 3.2, 2.8, 2.5]}, "power", x="tokens", bootstrap=0
    )
    save(bare, tmp_path / "law.json")
    table = json.loads((tmp_path / "law.json").read_text(), parse_constant=pytest.fail)
    assert table["parameters"]["A"]["low"] is None
    assert table["variables"] == ["tokens"]
    back = load(tmp_path / "law.json")
    assert back.samples.shape == (0, 3)
    assert back.law.formula == "E + A / tokens^alpha"


def test_a_law_of_ones_own(tmp_path):
    def mine():
        parameters = [Parameter("A", (1.0, 10.0), positive=True), Parameter("E", (1.0,), positive=True)]
        return law_of("mine", "E + A / x", lambda x, A, E: E + A / x, ["x"], parameters)

    x = np.array([1.0, 2.0, 4.0, 8.0])
    save(fit({"x": x, "loss": 2.0 + 3.0 / x}, mine(), bootstrap=0), tmp_path / "law.json")
    with pytest.raises(InvalidInput, match=r"'mine' is not one of .* give your own one as load\(path, law=...\)"):
        load(tmp_path / "law.json")
    assert load(tmp_path / "law.json", law=mine()).parameters["A"].value == pytest.approx(3.0, rel=1e-9)


SPAN = {"ranges": {"params": [1.0, 2.0], "tokens": [1.0, 2.0]}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "schema: expected 1, got 2"),
        ({"schema": True}, "schema: expected 1, got True"),
        ({"kind": "curves"}, "expected a law written by"),
        ({"law": "chinchila"}, "'chinchila' is not one of"),
        ({"law": 3}, "expected the name of a law"),
        ({"law": "kaplan"}, "is another law than"),
        ({"formula": "E"}, "is another law than"),
        ({"variables": ["tokens", "params"]}, "is another law than"),
        ({"theta": [1.0]}, "theta: expected 5 finite numbers"),
        ({"theta": [0.0, 0.0, 0.0, 0.3, 900.0]}, "out of the range"),
        ({"theta": ["a"] * 5}, "theta: expected 5 finite numbers"),
        ({"theta": [10**400] * 5}, "theta: expected 5 finite numbers"),
        ({"samples": [[1.0, 2.0]]}, "samples: expected any x 5 finite numbers"),
        ({"samples": {}}, "samples: expected a list"),
        ({"residuals": [[0.0]]}, "residuals: expected any finite numbers"),
        ({"n": -1}, "n: expected a count"),
        ({"starts": 1.5}, "starts: expected a count"),
        ({"objective": "much"}, "objective: expected a number"),
        ({"level": 1.5}, "level: expected a number between 0 and 1"),
        ({"settings": []}, "settings: expected an object"),
        ({"data": {"ranges": {}}}, "ranges: params: expected a list"),
        ({"data": {"ranges": {"params": [1, 2], "tokens": [2, 1]}}}, "tokens: expected 0 < low <= high"),
        ({"data": SPAN | {"span": []}}, "data: span: expected an object"),
        ({"data": SPAN | {"span": {"low": [1.0], "high": [2.0]}}}, "span: low: expected 4 finite numbers"),
        ({"data": SPAN | {"span": {"low": [1.0] * 4, "high": [0.0] * 4}}}, "span: expected low <= high"),
        ({"warnings": [1]}, "warnings: expected strings"),
        ({"validation": 3}, "validation: expected an object or null"),
        ({"validation": {"by": 3}}, "validation: by: expected what the budget is measured in"),
        ({"validation": {"by": "flops", "rows": True}}, "validation: rows: expected a count"),
        ({"validation": {"by": "flops", "rows": 3, "budget": "x"}}, "validation: budget: expected a number"),
        ({"validation": {"rehearsals": 3}}, "validation: rehearsals: expected a list"),
        ({"validation": {"rehearsals": [3]}}, r"validation: rehearsals\[0\]: expected an object"),
        ({"forms": [3]}, r"forms\[0\]: expected an object"),
        ({"forms": [{"law": "x"}]}, r"forms\[0\]: law, variables"),
    ],
)
def test_other_files_are_refused(found, tmp_path, change, words):
    path = tmp_path / "law.json"
    found.save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InvalidInput, match=words) as refused:
        load(path)
    assert str(refused.value).startswith(str(path))


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"schema": NaN}', "\x00", "[" * 100_000])
def test_other_texts_are_refused(tmp_path, text):
    (tmp_path / "law.json").write_text(text)
    with pytest.raises(InvalidInput, match="expected a law written by"):
        load(tmp_path / "law.json")


def test_places_that_cannot_be(found, tmp_path):
    with pytest.raises(InvalidInput, match="no such file"):
        load(tmp_path / "none.json")
    with pytest.raises(InvalidInput, match="cannot be written"):
        found.save(tmp_path / "none" / "law.json")
