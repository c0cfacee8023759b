#!/usr/bin/python
# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action plugin ``channel``, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: channel
version_added: 0.1.0
short_description: Check that the connection to a host changes no byte in either direction
description:
  - Sends commands, input and a file to the host and compares what comes back, byte for byte. A login that prints a
    greeting, or reads input that is not its own, fails here rather than when the results of a trial are fetched.
  - Checks the clocks of controller and host, and the controller's folder for temporary files.
  - Lists B(all) faults, each with what was expected, what was found, why it matters and what to do. Leaves nothing on
    either side.
options: {}
extends_documentation_fragment:
  - edgelab.model_trial.attributes
attributes:
  check_mode:
    support: full
    description: It runs in check mode as well.
seealso:
  - module: edgelab.model_trial.contracts
"""

EXAMPLES = r"""
- name: Stop here if what this login prints gets into commands and files
  edgelab.model_trial.channel:
"""

RETURN = r"""
broken:
  description: The names of the faults. Returned on failure too.
  returned: always
  type: list
  elements: str
  sample: [files]
"""
