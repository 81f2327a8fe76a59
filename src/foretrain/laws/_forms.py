"""The laws of loss that `fit` knows by name; `docs/theory/scaling-laws.md` has their formulas, sources and uses."""

import dataclasses
import math
from collections.abc import Callable, Collection

import numpy as np

from foretrain.errors import InvalidInput, nearest
from foretrain.laws import _one_variable_forms as one_variable
from foretrain.laws import _precision_forms as few_bits
from foretrain.laws import _theory_forms as theory
from foretrain.laws._law import Law, Parameter, sum_of_powers
from foretrain.laws._parameters import amplitude, exponent, floor
from foretrain.laws._runs import Runs


def chinchilla() -> Law:
    r"""$E+A/N^\alpha+B/D^\beta$ (SL.1), [arXiv 2203.15556](https://arxiv.org/abs/2203.15556)."""
    return sum_of_powers(
        "chinchilla",
        "E + A / params^alpha + B / tokens^beta",
        ("params", "tokens"),
        (amplitude("A"), amplitude("B"), floor(), exponent("alpha"), exponent("beta")),
        ({"A": 1.0, "alpha": {"params": -1.0}}, {"B": 1.0, "beta": {"tokens": -1.0}}, {"E": 1.0}),
        source="arXiv 2203.15556",
        derived={"params_exponent": lambda p: theory.share(p["alpha"], p["beta"])},
    )


def chinchilla_tied() -> Law:
    r"""$E+A/N^\alpha+B/D^\alpha$ (SL.2): one exponent, for data that cannot tell two apart."""
    return sum_of_powers(
        "chinchilla-tied",
        "E + A / params^alpha + B / tokens^alpha",
        ("params", "tokens"),
        (amplitude("A"), amplitude("B"), floor(), exponent("alpha")),
        ({"A": 1.0, "alpha": {"params": -1.0}}, {"B": 1.0, "alpha": {"tokens": -1.0}}, {"E": 1.0}),
        source="arXiv 2305.16264",
    )


def gadre() -> Law:
    r"""$E+(aM^\eta+bM^{-\eta})C^{-\eta}$, $M=D/N$, $C=6ND$ (SL.3), [arXiv 2403.08540](https://arxiv.org/abs/2403.08540).

    The tied law in other letters, $\eta=\alpha/2$: $M^\eta C^{-\eta}=6^{-\eta}N^{-2\eta}$.
    """
    return sum_of_powers(
        "gadre",
        "E + (a M^eta + b M^-eta) C^-eta, M = tokens / params, C = 6 params tokens",
        ("params", "tokens"),
        (amplitude("a"), amplitude("b"), floor(), exponent("eta", start=(0.05, 0.15, 0.3, 0.6))),
        (
            {"a": 1.0, "eta": {"params": -2.0, "": -math.log(6.0)}},
            {"b": 1.0, "eta": {"tokens": -2.0, "": -math.log(6.0)}},
            {"E": 1.0},
        ),
        source="arXiv 2403.08540",
    )


def kaplan() -> Law:
    r"""$E+[(N_c/N)^{\alpha_N/\alpha_D}+D_c/D]^{\alpha_D}$ (SL.4), [arXiv 2001.08361](https://arxiv.org/abs/2001.08361), with a floor.

    Kaplan et al. have no floor; a fit without one is the fit whose floor ends at its smallest value.
    """

    def logs(theta: np.ndarray, columns: np.ndarray, *, slopes: bool = True):
        lnN_c, lnD_c, ln_n, ln_d, lnE = (theta[:, i, None] for i in range(5))  # in the order of the parameters below
        lnN, lnD = np.log(columns)[:, None]
        of_params, of_tokens = np.exp(ln_n - ln_d) * (lnN_c - lnN), lnD_c - lnD
        inside = np.logaddexp(of_params, of_tokens)
        power = np.exp(ln_d)
        log = np.logaddexp(lnE, power * inside)
        if not slopes:
            return log, None
        share, excess = np.exp(of_params - inside), np.exp(power * inside - log)
        along = excess * power
        pieces = [
            along * share * np.exp(ln_n - ln_d),
            along * (1.0 - share),
            along * share * of_params,
            along * (inside - share * of_params),
            1.0 - excess,
        ]
        return log, np.stack(pieces, axis=1)

    scales = tuple(10.0**v for v in (8, 11, 14))
    steep = (0.08, 0.2, 0.5)
    return Law(
        "kaplan",
        "E + ((N_c / params)^(alpha_N / alpha_D) + D_c / tokens)^alpha_D",
        ("params", "tokens"),
        (
            amplitude("N_c", "parameters at which the first term is 1", scales),
            amplitude("D_c", "tokens at which the second term is 1", scales),
            Parameter("alpha_N", steep, True, 1e-3, 10.0, "exponent of parameters"),
            Parameter("alpha_D", steep, True, 1e-3, 10.0, "exponent of tokens"),
            floor(),
        ),
        logs,
        source="arXiv 2001.08361",
    )


