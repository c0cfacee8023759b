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
  - Without a trial, for O(site), the same checks, without the candidate's port.
  - Check 1 is about the card. If no card is named, it does not apply, and says so.
  - Fails and names every check that does not pass. Changes nothing.
options:
  plan:
    description:
      - The plan of a trial, as the role C(edgelab.model_trial.trial) builds it from the inventory.
      - Either this or O(site).
    type: dict
  only:
    description:
      - Numbers of the checks to make. By default all.
      - An unknown number is an error, and so is a check that does not apply.
    type: list
    elements: int
    default: []
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
      - The file that a restore leaves on the host when its checks have passed, C(verification.json) in the folder of
        its run.
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
  - edgelab.model_trial.attributes.host_group
  - edgelab.model_trial.tenants.site
seealso:
  - module: edgelab.model_trial.contracts
  - module: edgelab.model_trial.speech_check
"""

EXAMPLES = r"""
- name: Everything serves as it did
  edgelab.model_trial.checks:
    plan: "{{ trial_plan }}"

- name: A smoke test after a deployment, without a trial and without a GPU
  edgelab.model_trial.checks:
    site:
      tenants:
        - name: api
          kind: systemd
          unit: api.service
          health: {url: "http://127.0.0.1:8080/health"}
        - name: voice
          kind: systemd
          unit: voice.service
          health: {url: "http://127.0.0.1:8772/health"}
          speech: {url: "http://127.0.0.1:8772/synthesize", body: {text: dinner is ready}}

- name: The same, and the watched processes were never restarted
  edgelab.model_trial.checks:
    plan: "{{ trial_plan }}"
    snapshot: "{{ trial_snapshot.tenants }}"
"""

RETURN = r"""
checks:
  description: All checks in their order. Returned on failure too.
  returned: when O(plan) or O(site) is valid
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
      sample: WAV, 1.42 s, 24000 Hz, 1 channel, 68204 bytes
    ok:
      description: Whether it passed.
      type: bool
      sample: true
changed_since:
  description: Tenants whose process has changed since the restore was proved, in words.
  returned: when O(plan) or O(site) is valid
  type: list
  elements: str
  sample: []
failed_checks:
  description: Numbers of the checks that did not pass.
  returned: when O(plan) or O(site) is valid
  type: list
  elements: int
  sample: []
"""

import dataclasses
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edgelab.model_trial.plugins.module_utils import checks, planfile
from ansible_collections.edgelab.model_trial.plugins.module_utils.journal import boot_id, read_json
from ansible_collections.edgelab.model_trial.plugins.module_utils.plan import Site


def _look(module: AnsibleModule, plan: Site) -> tuple[list[checks.CheckResult], list[str]]:
    """Run the checks; returns them, and what has changed since the restore was proved."""
    params = module.params
    snapshot = params["snapshot"]
    if not snapshot and params["snapshot_file"]:
        known = read_json(Path(params["snapshot_file"])) or {}
        snapshot = known.get("tenants", {}) if known.get("boot_id", boot_id()) == boot_id() else {}
    found = checks.run(plan, snapshot=snapshot, settle_s=params["settle_s"], only=params["only"])
    proof = read_json(Path(params["proof_file"])) if params["proof_file"] else None
    changed = checks.since(plan, proof) if isinstance(proof, dict) and proof.get("boot_id") == boot_id() else []
    for text in changed:
        module.warn(text)
    return found, changed


def main() -> None:
    """Run the checks, and fail with all that did not pass."""
    module = AnsibleModule(
        argument_spec={
            "plan": {"type": "dict"},
            "site": {"type": "dict", "options": planfile.arguments(Site)},
            "only": {"type": "list", "elements": "int", "default": []},
            "snapshot": {"type": "dict", "default": {}},
            "snapshot_file": {"type": "path"},
            "proof_file": {"type": "path"},
            "settle_s": {"type": "float", "default": 3.0},
        },
        mutually_exclusive=[("plan", "site")],
        required_one_of=[("plan", "site")],
        supports_check_mode=True,
    )
    params = module.params
    try:
        planfile.check_figures({"settle_s": params["settle_s"]})
    except planfile.PlanError as err:
        module.fail_json(msg=str(err))
    try:
        plan = planfile.parse(params["plan"]) if params["plan"] is not None else planfile.parse_site(params["site"])
    except planfile.PlanError as err:
        module.fail_json(msg=f"The plan is not usable. {err}")
    try:
        found, changed = _look(module, plan)
    except checks.NoSuchCheck as err:
        module.fail_json(msg=str(err))
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
