#!/usr/bin/python
# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action plugin ``harvest``, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: harvest
version_added: 0.1.0
short_description: Copy the folder of a run to the controller
description:
  - Packs the folder of a run on the host, transfers it once and unpacks it on the controller.
  - Changes nothing on the host.
options:
  run:
    description: Name of the run.
    type: str
    required: true
  dest:
    description: Folder on the controller.
    type: path
    required: true
extends_documentation_fragment:
  - edgelab.model_trial.attributes
attributes:
  check_mode:
    support: full
    description: Nothing is transferred in check mode.
"""

EXAMPLES = r"""
- name: Copy the run to the controller
  edgelab.model_trial.harvest:
    run: 20261120T090000Z-gemma-4-E4B-it-Q4_K_M
    dest: benchmark-results/20261120T090000Z-gemma-4-E4B-it-Q4_K_M
  become: true
"""

RETURN = r"""
files:
  description: The transferred files, relative to O(dest).
  returned: always
  type: list
  elements: str
left_out:
  description: Names that were not unpacked, because they are not plain files with plain names.
  returned: always
  type: list
  elements: str
"""
