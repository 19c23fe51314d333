"""How the tokens of a remote model are counted on this machine.

In order: the vocabulary that the settings name; a file that a server of this machine says it was
loaded from; the vocabulary that the server itself tells. Each is held against the server's own
tokens of a probe wherever the server can be asked. Where none is the model's own, tokens are
estimated.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

from assistant.engine.remote.dialect import Dialect
from assistant.engine.remote.transport import Transport
from assistant.engine.types import ModelInfo
from assistant.errors import EngineError, ModelError, SettingsError
from assistant.models import catalogue, vocabulary, vocabulary_import
from assistant.settings import RemoteSettings

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
    if path.suffix == ".gguf" and path.is_file():
        yield path
    elif (path / "tokenizer.json").is_file():
        yield path / "tokenizer.json"


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
