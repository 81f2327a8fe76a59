"""`read_runs`: every kind of file, names and units, refusals that say where, and no other exception whatever a file holds."""

import base64
import contextlib
import json
import struct
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from foretrain.curves import Comparison, LearningCurves
from foretrain.errors import ForetrainError, InvalidInput, MissingExtra
from foretrain.laws import Runs, read_runs
from foretrain.laws._columns import MEANINGS, name_columns, parse_number
from foretrain.laws._read_events import masked_crc

GOOD = "params,tokens,loss,data\n1e7,2e8,4.0,c4\n2e7,1e9,3.5,c4\n4e7,8e8,3.2,web\n"


def _file(folder: Path, text: str | bytes, name: str = "runs.csv") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def _read(folder: Path, text: str | bytes, name: str = "runs.csv", **options: object) -> Runs:
    return read_runs(_file(folder, text, name), **options)  # type: ignore[arg-type]


class TestSeparatedValues:
    @pytest.mark.parametrize(
        ("mark", "name"),
        [(",", "a.csv"), ("\t", "a.tsv"), (";", "a.csv"), ("|", "a.txt"), (" ", "a.txt"), ("\t", "a.csv")],
    )
    def test_separators(self, tmp_path: Path, mark: str, name: str) -> None:
        runs = _read(tmp_path, GOOD.replace(",", mark), name)
        assert runs["loss"].tolist() == [4.0, 3.5, 3.2]
        assert runs["data"].tolist() == ["c4", "c4", "web"]

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
    def test_encodings(self, tmp_path: Path, encoding: str) -> None:
        runs = _read(tmp_path, GOOD.replace("web", "straße").encode(encoding))
        assert runs["data"][2] == "straße"
        assert runs.names[0] == "params"
        assert any("not UTF-8" in n for n in runs.notes) == (encoding == "cp1252")

    def test_quotes_newlines_and_line_ends(self, tmp_path: Path) -> None:
        runs = _read(tmp_path, 'loss,name\r\n3.1,"a, b"\r\n\r\n3.0,"two\nlines"\r\n2.9,"say ""x"""\r\n')
        assert runs["run"].tolist() == ["a, b", "two\nlines", 'say "x"']

    def test_comments_and_the_header_of_numpy(self, tmp_path: Path) -> None:
        runs = _read(tmp_path, "# made by hand\nparams,loss\n1e6,3\n2e6,2\n")
        assert "1 comment line above the header skipped" in runs.notes
        np.savetxt(tmp_path / "n.txt", np.array([[1e6, 3.0], [2e6, 2.0]]), header="params loss")
        assert read_runs(tmp_path / "n.txt")["params"].tolist() == [1e6, 2e6]

    def test_missing_cells(self, tmp_path: Path) -> None:
        runs = _read(tmp_path, "params,loss\n1e6,\n2e6,NA\n3e6,null\n4e6,1\n")
        assert np.isnan(runs["loss"]).tolist() == [True, True, True, False]
        with pytest.raises(InvalidInput, match="missing values: row 1"):
            runs.numbers("loss")

    def test_rows_keep_their_numbers_after_a_selection(self, tmp_path: Path) -> None:
        runs = _read(tmp_path, "params,loss,d\n1e6,3,a\n2e6,-2,b\n3e6,-1,b\n", where=["d=b"])
        with pytest.raises(InvalidInput, match=r"row 2 \(-2\), row 3 \(-1\)"):
            runs.numbers("loss")
        assert any("rows where d=b" in n for n in runs.notes)

    def test_a_formula_is_text(self, tmp_path: Path) -> None:
        marker = tmp_path / "executed"
        cells = [
            f"=cmd|'/C touch {marker}'!A1",
            f"@SUM(1+1)*cmd('touch {marker}')",
            f"__import__('os').system('touch {marker}')",
            "=1+1",
        ]
        text = "params,loss,name\n" + "".join(f'{k + 1}e6,3,"{cell}"\n' for k, cell in enumerate(cells))
        assert _read(tmp_path, text)["run"].tolist() == cells
        broken = _read(tmp_path, 'params,loss\n1e6,3\n2e6,"=2+1"\n')
        with pytest.raises(InvalidInput, match=r"expected numbers, got text: row 2 \('=2\+1'\)"):
            broken.numbers("loss")
        assert not marker.exists()

    def test_a_huge_field_is_cut(self, tmp_path: Path) -> None:
        import csv

        before = csv.field_size_limit()
        runs = _read(tmp_path, f'loss,notes\n3.0,"{"x" * 1_000_000}"\n2.0,y\n')
        assert len(runs["notes"][0]) == 200
        assert runs["notes"][0].endswith("…")
        assert csv.field_size_limit() == before

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "is empty"),
            ("\n \n", "is empty"),
            ("params,loss\n", r"has a header \(params, loss\) but no rows"),
            ("params,loss\n1e6,3\n2e6\n", r"row 2 \(line 3\) has 1 cells, the header 2. .* unclosed quote"),
            ("params,loss\n1e6,3,4\n", r"row 1 \(line 2\) has 3 cells, the header 2. .* unquoted separator"),
            ('params,loss\n1e6,3\n2e6,"3\n3e6,2\n', "line 4: unexpected end of data. Is there a stray quote"),
            ("loss,params,loss\n1,2,3\n", r"two columns are called 'loss' \(numbers 1 and 3\)"),
            ("1e6,3\n2e6,2\n", "first line holds numbers only"),
            (b"params,loss\n1e6,\x00\n", "NUL bytes"),
            (b"PK\x03\x04xxxx", "an Excel workbook"),
            (b"\x1f\x8bxxxx", "compressed by gzip"),
            (b"\x01\x02\x03\x04", "control characters"),
            ("params,loss\n1e6,3\n".encode("utf-16-le"), "UTF-16 without a mark"),
            ("params," + "x" * 2000 + "\n1,2\n", "has 2000 characters"),
        ],
    )
    def test_refusals(self, tmp_path: Path, text: str | bytes, words: str) -> None:
        with pytest.raises(InvalidInput, match=words):
            _read(tmp_path, text)

    def test_a_separator_at_the_end_of_lines_and_a_nameless_index(self, tmp_path: Path) -> None:
        assert len(_read(tmp_path, "params,loss\n1e6,3,\n2e6,2,\n")) == 2
        runs = _read(tmp_path, ",params,loss\n0,1e6,3\n1,2e6,2\n")
        assert runs.names[0] == "column_1"

    def test_text_that_comes_after_many_numbers(self, tmp_path: Path) -> None:
        rows = "".join(f"{k},a\n" for k in range(70_000))
        runs = _read(tmp_path, f"x,name\n{rows}oops,a\n")
        assert runs["x"][12] == "12"
        with pytest.raises(InvalidInput, match=r"row 70001 \('oops'\)"):
            runs.numbers("x")

    @pytest.mark.long
    def test_many_rows_in_bounded_memory(self, tmp_path: Path) -> None:
        """Text of a block of rows at a time, then eight bytes a number: 200,000 rows need far less than their text as objects (150 MB)."""
        rng = np.random.default_rng(0)
        table = rng.lognormal(size=(200_000, 4))
        np.savetxt(tmp_path / "big.csv", table, delimiter=",", header="a,b,e,f", comments="", fmt="%.10g")
        tracemalloc.start()
        runs = read_runs(tmp_path / "big.csv")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert np.allclose(runs.numbers("a", "b", "e", "f"), table, rtol=1e-9, atol=0)  # as printed with ten digits
        assert peak < 80e6


