"""The extension in a real VS Code, from the built .vsix; the language server is scripted.

One session is driven once, and each test looks at a part of what was seen.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import vscode_session
from vscode_session import EXTENSION, Step, VSCode

pytestmark = [
    pytest.mark.editor,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(vscode_session.missing()), reason=vscode_session.missing()),
]

SERVER = Path(vscode_session.__file__).with_name("scripted_lsp.py")
PROGRAM = f"""#!/bin/sh
case "$1" in
  lsp) exec {sys.executable} -IS {SERVER} utf-16 ;;
  plan) echo "the plan" ;;
  models) [ "$2" = list ] && echo '[{{"name": "starter-moe", "present": true}}]' ;;
esac
"""
SAMPLE = "def mean(values):\n    \n"
STATUS = {
    "state": "ready",
    "message": "",
    "model": "starter-moe",
    "budget": {"tokens": 640, "level": 1, "reason": "another program took 1.2 GiB of VRAM"},
    "vram": {"usedBytes": 3 << 30, "freeBytes": 900 << 20},
    "kv": {"usedTokens": 1204, "totalTokens": 8192},
    "tokensPerSecond": 47.2,
}
EXPLANATION = """`mean` returns the **arithmetic mean** of its argument.

1. `sum(values)` adds the numbers up.
2. `len(values)` counts them.

```python
mean([1, 2, 3])  # 2.0
```

