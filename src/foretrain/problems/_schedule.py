"""Learning-rate schedules: declarations."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from jaxtyping import Float

from foretrain._declaration import Declaration, choice, custom, number, plain_number, show

HORIZON = "horizon"
"""As the length of a schedule: that of the run."""


def _parse_steps(value: Any) -> int | str | None:
    if value is None or value == HORIZON:
        return value
    return _whole(value, 1, f"a whole number >= 1, or {HORIZON!r} for the length of the run")


def _parse_part(value: Any) -> int | float | None:
    if value is None:
        return None
    expected = "a whole number of steps >= 0, or a fraction of the schedule between 0 and 1"
    found = plain_number(value, expected)
    return found if 0 < found < 1 else _whole(value, 0, expected)


def _whole(value: Any, low: int, expected: str) -> int:
    found = plain_number(value, expected)
    if math.isinf(found) or found != int(found) or found < low:
        raise ValueError(f"expected {expected}, got {show(value)}")
    return int(value)


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule(Declaration):
    r"""Factors on the learning rate, one per step.

    Step $s=0,1,\dots$ uses $\eta\cdot\text{factor}_s$. All shapes rise linearly from $1/(\text{warmup}+1)$ during `warmup` steps.
    Afterwards: `constant` stays 1; `linear` and `cosine` fall to `final` at step `steps`; `wsd` (warm-up, stable, decay)
    stays 1 and falls linearly to `final` over the last `decay` steps. After `steps` the factor stays at `final`.
    Fractions become whole steps as soon as the length is known.

    Args:
        shape: `"constant"`, `"linear"`, `"cosine"` or `"wsd"`.
        steps: Length of the schedule; not needed for `constant`. `"horizon"` is the length of the run, for `NetworkTraining`.
        warmup: Steps of warm-up, or a fraction of the length.
        decay: Steps of the last phase of `wsd`, or a fraction of the length; a fifth of it by default.
        final: Last factor.
    """

    kind = "schedule"

    shape: str = choice(("constant", "linear", "cosine", "wsd"), axis=False)
    steps: int | str | None = custom(_parse_steps, default=None)
    warmup: int | float = custom(_parse_part, default=0)
    decay: int | float | None = custom(_parse_part, default=None)
    final: float = number(low=0.0, high=1.0, axis=False, default=0.0)

    def _check(self) -> None:
        if self.shape != "constant" and self.steps is None:
            raise self._wrong("steps", f"missing; a {self.shape!r} schedule needs its length")
        for name in ("warmup", "decay"):
            part = getattr(self, name)
            if part is None or isinstance(part, int) or self.stretches:
                continue
            if self.steps is None:
                raise self._wrong(name, f"expected a whole number of steps, got {part:g}; a fraction needs `steps`")
            object.__setattr__(self, name, round(part * self.steps))  # type: ignore[operator]
        if self.decay == 0:
            raise self._wrong("decay", "expected at least one step, got 0")
        parts = [part for part in (self.warmup, self.decay or 0) if not self.stretches or part < 1]
        length = 1 if self.stretches else self.steps
        if length is not None and sum(parts) > length:  # type: ignore[operator]
            raise self._wrong(
                "warmup",
                f"expected warmup + decay <= {'1' if self.stretches else f'steps = {length}'}, got {sum(parts):g}",
            )

    @property
    def stretches(self) -> bool:
        """Whether the length is that of the run."""
        return self.steps == HORIZON

    def over(self, horizon: int | None) -> Self:
        """The schedule of a run of that many steps.

        Args:
            horizon: Steps of the run.
        """
        return self.replace(steps=horizon) if self.stretches else self

    def factors(self, steps: int) -> Float[np.ndarray, " steps"]:
        """The factors of the first `steps` steps."""
        if self.stretches:
            raise self._wrong("steps", "the length of the run is not known here; `over` fixes it")
        s = np.arange(steps, dtype=np.float64)
        warm = np.minimum((s + 1) / (self.warmup + 1), 1.0)
        if self.steps is None or self.shape == "constant":
            return warm
        length = int(self.steps)
        if self.shape == "wsd":
            decay = int(self.decay) if self.decay is not None else max(1, length // 5)
            progress = (s - (length - decay)) / decay
        else:
            progress = (s - self.warmup) / max(1, length - int(self.warmup))
        progress = np.clip(progress, 0.0, 1.0)
        if self.shape == "cosine":
            progress = (1 - np.cos(np.pi * progress)) / 2
        return warm * (1 - (1 - self.final) * progress)

    @property
    def last(self) -> int:
        """Steps after which the factor stays as it is."""
        return max(int(self.warmup), 0 if self.steps is None else int(self.steps))


def parse_network_schedule(value: Any) -> Schedule | None:
    """A schedule that may leave out its length.

    Args:
        value: What a user gave.

    Raises:
        ValueError: Neither a name nor a table.
    """
    if isinstance(value, str):
        value = {"shape": value}
    if isinstance(value, Mapping) and value.get("shape") != "constant" and "steps" not in value:
        value = {**value, "steps": HORIZON}
    return _parsed(value)


def parse_schedule(value: Any) -> Schedule | None:
    """A schedule with a length of its own.

    Args:
        value: What a user gave.

    Raises:
        ValueError: Neither a name nor a table, or one that stretches.
    """
    found = _parsed({"shape": value} if isinstance(value, str) else value)
    if found is not None and found.stretches:
        raise ValueError("expected a number of steps, got steps = 'horizon'; only networks have a horizon")
    return found


def _parsed(value: Any) -> Schedule | None:
    if value is None or isinstance(value, Schedule):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a schedule such as {{shape = 'cosine', steps = 1000}}, got {show(value)}")
    return Schedule.from_table({k: v for k, v in value.items() if k != "kind"}, "schedule")
