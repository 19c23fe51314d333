"""Reads what servers tell of themselves in Prometheus' text format. Pure.

What the engine needs of a server, whatever it is: described, asked, read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec

from assistant.engine.remote.transport import Transport
from assistant.engine.types import GenerateRequest, ModelInfo, StopReason, Timings
from assistant.errors import RemoteError
from assistant.models.vocabulary import Vocabulary
from assistant.models.vocabulary_import import Words

_SAMPLE = re.compile(
    r"^(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>[^}\n]*)\})?[ \t]+(?P<value>\S+)",
    re.MULTILINE,
)
_MODEL = re.compile(r'model_name="((?:[^"\\]|\\.)*)"')


def read_gauges(text: str, model: str = "") -> dict[str, float]:
    """The sum of each metric's samples by its name, `_total` left off.

    Args:
        model: leave out samples that are labelled with another model's name.
    """
    found: dict[str, float] = {}
    for sample in _SAMPLE.finditer(text):
        labelled = _MODEL.search(sample["labels"] or "")
        if model and labelled and labelled[1] != model:
            continue
        try:
            value = float(sample["value"])
        except ValueError:
            continue
        if math.isfinite(value):
            name = sample["name"].removesuffix("_total")
            found[name] = found.get(name, 0.0) + value
    return found


T = TypeVar("T")


@dataclass(frozen=True)
class Prompt:
    """A prompt as it is sent.

    Attributes:
        ids: the server's own token ids; None where only a text can be sent.
        text: the same as text; empty where ids are sent.
        turns: a conversation that the server writes itself; the rest is empty then.
    """

    ids: Sequence[int] | None = None
    text: str = ""
    turns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Ask:
    """One question: where it goes, and its body."""

    path: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Piece:
    """What one event of an answer says; the last of an answer has a reason or timings.

    Attributes:
        tokens: ids of what was generated, where the server tells.
        timings: as far as the server tells them; zeros elsewhere.
    """

    text: str = ""
    tokens: tuple[int, ...] = ()
    reason: StopReason | None = None
    stop_text: str = ""
    timings: Timings | None = None


@dataclass(frozen=True)
class Gauge:
    """How a server stands: cells of its cache and requests, as far as it tells.

    `free_share` is of its cache, 0 to 1.
    """

    free_share: float = 1.0
    running: int = 0
    waiting: int = 0
    cells_used: int = 0


class Dialect(Protocol):
    """One kind of server. None of these keeps anything but what `describe` found."""

    name: str
    heals: bool
    """Whether an answer can be made to begin with a given text."""
    warms: bool
    """Whether a prompt can be evaluated without an answer, at no cost but time."""

    async def describe(self, http: Transport) -> ModelInfo:
        """What it serves; `server`, `vocabulary` and `counting` are for the engine to fill."""
        ...

    async def words(self, http: Transport, info: ModelInfo) -> Words | None:
        """The model's vocabulary, if the server tells it."""
        ...

    async def tokenise(self, http: Transport, text: str, *, special: bool) -> list[int] | None:
        """None where the server has no way to ask."""
        ...

    async def detokenise(self, http: Transport, tokens: Sequence[int]) -> str | None: ...

    def ask(self, request: GenerateRequest, prompt: Prompt, words: Vocabulary | None) -> Ask: ...

    def read(self, data: bytes) -> Piece:
        """One event. Raises the error that it carries."""
        ...

    async def gauge(self, http: Transport) -> Gauge: ...


def decode(data: bytes, kind: type[T], server: str = "") -> T:
    """JSON into `kind`. Raises RemoteError where it is something else."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RemoteError(
            f"the server's answer cannot be read ({error})",
            subject=server,
            advice="Check url and kind under [remote]",
        ) from error
