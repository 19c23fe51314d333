"""Models whose memory is a state: it can be extended and copied, never cut. In the real worker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import tiny_models
from running import running

from assistant.engine.local import LlamaEngine
from assistant.engine.types import Delta, Done, GenerateRequest, LoadSpec, Timings

Kind = Callable[[Path], Path]
KINDS = pytest.mark.parametrize(
    "kind", [tiny_models.recurrent, tiny_models.hybrid, tiny_models.compressed]
)
PROMPT = tuple(range(3, 103))
TYPED = (7, 8, 9)
EDITED = (*PROMPT[:20], 200, *PROMPT[21:])


class Asked:
    """One worker process, asked one question after another."""

    def __init__(self, engine: LlamaEngine) -> None:
        self.engine = engine

    async def answer(self, prompt: tuple[int, ...]) -> tuple[tuple[int, ...], Timings]:
        said: tuple[int, ...] = ()
        request = GenerateRequest(id="1", prompt=prompt, max_tokens=6, document="a.py")
        async for event in self.engine.generate(request):
            if isinstance(event, Delta):
                said += event.tokens
            else:
                return said, event.timings
        raise AssertionError("no end")

    async def warm(self, prompt: tuple[int, ...]) -> Done:
        request = GenerateRequest(id="0", prompt=prompt, max_tokens=0)
        events = [event async for event in self.engine.generate(request)]
        assert isinstance(events[-1], Done)
        return events[-1]


def ask(path: Path, body: Callable[[Asked], Awaitable[None]]) -> None:
    async def main() -> None:
        engine = LlamaEngine()
        try:
            info = await engine.load(LoadSpec(path=str(path), n_ctx=512, n_threads=1))
            assert info.reuse == "append"
            await body(Asked(engine))
        finally:
            await engine.close()

    asyncio.run(main())


@KINDS
def test_llama_cpp_refuses_to_cut_such_a_sequence(kind: Kind, tmp_path: Path) -> None:
    with running(kind(tmp_path / "m.gguf"), n_ctx=512) as bench:
        bench.answer([*PROMPT], 2)
        slot = max(bench.runner.slots, key=lambda slot: len(slot.tokens))
        held = bench.context.last(slot.number)
        assert not bench.context.forget(slot.number, 50)
        assert bench.context.last(slot.number) == held


@KINDS
def test_several_answers_to_one_prompt_evaluate_it_once(kind: Kind, tmp_path: Path) -> None:
    with running(kind(tmp_path / "m.gguf"), n_ctx=512) as bench:
        names = [bench.ask([*PROMPT], 4, document=name) for name in "abc"]
        bench.finish()
        evaluated = [bench.heard[name].timings.evaluated_tokens for name in names]
        assert evaluated == [len(PROMPT), 1, 1]


@KINDS
def test_typing_costs_what_is_typed_and_an_edit_above_the_whole(kind: Kind, tmp_path: Path) -> None:
    path = kind(tmp_path / "m.gguf")
    answers: dict[tuple[int, ...], tuple[int, ...]] = {}

    async def typing(asked: Asked) -> None:
        prompt = PROMPT
        answers[prompt], first = await asked.answer(prompt)
        assert (first.cached_tokens, first.evaluated_tokens) == (0, len(prompt))
        _, again = await asked.answer(prompt)
        assert again.evaluated_tokens == 1
        for token in TYPED:  # none of them is what was answered
            prompt = (*prompt, token)
            answers[prompt], typed = await asked.answer(prompt)
            assert typed.evaluated_tokens == 2  # and the last one before it
        answers[EDITED], edit = await asked.answer(EDITED)
        assert (edit.cached_tokens, edit.evaluated_tokens) == (0, len(EDITED))
        _, back = await asked.answer(prompt)
        assert back.evaluated_tokens == 1

    ask(path, typing)
    for prompt, said in answers.items():

        async def alone(
            asked: Asked, prompt: tuple[int, ...] = prompt, said: tuple[int, ...] = said
        ) -> None:
            assert (await asked.answer(prompt))[0] == said

        ask(path, alone)


@KINDS
def test_a_prompt_that_was_warmed_is_not_evaluated_again(kind: Kind, tmp_path: Path) -> None:
    async def body(asked: Asked) -> None:
        await asked.warm(PROMPT)
        assert (await asked.answer(PROMPT))[1].evaluated_tokens == 1
        again = await asked.warm(PROMPT)
        assert again.timings.evaluated_tokens == 0
        assert (await asked.answer((*PROMPT, 7)))[1].evaluated_tokens == 2

    ask(kind(tmp_path / "m.gguf"), body)


@KINDS
def test_deleting_text_evaluates_only_the_end_again(kind: Kind, tmp_path: Path) -> None:
    """Case S11: a backspace, several, and one that changes the token before."""
    path = kind(tmp_path / "m.gguf")
    typed: tuple[int, ...] = (*PROMPT, *TYPED)
    deleted: list[tuple[int, ...]] = [typed[:-1], typed[:-2], PROMPT[:-3], (*PROMPT[:-5], 200, 201)]
    answers: dict[tuple[int, ...], tuple[int, ...]] = {}

    async def body(asked: Asked) -> None:
        await asked.answer(PROMPT)
        await asked.answer(typed)
        for prompt in deleted:
            answers[prompt], timings = await asked.answer(prompt)
            assert timings.evaluated_tokens <= 20, (len(prompt), timings)

    ask(path, body)
    for prompt, answer in answers.items():

        async def alone(
            asked: Asked, prompt: tuple[int, ...] = prompt, answer: tuple[int, ...] = answer
        ) -> None:
            assert (await asked.answer(prompt))[0] == answer

        ask(path, alone)


LONG = tuple(3 + (n * n + 7 * n) % 247 for n in range(300))


@KINDS
@pytest.mark.parametrize(
    ("cuts", "most"),
    [
        ([299 - n for n in range(40)], 50),  # a held backspace key
        ([280, 279, 240], 65),  # lines
        ([240], 20),  # a paste that is undone
    ],
    ids=["characters", "lines", "paste"],
)
def test_deleting_much_evaluates_about_as_much_again(
    kind: Kind, cuts: list[int], most: int, tmp_path: Path
) -> None:
    """S11: checkpoints are dense at the end of the text and sparse before."""

    async def body(asked: Asked) -> None:
        await asked.answer(LONG)
        for at in cuts:
            _, timings = await asked.answer(LONG[:at])
            assert timings.evaluated_tokens <= most, (at, timings)
        said, _ = await asked.answer(LONG[: cuts[-1]])
        fresh.append(said)

    fresh: list[tuple[int, ...]] = []
    path = kind(tmp_path / "m.gguf")
    ask(path, body)

    async def alone(asked: Asked) -> None:
        assert (await asked.answer(LONG[: cuts[-1]]))[0] == fresh[0]

    ask(path, alone)


@KINDS
def test_a_held_backspace_after_typing_finds_a_checkpoint(kind: Kind, tmp_path: Path) -> None:
    """S11: each keystroke keeps one; the older ones become sparse, and are not all forgotten."""

    async def body(asked: Asked) -> None:
        for length in range(200, 260):
            await asked.answer(LONG[:length])
        deleted = [await asked.answer(LONG[:length]) for length in range(259, 199, -1)]
        evaluated = [timings.evaluated_tokens for _, timings in deleted]
        assert max(evaluated) <= 40 and sum(evaluated) <= 10 * len(evaluated), evaluated

    ask(kind(tmp_path / "m.gguf"), body)
