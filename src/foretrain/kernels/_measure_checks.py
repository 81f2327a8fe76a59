"""What `measure_spectrum` refuses, and what it warns of."""

import warnings

import numpy as np
from jaxtyping import Float

from foretrain.errors import ForetrainWarning, InvalidInput, nearest

_LEAST_POINTS = 50


def symmetric(gram: Float[np.ndarray, "rows rows"], points: int) -> Float[np.ndarray, "rows rows"]:
    gram = np.array(gram, dtype=np.float64)
    if gram.shape != (points, points) or not np.all(np.isfinite(gram)):
        raise InvalidInput(
            f"measure_spectrum(kernel): expected finite values of shape ({points}, {points}), got shape {gram.shape}"
            f"{'' if np.all(np.isfinite(gram)) else ' with NaN or infinity'}."
        )
    skew = float(np.max(np.abs(gram - gram.T)))
    if skew > 1e-8 * float(np.max(np.abs(gram))):
        raise InvalidInput(
            f"measure_spectrum(kernel): expected a symmetric kernel, got K(x, y) - K(y, x) up to {skew:.3g}."
        )
    return gram


def check_targets(targets: object, rows: int) -> Float[np.ndarray, "rows outputs"]:
    who = "measure_spectrum(targets)"
    try:
        y = np.asarray(targets, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidInput(f"{who}: expected numbers, got {type(targets).__name__}.") from None
    if y.ndim == 1:
        y = y[:, None]
    if y.ndim != 2 or y.shape[1] == 0:
        raise InvalidInput(f"{who}: expected shape (rows,) or (rows, outputs), got {y.shape}.")
    if len(y) != rows:
        raise InvalidInput(f"{who}: expected {rows} rows like inputs, got {len(y)}.")
    if rows < _LEAST_POINTS:
        raise InvalidInput(
            f"measure_spectrum(inputs): expected at least {_LEAST_POINTS} rows, got {rows}; fewer cannot be split for a measurement."
        )
    if not np.all(np.isfinite(y)):
        row = int(np.argwhere(~np.isfinite(y))[0, 0])
        raise InvalidInput(f"{who}: expected finite numbers, got NaN or infinity (first: row {row}).")
    if np.all(y == y[0]):
        raise InvalidInput(f"{who}: expected targets that vary, got {rows} equal rows; there is nothing to learn.")
    return y


def check_options(
    seed: int, head: int | None, max_points: int, max_fresh: int | None, groups: int, modes: int | None, method: str
) -> None:
    if method not in ("auto", "full", "top"):
        raise InvalidInput(
            f"measure_spectrum(method): expected 'auto', 'full' or 'top', got {method!r}{nearest(method, ('auto', 'full', 'top'))}."
        )
    for name, value, least in (
        ("seed", seed, 0),
        ("head", head, 1),
        ("max_points", max_points, _LEAST_POINTS),
        ("max_fresh", max_fresh, 0),
        ("groups", groups, 3),
        ("modes", modes, 1),
    ):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise InvalidInput(f"measure_spectrum({name}): expected a whole number >= {least}, got {value!r}.")


def warn_of_duplicates(x: Float[np.ndarray, "rows features"]) -> None:
    copies = len(x) - len({row.tobytes() for row in x})
    if copies:
        warnings.warn(
            f"measure_spectrum(inputs): {copies} of {len(x)} rows are exact copies of others. They are tested on their own "
            "copies, so noise is underestimated; remove them, or keep copies out of the measured rows.",
            ForetrainWarning,
            stacklevel=3,
        )
