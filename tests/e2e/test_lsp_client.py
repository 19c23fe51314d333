"""The whole chain under pytest-lsp's client: language server, daemon, worker, real model."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_lsp
from lsprotocol import types
from pytest_lsp import ClientServerConfig, LanguageClient, client_capabilities
from real_daemon import configure, ended_afterwards

TEXT = "def add(a, b):\n    return\n\n\nprint(add(1, 2))\n"


@pytest_lsp.fixture(  # type: ignore[untyped-decorator]
    config=ClientServerConfig(server_command=[sys.executable, "-m", "lsp"])
)
async def client(lsp_client: LanguageClient) -> AsyncIterator[None]:
    capabilities = client_capabilities("visual-studio-code")
    # What the recorded client did not know yet.
    assert capabilities.text_document is not None
    capabilities.text_document.inline_completion = types.InlineCompletionClientCapabilities()
    answer = await lsp_client.initialize_session(types.InitializeParams(capabilities=capabilities))
    assert answer.capabilities.inline_completion_provider
    yield
    await lsp_client.shutdown_session()


@pytest.fixture(autouse=True)
def served(home: Path, moe_model: Path) -> Iterator[None]:
    """Before the server starts: it is given this home, and no daemon runs yet."""
    configure(home, model={"name": moe_model, "n_ctx": 2048}, completion={"time_limit_ms": 60_000})
    with ended_afterwards():
        yield


@pytest.mark.model
@pytest.mark.asyncio
async def test_ghost_text(served: None, client: LanguageClient) -> None:
    document = types.TextDocumentItem("file:///add.py", "python", 1, TEXT)
    client.text_document_did_open(types.DidOpenTextDocumentParams(document))
    asked = types.InlineCompletionParams(
        context=types.InlineCompletionContext(types.InlineCompletionTriggerKind.Invoked),
        text_document=types.TextDocumentIdentifier("file:///add.py"),
        position=types.Position(1, 10),
    )
    found = await client.text_document_inline_completion_async(asked)
    items = found.items if isinstance(found, types.InlineCompletionList) else found or []
    assert "a + b" in {str(item.insert_text).strip() for item in items}
    assert all(item.range and item.range.start.line == 1 for item in items)
    assert not client.messages