class TestPlaces:
    def test_no_such_file(self, tmp_path: Path) -> None:
        _file(tmp_path, GOOD)
        with pytest.raises(InvalidInput, match=r"did you mean 'runs\.csv'"):
            read_runs(tmp_path / "run.csv")
        with pytest.raises(InvalidInput, match="no file or folder"):
            read_runs(tmp_path / "nowhere" / "run.csv")
        with pytest.raises(InvalidInput, match="NUL"):
            read_runs("a\x00b")
        with pytest.raises(InvalidInput, match="cannot be read"):
            read_runs("a" * 5000)

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match="no runs of MLflow or TensorBoard and no table"):
            read_runs(tmp_path)
        _file(tmp_path, b"x", "wandb/run-1/run-1.wandb")
        with pytest.raises(InvalidInput, match="export the runs on its page as CSV"):
            read_runs(tmp_path)

    def test_a_folder_of_tables(self, tmp_path: Path) -> None:
        _file(tmp_path, "_step,loss\n10,3.0\n20,2.0\n", "a.csv")
        _file(tmp_path, '{"_step": 10, "loss": 2.5, "lr": 0.1}\n{"_step": 20, "loss": 1.5}\n', "b.jsonl")
        runs = read_runs(tmp_path)
        assert runs["run"].tolist() == ["a", "a", "b", "b"]
        assert runs["steps"].tolist() == [10, 20, 10, 20]
        assert runs.last()["loss"].tolist() == [2.0, 1.5]
        assert np.isnan(runs["lr"]).tolist() == [True, True, False, True]

    def test_a_folder_of_tables_that_name_their_runs(self, tmp_path: Path) -> None:
        _file(tmp_path, "run_name,loss\nx,3.0\ny,2.0\n", "a.csv")
        _file(tmp_path, "loss\n1.0\n", "b.csv")
        assert read_runs(tmp_path)["run"].tolist() == ["x", "y", "b"]


