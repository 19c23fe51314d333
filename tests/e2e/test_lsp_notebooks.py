"""C8: notebooks over the protocol, from pygls's own client, with a played engine."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from daemons import fake_model, serving
from fake_engine import FakeEngine
from lsprotocol import types
from pygls.lsp.client import LanguageClient

from assistant.engine.types import GenerateRequest, Priority
from assistant.models import vocabulary

ROOT = Path(__file__).resolve().parents[2]
BOOK = "file:///x/a.ipynb"


def play(model: Path, test: Callable[[FakeEngine], Awaitable[None]]) -> None:
    """Serve with a played engine that has the model's vocabulary."""

    async def main() -> None:
        engine = FakeEngine(reply=lambda _: "len(x)\n\n\ndef", n_vocab=vocabulary.load(model).size)
        async with serving(engine, planner=lambda: fake_model(str(model))):
            await test(engine)

    asyncio.run(main())


def asked(engine: FakeEngine) -> list[GenerateRequest]:
    interactive = [made for made in engine.requests if made.priority is Priority.INTERACTIVE]
    return [made for made in interactive if made.max_tokens]


def cell_uri(number: int) -> str:
    return f"vscode-notebook-cell:/x/a.ipynb#W{number}sZmlsZQ%3D%3D"


def item(number: int, text: str, language: str = "python") -> types.TextDocumentItem:
    return types.TextDocumentItem(cell_uri(number), language, 1, text)


def kind(number: int, *, code: bool = True) -> types.NotebookCell:
    kinds = types.NotebookCellKind
    return types.NotebookCell(kinds.Code if code else kinds.Markup, cell_uri(number))


def changed(
    *,
    structure: types.NotebookDocumentCellChangeStructure | None = None,
    text: list[types.NotebookDocumentCellContentChanges] | None = None,
) -> types.DidChangeNotebookDocumentParams:
    cells = types.NotebookDocumentCellChanges(structure=structure, text_content=text)
    return types.DidChangeNotebookDocumentParams(
        types.VersionedNotebookDocumentIdentifier(2, BOOK),
        types.NotebookDocumentChangeEvent(cells=cells),
    )


async def started(*, synchronises: bool) -> LanguageClient:
    client = LanguageClient("test", "1")
    await client.start_io(sys.executable, "-m", "lsp", env={**os.environ, "PYTHONPATH": str(ROOT)})
    notebooks = types.NotebookDocumentClientCapabilities(
        types.NotebookDocumentSyncClientCapabilities()
    )
    text = types.TextDocumentClientCapabilities(
        inline_completion=types.InlineCompletionClientCapabilities()
    )
    capabilities = types.ClientCapabilities(
        text_document=text, notebook_document=notebooks if synchronises else None
    )
    options = {"underkeel": {"completion": {"ahead": False, "first_line_ms": 0}}}
    result = await client.initialize_async(
        types.InitializeParams(capabilities, initialization_options=options)
    )
    announced = result.capabilities.notebook_document_sync
    assert (announced is not None) is synchronises
    client.initialized(types.InitializedParams())
    return client


async def prompt(client: LanguageClient, engine: FakeEngine, model: Path, number: int) -> str:
    """The prompt of the request for the end of a cell's first line."""
    count = len(asked(engine))
    params = types.InlineCompletionParams(
        types.InlineCompletionContext(types.InlineCompletionTriggerKind.Invoked),
        types.TextDocumentIdentifier(cell_uri(number)),
        types.Position(0, 99),
    )
    assert await client.text_document_inline_completion_async(params)
    return vocabulary.load(model).decode(asked(engine)[count].prompt)


def in_order(text: str, *parts: str) -> bool:
    places = [text.find(part) for part in parts]
    return -1 not in places and places == sorted(places)


