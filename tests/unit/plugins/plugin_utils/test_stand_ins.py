# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a twin is made of: every kind of tenant keeps what the inventory says of it, and what is replaced is told."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import planfile
from ansible_collections.edgelab.model_trial.plugins.module_utils.plan import Gpu, Tenant
from ansible_collections.edgelab.model_trial.plugins.plugin_utils import stand_ins

DB = {"name": "db", "kind": "systemd", "unit": "db", "port": 5001,
      "health": {"url": "http://127.0.0.1:5001/health", "json": {"ok": True, "slots.0.state": "idle"}}}  # fmt: skip
API = {"name": "api", "kind": "systemd", "unit": "api.service", "needs": ["db"], "user": "shop", "port": 5002,
       "health": {"url": "http://api.local:5002/health"}, "process": "uvicorn api:app"}  # fmt: skip
VOICE = {"name": "voice", "kind": "script", "user": "shop", "directory": "/srv/voice", "start": "./start.sh",
         "stop": "./stop.sh", "port": 5003, "health": {"url": "http://localhost:5003/", "json": {"ready": True}},
         "speech": {"url": "http://localhost:5003/say", "min_bytes": 9000}, "vram_process": "voice_server",
         "needs": ["db"], "boot": "voice-boot.service"}  # fmt: skip
BOX = {"name": "cache", "kind": "container", "container": "cache-box", "port": 5004,
       "health": {"url": "http://127.0.0.1:5004/"}, "needs": ["db"]}  # fmt: skip
PHONE = {"name": "phone", "kind": "process", "process": "phone.py auto", "user": "shop", "port": 5005,
         "start": "python3 phone.py auto", "health": {"url": "http://127.0.0.1:5005/"}}  # fmt: skip
TIMER = {"name": "nightly", "kind": "systemd", "unit": "nightly.timer"}
ALL = (DB, API, VOICE, BOX, PHONE, TIMER)


def members(*items: dict[str, Any]) -> list[Tenant]:
    return [planfile.parse_tenant(item, item["name"]) for item in items]


def laid_out(*items: dict[str, Any], gpu: Gpu | None = None) -> stand_ins.Layout:
    return stand_ins.lay_out(members(*items), gpu, "ops", 5.0)


def facts(layout: stand_ins.Layout, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(layout.files["/etc/twin-tenants.json"])[name]
    return found


def test_every_kind_has_a_stand_in_or_is_refused_by_name() -> None:
    layout = laid_out(*ALL)
    assert list(json.loads(layout.files["/etc/twin-tenants.json"])) == sorted(item["name"] for item in ALL)
    for item in ALL:
        assert any(item["name"] in line for line in layout.replaced), f"nothing is told of {item['name']}"
    [db] = members(DB)
    with pytest.raises(stand_ins.NoStandIn, match="tenant db: a twin has no stand-in for the kind supervisor"):
        stand_ins.lay_out([dataclasses.replace(db, kind="supervisor")], None, "ops", 5.0)


def test_a_unit_keeps_its_name_user_words_and_order() -> None:
    unit = laid_out(*ALL).files["/etc/systemd/system/api.service"]
    assert "After=network.target twin-gpu.service db.service\nRequires=db.service\n" in unit
    assert "User=shop\n" in unit
    assert '"api" "uvicorn" "api:app"\n' in unit
    assert "nightly.timer" in laid_out(*ALL).at_boot


def test_words_of_a_unit_are_words_whatever_is_in_them() -> None:
    odd = {**API, "process": 'a%b $HOME "x"\\', "needs": []}
    assert '"a%%b" "$$HOME" "\\"x\\"\\\\"\n' in laid_out(odd).files["/etc/systemd/system/api.service"]


def test_a_command_that_is_a_file_of_the_tenants_stays_its_own() -> None:
    layout = laid_out(*ALL)
    assert layout.files["/srv/voice/start.sh"].endswith("--start voice\n")
    assert layout.files["/srv/voice/stop.sh"].endswith("--stop voice\n")
    voice, phone = (next(one for one in layout.tenants if one["name"] == name) for name in ("voice", "phone"))
    assert (voice["start"], voice["stop"]) == ("./start.sh", "./stop.sh")
    assert "voice: the effect of its start command (./start.sh); the command itself is yours" in layout.replaced
    # A program of the host's is not overwritten; the command is the twin's, and that is told.
    assert phone["start"].endswith("stand_in.py phone phone.py auto")
    assert "phone: its start command (python3 phone.py auto) is one of the twin's" in layout.replaced
    # What a process was started by is the process itself.
    own = laid_out({**PHONE, "start": "bin/phone --now", "directory": "/opt/phone"})
    assert own.files["/opt/phone/bin/phone"].endswith("stand_in.py phone phone.py auto\n")
    assert "voice-boot.service" in layout.at_boot
    assert "twin-start-phone.service" in layout.at_boot


def test_each_tenant_is_started_at_boot_after_what_it_needs() -> None:
    layout = laid_out(*ALL)
    assert (
        "After=network.target twin-gpu.service db.service\n" in layout.files["/etc/systemd/system/voice-boot.service"]
    )
    box = layout.files["/etc/systemd/system/twin-containers.service"]
    assert "docker.service db.service" in box
    assert sorted(layout.at_boot) == sorted(
        ["db.service", "api.service", "voice-boot.service", "twin-start-phone.service", "nightly.timer",
         "twin-containers.service"]
    )  # fmt: skip


def test_health_and_speech_are_those_of_the_inventory() -> None:
    layout = laid_out(*ALL)
    assert facts(layout, "db")["pages"] == {
        "/health": {"status": 200, "body": {"ok": True, "slots": [{"state": "idle"}]}}
    }
    assert facts(layout, "voice")["speech"] == {"/say": 9000}
    assert facts(layout, "api")["ports"] == [5002]
    # A name of the host means the twin itself.
    assert layout.hosts == ["api.local"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"health": {"url": "https://127.0.0.1:5001/"}}, "expected http:// on a twin"),
        ({"health": {"url": "http://192.168.1.7:5001/"}}, "expected 127.0.0.1 or a host name"),
        ({"health": {"url": "http://127.0.0.1:99999/"}}, "db, health.url: http://127.0.0.1:99999/: Port out of range"),
        ({"unit": "db.socket"}, "stand-ins for .service and .timer units, found db.socket"),
    ],
)
def test_what_has_no_stand_in_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(stand_ins.NoStandIn, match=message):
        laid_out({**DB, **change})


