"""Kernels of infinite and finite networks side by side with neural-tangents, on the same inputs and in the same run.

neural-tangents 0.6.5 needs the JAX of its time, so it lives in an environment of its own. (With jax 0.4.24 its empirical
kernels without `vmap_axes` come out 6 % wrong, with 0.4.30 its structured derivatives fail.) TensorFlow, which only its
experimental part uses, is left out:

    python3.11 -m venv PEER
    PEER/bin/pip install "jax==0.4.23" "jaxlib==0.4.23" "numpy<2" "scipy<1.13" frozendict absl-py
    PEER/bin/pip install --no-deps neural-tangents==0.6.5

This script runs in the environment of foretrain. It starts itself in the other one, and the two take turns: each case is
compiled on both sides, then timed in rounds, peer first, and the best and median times of each side are kept. The side that
waits is idle.

    python benchmarks/peer_neural_tangents.py --peer-python PEER/bin/python

With the peer's Python and `--alone` it prints the peer's times only.

Both sides compute the NTK of L hidden ReLU layers without biases: weight variance 1 in the first layer, 2 in the others, unit
Gaussian weights scaled where they are used (`W_std` 1 and sqrt(2) in the peer's "ntk" parameterization). The finite network is
the same function of the same parameters. Of the peer's implementations of the empirical kernel, each is tried with rows
mapped (`vmap_axes=0`) and not; the fastest counts. Our times are those of the public functions: checks of the input and
conversion to NumPy included. The peer's are of its compiled functions with inputs on the device already.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

FEATURES = 784
HIDDEN = 512
GRAMS = [(1000, 3), (1000, 10)]  # rows, hidden layers
EMPIRICAL = [(100, 3), (1000, 3)]


def write_inputs(folder: Path) -> None:
    """Seeded inputs and parameters, in float32 numbers that both precisions represent."""
    generator = np.random.default_rng(0)
    sizes = (FEATURES, HIDDEN, HIDDEN, HIDDEN, 1)
    arrays = {"x": generator.standard_normal((1000, FEATURES))}
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        arrays[f"W{i}"], arrays[f"b{i}"] = generator.standard_normal((a, b)), generator.standard_normal(b)
    np.savez(folder / "inputs.npz", **{name: value.astype("float32") for name, value in arrays.items()})


def read_inputs(folder: Path, rows: int, dtype: str) -> tuple[np.ndarray, list]:
    with np.load(folder / "inputs.npz") as arrays:
        params = [(arrays[f"W{i}"].astype(dtype), arrays[f"b{i}"].astype(dtype)) for i in range(4)]
        return arrays["x"][:rows].astype(dtype), params


def network(params: list, x: Any) -> Any:
    """784-512-512-512-1, ReLU; the same code under both versions of JAX."""
    import jax

    for i, (W, b) in enumerate(params):
        signal = jax.nn.relu(x) * 2**0.5 if i else x
        x = signal @ W / W.shape[0] ** 0.5 + 0.1 * b
    return x


def times(function: Callable[[], Any], repeats: int) -> list[float]:
    import jax

    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        found.append(time.perf_counter() - start)
    return found


# --- the peer ------------------------------------------------------------------------------------------------------------


def peer_cases(folder: Path, dtype: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name and computation of everything that the peer is asked for."""
    try:
        import tensorflow  # noqa: F401
    except ImportError:
        sys.modules["neural_tangents.experimental"] = types.ModuleType("neural_tangents.experimental")
    import jax
    import jax.numpy as jnp
    import neural_tangents as nt
    from neural_tangents import stax

    jax.config.update("jax_enable_x64", dtype == "float64")  # this process is the peer's own
    for rows, depth in GRAMS:
        layers = [stax.Dense(HIDDEN, W_std=1.0), stax.Relu()]
        layers += [stax.Dense(HIDDEN, W_std=2**0.5), stax.Relu()] * (depth - 1)
        _, _, kernel = stax.serial(*layers, stax.Dense(1, W_std=2**0.5))
        compiled = jax.jit(lambda x, kernel=kernel: kernel(x, None, "ntk"))
        x = jnp.asarray(read_inputs(folder, rows, dtype)[0])
        yield f"gram {rows} {depth}", lambda compiled=compiled, x=x: compiled(x)
    for rows, _ in EMPIRICAL:
        x, params = read_inputs(folder, rows, dtype)
        x, params = jnp.asarray(x), jax.tree_util.tree_map(jnp.asarray, params)
        for implementation, mapped in itertools.product(nt.NtkImplementation, (0, None)):
            name = implementation.name.lower()
            # The others take gigabytes, or minutes, for a thousand rows.
            if name == "auto" or (rows > 100 and (name, mapped) != ("structured_derivatives", 0)):
                continue
            kernel = nt.empirical_ntk_fn(
                network, trace_axes=(-1,), vmap_axes=mapped, implementation=implementation.value
            )
            compiled = jax.jit(lambda x, params, kernel=kernel: kernel(x, None, params))
            label = f"empirical {rows} {name}{' mapped' if mapped == 0 else ''}"
            yield label, lambda compiled=compiled, x=x, params=params: compiled(x, params)


