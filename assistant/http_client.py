"""The one place that makes HTTP clients, with proxies, certificates and Hugging Face's token.

Whatever is wrong with the environment is an error with advice.

httpx reads the environment when a client is made, and fails for all requests over a variable that
concerns none of them (an IPv6 range in NO_PROXY, a SOCKS proxy without its package, a missing
SSL_CERT_FILE). Here the route of each request is decided when it is sent.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from assistant.errors import DownloadError, NetworkSettingsError

_DEFAULT_PORTS = {"http": 80, "https": 443}
_PORT = re.compile(r"[0-9]{1,5}")
_PROXY_SCHEMES = {"http", "https", "socks5", "socks5h"}


@dataclass(frozen=True, slots=True)
class ProxyRules:
    """Which requests go through which proxy.

    Attributes:
        proxies: address by scheme of the request: "http", "https", "all".
        direct: hosts that are reached without one, as NO_PROXY lists them: names (and what ends
            with them), addresses, ranges of addresses, each with or without a port; "*" is all.
    """

    proxies: Mapping[str, str] = field(default_factory=dict)
    direct: tuple[str, ...] = ()

    def proxy_for(self, url: httpx.URL) -> str:
        """The proxy's address for a request; empty for none."""
        found = self.proxies.get(url.scheme) or self.proxies.get("all", "")
        if not found or any(_matches(entry, url) for entry in self.direct):
            return ""
        return found if "://" in found else f"http://{found}"


def proxies_of_environment() -> ProxyRules:
    """What HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY (or the system's settings) say."""
    found = urllib.request.getproxies()
    direct = tuple(entry for entry in found.get("no", "").replace(",", " ").split())
    proxies = {
        scheme: found[scheme].strip()
        for scheme in ("http", "https", "all")
        if found.get(scheme, "").strip()
    }
    return ProxyRules(proxies, direct)


def open_client(
    *,
    certificates: str = "",
    proxy: str = "",
    encrypted_only: bool = False,
    allow: Callable[[httpx.URL], bool] = lambda _: False,
    **options: Any,
) -> httpx.Client:
    """A client that follows the environment's proxies and certificates.

    Args:
        certificates: a PEM bundle in place of the default ones.
        proxy: for all requests, in place of the environment's.
        encrypted_only: refuse http:// beyond this machine, also where a redirect leads there.
        allow: addresses to which that does not apply.
        options: of `httpx.Client`.

    Raises:
        NetworkSettingsError: `certificates` or `proxy` cannot be used. What the environment names
            raises it when a request needs it.
    """
    rules = ProxyRules({"all": proxy}) if proxy else proxies_of_environment()
    if proxy:
        _checked_proxy(proxy)
    transport = _Transport(rules, trusted_certificates(certificates) if certificates else None)
    if encrypted_only:
        transport.allow = allow
    return _Client(transport=transport, trust_env=False, **options)


def open_async_client(
    *, certificates: ssl.SSLContext | None = None, environment: bool = True, **options: Any
) -> httpx.AsyncClient:
    """As `open_client`, for asyncio.

    Args:
        certificates: in place of the default ones.
        environment: whether the environment's proxies are followed.
    """
    rules = proxies_of_environment() if environment else ProxyRules()
    return httpx.AsyncClient(
        transport=_AsyncTransport(rules, certificates), trust_env=False, **options
    )


