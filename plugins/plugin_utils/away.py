# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Retry an action's requests while its host is unreachable; giving up is an ordinary failure.

Ansible's own "unreachable" ends the host's part of a play at once: without proof, without harvest, and without a word
on how to go on.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure

T = TypeVar("T")

# How long a host may be away before a play gives up on it: the lease, within which it restores itself.
AWAY_S, AWAY_PAUSE_S = 60.0, 2.0


def patiently(
    ask: Callable[[], T], connection: Any, show: Callable[[str], None], todo: str, *, limit_s: float = AWAY_S
) -> T:
    """Return what ``ask`` returns, and retry through a cut network or a reboot for ``limit_s``.

    Args:
        ask: is called until it raises no ``AnsibleConnectionFailure``; calling it twice must be harmless.
        connection: Ansible's, reset before each new attempt.
        show: shows a line to the person who watches.
        todo: how to continue, for the failure.
        limit_s: seconds after which no new attempt is made.

    Raises:
        AnsibleActionFail: the host stayed away.
    """
    deadline = time.monotonic() + limit_s
    while True:
        try:
            return ask()
        except AnsibleConnectionFailure as err:
            if time.monotonic() >= deadline:
                tried = f" (tried for {limit_s:.0f} s)" if limit_s else ""
                # Its words are in the message; Ansible would append them a second time.
                raise AnsibleActionFail(f"the host cannot be reached{tried}: {err}. {todo}") from None
        show("the host cannot be reached; retrying")
        time.sleep(AWAY_PAUSE_S)
        with contextlib.suppress(AnsibleConnectionFailure):
            connection.reset()
