"""`underkeel doctor`: what works on this machine, and what to fix."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from assistant.doctor import Finding, Level, examine

_MARK = {
    Level.OK: ("ok  ", "green"),
    Level.WARN: ("warn", "yellow"),
    Level.FAIL: ("FAIL", "red"),
}


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Verify the model's checksum, however large it is.")
    ] = False,
) -> None:
    """Check the installation and say what to fix. Exits with 1 if a check fails."""
    found: list[Finding] = []
    for finding in examine(deep=deep):
        found.append(finding)
        if not as_json:
            show(finding)
    failed = sum(finding.level is Level.FAIL for finding in found)
    warned = sum(finding.level is Level.WARN for finding in found)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        typer.echo(f"\n{len(found)} checks: {failed} failed, {warned} with warnings.")
    raise typer.Exit(1 if failed else 0)


def show(finding: Finding) -> None:
    """One finding, and below it what to do."""
    mark, colour = _MARK[finding.level]
    typer.echo(f"{typer.style(mark, fg=colour)}  {finding.check:10} {finding.message}")
    if finding.advice:
        typer.echo(f"{'':17}{finding.advice}")
