"""The client against a scripted server: every way a reply can go wrong becomes a named failure, and none a number."""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpcore
import pytest
from trialbench.engines.contract import Deadlines, Request
from trialbench.engines.llama import wire as transport
from trialbench.engines.llama.events import Event, EventStream
from trialbench.engines.openai import EndpointOptions, OpenAICompatible
from trialbench.errors import UsageError
from trialbench.measure.client import ChatClient, Reply
from trialbench.workloads import Workload


def ask(server: Any, nav: Workload, *, timeout_s: float = 10.0, **options: Any) -> Reply:
    client = ChatClient(server if isinstance(server, str) else server.url, **options)
    try:
        return client.send(client.encode(nav, cache_prompt=False), timeout_s=timeout_s, connect_timeout_s=5.0)
    finally:
        client.close()


def test_request_carries_what_the_trial_demands(server: Any, nav: Workload) -> None:
    ask(server, nav)
    body = server.bodies[0]
    assert body["max_tokens"] == 20
    assert body["temperature"] == 0.0
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert body["cache_prompt"] is False
    assert body["stream"] is False
    assert "model" not in body
    assert body["messages"][0]["content"][0]["type"] == "image_url"
    assert server.headers[0].startswith("POST /v1/chat/completions HTTP/1.1\r\n")


def test_cache_model_key_and_extra_fields(server: Any, nav: Workload) -> None:
    client = ChatClient(server.url + "/v1/", model="m", api_key="k-123", omit=frozenset({"chat_template_kwargs"}))
    client.send(client.encode(nav, cache_prompt=True), timeout_s=10, connect_timeout_s=5)
    client.close()
    assert server.bodies[0]["cache_prompt"] is True
    assert server.bodies[0]["model"] == "m"
    assert "chat_template_kwargs" not in server.bodies[0]
    assert "authorization: bearer k-123" in server.headers[0].lower()
    assert server.headers[0].startswith("POST /v1/chat/completions ")


def test_recorded_reply_of_a_real_server(server: Any, nav: Workload, acts: Any) -> None:
    server.script = [acts.recorded("good.json")]
    reply = ask(server, nav)
    assert reply.error_class is None
    assert (reply.content, reply.finish_reason, reply.reasoning) == ("left large", "stop", None)
    assert (reply.completion_tokens, reply.prompt_n, reply.cache_n, reply.server_ms) == (3, 99, 0, 9.479)
    assert reply.latency_ms is not None
    assert reply.ttft_ms is None


def test_recorded_stream_of_a_real_server(server: Any, nav: Workload, acts: Any) -> None:
    server.script = [acts.recorded("good.sse")]
    reply = ask(server, nav, stream=True)
    assert reply.error_class is None
    assert (reply.content, reply.finish_reason, reply.completion_tokens) == ("left large", "stop", 3)
    assert reply.cache_n == 0
    assert reply.ttft_ms is not None
    assert reply.latency_ms is not None
    assert reply.ttft_ms <= reply.latency_ms
    assert server.bodies[0]["stream"] is True


def test_hidden_thoughts_are_kept_in_both_ways(server: Any, nav: Workload, acts: Any) -> None:
    server.script = [acts.recorded("thinking-hidden.json"), acts.recorded("thinking-hidden.sse")]
    assert ask(server, nav).reasoning == "I look first.\n"
    assert ask(server, nav, stream=True).reasoning == "I look first.\n"


def test_sparse_server_gives_nulls(server: Any, nav: Workload, acts: Any) -> None:
    sparse = {"choices": [{"message": {"content": "left large"}, "finish_reason": "stop"}]}
    server.script = [acts.http(json.dumps(sparse).encode())]
    reply = ask(server, nav)
    assert reply.error_class is None
    assert (reply.completion_tokens, reply.prompt_n, reply.cache_n, reply.server_ms) == (None, None, None, None)


