#!/usr/bin/env python3
"""Build, start, stop and ask the digital twin of the host "Panda".

    twin.py up [--name mt-twin]     build what is missing, start, wait until it is well; write build/twin/<name>.json
    twin.py reboot | status | down  (all take --name; ``down --all`` removes every twin of this machine)
    twin.py fault NAME [VALUE] | fault NAME --off | fault --clear     switch a tenant's fault (README.md lists them)
    twin.py gpu-fault JSON | gpu-fault --off                          switch faults of the GPU
    twin.py base                    build what Panda's twin is built on, if it is missing, and print its name
    twin.py exec -- COMMAND...      run a command in the twin, as root

Several twins run side by side under different names. Everything it makes is in ``build/twin``. Standard library
only; needs the docker CLI, mmdebstrap (first build), gcc and ssh-keygen.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# What every twin is made with ships with the collection; this script is Panda's alone.
sys.path.insert(0, str(ROOT / "plugins" / "plugin_utils"))
from twins import (  # noqa: E402  # found by the line above
    BUILD_S,
    LABEL,
    TwinError,
    build_image,
    docker,
    image_exists,
    normalize_modes,
    remove,
    restart,
    wait_for_exec,
)
from twins import run as run_container  # noqa: E402  # found by the line above

BUILD = ROOT / "build" / "twin"
MODELS = ROOT / "tests" / "fixtures" / "models"
HUB_PROGRAM = ROOT / "tests" / "fixtures" / "hub" / "hub.py"
BASE_BUILDER = ROOT / "images" / "base" / "build.py"
BASE_REPOSITORY = "edgelab/twin-base"
REPOSITORY = "edgelab/twin"
DEFAULT_NAME = "mt-twin"
USER = "panda"
CHECKOUT = "home/panda/workplace/her/her-os"

# What each model would take on the card (MiB, with its projector, all layers, 4096 tokens of context).
BASELINE_MIB = 4900
CANDIDATE_MIB = 6300
NVFP4_MIB = 10240
PROGRAMS_MIB = {"services/chatterbox/server.py": 4300, "phone_call.py auto": 3900}
# Repositories of the local hub: name -> (model of the fixtures, file name of the model, of the projector).
HUB_REPOSITORIES = {
    "twin/tiny-e4b-GGUF": ("candidate", "candidate-f16.gguf", "mmproj-candidate-f16.gguf"),
    "twin/tiny-poor-GGUF": ("poor", "poor-f16.gguf", "mmproj-poor-f16.gguf"),
    "twin/tiny-violating-GGUF": ("violating", "violating-f16.gguf", "mmproj-violating-f16.gguf"),
    "twin/tiny-nvfp4-GGUF": ("candidate", "tiny-nvfp4.gguf", "mmproj-tiny-nvfp4.gguf"),
}
# Appended to a copy of the candidate, so that the NVFP4 stand-in is a file of its own with a footprint of its own.
# llama.cpp reads tensors by their offsets and ignores what follows the last one.
NVFP4_TAIL = b"twin: nvfp4 stand-in".ljust(32, b"\0")
BOOT_LIMIT_S = 90
# Looking whether an image is there takes less.
WORTH_SAYING_S = 1.0


def say(text: str) -> None:
    print(f"[twin] {text}", file=sys.stderr, flush=True)


# ---- build -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def build_lock() -> Iterator[None]:
    """Let one process build at a time: tests that run side by side all want the same image."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_keys() -> None:
    """Make the key pairs of the user and of the twins' sshd, once: every twin of this checkout shares them."""
    for name in ("id_ed25519", "ssh_host_ed25519_key"):
        path = BUILD / name
        if not path.exists():
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "edgelab-twin", "-f", str(path)]
            subprocess.run(command, check=True)


def compile_programs(target: pathlib.Path) -> None:
    """Compile the fake NVML library, nvidia-smi and the jumping clock into ``target``, where a source is newer."""
    target.mkdir(parents=True, exist_ok=True)
    clock = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(target / "libtwinclock.so")]
    for sources, programs, command in (
        (("gpu/nvml.c", "gpu/nvidia-smi.c", "gpu/compile.sh"), ("libnvidia-ml.so.1", "nvidia-smi"),
         ["sh", str(HERE / "gpu" / "compile.sh"), str(target)]),
        (("clock.c",), ("libtwinclock.so",), [*clock, str(HERE / "clock.c")]),
    ):  # fmt: skip
        results = [target / program for program in programs]
        newest = max((HERE / source).stat().st_mtime for source in sources)
        if all(result.exists() and result.stat().st_mtime >= newest for result in results):
            continue
        try:
            subprocess.run(command, check=True)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            names = ", ".join(sources)
            raise TwinError(f"compiling {names} failed ({error}). `make setup` installs gcc and libc6-dev.") from None


