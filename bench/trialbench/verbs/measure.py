"""The verbs that measure a server: `run`, `session`; `prompt` and `workloads` tell and check what is asked."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from trialbench.credentials import environment_key
from trialbench.files import read_text
from trialbench.options import Verbs, output, outputs, pairs, positive, server_url
from trialbench.show.terminal import say
from trialbench.verbs.select import add_options, measuring_client

_EXIT_CODES = (
    "exit codes: 0 all samples good, 2 wrong usage, 3 some samples failed or the result is partial, "
    "4 server broken or unreachable"
)


def add(verbs: Verbs) -> None:
    """Add the verbs `run`, `session`, `prompt` and `workloads`."""
    _add_run(verbs)
    session = verbs.add_parser("session", help="measure several segments, as the trial does", epilog=_EXIT_CODES)
    session.add_argument("file", type=Path, metavar="FILE.json", help="see `trialbench schema session`")
    session.set_defaults(verb=_session)
    prompt = verbs.add_parser("prompt", help="print the prompt that production's own source builds")
    prompt.add_argument("--source", required=True, type=Path, metavar="FILE.py", help="the extracted source")
    call = prompt.add_mutually_exclusive_group(required=True)
    call.add_argument("--call", help="one call, such as 'build_prompt(goal=\"x\")'; every user may read a command line")
    call.add_argument("--call-file", type=Path, metavar="FILE", help="a file that contains the call")
    call.add_argument(
        "--calls-file",
        type=Path,
        metavar="FILE.json",
        help="a JSON list of calls; prints a JSON list of their prompts",
    )
    prompt.set_defaults(verb=_prompt)
    workloads = verbs.add_parser("workloads", help="check the workloads of a trial's plan, before anything is stopped")
    workloads.add_argument("plan", metavar="PLAN.json", help="a plan; - reads standard input")
    workloads.set_defaults(verb=_workloads)


def _add_run(verbs: Verbs) -> None:
    run = verbs.add_parser("run", help="measure one workload on any OpenAI-compatible server", epilog=_EXIT_CODES)
    run.add_argument("--url", type=server_url, help="the server, such as http://127.0.0.1:11435")
    run.add_argument("--workload", required=True, metavar="FILE|NAME", help="a YAML file, or nav, describe")
    run.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a variable, or with a dot a field of the file"
    )
    run.add_argument("--image", type=Path, metavar="FILE", help="the image of the workload")
    run.add_argument(
        "--prompt-file", type=Path, metavar="FILE", help="set the variable prompt to this file's exact text"
    )
    run.add_argument(
        "--scenes", type=Path, metavar="FILE", help="the questions that the samples ask in turns: YAML, JSON or CSV"
    )
    run.add_argument(
        "--parser",
        metavar="FILE.py:FUNCTION",
        help="production's own function that reads a reply, in place of the workload's contract; its file is executed",
    )
    run.add_argument("-n", type=positive, help="how many samples (default: the workload's)")
    run.add_argument("--warmup", type=int, help="how many requests to send first and discard")
    run.add_argument("--out", type=output, metavar="FILE.jsonl", help="write each sample here when it arrives")
    run.add_argument("--summary", type=output, metavar="FILE.json", help="write the numbers here")
    run.add_argument("--cache-prompt", action="store_true", help="let the server reuse its prompt cache")
    run.add_argument("--stream", action="store_true", help="request a stream, which gives the time to first token")
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

    from trialbench.errors import UsageError
    from trialbench.files import write_json
    from trialbench.measure.client import ChatClient
    from trialbench.measure.progress import make_progress
    from trialbench.measure.segments import Runner, Segment
    from trialbench.measure.session import document, make_watch, run_signaled
    from trialbench.workloads import load_workload
    from trialbench.workloads.prompt import load_parser

    words = outputs({"--out": options.out, "--summary": options.summary})
    workload = load_workload(
        options.workload,
        settings=pairs(options.set, "--set", "KEY=VALUE"),
        image=options.image,
        prompt_file=options.prompt_file,
        scenes_file=options.scenes,
    )
    if options.parser is not None:
        source, colon, function = options.parser.rpartition(":")
        if not colon:
            raise UsageError(f"--parser {options.parser}: expected FILE.py:FUNCTION, found no colon")
        workload = workload.read_by(load_parser(Path(source), function))
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
    watch = make_watch(options.url, options.idle_wait_s, lambda: runner.signaled, api_key=api_key)
    runner = Runner(client, [segment], progress, neighbors=watch, limit_s=options.time_limit_s)
    try:
        run_signaled(runner)
    finally:
        progress.close()
        client.close()
        if watch is not None:
            watch.close()
    summary = document(runner, url=options.url, model_label=options.label)
    from trialbench.report.measured import segments_table

    say("\n".join([segments_table(runner.summaries(), runner.samples()), *runner.closing()]), words)
    if options.summary is not None:
        write_json(options.summary, summary)
    return runner.exit_code()


def _session(options: argparse.Namespace) -> int:
    from trialbench.measure.progress import PlainProgress
    from trialbench.measure.session import run_session

    # Standard output, where `docker logs` shows it in order.
    return run_session(options.file, PlainProgress(sys.stdout), api_key=environment_key())


def _prompt(options: argparse.Namespace) -> int:
    from trialbench.errors import UsageError
    from trialbench.files import read_json
    from trialbench.workloads.prompt import evaluate_prompt

    if options.calls_file is not None:
        calls = read_json(options.calls_file)
        if not isinstance(calls, list) or not all(isinstance(one, str) for one in calls):
            raise UsageError(f"{options.calls_file}: expected a list of calls, found something else")
        print(json.dumps([evaluate_prompt(options.source, one) for one in calls]))
        return 0
    call = options.call if options.call_file is None else read_text(options.call_file, "call").strip()
    # As bytes and without a line end of ours, so that the prompt arrives verbatim whatever the locale is.
    sys.stdout.flush()
    sys.stdout.buffer.write(evaluate_prompt(options.source, call).encode())
    sys.stdout.buffer.flush()
    return 0


def _workloads(options: argparse.Namespace) -> int:
    from trialbench.errors import UsageError
    from trialbench.files import read_json
    from trialbench.workloads.planned import problems

    plan = read_json(Path("/dev/stdin" if options.plan == "-" else options.plan))
    listed = plan.get("workloads") if isinstance(plan, dict) else None
    if not isinstance(listed, list):
        raise UsageError("expected a plan with a list of workloads, found none")
    # Only the host can count the right answers of its own scenes, and a rehearsal measures nothing.
    measured = str(plan.get("rehearsal")).lower() != "true"
    judged = measured and plan.get("accuracy_not_worse_by") is not None and not plan.get("scenes")
    found = "\n  ".join(problems(listed, labels=plan.get("labels") or (), judged=judged))
    if found:
        raise UsageError(
            f"expected workloads that a trial can send and whose replies it can read, found:\n  {found}\n"
            "Correct these files (trial_workloads, trial_scenes) and start again; no tenant was touched."
        )
    return 0
