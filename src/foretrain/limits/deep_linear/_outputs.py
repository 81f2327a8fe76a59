r"""Outputs that have layers: mean squares of fields, and what the march keeps of two times."""

import numpy as np
from jaxtyping import Float

from foretrain.limits.deep_linear._points import Curves
from foretrain.problems import Problem

LAYERED = ("forward_kernel", "backward_kernel")
TWO_TIME = ("forward_covariance", "backward_covariance", "forward_response", "backward_response")


def layered(name: str, found: Curves) -> Float[np.ndarray, "layer time"]:
    r"""Mean squares by layer: $u,h^1,\dots,h^L$ from layer 0, $g^1,\dots,g^L$ and the readout's source from layer 1.

    Args:
        name: One of `LAYERED`.
        found: The curves of a point.
    """
    if name == "forward_kernel":
        return np.array(found.forward.T)
    return np.concatenate([np.full((1, len(found.backward)), np.nan), found.backward.T])


def two_time(name: str, found: Curves, problem: Problem, times: np.ndarray) -> Float[np.ndarray, "layer other time"]:
    r"""Covariances and responses between steps: at [layer, s, t] the response of step $t$ to step $s$.

    Args:
        name: One of `TWO_TIME`.
        found: The curves of a point with its matrices.
        problem: The point.
        times: Steps.
    """
    state = found.state
    assert state is not None
    depth = found.forward.shape[1] - 1
    richness = _richness(problem)
    none = np.full((len(times), len(times)), np.nan)
    both = np.ix_(times, times)
    if name == "forward_covariance":
        layers = [state["Cu"], *_covariances(state, "Ch", depth)]
        if len(layers) <= depth:
            layers.append(_top_covariance(state, depth, richness**2))
        return np.stack([part[both] for part in layers])
    if name == "backward_covariance":
        return np.stack([none, *(part[both] for part in _covariances(state, "Cg", depth)), np.ones_like(none)])
    letter, source = ("H", 1) if name == "forward_response" else ("G", 0)
    own = [state[f"{letter}{layer}"][:, source] for layer in range(1, depth + 1)]
    own = [part[:, layer] if part.ndim == 3 else part for layer, part in enumerate(own)]
    return np.stack([none, *(richness * part[both].T for part in own)])


def _covariances(state: dict[str, np.ndarray], name: str, depth: int) -> list[np.ndarray]:
    if f"all{name}" in state:
        return list(state[f"all{name}"][:depth])
    return [state[f"{name}{layer}"] for layer in range(1, depth + 1) if f"{name}{layer}" in state]


def _richness(problem: Problem) -> float:
    model = problem.model
    scale = 1.0 if model.parameterization == "mup" else float(model.width_ratio) ** -0.5  # type: ignore[attr-defined]
    return float(model.richness) * scale  # type: ignore[attr-defined]


def _top_covariance(state: dict[str, np.ndarray], depth: int, rich: float) -> np.ndarray:
    """The covariance of the last forward field, of which a march without branches needs the diagonal only."""
    own, response = state[f"H{depth}"][:, 0], state[f"H{depth}"][:, 1]
    below = state["Cu" if depth == 1 else f"Ch{depth - 1}"]
    return own @ below @ own.T + rich * np.outer(response.sum(1), response.sum(1))
