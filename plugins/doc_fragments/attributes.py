# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the pages of this collection have in common; a page overrides an attribute by stating it."""

from __future__ import annotations


class ModuleDocFragment:
    """Fragments by name: ``edgelab.model_trial.attributes``, ``edgelab.model_trial.attributes.looks`` and so on."""

    DOCUMENTATION = r"""
attributes:
  diff_mode:
    description: There is no difference to show.
    support: none
  platform:
    description: Platforms that it works on.
    support: full
    platforms: posix
author:
  - edgelab.model_trial authors (@edgelab)
"""

    # For modules that change nothing.
    LOOKS = r"""
attributes:
  check_mode:
    description: Only looks, so check mode makes no difference.
    support: full
  idempotent:
    description: Changes nothing, however often it runs.
    support: full
"""

    # For modules that take the number of a card.
    GPU_GROUP = r"""
attributes:
  action_group:
    description: Use C(group/edgelab.model_trial.gpu) in C(module_defaults) to name the card once.
    support: full
    membership: [edgelab.model_trial.gpu]
"""

    # For modules that take what lives on a host.
    HOST_GROUP = r"""
attributes:
  action_group:
    description: Use C(group/edgelab.model_trial.host) in C(module_defaults) to say once what lives on the host.
    support: full
    membership: [edgelab.model_trial.host]
"""

    # For modules that read the card.
    GPU = r"""
options: {}
requirements:
  - Python 3.10 or newer on the host.
  - NVML through C(nvidia-ml-py), or C(nvidia-smi).
"""
