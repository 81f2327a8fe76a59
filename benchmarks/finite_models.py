"""Time of one seed of a finite model, beside the arithmetic that no method can avoid.

The floor is the product that makes the tangent matrix, the one that makes its features, and one eigendecomposition of the
smaller side. Run it with one thread per core to see what `train` gets, which puts one seed on each core:

    OMP_NUM_THREADS=1 python benchmarks/finite_models.py
"""

import argparse
import resource
import time
from collections.abc import Callable, Iterator

import numpy as np
from threadpoolctl import threadpool_limits

from foretrain import NNGP, Digits, GradientFlow, PowerLaw
from foretrain.tasks import DataSet
from foretrain.training import Draw, data_draws, evolve, linear_draws
from foretrain.training._linear_student import explicit_modes

TIMES = np.geomspace(1.0, 1e6, 60)


def seconds(function: Callable[[], object], repeats: int) -> list[float]:
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return found


def run(draws: Iterator[tuple[int, int, Draw]], noise: list[float]) -> None:
    for _, _, draw in draws:
        evolve(draw.students, draw.moments, GradientFlow(), TIMES, noise=noise)


def floor(products: list[tuple[int, int, int]], side: int, repeats: int) -> float:
    rng = np.random.default_rng(0)
    total = 0.0
    for rows, inner, columns in products:
        left, right = rng.standard_normal((rows, inner)), rng.standard_normal((inner, columns))
        total += min(seconds(lambda a=left, b=right: a @ b, repeats))
    square = rng.standard_normal((side, side))
    return total + min(seconds(lambda: np.linalg.eigh(square + square.T), repeats))


def row(label: str, found: list[float], least: float) -> None:
    best, worst = min(found), max(found)
    print(f"{label:58s} {best * 1e3:9.1f} {worst * 1e3:9.1f} {least * 1e3:9.1f} {best / least:7.2f}")


def linear(modes: int, width: int, samples: int, repeats: int) -> None:
    eigenvalues, coefficients, _ = explicit_modes(PowerLaw(1.5, 0.6, modes=modes).spectrum())
    found = seconds(lambda: run(linear_draws(eigenvalues, coefficients, [width], [samples], 0), [0.1]), repeats)
    side = min(width, samples)
    products = [(samples, modes, width), (width, modes, width), (side, max(width, samples), side)]
    row(f"power law, {modes} modes, N = {width}, P = {samples}", found, floor(products, side, repeats))


def network(data: DataSet, width: float, samples: int, repeats: int) -> None:
    outputs = data.targets.shape[1]
    found = seconds(lambda: run(data_draws(data, [width], [samples], 0, kernel=NNGP()), [0.0]), repeats)
    test = len(data) - samples
    side = int(min(width, samples))
    size = int(min(width, len(data)))
    products = [(side, int(max(min(width, samples), samples)), side), (side, test, side)]
    if np.isfinite(width):
        products.append((len(data), data.inputs.shape[1], size))
    row(f"digits, {outputs} outputs, N = {width:g}, P = {samples}", found, floor(products, side, repeats))


def sweep(modes: int, repeats: int) -> None:
    """One seed over a grid of sizes, which shares its random numbers and features, against the sum of its points."""
    eigenvalues, coefficients, _ = explicit_modes(PowerLaw(1.5, 0.6, modes=modes).spectrum())
    widths, samples = [32, 64, 128, 256, 512], [64, 128, 256, 512, 1024]
    together = seconds(lambda: run(linear_draws(eigenvalues, coefficients, widths, samples, 0), [0.1]), repeats)
    single = sum(
        min(seconds(lambda w=w, s=s: run(linear_draws(eigenvalues, coefficients, [w], [s], 0), [0.1]), repeats))
        for w in widths
        for s in samples
    )
    row(f"power law, {modes} modes, 5 widths x 5 sample sizes", together, single)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="also the sizes that take seconds")
    options = parser.parse_args()
    data = Digits().load()
    print(
        f"{'one seed, 60 times, losses of train and test':58s} {'best ms':>9s} {'worst ms':>9s} {'floor ms':>9s} {'ratio':>7s}"
    )
    with threadpool_limits(1):
        linear(1000, 64, 128, options.repeats)
        linear(10_000, 256, 512, options.repeats)
        linear(10_000, 512, 256, options.repeats)
        for width, samples in ((64, 256), (512, 256), (512, 1024), (np.inf, 1024)):
            network(data, width, samples, options.repeats)
        if options.full:
            linear(100_000, 1024, 1024, options.repeats)
            network(data, 2048, 1024, options.repeats)
        print("\nThe floor of a sweep is the sum of its points one by one: a ratio below one is what sharing saves.")
        sweep(10_000, options.repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"\nPeak memory {peak:.0f} MiB. Evolution is exact: losses agree with step-by-step descent to 1e-10 (tests/training)."
    )


if __name__ == "__main__":
    main()
