#!/usr/bin/python
# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action plugin ``prove_rollback``, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: prove_rollback
version_added: 0.1.0
short_description: Prove that the host of an inventory comes back
description:
  - Checks the inventory, rehearses the stops of a trial, and injects faults (drills). Each round is a play of its own,
    so that its controller can be killed.
  - The ground is a I(twin), a container that is made from the inventory with a stand-in for each tenant, or the I(host)
    itself, which the inventory must declare disposable. On a twin, nothing is done on any host of the inventory.
  - Every outcome leaves C(junit.xml) and C(index.html) in O(dest). Before anything begins, they replace those of an
    earlier run; so does a refusal, once it is certain. The case that is under way is an error in both until it ends.
  - The playbook C(prove_rollback.yml) takes the other options from variables of their names (O(variables_of)). One that
    is set to null, or can't be rendered, is a failure that names it.
requirements:
  - Docker, for a twin
  - nvidia-ml-py, in Ansible's own Python
options:
  hosts:
    description: Hosts of the group that is tried, within C(--limit). An empty list is a failure.
    type: list
    elements: str
    required: true
  members:
    description: All hosts of the group, for the failure that says that C(--limit) leaves none of them.
    type: list
    elements: str
  group:
    description: The group's name, or a pattern, for failures.
    type: str
    default: trial_hosts
  variables_of:
    description: >-
      The host whose variables C(prove_rollback_host), C(prove_rollback_ground), C(prove_rollback_drills),
      C(prove_rollback_image), C(prove_rollback_reboot), C(prove_rollback_start_s), C(prove_rollback_keep) and
      C(trial_group) set the options that the task does not set.
    type: str
  host:
    description: Which of them is proved; needed if there are several.
    type: str
    default: ""
  ground:
    description: Where it is proved.
    type: str
    choices: [twin, host]
    default: twin
  drills:
    description: >-
      Which drills are played after the rehearsal (C(controller-killed), C(runner-killed), C(reboot),
      C(start-fails-once), C(health-never)). Without it, all of them; an empty list plays the rehearsal alone. An
      empty text and null are refused, because they may stand for a variable that was forgotten.
    type: list
    elements: str
  image:
    description: >-
      What the twin is built on. Without it, Debian's image from a registry or, where none answers, one made from
      Debian's packages with mmdebstrap.
    type: str
    default: ""
  reboot:
    description: >-
      The command, run on the controller, that reboots a disposable host. Without it, the drill C(reboot) is skipped
      there.
    type: list
    elements: str
  start_limit_s:
    description: How long a stand-in may take to become healthy.
    type: float
    default: 5.0
  keep:
    description: Whether the twin is left for a person to look at.
    type: bool
    default: false
  dest:
    description: Folder on the controller for JUnit, page and the logs of the rounds.
    type: path
    required: true
  only_tags:
    description: Only check that the command line has no tags, because the playbook has none.
    type: bool
    default: false
extends_documentation_fragment:
  - edgelab.model_trial.attributes
attributes:
  check_mode:
    support: full
    description: Does nothing in check mode.
"""

EXAMPLES = r"""
- name: Does the shop's host come back?
  edgelab.model_trial.prove_rollback:
    hosts: [shop]
    drills: [controller-killed, reboot]
    dest: build/prove-rollback
"""

RETURN = r"""
junit:
  description: The JUnit file.
  returned: always
  type: str
page:
  description: The page.
  returned: always
  type: str
cases:
  description: >-
    What was proved, each with C(name), C(result) (C(passed), C(failure), C(error) or C(skipped)) and C(message).
  returned: always
  type: list
  elements: dict
"""
