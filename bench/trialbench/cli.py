"""The command `trialbench`. Each verb imports only what it needs, because start-up time counts in the trial."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from trialbench import __version__
from trialbench.engines.credentials import environment_key
from trialbench.errors import TrialbenchError, UsageError
from trialbench.options import positive
from trialbench.show.terminal import ended, say
from trialbench.verbs import oneshot, side_by_side
from trialbench.verbs.select import add_options, measuring_client

_EXIT_CODES = "exit codes: 0 all samples good, 2 wrong usage, 3 some samples failed, 4 server broken or unreachable"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code. Expected errors become a plain message on standard error."""
    parser = _parser()
    options = parser.parse_args(arguments)
    return ended("trialbench", lambda: options.verb(options))


_ABOUT = "Measures a language model where it would run, and says what the numbers allow."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trialbench", description=_ABOUT)
    parser.add_argument("--version", action="version", version=f"trialbench {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    _add_run(verbs)
    _add_session(verbs)
    _add_prompt(verbs)
    _add_hub(verbs)
    _add_report(verbs)
    _add_out(verbs)
    oneshot.add(verbs)
    side_by_side.add(verbs)
    for room, verb_module in _NOT_IN_THE_IMAGE.items():
        if importlib.util.find_spec(f"trialbench.{room}") is not None:
            importlib.import_module(f"trialbench.{verb_module}").add(verbs)
    for listed in verbs._choices_actions:
        # Who asks a verb for help reads first what the list of verbs says about it.
        verbs.choices[listed.dest].description = listed.help
    return parser


# Rooms that are not needed in the window, with the modules of their verbs. The bench image leaves them out
# (images/bench/build.py); the command then lacks these verbs.
_NOT_IN_THE_IMAGE = {"worker": "verbs.worker", "ground_truth": "ground_truth.cli"}
# A string, because the generic form of this class exists only for type checkers.
_Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_run(verbs: _Verbs) -> None:
    run = verbs.add_parser("run", help="measure one workload on any OpenAI-compatible server", epilog=_EXIT_CODES)
    run.add_argument("--url", help="the server, such as http://127.0.0.1:11435")
    run.add_argument("--workload", required=True, metavar="FILE|NAME", help="a YAML file, or nav, describe")
    run.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a variable, or with a dot a field of the file"
    )
    run.add_argument("--image", type=Path, metavar="FILE", help="the image of the workload")
    run.add_argument("--prompt-file", type=Path, metavar="FILE", help="the variable prompt, verbatim from this file")
    run.add_argument("-n", type=positive, help="how many samples (default: the workload's)")
    run.add_argument("--warmup", type=int, help="how many requests to send first and discard")
    run.add_argument("--out", type=Path, metavar="FILE.jsonl", help="write each sample here when it arrives")
    run.add_argument("--summary", type=Path, metavar="FILE.json", help="write the numbers here")
    run.add_argument("--cache-prompt", action="store_true", help="let the server reuse its prompt cache")
    run.add_argument("--stream", action="store_true", help="ask for a stream: gives the time to first token")
    run.add_argument("--model", help="model name to send, for servers that need it")
    run.add_argument(
        "--omit", action="append", default=[], metavar="FIELD", help="leave out a field the server refuses"
    )
    run.add_argument("--timeout-s", type=float, metavar="S", help="limit of one request")
    run.add_argument(
        "--time-limit-s",
        type=float,
        default=1800.0,
        metavar="S",
        help="limit of the whole run; a run that reaches it is partial, exit code 3 (default: %(default)g)",
    )
    run.add_argument(
        "--idle-wait-s",
        type=float,
        metavar="S",
        help="llama-server with other clients: send only while its slots are idle, wait at most S seconds in total",
    )
    run.add_argument("--label", help="name of the model in the summary")
    add_options(run, required=False, url=False)
    run.set_defaults(verb=_run)


