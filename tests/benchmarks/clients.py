"""Real clients against the daemon: each is installed from its registry into build/clients and used.

    python tests/benchmarks/clients.py [--only openai llm ...] [--save]

Between client and daemon, a recorder notes what was requested and answered. So it is the client's
own traffic that says whether it has listed the models, streamed, received a tool call, sent its
result and read the usage. The starter model calls no tool of Qwen Code's, so that client is used
once more with a played model that does. Prints JSON; `--save` keeps it in
tests/benchmarks/results/clients.json.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from head import head, publish

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "tests/benchmarks/results/clients.json"
CLIENTS = ROOT / "build/clients"
PYPI = {"openai": "openai", "llm": "llm", "aider": "aider-chat"}
NPM = {"qwen-code": "@qwen-code/qwen-code", "continue": "@continuedev/cli"}
LONG = "Write a long story about a ship, at least two thousand words."

OPENAI_SCRIPT = """
import json, sys
from openai import OpenAI
client = OpenAI()
model = client.models.list().data[0].id
if sys.argv[1] == "cancel":
    stream = client.chat.completions.create(
        model=model, stream=True, messages=[{"role": "user", "content": sys.argv[2]}])
    for count, _ in enumerate(stream):
        if count == 3:
            stream.close()
            break
    sys.exit()
text, usage = "", None
for chunk in client.chat.completions.create(
    model=model, stream=True, stream_options={"include_usage": True}, max_tokens=20,
    messages=[{"role": "user", "content": "Say hello."}]):
    text += chunk.choices[0].delta.content or "" if chunk.choices else ""
    usage = chunk.usage or usage
tools = [{"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]
messages = [{"role": "user", "content": "What is the weather in Paris?"}]
answer = client.chat.completions.create(
    model=model, messages=messages, tools=tools, tool_choice="required", max_tokens=100)
message = answer.choices[0].message
call = message.tool_calls[0]
messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "18 degrees, rain"}]
last = client.chat.completions.create(
    model=model, messages=messages, tools=tools, tool_choice="none", max_tokens=40)
response = client.responses.create(model=model, input="Say hello.", max_output_tokens=20)
print(json.dumps({
    "text": text, "usage": usage.total_tokens, "arguments": json.loads(call.function.arguments),
    "after_result": last.choices[0].message.content, "response": response.output_text}))
"""
FUNCTIONS = """
def weather(city: str) -> str:
    "Report the weather of a city"
    return city + ": 18 degrees, rain"
