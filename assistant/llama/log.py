"""llama.cpp's own log, turned into Python logging; the last complaints are kept for messages."""

from __future__ import annotations

import ctypes
import functools
import logging
from collections import deque

from llama_cpp import llama_cpp

_logger = logging.getLogger("underkeel.llama")
_logger.addHandler(logging.NullHandler())  # who wants it configures logging

_LEVELS = {
    1: logging.DEBUG,
    2: logging.DEBUG,  # what llama.cpp calls information is detail here
    3: logging.INFO,
    4: logging.WARNING,  # the caller decides whether it is an error of ours
}
"""`enum ggml_log_level` (ggml/include/ggml.h); 0 is none, 5 goes on with the line before."""

_ERROR, _CONTINUE = 4, 5
_KEPT_LINES = 40
_MOST_LINE = 2000

_complaints: deque[str] = deque(maxlen=_KEPT_LINES)


class _Lines:
    """Puts the pieces that llama.cpp logs together to lines."""

    def __init__(self) -> None:
        self._level = 0
        self._pending = ""

    def take(self, level: int, text: str) -> None:
        if level != _CONTINUE:
            self._end()
            self._level = level
        self._pending += text
        if self._pending.endswith("\n") or len(self._pending) > _MOST_LINE:
            self._end()

    def _end(self) -> None:
        line, self._pending = self._pending.strip(), ""
        if not line:
            return
        if self._level == _ERROR:
            _complaints.append(line)
        _logger.log(_LEVELS.get(self._level, logging.DEBUG), "%s", line)


@functools.cache
def capture() -> object:
    """Send llama.cpp's log here instead of to stderr, once a process."""
    lines = _Lines()

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def callback(level: int, text: bytes | None, _: object) -> None:
        lines.take(level, (text or b"").decode("utf-8", "replace"))

    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    return callback  # the cache keeps it alive for llama.cpp


def clear() -> None:
    """Forget the complaints so far."""
    _complaints.clear()


def reason(default: str) -> str:
    """The first complaint since `clear`, without the names of llama.cpp's functions.

    llama.cpp logs the cause first and what failed because of it afterwards.
    """
    for line in _complaints:
        return line.partition(": ")[2].removeprefix("error loading model: ") or line
    return default