def muennighoff() -> Law:
    r"""Repeated data (SL.5), [arXiv 2305.16264](https://arxiv.org/abs/2305.16264): $E+A/N'^\alpha+B/D'^\alpha$ of effective sizes.

    $D'=U\,[1+R^\star_D(1-e^{-R/R^\star_D})]$ with $U$ unique tokens (`tokens_per_epoch`) seen $1+R$ times, and $N'$ alike with the
    parameters that are compute-optimal for $U$ in the place of $U$.
    """

    def worth(fresh, total, rate):
        """The effective size, and its logarithmic slopes along what is fresh and along the rate."""
        repeats = np.maximum(total / fresh - 1.0, 0.0) / rate
        faded = np.exp(-repeats)
        size = fresh * (1.0 - rate * np.expm1(-repeats))
        return size, 1.0 - faded * total / size, rate * fresh / size * (1.0 - faded - repeats * faded)

    def logs(theta: np.ndarray, columns: np.ndarray, *, slopes: bool = True):
        lnA, lnB, lnE, ln_alpha, ln_rd, ln_rn = (
            theta[:, i, None] for i in range(6)
        )  # in the order of the parameters below
        params, tokens, unique = columns[:, None]
        unique, alpha, ratio = np.minimum(unique, tokens), np.exp(ln_alpha), lnA - lnB
        with np.errstate(all="ignore"):
            best = unique * np.exp(ratio / alpha)  # N^alpha / A = D^alpha / B where both terms are best balanced
            n, along, along_rn = worth(np.minimum(best, params), params, np.exp(ln_rn))
            d, _, along_rd = worth(unique, tokens, np.exp(ln_rd))
            heights = np.stack(np.broadcast_arrays(lnA - alpha * np.log(n), lnB - alpha * np.log(d), lnE))
            top = heights.max(axis=0)
            parts = np.exp(heights - top)
            total = parts.sum(axis=0)
            log = np.log(total) + top
            if not slopes:
                return log, None
            of_params, of_tokens, of_floor = parts / total
            along = np.where(best < params, along, 0.0)
            pieces = [
                of_params * (1.0 - along),
                of_params * along + of_tokens,
                of_floor,
                of_params * (along * ratio - alpha * np.log(n)) - of_tokens * alpha * np.log(d),
                -of_tokens * alpha * along_rd,
                -of_params * alpha * along_rn,
            ]
        return log, np.stack(pieces, axis=1)

    return Law(
        "muennighoff",
        "E + A / N'^alpha + B / D'^alpha, D' = U (1 + R_D (1 - exp(-R / R_D))), U = tokens_per_epoch, R = tokens / U - 1; N' alike from params with R_N",
        ("params", "tokens", "tokens_per_epoch"),
        (
            amplitude("A"),
            amplitude("B"),
            floor(),
            Parameter("alpha", (0.2, 0.35, 0.6), True, 1e-3, 10.0),
            Parameter("R_D", (4.0, 15.0, 60.0), True, 1e-3, 1e6, "repetitions after which data is worn out"),
            Parameter("R_N", (4.0, 15.0, 60.0), True, 1e-3, 1e6, "the same of excess parameters"),
        ),
        logs,
        source="arXiv 2305.16264",
    )


def gemstones() -> Law:
    r"""$E+A/w^{\alpha}+B/d^{\beta}+C/N^{\gamma}+F/D^{\zeta}$ (SL.6), [arXiv 2502.06857](https://arxiv.org/abs/2502.06857): width and depth."""
    return sum_of_powers(
        "gemstones",
        "E + A / width^alpha + B / depth^beta + C / params^gamma + F / tokens^zeta",
        ("width", "depth", "params", "tokens"),
        (
            amplitude("A"),
            amplitude("B"),
            amplitude("C"),
            amplitude("F"),
            floor(),
            exponent("alpha"),
            exponent("beta"),
            exponent("gamma"),
            exponent("zeta"),
        ),
        (
            {"A": 1.0, "alpha": {"width": -1.0}},
            {"B": 1.0, "beta": {"depth": -1.0}},
            {"C": 1.0, "gamma": {"params": -1.0}},
            {"F": 1.0, "zeta": {"tokens": -1.0}},
            {"E": 1.0},
        ),
        source="arXiv 2502.06857",
    )


@dataclasses.dataclass(frozen=True)
class Entry:
    """A law by name: how it is made, whether it takes any one variable, and which variables it can be without.

    A law with `optional` variables is made for a table: from those that vary there. The parameters of a part that never varies
    could not be told from the others.
    """

    make: Callable[..., Law]
    one_variable: bool = False
    summary: str = ""
    optional: tuple[str, ...] = ()


