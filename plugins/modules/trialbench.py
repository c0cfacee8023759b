#!/usr/bin/python
# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action plugin ``trialbench``, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: trialbench
version_added: 0.1.0
short_description: Run a command of trialbench on the controller
description:
  - Runs C(trialbench) in the controller's Python and shows what it prints.
  - C(workloads) checks what a trial would ask, and fails the task if it could not be asked.
  - C(attest) looks up the ground truth of files. A negative verdict does not fail the task.
  - C(documents) is the only command that writes into your own files. In check mode it reports what it would change, and
    in diff mode it shows the change.
options:
  argv:
    description: The command and its arguments.
    type: list
    elements: str
    required: true
  stdin:
    description: What it reads from its standard input, for C(workloads -) a plan as JSON.
    type: str
extends_documentation_fragment:
  - edgelab.model_trial.attributes
attributes:
  check_mode:
    support: full
    description: >-
      In check mode only C(documents), which then writes nothing, and C(attest), which only looks, are run.
  diff_mode:
    support: partial
    description: For C(documents).
"""

EXAMPLES = r"""
- name: Show a run
  edgelab.model_trial.trialbench:
    argv: [show, benchmark-results/latest]

- name: Write it into the documents of a checkout
  edgelab.model_trial.trialbench:
    argv: [documents, benchmark-results/latest, --root, /home/me/her-os]
"""

RETURN = r"""
rc:
  description: Its exit code.
  returned: always, except after C(attest)
  type: int
stdout:
  description: What it printed.
  returned: always
  type: str
attestation:
  description: What was found (schema C(attestation)); each of the C(files) has a C(status) and a text in C(says).
  returned: after C(attest)
  type: dict
documents:
  description: The documents, each with its C(name), C(changed), and in C(left_alone) the reason if it was left alone.
  returned: after C(documents)
  type: list
  elements: dict
"""
