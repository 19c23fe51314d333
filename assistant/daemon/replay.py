"""An answer that is told again from its start after its engine was lost. Pure.

The same request gives the same text, so what was passed on already is left out and the answer goes
on as if nothing had happened. Where the text comes out otherwise (another cache type can turn a
near tie) the answer cannot go on.
"""

from __future__ import annotations

from msgspec.structs import replace

from assistant.engine.types import Delta


class DivergedError(Exception):
    """The answer that is told again is another one."""


class Replay:
    """Passes on what is new of an answer, however often it begins anew."""

    def __init__(self) -> None:
        self._passed = ""
        self._told = ""

    def begin(self) -> None:
        """The answer is told from its start."""
        self._told = ""

    def news(self, delta: Delta) -> Delta | None:
        """What of a piece was not passed on before; None for nothing.

        Raises:
            DivergedError: it differs from what was passed on.
        """
        start = len(self._told)
        self._told += delta.text
        known = self._passed[start : start + len(delta.text)]
        if not delta.text.startswith(known):
            raise DivergedError
        if len(known) == len(delta.text):
            return delta if not delta.text else None
        self._passed = self._told
        return replace(delta, text=delta.text[len(known) :]) if known else delta

    def end(self) -> None:
        """The answer is whole.

        Raises:
            DivergedError: it is shorter than what was passed on.
        """
        if self._told != self._passed:
            raise DivergedError
