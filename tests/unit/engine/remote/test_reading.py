"""Event streams and Prometheus' text, as servers write them and as they should not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.engine.remote.dialect import read_gauges
from assistant.engine.remote.transport import Splitter
from assistant.errors import RemoteError

VLLM = """\
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="qwen2.5-coder-tiny"} 0.25
vllm:num_requests_running{engine="0",model_name="qwen2.5-coder-tiny"} 2.0
vllm:num_requests_running{engine="1",model_name="qwen2.5-coder-tiny"} 1.0
vllm:num_requests_running{engine="0",model_name="another"} 40.0
vllm:prefix_cache_hits_total{engine="0",model_name="qwen2.5-coder-tiny"} 1.2e+03
"""


@given(
    st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.data(),
)
def test_events_are_cut_whatever_the_pieces(
    texts: list[str], end: str, data: st.DataObject
) -> None:
    raw = "".join(f": a comment{end}id: 7{end}data: {text}{end}{end}" for text in texts)
    stream = raw.encode() + (b"\n" if end == "\r" else b"")
    found, splitter = [], Splitter()
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += splitter.feed(stream[:size])
        stream = stream[size:]
    assert found == [text.encode() for text in texts]


def test_lines_of_one_event_are_joined_and_unicode_ends_none() -> None:
    assert Splitter().feed("data: a\u2028b\ndata:c\n\n".encode()) == ["a\u2028b\nc".encode()]


def test_an_event_without_an_end_is_given_up() -> None:
    splitter = Splitter()
    splitter.feed(b"data: " + b"x" * (10 << 20))
    with pytest.raises(RemoteError):
        splitter.feed(b"x" * (10 << 20))


@pytest.mark.parametrize("part", [b"x" * 8192, b"data:\n" * 900, b"\r" * 900, b"data: x\r\n" * 900])
def test_a_long_event_is_searched_once(part: bytes) -> None:
    """S8, T1: what came before is not searched again with each part, of which there may be
    thousands: no part is copied with what the parts before it held."""
    splitter = Splitter()
    splitter.feed(b"data: ")
    for _ in range(50):
        splitter.feed(part)
    held = splitter._rest if b"\n" not in part and b"\r" not in part else splitter._data
    assert max(map(len, held), default=0) <= len(part) + 6
    assert splitter._data_bytes <= 2 << 20
    splitter.feed(b"\n\n")
    assert (splitter._data, splitter._data_bytes) == ([], 0)


def test_gauges_of_one_model_are_added_up() -> None:
    found = read_gauges(VLLM, "qwen2.5-coder-tiny")
    assert found["vllm:kv_cache_usage_perc"] == 0.25
    assert found["vllm:num_requests_running"] == 3
    assert found["vllm:prefix_cache_hits"] == 1200


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    read_gauges(text)
    read_gauges(VLLM + text, "x")
