"""What taints a run, each by its name; and what makes a segment partial."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sample_lines
from trialbench import schemas
from trialbench.cli import main
from trialbench.measure.sample import Sample
from trialbench.measure.summary import SegmentFacts, partial, plain, summarize, taints
from trialbench.report.decide import decide_folder
from trialbench.report.run import read_run
from trialbench.report.summary import summarize_run
from trialbench.report.table import folder_table

PLAN = {
    "run": "run-1",
    "host": "panda",
    "candidate": {"label": "E4B", "port": 11437},
    "baseline": {"label": "E2B", "tenant": "llamacpp"},
    "tenants": [{"name": "llamacpp", "impact": "blind", "vram_process": "llama-server"}],
}
ORDER = ("nav-baseline-a1", "describe-baseline", "smoke-candidate", "nav-candidate", "nav-candidate-cached")
ORDER = (*ORDER, "describe-candidate", "nav-baseline-a2")
HASHES = {"body_sha256": "b" * 64, "prompt_sha256": "p" * 64, "image_sha256": "i" * 64}


pytestmark = pytest.mark.usefixtures("few_resamples")


def sample(seq: int, start_s: float, **changes: Any) -> dict[str, Any]:
    """A line that names the model, as those of newer clients do."""
    return sample_lines.sample(seq, start_s, **{"model": "gemma", **changes})


def taken(seq: int, start_s: float, **changes: Any) -> Sample:
    """The same, as it is read."""
    return Sample(**sample(seq, start_s, **changes))


def lost(seq: int, start_s: float, error_class: str = "connect") -> dict[str, Any]:
    return sample(seq, start_s, ok=False, error_class=error_class, latency_ms=None, strategy=None, model=None)


class Run:
    """A clean run of seven segments, a second after another each; what is changed is changed before `write`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan: dict[str, Any] = json.loads(json.dumps(PLAN))
        self.samples = {
            name: [sample(seq, 10.0 * at + seq / 10) for seq in range(1, 21)] for at, name in enumerate(ORDER, 1)
        }
        self.requests = {name: dict(HASHES) for name in ORDER}
        for name in ("describe-baseline", "describe-candidate"):
            self.requests[name]["prompt_sha256"] = self.requests[name]["body_sha256"] = "d" * 64
        self.requests["nav-candidate-cached"]["body_sha256"] = "c" * 64
        self.stopped: dict[str, str] = {}
        self.events: list[tuple[str, dict[str, Any]]] = [
            ("opened", {}),
            ("candidate_started", {"pid": 77, "start_ticks": 5}),
            ("phase_done", {"phase": "measure"}),
            ("closed", {}),
        ]
        self.vram: list[dict[str, Any]] = []
        self.boots = ["b00t"] * 4

    def write(self) -> Path:
        (self.path / "samples").mkdir(parents=True, exist_ok=True)
        (self.path / "plan.json").write_text(json.dumps(self.plan), encoding="utf-8")
        journal = []
        for seq, ((event, fields), boot) in enumerate(zip(self.events, self.boots, strict=False), 1):
            head = {"seq": seq, "wall": "2026-01-02T03:04:05Z", "t_s": float(seq), "boot_id": boot, "run": "run-1"}
            journal.append(head | {"epoch": 1, "by": "runner", "event": event} | fields)
        self._lines("journal.jsonl", journal)
        self._lines("vram.jsonl", self.vram)
        for name, samples in self.samples.items():
            self._lines(f"samples/{name}.jsonl", samples)
            if name in self.requests:
                facts = SegmentFacts(name.split("-")[0], 20, True, name.endswith("cached"), self.stopped.get(name))
                numbers = plain(summarize([Sample(**one) for one in samples], [], facts))
                numbers |= {"request": self.requests[name] | {"models": []}}
                document = {"format": 1, "trialbench": "0", "created": "x", "model_label": None}
                document["segments"] = {name: numbers}
                assert schemas.validate(document, "summary") == []
                (self.path / "samples" / f"summary-{name}.json").write_text(json.dumps(document), encoding="utf-8")
        return self.path

    def _lines(self, name: str, lines: list[dict[str, Any]]) -> None:
        (self.path / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = plain(summarize_run(read_run(self.write())))
        assert schemas.validate(summary, "summary") == []
        return summary

    def taints(self) -> list[str]:
        return list(self.summary()["taints"])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run-1")


def test_a_clean_run_is_clean_and_whole(run: Run) -> None:
    summary = run.summary()
    assert (summary["taints"], summary["partial"], summary["outcome"]) == ([], [], "completed")
    assert summary["segments"]["nav-candidate"]["request"] == {**HASHES, "models": ["gemma"]}
    shown = folder_table(run.path)
    assert "TAINTED" not in shown
    assert "PARTIAL" not in shown


def change(run: Run, segment: str, at: int, **changes: Any) -> None:
    run.samples[segment][at] |= changes


@pytest.mark.parametrize(
    ("changes", "taint"),
    [
        ({"cache_n": 98, "flags": ["cached"]}, "cache: nav-candidate: 1 reply came from the prompt cache, which"),
        (
            {"ok": False, "error_class": "thinking", "flags": ["thinking"], "strategy": None},
            "thinking: nav-candidate: thinking in 1 reply",
        ),
        (
            {
                "ok": False,
                "error_class": "finish_reason",
                "finish_reason": "tool_calls",
                "flags": ["finish_reason"],
                "strategy": None,
            },
            "finish_reason: nav-candidate: 1 reply ended with tool_calls, expected stop or length",
        ),
        ({"model": "another"}, "model_changed: nav-candidate: the server named itself gemma, then another"),
        ({"flags": ["restarted"]}, "server_restarted: nav-candidate: the server was restarted 1 time"),
    ],
    ids=["cache", "thinking", "finish_reason", "model", "restarted"],
)
def test_one_reply_taints_by_name_in_every_output(
    run: Run, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], taint: str
) -> None:
    change(run, "nav-candidate", 7, **changes)
    summary = run.summary()
    assert [found for found in summary["taints"] if found.startswith(taint)]
    name, _, rest = taint.partition(": ")
    assert summary["segments"]["nav-candidate"]["taints"][0].startswith(f"{name}: {rest.partition(': ')[2]}")
    decision = decide_folder(run.path, judged={"describe": "better"})
    assert decision["verdict"] == "INCONCLUSIVE"
    assert decision["reasons"][0].startswith("tainted: ")
    assert taint in decision["reasons"][0]
    assert any(found.startswith(taint) for found in decision["facts"]["taints"])
    assert main(["show", str(run.path)]) == 0
    assert f"TAINTED {taint}"[:80] in capsys.readouterr().out
    assert main(["verdict", str(run.path)]) == 0
    assert taint[:60] in capsys.readouterr().out


