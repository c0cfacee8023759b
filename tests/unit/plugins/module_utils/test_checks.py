# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks that close a trial: eight on this host, others on others, each of them able to fail."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import checks, gpu, planfile, probes, tenants
from ansible_collections.edgelab.model_trial.plugins.module_utils.run import Ran

HOLDERS = ("/usr/bin/llama-server", "python3 chatterbox/server.py", "python3 phone_call.py auto")


class FakeCard:
    """A card that shows ``used_mib``, one value per reading, the last one repeatedly."""

    def __init__(self, *used_mib: int | gpu.GpuError, commands: tuple[str, ...] = HOLDERS) -> None:
        self.used_mib, self.commands, self.closed, self.readings = list(used_mib), commands, False, 0

    def read(self) -> gpu.Vram:
        self.readings += 1
        used = self.used_mib.pop(0) if len(self.used_mib) > 1 else self.used_mib[0]
        if isinstance(used, gpu.GpuError):
            raise used
        holders = tuple(gpu.Holder(i, 100, command) for i, command in enumerate(self.commands, 1))
        return gpu.Vram(0.0, used, 16_303, holders)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def phone(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process with an argv of its own."""
    script = tmp_path / f"phone_{os.getpid()}.py"
    script.write_text("import time; time.sleep(60)")
    process = subprocess.Popen([sys.executable, str(script), "auto"])
    while not probes.processes(f"{script.name} auto"):
        time.sleep(0.01)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Who else listens on a tenant's port, by tenant: nobody, until a test says so."""
    found: dict[str, str] = {}
    monkeypatch.setattr(tenants, "foreign", lambda tenant: found.get(tenant.name, ""))
    return found


@pytest.fixture
def host(
    stranger: dict[str, str],
    plan_data: dict[str, Any],
    server: Any,
    reply: Any,
    tone: Any,
    free_port: int,
    phone: Any,
    tmp_path: Path,
) -> dict[str, Any]:
    """A plan for a host on which everything is as it should be."""
    for tenant in plan_data["tenants"]:
        path = f"/{tenant['name']}"
        tenant["health"]["url"] = f"{server.url}{path}"
        server.json(path, {"status": "ok", "model_loaded": True})
    plan_data["tenants"][2]["speech"]["url"] = f"{server.url}/synthesize"
    server.routes["/synthesize"] = reply(tone())
    plan_data["tenants"][3]["process"] = f"phone_{os.getpid()}.py auto"
    plan_data["candidate"]["port"] = free_port
    return plan_data


def run(data: dict[str, Any], card: FakeCard | None = None, **options: Any) -> dict[int, checks.CheckResult]:
    """The checks by number."""
    fake: Any = card or FakeCard(13_700)
    options.setdefault("settle_s", 0.0)
    results = checks.run(planfile.parse(data), card=fake, **options)
    assert [c.id for c in results] == list(range(1, len(results) + 1))
    assert all(c.title and c.expected and c.found for c in results)
    return {c.id: c for c in results}


# Which checks there are


def test_the_eight_checks_of_this_host_follow_from_its_plan(plan_data: dict[str, Any]) -> None:
    derived = checks.derive(planfile.parse(plan_data))
    assert [(c.id, c.kind, c.tenant) for c in derived] == [
        (1, "vram", ""),
        (2, "health", "llamacpp"),
        (3, "health", "nav"),
        (4, "refused", ""),
        (5, "health", "chatterbox"),
        (6, "health", "phone"),
        (7, "speech", "chatterbox"),
        (8, "process", "phone"),
    ]
    assert [c.title for c in derived] == [
        "VRAM is back in its steady band of 13-13.8 GB",
        "Gemma 4 E2B is healthy",
        "panda-nav is healthy",
        "nobody listens on the candidate's port 11437",
        "Chatterbox TTS is healthy",
        "phone daemon is healthy",
        'Chatterbox TTS speaks "test one two"',
        "phone daemon is alive",
    ]
    assert derived[0].expected == "13-13.8 GB used, held by llamacpp, chatterbox, phone"
    assert derived[4].expected == "http://127.0.0.1:8772/health answers 200 with model_loaded = true"
    assert derived[7].expected == "a process with argv phone_call.py auto"


def test_another_host_has_other_checks(plan_data: dict[str, Any]) -> None:
    llamacpp, nav, chatterbox, phone = plan_data["tenants"]
    chatterbox.update(health=None, speech=None, vram_process="")
    phone.update(watch_process=False, vram_process="")
    llamacpp.update(title="", impact="", vram_process="", health=None)
    nav["health"] = None
    plan_data.update(stop_order=["llamacpp"], restore_order=["llamacpp"])
    derived = checks.derive(planfile.parse(plan_data))
    assert [(c.kind, c.tenant) for c in derived] == [("vram", ""), ("refused", ""), ("health", "phone")]
    assert derived[0].expected == "13-13.8 GB used"


def test_without_an_impact_the_candidates_port_follows_the_baseline(plan_data: dict[str, Any]) -> None:
    for tenant in plan_data["tenants"]:
        tenant["impact"] = ""
    assert [c.kind for c in checks.derive(planfile.parse(plan_data))][:3] == ["vram", "health", "refused"]


def test_speech_that_is_no_text_is_still_titled(plan_data: dict[str, Any]) -> None:
    plan_data["tenants"][2]["speech"]["body"] = {"ssml": "x"}
    assert checks.derive(planfile.parse(plan_data))[6].title == 'Chatterbox TTS speaks {"ssml": "x"}'


def test_who_is_asked_nothing_is_asked_who_he_is(plan_data: dict[str, Any]) -> None:
    """A script's tenant that was stopped; of units and containers their managers know."""
    for tenant in plan_data["tenants"]:
        tenant.update(health=None, speech=None, watch_process=False)
    plan_data["tenants"][2]["process"] = "chatterbox/server.py"
    derived = checks.derive(planfile.parse(plan_data))
    assert [(c.kind, c.tenant) for c in derived] == [("vram", ""), ("refused", ""), ("identity", "chatterbox")]
    assert derived[2].title == "Chatterbox TTS has the same identity as before"


# Without a trial, and without a card

SHOP: dict[str, Any] = {
    "tenants": [
        {"name": "db", "kind": "systemd", "unit": "db", "health": {"url": "http://127.0.0.1:1/"}},
        {"name": "api", "kind": "process", "process": "api.py serve", "watch_process": True},
    ]
}
CARD = {"steady_gb": [13.0, 13.8]}


def test_a_host_where_nothing_is_tried_has_no_candidates_port() -> None:
    derived = checks.derive(planfile.parse_site({**SHOP, "gpu": CARD}))
    assert [(c.id, c.kind, c.tenant) for c in derived] == [
        (1, "vram", ""),
        (2, "health", "db"),
        (3, "process", "api"),
    ]


def test_without_a_card_the_first_check_does_not_apply_and_says_so() -> None:
    """Its number stays: those of the others are the same with a card."""
    results = checks.run(planfile.parse_site(SHOP))
    assert [c.id for c in results] == [1, 2, 3]
    assert (results[0].ok, results[0].title) == (True, "VRAM: does not apply")
    for text in (results[0].expected, results[0].found):
        assert "the inventory names no card (trial_gpu)" in text
    assert not results[1].ok


def test_a_rehearsal_without_a_card_has_a_first_check_that_does_not_apply(host: dict[str, Any]) -> None:
    host.update(gpu=None, rehearsal=True)
    results = run(host, FakeCard(gpu.GpuError("nobody may ask")))
    assert results[1].title == "VRAM: does not apply"
    assert [c.found for c in results.values() if not c.ok] == []
    assert len(results) == 8


@pytest.mark.parametrize(
    ("site", "only", "found"),
    [
        (SHOP, [], [1, 2, 3]),
        (SHOP, [2], [2]),
        (SHOP, [3, 2, 3], [2, 3]),
        ({**SHOP, "gpu": CARD}, [1], [1]),
        (
            SHOP,
            [1],
            "2 (db is healthy), 3 (api is alive); found 1; check 1 does not apply: the inventory names no card",
        ),
        (
            SHOP,
            [2, 4, 99],
            "only: expected numbers of this host's checks: 2 (db is healthy), 3 (api is alive); found 4, 99",
        ),
        ({**SHOP, "gpu": CARD}, [0], "1 (VRAM is back in its steady band of 13-13.8 GB), 2 (db is healthy)"),
        # Nothing was checked, which must not pass for a good end.
        ({"tenants": []}, [], "tenants: expected something to check, such as a tenant with health"),
        ({"tenants": []}, [2], "there are none; found 2"),
    ],
)
def test_checks_are_chosen_by_their_numbers(site: dict[str, Any], only: list[int], found: list[int] | str) -> None:
    parsed = planfile.parse_site(site)
    if isinstance(found, list):
        assert [c.id for c in checks.chosen(parsed, only)] == found
        return
    with pytest.raises(checks.NoSuchCheck) as caught:
        checks.run(parsed, only=only)
    assert found in str(caught.value)


def test_a_trials_checks_are_chosen_likewise(host: dict[str, Any]) -> None:
    card: Any = FakeCard(13_700)
    found = checks.run(planfile.parse(host), card=card, only=[4, 8])
    assert [(c.id, c.ok) for c in found] == [(4, True), (8, True)]
    assert card.readings == 0


# Running them


def test_a_host_as_it_was(host: dict[str, Any]) -> None:
    results = run(host)
    assert len(results) == 8
    assert [c.found for c in results.values() if not c.ok] == []
    assert results[1].found.startswith("13.38 GB (13700 MiB), held by PID 1 /usr/bin/llama-server 100 MiB, ")
    assert results[4].found == "connection refused"
    assert results[7].found.startswith("WAV, 1.00 s, 22050 Hz")


@pytest.mark.parametrize(
    ("used_mib", "ok"), [(13_311, False), (13_312, True), (14_131, True), (14_132, False), (8_000, False)]
)
def test_the_vram_band_is_inclusive(host: dict[str, Any], used_mib: int, ok: bool) -> None:
    assert run(host, FakeCard(used_mib))[1].ok is ok


def test_an_expected_process_without_vram_is_named(host: dict[str, Any]) -> None:
    result = run(host, FakeCard(13_700, commands=HOLDERS[:2]))[1]
    assert not result.ok
    assert result.found.endswith("; no memory is held by phone")


def test_a_stranger_is_named_but_only_the_band_decides(host: dict[str, Any]) -> None:
    commands = (*HOLDERS, "/usr/bin/Xorg")
    result = run(host, FakeCard(13_700, commands=commands))[1]
    assert result.ok
    assert result.found.endswith("; not in this inventory: PID 4 /usr/bin/Xorg 100 MiB")
    assert not run(host, FakeCard(15_000, commands=commands))[1].ok


def test_vram_may_take_a_moment(host: dict[str, Any]) -> None:
    card = FakeCard(9000, 12_000, gpu.GpuError("busy"), 13_700)
    assert run(host, card, settle_s=3.0)[1].ok
    assert card.readings == 4
    assert not card.closed


def test_vram_does_not_get_unlimited_time(host: dict[str, Any]) -> None:
    began = time.monotonic()
    assert not run(host, FakeCard(9000), settle_s=0.3)[1].ok
    assert 0.3 <= time.monotonic() - began < 0.9 * checks.SETTLE_S


def test_a_silent_card_is_a_failed_check(host: dict[str, Any]) -> None:
    assert run(host, FakeCard(gpu.GpuError("NVML is gone")))[1].found == "NVML is gone"


def test_a_card_that_is_known_not_to_answer_is_not_asked_again(
    host: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that hangs would be waited for once more, while people wait for the end of a restore."""
    monkeypatch.setattr(gpu, "Card", lambda _index: pytest.fail("it was opened"))
    began = time.monotonic()
    result = checks.run(planfile.parse(host), card="the GPU's driver has not answered yet")[0]
    assert (result.ok, result.found) == (False, "the GPU's driver has not answered yet")
    assert time.monotonic() - began < checks.SETTLE_S


def test_without_a_card_one_is_opened_and_closed(host: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    card = FakeCard(13_700)
    opened: list[int] = []

    def make(index: int) -> FakeCard:
        opened.append(index)
        return card

    monkeypatch.setattr(gpu, "Card", make)
    assert checks.run(planfile.parse(host), settle_s=0.0)[0].ok
    assert (opened, card.closed) == ([0], True)


def test_a_card_that_cannot_be_opened_is_a_failed_check(host: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def make(index: int) -> FakeCard:
        raise gpu.GpuError("no driver")

    monkeypatch.setattr(gpu, "Card", make)
    results = checks.run(planfile.parse(host))
    assert (results[0].ok, results[0].found) == (False, "no driver")
    assert all(c.ok for c in results[1:])


def test_an_unhealthy_tenant_fails_its_check_alone(host: dict[str, Any], server: Any) -> None:
    server.json("/chatterbox", {"model_loaded": False})
    results = run(host)
    assert [i for i, c in results.items() if not c.ok] == [5]
    assert results[5].found == "model_loaded = false"


def test_a_voice_that_is_silent_fails_though_it_says_it_is_healthy(
    host: dict[str, Any], server: Any, reply: Any, tone: Callable[..., bytes]
) -> None:
    server.routes["/synthesize"] = reply(tone(level=0.0))
    results = run(host)
    assert [i for i, c in results.items() if not c.ok] == [7]
    assert "silence" in results[7].found


def test_an_answer_counts_when_the_tenant_has_given_it(host: dict[str, Any], stranger: dict[str, str]) -> None:
    """A stranger on the port says that he is well, and speaks."""
    stranger["chatterbox"] = "port 8772 is held by PID 77 (user mallory, nc -l 8772)"
    found = run(host)
    failed = {i: c for i, c in found.items() if not c.ok}
    assert [c.title for c in failed.values()] == ["Chatterbox TTS is healthy", 'Chatterbox TTS speaks "test one two"']
    assert all(c.found.endswith(f"but {stranger['chatterbox']}") for c in failed.values())


def test_a_stranger_who_leaves_while_he_answers_has_answered(
    host: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To speak takes seconds: he is looked for before, too."""
    looks: dict[str, int] = {}

    def first_only(tenant: Any) -> str:
        looks[tenant.name] = looks.get(tenant.name, 0) + 1
        return "mallory" if tenant.name == "chatterbox" and looks[tenant.name] % 2 else ""

    monkeypatch.setattr(tenants, "foreign", first_only)
    failed = [c.title for c in run(host).values() if not c.ok]
    assert failed == ["Chatterbox TTS is healthy", 'Chatterbox TTS speaks "test one two"']


def test_who_can_not_be_looked_for_has_not_been_ruled_out(
    host: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(_tenant: Any) -> str:
        raise TimeoutError("systemctl show timed out")

    monkeypatch.setattr(tenants, "foreign", hang)
    found = run(host)
    assert "it is unknown which process answered: systemctl show timed out" in found[2].found
    assert not found[2].ok


@pytest.mark.parametrize("asked", [True, False])
def test_who_was_started_again_is_to_be_who_it_was(
    host: dict[str, Any], monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    snapshot = {"chatterbox": {"pid": 7, "start_ticks": 70, "identity": {"nice": 0}}}

    def changed(tenant: Any, then: Any) -> str:
        return "nice 5, was 0" if then == snapshot.get(tenant.name) else ""

    monkeypatch.setattr(tenants, "changed", changed)
    if not asked:
        host["tenants"][2].update(health=None, speech=None, process="chatterbox/server.py")
    failed = {i: c for i, c in run(host, snapshot=snapshot).items() if not c.ok}
    assert list(failed) == ([5, 7] if asked else [7])
    assert all("but its identity has changed: nice 5, was 0; if" in c.found for c in failed.values())
    assert all(c.ok for c in run(host).values())


def test_who_can_not_be_looked_at_has_not_been_shown_to_be_it(
    host: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(_tenant: Any, _then: Any) -> str:
        raise TimeoutError("systemctl show timed out")

    monkeypatch.setattr(tenants, "changed", hang)
    assert "its identity is unknown: systemctl show timed out" in run(host)[5].found


def test_what_has_changed_since_the_proof_is_named(host: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"llamacpp": (7, 70, 0), "chatterbox": (8, 80, 0), "phone": (0, 0, 0)}

    def standing(tenant: Any) -> tenants.Standing:
        if tenant.name == "nav":
            raise OSError("systemd does not tell")
        pid, ticks, restarts = now.get(tenant.name, (9, 90, 0))
        return tenants.Standing(bool(pid), probes.ProcessId(pid, ticks) if pid else None, restarts)

    monkeypatch.setattr(tenants, "standing", standing)
    plan = planfile.parse(host)
    proof = {
        "tenants": {
            "llamacpp": {"running": True, "pid": 7, "start_ticks": 70, "restarts": 0},
            "chatterbox": {"running": True, "pid": 6, "start_ticks": 60, "restarts": 0},
            "phone": {"running": True, "pid": 5, "start_ticks": 50, "restarts": 0},
            "nav": {"running": True, "pid": 4, "start_ticks": 40, "restarts": 0},
        }
    }
    by_name = {line.split(":")[0]: line for line in checks.since(plan, proof)}
    voice, phone, nav = by_name["Chatterbox TTS"], by_name["phone daemon"], by_name[plan.tenant("nav").title]
    assert len(by_name) == 3
    assert nav.endswith("and is now unknown: systemd does not tell")
    assert voice.startswith(
        "Chatterbox TTS: it was PID 6 when the restore was proved, and it is PID 8 now, restarted by"
    )
    assert phone == "phone daemon: it was PID 5 when the restore was proved, and it does not run"
    assert checks.since(plan, {}) == []


@pytest.mark.parametrize(
    ("running", "restarts", "words"),
    [(True, 0, ""), (False, 0, "it does not run"), (True, 1, "it runs, restarted by something other than the trial")],
)
def test_a_tenant_without_a_process_is_compared_by_its_state(
    host: dict[str, Any], monkeypatch: pytest.MonkeyPatch, running: bool, restarts: int, words: str
) -> None:
    monkeypatch.setattr(tenants, "standing", lambda _tenant: tenants.Standing(running, None, restarts))
    proof = {"tenants": {"phone": {"running": True, "pid": 0, "start_ticks": 0, "restarts": 0}}}
    expected = [f"phone daemon: it was running when the restore was proved, and {words}"] if words else []
    assert checks.since(planfile.parse(host), proof) == expected


def test_a_left_over_candidate_fails(host: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", host["candidate"]["port"])):
        results = run(host)
    assert [i for i, c in results.items() if not c.ok] == [4]
    assert results[4].found.endswith(f"accepts connections on {host['candidate']['port']}")


def test_a_port_that_neither_refuses_nor_accepts_fails(host: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_CONNECT_S", 0.1)
    # A listener whose queue is full lets further connections wait.
    with socket.socket() as full:
        full.bind(("127.0.0.1", host["candidate"]["port"]))
        full.listen(0)
        waiting = [socket.socket() for _unused in range(3)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", host["candidate"]["port"]))
        result = run(host)[4]
        for client in waiting:
            client.close()
    assert not result.ok
    assert "neither refused nor accepted" in result.found


# The card, from within a container


@pytest.mark.parametrize(
    ("answer", "ok", "words"),
    [
        (Ran(0, "", ""), True, "opens the card"),
        (Ran(2, "", "sh: 1: cannot open /dev/nvidiactl: Operation not permitted"), False, "can't open the card"),
        (Ran(126, "", ""), True, "it is unknown: "),
        (TimeoutError("docker exec timed out after 10 s"), False, "timed out"),
    ],
    ids=["sees", "deaf", "can't be told", "no answer"],
)
def test_a_container_that_holds_vram_must_still_see_the_card(
    host: dict[str, Any], monkeypatch: pytest.MonkeyPatch, answer: Any, ok: bool, words: str
) -> None:
    """Somebody reloaded systemd meanwhile: its health page answers as before."""

    def asked(argv: Any, _limit_s: float, **_options: Any) -> Ran:
        assert list(argv[:3]) == ["docker", "exec", "nav-box"]
        if isinstance(answer, Exception):
            raise answer
        found: Ran = answer
        return found

    host["tenants"][1].update(kind="container", container="nav-box", vram_process="uvicorn")
    monkeypatch.setattr(tenants.run, "command", asked)
    plan = planfile.parse(host)
    [check] = [c for c in checks.derive(plan) if c.kind == "gpu"]
    assert (check.tenant, check.title) == ("nav", "panda-nav still sees the GPU from its container")
    found = run(host, FakeCard(13_700, commands=("uvicorn", *HOLDERS)))[check.id]
    assert found.ok is ok
    assert words in found.found


# The watched process


def before(phone: Any, **other: int) -> dict[str, Any]:
    """A snapshot in which the phone's process is the one that runs now."""
    process = probes.identify(phone.pid)
    assert process
    return {"phone": {"pid": process.pid, "start_ticks": process.start_ticks, **other}}


def test_the_same_process_as_before(host: dict[str, Any], phone: Any) -> None:
    result = run(host, snapshot=before(phone))[8]
    assert result.ok
    assert result.found == f"PID {phone.pid}, the same as before"


@pytest.mark.parametrize("other", [{"pid": 1}, {"start_ticks": 1}])
def test_a_restarted_process_is_another_one(host: dict[str, Any], phone: Any, other: dict[str, int]) -> None:
    result = run(host, snapshot=before(phone, **other))[8]
    assert not result.ok
    assert "it was restarted" in result.found
    assert f"PID {phone.pid}, but before it was PID" in result.found


def test_who_was_to_be_stopped_may_have_a_new_process(host: dict[str, Any], phone: Any) -> None:
    host["tenants"][3].update(start="./phone", user="panda")
    for order in ("stop_order", "restore_order"):
        host[order].append("phone")
    assert run(host, snapshot=before(phone, pid=1))[8].ok


@pytest.mark.parametrize("snapshot", [None, {}, {"phone": {}}, {"phone": {"pid": 0, "start_ticks": 0}}])
def test_without_a_known_process_any_will_do(host: dict[str, Any], phone: Any, snapshot: Any) -> None:
    result = run(host, snapshot=snapshot)[8]
    assert (result.ok, result.found) == (True, f"PID {phone.pid}")


def test_a_process_that_is_gone(host: dict[str, Any], phone: Any) -> None:
    phone.kill()
    phone.wait()
    result = run(host)[8]
    assert not result.ok
    assert result.found == f"no process with argv phone_{os.getpid()}.py auto"


def test_failed_checks_in_words() -> None:
    text = checks.message([checks.CheckResult(4, "nobody listens", "refused", "somebody", False)] * 2)
    paragraph = "Check 4, nobody listens: failed.\n  expected: refused\n  found: somebody"
    assert text == f"{paragraph}\n\n{paragraph}"