def gpu_settings(models: pathlib.Path, nvfp4: pathlib.Path) -> dict[str, object]:
    """Return the observer's settings: what each model file takes, by SHA-256."""
    table = {sha256(nvfp4): NVFP4_MIB}
    for name in ("baseline", "candidate", "poor", "violating"):
        table[sha256(models / f"{name}-f16.gguf")] = BASELINE_MIB if name == "baseline" else CANDIDATE_MIB
        # The projector is part of the model's figure.
        table[sha256(models / f"mmproj-{name}-f16.gguf")] = 0
    return {"models": table, "programs": PROGRAMS_MIB}


def stage(context: pathlib.Path, models: pathlib.Path) -> None:
    """Lay out the build context in ``context``: ``stage/`` is what is copied over the root of the image."""
    missing = [
        name
        for name in (*(f"{kind}{model}-f16.gguf" for model in ("baseline", "candidate", "poor", "violating")
                       for kind in ("", "mmproj-")), "camera/car-view.jpg", "scenes/labels.csv")
        if not (models / name).exists()
    ]  # fmt: skip
    if missing:
        listing = ", ".join(missing)
        raise TwinError(
            f"expected the tiny models in {models}; missing: {listing}. See make_models.py and make_scenes.py there."
        )
    shutil.rmtree(context, ignore_errors=True)
    root = context / "stage"
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc", ".*_cache")
    shutil.copytree(HERE / "common", root, ignore=ignore)
    shutil.copytree(HERE / "rootfs", root, ignore=ignore, dirs_exist_ok=True)
    shutil.copytree(HERE / "her-os", root / CHECKOUT, ignore=ignore)
    programs = root / "usr/local/lib/twin"
    shutil.copy(HERE / "gpu" / "observer.py", programs)
    shutil.copy(HUB_PROGRAM, programs)
    compile_programs(BUILD / "programs")
    shutil.copytree(BUILD / "programs", root / "opt/programs")
    home = root / "home/panda"
    (home / "models").mkdir(parents=True)
    for name in ("baseline-f16.gguf", "mmproj-baseline-f16.gguf"):
        shutil.copy(models / name, home / "models")
    shutil.copy(models / "camera/car-view.jpg", home / "car-view.jpg")
    shutil.copytree(models / "scenes", home / "scenes")
    (home / ".ssh").mkdir()
    shutil.copy(BUILD / "id_ed25519.pub", home / ".ssh/authorized_keys")
    (root / "etc/ssh").mkdir(exist_ok=True)
    for name in ("ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"):
        shutil.copy(BUILD / name, root / "etc/ssh")
    for repository, (model, model_name, projector_name) in HUB_REPOSITORIES.items():
        folder = root / "srv/hub" / repository
        folder.mkdir(parents=True)
        shutil.copy(models / f"{model}-f16.gguf", folder / model_name)
        shutil.copy(models / f"mmproj-{model}-f16.gguf", folder / projector_name)
        # A file that include patterns must skip.
        (folder / "README.md").write_text(f"# {repository}\nA tiny model for tests.\n")
    nvfp4 = root / "srv/hub/twin/tiny-nvfp4-GGUF/tiny-nvfp4.gguf"
    with nvfp4.open("ab") as stream:
        stream.write(NVFP4_TAIL)
    settings = root / "etc/twin-gpu/settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(gpu_settings(models, nvfp4), indent=2, sort_keys=True) + "\n")
    for name in ("Containerfile", "setup.sh", "common.sh"):
        shutil.copy(HERE / name, context)
    normalize_modes(context)


