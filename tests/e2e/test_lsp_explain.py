"""Explanations over real stdio: streamed, cancelled, continued, asked further, in any client."""

from __future__ import annotations

import asyncio
import copy
import threading
from pathlib import Path
from typing import Any

import pytest
from chatting import ChattingEngine, at, play
from checked_client import CAPABILITIES, CheckedClient
from daemons import until

from assistant.errors import RequestError

URI = "file:///harbour/work.py"
TEXT = '''import os


class Berth:
    def clearance(self, draught):
        """Water under the keel."""
        return self.depth - draught

    def other(self):
        name = os.name
        where = os.getcwd()
        return name + where
'''


def argument(id_: str = "e1", kind: str = "symbol", **more: Any) -> dict[str, Any]:
    return {
        "id": id_,
        "textDocument": {"uri": URI},
        "range": at(TEXT, "self.depth"),
        "kind": kind,
        **more,
    }


def without(*path: str) -> dict[str, Any]:
    """The usual capabilities without one."""
    found = copy.deepcopy(CAPABILITIES)
    place: Any = found
    for name in path[:-1]:
        place = place[name]
    del place[path[-1]]
    return found


def read(uri: str) -> tuple[str, int]:
    file = Path(uri.removeprefix("file://"))
    return file.read_text(), file.stat().st_mode


def test_an_explanation_streams_and_is_about_the_symbol(home: Path, played_model: Path) -> None:
    async def test(client: CheckedClient, engine: ChattingEngine) -> None:
        client.open(URI, TEXT, "python")
        result = await client.execute("underkeel.explain", argument())
        assert result == {"id": "e1", "text": "It **subtracts**.", "stopReason": "end"}
        *deltas, done = client.events("e1")
        assert "".join(event["text"] for event in deltas) == "It **subtracts**."
        assert len(deltas) > 3
        assert done == {"id": "e1", "kind": "done", "stopReason": "end"}
        (chat,) = engine.chats
        assert "return self.depth - draught" in chat
        assert "class Berth" in chat, "what is around it is shown"
        assert "os.getcwd" not in chat, "the bodies of others are not"
        assert engine.asked[-1].priority == "explain"

    play(played_model, test, "It **subtracts**.")


@pytest.mark.parametrize(
    ("kind", "more", "shown"),
    [
        ("selection", {"range": at(TEXT, "def other", "os.name\n")}, "Selected code:\n```python\n"),
        ("file", {}, "The file:\n```python\nimport os\n"),
        (
            "diagnostic",
            {
                "diagnostic": {
                    "range": at(TEXT, "draught\n"),
                    "message": "unknown unit",
                    "source": "chandler",
                    "code": "W7",
                }
            },
            "line 7: chandler W7: unknown unit",
        ),
    ],
)
def test_what_is_explained(
    home: Path, played_model: Path, kind: str, more: dict[str, Any], shown: str
) -> None:
    async def test(client: CheckedClient, engine: ChattingEngine) -> None:
        client.open(URI, TEXT, "python")
        await client.execute("underkeel.explain", argument(kind=kind, **more))
        assert shown in engine.chats[-1]

    play(played_model, test, "So it is.")


def test_cancelling_keeps_what_came_and_frees_the_engine(home: Path, played_model: Path) -> None:
    async def test(client: CheckedClient, engine: ChattingEngine) -> None:
        engine.token_ms = 5.0
        client.open(URI, TEXT, "python")
        params = {"command": "underkeel.explain", "arguments": [argument()]}
        number, response = client.send("workspace/executeCommand", params)
        await until(lambda: len(client.events("e1")) > 3)
        client.cancel(number)
        result = (await response)["result"]
        assert result["stopReason"] == "cancelled"
        assert result["text"] and result["text"] != "a word " * 200
        await until(lambda: client.events("e1")[-1]["kind"] == "done")
        assert client.events("e1")[-1]["stopReason"] == "cancelled"
        await until(lambda: engine.in_flight == 0)
        # It can still be asked about.
        engine.reply, engine.token_ms = (lambda _: "Yes."), 0.0
        further = {"id": "e2", "followUp": {"of": "e1", "question": "Really?"}}
        assert (await client.execute("underkeel.explain", further))["text"] == "Yes."

    play(played_model, test, "a word " * 200)


