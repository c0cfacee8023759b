"""What a drill sees and does: a play on the controller, the host's journal as it grows, the host from beside.

Everything strikes from outside: signals to the play's processes, commands as root in the twin. Times are
CLOCK_MONOTONIC seconds; the twin has the machine's kernel, so they compare with the journal's ``t_s``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
STATE = "/var/lib/model-trial"
# How long a drill waits for what must come; far above what a loaded machine takes, so it only ends broken drills.
PATIENCE_S = 240.0
PLAY_LIMIT_S = 480.0
# A real controller is another machine: here it gives way to the hosts, whose times are what a drill is about.
GIVE_WAY = ("nice", "-n", "5")
# `nohup make drills` would leave a play that no SIGHUP ends.
AS_IN_A_TERMINAL = ("env", "--default-signal=HUP,INT,TERM")
# What a restore does besides waiting, a program's start and one request each to docker and systemd, took 0.11 to
# 0.17 s in a twin alone on two cores of a shared virtual machine: the pace that counts as 1. A second worker makes the
# machine busy, and so counts as slowness too; DRILL_WORKERS=1 comes closest to the bare 3 s.
PACE_S, SLOWEST = 0.15, 3.0
# Measurements this long before or after the restore describe the same machine.
NEAR_S = 2.0
# Marks the processes of a drill on the controller, so that it finds its own and no others.
MARKER = "MT_DRILL"

# Runs in the twin: prints new journal entries and the number of lines of each sample file, as they appear, and the
# pace, now and again and often during a restore. Ends with its standard input, because the end of `docker exec` alone
# does not end what it started.
FOLLOW = r"""
import json, os, pathlib, subprocess, sys, threading, time
folder, since = pathlib.Path(sys.argv[1]), int(sys.argv[2])
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
speaking, restoring = threading.Lock(), threading.Event()

def say(**found):
    with speaking:
        print(json.dumps(found), flush=True)

def pace():
    words = (
        ["python3", "-c", "import argparse, ctypes, http.client, json"],
        ["docker", "ps", "--all", "--quiet"],
        ["systemctl", "show", "--property", "Result", "mt-run"],
    )
    while True:
        began = time.monotonic()
        try:
            for one in words:
                subprocess.run(one, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, timeout=2)
            say(pace=[began, time.monotonic() - began])
        except (OSError, subprocess.SubprocessError):
            # A fault has taken docker or systemd away: that is no pace.
            pass
        # Often while it counts, seldom before: looking is work for the machine, too.
        if restoring.is_set():
            time.sleep(1.5)
        else:
            restoring.wait(6)

threading.Thread(target=pace, daemon=True).start()
known, sizes, stamp = {}, {}, None
while True:
    journal = folder / "journal.jsonl"
    try:
        size = journal.stat().st_size
        if size != stamp:
            for line in journal.read_bytes().split(b"\n"):
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if entry["seq"] > since:
                    since = entry["seq"]
                    say(entry=entry)
                    if entry["event"] == "restore_started":
                        restoring.set()
                    elif entry["event"] in ("restored", "restore_failed"):
                        restoring.clear()
            stamp = size
        for path in (folder / "samples").glob("*.jsonl"):
            size = path.stat().st_size
            if sizes.get(path.stem) != size:
                sizes[path.stem] = size
                say(count=[path.stem, path.read_bytes().count(b"\n")])
    except OSError:
        pass
    time.sleep(0.02)
