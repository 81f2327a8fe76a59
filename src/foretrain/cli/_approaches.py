"""`foretrain fit --approach`: best sizes, and best rates and batches, without a law of loss; between parsing and printing."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from foretrain.cli._console import Voice
from foretrain.cli._laws_tables import interval
from foretrain.errors import InvalidInput, nearest
from foretrain.laws import Allocation, Budget, Runs, StepLaw, best_hyperparameters, envelope, valleys
from foretrain.laws._words import count

if TYPE_CHECKING:
    from foretrain.cli._laws import FitWishes

APPROACHES = ("parametric", "isoflop", "envelope", "step-law")

# Options of `fit` that speak of a law, and what they are when nothing was said.
_OF_LAWS = {"law": None, "x": None, "loss": "huber", "huber_delta": None, "starts": None}
_OF_FILES = {"output": None, "plot": None, "report": None}
_MOST_SHOWN = 30


def check_approach(wishes: "FitWishes") -> None:
    """Refuse an approach that there is not, and options that belong to a law where there is none.

    Args:
        wishes: What was asked of `fit`.

    Raises:
        InvalidInput: Names the option.
    """
    approach = wishes.approach
    if approach not in APPROACHES:
        raise InvalidInput(
            f"--approach: expected one of {', '.join(APPROACHES)}; got {approach!r}{nearest(approach, APPROACHES)}."
        )
    if approach == "parametric":
        return
    for name, unsaid in (_OF_LAWS | _OF_FILES).items():
        if getattr(wishes, name) != unsaid:
            what = "fits no law" if name in _OF_LAWS else "gives no law to write or draw; use --json"
            raise InvalidInput(f"--{name.replace('_', '-')}: --approach {approach} {what}; leave it out.")
    if approach == "step-law" and wishes.group is not None:
        raise InvalidInput("--group: --approach step-law resamples grids and the runs in them; leave it out.")


def run_approach(voice: Voice, wishes: "FitWishes", runs: Runs) -> None:
    """Find best sizes, or best rates and batches, and hand over.

    Args:
        voice: What is printed, and how.
        wishes: What was asked.
        runs: The table.
    """
    options: dict[str, Any] = {"level": wishes.level, "seed": wishes.seed}
    if wishes.bootstrap is not None:
        options["bootstrap"] = wishes.bootstrap
    source = runs.source or "runs"
    if wishes.approach == "step-law":
        found = best_hyperparameters(runs, **options)
        table, lines = {"approach": "step-law"} | found.to_json(), step_law_lines(found, source)
    else:
        found = (valleys if wishes.approach == "isoflop" else envelope)(runs, group=wishes.group, **options)
        table, lines = found.to_json(), approach_lines(found, source)
    voice.json(table) if voice.as_json else voice.show(*lines)
    if not voice.quiet:
        for note in runs.notes:
            voice.say("note", note)
    for warning in found.warnings:
        voice.say("warning", warning)


def approach_lines(found: Allocation, source: str) -> list[Any]:
    """An allocation as a person reads it.

    Args:
        found: The allocation.
        source: Name of the table.
    """
    what = {
        "isoflop": "at each budget the vertex of a parabola in ln params",
        "envelope": "at each compute the lowest training curve",
    }[found.approach]
    powers = _table()
    for name in ("", "exponent of C", f"{100 * found.level:g} % interval", "coefficient"):
        powers.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for name, exponent in found.exponents.items():
        powers.add_row(name, f"{exponent.value:.5g}", interval(exponent), f"{found.coefficients[name].value:.5g}")
    return [f"{source}: {what}; {len(found.budgets)} budgets", powers, _budgets(found.budgets)]


def step_law_lines(found: StepLaw, source: str) -> list[Any]:
    """Best rates and batches as a person reads them.

    Args:
        found: The law.
        source: Name of the table.
    """
    powers = _table()
    for name in ("", "exponent of", "value", f"{100 * found.level:g} % interval"):
        powers.add_column(name, justify="left" if name in ("", "exponent of") else "right", no_wrap=True)
    for name, terms in ((found.rate, found.rate_of), (found.batch, found.batch_of)):
        for column, estimate in terms.items():
            what = "ln of the factor" if column == "constant" else column
            powers.add_row(f"best {name}", what, f"{estimate.value:.5g}", interval(estimate))
        powers.add_section()
    grids = _table()
    used = [o for o in found.optima if not o.trouble]
    for name in (*used[0].at, f"best {found.rate}", f"best {found.batch}", "loss", "runs that count"):
        grids.add_column(name, justify="right", no_wrap=True)
    for o in used[:_MOST_SHOWN]:
        grids.add_row(
            *(count(v) for v in o.at.values()),
            f"{o.rate.value:.3g}",
            f"{o.batch.value:.4g}",
            f"{o.loss:.5g}",
            str(o.rows),
        )
    off = f"a rate that is off by a factor of two costs {100 * found.excess(2.0):.2g} % of the loss"
    return [
        f"{source}: the vertex of a paraboloid in ln rate and ln batch at each of {len(used)} grids",
        powers,
        grids,
        off,
    ]


def _budgets(budgets: Sequence[Budget]) -> Table:
    table = _table()
    for name in ("C, FLOP", "best params", "tokens", "loss", "runs"):
        table.add_column(name, justify="right", no_wrap=True)
    known = [b for b in budgets if b.status == "ok"]
    for b in known[:_MOST_SHOWN]:
        loss = "" if math.isnan(b.loss) else f"{b.loss:.5g}"
        table.add_row(f"{b.flops:.3g}", count(b.params), count(b.tokens), loss, str(b.runs))
    return table


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