def test_a_warm_up_that_thinks_taints_too(run: Run) -> None:
    run.write()
    thought = sample(1, 40.01, ok=False, error_class="thinking", flags=["thinking"], strategy=None)
    (run.path / "samples" / "nav-candidate-warmup.jsonl").write_text(json.dumps(thought) + "\n", encoding="utf-8")
    assert run.taints() == ["thinking: nav-candidate: thinking in 1 reply"]


def test_the_cache_where_it_was_asked_for_is_no_taint(run: Run) -> None:
    for line in run.samples["nav-candidate-cached"]:
        line["cache_n"] = 98
    assert run.taints() == []


def test_a_model_that_differs_between_a1_and_a2(run: Run) -> None:
    for line in run.samples["nav-baseline-a2"]:
        line["model"] = "update"
    assert run.taints() == [
        "model_changed: the server named itself gemma in describe-baseline, update in nav-baseline-a2"
    ]


def test_what_a_server_says_of_itself_is_shown_and_not_obeyed(run: Run) -> None:
    change(run, "nav-candidate", 7, model="\x1b[2J\n" + "x" * 5000)
    change(run, "nav-candidate", 8, finish_reason="\x1b[2J", flags=["finish_reason"])
    for taint in run.taints():
        assert "\x1b" not in taint
        assert len(taint) < 250


def test_candidate_and_baseline_are_different_models(run: Run) -> None:
    for name in ORDER:
        if "candidate" in name:
            for line in run.samples[name]:
                line["model"] = "candidate"
    assert run.taints() == []


@pytest.mark.parametrize("part", ["prompt", "image"])
def test_inputs_that_differ_between_a_and_b(run: Run, part: str) -> None:
    run.requests["nav-candidate"][f"{part}_sha256"] = "0" * 64
    run.requests["nav-candidate"]["body_sha256"] = "1" * 64
    letter = part[0] * 12
    summary = run.summary()
    assert summary["taints"] == [
        f"{part}_differs: nav-baseline-a1 and nav-candidate were given different {part}s ({letter}, 000000000000)",
        f"{part}_differs: nav-baseline-a2 and nav-candidate were given different {part}s ({letter}, 000000000000)",
    ]
    assert {entry["finding"] for entry in summary["comparisons"]} == {"not_comparable"}


