# ruff: noqa: E501 - one task a line
"""The agent on 24 small tasks in generated repositories, with a scripted model.

    python tests/benchmarks/agent.py [--save]

A script plays each task correctly at windows of 4k, 8k and 16k tokens, and with each of 10 flaws at
one of them in turn: in every fifth of the first calls, and in each that changes something.
Required: no prompt over its budget, no step cut without a word, no loop of compactions, and every
task that is played correctly solved; one with a flaw may end with a reason, as by repetition: its
script makes the same wrong call four times and more. Reported besides: tokens evaluated for each
request, and the share of the prompt that was in the KV cache of one sequence, as a share of what
could have been.
Then 50 sessions while the budget changes before every request; see agent_pressure.py.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "equipment"))

from agent_pressure import under_pressure
from head import head, publish
from scripted_model import Line, Recorder, ScriptedModel, say, use

from assistant.agent import session as agent_session
from assistant.agent.conversation import Answer, Message, SessionStore, ToolCall
from assistant.agent.loop import Limits
from assistant.agent.model import calls_in_text
from assistant.agent.session import AgentSession
from assistant.agent.tools import tools
from assistant.errors import WorkerDiedError

RESULT = Path(__file__).with_name("results") / "agent.json"
WINDOWS = (4096, 8192, 16_384)
ANSWER_TOKENS = 512
_DIGEST = re.compile(r"\[(\d+) earlier steps are shortened|The first (\d+) steps and")


@dataclass(frozen=True)
class Task:
    """A repository, what is to be done in it, how, and how one sees that it is done."""

    name: str
    files: dict[str, str]
    steps: Sequence[Answer]
    check: str
    reads: Sequence[str] = field(default=("ledger.py",))


def ledger(functions: int = 60) -> str:
    """A long file, so that reading it does not fit a small window."""
    return '"""Entries of a harbour ledger."""\n' + "".join(
        f"\n\ndef entry_{number}(amount, rate={number}):\n"
        f'    """Entry {number} of the ledger."""\n'
        f"    total = amount * rate + {number}\n"
        f"    if total > {number * 100}:\n"
        f"        total -= {number}\n"
        f"    return total\n"
        for number in range(functions)
    )


def _bug(name: str, body: str, wrong: str, right: str, check: str) -> Task:
    files = {"core.py": body, "check.py": f"from core import *\n{check}\n"}
    steps = [
        use("read_file", path="core.py"),
        use("replace_text", path="core.py", old=wrong, new=right),
    ]
    return Task(f"fix {name}", files, steps, "check.py")


def _rename(old: str, new: str) -> Task:
    files = {
        "core.py": f"def {old}(x):\n    return x + 1\n",
        "a.py": f"from core import {old}\n\nA = {old}(1)\n",
        "b.py": f"import core\n\nB = core.{old}(2)\n",
        "check.py": f"import a, b, core\nassert a.A == 2 and b.B == 3\nassert core.{new}(0) == 1\n"
        f"assert not hasattr(core, '{old}')\n",
    }
    steps = [
        use("find_symbol", name=old),
        use("replace_text", path="core.py", old=f"def {old}(", new=f"def {new}("),
        use("replace_text", path="a.py", old=f"import {old}\n\nA = {old}(", new=f"import {new}\n\nA = {new}("),
        use("replace_text", path="b.py", old=f"core.{old}(", new=f"core.{new}("),
    ]  # fmt: skip
    return Task(f"rename {old}", files, steps, "check.py")


def _option(name: str, default: str) -> Task:
    files = {
        "cli.py": "import argparse\n\n\ndef parser():\n    made = argparse.ArgumentParser()\n"
        "    made.add_argument('path')\n    return made\n",
        "check.py": f"from cli import parser\nassert parser().parse_args(['p']).{name} == {default}\n",
    }
    old = "    made.add_argument('path')\n"
    new = f"{old}    made.add_argument('--{name}', default={default})\n"
    steps = [
        use("read_file", path="cli.py", definition="parser"),
        use("replace_text", path="cli.py", old=old, new=new),
    ]
    return Task(f"add option {name}", files, steps, "check.py")


def _cycle(one: str, other: str) -> Task:
    files = {
        f"{one}.py": f"import {other}\n\nLIMIT = {other}.BASE + 1\n",
        f"{other}.py": f"from {one} import LIMIT\n\nBASE = 1\n\n\ndef top():\n    return LIMIT\n",
        "check.py": f"import {one}, {other}\nassert {other}.top() == 2 == {one}.LIMIT\n",
    }
    steps = [
        use("read_file", path=f"{other}.py"),
        use("apply_patch", patch=f"--- a/{other}.py\n+++ b/{other}.py\n@@ -1,7 +1,7 @@\n"
            f"-from {one} import LIMIT\n-\n BASE = 1\n \n \n def top():\n"
            f"+    from {one} import LIMIT\n+\n     return LIMIT\n"),
    ]  # fmt: skip
    return Task(f"break the cycle of {one} and {other}", files, steps, "check.py")


def _function(name: str, body: str, check: str) -> Task:
    files = {"core.py": '"""Helpers."""\n', "check.py": f"from core import {name}\n{check}\n"}
    steps = [
        use("read_file", path="check.py"),
        use("replace_text", path="core.py", old='"""Helpers."""\n', new=f'"""Helpers."""\n\n\n{body}'),
    ]  # fmt: skip
    return Task(f"write {name}", files, steps, "check.py")


def _move(old: str, new: str) -> Task:
    files = {
        f"{old}.py": "VALUE = 7\n",
        "use.py": f"from {old} import VALUE\n",
        "check.py": f"import use\nfrom {new} import VALUE\nassert use.VALUE == VALUE == 7\n"
        f"import importlib.util\nassert importlib.util.find_spec('{old}') is None\n",
    }
    steps = [
        use("search_text", pattern="import VALUE"),
        use("move_file", path=f"{old}.py", to=f"{new}.py"),
        use("replace_text", path="use.py", old=f"from {old}", new=f"from {new}"),
    ]
    return Task(f"move {old}", files, steps, "check.py")


def _create(path: str, text: str, check: str) -> Task:
    files = {"README.md": "# Harbour\n", "check.py": f"{check}\n"}
    return Task(f"create {path}", files, [use("list_folder"), use("create_file", path=path, text=text)], "check.py")  # fmt: skip


TASKS: list[Task] = [
    _bug("a sum", "def area(w, h):\n    return w + h\n", "w + h", "w * h", "assert area(2, 3) == 6"),
    _bug("a limit", "def last(n):\n    return list(range(n))\n", "range(n)", "range(n + 1)", "assert last(2) == [0, 1, 2]"),
    _bug("a comparison", "def old(age):\n    return age > 18\n", "age > 18", "age >= 18", "assert old(18)"),
    _bug("a default", "def put(x, into=[]):\n    into.append(x)\n    return into\n", "into=[]):\n", "into=None):\n    into = [] if into is None else into\n", "put(1)\nassert put(2) == [2]"),
    _bug("a syntax error", "def f(x:\n    return x\n", "def f(x:", "def f(x):", "assert f(1) == 1"),
    _bug("a name", "def total(items):\n    return sum(itms)\n", "itms", "items", "assert total([1, 2]) == 3"),
    _bug("a case", "def same(a, b):\n    return a == b\n", "a == b", "a.lower() == b.lower()", "assert same('A', 'a')"),
    _bug("a division", "def mean(xs):\n    return sum(xs) / len(xs)\n", "return sum(xs) / len(xs)", "return sum(xs) / len(xs) if xs else 0", "assert mean([]) == 0"),
    _rename("grow", "increase"),
    _rename("calc", "add_one"),
    _rename("fn", "successor"),
    _option("depth", "3"),
    _option("colour", "'auto'"),
    _option("limit", "None"),
    _cycle("berth", "quay"),
    _cycle("model", "view"),
    _function("clamp", "def clamp(x, low, high):\n    return max(low, min(x, high))\n", "assert clamp(5, 0, 3) == 3"),
    _function("flatten", "def flatten(rows):\n    return [x for row in rows for x in row]\n", "assert flatten([[1], [2]]) == [1, 2]"),
    _function("words", "def words(text):\n    return text.split()\n", "assert words('a b') == ['a', 'b']"),
    _function("chunk", "def chunk(xs, n):\n    return [xs[i : i + n] for i in range(0, len(xs), n)]\n", "assert chunk([1, 2, 3], 2) == [[1, 2], [3]]"),
    _move("util", "helpers"),
    _move("misc", "values"),
    _create("port.py", "PORT = 8080\n", "from port import PORT\nassert PORT == 8080"),
    _create("pkg/names.py", "NAMES = ['a', 'b']\n", "from pkg.names import NAMES\nassert len(NAMES) == 2"),
]  # fmt: skip


def background() -> list[Answer]:
    """Looks at other code before the change, as models do: it fills the window."""
    found = [use("read_file", path="ledger.py")]
    found += [use("read_file", path="ledger.py", first=n, last=n + 55) for n in range(1, 340, 60)]
    found += [use("read_file", path="ledger.py", definition=f"entry_{n}") for n in range(0, 60, 7)]
    return found


def _as_json_text(answer: Answer) -> Answer:
    call = answer.calls[0]
    text = json.dumps({"name": call.name, "arguments": json.loads(call.arguments)})
    rest, calls, problem = calls_in_text(text, list(tools()))
    return Answer(text=rest, calls=tuple(calls), problem=problem, generated_tokens=20)


def _with(answer: Answer, name: str = "", arguments: str | None = None) -> Answer:
    call = answer.calls[0]
    made = ToolCall(id=call.id[::-1], name=name or call.name,
                    arguments=call.arguments if arguments is None else arguments)  # fmt: skip
    return Answer(calls=(made,), generated_tokens=20)


FLAWS: dict[str, Callable[[Answer], list[Line]]] = {
    "call as JSON text": lambda one: [_as_json_text(one)],
    "arguments are not JSON": lambda one: [_with(one, arguments='{"path": '), one],
    "unknown tool": lambda one: [_with(one, name="delegate_task"), one],
    "missing parameter": lambda one: [_with(one, arguments="{}"), one],
    "stale text": lambda one: [
        use("replace_text", path="ledger.py", old="no such text", new="x"), one,
    ],
    "call repeated": lambda one: [one, one],
    "answer cut": lambda one: [
        Answer(text="half", calls=one.calls, truncated=True, generated_tokens=512), one,
    ],
    "empty answer": lambda one: [Answer(), one],
    "whole file again": lambda one: [use("read_file", path="ledger.py"), one],
    "worker dies": lambda one: [WorkerDiedError("the worker died"), one],
}  # fmt: skip


@dataclass
class Run:
    """One task played once."""

    task: str
    window: int
    flaw: str
    solved: bool
    reason: str
    requests: int
    overflows: int
    silent_cuts: int
    compactions: int
    summaries: int
    compaction_loops: int
    evaluated_tokens: list[int]
    cached_share: float


def play(task: Task, window: int, flaw: str) -> Run:
    """Play a task in a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "repository")
        for path, text in {**task.files, "ledger.py": ledger()}.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        script: list[Line] = []
        looks = background()
        for number, step in enumerate([*looks, *task.steps]):
            is_flawed = flaw and (number % 5 == 0 or number >= len(looks))
            script += FLAWS[flaw](step) if is_flawed else [step]
        model = ScriptedModel([*script, say("Done.")], budget=window - ANSWER_TOKENS)
        stored = SessionStore(Path(name, "sessions")).create((folder,), "auto")
        session = AgentSession(stored, model, limits=Limits(steps=200))
        levels: list[Sequence[int]] = []
        ended: list[int] = []

        class User(Recorder):
            async def usage(self, used: int, size: int) -> None:  # noqa: ARG002
                levels.append(stored.record.levels)
                ended.append(sum(len(turn.steps) for turn in stored.turns))

        finished = asyncio.run(session.run(f"Please {task.name}.", User()))
        code = subprocess.run(
            [sys.executable, task.check], cwd=folder, capture_output=True, check=False
        ).returncode
        changes = [a != b for a, b in itertools.pairwise(levels)]
        return Run(
            task=task.name,
            window=window,
            flaw=flaw,
            solved=code == 0,
            reason=finished.stop.reason.value,
            requests=len(model.prompts),
            overflows=model.overflows,
            silent_cuts=sum(map(_silent, model.prompts, ended)),
            compactions=sum(changes),
            summaries=model.summaries,
            compaction_loops=sum(a and b for a, b in itertools.pairwise(changes)),
            evaluated_tokens=model.evaluated,
            cached_share=_cached_share(model),
        )