class TestNames:
    @pytest.mark.parametrize(
        ("header", "named"),
        [
            ("N,D,L", "params tokens loss"),
            ("n_params,n_tokens,final_loss", "params tokens loss"),
            ("num_params,Tokens,VAL_LOSS", "params tokens loss"),
            ("model_size,train tokens,Train/Loss", "params tokens loss"),
            ("C,params,loss", "flops params loss"),
            ("compute,N,Loss", "flops params loss"),
            ("config.n_layers,summary.loss,config.learning_rate", "depth loss lr"),
            ("d_model,n_heads,global_step", "width heads steps"),
            ("run_name,epoch,unique_tokens", "run epochs tokens_per_epoch"),
            ("w_bits,act_bits,bits_kv", "weight_bits activation_bits kv_bits"),
        ],
    )
    def test_aliases(self, header: str, named: str) -> None:
        found, notes = name_columns(tuple(header.split(",")))
        assert [n.name for n in found] == named.split()
        assert len(notes) == sum(n.name != n.file for n in found)

    def test_ambiguous_names_are_left_alone(self) -> None:
        found, notes = name_columns(("N", "num_params", "tokens", "train_loss", "val_loss"))
        assert [n.name for n in found] == ["N", "num_params", "tokens", "train_loss", "val_loss"]
        assert "N, num_params could each be params; none is taken" in "".join(notes)
        assert "Say which one: loss=train_loss" in notes[-1]

    def test_a_canonical_name_wins_over_aliases(self) -> None:
        found, _ = name_columns(("params", "N", "loss", "train_loss"))
        assert [n.name for n in found] == ["params", "N", "loss", "train_loss"]

    def test_a_lone_letter_means_nothing(self) -> None:
        assert [n.name for n in name_columns(("N", "accuracy"))[0]] == ["N", "accuracy"]

    def test_a_lone_small_letter_may_be_anything(self) -> None:
        assert [n.name for n in name_columns(("params", "d", "loss"))[0]] == ["params", "d", "loss"]
        assert [n.name for n in name_columns(("n", "d", "loss"))[0]] == ["params", "tokens", "loss"]

    def test_words_are_no_amount(self, tmp_path: Path) -> None:
        assert "params" not in _read(tmp_path, "param_count,loss\nkaplan,3\nstandard,2\n")

    def test_told_columns(self, tmp_path: Path) -> None:
        runs = _read(
            tmp_path,
            "a,b,val_loss,train_loss\n1e6,2,3,4\n",
            columns={"params": "a", "tokens": "b*1e9"},
            loss="val_loss",
        )
        assert (runs["params"][0], runs["tokens"][0], runs["loss"][0]) == (1e6, 2e9, 3.0)
        assert runs["train_loss"][0] == 4.0
        assert runs.stated == ("tokens",)
        assert "tokens is b, times 1e+09, as told" in runs.notes
        assert runs.where("a=1e6")["loss"][0] == 3.0

    def test_a_told_column_moves_the_one_of_that_name(self, tmp_path: Path) -> None:
        runs = _read(tmp_path, "loss,val_loss\n1,2\n", loss="val_loss")
        assert (runs["loss"][0], runs["loss_in_file"][0]) == (2.0, 1.0)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"columns": {"params": "Q"}}, "the file has no column 'Q'"),
            ({"columns": {"params": "parms"}}, r"no column 'parms'; did you mean 'params'\?; it has params"),
            ({"columns": {"parms": "params"}}, "no name of a column here; did you mean 'params'"),
            ({"columns": {"params": "params*x"}}, "expected a column, or column"),
            ({"columns": {"params": "params*-1"}}, "expected a column, or column"),
            ({"loss": "lossy"}, "did you mean 'loss'"),
            ({"loss": "loss", "columns": {"loss": "tokens"}}, "contradict each other"),
            ({"where": ["model=x"]}, "no column 'model'"),
        ],
    )
    def test_refusals(self, tmp_path: Path, options: dict, words: str) -> None:
        with pytest.raises(InvalidInput, match=words):
            _read(tmp_path, GOOD, **options)

    def test_every_alias_leads_to_a_known_name(self) -> None:
        from foretrain.laws._columns import _ALIASES, simplified

        assert set(_ALIASES) <= set(MEANINGS)
        everything = [alias for aliases in _ALIASES.values() for alias in aliases]
        assert len(everything) == len(set(everything))
        assert all(simplified(alias) == alias for alias in everything)
        assert not set(everything) & set(MEANINGS)


class TestUnits:
    @pytest.mark.parametrize(
        ("text", "number"),
        [
            ("70M", 7e7),
            ("1.4B", 1.4e9),
            ("300G", 3e11),
            ("2 T", 2e12),
            ("5k", 5e3),
            ("1_000", 1e3),
            ("1e3", 1e3),
            ("-2", -2.0),
            (".5M", 5e5),
        ],
    )
    def test_suffixes(self, text: str, number: float) -> None:
        assert parse_number(text) == pytest.approx(number, rel=1e-15)  # one multiplication

    @pytest.mark.parametrize("text", ["=1+1", "1e3M3", "M", "1,5", "0x10", "seven", "1 2", "1MM", "9" * 70, "70MB "])
    def test_what_is_no_number(self, text: str) -> None:
        assert parse_number(text) is None

    def test_suffixes_thousands_and_decimal_commas(self, tmp_path: Path) -> None:
        runs = _read(tmp_path, 'params,tokens,loss\n70M,"1,400,000,000",3.5\n1.4B,"30,000,000,000",2.5\n')
        assert runs["params"].tolist() == [7e7, 1.4e9]
        assert runs["tokens"].tolist() == [1.4e9, 3e10]
        assert "params: suffixes read: 1.4B is 1400000000" in runs.notes
        runs = _read(tmp_path, "params;tokens;loss\n7e7;1,4e9;3,5\n1,4e9;3e10;2,25\n")
        assert runs["loss"].tolist() == [3.5, 2.25]

    @pytest.mark.parametrize(
        ("header", "factor"),
        [
            ("params (M)", 1e6),
            ("params [B]", 1e9),
            ("params_millions", 1e6),
            ("params in billions", 1e9),
            ("N (millions)", 1e6),
            ("params_M", 1e6),
        ],
    )
    def test_units_in_the_header(self, tmp_path: Path, header: str, factor: float) -> None:
        runs = _read(tmp_path, f"{header},tokens,loss\n70,1e9,3\n160,4e9,2.5\n")
        assert np.allclose(runs["params"], [70 * factor, 160 * factor], rtol=1e-15, atol=0)
        assert runs.stated == ("params",)

    def test_other_units_in_the_header(self, tmp_path: Path) -> None:
        runs = _read(tmp_path, "params,compute (PF-days),loss (bits)\n1e7,2,4\n2e7,3,3\n")
        assert np.allclose(runs["flops"], [2 * 8.64e19, 3 * 8.64e19], rtol=1e-15, atol=0)
        assert np.allclose(runs["loss"], np.log(2) * np.array([4, 3]), rtol=1e-15, atol=0)
        runs = _read(tmp_path, f"params,tokens,perplexity\n1e7,1e9,{np.exp(3.5)}\n")
        assert runs["loss"][0] == pytest.approx(3.5, rel=1e-12)  # printed with 17 digits, one logarithm
        assert any("logarithm of perplexity" in n for n in runs.notes)

    def test_mixed_units_are_refused_with_rows(self, tmp_path: Path) -> None:
        text = "params,tokens,flops,loss\n70e6,1e9,4.2e17,3.5\n160,4e9,3.84e18,3.1\n410e6,8e9,1.968e19,2.9\n"
        with pytest.raises(InvalidInput, match=r"runs.csv: column 'params': row 2 is in another unit .* 1e6 there"):
            _read(tmp_path, text)
        assert len(_read(tmp_path, text, where=["params>1e6"])) == 2

    def test_everything_in_billions(self, tmp_path: Path) -> None:
        warnings = _read(tmp_path, "params,tokens,loss\n0.07,1.4,3.5\n0.16,3,3.1\n0.41,9,2.9\n1,20,2.8\n").warnings()
        assert "is it in billions" in warnings[0]
        assert "columns params=params*1e9" in warnings[0]
        assert "columns tokens=tokens*1e9" in warnings[1]
        assert len(warnings) == 2

    def test_a_whole_column_in_millions_warns_until_it_is_stated(self, tmp_path: Path) -> None:
        text = "params,tokens,loss\n70,1e9,3.5\n160,4e9,3.1\n410,9e9,2.9\n"
        assert "columns params=params*1e6" in _read(tmp_path, text).warnings()[0]
        assert _read(tmp_path, text, columns={"params": "params*1e6"}).warnings() == ()
        assert _read(tmp_path, text, columns={"params": "params*1"}).warnings() == ()


