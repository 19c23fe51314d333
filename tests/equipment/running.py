"""A runner in the test's own process, stepped by hand: what it does is counted, not timed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from assistant.engine.types import Delta, Done, GenerateRequest, LoadSpec, Timings, TokenLogprob
from assistant.engine.worker.runner import Runner
from assistant.errors import UnderkeelError
from assistant.llama.context import Context
from assistant.llama.model import Model


@dataclass
class Heard:
    """The answer to a request."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    text: str = ""
    done: Done | None = None
    error: UnderkeelError | None = None

    @property
    def timings(self) -> Timings:
        assert self.done is not None
        return self.done.timings


class Bench:
    """One model, one context, one runner."""

    def __init__(self, model: Model, spec: LoadSpec) -> None:
        self.model = model
        self.context = Context(model, spec)
        self.runner = Runner(model, self.context, spec, self._say, self._fail)
        self.heard: dict[str, Heard] = {}
        self._ids = itertools.count()

    def ask(self, prompt: str | list[int], max_tokens: int = 8, **requirements: Any) -> str:
        """Take a request in; its id."""
        ids = self.model.tokenise(prompt, special=True) if isinstance(prompt, str) else prompt
        request = GenerateRequest(
            id=f"r{next(self._ids)}", prompt=tuple(ids), max_tokens=max_tokens
        )
        request = replace(request, **requirements)
        self.heard[request.id] = Heard()
        self.runner.knock(request)
        self.runner.add(request)
        return request.id

    def answer(self, prompt: str | list[int], max_tokens: int = 8, **requirements: Any) -> Heard:
        """Ask and step until it is answered."""
        name = self.ask(prompt, max_tokens, **requirements)
        self.until(lambda: self.heard[name].done is not None)
        return self.heard[name]

    def until(self, condition: Callable[[], bool], most: int = 2000) -> int:
        """Step until it holds; how many steps that took."""
        for steps in range(most):
            if condition():
                return steps
            self.runner.step()
        raise AssertionError("it never came to that")

    def finish(self) -> None:
        self.until(lambda: not self.runner.busy)

    def _say(self, event: Delta | Done) -> None:
        heard = self.heard[event.id]
        if isinstance(event, Done):
            heard.done = event
        else:
            heard.text += event.text
            heard.tokens += event.tokens
            heard.logprobs += event.logprobs

    def _fail(self, request_id: str, error: UnderkeelError) -> None:
        self.heard[request_id].error = error


@contextmanager
def running(path: Path, **shape: Any) -> Iterator[Bench]:
    """A bench on the model of a file, alone or on one that is loaded (`model=`)."""
    loaded: Model | None = shape.pop("model", None)
    spec = replace(LoadSpec(path=str(path), n_ctx=1024, n_seq_max=3, n_outputs_max=32), **shape)
    model = loaded or Model(spec)
    bench = Bench(model, spec)
    try:
        yield bench
    finally:
        bench.context.free()
        if loaded is None:
            model.free()
