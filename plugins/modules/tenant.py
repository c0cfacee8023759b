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
    is touched; a stopped one must be down. A start waits for a stop that is under way.
  - The state that systemd or docker reports counts. A unit or container that waits to be started again counts as
    running; a unit without a process (a timer, a one-shot that remains active) is judged by its state. A unit or
    container that they do not know, or whose state they do not report, is an error.
  - A tenant is a systemd unit, a pair of start and stop scripts, a container, or a process.
  - A tenant whose C(needs) names another one that is listed stops before it, and starts after it.
options:
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
  - edgelab.model_trial.tenants
attributes:
  check_mode:
    support: full
    description: Looks at every tenant, touches none. Without root's rights it can't look at all of them.
  idempotent:
    support: full
    description: A tenant that is in the wanted state is left alone, and O(state=started) waits for one that is loading.
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

- name: Stop what runs of these, work, and start only what was stopped, in the opposite order
  vars:
    services:
      - {name: api, kind: systemd, unit: api.service, health: {url: "http://127.0.0.1:8080/health"}}
      - {name: db, kind: systemd, unit: db.service}
  block:
    - name: Stop them
      edgelab.model_trial.tenant:
        state: stopped
        tenants: "{{ services }}"
      become: true
      register: stopped

    - name: Work
      ansible.builtin.command: /usr/local/bin/reorganize
      changed_when: true
  always:
    - name: Start them
      edgelab.model_trial.tenant:
        state: started
        tenants: "{{ services | selectattr('name', 'in', stopped.moved | default([])) | reverse | list }}"
      become: true

- name: Start a container and a process of a user, each healthy before the next
  edgelab.model_trial.tenant:
    state: started
    tenants:
      - {name: search, kind: container, container: search}
      - name: phone
        kind: process
        process: phone_call.py auto
        user: robot
        directory: /srv/phone
        start: python3 phone_call.py auto
        start_timeout_s: 30
  become: true
"""

RETURN = r"""
tenants:
  description:
    - What was found and done, by name. After a failure too, in which case the tenant that failed has C(error), and
      those after it are missing.
    - C(before) and C(after) are C(started), C(stopped) or C(unknown).
  returned: when every tenant is described correctly
  type: dict
  sample: {voice: {before: started, after: stopped, found: PID 77, duration_s: 0.4}}
moved:
  description:
    - Names of the tenants that were stopped or started, in order; in check mode, of those that would be. A tenant that
      was in the wanted state before is not listed, so that it can be left as it was.
  returned: when every tenant is described correctly
  type: list
  elements: str
  sample: [voice]
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edgelab.model_trial.plugins.module_utils import planfile, tenants
from ansible_collections.edgelab.model_trial.plugins.module_utils.plan import Tenant


def state_of(tenant: Tenant) -> str:
    """``started``, ``stopped`` or ``unknown``."""
    try:
        return "started" if tenants.look(tenant).running else "stopped"
    except (tenants.TenantError, OSError):
        return "unknown"


class Dealing:
    """Brings tenants into a state, one after another, and keeps what was found and done until something fails.

    Args:
        state: ``started`` or ``stopped``.
        log_dir: where their commands print to.
        check_mode: whether to look only.
    """

    def __init__(self, state: str, log_dir: Path, check_mode: bool) -> None:
        self.state, self.log_dir, self.check_mode = state, log_dir, check_mode
        self.found: dict[str, dict[str, Any]] = {}
        self.moved: list[str] = []

    @property
    def changed(self) -> bool:
        """Whether anything was stopped or started, or would be."""
        return bool(self.moved)

    def deal_with(self, tenant: Tenant) -> None:
        """Bring one tenant into the state.

        Raises:
            TenantError: it is not there, does not come or go, or its manager does not tell.
            OSError: its manager does not tell.
        """
        facts = self.found[tenant.name] = {"before": "unknown", "after": "unknown"}
        try:
            self._bring(tenant, facts)
        except (tenants.TenantError, OSError) as err:
            facts.update(after=state_of(tenant), error=str(err))
            raise

    def _bring(self, tenant: Tenant, facts: dict[str, Any]) -> None:
        if self.state == "started" and not self.check_mode and tenants.await_stop(tenant):
            raise tenants.TenantError(f"{tenant.name}: a stop is under way and does not end")
        condition = tenants.look(tenant)
        there = condition.healthy if self.state == "started" else not condition.running
        facts.update(before="started" if condition.running else "stopped", after=self.state, found=condition.found)
        if there:
            return
        if self.check_mode:
            self.moved.append(tenant.name)
            return
        log = self.log_dir / f"{tenant.name}.log"
        try:
            if self.state == "stopped":
                facts["duration_s"] = round(tenants.stop(tenant, log), 3)
            else:
                # One that runs and is only loading is waited for: a second start could make two of it.
                scope = "" if condition.running else tenants.start(tenant, log)
                facts["duration_s"] = round(tenants.wait_healthy(tenant, log, scope), 3)
        except tenants.NotBegun:
            raise
        except (tenants.TenantError, OSError):
            # What was begun may go on.
            self.moved.append(tenant.name)
            raise
        self.moved.append(tenant.name)

    def result(self) -> dict[str, Any]:
        """What the module returns."""
        before, after = {}, {}
        for name, facts in self.found.items():
            # One that was up and is waited for was not in the wanted state: else this would be a change without a diff.
            ill = name in self.moved and "error" not in facts and facts["before"] == facts["after"]
            before[name], after[name] = f"{facts['before']}{', not healthy' if ill else ''}", facts["after"]
        diff = {
            when: "".join(f"{name}: {words}\n" for name, words in found.items())
            for when, found in (("before", before), ("after", after))
        }
        return {"changed": self.changed, "tenants": self.found, "moved": self.moved, "diff": diff}


def main() -> None:
    """Read the arguments, deal with the tenants in order, report."""
    module = AnsibleModule(
        argument_spec={
            "tenants": {"type": "list", "elements": "dict", "required": True, "options": planfile.arguments(Tenant)},
            "state": {"type": "str", "required": True, "choices": ["started", "stopped"]},
            "log_dir": {"type": "path"},
        },
        supports_check_mode=True,
    )
    try:
        wanted = planfile.parse_tenants(
            module.params["tenants"], "tenants", started=module.params["state"] == "started"
        )
    except planfile.PlanError as err:
        module.fail_json(msg=str(err))
    given = module.params["log_dir"]
    # In check mode a task before this one has not made it.
    if given and not module.check_mode and not Path(given).is_dir():
        module.fail_json(msg=f"log_dir: expected a folder on the host, found none: {given}. Nothing was done")
    dealing = Dealing(module.params["state"], Path(given or module.tmpdir), module.check_mode)
    try:
        for tenant in wanted:
            dealing.deal_with(tenant)
    except (tenants.TenantError, OSError) as err:
        module.fail_json(msg=str(err), **dealing.result())
    module.exit_json(**dealing.result())


if __name__ == "__main__":
    main()
