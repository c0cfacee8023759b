#!/usr/bin/python
# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action plugin ``check_host``, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: check_host
version_added: 0.1.0
short_description: Check hosts with a suite that shares nothing with the other modules
description:
  - Runs the collection's C(tests/check_host) with C(pytest) and C(testinfra) on the controller. It asks the hosts with
    C(curl), C(ss), C(/proc) and C(nvidia-smi), and changes nothing on them.
  - What it checks follows from C(trial_tenants) and, where there are any, C(trial_gpu) and C(trial_candidate) of the
    inventory. It does not see variables of the command line (C(-e)).
  - Every outcome leaves a JUnit file of its own. Before anything begins, it replaces that of an earlier run; so does a
    refusal, once it is certain.
requirements:
  - pytest-testinfra, in Ansible's own Python
options:
  hosts:
    description: Names of hosts of the inventory. An empty list is an error.
    type: list
    elements: str
    required: true
  members:
    description: All hosts of the group, for the error that says that C(--limit) leaves none of them.
    type: list
    elements: str
  group:
    description: The group's name, or a pattern, for errors.
    type: str
    default: trial_hosts
  junit:
    description: The JUnit file on the controller.
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
    description: It only reads, and so runs in check mode, too.
"""

EXAMPLES = r"""
- name: Is the host as the inventory says?
  edgelab.model_trial.check_host:
    hosts: [panda]
    junit: build/check-host.xml
"""

RETURN = r"""
junit:
  description: The JUnit file.
  returned: when the suite has run
  type: str
tests:
  description: How many checks there were.
  returned: when the suite has run
  type: int
failed_tests:
  description: Names of the checks that failed.
  returned: when the suite has run
  type: list
  elements: str
"""
