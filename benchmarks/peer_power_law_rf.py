"""One-pass SGD in power-law random features, beside the public ODE code of the group that wrote the 4+3 phases paper.

    OMP_NUM_THREADS=1 python benchmarks/peer_power_law_rf.py --peer-python PYTHON --peer-path FOLDER [--steps 1e6] [--json]

FOLDER holds the package `power_law_rf` (GitHub: LosVolterrosHermanos/Experimental) and PYTHON imports it (jax, optax, scipy).
The problem is the peer's: d = 500 features of v = 5000 inputs, alpha = 1, beta = 0.7, step 0.3, batches of one sample. In this
library's letters: eigenvalues j^-2alpha, target power j^-2beta, width d, one pass. The peer's risk is half the mean squared
error; everything here is the mean squared error.

The peer integrates an ODE per eigenvalue in log time by implicit Euler, from eigenvalues and weights that come in three ways:
`leading` (its `theory_rhos`), `drawn` (one random feature matrix) and `deterministic` (its deterministic equivalent; skipped
when it takes longer than --deterministic-limit, or read from --weights-file, which is written when it does not exist).
`full` keeps the terms of second order in the step, `approximate` drops them.

Peer and library run in turn, each in one warm process on the same core. `first` is the first call of that kind; `again` is the
best and worst of the calls after it: the peer's function called as it is (JAX traces and compiles it at every call), and `jit`
the same wrapped once in `jax.jit` from outside, the kindest reading. Errors are the largest relative ones at the printed steps:
`own` against the same equations solved finely (peer: same weights and terms, 64 bits, step size extrapolated to 0; library: 14
contour points on all 5000 modes), `limit` against the deterministic equivalent by an explicit Volterra sum over all modes (an
independent program, 10 digits), with the term of relative order 1 / batch that Gaussian inputs add where the row has it
(`full`), `SGD` against exact one-pass SGD on Gaussian data averaged over --draws feature matrices, whose own standard errors are
printed.
"""

import argparse
import json
import os
import select
import subprocess
import sys
import time

import numpy as np

WIDTH, MODES, ALPHA, BETA, RATE, BATCH = 500, 5000, 1.0, 0.7, 0.3, 1
STEPS = np.array([10**2, 10**3, 10**4, 10**5, 10**6])
# Volterra sums over all modes, kernel by kernel to 1e5 (1e6 for the first); generating functions agree in all digits.
LEADING = np.array([5.9610934866e-3, 5.8663464958e-4, 1.2323616034e-4, 5.0140398421e-5, 3.6008880538e-5])
GAUSSIAN = np.array([6.5083578764e-3, 6.2564632960e-4, 1.3061041654e-4, 5.3089285475e-5, 3.8124006399e-5])


