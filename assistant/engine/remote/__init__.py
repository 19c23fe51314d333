"""Engines on other machines, or in other programs: llama-server, vLLM, anything like OpenAI's."""

from __future__ import annotations

from assistant.engine.remote.engine import RemoteEngine
from assistant.engine.remote.fallback import FallbackEngine

__all__ = ["FallbackEngine", "RemoteEngine"]
