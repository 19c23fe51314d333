"""Runs a safetensors checkpoint through Transformers, before there is a GGUF of it.

An extra: `pip install underkeel[transformers]`. For trying a model, not for working with it: one
token at a time, none of llama.cpp's care for the cache.

The engine whose worker holds a checkpoint instead of a GGUF.
"""

from __future__ import annotations

import importlib.util
from typing import ClassVar

from assistant.engine.local import LlamaEngine
from assistant.engine.types import LoadSpec, ModelInfo, Progress
from assistant.errors import LoadError

_NEEDED = ("torch", "transformers", "accelerate")


class TransformersEngine(LlamaEngine):
    """As `LlamaEngine`: the same frames, another process at their other end."""

    module: ClassVar[str] = "assistant.engine.transformers.runner"

    async def load(self, spec: LoadSpec, progress: Progress | None = None) -> ModelInfo:
        missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise LoadError(
                f"a checkpoint needs {', '.join(missing)}, which is not installed",
                subject=spec.path,
                advice="Run: pip install 'underkeel[transformers]', or serve a GGUF",
            )
        return await super().load(spec, progress)


__all__ = ["TransformersEngine"]
