r"""How it is trained: declarations of training protocols.

The objective is $\frac1{2P}\sum_\mu|y_\mu-f(x_\mu)|^2$ for every protocol with a learning rate or a time;
one unit of time of a flow is one step at learning rate 1. `ridge` belongs to $\frac1P|y-f|^2+\text{ridge}|W|^2$.
"""

import dataclasses
from typing import Any, ClassVar, Self

import numpy as np

from foretrain._declaration import Declaration, WrongKey, choice, custom, flag, integer, number, show
from foretrain.errors import nearest
from foretrain.parameterization import DECAYS, OPTIMIZERS
from foretrain.problems._low_precision import BITS, Precision, parse_precision
from foretrain.problems._schedule import Schedule, parse_network_schedule, parse_schedule


def _samples() -> Any:
    return number(low=0.0, low_open=True, infinite=True, default=None)


def _ratio() -> Any:
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
        sample_ratio: $P/D$, training samples per input dimension, in place of `samples` for the model `deep-linear`; `inf` is
            the population, the default (axis).
    """

    kind = "gradient-descent"
    discrete = True

    learning_rate: float | tuple[float, ...] = number(low=0.0, low_open=True)
    samples: float | tuple[float, ...] | None = _samples()
    schedule: Schedule | None = custom(parse_schedule, default=None)
    sample_ratio: float | tuple[float, ...] | None = _ratio()


@dataclasses.dataclass(frozen=True, eq=False)
class Momentum(AbstractProtocol):
    r"""Heavy ball, $W_{t+1}=W_t-\eta\nabla+\beta(W_t-W_{t-1})$, $W_{-1}=W_0$; time counts steps.

    Args:
        learning_rate: $\eta$ (axis).
        momentum: $0\le\beta<1$ (axis).
        samples: As for `GradientFlow`.
        sample_ratio: As for `GradientDescent`.
    """

    kind = "momentum"
    discrete = True

    learning_rate: float | tuple[float, ...] = number(low=0.0, low_open=True)
    momentum: float | tuple[float, ...] = number(low=0.0, high=1.0, high_open=True)
    samples: float | tuple[float, ...] | None = _samples()
    sample_ratio: float | tuple[float, ...] | None = _ratio()


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
    schedule: Schedule | None = custom(parse_schedule, default=None)

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
        batch_ratio: $B/D$, samples per step and input dimension, in place of `batch_size` for the model `deep-linear`; `inf` is
            the population (axis).
    """

    kind = "one-pass-sgd"
    discrete = True

    learning_rate: float | tuple[float, ...] = number(low=0.0, low_open=True)
    batch_size: int | tuple[int, ...] | None = integer(low=1, default=None)
    schedule: Schedule | None = custom(parse_schedule, default=None)
    exact_gaussian: bool = flag(default=False)
    batch_ratio: float | tuple[float, ...] | None = _ratio()

    samples: ClassVar[None] = None

    def _check(self) -> None:
        if self.batch_size is None and self.batch_ratio is None:
            raise self._wrong("batch_size", "missing; expected the number of samples per step")
        if self.batch_size is not None and self.batch_ratio is not None:
            raise self._wrong("batch_ratio", "expected one of batch_size and batch_ratio, got both")


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
        schedule: Factors on the learning rate; several are an axis. One without `steps` stretches over the `horizon`.
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
        horizon: Steps of a whole run (axis). With it `inf` is a time, the end of the run, and the default one.
        precision: Few bits for weights, activations, keys and values, and for the weights after training; its lists are the axes
            `weight_bits`, `activation_bits` and `kv_bits`.
    """

    kind = "network"
    discrete = True

    learning_rate: float | tuple[float, ...] = number(low=0.0, low_open=True)
    optimizer: str | tuple[str, ...] = choice(OPTIMIZERS, default="sgd")
    batch_size: int | tuple[int, ...] | None = integer(low=1, default=None)
    samples: float | tuple[float, ...] | None = _samples()
    schedule: Schedule | tuple[Schedule, ...] | None = custom(parse_network_schedule, axis=True, default=None)
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
    horizon: int | tuple[int, ...] | None = integer(low=1, default=None)
    precision: Precision | None = custom(parse_precision, default=None)

    def _check(self) -> None:
        schedules = self.schedule if isinstance(self.schedule, tuple) else (self.schedule,)
        if self.horizon is None and any(one is not None and one.stretches for one in schedules):
            raise self._wrong(
                "schedule", "steps missing; a schedule needs its length, or the training a horizon to stretch it over"
            )
        horizons = self.horizon if isinstance(self.horizon, tuple) else (self.horizon,)
        for one in (schedule for schedule in schedules if schedule is not None and schedule.stretches):
            for horizon in horizons:
                try:
                    one.over(horizon)
                except WrongKey as error:
                    raise self._wrong("schedule", f"over horizon = {horizon}: {error.key}: {error.message}") from None
        if self.centre and self.precision is not None and self.precision.post:
            raise self._wrong(
                "centre",
                "expected false with precision.post: rounded weights do not start where the subtracted output does",
            )
        decays = self.weight_decay if isinstance(self.weight_decay, tuple) else (self.weight_decay,)
        optimizers = self.optimizer if isinstance(self.optimizer, tuple) else (self.optimizer,)
        if "adam" in optimizers and any(decay > 0 for decay in decays):
            raise self._wrong("weight_decay", "no rule is known for Adam with decay in the gradient; use 'adamw'")

    def axes(self) -> dict[str, tuple]:
        """The fields that hold several values; those of the precision come last, as `weight_bits` and so on."""
        own = {} if self.precision is None else self.precision.axes()
        return super().axes() | {name: own[field] for name, field in BITS.items() if field in own}

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, also those of the precision by the names of their axes."""
        bits = {field: changes.pop(name) for name, field in BITS.items() if name in changes}
        if bits:
            changes["precision"] = (changes.get("precision") or self.precision or Precision()).replace(**bits)
        return super().replace(**changes)

    def bits(self) -> dict[str, Any]:
        """Precision of weights, activations, keys and values by the names of their axes; `inf` where it is full."""
        found = self.precision or Precision()
        return {name: getattr(found, field) for name, field in BITS.items()}


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
