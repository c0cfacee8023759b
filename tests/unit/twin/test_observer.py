"""The ledger of the twin's GPU: what it owes to live processes, and to nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BASELINE = b"baseline model"
CANDIDATE = b"candidate model"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def settings(observer: ModuleType) -> Any:
    return observer.Settings(
        models={digest(BASELINE): 4900, digest(CANDIDATE): 6300, digest(b"projector"): 0},
        programs={"services/chatterbox/server.py": 4300, "phone_call.py auto": 3900},
    )


@pytest.fixture
def card(observer: ModuleType, settings: Any) -> Any:
    return observer.Card(settings)


def who(observer: ModuleType, pid: int, start: int = 100) -> Any:
    return observer.Identity(pid, start)


def everyone(_: Any) -> bool:
    return True


def nobody(_: Any) -> bool:
    return False


class Proc:
    """A /proc laid out in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "uptime").write_text("1000.00 1000.00\n")

    def add(
        self,
        pid: int,
        argv: list[str],
        *,
        start: int = 5000,
        parent: int = 1,
        state: str = "S",
        maps: str = "",
        environ: str = "",
        files: dict[str, bytes] | None = None,
        cwd: str = "/",
    ) -> None:
        here = self.folder / str(pid)
        (here / "root").mkdir(parents=True, exist_ok=True)
        fields = [state, str(parent), *["0"] * 17, str(start), "0"]
        (here / "stat").write_text(f"{pid} (some (odd) name) {' '.join(fields)}\n")
        (here / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in argv))
        (here / "maps").write_text(maps)
        (here / "environ").write_bytes(environ.encode())
        if not (here / "cwd").is_symlink():
            (here / "cwd").symlink_to(cwd)
        for name, content in (files or {}).items():
            path = here / "root" / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    folder = tmp_path / "proc"
    folder.mkdir()
    return Proc(folder)


@pytest.fixture
def processes(observer: ModuleType, settings: Any, proc: Proc) -> Any:
    return observer.Processes(settings, proc.folder)


# ---- the card ----


def test_memory_ramps_up_while_a_model_loads(observer: ModuleType, card: Any) -> None:
    card.admit(who(observer, 7), "llama-server", 4900, 10.0, ramp_s=0.6)
    assert card.used_mib(10.0) == 420
    assert card.used_mib(10.3) == 420 + 2450
    assert card.used_mib(10.61) == card.used_mib(99.0) == 420 + 4900


def test_memory_lingers_after_a_death_and_then_goes(observer: ModuleType, card: Any) -> None:
    card.admit(who(observer, 7), "llama-server", 4900, 0.0, ramp_s=0.6)
    faults = observer.Faults()
    card.advance(10.0, nobody, faults)
    assert "process" not in card.render(10.0, faults)
    card.advance(10.5, nobody, faults)
    assert card.used_mib(10.5) == 420 + 4900
    card.advance(10.61, nobody, faults)
    assert card.used_mib(10.61) == 420


def test_a_loading_process_that_dies_leaves_only_what_it_had(observer: ModuleType, card: Any) -> None:
    card.admit(who(observer, 7), "llama-server", 4000, 0.0, ramp_s=1.0)
    card.advance(0.5, nobody, observer.Faults())
    assert card.used_mib(0.6) == 420 + 2000


def test_a_process_that_took_over_a_pid_is_another_holder(observer: ModuleType, card: Any) -> None:
    card.admit(who(observer, 7, start=1), "old", 1000, 0.0, ramp_s=0.0)
    card.admit(who(observer, 7, start=2), "new", 2000, 0.0, ramp_s=0.0)
    card.advance(5.0, lambda one: one.start == 2, observer.Faults())
    card.advance(5.7, lambda one: one.start == 2, observer.Faults())
    assert card.used_mib(5.7) == 420 + 2000


