"""LearningCurves and Comparison: shapes, status, JSON, NetCDF, atomic writes."""

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from foretrain.curves import Comparison, LearningCurves, json_ready
from foretrain.errors import InvalidInput


def curves(**changes):
    parts = {
        "variables": {
            "test_loss": (("width", "time"), np.array([[1.0, np.inf], [np.nan, 0.5]])),
            "status": (("width",), np.array(["diverged", "ok"])),
            "stable": (("width",), np.array([False, True])),
            "activation_of": (("activation",), np.array(["relu", "erf"])),
        },
        "coords": {
            "width": np.array([8.0, np.inf]),
            "activation": np.array(["relu", "erf"]),
            "time": np.array([0.0, np.inf]),
        },
        "attrs": {"solver": "linear", "messages": ["try less"], "nested": {"a": [1, None]}, "flag": True, "n": 3},
    }
    return LearningCurves(**(parts | changes))


def same(left, right):
    assert left.dims == right.dims
    assert dict(left.attrs) == dict(right.attrs)
    for name in left.variables:
        np.testing.assert_array_equal(left.values(name), right.values(name))
        assert left.values(name).dtype.kind == right.values(name).dtype.kind
    for name in left.coords:
        np.testing.assert_array_equal(left.coords[name], right.coords[name])


def test_netcdf_round_trip(tmp_path):
    curves().save(tmp_path / "a.nc")
    same(LearningCurves.load(tmp_path / "a.nc"), curves())


def test_dataset_round_trip():
    same(LearningCurves.from_dataset(curves().dataset), curves())


def test_written_file_is_plain_netcdf_for_xarray(tmp_path):
    import xarray

    curves().save(tmp_path / "a.nc")
    with xarray.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as dataset:
        assert dataset["test_loss"].dims == ("width", "time")
        assert dataset["test_loss"].sel(width=8.0, time=0.0).item() == 1.0


@settings(max_examples=20, deadline=None)
@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=1, max_dims=2, max_side=4)))
def test_any_floats_survive_netcdf(tmp_path_factory, values):
    dims = ("width", "time")[: values.ndim]
    made = LearningCurves({"x": (dims, values)}, {d: np.arange(n) for d, n in zip(dims, values.shape, strict=True)}, {})
    path = tmp_path_factory.mktemp("any") / "a.nc"
    made.save(path)
    np.testing.assert_array_equal(LearningCurves.load(path).values("x"), values)


def test_no_dimensions_at_all(tmp_path):
    made = LearningCurves({"test_loss": ((), np.array(0.25)), "status": ((), np.array("ok"))}, {}, {})
    made.save(tmp_path / "a.nc")
    loaded = LearningCurves.load(tmp_path / "a.nc")
    assert loaded.values("test_loss") == 0.25
    assert loaded.status == "ok"
    assert loaded.to_json()["data"]["test_loss"] == 0.25


def test_json_is_strict_and_has_the_stated_form():
    table = json.loads(json.dumps(curves().to_json(), allow_nan=False))
    assert set(table) == {"status", "coords", "dims", "data", "attrs"}
    assert table["coords"]["width"] == [8.0, "inf"]
    assert table["dims"]["test_loss"] == ["width", "time"]
    assert table["data"]["test_loss"] == [[1.0, "inf"], ["nan", 0.5]]
    assert table["data"]["stable"] == [False, True]
    assert table["attrs"]["nested"] == {"a": [1, None]}


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
        max_leaves=10,
    )
)
def test_json_ready_is_always_strict(value):
    json.dumps(json_ready(value), allow_nan=False)


@pytest.mark.parametrize(
    ("statuses", "word"),
    [(["ok", "ok"], "ok"), (["diverged"] * 2, "diverged"), (["ok", "failed"], "partial"), (["failed"] * 2, "failed")],
)
def test_status_of_the_whole(statuses, word):
    made = LearningCurves({"status": (("width",), np.array(statuses))}, {"width": np.array([1.0, 2.0])}, {})
    assert made.status == word


def test_results_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        curves().values("test_loss")[0, 0] = 3.0


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"x": (("width",), np.zeros(3))}, r"LearningCurves\(x\): expected shape \(2,\) for \('width',\), got \(3,\)"),
        ({"x": (("depth",), np.zeros(3))}, "dimension 'depth' has no coordinate"),
    ],
)
def test_shapes_are_checked(variables, words):
    with pytest.raises(InvalidInput, match=words):
        LearningCurves(variables, {"width": np.array([1.0, 2.0])}, {})


def test_unknown_variable_names_the_nearest():
    with pytest.raises(InvalidInput, match="no variable 'test_los'; did you mean 'test_loss'"):
        curves()["test_los"]


def test_comparison_round_trip(tmp_path):
    made = Comparison(curves(), curves(attrs={}), curves(attrs={"x": 1}))
    made.save(tmp_path / "a.nc")
    loaded = Comparison.load(tmp_path / "a.nc")
    for ours, theirs in zip(made.groups().values(), loaded.groups().values(), strict=True):
        same(ours, theirs)
    assert list(made.datatree.children) == ["theory", "training", "error"]
    assert set(made.to_json()) == {"theory", "training", "error"}


def test_a_comparison_is_not_curves(tmp_path):
    Comparison(curves(), curves(), curves()).save(tmp_path / "a.nc")
    with pytest.raises(InvalidInput, match=r"holds the groups .*; read it with Comparison.load"):
        LearningCurves.load(tmp_path / "a.nc")
    curves().save(tmp_path / "b.nc")
    with pytest.raises(InvalidInput, match="has no group 'theory'"):
        Comparison.load(tmp_path / "b.nc")


def test_load_says_what_is_wrong(tmp_path):
    with pytest.raises(InvalidInput, match=r"no file .*nix\.nc"):
        LearningCurves.load(tmp_path / "nix.nc")
    (tmp_path / "text.nc").write_text("hello")
    with pytest.raises(InvalidInput, match="expected a NetCDF file written by foretrain"):
        LearningCurves.load(tmp_path / "text.nc")
    curves(attrs={"schema_version": 99}).save(tmp_path / "new.nc")
    with pytest.raises(InvalidInput, match="schema version 99 was written by another release"):
        LearningCurves.load(tmp_path / "new.nc")


def test_truncated_files_are_refused_not_crashed_on(tmp_path):
    curves().save(tmp_path / "a.nc")
    content = (tmp_path / "a.nc").read_bytes()
    for length in np.linspace(1, len(content) - 1, 25).astype(int):
        (tmp_path / "b.nc").write_bytes(content[:length])
        with pytest.raises(InvalidInput):
            LearningCurves.load(tmp_path / "b.nc")


def test_save_needs_a_folder(tmp_path):
    with pytest.raises(InvalidInput, match=r"no folder .*nix; create it first"):
        curves().save(tmp_path / "nix" / "a.nc")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    curves().save(tmp_path / "a.nc")
    before = (tmp_path / "a.nc").read_bytes()

    def refuse(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no space left"):
        curves(attrs={}).save(tmp_path / "a.nc")
    assert (tmp_path / "a.nc").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.nc"]
