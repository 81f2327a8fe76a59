"""Time of Gram matrices and of a measured spectrum, beside the arithmetic that no method can avoid, with the accuracy reached.

The floor of a Gram matrix is one matrix product of the inputs in the same precision: "x x'" is the symmetric one (half of
the work), "x y'" the general one. That of a measured spectrum is one eigendecomposition of its Gram matrix (it takes
seven, of slightly smaller ones). Accuracy: Gram matrices against the same recursion in long doubles, on 60 other rows with
a pair 1e-7 apart and an opposite pair. "first" is the first call of its kind: it compiles, and fits the profile.

    python benchmarks/kernels.py                    (all cores; OMP_NUM_THREADS=1 for one)
    python benchmarks/kernels.py --large            (also 20 000 rows, each in a process of its own)
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from foretrain import NNGP, NTK, Digits, measure_spectrum
from foretrain.kernels import InfiniteWidthKernel, gram
from foretrain.kernels._profile import profile


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
    together = np.sqrt(np.sum((unit[:, None] + unit[None]) ** 2, axis=-1))
    angle = 2 * np.arctan2(apart, together)
    pi = 4 * np.arctan(np.longdouble(1))
    value = theta = np.cos(angle)
    for _ in range(depth):
        gap = 2 * np.sin(angle / 2) ** 2 - (np.sin(angle) - angle * np.cos(angle)) / pi
        theta, value = (1 - gap) + (1 - angle / pi) * theta, 1 - gap
        angle = 2 * np.arcsin(np.sqrt(np.maximum(gap, 0) / 2))
    return theta if tangent else value


def gram_row(
    kernel: InfiniteWidthKernel, rows: int, features: int, repeats: int, dtype: str, *, sphere: bool = False
) -> None:
    """One line of the table."""
    x = np.random.default_rng(0).normal(size=(rows, features))
    if sphere:
        x *= np.sqrt(features) / np.linalg.norm(x, axis=1, keepdims=True)
    x = x.astype(dtype)
    y = x.copy()
    # In turn, so that a slow moment of the machine meets all three.
    first, best, symmetric, general = np.inf, np.inf, np.inf, np.inf
    for _ in range(repeats):
        once, again = seconds(lambda: gram(kernel, x, dtype=dtype), 2)
        first, best = (once if first == np.inf else first), min(best, again)
        symmetric = min(symmetric, seconds(lambda: x @ x.T, 2)[1])
        general = min(general, seconds(lambda: x @ y.T, 2)[1])
    error = np.nan
    if kernel.activation == "relu" and not kernel.bias_variance:
        few = np.random.default_rng(1).normal(size=(60, features))
        few *= np.sqrt(features) / np.linalg.norm(few, axis=1, keepdims=True)
        few[1] = few[0] + 1e-7 * few[2]
        few[3] = -few[4] + 1e-7 * few[5]
        few[[1, 3]] *= np.sqrt(features) / np.linalg.norm(few[[1, 3]], axis=1, keepdims=True)
        exact = relu_in_long_doubles(few, kernel.depth, kernel.tangent)
        error = float(np.max(np.abs(gram(kernel, few, dtype=dtype) - exact)) / np.max(exact))
    label = (
        f"{kernel.kind} {kernel.activation}, depth {kernel.depth}, {rows} rows{', sphere' if sphere else ''}, {dtype}"
    )
    print(
        f"{label:50s} {first:8.2f} {best * 1e3:9.1f} {symmetric * 1e3:8.1f} {general * 1e3:8.1f} {best / symmetric:7.2f} "
        f"{best / general:7.2f} {error:9.1e}"
    )


def fit_row(kernel: InfiniteWidthKernel) -> None:
    """Time of a profile: the first one of a process compiles a layer, the others reuse it."""
    start = time.perf_counter()
    fitted = profile(kernel)
    taken = time.perf_counter() - start
    terms = [len(side) for side in fitted.chebyshev] if fitted else []
    print(f"profile of {kernel.kind} {kernel.activation}, depth {kernel.depth}: {taken * 1e3:.0f} ms, {terms} terms")


LARGE = """
import resource, sys, time
import numpy as np
from foretrain.kernels import NTK, gram
x = np.random.default_rng(0).normal(size=(20_000, 784))
gram(NTK(3), x[:2100], dtype=sys.argv[1])
start = time.perf_counter()
gram(NTK(3), x, dtype=sys.argv[1], memory=4e9)
print(f"{time.perf_counter() - start:.2f} s, peak of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9:.2f} GB")
"""


def large_row(dtype: str) -> None:
    """20 000 rows within a budget of 4 GB."""
    found = subprocess.run([sys.executable, "-c", LARGE, dtype], capture_output=True, text=True, check=True)
    print(f"{f'ntk relu, depth 3, 20000 rows, {dtype}':50s} {found.stdout.strip()}")


def measure_row(points: int) -> None:
    """One measurement of the digits; accuracy is its own stated interval of the unresolved power."""
    data = Digits(classes=[[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]).load()
    x, y = data.inputs[:points], data.targets[:points]
    start = time.perf_counter()
    measured = measure_spectrum(NNGP(), x, y)
    taken = time.perf_counter() - start
    matrix = NNGP()(x)
    _, floor = seconds(lambda: np.linalg.eigh(matrix), 1)
    label = f"measure_spectrum, digits, {len(x)} rows"
    print(f"{label:44s} {'':9s} {taken:9.2f} {floor:9.2f}   unresolved {measured.unresolved}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    for kernel in (NTK(depth=3), NTK(depth=10)):
        fit_row(kernel)
    print(
        f"{'':50s} {'first s':>8s} {'best ms':>9s} {'x x ms':>8s} {'x y ms':>8s} {'/ x x':>7s} {'/ x y':>7s} {'error':>9s}"
    )
    for dtype in ("float32", "float64"):
        for kernel in (NNGP(), NTK(depth=3), NTK(depth=10)):
            gram_row(kernel, options.rows, 784, options.repeats, dtype)
    gram_row(NTK(3, "erf", bias_variance=0.1), options.rows, 784, options.repeats, "float64", sphere=True)
    # Unequal norms and no homogeneity: the recursion on every pair.
    for activation in ("erf", "gelu", "tanh"):
        gram_row(NNGP(activation=activation), options.rows, 784, 1, "float64")
    if options.large:
        large_row("float32")
        large_row("float64")
    for points in (600, 1797):
        measure_row(points)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
