#!/usr/bin/python
# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action plugin ``phase``, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: phase
version_added: 0.1.0
short_description: Enter a phase of a trial and watch it live
description:
  - Asks the program C(model-trial) on the host to enter a phase, then polls it until the phase has ended, and shows
    every event and the progress of the samples while they happen.
  - The host does the work itself, under systemd. Polling renews the lease; when the polls stop, the host restores
    itself.
options:
  name:
    description: The phase.
    type: str
    required: true
    choices: [snapshot, window, candidate, measure, restore]
  plan:
    description: The plan of the trial. Not needed for O(name=restore).
    type: dict
  epoch:
    description: The epoch that O(name=snapshot) returned; a stale one is refused.
    type: int
  advance:
    description: The furthest phase the host may enter while this one is watched. By default O(name).
    type: str
    choices: [window, candidate, measure]
  by:
    description: Who asks for a restore; the journal records it.
    type: str
    default: playbook
  controller:
    description: Who opens the trial, shown to callers that find the host held.
    type: str
extends_documentation_fragment:
  - edgelab.model_trial.attributes
attributes:
  check_mode:
    support: full
    description:
      - Says what would change without contacting the host; only a restore asks whether a trial holds it.
"""

EXAMPLES = r"""
- name: Open the trial
  edgelab.model_trial.phase:
    name: snapshot
    plan: "{{ trial_plan }}"
  become: true

- name: Stop the tenants, measure the baseline, drain
  edgelab.model_trial.phase:
    name: window
    plan: "{{ trial_plan }}"
    epoch: "{{ trial_epoch }}"
  become: true
"""

RETURN = r"""
epoch:
  description: The epoch under which the host was opened.
  returned: when O(name=snapshot)
  type: int
duration_s:
  description: How long the phase took on the host, in seconds.
  returned: when the phase is done
  type: float
samples:
  description: Replies, good replies and median latency in ms by sample file, the newest last.
  returned: when the phase is done
  type: list
  elements: dict
restored_by:
  description: Who restored the host.
  returned: when O(name=restore)
  type: str
impacts:
  description: What people lost and for how many seconds.
  returned: when O(name=restore) and something was restored
  type: dict
"""
