"""The user's settings: one typed TOML file, checked against the range of every field."""

from assistant.settings.fields import (
    ActionSettings,
    AgentSettings,
    CompletionSettings,
    DaemonSettings,
    EngineSettings,
    ExplainSettings,
    ModelSettings,
    NextEditSettings,
    RemoteSettings,
    Settings,
    StatisticsSettings,
    tables,
)
from assistant.settings.reading import UnreadableSettingsError, load, overlay, override
from assistant.settings.rules import Editor, rule_of

__all__ = [
    "ActionSettings",
    "AgentSettings",
    "CompletionSettings",
    "DaemonSettings",
    "Editor",
    "EngineSettings",
    "ExplainSettings",
    "ModelSettings",
    "NextEditSettings",
    "RemoteSettings",
    "Settings",
    "StatisticsSettings",
    "UnreadableSettingsError",
    "load",
    "overlay",
    "override",
    "rule_of",
    "tables",
]
