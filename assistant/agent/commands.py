"""Runs commands: bounded in time and output, in a clean environment, and confined by bubblewrap
without network where that is installed. Also reads a repository's state with git."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from assistant.agent.workspace import ToolError, Workspace
from context.index.read_policy import is_secret

DEFAULT_LIMIT_S = 120
_HEAD_BYTES = 16 << 10
_TAIL_BYTES = 48 << 10
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "USER", "LOGNAME", "SHELL",
                   "VIRTUAL_ENV", "JAVA_HOME", "GOROOT", "RUSTUP_HOME", "CARGO_HOME")  # fmt: skip
# In the home folder; commands have no business there, and without network they could still show
# what they read.
_PRIVATE_FOLDERS = (".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker", ".config/gcloud",
                    ".config/gh", ".password-store", ".mozilla", ".local/share/keyrings",
                    ".config/underkeel", ".local/state/underkeel", ".netrc", ".git-credentials",
                    ".pypirc", ".npmrc")  # fmt: skip
# ECMA-48 control sequences, and what terminals know besides: titles, device strings.
_SEQUENCE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)?|[ -/]*[0-~])"
    r"|\x9b[0-?]*[ -/]*[@-~]"
)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        output: stdout and stderr as they came, plain text; `left_out_bytes` of its middle.
        code: exit code, negative for a signal; None where the time limit ended it.
    """

    output: str
    code: int | None
    left_out_bytes: int = 0


def plain(text: str) -> str:
    """Text that is safe to show: no control sequences, no changes of direction."""
    lines = _SEQUENCE.sub("", text).replace("\r\n", "\n").split("\n")
    # A progress bar writes its line again and again: the last state is what counts.
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in lines]
    return _CONTROL.sub("", "\n".join(lines))


