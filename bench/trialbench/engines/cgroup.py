"""A cgroup per generation, if one was delegated to us: no process can leave it, and the kernel accounts its memory.

Only a delegated cgroup v2 is used: systemd marks cgroups of units with `Delegate=yes` with the extended attribute
`user.delegate`. Without one, process group and VmHWM are used instead.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_DELEGATED = ("user.delegate", "trusted.delegate")
_REMOVE_LIMIT_S = 2.0


class Cgroup:
    """The cgroup of one generation."""

    def __init__(self, path: Path, *, memory_max_mib: float | None = None) -> None:
        self.path = path
        path.mkdir()
        self._write("memory.oom.group", "1")
        if memory_max_mib is not None:
            self._write("memory.max", str(int(memory_max_mib * (1 << 20))))
            self._write("memory.swap.max", "0")

    @property
    def procs(self) -> Path:
        """Where a process writes its pid to get in."""
        return self.path / "cgroup.procs"

    def pids(self) -> list[int]:
        """The pids in it, without zombies."""
        return [int(line) for line in self._read("cgroup.procs").split()]

    def kill(self) -> bool:
        """SIGKILL to all of it at once, forks included; False where the kernel can't (before 5.14)."""
        return self._write("cgroup.kill", "1")

    def peak_mib(self) -> float | None:
        """The peak memory of all its processes together, including the page cache of its own files."""
        text = self._read("memory.peak").strip()
        return int(text) / (1 << 20) if text.isdigit() else None

    def oom_kills(self) -> int:
        """How often the kernel killed a process in it because `memory.max` was reached."""
        counts = dict(line.split(maxsplit=1) for line in self._read("memory.events").splitlines() if " " in line)
        return int(counts.get("oom_kill", 0))

    def remove(self) -> bool:
        """Remove it; False if it still holds a process."""
        until_s = time.monotonic() + _REMOVE_LIMIT_S
        while True:
            try:
                self.path.rmdir()
            except FileNotFoundError:
                return True
            except OSError:
                if time.monotonic() >= until_s:
                    return False
                time.sleep(0.002)
            else:
                return True

    def _read(self, name: str) -> str:
        try:
            return (self.path / name).read_text()
        except OSError:
            return ""

    def _write(self, name: str, text: str) -> bool:
        try:
            with open(self.path / name, "r+b", buffering=0) as stream:
                stream.write(text.encode())
        except OSError:
            return False
        return True


class CgroupHome:
    """The cgroup that was given to this process. It moves itself into a leaf: only leaves may hold processes.

    Args:
        path: must be delegated to us and hold no other process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        leaf = path / "worker"
        leaf.mkdir(exist_ok=True)
        for pid in (path / "cgroup.procs").read_text().split():
            (leaf / "cgroup.procs").write_text(pid)
        offered = (path / "cgroup.controllers").read_text().split()
        wanted = " ".join(f"+{name}" for name in ("memory", "pids") if name in offered)
        if wanted:
            (path / "cgroup.subtree_control").write_text(wanted)

    def make(self, name: str, *, memory_max_mib: float | None = None) -> Cgroup:
        """A new cgroup below it."""
        return Cgroup(self.path / f"generation-{name}", memory_max_mib=memory_max_mib)


def find_home(own: str | None = None, mounts: str | None = None) -> CgroupHome | None:
    """The cgroup that was delegated to us, or None.

    Args:
        own, mounts: the contents of /proc/self/cgroup and /proc/self/mounts, for tests.
    """
    try:
        own = Path("/proc/self/cgroup").read_text() if own is None else own
        mounts = Path("/proc/self/mounts").read_text() if mounts is None else mounts
    except OSError:  # pragma: no cover - no /proc
        return None
    below = next((line[3:] for line in own.splitlines() if line.startswith("0::/")), None)
    root = next(
        (fields[1] for fields in (line.split() for line in mounts.splitlines()) if fields[2] == "cgroup2"), None
    )
    if below is None or root is None:
        return None
    path = Path(root) / below.lstrip("/").removesuffix("/worker")
    if not _delegated(path):
        return None
    try:
        return CgroupHome(path)
    except OSError:
        return None


def _delegated(path: Path) -> bool:
    for name in _DELEGATED:
        try:
            if os.getxattr(path, name) == b"1":
                return True
        except OSError:
            continue
    return False
