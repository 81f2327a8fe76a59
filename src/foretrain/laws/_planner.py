r"""Plans of laws of parameters and tokens: the four numbers $N$, $D$, $C$ and loss, from those that are given (PL.1) to (PL.5)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from foretrain.errors import InvalidInput, nearest
from foretrain.laws._along import crossing, each, lowest
from foretrain.laws._estimates import RARE, estimate, far_away
from foretrain.laws._fit import Estimate, Fit
from foretrain.laws._words import count

FLOPS_PER_TOKEN = 6.0  # and parameter
LARGEST = math.log(1e40)  # of a size that is searched for
MOST = 4000  # bootstrap fits that are planned

_EPOCHS = (1, 2, 4, 8, 16, 32, 64)
_NEWTON, _SETTLED = 40, 1e-8  # steps, and the last of them in ln C: the next one would be its square


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What to train: every quantity with its interval.

    Args:
        law: Name of the law.
        level: Probability that intervals are meant to cover.
        estimates: `params`, `tokens`, `compute`, `loss`, `tokens_per_param` and what else the law has; what was given has no width.
        given: What was asked for.
        by_epochs: For repeated data, the loss of this compute at 1, 2, 4, ... epochs.
        forms: What laws of other form, fitted to the same rows, say.
        warnings: What to think of before spending the budget.
    """

    law: str
    level: float
    estimates: Mapping[str, Estimate]
    given: Mapping[str, float] = dataclasses.field(default_factory=dict)
    by_epochs: tuple[Mapping[str, Any], ...] = ()
    forms: tuple[Mapping[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Estimate:
        if name not in self.estimates:
            raise InvalidInput(
                f"plan: no quantity {name!r}{nearest(name, self.estimates)}; it has {', '.join(self.estimates)}."
            )
        return self.estimates[name]

    def __str__(self) -> str:
        return "\n".join(f"{name}: {e}" for name, e in self.estimates.items())

    def to_json(self) -> dict[str, Any]:
        """What `foretrain plan --json` prints, as plain JSON types."""
        from foretrain.curves import json_ready
        from foretrain.laws._saved import estimate_to_json

        table: dict[str, Any] = {name: estimate_to_json(e) for name, e in self.estimates.items()}
        table |= {"law": self.law, "level": self.level, "given": json_ready(dict(self.given))}
        if self.by_epochs:
            table["by_epochs"] = [
                {name: estimate_to_json(v) if isinstance(v, Estimate) else json_ready(v) for name, v in row.items()}
                for row in self.by_epochs
            ]
        return table | {"forms": [json_ready(dict(f)) for f in self.forms], "warnings": list(self.warnings)}


class Planner:
    """Plans of a law that knows parameters and tokens."""

    def __init__(self, fit: Fit, level: float, given: Mapping[str, float], others: Mapping[str, float]):
        self.fit, self.law, self.level, self.given, self.others = fit, fit.law, level, given, others
        self.thetas = np.concatenate([fit.theta[None], fit.samples[:MOST]])
        self.warnings: list[str] = []

    def plan(self) -> Plan:
        known = {n: self.given[n] for n in ("compute", "params", "tokens", "loss") if n in self.given}
        words = " and ".join(known)
        if len(known) > 2 or set(known) == {"compute", "loss"}:
            raise InvalidInput(
                f"plan: got {words}, which is more than a plan can obey; give compute or loss, alone or with params or tokens, or params and tokens."
            )
        if not set(known) - {"params"} or not set(known) - {"tokens"}:
            raise InvalidInput(
                f"plan: {f'{words} alone leaves the rest open' if known else 'nothing to plan for'}; give compute (such as 1e21) or loss as well."
            )
        if len(known) == 1:
            self._choosable()
        if "compute" in known and not known["compute"] > FLOPS_PER_TOKEN:
            raise InvalidInput(
                f"plan(compute): expected more than 6 FLOP, a parameter's first token; got {known['compute']:g}."
            )
        lnN, lnD = self._solve(known)
        return self._told(lnN, lnD, known)

    def _solve(self, known: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
        ln = {name: np.full(len(self.thetas), math.log(value)) for name, value in known.items()}
        match tuple(sorted(known)):
            case ("compute",):
                return self._optimum(ln["compute"] - math.log(FLOPS_PER_TOKEN))
            case ("loss",):
                return self._cheapest(math.log(known["loss"]))
            case ("compute", "params"):
                return ln["params"], ln["compute"] - math.log(FLOPS_PER_TOKEN) - ln["params"]
            case ("compute", "tokens"):
                return ln["compute"] - math.log(FLOPS_PER_TOKEN) - ln["tokens"], ln["tokens"]
            case ("params", "tokens"):
                return ln["params"], ln["tokens"]
            case ("loss", "params"):
                free = crossing(
                    self.law,
                    self.thetas,
                    lambda u: self._columns(ln["params"][:, None], u),
                    math.log(known["loss"]),
                    0.0,
                    LARGEST,
                )
                self._reached(free, known["loss"], "tokens", f"{count(known['params'])} parameters")
                return ln["params"], free
            case _:
                free = crossing(
                    self.law,
                    self.thetas,
                    lambda u: self._columns(u, ln["tokens"][:, None]),
                    math.log(known["loss"]),
                    0.0,
                    LARGEST,
                )
                self._reached(free, known["loss"], "params", f"{count(known['tokens'])} tokens")
                return free, ln["tokens"]

    def _columns(self, lnN: np.ndarray, lnD: np.ndarray) -> dict[str, np.ndarray]:
        """Columns of the law; without a number of different tokens there are as many as are seen."""
        with np.errstate(over="ignore"):
            tokens = np.exp(lnD)
            found = {"params": np.exp(lnN), "tokens": tokens, "tokens_per_epoch": tokens}
        return found | {name: np.asarray(value) for name, value in self.others.items()}

    def _lowest(self, lnK: np.ndarray, thetas: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        r"""Of every fit the best $\ln N$ with $\ln N+\ln D=\ln K$, the law there, and whether it is inside the range."""
        thetas = self.thetas if thetas is None else thetas
        return lowest(self.law, thetas, lambda u: self._columns(u, lnK[:, None] - u), 0.0, lnK)

    def _optimum(self, lnK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at, _, inside = self._lowest(lnK)
        if not inside[0]:
            side = "more parameters on fewer tokens" if at[0] > 0.5 * lnK[0] else "fewer parameters on more tokens"
            raise InvalidInput(
                f"plan: {self.law.name} as fitted has no best size at compute {self.given['compute']:.4g}: the loss falls all the way to {side}. "
                "These rows do not show what the other side costs; add runs there."
            )
        self._doubt(~inside, "have no best size")
        at = np.where(inside, at, np.where(at > 0.5 * lnK, np.inf, -np.inf))
        return at, lnK - at

    def _cheapest(self, target: float) -> tuple[np.ndarray, np.ndarray]:
        r"""The cheapest $N$ and $D$ that reach a loss, where $\ln L^\star(\ln C)$ crosses its logarithm (PL.5)."""
        lnK, at, inside = self._root(self.thetas[:1], np.full(1, math.log(1e4)), target)
        wanted = f"{self.law.response} {math.exp(target):.6g}"
        if not np.isfinite(lnK[0]):
            raise InvalidInput(
                f"plan: {self.law.name} as fitted never reaches {wanted}{self._floor()}; ask for a larger one."
            )
        if not inside[0]:
            raise InvalidInput(
                f"plan: {self.law.name} as fitted reaches {wanted} at the end of the range of sizes only, so that no size is the cheapest; "
                "give params or tokens as well, or another loss."
            )
        rest = self._root(self.thetas[1:], np.full(len(self.thetas) - 1, lnK[0]), target)
        lnK, at, inside = (np.concatenate(pair) for pair in zip((lnK, at, inside), rest, strict=True))
        never = ~np.isfinite(lnK)
        self._doubt(never | ~inside, "never reach it, or have no cheapest size")
        return np.where(never, np.inf, at), np.where(never, np.inf, lnK - np.where(never, 0.0, at))

    def _root(self, thetas: np.ndarray, lnK: np.ndarray, target: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Newton steps on a decreasing convex function, whose root they reach from below whatever their first step."""
        at, inside, step = np.zeros(len(lnK)), np.zeros(len(lnK), bool), 1e-3
        live = np.arange(len(lnK))
        for _ in range(_NEWTON):
            if len(live) == 0:
                break
            at[live], value, inside[live] = self._lowest(lnK[live], thetas[live])
            # At the optimum the size may be held while the budget moves: its own shift changes the loss to second order only.
            u, K = at[live, None], lnK[live, None]
            ends = each(self.law, thetas[live], self._columns(u + np.zeros(2), K - u + np.array([-step, step])))
            slope = (ends[:, 1] - ends[:, 0]) / (2 * step)
            with np.errstate(all="ignore"):
                move = np.where(slope < 0, (target - value) / slope, np.inf)
            lnK[live] = np.clip(lnK[live] + np.clip(move, -20.0, 20.0), 2.0, 2 * LARGEST)
            live = live[(np.abs(move) > _SETTLED) & (lnK[live] < 2 * LARGEST) & (lnK[live] > 2.0)]
        lost = np.isin(np.arange(len(lnK)), live) | (lnK >= 2 * LARGEST)
        return np.where(lost, np.inf, lnK), at, inside

    def _floor(self) -> str:
        floor = self.law.values(self.fit.theta).get("E")
        return "" if floor is None else f", its floor is {float(floor):.6g}"

    def _choosable(self) -> None:
        """A best size exists where the law depends on parameters and tokens alone, besides what a user can hold."""
        shape = [v for v in ("width", "depth") if v in self.law.variables]
        if shape:
            raise InvalidInput(
                f"plan: {self.law.name} does not say which parameters follow from {' and '.join(shape)}, so it has no best size; give params as well."
            )

    def _reached(self, free: np.ndarray, loss: float, what: str, of: str) -> None:
        if free[0] == np.inf:
            raise InvalidInput(
                f"plan: {self.law.name} as fitted never reaches {self.law.response} {loss:.6g} with {of}, whatever {what}; "
                "ask for a larger one, or give less."
            )
        if free[0] == -np.inf:
            raise InvalidInput(
                f"plan: {self.law.name} as fitted is below {self.law.response} {loss:.6g} with {of} whatever {what}; ask for a smaller one."
            )
        self._doubt(np.isinf(free), "never reach it")

    def _doubt(self, without: np.ndarray, words: str) -> None:
        share = float(np.mean(without[1:])) if len(without) > 1 else 0.0
        if share > RARE:
            self.warnings.append(
                f"{100 * share:.2g} % of the bootstrap fits {words}; intervals reach as far as that says. Add runs that bound it."
            )

    def _told(self, lnN: np.ndarray, lnD: np.ndarray, known: Mapping[str, float]) -> Plan:
        with np.errstate(over="ignore", invalid="ignore"):
            lnC = lnN + lnD + math.log(FLOPS_PER_TOKEN)
            if "loss" not in known:
                lnC = np.full(len(lnN), lnC[0])
            draws = {"params": lnN, "tokens": lnD, "compute": lnC, "tokens_per_param": lnD - lnN}
            draws = {name: np.exp(values) for name, values in draws.items()}
        if "unique_tokens" in self.given:
            draws["epochs"] = draws["tokens"] / self.given["unique_tokens"]
        found = {name: estimate(float(v[0]), v[1:], self.level) for name, v in draws.items()}
        if not all(math.isfinite(e.value) for e in found.values()):
            raise InvalidInput("plan: larger than numbers can be; check the units of what was given.")
        point = {
            v: float(np.ravel(c)[0]) for v, c in self._columns(lnN[:1], lnD[:1]).items() if v in self.law.variables
        }
        found[self.law.response] = Estimate(*(known["loss"],) * 3) if "loss" in known else self._predicted(point)
        found |= {
            name: Estimate(value, value, value)
            for name, value in self.given.items()
            if name in found and name != "loss"
        }
        order = ("params", "tokens", self.law.response, "compute", "tokens_per_param", "epochs")
        notes = [
            *self.warnings,
            *far_away(self.fit, [{v: point[v] for v in self.law.variables if v != "tokens_per_epoch"}]),
        ]
        return Plan(
            self.law.name,
            self.level,
            {name: found[name] for name in order if name in found},
            dict(self.given) | dict(self.others),
            self._by_epochs() if "unique_tokens" in self.given and "compute" in known else (),
            self._forms(known) if set(known) == {"compute"} else (),
            tuple(notes),
        )

    def _predicted(self, point: Mapping[str, float]) -> Estimate:
        said = self.fit.predict(point, level=self.level)
        if not len(self.fit.samples):
            return Estimate(float(said["value"]), math.nan, math.nan)
        return Estimate(*(float(said[end]) for end in ("value", "low", "high")))

    def _by_epochs(self) -> tuple[dict[str, Any], ...]:
        """What the same compute reaches when the data is seen 1, 2, 4, ... times."""
        rows = []
        for epochs in _EPOCHS:
            tokens = epochs * self.given["unique_tokens"]
            params = self.given["compute"] / FLOPS_PER_TOKEN / tokens
            if params < 1:
                break
            point = {"params": params, "tokens": tokens} | dict(self.others)
            rows.append(
                {"epochs": epochs, "params": params, "tokens": tokens, self.law.response: self._predicted(point)}
            )
        return tuple(rows)

    def _forms(self, known: Mapping[str, float]) -> tuple[dict[str, Any], ...]:
        rows = []
        lnK = np.array([math.log(known["compute"] / FLOPS_PER_TOKEN)])
        for law, theta in self.fit.forms:
            if not set(law.variables) <= {"params", "tokens", "tokens_per_epoch"}:
                continue
            at, value, inside = lowest(law, theta[None], lambda u: self._columns(u, lnK[:, None] - u), 0.0, lnK)
            if inside[0]:
                rows.append(
                    {
                        "law": law.name,
                        "params": math.exp(at[0]),
                        "tokens": math.exp(lnK[0] - at[0]),
                        law.response: math.exp(value[0]),
                    }
                )
        return tuple(rows)
