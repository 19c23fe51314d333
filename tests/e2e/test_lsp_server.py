"""The language server over real stdio, with a real daemon whose engine the test plays."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from daemons import Daemon, fake_model, serving, until
from fake_engine import FakeEngine
from lsprotocol import types
from lsprotocol.converters import get_converter

from assistant.cli.language_client import LanguageClient, language_server
from assistant.daemon.loading import Loadable
from assistant.engine.types import GenerateRequest, Priority
from assistant.errors import UnknownModelError
from assistant.models import vocabulary

ROOT = Path(__file__).resolve().parents[2]
URI = "file:///work.py"
TEXT = "def add(a, b):\n    return \n"


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@asynccontextmanager
async def editing(
    text: str = TEXT, *, encoding: str = "utf-8", options: Any = None, experimental: Any = None
) -> AsyncIterator[LanguageClient]:
    async with language_server(env=environment()) as client:
        await client.initialise(encodings=(encoding,), options=options, experimental=experimental)
        client.open(URI, text, "python")
        yield client
        assert_valid(client)


def assert_valid(client: LanguageClient) -> None:
    """Everything that the server said of its own accord is as the protocol says."""
    converter = get_converter()
    for method, params in client.told:
        if method in types.METHOD_TO_TYPES:
            message = {"jsonrpc": "2.0", "method": method, "params": params}
            converter.structure(message, types.METHOD_TO_TYPES[method][0])
        else:
            assert method in {"underkeel/status", "underkeel/completionUpdate"}


def play(
    model: Path,
    test: Callable[[Daemon, FakeEngine], Awaitable[None]],
    reply: Callable[[GenerateRequest], str],
) -> None:
    """Serve with a played engine that has the model's vocabulary."""

    async def main() -> None:
        engine = FakeEngine(reply=reply, n_vocab=vocabulary.load(model).size)
        async with serving(engine, planner=lambda: fake_model(str(model))) as daemon:
            await test(daemon, engine)

    asyncio.run(main())


def asked(engine: FakeEngine) -> list[GenerateRequest]:
    """What somebody waits for. Work ahead of the user may come before, between and after."""
    interactive = [made for made in engine.requests if made.priority is Priority.INTERACTIVE]
    return [made for made in interactive if made.max_tokens]


def messages(client: LanguageClient) -> list[str]:
    return [params["message"] for method, params in client.told if method == "window/showMessage"]


