"""Run the table of steps: `make test` is the short tier, `make prove` is everything.

    scripts/prove.py test            the tier `test`; leaves build/test.json
    scripts/prove.py prove           the tier `prove`; records each step in build/prove.json and resumes from it
    scripts/prove.py prove NAME ...  these steps, and the steps they need
    scripts/prove.py list            the steps, what they show, and on how many files they depend

Environment: ``ALL=1`` runs what is recorded as well. The log of each step is ``build/<tier>/<step>.log``.

Exit code 0: every step passed, was taken from the record, or needs something that this machine lacks (listed apart).
1: a step failed or was left out. 2: wrong usage. 130: interrupted.

Standard library only: it runs before anything is installed, on any Python from 3.11 on.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import fcntl
import hashlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import steps as table
from steps import PROVE, ROOT, TEST, Step

# How often to print what runs, when the output is no terminal.
WORD_EVERY_S = 60.0
TAIL_LINES = 60
# Between asking a step to end and killing it.
PATIENCE_S = 15.0
# In the environment of every step: which run it belongs to, so that the next run can end what a killed run left.
TAG = "MT_RUN_OF"
# The nice value of steps without a twin, so that they yield to those on twins.
NICE = 10
TWIN_LABEL = "edgelab.model_trial.twin"
WORDS = {"ok": "ok", "recorded": "ok, recorded", "failed": "FAILED", "skipped": "skipped", "left out": "LEFT OUT"}


class Usage(Exception):
    """The request cannot be fulfilled; the text says why."""


# ---- the tree, and what a step's result depends on ----


class Tree:
    """The tracked files of the checkout with the hashes of their contents, and whether anything is uncommitted."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.commit = self._git("rev-parse", "HEAD").strip()
        self.clean = bool(self.commit) and self._git("status", "--porcelain") == ""
        # "mode hash stage<tab>path": mode and hash are all that a step can see of a committed file.
        lines = [line.partition("\t") for line in self._git("ls-files", "-s", "-z").split("\0") if line]
        self.files = {path: facts for facts, _, path in lines}

    def _git(self, *words: str) -> str:
        try:
            done = subprocess.run(["git", *words], cwd=self.root, capture_output=True, text=True, check=False)
        except OSError:
            return ""
        return done.stdout if done.returncode == 0 else ""

    def matching(self, step: Step) -> list[str]:
        """Return the tracked files that a step depends on, sorted."""
        patterns = step.patterns
        if not patterns:
            return []
        wanted = re.compile("|".join(f"(?:{table.expression(pattern)})" for pattern in patterns))
        return sorted(path for path in self.files if wanted.fullmatch(path))

    def key(self, step: Step) -> str:
        """Return the hash under which a step's result is recorded: its definition, its files, this kind of machine."""
        definition = {k: v for k, v in dataclasses.asdict(step).items() if k not in ("does", "expected_s", "limit_s")}
        definition["tiers"] = sorted(step.tiers)
        total = hashlib.sha256(json.dumps(definition, sort_keys=True).encode())
        total.update(f"{platform.machine()} {sys.version_info[:2]}".encode())
        for path in self.matching(step):
            total.update(f"{path}\0{self.files[path]}\0".encode())
        return total.hexdigest()


# ---- the record ----