def build_base() -> str:
    """Build the Debian base of the twin if it is not there; return its name."""
    done = subprocess.run([sys.executable, str(BASE_BUILDER)], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise TwinError("the CPU base image could not be built; the reason is above.")
    cpu_base = done.stdout.strip().splitlines()[-1]
    recipe = (HERE / "Containerfile.base").read_text() + cpu_base
    name = f"{BASE_REPOSITORY}:{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if not image_exists(name):
        say(f"building {name} (Debian packages; about a minute)")
        started = time.monotonic()
        context = BUILD / "context-base"
        shutil.rmtree(context, ignore_errors=True)
        context.mkdir(parents=True)
        shutil.copy(HERE / "Containerfile.base", context)
        # The machine's own network: its apt sources are reachable from there, whatever Docker's bridge is allowed.
        docker("build", "--quiet", "--network=host", f"--build-arg=BASE_IMAGE={cpu_base}", f"--tag={name}",
               f"--file={context / 'Containerfile.base'}", str(context), limit_s=BUILD_S)  # fmt: skip
        say(f"built {name} in {time.monotonic() - started:.0f} s")
    return name


def build(models: pathlib.Path = MODELS) -> str:
    """Build the twin's image if it is not there; return its name, whose tag is computed from all that is in it."""
    with build_lock():
        make_keys()
        base = build_base()
        context = BUILD / "context"
        stage(context, models)
        started = time.monotonic()
        name = build_image(context, "Containerfile", REPOSITORY, base, "none")
        if time.monotonic() - started > WORTH_SAYING_S:
            say(f"built {name} in {time.monotonic() - started:.0f} s")
        return name


# ---- life --------------------------------------------------------------------------------------------------------


def inspect(name: str) -> dict[str, str] | None:
    """Return state, image and published port of a twin, None when there is none of that name."""
    form = '{{.State.Status}}|{{.Config.Image}}|{{(index (index .HostConfig.PortBindings "22/tcp") 0).HostPort}}'
    form += f'|{{{{index .Config.Labels "{LABEL}"}}}}'
    done = docker("container", "inspect", "--format", form, name, check=False)
    if done.returncode != 0:
        return None
    state, image, port, label = done.stdout.strip().split("|")
    if label != name:
        raise TwinError(f"a container named {name} exists and is not a twin; choose another --name.")
    return {"state": state, "image": image, "port": port}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def start(name: str, image: str) -> None:
    """Create and start a twin. The port is chosen here: one that Docker chooses would change with every reboot."""
    problem = ""
    for _ in range(5):
        publish = f"--publish=127.0.0.1:{free_port()}:22"
        problem = run_container(name, image, "panda", [publish])
        if not problem:
            return
        remove(name)
        # Another program took the port between our check and Docker's.
        if "port is already allocated" not in problem and "address already in use" not in problem:
            break
    raise TwinError(f"starting {name} failed: {problem}")


def wait_until_well(name: str, limit_s: float) -> None:
    """Wait until systemd runs, every tenant is healthy, Docker is up and VRAM is steady; show what comes up."""
    command = ["docker", "exec", name, "python3", "/usr/local/lib/twin/health.py", "--wait", str(limit_s)]
    checker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert checker.stderr is not None
    assert checker.stdout is not None
    for line in checker.stderr:
        say(line.rstrip())
    output = checker.stdout.read().strip()
    if checker.wait() != 0:
        raise TwinError(
            f"{name} is not well after {limit_s:.0f} s: {output or 'no answer'}. "
            f"Look with `docker exec {name} systemctl --failed` and `docker exec {name} journalctl -b`."
        )


def write_connection(name: str, port: str) -> None:
    """Write ``build/twin/<name>.json`` and this twin's line in ``known_hosts``."""
    known_hosts = BUILD / "known_hosts"
    host_key = " ".join((BUILD / "ssh_host_ed25519_key.pub").read_text().split()[:2])
    with build_lock():
        update_known_hosts(known_hosts, port, f"[127.0.0.1]:{port} {host_key}")
    facts = {
        "name": name,
        "host": "127.0.0.1",
        "port": int(port),
        "user": USER,
        "key": str(BUILD / "id_ed25519"),
        "known_hosts": str(known_hosts),
        "container": name,
    }
    part = BUILD / f"{name}.json.part"
    part.write_text(json.dumps(facts, indent=2) + "\n")
    part.replace(BUILD / f"{name}.json")


def update_known_hosts(path: pathlib.Path, port: str, line: str | None) -> None:
    """Replace the line of 127.0.0.1:port, or remove it when ``line`` is None."""
    old = path.read_text().splitlines() if path.exists() else []
    kept = [entry for entry in old if not entry.startswith(f"[127.0.0.1]:{port} ")]
    if line is not None:
        kept.append(line)
    part = path.with_name("known_hosts.part")
    part.write_text("".join(f"{entry}\n" for entry in kept))
    part.replace(path)


def up(name: str, models: pathlib.Path) -> None:
    if re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) is None:
        raise TwinError(f"{name!r} is no name for a twin: small letters, digits, hyphens.")
    started = time.monotonic()
    image = build(models)
    present = inspect(name)
    if present is not None and present["image"] != image:
        say(f"{name} was built from another recipe; replacing it")
        down(name)
        present = None
    fresh = present is None or present["state"] != "running"
    if present is None:
        say(f"starting {name}")
        start(name, image)
    elif present["state"] != "running":
        say(f"{name} is {present['state']}; starting it")
        docker("start", name)
    facts = inspect(name)
    if facts is None:
        raise TwinError(f"{name} vanished while it was starting.")
    if fresh:
        wait_for_exec(name)
        wait_until_well(name, BOOT_LIMIT_S)
    else:
        wait_until_well(name, 10.0)
    write_connection(name, facts["port"])
    say(f"{name} is well (ssh port {facts['port']}, {time.monotonic() - started:.1f} s)")


