"""The daemon's model in the model picker of a real VS Code: another extension uses it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
import vscode_session
from chatting import call, large_context, played
from daemons import serving
from vscode_session import Step, VSCode

pytestmark = [
    pytest.mark.editor,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(vscode_session.missing()), reason=vscode_session.missing()),
]

USER = Path(vscode_session.__file__).parent / "vscode/user"
STEPS: list[Step] = [
    ("open", "open", {"file": "a.py"}),
    ("use", "command", {"title": "Test: Use the Model"}),
    ("seen", "file", {"file": "seen.json"}),
]


def test_the_model_in_the_picker(home: Path, tmp_path: Path, dense_model: Path) -> None:
    """A streamed answer, a tool call and its result, token counts, the budget, cancellation."""
    files = {file.name: file.read_text(encoding="utf-8") for file in USER.iterdir()}
    editor: VSCode = vscode_session.prepared(
        tmp_path,
        {"a.py": "x = 1\n"},
        server=f"{sys.executable} -m assistant lsp",
        kind="models",
        others=(vscode_session.packed(tmp_path, files),),
    )
    script = [
        "Hello **there**.",
        "Let me look. " + call("weather", city="Paris"),
        "It rains.",
        "a word " * 400,
    ]

    async def main() -> tuple[dict[str, Any], list[str]]:
        engine = played(dense_model, script)
        engine.token_ms = 2.0
        async with serving(engine, planner=lambda: large_context(dense_model)) as daemon:
            found = await asyncio.to_thread(editor.run, STEPS)
            await daemon.idle()
            return found, [bytes(one.prompt).decode("utf-8", "replace") for one in engine.asked]

    seen, prompts = asyncio.run(main())
    assert seen.get("failed") is None
    found = seen["seen"]
    assert "problem" not in found, found
    assert found["vendor"] == "underkeel" and found["tools"] and found["maxInputTokens"] > 1000
    assert found["count"] == [4, len("What is the weather in Paris?") + 5]
    assert "".join(found["text"]) == "Hello **there**." and len(found["text"]) > 1
    (made,) = found["calls"]
    assert (made["name"], made["input"]) == ("weather", {"city": "Paris"}) and made["callId"]
    assert found["answer"] == "It rains."
    assert any("18 degrees, rain" in prompt for prompt in prompts)
    assert "the prompt has 40" in found["refused"] and "budget" in found["refused"]
    assert len(found["afterCancel"]) < len(script[-1]) / 2
