# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proves on a twin, or on a disposable host, that the host of an inventory comes back; leaves JUnit and a page."""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible import context
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.edgelab.model_trial.plugins.module_utils.plan import Plan
from ansible_collections.edgelab.model_trial.plugins.module_utils.planfile import PlanError, parse
from ansible_collections.edgelab.model_trial.plugins.plugin_utils import bases, proving, stand_ins, twins
from ansible_collections.edgelab.model_trial.plugins.plugin_utils.outcome import (
    UNFINISHED,
    Case,
    Section,
    faulty,
    few,
    junit,
    names_of,
    nobody,
    page,
    put,
    questions_refused,
    tags_refused,
    words_of,
)

NAME = "prove_rollback"
GROUNDS = ("twin", "host")
# What the inventory says of a host that may be broken.
DISPOSABLE = "trial_disposable"
INVENTORY, GROUND, REHEARSAL = "the inventory", "the ground", "a rehearsal"
REPOSITORY, PARTS_REPOSITORY = "edgelab/proof-twin", "edgelab/proof-parts"
# Of the inventory, what the plan is made of; everything else stays where it is.
READ = ("trial_gpu", "trial_tenants", "trial_stop_order", "trial_restore_order", "trial_limits", "trial_settle_s",
        "trial_baseline", "trial_candidate", "trial_contracts", "trial_workloads", "trial_hook", DISPOSABLE,
        "ansible_user")  # fmt: skip
NEEDED = ("trial_tenants", "trial_stop_order", "trial_restore_order")
WELL_S = 60
NO_GROUND = "the ground is not available"
UNWELL = "the host did not come back from the drill before"
# Options, and the variables that set them.
VARIABLES = {
    "group": "trial_group",
    "host": "prove_rollback_host",
    "ground": "prove_rollback_ground",
    "drills": "prove_rollback_drills",
    "image": "prove_rollback_image",
    "reboot": "prove_rollback_reboot",
    "start_limit_s": "prove_rollback_start_s",
    "keep": "prove_rollback_keep",
}
# What they decide is proved somewhere else, or not at all, if an empty text is taken for "not set".
NEVER_EMPTY = ("group", "ground", "drills")
ARGUMENTS = ("hosts", "members", "variables_of", *VARIABLES, "dest", "only_tags")


# Options of this play's command line that a round on a real host needs. What asks a person is refused.
PASSED_ON = {
    "remote_user": "--user",
    "private_key_file": "--private-key",
    "connection": "--connection",
    "timeout": "--timeout",
    "become_method": "--become-method",
    "become_password_file": "--become-password-file",
    "connection_password_file": "--connection-password-file",
    "ssh_common_args": "--ssh-common-args",
    "ssh_extra_args": "--ssh-extra-args",
    "sftp_extra_args": "--sftp-extra-args",
    "scp_extra_args": "--scp-extra-args",
}


class Wrong(Exception):
    """The inventory or an option can't be used; the text says why."""


