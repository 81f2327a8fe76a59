"""What each verb of the command line does between parsing and printing."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import typer

from foretrain._declaration import WrongKey
from foretrain.cli import _tables
from foretrain.cli._console import Told, Voice, check_files
from foretrain.curves import LearningCurves
from foretrain.errors import ForetrainError
from foretrain.studies import (
    Store,
    Study,
    measure_study,
    read_study,
    solve_study,
    spectrum_for_plot,
    summarize,
    train_study,
)
from foretrain.studies import compare as compare_study
from foretrain.studies._study import named_by_file
from foretrain.tasks import AbstractDataTask

INTERRUPTED = 130
_NO_ANSWER = {"failed", "not converged"}


@dataclasses.dataclass
class Wishes:
    """What the user asked for beside the study."""

    study_file: Path
    output: Path | None = None
    plot: str | None = None
    report: Path | None = None
    seeds: int | None = None
    store: Path | None = None
    no_store: bool = False

    @property
    def plot_path(self) -> Path | None:
        """Where the picture goes: beside the result, else in the current folder under the study's name."""
        if self.plot is None:
            return None
        if self.plot:
            return Path(self.plot)
        return self.output.with_suffix(".png") if self.output else Path(f"{self.study_file.stem}.png")

    def check(self) -> None:
        """Refuse what cannot be written, or lacks an optional package, before anything is computed."""
        check_files(self.output, self.plot_path, self.report)

    def study(self) -> Study:
        """The study, with the wishes that override it."""
        study = read_study(self.study_file)
        if self.seeds is None:
            return study
        try:
            return study.replace(seeds=self.seeds)
        except WrongKey as error:
            raise error.owned_by("--seeds") from None


def run_solve(voice: Voice, wishes: Wishes) -> None:
    """Solve and hand over."""
    with _session(voice, wishes) as (study, store, progress):
        curves = solve_study(study, store=store, progress=progress)
    _hand_over_curves(voice, wishes, study, curves, "solve")


def run_train(voice: Voice, wishes: Wishes) -> None:
    """Train and hand over; after Ctrl-C, what the finished seeds say."""
    interrupted = False
    with _session(voice, wishes) as (study, store, progress):
        from foretrain.training import TrainingInterrupted

        try:
            curves = train_study(study, store=store, progress=progress)
        except TrainingInterrupted as interruption:
            curves, interrupted = interruption.curves, True
    if interrupted:
        voice.say("interrupted", f"averages over {curves.attrs['seeds']} of {study.seeds} seeds")
    _hand_over_curves(voice, wishes, study, curves, "train")
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def run_compare(voice: Voice, wishes: Wishes) -> None:
    """Compare and hand over."""
    with _session(voice, wishes) as (study, store, progress):
        comparison = compare_study(study, store=store, progress=progress)
        measured = None
        if wishes.report is not None and isinstance(study.problem.task, AbstractDataTask):
            measured = spectrum_for_plot(measure_study(study, store=store, progress=progress))
    if wishes.output is not None:
        comparison.save(wishes.output)
    if wishes.plot_path is not None:
        from foretrain.report import plot_comparison

        plot_comparison(comparison, wishes.plot_path)
    if wishes.report is not None:
        from foretrain.report import write_report

        title = study.title or wishes.study_file.stem
        text = wishes.study_file.read_text("utf-8-sig")
        write_report(comparison, wishes.report, title=title, spectrum=measured, study_text=text)
    rows = summarize(comparison)
    if voice.as_json:
        voice.json(comparison.to_json())
    else:
        voice.show(*_heading(study, wishes), _tables.comparison_table(comparison), *_tables.summary_lines(rows, study))
    _say_files(voice, wishes)
    for part in (comparison.theory, comparison.training):
        _say_messages(voice, part)
    _check_any("solve", comparison.theory)
    _check_any("train", comparison.training)


