# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The process that asks the GPU's driver: a real one, with an NVML made here that hangs where no signal reaches it."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import driver, gpu, probes, run

ROOT = Path(__file__).resolve().parents[4]
STUCK = ROOT / "tests" / "fixtures" / "stuck" / "stuck.py"
# The state of a process that sleeps in the kernel, out of reach of signals.
DEEP = "D"

NVML = """
import os, pathlib, time
HERE = pathlib.Path(__file__).parent

class NVMLError(Exception): pass
class NVMLError_NotSupported(NVMLError): pass
class Memory: used, total = 5 << 30, 16 << 30

def nvmlInit():
    with open(HERE / "pids", "a") as file:
        print(os.getpid(), file=file)
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetName(handle): return "NVIDIA Something"
def nvmlSystemGetDriverVersion(): return "580.1"
def nvmlDeviceGetMemoryInfo(handle):
    if (HERE / "crash").exists():
        os._exit(3)
    try:
        # Who opens this sleeps in the kernel, while there is a file system that does not answer.
        open(HERE / "mount" / "driver").close()
    except OSError:
        pass
    return Memory
def nvmlDeviceGetComputeRunningProcesses(handle): return []
nvmlDeviceGetGraphicsRunningProcesses = nvmlDeviceGetComputeRunningProcesses
"""


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an NVML of our own, first on the path of this process, and so of the one that it starts."""
    (tmp_path / "pynvml.py").write_text(NVML)
    (tmp_path / "mount").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def pids(nvml: Path) -> list[int]:
    """The processes that have opened the card, in the order in which they did."""
    return [int(line) for line in (nvml / "pids").read_text().split()]


@pytest.fixture
def stuck(nvml: Path) -> Iterator[Callable[[], None]]:
    """Mounts the file system that does not answer; it goes at the end, with everybody who sleeps on it."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/fuse: a call that sleeps in the kernel can't be made here")
    made: list[subprocess.Popen[str]] = []

    def mount() -> None:
        words = [sys.executable, str(STUCK), str(nvml / "mount")]
        made.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert made[0].stdout is not None
        said = made[0].stdout.readline().strip()
        if said != "ready":
            pytest.skip(f"needs the right to mount: {said}")

    yield mount
    for one in made:
        one.communicate("")
    deadline = time.monotonic() + 30
    while run._abandoned and time.monotonic() < deadline:
        run.abandon(run.helper(["true"], []), 1.0)


def state(pid: int) -> str:
    """The kernel's letter for the state of a process; empty when it is gone."""
    return state_of(Path(f"/proc/{pid}/stat"))


def state_of(stat: Path) -> str:
    """The letter in a file of ``/proc``."""
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def thread_states(pid: int) -> set[str]:
    """The states of all threads of a process."""
    try:
        return {state_of(one / "stat") for one in Path(f"/proc/{pid}/task").iterdir()}
    except OSError:
        return set()


def test_another_process_asks_and_answers(nvml: Path) -> None:
    card = gpu.Card(0)
    vram = card.read()
    assert (card.name, card.driver, vram.used_mib, vram.total_mib) == ("NVIDIA Something", "580.1", 5 << 10, 16 << 10)
    assert abs(time.monotonic() - vram.t_s) < 60
    [pid] = pids(nvml)
    assert pid != os.getpid()
    # Nothing of the driver is in this process.
    assert "pynvml" not in sys.modules or str(nvml) not in str(sys.modules["pynvml"].__file__)
    card.close()


def test_it_is_started_once_and_a_look_costs_no_process(nvml: Path) -> None:
    card = gpu.Card(0)
    for _unused in range(50):
        card.read()
    background = card.vitals()
    assert background.take(20)
    background.stop()
    assert len(pids(nvml)) == 1
    card.close()


@pytest.mark.parametrize("how", ["closed", "forgotten", "its own end"])
def test_it_ends_with_who_asks(nvml: Path, eventually: Callable[..., None], how: str) -> None:
    if how == "its own end":
        lines = "import os, sys; sys.path[:] = {}; from module_utils import gpu; gpu.Card(0).read(); os._exit(0)"
        path = [str(nvml), str(ROOT / "plugins"), *sys.path]
        subprocess.run([sys.executable, "-c", lines.format(path)], check=True, timeout=60)
    else:
        card = gpu.Card(0)
        card.read()
        if how == "closed":
            card.close()
        del card
        gc.collect()
    [pid] = pids(nvml)
    eventually(lambda: state(pid) in ("", "Z"))


