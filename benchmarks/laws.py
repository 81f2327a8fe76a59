"""Speed of fits of scaling laws, and whether they reach the optimum, beside SciPy from the same starts.

    OMP_NUM_THREADS=1 python benchmarks/laws.py [--data DIR] [--only PART ...] [--subset 400]

`--data` is the folder with the tables of real runs (`FORETRAIN_DATA`/scaling, or ../shared/data/scaling); without it the parts `starts`,
`bootstrap` and `tables` are left out. Parts: `starts` (Hoffmann's grid of 4500 starts on 240 points, arXiv 2404.10102), `bootstrap` (1000
fits to resampled points), `process` (whole processes of `foretrain fit`, from start to exit), `rows` (a table of 1e5 rows), `tables` (64
starts, the default, against 1000, on every table). Everything runs on one core. Times inside this process are its CPU time; whole
processes have both. An optimum is the smallest objective that any method found; a start is *at* it within 1e-6 relative, *near* it
within 1 %.
"""

import argparse
import itertools
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from foretrain.laws import CATALOGUE, Objective, Runs, law_named, read_runs
from foretrain.laws._problem import Problem, rows_of

FORETRAIN = ["-c", "import sys; from foretrain.cli import main; sys.exit(main())"]
AT, NEAR = 1e-6, 1e-2


def hoffmann_grid() -> np.ndarray:
    """The 4500 starts of arXiv 2203.15556, in the order of our coordinates: a, b, e, alpha, beta."""
    amplitudes, floors, powers = np.arange(0.0, 30.0, 5.0), np.arange(-1.0, 1.5, 0.5), np.arange(0.0, 2.5, 0.5)
    return np.array(list(itertools.product(amplitudes, amplitudes, floors, powers, powers)))


def problem_of(runs: Runs, law: str, delta: float = 1e-3) -> Problem:
    made = law_named(law, x="seen_examples" if CATALOGUE[law].one_variable else None)
    data = rows_of(runs, made, None)
    return Problem(made, data.x, data.y, Objective(delta=delta))


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """Seconds on the clock."""
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def computed(work: Callable[[], object]) -> tuple[float, object]:
    """Seconds of this process: on a machine that others use, too, the fairer number."""
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def scipy_methods(problem: Problem) -> dict[str, Callable[[np.ndarray], float]]:
    """What people run, from one start to the objective that it ends at."""
    delta = problem.objective.width

    def value(theta: np.ndarray) -> float:
        r = problem.residuals(theta[None], slopes=False)[0][0]
        size = np.abs(r)
        return float(np.sum(np.where(size <= delta, 0.5 * r * r, delta * (size - 0.5 * delta))))

    def both(theta: np.ndarray) -> tuple[float, np.ndarray]:
        r, slopes = problem.residuals(theta[None])
        return value(theta), slopes[0] @ np.clip(r[0], -delta, delta)

    def run(gradient: bool, mean: bool = False, **options: float) -> Callable[[np.ndarray], float]:
        factor = 1.0 / len(problem.y) if mean else 1.0

        def go(start: np.ndarray) -> float:
            with np.errstate(all="ignore"):
                if gradient:
                    found = minimize(both, start, jac=True, method="L-BFGS-B", options=options)
                else:
                    found = minimize(lambda t: factor * value(t), start, method="L-BFGS-B", options=options)
            return value(found.x)

        return go

    return {
        "SciPy L-BFGS-B, finite differences": run(False),
        "the same, mean instead of sum": run(False, mean=True),
        "SciPy L-BFGS-B, exact gradient": run(True),
        "the same, ftol 1e-15, gtol 1e-10, 15 000 iterations": run(
            True, ftol=1e-15, gtol=1e-10, maxiter=15_000, maxfun=100_000
        ),
    }