"""


class Broken(AssertionError):
    """A drill could not be carried out, or what it expected did not come; the text says which."""


def wait_until(ready: Callable[[], Any], what: str, limit_s: float = PATIENCE_S, pause_s: float = 0.02) -> Any:
    """Poll until ``ready`` returns something true, and return that."""
    deadline = time.monotonic() + limit_s
    while True:
        found = ready()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Broken(f"{what} did not come within {limit_s:.0f} s")
        time.sleep(pause_s)


def inventory(name: str) -> Any:
    """A variable of the twin's inventory, for a case that changes a part of it."""
    for path in sorted((ROOT / "playbooks/twin/group_vars/trial_hosts").glob("*.yml")):
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        if name in found:
            return found[name]
    raise Broken(f"the twin's inventory has no {name}")


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``; mappings are merged, everything else is replaced."""
    found = dict(base)
    for key, value in changes.items():
        old = found.get(key)
        found[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return found


class Play:
    """A playbook that runs against a twin, its output line by line, its processes."""

    def __init__(
        self, playbook: str, words: Sequence[str], twin: str, marker: str, variables: Mapping[str, Any], control: Path
    ) -> None:
        self.playbook, self.marker = playbook, marker
        self.lines: list[str] = []
        self._news = threading.Condition()
        program = shutil.which("ansible-playbook")
        if program is None:
            raise Broken("ansible-playbook is not on the PATH: make python")
        environment = {
            **os.environ,
            "MT_TWIN": twin,
            MARKER: marker,
            "PYTHONUNBUFFERED": "1",
            "ANSIBLE_NOCOLOR": "1",
            # SSH connections of its own: one that a drill has cut must not be there for the next.
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(control),
        }
        self.process = subprocess.Popen(
            [*GIVE_WAY, *AS_IN_A_TERMINAL, program, playbook, *words, "-i", "twin", "-e", json.dumps(variables)],
            cwd=ROOT / "playbooks",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # As in a terminal: a process group that Ctrl-C reaches, and nobody else.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()

    @property
    def text(self) -> str:
        """Everything said so far."""
        with self._news:
            return "".join(self.lines)

    @property
    def ended(self) -> bool:
        """Whether ansible-playbook has ended."""
        return self.process.poll() is not None

    def wait_for(self, words: str) -> None:
        """Wait until a line contains ``words``."""
        seen, deadline = 0, time.monotonic() + PATIENCE_S
        while True:
            with self._news:
                fresh, seen = self.lines[seen:], len(self.lines)
                if not any(words in line for line in fresh):
                    self._news.wait(0.05)
            if any(words in line for line in fresh):
                return
            if self.ended and seen == len(self.lines):
                raise Broken(f"{self.playbook} ended before it said {words!r}")
            if time.monotonic() > deadline:
                raise Broken(f"{self.playbook} did not say {words!r} within {PATIENCE_S:.0f} s")

    def wait(self, limit_s: float = PLAY_LIMIT_S) -> int:
        """Wait for the end; returns the exit code."""
        try:
            code = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise Broken(f"{self.playbook} still runs after {limit_s:.0f} s") from None
        # A worker or an SSH master may hold the pipe open for longer than the play lives.
        self._reader.join(1.0)
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process of ansible-playbook alone."""
        self.process.send_signal(number)

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the process group, as a terminal does."""
        os.killpg(self.process.pid, number)

    def processes(self) -> list[int]:
        """PIDs of this play and of all it started, wherever they hang in the process tree by now."""
        wanted = f"{MARKER}={self.marker}".encode()
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError):
                    if wanted in (folder / "environ").read_bytes().split(b"\0"):
                        found.append(int(folder.name))
        return found

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to everything this play started: a laptop that sleeps, or a drill that is over."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def close(self) -> None:
        """Let go of the output; every process that held the pipe open has been ended."""
        with contextlib.suppress(Broken):
            self.wait(5)
        self._reader.join(5)
        if self.process.stdout is not None and not self._reader.is_alive():
            self.process.stdout.close()

    def workers(self) -> list[str]:
        """Command lines of the play's own processes that still run; SSH masters end by themselves."""
        found = []
        for pid in self.processes():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if words and not words.startswith("ssh"):
                    found.append(f"{pid} {words}")
        return found