def test_stuck_memory_never_drains_until_the_fault_is_gone(observer: ModuleType, card: Any) -> None:
    card.admit(who(observer, 7), "llama-server", 4900, 0.0, ramp_s=0.0)
    stuck = observer.Faults(stuck=True)
    card.advance(1.0, nobody, stuck)
    card.advance(1000.0, nobody, stuck)
    assert card.used_mib(1000.0) == 420 + 4900
    card.advance(1000.1, nobody, observer.Faults())
    assert card.used_mib(1000.1) == 420


def test_slow_drain(observer: ModuleType, card: Any) -> None:
    card.admit(who(observer, 7), "llama-server", 4900, 0.0, ramp_s=0.0)
    slow = observer.Faults(linger_s=8.0)
    card.advance(1.0, nobody, slow)
    card.advance(8.9, nobody, slow)
    assert card.used_mib(8.9) == 420 + 4900
    card.advance(9.1, nobody, slow)
    assert card.used_mib(9.1) == 420


def test_an_allocation_on_a_full_card_kills_the_newcomer_not_the_old_ones(observer: ModuleType, card: Any) -> None:
    old, new = who(observer, 1), who(observer, 2)
    card.admit(old, "baseline", 10000, 0.0, ramp_s=0.0)
    card.admit(new, "candidate", 6300, 10.0, ramp_s=1.0)
    faults = observer.Faults()
    assert card.advance(10.5, everyone, faults) == []
    assert [victim.who for victim in card.advance(10.95, everyone, faults)] == [new]


def test_a_quick_restart_waits_for_the_memory_that_is_coming_back(observer: ModuleType, card: Any) -> None:
    old, new = who(observer, 1), who(observer, 2)
    card.admit(old, "baseline", 10000, 0.0, ramp_s=0.0)
    card.advance(5.0, nobody, observer.Faults())
    card.admit(new, "baseline", 10000, 5.01, ramp_s=0.6)
    assert card.advance(5.59, lambda one: one == new, observer.Faults()) == []
    assert "used_mib 15956" in card.render(5.59, observer.Faults())
    assert card.advance(5.61, lambda one: one == new, observer.Faults()) == []
    # Memory that drains slowly is another matter.
    slow = observer.Faults(linger_s=8.0)
    card.advance(7.0, nobody, slow)
    card.admit(old, "baseline", 10000, 7.7, ramp_s=0.6)
    assert [victim.who for victim in card.advance(8.29, lambda one: one == old, slow)] == [old]


def test_memory_that_is_stuck_is_not_free_for_a_newcomer(observer: ModuleType, card: Any) -> None:
    old, new = who(observer, 1), who(observer, 2)
    card.admit(old, "baseline", 10000, 0.0, ramp_s=0.0)
    card.advance(5.0, nobody, observer.Faults(stuck=True))
    card.admit(new, "candidate", 6300, 5.0, ramp_s=0.1)
    victims = card.advance(5.099, lambda one: one == new, observer.Faults(stuck=True))
    assert [victim.who for victim in victims] == [new]


def test_the_steady_state_is_in_its_band(observer: ModuleType, card: Any, settings: Any) -> None:
    for number, mib in enumerate((4900, 4300, 3900)):
        card.admit(who(observer, number + 1), "tenant", mib, 0.0, ramp_s=0.6)
    assert 13.0 * 1024 <= card.used_mib(1.0) <= 13.8 * 1024
    assert card.used_mib(1.0) < settings.total_mib - settings.reserved_mib


def test_the_ledger_says_what_the_library_reads(observer: ModuleType, card: Any) -> None:
    card.admit(who(observer, 7), "/usr/bin/llama-server", 4900, 0.0, ramp_s=0.0)
    card.admit(who(observer, 8), "Xorg", 100, 0.0, kind="G", ramp_s=0.0)
    lines = card.render(1.0, observer.Faults()).splitlines()
    assert lines[0] == "version 1"
    assert "used_mib 5420" in lines
    assert "fault none 0" in lines
    assert lines[-2:] == ["process 7 4900 C /usr/bin/llama-server", "process 8 100 G Xorg"]


