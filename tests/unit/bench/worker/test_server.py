"""The process around the worker: socket and its rights, signals, stdin/stdout, systemd, the packed program."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trialbench.cli import main
from trialbench.errors import ServerError, UsageError
from trialbench.verbs import oneshot
from trialbench.verbs import select as engine_choice
from trialbench.verbs import worker as program
from trialbench.worker import pack
from trialbench.worker.channel import Channel, StalledError
from trialbench.worker.clock import SystemClock
from trialbench.worker.server import Server, UnixListener, notify

STAND_IN = Path(__file__).resolve().parents[3] / "fixtures" / "engines" / "gemma"


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    weights = tmp_path / "tiny.sbs"
    weights.write_text('{"tokens": 6}', encoding="utf-8")
    path = tmp_path / "fazai.conf"
    path.write_text(
        f"[gemma_cpp]\nbinary = {STAND_IN}\nweights = {weights}\nweight_format = sfp\ndefault_model = stand-in\n"
        f"[gemma_worker]\nunix_socket = {tmp_path}/w.sock\nstop_grace = 2\n",
        encoding="utf-8",
    )
    return path


@contextlib.contextmanager
def start(*arguments: object, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "trialbench.verbs.worker", *map(str, arguments)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, **pipes, **options) as worker:
        try:
            yield worker
        finally:
            # A test that failed must not wait for a worker that nobody stops any more.
            worker.kill()


def connect(path: Path) -> socket.socket:
    until_s = time.monotonic() + 60
    while True:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            client.connect(str(path))
        except OSError:
            client.close()
            assert time.monotonic() < until_s, "nobody listens"
            time.sleep(0.01)
        else:
            client.settimeout(20)
            return client


def ask(client: socket.socket, message: Any) -> Any:
    client.sendall(json.dumps(message).encode() + b"\n")
    with client.makefile("rb") as stream:
        return json.loads(stream.readline())


def test_a_socket_for_its_owner_alone_until_sigterm(conf: Path, tmp_path: Path) -> None:
    path = tmp_path / "w.sock"
    with start("worker", "--config", conf, "--socket") as worker:
        with connect(path) as client:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            status = ask(client, {"type": "status"})
            assert (status["model_info"]["source"], status["model_info"]["bits"]) == ("gemma_local", 8)
            assert set(status["model_info"]["hashes"]) == {"binary", "weights"}
            done = ask(client, {"type": "generate", "id": 1, "prompt": "x", "stream": False})
            assert (done["type"], done["text"]) == ("done", "w0 w1 w2 w3 w4 w5"[: len(done["text"])])
            # Somebody in the middle of a long reply when the signal comes: canceled, told, gone.
            prompt = '#stand-in {"tokens": 100000, "rate_hz": 50}\nx'
            client.sendall(json.dumps({"type": "generate", "id": 2, "prompt": prompt}).encode() + b"\n")
            with client.makefile("rb") as stream:
                assert json.loads(stream.readline())["type"] == "token"
                worker.send_signal(signal.SIGTERM)
                worker.send_signal(signal.SIGTERM)
                last = json.loads(list(stream)[-1])
            assert (last["id"], last["finish_reason"]) == (2, "cancelled")
        assert worker.wait(60) == 0
        assert not path.exists()
        assert worker.stdout is not None
        assert worker.stdout.read() == b""
        assert worker.stderr is not None
        events = [json.loads(line)["event"] for line in worker.stderr]
    assert events[:2] == ["probe", "ready"]
    assert "stopping" in events
    assert events[-1] == "stopped"


def test_stdin_and_stdout_are_a_client_and_its_end_is_the_end(conf: Path) -> None:
    lines = b'{"type":"generate","id":1,"prompt":"x"}\n{"type":"nonsense"}\n{"type":"generate","id":2,"prompt":"y"}'
    with start("worker", "--config", conf) as worker:
        out, _ = worker.communicate(lines, timeout=30)
    assert worker.returncode == 0
    messages = [json.loads(line) for line in out.splitlines()]
    assert [one["id"] for one in messages if one.get("type") == "done"] == [1, 2]
    assert [one["error"] for one in messages if one.get("ok") is False] == ["unknown_type"]


@pytest.mark.parametrize("how", ["its reader is gone", "closed"])
def test_nobody_who_takes_the_log(conf: Path, how: str) -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    command = [sys.executable, "-m", "trialbench.verbs.worker", "worker", "--config", str(conf)]
    if how == "closed":
        command = ["/bin/sh", "-c", 'exec "$@" 2>&-', "x", *command]
    lines = b'{"type":"generate","id":1,"prompt":"x"}\n{"type":"generate","id":2,"prompt":"x"}\n'
    done = subprocess.run(command, input=lines, stdout=subprocess.PIPE, stderr=write_fd, timeout=60, check=True)
    os.close(write_fd)
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["id"] for one in replies if one["type"] == "done"] == [1, 2]
    assert {one["type"] for one in replies} == {"token", "done"}


def test_both_at_once(conf: Path, tmp_path: Path) -> None:
    with start("worker", "--config", conf, "--socket", tmp_path / "both.sock", "--stdio") as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(b'{"type":"status","id":"here"}\n')
        worker.stdin.close()
        assert json.loads(worker.stdout.readline())["id"] == "here"
        with connect(tmp_path / "both.sock") as client:
            # The end of input is one client's end, and no more.
            until_s = time.monotonic() + 60
            while ask(client, {"type": "status"})["clients"] != 1:
                assert time.monotonic() < until_s
        worker.send_signal(signal.SIGINT)
        assert worker.wait(60) == 0
        worker.stdin = None


def test_a_reader_of_stdout_that_is_gone_ends_the_request(conf: Path) -> None:
    with start("worker", "--config", conf) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        prompt = '#stand-in {"tokens": 100000, "rate_hz": 200}\nx'
        worker.stdin.write(json.dumps({"type": "generate", "id": 1, "prompt": prompt}).encode() + b"\n")
        worker.stdin.flush()
        worker.stdout.readline()
        worker.stdout.close()
        worker.stdin.close()
        worker.stdin = worker.stdout = None
        assert worker.wait(60) == 0
        assert worker.stderr is not None
        ends = [json.loads(line) for line in worker.stderr]
    # Either notices first: the slot, which can't hand over a token, or the reader of the lines.
    (end,) = [one["end"] for one in ends if one["event"] == "end"]
    assert end in ("caller_gone", "cancelled")


def test_systemd_is_told(conf: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
        with start("worker", "--config", conf, "--socket", env=environment) as worker:
            assert manager.recv(100) == b"READY=1"
            worker.terminate()
            assert manager.recv(100) == b"STOPPING=1"
            assert worker.wait(60) == 0


def test_a_signal_that_another_thread_takes_ends_the_worker() -> None:
    needed_help = threading.Event()
    ended = threading.Event()
    asked = threading.Event()
    server = Server(_NothingToServe(), log=lambda event, _fields: asked.set() if event == "ready" else None)  # type: ignore[arg-type]

    def ask() -> None:
        asked.wait(60)
        time.sleep(0.1)  # `poll` waits by then, and this thread, not the one that waits, gets the signal
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        if not ended.wait(5):
            needed_help.set()
            server.wake()

    thread = threading.Thread(target=ask)
    thread.start()
    server.run(grace_s=0)
    ended.set()
    thread.join()
    assert not needed_help.is_set()


class _NothingToServe:
    def stop(self, grace_s: float, hurry: object) -> None:
        pass


def test_notify_needs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "@nobody-listens-here")
    notify("READY=1")


@pytest.mark.prove
def test_status_of_a_running_worker(
    conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.sock"
    with start("worker", "--config", conf, "--socket") as worker:
        connect(path).close()
        assert main(["worker", "--status", "--socket", str(path)]) == 0
        assert json.loads(capsys.readouterr().out)["mode"] == "smart"
        # It listens where its configuration says.
        assert main(["worker", "--status", "--config", str(conf)]) == 0
        (tmp_path / "tiny.sbs").unlink()
        # What is known of its health is two seconds old at most.
        until_s = time.monotonic() + 60
        while main(["worker", "--status", "--socket", str(path)]) == 0:
            assert time.monotonic() < until_s
            time.sleep(0.2)
        assert '"class": "bad_weights"' in capsys.readouterr().out
        worker.terminate()
        assert worker.wait(60) == 0
    assert main(["worker", "--status", "--socket", str(path)]) == 2
    assert "expected a worker that listens" in capsys.readouterr().err
    monkeypatch.setenv("FAZAI_GEMMA_SOCKET", str(tmp_path / "liar.sock"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as liar:
        liar.bind(str(tmp_path / "liar.sock"))
        liar.listen()

        def lie() -> None:
            connection, _ = liar.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"[]\n")

        thread = threading.Thread(target=lie)
        thread.start()
        assert main(["worker", "--status"]) == ServerError.exit_code
        thread.join(30)


def test_wrong_starts(conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unmade = tmp_path / "unmade.sock"
    assert main(["worker", "--engine", "llama-server", "--socket", str(unmade)]) == 2
    assert "--url" in capsys.readouterr().err
    assert not unmade.exists()
    assert main(["worker", "--config", str(tmp_path / "none.conf")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert main(["worker", "--config", str(conf), "--socket", str(tmp_path / "no" / "w.sock")]) == 2
    assert "the folder" in capsys.readouterr().err
    assert main(["worker", "--config", str(conf), "--socket", "/" + "x" * 200]) == 2
    (tmp_path / "file").touch()
    assert main(["worker", "--config", str(conf), "--socket", str(tmp_path / "file")]) == 2
    assert "found something else" in capsys.readouterr().err
    assert (tmp_path / "file").exists()


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "w.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    listener = UnixListener(path)
    with pytest.raises(UsageError, match="another worker listens there"):
        UnixListener(path)
    # Another program's file in its place is not ours to remove.
    path.unlink()
    path.touch()
    listener.close()
    assert path.exists()
    path.unlink()
    listener.close()


def test_two_that_start_over_one_stale_socket(tmp_path: Path) -> None:
    for number in range(20):
        path = tmp_path / f"{number}.sock"
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        begin, made, refused = threading.Barrier(2), [], []

        def start_one(
            path: Path = path, begin: threading.Barrier = begin, made: Any = made, refused: Any = refused
        ) -> None:
            begin.wait(60)
            try:
                made.append(UnixListener(path))
            except UsageError as error:
                refused.append(str(error))

        threads = [threading.Thread(target=start_one) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(made) == len(refused) == 1
        assert "another worker listens there" in refused[0]
        with connect(path) as client:
            client.settimeout(1)
        made[0].close()
        assert not path.exists()


def test_accept_goes_on_when_descriptors_run_out(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = bench.worker(bench.dispatcher(bench.Engine(["ok"])))
    listener = UnixListener(tmp_path / "w.sock")
    told: list[str] = []
    server = Server(worker, listener=listener, log=lambda event, fields: told.append(event))
    accept, calls = listener.socket.accept, []

    class Stumbling:
        def __init__(self) -> None:
            self.fileno = listener.socket.fileno
            self.close = listener.socket.close

        def accept(self) -> Any:
            calls.append(1)
            if len(calls) == 1:
                raise OSError(24, "Too many open files")
            if len(calls) == 2:
                raise BlockingIOError
            return accept()

    listener.socket = Stumbling()  # type: ignore[assignment]
    answers: list[Any] = []

    def client() -> None:
        with connect(tmp_path / "w.sock") as one:
            answers.append(ask(one, {"type": "status"}))
        server.wake()
        server.wake()

    thread = threading.Thread(target=client)
    thread.start()
    server.run(0)
    thread.join(30)
    server.wake()
    assert answers[0]["ok"] is True
    assert told == ["ready", "accept_failed", "stopping", "stopped"]


def test_a_wake_while_the_server_ends_does_nothing(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread wakes it at the moment when one end of its pipe is closed and the other is not."""
    worker = bench.worker(bench.dispatcher(bench.Engine(["ok"])))
    server = Server(worker, listener=UnixListener(tmp_path / "w.sock"))
    close, reading, found, threads = os.close, server._wake_r, [], []

    def wake() -> None:
        try:
            server.wake()
        except OSError as error:
            found.append(error)

    def close_and_wake(descriptor: int) -> None:
        close(descriptor)
        if descriptor == reading and not threads:
            threads.append(threading.Thread(target=wake))
            threads[0].start()
            # Without the lock it would have written by then.
            threads[0].join(0.3)

    monkeypatch.setattr(os, "close", close_and_wake)
    server.wake()
    server.run(0)
    threads[0].join(30)
    assert found == []


