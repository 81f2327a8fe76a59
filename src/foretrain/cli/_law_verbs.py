"""The options of `fit`, `forecast` and `laws`; those of `plan` are beside it."""

from pathlib import Path
from typing import Annotated

import typer

from foretrain.cli._console import Voice
from foretrain.cli._plan_verb import plan

# Only names that cost nothing are imported up here: `foretrain --help` must answer at once.

AsJson = Annotated[bool, typer.Option("--json", help="Strict JSON on standard output, all else on standard error.")]
Model = Annotated[str, typer.Argument(metavar="LAW.json", help="What `fit -o` wrote.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No notes.")]


def add_law_verbs(app: typer.Typer) -> None:
    """Make the verbs known.

    Args:
        app: The program.
    """
    for verb in (fit, forecast, plan, laws):
        app.command()(verb)


def fit(
    runs: Annotated[
        Path, typer.Argument(metavar="RUNS", help="Table of runs: CSV, JSON, Parquet, W&B, MLflow, TensorBoard.")
    ],
    law: Annotated[
        str | None,
        typer.Option("--law", metavar="NAME", help="One of `foretrain laws`, or auto (chinchilla; power with --x)."),
    ] = None,
    approach: Annotated[
        str,
        typer.Option(
            "--approach",
            metavar="NAME",
            help="parametric (a law), best sizes by isoflop or envelope, best rates and batches by step-law.",
        ),
    ] = "parametric",
    x: Annotated[
        str | None, typer.Option("--x", metavar="COLUMN", help="The variable of a law of one variable.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--columns", metavar="NAME=COLUMN,...", help="What columns of the file are: params=N,tokens=D*1e9."
        ),
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", metavar="COLUMN", help="Rows that share its value are one run (run).")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option("--where", metavar="CONDITION", help='Rows to keep, "column=value"; repeatable.')
    ] = None,
    drop_largest_loss: Annotated[
        int, typer.Option("--drop-largest-loss", metavar="K", help="Leave the rows of the K largest losses out.")
    ] = 0,
    loss: Annotated[str, typer.Option("--loss", metavar="NAME", help="huber (of the log) or squares.")] = "huber",
    huber_delta: Annotated[
        float | None, typer.Option("--huber-delta", metavar="D", help="Width of Huber's loss, in log loss (0.001).")
    ] = None,
    starts: Annotated[int | None, typer.Option("--starts", metavar="N", help="Points to start from (64).")] = None,
    bootstrap: Annotated[
        int | None, typer.Option("--bootstrap", metavar="N", help="Fits to resampled runs (1000); 0: no intervals.")
    ] = None,
    level: Annotated[float, typer.Option("--level", help="Probability that intervals are meant to cover.")] = 0.95,
    seed: Annotated[int, typer.Option("--seed", help="Of starts and resampling.")] = 0,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="law.json", help="Write the law, for plan and forecast.")
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option("--plot", metavar="[PATH]", help="Draw the fit; without a path beside -o or here, as .png."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="page.html", help="Write one self-contained page.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """The law that your runs follow, with intervals."""
    from foretrain.cli._laws import FitWishes, run_fit

    wishes = FitWishes(
        runs=runs,
        law=law,
        x=x,
        columns=columns or [],
        group=group,
        where=where or [],
        drop_largest_loss=drop_largest_loss,
        loss=loss,
        huber_delta=huber_delta,
        starts=starts,
        bootstrap=bootstrap,
        level=level,
        seed=seed,
        output=output,
        plot=plot,
        report=report,
        approach=approach,
    )
    run_fit(Voice(quiet=quiet, as_json=as_json), wishes)


def forecast(
    model: Model,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", metavar="COLUMN=VALUE,...", help="Where: params=7B,tokens=2e12; repeatable."),
    ] = None,
    level: Annotated[
        float | None, typer.Option("--level", help="Probability that the interval is meant to cover (the fit's).")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """The loss that a law predicts, with an interval."""
    from foretrain.cli._laws import run_forecast

    run_forecast(Voice(quiet=quiet, as_json=as_json), model, at or [], level)


def laws(as_json: AsJson = False) -> None:
    """The laws that fit knows."""
    from foretrain.cli._laws import run_laws

    run_laws(Voice(as_json=as_json))