def serve(folder: Path, dtype: str) -> None:
    """Answer requests, one a line: the first run of a case (its result is saved), or some timed ones."""
    cases = dict(peer_cases(folder, dtype))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the peer's libraries print is no answer
    print(json.dumps(list(cases)), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        function = cases[request["case"]]
        if request["repeats"] == 0:
            start = time.perf_counter()
            result = np.asarray(function())
            np.save(folder / "peer.npy", result.reshape(len(result), -1))
            found = [time.perf_counter() - start]
        else:
            found = times(function, request["repeats"])
        print(json.dumps(found), file=answers, flush=True)


class Peer:
    """The other process, which keeps its compiled functions between requests."""

    def __init__(self, python: str, folder: Path, dtype: str):
        command = [python, __file__, "--serve", str(folder), "--dtype", dtype]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.cases: list[str] = json.loads(self._line())

    def _line(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the peer ended; see its message above")
        return line

    def ask(self, case: str, repeats: int) -> list[float]:
        self.process.stdin.write(json.dumps({"case": case, "repeats": repeats}) + "\n")
        self.process.stdin.flush()
        return json.loads(self._line())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


# --- ours ----------------------------------------------------------------------------------------------------------------


def ours(case: str, folder: Path, dtype: str) -> Callable[[], np.ndarray]:
    import jax
    import jax.numpy as jnp

    from foretrain import NTK
    from foretrain.kernels import empirical_ntk

    kind, rows, *rest = case.split()
    x, params = read_inputs(folder, int(rows), dtype)
    if kind == "gram":
        kernel = NTK(depth=int(rest[0]))
        return lambda: kernel(x, dtype=dtype)
    with jax.enable_x64(dtype == "float64"):
        device = jax.tree.map(jnp.asarray, params)
    return lambda: empirical_ntk(network, device, x)


def product(rows: int, folder: Path, dtype: str) -> Callable[[], Any]:
    """The bare matrix product of the inputs, the floor of a Gram matrix."""
    import jax
    import jax.numpy as jnp

    x = read_inputs(folder, rows, dtype)[0]
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(x)
        multiply = jax.jit(lambda x: x @ x.T).lower(x).compile()
    return lambda: multiply(x)


def compare(peer: Peer, folder: Path, dtype: str, rounds: int, repeats: int) -> None:
    """The rows of the table in one precision."""
    groups: dict[str, list[str]] = {}
    for case in peer.cases:
        name = case if case.startswith("gram") else " ".join(case.split()[:2])
        groups.setdefault(name, []).append(case)
    for name, cases in groups.items():
        rows = int(name.split()[1])
        function, floor = ours(name, folder, dtype), product(rows, folder, dtype)
        start = time.perf_counter()
        mine = function()
        first = time.perf_counter() - start
        times(floor, 2)
        exact = mine if dtype == "float64" else ours(name, folder, "float64")()
        scale = np.max(np.abs(exact))
        firsts, differences, errors = {}, {}, {}
        for case in cases:
            firsts[case] = peer.ask(case, 0)[0]
            theirs = np.load(folder / "peer.npy")
            differences[case] = float(np.max(np.abs(theirs - mine)) / scale)
            errors[case] = float(np.max(np.abs(theirs - exact)) / scale)
        error = float(np.max(np.abs(mine - exact)) / scale)
        found: dict[str, list[float]] = {case: [] for case in [*cases, "ours", "floor"]}
        for _ in range(rounds):
            for case in cases:
                found[case] += peer.ask(case, repeats)
            found["ours"] += times(function, repeats)
            found["floor"] += times(floor, repeats)
        for case in cases:
            show(dtype, f"neural-tangents: {case}", firsts[case], found[case], differences[case], errors[case])
        fastest = min(min(found[case]) for case in cases)
        ratio = f"{fastest / min(found['ours']):.1f} x faster"
        show(dtype, f"foretrain: {name}", first, found["ours"], 0.0, error, ratio)
        if name.startswith("gram"):
            show(dtype, "bare matrix product", np.nan, found["floor"], np.nan, np.nan)


def show(
    dtype: str, what: str, first: float, found: list[float], difference: float, error: float, end: str = ""
) -> None:
    numbers = f"{first:8.2f} {min(found) * 1e3:9.2f} {np.median(found) * 1e3:9.2f} {difference:11.1e} {error:11.1e}"
    print(f"{dtype} {what:58s} {numbers}  {end}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="Python of the environment that has neural-tangents")
    parser.add_argument("--alone", action="store_true", help="time the peer only; run with its Python")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each side in a round")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"])
    parser.add_argument("--keep", type=Path, help="folder for the inputs and the last result of the peer")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve, options.dtype)
    python = sys.executable if options.alone else options.peer_python
    if python is None:
        parser.error("expected --peer-python PATH, or --alone under the peer's Python")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        write_inputs(folder)
        print(f"{'':66s} {'first s':>8s} {'best ms':>9s} {'median ms':>9s} {'difference':>11s} {'error':>11s}")
        for dtype in options.dtypes:
            peer = Peer(python, folder, dtype)
            if options.alone:
                for case in peer.cases:
                    first = peer.ask(case, 0)[0]
                    found = peer.ask(case, options.rounds * options.repeats)
                    show(dtype, f"neural-tangents: {case}", first, found, np.nan, np.nan)
            else:
                compare(peer, folder, dtype, options.rounds, options.repeats)
            peer.close()
    print("difference: largest between the two, relative to the largest entry; error: the same, from ours in float64")


if __name__ == "__main__":
    main()
