"""The command line: parses, calls the API, prints.

Exit status: 0 done, 1 the work failed, 2 the request was wrong, 130 interrupted with the state
saved.
"""

from __future__ import annotations

import sys
from io import TextIOWrapper

import typer

from dpdm import __version__
from dpdm.allocator import keep_freed_memory
from dpdm.cli import data, evaluate, pretrain, privacy, run, sample, sweep
from dpdm.errors import DpdmError

app = typer.Typer(
    name="dpdm",
    help="Turn a private image collection into a synthetic one that is safe to share.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


_INTERRUPTED = 130

# typer carries click under a name of its own in some versions: take the class it uses.
_UsageError: type[Exception] = next(
    base
    for base in typer.BadParameter.__mro__
    if issubclass(base, Exception) and base.__name__ == "ClickException"
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"dpdm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


for module in (run, sample, evaluate, sweep, pretrain):
    module.register(app)
app.add_typer(privacy.app, name="privacy")
app.add_typer(data.app, name="data")


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits with its status; users' mistakes never show a traceback."""
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # names of files may hold what no encoding has
            stream.reconfigure(errors="backslashreplace")
    try:
        given = sys.argv[1:] if arguments is None else arguments
        status = app(args=_one_setting_each(given), standalone_mode=False)
        if status == _INTERRUPTED:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted", _INTERRUPTED)
    except _UsageError as error:
        message = getattr(error, "format_message", error.__str__)()
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(message)
            sys.exit(2)
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "dpdm"
        _fail(f"{message} See `{command} --help`.", 2)
    except DpdmError as error:
        _fail(str(error), error.exit_status)
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # of which typer makes 1
            sys.exit(0)  # the reader of a pipe has what it wanted
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", 1)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        _fail("out of memory; use smaller batches: training.microbatch, sampling.batch_size", 1)
    sys.exit(status if isinstance(status, int) else 0)


def _out_of_memory(error: BaseException) -> bool:
    """Python's, a card's, or torch's on the CPU, which is a RuntimeError known by its words."""
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or "can't allocate memory" in str(error)


def _one_setting_each(arguments: list[str]) -> list[str]:
    """``--set a=1 b=2`` as ``--set a=1 --set b=2``, which is what typer reads."""
    result: list[str] = []
    in_settings = False
    for argument in arguments:
        more = in_settings and "=" in argument and not argument.startswith("-")
        if more and result[-1] != "--set":
            result.append("--set")
        in_settings = more or argument == "--set"
        result.append(argument)
    return result


def _fail(message: str, status: int) -> None:
    line = " ".join(message.split())
    print(f"error: {line}", file=sys.stderr)
    sys.exit(status)
