"""`underkeel doctor`: what is well on this machine, and what to mend."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from assistant.doctor import Finding, Level, examine

_MARK = {
    Level.WELL: ("well ", "green"),
    Level.NOTE: ("note ", "yellow"),
    Level.WRONG: ("WRONG", "red"),
}


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Compare the model's bytes, however many.")
    ] = False,
) -> None:
    """Look the machine over and say what to mend. Exits with 1 where something is wrong."""
    found: list[Finding] = []
    for finding in examine(deep=deep):
        found.append(finding)
        if not as_json:
            show(finding)
    wrongs = sum(finding.level is Level.WRONG for finding in found)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    elif wrongs:
        typer.echo(f"\n{wrongs} of {len(found)} things want mending.")
    else:
        typer.echo("\nAll is well.")
    raise typer.Exit(1 if wrongs else 0)


def show(finding: Finding) -> None:
    """One finding, and under it what to do."""
    mark, colour = _MARK[finding.level]
    typer.echo(f"{typer.style(mark, fg=colour)}  {finding.about:10} {finding.says}")
    if finding.mend:
        typer.echo(f"{'':19}{finding.mend}")
