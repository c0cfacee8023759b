"""The claims of SECURITY.md, on a live twin: one whole trial in which everything that may lie or attack does.

A model that answers with escape sequences, templates and paths; a tenant whose logs do the same and whose first starts
fail; a production source with side effects and a prompt function that looks for a network; a secret token for the
hub. While the trial is open, the host is looked at by strangers: from another address, as `nobody`, as the login user.
"""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.twin

ROOT = Path(__file__).resolve().parents[2]
TWIN_VARIABLES = ROOT / "playbooks/twin/group_vars/trial_hosts"
STATE = "/var/lib/model-trial"
MODEL_FILE = f"{STATE}/models/gemma-4-E4B-it-Q4_K_M/candidate-f16.gguf"
FOLDER = "/home/panda/evil"
SIGN = "mt-pwned"
TOKEN = "hf_ThisTokenMustBeSeenNowhere"
CONTAINER_UID = 10001
EVIL = [
    "{0.__class__.__mro__} {prompt!r} %n%s%x",
    f"../../../../tmp/{SIGN}-path",
    "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x9b0m\u202e",
    f"<script>alert(1)</script> $(touch /tmp/{SIGN}-shell) `touch /tmp/{SIGN}-tick`",
    "{{ lookup('pipe', 'touch /tmp/" + SIGN + "-jinja') }}",
]

# A model and a tenant's health page: port by argument.
SERVER = f"""
import http.server, itertools, json, sys, time
EVIL = json.loads(open("{FOLDER}/evil.json").read())
replies = itertools.cycle(EVIL)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body in one packet, as a real server sends them.
    wbufsize = 1 << 16

    def log_message(self, *args):
        pass

    def answer(self, body, status=200, reason=None, headers=()):
        self.send_response(status, reason)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        with open("{FOLDER}/asked", "a") as file:
            file.write(self.path + "\\n")
        if self.path == "/health":
            self.answer(json.dumps({{"status": "ok", "words": EVIL, "pad": "x" * 200000}}).encode())
        elif self.path == "/loud":
            self.answer(json.dumps({{"status": EVIL[2] + EVIL[0]}}).encode())
        elif self.path == "/reason":
            self.answer(b"", 503, EVIL[2].encode().decode("latin-1"))
        elif self.path == "/no-http":
            self.wfile.write(EVIL[2].encode() + b"\\r\\n\\r\\n")
            self.close_connection = True
        elif self.path == "/elsewhere":
            self.answer(b"", 302, headers=[("Location", "http://127.0.0.1:%s/secret" % sys.argv[1])])
        elif self.path == "/secret":
            self.answer(b'{{"status": "ok"}}')
        elif self.path == "/huge":
            self.answer(b'{{"status": "ok", "pad": "' + b"x" * 50000000 + b'"}}')
        elif self.path == "/endless":
            self.send_response(200)
            self.send_header("Content-Length", "1000000000")
            self.end_headers()
            while True:
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.2)

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {{"role": "assistant", "content": next(replies)}}
        self.answer(json.dumps({{"choices": [{{"message": message, "finish_reason": "stop"}}]}}).encode())


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

# The live model is evil and starts at once, so it is measured before and after. Another tenant, sulky, says the same
# words and starts at the fourth try.
START = f"""#!/bin/sh
cat {FOLDER}/evil.txt
setsid nohup python3 {FOLDER}/server.py 11998 >/dev/null 2>&1 </dev/null &
echo $! >{FOLDER}/pid
"""
STOP = f"""#!/bin/sh
cat {FOLDER}/evil.txt
kill "$(cat {FOLDER}/pid)"
"""
SULKY_START = f"""#!/bin/sh
cat {FOLDER}/evil.txt
fails=$(cat {FOLDER}/fails)
if [ "$fails" -gt 0 ]; then echo $((fails - 1)) >{FOLDER}/fails; echo "no, not yet"; exit 1; fi
setsid nohup python3 {FOLDER}/server.py 11997 >/dev/null 2>&1 </dev/null &
echo $! >{FOLDER}/sulky-pid
"""
SULKY_STOP = f"""#!/bin/sh
cat {FOLDER}/evil.txt
kill "$(cat {FOLDER}/sulky-pid)"
echo 3 >{FOLDER}/fails
"""
# Production's source with what only an import would do, and a prompt that is made only where there is no network.
SOURCE = f"""

