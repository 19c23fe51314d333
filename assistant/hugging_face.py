"""Access to Hugging Face: where it is, and the token that is sent to it alone."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from assistant.errors import NetworkSettingsError
from assistant.http_client import is_loopback, shown_address

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
        usable = url.scheme in {"http", "https"} and bool(url.host)
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
        if token := os.environ.get(name, "").strip():
            return _checked_token(token, name)
    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").strip().upper() in {"1", "TRUE", "YES"}:
        return ""
    path = _token_path()
    try:
        with path.open("rb") as file:
            token = file.read(_MAX_TOKEN_BYTES).decode("utf-8", "replace").strip()
    except OSError:
        return ""
    return _checked_token(token, str(path)) if token else ""


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
