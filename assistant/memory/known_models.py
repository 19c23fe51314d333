"""Models known by their shape, so that they can be planned for before anything is fetched."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType

import msgspec

from assistant.memory.gguf import Header
from assistant.memory.shape import Shape
from assistant.memory.shapes import header_of


class KnownModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model of `known_models.toml`.

    Attributes:
        repository: a Hugging Face repository of GGUF files.
        parameters: billions, by its makers.
        quantisation: the recipe that is planned for unless another is asked for.
        quality: orders the models for coding; 0 where it is no coding model.
    """

    title: str
    repository: str
    parameters: float
    quantisation: str
    shape: Shape
    coding: bool = False
    quality: int = 0


@functools.cache
def known_models() -> Mapping[str, KnownModel]:
    """All of them by name, in the order of the file."""
    text = resources.files("assistant.memory").joinpath("known_models.toml").read_text("utf-8")
    return MappingProxyType(msgspec.convert(tomllib.loads(text), dict[str, KnownModel]))


@functools.lru_cache(maxsize=64)
def known_header(name: str, quantisation: str = "") -> Header:
    """The header of a known model in its own or another quantisation.

    Raises:
        KeyError: no such name.
        ModelError: no such quantisation.
    """
    model = known_models()[name]
    return header_of(model.shape, quantisation or model.quantisation, name)
