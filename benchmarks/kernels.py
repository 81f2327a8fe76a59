"""Time of Gram matrices and of a measured spectrum, beside the arithmetic that no method can avoid, with the accuracy reached.

The floor of a Gram matrix is one matrix product of the inputs; that of a measured spectrum is one eigendecomposition of its
Gram matrix (it takes seven, of slightly smaller ones). Accuracy: Gram matrices against the same recursion in long doubles.

    OMP_NUM_THREADS=1 python benchmarks/kernels.py
"""

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np

from foretrain import NNGP, NTK, Digits, measure_spectrum
from foretrain.kernels import InfiniteWidthKernel


def seconds(function: Callable[[], object], repeats: int) -> tuple[float, float]:
    """The first call, which compiles, and the best of the others."""
    found = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return found[0], min(found[1:])


def relu_in_long_doubles(x: np.ndarray, depth: int, tangent: bool) -> np.ndarray:
    """The angle recursion of unit inputs in extended precision, angles from differences."""
    unit = x.astype(np.longdouble)
    unit /= np.sqrt(np.sum(unit**2, axis=1, keepdims=True))
    apart = np.sqrt(np.sum((unit[:, None] - unit[None]) ** 2, axis=-1))
    angle = 2 * np.arcsin(np.minimum(apart / 2, 1))
    pi = 4 * np.arctan(np.longdouble(1))
    value = theta = np.cos(angle)
    for _ in range(depth):
        gap = 2 * np.sin(angle / 2) ** 2 - (np.sin(angle) - angle * np.cos(angle)) / pi
        theta, value = (1 - gap) + (1 - angle / pi) * theta, 1 - gap
        angle = 2 * np.arcsin(np.sqrt(gap / 2))
    return theta if tangent else value


def gram_row(kernel: InfiniteWidthKernel, rows: int, features: int, repeats: int) -> None:
    """One line of the table."""
    x = np.random.default_rng(0).normal(size=(rows, features))
    first, best = seconds(lambda: kernel(x), repeats)
    _, floor = seconds(lambda: x @ x.T, repeats)
    error = np.nan
    if kernel.activation == "relu" and not kernel.bias_variance:
        few = x[:60] / np.linalg.norm(x[:60], axis=1, keepdims=True) * np.sqrt(features)
        few[1] = few[0] + 1e-7 * few[2]
        few[1] *= np.sqrt(features) / np.linalg.norm(few[1])
        exact = relu_in_long_doubles(few, kernel.depth, kernel.tangent)
        error = float(np.max(np.abs(kernel(few) - exact)) / np.max(exact))
    label = f"{kernel.kind} {kernel.activation}, depth {kernel.depth}, {rows} rows"
    print(f"{label:44s} {first:9.2f} {best:9.3f} {floor:9.3f} {best / rows**2 * 1e9:9.1f} {error:10.1e}")


def measure_row(points: int) -> None:
    """One measurement of the digits; accuracy is its own stated interval of the unresolved power."""
    data = Digits(classes=[[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]).load()
    x, y = data.inputs[:points], data.targets[:points]
    start = time.perf_counter()
    measured = measure_spectrum(NNGP(), x, y)
    taken = time.perf_counter() - start
    gram = NNGP()(x)
    _, floor = seconds(lambda: np.linalg.eigh(gram), 1)
    label = f"measure_spectrum, digits, {len(x)} rows"
    print(f"{label:44s} {'':9s} {taken:9.2f} {floor:9.2f}   unresolved {measured.unresolved}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    print(f"{'':44s} {'first s':>9s} {'best s':>9s} {'floor s':>9s} {'ns/entry':>9s} {'error':>10s}")
    for kernel in (
        NNGP(),
        NTK(depth=3),
        NTK(depth=10),
        NNGP(activation="erf"),
        NNGP(activation="gelu"),
        NNGP(activation="tanh"),
    ):
        gram_row(kernel, options.rows, 784, options.repeats)
    for points in (600, 1797):
        measure_row(points)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
