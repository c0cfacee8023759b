"""The checks from outside: which host, and what its inventory says lives there.

This suite shares nothing with the collection's modules. It asks the host with the tools every host has (curl, ss, ps,
nvidia-smi) and judges on this side, so that a mistake in our own checks does not hide here. The playbook
``check_host.yml`` runs it::

    ansible-playbook edgelab.model_trial.check_host -i panda

Inventory variables read: ``trial_tenants`` (a list) and, where there are any, ``trial_gpu`` (index, steady_gb) and
``trial_candidate`` (port).
"""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
import testinfra

NEEDED = ("trial_tenants",)
WANTED = (*NEEDED, "trial_gpu", "trial_candidate")


@functools.cache
def inventory_of(host: Any) -> dict[str, Any]:
    """Return the trial's variables of a host, rendered by Ansible: an inventory may hold templates."""
    known = host.ansible.get_variables()
    missing = [name for name in NEEDED if name not in known]
    if missing:
        raise pytest.UsageError(f"{host.backend.host}: the inventory lacks {', '.join(missing)}")
    message = "{{ {" + ", ".join(f"'{name}': {name}" for name in WANTED if name in known) + "} | to_json }}"
    rendered = host.ansible("ansible.builtin.debug", f"msg={json.dumps(message)}", become=False)["msg"]
    return dict(json.loads(rendered) if isinstance(rendered, str) else rendered)


def tenants_with(host: Any, aspect: str) -> list[str]:
    """Name the tenants of a host that have something to check."""
    return [tenant["name"] for tenant in inventory_of(host)["trial_tenants"] if tenant.get(aspect)]


def pytest_configure(config: pytest.Config) -> None:
    """Let Ansible make the connections: an inventory may hold templates there too, and only Ansible renders them."""
    config.option.force_ansible = True
    # Here and not in a file of settings: the suite runs from an installed collection, which has none.
    line = "each_tenant_with(aspect): one test of each tenant whose inventory entry has this"
    config.addinivalue_line("markers", line)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each check and tenant, so that a report names the service that is missing."""
    marker = metafunc.definition.get_closest_marker("each_tenant_with")
    if marker is None:
        return
    hosts = chosen_hosts(metafunc.config)
    names = {name: None for host in hosts for name in tenants_with(host, marker.args[0])}
    metafunc.parametrize("tenant_name", list(names), scope="module")


def chosen_hosts(config: pytest.Config) -> list[Any]:
    """Return the hosts named on the command line; without any this machine would be checked."""
    if not config.option.hosts:
        raise pytest.UsageError(
            "tests/check_host needs a host, for example: --hosts=ansible://panda --ansible-inventory=playbooks/panda"
        )
    hosts = testinfra.get_hosts(
        config.option.hosts.split(","),
        ansible_inventory=config.option.ansible_inventory,
        force_ansible=True,
    )
    if not hosts:
        raise pytest.UsageError(f"no host matches {config.option.hosts} in {config.option.ansible_inventory}")
    return list(hosts)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Several hosts need not have the same tenants: drop the pairs that do not exist."""
    impossible = []
    for item in items:
        marker = item.get_closest_marker("each_tenant_with")
        params = getattr(getattr(item, "callspec", None), "params", {})
        host, name = params.get("_testinfra_host"), params.get("tenant_name")
        if marker and host is not None and name not in tenants_with(host, marker.args[0]):
            impossible.append(item)
    if impossible:
        config.hook.pytest_deselected(items=impossible)
        items[:] = [item for item in items if item not in impossible]


@pytest.fixture(scope="module")
def inventory(host: Any) -> dict[str, Any]:
    """Give the trial's variables of the host under test."""
    return inventory_of(host)


@pytest.fixture(scope="module")
def tenant(inventory: dict[str, Any], tenant_name: str) -> dict[str, Any]:
    """Give the inventory's entry of one tenant."""
    return next(dict(entry) for entry in inventory["trial_tenants"] if entry["name"] == tenant_name)
