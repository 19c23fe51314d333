"""Next edits over real stdio, with no model: the messages of Copilot's language server."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from assistant.cli.language_client import LanguageClient, language_server

ROOT = Path(__file__).resolve().parents[2]
PLACE = {"start": {"line": 0, "character": 9}, "end": {"line": 0, "character": 10}}
TEXT = "def load(é):\r\n    return é\r\n\r\nx = load(1)\r\ny = load(2)\r\n"


@asynccontextmanager
async def editing(folder: Path, **next_edits: Any) -> AsyncIterator[LanguageClient]:
    """A server that completes nothing, so that no daemon is started."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    async with language_server(env=env) as client:
        options = {"completion": {"enabled": False}, "next_edits": next_edits}
        params = {
            "processId": None,
            "rootUri": folder.as_uri(),
            "capabilities": {"general": {"positionEncodings": ["utf-16"]}},
            "initializationOptions": {"underkeel": options},
        }
        result = await client.request("initialize", params)
        commands = result["capabilities"]["executeCommandProvider"]["commands"]
        assert {"underkeel.acceptNextEdit", "underkeel.rejectNextEdit"} <= set(commands)
        client.notify("initialized", {})
        yield client


def change(
    client: LanguageClient, uri: str, version: int, place: tuple[int, int, int], text: str
) -> None:
    line, start, stop = place
    span = {"start": {"line": line, "character": start}, "end": {"line": line, "character": stop}}
    params = {
        "textDocument": {"uri": uri, "version": version},
        "contentChanges": [{"range": span, "text": text}],
    }
    client.notify("textDocument/didChange", params)


async def next_edits(
    client: LanguageClient, uri: str, version: int, line: int = 0, character: int = 4
) -> list[dict[str, Any]]:
    params = {
        "textDocument": {"uri": uri, "version": version},
        "position": {"line": line, "character": character},
        "context": {"triggerKind": 2, "diagnostics": [{"range": PLACE, "message": "é is bad"}]},
    }
    answer = await client.request("textDocument/copilotInlineEdit", params)
    found: list[dict[str, Any]] = answer["edits"]
    return found