def trusted_certificates(bundle: str = "", *, added: str = "") -> ssl.SSLContext:
    """What TLS connections are verified with.

    Args:
        bundle: a PEM file to use in place of SSL_CERT_FILE, SSL_CERT_DIR and the default ones.
        added: a PEM file to trust besides.

    Raises:
        NetworkSettingsError: a file or folder cannot be used.
    """
    file = bundle or os.environ.get("SSL_CERT_FILE", "").strip()
    folder = "" if file else os.environ.get("SSL_CERT_DIR", "").strip()
    named = "" if bundle else "SSL_CERT_FILE" if file else "SSL_CERT_DIR" if folder else ""
    if file or folder:
        _check_certificates(file, folder, named)
    try:
        if file or folder:
            context = ssl.create_default_context(cafile=file or None, capath=folder or None)
        else:
            context = httpx.create_ssl_context(trust_env=False)
            context.load_default_certs()
        named = ""
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if added:
            context.load_verify_locations(cafile=added)
    except (OSError, ValueError) as error:
        keys = os.environ.get("SSLKEYLOGFILE", "")
        if keys and not named and not added and not bundle and _unwritable(keys):
            named, file = "SSLKEYLOGFILE", keys
        raise _certificates_error(named, added or file or folder, error) from error
    return context


def is_loopback(url: httpx.URL) -> bool:
    """Whether an address is of this machine by its form alone."""
    if url.host.rstrip(".").lower() == "localhost":
        return True
    address = _ip(url.host)
    return address is not None and address.is_loopback


class _Client(httpx.Client):
    """Fails with httpx's own errors for an address that no server can have."""

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        try:
            return super().send(request, **options)
        except UnicodeError as error:
            message = f"a redirect to an invalid host name: {error}"
            raise httpx.RemoteProtocolError(message, request=request) from error

    def build_request(self, method: str, url: httpx.URL | str, **options: Any) -> httpx.Request:
        if problem := address_problem(self._merge_url(url)):
            raise httpx.InvalidURL(problem)
        return super().build_request(method, url, **options)


class _Transport(httpx.BaseTransport):
    """Sends each request by its own route; a route's connections are made when it is needed.

    Attributes:
        allow: which unencrypted addresses beyond this machine may be reached; None for all.
    """

    def __init__(self, rules: ProxyRules, certificates: ssl.SSLContext | None) -> None:
        self.allow: Callable[[httpx.URL], bool] | None = None
        self._rules = rules
        self._certificates = certificates
        self._routes: dict[tuple[str, str], httpx.HTTPTransport] = {}
        self._lock = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        _check_address(request)
        if self.allow is not None:
            _check_encrypted(request.url, self.allow)
        key = request.url.scheme, self._rules.proxy_for(request.url)
        with self._lock:
            if key not in self._routes:
                with _mapped(key[1]):
                    self._routes[key] = httpx.HTTPTransport(
                        verify=_verification(*key, self._certificates), proxy=key[1] or None
                    )
            route = self._routes[key]
        return route.handle_request(request)

    def close(self) -> None:
        for route in self._routes.values():
            route.close()