import pathlib as _pathlib
import socket as _socket

_pathlib.Path("/tmp/{SIGN}-import").touch()
_pathlib.Path("{FOLDER}/{SIGN}-import").touch()


def build_prompt_without_network(goal):
    for port in (11435, 11998, 22):
        try:
            _socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            continue
        raise RuntimeError("the prompt function reached the host")
    for folder in ("/", "/in", "/usr/local/bin"):
        try:
            _pathlib.Path(folder, "{SIGN}-prompt").touch()
        except OSError:
            continue
        raise RuntimeError("the prompt function wrote to " + folder)
    return build_vlm_prompt(goal=goal)
"""
# Every command line that was ever seen, until told to stop.
WATCH = f"""
import os, time
seen = set()
deadline = time.monotonic() + 900
while not os.path.exists("{FOLDER}/stop-watching") and time.monotonic() < deadline:
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                seen.add(open("/proc/%s/cmdline" % pid, "rb").read().replace(b"\\0", b" "))
            except OSError:
                pass
    time.sleep(0.02)
open("{FOLDER}/argv", "wb").write(b"\\n".join(seen))
"""
# What strangers on the host can do to the files of a trial: as nobody, as the login user, as a container's number.
STRANGERS = f"""
import json, os, pathlib, pwd, socket, subprocess, sys

root = pathlib.Path("{STATE}")
paths = [str(path) for path in [root, *root.rglob("*")]]
tried = '''
import json, os, sys
found = []
for path in json.load(sys.stdin):
    try:
        if os.path.isdir(path):
            os.listdir(path)
        else:
            open(path, "rb").close()
        found.append("read " + path)
    except OSError:
        pass
    if os.access(path, os.W_OK):
        found.append("write " + path)
    if os.path.isdir(path):
        try:
            open(path + "/stranger", "w").close()
            found.append("create in " + path)
        except OSError:
            pass
print(json.dumps(found))
'''
programs = ["/usr/local/sbin/model-trial", "/run/systemd/transient/mt-run.service"]
programs += ["/etc/systemd/system/mt-%s.service" % name for name in ("restore", "recover")]
readable = "/etc/hostname"
programs += [str(path) for path in pathlib.Path("/var/cache/model-trial").glob("*/**/*")]
programs += [str(parent) for path in programs for parent in pathlib.Path(path).parents]


def as_user(uid, gid):
    words = json.dumps([readable, *paths, *programs])
    done = subprocess.run(["python3", "-c", tried], input=words, text=True, capture_output=True, check=True,
                          user=uid, group=gid, extra_groups=[])
    return json.loads(done.stdout)


def connect(address, port):
    try:
        socket.create_connection((address, port), 1).close()
        return "accepted"
    except OSError as err:
        return type(err).__name__


panda, nobody = pwd.getpwnam("panda"), pwd.getpwnam("nobody")
address = subprocess.run(["hostname", "-I"], capture_output=True, text=True).stdout.split()[0]
labels = ["--filter=label=edgelab.model_trial.run", "--filter=label=edgelab.model_trial.a2"]
ids = [i for label in labels for i in subprocess.run(["docker", "ps", "-aq", label], capture_output=True,
                                                     text=True).stdout.split()]
