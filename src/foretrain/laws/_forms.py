"""The laws of loss that `fit` knows by name; `docs/theory/scaling-laws.md` has their formulas, sources and uses."""

import dataclasses
import math
from collections.abc import Callable, Collection

import numpy as np

from foretrain.errors import InvalidInput, nearest
from foretrain.laws import _precision_forms as few_bits
from foretrain.laws import _theory_forms as theory
from foretrain.laws._law import Law, Parameter, sum_of_powers
from foretrain.laws._parameters import TINY, amplitude, exponent, floor
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


def power(x: str) -> Law:
    r"""$E+Ax^{-\alpha}$ (SL.7)."""
    return sum_of_powers(
        "power",
        f"E + A / {x}^alpha",
        (x,),
        (amplitude("A"), floor(), exponent("alpha")),
        ({"A": 1.0, "alpha": {x: -1.0}}, {"E": 1.0}),
    )


def shifted(x: str) -> Law:
    r"""$E+A(x+s)^{-\alpha}$ (SL.8), [arXiv 2106.04560](https://arxiv.org/abs/2106.04560): flat before $s$."""

    def logs(theta: np.ndarray, columns: np.ndarray, *, slopes: bool = True):
        lnA, lnE, alpha, ln_s = (theta[:, i, None] for i in range(4))  # in the order of the parameters below
        lnx = np.log(columns[0])[None]
        moved = np.logaddexp(lnx, ln_s)
        log = np.logaddexp(lnE, lnA - alpha * moved)
        if not slopes:
            return log, None
        excess = np.exp(lnA - alpha * moved - log)
        pieces = [excess, 1.0 - excess, -excess * moved, -excess * alpha * np.exp(ln_s - moved)]
        return log, np.stack(pieces, axis=1)

    shift = Parameter(
        "s", tuple(10.0**v for v in (0, 3, 6, 9)), True, TINY, 1e30, f"{x} before which nothing is learned"
    )
    return Law(
        "shifted",
        f"E + A / ({x} + s)^alpha",
        (x,),
        (amplitude("A"), floor(), exponent("alpha"), shift),
        logs,
        source="arXiv 2106.04560",
    )


def broken(x: str) -> Law:
    r"""$E+Ax^{-c_0}\bigl(1+(x/d)^{1/f}\bigr)^{-c_1f}$ (SL.9), [arXiv 2210.14891](https://arxiv.org/abs/2210.14891): one break."""

    def logs(theta: np.ndarray, columns: np.ndarray, *, slopes: bool = True):
        lnA, lnE, c_0, c_1, ln_d, ln_f = (theta[:, i, None] for i in range(6))  # in the order of the parameters below
        lnx, f = np.log(columns[0])[None], np.exp(ln_f)
        steep = (lnx - ln_d) / f
        soft = np.logaddexp(0.0, steep)
        term = lnA - c_0 * lnx - c_1 * f * soft
        log = np.logaddexp(lnE, term)
        if not slopes:
            return log, None
        excess, past = np.exp(term - log), np.exp(steep - soft)
        pieces = [1.0, None, -lnx, -f * soft, c_1 * past, -c_1 * f * (soft - steep * past)]
        return log, np.stack([1.0 - excess if p is None else excess * p for p in pieces], axis=1)

    return Law(
        "broken",
        f"E + A {x}^-c_0 (1 + ({x} / d)^(1 / f))^(-c_1 f)",
        (x,),
        (
            amplitude("A"),
            floor(),
            exponent("c_0"),
            Parameter("c_1", (-0.2, 0.3), False, -10.0, 10.0, "exponent gained at the break"),
            Parameter("d", tuple(10.0**v for v in (3, 6, 9)), True, TINY, 1e30, "where it breaks"),
            Parameter("f", (0.3, 1.0), True, 0.02, 20.0, "how soft the break is"),
        ),
        logs,
        source="arXiv 2210.14891",
    )


def m4(x: str) -> Law:
    r"""$(L-E)/(I-L)^{a}=Ax^{-\alpha}$ (SL.10), [arXiv 2209.06640](https://arxiv.org/abs/2209.06640): leaves the loss of chance $I$ slowly.

    The loss is defined implicitly; the equation is monotone in it and solved by safeguarded Newton steps.
    """

    def logs(theta: np.ndarray, columns: np.ndarray, *, slopes: bool = True):
        lnA, lnE, alpha, ln_span, a = (theta[:, i, None] for i in range(5))  # in the order of `parameters` below
        span = np.exp(ln_span)
        right = lnA - alpha * np.log(columns[0])[None]
        # L = E + span sigmoid(u): ln(L - E) - a ln(I - L) = (1 - a) ln span + u - (1 - a) softplus(u), increasing in u.
        target = right - (1.0 - a) * ln_span
        u = np.where(target > 0, target / np.maximum(a, 1e-3), target)
        low, high = np.full(u.shape, -800.0), np.full(u.shape, 800.0)
        for _ in range(80):
            soft = np.logaddexp(0.0, u)
            value = u - (1.0 - a) * soft - target
            low, high = np.where(value < 0, u, low), np.where(value < 0, high, u)
            chance = np.exp(u - soft)
            step = u - value / (1.0 - (1.0 - a) * chance)
            new = np.where((step > low) & (step < high), step, 0.5 * (low + high))
            # What rounding leaves of the three terms; a step that is due to it leads nowhere.
            exact = np.abs(value) <= 1e-15 * (np.abs(u) + np.abs(1.0 - a) * soft + np.abs(target))
            u = np.where(exact, u, new)
            if exact.all():
                break
        soft = np.logaddexp(0.0, u)
        chance = np.exp(u - soft)
        excess = span * chance
        loss = np.exp(lnE) + excess
        log = np.log(loss)
        if not slopes:
            return log, None
        du = 1.0 / (1.0 - (1.0 - a) * chance)
        along = excess * np.exp(-soft) * du / loss  # d ln L / du, times du / d(target)
        lnx = np.log(columns[0])[None]
        jacobian = np.stack(
            [
                along,
                np.exp(lnE) / loss,
                -along * lnx,
                excess / loss - along * (1.0 - a),
                along * (ln_span - soft),
            ],
            axis=1,
        )
        return log, jacobian

    parameters = (
        amplitude("A"),
        floor(),
        exponent("alpha"),
        Parameter("span", (1.0, 5.0, 20.0), True, 1e-3, 1e6, "loss of chance above the floor, I - E"),
        Parameter("a", (0.3, 1.0, 2.0), False, 1e-3, 20.0, "how slowly chance is left"),
    )
    return Law("m4", f"(L - E) / (E + span - L)^a = A / {x}^alpha", (x,), parameters, logs, source="arXiv 2209.06640")


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
    "power": Entry(power, True, "one variable, a power and a floor"),
    "shifted": Entry(shifted, True, "one variable, flat at its start"),
    "m4": Entry(m4, True, "one variable, leaving chance slowly"),
    "broken": Entry(broken, True, "one variable, two powers"),
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
