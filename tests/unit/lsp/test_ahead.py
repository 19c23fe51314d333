"""Work ahead of the user: what is warmed and followed, and when nothing is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest
from editing import URI, Editing, PlayedClient, ids_of

from assistant.engine.types import Priority
from assistant.errors import ContextFullError, DaemonError, UnderkeelError
from assistant.models import vocabulary
from assistant.settings import CompletionSettings
from assistant.wire import CompletionChunk, CompletionRequest
from lsp.completion import prefetch
from lsp.completion.prefetch import Machine
from lsp.completion.session import Edit

TEXT = "def add(a, b):\n    \u2038\n\n\ndef sub(a, b):\n    return a - b\n"
REST_S = 0.02


@pytest.fixture(autouse=True)
def _short_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "REST_S", REST_S)


def play(model: Path, test: Callable[[Editing], Awaitable[None]], text: str = TEXT) -> None:
    async def main() -> None:
        editing = Editing(PlayedClient(model), text, ahead=True)
        await editing.session.suggest("file:///none", (0, 0), invoked=False)
        await rest(lambda: bool(editing.client.warmed))
        editing.client.warmed.clear()
        await test(editing)
        await editing.session.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


async def rest(condition: Callable[[], bool] | None = None) -> None:
    """Wait until something has happened; without a condition, until all would have."""
    async with asyncio.timeout(20):
        while condition is not None and not condition():  # noqa: ASYNC110
            await asyncio.sleep(REST_S / 4)
    if condition is None:
        await asyncio.sleep(REST_S * 4)


def test_what_follows_a_suggestion_is_known_before_it_is_asked(dense_model: Path) -> None:
    async def test(editing: Editing) -> None:
        client = editing.client
        client.reply = lambda request: (
            "\n    return c" if request.priority is Priority.BACKGROUND else "c = a + b"
        )
        assert await editing.texts() == ["c = a + b"]
        await rest(lambda: len(client.requests) == 2)
        followed = client.requests[1]
        assert followed.document != client.requests[0].document
        words = vocabulary.load(dense_model)
        assert "    c = a + b" in words.decode(ids_of(followed.prompt))
        await rest()
        editing.type("c = a + b")
        assert await editing.texts() == ["\n    return c"]
        assert len(client.requests) == 2

    play(dense_model, test)


def test_a_question_goes_before_work_ahead(dense_model: Path) -> None:
    async def test(editing: Editing) -> None:
        client = editing.client
        client.reply = lambda _: "c = a + b"
        await editing.texts()
        client.gate.clear()
        await rest(lambda: len(client.requests) == 2)
        editing.type("d")
        client.gate.set()
        await editing.texts()
        assert client.closed == 1

    play(dense_model, test)


def test_typing_along_leaves_work_ahead_alone(dense_model: Path) -> None:
    async def test(editing: Editing) -> None:
        client = editing.client
        client.reply = lambda _: "c = a + b"
        await editing.texts()
        client.gate.clear()
        await rest(lambda: len(client.requests) == 2)
        editing.type("c")
        assert await editing.texts() == [" = a + b"]
        client.gate.set()
        await rest()
        assert client.closed == 0
        assert len(client.requests) == 2

    play(dense_model, test)


def test_an_edit_without_a_question_warms_the_prompt_there(dense_model: Path) -> None:
    async def test(editing: Editing) -> None:
        editing.type("c = ")
        await rest(lambda: bool(editing.client.warmed))
        words = vocabulary.load(dense_model)
        (warmed,) = editing.client.warmed
        assert "def add(a, b):\n    c =" in words.decode(warmed)
        await rest()
        assert len(editing.client.warmed) == 1  # once, however long the user is away
        editing.client.reply = lambda _: "a + b"
        await editing.texts()
        assert editing.client.requests[0].prompt == warmed

    play(dense_model, test)


def test_a_question_in_time_makes_warming_needless(dense_model: Path) -> None:
    async def test(editing: Editing) -> None:
        editing.client.reply = lambda _: ""
        await editing.texts()
        editing.type("c = ")
        await editing.texts()
        await rest()
        assert editing.client.warmed == []

    play(dense_model, test)


def test_a_document_is_warmed_where_it_was_left(dense_model: Path) -> None:
    async def test(editing: Editing) -> None:
        editing.type("c = ")
        text = editing.text
        editing.session.close(URI)
        editing.session.open(URI, text, 5, "python")
        await rest(lambda: bool(editing.client.warmed))
        assert "    c =" in vocabulary.load(dense_model).decode(editing.client.warmed[0])

    play(dense_model, test)


@pytest.mark.parametrize(
    "machine", [Machine(load=3.0, on_battery=False), Machine(load=0.0, on_battery=True)]
)
def test_nothing_is_spent_on_a_busy_machine_or_a_battery(
    dense_model: Path, machine: Machine
) -> None:
    async def test(editing: Editing) -> None:
        editing.machine = machine
        editing.client.reply = lambda _: "c = a + b"
        assert await editing.texts() == ["c = a + b"]
        await rest()
        editing.type("x")
        await rest()
        assert len(editing.client.requests) == 1
        assert editing.client.warmed == []

    play(dense_model, test)


def test_the_user_may_allow_it_on_a_battery() -> None:
    assert Machine(load=0.0, on_battery=True).may_work_ahead(on_battery=True)
    assert not Machine(load=9.0, on_battery=True).may_work_ahead(on_battery=True)


ELSEWHERE = (
    "def add(a, b):\n    \u2038\n\n\ndef sub(a, b):\n    \n\n\ndef mul(a, b):\n    return a * b\n"
)


def jump(editing: Editing) -> None:
    """Go to the empty body of `sub`, and begin to type there."""
    editing.line, editing.column = 5, 4
    editing.type("r")


def test_the_whole_text_sent_again_is_warmed_where_it_changed(dense_model: Path) -> None:
    """C22: not at the start of the file."""

    async def test(editing: Editing) -> None:
        text = editing.text.replace("def sub(a, b):\n    ", "def sub(a, b):\n    r")
        editing.session.change(URI, 2, [Edit(text)])
        await rest(lambda: bool(editing.client.warmed))
        warmed = vocabulary.load(dense_model).decode(editing.client.warmed[-1])
        assert warmed.endswith("def sub(a, b):\n    ")

    play(dense_model, test, ELSEWHERE)


def test_typing_at_another_place_warms_it_at_once_and_only_once(dense_model: Path) -> None:
    async def test(editing: Editing) -> None:
        client = editing.client
        client.gate.clear()
        jump(editing)
        await rest(lambda: bool(client.warmed))
        for letter in "eturn":
            editing.type(letter)
        await rest()
        assert len(client.warmed) == 1  # what is typed meanwhile does not begin it again
        assert client.warmed_as[-1] is Priority.INTERACTIVE
        client.gate.set()

    play(dense_model, test, ELSEWHERE)


def test_a_question_waits_for_the_warming_that_it_needs(dense_model: Path) -> None:
    async def test(editing: Editing) -> None:
        client = editing.client
        client.reply = lambda _: "a - b"
        client.gate.clear()
        jump(editing)
        await rest(lambda: bool(client.warmed))
        asked = asyncio.create_task(editing.texts())
        await rest()
        assert client.requests == []
        client.gate.set()
        assert len(await asked) == 1
        words = vocabulary.load(dense_model)
        (request,), (warmed,) = client.requests, client.warmed
        shared = [one for one, other in zip(request.prompt, warmed, strict=False) if one == other]
        assert len(shared) >= len(warmed) - 3
        assert words.decode(warmed).endswith("def sub(a, b):\n    ")

    play(dense_model, test, ELSEWHERE)


def test_on_a_busy_machine_only_what_is_wanted_is_warmed(dense_model: Path) -> None:
    async def test(editing: Editing) -> None:
        await editing.texts()
        editing.machine = Machine(load=9.0, on_battery=False)
        editing.type("c")
        await rest()
        assert editing.client.warmed == []
        jump(editing)
        await rest(lambda: len(editing.client.warmed) == 1)
        editing.machine = Machine(load=0.0, on_battery=True)
        editing.line, editing.column = 1, 5
        editing.type("x")
        await rest()
        assert len(editing.client.warmed) == 1

    play(dense_model, test, ELSEWHERE)


LONG = (
    "".join(f"first_{n} = {n * n}\n" for n in range(200))
    + "def add(a, b):\n    \u2038\n"
    + "".join(f"later_{n} = {n * n}\n" for n in range(200))
)


def test_the_first_request_at_a_place_does_not_wait_for_its_warm_up(dense_model: Path) -> None:
    """C28: a short prompt goes first, the full one is evaluated behind it."""

    async def test(editing: Editing) -> None:
        client = editing.client
        client.reply = lambda _: "return a + b"
        editing.type("r")
        client.gate.clear()
        await rest(lambda: bool(client.warmed))
        asked = asyncio.create_task(editing.texts())
        await rest(lambda: bool(client.requests))  # though the warm-up never ends
        client.gate.set()
        assert await asked == ["eturn a + b"]
        client.gate.clear()
        assert len(client.requests[0].prompt) <= 256
        await rest(lambda: len(client.warmed) == 2)
        assert len(client.warmed[1]) > 256
        await rest()
        assert len(client.requests) == 1  # what follows the suggestion waits for the warm-up
        client.gate.set()
        await rest(lambda: len(client.requests) == 2)

    play(dense_model, test, LONG)


def test_the_first_prompt_at_a_place_is_short_without_work_ahead_too(dense_model: Path) -> None:
    """C28: on battery, say, the second request at a place brings the full prompt."""

    async def test(editing: Editing) -> None:
        editing.machine = Machine(load=0.0, on_battery=True)
        client = editing.client
        client.reply = lambda _: "return a + b"
        editing.type("r")
        await editing.ask()
        editing.type("x")
        await editing.ask()
        assert client.warmed == []
        first, second = client.requests
        assert len(first.prompt) <= 256 < len(second.prompt)

    play(dense_model, test, LONG)


def test_the_time_limit_holds_for_the_wait_too(dense_model: Path) -> None:
    """C24: what the warm-up takes is not added to the limit."""

    async def test(editing: Editing) -> None:
        client = editing.client
        editing.session.settings = CompletionSettings(
            debounce_ms=0, time_limit_ms=2000, blocks=False
        )
        editing.type("r")
        client.gate.clear()
        await rest(lambda: bool(client.warmed))
        assert await editing.texts() == []  # neither the warm-up nor the answer ever ends
        assert client.requests[0].time_limit_ms < 2000
        client.gate.set()

    play(dense_model, test, LONG)


LIMIT_S = 0.4


@pytest.mark.parametrize("error", [ContextFullError("full"), DaemonError("gone")])
def test_the_time_limit_holds_for_all_tries(dense_model: Path, error: UnderkeelError) -> None:
    """C24: what a failed try took is not given to the next one again."""

    async def test(editing: Editing) -> None:
        client = editing.client
        limits: list[int] = []

        async def complete(request: CompletionRequest) -> AsyncGenerator[CompletionChunk, None]:
            limits.append(request.time_limit_ms)
            await asyncio.sleep(LIMIT_S / 3)
            if limits:
                raise error
            yield CompletionChunk(content="")

        await editing.texts()  # the index and the vocabulary are read
        editing.type("x")
        client.complete = complete  # type: ignore[method-assign]
        limit_ms = int(LIMIT_S * 1000)
        editing.session.settings = CompletionSettings(
            debounce_ms=0, time_limit_ms=limit_ms, blocks=False, ahead=False
        )
        assert await editing.texts() == []
        assert len(limits) >= 2
        used_ms = LIMIT_S * 1000 / 3
        assert all(later <= max(limits[0] - used_ms, 100) for later in limits[1:])

    play(dense_model, test)


def test_the_time_limit_holds_for_the_prompt_too(dense_model: Path) -> None:
    """C24, C21: the thread that makes prompts is at work on another document."""

    async def test(editing: Editing) -> None:
        editing.session.settings = CompletionSettings(debounce_ms=0, time_limit_ms=100)
        held = asyncio.Event()
        loop = asyncio.get_running_loop()

        def hold() -> None:
            asyncio.run_coroutine_threadsafe(held.wait(), loop).result(20)

        busy = loop.run_in_executor(editing.session.prompts._thread, hold)
        assert await editing.texts() == []  # although the thread is never free
        assert editing.client.requests == []
        held.set()
        await busy

    play(dense_model, test)


def test_the_time_limit_holds_for_what_is_being_decoded_too(dense_model: Path) -> None:
    """C24: waiting for the next line of a suggestion that grows counts."""

    async def test(editing: Editing) -> None:
        client = editing.client
        editing.session.on_update = lambda _: None
        client.reply = lambda _: "if a:\n        return b\n    return c\n"
        client.pauses_after = "\n"
        assert await editing.texts() == ["if a:"]
        editing.type("if a:")
        editing.session.settings = CompletionSettings(
            debounce_ms=0, time_limit_ms=300, blocks=False
        )
        assert await editing.texts() == []
        assert client.requests[-1].time_limit_ms == 100  # the least: nothing of it is left
        client.gate.set()

    play(dense_model, test)


OTHER = "file:///other.py"


@pytest.mark.parametrize("how", ["ask", "edit"])
def test_a_warm_up_yields_to_another_document(dense_model: Path, how: str) -> None:
    """C28: the user has typed in one file and turned to another one: only that one counts."""

    async def test(editing: Editing) -> None:
        client, session = editing.client, editing.session
        client.gate.clear()
        editing.type("r")
        await rest(lambda: bool(client.warmed))
        session.open(OTHER, "x = 1\ny = \n", 1, "python")
        assert client.unwarmed == 0  # opened only: perhaps behind the one that is shown
        if how == "edit":
            session.change(OTHER, 2, [Edit("z", (1, 4), (1, 4))])
        asked = asyncio.create_task(session.suggest(OTHER, (1, 4), invoked=False))
        await rest(lambda: bool(client.requests))
        assert client.unwarmed >= 1
        client.gate.set()
        await asked

    play(dense_model, test, LONG)


def test_of_many_opened_documents_the_last_one_is_warmed(dense_model: Path) -> None:
    """C28: a restored session opens all of its documents at once."""

    async def test(editing: Editing) -> None:
        client = editing.client
        client.gate.clear()
        for number in range(20):
            editing.session.open(f"file:///{number}.py", f"x{number} = 1\n" * 9, 1, "python")
        await rest(lambda: bool(client.warmed))
        await rest()
        (warmed,) = client.warmed
        assert "x19 = 1" in vocabulary.load(dense_model).decode(warmed)
        client.gate.set()

    play(dense_model, test)


def test_of_many_edited_documents_the_last_one_is_warmed(dense_model: Path) -> None:
    """C28: a rename changes many open documents, and the user types in one."""

    async def test(editing: Editing) -> None:
        client, session = editing.client, editing.session
        uris = [f"file:///{number}.py" for number in range(20)]
        for uri in uris:
            session.open(uri, "x = 1\n" * 9, 1, "python")
        client.gate.clear()
        before = len(client.warmed)
        for uri in uris:
            session.change(uri, 2, [Edit("renamed", (4, 0), (4, 1))])
        asked = asyncio.create_task(editing.texts())
        await rest(lambda: bool(client.requests))
        assert len(client.warmed) - client.unwarmed <= before + 1
        client.gate.set()
        await asked

    play(dense_model, test)


def test_a_growing_suggestion_ends_when_the_user_turns_to_another_document(
    dense_model: Path,
) -> None:
    """C28: what is decoded for nobody is in the way of the next request."""

    async def test(editing: Editing) -> None:
        client, session = editing.client, editing.session
        session.on_update = lambda _: None
        client.reply = lambda _: "if a:\n        return b\n    return c\n"
        client.pauses_after = "\n"
        assert await editing.texts() == ["if a:"]
        session.open(OTHER, "x = 1\ny = \n", 1, "python")
        client.pauses_after = ""
        closed = client.closed
        asked = asyncio.create_task(session.suggest(OTHER, (1, 4), invoked=False))
        await rest(lambda: client.closed > closed)
        client.gate.set()
        await asked

    play(dense_model, test)
