"""The eight checks from outside: which host, and what its inventory says lives there.

This suite shares nothing with the collection's modules. It asks the host with the tools every host has (curl, ss, ps,
nvidia-smi) and judges on this side, so that a mistake in our own checks does not hide here::

    pytest tests/rollback --hosts=ansible://panda --ansible-inventory=playbooks/panda --junitxml=build/rollback.xml

Inventory variables read: ``trial_gpu`` (index, steady_gb), ``trial_tenants`` (a list), ``trial_candidate`` (port).
"""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
import testinfra

WANTED = ("trial_gpu", "trial_tenants", "trial_candidate")


@functools.cache
def inventory_of(host: Any) -> dict[str, Any]:
    """Return the trial's variables of a host, rendered by Ansible: an inventory may hold templates."""
    known = host.ansible.get_variables()
    missing = [name for name in WANTED if name not in known]
    if missing:
        raise pytest.UsageError(f"{host.backend.host}: the inventory lacks {', '.join(missing)}")
    message = "{{ {" + ", ".join(f"'{name}': {name}" for name in WANTED) + "} | to_json }}"
    rendered = host.ansible("ansible.builtin.debug", f"msg={json.dumps(message)}", become=False)["msg"]
    return dict(json.loads(rendered) if isinstance(rendered, str) else rendered)


def tenants_with(host: Any, aspect: str) -> list[str]:
    """Name the tenants of a host that have something to check."""
    return [tenant["name"] for tenant in inventory_of(host)["trial_tenants"] if tenant.get(aspect)]


def pytest_configure(config: pytest.Config) -> None:
    """Let Ansible make the connections: an inventory may hold templates there too, and only Ansible renders them."""
    config.option.force_ansible = True


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
            "tests/rollback needs a host, for example: --hosts=ansible://panda --ansible-inventory=playbooks/panda"
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
