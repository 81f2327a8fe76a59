"""What people and mail programs hand to `foretrain fit` by mistake, and what somebody might by intent: one line each, nothing run."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from made_runs import chinchilla_runs

FORMULA = "=cmd|' /C calc'!A0"
CHEAP = ("--starts", "8", "--bootstrap", "0")


def text(columns: dict, mark: str = ",") -> str:
    rows = zip(*columns.values(), strict=True)
    return "\n".join(mark.join(map(str, row)) for row in [tuple(columns), *rows]) + "\n"


def zipped() -> bytes:
    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return kept.getvalue()


class Harm:
    """Unpickling it leaves a file behind."""

    def __reduce__(self):
        return os.mkdir, ("harmed",)


PLAIN = text(chinchilla_runs()).encode()
FILES = {
    "gzip": (gzip.compress(PLAIN), "compressed by gzip; unpack it first"),
    "bzip2": (bz2.compress(PLAIN), "compressed by bzip2; unpack it first"),
    "xz": (lzma.compress(PLAIN), "compressed by xz; unpack it first"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(range(64)), "compressed by zstd; unpack it first"),
    "zip or xlsx": (zipped(), "an Excel workbook or a zip archive; export the sheet as CSV"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(200), "an old Excel workbook"),
    "pdf": (b"%PDF-1.4\n%\xe2\xe3", "a PDF document"),
    "numpy": (b"\x93NUMPY\x01\x00v\x00" + bytes(50), "an array of NumPy"),
    "sqlite": (b"SQLite format 3\x00" + bytes(100), "a database"),
    "pickle": (pickle.dumps(Harm()), "holds NUL bytes: not a text file"),
    "noise": (np.random.default_rng(0).bytes(2000), "holds NUL bytes: not a text file"),
    "nothing": (b"", "is empty"),
    "blank lines": (b"\n\n\n", "is empty"),
    "a header": (b"params,tokens,loss\n", "has a header (params, tokens, loss) but no rows"),
    "a web page": (b"<html><body>Sign in</body></html>", "but no rows"),
    "UTF-16 without a mark": (text(chinchilla_runs()).encode("utf-16-le"), "UTF-16 without a mark. Save it as UTF-8"),
    "an open quote": (b'params,tokens,loss\n1e7,"1e9,3.2\n2e7,2e9,3.1\n', "Is there a stray quote?"),
    "a short row": (PLAIN.replace(b"\n", b",7\n", 2), "cells, the header"),
    "two headers": (PLAIN + PLAIN, "expected numbers, got text: row 26 ('params')"),
    "a column twice": (PLAIN.replace(b"tokens", b"loss"), "two columns are called 'loss'"),
}


@pytest.fixture
def refused(run, own_folder):
    """Writes a file, fits it, and gives the one line of the refusal."""

    def refused_(content, *options, name="runs.csv"):
        (own_folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        code, out, err = run("fit", name, *CHEAP, *options)
        lines = [line for line in err.splitlines() if not line.startswith(("note: ", "warning: "))]
        assert (code, out) == (2, ""), err
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
        return lines[0]

    return refused_


@pytest.fixture
def fitted(run, own_folder):
    """Writes a table, fits it, and gives what was printed; nothing but notes and warnings is on standard error."""

    def fitted_(content, *options):
        (own_folder / "runs.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
        code, out, err = run("fit", "runs.csv", *CHEAP, *options)
        assert code == 0, err
        assert all(line.startswith(("note: ", "warning: ")) for line in err.splitlines()), err
        return out, err

    return fitted_


class TestFiles:
    @pytest.mark.parametrize("what", FILES)
    def test_no_table(self, refused, own_folder, what):
        content, words = FILES[what]
        assert words in refused(content)
        assert not (own_folder / "harmed").exists()

    @pytest.mark.parametrize("name", ["runs.csv.gz", "runs.xlsx", "runs.zip", "runs.pkl", "runs", "runs.tsv"])
    def test_the_name_does_not_matter(self, refused, name):
        assert "compressed by gzip" in refused(gzip.compress(PLAIN), name=name)

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
    def test_other_encodings_are_read(self, fitted, encoding):
        plain, _ = fitted(PLAIN)
        columns = {**chinchilla_runs(), "modèle": ["é"] * 25}
        assert fitted(text(columns).encode(encoding))[0] == plain

    def test_decimal_commas_are_read(self, fitted):
        plain, _ = fitted(PLAIN)
        columns = {n: [repr(float(v)).replace(".", ",") for v in values] for n, values in chinchilla_runs().items()}
        out, err = fitted(text(columns, ";"))
        assert out == plain
        assert "decimal commas read" in err


class TestCells:
    def changed(self, column, row, value):
        columns = {n: list(v) for n, v in chinchilla_runs().items()}
        columns[column][row] = value
        return text(columns)

    def test_a_formula_is_no_loss(self, refused):
        assert f'row 4 ("{FORMULA}")' in refused(self.changed("loss", 3, FORMULA))

    def test_a_formula_for_a_name_is_a_name(self, fitted, own_folder):
        plain, _ = fitted(PLAIN)
        assert fitted(text({**chinchilla_runs(), FORMULA: [FORMULA] * 25}))[0] == plain

    def test_control_characters_do_not_reach_the_terminal(self, refused):
        message = refused(self.changed("loss", 3, "\x1b[31mred"))
        assert "\x1b" not in message

    def test_a_huge_number(self, refused):
        assert "got infinite values: row 4 (inf)" in refused(self.changed("loss", 3, "9" * 200_000))

    def test_a_huge_word(self, refused):
        message = refused(self.changed("loss", 3, "x" * 200_000))
        assert "row 4 ('xxx" in message
        assert len(message) < 1000

    @pytest.mark.parametrize(
        ("column", "value", "words"),
        [
            ("loss", -1.0, "zero or negative values: row 4 (-1)"),
            ("loss", 0.0, "zero or negative values: row 4 (0)"),
            ("loss", "nan", "missing values: row 4"),
            ("loss", "", "missing values: row 4"),
            ("tokens", "inf", "infinite values: row 4"),
            ("params", 0, "zero or negative values: row 4 (0)"),
            ("params", "seven", "got text: row 4 ('seven')"),
        ],
    )
    def test_rows_are_named(self, refused, column, value, words):
        message = refused(self.changed(column, 3, value))
        assert f"column {column!r}" in message
        assert words in message


class TestDesigns:
    def test_a_name_misspelt(self, refused):
        message = refused(PLAIN.replace(b"params", b"parms"))
        assert "no column 'params'" in message
        assert "did you mean 'parms'?" in message

    def test_no_loss(self, refused):
        assert "loss is the loss in nats per token; say which column it is" in refused(
            PLAIN.replace(b"loss", b"quality")
        )

    @pytest.mark.parametrize("rows", [slice(0, 5), slice(20, 25), slice(10, 12)])
    def test_millions_in_some_rows(self, refused, rows):
        """The smallest, the largest and some in the middle; with no column of FLOP to compare with."""
        runs = chinchilla_runs()
        runs["params"][rows] /= 1e6
        message = refused(text(runs))
        assert "column 'params'" in message
        assert "in another unit than the others" in message
        assert f"row{'s' if rows.stop - rows.start > 1 else ''} {rows.start + 1}" in message

    def test_one_size(self, refused):
        assert "params has one value, 1e+08, in all rows" in refused(
            text(chinchilla_runs() | {"params": np.full(25, 1e8)})
        )

    def test_one_number_of_tokens(self, refused):
        assert "tokens has one value" in refused(text(chinchilla_runs() | {"tokens": np.full(25, 1e10)}))

    def test_twenty_tokens_per_parameter(self, refused):
        params = np.geomspace(1e7, 1e9, 25)
        table = {
            "params": params,
            "tokens": 20 * params,
            "loss": 1.8 + 400 / params**0.34 + 2000 / (20 * params) ** 0.36,
        }
        assert "tokens is 20 times params in every row, so their effects cannot be told apart" in refused(text(table))

    def test_nearly_twenty_warns(self, fitted):
        params = np.geomspace(1e7, 1e9, 25)
        tokens = 20 * params * np.exp(0.03 * np.random.default_rng(0).standard_normal(25))
        table = {"params": params, "tokens": tokens, "loss": 1.8 + 400 / params**0.34 + 2000 / tokens**0.36}
        assert "so their effects cannot be told apart" in fitted(text(table))[1]

    @pytest.mark.parametrize("rows", [1, 3, 5])
    def test_few_rows(self, refused, rows):
        picked = np.linspace(0, 24, rows).astype(int)
        message = refused(text({n: v[picked] for n, v in chinchilla_runs().items()}))
        assert f"{rows} different row" in message
        assert "at least 6 are needed" in message

    def test_rows_that_repeat(self, fitted):
        runs = {n: np.concatenate([v, v[:10]]) for n, v in chinchilla_runs().items()}
        assert "10 rows repeat an earlier row in every column (rows 26, 27" in fitted(text(runs))[1]

    def test_one_loss(self, refused):
        message = refused(text(chinchilla_runs() | {"loss": np.full(25, 2.0)}))
        assert "loss has one value, 2, in all rows: there is nothing to fit" in message

    @pytest.mark.parametrize("factor", [1e300, 1e-300])
    def test_absurd_losses_warn(self, fitted, factor):
        runs = chinchilla_runs()
        _, err = fitted(text(runs | {"loss": runs["loss"] * factor}))
        assert "ends at its" in err

    def test_losses_that_are_no_law(self, fitted):
        noise = np.random.default_rng(0).uniform(1, 9, 25)
        assert "ends at its" in fitted(text(chinchilla_runs() | {"loss": noise}))[1]
