"""`Runs` and its checks: selection, refusals that name rows, units, duplicates, designs that cannot be fitted."""

import pickle

import numpy as np
import pytest

from foretrain.curves import LearningCurves
from foretrain.errors import InvalidInput
from foretrain.laws import Runs, design_refusals, design_warnings, distinct_rows
from foretrain.laws._checks import unit_findings


def _runs() -> Runs:
    return Runs(
        {
            "params": [1e6, 1e7, 1e7, 1e8],
            "tokens": [2e7, 2e8, 1e9, 2e9],
            "loss": [4.0, 3.5, 3.4, 3.0],
            "model": ["6 Enc, 6 Dec", "Dec", "Dec", ""],
        },
        source="runs.csv",
        renamed={"N": "params"},
    )


def _chinchilla(rows: int = 12, ratio: float = 20.0, jitter: float = 0.0, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    params = np.geomspace(1e7, 1e10, rows)
    tokens = ratio * params * np.exp(jitter * rng.normal(size=rows))
    return {"params": params, "tokens": tokens, "loss": 1.8 + 480 * params**-0.35 + 2100 * tokens**-0.37}


class TestTable:
    def test_columns_are_copies_and_read_only(self) -> None:
        mine = np.array([1.0, 2.0])
        runs = Runs({"loss": mine})
        mine[0] = 9.0
        assert runs["loss"][0] == 1.0
        with pytest.raises(ValueError, match="read-only"):
            runs["loss"][0] = 3.0
        with pytest.raises(TypeError):
            runs.columns["loss"] = mine  # type: ignore[index]

    def test_kinds(self) -> None:
        runs = Runs({"a": [1, 2], "b": [True, False], "c": ["x", None], "d": [None, 2.5]})
        assert [runs[n].dtype.kind for n in "abcd"] == ["f", "f", "O", "f"]
        assert runs["c"].tolist() == ["x", ""]
        assert np.isnan(runs["d"][0])

    def test_shapes_are_checked(self) -> None:
        with pytest.raises(InvalidInput, match="columns of one length, got a: 1, b: 2"):
            Runs({"a": [1.0], "b": [1.0, 2.0]})
        with pytest.raises(InvalidInput, match="at least one column"):
            Runs({})
        with pytest.raises(InvalidInput, match="one dimension"):
            Runs({"a": np.ones((2, 2))})
        with pytest.raises(InvalidInput, match="one number for each of 1 rows"):
            Runs({"a": [1.0]}, rows=np.array([1, 2]))

    def test_both_names_of_a_column(self) -> None:
        runs = _runs()
        assert (runs["N"] == runs["params"]).all()
        assert "N" in runs
        assert "Q" not in runs

    def test_unknown_columns(self) -> None:
        with pytest.raises(
            InvalidInput, match=r"no column 'parms' of runs.csv; did you mean 'params'\?; it has params, tokens"
        ):
            _runs()["parms"]
        with pytest.raises(InvalidInput, match=r"flops is the floating-point operations .* columns flops=…"):
            _runs()["flops"]
        with pytest.raises(InvalidInput, match="Say which one is the loss: loss=loss_c4"):
            Runs({"loss_c4": [1.0], "loss_ptb": [2.0]})["loss"]

    def test_pickles(self) -> None:
        runs = _runs()
        again = pickle.loads(pickle.dumps(runs))
        assert again.names == runs.names
        assert (again["loss"] == runs["loss"]).all()

    def test_sorted_take_and_new_columns_keep_row_numbers(self) -> None:
        runs = _runs().sorted("loss")
        assert runs["loss"].tolist() == [3.0, 3.4, 3.5, 4.0]
        assert runs.rows is not None
        assert runs.rows.tolist() == [4, 3, 2, 1]
        more = runs.with_column("ratio", runs["tokens"] / runs["params"], "made here")
        assert more["ratio"].tolist() == [20.0, 100.0, 20.0, 20.0]
        assert more.notes == ("made here",)
        assert _runs().sorted("model", "loss")["model"].tolist() == ["", "6 Enc, 6 Dec", "Dec", "Dec"]

    def test_last_row_of_each_run(self) -> None:
        runs = Runs({"run": ["a", "b", "a", "b"], "steps": [20, 10, 10, 20], "loss": [1.0, 2.0, 3.0, 4.0]})
        assert runs.last()["loss"].tolist() == [1.0, 4.0]

    def test_description(self) -> None:
        words = _runs().describe()
        assert "runs.csv: 4 rows, 4 columns" in words
        assert "enough for: loss in size and data" in words
        assert "IsoFLOP valleys (needs flops)" in words
        assert "params  1000000, 10000000, 100000000  (in the file: N)" in words
        assert "1 missing" in words


class TestNumbers:
    def test_side_by_side(self) -> None:
        table = _runs().numbers("tokens", "params")
        assert table.shape == (4, 2)
        assert table.dtype == np.float64
        assert (table[:, 0] == _runs()["tokens"]).all()

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (np.nan, r"missing values: row 2 .*loss!=nan"),
            (-3.0, r"zero or negative values: row 2 \(-3\).*loss>0"),
            (0.0, "row 2"),
            (np.inf, r"infinite values: row 2 \(inf\)"),
        ],
    )
    def test_refusals_name_rows_of_the_file(self, value: float, words: str) -> None:
        runs = Runs({"params": [1.0, 2.0, 3.0], "loss": [1.0, value, 3.0]})
        with pytest.raises(InvalidInput, match=words):
            runs.numbers("loss")
        with pytest.raises(InvalidInput, match="row 2"):  # also after rows before it went
            runs.where("params>1").numbers("loss")

    def test_text_is_named(self) -> None:
        with pytest.raises(InvalidInput, match=r"expected numbers, got text: row 2 \('=cmd\(\)'\)"):
            Runs({"loss": ["3.1", "=cmd()", "3.0"]}).numbers("loss")

    def test_many_rows_are_counted(self) -> None:
        with pytest.raises(InvalidInput, match="and 12 more"):
            Runs({"loss": np.full(20, -1.0)}).numbers("loss")

    def test_negative_values_on_request(self) -> None:
        assert Runs({"x": [-1.0, 0.0]}).numbers("x", positive=False).tolist() == [[-1.0], [0.0]]


