# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal and the marks: complete after a power cut, refused to holders of an old epoch."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import journal
from ansible_collections.edgelab.model_trial.plugins.module_utils.journal import Held, Journal, Mark, State
from ansible_collections.edgelab.model_trial.plugins.module_utils.probes import ProcessId

MARK = Mark("run-1", 3, "boot", "2026-05-01T12:00:00.000Z", "ann")


class PowerCut(BaseException):
    """Nothing after this happens."""


@pytest.fixture
def state(tmp_path: Path) -> State:
    """An empty state folder."""
    root = tmp_path / "state"
    (root / "runs" / "run-1").mkdir(parents=True)
    return State(root)


def opened(state: State) -> State:
    """The state of a host that a run holds."""
    while state.epoch() < MARK.epoch:
        state.raise_epoch()
    state.open(MARK)
    return state


# Time and place.


def test_wall_time_is_utc_with_milliseconds() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", journal.wall())


def test_the_lease_clock_counts_suspend(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(time, "clock_gettime", lambda clock: asked.append(clock) or 12.5)
    assert journal.awake_s() == 12.5
    assert asked == [time.CLOCK_BOOTTIME]


def test_a_boot_has_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The kernel's name, and the start of process 1: a container that reboots keeps its kernel."""
    (tmp_path / "boot_id").write_text("b00t\n")
    monkeypatch.setattr(journal, "_BOOT_ID", tmp_path / "boot_id")
    names = set()
    for process in (ProcessId(1, 25), ProcessId(1, 26), None):
        monkeypatch.setattr(journal, "identify", lambda _pid, process=process: process)
        names.add(journal.boot_id())
        assert journal.boot_id() == journal.boot_id()
    assert len(names) == 3
    assert all(name.startswith("b00t") for name in names)
    known = journal.boot_id()
    for count in (1, 2):
        # A soft reboot keeps both.
        monkeypatch.setattr(journal, "soft_reboots", lambda count=count: count)
        names.add(journal.boot_id())
    assert len(names) == 5
    assert journal.boot_id() == f"{known}.2"


@pytest.mark.parametrize(
    ("boot", "wall", "expected"),
    [
        ("a", "2026-05-01T09:00:00.000Z", 2.5),
        ("b", "2026-05-01T12:01:00.500Z", 60.5),
        ("b", "1970-01-01T00:00:09.000Z", 0.0),
    ],
    ids=["steady clock", "wall clock after a boot", "wall clock not set yet"],
)
def test_time_between_two_entries(boot: str, wall: str, expected: float) -> None:
    earlier = {"boot_id": "a", "t_s": 100.0, "wall": "2026-05-01T12:00:00.000Z"}
    assert journal.seconds(earlier, {"boot_id": boot, "t_s": 102.5, "wall": wall}) == expected


# Atomic writes.


def test_a_written_file_is_whole_private_and_alone(tmp_path: Path) -> None:
    path = tmp_path / "mark"
    journal.write_atomic(path, "old")
    journal.write_atomic(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["mark"]


def test_the_mode_is_exact_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        journal.write_atomic(tmp_path / "sign", "x", 0o644)
    finally:
        os.umask(before)
    assert (tmp_path / "sign").stat().st_mode & 0o777 == 0o644


def test_file_before_name_before_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    replace = Path.replace

    def sync(fd: int) -> None:
        steps.append("sync folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "sync file")

    def rename(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", rename)
    journal.write_atomic(tmp_path / "mark", "text")
    assert steps == ["sync file", "rename", "sync folder"]


@pytest.mark.parametrize("where", ["open", "write", "sync", "rename"])
@pytest.mark.parametrize("crash", [PowerCut(), OSError(errno.ENOSPC, "No space left on device")], ids=["cut", "full"])
def test_a_crash_leaves_the_old_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, crash: BaseException
) -> None:
    path = tmp_path / "mark"
    journal.write_atomic(path, "old")

    def fail(*_args: Any, **_options: Any) -> Any:
        raise crash

    places: dict[str, tuple[Any, str]] = {
        "open": (os, "open"),
        "write": (os, "fchmod"),
        "sync": (os, "fsync"),
        "rename": (Path, "replace"),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*places[where], fail)
        with pytest.raises(type(crash)):
            journal.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["mark"]


def test_a_crash_after_the_rename_leaves_the_new_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mark"
    journal.write_atomic(path, "old")

    def fail(_folder: Path) -> None:
        raise PowerCut

    monkeypatch.setattr(journal, "_sync_folder", fail)
    with pytest.raises(PowerCut):
        journal.write_atomic(path, "new")
    assert path.read_text() == "new"


def test_what_a_dead_writer_left_disturbs_nobody(tmp_path: Path) -> None:
    (tmp_path / f".mark.{os.getpid()}").write_text("half of an earlier text that is longer")
    journal.write_atomic(tmp_path / "mark", "new")
    assert (tmp_path / "mark").read_text() == "new"


@pytest.mark.parametrize("text", ["", "{", '{"a": 1', "\udcff"])
def test_torn_json_reads_as_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert journal.read_json(tmp_path / "file") is None


def test_absent_json_reads_as_nothing(tmp_path: Path) -> None:
    assert journal.read_json(tmp_path / "nowhere") is None


# The journal.


def test_an_entry_says_who_when_and_what(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path, "run-1", 3, "runner", required=True).write("tenant_stopped", tenant="voice", duration_s=0.4)
    (entry,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert set(entry) == {"seq", "wall", "t_s", "boot_id", "run", "epoch", "by", "event", "tenant", "duration_s"}
    assert (entry["seq"], entry["run"], entry["epoch"], entry["by"]) == (1, "run-1", 3, "runner")
    assert (entry["event"], entry["tenant"], entry["duration_s"]) == ("tenant_stopped", "voice", 0.4)
    assert entry["boot_id"] == journal.boot_id()
    assert abs(entry["t_s"] - time.monotonic()) < 60
    assert path.stat().st_mode & 0o777 == 0o600


def test_writers_take_turns_and_numbers_go_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    runner, restorer = (Journal(path, "r", i, by, required=True) for i, by in ((1, "runner"), (2, "restorer")))
    for writer in (runner, restorer, runner):
        writer.write("said")
    assert [(e["seq"], e["by"], e["epoch"]) for e in journal.read(path)] == [
        (1, "runner", 1),
        (2, "restorer", 2),
        (3, "runner", 1),
    ]


def test_an_entry_is_on_disk_when_write_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "journal.jsonl", []
    monkeypatch.setattr(os, "fsync", lambda _fd: seen.append(len(journal.read(path))))
    Journal(path, "r", 1, "runner", required=True).write("said")
    assert seen == [1]


def test_readers_ask_for_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    writer = Journal(path, "r", 1, "runner", required=True)
    for i in range(4):
        writer.write("said", i=i)
    assert [e["i"] for e in journal.read(path, since=2)] == [2, 3]
    assert journal.read(tmp_path / "nowhere") == []


def test_a_journal_torn_at_any_byte_of_its_last_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    writer = Journal(path, "r", 1, "runner", required=True)
    for i in range(3):
        writer.write("said", i=i, words="schön {}")
    whole = path.read_bytes()
    begin = whole[:-1].rindex(b"\n") + 1
    for cut in range(begin, len(whole)):
        path.write_bytes(whole[:cut])
        last = 3 if cut == len(whole) - 1 else 2
        assert [e["seq"] for e in journal.read(path)] == list(range(1, last + 1)), f"cut at byte {cut}"
        # The next writer starts a new line, so the torn one does no harm.
        writer.write("after")
        assert [(e["seq"], e["event"]) for e in journal.read(path)[-2:]] == [(last, "said"), (last + 1, "after")]


@pytest.mark.parametrize(
    "line",
    [
        "[1, 2]",
        "7",
        '{"event": "x"}',
        '{"seq": "1", "event": "x"}',
        '{"seq": 1}',
        '{"seq": 1, "event": []}',
        "\0\0\0",
        "[" * 100_000,
    ],
    ids=lambda line: line[:30],
)
def test_lines_of_strangers_are_passed_over(tmp_path: Path, line: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(line + "\n")
    Journal(path, "r", 1, "runner", required=True).write("said")
    assert [e["seq"] for e in journal.read(path)] == [1]


def full(_fd: int) -> None:
    """A disk without room."""
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_trial_stops_when_its_journal_can_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Journal(tmp_path / "j", "r", 1, "runner", required=True).write("said")


def test_a_restore_goes_on_without_its_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Journal(tmp_path / "j", "r", 2, "restorer", required=False)
    monkeypatch.setattr(os, "fsync", full)
    writer.write("said")
    Journal(tmp_path / "gone" / "j", "r", 2, "restorer", required=False).write("said")


# Space set aside.


def held_bytes(path: Path) -> int:
    """How much of the disk a file holds, whatever its size."""
    return path.stat().st_blocks * 512


def test_space_is_set_aside_and_readers_do_not_see_it(quick_path: Path) -> None:
    path = quick_path / "journal.jsonl"
    writer = Journal(path, "r", 1, "runner", required=True)
    writer.write("said")
    text = path.read_bytes()
    journal.reserve(path)
    assert path.read_bytes() == text
    assert path.stat().st_size == len(text)
    assert held_bytes(path) >= journal.RESERVED_BYTES
    # What follows goes into that space, and stands right behind what was there.
    writer.write("said")
    assert [e["seq"] for e in journal.read(path)] == [1, 2]
    assert path.read_bytes().startswith(text)
    assert held_bytes(path) < 2 * journal.RESERVED_BYTES


def test_space_is_set_aside_for_a_journal_nobody_wrote_yet(quick_path: Path) -> None:
    path = quick_path / "journal.jsonl"
    journal.reserve(path, 10_000)
    assert path.read_bytes() == b""
    assert path.stat().st_mode & 0o777 == 0o600
    assert held_bytes(path) >= 10_000


def kernel(monkeypatch: pytest.MonkeyPatch, code: int) -> list[tuple[int, int, int]]:
    """A kernel that refuses to set space aside; returns what it was asked: mode, offset, size."""
    asked: list[tuple[int, int, int]] = []

    def fallocate64(_fd: int, mode: int, offset: ctypes.c_int64, size: ctypes.c_int64) -> int:
        asked.append((mode, offset.value, size.value))
        ctypes.set_errno(code)
        return -1

    monkeypatch.setattr(journal.ctypes, "CDLL", lambda *_args, **_options: SimpleNamespace(fallocate64=fallocate64))
    return asked


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT], ids=["full", "broken", "quota"])
def test_a_disk_without_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    asked = kernel(monkeypatch, code)
    with pytest.raises(OSError, match=re.escape(os.strerror(code))) as caught:
        journal.reserve(tmp_path / "j", 4096)
    assert (caught.value.errno, caught.value.filename) == (code, str(tmp_path / "j"))
    assert asked == [(1, 0, 4096)]


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_that_knows_no_such_thing_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    asked = kernel(monkeypatch, code)
    journal.reserve(tmp_path / "j")
    assert len(asked) == 1


def test_no_disk_has_room_for_everything(quick_path: Path) -> None:
    """The kernel's own refusal, not a made-up one."""
    with pytest.raises(OSError, match="j"):
        journal.reserve(quick_path / "j", 1 << 60)


# Epoch and mark.


def test_a_new_host_has_epoch_zero_and_no_mark(tmp_path: Path) -> None:
    state = State(tmp_path / "nothing")
    assert state.epoch() == 0
    assert state.mark() is None
    assert state.newest_run() == ""
    assert state.furthest() == "snapshot"
    assert State().root == journal.ROOT == Path("/var/lib/model-trial")


def test_the_epoch_only_rises(state: State) -> None:
    assert [state.raise_epoch() for _unused in range(12)] == list(range(1, 13))
    assert state.epoch() == 12


@pytest.mark.parametrize("text", ["", "torn", '"7"'])
def test_an_unreadable_epoch_counts_as_none(state: State, text: str) -> None:
    (state.root / "epoch").write_text(text)
    assert state.epoch() == 0


def test_the_epoch_rises_on_a_full_disk(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    for _unused in range(9):
        state.raise_epoch()
    # Nothing new can be created; what is there can be written over.
    with monkeypatch.context() as patch:
        patch.setattr(journal, "write_atomic", lambda *_args: full(0))
        assert state.raise_epoch() == 10
    assert state.epoch() == 10
    assert state.raise_epoch() == 11


def test_a_mark_is_read_as_it_was_set(state: State) -> None:
    state.open(MARK)
    assert state.mark() == MARK
    state.close()
    assert state.mark() is None


@pytest.mark.parametrize("text", ["", '{"run": "run-1"', "7", "[]", "{}", '{"run": 7}', '{"run": "../run-1"}'])
def test_a_mark_that_can_not_be_read_still_marks(state: State, text: str) -> None:
    (state.root / "open").write_text(text)
    mark = state.mark()
    assert mark
    assert mark.run == ""
    (state.run_dir("run-1") / "snapshot.json").write_text("{}")
    # And then it is no other run's than that of the last one.
    mark = state.mark()
    assert mark
    assert (mark.run, mark.epoch) == ("run-1", 0)


def test_the_newest_run_is_the_one_opened_last_whatever_the_clock_did(state: State) -> None:
    """A torn snapshot tells no epoch: then its time is all there is."""
    for age, name, text in (
        (300, "run-2", "{}"),
        (200, "run-3", '{"epoch": 7}'),
        (100, "run-1", '{"epoch": 5}'),
        (50, "run-0", '{"ep'),
    ):
        folder = state.run_dir(name)
        folder.mkdir(exist_ok=True)
        (folder / "snapshot.json").write_text(text)
        os.utime(folder / "snapshot.json", (1_000_000 - age, 1_000_000 - age))
    state.run_dir("run-9").mkdir()
    assert state.newest_run() == "run-3"


def test_closing_takes_all_words_away(state: State) -> None:
    opened(state)
    state.renew()
    state.advance("measure")
    state.ask("abort", "ann")
    state.ask("asked", "bob")
    state.close()
    assert sorted(p.name for p in state.root.iterdir()) == ["epoch", "runs"]
    state.close()


@pytest.mark.parametrize("after", range(9))
def test_a_power_cut_while_closing_leaves_nothing_to_the_next_trial(
    state: State, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    opened(state)
    state.renew()
    state.advance("measure")
    state.ask("abort", "ann")
    state.ask("asked", "bob")
    unlink, left = Path.unlink, [after]

    def cut(self: Path, missing_ok: bool = False) -> None:
        if left[0] == 0:
            raise PowerCut
        left[0] -= 1
        unlink(self, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", cut)
        if after < 8:
            with pytest.raises(PowerCut):
                state.close()
        else:
            state.close()
    assert (state.mark() is None) == (after >= 7)
    state.open(Mark("run-2", 4, "boot", "later", "bob"))
    assert state.furthest() == "snapshot"
    assert state.asked("abort") == ""
    assert state.asked("asked") == ""
    assert state.lease_age_s() == float("inf")


def test_the_holder_is_let_in(state: State) -> None:
    assert opened(state).guard("run-1", 3) == MARK


def write_restored(state: State, event: str) -> dict[str, Any]:
    """The journal of a run that was restored."""
    Journal(state.journal_path("run-1"), "run-1", 4, "restorer", required=True).write(event, restored_by="ann by hand")
    return journal.read(state.journal_path("run-1"))[-1]


@pytest.mark.parametrize("event", ["restore_started", "restored"])
def test_a_stale_epoch_learns_who_restored_and_when(state: State, event: str) -> None:
    opened(state)
    state.raise_epoch()
    entry = write_restored(state, event)
    with pytest.raises(Held) as caught:
        state.guard("run-1", 3)
    assert f"restored by ann by hand at {entry['wall']}" in str(caught.value)


def test_a_closed_run_learns_it_too_though_another_trial_holds_the_host(state: State) -> None:
    write_restored(state, "restored")
    state.open(Mark("run-2", 0, "boot", "now", "bob"))
    with pytest.raises(Held, match="run-1, epoch 3 is over: restored by ann by hand at "):
        state.guard("run-1", 3)


def test_who_never_held_the_host_learns_who_does(state: State) -> None:
    opened(state)
    with pytest.raises(Held, match=r"held by run run-1 since 2026-05-01T12:00:00.000Z \(from ann\)"):
        state.guard("run-2", 3)


def test_a_wrong_epoch_is_refused_though_nobody_restored(state: State) -> None:
    opened(state)
    with pytest.raises(Held):
        state.guard("run-1", 2)


def test_a_run_that_is_not_open_is_refused(state: State) -> None:
    with pytest.raises(Held, match="run run-1, epoch 1 is not open on this host"):
        state.guard("run-1", 1)


def test_one_at_a_time(state: State) -> None:
    for who in ("run-1 (from ann)", "run-2 (from bob)"):
        words = f"another trial is being prepared on this host right now: {who} since 20"
        with state.lock(who), pytest.raises(Held, match=re.escape(words)), State(state.root).lock("run-3"):
            pytest.fail("two hold the lock")
    with state.lock("run-1"):
        pass


def test_the_lock_makes_its_folder_private(tmp_path: Path) -> None:
    state = State(tmp_path / "var" / "model-trial")
    with state.lock("run-1"):
        assert state.root.stat().st_mode & 0o777 == 0o700


# Lease, phases, words.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the clock that counts suspend."""
    now = [1000.0]
    monkeypatch.setattr(journal, "awake_s", lambda: now[0])

    def set_to(value: float) -> None:
        now[0] = value

    return set_to


def test_a_lease_ages(state: State, clock: Callable[[float], None]) -> None:
    state.renew()
    clock(1042.5)
    assert state.lease_age_s() == 42.5
    state.renew()
    assert state.lease_age_s() == 0.0
    assert [p.name for p in state.root.iterdir() if "lease" in p.name] == ["lease"]


@pytest.mark.parametrize("text", [None, "", "soon", '"1"'])
def test_no_readable_lease_is_a_lapsed_one(state: State, text: str | None) -> None:
    if text is not None:
        (state.root / "lease").write_text(text)
    assert state.lease_age_s() == float("inf")


def test_a_run_may_go_as_far_as_it_was_let(state: State) -> None:
    assert state.furthest() == "snapshot"
    state.advance("candidate")
    assert state.furthest() == "candidate"
    state.advance("window")
    assert state.furthest() == "candidate"
    state.advance("measure")
    assert state.furthest() == "measure"


def test_phases_have_one_order(state: State) -> None:
    assert journal.PHASES == ("snapshot", "window", "candidate", "measure")
    with pytest.raises(ValueError, match="not in tuple"):
        state.advance("restore")


@pytest.mark.parametrize("text", ["", '"everywhere"', "{}", "3"])
def test_an_unreadable_allowance_allows_nothing(state: State, text: str) -> None:
    (state.root / "furthest").write_text(text)
    assert state.furthest() == "snapshot"


def test_words_are_left_for_the_units(state: State) -> None:
    assert state.asked("abort") == ""
    state.ask("abort", "ann")
    assert state.asked("abort") == "ann"
    (state.root / "abort").write_text("{}")
    assert state.asked("abort") == ""


def test_folders_of_a_run(state: State) -> None:
    assert state.journal_path("run-1") == state.root / "runs" / "run-1" / "journal.jsonl"


def test_a_word_is_taken_once(state: State) -> None:
    assert state.take("asked") == ""
    state.ask("asked", "ann")
    assert state.take("asked") == "ann"
    assert state.take("asked") == state.asked("asked") == ""
    assert not (state.root / "asked").exists()


def test_a_torn_word_is_taken_away_too(state: State) -> None:
    (state.root / "asked").write_text('"an')
    assert state.take("asked") == ""
    assert not (state.root / "asked").exists()


def test_a_word_that_can_not_be_taken_away_is_still_heard(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that became read-only must not keep a restore from beginning."""
    state.ask("asked", "ann")

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert state.take("asked") == "ann"
    assert state.take("nothing") == ""


@pytest.mark.parametrize("name", ["..", ".", "../other", "a/b", "/etc", "a\0b", "a\n", ".hidden", "-x", "x" * 101, "ä"])
def test_a_name_that_leads_elsewhere_is_refused(state: State, name: str) -> None:
    for ask in (state.run_dir, state.journal_path):
        with pytest.raises(ValueError, match="expected the name of a run"):
            ask(name)


@pytest.mark.parametrize("name", ["e4b-20260501-120000", "a", "7.x_Y", "x" * 100])
def test_names_of_runs_are_folders(state: State, name: str) -> None:
    assert state.run_dir(name).parent == state.root / "runs"


def test_a_lease_that_can_not_be_renewed_leaves_nothing_behind(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal, "awake_s", fail)
    with pytest.raises(OSError, match="No space left"):
        state.renew()
    assert [p.name for p in state.root.iterdir() if "lease" in p.name] == []
