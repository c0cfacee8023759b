#!/usr/bin/env python3
"""The digital twin (images/twin) as an inventory. Start it with `make twin-up`; what lives on it is in group_vars/.

MT_TWIN in the environment names a twin other than mt-twin. A script, not a file of lookups: a play asks for how to
reach its host at every task, and would read and template the same file some five hundred times.
"""

from __future__ import annotations

import json
import os
import pathlib

# More than a user's own settings: nothing may ask a person, and no other host's key is ever accepted for the twin's.
SSH_ARGS = (
    "-o ControlMaster=auto -o ControlPersist=60s -o ServerAliveInterval=5 -o ServerAliveCountMax=3"
    " -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes -o GlobalKnownHostsFile=/dev/null -o UserKnownHostsFile="
)


def reach(name: str) -> dict[str, object]:
    """Return the connection variables of a twin; an error for one that is not up."""
    path = pathlib.Path(__file__).resolve().parents[2] / "build" / "twin" / f"{name}.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        hint = f"the twin {name} is not up; do: make twin-up"
        return {"ansible_host": f"{{{{ undef(hint={hint!r}) }}}}"}
    return {
        "ansible_host": facts["host"],
        "ansible_port": facts["port"],
        "ansible_user": facts["user"],
        "ansible_ssh_private_key_file": facts["key"],
        "ansible_ssh_args": SSH_ARGS + facts["known_hosts"],
        "ansible_host_key_checking": True,
        "ansible_python_interpreter": "/usr/bin/python3",
    }


def main() -> None:
    """Print what `--list` asks for; `--host` is never called, because `_meta` is there."""
    name = os.environ.get("MT_TWIN") or "mt-twin"
    inventory = {"trial_hosts": {"hosts": ["twin"]}, "_meta": {"hostvars": {"twin": reach(name)}}}
    print(json.dumps(inventory, indent=2))


if __name__ == "__main__":
    main()
