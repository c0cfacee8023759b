"""Break one mechanism at a time, on a copy, and demand that `make test` notices.

    python tests/mutations.py                      all of them (a step of `make prove`)
    python tests/mutations.py 'lease never lapses' some of them, by name

A mutation replaces a text of the product. It says which promise, decision or claim it attacks; the table of promises
(scripts/promises.py) names the unit tests of that row, which the step `promises` of `make test` runs. On a copy of the
checkout's files the row's own tests run first, then the whole step; the first failure ends it. A mutant is caught when
one of the row's own tests fails, and with it the step. It survives when the step passes, when only tests of other rows
fail, when tests hang, or when nothing could fail because Python could not even read the code. The unbroken copy must
pass the whole step.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import promises  # noqa: E402  # scripts/ is no package

AT_ONCE = 2
# The unbroken step takes half a minute on two slow cores; a mutant that makes a test hang does not count as caught.
LIMIT_S = 240.0


@dataclass(frozen=True)
class Mutation:
    """One mechanism, removed.

    Attributes:
        name: what a person calls it.
        attacks: a promise in README's own words, "decision N" or "claim N".
        file: where the mechanism is.
        old: the text to replace; it must be there exactly once.
        new: what stands there instead.
    """

    name: str
    attacks: str
    file: str
    old: str
    new: str


CORE, MEASURE = "plugins/module_utils", "bench/trialbench/measure"
UNITS = "roles/acquire/templates"
CONTRACTS = "nothing is touched while a contract is broken"
READABLE = "a workload that could not be sent or read is found before a tenant stops"
WINDOW_ENDS = "the window ends, whatever process dies"
COMES_BACK = "the host comes back, however the window ended"
IN_TIME = "the host is *back* when the cap is reached"
CONTROLLER = "the host notices a lost controller"
NETWORK = "a play survives a cut network"
REBOOT = "a reboot in the window starts the restore"
AT_WORK = "an abandoned trial is restored"
IN_KERNEL = "a driver that hangs in the kernel blocks neither runner nor restore"
ANYWHERE = "a restore may be interrupted anywhere"
NEEDS_NOTHING = "a restore needs no disk, no GPU and no dockerd"
IN_ORDER = "what was stopped is started again, in order"
OUTLIVES = "a stop or start that was begun is completed"
WHO_IT_WAS = "a restored tenant keeps its identity"
STAYS_UP = "a restored tenant stays up"
BESIDE = "units that go down with a tenant come back"
NO_WAY_BACK = "a trial never stops what it could not start again"
ONCE = "a run runs once"
REHEARSED = "a host without a passed rehearsal is reported or refused"
CLEAN_WAY = "phase 0 finds a login channel that would spoil the results"
NOTHING_DONE = "a play that would do nothing fails"
TWO_TRIALS = "two trials never overlap"
KEEPS = "an open run keeps its own program"
NO_RELOAD = "a trial never reloads systemd"
OTHER_HOSTS = "one host never endangers another"
ROOT_ALONE = "only root reads or controls a trial"
SAME_QUESTION = "the candidate is asked what production asks"
EMPTY_REPLY = "an empty reply never counts as a fast one"

MUTATIONS: tuple[Mutation, ...] = (
    # ---- contracts ----
    Mutation("a broken contract is ignored", CONTRACTS, "roles/preflight/tasks/main.yml",
             "  register: preflight_contracts\n", "  register: preflight_contracts\n  ignore_errors: true\n"),
    Mutation("a broken contract is no failure", CONTRACTS, "plugins/modules/contracts.py",
             "    if broken:\n", "    if broken and not found:\n"),
    Mutation("what is wrong with workloads is not told", READABLE, "bench/trialbench/verbs/measure.py",
             "join(problems(listed, ", "join(problems([], "),
    Mutation("a workload that can't be sent is no failure", READABLE, "bench/trialbench/workloads/planned.py",
             "            found.append(str(error))\n            continue\n", "            continue\n"),
    Mutation("what changed since the rehearsal is not seen", REHEARSED, f"{CORE}/rehearsal.py",
             "    if changed:\n", "    if changed and not now:\n"),
    Mutation("a rehearsal is never insisted on", REHEARSED, f"{CORE}/contracts.py",
             "required=lambda plan: plan.require_rehearsal,", "required=lambda _: False,"),
    Mutation("a file that comes back as another is taken", CLEAN_WAY, "plugins/action/channel.py",
             "if not found and raw != BYTES:", "if not found and not raw:"),
    Mutation("a playbook does not look at its tags", NOTHING_DONE, "playbooks/benchmark_e4b.yml",
             "require_tags_known: [preflight, acquire]", "require_tags_known: [preflight, acquire, measure]"),
    # ---- the window ----
    Mutation("the runner has no time limit", WINDOW_ENDS, f"{CORE}/services.py",
             '"RuntimeMaxSec": f"{max_s:.0f}"', '"RuntimeMaxSec": "infinity"'),
    Mutation("a runner that does not end is waited for", WINDOW_ENDS, f"{CORE}/services.py",
             '"TimeoutStopSec": "2"', '"TimeoutStopSec": "infinity"'),
    Mutation("the runner may live until the cap", IN_TIME, f"{CORE}/plan.py",
             "return self.limits.cap_s - self.restore_bound_s", "return self.limits.cap_s"),
    Mutation("OnFailure=mt-restore removed", COMES_BACK, f"{CORE}/services.py",
             '        "OnFailure": RESTORER,\n', ""),
    Mutation("OnSuccess=mt-restore removed", COMES_BACK, f"{CORE}/services.py",
             '        "OnSuccess": RESTORER,\n', ""),
    Mutation("a failed restore is not tried again", COMES_BACK, f"{UNITS}/mt-restore.service.j2",
             "Restart=on-failure\n", ""),
    # ---- the controller and the network ----
    Mutation("lease never lapses", CONTROLLER, f"{CORE}/runner.py",
             "if plan.attended and state.lease_age_s() > plan.limits.lease_s:", "if not plan:"),
    Mutation("a worker without its play renews the lease", CONTROLLER, "plugins/action/phase.py",
             "if controller and os.getppid() != controller.pid:", "if not controller:"),
    Mutation("a cut network ends the play at once", NETWORK, "plugins/plugin_utils/away.py",
             "if time.monotonic() >= deadline:", "if deadline:"),
    Mutation("nothing recovers at boot", REBOOT, f"{CORE}/install.py",
             '["systemctl", "enable", "--no-reload", "--root=/", RECOVERER]', '["systemctl", "status", RECOVERER]'),
    # ---- who watches ----
    Mutation("a runner that stands still is not ended", AT_WORK, f"{CORE}/services.py",
             '        "WatchdogSec": "30",\n', ""),
    Mutation("nobody looks a second time", AT_WORK, f"{UNITS}/mt-watch.timer.j2", "OnUnitActiveSec=30\n", ""),
    Mutation("the watch is not started", AT_WORK, f"{CORE}/program.py",
             'if _systemctl("start", watch.TIMER) != 0:', "if not trial:"),
    Mutation("the watch looks and does nothing", AT_WORK, f"{CORE}/program.py",
             '_systemctl("restart", "--no-block", services.RESTORER)', "0"),
    Mutation("a program that stands still is at work", AT_WORK, f"{CORE}/watch.py",
             "if last_s and silent_s > STALE_S:", "if not last_s:"),
    Mutation("a main thread that hangs sends heartbeats", AT_WORK, f"{CORE}/watch.py",
             "if now_s - self._since_s < STILL_S:", "if self._tell:"),
    Mutation("who asks opens the driver as well", IN_KERNEL, f"{CORE}/driver.py",
             "        said: dict[str, Any] = json.loads(line)\n",
             "        said: dict[str, Any] = _source(0).read() and json.loads(line)\n"),
    Mutation("a container that can't be killed is asked for again", IN_KERNEL, f"{CORE}/containers.py",
             "        if slow:\n", "        if not left:\n"),
    # ---- the restore ----
    Mutation("restore order swapped", IN_ORDER, f"{CORE}/restorer.py",
             "for name in self.plan.restore_order)\n", "for name in reversed(self.plan.restore_order))\n"),
    Mutation("a start that fails is not tried again", IN_ORDER, f"{CORE}/restorer.py",
             "RETRY_S = (0.5, 1.0)", "RETRY_S = ()"),
    Mutation("drain minimum 0", "decision 7", f"{CORE}/restorer.py",
             "min_s = max(0.0, limits.drain_min_s - (time.monotonic() - since))", "min_s = 0.0"),
    Mutation("a restore does not look who is up", ANYWHERE, f"{CORE}/restorer.py",
             "                healthy = tenants.look(tenant).healthy\n", "                healthy = False\n"),
    Mutation("a stop that was begun is forgotten", OUTLIVES, f"{CORE}/restorer.py",
             "            self.end_stops()\n", ""),
    Mutation("what was begun counts as healthy", OUTLIVES, f"{CORE}/tenants.py",
             "    if begun or not seen.up:\n", "    if not seen.up:\n"),
    Mutation("what loads is started again", OUTLIVES, f"{CORE}/restorer.py",
             'next((scope for scope in tenants.of(tenant).loading() if scope not in known), "")', 'known[:0] or ""'),
    Mutation("a start ignores the earlier identity", WHO_IT_WAS, f"{CORE}/identity.py",
             "    known, own = before(tenant).identity, read(", "    known, own = None, read("),
    Mutation("who came back is not compared", WHO_IT_WAS, f"{CORE}/checks.py",
             "        changes = tenants.changed(tenant, before or {})\n", '        changes = ""\n'),
    Mutation("a command keeps root's groups", "claim 30", f"{CORE}/identity.py",
             ', "--init-groups"]\n', ', "--keep-groups"]\n'),
    Mutation("whatever has its argv is ended", "claim 18", f"{CORE}/tenants.py",
             "        if known or mine:\n            return mine\n", "        if found:\n            return found\n"),
    Mutation("nobody looks whether a tenant stays up", STAYS_UP, f"{CORE}/restorer.py",
             "            self.settle(bool(absent) or followed)\n", ""),
    Mutation("a restarted tenant has stayed up", STAYS_UP, f"{CORE}/tenants.py",
             "    if restarts != first.restarts:\n", "    if restarts < 0:\n"),
    Mutation("any program that answers is the tenant", "claim 28", f"{CORE}/tenants.py",
             "    foreign = [item for item in held if not owns(tenant, item, host)]\n", "    foreign = held[:0]\n"),
    Mutation("nobody looks who listens in a window", "claim 28", f"{CORE}/runner.py",
             "        self._judge(self.ports.look(sure=sure))\n", ""),
    Mutation("any listener is the candidate", "claim 28", f"{CORE}/runner.py",
             "self.server is not None and self.server.pid in probes.ancestors(item.pid)", "item.pid > 0"),
    Mutation("a port that was free counts as held", "claim 28", f"{CORE}/owners.py",
             "            return self._reopened(number, port, present) if present else None\n", "            pass\n"),
    Mutation("void samples count", "claim 28", "bench/trialbench/report/run.py",
             "if sample.t_end_s <= self.since_s)", "if sample.t_end_s)"),
    Mutation("who goes down with a tenant is no contract's", BESIDE, f"{CORE}/contracts.py",
             "    lost += beside.broken\n", ""),
    Mutation("a stop leads to the next unit only", BESIDE, f"{CORE}/units.py",
             "        level = ahead\n", "        level = set()\n"),
    Mutation("who went down with a tenant stays down", BESIDE, f"{CORE}/restorer.py",
             "            followed = self.start_dependents()\n", "            followed = False\n"),
    Mutation("what is gone is not looked for", BESIDE, f"{CORE}/restorer.py",
             "            self.compare()\n", ""),
    Mutation("a transient unit is stopped", NO_WAY_BACK, f"{CORE}/units.py",
             'elif facts.get("Transient") == "yes":', 'elif facts.get("Transient") == "never":'),
    Mutation("a container that its stop removes is stopped", NO_WAY_BACK, f"{CORE}/tenants.py",
             'if box["auto_remove"]:', 'if not box:'),
    Mutation("no definition is kept", NO_WAY_BACK, f"{CORE}/runner.py",
             '        definitions.keep(plan, state, found["surroundings"]["dependents"])\n', "        pass\n"),
    Mutation("definitions outlive the mark", "claim 29", f"{CORE}/journal.py",
             "        shutil.rmtree(self.definitions, ignore_errors=True)\n", ""),
    Mutation("a run is run again", ONCE, f"{CORE}/program.py",
             'if any(e["by"] == "runner" for e in read(state.journal_path(mark.run))):', "if not mark.run:"),
    Mutation("without a snapshot nobody is started", ANYWHERE, f"{CORE}/restorer.py",
             '.get(tenant.name, {"running": True})', '.get(tenant.name, {"running": False})'),
    Mutation("no space is set aside for the journal", NEEDS_NOTHING, f"{CORE}/runner.py",
             "        reserve(state.journal_path(plan.run))\n", "        state.journal_path(plan.run)\n"),
    Mutation("a full disk ends the restore", NEEDS_NOTHING, f"{CORE}/restorer.py",
             '"restorer", required=False)', '"restorer", required=True)'),
    Mutation("a blind drain waits for nothing", NEEDS_NOTHING, f"{CORE}/restorer.py",
             "            time.sleep(min_s)\n            return\n", "            return\n"),
    Mutation("without docker the candidate lives on", NEEDS_NOTHING, f"{CORE}/restorer.py",
             "            self.kill_candidate()\n", ""),
    # ---- others ----
    Mutation("phase 1 replaces the program of an open trial", KEEPS, f"{CORE}/install.py",
             "                raise _held(mark)\n            changed", "                pass\n            changed"),
    Mutation("a newer program restores an older run", KEEPS, f"{CORE}/program.py",
             "        if args.verb in KEPT_VERBS:\n", "        if not args.verb:\n"),
    Mutation("a damaged copy restores", KEEPS, f"{CORE}/kept.py",
             "if found == wanted else", "if found else"),
    Mutation("enabling a unit reloads systemd", NO_RELOAD, f"{CORE}/install.py",
             '"enable", "--no-reload", ', '"enable", '),
    Mutation("a unit that is in use is replaced", NO_RELOAD, f"{CORE}/install.py",
             "        _await_forgotten(source.name)\n", "        pass\n"),
    Mutation("an open mark is not looked at", TWO_TRIALS, f"{CORE}/program.py",
             "        mark = state.mark()\n        if mark:\n            raise Held(",
             "        mark = state.mark()\n        if mark and not mark:\n            raise Held("),
    Mutation("a stale epoch is let in", TWO_TRIALS, f"{CORE}/journal.py",
             "mark.run == run and mark.epoch == epoch == self.epoch():", "mark.run == run:"),
    Mutation("the runner does not look at the epoch", TWO_TRIALS, f"{CORE}/runner.py",
             "if state.epoch() != self.epoch:", "if state.epoch() < 0:"),
    Mutation("several hosts go in lockstep", OTHER_HOSTS, "playbooks/benchmark_e4b.yml",
             "else 'host_pinned' }}", "else 'linear' }}"),
    Mutation("a failed host stops nobody", OTHER_HOSTS, "roles/trial/vars/main.yml",
             "(_trial_failed | length) * 100 >", "(_trial_failed | length) * 0 >"),
    Mutation("everybody reads what is written", ROOT_ALONE, f"{CORE}/journal.py",
             "text: str, mode: int = 0o600)", "text: str, mode: int = 0o644)"),
    Mutation("everybody looks into a run", ROOT_ALONE, f"{CORE}/runner.py",
             "        folder.chmod(0o700)\n", "        folder.chmod(0o755)\n"),
    Mutation("candidate started with --host 0.0.0.0", "claim 1", f"{CORE}/containers.py",
             '["--host", "127.0.0.1", "--port"', '["--host", "0.0.0.0", "--port"'),
    Mutation("everybody writes the program that root runs", "claim 4", f"{CORE}/install.py",
             "PROGRAM_MODE, UNIT_MODE = 0o755", "PROGRAM_MODE, UNIT_MODE = 0o777"),
    Mutation("harvest follows links", "claim 16", "plugins/action/harvest.py",
             "return member.isreg() and named and not any(path.is_symlink() for path in paths)", "return named"),
    # ---- what is measured ----
    Mutation("the prompt function has the network", SAME_QUESTION, f"{CORE}/containers.py",
             '        "--network=none",\n', '        "--network=host",\n'),
    Mutation("the prompt is tidied up", SAME_QUESTION, f"{CORE}/runner.py",
             '"prompt.txt", prompt, 0o644)', '"prompt.txt", prompt.strip(), 0o644)'),
    Mutation("an empty reply is a good one", EMPTY_REPLY, f"{MEASURE}/sample.py",
             "        if not text.strip() and not called:\n", "        if not isinstance(text, str):\n"),
    Mutation("think detector off", EMPTY_REPLY, f"{MEASURE}/sample.py",
             'if (reply.reasoning or "").strip() or reply.thinking_tokens or thinking.in_text(text):',
             "if not isinstance(text, str):"),
    Mutation("adherence counted over ok replies only", EMPTY_REPLY, f"{MEASURE}/summary.py",
             '        if sample.error_class != "cut_off":\n', "        if sample.ok:\n"),
    Mutation("verdict ignores VRAM", "decision 5", "bench/trialbench/verdict.py",
             "outside = [gate for gate in facts.gates if not healthy(gate, rules)]", "outside = list[Gate]()"),
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """How a mutant ended: the row's test that caught it, or why it counts as a survivor."""

    mutation: Mutation
    caught_by: str
    trouble: str
    seconds: float


