"""Every error that Underkeel shows to a user, as one tree.

    UnderkeelError
    ├── SettingsError        a setting is of the wrong type or value
    │   └── NetworkSettingsError   a proxy, certificate or token of the environment cannot be used
    ├── ModelError           a model cannot be found, downloaded, read or built
    │   ├── GGUFError            a file is not a valid GGUF
    │   ├── UnknownModelError    there is no model of that name or path
    │   ├── VocabularyError      its tokens cannot be counted outside the engine
    │   └── DownloadError        a download failed, or its checksum is wrong
    ├── PlanError            nothing fits; has the shortfall and plans that fit
    ├── EngineError          the engine refused or failed a request
    │   ├── LoadError            a model could not be loaded
    │   ├── WorkerDiedError      the worker process crashed or was killed
    │   ├── RefusedError         memory for a computation was refused; a smaller plan may work
    │   ├── ContextFullError     a prompt does not fit the context
    │   ├── FrameError           a message on the worker's pipe cannot be read
    │   ├── OverloadedError      the queue is full; try again later
    │   ├── RemoteError          a remote server cannot be reached, or refuses a request
    │   └── RequestError         a request is malformed
    │       ├── TooLargeError        a request is over the size limit
    │       └── TooSlowError         a request did not arrive in time
    ├── InstallError         llama.cpp cannot be built or installed, or a file cannot be removed
    ├── AnswerError          the model's answer cannot be used
    ├── StatisticsError      the statistics cannot be read or written
    └── DaemonError          the daemon cannot be reached, started or trusted
        ├── AlreadyRunningError  another daemon of this user is running
        ├── AccessError          a request over TCP has no valid token
        ├── ServiceError         there is no service manager, or it refuses
        └── ModelChangedError    a prompt has the tokens of a model that is not served any more

Each says what happened, to what (`subject`), and what to do next (`advice`). Exceptions of other
packages are mapped into this tree where they enter. `code` is stable and part of the protocol.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from typing import ClassVar


class UnderkeelError(Exception):
    """Base of all errors for users.

    Attributes:
        message: what happened, one sentence without a full stop.
        subject: the file, model, setting or process concerned; may be empty.
        advice: what to do next, as an imperative sentence; may be empty.
    """

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, subject: str = "", advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.subject = subject
        self.advice = advice

    def __str__(self) -> str:
        text = f"{self.subject}: {self.message}" if self.subject else self.message
        return f"{text}. {self.advice}" if self.advice else text


class SettingsError(UnderkeelError):
    code = "settings"
    http_status = 400


class NetworkSettingsError(SettingsError):
    code = "network_settings"


class ModelError(UnderkeelError):
    code = "model"
    http_status = 400


class GGUFError(ModelError):
    code = "gguf"


class UnknownModelError(ModelError):
    code = "unknown_model"
    http_status = 404


class VocabularyError(ModelError):
    code = "vocabulary"


class DownloadError(ModelError):
    code = "download"
    http_status = 502


class PlanError(UnderkeelError):
    """Nothing fits.

    Attributes:
        shortfall_bytes: the least that is missing; 0 after it was sent over the wire.
        alternatives: the nearest plans that do fit, one sentence each.
    """

    code = "plan"
    http_status = 507

    def __init__(
        self,
        message: str,
        *,
        subject: str = "",
        advice: str = "",
        shortfall_bytes: int = 0,
        alternatives: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, subject=subject, advice=advice)
        self.shortfall_bytes = shortfall_bytes
        self.alternatives = alternatives


class EngineError(UnderkeelError):
    code = "engine"
    http_status = 500


class LoadError(EngineError):
    code = "load"
    http_status = 503


class WorkerDiedError(EngineError):
    """The worker process crashed or was killed. The attributes are not sent over the wire.

    Attributes:
        exit_code: of the process, negative for a signal, None if unknown.
        hung: it was ended because it did not answer.
        stopped: it had been stopped from outside (SIGSTOP).
    """

    code = "worker_died"
    http_status = 503
    exit_code: int | None = None
    hung: bool = False
    stopped: bool = False


class RefusedError(EngineError):
    code = "refused"
    http_status = 503


class ContextFullError(EngineError):
    """A prompt does not fit.

    Attributes:
        prompt_tokens: its length; limit_tokens: the most that fits now. 0 where unknown, and after
            the error was sent over the wire.
    """

    code = "context_full"
    http_status = 400
    prompt_tokens: int = 0
    limit_tokens: int = 0


class FrameError(EngineError):
    code = "frame"


class OverloadedError(EngineError):
    code = "overloaded"
    http_status = 429


class RemoteError(EngineError):
    code = "remote"
    http_status = 502


class RequestError(EngineError):
    code = "request"
    http_status = 400


class UnknownPathError(RequestError):
    code = "unknown_path"
    http_status = 404


class TooLargeError(RequestError):
    code = "too_large"
    http_status = 413


class TooSlowError(RequestError):
    code = "too_slow"
    http_status = 408


class InstallError(UnderkeelError):
    code = "install"


class AnswerError(UnderkeelError):
    code = "answer"
    http_status = 422


class StatisticsError(UnderkeelError):
    code = "statistics"


class DaemonError(UnderkeelError):
    code = "daemon"
    http_status = 503


class AlreadyRunningError(DaemonError):
    code = "already_running"


class AccessError(DaemonError):
    code = "access"
    http_status = 401


class ServiceError(DaemonError):
    code = "service"


class ModelChangedError(DaemonError):
    code = "model_changed"
    http_status = 409


def _tree(root: type[UnderkeelError]) -> dict[str, type[UnderkeelError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        for code, kind in _tree(child).items():
            if code in found:
                raise TypeError(f"two errors share the code {code!r}")
            found[code] = kind
    return found


BY_CODE: dict[str, type[UnderkeelError]] = _tree(UnderkeelError)


def from_wire(code: str, message: str, subject: str = "", advice: str = "") -> UnderkeelError:
    """Rebuild an error from a pipe or a socket; an unknown code becomes the base class."""
    return BY_CODE.get(code, UnderkeelError)(message, subject=subject, advice=advice)


_LIBRARIES = {
    # huggingface_hub logs to stderr by itself, and draws its own progress.
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def hide_library_warnings() -> None:
    """Hide them in this process and in those that it starts. For entry points only.

    `UNDERKEEL_DEBUG=1`, `PYTHONWARNINGS` and `python -W` keep them visible.
    """
    for name, value in _LIBRARIES.items():
        os.environ.setdefault(name, value)
    if sys.warnoptions or os.environ.get("UNDERKEEL_DEBUG"):
        return
    os.environ["PYTHONWARNINGS"] = "ignore"
    warnings.simplefilter("ignore")
    # The handler for records where none is configured writes to stderr.
    logging.lastResort = logging.NullHandler()


# Controls, line and paragraph separators, surrogates, and characters that are invisible or change
# the direction of text (Unicode's Cc, Cs, Zl, Zp and Default_Ignorable_Code_Point). The joiners
# U+200C and U+200D stay: words of many languages need them.
_HIDDEN = (
    "\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff\ud800-\udfff"
)
_UNSAFE = re.compile(f"[\x00-\x1f{_HIDDEN}]")
UNSAFE_IN_LINES = re.compile(f"[\x00-\x08\x0b-\x1f{_HIDDEN}]")


def printable(text: object, *, lines: bool = False) -> str:
    r"""Text from a file or a server in a form that is safe to print, with `\x1b` for ESC.

    Args:
        lines: keep line ends and tabs, for text that is meant to have several lines.
    """
    return (UNSAFE_IN_LINES if lines else _UNSAFE).sub(_escaped, str(text))


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