class TestWhere:
    @pytest.mark.parametrize(
        ("conditions", "left"),
        [
            (("loss<3.5",), [3.4, 3.0]),
            (("loss <= 3.5",), [3.5, 3.4, 3.0]),
            (("params>=10M", "loss>3"), [3.5, 3.4]),
            (("N=1e7",), [3.5, 3.4]),
            (("params==10000000", "tokens!=2e8"), [3.4]),
            (("model=Dec",), [3.5, 3.4]),
            (("model='6 Enc, 6 Dec'",), [4.0]),
            (("model=6 Enc, 6 Dec",), [4.0]),
            (("model=dec",), [3.5, 3.4]),
            (("model!=Dec",), [4.0]),
            (("model=nan",), [3.0]),
            (("loss!=nan",), [4.0, 3.5, 3.4, 3.0]),
            (("loss<inf",), [4.0, 3.5, 3.4, 3.0]),
        ],
    )
    def test_conditions(self, conditions: tuple[str, ...], left: list[float]) -> None:
        assert _runs().where(*conditions)["loss"].tolist() == left

    def test_names_with_operators_in_them(self) -> None:
        assert len(Runs({"a<b": [1.0, 2.0], "a": [3.0, 4.0]}).where("a<b=1")) == 1

    @pytest.mark.parametrize(
        ("conditions", "words"),
        [
            (("loss",), "expected column=value"),
            (("=3",), "expected column=value"),
            (("los<3",), "did you mean 'loss'"),
            (("model<b",), "is text and has no order"),
            (("loss=low",), "holds numbers; expected one, got 'low'"),
            (("loss<nan",), "use = or !="),
            (("model=Enc",), r"no row meets it; model has '6 Enc, 6 Dec', 'Dec', 1 missing"),
            (("loss<1",), "no row meets it; loss has 3, 3.4, 3.5, 4"),
            (
                ("model=Dec", "loss=4"),
                r"no row meets all of them; 'loss=4' leaves none of the 2 rows .* whose loss is 3.4, 3.5",
            ),
        ],
    )
    def test_refusals(self, conditions: tuple[str, ...], words: str) -> None:
        with pytest.raises(InvalidInput, match=words):
            _runs().where(*conditions)

    def test_a_missing_number_meets_nothing(self) -> None:
        runs = Runs({"x": [1.0, np.nan, 3.0]})
        assert len(runs.where("x!=1")) == 1
        assert len(runs.where("x<5")) == 2
        assert len(runs.where("x=nan")) == 1


