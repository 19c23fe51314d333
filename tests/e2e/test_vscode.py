"""The extension in a real VS Code, from the built .vsix; the language server is scripted.

One session is driven once, and each test looks at a part of what was seen.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
import vscode_session
from vscode_scenes import BAR, EXPLANATION, GHOST, REST, SAMPLE, STATUS, keep_pictures
from vscode_session import Step, VSCode

pytestmark = [
    pytest.mark.editor,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(vscode_session.missing()), reason=vscode_session.missing()),
]

LINE = REST.split("\n")[0]
WRITTEN = SAMPLE.replace("    \n", f"    return {REST}\n")
ACCEPTED = {"title": "", "command": "underkeel.accepted", "arguments": [{"id": "1"}]}
EXECUTE = "workspace/executeCommand"
SHOWN = "textDocument/didShowInlineEdit"
CURSOR = ".statusbar-item[id='status.editor.selection']"
BESIDE = ".editor-instance .view-line span[class*=ced-]"
NEXT = ".statusbar-item[id='underkeel.underkeel.nextEdit']"
BLOCK = "oo: keeper\n    feeds()"

FAR = "def load():\n    pass\n\nx = load()\ny = load()\n" + "# more\n" * 60 + "load()\n"
RENAMED = [FAR.replace("load", "read", count) for count in range(1, 5)]
IMPORTED = "import json\n" + RENAMED[3]


def next_edit(number: int, document: str, start: list[int], end: list[int], text: str) -> Any:
    """A rule of the scripted server: the edit that follows when the document is like this."""
    positions = ({"line": line, "character": character} for line, character in (start, end))
    accept = {"title": "Accept", "command": "underkeel.acceptNextEdit"}
    edit = {
        "text": text,
        "range": dict(zip(("start", "end"), positions, strict=True)),
        "textDocument": "here",
        "command": {**accept, "arguments": [{"id": f"edit-{number}"}]},
    }
    return {"document": document, "edit": edit}


RULES = {
    "completions": [
        {
            "after": "return ",
            "items": [{"insertText": REST, "relative": [0, 0], "command": ACCEPTED}],
        },
        {"after": "q", "items": [{"insertText": "uay"}, {"insertText": "uoin"}]},
        {
            "after": " z",
            "items": [{"insertText": "oo:", "command": {**ACCEPTED, "arguments": [{"id": "2"}]}}],
            "grows": ["oo: first", BLOCK],
        },
    ],
    "commands": {
        "underkeel.explain": [
            {
                "deltas": [EXPLANATION[i : i + 9] for i in range(0, len(EXPLANATION), 9)],
                "result": {"stopReason": "end"},
            },
            {"deltas": ["Because `sum` "], "result": {"stopReason": "limit"}},
            {"deltas": ["starts at **zero**."], "result": {"stopReason": "end"}},
            {"deltas": ["It is about *st"], "hold": True},
        ]
    },
    "edits": [
        next_edit(1, RENAMED[0], [3, 4], [3, 8], "read"),
        next_edit(2, RENAMED[1], [4, 4], [4, 8], "read"),
        next_edit(3, RENAMED[2], [65, 0], [65, 4], "read"),
        next_edit(4, RENAMED[3], [0, 0], [0, 0], "import json\n"),
    ],
    "notify": [{"method": "underkeel/status", "params": STATUS}],
}  # fmt: skip

NOTEBOOK = {
    "cells": [
        {"cell_type": kind, "metadata": {}, "source": [text], **more}
        for kind, text, more in (
            ("markdown", "# Stock", dict[str, object]()),
            ("code", "total = 1", {"outputs": [], "execution_count": None}),
            ("code", "print(total)", {"outputs": [], "execution_count": None}),
        )
    ],
    "metadata": {"language_info": {"name": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}

STEPS: list[Step] = [
    ("open", "open", {"file": "stock.py"}),
    ("bar", "see", {"selector": BAR, "text": "640 tokens"}),
    ("room", "keys", {"keys": ["Control+b"]}),
    ("to the end", "keys", {"keys": ["Control+End", "ArrowUp", "End"]}),
    ("type", "type", {"text": "return "}),
    ("ghost", "all", {"selector": GHOST, "text": "sum"}),
    ("shown", "heard", {"method": "textDocument/didShowCompletion", "text": "sum"}),
    ("ghost.png", "picture", {"file": "ghost-text.png"}),
    ("word", "keys", {"keys": ["Control+ArrowRight"]}),
    ("after word", "document", {"text": SAMPLE.replace("    \n", "    return sum\n")}),
    ("line", "keys", {"keys": ["Control+ArrowDown"]}),
    ("after line", "document", {"text": SAMPLE.replace("    \n", f"    return {LINE}\n\n")}),
    ("tab", "keys", {"keys": ["Tab"]}),
    ("after tab", "document", {"text": WRITTEN}),
    ("no more", "gone", {"selector": GHOST}),
    ("tooltip", "hover", {"selector": BAR, "shows": ".workbench-hover"}),
    ("status.png", "picture", {"file": "status.png", "hovering": True}),
    ("explain", "command", {"title": "Underkeel: Explain File"}),
    ("panel", "webview", {"text": "adds nothing"}),
    ("panel.png", "picture", {"file": "explanation.png"}),
    ("ask", "inWebview", {"selector": "#question", "fill": "Why zero?", "press": "Enter"}),
    ("limit", "webview", {"selector": "#note", "text": "length limit reached"}),
    ("continue", "inWebview", {"selector": "#continue"}),
    ("continued", "webview", {"text": "Because sum starts at zero."}),
    ("focus", "click", {"selector": ".editor-instance .view-lines"}),
    ("explain more", "command", {"title": "Underkeel: Explain Selection or Symbol"}),
    ("streaming", "webview", {"text": "It is about *st"}),
    ("note", "webview", {"selector": "#note", "text": "writing"}),
    ("cancel", "inWebview", {"selector": "#cancel"}),
    ("cancelled", "webview", {"selector": "#note", "text": "cancelled"}),
    ("cancel heard", "heard", {"method": "$/cancelRequest"}),
    ("back to the code", "click", {"selector": ".editor-instance .view-lines"}),
    ("candidates", "keys", {"keys": ["Control+End", "q"]}),
    ("first", "all", {"selector": GHOST, "text": "uay"}),
    ("next", "keys", {"keys": ["Alt+]"]}),
    ("second", "all", {"selector": GHOST, "text": "uoin"}),
    ("previous", "keys", {"keys": ["Alt+["]}),
    ("first again", "all", {"selector": GHOST, "text": "uay"}),
    ("dismiss", "keys", {"keys": ["Escape"]}),
    ("dismissed", "gone", {"selector": GHOST}),
    ("toggle", "click", {"selector": BAR}),
    ("off", "see", {"selector": BAR, "text": "off"}),
    ("enable is", "setting", {"name": "underkeel.enable", "value": False}),
    ("back", "click", {"selector": ".editor-instance .view-lines"}),
    ("type while off", "keys", {"keys": ["Control+End", "Space", "q"]}),
    ("typed", "document", {"text": WRITTEN + "q q"}),
    ("none", "count", {"selector": GHOST}),
    ("toggle back", "click", {"selector": BAR}),
    ("on", "see", {"selector": BAR, "text": "640 tokens"}),
    ("back again", "click", {"selector": ".editor-instance .view-lines"}),
    ("type on", "keys", {"keys": ["Control+End", "Space", "q"]}),
    ("ghost again", "see", {"selector": GHOST, "text": "uay"}),
    # A block grows in place
    ("type a block", "keys", {"keys": ["Control+End", "Space", "z"]}),
    ("grown", "all", {"selector": GHOST, "text": "keeper"}),
    ("tab block", "keys", {"keys": ["Tab"]}),
    ("after block", "document", {"text": f"{WRITTEN}q q q z{BLOCK}"}),
    ("accepted block", "heard", {"method": "workspace/executeCommand", "text": '"2"'}),
    # Next edits: Tab accepts what is visible and jumps to what is not
    ("renaming", "open", {"file": "renaming.py"}),
    ("rename", "keys", {"keys": ["Control+Home", *["ArrowRight"] * 4, *["Delete"] * 4]}),
    ("new name", "type", {"text": "read"}),
    ("next edit", "beside", {"text": "read"}),
    ("next-edit.png", "picture", {"file": "next-edit.png"}),
    ("cursor", "see", {"selector": CURSOR, "text": "Ln 1, Col 9"}),
    ("take it", "keys", {"keys": ["Tab"]}),
    ("taken", "document", {"text": RENAMED[1]}),
    ("cursor after", "see", {"selector": CURSOR, "text": "Ln 1, Col 9"}),
    ("second edit", "heard", {"method": SHOWN, "text": "edit-2"}),
    ("take second", "keys", {"keys": ["Tab"]}),
    ("taken second", "document", {"text": RENAMED[2]}),
    ("hint", "see", {"selector": NEXT, "text": "line 66"}),
    ("hint beside", "beside", {"text": "Tab: next edit: line 66"}),
    ("jump", "keys", {"keys": ["Tab"]}),
    ("jumped", "see", {"selector": CURSOR, "text": "Ln 66, Col 1"}),
    ("far edit", "beside", {"text": "read"}),
    ("take far", "keys", {"keys": ["Tab"]}),
    ("taken far", "document", {"text": RENAMED[3]}),
    ("hint back", "see", {"selector": NEXT, "text": "line 1"}),
    ("jump back", "keys", {"keys": ["Tab"]}),
    ("line beside", "beside", {"text": "+ import json"}),
    ("next-edit-line.png", "picture", {"file": "next-edit-line.png"}),
    ("take line", "keys", {"keys": ["Tab"]}),
    ("taken line", "document", {"text": IMPORTED}),
    # Undo takes one edit back; several cursors keep Tab and the first Escape; the second rejects
    ("undo", "keys", {"keys": ["Control+z"]}),
    ("undone", "document", {"text": RENAMED[3]}),
    ("offered again", "beside", {"text": "+ import json"}),
    ("two cursors", "keys", {"keys": ["Control+Home", "Shift+Alt+ArrowDown"]}),
    ("indent", "keys", {"keys": ["Tab"]}),
    ("indented", "document", {"text": "    def read():\n        pass" + RENAMED[3][20:]}),
    ("undo indent", "keys", {"keys": ["Control+z"]}),
    ("not indented", "document", {"text": RENAMED[3]}),
    ("one cursor", "keys", {"keys": ["Escape", "End", "Space"]}),
    ("spaced", "document", {"text": RENAMED[3].replace(":", ": ", 1)}),
    ("cleared", "gone", {"selector": BESIDE}),
    ("unspaced", "keys", {"keys": ["Backspace"]}),
    ("offered once more", "beside", {"text": "+ import json"}),
    ("reject", "keys", {"keys": ["Escape"]}),
    ("rejected", "heard", {"method": EXECUTE, "text": "underkeel.rejectNextEdit"}),
    ("removed", "gone", {"selector": BESIDE}),
    # Each cell of a notebook is a document
    ("notebook", "open", {"file": "cells.ipynb"}),
    ("cell", "heard", {"method": "textDocument/didOpen", "text": "vscode-notebook-cell"}),
    ("notebook.png", "picture", {"file": "notebook.png"}),
]  # fmt: skip


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> VSCode:
    folder = tmp_path_factory.mktemp("vscode")
    files = {"stock.py": SAMPLE, "renaming.py": FAR, "cells.ipynb": json.dumps(NOTEBOOK)}
    return vscode_session.prepared(folder, files, rules=RULES)


@pytest.fixture(scope="module")
def seen(editor: VSCode) -> dict[str, Any]:
    editor.settings()
    observed = editor.run(STEPS)
    keep_pictures(editor)
    return observed


def test_the_session_went_to_its_end(seen: dict[str, Any]) -> None:
    assert seen.get("failed") is None
    assert "successfully installed" in seen["installed"]


def test_ghost_text_is_seen(seen: dict[str, Any]) -> None:
    assert "sum(item.price * item.quantity for item in items)" in seen["ghost"]


def test_parts_and_the_whole_are_reported(editor: VSCode, seen: dict[str, Any]) -> None:
    parts = editor.log("textDocument/didPartiallyAcceptCompletion")
    assert [part["acceptedLength"] for part in parts][:2] == [len("sum"), len(f"{LINE}\n")]
    executed = [params["command"] for params in editor.log("workspace/executeCommand")]
    assert executed.count("underkeel.accepted") == 2


def test_the_status_item_shows_budget_and_memory(seen: dict[str, Any]) -> None:
    tooltip = "\n".join(seen["tooltip"])
    for words in ("starter-moe", "640 tokens (level 1)", "another program", "0.9 GiB free"):
        assert words in tooltip
    assert "1204 of 8192 tokens" in tooltip
    assert "Memory plan" in tooltip


def test_the_explanation_is_drawn_as_markdown(seen: dict[str, Any]) -> None:
    assert "total_value adds up what the whole stock is worth." in seen["panel"]
    assert "**" not in seen["panel"]


def test_explanations_continue_and_answer_questions(editor: VSCode, seen: dict[str, Any]) -> None:
    assert "Why zero?" in seen["continued"]
    executed = editor.log("workspace/executeCommand")
    first, second, third, _ = [
        params["arguments"][0] for params in executed if params["command"] == "underkeel.explain"
    ]
    assert second["followUp"] == {"of": first["id"], "question": "Why zero?"}
    assert third["continue"] == second["id"]


def test_an_explanation_streams_and_is_cancelled(seen: dict[str, Any]) -> None:
    assert "writing" in seen["note"]
    assert seen["cancelled"] == "cancelled"


def test_the_switch_turns_ghost_text_off_and_on(editor: VSCode, seen: dict[str, Any]) -> None:
    assert seen["off"].strip() == "Underkeel: off"
    assert seen["none"] == 0
    assert seen["ghost again"]


def test_a_block_grows_in_place(editor: VSCode, seen: dict[str, Any]) -> None:
    """The update is shown without another request, and accepted as one item."""
    assert "keeper" in str(seen["grown"])
    executed = editor.log("workspace/executeCommand")
    accepted = [one for one in executed if one["command"] == "underkeel.accepted"]
    assert [one["arguments"] for one in accepted] == [[{"id": "1"}], [{"id": "2"}]]


def test_next_edits_are_accepted_one_by_one_and_rejected(
    editor: VSCode, seen: dict[str, Any]
) -> None:
    """Each is reported as shown, then as accepted or rejected."""
    assert seen["next edit"] == ["read"]
    executed = [
        (params["command"].removeprefix("underkeel."), params["arguments"][0]["id"])
        for params in editor.log(EXECUTE)
        if params["command"].endswith("NextEdit")
    ]
    accepted = [("acceptNextEdit", f"edit-{number}") for number in (1, 2, 3, 4)]
    assert executed == [*accepted, ("rejectNextEdit", "edit-4")]


def test_a_next_edit_off_the_screen_has_a_hint(seen: dict[str, Any]) -> None:
    assert seen["hint"].strip() == "next edit: line 66"
    assert seen["hint beside"] == ["Tab: next edit: line 66"]
    assert seen["line beside"] == ["+ import json"]


def test_each_cell_of_a_notebook_is_a_document(editor: VSCode, seen: dict[str, Any]) -> None:
    """C8: in the order of the notebook, with the language of the cell."""
    opened = [params["textDocument"] for params in editor.log("textDocument/didOpen")]
    cells = [one for one in opened if one["uri"].startswith("vscode-notebook-cell:")]
    assert len({cell["uri"] for cell in cells}) == len(cells)
    assert {"total = 1", "print(total)"} <= {cell["text"] for cell in cells}
    texts = [cell["text"] for cell in cells]
    assert texts.index("total = 1") < texts.index("print(total)")
    assert {cell["languageId"] for cell in cells if "total" in cell["text"]} == {"python"}


def test_an_empty_response_is_requested_once_more(editor: VSCode, seen: dict[str, Any]) -> None:
    """C28: the same request, at most twice."""
    requests = [json.dumps(params) for params in editor.log("textDocument/inlineCompletion")]
    repeated = [one for one, other in pairwise(requests) if one == other]
    assert repeated
