"""The faults of the drills: what strikes, from outside. Each takes the drill; ``drill.strike()`` is the moment.

When a fault needs something in place before the trial begins (a disk that can be filled, a slower card), that is a
function of its own, named in the case as ``before``.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from world import PATIENCE_S, STATE, Broken, Drill, wait_until

Fault = Callable[[Drill], None]
CANDIDATE = "panda-llamacpp-e4b"
# A container that does not belong to the trial.
STRANGERS = "drill-stranger"
MODEL = f"{STATE}/models/gemma-4-E4B-it-Q4_K_M/candidate-f16.gguf"
# The whole file, until the drill is over.
KEPT_MODEL = "/root/drill-model.gguf"
PROGRAM = "/usr/local/sbin/model-trial"
# The program that phase 1 has installed, until the drill is over.
KEPT_PROGRAM = "/root/drill-program"
# The same program of another version: it does not understand plans of today's format.
OTHER_VERSION = f"""
import pathlib, shutil, zipfile
path = pathlib.Path("{PROGRAM}")
shutil.copy2(path, "{KEPT_PROGRAM}")
with zipfile.ZipFile(path) as old:
    files = {{name: old.read(name) for name in old.namelist()}}
text = files["module_utils/plan.py"]
files["module_utils/plan.py"] = text.replace(b"PLAN_FORMAT = 1\\n", b"PLAN_FORMAT = 99\\n")
assert files["module_utils/plan.py"] != text
files["__main__.py"] = files["__main__.py"].replace(b"/var/cache/model-trial", b"/nowhere")
fresh = path.with_name(".other")
fresh.write_bytes(b"#!/usr/bin/env python3\\n")
with zipfile.ZipFile(fresh, "a") as new:
    for name, raw in files.items():
        new.writestr(name, raw)
fresh.chmod(0o755)
fresh.replace(path)
print("{{}}")
"""
# Space for little more than the results of one run.
TINY_DISK_BYTES = 8 * 1024 * 1024
# Ansible ends within a second of the first Ctrl-C that it hears.
UNHEARD_S = 10.0
DOCKER_DROP_IN = "/run/systemd/system/docker.service.d/drill.conf"
DOCKER_HANGS_S = 40.0
# The live model's own stop command takes so long, within the 10 s that its unit allows; the model answers meanwhile.
MODEL_STOPS_S = 8.0
MODEL_DROP_IN = "/run/systemd/system/panda-llamacpp.service.d/drill.conf"
# Stands before the real one, and lets an opening wait right before it starts the runner.
DOOR = "/usr/local/sbin/systemd-run"
AT_THE_DOOR = "/run/twin/at-the-door"
STUCK_PROGRAM = Path(__file__).resolve().parents[2] / "fixtures" / "stuck" / "stuck.py"
STUCK_UNIT, STUCK_MOUNT = "stuck-driver", "/run/twin-gpu/stuck"
# The voice is not as every other program: limits and priority that no restore has by itself.
VOICE_DROP_IN = "/run/systemd/system/chatterbox-boot.service.d/drill.conf"
VOICE_FOLDER = "/home/panda/workplace/her/her-os/services/chatterbox"
# A file that root's group reads, as /etc/sudoers is.
ROOTS_FILE = "/run/drill-roots-own"
# A unit that systemd stops together with the live model, and a container that is a tenant, with an image of its own.
EYES = "drill-eyes.service"
BOX, BOX_IMAGE = "drill-box", "drill-box:1"
BOX_SLEEPS_S = 987_654
# Units that are tenants of a drill: a one-shot that remains active, one that a timer starts, one that is started again
# whenever it ends, and one that needs another.
MODE, TIMED, HELD, DB, API = "drill-mode", "drill-timed", "drill-held", "drill-db", "drill-api"
# While this file is there, the stop of the held one starts it again.
HELD_FLAG = "/run/drill-held"
# The unit that starts the voice at boot takes so long before it does; its drop-in has to outlive a restart.
BOOT_UNIT_WAITS_S = 3.0
BOOT_DROP_IN = "/etc/systemd/system/chatterbox-boot.service.d/drill.conf"
# What the same unit waits for in systemd's queue, in another drill.
LATE = "/etc/systemd/system/drill-late.service"
CLOCK_DROP_IN = "/run/systemd/system/mt-run.service.d/drill-clock.conf"


def nothing(drill: Drill) -> None:
    """The fault lies in the play's own variables."""
    drill.strike()


# ---- the controller ----


def controller_gets(number: signal.Signals) -> Fault:
    """A signal to ansible-playbook alone."""

    def fault(drill: Drill) -> None:
        drill.strike()
        assert drill.play is not None
        drill.play.signal(number)

    return fault


