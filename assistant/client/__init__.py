"""The way to the daemon: starts it when needed, streams answers, cancels what is closed."""

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
