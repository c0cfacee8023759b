# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at a host: answers of real servers, processes and ports of the real /proc and of made-up ones."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import probes, run
from ansible_collections.edgelab.model_trial.plugins.module_utils.plan import Http
from fakeproc import fake_net, fake_process

SLEEP = "import time; time.sleep(60)"


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts processes, and ends them afterwards."""
    started: list[subprocess.Popen[bytes]] = []

    def make(*argv: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(argv))
        # Before the exec the child still shows our own argv.
        while probes.command(started[-1].pid) != " ".join(argv):
            time.sleep(0.005)
        return started[-1]

    yield make
    for process in started:
        process.kill()
        process.wait()


# Logs


@pytest.mark.parametrize(
    "polled",
    [
        'INFO:     127.0.0.1:{port} - "GET /health HTTP/1.1" 503 Service Unavailable',
        '127.0.0.1 - - [30/Nov/2026 08:00:{second:02}] "GET /health HTTP/1.1" 503 -',
        "srv  log_server_r: request: GET /health 127.0.0.1 503",
        '{{"ms": 0.{second}, "path": "/health", "method": "GET", "status": 503}}',
        '127.0.0.1 "GET /health?full=1 HTTP/1.1" 503',
    ],
)
def test_a_log_that_we_filled_with_our_questions_still_tells_what_was_said(polled: str) -> None:
    polls = [polled.format(port=40_000 + i, second=i % 60) for i in range(300)]
    said = ["loading", *polls[:150], "CUDA error: out of memory", *polls[150:]]
    told = probes.log_end("\n".join(said), Http("http://127.0.0.1:8080/health"), 20)
    assert told == ["loading", "CUDA error: out of memory", f"{polls[-1]} (300 times)"]


@pytest.mark.parametrize(
    ("health", "lines", "told"),
    [
        # Nobody asked, or for something else: each line is what it says.
        (None, ["GET /health 1", "GET /health 2"], ["GET /health 1", "GET /health 2"]),
        ("/health", ["GET /healthy 1", "GET /healthy 2"], ["GET /healthy 1", "GET /healthy 2"]),
        ("/health", ["GET /v1/health 1", "GET /v1/health 2"], ["GET /v1/health 1", "GET /v1/health 2"]),
        ("/health", ["POST /health 1", "POST /health 2"], ["POST /health 1", "POST /health 2"]),
        ("", ["GET /ask 1", "GET / 1", "GET / 2"], ["GET /ask 1", "GET / 2 (2 times)"]),
        # An answer of another kind is not lost among the others.
        (
            "/health",
            ["GET /health 503", "GET /health failed: no memory", "GET /health 503"],
            ["GET /health failed: no memory", "GET /health 503 (2 times)"],
        ),
        ("/health", ["a", "b", "c", "d"], ["b", "c", "d"]),
        ("/health", [], []),
    ],
)
def test_only_answers_to_our_own_question_are_one_line(health: str | None, lines: list[str], told: list[str]) -> None:
    question = None if health is None else Http(f"http://127.0.0.1:8080{health}")
    assert probes.log_end("\n".join(lines), question, 3) == told


# HTTP


def test_a_plain_health_page_counts_by_its_status(server: Any, reply: Any) -> None:
    server.routes["/health"] = reply(b"fine")
    assert probes.ask(Http(f"{server.url}/health")) == probes.ProbeResult(True, "HTTP 200", 200)
    assert probes.ask(Http(f"{server.url}/health", status=204)) == probes.ProbeResult(False, "HTTP 200", 200)


def test_a_condition_is_judged_and_quoted(server: Any) -> None:
    server.json("/health", {"model_loaded": False, "slots": [{"state": 0}]})
    loaded = probes.ask(Http(f"{server.url}/health", json={"model_loaded": True}))
    assert loaded == probes.ProbeResult(False, "model_loaded = false", 200)
    both = probes.ask(Http(f"{server.url}/health", json={"model_loaded": False, "slots.0.state": 0}))
    assert both == probes.ProbeResult(True, "model_loaded = false, slots.0.state = 0", 200)


def test_a_text_is_no_truth_value(server: Any) -> None:
    server.json("/health", {"in_call": "false"})
    assert not probes.ask(Http(f"{server.url}/health", json={"in_call": False})).ok


@pytest.mark.parametrize("body", [b"<html>", b"", b"[" * 100_000, b"\xff"])
def test_a_body_that_is_no_json_is_a_no(server: Any, reply: Any, body: bytes) -> None:
    server.routes["/health"] = reply(body)
    answer = probes.ask(Http(f"{server.url}/health", json={"ok": True}))
    assert answer == probes.ProbeResult(False, "HTTP 200, but the body is not JSON", 200)


def test_an_error_page_is_an_answer(server: Any, reply: Any) -> None:
    server.routes["/health"] = reply(b'{"status": "loading model"}', 503)
    assert probes.ask(Http(f"{server.url}/health")) == probes.ProbeResult(False, "HTTP 503", 503)
    loading = Http(f"{server.url}/health", status=503, json={"status": "loading model"})
    assert probes.ask(loading).ok


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_not_an_order(server: Any, serve: Callable[[], Any], reply: Any, status: int) -> None:
    """The holder of a port does not choose which address is asked next."""
    other = serve()
    other.json("/health", {"ok": True})
    server.routes["/health"] = reply(b"", status, headers=(("Location", f"{other.url}/health"),))
    assert probes.ask(Http(f"{server.url}/health")) == probes.ProbeResult(False, f"HTTP {status}", status)
    assert probes.fetch(f"{server.url}/health", 3, {"text": "x"})[0] == status
    assert other.asked == []


@pytest.mark.parametrize("to", ["file:///etc/passwd", "http://[", "", "\x00"])
def test_a_redirect_to_anywhere_is_a_no(server: Any, reply: Any, to: str) -> None:
    server.routes["/health"] = reply(b"", 302, headers=(("Location", to),))
    assert not probes.ask(Http(f"{server.url}/health")).ok


@pytest.fixture
def say() -> Iterator[Callable[[bytes], str]]:
    """Makes servers that answer these bytes, once; gives their address."""
    threads: list[threading.Thread] = []

    def make(answer: bytes) -> str:
        listening = socket.create_server(("127.0.0.1", 0))

        def serve() -> None:
            with listening, listening.accept()[0] as peer:
                peer.recv(4096)
                peer.sendall(answer)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}/health"

    yield make
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("status", [200, 302, 404, 500])
@pytest.mark.parametrize(
    "rest",
    [
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"Content-Length: 100\r\n\r\nabc",
        b"Content-Length: soon\r\n\r\nabc",
    ],
    ids=["rubbish", "cut chunk", "cut body", "no length"],
)
def test_a_broken_answer_is_a_no_whatever_its_status(say: Callable[[bytes], str], status: int, rest: bytes) -> None:
    url = say(b"HTTP/1.1 %d x\r\n" % status + rest)
    assert not probes.ask(Http(url, json={"ok": True}, timeout_s=2)).ok


def test_what_a_stranger_says_can_not_act_on_a_terminal(server: Any, say: Callable[[bytes], str]) -> None:
    found = probes.ask(Http(say(b"\x1b]0;title\x07 no HTTP\r\n"))).found
    assert "no answer: " in found
    assert "\x1b" not in found
    server.json("/health", {"state": "\x1b[31mred\x9b"})
    found = probes.ask(Http(f"{server.url}/health", json={"state": "ok"})).found
    assert found.isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\n\tschön", "plain\n\tschön"),
        ("\x1b[2J\x00\x07\r\x7f\x9b", "\ufffd[2J" + "\ufffd" * 5),
        ("\u202e\u2066\u2028\udcff", "\ufffd" * 4),
        # People's text is left alone.
        *(
            (text, text)
            for text in ("1,5\u00a0m\u202f\u3000\u200b", "\u0645\u06cc\u200c\u0628", "\U0001f468\u200d\U0001f467")
        ),
        ("", ""),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert probes.printable(text) == shown


def test_a_command_line_can_not_act_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cmdline").write_bytes(b"evil\x1b[2J\0--arg\xff\0")
    assert probes.command(7, tmp_path) == "evil\ufffd[2J --arg\ufffd"


def test_nobody_there_is_a_no(free_port: int) -> None:
    answer = probes.ask(Http(f"http://127.0.0.1:{free_port}/health"))
    assert not answer.ok
    assert "refused" in answer.found


def test_a_slow_answer_is_given_up_in_time(server: Any, reply: Any) -> None:
    server.routes["/health"] = reply(b"late", delay_s=5.0)
    began = time.monotonic()
    answer = probes.ask(Http(f"{server.url}/health", timeout_s=0.2))
    assert (answer.ok, answer.found) == (False, "no answer: timed out")
    assert time.monotonic() - began < 4


def test_a_dripping_answer_is_given_up_in_time(server: Any, reply: Any) -> None:
    server.routes["/health"] = reply(b"x" * 100, drip_s=0.1)
    began = time.monotonic()
    answer = probes.ask(Http(f"{server.url}/health", timeout_s=0.3))
    assert "did not end within 0.3 s" in answer.found
    assert time.monotonic() - began < 8


@pytest.mark.parametrize("begins", [b"", b"HTTP/1.1 200 OK\r\nX-Long: ", b"HTTP/1.1 500 No\r\nX-Long: "])
def test_headers_that_drip_are_given_up_in_time(begins: bytes) -> None:
    """Each byte comes within the timeout, and the end never."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            peer, _unused = listening.accept()
            with peer, contextlib.suppress(OSError):
                peer.recv(1000)
                peer.sendall(begins)
                while not stop.wait(0.05):
                    peer.sendall(b"H")

        thread = threading.Thread(target=drip)
        thread.start()
        began = time.monotonic()
        found = probes.ask(Http(f"http://127.0.0.1:{listening.getsockname()[1]}/health", timeout_s=0.5))
        stop.set()
        thread.join()
    assert (found.ok, found.found) == (False, "no answer: the answer did not end within 0.5 s")
    assert time.monotonic() - began < 8