class TestDerived:
    @pytest.mark.parametrize(
        ("text", "name", "value"),
        [
            ("params,tokens\n10,20\n", "flops", 1200.0),
            ("params,flops\n10,1200\n", "tokens", 20.0),
            ("tokens,flops\n20,1200\n", "params", 10.0),
            ("steps,batch_tokens\n10,512\n", "tokens", 5120.0),
            ("steps,batch_seqs,seq_len\n10,4,512\n", "tokens", 20480.0),
            ("tokens_per_epoch,epochs\n100,4\n", "tokens", 400.0),
            ("tokens,epochs\n400,4\n", "tokens_per_epoch", 100.0),
            ("tokens,epochs\n400,0.5\n", "tokens_per_epoch", 400.0),
            ("tokens,tokens_per_epoch\n400,100\n", "epochs", 4.0),
        ],
    )
    def test_what_follows(self, tmp_path: Path, text: str, name: str, value: float) -> None:
        runs = _read(tmp_path, text)
        assert runs[name][0] == pytest.approx(value, rel=1e-15)  # two products
        assert any(n.startswith(f"{name} derived") for n in runs.notes)

    def test_a_batch_without_a_unit_gives_no_tokens(self, tmp_path: Path) -> None:
        assert "tokens" not in _read(tmp_path, "steps,batch_size,loss\n10,512,3\n")

    def test_what_is_there_is_not_replaced(self, tmp_path: Path) -> None:
        assert _read(tmp_path, "params,tokens,flops\n10,20,1000\n")["flops"][0] == 1000.0


class TestJson:
    rows = ({"params": 1e7, "loss": 3.5, "data": "c4"}, {"params": 2e7, "loss": None, "data": "web"})

    @pytest.mark.parametrize("name", ["a.json", "a.txt"])
    def test_a_list_of_objects(self, tmp_path: Path, name: str) -> None:
        for document in (
            list(self.rows),
            {"runs": list(self.rows)},
            {k: [r[k] for r in self.rows] for k in self.rows[0]},
        ):
            runs = _read(tmp_path, json.dumps(document, indent=1), name)
            assert runs["params"].tolist() == [1e7, 2e7]
            assert np.isnan(runs["loss"][1])
            assert runs["data"].tolist() == ["c4", "web"]

    def test_what_pandas_writes(self, tmp_path: Path) -> None:
        document = {k: {str(i): r[k] for i, r in enumerate(self.rows)} for k in self.rows[0]}
        assert _read(tmp_path, json.dumps(document), "a.json")["data"].tolist() == ["c4", "web"]

    @pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "a.log"])
    def test_lines(self, tmp_path: Path, name: str) -> None:
        runs = _read(tmp_path, "\n".join(map(json.dumps, self.rows)) + "\n\n", name)
        assert runs["params"].tolist() == [1e7, 2e7]

    def test_nested_objects_and_settings_of_wandb(self, tmp_path: Path) -> None:
        row = {
            "config": {"lr": {"value": 0.1, "desc": None}, "n_layers": 4, "tags": [1, 2]},
            "summary": {"loss": 2.0},
            "ok": True,
        }
        runs = _read(tmp_path, json.dumps(row), "a.jsonl")
        assert (runs["lr"][0], runs["depth"][0], runs["loss"][0], runs["ok"][0]) == (0.1, 4.0, 2.0, "true")
        assert runs["config.tags"][0] == "[1, 2]"

    def test_keys_that_some_rows_lack(self, tmp_path: Path) -> None:
        runs = _read(tmp_path, '{"a": 1}\n{"b": "x"}\n{"a": 3, "b": "y"}\n', "a.jsonl")
        assert runs["a"][[0, 2]].tolist() == [1.0, 3.0]
        assert runs["b"].tolist() == ["", "x", "y"]

    @pytest.mark.parametrize(
        ("text", "name", "words"),
        [
            ('{"a": 1}\n{"a": \n', "a.jsonl", "line 2: not JSON"),
            ('{"a": 1}\n[3]\n', "a.jsonl", "row 2: expected an object"),
            ("[" * 100_000, "a.json", "nested too deeply"),
            ("[]", "a.json", "no rows"),
            ("[{}]", "a.json", "no rows"),
            ("3", "a.json", "expected a list of objects"),
            ('{"a": [1, 2], "b": [1]}', "a.json", "different lengths: a: 2, b: 1"),
            ('{"a": []}', "a.json", "empty"),
            ('[{"a": 1}, 2]', "a.json", "row 2: expected an object"),
        ],
    )
    def test_refusals(self, tmp_path: Path, text: str, name: str, words: str) -> None:
        with pytest.raises(InvalidInput, match=words):
            _read(tmp_path, text, name)

    def test_long_integers(self, tmp_path: Path) -> None:
        assert np.isinf(_read(tmp_path, f'[{{"a": 1{"0" * 400}}}]', "a.json")["a"][0])
        assert _read(tmp_path, f'[{{"a": 1{"0" * 400}}}, {{"a": "x"}}]', "a.json")["a"].tolist() == ["inf", "x"]
        with pytest.raises(InvalidInput, match="not JSON"):
            _read(tmp_path, f'[{{"a": 1{"0" * 5000}}}]', "a.json")