def _run(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from trialbench.files import write_json
    from trialbench.measure.client import ChatClient
    from trialbench.measure.progress import make_progress
    from trialbench.measure.segments import Runner, Segment
    from trialbench.measure.session import document, make_watch, run_signalled
    from trialbench.workloads import load_workload

    workload = load_workload(
        options.workload, settings=_settings(options.set), image=options.image, prompt_file=options.prompt_file
    )
    if options.timeout_s is not None:
        workload = replace(workload, limits=replace(workload.limits, timeout_s=options.timeout_s))
    segment = Segment(
        id=workload.name,
        workload=workload,
        n=options.n or workload.n,
        path=options.out,
        warmup=workload.warmup if options.warmup is None else options.warmup,
        cache_prompt=options.cache_prompt,
    )
    api_key = environment_key()
    client = measuring_client(options) or ChatClient(
        options.url,
        stream=options.stream,
        model=options.model,
        omit=frozenset(options.omit),
        api_key=api_key,
    )
    progress = make_progress()
    watch = make_watch(options.url, options.idle_wait_s, lambda: runner.signalled, api_key=api_key)
    runner = Runner(client, [segment], progress, neighbours=watch, limit_s=options.time_limit_s)
    try:
        run_signalled(runner)
    finally:
        progress.close()
        client.close()
        if watch is not None:
            watch.close()
    summary = document(runner, url=options.url, model_label=options.label)
    if options.summary is not None:
        write_json(options.summary, summary)
    from trialbench.report.measured import segments_table

    say("\n".join([segments_table(runner.summaries(), runner.samples()), *runner.closing()]))
    return runner.exit_code()


def _add_session(verbs: _Verbs) -> None:
    session = verbs.add_parser("session", help="measure several segments, as the trial does", epilog=_EXIT_CODES)
    session.add_argument("file", type=Path, metavar="FILE.json", help="see `trialbench schema session`")
    session.set_defaults(verb=_session)


def _session(options: argparse.Namespace) -> int:
    from trialbench.measure.progress import PlainProgress
    from trialbench.measure.session import run_session

    # Standard output, where `docker logs` shows it in order.
    return run_session(options.file, PlainProgress(sys.stdout), api_key=environment_key())


def _add_prompt(verbs: _Verbs) -> None:
    prompt = verbs.add_parser("prompt", help="print the prompt that production's own source builds")
    prompt.add_argument("--source", required=True, type=Path, metavar="FILE.py", help="the extracted source")
    prompt.add_argument("--call", required=True, help="one call, such as 'build_prompt(goal=\"x\")'")
    prompt.set_defaults(verb=_prompt)


def _prompt(options: argparse.Namespace) -> int:
    from trialbench.workloads.prompt import evaluate_prompt

    # Without a line end, so that the prompt arrives verbatim.
    sys.stdout.write(evaluate_prompt(options.source, options.call))
    sys.stdout.flush()
    return 0


def _add_hub(verbs: _Verbs) -> None:
    fetch = verbs.add_parser("fetch", help="download model files at a pinned revision and check their hashes")
    fetch.add_argument("--repo", required=True, metavar="OWNER/NAME")
    fetch.add_argument("--revision", required=True, metavar="SHA", help="a full commit hash")
    fetch.add_argument("--include", required=True, action="append", metavar="PATTERN", help="which files; repeatable")
    fetch.add_argument("--dest", required=True, type=Path, metavar="DIR", help="where the files go")
    fetch.add_argument("--sha256", action="append", default=[], metavar="NAME=HEX", help="pinned hash; repeatable")
    fetch.set_defaults(verb=_fetch)
    pin = verbs.add_parser("pin", help="resolve revision, file hashes and image digest, and record them")
    pin.add_argument("--repo", required=True, metavar="OWNER/NAME")
    pin.add_argument("--revision", default="main", help="branch, tag or commit to pin (default: main)")
    pin.add_argument("--include", required=True, action="append", metavar="PATTERN", help="which files; repeatable")
    pin.add_argument("--image", metavar="REF", help="container image whose digest is pinned as well")
    pin.add_argument("--out", required=True, type=Path, metavar="FILE.yml")
    pin.set_defaults(verb=_pin)


def _fetch(options: argparse.Namespace) -> int:
    from trialbench.hub.fetch import fetch

    fetch(
        options.repo,
        revision=options.revision,
        include=options.include,
        dest=options.dest,
        sha256=_settings(options.sha256, option="--sha256", like="NAME=HEX"),
        tell=lambda text: say(text, sys.stdout),
    )
    return 0


def _pin(options: argparse.Namespace) -> int:
    from trialbench.hub.pin import pin

    pin(
        options.repo,
        revision=options.revision,
        include=options.include,
        image=options.image,
        out=options.out,
        tell=lambda text: say(text, sys.stdout),
    )
    return 0


def _add_report(verbs: _Verbs) -> None:
    summarize = verbs.add_parser("summarize", help="write summary.json of a result folder")
    summarize.add_argument("dir", type=Path, metavar="DIR")
    summarize.set_defaults(verb=_summarize)
    verdict = verbs.add_parser("verdict", help="decide and write verdict.json, without measuring again")
    verdict.add_argument("dir", type=Path, metavar="DIR")
    verdict.add_argument(
        "--judge",
        action="append",
        default=[],
        metavar="NAME=better|same|worse",
        help="a person's judgment of a workload that is shown, against the baseline; repeatable",
    )
    verdict.add_argument("--require", choices=["adopt"], help="exit 1 unless the verdict is ADOPT")
    verdict.add_argument("--adherence-rule", choices=["share", "proved"], help="default: the plan's, else share")
    verdict.add_argument(
        "--ground-truth",
        choices=["not_required", "passed", "failed", "missing"],
        help="require ground truth from now on, and give its result (missing: there is none yet)",
    )
    _add_proofs(verdict)
    verdict.set_defaults(verb=_verdict)
    show = verbs.add_parser("show", help="print a result folder as a readable table")
    show.add_argument("dir", type=Path, metavar="DIR")
    show.set_defaults(verb=_show)
    compare = verbs.add_parser("compare", help="print several runs side by side")
    compare.add_argument("dirs", type=Path, metavar="DIR", nargs="*")
    compare.add_argument(
        "--without", action="append", default=[], metavar="HOST=WHY", help="a host without results; repeatable"
    )
    compare.add_argument("--html", type=Path, metavar="FILE", help="also write an HTML page")
    compare.set_defaults(verb=_compare)
    report = verbs.add_parser("report", help="write report.html of a result folder, one self-contained file")
    report.add_argument("dir", type=Path, metavar="DIR")
    report.add_argument("--out", type=Path, metavar="FILE", help="default: DIR/report.html")
    _add_proofs(report)
    report.set_defaults(verb=_report)
    schema = verbs.add_parser("schema", help="print a published JSON schema")
    schema.add_argument("name", metavar="NAME", nargs="?", help="default: list the names")
    schema.set_defaults(verb=_schema)


def _add_proofs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--proofs",
        type=Path,
        metavar="FOLDER",
        help="first add these proofs (JSON of `trialbench proof`) to the run, as evidence next to the trial",
    )