def test_a_follow_up_goes_on_with_the_same_words(home: Path, played_model: Path) -> None:
    async def test(client: CheckedClient, engine: ChattingEngine) -> None:
        client.open(URI, TEXT, "python")
        await client.execute("underkeel.explain", argument())
        further = {"id": "e2", "followUp": {"of": "e1", "question": "Why minus?"}}
        assert (await client.execute("underkeel.explain", further))["stopReason"] == "end"
        first, second = engine.chats
        opening = first.removesuffix("<assistant>")
        assert second == f"{opening}<assistant>Said.</><user>Why minus?</><assistant>"
        with pytest.raises(RequestError, match="no longer available"):
            await client.execute("underkeel.explain", {"id": "e3", "continue": "nobody"})
        assert client.events("e3")[-1]["kind"] == "error"

    play(played_model, test, "Said.")


def test_what_the_limit_cut_is_continued(home: Path, played_model: Path) -> None:
    whole = "".join(f"{number}, " for number in range(30))

    async def test(client: CheckedClient, engine: ChattingEngine) -> None:
        def reply(request: Any) -> str:
            prompt = bytes(request.prompt).decode()
            return whole.removeprefix(prompt.rpartition("<assistant>")[2])

        engine.reply = reply
        client.open(URI, TEXT, "python")
        first = await client.execute("underkeel.explain", argument())
        assert first["stopReason"] == "limit" and first["text"] == whole[:40]
        said, last = first["text"], "e1"
        for number in range(2, 9):
            asked = {"id": f"e{number}", "continue": last}
            more = await client.execute("underkeel.explain", asked)
            said, last = said + more["text"], f"e{number}"
            if more["stopReason"] == "end":
                break
        assert said == whole

    options = {"underkeel": {"actions": {"explain_tokens": 40}}}
    play(played_model, test, "", initializationOptions=options)


def test_a_completion_goes_first(home: Path, played_model: Path) -> None:
    """The explanation holds the engine; ghost text is answered all the same, and both end."""

    async def test(client: CheckedClient, engine: ChattingEngine) -> None:
        engine.token_ms = 4.0
        client.open(URI, TEXT, "python")
        params = {"command": "underkeel.explain", "arguments": [argument()]}
        _, response = client.send("workspace/executeCommand", params)
        await until(lambda: len(client.events("e1")) > 2)
        items = await client.complete(URI, 6, 8, invoked=True)
        assert items and not response.done()
        priorities = [request.priority.value for request in engine.asked]
        assert priorities[0] == "explain" and "interactive" in priorities
        engine.token_ms = 0.0
        assert (await response)["result"]["stopReason"] == "end"

    play(played_model, test, lambda asked: "x" if asked.priority == "interactive" else "word " * 90)


def test_a_budget_that_fell_makes_the_question_smaller(home: Path, played_model: Path) -> None:
    """The fake engine counts bytes, some four for a token: what the client made does not fit."""
    text = TEXT + "".join(f"\n\ndef name_{n}(a, b):\n    return a + b + {n}\n" for n in range(90))

    async def test(client: CheckedClient, engine: ChattingEngine) -> None:
        client.open(URI, text, "python")
        result = await client.execute("underkeel.explain", argument(kind="file"))
        assert result["stopReason"] == "end"
        (chat,) = engine.chats
        assert len(chat.encode()) < 4096
        assert "def clearance(self, draught)" in chat

    play(played_model, test, "Many functions.")


def test_a_plain_client_is_shown_a_document(home: Path, played_model: Path) -> None:
    async def test(client: CheckedClient, engine: ChattingEngine) -> None:
        client.answers["window/showDocument"] = lambda _: {"success": True}
        client.open(URI, TEXT, "python")
        found = await client.actions(URI, at(TEXT, "self.depth"))
        action = next(one for one in found if one["kind"] == "underkeel.explain")
        given = {name: action["command"][name] for name in ("command", "arguments")}
        result = await client.request("workspace/executeCommand", given)
        assert result["text"] == "Plainly."
        ((_, params),) = [one for one in client.asked if one[0] == "window/showDocument"]
        text, mode = await asyncio.to_thread(read, params["uri"])
        assert text == "# work.py\n\nPlainly.\n"
        assert mode & 0o077 == 0
        kinds = [
            params["value"]["kind"] for method, params in client.told if method == "$/progress"
        ]
        assert kinds.count("begin") == kinds.count("end") == 1
        assert client.events(result["id"]) == []

    play(played_model, test, "Plainly.", without("experimental"))