def broken(mutation: Mutation) -> str:
    """Return the mutated text of the file; raises ValueError where the mutation does not fit the file any more."""
    text = (ROOT / mutation.file).read_text(encoding="utf-8")
    found = text.count(mutation.old)
    if found != 1:
        raise ValueError(
            f"mutation {mutation.name!r}: expected the text {mutation.old!r} once, found it {found} times, in "
            f"{mutation.file}; change `old` in tests/mutations.py to what the mechanism looks like now"
        )
    changed = text.replace(mutation.old, mutation.new)
    if mutation.file.endswith(".py"):
        compile(changed, mutation.file, "exec")
    return changed


def row_of(mutation: Mutation) -> promises.Row:
    """Return the row that a mutation attacks; raises ValueError where there is none, or none with a unit test."""
    named = {row.name: row for row in promises.rows()}
    row = named.get(mutation.attacks)
    if row is None or not promises.unit_tests([row]):
        found = "no such row" if row is None else "none"
        raise ValueError(
            f"mutation {mutation.name!r}: expected a row with a unit test in the step {promises.STEP}, found {found} "
            f"for {mutation.attacks!r}, in {promises.PAGE}; name the row as README does (or 'decision N', 'claim N'), "
            f"and its unit tests in {promises.SOURCE}"
        )
    return row