def _take_proofs(options: argparse.Namespace) -> None:
    if options.proofs is not None:
        from trialbench.report.proofs import take_proofs
        from trialbench.report.run import read_run

        # Checked before anything is written: a folder that is not a run gets no proofs.
        read_run(options.dir)
        take_proofs(options.dir, options.proofs)


def _summarize(options: argparse.Namespace) -> int:
    from trialbench.report.summary import write_summary

    say("\n".join([str(write_summary(options.dir)), *_still_down(options.dir)]))
    return 0


def _still_down(folder: Path) -> list[str]:
    from trialbench.report.run import read_run
    from trialbench.report.windows import still_down, still_down_text

    return [still_down_text(entry) for entry in still_down(read_run(folder))]


def _verdict(options: argparse.Namespace) -> int:
    from trialbench.report.decide import decide_folder

    _take_proofs(options)
    decision = decide_folder(
        options.dir,
        judged=_settings(options.judge, option="--judge", like="NAME=better|same|worse"),
        adherence_rule=options.adherence_rule,
        ground_truth=options.ground_truth,
    )
    say(decision["verdict"])
    for line in [*decision["reasons"], *_still_down(options.dir)]:
        say(f"  {line}")
    if options.require is not None and decision["verdict"] != "ADOPT":
        raise TrialbenchError(f"expected the verdict ADOPT, found {decision['verdict']}: {decision['reasons'][0]}")
    return 0