def starts_part(epoch: Runs, subset: int) -> None:
    problem, grid = problem_of(epoch, "chinchilla"), hoffmann_grid()
    rows = []
    seconds, (solved, tried, agreeing) = computed(lambda: problem.solve(1, np.random.default_rng(0), grid))
    best = float(solved.objective[0])
    rows.append((f"foretrain, {tried} starts, as `fit` does it", seconds, tried, agreeing / tried, None))
    seconds, found = computed(lambda: problem.minimize(grid, iterations=150))
    rows.append(
        (f"foretrain, {len(grid)} starts, the last stage alone", seconds, len(grid), *shares(found.objective, best))
    )
    chosen = grid[np.random.default_rng(0).permutation(len(grid))[:subset]]
    for name, method in scipy_methods(problem).items():
        seconds, ends = computed(lambda method=method: np.array([method(start) for start in chosen]))
        rows.append((f"{name}, {subset} of them", seconds, subset, *shares(ends, best)))
    print(f"\nOptimum {best:.8e}, gradient {float(solved.gradient[0]):.1e}\n")
    print("| method | CPU time | per start | at the optimum (1e-6) | near it (1 %) |\n| --- | --- | --- | --- | --- |")
    for name, seconds, count, at, near in rows:
        print(
            f"| {name} | {seconds:.1f} s | {1e3 * seconds / count:.2f} ms | {at:.1%} | {'' if near is None else f'{near:.1%}'} |"
        )


def shares(ends: np.ndarray, best: float) -> tuple[float, float]:
    return float(np.mean(ends <= best * (1 + AT))), float(np.mean(ends <= best * (1 + NEAR)))


def bootstrap_part(epoch: Runs) -> None:
    problem = problem_of(epoch, "chinchilla")
    theta = problem.solve(64, np.random.default_rng(0))[0].theta[0]
    seconds, found = computed(
        lambda: problem.bootstrap(theta, np.arange(len(problem.y)), 1000, np.random.default_rng(1))
    )
    print(f"\n1000 bootstrap fits to {len(problem.y)} points: {seconds:.2f} s of CPU, {len(found)} converged")  # type: ignore[arg-type]