def test_initialise_says_what_the_server_can_do_and_imports_no_more() -> None:
    """What `initialize` waits for is imports: neither the client nor a tokeniser is among them."""
    code = (
        "import sys, lsp.server; lsp.server.create(); "
        "heavy = {'httpx', 'tiktoken', 'numpy', 'llama_cpp', 'rich', 'typer', 'tree_sitter'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

    async def main() -> None:
        async with language_server(env=environment()) as client:
            result = await client.initialise(encodings=("utf-16", "utf-8"))
            capabilities = result["capabilities"]
            assert capabilities["inlineCompletionProvider"] == {}
            assert capabilities["positionEncoding"] == "utf-16"
            assert capabilities["textDocumentSync"]["change"] == 2
            assert capabilities["experimental"]["underkeel"] == {"version": 1}
            assert "underkeel.accepted" in capabilities["executeCommandProvider"]["commands"]
            assert await client.stop() == 0

    asyncio.run(main())


def test_the_language_server_never_loads_llama_cpp(home: Path, played_model: Path) -> None:
    code = (
        "import sys, lsp.__main__, lsp.server, lsp.completion.completion_stream\n"
        "import assistant.client.client\n"
        "from assistant.models import vocabulary, families\n"
        f"families.layout_for(vocabulary.load({str(played_model)!r}))\n"
        "print([name for name in sys.modules if name.startswith('llama_cpp')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_ghost_text(home: Path, played_model: Path) -> None:
    async def test(daemon: Daemon, engine: FakeEngine) -> None:
        async with editing() as client:
            _, response = client.send_completion(URI, 1, 11)
            message = await response
            get_converter().structure(message, types.InlineCompletionResponse)
            (item,) = message["result"]["items"]
            assert item["insertText"] == "a + b"
            here = {"line": 1, "character": 11}
            assert item["range"] == {"start": here, "end": here}
            assert item["command"]["command"] == "underkeel.accepted"
            taken = {
                "command": item["command"]["command"],
                "arguments": item["command"]["arguments"],
            }
            assert await client.request("workspace/executeCommand", taken) is None
            (request,) = asked(engine)
            prompt = vocabulary.load(played_model).decode(request.prompt)
            assert "def add(a, b):\n    return" in prompt
            assert "return " not in prompt  # the blank is given back

    play(played_model, test, lambda _: " a + b\n\n\ndef")


BLOCK = "for a in b:\n        if a:\n            return a\n    return b"


@pytest.mark.parametrize("updates", [True, False])
def test_a_block_grows_after_its_first_line(home: Path, played_model: Path, updates: bool) -> None:
    """Our plugins get updates, other clients the longer text when they ask."""

    async def test(daemon: Daemon, engine: FakeEngine) -> None:
        engine.token_ms = 4
        offered = {"underkeel": {"completionUpdate": updates}}
        text = "def add(a, b):\n    \n"
        options = {"underkeel": {"completion": {"first_line_ms": 0, "ahead": False}}}
        async with editing(text, options=options, experimental=offered) as client:
            (item,) = await client.complete(URI, 1, 4)
            first = item["insertText"]
            assert BLOCK.startswith(first) and first.startswith("for a in b:") and first != BLOCK
            if updates:
                received = [params for method, params in client.told if "Update" in method]
                while not received or not received[-1]["complete"]:
                    await asyncio.sleep(0.02)
                    received = [params for method, params in client.told if "Update" in method]
                for update in received:
                    document = {"uri": URI, "version": 1}
                    assert (update["textDocument"], update["position"]) == (
                        document,
                        {"line": 1, "character": 4},
                    )
                    same = {**update["item"], "insertText": ""}
                    assert same == {**item, "insertText": ""}
                texts = [update["item"]["insertText"] for update in received]
                assert texts == sorted(texts, key=len) and texts[-1] == BLOCK
            else:
                texts = [first]
                while texts[-1] != BLOCK:
                    await asyncio.sleep(0.02)
                    texts += [one["insertText"] for one in await client.complete(URI, 1, 4)]
                assert all(after.startswith(before) for before, after in pairwise(texts))
                assert not any("Update" in method for method, _ in client.told)
            assert len(asked(engine)) == 1

    play(played_model, test, lambda _: f"{BLOCK}\n\n\ndef sub(a, b):\n")


@pytest.mark.parametrize(("encoding", "units"), [("utf-8", 4), ("utf-16", 2), ("utf-32", 1)])
def test_positions_count_in_the_agreed_units(
    home: Path, played_model: Path, encoding: str, units: int
) -> None:
    """The cursor stands behind an astral character, a form feed and a U+2028."""

    async def test(daemon: Daemon, engine: FakeEngine) -> None:
        text = "\f\n# \u2028\nx = '\U0001f600' + \n"
        async with editing(text, encoding=encoding) as client:
            character = 5 + units + 4
            change = {
                "range": {
                    "start": {"line": 2, "character": 5 + units},
                    "end": {"line": 2, "character": 6 + units},
                },
                "text": "!'",
            }
            client.notify(
                "textDocument/didChange",
                {"textDocument": {"uri": URI, "version": 2}, "contentChanges": [change]},
            )
            (item,) = await client.complete(URI, 2, character + 1)
            assert item["range"]["start"] == {"line": 2, "character": character + 1}
            words = vocabulary.load(played_model)
            assert "\f\n# \u2028\nx = '\U0001f600!' +" in words.decode(asked(engine)[0].prompt)

    play(played_model, test, lambda _: " y")


def test_a_storm_of_cancelled_requests(home: Path, played_model: Path) -> None:
    async def test(daemon: Daemon, engine: FakeEngine) -> None:
        async with editing() as client:
            await client.complete(URI, 0, 0)
            before = len(asked(engine))
            engine.pause()
            responses: list[Any] = []
            for number in range(40):
                if responses:
                    client.cancel(responses[-1][0])
                version = {"uri": URI, "version": number + 2}
                here = {"line": 1, "character": 11}
                change = {"range": {"start": here, "end": here}, "text": "xy"[number % 2]}
                client.notify(
                    "textDocument/didChange",
                    {"textDocument": version, "contentChanges": [change]},
                )
                responses.append(client.send_completion(URI, 1, 12))
                await asyncio.sleep(0.01 * (number % 3))
            engine.resume()
            answers = [await response for _, response in responses]
            # One that a newer request overtook before its own cancellation came is empty instead.
            for answer in answers[:-1]:
                cancelled = "error" in answer and answer["error"]["code"] == -32800
                assert cancelled or answer["result"]["items"] == [], answer
            assert answers[-1]["result"]["items"]
            await daemon.idle()
            assert engine.in_flight == 0
            assert len(asked(engine)) - before <= 40
            client.open("file:///next.py", TEXT, "python")
            assert await client.complete("file:///next.py", 1, 11)

    play(played_model, test, lambda _: " a + b")


def test_a_worker_that_dies_in_between_is_not_felt(home: Path, played_model: Path) -> None:
    async def test(daemon: Daemon, engine: FakeEngine) -> None:
        async with editing() as client:
            assert await client.complete(URI, 1, 11)
            engine.pause()
            _, response = client.send_completion(URI, 0, 14)
            await until(lambda: len(asked(engine)) == 2)
            engine.kill()
            assert (await response)["result"]["items"]
            assert messages(client) == []

    play(played_model, test, lambda _: " a + b")


def test_wrong_settings_are_reported_and_do_not_stop_anything(
    home: Path, played_model: Path
) -> None:
    async def test(daemon: Daemon, engine: FakeEngine) -> None:
        options = {"underkeel": {"completion": {"max_tokens": "many", "debounce_ms": 0}}}
        async with editing(options=options) as client:
            assert await client.complete(URI, 1, 11)
            assert asked(engine)[0].max_tokens == 64
            (told,) = messages(client)
            assert "completion.max_tokens" in told and "64" in told
            changed = {"underkeel": {"completion": {"enabled": False}}}
            client.notify("workspace/didChangeConfiguration", {"settings": changed})
            assert await client.complete(URI, 1, 11) == []

    play(played_model, test, lambda _: " a + b")


def test_without_a_model_it_says_what_to_do_once(home: Path) -> None:
    def planner() -> Loadable:
        raise UnknownModelError(
            "there is no such model", subject="nope", advice="Run: underkeel pull starter-moe"
        )

    async def main() -> None:
        async with serving(planner=planner, ready=False), editing() as client:
            for _ in range(3):
                assert await client.complete(URI, 1, 11) == []
            (told,) = messages(client)
            assert "nope" in told and "underkeel pull starter-moe" in told

    asyncio.run(main())


def test_messages_of_no_sense_are_survived(home: Path, played_model: Path) -> None:
    async def test(daemon: Daemon, engine: FakeEngine) -> None:
        async with language_server(env=environment(), stderr=subprocess.PIPE) as client:
            await client.initialise()
            secret = "the_users_own_code"
            client.open(URI, f"{secret}\n", "python")
            span = {"start": {"line": 9, "character": 9}, "end": {"line": -1, "character": 0}}
            change = {"range": span, "text": secret}
            document = {"uri": "file:///never-opened.py", "version": 2}
            client.notify(
                "textDocument/didChange", {"textDocument": document, "contentChanges": [change]}
            )
            client.notify("textDocument/didChange", {"secret": secret})
            client.notify("textDocument/nonsense", {"secret": secret})
            client.notify("textDocument/didShowCompletion", [secret])
            assert await client.complete("file:///never-opened.py", 3, 4) == []
            assert await client.complete(URI, 99, 99)
            client.open("file:///binary", "\0\x01\x02", "plaintext")
            assert await client.complete("file:///binary", 0, 1) == []
            assert await client.stop() == 0
            assert client.process.stderr is not None
            assert secret.encode() not in await client.process.stderr.read()

    play(played_model, test, lambda _: " a + b")


def test_a_client_that_just_goes_leaves_no_server_behind() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "lsp"],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == 1


@pytest.mark.parametrize("left", ["at once", "after the answer", "in a message"])
@pytest.mark.parametrize("command", [["lsp"], ["assistant", "acp"]])
def test_a_client_that_goes_without_reading_is_no_error(command: list[str], left: str) -> None:
    """Editors on Node give a socket as stdin; closing it with messages unread resets it."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=environment(),
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=subprocess.PIPE,
        )
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize"}
    params: dict[str, Any] = {"processId": None, "rootUri": None, "capabilities": {}}
    params["protocolVersion"] = 1
    text = json.dumps({**body, "params": params}).encode()
    of_lsp = command == ["lsp"]
    with ours:
        ours.sendall(b"Content-Length: %d\r\n\r\n" % len(text) + text if of_lsp else text + b"\n")
        if left != "at once":
            ours.settimeout(30)
            ours.recv(1, socket.MSG_PEEK)
        if left == "in a message":
            ours.sendall(b"Content-Length: 99\r\n\r\n{" if of_lsp else b"{")
    _, errors = process.communicate(timeout=30)
    assert errors == b"", errors.decode()
    assert process.returncode == (1 if of_lsp else 0)


def complete(place: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "assistant", "complete", place, *flags],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_complete_explains_a_bad_place(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("a\n")
    done = complete(f"{file}:3:1")
    assert done.returncode == 1
    assert done.stderr.startswith("underkeel: ") and "there is no line 3" in done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr


def test_complete_prints_what_the_language_server_suggests(
    home: Path, tmp_path: Path, played_model: Path
) -> None:
    file = tmp_path / "a.py"
    file.write_text("s = '\U0001f600'\r\ndef add(a, b):\r\n    return ", newline="")

    async def test(daemon: Daemon, engine: FakeEngine) -> None:
        done = await asyncio.to_thread(complete, f"{file}:3:12", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["items"] == [{"text": "a + b"}]
        done = await asyncio.to_thread(complete, f"{file}:3:12")
        assert done.stdout == "a + b\n"
        file.write_text("")
        done = await asyncio.to_thread(complete, f"{file}:1:1")
        assert done.returncode == 0

    play(played_model, test, lambda _: " a + b")


def test_a_huge_document_is_answered_or_left_alone(home: Path, played_model: Path) -> None:
    """50 MB, whether of short lines or of a single one: the server lives and serves the next."""

    async def test(daemon: Daemon, engine: FakeEngine) -> None:
        async with editing() as client:
            for number, text in enumerate(("value = 12345\n" * 3_600_000, "x" * 50_000_000)):
                uri = f"file:///huge{number}.py"
                client.open(uri, text, "python")
                last = text.count("\n")
                assert isinstance(await client.complete(uri, last, 0), list)
                client.notify("textDocument/didClose", {"textDocument": {"uri": uri}})
            client.open("file:///next.py", TEXT, "python")
            assert await client.complete("file:///next.py", 1, 11)

    play(played_model, test, lambda _: " a + b")
