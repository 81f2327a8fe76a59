r"""From a proxy's best value to what every tensor of the target gets."""

import dataclasses
import math
from typing import Any

from foretrain.curves import json_ready
from foretrain.errors import InvalidInput, UnsupportedProblem
from foretrain.parameterization import Parameterization
from foretrain.problems import Problem
from foretrain.studies._transfer_optimum import LOCATED
from foretrain.studies._transfer_plan import Plan, Scale, label


@dataclasses.dataclass(frozen=True, eq=False)
class Recommendation:
    """What to set at a size that need not have been trained.

    Args:
        where: The variant.
        swept: The hyperparameter.
        axis: The size.
        proxy: Size whose optimum was used.
        target: Size that this is for.
        value: What to set: the proxy's best value if it transfers, else that value moved along the measured drift.
        low: Lower end of its 95 % interval: the proxy's, widened by the drift and its error extrapolated to the target.
        high: Upper end.
        proxy_value: The proxy's own best value.
        verdict: Of the sweep.
        warning: What to know before it is used; empty if it transfers.
        tensors: One row for every tensor of the target: `path`, `role`, `shape`, `multiplier`, `init_std`, `lr`, and `eps` and
            `weight_decay` where the optimizer has them; all absolute.
        parameterization: The object that the rows are made from, for adapters.
    """

    where: dict[str, Any]
    swept: str
    axis: str
    proxy: float
    target: int
    value: float
    low: float
    high: float
    proxy_value: float
    verdict: str
    warning: str
    tensors: list[dict[str, Any]]
    parameterization: Parameterization

    def to_json(self) -> dict[str, Any]:
        """Plain values for strict JSON."""
        names = [f.name for f in dataclasses.fields(self) if f.name != "parameterization"]
        return json_ready({name: getattr(self, name) for name in names})


def recommend(
    problem: Problem, plan: Plan, variant: dict[str, Any], target: int, proxy: float | None
) -> Recommendation:
    """One recommendation.

    Args:
        problem: The grid of problems.
        plan: What its axes are for.
        variant: The analysis of one variant.
        target: Size to train.
        proxy: Trained size; `None` takes the largest whose optimum lies inside the grid.

    Raises:
        InvalidInput: Words were swept, or the optimum of the proxy lies beyond the grid.
    """
    if plan.words:
        raise InvalidInput(
            f"transfer(recommend): {plan.swept} is a choice among words; the table of optima names the best at every size."
        )
    rows = {row["size"]: row for row in variant["optima"]}
    located = [size for size, row in rows.items() if row["status"] in LOCATED]
    if not located or (proxy is not None and proxy not in located):
        which = "any size" if proxy is None else f"{plan.axis} {proxy:g}"
        raise InvalidInput(
            f"transfer(recommend): the grid of {plan.swept} does not bracket the optimum at {which}; {'; '.join(variant['advice'])}."
        )
    chosen = max(located) if proxy is None else proxy
    row = rows[chosen]
    scale = Scale(plan.swept)
    own = float(scale.place([row["value"]])[0])
    low, high = sorted(float(p) for p in scale.place([row["low"], row["high"]]))
    away = math.log(target / chosen)
    drift = variant["drift"]
    verdict = variant["verdict"]
    shift, spread = (0.0, 0.0) if drift is None else (drift["exponent"] * away, 2 * drift["stderr"] * abs(away))
    moved = own if verdict == "transfers" else own + shift
    # The target's optimum may be the proxy's, or that moved along the drift; both with their errors.
    down, up = math.hypot(own - low, spread), math.hypot(high - own, spread)
    low, high = min(own, own + shift) - down, max(own, own + shift) + up
    if verdict != "transfers":
        low, high = own + shift - down, own + shift + up
    ends = sorted((scale.value(low), scale.value(high)))
    value = scale.value(moved)
    parameterization, tensors = _tensors(problem, plan, variant["where"], target, value)
    return Recommendation(
        variant["where"],
        plan.swept,
        plan.axis,
        chosen,
        target,
        value,
        ends[0],
        ends[1],
        row["value"],
        verdict,
        _warning(plan, variant, chosen, target, row["value"], value),
        tensors,
        parameterization,
    )


def _warning(plan: Plan, variant: dict[str, Any], proxy: float, target: int, own: float, value: float) -> str:
    if variant["verdict"] == "transfers":
        return ""
    drift = variant["drift"]
    because = "no drift could be measured"
    if drift is not None:
        because = f"drift {drift['exponent']:+.3f} ± {drift['stderr']:.3f}".replace("-", "−")
    said = "DOES NOT TRANSFER" if variant["verdict"] == "drifts" else "TRANSFER IS NOT ESTABLISHED"
    moved = f"moved along the drift from {own:.4g} at {plan.axis} {proxy:g}" if drift is not None else "not moved"
    advice = f"; {'; '.join(variant['advice'])}" if variant["advice"] else ""
    return f"{said}: {because}; the value {value:.4g} for {plan.axis} {target} is {moved}{advice}"


def _tensors(
    problem: Problem, plan: Plan, where: dict[str, Any], target: int, value: float
) -> tuple[Parameterization, list[dict[str, Any]]]:
    from foretrain.training._network import parameterize_network
    from foretrain.training._network_data import network_data

    chosen = {name: next(v for v in values if label(v) == where[name]) for name, values in plan.variants.items()}
    single = problem.select({**chosen, plan.axis: plan.sizes[0], plan.swept: plan.values[0]})
    model = single.model.replace(**{plan.axis: target})
    training = single.training
    if plan.swept == "batch_size":
        value = max(1, round(value))
    if plan.swept in type(training).__dataclass_fields__:
        training = training.replace(**{plan.swept: value})
    else:
        model = model.replace(**{plan.swept: value})
    data = network_data(single)
    try:
        made = parameterize_network(model, training, data.inputs_size, data.outputs, **data.facts)  # type: ignore[arg-type]
    except UnsupportedProblem as error:
        raise InvalidInput(f"transfer(recommend): {plan.axis} {target}: {error}") from None
    rows = []
    for path, rule in made.tensors.items():
        entry = rule.entry
        row = {
            "path": path,
            "role": rule.tensor.role,
            "shape": list(rule.tensor.shape),
            "multiplier": entry.multiplier,
            "init_std": made.absolute_std(path),
            "lr": None if entry.lr is None else entry.lr * training.learning_rate,  # type: ignore[attr-defined]
        }
        if training.optimizer in ("adam", "adamw"):  # type: ignore[attr-defined]
            row["eps"] = None if entry.eps is None else entry.eps * training.epsilon  # type: ignore[attr-defined]
        if training.weight_decay:  # type: ignore[attr-defined]
            row["weight_decay"] = None if entry.weight_decay is None else entry.weight_decay * training.weight_decay  # type: ignore[attr-defined]
        rows.append(row)
    return made, rows
