"""Neovim with the plugin set up on a scripted language server: what the editor tests share."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from conformance import wrong_messages
from neovim import Neovim, neovim

_SERVER = Path(__file__).with_name("scripted_lsp.py")
_CLIENT = "vim.lsp.get_clients({ name = 'underkeel' })[1]"


class Session(Neovim):
    """The names of the scripted server's own messages, and what tests ask of its log."""

    def rules(
        self,
        *completions: dict[str, Any],
        actions: Sequence[dict[str, Any]] = (),
        **commands: dict[str, Any],
    ) -> None:
        """What the server answers from now on; `explain=` rules the command `underkeel.explain`."""
        named = {f"underkeel.{name}": rule for name, rule in commands.items()}
        rules = {"completions": completions, "commands": named, "actions": actions}
        self.tell("scripted/rules", rules)

    def release(self) -> None:
        """Let the server answer what it holds back."""
        self.tell("scripted/release", {})

    def tell(self, method: str, params: dict[str, Any]) -> None:
        self.lua(f"local m, p = ...; {_CLIENT}:notify(m, p)", method, params)

    def log(self, method: str = "") -> list[dict[str, Any]]:
        """Messages the server has received, all or of one method; a round trip, so up to date."""
        lua = f"return {_CLIENT}:request_sync('scripted/log', {{}}, 60000).result"
        messages: list[dict[str, Any]] = self.lua(lua)
        return [message for message in messages if method in ("", message.get("method"))]

    def settle(self) -> None:
        """Return when the server has seen everything sent, and the client everything answered."""
        self.lua("vim.wait(0)")
        self.log()
        self.lua("vim.wait(0)")

    def messages(self) -> str:
        text: str = self.lua("return vim.fn.execute('messages')")
        return text

    def open(self, path: Path, text: str) -> None:
        """Write a file, edit it, and wait until the server serves it."""
        path.write_text(text, encoding="utf-8")
        self.edit(path)
        self.wait(
            "(function() local c = vim.lsp.get_clients({ bufnr = 0, name = 'underkeel' })[1]"
            " return c and c.initialized end)()",
            what="the language server",
        )


@contextlib.contextmanager
def session(
    folder: Path, *, config: str = "{}", encoding: str = "utf-8", before: str = ""
) -> Iterator[Session]:
    """Neovim in `folder`, the plugin set up with a Lua table, after the Lua of `before` ran.

    All that it has said to the server is held to the protocol in the end.
    """
    heard = folder / "heard.jsonl"
    with neovim(folder, kind=Session) as editor:
        assert isinstance(editor, Session)
        editor.lua("vim.env.SCRIPTED_LOG = ...", str(heard))
        editor.lua(
            f"{before}\nlocal config = {config}\nconfig.cmd = config.cmd or {{ ... }}\n"
            "require('underkeel').setup(config)",
            sys.executable,
            "-IS",  # the server needs the standard library alone
            str(_SERVER),
            encoding,
        )
        yield editor
    if heard.exists():
        lines = heard.read_text(encoding="utf-8").splitlines()
        assert not (wrong := wrong_messages(map(json.loads, lines))), "\n".join(wrong)
