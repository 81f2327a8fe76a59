r"""Laws of loss in few bits: training in low precision, rounding after training, and both (`docs/theory/precision.md`).

Every law is a sum of terms $e^{c_k}$ as in `sum_of_powers`, but $c_k$ contains the factors $f_x(P)=1-e^{-(P-P_{0,x})/\gamma_x}$ of the parts held
in $P$ bits (PR.2), which are not linear in the coordinates. Each term gives its logarithm and its derivatives; all is evaluated in logarithms.
Bits that are infinite are full precision, $f_x=1$. Below $P_{0,x}$ a law has no value: its logarithm is NaN there, and fits do not go there.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import nnls

from foretrain.errors import InvalidInput
from foretrain.laws._law import Columns, Law, Logs, Parameter, Slopes, Thetas, law_of, sum_of_powers
from foretrain.laws._parameters import amplitude, exponent, floor

PARTS = {"weight_bits": "w", "activation_bits": "a", "kv_bits": "kv"}
"""Columns of the bits of the parts of a network in training, and the index that their constants carry."""

DELTA_NOISE = 1e-3
"""Degradations below this, in nats, are taken for noise: two evaluations of one network differ by as much."""

ONE = np.array(1.0)
"""The derivative of a term by the logarithm of its amplitude; every term has one."""

_SLIGHT = 1e-3  # of the response in the row where a term is largest: less than this, and a start has no slope along it
_SOURCE = "arXiv 2411.04330"
_WORDS = {"weight_bits": "weights", "activation_bits": "activations", "kv_bits": "keys and values"}

Term = Callable[[Mapping[str, Any], Mapping[str, np.ndarray]], tuple[Any, dict[str, Any]]]
"""Logarithm of a term and its derivatives by coordinate, from parameters (positive ones as they are) and columns."""


def _log_size(size: str, parts: Sequence[str]) -> Term:
    """Logarithm of a size times the factors of parts, which makes it the effective one (PR.1)."""

    def term(p: Mapping[str, Any], x: Mapping[str, np.ndarray]) -> tuple[Any, dict[str, Any]]:
        log, slopes = np.log(x[size])[None], {}
        for part in parts:
            gamma, bits_0 = p[f"gamma_{PARTS[part]}"], p[f"P0_{PARTS[part]}"]
            u = (x[part] - bits_0) / gamma
            along = 1.0 / np.expm1(u)  # d ln f / du
            log = log + np.log(-np.expm1(-u))
            slopes[f"gamma_{PARTS[part]}"] = np.where(np.isinf(u), 0.0, -u * along)  # of ln gamma
            slopes[f"P0_{PARTS[part]}"] = -along / gamma
        return log, slopes

    return term


def _power(factor: str, power: str, of: Term) -> Term:
    """`factor * of^-power`."""

    def term(p: Mapping[str, Any], x: Mapping[str, np.ndarray]) -> tuple[Any, dict[str, Any]]:
        log, slopes = of(p, x)
        return np.log(p[factor]) - p[power] * log, {
            factor: ONE,
            power: -log,
            **{name: -p[power] * s for name, s in slopes.items()},
        }

    return term


def _constant(p: Mapping[str, Any], x: Mapping[str, np.ndarray]) -> tuple[Any, dict[str, Any]]:
    return np.log(p["E"]), {"E": ONE}


def _degradation(size: Term, parts: Sequence[str] = ()) -> Term:
    r"""$\ln\delta$ of rounding to `post_bits` after training (PR.4), with the factors of parts trained in few bits (PR.6)."""

    def term(p: Mapping[str, Any], x: Mapping[str, np.ndarray]) -> tuple[Any, dict[str, Any]]:
        lnN, slopes = size(p, x)
        lnD, post = np.log(x["tokens"])[None], x["post_bits"]
        log = np.log(p["C"]) + p["gamma_D"] * lnD - p["gamma_N"] * lnN - post / p["gamma_post"]
        found = {name: -p["gamma_N"] * s for name, s in slopes.items()}
        found |= {"C": ONE, "gamma_D": lnD, "gamma_N": -lnN, "gamma_post": post / p["gamma_post"]}
        for part in parts:
            rate = f"C_{PARTS[part]}"
            more = np.where(np.isinf(post), np.inf, x[part] - np.where(np.isinf(post), 0.0, post))
            v = p[rate] * np.maximum(more, 0.0)  # at the bits of training or above nothing is rounded away
            log = log + np.log(-np.expm1(-v))
            found[rate] = np.where((v > 0) & (v < np.inf), v / np.expm1(v), 0.0)
        return log, found

    return term


def _law(
    name: str,
    formula: str,
    variables: Sequence[str],
    parameters: Sequence[Parameter],
    terms: Sequence[Term],
    **more: Any,
) -> Law:
    """A law that is the sum of these terms."""
    kept = tuple(parameters)
    index = {p.name: i for i, p in enumerate(kept)}

    def logs(theta: Thetas, x: Columns, *, slopes: bool = True) -> tuple[Logs, Slopes | None]:
        with np.errstate(all="ignore"):
            p = {q.name: q.value(theta[:, i, None]) for i, q in enumerate(kept)}
            found = [term(p, dict(zip(variables, x, strict=True))) for term in terms]
            shape = (len(theta), x.shape[1])
            each = [np.broadcast_to(log, shape) for log, _ in found]
            top = np.maximum.reduce(each)
            shares = [np.exp(log - top) for log in each]
            total = sum(shares)
            log = top + np.log(total)
            if not slopes:
                return log, None
            jacobian = np.zeros((len(theta), len(kept), x.shape[1]))
            for (_, by), share in zip(found, shares, strict=True):
                weight = share / total
                for coordinate, slope in by.items():
                    # A term that is zero (nothing is rounded) has no derivative, though its logarithm has an infinite one.
                    jacobian[:, index[coordinate]] += np.where(weight > 0, weight * slope, 0.0)
        return log, jacobian

    noise = more.get("noise", 0.0)

    def balance(theta: Thetas, x: Columns, y: np.ndarray) -> Thetas:
        """Starts with the amplitudes that fit best, by least squares in the relative error, given all else of them."""
        size, moved = np.maximum(np.abs(y), noise), theta.copy()
        with np.errstate(all="ignore"):
            p = {q.name: q.value(theta[:, i, None]) for i, q in enumerate(kept)}
            found = [term(p, dict(zip(variables, x, strict=True))) for term in terms]
        coordinates = [index[next(name for name, slope in by.items() if slope is ONE)] for _, by in found]
        each = np.stack([np.broadcast_to(log, (len(theta), x.shape[1])) for log, _ in found])
        each = each - theta[:, coordinates].T[:, :, None] - np.log(size)  # of amplitudes that are 1
        for start in range(len(theta)):
            logs = each[:, start]
            top = np.max(logs, axis=1, keepdims=True)
            if not np.all(np.isfinite(top)) or np.isnan(logs).any():
                continue  # a part is useless in some row: the law has no value here
            best, _ = nnls(np.exp(logs - top).T, y / size)
            moved[start, coordinates] = np.log(np.maximum(best, _SLIGHT)) - top[:, 0]
        return np.clip(moved, *law.bounds)

    law = Law(name, formula, tuple(variables), kept, logs, source=_SOURCE, balance=balance, **more)
    return law


def _best_bits(parts: Sequence[str]) -> dict[str, Callable[[Mapping[str, Any]], Any]]:
    """The best number of bits to train in, whatever the budget (PR.11), as something that follows from a fit; NaN where there is none."""

    def best(p: Mapping[str, Any]) -> Any:
        from foretrain.laws._precision_constants import Constants
        from foretrain.laws._precision_plan import best_bits

        columns = [p[f"{kind}_{PARTS[part]}"] for part in parts for kind in ("gamma", "P0")]
        rows = np.stack(np.broadcast_arrays(*(np.asarray(c, float) for c in columns)), axis=-1).reshape(
            -1, len(parts), 2
        )
        found = [
            best_bits(Constants(factors={q: (*pair,) for q, pair in zip(parts, row, strict=True)}))
            for row in rows.tolist()
        ]
        return np.reshape(found, np.shape(columns[0]))

    return {"best_bits": best}


def _of_parts(parts: Sequence[str]) -> list[Parameter]:
    found = []
    for part in parts:
        index, words = PARTS[part], _WORDS[part]
        found += [
            Parameter(
                f"gamma_{index}", (0.7, 1.5, 3.0), True, 0.02, 200.0, f"bits in which what {words} lack falls by e"
            ),
            Parameter(f"P0_{index}", (0.0, 1.0, 2.0), False, -8.0, 32.0, f"bits at which {words} are useless"),
        ]
    return found


def _factors(parts: Sequence[str]) -> str:
    return " ".join(f"(1 - exp(-({part} - P0_{PARTS[part]}) / gamma_{PARTS[part]}))" for part in parts)


def useless(part: str, bits: float, bits_0: float) -> str:
    """Why a law has no value where a part has no more bits than $P_0$.

    Args:
        part: Name of its column.
        bits: How many it was to have.
        bits_0: $P_0$.
    """
    return (
        f"{_WORDS[part]} of {bits:g} bits are outside the law: it holds above {bits_0:.4g} bits, where 1 - exp(-(P - P0) / gamma), the share "
        "of the network that counts, falls to zero. Give more bits."
    )


def _outside(parts: Sequence[str]) -> Callable[[Mapping[str, Any], Columns], str]:
    """Parts with too few bits; parts follow parameters and tokens in the columns."""

    def words(values: Mapping[str, Any], x: Columns) -> str:
        for part, bits in zip(parts, x[2:], strict=False):
            bits_0 = values[f"P0_{PARTS[part]}"]
            if np.min(bits) <= bits_0:
                return useless(part, float(np.min(bits)), float(bits_0))
        return ""

    return words


def _checked(name: str, having: Sequence[str], instead: str) -> list[str]:
    parts = [part for part in PARTS if part in having]
    if not parts:
        raise InvalidInput(
            f"law {name!r}: needs bits of training that vary from row to row: {', '.join(PARTS)} (no value, or inf, is full precision). "
            f"Where none does, take {instead}."
        )
    return parts


def _training(name: str, having: Sequence[str], beta: str, effective: str = "params") -> Law:
    parts = _checked(name, having, "chinchilla or chinchilla-tied")
    sizes = {size: _log_size(size, parts if size == effective else ()) for size in ("params", "tokens")}
    written = {
        size: f"N_eff^{power}" if size == effective else f"{size}^{power}"
        for size, power in zip(sizes, ("alpha", beta), strict=True)
    }
    if effective == "tokens":
        written["tokens"] = written["tokens"].replace("N_eff", "D_eff")
    symbol = "N_eff" if effective == "params" else "D_eff"
    exponents = [exponent("alpha")] + ([exponent("beta")] if beta == "beta" else [])
    return _law(
        name,
        f"E + A / {written['params']} + B / {written['tokens']}, {symbol} = {effective} {_factors(parts)}",
        ("params", "tokens", *parts),
        (amplitude("A"), amplitude("B"), floor(), *exponents, *_of_parts(parts)),
        (_power("A", "alpha", sizes["params"]), _power("B", beta, sizes["tokens"]), _constant),
        derived=_best_bits(parts) if effective == "params" else {},
        defaults=dict.fromkeys(parts, math.inf),
        outside=_outside(parts),
    )


def precision(having: Sequence[str] = tuple(PARTS)) -> Law:
    r"""$E+A/N_{\rm eff}^\alpha+B/D^\alpha$, $N_{\rm eff}=N\prod_xf_x(P_x)$ (PR.1, PR.2), one exponent as in the paper.

    Args:
        having: Which parts are held in few bits.
    """
    return _training("precision", having, "alpha")


def precision_untied(having: Sequence[str] = tuple(PARTS)) -> Law:
    r"""$E+A/N_{\rm eff}^\alpha+B/D^\beta$ (PR.1) with an exponent each.

    Args:
        having: Which parts are held in few bits.
    """
    return _training("precision-untied", having, "beta")


def precision_data(having: Sequence[str] = tuple(PARTS)) -> Law:
    r"""$E+A/N^\alpha+B/D_{\rm eff}^\alpha$, $D_{\rm eff}=D\prod_xf_x$ (PR.15): few bits cost data in the place of parameters.

    Args:
        having: Which parts are held in few bits.
    """
    return _training("precision-data", having, "alpha", effective="tokens")


def precision_additive(having: Sequence[str] = tuple(PARTS)) -> Law:
    r"""$E+A/N^\alpha+B/D^\alpha+\sum_xG_xP_x^{-\kappa_x}$ (PR.16): few bits add a loss that no size or data takes away.

    Args:
        having: Which parts are held in few bits.
    """
    parts = _checked("precision-additive", having, "chinchilla or chinchilla-tied")
    more = []
    for part in parts:
        index = PARTS[part]
        more += [
            amplitude(f"G_{index}", f"loss that {_WORDS[part]} of one bit would add", (0.3, 10.0, 300.0)),
            exponent(f"kappa_{index}", start=(1.0, 3.0, 6.0)),
        ]
    sizes = [_power(f"G_{PARTS[part]}", f"kappa_{PARTS[part]}", _log_size(part, ())) for part in parts]
    return _law(
        "precision-additive",
        "E + A / params^alpha + B / tokens^alpha + "
        + " + ".join(f"G_{PARTS[part]} / {part}^kappa_{PARTS[part]}" for part in parts),
        ("params", "tokens", *parts),
        (amplitude("A"), amplitude("B"), floor(), exponent("alpha"), *more),
        (
            _power("A", "alpha", _log_size("params", ())),
            _power("B", "alpha", _log_size("tokens", ())),
            _constant,
            *sizes,
        ),
        defaults=dict.fromkeys(parts, math.inf),
    )


def _of_degradation() -> tuple[Parameter, ...]:
    return (
        amplitude(
            "C", "C_T e^b: the degradation in units of the powers", tuple(math.exp(v) for v in (-6.0, -2.0, 2.0, 6.0))
        ),
        exponent("gamma_D", "exponent of tokens", (0.1, 0.5, 1.0)),
        exponent("gamma_N", "exponent of parameters", (0.1, 0.4, 0.8)),
        Parameter("gamma_post", (0.4, 0.8, 1.5), True, 0.02, 200.0, "bits in which the degradation falls by e"),
    )


def precision_unified(having: Sequence[str] = (*PARTS, "post_bits")) -> Law:
    r"""The loss as deployed: $E+A/N_{\rm eff}^\alpha+B/D^\alpha+\delta$ (PR.6) with rounding to `post_bits` after training.

    Args:
        having: Which parts are held in few bits in training, and `post_bits`.

    Raises:
        InvalidInput: Without `post_bits`.
    """
    if "post_bits" not in having:
        raise InvalidInput(
            "law 'precision-unified': needs post_bits, the bits to which weights are rounded after training (no value, or inf, is none), that "
            "vary from row to row. Where they do not, take precision."
        )
    parts = [part for part in PARTS if part in having]
    size = _log_size("params", parts)
    robust = [
        Parameter(
            f"C_{PARTS[part]}",
            (0.3, 1.0, 3.0),
            True,
            1e-3,
            1e3,
            f"how soon rounding {_WORDS[part]} after training matters",
        )
        for part in parts
    ]
    rates = "".join(f" (1 - exp(-C_{PARTS[part]} ({part} - post_bits)))" for part in parts)
    return _law(
        "precision-unified",
        "E + A / N_eff^alpha + B / tokens^alpha + C tokens^gamma_D / N_eff^gamma_N exp(-post_bits / gamma_post)"
        f"{rates}, N_eff = params {_factors(parts)}".rstrip(),
        ("params", "tokens", *parts, "post_bits"),
        (amplitude("A"), amplitude("B"), floor(), exponent("alpha"), *_of_parts(parts), *_of_degradation(), *robust),
        (
            _power("A", "alpha", size),
            _power("B", "alpha", _log_size("tokens", ())),
            _constant,
            _degradation(size, parts),
        ),
        derived=_best_bits(parts) if parts else {},
        defaults=dict.fromkeys((*parts, "post_bits"), math.inf),
        outside=_outside(parts),
    )


def ptq() -> Law:
    r"""$\delta=C\,D^{\gamma_D}N^{-\gamma_N}e^{-P_{\rm post}/\gamma_{\rm post}}$ (PR.4): what rounding after training costs.

    The paper writes $C=C_Te^b$. Data know the product only, so one amplitude is fitted.
    """
    return _law(
        "ptq",
        "C tokens^gamma_D / params^gamma_N exp(-post_bits / gamma_post)",
        ("params", "tokens", "post_bits"),
        _of_degradation(),
        (_degradation(_log_size("params", ())),),
        response="delta",
        noise=DELTA_NOISE,
    )


def ptq_power() -> Law:
    r"""$\delta=k\,D^{\gamma_D}N^{-\gamma_N}P_{\rm post}^{-\kappa}$ (PR.17), [arXiv 2411.17691](https://arxiv.org/abs/2411.17691): a power of the bits."""
    return sum_of_powers(
        "ptq-power",
        "k tokens^gamma_D / params^gamma_N / post_bits^kappa",
        ("params", "tokens", "post_bits"),
        (
            amplitude("k", start=tuple(math.exp(v) for v in (-6.0, -2.0, 2.0, 6.0))),
            exponent("gamma_D", "exponent of tokens", (0.1, 0.5, 1.0)),
            exponent("gamma_N", "exponent of parameters", (0.1, 0.4, 0.8)),
            Parameter("kappa", (2.0, 5.0, 8.0), False, 0.0, 50.0, "exponent of bits"),
        ),
        ({"k": 1.0, "gamma_D": {"tokens": 1.0}, "gamma_N": {"params": -1.0}, "kappa": {"post_bits": -1.0}},),
        source="arXiv 2411.17691",
        response="delta",
        noise=DELTA_NOISE,
    )


def qat() -> Law:
    r"""$\delta=k\,D^{\gamma_D}(\log_2G)^{\gamma_G}N^{-\gamma_N}$ (PR.18), [arXiv 2505.14302](https://arxiv.org/abs/2505.14302): training in few bits, groups of $G$."""

    def degradation(params, tokens, group_size, k, gamma_D, gamma_N, gamma_G):
        return np.exp(
            np.log(k) + gamma_D * np.log(tokens) - gamma_N * np.log(params) + gamma_G * np.log(np.log2(group_size))
        )

    return law_of(
        "qat",
        "k tokens^gamma_D log2(group_size)^gamma_G / params^gamma_N",
        degradation,
        ("params", "tokens", "group_size"),
        (
            amplitude("k", start=tuple(math.exp(v) for v in (-6.0, -2.0, 2.0, 6.0))),
            exponent("gamma_D", "exponent of tokens", (0.05, 0.2, 0.6)),
            exponent("gamma_N", "exponent of parameters", (0.1, 0.4, 0.8)),
            exponent("gamma_G", "exponent of the logarithm of the group's size", (0.3, 0.8, 1.5)),
        ),
        source="arXiv 2505.14302",
        response="delta",
        noise=DELTA_NOISE,
    )
