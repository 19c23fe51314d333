"""Which kind of server it is, asked of the server itself."""

from __future__ import annotations

import msgspec

from assistant.engine.remote.dialect import Dialect, decode
from assistant.engine.remote.llama_server import LlamaServer
from assistant.engine.remote.openai import VLLM, OpenAI
from assistant.engine.remote.transport import Transport
from assistant.settings import RemoteSettings

_BY_OWNER = {"llamacpp": "llama-server", "underkeel": "llama-server", "vllm": "vllm"}


class _Entry(msgspec.Struct):
    owned_by: str = ""


class _Models(msgspec.Struct):
    data: list[_Entry] = []


async def dialect_for(remote: RemoteSettings, http: Transport) -> Dialect:
    """The dialect that the settings name, or that the server's list of models shows.

    Raises:
        RemoteError: the server cannot be reached, or answers with something else.
    """
    kind = remote.kind
    if kind == "auto":
        listed = decode(await http.get("/v1/models"), _Models, http.server).data
        kind = _BY_OWNER.get(listed[0].owned_by if listed else "", "openai")  # type: ignore[assignment]
    if kind == "llama-server":
        return LlamaServer(remote.model)
    if kind == "vllm":
        return VLLM(remote.model, remote.n_ctx)
    return OpenAI(remote.model, remote.n_ctx)