def test_without_documents_it_is_a_message(home: Path, played_model: Path) -> None:
    async def test(client: CheckedClient, engine: ChattingEngine) -> None:
        client.open(URI, TEXT, "python")
        await client.execute("underkeel.explain", argument())
        shown = [params for method, params in client.told if method == "window/showMessage"]
        assert shown == [{"type": 3, "message": "Plainly."}]

    capabilities = without("experimental")
    del capabilities["window"]
    play(played_model, test, "Plainly.", capabilities)


def test_the_bar_of_a_plain_client_cancels(home: Path, played_model: Path) -> None:
    async def test(client: CheckedClient, engine: ChattingEngine) -> None:
        engine.token_ms = 5.0
        client.open(URI, TEXT, "python")
        params = {"command": "underkeel.explain", "arguments": [argument()]}
        _, response = client.send("workspace/executeCommand", params)

        def progress() -> list[Any]:
            return [params for method, params in client.told if method == "$/progress"]

        await until(lambda: bool(progress()) and engine.in_flight > 0)
        assert progress()[0]["value"]["cancellable"] is True
        client.notify("window/workDoneProgress/cancel", {"token": progress()[0]["token"]})
        assert (await response)["result"]["stopReason"] == "cancelled"
        await until(lambda: progress()[-1]["value"]["kind"] == "end")
        assert [one for one in client.asked if one[0] == "window/showDocument"] == []

    play(played_model, test, "word " * 200, without("experimental"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "mood"}, "there is no kind"),
        ({"range": {"start": 3}}, "cannot be read"),
        ({"textDocument": {"uri": "file:///nowhere.py"}}, "not open"),
        ({"followUp": {"of": "x", "question": " "}}, "no longer available"),
    ],
)
def test_bad_arguments_are_explained(
    home: Path, played_model: Path, wrong: dict[str, Any], said: str
) -> None:
    async def test(client: CheckedClient, engine: ChattingEngine) -> None:
        client.open(URI, TEXT, "python")
        with pytest.raises(RequestError, match=said):
            await client.execute("underkeel.explain", argument(**wrong))
        assert [event["kind"] for event in client.events("e1")] == ["error"]
        assert said in client.events("e1")[0]["text"]
        assert (await client.execute("underkeel.explain", argument("e2")))["text"] == "Fine."

    play(played_model, test, "Fine.")


def test_a_file_of_secrets_is_never_shown(home: Path, played_model: Path) -> None:
    async def test(client: CheckedClient, engine: ChattingEngine) -> None:
        uri = "file:///harbour/.env"
        client.open(uri, "PASSWORD=deep-water-9\n", "plaintext")
        asked = {"id": "e1", "textDocument": {"uri": uri}, "kind": "file"}
        with pytest.raises(RequestError, match="may contain secrets"):
            await client.execute("underkeel.explain", asked)
        assert engine.asked == []

    play(played_model, test, "Never.")


def test_nothing_is_left_of_an_editor_that_goes(home: Path, played_model: Path) -> None:
    """The client leaves in the middle of an explanation."""
    before = threading.active_count()

    async def test(client: CheckedClient, engine: ChattingEngine) -> None:
        engine.token_ms = 5.0
        client.open(URI, TEXT, "python")
        params = {"command": "underkeel.explain", "arguments": [argument()]}
        client.send("workspace/executeCommand", params)
        await until(lambda: bool(engine.asked))
        assert await client.stop() == 0
        await until(lambda: engine.in_flight == 0)
        await asyncio.sleep(0)

    play(played_model, test, "word " * 400)
    assert threading.active_count() <= before + 1