def test_cache_is_read_from_usage_where_there_are_no_timings(server: Any, nav: Workload, acts: Any) -> None:
    body = {
        "choices": [{"message": {"content": "x"}, "finish_reason": "stop"}],
        "usage": {"completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 64}},
    }
    server.script = [acts.http(json.dumps(body).encode())]
    assert ask(server, nav).cache_n == 64


@pytest.mark.parametrize(
    ("reply", "error_class"),
    [
        (("oops", 500), "http_500"),
        (("", 503), "http_503"),
        (("{'not json'", 200), "bad_json"),
        (("[]", 200), "bad_reply"),
        (('{"choices": []}', 200), "bad_reply"),
        (('{"choices": [{"message": null}]}', 200), "bad_reply"),
        (('{"error": {"message": "no"}}', 200), "server_error"),
    ],
)
def test_bad_replies_are_named(server: Any, nav: Workload, acts: Any, reply: tuple[str, int], error_class: str) -> None:
    server.script = [acts.http(reply[0].encode(), status=reply[1])]
    found = ask(server, nav)
    assert found.error_class == error_class
    assert found.error_detail


def test_refused_field_is_explained_with_the_option(server: Any, nav: Workload, acts: Any) -> None:
    text = '{"error": "Unrecognized request argument supplied: chat_template_kwargs"}'
    server.script = [acts.http(text.encode(), status=400)]
    detail = ask(server, nav).error_detail
    assert detail is not None
    assert "--omit chat_template_kwargs" in detail
    assert "--omit cache_prompt" not in detail


def test_nobody_there(dead_url: str, nav: Workload) -> None:
    reply = ask(dead_url, nav)
    assert reply.error_class == "connect"
    assert reply.latency_ms is None


def test_reply_that_breaks_off(server: Any, nav: Workload, acts: Any) -> None:
    server.script = [acts.closes_after(acts.http(b'{"choices"', length=1000))]
    assert ask(server, nav).error_class == "dropped"


def test_server_that_hangs_up_on_a_new_connection_is_a_failure(server: Any, nav: Workload, acts: Any) -> None:
    server.script = [acts.hangs_up, acts.chat()]
    reply = ask(server, nav)
    assert reply.error_class == "dropped"
    assert not reply.reconnected
    assert len(server.bodies) == 1


@pytest.mark.parametrize("act", ["stalls", "dribbles"])
def test_deadline_holds_over_the_whole_request(server: Any, nav: Workload, acts: Any, act: str) -> None:
    server.script = [getattr(acts, act)]
    before = time.monotonic()
    reply = ask(server, nav, timeout_s=0.3)
    assert reply.error_class == "timeout"
    assert 0.3 <= time.monotonic() - before < 5
    assert reply.latency_ms is None


def test_own_limit_is_no_failure_of_the_server(server: Any, nav: Workload, acts: Any) -> None:
    server.script = [acts.stalls]
    client = ChatClient(server.url)
    body = client.encode(nav, cache_prompt=False)
    reply = client.send(body, timeout_s=10, connect_timeout_s=5, until_s=time.monotonic() + 0.2)
    client.close()
    assert reply.error_class == "cut_off"


def test_interrupt_ends_the_request_in_flight(server: Any, nav: Workload, acts: Any) -> None:
    waiting = threading.Event()

    def act(scripted: Any, connection: Any) -> bool:
        waiting.set()
        return bool(acts.stalls(scripted, connection))

    server.script = [act]
    client = ChatClient(server.url)
    body = client.encode(nav, cache_prompt=False)

    def interrupt() -> None:
        waiting.wait(60)
        client.interrupt(0.1)

    threading.Thread(target=interrupt).start()
    reply = client.send(body, timeout_s=30, connect_timeout_s=5)
    assert reply.error_class == "cut_off"
    # And none after it is begun with more time.
    assert client.send(body, timeout_s=30, connect_timeout_s=5).error_class == "cut_off"
    client.close()


MUCH = b"y" * (1 << 25)


@pytest.fixture
def deaf() -> Iterator[str]:
    """The address of a server that takes connections and reads nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_server_that_stops_reading_is_late(deaf: str) -> None:
    client = ChatClient(deaf)
    assert client.send(MUCH, timeout_s=0.5, connect_timeout_s=5).error_class == "timeout"
    threading.Timer(0.2, client.interrupt, [0.1]).start()
    before = time.monotonic()
    assert client.send(MUCH, timeout_s=60, connect_timeout_s=5).error_class == "cut_off"
    assert time.monotonic() - before < 30
    client.close()
    engine = OpenAICompatible(EndpointOptions(deaf))
    result = engine.start(Request(prompt=MUCH.decode(), deadlines=Deadlines(total_s=0.5))).result()
    assert result.failure is not None
    assert result.failure.failure_class.name == "timeout"


@pytest.mark.parametrize(
    ("length", "chunked"),
    [(0, False), (0, True), (20, False)],
    ids=["an answer that nobody asked for", "the same behind chunks", "a length that is too small"],
)
def test_what_follows_a_reply_is_not_the_next_one(
    server: Any, nav: Workload, acts: Any, length: int, chunked: bool
) -> None:
    reply = acts.chat()
    if length:
        reply = acts.http(reply.partition(b"\r\n\r\n")[2], length=length)
    elif chunked:
        head, _, body = reply.partition(b"\r\n\r\n")
        head = re.sub(b"Content-Length: .*", b"Transfer-Encoding: chunked", head)
        reply = head + b"\r\n\r\n%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
    late = b"" if length else b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"
    server.script = [reply + late, acts.chat()]
    client = ChatClient(server.url)
    body = client.encode(nav, cache_prompt=False)
    replies = [client.send(body, timeout_s=10, connect_timeout_s=5) for _ in range(3)]
    client.close()
    assert [reply.error_class for reply in replies] == ["bad_json" if length else None, None, None]
    assert server.connections == 2


HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n"


@pytest.mark.parametrize("interim", [b"HTTP/1.1 100 Continue\r\n\r\n", HINTS, HINTS * 2], ids=["100", "103", "twice"])
@pytest.mark.parametrize("late", [b"", b"HTTP/1.1 408 X\r\nContent-Length: 0\r\n\r\n"], ids=["", "more than a reply"])
def test_an_interim_answer_before_a_reply_is_no_part_of_it(
    server: Any, nav: Workload, acts: Any, interim: bytes, late: bytes
) -> None:
    server.script = [interim + acts.chat() + late, acts.chat()]
    client = ChatClient(server.url)
    body = client.encode(nav, cache_prompt=False)
    replies = [client.send(body, timeout_s=10, connect_timeout_s=5) for _ in range(3)]
    client.close()
    assert [reply.error_class for reply in replies] == [None] * 3
    assert server.connections == (2 if late else 1)


def test_connections_are_kept_and_a_closed_one_costs_no_sample(server: Any, nav: Workload, acts: Any) -> None:
    # As llama-server does after 100 requests, here after 2: it announces nothing and closes.
    server.script = [acts.chat(), acts.closes_after(acts.chat()), acts.chat()]
    client = ChatClient(server.url)
    body = client.encode(nav, cache_prompt=False)
    replies = [client.send(body, timeout_s=10, connect_timeout_s=5) for _ in range(6)]
    client.close()
    assert [reply.error_class for reply in replies] == [None] * 6
    assert len(server.bodies) == 6
    assert server.connections == 2


def test_connection_closed_in_the_face_of_a_request_is_tried_once_more(server: Any, nav: Workload, acts: Any) -> None:
    # The race proper: the server takes the request on a kept connection and closes without a byte.
    server.script = [acts.chat(), acts.hangs_up, acts.chat()]
    client = ChatClient(server.url)
    body = client.encode(nav, cache_prompt=False)
    first, second = (client.send(body, timeout_s=10, connect_timeout_s=5) for _ in range(2))
    client.close()
    assert (first.reconnected, second.reconnected) == (False, True)
    assert second.error_class is None
    assert server.connections == 2


def test_no_second_chance_once_a_byte_has_come(server: Any, nav: Workload, acts: Any) -> None:
    server.script = [acts.chat(), acts.closes_after(acts.http(b"{", length=50)), acts.chat()]
    client = ChatClient(server.url)
    body = client.encode(nav, cache_prompt=False)
    replies = [client.send(body, timeout_s=10, connect_timeout_s=5) for _ in range(2)]
    client.close()
    assert replies[1].error_class == "dropped"
    assert len(server.bodies) == 2


def test_streaming_takes_a_connection_per_request(server: Any, nav: Workload, acts: Any) -> None:
    server.script = [acts.recorded("good.sse")]
    client = ChatClient(server.url, stream=True)
    body = client.encode(nav, cache_prompt=False)
    for _ in range(3):
        assert client.send(body, timeout_s=10, connect_timeout_s=5).error_class is None
    client.close()
    assert server.connections == 3


def stream(*events: str) -> bytes:
    return "".join(f"data: {event}\n\n" for event in events).encode()


def delta(content: str, finish_reason: str | None = None) -> str:
    choice = {"delta": {"role": "assistant", "content": content}, "finish_reason": finish_reason}
    return json.dumps({"choices": [choice]}, ensure_ascii=False)


def test_line_separators_inside_the_json_of_an_event(server: Any, nav: Workload, acts: Any) -> None:
    text = "one\u2028two\u0085three"
    server.script = [acts.http(stream(delta(text), delta("", "stop"), "[DONE]"), kind="text/event-stream")]
    reply = ask(server, nav, stream=True)
    assert reply.error_class is None
    assert reply.content == text


@pytest.mark.parametrize(
    ("body", "error_class"),
    [
        (stream(delta("left")), "dropped"),
        (stream(delta("left"), '{"error": {"message": "context full"}}'), "server_error"),
        (b'error: {"message": "boom"}\n\n', "server_error"),
        (stream(delta("left"), "{broken"), "bad_json"),
        (stream('{"no": "choices"}'), "bad_reply"),
    ],
)
def test_bad_streams_are_named(server: Any, nav: Workload, acts: Any, body: bytes, error_class: str) -> None:
    server.script = [acts.http(body, kind="text/event-stream")]
    assert ask(server, nav, stream=True).error_class == error_class


def test_stream_dropped_in_the_middle(server: Any, nav: Workload, acts: Any) -> None:
    server.script = [acts.closes_after(acts.http(stream(delta("left")), length=5000))]
    assert ask(server, nav, stream=True).error_class == "dropped"


def test_lines_of_a_stream_end_where_the_standard_says() -> None:
    stream = EventStream()
    pieces = [
        b"data: a\xe2\x80",
        b"\xa8b\xc2\x85\r\n\r\n: comment\ndata:c\r",
        b"\nda",
        b"ta: d\r\rdata: e\n\n",
        b"data: cut",
    ]
    found = [event for piece in pieces for event in stream.feed(piece)] + stream.end()
    assert found == [Event("", "a\u2028b\x85"), Event("", "c\nd"), Event("", "e"), Event("", "cut", cut=True)]


def test_url_must_be_one() -> None:
    with pytest.raises(UsageError, match="expected http"):
        ChatClient("127.0.0.1:8080")


def test_deadline_holds_over_the_handshake_too(server: Any, nav: Workload) -> None:
    # The server waits for a request line and never answers the handshake.
    reply = ask(server.url.replace("http://", "https://"), nav, timeout_s=0.3)
    assert reply.error_class in ("connect", "timeout")


class Pipe(httpcore.NetworkStream):
    """A connection whose pieces and faults are written down beforehand."""

    def __init__(self, *reads: bytes | Exception) -> None:
        self.reads = list(reads)
        self.sent: list[bytes] = []
        self.write_error: Exception | None = None
        self.closed = False

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        found = self.reads.pop(0) if self.reads else httpcore.ReadTimeout()
        if isinstance(found, Exception):
            raise found
        return found

    def settimeout(self, seconds: float) -> None:
        """As a socket."""

    def send(self, buffer: memoryview) -> int:
        if self.write_error is not None:
            raise self.write_error
        self.sent.append(bytes(buffer))
        return len(buffer)

    def close(self) -> None:
        self.closed = True

    def get_extra_info(self, info: str) -> Any:
        return self if info == "socket" else False


def wired(pipe: Pipe) -> tuple[transport._Stream, transport.Wire]:
    wire = transport.Wire()
    wire.deadline_s = time.monotonic() + 30
    return transport._Stream(pipe, wire), wire


def test_head_and_body_leave_in_one_piece_when_the_reply_is_asked_for() -> None:
    pipe = Pipe(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    stream, wire = wired(pipe)
    stream.write(b"head")
    stream.write(b"")
    stream.write(b"body")
    assert (pipe.sent, wire.first_write_s) == ([], None)
    stream.read(100)
    assert pipe.sent == [b"headbody"]
    assert wire.first_write_s is not None


def test_a_reply_to_a_request_that_was_refused_half_way_is_read() -> None:
    pipe = Pipe(b"HTTP/1.1 413 X\r\nContent-Length: 0\r\n\r\n")
    pipe.write_error = BrokenPipeError("broken pipe")
    stream, _ = wired(pipe)
    stream.write(b"much")
    assert stream.read(100).startswith(b"HTTP/1.1 413")


def test_pieces_are_taken_first_and_handed_on_with_their_times() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"
    pipe = Pipe(head, b"ab", b"cd", b"never asked for")
    stream, wire = wired(pipe)
    assert stream.read(100) == head
    # The whole reply has been read by now, and no more than it.
    assert pipe.reads == [b"never asked for"]
    first_s = wire.last_read_s
    assert stream.get_extra_info("is_readable") is True
    assert (stream.read(100), stream.read(100)) == (b"ab", b"cd")
    assert first_s is not None
    assert wire.last_read_s is not None
    assert first_s <= wire.last_read_s
    assert wire.bytes_read == len(head) + 4
    assert stream.get_extra_info("is_readable") is False


@pytest.mark.parametrize(
    "rest",
    [
        [b"5\r\nhello\r\n0\r\n\r\n", b"next"],
        [b"5\r\nhel", httpcore.ReadTimeout(), b"next"],
        [b"", b"next"],
        [httpcore.ReadError("reset"), b"next"],
        [b"x" * transport._GATHER_BYTES, b"next"],
    ],
    ids=["last chunk", "lull", "closed", "reset", "much"],
)
def test_what_ends_the_taking(rest: list[bytes | Exception]) -> None:
    pipe = Pipe(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *rest)
    stream, _ = wired(pipe)
    stream.read(100)
    assert pipe.reads == [b"next"]


def test_a_fault_before_the_first_byte_is_told_and_a_silence_waited_out() -> None:
    with pytest.raises(httpcore.ReadError):
        wired(Pipe(httpcore.ReadError("reset")))[0].read(100)
    stream, _ = wired(Pipe(httpcore.ReadTimeout(), httpcore.ReadTimeout(), b""))
    assert stream.read(100) == b""


def test_a_connection_that_is_too_late_for_its_handshake_is_closed() -> None:
    pipe = Pipe()
    stream, wire = wired(pipe)
    wire.deadline_s = 0.0
    with pytest.raises(transport.DeadlineError):
        stream.start_tls(ssl.create_default_context())
    assert pipe.closed


def test_a_stream_that_comes_all_at_once_and_one_that_trickles(server: Any, nav: Workload, acts: Any) -> None:
    events = [
        'data: {"choices":[{"delta":{"role":"assistant","content":null}}]}\n\n',
        'data: {"choices":[{"delta":{"content":"left"}}]}\n\n',
        'data: {"choices":[{"delta":{"content":" large"},"finish_reason":"stop"}]}\n\n',
        "data: [DONE]\n\n",
    ]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = [f"{len(text):x}\r\n{text}\r\n".encode() for text in events]

    def trickles(_server: Any, connection: Any) -> bool:
        connection.sendall(head)
        for chunk in [*chunks, b"0\r\n\r\n"]:
            time.sleep(0.02)
            connection.sendall(chunk)
        return False

    server.script = [acts.closes_after(head + b"".join(chunks) + b"0\r\n\r\n"), trickles]
    for least_ms in (0.0, 30.0):
        reply = ask(server, nav, stream=True)
        assert (reply.error_class, reply.content, reply.finish_reason) == (None, "left large", "stop")
        assert reply.ttft_ms is not None
        assert reply.latency_ms is not None
        # The first token comes two pauses after the head.
        assert least_ms <= reply.ttft_ms <= reply.latency_ms
