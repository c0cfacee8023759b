#!/usr/bin/env bash
# Molecule on a twin: MT_MOLECULE_TWIN names it (default: mt-molecule). Arguments go to `molecule test`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PWD/.venv/bin:$PATH
export MT_MOLECULE_TWIN=${MT_MOLECULE_TWIN:-mt-molecule}
export MT_TWIN=$MT_MOLECULE_TWIN
# Molecule remembers "created" by the checkout's name alone; an interrupted run would pass that on to another clone.
state=$PWD/build/molecule/state-$MT_MOLECULE_TWIN
rm -rf "$state"
# A run that lends its twins keeps them; by itself molecule begins with a new one.
[ -n "${MT_TWINS_KEPT:-}" ] || python images/twin/twin.py down
export MOLECULE_EPHEMERAL_DIRECTORY=$state MOLECULE_COMMAND_BORDERS=false
[ "$#" -gt 0 ] || set -- --all
exec molecule test "$@"
