"""The supervisor against real processes: what ends them, what is left, and what is said about it."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from trialbench.engines import proc
from trialbench.engines import supervisor as supervisor_room
from trialbench.engines.cgroup import Cgroup
from trialbench.engines.contract import Deadlines
from trialbench.engines.memory import MemoryWatch
from trialbench.engines.supervisor import Bounds, Command, Ending, SpawnError, Supervised, Supervisor

Run = Callable[..., Supervised]


def ended(one: Supervised) -> tuple[str, Ending]:
    text = "".join(text for text, _ in one.chunks())
    assert one.ending is not None
    return text, one.ending


def alive(pid: int) -> bool:
    found = proc.look(pid)
    return found is not None and not found.dead


def awaited(condition: Callable[[], bool]) -> bool:
    until_s = time.monotonic() + 30
    while not condition():
        if time.monotonic() > until_s:
            return False
        time.sleep(0.005)
    return True


def test_what_a_process_prints_and_how_it_ends(run: Run) -> None:
    text, ending = ended(run("printf hello; printf words >&2; exit 3"))
    assert text == "hello"
    assert (ending.why, ending.status, ending.errors) == ("exited", 3, "words")
    assert ending.clean
    assert ending.quiet_ms is None
    assert ending.leftovers == 0


def test_a_character_cut_anywhere_arrives_whole(run: Run) -> None:
    pieces = " ".join(f"printf '\\{one:03o}'; sleep 0.01;" for one in "ñ漢🙂".encode())
    one = run(pieces)
    # A busy machine may hand over several characters at once; none comes in parts.
    assert "".join(text for text, _ in one.chunks()) == "ñ漢🙂"


def test_a_cut_character_at_the_end_becomes_a_replacement(run: Run) -> None:
    assert ended(run("printf 'a\\303'"))[0] == "a\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("deadlines", "why"),
    [({"first_s": 0.1}, "first"), ({"between_s": 0.1, "first_s": 30}, "between"), ({"total_s": 0.3}, "total")],
)
def test_each_deadline_ends_it(run: Run, deadlines: dict[str, float], why: str) -> None:
    one = run("sleep 60" if why == "first" else "printf a; sleep 60", **deadlines)
    _, ending = ended(one)
    assert ending.why == why
    assert ending.status == -signal.SIGTERM
    assert ending.quiet_ms is not None
    assert not ending.escalated
    assert not alive(one.pid)


def test_the_total_counts_while_tokens_flow(run: Run) -> None:
    assert ended(run("while :; do printf a; sleep 0.02; done", total_s=0.3, between_s=5))[1].why == "total"


@pytest.mark.prove
def test_a_slow_reader_is_not_the_process_s_fault(run: Run, tmp_path: Path) -> None:
    read = tmp_path / "read"
    one = run(f"printf a; until [ -e {read} ]; do sleep 0.01; done; printf b", between_s=1.0)
    chunks = one.chunks()
    assert next(chunks)[0] == "a"
    read.touch()
    assert awaited(lambda: not alive(one.pid))
    time.sleep(1.1)
    assert [text for text, _ in chunks] == ["b"]
    assert one.ending is not None
    assert one.ending.why == "exited"


def test_cancel_from_another_thread(run: Run) -> None:
    one = run("printf a; sleep 60")
    chunks = one.chunks()
    next(chunks)
    threading.Timer(0.05, one.cancel).start()
    assert list(chunks) == []
    assert one.ending is not None
    assert (one.ending.why, one.ending.status) == ("cancelled", -signal.SIGTERM)
    one.cancel()
    one.kill()
    one.close()


@pytest.mark.parametrize("deadlines", [{}, {"between_s": 0.1}])
def test_who_is_stopped_is_woken_to_hear_sigterm(run: Run, deadlines: dict[str, float]) -> None:
    one = run("trap 'exit 7' TERM; printf a; while :; do sleep 0.01; done", **deadlines)
    next(one.chunks())
    os.killpg(one.pid, signal.SIGSTOP)
    if not deadlines:
        one.cancel()
    _, ending = ended(one)
    assert ending.why == ("between" if deadlines else "cancelled")
    assert (ending.status, ending.escalated) == (7, False)


@pytest.mark.usefixtures("impatient")
def test_who_ignores_sigterm_is_killed(run: Run) -> None:
    one = run("trap '' TERM; printf a; while :; do sleep 60; done")
    next(one.chunks())
    one.cancel()
    _, ending = ended(one)
    assert ending.status == -signal.SIGKILL
    assert ending.escalated
    assert ending.clean


def test_leaving_the_loop_early_cancels(run: Run) -> None:
    one = run("printf a; sleep 60")
    for _ in one.chunks():
        break
    one.chunks().close()
    assert one.ending is not None
    assert one.ending.why == "cancelled"
    assert not alive(one.pid)


@pytest.mark.usefixtures("impatient")
def test_who_fills_the_pipe_and_ignores_sigterm_does_not_hang(run: Run) -> None:
    one = run("trap '' TERM; while :; do printf '%01000d' 1; printf '%01000d' 2 >&2; done")
    next(one.chunks())
    one.cancel()
    _, ending = ended(one)
    assert ending.why == "cancelled"
    assert len(ending.errors) <= 1 << 16


def test_a_child_that_left_group_and_session_is_found(run: Run, tmp_path: Path) -> None:
    pids = tmp_path / "pid"
    one = run(f"setsid sh -c 'trap \"\" TERM HUP; echo $$ > {pids}; exec sleep 60' & while ! [ -s {pids} ]; do :; done")
    _, ending = ended(one)
    child = int(pids.read_text())
    assert (ending.why, ending.status) == ("exited", 0)
    assert ending.leftovers == 1
    assert ending.clean
    assert not alive(child)


def test_a_child_that_took_off_everything_is_found(run: Run, tmp_path: Path) -> None:
    """Another session, another parent, an empty environment, no descriptor of ours."""
    pids = tmp_path / "pid"
    script = f"trap '' TERM HUP; echo \\$\\$ > {pids}; exec sleep 60 >/dev/null 2>&1 </dev/null"
    one = run(f'(env -i setsid /bin/sh -c "{script}" &) & while ! [ -s {pids} ]; do :; done')
    _, ending = ended(one)
    child = int(pids.read_text())
    assert (ending.why, ending.status) == ("exited", 0)
    assert not alive(child)
    assert ending.clean


def test_no_child_is_quicker_than_the_brand(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine under load our own turn may come late; a dead child shows its brand in its limits alone."""
    pids, put_brand = tmp_path / "pid", proc.put_brand

    def late(pid: int, brand: str) -> None:
        time.sleep(0.2)
        assert not pids.exists()
        put_brand(pid, brand)

    monkeypatch.setattr(proc, "put_brand", late)
    # The first child ends at once and stays a zombie, since its parent does not wait for it; the second is adopted.
    one = run(f"setsid sh -c 'sleep 60 & echo $$ $! > {pids}' & exec sleep 60")
    assert awaited(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    one.cancel()
    _, ending = ended(one)
    assert ending.clean
    assert [pid for pid in map(int, pids.read_text().split()) if proc.look(pid) is not None] == []


def test_whoever_was_killed_is_reaped_without_limits_too(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proc, "put_brand", lambda *_: None)
    pid = tmp_path / "pid"
    one = run(f"setsid sh -c 'setsid sleep 60 & echo $! > {pid}; wait' & exec sleep 60")
    assert awaited(lambda: pid.exists() and pid.read_text().endswith("\n"))
    one.cancel()
    assert ended(one)[1].clean
    assert proc.look(int(pid.read_text())) is None


def test_without_our_word_there_is_no_program(tmp_path: Path) -> None:
    """We died between starting the shell and putting the brand on it."""
    script = ["/bin/sh", "-c", supervisor_room._STARTER, "/bin/touch", str(tmp_path / "file")]
    assert subprocess.run(script, input=b"").returncode != 0
    assert not (tmp_path / "file").exists()
    assert subprocess.run(script, input=b"\n").returncode == 0
    assert (tmp_path / "file").exists()


def test_who_can_not_die_yet_is_reaped_later(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in uninterruptible sleep: no signal reaches it within the limit, so it is not said to be gone."""
    monkeypatch.setattr(proc, "SWEEP_LIMIT_S", 0.05)
    monkeypatch.setattr(supervisor_room.Supervised, "_await_exit", lambda *_: False)
    monkeypatch.setattr(proc, "signal_group", lambda *_: None)
    one = run("exec sleep 60")
    one.cancel()
    _, ending = ended(one)
    assert not ending.clean
    os.kill(one.pid, signal.SIGKILL)
    assert one._process.wait(60) == -signal.SIGKILL
    assert proc.look(one.pid) is None, "said to have been reaped, it would stay a zombie"


def test_a_crash_leaves_no_core_file(run: Run) -> None:
    assert ended(run("ulimit -c"))[0] == "0\n"


def test_a_child_that_holds_the_pipe_does_not_keep_it_open(run: Run) -> None:
    text, ending = ended(run("sleep 60 & printf done"))
    assert text == "done"
    assert ending.leftovers == 1


def test_a_process_that_closes_its_output_and_stays(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trialbench.engines.supervisor._LINGER_S", 0.05)
    text, ending = ended(run("printf a; exec >&-; exec 2>&-; sleep 60"))
    assert text == "a"
    assert ending.why == "lingering"


def test_too_much_output_ends_it(supervisor: Supervisor, run: Run) -> None:
    supervisor.bounds = Bounds(output_bytes=1000)
    assert ended(run("while :; do printf '%0100d' 1; done"))[1].why == "output_limit"


@pytest.mark.parametrize("own_mib", [1.0, 100_000.0], ids=["smaller than it", "larger than it"])
def test_too_much_memory_ends_it(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, own_mib: float) -> None:
    """Its peak is known, however much memory this process has had: until then it has not written anything."""
    monkeypatch.setattr("trialbench.engines.supervisor.own_peak_mib", lambda: own_mib)
    code = "held = []\nwhile True: held.append(b'x' * (8 << 20))"
    one = supervisor.spawn(Command([sys.executable, "-c", code], {}), Deadlines())
    _, ending = ended(one)
    assert ending.why == "memory_limit"
    assert ending.status == -signal.SIGKILL
    assert ending.peak_mib is not None
    assert ending.peak_mib > 200


def test_peak_memory_is_the_child_s_own(supervisor: Supervisor) -> None:
    code = "import time; held = bytearray(b'x' * (64 << 20)); print(len(held), flush=True); time.sleep(0.2)"
    _, ending = ended(supervisor.spawn(Command([sys.executable, "-c", code], {}), Deadlines()))
    assert ending.peak_mib is not None
    assert 64 < ending.peak_mib < 256


def test_what_was_seen_of_its_start_is_not_its_memory(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gone before anybody looked again: nothing is known of it, and nothing is said."""
    looks: list[int] = []

    def look(watch: MemoryWatch) -> float:
        looks.append(0)
        if len(looks) == 1:
            watch.peak_mib = 0.199
        return 0.0

    monkeypatch.setattr(MemoryWatch, "look", look)
    monkeypatch.setattr(supervisor_room, "own_peak_mib", lambda: 1e9)
    assert ended(run("echo x"))[1].peak_mib is None
    assert len(looks) > 1


def test_the_scratch_folder_goes_with_it(run: Run, tmp_path: Path) -> None:
    scratch = tmp_path / "own"
    scratch.mkdir()
    (scratch / "prompt").write_text("secret")
    _, ending = ended(run("exit 0", scratch=scratch))
    assert ending.clean
    assert not scratch.exists()


def test_a_program_that_is_not_there(supervisor: Supervisor, tmp_path: Path, descriptors: Callable[[], int]) -> None:
    scratch = tmp_path / "own"
    scratch.mkdir()
    before = descriptors()
    with pytest.raises(SpawnError, match="/nowhere/gemma: No such file"):
        supervisor.spawn(Command(["/nowhere/gemma"], scratch=scratch), Deadlines())
    assert descriptors() == before
    assert not scratch.exists()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_text("touch it"), "Permission denied"),
        (lambda path: (path.write_text("touch it"), path.chmod(0o755)), "Exec format error"),
        (lambda path: path.mkdir(), "Permission denied"),
        (lambda path: path.symlink_to("nowhere"), "No such file"),
    ],
    ids=["not executable", "text", "folder", "dangling link"],
)
def test_what_the_kernel_does_not_execute(
    supervisor: Supervisor, tmp_path: Path, make: Callable[[Path], object], words: str
) -> None:
    """The shell at the gate would take a text for a script of its own."""
    program = tmp_path / "program"
    make(program)
    with pytest.raises(SpawnError, match=f"{program}: {words}"):
        supervisor.spawn(Command([str(program)]), Deadlines())