def write_json(path: Path, data: object) -> None:
    """Write a JSON file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def now() -> str:
    """Return the time in UTC, as the records hold it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class Record:
    """``build/prove.json``: the last result of each step with the key it had. A dirty tree records nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            steps = found["steps"]
            self.steps: dict[str, dict[str, Any]] = {str(k): dict(v) for k, v in steps.items()}
        except FileNotFoundError:
            self.steps = {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
            raise Usage(
                f"{path}: expected the record of an earlier `make prove`, found something else ({err!r}). "
                "Remove the file to prove everything again."
            ) from err

    def holds(self, step: Step, key: str) -> bool:
        """Whether this step passed with exactly these files."""
        entry = self.steps.get(step.name, {})
        return bool(step.files) and entry.get("key") == key and entry.get("result") == "ok"

    def seconds(self, name: str) -> float | None:
        """Return how long a step took the last time, None where it never ran."""
        value = self.steps.get(name, {}).get("seconds")
        return float(value) if isinstance(value, int | float) else None

    def add(self, step: Step, result: Result, tree: Tree) -> None:
        """Record a finished step, unless the tree is dirty, or changed while the step ran."""
        if not step.files or not tree.clean:
            return
        fresh = Tree(tree.root)
        if not fresh.clean or fresh.key(step) != tree.key(step):
            return
        self.steps[step.name] = {
            "result": result.result,
            "key": tree.key(step),
            "commit": tree.commit,
            "seconds": round(result.seconds, 1),
            "ended": now(),
        }
        write_json(self.path, {"steps": dict(sorted(self.steps.items()))})


@dataclasses.dataclass
class Result:
    """How a step ended: ok, recorded, failed, skipped, left out; and why, where that needs a word."""

    result: str
    seconds: float = 0.0
    why: str = ""


# ---- one running step ----


class Running:
    """A started step: a Unix session of its own, so that it can be ended whole, and its log."""

    def __init__(self, step: Step, words: Sequence[str], variables: dict[str, str], log: Path) -> None:
        self.step, self.log, self.tag = step, log, variables.get(TAG, "")
        self.began_s = time.monotonic()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                words, cwd=ROOT, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        self.hung = False
        if not step.twin and not step.is_ground:
            give_way(self.process.pid)

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began_s

    def poll(self) -> Result | None:
        """Return how it ended, None while it runs; end it where it hangs."""
        code = self.process.poll()
        if code is None and self.seconds > self.step.limit_s:
            self.hung = True
            self.end()
            code = self.process.returncode
        if code is None:
            return None
        self.end_left()
        if self.hung:
            return Result("failed", self.seconds, f"hung: ended after {self.step.limit_s:.0f} s")
        return Result("ok", self.seconds) if code == 0 else Result("failed", self.seconds, f"exit code {code}")

    def end(self) -> None:
        """Ask it to end, then kill it."""
        end_session(self.process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE_S)
        end_session(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.end_left()

    def end_left(self) -> None:
        """End what the step left running, in its Unix session or another: it would disturb the next one."""
        end_session(self.process.pid, signal.SIGKILL)
        if self.tag:
            end_tagged(self.tag)

    def tail(self) -> str:
        """Return the last lines of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])