def test_the_memory_of_processes_can_be_unavailable(observer: ModuleType, card: Any) -> None:
    card.admit(who(observer, 7), "llama-server", 4900, 0.0, ramp_s=0.0)
    text = card.render(1.0, observer.Faults(unavailable=True))
    assert "process 7 -1 C llama-server" in text
    assert "used_mib 5320" in text


# ---- what the card does besides ----


def vitals_of(card: Any, faults: Any) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in card.vitals.lines(faults))


def test_work_is_the_cpu_time_of_the_holders(observer: ModuleType, card: Any) -> None:
    one, two = who(observer, 7), who(observer, 8)
    card.vitals.advance(10.0, {one: 100}, 1, 0)
    assert card.vitals.percent == 0
    card.vitals.advance(10.1, {one: 190}, 1, 0)
    assert card.vitals.percent == 0, "too short a time for a share"
    # Half of the second, and a newcomer whose earlier time does not count.
    card.vitals.advance(11.0, {one: 150, two: 5000}, 2, 0)
    assert card.vitals.percent == pytest.approx(50)
    card.vitals.advance(12.0, {one: 350, two: 5000}, 2, 0)
    assert card.vitals.percent == 100, "more than a whole card can't work"
    card.vitals.advance(13.0, {two: 5000}, 1, 0)
    assert card.vitals.percent == 0


def test_power_and_energy_follow_from_work(observer: ModuleType, card: Any) -> None:
    one = who(observer, 7)
    for second in range(11):
        card.vitals.advance(float(second), {one: 100 * second}, 1, 0)
    assert card.vitals.milliwatt == pytest.approx(18_000 + 2_500 + 100 * 2_200)
    # Nine seconds at full power; in the first one it was not known yet that it works.
    assert card.vitals.energy_mj == pytest.approx(9 * 240_500 + 20_500)
    warm = card.vitals.celsius
    assert 34 < warm < 34 + 0.15 * 240.5
    for second in range(11, 200):
        card.vitals.advance(float(second), {one: 1000}, 1, 0)
    assert card.vitals.celsius < warm
    assert card.vitals.milliwatt == 20_500


def test_a_loading_card_is_at_work(observer: ModuleType, card: Any) -> None:
    card.vitals.advance(1.0, {}, 1, 1)
    facts = vitals_of(card, observer.Faults())
    assert (facts["utilization_percent"], facts["sm_mhz"], facts["throttle_reasons"]) == ("45", "2452", "0")


def test_an_idle_card_says_so(observer: ModuleType, card: Any) -> None:
    facts = vitals_of(card, observer.Faults())
    assert (facts["utilization_percent"], facts["sm_mhz"], facts["throttle_reasons"]) == ("0", "1200", "1")
    assert facts["unsupported"] == "nothing"


def test_a_throttled_card_is_slow_and_says_why(observer: ModuleType, card: Any) -> None:
    card.vitals.percent = 80.0
    faults = observer.Faults.parse('{"throttle": ["hw_thermal_slowdown", "sw_power_cap"]}')
    facts = vitals_of(card, faults)
    assert (facts["throttle_reasons"], facts["sm_mhz"]) == ("44", "1471")
    capped = observer.Faults.parse('{"throttle": ["sw_power_cap"]}')
    assert vitals_of(card, capped)["sm_mhz"] == "2452"


@pytest.mark.parametrize(
    "text", ['{"throttle": ["too_hot"]}', '{"unsupported": ["everything"]}', '{"throttle": "gpu_idle"}']
)
def test_reasons_and_functions_that_do_not_exist_are_refused(observer: ModuleType, text: str) -> None:
    with pytest.raises(ValueError, match="expected some of"):
        observer.Faults.parse(text)


def test_what_the_driver_can_not_tell_stands_in_the_ledger(observer: ModuleType, card: Any) -> None:
    faults = observer.Faults.parse('{"unsupported": ["energy", "power"]}')
    assert "unsupported energy,power" in card.render(1.0, faults).splitlines()


