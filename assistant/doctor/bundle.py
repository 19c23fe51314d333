"""Collects plain files for a bug report, which a person can read before sharing them.

They hold no code, because their sources hold none; what identifies the user (home folder, user and
machine name, the names of open files, keys) is removed.
"""

from __future__ import annotations

import getpass
import importlib.metadata
import os
import platform
import re
import socket
import zipfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec.structs import replace

from assistant import __version__, paths
from assistant.doctor.checks import Finding
from assistant.errors import DaemonError
from assistant.service import ServiceNow
from assistant.wire import Status
from context.syntax.secrets import masked

_LOG_BYTES = 512 * 1024
_VALUE = re.compile(r"""([ \t]*(["']?[\w.-]++["']?)[ \t]*=[ \t]*)\S""")
_SECRET = re.compile(r"key|token|password|secret")
_KEPT = ("_tokens", "_file", "_name")
_ADDRESS = re.compile(r"(?i)\b((?:https?|file)://)[^\s\"',]+")
_SHORTEST_NAME = 3

README = """\
This folder was written by 'underkeel bundle' on {at} (UTC), version {version}.

Everything in it is plain text: read it before you share it.

It holds no code, no prompts and no answers; Underkeel logs none. Your home folder is replaced by
~, your user name by USER, the machine name by HOST, addresses and names of open files by HIDDEN,
and the value of each setting called a key, token, password or secret by ***.

{files}
"""


def gather(
    findings: Iterable[Finding],
    status: Status | None,
    metrics: str,
    service: ServiceNow,
) -> dict[str, str]:
    """The files by name, with everything private removed."""
    raw = {
        "doctor.txt": "".join(_line(finding) for finding in findings),
        "machine.txt": _machine(),
        "packages.txt": _packages(),
        "service.json": _json(service),
        "status.json": _json(_anonymous(status)) if status else "no daemon is running\n",
        "metrics.txt": metrics or "no daemon is running\n",
        "settings.toml": _hide_values(_text_of(paths.config_file())),
        **_logs(),
    }
    clean = {name: without_names(text) for name, text in raw.items()}
    listing = "\n".join(f"  {name:18} {_ABOUT[_kind(name)]}" for name in clean)
    at = datetime.now(UTC).isoformat(timespec="minutes")
    readme = README.format(at=at, version=__version__, files=listing)
    return {"README.txt": readme, **clean}


def write(files: Mapping[str, str], target: Path) -> None:
    """Write a folder, or a zip where `target` ends in .zip. Only the user may read it.

    Raises:
        DaemonError: it exists already, or cannot be written.
    """
    try:
        if target.suffix == ".zip":
            handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with (
                os.fdopen(handle, "wb") as file,
                zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
            ):
                for name, text in files.items():
                    archive.writestr(f"{target.stem}/{name}", text)
            return
        target.mkdir(mode=0o700, parents=True)
        for name, text in files.items():
            (target / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise DaemonError(
            f"the bundle cannot be written ({error.strerror})",
            subject=str(target),
            advice="Name another path with --output",
        ) from error


def without_names(text: str) -> str:
    """`text` without what identifies the user or the machine."""
    text = _ADDRESS.sub(r"\1HIDDEN", text)
    for private, plain in _private_names():
        bounded = rf"(?<![\w.-]){re.escape(private)}(?![\w])"
        text = re.sub(bounded, plain, text)
    return text


def _private_names() -> list[tuple[str, str]]:
    """What to replace, the longest first."""
    found = {str(Path.home()): "~", os.environ.get("UNDERKEEL_HOME", ""): "UNDERKEEL_HOME"}
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = ""
    people = {user: "USER", socket.gethostname(): "HOST"}
    found |= {name: plain for name, plain in people.items() if name != "root"}
    named = [(name, plain) for name, plain in found.items() if len(name) >= _SHORTEST_NAME]
    return sorted(named, key=lambda pair: -len(pair[0]))


_ABOUT = {
    "doctor.txt": "the output of 'underkeel doctor'",
    "machine.txt": "system, processor, Python",
    "packages.txt": "versions of the installed packages",
    "service.json": "how the service is installed",
    "status.json": "the output of 'underkeel status --json'",
    "metrics.txt": "counts, times and memory since the daemon started",
    "settings.toml": "your settings file",
    "log": "the daemon's log: counts, times, states and errors",
}


def _kind(name: str) -> str:
    return name if name in _ABOUT else "log"


def _line(finding: Finding) -> str:
    advice = f"\n    {finding.advice}" if finding.advice else ""
    return f"{finding.level.value:4} {finding.check}: {finding.message}{advice}\n"


def _machine() -> str:
    lines = {
        "system": platform.platform(),
        "machine": platform.machine(),
        "processor": f"{os.cpu_count()} cores",
        "python": platform.python_version(),
        "underkeel": __version__,
    }
    return "".join(f"{name}: {value}\n" for name, value in lines.items())


def _packages() -> str:
    installed = {f"{found.name} {found.version}\n" for found in importlib.metadata.distributions()}
    return "".join(sorted(installed, key=str.lower))


def _anonymous(status: Status) -> Status:
    """Hide the documents, which are names of the user's files."""
    if status.stats is None:
        return status
    slots = tuple(
        replace(slot, document="HIDDEN" if slot.document else "") for slot in status.stats.slots
    )
    return replace(status, stats=replace(status.stats, slots=slots))


def _hide_values(text: str) -> str:
    return masked("".join(map(_hidden, text.splitlines(keepends=True))))


def _hidden(line: str) -> str:
    found = _VALUE.match(line)
    name = found[2].strip("\"'").lower() if found is not None else ""
    if found is None or not _SECRET.search(name) or name.endswith(_KEPT):
        return line
    return f"{found[1]}***{line[len(line.rstrip()) :]}"


def _logs() -> dict[str, str]:
    path = paths.log_file()
    found = {}
    for log in sorted(path.parent.glob(f"{path.name}*")):
        found[f"{log.name}.txt"] = _text_of(log, last_bytes=_LOG_BYTES)
    return found


def _text_of(path: Path, last_bytes: int = 1 << 20) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - last_bytes, 0))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return "this file does not exist\n"
    except OSError as error:
        return f"it cannot be read ({error.strerror})\n"


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value)).decode() + "\n"
