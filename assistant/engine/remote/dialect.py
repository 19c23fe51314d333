"""What the engine needs of a server of any kind: a description of its model, the cost of its
answers, counts of its tokens.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from assistant.engine.remote.failures import UnreadableError
from assistant.engine.remote.transport import Transport
from assistant.engine.types import (
    Delta,
    Done,
    GenerateRequest,
    ModelInfo,
    StopReason,
    Timings,
)
from assistant.errors import EngineError, ModelError, RequestError, SettingsError
from assistant.models import catalogue, vocabulary, vocabulary_import
from assistant.models.vocabulary import Vocabulary
from assistant.models.vocabulary_import import Words
from assistant.settings import RemoteSettings

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


def unsupported(kind: str, names: str) -> RequestError:
    """The error for fields of a request that a server of this kind does not apply."""
    return RequestError(
        f"not supported by a remote server of kind {kind}: {names}",
        advice="Leave these fields out of the request, or serve the model on this machine",
    )


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
    most_stops: int
    """How many stop texts a request may name; the answer is searched here for those of more."""

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
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableError(
            f"the server's answer cannot be read ({error})",
            subject=server,
            advice="Check url and kind under [remote]",
        ) from error


def decode_object(data: bytes, server: str = "") -> dict[str, Any]:
    """A JSON object, its fields not yet checked. Raises RemoteError where it is something else.

    What some servers write beside JSON is accepted: NaN and infinity, half a surrogate pair, and
    bytes that are not UTF-8.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return decode(data, dict[str, Any], server)
    except UnreadableError:
        try:
            found = json.loads(data.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise
        return found


def objects(value: object) -> list[dict[str, Any]]:
    """The objects of a list, whatever else it holds; none where it is no list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def fields(value: object) -> dict[str, Any]:
    """An object's fields; none where it is no object."""
    return value if isinstance(value, dict) else {}


def text_of(value: object) -> str:
    """A text, or the texts of a part or of a list of parts; empty where it is something else.
    Half a surrogate pair becomes U+FFFD."""
    parts = value if isinstance(value, list) else [value]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    text = "".join(one for one in texts if isinstance(one, str))
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def ids_of(value: object) -> list[int]:
    """Token ids, integral floats too; none where it is something else.

    Ids are those of llama.cpp and vLLM: from 0, of 32 bits with a sign.
    """
    if not isinstance(value, list):
        return []
    return [
        int(one)
        for one in value
        if isinstance(one, int | float) and not isinstance(one, bool) and 0 <= one < 1 << 31
    ]


def count_of(value: object) -> int:
    """A number of things, also as an integral float or digits; 0 where it is something else."""
    if isinstance(value, str) and len(value) < 20 and value.isdecimal():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return 0
    return max(int(value), 0)


class Answered:
    """One answer as it comes."""

    def __init__(
        self, request: GenerateRequest, clock: Callable[[], float], started_s: float
    ) -> None:
        self._request = request
        self._clock = clock
        self._started_s = started_s
        self._first_s = 0.0
        self._tokens = 0
        self._timings: Timings | None = None
        self._reason: StopReason | None = None
        self._stop_text = ""

    @property
    def complete(self) -> bool:
        """Whether reason and figures are there: nothing more is worth waiting for."""
        return self._reason is not None and self._timings is not None

    def take(self, piece: Piece) -> StopReason | None:
        """Note a piece; returns the reason if it tells one, or told one before."""
        if not self._first_s and (piece.text or piece.tokens):
            self._first_s = self._clock()
        self._tokens += len(piece.tokens) or bool(piece.text)
        self._timings = piece.timings or self._timings
        self._reason = piece.reason or self._reason
        self._stop_text = piece.stop_text or self._stop_text
        return self._reason

    def said(self, piece: Piece) -> Delta:
        return Delta(id=self._request.id, text=piece.text, tokens=piece.tokens)

    def done(self, reason: StopReason) -> Done:
        """Its end, with what it cost."""
        told, now = self._timings, self._clock()
        if told and not self._request.max_tokens:
            told = replace(told, generated_tokens=0, decode_ms=0.0)
        first = self._first_s or now
        timings = told or Timings(
            prompt_tokens=len(self._request.prompt),
            evaluated_tokens=len(self._request.prompt),
            generated_tokens=self._tokens,
        )
        if not timings.prefill_ms and not timings.decode_ms:
            timings = replace(
                timings,
                prefill_ms=(first - self._started_s) * 1000,
                decode_ms=(now - first) * 1000,
            )
        return Done(
            id=self._request.id,
            reason=reason,
            timings=timings,
            stop_text=self._stop_text if reason is StopReason.STOP_TEXT else "",
        )


log = logging.getLogger(__name__)


async def find_vocabulary(
    remote: RemoteSettings, dialect: Dialect, http: Transport, info: ModelInfo
) -> Path | None:
    """A GGUF on this machine with the model's own vocabulary; None where there is none.

    Raises:
        SettingsError: the settings name one that is not the server's.
    """
    try:
        wanted = await dialect.tokenise(http, vocabulary_import.PROBE, special=False)
    except EngineError as error:
        log.warning("the server cannot be asked for tokens: %s", error)
        wanted = None
    if remote.tokenizer:
        try:
            return await asyncio.to_thread(_from_file, Path(remote.tokenizer), info.name, wanted)
        except ModelError as error:
            raise SettingsError(
                f"the tokenizer named for the server cannot be used: {error.message}",
                subject=remote.tokenizer,
                advice="Name the served model's own: tokenizer = ... under [remote]",
            ) from error
    for path in _beside(info) if http.loopback else ():
        try:
            return await asyncio.to_thread(_from_file, path, info.name, wanted)
        except ModelError as error:
            log.info("the server's own file is not used for counting: %s", error)
    if wanted is None:
        return None
    try:
        told = await dialect.words(http, info)
        known = wanted
        return (
            await asyncio.to_thread(vocabulary_import.adopt, told, lambda _: known)
            if told
            else None
        )
    except (ModelError, EngineError) as error:
        log.warning("tokens are estimated: %s", error)
        return None


def _beside(info: ModelInfo) -> Iterator[Path]:
    """Files that a server says it was loaded from, if they are here."""
    if not info.path:
        return
    path = Path(info.path)
    found = path if path.suffix == ".gguf" else path / "tokenizer.json"
    try:
        exists = found.is_file()
    except (OSError, ValueError):  # a name that is too long, or has a NUL
        return
    if exists:
        yield found


def _from_file(path: Path, name: str, wanted: list[int] | None) -> Path:
    """The file as a GGUF. Raises ModelError where it is not the server's vocabulary."""
    if path.suffix == ".json" or (path.is_dir() and (path / "tokenizer.json").is_file()):
        file = path / "tokenizer.json" if path.is_dir() else path
        read = vocabulary_import.read_tokenizer(file.expanduser(), name)
        if wanted is None:
            return vocabulary_import.adopt(read, None)
        known = wanted
        return vocabulary_import.adopt(read, lambda _: known)
    found = catalogue.resolve(path)
    if wanted is not None and not vocabulary_import.proved(
        vocabulary.load(found), lambda _: wanted
    ):
        raise ModelError("the server makes other tokens of the same text", subject=str(found))
    return found
