"""Training steps of small networks beside PyTorch, and sweeps of runs beside the same runs one after another.

One process measures both libraries in turn with the same number of threads, float32. The floor is the time that the matrix
products of a step take at the speed of one large product.

    python benchmarks/networks.py               # everything, under eight minutes on two cores
    python benchmarks/networks.py --quick       # small sizes, to see that it runs
    python benchmarks/networks.py --no-compile  # without PyTorch's compiler
"""

import argparse
import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from foretrain.problems import MLP, NetworkTraining, Problem, Transformer
from foretrain.tasks import Arrays, Text
from foretrain.training._network_loop import Run, Sweep
from foretrain.training._network_plan import cost_of, make_plan, timed
from foretrain.training._network_runs import network_sweep
from foretrain.training._sampling import cores

SEEDS = list(range(8))


@dataclasses.dataclass
class Case:
    label: str
    problem: Problem
    torch_step: Callable


def mlp_case(width: int) -> Case:
    rng = np.random.default_rng(0)
    inputs, labels = rng.standard_normal((4096, 784)), rng.integers(0, 10, 4096)
    task = Arrays(inputs=inputs, targets=np.eye(10)[labels])
    training = NetworkTraining(
        learning_rate=0.01, optimizer="momentum", batch_size=128, samples=4000, loss="cross-entropy"
    )
    problem = Problem(task, MLP(width=width, base_width=width), training)

    def torch_step(torch, compiled):
        x, y = torch.tensor(inputs, dtype=torch.float32), torch.tensor(labels)
        layers = [torch.nn.Linear(784, width, bias=False), torch.nn.ReLU(), torch.nn.Linear(width, width, bias=False)]
        model = torch.nn.Sequential(*layers, torch.nn.ReLU(), torch.nn.Linear(width, 10, bias=False))
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
        forward = torch.compile(model) if compiled else model

        def step():
            rows = torch.randint(0, 4000, (128,))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(forward(x[rows]), y[rows]).backward()
            optimizer.step()

        return step

    return Case(f"MLP 784-{width}-{width}-10, batch 128, momentum", problem, torch_step)


