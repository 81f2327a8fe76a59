"""Forecasts of real runs: fit the cheap part of every table, predict the dear part, beside simpler ways and public packages.

The tables are those of published papers (names in `tables` below), in the folder `--data`, `$FORETRAIN_DATA`/scaling, or ../shared/data/scaling.
Of a table with distinct budgets the two dearest are hidden, of three-column tables of optima the three dearest rows, of others the dearest
fifth of the rows; a table that comes with a split keeps its own. A method sees the rest and predicts every hidden row, with a 90 % interval.
Nothing that is hidden enters any choice.

Errors are |prediction / measurement - 1|: the mean over the rows of a task, the mean of that over tasks; "worst" is the worst row. Coverage is
the share of hidden rows inside the interval: the mean over tasks, and over rows.

    python benchmarks/forecasts.py [--peer-python PEER/bin/python] [--only PART-OF-A-NAME] [-j 2]

Peers: the power law of two parameters, log-linear least squares with its prediction intervals; SciPy's `curve_fit` of E + A/N^a + B/D^b from
the published constants (E + A/x^a with one variable, from a line through ln(loss - half the smallest)), with intervals from its covariance and the residuals; `simple-scaling-laws` (PyPI) in an
environment of its own (Python 3.12: `pip install simple-scaling-laws`), with its defaults and intervals of a new run.
"""

import argparse
import collections
import json
import math
import multiprocessing
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

LEVEL = 0.90
PEER = "simple-scaling-laws"


def folder(given):
    home = os.environ.get("FORETRAIN_DATA")
    places = [given, Path(home) / "scaling" if home else None, Path(__file__).parents[2] / "shared/data/scaling"]
    found = next((Path(p) for p in places if p is not None and Path(p).is_dir()), None)
    return found or sys.exit("No tables: give --data FOLDER.")


def dearest(cost, *, budgets=True, share=0.2):
    """The two dearest budgets where there are distinct ones, else the dearest fifth."""
    import numpy as np

    log = np.log(cost)
    order = np.argsort(log, kind="stable")
    level = np.empty(len(log), int)
    level[order] = np.cumsum(np.concatenate([[0], np.diff(log[order]) > 0.05]))
    if budgets and level.max() >= 4 and np.median(np.bincount(level)) >= 3:
        return level >= level.max() - 1
    return cost >= np.sort(cost)[-max(3, round(share * len(cost)))]


def tasks(data):
    """(family, name, table, variable or None, hidden rows) of every table."""
    import numpy as np

    from foretrain.laws import read_runs

    def parts(runs, *names):
        labels = np.array(["/".join(str(runs[n][i]) for n in names) for i in range(len(runs))])
        return [(label, runs.take(labels == label)) for label in dict.fromkeys(labels)]

    def cost(runs):
        return 6 * runs["params"] * runs["tokens"]

    epoch = read_runs(data / "chinchilla_epoch_245.csv").drop_largest_loss(5)
    yield "epoch", "epoch", epoch, None, dearest(cost(epoch))
    experiment = ("dataset", "hparams", "warmup", "decay", "param_count", "val")
    for name, runs in parts(read_runs(data / "porian_isoflop_points.csv"), *experiment):
        yield "porian", name, runs, None, dearest(runs["flops"])
    for name, runs in parts(read_runs(data / "gemstones_checkpoints.csv"), "subset"):
        yield "gemstones", name, runs, None, dearest(cost(runs), budgets=False)
    for column in ("loss_c4", "loss_paloma_redpajama", "loss_openlm_mix", "loss_paloma_ptb"):
        gadre = read_runs(data / "overtrain_gadre_104.csv", columns={"loss": column})
        for name, runs in parts(gadre, "dataset"):
            yield "gadre", f"{name} {column}", runs, None, dearest(cost(runs))
    # The table states one number of unique tokens for all rows, which its epochs contradict; it is derived from these instead.
    repeated = read_runs(data / "datablations_contours.csv", columns={"stated": "tokens_per_epoch"})
    yield "datablations", "datablations", repeated, None, dearest(cost(repeated))
    steps = read_runs(data / "steplaw_dense_lr_bs.csv")
    best = [runs.take([int(np.argmin(runs["loss"]))]) for _, runs in parts(steps, "params", "tokens")]
    columns = {n: [float(r[n][0]) for r in best] for n in ("params", "tokens", "loss")}
    yield "step law", "best of every cell", type(steps)(columns), None, dearest(cost(type(steps)(columns)))
    optima = read_runs(data / "porian_isoflop_optima.csv", columns={"loss": "loss_opt"}, where=("loss>0",))
    for name, runs in parts(optima, *experiment):
        yield "porian optima", name, runs, "flops", runs["flops"] >= np.sort(runs["flops"])[-3]
    language = read_runs(data / "revisiting_lang.csv", where=("loss>0",))
    for name, runs in parts(language, "domain", "task", "model"):
        yield "revisiting", name, runs, "seen_examples", runs["training"] == 0


