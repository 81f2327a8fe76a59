"""Time, accuracy and memory of the linear limits, beside the arithmetic that no method of this kind can avoid.

    OMP_NUM_THREADS=1 XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python benchmarks/linear_limits.py [--json]

Each row runs in a process of its own, bound to as many cores as it names, so that compile time and peak memory are its
own. `first` is the first call, compilation included (no persistent cache); `best` and `worst` are of seven calls after it.
`error` is the largest error of the test loss (with minibatches of the train loss too) relative to itself against a finer computation: 14 contour points in place of
12, on the uncompressed spectrum where it has at most 2000 modes and on one compressed to twice the nodes beyond; `said` is
the largest error that the result itself states. `floor` is the time of the pair sums alone: the real matrix products of
every contour, in NumPy.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import numpy as np

NOISE, WIDTH, SAMPLES = 0.25, 1000.0, 4000.0


def spectrum(modes: int) -> tuple[np.ndarray, np.ndarray]:
    k = np.arange(1.0, modes + 1.0)
    return k**-1.25, k**-1.5 / k**-1.25


def cases() -> dict[str, dict]:
    times = np.logspace(0, 8, 200)
    steps = np.unique(np.round(np.logspace(np.log10(12), 8, 200)))
    sizes = [v.ravel() for v in np.meshgrid(np.logspace(1.5, 4, 16), np.logspace(1.5, 4, 16))]
    all_steps = np.unique(np.round(np.logspace(0, 8, 220)))
    curve = {"times": times, "width": WIDTH, "samples": SAMPLES}
    sweep = {"times": np.logspace(0, 8, 100), "width": sizes[0], "samples": sizes[1]}
    return {
        "flow, 200 times 1..1e8, 1e3 modes": curve | {"modes": 1_000},
        "flow, 200 times 1..1e8, 1e5 modes": curve | {"modes": 100_000},
        "flow, 200 times 1..1e13, 1e5 modes": curve | {"modes": 100_000, "times": np.logspace(0, 13, 200)},
        "flow, 200 times 1..1e8, 1e6 modes": curve | {"modes": 1_000_000},
        "gradient descent, 200 steps 12..1e8, 1e5 modes": curve | {"modes": 100_000, "times": steps, "rate": 0.5},
        "heavy ball 0.9, 200 steps 600..1e8, 1e5 modes": curve
        | {"modes": 100_000, "times": steps[steps > 600], "rate": 0.5, "momentum": 0.9},
        "SGD, B = 16, 200 steps 12..1e8, 1e5 modes": curve
        | {"modes": 100_000, "times": steps, "rate": 0.3, "batch": 16.0},
        "SGD, B = 16, 200 steps 1..1e8, 1e5 modes": curve
        | {"modes": 100_000, "times": all_steps, "rate": 0.3, "batch": 16.0},
        "one-pass SGD, B = 16, 200 steps 12..1e8, 1e5 modes": curve
        | {"modes": 100_000, "times": steps, "rate": 0.3, "batch": 16.0, "samples": np.inf},
        "SGD, cosine schedule of 1e5 steps, 60 of them, 1e5 modes": curve
        | {
            "modes": 100_000,
            "times": np.unique(np.round(np.logspace(0, 5, 66))),
            "rate": 0.3,
            "batch": 16.0,
            "cosine": 1e5,
        },
        "sweep 16 x 16 sizes x 100 times, 1e5 modes, 1 core": sweep | {"modes": 100_000},
        "sweep 16 x 16 sizes x 100 times, 1e5 modes, 2 cores": sweep | {"modes": 100_000, "cores": 2},
    }


def protocol(case: dict):
    from foretrain.limits.linear import Descent, Flow, HeavyBall, StochasticDescent

    rate = case.get("rate")
    if "cosine" in case:
        rate = rate * 0.5 * (1.0 + np.cos(np.pi * np.arange(case["cosine"] + 1) / case["cosine"]))
    if "batch" in case:
        return StochasticDescent(rate, case["batch"])
    if "momentum" in case:
        return HeavyBall(rate, case["momentum"])
    return Flow() if rate is None else Descent(rate)


def measure(name: str) -> dict:
    """One row, in this process."""
    case = cases()[name]
    cores = case.get("cores", 1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:cores]))

    from foretrain.limits.linear import linear_curves, spectral_measure

    dynamics = protocol(case)
    eigenvalues, power = spectrum(case["modes"])

    def solve(compressed):
        return linear_curves(compressed, case["times"], case["width"], case["samples"], NOISE, dynamics, threads=cores)

    start = time.perf_counter()
    compressed = spectral_measure(eigenvalues, power)
    compression = time.perf_counter() - start
    start = time.perf_counter()
    result = solve(compressed)
    first = time.perf_counter() - start
    found = []
    for _ in range(7):
        start = time.perf_counter()
        solve(compressed)
        found.append(time.perf_counter() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    from foretrain.limits.linear import _contour as contour

    contour.OPEN_POINTS, contour.CHECK_POINTS = 14, 12

    def losses(curves):
        return (curves.test, curves.train) if "batch" in case else (curves.test,)

    exact = len(eigenvalues) if len(eigenvalues) <= 2000 else 128
    finer = solve(spectral_measure(eigenvalues, power, exact=exact, per_bin=16, ratio=1.5))
    return {
        "case": name,
        "nodes": compressed.nodes,
        "compression_ms": 1e3 * compression,
        "first_s": first,
        "best_ms": 1e3 * min(found),
        "worst_ms": 1e3 * max(found),
        "floor_ms": 1e3 * floor(compressed.nodes, result.test.shape[0] * result.test.shape[2]) / cores,
        "error": max(float(np.max(np.abs(a / b - 1))) for a, b in zip(losses(result), losses(finer), strict=True)),
        "said": float(np.max(result.test_error / result.test)),
        "memory_mb": memory,
    }


def floor(nodes: int, curves: int, points: int = 12) -> float:
    """Two weighted products of the real and imaginary parts of 12 contour points, per loss; the error estimate doubles it."""
    rng = np.random.default_rng(0)
    left = rng.standard_normal((2 * points, nodes))
    repeats = min(curves, 2000)
    start = time.perf_counter()
    for _ in range(4 * repeats):
        left @ left.T
    return (time.perf_counter() - start) * curves / repeats


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
    print("| case | nodes | compress | first | best | worst | floor | error | said | memory |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row['case']} | {row['nodes']} | {row['compression_ms']:.0f} ms | {row['first_s']:.2f} s "
            f"| {row['best_ms']:.1f} ms | {row['worst_ms']:.1f} ms | {row['floor_ms']:.1f} ms | {row['error']:.1e} "
            f"| {row['said']:.1e} | {row['memory_mb']:.0f} MB |"
        )


if __name__ == "__main__":
    main()
