"""The way to the daemon: starts it when needed, streams answers, cancels what is closed."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assistant.client.client import DaemonClient
    from assistant.wire import (
        BudgetNow,
        ChatMessage,
        CompletionChunk,
        CompletionRequest,
        DeviceNow,
        Props,
        RungNow,
        ServiceState,
        Status,
    )

__all__ = [
    "BudgetNow",
    "ChatMessage",
    "CompletionChunk",
    "CompletionRequest",
    "DaemonClient",
    "DeviceNow",
    "Props",
    "RungNow",
    "ServiceState",
    "Status",
    "starter",
]


def __getattr__(name: str) -> Any:
    """Import what is used: the starter must not wait for the HTTP client."""
    if name == "starter":
        return importlib.import_module(f"{__name__}.starter")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "assistant.client.client" if name == "DaemonClient" else "assistant.wire"
    return getattr(importlib.import_module(module), name)
