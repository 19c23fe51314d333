"""Takes the README's pictures again: `make pictures`.

VS Code's come from its end-to-end tests; the rest is taken here, from real programs in a real
terminal. Neovim talks to the real server and the starter model. Numbers are of the machine that
took the pictures.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import terminal
import vscode_session
from chatting import call, large_context, played
from daemons import serving
from neovim import PLUGIN, program
from small_vocabulary import write_small_vocabulary
from terminal import picture

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "editors" / "images"
UNDERKEEL = f"{sys.executable} -m assistant"

PATIENCE = "completion = { time_limit_ms = 60000 }"
"""The machine may be busy with other things while the pictures are taken."""

SERVED = r"underkeel(: idle)? "
"""The status line once the language server has the buffer."""

SAMPLE = ROOT / "assistant" / "cli" / "sample" / "stock.py.marked"

RENAMED = """def total(items):
    return sum(item.price * item.quantity for item in items)


def report(shelf):
    print("on the shelf:", total(shelf.items))
    print("in the back:", total(shelf.rest))
"""

PRICES = """def price(amount, rate, currency):
    return f"{amount * rate:.2f} {currency}"


total = price(
    120,
    1.19,
    "EUR",
)
"""
"""A call of several lines: its next edit is a diff."""

SHAPE = """def area(width, height):
    return width + height


def perimeter(width, height):
    return 2 * (width + height)
"""
AGENT = [
    call("update_plan", items=[{"text": "Find the mistake", "status": "completed"},
                               {"text": "Correct area()", "status": "in_progress"}]),
    call("read_file", path="shape.py"),
    call("replace_text", path="shape.py", old="return width + height",
         new="return width * height"),
]  # fmt: skip
"""What a model would answer; the starter model solves no task."""


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
        environment["UNDERKEEL_MODELS"] = str(_models())
        views = Views(folder, environment, installation)
        try:
            views.plan()
            views.demo()
            views.neovim()
            views.next_edit()
            views.next_edit_diff()
            views.agent(Path(place) / "played")
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
            editor.keys("/Value of the whole", "Enter", "j", "^", "C", "return ")
            editor.wait(SERVED)
            editor.insist(r"return sum\(.+\)", "M-\\")
            self._draw("neovim-ghost-text", editor.screen(colours=True), "stock.py - Neovim")
            editor.keys("Tab", "Escape", "?total_value", "Enter", ":Underkeel explain", "Enter")
            editor.wait("a asks, q closes")
            self._draw("neovim-explanation", editor.screen(colours=True), "stock.py - Neovim")

    def next_edit(self) -> None:
        """A function was renamed: its first use is offered, as Tab would change it."""
        with self._editor("shelves.py", RENAMED, rows=14) as editor:
            editor.wait("def total")
            editor.wait(SERVED)
            editor.keys("w", "cw", "total_value", "Escape")
            editor.wait("totaltotal_value")
            self._draw("neovim-next-edit", editor.screen(colours=True), "shelves.py - Neovim")

    def next_edit_diff(self) -> None:
        """Parameters were moved: a call follows, with the lines as they will be."""
        with self._editor("prices.py", PRICES, rows=16) as editor:
            editor.wait("def price")
            editor.wait(SERVED)
            editor.keys("f(", "ci(", "currency, amount, rate", "Escape")
            editor.wait(r'"EUR",\s*\n[^\n]*120,')
            self._draw("neovim-next-edit-diff", editor.screen(colours=True), "prices.py - Neovim")

    def agent(self, home: Path) -> None:
        """The agent's panel in Neovim asks before it edits. Its model is played."""
        home.mkdir(mode=0o700)
        os.environ |= {**self._environment, "UNDERKEEL_HOME": str(home)}
        model = write_small_vocabulary(
            home / "small.gguf", _models() / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
        )
        (home / "config.toml").write_text(f'[model]\nname = "{model}"\n', encoding="utf-8")
        self._environment["UNDERKEEL_HOME"] = str(home)
        (self._folder / ".git").mkdir()

        def drive() -> None:
            with self._editor("shape.py", SHAPE, rows=26, columns=120) as editor:
                editor.wait("def area")
                editor.keys(
                    ":set laststatus=0",
                    "Enter",
                    ":UnderkeelAgent area() is wrong. Correct it.",
                    "Enter",
                )
                editor.wait("y allow")
                self._draw("neovim-agent", editor.screen(colours=True), "shape.py - Neovim")

        async def serve() -> None:
            async with serving(played(model, AGENT), planner=lambda: large_context(model)):
                await asyncio.to_thread(drive)

        asyncio.run(serve())

    @contextmanager
    def _editor(
        self, name: str, text: str, rows: int = 28, columns: int = 100
    ) -> Iterator[terminal.Terminal]:
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
            command, folder=self._folder, environment=self._environment, columns=columns, rows=rows
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


def _models() -> Path:
    from assistant import paths

    return paths.models_dir()


if __name__ == "__main__":
    main()
