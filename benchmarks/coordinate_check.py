"""Measured exponents of the coordinate check for all networks, schemes and both kinds of optimizer, as a Markdown table.

    python benchmarks/coordinate_check.py --networks mlp resnet --axes width depth

One line of JSON for each check goes to standard error as it ends; with `--lines FILE` lines of an earlier run are reused.
"""

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from foretrain import MLP, ConvResNet, NetworkTraining, ResNet, Transformer, ViT
from foretrain.diagnostics import CoordinateRow, coordinate_check
from foretrain.diagnostics._result import range_words

SCHEMES = ("sp", "ntk", "mup", "mup-depth", "completep")
NETWORKS: dict[str, Any] = {
    "mlp": MLP(width=64, depth=3, activation="tanh"),
    "resnet": ResNet(width=128, depth=4, activation="tanh"),
    "conv-resnet": ConvResNet(width=64, depth=4, norm="layernorm"),
    "vit": ViT(width=64, depth=2),
    "transformer": Transformer(width=64, depth=2),
}
# Channels are fewer than units: a convolution sums over nine pixels besides.
WIDTHS = {"conv-resnet": (16, 32, 64, 128, 256)}
DEPTHS = {"conv-resnet": (4, 8, 16, 32)}
# Large, but such that standard parameterization survives its first step at the largest width.
RATES = {("sp", "sgd"): 0.01, ("sp", "adam"): 1e-3, ("ntk", "sgd"): 0.5, ("ntk", "adam"): 0.5, "sgd": 0.5, "adam": 0.1}
# Means over tokens make the gradients of attention networks small.
TOKENS = {"vit": 4.0, "transformer": 10.0}
# The norm before the readout bends what moves by more than its own size: smaller first steps for Adam in sp.
NORMED = {"conv-resnet": 0.1, "vit": 0.1, "transformer": 0.1}
RIGHT = ("ok", "approaches")
SHOWN = (
    ("stream", "change"),
    ("branch", "change"),
    ("inside", "own change"),
    ("logits", "own change"),
    ("branch", "own change"),
    ("output", "change"),
)


def check(network: str, scheme: str, optimizer: str, axis: str, seeds: int) -> dict[str, Any]:
    model = NETWORKS[network].replace(parameterization=scheme)
    loss = "cross-entropy" if network == "transformer" else "mse"
    rate = RATES.get((scheme, optimizer), RATES[optimizer])
    rate *= TOKENS.get(network, 1.0) if optimizer == "sgd" else 1.0
    rate *= NORMED.get(network, 1.0) if (scheme, optimizer) == ("sp", "adam") else 1.0
    values = (
        DEPTHS.get(network, (4, 8, 16, 32, 64)) if axis == "depth" else WIDTHS.get(network, (64, 128, 256, 512, 1024))
    )
    steps = 1 if scheme in ("sp", "ntk") else 3
    start = time.perf_counter()
    found = coordinate_check(
        model,
        axis=axis,
        values=values,
        training=NetworkTraining(rate, optimizer=optimizer, loss=loss),
        seeds=seeds,
        steps=steps,
    )
    kinds: dict[str, Any] = {}
    for row in found.rows:
        # The last layer stands for all; the table of the check has the others.
        kinds["/".join((row.quantity.kind, row.quantity.measure))] = (row.slope, row.stderr, row.expected)
    wrong = [f"{row.words()}: {row.slope:.2f} ± {row.stderr:.2f}" for row in found.judged if row.verdict not in RIGHT]
    return {
        "network": network,
        "scheme": scheme,
        "optimizer": optimizer,
        "axis": axis,
        "sizes": f"{values[0]}–{values[-1]}",
        "seeds": seeds,
        "seconds": round(time.perf_counter() - start, 1),
        "passed": found.passed,
        "flat": found.flat,
        "cause": found.cause,
        "judged": len(found.judged),
        "wrong": wrong,
        "approaching": [approaching(row) for row in found.judged if row.verdict == "approaches"],
        "kinds": kinds,
    }


def approaching(row: CoordinateRow) -> list[str]:
    """Cells on a quantity whose exponent is reached in large sizes only."""
    slopes = [(row.slope, row.stderr), *((one.slope, one.stderr) for one in (row.largest, row.limit) if one)]
    return [row.words(), *(f"{slope:+.2f} ± {stderr:.2f}" for slope, stderr in slopes), range_words(row.expected)]


def cell(line: dict[str, Any], kind: str, measure: str) -> str:
    if f"{kind}/{measure}" not in line["kinds"]:
        return ""
    slope, stderr, expected = line["kinds"][f"{kind}/{measure}"]
    allowed = None if expected is None else (expected[0], float(np.inf) if expected[1] is None else expected[1])
    return f"{slope:+.2f} ± {stderr:.2f}" + ("" if allowed is None else f" ({range_words(allowed)})")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--schemes", nargs="+", default=list(SCHEMES), choices=SCHEMES)
    parser.add_argument("--optimizers", nargs="+", default=["sgd", "adam"])
    parser.add_argument("--axes", nargs="+", default=["width", "depth"], choices=["width", "depth"])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--lines", type=Path)
    arguments = parser.parse_args()
    done: dict[tuple, dict[str, Any]] = {}
    if arguments.lines is not None and arguments.lines.exists():
        for text in arguments.lines.read_text().splitlines():
            line = json.loads(text)
            done[tuple(line[key] for key in ("axis", "network", "scheme", "optimizer"))] = line
    lines = []
    for key in itertools.product(arguments.axes, arguments.networks, arguments.schemes, arguments.optimizers):
        axis, network, scheme, optimizer = key
        if axis == "depth" and (network == "mlp" or scheme in ("sp", "ntk")):
            continue  # nothing is promised
        if key not in done:
            done[key] = check(network, scheme, optimizer, axis, arguments.seeds)
            text = json.dumps(done[key]).replace("Infinity", "null")
            print(text, file=sys.stderr, flush=True)
            done[key] = json.loads(text)
            if arguments.lines is not None:
                with arguments.lines.open("a") as file:
                    file.write(text + "\n")
        lines.append(done[key])
    for axis in arguments.axes:
        heads = [f"{measure} of {kind}" for kind, measure in SHOWN]
        print(f"\n| network | scheme | optimizer | {axis} | " + " | ".join(heads) + " | within |")
        print("| --- " * (5 + len(SHOWN)) + "|")
        for line in [line for line in lines if line["axis"] == axis]:
            cells = [cell(line, *shown) for shown in SHOWN]
            names = [line["network"], line["scheme"], line["optimizer"], line["sizes"]]
            print(f"| {' | '.join(names + cells)} | {line['judged'] - len(line['wrong'])} of {line['judged']} |")
        found = [(line, cells) for line in lines if line["axis"] == axis for cells in line.get("approaching", ())]
        if found:
            heads = ["approached only", "all sizes", "larger half", "beside 1 / size", "promised"]
            print(f"\n| network | scheme | optimizer | {axis} | " + " | ".join(heads) + " |")
            print("| --- " * (4 + len(heads)) + "|")
        for line, cells in found:
            names = [line["network"], line["scheme"], line["optimizer"], line["sizes"]]
            print(f"| {' | '.join(names + cells)} |")


if __name__ == "__main__":
    main()