def test_cpu_time_is_read_of_the_same_process_only(observer: ModuleType, processes: Any, proc: Proc) -> None:
    proc.add(7, ["llama-server"], start=100)
    (proc.folder / "7" / "stat").write_text(f"7 (a b) S {' '.join(['0'] * 10)} 30 12 {' '.join(['0'] * 6)} 100 0\n")
    assert processes.cpu_ticks(who(observer, 7, 100)) == 42
    assert processes.cpu_ticks(who(observer, 7, 101)) is None
    assert processes.cpu_ticks(who(observer, 8, 100)) is None


# ---- faults and settings ----


def test_faults_are_read_with_their_defaults(observer: ModuleType) -> None:
    parse = observer.Faults.parse
    assert parse("") == parse("{}") == observer.Faults()
    assert parse('{"nvml": "error"}').nvml_code == 15
    assert parse('{"nvml": "init_error"}').nvml_code == 9
    assert parse('{"nvml": "error", "nvml_code": 999}').nvml_code == 999
    assert parse('{"foreign": [{"mib": 900}]}').foreign == (("foreign", 900, "C"),)
    assert parse('{"model_mib": {"candidate": 8600}}').model_mib == (("candidate", 8600),)
    assert parse('{"linger_s": 8, "ramp_s": 2}') == observer.Faults(linger_s=8.0, ramp_s=2.0)


@pytest.mark.parametrize("text", ["[]", '{"stuk": true}', '{"nvml": "sometimes"}', "{"])
def test_faults_that_make_no_sense_are_refused(observer: ModuleType, text: str) -> None:
    with pytest.raises(ValueError, match=r"faults|Expecting"):
        observer.Faults.parse(text)


def test_settings_refuse_a_field_that_is_none(observer: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"total_mib": 1000, "models": {"ab": 1}}))
    assert observer.Settings.load(path).total_mib == 1000
    path.write_text(json.dumps({"totl_mib": 1000}))
    with pytest.raises(ValueError, match="totl_mib"):
        observer.Settings.load(path)


# ---- what a model takes ----


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], 6300),
        (["-ngl", "99"], 6300),
        (["-ngl", "auto"], 6300),
        (["-ngl", "0"], 400),
        (["--n-gpu-layers", "18"], 3350),
        (["-c", "4096"], 6300),
        (["-c", "8192"], 6364),
        (["--ctx-size", "131072"], 8284),
        (["-c", "1024"], 6252),
    ],
)
def test_footprint_follows_layers_and_context(
    observer: ModuleType, settings: Any, argv: list[str], expected: int
) -> None:
    launch = observer.parse_launch(["llama-server", *argv], {})
    assert observer.model_mib(settings, 6300, launch) == expected


def test_llama_environment_counts_and_the_command_line_wins(observer: ModuleType) -> None:
    environment = {"LLAMA_ARG_N_GPU_LAYERS": "0", "LLAMA_ARG_CTX_SIZE": "8192", "LLAMA_ARG_MODEL": "/m/a.gguf"}
    assert observer.parse_launch(["llama-server"], environment) == observer.Launch("/m/a.gguf", 0, 8192)
    assert observer.parse_launch(["llama-server", "-ngl", "5"], environment).gpu_layers == 5


# ---- the process table ----


def test_a_llama_server_holds_what_its_model_takes(processes: Any, proc: Proc) -> None:
    argv = ["/usr/bin/llama-server", "--model", "/m/base.gguf", "--port", "11435"]
    proc.add(50, argv, files={"/m/base.gguf": BASELINE})
    [(identity, command, mib, source)] = processes.newcomers(0.0, ())
    assert (identity.pid, identity.start) == (50, 5000)
    assert (command, mib, source) == ("/usr/bin/llama-server", 4900, "base.gguf")


def test_the_model_is_recognized_by_content_in_the_process_own_root(processes: Any, proc: Proc) -> None:
    argv = ["llama-server", "-m", "/m/model.gguf"]
    proc.add(50, argv, files={"/m/model.gguf": BASELINE})
    proc.add(51, argv, files={"/m/model.gguf": CANDIDATE})
    assert sorted(mib for _, _, mib, _ in processes.newcomers(0.0, ())) == [4900, 6300]