class TestDropLargestLoss:
    def test_drops_the_largest_and_keeps_the_order(self) -> None:
        runs = Runs({"loss": [3.0, 5.0, 1.0, 5.0, 2.0]})
        assert runs.drop_largest_loss(1).rows.tolist() == [1, 2, 3, 5]  # type: ignore[union-attr]
        assert runs.drop_largest_loss(3)["loss"].tolist() == [1.0, 2.0]
        assert len(runs.drop_largest_loss(0)) == 5

    @pytest.mark.parametrize("count", [-1, 5, 1.5, True, "2"])
    def test_refusals(self, count: object) -> None:
        with pytest.raises(InvalidInput, match="expected a whole number from 0 to 4"):
            Runs({"loss": [3.0, 5.0, 1.0, 5.0, 2.0]}).drop_largest_loss(count)  # type: ignore[arg-type]


class TestWarnings:
    def test_a_good_table_has_none(self) -> None:
        assert Runs(_chinchilla(jitter=1.0)).warnings() == ()

    def test_duplicated_rows_are_counted(self) -> None:
        columns = {name: np.concatenate([v, v[[3, 5]]]) for name, v in _chinchilla(jitter=1.0).items()}
        (warning,) = Runs(columns).warnings()
        assert "2 rows repeat an earlier row in every column (rows 13, 14)" in warning
        assert "intervals too narrow" in warning

    def test_equal_losses_of_two_seeds_are_no_duplicates(self) -> None:
        columns = {name: np.tile(v, 2) for name, v in _chinchilla(jitter=1.0).items()}
        assert Runs({**columns, "seed": np.repeat([0, 1], 12)}).warnings() == ()

    def test_checkpoints_and_missing_values(self) -> None:
        columns = _chinchilla(jitter=1.0)
        columns["loss"] = np.where(np.arange(12) == 4, np.nan, columns["loss"])
        words = "\n".join(Runs({**columns, "run": ["a", "b"] * 6}).warnings())
        assert "'loss': 1 of 12 values are missing" in words
        assert "12 rows of 2 runs: checkpoints of one run are correlated" in words

    def test_losses_that_are_no_nats(self) -> None:
        columns = _chinchilla(jitter=1.0)
        assert "is it a perplexity" in Runs({**columns, "loss": np.exp(columns["loss"] * 2)}).warnings()[0]
        columns["loss"] = np.where(np.arange(12) == 4, 1000.0, columns["loss"])
        assert "losses above 20 in row 5" in Runs(columns).warnings()[0]

    def test_negative_losses(self) -> None:
        columns = _chinchilla(jitter=1.0)
        columns["loss"] = columns["loss"] * np.where(np.arange(12) == 2, -1, 1)
        assert "zero or negative in row 3" in Runs(columns).warnings()[0]


