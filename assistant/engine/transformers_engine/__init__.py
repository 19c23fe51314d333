"""Runs a safetensors checkpoint through Transformers, before there is a GGUF of it.

An extra: `pip install underkeel[transformers]`. For trying a model, not for working with it: one
token at a time, none of llama.cpp's care for the cache.
"""

from __future__ import annotations

from assistant.engine.transformers_engine.engine import TransformersEngine

__all__ = ["TransformersEngine"]
