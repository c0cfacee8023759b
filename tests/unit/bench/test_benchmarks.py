"""The two benchmarks' own arithmetic: what they call a miss, what they saw on the wire, what the relay does."""

from __future__ import annotations

import importlib
import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sample_lines import compared
from trialbench.report.comparison import Band, Comparison
from trialbench.workloads import load_workload

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a script by name, as it would import its neighbors."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    names = ("bench_client", "bench_server", "bench_aa", "bench_scenes")
    before = set(sys.modules)

    def get(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield get
    for name in names:
        if name not in before:
            sys.modules.pop(name, None)


def rounds(bench: ModuleType, ours_ms: float, *, ttft_ms: float | None = None) -> list[Any]:
    """Five rounds in which trialbench takes `ours_ms`, the raw socket 10 ms and httpx 12 ms; the server 8 ms."""
    found = []
    for _ in range(5):
        times = {name: bench.Times() for name in bench.CLIENTS}
        for name, total_ms in (("trialbench", ours_ms), ("raw", 10.0), ("httpx", 12.0)):
            for _ in range(3):
                first_ms = None if ttft_ms is None else (ttft_ms if name == "trialbench" else 5.0)
                times[name].add({"total_ms": total_ms, "ttft_ms": first_ms, "server_ms": 8.0}, total_ms - 0.1)
        found.append(times)
    return found


def test_targets_hold_at_their_limit_and_not_beyond(script: Any) -> None:
    bench = script("bench_client")

    def found(plain_ms: float, stream_ms: float, ttft_ms: float, first_s: float, rss_mb: float) -> list[bool]:
        modes = {
            "plain": bench.compare(rounds(bench, plain_ms)),
            "stream": bench.compare(rounds(bench, stream_ms, ttft_ms=ttft_ms)),
        }
        rows = bench.targets(modes, [0.1, first_s, 9.0], [20.0, rss_mb])
        assert len(rows) == 7
        return [row["ok"] for row in rows]

    assert found(10.0, 10.0, 5.0, 0.2, 30.0) == [True] * 7
    assert found(10.3, 10.4, 5.5, 0.3, 45.0) == [True] * 7
    # plain ratio, plain gap, stream ratio, TTFT, stream gap, start, memory
    assert found(10.6, 11.2, 5.6, 0.31, 45.1) == [False] * 7
    assert found(10.45, 10.0, 5.0, 0.2, 30.0) == [True, False, True, True, True, True, True]


def test_a_table_of_everything(script: Any) -> None:
    bench = script("bench_client")
    modes = {
        "plain": bench.compare(rounds(bench, 10.2)),
        "stream": bench.compare(rounds(bench, 11.5, ttft_ms=5.0)),
    }
    document = {
        "modes": modes,
        "wire": "the wire can't be listened to: no (needs root)",
        "targets": bench.targets(modes, [0.1], [30.0]),
    }
    shown = bench.table(document)
    assert "trialbench   10.200 [10.200, 10.200]   1.020 [1.020, 1.020]" in shown
    assert "MISSED p50, streaming: trialbench / raw socket" in shown
    assert "(needs root)" in shown


def test_a_reply_without_times_is_no_result(script: Any) -> None:
    bench = script("bench_client")
    with pytest.raises(script("bench_server").BenchError, match="the server's own time"):
        bench.Times().add({"total_ms": 1.0, "ttft_ms": None, "server_ms": None}, None)


def test_requests_are_told_apart_on_the_wire(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = script("bench_server")
    chat = b"POST /v1/chat/completions HTTP/1.1\r\n\r\n{}"
    packets = [
        server.Packet(1.000, 5001, True, chat),
        server.Packet(1.001, 5001, True, b"more of it"),
        server.Packet(1.002, 5002, True, b"GET /slots HTTP/1.1\r\n\r\n"),
        server.Packet(1.003, 5002, False, b"[]"),
        server.Packet(1.010, 5001, False, b"HTTP/1.1 200 OK\r\n\r\n"),
        server.Packet(1.012, 5001, False, b'"prompt_ms":6.5, "predicted_ms": 1.5'),
        server.Packet(1.020, 5001, True, chat),
        server.Packet(1.025, 5001, False, b"{}"),
        # No reply yet.
        server.Packet(1.030, 5001, True, chat),
    ]
    wire = server.Wire.__new__(server.Wire)
    monkeypatch.setattr(wire, "packets", lambda: iter(packets), raising=False)
    first, second = wire.exchanges()
    assert (round(first.total_ms, 3), first.server_ms) == (12.0, 8.0)
    assert (round(second.total_ms, 3), second.server_ms) == (5.0, None)


def test_without_an_image_it_says_what_to_do(script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = script("bench_server")
    monkeypatch.setattr(server, "ROOT", tmp_path)
    with pytest.raises(server.BenchError, match="make image"):
        server.image_id()


def test_the_relay_passes_bytes_and_answers_later(script: Any, server: Any, acts: Any) -> None:
    relay_of = script("bench_aa").Relay
    port = int(server.url.rsplit(":", 1)[1])

    def after_a_while(_server: Any, connection: socket.socket) -> bool:
        time.sleep(0.05)
        connection.sendall(acts.chat())
        return True

    server.script = [after_a_while]
    request = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
    for slower, least_s in ((0.0, 0.05), (2.0, 0.15)):
        relay = relay_of(port, slower)
        with socket.create_connection(("127.0.0.1", int(relay.url.rsplit(":", 1)[1]))) as client:
            client.settimeout(10)
            for _ in range(2):
                began_s = time.monotonic()
                client.sendall(request)
                assert client.recv(1 << 16) == acts.chat()
                assert time.monotonic() - began_s >= least_s
        relay.close()


def comparison(finding: str, *, ratio: float = 1.0, noisy: bool = False) -> Comparison:
    band = Band(1.0, 0.98, 1.02, 9.0 if noisy else 2.0)
    return compared(ratio, ratio, ratio, band=band, noisy=noisy, finding=finding)


def told(script: Any, monkeypatch: pytest.MonkeyPatch, same: list[Any], slowed: list[Any]) -> dict[str, Any]:
    """What `bench-aa` makes of given comparisons, run by run."""
    bench = script("bench_aa")
    monkeypatch.setattr(bench.os, "sched_setaffinity", lambda *_: None)
    left = {None: list(same), bench.SLOWER: list(slowed)}
    monkeypatch.setattr(bench, "run", lambda slower, scenes: left[slower].pop(0))
    document: dict[str, Any] = bench.measure(20)
    json.dumps(document)
    return document


def test_one_false_alarm_and_one_miss_are_allowed(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    same = [comparison("different")] + [comparison("not_shown")] * 19
    slowed = [comparison("not_shown", ratio=1.1)] + [comparison("different", ratio=1.1)] * 19
    assert all(row["ok"] for row in told(script, monkeypatch, same, slowed)["targets"])
    found = told(script, monkeypatch, same[:1] * 2 + same[1:], slowed[:1] * 2 + slowed[1:])
    assert [row["ok"] for row in found["targets"]] == [False, False, True, True, True]


def test_faster_is_not_what_was_injected(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    same = [comparison("not_shown")] * 20
    found = told(script, monkeypatch, same, [comparison("different", ratio=0.9)] * 20)
    assert found["targets"][1]["found"] == 0


def test_noisy_runs_are_repeated_ten_times_in_all(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    good, noisy = comparison("not_shown"), comparison("not_shown", noisy=True)
    slow = comparison("different", ratio=1.1)
    found = told(
        script, monkeypatch, [noisy] * 7 + [good] * 20, [comparison("different", noisy=True)] * 4 + [slow] * 19
    )
    assert (len(found["noisy"]), len(found["same"]), len(found["slowed"])) == (10, 20, 20)
    # The eleventh is counted, shown, and a missed target.
    assert [row["found"] for row in found["targets"][2:4]] == [10, 1]
    assert not found["targets"][3]["ok"]


def test_scenes_for_a_session_are_the_twin_s(script: Any, tmp_path: Path) -> None:
    assert script("bench_aa").put_scenes(tmp_path) == {"scenes": "scenes.json"}
    work = load_workload(
        "nav",
        settings={"prompt": "where?"},
        image=script("bench_server").CAMERA,
        base=tmp_path,
        scenes_file=tmp_path / "scenes.json",
    )
    assert len(work.scenes) == 40
    assert all(scene.expected and scene.group for scene in work.scenes)


@pytest.mark.parametrize(
    ("one_s", "many_s", "ok"),
    [
        # A median, so one slow run does not count; half a second is allowed to a short window, 5 % to a long one.
        ([5.0, 5.0, 9.0], [9.0, 5.5, 5.5], True),
        ([5.0, 5.0, 5.0], [5.5, 5.51, 5.52], False),
        ([20.0] * 3, [21.0] * 3, True),
        ([20.0] * 3, [21.01] * 3, False),
    ],
)
def test_what_scenes_may_add_to_the_window(script: Any, one_s: list[float], many_s: list[float], ok: bool) -> None:
    row = script("bench_scenes").target(one_s, many_s, 60)
    assert (row["ok"], row["found"]) == (ok, sorted(many_s)[1])


@pytest.mark.parametrize(("ok", "word"), [(True, "ok"), (False, "MISSED")])
def test_benchmarks_end_alike(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], ok: bool, word: str
) -> None:
    document = {"targets": [{"what": "one", "found": 1, "limit": 2, "ok": True}]}
    document["targets"].append({"what": "other", "found": 3.5, "limit": 3.0, "ok": ok})
    out = tmp_path / "build" / "found.json"
    assert script("bench_server").told(document, out, 8) == (0 if ok else 1)
    assert json.loads(out.read_text(encoding="utf-8")) == document
    assert f"  {word:<6} other        3.5 (limit 3)" in capsys.readouterr().out


@pytest.mark.prove
def test_both_kinds_of_session_are_measured(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = script("bench_scenes")
    for name, value in {"SAMPLES": 4, "WARMUP": 1, "CACHED": 1, "PICTURE_BYTES": 100}.items():
        monkeypatch.setattr(bench, name, value)
    found = bench.measure(1, 3, 1.0)
    json.dumps(found)
    assert (len(found["one_s"]), len(found["many_s"]), found["samples"]) == (1, 1, 4)
    assert min(found["one_s"] + found["many_s"]) > 0
    # Ticks of a hundredth: at the sign it may be told as one more than it was.
    assert min(found["one_cpu_s"] + found["many_cpu_s"]) > -0.02


@pytest.mark.prove
def test_a_session_that_does_not_get_ready_is_no_result(script: Any, tmp_path: Path) -> None:
    bench = script("bench_scenes")
    with pytest.raises(script("bench_server").BenchError, match="not ready"):
        bench.window_s("http://127.0.0.1:9", tmp_path, scenes=True)