def test_a_relative_model_path_is_found(processes: Any, proc: Proc) -> None:
    proc.add(50, ["llama-bench", "-m", "x.gguf"], files={"/home/panda/x.gguf": CANDIDATE}, cwd="/home/panda")
    assert [mib for _, _, mib, _ in processes.newcomers(0.0, ())] == [6300]


def test_an_unknown_model_is_estimated_by_its_size(processes: Any, proc: Proc, observer: ModuleType) -> None:
    proc.add(50, ["llama-server", "-m", "/x.gguf"], files={"/x.gguf": b"never seen"})
    assert [mib for _, _, mib, _ in processes.newcomers(0.0, ())] == [500]
    assert observer.estimate_mib(5 * 1024**3) == 6144 + 500


def test_another_program_holds_the_model_that_it_has_mapped(processes: Any, proc: Proc) -> None:
    maps = (
        "7f00-7f01 r--s 00000000 08:01 5 /m/base.gguf\n7f01-7f02 r--s 00000000 08:01 5 /m/base.gguf\n"
        "7f02-7f03 r--s 00000000 08:01 6 /m/mmproj.gguf\n7f03-7f04 rw-p 00000000 00:00 0\n"
    )
    proc.add(50, ["/opt/gemma-worker"], maps=maps, files={"/m/base.gguf": BASELINE, "/m/mmproj.gguf": b"projector"})
    assert [mib for _, _, mib, _ in processes.newcomers(0.0, ())] == [4900]


def test_chatterbox_and_phone_are_known_by_their_command_lines(processes: Any, proc: Proc) -> None:
    proc.add(60, ["python3", "/home/panda/workplace/her/her-os/services/chatterbox/server.py"])
    proc.add(61, ["/usr/bin/python3", "phone_call.py", "auto"])
    assert {identity.pid: mib for identity, _, mib, _ in processes.newcomers(0.0, ())} == {60: 4300, 61: 3900}


@pytest.mark.parametrize(
    "argv",
    [
        ["bash", "-c", "python3 phone_call.py auto"],
        ["pgrep", "-f", "phone_call.py auto"],
        ["python3", "phone_call.py"],
        ["python3", "phone_call.py", "manual"],
        ["python3", "/elsewhere/server.py"],
        ["python3"],
        ["llama-server", "--version"],
        ["llama-server", "-m", "/not/there.gguf"],
        [],
    ],
)
def test_what_only_looks_like_a_holder_holds_nothing(processes: Any, proc: Proc, argv: list[str]) -> None:
    proc.add(70, argv)
    assert processes.newcomers(0.0, ()) == []


def test_a_child_between_fork_and_exec_is_not_a_second_holder(processes: Any, proc: Proc) -> None:
    argv = ["python3", "/x/services/chatterbox/server.py"]
    proc.add(60, argv)
    proc.add(61, argv, parent=60)
    assert [identity.pid for identity, *_ in processes.newcomers(0.0, ())] == [60]


def test_a_zombie_is_dead_and_a_pid_in_other_hands_is_another_process(
    processes: Any, proc: Proc, observer: ModuleType
) -> None:
    proc.add(60, ["x"], start=5000)
    first = who(observer, 60, 5000)
    assert processes.alive(first)
    proc.add(60, ["x"], start=5001)
    assert not processes.alive(first)
    proc.add(60, ["x"], start=5000, state="Z")
    assert not processes.alive(first)
    assert not processes.alive(who(observer, 61))


def test_known_holders_are_not_newcomers_and_old_processes_are_looked_at_now_and_again(
    processes: Any, proc: Proc, observer: ModuleType
) -> None:
    proc.add(60, ["bash"])
    assert processes.newcomers(0.0, ()) == []
    # The same PID became the phone: bash ran `exec python3 phone_call.py auto` long after its start.
    assert processes.newcomers(100.0, ()) == []
    proc.add(60, ["python3", "phone_call.py", "auto"])
    assert processes.newcomers(100.5, ()) == []
    [(identity, *_)] = processes.newcomers(101.1, ())
    assert processes.newcomers(103.0, [identity]) == []


