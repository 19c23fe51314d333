"""Twenty-two situations of next edits in one real VS Code with the real language server, without a
model. One session runs them all, and each test looks at one of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import vscode_session
from vscode_scenes import keep_pictures
from vscode_session import Step

pytestmark = [
    pytest.mark.editor,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(vscode_session.missing()), reason=vscode_session.missing()),
]

BAR = ".statusbar-item[id='underkeel.underkeel.underkeel']"
CURSOR = ".statusbar-item[id='status.editor.selection']"
HINT = ".statusbar-item[id='underkeel.underkeel.nextEdit']"
MENU = ".suggest-widget.visible"
REMOVED = ".editor-instance .view-overlays [class*=ced-]"
DRAWN = f".editor-instance .view-line span[class*=ced-], {REMOVED}"
GHOST = ".ghost-text, .ghost-text-decoration"

RENAME = "def load():\n    pass\n\nx = load()\ny = load()\n"
FAR = "def load():\n    pass\n" + "\n# more" * 60 + "\n\nload()\n"
FAR_LINE = FAR.split("\n").index("load()") + 1
ARGUMENTS, MOVED = "    120,\n    1.19,\n    EURO,\n", "    EURO,\n    120,\n    1.19,\n"
PRICES = f"""def price(amount, rate, currency):
    return f"{{amount * rate:.2f}} {{currency}}"


total = price(
{ARGUMENTS})
"""
THEME = "Preferences: Toggle between Light/Dark Themes"
SWAP = ["Control+Home", *["ArrowRight"] * 6, *["Shift+ArrowRight"] * 4]
NAME = ["Control+Home", *["ArrowRight"] * 4, *["Delete"] * 4]
NOTHING_MS = 800
"""Longer than the pause of the extension and a response of the server take."""

SNIPPETS = {"Two places": {"prefix": "two", "body": "${1:read}${2:_all}"}}
OTHER_PACKAGE = {
    "name": "other",
    "publisher": "test",
    "version": "1.0.0",
    "engines": {"vscode": "^1.91.0"},
    "main": "./extension.js",
    "activationEvents": ["onStartupFinished"],
}
OTHER_EXTENSION = """
const { languages, Range } = require("vscode");
function provideInlineCompletionItems(document, { line, character }) {
  const before = document.lineAt(line).text.slice(0, character);
  const range = new Range(line, character, line, character);
  return before.endsWith(" rgh") ? [{ insertText: "ost", range }] : [];
}
exports.activate = () =>
  languages.registerInlineCompletionItemProvider("python", { provideInlineCompletionItems });
"""
"""Ghost text of someone else, whose Tab it is."""


class Session:
    """The files and steps of all situations, in their order."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {".vscode/two.code-snippets": json.dumps(SNIPPETS)}
        self.steps: list[Step] = [("ready", "see", {"selector": BAR, "text": "off"})]
        self._name = ""

    def situation(self, name: str, text: str) -> None:
        """The steps that follow are in a file of its own."""
        self._name = name
        self.files[f"{name}.py"] = text
        self.do("open", file=f"{name}.py")

    def do(self, kind: str, step: str = "", **arguments: Any) -> None:
        count = len(self.steps)
        self.steps.append((f"{self._name}: {step or count}", kind, arguments))

    def keys(self, *keys: str) -> None:
        self.do("keys", keys=keys)

    def rename(self, new: str = "read") -> None:
        """The name of the function in the first line becomes another one."""
        self.keys(*NAME)
        self.do("type", text=new)

    def drawn(self, text: str, step: str = "drawn") -> None:
        """Wait for text beside the code; all such text is kept under the step."""
        self.do("beside", step, text=text)

    def saved(self, text: str) -> None:
        self.do("saved", file=f"{self._name}.py", text=text)

    def nothing(self, step: str = "nothing") -> None:
        """Count what is drawn after the time that an edit takes to come."""
        self.do("pass", ms=NOTHING_MS)
        self.do("count", step, selector=DRAWN)

    def cursor(self, text: str) -> None:
        self.do("see", selector=CURSOR, text=text)


