r"""Does a law misfit its rows? Structure in the residuals that another form would not have.

Residuals of a law that holds are noise: nothing about a run says which way its residual goes. Here they are regressed on all quadratic
features of the logarithms of the law's variables; the share of their variance that this explains is compared with the share it explains
after the signs of the residuals are flipped at random, run by run, which keeps the size of every residual and the correlation within runs.
"""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from foretrain.laws._law import Law
from foretrain.laws._problem import Objective, Problem, rows_of
from foretrain.laws._runs import Runs
from foretrain.laws._validation import budgets_of

if TYPE_CHECKING:
    from foretrain.laws._fit import Fit

_FLIPS = 999
_SURE = 0.01
_NOTICEABLE = 0.005  # of the loss
_WINSOR = 4.0  # typical residuals beyond which one is pulled in, so that a diverged run is not taken for structure
_FEW = 2


@dataclasses.dataclass(frozen=True)
class Misfit:
    """What the residuals of a fit say about its law.

    Args:
        amplitude: Root mean square of the structure, relative to the loss.
        share: Share of the residuals' variance that the structure is.
        p_value: Probability of as large a share where there is no structure.
        text: What is wrong and where; empty when nothing noticeable is.
    """

    amplitude: float
    share: float
    p_value: float
    text: str = ""


def misfit(
    runs: Runs, law: "Law | Fit", theta: np.ndarray | None = None, *, group: str | None = None, seed: int = 0
) -> Misfit:
    """Whether the residuals of a fit have structure.

    Args:
        runs: The table that was fitted.
        law: The law, or a fit.
        theta: Coordinates of the fit; a `Fit` brings its own.
        group: Column of the runs.
        seed: Of the flips.

    Returns:
        The amplitude of the structure, how sure it is, and a sentence for people where it is both sure (p <= 0.01) and noticeable
        (0.5 % of the loss).

    Example:
        >>> import numpy as np
        >>> from foretrain.laws import Runs, law_named, misfit
        >>> tokens = np.geomspace(1e6, 1e9, 24)
        >>> law = law_named("power", x="tokens")
        >>> theta = law.coordinates({"A": 300.0, "E": 2.0, "alpha": 0.4})
        >>> good, bent = 2.0 + 300.0 / tokens**0.4, 2.0 + 300.0 / tokens**0.4 + 0.1 * np.log10(tokens / 1e8) ** 2
        >>> misfit(Runs({"tokens": tokens, "loss": good}), law, theta).text
        ''
        >>> misfit(Runs({"tokens": tokens, "loss": bent}), law, theta).text[:57]
        'power misfits: its residuals vary with tokens by 4.6 % (p'
    """
    if not isinstance(law, Law):
        law, theta = law.law, law.theta
    assert theta is not None  # a law comes with its coordinates
    data = rows_of(runs, law, group)
    residuals = Problem(law, data.x, data.y, Objective()).log_residuals(theta)
    # Bits may be infinite, and the law is flat there: 1/x in the place of ln x.
    features = _features(
        np.array([1 / x if v in law.defaults else np.log(x) for v, x in zip(law.variables, data.x, strict=True)])
    )
    spare = len(residuals) - features.shape[1] - 1
    scale = float(np.median(np.abs(residuals)))
    if spare < features.shape[1] or scale < 1e-12:
        return Misfit(0.0, 0.0, 1.0)
    robust = np.clip(residuals, -_WINSOR * scale, _WINSOR * scale)
    basis, _ = np.linalg.qr(features)
    fitted = basis @ (basis.T @ robust)
    total = float(robust @ robust)
    share = float(fitted @ fitted) / total
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (_FLIPS, int(data.groups.max()) + 1))[:, data.groups]
    shares = np.sum(((signs * robust) @ basis) ** 2, axis=1) / total
    p_value = (1 + int(np.sum(shares >= share * (1 - 1e-12)))) / (_FLIPS + 1)
    # What noise alone would put into so many features is taken off.
    amplitude = float(np.sqrt(max(share - float(np.mean(shares)), 0.0) * total / len(robust)))
    if p_value > _SURE or amplitude < _NOTICEABLE:
        return Misfit(amplitude, share, p_value)
    words = (
        f"{law.name} misfits: its residuals vary with {' and '.join(law.variables)} by {100 * amplitude:.2g} % (p = {p_value:.2g}). "
        f"{_where(runs, law, residuals)}Forecasts beyond these rows inherit that; try law auto, or fewer of the cheap runs."
    )
    return Misfit(amplitude, share, p_value, words)


def _features(logs: Float[np.ndarray, "variables rows"]) -> Float[np.ndarray, "rows features"]:
    """A constant, every variable and all products of two, of variables in units of their spread; columns that repeat others are left out."""
    varied = [(v - v.mean()) / v.std() for v in logs if v.std() > 1e-9]
    columns = [np.ones(logs.shape[1]), *varied]
    columns += [a * b for i, a in enumerate(varied) for b in varied[i:]]
    kept: list[np.ndarray] = []
    for column in columns:
        left = column
        for other in kept:  # Gram-Schmidt: products of two values only are combinations of those before them
            left = left - other * (other @ left)
        length = np.linalg.norm(left)
        if length > 1e-6 * np.linalg.norm(column):
            kept.append(left / length)
    return np.stack(kept, axis=1)


def _where(runs: Runs, law: Law, residuals: np.ndarray) -> str:
    """Where the law is furthest off: among its dearest and its cheapest budgets."""
    budgets = budgets_of(runs, law)
    if budgets.count <= 2 * _FEW:
        return ""
    parts = {
        f"the {_FEW} dearest budgets": budgets.level >= budgets.count - _FEW,
        f"the {_FEW} cheapest budgets": budgets.level < _FEW,
    }
    offs = {name: float(np.mean(residuals[rows])) for name, rows in parts.items()}
    told = [
        f"{'under' if off > 0 else 'over'}estimates {name} by {100 * abs(off):.2g} %"
        for name, off in offs.items()
        if abs(off) >= _NOTICEABLE
    ]
    return f"It {' and '.join(told)} on average. " if told else ""
