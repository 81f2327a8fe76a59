"""Time, memory and accuracy of the march through deep linear networks, beside the training that it replaces.

    OMP_NUM_THREADS=1 XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1" python benchmarks/deep_linear.py [--json]

Each row runs in a process of its own, bound to one core. `first` is the first call, compilation included (no persistent
cache); `best` is of three calls after it, `cpu` its processor time, which other work on the machine disturbs less. `memory` is the largest resident size of the process, `state`
what the march itself states. `floor` is the time to read what a row reads once, at the speed of a NumPy product of a row
with a matrix of the last size, over all rows. `train` is the time that as many finite networks take as bring the standard error of the test loss, after a twentieth of the steps, to one per cent (from
8 networks in 200 dimensions, scaled), for the rows that have a finite network of their own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import numpy as np


def cases() -> dict[str, dict]:
    widths, rates = [0.5, 1.0, 2.0, 4.0, 8.0, 32.0], list(np.geomspace(0.02, 0.3, 24))
    two = {"depth": 2, "width_ratio": 2.0}
    transfer = {"depth": 2, "width_ratio": widths, "richness": 3.0, "rate": rates, "steps": 100}
    return {
        "L = 2, 400 steps, population": two | {"steps": 400, "train": True},
        "L = 2, 400 steps, reused samples": two | {"steps": 400, "alpha": 2.0, "train": True},
        "L = 2, 1000 steps, reused samples": two | {"steps": 1000, "alpha": 2.0},
        "24 rates x 6 widths, 100 steps, population": transfer,
        "24 rates x 6 widths, 100 steps, reused samples": transfer | {"alpha": 2.0},
        "residual, L = 32, 64 rows": {"depth": 32, "width_ratio": 2.0, "residual": True, "steps": 63},
        "residual, L = inf, 40 steps": {"depth": float("inf"), "width_ratio": 2.0, "residual": True, "steps": 40},
        "40 groups, L = 2, 400 steps, population": two | {"steps": 400, "groups": 40},
        "40 groups, L = 2, 200 steps, reused samples": two | {"steps": 200, "groups": 40, "alpha": 2.0},
        "40 groups, L = 2, 400 steps, reused samples": two | {"steps": 400, "groups": 40, "alpha": 2.0},
    }


def problem_of(case: dict, inputs: int = 200):
    from foretrain import DeepLinear, GradientDescent, Isotropic, Problem, SpectrumTask

    k = np.arange(1.0, case.get("groups", 0) + 1.0)
    noise = 0.25 if "alpha" in case else 0.0
    task = SpectrumTask(k**-1.5, k**-0.25, noise=noise) if len(k) else Isotropic(modes=inputs, noise=noise)
    model = DeepLinear(
        depth=case["depth"],
        width_ratio=case["width_ratio"],
        richness=case.get("richness", 1.0),
        residual=case.get("residual", False),
    )
    return Problem(task, model, GradientDescent(case.get("rate", 0.03), sample_ratio=case.get("alpha")))


def measure(name: str) -> dict:
    """One row, in this process."""
    case = cases()[name]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    import warnings

    warnings.simplefilter("ignore")
    from foretrain import solve
    from foretrain.limits.deep_linear import march_bytes
    from foretrain.limits.deep_linear._points import point_of

    problem = problem_of(case)
    steps = [0, case["steps"] // 20, case["steps"]]
    start = time.perf_counter()
    solve(problem, steps)
    first = time.perf_counter() - start
    walls, cpus = [], []
    for _ in range(3):
        start, used = time.perf_counter(), time.process_time()
        solve(problem, steps)
        walls.append(time.perf_counter() - start)
        cpus.append(time.process_time() - used)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    _, single = next(problem.points())
    point = point_of(single, case["steps"] + 1)
    return {
        "case": name,
        "first_s": first,
        "best_s": min(walls),
        "cpu_s": min(cpus),
        "state_mb": march_bytes(point.layout, point.rows) / 1e6,
        "memory_mb": memory,
        "floor_s": floor(point) * len(list(problem.points())) * len(point.depths),
        "train_s": training(problem, steps) if case.get("train") else float("nan"),
    }


def floor(point) -> float:
    """All numbers of the state, read once a row as far as they have been written."""
    size = point.rows
    matrix, row = np.ones((size, size)), np.ones(size)
    times = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(20):
            row @ matrix
        times.append((time.process_time() - start) / 20)
    once = min(times)
    return once * point.layout.numbers(size) / size**2 * size / 3


def training(problem, steps) -> float:
    from foretrain import train

    start = time.perf_counter()
    runs = train(problem, steps, seeds=8)
    taken = time.perf_counter() - start
    relative = runs.values("test_loss_stderr")[1] / runs.values("test_loss")[1]
    return taken * (relative / 0.01) ** 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case)))
        return
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    rows = []
    for name in cases():
        command = [sys.executable, __file__, "--case", name]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout))
        if not options.json:
            print(rows[-1], file=sys.stderr)
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print("| case | first | best | cpu | floor | state | memory | train |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        trained = "" if np.isnan(row["train_s"]) else f"{row['train_s']:.0f} s"
        print(
            f"| {row['case']} | {row['first_s']:.1f} s | {row['best_s']:.2f} s | {row['cpu_s']:.2f} s | {row['floor_s']:.2f} s "
            f"| {row['state_mb']:.0f} MB | {row['memory_mb']:.0f} MB | {trained} |"
        )


if __name__ == "__main__":
    main()
