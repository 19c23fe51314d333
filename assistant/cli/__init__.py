"""Commands: prints and draws, decides nothing.

Each command lives in its own module with a `register(app)`. Only the module of the command that is
called is imported, so a quick command stays quick.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Annotated, NoReturn

import typer

from assistant import __version__, paths
from assistant.errors import UnderkeelError

# One line a command, in the order of the help text: its name and the module that registers it.
COMMANDS: dict[str, str] = {
    "serve": "assistant.cli.serve",
    "status": "assistant.cli.status",
    "top": "assistant.cli.top",
    "stop": "assistant.cli.stop",
    "restart": "assistant.cli.restart",
    "reload": "assistant.cli.reload",
    "service": "assistant.cli.service",
    "logs": "assistant.cli.logs",
    "stats": "assistant.cli.stats",
    "complete": "assistant.cli.complete",
    "context": "assistant.cli.context",
    "plan": "assistant.cli.plan",
    "recommend": "assistant.cli.recommend",
    "pull": "assistant.cli.models",
    "models": "assistant.cli.models",
    "doctor": "assistant.cli.doctor",
    "bundle": "assistant.cli.bundle",
    "demo": "assistant.cli.demo",
}

_INTERRUPTED = 130


def build_app(name: str | None = None) -> typer.Typer:
    """The Typer app with the command `name`, or with all commands where `name` is none of them."""
    app = typer.Typer(
        name="underkeel",
        help="A local coding assistant that knows how much memory it has under its keel.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    app.callback()(_main)
    wanted = [COMMANDS[name]] if name in COMMANDS else COMMANDS.values()
    for module in dict.fromkeys(wanted):
        if importlib.util.find_spec(module) is not None:
            importlib.import_module(module).register(app)
    return app


def _version(value: bool) -> None:
    if value:
        typer.echo(f"underkeel {__version__}")
        raise typer.Exit


def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def run(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Exit codes: 0 done, 1 an error that was explained on stderr, 2 wrong usage, 130 interrupted.
    `UNDERKEEL_DEBUG=1` lets unexpected exceptions through with their traceback.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        build_app(arguments[0] if arguments else None)(arguments, prog_name="underkeel")
    except UnderkeelError as error:
        _fail(f"underkeel: {error}")
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        # The reader (head, less) has gone; the interpreter must not complain at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get("UNDERKEEL_DEBUG"):
            raise
        what = " ".join(f"{type(error).__name__}: {error}".split())
        _fail(
            f"underkeel: unexpected error, {what}. The daemon's log is {paths.log_file()}; "
            "set UNDERKEEL_DEBUG=1 for the traceback"
        )
    sys.exit(0)


def _fail(text: str) -> NoReturn:
    print(text, file=sys.stderr)
    sys.exit(1)
