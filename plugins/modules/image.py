#!/usr/bin/python
# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action plugin ``image``, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: image
version_added: 0.1.0
short_description: Copy a container image from the controller to the host
description:
  - Saves the image on the controller, transfers it and loads it on the host, unless the host has it. The image is named
    by its ID, so what arrives is what was built.
options:
  id:
    description: The image ID.
    type: str
    required: true
  tag:
    description: Tag to ship it under.
    type: str
  docker:
    description: The docker command on the host.
    type: str
    default: docker
extends_documentation_fragment:
  - edgelab.model_trial.attributes
attributes:
  check_mode:
    support: full
    description: Nothing is changed in check mode.
"""

EXAMPLES = r"""
- name: Ship the image
  edgelab.model_trial.image:
    id: sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
    tag: registry.example.org/bench:1
  become: true
"""

RETURN = r"""
id:
  description: The image ID on the host.
  returned: always
  type: str
"""
