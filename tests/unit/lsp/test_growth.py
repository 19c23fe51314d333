"""Blocks: the first line is shown at once, and the suggestion grows until the block is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from editing import URI, Editing, PlayedClient

from assistant.errors import DaemonError
from assistant.settings import CompletionSettings
from lsp.completion import suggestion
from lsp.completion.session import Edit
from lsp.completion.suggestion import Selected, Update

TEXT = "def absolute(n):\n    \u2038\n\n\ndef other():\n    pass\n"
BLOCK = "if n < 0:\n        return -n\n    return n"
ANSWER = f"{BLOCK}\n\n\ndef other"


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggestion, "_EVERY_S", 0.001)


def play(
    model: Path,
    test: Callable[[Editing, list[Update]], Awaitable[None]],
    text: str = TEXT,
    *,
    answer: str = ANSWER,
    updates: bool = True,
) -> None:
    """Run a test on a document whose answer pauses after each line; no task may be left behind."""

    async def main() -> None:
        client = PlayedClient(model, reply=lambda _: answer, pauses_after="\n")
        editing = Editing(client, text)
        received: list[Update] = []
        editing.session.settings = CompletionSettings(debounce_ms=0, first_line_ms=0, ahead=False)
        editing.session.on_update = received.append if updates else None
        await test(editing, received)
        await editing.session.aclose()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def test_the_first_line_is_shown_at_once_and_grows_until_the_block_is_closed(
    dense_model: Path,
) -> None:
    async def test(editing: Editing, updates: list[Update]) -> None:
        (item,) = await editing.ask()
        assert item.text == "if n < 0:"
        assert updates == []
        editing.client.gate.set()
        await until(lambda: len(updates) == 1)
        assert not updates[0].complete
        editing.client.pauses_after = ""
        editing.client.gate.set()
        await until(lambda: updates[-1].complete)
        texts = dict.fromkeys(one.item.text for one in updates)
        assert list(texts) == ["if n < 0:\n        return -n", BLOCK]
        for one in updates:
            assert (one.uri, one.version, one.position) == (URI, 1, (1, 4))
            assert (one.item.id, one.item.start, one.item.end) == (item.id, (1, 4), (1, 4))
        assert len(editing.client.requests) == editing.client.closed == 1

    play(dense_model, test)


def test_another_client_gets_the_longer_suggestion_with_its_next_request(dense_model: Path) -> None:
    async def test(editing: Editing, _updates: list[Update]) -> None:
        assert await editing.texts() == ["if n < 0:"]
        editing.client.pauses_after = ""
        editing.client.gate.set()
        await until(lambda: editing.client.closed == 1)
        await asyncio.sleep(0.005)
        assert await editing.texts() == [BLOCK]
        assert len(editing.client.requests) == 1

    play(dense_model, test, updates=False)


def test_typing_along_does_not_stop_it(dense_model: Path) -> None:
    async def test(editing: Editing, updates: list[Update]) -> None:
        (item,) = await editing.ask()
        editing.type("if n")
        assert await editing.texts() == [" < 0:"]
        editing.type(" <")
        editing.client.pauses_after = ""
        editing.client.gate.set()
        await until(lambda: bool(updates) and updates[-1].complete)
        # An update is about the last request: the text after it is still the suggestion's.
        last = updates[-1]
        assert (last.version, last.position, last.item.id) == (2, (1, 8), item.id)
        assert last.item.text == BLOCK.removeprefix("if n")
        assert await editing.texts() == [BLOCK.removeprefix("if n <")]
        assert len(editing.client.requests) == 1

    play(dense_model, test)


def test_accepting_the_first_line_goes_on_with_the_block(dense_model: Path) -> None:
    """The request after an accepted line waits for what is being decoded, and sends no other."""

    async def test(editing: Editing, _updates: list[Update]) -> None:
        (item,) = await editing.ask()
        editing.type(item.text)
        asked = asyncio.create_task(editing.texts())
        await asyncio.sleep(0.005)
        assert not asked.done()
        editing.client.gate.set()
        assert await asked == ["\n        return -n"]
        assert len(editing.client.requests) == 1

    play(dense_model, test)


def test_a_line_break_after_the_first_line_goes_on_with_the_block(dense_model: Path) -> None:
    async def test(editing: Editing, _updates: list[Update]) -> None:
        (item,) = await editing.ask()
        editing.type(item.text)
        editing.version += 1
        session = editing.session
        here = (editing.line, editing.column)
        session.change(URI, editing.version, [Edit("\n        ", here, here)])
        editing.line, editing.column = editing.line + 1, 8
        asked = asyncio.create_task(editing.texts())
        await asyncio.sleep(0.005)
        editing.client.gate.set()
        assert await asked == ["return -n"]
        assert len(editing.client.requests) == 1

    play(dense_model, test)


@pytest.mark.parametrize("typed", ["x", "if x", "if n < 0: x"])
def test_typing_something_else_stops_it(dense_model: Path, typed: str) -> None:
    async def test(editing: Editing, updates: list[Update]) -> None:
        await editing.ask()
        editing.type(typed)
        await until(lambda: editing.client.closed == 1)
        editing.client.gate.set()
        await asyncio.sleep(0.005)
        assert updates == []

    play(dense_model, test)


def test_a_request_elsewhere_and_closing_stop_it(dense_model: Path) -> None:
    async def test(editing: Editing, updates: list[Update]) -> None:
        await editing.ask()
        editing.client.reply = lambda _: "x"
        editing.line, editing.column = 2, 0
        asked = asyncio.create_task(editing.ask())
        await until(lambda: editing.client.closed == 1)
        editing.client.gate.set()
        await asked
        editing.client.reply = lambda _: ANSWER
        editing.line, editing.column = 1, 4
        editing.session.open(URI, editing.text + "# end\n", 7, "python")
        await editing.ask()
        editing.session.close(URI)
        await until(lambda: editing.client.closed == 2)
        assert updates == []

    play(dense_model, test)


@pytest.mark.parametrize(
    ("text", "answer", "shown"),
    [
        ("total = \u2038\n", "first\nsecond\n", "first"),
        # The body of what the line opens is below already.
        ("\u2038\n    total += x\n", "for x in xs:\n    total = 0\n", "for x in xs:"),
        ("for x in \u2038:\n", "xs\n    total", "xs"),
    ],
)
def test_where_one_line_is_wanted_nothing_grows(
    dense_model: Path, text: str, answer: str, shown: str
) -> None:
    async def test(editing: Editing, updates: list[Update]) -> None:
        assert await editing.texts() == [shown]
        assert editing.client.closed == 1
        await asyncio.sleep(0.005)
        assert updates == []

    play(dense_model, test, text, answer=answer)


def test_a_line_that_turns_out_to_open_a_block_grows(dense_model: Path) -> None:
    async def test(editing: Editing, updates: list[Update]) -> None:
        assert await editing.texts() == ["n in range(9):"]
        editing.client.pauses_after = ""
        editing.client.gate.set()
        await until(lambda: bool(updates) and updates[-1].complete)
        assert updates[-1].item.text == "n in range(9):\n    total += n\nelse:\n    stop()"

    answer = "n in range(9):\n    total += n\nelse:\n    stop()\nmore()\n"
    play(dense_model, test, "for \u2038", answer=answer)


def test_nothing_grows_where_that_is_switched_off(dense_model: Path) -> None:
    async def test(editing: Editing, updates: list[Update]) -> None:
        editing.session.settings = CompletionSettings(
            debounce_ms=0, first_line_ms=0, ahead=False, blocks=False
        )
        assert await editing.texts() == ["if n < 0:"]
        assert editing.client.closed == 1
        assert updates == []

    play(dense_model, test)


def test_a_first_line_that_is_not_worth_showing_waits_for_the_next(dense_model: Path) -> None:
    async def test(editing: Editing, _updates: list[Update]) -> None:
        asked = asyncio.create_task(editing.texts())
        await until(lambda: not editing.client.gate.is_set())
        assert not asked.done()
        editing.client.gate.set()
        assert await asked == ["# the absolute value\n    return abs(n)"]

    answer = "# the absolute value\n    return abs(n)\n    more\n"
    play(dense_model, test, answer=answer)


def test_what_was_shown_stays_if_the_rest_is_lost(dense_model: Path) -> None:
    async def test(editing: Editing, updates: list[Update]) -> None:
        editing.client.breaks = DaemonError("gone")
        (item,) = await editing.ask()
        editing.client.gate.set()
        await until(lambda: bool(updates) and updates[-1].complete)
        assert updates[-1].item.text == item.text
        assert await editing.texts() == [item.text]
        assert editing.editor.messages == []

    play(dense_model, test, answer="if n < 0:\n    ")


def test_an_update_keeps_the_selected_entry(dense_model: Path) -> None:
    async def test(editing: Editing, updates: list[Update]) -> None:
        editing.type("if")
        selected = Selected((1, 4), (1, 6), "if n")
        (item,) = await editing.session.suggest(URI, (1, 6), invoked=False, selected=selected)
        assert (item.text, item.start, item.end) == ("if n < 0:", (1, 4), (1, 6))
        editing.client.gate.set()
        await until(lambda: bool(updates))
        assert updates[0].item.text == "if n < 0:\n        return -n"
        assert (updates[0].item.start, updates[0].item.end) == ((1, 4), (1, 6))

    play(dense_model, test, answer=ANSWER.removeprefix("if"))
