"""Factors and training of two models side by side with the `mup` package of Microsoft: an MLP and an attention block.

`mup` 1.0.0 lives in an environment of its own, with the same PyTorch:

    python3.11 -m venv PEER
    PEER/bin/pip install torch==2.13.0 pyyaml numpy
    PEER/bin/pip install --no-deps mup==1.0.0

This script runs in the environment of foretrain, makes its tables from shapes alone, and starts itself in the other one with
them. There, the models are given base shapes with `set_base_shapes`, and for every tensor the following are read off:

- init: standard deviation at the target over that at the base, after both were filled with 1 / sqrt(fan-in) and rescaled;
- multiplier: what `MuReadout` divides by;
- rate and decay: what `MuSGD` and `MuAdamW` put into their groups, over what they were given.

Then the `mup` model is trained for twenty steps, and so is a plain one from the same weights with our factors, in float64.

    python benchmarks/peer_mup.py --peer-python PEER/bin/python
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

WIDTH, BASE, DELTA = 256, 32, 64
CLASSES, INPUTS, TOKENS, VOCABULARY, HEAD_DIM = 10, 7, 12, 17, 16
OPTIMIZERS = {"sgd": "MuSGD", "adamw": "MuAdamW"}
RATE, DECAY, STEPS = {"sgd": 0.05, "adamw": 0.003}, 0.02, 20

ROLES = {
    "mlp": {
        "first.weight": "input",
        "first.bias": "final_vector",
        "middle.weight": "hidden_inner",
        "middle.bias": "final_vector",
        "last.weight": "output",
        "last.bias": "output_bias",
    },
    "attention": {
        "embed.weight": "embedding",
        "positions": "embedding",
        "query.weight": "hidden_qk",
        "key.weight": "hidden_qk",
        "value.weight": "hidden_inner",
        "out.weight": "hidden",
        "up.weight": "hidden_inner",
        "up.bias": "branch_vector_inner",
        "down.weight": "hidden",
        "norm*": "branch_vector_inner",
        "last.weight": "output",
        "last.bias": "output_bias",
    },
}


def shapes(name, width):
    if name == "mlp":
        found = {"first.weight": (width, INPUTS), "first.bias": (width,), "middle.weight": (width, width)}
        found |= {"middle.bias": (width,)}
    else:
        found = {"embed.weight": (VOCABULARY, width), "positions": (TOKENS, width)}
        found |= {f"{part}.weight": (width, width) for part in ("query", "key", "value", "out")}
        found |= {"up.weight": (4 * width, width), "up.bias": (4 * width,), "down.weight": (width, 4 * width)}
        found |= {f"norm{i}.{leaf}": (width,) for i in range(3) for leaf in ("weight", "bias")}
    return found | {"last.weight": (CLASSES, width), "last.bias": (CLASSES,)}


def ours():
    """Model -> optimizer -> tensor -> our factors."""
    from foretrain.parameterization import parameterize

    found = {}
    for name, roles in ROLES.items():
        for optimizer in OPTIMIZERS:
            p = parameterize(
                shapes(name, WIDTH),
                base=shapes(name, BASE),
                growing={"width": (BASE, WIDTH)},
                roles=roles,
                scheme="mup",
                optimizer=optimizer,
            )
            found.setdefault(name, {})[optimizer] = {
                path: [getattr(rule.entry, part) for part in ("init_std", "multiplier", "lr", "weight_decay")]
                for path, rule in p.tensors.items()
            }
    return found


def peer(tables):
    """The same from `mup`, and the largest difference between the losses of both trainings."""
    import mup
    import torch
    from torch import nn

    torch.set_default_dtype(torch.float64)

    class Mlp(nn.Module):
        def __init__(self, width, readout=nn.Linear, scale=1.0):
            super().__init__()
            self.first, self.middle = nn.Linear(INPUTS, width), nn.Linear(width, width)
            self.last, self.scale = readout(width, CLASSES), scale

        def forward(self, x):
            return self.last(self.scale * torch.tanh(self.middle(torch.tanh(self.first(x)))))

    class Attention(nn.Module):
        def __init__(self, width, readout=nn.Linear, scale=1.0):
            super().__init__()
            self.embed, self.positions = nn.Embedding(VOCABULARY, width), nn.Parameter(torch.randn(TOKENS, width))
            for part in ("query", "key", "value", "out"):
                setattr(self, part, nn.Linear(width, width, bias=False))
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width, bias=False)
            self.norm0, self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
            self.last, self.scale = readout(width, CLASSES), scale

        def forward(self, tokens):
            h = self.embed(tokens) + self.positions
            x = self.norm0(h)
            q, k, v = (
                part(x).unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2) for part in (self.query, self.key, self.value)
            )
            mixed = torch.softmax(q @ k.mT / HEAD_DIM, -1) @ v
            h = h + self.out(mixed.transpose(1, 2).flatten(2))
            h = h + self.down(torch.relu(self.up(self.norm1(h))))
            return self.last(self.scale * self.norm2(h))

    def filled(model):
        with torch.no_grad():
            for path, value in model.named_parameters():
                fan_in = value.shape[1] if value.ndim == 2 and path.split(".")[0] not in ("embed", "positions") else 1
                value.fill_(fan_in**-0.5)
        return model

    def with_base(kind, width, rescaled=True):
        model = filled(kind(width, mup.MuReadout)) if rescaled else kind(width, mup.MuReadout)
        mup.set_base_shapes(model, kind(BASE, mup.MuReadout), delta=kind(DELTA, mup.MuReadout))
        return model

    torch.manual_seed(0)
    inputs = {"mlp": torch.randn(64, INPUTS), "attention": torch.randint(VOCABULARY, (8, TOKENS))}
    found, gaps = {}, {}
    for name, kind in (("mlp", Mlp), ("attention", Attention)):
        big, small = with_base(kind, WIDTH), with_base(kind, BASE)
        std = {path: float(v.detach().flatten()[0]) for path, v in small.named_parameters()}
        for optimizer, maker in OPTIMIZERS.items():
            made = getattr(mup, maker)(big.parameters(), lr=1.0, weight_decay=1.0)
            group_of = {id(v): group for group in made.param_groups for v in group["params"]}
            found.setdefault(name, {})[optimizer] = {
                path: [
                    float(value.detach().flatten()[0]) / std[path],
                    1 / big.last.width_mult() if path == "last.weight" else 1.0,
                    group_of[id(value)]["lr"],
                    group_of[id(value)]["weight_decay"],
                ]
                for path, value in big.named_parameters()
            }
            theirs = with_base(kind, WIDTH, rescaled=False)
            table = tables[name][optimizer]
            plain = kind(WIDTH, scale=table["last.weight"][1])
            plain.load_state_dict(theirs.state_dict())
            # The package decays every tensor, also those to which our table gives no decay: the comparison leaves vectors out.
            decayed = {
                path for path, row in table.items() if row[3] is not None and "weight" in path and "norm" not in path
            }
            rate = RATE[optimizer]
            options = {"momentum": 0.9} if optimizer == "sgd" else {"eps": 1e-12}
            split = [[v for p, v in theirs.named_parameters() if (p in decayed) == yes] for yes in (True, False)]
            groups = [{"params": v, "weight_decay": DECAY * yes} for v, yes in zip(split, (1, 0), strict=True)]
            one = getattr(mup, maker)(groups, lr=rate, **options)
            two = (torch.optim.SGD if optimizer == "sgd" else torch.optim.AdamW)(
                [
                    {
                        "params": [v],
                        "lr": rate * table[p][2],
                        "weight_decay": DECAY * table[p][3] if p in decayed else 0.0,
                    }
                    for p, v in plain.named_parameters()
                ],
                lr=rate,
                **options,
            )
            losses = []
            targets = torch.randn(CLASSES)
            for model, stepper in ((theirs, one), (plain, two)):
                for _ in range(STEPS):
                    stepper.zero_grad()
                    loss = (model(inputs[name]) - targets).square().mean()
                    loss.backward()
                    stepper.step()
                    losses.append(loss.item())
            gaps[f"{name}, {optimizer}"] = [
                losses[0],
                losses[STEPS - 1],
                max(abs(a - b) for a, b in zip(losses[:STEPS], losses[STEPS:], strict=True)),
            ]
    return found, gaps


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", help="Python of the environment with mup")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        json.dump(peer(json.load(sys.stdin)), sys.stdout)
        return
    tables = ours()
    command = [options.peer_python or sys.executable, str(Path(__file__).resolve()), "--alone"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    answer = subprocess.run(
        command, input=json.dumps(tables), stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    theirs, gaps = json.loads(answer.stdout)
    worst = 0.0
    for name, by_optimizer in tables.items():
        for optimizer, rows in by_optimizer.items():
            print(f"\n{name}, {optimizer}: width {BASE} -> {WIDTH}; foretrain | mup")
            print(f"{'tensor':<14} {'init std':>17} {'multiplier':>17} {'rate':>17} {'decay':>17}")
            for path, row in rows.items():
                cells = []
                for part, (a, b) in enumerate(zip(row, theirs[name][optimizer][path], strict=True)):
                    biased = part == 0 and path.endswith("bias")  # starts at zero here: it has no standard deviation
                    shown = "-" if a is None or biased else f"{a:.6g}"
                    cells.append(f"{shown:>8} {'-' if biased else format(b, '.6g'):>8}")
                    if a is not None and not biased:
                        worst = max(worst, abs(a / b - 1))
                print(f"{path:<14} {' '.join(cells)}")
    print(f"\nlargest relative difference of a factor that both define: {worst:.1e}")
    for name, (first, last, gap) in gaps.items():
        print(f"{name}: loss {first:.4f} -> {last:.4f} in {STEPS} steps, largest difference {gap:.1e}")


if __name__ == "__main__":
    main()
