#!/usr/bin/python
# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action plugin ``program``, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: program
version_added: 0.1.0
short_description: Build the host program on the controller
description:
  - Packs the collection's own core and pynvml into one executable zip file. The same sources give the same bytes.
options:
  dest:
    description: The file to write, on the controller.
    type: path
    required: true
extends_documentation_fragment:
  - edgelab.model_trial.attributes
attributes:
  check_mode:
    support: full
    description: The file is written in check mode too, because it is a build product that later tasks compare with.
"""

EXAMPLES = r"""
- name: Build the host program
  edgelab.model_trial.program:
    dest: build/model-trial
  register: built
"""

RETURN = r"""
path:
  description: The file, on the controller.
  returned: always
  type: str
sha256:
  description: Its hash.
  returned: always
  type: str
compiled:
  description:
    - The folder on the host where the program looks for its compiled modules; C(model-trial unpack) creates it.
    - Every program has a folder of its own.
  returned: always
  type: str
"""
