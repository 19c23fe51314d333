"""People at work while a scenario plays: one types in an editor, one reads an explanation.

Both count what became of everything they asked for. Nothing may be lost: each request ends with
an answer, by being given up, or with an error that says what happened, and none hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from tiny_moe import TEXT

from assistant.cli.language_client import LanguageClient, language_server
from assistant.client.client import DaemonClient
from assistant.engine.types import Priority
from assistant.errors import ContextFullError, RequestError, UnderkeelError
from assistant.wire import CompletionRequest

HANGS_AFTER_S = 60.0
"""A request without an answer by then has none: half of what the daemon grants a request, and
several times what the watchdog, a reload and a queue take together."""

FLOOR_TOKENS = 100
"""A prompt so short is never over the budget, whatever the memory."""


@dataclass
class Tally:
    """What became of all requests.

    Attributes:
        asked: every request.
        shown: answers that held a suggestion; nothing: answers that held none.
        given_up: cancelled by their own asker.
        errors: refused with an error, by what it said.
        hung: not answered at all.
        wrong: answers that are not what the model says.
        shortened: questions that were asked again, shorter, since the budget had fallen.
        waits_s: from question to answer.
    """

    asked: int = 0
    shown: int = 0
    nothing: int = 0
    given_up: int = 0
    hung: int = 0
    wrong: int = 0
    shortened: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    waits_s: list[float] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Requests that nothing became of."""
        ended = self.shown + self.nothing + self.given_up + sum(self.errors.values()) + self.hung
        return self.asked - ended

    def row(self) -> dict[str, Any]:
        waits = sorted(self.waits_s) or [0.0]
        return {
            "asked": self.asked,
            "shown": self.shown,
            "nothing": self.nothing,
            "given_up": self.given_up,
            "hung": self.hung,
            "lost": self.lost,
            "wrong": self.wrong,
            "shortened": self.shortened,
            "errors": dict(self.errors),
            "told": dict(self.told),
            "wait_median_s": round(waits[len(waits) // 2], 3),
            "wait_longest_s": round(waits[-1], 3),
        }


_WORDS = ("value", "total", "self", "(", ")", " = ", " + ", "return ", "\n    ", "if ", ":")


class Typist:
    """Types in one document of an editor and asks for ghost text as it goes."""

    def __init__(
        self, client: LanguageClient, seed: int, *, key_s: float, lines: int = 300
    ) -> None:
        self.tally = Tally()
        self._client = client
        self._random = random.Random(seed)
        self._key_s = key_s
        self._uri = f"file:///play/{seed}.py"
        self._head = "".join(f"value_{n} = compute({n}, {seed})\n" for n in range(lines))
        self._typed = ["def work(total):\n    return "]
        self._version = itertools.count(2)
        client.open(self._uri, self._text, "python")

    @property
    def pid(self) -> int:
        """The language server's process."""
        return self._client.process.pid

    @property
    def _text(self) -> str:
        return self._head + "".join(self._typed)

    async def arrive(self) -> None:
        """Ask until the language server has all that it needs and shows something."""
        while not self.tally.shown:
            await self.ask()

    async def ask(self) -> None:
        """Press a key and wait for what comes."""
        self._key()
        await self._ask()

    async def type(self) -> None:
        """Type until cancelled; what was asked last is given up then."""
        waiting: asyncio.Task[None] | None = None
        try:
            while True:
                self._key()
                if waiting is not None and not waiting.done() and self._random.random() < 0.7:
                    waiting.cancel()
                waiting = asyncio.create_task(self._ask())
                if self._random.random() < 0.3:
                    await asyncio.wait({waiting})  # a person looks at what comes
                await asyncio.sleep(self._key_s * self._random.uniform(0.5, 1.5))
        finally:
            if waiting is not None:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)

    def _key(self) -> None:
        if len(self._typed) > 60:
            del self._typed[1:40]
        self._typed.append(self._random.choice(_WORDS))
        change = {
            "textDocument": {"uri": self._uri, "version": next(self._version)},
            "contentChanges": [{"text": self._text}],
        }
        self._client.notify("textDocument/didChange", change)

    async def _ask(self) -> None:
        tally, loop = self.tally, asyncio.get_running_loop()
        lines = self._text.split("\n")
        tally.asked += 1
        started_s = loop.time()
        number, answer = self._client.send_completion(self._uri, len(lines) - 1, len(lines[-1]))
        try:
            async with asyncio.timeout(HANGS_AFTER_S):
                message = await answer
        except asyncio.CancelledError:
            self._client.cancel(number)
            tally.given_up += 1
            raise
        except TimeoutError:
            tally.hung += 1
            return
        tally.waits_s.append(loop.time() - started_s)
        if "error" in message:
            tally.errors[message["error"]["message"]] += 1
        elif (message.get("result") or {}).get("items"):
            tally.shown += 1
        else:
            tally.nothing += 1


class Reader:
    """Asks the daemon for long answers, one after another, and checks every word of them."""

    def __init__(
        self,
        client: DaemonClient,
        *,
        tokens: int = 60,
        prompt_tokens: int = 600,
        patience_s: float = HANGS_AFTER_S,
    ) -> None:
        self.tally = Tally()
        self._client = client
        self._tokens = tokens
        self._patience_s = patience_s
        self._prompt_tokens = prompt_tokens

    async def read(self) -> None:
        """Ask until cancelled."""
        for number in itertools.count():
            await self.ask(number)
            await asyncio.sleep(0.02)

    async def ask(self, number: int) -> None:
        """Ask one question; once more, and shorter, if it is over the budget of the moment."""
        try:
            await self._ask(number, self._prompt_tokens)
        except ContextFullError:
            self.tally.asked -= 1
            self.tally.shortened += 1
            try:
                await self._ask(number, FLOOR_TOKENS)
            except ContextFullError as error:
                self.tally.errors[error.code] += 1

    async def _ask(self, number: int, prompt_tokens: int) -> None:
        tally, loop = self.tally, asyncio.get_running_loop()
        request = CompletionRequest(
            prompt=_prompt(prompt_tokens, number),
            temperature=0.0,
            max_tokens=self._tokens,
            priority=Priority.EXPLAIN,
            budget_tokens=prompt_tokens,
        )
        tally.asked += 1
        started_s, text = loop.time(), ""
        try:
            async with asyncio.timeout(self._patience_s):
                async for chunk in self._client.complete(request):
                    text += chunk.content
        except asyncio.CancelledError:
            tally.given_up += 1
            raise
        except TimeoutError:
            tally.hung += 1
            return
        except ContextFullError:
            raise
        except UnderkeelError as error:
            tally.errors[error.code] += 1
            return
        tally.waits_s.append(loop.time() - started_s)
        tally.shown += bool(text)
        tally.nothing += not text
        expected = TEXT * (len(text) // len(TEXT) + 1)
        tally.wrong += not expected.startswith(text)


def _prompt(tokens: int, number: int) -> tuple[int, ...]:
    """Ids of ordinary tokens, each question's own."""
    noise = random.Random(number)
    return tuple(noise.randrange(1000, 20_000) for _ in range(tokens))


@contextlib.asynccontextmanager
async def editors(
    count: int, *, key_s: float = 0.1, root: str = "", seed: int | None = None
) -> AsyncIterator[list[Typist]]:
    """Editors with their language servers, one typist each."""
    seed = secrets.randbelow(1000) if seed is None else seed
    environment = {**os.environ, "PYTHONPATH": root}
    async with contextlib.AsyncExitStack() as stack:
        typists = []
        for number in range(count):
            client = await stack.enter_async_context(language_server(env=environment))
            await client.initialise(experimental={"underkeel": {"status": True}})
            typists.append(Typist(client, seed + number, key_s=key_s))
        yield typists
        for typist in typists:
            for method, params in typist._client.told:
                if method == "window/showMessage" and params["type"] == 1:
                    typist.tally.told[params["message"]] += 1


@contextlib.asynccontextmanager
async def at_work(*coroutines: Any) -> AsyncIterator[None]:
    """Let people work for the length of the block; a failure of theirs ends it."""
    tasks = [asyncio.create_task(work) for work in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception) and not isinstance(result, RequestError):
                raise result
