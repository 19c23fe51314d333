"""Commands: prints and draws, decides nothing.

Each module has a `register(app)`. Only the module of the command that is called is imported, so a
quick command stays quick.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from assistant import __version__, paths
from assistant.errors import UnderkeelError

# The commands in the order of the help text, each with the module that registers it.
COMMANDS: dict[str, str] = {
    "serve": "assistant.cli.daemon",
    "stop": "assistant.cli.daemon",
    "restart": "assistant.cli.daemon",
    "reload": "assistant.cli.daemon",
    "status": "assistant.cli.status",
    "top": "assistant.cli.status",
    "service": "assistant.cli.daemon",
    "stats": "assistant.cli.stats",
    "complete": "assistant.cli.complete",
    "context": "assistant.cli.context",
    "next": "assistant.cli.complete",
    "agent": "assistant.cli.agent",
    "acp": "assistant.cli.agent",
    "plan": "assistant.cli.recommend",
    "recommend": "assistant.cli.recommend",
    "pull": "assistant.cli.models",
    "models": "assistant.cli.models",
    "doctor": "assistant.cli.setup",
    "setup": "assistant.cli.setup",
    "uninstall": "assistant.cli.setup",
    "logs": "assistant.cli.setup",
    "bundle": "assistant.cli.setup",
    "demo": "assistant.cli.demo",
    "help": "assistant.cli.help",
}

_INTERRUPTED = 130


class _InOrder(TyperGroup):
    """Lists commands and groups of commands in the order of `COMMANDS`."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=list(COMMANDS).index)


def build_app(name: str | None = None) -> typer.Typer:
    """The Typer app with the command `name`, or with all commands if it is none of them."""
    app = typer.Typer(
        name="underkeel",
        cls=_InOrder,
        help="A local coding assistant that knows how much memory it has under its keel. "
        "The documentation: underkeel help",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    app.callback()(_main)
    wanted = [COMMANDS[name]] if name in COMMANDS else COMMANDS.values()
    for module in dict.fromkeys(wanted):
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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may know few characters
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
            "set UNDERKEEL_DEBUG=1 to see the traceback"
        )
    sys.exit(0)


def _fail(text: str) -> NoReturn:
    from assistant.cli.terminal import say  # not for `--version`

    say(text, err=True)
    sys.exit(1)