inspected = subprocess.run(["docker", "inspect", *ids], capture_output=True, text=True).stdout
print(json.dumps({{
    "address": address,
    "loopback": connect("127.0.0.1", 11437),
    "lan": connect(address, 11437),
    "lan_ssh": connect(address, 22),
    "nobody": as_user(nobody.pw_uid, nobody.pw_gid),
    "login": as_user(panda.pw_uid, panda.pw_gid),
    "container": as_user({CONTAINER_UID}, {CONTAINER_UID}),
    "modes": {{path: [oct(os.lstat(path).st_mode), os.lstat(path).st_uid, os.lstat(path).st_gid]
               for path in paths + programs if os.path.lexists(path)}},
    "containers": json.loads(inspected or "[]"),
    "state": open(root / "open").read() if (root / "open").exists() else "",
}}))
"""


def put(host, path, text):
    """Write a file in the twin."""
    encoded = base64.b64encode(text.encode()).decode()
    host.run(f"echo {encoded} | base64 -d >{path}")


def strangers(host):
    put(host, "/root/strangers.py", STRANGERS)
    return json.loads(host.run("python3 /root/strangers.py"))


def variables(tmp_path, **changes):
    """The twin's inventory with two evil tenants (one is the baseline), and production's source with side effects."""
    values = yaml.safe_load((TWIN_VARIABLES / "host.yml").read_text(encoding="utf-8"))
    tenants, contracts = values["trial_tenants"], values["trial_contracts"]
    for name, port, prefix in (("evil", 11998, ""), ("sulky", 11997, "sulky-")):
        tenants.append(
            {
                "name": name,
                "kind": "script",
                "user": "panda",
                "directory": FOLDER,
                "start": f"./{prefix}start.sh",
                "stop": f"./{prefix}stop.sh",
                "port": port,
                "health": {"url": f"http://127.0.0.1:{port}/health", "json": {"status": "ok"}},
                "boot": "nobody starts it",
                "start_timeout_s": 30,
            }
        )
    contracts["prompt"] = {
        "file": f"{FOLDER}/server.py.production",
        "function": "build_prompt_without_network",
        "call": 'build_prompt_without_network(goal="something interesting")',
    }
    contents = {
        "trial_tenants": tenants,
        "trial_contracts": contracts,
        "trial_baseline": {**values["trial_baseline"], "tenant": "evil", "url": "http://127.0.0.1:11998"},
        "trial_stop_order": ["chatterbox", "sulky", "evil", "panda-llamacpp"],
        "trial_restore_order": ["panda-llamacpp", "evil", "sulky", "chatterbox"],
        "trial_workloads": [{"name": "nav", "role": "decides", "n": 300}, {"name": "describe", "role": "shown"}],
        "acquire_hub_env_file": "/root/hub.env",
        **changes,
    }
    path = tmp_path / "evil.yml"
    path.write_text(yaml.safe_dump(contents), encoding="utf-8")
    return ("-e", f"@{path}")


@pytest.fixture(scope="module")
def evil(host):
    """The evil services and files on the twin; taken away at the end."""
    try:
        set_up(host)
        yield
    finally:
        host.run(
            f"kill $(cat {FOLDER}/pid {FOLDER}/sulky-pid); systemctl stop mt-evil-model mt-evil-watch", check=False
        )
        host.run("rm -rf /run/systemd/system/hub.service.d; systemctl daemon-reload; systemctl restart hub")
        host.run(f"rm -rf {FOLDER} /root/hub.env /run/hub-token /root/strangers.py; find /tmp -name '{SIGN}*' -delete")


def set_up(host):
    home = "/home/panda/workplace/her/her-os/services/panda_nav/server.py"
    host.run(
        f"rm -rf {FOLDER}; mkdir {FOLDER}; cp {home} {FOLDER}/server.py.production; find /tmp -name '{SIGN}*' -delete"
    )
    put(host, f"{FOLDER}/evil.json", json.dumps(EVIL))
    put(host, f"{FOLDER}/evil.txt", "\n".join(EVIL) + "\n")
    put(host, f"{FOLDER}/server.py", SERVER)
    put(host, f"{FOLDER}/start.sh", START)
    put(host, f"{FOLDER}/stop.sh", STOP)
    put(host, f"{FOLDER}/sulky-start.sh", SULKY_START)
    put(host, f"{FOLDER}/sulky-stop.sh", SULKY_STOP)
    put(host, f"{FOLDER}/fails", "0\n")
    put(host, f"{FOLDER}/watch.py", WATCH)
    put(host, f"{FOLDER}/addition", SOURCE)
    host.run(f"cat {FOLDER}/addition >>{FOLDER}/server.py.production; chmod +x {FOLDER}/*.sh; chown -R panda: {FOLDER}")
    # The hub wants the token; the host has it in a file that only root can read.
    put(host, "/run/hub-token", TOKEN)
    put(host, "/root/hub.env", f"HF_TOKEN={TOKEN}\n")
    host.run("chmod 0600 /root/hub.env; chown panda /run/hub-token; chmod 0400 /run/hub-token")
    hub = host.run("systemctl show -p ExecStart --value hub | sed 's/.*argv\\[\\]=\\([^;]*\\);.*/\\1/'").strip()
    host.run("mkdir -p /run/systemd/system/hub.service.d")
    dropin = f"[Service]\nExecStart=\nExecStart={hub} --token-file /run/hub-token\n"
    put(host, "/run/systemd/system/hub.service.d/token.conf", dropin)
    host.run("systemctl daemon-reload; systemctl restart hub")
    host.run("systemctl reset-failed mt-evil-model 2>/dev/null; systemctl stop mt-evil-model 2>/dev/null; true")
    host.run(f"systemd-run --quiet --unit=mt-evil-model --uid=panda python3 {FOLDER}/server.py 11999")
    host.run(f"su panda -c 'cd {FOLDER} && ./start.sh && ./sulky-start.sh'")
    listening = "curl -s -o /dev/null http://127.0.0.1:{}/health && echo yes"
    for port in (8800, 11997, 11998, 11999):
        host.wait(lambda port=port: host.run(listening.format(port), check=False) == "yes")


def ended(host, process, reader, said):
    """Wait for the end of a play; what it said."""
    process.wait(timeout=host.PLAY_TIMEOUT_S)
    reader.join(timeout=60)
    process.stdout.close()
    return said[0]


@pytest.fixture(scope="module")
def attacked(host, evil, tmp_path_factory):
    """The trial: what strangers could do while it was open, and what it said; its results are the newest ones."""
    phone = host.phone_pid()
    # Gone, so that the hub has to be asked, with the token.
    host.run(f"rm -f {MODEL_FILE}")
    host.run(f"systemd-run --quiet --unit=mt-evil-watch --collect python3 {FOLDER}/watch.py")
    process = host.start_play("benchmark-e4b.yml", "-vvv", *variables(tmp_path_factory.mktemp("evil")))
    said = []
    # Read all the time: a play that is this talkative would wait for its reader.
    reader = threading.Thread(target=lambda: said.append(process.stdout.read()), daemon=True)
    reader.start()
    try:
        running = f"cat {STATE}/runs/*/samples/nav-candidate.jsonl 2>/dev/null | wc -l"
        host.run(f"rm -rf {STATE}/runs")
        deadline = time.monotonic() + host.PLAY_TIMEOUT_S
        while int(host.run(running, check=False) or 0) < 1:
            assert process.poll() is None, ended(host, process, reader, said)
            assert time.monotonic() < deadline, "the candidate was never measured"
            time.sleep(0.1)
        seen = strangers(host)
        seen["outside"] = subprocess.run(
            ["curl", "-s", "-m", "20", "-o", "/dev/null", f"http://{seen['address']}:11437/health"], check=False
        ).returncode
    finally:
        text = ended(host, process, reader, said)
        host.run(f"touch {FOLDER}/stop-watching")
    host.wait(lambda: host.run("systemctl is-active mt-evil-watch", check=False) != "active")
    assert process.returncode == 0, text
    seen.update(text=text, phone=phone, folder=host.latest())
    return seen


def journal(attacked, event):
    lines = (attacked["folder"] / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if entry["event"] == event]


def unprintable(text):
    return {c for c in text if c not in "\n\t" and not c.isprintable()}


def test_the_candidate_is_reached_on_the_loopback_alone(attacked):
    assert attacked["loopback"] == "accepted"
    # The address itself works: sshd answers there.
    assert (attacked["lan"], attacked["lan_ssh"]) == ("ConnectionRefusedError", "accepted")
    # From another machine: curl's code for "failed to connect".
    assert attacked["outside"] == 7


def test_every_container_is_fenced(attacked):
    found = {c["Name"].lstrip("/"): c for c in attacked["containers"]}
    clients = {"mt-client-tenants", "mt-client-a1", "mt-client-a2", "mt-client-candidate"}
    assert set(found) == {"panda-llamacpp-e4b", *clients}
    run = f"{STATE}/runs/{attacked['folder'].name}"
    for name, container in found.items():
        limits = container["HostConfig"]
        assert limits["ReadonlyRootfs"] is True, name
        assert limits["CapDrop"] == ["ALL"], name
        assert not limits["CapAdd"], name
        assert limits["Privileged"] is False, name
        assert limits["SecurityOpt"] == ["no-new-privileges"], name
        assert container["Config"]["User"] == f"{CONTAINER_UID}:{CONTAINER_UID}", name
        assert 0 < limits["Memory"] <= 1 << 30, name
        assert 0 < limits["PidsLimit"] <= 512, name
        assert limits["RestartPolicy"]["Name"] == "no", name
        assert limits["AutoRemove"] is False, name
        assert (limits["PidMode"], limits["IpcMode"], limits["UTSMode"]) == ("", "private", ""), name
        assert limits["Tmpfs"] == {"/tmp": "rw,nosuid,nodev,noexec,size=64m"}, name
        mounts = {(m["Source"], m["Destination"], m["RW"]) for m in container["Mounts"] if m["Type"] != "tmpfs"}
        if name in clients:
            assert mounts == {
                (f"{run}/inputs", "/in", False),
                (f"{run}/control", "/control", False),
                (f"{run}/samples", "/out", True),
            }
        else:
            assert mounts == {(str(Path(MODEL_FILE).parent), "/models", False)}
        # Nothing of the host's secrets is handed in.
        assert not [word for word in container["Config"]["Env"] if TOKEN in word or "docker.sock" in word], name
    # The GPU is the server's alone.
    assert [name for name, c in found.items() if c["HostConfig"]["DeviceRequests"]] == ["panda-llamacpp-e4b"]


def test_program_units_and_configuration_are_roots(attacked):
    for path, (mode, uid, gid) in attacked["modes"].items():
        if not path.startswith(STATE):
            assert (uid, gid) == (0, 0), path
            # A sticky folder such as /tmp is none of its parents.
            assert int(mode, 8) & 0o022 == 0, path
    programs = [path for path in attacked["modes"] if "mt-" in path or path.endswith("model-trial")]
    assert len(programs) >= 5
    # Paths that are not there have no mode; in the window all of these are.
    units = ["/run/systemd/transient/mt-run.service"]
    units += [f"/etc/systemd/system/mt-{name}.service" for name in ("restore", "recover")]
    assert {"/usr/local/sbin/model-trial", *units} <= set(programs)
    assert [path for path in attacked["modes"] if path.endswith(".pyc")], "the compiled program was not looked at"
    for who in ("nobody", "login", "container"):
        assert [line for line in attacked[who] if line.startswith(("write", "create"))] == []


# Closed folders keep strangers out; within them the containers' user needs these.
FOR_CONTAINERS = {"inputs": (0o750, 0, CONTAINER_UID), "control": (0o750, 0, CONTAINER_UID)}
FOR_CONTAINERS["samples"] = (0o700, CONTAINER_UID, CONTAINER_UID)


def test_the_state_is_roots_alone(attacked):
    run = f"{STATE}/runs/{attacked['folder'].name}"
    files = {path: int(mode, 8) for path, (mode, _, _) in attacked["modes"].items() if path.startswith(STATE)}
    for name in ("open", "epoch", "lease", "furthest", "lock"):
        assert files[f"{STATE}/{name}"] == 0o100600, name
    for name in ("plan.json", "snapshot.json", "journal.jsonl", "vram.jsonl"):
        assert files[f"{run}/{name}"] == 0o100600, name
    assert [files[path] for path in (STATE, f"{STATE}/runs", f"{STATE}/models", run, f"{run}/logs")] == [0o40700] * 5
    for name, expected in FOR_CONTAINERS.items():
        mode, uid, gid = attacked["modes"][f"{run}/{name}"]
        assert (int(mode, 8) & 0o7777, uid, gid) == expected, name
    for path, mode in files.items():
        # Nobody but the owner writes, wherever it is.
        assert mode & 0o022 == 0, path
        if path.startswith(f"{run}/logs/"):
            assert mode == 0o100600, path


def test_strangers_on_the_host_read_nothing_and_leave_no_sign(attacked):
    """Prompt, picture, replies, plan, journal: neither nobody, nor the login user, nor the containers' number."""
    for who in ("nobody", "login", "container"):
        # What everybody may read is read: the others are really closed.
        assert "read /etc/hostname" in attacked[who]
        assert [line for line in attacked[who] if STATE in line] == [], who


