# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the independent suite ``tests/check_host`` on the controller; writes JUnit whatever the outcome."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ansible import constants, context
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.edgelab.model_trial.plugins.module_utils.words import counted
from ansible_collections.edgelab.model_trial.plugins.plugin_utils.outcome import (
    UNFINISHED,
    Case,
    junit,
    names_of,
    nobody,
    put,
    questions_refused,
    replaced,
    tags_refused,
    words_of,
)

SUITE = Path(__file__).resolve().parents[2] / "tests" / "check_host"
NAME = "check_host"
LIMIT_S = 900
# Options of this play's command line, and the variables by which the suite's connections get them.
PASSED_ON = {
    "remote_user": "ANSIBLE_REMOTE_USER",
    "private_key_file": "ANSIBLE_PRIVATE_KEY_FILE",
    "connection": "ANSIBLE_TRANSPORT",
    "timeout": "ANSIBLE_TIMEOUT",
    "become_method": "ANSIBLE_BECOME_METHOD",
    "become_password_file": "ANSIBLE_BECOME_PASSWORD_FILE",
    "connection_password_file": "ANSIBLE_CONNECTION_PASSWORD_FILE",
    "ssh_common_args": "ANSIBLE_SSH_COMMON_ARGS",
    "ssh_extra_args": "ANSIBLE_SSH_EXTRA_ARGS",
    "sftp_extra_args": "ANSIBLE_SFTP_EXTRA_ARGS",
    "scp_extra_args": "ANSIBLE_SCP_EXTRA_ARGS",
}


def environment(sources: list[str], vault: list[str]) -> dict[str, str]:
    """What the suite finds its programs, the inventory and its passwords by: as this play does."""
    tools = str(Path(sys.executable).parent)
    found = {**os.environ, "PATH": f"{tools}:{os.environ.get('PATH', os.defpath)}", "ANSIBLE_NOCOLOR": "1"}
    given = context.CLIARGS
    found.update({variable: str(given[name]) for name, variable in PASSED_ON.items() if given.get(name)})
    if sources:
        found["ANSIBLE_INVENTORY"] = ",".join(sources)
    if vault:
        found["ANSIBLE_VAULT_IDENTITY_LIST"] = ",".join([*constants.DEFAULT_VAULT_IDENTITY_LIST, *vault])
    return found


def absolute(source: str) -> str:
    """An inventory source as another folder sees it; a list of hosts (``one,``) stays what it is."""
    return source if "," in source else str(Path(source).expanduser().absolute())


def tests_of(path: Path) -> tuple[int, list[str]]:
    """How many tests a JUnit file has, and the names of those that failed; ``(0, [])`` if it is not a JUnit file."""
    try:
        cases = list(ElementTree.parse(path).getroot().iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return 0, []
    bad = [case.get("name", "") for case in cases if case.find("failure") is not None or case.find("error") is not None]
    return len(cases), bad


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """Runs on the controller; the suite makes its connections by Ansible."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the suite against some hosts of the inventory."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        chosen = names_of(self._task.args.get("hosts")) or []
        place = Path(str(self._task.args.get("junit") or "")).expanduser().absolute()
        if not self._task.args.get("junit"):
            raise AnsibleActionFail("junit: expected a file on the controller, found nothing")
        refused = tags_refused() or questions_refused()
        if refused:
            self._refuse(place, chosen, refused)
        if self._task.args.get("only_tags"):
            return {**result, "changed": False}
        missing = [name for name in ("pytest", "testinfra") if importlib.util.find_spec(name) is None]
        if missing:
            self._refuse(
                place,
                chosen,
                f"expected {' and '.join(missing)} in Ansible's Python; do: pip install pytest-testinfra",
            )
        if not chosen:
            members, groups = names_of(self._task.args.get("members")) or [], (task_vars or {}).get("groups") or {}
            why = nobody(str(self._task.args.get("group", "trial_hosts")), members, groups)
            self._refuse(place, chosen, f"{why}. Nothing was done")
        # From here on it takes time, and may be ended from outside.
        if replaced(place):
            # A pipe's reader gets one document.
            put(place, junit(NAME, [Case("the suite", "error", UNFINISHED)], "+".join(chosen)))
        with tempfile.TemporaryDirectory(prefix="check-host-") as scratch:
            fresh = Path(scratch) / "junit.xml"
            done = self._pytest([f"ansible://{name}" for name in chosen], fresh)
            count, bad = tests_of(fresh)
            if not count:
                why = f"the suite ended with {done.returncode} and no test"
                self._refuse(place, chosen, why, words_of(done.stdout))
            put(place, fresh.read_text(encoding="utf-8"))
        for line in done.stdout.splitlines():
            self._display.display(line)
        result.update(changed=False, rc=done.returncode, tests=count, failed_tests=bad, junit=str(place))
        if done.returncode != 0:
            raise AnsibleActionFail(
                f"{len(bad)} of {counted(count, 'check')} failed: {', '.join(bad)}. See {place}", result=result
            )
        return result

    def _pytest(self, hosts: list[str], report: Path) -> subprocess.CompletedProcess[str]:
        given = [absolute(str(one)) for one in context.CLIARGS.get("inventory") or ()]
        vault = [str(one) for one in context.CLIARGS.get("vault_ids") or ()]
        vault += [f"default@{Path(str(one)).absolute()}" for one in context.CLIARGS.get("vault_password_files") or ()]
        words = [sys.executable, "-m", "pytest", str(SUITE), f"--hosts={','.join(hosts)}", f"--junitxml={report}"]
        words += [f"--junitprefix={NAME}"]
        # No settings of a project, and nothing written into the installed collection.
        words += ["-c", os.devnull, f"--rootdir={SUITE}", "-p", "no:cacheprovider", "-q", "--tb=short"]
        return subprocess.run(
            words,
            env={**environment(given, vault), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=LIMIT_S,
            check=False,
        )

    def _refuse(self, place: Path, chosen: list[str], why: str, text: str = "") -> None:
        put(place, junit(NAME, [Case("the suite", "error", why, text)], "+".join(chosen)))
        raise AnsibleActionFail("\n".join(filter(None, (f"check_host: {why}. See {place}", text))))
