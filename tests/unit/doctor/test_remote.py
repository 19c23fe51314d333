"""What the doctor says of a server that the settings name."""

from __future__ import annotations

from pathlib import Path

from recorded_server import RecordedServer

from assistant.doctor import Level, examine, local_answers, server
from assistant.settings import RemoteSettings


def test_a_server_that_answers_is_described(home: Path, dense_model: Path) -> None:
    with RecordedServer("llama-server", dense_model) as running:
        (found,) = server(RemoteSettings(url=running.url))
        assert found.level is Level.OK
        assert running.url in found.message and "counted exactly" in found.message


def test_a_server_that_is_not_there_or_wants_a_key_is_reported(
    home: Path, dense_model: Path
) -> None:
    with RecordedServer("vllm", dense_model) as running:
        running.behaviour.key = "sk-right"
        (found,) = server(RemoteSettings(url=running.url, retries=0))
        assert found.level is Level.FAIL and "key" in found.advice
        gone = running.url
    (found,) = server(RemoteSettings(url=gone, retries=0))
    assert found.level is Level.FAIL and gone in found.message and found.advice


def test_without_a_server_it_is_silent() -> None:
    assert server(RemoteSettings()) == []


def test_the_local_model_matters_only_where_it_answers(home: Path) -> None:
    assert local_answers(RemoteSettings())
    assert local_answers(RemoteSettings(url="http://127.0.0.1:9"))
    assert not local_answers(RemoteSettings(url="http://127.0.0.1:9", fallback=False))
    (home / "config.toml").write_text(
        '[remote]\nurl = "http://127.0.0.1:9"\nfallback = false\nretries = 0\n'
    )
    about = {finding.check for finding in examine()}
    assert "server" in about and not about & {"model", "plan"}
