# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a service of a host is, for the pages of modules that take some; a test compares code and roles with it."""

from __future__ import annotations

import textwrap

_HTTP = r"""
url:
  description: What to ask.
  type: str
  required: true
status:
  description: The HTTP status that counts as yes.
  type: int
  default: 200
json:
  description: Dotted paths and the values they must have.
  type: dict
  default: {}
timeout_s:
  description: How long to wait for the answer.
  type: float
  default: 3.0
"""

_TENANT = r"""
name:
  description: Short name.
  type: str
  required: true
kind:
  description: How it is controlled.
  type: str
  required: true
  choices: [systemd, script, container, process]
title:
  description: What it is, for people.
  type: str
  default: ""
impact:
  description: What people lose while it is down, for example C(mute) or C(blind).
  type: str
  default: ""
port:
  description: TCP port it listens on.
  type: int
  default: 0
health:
  description: The HTTP request that shows that it works.
  type: dict
  suboptions:
    <http>
speech:
  description: How to make it speak.
  type: dict
  suboptions:
    url:
      description: Where to POST.
      type: str
      required: true
    body:
      description: What to POST, as JSON.
      type: dict
      default: {text: test one two}
    min_bytes:
      description: A WAV must be larger than this.
      type: int
      default: 5120
    timeout_s:
      description: How long to wait for the WAV.
      type: float
      default: 30.0
process:
  description: Consecutive words of its argv.
  type: str
  default: ""
watch_process:
  description: Whether a separate check watches this process.
  type: bool
  default: false
vram_process:
  description: A word in the command line of the process that holds its VRAM.
  type: str
  default: ""
listener:
  description:
    - A word in the command line of the program that listens on its ports, if that is neither its own process
      nor docker's proxy. That program must run as root or as the tenant's C(user).
  type: str
  default: ""
unit:
  description: The unit, for kind systemd.
  type: str
  default: ""
container:
  description: The container, for kind container.
  type: str
  default: ""
user:
  description: The user its commands run as.
  type: str
  default: ""
directory:
  description: The folder its commands run in.
  type: str
  default: ""
start:
  description: The command that starts it.
  type: str
  default: ""
stop:
  description: The command that stops it.
  type: str
  default: ""
boot:
  description: What brings it back after a reboot, for people; the restore waits for a unit that it names.
  type: str
  default: ""
needs:
  description: Names of tenants without which it can't work - it stops before them and starts after them.
  type: list
  elements: str
  default: []
start_timeout_s:
  description: How long it may take to become healthy.
  type: float
  default: 120.0
expected_start_s:
  description: How long it usually takes, for the outlook.
  type: float
  default: 10.0
stop_timeout_s:
  description: How long it may take to stop.
  type: float
  default: 20.0
stop_limit_s:
  description:
    - How long a stop may continue after its caller has ended; it is part of the bound of a restore. For a unit the
      host looks up what systemd allows (C(TimeoutStopSec)); 0 means C(stop_timeout_s).
  type: float
  default: 0.0
"""


def _into(page: str, name: str, part: str) -> str:
    """``page`` with ``part`` in place of the line ``<name>``, as deep as that line."""
    lines = []
    for line in page.strip().splitlines():
        if line.strip() == f"<{name}>":
            lines.append(textwrap.indent(part.strip(), line[: -len(line.lstrip())]))
        else:
            lines.append(line)
    return "\n".join(lines)


class ModuleDocFragment:
    """``edgelab.model_trial.tenants``: a list of services; ``edgelab.model_trial.tenants.site``: a host with some."""

    # Annotated, because ansible-test takes a plain assignment for a text; these are put together.
    DOCUMENTATION: str = _into(
        r"""
options:
  tenants:
    description: The services, each name once. Which fields a kind needs is in C(docs/adding-a-tenant.md).
    type: list
    elements: dict
    required: true
    suboptions:
      <tenant>
""",
        "tenant",
        _into(_TENANT, "http", _HTTP),
    )

    SITE: str = _into(
        _into(
            r"""
options:
  site:
    description:
      - What lives on the host, without a trial.
      - Either this or O(plan).
    type: dict
    suboptions:
      tenants:
        description: The services on the host. Their order is the order of the checks.
        type: list
        elements: dict
        required: true
        suboptions:
          <tenant>
      gpu:
        description: The card that the tenants share. Leave it out on a host without one.
        type: dict
        suboptions:
          index:
            description: Number of the card as nvidia-smi counts.
            type: int
            default: 0
          total_gb_min:
            description: Minimum size of the card.
            type: float
            default: 0.0
          steady_gb:
            description: Used VRAM while every tenant is up, [low, high].
            type: list
            elements: float
            required: true
      contracts:
        description: What must hold on the host beyond what its tenants require.
        type: dict
        default: {}
        suboptions:
          clauses:
            description: Exception clauses that production code must still contain.
            type: list
            elements: dict
            default: []
            suboptions:
              file:
                description: The source file.
                type: str
                required: true
              lines:
                description: Its lines, [first, last].
                type: list
                elements: int
                required: true
              catches:
                description: The exceptions it catches.
                type: list
                elements: str
                required: true
              yields:
                description: What it yields in that case.
                type: str
                required: true
              why:
                description: Why the trial needs it.
                type: str
                default: ""
          quiet:
            description: HTTP requests whose answers say that nobody uses the host.
            type: list
            elements: dict
            default: []
            suboptions:
              name:
                description: What it asks, for people.
                type: str
                required: true
              http:
                description: The question.
                type: dict
                required: true
                suboptions:
                  <http>
          operator_confirms_idle:
            description: The operator's statement that the host is idle, instead of the quiet probes.
            type: bool
            default: false
          disk_gb_min:
            description: Free disk space needed.
            type: float
            default: 2.0
          ram_gb_min:
            description: Free memory needed.
            type: float
            default: 2.0
      stop_order:
        description:
          - Tenants that will be stopped, in this order. They must be able to stop in bounded time and to start again,
            and their watched processes may be new ones afterwards.
        type: list
        elements: str
        default: []
      restore_order:
        description: The same tenants in the order in which they come back. By default the opposite order.
        type: list
        elements: str
        default: []
""",
            "tenant",
            _into(_TENANT, "http", _HTTP),
        ),
        "http",
        _HTTP,
    )
