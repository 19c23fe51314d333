"""A session with a played daemon: what is asked, what is shown, what is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from editing import URI, Editing, PlayedClient, ids_of

from assistant.errors import ContextFullError, DaemonError, LoadError, WorkerDiedError
from assistant.models import vocabulary
from assistant.settings import CompletionSettings
from assistant.wire import BudgetNow
from lsp.completion.session import Edit
from lsp.completion.suggestion import Selected
from lsp.editor import Severity

FUNCTION = "def add(a, b):\n    return \u2038\n\n\ndef sub(a, b):\n    return a - b\n"


def play(model: Path, text: str, test: Callable[[Editing], Awaitable[None]]) -> None:
    """Run a test on a document; no task may be left behind."""

    async def main() -> None:
        editing = Editing(PlayedClient(model), text)
        await test(editing)
        await editing.session.aclose()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_an_answer_becomes_an_item_at_the_cursor(dense_model: Path) -> None:
    async def test(editing: Editing) -> None:
        editing.client.reply = lambda _: "a + b\n\n\ndef sub"
        (item,) = await editing.ask()
        assert (item.text, item.start, item.end) == ("a + b", (1, 11), (1, 11))
        (request,) = editing.client.requests
        words = vocabulary.load(dense_model)
        prompt = words.decode(ids_of(request.prompt))
        assert "def add(a, b):\n    return" in prompt
        assert "def sub(a, b):\n    return a - b\n" in prompt
        assert request.must_start_with == " "  # the blank belongs to the next word's token
        assert request.budget_tokens >= len(request.prompt)
        assert editing.client.closed == 1  # the rest was not waited for

    play(dense_model, FUNCTION, test)


def test_what_the_prompt_leaves_out_is_given_to_draft_from(dense_model: Path) -> None:
    """The first answer only: others are drawn, and nothing is drafted for those."""
    far = "".join(f"def far_{at}(a, b):\n    return a * {at} + b\n\n\n" for at in range(80))

    async def test(editing: Editing) -> None:
        await editing.ask()
        first = editing.client.requests[0]
        words = vocabulary.load(dense_model)
        given = words.decode(list(first.draft_from))
        shown = words.decode(ids_of(first.prompt))
        assert "def far_40(a, b):" in given and "def far_40(a, b):" not in shown
        assert all(not other.draft_from for other in editing.client.requests[1:])

    play(dense_model, far + FUNCTION, test)


def test_the_word_under_the_cursor_is_given_back(dense_model: Path) -> None:
    async def test(editing: Editing) -> None:
        editing.client.reply = lambda _: " first + second"
        editing.type("fir")
        assert await editing.texts() == ["st + second"]
        (request,) = editing.client.requests
        assert request.must_start_with == " fir"
        assert not vocabulary.load(dense_model).decode(ids_of(request.prompt)).endswith("fir")

    play(dense_model, FUNCTION, test)


def test_the_model_is_reported_of_the_line_below(dense_model: Path) -> None:
    async def test(editing: Editing) -> None:
        await editing.ask()
        assert editing.client.requests[-1].unlike == "return a - b"

    play(dense_model, "if a:\n    return\u2038\n    return a - b\n", test)


def test_an_answer_that_does_not_continue_the_word_is_dropped(dense_model: Path) -> None:
    async def test(editing: Editing) -> None:
        editing.type("fir")
        editing.client.heals = False
        editing.client.reply = lambda _: " second"
        assert await editing.texts() == []

    play(dense_model, FUNCTION, test)


def test_the_newest_question_wins(dense_model: Path) -> None:
    async def test(editing: Editing) -> None:
        editing.client.reply = lambda _: "a + b"
        editing.client.gate.clear()
        asked = []
        for _ in range(40):
            asked.append(asyncio.create_task(editing.texts()))
            await asyncio.sleep(0.002)
        editing.client.gate.set()
        answers = await asyncio.gather(*asked)
        assert answers == [[]] * 39 + [["a + b"]]
        assert editing.client.closed == len(editing.client.requests) - 1

    play(dense_model, FUNCTION, test)


def test_a_cancelled_request_gives_up_the_answer(dense_model: Path) -> None:
    async def test(editing: Editing) -> None:
        editing.client.gate.clear()
        asked = asyncio.create_task(editing.ask())
        await editing.client.asked.wait()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert editing.client.closed == 1
        editing.client.gate.set()
        editing.client.reply = lambda _: "a + b"
        assert await editing.texts() == ["a + b"]

    play(dense_model, FUNCTION, test)


def test_an_answer_for_text_that_has_changed_is_not_shown(dense_model: Path) -> None:
    async def test(editing: Editing) -> None:
        editing.client.reply = lambda _: "a + b"
        editing.client.gate.clear()
        asked = asyncio.create_task(editing.texts())
        await editing.client.asked.wait()
        editing.type("a")
        editing.client.gate.set()
        assert await asked == []
        assert await editing.texts() == [" + b"]  # but kept, for it goes on with what was typed
        assert len(editing.client.requests) == 1

    play(dense_model, FUNCTION, test)


def test_typing_along_asks_nothing(dense_model: Path) -> None:
    async def test(editing: Editing) -> None:
        editing.client.reply = lambda _: "alpha + beta"
        assert await editing.texts() == ["alpha + beta"]
        editing.type("al")
        assert await editing.texts() == ["pha + beta"]
        editing.type("pha ")
        assert await editing.texts() == ["+ beta"]
        editing.backspace(4)
        assert await editing.texts() == ["pha + beta"]
        editing.backspace(3)
        assert await editing.texts() == [" alpha + beta"]
        assert len(editing.client.requests) == 1
        editing.type(" x")
        await editing.texts()
        assert len(editing.client.requests) == 2

    play(dense_model, FUNCTION, test)


def test_invoked_asks_for_several_at_once(dense_model: Path) -> None:
    async def test(editing: Editing) -> None:
        editing.client.reply = lambda request: f"a + {'bcb'[request.seed]}"
        assert await editing.texts(invoked=True) == ["a + b", "a + c"]
        requests = editing.client.requests
        assert [request.temperature > 0 for request in requests] == [False, True, True]
        assert len({request.document for request in requests}) == len(requests) == 3

    play(dense_model, FUNCTION, test)


def test_a_daemon_that_went_away_is_asked_again(dense_model: Path) -> None:
    async def test(editing: Editing) -> None:
        for error in (DaemonError("gone"), WorkerDiedError("dead"), ContextFullError("full")):
            editing.client.failures.append(error)
            editing.client.reply = lambda _: "a + b"
            editing.type("x")
            editing.backspace()
            editing.session.open(URI, editing.text, 9, "python")
            assert await editing.texts() == ["a + b"]
        assert editing.editor.messages == []

    play(dense_model, FUNCTION, test)


def test_a_prompt_over_the_budget_is_followed_by_one_of_half_the_size(dense_model: Path) -> None:
    """S1: other requests may lower the budget again between two tries."""

    async def test(editing: Editing) -> None:
        editing.client.reply = lambda _: "a + b"
        editing.client.failures += [ContextFullError("full")] * 3
        assert await editing.texts() == ["a + b"]
        assert [one.budget_tokens for one in editing.client.requests] == [1024, 512, 256, 128]
        editing.client.failures += [ContextFullError("full")] * 4
        editing.type("x")
        assert await editing.texts() == []
        assert [severity for severity, _ in editing.editor.messages] == [Severity.ERROR]

    play(dense_model, FUNCTION, test)


def test_what_is_wrong_is_said_once(dense_model: Path) -> None:
    async def test(editing: Editing) -> None:
        missing = LoadError("there is no model", advice="Run: underkeel pull starter-moe")
        editing.client.refusals += [missing] * 3
        assert await editing.texts() == []
        assert await editing.texts() == []
        assert editing.editor.messages == [
            (Severity.ERROR, "Underkeel: there is no model. Run: underkeel pull starter-moe")
        ]
        assert editing.client.connections == 1  # it waits before it tries again
        assert await editing.texts(invoked=True) == []
        assert len(editing.editor.messages) == editing.client.connections == 2
        editing.client.refusals.clear()
        editing.client.reply = lambda _: "a + b"
        assert await editing.texts(invoked=True) == ["a + b"]

    play(dense_model, FUNCTION, test)


def test_the_budget_of_the_daemon_bounds_the_prompt(dense_model: Path) -> None:
    async def test(editing: Editing) -> None:
        editing.client.budget = BudgetNow(tokens=40, level=2, reason="little VRAM is free")
        await editing.ask()
        assert len(editing.client.requests[-1].prompt) <= 40
        assert editing.editor.facts[-1]["budget"]["level"] == 2

    play(dense_model, "x = 1\n" * 200 + "y = \u2038\n" + "z = 2\n" * 200, test)


def test_languages_and_everything_can_be_switched_off(dense_model: Path) -> None:
    async def test(editing: Editing) -> None:
        editing.session.settings = CompletionSettings(languages_off=("python",))
        assert await editing.ask(invoked=True) == []
        editing.session.settings = CompletionSettings(enabled=False)
        assert await editing.ask() == []
        assert editing.client.connections == 0

    play(dense_model, FUNCTION, test)


def test_a_selected_entry_is_the_start_of_the_suggestion(dense_model: Path) -> None:
    async def test(editing: Editing) -> None:
        editing.type("al")
        editing.client.reply = lambda _: " alpha.beta"
        selected = Selected((1, 11), (1, 13), "alpha")
        (item,) = await editing.session.suggest(URI, (1, 13), invoked=False, selected=selected)
        assert (item.text, item.start, item.end) == ("alpha.beta", (1, 11), (1, 13))
        other = Selected((1, 11), (1, 13), "gamma")
        assert await editing.session.suggest(URI, (1, 13), invoked=False, selected=other) == []

    play(dense_model, FUNCTION, test)


def test_closing_a_document_gives_up_its_answer(dense_model: Path) -> None:
    async def test(editing: Editing) -> None:
        editing.client.gate.clear()
        asked = asyncio.create_task(editing.ask())
        await editing.client.asked.wait()
        editing.session.close(URI)
        assert await asked == []
        assert editing.client.closed == 1
        assert await editing.ask() == []

    play(dense_model, FUNCTION, test)


def test_a_time_limit_prefers_whole_lines(dense_model: Path) -> None:
    async def test(editing: Editing) -> None:
        editing.session.settings = CompletionSettings(debounce_ms=0, first_line_ms=0)
        editing.client.reply = lambda _: "if a:\n        return b\n    return a"
        assert await editing.texts() == ["if a:"]
        editing.session.settings = CompletionSettings(debounce_ms=0, time_limit_ms=30)
        editing.client.gate.clear()
        editing.type("x")
        assert await editing.texts() == []

    play(dense_model, "def f(a, b):\n    \u2038\n", test)


def test_the_load_and_the_model_are_shown(dense_model: Path) -> None:
    async def test(editing: Editing) -> None:
        await editing.ask()
        assert editing.editor.stages == ["loading the model", "loaded"]
        first = {"busy": False, "model": "played", "budget": None, "prompt": None}
        assert editing.editor.facts[0] == first

    play(dense_model, FUNCTION, test)


@pytest.mark.parametrize("whole", [True, False], ids=["whole text", "range over all lines"])
def test_the_whole_text_sent_again_is_the_edit_that_was_made(
    dense_model: Path, whole: bool
) -> None:
    """C22: the edits are reported, and accepted text is followed, as if only they were sent."""
    reported: list[tuple[int, list[str] | None, list[str]]] = []
    moved: list[tuple[int, int, int]] = []

    async def test(editing: Editing) -> None:
        session = editing.session
        session.on_edit = lambda _, *edit: reported.append(edit)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(session.tally, "watches", lambda _: True)
            patch.setattr(session.tally, "edited", lambda _, *edit: moved.append(edit))
            for version, new in ((2, "a\nb = 12\nc\n"), (3, "a\nb = 12\nc\n"), (4, "a\nc\n")):
                edit = Edit(new) if whole else Edit(new, (0, 0), (99, 0))
                session.change(URI, version, [edit])
        document = session.document(URI)
        assert document is not None
        assert (document.text, document.version, document.edited) == ("a\nc\n", 4, (1, 0))

    play(dense_model, "a\nb = 1\nc\n", test)
    assert reported == [(1, ["b = 1"], ["b = 12"]), (1, ["b = 12", "c"], ["c"])]
    assert moved == [(7, 0, 1), (2, 7, 0)]
