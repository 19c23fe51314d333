"""The server that the settings name, where they name one."""

from __future__ import annotations

import asyncio

from assistant.doctor.findings import Finding, well, wrong
from assistant.engine.remote import RemoteEngine
from assistant.engine.types import Counting, LoadSpec, ModelInfo
from assistant.errors import UnderkeelError
from assistant.settings import RemoteSettings

_ANSWER_S = 15.0


def local_answers(chosen: RemoteSettings) -> bool:
    """Whether a model of this machine answers, always or while the server is gone."""
    return not chosen.url or chosen.fallback


def server(chosen: RemoteSettings) -> list[Finding]:
    """Ask it who it is, with the key and certificates of the settings; nothing is generated."""
    if not chosen.url:
        return []
    try:
        info = asyncio.run(_ask(chosen))
    except TimeoutError:
        return [wrong("server", f"{chosen.url} said nothing in {_ANSWER_S:.0f} s", "Look there")]
    except UnderkeelError as error:
        subject = f"{error.subject}: " if error.subject else ""
        return [wrong("server", f"{subject}{error.message}", error.advice)]
    counts = "exactly" if info.counting is Counting.EXACT else "from above (name its tokenizer)"
    said = f"{info.server} serves {info.name}, {info.n_ctx} tokens of context; counted {counts}"
    return [well("server", said)]


async def _ask(chosen: RemoteSettings) -> ModelInfo:
    engine = RemoteEngine(chosen)
    try:
        async with asyncio.timeout(_ANSWER_S):
            return await engine.load(LoadSpec(path=""))
    finally:
        await engine.close()