def test_accept_goes_on_when_threads_run_out(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = bench.worker(bench.dispatcher(bench.Engine(["ok"])))
    told: list[str] = []
    server = Server(worker, listener=UnixListener(tmp_path / "w.sock"), log=lambda event, fields: told.append(event))
    begin, failed = threading.Thread.start, []

    def start_later(thread: threading.Thread) -> None:
        if thread.name == "client" and not failed:
            failed.append(thread)
            raise RuntimeError("can't start new thread")
        begin(thread)

    answers: list[Any] = []

    def client() -> None:
        with connect(tmp_path / "w.sock") as refused:
            answers.append(refused.recv(1))
        with connect(tmp_path / "w.sock") as one:
            answers.append(ask(one, {"type": "status"})["ok"])
        server.wake()

    thread = threading.Thread(target=client)
    monkeypatch.setattr(threading.Thread, "start", start_later)
    thread.start()
    server.run(0)
    thread.join(30)
    assert answers == [b"", True]
    assert told == ["ready", "accept_failed", "stopping", "stopped"]


def test_pipes_are_written_in_pieces_and_a_stalled_reader_is_left() -> None:
    read_fd, write_fd = os.pipe()
    channel = Channel(read_fd, write_fd, max_line_bytes=100, send_timeout_s=0.1)
    with pytest.raises(StalledError):
        channel.send(b"x" * (1 << 20))
    with pytest.raises(StalledError):
        channel.send(b"x")
    assert not channel.hung_up(0)
    os.close(read_fd)
    assert channel.hung_up(0)
    os.close(write_fd)


def test_an_input_that_does_not_block_ends_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    waits = []

    def ready(descriptor: int, _events: int, wait_s: float) -> bool:
        waits.append((descriptor, wait_s))
        os.write(write_fd, b"late\n")
        os.close(write_fd)
        return True

    monkeypatch.setattr("trialbench.worker.channel._ready", ready)
    channel = Channel(read_fd, -1, max_line_bytes=100, send_timeout_s=0.1)
    assert list(channel.lines()) == [b"late"]
    assert len(waits) == 1
    os.close(read_fd)


def test_a_closed_input_is_an_end() -> None:
    channel = Channel(-1, -1, max_line_bytes=100, send_timeout_s=0.1)
    assert list(channel.lines()) == []


def test_the_system_clock() -> None:
    clock, event = SystemClock(), threading.Event()
    assert clock.wait(event, -1) is False
    event.set()
    assert clock.wait(event, 60) is True
    assert clock.now_s() <= time.monotonic()


def test_config_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "f.conf"
    path.write_text("[gemma_cpp]\nmax_token = 3\n", encoding="utf-8")
    assert main(["config", "check", str(path)]) == 0
    said = capsys.readouterr().out
    assert f"warning: {path}:2: the key max_token is not read in [gemma_cpp]; did you mean max_tokens?" in said
    assert "good; model gemma2-2b-it, mode smart, fallback off" in said
    assert main(["config", "check", "--strict", str(path)]) == 2
    path.write_text("[dispatcher]\nmode = x\n", encoding="utf-8")
    capsys.readouterr()
    assert main(["config", "check", str(path)]) == 2
    captured = capsys.readouterr()
    assert f"error: {path}:2: mode: expected one of" in captured.out
    assert "1 errors, 0 warnings" in captured.err


@pytest.mark.prove
def test_the_packed_program_runs_without_anything_installed(conf: Path, tmp_path: Path) -> None:
    dest = tmp_path / "build" / "trialbench-worker"
    assert pack.write(dest) is True
    assert pack.write(dest) is False, "the same sources give the same bytes"
    assert os.access(dest, os.X_OK)
    with zipfile.ZipFile(dest) as archive:
        names = archive.namelist()
    assert {"trialbench/worker/service.py", "trialbench/engines/gemma_cpp.py", "httpx/__init__.py"} <= set(names)
    assert not [name for name in names if name.startswith(("trialbench/measure", "trialbench/report"))]
    # Isolated, and without site-packages: what it needs is inside.
    command = [sys.executable, "-IS", str(dest)]
    done = subprocess.run(
        [*command, "worker", "--config", str(conf)],
        input=b'{"type":"generate","id":1,"prompt":"x","stream":false}\n',
        capture_output=True,
        timeout=30,
        check=True,
    )
    assert json.loads(done.stdout)["finish_reason"] == "stop"
    shot = [*command, "oneshot", "--engine", "gemma-cpp", "--config", str(conf), "--timeout", "20", "hello"]
    done = subprocess.run(shot, capture_output=True, timeout=30, check=True)
    assert done.stdout.startswith(b"w0 w1")
    refused = [*command, "proof", "cancel", "--engine", "llama-server", "--url", "http://127.0.0.1:9", "-n", "1"]
    done = subprocess.run(refused, capture_output=True, timeout=60, check=False)
    assert done.returncode == 4, "httpx works from within: the connection was refused, nothing was proved"
    assert b"refused" in done.stderr
    # It offers no verb whose parts stayed at home.
    assert b"engines" not in subprocess.run([*command, "--help"], capture_output=True, timeout=30, check=True).stdout


@pytest.mark.prove
def test_the_command_gemma_oneshot(
    conf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_choice, "DEFAULT_CONFIG", tmp_path / "none.conf")
    assert oneshot.main(["hello"]) == 2
    assert "gemma_oneshot: --engine gemma-cpp: expected --binary FILE" in capfd.readouterr().err
    # Where the host has a fazai.conf, a prompt is all that it needs.
    monkeypatch.setattr(engine_choice, "DEFAULT_CONFIG", conf)
    assert oneshot.main(["--timeout", "20", "--max-tokens", "3", "hello"]) == 0
    assert capfd.readouterr().out.startswith("w0 w1")
    assert main(["oneshot", "--engine", "gemma-cpp", "--timeout", "20", "--max-tokens", "3", "hello"]) == 0
    assert capfd.readouterr().out.startswith("w0 w1")
    stalled = '#stand-in {"stall_after": 0}\nhello'
    assert oneshot.main(["--timeout", "0.5", stalled]) == 4
    assert "timeout (504): not complete within 0.5 s" in capfd.readouterr().err
    # Without --timeout it is the file's.
    conf.write_text(conf.read_text().replace("[gemma_worker]", "generation_timeout = 0.4\n[gemma_worker]"))
    assert oneshot.main([stalled]) == 4
    assert "not complete within 0.4 s" in capfd.readouterr().err
    assert oneshot.main(["--prompt-file", str(tmp_path / "none")]) == 2
    assert "No such file" in capfd.readouterr().err


def test_pack_as_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert pack.main([]) == 2
    assert pack.main([str(tmp_path / "w")]) == 0
    assert pack.main([str(tmp_path / "w")]) == 0
    assert capsys.readouterr().out == "changed\nunchanged\n"
    monkeypatch.setattr(pack, "_NEEDED", ("no_such_package_here",))
    assert pack.main([str(tmp_path / "x")]) == 2
    assert "needs no_such_package_here" in capsys.readouterr().err
    folder = tmp_path / "compiled_thing"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "fast.so").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(pack, "_NEEDED", ("compiled_thing",))
    assert pack.main([str(tmp_path / "x")]) == 2
    assert "compiled for this machine" in capsys.readouterr().err


def test_the_program_s_own_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["config", "check", str(tmp_path)]) == 2
    assert "trialbench-worker: " in capsys.readouterr().err
    shot = ["oneshot", "--engine", "gemma-cpp", "--binary", "/b", "--weights", "/w", "--prompt-file", "/no/such"]
    assert program.main(shot) == 2
    assert "trialbench-worker: /no/such: No such file" in capsys.readouterr().err


def test_the_bench_image_goes_without(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in [name for name in sys.modules if name.startswith("trialbench.worker")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert " run " in shown
    assert " worker " not in shown
    build = (Path(__file__).resolve().parents[4] / "images" / "bench" / "build.py").read_text(encoding="utf-8")
    assert 'NOT_SHIPPED = ("worker", "ground_truth")' in build
