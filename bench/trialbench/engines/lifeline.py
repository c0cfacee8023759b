"""Ends all generations when this process dies, even by SIGKILL: a small shell holds the other end of a pipe.

The shell keeps a list of process groups and of the brands of `proc.py`. A brand is listed before its process starts, so
every running generation is on the list, and the brand also finds processes that left their group. A second list has the
temporary folders, which contain the prompts.
"""

from __future__ import annotations

import os
import subprocess
import threading
import weakref
from pathlib import Path

from trialbench.engines.proc import BRAND

# End of file: this process died, or it finished and the list is empty.
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
brands=
for one in $live; do
  case $one in
    b*) brands="$brands|${{one#b}}" ;;
    *) kill -KILL "-$one" 2>/dev/null ;;
  esac
done
end() {{
  IFS=$nl
  set -f
  for one in $folders; do rm -rf -- "$one"; done
  exit 0
}}
[ "$brands" ] || end
brands="(${{brands#|}})"
tries=0
while [ $tries -lt 50 ]; do
  left=
  for one in $(
    grep -lszE "^{BRAND}=$brands\$" /proc/[0-9]*/environ
    grep -lsE "^Max file locks +$brands " /proc/[0-9]*/limits
  ); do
    one=${{one#/proc/}} one=${{one%%/*}}
    # Zombies wait for their own parent; we leave them alone.
    grep -qs '^State:.[ZX] ' "/proc/$one/status" && continue
    kill -KILL "$one" 2>/dev/null
    left=$one
  done
  # Once more: a process that was just about to exec shows no brand yet.
  [ "$left" ] || [ $tries -eq 0 ] || end
  tries=$((tries + 1))
  sleep 0.1
done
end
"""


class Lifeline:
    """Keeps the list of running generations outside this process, so that it survives our death."""

    def __init__(self) -> None:
        reading, self._writing = os.pipe()
        self._lock = threading.Lock()
        try:
            # A Unix session of its own: Ctrl-C and a closing terminal reach us, not it.
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

    def expect(self, brand: str) -> None:
        """From now on, processes with `brand` die with us; call it before the first one starts."""
        self._write(f"+ b{brand}\n")

    def keep(self, folder: Path) -> None:
        """From now on, `folder` is removed when we die."""
        if "\n" not in str(folder):
            self._write(f"f {folder}\n")

    def drop(self, folder: Path) -> None:
        """It is removed."""
        if "\n" not in str(folder):
            self._write(f"r {folder}\n")

    def add(self, group: int) -> None:
        """From now on, `group` dies with us."""
        self._write(f"+ {group}\n")

    def remove(self, brand: str, group: int | None = None) -> None:
        """They are gone; call it before the group's leader is reaped, while its pid can't be reused."""
        self._write(f"- b{brand}\n" if group is None else f"- {group}\n- b{brand}\n")

    def close(self) -> None:
        """Finish; everything still on the list is killed."""
        with self._lock:
            self._close()

    def _write(self, text: str) -> None:
        with self._lock:
            if not self._close.alive:
                return
            try:
                os.write(self._writing, text.encode())
            except BrokenPipeError:
                pass  # the shell was ended from outside; the generations are not affected


def _end(writing: int, shell: subprocess.Popen[bytes]) -> None:
    os.close(writing)
    shell.wait()