def test_the_token_is_seen_nowhere(host, attacked):
    argv = host.run(f"cat {FOLDER}/argv")
    # The watch saw the command that was given the token's file, and the hub gave the file to nobody without it.
    assert "--env-file=/root/hub.env" in argv
    assert host.run(f"test -s {MODEL_FILE} && echo there") == "there"
    assert (
        host.run("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8800/api/models/twin/tiny-e4b-GGUF") == "401"
    )
    assert TOKEN not in argv
    assert TOKEN not in attacked["text"]
    assert TOKEN not in host.run("journalctl --no-pager --all")
    # By halves, so that the search does not find itself.
    half, rest = TOKEN[:10], TOKEN[10:]
    search = f't={half}; grep -rl --binary-files=text -e "${{t}}{rest}" %s 2>/dev/null || true'
    assert host.run(search % "/root") == "/root/hub.env"
    places = f"{STATE} /var/log /home/panda /etc /usr/local /tmp /var/tmp /var/lib/docker/containers"
    assert host.run(search % places) == ""
    for path in attacked["folder"].rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path


def test_production_is_parsed_and_its_prompt_made_without_a_network(host, attacked):
    # The same sockets are open to everybody on the host: only the container has no way there.
    host.run("su -s /bin/sh nobody -c 'curl -sf -o /dev/null http://127.0.0.1:11435/health'")
    prompt = host.run(f"cat {STATE}/runs/{attacked['folder'].name}/inputs/prompt.txt")
    assert prompt.startswith("You are the navigation module")
    source = (attacked["folder"] / "inputs" / "prompt_source.py").read_text(encoding="utf-8")
    assert "build_prompt_without_network" in source
    assert "-import" not in source
    assert host.run(f"find / -xdev -name '{SIGN}*' 2>/dev/null || true") == ""


