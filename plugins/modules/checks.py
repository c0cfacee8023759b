#!/usr/bin/python
# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Page over module_utils/checks: is the host as it was?"""

from __future__ import annotations

DOCUMENTATION = r"""
module: checks
short_description: Check that a host serves as it did before a trial
version_added: "0.1.0"
description:
  - Derives the checks from the plan and runs them one after another. VRAM is in its steady band and
    held by the expected processes. Every tenant with a health page is healthy. The candidate's port
    refuses connections. Speech is audible. Watched processes live.
  - Fails and names every check that does not pass. Changes nothing.
options:
  plan:
    description:
      - The plan of the trial, as the inventory describes it. See the roles of this collection for its
        fields.
    type: dict
    required: true
  snapshot:
    description:
      - Processes from before the trial, by the name of their tenant, each with C(pid) and
        C(start_ticks).
      - With it, a watched process outside the stop order must still be the same one.
      - With C(identity) and C(scopes), as a trial writes them, a script or process tenant that a restore has
        started must have the same user, groups, slice, limits, priority and names of environment variables.
    type: dict
    default: {}
  snapshot_file:
    description:
      - A file on the host that holds such a snapshot under C(tenants); a trial writes one to the folder
        of its run.
      - Ignored when it is missing, when it is older than the last reboot, and when O(snapshot) is given.
    type: path
  proof_file:
    description:
      - What a restore leaves on the host when its checks have passed, C(verification.json) in the folder of its run.
      - With it, tenants whose process has changed since then are reported, as a warning and as RV(changed_since).
      - Ignored when it is missing, and when it is older than the last reboot.
    type: path
  settle_s:
    description:
      - How many seconds VRAM may take to reach its band.
    type: float
    default: 3.0
extends_documentation_fragment:
  - edgelab.model_trial.attributes
  - edgelab.model_trial.attributes.looks
  - edgelab.model_trial.attributes.gpu
seealso:
  - module: edgelab.model_trial.contracts
  - module: edgelab.model_trial.speech_check
"""

EXAMPLES = r"""
- name: Everything serves as it did
  edgelab.model_trial.checks:
    plan: "{{ trial_plan }}"

- name: The same, and the watched processes were never restarted
  edgelab.model_trial.checks:
    plan: "{{ trial_plan }}"
    snapshot: "{{ trial_snapshot.tenants }}"
"""

RETURN = r"""
checks:
  description: All checks in their order. Returned on failure too.
  returned: when the plan is valid
  type: list
  elements: dict
  contains:
    id:
      description: Number of the check.
      type: int
      sample: 7
    title:
      description: What it checks.
      type: str
      sample: Chatterbox TTS speaks "test one two"
    expected:
      description: What is expected.
      type: str
      sample: a valid WAV of more than 5120 bytes that is not silent
    found:
      description: What was found.
      type: str
      sample: WAV, 1.42 s, 24000 Hz, 1 channel(s), 68204 bytes
    ok:
      description: Whether it passed.
      type: bool
      sample: true
changed_since:
  description: Tenants whose process has changed since the restore was proved, in words.
  returned: when the plan is valid
  type: list
  elements: str
  sample: []
failed_checks:
  description: Numbers of the checks that did not pass.
  returned: when the plan is valid
  type: list
  elements: int
  sample: []
"""

import dataclasses
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edgelab.model_trial.plugins.module_utils import checks, planfile
from ansible_collections.edgelab.model_trial.plugins.module_utils.journal import boot_id, read_json


def main() -> None:
    """Run the checks, and fail with all that did not pass."""
    module = AnsibleModule(
        argument_spec={
            "plan": {"type": "dict", "required": True},
            "snapshot": {"type": "dict", "default": {}},
            "snapshot_file": {"type": "path"},
            "proof_file": {"type": "path"},
            "settle_s": {"type": "float", "default": 3.0},
        },
        supports_check_mode=True,
    )
    try:
        plan = planfile.parse(module.params["plan"])
    except planfile.PlanError as err:
        module.fail_json(msg=f"The plan is not usable. {err}")
    snapshot = module.params["snapshot"]
    if not snapshot and module.params["snapshot_file"]:
        known = read_json(Path(module.params["snapshot_file"])) or {}
        snapshot = known.get("tenants", {}) if known.get("boot_id", boot_id()) == boot_id() else {}
    proof = read_json(Path(module.params["proof_file"])) if module.params["proof_file"] else None
    changed = checks.since(plan, proof) if isinstance(proof, dict) and proof.get("boot_id") == boot_id() else []
    for text in changed:
        module.warn(text)
    found = checks.run(plan, snapshot=snapshot, settle_s=module.params["settle_s"])
    failed = [c for c in found if not c.ok]
    result = {
        "checks": [dataclasses.asdict(c) for c in found],
        "failed_checks": [c.id for c in failed],
        "changed_since": changed,
    }
    if failed:
        module.fail_json(msg=checks.message(failed), **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