def test_a_young_process_is_seen_when_it_becomes_another_program_and_soon_when_it_maps_a_model(
    processes: Any, proc: Proc
) -> None:
    proc.add(60, ["bash"])
    proc.add(61, ["python3", "serve.py"])
    assert processes.newcomers(0.0, ()) == []
    proc.add(60, ["python3", "phone_call.py", "auto"])
    proc.add(61, ["python3", "serve.py"], maps="7f-7f r--s 0 0:1 9 /m/base.gguf\n", files={"/m/base.gguf": BASELINE})
    [(phone, *_)] = processes.newcomers(0.01, ())
    assert phone.pid == 60
    assert [identity.pid for identity, *_ in processes.newcomers(0.11, [phone])] == [61]


def test_a_process_whose_title_nothing_ends_holds_nothing(processes: Any, proc: Proc) -> None:
    proc.add(60, ["x"])
    (proc.folder / "60" / "cmdline").write_bytes(b"sshd: panda")
    assert processes.newcomers(0.0, ()) == []


# ---- the daemon, on real processes ----
# It stops and kills. Twins may run on the same machine, and their processes are in this machine's /proc: in a test the
# daemon sees its own children only, and a signal to anything else is an error.


def watch(observer: ModuleType, settings: Any, folder: Path) -> Any:
    """An observer of the children of this test."""

    class Children(observer.Processes):  # type: ignore[misc, name-defined]  # loaded by path: mypy knows no class
        def pids(self) -> list[int]:
            return [pid for pid in super().pids() if (self._stat(pid) or ["", "0"])[1] == str(os.getpid())]

    return observer.Observer(settings, folder, Children(settings))


