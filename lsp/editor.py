"""What the session sends to the editor, and what the editor can do."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Protocol

from assistant.errors import UnderkeelError

NAME = "underkeel"


class Severity(StrEnum):
    """How much a message matters."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Editor(Protocol):
    """The editor at the other end. Nothing here waits for it."""

    def message(self, severity: Severity, text: str) -> None:
        """Show a person one message."""
        ...

    def loading(self, stage: str, share: float) -> None:
        """A model loads: what is going on, and the share that is done, 0 to 1."""
        ...

    def loaded(self) -> None:
        """The load has ended, well or not."""
        ...

    def serving(self, *, busy: bool, **facts: Any) -> None:
        """The model is there, and answering right now or not.

        `facts` are fields of the protocol's `Status`: what is known about it.
        """
        ...


def text_of(error: UnderkeelError) -> str:
    """An error as one message."""
    return f"Underkeel: {error}"


def offers_ours(experimental: Any, part: str) -> bool:
    """Whether the client's experimental capabilities name a part of our protocol."""
    ours = experimental.get(NAME) if isinstance(experimental, dict) else None
    return isinstance(ours, dict) and bool(ours.get(part))
