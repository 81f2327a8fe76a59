"""Time of finite linear networks that learn features, beside the arithmetic that no method can avoid, and beside theory.

The floor of a deep linear network is two products and one outer product with every matrix in every step, by BLAS. That of the
two-layer model under flow is the product that makes its tangent matrix and one eigendecomposition. The second table says how
many seeds bring the mean test loss at the last time to a standard error of one per cent, and how long training them takes,
beside `solve` on the same problem (its second call, compiled). All are seconds of the processor, the least of some repeats. One
thread:

    OMP_NUM_THREADS=1 XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python benchmarks/finite_linear_networks.py
"""

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
from scipy.linalg.blas import dger
from threadpoolctl import threadpool_limits

from foretrain import (
    DeepLinear,
    GradientDescent,
    GradientFlow,
    Isotropic,
    OnePassSGD,
    PowerLaw,
    Problem,
    TwoLayerLinear,
    solve,
    train,
)

STEPS = np.array([0, 10, 20, 40])
FLOW = np.geomspace(0.1, 1e4, 20)


def least(function: Callable[[], object], repeats: int) -> float:
    found = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        found.append(time.process_time() - start)
    return min(found)


def deep_floor(shapes: list[tuple[int, int]], steps: int, repeats: int) -> float:
    """Seconds of BLAS for the steps of one network."""
    rng, total = np.random.default_rng(0), 0.0
    for rows, columns in shapes:
        matrix = np.asfortranarray(rng.standard_normal((rows, columns)))
        left, right = rng.standard_normal(rows), rng.standard_normal(columns)

        def step(matrix=matrix, left=left, right=right) -> None:
            dger(1e-9, matrix @ right, left @ matrix, a=matrix, overwrite_a=True)

        total += steps * least(step, 20 * repeats)
    return total


def two_layer_floor(modes: int, width: int, repeats: int) -> float:
    matrix = np.random.default_rng(0).standard_normal((width, modes))
    return least(lambda: np.linalg.eigh(matrix @ matrix.T), repeats)


def cases() -> list[tuple[str, Problem, np.ndarray, Callable[[int], float]]]:
    found = []
    for inputs, ratio, depth in ((250, 1.0, 2), (500, 1.0, 2), (500, 2.0, 2), (250, 1.0, 8)):
        width = round(ratio * inputs)
        shapes = [(width, inputs)] + [(width, width)] * (depth - 1)
        model = DeepLinear(depth=depth, width_ratio=ratio, residual=depth > 2)
        for name, training, data in (
            ("population", GradientDescent(0.05), []),
            ("P = 2 D", GradientDescent(0.05, sample_ratio=2.0), [(2 * inputs, inputs)]),
            ("B = D / 2", OnePassSGD(0.05, batch_ratio=0.5), []),
        ):
            label = f"deep, D = {inputs}, N = {width}, L = {depth}, {name}"
            problem = Problem(Isotropic(modes=inputs, noise=0.1), model, training)
            found.append((label, problem, STEPS, lambda r, s=shapes + data: deep_floor(s, int(STEPS[-1]), r)))
    for modes, width in ((2000, 128), (10_000, 512)):
        for richness in (0.0, 1.0):
            label = f"two layers, {modes} modes, N = {width}, richness {richness:g}"
            problem = Problem(
                PowerLaw(1.5, 0.5, modes=modes), TwoLayerLinear(width=width, richness=richness), GradientFlow()
            )
            found.append((label, problem, FLOW, lambda r, m=modes, w=width: two_layer_floor(m, w, r)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=8, help="seeds whose scatter is measured")
    arguments = parser.parse_args()
    print(f"{'':56s} {'ms a seed':>10s} {'floor':>8s} {'ratio':>6s} {'seeds':>7s} {'train s':>9s} {'solve s':>8s}")
    with threadpool_limits(1):
        for label, problem, times, floor in cases():
            train(problem, times, seeds=1)
            seconds = least(lambda p=problem, t=times: train(p, t, seeds=1), arguments.repeats)
            bound = floor(arguments.repeats)
            curves = train(problem, times, seeds=arguments.seeds)
            loss, error = curves.values("test_loss")[-1], curves.values("test_loss_stderr")[-1]
            needed = max(1, math.ceil(arguments.seeds * (error / loss / 0.01) ** 2))
            solve(problem, times)
            theory = least(lambda p=problem, t=times: solve(p, t), arguments.repeats)
            numbers = f"{needed:7d} {needed * seconds:9.2f} {theory:8.3f}"
            print(f"{label:56s} {seconds * 1e3:10.1f} {bound * 1e3:8.1f} {seconds / bound:6.2f} {numbers}")


if __name__ == "__main__":
    main()