@pytest.fixture(autouse=True)
def no_stranger_is_signaled(observer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(pid: int, number: int) -> None:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        assert int(fields[1]) == os.getpid(), f"signal {number} to {pid}, which is not a child of this test"
        os.kill(pid, number)

    class Guarded:
        """The module ``os`` with a careful ``kill``."""

        def __getattr__(self, name: str) -> Any:
            return kill if name == "kill" else getattr(os, name)

    monkeypatch.setattr(observer, "os", Guarded())


@pytest.fixture
def daemon(observer: ModuleType, tmp_path: Path) -> Any:
    return watch(observer, observer.Settings(programs={"phone_call.py auto": 3900}), tmp_path)


def look_until_held(daemon: Any, now: float) -> None:
    """Let it look at one moment, ``now``, until the new process shows: its interpreter has to start first."""
    while not daemon.card.holders and time.monotonic() < now + 30:
        daemon.look(now)
        time.sleep(0.01)


def test_kill_dash_nine_lowers_the_ledger_without_any_other_call(
    observer: ModuleType, tmp_path: Path, daemon: Any
) -> None:
    script = tmp_path / "phone_call.py"
    script.write_text("import time\ntime.sleep(60)\n")
    child = subprocess.Popen([sys.executable, "phone_call.py", "auto"], cwd=tmp_path)
    try:
        now = time.monotonic()
        look_until_held(daemon, now)
        daemon.look(now + 1)
        daemon.write(now + 1)
        assert f"process {child.pid} 3900" in (tmp_path / "ledger").read_text()
        assert "used_mib 4320" in (tmp_path / "ledger").read_text()
    finally:
        child.kill()
        child.wait()
    daemon.look(now + 2)
    daemon.look(now + 2.7)
    daemon.write(now + 2.7)
    assert "used_mib 420" in (tmp_path / "ledger").read_text()
    events = [json.loads(line)["event"] for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert events == ["load", "death"]


def test_a_load_on_a_full_card_is_killed_and_logged(observer: ModuleType, tmp_path: Path) -> None:
    settings = observer.Settings(total_mib=4000, reserved_mib=0, programs={"phone_call.py auto": 3900})
    daemon = watch(observer, settings, tmp_path)
    (tmp_path / "phone_call.py").write_text("import time\ntime.sleep(60)\n")
    child = subprocess.Popen([sys.executable, "phone_call.py", "auto"], cwd=tmp_path)
    now = time.monotonic()
    look_until_held(daemon, now)
    daemon.look(now + 0.59)
    assert child.wait(timeout=30) == -signal.SIGKILL
    assert "out_of_memory" in (tmp_path / "events.jsonl").read_text()


def test_a_loading_server_stands_still_until_its_memory_is_there(observer: ModuleType, tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(BASELINE)
    daemon = watch(observer, observer.Settings(models={digest(BASELINE): 4900}), tmp_path)
    server = 'exec -a llama-server bash -c "while :; do sleep 0.05; done" -m "$0"'
    child = subprocess.Popen(["bash", "-c", server, model])
    try:
        now = time.monotonic()
        look_until_held(daemon, now)
        assert wait_for(lambda: daemon.processes.stopped(child.pid))
        daemon.look(now + 0.7)
        assert wait_for(lambda: not daemon.processes.stopped(child.pid))
        # The ledger was written before the process went on.
        assert "used_mib 5320" in (tmp_path / "ledger").read_text()
    finally:
        child.kill()
        child.wait()


def wait_for(condition: Any, limit_s: float = 30.0) -> bool:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_a_foreign_holder_is_a_live_process_and_goes_with_its_fault(tmp_path: Path, daemon: Any) -> None:
    faults = tmp_path / "faults.json"
    faults.write_text(json.dumps({"foreign": [{"command": "python3 train.py", "mib": 900, "type": "C+G"}]}))
    daemon.read_faults()
    daemon.keep_helpers(0.0)
    [holder] = daemon.card.holders.values()
    assert daemon.processes.alive(holder.who)
    assert wait_for(lambda: Path(f"/proc/{holder.who.pid}/cmdline").read_bytes().startswith(b"python3 train.py\0"))
    assert "900 C+G python3 train.py" in daemon.card.render(5.0, daemon.faults)
    faults.unlink()
    daemon.read_faults()
    daemon.keep_helpers(5.0)
    assert not daemon.processes.alive(holder.who)


def test_nonsense_in_the_fault_file_switches_nothing_and_is_said(tmp_path: Path, daemon: Any) -> None:
    (tmp_path / "faults.json").write_text('{"stuck": true}')
    daemon.read_faults()
    assert daemon.faults.stuck
    (tmp_path / "faults.json").write_text('{"stuk": true, "more": 1}')
    daemon.read_faults()
    assert daemon.faults.stuck
    assert "faults_refused" in (tmp_path / "events.jsonl").read_text()


def test_a_model_can_be_given_another_footprint(observer: ModuleType, proc: Proc, tmp_path: Path) -> None:
    settings = observer.Settings(models={digest(CANDIDATE): 6300}, stall=False)
    daemon = observer.Observer(settings, tmp_path, observer.Processes(settings, proc.folder))
    daemon.faults = observer.Faults.parse('{"model_mib": {"candidate": 8600}}')
    proc.add(50, ["llama-server", "-m", "/candidate-f16.gguf"], files={"/candidate-f16.gguf": CANDIDATE})
    daemon.look(0.0)
    assert [holder.target_mib for holder in daemon.card.holders.values()] == [8600]


def test_a_restarted_observer_finds_the_old_holders_with_their_memory(
    observer: ModuleType, settings: Any, proc: Proc, tmp_path: Path
) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    argv = ["llama-server", "-m", "/m.gguf"]
    proc.add(50, argv, start=10 * ticks, files={"/m.gguf": BASELINE})
    proc.add(51, argv, start=1000 * ticks, files={"/m.gguf": CANDIDATE})
    daemon = observer.Observer(settings, tmp_path, observer.Processes(settings, proc.folder))
    daemon.adopt(500.0)
    held = {holder.who.pid: holder.mib(500.0) for holder in daemon.card.holders.values()}
    assert held == {50: 4900, 51: 0}
