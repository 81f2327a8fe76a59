"""Time of whole processes of the command line, from start to exit.

    python benchmarks/command_line.py

`cold` has an empty compilation cache, `warm` the one that the cold run left. The floor is a Python that imports JAX and
ends (for `--help`: a Python that does nothing).
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STUDY = Path(__file__).resolve().parent.parent / "studies" / "power-law.toml"
FORETRAIN = [sys.executable, "-c", "import sys; from foretrain.cli import main; sys.exit(main())"]


def seconds(command: list[str], environment: dict[str, str], repeats: int) -> list[float]:
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=environment)
        found.append(time.perf_counter() - start)
    return found


def row(label: str, found: list[float], floor: list[float]) -> None:
    print(f"| {label} | {min(found):.2f} s | {max(found):.2f} s | {min(floor):.2f} s |")


def main() -> None:
    plain = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    nothing = seconds([sys.executable, "-c", "pass"], plain, 5)
    jax = seconds([sys.executable, "-c", "import jax; jax.devices()"], plain, 3)
    solve = [*FORETRAIN, "solve", str(STUDY), "--no-store"]
    print("| process | best | worst | floor |\n| --- | --- | --- | --- |")
    row("`foretrain --help`", seconds([*FORETRAIN, "--help"], plain, 5), nothing)
    cold, warm = [], []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as cache:
            environment = plain | {"XDG_CACHE_HOME": cache}
            cold += seconds(solve, environment, 1)
            warm += seconds(solve, environment, 1)
    row("`foretrain solve studies/power-law.toml`, cold", cold, jax)
    row("the same, warm", warm, jax)


if __name__ == "__main__":
    main()