def _show(options: argparse.Namespace) -> int:
    from trialbench.report.table import folder_table

    say(folder_table(options.dir))
    return 0


def _compare(options: argparse.Namespace) -> int:
    from trialbench.report.compare import compare_table

    without = list(_settings(options.without, option="--without", like="HOST=WHY").items())
    if not options.dirs and not without:
        raise UsageError("compare: expected result folders, found none")
    say(compare_table(options.dirs, without))
    if options.html is not None:
        from trialbench.report.html.comparison import write_comparison

        say(str(write_comparison(options.dirs, options.html, without)))
    return 0


def _report(options: argparse.Namespace) -> int:
    from trialbench.report.html.report import write_report

    _take_proofs(options)
    say(str(write_report(options.dir, options.out)))
    return 0


def _schema(options: argparse.Namespace) -> int:
    import json

    from trialbench import schemas

    if options.name is None:
        print("\n".join(schemas.names()))
    else:
        print(json.dumps(schemas.load(options.name), indent=2))
    return 0


def _add_out(verbs: _Verbs) -> None:
    documents = verbs.add_parser("documents", help="write a run into your own Markdown: research, registry, memory")
    documents.add_argument("dir", type=Path, metavar="DIR", help="a result folder with a verdict")
    documents.add_argument("--root", required=True, type=Path, metavar="DOCS", help="holds MEMORY.md and docs/")
    documents.add_argument("--research", metavar="FILE", help="the research document, relative to DOCS")
    documents.add_argument("--check", action="store_true", help="write nothing, print the diff")
    documents.add_argument("--diff", action="store_true", help="print the diff of what is written")
    documents.add_argument("--json", action="store_true", help="print one JSON line (`trialbench schema documents`)")
    documents.set_defaults(verb=_documents)
    export = verbs.add_parser("export", help="write a run for other tools: JUnit, CSV, OpenMetrics")
    export.add_argument("dir", type=Path, metavar="DIR")
    export.add_argument(
        "--format", action="append", choices=["junit", "csv", "openmetrics"], help="repeatable (default: all)"
    )
    export.set_defaults(verb=_export)


def _documents(options: argparse.Namespace) -> int:
    import json

    from trialbench.report.documents import RESEARCH, diff, told, write_documents

    research = options.research or RESEARCH
    found = write_documents(options.dir, options.root, check=options.check, research=research)
    # Ansible asks for diff and check separately; a person who checks wants to see the diff.
    shown = diff(found) if options.diff or (options.check and not options.json) else ""
    if options.json:
        print(json.dumps(told(found, shown, check=options.check)))
    else:
        say("\n".join([*([shown] if shown else []), *(one.line(check=options.check) for one in found)]))
    return 0


def _export(options: argparse.Namespace) -> int:
    from trialbench.report.export import write_exports

    say("\n".join(str(path) for path in write_exports(options.dir, options.format or [])))
    return 0


def _settings(pairs: list[str], *, option: str = "--set", like: str = "KEY=VALUE") -> dict[str, str]:
    settings = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise UsageError(f"{option}: expected {like}, found {pair!r}")
        settings[key] = value
    return settings