def ours(law):
    def forecast(seen, x, at, group):
        from foretrain.laws import fit

        name = law if law == "auto" or x is None else "power"
        found = fit(seen, name, x=x, level=LEVEL, group=group)
        said = found.predict(at)
        return [said[end] for end in ("value", "low", "high")], found.settings.get("chosen", found.law.name)

    return forecast


def power_law(seen, x, at, group):
    import numpy as np
    from scipy.stats import t

    def features(columns):
        size = columns[x] if x else 6 * np.asarray(columns["params"]) * np.asarray(columns["tokens"])
        return np.stack([np.ones(len(size)), np.log(size)], axis=1)

    f, y = features(seen), np.log(seen["loss"])
    coefficients, *_ = np.linalg.lstsq(f, y, rcond=None)
    left = len(y) - 2
    variance = np.sum((y - f @ coefficients) ** 2) / left
    g = features(at)
    spread = np.sqrt(variance * (1 + np.einsum("ij,jk,ik->i", g, np.linalg.inv(f.T @ f), g)))
    reach = t.ppf(0.5 + LEVEL / 2, left) * spread
    return [np.exp(g @ coefficients + side * reach) for side in (0, -1, 1)], ""


def curve_fit(seen, x, at, group):
    import numpy as np
    from scipy.optimize import approx_fprime
    from scipy.optimize import curve_fit as scipy_fit
    from scipy.stats import norm

    if x:
        law = lambda c, E, A, a: E + A * c[0] ** -a  # noqa: E731
        slope, level = np.polyfit(np.log(seen[x]), np.log(seen["loss"] - 0.5 * min(seen["loss"])), 1)
        begin = (0.5 * min(seen["loss"]), np.exp(level), -slope)  # a line with half the smallest loss as the floor
    else:
        law, begin = (lambda c, E, A, B, a, b: E + A * c[0] ** -a + B * c[1] ** -b), (1.69, 406.4, 410.7, 0.34, 0.28)
    names = (x,) if x else ("params", "tokens")
    columns, y = np.array([seen[n] for n in names]), seen["loss"]
    found, covariance = scipy_fit(law, columns, y, begin, maxfev=100_000)
    points = np.array([at[n] for n in names])
    value = law(points, *found)
    slopes = np.array([approx_fprime(found, lambda p, i=i: law(points[:, [i]], *p)[0]) for i in range(points.shape[1])])
    residual = np.sum((y - law(columns, *found)) ** 2) / max(len(y) - len(found), 1)
    reach = norm.ppf(0.5 + LEVEL / 2) * np.sqrt(np.einsum("ij,jk,ik->i", slopes, covariance, slopes) + residual)
    return [value + side * reach for side in (0, -1, 1)], ""


