"""report.html and the page of `compare`, without a browser: what stands in them, and that strangers stay text."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from acting import acting
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup
from sample_lines import compared, made
from trialbench.cli import main
from trialbench.measure.summary import Request
from trialbench.report.comparison import Band
from trialbench.report.html import charts, described, hostcharts, provenance
from trialbench.report.html.clock import Clock
from trialbench.report.html.comparison import write_comparison
from trialbench.report.html.page import Page, page
from trialbench.report.html.report import report_html, write_report
from trialbench.report.journal import Event
from trialbench.report.plan import Workload
from trialbench.report.run import Reading, Run, make_segment, read_run
from trialbench.report.summary import summarize_run
from trialbench.report.telemetry import Joined, joined
from trialbench.show import figures, html, svg

KINDS = ("finished", "rich", "rehearsal", "rolled_back", "still_open", "partial", "untouched", "rebooted", "hostile")
NAV = Workload("nav")
VOID = {"meta", "link", "img", "br", "input", "hr", "path", "line", "rect", "circle"}


class Read(HTMLParser):
    """Text by element, attributes, and whether every element is closed in order."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID or tag in ("path", "line", "rect", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def of(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]

    @property
    def text(self) -> str:
        return " ".join(text for tag, text in self.texts if tag not in ("style", "script"))


