"""`underkeel serve`: be the daemon."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated

import typer
from msgspec.structs import replace

from assistant import paths, settings
from assistant.errors import AlreadyRunningError, SettingsError

_LEVELS = ("debug", "info", "warning", "error")


def register(app: typer.Typer) -> None:
    app.command()(serve)


def serve(  # noqa: PLR0917 - one parameter an option
    model: Annotated[
        str | None, typer.Option(help="Catalogue name or path of a GGUF.", show_default=False)
    ] = None,
    ctx: Annotated[
        int | None, typer.Option(min=256, help="Cells of the KV cache.", show_default=False)
    ] = None,
    slots: Annotated[
        int | None, typer.Option(min=1, help="Sequences kept in the cache.", show_default=False)
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads.", show_default=False)
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(help="debug, info, warning or error.", show_default=False)
    ] = None,
    take_over: Annotated[
        bool,
        typer.Option("--take-over", help="Take the place of a running daemon; nothing is lost."),
    ] = False,
    detached: Annotated[
        bool,
        typer.Option("--detached", hidden=True, help="No terminal; end quietly if one is running."),
    ] = False,
) -> None:
    """Load the model and serve it to editors until stopped."""
    # Here, not above: `--help` and other commands need no web server.
    from assistant.daemon.models.engines import engine_for
    from assistant.daemon.process import logs, server

    def read() -> tuple[settings.Settings, list[SettingsError]]:
        """The file, and over it what the command line gave; again whenever the file changes."""
        found, problems = settings.load()
        served = {"name": model, "n_ctx": ctx, "n_seq_max": slots, "n_threads": threads}
        return _override(found, served, {"log_level": _level(log_level)}), problems

    chosen, problems = read()
    logs.configure(
        paths.log_file(),
        level=chosen.daemon.log_level,
        terminal=not detached,
        structured=chosen.daemon.log_format == "json",
        journal="JOURNAL_STREAM" in os.environ,
    )
    try:
        server.run(chosen, problems, engine_for(chosen), read=read, take_over=take_over)
    except AlreadyRunningError:
        # Several clients started one at once; the one that got the lock serves them all.
        if not detached:
            raise


def _override(
    chosen: settings.Settings, model: Mapping[str, object], daemon: Mapping[str, object]
) -> settings.Settings:
    """`chosen` with what the command line gave; None stands for an option left out."""

    def given(options: Mapping[str, object]) -> dict[str, object]:
        return {name: value for name, value in options.items() if value is not None}

    return replace(
        chosen,
        model=replace(chosen.model, **given(model)),
        daemon=replace(chosen.daemon, **given(daemon)),
    )


def _level(name: str | None) -> str | None:
    if name is not None and name.lower() not in _LEVELS:
        raise SettingsError(
            f"there is no log level {name!r}",
            subject="--log-level",
            advice=f"Use {', '.join(_LEVELS)}",
        )
    return name and name.lower()
