"""Cuts a stream of server-sent events into the data of each. Pure.

After https://html.spec.whatwg.org/multipage/server-sent-events.html: lines end with CR, LF or both,
and nothing else that Unicode calls a line end. Comments and fields other than `data` are dropped.
"""

from __future__ import annotations

import re

from assistant.errors import RemoteError

_LINE_END = re.compile(rb"\r\n|\n|\r(?!$)")
_LONGEST_BYTES = 16 << 20


class Splitter:
    """Takes the bytes as they arrive."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, part: bytes) -> list[bytes]:
        """The data of the events that `part` completes.

        Raises:
            RemoteError: an event is longer than any answer of a server could be.
        """
        *lines, self._rest = _LINE_END.split(self._rest + part)
        if len(self._rest) + sum(map(len, self._data)) > _LONGEST_BYTES:
            raise RemoteError("the server sends an event without an end")
        found: list[bytes] = []
        for line in lines:
            if not line:
                if self._data:
                    found.append(b"\n".join(self._data))
                    self._data = []
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
        return found
