"""The extension's commands in a real VS Code: edits, switches, views, models, links above code.

The language server is scripted; the command line is the real one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import vscode_session
from vscode_scenes import BAR, STATUS, keep_pictures
from vscode_session import Step, VSCode

pytestmark = [
    pytest.mark.editor,
    pytest.mark.model,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(vscode_session.missing()), reason=vscode_session.missing()),
]

WRONG = "def add(a, b):\n    return a - b\n"
FIXED = "def add(a, b):\n    return a + b\n"
TYPED = "def add(a: int, b: int):\n    return a + b\n"
MINUS = {"start": {"line": 1, "character": 13}, "end": {"line": 1, "character": 14}}
NAMES = {"start": {"line": 0, "character": 8}, "end": {"line": 0, "character": 12}}
OTHER = ".box {\n  color: red;\n}\n"


def edit(where: dict[str, Any], new: str) -> dict[str, Any]:
    change = {"range": where, "newText": new, "annotationId": "underkeel"}
    return {
        "documentChanges": [{"textDocument": "here", "edits": [change]}],
        "changeAnnotations": {
            "underkeel": {
                "label": "Underkeel",
                "needsConfirmation": True,
                "description": "replaces 1 line with 1 line",
            }
        },
    }


def rules(sample: Path) -> dict[str, Any]:
    diagnostic = {"range": MINUS, "message": "subtracts", "severity": 1, "source": "test"}
    explain = {
        "kind": "diagnostic",
        "diagnostic": diagnostic,
        "textDocument": "here",
        "range": MINUS,
    }
    return {
        "completions": [{"after": "x", "items": [{"insertText": "yz"}]}],
        "commands": {
            "underkeel.explain": {"deltas": ["It **subtracts**."], "result": {"stopReason": "end"}},
            "underkeel.edit": {"apply": edit(NAMES, "a: int, b: int"), "result": {"message": ""}},
        },
        "actions": [
            {
                "title": "Explain this error",
                "kind": "quickfix.underkeel.explain",
                "command": {
                    "title": "Explain this error",
                    "command": "underkeel.explain",
                    "arguments": [explain],
                },
            },
            {
                "title": "Fix this error",
                "kind": "quickfix.underkeel.fix",
                "resolve": {"edit": edit(MINUS, "+")},
            },
        ],
        "notify": [
            {"method": "underkeel/status", "params": STATUS},
            {
                "method": "textDocument/publishDiagnostics",
                "params": {"uri": sample.as_uri(), "diagnostics": [diagnostic]},
            },
        ],
    }


AT_MINUS = ["Control+Home", "ArrowDown", "End", "ArrowLeft", "ArrowLeft"]
ACTION = ".action-widget .monaco-list-row"
CODE = ".editor-instance .view-lines"
STEPS: list[Step] = [
    ("open", "open", {"file": "sample.py"}),
    ("bar", "see", {"selector": BAR, "text": "640 tokens"}),
    # Code actions: an explanation and a fix of the problem at the cursor
    ("squiggle", "see", {"selector": ".squiggly-error"}),
    ("to the minus", "keys", {"keys": AT_MINUS}),
    ("menu", "keys", {"keys": ["Control+."]}),
    ("actions", "see", {"selector": ".action-widget", "text": "Fix this error"}),
    ("actions.png", "picture", {"file": "code-actions.png"}),
    ("explain", "click", {"selector": f"{ACTION}:has-text('Explain this error')"}),
    ("explained", "webview", {"text": "It subtracts."}),
    ("back", "click", {"selector": CODE}),
    ("to the problem", "keys", {"keys": AT_MINUS}),
    ("fix", "command", {"title": "Underkeel: Fix the Problem Here"}),
    ("diff", "see", {"selector": ".modified-in-monaco-diff-editor", "text": "return a + b"}),
    ("untouched", "see", {"selector": ".original-in-monaco-diff-editor", "text": "return a - b"}),
    ("edit.png", "picture", {"file": "edit.png"}),
    ("apply", "toast", {"text": "Fix this error.", "button": "Apply"}),
    ("fixed", "document", {"text": FIXED}),
    ("diff closed", "gone", {"selector": ".monaco-diff-editor"}),
    ("again", "click", {"selector": CODE}),
    ("edit", "command", {"title": "Underkeel: Edit with an Instruction"}),
    ("instruction", "answer", {"text": "add types"}),
    ("proposal", "see", {"selector": ".modified-in-monaco-diff-editor", "text": "a: int, b: int"}),
    ("discard", "click", {"selector": "a[aria-label*='Discard the Proposed Edit']"}),
    ("discarded", "gone", {"selector": ".monaco-diff-editor"}),
    ("still fixed", "document", {"text": FIXED}),
    # Switches
    ("language off", "command", {"title": "On or Off for This Language"}),
    ("off", "see", {"selector": BAR, "text": "off"}),
    ("other", "open", {"file": "other.css"}),
    ("on there", "see", {"selector": BAR, "text": "640 tokens"}),
    # Links above code, which the settings of this session turn on
    ("link", "click", {"selector": ".codelens-decoration a:has-text('Explain')"}),
    ("linked", "heard", {"method": "workspace/executeCommand", "text": "other.css"}),
    # Views of the command line
    ("plan", "command", {"title": "Underkeel: Show Memory Plan"}),
    ("planned", "see", {"selector": ".editor-instance .view-lines", "text": "KV"}),
    ("log", "command", {"title": "Underkeel: Show Log"}),
    ("logged", "see", {"selector": ".part.panel .view-lines", "text": "(PATH)"}),
    # Models: one that is not here is fetched first, with its progress; then the server starts again
    ("models", "command", {"title": "Underkeel: Pick Model"}),
    ("model", "pick", {"text": "qwen2.5-coder-0.5b"}),
    ("fetching", "toast", {"text": "fetching qwen2.5-coder-0.5b 50 %"}),
    ("fetched", "touch", {"file": "fetched"}),
    ("started again", "heard", {"method": "initialize", "times": 2}),
    ("restart", "command", {"title": "Underkeel: Restart Language Server"}),
    ("restarted", "heard", {"method": "initialize", "times": 3}),
]  # fmt: skip


# Stands in for the network alone: what is fetched lies beside, and comes when the test says so.
FETCH = """if [ "$1 $2" = "models pull" ]; then
  for share in 0 25 50; do echo "fetching $3 $share %" >&2; done
  until [ -e "$HOME/fetched" ]; do sleep 0.1; done
  ln -s "{model}" "$UNDERKEEL_MODELS/"
  exit
