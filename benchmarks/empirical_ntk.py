"""Time of empirical tangent kernels, beside the arithmetic that no method can avoid, with the accuracy reached.

A 784-512-512-512-OUTPUTS ReLU network with biases. "first" contains compilation; "floor" is one pass forward and one back for
all rows, and the bare Gram matrices of activations and gradients; accuracy is the largest difference to float64, relative
to the largest entry. "jacobian" is the general path, as for a network without recognizable layers.

    python benchmarks/empirical_ntk.py
"""

import argparse
import itertools
import resource
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from foretrain.kernels import empirical_ntk

HIDDEN = (784, 512, 512, 512)


def seconds(function: Callable[[], object], repeats: int) -> tuple[float, float, float]:
    """The first call, which compiles, and the best and the median of the others."""
    found = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(function())
        found.append(time.perf_counter() - start)
    return found[0], min(found[1:]), float(np.median(found[1:]))


def parameters(outputs: int, dtype: str) -> list:
    generator = np.random.default_rng(0)
    sizes = (*HIDDEN, outputs)
    return [
        (generator.standard_normal((a, b)).astype(dtype), generator.standard_normal(b).astype(dtype))
        for a, b in itertools.pairwise(sizes)
    ]


def network(params: list, x: jax.Array) -> jax.Array:
    """The NTK parameterization, biases of standard deviation 0.1."""
    for i, (W, b) in enumerate(params):
        signal = jax.nn.relu(x) * 2**0.5 if i else x
        x = signal @ W / W.shape[0] ** 0.5 + 0.1 * b
    return x


def floor(params: list, x: np.ndarray, repeats: int) -> float:
    """Forward, backward, and two Gram matrices for each layer."""

    @jax.jit
    def passes(params: list, x: jax.Array) -> list:
        return jax.grad(lambda z: jnp.sum(network(params, z)))(x)

    @jax.jit
    def grams(widths: list) -> list:
        return [a @ a.T for a in widths]

    outputs = params[-1][0].shape[1]
    widths = [x[:, :1] + np.zeros(n, x.dtype) for n in (*HIDDEN, *(outputs * n for n in HIDDEN[1:]))]
    return outputs * seconds(lambda: passes(params, x), repeats)[1] + seconds(lambda: grams(widths), repeats)[1]


def row(rows: int, outputs: int, dtype: str, method: str, memory: float | None, repeats: int) -> None:
    """One line of the table."""
    params = parameters(outputs, dtype)
    exact_params = parameters(outputs, "float32")
    x = np.random.default_rng(1).standard_normal((rows, HIDDEN[0])).astype("float32").astype(dtype)
    with jax.enable_x64(dtype == "float64"):
        device = jax.tree.map(jnp.asarray, params)
    first, best, median = seconds(lambda: empirical_ntk(network, device, x, method=method, memory=memory), repeats)
    if dtype == "float32":
        exact = empirical_ntk(network, exact_params, x[:100], dtype="float64")
        label = "float64"
    else:
        other = "jacobian" if method == "auto" else "auto"
        exact = empirical_ntk(network, params, x[:100], method=other, memory=1.5e9)
        label = "other path"
    found = empirical_ntk(network, device, x[:100], method=method, memory=memory)
    error = float(np.max(np.abs(found - exact)) / np.max(exact))
    with jax.enable_x64(dtype == "float64"):
        bound = floor(device, x, repeats)
    print(
        f"{rows:5d} rows, {outputs:2d} outputs, {dtype}, {method:8s} {first:8.2f} {best * 1e3:10.1f} {median * 1e3:10.1f} "
        f"{bound * 1e3:9.1f} {error:9.1e} ({label})",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    print(f"{'':43s} {'first s':>8s} {'best ms':>10s} {'median ms':>10s} {'floor ms':>9s} {'error':>9s}")
    for dtype in ("float32", "float64"):
        row(100, 1, dtype, "auto", None, options.repeats)
        row(100, 10, dtype, "auto", None, options.repeats)
        row(1000, 1, dtype, "auto", None, options.repeats)
        row(100, 1, dtype, "jacobian", 1.5e9, min(options.repeats, 3))
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
