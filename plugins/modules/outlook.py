#!/usr/bin/python
# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action plugin ``outlook``, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: outlook
version_added: 0.1.0
short_description: Show what a trial would do to the host
description:
  - Prints what would stop, in which order, and the expected down times. Does not contact the host.
  - With the journal of a rehearsal it prints what was measured, what that means for a trial, and which figures of the
    inventory are far off.
options:
  plan:
    description: The plan of the trial.
    type: dict
    required: true
  journal:
    description: The harvested C(journal.jsonl) of a rehearsal, on the controller.
    type: path
extends_documentation_fragment:
  - edgelab.model_trial.attributes
attributes:
  check_mode:
    support: full
    description: Nothing is changed in check mode.
"""

EXAMPLES = r"""
- name: What would happen
  edgelab.model_trial.outlook:
    plan: "{{ trial_plan }}"

- name: What the rehearsal measured
  edgelab.model_trial.outlook:
    plan: "{{ trial_plan }}"
    journal: benchmark-results/20261120T090000Z-rehearsal-gemma-4-E4B-it-Q4_K_M/journal.jsonl
"""

RETURN = r"""
lines:
  description: The outlook for people.
  returned: always
  type: list
  elements: str
down_s:
  description: Expected down time by tenant, in seconds.
  returned: always
  type: dict
measured:
  description:
    - What the rehearsal measured, in seconds. C(stop_s), C(start_s) and C(down_s) by tenant, C(drain_s) by where.
    - None when its host is not restored.
  returned: with O(journal)
  type: dict
  sample:
    stop_s: {chatterbox: 0.3}
    start_s: {chatterbox: 1.6}
    drain_s: {window: 0.6, restore: 5.0}
    down_s: {chatterbox: 9.8}
trial_down_s:
  description: Expected down time by tenant in a trial, in seconds, from what was measured.
  returned: with O(journal) of a restored rehearsal
  type: dict
trial_impacts_s:
  description: Expected duration of each impact in a trial, in seconds.
  returned: with O(journal) of a restored rehearsal
  type: dict
second_tries:
  description:
    - Starts and restores that had to be tried again. A rehearsal passes only without any.
  returned: with O(journal) of a restored rehearsal
  type: list
  elements: str
hints:
  description: What to correct in the inventory, second tries first, then figures that the rehearsal contradicts.
  returned: with O(journal) of a restored rehearsal
  type: list
  elements: str
"""