def peer_worker(path: str) -> None:
    """In the peer's interpreter: a JSON request a line, a JSON answer a line."""
    sys.path.insert(0, path)
    import jax
    import jax.numpy as jnp
    from power_law_rf import PowerLawRF, ode
    from power_law_rf import deterministic_equivalent as equivalent

    class Concrete:
        """`jnp` with the logarithm of a plain number left a plain number, without which the function cannot be jitted."""

        def __getattr__(self, name):
            return getattr(jnp, name)

        def log(self, x):
            return float(np.log(x)) if isinstance(x, float) else jnp.log(x)

    ode.jnp = Concrete()

    def weights(kind: str, points: int | None = None, file: str | None = None):
        limit = equivalent.theory_limit_loss(ALPHA, BETA, MODES, WIDTH)
        if kind == "leading":
            return *equivalent.theory_rhos(ALPHA, BETA, WIDTH), limit
        if kind == "drawn":
            problem = PowerLawRF.initialize_random(ALPHA, BETA, MODES, WIDTH, jax.random.PRNGKey(0))
            return problem.get_hessian_spectra(), problem.get_rhos(), problem.get_empirical_limit_loss()
        if file and os.path.exists(file):
            stored = np.load(file)
            return jnp.asarray(stored["eigenvalues"]), jnp.asarray(stored["weights"]), limit
        values = equivalent.deterministic_spectra(MODES, WIDTH, ALPHA, xs_per_split=points)
        lowest = 0.5 * equivalent.theory_lambda_min(ALPHA, MODES, WIDTH)
        upper = values - 0.5 * jnp.diff(values, prepend=2.2)
        lower = values + 0.5 * jnp.diff(values, append=lowest)
        found = equivalent.deterministic_rho_weights(MODES, WIDTH, ALPHA, BETA, lower, upper, xs_per_split=points)
        if file:
            np.savez(file, eigenvalues=np.asarray(values), weights=np.asarray(found))
        return values, found, limit

    inputs, programs = {}, {}
    zero, one = (lambda t: 0.0), (lambda t: 1.0)
    sgd = ode.DanaHparams(zero, lambda t: RATE, zero, one)

    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        if request["what"] == "weights":
            kind = request["kind"]
            if "given" in request:
                values, found, limit = map(jnp.asarray, request["given"])
            else:
                values, found, limit = weights(**{k: v for k, v in request.items() if k != "what"})
            rest = jnp.zeros_like(values)
            dtype = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
            made = [jnp.asarray(x, dtype) for x in (values, found, rest, rest, limit)]
            inputs[kind] = jax.block_until_ready(ode.ODEInputs(*made))
            answer = {"given": [np.asarray(x, float).tolist() for x in (values, found, limit)]}
        else:
            kind, step, approximate = request["kind"], request["step"], request["approximate"]
            state = inputs[kind]
            # The grid ends below its last time; two steps more put the last printed time inside.
            last = float(request["last"] * np.exp(2 * step))

            def solve(x, step=step, approximate=approximate, last=last):
                count = x.eigs_K.shape[0]
                return ode.ode_resolvent_log_implicit(x, sgd, BATCH, count, last, step, approximate=approximate)

            if request["jit"]:
                solve = programs.setdefault((kind, step, approximate, last), jax.jit(solve))
            times, risks = jax.block_until_ready(solve(state))
            answer = {}
        answer["seconds"] = time.perf_counter() - start
        if request["what"] == "curve":
            clock, losses = np.log1p(np.asarray(times, float)), np.asarray(risks, float)
            at = np.log1p(np.asarray(request["at"], float))
            answer |= {"values": np.exp(np.interp(at, clock, np.log(losses))).tolist(), "points": len(losses)}
        print(json.dumps(answer), flush=True)


class Peer:
    """One warm process of the peer."""

    def __init__(self, options, wide: bool = False):
        environment = os.environ | {"JAX_ENABLE_X64": str(int(wide)), "JAX_PLATFORMS": "cpu"}
        command = [options.peer_python, os.path.abspath(__file__), "--worker", "--peer-path", options.peer_path]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def ask(self, limit: float | None = None, **request) -> dict:
        """The answer; TimeoutError where it took longer than `limit` seconds (the process is ended)."""
        print(json.dumps(request), file=self.process.stdin, flush=True)
        if not select.select([self.process.stdout], [], [], limit)[0]:
            self.process.kill()
            raise TimeoutError
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the peer's process ended: its message is above")
        return json.loads(line)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def library(times, exact: int | None = None):
    """Setup in seconds, and a function that solves for all `times`."""
    from foretrain.limits.linear import StochasticDescent, linear_curves, spectral_measure

    start = time.perf_counter()
    j = np.arange(1.0, MODES + 1.0)
    compression = {} if exact is None else {"exact": exact}
    measure = spectral_measure(j ** (-2 * ALPHA), j ** (-2 * BETA), **compression)
    dynamics = StochasticDescent(RATE, batch_size=BATCH)

    def solve():
        return linear_curves(measure, times, WIDTH, np.inf, 0.0, dynamics, threads=1).test[0, 0]

    return time.perf_counter() - start, solve


