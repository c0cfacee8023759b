#!/usr/bin/python
# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Page over module_utils/gpu: what the card is, how full it is, and who holds it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_info
short_description: Read an NVIDIA GPU's memory and the processes that hold it
version_added: "0.1.0"
description:
  - Reads one card's name, driver, used and total memory, and the processes that hold memory, on the
    host.
  - Does not fail when there is no card or the driver does not answer; RV(available) is then false and
    RV(reason) says why.
options:
  index:
    description:
      - Number of the card, as C(nvidia-smi) counts.
    type: int
    default: 0
extends_documentation_fragment:
  - edgelab.model_trial.attributes
  - edgelab.model_trial.attributes.looks
  - edgelab.model_trial.attributes.gpu
  - edgelab.model_trial.attributes.gpu_group
seealso:
  - module: edgelab.model_trial.gpu_drain
"""

EXAMPLES = r"""
- name: Look at the card
  edgelab.model_trial.gpu_info:
  register: gpu

- name: Say who holds it
  ansible.builtin.debug:
    msg: "{{ gpu.processes | map(attribute='command') | join(', ') }}"
  when: gpu.available

- name: Everything about the second card
  module_defaults:
    group/edgelab.model_trial.gpu: {index: 1}
  block:
    - name: Look at it
      edgelab.model_trial.gpu_info:

    - name: Wait until its memory is free
      edgelab.model_trial.gpu_drain:
        target_mib: 2048
"""

RETURN = r"""
available:
  description: Whether the card could be read.
  returned: always
  type: bool
  sample: true
reason:
  description: Why it could not be read.
  returned: when the card could not be read
  type: str
  sample: "neither NVML nor nvidia-smi is there: is the NVIDIA driver installed?"
name:
  description: Name of the card.
  returned: when available
  type: str
  sample: NVIDIA GeForce RTX 5070 Ti
driver:
  description: Version of the driver.
  returned: when available
  type: str
  sample: 580.95.05
used_mib:
  description: Used memory in MiB.
  returned: when available
  type: int
  sample: 13722
total_mib:
  description: Total memory in MiB.
  returned: when available
  type: int
  sample: 16303
processes:
  description: Processes that hold memory; C(mib) is null where the driver does not report it.
  returned: when available
  type: list
  elements: dict
  sample:
    - pid: 812
      mib: 4900
      command: /usr/bin/llama-server --port 11435
"""

import dataclasses

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edgelab.model_trial.plugins.module_utils import gpu


def main() -> None:
    """Read the card once."""
    module = AnsibleModule(
        argument_spec={"index": {"type": "int", "default": 0}},
        supports_check_mode=True,
    )
    try:
        card = gpu.Card(module.params["index"])
        vram = card.read()
    except gpu.GpuError as err:
        module.exit_json(changed=False, available=False, reason=str(err))
    card.close()
    module.exit_json(
        changed=False,
        available=True,
        name=card.name,
        driver=card.driver,
        used_mib=vram.used_mib,
        total_mib=vram.total_mib,
        processes=[dataclasses.asdict(holder) for holder in vram.holders],
    )


if __name__ == "__main__":
    main()
