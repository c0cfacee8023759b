#!/usr/bin/python
# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Page over module_utils/contracts: everything that must hold before a trial touches a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: contracts
short_description: Evaluate what must hold on a host before a trial touches it
version_added: "0.1.0"
description:
  - Evaluates the fourteen contracts of phase 0 concurrently, in at most about three seconds, and lists
    B(all) that are broken, each with what was expected, what was found, why it matters and what to do.
  - Without a trial, for O(site), it evaluates those that concern the host alone. These are 1 (sudo), 7 (room) and
    9 (no trial holds the host); with tenants also 4 (ports) and 6 (health, and a way back for what would be stopped);
    with clauses 2; with quiet probes 12.
  - Runs as the login user. Facts that only root may see are read through C(sudo -n). If that fails, the
    first contract is broken, and those that depend on it say so.
  - Changes nothing.
options:
  plan:
    description:
      - The plan of a trial, as the role C(edgelab.model_trial.trial) builds it from the inventory.
      - Either this or O(site).
    type: dict
  only:
    description:
      - Numbers of the contracts to evaluate. By default all that the given facts suffice for.
      - An unknown number is an error, and so is a contract that needs more facts.
    type: list
    elements: int
    default: []
  program:
    description:
      - SHA-256 of the program that the trial brings to the host, as M(edgelab.model_trial.program) returns it. A host
        that was rehearsed with another program gets a warning.
      - By default, the program that is installed on the host.
    type: str
    default: ""
extends_documentation_fragment:
  - edgelab.model_trial.attributes
  - edgelab.model_trial.attributes.looks
  - edgelab.model_trial.attributes.gpu
  - edgelab.model_trial.attributes.host_group
  - edgelab.model_trial.tenants.site
seealso:
  - module: edgelab.model_trial.checks
"""

EXAMPLES = r"""
- name: Stop here, with the whole list, if the host is not fit for a trial
  edgelab.model_trial.contracts:
    plan: "{{ trial_plan }}"

- name: A gate of a deployment, without a trial and without a GPU
  edgelab.model_trial.contracts:
    only: [1, 4, 6, 7, 9]
    site:
      tenants:
        - name: api
          kind: systemd
          unit: api.service
          port: 8080
          process: api.py
          health: {url: "http://127.0.0.1:8080/health"}
      contracts: {disk_gb_min: 5, ram_gb_min: 1}

- name: Only look, and decide later
  edgelab.model_trial.contracts:
    plan: "{{ trial_plan }}"
  register: phase_0
  failed_when: false
"""

RETURN = r"""
contracts:
  description: All contracts, ordered by id. Returned on failure too.
  returned: when O(plan) or O(site) is valid
  type: list
  elements: dict
  contains:
    id:
      description: Number of the contract.
      type: int
      sample: 3
    name:
      description: What it is about.
      type: str
      sample: the candidate's port is free
    expected:
      description: What must hold.
      type: str
      sample: nobody listens on 11437
    found:
      description: What was found.
      type: str
      sample: port 11437 is held by PID 812 python3 -m http.server 11437
    ok:
      description: Whether it holds.
      type: bool
      sample: false
    why:
      description: Why it matters.
      type: str
      sample: the candidate could not listen there, or another server would be measured
    todo:
      description: What to do, empty when it holds.
      type: str
      sample: end what listens on 11437, or choose another candidate.port
    spared:
      description: Whether it holds only because this is a rehearsal; a trial would find it broken, see C(todo).
      type: bool
      sample: false
    warning:
      description: What a person should know about the host although the contract holds; it is shown as a warning, too.
      type: str
      sample: ""
    labels:
      description: >-
        Right answers of scenes, each with its C(place) and its C(label). Contract 10 of a trial has them, because the
        controller knows how replies are read.
      type: list
      elements: dict
broken:
  description: Numbers of the broken contracts.
  returned: when O(plan) or O(site) is valid
  type: list
  elements: int
  sample: [3]
"""

import dataclasses

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edgelab.model_trial.plugins.module_utils import contracts, planfile
from ansible_collections.edgelab.model_trial.plugins.module_utils.plan import Site


def main() -> None:
    """Evaluate, and fail with all that is broken."""
    module = AnsibleModule(
        argument_spec={
            "plan": {"type": "dict"},
            "site": {"type": "dict", "options": planfile.arguments(Site)},
            "only": {"type": "list", "elements": "int", "default": []},
            "program": {"type": "str", "default": ""},
        },
        mutually_exclusive=[("plan", "site")],
        required_one_of=[("plan", "site")],
        supports_check_mode=True,
    )
    params = module.params
    try:
        plan = planfile.parse(params["plan"]) if params["plan"] is not None else planfile.parse_site(params["site"])
    except planfile.PlanError as err:
        module.fail_json(msg=f"The plan is not usable. {err}")
    try:
        found = contracts.evaluate(plan, contracts.Host(program=params["program"]), params["only"])
    except contracts.NoSuchContract as err:
        module.fail_json(msg=str(err))
    broken = [c for c in found if not c.ok]
    for one in found:
        if one.warning:
            module.warn(f"Contract {one.id}, {one.name}: {one.warning}")
    result = {"contracts": [dataclasses.asdict(c) for c in found], "broken": [c.id for c in broken]}
    if broken:
        module.fail_json(msg=contracts.message(broken), **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