def test_what_is_no_http_is_a_no() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            peer, _unused = listening.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        found = probes.ask(Http(f"http://127.0.0.1:{listening.getsockname()[1]}/health"))
        thread.join()
    assert not found.ok
    assert "BadStatusLine" in found.found


@pytest.mark.parametrize("url", ["http://127.0.0.1:port/", "no url", "http://[::1/health"])
def test_a_wrong_address_is_a_no(url: str) -> None:
    assert probes.ask(Http(url)).found.startswith("no answer: ")


def test_a_body_is_posted_as_json_and_the_answer_is_limited(server: Any, reply: Any) -> None:
    server.routes["/say"] = reply(b"x" * 200_000)
    assert probes.fetch(f"{server.url}/say", 3.0, {"text": "one"}, 150_000) == (200, b"x" * 150_000)
    assert server.asked == [("POST", "/say", b'{"text": "one"}')]


def test_a_proxy_of_the_environment_is_not_asked(
    server: Any, reply: Any, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port}")
    server.routes["/health"] = reply(b"fine")
    assert probes.ask(Http(f"{server.url}/health")).ok


def test_the_wanted_answer_in_words() -> None:
    assert probes.expected(Http("http://h/")) == "http://h/ answers 200"
    wanted = Http("http://h/", json={"model_loaded": True, "state": "idle"})
    assert probes.expected(wanted) == 'http://h/ answers 200 with model_loaded = true, state = "idle"'


