"""Random damage to tables of runs, saved laws and arguments: never a traceback, one line for every refusal."""

import copy
import json
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foretrain.cli import main

sys.path.insert(0, str(Path(__file__).parent))
from made_runs import chinchilla_runs

SETTINGS = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
CHEAP = ("--starts", "3", "--bootstrap", "3", "--json")


def check(code, out, err):
    assert code in (0, 1, 2)
    assert "Traceback" not in err
    assert "this is a bug" not in err
    lines = err.splitlines()
    assert all(line.startswith(("error: ", "warning: ", "note: ")) for line in lines), err
    assert sum(line.startswith("error: ") for line in lines) == (code != 0)
    if code == 0:
        json.loads(out, parse_constant=lambda c: pytest.fail(f"{c} in JSON"))
    else:
        assert out == ""


cells = st.one_of(
    st.sampled_from(
        [
            "",
            "nan",
            "inf",
            "-1",
            "0",
            "1e400",
            "1e308",
            "1e-320",
            "7B",
            "3,5",
            "=1+1",
            "@SUM(A1)",
            '"',
            "a\nb",
            "\x1b[31m",
            "9" * 5000,
        ]
    ),
    st.floats().map(repr),
    st.text(max_size=6),
)


@st.composite
def tables(draw):
    columns = {name: [repr(float(v)) for v in values] for name, values in chinchilla_runs().items()}
    rows = draw(st.integers(0, 25))
    names = list(columns)
    grid = [[columns[n][i] for n in names] for i in range(rows)]
    for _ in range(draw(st.integers(0, 4))):
        what = draw(st.sampled_from(["cell", "name", "column", "row", "repeat", "drop"]))
        if what == "name":
            names[draw(st.integers(0, len(names) - 1))] = draw(
                st.one_of(st.text(max_size=6), st.sampled_from(["N", "D", "loss", "flops", "run"]))
            )
        elif what == "column":
            names.append(
                draw(st.sampled_from(["flops", "run", "epochs", "params", "params (M)", "loss (bits)", "width"]))
            )
            grid = [[*row, draw(cells)] for row in grid]
        elif grid:
            at = draw(st.integers(0, len(grid) - 1))
            if what == "cell" and grid[at]:
                grid[at][draw(st.integers(0, len(grid[at]) - 1))] = draw(cells)
            elif what == "row":
                grid[at] = grid[at][:-1]
            elif what == "repeat":
                grid += [list(grid[at])] * 3
            else:
                del grid[at]
    separator = draw(st.sampled_from([",", ",", ";", "\t"]))
    return "\n".join(separator.join(row) for row in [names, *grid]) + draw(st.sampled_from(["", "\n", "\r\n"]))


@settings(SETTINGS, max_examples=70)
@given(
    tables(),
    st.sampled_from([(), ("--x", "tokens"), ("--law", "kaplan"), ("--group", "run"), ("--drop-largest-loss", "2")]),
)
def test_damaged_tables(own_folder, capsys, text, options):
    (own_folder / "runs.csv").write_bytes(text.encode("utf-8", "surrogatepass"))
    capsys.readouterr()
    code = main(["fit", "runs.csv", *options, *CHEAP])
    check(code, *capsys.readouterr())


@settings(SETTINGS, max_examples=60)
@given(st.binary(max_size=300), st.sampled_from(["runs.csv", "runs.json", "runs.jsonl", "runs.parquet", "runs"]))
def test_any_bytes_for_a_table(own_folder, capsys, content, name):
    (own_folder / name).write_bytes(content)
    capsys.readouterr()
    code = main(["fit", name, *CHEAP])
    check(code, *capsys.readouterr())


@pytest.fixture(scope="module")
def law(tmp_path_factory):
    from foretrain.laws import fit

    path = tmp_path_factory.mktemp("law") / "law.json"
    fit(chinchilla_runs(), bootstrap=5).save(path)
    return json.loads(path.read_text())


values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=6),
        st.sampled_from([1e308, -1e308, 10**400, "inf"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


def places(table, prefix=()):
    items = table.items() if isinstance(table, dict) else enumerate(table) if isinstance(table, list) else ()
    for key, value in items:
        yield (*prefix, key)
        yield from places(value, (*prefix, key))


@settings(SETTINGS, max_examples=40)
@given(st.data(), st.sampled_from(["forecast", "plan"]))
def test_damaged_laws(own_folder, capsys, law, data, verb):
    table = copy.deepcopy(law)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(list(places(table))))
        parent = table
        for key in place[:-1]:
            parent = parent[key]
        if data.draw(st.booleans()):
            parent[place[-1]] = data.draw(values)
        else:
            del parent[place[-1]]
    (own_folder / "law.json").write_text(json.dumps(table))
    capsys.readouterr()
    at = ["--at", "params=1e9,tokens=1e11"] if verb == "forecast" else ["--compute", "1e21"]
    code = main([verb, "law.json", *at, "--json"])
    check(code, *capsys.readouterr())


WORDS = [
    "fit",
    "forecast",
    "plan",
    "laws",
    "runs.csv",
    "law.json",
    "precision-table2",
    "--json",
    "--at",
    "params=1,tokens=1",
    "--law",
]
WORDS += [
    "auto",
    "power",
    "--x",
    "tokens",
    "--where",
    "params>1",
    "--columns",
    "params=N",
    "--compute",
    "1e21",
    "--bits",
    "4",
    "-q",
    "--",
    "",
]


@settings(SETTINGS, max_examples=80)
@given(
    st.sampled_from(["fit", "forecast", "plan", "laws"]),
    st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=5)), max_size=5),
)
def test_any_arguments(own_folder, capsys, law, verb, arguments):
    (own_folder / "runs.csv").write_text("params,tokens,loss\n1,1,1\n2,2,2\n")
    (own_folder / "law.json").write_text(json.dumps(law))
    capsys.readouterr()
    code = main([verb, *arguments])
    _, err = capsys.readouterr()
    assert code in (0, 1, 2)
    assert "Traceback" not in err
    assert "bug" not in err
    assert (code == 0) == (not any(line.startswith("error: ") for line in err.splitlines()))