def test_earlier_cells_are_context_as_the_notebook_changes(home: Path, played_model: Path) -> None:
    """C8: didOpen, didChange (text, new, moved and removed cells), didSave and didClose."""

    async def test(engine: FakeEngine) -> None:
        client = await started(synchronises=True)
        texts = [item(0, "harbour = 1\n"), item(1, "# Tides\n\nprose\n", "markdown"),
                 item(2, "depth = \n"), item(3, "later = 3\n")]  # fmt: skip
        cells = [kind(0), kind(1, code=False), kind(2), kind(3)]
        client.notebook_document_did_open(
            types.DidOpenNotebookDocumentParams(
                types.NotebookDocument(BOOK, "jupyter-notebook", 1, cells), texts
            )
        )
        shown = await prompt(client, engine, played_model, 2)
        assert in_order(shown, "harbour = 1", "# Tides", "depth =")
        assert "prose" not in shown and "later" not in shown
        whole = types.TextDocumentContentChangeWholeDocument("quay = 2\n")
        part = types.TextDocumentContentChangePartial(
            types.Range(types.Position(0, 0), types.Position(0, 5)), "level"
        )
        client.notebook_document_did_change(
            changed(
                text=[
                    types.NotebookDocumentCellContentChanges(
                        types.VersionedTextDocumentIdentifier(2, cell_uri(number)), [change]
                    )
                    for number, change in ((0, whole), (2, part))
                ]
            )
        )
        shown = await prompt(client, engine, played_model, 2)
        assert in_order(shown, "quay = 2", "level =") and "harbour" not in shown
        # The first two cells give way to a new one; the last moves before cell 2.
        array = types.NotebookCellArrayChange(0, 4, [kind(4), kind(3), kind(2)])
        client.notebook_document_did_change(
            changed(
                structure=types.NotebookDocumentCellChangeStructure(
                    array,
                    [item(4, "import tides\n")],
                    [types.TextDocumentIdentifier(cell_uri(number)) for number in (0, 1)],
                )
            )
        )
        shown = await prompt(client, engine, played_model, 2)
        assert in_order(shown, "import tides", "later = 3", "level =") and "quay" not in shown
        client.notebook_document_did_save(
            types.DidSaveNotebookDocumentParams(types.NotebookDocumentIdentifier(BOOK))
        )
        client.notebook_document_did_close(
            types.DidCloseNotebookDocumentParams(
                types.NotebookDocumentIdentifier(BOOK),
                [types.TextDocumentIdentifier(cell_uri(number)) for number in (2, 3, 4)],
            )
        )
        params = types.InlineCompletionParams(
            types.InlineCompletionContext(types.InlineCompletionTriggerKind.Invoked),
            types.TextDocumentIdentifier(cell_uri(2)),
            types.Position(0, 0),
        )
        found = await client.text_document_inline_completion_async(params)
        assert isinstance(found, types.InlineCompletionList) and not found.items
        await client.shutdown_async(None)
        client.exit(None)
        await client.stop()  # type: ignore[no-untyped-call]

    play(played_model, test)


def test_cells_of_a_client_that_does_not_synchronise(home: Path, played_model: Path) -> None:
    """C8: the order of opening counts, until one is edited; then a new cell stands alone."""

    async def test(engine: FakeEngine) -> None:
        client = await started(synchronises=False)
        for number, text in ((0, "harbour = 1\n"), (1, "depth = \n")):
            client.text_document_did_open(types.DidOpenTextDocumentParams(item(number, text)))
        assert in_order(await prompt(client, engine, played_model, 1), "harbour = 1", "depth =")
        edit = types.TextDocumentContentChangeWholeDocument("harbour = 2\n")
        client.text_document_did_change(
            types.DidChangeTextDocumentParams(
                types.VersionedTextDocumentIdentifier(2, cell_uri(0)), [edit]
            )
        )
        client.text_document_did_open(types.DidOpenTextDocumentParams(item(2, "quay = \n")))
        assert "harbour" not in await prompt(client, engine, played_model, 2)
        await client.shutdown_async(None)
        client.exit(None)
        await client.stop()  # type: ignore[no-untyped-call]

    play(played_model, test)