@pytest.mark.parametrize(
    ("path", "value"), [("a.b", 1), ("l.1", "y"), ("l.2", None), ("l.x", None), ("a.b.c", None), ("n", None)]
)
def test_digging(path: str, value: Any) -> None:
    assert probes.dig({"a": {"b": 1}, "l": ["x", "y"]}, path) == value


# Processes


def test_a_process_is_found_by_its_argv(spawn: Callable[..., subprocess.Popen[bytes]], tmp_path: Path) -> None:
    # A name of its own: the machine that runs the tests may be one where somebody really calls.
    script = tmp_path / f"phone_call_{os.getpid()}.py"
    script.write_text(SLEEP)
    phone = spawn(sys.executable, str(script), "auto")
    spawn(sys.executable, str(script), "manual")
    found = probes.processes(f"{script.name} auto")
    assert [process.pid for process in found] == [phone.pid]
    assert probes.processes(f"{script} auto") == found


def test_a_shell_that_mentions_the_pattern_is_not_the_process(
    spawn: Callable[..., subprocess.Popen[bytes]],
) -> None:
    spawn("/bin/sh", "-c", "sleep 60; : phone_call_nobody.py auto")
    assert probes.processes("phone_call_nobody.py auto") == []


def test_the_asking_process_and_its_ancestors_never_match(tmp_path: Path) -> None:
    fake_process(tmp_path, 100, ["sh", "phone_call.py", "auto"], parent=0)
    fake_process(tmp_path, os.getpid(), ["phone_call.py", "auto"], parent=100)
    fake_process(tmp_path, 300, ["/opt/phone_call.py", "auto", "--x"])
    fake_process(tmp_path, 200, ["python3", "phone_call.py", "auto"])
    (tmp_path / "uptime").write_text("1 1")
    assert probes.ancestors(os.getpid(), tmp_path) == {os.getpid(), 100}
    assert probes.processes("phone_call.py auto", tmp_path) == [
        probes.ProcessId(200, 300),
        probes.ProcessId(300, 400),
    ]


