"""Next edits by the served model: when it is asked, and what becomes of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from editing import URI, Editing, PlayedClient

from assistant.engine.types import Priority
from assistant.settings import CompletionSettings, NextEditSettings
from assistant.wire import BudgetNow, CompletionRequest
from lsp.completion.session import Edit
from lsp.next_edit import NextEdits

TEXT = "def first(a):\n    log(a)\n\n\ndef second(b):\n    check(b)‸\n    run(b)\n"
HERE = (5, 20)
Test = Callable[[Editing, NextEdits], Awaitable[None]]


def play(words: Path, test: Test, client: PlayedClient | None = None, **settings: str) -> None:
    async def main() -> None:
        editing = Editing(client or PlayedClient(words), TEXT)
        edits = NextEdits(editing.session)
        edits.settings = NextEditSettings(**({"model": "on"} | settings))  # type: ignore[arg-type]
        await editing.session.backend.served()
        editing.type(" or stop")
        editing.client.reply = changing("run(b)", "run(b, stop)")
        await test(editing, edits)
        await editing.session.aclose()

    asyncio.run(main())


def changing(old: str, new: str) -> Callable[[CompletionRequest], str]:
    """Answers with the region, a part of it replaced."""
    text = TEXT.replace("‸", " or stop").replace(old, new)
    region = text.partition("\n")[2]  # four lines above the cursor's

    def reply(_: CompletionRequest) -> str:
        return region + "```\n"

    return reply


async def found(editing: Editing, edits: NextEdits) -> list[str]:
    return [one.text for one in await edits.find(URI, editing.version, HERE)]


def test_the_model_is_asked_where_the_rules_find_nothing(dense_model: Path) -> None:
    async def test(editing: Editing, edits: NextEdits) -> None:
        (offer,) = await edits.find(URI, editing.version, HERE)
        assert (offer.text, offer.start, offer.end) == ("    run(b, stop)", (6, 0), (6, 10))
        (request,) = editing.client.requests
        assert request.priority is Priority.BACKGROUND and request.stop == ("```",)
        assert len(request.prompt) <= request.budget_tokens

    play(dense_model, test, level="eager")


def test_in_a_very_long_file_the_model_is_asked_and_the_rules_are_not(dense_model: Path) -> None:
    """The rules would have to see all of it, and only a part is parsed."""
    text = "def load(a):\n    return a\n\n\nload(‸1)\nload(2)\n" + "# more\n" * 12_100

    async def main() -> None:
        editing = Editing(PlayedClient(dense_model), text)
        edits = NextEdits(editing.session)
        edits.settings = NextEditSettings(model="on", level="eager")
        await editing.session.backend.served()
        editing.type("a")
        editing.session.change(URI, 3, [Edit("read", (0, 4), (0, 8))])
        region = editing.text.split("\n")[:15]
        changed = "\n".join(region).replace("load(2)", "read(2)")
        editing.client.reply = lambda _: f"{changed}\n```\n"
        (offer,) = await edits.find(URI, 3, (4, 6))
        assert (offer.text, offer.start) == ("read(2)", (5, 0))
        assert len(editing.client.requests) == 1
        await editing.session.aclose()

    asyncio.run(main())


def test_a_prompt_is_answered_once(dense_model: Path) -> None:
    async def test(editing: Editing, edits: NextEdits) -> None:
        assert await found(editing, edits) == await found(editing, edits) != []
        assert len(editing.client.requests) == 1

    play(dense_model, test, level="eager")


def test_a_rejected_edit_is_not_offered_again(dense_model: Path) -> None:
    async def test(editing: Editing, edits: NextEdits) -> None:
        (offer,) = await edits.find(URI, editing.version, HERE)
        edits.rejected(offer.id)
        assert await found(editing, edits) == []

    play(dense_model, test, level="eager")


def test_no_ghost_text_beside_an_edit_of_a_client_that_reports_nothing(dense_model: Path) -> None:
    async def test(editing: Editing, edits: NextEdits) -> None:
        assert await edits.find(URI, editing.version, HERE, shown=True)
        editing.client.reply = lambda _: ")"
        assert await editing.texts() == []
        assert len(editing.client.requests) == 1
        editing.type("x")
        assert await editing.texts() != []

    play(dense_model, test, level="eager")


def test_an_edit_is_shown_once_whatever_the_client_reports(
    dense_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[dict[str, int]] = []

    async def test(editing: Editing, edits: NextEdits) -> None:
        def count(_: str, **numbers: int) -> None:
            counts.append(numbers)

        monkeypatch.setattr(editing.session.tally, "count_edit", count)
        (offer,) = await edits.find(URI, editing.version, HERE)
        edits.shown(offer.id)
        edits.shown(offer.id)
        edits.accepted(offer.id)
        (offer,) = await edits.find(URI, editing.version, HERE)
        edits.accepted(offer.id)
        edits.accepted(offer.id)

    play(dense_model, test, level="eager")
    assert counts == [{"offered": 1}, {"shown": 1}, {"accepted": 1}] * 2


def test_an_unsure_edit_is_not_shown(dense_model: Path) -> None:
    async def test(editing: Editing, edits: NextEdits) -> None:
        assert await found(editing, edits) == []  # the generic format's fixed confidence is 0.4
        assert editing.client.requests

    play(dense_model, test, level="normal")


@pytest.mark.parametrize("workspace", [True, False])
@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.parametrize(
    ("name", "shown"),
    [("a.py", True), (".env", False), ("private.py", False), ("link.py", False), ("a.py#x", True)],
)
def test_a_hidden_file_is_not_shown_to_the_model(
    dense_model: Path, tmp_path: Path, name: str, shown: bool, folder: bool, workspace: bool
) -> None:
    """C5, C6: whether other files may be read or not, and with no folder open."""
    (tmp_path / ".env").write_text("x\n")
    (tmp_path / "link.py").symlink_to(".env")
    uri = (tmp_path / name).as_uri()

    async def test(editing: Editing, edits: NextEdits) -> None:
        session = editing.session
        session.configure(
            CompletionSettings(debounce_ms=0, workspace=workspace, excludes=("private.py",)),
            [tmp_path] if folder else [],
        )
        session.open(uri, TEXT.replace("‸", ""), 1, "python")
        session.change(uri, 2, [Edit(" or stop", (5, 12), (5, 12))])
        found = [one.text for one in await edits.find(uri, 2, HERE)]
        assert bool(found) is bool(editing.client.requests) is shown

    play(dense_model, test, level="eager")


@pytest.mark.parametrize("settings", [{"model": "auto"}, {"model": "off"}])
def test_a_model_that_was_not_trained_for_it_is_not_asked(
    dense_model: Path, settings: dict[str, str]
) -> None:
    async def test(editing: Editing, edits: NextEdits) -> None:
        assert await found(editing, edits) == []
        assert not editing.client.requests

    play(dense_model, test, None, **settings)


def test_nothing_is_asked_while_memory_is_short(dense_model: Path) -> None:
    async def test(editing: Editing, edits: NextEdits) -> None:
        assert await found(editing, edits) == []
        assert not editing.client.requests

    client = PlayedClient(dense_model, budget=BudgetNow(tokens=512, level=1, reason="little VRAM"))
    play(dense_model, test, client)


def test_typing_ends_the_generation(dense_model: Path) -> None:
    async def test(editing: Editing, edits: NextEdits) -> None:
        editing.client.gate.clear()
        asked = asyncio.create_task(found(editing, edits))
        await editing.client.asked.wait()
        editing.type("x")
        asked.cancel()  # as an editor does when the text changes
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert editing.client.closed == 1
        editing.client.gate.set()

    play(dense_model, test)


def test_an_answer_for_text_that_has_changed_is_dropped(dense_model: Path) -> None:
    async def test(editing: Editing, edits: NextEdits) -> None:
        editing.client.gate.clear()
        asked = asyncio.create_task(found(editing, edits))
        await editing.client.asked.wait()
        editing.type("x")
        editing.client.gate.set()
        assert await asked == []

    play(dense_model, test, level="eager")


def test_a_failing_daemon_is_no_error_for_the_editor(dense_model: Path) -> None:
    from assistant.errors import OverloadedError

    async def test(editing: Editing, edits: NextEdits) -> None:
        editing.client.failures = [OverloadedError("too many requests wait")]
        assert await found(editing, edits) == []
        assert not editing.editor.messages

    play(dense_model, test)