def files() -> list[str]:
    """Return the checkout's files: what git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_symlink() | (ROOT / name).is_file()]


def copy(source: Path, names: Iterable[str], folder: Path) -> None:
    """Copy these files, links as links."""
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / name, target, follow_symlinks=False)


def environment(folder: Path) -> dict[str, str]:
    """Return the environment in which a copy's own trialbench answers, before that of the editable install."""
    return {**os.environ, "PYTHONPATH": str(folder / "bench"), "PYTHONDONTWRITEBYTECODE": "1"}


def run(folder: Path, tests: list[str]) -> tuple[int | None, str]:
    """Run tests in a copy until one fails; returns pytest's exit code (None: out of time) and what it printed."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=short", "-p", "no:cacheprovider", *tests]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]
    return process.returncode, output


def judge(code: int | None, output: str, row: promises.Row) -> tuple[str, str]:
    """Return the row's test that failed, or why the mutant was not caught."""
    words = "\n".join(output.splitlines()[-25:])
    failed = re.findall(r"^FAILED (\S+?)(?:\[.*)?(?: - .*)?$", output, flags=re.MULTILINE)
    if code is None:
        return "", f"expected a failed test, found none within {LIMIT_S:.0f} s:\n{words}"
    if code == 0:
        return "", f"SURVIVED: every test of the step {promises.STEP} passed"
    if code != 1 or not failed:
        return "", f"expected a failed test (pytest's exit code 1), found exit code {code}:\n{words}"
    if failed[0] not in row.tests:
        return "", f"expected a failure of a test that the table names for {row.name!r}, found only {failed[0]}"
    return failed[0], ""


