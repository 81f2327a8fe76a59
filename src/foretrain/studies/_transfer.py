r"""`transfer`: whether the best learning rate of a small network holds for a large one, (PA.7).

A sweep over sizes and over one hyperparameter, with several seeds that are the same at every point; the optimum at every size with its
error; the drift exponent d ln(best) / d ln(size); and a verdict.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from foretrain.curves import LearningCurves, json_ready
from foretrain.errors import InvalidInput
from foretrain.problems import Problem, protocol_times
from foretrain.studies._run import Progress
from foretrain.studies._store import Store
from foretrain.studies._study import Study, TransferOptions
from foretrain.studies._transfer_plan import Plan, check_size, label, plan
from foretrain.studies._transfer_recommend import Recommendation, recommend

_ATTRIBUTE = "transfer"


@dataclasses.dataclass(frozen=True, eq=False)
class Transfer:
    """What `transfer` returns.

    Args:
        curves: The sweep. `train_loss` and `test_loss` (means over seeds, with `_stderr`) over variants, size, swept hyperparameter
            and time, the same with `_by_seed`, `status`, `parameters`, `flops_per_step`; `attrs["transfer"]` holds the analysis.
        problem: The grid of problems.
        options: What was looked at.
    """

    curves: LearningCurves
    problem: Problem
    options: TransferOptions

    @property
    def analysis(self) -> Mapping[str, Any]:
        """All that was found, as plain values."""
        return self.curves.attrs[_ATTRIBUTE]

    @property
    def axis(self) -> str:
        """The size."""
        return self.analysis["axis"]

    @property
    def swept(self) -> str:
        """The hyperparameter."""
        return self.analysis["swept"]

    @property
    def verdicts(self) -> list[dict[str, Any]]:
        """One row for every variant: `verdict` (`transfers`, `drifts`, `undecided`), `sentence`, `advice`."""
        return [{**v["where"], **{k: v[k] for k in ("verdict", "sentence", "advice")}} for v in self._variants]

    @property
    def optima(self) -> list[dict[str, Any]]:
        """One row for every variant and size: `value` with its 95 % interval `low`, `high`, `loss`, `status`."""
        return [{**v["where"], **row} for v in self._variants for row in v["optima"]]

    @property
    def edge(self) -> list[dict[str, Any]]:
        """One row for every variant and size: largest `stable` and smallest `diverged` value, `value` between them."""
        return [{**v["where"], **row} for v in self._variants for row in v["edge"]]

    @property
    def drift(self) -> list[dict[str, Any]]:
        """One row for every variant: `exponent`, `stderr`, and `without_smallest` as a table of the same; NaN where there is none."""
        none = {"exponent": float("nan"), "stderr": float("nan"), "sizes": 0}
        return [
            {**v["where"], **(v["drift"] or none), "without_smallest": v["drift_without_smallest"]}
            for v in self._variants
        ]

    @property
    def _variants(self) -> list[dict[str, Any]]:
        return self.analysis["variants"]

    def recommend(self, size: float | None = None, *, proxy: float | None = None) -> list[Recommendation]:
        """The proxy's best value, translated to a size: one recommendation for each variant.

        Args:
            size: The size to train; by default `target` of the study, else the largest size of the sweep.
            proxy: The trained size whose optimum is used; by default `proxy` of the study, else the largest whose optimum lies
                inside the grid.

        Raises:
            InvalidInput: A proxy that was not trained, or words were swept.
        """
        found = plan(self.problem, self.options)
        target = size if size is not None else self.options.target
        chosen = proxy if proxy is not None else self.options.proxy
        check_size(found, "proxy", chosen)
        goal = max(found.sizes) if target is None else target
        if not (isinstance(goal, (int, float)) and goal >= 1 and goal == int(goal)):
            raise InvalidInput(f"Transfer.recommend(size): expected a whole number >= 1, got {goal!r}.")
        return [recommend(self.problem, found, variant, int(goal), chosen) for variant in self._variants]

    def to_json(self) -> dict[str, Any]:
        """Plain values for strict JSON: the analysis, and the curves in the form of `LearningCurves.to_json`."""
        curves = self.curves.to_json()
        attrs = {k: v for k, v in curves["attrs"].items() if k != _ATTRIBUTE}
        return {"status": self.curves.status, **json_ready(dict(self.analysis)), "curves": {**curves, "attrs": attrs}}

    def save(self, path: str | os.PathLike) -> None:
        """Write a NetCDF file that `LearningCurves.load` reads; the analysis is its attribute `transfer`."""
        self.curves.save(path)

    def __repr__(self) -> str:
        said = "; ".join(
            f"{', '.join(map(str, v['where'].values()))}: {v['verdict']}" if v["where"] else v["verdict"]
            for v in self._variants
        )
        return f"Transfer({self.swept} over {self.axis}; {said})"


def transfer(
    problem: Problem | Study,
    times: Any = None,
    *,
    seeds: int | None = None,
    seed: int | None = None,
    swept: str | None = None,
    axis: str | None = None,
    objective: str | None = None,
    tolerance: float | None = None,
    store: Store | None = None,
    progress: Progress | None = None,
) -> Transfer:
    r"""Whether the best value of a hyperparameter is the same at all sizes, (PA.7).

    At every size, the optimum of the loss at the last of the times is the vertex of a parabola in the logarithms, moved by what the curves
    of all sizes together show near their minimum, with a 95 % interval from resampled seeds and from the fits. The drift exponent is the slope of ln(optimum) against ln(size), with a standard error
    that knows that sizes share their seeds. The verdict compares it with the tolerance.

    When not to use it: for a single training run's choice of rate (sweep that size itself), or with the smallest sizes so small
    that they are not on the way to a limit (look at the drift without the smallest).

    Args:
        problem: A network with one size axis (`width`, `depth`, `heads` or `head_dim`) and one swept hyperparameter (`learning_rate`,
            `momentum`, `weight_decay`, `batch_size`, `richness`, `epsilon`, `branch_scale`, `schedule`), or a study. Axes
            of words, such as `parameterization`, are variants: each gets its verdict.
        times: Numbers of steps; the last one is judged. A study has its own.
        seeds: Networks at every point, 10 by default; overrides a study's.
        seed: The first of them; overrides a study's.
        swept: The hyperparameter; found when only one has several values.
        axis: The size; found when only one has several values.
        objective: `"train_loss"` or `"test_loss"`.
        tolerance: Largest |drift| that counts as transfer, 0.1 by default.
        store: Where finished pieces are kept and looked for.
        progress: Called as work advances.

    Raises:
        InvalidInput: Several sizes at a time, too few values, or wrong times or seeds.
        UnsupportedProblem: Not a trained network.

    Example:
        >>> from foretrain import Digits, MLP, NetworkTraining, Problem, transfer
        >>> training = NetworkTraining(learning_rate=[0.1, 0.2, 0.4, 0.8, 1.6], batch_size=32, samples=500)
        >>> problem = Problem(Digits(), MLP(width=[8, 32], base_width=8), training)
        >>> found = transfer(problem, [20], seeds=2)
        >>> [row["size"] for row in found.optima]
        [8.0, 32.0]
    """
    study = _read(problem, times, seeds, seed)
    changes = {"swept": swept, "axis": axis, "objective": objective, "tolerance": tolerance}
    options = study.transfer.replace(**{k: v for k, v in changes.items() if v is not None})
    found = plan(study.problem, options)
    check_size(found, "proxy", options.proxy)
    steps = protocol_times(study.problem.training, study.raw_times, "transfer")
    study.problem.check_size(study.seeds * (1 if steps is None else len(steps)), "transfer")
    from foretrain.studies._transfer_sweep import run_sweep

    numbers = range(study.seed, study.seed + study.seeds)
    curves = run_sweep(study.problem, found, study.raw_times, numbers, store=store, progress=progress)
    return Transfer(_analysed(curves, found, options, study), study.problem, options)


def _read(problem: Problem | Study, times: Any, seeds: int | None, seed: int | None) -> Study:
    if isinstance(problem, Study):
        if times is not None:
            raise InvalidInput("transfer(times): a study has its own times; use study.replace(times=...).")
        study = problem
    elif isinstance(problem, Problem):
        study = Study(problem, times=times)
    else:
        raise InvalidInput(f"transfer(problem): expected a Problem or a Study, got {type(problem).__name__}.")
    changes = {name: value for name, value in (("seeds", seeds), ("seed", seed)) if value is not None}
    return study.replace(**changes) if changes else study


def _analysed(curves: LearningCurves, found: Plan, options: TransferOptions, study: Study) -> LearningCurves:
    """The curves with the analysis, and the declaration that made them, among their attributes."""
    from foretrain.studies._transfer_verdict import judge

    finals = {name: curves.values(f"{name}_by_seed")[..., -1] for name in ("train_loss", "test_loss")}
    losses = curves.values("train_loss_by_seed")
    started = losses[..., 0] if curves.coords["time"][0] == 0 else np.full(losses.shape[:-1], np.inf)
    shape = tuple(len(v) for v in found.variants.values())
    names = list(found.variants)
    rows = []
    for index in np.ndindex(shape):
        where = {name: label(found.variants[name][i]) for name, i in zip(names, index, strict=True)}
        scheme = str(where.get("parameterization", study.problem.model.parameterization))  # type: ignore[attr-defined]
        losses = finals[options.objective][index]
        train = np.where(np.isfinite(finals["train_loss"][index]), finals["train_loss"][index], np.inf)
        # A run that ends above its own start has been thrown off, even if its numbers are still finite.
        lost = ~(train < started[index])
        rows.append(judge(found, where, np.where(lost, np.inf, losses), train, options.tolerance, scheme))
    analysis = {
        "axis": found.axis,
        "swept": found.swept,
        "objective": options.objective,
        "tolerance": options.tolerance,
        "steps": int(curves.coords["time"][-1]),
        "seeds": study.seeds,
        "variants": rows,
    }
    attrs = {
        **curves.attrs,
        "verb": "transfer",
        **study.problem.facts(),
        _ATTRIBUTE: analysis,
        "study": study.to_toml(),
    }
    return dataclasses.replace(curves, attrs=attrs)