def timed(solve, repeats: int):
    found = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        values = solve()
        found.append(time.perf_counter() - start)
    return found, values


def exact_sgd(at, draws: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error of the loss of one-pass SGD: exact averages over Gaussian data, per drawn features.

    With Gaussian inputs the part of the target outside the features is independent noise, and the mean squares of the
    error along the eigenvectors of the feature covariance obey a closed recursion.
    """
    rng = np.random.default_rng(seed)
    j = np.arange(1.0, MODES + 1.0)
    target = j ** (-ALPHA - BETA)
    values, power, floor = [], [], []
    for _ in range(draws):
        features = j[:, None] ** -ALPHA * rng.standard_normal((MODES, WIDTH)) / np.sqrt(WIDTH)
        left, singular, _ = np.linalg.svd(features, full_matrices=False)
        along = (target @ left) ** 2
        values.append(singular**2)
        power.append(along)
        floor.append(target @ target - along.sum())
    lam, parts, floor = np.array(values), np.array(power), np.array(floor)[:, None]
    keep = (1 - RATE * lam) ** 2 + (RATE * lam) ** 2 / BATCH
    kick = RATE**2 / BATCH * lam**2
    found, step = [], 0
    for stop in at:
        for _ in range(stop - step):
            parts = keep * parts + kick * (parts.sum(1, keepdims=True) + floor)
        step = stop
        found.append((parts.sum(1, keepdims=True) + floor)[:, 0])
    found = np.array(found)
    return found.mean(1), found.std(1, ddof=1) / np.sqrt(draws)


def worst(values, reference) -> float:
    return float(np.max(np.abs(np.asarray(values) / reference - 1)))


def peer_rows(options, at, solve, mean, ours: list) -> list[dict]:
    rows = []
    narrow, wide = Peer(options), Peer(options, wide=True)
    for kind in options.weights:
        request, limit = {"what": "weights", "kind": kind}, None
        if kind == "deterministic":
            request |= {"points": options.points, "file": options.weights_file}
            limit = options.deterministic_limit
        try:
            made = narrow.ask(limit, **request)
        except TimeoutError:
            rows.append({"name": f"peer, {kind} weights: not finished in {limit:.0f} s"})
            narrow = Peer(options)
            continue
        wide.ask(what="weights", kind=kind, given=made["given"])
        for approximate in (True, False) if kind == "leading" else (False,):
            common = {"what": "curve", "kind": kind, "approximate": approximate, "last": at[-1], "at": at}
            coarse, fine = (np.array(wide.ask(step=h, jit=True, **common)["values"]) for h in (2e-3, 1e-3))
            for step in options.step_sizes:
                for jit in (False, True):
                    found = []
                    for _ in range(options.repeats + 1):
                        answer = narrow.ask(step=step, jit=jit, **common)
                        found.append(answer["seconds"])
                        start = time.perf_counter()
                        solve()
                        ours.append(time.perf_counter() - start)
                        if len(found) > 2 and sum(found) > 20:
                            break
                    terms = "approximate" if approximate else "full"
                    rows.append(
                        row(
                            f"peer, {kind}, {terms}, {step:g}{', jit' if jit else ''}",
                            answer["points"],
                            made["seconds"],
                            found,
                            answer["values"],
                            (2 * fine - coarse, (LEADING if approximate else GAUSSIAN)[: len(at)], mean),
                        )
                    )
    narrow.close()
    wide.close()
    return rows


def row(name, points, setup, found, values, references) -> dict:
    own, limit, sgd = references
    return {
        "name": name,
        "points": points,
        "setup_s": setup,
        "first_s": found[0],
        "best_ms": 1e3 * min(found[1:]),
        "worst_ms": 1e3 * max(found[1:]),
        "values": list(map(float, values)),
        "own": worst(values, own),
        "limit": worst(values, limit),
        "sgd": None if sgd is None else worst(values, sgd),
    }


def measured(options) -> dict:
    at = [int(t) for t in STEPS if t <= options.steps]
    leading = LEADING[: len(at)]
    mean, error = exact_sgd(at, options.draws) if options.draws > 1 else (None, None)
    curve = np.unique(np.concatenate([at, np.round(np.logspace(np.log10(12), np.log10(at[-1]), 200))]))
    rows, kept = [], {}
    for times in (curve, np.array(at, float)):
        setup, solve = library(times)
        kept[len(times)] = [setup, solve, *timed(solve, options.repeats)]
    ours: list[float] = []
    found = peer_rows(options, at, kept[len(curve)][1], mean, ours)
    kept[len(curve)][2] += ours

    from foretrain.limits.linear import _contour as contour

    contour.OPEN_POINTS, contour.CHECK_POINTS = 14, 12
    finely = library(np.array(at, float), exact=MODES)[1]()
    for points, (setup, _, seconds, values) in kept.items():
        shown = values[np.isin(curve, at)] if points == len(curve) else values
        rows.append(row("library", points, setup, seconds, shown, (finely, leading, mean)))
    return {
        "steps": at,
        "leading": leading.tolist(),
        "gaussian": GAUSSIAN[: len(at)].tolist(),
        "sgd": None if mean is None else mean.tolist(),
        "sgd_error": None if error is None else error.tolist(),
        "rows": rows + found,
    }


def show(result: dict, draws: int) -> None:
    steps = " | ".join(f"{t:.0e}" for t in result["steps"])
    print(f"| what | points | setup | first | again | {steps} | own | limit | SGD |")
    print("| --- " * (8 + len(result["steps"])) + "|")

    def line(name, values, *rest):
        print(f"| {name} | " + " | ".join([*rest[:4], *(f"{v:.5e}" for v in values), *rest[4:]]) + " |")

    blank = [""] * 4
    line("Volterra sum, all modes", result["leading"], *blank, "", "", "")
    line("the same with the Gaussian term", result["gaussian"], *blank, "", "", "")
    if result["sgd"]:
        line(f"exact SGD, mean of {draws} draws", result["sgd"], *blank, "", "", "")
        line("its standard error", result["sgd_error"], *blank, "", "", "")
    for r in result["rows"]:
        if "values" not in r:
            print(f"| {r['name']} |")
            continue
        line(
            r["name"],
            r["values"],
            str(r["points"]),
            f"{r['setup_s']:.3f} s",
            f"{r['first_s']:.2f} s",
            f"{r['best_ms']:.1f} to {r['worst_ms']:.1f} ms",
            f"{r['own']:.1e}",
            f"{r['limit']:.1e}",
            "" if r["sgd"] is None else f"{r['sgd']:.1e}",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", help="interpreter that can import the peer")
    parser.add_argument("--peer-path", required=True, help="folder that holds the package power_law_rf")
    parser.add_argument("--steps", type=float, default=1e5, help="last step, a power of ten from 1e2 to 1e6")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--draws", type=int, default=8, help="feature matrices for the exact SGD; 0 leaves it out")
    parser.add_argument("--weights", nargs="+", default=["leading", "drawn", "deterministic"])
    parser.add_argument("--step-sizes", nargs="+", type=float, default=[1e-1, 1e-2, 1e-3, 1e-4])
    parser.add_argument("--points", type=int, help="the peer's xs_per_split for deterministic weights; its own default")
    parser.add_argument("--weights-file", help="deterministic weights (.npz): read, or written where there is none")
    parser.add_argument("--deterministic-limit", type=float, default=100.0, help="seconds")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        peer_worker(options.peer_path)
        return
    if not options.peer_python:
        parser.error("--peer-python is needed")
    os.environ |= {"OMP_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    result = measured(options)
    print(json.dumps(result, indent=1)) if options.json else show(result, options.draws)


if __name__ == "__main__":
    main()