def test_an_image_that_one_of_them_did_not_get(run: Run) -> None:
    run.requests["describe-candidate"]["image_sha256"] = None  # type: ignore[assignment]
    assert run.taints() == [
        "image_differs: describe-baseline and describe-candidate were given different images (iiiiiiiiiiii, none)"
    ]


def test_settings_that_differ_between_a_and_b(run: Run) -> None:
    run.requests["nav-candidate"]["body_sha256"] = "1" * 64
    assert [taint.partition(":")[0] for taint in run.taints()] == ["request_differs", "request_differs"]


def test_what_a_client_did_not_tell_is_no_difference(run: Run) -> None:
    del run.requests["nav-baseline-a2"]
    summary = run.summary()
    assert summary["taints"] == []
    assert summary["segments"]["nav-baseline-a2"]["request"]["prompt_sha256"] is None
    assert summary["partial"] == ["nav-baseline-a2: cut short after 20 samples: the client did not end properly"]


def test_a_server_that_was_away_and_came_back(run: Run) -> None:
    run.samples["nav-candidate"][5] = lost(6, 40.6)
    run.samples["nav-candidate"][6] = lost(7, 40.7, "dropped")
    summary = run.summary()
    assert summary["taints"] == ["server_restarted: nav-candidate: 2 requests found no server, then one answered again"]
    assert summary["partial"] == ["nav-candidate: lost: 2 samples found no server, or one that hung up"]


def test_a_server_that_hung_up_and_answered_again(run: Run) -> None:
    run.samples["nav-candidate"][5] = lost(6, 40.6, "dropped")
    assert run.taints() == ["server_hung_up: nav-candidate: on 1 request, then it answered again"]


def test_a_server_that_came_back_for_the_next_segment(run: Run) -> None:
    run.samples["nav-candidate"][-1] = lost(20, 42.0)
    names = "smoke-candidate, nav-candidate, nav-candidate-cached, describe-candidate"
    assert run.taints() == [f"server_restarted: {names}: 1 request found no server, then one answered again"]
    # One that never came back was not restarted.
    for name in ("nav-candidate-cached", "describe-candidate"):
        del run.samples[name], run.requests[name]
        (run.path / "samples" / f"{name}.jsonl").unlink()
    assert run.taints() == []


def reading(t_s: float, pid: int, port: int = 11437, **changes: Any) -> dict[str, Any]:
    holders = [{"pid": pid, "mib": 100, "command": f"llama-server --port {port} --jinja"}, {"mib": 3}]
    return {"t_s": t_s, "used_mib": 100, "processes": holders} | changes


def test_another_process_in_mid_run(run: Run) -> None:
    run.vram = [reading(30.5, 77), reading(45.0, 77), reading(60.5, 99)]
    names = "smoke-candidate, nav-candidate, nav-candidate-cached, describe-candidate"
    assert run.taints() == [f"server_restarted: {names}: its process was PID 77, then 99"]
    run.vram = [reading(10.5, 7, 11435), reading(20.5, 8, 11435)]
    assert run.taints() == ["server_restarted: nav-baseline-a1, describe-baseline: its process was PID 7, then 8"]


def test_processes_that_say_nothing(run: Run) -> None:
    # The live model is another process before A2: that is the trial's own doing.
    run.vram = [reading(10.5, 7, 11435), reading(70.5, 8, 11435)]
    # Other ports, readings outside of the session, and a card that tells no processes.
    run.vram += [reading(40.5, 77, 114370), reading(41.0, 78, 114370), reading(29.0, 66), reading(68.0, 99)]
    run.vram += [{"t_s": 45.0, "used_mib": None}, reading(46.0, 77), reading(47.0, 77)]
    assert run.taints() == []
    del run.plan["candidate"]["port"], run.plan["tenants"][0]["vram_process"]
    run.vram = [reading(10.5, 7), reading(20.5, 8), reading(30.5, 77), reading(60.5, 99)]
    assert run.taints() == []


def test_a_candidate_that_was_started_twice(run: Run) -> None:
    run.events.insert(2, ("candidate_started", {"pid": 78, "start_ticks": 9}))
    run.boots.append("b00t")
    assert run.taints() == ["server_restarted: the candidate was started 2 times"]


def test_a_reboot(run: Run) -> None:
    run.boots[-1] = "0ther"
    assert run.taints() == ["rebooted: the host was rebooted during the run"]


