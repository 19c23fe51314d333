"""The settings that hold: the user's file, and over it what the editor says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from assistant.errors import SettingsError, UnderkeelError

if TYPE_CHECKING:
    from assistant.settings import Settings

_SECTION = "underkeel"


class Configuration:
    """Reads the file once, when it is first needed."""

    def __init__(self) -> None:
        self._file: tuple[Any, list[SettingsError]] | None = None

    def read(self, raw: object) -> tuple[Settings, list[UnderkeelError]]:
        """The settings under what the editor has sent.

        Args:
            raw: `initializationOptions`, or the `settings` of a configuration change.

        Returns:
            The settings, and what is wrong with them; the file's mistakes only the first time.
        """
        from assistant import settings

        problems: list[UnderkeelError] = []
        if self._file is None:
            self._file = settings.load()
            problems += self._file[1]
        said = raw.get(_SECTION) if isinstance(raw, Mapping) else raw
        merged, wrong = settings.overlay(self._file[0], said, "the editor's settings")
        return merged, [*problems, *wrong]
