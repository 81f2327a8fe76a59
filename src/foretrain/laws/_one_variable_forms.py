"""Laws of one variable, whichever it is: a power and a floor, and three that bend."""

import numpy as np

from foretrain.laws._law import Law, Parameter, sum_of_powers
from foretrain.laws._parameters import TINY, amplitude, exponent, floor


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
