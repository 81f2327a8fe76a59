r"""The claims of "Scaling laws for precision" (arXiv 2411.04330) that small decoder transformers answer in minutes, on text.

Two sweeps over width and tokens: one whose weights are rounded after training, one whose weights have few bits in every forward pass.
Parameters are counted without tables of tokens and positions and without the readout, as in the paper. The paper's constants belong to its
setting; what is judged is whether the forms describe these networks, too, and the signs of the exponents.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from foretrain.claims._claim import Claim
from foretrain.curves import LearningCurves
from foretrain.laws import Fit, Law, Objective, Runs, fit
from foretrain.laws._precision_forms import precision, precision_additive, precision_data
from foretrain.problems import NetworkTraining, Precision, Problem, Schedule, Transformer
from foretrain.tasks import Text

PAPER = "04"
NAN = math.nan
FEWEST = 3
"""Bits at which the two prices are compared, and at which the deployed loss should turn."""

_ERRORS = 4.0  # standard errors that decide
_EXPLAINED = 0.9  # least share of the variance, of ln delta or of the loss, at which a form is said to describe it
_NORMAL = 1.959964
_FITS = 200
_SIZES = 3  # fewest that show an exponent of size


def sweeps(*, fast: bool) -> tuple[Problem, Problem, int]:
    """Networks rounded after training, networks of few bits in training, and the number of seeds.

    Args:
        fast: Fewer sizes and lengths; otherwise those of `studies/precision-ptq.toml` and `studies/precision-weights.toml`.
    """
    width, after, during = (8, 16, 32, 64), (500, 1000, 2000, 4000, 8000, 16000), (500, 1000, 2000)
    if fast:
        width, after, during = (8, 16), (500, 2000, 16000), (500, 2000)

    def problem(horizon: tuple[int, ...], few: Precision) -> Problem:
        training = NetworkTraining(
            optimizer="adam",
            learning_rate=0.01,
            batch_size=16,
            loss="cross-entropy",
            horizon=horizon,
            schedule=Schedule("cosine", steps="horizon", warmup=0.1),
            precision=few,
        )
        return Problem(Text(context=16), Transformer(width=width, depth=2, base_width=32, base_depth=2), training)

    return problem(after, Precision(post=(3, 4, 5, 6))), problem(during, Precision(weights=(2, 3, 4, 6, math.inf))), 2


def measured(*, fast: bool) -> list[Claim]:
    """What networks in few bits do, beside what the paper says.

    Args:
        fast: A minute on two cores; otherwise the numbers of `docs/how-to/low-precision.md`.
    """
    from foretrain.training import train

    after, during, seeds = sweeps(fast=fast)
    rounded, coarse = train(after, seeds=seeds), train(during, seeds=seeds)
    return [*_degradation(rounded), _turns(rounded), *_effective(coarse), _robust(rounded, coarse)]


@dataclasses.dataclass(frozen=True)
class Described:
    """A law fitted to a sweep.

    Args:
        fit: The fit.
        explained: Share of the variance that it explains, on the scale on which the law has its residuals.
        rms: Root mean square of the residuals, in nats for losses and of the logarithm for degradations.
    """

    fit: Fit
    explained: float
    rms: float

    def value(self, name: str) -> tuple[float, float]:
        """A parameter and its standard error over resampled runs.

        Args:
            name: Of the parameter.
        """
        found = self.fit.parameters[name]
        return found.value, (found.high - found.low) / (2 * _NORMAL)


def table(curves: LearningCurves) -> Runs:
    """A sweep as a table in which `params` counts what the paper counts.

    Args:
        curves: Of a sweep.
    """
    runs = Runs.from_curves(curves)
    return runs.with_column("params", runs["params_no_embed"])


def rounding_law(curves: LearningCurves) -> Described:
    """(PR.4), fitted by least squares on the logarithm of what rounding costs, which is smoothed below a thousandth of a nat.

    Args:
        curves: Of the first sweep.
    """
    runs = table(curves)
    found = fit(runs, "ptq", objective=Objective("squares"), bootstrap=_FITS, validate=False)
    scale = found.law.smoothed
    return _described(found, runs, scale(runs["delta"]), scale)


def training_law(curves: LearningCurves, form: Callable[[tuple[str, ...]], Law] = precision) -> Described:
    """(PR.1) or another form with weights of few bits, fitted by least squares to the logarithm of losses.

    Args:
        curves: Of the second sweep.
        form: Makes the law of the parts that have few bits; others than (PR.1) are fitted once only, without intervals.
    """
    runs = table(curves)
    repeats = _FITS if form is precision else 0
    found = fit(runs, form(("weight_bits",)), objective=Objective("squares"), bootstrap=repeats, validate=False)
    return _described(found, runs, runs["loss"], np.asarray)


def _described(found: Fit, runs: Runs, y: np.ndarray, scale: Callable[[np.ndarray], np.ndarray]) -> Described:
    at = {name: runs[name] for name in found.law.variables}
    residuals = y - scale(found.law.predict(found.law.values(found.theta), at))
    explained = 1 - np.sum(residuals**2) / np.sum((y - y.mean()) ** 2)
    return Described(found, float(explained), float(np.sqrt(np.mean(residuals**2))))


@dataclasses.dataclass(frozen=True)
class Turn:
    """Where the loss of a size with weights rounded to few bits turns.

    Args:
        params: Its parameters.
        tokens: Where it is smallest.
        inside: Whether that is neither the least nor the most data of the sweep.
        rise: From there to the most data, in nats.
        error: Standard error of that.
        fall: From the least data to there.
    """

    params: float
    tokens: float
    inside: bool
    rise: float
    error: float
    fall: float


def turns(curves: LearningCurves, bits: int = FEWEST) -> list[Turn]:
    """The smallest deployed loss over tokens, size by size.

    Args:
        curves: Of the first sweep.
        bits: To which weights are rounded.
    """
    ends = curves.dataset.isel(time=-1).sel(post_bits=bits).transpose("width", "horizon", ...)
    found = []
    for width in ends["width"].to_numpy():
        one = ends.sel(width=width)
        loss, error = one["test_loss_post"].to_numpy(), one["test_loss_post_stderr"].to_numpy()
        place, last = int(np.argmin(loss)), len(loss) - 1
        found.append(
            Turn(
                float(one["params_no_embed"].to_numpy().flat[0]),
                float(one["tokens"].to_numpy()[place]),
                0 < place < last,
                float(loss[last] - loss[place]),
                math.hypot(error[last], error[place]),
                float(loss[0] - loss[place]),
            )
        )
    return found


def prices(rounded: LearningCurves, coarse: LearningCurves) -> dict[str, np.ndarray]:
    """What weights of `FEWEST` bits cost at the longest training that both sweeps have, by width.

    Args:
        rounded: The first sweep.
        coarse: The second one.

    Returns:
        `after` and `during`: the price of rounding after training and of training so, each with `_error`; `params`, `tokens`.
    """
    one, two = (curves.dataset.isel(time=-1) for curves in (rounded, coarse))
    horizon = max(set(one["horizon"].to_numpy()) & set(two["horizon"].to_numpy()))
    one, two = one.sel(horizon=horizon), two.sel(horizon=horizon)
    after, few, full = one.sel(post_bits=FEWEST), two.sel(weight_bits=FEWEST), two.sel(weight_bits=math.inf)
    params, tokens, _ = np.broadcast_arrays(one["params_no_embed"], one["tokens"], one["test_loss"])
    found = {
        "params": params,
        "tokens": tokens,
        "after": after["test_loss_post"] - one["test_loss"],
        "after_error": (after["test_loss_post_stderr"] ** 2 + one["test_loss_stderr"] ** 2) ** 0.5,
        "during": few["test_loss"] - full["test_loss"],
        "during_error": (few["test_loss_stderr"] ** 2 + full["test_loss_stderr"] ** 2) ** 0.5,
    }
    return {name: np.asarray(values, np.float64) for name, values in found.items()}


def _degradation(curves: LearningCurves) -> list[Claim]:
    """The form of what rounding costs, and its exponents."""
    law = rounding_law(curves)
    where = f"{law.fit.rows} degradations of {law.fit.groups} sizes and lengths"
    found = [
        Claim(
            PAPER,
            "rounding weights after training costs C D^gamma_D / N^gamma_N exp(-P / gamma_post): share of the variance of its logarithm",
            0.97,
            NAN,
            law.explained,
            NAN,
            _verdict(law.explained >= _EXPLAINED),
            f"{where}, root mean square {law.rms:.2f} of the logarithm; at least {_EXPLAINED:g} counts as described",
        )
    ]
    for name, source, words in (
        ("gamma_D", 0.5068, "it grows with data: exponent of D"),
        ("gamma_N", 0.3439, "it falls with size: exponent of N"),
        ("gamma_post", 0.5907, "it falls by e with every so many bits"),
    ):
        value, error = law.value(name)
        why = f"{where}: {value / error:.1f} standard errors above zero, which decides; the constant belongs to the paper's setting"
        verdict = _verdict(value > _ERRORS * error)
        if name == "gamma_N" and len(curves.coords["width"]) < _SIZES:
            verdict, why = "not run", f"{where}: two sizes show no exponent of size; the long run has four"
        found.append(Claim(PAPER, f"rounding after training: {words}", source, NAN, value, error, verdict, why))
    return found


def _turns(curves: LearningCurves) -> Claim:
    found = turns(curves)
    rise = float(np.mean([turn.rise for turn in found]))
    error = math.sqrt(sum(turn.error**2 for turn in found)) / len(found)
    each = "; ".join(
        f"N = {turn.params:.3g}: smallest at D = {turn.tokens:.3g}, then {turn.rise:+.3f} ± {turn.error:.3f}"
        for turn in found
    )
    inside = sum(turn.inside for turn in found)
    return Claim(
        PAPER,
        f"with weights rounded to {FEWEST} bits, the loss has a minimum in D and then grows: mean rise to the most data, in nats",
        "> 0",
        NAN,
        rise,
        error,
        _verdict(inside == len(found) and rise > _ERRORS * error),
        f"{inside} of {len(found)} sizes turn inside the sweep, {rise / error:.1f} standard errors together ({each})",
    )


def _effective(curves: LearningCurves) -> list[Claim]:
    """The form of what weights of few bits cost in training, and two others."""
    law = training_law(curves)
    (gamma, gamma_error), (bits_0, bits_error) = law.value("gamma_w"), law.value("P0_w")
    data, additive = training_law(curves, precision_data), training_law(curves, precision_additive)
    return [
        Claim(
            PAPER,
            "training with weights of P bits is training with N (1 - exp(-(P - P0) / gamma_w)) parameters: share of the variance of losses",
            "form",
            NAN,
            law.explained,
            NAN,
            _verdict(law.explained >= _EXPLAINED),
            f"{law.fit.rows} losses, root mean square {law.rms:.4f} nats, gamma_w = {gamma:.2f} ± {gamma_error:.2f}, P0 = {bits_0:.2f} ± "
            f"{bits_error:.2f} bits (paper: 2.67 and 0.81); with so few sizes A, alpha and E are not identified, and gamma_w hangs on them",
        ),
        Claim(
            PAPER,
            "fewer effective parameters describe it better than fewer effective tokens or a loss of its own: root mean square over the better of them",
            "< 1",
            NAN,
            law.rms / min(data.rms, additive.rms),
            NAN,
            _verdict(law.rms < min(data.rms, additive.rms)),
            f"{law.rms:.4f} nats against {data.rms:.4f} (tokens) and {additive.rms:.4f} (added loss); the paper's shares of held-out variance are "
            "0.82, 0.74 and 0.71",
        ),
    ]


def _robust(rounded: LearningCurves, coarse: LearningCurves) -> Claim:
    price = prices(rounded, coarse)
    gain = price["after"] - price["during"]
    error = float(np.sqrt(np.sum(price["after_error"] ** 2 + price["during_error"] ** 2)) / len(gain))
    each = "; ".join(
        f"N = {n:.3g}: {a:.3f} after, {d:.3f} during"
        for n, a, d in zip(price["params"], price["after"], price["during"], strict=True)
    )
    return Claim(
        PAPER,
        f"training in few bits makes robust: rounding to {FEWEST} bits costs more after training than during it, in nats",
        "> 0",
        NAN,
        float(gain.mean()),
        error,
        _verdict(bool(np.all(gain > 0)) and float(gain.mean()) > _ERRORS * error),
        f"at D = {price['tokens'][0]:.3g}, mean over sizes {gain.mean() / error:.1f} standard errors above zero ({each})",
    )


def _verdict(yes: bool) -> str:
    return "reproduced" if yes else "not reproduced"
