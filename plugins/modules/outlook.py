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
  - Prints what would stop, in which order, and the expected down times. Asks the host nothing.
options:
  plan:
    description: The plan of the trial.
    type: dict
    required: true
attributes:
  check_mode:
    support: full
    description: Nothing is changed in check mode.
  diff_mode:
    support: none
    description: There is nothing to compare.
  platform:
    support: full
    platforms: posix
    description: The platforms it runs on.
author:
  - edgelab.model_trial authors (@edgelab)
"""

EXAMPLES = r"""
- name: What would happen
  edgelab.model_trial.outlook:
    plan: "{{ trial_plan }}"
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
"""
