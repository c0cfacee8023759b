"""Generations end when we do, even by SIGKILL: a small shell holds the other end of a pipe and the list of them.

The list has process groups, and the marks of `proc.py`: a mark is known before its process is, so there is no moment in
which a generation lives that is not on the list, and it finds those who have left the group. Their temporary folders,
with the prompts in them, are on a list of their own.
"""

from __future__ import annotations

import os
import subprocess
import threading
import weakref
from pathlib import Path

from trialbench.engines.proc import MARK

# End of file means that we are gone, or that we are through and the list is empty.
_SCRIPT = rf"""
trap '' TERM INT HUP QUIT
live=' '
nl='
'
folders=$nl
while read -r sign one; do
  # What is not on a list is not taken off it: a pattern that finds nothing would leave the list twice.
  case $sign in
    +) live="$live$one " ;;
    -) case $live in *" $one "*) live="${{live%% "$one" *}} ${{live#* "$one" }}" ;; esac ;;
    f) folders="$folders$one$nl" ;;
    r)
      case $folders in
        *"$nl$one$nl"*) folders="${{folders%%"$nl$one$nl"*}}$nl${{folders#*"$nl$one$nl"}}" ;;
      esac
      ;;
  esac
done
marks=
for one in $live; do
  case $one in
    m*) marks="$marks|${{one#m}}" ;;
    *) kill -KILL "-$one" 2>/dev/null ;;
  esac
done
end() {{
  IFS=$nl
  set -f
  for one in $folders; do rm -rf -- "$one"; done
  exit 0
}}
[ "$marks" ] || end
marks="(${{marks#|}})"
tries=0
while [ $tries -lt 50 ]; do
  left=
  for one in $(
    grep -lszE "^{MARK}=$marks\$" /proc/[0-9]*/environ
    grep -lsE "^Max file locks +$marks " /proc/[0-9]*/limits
  ); do
    one=${{one#/proc/}} one=${{one%%/*}}
    # The dead wait for a parent of theirs and are none of our business.
    grep -qs '^State:.[ZX] ' "/proc/$one/status" && continue
    kill -KILL "$one" 2>/dev/null
    left=$one
  done
  # Once more: who was only about to be executed shows no mark yet.
  [ "$left" ] || [ $tries -eq 0 ] || end
  tries=$((tries + 1))
  sleep 0.1
done
end
"""


class Lifeline:
    """Keeps the list of living generations where our own death can't lose it."""

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

    def expect(self, mark: str) -> None:
        """Whoever bears `mark` from here on dies with us; say so before there is anybody."""
        self._write(f"+ m{mark}\n")

    def keep(self, folder: Path) -> None:
        """From here on `folder` is removed when we die."""
        if "\n" not in str(folder):
            self._write(f"f {folder}\n")

    def drop(self, folder: Path) -> None:
        """It is removed."""
        if "\n" not in str(folder):
            self._write(f"r {folder}\n")

    def add(self, group: int) -> None:
        """From here on `group` dies with us."""
        self._write(f"+ {group}\n")

    def remove(self, mark: str, group: int | None = None) -> None:
        """They are gone; say so before the group's leader is reaped, while nobody else can bear its number."""
        self._write(f"- m{mark}\n" if group is None else f"- {group}\n- m{mark}\n")

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