def test_nothing_that_was_answered_was_executed_or_became_a_path(host, attacked):
    names = ("nav-baseline-tenants", "nav-baseline-a1", "describe-baseline", "nav-baseline-a2")
    for name in names:
        contents = {sample["content"] for sample in host.samples(name)}
        # Kept to the letter, as data.
        assert contents == set(EVIL), name
    assert list(Path("/tmp").glob(f"{SIGN}*")) == []
    assert host.run(f"find / -xdev -name '{SIGN}*' 2>/dev/null || true") == ""
    harvested = list(attacked["folder"].rglob("*"))
    # These two are the controller's own: in them, too, the replies are text (tests/browser).
    own = ("report.html", "review.html")
    pages = [path for path in harvested if path.suffix in (".html", ".htm") and path.name not in own]
    assert [path for path in harvested if path.is_symlink()] + pages == []
    assert all(path.resolve().is_relative_to(attacked["folder"]) for path in harvested)


def test_no_word_of_a_stranger_drives_a_terminal(host, attacked):
    # Three starts of the tenant failed, and with them the first restore: the live lines quoted its log.
    assert [entry["tenant"] for entry in journal(attacked, "tenant_failed")] == ["sulky"]
    failed = journal(attacked, "restore_failed")
    assert len(failed) == 1
    assert "no, not yet" in failed[0]["reason"]
    assert "no, not yet" in attacked["text"]
    assert "owned" in attacked["text"]
    assert unprintable(attacked["text"]) == set()
    for command in ("model-trial status", "model-trial status --json"):
        assert unprintable(host.run(command)) == set()
    shown = subprocess.run(
        ["trialbench", "show", str(attacked["folder"])], capture_output=True, text=True, check=True
    ).stdout
    assert "sulky was restarted (attempt 1 failed: " in " ".join(shown.split())
    assert unprintable(shown) == set()