An empty list raises `ZeroDivisionError`.
"""
ACCEPTED = {"title": "", "command": "underkeel.accepted", "arguments": [{"id": "1"}]}
RULES = {
    "completions": [
        {
            "after": "return ",
            "items": [
                {
                    "insertText": "sum(values) / len(values)\n\n\ndef spread(values):\n    pass",
                    "relative": [0, 0],
                    "command": ACCEPTED,
                }
            ],
        },
        {"after": "x", "items": [{"insertText": "yz"}]},
    ],
    "commands": {
        "underkeel.explain": {
            "deltas": [EXPLANATION[i : i + 9] for i in range(0, len(EXPLANATION), 9)],
            "result": {"stopReason": "end"},
        }
    },
    "notify": [{"method": "underkeel/status", "params": STATUS}],
}  # fmt: skip
GHOST = ".ghost-text, .ghost-text-decoration, .suggest-preview-text"
BAR = ".statusbar-item[id='underkeel.underkeel.underkeel']"

STEPS: list[Step] = [
    ("open", "open", {"file": "sample.py"}),
    ("bar", "see", {"selector": BAR, "text": "640 tokens"}),
    ("to the end", "keys", {"keys": ["Control+End", "ArrowUp", "End"]}),
    ("type", "type", {"text": "return "}),
    ("ghost", "all", {"selector": GHOST, "text": "sum"}),
    ("ghost.png", "picture", {"file": "ghost-text.png"}),
    ("word", "keys", {"keys": ["Control+ArrowRight"]}),
    ("after word", "see", {"selector": ".view-line", "text": "return sum"}),
    ("line", "keys", {"keys": ["Control+ArrowDown"]}),
    ("pause", "pause", {"ms": 500}),
    ("after line", "lines", {}),
    ("tab", "keys", {"keys": ["Tab"]}),
    ("accepted", "see", {"selector": ".view-line", "text": "pass"}),
    ("no more", "gone", {"selector": GHOST}),
    ("after tab", "lines", {}),
    ("tooltip", "hover", {"selector": BAR, "shows": ".workbench-hover"}),
    ("status.png", "picture", {"file": "status.png", "hovering": True}),
    ("explain", "command", {"title": "Underkeel: Explain File"}),
    ("panel", "webview", {"text": "ZeroDivisionError"}),
    ("panel.png", "picture", {"file": "explanation.png"}),
    ("ask", "inWebview", {"selector": "#question", "fill": "Why?", "press": "Enter"}),
    ("asked", "webview", {"text": "Why?"}),
    ("toggle", "click", {"selector": BAR}),
    ("off", "see", {"selector": BAR, "text": "off"}),
    ("back", "click", {"selector": ".editor-instance .view-lines"}),
    ("end", "keys", {"keys": ["Control+End", "Enter"]}),
    ("type x", "type", {"text": "x"}),
    ("wait", "pause", {"ms": 1500}),
    ("none", "count", {"selector": GHOST}),
    ("toggle back", "click", {"selector": BAR}),
    ("on", "see", {"selector": BAR, "text": "640 tokens"}),
    ("back again", "click", {"selector": ".editor-instance .view-lines"}),
    ("type on", "keys", {"keys": ["Control+End", "Backspace", "x"]}),
    ("ghost again", "see", {"selector": GHOST, "text": "yz"}),
]


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> VSCode:
    folder = tmp_path_factory.mktemp("vscode")
    workspace, binaries = folder / "project", folder / "bin"
    for made in (workspace, binaries):
        made.mkdir()
    (workspace / "sample.py").write_text(SAMPLE)
    program = binaries / "underkeel"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    # VS Code takes the PATH from a login shell.
    (folder / ".profile").write_text(f'export PATH="{binaries}:$PATH"\n')
    rules = folder / "rules.json"
    rules.write_text(json.dumps(RULES))
    return VSCode(
        installation=vscode_session.install(),
        vsix=vscode_session.build(),
        home=folder,
        workspace=workspace,
        pictures=Path(os.environ.get("UNDERKEEL_PICTURES", folder / "pictures")),
        environment={
            "HOME": str(folder),
            "SHELL": "/bin/sh",
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "SCRIPTED_RULES": str(rules),
            "SCRIPTED_LOG": str(folder / "log.jsonl"),
        },
    )


@pytest.fixture(scope="module")
def seen(editor: VSCode) -> dict[str, Any]:
    editor.settings()
    return editor.run(STEPS)


@pytest.fixture(scope="module")
def log(editor: VSCode, seen: dict[str, Any]) -> list[dict[str, Any]]:
    lines = (editor.home / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_session_went_to_its_end(seen: dict[str, Any]) -> None:
    assert "failed" not in seen, seen
    assert "successfully installed" in seen["installed"]


def test_ghost_text_is_seen_and_accepted(seen: dict[str, Any]) -> None:
    assert "sum(values)" in seen["ghost"]
    assert seen["after tab"] == [
        "def mean(values):",
        "    return sum(values) / len(values)",
        "",
        "",
        "def spread(values):",
        "    pass",
        "",
    ]


def test_statistics_hear_of_parts_and_of_the_whole(log: list[dict[str, Any]]) -> None:
    def params(method: str) -> list[dict[str, Any]]:
        return [message["params"] for message in log if message.get("method") == method]

    assert params("textDocument/didShowCompletion")
    lengths = [
        part["acceptedLength"] for part in params("textDocument/didPartiallyAcceptCompletion")
    ]
    assert lengths[:2] == [len("sum"), len("sum(values) / len(values)\n")]


def test_the_status_item_tells_budget_and_memory(seen: dict[str, Any]) -> None:
    tooltip = "\n".join(seen["tooltip"])
    for words in ("starter-moe", "640 tokens (level 1)", "another program", "0.9 GiB free"):
        assert words in tooltip
    assert "1204 of 8192 tokens" in tooltip


def test_the_explanation_is_drawn_as_markdown(seen: dict[str, Any]) -> None:
    assert "mean returns the arithmetic mean of its argument." in seen["panel"]
    assert "**" not in seen["panel"]
    assert "Why?" in seen["asked"]


def test_the_switch_turns_ghost_text_off_and_on(seen: dict[str, Any]) -> None:
    assert seen["off"].strip() == "Underkeel: off"
    assert seen["none"] == 0
    assert seen["ghost again"]


def test_the_extension_packs_its_own_files_only(editor: VSCode) -> None:
    import zipfile

    with zipfile.ZipFile(editor.vsix) as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
    media = {f"extension/media/{path.name}" for path in (EXTENSION / "media").iterdir()}
    assert names == media | {
        "extension.vsixmanifest",
        "[Content_Types].xml",
        "extension/LICENSE",
        "extension/README.md",
        "extension/package.json",
        "extension/out/extension.js",
    }


def test_the_parts_that_need_no_editor() -> None:
    vscode_session.prepare()
    done = subprocess.run(["npm", "test"], cwd=EXTENSION, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^# pass [1-9]", done.stdout, re.MULTILINE), "it ran some"
