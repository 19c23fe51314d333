"""The agent's panel in a real VS Code, on `underkeel acp` and a real daemon with a played model."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
import vscode_session
from acp_tap import messages, wrong_messages
from chatting import call, large_context, played
from daemons import serving
from vscode_scenes import keep_pictures
from vscode_session import Step, VSCode

pytestmark = [
    pytest.mark.editor,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(vscode_session.missing()), reason=vscode_session.missing()),
]

CODE = "def area(w, h):\n    return w + h\n\n\nprint(area(2, 3))\n"
ANSWER = """`area` **multiplies** now.

```python
area(2, 3)  # 6
```

I could not run the check, since you refused it.
<img src="https://example.com/x.png"><button id="send">Allow</button><script>alert(1)</script>"""
SCRIPT = [
    call("update_plan", items=[{"text": "Read the code", "status": "completed"},
                               {"text": "Fix area", "status": "in_progress"},
                               {"text": "Check it", "status": "pending"}]),
    call("read_file", path="shape.py"),
    call("replace_text", path="shape.py", old="w + h", new="w * h"),
    call("run_command", command="python3 shape.py"),
    ANSWER,
    call("run_command", command="sleep 600"),
]  # fmt: skip


def press(name: str, key: str, selector: str = "#text", **more: Any) -> Step:
    return (name, "inWebview", {"selector": selector, "press": key, **more})


def see(name: str, selector: str, text: str) -> Step:
    return (name, "webview", {"selector": selector, "text": text})


STEPS: list[Step] = [
    ("open", "open", {"file": "shape.py"}),
    ("end", "keys", {"keys": ["Control+End"]}),
    ("draft", "type", {"text": "# draft"}),
    ("select", "keys", {"keys": ["Control+Home", "Shift+ArrowDown", "Shift+End"]}),
    ("attach", "command", {"title": "Underkeel: Attach Selection or File to the Agent"}),
    see("attached", "#attached", "shape.py:1-2"),
    press("task", "Enter", fill="Fix area."),
    see("asked", "#asked", "Edit shape.py"),
    ("diff", "see", {"selector": ".monaco-diff-editor .modified", "text": "w * h"}),
    ("narrow.png", "picture", {"file": "agent.png"}),
    press("allow", "Control+Enter"),
    see("command", "#asked", "python3 shape.py"),
    ("reject", "inWebview", {"selector": "#answers button:last-child"}),
    see("said", "main .text strong", "multiplies"),
    see("code", "main .text pre", "area(2, 3)"),
    see("budget", "#tokens", "tokens"),
    see("ready", "#send", "Send"),
    ("foreign", "countInWebview", {"selector": "main img, main button#send, main script"}),
    ("lines", "lines", {}),
    ("theme", "command", {"title": "Preferences: Toggle between Light/Dark Themes"}),
    ("wider", "drag", {"from": [343, 300], "to": [640, 300]}),
    ("wide.png", "picture", {"file": "agent-dark.png"}),
    press("wait", "Enter", fill="Wait."),
    see("sleep", "#asked", "sleep 600"),
    ("allow it", "inWebview", {"selector": "#answers button:first-child"}),
    ("stop", "inWebview", {"selector": "#stop"}),
    see("stopped", "main", "Stopped: cancelled."),
    ("new", "command", {"title": "Underkeel: New Agent Session"}),
    ("history", "command", {"title": "Underkeel: Earlier Agent Sessions"}),
    ("chosen", "pick", {"text": "Fix area."}),
    see("again", "main .text strong", "multiplies"),
    ("undo", "command", {"title": "Underkeel: Undo All Changes of the Agent's Session"}),
    see("undone", "main", "Restored: shape.py"),
]  # fmt: skip


def test_a_task_in_the_panel(home: Path, tmp_path: Path, played_model: Path) -> None:
    """Selection attached, diff, approvals by key and button, an unsaved document, stop, history."""
    log = tmp_path / "acp.jsonl"
    tap = Path(__file__).parents[1] / "equipment" / "acp_tap.py"
    before = f'case "$1" in acp) exec {sys.executable} {tap} {log} acp ;; esac'
    editor: VSCode = vscode_session.prepared(tmp_path, {"shape.py": CODE}, before=before)
    editor.settings(files__autoSave="off")

    async def main() -> dict[str, Any]:
        engine = played(played_model, SCRIPT)
        async with serving(engine, planner=lambda: large_context(played_model)):
            return await asyncio.to_thread(editor.run, STEPS)

    seen = asyncio.run(main())
    keep_pictures(editor)
    assert seen.get("failed") is None
    assert "# draft" in "\n".join(seen["lines"]) and "return w * h" in "\n".join(seen["lines"])
    assert seen["foreign"] == 0, "a model's Markdown makes no images, buttons or scripts"
    assert (editor.workspace / "shape.py").read_text() == CODE + "# draft"
    assert not (wrong := wrong_messages(log)), "\n".join(wrong)
    methods = {message.get("method") for _, message in messages(log)}
    assert {"fs/read_text_file", "fs/write_text_file", "session/cancel", "session/load"} <= methods
