"""The verbs `worker`, `config` and `proof`, and the program `trialbench-worker` that offers them on a host.

The program is what the zipapp of `trialbench.worker.pack` runs; it holds nothing of the measuring side.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from trialbench import __version__
from trialbench.options import Parser, Verbs, begun, output, outputs, positive
from trialbench.show.terminal import ended, say
from trialbench.verbs import oneshot
from trialbench.verbs.select import add_options, choose, find_config

_PROOF_CODES = "exit codes: 0 as expected, 1 not as expected, 2 wrong usage, 4 a server can't be started or reached"


def add(verbs: Verbs) -> None:
    """Add the verbs to the command line of `trialbench`."""
    _add_worker(verbs)
    _add_config(verbs)
    _add_proof(verbs)


def _add_worker(verbs: Verbs) -> None:
    worker = verbs.add_parser("worker", help="serve one engine over ND-JSON, on stdin/stdout or a Unix socket")
    worker.add_argument(
        "--socket",
        nargs="?",
        const="",
        metavar="PATH",
        help="listen on a Unix socket (mode 0600) instead of stdin/stdout; "
        "default path: $FAZAI_GEMMA_SOCKET, else unix_socket of the configuration",
    )
    worker.add_argument(
        "--status", action="store_true", help="print the status of the listening worker; exit code 0: it can answer"
    )
    worker.add_argument("--stdio", action="store_true", help="with --socket: serve stdin/stdout as well")
    add_options(worker, required=False)
    worker.set_defaults(verb=_worker)


def _worker(options: argparse.Namespace) -> int:
    if options.status:
        return _status(options)
    from trialbench.worker.build import dispatcher, stderr_log
    from trialbench.worker.protocol import Defaults
    from trialbench.worker.server import Server, UnixListener, claim_stdout, keep_stderr
    from trialbench.worker.service import Worker

    keep_stderr()
    choice = choose(options)
    for warning in choice.warnings:
        stderr_log("config", {"warning": warning})
    bounds = choice.settings.worker
    # First, so that a failure to make the engine leaves no socket behind.
    local = choice.make(None) if choice.settings.dispatcher.gemma_enabled else None
    listener = None
    try:
        if options.socket is not None:
            path = options.socket or os.environ.get("FAZAI_GEMMA_SOCKET") or str(bounds.unix_socket)
            listener = UnixListener(Path(path))
        stdio = (0, claim_stdout()) if listener is None or options.stdio else None
        # With all hashes, before the first request, so that wrong weights are detected now.
        probe = local.probe() if local is not None else None
        if probe is not None:
            stderr_log("probe", {"usable": probe.usable, "error": probe.failure.as_dict() if probe.failure else None})
        worker = Worker(
            dispatcher(choice.settings.dispatcher, local, log=stderr_log, patience=choice.settings.deadlines),
            limits=bounds.limits,
            defaults=Defaults(choice.settings.defaults),
            probe=probe,
            log=stderr_log,
        )
        Server(
            worker,
            listener=listener,
            stdio=stdio,
            max_line_bytes=bounds.max_line_bytes,
            send_timeout_s=bounds.send_timeout_s,
            log=stderr_log,
        ).run(bounds.stop_grace_s)
    finally:
        if listener is not None:
            listener.close()
        if local is not None:
            local.close()
    return 0


def _status(options: argparse.Namespace) -> int:
    """The status of the worker at the socket, for people, service checks and roles."""
    import json
    import socket

    from trialbench.config.fazai import load
    from trialbench.config.settings import DEFAULT_SOCKET
    from trialbench.errors import ServerError, UsageError

    path = options.socket or os.environ.get("FAZAI_GEMMA_SOCKET")
    if not path:
        options.engine = options.engine or "gemma-cpp"
        find_config(options)
        path = str(DEFAULT_SOCKET if options.config is None else load(options.config)[0].worker.unix_socket)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(10)
            connection.connect(path)
            connection.sendall(b'{"type":"status"}\n')
            with connection.makefile("rb") as stream:
                status = json.loads(stream.readline())
            backends = list(status["backends"].values())
    except OSError as error:
        raise UsageError(f"{path}: expected a worker that listens, found: {error.strerror or error}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ServerError(f"{path}: expected a worker's status, found something else: {error}") from error
    say(json.dumps(status, indent=2))
    return 0 if any(backend["healthy"] for backend in backends) else 1


def _add_config(verbs: Verbs) -> None:
    config = verbs.add_parser("config", help="check a fazai.conf")
    actions = config.add_subparsers(title="actions", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="list errors and unused entries of the file, with line numbers")
    check.add_argument("file", type=Path, metavar="FILE")
    check.add_argument("--strict", action="store_true", help="treat warnings as errors")
    check.set_defaults(verb=_config_check)


def _config_check(options: argparse.Namespace) -> int:
    from trialbench.config.fazai import check

    settings, warnings, errors = check(options.file)
    for warning in warnings:
        say(f"warning: {warning}")
    for error in errors:
        say(f"error: {error}")
    if errors or (warnings and options.strict):
        say(f"{options.file}: {len(errors)} errors, {len(warnings)} warnings", sys.stderr)
        return 2
    dispatcher = settings.dispatcher
    order = ", ".join(endpoint.name for endpoint in dispatcher.fallback) or "off"
    say(
        f"{options.file}: good; model {settings.gemma.model}, mode {dispatcher.mode}, fallback {order}, "
        f"socket {settings.worker.unix_socket}"
    )
    return 0


def _add_proof(verbs: Verbs) -> None:
    verb = verbs.add_parser("proof", help="prove that an engine starts, recovers and stops correctly")
    proofs = verb.add_subparsers(title="proofs", required=True, metavar="PROOF")
    about = {
        "cold-start": "load and a short streamed reply: latency, tokens per second, memory",
        "timeout-retry": "a deliberate stall: time to recovery, nothing lost or duplicated, fallback",
        "cancel": "cancel during the reply: time to quiet, nothing left, the next request works",
    }
    for name, text in about.items():
        proof = proofs.add_parser(name, help=text, description=text, epilog=_PROOF_CODES)
        proof.add_argument("-n", type=positive, help="how many times (default: depends on the proof)")
        proof.add_argument(
            "--expect",
            action="append",
            default=[],
            metavar="NAME=NUMBER",
            help="change the limit of a number; repeatable",
        )
        proof.add_argument(
            "--expect-any",
            action="append",
            default=[],
            metavar="NAME=NUMBER",
            help="like --expect, but ignored by a proof without that number",
        )
        proof.add_argument("--prompt", default="Count from one to one thousand.", help="the prompt")
        proof.add_argument("--max-tokens", type=positive, default=None, help="length of the reply")
        proof.add_argument("--json", type=output, metavar="FILE", help="write all numbers here")
        proof.add_argument("--junit", type=output, metavar="FILE", help="write JUnit XML here")
        proof.add_argument(
            "--launch",
            metavar="COMMAND",
            help="for servers: start one for the proof with this command line, and end it afterwards",
        )
        add_options(proof, required=False)
        proof.set_defaults(verb=_proof, proof=name)


def _proof(options: argparse.Namespace) -> int:
    from trialbench.files import write_atomic, write_json
    from trialbench.worker import proofs
    from trialbench.worker.proof import junit

    words = outputs({"--json": options.json, "--junit": options.junit})
    choice = choose(options)
    for warning in choice.warnings:
        say(f"trialbench: warning: {warning}", sys.stderr)
    proof = proofs.run(
        options.proof,
        choice,
        url=options.url,
        launch=options.launch,
        n=options.n,
        prompt=options.prompt,
        max_tokens=options.max_tokens,
        expect=options.expect,
        expect_any=options.expect_any,
    )
    say(proof.table(), words)
    if options.json is not None:
        write_json(options.json, proof.as_dict())
    if options.junit is not None:
        write_atomic(options.junit, junit([proof]))
    return 0 if proof.ok else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb of `trialbench-worker`; returns the exit code."""
    parser = Parser(prog="trialbench-worker", description="Serves one engine over ND-JSON.")
    parser.add_argument("--version", action="version", version=f"trialbench {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    add(verbs)
    oneshot.add(verbs)
    return ended("trialbench-worker", lambda: begun(parser, arguments))


if __name__ == "__main__":
    sys.exit(main())