def test_an_empty_pattern_matches_nothing() -> None:
    assert probes.processes("") == []
    assert probes.processes("  ") == []


def test_zombies_kernel_threads_and_the_gone_do_not_match(tmp_path: Path) -> None:
    fake_process(tmp_path, 10, ["phone_call.py", "auto"], state="Z")
    fake_process(tmp_path, 11, [""])
    fake_process(tmp_path, 12, ["phone_call.py", "auto"])
    (tmp_path / "12" / "stat").unlink()
    (tmp_path / "13").mkdir()
    assert probes.processes("phone_call.py auto", tmp_path) == []
    assert probes.command(13, tmp_path) == ""


def test_a_name_that_is_no_text_does_not_confuse(tmp_path: Path) -> None:
    fake_process(tmp_path, 10, ["x"], name=b"\xff) S (\xfe", start=77)
    assert probes.identify(10, tmp_path) == probes.ProcessId(10, 77)


def test_a_reused_number_is_another_process(tmp_path: Path) -> None:
    folder = fake_process(tmp_path, 10, ["x"], start=5)
    before = probes.identify(10, tmp_path)
    assert before
    assert probes.alive(before, tmp_path)
    (folder / "stat").write_text((folder / "stat").read_text().replace(" 5 ", " 6 "))
    assert not probes.alive(before, tmp_path)