METHODS = {
    "foretrain, auto": ours("auto"),
    "foretrain, chinchilla or power": ours("chinchilla"),
    "power law of two parameters": power_law,
    "SciPy curve_fit": curve_fit,
}


def run_task(task):
    import numpy as np

    warnings.simplefilter("ignore")
    family, name, runs, x, hidden = task
    seen, left = runs.take(~hidden), runs.take(hidden)
    at = {n: v for n, v in left.columns.items() if n != "loss" and left.is_number(n)}
    group = "run" if "run" in runs.columns else None
    rows = []
    for method, forecast in METHODS.items():
        began = time.process_time()
        try:
            (value, low, high), words = forecast(seen, x, at, group)
        except Exception as error:  # a peer that fails is a result
            value = low = high = np.full(len(left), np.nan)
            words = f"failed: {error}"
        rows.append(judged(family, name, method, left["loss"], value, low, high, time.process_time() - began, words))
    return rows


def judged(family, name, method, measured, value, low, high, seconds, words):
    import numpy as np

    measured, value, low, high = (np.asarray(v, float) for v in (measured, value, low, high))
    error = value / measured - 1
    return {
        "family": family,
        "name": name,
        "method": method,
        "rows": len(measured),
        "mean": float(np.mean(np.abs(error))),
        "worst": float(error[np.argmax(np.abs(error))]),
        "covered": float(np.mean((low <= measured) & (measured <= high))),
        "width": float(np.median(np.log(high / low))) if np.all(low > 0) else math.inf,
        "seconds": seconds,
        "words": words,
    }


def peer_rows(python, found):
    """The same tasks by the peer, in its own interpreter: this file again, with a folder of tables."""
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        tables = [
            {
                "family": family,
                "name": name,
                "variables": [x] if x else ["params", "tokens"],
                "seen": {n: runs.take(~hidden)[n].tolist() for n in ([x] if x else ["params", "tokens"]) + ["loss"]},
                "hidden": {n: runs.take(hidden)[n].tolist() for n in ([x] if x else ["params", "tokens"]) + ["loss"]},
                "run": [str(v) for v in runs.take(~hidden)["run"]] if "run" in runs.columns else None,
            }
            for family, name, runs, x, hidden in found
        ]
        path, out = Path(scratch) / "tasks.json", Path(scratch) / "found.json"
        path.write_text(json.dumps(tables))
        subprocess.run([python, __file__, "--as-peer", path, out], check=True)
        answers = json.loads(out.read_text())
    nan = float("nan")
    rows = []
    for task, answer in zip(tables, answers, strict=True):
        count = len(task["hidden"]["loss"])
        value, low, high = (answer.get(end) or [nan] * count for end in ("value", "low", "high"))
        about = (task["family"], task["name"], PEER, task["hidden"]["loss"])
        rows.append(judged(*about, value, low, high, answer["seconds"], answer["words"]))
    return rows


def as_peer(path, out):
    """Runs in the environment of the peer."""
    import polars
    import simple_scaling_laws as peer
    from simple_scaling_laws.model import quantile_suffix

    warnings.simplefilter("ignore")
    answers = []
    for task in json.loads(Path(path).read_text()):
        began, answer = time.process_time(), {"words": ""}
        try:
            roles = dict(zip(task["variables"], ("model_size__n", "dataset_size__d"), strict=False))
            if len(roles) == 1:
                roles = {task["variables"][0]: "dataset_size__d"}
            seen, hidden = task["seen"], task["hidden"]
            ids = task["run"] or [f"run{i}" for i in range(len(seen["loss"]))]
            columns = {"training_run_id": [f"{r}-{i}" for i, r in enumerate(ids)], "test_loss__ce": seen["loss"]}
            model = peer.fit(polars.DataFrame(columns | {role: seen[v] for v, role in roles.items()}), seed=0)
            points = polars.DataFrame({role: hidden[v] for v, role in roles.items()})
            ends = (0.5, 0.5 - LEVEL / 2, 0.5 + LEVEL / 2)
            said = model.predict(points, kind="new-run", quantiles=sorted(ends))
            columns = [f"test_loss__ce__{quantile_suffix(end)}" for end in ends]
            answer |= {n: said[c].to_list() for n, c in zip(("value", "low", "high"), columns, strict=True)}
        except Exception as error:
            answer["words"] = f"failed: {type(error).__name__}: {error}"
        answers.append(answer | {"seconds": time.process_time() - began})
    Path(out).write_text(json.dumps(answers))