"""


@dataclass
class Seen:
    """What the recorder has seen of one client."""

    listed: bool = False
    streamed: bool = False
    tools_offered: int = 0
    tool_calls: int = 0
    tool_results: int = 0
    usage: bool = False
    statuses: list[int] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    prompt_tokens: int = 0


class Recorder(ThreadingHTTPServer):
    """Passes requests on to the daemon and notes what they are. It leaves where its client does."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), Recording)
        self.upstream, self.seen = upstream, Seen()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Recording(BaseHTTPRequestHandler):
    server: Recorder

    def do_GET(self) -> None:
        self.server.seen.listed |= self.path.endswith("/models")
        self._pass_on(None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        seen, asked = self.server.seen, json.loads(body)
        seen.tools_offered = max(seen.tools_offered, len(asked.get("tools") or ()))
        messages = asked.get("messages") or ()
        seen.tool_results += sum(one.get("role") == "tool" for one in messages)
        seen.streamed |= bool(asked.get("stream"))
        self._pass_on(body)

    def _pass_on(self, body: bytes | None) -> None:
        headers = {"content-type": "application/json"}
        headers |= {"authorization": self.headers.get("authorization", "")}
        host = self.server.upstream.partition("//")[2]
        with contextlib.closing(http.client.HTTPConnection(host)) as upstream:
            upstream.request(self.command, self.path, body, headers)
            threading.Thread(target=self._leave, args=(upstream.sock,), daemon=True).start()
            try:
                self._relay(upstream.getresponse())
            except (OSError, http.client.HTTPException):
                self.close_connection = True

    def _leave(self, upstream: socket.socket) -> None:
        """Close the daemon's connection when the client has closed its own, also while it waits."""
        with contextlib.suppress(OSError):
            if not self.connection.recv(1, socket.MSG_PEEK):
                upstream.shutdown(socket.SHUT_RDWR)

    def _relay(self, answer: http.client.HTTPResponse) -> None:
        seen = self.server.seen
        seen.statuses.append(answer.status)
        self.send_response(answer.status)
        self.send_header("content-type", answer.headers.get("content-type", ""))
        self.end_headers()
        told = b""
        while part := answer.read1(1 << 16):
            told += part
            self.wfile.write(part)
        if answer.status != 200:
            seen.refusals.append(told.decode("utf-8", "replace")[:300])
        seen.tool_calls += told.count(b'"tool_calls":[{')
        seen.usage |= b'"prompt_tokens":' in told
        for line in told.splitlines():
            found = line.partition(b'"prompt_tokens":')[2].partition(b",")[0]
            seen.prompt_tokens += int(found) if found.isdigit() else 0

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Bench:
    """A daemon with the starter model, and the recorder before it."""

    home: Path
    port: int
    token: str
    recorder: Recorder
    limit_s: float

    @property
    def environment(self) -> dict[str, str]:
        """Of a client: its own home, and the address and the token as OpenAI's SDK reads them."""
        return os.environ | {
            "HOME": str(self.home),
            "OPENAI_API_KEY": self.token,
            "OPENAI_BASE_URL": f"{self.recorder.url}/v1",
            "OPENAI_MODEL": "starter-moe",
            "LLM_USER_PATH": str(self.home / "llm"),
            "AIDER_ANALYTICS": "false",
        }

    def run(self, *command: str | Path, folder: Path | None = None) -> str:
        """What it has printed; whatever it still runs ends with the time limit."""
        done = subprocess.run(
            [str(one) for one in command],
            env=self.environment,
            cwd=folder or self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=self.limit_s,
        )
        return done.stdout

    def cancel(self, *command: str | Path) -> float | None:
        """Interrupt the client in the middle of its answer, as Ctrl+C does.

        A terminal sends the signal to all processes of the command, so this does too.

        Returns:
            Seconds until the daemon had ended the request; None where it did not within a minute.
        """
        process = subprocess.Popen(
            [str(one) for one in command],
            env=self.environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + self.limit_s
            while not self._running() and time.monotonic() < deadline:
                time.sleep(0.1)
            time.sleep(1)
            os.killpg(process.pid, signal.SIGINT)
            started = time.monotonic()
            while self._running():
                if time.monotonic() - started > 60:
                    return None
                time.sleep(0.05)
            return round(time.monotonic() - started, 2)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _running(self) -> bool:
        url = f"http://127.0.0.1:{self.port}/underkeel/status"
        request = urllib.request.Request(url, headers={"authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request) as answer:
            return bool(json.load(answer)["in_flight"])


def openai(bench: Bench) -> dict[str, Any]:
    python = CLIENTS / "openai/bin/python"
    found = json.loads(bench.run(python, "-c", OPENAI_SCRIPT, "all").splitlines()[-1])
    cancelled = bench.cancel(python, "-c", OPENAI_SCRIPT, "cancel", LONG)
    return {"works": bool(found["text"] and found["response"]), "cancelled_s": cancelled, **found}


def llm(bench: Bench) -> dict[str, Any]:
    program, folder = CLIENTS / "llm/bin/llm", bench.home / "llm"
    folder.mkdir(exist_ok=True)
    (folder / "extra-openai-models.yaml").write_text(
        "- model_id: underkeel\n  model_name: starter-moe\n"
        f"  api_base: {bench.recorder.url}/v1\n  api_key_name: underkeel\n  supports_tools: true\n"
    )
    bench.run(program, "keys", "set", "underkeel", "--value", bench.token)
    said = bench.run(program, "-m", "underkeel", "-u", "-o", "max_tokens", "20", "Say hello.")
    (bench.home / "weather.py").write_text(FUNCTIONS)
    calling: list[str | Path] = [
        program,
        "-m",
        "underkeel",
        "--functions",
        "weather.py",
        "--chain-limit",
        "2",
    ]
    bench.run(*calling, "-o", "max_tokens", "60", "What is the weather in Paris? Use the tool.")
    cancelled = bench.cancel(program, "-m", "underkeel", LONG)
    return {"works": "Token usage" in said, "cancelled_s": cancelled}


def aider(bench: Bench) -> dict[str, Any]:
    program, project = CLIENTS / "aider/bin/aider", bench.home / "project"
    project.mkdir()
    (project / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    options = [
        *("--model", "openai/starter-moe", "--openai-api-base", f"{bench.recorder.url}/v1"),
        *("--no-git", "--yes-always", "--no-check-update", "--no-show-model-warnings"),
        *("--map-tokens", "0", "--edit-format", "whole", "--analytics-disable"),
    ]
    ask = "add() in calc.py should add its arguments. Change only calc.py."
    said = bench.run(program, *options, "--message", ask, "calc.py", folder=project)
    cancelled = bench.cancel(program, *options, "--message", LONG)
    edited = "a + b" in (project / "calc.py").read_text()
    return {"works": "Tokens:" in said, "edited_the_file": edited, "cancelled_s": cancelled}


QWEN_CODE: list[str | Path] = [
    CLIENTS / "qwen-code/node_modules/.bin/qwen",
    *("--auth-type", "openai", "--approval-mode", "yolo", "--max-session-turns", "3"),
    *("--system-prompt", "You are an assistant with tools.", "--core-tools", "read_file"),
    *(part for name in ("agent", "skill", "tool_search") for part in ("--exclude-tools", name)),
]


def qwen_code(bench: Bench) -> dict[str, Any]:
    said = qwen_code_reads(bench)
    cancelled = bench.cancel(*QWEN_CODE, "-p", LONG)
    return {"works": '"usage"' in said, "cancelled_s": cancelled}


def qwen_code_reads(bench: Bench) -> str:
    (bench.home / "notes.txt").write_text("The ship leaves at nine.\n")
    ask = f"Read {bench.home / 'notes.txt'} with read_file. When does the ship leave?"
    return bench.run(*QWEN_CODE, "-o", "json", "-p", ask)


async def with_a_played_model(home: Path, limit_s: float) -> dict[str, Any]:
    """Qwen Code on a daemon whose model calls read_file, and answers once it has the result."""
    from chatting import call, large_context, played
    from daemons import serving
    from small_vocabulary import write_small_vocabulary

    from assistant import paths
    from assistant.engine.types import GenerateRequest

    own = home / "played"
    own.mkdir(mode=0o700)
    os.environ["UNDERKEEL_HOME"] = str(own)
    starter = paths.models_dir() / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
    model = write_small_vocabulary(own / "small.gguf", starter)
    engine = played(model, [])
    reads = call("read_file", file_path=str(home / "notes.txt"))

    def reply(request: GenerateRequest) -> str:
        prompt = bytes(one for one in request.prompt if one < 256)
        return "It leaves at nine." if b"The ship leaves at nine." in prompt else reads

    engine.reply = reply
    async with serving(engine, planner=lambda: large_context(model), tcp_port=18788):
        way = paths.find_tcp_address()
        assert way is not None
        recorder = Recorder(f"http://127.0.0.1:{way.port}")
        bench = Bench(home, way.port, way.token, recorder, limit_s)
        said = await asyncio.to_thread(qwen_code_reads, bench)
    seen = {key: value for key, value in vars(recorder.seen).items() if value}
    return {"answered": "It leaves at nine." in said, "traffic": seen}


def continue_cli(bench: Bench) -> dict[str, Any]:
    program = CLIENTS / "continue/node_modules/.bin/cn"
    config = bench.home / "continue.yaml"
    config.write_text(
        "name: Underkeel\nversion: 0.0.1\nschema: v1\nmodels:\n  - name: Underkeel\n"
        "    provider: openai\n    model: starter-moe\n"
        f"    apiBase: {bench.recorder.url}/v1\n    apiKey: {bench.token}\n"
        "    roles: [chat, edit]\n    capabilities: [tool_use]\n"
    )
    (bench.home / "notes.txt").write_text("The ship leaves at nine.\n")
    ask = f"Use the Read tool on {bench.home / 'notes.txt'}. When does the ship leave?"
    said = bench.run(program, "--config", config, "-p", "--auto", ask)
    cancelled = bench.cancel(program, "--config", config, "-p", LONG)
    seen = bench.recorder.seen
    works = seen.streamed and seen.tool_results > 0 and not seen.refusals
    return {"works": works, "answered": bool(said.strip()), "cancelled_s": cancelled}


USES: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "openai": openai,
    "llm": llm,
    "qwen-code": qwen_code,
    "aider": aider,
    "continue": continue_cli,
}


def install(name: str) -> str:
    """Install a client unless it is there; its version."""
    folder = CLIENTS / name
    quiet: dict[str, Any] = {"check": True, "stdout": subprocess.DEVNULL}
    if name in PYPI:
        python, uv = folder / "bin/python", Path(sys.executable).parent / "uv"
        if not python.exists():
            subprocess.run([uv, "venv", "-q", folder], **quiet)
            subprocess.run([uv, "pip", "install", "-q", "--python", python, PYPI[name]], **quiet)
        code = f"import importlib.metadata as m; print(m.version({PYPI[name]!r}))"
        found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
        return found.stdout.strip()
    package = folder / "node_modules" / NPM[name] / "package.json"
    if not package.exists():
        options = ["--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(["npm", "install", "--prefix", folder, *options, NPM[name]], **quiet)
    return str(json.loads(package.read_text())["version"])


def measure(names: list[str], limit_s: float) -> dict[str, Any]:
    from real_daemon import configure, ended_afterwards, underkeel

    from assistant import paths

    found: dict[str, Any] = {}
    versions = {name: install(name) for name in names}
    models = paths.models_dir()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ |= {"UNDERKEEL_HOME": str(home / "underkeel"), "UNDERKEEL_MODELS": str(models)}
        (home / "underkeel").mkdir(mode=0o700)
        configure(
            home / "underkeel",
            model={"name": "starter-moe", "n_ctx": 16384},
            daemon={"tcp_port": 18787, "request_limit_s": limit_s},
        )
        with ended_afterwards():
            underkeel("restart", timeout_s=120)
            deadline = time.monotonic() + 120
            while (way := paths.find_tcp_address()) is None and time.monotonic() < deadline:
                time.sleep(0.2)
            assert way is not None, "the daemon has not started"
            recorder = Recorder(f"http://127.0.0.1:{way.port}")
            bench = Bench(home, way.port, way.token, recorder, limit_s)
            for name in names:
                recorder.seen = Seen()
                started = time.monotonic()
                try:
                    result = USES[name](bench)
                except (subprocess.SubprocessError, OSError, ValueError, IndexError) as error:
                    result = {"works": False, "problem": str(error)[:500]}
                seen = {key: value for key, value in vars(recorder.seen).items() if value}
                found[name] = {
                    "version": versions[name],
                    **result,
                    "seconds": round(time.monotonic() - started),
                    "traffic": seen,
                }
                print(name, json.dumps(found[name]), file=sys.stderr, flush=True)
        if "qwen-code" in names:
            second = asyncio.run(with_a_played_model(home, limit_s))
            found["qwen-code"]["with_a_played_model"] = second
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=USES, default=[*USES])
    parser.add_argument("--limit-s", type=float, default=600, help="for each use of a client")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests/equipment")]
    result = head("clients", model="starter-moe")
    result["clients"] = measure(options.only, options.limit_s)
    if options.save and RESULT.exists():
        kept = json.loads(RESULT.read_text("utf-8"))["clients"]
        result["clients"] = kept | result["clients"]
    publish(result, RESULT, save=options.save)
    sys.exit(0 if all(one["works"] for one in result["clients"].values()) else 1)


if __name__ == "__main__":
    main()
