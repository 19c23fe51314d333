"""The same keys in two real Neovims: our plugin, and llama.vim with a llama-server.

Each side runs as its users run it, with its default settings, from its own plugin folder. The
editors look for ghost text themselves every 40 ms, so that nothing else takes processor time
from the model. A side begins only when the other has stopped computing (both warm prompts and
context in the background).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from key_typist import Place, keys
from report import GIVE_UP_S, Outcome

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "equipment"))
from neovim import Neovim

SETTLED_S = 1.5
IDLE_SHARE = 0.1
IDLE_LIMIT_S = 30.0
# Watches the extmarks of one namespace. Each change of what is shown is kept with its time;
# `stale` counts looks at which the ghost text did not start at the cursor.
_WATCH = """
local name = ...
local ns = vim.api.nvim_create_namespace(name)
_G.watched = { changes = {}, text = '', stale = 0 }
local function join(chunks)
  return table.concat(vim.tbl_map(function(chunk) return chunk[1] end, chunks or {}))
end
local function look()
  local first, below, at = '', {}, nil
  for _, mark in ipairs(vim.api.nvim_buf_get_extmarks(0, ns, 0, -1, { details = true })) do
    if mark[4].virt_text and mark[4].virt_text_pos ~= 'eol' then
      first, at = first .. join(mark[4].virt_text), at or { mark[2] + 1, mark[3] }
    end
    for _, line in ipairs(mark[4].virt_lines or {}) do below[#below + 1] = join(line) end
  end
  local text = table.concat({ first, unpack(below) }, '\\n')
  if at and not vim.deep_equal(at, vim.api.nvim_win_get_cursor(0)) then
    _G.watched.stale = _G.watched.stale + 1
  end
  if text ~= _G.watched.text then
    _G.watched.text = text
    table.insert(_G.watched.changes, { vim.uv.hrtime() / 1e9, text })
  end
end
_G.watch = vim.uv.new_timer()
_G.watch:start(0, 40, vim.schedule_wrap(look))
"""
Totals = Callable[[], Coroutine[Any, Any, tuple[int, int, int]]]


@dataclass
class Side:
    """One editor with its engine.

    Attributes:
        totals: prompt tokens evaluated, those of them that warmed a prompt, tokens decoded.
        pids: roots of the process trees that belong to this side.
    """

    name: str
    editor: Neovim
    totals: Totals
    pids: list[int]

    def watch(self, namespace: str) -> None:
        self.editor.lua(_WATCH, namespace)

    def open(self, path: Path) -> None:
        self.editor.keys("<Esc>")
        self.editor.edit(path)

    def cpu_s(self) -> float:
        """Processor seconds of all its processes."""
        total = 0.0
        for pid in self.pids:
            with contextlib.suppress(psutil.Error):
                root = psutil.Process(pid)
                for process in [root, *root.children(recursive=True)]:
                    with contextlib.suppress(psutil.Error):
                        times = process.cpu_times()
                        total += times.user + times.system
        return total

    async def idle(self) -> None:
        """Wait until it computes less than a tenth of a core, at most IDLE_LIMIT_S."""
        deadline = time.monotonic() + IDLE_LIMIT_S
        while time.monotonic() < deadline:
            before = self.cpu_s()
            await asyncio.sleep(1.0)
            if self.cpu_s() - before < IDLE_SHARE:
                return


async def at_place(side: Side, others: list[Side], place: Place, seed: int) -> Outcome:
    """Type one place on one side and see what its editor showed."""
    for other in others:
        await other.idle()
    editor, rng = side.editor, random.Random(seed)
    counts, cpu_s = await side.totals(), side.cpu_s()
    editor.keys("<Esc>")
    editor.request("nvim_buf_set_lines", 0, place.line, place.line + 1, True, [place.indent])
    editor.request("nvim_win_set_cursor", 0, [place.line + 1, max(0, len(place.indent) - 1)])
    editor.keys("A")
    editor.lua("_G.watched = { changes = {}, text = '', stale = 0 }")
    pressed = 0
    for key in keys(place, rng):
        await asyncio.sleep(key.delay_ms / 1000)
        editor.request("nvim_input", "<lt>" if key.character == "<" else key.character or "<BS>")
        pressed += 1
    last: float = editor.lua("return vim.uv.hrtime() / 1e9")
    first_s: float | None = None
    while True:
        now, text, changes = editor.lua(
            "return { vim.uv.hrtime() / 1e9, _G.watched.text, _G.watched.changes }"
        )
        latest = max([at for at, _ in changes], default=last)
        if text and first_s is None:
            first_s = max(
                0.0, next((at for at, shown in changes if at > last and shown), last) - last
            )
        if (text and now - max(last, latest) >= SETTLED_S) or now - last >= GIVE_UP_S:
            break
        await asyncio.sleep(0.2)
    stale: int = editor.lua("return _G.watched.stale")
    editor.keys("<Esc>")
    original = place.indent + place.text
    editor.request("nvim_buf_set_lines", 0, place.line, place.line + 1, True, [original])
    after = await side.totals()
    exact = bool(text) and text.split("\n")[0].rstrip() == place.rest.rstrip()
    return Outcome(
        place=f"{place.path.name}:{place.line + 1}",
        keystrokes=pressed,
        evaluated_tokens=after[0] - counts[0],
        ahead_tokens=after[1] - counts[1],
        decoded_tokens=after[2] - counts[2],
        last_key_to_first_s=round(first_s, 3) if first_s is not None and text else None,
        last_key_to_ghost_s=round(max(0.0, latest - last), 3) if text else None,
        shown=bool(text),
        exact_first_line=exact,
        saved_characters=len(place.rest) if exact else 0,
        stale=stale,
        cpu_s=round(side.cpu_s() - cpu_s, 3),
    )
