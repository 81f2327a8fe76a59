"""Time and accuracy of the adaptive linear limits, beside the arithmetic that no method of this kind can avoid.

    OMP_NUM_THREADS=1 XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python benchmarks/adaptive_linear.py [--json]

Each row runs in a process of its own, bound to one core. `first` is the first call, compilation included (no persistent cache);
`best` is the best of five calls after it, in seconds of that core. `error` is the largest difference of the test loss, relative to
itself, to a computation with half the step of the clock on a contour with a fifth more points (marched steps: on twice the nodes);
`said` is the largest error that the result states. `floor` is the time of the exponentials and products of the filters alone, in
NumPy: five multiplications per point, step and problem, twice for the error estimate.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time

import numpy as np

INF = math.inf


def cases() -> dict[str, dict]:
    late = np.logspace(-1, 8, 50)
    return {
        "flow to t = 1e8, infinite width": {"width": INF, "times": late},
        "flow to t = 1e8, N = 256": {"width": 256.0, "times": late},
        "flow to t = 1e6, N = 256, P = 512": {"width": 256.0, "samples": 512.0, "times": np.logspace(-1, 6, 50)},
        "one-pass SGD, 1e8 steps of 0.1, B = 100, easy": {
            "rate": 0.1,
            "batch": 100,
            "source": 1.2,
            "times": np.unique(np.round(np.logspace(2.5, 8, 50))),
        },
        "descent, 128 steps, N = 256, P = 512": {
            "width": 256.0,
            "samples": 512.0,
            "rate": 0.1,
            "times": np.arange(0.0, 129.0, 8.0),
        },
        "sweep 10 widths x 10 sources x 5 richness to t = 1e6": {
            "width": (*np.geomspace(16, 4096, 9).tolist(), INF),
            "source": tuple(np.linspace(0.2, 2.0, 10).tolist()),
            "richness": (0.0, 0.1, 1.0, 10.0, 100.0),
            "times": np.logspace(-1, 6, 40),
        },
    }


def measure(name: str) -> dict:
    """One row, in this process."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from foretrain import GradientDescent, GradientFlow, OnePassSGD, PowerLaw, Problem, TwoLayerLinear, solve
    from foretrain.limits.adaptive_linear import _curves, _discrete, _march

    case = cases()[name]
    if "batch" in case:
        training = OnePassSGD(case["rate"], case["batch"])
    elif "rate" in case:
        training = GradientDescent(case["rate"], samples=case.get("samples"))
    else:
        training = GradientFlow(samples=case.get("samples"))
    task = PowerLaw(1.5, case.get("source", 0.5))
    problem = Problem(task, TwoLayerLinear(width=case.get("width", INF), richness=case.get("richness", 1.0)), training)

    def run():
        return solve(problem, case["times"])

    start = time.process_time()
    curves = run()
    first = time.process_time() - start
    found = []
    for _ in range(5):
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    _curves.FINE, _march.PER_BIN = (0.025, 0.15), 24
    _discrete.FINE = _curves.FINE
    finer = run().values("test_loss")
    loss, said = curves.values("test_loss"), curves.values("test_loss_error")
    return {
        "case": name,
        "first_s": first,
        "best_s": min(found),
        "floor_s": floor(int(np.prod(problem.shape))) if "rate" not in case or "batch" in case else math.nan,
        "error": float(np.max(np.abs(loss / finer - 1))),
        "said": float(np.max(said / loss)),
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def floor(problems: int, points: int = 224, steps: int = 900) -> float:
    """Products of the filters of all problems over the fine and the coarse grid."""
    rng = np.random.default_rng(0)
    filters = rng.standard_normal((problems, points)) + 1j
    weights = rng.standard_normal((5, points)) + 1j
    repeats = 50
    start = time.process_time()
    for _ in range(repeats):
        total = filters * weights[0]
        for row in weights[1:]:
            total += filters * row
    return (time.process_time() - start) / repeats * steps * 1.5


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
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print("| case | first | best | floor | error | said | memory |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row['case']} | {row['first_s']:.1f} s | {row['best_s']:.3f} s | {row['floor_s']:.3f} s "
            f"| {row['error']:.1e} | {row['said']:.1e} | {row['memory_mb']:.0f} MB |"
        )


if __name__ == "__main__":
    main()