def environment() -> dict[str, str]:
    """What a command sees of ours: where programs are, and the language."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if os.environ.get(name)}
    return {
        **kept,
        "HOME": os.environ.get("HOME", "/"),
        "TERM": "dumb",
        "NO_COLOR": "1",
        "PAGER": "cat",
        "GIT_PAGER": "cat",
        "GIT_TERMINAL_PROMPT": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "CI": "1",
    }


def confined(argv: Sequence[str], folder: Path, roots: Sequence[Path], home: Path) -> list[str]:
    """`argv` under bubblewrap: no network, everything read-only but the workspace, and neither
    keys nor git's hooks and configuration within reach."""
    made = ["bwrap", "--die-with-parent", "--new-session", "--unshare-all", "--ro-bind", "/", "/",
            "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]  # noqa: S108  # fmt: skip
    for name in _PRIVATE_FOLDERS:
        path = home / name
        if path.is_dir():
            made += ["--tmpfs", str(path)]
        elif path.exists():
            made += ["--ro-bind", "/dev/null", str(path)]
    for root in roots:
        made += ["--bind", str(root), str(root)]
        for name in (".git/hooks", ".git/config"):
            if (root / name).exists():
                made += ["--ro-bind", str(root / name), str(root / name)]
    return [*made, "--chdir", str(folder), "--", *argv]


@cache
def can_confine() -> bool:
    """Whether bubblewrap is installed and may be used here (containers often forbid it)."""
    if shutil.which("bwrap") is None:
        return False
    try:
        probe = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]
        return subprocess.run(probe, capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


_LAST_OUTPUT_S = 1.0


async def run(
    argv: Sequence[str], folder: Path, roots: Sequence[Path], limit_s: float, *, confine: bool
) -> Ended:
    """Run a command to its end, its time limit, or our cancellation; its children end with it.

    Raises:
        ToolError: it cannot be started.
    """
    command = list(argv)
    if confine:
        command = confined(command, folder, roots, Path(os.environ.get("HOME", "/")))
    loop = asyncio.get_running_loop()
    try:
        transport, listener = await loop.subprocess_exec(
            _Listener,
            *command,
            cwd=folder,
            env=environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ToolError(f"{argv[0][:80]} cannot be run ({why}).") from error
    code: int | None = None
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await listener.exited.wait()
                code = transport.get_returncode()
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(transport.get_pid(), signal.SIGKILL)
        # What it wrote last is in the pipe. A child that left the group may keep that open.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_OUTPUT_S):
                await listener.exited.wait()
                await listener.closed.wait()
        transport.close()
    output = listener.output
    return Ended(plain(output.text()), code, output.left_out)


class _Listener(asyncio.SubprocessProtocol):
    """Collects what a process writes, and knows its end apart from the end of its output."""

    def __init__(self) -> None:
        self.output = _Output()
        self.exited = asyncio.Event()
        self.closed = asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002
        self.output.add(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002
        self.closed.set()

    def process_exited(self) -> None:
        self.exited.set()


class _Output:
    """The head and the tail of an output of any length."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self.left_out = 0

    def add(self, data: bytes) -> None:
        space = _HEAD_BYTES - len(self._head)
        self._head += data[:space]
        self._tail += data[space:] if space > 0 else data
        if len(self._tail) > 2 * _TAIL_BYTES:
            self.left_out += len(self._tail) - _TAIL_BYTES
            del self._tail[:-_TAIL_BYTES]

    def text(self) -> str:
        if len(self._tail) > _TAIL_BYTES:
            self.left_out += len(self._tail) - _TAIL_BYTES
            del self._tail[:-_TAIL_BYTES]
        gap = f"\n[{self.left_out} bytes left out]\n" if self.left_out else ""
        head = self._head.decode("utf-8", "replace")
        return head + gap + self._tail.decode("utf-8", "replace")


_GIT = ("git", "--no-pager", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null",
        "-c", "core.pager=cat", "-c", "diff.external=", "-c", "color.ui=false",
        "-c", "core.sshCommand=false", "-c", "protocol.allow=never")  # fmt: skip
_FILTERS = re.compile(r"^(filter\.[^\n]+\.(?:clean|smudge|process))$", re.MULTILINE)


async def git(workspace: Workspace, what: str, path: str) -> str:
    """The repository's state. No program that the repository's configuration names is run, and no
    change of a file that may hold secrets is shown.

    Raises:
        ToolError: there is no repository, or git fails.
    """
    if shutil.which("git") is None:
        raise ToolError("git is not installed.")
    folder, roots = workspace.root, workspace.roots
    names = await run([*_GIT, "config", "--name-only", "--list"], folder, roots, 10, confine=False)
    if names.code is None:
        raise ToolError("git does not answer.")
    off = [part for name in _FILTERS.findall(names.output) for part in ("-c", f"{name}=")]
    base = [*_GIT, *off]
    spec = ["--", str(workspace.resolve(path))] if path else ["--", "."]
    arguments = {
        "status": ["status", "--short", "--branch", "--ignore-submodules=all", *spec],
        "diff": [
            "diff",
            "--no-ext-diff",
            "--no-textconv",
            "--ignore-submodules=all",
            "HEAD",
            *spec,
        ],
        "log": ["log", "-n", "20", "--format=%h %as %an: %s", *spec],
    }[what]
    ended = await run([*base, *arguments], folder, roots, 30, confine=False)
    if ended.code is None:
        raise ToolError("git took too long.")
    if ended.code:
        first = ended.output.strip().split("\n")[0][:300]
        raise ToolError(f"git {what} failed: {first}")
    return without_secret_files(ended.output) if what == "diff" else ended.output


def without_secret_files(diff: str) -> str:
    """A diff without the files that may hold secrets."""
    shown, hidden = [], False
    for line in diff.split("\n"):
        if line.startswith("diff --git "):
            paths = line[len("diff --git ") :].split(" b/")
            hidden = any(is_secret(one.removeprefix("a/").strip('"')) for one in paths)
            if hidden:
                shown.append(f"{line}\n[not shown: it may hold secrets]")
                continue
        if not hidden:
            shown.append(line)
    return "\n".join(shown)