def _silent(prompt: Sequence[Message], finished: int) -> bool:
    """Whether one of the finished steps is in a prompt neither by itself nor counted as shortened
    to a line or summed up."""
    shown = sum(message["role"] == "assistant" for message in prompt)
    gone = 0
    for message in prompt:
        for shortened, summed_up in _DIGEST.findall(str(message["content"])):
            gone += int(shortened or summed_up)
            shown -= bool(summed_up)  # the summary itself
    return bool(shown + gone != finished)


def _cached_share(model: ScriptedModel) -> float:
    """Cached tokens over those that the request before had and this one still could have."""
    pairs = list(zip(model.cached[1:], model.evaluated[1:], strict=True))
    possible = [
        min(cached + new, before_c + before_e)
        for (cached, new), (before_c, before_e) in zip(
            pairs, zip(model.cached, model.evaluated, strict=True), strict=False
        )
    ]
    return sum(cached for cached, _ in pairs) / max(sum(possible), 1)


def plays() -> Iterator[tuple[Task, int, str]]:
    for task in TASKS:
        for window in WINDOWS:
            yield task, window, ""
    for number, (task, flaw) in enumerate(itertools.product(TASKS, FLAWS)):
        yield task, WINDOWS[number % len(WINDOWS)], flaw


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    evaluated = [tokens for run in runs for tokens in run.evaluated_tokens[1:]]
    return {
        "runs": len(runs),
        "solved": sum(run.solved for run in runs),
        "overflows": sum(run.overflows for run in runs),
        "silent_cuts": sum(run.silent_cuts for run in runs),
        "compaction_loops": sum(run.compaction_loops for run in runs),
        "compactions": sum(run.compactions for run in runs),
        "summaries": sum(run.summaries for run in runs),
        "requests": sum(run.requests for run in runs),
        "evaluated_tokens_a_request": {"mean": round(mean(evaluated)), "median": median(evaluated)},
        "cached_share": {
            "mean": round(mean(run.cached_share for run in runs), 3),
            "least": round(min(run.cached_share for run in runs), 3),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    agent_session._RETRY_S = (0.0, 0.0, 0.0)
    result = head("agent") | {
        "settings": {"answer_tokens": ANSWER_TOKENS, "windows": list(WINDOWS)}
    }
    runs = [play(*one) for one in plays()]
    with tempfile.TemporaryDirectory() as folder:
        pressure = under_pressure(Path(folder), sessions=50, turns=3, reads=4)
    result |= {
        "tasks": len(TASKS),
        "flaws": list(FLAWS),
        "correct": {str(w): summary([r for r in runs if r.window == w and not r.flaw]) for w in WINDOWS},
        "flawed": {str(w): summary([r for r in runs if r.window == w and r.flaw]) for w in WINDOWS},
        "sessions_under_pressure": vars(pressure),
        "unsolved": [f"{r.task} ({r.window}, {r.flaw or 'correct'}): {r.reason}" for r in runs if not r.solved],
    }  # fmt: skip
    publish(result, RESULT, save=arguments.save)


if __name__ == "__main__":
    main()