@pytest.mark.parametrize("what", ["os.pidfd_open", "threading.Timer.start"])
def test_what_cannot_be_watched_does_not_stay(
    run: Run, supervisor: Supervisor, descriptors: Callable[[], int], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Out of descriptors, or of threads."""
    before = descriptors()
    pids: list[int] = []
    monkeypatch.setattr(supervisor, "register", pids.append)
    with monkeypatch.context() as patch:
        error = OSError(24, "Too many open files") if "pidfd" in what else RuntimeError("can't start new thread")
        patch.setattr(what, lambda *_: (_ for _ in ()).throw(error))
        with pytest.raises(SpawnError, match=r"/bin/sh: (Too many open files|can't start new thread)"):
            run("sleep 60")
    assert len(pids) == 1
    assert not alive(pids[0])
    assert descriptors() == before
    assert supervisor.running == 0


def test_no_descriptor_leaks(run: Run, descriptors: Callable[[], int]) -> None:
    ended(run("exit 0"))
    before = descriptors()
    for script in ("exit 0", "printf a; sleep 60", "sleep 60 &"):
        one = run(script, total_s=0.2)
        ended(one)
    gc.collect()
    assert descriptors() == before


@pytest.mark.usefixtures("impatient")
def test_a_reader_who_never_reads_cannot_keep_it_alive(run: Run) -> None:
    one = run("sleep 60", total_s=0.05)
    assert awaited(lambda: one.ending is not None)
    assert one.ending is not None
    assert one.ending.why == "total"
    assert list(one.chunks()) == []


@pytest.mark.prove
@pytest.mark.usefixtures("impatient")
def test_a_reader_who_stopped_reading_cannot_keep_it_alive(run: Run) -> None:
    one = run("trap '' TERM; printf a; while :; do sleep 60; done", total_s=2.0)
    next(one.chunks())
    assert awaited(lambda: one.ending is not None)
    assert one.ending is not None
    assert one.ending.why == "total"
    assert not alive(one.pid)


@pytest.mark.usefixtures("impatient")
def test_a_cancel_that_nobody_reads_ends_the_process(run: Run) -> None:
    one = run("trap '' TERM; echo ready; while :; do sleep 60; done")
    next(one.chunks())
    one.cancel()
    assert awaited(lambda: not alive(one.pid))
    one.close()
    assert one.ending is not None
    assert one.ending.why == "cancelled"


def test_closing_the_supervisor_ends_everything(run: Run, supervisor: Supervisor) -> None:
    first, second = run("sleep 60"), run("trap '' TERM; printf a; while :; do sleep 60; done")
    reader = threading.Thread(target=lambda: list(second.chunks()))
    reader.start()
    supervisor.close()
    reader.join(30)
    assert not alive(first.pid)
    assert not alive(second.pid)
    assert supervisor.running == 0


def test_everything_dies_with_the_supervisor_s_own_process(tmp_path: Path) -> None:
    """SIGKILL: no handler, no finally, no atexit."""
    # Two of its children have left the group, one of them with nothing that it was given.
    script = textwrap.dedent(
        f"""
        trap '' TERM HUP
        leave='echo $$ > {tmp_path}/new && mv {tmp_path}/new "$0" && exec sleep 60'
        env -i setsid /bin/sh -c "$leave" {tmp_path}/bare &
        while ! [ -e {tmp_path}/bare ]; do sleep 0.01; done
        setsid /bin/sh -c "$leave" {tmp_path}/branded &
        echo $$
        sleep 60 & wait
        """
    )
    program = textwrap.dedent(
        f"""
        import sys
        from trialbench.engines.contract import Deadlines
        from trialbench.engines.supervisor import Command, Supervisor
        from pathlib import Path
        supervisor = Supervisor(home=False)
        for name in ("spent scratch", "scratch of it"):
            scratch = Path({str(tmp_path)!r}, name)
            scratch.mkdir()
            (scratch / "prompt").write_text("secret")
            if name.startswith("spent"):
                supervisor.spawn(Command(["/bin/true"], {{}}, scratch=scratch), Deadlines()).close()
        one = supervisor.spawn(Command(["/bin/sh", "-c", {script!r}], {{}}, scratch=scratch), Deadlines())
        Path({str(tmp_path)!r}, "spent scratch").mkdir()  # another process has it by now
        print(next(one.chunks())[0], flush=True)
        sys.stdin.read()
        """
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    pid = int(parent.stdout.readline())
    assert awaited(lambda: all((tmp_path / name).is_file() for name in ("bare", "branded")))
    left = [int((tmp_path / name).read_text()) for name in ("bare", "branded")]
    assert all(alive(one) for one in (pid, *left))
    parent.kill()
    parent.wait()
    assert awaited(lambda: not any(alive(one) for one in (pid, *left)))
    assert awaited(lambda: not (tmp_path / "scratch of it").exists())
    assert (tmp_path / "spent scratch").exists()
    parent.stdout.close()
    parent.stdin.close()


def test_the_lifeline_may_be_gone(run: Run, supervisor: Supervisor) -> None:
    assert supervisor._lifeline is not None
    os.kill(supervisor._lifeline.pid, signal.SIGKILL)
    assert awaited(lambda: not alive(supervisor._lifeline.pid if supervisor._lifeline else 0))
    text, ending = ended(run("printf fine"))
    assert (text, ending.clean) == ("fine", True)


class _PaperCgroup(Cgroup):
    """A folder in place of the kernel's: files are kept by hand, and gone when the folder is to go."""

    def __init__(self, path: Path, *, kernel_kills: bool = True) -> None:
        super().__init__(path)
        self.kernel_kills = kernel_kills
        (path / "cgroup.procs").write_text("")
        (path / "memory.peak").write_text(f"{100 << 20}\n")
        (path / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")

    def kill(self) -> bool:
        return self.kernel_kills

    def remove(self) -> bool:
        for file in self.path.iterdir():
            file.unlink()
        return super().remove()


class _Home:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.broken = False
        self.made: list[_PaperCgroup] = []

    def make(self, name: str, *, memory_max_mib: float | None = None) -> Cgroup:
        if self.broken:
            raise OSError("no room")
        self.made.append(_PaperCgroup(self.path / name, kernel_kills=len(self.made) != 1))
        return self.made[-1]


def test_in_a_cgroup(tmp_path: Path) -> None:
    home = _Home(tmp_path)
    supervisor = Supervisor(Bounds(grace_s=0.2), home=home, mortal=False)  # type: ignore[arg-type] # a paper one
    one = supervisor.spawn(Command(["/bin/sh", "-c", "echo $$"], {}), Deadlines())
    text, ending = ended(one)
    assert int(text) == one.pid
    assert (ending.peak_mib, ending.oom_killed, ending.clean) == (100.0, True, True)
    assert not home.made[0].path.exists()
    # A kernel without cgroup.kill: each process that the cgroup names is killed.
    other = subprocess.Popen(["/bin/sleep", "60"])
    one = supervisor.spawn(Command(["/bin/sh", "-c", "exit 0"], {}), Deadlines())
    assert awaited(lambda: home.made[1].procs.read_text() != "")
    home.made[1].procs.write_text(f"{one.pid}\n{other.pid}\n")
    _, ending = ended(one)
    assert ending.leftovers == 1
    assert other.wait() == -signal.SIGKILL
    # No cgroup to be had: it runs without.
    home.broken = True
    assert ended(supervisor.spawn(Command(["/bin/sh", "-c", "echo fine"], {}), Deadlines()))[0] == "fine\n"
    supervisor.close()


def test_a_failed_start_in_a_cgroup_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = _Home(tmp_path)
    supervisor = Supervisor(home=home, mortal=False)  # type: ignore[arg-type] # a paper one
    with pytest.raises(SpawnError):
        supervisor.spawn(Command(["/bin/sh"], {}, cwd="/nowhere"), Deadlines())
    assert not home.made[0].path.exists()