class Follower:
    """The journal and the sample counts of one run, as they grow, and the host's pace; survives the twin's restart."""

    def __init__(self, twin: str, run: str) -> None:
        self.twin, self.run = twin, run
        self.entries: list[dict[str, Any]] = []
        self.counts: dict[str, int] = {}
        # When it was taken, on the monotonic clock, and how long it took, in seconds.
        self.paces: list[tuple[float, float]] = []
        self._news = threading.Condition()
        self._stopping = False
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._stopping:
            since = self.entries[-1]["seq"] if self.entries else 0
            command = [
                "docker",
                "exec",
                "-i",
                self.twin,
                "python3",
                "-c",
                FOLLOW,
                f"{STATE}/runs/{self.run}",
                str(since),
            ]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            with self._process as process:
                assert process.stdout is not None
                for line in process.stdout:
                    try:
                        found = json.loads(line)
                    except ValueError:
                        # The host was cut off in the middle of it; it is read again when the host is back.
                        continue
                    with self._news:
                        if "entry" in found:
                            self.entries.append(found["entry"])
                        elif "pace" in found:
                            self.paces.append((found["pace"][0], found["pace"][1]))
                        else:
                            self.counts[found["count"][0]] = found["count"][1]
                        self._news.notify_all()
            time.sleep(0.1)

    def wait(self, ready: Callable[[], Any], what: str, limit_s: float, alive: Callable[[], bool]) -> Any:
        """Wait until ``ready`` holds; ends early when what should bring it about is no longer ``alive``."""
        deadline = time.monotonic() + limit_s
        with self._news:
            while True:
                found = ready()
                if found:
                    return found
                if time.monotonic() > deadline:
                    raise Broken(f"{what} did not come within {limit_s:.0f} s; journal so far: {self.told()}")
                if not alive():
                    raise Broken(f"the play ended before {what}; journal so far: {self.told()}")
                self._news.wait(0.1)

    def told(self) -> str:
        """The names of all events so far."""
        return " ".join(entry["event"] for entry in self.entries)

    def close(self) -> None:
        """Stop following."""
        self._stopping = True
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._thread.join(5)