def attack(mutation: Mutation, whole: Path) -> Outcome:
    """Break a copy and run the step on it."""
    began, row = time.monotonic(), row_of(mutation)
    with tempfile.TemporaryDirectory(prefix="mutant-") as temporary:
        folder = Path(temporary) / "checkout"
        shutil.copytree(whole, folder, symlinks=True)
        (folder / mutation.file).write_text(broken(mutation), encoding="utf-8")
        code, output = run(folder, promises.unit_tests([row]))
        if code == 0:
            code, output = run(folder, promises.unit_tests())
    return Outcome(mutation, *judge(code, output, row), time.monotonic() - began)


def unbroken(whole: Path) -> Outcome:
    """Run the step on a copy in which nothing is broken: it passes, and with the copy's own code."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="unbroken-") as temporary:
        folder = Path(temporary).resolve() / "checkout"
        shutil.copytree(whole, folder, symlinks=True)
        code, output = run(folder, promises.unit_tests())
        answers = [sys.executable, "-c", "import trialbench; print(trialbench.__file__)"]
        where = subprocess.run(answers, cwd=folder, env=environment(folder), capture_output=True, text=True, check=True)
        trouble = ""
        if code != 0:
            words = "\n".join(output.splitlines()[-25:])
            trouble = f"expected the step {promises.STEP} to pass, found exit code {code}:\n{words}"
        elif not Path(where.stdout.strip()).is_relative_to(folder):
            trouble = f"expected trialbench of the copy in {folder}, found {where.stdout.strip()}"
    nothing = Mutation("(nothing is broken)", "-", "", "", "")
    return Outcome(nothing, "" if trouble else "(passes)", trouble, time.monotonic() - began)


def show(outcome: Outcome) -> None:
    """Print a line of the table, and the trouble below it."""
    caught = outcome.caught_by.rpartition("::")[2] or "NOT CAUGHT"
    attacks = outcome.mutation.attacks
    print(f"{outcome.mutation.name:<44}  {attacks:<47}  {outcome.seconds:5.1f}  {caught}", flush=True)
    if outcome.trouble:
        print("    " + outcome.trouble.replace("\n", "\n    "), flush=True)


def main() -> int:
    """Break everything that was asked for; 1 when something survives."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these mutations")
    args = parser.parse_args()
    known = {mutation.name: mutation for mutation in MUTATIONS}
    strangers = [name for name in args.names if name not in known]
    if strangers:
        print(f"expected a mutation's name, found {strangers[0]!r}; there are:\n  " + "\n  ".join(known))
        return 2
    chosen = [known[name] for name in args.names] or list(MUTATIONS)
    try:
        for mutation in chosen:
            row_of(mutation)
            broken(mutation)
    except (ValueError, SyntaxError) as err:
        print(err)
        return 1
    began = time.monotonic()
    print(f"{'mutation':<44}  {'attacks':<47}  {'s':>5}  caught by")
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="mutations-") as temporary:
        # One copy for all of them: a person may keep working in the checkout.
        whole = Path(temporary)
        copy(ROOT, files(), whole)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            jobs = [pool.submit(unbroken, whole), *(pool.submit(attack, mutation, whole) for mutation in chosen)]
            for job in jobs:
                outcomes.append(job.result())
                show(outcomes[-1])
    survivors = [outcome.mutation.name for outcome in outcomes if outcome.trouble]
    print(f"{len(chosen)} mutations in {time.monotonic() - began:.0f} s; not as expected: {len(survivors)}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
