"""HTTP to one server: API key, TLS, time limits, retries, server-sent events, errors of our tree.

Events are cut after https://html.spec.whatwg.org/multipage/server-sent-events.html: lines end with
CR, LF or both, and nothing else that Unicode calls a line end. Comments and fields other than
`data` are dropped. The API key comes from a private file or the system's keyring, and is never
logged or shown.
"""

from __future__ import annotations

import asyncio
import codecs
import importlib
import logging
import random
import re
import ssl
import stat
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec

from assistant import __version__
from assistant.engine.remote.failures import (
    Breaker,
    Circuit,
    UnreachableError,
    refusal,
    retry_pause_s,
)
from assistant.errors import OverloadedError, RemoteError, SettingsError, UnderkeelError
from assistant.http_client import (
    address_problem,
    is_loopback,
    open_async_client,
    trusted_certificates,
)
from assistant.settings import RemoteSettings

_LINE_END = re.compile(rb"\r\n|\n|\r(?!$)")
_LONGEST_BYTES = 16 << 20
_ENDPOINT = re.compile(r"(/v1)?(/chat/completions|/completions?|/models)?/*$", re.IGNORECASE)
"""The end of an address as OpenAI's clients, or a server's own page, write it."""


class Splitter:
    """Takes the bytes as they arrive."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # of a line that has no end yet
        self._rest_bytes = 0
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._started = False

    def feed(self, part: bytes) -> list[bytes]:
        """The data of the events that `part` completes. Each byte is searched once.

        Raises:
            RemoteError: an event is longer than any answer of a server could be.
        """
        if not self._started:
            part = b"".join(self._rest) + part
            if codecs.BOM_UTF8.startswith(part):
                self._rest = [part]
                return []  # perhaps the beginning of a byte order mark
            self._started, self._rest = True, []
            part = part.removeprefix(codecs.BOM_UTF8)
        elif self._rest and self._rest[-1].endswith(b"\r"):  # perhaps the first half of a line end
            self._rest[-1] = self._rest[-1][:-1]
            self._rest_bytes -= 1
            part = b"\r" + part
        first, *others = _LINE_END.split(part)
        self._rest.append(first)
        self._rest_bytes += len(first)
        found: list[bytes] = []
        if others:
            lines = [b"".join(self._rest), *others[:-1]]
            self._rest, self._rest_bytes = [others[-1]], len(others[-1])
            for line in lines:
                self._take(line, found)
        if self._rest_bytes + self._data_bytes > _LONGEST_BYTES:
            raise RemoteError("the server sends an event without an end")
        return found

    def _take(self, line: bytes, found: list[bytes]) -> None:
        if not line:
            if self._data:
                found.append(b"\n".join(self._data))
                self._data, self._data_bytes = [], 0
        elif line.startswith(b"data:"):
            if len(self._data) == 1 and _is_object(self._data[0]):
                self._take(b"", found)  # some servers leave out the empty line between two events
            self._data.append(line[5:].removeprefix(b" "))
            self._data_bytes += len(line)

    def end(self) -> list[bytes]:
        """The data of a last event that no empty line follows."""
        return self.feed(b"\n\n") if any(self._rest) or self._data else []


def _is_object(data: bytes) -> bool:
    """Whether `data` is a whole JSON object."""
    if not (data.startswith(b"{") and data.rstrip().endswith(b"}")):
        return False
    try:
        return isinstance(msgspec.json.decode(data), dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _whole_answer(data: bytes) -> list[bytes]:
    """The events of an answer that is no event stream: one JSON object, or one on each line."""
    if _is_object(data.removeprefix(codecs.BOM_UTF8).strip()):
        return [data]
    lines = [line.strip() for line in data.splitlines() if line.strip()]
    return lines if all(line.startswith(b"{") and line.endswith(b"}") for line in lines) else [data]


log = logging.getLogger(__name__)

T = TypeVar("T")

MOST_ANSWER_BYTES = 64 << 20
_MOST_ERROR_BYTES = 64 << 10


class Transport:
    """One server. All methods raise errors of `assistant.errors` only."""

    def __init__(
        self,
        remote: RemoteSettings,
        key: str = "",
        *,
        breaker: Breaker | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises SettingsError where the address or the certificates cannot be used."""
        self._base = _checked_url(remote.url, key)
        self._remote = remote
        self._breaker = breaker or Breaker()
        self._clock = clock
        headers = {"User-Agent": f"underkeel/{__version__}", "Accept-Encoding": "identity"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._http = open_async_client(
            certificates=self._certificates(),
            environment=not is_loopback(self._base),
            base_url=self._base,
            headers=headers,
            timeout=httpx.Timeout(remote.silence_s, connect=remote.connect_s, pool=None),
            follow_redirects=False,  # an address that the user did not name gets nothing
        )

    def _certificates(self) -> ssl.SSLContext | None:
        """Read at once, so that a wrong file is reported before the first request."""
        added = self._remote.certificates and str(Path(self._remote.certificates).expanduser())
        if not added and self._base.scheme != "https":
            return None
        return trusted_certificates(added=added)

    @property
    def server(self) -> str:
        """The server's address, without a password."""
        return str(self._base.copy_with(userinfo=b"")).rstrip("/")

    @property
    def loopback(self) -> bool:
        """Whether it runs on this machine."""
        return is_loopback(self._base)

    @property
    def circuit(self) -> Circuit:
        """Whether the server is asked at present."""
        return self._breaker.state(self._clock())

    async def get(self, path: str) -> bytes:
        """The body of a 200 answer."""
        return await self.tried(lambda: self._whole("GET", path, None))

    async def post(self, path: str, body: Any) -> bytes:
        """As `get`."""
        return await self.tried(lambda: self._whole("POST", path, body))

    async def tried(self, call: Callable[[], Awaitable[T]], limit_s: float = 0.0) -> T:
        """Call once, and again after a pause if the server was unavailable.

        Args:
            limit_s: no try begins later than this; 0 means no limit.
        """
        started_at = self._clock()
        for attempt in range(1, self._remote.retries + 2):
            try:
                return await call()
            except (UnreachableError, OverloadedError) as error:
                asked = error.wait_s if isinstance(error, UnreachableError) else 0.0
                pause = retry_pause_s(attempt, asked, random.random())
                late = limit_s and self._clock() + pause - started_at > limit_s
                if attempt > self._remote.retries or self.circuit is not Circuit.CLOSED or late:
                    raise
                log.info("the server is tried again in %.1f s (%s)", pause, error.code)
                await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def stream(self, path: str, body: Any) -> AsyncGenerator[bytes, None]:
        """The data of each event of one answer, until the server's last. Closing it hangs up."""
        splitter = Splitter()
        async with self._guarded(), self._answer("POST", path, body) as answer:
            whole, is_object = bytearray(), None
            async for part in answer.aiter_bytes():
                if is_object is None and part.strip():
                    is_object = part.lstrip(codecs.BOM_UTF8 + b" \r\n\t").startswith(b"{")
                if is_object:  # it does not stream: the answer is one object
                    whole += part
                    if len(whole) > MOST_ANSWER_BYTES:
                        raise RemoteError("the server sends an answer without an end")
                    continue
                for data in splitter.feed(part):
                    if data.strip() == b"[DONE]":
                        return
                    yield data
            for data in _whole_answer(bytes(whole)) if whole else splitter.end():
                if data.strip() != b"[DONE]":
                    yield data

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _whole(self, method: str, path: str, body: Any) -> bytes:
        async with self._guarded(), self._answer(method, path, body) as answer:
            return await _bounded(answer, MOST_ANSWER_BYTES)

    @asynccontextmanager
    async def _answer(self, method: str, path: str, body: Any) -> AsyncIterator[httpx.Response]:
        content = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": "application/json"} if content is not None else {}
        async with self._http.stream(
            method, path.lstrip("/"), content=content, headers=headers
        ) as answer:
            if not answer.is_success:
                said = await _bounded(answer, _MOST_ERROR_BYTES)
                raise refusal(answer.status_code, said, self.server, answer.headers)
            self._breaker.succeeded()
            yield answer

    @asynccontextmanager
    async def _guarded(self) -> AsyncIterator[None]:
        """Around every question: the breaker before, its lesson after, foreign errors mapped."""
        if not self._breaker.begin(self._clock()):
            raise UnreachableError(
                f"the server failed {self._breaker.failures} times and is left alone for"
                f" {max(self._breaker.wait_s(self._clock()), 0.1):.1f} s",
                subject=self.server,
                advice="See whether it runs",
            )
        try:
            yield
        except UnreachableError:
            self._breaker.failed(self._clock())
            raise
        except httpx.HTTPError as error:
            self._breaker.failed(self._clock())
            raise _unreachable(error, self.server) from error
        except UnderkeelError:
            self._breaker.succeeded()
            raise
        except BaseException:
            self._breaker.given_up()
            raise
        self._breaker.succeeded()


def _unreachable(error: httpx.HTTPError, server: str) -> UnreachableError:
    if isinstance(error, httpx.ConnectError) and "CERTIFICATE" in str(error).upper():
        return UnreachableError(
            f"the server's certificate is not trusted ({error})",
            subject=server,
            advice="Name its authority: certificates = ... under [remote]",
        )
    kinds: dict[type[httpx.HTTPError], str] = {
        httpx.ConnectError: "the server cannot be reached",
        httpx.ConnectTimeout: "the server does not answer",
        httpx.ReadTimeout: "the server has stopped answering",
    }
    what = kinds.get(type(error), "the connection broke off")
    return UnreachableError(
        f"{what} ({str(error) or type(error).__name__})",
        subject=server,
        advice="See whether it runs, and check url under [remote]",
    )


async def _bounded(answer: httpx.Response, most_bytes: int) -> bytes:
    found = bytearray()
    async for part in answer.aiter_bytes():
        found += part
        if len(found) > most_bytes:
            raise RemoteError(f"the server answers with more than {most_bytes} bytes")
    return bytes(found)


def _checked_url(text: str, key: str) -> httpx.URL:
    try:
        url = httpx.URL(text.strip())
    except httpx.InvalidURL as error:
        raise _bad_url(text, str(error)) from error
    if problem := address_problem(url):
        raise _bad_url(text, problem)
    if url.scheme not in {"http", "https"} or not url.host:
        raise _bad_url(text, "it must begin with http:// or https://")
    if key and url.scheme == "http" and not is_loopback(url):
        raise SettingsError(
            "the API key would cross the network unencrypted",
            subject=str(url.copy_with(userinfo=b"")),
            advice="Use an https:// address, or a tunnel to a loopback one",
        )
    path = _ENDPOINT.sub("", re.sub("/{2,}", "/", url.path))
    return url.copy_with(path=path + "/", query=None, fragment=None)


def _bad_url(text: str, why: str) -> SettingsError:
    return SettingsError(
        f"this is no server's address: {why}", subject=text, advice="Fix url under [remote]"
    )


_MOST_BYTES = 16 << 10
_ANSWER_S = 60.0


async def wait_for_key(remote: RemoteSettings, limit_s: float = _ANSWER_S) -> str:
    """As `read_key`, in a thread: a locked keyring may ask its user, where nobody sees it ask.

    Raises:
        SettingsError: also where that takes longer than `limit_s`.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[str] = loop.create_future()

    def settle(key: str, error: Exception | None) -> None:
        if found.done():
            return
        if error is None:
            found.set_result(key)
        else:
            found.set_exception(error)

    def read() -> None:
        key, failure = "", None
        try:
            key = read_key(remote)
        except Exception as error:
            failure = error
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, key, failure)

    # A daemon thread: one that waits for ever must not keep the process from ending.
    threading.Thread(target=read, name="key", daemon=True).start()
    try:
        return await asyncio.wait_for(found, limit_s)
    except TimeoutError as error:
        raise SettingsError(
            f"the keyring did not answer within {limit_s:.0f} s",
            subject=remote.key_name or remote.key_file,
            advice="Unlock it, or use key_file",
        ) from error


def read_key(remote: RemoteSettings) -> str:
    """The key that the settings name; empty where they name none.

    Raises:
        SettingsError: it cannot be read, others may read its file, or it is no key.
    """
    if remote.key_file:
        key = _from_file(Path(remote.key_file).expanduser())
    elif remote.key_name:
        key = _from_keyring(remote.key_name)
    else:
        return ""
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(
            "this holds no API key: one line of printable ASCII is wanted",
            subject=remote.key_file or remote.key_name,
            advice="Write the key into it, and nothing else",
        )
    return key


def _from_file(path: Path) -> str:
    try:
        status = path.stat()
        if hasattr(path, "owner") and stat.S_IMODE(status.st_mode) & 0o077:
            raise SettingsError(
                f"others may read the API key (mode {stat.S_IMODE(status.st_mode):04o})",
                subject=str(path),
                advice=f"Run: chmod 600 {path}",
            )
        with path.open(encoding="utf-8") as file:
            return file.read(_MOST_BYTES).partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"the API key cannot be read ({error})",
            subject=str(path),
            advice="Fix key_file under [remote]",
        ) from error


def _from_keyring(name: str) -> str:
    service, _, user = name.rpartition("/")
    try:
        keyring = importlib.import_module("keyring")
    except ImportError as error:
        raise SettingsError(
            "the keyring package is not installed",
            subject=name,
            advice="Install underkeel[keyring], or use key_file",
        ) from error
    try:
        found = keyring.get_password(service or "underkeel", user)
    except Exception as error:  # each system's keyring has exceptions of its own
        raise SettingsError(
            f"the keyring cannot be read ({type(error).__name__}: {error})",
            subject=name,
            advice="Unlock it, or use key_file",
        ) from error
    if not found:
        raise SettingsError(
            "the keyring has no such entry",
            subject=name,
            advice=f"Run: keyring set {service or 'underkeel'} {user}",
        )
    return str(found)