def test_the_host_is_back_from_all_that(host, attacked):
    host.assert_back(attacked["phone"])
    closed = strangers(host)
    assert closed["state"] == ""
    assert closed["containers"] == []
    for who in ("nobody", "login", "container"):
        assert [line for line in closed[who] if STATE in line] == [], who


LIARS = ("loud", "reason", "no-http", "elsewhere", "huge", "endless")


def test_a_tenants_answers_are_bounded_and_lead_nowhere(host, evil, tmp_path):
    values = yaml.safe_load((TWIN_VARIABLES / "host.yml").read_text(encoding="utf-8"))
    for name in LIARS:
        health = {"url": f"http://127.0.0.1:11999/{name}", "json": {"status": "ok"}, "timeout_s": 2}
        values["trial_tenants"].append({"name": name, "kind": "systemd", "unit": "mt-evil-model", "health": health})
    path = tmp_path / "liars.yml"
    path.write_text(yaml.safe_dump({"trial_tenants": values["trial_tenants"]}), encoding="utf-8")
    host.run(f"rm -f {FOLDER}/asked")
    # One of them never ends its answer: without a bound the play would not come back, and its time would be up.
    played = host.play("verify_rollback.yml", "-vvv", "-e", f"@{path}")
    assert played.code != 0
    for name in LIARS:
        assert f"Check {7 + LIARS.index(name)}, {name} is healthy: failed" in played.text
    assert unprintable(played.text) == set()
    asked = set(host.run(f"cat {FOLDER}/asked").split())
    assert asked == {f"/{name}" for name in LIARS}


REFUSED = {
    "run": ({"trial_run": "../../evil"}, "letters, digits, dot, dash, underscore"),
    "tenant": ({"trial_tenants": [{"name": "../evil", "kind": "process", "process": "x"}]}, "letters, digits"),
    "label": ({"trial_candidate": {"label": "../evil", "container": "x"}}, "letters, digits"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_names_that_climb_are_refused(host, name):
    changes, words = REFUSED[name]
    before = host.fingerprint()
    played = host.play("benchmark-e4b.yml", "-e", json.dumps(changes), "--tags", "preflight")
    assert played.code != 0
    assert words in " ".join(played.text.split())
    assert host.fingerprint() == before


def test_a_run_of_another_name_is_no_path(host):
    for verb in ("poll --epoch=1", "advance --epoch=1 --phase=window", "open"):
        done = host.run(f"model-trial {verb} --run=../../../etc >/root/said 2>&1; echo $?")
        assert done in ("1", "2", "3"), host.run("cat /root/said")
        assert "Traceback" not in host.run("cat /root/said")
    assert host.run("ls /etc/journal.jsonl 2>/dev/null || true") == ""
    host.run("rm /root/said")