class TestUnits:
    """Errors only where two signs agree; a stated unit is never doubted."""

    rows = np.arange(1, 13)

    def _with_flops(self) -> dict[str, np.ndarray]:
        columns = _chinchilla(jitter=1.0)
        return {**columns, "flops": 6 * columns["params"] * columns["tokens"]}

    def test_good_units(self) -> None:
        assert unit_findings(self._with_flops(), self.rows) == ([], [])

    @pytest.mark.parametrize("name", ["params", "tokens", "flops"])
    @pytest.mark.parametrize("factor", [1e-3, 1e-6, 1e-9])
    def test_mixed_units_with_flops(self, name: str, factor: float) -> None:
        columns = self._with_flops()
        columns[name] = columns[name] * np.where(np.isin(self.rows, [3, 7]), factor, 1.0)
        refused, _ = unit_findings(columns, self.rows)
        assert "rows 3, 7 are in another unit than the others" in refused[0]
        assert f"1e{round(-np.log10(factor))}" in refused[0]

    def test_the_column_at_fault_is_named(self) -> None:
        columns = self._with_flops()
        columns["params"] = columns["params"] * np.where(np.isin(self.rows, [3, 7, 12]), 1e-6, 1.0)
        assert unit_findings(columns, self.rows)[0][0].startswith("column 'params'")

    def test_mixed_units_without_flops(self) -> None:
        columns = _chinchilla(jitter=0.3)
        columns["params"] = columns["params"] * np.where(self.rows <= 4, 1e-6, 1.0)
        refused, _ = unit_findings(columns, self.rows)
        assert "column 'params': rows 1, 2, 3, 4 seem to be in another unit" in refused[0]
        assert "in millions" in refused[0]

    def test_a_gap_alone_is_a_warning_only(self) -> None:
        refused, warned = unit_findings({"params": np.array([1e2, 2e2, 1e8, 2e8])}, self.rows[:4])
        assert not refused
        assert "seem to be in another unit" in warned[0]
        assert unit_findings({"params": np.array([1e2, 2e2, 1e8, 2e8])}, self.rows[:4], ("params",)) == ([], [])

    @pytest.mark.parametrize(("factor", "unit"), [(1e-6, "1e6"), (1e-9, "1e9")])
    def test_a_whole_column_in_millions_or_billions(self, factor: float, unit: str) -> None:
        columns = _chinchilla(jitter=0.3)
        columns["params"] = columns["params"] * factor
        refused, (warning,) = unit_findings(columns, self.rows)
        assert not refused
        assert f"columns params=params*{unit}" in warning

    def test_a_whole_column_against_flops(self) -> None:
        columns = self._with_flops()
        columns["params"] = columns["params"] / 1e6
        _, warned = unit_findings(columns, self.rows)
        assert "seem to be in millions" in warned[0]

    def test_another_way_to_count(self) -> None:
        columns = self._with_flops()
        _, (warning,) = unit_findings({**columns, "flops": 4 * columns["flops"]}, self.rows)
        assert "6 × params × tokens is 0.25 times flops throughout" in warning
        columns["flops"] = columns["flops"] * np.where(self.rows == 2, 5.0, 1.0)
        _, (warning,) = unit_findings(columns, self.rows)
        assert "more than a factor of 3 in row 2 (at most 5 times)" in warning

    def test_epochs_against_tokens(self) -> None:
        columns = {
            "tokens": np.array(
                [1e9, 5e8, 4e9, 4.3e9, 4e9, 9e9, 2e8]
            ),  # the fifth exceeds its one epoch, the sixth its four
            "epochs": np.array([1, 1, 4, 4, 1, 4, 0.2]),
            "tokens_per_epoch": np.full(7, 1e9),
        }
        refused, (warning,) = unit_findings(columns, self.rows[:7])
        assert not refused
        assert warning.startswith("tokens are not tokens_per_epoch × epochs in rows 5, 6")
        assert unit_findings(
            {**columns, "tokens": np.minimum(columns["tokens"], columns["epochs"] * 1e9)}, self.rows[:7]
        ) == ([], [])

    def test_small_networks_are_no_mistake(self) -> None:
        columns = {
            "params": np.geomspace(200, 2e5, 12),
            "tokens": np.geomspace(1e4, 1e7, 12),
            "loss": np.linspace(1.0, 0.1, 12),
        }
        assert unit_findings(columns, self.rows) == ([], [])

    def test_absurd_numbers_are_no_crash(self) -> None:
        """Ratios beyond the largest number, and below the smallest one."""
        extremes = np.array([5e-324, 1e-300, 1.0, 1e300, 1.7e308])
        rng = np.random.default_rng(0)
        for _ in range(200):
            columns = {name: rng.choice(extremes, size=6) for name in ("params", "tokens", "flops", "loss")}
            unit_findings(columns, self.rows[:6])
            values = np.column_stack([columns["params"], columns["tokens"]])
            design_refusals(values, ("params", "tokens"), 5)
            design_warnings(values, ("params", "tokens"))
            assert Runs(columns).describe()


