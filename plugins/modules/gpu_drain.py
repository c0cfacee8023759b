#!/usr/bin/python
# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Page over module_utils/gpu: wait until memory of a GPU has been freed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_drain
short_description: Wait until a GPU's memory has been freed
version_added: "0.1.0"
description:
  - Waits until none of the given processes holds memory of the card and the used memory has
    fallen to a target. Without a target it waits until the level is constant.
  - Memory may stay allocated for a while after a process has ended, and a service that starts too early
    fails to allocate. Put this module between a stop and the next start.
  - Never ends a process. Fails when the limit passes, and names the processes that hold memory.
options:
  index:
    description:
      - Number of the card, as C(nvidia-smi) counts.
    type: int
    default: 0
  pids:
    description:
      - Processes that must no longer hold memory.
    type: list
    elements: int
    default: []
  target_mib:
    description:
      - Level in MiB to which the used memory must fall.
      - Without it, the level must be constant for half a second.
    type: int
  tolerance_mib:
    description:
      - How many MiB above O(target_mib) still count as drained.
    type: int
    default: 300
  min_s:
    description:
      - Wait at least this many seconds, however fast memory falls.
    type: float
    default: 0.0
  limit_s:
    description:
      - Give up and fail after this many seconds.
    type: float
    default: 30.0
extends_documentation_fragment:
  - edgelab.model_trial.attributes
  - edgelab.model_trial.attributes.gpu
  - edgelab.model_trial.attributes.gpu_group
attributes:
  idempotent:
    description: Only waits. With nothing left to wait for, it returns as soon as O(min_s) has passed.
    support: full
  check_mode:
    description: >-
      In check mode, where nothing was stopped, it looks once and never fails; a card that can't be read is a warning.
    support: full
seealso:
  - module: edgelab.model_trial.gpu_info
"""

EXAMPLES = r"""
- name: Stop a server
  ansible.builtin.systemd_service:
    name: my-model-server
    state: stopped
  become: true

- name: Wait until its memory is free
  edgelab.model_trial.gpu_drain:
    target_mib: 2048
    limit_s: 20

- name: Look who holds the card, before something is stopped
  edgelab.model_trial.gpu_info:
  register: card

- name: Wait for certain processes, whatever the others hold
  edgelab.model_trial.gpu_drain:
    pids: "{{ card.processes | selectattr('command', 'search', 'llama-server') | map(attribute='pid') }}"
    min_s: 5
"""

RETURN = r"""
drained:
  description: Whether memory has been freed.
  returned: when the card could be opened, and in check mode
  type: bool
  sample: true
used_mib:
  description: Used memory at the end, in MiB; 0 when the card never answered.
  returned: when the card could be opened, and in check mode
  type: int
  sample: 1480
target_mib:
  description: The target, as given.
  returned: when the card could be opened, and in check mode
  type: int
  sample: 2048
duration_s:
  description: How long it took, in seconds.
  returned: when the card could be opened, and in check mode
  type: float
  sample: 1.73
processes:
  description: Processes that hold memory at the end; C(mib) is null where the driver does not report it.
  returned: when the card could be opened, and in check mode
  type: list
  elements: dict
  sample:
    - pid: 901
      mib: 1480
      command: /usr/bin/python3 /srv/voice/phone_call.py auto
"""

import dataclasses
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edgelab.model_trial.plugins.module_utils import gpu, planfile


def look(params: dict[str, Any], once: bool) -> gpu.Drained:
    """Wait as the options say, or look ``once``.

    Raises:
        gpu.GpuError: the card can't be opened.
    """
    card = gpu.Card(params["index"])
    drained = gpu.drain(
        card,
        params["target_mib"],
        tolerance_mib=params["tolerance_mib"],
        min_s=0.0 if once else params["min_s"],
        limit_s=0.0 if once else params["limit_s"],
        pids=params["pids"],
    )
    card.close()
    return drained


def main() -> None:
    """Wait, and fail with the holders' names when the limit passes."""
    module = AnsibleModule(
        argument_spec={
            "index": {"type": "int", "default": 0},
            "pids": {"type": "list", "elements": "int", "default": []},
            "target_mib": {"type": "int"},
            "tolerance_mib": {"type": "int", "default": 300},
            "min_s": {"type": "float", "default": 0.0},
            "limit_s": {"type": "float", "default": 30.0},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        planfile.check_figures(params)
    except planfile.PlanError as err:
        module.fail_json(msg=str(err))
    try:
        drained = look(params, module.check_mode)
    except gpu.GpuError as err:
        unread = f"GPU {params['index']} cannot be read: {err}"
        if not module.check_mode:
            module.fail_json(msg=unread)
        module.warn(unread)
        drained = gpu.Drained(False, 0, params["target_mib"], 0.0, error=str(err))
    result = {
        "drained": drained.ok,
        "used_mib": drained.used_mib,
        "target_mib": drained.target_mib,
        "duration_s": round(drained.duration_s, 3),
        "processes": [dataclasses.asdict(holder) for holder in drained.holders],
    }
    if not drained.ok and not module.check_mode:
        module.fail_json(msg=gpu.undrained(drained, params["tolerance_mib"]), **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
