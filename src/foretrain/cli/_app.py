"""The verbs of the command line."""

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from foretrain import __version__
from foretrain.cli._console import Voice, one_line
from foretrain.cli._law_verbs import add_law_verbs
from foretrain.errors import ForetrainError, InvalidInput, nearest

# Only names that cost nothing are imported up here: `foretrain --help` must answer at once.

app = typer.Typer(
    name="foretrain",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study file; `foretrain init` prints one.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", metavar="curves.nc", help="Write the result as NetCDF.")]
Plot = Annotated[
    str | None,
    typer.Option("--plot", metavar="[PATH]", help="Draw the curves; without a path beside -o or here, as .png."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Strict JSON on standard output, all else on standard error.")]
Seeds = Annotated[int | None, typer.Option("--seeds", metavar="N", help="Finite networks per point (the study's).")]
StoreFolder = Annotated[
    Path | None,
    typer.Option("--store", metavar="FOLDER", help="Where results are kept (FORETRAIN_STORE, else .foretrain)."),
]
NoStore = Annotated[bool, typer.Option("--no-store", help="Keep no results and use none.")]
# A word with one of these endings after `--plot` is what to work on, not where to draw.
_NO_PICTURES = ("", ".toml", ".csv", ".tsv", ".tab", ".json", ".jsonl", ".ndjson", ".parquet", ".nc")
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress and no notes.")]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Predict how a neural network will learn, before you train it."""
    if version:
        print(f"foretrain {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def measure(
    study_file: StudyFile,
    output: Output = None,
    plot: Plot = None,
    as_json: AsJson = False,
    store: StoreFolder = None,
    no_store: NoStore = False,
    quiet: Quiet = False,
) -> None:
    """How the network sees the data: spectrum, exponents."""
    from foretrain.cli._verbs import Wishes, run_measure

    run_measure(Voice(quiet=quiet, as_json=as_json), Wishes(study_file, output, plot, store=store, no_store=no_store))


@app.command()
def solve(
    study_file: StudyFile,
    output: Output = None,
    plot: Plot = None,
    as_json: AsJson = False,
    store: StoreFolder = None,
    no_store: NoStore = False,
    quiet: Quiet = False,
) -> None:
    """What the theory predicts."""
    from foretrain.cli._verbs import Wishes, run_solve

    wishes = Wishes(study_file, output, plot, store=store, no_store=no_store)
    run_solve(Voice(quiet=quiet, as_json=as_json), wishes)


@app.command()
def train(
    study_file: StudyFile,
    output: Output = None,
    plot: Plot = None,
    as_json: AsJson = False,
    seeds: Seeds = None,
    store: StoreFolder = None,
    no_store: NoStore = False,
    quiet: Quiet = False,
) -> None:
    """What finite networks do, averaged over seeds."""
    from foretrain.cli._verbs import Wishes, run_train

    wishes = Wishes(study_file, output, plot, seeds=seeds, store=store, no_store=no_store)
    run_train(Voice(quiet=quiet, as_json=as_json), wishes)


@app.command()
def compare(
    study_file: StudyFile,
    output: Output = None,
    plot: Plot = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="report.html", help="Write one self-contained page.")
    ] = None,
    as_json: AsJson = False,
    seeds: Seeds = None,
    store: StoreFolder = None,
    no_store: NoStore = False,
    quiet: Quiet = False,
) -> None:
    """Theory and finite networks, and the error between."""
    from foretrain.cli._verbs import Wishes, run_compare

    wishes = Wishes(study_file, output, plot, report=report, seeds=seeds, store=store, no_store=no_store)
    run_compare(Voice(quiet=quiet, as_json=as_json), wishes)


@app.command()
def transfer(
    study_file: StudyFile,
    recommend: Annotated[
        str | None,
        typer.Option("--recommend", metavar="[SIZE]", help="What to set at SIZE (the study's target, or the largest)."),
    ] = None,
    output: Output = None,
    plot: Plot = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="page.html", help="Write one self-contained page.")
    ] = None,
    as_json: AsJson = False,
    seeds: Seeds = None,
    store: StoreFolder = None,
    no_store: NoStore = False,
    quiet: Quiet = False,
) -> None:
    """Whether the best learning rate holds at other sizes."""
    from foretrain.cli._transfer import run_transfer
    from foretrain.cli._verbs import Wishes

    wishes = Wishes(study_file, output, plot, report=report, seeds=seeds, store=store, no_store=no_store)
    run_transfer(Voice(quiet=quiet, as_json=as_json), wishes, recommend)


add_law_verbs(app)