def plan_of(found: dict[str, Any], host: str) -> Plan:
    """The plan of a rehearsal on an inventory's host.

    Raises:
        Wrong: something in it is missing or wrong.
    """
    missing = [name for name in NEEDED if name not in found]
    if missing:
        raise Wrong(f"{host}: expected {', '.join(NEEDED)} in the inventory, found no {', '.join(missing)}")
    contracts = found.get("trial_contracts") or {}
    try:
        filled = stand_ins.fillings(found)
        data = {
            "run": "prove",
            "host": host,
            "image": "",
            "tenants": found["trial_tenants"],
            "stop_order": found["trial_stop_order"],
            "restore_order": found["trial_restore_order"],
            "rehearsal": True,
            "settle_s": found.get("trial_settle_s", 10),
            **{name: filled[f"trial_{name}"] for name in ("baseline", "candidate", "workloads")},
            # The page tells what of them a twin leaves out.
            "contracts": {**filled["trial_contracts"], **contracts} if isinstance(contracts, Mapping) else contracts,
            # An empty text or list is a mistake, as it is to a trial.
            **{name: found[f"trial_{name}"] for name in ("gpu", "limits") if found.get(f"trial_{name}") is not None},
        }
        return parse(data)
    except PlanError as err:
        raise Wrong(str(err)) from err
    except (TypeError, AttributeError, KeyError, IndexError) as err:
        raise Wrong(f"{host}: its variables do not have the expected types: {err}") from err


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """Runs on the controller; rounds are plays of their own."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Prove it, and leave JUnit and page."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        unknown = set(self._task.args) - set(ARGUMENTS)
        if unknown or not self._task.args.get("dest"):
            raise AnsibleActionFail(
                f"expected dest and some of {', '.join(ARGUMENTS)}, found {sorted(self._task.args)}"
            )
        refused = tags_refused()
        if self._task.args.get("only_tags") and not refused:
            return {**result, "changed": False}
        if self._task.check_mode:
            if refused:
                raise AnsibleActionFail(refused)
            return {**result, "changed": False, "skipped_in_check_mode": True}
        self.dest = Path(str(self._task.args["dest"])).expanduser().absolute()
        self.cases: list[Case] = []
        self.sections: list[Section] = []
        self.host = ""
        self.under_way = INVENTORY
        try:
            if refused:
                raise Wrong(refused)
            if self._task.args.get("variables_of"):
                self.begin(INVENTORY)
            self.read_options(task_vars or {})
            # From here on it takes time, and may be ended from outside. A pipeline that collects these files must never
            # find those of an earlier run.
            self.begin(INVENTORY)
            self.prove(task_vars or {})
            self.under_way = ""
        except Wrong as err:
            self.cases.append(Case(INVENTORY, "failure", str(err).splitlines()[0], str(err)))
            self.under_way = ""
        except Exception as err:  # whatever it is, it must be in the files
            self.cases.append(faulty(self.under_way, err))
            self.under_way = ""
        finally:
            self.leave()
        bad = [case for case in self.cases if case.bad]
        result.update(changed=True, junit=str(self.dest / "junit.xml"), page=str(self.dest / "index.html"))
        result["cases"] = [{"name": c.name, "result": c.result, "message": c.message} for c in self.cases]
        self.say(f"JUnit: {result['junit']}, page: {result['page']}")
        if bad:
            raise AnsibleActionFail(f"{bad[0].name}: {bad[0].message}. See {result['page']}", result=result)
        return result

    def begin(self, name: str) -> None:
        """Say in the files that a case is under way: if the play is ended from outside, that is what they keep."""
        self.under_way = name
        self.leave()

    def leave(self) -> None:
        """Write JUnit and page of what is known by now; they never pass while a case is under way."""
        cases = [*self.cases, Case(self.under_way, "error", UNFINISHED)] if self.under_way else self.cases
        title = f"Does {self.host or 'the host'} come back?"
        put(self.dest / "junit.xml", junit(NAME, cases, self.host))
        put(self.dest / "index.html", page(title, cases, self.sections))

    def say(self, text: str) -> None:
        """Show a line to the person who watches."""
        self._display.display(f"  {self.host or NAME} | {text}")

    # ---- what is to be proved ----

    def given(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """The options that are set, by the task or by variables.

        Raises:
            Wrong: one of them can't be rendered, or is set to nothing.
        """
        args = dict(self._task.args)
        known = (task_vars.get("hostvars") or {}).get(str(args.get("variables_of") or "")) or {}
        for option, variable in VARIABLES.items():
            if option not in args and variable in known:
                args[option] = rendered(known, variable)
            if option not in args:
                continue
            if args[option] is None or (option in NEVER_EMPTY and args[option] == ""):
                no_drill = ", or [] to play no drill" if option == "drills" else ""
                raise Wrong(
                    f"{variable}: expected a value{no_drill}, found {'null' if args[option] is None else repr('')}"
                )
        return args

    def read_options(self, task_vars: dict[str, Any]) -> None:
        """What was asked for, as far as it can be judged without a look at the tried host's variables.

        Raises:
            Wrong: an option can't be used.
        """
        args = self.given(task_vars)
        self.ground = str(args.get("ground") or "twin")
        if self.ground not in GROUNDS:
            raise Wrong(f"prove_rollback_ground: expected one of {', '.join(GROUNDS)}, found {self.ground!r}")
        # The rounds on a twin need no password of a host.
        refused = questions_refused(ours=self.ground == "host")
        if refused:
            raise Wrong(refused)
        given = args.get("start_limit_s", 5.0)
        try:
            self.start_limit_s = float(given)
        except (TypeError, ValueError):
            self.start_limit_s = math.nan
        if not 0 < self.start_limit_s < math.inf:
            raise Wrong(f"prove_rollback_start_s: expected a number of seconds above 0, found {given!r}")
        try:
            self.keep = boolean(args.get("keep") or False)
        except TypeError:
            raise Wrong(f"prove_rollback_keep: expected true or false, found {args['keep']!r}") from None
        given = args.get("reboot") or []
        try:
            self.reboot = shlex.split(given) if isinstance(given, str) else [str(word) for word in given]
        except (TypeError, ValueError) as err:
            raise Wrong(f"prove_rollback_reboot: expected a command, found {given!r}: {err}") from None
        self.drills = self.chosen(args.get("drills", list(proving.DRILLS)))
        self.image = str(args.get("image") or "")
        self.host = self.one_host(args, task_vars.get("groups") or {})

    def prove(self, task_vars: dict[str, Any]) -> None:
        """The inventory, then the ground, then what is played on it."""
        found = self.variables(task_vars, self.host)
        plan = plan_of(found, self.host)
        # An inventory in INI form gives texts.
        if self.ground == "host" and str(found.get(DISPOSABLE)).lower() != "true":
            raise Wrong(
                f"expected {DISPOSABLE}: true of {self.host} in the inventory, found {found.get(DISPOSABLE)!r}: "
                "drills stop and kill what runs there. Nothing was done"
            )
        self.cases.append(Case(INVENTORY))
        with tempfile.TemporaryDirectory(prefix="prove-rollback-") as place:
            if self.ground == "twin":
                self.on_twin(plan, found, self.drills, Path(place))
            else:
                self.on_host(plan, found, self.drills)

    def chosen(self, given: Any) -> list[str]:
        """The drills, by name.

        Raises:
            Wrong: no drill has a given name.
        """
        names = names_of(given)
        if names is None:
            raise Wrong(f"prove_rollback_drills: expected a list, or names with commas, found {given!r}")
        unknown = [name for name in names if name not in proving.DRILLS]
        if unknown:
            raise Wrong(f"prove_rollback_drills: expected some of {', '.join(proving.DRILLS)}, found {unknown[0]!r}")
        return names

    def one_host(self, args: Mapping[str, Any], groups: Mapping[str, Sequence[str]]) -> str:
        """The host that is proved.

        Raises:
            Wrong: none is there, or it is not said which.
        """
        hosts, wanted = names_of(args.get("hosts")) or [], str(args.get("host") or "")
        members = names_of(args.get("members")) or hosts
        group = str(args.get("group") or "trial_hosts")
        if not hosts:
            raise Wrong(nobody(group, members, groups))
        if wanted and wanted not in hosts:
            limit = context.CLIARGS.get("subset")
            where = f"the group {group}{f' within --limit {limit}' if limit else ''}"
            raise Wrong(f"prove_rollback_host: expected a host in {where} ({few(hosts)}), found {wanted!r}")
        if not wanted and len(hosts) > 1:
            raise Wrong(f"expected prove_rollback_host, because the group {group} has {len(hosts)} hosts: {few(hosts)}")
        return wanted or hosts[0]

    def variables(self, task_vars: dict[str, Any], host: str) -> dict[str, Any]:
        """The host's variables that are read, rendered; others, which may be in a vault, are not looked at.

        Raises:
            Wrong: one of them can't be rendered.
        """
        known = (task_vars.get("hostvars") or {}).get(host) or {}
        return {name: rendered(known, name, f"{host}, ") for name in READ if name in known}

    # ---- grounds ----

    def on_twin(self, plan: Plan, found: dict[str, Any], drills: Sequence[str], place: Path) -> None:
        """Make the twin, prove on it, remove it."""
        container = f"pr-{re.sub(r'[^a-z0-9]+', '-', self.host.lower()).strip('-') or 'host'}-{os.getpid()}"
        login = str(found.get("ansible_user") or "root")
        proof = self.proof(plan, proving.Twin([str(place / "inventory.yml")], self.host, container), {}, 10.0)
        layout: list[stand_ins.Layout] = []

        def comes_up() -> None:
            twins.engine()
            try:
                layout.append(stand_ins.lay_out(plan.tenants, getattr(plan, "gpu", None), login, self.start_limit_s))
            except stand_ins.NoStandIn as err:
                raise proving.Failed(str(err)) from err
            self.build(layout[0], plan, found, login, container, place)

        try:
            self.begin(GROUND)
            up = proof.case(GROUND, comes_up)
            if layout:
                self.sections.append(Section("Replaced on the twin, and so not proved", layout[0].replaced))
                self.sections.append(Section("Left out on the twin", stand_ins.unproved(found)))
            self.play(proof, drills, up)
        finally:
            # Without an engine, or without stand-ins, none was made.
            if layout and self.keep:
                self.say(f"kept: docker exec -it {container} bash; remove it by docker rm -f -v {container}")
            elif layout:
                twins.remove(container)

    def build(
        self, layout: stand_ins.Layout, plan: Plan, found: dict[str, Any], login: str, container: str, place: Path
    ) -> None:
        """Build the images, start the container, wait until it is well, and write how to reach it."""
        key = place / "id"
        made = subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", NAME, "-f", str(key)],
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if made.returncode:
            raise proving.Failed(f"ssh-keygen: {made.stderr.strip()}")
        gpu = getattr(plan, "gpu", None)
        base = bases.base(self.image, self.say)
        stand_ins.write_parts(place / "parts", card=bool(gpu))
        twins.normalize_modes(place / "parts")
        card = f"CARD={'yes' if gpu else 'no'}"
        parts = twins.build_image(place / "parts", "Containerfile.parts", PARTS_REPOSITORY, base, "host", card)
        stand_ins.write(layout, place / "own", login)
        image = twins.build_image(place / "own", "Containerfile", REPOSITORY, parts, "none")
        options = [f"--add-host={name}:127.0.0.1" for name in layout.hosts]
        trouble = twins.run(container, image, re.sub(r"[^a-z0-9]+", "-", self.host.lower()).strip("-"), options)
        if trouble:
            raise proving.Failed(f"docker run: {trouble}")
        twins.wait_for_exec(container)
        public = key.with_suffix(".pub").read_text(encoding="utf-8")
        twins.docker("exec", container, "sh", "/opt/twin/login.sh", login, public)
        waited = [stand_ins.PYTHON, stand_ins.STAND_IN, "--well", str(WELL_S)]
        well = twins.docker("exec", container, *waited, check=False, limit_s=2 * WELL_S)
        if well.returncode:
            found_ill = words_of(well.stdout) or words_of(well.stderr)
            raise proving.Failed(f"the twin is not well after {WELL_S} s: {found_ill}", journal_of(container))
        variables = stand_ins.variables(found, layout, gpu)
        inventory = {"trial_hosts": {"hosts": {self.host: {**reach(container, key, login), **variables}}}}
        (place / "inventory.yml").write_text(proving.yaml_of(inventory) + "\n", encoding="utf-8")

    def on_host(self, plan: Plan, found: dict[str, Any], drills: Sequence[str]) -> None:
        """Prove on the host of the inventory itself."""
        filled = {name: value for name, value in stand_ins.fillings(found).items()
                  if name not in found and name != "trial_operator_confirms_idle"}  # fmt: skip
        if "trial_contracts" not in found:
            filled["trial_operator_confirms_idle"] = True
        sources = [str(one) if "," in str(one) else str(Path(str(one)).absolute())
                   for one in context.CLIARGS.get("inventory") or ()]  # fmt: skip
        ground = proving.Host(sources, self.host, options(), self.reboot)
        proof = self.proof(plan, ground, filled, plan.limits.lease_s)

        def answers() -> None:
            done = ground.run(["true"])
            if done.returncode:
                words, why = words_of(done.stdout + done.stderr), proving.reason_of(done)
                raise proving.Failed(f"{self.host} does not answer, or sudo does not work there: {why}", words)

        self.begin(GROUND)
        self.play(proof, drills, proof.case(GROUND, answers))

    def proof(self, plan: Plan, ground: proving.Ground, variables: dict[str, Any], lease_s: float) -> proving.Proof:
        """What is found on a ground, beginning with what was found before."""
        work = self.dest / "rounds"
        shutil.rmtree(work, ignore_errors=True)
        return proving.Proof(
            ground, work, variables, proving.faults(plan, ground), lease_s, plan.restore_bound_s, self.say, self.cases
        )  # fmt: skip

    def play(self, proof: proving.Proof, drills: Sequence[str], up: bool) -> None:
        """The rehearsal, then the drills; after a failure the others are reported as skipped."""
        if not up:
            proof.skip(REHEARSAL, NO_GROUND)
        else:
            self.begin(REHEARSAL)
        well = up and proof.case(REHEARSAL, proof.contracts_and_rehearsal)
        for name in drills:
            drill = proving.DRILLS[name]
            reason = proving.why_not(drill, proof) if well else UNWELL if up else NO_GROUND
            if reason:
                proof.skip(drill.title, reason)
            else:
                self.begin(drill.title)
                # A host that did not come back from one drill can't show anything in the next.
                well = proof.case(drill.title, lambda play=drill.play: play(proof))


def rendered(known: Mapping[str, Any], name: str, where: str = "") -> Any:
    """A variable of a host.

    Raises:
        Wrong: it can't be rendered.
    """
    try:
        return plain(known[name])
    except AnsibleError as err:
        raise Wrong(f"{where}{name}: {words_of(str(err))}") from err


def plain(value: Any) -> Any:
    """A rendered value without Ansible's own types."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, bool) or value is None:
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def reach(container: str, key: Path, login: str) -> dict[str, Any]:
    """How Ansible reaches a twin: sshd as a child of ``docker exec``, so that no port is published."""
    docker = shutil.which("docker") or "docker"
    proxy = f"{docker} exec -i {container} sh -c 'mkdir -p /run/sshd; exec /usr/sbin/sshd -i -o PermitRootLogin=yes'"
    quoted = proxy.replace('"', '\\"')
    return {
        "ansible_connection": "ssh",
        "ansible_host": container,
        "ansible_user": login,
        "ansible_ssh_private_key_file": str(key),
        # Its identity is the container's, which docker vouches for.
        "ansible_ssh_common_args": f'-o ProxyCommand="{quoted}" -o IdentitiesOnly=yes -o StrictHostKeyChecking=no '
        "-o UserKnownHostsFile=/dev/null -o GlobalKnownHostsFile=/dev/null -o LogLevel=ERROR -F /dev/null",
        "ansible_host_key_checking": False,
        "ansible_python_interpreter": stand_ins.PYTHON,
    }


def options() -> list[str]:
    """What a round on a real host needs of the command line of this play: variables, users and passwords' files."""
    given = context.CLIARGS
    found = [word for one in given.get("extra_vars") or () for word in ("-e", absolute(str(one)))]
    found += [word for one in given.get("vault_ids") or () for word in ("--vault-id", str(one))]
    found += [f"--vault-password-file={one}" for one in given.get("vault_password_files") or ()]
    for name, flag in PASSED_ON.items():
        if given.get(name) and not (name == "connection" and given.get(name) == "ssh"):
            found.append(f"{flag}={given[name]}")
    return found


def absolute(given: str) -> str:
    """Variables of the command line as another folder sees them: ``@file`` by its whole path."""
    return f"@{Path(given[1:]).expanduser().absolute()}" if given.startswith("@") else given


def journal_of(container: str) -> str:
    """The last words of a twin's journal."""
    done = twins.docker("exec", container, "journalctl", "-b", "-n", "40", "--no-pager", check=False)
    return words_of(done.stdout)
