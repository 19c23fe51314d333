"""llama.vim's requests to llama-server, key by key, without its editor.

The algorithm, as its source describes it: on every cursor move the hint is hidden and looked up
in a cache of answers (also up to 128 characters back, when what was typed since agrees with the
answer); one request runs at a time, and a key that comes meanwhile tries again every 100 ms;
the first request of a place may decode for 250 ms, the speculative one for what follows a shown
hint for longer; chunks around far jumps are gathered in a ring and sent ahead while the editor
rests.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from typing import Any

import httpx
from key_typist import Buffer, Shown

PREFIX_LINES = 256
SUFFIX_LINES = 64
PREDICT = 128
RETRY_S = 0.1
FIRST_MS, SPECULATIVE_MS, PROMPT_MS = 250, 1000, 500
CACHE_ANSWERS = 250
LOOK_BACK = 128
RING_CHUNKS, RING_LINES, RING_SCOPE = 16, 64, 1024
RING_REST_S, RING_EVERY_S = 3.0, 1.0
FAR_JUMP_LINES = 32
LONGEST_LINE_SUFFIX = 8

Context = tuple[str, str, str]


def _similarity(one: list[str], other: list[str]) -> float:
    common = sum(line in other for line in one)
    return 2.0 * common / max(1, len(one) + len(other))


class Peer:
    """One editor session with llama.vim's behaviour."""

    name = "llama.vim + llama-server"

    def __init__(self, url: str, seed: int) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=120)
        self._random = random.Random(seed)
        self._answers: OrderedDict[Context, str] = OrderedDict()
        self._ring: list[list[str]] = []
        self._queued: list[list[str]] = []
        self._job: asyncio.Task[None] | None = None
        self._timer: asyncio.Task[None] | None = None
        self._ring_task: asyncio.Task[None] | None = None
        self._warm: set[asyncio.Task[object]] = set()
        self._picked_row = -9999
        self._moved_s = 0.0
        self._buffer: Buffer | None = None
        self.shown: Shown | None = None
        self.stale = 0
        self.requests = 0

    async def close(self) -> None:
        await self.rest()
        await self._http.aclose()

    # Turns: timers only run while this editor is the one in use.

    def begin(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self._ring_task = asyncio.create_task(self._ring_updates())

    async def rest(self) -> None:
        """End of the turn: wait for what runs, and stop the timers."""
        for task in (self._timer, self._ring_task):
            if task:
                task.cancel()
        running = [*self._warm, *([self._job] if self._job else [])]
        await asyncio.gather(*running, return_exceptions=True)
        self._timer = self._ring_task = None
        self.shown = None

    @property
    def idle(self) -> bool:
        return self._job is None and (self._timer is None or self._timer.done())

    async def open(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self._pick(buffer.lines[: RING_LINES // 2], evict=True)

    async def edited(self, buffer: Buffer) -> None:
        """An edit that is not a keystroke in insert mode (a jump, a restored line)."""
        self._buffer = buffer
        self.shown = None
        self._moved_s = time.monotonic()

    async def pressed(self, buffer: Buffer) -> None:
        """A keystroke: hide, look into the cache, ask."""
        self._buffer = buffer
        self.shown = None
        self._moved_s = time.monotonic()
        self._try_hint()
        self._ask(None)

    # One request at a time.

    def _local(self, speculative: str | None) -> Context:
        buffer = self._buffer
        assert buffer is not None
        line = buffer.lines[buffer.row]
        before, after = line[: buffer.column], line[buffer.column :]
        lines = buffer.lines[max(0, buffer.row - PREFIX_LINES) : buffer.row]
        if speculative is not None:
            parts = (before + speculative).split("\n")
            lines, before, after = [*lines, *parts[:-1]], parts[-1], ""
        elif not line.strip():
            before = after = ""
        suffix = [after, *buffer.lines[buffer.row + 1 : buffer.row + 1 + SUFFIX_LINES]]
        return "\n".join(lines) + "\n", before, "\n".join(suffix) + "\n"

    def _ask(self, speculative: str | None) -> None:
        if self._job is not None:
            if self._timer:
                self._timer.cancel()
            self._timer = asyncio.create_task(self._retry(speculative))
            return
        buffer = self._buffer
        assert buffer is not None
        context = self._local(speculative)
        after = buffer.lines[buffer.row][buffer.column :] if speculative is None else ""
        if len(after) > LONGEST_LINE_SUFFIX or self._hashes(context) & self._answers.keys():
            return
        near = buffer.lines[max(0, buffer.row - RING_LINES // 2) : buffer.row + RING_LINES // 2]
        self._ring = [chunk for chunk in self._ring if _similarity(chunk, self._cut(near)) <= 0.5]
        self._job = asyncio.create_task(self._request(context, speculative is not None))
        if abs(buffer.row - self._picked_row) > FAR_JUMP_LINES:
            row = buffer.row
            self._pick(buffer.lines[max(0, row - RING_SCOPE) : max(0, row - PREFIX_LINES)])
            self._pick(buffer.lines[row + SUFFIX_LINES : row + SUFFIX_LINES + RING_LINES])
            self._picked_row = row

    async def _retry(self, speculative: str | None) -> None:
        await asyncio.sleep(RETRY_S)
        self._timer = None
        self._ask(speculative)

    def _body(self, prefix: str, middle: str, suffix: str, predict: int) -> dict[str, Any]:
        extra = [{"text": "\n".join(chunk) + "\n", "filename": "file.py"} for chunk in self._ring]
        return {
            "input_prefix": prefix,
            "input_suffix": suffix,
            "input_extra": extra,
            "prompt": middle,
            "n_predict": predict,
            "stream": False,
            "cache_prompt": True,
        }

    async def _request(self, context: Context, speculative: bool) -> None:
        prefix, middle, suffix = context
        indent = len(middle) - len(middle.lstrip())
        body = self._body(prefix, middle, suffix, PREDICT) | {
            "n_indent": indent,
            "top_k": 40,
            "top_p": 0.90,
            "samplers": ["top_k", "top_p", "infill"],
            "t_max_prompt_ms": PROMPT_MS,
            "t_max_predict_ms": SPECULATIVE_MS if speculative else FIRST_MS,
        }
        try:
            self.requests += 1
            answer = (await self._http.post("/infill", json=body)).json().get("content", "")
        finally:
            self._job = None
        for key in self._hashes(context):
            self._answers[key] = answer
            while len(self._answers) > CACHE_ANSWERS:
                self._answers.popitem(last=False)
        if self.shown is None:
            self._try_hint()

    def _hashes(self, context: Context) -> set[Context]:
        """The context, and the same with its first one to three lines gone (after a scroll)."""
        prefix, middle, suffix = context
        keys = {("", prefix + middle, suffix)}
        for _ in range(3):
            prefix = prefix.partition("\n")[2]
            if not prefix:
                break
            keys.add(("", prefix + middle, suffix))
        return keys

    # Hints.

    def _try_hint(self) -> None:
        prefix, middle, suffix = self._local(None)
        whole = prefix + middle
        content = self._answers.get(("", whole, suffix))
        for back in range(1, LOOK_BACK + 1) if content is None else ():
            cached = self._answers.get(("", whole[:-back], suffix))
            if cached is not None and cached.startswith(whole[-back:]) and len(cached) > back:
                content = max(content or "", cached[back:], key=len)
        if content is None:
            return
        text = content.rstrip("\n")
        buffer = self._buffer
        assert buffer is not None
        line = buffer.lines[buffer.row]
        if not line.strip():
            lead = min(len(text) - len(text.lstrip(" \t")), len(line))
            text = text[lead:]
        if not text.strip() or self._repeats(text, buffer):
            return
        self.shown = Shown(text, time.monotonic(), buffer.text, buffer.row, buffer.column)
        self._ask(text)

    @staticmethod
    def _repeats(text: str, buffer: Buffer) -> bool:
        """Whether the hint only says again what stands below."""
        lines, line = text.split("\n"), buffer.lines[buffer.row]
        below = [other for other in buffer.lines[buffer.row + 1 :] if other.strip()][: len(lines)]
        if len(lines) == 1 and text == line[buffer.column :]:
            return True
        first = line[: buffer.column] + lines[0]
        return bool(below) and first == below[0] and lines[1:] == below[1 : len(lines)]

    # The ring of extra context.

    def _cut(self, lines: list[str]) -> list[str]:
        if len(lines) + 1 < RING_LINES:
            return lines
        start = self._random.randint(0, max(0, len(lines) - RING_LINES // 2))
        return lines[start : start + RING_LINES // 2]

    def _pick(self, lines: list[str], *, evict: bool = False) -> None:
        if len(lines) < 3:
            return
        chunk = self._cut(lines)
        for store in (self._queued, self._ring):
            alike = [other for other in store if _similarity(other, chunk) > 0.9]
            if alike and not evict:
                return
            for other in alike:
                store.remove(other)
        self._queued = [*self._queued[-15:], chunk]

    async def _ring_updates(self) -> None:
        while True:
            await asyncio.sleep(RING_EVERY_S)
            if not self._queued or time.monotonic() - self._moved_s < RING_REST_S:
                continue
            self._ring = [*self._ring[-(RING_CHUNKS - 1) :], self._queued.pop(0)]
            body = self._body("", "", "", 0) | {"t_max_prompt_ms": 1, "t_max_predict_ms": 1}
            warm: asyncio.Task[object] = asyncio.create_task(self._http.post("/infill", json=body))
            self._warm.add(warm)
            warm.add_done_callback(self._warm.discard)
