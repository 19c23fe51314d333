"""Statistics from the editor's messages to `underkeel stats`, through the real language server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chatting import ChattingEngine, environment, play
from checked_client import CheckedClient

from assistant import statistics

URI = "file:///harbour/work.py"
TEXT = "def add(a, b):\n    return \n"
SECRET = "hunter_of_secrets"


def type_in(client: CheckedClient, text: str) -> None:
    here = {"line": 1, "character": 11}
    change = {"range": {"start": here, "end": here}, "text": text}
    document = {"uri": URI, "version": 2}
    client.notify("textDocument/didChange", {"textDocument": document, "contentChanges": [change]})


def stats() -> Any:
    command = [sys.executable, "-m", "assistant", "stats", "--json"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("enabled", [True, False])
def test_an_accepted_suggestion_is_counted(home: Path, played_model: Path, enabled: bool) -> None:
    async def test(client: CheckedClient, engine: ChattingEngine) -> None:
        client.open(URI, TEXT, "python")
        (item,) = await client.complete(URI, 1, 11)
        client.notify("textDocument/didShowCompletion", {"item": item})
        part = {"item": item, "acceptedLength": 1}
        client.notify("textDocument/didPartiallyAcceptCompletion", part)
        type_in(client, item["insertText"])
        await client.execute(item["command"]["command"], item["command"]["arguments"][0])
        assert await client.stop() == 0

    options = {"underkeel": {"statistics": {"enabled": enabled}}}
    play(played_model, test, f" a + {SECRET}\n", initializationOptions=options)
    if not enabled:
        assert not statistics.file().exists()
        return
    found = stats()["languages"]["python"]
    assert (found["offered"], found["shown"], found["accepted"], found["partly"]) == (1, 1, 1, 0)
    assert found["taken_chars"] == found["kept_chars"] == len(f"a + {SECRET}")
    assert sum(found["latency_bins"]) == 1
    data = statistics.file().read_bytes()
    assert SECRET.encode() not in data and b"harbour" not in data, "numbers only"
