"""A program in a real terminal: keys in, the screen out as coloured text or as a picture."""

from __future__ import annotations

import contextlib
import html
import io
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

_SHOOT = Path(__file__).parent / "vscode" / "shoot.mjs"

_GROUND, _TEXT = (20, 22, 27), (224, 226, 234)
# Neovim's own default colours, so that an editor and a command look alike.
_THEME = TerminalTheme(
    _GROUND,
    _TEXT,
    [(42, 45, 53), (255, 192, 185), (179, 246, 192), (252, 224, 148),
     (166, 219, 255), (255, 202, 255), (140, 248, 247), (224, 226, 234)],
    [(120, 124, 135), (255, 192, 185), (179, 246, 192), (252, 224, 148),
     (166, 219, 255), (255, 202, 255), (140, 248, 247), (240, 242, 248)],
)  # fmt: skip
_PAGE = """<!DOCTYPE html>
<meta charset="utf-8">
<style>
  body {{ margin: 0; padding: 12px; background: transparent; width: max-content; }}
  #terminal {{ background: #14161b; border-radius: 8px; overflow: hidden; width: max-content; }}
  #title {{ font: 12px "DejaVu Sans", sans-serif; color: #9b9ea4; background: #2c2e33;
            padding: 6px 14px; }}
  pre {{ font: 13px/15px "DejaVu Sans Mono", monospace; color: #e0e2ea; margin: 0;
         padding: 10px 14px; }}
</style>
<div id="terminal"><div id="title">{title}</div><pre>{screen}</pre></div>
"""


def missing() -> str:
    """What is not here that terminals and their pictures need; empty where all is."""
    for program in ("tmux", "node", "npm", "chromium"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return ""


class Terminal:
    """A terminal of tmux's, on a server of its own."""

    timeout_s = 60.0

    def __init__(self, socket: Path, environment: dict[str, str]) -> None:
        self._socket = socket
        self._environment = environment
        self._ended = socket.with_suffix(".ended")

    def start(self, command: str, *, columns: int, rows: int, folder: Path) -> None:
        configuration = self._socket.with_suffix(".conf")
        configuration.write_text(
            'set -g status off\nset -g default-terminal "tmux-256color"\n'
            'set -as terminal-features ",*:RGB"\nset -sg escape-time 0\n'
        )
        size = ["-x", str(columns), "-y", str(rows)]
        lasting = f"{command}; touch {self._ended}; exec sleep infinity"
        self._tmux("-f", str(configuration), "new-session", "-d", *size, "-c", str(folder), lasting)

    def keys(self, *keys: str) -> None:
        """Press keys by tmux's names; a text of several characters is typed."""
        for key in keys:
            self._tmux("send-keys", key)

    def screen(self, *, colours: bool = False) -> str:
        return self._tmux("capture-pane", "-p", *(["-e"] if colours else []))

    def wait(self, pattern: str) -> None:
        """Wait until the screen holds what a regular expression finds."""
        deadline = time.monotonic() + self.timeout_s
        while not re.search(pattern, screen := self.screen()):
            if time.monotonic() > deadline:
                raise AssertionError(f"waited in vain for {pattern!r}; the screen:\n{screen}")
            time.sleep(0.1)

    def insist(self, pattern: str, key: str) -> None:
        """Press a key now and then until the screen holds what a regular expression finds."""
        end = time.monotonic() + self.timeout_s
        while not re.search(pattern, self.screen()) and time.monotonic() < end:
            self.keys(key)
            pause = time.monotonic() + 20
            while not re.search(pattern, self.screen()) and time.monotonic() < pause:
                time.sleep(0.2)
        self.wait(pattern)

    def wait_end(self) -> None:
        """Wait until the program has ended; its last screen stays."""
        deadline = time.monotonic() + self.timeout_s
        while not self._ended.exists():
            if time.monotonic() > deadline:
                raise AssertionError(f"it does not end; the screen:\n{self.screen()}")
            time.sleep(0.1)

    def close(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self._tmux("kill-server")

    def _tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", str(self._socket), *words],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **self._environment},
        )
        return done.stdout


@contextlib.contextmanager
def terminal(
    command: str,
    *,
    columns: int = 100,
    rows: int = 30,
    folder: Path,
    environment: dict[str, str] | None = None,
) -> Iterator[Terminal]:
    """A program in a terminal of its own, ended with the block."""
    with tempfile.TemporaryDirectory() as place:
        opened = Terminal(Path(place) / "tmux", environment or {})
        try:
            opened.start(command, columns=columns, rows=rows, folder=folder)
            yield opened
        finally:
            opened.close()


def page(screen: str, title: str) -> str:
    """A screen with its colours as a web page."""
    lines = screen.rstrip().split("\n")
    console = Console(record=True, width=400, file=io.StringIO(), color_system="truecolor")
    for line in lines:
        console.print(Text.from_ansi(line), soft_wrap=True)
    body = console.export_html(theme=_THEME, inline_styles=True, code_format="{code}")
    return _PAGE.format(title=html.escape(title), screen=body.rstrip())


def picture(screen: str, title: str, path: Path, installation: Path) -> None:
    """Draw a screen with its colours into a PNG, by the browser of the editor tests."""
    with tempfile.TemporaryDirectory() as place:
        plan = Path(place) / "plan.json"
        plan.write_text(
            json.dumps(
                {
                    "installation": str(installation),
                    "chromium": shutil.which("chromium"),
                    "html": page(screen, title),
                    "path": str(path),
                }
            ),
            encoding="utf-8",
        )
        subprocess.run(["node", _SHOOT, plan], check=True, timeout=120)