def planned() -> Session:
    """All situations."""
    on = Session()

    on.situation("rename", RENAME)
    on.rename()
    on.drawn("read")
    on.cursor("Ln 1, Col 9")  # it did not move
    on.keys("Tab")
    on.saved(RENAME.replace("load", "read", 2))

    on.situation("signature", "def f(a, b):\n    return a\n\n\nx = f(1, 2)\n")
    on.keys(*SWAP)
    on.do("type", text="b, a")
    on.drawn("2, 1")
    on.keys("Tab")
    on.saved("def f(b, a):\n    return a\n\n\nx = f(2, 1)\n")

    on.situation("missing_import", "import sys\n\nx = 1\n")
    on.keys("Control+Home", "ArrowDown", "ArrowDown", "End", "Shift+Home")
    on.do("type", text="x = json.dumps(sys.argv)")
    on.drawn("import json")
    on.keys("Tab")
    on.saved("import json\nimport sys\n\nx = json.dumps(sys.argv)\n")

    on.situation("siblings", "x = get(url)\ny = get(path)\nz = get(name)\n")
    for key in ("Control+Home", "ArrowDown"):
        on.keys(key, "End", "ArrowLeft")
        on.do("type", text=", timeout=5")
    on.drawn(", timeout=5")
    on.keys("Tab")
    on.saved("x = get(url, timeout=5)\ny = get(path, timeout=5)\nz = get(name, timeout=5)\n")

    on.situation("deletion", "def f(a, b):\n    return a\n\n\nx = f(1, 2)\n")
    on.keys("Control+Home", *["ArrowRight"] * 7, *["Delete"] * 3)
    on.do("see", selector=REMOVED, text="")
    on.do("count", "marks", selector=REMOVED)
    on.keys("Tab")
    on.saved("def f(a):\n    return a\n\n\nx = f(1)\n")

    on.situation("far", FAR)
    on.rename()
    on.do("see", selector=HINT, text=f"line {FAR_LINE}")
    on.keys("Tab")
    on.cursor(f"Ln {FAR_LINE}, Col 1")
    on.saved(FAR.replace("load", "read", 1))  # a jump changes nothing
    on.keys("Tab")
    on.saved(FAR.replace("load", "read"))
    on.keys("Control+Alt+Minus")  # Go Back
    on.cursor("Ln 1, Col 9")

    on.situation("hint", FAR)
    on.rename()
    on.drawn("next edit")
    on.cursor("Ln 1, Col 9")
    on.do("click", selector=HINT)
    on.cursor(f"Ln {FAR_LINE}, Col 1")

    on.situation("tab_after_tab", RENAME)
    on.rename()
    on.drawn("read", "first")
    on.keys("Tab")
    on.saved(RENAME.replace("load", "read", 2))
    on.drawn("read", "second")
    on.keys("Tab")
    on.saved(RENAME.replace("load", "read"))
    on.nothing()
    on.keys("Control+End", "Tab")  # the key is free again
    on.saved(RENAME.replace("load", "read") + "    ")

    on.situation("rejected", "def load():\n    pass\n\n\nx = load()\n")
    on.rename()
    on.drawn("read")
    on.keys("Escape")
    on.do("gone", selector=DRAWN)
    on.keys("Control+End")
    on.do("type", text="# 1")
    on.nothing()
    on.saved("def read():\n    pass\n\n\nx = load()\n# 1")

    on.situation("undo", RENAME)
    on.rename()
    on.drawn("read")
    on.keys("Tab")
    on.saved(RENAME.replace("load", "read", 2))
    on.keys("Control+z")
    on.saved(RENAME.replace("load", "read", 1))

    menu = "def load():\n    pass\n\n\nx = load()\nreader = reading = 1\n"
    on.situation("menu", menu)
    on.rename("reade")
    on.keys("Control+Space")
    on.do("see", selector=MENU, text="reader")
    on.do("pass", ms=NOTHING_MS)
    on.keys("Tab")
    on.do("gone", selector=MENU)
    on.saved(menu.replace("load", "reader", 1))

    on.situation("snippet", RENAME)
    on.keys(*NAME)
    on.do("command", title="Snippets: Insert Snippet")
    on.do("pick", text="_all")
    on.do("type", text="get")
    on.do("pass", ms=NOTHING_MS)
    on.keys("Tab")
    on.do("type", text="_more")
    on.saved(RENAME.replace("load", "get_more", 1))

    on.situation("ghost", RENAME)
    on.rename("rgh")
    on.do("see", selector=GHOST, text="ost")
    on.do("pass", ms=NOTHING_MS)
    on.keys("Tab")
    on.saved(RENAME.replace("load", "rghost", 1))
    on.drawn("rghost")
    on.keys("Tab")
    on.saved(RENAME.replace("load", "rghost", 2))

    windows = RENAME.replace("\n", "\r\n")
    on.situation("line_ends", windows)
    on.rename()
    on.drawn("read")
    on.keys("Tab")
    on.saved(windows.replace("load", "read", 2))

    on.situation("tabs", "def f(size):\n\tif size:\n\t\treturn\tsize\n")
    on.keys("Control+Home", *["ArrowRight"] * 6, *["Delete"] * 4)
    on.do("type", text="width")
    on.drawn("width")
    on.keys("Tab")
    on.saved("def f(width):\n\tif width:\n\t\treturn\tsize\n")
    on.drawn("width", "second")
    on.keys("Tab")
    on.saved("def f(width):\n\tif width:\n\t\treturn\twidth\n")

    on.situation("scripts", "def f(größe):\n    return '😀é', größe\n")
    on.keys("Control+Home", *["ArrowRight"] * 6, *["Delete"] * 5)
    on.do("type", text="breite")
    on.drawn("breite")
    on.keys("Tab")
    on.saved("def f(breite):\n    return '😀é', breite\n")

    on.situation("lines", "def f(a, b):\n    return a\n\n\nx = f(\n    1,\n    2,\n)\n")
    on.keys(*SWAP)
    on.do("type", text="b, a")
    on.drawn("1,")
    on.keys("Tab")
    on.saved("def f(b, a):\n    return a\n\n\nx = f(\n    2,\n    1,\n)\n")

    on.situation("large", PRICES)
    on.keys("Control+b")
    on.keys("Control+Home", *["ArrowRight"] * 10, *["Shift+ArrowRight"] * 22)
    on.do("type", text="currency, amount, rate")
    on.drawn("EURO,")
    on.do("picture", file="next-edit-diff.png")
    on.do("command", title=THEME)
    on.drawn("EURO,", "dark")
    on.do("picture", file="next-edit-diff-dark.png")
    on.do("command", title=THEME)
    on.do("click", selector=".editor-instance .view-lines")
    on.keys("Control+b", "Tab")
    on.saved(
        PRICES.replace("amount, rate, currency", "currency, amount, rate", 1).replace(
            ARGUMENTS, MOVED
        )
    )

    on.situation("no_line_end", "def load():\n    pass\n\n\nx = load")
    on.rename()
    on.drawn("read")
    on.keys("Tab")
    on.saved("def read():\n    pass\n\n\nx = read")

    on.situation("read_only", RENAME)
    on.rename()
    on.drawn("read")
    on.saved(RENAME.replace("load", "read", 1))
    on.do("command", title="File: Set Active Editor Read-only in Session")
    on.keys("Tab")
    on.saved(RENAME.replace("load", "read", 1))

    on.files["user.py"] = "from shared import load\n\nload()\n"
    on.situation("shared", "def load():\n    pass\n")
    on.rename()
    # The index may still be built.
    on.do("insist", key="d", selector=f"{HINT}:has-text('user.py:1')")
    on.drawn("user.py:1")
    on.keys("Tab")
    on.do("see", selector=".tab.active", text="user.py")
    on.cursor("Ln 1, Col 20")
    on.keys("Tab")
    on.do("saved", file="user.py", text="from shared import read\n\nload()\n")
    on.drawn("read", "its use")
    on.keys("Tab")
    on.do("saved", file="user.py", text="from shared import read\n\nread()\n")

    on.situation("second_view", FAR)
    on.keys("Control+End", "Control+Backslash")
    on.do("count", "views", selector=".editor-instance")
    on.rename()
    on.drawn("next edit")
    on.keys("Tab")
    on.cursor(f"Ln {FAR_LINE}, Col 1")
    on.keys("Tab")
    on.saved(FAR.replace("load", "read"))
    return on


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("vscode")
    home = folder / "home"
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text("[completion]\nenabled = false\n", encoding="utf-8")
    on = planned()
    other = {"package.json": json.dumps(OTHER_PACKAGE), "extension.js": OTHER_EXTENSION}
    editor = vscode_session.prepared(
        folder,
        on.files,
        server=f"{sys.executable} -m lsp",
        environment={"UNDERKEEL_HOME": str(home)},
        others=(vscode_session.packed(folder, other),),
    )
    editor.settings(editor__wordBasedSuggestions="currentDocument")
    observed = editor.run(on.steps)
    keep_pictures(editor)
    return observed


