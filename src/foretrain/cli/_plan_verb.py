"""The options of `plan`."""

from typing import Annotated

import typer

from foretrain.cli._console import Voice

# Only names that cost nothing are imported up here: `foretrain --help` must answer at once.


def plan(
    model: Annotated[str, typer.Argument(metavar="LAW.json", help="What `fit -o` wrote, or the name of a preset.")],
    compute: Annotated[
        str | None, typer.Option("--compute", metavar="C", help="Training compute 6 N D, in FLOP: 5.76e23.")
    ] = None,
    params: Annotated[
        str | None, typer.Option("--params", metavar="N", help="Hold the number of parameters: 7B.")
    ] = None,
    tokens: Annotated[str | None, typer.Option("--tokens", metavar="D", help="Hold the number of tokens: 2T.")] = None,
    loss: Annotated[
        str | None,
        typer.Option("--loss", metavar="L", help="Loss to reach: what is cheapest, or what is left to choose."),
    ] = None,
    unique_tokens: Annotated[
        str | None,
        typer.Option("--unique-tokens", metavar="U", help="Different tokens that there are, for muennighoff: 100B."),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", metavar="COLUMN=VALUE,...", help="Other variables of the law: width=2048,depth=24."),
    ] = None,
    bits: Annotated[
        str | None, typer.Option("--bits", metavar="P", help="Bits of training, for laws of precision; else the best.")
    ] = None,
    post_bits: Annotated[
        str | None, typer.Option("--post-bits", metavar="P", help="Bits after training, for laws of precision.")
    ] = None,
    serving: Annotated[
        str | None, typer.Option("--serving", metavar="NP", help="Parameters times bits served, for laws of precision.")
    ] = None,
    after: Annotated[
        list[str] | None,
        typer.Option(
            "--next", metavar="COLUMN=VALUE,...", help="A run to add: how far it would shrink the interval; repeatable."
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", metavar="NAME", help="Whose interval --next shrinks: params, tokens, loss, or alpha, ..."
        ),
    ] = None,
    level: Annotated[
        float | None, typer.Option("--level", help="Probability that intervals are meant to cover (the fit's).")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Strict JSON on standard output, all else on standard error.")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No notes.")] = False,
) -> None:
    """The size and the data that a budget is best spent on, or the budget that a loss takes."""
    from foretrain.cli._plan import PlanWishes, run_plan

    numbers = {"compute": compute, "params": params, "tokens": tokens, "loss": loss, "unique_tokens": unique_tokens}
    numbers |= {"bits": bits, "post_bits": post_bits, "serving": serving}
    given = {name: text for name, text in numbers.items() if text is not None}
    run_plan(Voice(quiet=quiet, as_json=as_json), PlanWishes(model, given, at or [], after or [], target, level))