def _hand_over_curves(voice: Voice, wishes: Wishes, study: Study, curves: LearningCurves, verb: str) -> None:
    if wishes.output is not None:
        curves.save(wishes.output)
    if wishes.plot_path is not None:
        from foretrain.report import plot_curves

        plot_curves(curves, wishes.plot_path)
    if voice.as_json:
        voice.json(curves.to_json())
    else:
        voice.show(*_heading(study, wishes), _tables.curves_table(curves))
    _say_files(voice, wishes)
    _say_messages(voice, curves)
    _check_any(verb, curves)


@contextlib.contextmanager
def _session(voice: Voice, wishes: Wishes) -> Iterator[tuple[Study, Store | None, Callable[..., None] | None]]:
    """The study, the store and the progress bar; errors are told with the file's name, Ctrl-C says what was kept."""
    wishes.check()
    study = wishes.study()
    store = None
    with voice.hearing():
        try:
            store = None if wishes.no_store else Store(wishes.store)
            with voice.progress() as progress:
                yield study, store, progress
        except ForetrainError as error:
            raise _told(error, wishes.study_file, study) from error
        except KeyboardInterrupt:
            kept = (
                f"finished parts are kept in {store.folder}; the same command goes on from there"
                if store
                else "nothing is kept"
            )
            voice.say("interrupted", kept)
            raise typer.Exit(INTERRUPTED) from None


def _told(error: ForetrainError, file: Path, study: Study) -> ForetrainError:
    if isinstance(error, WrongKey):
        return named_by_file(error, str(file), study.problem)
    message = str(error)
    return error if message.startswith(str(file)) else Told(f"{file}: {message}", error.exit_code)


def _heading(study: Study, wishes: Wishes) -> list[str]:
    lines = [study.title or wishes.study_file.name, *_tables.conventions(study.problem.training)]
    scalars = [
        f"{name} {_tables.number(value)}"
        for part in study.problem.parts()
        for name, value in part.to_table().items()
        if isinstance(value, (int, float, str)) and not isinstance(value, bool)
    ]
    parts = ", ".join(part.kind for part in study.problem.parts())
    return [lines[0], f"{parts}{'; ' + ', '.join(scalars) if scalars else ''}", *lines[1:]]


def _say_files(voice: Voice, wishes: Wishes) -> None:
    for path in (wishes.output, wishes.plot_path, wishes.report):
        if path is not None:
            voice.note(f"wrote {path}")


def _say_messages(voice: Voice, curves: LearningCurves) -> None:
    for message in curves.messages:
        voice.say("warning", message)


def _check_any(verb: str, curves: LearningCurves) -> None:
    """A computation of which no point succeeded is an error, after its result has been handed over."""
    if "status" in curves and set(curves.values("status").ravel().tolist()) <= _NO_ANSWER:
        raise Told(f"{verb}: every point failed: {'; '.join(curves.messages) or 'no reason was given'}", 1)


def run_measure(voice: Voice, wishes: Wishes) -> None:
    """Measure and hand over."""
    with _session(voice, wishes) as (study, store, progress):
        curves = measure_study(study, store=store, progress=progress)
    if wishes.output is not None:
        curves.save(wishes.output)
    if wishes.plot_path is not None:
        from foretrain.report import plot_spectrum

        plot_spectrum(spectrum_for_plot(curves), wishes.plot_path)
    if voice.as_json:
        voice.json(curves.to_json())
    else:
        voice.show(_heading(study, wishes)[0], *_tables.spectrum_lines(curves))
    _say_files(voice, wishes)


def run_claims(voice: Voice, papers: Sequence[str], *, fast: bool) -> None:
    """Run the claims and print the verdicts."""
    from foretrain.claims import run_claims as run

    with voice.hearing(), voice.progress() as progress:
        try:
            found = run(papers, fast=fast, progress=progress)
        except KeyboardInterrupt:
            voice.say("interrupted", "claims are not kept")
            raise typer.Exit(INTERRUPTED) from None
    if voice.as_json:
        voice.json([claim.to_json() for claim in found])
    else:
        voice.show(_tables.claims_table(found), *_tables.claims_lines(found))
