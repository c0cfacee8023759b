"""Generations end when we do, even by SIGKILL: a small shell holds the other end of a pipe and the list of groups."""

from __future__ import annotations

import os
import subprocess
import threading
import weakref

# End of file means that we are gone, or that we are through and the list is empty.
_SCRIPT = """
trap '' TERM INT HUP QUIT
live=' '
while read -r sign group; do
  case $sign in
    +) live="$live$group " ;;
    -) live="${live%% "$group" *} ${live#* "$group" }" ;;
  esac
done
for group in $live; do kill -KILL "-$group" 2>/dev/null; done
"""


class Lifeline:
    """Keeps the list of living process groups where our own death can't lose it."""

    def __init__(self) -> None:
        reading, self._writing = os.pipe()
        self._lock = threading.Lock()
        try:
            # A session of its own: Ctrl-C and a closing terminal reach us, not it.
            shell = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
                env={"PATH": "/usr/bin:/bin"},
            )
        finally:
            os.close(reading)
        self.pid = shell.pid
        self._close = weakref.finalize(self, _end, self._writing, shell)

    def add(self, group: int) -> None:
        """From here on `group` dies with us."""
        self._write(f"+ {group}\n")

    def remove(self, group: int) -> None:
        """`group` is gone; say so before its leader is reaped, while nobody else can bear its number."""
        self._write(f"- {group}\n")

    def close(self) -> None:
        """Through; whatever is still on the list is killed."""
        with self._lock:
            self._close()

    def _write(self, text: str) -> None:
        with self._lock:
            if not self._close.alive:
                return
            try:
                os.write(self._writing, text.encode())
            except BrokenPipeError:
                pass  # somebody ended the shell; the generations themselves are none the worse


def _end(writing: int, shell: subprocess.Popen[bytes]) -> None:
    os.close(writing)
    shell.wait()