@pytest.mark.parametrize(
    ("stopped", "requested", "ended", "found"),
    [
        (None, 20, True, []),
        ("smoke", 20, True, []),
        ("thinking", 20, True, []),
        ("thinking", 100, True, ["cut short at 20 of 100 samples: a reply was thinking"]),
        ("server", 100, True, ["cut short at 20 of 100 samples: the server died or cannot be reached"]),
        ("time_limit", 100, True, ["cut short at 20 of 100 samples: its time limit was reached"]),
        ("signal", 100, True, ["cut short at 20 of 100 samples: ended by a signal"]),
        ("gate", 20, True, ["cut short at 20 of 20 samples: no answer at the hold point"]),
        ("busy", 100, True, ["cut short at 20 of 100 samples: other clients kept the server busy"]),
        (None, 100, True, ["cut short at 20 of 100 samples"]),
        (None, 20, False, ["cut short after 20 samples: the client did not end properly"]),
    ],
)
def test_what_is_cut_short(stopped: str | None, requested: int, ended: bool, found: list[str]) -> None:
    samples = [taken(seq, seq / 10) for seq in range(1, 21)]
    assert partial(samples, SegmentFacts("nav", requested, True, False, stopped, ended=ended)) == found


def test_a_server_that_stalls_or_slows_is_partial_by_name() -> None:
    facts = SegmentFacts("nav", 40, True, False)
    stalled = [taken(seq, float(seq)) for seq in range(1, 40)]
    stalled.append(taken(40, 40.0, ok=False, error_class="timeout", latency_ms=None, strategy=None))
    assert partial(stalled, facts) == ["stalled: 1 sample had no whole reply in time"]
    slow = [taken(seq, float(seq), latency_ms=20.0 if seq <= 20 else 90.0) for seq in range(1, 41)]
    assert partial(slow, facts) == ["slowed: its later replies took 4.5 times as long as its first ones"]


def test_a_sample_that_we_cut_off_is_not_counted_as_taken() -> None:
    cut = taken(2, 2.0, ok=False, error_class="cut_off", latency_ms=None, strategy=None)
    facts = SegmentFacts("nav", 100, True, False, "time_limit")
    assert partial([taken(1, 1.0), cut], facts) == ["cut short at 1 of 100 samples: its time limit was reached"]


def test_a_partial_run_is_partial_by_name_in_every_output(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.stopped["nav-candidate"] = "server"
    why = "nav-candidate: cut short at 20 of 20 samples: the server died or cannot be reached"
    assert run.summary()["partial"] == [why]
    decision = decide_folder(run.path)
    assert schemas.validate(decision, "verdict") == []
    assert f"partial: {why}" in decision["reasons"]
    assert decision["facts"]["partial"] == [why]
    assert main(["show", str(run.path)]) == 0
    assert f"PARTIAL {why}" in capsys.readouterr().out
    assert main(["verdict", str(run.path)]) == 0
    assert f"partial: {why}" in capsys.readouterr().out


@pytest.mark.prove
def test_ground_truth_and_judgment_by_the_command_line(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.plan |= {"workloads": {"nav_extended": 20}}
    run.events.insert(2, ("gate", {"name": "end", "ok": True, "band": "healthy", "footprint_gb": 6.0}))
    run.boots.append("b00t")
    folder = str(run.write())

    def verdict(*options: str) -> str:
        assert main(["verdict", folder, *options]) == 0
        return capsys.readouterr().out.splitlines()[0]

    assert verdict() == "PENDING_REVIEW"
    measured = (run.path / "samples" / "nav-candidate.jsonl").stat().st_mtime_ns
    assert verdict("--judge", "describe=better") == "ADOPT"
    assert verdict("--ground-truth", "missing") == "INCONCLUSIVE"
    # What was said once holds until something else is said.
    assert verdict("--ground-truth", "failed") == verdict("--judge", "describe=better") == "REJECT"
    assert verdict("--ground-truth", "passed") == "ADOPT"
    assert verdict("--judge", "describe=same") == verdict("--judge", "describe=worse") == "REJECT"
    assert verdict("--judge", "describe=better", "--ground-truth", "not_required") == "ADOPT"
    # Deciding again measures nothing again.
    assert (run.path / "samples" / "nav-candidate.jsonl").stat().st_mtime_ns == measured


def test_nothing_measured_is_no_taint() -> None:
    assert taints([], [], cache_prompt=False) == []