def test_a_command_that_no_shell_reads_is_refused() -> None:
    with pytest.raises(stand_ins.NoStandIn, match="tenant voice, start: expected a shell's command, found"):
        laid_out({**VOICE, "start": "./it's.sh"})


def test_no_path_of_an_inventory_leads_out_of_the_image(tmp_path: Path) -> None:
    odd = {**VOICE, "start": "../../../../start.sh"}
    stand_ins.write(
        laid_out(odd, {**DB, "unit": "../../../../../db.service", "directory": "/../up"}), tmp_path / "own", "root"
    )
    stage = tmp_path / "own" / "stage"
    assert [(stage / name).exists() for name in ("start.sh", "db.service", "up")] == [True] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own"]
    assert sorted(path.name for path in stage.parent.iterdir()) == ["Containerfile", "stage"]


def test_the_card_holds_what_the_band_says() -> None:
    gpu = Gpu(steady_gb=[2.0, 3.0], index=1, total_gb_min=15.0)
    two = ({**DB, "vram_process": "db"}, VOICE)
    settings = json.loads(laid_out(*two, gpu=gpu).files["/etc/twin-gpu/settings.json"])
    held = settings["base_mib"] + sum(settings["programs"].values())
    assert 2.0 * 1024 < held < 3.0 * 1024
    assert set(settings["programs"]) == {"stand_in.py db", "stand_in.py voice"}
    assert settings["total_mib"] > 15 * 1024
    # Without holders, and below what a card holds by itself, the card holds it all.
    for low, high, items in ((1.0, 2.0, (DB, API)), (0.1, 0.3, two)):
        band = Gpu(steady_gb=[low, high])
        settings = json.loads(stand_ins.lay_out(members(*items), band, "ops", 5.0).files["/etc/twin-gpu/settings.json"])
        assert settings["base_mib"] == int((low + high) / 2 * 1024)
        assert settings["programs"] == {}
    assert "/etc/twin-gpu/settings.json" not in laid_out(*two).files


INVENTORY = {
    "trial_tenants": list(ALL),
    "trial_stop_order": ["voice", "api", "cache", "db"],
    "trial_restore_order": ["db", "cache", "api", "voice"],
}


def test_the_twins_own_variables_are_a_plan_of_a_rehearsal() -> None:
    gpu = Gpu(steady_gb=[2.0, 3.0], index=1)
    given = {**INVENTORY, "trial_limits": {"cap_s": 60, "drain_tolerance_mib": 7}, "trial_candidate": {"label": "e4b"}}
    found = stand_ins.variables(given, laid_out(*ALL, gpu=gpu), gpu)
    data = {name.removeprefix("trial_"): value for name, value in found.items() if name != "trial_lease"}
    confirmed = data.pop("operator_confirms_idle")
    contracts = {**data.pop("contracts"), "operator_confirms_idle": confirmed}
    plan = planfile.parse({"run": "r", "host": "h", "image": "", "contracts": contracts, **data})
    assert plan.limits.drain_tolerance_mib == 7
    assert plan.run_max_s > 0
    assert plan.gpu.index == 0
    assert plan.tenant("db").start_timeout_s == 5.0
    assert plan.candidate.label == "e4b"


def test_what_is_left_out_is_told() -> None:
    given = {"trial_contracts": {"quiet": [{"name": "no call"}], "clauses": [{"file": "/a.py"}]}, "trial_hook": {}}
    assert stand_ins.unproved(given)[:2] == ["the quiet probe 'no call'", "the exception clause in /a.py"]
    assert "the hook (trial_hook)" in stand_ins.unproved({"trial_hook": {"command": ["x"]}})


@pytest.mark.parametrize("card", [True, False])
def test_the_context_holds_what_the_recipe_copies(tmp_path: Path, card: bool) -> None:
    stand_ins.write_parts(tmp_path / "parts", card)
    stage = tmp_path / "parts" / "stage"
    assert (stage / "opt/twin/gpu/compile.sh").exists() is card
    assert (stage / "etc/systemd/system/twin-gpu.service").exists() is card
    assert (stage / "usr/local/lib/twin/stand_in.py").exists()
    assert (tmp_path / "parts" / "Containerfile.parts").exists()
    stand_ins.write(laid_out(*ALL), tmp_path / "own", "ops")
    own = tmp_path / "own" / "stage"
    assert (own / "srv/voice/start.sh").stat().st_mode & 0o111
    assert (own / "opt/twin/users").read_text() == "ops\nshop\n"
    assert (own / "opt/twin/owners").read_text().splitlines()[0] == "shop /srv/voice"
    assert (own / "srv/voice").is_dir()
