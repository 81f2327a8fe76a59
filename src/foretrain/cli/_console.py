"""What the command line says and where: results to standard output, everything else to standard error."""

import contextlib
import importlib.util
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from foretrain.errors import ForetrainError, ForetrainWarning, InvalidInput, MissingExtra

_LONGEST_LINE = 2000
_PICTURES = (".png", ".svg", ".pdf")
_PLAIN_WIDTH = 400  # of what goes to a file or a pipe; tables take what they need
BROKEN_PIPE = 141  # as the shell says it: 128 + SIGPIPE


def one_line(message: object) -> str:
    """The message on one line of printable characters, whatever a user's keys and values hold."""
    text = " ".join(str(message).split())
    text = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
    return text if len(text) <= _LONGEST_LINE else text[: _LONGEST_LINE - 3] + "..."


class Told(ForetrainError):
    """An error that already names the file that it is about."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class _Console(Console):
    """Leaves a broken pipe to `_pipe`, where rich would end the program by itself."""

    def on_broken_pipe(self) -> None:
        raise


class Voice:
    """Standard output for results, standard error for the rest; every warning once.

    Args:
        quiet: Leave progress out.
        as_json: Standard output is strict JSON.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False):
        self.quiet, self.as_json = quiet, as_json
        self.err = Console(file=sys.stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)
        out = sys.stdout
        width = None if out.isatty() else _PLAIN_WIDTH
        self.out = _Console(file=out, markup=False, highlight=False, emoji=False, width=width)
        self._said: set[str] = set()

    def say(self, kind: str, message: object) -> None:
        """One line on standard error, such as `warning: ...`."""
        line = f"{kind}: {one_line(message)}"
        if line not in self._said:
            self._said.add(line)
            self.err.print(line)

    def note(self, message: str) -> None:
        """A line for people: standard output, or standard error when that carries JSON."""
        if not self.as_json:
            self.show(message)
        elif not self.quiet:
            self.err.print(one_line(message))

    def show(self, *renderables: Any) -> None:
        """Lines and tables on standard output."""
        with _pipe():
            for renderable in renderables:
                self.out.print(renderable, soft_wrap=isinstance(renderable, str))

    def json(self, value: Any) -> None:
        """Strict JSON on standard output."""
        with _pipe():
            json.dump(value, sys.stdout, allow_nan=False, ensure_ascii=False)
            sys.stdout.write("\n")

    @contextlib.contextmanager
    def progress(self) -> Iterator[Callable[[int, int, str], None] | None]:
        """A function that shows how far long work is; nothing where nobody watches."""
        if self.quiet or not self.err.is_terminal:
            yield None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.err, transient=True) as bar:
            task = bar.add_task("", total=None)

            def advance(done: int, total: int, label: str) -> None:
                bar.update(task, completed=done, total=total, description=one_line(label))

            yield advance

    @contextlib.contextmanager
    def hearing(self) -> Iterator[None]:
        """Warnings of this library become `warning: ...` lines; those of others are for `FORETRAIN_DEBUG`."""
        with warnings.catch_warnings():
            warnings.simplefilter("default" if os.environ.get("FORETRAIN_DEBUG") else "ignore")
            warnings.simplefilter("always", ForetrainWarning)
            warnings.showwarning = lambda message, *_args, **_kwargs: self.say("warning", message)
            yield


@contextlib.contextmanager
def _pipe() -> Iterator[None]:
    """A reader that has gone away, such as `| head`, ends the program quietly."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        devnull = os.open(os.devnull, os.O_WRONLY)
        with contextlib.suppress(OSError, ValueError):
            os.dup2(devnull, sys.stdout.fileno())
        raise typer.Exit(BROKEN_PIPE) from None


def check_writable(option: str, path: Path | None) -> None:
    """Refuse a file that cannot be written, before anything is computed for it.

    Raises:
        InvalidInput: No folder, no permission, or a folder of that name.
    """
    if path is None:
        return
    folder = path.parent
    try:
        if path.is_dir():
            raise InvalidInput(f"{option}: expected a file name, got the folder {path}.")
        if not folder.is_dir():
            raise InvalidInput(f"{option}: no folder {folder}; create it first.")
        if path.exists() and not path.is_file():
            raise InvalidInput(f"{option}: expected a regular file, got {path}.")
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{path.name[:100]}."):
            pass
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidInput(f"{option}: cannot write {path}: {reason}.") from None


def check_files(output: Path | None, plot: Path | None, report: Path | None) -> None:
    """Refuse files that cannot be written, or that lack an optional package, before anything is computed for them.

    Raises:
        InvalidInput: A file that cannot be written, or a picture of an unknown kind.
        MissingExtra: A package that draws or renders is not installed.
    """
    check_writable("--output", output)
    check_writable("--plot", plot)
    check_writable("--report", report)
    if plot is not None:
        if plot.suffix.lower() not in _PICTURES:
            raise InvalidInput(f"--plot: expected a name that ends in {', '.join(_PICTURES)}, got {plot}")
        _require("matplotlib", "--plot", "plot")
    if report is not None:
        for package in ("matplotlib", "jinja2"):
            _require(package, "--report", "report")


def _require(package: str, option: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise MissingExtra(f"{option}: needs {package}; install it with: pip install 'foretrain[{extra}]'")
