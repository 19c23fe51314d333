"""The agent on a real daemon: the starter model on some of the 24 tasks, Qwen Code beside it, acpx.

    python tests/benchmarks/agent_live.py [--tasks 4] [--only acpx agent qwen-code] [--save]

`agent` is `underkeel agent` with the served model's own tool calls, `qwen-code` the package of that
name, from npm into build/clients, on the same daemon, tasks and limits. Both have to do the
task without questions. Reported for each: whether the task's check passes, the requests, and the
prompt tokens that were evaluated and found in the KV cache, as the daemon counts them.

`acpx`, a client of the Agent Client Protocol from npm (it needs Node 22, from npm as well), works
through a session with a played model: prompt, approval, refusal, mode, cancel, a session that is
loaded again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent import TASKS, Task, ledger
from clients import CLIENTS, install
from head import head, publish

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "equipment"))

from chatting import call, large_context, played
from daemons import serving
from real_daemon import configure, ended_afterwards, underkeel

from assistant import paths
from assistant.client.client import DaemonClient

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "tests/benchmarks/results/agent_live.json"
MODEL = "qwen2.5-coder-0.5b"
N_CTX = 8192
NAMES = (
    "fix a sum",
    "fix a name",
    "add option depth",
    "write clamp",
    "create port.py",
    "move misc",
)
"""One of each kind: a bug, an option, a function, a file, a move."""


def chosen(count: int) -> list[Task]:
    return [task for name in NAMES[:count] for task in TASKS if task.name == name]


def placed(task: Task, folder: Path) -> Path:
    """The task's repository."""
    for path, text in {**task.files, "ledger.py": ledger(8)}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def request_of(task: Task) -> str:
    return f"Please {task.name}, so that `python3 {task.check}` passes. Change no other file."


def passes(task: Task, folder: Path) -> bool:
    with suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            [sys.executable, task.check], cwd=folder, capture_output=True, check=False, timeout=30
        )
        return done.returncode == 0
    return False


