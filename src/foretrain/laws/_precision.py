r"""`PrecisionLaw`: what few bits cost, in training and after it, and what to do about it.

A thin face on two fits: one of the loss after training in few bits (PR.1), one of what rounding adds afterwards (PR.4). The fits may come from one
table or from two, or be one fit of both together (PR.6).
"""

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from foretrain.errors import ForetrainWarning, InvalidInput, nearest
from foretrain.laws._estimates import estimate, far_away
from foretrain.laws._fit import Estimate, Fit, fit
from foretrain.laws._forms import law_for
from foretrain.laws._precision_constants import Bits, Constants
from foretrain.laws._precision_forms import PARTS
from foretrain.laws._precision_plan import best_bits, plan_constants
from foretrain.laws._presets import precision_table2
from foretrain.laws._runs import Runs

_TRAINING = ("precision", "precision-untied", "precision-unified", "chinchilla", "chinchilla-tied")
_FIXED = ("params", "tokens", "bits")


@dataclasses.dataclass(frozen=True, eq=False)
class PrecisionLaw:
    r"""The law of precision: loss after training in few bits, and what rounding adds after training.

    Bits are one number for all parts that the law knows, or numbers by part, `{"weights": 4, "kv": 8}`; parts that are not named are in full
    precision. Numbers come as `Estimate`: without an interval (NaN) where the fit has no bootstrap, as constants of a paper have none.

    Args:
        training: Fit of `precision`, `precision-untied` or `precision-unified`; or of a Chinchilla law, which knows no bits.
        rounding: Fit of `ptq`; not with `precision-unified`, which holds it.

    Raises:
        InvalidInput: Fits of other laws.

    Example:
        >>> from foretrain.laws import PrecisionLaw
        >>> law = PrecisionLaw.table2()
        >>> round(law.optimal_precision().value, 3)
        7.002
        >>> print(f"{law.critical_tokens(30e6, bits=3).value:.4g}")
        5.325e+09
        >>> round(law.loss(1e9, 2e10, bits={"weights": 4}).value, 4)
        3.0785
    """

    training: Fit
    rounding: Fit | None = None

    def __post_init__(self) -> None:
        name = self.training.law.name
        if name not in _TRAINING:
            raise InvalidInput(f"PrecisionLaw(training): expected a fit of {', '.join(_TRAINING)}, got one of {name}.")
        if self.rounding is not None and self.rounding.law.name != "ptq":
            raise InvalidInput(f"PrecisionLaw(rounding): expected a fit of ptq, got one of {self.rounding.law.name}.")
        if self.rounding is not None and name == "precision-unified":
            raise InvalidInput(
                "PrecisionLaw(rounding): precision-unified holds the degradation itself; leave rounding out."
            )

    @classmethod
    def table2(cls) -> "PrecisionLaw":
        """The constants of Table 2 of arXiv 2411.04330, offsets included; without intervals."""
        return cls(precision_table2())

    @classmethod
    def fit(cls, runs: Runs | Mapping[str, Any], law: str = "precision", **options: Any) -> "PrecisionLaw":
        """The law that is nearest to your runs.

        Training is fitted to the runs with their bits, each once; where no bits vary, `chinchilla-tied` is fitted. What rounding adds is
        fitted to the rows that have `post_bits` and `delta` (or `loss_post`) and were trained in full precision. Rows of `precision-unified` have
        `post_bits` and the loss as deployed.

        Args:
            runs: A table from `read_runs`, or columns by name.
            law: The law of training.
            options: As of `fit`: `group`, `objective`, `starts`, `bootstrap`, `level`, `seed`.

        Raises:
            InvalidInput: As of `fit`.
        """
        runs = runs if isinstance(runs, Runs) else Runs.from_columns(runs)
        if law not in _TRAINING:
            raise InvalidInput(
                f"PrecisionLaw.fit(law): expected one of {', '.join(_TRAINING)}, got {law!r}{nearest(law, _TRAINING)}."
            )
        if law == "precision-unified":
            return cls(fit(runs, law, **options))
        rounded = "post_bits" in runs and ("delta" in runs or "loss_post" in runs)
        unrounded = _once(runs) if rounded else runs
        named = law if any(_few(unrounded, part).any() for part in PARTS) else "chinchilla-tied"
        training = fit(unrounded, law_for(named, unrounded), **options)
        if not rounded:
            return cls(training)
        full = np.all([~_few(runs, part) for part in PARTS], axis=0) & _few(runs, "post_bits")
        if not full.any():
            return cls(training)
        return cls(training, fit(runs.take(full), "ptq", **options))

    def loss(self, params: float, tokens: float, bits: Bits = math.inf) -> Estimate:
        """Loss after training in few bits (PR.1).

        Args:
            params: $N$.
            tokens: $D$.
            bits: Of one part or of several, in training.

        Raises:
            InvalidInput: A part has too few bits for the law, or is not in it.
        """
        self._checked("loss", params=params, tokens=tokens, bits=bits)
        return self._estimate(lambda c: c.loss(params, tokens, bits))

    def ptq(self, params: float, tokens: float, bits: float, trained_bits: Bits = math.inf) -> Estimate:
        r"""What rounding to so many bits after training adds to the loss (PR.4), (PR.6).

        Args:
            params: $N$.
            tokens: $D$.
            bits: $P_{\rm post}$.
            trained_bits: Of training.

        Raises:
            InvalidInput: The law knows nothing of rounding, or a part has too few bits for it.
        """
        self._checked("ptq", params=params, tokens=tokens, bits=trained_bits, post_bits=bits)
        return self._estimate(lambda c: c.delta(params, tokens, bits, trained_bits))

    def critical_tokens(self, params: float, bits: float, trained_bits: Bits = math.inf) -> Estimate:
        r"""$D_{\rm crit}$ (PR.7): with more data than this, weights rounded to so many bits become worse.

        Args:
            params: $N$.
            bits: $P_{\rm post}$.
            trained_bits: Of training.

        Raises:
            InvalidInput: As of `ptq`.
        """
        self._checked("critical_tokens", params=params, bits=trained_bits, post_bits=bits)
        return self._estimate(lambda c: c.critical_tokens(params, bits, trained_bits))

    def factor(self, bits: Bits) -> Estimate:
        r"""$\prod_xf_x(P_x)$ (PR.2), the share of the parameters that counts.

        Args:
            bits: Of one part or of several, in training.

        Raises:
            InvalidInput: A part has too few bits for the law, or is not in it.
        """
        self._checked("factor", bits=bits)
        return self._estimate(lambda c: math.exp(c.log_factor(bits)))

    def measured_factor(self, params: float, loss: float, full_loss: float) -> Estimate:
        r"""The share of the parameters that counts, from two runs of one size and one data, in few bits and in full precision (PR.19).

        Args:
            params: $N$ of both.
            loss: In few bits.
            full_loss: In full precision.

        Raises:
            InvalidInput: Few bits cannot have a share: their loss is below the other by more than the law allows.
        """
        self._checked("measured_factor", params=params)

        def share(c: Constants) -> float:
            excess = (loss - full_loss) / c.A + params**-c.alpha
            return excess ** (-1 / c.alpha) / params if excess > 0 else math.nan

        found = self._estimate(share)
        if math.isnan(found.value):
            raise InvalidInput(
                f"PrecisionLaw.measured_factor: a loss of {loss:.6g} against {full_loss:.6g} is less than infinitely many parameters would have."
            )
        return found

    def optimal_precision(self) -> Estimate:
        """Bits of all parts that training is best done in, whatever the budget (PR.11).

        Raises:
            InvalidInput: The law knows no bits of training, or has no optimum.
        """
        if not self._constants()[0].factors:
            raise InvalidInput(
                f"PrecisionLaw.optimal_precision: {self.training.law.name} knows no bits of training; fit runs that were trained in few bits."
            )
        found = self._estimate(best_bits)
        if math.isnan(found.value):
            raise InvalidInput(
                "PrecisionLaw.optimal_precision: by this fit fewer bits are better down to nothing; add runs in fewer bits."
            )
        return found

    def plan(
        self,
        compute: float | None = None,
        *,
        fixed: Mapping[str, float] | None = None,
        post_bits: float | None = None,
        serving: float | None = None,
    ) -> dict[str, Estimate]:
        """The best size, data and bits for a budget, as from `plan_precision`.

        Args:
            compute: Budget of training.
            fixed: What is not free: `params`, `tokens`, `bits`.
            post_bits: Bits to which weights are rounded after training.
            serving: Parameters times bits, where serving and not training is what costs.

        Raises:
            InvalidInput: As of `plan_precision`.
        """
        for name in fixed or {}:
            if name not in _FIXED:
                raise InvalidInput(
                    f"PrecisionLaw.plan(fixed): expected {', '.join(_FIXED)}, got {name!r}{nearest(name, _FIXED)}."
                )
        given = {"compute": compute, "post_bits": post_bits, "serving": serving, **(fixed or {})}
        found = plan_constants(
            self._constants(), self.training.level, {name: float(v) for name, v in given.items() if v is not None}
        )
        self._caution({name: e.value for name, e in found.items() if name in ("params", "tokens")}, 3)
        return found

    def _constants(self) -> list[Constants]:
        """Those of the estimate, then those of bootstrap fits."""
        training = [Constants.of(self.training.law, t) for t in (self.training.theta, *self.training.samples)]
        if self.rounding is None:
            return training
        rounding = [Constants.of(self.rounding.law, t) for t in (self.rounding.theta, *self.rounding.samples)]
        if len(training) == 1 or len(rounding) == 1:  # one of them has no bootstrap, so that nothing has
            training, rounding = training[:1], rounding[:1]
        return [
            dataclasses.replace(t, C=r.C, gamma_D=r.gamma_D, gamma_N=r.gamma_N, gamma_post=r.gamma_post)
            for t, r in zip(training, rounding, strict=False)
        ]

    def _estimate(self, quantity: Callable[[Constants], float]) -> Estimate:
        values = np.array([quantity(c) for c in self._constants()])
        return estimate(float(values[0]), values[1:], self.training.level)

    def _checked(self, method: str, bits: Bits = math.inf, **numbers: float) -> None:
        """Refuse what the law has no value for, and warn far from its runs."""
        who = f"PrecisionLaw.{method}"
        for name, value in numbers.items():
            if not value > 0 or (value == math.inf and name != "post_bits"):
                raise InvalidInput(f"{who}({name}): expected a number > 0, got {value:g}.")
        if "post_bits" in numbers and math.isnan(self._constants()[0].C):
            raise InvalidInput(
                f"{who}: this law knows nothing of rounding after training; fit a table with post_bits and delta, or give rounding, a fit of ptq."
            )
        known = Constants.of(self.training.law, self.training.theta)
        known.refuse_useless(who, bits)
        self._caution(numbers | {part: b for part, b in known.by_part(bits).items() if b < math.inf})

    def _caution(self, point: Mapping[str, float], stacklevel: int = 4) -> None:
        for words in far_away(self.training, [point]):
            warnings.warn(f"PrecisionLaw: {words}", ForetrainWarning, stacklevel=stacklevel)


def _few(runs: Runs, name: str) -> np.ndarray:
    """Rows in which bits are given and finite."""
    if name not in runs:
        return np.zeros(len(runs), bool)
    return np.isfinite(runs.numbers_or_nan(name))


def _once(runs: Runs) -> Runs:
    """Every trained network once, in a table that has a row for every rounding of it."""
    names = [n for n in ("run", "params", "tokens", *PARTS, "loss") if n in runs]
    codes = np.stack([np.unique(runs[n], return_inverse=True)[1].reshape(-1) for n in names])
    return runs.take(np.sort(np.unique(codes, axis=1, return_index=True)[1]))
