"""Clients in broken environments (case S7), and the token of Hugging Face (case S18)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from file_server import Behaviour, FileServer

from assistant.errors import NetworkSettingsError
from assistant.http_client import (
    ProxyRules,
    authorise_hub,
    hub_endpoint,
    hub_token,
    open_async_client,
    open_client,
)

VARIABLES = (
    "HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY SSL_CERT_FILE SSL_CERT_DIR SSLKEYLOGFILE HF_TOKEN "
    "HF_ENDPOINT HF_HOME HF_TOKEN_PATH HUGGING_FACE_HUB_TOKEN HF_HUB_DISABLE_IMPLICIT_TOKEN"
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES.split():
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as found:
        found.serve("/x", b"here")
        yield found


@pytest.mark.parametrize(
    ("entry", "url", "direct"),
    [
        ("fd00::/8", "http://[fd12::1]/", True),
        ("[fd00::]/8", "http://[fd12::1]:8080/", True),
        ("[::1]:80", "http://[::1]/", True),
        ("::1", "http://[::1]/", True),
        ("10.0.0.0/8", "http://10.1.2.3/", True),
        ("10.0.0.0/8", "http://11.1.2.3/", False),
        ("example.com", "https://a.example.com/", True),
        ("example.com", "https://notexample.com/", False),
        (".example.com", "https://example.com/", False),
        ("*.example.com", "https://a.example.com/", True),
        ("example.com:8443", "https://example.com:8443/", True),
        ("example.com:8443", "https://example.com/", False),
        ("*", "https://example.com/", True),
        ("not a range/99", "https://example.com/", False),
    ],
)
def test_who_is_reached_without_a_proxy(entry: str, url: str, direct: bool) -> None:
    rules = ProxyRules({"all": "proxy:1"}, (entry,))
    assert rules.proxy_for(httpx.URL(url)) == ("" if direct else "http://proxy:1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NO_PROXY", "fd00::/8,[fe80::]/10,127.0.0.1"),
        ("SSL_CERT_FILE", "/no/such/file.pem"),
        ("SSL_CERT_DIR", "/no/such/folder"),
        ("SSLKEYLOGFILE", "/no/such/folder/keys"),
    ],
)
def test_a_variable_that_does_not_concern_a_request(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Case S7: a request without TLS and proxy is answered whatever they say."""
    monkeypatch.setenv(name, value)
    with open_client() as client:
        assert client.get(server.url + "/x").content == b"here"


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("SSL_CERT_FILE", "/no/such/file.pem", "SSL_CERT_FILE"),
        ("SSL_CERT_FILE", __file__, "SSL_CERT_FILE"),
        ("SSL_CERT_DIR", "/no/such/folder", "SSL_CERT_DIR"),
        ("ALL_PROXY", "socks5://127.0.0.1:9", "socksio"),
        ("ALL_PROXY", "socks4://127.0.0.1:9", "ALL_PROXY"),
        ("HTTPS_PROXY", "http://[broken", "HTTPS_PROXY"),
        ("HTTPS_PROXY", "ftp://127.0.0.1:9", "HTTPS_PROXY"),
        ("HTTPS_PROXY", "http://127.0.0.1:99999", "HTTPS_PROXY"),
        ("HTTPS_PROXY", "http://xn--a:9", "HTTPS_PROXY"),
        ("HTTPS_PROXY", f"http://{'a' * 64}:9", "HTTPS_PROXY"),
        ("HTTPS_PROXY", "http://u:p#x@127.0.0.1:9", "HTTPS_PROXY"),
        ("HTTPS_PROXY", "direct://", "HTTPS_PROXY"),
        ("HTTPS_PROXY", "http://127.0.0.1:9 http://b:9", "HTTPS_PROXY"),
        ("SSL_CERT_FILE", "/dev/null", "SSL_CERT_FILE"),
        ("SSLKEYLOGFILE", "/no/such/folder/keys", "SSLKEYLOGFILE"),
    ],
)
def test_a_variable_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, advice: str
) -> None:
    """Case S7: an error with advice, from both kinds of client."""
    monkeypatch.setenv(name, value)

    async def get() -> None:
        async with open_async_client() as client:
            await client.get("https://127.0.0.1:9/x")

    with open_client() as client, pytest.raises(NetworkSettingsError) as caught:
        client.get("https://127.0.0.1:9/x")
    assert advice in caught.value.advice
    with pytest.raises(NetworkSettingsError) as caught:
        asyncio.run(get())
    assert advice in caught.value.advice


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:99999/", "http://xn--a/", "http://a..b/", f"http://{'a' * 64}/"],
)
def test_addresses_that_no_server_can_have(server: FileServer, url: str) -> None:
    """Case S7: httpx's own errors, also where a redirect leads there."""
    away = server.serve("/away", b"", Behaviour(redirect=url))
    with open_client(follow_redirects=True) as client:
        with pytest.raises(httpx.InvalidURL, match="invalid"):
            client.get(url)
        with pytest.raises(httpx.TransportError, match="invalid"):
            client.get(away)


def test_a_password_of_a_proxy_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks4://me:secret@127.0.0.1:9")
    with open_client() as client, pytest.raises(NetworkSettingsError) as caught:
        client.get("https://127.0.0.1:9/x")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", ["", "  ", "https://huggingface.co/"])
def test_an_empty_endpoint_is_none(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Case S7: HF_ENDPOINT=""."""
    monkeypatch.setenv("HF_ENDPOINT", value)
    assert hub_endpoint() == "https://huggingface.co"


@pytest.mark.parametrize(
    "value", ["mirror", "ftp://mirror", "http://", "http://[x", "https://x:99999", "https://xn--a"]
)
def test_an_endpoint_that_is_no_address(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", value)
    with pytest.raises(NetworkSettingsError, match="HF_ENDPOINT"):
        hub_endpoint()


def test_the_token_of_a_login_is_used_for_the_hub_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Case S18: by the file that `hf auth login` writes, in each place where it can be."""
    assert hub_token() == ""
    places = [tmp_path / "cache/huggingface/token", tmp_path / "home/token", tmp_path / "own"]
    for index, place in enumerate(places):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"hf_{index}\n")
        if index == 1:
            monkeypatch.setenv("HF_HOME", str(place.parent))
        if index == 2:
            monkeypatch.setenv("HF_TOKEN_PATH", str(place))
        assert hub_token() == f"hf_{index}"
    monkeypatch.setenv("HF_TOKEN", " hf_own\n")
    assert hub_token() == "hf_own"
    sent = authorise_hub(httpx.Request("GET", "https://huggingface.co/api"))
    assert sent.headers["Authorization"] == "Bearer hf_own"
    for address in ("https://huggingface.co.evil.example/", "http://huggingface.co/api"):
        assert "Authorization" not in authorise_hub(httpx.Request("GET", address)).headers


@pytest.mark.parametrize("token", ["\ufeffhf_a", '"hf_a"', "'hf_a' ", "hf_a\r\n"])
def test_a_token_as_files_of_variables_have_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: str
) -> None:
    """Case S18: with a byte order mark, quotes or a line end."""
    (tmp_path / "token").write_text(token, "utf-8")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    assert hub_token() == "hf_a"
    monkeypatch.setenv("HF_TOKEN", token)
    assert hub_token() == "hf_a"


@pytest.mark.parametrize("token", ["hf_a\nb", "hf_ä", "hf_a b"])
def test_what_cannot_be_a_token(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    """Case S7: a line end in HF_TOKEN."""
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(NetworkSettingsError, match="not a token") as caught:
        hub_token()
    assert token not in str(caught.value)
