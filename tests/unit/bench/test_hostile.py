"""What a model, a server or a host may send: kept as data, judged, never obeyed, and never the end of the program."""

from __future__ import annotations

import gzip
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from acting import acting
from trialbench import schemas
from trialbench.cli import main
from trialbench.files import read_json_lines
from trialbench.measure.client import MAX_REPLY_BYTES, ChatClient, Reply
from trialbench.measure.sample import judge
from trialbench.workloads import Workload

NASTY = [
    "{0.__class__.__mro__} {prompt!r}",
    "%n%s%x%d",
    "../../../../etc/cron.d/x",
    "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x9b31m",
    "<script>alert(1)</script>",
    "{{ lookup('pipe', 'touch /tmp/x') }}{% for x in y %}",
    "$(touch /tmp/x) `id` ; rm -rf .",
    "left large\r\nok\u2028\u202e\u0085",
    "\ud83d half a pair \udc00",
]


def ask(server: Any, nav: Workload, *, stream: bool = False) -> Reply:
    client = ChatClient(server.url, stream=stream)
    try:
        return client.send(client.encode(nav, cache_prompt=False), timeout_s=10, connect_timeout_s=5)
    finally:
        client.close()


def completion(**changes: Any) -> dict[str, Any]:
    return {
        "choices": [{"message": {"content": "left large"}, "finish_reason": "stop"}],
        "usage": {"completion_tokens": 3},
        "timings": {"prompt_n": 9, "prompt_ms": 8.0, "predicted_ms": 0.5, "cache_n": 0},
        **changes,
    }


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_a_nasty_reply_is_data_from_the_wire_to_the_table(
    server: Any, acts: Any, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    server.script = [acts.chat(text, finish_reason=text)]
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Where to?", encoding="utf-8")
    out, summary = tmp_path / "nav.jsonl", tmp_path / "nav.json"
    given = ["run", "--url", server.url, "--workload", "nav", "--image", str(image), "--prompt-file", str(prompt)]
    assert main([*given, "-n", "2", "--warmup", "0", "--out", str(out), "--summary", str(summary)]) == 3
    lines, bad = read_json_lines(out)
    assert (len(lines), bad) == (2, 0)
    assert lines[0]["content"] == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert [problem for line in lines for problem in schemas.validate(line, "sample")] == []
    assert schemas.validate(json.loads(summary.read_text(encoding="utf-8")), "summary") == []
    said = capsys.readouterr()
    assert acting(said.out + said.err) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["car-view.png", "nav.json", "nav.jsonl", "prompt.txt"]


def test_a_prompt_is_no_template(server: Any, image: Path, tmp_path: Path) -> None:
    """What production's function returned is put into the message as it is, whatever it looks like."""
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("{{ 7 * 7 }} {% raw %} {0.__class__} %s", encoding="utf-8")
    given = ["run", "--url", server.url, "--workload", "nav", "--image", str(image), "--prompt-file", str(prompt)]
    assert main([*given, "-n", "1", "--warmup", "0"]) == 0
    assert prompt.read_text(encoding="utf-8") in json.dumps(server.bodies[0])


WRONG_TYPES = [
    completion(choices=[{"message": {"content": "left large"}, "finish_reason": {}}]),
    completion(choices=[{"message": {"content": "left large"}, "finish_reason": []}]),
    completion(choices=[{"message": {"content": ["left large"], "reasoning": {"a": 1}}, "finish_reason": "stop"}]),
    completion(usage={"completion_tokens": "3"}),
    completion(usage={"completion_tokens": -3, "prompt_tokens_details": {"cached_tokens": [1]}}, timings={}),
    completion(usage={"completion_tokens": True}),
    completion(usage=7),
    completion(timings="fast"),
    completion(timings={"prompt_ms": "8", "predicted_ms": 1, "prompt_n": {}, "cache_n": 1e300}),
    completion(choices={}),
    completion(choices=[7]),
    [],
    7,
    None,
]
WRONG_NUMBERS = [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 400]


@pytest.mark.parametrize("document", WRONG_TYPES, ids=range(len(WRONG_TYPES)))
def test_fields_of_the_wrong_type_make_a_sample(server: Any, acts: Any, nav: Workload, document: Any) -> None:
    server.script = [acts.http(json.dumps(document).encode())]
    sample = judge(ask(server, nav), 1, nav, cache_prompt=False, wall="2026-01-02T03:04:05Z")
    assert schemas.validate(sample.as_dict(), "sample") == []


@pytest.mark.parametrize("number", WRONG_NUMBERS, ids=lambda number: number[:8].decode())
def test_numbers_that_are_none_are_left_out(server: Any, acts: Any, nav: Workload, number: bytes) -> None:
    body = json.dumps(completion()).encode().replace(b"8.0", number).replace(b"3}", number + b"}")
    server.script = [acts.http(body)]
    reply = ask(server, nav)
    assert (reply.server_ms, reply.completion_tokens, reply.content) == (None, None, "left large")
    # A file that others read: strict JSON.
    json.dumps(judge(reply, 1, nav, cache_prompt=False, wall="x").as_dict(), allow_nan=False)


def raw(head: str, body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


GZIPPED = gzip.compress(json.dumps(completion()).encode())


@pytest.mark.parametrize(
    ("act", "error_class"),
    [
        (raw("302 Found\r\nLocation: http://127.0.0.1:1/elsewhere"), "http_302"),
        (raw("302 Found\r\nLocation: http://[::1"), "bad_reply"),
        (raw("200 OK\r\nContent-Encoding: gzip", b"no gzip"), "bad_json"),
        (raw("200 OK\r\nContent-Encoding: gzip", GZIPPED), "bad_json"),
        (raw("200 OK", b"[" * 200_000), "bad_json"),
        (raw("200 OK", b"\xff\xfe\x00"), "bad_json"),
        (b"\x1b[2J nonsense\r\n\r\n", "dropped"),
        (b"HTTP/1.1 200 \x1b[31m\r\nContent-Length: 0\r\n\r\n", None),
    ],
    ids=["redirect", "broken redirect", "no gzip", "gzip", "nested", "no text", "no http", "escape in reason"],
)
def test_answers_that_want_more_than_to_be_read(
    server: Any, nav: Workload, act: bytes, error_class: str | None
) -> None:
    server.script = [act]
    reply = ask(server, nav)
    assert reply.error_class in ([error_class] if error_class else ["bad_json", "dropped"])
    assert len(server.bodies) == 1


@pytest.mark.parametrize("head", ["200 OK", "500 Error"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_without_end_is_cut(server: Any, nav: Workload, head: str, stream: bool) -> None:
    sent = 0

    def floods(_server: Any, connection: socket.socket) -> bool:
        nonlocal sent
        connection.sendall(f"HTTP/1.1 {head}\r\nContent-Length: 100000000000\r\n\r\n".encode())
        try:
            while sent < 50 * MAX_REPLY_BYTES:
                connection.sendall(b"x" * 65536)
                sent += 65536
        except OSError:
            pass
        return False

    server.script = [floods]
    reply = ask(server, nav, stream=stream)
    assert (reply.error_class, reply.error_detail) == ("bad_reply", "longer than 4 MiB")
    # What was in flight in the sockets' buffers may come on top.
    assert sent < 5 * MAX_REPLY_BYTES


def test_nothing_that_was_answered_changes_the_next_request(server: Any, nav: Workload, acts: Any) -> None:
    body = json.dumps(completion()).encode()
    server.script = [raw('200 OK\r\nSet-Cookie: a=b; Path=/\r\nAlt-Svc: h2=":1"', body)]
    client = ChatClient(server.url)
    for _ in range(2):
        client.send(client.encode(nav, cache_prompt=False), timeout_s=10, connect_timeout_s=5)
    client.close()
    assert server.headers[0] == server.headers[1]
    assert "accept-encoding: identity" in server.headers[0].lower()
