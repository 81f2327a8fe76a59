r"""How it is trained: declarations of training protocols and learning-rate schedules.

The objective is $\frac1{2P}\sum_\mu|y_\mu-f(x_\mu)|^2$ for every protocol with a learning rate or a time;
one unit of time of a flow is one step at learning rate 1. `ridge` belongs to $\frac1P|y-f|^2+\text{ridge}|W|^2$.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from foretrain._declaration import Declaration, choice, custom, flag, integer, number, show
from foretrain.errors import nearest
from foretrain.parameterization import DECAYS, OPTIMIZERS


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule(Declaration):
    r"""Factors on the learning rate, one per step.

    Step $s=0,1,\dots$ uses $\eta\cdot\text{factor}_s$. All shapes rise linearly from $1/(\text{warmup}+1)$ during `warmup` steps.
    Afterwards: `constant` stays 1; `linear` and `cosine` fall to `final` at step `steps`; `wsd` (warm-up, stable, decay)
    stays 1 and falls linearly to `final` over the last `decay` steps. After `steps` the factor stays at `final`.

    Args:
        shape: `"constant"`, `"linear"`, `"cosine"` or `"wsd"`.
        steps: Length of the schedule; not needed for `constant`.
        warmup: Steps of warm-up.
        decay: Steps of the last phase of `wsd`; a fifth of `steps` by default.
        final: Last factor.
    """

    kind = "schedule"

    shape: str = choice(("constant", "linear", "cosine", "wsd"), axis=False)
    steps: int | None = integer(low=1, axis=False, default=None)
    warmup: int = integer(low=0, axis=False, default=0)
    decay: int | None = integer(low=1, axis=False, default=None)
    final: float = number(low=0.0, high=1.0, axis=False, default=0.0)

    def _check(self) -> None:
        if self.shape != "constant" and self.steps is None:
            raise self._wrong("steps", f"missing; a {self.shape!r} schedule needs its length")
        if self.steps is not None and self.warmup + (self.decay or 0) > self.steps:
            raise self._wrong(
                "warmup", f"expected warmup + decay <= steps = {self.steps}, got {self.warmup + (self.decay or 0)}"
            )

    def factors(self, steps: int) -> Float[np.ndarray, " steps"]:
        """The factors of the first `steps` steps."""
        s = np.arange(steps, dtype=np.float64)
        warm = np.minimum((s + 1) / (self.warmup + 1), 1.0)
        if self.steps is None or self.shape == "constant":
            return warm
        length = self.steps
        if self.shape == "wsd":
            decay = self.decay if self.decay is not None else max(1, length // 5)
            progress = (s - (length - decay)) / decay
        else:
            progress = (s - self.warmup) / max(1, length - self.warmup)
        progress = np.clip(progress, 0.0, 1.0)
        if self.shape == "cosine":
            progress = (1 - np.cos(np.pi * progress)) / 2
        return warm * (1 - (1 - self.final) * progress)


def _parse_schedule(value: Any) -> Schedule | None:
    if value is None or isinstance(value, Schedule):
        return value
    if isinstance(value, str):
        value = {"shape": value}
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a schedule such as {{shape = 'cosine', steps = 1000}}, got {show(value)}")
    table = {k: v for k, v in value.items() if k != "kind"}
    return Schedule.from_table(table, "schedule")


def _samples() -> Any:
    return number(low=0.0, low_open=True, infinite=True, default=None)


class AbstractProtocol(Declaration):
    """How the model is trained.

    `discrete` says that times are integer steps, `timed` that the result is a curve over time at all.
    """

    discrete: ClassVar[bool]
    timed: ClassVar[bool] = True

    samples: Any


@dataclasses.dataclass(frozen=True, eq=False)
class GradientFlow(AbstractProtocol):
    """Gradient flow, the limit of small steps; time is learning rate times steps.

    Args:
        samples: $P$, number of training samples; `inf` is training on the population. The default is `inf` for spectral
            tasks and all rows for data (axis).
    """

    kind = "gradient-flow"
    discrete = False

    samples: float | tuple[float, ...] | None = _samples()


@dataclasses.dataclass(frozen=True, eq=False)
class MomentumFlow(AbstractProtocol):
    r"""Gradient flow with inertia, $\beta\ddot W+\dot W=-\nabla$, $\dot W(0)=0$.

    Args:
        momentum: $\beta>0$, a time (axis).
        samples: As for `GradientFlow`.
    """

    kind = "momentum-flow"
    discrete = False

    momentum: float | tuple[float, ...] = number(low=0.0, low_open=True)
    samples: float | tuple[float, ...] | None = _samples()


@dataclasses.dataclass(frozen=True, eq=False)
class GradientDescent(AbstractProtocol):
    """Full-batch gradient descent; time counts steps.

    Args:
        learning_rate: Step size (axis).
        samples: As for `GradientFlow`.
        schedule: Factors on the learning rate, for example `Schedule("cosine", steps=1000)`.
    """

    kind = "gradient-descent"
    discrete = True

    learning_rate: float | tuple[float, ...] = number(low=0.0, low_open=True)
    samples: float | tuple[float, ...] | None = _samples()
    schedule: Schedule | None = custom(_parse_schedule, default=None)


@dataclasses.dataclass(frozen=True, eq=False)
class Momentum(AbstractProtocol):
    r"""Heavy ball, $W_{t+1}=W_t-\eta\nabla+\beta(W_t-W_{t-1})$, $W_{-1}=W_0$; time counts steps.

    Args:
        learning_rate: $\eta$ (axis).
        momentum: $0\le\beta<1$ (axis).
        samples: As for `GradientFlow`.
    """

    kind = "momentum"
    discrete = True

    learning_rate: float | tuple[float, ...] = number(low=0.0, low_open=True)
    momentum: float | tuple[float, ...] = number(low=0.0, high=1.0, high_open=True)
    samples: float | tuple[float, ...] | None = _samples()


@dataclasses.dataclass(frozen=True, eq=False)
class SGD(AbstractProtocol):
    r"""Stochastic gradient descent that draws each batch from a fixed set of samples; time counts steps.

    Each step draws `batch_size` of the `samples` and moves by the mean of their gradients,
    $W\leftarrow W+\frac\eta B\sum_{\mu\in\text{batch}}x_\mu r_\mu$; batches of different steps are independent. Epochs of shuffled
    data are another protocol, which is not offered.

    Args:
        learning_rate: $\eta$ (axis).
        batch_size: $B$, at most `samples` (axis).
        samples: As for `GradientFlow`; `inf` is one pass over fresh data.
        replacement: Whether a step may draw a sample twice. Without, a batch of all samples is gradient descent.
        schedule: Factors on the learning rate, as for `GradientDescent`.
    """

    kind = "sgd"
    discrete = True

    learning_rate: float | tuple[float, ...] = number(low=0.0, low_open=True)
    batch_size: int | tuple[int, ...] = integer(low=1)
    samples: float | tuple[float, ...] | None = _samples()
    replacement: bool = flag(default=True)
    schedule: Schedule | None = custom(_parse_schedule, default=None)

    def _check(self) -> None:
        smallest, largest = np.min(np.inf if self.samples is None else self.samples), np.max(self.batch_size)
        if largest > smallest:
            raise self._wrong("batch_size", f"expected at most samples = {smallest:g}, got {largest}")


@dataclasses.dataclass(frozen=True, eq=False)
class OnePassSGD(AbstractProtocol):
    r"""Stochastic gradient descent on fresh samples: no sample is seen twice; time counts steps.

    Args:
        learning_rate: $\eta$ (axis).
        batch_size: $B$, samples per step (axis).
        schedule: Factors on the learning rate, as for `GradientDescent`.
        exact_gaussian: Theory with the correction of relative order $1/B$ that Gaussian inputs have, which is known exactly.
            Without it the batch counts as large, and the inputs as anything.
    """

    kind = "one-pass-sgd"
    discrete = True

    learning_rate: float | tuple[float, ...] = number(low=0.0, low_open=True)
    batch_size: int | tuple[int, ...] = integer(low=1)
    schedule: Schedule | None = custom(_parse_schedule, default=None)
    exact_gaussian: bool = flag(default=False)

    samples: ClassVar[None] = None


@dataclasses.dataclass(frozen=True, eq=False)
class Ridge(AbstractProtocol):
    r"""The trained end point of the objective $\frac1P|y-f|^2+\text{ridge}\,|W|^2$; there is no time.

    Args:
        ridge: Penalty; 0 is the minimum-norm solution (axis).
        samples: As for `GradientFlow`.
    """

    kind = "ridge"
    discrete = False
    timed = False

    ridge: float | tuple[float, ...] = number(low=0.0)
    samples: float | tuple[float, ...] | None = _samples()


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkTraining(AbstractProtocol):
    r"""Training of a finite network by an optimizer on minibatches; time counts steps.

    The objective is $\frac1{2B}\sum_\mu|y_\mu-f(x_\mu)|^2$ for `loss = "mse"` and the mean negative log-likelihood for
    `"cross-entropy"`. Every tensor's rate is `learning_rate` × the factor of the model's parameterization × the schedule.
    A study file names this protocol by its key `optimizer`.

    Args:
        optimizer: `"sgd"`, `"momentum"`, `"nesterov"`, `"adam"`, `"adamw"` or `"lion"` (axis).
        learning_rate: The rate that is tuned (axis).
        batch_size: Samples of a step; `None` is all of them (axis).
        samples: Training rows; all of them by default (axis).
        schedule: Factors on the learning rate; several are an axis.
        loss: `"mse"` or `"cross-entropy"`.
        weight_decay: Decay, times the parameterization's factor (axis).
        decay: `"lr-multiplied"`, $w\leftarrow w(1-c\lambda)$, or `"independent"`, $w\leftarrow w(1-\lambda)$; `adamw` and `lion`. SGD adds
            $\lambda w$ to the gradient.
        momentum: Of `momentum` and `nesterov`, and Adam's and Lion's first coefficient (axis); 0.9.
        second_momentum: Adam's and Lion's second coefficient; 0.999 and 0.99 by default.
        epsilon: Adam's epsilon, times the parameterization's factor (axis).
        clip_norm: Norm at which the whole gradient is clipped; `None` does not clip.
        centre: Subtract the network's output at the start, which takes away most of the randomness of a seed.
        fresh: Draw every batch anew, with replacement, instead of going through shuffled epochs.
        dtype: `"float32"` or `"float64"`.
    """

    kind = "network"
    discrete = True

    learning_rate: float | tuple[float, ...] = number(low=0.0, low_open=True)
    optimizer: str | tuple[str, ...] = choice(OPTIMIZERS, default="sgd")
    batch_size: int | tuple[int, ...] | None = integer(low=1, default=None)
    samples: float | tuple[float, ...] | None = _samples()
    schedule: Schedule | tuple[Schedule, ...] | None = custom(_parse_schedule, axis=True, default=None)
    loss: str = choice(("mse", "cross-entropy"), axis=False, default="mse")
    weight_decay: float | tuple[float, ...] = number(low=0.0, default=0.0)
    decay: str = choice(DECAYS, axis=False, default="lr-multiplied")
    momentum: float | tuple[float, ...] = number(low=0.0, high=1.0, high_open=True, default=0.9)
    second_momentum: float | None = number(low=0.0, high=1.0, high_open=True, axis=False, default=None)
    epsilon: float | tuple[float, ...] = number(low=0.0, default=1e-8)
    clip_norm: float | None = number(low=0.0, low_open=True, axis=False, default=None)
    centre: bool = flag(default=False)
    fresh: bool = flag(default=False)
    dtype: str = choice(("float32", "float64"), axis=False, default="float32")

    def _check(self) -> None:
        decays = self.weight_decay if isinstance(self.weight_decay, tuple) else (self.weight_decay,)
        optimizers = self.optimizer if isinstance(self.optimizer, tuple) else (self.optimizer,)
        if "adam" in optimizers and any(decay > 0 for decay in decays):
            raise self._wrong("weight_decay", "no rule is known for Adam with decay in the gradient; use 'adamw'")


PROTOCOLS: dict[str, type[AbstractProtocol]] = {
    p.kind: p for p in (GradientFlow, MomentumFlow, GradientDescent, Momentum, SGD, OnePassSGD, Ridge, NetworkTraining)
}


def protocol_named(name: Any) -> type[AbstractProtocol]:
    """The protocol class of that name.

    Raises:
        ValueError: No such protocol; the message lists the names.
    """
    if not isinstance(name, str) or name not in PROTOCOLS:
        raise ValueError(
            f"expected one of {', '.join(map(repr, PROTOCOLS))}, got {show(name)}{nearest(name, PROTOCOLS)}"
        )
    return PROTOCOLS[name]