def test_a_killed_process_is_not_alive(spawn: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = spawn("sleep", "60")
    known = probes.identify(process.pid)
    assert known
    assert probes.alive(known)
    process.kill()
    process.wait()
    assert not probes.alive(known)


# Ports


def test_a_listener_is_found_with_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        held = [item for item in probes.listeners() if item.port == port]
        assert [item.pid for item in held] == [os.getpid()]
        assert "python" in held[0].command
    assert not [item for item in probes.listeners() if item.port == port]


def test_a_descriptor_that_vanishes_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_net(tmp_path, {500: 11436})
    fake_process(tmp_path, 10, ["uvicorn"], inodes=(7, 8, 500))
    readlink: Callable[[Any], str] = os.readlink

    def flaky(path: Any) -> str:
        if Path(path).name == "1":
            raise FileNotFoundError(path)
        return readlink(path)

    monkeypatch.setattr(os, "readlink", flaky)
    assert [item.pid for item in probes.listeners(tmp_path)] == [10]


def test_an_ipv6_listener_is_found() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listening:
        assert listening.getsockname()[1] in [item.port for item in probes.listeners()]


def test_a_holder_that_may_not_be_seen_is_still_a_listener(tmp_path: Path) -> None:
    fake_net(tmp_path, {500: 11436, 501: 11437})
    fake_process(tmp_path, 10, ["uvicorn", "server:app"], inodes=(7, 500))
    (tmp_path / "10" / "fd" / "9").symlink_to("/dev/null")
    fake_process(tmp_path, 11, ["other"])
    (tmp_path / "11" / "fd").rmdir()
    assert probes.listeners(tmp_path) == [
        probes.Listener(11436, 10, "uvicorn server:app"),
        probes.Listener(11437, 0, ""),
    ]


def test_who_lives_in_a_unit_is_told_by_the_kernel(tmp_path: Path) -> None:
    """Version 1 of control groups has a line for each hierarchy; a zombie lives nowhere."""
    ticks = " ".join(["0"] * 18)
    for pid, state, group in (
        (1, "S", "1:name=systemd:/docker/ab/init.scope\n0::/\n"),
        (11, "S", "1:name=systemd:/docker/ab/system.slice/voice-0123.scope\n0::/\n"),
        (12, "Z", "0::/system.slice/mt-dead-0123.scope\n"),
        (13, "S", "0::/system.slice/ssh.service\n"),
    ):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (x) {state} {ticks} 77 0\n")
        (tmp_path / str(pid) / "cgroup").write_text(group)
    (tmp_path / "14").mkdir()
    (tmp_path / "self").mkdir()
    assert probes.inhabited("voice-0123.scope", tmp_path)
    assert not probes.inhabited("mt-dead-0123.scope", tmp_path)
    assert not probes.inhabited("mt-other-0123.scope", tmp_path)


def test_units_are_the_systems_and_no_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In his own manager everybody may call a unit what he likes; and a user may call a program systemd-run."""
    pattern, name = r"trial-stop\.voice\.[0-9a-f]{8}\.scope", "trial-stop.voice.0123abcd.scope"
    for pid, argv, group in (
        (11, ["/bin/sh"], f"0::/system.slice/{name}/below\n"),
        (12, ["/bin/sh"], f"0::/user.slice/user-1000.slice/user@1000.service/system.slice/{name}\n"),
        (13, ["/bin/sh"], f"0::/system.slice/x{name}\n"),
        # Still asking for its scope.
        (14, ["/usr/bin/systemd-run", "--scope", f"--unit={name}", "/bin/sh"], "0::/system.slice/mt-run.service\n"),
        (15, ["systemd-run", f"--unit={name}"], "0::/user.slice/user-1000.slice/session-1.scope\n"),
        # Root of a container with a systemd of its own does as he likes there, and so does his systemd-run.
        (16, ["/bin/sh"], f"0::/system.slice/docker-abc.scope/system.slice/{name}\n"),
        (17, ["/bin/sh"], f"1:name=systemd:/docker/abc/system.slice/{name}\n0::/\n"),
        (18, ["systemd-run", f"--unit={name}"], "0::/system.slice/docker-abc.scope/init.scope\n"),
    ):
        fake_process(tmp_path, pid, argv)
        (tmp_path / str(pid) / "status").write_text(f"NSpid:\t{pid}\t7\n" if pid == 18 else f"NSpid:\t{pid}\n")
        (tmp_path / str(pid) / "cgroup").write_text(group)
    monkeypatch.setattr(probes, "uid", lambda pid, _proc: 1000 if pid == 15 else 0)
    assert {unit: sorted(pids) for unit, pids in probes.members(pattern, tmp_path).items()} == {name: [11, 14]}
    assert probes.units(11, tmp_path) == ["system.slice", name, "below"]
    assert probes.units(12, tmp_path) == probes.units(99, tmp_path) == []
    # In that container its units are the system's.
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "cgroup").write_text("1:name=systemd:/docker/abc/init.scope\n0::/\n")
    assert 17 in probes.members(pattern, tmp_path)[name]


def test_whose_a_process_is() -> None:
    assert probes.uid(os.getpid()) == os.getuid()
    assert probes.uid(2**22 + 7) is None


@pytest.mark.parametrize(
    ("said", "count"),
    [(run.Ran(0, "3\n", ""), 3), (run.Ran(0, "0\n", ""), 0), (run.Ran(0, "\n", ""), 0), (run.Ran(1, "", "no"), 0)],
    ids=["three", "none", "an older systemd", "no systemd"],
)
def test_soft_reboots_are_systemds_to_tell(monkeypatch: pytest.MonkeyPatch, said: run.Ran, count: int) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(run, "command", lambda argv, _limit_s: asked.append(argv) or said)
    probes.soft_reboots.cache_clear()
    try:
        assert [probes.soft_reboots() for _unused in range(3)] == [count] * 3
    finally:
        probes.soft_reboots.cache_clear()
    # No process outlives one: it is asked once.
    assert asked == [["systemctl", "show", "--property", "SoftRebootsCount", "--value"]]


def test_a_host_without_systemd_had_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_args: object) -> run.Ran:
        raise FileNotFoundError("systemctl")

    monkeypatch.setattr(run, "command", absent)
    probes.soft_reboots.cache_clear()
    try:
        assert probes.soft_reboots() == 0
    finally:
        probes.soft_reboots.cache_clear()


def test_the_age_of_a_process_is_the_kernels() -> None:
    began = time.monotonic()
    with subprocess.Popen(["sleep", "600"]) as child:
        time.sleep(0.3)
        assert 0.0 < probes.age_s(child.pid) <= time.monotonic() - began + 0.5
        child.kill()
    assert probes.age_s(child.pid) == 0.0
    assert probes.age_s(1) > 1.0
