"""A session: several segments in one process, described by one file. This is how the trial measures.

It is one process, because start-up time counts while the host's tenants are down. Everything slow (imports, reading
files, encoding the image) happens before the start file appears; after that there are only requests.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from trialbench import __version__, schemas
from trialbench.errors import UsageError
from trialbench.files import read_json, write_json
from trialbench.measure.client import ChatClient
from trialbench.measure.neighbors import Neighbors
from trialbench.measure.sample import wall_clock
from trialbench.measure.segments import HoldPoint, Progress, Runner, Segment
from trialbench.measure.summary import plain
from trialbench.urls import server
from trialbench.workloads import Workload, load_workload
from trialbench.workloads.prompt import load_parser


def run_session(path: Path, progress: Progress, *, api_key: str | None = None) -> int:
    """Run the session file `path` (`trialbench schema session`); returns the exit code.

    Writes `<id>.jsonl`, `<id>-warmup.jsonl`, `summary-<first id>.json` and, where the session asks for it,
    `calibration.json` into the session's `out_dir`.

    Raises:
        UsageError: the file or one of its workloads cannot be used; nothing was sent.
    """
    session = read_json(path)
    problems = schemas.validate(session, "session")
    if problems:
        raise UsageError(
            "the session does not fit its schema (see `trialbench schema session`):\n  "
            + "\n  ".join(f"{path}: {problem}" for problem in problems)
        )
    url = server(session["url"], f"{path}: url")
    if session.get("calibrate") is not None and url.startswith("https://"):
        raise UsageError(
            f"{path}: expected an http:// url with calibrate: it measures against a raw socket, found https://"
        )
    out_dir = Path(session["out_dir"])
    needs_control = session.get("start_file") or any(entry.get("gate_file") for entry in session["segments"])
    if needs_control and not session.get("control_dir"):
        raise UsageError(f"{path}: expected control_dir with start_file or gate_file, found none")
    loaded: dict[str, Workload] = {}
    segments = [_segment(entry, session, path, loaded) for entry in session["segments"]]
    twice = {segment.id for segment in segments if sum(other.id == segment.id for other in segments) > 1}
    if twice:
        raise UsageError(f"{path}: expected segment ids to differ, found twice: {', '.join(sorted(twice))}")
    if not out_dir.is_dir():
        raise UsageError(f"{out_dir}: out_dir is not a folder: make it, writable for this user, before the session")
    client = ChatClient(url, model=session.get("model"), stream=session.get("stream", False), api_key=api_key)
    watch = make_watch(url, session.get("idle_wait_s"), lambda: runner.signaled, api_key=api_key)
    runner = Runner(
        client,
        segments,
        progress,
        out_dir=out_dir,
        control_dir=Path(session["control_dir"]) if session.get("control_dir") else None,
        wait_s=session.get("wait_s", 120.0),
        neighbors=watch,
        limit_s=session.get("time_limit_s"),
    )

    def after() -> None:
        """Run the calibration once the segments are complete, unless the session was stopped."""
        if session.get("calibrate") is None or runner.stopped is not None:
            return
        from trialbench.measure import calibration

        found = calibration.calibrate(
            url,
            segments[0].workload,
            calibration.Calibration(**session["calibrate"]),
            model=session.get("model"),
            api_key=api_key,
            neighbors=watch,
            stopped=lambda: runner.signaled,
        )
        write_json(out_dir / "calibration.json", found)
        progress.note(calibration.line(found))

    run_signaled(runner, session.get("start_file"), after)
    client.close()
    if watch is not None:
        watch.close()
    summary = document(runner, url=url, model_label=session.get("model_label"))
    write_json(out_dir / f"summary-{segments[0].id}.json", summary)
    for line in runner.closing():
        progress.note(line)
    return runner.exit_code()


def make_watch(url: str, wait_s: float | None, stopped: Callable[[], bool], *, api_key: str | None) -> Neighbors | None:
    """The watch for the server's other clients; None if it was not requested."""
    if wait_s is None:
        return None
    from trialbench.engines.llama.slots import Slots

    return Neighbors(Slots(url, api_key=api_key), wait_s=wait_s, stopped=stopped)


def run_signaled(runner: Runner, start_file: str | None = None, after: Callable[[], None] = lambda: None) -> None:
    """Run, then call `after`; SIGTERM and SIGINT end both in order. Restores the old handlers."""

    def stop(_number: int, _frame: object) -> None:
        runner.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        if start_file:
            runner.wait_for_start(start_file)
        runner.run()
        after()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def document(runner: Runner, *, url: str, model_label: str | None) -> dict[str, Any]:
    """The summary of a session or a single run (`trialbench schema summary`)."""
    return {
        "format": 1,
        "trialbench": __version__,
        "created": wall_clock(),
        "url": url,
        "model_label": model_label,
        "stopped": runner.stopped,
        "exit_code": runner.exit_code(),
        "notes": runner.notes(),
        "segments": plain(runner.summaries()),
    }


def _segment(entry: dict[str, Any], session: dict[str, Any], path: Path, loaded: dict[str, Workload]) -> Segment:
    """One segment; relative names in the session are relative to its file. Segments share what is `loaded`."""
    hold = None
    if entry.get("gate_file"):
        extend_to = entry.get("extend_to", entry["n"])
        if extend_to < entry["n"]:
            raise UsageError(
                f"{path}: segment {entry['id']}: expected extend_to of at least n ({entry['n']}), found {extend_to}"
            )
        hold = HoldPoint(entry["gate_file"], extend_to)
    same = json.dumps([entry["workload"], entry.get("scenes"), entry.get("set")])
    if same not in loaded:
        loaded[same] = _workload(entry, session, path.parent)
    workload = loaded[same]
    return Segment(
        id=entry["id"],
        workload=workload,
        n=entry["n"],
        path=Path(session["out_dir"]) / f"{entry['id']}.jsonl",
        warmup=entry.get("warmup", 0),
        cache_prompt=entry.get("cache_prompt", False),
        smoke=entry.get("smoke", False),
        hold=hold,
        stop_on_thinking=entry.get("stop_on_thinking", False),
        time_limit_s=entry.get("time_limit_s"),
        rate_hz=entry.get("rate_hz"),
    )


def _workload(entry: dict[str, Any], session: dict[str, Any], base: Path) -> Workload:
    workload = load_workload(
        entry["workload"],
        settings=entry.get("set"),
        image=base / session["image"] if session.get("image") else None,
        prompt_file=base / session["prompt_file"] if session.get("prompt_file") else None,
        base=base,
        scenes_file=base / entry["scenes"] if entry.get("scenes") else None,
    )
    if session.get("parser") and workload.contract:
        workload = workload.read_by(load_parser(base / session["parser"]["source"], session["parser"]["function"]))
    if session.get("timeout_s"):
        workload = replace(workload, limits=replace(workload.limits, timeout_s=session["timeout_s"]))
    return workload