def process(*command: str) -> tuple[float, float]:
    """Seconds on the clock and of the CPU that a process takes from its start to its exit."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, _ = timed(lambda: subprocess.run([sys.executable, *command], check=True, capture_output=True))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def process_part(table: Path | None) -> None:
    print("\n| process | clock, best and worst of five | CPU, best and worst |\n| --- | --- | --- |")
    rows = {"Python that imports NumPy": ("-c", "import numpy"), "`foretrain --help`": (*FORETRAIN, "--help")}
    if table is not None:
        rows["`foretrain fit`, 240 points, all intervals"] = (*FORETRAIN, "fit", str(table), "--drop-largest-loss", "5")
    for name, command in rows.items():
        clock, cpu = zip(*(process(*command) for _ in range(5)), strict=True)
        print(f"| {name} | {min(clock):.2f} s, {max(clock):.2f} s | {min(cpu):.2f} s, {max(cpu):.2f} s |", flush=True)


def rows_part() -> None:
    """1e5 runs of a known law, read from CSV and fitted with intervals by a process of its own."""
    rng = np.random.default_rng(0)
    params, ratio = np.exp(rng.uniform(np.log(1e7), np.log(1e10), 100_000)), np.exp(rng.uniform(0.0, 6.0, 100_000))
    tokens = params * ratio
    loss = (1.8 + 480 / params**0.347 + 2100 / tokens**0.366) * np.exp(0.005 * rng.standard_normal(len(params)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.csv"
        np.savetxt(
            path, np.column_stack([params, tokens, loss]), "%.17g", ",", header="params,tokens,loss", comments=""
        )
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        clock, cpu = process(*FORETRAIN, "fit", str(path))
        after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    told = f"{after / 1024:.0f} MB" if after > before else f"below {before / 1024:.0f} MB, which another process took"
    print(f"\n1e5 rows, whole process: {clock:.1f} s on the clock, {cpu:.1f} s of CPU, peak memory {told}")


def tables(data: Path) -> Iterator[tuple[str, Runs, tuple[str, ...]]]:
    epoch = read_runs(data / "chinchilla_epoch_245.csv")
    yield "Epoch, 240 points", epoch.drop_largest_loss(5), ("chinchilla", "chinchilla-tied", "kaplan")
    yield "Epoch, 245 points", epoch, ("chinchilla",)
    gemstones = read_runs(data / "gemstones_checkpoints.csv")
    yield "Gemstones, hot", gemstones.where("subset=hot"), ("chinchilla", "gemstones")
    yield "Gemstones, > 100 G tokens", gemstones.where("subset=hot_100b_plus"), ("chinchilla",)
    yield "Gemstones, cooled", gemstones.where("subset=cooldown_end"), ("chinchilla",)
    gadre = read_runs(data / "overtrain_gadre_104.csv", columns={"loss": "loss_c4"})
    for name in ("c4_original", "rpj", "rw_original"):
        yield f"Gadre, {name}", gadre.where(f"dataset={name}"), ("chinchilla", "gadre")
    porian = read_runs(data / "porian_isoflop_points.csv")
    yield (
        "Porian, tuned",
        porian.where("dataset=rw", "hparams=tuned", "param_count=standard", "val=val"),
        ("chinchilla",),
    )
    # The table's own number of unique tokens contradicts its epochs; without it, it is derived from them.
    repeated = read_runs(data / "datablations_contours.csv", columns={"stated_unique": "tokens_per_epoch"})
    yield "Repeated data", repeated, ("muennighoff",)
    curves = read_runs(data / "revisiting_lang.csv")
    for model in ("6 Enc, 6 Dec", "28 Enc, 6 Dec"):
        runs = curves.where("domain=NMT", f"model={model}", "training=1")
        yield f"Translation, {model}", runs, ("power", "shifted", "m4", "broken")


def tables_part(data: Path) -> None:
    print(
        "\n| table | rows | law | delta | default: objective, starts there, time | 1000 starts: difference, starts there, time | gradient |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, runs, laws in tables(data):
        for law, delta in itertools.product(laws, (1e-3, 1e-4)):
            problem = problem_of(runs, law, delta)
            few = computed(lambda p=problem: p.solve(64, np.random.default_rng(0)))
            many = computed(lambda p=problem: p.solve(1000, np.random.default_rng(0)))
            (solved, tried, agreeing), (all_solved, all_tried, all_agreeing) = few[1], many[1]  # type: ignore[misc]
            ours, theirs = float(solved.objective[0]), float(all_solved.objective[0])
            print(
                f"| {name} | {len(problem.y)} | {law} | {delta:g} | {ours:.7e}, {agreeing}/{tried}, {few[0]:.1f} s "
                f"| {ours / theirs - 1:+.0e}, {all_agreeing}/{all_tried}, {many[0]:.1f} s | {float(solved.gradient[0]):.0e} |",
                flush=True,
            )


def data_folder(given: str | None) -> Path | None:
    home = os.environ.get("FORETRAIN_DATA")
    places = [Path(given)] if given else [Path(home) / "scaling", Path(home)] if home else []
    places.append(Path(__file__).resolve().parents[2] / "shared" / "data" / "scaling")
    return next((place for place in places if (place / "chinchilla_epoch_245.csv").is_file()), None)


def main() -> None:
    parts = ("starts", "bootstrap", "process", "rows", "tables")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of the tables of real runs")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--subset", type=int, default=400, help="starts that SciPy gets (400)")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    data = data_folder(options.data)
    table = None if data is None else data / "chinchilla_epoch_245.csv"
    if data is None:
        print("The tables of real runs are not here; parts that need them are left out.")
    print(f"Load of the machine at the start: {os.getloadavg()[0]:.1f}")
    if table is not None:
        epoch = read_runs(table).drop_largest_loss(5)
        if "starts" in options.only:
            starts_part(epoch, options.subset)
        if "bootstrap" in options.only:
            bootstrap_part(epoch)
    if "rows" in options.only:
        rows_part()
    if "process" in options.only:
        process_part(table)
    if "tables" in options.only and data is not None:
        tables_part(data)
    print(f"\nLoad of the machine at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
