"""The raw socket that our client is compared with, and the hashes of what was asked."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from trialbench.measure.client import ChatClient
from trialbench.measure.raw import RawClient, RawError, RawReply
from trialbench.measure.request import fingerprint
from trialbench.workloads import Workload, load_workload


def raw(server: Any, *, stream: bool = False, timeout_s: float = 5.0, times: int = 1) -> list[RawReply]:
    url = server if isinstance(server, str) else server.url
    client = RawClient(url, b'{"stream": true}' if stream else b"{}", stream=stream, api_key="k-9")
    try:
        return [client.send(timeout_s) for _ in range(times)]
    finally:
        client.close()


def sse(*events: str) -> bytes:
    """A chunked stream, an event a chunk."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(f"{len(text) + 2:x}\r\n{text}\n\n\r\n".encode() for text in events)
    return head + chunks + b"0\r\n\r\n"


def test_a_plain_reply(server: Any, acts: Any) -> None:
    (reply,) = raw(server)
    assert reply.latency_ms > 0
    assert (reply.ttft_ms, reply.server_ms) == (None, 8.5)
    assert "authorization: bearer k-9" in server.headers[0].lower()


def test_one_connection_for_all_plain_requests(server: Any) -> None:
    raw(server, times=5)
    assert (len(server.bodies), server.connections) == (5, 1)


def test_a_connection_that_the_server_closed_is_opened_again(server: Any, acts: Any) -> None:
    server.script = [acts.closes_after(acts.chat()), acts.chat()]
    assert len(raw(server, times=2)) == 2
    assert server.connections == 2


def test_a_stream_and_its_first_token(server: Any, acts: Any) -> None:
    timings = '"timings": {"prompt_ms": 2.0, "predicted_ms": 0.25}'
    server.script = [
        acts.closes_after(
            sse(
                'data: {"choices":[{"delta":{"role":"assistant","content":null}}]}',
                'data: {"choices":[{"delta":{"content":""}}]}',
                'data: {"choices":[{"delta":{"content":"left"}}]}',
                f'data: {{"choices":[], {timings}}}',
                "data: [DONE]",
            )
        )
    ]
    replies = raw(server, stream=True, times=2)
    assert server.connections == 2
    for reply in replies:
        assert reply.ttft_ms is not None
        assert 0 < reply.ttft_ms <= reply.latency_ms
        assert reply.server_ms == 2.25


def test_a_server_that_tells_no_times(server: Any, acts: Any) -> None:
    server.script = [acts.http(b'{"choices": []}')]
    assert raw(server)[0].server_ms is None


@pytest.mark.parametrize("act", ["stalls", "dribbles"])
def test_it_never_hangs(server: Any, acts: Any, act: str) -> None:
    server.script = [getattr(acts, act)]
    with pytest.raises(RawError, match="raw socket: "):
        raw(server, timeout_s=0.2)


def test_what_is_not_as_expected_is_an_error(server: Any, acts: Any, dead_url: str) -> None:
    with pytest.raises(RawError, match="ConnectionRefusedError"):
        raw(dead_url)
    server.script = [acts.hangs_up]
    with pytest.raises(RawError, match="EOFError closed without a reply"):
        raw(server)
    server.script = [acts.closes_after(acts.http(b"{", length=100))]
    with pytest.raises(RawError, match="closed within the reply"):
        raw(server)
    server.script = [acts.http(b"no", status=500)]
    with pytest.raises(RawError, match="expected status 200"):
        raw(server)


def test_hashes_are_of_what_is_sent(nav: Workload, image: Path, tmp_path: Path) -> None:
    client = ChatClient("http://127.0.0.1:1")
    body = client.encode(nav, cache_prompt=False)
    found = fingerprint([body])
    assert found["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert found["prompt_sha256"] == hashlib.sha256(b"Where to?").hexdigest()
    assert found["image_sha256"] == hashlib.sha256(image.read_bytes()).hexdigest()
    other = tmp_path / "other.png"
    other.write_bytes(image.read_bytes() + b"\0")
    changed = load_workload("nav", settings={"prompt": "Where to?"}, image=other)
    again = fingerprint([client.encode(changed, cache_prompt=False)])
    assert again["prompt_sha256"] == found["prompt_sha256"]
    assert again["image_sha256"] != found["image_sha256"]
    client.close()


def test_hashes_of_other_messages() -> None:
    def of(*content: Any) -> dict[str, str | None]:
        messages = [{"role": "user", "content": one} for one in content]
        return fingerprint([json.dumps({"messages": messages}).encode()])

    assert of("Hello.", None)["prompt_sha256"] == hashlib.sha256(b"Hello.\n").hexdigest()
    assert of("Hello.")["image_sha256"] is None
    data = "data:image/png;base64," + base64.b64encode(b"a").decode()
    one = {"type": "image_url", "image_url": {"url": data}}
    far = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}
    assert of([one])["image_sha256"] == hashlib.sha256(b"a").hexdigest()
    two = of([one, far])["image_sha256"]
    assert two is not None
    assert two not in (of([one])["image_sha256"], of([far])["image_sha256"])
    # Order is part of what was asked.
    assert two != of([far, one])["image_sha256"]