def test_a_rename_is_finished_accepted_and_rejected(home: Path, tmp_path: Path) -> None:
    async def main() -> None:
        uri = (tmp_path / "a.py").as_uri()
        async with editing(tmp_path) as client:
            client.open(uri, TEXT, "python")
            client.notify("textDocument/didFocus", {"textDocument": {"uri": uri}})
            assert await next_edits(client, uri, 1) == []
            for version, (column, text) in enumerate(((4, "r"), (5, "ea"), (7, "d")), start=2):
                old = {2: 8, 3: 5, 4: 7}[version]
                change(client, uri, version, (0, column, old), text)
            (edit,) = await next_edits(client, uri, 4)
            assert edit["text"] == "read"
            assert edit["range"] == {
                "start": {"line": 3, "character": 4},
                "end": {"line": 3, "character": 8},
            }
            assert edit["textDocument"] == {"uri": uri, "version": 4}
            assert await next_edits(client, uri, 3) == [], "a stale version"
            client.notify("textDocument/didShowInlineEdit", {"item": {"command": edit["command"]}})
            change(client, uri, 5, (3, 4, 8), "read")
            await client.request("workspace/executeCommand", edit["command"])
            (second,) = await next_edits(client, uri, 5)
            assert second["range"]["start"] == {"line": 4, "character": 4}
            reject = {**second["command"], "command": "underkeel.rejectNextEdit"}
            await client.request("workspace/executeCommand", reject)
            assert await next_edits(client, uri, 5) == [], "a rejected edit is remembered"
            assert await client.stop() == 0

    asyncio.run(main())
    command = [sys.executable, "-m", "assistant", "stats", "--json"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    row = json.loads(done.stdout)["languages"]["python (next edits)"]
    assert (row["offered"], row["shown"], row["accepted"]) == (2, 2, 1)


def test_what_clients_of_copilots_server_ask(home: Path, tmp_path: Path) -> None:
    """They ask for an account, and send settings of other servers, which change nothing here."""

    async def main() -> None:
        uri = (tmp_path / "a.py").as_uri()
        async with editing(tmp_path, languages_off=["go"]) as client:
            assert (await client.request("checkStatus", {}))["status"] == "OK"
            assert (await client.request("signIn", {}))["status"] == "AlreadySignedIn"
            assert (await client.request("signOut", {}))["status"] == "NotSignedIn"
            assert await client.request("setEditorInfo", {"editorInfo": {"name": "x"}}) == "OK"
            assert (await client.request("getVersion", {}))["version"]
            others: list[Any] = [{"telemetry": {"telemetryLevel": "all"}}, None, [], "x"]
            for settings in others:
                client.notify("workspace/didChangeConfiguration", {"settings": settings})
            for language, count in (("python", 1), ("go", 0)):
                client.open(uri, TEXT, language)
                change(client, uri, 2, (0, 4, 8), "read")
                assert len(await next_edits(client, uri, 2)) == count
                client.notify("textDocument/didClose", {"textDocument": {"uri": uri}})
            assert await next_edits(client, uri, 2) == [], "a closed document"

    asyncio.run(main())


def test_messages_of_another_form(home: Path, tmp_path: Path) -> None:
    """C11: nothing is an error, and the next request is answered."""
    odd: list[Any] = [
        *(None, {}, [], "x", 5, {"item": None}, {"item": {"command": []}}),
        {"item": {"command": {"arguments": [{}]}}},
        {"textDocument": {"uri": 5}},
    ]
    lists: list[Any] = [None, [], [None], ["x"], [{"id": 5}], [[]]]
    contexts: list[Any] = [None, {"diagnostics": 5}, {"diagnostics": [1, None, {"range": []}]}]

    async def main() -> None:
        uri = (tmp_path / "a.py").as_uri()
        async with editing(tmp_path) as client:
            client.open(uri, TEXT, "python")
            change(client, uri, 2, (0, 4, 8), "read")
            here = {"uri": uri, "version": 2}
            for params in (
                *odd[:2],
                {"textDocument": here},
                {"textDocument": here, "position": "x"},
                {"textDocument": here, "position": {"line": "0", "character": None}},
                {"textDocument": {"uri": "::"}, "position": {"line": 0, "character": 0}},
                {"textDocument": {"uri": uri, "version": 99}, "position": PLACE["start"]},
            ):
                assert await client.request("textDocument/copilotInlineEdit", params) == {
                    "edits": []
                }
            for params in odd:
                client.notify("textDocument/didShowInlineEdit", params)
                client.notify("textDocument/didFocus", params)
            for command in ("underkeel.acceptNextEdit", "underkeel.rejectNextEdit"):
                for arguments in lists:
                    call = {"command": command, "arguments": arguments}
                    assert await client.request("workspace/executeCommand", call) is None
            for context in contexts:
                far = {"line": 10**9, "character": 10**9}
                params = {"textDocument": {"uri": uri}, "position": far, "context": context}
                answer = await client.request("textDocument/copilotInlineEdit", params)
                assert [edit["text"] for edit in answer["edits"]] == ["read"]

    asyncio.run(main())


def test_a_rename_goes_on_after_a_use_right_below_was_accepted(home: Path, tmp_path: Path) -> None:
    """By hand, a use beside the declaration ends the offers until more uses have the new name."""
    text = "def f(size):\n    total = size\n    run(total)\n    return size\n"

    async def main() -> None:
        for accepts, expected in ((True, [3]), (False, [])):
            uri = (tmp_path / f"{accepts}.py").as_uri()
            async with editing(tmp_path) as client:
                client.open(uri, text, "python")
                change(client, uri, 2, (0, 6, 10), "width")
                (edit,) = await next_edits(client, uri, 2)
                assert edit["range"]["start"] == {"line": 1, "character": 12}
                change(client, uri, 3, (1, 12, 16), "width")
                if accepts:
                    await client.request("workspace/executeCommand", edit["command"])
                found = await next_edits(client, uri, 3)
                assert [one["range"]["start"]["line"] for one in found] == expected

    asyncio.run(main())


def test_languages_and_the_switch(home: Path, tmp_path: Path) -> None:
    async def quiet(**settings: Any) -> list[dict[str, Any]]:
        uri = (tmp_path / "a.py").as_uri()
        async with editing(tmp_path, **settings) as client:
            client.open(uri, TEXT, "python")
            change(client, uri, 2, (0, 4, 8), "read")
            return await next_edits(client, uri, 2)

    assert asyncio.run(quiet(languages_off=["python"])) == []
    assert asyncio.run(quiet(enabled=False)) == []


def test_a_rename_goes_on_in_another_file(home: Path, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def load():\n    pass\n", "utf-8")
    (tmp_path / "b.py").write_text("from a import load\n\nload()\n", "utf-8")

    async def main() -> None:
        uri = (tmp_path / "a.py").as_uri()
        async with editing(tmp_path) as client:
            client.open(uri, "def load():\n    pass\n", "python")
            change(client, uri, 2, (0, 4, 8), "read")
            found: list[dict[str, Any]] = []
            for _ in range(200):  # until the index has been built
                found = await next_edits(client, uri, 2)
                if found:
                    break
                await asyncio.sleep(0.02)
            (edit,) = found
            assert edit["textDocument"] == {"uri": (tmp_path / "b.py").as_uri(), "version": None}
            assert edit["range"]["start"] == {"line": 0, "character": 14}
            assert edit["text"] == "read"

    asyncio.run(main())


async def offered(
    client: LanguageClient, uri: str, version: int, line: int = 0
) -> list[dict[str, Any]]:
    """Next edits, with time for the index to be built."""
    for _ in range(200):
        found = await next_edits(client, uri, version, line)
        if found:
            return found
        await asyncio.sleep(0.02)
    return []


async def accept(
    client: LanguageClient, edit: dict[str, Any], texts: dict[str, str]
) -> tuple[str, int]:
    """Apply an edit as an editor does, in a file that may have to be opened.

    Returns:
        The file's URI, and its version now.
    """
    uri: str = edit["textDocument"]["uri"]
    lines = texts[uri].split("\n")
    start, end = edit["range"]["start"], edit["range"]["end"]
    assert start["line"] == end["line"]
    line = lines[start["line"]]
    lines[start["line"]] = line[: start["character"]] + edit["text"] + line[end["character"] :]
    known = edit["textDocument"]["version"]
    if known is None:
        client.open(uri, texts[uri], "python")
    version = (known or 1) + 1
    texts[uri] = "\n".join(lines)
    place = start["line"], start["character"], end["character"]
    change(client, uri, version, place, edit["text"])
    await client.request("workspace/executeCommand", edit["command"])
    return uri, version


SIGNATURE = {
    "a.py": "def load(path, size):\n    return path\n",
    "b.py": "from a import load\n\nload(1, 2)\n",
    "c.py": "import a\n\na.load(3, 4)\n",
}
RENAME = {
    "a.py": "def load(path):\n    return path\n",
    "b.py": "from a import load\n\nload(1)\n",
    "c.py": "import a\n\na.load(3)\n",
}


@pytest.mark.parametrize(
    ("files", "typed", "expected"),
    [
        (
            SIGNATURE,
            ((0, 13, 19), ""),
            {"b.py": "from a import load\n\nload(1)\n", "c.py": "import a\n\na.load(3)\n"},
        ),
        (
            RENAME,
            ((0, 4, 8), "read"),
            {"b.py": "from a import read\n\nread(1)\n", "c.py": "import a\n\na.read(3)\n"},
        ),
    ],
)
def test_what_follows_is_followed_through_the_files(
    home: Path,
    tmp_path: Path,
    files: dict[str, str],
    typed: tuple[tuple[int, int, int], str],
    expected: dict[str, str],
) -> None:
    """The next edit is asked for where the last one was accepted, as an editor does after a jump;
    a file that was edited after nothing was accepted shows only its own."""
    for name, text in files.items():
        (tmp_path / name).write_text(text, "utf-8")

    async def main() -> None:
        uris = {name: (tmp_path / name).as_uri() for name in files}
        texts = {uris[name]: text for name, text in files.items()}
        async with editing(tmp_path) as client:
            for number in range(25):  # more than are read for a next edit, the last edited first
                client.open((tmp_path / f"open{number}.py").as_uri(), "x = 1\n", "python")
            client.open(uris["a.py"], files["a.py"], "python")
            change(client, uris["a.py"], 2, *typed)
            at, version = uris["a.py"], 2
            for _ in range(8):
                found = await offered(client, at, version)
                if not found:
                    break
                at, version = await accept(client, found[0], texts)
            assert {name: texts[uris[name]] for name in expected} == expected

    asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "text", "typed", "files", "expected"),
    [
        (
            "a.go", 'package main\n\nimport (\n\t"fmt"\n)\n\n', "var x = shape.Area()",
            {"shape/a.go": "package shape\n\nfunc Area() int { return 1 }\n",
             "b.go": 'package main\n\nimport "example.com/x/shape"\n\nvar y = shape.Area()\n'},
            '\n\t"example.com/x/shape"\n',
        ),
        (
            "p/A.java", "package p;\n\n", "class A { Shape x; }",
            {"p/q/Shape.java": "package p.q;\n\npublic class Shape {}\n"},
            "\nimport p.q.Shape;\n",
        ),
        (
            "src/a.rs", "use std::fs;\n\n", "fn f(x: Shape) {}",
            {"src/shape.rs": "pub struct Shape;\n"},
            "use crate::shape::Shape;\n",
        ),
        (
            "A.cs", "using System.IO;\n\n", "class A { Shape x; }",
            {"q/Shape.cs": "namespace Geo\n{\n    public class Shape { }\n}\n",
             "q/B.cs": "using Geo;\n\nclass B { Shape x; }\n"},
            "using Geo;\n",
        ),
    ],
)  # fmt: skip
def test_a_missing_import_is_found_in_the_index(
    home: Path, tmp_path: Path, path: str, text: str, typed: str, files: dict[str, str],
    expected: str,
) -> None:  # fmt: skip
    for name, content in {**files, path: text}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, "utf-8")

    async def main() -> None:
        uri = (tmp_path / path).as_uri()
        async with editing(tmp_path) as client:
            client.open(uri, text, "")
            change(client, uri, 2, (text.count("\n"), 0, 0), typed)
            (edit,) = await offered(client, uri, 2)
            assert edit["text"] == expected

    asyncio.run(main())


def test_an_edit_that_was_passed_over_twice_is_not_offered_again(
    home: Path, tmp_path: Path
) -> None:
    text = "def load():\n    pass\n\nx = load(1)\n\n\none = 1\n\n\ntwo = 2\n\n\nthree = 3\n"

    async def main() -> None:
        uri = (tmp_path / "a.py").as_uri()
        async with editing(tmp_path) as client:
            client.open(uri, text, "python")
            change(client, uri, 2, (0, 4, 8), "read")
            offered = []
            for version, line in ((3, 6), (4, 9), (5, 12)):
                for _ in range(2):  # a second look before another change is the same moment
                    found = await next_edits(client, uri, version - 1)
                    offered.append([one["text"] for one in found])
                    for one in found:
                        shown = {"item": {"command": one["command"]}}
                        client.notify("textDocument/didShowInlineEdit", shown)
                change(client, uri, version, (line, 0, 0), "_")
            assert offered == [["read"], ["read"], ["read"], ["read"], [], []]

    asyncio.run(main())