def transformer_case(width: int, depth: int, context: int = 64) -> Case:
    training = NetworkTraining(learning_rate=1e-3, optimizer="adam", batch_size=16, loss="cross-entropy")
    model = Transformer(width=width, depth=depth, base_width=width, base_depth=depth)
    problem = Problem(Text(context=context), model, training)

    def torch_step(torch, compiled):
        F = torch.nn.functional
        heads = width // 16

        class Layer(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.norms = torch.nn.ModuleList([torch.nn.LayerNorm(width, bias=False) for _ in range(2)])
                self.qkv, self.out = torch.nn.Linear(width, 3 * width, False), torch.nn.Linear(width, width, False)
                self.up, self.down = torch.nn.Linear(width, 4 * width, False), torch.nn.Linear(4 * width, width, False)

            def forward(self, h):
                b, s, _ = h.shape
                q, k, v = (
                    part.view(b, s, heads, 16).transpose(1, 2)
                    for part in self.qkv(self.norms[0](h)).split(width, dim=2)
                )
                mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, s, width)
                h = h + self.out(mixed)
                return h + self.down(F.gelu(self.up(self.norms[1](h))))

        class Model(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.tokens, self.places = torch.nn.Embedding(256, width), torch.nn.Embedding(context, width)
                self.layers = torch.nn.Sequential(*[Layer() for _ in range(depth)])
                self.norm, self.last = torch.nn.LayerNorm(width, bias=False), torch.nn.Linear(width, 256, False)

            def forward(self, x):
                return self.last(self.norm(self.layers(self.tokens(x) + self.places.weight)))

        model = Model()
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        forward = torch.compile(model) if compiled else model
        tokens = torch.tensor(np.asarray(problem.task.load().train[:500_000]), dtype=torch.int64)
        places = torch.arange(context + 1)

        def step():
            windows = tokens[torch.randint(0, 499_000, (16, 1)) + places]
            optimizer.zero_grad()
            outputs = forward(windows[:, :-1])
            F.cross_entropy(outputs.reshape(-1, 256), windows[:, 1:].reshape(-1)).backward()
            optimizer.step()

        return step

    return Case(f"transformer {width} x {depth}, context {context}, batch 16, Adam", problem, torch_step)


def peak() -> float:
    """Arithmetic per second of one large product in JAX."""
    a = jnp.ones((2048, 2048), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(a))
    found = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(product(a))
        found.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(found)


def per_step(advance: Callable[[int], None], seconds: float) -> float:
    """Seconds of a step: the best of five stretches."""
    advance(2)
    steps = 4
    while True:
        start = time.perf_counter()
        advance(steps)
        took = time.perf_counter() - start
        if took > seconds / 8 or steps >= 4096:
            break
        steps *= 2
    found = [took / steps]
    for _ in range(4):
        start = time.perf_counter()
        advance(steps)
        found.append((time.perf_counter() - start) / steps)
    return min(found)


def jax_step(problem: Problem, seconds: float) -> tuple[float, float, float, Sweep]:
    """Seconds of a step of one run on all cores, of compilation, and multiplications and additions of a step."""
    start = time.perf_counter()
    sweep, _ = network_sweep(problem, [4096])
    program = sweep.program()
    run = Run(sweep, program, SEEDS[:1], [0], sweep.placed(), 256)
    run.compile()
    compilation = time.perf_counter() - start

    def advance(steps: int) -> None:
        for first in range(0, steps, 256):
            run.advance(first, min(steps, first + 256))

    return per_step(advance, seconds), compilation, cost_of(sweep, program).flops, sweep


def torch_seconds(case: Case, compiled: bool, seconds: float) -> float:
    import torch

    torch.set_num_threads(cores())
    torch.manual_seed(0)
    try:
        step = case.torch_step(torch, compiled)
        step()
    except Exception as error:  # the compiler needs a C++ compiler
        print(f"  PyTorch compiled: {type(error).__name__}")
        return float("nan")

    def advance(steps: int) -> None:
        for _ in range(steps):
            step()

    return per_step(advance, seconds)


def sweeps(sweep: Sweep, seconds: float) -> str:
    """Time of a step of a run in each way of spreading eight runs, against one after another on all cores."""
    cost = cost_of(sweep, sweep.program())
    found = {}
    for _ in range(2):
        for name in ("single", "per-core", "vmap", "both"):
            took = timed(sweep, SEEDS, make_plan(sweep, SEEDS, cost, name, None), cost, seconds)
            found[name] = min(took, found.get(name, np.inf))
    chosen = make_plan(dataclasses.replace(sweep, times=(10**7,)), SEEDS, cost, "auto", None).strategy
    gains = ", ".join(f"{name} {found['single'] / value:.2f}" for name, value in found.items() if name != "single")
    return f"  8 runs, times as fast as one after another: {gains}; chosen by the probe: {chosen}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--no-torch", action="store_true")
    wishes = parser.parse_args()
    seconds = 0.2 if wishes.quick else 3.0
    cases = [mlp_case(w) for w in ((16,) if wishes.quick else (64, 256, 1024))]
    cases += [transformer_case(w, d) for w, d in (((16, 1),) if wishes.quick else ((64, 2), (64, 4), (128, 4)))]
    speed = peak()
    print(f"{cores()} cores, one product of 2048 x 2048: {speed / 1e9:.0f} GF/s; ms per step, compilation in s")
    head = ("foretrain", "compile", "floor", "eager", "compiled", "ratio")
    print(f"{'':48s}" + "".join(f"{name:>10s}" for name in head))
    for case in cases:
        step, compilation, flops, sweep = jax_step(case.problem, seconds)
        eager = float("nan") if wishes.no_torch else torch_seconds(case, False, seconds)
        skip = wishes.no_torch or wishes.no_compile
        other = float("nan") if skip else torch_seconds(case, True, seconds)
        again = jax_step(case.problem, seconds)[0]  # before and after the others: the machine may have changed
        step = min(step, again)
        row = (step * 1e3, compilation, flops / speed * 1e3, eager * 1e3, other * 1e3, step / eager)
        print(f"{case.label:48s}" + "".join(f"{value:10.3f}" for value in row), flush=True)
        print(sweeps(sweep, seconds / 3), flush=True)


if __name__ == "__main__":
    main()
