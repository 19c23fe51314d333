"""Takes the README's pictures again: `make pictures`.

VS Code's come from its end-to-end tests; the rest is taken here, from real programs in a real
terminal. Neovim talks to the real server and the starter model. Numbers are of the machine that
took the pictures.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import terminal
import vscode_session
from neovim import PLUGIN, program
from terminal import picture

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "editors" / "images"
UNDERKEEL = f"{sys.executable} -m assistant"

PATIENCE = "completion = { time_limit_ms = 60000 }"
"""The machine may be busy with other things while the pictures are taken."""

SAMPLE = ROOT / "assistant" / "cli" / "sample" / "stock.py.marked"

RENAMED = """def total(items):
    return sum(item.price * item.quantity for item in items)


def report(shelf):
    print("on the shelf:", total(shelf.items))
    print("in the back:", total(shelf.rest))
"""


def main() -> None:
    lacking = terminal.missing() or vscode_session.missing()
    if lacking:
        sys.exit(f"No pictures are taken: {lacking}.")
    IMAGES.mkdir(exist_ok=True)
    installation = vscode_session.install()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "shop"
        folder.mkdir()
        home = Path(place) / "home"
        home.mkdir(mode=0o700)
        environment = {
            "UNDERKEEL_HOME": str(home),
            "PYTHONPATH": str(ROOT),
            "COLORTERM": "truecolor",
        }
        environment.setdefault("UNDERKEEL_MODELS", os.environ.get("UNDERKEEL_MODELS", _models()))
        views = Views(folder, environment, installation)
        try:
            views.plan()
            views.demo()
            views.neovim()
            views.next_edit()
        finally:
            stop = [*UNDERKEEL.split(), "stop"]
            subprocess.run(stop, env={**os.environ, **environment}, stderr=subprocess.DEVNULL)
    for path in sorted(IMAGES.glob("*.png")):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1024:.0f} KiB")


class Views:
    """What is pictured."""

    def __init__(self, folder: Path, environment: dict[str, str], installation: Path) -> None:
        self._folder = folder
        self._environment = environment
        self._installation = installation

    def plan(self) -> None:
        """A model with more experts than the GPU holds."""
        self._ended("plan", "plan qwen3-coder-30b-a3b --vram 16G --ram 64G", rows=50)

    def demo(self) -> None:
        self._ended("demo", "demo", rows=44)

    def neovim(self) -> None:
        with self._editor(
            "stock.py", SAMPLE.read_text(encoding="utf-8").replace("‸", "")
        ) as editor:
            editor.wait("Stock keeping")
            editor.keys("/Value of the whole", "Enter", "j", "^", "C", "return sum(")
            editor.wait("underkeel ")
            editor.insist(r"return sum\(.+\)", "M-\\")
            self._draw("neovim-ghost-text", editor.screen(colours=True), "stock.py - Neovim")
            editor.keys("Tab", "Escape", "?total_value", "Enter", ":Underkeel explain", "Enter")
            editor.wait("a asks, q closes")
            self._draw("neovim-explanation", editor.screen(colours=True), "stock.py - Neovim")

    def next_edit(self) -> None:
        """A function was renamed: its first use is offered, as Tab would change it."""
        with self._editor("shelves.py", RENAMED, rows=14) as editor:
            editor.wait("def total")
            editor.wait("underkeel ")
            editor.keys("w", "cw", "total_value", "Escape")
            editor.wait("totaltotal_value")
            self._draw("neovim-next-edit", editor.screen(colours=True), "shelves.py - Neovim")

    @contextmanager
    def _editor(self, name: str, text: str, rows: int = 28) -> Iterator[terminal.Terminal]:
        """Neovim with the plugin, in a new file."""
        (self._folder / name).write_text(text, encoding="utf-8")
        init = self._folder / "init.lua"
        cmd = ", ".join(repr(word) for word in [*UNDERKEEL.split(), "lsp"])
        init.write_text(
            f"vim.o.termguicolors, vim.o.number, vim.o.ruler = true, true, false\n"
            f"vim.o.runtimepath = '{PLUGIN},' .. vim.o.runtimepath\n"
            f"vim.o.laststatus, vim.o.showmode = 3, false\n"
            "vim.o.statusline = \"%f %m%=%{v:lua.require'underkeel'.statusline()}  %l,%c\"\n"
            f"require('underkeel').setup({{ cmd = {{ {cmd} }}, settings = {{ {PATIENCE} }} }})\n",
            encoding="utf-8",
        )
        command = (
            f"{program()} --clean -n -i NONE -u {init} -S {PLUGIN}/plugin/underkeel.lua {name}"
        )
        with terminal.terminal(
            command, folder=self._folder, environment=self._environment, columns=100, rows=rows
        ) as editor:
            yield editor

    def _ended(self, name: str, words: str, rows: int) -> None:
        command = f"{UNDERKEEL} {words}"
        with terminal.terminal(
            command, columns=100, rows=rows, folder=self._folder, environment=self._environment
        ) as shell:
            shell.wait_end()
            self._draw(name, shell.screen(colours=True), f"underkeel {words}")

    def _draw(self, name: str, screen: str, title: str) -> None:
        picture(screen, title, IMAGES / f"{name}.png", self._installation)


def _models() -> str:
    from assistant import paths

    return str(paths.models_dir())


if __name__ == "__main__":
    main()