def run(
    command: list[str | Path], folder: Path, limit_s: float, **environment: str
) -> tuple[str, bool]:
    """What a command has printed, and whether it ended within the limit."""
    process = subprocess.Popen(
        [str(one) for one in command],
        cwd=folder,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        return process.communicate(timeout=limit_s)[0], True
    except subprocess.TimeoutExpired:
        process.terminate()
        return process.communicate(timeout=30)[0], False


COUNTED = ("requests", "evaluated_tokens", "cached_tokens", "generated_tokens")


def counted() -> dict[str, int]:
    """What the engine has done so far; cancelled answers included."""

    async def main() -> dict[str, int]:
        async with DaemonClient(autostart=False) as client:
            stats = (await client.status()).stats
            return {name: getattr(stats, name, 0) for name in COUNTED}

    return asyncio.run(main())


def by_agent(task: Task, folder: Path, limit_s: float) -> dict[str, Any]:
    command: list[str | Path] = [sys.executable, "-m", "assistant", "agent", request_of(task)]
    command += ["--mode", "auto", "--json"]
    said, ended = run(command, folder, limit_s, PYTHONPATH=str(ROOT))
    events = []
    for line in said.splitlines():
        with suppress(ValueError):
            events.append(json.loads(line))
    end: dict[str, Any] = next((one for one in events if one["event"] == "end"), {})
    prompt, cached = end.get("prompt_tokens", 0), end.get("cached_tokens", 0)
    return {
        "ended": end.get("reason", "time limit" if not ended else "error"),
        "requests": end.get("steps"),
        "calls": sum(one["event"] == "call" for one in events),
        "failed_calls": sum(one["event"] == "result" and one["failed"] for one in events),
        "prompt_tokens": prompt,
        "evaluated_a_request": round((prompt - cached) / max(end.get("steps", 1), 1)),
        "cached_share": round(cached / prompt, 3) if prompt else None,
        "generated_tokens": end.get("generated_tokens"),
        "said": "".join(one["text"] for one in events if one["event"] == "text")[-400:],
    }


def by_qwen_code(task: Task, folder: Path, limit_s: float) -> dict[str, Any]:
    way = paths.find_tcp_address()
    assert way is not None, "the daemon has no TCP address"
    program = CLIENTS / "qwen-code/node_modules/.bin/qwen"
    options = ["--auth-type", "openai", "--approval-mode", "yolo", "--max-session-turns", "20"]
    environment = {
        "HOME": str(folder.parent),
        "OPENAI_API_KEY": way.token,
        "OPENAI_BASE_URL": f"http://127.0.0.1:{way.port}/v1",
        "OPENAI_MODEL": MODEL,
    }
    said, ended = run([program, *options, "-o", "json", "-p", request_of(task)],
                      folder, limit_s, **environment)  # fmt: skip
    last = said.strip().splitlines()[-1:] or [""]
    return {"ended": "ended" if ended else "time limit", "said": last[0][-300:]}


def live(kinds: list[str], count: int, limit_s: float) -> dict[str, Any]:
    """The starter model on a daemon of its own."""
    uses = {"agent": by_agent, "qwen-code": by_qwen_code}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        os.environ |= {
            "UNDERKEEL_MODELS": str(paths.models_dir()),
            "UNDERKEEL_HOME": str(home / "underkeel"),
        }
        (home / "underkeel").mkdir(mode=0o700)
        configure(
            home / "underkeel",
            model={"name": MODEL, "n_ctx": N_CTX},
            daemon={"tcp_port": 18788, "request_limit_s": limit_s},
        )
        with ended_afterwards():
            underkeel("restart", timeout_s=120)
            for kind in kinds:
                rows = {}
                for number, task in enumerate(chosen(count)):
                    folder = placed(task, home / f"{kind}{number}")
                    before, started = counted(), time.monotonic()
                    row = uses[kind](task, folder, limit_s)
                    row |= {
                        "solved": passes(task, folder),
                        "seconds": round(time.monotonic() - started),
                        "daemon": {key: n - before[key] for key, n in counted().items()},
                    }
                    rows[task.name] = row
                    print(kind, task.name, json.dumps(row), file=sys.stderr, flush=True)
                found[kind] = {
                    "tasks": len(rows),
                    "solved": sum(row["solved"] for row in rows.values()),
                    "rows": rows,
                }
                if kind == "qwen-code":
                    found[kind]["version"] = install("qwen-code")
    return found


FIX = call("replace_text", path="shape.py", old="w + h", new="w * h")
SLEEP = call("run_command", command="sleep 60")


def acpx(limit_s: float) -> dict[str, Any]:
    """What acpx has shown, use by use."""
    folder = CLIENTS / "acpx"
    package = folder / "node_modules/acpx/package.json"
    if not package.exists():
        quiet = ["--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(["npm", "install", "--prefix", folder, *quiet, "acpx@0.19.1", "node@22"],
                       check=True, stdout=subprocess.DEVNULL)  # fmt: skip
    model = paths.models_dir() / f"{MODEL}-instruct-q4_k_m.gguf"
    script = [FIX, "It multiplies now.", FIX, "Refused.", SLEEP, "Never.", "Still here."]
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        os.environ |= {
            "UNDERKEEL_MODELS": str(paths.models_dir()),
            "UNDERKEEL_HOME": str(home / "underkeel"),
            "HOME": name,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{folder / 'node_modules/.bin'}:{os.environ['PATH']}",
        }
        (home / "underkeel").mkdir(mode=0o700)
        work = home / "work"
        work.mkdir()
        (work / "shape.py").write_text("def area(w, h):\n    return w + h\n")

        async def main() -> dict[str, Any]:
            async with serving(played(model, script), planner=lambda: large_context(model)):
                return await asyncio.to_thread(use_acpx, folder, work, limit_s)

        found = asyncio.run(main())
    return {"version": json.loads(package.read_text())["version"], **found}


def use_acpx(folder: Path, work: Path, limit_s: float) -> dict[str, Any]:
    agent = f"{sys.executable} -m assistant acp"
    node = shutil.which("node", path=str(folder / "node_modules/.bin")) or "node"
    base: list[str | Path] = [node, folder / "node_modules/acpx/dist/cli.js", "--agent", agent]

    def use(*words: str, limit_s: float = limit_s) -> str:
        return run([*base, *words], work, limit_s)[0]

    shape = work / "shape.py"
    seen = {"once": use("--approve-all", "exec", "Fix area.")}
    found: dict[str, Any] = {
        "prompt": "It multiplies now." in seen["once"],
        "edit": "w * h" in shape.read_text(),
    }
    shape.write_text("def area(w, h):\n    return w + h\n")
    seen["refused"] = use("--deny-all", "exec", "Fix area.")
    found["refusal"] = "w + h" in shape.read_text() and "Refused." in seen["refused"]
    seen["new"] = use("sessions", "new")
    seen["mode"] = use("set-mode", "edit")
    words = [str(one) for one in (*base, "--approve-all", "prompt", "Wait.")]
    for _ in range(2):  # it gives its own process little time to start on a busy machine
        seen["cancelled"] = ""
        with subprocess.Popen(
            words, cwd=work, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        ) as running:
            for line in running.stdout or ():
                seen["cancelled"] += line
                if "sleep 60" in line:
                    time.sleep(3)
                    seen["cancel"] = use("cancel")
        if "sleep 60" in seen["cancelled"]:
            break
    found["cancel"] = "cancelled" in seen["cancelled"]
    seen["again"] = use("--approve-all", "prompt", "Are you there?")
    found["second_prompt"] = "Never." in seen["again"] or "Still here." in seen["again"]
    seen["history"] = use("sessions", "history")
    seen["close"] = use("sessions", "close")
    found["sessions"] = "Wait." in seen["history"]
    found["works"] = all(found.values())
    if not found["works"]:
        found["said"] = {key: text[-400:] for key, text in seen.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    kinds = ("acpx", "agent", "qwen-code")
    parser.add_argument("--only", nargs="+", choices=kinds, default=[*kinds])
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--limit-s", type=float, default=240, help="for each task")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    settings = {"n_ctx": N_CTX, "tasks": options.tasks, "limit_s": options.limit_s}
    result = head("agent_live", model=MODEL) | {"settings": settings}
    if options.save and RESULT.exists():
        result = json.loads(RESULT.read_text("utf-8")) | result
    for kind in options.only:
        if kind == "qwen-code":
            install("qwen-code")
        result[kind] = (
            acpx(120) if kind == "acpx" else live([kind], options.tasks, options.limit_s)[kind]
        )
        publish(result, RESULT, save=options.save)


if __name__ == "__main__":
    main()