@app.command()
def claims(
    papers: Annotated[
        list[str] | None, typer.Argument(metavar="[PAPER]...", help="Number, arXiv id or slug; all when none is named.")
    ] = None,
    fast: Annotated[bool, typer.Option("--fast/--full", help="Minutes, or the full sizes and seeds.")] = True,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Whether we reproduce what the source papers state."""
    from foretrain.cli._verbs import run_claims

    run_claims(Voice(quiet=quiet, as_json=as_json), papers or [], fast=fast)


@app.command()
def parameterize(
    model: Annotated[
        Path | None, typer.Argument(metavar="[MODEL.json]", help="Shapes and roles of a model: its table by tensor.")
    ] = None,
    scheme: Annotated[
        str | None, typer.Option(help="sp, ntk, mean-field, mup, mup-depth (branches / sqrt(L)) or completep (/ L).")
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd, momentum, nesterov, adam, adamw or lion.")] = None,
    decay: Annotated[str | None, typer.Option(help="lr-multiplied (w -= lr wd w, the default) or independent.")] = None,
    decay_rule: Annotated[str | None, typer.Option(help="invariant (the default) or published.")] = None,
    form: Annotated[
        str | None, typer.Option(help="relative: factors against a base (the default); canonical: absolute.")
    ] = None,
    readout: Annotated[str | None, typer.Option(help="Relative: readout scaled forward (the default) or init.")] = None,
    width: Annotated[float | None, typer.Option(help="Width of the residual stream.")] = None,
    depth: Annotated[float | None, typer.Option(help="Residual blocks.")] = None,
    head_dim: Annotated[float | None, typer.Option(help="Size of one head.")] = None,
    attention_exponent: Annotated[float | None, typer.Option(help="Logits are q.k / d_h^this (1).")] = None,
    base_width: Annotated[float | None, typer.Option(help="Relative: width of the base.")] = None,
    base_depth: Annotated[float | None, typer.Option(help="Relative: depth of the base.")] = None,
    base_head_dim: Annotated[
        float | None, typer.Option(help="Relative: head size of the base (that of --head-dim).")
    ] = None,
    input_dim: Annotated[
        float | None, typer.Option(help="Canonical: inputs of the first layer (1, a looked-up table).")
    ] = None,
    richness: Annotated[float | None, typer.Option(help="Canonical: the output is divided by this (1).")] = None,
    branch_scale: Annotated[float | None, typer.Option(help="Canonical: branches are multiplied by this (1).")] = None,
    lr: Annotated[float | None, typer.Option(help="Canonical: the learning rate that is tuned (1).")] = None,
    eps: Annotated[float | None, typer.Option(help="Canonical: Adam's epsilon that is tuned (1).")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Canonical: the weight decay that is tuned (1).")] = None,
    as_json: AsJson = False,
) -> None:
    """Init, multiplier, learning rate of every tensor at any size."""
    from foretrain.cli._parameterize import Options, run_parameterize

    options = Options(
        scheme=scheme,
        optimizer=optimizer,
        decay=decay,
        decay_rule=decay_rule,
        form=form,
        readout=readout,
        attention_exponent=attention_exponent,
        width=width,
        depth=depth,
        head_dim=head_dim,
        input_dim=input_dim,
        richness=richness,
        branch_scale=branch_scale,
        lr=lr,
        eps=eps,
        weight_decay=weight_decay,
        base_width=base_width,
        base_depth=base_depth,
        base_head_dim=base_head_dim,
    )
    run_parameterize(Voice(as_json=as_json), model, options)


@app.command()
def init(
    verb: Annotated[str, typer.Argument(metavar="VERB", help="measure, solve, train, compare or transfer.")],
) -> None:
    """Print a commented study file that runs."""
    from foretrain.cli._templates import TEMPLATES

    if verb not in TEMPLATES:
        raise InvalidInput(f"init: expected one of {', '.join(TEMPLATES)}, got {verb!r}{nearest(verb, TEMPLATES)}")
    Voice().show(TEMPLATES[verb].rstrip())


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Versions, devices, precision, missing extras."""
    from foretrain.cli._doctor import run_doctor

    run_doctor(Voice(as_json=as_json))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: What follows the program's name; by default those of this process.

    Returns:
        0 when done (some points may have failed: `status` says which), 1 when every point of a computation failed, 2 when
        the request is wrong, 130 after Ctrl-C.
    """
    _prepare_process()
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = bool(os.environ.get("FORETRAIN_DEBUG"))
    try:
        code = app(_complete_options(given), prog_name="foretrain", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except ForetrainError as error:
        return _complain(error, error.exit_code)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except MemoryError:
        return _complain("out of memory; ask for smaller sizes or fewer points", 1)
    except Exception as error:
        if hasattr(error, "format_message"):  # the parser's own complaints about arguments
            return _complain(error.format_message(), 2)  # type: ignore[attr-defined]
        if debug:
            traceback.print_exc()
        return _complain(
            f"{type(error).__name__}: {error} (this is a bug of foretrain; set FORETRAIN_DEBUG=1 for the traceback and "
            "report it)",
            1,
        )


def _complain(message: object, code: int) -> int:
    print(f"error: {one_line(message)}", file=sys.stderr)
    return code


def _complete_options(arguments: list[str]) -> list[str]:
    """Values for options that may stand alone.

    The next word is the value of `--plot` unless it is an option, the study file or a table of runs, that of `--recommend` if
    it starts like a number.
    """
    completed = []
    for i, word in enumerate(arguments):
        follower = arguments[i + 1] if i + 1 < len(arguments) else ""
        alone = word == "--plot" and (follower.startswith("-") or Path(follower).suffix.lower() in _NO_PICTURES)
        alone = alone or (word == "--recommend" and not follower[:2].lstrip("-+.")[:1].isdigit())
        completed.append(f"{word}=" if alone else word)
    return completed


def _prepare_process() -> None:
    """What this process owns: printing anywhere, and a compilation cache, so that a second run starts at once."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell, as with `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - open as long as the process
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if "jax" in sys.modules:
        return
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(home, "foretrain", "jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