fi"""


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory, moe_model: Path, dense_model: Path) -> VSCode:
    folder = tmp_path_factory.mktemp("vscode")
    models = folder / "models"
    models.mkdir()
    (models / moe_model.name).symlink_to(moe_model)
    return vscode_session.prepared(
        folder,
        {"sample.py": WRONG, "other.css": OTHER},
        rules=rules(folder / "project" / "sample.py"),
        before=FETCH.format(model=dense_model),
        environment={"UNDERKEEL_HOME": str(folder / "home"), "UNDERKEEL_MODELS": str(models)},
    )


@pytest.fixture(scope="module")
def seen(editor: VSCode) -> dict[str, Any]:
    editor.settings(underkeel__explainLenses=True)
    observed = editor.run(STEPS)
    keep_pictures(editor)
    return observed


def test_the_session_went_to_its_end(seen: dict[str, Any]) -> None:
    assert seen.get("failed") is None


def test_code_actions_are_offered_where_the_problem_is(seen: dict[str, Any]) -> None:
    assert "Explain this error" in seen["actions"]
    assert seen["explained"] == "It subtracts."


def test_an_edit_is_seen_before_it_is_made(editor: VSCode, seen: dict[str, Any]) -> None:
    assert "return a + b" in seen["diff"]
    assert "return a - b" in seen["untouched"]
    assert "This replaces 1 line with 1 line." in seen["apply"], "what the server says of it"
    resolved = [action["title"] for action in editor.log("codeAction/resolve")]
    assert resolved.count("Fix this error") == 1, "only the one that was chosen"


def test_a_discarded_edit_changes_nothing(editor: VSCode, seen: dict[str, Any]) -> None:
    changes = [
        change
        for change in editor.log("textDocument/didChange")
        if change["textDocument"]["uri"].endswith("sample.py")
    ]
    texts = [change["contentChanges"][-1]["text"] for change in changes]
    assert texts == [FIXED]
    [executed] = [
        params["arguments"][0]
        for params in editor.log("workspace/executeCommand")
        if params["command"] == "underkeel.edit"
    ]
    assert executed["instruction"] == "add types"
    answers = [
        message["result"]
        for message in editor.messages()
        if str(message.get("id", "")).startswith("apply-")
    ]
    assert [answer["applied"] for answer in answers] == [False]


def test_one_language_is_switched_off_and_the_others_stay(
    editor: VSCode, seen: dict[str, Any]
) -> None:
    assert seen["off"].strip() == "Underkeel: off"
    assert editor.setting("underkeel.languages") == {"python": False}


def test_a_model_that_is_not_here_is_fetched_and_used(editor: VSCode, seen: dict[str, Any]) -> None:
    assert any("starter-moe" in row for row in seen["model"])
    assert len(list((editor.home / "models").iterdir())) == 2
    used = (editor.home / "home").rglob("*.toml")
    assert any("qwen2.5-coder-0.5b" in path.read_text() for path in used)