_PARTS = tuple(few_bits.PARTS)

CATALOGUE: dict[str, Entry] = {
    "chinchilla": Entry(chinchilla, False, "parameters and tokens, an exponent each"),
    "chinchilla-tied": Entry(chinchilla_tied, False, "parameters and tokens, one exponent"),
    "kaplan": Entry(kaplan, False, "parameters and tokens, joint form, with a floor"),
    "gadre": Entry(gadre, False, "over-training: tokens per parameter and compute"),
    "muennighoff": Entry(muennighoff, False, "repeated data"),
    "gemstones": Entry(gemstones, False, "width and depth besides parameters and tokens"),
    "theory-random-features": Entry(
        theory.random_features, False, "exponents by capacity and source, features that stay as they are"
    ),
    "theory-feature-learning": Entry(
        theory.feature_learning, False, "exponents by capacity and source, features that learn"
    ),
    "theory-reused-data": Entry(theory.reused_data, False, "exponents by capacity and source, data seen again"),
    "power": Entry(one_variable.power, True, "one variable, a power and a floor"),
    "shifted": Entry(one_variable.shifted, True, "one variable, flat at its start"),
    "m4": Entry(one_variable.m4, True, "one variable, leaving chance slowly"),
    "broken": Entry(one_variable.broken, True, "one variable, two powers"),
    "precision": Entry(few_bits.precision, False, "parts trained in few bits: fewer effective parameters", _PARTS),
    "precision-untied": Entry(few_bits.precision_untied, False, "the same with two exponents", _PARTS),
    "precision-unified": Entry(
        few_bits.precision_unified, False, "training in few bits, and rounding after it", (*_PARTS, "post_bits")
    ),
    "precision-data": Entry(
        few_bits.precision_data, False, "parts trained in few bits: fewer effective tokens", _PARTS
    ),
    "precision-additive": Entry(
        few_bits.precision_additive, False, "parts trained in few bits: a loss of their own", _PARTS
    ),
    "ptq": Entry(few_bits.ptq, False, "degradation by rounding weights after training, exponential in bits"),
    "ptq-power": Entry(few_bits.ptq_power, False, "degradation by rounding weights after training, a power of bits"),
    "qat": Entry(few_bits.qat, False, "degradation by training in few bits, by size of a group"),
}


def law_named(name: str, *, x: str | None = None, having: Collection[str] | None = None) -> Law:
    """The law of that name.

    Args:
        name: One of `foretrain laws`.
        x: The variable, for laws of one variable.
        having: Which of its optional variables the law has; all of them by default.

    Raises:
        InvalidInput: No such law, `x` is missing or not wanted, or the law is none without what is left out.

    Example:
        >>> from foretrain.laws import law_named
        >>> law_named("power", x="tokens").formula
        'E + A / tokens^alpha'
    """
    if name not in CATALOGUE:
        raise InvalidInput(f"law: expected one of {', '.join(CATALOGUE)}; got {name!r}{nearest(name, CATALOGUE)}.")
    entry = CATALOGUE[name]
    if entry.one_variable:
        if x is None:
            raise InvalidInput(f"law {name!r}: has one variable; name its column (x, or --x on the command line).")
        return entry.make(x)
    if x is not None:
        raise InvalidInput(f"law {name!r}: needs {', '.join(entry.make().required)}; leave x out.")
    if not entry.optional:
        return entry.make()
    return entry.make(tuple(v for v in entry.optional if having is None or v in having))


def law_for(name: str, runs: Runs, *, x: str | None = None) -> Law:
    """The law of that name, made for a table: with those of its optional variables that vary there.

    Args:
        name: One of `foretrain laws`.
        runs: The table.
        x: The variable, for laws of one variable.

    Raises:
        InvalidInput: As of `law_named`.

    Example:
        >>> from foretrain.laws import Runs, law_for
        >>> runs = Runs({"params": [1e6, 1e7], "tokens": [1e8, 2e8], "weight_bits": [4, float("nan")], "loss": [4.0, 3.5]})
        >>> law_for("precision", runs).names
        ('A', 'B', 'E', 'alpha', 'gamma_w', 'P0_w')
    """
    optional = [v for v in (CATALOGUE[name].optional if name in CATALOGUE else ()) if v in runs]
    for variable in optional:
        if not runs.is_number(variable):
            runs.numbers(variable)  # says which cells are text
    return law_named(name, x=x, having=[v for v in optional if _varies(runs[v])])


def _varies(bits: np.ndarray) -> bool:
    return len(np.unique(np.where(np.isnan(bits), math.inf, bits))) > 1