def test_one_that_was_killed_is_started_anew(nvml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = gpu.Card(0)
    os.kill(pids(nvml)[0], signal.SIGKILL)
    with pytest.raises(gpu.GpuError, match="has ended"):
        # Not at once again, and again: a driver's library that crashes would cost all of a machine.
        card.read()
    assert len(pids(nvml)) == 1
    monkeypatch.setattr(driver, "AGAIN_S", 0.0)
    assert card.read(60).used_mib == 5 << 10
    assert len(pids(nvml)) == 2
    card.close()


def test_one_that_crashes_is_an_error_and_no_end(nvml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "AGAIN_S", 0.0)
    card = gpu.Card(0)
    (nvml / "crash").touch()
    with pytest.raises(gpu.GpuError, match="has ended"):
        card.read(60)
    (nvml / "crash").unlink()
    assert card.read(60).used_mib == 5 << 10
    card.close()


def test_a_card_that_was_closed_starts_nobody(nvml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "AGAIN_S", 0.0)
    card = gpu.Card(0)
    card.close()
    with pytest.raises(gpu.GpuError, match="has ended"):
        card.read()
    assert len(pids(nvml)) == 1


def test_a_python_that_can_not_be_started_is_no_card(nvml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python3")
    with pytest.raises(gpu.GpuError, match=r"can't be started: .*/nowhere/python3"):
        gpu.Card(0)


def test_one_that_ends_before_it_has_answered_is_no_card(nvml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with pytest.raises(gpu.GpuError, match="has ended"):
        gpu.Card(0)


def test_it_is_found_in_a_zip_as_well(nvml: Path, tmp_path: Path) -> None:
    """As the host program is one, and what Ansible sends."""
    import zipfile

    packed = tmp_path / "program.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("module_utils/__init__.py", "")
        for path in sorted((ROOT / "plugins" / "module_utils").glob("*.py")):
            archive.write(path, f"module_utils/{path.name}")
    path = [str(packed), str(nvml), *sys.path]
    lines = f"import sys; sys.path[:] = {path!r}; from module_utils import gpu; print(gpu.Card(0).read())"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=False, timeout=60)
    assert "used_mib=5120" in done.stdout, done.stderr


def test_serving_ends_when_nobody_asks_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    near, far = os.pipe()
    os.close(far)
    driver.serve(0, [], lifeline=near)
    os.close(near)
    assert ended == [0]


# In the kernel, out of reach


def test_a_call_that_sleeps_in_the_kernel_costs_its_time_limit_and_comes_back(
    nvml: Path, stuck: Callable[[], None], eventually: Callable[..., None]
) -> None:
    card = gpu.Card(0)
    card.read()
    stuck()
    began = time.monotonic()
    with pytest.raises(gpu.GpuError, match=r"did not answer within 0\.5 s"):
        card.read(0.5)
    [pid] = pids(nvml)
    with pytest.raises(gpu.GpuError, match="still hangs in an earlier call"):
        card.read(0.2)
    card.close()
    assert time.monotonic() - began < 30
    # Killed, and not gone: the kernel keeps its thread. Nobody waits for it.
    eventually(lambda: DEEP in thread_states(pid))


def test_who_asks_is_reaped_while_the_driver_hangs_in_the_kernel(
    nvml: Path, stuck: Callable[[], None], eventually: Callable[..., None]
) -> None:
    """What systemd needs: the runner's process is gone when it has ended, or was killed."""
    words = f"""
        import sys, time
        sys.path[:] = {[str(nvml), str(ROOT / "plugins"), *sys.path]!r}
        from module_utils import gpu
        card = gpu.Card(0)
        print("open", flush=True)
        sys.stdin.readline()
        try:
            card.read(0.5)
        except gpu.GpuError as err:
            print(err, flush=True)
        sampler = gpu.Sampler(card, __import__("pathlib").Path({str(nvml / "vram.jsonl")!r}))
        if sys.argv[1] == "ends":
            sys.exit(3)
        time.sleep(60)
    """
    for how, code in (("ends", 3), ("killed", -signal.SIGKILL)):
        runner = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(words), how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert runner.stdin
        assert runner.stdout
        assert runner.stdout.readline() == "open\n"
        if how == "ends":
            stuck()
        else:
            # The second one opens its card while the first one's process still hangs.
            assert DEEP in thread_states(pids(nvml)[0])
        runner.stdin.write("go\n")
        runner.stdin.flush()
        assert "did not answer" in runner.stdout.readline()
        if how == "killed":
            runner.kill()
        assert runner.wait(30) == code
        runner.stdin.close()
        runner.stdout.close()


def test_a_command_that_sleeps_in_the_kernel_is_given_up_in_time(nvml: Path, stuck: Callable[[], None]) -> None:
    """An nvidia-smi, too, and whatever else is run: killed, and then left to the kernel."""
    stuck()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        run.command(["cat", str(nvml / "mount" / "driver")], 0.5)
    assert time.monotonic() - began < 20
    assert any(one.poll() is None for one in run._abandoned)


def test_who_was_abandoned_is_reaped_when_the_kernel_lets_go(eventually: Callable[..., None]) -> None:
    child = run.helper(["sleep", "600"], [])
    run.abandon(child)

    def reaped() -> bool:
        run.abandon(run.helper(["true"], []), 1.0)
        return child.returncode is not None and probes.identify(child.pid) is None

    eventually(reaped)
    assert child not in run._abandoned


def test_a_helper_hears_no_signal_of_the_terminal() -> None:
    child = run.helper(["sleep", "600"], [])
    assert os.getsid(child.pid) == child.pid
    run.abandon(child, 5.0)
    assert json.dumps(child.returncode) == str(-signal.SIGKILL)