_DRAWN = {
    "rename": ["read"],
    "signature": ["2, 1"],
    "missing_import": ["+ import json"],
    "siblings": [", timeout=5"],
    "hint": [f"Tab: next edit: line {FAR_LINE}"],
    "rejected": ["read"],
    "undo": ["read"],
    "ghost": ["rghost"],
    "line_ends": ["read"],
    "tabs": ["width"],
    "scripts": ["breite"],
    "second_view": ["read", f"Tab: next edit: line {FAR_LINE}"],
    "large": ["+     EURO,", "+     120,", "+     1.19,"],
    "lines": ["+     2,", "+     1,"],
    "no_line_end": ["read"],
    "read_only": ["read"],
    "shared": ["Tab: next edit: user.py:1"],
}
"""What stands beside the code where the situation has its first edit."""
_OTHERS = ("deletion", "far", "menu", "snippet", "tab_after_tab")
_NAMES = sorted({*_DRAWN, *_OTHERS})


@pytest.mark.parametrize("name", _NAMES)
def test_a_situation(seen: dict[str, Any], name: str) -> None:
    """It went to its end: each step of it waits for what the editor then shows or has saved."""
    failed = seen.get("failed", "")
    order = [Path(file).stem for file in planned().files]
    where = failed.partition(":")[0]
    before_it = where in order and order.index(name) < order.index(where)
    assert not failed or before_it, f"the session ended at {failed}"
    if name in _DRAWN:
        assert seen[f"{name}: drawn"] == _DRAWN[name]


def test_every_situation_is_looked_at() -> None:
    """And there are at least twenty."""
    files = {Path(file).stem for file in planned().files if file.endswith(".py")}
    assert files - {"user"} == set(_NAMES) and len(_NAMES) >= 20


def test_nothing_follows_where_nothing_should(seen: dict[str, Any]) -> None:
    assert seen["tab_after_tab: first"] == seen["tab_after_tab: second"] == ["read"]
    assert seen["tab_after_tab: nothing"] == 0, "all uses are renamed"
    assert seen["rejected: nothing"] == 0, "a rejected edit is not offered again"


def test_a_deletion_marks_what_goes(seen: dict[str, Any]) -> None:
    assert seen["deletion: marks"] == 1


def test_two_views_show_the_same_file(seen: dict[str, Any]) -> None:
    assert seen["second_view: views"] == 2