class Drill:
    """One drill under way: the twin, the run, the play, the journal. Faults get this and nothing else."""

    def __init__(self, twin: Any, run: str, folder: Path, control: Path, variables: Mapping[str, Any]) -> None:
        self.twin, self.run, self.folder, self.control, self.variables = twin, run, folder, control, dict(variables)
        self.results = folder / "results"
        self.follower = Follower(twin.name, run)
        self.play: Play | None = None
        self.plays: list[Play] = []
        self.struck_s = 0.0
        self.counted: dict[str, int] = {}
        # What a fault found out and the case's words are looked for in, beside the output of the plays.
        self.notes: list[str] = []
        # Who a tenant was before the trial, where a fault compares.
        self.identity: dict[str, Any] = {}
        # What a fault must undo on the controller, however the drill ends.
        self.at_end: list[Callable[[], object]] = []

    # On the host.

    def sh(self, command: str, check: bool = True) -> str:
        """Run a shell command as root in the twin."""
        found: str = self.twin.run(command, check)
        return found

    def fault(self, name: str, value: str = "") -> None:
        """Switch a tenant's fault on (images/twin/README.md lists them)."""
        self.sh(f"printf %s '{value}' >/run/twin/faults/{name}")

    def gpu(self, **switches: Any) -> None:
        """Switch faults of the GPU; without any, all of them off."""
        path = "/run/twin-gpu/faults.json"
        text = json.dumps(switches)
        self.sh(f"printf %s '{text}' >{path}.part && mv {path}.part {path}" if switches else f"rm -f {path}")

    def mend(self) -> None:
        """Switch all faults of tenants and GPU off."""
        self.sh("rm -f /run/twin/faults/* /run/twin-gpu/faults.json /run/twin/clock")

    def python(self, code: str, *words: str) -> Any:
        """Run Python as root in the twin; returns what it printed, as JSON."""
        done = subprocess.run(
            ["docker", "exec", "-i", self.twin.name, "python3", "-", *words],
            input=code,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Broken(f"the host could not be looked at: {done.stderr[-500:]}")
        return json.loads(done.stdout)

    def check(self) -> dict[str, Any]:
        """Look at the host with other means than the collection's own (host_check.py)."""
        found: dict[str, Any] = self.python((HERE / "host_check.py").read_text(encoding="utf-8"), self.run)
        return found

    def slowness(self, since_s: float, until_s: float) -> float:
        """How many times PACE_S the host needed between two moments, 1 to SLOWEST; without docker then, just before."""
        took = [s for at_s, s in self.follower.paces if since_s - NEAR_S <= at_s and at_s + s <= until_s + NEAR_S]
        took = took or [s for at_s, s in self.follower.paces if at_s < since_s][-3:]
        return min(SLOWEST, max(1.0, statistics.median(took) / PACE_S)) if took else 1.0

    def is_open(self) -> bool:
        """Whether a trial holds the host."""
        return self.sh(f"test -e {STATE}/open && echo open || true") == "open"

    # The journal.

    def event(self, name: str, limit_s: float = PATIENCE_S, *, alive: bool = False, **facts: Any) -> dict[str, Any]:
        """Wait for an entry of the journal; with ``alive`` only for as long as the play runs."""

        def found() -> dict[str, Any] | None:
            return next((e for e in self.follower.entries if matches(e, name, facts)), None)

        what = f"the event {name} {facts or ''}".strip()
        entry: dict[str, Any] = self.follower.wait(found, what, limit_s, self._alive if alive else lambda: True)
        return entry

    def sampled(self, name: str, count: int) -> None:
        """Wait until a sample file has that many replies."""

        def enough() -> bool:
            return self.follower.counts.get(name, 0) >= count

        self.follower.wait(enough, f"{count} replies in {name}", PATIENCE_S, self._alive)

    def _alive(self) -> bool:
        return self.play is not None and not self.play.ended

    def entries(self, name: str, **facts: Any) -> list[dict[str, Any]]:
        """All entries so far with that name and those facts."""
        return [entry for entry in self.follower.entries if matches(entry, name, facts)]

    # On the controller.

    def start(self, playbook: str, *words: str, **changes: Any) -> Play:
        """Start a playbook of the checkout against the twin, with more words of its command line and variables."""
        own = {"verdict_results_dir": str(self.results), "acquire_build_dir": str(self.folder)}
        play = Play(playbook, words, self.twin.name, self.run, {**own, **changes}, self.control)
        self.plays.append(play)
        return play

    def start_trial(self, acquire: bool) -> None:
        """Start the trial that the fault will strike, with phase 1 or without."""
        words = () if acquire else ("--skip-tags", "acquire")
        # The twin was given everything before, and the whole trial is played nevertheless.
        needed = {"require_tags_needed": ["preflight"]}
        self.play = self.start("benchmark-e4b.yml", *words, trial_run=self.run, **needed, **self.variables)

    def strike(self) -> None:
        """Now the fault comes: note when, and what had been measured by then."""
        self.counted = dict(self.follower.counts)
        self.struck_s = time.monotonic()

    def close(self) -> None:
        """End what this drill started on the controller."""
        self.follower.close()
        for play in self.plays:
            play.signal_all(signal.SIGCONT)
            play.signal_all(signal.SIGKILL)
            play.close()
        for take_back in self.at_end:
            take_back()


def matches(entry: Mapping[str, Any], name: str, facts: Mapping[str, Any]) -> bool:
    """Whether a journal entry has this name and these facts."""
    return entry["event"] == name and all(entry.get(key) == value for key, value in facts.items())


def says(text: str, pattern: str) -> bool:
    """Whether a text contains the pattern; Ansible's output may be folded anywhere, so blanks match any blanks."""
    return re.search(pattern.replace(" ", r"\s+"), text, re.DOTALL) is not None