class TestDesigns:
    def _design(self, **changes: float) -> np.ndarray:
        columns = _chinchilla(**changes)  # type: ignore[arg-type]
        return np.column_stack([columns["params"], columns["tokens"]])

    def test_a_good_design(self) -> None:
        values = self._design(jitter=1.0)
        assert design_refusals(values, ("params", "tokens"), 5) == []
        assert design_warnings(values, ("params", "tokens")) == []

    def test_twenty_tokens_per_parameter(self) -> None:
        for wobble in (0.0, 0.003):
            (words,) = design_refusals(self._design(jitter=wobble), ("params", "tokens"), 5, "chinchilla")
            assert "tokens is 20" in words
            assert "times params in every row" in words
        assert design_refusals(self._design(jitter=0.05), ("params", "tokens"), 5) == []
        assert "cannot be told apart" in design_warnings(self._design(jitter=0.05), ("params", "tokens"))[0]

    def test_one_power_of_the_other(self) -> None:
        params = np.geomspace(1e6, 1e9, 12)
        (words,) = design_refusals(np.column_stack([params, 3 * params**1.5]), ("params", "tokens"), 5)
        assert "tokens follows params^1.5" in words

    def test_one_size(self) -> None:
        values = np.column_stack([np.full(9, 1e8), np.geomspace(1e8, 1e10, 9)])
        (words,) = design_refusals(values, ("params", "tokens"), 5)
        assert "params has one value, 1e+08, in all rows" in words

    def test_one_number_of_unique_tokens(self) -> None:
        """Repetition shows in tokens alone; where the number of unique tokens has a power of its own it does not."""
        rng, names = np.random.default_rng(0), ("params", "tokens", "tokens_per_epoch")
        values = np.column_stack([*np.exp(rng.uniform(15, 22, (2, 30))), np.full(30, 1e9)])
        assert design_refusals(values, names, 6, "muennighoff") == []
        assert "tokens_per_epoch has one value" in design_refusals(values, names, 6, "theory-reused-data")[0]

    def test_too_few_rows(self) -> None:
        values = self._design(rows=3, jitter=1.0)
        assert (
            "3 different rows for 5 parameters; at least 6 are needed"
            in design_refusals(values, ("params", "tokens"), 5)[0]
        )
        again = np.repeat(values, 10, axis=0)
        assert distinct_rows(again) == 3
        assert "3 different rows" in design_refusals(again, ("params", "tokens"), 5)[0]
        assert "0 different rows" in design_refusals(values[:0], ("params", "tokens"), 5)[0]

    def test_a_narrow_span(self) -> None:
        values = np.column_stack([np.geomspace(1e6, 2e6, 12), np.geomspace(1e9, 1e7, 12) * np.tile([1, 3], 6)])
        assert "params spans a factor of 2 only" in design_warnings(values, ("params", "tokens"))[0]

    def test_a_single_budget(self) -> None:
        params = np.geomspace(1e6, 1e9, 12)
        values = np.column_stack([params, 1e18 / (6 * params)])
        assert design_refusals(values, ("params", "tokens"), 5) == []
        assert "as at a single budget" in design_warnings(values, ("params", "tokens"))[0]

    def test_units_do_not_matter(self) -> None:
        """Checks use logarithms, so a change of unit changes no verdict."""
        values = self._design(jitter=0.05)
        scaled = values * np.array([[1e-6, 1e3]])
        assert len(design_warnings(values, ("n", "d"))) == len(design_warnings(scaled, ("n", "d"))) == 1