def give_way(pid: int) -> None:
    """Let a step that computes yield to steps on twins, which measure time: nice, and its Unix session's."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, NICE)
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(NICE), encoding="ascii")


def session_of(pid: int) -> tuple[int, int] | None:
    """Return (session, start time in clock ticks since boot) of a process; None where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return int(fields[3]), int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def end_session(session: int, number: int) -> None:
    """Send a signal to every process of a Unix session that this program started."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := session_of(int(entry.name))) is not None and found[0] == session:
            with contextlib.suppress(OSError):
                os.kill(int(entry.name), number)


def end_tagged(tag: str) -> int:
    """End every process whose environment says that it belongs to this run or step; returns how many there were.

    Args:
        tag: ``build/<tier>/<step>`` as an absolute path, or the folder with a slash at its end for all of its steps.
    """
    ended = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "environ").read_bytes().split(b"\0")
            of = next((word for word in words if word.startswith(f"{TAG}=".encode())), b"").decode(errors="replace")
            if of == f"{TAG}={tag}" or (tag.endswith("/") and of.startswith(f"{TAG}={tag}")):
                os.kill(int(entry.name), signal.SIGKILL)
                ended += 1
    return ended


# ---- the run ----


class Screen:
    """What a person sees: a line for each step that ends, and now and then what runs and how long it will take."""

    def __init__(self, stream: Any = None) -> None:
        self.stream = stream or sys.stdout
        self.terminal = self.stream.isatty()
        self.status = ""

    def line(self, text: str = "") -> None:
        """Write a line that stays."""
        self._clear()
        print(text, file=self.stream, flush=True)

    def _clear(self) -> None:
        if self.status:
            self.stream.write("\r\x1b[K")
            self.status = ""

    def show(self, text: str) -> None:
        """Replace the line at the bottom of a terminal."""
        if self.terminal:
            width = max(20, os.get_terminal_size().columns - 1)
            self._clear()
            self.status = text[:width]
            self.stream.write(self.status)
            self.stream.flush()


def clock(seconds: float) -> str:
    """Write seconds as people say them."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class Run:
    """One run of a tier."""

    def __init__(self, tier: str, names: Sequence[str], *, screen: Screen | None = None) -> None:
        self.tier = tier
        self.folder = ROOT / "build" / tier
        self.tree = Tree()
        self.everything = os.environ.get("ALL", "") not in ("", "0")
        self.record = Record(ROOT / "build" / "prove.json")
        self.screen = screen or Screen()
        self.steps = chosen(tier, names)
        self.part_of = bool(names)
        self.results: dict[str, Result] = {}
        self.running: list[Running] = []
        self.twins: dict[str, str] = {}
        self.cores = os.cpu_count() or 2
        self.began_s = time.monotonic()
        self.began = now()
        self.interrupted = False
        # Two checkouts on one machine do not share twins.
        place = hashlib.sha256(str(ROOT).encode()).hexdigest()[:4]
        self.names = {one: f"mt-{tier}-{place}-{one}" for one in ("a", "b")}

    # What to run.

    def decide(self) -> None:
        """Settle what needs no run: recorded steps, steps that this machine cannot run, steps that only those need."""
        for step in self.steps:
            if self.tier == PROVE and not self.everything and self.record.holds(step, self.tree.key(step)):
                self.results[step.name] = Result("recorded", self.record.seconds(step.name) or 0.0)
                continue
            for need in step.needs:
                lack = table.NEEDS[need]()
                if lack is not None:
                    self.results[step.name] = Result("skipped", 0.0, lack)
        # A step that only prepares runs if a step that needs it does.
        wanted: set[str] = set()
        for step in reversed(self.steps):
            if step.name not in self.results and (not step.is_ground or step.name in wanted):
                wanted.update((step.name, *step.after))
        self.steps = [step for step in self.steps if step.name in self.results or step.name in wanted]

    def ready(self, step: Step) -> bool:
        """Whether every step that this one needs has passed."""
        return all(self.passed(name) for name in step.after)

    def passed(self, name: str) -> bool:
        """Whether a step has passed, now or on record."""
        return name in self.results and self.results[name].result in ("ok", "recorded")

    def leave_out(self) -> None:
        """Leave out the steps that need one that did not pass."""
        changed = True
        while changed:
            changed = False
            for step in self.pending():
                bad = [n for n in step.after if n in self.results and not self.passed(n)]
                if bad:
                    self.finish(step, Result("left out", 0.0, f"needs {bad[0]}, which did not pass"))
                    changed = True

    def pending(self) -> list[Step]:
        """Return the steps that have neither ended nor begun, the table's order kept."""
        begun = {one.step.name for one in self.running}
        return [step for step in self.steps if step.name not in self.results and step.name not in begun]

    def next_step(self) -> tuple[Step, str] | None:
        """Return a step that can begin now, and its twin.

        There are as many places as cores. Steps on a twin mostly wait, so one of them takes no place.
        """
        workers = sum(not one.step.twin for one in self.running)
        on_twins = len(self.running) - workers
        room = max(2, self.cores) - workers - max(0, on_twins - 1)
        for step in sorted(self.pending(), key=lambda one: not one.is_ground):
            if not self.ready(step) or room < (1 if on_twins or not step.twin else 0):
                continue
            if not step.twin:
                return step, ""
            if (twin := self.free_twin(step.twin)) is not None:
                return step, twin
        return None

    def free_twin(self, wanted: str) -> str | None:
        """Return a twin that no running step has, None where there is none."""
        for one in ("a", "b") if wanted == "any" else (wanted,):
            if one not in self.twins.values():
                return one
        return None

    # Running it.

    def go(self) -> int:
        """Run the steps; returns the exit code."""
        # The lock guarantees that no other run is active here.
        left = end_tagged(f"{self.folder}/")
        if left:
            self.screen.line(f"ended {left} processes that a killed run had left")
        if self.tier == PROVE and not self.tree.clean:
            self.screen.line("the tree is dirty (git status): passing steps are not recorded")
        self.decide()
        done = sum(result.result == "recorded" for result in self.results.values())
        if done:
            self.screen.line(
                f"{done} steps passed before with the same files (build/prove.json); ALL=1 runs them again"
            )
        with interruptible() as asked:
            try:
                self.run_all(asked)
            finally:
                for one in self.running:
                    one.end()
                    self.results[one.step.name] = Result("left out", one.seconds, "interrupted")
                self.running.clear()
                for step in self.pending():
                    self.results[step.name] = Result("left out", 0.0, "interrupted")
                self.remove_twins()
        return self.report()

    def run_all(self, asked: Sequence[int]) -> None:
        """Begin what can begin and take in what has ended, until nothing is left or somebody ``asked`` to stop."""
        spoken_s = time.monotonic()
        while self.running or self.pending():
            if asked:
                self.interrupted = True
                self.screen.line("interrupted: ending what runs")
                return
            self.leave_out()
            while (found := self.next_step()) is not None:
                self.begin(*found)
            if not self.running and self.pending():
                raise RuntimeError(f"the table is circular: {[step.name for step in self.pending()]}")
            time.sleep(0.1)
            self.collect()
            if time.monotonic() - spoken_s > (1 if self.screen.terminal else WORD_EVERY_S):
                spoken_s = time.monotonic()
                self.say_where()

    def begin(self, step: Step, twin: str) -> None:
        """Start a step."""
        words = [self.fill(word, twin) for word in step.command]
        if twin:
            self.twins[step.name] = twin
        self.running.append(Running(step, words, self.variables(step, twin), self.folder / f"{step.name}.log"))

    def fill(self, word: str, twin: str) -> str:
        """Put names into a word of a command."""
        for key, value in {**self.names, "twin": self.names.get(twin, ""), "python": sys.executable}.items():
            word = word.replace("{" + key + "}", value)
        return word

    def variables(self, step: Step, twin: str) -> dict[str, str]:
        """Return the environment of a step."""
        found = {**os.environ, "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"}
        # Not the tag of a run around this one: what ends a step's leftovers would end that run.
        found.pop(TAG, None)
        if not step.is_ground:
            # A Docker engine that a step of the ground starts outlives the run.
            found[TAG] = f"{self.folder}/{step.name}"
        found |= {"MT_PROFILE": "long" if self.tier == PROVE else "short", "MT_TWINS_KEPT": "1"}
        if twin:
            found |= {"MT_TWIN": self.names[twin], "MT_TWIN_TESTS": self.names[twin]}
        return found | {key: self.fill(value, twin) for key, value in step.variables.items()}

    def collect(self) -> None:
        """Take in the steps that have ended."""
        for one in list(self.running):
            result = one.poll()
            if result is not None:
                self.running.remove(one)
                self.twins.pop(one.step.name, None)
                self.finish(one.step, result)
                if result.result == "failed":
                    where = one.log.relative_to(ROOT)
                    self.screen.line(f"---- {one.step.name}: {result.why}; the end of {where}:\n{one.tail()}\n----")

    def finish(self, step: Step, result: Result) -> None:
        """Note how a step ended, on the screen and in the record."""
        self.results[step.name] = result
        ended = sum(one.name in self.results for one in self.steps)
        self.screen.line(
            f"[{ended:2}/{len(self.steps)}] {WORDS[result.result]:8} {step.name:18} {result.seconds:5.0f} s  "
            f"{result.why or step.does}"
        )
        if self.tier == PROVE and result.result in ("ok", "failed"):
            self.record.add(step, result, self.tree)

    def say_where(self) -> None:
        """Say what runs, and about how long it will take."""
        names = ", ".join(f"{one.step.name} {one.seconds:.0f} s" for one in self.running)
        ended = sum(step.name in self.results for step in self.steps)
        text = f"... {clock(time.monotonic() - self.began_s)}: {ended} of {len(self.steps)} done, running {names}; "
        text += f"about {clock(self.remaining_s())} left"
        if self.screen.terminal:
            self.screen.show(text)
        else:
            self.screen.line(text)

    def remaining_s(self) -> float:
        """Estimate the seconds left: what the steps took the last time, else the table's figures at this run's pace."""
        ran = [(step, self.results[step.name]) for step in self.steps if step.name in self.results]
        pairs = [(result.seconds, step.expected_s) for step, result in ran if result.result == "ok"]
        pace = sum(took for took, _ in pairs) / sum(expected for _, expected in pairs) if pairs else 1.0

        def guess(step: Step) -> float:
            return self.record.seconds(step.name) or step.expected_s * pace

        begun = {one.step.name: max(0.0, guess(one.step) - one.seconds) for one in self.running}
        waiting = {step.name: guess(step) for step in self.pending()}
        places = max(2, self.cores)
        return max([sum((begun | waiting).values()) / places, *begun.values(), *waiting.values()], default=0.0)

    def remove_twins(self) -> None:
        """Remove the twins of this run, those that a test made beside them too."""
        if not any("{a}" in word for step in self.steps for word in step.run):
            return
        command = ["docker", "ps", "--all", f"--filter=label={TWIN_LABEL}", "--format={{.Names}}"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            listed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout.split()
            for name in listed:
                if name.startswith(tuple(self.names.values())):
                    down = [sys.executable, str(ROOT / "images/twin/twin.py"), "down", "--name", name]
                    subprocess.run(down, capture_output=True, check=False, timeout=120)

    # The report at the end.

    def report(self) -> int:
        """Print the table, write build/test.json; returns the exit code."""
        total_s = time.monotonic() - self.began_s
        apart = [(step, self.results[step.name]) for step in self.steps if self.results[step.name].result == "skipped"]
        shown = [(step, self.results[step.name]) for step in self.steps if self.results[step.name].result != "skipped"]
        self.screen.line()
        for step, result in shown:
            why = "" if result.result in ("ok", "recorded") else f"  {result.why}"
            self.screen.line(f"  {WORDS[result.result]:13} {step.name:18} {result.seconds:6.0f} s{why}")
        if apart:
            self.screen.line("\n  skipped here, because this machine lacks what they need:")
            for step, result in apart:
                self.screen.line(f"  {'':13} {step.name:18} {result.why}")
        bad = [step.name for step, result in shown if result.result in ("failed", "left out")]
        good = len(shown) - len(bad)
        self.screen.line(f"\n  {self.tier}: {clock(total_s)}; {self.place()}")
        ok = not bad and not self.interrupted
        if self.tier == TEST:
            write_json(ROOT / "build" / "test.json", self.document(total_s, ok))
        if bad:
            self.screen.line(f"  not proved: {', '.join(bad)}; logs in {self.folder.relative_to(ROOT)}/")
        skipped = f", {len(apart)} skipped" if apart else ""
        self.screen.line(f"{good} passed, {len(bad)} failed{skipped}")
        if self.interrupted:
            return 130
        return 0 if ok else 1

    def place(self) -> str:
        """Say for which files the result holds."""
        fresh = Tree()
        if fresh.commit != self.tree.commit or fresh.clean != self.tree.clean:
            return "the tree changed meanwhile: this proves nothing about any commit"
        state = "clean" if self.tree.clean else "with uncommitted changes"
        return f"commit {self.tree.commit[:12] or 'unknown'}, {state}"

    def document(self, total_s: float, ok: bool) -> dict[str, Any]:
        """Return the content of build/test.json."""
        return {
            "commit": self.tree.commit,
            "clean": self.tree.clean and not self.place().startswith("the tree changed"),
            "ok": ok,
            "part": self.part_of,
            "began": self.began,
            "seconds": round(total_s, 1),
            "cores": self.cores,
            "steps": [
                {"name": step.name, "result": result.result, "seconds": round(result.seconds, 1), "why": result.why}
                for step in self.steps
                for result in [self.results[step.name]]
            ],
        }


def chosen(tier: str, names: Sequence[str]) -> list[Step]:
    """Return the steps of a tier; with names, only those and the steps they need."""
    steps = [step for step in table.STEPS if tier in step.tiers]
    if not names:
        return steps
    wanted: set[str] = set()

    def add(name: str) -> None:
        step = next((one for one in steps if one.name == name), None)
        if step is None:
            known = ", ".join(one.name for one in steps)
            raise Usage(f"expected steps of `make {tier}`, found {name!r}. There are: {known}")
        wanted.add(name)
        for other in step.after:
            if other not in wanted:
                add(other)

    for name in names:
        add(name)
    return [step for step in steps if step.name in wanted]


@contextlib.contextmanager
def interruptible() -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGHUP instead of being interrupted anywhere, so that no started step is lost."""
    asked: list[int] = []

    def note(number: int, _frame: object) -> None:
        asked.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def only_one(tier: str) -> Iterator[None]:
    """Refuse a second run of a tier in the same checkout: both would use the same twins."""
    path = ROOT / "build" / tier / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            raise Usage(f"`make {tier}` runs in this checkout already; wait for it, or use another clone.") from err
        yield


def show_list() -> int:
    """Print the table."""
    tree = Tree()
    for step in table.STEPS:
        tiers = "+".join(sorted(step.tiers, reverse=True))
        print(f"{step.name:18} {tiers:10} {len(tree.matching(step)):5} files  {step.does}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(description="Run the steps of `make test` or `make prove`.")
    parser.add_argument("tier", choices=(TEST, PROVE, "list"))
    parser.add_argument("names", nargs="*", help="only these steps, and the steps they need")
    options = parser.parse_args(arguments)
    if options.tier == "list":
        return show_list()
    try:
        with only_one(options.tier):
            return Run(options.tier, options.names).go()
    except Usage as err:
        print(f"prove: error: {err}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