def need(name: str) -> dict[str, str]:
    facts = inspect(name)
    if facts is None:
        raise TwinError(f"there is no twin named {name}. Start it with `images/twin/twin.py up --name {name}`.")
    return facts


def reboot(name: str) -> None:
    need(name)
    started = time.monotonic()
    restart(name)
    wait_until_well(name, BOOT_LIMIT_S)
    say(f"{name} rebooted in {time.monotonic() - started:.1f} s")


def down(name: str) -> None:
    facts = inspect(name)
    if facts is not None:
        remove(name)
        if (BUILD / "known_hosts").exists():
            with build_lock():
                update_known_hosts(BUILD / "known_hosts", facts["port"], None)
        say(f"{name} removed")
    (BUILD / f"{name}.json").unlink(missing_ok=True)


def down_all() -> None:
    for name in docker("ps", "--all", f"--filter=label={LABEL}", "--format={{.Names}}").stdout.split():
        down(name)


def status(name: str) -> int:
    """Print what there is as JSON; 0 when the twin is well, 1 when it is not, 3 when there is none."""
    facts = inspect(name)
    if facts is None:
        print(json.dumps({"name": name, "state": "absent"}))
        return 3
    answer: dict[str, object] = {"name": name, **facts}
    if facts["state"] == "running":
        done = docker("exec", name, "python3", "/usr/local/lib/twin/health.py", check=False)
        with contextlib.suppress(ValueError):
            answer["health"] = json.loads(done.stdout)
        answer["ok"] = done.returncode == 0
    print(json.dumps(answer))
    return 0 if answer.get("ok") else 1


def switch_fault(name: str, fault: str | None, value: str, off: bool, clear: bool) -> None:
    need(name)
    folder = "/run/twin/faults"
    if clear:
        docker("exec", name, "sh", "-c", f"rm -f {folder}/* /run/twin-gpu/faults.json")
        return
    if fault is None or re.fullmatch(r"[a-z0-9-]+", fault) is None:
        raise TwinError("expected the name of a fault, for example chatterbox-silence.")
    if off:
        docker("exec", name, "rm", "-f", f"{folder}/{fault}")
    else:
        docker("exec", name, "sh", "-c", f'printf %s "$1" >{folder}/{fault}', "sh", value)


def switch_gpu_fault(name: str, text: str | None, off: bool) -> None:
    need(name)
    target = "/run/twin-gpu/faults.json"
    if off:
        docker("exec", name, "rm", "-f", target)
        return
    if text is None or not isinstance(json.loads(text), dict):
        raise TwinError('expected the switches as a JSON object, for example {"stuck": true}.')
    docker("exec", name, "sh", "-c", f'printf %s "$1" >{target}.part && mv {target}.part {target}', "sh", text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("base", "build", "up", "down", "status", "reboot", "fault", "gpu-fault", "exec"):
        sub = verbs.add_parser(verb)
        if verb in {"build", "up"}:
            sub.add_argument("--models", type=pathlib.Path, default=MODELS, help="folder with the tiny models")
        if verb not in {"base", "build"}:
            sub.add_argument("--name", default=os.environ.get("MT_TWIN") or DEFAULT_NAME)
        if verb == "down":
            sub.add_argument("--all", action="store_true")
        if verb == "fault":
            sub.add_argument("fault", nargs="?")
            sub.add_argument("value", nargs="?", default="")
            sub.add_argument("--clear", action="store_true", help="switch every fault off, the GPU's too")
        if verb == "gpu-fault":
            sub.add_argument("json", nargs="?")
        if verb in {"fault", "gpu-fault"}:
            sub.add_argument("--off", action="store_true")
        if verb == "exec":
            sub.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    try:
        return run(arguments)
    except (TwinError, json.JSONDecodeError) as error:
        say(f"error: {error}")
        return 1


def run(arguments: argparse.Namespace) -> int:
    if arguments.verb == "base":
        with build_lock():
            print(build_base())
    elif arguments.verb == "build":
        print(build(arguments.models))
    elif arguments.verb == "up":
        up(arguments.name, arguments.models)
    elif arguments.verb == "down":
        down_all() if arguments.all else down(arguments.name)
    elif arguments.verb == "status":
        return status(arguments.name)
    elif arguments.verb == "reboot":
        reboot(arguments.name)
    elif arguments.verb == "fault":
        switch_fault(arguments.name, arguments.fault, arguments.value, arguments.off, arguments.clear)
    elif arguments.verb == "gpu-fault":
        switch_gpu_fault(arguments.name, arguments.json, arguments.off)
    elif arguments.verb == "exec":
        need(arguments.name)
        command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
        return subprocess.run(["docker", "exec", arguments.name, *command], check=False).returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