def ctrl_c(drill: Drill) -> None:
    """SIGINT to the play's process group, as the terminal sends it; again where it was not heard, as a person would.

    What Ansible's handler raises is lost when Python happens to be in a fork's own callbacks at that moment.
    """
    play = drill.play
    assert play is not None
    drill.strike()
    play.signal_group(signal.SIGINT)
    with contextlib.suppress(Broken):
        wait_until(lambda: play.ended, "the end of the play", UNHEARD_S)
        return
    drill.notes.append("the first Ctrl-C was not heard")
    drill.strike()
    play.signal_group(signal.SIGINT)


def controller_sleeps_beyond_the_lease(drill: Drill) -> None:
    """All processes of the play are frozen until the host has restored itself; then they go on and try to advance."""
    drill.strike()
    assert drill.play is not None
    drill.play.signal_all(signal.SIGSTOP)
    drill.event("closed")
    epoch = drill.entries("opened")[0]["epoch"]
    words = f"/usr/local/sbin/model-trial advance --run {drill.run} --epoch {epoch} --phase measure"
    drill.notes.append(drill.sh(f"{words} 2>&1; echo exit code $?"))
    drill.play.signal_all(signal.SIGCONT)


def results_on_a_tiny_disk(drill: Drill) -> None:
    """Before: the controller's folder for results becomes a file system of its own."""
    drill.results.mkdir(parents=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={TINY_DISK_BYTES}", "drill", str(drill.results)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Broken(f"this drill mounts a tiny disk, which needs the right to mount: {done.stderr.strip()}")
    drill.at_end.append(lambda: subprocess.run(["umount", "--lazy", str(drill.results)], check=True))


def disk_full_at_harvest(drill: Drill) -> None:
    """The controller's disk is full."""
    drill.strike()
    (drill.results / "filler").write_bytes(bytes(os.statvfs(drill.results).f_bavail * 4096))


def controller_disk_freed(drill: Drill) -> None:
    """The operator makes room."""
    (drill.results / "filler").unlink()


# ---- the network ----


def _sshd_killed(drill: Drill) -> None:
    # Sessions are processes of their own and would live on.
    drill.sh("systemctl stop ssh.service ssh.socket 2>/dev/null; "
             "for p in /proc/[0-9]*; do grep -qs '^sshd' $p/comm && kill -9 ${p#/proc/}; done; true")  # fmt: skip


def sshd_gone_until(event: str, **facts: Any) -> Fault:
    """sshd stopped and its sessions killed, until the host's journal has an event."""

    def fault(drill: Drill) -> None:
        drill.strike()
        _sshd_killed(drill)
        drill.event(event, **facts)
        drill.sh("systemctl start ssh.service")

    return fault


def packets_dropped_until(event: str, **facts: Any) -> Fault:
    """The network interface down, until the host's journal has an event."""

    def fault(drill: Drill) -> None:
        gateway = drill.sh("ip -o route show default").split()[2]
        drill.strike()
        drill.sh("ip link set eth0 down")
        drill.event(event, **facts)
        drill.sh(f"ip link set eth0 up && ip route add default via {gateway} dev eth0")

    return fault


def packets_dropped_for(seconds: float) -> Fault:
    """The network interface down for so long: the journal is closed by then and tells nothing more."""

    def fault(drill: Drill) -> None:
        gateway = drill.sh("ip -o route show default").split()[2]
        drill.strike()
        drill.sh("ip link set eth0 down")
        time.sleep(seconds)
        drill.sh(f"ip link set eth0 up && ip route add default via {gateway} dev eth0")

    return fault


def slow_harvest(drill: Drill) -> None:
    """Before: packing a run takes so long that its harvest can be struck; a fast machine packs within the strike."""
    place = "/usr/local/bin/tar"
    text = '#!/bin/sh\ncase " $* " in *" --sparse "*) sleep 3 ;; esac\nexec /usr/bin/tar "$@"\n'
    drill.sh(f"printf %s {shlex.quote(text)} >{place} && chmod 0755 {place}")
    drill.at_end.append(lambda: drill.sh(f"rm -f {place}"))


# ---- the host's machine ----


def rebooted(drill: Drill) -> None:
    """An orderly restart."""
    drill.strike()
    done = drill.twin.program("reboot")
    if "rebooted" not in done.stderr and "is not well" not in done.stderr:
        raise Broken(f"the twin did not reboot: {done.stderr}")


def power_cut(drill: Drill) -> None:
    """Everything dies at once; then the machine starts again."""
    drill.strike()
    for words in (["kill"], ["start"]):
        done = subprocess.run(["docker", *words, drill.twin.name], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Broken(f"docker {words[0]}: {done.stderr}")


def docker_engine(command: str) -> Fault:
    """A command that takes the Docker engine away; its unit brings it back."""

    def fault(drill: Drill) -> None:
        drill.strike()
        drill.sh(command)

    return fault


dockerd_killed = docker_engine("kill -9 $(systemctl show -p MainPID --value docker)")
# Its stop waits for containers; the drill goes on meanwhile, as an operator would in another window.
dockerd_restarted = docker_engine("systemctl restart --no-block docker")


def dockerd_that_will_hang(drill: Drill) -> None:
    """Before: the next start of the engine takes long; while it is being started, every question to it waits."""
    unit = rf"[Service]\nExecStartPre=/bin/sleep {DOCKER_HANGS_S:.0f}\n"
    drill.sh(f"mkdir -p $(dirname {DOCKER_DROP_IN}) && printf '{unit}' >{DOCKER_DROP_IN} && systemctl daemon-reload")


def docker_stands_still_and_abort(drill: Drill) -> None:
    """The engine does not answer when the candidate is to be started, and somebody ends the run meanwhile."""
    drill.strike()
    drill.sh("kill -STOP $(systemctl show -p MainPID --value docker)")
    try:
        drill.event("candidate_starting")
        drill.sh("/usr/local/sbin/model-trial abort --by hand")
        drill.event("phase_failed")
    finally:
        drill.sh("kill -CONT $(systemctl show -p MainPID --value docker)")


def runner_killed(drill: Drill) -> None:
    """kill -9 of the main process of mt-run."""
    drill.strike()
    drill.sh("kill -9 $(systemctl show -p MainPID --value mt-run)")


def restore_killed(drill: Drill) -> None:
    """kill -9 of the main process of mt-restore."""
    drill.strike()
    drill.sh("kill -9 $(systemctl show -p MainPID --value mt-restore)")


def unit_gets(unit: str, number: str) -> Fault:
    """A signal to the main process of a unit."""

    def fault(drill: Drill) -> None:
        drill.strike()
        drill.sh(f"kill -{number} $(systemctl show -p MainPID --value {unit})")

    return fault


runner_stands_still = unit_gets("mt-run", "STOP")
restore_stands_still = unit_gets("mt-restore", "STOP")


def restore_stopped(drill: Drill) -> None:
    """Somebody stops the restore, and goes home."""
    drill.strike()
    drill.sh("systemctl stop mt-restore")


def opening_that_waits_for_its_runner(drill: Drill) -> None:
    """Before: the opening stands still right before it starts the runner, once."""
    waits = f"[ -e {STATE}/open ] && [ ! -e {AT_THE_DOOR} ]"
    hold = f"{waits} && echo $$ >{AT_THE_DOOR} && sleep 600"
    case = f'case "$*" in *--unit=mt-run*) {hold} ;; esac'
    lines = f'#!/bin/sh\n{case}\nexec /usr/bin/systemd-run "$@"\n'
    drill.sh(f"printf %s {shlex.quote(lines)} >{DOOR} && chmod 755 {DOOR}")


def opening_killed_before_its_runner(drill: Drill) -> None:
    """kill -9 of the controller and of the opening that it has begun: a mark, and nobody who would go on."""
    assert drill.play is not None
    wait_until(lambda: drill.sh(f"cat {AT_THE_DOOR} 2>/dev/null || true"), "an opening right before its runner")
    drill.strike()
    drill.play.signal(signal.SIGKILL)
    drill.sh(f"pkill -9 -f '[m]odel-trial open'; rm -f {DOOR}; kill -9 $(cat {AT_THE_DOOR})")


def driver_that_can_sleep(drill: Drill) -> None:
    """Before: a file system that never answers, for a driver that sleeps in the kernel."""
    there = (
        "test -e /dev/fuse || mknod /dev/fuse c 10 229; python3 -c \"open('/dev/fuse', 'rb')\" && echo there || true"
    )
    if drill.sh(there) != "there":
        pytest.skip("needs /dev/fuse: a call that sleeps in the kernel can't be made here")
    program = shlex.quote(STUCK_PROGRAM.read_text(encoding="utf-8"))
    drill.sh(f"mkdir -p {STUCK_MOUNT} && printf %s {program} >/run/twin/stuck.py")
    serve = f"sleep infinity | python3 /run/twin/stuck.py {STUCK_MOUNT}"
    drill.sh(f"systemd-run --quiet --collect --unit={STUCK_UNIT} sh -c {shlex.quote(serve)}")
    wait_until(lambda: drill.sh(f"grep -c {STUCK_MOUNT} /proc/mounts || true") == "1", "the file system")


def driver_wakes(drill: Drill) -> None:
    """The file system goes, and everybody who sleeps on it wakes with an error."""
    drill.mend()
    drill.sh(f"systemctl stop {STUCK_UNIT}; umount --lazy {STUCK_MOUNT} 2>/dev/null; true")


def model_that_stops_slowly(drill: Drill) -> None:
    """Before: the live model's unit has a stop command of its own, which takes its time."""
    unit = rf"[Service]\nExecStop=/bin/sleep {MODEL_STOPS_S:.0f}\n"
    drill.sh(f"mkdir -p $(dirname {MODEL_DROP_IN}) && printf '{unit}' >{MODEL_DROP_IN} && systemctl daemon-reload")


def once_the_model_stops(fault: Fault) -> Fault:
    """A fault that strikes when systemd has begun to stop the live model, not just when the runner reports it."""

    def begun(drill: Drill) -> None:
        asked = "systemctl show -p ActiveState --value panda-llamacpp"
        wait_until(lambda: drill.sh(asked) == "deactivating", "the stop of the live model")
        fault(drill)

    return begun


def once_the_voice_stops(fault: Fault) -> Fault:
    """A fault that strikes when the voice's stop script runs."""

    def begun(drill: Drill) -> None:
        wait_until(lambda: drill.sh("pgrep -f [s]top.sh || true"), "the stop script of the voice")
        fault(drill)

    return begun


def voice_that_stops_slowly(drill: Drill) -> None:
    """Before: the voice serves on for a while after its signal."""
    drill.fault("chatterbox-slow-stop", "6")


def voice_that_listens_late(drill: Drill) -> None:
    """Before: a voice that is started listens, and can be found by its port, only after a while."""
    drill.fault("chatterbox-late-listen", "5")


# Runs in the twin: who the voice is, by other means than the collection's own.
WHO = r"""
import json, pathlib, re, subprocess
server = "/home/panda/workplace/her/her-os/services/chatterbox/server.py"
[pid, *_more] = subprocess.check_output(["pgrep", "--oldest", "-f", f"^python3 {server}"], text=True).split()
folder = pathlib.Path("/proc") / pid
status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
names = [item.split("=", 1)[0] for item in (folder / "environ").read_text().split(chr(0)) if item]
passing = re.compile("SSH_|XDG_SESSION_|INVOCATION_|JOURNAL_|SYSTEMD_EXEC_|MEMORY_PRESSURE_|PWD|OLDPWD|SHLVL|_$")
print(json.dumps({
    "user": status["Uid"].split(), "group": status["Gid"].split(), "groups": sorted(status["Groups"].split()),
    "limits": (folder / "limits").read_text().splitlines(),
    "nice": (folder / "stat").read_text().rsplit(")", 1)[1].split()[16],
    "score": (folder / "oom_score_adj").read_text(),
    "names": sorted(name for name in names if not passing.match(name)),
}))
"""


def voice_that_is_somebody(drill: Drill) -> None:
    """Before: the voice has limits and a priority of its own; and there is a file that root's group may read."""
    unit = r"[Service]\nLimitNOFILE=2048:4096\nOOMScoreAdjust=150\nNice=1\nEnvironment=VOICE_OF=panda\n"
    drill.sh(f"mkdir -p $(dirname {VOICE_DROP_IN}) && printf '{unit}' >{VOICE_DROP_IN} && systemctl daemon-reload")
    drill.sh(f"install -m 0440 -o root -g root /dev/null {ROOTS_FILE} && echo roots own >{ROOTS_FILE}")
    drill.sh(f"runuser -u panda -- {VOICE_FOLDER}/stop.sh; systemctl restart chatterbox-boot")
    asked = "curl -sf http://127.0.0.1:8772/health | grep -q true && echo up || true"
    wait_until(lambda: drill.sh(asked) == "up", "the voice with its limits")
    drill.identity = drill.python(WHO)


def the_voice_is_who_it_was(drill: Drill) -> None:
    """Nothing strikes: who the voice is afterwards, and what its start command could read."""
    drill.strike()
    drill.event("closed")
    after = drill.python(WHO)
    changed = sorted(key for key in after if after[key] != drill.identity[key])
    drill.notes.append(f"the voice is another in: {changed or 'nothing'}")
    drill.notes.append(drill.sh(f"cat {VOICE_FOLDER}/probe.txt; rm -f {VOICE_FOLDER}/probe.txt"))


def program_of_the_same_argv(drill: Drill) -> None:
    """Before: another user's program has the words by which the voice is found."""
    command = "python3 -c 'import time; time.sleep(900)' server.py"
    drill.sh(f"systemd-run --quiet --collect --unit=stranger --uid=nobody {command}")


def the_other_program_lives_on(drill: Drill) -> None:
    """Nothing strikes: whether the other user's program is the same afterwards."""
    asked = "systemctl show -p MainPID,NRestarts,ActiveState stranger"
    before = drill.sh(asked)
    drill.strike()
    drill.event("closed")
    same = drill.sh(asked) == before and "ActiveState=active" in before
    drill.notes.append(f"the other program {'lives on' if same else 'was ended'}")


def restored_by_hand_meanwhile(drill: Drill) -> None:
    """A person asks for the restore and does not wait for its end."""
    drill.strike()
    drill.sh("/usr/local/sbin/model-trial restore --by hand --no-wait")


def restore_killed_while_the_voice_loads(drill: Drill) -> None:
    """kill -9 of mt-restore when its start command has returned; the voice itself is still far from listening."""
    drill.strike()
    drill.event("tenant_started", tenant="chatterbox")
    drill.sh("kill -9 $(systemctl show -p MainPID --value mt-restore)")
    drill.event("closed")
    log = f"{STATE}/runs/{drill.run}/logs/chatterbox.log"
    drill.notes.append(f"the voice was started {drill.sh(f'grep -c ^---.*server.py {log} || true')} times")


def runner_started_again(drill: Drill) -> None:
    """A person restarts the runner's unit."""
    drill.strike()
    drill.sh("systemctl restart --no-block mt-run")


def until_it_did_not_settle(name: str, value: str = "") -> Fault:
    """A tenant's fault, until the restore has reported that a tenant did not stay up."""

    def fault(drill: Drill) -> None:
        drill.strike()
        drill.fault(name, value)
        drill.event("not_settled")
        drill.mend()

    return fault


def two_restores_at_once(drill: Drill) -> None:
    """An operator's restore.yml and another person's `model-trial restore` on the host, at the same moment."""
    drill.strike()
    hand = threading.Thread(target=lambda: drill.notes.append(drill.sh("/usr/local/sbin/model-trial restore 2>&1")))
    hand.start()
    other = drill.start("restore.yml")
    code = other.wait()
    hand.join(PATIENCE_S)
    drill.notes.append(f"restore.yml ended with {code}")
    drill.notes.append(other.text)


def second_trial(drill: Drill) -> None:
    """A person starts another trial while this one runs."""
    drill.strike()
    other = drill.start("benchmark-e4b.yml", trial_run=f"{drill.run}-second", **drill.variables)
    drill.notes.append(f"the second trial ended with {other.wait()}")
    drill.notes.append(other.text)


def second_controller(drill: Drill) -> None:
    """Another controller plays phase 1 alone, without the contracts, while this trial is open."""
    drill.strike()
    other = drill.start("benchmark-e4b.yml", "--tags", "acquire", trial_run=f"{drill.run}-second", **drill.variables)
    drill.notes.append(f"the second controller ended with {other.wait()}")
    drill.notes.append(other.text)


def program_of_another_version(then: Fault) -> Fault:
    """Somebody installs another version of the program, past all refusals; then something else strikes."""

    def fault(drill: Drill) -> None:
        drill.python(OTHER_VERSION)
        then(drill)

    return fault


def program_removed(drill: Drill) -> None:
    """Somebody removes the program, and the runner is killed."""
    drill.sh(f"mv {PROGRAM} {KEPT_PROGRAM}")
    runner_killed(drill)


def copy_damaged(drill: Drill) -> None:
    """The program that the run keeps is overwritten, and the runner is killed."""
    drill.sh(f"echo damaged >{STATE}/runs/{drill.run}/model-trial")
    runner_killed(drill)


def disk_that_can_be_filled(drill: Drill) -> None:
    """Before: the trial's folder on the host becomes a file system of its own."""
    drill.sh(f"mkdir -p {STATE} && mount -t tmpfs -o mode=0711,size=2g drill {STATE}")


def host_disk_full(drill: Drill) -> None:
    """The trial's folder is full."""
    drill.strike()
    # A program may write between the check and the remount and need more space: try again.
    shrink = f"mount -o remount,size=$(df --output=used {STATE} | tail -1 | tr -d ' ')k {STATE}"
    drill.sh(" || ".join([shrink] * 5))


def sudo_revoked_until(event: str, **facts: Any) -> Fault:
    """The login user may no longer become root, until the host's journal has an event."""

    def fault(drill: Drill) -> None:
        drill.strike()
        drill.sh("mv /etc/sudoers.d/panda /root/sudoers-panda")
        drill.event(event, **facts)
        drill.sh("mv /root/sudoers-panda /etc/sudoers.d/panda")

    return fault


def jumping_clock(drill: Drill) -> None:
    """Before: the runner's clocks can be made to jump."""
    lines = r"[Service]\nEnvironment=LD_PRELOAD=/usr/local/lib/twin/libtwinclock.so\n"
    drill.sh(f"mkdir -p $(dirname {CLOCK_DROP_IN}) && printf '{lines}' >{CLOCK_DROP_IN} && systemctl daemon-reload")


def clock_jumps(name: str, seconds: int) -> Fault:
    """One of the runner's clocks jumps."""

    def fault(drill: Drill) -> None:
        if "libtwinclock" not in drill.sh("cat /proc/$(systemctl show -p MainPID --value mt-run)/maps"):
            raise Broken("the runner does not have the jumping clock loaded")
        drill.strike()
        drill.sh(f"echo '{name} {seconds}' >/run/twin/clock")

    return fault


def wall_clock_jumps_and_back(drill: Drill) -> None:
    """Two hours forward, and back while the candidate is measured."""
    clock_jumps("realtime", 7200)(drill)
    drill.event("phase_done", phase="candidate", alive=True)
    drill.sh("rm /run/twin/clock")


# ---- the GPU ----


def gpu(**switches: Any) -> Fault:
    """Faults of the GPU, switched on."""

    def fault(drill: Drill) -> None:
        drill.strike()
        drill.gpu(**switches)

    return fault


def slow_card(ramp_s: float) -> Fault:
    """Before: memory fills so slowly that the candidate's start can be struck."""
    return lambda drill: drill.gpu(ramp_s=ramp_s)


def gpu_passing(event: str, **switches: Any) -> Fault:
    """Faults of the GPU, until the host's journal has an event."""

    def fault(drill: Drill) -> None:
        drill.strike()
        drill.gpu(**switches)
        drill.event(event)
        drill.gpu()

    return fault


# ---- the candidate ----


def candidate_dies(drill: Drill) -> None:
    """The server's container is killed."""
    drill.strike()
    drill.sh(f"docker kill {CANDIDATE}")


def candidate_stopped(drill: Drill) -> None:
    """Somebody's SIGSTOP: the server stands still, with its connections open."""
    drill.strike()
    drill.sh(f"docker kill --signal STOP {CANDIDATE}")


def candidate_paused(drill: Drill) -> None:
    """Somebody's `docker pause`: the same by the freezer of its control group."""
    drill.strike()
    drill.sh(f"docker pause {CANDIDATE}")


def model_truncated(drill: Drill) -> None:
    """Something cuts the model file short after its hash was checked."""
    drill.sh(f"cp --preserve {MODEL} {KEPT_MODEL}")
    drill.strike()
    drill.sh(f"truncate -s 100000 {MODEL}")


def port_stolen(drill: Drill) -> None:
    """Another program listens on the candidate's port."""
    drill.strike()
    listen = "import socket, time; s = socket.create_server(('127.0.0.1', 11437)); time.sleep(600)"
    drill.sh(f'systemd-run --quiet --collect --unit=stranger python3 -c "{listen}"')


def port_given_back(drill: Drill) -> None:
    """The stranger goes."""
    drill.sh("systemctl stop stranger")


def port_stolen_for_a_while(drill: Drill) -> None:
    """Another program listens on the candidate's port, and ends when the trial has failed because of it."""
    port_stolen(drill)
    drill.event("phase_failed")
    port_given_back(drill)


def _page(address: str, port: int) -> str:
    """A program that answers whatever is asked there, and reports that it is healthy."""
    return (
        "import http.server as h\n"
        "class H(h.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200)\n"
        "        self.end_headers()\n"
        '        said = b\'"model_loaded": true, "status": "ok"\'\n'
        "        self.wfile.write(bytes([123]) + said + bytes([125]))\n"
        "    do_POST = do_GET\n"
        f"h.HTTPServer(('{address}', {port}), H).serve_forever()\n"
    )


def voices_port_stolen(drill: Drill) -> None:
    """Another user's program listens on the voice's port, and reports that it is healthy."""
    drill.strike()
    page = shlex.quote(_page("127.0.0.1", 8772))
    drill.sh(f"systemd-run --quiet --collect --unit=stranger --uid=nobody python3 -c {page}")


def stranger_in_wait(drill: Drill) -> None:
    """Before: another user's program waits for the moment at which the candidate is started, and binds its port first.

    It reads the journal to hit that moment, which only root may; it is nobody's when it listens.
    """
    journal = f"{STATE}/runs/{drill.run}/journal.jsonl"
    wait = (
        "import os, time\n"
        "def begun():\n"
        "    try:\n"
        f"        return 'candidate_starting' in open('{journal}').read()\n"
        "    except OSError:\n"
        "        return False\n"
        "while not begun():\n"
        "    time.sleep(0.001)\n"
        "os.setgid(65534)\n"
        "os.setuid(65534)\n"
    )
    page = shlex.quote(wait + _page("127.0.0.1", 11437))
    drill.sh(f"systemd-run --quiet --collect --unit=stranger python3 -c {page}")


def stranger_gone_once_it_failed(drill: Drill) -> None:
    """The stranger goes when the trial has failed of it."""
    drill.strike()
    drill.event("phase_failed")
    port_given_back(drill)


def stranger_beside_the_candidate(drill: Drill) -> None:
    """Another user's program listens on another address of the candidate's port, until the trial has failed of it."""
    drill.strike()
    page = shlex.quote(_page("127.0.0.2", 11437))
    drill.sh(f"systemd-run --quiet --collect --unit=stranger --uid=nobody python3 -c {page}")
    drill.event("phase_failed")
    port_given_back(drill)


def strangers_container(drill: Drill) -> None:
    """Somebody's `docker start` of a container that listens on the voice's port, until the trial has failed of it."""
    image = drill.sh(f"docker inspect --format '{{{{.Image}}}}' {CANDIDATE}")
    page = shlex.quote(_page("127.0.0.1", 8772))
    drill.sh(f"docker create --name {STRANGERS} --network=host --entrypoint=python3 {image} -c {page}")
    drill.strike()
    drill.sh(f"docker start {STRANGERS}")
    drill.event("phase_failed")
    drill.sh(f"docker rm --force {STRANGERS}")


def late_start(drill: Drill) -> None:
    """A `docker start` of the candidate arrives when the restore has begun."""
    drill.strike()
    drill.notes.append(drill.sh(f"docker start {CANDIDATE} 2>&1 || true"))


# ---- the tenants ----


def tenant_fault(name: str, value: str = "") -> Fault:
    """A tenant's fault, switched on."""

    def fault(drill: Drill) -> None:
        drill.strike()
        drill.fault(name, value)

    return fault


def tenant_fault_once(name: str, tenant: str) -> Fault:
    """A tenant's start fails once and succeeds at the next attempt."""

    def fault(drill: Drill) -> None:
        drill.strike()
        drill.fault(name)
        drill.event("tenant_retry", tenant=tenant)
        drill.mend()

    return fault


def phone_dies(drill: Drill) -> None:
    """The phone daemon, which no trial touches, dies by itself."""
    drill.strike()
    drill.sh("kill -9 $(systemctl show -p MainPID --value phone-daemon)")


def phone_started_by_hand(drill: Drill) -> None:
    """Do what the message asks the operator to do."""
    drill.sh("systemctl reset-failed phone-daemon; systemctl start phone-daemon")
    asked = "curl -sf http://127.0.0.1:8770/health >/dev/null && echo up || true"
    wait_until(lambda: drill.sh(asked) == "up", "the phone daemon")


def cron_revives_chatterbox(drill: Drill) -> None:
    """The user's own watchdog finds the voice down and starts it."""
    drill.strike()
    folder = "/home/panda/workplace/her/her-os/services/chatterbox"
    as_cron = "systemd-run --quiet --collect --unit=cron-stand-in --uid=panda"
    drill.sh(f"{as_cron} --property=KillMode=process --property=Type=oneshot {folder}/start.sh")


# ---- what runs beside the tenants ----


def eyes_that_need_the_model(drill: Drill) -> None:
    """Before: a unit that is no tenant needs the live model; systemd reads its new file when it is first named."""
    unit = (
        r"[Unit]\nRequires=panda-llamacpp.service\nAfter=panda-llamacpp.service\n"
        r"[Service]\nExecStart=/bin/sleep infinity\n"
    )
    drill.sh(f"printf '{unit}' >/run/systemd/system/{EYES} && systemctl start {EYES}")


def eyes_since_phase_0(drill: Drill) -> None:
    """A unit that needs the live model is started after the contracts were asked, and before the trial is opened."""
    drill.strike()
    eyes_that_need_the_model(drill)
    drill.event("closed")
    drill.notes.append(f"the eyes are {drill.sh(f'systemctl is-active {EYES} || true')}")


def boxed_tenant(*options: str) -> Fault:
    """Before: a container with an image of its own runs."""

    def before(drill: Drill) -> None:
        run = f"docker run --detach {' '.join(options)} --name {BOX} --entrypoint sleep {BOX_IMAGE} {BOX_SLEEPS_S}"
        # The one image that the twin has; a commit makes another of it.
        base = "$(docker image ls --quiet | head -n 1)"
        made = f"docker create --name {BOX}-base {base} && docker commit {BOX}-base {BOX_IMAGE} && docker rm {BOX}-base"
        drill.sh(f"{made} && {run}")

    return before


def box_pruned(drill: Drill) -> None:
    """Somebody prunes while the container is stopped: it goes, and so does its image."""
    drill.strike()
    drill.sh(f"docker rm {BOX} && docker image rm {BOX_IMAGE}")


def box_replaced(drill: Drill) -> None:
    """Somebody replaces the container while it is stopped, by another one of the same name."""
    drill.strike()
    drill.sh(f"docker rm {BOX} && docker create --name {BOX} --entrypoint sleep {BOX_IMAGE} {BOX_SLEEPS_S}")


def box_made_anew(drill: Drill) -> None:
    """What a person does who has read what the host has kept."""
    kept = f"{STATE}/definitions/{BOX}/container.json"
    facts = json.loads(drill.sh(f"cat {kept}"))[0]
    drill.notes.append(f"kept with mode {drill.sh(f'stat -c %a {kept}')}")
    words = " ".join([*facts["Config"]["Entrypoint"], *facts["Config"]["Cmd"]])
    entrypoint, _, arguments = words.partition(" ")
    name = facts["Name"].lstrip("/")
    base = "$(docker image ls --quiet | head -n 1)"
    drill.sh(f"docker create --name {name} --entrypoint {entrypoint} {base} {arguments}")


# ---- tenants of other kinds ----


def unit_tenant(name: str, service: str, unit: str = "", **more: str) -> Fault:
    """Before: a unit runs that is a tenant of the drill; ``more`` are units beside it, by suffix."""

    def before(drill: Drill) -> None:
        bodies = {"service": rf"[Unit]\n{unit}\n[Service]\nTimeoutStopSec=5\n{service}\n", **more}
        for suffix, body in bodies.items():
            drill.sh(f"printf '{body}' >/run/systemd/system/{name}.{suffix}")
        drill.sh(f"systemctl start {' '.join(f'{name}.{suffix}' for suffix in bodies)}")

    return before


oneshot_tenant = unit_tenant(MODE, r"Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\nExecStop=/bin/true")
timed_tenant = unit_tenant(
    TIMED, "ExecStart=/bin/sleep infinity", timer=r"[Timer]\nOnUnitInactiveSec=1s\nAccuracySec=100ms\n"
)
held_tenant = unit_tenant(HELD, r"ExecStart=/bin/sleep infinity\nRestart=always\nRestartSec=500ms")


def held_by_its_stop(drill: Drill) -> None:
    """Before: a unit whose stop starts it again, as long as a file is there."""
    again = f"ExecStopPost=-/bin/sh -c 'test ! -e {HELD_FLAG} || systemctl --no-block start {HELD}'"
    body = "\n".join(["[Service]", "TimeoutStopSec=5", "ExecStart=/bin/sleep infinity", again])
    path = f"/run/systemd/system/{HELD}.service"
    drill.sh(f"touch {HELD_FLAG}; cat >{path} <<'END'\n{body}\nEND\nsystemctl start {HELD}")


def api_that_needs_db(drill: Drill) -> None:
    """Before: a unit that requires another one, and starts after it."""
    unit_tenant(DB, "ExecStart=/bin/sleep infinity")(drill)
    unit_tenant(API, "ExecStart=/bin/sleep infinity", rf"Requires={DB}.service\nAfter={DB}.service")(drill)


def rehearsed_too(drill: Drill) -> None:
    """Nothing strikes: the same inventory is rehearsed."""
    drill.strike()
    played = drill.start("rehearse.yml", trial_run=f"{drill.run}-rehearsal", **drill.variables)
    drill.notes.append(f"the rehearsal ended with {played.wait()}")
    drill.notes.append(played.text)


def unit_is_back(name: str) -> Fault:
    """Nothing strikes: how a unit is afterwards."""

    def fault(drill: Drill) -> None:
        drill.strike()
        drill.event("closed")
        asked = f"systemctl show -p ActiveState,SubState --value {name} | paste -sd ' '"
        drill.notes.append(f"{name} is {drill.sh(asked)}")

    return fault


def model_killed_at_the_checks(drill: Drill) -> None:
    """The live model has settled, and is killed when the checks begin; systemd starts another process."""
    drill.strike()
    drill.event("settled")
    drill.sh("kill -9 $(systemctl show -p MainPID --value panda-llamacpp)")
    drill.event("restore_failed")


def killed_while_it_settles(drill: Drill) -> None:
    """The unit's process is killed when it is back; systemd starts another one."""
    drill.strike()
    drill.event("tenant_healthy", tenant=HELD)
    drill.sh(f"kill -9 $(systemctl show -p MainPID --value {HELD})")


def dockerd_down_until_it_failed(drill: Drill) -> None:
    """A person stops the Docker engine, and starts it again when a restore could not do without it."""
    drill.strike()
    drill.sh("systemctl stop docker.socket 2>/dev/null; systemctl stop docker")
    drill.event("restore_failed")
    drill.sh("systemctl start docker")


def boot_unit_that_waits(drill: Drill) -> None:
    """Before: the unit that starts the voice at boot does so only after a while, beside the restore."""
    unit = rf"[Service]\nExecStartPre=/bin/sleep {BOOT_UNIT_WAITS_S:.0f}\n"
    drill.sh(f"mkdir -p $(dirname {BOOT_DROP_IN}) && printf '{unit}' >{BOOT_DROP_IN}")


def boot_unit_in_the_queue(drill: Drill) -> None:
    """Before: the unit that starts the voice at boot is queued behind another one when the restore begins."""
    late = rf"[Service]\nType=oneshot\nExecStart=/bin/sleep {BOOT_UNIT_WAITS_S:.0f}\n"
    name = Path(LATE).name
    unit = rf"[Unit]\nWants={name}\nAfter={name}\n"
    drill.sh(f"printf '{late}' >{LATE}")
    drill.sh(f"mkdir -p $(dirname {BOOT_DROP_IN}) && printf '{unit}' >{BOOT_DROP_IN}")


def power_cut_and_boot_unit(drill: Drill) -> None:
    """Everything dies; at boot the voice's own unit and the restore meet."""
    power_cut(drill)
    drill.event("closed")
    log = f"{STATE}/runs/{drill.run}/logs/chatterbox.log"
    times = drill.sh(f"grep -c '^---.*start.sh' {log} 2>/dev/null || true") or "0"
    drill.notes.append(f"the restore started the voice {times} times")


def mend(drill: Drill) -> None:
    """Every fault of tenants and GPU passes."""
    drill.mend()