class TestFromCurves:
    def _curves(self, **more: object) -> LearningCurves:
        loss = np.array([[4.0, 3.0, 2.0], [3.5, np.inf, 1.5]])
        variables = {
            "train_loss": (("width", "time"), loss / 2),
            "test_loss": (("width", "time"), loss),
            "params": (("width",), np.array([1e3, 4e3])),
            "tokens": (("time",), np.array([10.0, 100.0, 1000.0])),
            "modes": (("mode",), np.ones(2)),
            **more,
        }
        return LearningCurves(
            variables, {"width": [16, 32], "time": [1.0, 10.0, 100.0], "mode": [0, 1]}, {"samples": 64, "title": "x"}
        )  # type: ignore[arg-type]

    def test_every_point_is_a_row(self) -> None:
        runs = Runs.from_curves(self._curves())
        assert runs["loss"].tolist() == [4.0, 3.0, 2.0, 3.5, 1.5]
        assert runs["params"].tolist() == [1e3, 1e3, 1e3, 4e3, 4e3]
        assert runs["tokens"].tolist() == [10.0, 100.0, 1000.0, 10.0, 1000.0]
        assert runs["width"].tolist() == [16, 16, 16, 32, 32]
        assert runs["samples"].tolist() == [64] * 5
        assert runs["flops"].tolist() == (6 * runs["params"] * runs["tokens"]).tolist()
        assert runs.rows is not None
        assert runs.rows.tolist() == [1, 2, 3, 4, 6]
        assert any("1 of 6 points diverged or failed" in n for n in runs.notes)
        assert any("modes" in n for n in runs.notes)
        assert "train_loss" in runs

    def test_dimensions_in_another_order(self) -> None:
        values = np.arange(6.0).reshape(3, 2)
        runs = Runs.from_curves(self._curves(seconds=(("time", "width"), values)))
        assert runs["seconds"].tolist() == [0.0, 2.0, 4.0, 1.0, 5.0]

    def test_rounding_after_training(self) -> None:
        after = np.arange(12.0).reshape(2, 2, 3) + 5  # width, post_bits, time
        after[0, 1, 2] = np.inf
        curves = self._curves()
        variables = {**curves.variables, "test_loss_post": (("width", "post_bits", "time"), after)}
        curves = LearningCurves(variables, {**curves.coords, "post_bits": [3, 4]}, curves.attrs)  # type: ignore[arg-type]
        runs = Runs.from_curves(curves)
        assert runs["post_bits"].tolist() == [3] * 3 + [4] * 2 + [3] * 2 + [4] * 2
        assert runs["loss"].tolist() == [4.0, 3.0, 2.0, 4.0, 3.0, 3.5, 1.5, 3.5, 1.5]
        assert runs["loss_post"].tolist() == [5.0, 6.0, 7.0, 8.0, 9.0, 11.0, 13.0, 14.0, 16.0]
        assert runs["delta"].tolist() == (runs["loss_post"] - runs["loss"]).tolist()
        # Rows of one point share a name, rows of two points do not.
        places = list(zip(runs["width"], runs["tokens"], strict=True))
        names = dict(zip(places, runs["run"], strict=True))
        assert [names[place] for place in places] == runs["run"].tolist()
        assert len(set(names.values())) == len(names) == 5
        assert any("3 of 12 points diverged or failed" in n for n in runs.notes)
        assert any("delta is test_loss_post - test_loss" in n and "post_bits=3" in n for n in runs.notes)

    def test_no_loss(self) -> None:
        with pytest.raises(InvalidInput, match="expected test_loss, train_loss or loss; it has x"):
            Runs.from_curves(LearningCurves({"x": ((), np.array(1.0))}, {}, {}))

    def test_nothing_usable(self) -> None:
        with pytest.raises(InvalidInput, match="every point diverged"):
            Runs.from_curves(
                LearningCurves({"test_loss": (("time",), np.array([np.inf]))}, {"time": np.array([1.0])}, {})
            )


def test_rows_of_one_run_are_checkpoints_only_at_several_places_of_training():
    columns = {"run": ["a", "a", "b", "b"], "tokens": [1e6, 1e6, 2e6, 2e6], "loss": [4.0, 4.0, 3.5, 3.5]}
    rounded = Runs(columns | {"post_bits": [3.0, 4.0, 3.0, 4.0], "loss_post": [4.4, 4.1, 4.0, 3.6]})
    assert not any("checkpoints" in w for w in rounded.warnings())
    trained = Runs(columns | {"tokens": [1e6, 2e6, 1e6, 2e6]})
    assert any("checkpoints" in w for w in trained.warnings())