def built(path: Path) -> Page:
    folder = read_run(path)
    return page(folder, summarize_run(folder), joined(folder))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# --- the whole page --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_run_has_a_page_that_is_whole_small_and_alone(kind: str, folders: ModuleType, tmp_path: Path) -> None:
    document = report_html(folders.ALL[kind](tmp_path / "run"))
    assert len(document.encode()) < 2_000_000
    found = Read(document)
    for tag, attributes in found.elements:
        refers = [
            value or "" for name, value in attributes.items() if name in ("src", "href", "action", "data", "poster")
        ]
        assert all(value.startswith(("#", "data:image/")) for value in refers), (tag, refers)
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "srcset", "srcdoc")]
    assert [tag for tag, _ in found.elements].count("script") == 1
    assert [tag for tag, _ in found.elements].count("style") == 1
    levels = [int(tag[1]) for tag, _ in found.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    names = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(names) == len(set(names))
    for tag, attributes in found.elements:
        for name in (attributes.get("aria-labelledby") or "").split():
            assert name in names, (tag, name)
    assert all("scope" in attributes for tag, attributes in found.elements if tag == "th")


@pytest.mark.parametrize("kind", ["rich", "rehearsal", "hostile"])
def test_charts_are_well_formed(kind: str, folders: ModuleType, tmp_path: Path) -> None:
    document = report_html(folders.ALL[kind](tmp_path / "run"))
    drawn = re.findall(r"<svg.*?</svg>", document, re.DOTALL)
    assert len(drawn) > 5
    for drawing in drawn:
        ET.fromstring(drawing)
    for number in re.findall(r' (?:x|y|x1|x2|y1|y2|cx|cy|width|height|r)="([^"]*)"', " ".join(drawn)):
        assert math.isfinite(float(number))


WORDS = {
    "finished": "PENDING REVIEW",
    "rehearsal": "REHEARSED",
    "rolled_back": "NOT DECIDED",
    "still_open": "HOST NOT BACK",
    "untouched": "NOTHING TOUCHED",
}


@pytest.mark.parametrize("kind", WORDS)
def test_the_word_on_top_says_how_it_stands(kind: str, folders: ModuleType, tmp_path: Path) -> None:
    found = built(folders.ALL[kind](tmp_path / "run"))
    assert found.word == WORDS[kind]
    assert found.reasons


@pytest.mark.parametrize(
    ("verdict", "kind"), [("ADOPT", "good"), ("REJECT", "bad"), ("INCONCLUSIVE", "warn"), ("PENDING_REVIEW", "wait")]
)
def test_each_verdict_has_a_word_a_color_and_a_sign(
    verdict: str, kind: str, folders: ModuleType, tmp_path: Path
) -> None:
    run = folders.finished(tmp_path / "run")
    change(run / "verdict.json", verdict=verdict, reasons=["because of `this`", "and that"])
    found = built(run)
    assert (found.word, found.kind) == (verdict.replace("_", " "), kind)
    assert found.sign
    read = Read(report_html(run))
    assert "because of" in read.text
    assert "this" in read.of("code")
    # First thing in the page's body, before any number.
    assert read.text.index("because of") < read.text.index("Numbers of this chart")


def test_a_failed_rehearsal_is_no_good_one(folders: ModuleType, tmp_path: Path) -> None:
    run = folders.rehearsal(tmp_path / "run")
    lines = (run / "journal.jsonl").read_text().splitlines()
    failed = json.loads(next(line for line in lines if '"drained"' in line)) | {
        "event": "phase_failed",
        "phase": "window",
        "reason": "VRAM did not drain",
    }
    (run / "journal.jsonl").write_text("\n".join([*lines[:-1], json.dumps(failed), lines[-1]]) + "\n")
    found = built(run)
    assert found.word == "REHEARSAL FAILED"
    assert found.failure == {"failed in": "window", "because": "VRAM did not drain"}
    assert "VRAM did not drain" in " ".join(found.reasons)


def test_what_failed_and_what_to_do_are_told(folders: ModuleType, tmp_path: Path) -> None:
    found = built(folders.rolled_back(tmp_path / "run"))
    assert found.failure == {
        "failed in": "candidate",
        "because": "the smoke test failed",
        "expected": "a reply",
        "found": "none",
        "what to do": "look at the logs",
    }
    assert any("trialbench verdict" in reason for reason in found.reasons)
    assert found.comparison is None
    assert found.comparison_notes == ["Not compared: no samples of B (nav-candidate), A2 (nav-baseline-a2)."]


def test_an_open_run_says_who_is_down(folders: ModuleType, tmp_path: Path) -> None:
    run = folders.still_open(tmp_path / "run")
    found = built(run)
    assert "chatterbox still down" in found.reasons[0]
    assert any("the newest restore failed" in reason for reason in found.reasons)
    assert [fact.value for fact in found.facts if fact.name == "mute"] == ["still"]
    assert "Not known to be restored." in found.restored
    assert found.checks == ()
    assert "The checks were not made." in Read(report_html(run)).text
    assert found.downtime is not None
    assert "still down" in str(found.downtime.wide)


def test_marks_are_named_before_the_numbers(folders: ModuleType, tmp_path: Path) -> None:
    run = folders.partial(tmp_path / "run")
    lines = [json.loads(line) for line in (run / "samples" / "nav-baseline-a1.jsonl").read_text().splitlines()]
    (run / "samples" / "nav-baseline-a1.jsonl").write_text(
        "".join(json.dumps(line | {"cache_n": 5}) + "\n" for line in lines)
    )
    journal = (run / "journal.jsonl").read_text()
    event = json.loads(journal.splitlines()[-1]) | {"event": "a2_skipped", "reason": "it was late"}
    (run / "journal.jsonl").write_text(journal + json.dumps(event) + "\n")
    found = {badge.name: badge.lines for badge in built(run).badges}
    assert list(found) == ["TAINTED", "PARTIAL", "NOISY", "NO A2"]
    assert "prompt cache" in found["TAINTED"][0]
    assert any(line.startswith("nav-candidate: ") for line in found["PARTIAL"])
    assert "latency" in found["NOISY"][0]
    assert "it was late" in found["NO A2"][0]
    text = Read(report_html(run)).text
    assert text.index("the numbers are tainted") < text.index("fits: ") < text.index("latency p50")
    badges = text[text.index("TAINTED") :]
    assert badges.index("PARTIAL") < badges.index("NOISY") < badges.index("Numbers")


def test_files_that_could_not_be_used_are_named(folders: ModuleType, tmp_path: Path) -> None:
    run = folders.finished(tmp_path / "run")
    with (run / "journal.jsonl").open("a") as journal:
        journal.write('{"torn')
    (run / "verification.json").write_text("[]")
    found = built(run)
    assert found.unread[0].startswith("1 line ")
    assert found.unread[1].startswith("could not be used: verification.json")
    assert "by the host itself" in found.checks_by
    assert len(found.checks) == 8


def test_what_the_clients_remarked_is_shown_once(folders: ModuleType, tmp_path: Path) -> None:
    run = folders.finished(tmp_path / "run")
    for name in ("nav-baseline-a1", "nav-baseline-a2"):
        change(run / "samples" / f"summary-{name}.json", notes=["the server's cache was replaced"])
    (run / "samples" / "summary-nav-baseline-tenants.json").write_text("[]")
    (run / "samples" / "summary-smoke-candidate.json").write_text("{")
    assert Read(report_html(run)).text.count("the server's cache was replaced") == 1


def test_numbers_that_are_missing_are_dashes(folders: ModuleType, tmp_path: Path) -> None:
    folder = read_run(folders.finished(tmp_path / "run"))
    summary = summarize_run(folder)
    one = replace(summary.comparisons[0], a2=None, ratio=None, band=None)
    found = page(folder, replace(summary, comparisons=[one]), {})
    assert found.comparison is not None
    assert found.comparison.rows[0][2:6] == ["10.3 ms", "10.8 / -", "-", "unknown"]
    bare = page(folder, replace(summary, comparisons=[]), {})
    assert (bare.comparison, bare.comparison_notes) == (None, ["Not compared."])


def test_a_run_in_which_nothing_is_remarkable(folders: ModuleType, tmp_path: Path) -> None:
    folder = read_run(folders.finished(tmp_path / "run"))
    segment = folder.segments["nav-candidate"]
    segment = replace(segment, summary=replace(segment.summary, outliers=[]))
    found = charts.timeline(charts.series(NAV, {"nav-candidate": segment}, {}))
    assert found is not None
    assert found.caption == "No flagged samples."
    assert found.table is None


def test_a_folder_with_samples_alone_has_a_page(folders: ModuleType, tmp_path: Path) -> None:
    run = folders.finished(tmp_path / "run")
    for name in ("journal.jsonl", "plan.json", "snapshot.json", "verdict.json", "verification.json", "vram.jsonl"):
        (run / name).unlink()
    found = built(run)
    assert found.title == "no plan found on an unknown host"
    assert found.timeline is not None
    assert found.memory is None
    assert found.downtime is None
    Read(report_html(run))


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_the_comparison_stands_in_table_and_chart(folders: ModuleType, tmp_path: Path) -> None:
    found = built(folders.finished(tmp_path / "run"))
    assert found.comparison is not None
    assert [row[0] for row in found.comparison.rows] == ["latency", "server's own time", "tokens per second"]
    first = found.comparison.rows[0]
    assert first[1:4] == ["19.6 ms", "10.3 ms", "10.8 / 9.0"]
    assert re.fullmatch(r"\d+ % slower, NOISY", first[6])
    assert found.ratios is not None
    assert "latency 1.9" in found.ratios.description
    assert found.ratios.wide != found.ratios.narrow


def test_ratios_of_all_shapes() -> None:
    assert charts.ratios([("x", compared(None))], title="t") is None
    rows = [
        ("plain", compared(1.1, 1.05, 1.2, band=Band(1.0, 0.9, 1.1, 10.0), finding="different")),
        ("bare", compared(0.5)),
        ("huge", compared(1e9, 1e8, 1e10, finding="not_shown")),
    ]
    found = charts.ratios(rows, title="t")
    assert found is not None
    assert "bare 0.50, not comparable" in found.description


def test_the_distribution_ends_at_all_samples(folders: ModuleType, tmp_path: Path) -> None:
    found = built(folders.rich(tmp_path / "run"))
    assert found.distribution is not None
    assert found.distribution.table is not None
    rows = {row[0]: row for row in found.distribution.table.rows}
    assert rows["B candidate"][1] == "98"
    assert rows["A1 baseline before"][4] == "10.8"


def test_long_segments_are_thinned_and_keep_what_is_remarkable() -> None:
    samples = [made(at, 1.0 * at, 5.0 + at % 7) for at in range(1, 3001)]
    samples[1233] = made(1234, 1234.0, None, ok=False, error_class="timeout")
    found = charts.series(
        NAV,
        {"nav-candidate": make_segment("nav-candidate", samples)},
        {"nav-candidate": {7: Joined(flags=["throttled"])}},
    )
    drawn = charts.timeline(found)
    assert drawn is not None
    assert "Long segments are thinned out" in drawn.caption
    assert "B 1234: - ms, failed: timeout" in str(drawn.wide)
    assert "throttled" in str(drawn.wide)
    assert str(drawn.wide).count("<title>B ") < 500
    assert len(str(charts.distribution(found).wide)) < 30_000
    assert drawn.table is not None
    assert ["B 1234", "-", "failed: timeout"] in drawn.table.rows


def test_more_kinds_of_flags_than_lanes_are_counted() -> None:
    samples = [replace(made(at, 1.0 * at, 5.0), flags=[f"flag {at}"]) for at in range(1, 211)]
    drawn = charts.timeline(charts.series(NAV, {"nav-candidate": make_segment("nav-candidate", samples)}, {}))
    assert drawn is not None
    assert "202 rarer flags without a lane" in drawn.caption
    assert drawn.table is not None
    assert "the first 200 of 210" in drawn.table.caption


def test_segments_in_which_every_sample_failed_have_no_charts() -> None:
    lost = make_segment("nav-candidate", [made(1, 1.0, None, ok=False, error_class="connect")])
    found = charts.series(NAV, {"nav-candidate": lost}, {})
    assert charts.timeline(found) is None
    assert charts.distribution(found) is None


# --- host ------------------------------------------------------------------------------------------------------------


def test_phases_gates_and_memory(folders: ModuleType, tmp_path: Path) -> None:
    folder = read_run(folders.finished(tmp_path / "run"))
    spans = hostcharts.phase_spans(folder, Clock(folder))
    assert [span.name for span in spans] == ["snapshot", "window", "candidate", "measure", "restore"]
    assert [span.number for span in spans] == [1, 2, 3, 4, 5]
    assert round(spans[-1].end - spans[-1].start, 1) == 10.1
    found = hostcharts.memory(folder, summarize_run(folder), Clock(folder))
    assert found is not None
    told = [key.text for key in found.keys]
    assert "snapshot 3.8 s" in told
    assert "gate start: 6.15 GB, healthy" in told
    assert "healthy band: 5.5-7.5 GB above the drained level" in told
    assert found.table is not None
    assert next(row for row in found.table.rows if row[0] == "measure")[3:] == ["10.37", "10.37"]


def test_a_phase_that_did_not_end_lasts_to_the_end_of_the_journal(folders: ModuleType, tmp_path: Path) -> None:
    folder = read_run(folders.still_open(tmp_path / "run"))
    restore = hostcharts.phase_spans(folder, Clock(folder))[-1]
    assert (restore.name, restore.ok) == ("restore", False)
    assert restore.end == Clock(folder).event(folder.journal[-1])


def test_memory_without_bands_gates_or_a_drained_level(folders: ModuleType, tmp_path: Path) -> None:
    run = folders.finished(tmp_path / "run")
    change(run / "plan.json", bands={})
    kept = [line for line in (run / "journal.jsonl").read_text().splitlines() if '"drained"' not in line]
    (run / "journal.jsonl").write_text("\n".join(kept) + "\n")
    folder = read_run(run)
    found = hostcharts.memory(folder, summarize_run(folder), Clock(folder))
    assert found is not None
    assert not [key for key in found.keys if "healthy band" in key.text]


def test_the_series_keeps_its_peaks_when_it_is_thinned() -> None:
    points = [(at / 10, 5.0) for at in range(20_000)]
    points[7777] = (777.7, 9.0)
    x, y = svg.Scale(0, 2000, 0, 500), svg.Scale(0, 10, 100, 0)
    steps = hostcharts._step_path(points, x, y)
    assert f"V{y(9.0):.1f}" in steps
    assert len(steps) < 40_000


def test_telemetry_is_drawn_where_it_was_recorded(folders: ModuleType, tmp_path: Path) -> None:
    found = built(folders.rich(tmp_path / "run"))
    assert found.telemetry is not None
    assert "temperature" in found.telemetry.description
    assert "hw_thermal_slowdown" in found.telemetry.caption
    assert "gpu_idle" not in found.telemetry.caption
    assert found.telemetry_table is not None
    rows = {row[0]: row for row in found.telemetry_table.rows}
    assert rows["nav-candidate"][1] == "1185 - 2263 - 2499"
    assert rows["smoke-candidate"][1] == "1090"
    plain = built(folders.finished(tmp_path / "plain"))
    assert plain.telemetry is None
    assert plain.telemetry_table is None
    assert plain.telemetry_why


def test_downtime_by_tenant_and_impact(folders: ModuleType, tmp_path: Path) -> None:
    folder = read_run(folders.finished(tmp_path / "run"))
    clock = Clock(folder)
    found = hostcharts.downs(folder, clock)
    assert [(down.tenant, down.impact) for down in found] == [("chatterbox", "mute"), ("panda-llamacpp", "blind")]
    drawn = hostcharts.downtime(folder, clock)
    assert drawn is not None
    assert drawn.description == "mute for 18.5 s; blind for 12.8 s"
    assert "panda-nav: not stopped" in str(drawn.wide)
    assert drawn.table is not None
    assert drawn.table.rows[0] == ["chatterbox", "mute", "5.6", "0.2", "1.4", "18.5"]


def test_a_reboot_goes_on_where_the_wall_clock_says(folders: ModuleType, tmp_path: Path) -> None:
    before = read_run(folders.finished(tmp_path / "before"))
    after = read_run(folders.rebooted(tmp_path / "after"))
    then, now = Clock(before), Clock(after)
    assert now.event(after.journal[-1]) == pytest.approx(then.event(before.journal[-1]), abs=0.01)
    assert now.series(after.readings) == pytest.approx(then.series(before.readings), abs=0.01)


def test_a_reboot_without_a_usable_wall_clock_goes_on_where_the_first_boot_ended() -> None:
    events = [Event("gate", t_s, boot, "?") for boot, t_s in (("a", 100.0), ("a", 110.0), ("b", 3.0))]
    clock = Clock(Run(Path(), journal=events))
    assert [clock.event(event) for event in events] == [0.0, 10.0, 10.0]
    assert Clock(Run(Path())).series([Reading(4.0)]) == [4.0]


# --- describe --------------------------------------------------------------------------------------------------------


def test_replies_are_counted_and_the_command_names_the_folder(
    folders: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = folders.rich(tmp_path / "a run")
    monkeypatch.chdir(tmp_path)
    [found] = described.shown(read_run(run))
    assert [reply.count for reply in found.baseline] == [3, 2]
    assert found.question == "Describe what you see."
    assert found.command == "trialbench verdict 'a run' --judge describe=better"
    assert found.judged is None
    assert described.shown(read_run(folders.untouched(tmp_path / "none"))) == []
    link = tmp_path / "latest"
    link.symlink_to(run)
    monkeypatch.chdir(tmp_path / "none")
    assert described.command_path(link) == f"'{run}'"


def test_a_judgment_and_the_users_own_question_are_shown(folders: ModuleType, tmp_path: Path) -> None:
    run = folders.finished(tmp_path / "run")
    assert main(["verdict", str(run), "--judge", "describe=worse"]) == 0
    change(run / "plan.json", workload_texts={"describe": "messages: [{role: user, content: 'What is there?'}]"})
    text = Read(report_html(run)).text
    assert "A person judged the candidate worse" in text
    assert "What is there?" in text
    for broken in ("messages: 3", "[", "messages: [{role: user}]", "messages: [3]"):
        change(run / "plan.json", workload_texts={"describe": broken})
        [found] = described.shown(read_run(run))
        assert found.question == ""


def test_replies_that_failed_say_why_and_too_many_are_counted(folders: ModuleType, tmp_path: Path) -> None:
    run = folders.finished(tmp_path / "run")
    path = run / "samples" / "describe-candidate.jsonl"
    line = json.loads(path.read_text().splitlines()[0])
    failed = line | {"ok": False, "error_class": "empty", "error_detail": None, "content": None}
    path.write_text(
        "".join(json.dumps(one) + "\n" for one in [failed, *({**line, "content": str(at)} for at in range(20))])
    )
    [found] = described.shown(read_run(run))
    assert found.candidate[0].trouble == "empty: no valid reply"
    assert found.hidden == 9
    text = Read(report_html(run)).text
    assert "9 more different replies" in text
    assert "1 of 21 replies" in text


def test_a_picture_that_is_none_or_too_large_is_not_carried(folders: ModuleType, tmp_path: Path) -> None:
    run = folders.finished(tmp_path / "run")
    camera = run / "inputs" / "camera.jpg"
    good = described.picture(camera)
    assert good.uri.startswith("data:image/jpeg;base64,/9j/")
    assert good.uri in report_html(run)
    camera.write_bytes(b"\xff\xd8\xff" + bytes(described.MAX_IMAGE_BYTES))
    assert "too large" in described.picture(camera).why
    camera.write_bytes(b"<svg onload=alert(1)>")
    assert "not a JPEG" in described.picture(camera).why
    camera.unlink()
    assert "holds no camera image" in Read(report_html(run)).text


# --- provenance ------------------------------------------------------------------------------------------------------


def test_where_the_numbers_come_from(folders: ModuleType, tmp_path: Path) -> None:
    folder = folders.rich(tmp_path / "run")
    run = read_run(folder)
    summary = summarize_run(run)
    mode = {"n": 40, "ours_p50_ms": 1.1, "raw_p50_ms": 1.0, "ratio": 1.1, "ratio_low": 1.0, "ratio_high": 1.2}
    asked = Request("b" * 64, None, None, ["tiny.gguf"])
    candidate = replace(summary.segments["nav-candidate"], request=asked)
    summary = replace(
        summary,
        calibration={"format": 1, "modes": {"plain": mode}},
        segments={**summary.segments, "nav-candidate": candidate},
    )
    segment = replace(run.segments["nav-candidate"], summary=candidate)
    run = replace(run, segments={**run.segments, "nav-candidate": segment})
    groups = {
        group.name: dict(group.rows)
        for group in provenance.provenance(run, summary, described.picture(folder / "inputs" / "camera.jpg"))
    }
    assert groups["Candidate"]["flags of llama-server"] == "-ngl 99 -c 4096 -np 1 -fit off -t 1"
    assert groups["Candidate"]["file candidate-f16.gguf"].startswith("sha256 473fb5")
    assert groups["Candidate"]["says it is"] == "tiny.gguf"
    assert groups["Baseline"]["command"].startswith("/usr/bin/llama-server --host 127.0.0.1")
    assert len(groups["Asked"]["prompt"]) == len("sha256 ") + 64
    assert groups["Asked"]["request of nav-candidate"] == "sha256 " + "b" * 64
    assert (
        groups["Calibration"]["client, plain"]
        == "p50 1.1 ms against 1.0 ms of a raw socket, ratio 1.10 [1.00, 1.20] (n=40)"
    )
    assert groups["Host"]["driver"] == "580.95.05"
    assert groups["Host"]["kernel"] == "6.8.0-88-generic"
    assert groups["Run"]["to repeat"] == "ansible-playbook benchmark-e4b.yml -i INVENTORY"


# --- strangers -------------------------------------------------------------------------------------------------------


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_no_text_acts_in_a_page(text: str) -> None:
    shown = str(html.prose(text))
    assert not re.search(r"<(?!/?code>)", shown)
    assert acting(shown) == []
    shown.encode()
    drawn = str(svg.element("text", text, x=1.0, class_=text))
    # XML holds neither; the page is HTML.
    ET.fromstring(re.sub("[\ufffe\uffff]", "", drawn))
    assert figures.text(0, 0, f"x{text}").count("<") == 2


@pytest.mark.prove
def test_the_hostile_run_is_one_that_is_read_and_shown(folders: ModuleType, tmp_path: Path) -> None:
    """Or it would show nothing: what does not fit its schema is left out."""
    run = folders.hostile(tmp_path / "run")
    folder = read_run(run)
    assert (folder.unread, folder.bad_lines) == ([], 0)
    read = Read(report_html(run))
    for tag in ("h1", "blockquote", "dd", "dt", "li", "td", "b", "text", "desc", "span"):
        # A chart's label has lost its middle.
        assert any(("</script>" if tag == "text" else "<script>do") in text for text in read.of(tag)), tag
    assert "document.title='owned'" not in read.of("script")


def test_texts_without_end_are_cut_and_markup_is_left() -> None:
    assert len(html.shown("x" * 10_000_000)) < 5000
    assert len(html.shown("\x00" * 10_000_000)) < 20_000
    assert len(html.brief("x" * 1000)) == 200
    # Names differ at their end.
    assert html.brief("x" * 1000 + "-Q4") != html.brief("x" * 1000 + "-Q5")
    assert html.brief(Markup("<b>")) == "<b>"
    assert html.shown(Markup("<b>")) == "<b>"
    assert html.prose("a `b` c") == "a <code>b</code> c"
    assert html.prose("a `b c") == "a `b c"


@pytest.mark.prove
def test_a_page_that_grows_too_large_is_made_again_with_less(
    folders: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = folders.hostile(tmp_path / "run")
    whole = len(report_html(run))
    monkeypatch.setattr("trialbench.report.html.report.MAX_BYTES", whole // 2)
    assert len(report_html(run)) < whole


# --- drawing ---------------------------------------------------------------------------------------------------------


def test_scales_clip_and_have_round_ticks() -> None:
    scale = svg.Scale(0, 10, 100, 200)
    assert [scale(-5), scale(5), scale(50)] == [100, 150, 200]
    assert scale.ticks(5) == [0, 2, 4, 6, 8, 10]
    assert svg.Scale(1, 1000, 0, 3, logarithmic=True)(10) == pytest.approx(1)
    assert svg.Scale(1, 1000, 0, 3, logarithmic=True).ticks(4) == [1, 10, 100, 1000]
    assert svg.Scale(1, 1e9, 0, 3, logarithmic=True).ticks(3) == [1, 1e4, 1e8]
    assert svg.Scale(7.1, 7.2, 0, 3, logarithmic=True).ticks(3) == [7.1, 7.2]
    assert svg.Scale(3, 3, 0, 10).ticks(5) == [3]
    assert svg.Scale(3, 3, 0, 10)(3) == 5


@given(st.lists(st.floats(-1e12, 1e12), max_size=20), st.booleans())
def test_a_scale_holds_its_values(values: list[float], zero: bool) -> None:
    scale = svg.value_scale(values, 0, 100, zero=zero)
    assert scale.low < scale.high
    assert all(scale.low <= value <= scale.high for value in values)
    assert 1 <= len(scale.ticks(5)) <= 14
    assert svg.coordinate(float("nan")) == "0"


@pytest.mark.parametrize("kind", ["dot", "ring", "square", "triangle", "diamond", "cross"])
def test_marks_differ_by_shape(kind: str) -> None:
    shapes = {one: str(svg.symbol(one, 5, 5)) for one in ("dot", "ring", "square", "triangle", "diamond", "cross")}
    assert list(shapes.values()).count(shapes[kind]) == 1
    assert "<title>a &amp; b</title>" in svg.symbol(kind, 5, 5, note="a & b")


def test_numbers_beyond_thousands_stay_short() -> None:
    assert [svg.tick_text(value) for value in (0.5, 10.0, 12000.0)] == ["0.5", "10", "12000"]


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.prove
def test_the_command_writes_beside_the_run_or_elsewhere(
    folders: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folders.finished(tmp_path / "run")
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    out = tmp_path / "other.html"
    assert main(["report", str(run), "--out", str(out)]) == 0
    assert Read(out.read_text()).of("h1") == Read((run / "report.html").read_text()).of("h1")
    assert main(["report", str(tmp_path / "nothing")]) == 2
    assert "expected a result folder" in capsys.readouterr().err
    assert main(["report", str(run), "--out", str(tmp_path / "no" / "where.html")]) == 2
    # A page is no part of a run: it may be written again, and changes nothing that is read.
    before = replace(summarize_run(read_run(run)), created="")
    write_report(run)
    assert replace(summarize_run(read_run(run)), created="") == before


def test_compare_writes_the_same_as_a_page(
    folders: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [folders.ALL[kind](tmp_path / kind) for kind in ("finished", "rich", "rehearsal", "rolled_back")]
    write_report(runs[0])
    out = tmp_path / "compare.html"
    command = ["compare", *map(str, runs), "--without", "gone=<i>not begun</i>", "--html", str(out)]
    assert main(command) == 0
    assert str(out) in capsys.readouterr().out
    document = out.read_text()
    read = Read(document)
    assert [attributes["href"] for tag, attributes in read.elements if tag == "a"] == ["#main", "finished/report.html"]
    assert "<i>not begun</i>" in read.text
    assert "no results" in read.text
    assert "Latency against the baseline" in read.text
    assert "Median latency" in read.text
    assert read.text.count("PENDING REVIEW") == 2
    assert "candidate: the smoke test failed" in read.text


def test_compare_of_runs_without_numbers_has_no_charts(folders: ModuleType, tmp_path: Path) -> None:
    out = write_comparison([folders.rehearsal(tmp_path / "run"), tmp_path / "none"], tmp_path / "compare.html")
    assert "<figure" not in out.read_text()
    alone = write_comparison([tmp_path / "run"], tmp_path / "alone.html")
    assert Read(alone.read_text()).of("title")[0] == "1 run side by side"


def test_a_page_that_is_printed_links_reports_by_their_whole_path(
    folders: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = folders.finished(tmp_path / "run")
    (run / "report.html").write_text("there")
    assert main(["compare", str(run), "--html", "-"]) == 0
    assert f'href="{tmp_path}/run/report.html"' in capfd.readouterr().out


def test_hosts_that_differ_behind_a_long_name_are_told_apart_in_charts(folders: ModuleType, tmp_path: Path) -> None:
    runs = []
    for end in "ab":
        run = folders.finished(tmp_path / end)
        plan = json.loads((run / "plan.json").read_text())
        plan["host"] = f"{'node.' * 60}{end}"
        (run / "plan.json").write_text(json.dumps(plan))
        runs.append(run)
    document = write_comparison(runs, tmp_path / "compare.html").read_text()
    labels = re.findall(r'<text[^>]*class="t strong"[^>]*>([^<]*)', document)
    assert len(labels) == 8
    assert all(
        one.partition(":")[0] != other.partition(":")[0] for one, other in zip(labels[::2], labels[1::2], strict=True)
    )


@pytest.mark.parametrize(
    ("runs", "hosts", "said"),
    [
        (310, 0, "10 more were left out"),
        (301, 0, "1 more was left out"),
        (1, 301, "1 more was left out"),
        (2, 2, "1 GB is 1024 MiB</caption>"),
    ],
)
def test_more_runs_than_anybody_reads_are_left_out(tmp_path: Path, runs: int, hosts: int, said: str) -> None:
    without = [(f"host {at}", "no reason") for at in range(hosts)]
    out = write_comparison([tmp_path / str(at) for at in range(runs)], tmp_path / "compare.html", without)
    assert said in out.read_text()
