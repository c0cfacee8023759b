"""After the golden trial: there is nothing to restore, the checks pass, and an uninstall leaves nothing."""

from __future__ import annotations

import re

import pytest

pytestmark = pytest.mark.twin

LEFT = "ls -d /var/*/model-trial /usr/local/sbin/model-trial /etc/systemd/system/mt-* 2>/dev/null || true"


def changed(played):
    """How many tasks changed something on the twin."""
    return int(re.search(r"^twin\s*:.*?changed=(\d+)", played.text, re.MULTILINE)[1])


@pytest.mark.parametrize("playbook", ["restore.yml", "verify_rollback.yml"])
def test_restore_and_verify_find_nothing_to_change(golden, playbook):
    before = golden.host.fingerprint()
    played = golden.host.play(playbook)
    assert (played.code, changed(played)) == (0, 0), played.text
    assert golden.host.fingerprint() == before


def test_an_uninstall_leaves_nothing_and_finds_nothing_the_second_time(golden):
    host = golden.host
    gone = host.play("uninstall.yml")
    assert gone.code == 0, gone.text
    assert host.run(LEFT) == ""
    # Nor a failed unit without a file: it would leave the host degraded for good.
    assert "mt-" not in host.run("systemctl list-units --all --plain --no-legend 'mt-*'")
    again = host.play("uninstall.yml")
    assert (again.code, changed(again)) == (0, 0), again.text
    host.assert_back(golden.phone)


def test_systemd_was_never_made_to_read_its_units_anew(golden):
    """From phase 1 to the uninstall: a reload takes the GPU from containers that are running."""
    said = golden.host.run(f"journalctl --quiet --output=cat --since=@{golden.began_s} _PID=1")
    assert "mt-run.service" in said
    assert [line for line in said.splitlines() if "Reload" in line or "reload" in line] == []


def test_a_host_without_a_run_has_nothing_to_harvest(golden):
    host = golden.host
    host.run("test ! -e /usr/local/sbin/model-trial")
    nothing = host.play("harvest.yml")
    assert nothing.code != 0
    assert "found none under" in nothing.text