def report(rows):
    import numpy as np

    methods = list(dict.fromkeys(r["method"] for r in rows))
    families = list(dict.fromkeys(r["family"] for r in rows))
    print(f"\n| {'table':15} | tasks | rows | " + " | ".join(methods) + " |")
    print("| --- | --- | --- | " + " | ".join("---" for _ in methods) + " |")
    for family in families:
        cells = []
        for method in methods:
            mine = [r for r in rows if r["family"] == family and r["method"] == method]
            cells.append(summary(mine))
        first = [r for r in rows if r["family"] == family and r["method"] == methods[0]]
        print(f"| {family:15} | {len(first)} | {sum(r['rows'] for r in first)} | " + " | ".join(cells) + " |")
    print(
        "\n| method | mean error | median task | worst row | coverage, tasks | coverage, rows | median width | failed | seconds |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for method in methods:
        mine = [r for r in rows if r["method"] == method]
        good = [r for r in mine if math.isfinite(r["mean"])]
        if not good:
            print(f"| {method} | failed everywhere: {mine[0]['words']} |")
            continue
        mean = np.array([r["mean"] for r in good])
        count = np.array([r["rows"] for r in good])
        covered = np.array([r["covered"] for r in good])
        worst = max((r["worst"] for r in good), key=abs)
        width = np.median([r["width"] for r in good])
        print(
            f"| {method} | {100 * mean.mean():.2f} % | {100 * np.median(mean):.2f} % | {100 * worst:+.1f} % | {100 * covered.mean():.1f} % | "
            f"{100 * (covered @ count) / count.sum():.1f} % | {100 * width:.1f} % | {len(mine) - len(good)} | {sum(r['seconds'] for r in mine):.0f} |"
        )


def summary(rows):
    import numpy as np

    good = [r for r in rows if math.isfinite(r["mean"])]
    if not good:
        return "failed"
    worst = max((r["worst"] for r in good), key=abs)
    covered = np.average([r["covered"] for r in good], weights=[r["rows"] for r in good])
    failed = f", {len(rows) - len(good)} failed" if len(good) < len(rows) else ""
    return f"{100 * np.mean([r['mean'] for r in good]):.2f} % ({100 * worst:+.1f}), {100 * covered:.0f} %{failed}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--peer-python")
    parser.add_argument("--only", default="")
    parser.add_argument("-j", type=int, default=1, help="processes")
    parser.add_argument("--json", type=Path, help="write all rows here")
    parser.add_argument("--as-peer", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.as_peer:
        return as_peer(*asked.as_peer)
    found = [t for t in tasks(folder(asked.data)) if asked.only in f"{t[0]} {t[1]}"]
    rows = []
    with multiprocessing.get_context("spawn").Pool(asked.j) as pool:
        for done in pool.imap(run_task, found):
            rows += done
            said = collections.ChainMap(*({r["method"]: r} for r in done))
            best = said["foretrain, auto"]
            print(
                f"{best['family']:14} {best['name'][:42]:42} "
                + "  ".join(f"{100 * said[m]['mean']:6.2f} % {said[m]['covered']:4.2f}" for m in METHODS)
                + f"  {best['words'][:110]}",
                flush=True,
            )
    if asked.peer_python:
        rows += peer_rows(asked.peer_python, found)
    if asked.json:
        asked.json.write_text(json.dumps(rows))
    report(rows)


if __name__ == "__main__":
    main()