class TestParquet:
    def test_a_table(self, tmp_path: Path) -> None:
        pa = pytest.importorskip("pyarrow", reason="needs the extra: pip install 'foretrain[tables]'")
        import pyarrow.parquet

        table = pa.table(
            {
                "N": pa.array([70_000_000, None], pa.int64()),
                "tokens": pa.array([1e9, 2e9], pa.float32()),
                "loss": [3.5, 3.0],
                "data": pa.array(["c4", None]).dictionary_encode(),
                "flag": [True, False],
            }
        )
        for name in ("a.parquet", "a.bin"):
            pyarrow.parquet.write_table(table, tmp_path / name)
            runs = read_runs(tmp_path / name)
            assert runs["params"][0] == 7e7
            assert np.isnan(runs["params"][1])
            assert runs["data"].tolist() == ["c4", ""]
            assert runs["flag"].tolist() == ["true", "false"]
        pyarrow.parquet.write_table(table.slice(0, 0), tmp_path / "none.parquet")
        with pytest.raises(InvalidInput, match="has no rows"):
            read_runs(tmp_path / "none.parquet")
        with pytest.raises(InvalidInput, match="cannot be read as Parquet"):
            _read(tmp_path, b"PAR1 and nothing else", "b.parquet")

    def test_without_the_extra(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(MissingExtra, match=r"pip install 'foretrain\[tables\]'"):
            _read(tmp_path, b"PAR1xxxx", "b.parquet")


class TestCurves:
    def _curves(self) -> LearningCurves:
        variables = {
            "test_loss": (("width", "time"), np.array([[4.0, 3.0], [3.5, 2.0]])),
            "params": (("width",), np.array([1e3, 4e3])),
        }
        return LearningCurves(variables, {"width": np.array([8, 16]), "time": np.array([1.0, 2.0])}, {})

    def test_a_stored_result(self, tmp_path: Path) -> None:
        self._curves().save(tmp_path / "run.nc")
        runs = read_runs(tmp_path / "run.nc", where=["time=2"])
        assert runs["loss"].tolist() == [3.0, 2.0]
        assert runs["params"].tolist() == [1e3, 4e3]

    def test_a_comparison(self, tmp_path: Path) -> None:
        curves = self._curves()
        Comparison(curves, curves, curves).save(tmp_path / "run.nc")
        runs = read_runs(tmp_path / "run.nc")
        assert len(runs) == 4
        assert any("measured in training" in n for n in runs.notes)

    def test_damage(self, tmp_path: Path) -> None:
        self._curves().save(tmp_path / "run.nc")
        whole = (tmp_path / "run.nc").read_bytes()
        with pytest.raises(InvalidInput):
            _read(tmp_path, whole[: len(whole) // 2], "half.nc")
        with pytest.raises(InvalidInput):
            _read(tmp_path, b"no NetCDF", "other.nc")


class TestWandb:
    def test_an_exported_chart(self, tmp_path: Path) -> None:
        header = '"Step","n=1e6 - loss","n=1e6 - loss__MIN","n=1e6 - loss__MAX","n=4e6 - loss","n=4e6 - loss__MIN","n=4e6 - loss__MAX","n=1e6 - _step"'
        runs = _read(tmp_path, header + "\n10,3.0,3.0,3.0,2.5,2.5,2.5,10\n20,2.0,2.0,2.0,,,,20\n30,,,,1.5,1.5,1.5,\n")
        assert runs["run"].tolist() == ["n=1e6", "n=1e6", "n=4e6", "n=4e6"]
        assert runs["steps"].tolist() == [10, 20, 10, 30]
        assert runs["loss"].tolist() == [3.0, 2.0, 2.5, 1.5]
        assert runs["n"].tolist() == [1e6, 1e6, 4e6, 4e6]
        assert runs.rows is not None
        assert runs.rows.tolist() == [1, 2, 1, 3]
        assert any("4 columns of smallest and largest values left out" in n for n in runs.notes)
        assert any("a W&B chart of 2 runs" in n for n in runs.notes)

    def test_another_axis_and_two_metrics(self, tmp_path: Path) -> None:
        runs = _read(tmp_path, "tokens,a - b - loss,a - b - lr\n1e9,3.0,0.1\n2e9,2.0,0.2\n")
        assert runs["run"].tolist() == ["a - b", "a - b"]
        assert runs["tokens"].tolist() == [1e9, 2e9]
        assert runs["lr"].tolist() == [0.1, 0.2]

    def test_a_chart_without_values(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match="holds no value of any run"):
            _read(tmp_path, "Step,a - loss\n1,\n2,\n")

    def test_the_table_of_runs(self, tmp_path: Path) -> None:
        text = "Name,State,Notes,User,Tags,Runtime,Sweep,config.n_params,n_tokens,train_loss\nbrisk-1,finished,-,me,,10,,70M,1.4e9,3.5\nbrisk-2,crashed,-,me,,5,,160M,1e8,5.5\n"
        runs = _read(tmp_path, text, where=["State=finished"])
        assert runs["run"].tolist() == ["brisk-1"]
        assert (runs["params"][0], runs["tokens"][0], runs["loss"][0]) == (7e7, 1.4e9, 3.5)

    def test_a_history_in_lines(self, tmp_path: Path) -> None:
        lines = [{"_step": k, "_runtime": 1.5 * k, "_timestamp": 1.7e9 + k, "train/loss": 4.0 / k} for k in (1, 2, 4)]
        runs = _read(tmp_path, "\n".join(map(json.dumps, lines)), "history.jsonl")
        assert runs["steps"].tolist() == [1, 2, 4]
        assert runs["loss"].tolist() == [4.0, 2.0, 1.0]


class TestMlflow:
    def _store(self, root: Path) -> Path:
        store = root / "mlruns"
        _file(store, "name: Default\n", "0/meta.yaml")
        for run, params, losses, status, stage in (
            ("aaa", 1e6, (4.0, 3.0), 3, "active"),
            ("bbb", 4e6, (3.5, 2.5), 4, "active"),
            ("ccc", 9e6, (1.0, 1.0), 3, "deleted"),
        ):
            folder = f"0/{run}"
            _file(
                store,
                f"lifecycle_stage: {stage}\nrun_id: {run}\nrun_name: name-{run}\nstatus: {status}\n",
                f"{folder}/meta.yaml",
            )
            _file(store, str(params), f"{folder}/params/n_params")
            _file(store, "c4", f"{folder}/params/data")
            lines = "".join(f"170000000{k} {loss} {10 * (k + 1)}\n" for k, loss in enumerate(losses))
            _file(store, lines, f"{folder}/metrics/train/loss")
            _file(store, f"name-{run}", f"{folder}/tags/mlflow.runName")
        return store

    def test_one_row_for_each_run(self, tmp_path: Path) -> None:
        runs = read_runs(self._store(tmp_path))
        assert runs["run"].tolist() == ["name-aaa", "name-bbb"]
        assert runs["params"].tolist() == [1e6, 4e6]
        assert runs["loss"].tolist() == [3.0, 2.5]
        assert runs["steps"].tolist() == [20, 20]
        assert runs["data"].tolist() == ["c4", "c4"]
        assert any("deleted runs left out: 1" in n for n in runs.notes)
        assert any("runs that did not finish: 1 (name-bbb)" in n for n in runs.notes)
        assert runs.where("state=finished")["run"].tolist() == ["name-aaa"]

    def test_every_step(self, tmp_path: Path) -> None:
        runs = read_runs(self._store(tmp_path), history=True)
        assert runs["loss"].tolist() == [4.0, 3.0, 3.5, 2.5]
        assert runs["steps"].tolist() == [10, 20, 10, 20]

    def test_an_experiment_and_a_run(self, tmp_path: Path) -> None:
        store = self._store(tmp_path)
        assert len(read_runs(store / "0")) == 2
        assert len(read_runs(store / "0" / "aaa")) == 1

    def test_names_that_are_not_unique(self, tmp_path: Path) -> None:
        store = self._store(tmp_path)
        _file(store, "same", "0/aaa/tags/mlflow.runName")
        _file(store, "same", "0/bbb/tags/mlflow.runName")
        assert read_runs(store)["run"].tolist() == ["aaa", "bbb"]

    def test_a_damaged_metric(self, tmp_path: Path) -> None:
        store = self._store(tmp_path)
        _file(store, "1700 3.0 10\nhello\n", "0/aaa/metrics/train/loss")
        with pytest.raises(InvalidInput, match="line 2: expected time, value and step of a metric, got 'hello'"):
            read_runs(store)

    def test_no_metrics(self, tmp_path: Path) -> None:
        store = tmp_path / "mlruns"
        _file(store, "status: 3\n", "0/aaa/meta.yaml")
        _file(store, "1", "0/aaa/params/x")
        with pytest.raises(InvalidInput, match="holds no run with metrics"):
            read_runs(store)


# Written by torch.utils.tensorboard 2.13 with TensorBoard 2.21: train/loss 4.5, 3.75, 3.25 at steps 10, 20, 30, tokens 3e9 as a tensor, a text.
_GENUINE = base64.b64decode(
    "SAAAAAAAAAD+kkidCdXMAbZWwdpBGg1icmFpbi5FdmVudDoyUi4KLHRlbnNvcmJvYXJkLnN1bW1hcnkud3JpdGVyLmV2ZW50X2ZpbGVfd3JpdGVyXUHJkyAAAAAA"
    "AAAAKe2pUAm81AG2VsHaQRAKKhMKEQoKdHJhaW4vbG9zcxUAAJBAJGNCpCAAAAAAAAAAKe2pUAkj1QG2VsHaQRAUKhMKEQoKdHJhaW4vbG9zcxUAAHBAqh2OMyAA"
    "AAAAAAAAKe2pUAlL1QG2VsHaQRAeKhMKEQoKdHJhaW4vbG9zcxUAAFBANBwxWC4AAAAAAAAAxctX+gm41QG2VsHaQRAeKiEKHwoGdG9rZW5zQggIASoEXtAyT0oL"
    "CgkKB3NjYWxhcnPGQzCwPQAAAAAAAABgSfHsCSvWAbZWwdpBEB4qMAouChFub3RlL3RleHRfc3VtbWFyeUIPCAcSBBICCAFCBWhlbGxvSggKBgoEdGV4dLedSCc="
)
_EVENTS = "events.out.tfevents.1"


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


def _bytes_field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


def _scalar(tag: str, step: int, value: float) -> bytes:
    inner = _bytes_field(1, tag.encode()) + b"\x15" + struct.pack("<f", value)
    return _record(b"\x09" + struct.pack("<d", 0.0) + b"\x10" + bytes([step]) + _bytes_field(5, _bytes_field(1, inner)))


class TestTensorBoard:
    def test_a_genuine_file(self, tmp_path: Path) -> None:
        _file(tmp_path, _GENUINE, f"a/{_EVENTS}")
        runs = read_runs(tmp_path, history=True)
        assert runs["steps"].tolist() == [10, 20, 30]
        assert runs["loss"].tolist() == [4.5, 3.75, 3.25]
        assert runs["tokens"][2] == 3e9
        (last,) = read_runs(tmp_path)["loss"]
        assert last == 3.25
        assert read_runs(tmp_path / "a" / _EVENTS)["loss"].tolist() == [3.25]

    def test_runs_in_folders_with_settings_in_their_names(self, tmp_path: Path) -> None:
        for params, loss in ((1e6, 4.0), (4e6, 3.0)):
            _file(tmp_path, _scalar("loss", 1, 9.0) + _scalar("loss", 7, loss), f"params={params:g},lr=0.1/{_EVENTS}")
        runs = read_runs(tmp_path)
        assert runs["params"].tolist() == [1e6, 4e6]
        assert runs["lr"].tolist() == [0.1, 0.1]
        assert runs["loss"].tolist() == [4.0, 3.0]
        assert runs["steps"].tolist() == [7, 7]

    def test_a_run_in_two_files(self, tmp_path: Path) -> None:
        _file(tmp_path, _scalar("loss", 1, 4.0), f"r/{_EVENTS}")
        _file(tmp_path, _scalar("loss", 2, 3.0), "r/events.out.tfevents.2")
        assert read_runs(tmp_path, history=True)["loss"].tolist() == [4.0, 3.0]

    def test_a_file_that_is_being_written(self, tmp_path: Path) -> None:
        for cut in (3, 20):
            _file(tmp_path, _scalar("loss", 1, 4.0) + _scalar("loss", 2, 3.0)[:cut], f"r/{_EVENTS}")
            runs = read_runs(tmp_path)
            assert runs["loss"].tolist() == [4.0]
            assert any("the last record is cut off in r" in n for n in runs.notes)

    @pytest.mark.parametrize("position", [0, 9, 16, 40, 49])
    def test_damage_is_found_by_checksums(self, tmp_path: Path, position: int) -> None:
        whole = bytearray(_scalar("loss", 1, 4.0) + _scalar("loss", 2, 3.0))
        whole[position % len(whole)] ^= 1
        _file(tmp_path, bytes(whole), f"r/{_EVENTS}")
        with pytest.raises(InvalidInput, match="is damaged"):
            read_runs(tmp_path)

    def test_pictures_are_passed_over(self, tmp_path: Path) -> None:
        _file(tmp_path, _record(b"\x0a" * 10_000) + _scalar("loss", 2, 3.0), f"r/{_EVENTS}")
        assert read_runs(tmp_path)["loss"].tolist() == [3.0]

    def test_no_scalars(self, tmp_path: Path) -> None:
        _file(tmp_path, _record(b""), f"r/{_EVENTS}")
        with pytest.raises(InvalidInput, match="without a scalar"):
            read_runs(tmp_path)


class TestRealTables:
    SIZES: ClassVar = {
        "chinchilla_epoch_245": 245,
        "porian_isoflop_points": 1164,
        "porian_isoflop_optima": 118,
        "gemstones_checkpoints": 1588,
        "overtrain_gadre_104": 104,
        "datablations_contours": 229,
        "steplaw_dense_lr_bs": 1911,
        "revisiting_lang": 712,
    }

    @pytest.mark.parametrize("name", SIZES)
    def test_every_table(self, scaling_data: Path, name: str) -> None:
        """All rows, every number as NumPy reads it, and no false alarm about units."""
        path = scaling_data / f"{name}.csv"
        runs = read_runs(path)
        assert len(runs) == self.SIZES[name]
        assert name in runs.describe()
        assert not any("unit" in w or "flops" in w for w in runs.warnings())
        header = path.read_text().splitlines()[0].split(",")
        if "revisiting" not in name:  # its names hold commas
            for k, column in enumerate(header):
                if runs.is_number(column):
                    theirs = np.genfromtxt(path, delimiter=",", skip_header=1, usecols=[k])
                    assert np.array_equal(theirs, runs[column], equal_nan=True)

    def test_the_published_240_points(self, scaling_data: Path) -> None:
        runs = read_runs(scaling_data / "chinchilla_epoch_245.csv").drop_largest_loss(5)
        assert len(runs) == 240
        ratio = runs["flops"] / (6 * runs["params"] * runs["tokens"])
        assert np.abs(ratio - 1).max() < 1e-9  # printed with twelve digits

    def test_the_loss_of_a_table_with_several(self, scaling_data: Path) -> None:
        path = scaling_data / "overtrain_gadre_104.csv"
        assert any("no column is the loss" in n for n in read_runs(path).notes)
        with pytest.raises(InvalidInput, match="Say which one is the loss"):
            read_runs(path).numbers("loss")
        runs = read_runs(path, loss="loss_c4", where=["dataset=c4_original", "tokens_per_20N=1"])
        assert len(runs) == 6
        assert runs["loss"].max() < 7

    def test_designs_of_real_tables_are_no_false_alarm(self, scaling_data: Path) -> None:
        from foretrain.laws import design_refusals

        for name, where in (
            ("chinchilla_epoch_245", ()),
            ("porian_isoflop_points", ("hparams=tuned",)),
            ("datablations_contours", ()),
        ):
            table = read_runs(scaling_data / f"{name}.csv", where=where).numbers("params", "tokens")
            assert design_refusals(table, ("params", "tokens"), 5) == []


def _random_bytes(rng: np.random.Generator) -> bytes:
    return rng.bytes(int(rng.integers(0, 400)))


def _random_text(rng: np.random.Generator) -> bytes:
    alphabet = list("0123456789eE+-.,;\t|\"'= \n\r#{}[]:NDCaé\x00\ufeff∞")
    return "".join(rng.choice(alphabet, size=int(rng.integers(0, 300)))).encode("utf-8")


def _random_table(rng: np.random.Generator) -> bytes:
    names = [
        "params",
        "tokens",
        "flops",
        "loss",
        "N",
        "D",
        "run",
        "a - loss",
        "Step",
        "loss (bits)",
        "params (M)",
        "ppl",
        "",
        "lr",
        "é",
    ]
    cells = [
        "1e7",
        "70M",
        "-1",
        "0",
        "nan",
        "",
        "inf",
        "=cmd()",
        '"a,b"',
        "x" * 300,
        "1e400",
        "3.5",
        "7",
        "1,5",
        "２",
        "true",
        "-",
        "4e-320",
    ]
    mark = str(rng.choice([",", ";", "\t"]))
    rows = [mark.join(rng.choice(names, size=int(k), replace=bool(rng.random() < 0.2))) for k in [rng.integers(1, 6)]]
    width = rows[0].count(mark) + 1
    for _ in range(int(rng.integers(0, 12))):
        extra = int(rng.random() < 0.03)
        rows.append(mark.join(rng.choice(cells, size=width + extra)))
    return "\n".join(rows).encode(str(rng.choice(["utf-8", "utf-16", "utf-8-sig"])))


def _random_json(rng: np.random.Generator) -> bytes:
    def value(depth: int) -> object:
        kind = int(rng.integers(0, 9 if depth < 3 else 6))
        if kind == 6:
            return [value(depth + 1) for _ in range(int(rng.integers(0, 4)))]
        if kind >= 7:
            return {
                str(rng.choice(["params", "loss", "N", "value", "a"])): value(depth + 1)
                for _ in range(int(rng.integers(0, 4)))
            }
        return [None, True, float(rng.normal()), 10**400, "70M", float("nan")][kind]

    document = value(0)
    return ("\n".join(json.dumps(value(1)) for _ in range(4)) if rng.random() < 0.4 else json.dumps(document)).encode()


def _damaged_events(rng: np.random.Generator) -> bytes:
    data = bytearray(_GENUINE)
    for _ in range(int(rng.integers(0, 3))):
        data[int(rng.integers(0, len(data)))] = int(rng.integers(0, 256))
    return bytes(data[: int(rng.integers(0, len(data)))])


def _events_with_right_checksums(rng: np.random.Generator) -> bytes:
    return b"".join(_record(rng.bytes(int(rng.integers(0, 40)))) for _ in range(3))


def _damaged_netcdf(rng: np.random.Generator) -> bytes:
    return b"\x89HDF\r\n\x1a\n" + rng.bytes(300)


_MAKERS: dict[str, tuple[Callable[[np.random.Generator], bytes], tuple[str, ...], int]] = {
    "bytes": (_random_bytes, ("a.csv", "a.tsv", "a.json", "a.jsonl", "a", "a.parquet", "a.nc", "x.tfevents.1"), 400),
    "text": (_random_text, ("a.csv", "a.txt", "a.json", "a.jsonl"), 1500),
    "table": (_random_table, ("a.csv", "a.txt", "a.tsv"), 1500),
    "json": (_random_json, ("a.json", "a.jsonl", "a"), 800),
    "events": (_damaged_events, ("x.tfevents.1",), 300),
    "events with right checksums": (_events_with_right_checksums, ("x.tfevents.1",), 300),
    "netcdf": (_damaged_netcdf, ("a.nc", "a"), 40),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the HDF5 reader, when it gives up on a damaged file
@pytest.mark.parametrize("kind", _MAKERS)
def test_whatever_a_file_holds(tmp_path: Path, kind: str) -> None:
    """A table or an error that was raised on purpose, never another exception; of a table, all views work."""
    make, names, times = _MAKERS[kind]
    read = 0
    for seed in range(times):
        rng = np.random.default_rng(seed)
        path = tmp_path / names[seed % len(names)]
        path.write_bytes(make(rng))
        try:
            runs = read_runs(path)
        except ForetrainError:
            continue
        except Exception as error:
            raise AssertionError(f"{kind}, seed {seed}: {type(error).__name__}: {error}") from error
        read += 1
        assert len(runs) >= 1, f"{kind}, seed {seed}"
        runs.describe()
        with contextlib.suppress(InvalidInput):
            runs.drop_largest_loss(0).numbers("params", "tokens", "loss")
    if kind in ("table", "json"):
        assert read > times // 20, f"{kind}: only {read} of {times} random files were tables, so little was tested"
