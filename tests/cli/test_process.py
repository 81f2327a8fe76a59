"""The program as a whole process: what it imports, pipes and signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FORETRAIN = [sys.executable, "-c", "import sys; from foretrain.cli import main; sys.exit(main())"]

LAW = """
[task]
kind = "power-law"
capacity = 1.5
source = 0.6
modes = 1000
noise = 0.01
[model]
kind = "random-features"
width = [16, inf]
[training]
protocol = "gradient-flow"
samples = [32, inf]
times = {start = 1.0, stop = 1e4, points = 20}
"""


@pytest.fixture
def command(tmp_path):
    def command_(*arguments, **options):
        options = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 120} | options
        return subprocess.run([*FORETRAIN, *arguments], **options)

    (tmp_path / "law.toml").write_text(LAW)
    return command_


def imported_by(code):
    code += "; import sys; print(*sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split("\n")[-2].split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["solve", "--help"],
        ["--version"],
        ["init", "compare"],
        ["solve", "nix.toml"],
        ["fit", "--help"],
        ["plan", "--help"],
        ["forecast", "--help"],
    ],
)
def test_help_and_mistakes_start_nothing_heavy(arguments):
    found = imported_by(f"from foretrain.cli import main; main({arguments!r})")
    assert not found & {"jax", "jaxlib", "pandas", "xarray", "matplotlib", "sklearn", "scipy", "h5netcdf"}


def test_reading_a_study_needs_neither_jax_nor_pandas():
    found = imported_by(f"from foretrain.studies import parse_study; parse_study({LAW!r}).to_toml()")
    assert not found & {"jax", "jaxlib", "pandas", "xarray", "matplotlib", "sklearn"}


def test_the_study_of_the_readme_in_a_process_of_its_own(tmp_path):
    """Solved, printed and saved, without xarray."""
    (tmp_path / "law.toml").write_text(LAW)
    code = FORETRAIN[-1].replace("sys.exit(main())", "code = main()")
    code += "; print(*sorted(m for m in sys.modules if '.' not in m)); sys.exit(code)"
    done = subprocess.run(
        [sys.executable, "-c", code, "solve", "law.toml", "--json", "-o", "a.nc"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0
    *lines, modules = done.stdout.splitlines()
    table = json.loads("\n".join(lines))
    assert table["coords"]["width"] == [16.0, "inf"]
    assert table["status"] == "ok"
    assert not set(modules.split()) & {"pandas", "xarray", "matplotlib", "sklearn"}
    assert (tmp_path / "a.nc").exists()


@pytest.mark.long
def test_a_cold_solve_leaves_a_compilation_cache(tmp_path):
    # How long it takes is measured in benchmarks/command_line.py.
    (tmp_path / "law.toml").write_text(LAW)
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    subprocess.run([*FORETRAIN, "solve", "law.toml", "--no-store"], cwd=tmp_path, check=True, env=environment)
    assert list((tmp_path / "cache" / "foretrain" / "jax").iterdir())  # the next run compiles nothing


def test_installed_script_answers():
    script = Path(sys.executable).with_name("foretrain")
    if not script.exists():
        pytest.skip("foretrain is not installed beside this Python")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("foretrain ")


def test_mistakes_in_a_process_of_their_own(command, tmp_path):
    (tmp_path / "law.toml").write_text(LAW.replace("capacity", "capasity"))
    done = command("train", "law.toml")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(
        "error: law.toml: [task]: capasity: unknown key for 'power-law'; did you mean 'capacity'?"
    )
    assert done.stderr.count("\n") == 1


def test_a_reader_that_goes_away_ends_it_quietly(tmp_path):
    process = subprocess.Popen(
        [*FORETRAIN, "init", "compare"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait() in (0, 141)  # 0 when it was faster than we
    assert error == ""


def test_output_that_knows_only_ascii(command):
    done = command("init", "compare", env=os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    assert done.returncode == 0
    done = command("claims", "01", env=os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_standard_output(tmp_path):
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *FORETRAIN, "init", "compare"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


BIG = LAW.replace("modes = 1000", "modes = 20000").replace("[16, inf]", "[512]").replace("[32, inf]", "[512]")


def test_control_c_in_a_process_of_its_own(tmp_path):
    (tmp_path / "big.toml").write_text(BIG + "seeds = 1000\n")
    # A shell that runs the tests in the background has them ignore the interrupt, and children inherit that.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); " + FORETRAIN[-1]
    process = subprocess.Popen(
        [*FORETRAIN[:-1], heeding, "train", "big.toml", "--store", "kept"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    time.sleep(4)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.startswith("interrupted: ")
    assert err.count("\n") == 1
    assert out == "" or "test_loss" in out
