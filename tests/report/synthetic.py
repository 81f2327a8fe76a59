"""Made-up comparisons with the shapes and the mishaps of real ones."""

import itertools

import numpy as np

from foretrain.curves import Comparison, LearningCurves
from foretrain.studies import pair

INF = float("inf")


def losses(sizes: dict[str, float], times: np.ndarray) -> np.ndarray:
    """A loss with a floor, a time law and two bottlenecks, and a bump where width and samples meet."""
    width, samples = sizes.get("width", INF), sizes.get("samples", INF)
    floor = 0.15 + 1.2 * width**-0.6 + 2.0 * samples**-0.6
    ratio = 0.0 if np.isinf(width * samples) else np.exp(-(np.log(width / samples) ** 2)) * 0.08
    others = 1 + 0.1 * sum(float(v) for k, v in sizes.items() if k not in ("width", "samples"))
    return (floor + 0.9 * (1 + times) ** -0.45) * others + ratio * np.log1p(np.minimum(times, 1e9)) / 10


def comparison(
    axes: dict[str, list] | None = None,
    times: np.ndarray | None = None,
    *,
    seed: int = 0,
    miss: float = 0.015,
    noise: float = 0.01,
    theory_only: dict[str, list] | None = None,
) -> Comparison:
    """Theory and training over the product of `axes`; `theory_only` adds entries that training lacks."""
    rng = np.random.default_rng(seed)
    axes = {"width": [64, 256, 1024, 4096], "samples": [128, 512, 2048]} if axes is None else axes
    times = np.geomspace(1, 1e5, 25) if times is None else np.asarray(times, dtype=float)
    larger = {k: [*v, *(theory_only or {}).get(k, [])] for k, v in axes.items()}

    def curves(grid: dict[str, list], kind: str) -> LearningCurves:
        shape = [len(v) for v in grid.values()]
        numbers = [[i if isinstance(x, str) else x for i, x in enumerate(v)] for v in grid.values()]
        base = np.array([losses(dict(zip(grid, p, strict=True)), times) for p in itertools.product(*numbers)])
        test = base.reshape([*shape, len(times)])
        train = test * 0.8 * (1 + np.where(np.isinf(times), 1e6, times)) ** -0.1
        coords = {k: np.array(v) for k, v in grid.items()} | {"time": times}
        dims = (*grid, "time")
        variables: dict = {"status": (tuple(grid), np.full(shape, "ok"))}
        for name, exact in (("test_loss", test), ("train_loss", train)):
            if kind == "theory":
                late = np.linspace(-1, 1, len(times))
                variables[name] = (dims, exact * (1 + miss * late))
                variables[f"{name}_error"] = (dims, 1e-9 * exact)
            else:
                variables[name] = (dims, exact * (1 + noise * rng.standard_normal(exact.shape)))
                variables[f"{name}_stderr"] = (dims, noise * exact)
        solver = {"solver": "linear"} if kind == "theory" else {"seeds": 8}
        return LearningCurves(variables, coords, {**solver, "versions": {"foretrain": "0.1.0", "jax": "0.10.2"}})

    return pair(curves(larger, "theory"), curves(axes, "training"))


def with_values(curves: LearningCurves, **changes) -> LearningCurves:
    """`curves` with entries of some variables replaced: `name=(index, value)`."""
    variables = dict(curves.variables)
    for name, (index, value) in changes.items():
        dims, values = variables[name]
        values = values.copy().astype("U20" if values.dtype.kind == "U" else values.dtype)
        values[index] = value
        variables[name] = (dims, values)
    return LearningCurves(variables, curves.coords, curves.attrs)


def broken() -> Comparison:
    """A comparison in which some points diverged, some failed, and one has a single seed."""
    whole = comparison({"width": [64, 256, 1024], "samples": [128, 2048]}, theory_only={"width": [INF]})
    theory = with_values(whole.theory, test_loss=((0, 0, slice(15, None)), INF), status=((0, 0), "diverged"))
    theory = with_values(theory, test_loss=((2, 1), np.nan), train_loss=((2, 1), np.nan), status=((2, 1), "failed"))
    training = with_values(whole.training, test_loss=((0, 0, slice(15, None)), INF), status=((0, 0), "diverged"))
    training = with_values(training, test_loss_stderr=((1, 1), np.nan), train_loss_stderr=((1, 1), np.nan))
    return pair(theory, training)


def spectrum(seed: int = 0) -> dict:
    """A measured spectrum: 600 modes of which 150 are the head, the rest extended in log bins."""
    rng = np.random.default_rng(seed)
    k = np.unique(np.concatenate([np.arange(1, 600), np.geomspace(600, 1e5, 120).round()]))
    eigenvalues = 3 * k**-1.21
    measured = 0.25 * k**-1.29
    head = np.arange(1, 600)
    fresh = 0.25 * head**-1.29 * (1 + 0.4 * rng.standard_normal(head.size)) + 3e-5 * rng.standard_normal(head.size)
    power = measured.copy()
    power[:150] = fresh[:150]
    return {
        "k": k,
        "eigenvalues": eigenvalues,
        "target_power": power / eigenvalues,
        "naive": np.abs(fresh) + 1.2e-4,
        "cross": fresh,
        "head": 150,
        "fit_range": (30, 200),
        "capacity": (1.21, 1.17, 1.25),
        "source": (0.24, 0.2, 0.29),
        "noise": (0.163, 0.14, 0.18),
    }
