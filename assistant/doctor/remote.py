"""Check of the remote server, where the settings name one."""

from __future__ import annotations

import asyncio

from assistant.doctor.findings import Finding, fail, ok
from assistant.engine.remote import RemoteEngine
from assistant.engine.types import Counting, LoadSpec, ModelInfo
from assistant.errors import UnderkeelError
from assistant.settings import RemoteSettings

_ANSWER_S = 15.0


def local_answers(chosen: RemoteSettings) -> bool:
    """Whether a local model is used, always or as the fallback."""
    return not chosen.url or chosen.fallback


def server(chosen: RemoteSettings) -> list[Finding]:
    """Query the server with the key and certificates of the settings; nothing is generated."""
    if not chosen.url:
        return []
    try:
        info = asyncio.run(_ask(chosen))
    except TimeoutError:
        return [
            fail(
                "server",
                f"{chosen.url} did not answer within {_ANSWER_S:.0f} s",
                "Check that the server runs",
            )
        ]
    except UnderkeelError as error:
        subject = f"{error.subject}: " if error.subject else ""
        return [fail("server", f"{subject}{error.message}", error.advice)]
    counts = (
        "exactly"
        if info.counting is Counting.EXACT
        else "as an upper bound (set remote.tokenizer for exact counts)"
    )
    serves = f"{info.server} serves {info.name}, {info.n_ctx} tokens of context"
    return [ok("server", f"{serves}; prompt tokens are counted {counts}")]


async def _ask(chosen: RemoteSettings) -> ModelInfo:
    engine = RemoteEngine(chosen)
    try:
        async with asyncio.timeout(_ANSWER_S):
            return await engine.load(LoadSpec(path=""))
    finally:
        await engine.close()
