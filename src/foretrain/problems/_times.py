"""Times of a learning curve: lists and ranges, for flows and for protocols that count steps."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain._declaration import WrongKey, float_array, plain_number, show
from foretrain.errors import nearest
from foretrain.problems._protocols import AbstractProtocol

_RANGE_KEYS = ("start", "stop", "points", "spacing")


def read_times(value: Any, *, discrete: bool, owner: str = "times") -> Float[np.ndarray, " time"]:
    """The times that a list, an array, a number or a range `{start, stop, points, spacing}` states.

    Ranges of a discrete protocol are rounded to unique integers; a list must already hold integers. Order is kept.

    Args:
        value: What the user gave.
        discrete: Whether times count steps.
        owner: Who is named in errors.

    Raises:
        WrongKey: Negative, missing, NaN or (for steps) fractional times, or a malformed range.

    Example:
        >>> from foretrain.problems import read_times
        >>> read_times({"start": 1, "stop": 4, "points": 3, "spacing": "log"}, discrete=False)
        array([1., 2., 4.])
    """

    def wrong(message: str) -> WrongKey:
        return WrongKey(owner, "times", message)

    if isinstance(value, Mapping):
        times = _read_range(value, wrong)
        return np.unique(np.round(times)) if discrete else times
    try:
        times = np.atleast_1d(float_array(value))
    except ValueError:
        raise wrong(f"expected a list of numbers or {{start, stop, points, spacing}}, got {show(value)}") from None
    if times.ndim != 1 or times.size == 0:
        raise wrong(f"expected a non-empty list of numbers, got {show(value)}")
    if np.any(np.isnan(times)) or np.any(times < 0):
        bad = times[np.isnan(times) | (times < 0)][0]
        raise wrong(f"expected times >= 0, got {bad:g}")
    if len(np.unique(times)) != len(times):
        raise wrong(f"expected distinct times, got {show(value)}; remove the repeated ones")
    if discrete:
        finite = times[np.isfinite(times)]
        if np.any(finite != np.round(finite)):
            bad = finite[finite != np.round(finite)][0]
            raise wrong(f"expected whole numbers of steps, got {bad:g}; only a range is rounded")
        if np.any(finite > 2**53):
            raise wrong(f"expected steps below 2^53, got {finite.max():g}")
    return times


def protocol_times(protocol: AbstractProtocol, times: Any, owner: str) -> Float[np.ndarray, " time"] | None:
    """`times` as an array that suits the protocol, or `None` for a protocol without time.

    Args:
        protocol: Decides whether times count steps, and whether there is a time at all.
        times: What the user gave; where the protocol has a horizon, the end of the run by default.
        owner: Who is named in errors.

    Raises:
        WrongKey: Times are missing, superfluous or malformed.
    """
    if not protocol.timed:
        if times is not None:
            raise WrongKey(
                owner, "times", f"{protocol.kind!r} has no time: it is the trained end point; leave times out"
            )
        return None
    if times is None:
        if getattr(protocol, "horizon", None) is not None:
            return np.array([np.inf])
        raise WrongKey(owner, "times", f"missing; {protocol.kind!r} needs a list or {{start, stop, points, spacing}}")
    return read_times(times, discrete=protocol.discrete, owner=owner)


def _read_range(table: Mapping, wrong: Any) -> Float[np.ndarray, " time"]:
    for key in table:
        if key not in _RANGE_KEYS:
            raise wrong(f"unknown key {key!r}{nearest(key, _RANGE_KEYS)}; valid keys: {', '.join(_RANGE_KEYS)}")
    for key in ("start", "stop", "points"):
        if key not in table:
            raise wrong(f"a range needs {key!r}")
        item = table[key]
        try:
            finite = math.isfinite(plain_number(item))
        except ValueError:
            finite = False
        if not finite:
            raise wrong(f"expected a finite number for {key!r}, got {show(item)}")
    start, stop, points = float(table["start"]), float(table["stop"]), table["points"]
    spacing = table.get("spacing", "log")
    if spacing not in ("log", "linear"):
        raise wrong(f"expected spacing 'log' or 'linear', got {show(spacing)}{nearest(spacing, ('log', 'linear'))}")
    if points != int(points) or not 1 <= points <= 1_000_000:
        raise wrong(f"expected between 1 and 1000000 points, got {show(points)}")
    if start < 0 or stop < start or (stop == start and points > 1):
        raise wrong(f"expected 0 <= start < stop, got start = {start:g}, stop = {stop:g}")
    if spacing == "log" and start == 0:
        raise wrong("expected start > 0 for log spacing, got 0; use a list to add time 0")
    grid = np.geomspace if spacing == "log" else np.linspace
    return grid(start, stop, int(points))