class _AsyncTransport(httpx.AsyncBaseTransport):
    """As `_Transport`."""

    def __init__(self, rules: ProxyRules, certificates: ssl.SSLContext | None) -> None:
        self._rules = rules
        self._certificates = certificates
        self._routes: dict[tuple[str, str], httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        _check_address(request)
        key = request.url.scheme, self._rules.proxy_for(request.url)
        if key not in self._routes:
            with _mapped(key[1]):
                self._routes[key] = httpx.AsyncHTTPTransport(
                    verify=_verification(*key, self._certificates), proxy=key[1] or None
                )
        return await self._routes[key].handle_async_request(request)

    async def aclose(self) -> None:
        for route in self._routes.values():
            await route.aclose()


def address_problem(url: httpx.URL) -> str:
    """Why no server can have an address that httpx accepts; empty where one can."""
    try:
        # What httpx shows of it, and what the system's resolver is asked for.
        _ = url.host, url.raw_host.decode("ascii").encode("idna")
    except ValueError as error:
        return f"invalid host name: {error}"
    return "" if url.port is None or 0 < url.port < 1 << 16 else f"invalid port: {url.port}"


def _check_address(request: httpx.Request) -> None:
    """Also where a redirect leads: httpx fails with errors that are not its own."""
    if problem := address_problem(request.url):
        raise httpx.ConnectError(problem, request=request)


def _verification(
    scheme: str, proxy: str, certificates: ssl.SSLContext | None
) -> ssl.SSLContext | bool:
    """Certificates are read only for a connection that is encrypted."""
    if scheme != "https" and not proxy.startswith("https:"):
        return False
    return certificates or trusted_certificates()


@contextmanager
def _mapped(proxy: str) -> Iterator[None]:
    """What httpx raises over a proxy's address."""
    try:
        if proxy:
            _checked_proxy(proxy)
        yield
    except ImportError as error:
        raise NetworkSettingsError(
            "a SOCKS proxy needs a package that is not installed",
            subject=shown_address(proxy),
            advice="Run: pip install socksio. Or name an HTTP proxy in ALL_PROXY",
        ) from error
    except (ValueError, httpx.InvalidURL) as error:
        raise _bad_proxy(proxy, str(error)) from error


def _checked_proxy(proxy: str) -> None:
    try:
        urlsplit(proxy)  # stricter about brackets
        url = httpx.URL(proxy if "://" in proxy else f"http://{proxy}")
    except (httpx.InvalidURL, ValueError) as error:
        raise _bad_proxy(proxy, str(error)) from error
    if problem := address_problem(url):
        raise _bad_proxy(proxy, problem)
    if url.scheme not in _PROXY_SCHEMES or not url.host:
        raise _bad_proxy(proxy, f"its scheme must be one of {', '.join(sorted(_PROXY_SCHEMES))}")


def _bad_proxy(proxy: str, why: str) -> NetworkSettingsError:
    return NetworkSettingsError(
        f"this is not the address of a proxy ({why})",
        subject=shown_address(proxy),
        advice="Correct HTTP_PROXY, HTTPS_PROXY and ALL_PROXY (or pip's proxy), or unset them",
    )


def _check_encrypted(url: httpx.URL, allow: Callable[[httpx.URL], bool]) -> None:
    if url.scheme == "https" or is_loopback(url) or allow(url):
        return
    raise DownloadError(
        "the connection would not be encrypted, so the file could be changed on the way",
        subject=shown_address(str(url)),
        advice="Use an https:// address, or add --allow-http if you trust the network",
    )


def _matches(entry: str, url: httpx.URL) -> bool:
    """Whether an entry of NO_PROXY means the host of `url`."""
    entry = entry.strip().lower()
    if entry == "*":
        return True
    if "://" in entry:
        scheme, _, entry = entry.partition("://")
        if scheme not in {"all", url.scheme}:
            return False
    entry, port = _host_and_port(entry)
    if port and port != (url.port or _DEFAULT_PORTS.get(url.scheme)):
        return False
    host = url.host.rstrip(".").lower()
    address = _ip(host)
    if address is not None:
        try:
            return address in ipaddress.ip_network(entry, strict=False)
        except (ValueError, TypeError):
            return False
    name = entry.removeprefix("*").rstrip(".")
    if not name.strip("."):
        return False
    if name.startswith("."):
        return host.endswith(name)
    return host == name or host.endswith("." + name)


def _host_and_port(entry: str) -> tuple[str, int]:
    """An entry without its port and its brackets; 0 for no port."""
    if entry.startswith("["):
        inside, _, rest = entry[1:].partition("]")
        range_, _, port = rest.partition(":")
        return inside + range_, int(port) if _PORT.fullmatch(port) else 0
    host, colon, port = entry.rpartition(":")
    if colon and _PORT.fullmatch(port) and ":" not in host:
        return host, int(port)
    return entry, 0


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _check_certificates(file: str, folder: str, named: str) -> None:
    """A file or folder that OpenSSL would silently do without."""
    path = Path(file or folder).expanduser()
    if file and not path.is_file():
        raise _certificates_error(named, file, FileNotFoundError("there is no such file"))
    if folder and not any(Path(part).is_dir() for part in folder.split(os.pathsep)):
        raise _certificates_error(named, folder, FileNotFoundError("there is no such folder"))


def _unwritable(path: str) -> bool:
    return not os.access(path if Path(path).exists() else Path(path).parent, os.W_OK)


def _certificates_error(named: str, path: str, error: Exception) -> NetworkSettingsError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if named == "SSLKEYLOGFILE":
        message, advice = "the log of TLS keys cannot be written", "Unset SSLKEYLOGFILE"
    elif named:
        message, advice = "the certificates cannot be used", f"Correct {named}, or unset it"
    else:
        message, advice = "the certificates cannot be used", "Name a PEM bundle that can be read"
    return NetworkSettingsError(f"{message} ({reason})", subject=path, advice=advice)


def shown_address(address: str) -> str:
    """An address without a password, a query and control characters, for a message."""
    try:
        url = httpx.URL(address).copy_with(userinfo=b"", query=None, fragment=None)
        return "".join(char for char in str(url) if char.isprintable())
    except (httpx.InvalidURL, ValueError):
        plain = address.rpartition("@")[2].partition("?")[0]
        return "".join(char for char in plain if char.isprintable())


_HUB = "https://huggingface.co"
_MAX_TOKEN_BYTES = 4096


def hub_endpoint() -> str:
    """Where Hugging Face is; `HF_ENDPOINT` names a mirror. Without a slash at the end.

    Raises:
        NetworkSettingsError: `HF_ENDPOINT` is no address.
    """
    address = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/")
    if not address:
        return _HUB
    try:
        urlsplit(address)  # stricter about brackets
        url = httpx.URL(address)
        usable = url.scheme in {"http", "https"} and bool(url.host) and not address_problem(url)
    except (httpx.InvalidURL, ValueError):
        usable = False
    if not usable:
        raise NetworkSettingsError(
            "HF_ENDPOINT is not the address of a server",
            subject=shown_address(address),
            advice=f"Write it as {_HUB}, or unset it",
        )
    return address


def at_hub(url: httpx.URL) -> bool:
    """Whether an address is at Hugging Face, or at the mirror that the user named."""
    hub = httpx.URL(hub_endpoint())
    same = (url.scheme, url.host, url.port) == (hub.scheme, hub.host, hub.port)
    return same and (url.path + "/").startswith(hub.path.rstrip("/") + "/")


def authorise_hub(request: httpx.Request) -> httpx.Request:
    """Send the token to Hugging Face alone, never to the storage that it redirects to, and never
    over a network without encryption."""
    if at_hub(request.url) and (request.url.scheme == "https" or is_loopback(request.url)):
        token = hub_token()
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
    return request


def hub_token() -> str:
    """The token for Hugging Face: `HF_TOKEN`, or the one that `hf auth login` stored; may be empty.

    Raises:
        NetworkSettingsError: it cannot be a token.
    """
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if token := _bare(os.environ.get(name, "")):
            return _checked_token(token, name)
    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").strip().upper() in {"1", "TRUE", "YES"}:
        return ""
    path = _token_path()
    try:
        with path.open("rb") as file:
            token = _bare(file.read(_MAX_TOKEN_BYTES).decode("utf-8", "replace"))
    except OSError:
        return ""
    return _checked_token(token, str(path)) if token else ""


def _bare(token: str) -> str:
    """A token without a byte order mark, blanks, and the quotes of a file of variables."""
    token = token.removeprefix("\ufeff").strip()
    quoted = len(token) > 1 and token[0] == token[-1] and token[0] in "\"'"
    return token[1:-1] if quoted else token


def _token_path() -> Path:
    """Where `hf auth login` stores the token (huggingface_hub/constants.py)."""
    if path := os.environ.get("HF_TOKEN_PATH", "").strip():
        return Path(path).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME", "").strip() or "~/.cache"
    home = os.environ.get("HF_HOME", "").strip() or f"{cache}/huggingface"
    return Path(os.path.expandvars(home)).expanduser() / "token"


def _checked_token(token: str, named: str) -> str:
    if not token.isascii() or not token.isprintable() or " " in token:
        raise NetworkSettingsError(
            "this is not a token of Hugging Face: one line of printable ASCII is expected",
            subject=named,
            advice="Copy the token again, or run: hf auth login",
        )
    return token
