r"""Laws whose exponents theory ties together: the capacity of a kernel and the source of a task decide all of them.

For eigenvalues $\lambda_k=k^{-c}$ and target power $\lambda_kw_k^{\star2}=k^{-(cs+1)}$ a linear model of random features has one exponent for
each bottleneck (RF.19), with $a=cs+1$ and $b=c$; feature learning changes that of time (SL.13). A fit then has the two numbers $c$ and
$s$ in the place of two or three exponents. The exponents have kinks at $s=1$ and $s=2$. A law of two variables is nevertheless the free
law in other coordinates, one to one across the kinks, so that its optimum is as smooth as that of the free law.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from foretrain.laws._law import Columns, Law, Logs, Parameter, Slopes, Thetas
from foretrain.laws._parameters import amplitude, floor

# (capacity, source) to the exponent, its derivatives with respect to both, stacked: values are arrays of many fits.
Exponent = Callable[[Any, Any], np.ndarray]
# A letter for the amplitude, and for every variable of the term its exponent and the exponent's formula.
Term = tuple[str, Mapping[str, tuple[Exponent, str]]]


def _width(capacity: Any, source: Any) -> np.ndarray:
    """Of the number of features: capacity min(source, 1)."""
    return _capped(capacity, source, 1.0)


def _data(capacity: Any, source: Any) -> np.ndarray:
    """Of the number of different samples: capacity min(source, 2)."""
    return _capped(capacity, source, 2.0)


def _capped(capacity: Any, source: Any, cap: float) -> np.ndarray:
    below = source < cap
    ease = np.where(below, source, cap)
    return np.stack(np.broadcast_arrays(capacity * ease, ease, np.where(below, capacity, 0.0)))


def _lazy_time(capacity: Any, source: Any) -> np.ndarray:
    """Of training time with fixed features: source."""
    return np.stack(np.broadcast_arrays(source + 0.0 * capacity, 0.0, 1.0))


def _rich_time(capacity: Any, source: Any) -> np.ndarray:
    """Of training time with features that learn: source max(1, 2 / (1 + source))."""
    hard = source < 1.0
    value = np.where(hard, 2.0 * source / (1.0 + source), source)
    return np.stack(np.broadcast_arrays(value + 0.0 * capacity, 0.0, np.where(hard, 2.0 / (1.0 + source) ** 2, 1.0)))


def _one(capacity: Any, source: Any) -> np.ndarray:
    return np.stack(np.broadcast_arrays(1.0 + 0.0 * (capacity + source), 0.0, 0.0))


def _transient(capacity: Any, source: Any) -> np.ndarray:
    """Of training time, of what a finite width takes away before it is the bottleneck: 1 - 1 / capacity."""
    return np.stack(np.broadcast_arrays(1.0 - 1.0 / capacity + 0.0 * source, 1.0 / capacity**2, 0.0))


_OF_WIDTH = (_width, "(capacity min(source, 1))")


def random_features(
    size: str = "params", time: str = "tokens", *, samples: str | None = None, transient: bool = False
) -> Law:
    r"""$E+A/N^{c\min(s,1)}+B/D^s$ (SL.11), [arXiv 2402.01092](https://arxiv.org/abs/2402.01092): fixed features, hence lazy training.

    $c$ is the capacity of the kernel and $s$ the source of the task. With `samples` there is a third term, $F/U^{c\min(s,2)}$, for data that
    are seen again and again. For hard tasks, $s<1$, the law of two terms is Chinchilla's with $\beta=s$ and $\alpha=cs$. For easy tasks
    $G\,N^{-1}D^{-(1-1/c)}$ is larger than both between them (SL.12), and decides the compute-optimal plan (RF.20): ask for it with `transient`.

    Args:
        size: Column of the number of features, or of parameters.
        time: Column of training time: steps, or tokens seen once.
        samples: Column of the number of different samples.
        transient: With the term (SL.12).

    Example:
        >>> from foretrain.laws import random_features
        >>> law = random_features("width", "time")
        >>> law.formula
        'E + A / width^(capacity min(source, 1)) + B / time^source'
        >>> found = law.values(law.coordinates({"A": 2.0, "B": 3.0, "E": 1.0, "capacity": 1.5, "source": 0.6}))
        >>> {name: round(float(f(found)), 3) for name, f in law.derived.items()}
        {'A_exponent': 0.9, 'B_exponent': 0.6}
    """
    terms: list[Term] = [("A", {size: _OF_WIDTH}), ("B", {time: (_lazy_time, "source")})]
    if samples is not None:
        terms.append(("F", {samples: (_data, "(capacity min(source, 2))")}))
    if transient:
        terms.append(("G", {size: (_one, "1"), time: (_transient, "(1 - 1 / capacity)")}))
    name = "theory-random-features" if samples is None else "theory-reused-data"
    return _tied(name if not transient else f"{name}-transient", terms, "arXiv 2402.01092")


def reused_data() -> Law:
    r"""$E+A/N^{c\min(s,1)}+B/D^s+F/U^{c\min(s,2)}$ (SL.11): data seen again and again, $U$ different tokens (`tokens_per_epoch`).

    Three exponents from two numbers: unlike the laws of two variables it can be wrong about exponents. A fit that misfits says so.
    """
    return random_features(samples="tokens_per_epoch")


def feature_learning(size: str = "params", time: str = "tokens") -> Law:
    r"""$E+A/N^{c\min(s,1)}+B/D^{s\max(1,2/(1+s))}$ (SL.13), [arXiv 2409.17858](https://arxiv.org/abs/2409.17858): features that learn.

    Hard tasks, $s<1$, are learned faster than with fixed features, with $2s/(1+s)$ in the place of $s$; nothing else changes. One table
    cannot tell the two laws apart: they fit it equally well, with different $c$ and $s$. A measured spectrum, or a table of lazy and one
    of rich training, can.

    Args:
        size: Column of the number of features, or of parameters.
        time: Column of training time: steps, or tokens seen once.

    Example:
        >>> from foretrain.laws import feature_learning
        >>> law = feature_learning()
        >>> found = law.values(law.coordinates({"A": 400.0, "B": 2000.0, "E": 1.8, "capacity": 1.5, "source": 0.25}))
        >>> {name: round(float(f(found)), 3) for name, f in law.derived.items()}
        {'params_exponent': 0.516, 'A_exponent': 0.375, 'B_exponent': 0.4}
    """
    terms: list[Term] = [("A", {size: _OF_WIDTH}), ("B", {time: (_rich_time, "(source max(1, 2 / (1 + source)))")})]
    return _tied("theory-feature-learning", terms, "arXiv 2409.17858")


def _tied(name: str, terms: list[Term], source: str) -> Law:
    """The law of a floor and terms whose exponents are functions of capacity and source, the last two coordinates."""
    variables = tuple(dict.fromkeys(v for _, powers in terms for v in powers))
    count = len(terms)

    def logs(theta: Thetas, x: Columns, *, slopes: bool = True) -> tuple[Logs, Slopes | None]:
        lnx = dict(zip(variables, np.log(x), strict=True))
        tied = [
            [(exponent(theta[:, -2], theta[:, -1])[:, :, None], lnx[v]) for v, (exponent, _) in powers.items()]
            for _, powers in terms
        ]
        heights = [theta[:, k, None] - sum(e[0] * ln for e, ln in pairs) for k, pairs in enumerate(tied)]
        heights.append(np.broadcast_to(theta[:, count, None], heights[0].shape))
        top = np.maximum.reduce(heights)
        parts = np.exp(np.stack(heights, axis=1) - top[:, None])
        total = parts.sum(axis=1)
        log = np.log(total) + top
        if not slopes:
            return log, None
        parts /= total[:, None]
        jacobian = np.zeros((len(theta), count + 3, x.shape[1]))
        jacobian[:, : count + 1] = parts
        for k, pairs in enumerate(tied):
            for exponent, ln in pairs:
                jacobian[:, -2] -= parts[:, k] * exponent[1] * ln
                jacobian[:, -1] -= parts[:, k] * exponent[2] * ln
        return log, jacobian

    parameters = (
        *(amplitude(letter) for letter, _ in terms),
        floor(),
        Parameter("capacity", (1.1, 1.5, 2.5), False, 1.0, 10.0, "decay of the kernel's eigenvalues, k^-capacity"),
        Parameter("source", (0.1, 0.35, 0.7, 1.3), False, 0.01, 10.0, "ease of the task: hard below 1"),
    )
    shown = (f"{letter} / {_shown(powers)}" for letter, powers in terms)
    derived: dict[str, Callable[[Mapping[str, Any]], Any]] = {}
    if variables == ("params", "tokens") and count == 2:
        of_size, of_time = terms[0][1]["params"][0], terms[1][1]["tokens"][0]
        derived["params_exponent"] = lambda p: share(*(e(p["capacity"], p["source"])[0] for e in (of_size, of_time)))
    for letter, powers in terms:
        if len(powers) == 1:
            (exponent, _) = next(iter(powers.values()))
            derived[f"{letter}_exponent"] = lambda p, e=exponent: e(p["capacity"], p["source"])[0]
    formula = " + ".join(["E", *shown])
    return Law(name, formula, variables, parameters, logs, source=source, derived=derived)


def _shown(powers: Mapping[str, tuple[Exponent, str]]) -> str:
    factors = [variable if power == "1" else f"{variable}^{power}" for variable, (_, power) in powers.items()]
    return factors[0] if len(factors) == 1 else f"({' '.join(factors)})"


def share(of_size: Any, of_data: Any) -> Any:
    """Exponent of the compute-optimal size of a law with these exponents of size and data (SL.16); NaN where both are zero.

    Args:
        of_size: Exponent of the number of parameters.
        of_data: Exponent of the number of tokens.
    """
    with np.errstate(invalid="ignore"):
        return np.divide(of_data, np.add(of_size, of_data))
