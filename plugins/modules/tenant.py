#!/usr/bin/python
# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stop or start services of a host in order, and wait until they do their work."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: tenant
version_added: 0.1.0
short_description: Stop or start services of a host in order
description:
  - Stops or starts the listed tenants strictly one after another. A started tenant must be healthy before the next one
    is touched; a stopped one must be gone. A stop that is under way is waited for before a start.
  - A tenant is a systemd unit, a pair of start and stop scripts, a container, or a process.
options:
  tenants:
    description: The tenants in order; the fields are those of C(trial_tenants) of the role trial.
    type: list
    elements: dict
    required: true
  state:
    description: The wanted state.
    type: str
    required: true
    choices: [started, stopped]
  log_dir:
    description:
      - Folder on the host for the output of start and stop scripts. Defaults to the module's temporary folder, which
        is removed at the end.
    type: path
extends_documentation_fragment:
  - edgelab.model_trial.attributes
attributes:
  check_mode:
    support: full
    description: Looks at every tenant, touches none.
  diff_mode:
    support: full
    description: Shows the state of every tenant before and after.
"""

EXAMPLES = r"""
- name: Stop the voice, then the model
  edgelab.model_trial.tenant:
    state: stopped
    tenants:
      - name: voice
        kind: script
        user: robot
        directory: /srv/voice
        start: ./start.sh
        stop: ./stop.sh
        port: 8772
        health: {url: "http://127.0.0.1:8772/health", json: {model_loaded: true}}
      - name: model
        kind: systemd
        unit: llama.service
        health: {url: "http://127.0.0.1:8080/health", json: {status: ok}}
  become: true
"""

RETURN = r"""
tenants:
  description: What was found and done, by name.
  returned: always
  type: dict
  sample: {voice: {before: started, after: stopped, duration_s: 0.4}}
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edgelab.model_trial.plugins.module_utils import planfile, tenants
from ansible_collections.edgelab.model_trial.plugins.module_utils.plan import Tenant


def deal_with(tenant: Tenant, state: str, log_dir: Path, check_mode: bool) -> dict[str, Any]:
    """Bring one tenant into ``state``; returns what was found and done."""
    if state == "started" and not check_mode and tenants.await_stop(tenant):
        raise tenants.TenantError(f"{tenant.name}: a stop is under way and does not end")
    condition = tenants.look(tenant)
    before = "started" if condition.running else "stopped"
    there = condition.healthy if state == "started" else not condition.running
    facts: dict[str, Any] = {"before": before, "after": state, "changed": not there, "found": condition.found}
    if there or check_mode:
        return facts
    log = log_dir / f"{tenant.name}.log"
    if state == "stopped":
        facts["duration_s"] = round(tenants.stop(tenant, log), 3)
    else:
        # One that runs and is only loading is waited for: a second start could make two of it.
        scope = "" if condition.running else tenants.start(tenant, log)
        facts["duration_s"] = round(tenants.wait_healthy(tenant, log, scope), 3)
    return facts


def main() -> None:
    """Read the arguments, deal with the tenants in order, report."""
    module = AnsibleModule(
        argument_spec={
            "tenants": {"type": "list", "elements": "dict", "required": True},
            "state": {"type": "str", "required": True, "choices": ["started", "stopped"]},
            "log_dir": {"type": "path"},
        },
        supports_check_mode=True,
    )
    state, found = module.params["state"], {}
    try:
        wanted = [planfile.parse_tenant(item, f"tenants[{i}]") for i, item in enumerate(module.params["tenants"])]
        for tenant in wanted:
            found[tenant.name] = deal_with(
                tenant, state, Path(module.params["log_dir"] or module.tmpdir), module.check_mode
            )
    except planfile.PlanError as err:
        module.fail_json(msg=str(err))
    except (tenants.TenantError, OSError) as err:
        module.fail_json(msg=str(err), tenants=found)
    # All of them are taken out, not only those up to the first that changed.
    changes = [facts.pop("changed") for facts in found.values()]
    diff = {
        "before": "".join(f"{name}: {facts['before']}\n" for name, facts in found.items()),
        "after": "".join(f"{name}: {facts['after']}\n" for name, facts in found.items()),
    }
    module.exit_json(changed=any(changes), tenants=found, diff=diff)


if __name__ == "__main__":
    main()
